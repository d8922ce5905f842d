//! Objects that programs hold: a `fid`, and behind it what is ours.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::matching::Key;

use crate::abi::object::{Fid, FidOps};
use crate::state::Domain;

/// An object of a domain: `F` is what libfabric knows of it, and comes first.
#[repr(C)]
pub(crate) struct Object<F> {
    fid: F,
    pub(crate) domain: Arc<Domain>,
    pub(crate) key: Key,
}

impl<F> Object<F> {
    /// A new object, in the hands of the program until [`Self::close`].
    pub(crate) fn open(fid: F, domain: Arc<Domain>, key: Key) -> *mut F {
        Box::into_raw(Box::new(Object { fid, domain, key })).cast()
    }

    /// The object behind a `fid`.
    ///
    /// # Safety
    /// `fid` was made by [`Self::open`] of the same `F` and is not closed; `F` begins with a [`Fid`].
    #[inline]
    pub(crate) unsafe fn of<'a, T>(fid: *mut T) -> Result<&'a Object<F>, i32> {
        // SAFETY: the caller's promise.
        unsafe { fid.cast::<Object<F>>().as_ref() }.ok_or(libc::EINVAL)
    }

    /// Ends the object.
    ///
    /// # Safety
    /// As [`Self::of`]; nothing uses it any more.
    pub(crate) unsafe fn close(fid: *mut Fid) {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(fid.cast::<Object<F>>()) });
    }
}

/// The head of an object.
pub(crate) fn head(class: usize, context: *mut c_void, ops: &'static FidOps) -> Fid {
    Fid { class, context, ops }
}

/// For objects to which nothing is bound.
pub(crate) unsafe extern "C" fn no_bind(_: *mut Fid, _: *mut Fid, _: u64) -> i32 {
    -libc::ENOSYS
}

/// For objects without commands.
pub(crate) unsafe extern "C" fn no_control(_: *mut Fid, _: i32, _: *mut c_void) -> i32 {
    -libc::ENOSYS
}
