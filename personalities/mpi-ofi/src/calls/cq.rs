//! `fid_cq`.

use std::ffi::{c_char, c_void};
use std::time::Instant;

use gridnet::core::error::Error;
use gridnet::core::matching::Key;

use crate::abi::errno;
use crate::abi::flag::{GETWAIT, GETWAITOBJ, WAIT_FD, WAIT_NONE, WAIT_UNSPEC, WAIT_YIELD};
use crate::abi::message::CqErrEntry;
use crate::abi::object::{missing, CqAttr, CqOps, Fid, FidCq, FidDomain, FidOps, CLASS_CQ};
use crate::abi::{version, FiAddr};
use crate::boundary::{guarded, guarded_int, write_text};
use crate::calls::cntr::end_of;
use crate::calls::domain;
use crate::endpoint::Endpoint;
use crate::object::{head, no_bind, Object};
use crate::queue::{Event, Failure, Format, Queue};
use crate::quick::Look;
use crate::state::State;
use crate::wait::{sleep_on, Sleep, LONGEST_SLEEP};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind: no_bind,
    control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: CqOps =
    CqOps { size: size_of::<CqOps>(), read, readfrom, readerr, sread, sreadfrom, signal: missing, strerror };

pub(crate) unsafe extern "C" fn open(
    fid: *mut FidDomain,
    attr: *const CqAttr,
    cq_out: *mut *mut FidCq,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (domain, attr) = unsafe { (domain::of(fid)?, attr.as_ref()) };
        let (format, wait) = attr.map_or((0, WAIT_NONE), |attr| (attr.format, attr.wait_obj));
        let sleep = match wait {
            WAIT_NONE | WAIT_YIELD => None,
            WAIT_UNSPEC | WAIT_FD => Some(Sleep::new()?),
            _ => return Err(errno::ENOSYS),
        };
        let queue = Queue::new(Format::new(format).ok_or(errno::ENOSYS)?, wait, sleep);
        let key = domain.enter().reports.queues.insert(queue);
        let fid = FidCq { fid: head(CLASS_CQ, context, &FID), ops: &OPS };
        // SAFETY: libfabric's promise.
        unsafe { cq_out.write(Object::open(fid, domain.clone(), key)) };
        Ok(())
    })
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    // SAFETY: libfabric's promise: an open queue.
    unsafe {
        Object::<FidCq>::end(fid, |state| &mut state.reports.queues, |queue| queue.endpoints.is_empty())
    }
}

unsafe extern "C" fn read(cq: *mut FidCq, out: *mut c_void, count: usize) -> isize {
    // SAFETY: libfabric's promise.
    unsafe { readfrom(cq, out, count, std::ptr::null_mut()) }
}

unsafe extern "C" fn readfrom(cq: *mut FidCq, out: *mut c_void, count: usize, from: *mut FiAddr) -> isize {
    // SAFETY: libfabric's promise.
    if let Some(taken) = unsafe { look(cq, out, count, from) } {
        return taken;
    }
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { take(cq, out, count, from) })
}

unsafe extern "C" fn control(fid: *mut Fid, command: i32, arg: *mut c_void) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open queue.
        let object = unsafe { Object::<FidCq>::of(fid) }?;
        let state = object.domain.enter();
        let queue = state.reports.queues.get(object.key).ok_or(libc::EINVAL)?;
        let answer = match (command, &queue.sleep) {
            (GETWAIT, Some(sleep)) => sleep.descriptor(),
            // What was not specified is a descriptor.
            (GETWAITOBJ, Some(_)) => WAIT_FD as i32,
            (GETWAITOBJ, None) => queue.wait as i32,
            _ => return Err(errno::ENOSYS),
        };
        // SAFETY: libfabric's promise: NULL, or room for an `int`.
        *unsafe { arg.cast::<i32>().as_mut() }.ok_or(libc::EINVAL)? = answer;
        Ok(())
    })
}

/// Whether a program may sleep on the descriptor of the queue: nothing waits in it, and what comes will tell.
///
/// # Errors
/// `EAGAIN` when not: the queue is to be read first.
///
/// # Safety
/// `cq` is an open queue.
pub(crate) unsafe fn try_wait(cq: *mut FidCq) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidCq>::of(cq) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let queue = reports.queues.get_mut(object.key).ok_or(libc::EINVAL)?;
    if let Some(sleep) = &mut queue.sleep {
        sleep.arm();
    }
    let bound = queue.endpoints.clone();
    let mut is_quiet = true;
    for key in bound {
        if let Some(endpoint) = endpoints.get_mut(key) {
            endpoint.progress(vectors, reports)?;
            is_quiet &= endpoint.arm()?;
        }
    }
    let is_empty = reports.queues.get(object.key).is_some_and(Queue::is_empty);
    if is_quiet && is_empty {
        Ok(())
    } else {
        Err(errno::EAGAIN)
    }
}

/// The short way of [`take`], for an empty queue of one endpoint. Nothing when it has to be gone the long way.
///
/// # Safety
/// As [`take`].
#[inline(always)]
unsafe fn look(cq: *mut FidCq, out: *mut c_void, count: usize, from: *mut FiAddr) -> Option<isize> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidCq>::of(cq) }.ok()?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let queue = reports.queues.get_mut(object.key)?;
    let endpoint = endpoints.get_mut(queue.lone_endpoint()?)?;
    if count == 0 || queue.is_read_in_vain(READS_PER_LOOK) {
        return None;
    }
    match endpoint.look(vectors, object.key) {
        Look::Received(event) => {
            queue.count_read(true);
            // SAFETY: the caller's promise.
            unsafe { queue.hand_out(&event, out, from, 0) };
            Some(1)
        }
        Look::Nothing => {
            queue.count_read(false);
            Some(-(errno::EAGAIN as isize))
        }
        Look::Ended(end) => {
            // That takes many steps, with a net again.
            guarded_int(|| {
                endpoint.end(vectors, reports, &end);
                Ok(())
            });
            None
        }
        Look::Poll => None,
    }
}

/// Takes events; looks for more when there is none.
///
/// # Safety
/// `cq` is an open queue, the rest is as [`Queue::read`] says.
unsafe fn take(cq: *mut FidCq, out: *mut c_void, count: usize, from: *mut FiAddr) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidCq>::of(cq) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    // Who has no room for an event asks for progress only.
    if count == 0 || reports.queues.get(object.key).ok_or(libc::EINVAL)?.is_empty() {
        let mut index = 0;
        // By number, since each may push to the queue that has the list.
        while let Some(key) = reports.queues.get(object.key).and_then(|queue| queue.endpoints.get(index)) {
            if let Some(endpoint) = endpoints.get_mut(*key) {
                endpoint.progress(vectors, reports)?;
            }
            index += 1;
        }
    }
    let queue = reports.queues.get_mut(object.key).ok_or(libc::EINVAL)?;
    // SAFETY: the caller's promise.
    let taken = unsafe { queue.read(out, count, from) };
    let in_vain = queue.count_read(taken.is_ok());
    if in_vain > 0 && in_vain.is_multiple_of(READS_PER_LOOK) {
        let bound = |key: &Key| endpoints.get(*key).is_some_and(Endpoint::shares_core);
        if in_vain.is_multiple_of(READS_PER_YIELD) || queue.endpoints.iter().any(bound) {
            drop(state);
            std::thread::yield_now();
        }
    }
    taken
}

/// Looks for the first event before sleep, which takes as long as many of them.
const LOOKS_BEFORE_SLEEP: u32 = 1 << 8;
/// Reads in vain until it is looked whether a peer needs this core,
const READS_PER_LOOK: u32 = 32;
/// and until it is offered in any case: programs do not sleep, and there may be more ranks than cores.
const READS_PER_YIELD: u32 = 1 << 8;

unsafe extern "C" fn sread(
    cq: *mut FidCq,
    out: *mut c_void,
    count: usize,
    _condition: *const c_void,
    timeout: i32,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { wait(cq, out, count, std::ptr::null_mut(), timeout) })
}

unsafe extern "C" fn sreadfrom(
    cq: *mut FidCq,
    out: *mut c_void,
    count: usize,
    from: *mut FiAddr,
    _condition: *const c_void,
    timeout: i32,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { wait(cq, out, count, from, timeout) })
}

/// As [`take`], waiting for the first event; a negative `timeout`, in ms, waits for ever.
///
/// # Safety
/// As [`take`].
unsafe fn wait(
    cq: *mut FidCq,
    out: *mut c_void,
    count: usize,
    from: *mut FiAddr,
    timeout: i32,
) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidCq>::of(cq) }?;
    let descriptor = {
        let state = object.domain.enter();
        let queue = state.reports.queues.get(object.key).ok_or(libc::EINVAL)?;
        if queue.wait == WAIT_NONE {
            return Err(errno::ENOSYS);
        }
        queue.sleep.as_ref().map(Sleep::descriptor)
    };
    let end = end_of(timeout);
    let mut looks = 0u32;
    loop {
        // SAFETY: the caller's promise.
        let taken = unsafe { take(cq, out, count, from) };
        let left = end.map_or(LONGEST_SLEEP, |end| end.saturating_duration_since(Instant::now()));
        if taken != Err(errno::EAGAIN) || left.is_zero() {
            return taken;
        }
        match descriptor.filter(|_| looks >= LOOKS_BEFORE_SLEEP) {
            // SAFETY: the caller's promise.
            Some(descriptor) if unsafe { try_wait(cq) }.is_ok() => sleep_on(descriptor, left),
            _ => std::thread::yield_now(),
        }
        looks = looks.saturating_add(1);
    }
}

unsafe extern "C" fn readerr(cq: *mut FidCq, out: *mut CqErrEntry, _flags: u64) -> isize {
    guarded(|| {
        // SAFETY: libfabric's promise: an open queue.
        let object = unsafe { Object::<FidCq>::of(cq) }?;
        let mut state = object.domain.enter();
        let queue = state.reports.queues.get_mut(object.key).ok_or(libc::EINVAL)?;
        let (event, failure) = queue.pop_failure().ok_or(errno::EAGAIN)?;
        // SAFETY: libfabric's promise: an entry of the program's API.
        unsafe { write_failure(object.domain.wishes.api, &event, &failure, out) };
        Ok(1)
    })
}

/// # Safety
/// `out` is an entry as long as API `api` has it.
unsafe fn write_failure(api: u32, event: &Event, failure: &Failure, out: *mut CqErrEntry) {
    let entry = CqErrEntry {
        op_context: event.context as *mut c_void,
        flags: event.flags,
        len: event.len,
        buf: event.buffer as *mut c_void,
        data: event.data,
        tag: event.tag,
        olen: failure.overflow,
        err: failure.errno,
        prov_errno: failure.code,
        err_data: std::ptr::null_mut(),
        err_data_size: 0,
        src_addr: event.source,
    };
    let len = if api >= version(1, 20) { size_of::<CqErrEntry>() } else { 80 };
    // SAFETY: the caller's promise; no program of an API before 1.5 gets so far.
    unsafe { std::ptr::copy_nonoverlapping((&raw const entry).cast::<u8>(), out.cast(), len) };
}

unsafe extern "C" fn strerror(
    _cq: *mut FidCq,
    code: i32,
    _data: *const c_void,
    text_out: *mut c_char,
    len: usize,
) -> *const c_char {
    let known = Error::from_code(code);
    if !text_out.is_null() {
        // SAFETY: libfabric's promise: room for `len` characters.
        unsafe { write_text(known.map_or("no error of gridnet", Error::text), text_out, len) };
    }
    text_out
}
