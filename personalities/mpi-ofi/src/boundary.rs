//! What each function does at its beginning and end.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::abi::errno;

/// Runs the body of a C function, whose errors are positive numbers: no panic crosses into C.
#[inline]
pub(crate) fn guarded(body: impl FnOnce() -> Result<isize, i32>) -> isize {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(count)) => count,
        Ok(Err(error)) => -(error as isize),
        Err(_) => -(errno::EOTHER as isize),
    }
}

/// The same, of functions that return `int` and say nothing but how it went.
#[inline]
pub(crate) fn guarded_int(body: impl FnOnce() -> Result<(), i32>) -> i32 {
    guarded(|| body().map(|()| 0)) as i32
}

/// Copies a text to a program's memory, shortened if need be, with a 0 at its end.
///
/// # Safety
/// `to` is valid for writes of `len` bytes, or `len` is 0.
pub(crate) unsafe fn write_text(text: &str, to: *mut libc::c_char, len: usize) {
    let Some(most) = len.checked_sub(1) else { return };
    let shown = text.len().min(most);
    // SAFETY: `shown` + 1 is at most `len`.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), shown);
        to.add(shown).write(0);
    }
}
