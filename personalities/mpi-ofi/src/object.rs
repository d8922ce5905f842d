//! Objects that programs hold: a `fid`, and behind it what is ours.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::matching::{Key, Slab};

use crate::abi::object::{Fid, FidOps};
use crate::boundary::guarded_int;
use crate::state::{Domain, State};

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

    /// Ends an object that endpoints may be bound to, and its entry in the domain; `EBUSY` while one is.
    ///
    /// # Safety
    /// As [`Self::close`].
    pub(crate) unsafe fn end<T>(
        fid: *mut Fid,
        entries: impl FnOnce(&mut State) -> &mut Slab<T>,
        is_free: impl FnOnce(&T) -> bool,
    ) -> i32 {
        guarded_int(|| {
            // SAFETY: the caller's promise.
            let object = unsafe { Object::<F>::of(fid) }?;
            {
                let mut state = object.domain.enter();
                let entries = entries(&mut state);
                if entries.get(object.key).is_some_and(|entry| !is_free(entry)) {
                    return Err(libc::EBUSY);
                }
                entries.remove(object.key);
            }
            // SAFETY: the caller's promise.
            unsafe { Object::<F>::close(fid) };
            Ok(())
        })
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
