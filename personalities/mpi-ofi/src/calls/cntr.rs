//! `fid_cntr`.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use crate::abi::errno;
use crate::abi::flag::{WAIT_NONE, WAIT_UNSPEC, WAIT_YIELD};
use crate::abi::object::{missing, CntrAttr, CntrOps, Fid, FidCntr, FidDomain, FidOps, CLASS_CNTR};
use crate::boundary::guarded_int;
use crate::calls::domain;
use crate::object::{head, no_bind, no_control, Object};
use crate::state::{Counter, State};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind: no_bind,
    control: no_control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: CntrOps = CntrOps { size: size_of::<CntrOps>(), read, readerr, add, set, wait, adderr, seterr };

pub(crate) unsafe extern "C" fn open(
    fid: *mut FidDomain,
    attr: *const CntrAttr,
    cntr_out: *mut *mut FidCntr,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (domain, attr) = unsafe { (domain::of(fid)?, attr.as_ref()) };
        let wait = attr.map_or(WAIT_NONE, |attr| attr.wait_obj);
        if !matches!(wait, WAIT_NONE | WAIT_UNSPEC | WAIT_YIELD) {
            return Err(errno::ENOSYS);
        }
        let key = domain.enter().reports.counters.insert(Counter::default());
        let fid = FidCntr { fid: head(CLASS_CNTR, context, &FID), ops: &OPS };
        // SAFETY: libfabric's promise.
        unsafe { cntr_out.write(Object::open(fid, domain.clone(), key)) };
        Ok(())
    })
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    // SAFETY: libfabric's promise: an open counter.
    unsafe {
        Object::<FidCntr>::end(
            fid,
            |state| &mut state.reports.counters,
            |counter| counter.endpoints.is_empty(),
        )
    }
}

/// Goes in with the counter, after a look at what has come in.
///
/// # Safety
/// `cntr` is an open counter.
unsafe fn look<T>(cntr: *mut FidCntr, then: impl FnOnce(&mut Counter) -> T) -> Result<T, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidCntr>::of(cntr) }?;
    let mut state = object.domain.enter();
    let state: &mut State = &mut state;
    let endpoints = state.reports.counters.get(object.key).map(|counter| counter.endpoints.clone());
    state.progress(&endpoints.unwrap_or_default())?;
    state.reports.counters.get_mut(object.key).map(then).ok_or(libc::EINVAL)
}

/// A counter as a function without errors reads it.
///
/// # Safety
/// As [`look`].
unsafe fn value(cntr: *mut FidCntr, which: impl FnOnce(&Counter) -> u64) -> u64 {
    let mut value = 0;
    guarded_int(|| {
        // SAFETY: the caller's promise.
        value = unsafe { look(cntr, |counter| which(counter)) }?;
        Ok(())
    });
    value
}

unsafe extern "C" fn read(cntr: *mut FidCntr) -> u64 {
    // SAFETY: libfabric's promise.
    unsafe { value(cntr, |counter| counter.value) }
}

unsafe extern "C" fn readerr(cntr: *mut FidCntr) -> u64 {
    // SAFETY: libfabric's promise.
    unsafe { value(cntr, |counter| counter.errors) }
}

unsafe extern "C" fn add(cntr: *mut FidCntr, more: u64) -> i32 {
    // SAFETY: libfabric's promise.
    guarded_int(|| unsafe { look(cntr, |counter| counter.value = counter.value.wrapping_add(more)) })
}

unsafe extern "C" fn set(cntr: *mut FidCntr, value: u64) -> i32 {
    // SAFETY: libfabric's promise.
    guarded_int(|| unsafe { look(cntr, |counter| counter.value = value) })
}

unsafe extern "C" fn adderr(cntr: *mut FidCntr, more: u64) -> i32 {
    // SAFETY: libfabric's promise.
    guarded_int(|| unsafe { look(cntr, |counter| counter.errors = counter.errors.wrapping_add(more)) })
}

unsafe extern "C" fn seterr(cntr: *mut FidCntr, value: u64) -> i32 {
    // SAFETY: libfabric's promise.
    guarded_int(|| unsafe { look(cntr, |counter| counter.errors = value) })
}

/// Waits until the counter has come to `threshold`, or an operation fails; a negative `timeout`, in ms, waits for ever.
unsafe extern "C" fn wait(cntr: *mut FidCntr, threshold: u64, timeout: i32) -> i32 {
    guarded_int(|| {
        let end = end_of(timeout);
        // SAFETY: libfabric's promise.
        let errors = unsafe { look(cntr, |counter| counter.errors) }?;
        loop {
            // SAFETY: libfabric's promise.
            let (value, now) = unsafe { look(cntr, |counter| (counter.value, counter.errors)) }?;
            if value >= threshold {
                return Ok(());
            }
            if now != errors {
                return Err(errno::EAVAIL);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(libc::ETIMEDOUT);
            }
            std::thread::yield_now();
        }
    })
}

/// When a wait of so many ms ends; `None` for never.
pub(crate) fn end_of(timeout_ms: i32) -> Option<Instant> {
    u64::try_from(timeout_ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms))
}
