//! Listeners: who calls for a stream.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use gridnet::core::rail::Armed;
use gridnet::Listener;

use crate::boundary::{guarded, null, write_out, Failure};
use crate::fabric::{duration_of, fabric_of, gridnet_fabric, text, Child, Owner};
use crate::handle::{object, Handle};
use crate::status::{gridnet_status, GRIDNET_BUSY, GRIDNET_OK};
use crate::stream::{gridnet_stream, new_stream};

/// Streams that wait to be accepted when the program does not say how many.
const BACKLOG: usize = 64;

pub(crate) struct ListenerObject {
    owner: Arc<Owner>,
    listener: Listener,
}

/// A listener: takes calls for a service.
pub struct gridnet_listener {
    _opaque: [u8; 0],
}

object!(ListenerObject, b"GN-lstnr", "listener");

/// # Safety
/// As `Handle::get`.
unsafe fn listener_of<'a>(listener: *const gridnet_listener) -> Result<&'a ListenerObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(listener.cast()) }
}

/// Begins to take calls for `service` (1 to 128 bytes without control characters); at most `backlog` of them wait to be
/// accepted (1 to 4096, 0: 64), further ones are refused.
///
/// Errors: GRIDNET_ERR_NAME_IN_USE when the fabric has a listener for the service, GRIDNET_ERR_INVALID.
///
/// # Safety
/// `fabric` is NULL or a fabric, `service` NULL or a C string, `listener_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_listener_open(
    fabric: *mut gridnet_fabric,
    service: *const c_char,
    backlog: usize,
    listener_out: *mut *mut gridnet_listener,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (owner, service) = unsafe { (fabric_of(fabric)?.owner.clone(), text(service, "service")?) };
        drop(owner.shared.enter()?);
        let service = service.ok_or_else(|| null("service"))?;
        if listener_out.is_null() {
            return Err(null("listener_out"));
        }
        let backlog = if backlog == 0 { BACKLOG } else { backlog };
        let listener = Listener::open(&owner.shared, &service, backlog)?;
        let handle: *mut gridnet_listener =
            Handle::open(ListenerObject { owner: owner.clone(), listener }).cast();
        owner.adopt(Child::Listener(handle));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(listener_out, handle) };
        Ok(GRIDNET_OK)
    })
}

/// Takes no more calls. Streams that nobody has accepted end; those that were accepted stay.
///
/// # Safety
/// `listener` is NULL or a listener that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_listener_close(listener: *mut gridnet_listener) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let owner = unsafe { listener_of(listener)? }.owner.clone();
        drop(owner.shared.enter()?);
        owner.disown(Child::Listener(listener));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<ListenerObject>::close(listener.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// Takes the stream of the oldest caller; waits for one at most `timeout_ns` nanoseconds (negative: for ever, 0: not at
/// all). gridnet_stream_source says who has called.
///
/// Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: nobody has called.
///
/// # Safety
/// `listener` is NULL or a listener, `stream_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_listener_accept(
    listener: *mut gridnet_listener,
    timeout_ns: i64,
    stream_out: *mut *mut gridnet_stream,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { listener_of(listener)? };
        if stream_out.is_null() {
            return Err(null("stream_out"));
        }
        let stream = object.listener.accept(duration_of(timeout_ns))?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(stream_out, new_stream(&object.owner, stream)) };
        Ok(GRIDNET_OK)
    })
}

/// A descriptor for poll, select and epoll: readable, after gridnet_listener_arm said GRIDNET_OK, once something has
/// happened. It belongs to the listener and is closed with it.
///
/// # Safety
/// `listener` is NULL or a listener, `fd_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_listener_fd(
    listener: *mut gridnet_listener,
    fd_out: *mut c_int,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { listener_of(listener)? };
        if fd_out.is_null() {
            return Err(null("fd_out"));
        }
        let fd = object.listener.descriptor()?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(fd_out, fd) };
        Ok(GRIDNET_OK)
    })
}

/// Prepares the descriptor for sleep. GRIDNET_OK: it becomes readable when something happens. GRIDNET_BUSY: somebody may
/// have called already; accept, then arm again.
///
/// # Safety
/// `listener` is NULL or a listener.
#[no_mangle]
pub unsafe extern "C" fn gridnet_listener_arm(listener: *mut gridnet_listener) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let armed = unsafe { listener_of(listener)? }.listener.arm()?;
        Ok(if armed == Armed::Yes { GRIDNET_OK } else { GRIDNET_BUSY })
    })
}
