//! Objects behind pointers.
//!
//! Memory of a handle is never given back to the system, and waits in a queue before it serves again as a handle of the
//! same kind: a call with a closed handle reads valid memory, finds it closed, and says so.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;

use crate::boundary::{null, Failure};

/// Closed handles that wait before one is used again.
const QUARANTINE: usize = 256;

/// What can stand behind a handle.
pub(crate) trait Object: Sized + 'static {
    /// Marks live handles of this kind.
    const MAGIC: u64;
    /// What the kind is called in messages.
    const KIND: &'static str;
    /// Closed handles of this kind.
    fn closed() -> &'static Mutex<VecDeque<Retired<Self>>>;
}

/// A handle as C sees it: an address.
#[repr(C)]
pub(crate) struct Handle<T> {
    magic: AtomicU64,
    object: UnsafeCell<Option<T>>,
}

/// A closed handle.
pub(crate) struct Retired<T>(*mut Handle<T>);

// SAFETY: nobody uses a closed handle but to read its atomic magic.
unsafe impl<T> Send for Retired<T> {}

impl<T: Object> Handle<T> {
    /// Puts an object behind a handle.
    pub(crate) fn open(object: T) -> *mut Handle<T> {
        let reused = {
            let mut closed = T::closed().lock().unwrap_or_else(PoisonError::into_inner);
            if closed.len() > QUARANTINE {
                closed.pop_front()
            } else {
                None
            }
        };
        let handle = match reused {
            Some(retired) => retired.0,
            None => {
                Box::into_raw(Box::new(Handle { magic: AtomicU64::new(0), object: UnsafeCell::new(None) }))
            }
        };
        // SAFETY: a handle that is not live is only ours: it has just left the queue, or the allocator.
        unsafe {
            *(*handle).object.get() = Some(object);
            (*handle).magic.store(T::MAGIC, Ordering::Release);
        }
        handle
    }

    /// The object behind a handle, if it is one: [`Self::get`] for hot paths.
    ///
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    pub(crate) unsafe fn peek<'a>(handle: *const Handle<T>) -> Option<&'a T> {
        // SAFETY: handles of all kinds begin with their magic, and stay readable for ever.
        if handle.is_null() || unsafe { (*handle).magic.load(Ordering::Acquire) } != T::MAGIC {
            return None;
        }
        // SAFETY: live, of this kind, and not closed meanwhile by the caller's promise.
        unsafe { (*(*handle).object.get()).as_ref() }
    }

    /// The object behind a handle.
    ///
    /// # Safety
    /// `handle` is NULL, or an address that [`Self::open`] of any kind gave. While the result is used, nobody closes
    /// the handle.
    #[inline(always)]
    pub(crate) unsafe fn get<'a>(handle: *const Handle<T>) -> Result<&'a T, Failure> {
        // SAFETY: the caller's promise.
        match unsafe { Self::peek(handle) } {
            Some(object) => Ok(object),
            None if handle.is_null() => Err(null(T::KIND)),
            None => Err(not_a_handle(T::KIND)),
        }
    }

    /// Closes a handle; the object comes out.
    ///
    /// # Safety
    /// As [`Self::get`], and nobody else uses the object.
    pub(crate) unsafe fn close(handle: *mut Handle<T>) -> Result<T, Failure> {
        // SAFETY: the caller's promise.
        unsafe { Self::get(handle)? };
        // SAFETY: live and ours; the exchange lets one of several closers through.
        let object = unsafe {
            let was = (*handle).magic.compare_exchange(T::MAGIC, 0, Ordering::AcqRel, Ordering::Acquire);
            was.map_err(|_| not_a_handle(T::KIND))?;
            (*(*handle).object.get()).take()
        };
        T::closed().lock().unwrap_or_else(PoisonError::into_inner).push_back(Retired(handle));
        object.ok_or_else(|| not_a_handle(T::KIND))
    }
}

#[cold]
fn not_a_handle(kind: &str) -> Failure {
    Refusal::new(Error::Handle, format!("the {kind} is closed, or is not a handle of this kind")).into()
}

/// Makes a type an [`Object`].
macro_rules! object {
    ($object:ty, $magic:literal, $kind:literal) => {
        impl crate::handle::Object for $object {
            const MAGIC: u64 = u64::from_le_bytes(*$magic);
            const KIND: &'static str = $kind;
            fn closed() -> &'static std::sync::Mutex<std::collections::VecDeque<crate::handle::Retired<Self>>>
            {
                static CLOSED: std::sync::Mutex<std::collections::VecDeque<crate::handle::Retired<$object>>> =
                    std::sync::Mutex::new(std::collections::VecDeque::new());
                &CLOSED
            }
        }
    };
}
pub(crate) use object;

#[cfg(test)]
mod tests {
    use super::*;

    struct Apple(u32);
    struct Pear;
    object!(Apple, b"APPLE\0\0\0", "apple");
    object!(Pear, b"PEAR\0\0\0\0", "pear");

    #[test]
    fn closed_and_foreign_handles_are_found_out() {
        let apple = Handle::open(Apple(7));
        let pear = Handle::open(Pear);
        // SAFETY: handles of this test, used by one thread.
        unsafe {
            assert_eq!(Handle::get(apple).unwrap().0, 7);
            assert!(Handle::<Apple>::get(pear.cast()).is_err());
            assert!(Handle::<Apple>::get(std::ptr::null()).is_err());
            assert_eq!(Handle::close(apple).unwrap().0, 7);
            assert!(Handle::get(apple).is_err());
            assert!(Handle::close(apple).is_err());
            // Many more live and die before the memory serves again.
            for _ in 0..QUARANTINE / 2 {
                let other = Handle::open(Apple(1));
                assert_ne!(other, apple);
                Handle::close(other).unwrap();
            }
            assert!(Handle::get(apple).is_err());
            Handle::close(pear).unwrap();
        }
    }
}
