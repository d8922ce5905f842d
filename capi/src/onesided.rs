//! Put, get, atomic operations, flush.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::endpoint::{RemoteArgs, Sent};
use gridnet::core::mem::Iov;
use gridnet::core::region::{Atomic, AtomicOp, Width};
use gridnet::Guard;

use crate::boundary::{guarded, invalid, null, Failure};
use crate::endpoint::{endpoint_of, gridnet_endpoint, EndpointObject};
use crate::grow::{read_params, Growing};
use crate::handle::Handle;
use crate::iov::one_piece;
use crate::region::{gridnet_rkey, rkey_of, RkeyObject};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};
use crate::tag::check_flags;

/// gridnet_atomic_params.op: adds the operand, modulo the width.
pub const GRIDNET_ATOMIC_ADD: u32 = 1;
/// gridnet_atomic_params.op: bitwise and with the operand.
pub const GRIDNET_ATOMIC_AND: u32 = 2;
/// gridnet_atomic_params.op: bitwise or with the operand.
pub const GRIDNET_ATOMIC_OR: u32 = 3;
/// gridnet_atomic_params.op: bitwise exclusive or with the operand.
pub const GRIDNET_ATOMIC_XOR: u32 = 4;
/// gridnet_atomic_params.op: replaces the word by the operand.
pub const GRIDNET_ATOMIC_SWAP: u32 = 5;
/// gridnet_atomic_params.op: replaces the word by the operand when it equals compare.
pub const GRIDNET_ATOMIC_COMPARE_SWAP: u32 = 6;

/// An atomic operation with everything that can be said of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_atomic_params {
    /// sizeof(gridnet_atomic_params).
    pub size: usize,
    /// GRIDNET_ATOMIC_*.
    pub op: u32,
    /// Bytes of the word: 4 or 8.
    pub width: u32,
    /// Where in the region.
    pub offset: u64,
    /// With what; of a word of 4 bytes the low half counts.
    pub operand: u64,
    /// See GRIDNET_ATOMIC_COMPARE_SWAP.
    pub compare: u64,
    /// NULL, or where the word as it was before goes: `width` bytes.
    pub result: *mut c_void,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Given back with the completion.
    pub context: *mut c_void,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_atomic_params {
    const NAME: &'static str = "gridnet_atomic_params";
    const FIRST: usize = 64;
}

/// Copies `len` bytes from `buf` to `offset` of a peer's region.
///
/// GRIDNET_OK: done, the bytes are in the region, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until
/// the completion with `context` comes, which says that the bytes are in the region, or why not. 4 or 8 bytes at a place
/// that is a multiple of their number go as a whole into an allocated region.
///
/// Errors: GRIDNET_ERR_KEY, GRIDNET_ERR_ACCESS, GRIDNET_ERR_BOUNDS, GRIDNET_ERR_FAULT, GRIDNET_ERR_PEER_GONE,
/// GRIDNET_ERR_AGAIN (poll, then try again).
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `rkey` NULL or an imported key; `buf` is valid for reads of `len` bytes as long as
/// the put is under way.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_put(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { put_now(endpoint, buf, len, rkey, offset) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { put_guarded(endpoint, buf, len, rkey, offset, context) }
}

/// Copies `len` bytes from `offset` of a peer's region to `buf`.
///
/// GRIDNET_OK: done, no completion follows. GRIDNET_IN_PROGRESS: the buffer is in use until the completion with `context`
/// comes.
///
/// Errors: as gridnet_put.
///
/// # Safety
/// As gridnet_put; `buf` is valid for writes of `len` bytes, and touched by nobody, as long as the get is under way.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_get(
    endpoint: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { get_now(endpoint, buf, len, rkey, offset) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { get_guarded(endpoint, buf, len, rkey, offset, context) }
}

/// Runs an atomic operation on a word of a peer's region. Atomic with regard to other operations through gridnet and to
/// atomic instructions of the owner, but not to puts.
///
/// GRIDNET_OK: done, the result is there, no completion follows. GRIDNET_IN_PROGRESS: the memory of the result is in use
/// until the completion with the context comes.
///
/// Errors: as gridnet_put, and GRIDNET_ERR_MISALIGNED when the address of the word is no multiple of its width,
/// GRIDNET_ERR_INVALID for an unknown operation or width.
///
/// # Safety
/// As gridnet_put; `params` is NULL or valid, its result NULL or valid for writes of `width` bytes as long as the operation
/// is under way.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_atomic(
    endpoint: *mut gridnet_endpoint,
    rkey: *mut gridnet_rkey,
    params: *const gridnet_atomic_params,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { atomic_now(endpoint, rkey, params) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { atomic_guarded(endpoint, rkey, params) }
}

/// Makes sure that every put, get and atomic operation that was started before, to the endpoint's peer by any endpoint of
/// this fabric, has taken effect.
///
/// GRIDNET_OK: they have, no completion follows. GRIDNET_IN_PROGRESS: they have when the completion with `context` comes.
/// Those that fail say so themselves.
///
/// Errors: GRIDNET_ERR_PEER_GONE, GRIDNET_ERR_AGAIN (poll, then try again).
///
/// # Safety
/// `endpoint` is NULL or an endpoint.
#[no_mangle]
pub unsafe extern "C" fn gridnet_flush(
    endpoint: *mut gridnet_endpoint,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        let args = args_of(object, context);
        status_of(enter_and_look(object)?.engine.flush_remote_ops(object.peer, &args)?)
    })
}

// As in `tag`, the three functions below do what is done most often without the net of `guarded`. They call nothing that
// panics; whatever is not plain, they leave to the guarded path, having done nothing.

/// # Safety
/// As gridnet_put.
#[inline(always)]
unsafe fn put_now(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
) -> bool {
    // SAFETY: the caller's promise.
    let Some((object, key)) = (unsafe { peek_both(endpoint, rkey) }) else { return false };
    if buf.is_null() {
        return false;
    }
    let Some(mut fabric) = object.shared.enter_plain() else { return false };
    if !fabric.may_go_at_once() {
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { fabric.engine.put_now(object.peer, key.key, offset, buf.cast(), len) }
}

/// # Safety
/// As gridnet_get.
#[inline(always)]
unsafe fn get_now(
    endpoint: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
) -> bool {
    // SAFETY: the caller's promise.
    let Some((object, key)) = (unsafe { peek_both(endpoint, rkey) }) else { return false };
    if buf.is_null() {
        return false;
    }
    let Some(mut fabric) = object.shared.enter_plain() else { return false };
    if !fabric.may_go_at_once() {
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { fabric.engine.get_now(object.peer, key.key, offset, buf.cast(), len) }
}

/// # Safety
/// As gridnet_atomic.
#[inline(always)]
unsafe fn atomic_now(
    endpoint: *mut gridnet_endpoint,
    rkey: *mut gridnet_rkey,
    params: *const gridnet_atomic_params,
) -> bool {
    // SAFETY: the caller's promise.
    let Some((object, key)) = (unsafe { peek_both(endpoint, rkey) }) else { return false };
    // SAFETY: the caller's promise; the size field is the first.
    if params.is_null() || unsafe { (*params).size } != size_of::<gridnet_atomic_params>() {
        return false;
    }
    // SAFETY: as long as its size field says, by the caller's promise.
    let params = unsafe { &*params };
    let (Some(atomic), 0, 0) = (atomic_of(params), params.flags, params.reserved) else { return false };
    let Some(mut fabric) = object.shared.enter_plain() else { return false };
    if !fabric.may_go_at_once() {
        return false;
    }
    let Some(old) = fabric.engine.atomic_now(object.peer, key.key, params.offset, &atomic) else {
        return false;
    };
    if !params.result.is_null() {
        // SAFETY: valid for writes of the width by the caller's promise.
        unsafe {
            match atomic.width {
                Width::Eight => params.result.cast::<u64>().write_unaligned(old),
                Width::Four => params.result.cast::<u32>().write_unaligned(old as u32),
            }
        }
    }
    true
}

/// # Safety
/// `endpoint` is NULL or an endpoint, `rkey` NULL or an imported key.
#[inline(always)]
unsafe fn peek_both<'a>(
    endpoint: *mut gridnet_endpoint,
    rkey: *mut gridnet_rkey,
) -> Option<(&'a EndpointObject, &'a RkeyObject)> {
    // SAFETY: the caller's promise.
    let (object, key) = unsafe {
        (Handle::<EndpointObject>::peek(endpoint.cast())?, Handle::<RkeyObject>::peek(rkey.cast())?)
    };
    Arc::ptr_eq(&object.shared, &key.shared).then_some((object, key))
}

/// # Safety
/// As gridnet_put.
#[inline(never)]
unsafe fn put_guarded(
    endpoint: *mut gridnet_endpoint,
    buf: *const c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        // SAFETY: the caller's promise.
        let (key, iov) = unsafe { (rkey_of(rkey, &object.shared)?, one_piece(buf.cast_mut(), len)?) };
        let args = args_of(object, context);
        status_of(enter_and_look(object)?.engine.put(object.peer, key.key, offset, iov, &args)?)
    })
}

/// # Safety
/// As gridnet_get.
#[inline(never)]
unsafe fn get_guarded(
    endpoint: *mut gridnet_endpoint,
    buf: *mut c_void,
    len: usize,
    rkey: *mut gridnet_rkey,
    offset: u64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        // SAFETY: the caller's promise.
        let (key, iov) = unsafe { (rkey_of(rkey, &object.shared)?, one_piece(buf, len)?) };
        let args = args_of(object, context);
        status_of(enter_and_look(object)?.engine.get(object.peer, key.key, offset, iov, &args)?)
    })
}

/// # Safety
/// As gridnet_atomic.
#[inline(never)]
unsafe fn atomic_guarded(
    endpoint: *mut gridnet_endpoint,
    rkey: *mut gridnet_rkey,
    params: *const gridnet_atomic_params,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        // SAFETY: the caller's promise.
        let (key, params) = unsafe { (rkey_of(rkey, &object.shared)?, read_params(params)?) };
        let params = params.ok_or_else(|| null("params"))?;
        check_flags("gridnet_atomic_params", params.flags, 0, params.reserved)?;
        let atomic = atomic_of(&params).ok_or_else(|| {
            let (op, width) = (params.op, params.width);
            invalid(format!(
                "gridnet_atomic_params: op is {op} and width {width}; accepted: GRIDNET_ATOMIC_*, and 4 or 8"
            ))
        })?;
        // SAFETY: valid for writes of the width by the caller's promise.
        let result = (!params.result.is_null())
            .then(|| unsafe { Iov::new(params.result.cast(), atomic.width.bytes()) });
        let args = args_of(object, params.context);
        let mut guard = enter_and_look(object)?;
        status_of(guard.engine.atomic(object.peer, key.key, params.offset, &atomic, result, &args)?)
    })
}

/// Goes in. An operation that is done at once makes no progress: some of them look first whether the owner lives.
fn enter_and_look(object: &EndpointObject) -> Result<Guard<'_>, Failure> {
    let mut guard = object.shared.enter()?;
    guard.look_now_and_then();
    Ok(guard)
}

#[inline(always)]
fn atomic_of(params: &gridnet_atomic_params) -> Option<Atomic> {
    let (op, width) = (AtomicOp::from_number(params.op)?, Width::from_bytes(params.width)?);
    Some(Atomic { op, width, operand: params.operand, compare: params.compare })
}

fn args_of(object: &EndpointObject, context: *mut c_void) -> RemoteArgs {
    RemoteArgs { cq: object.cq, owner: object.number, context: context as usize as u64 }
}

fn status_of(sent: Sent) -> Result<gridnet_status, Failure> {
    Ok(if sent == Sent::Done { GRIDNET_OK } else { GRIDNET_IN_PROGRESS })
}
