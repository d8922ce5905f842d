//! Streams: ordered bytes to and from a peer.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use gridnet::core::rail::Armed;
use gridnet::core::stream::Ready;
use gridnet::Stream;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::endpoint::{endpoint_of, gridnet_endpoint};
use crate::fabric::{duration_of, text, Child, Owner};
use crate::handle::{object, Handle};
use crate::status::{gridnet_status, GRIDNET_BUSY, GRIDNET_IN_PROGRESS, GRIDNET_OK};

/// gridnet_stream_arm: there is something to be read, or the end.
pub const GRIDNET_STREAM_READABLE: u32 = 1;
/// gridnet_stream_arm: something can be written, or nothing ever.
pub const GRIDNET_STREAM_WRITABLE: u32 = 2;

pub(crate) struct StreamObject {
    owner: Arc<Owner>,
    stream: Stream,
}

/// A stream: ordered bytes to and from a peer.
pub struct gridnet_stream {
    _opaque: [u8; 0],
}

object!(StreamObject, b"GN-strem", "stream");

/// # Safety
/// As `Handle::get`.
unsafe fn stream_of<'a>(stream: *const gridnet_stream) -> Result<&'a StreamObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(stream.cast()) }
}

/// Makes a handle for a stream.
pub(crate) fn new_stream(owner: &Arc<Owner>, stream: Stream) -> *mut gridnet_stream {
    let handle: *mut gridnet_stream = Handle::open(StreamObject { owner: owner.clone(), stream }).cast();
    owner.adopt(Child::Stream(handle));
    handle
}

/// Calls the service of that name of an endpoint's peer, and waits for the answer at most `timeout_ns` nanoseconds
/// (negative: for ever). 0 does not wait: GRIDNET_IN_PROGRESS, and writing says GRIDNET_ERR_AGAIN until the peer has
/// answered. The stream stays when the endpoint is closed.
///
/// Errors: GRIDNET_ERR_NOT_FOUND when the peer does not listen for the service, GRIDNET_ERR_LIMIT when too many wait there,
/// GRIDNET_ERR_PERMISSION when the rules of either side do not allow it over the link that leads there,
/// GRIDNET_ERR_TIMEOUT, GRIDNET_ERR_PEER_GONE, GRIDNET_ERR_INVALID for what is no name.
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `service` NULL or a C string, `stream_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_connect(
    endpoint: *mut gridnet_endpoint,
    service: *const c_char,
    timeout_ns: i64,
    stream_out: *mut *mut gridnet_stream,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, service) = unsafe { (endpoint_of(endpoint)?, text(service, "service")?) };
        drop(object.shared.enter()?);
        let service = service.ok_or_else(|| null("service"))?;
        if stream_out.is_null() {
            return Err(null("stream_out"));
        }
        let stream = match timeout_ns {
            0 => Stream::call(&object.shared, object.peer, &service)?,
            _ => Stream::connect(&object.shared, object.peer, &service, duration_of(timeout_ns))?,
        };
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(stream_out, new_stream(&object.owner, stream)) };
        Ok(if timeout_ns == 0 { GRIDNET_IN_PROGRESS } else { GRIDNET_OK })
    })
}

/// Ends a stream: what was written before still goes out while the fabric makes progress, what comes is not read.
///
/// # Safety
/// `stream` is NULL or a stream that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_close(stream: *mut gridnet_stream) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let owner = unsafe { stream_of(stream)? }.owner.clone();
        drop(owner.shared.enter()?);
        owner.disown(Child::Stream(stream));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<StreamObject>::close(stream.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// The number of the peer, as completions have it; gridnet_endpoint_open_source opens an endpoint to it.
///
/// # Safety
/// `stream` is NULL or a stream, `source_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_source(
    stream: *mut gridnet_stream,
    source_out: *mut u32,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        if source_out.is_null() {
            return Err(null("source_out"));
        }
        drop(object.owner.shared.enter()?);
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(source_out, object.stream.peer().number()) };
        Ok(GRIDNET_OK)
    })
}

/// Reads what has come, at most `size` bytes; waits for the first at most `timeout_ns` nanoseconds (negative: for ever,
/// 0: not at all). `count_out` gets how many: 0 is the end of the stream.
///
/// Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: nothing has come; after what has come, GRIDNET_ERR_PEER_GONE.
///
/// # Safety
/// `stream` is NULL or a stream, `data_out` has room for `size` bytes, `count_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_read(
    stream: *mut gridnet_stream,
    data_out: *mut c_void,
    size: usize,
    timeout_ns: i64,
    count_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        if data_out.is_null() || count_out.is_null() || size == 0 {
            // That the fabric cannot be used at all is said first.
            drop(object.owner.shared.enter()?);
        }
        let data = bytes_at(data_out, size, "data_out")?;
        if count_out.is_null() {
            return Err(null("count_out"));
        }
        if size == 0 {
            return Err(invalid("size is 0; accepted: 1 or more"));
        }
        // SAFETY: `size` bytes have room by the caller's promise, and are nobody else's during the call.
        let data = unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), size) };
        let count = object.stream.read(data, duration_of(timeout_ns))?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(count_out, count) };
        Ok(GRIDNET_OK)
    })
}

/// Writes `size` bytes, or as many as may go within `timeout_ns` nanoseconds (negative: for ever, 0: those that may go at
/// once). `count_out` gets how many. The memory may be reused at once.
///
/// Errors, when nothing was written: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT; GRIDNET_ERR_CLOSED when a side has ended the
/// stream; GRIDNET_ERR_PEER_GONE; what gridnet_stream_connect says, when the peer has refused.
///
/// # Safety
/// `stream` is NULL or a stream, `data` points to `size` bytes, `count_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_write(
    stream: *mut gridnet_stream,
    data: *const c_void,
    size: usize,
    timeout_ns: i64,
    count_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        if data.is_null() || count_out.is_null() {
            // As for reading.
            drop(object.owner.shared.enter()?);
        }
        let data = bytes_at(data.cast_mut(), size, "data")?;
        if count_out.is_null() {
            return Err(null("count_out"));
        }
        // SAFETY: `size` bytes by the caller's promise, which nobody writes during the call.
        let data = unsafe { std::slice::from_raw_parts(data.as_ptr(), size) };
        let count = object.stream.write(data, duration_of(timeout_ns))?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(count_out, count) };
        Ok(GRIDNET_OK)
    })
}

/// Writes all of `size` bytes within `timeout_ns` nanoseconds (negative: for ever, 0: at once), or ends the stream as gridnet_stream_abort
/// does: how many bytes the peer has read is not known then. Long parts for which the peer has no room may stay in `data`, where the rail can
/// do without a copy: the peer fetches them, and the call waits until it has. The memory may be reused afterwards.
///
/// Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: not all could be written in time; the others of gridnet_stream_write.
///
/// # Safety
/// `stream` is NULL or a stream, `data` points to `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_write_all(
    stream: *mut gridnet_stream,
    data: *const c_void,
    size: usize,
    timeout_ns: i64,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        if data.is_null() {
            // As for reading.
            drop(object.owner.shared.enter()?);
        }
        let data = bytes_at(data.cast_mut(), size, "data")?;
        // SAFETY: `size` bytes by the caller's promise, which nobody writes during the call.
        let data = unsafe { std::slice::from_raw_parts(data.as_ptr(), size) };
        object.stream.write_all(data, duration_of(timeout_ns))?;
        Ok(GRIDNET_OK)
    })
}

/// Says that no bytes follow: the peer reads the end of the stream behind the last one. Reading goes on.
///
/// Errors: GRIDNET_ERR_AGAIN before the peer has answered, GRIDNET_ERR_PEER_GONE; what gridnet_stream_connect says, when
/// the peer has refused.
///
/// # Safety
/// `stream` is NULL or a stream.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_shutdown(stream: *mut gridnet_stream) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { stream_of(stream)? }.stream.shut_down()?;
        Ok(GRIDNET_OK)
    })
}

/// Ends a stream at once, both ways: reading and writing say GRIDNET_ERR_CANCELED from now on, also to threads that wait in
/// them. What has come is dropped; what was written before still goes out. The stream is still to be closed.
///
/// # Safety
/// `stream` is NULL or a stream.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_abort(stream: *mut gridnet_stream) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { stream_of(stream)? }.stream.abort()?;
        Ok(GRIDNET_OK)
    })
}

/// Waits until one of `events` (GRIDNET_STREAM_*) is so, at most `timeout_ns` nanoseconds (negative: for ever, 0: not at all).
/// `events_out` gets those that are so. Ends what gridnet_stream_arm began.
///
/// Errors: GRIDNET_ERR_AGAIN, GRIDNET_ERR_TIMEOUT: none of them is so.
///
/// # Safety
/// `stream` is NULL or a stream, `events_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_wait(
    stream: *mut gridnet_stream,
    events: u32,
    timeout_ns: i64,
    events_out: *mut u32,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        drop(object.owner.shared.enter()?);
        let wanted = wanted_of(events)?;
        if events_out.is_null() {
            return Err(null("events_out"));
        }
        let ready = object.stream.wait(wanted, duration_of(timeout_ns))?;
        let is = |so, event| if so { event } else { 0 };
        let found = is(ready.input, GRIDNET_STREAM_READABLE) | is(ready.output, GRIDNET_STREAM_WRITABLE);
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(events_out, found) };
        Ok(GRIDNET_OK)
    })
}

/// A descriptor for poll, select and epoll: readable, after gridnet_stream_arm said GRIDNET_OK, once something has
/// happened. It belongs to the stream and is closed with it.
///
/// # Safety
/// `stream` is NULL or a stream, `fd_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_fd(
    stream: *mut gridnet_stream,
    fd_out: *mut c_int,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        if fd_out.is_null() {
            return Err(null("fd_out"));
        }
        let fd = object.stream.descriptor()?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(fd_out, fd) };
        Ok(GRIDNET_OK)
    })
}

/// Prepares the descriptor for sleep until one of `events` (GRIDNET_STREAM_*) is so. GRIDNET_OK: it becomes readable when
/// something happens. GRIDNET_BUSY: it may be so already; read or write, then arm again.
///
/// # Safety
/// `stream` is NULL or a stream.
#[no_mangle]
pub unsafe extern "C" fn gridnet_stream_arm(stream: *mut gridnet_stream, events: u32) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { stream_of(stream)? };
        drop(object.owner.shared.enter()?);
        let armed = object.stream.arm(wanted_of(events)?)?;
        Ok(if armed == Armed::Yes { GRIDNET_OK } else { GRIDNET_BUSY })
    })
}

/// What a program wants to do to a stream.
fn wanted_of(events: u32) -> Result<Ready, Failure> {
    let known = GRIDNET_STREAM_READABLE | GRIDNET_STREAM_WRITABLE;
    if events == 0 || events & !known != 0 {
        return Err(invalid(format!("events are {events:#x}; accepted: GRIDNET_STREAM_READABLE, _WRITABLE")));
    }
    let has = |event| events & event != 0;
    Ok(Ready { input: has(GRIDNET_STREAM_READABLE), output: has(GRIDNET_STREAM_WRITABLE) })
}

/// Where a program's bytes are.
fn bytes_at(data: *mut c_void, size: usize, what: &str) -> Result<NonNull<u8>, Failure> {
    if isize::try_from(size).is_err() {
        return Err(invalid(format!("size is {size}: no memory is as long")));
    }
    match NonNull::new(data.cast()) {
        Some(data) => Ok(data),
        None if size == 0 => Ok(NonNull::dangling()),
        None => Err(null(what)),
    }
}
