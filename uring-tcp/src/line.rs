//! What a connection shares with whoever sends what has waited.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gridnet_core::sync::{AtomicU32, Ordering};

use crate::out::Out;
use crate::socket::Stream;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: Stream,
    out: Mutex<Out>,
    /// 1 while the courier has it in its list.
    listed: AtomicU32,
}

impl Line {
    pub(crate) fn new(stream: Stream, out: Out) -> Line {
        Line { stream, out: Mutex::new(out), listed: AtomicU32::new(0) }
    }

    /// What goes out. Held for moments only.
    #[inline]
    pub(crate) fn out(&self) -> MutexGuard<'_, Out> {
        // What the lock protects is consistent between any two statements: a panic elsewhere does not spoil it.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for whoever has to put it into the courier's list. To be asked by whoever holds what goes out.
    #[inline]
    pub(crate) fn must_be_listed(&self) -> bool {
        // Relaxed: the lock orders the two. If the courier took it before us, we see that the line is not in the list any more;
        // if it takes it after us, it sends what we have appended.
        self.listed.load(Ordering::Relaxed) == 0 && self.listed.swap(1, Ordering::Relaxed) == 0
    }

    /// Sends what waits, and says whether anything did; the owner learns of what goes wrong when it tries the same.
    pub(crate) fn deliver(&self) -> bool {
        // Relaxed: see `must_be_listed`.
        self.listed.store(0, Ordering::Relaxed);
        let mut out = self.out();
        let waits = out.unsent() > 0 && !out.is_full();
        if waits {
            let _ = out.flush(&self.stream);
        }
        waits
    }
}
