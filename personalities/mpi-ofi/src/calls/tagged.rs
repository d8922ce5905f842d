//! Messages with tags.

use std::ffi::c_void;

use crate::abi::flag::{INJECT, REMOTE_CQ_DATA};
use crate::abi::message::{IoVec, MsgTagged};
use crate::abi::object::{FidEp, TaggedOps};
use crate::abi::FiAddr;
use crate::boundary::guarded;
use crate::calls::msg::{start, start_receive};
use crate::calls::{order, piece, wish, with_pieces};
use crate::send::Order;

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
    guarded(|| unsafe {
        let iov = [piece(buf, len)?];
        let order = order(&iov, peer, Some(tag), std::ptr::null_mut());
        start(ep, Order { data: Some(data), silent: true, ..order }, Some(INJECT))
    })
}
