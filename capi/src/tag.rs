//! Tagged messages.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::endpoint::{SendArgs, Sent};
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::ring::slot::BODY_BYTES;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq, gridnet_op, CqObject};
use crate::endpoint::{endpoint_of, gridnet_endpoint, EndpointObject};
use crate::fabric::{fabric_of, gridnet_fabric, Owner};
use crate::grow::{read_params, Growing};
use crate::handle::Handle;
use crate::iov::{gridnet_iov, one_piece, pieces};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};

/// Complete only when the receiver has matched the message.
pub const GRIDNET_SEND_SYNC: u32 = 1;
/// The field immediate travels with the message.
pub const GRIDNET_SEND_IMMEDIATE: u32 = 2;
/// Report the completion even of a send that is done at once.
pub const GRIDNET_SEND_COMPLETION: u32 = 4;

/// A send with everything that can be said of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_send_params {
    /// sizeof(gridnet_send_params).
    pub size: usize,
    /// Pieces of the message; at most 1024.
    pub iov: *const gridnet_iov,
    /// How many.
    pub iov_count: usize,
    /// Tag.
    pub tag: u64,
    /// Value that travels with the message, with GRIDNET_SEND_IMMEDIATE.
    pub immediate: u64,
    /// GRIDNET_SEND_*.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Given back with the completion.
    pub context: *mut c_void,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_send_params {
    const NAME: &'static str = "gridnet_send_params";
    const FIRST: usize = 56;
}

/// A receive with everything that can be said of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_recv_params {
    /// sizeof(gridnet_recv_params).
    pub size: usize,
    /// Pieces of the buffer, filled in order; at most 1024.
    pub iov: *const gridnet_iov,
    /// How many.
    pub iov_count: usize,
    /// Accept messages of this peer only; NULL: of any.
    pub source: *mut gridnet_endpoint,
    /// Tag,
    pub tag: u64,
    /// of which these bits do not count.
    pub ignore: u64,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Given back with the completion.
    pub context: *mut c_void,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_recv_params {
    const NAME: &'static str = "gridnet_recv_params";
    const FIRST: usize = 64;
}

/// Sends `len` bytes with `tag`.
///
/// GRIDNET_OK: done, the buffer may be reused, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until
/// the completion with `context` comes. Messages to one peer arrive in the order of the calls.
///
/// Errors: GRIDNET_ERR_AGAIN (poll, then try again), GRIDNET_ERR_PEER_GONE.
///
/// # Safety
/// `endpoint` is NULL or an endpoint; `buf` is valid for reads of `len` bytes as long as the send is under way.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_tag_send(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { send_small(endpoint, buf, len, tag) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { send_rest(endpoint, buf, len, tag, context) }
}

/// Receives a message of the peer `source` (NULL: of any) whose tag agrees with `tag` in all bits that are not in
/// `ignore`. A completion always follows, also when the message is there already: GRIDNET_IN_PROGRESS.
///
/// Errors: GRIDNET_ERR_AGAIN (poll, then try again), GRIDNET_ERR_PEER_GONE. A message that is too long completes with
/// GRIDNET_ERR_TRUNCATED.
///
/// # Safety
/// `cq` is NULL or a completion queue, `source` NULL or an endpoint of the same fabric; `buf` is valid for writes of
/// `len` bytes, and touched by nobody, until the completion.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_tag_recv(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if ignore == 0 && unsafe { recv_now(cq, source, buf, len, tag, context) } {
        return GRIDNET_IN_PROGRESS;
    }
    // SAFETY: the caller's promise.
    unsafe { recv_guarded(cq, source, buf, len, tag, ignore, context) }
}

/// Sends as gridnet_tag_send, with everything that `params` says. `op_out` (may be NULL) gets the number of the
/// operation when a completion follows, else 0.
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `params` NULL or valid, with memory as for gridnet_tag_send; `op_out` is NULL or
/// valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_tag_sendx(
    endpoint: *mut gridnet_endpoint,
    params: *const gridnet_send_params,
    op_out: *mut gridnet_op,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, params) = unsafe { (endpoint_of(endpoint)?, read_params(params)?) };
        let params = params.ok_or_else(|| null("params"))?;
        let known = GRIDNET_SEND_SYNC | GRIDNET_SEND_IMMEDIATE | GRIDNET_SEND_COMPLETION;
        check_flags("gridnet_send_params", params.flags, known, params.reserved)?;
        let has = |flag| params.flags & flag != 0;
        let args = SendArgs {
            cq: object.cq,
            owner: object.number,
            context: params.context as usize as u64,
            tag: params.tag,
            immediate: has(GRIDNET_SEND_IMMEDIATE).then_some(params.immediate),
            sync: has(GRIDNET_SEND_SYNC),
            always_complete: has(GRIDNET_SEND_COMPLETION),
        };
        // SAFETY: the caller's promise.
        let iov = unsafe { pieces(params.iov, params.iov_count)? };
        let sent = object.owner.shared.enter()?.engine.send_iov(object.peer, iov, &args)?;
        let (status, op) = match sent {
            Sent::Done => (GRIDNET_OK, 0),
            Sent::InProgress(op) => (GRIDNET_IN_PROGRESS, op),
        };
        // SAFETY: the caller's promise.
        unsafe { write_op(op_out, op) };
        Ok(status)
    })
}

/// Receives as gridnet_tag_recv, with everything that `params` says. `op_out` (may be NULL) gets the number of the
/// operation, or 0 when it has completed already.
///
/// # Safety
/// `cq` is NULL or a completion queue, `params` NULL or valid, with memory as for gridnet_tag_recv; `op_out` is NULL or
/// valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_tag_recvx(
    cq: *mut gridnet_cq,
    params: *const gridnet_recv_params,
    op_out: *mut gridnet_op,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, params) = unsafe { (cq_of(cq)?, read_params(params)?) };
        let params = params.ok_or_else(|| null("params"))?;
        check_flags("gridnet_recv_params", params.flags, 0, params.reserved)?;
        // SAFETY: the caller's promise.
        let (source, iov) = unsafe { (optional(params.source)?, pieces(params.iov, params.iov_count)?) };
        let pattern = pattern_of(&cq.owner, source, params.tag, params.ignore)?;
        let mut guard = cq.owner.shared.enter()?;
        let op = guard.engine.receive_iov(cq.id, &pattern, iov, params.context as usize as u64)?;
        // SAFETY: the caller's promise.
        unsafe { write_op(op_out, op) };
        Ok(GRIDNET_IN_PROGRESS)
    })
}

/// Cancels an operation; its completion says GRIDNET_ERR_CANCELED. A send of which the peer knows may have been
/// received all the same.
///
/// Errors: GRIDNET_ERR_NOT_FOUND when the operation has completed, was never there, or is a receive whose message is
/// coming in.
///
/// # Safety
/// `fabric` is NULL or a fabric.
#[no_mangle]
pub unsafe extern "C" fn gridnet_cancel(fabric: *mut gridnet_fabric, op: gridnet_op) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        object.owner.shared.enter()?.engine.cancel(op)?;
        Ok(GRIDNET_OK)
    })
}

// The functions below do what is done most often, without the net of `guarded`: catching a panic means passing all
// arguments through memory, which costs as much again as the whole call. They call nothing that panics; should they all
// the same, the process is aborted at the C boundary rather than unwound into C. Whatever is not plain, they leave to
// the guarded path, having done nothing.

/// # Safety
/// As gridnet_tag_send.
#[inline(always)]
unsafe fn send_small(endpoint: *mut gridnet_endpoint, buf: *const c_void, len: usize, tag: u64) -> bool {
    // SAFETY: the caller's promise.
    let (Some(object), false) = (unsafe { Handle::<EndpointObject>::peek(endpoint.cast()) }, buf.is_null())
    else {
        return false;
    };
    // SAFETY: the caller's promise.
    object.outlet.send(tag, unsafe { Iov::new(buf.cast_mut().cast(), len) })
}

/// What [`send_small`] left. In a function of its own so that the hot path needs few registers.
///
/// # Safety
/// As gridnet_tag_send.
#[inline(never)]
unsafe fn send_rest(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { send_now(endpoint, buf, len, tag) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { send_guarded(endpoint, buf, len, tag, context) }
}

/// # Safety
/// As gridnet_tag_send.
#[inline(always)]
unsafe fn send_now(endpoint: *mut gridnet_endpoint, buf: *const c_void, len: usize, tag: u64) -> bool {
    // SAFETY: the caller's promise.
    let (Some(object), false) = (unsafe { Handle::<EndpointObject>::peek(endpoint.cast()) }, buf.is_null())
    else {
        return false;
    };
    // SAFETY: the caller's promise.
    let message = unsafe { Iov::new(buf.cast_mut().cast(), len) };
    let Some(mut fabric) = object.shared.enter_plain() else {
        return false;
    };
    if len <= BODY_BYTES {
        // Why did it not go by the lane? Perhaps there is a new one.
        object.outlet.refresh(&mut fabric);
    }
    fabric.engine.send_now(object.peer, message, tag)
}

/// # Safety
/// As gridnet_tag_recv.
#[inline(always)]
unsafe fn recv_now(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> bool {
    // SAFETY: the caller's promise.
    let Some(cq) = (unsafe { Handle::<CqObject>::peek(cq.cast()) }) else { return false };
    let source = if source.is_null() {
        Source::Any
    } else {
        // SAFETY: the caller's promise.
        match unsafe { Handle::<EndpointObject>::peek(source.cast()) } {
            Some(source) if Arc::ptr_eq(&cq.shared, &source.shared) => Source::Peer(source.peer),
            _ => return false,
        }
    };
    if buf.is_null() || len > isize::MAX as usize {
        return false;
    }
    // SAFETY: the caller's promise.
    let iov = unsafe { Iov::new(buf.cast(), len) };
    let context = context as usize as u64;
    let Some(mut fabric) = cq.shared.enter_plain() else {
        return false;
    };
    fabric.engine.receive_now(cq.id, source, (tag, 0), iov, context).is_some()
}

/// The rest of gridnet_tag_send.
///
/// # Safety
/// As gridnet_tag_send.
#[inline(never)]
unsafe fn send_guarded(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, iov) = unsafe { (endpoint_of(endpoint)?, one_piece(buf.cast_mut(), len)?) };
        let args = SendArgs {
            cq: object.cq,
            owner: object.number,
            context: context as usize as u64,
            tag,
            immediate: None,
            sync: false,
            always_complete: false,
        };
        let iov = std::slice::from_ref(&iov);
        let sent = object.owner.shared.enter()?.engine.send_iov(object.peer, iov, &args)?;
        Ok(if sent == Sent::Done { GRIDNET_OK } else { GRIDNET_IN_PROGRESS })
    })
}

/// The rest of gridnet_tag_recv.
///
/// # Safety
/// As gridnet_tag_recv.
#[inline(never)]
unsafe fn recv_guarded(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, source, iov) = unsafe { (cq_of(cq)?, optional(source)?, one_piece(buf, len)?) };
        let pattern = pattern_of(&cq.owner, source, tag, ignore)?;
        let context = context as usize as u64;
        cq.owner.shared.enter()?.engine.receive(cq.id, &pattern, iov, context)?;
        Ok(GRIDNET_IN_PROGRESS)
    })
}

/// # Safety
/// `endpoint` is NULL or an endpoint.
#[inline(always)]
pub(crate) unsafe fn optional<'a>(
    endpoint: *mut gridnet_endpoint,
) -> Result<Option<&'a EndpointObject>, Failure> {
    if endpoint.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { endpoint_of(endpoint).map(Some) }
}

#[inline(always)]
pub(crate) fn pattern_of(
    owner: &Arc<Owner>,
    source: Option<&EndpointObject>,
    tag: u64,
    ignore: u64,
) -> Result<Pattern, Failure> {
    let source = match source {
        None => Source::Any,
        Some(endpoint) if Arc::ptr_eq(owner, &endpoint.owner) => Source::Peer(endpoint.peer),
        Some(_) => return Err(invalid("source is an endpoint of another fabric")),
    };
    Ok(Pattern { source, tag, ignore })
}

pub(crate) fn check_flags(what: &str, flags: u32, known: u32, reserved: u32) -> Result<(), Failure> {
    if flags & !known != 0 {
        return Err(invalid(format!("{what}: flags are {flags:#x}; accepted: bits of {known:#x}")));
    }
    if reserved != 0 {
        return Err(invalid(format!("{what}: reserved is {reserved}; accepted: 0")));
    }
    Ok(())
}

/// # Safety
/// `op_out` is NULL or valid for a write.
unsafe fn write_op(op_out: *mut gridnet_op, op: gridnet_op) {
    if !op_out.is_null() {
        // SAFETY: the caller's promise.
        unsafe { write_out(op_out, op) };
    }
}
