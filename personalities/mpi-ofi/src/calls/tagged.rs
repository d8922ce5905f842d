//! Messages with tags.

use std::ffi::c_void;

use gridnet::core::matching::Slab;
use gridnet::core::mem::Iov;
use gridnet::core::ring::slot::BODY_BYTES;

use crate::abi::flag::{INJECT, REMOTE_CQ_DATA};
use crate::abi::message::{IoVec, MsgTagged};
use crate::abi::object::{FidEp, TaggedOps};
use crate::abi::FiAddr;
use crate::addresses::Addresses;
use crate::boundary::guarded;
use crate::calls::msg::{start, start_receive};
use crate::calls::{order, piece, wish, with_pieces};
use crate::endpoint::Endpoint;
use crate::object::Object;
use crate::quick::Small;
use crate::send::Order;
use crate::state::{Reports, State};

pub(crate) static OPS: TaggedOps = TaggedOps {
    size: size_of::<TaggedOps>(),
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

// The short ways run without the net of `guarded`, which costs as much again as what they do: nothing in them panics.

/// Does something with an endpoint and the memory of one piece by a short way; false when that cannot be done.
///
/// # Safety
/// `ep` is an open endpoint, `buf` valid for `len` bytes until the operation ends.
#[inline(always)]
unsafe fn quickly(
    ep: *mut FidEp,
    (buf, len): (*const c_void, usize),
    most: usize,
    way: impl FnOnce(&mut Endpoint, &Slab<Addresses>, &mut Reports, Iov) -> bool,
) -> bool {
    // SAFETY: the caller's promise.
    let Ok(object) = (unsafe { Object::<FidEp>::of(ep) }) else { return false };
    if buf.is_null() || len > most {
        return false;
    }
    // SAFETY: the caller's promise.
    let memory = unsafe { Iov::new(buf.cast_mut().cast(), len) };
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    endpoints.get_mut(object.key).is_some_and(|endpoint| way(endpoint, vectors, reports, memory))
}

/// Sends by the short way; false when that cannot be done.
///
/// # Safety
/// As [`quickly`].
#[inline(always)]
unsafe fn send_small(
    ep: *mut FidEp,
    memory: (*const c_void, usize),
    (peer, tag, data): (FiAddr, u64, Option<u64>),
    context: Option<*mut c_void>,
) -> bool {
    let way = |endpoint: &mut Endpoint, vectors: &Slab<Addresses>, reports: &mut Reports, message| {
        let (silent, context) = (context.is_none(), context.map_or(0, |context| context as usize));
        endpoint.send_small(vectors, reports, &Small { message, peer, tag, ignore: 0, data, context, silent })
    };
    // SAFETY: the caller's promise.
    unsafe { quickly(ep, memory, BODY_BYTES, way) }
}

unsafe extern "C" fn recv(
    ep: *mut FidEp,
    buf: *mut c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> isize {
    let way = |endpoint: &mut Endpoint, vectors: &Slab<Addresses>, reports: &mut Reports, message| {
        let context = context as usize;
        let small = Small { message, peer, tag, ignore, data: None, context, silent: false };
        endpoint.receive_small(vectors, reports, &small)
    };
    // SAFETY: libfabric's promise.
    if unsafe { quickly(ep, (buf, len), isize::MAX as usize, way) } {
        return 0;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start_receive(ep, wish(&[piece(buf, len)?], peer, Some((tag, ignore)), context), None)
    })
}

unsafe extern "C" fn recvv(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        with_pieces(iov, count, |iov| start_receive(ep, wish(iov, peer, Some((tag, ignore)), context), None))
    })
}

unsafe extern "C" fn recvmsg(ep: *mut FidEp, msg: *const MsgTagged, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        let tag = (msg.tag, msg.ignore);
        with_pieces(msg.iov, msg.iov_count, |iov| {
            start_receive(ep, wish(iov, msg.addr, Some(tag), msg.context), Some(flags))
        })
    })
}

unsafe extern "C" fn send(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    tag: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    if unsafe { send_small(ep, (buf, len), (peer, tag, None), Some(context)) } {
        return 0;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, order(&[piece(buf, len)?], peer, Some(tag), context), None) })
}

unsafe extern "C" fn sendv(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    tag: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        with_pieces(iov, count, |iov| start(ep, order(iov, peer, Some(tag), context), None))
    })
}

unsafe extern "C" fn sendmsg(ep: *mut FidEp, msg: *const MsgTagged, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        let data = (flags & REMOTE_CQ_DATA != 0).then_some(msg.data);
        with_pieces(msg.iov, msg.iov_count, |iov| {
            start(ep, Order { data, ..order(iov, msg.addr, Some(msg.tag), msg.context) }, Some(flags))
        })
    })
}

unsafe extern "C" fn inject(ep: *mut FidEp, buf: *const c_void, len: usize, peer: FiAddr, tag: u64) -> isize {
    // SAFETY: libfabric's promise.
    if unsafe { send_small(ep, (buf, len), (peer, tag, None), None) } {
        return 0;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let iov = [piece(buf, len)?];
        let order = order(&iov, peer, Some(tag), std::ptr::null_mut());
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
    tag: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    if unsafe { send_small(ep, (buf, len), (peer, tag, Some(data)), Some(context)) } {
        return 0;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start(ep, Order { data: Some(data), ..order(&[piece(buf, len)?], peer, Some(tag), context) }, None)
    })
}

unsafe extern "C" fn injectdata(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    data: u64,
    peer: FiAddr,
    tag: u64,
) -> isize {
    // SAFETY: libfabric's promise.
    if unsafe { send_small(ep, (buf, len), (peer, tag, Some(data)), None) } {
        return 0;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        let iov = [piece(buf, len)?];
        let order = order(&iov, peer, Some(tag), std::ptr::null_mut());
        start(ep, Order { data: Some(data), silent: true, ..order }, Some(INJECT))
    })
}
