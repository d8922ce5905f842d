//! What each function does at its beginning and end.

use std::panic::{catch_unwind, AssertUnwindSafe};

use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;

use crate::status::{fail, gridnet_status};

/// What went wrong in a call: the class alone on hot paths, with a reason elsewhere.
#[derive(Debug)]
pub(crate) enum Failure {
    Plain(Error),
    Told(Box<Refusal>),
}

impl From<Error> for Failure {
    #[inline]
    fn from(error: Error) -> Failure {
        Failure::Plain(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Told(Box::new(refusal))
    }
}

/// A required pointer is NULL.
#[cold]
pub(crate) fn null(what: &str) -> Failure {
    Refusal::new(Error::Null, format!("{what} is NULL")).into()
}

/// An argument is out of its range.
#[cold]
pub(crate) fn invalid(why: impl Into<String>) -> Failure {
    Refusal::new(Error::Invalid, why).into()
}

/// Runs the body of a C function: no panic crosses into C.
#[inline(always)]
pub(crate) fn guarded(body: impl FnOnce() -> Result<gridnet_status, Failure>) -> gridnet_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => report(failure),
        Err(_) => report(Failure::Told(Box::new(Refusal::new(
            Error::Internal,
            "a panic was stopped at the C boundary",
        )))),
    }
}

#[cold]
fn report(failure: Failure) -> gridnet_status {
    match failure {
        Failure::Told(refusal) => fail(&refusal),
        Failure::Plain(error) => fail(&Refusal::new(error, error.text())),
    }
}

/// Writes an output.
///
/// # Safety
/// `out` is valid for a write of `T`.
#[inline(always)]
pub(crate) unsafe fn write_out<T>(out: *mut T, value: T) {
    // SAFETY: the caller's promise.
    unsafe { out.write(value) };
}
