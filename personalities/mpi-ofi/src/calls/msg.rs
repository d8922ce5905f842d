//! Messages without tags.

use std::ffi::c_void;

use crate::abi::flag::*;
use crate::abi::message::{IoVec, Msg};
use crate::abi::object::{FidEp, MsgOps};
use crate::abi::FiAddr;
use crate::boundary::guarded;
use crate::calls::{order, piece, wish, with_pieces};
use crate::object::Object;
use crate::receive::Wish;
use crate::send::Order;
use crate::state::State;

pub(crate) static OPS: MsgOps = MsgOps {
    size: size_of::<MsgOps>(),
    recv,
    recvv,
    recvmsg,
    send,
    sendv,
    sendmsg,
    inject,
    senddata,
    injectdata,
};

/// Flags of sends; others are refused rather than ignored.
const SEND_FLAGS: u64 = COMPLETION
    | INJECT
    | INJECT_COMPLETE
    | TRANSMIT_COMPLETE
    | DELIVERY_COMPLETE
    | MATCH_COMPLETE
    | REMOTE_CQ_DATA
    | MORE;
/// Flags of receives.
const RECEIVE_FLAGS: u64 = COMPLETION | MULTI_RECV | MORE;
/// Those of receives with tags.
const TAGGED_RECEIVE_FLAGS: u64 = COMPLETION | MORE | PEEK | CLAIM | DISCARD;

/// Starts a send. Flags that are not given are those of the endpoint.
///
/// # Safety
/// `ep` is an open endpoint; the memory of `order` is valid until the operation ends.
pub(crate) unsafe fn start(ep: *mut FidEp, mut order: Order<'_>, flags: Option<u64>) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidEp>::of(ep) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let endpoint = endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
    order.flags |= flags.unwrap_or(endpoint.tx.op_flags);
    if order.flags & !SEND_FLAGS != 0 {
        return Err(libc::EINVAL);
    }
    endpoint.send(vectors, reports, &order).map(|()| 0)
}

/// Starts a receive.
///
/// # Safety
/// As [`start`].
pub(crate) unsafe fn start_receive(
    ep: *mut FidEp,
    mut wish: Wish<'_>,
    flags: Option<u64>,
) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidEp>::of(ep) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let endpoint = endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
    wish.flags = flags.unwrap_or(endpoint.rx.op_flags);
    let known = if wish.tag.is_some() { TAGGED_RECEIVE_FLAGS } else { RECEIVE_FLAGS };
    // The default of an endpoint may be meant for the other kind of messages.
    if flags.is_none() {
        wish.flags &= known;
    }
    if wish.flags & !known != 0 {
        return Err(libc::EINVAL);
    }
    endpoint.receive(vectors, reports, &wish).map(|()| 0)
}

unsafe extern "C" fn recv(
    ep: *mut FidEp,
    buf: *mut c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_receive(ep, wish(&[piece(buf, len)?], peer, None, context), None) })
}

unsafe extern "C" fn recvv(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        with_pieces(iov, count, |iov| start_receive(ep, wish(iov, peer, None, context), None))
    })
}

unsafe extern "C" fn recvmsg(ep: *mut FidEp, msg: *const Msg, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        with_pieces(msg.iov, msg.iov_count, |iov| {
            start_receive(ep, wish(iov, msg.addr, None, msg.context), Some(flags))
        })
    })
}

unsafe extern "C" fn send(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, order(&[piece(buf, len)?], peer, None, context), None) })
}

unsafe extern "C" fn sendv(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { with_pieces(iov, count, |iov| start(ep, order(iov, peer, None, context), None)) })
}

unsafe extern "C" fn sendmsg(ep: *mut FidEp, msg: *const Msg, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        let data = (flags & REMOTE_CQ_DATA != 0).then_some(msg.data);
        with_pieces(msg.iov, msg.iov_count, |iov| {
            start(ep, Order { data, ..order(iov, msg.addr, None, msg.context) }, Some(flags))
        })
    })
}

unsafe extern "C" fn inject(ep: *mut FidEp, buf: *const c_void, len: usize, peer: FiAddr) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let iov = [piece(buf, len)?];
        let order = order(&iov, peer, None, std::ptr::null_mut());
        start(ep, Order { silent: true, ..order }, Some(INJECT))
    })
}

unsafe extern "C" fn senddata(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    _desc: *mut c_void,
    data: u64,
    peer: FiAddr,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start(ep, Order { data: Some(data), ..order(&[piece(buf, len)?], peer, None, context) }, None)
    })
}

unsafe extern "C" fn injectdata(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    data: u64,
    peer: FiAddr,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let iov = [piece(buf, len)?];
        let order = order(&iov, peer, None, std::ptr::null_mut());
        start(ep, Order { data: Some(data), silent: true, ..order }, Some(INJECT))
    })
}
