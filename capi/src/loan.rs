//! Loans: messages that are read where they were written.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use gridnet::core::endpoint::{SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::loan::{Lent, LentSlot};
use gridnet::core::matching::Source;
use gridnet::core::rail::Refusal;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq, CqObject};
use crate::endpoint::{endpoint_of, gridnet_endpoint, EndpointObject};
use crate::fabric::{fabric_of, gridnet_fabric, Child, FabricObject};
use crate::handle::Handle;
use crate::probe::{gridnet_message, MessageObject};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};
use crate::tag::{optional, pattern_of};

/// Names a loan of one fabric; 0 is none.
pub type gridnet_loan = u64;

/// A message as gridnet_loan_recv hands it over.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_lent {
    /// The loan, for gridnet_loan_give_back.
    pub loan: gridnet_loan,
    /// The message, to be read until the loan is given back.
    pub data: *const c_void,
    /// Its length in bytes.
    pub len: usize,
}

const _: () = assert!(size_of::<gridnet_lent>() == size_of::<Lent>());

/// Takes a loan: memory of `len` bytes that peers of this host can read where it lies. `data_out` gets where it begins, at
/// a multiple of 64; what it holds is not defined. It is to be written, then sent, or given back.
///
/// Errors: GRIDNET_ERR_AGAIN when all memory for loans is in use (poll, then try again: what receivers give back is found),
/// GRIDNET_ERR_LIMIT when there is no room for as much, now or ever, also because messages have taken it for good
/// (GRIDNET_SHM_SEGMENT_SIZE), GRIDNET_ERR_NO_MEMORY.
///
/// # Safety
/// `fabric` is NULL or a fabric; `loan_out` and `data_out` are valid for a write.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_loan_take(
    fabric: *mut gridnet_fabric,
    len: usize,
    loan_out: *mut gridnet_loan,
    data_out: *mut *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { take_now(fabric, len, loan_out, data_out) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { take_guarded(fabric, len, loan_out, data_out) }
}

/// Sends the first `len` bytes of a loan with `tag`, without a copy where the peer can read them; matched as any message.
/// Unless the call fails, `loan` names nothing afterwards, and the memory must not be touched any more: it comes back when
/// the receiver gives it back, or ends.
///
/// GRIDNET_OK: done, no completion follows. GRIDNET_IN_PROGRESS: a completion with `context` follows.
///
/// Errors: GRIDNET_ERR_HANDLE when the loan was sent or given back before, GRIDNET_ERR_INVALID when it is of another fabric
/// or shorter, GRIDNET_ERR_UNSUPPORTED when it was received; and as gridnet_tag_send.
///
/// # Safety
/// `endpoint` is NULL or an endpoint. Nobody writes the memory of the loan.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_loan_send(
    endpoint: *mut gridnet_endpoint,
    loan: gridnet_loan,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { send_now(endpoint, loan, len, tag, false) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { send_guarded(endpoint, loan, len, tag, false, context) }
}

/// As gridnet_loan_send, but the program keeps the loan: it can read it, send it to other peers, and gives it back, or sends
/// it for good, in the end. It must not write it any more.
///
/// # Safety
/// As gridnet_loan_send.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_loan_share(
    endpoint: *mut gridnet_endpoint,
    loan: gridnet_loan,
    len: usize,
    tag: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { send_now(endpoint, loan, len, tag, true) } {
        return GRIDNET_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { send_guarded(endpoint, loan, len, tag, true, context) }
}

/// Receives a message without a copy if it was sent as a loan, else in memory of the library. `lent` is written before the
/// completion that says GRIDNET_OK; the loan is then to be given back. The rest is as for gridnet_tag_recv.
///
/// # Safety
/// `cq` is NULL or a completion queue, `source` NULL or an endpoint of the same fabric; `lent` is valid for writes, and
/// touched by nobody, until the completion. What it names is not written, and not read after the loan was given back.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_loan_recv(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    lent: *mut gridnet_lent,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if ignore == 0 && unsafe { recv_now(cq, source, lent, tag, context) } {
        return GRIDNET_IN_PROGRESS;
    }
    // SAFETY: the caller's promise.
    unsafe { recv_guarded(cq, source, lent, tag, ignore, context) }
}

/// Receives a message that gridnet_tag_mprobe took, as gridnet_loan_recv. On success the message handle is closed; a
/// completion follows.
///
/// # Safety
/// `cq` is NULL or a completion queue, `message` NULL or a message of the same fabric; `lent` as for gridnet_loan_recv.
#[no_mangle]
pub unsafe extern "C" fn gridnet_message_recv_loan(
    cq: *mut gridnet_cq,
    message: *mut gridnet_message,
    lent: *mut gridnet_lent,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, held) = unsafe { (cq_of(cq)?, Handle::<MessageObject>::get(message.cast())?) };
        if !Arc::ptr_eq(&cq.owner, &held.owner) {
            return Err(invalid("message is of another fabric than cq"));
        }
        // SAFETY: the caller's promise.
        let slot = unsafe { slot_of(lent) }.ok_or_else(|| null("lent"))?;
        let context = context as usize as u64;
        cq.owner.shared.enter()?.engine.receive_held_loan(cq.id, held.key, slot, context)?;
        cq.owner.disown(Child::Message(message));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<MessageObject>::close(message.cast())? });
        Ok(GRIDNET_IN_PROGRESS)
    })
}

/// Gives a loan back: one that was received, or an own one that was not sent for good. Its memory must not be touched any
/// more.
///
/// Errors: GRIDNET_ERR_HANDLE when it was sent or given back before, GRIDNET_ERR_INVALID when it is of another fabric.
///
/// # Safety
/// `fabric` is NULL or a fabric.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_loan_give_back(
    fabric: *mut gridnet_fabric,
    loan: gridnet_loan,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    if unsafe { give_back_now(fabric, loan) } {
        return GRIDNET_OK;
    }
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        object.owner.shared.enter()?.engine.give_back(loan).map_err(|error| told(error, 0))?;
        Ok(GRIDNET_OK)
    })
}

// The functions named `now` are the short ways, without the net of `guarded`: see `tag.rs`.

/// # Safety
/// As gridnet_loan_take.
#[inline(always)]
unsafe fn take_now(
    fabric: *mut gridnet_fabric,
    len: usize,
    loan_out: *mut gridnet_loan,
    data_out: *mut *mut c_void,
) -> bool {
    if loan_out.is_null() || data_out.is_null() {
        return false;
    }
    // SAFETY: the caller's promise.
    let Some(object) = (unsafe { Handle::<FabricObject>::peek(fabric.cast()) }) else { return false };
    let Some(mut fabric) = object.owner.shared.enter_plain() else { return false };
    let Some((loan, base)) = fabric.engine.take_loan_now(len) else { return false };
    // SAFETY: checked for NULL, valid by the caller's promise.
    unsafe {
        write_out(loan_out, loan);
        write_out(data_out, base.as_ptr().cast());
    }
    true
}

/// # Safety
/// As gridnet_loan_take.
#[inline(never)]
unsafe fn take_guarded(
    fabric: *mut gridnet_fabric,
    len: usize,
    loan_out: *mut gridnet_loan,
    data_out: *mut *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        if loan_out.is_null() {
            return Err(null("loan_out"));
        }
        if data_out.is_null() {
            return Err(null("data_out"));
        }
        let taken = object.owner.shared.enter()?.engine.take_loan(len);
        let (loan, base) = taken.map_err(|error| no_loan(error, len))?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe {
            write_out(loan_out, loan);
            write_out(data_out, base.as_ptr().cast());
        }
        Ok(GRIDNET_OK)
    })
}

/// # Safety
/// As gridnet_loan_send.
#[inline(always)]
unsafe fn send_now(
    endpoint: *mut gridnet_endpoint,
    loan: gridnet_loan,
    len: usize,
    tag: u64,
    keep: bool,
) -> bool {
    // SAFETY: the caller's promise.
    let Some(object) = (unsafe { Handle::<EndpointObject>::peek(endpoint.cast()) }) else { return false };
    let Some(mut fabric) = object.shared.enter_plain() else { return false };
    fabric.engine.send_loan_now(object.peer, loan, len, tag, keep)
}

/// # Safety
/// As gridnet_loan_send.
#[inline(never)]
unsafe fn send_guarded(
    endpoint: *mut gridnet_endpoint,
    loan: gridnet_loan,
    len: usize,
    tag: u64,
    keep: bool,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        let args = SendArgs {
            cq: object.cq,
            owner: object.number,
            context: context as usize as u64,
            tag,
            immediate: None,
            sync: false,
            always_complete: false,
        };
        let sent = object.owner.shared.enter()?.engine.send_loan(object.peer, loan, len, keep, &args);
        let sent = sent.map_err(|error| told(error, len))?;
        Ok(if sent == Sent::Done { GRIDNET_OK } else { GRIDNET_IN_PROGRESS })
    })
}

/// # Safety
/// As gridnet_loan_recv.
#[inline(always)]
unsafe fn recv_now(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    lent: *mut gridnet_lent,
    tag: u64,
    context: *mut c_void,
) -> bool {
    // SAFETY: the caller's promise.
    let (Some(cq), Some(slot)) = (unsafe { (Handle::<CqObject>::peek(cq.cast()), slot_of(lent)) }) else {
        return false;
    };
    let source = if source.is_null() {
        Source::Any
    } else {
        // SAFETY: the caller's promise.
        match unsafe { Handle::<EndpointObject>::peek(source.cast()) } {
            Some(source) if Arc::ptr_eq(&cq.shared, &source.shared) => Source::Peer(source.peer),
            _ => return false,
        }
    };
    let Some(mut fabric) = cq.shared.enter_plain() else { return false };
    fabric.engine.receive_loan_now(cq.id, source, tag, slot, context as usize as u64)
}

/// # Safety
/// As gridnet_loan_recv.
#[inline(never)]
unsafe fn recv_guarded(
    cq: *mut gridnet_cq,
    source: *mut gridnet_endpoint,
    lent: *mut gridnet_lent,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, source, slot) = unsafe { (cq_of(cq)?, optional(source)?, slot_of(lent)) };
        let slot = slot.ok_or_else(|| null("lent"))?;
        let pattern = pattern_of(&cq.owner, source, tag, ignore)?;
        let context = context as usize as u64;
        cq.owner.shared.enter()?.engine.receive_loan(cq.id, &pattern, slot, context)?;
        Ok(GRIDNET_IN_PROGRESS)
    })
}

/// # Safety
/// As gridnet_loan_give_back.
#[inline(always)]
unsafe fn give_back_now(fabric: *mut gridnet_fabric, loan: gridnet_loan) -> bool {
    // SAFETY: the caller's promise.
    let Some(object) = (unsafe { Handle::<FabricObject>::peek(fabric.cast()) }) else { return false };
    let Some(mut fabric) = object.owner.shared.enter_plain() else { return false };
    fabric.engine.give_back(loan).is_ok()
}

/// # Safety
/// `lent` is NULL, or as for gridnet_loan_recv.
#[inline(always)]
unsafe fn slot_of(lent: *mut gridnet_lent) -> Option<LentSlot> {
    // SAFETY: the caller's promise; the two structs are the same, field by field.
    NonNull::new(lent.cast::<Lent>()).map(|lent| unsafe { LentSlot::new(lent) })
}

/// An error of a call on a loan, with the reason.
#[cold]
fn told(error: Error, len: usize) -> Failure {
    let why = match error {
        Error::Handle => "the loan is none that the program has: it was sent or given back".to_owned(),
        Error::Invalid => format!("the loan is of another fabric, or shorter than {len} bytes"),
        Error::Unsupported => {
            "the loan was received: give it back, and send its bytes by gridnet_tag_send or as another loan"
                .to_owned()
        }
        other => return other.into(),
    };
    Refusal::new(error, why).into()
}

/// Why there is no loan, with what to do about it.
#[cold]
fn no_loan(error: Error, len: usize) -> Failure {
    let why = match error {
        Error::Again => "all memory for loans is in use: poll, then try again when receivers have given some back; \
                         GRIDNET_SHM_SEGMENT_SIZE makes more"
            .to_owned(),
        Error::Limit => format!(
            "no room for a loan of {len} bytes, now or ever: three quarters of GRIDNET_SHM_SEGMENT_SIZE can be lent, less what \
             messages have taken beyond the rest"
        ),
        other => return other.into(),
    };
    Refusal::new(error, why).into()
}
