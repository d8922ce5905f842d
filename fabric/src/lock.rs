//! The lock of a fabric: the standard library's, or one that the thread sanitizer sees.
//!
//! The sanitizer knows what was compiled with it, and the standard library was not: what its locks order looks like a race,
//! and hiding that would hide races. With `--cfg gridnet_visible_lock` (`ci/san.sh`) the lock is made of an atomic, used
//! as the other one is; what it guards is the same.

#[cfg(not(gridnet_visible_lock))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(gridnet_visible_lock)]
pub(crate) use visible::{Mutex, MutexGuard};

#[cfg(gridnet_visible_lock)]
mod visible {
    use std::sync::LockResult;

    use gridnet_core::sync::{AtomicU32, Ordering};

    #[derive(Debug)]
    pub(crate) struct Mutex<T> {
        taken: AtomicU32,
        _value: T,
    }

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T> {
        lock: &'a Mutex<T>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex { taken: AtomicU32::new(0), _value: value }
        }

        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            // Acquire: pairs with the Release of the last owner.
            while self.taken.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                std::thread::yield_now();
            }
            Ok(MutexGuard { lock: self })
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.lock.taken.store(0, Ordering::Release);
        }
    }
}
