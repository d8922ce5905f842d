//! Memory that a device reads and writes by itself.
//!
//! Bytes are copied in and out, so that nobody has a reference to memory that the device may be at. Whoever has an arena keeps to
//! the rule of verbs: what a posted work request names is the device's until its completion.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ptr::NonNull;

use gridnet_core::mem::{Gather, PeerBytes};

/// Adapters work best on whole pages.
const ALIGNMENT: usize = 4096;

/// A piece of memory of its own, at first all zero. What was never written takes no pages.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    layout: Layout,
    /// Nobody gets the memory any more.
    is_leaked: bool,
}

// SAFETY: the memory belongs to this value alone, but for the device, which reaches it from any thread.
unsafe impl Send for Arena {}

impl Arena {
    /// So many bytes, at least one; none when the system has none.
    pub fn new(len: usize) -> Option<Arena> {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout has a size.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Arena { base, layout, is_leaked: false })
    }

    /// Where it starts.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// True for no bytes, which there never are.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// From now on the memory is not given back when this is dropped: a device may still write it.
    pub(crate) fn leak(&mut self) {
        self.is_leaked = true;
    }

    /// Copies `head`, then `payload`, to `at`; false, and nothing, where there is no room for both.
    #[must_use]
    pub(crate) fn fill(&mut self, at: usize, head: &[u8], payload: &Gather<'_>) -> bool {
        let len = head.len() + payload.len();
        let Some(to) = self.place(at, len) else { return false };
        // SAFETY: `place` has checked that so many bytes are there. They are neither the caller's, who has no other way to this
        // memory, nor at work in the device: the slot was given back, as `Outbox` keeps the books.
        unsafe {
            std::ptr::copy_nonoverlapping(head.as_ptr(), to, head.len());
            payload.copy_out(to.add(head.len()));
        }
        true
    }

    /// Copies bytes from `at` on; false, and nothing, where there are not as many.
    #[must_use]
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> bool {
        let Some(from) = self.place(at, into.len()) else { return false };
        // SAFETY: as many bytes are there, and nobody writes them: the receive was completed.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        true
    }

    /// The bytes there, for who copies them; none where there are not as many.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> Option<PeerBytes<'_>> {
        let from = self.place(at, len)?;
        // SAFETY: the memory lives as long as `self`. That a device writes it meanwhile would be no harm: bytes of a peer are
        // copied, and taken for arbitrary ones.
        Some(unsafe { PeerBytes::raw(from, len) })
    }

    fn place(&self, at: usize, len: usize) -> Option<*mut u8> {
        let end = at.checked_add(len)?;
        // SAFETY: `at` is within the memory.
        (end <= self.len()).then(|| unsafe { self.base.as_ptr().add(at) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: it was allocated with this layout, and whoever registered it has taken that back: see `Region`.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet_core::mem::Iov;

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut arena = Arena::new(100).unwrap();
        let mut bytes = [7; 10];
        // SAFETY: the bytes outlive the test, and nobody writes them.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), 10) };
        let payload = Gather::one(&iov);
        assert!(arena.fill(85, b"12345", &payload));
        assert!(!arena.fill(86, b"12345", &payload) && !arena.fill(usize::MAX, b"1", &payload));
        let mut read = [0; 15];
        assert!(arena.read(85, &mut read));
        assert_eq!(read, *b"12345\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07");
        assert!(!arena.read(86, &mut read));
        assert_eq!(arena.bytes(95, 5).map(|bytes| bytes.to_vec()), Some(vec![7; 5]));
        assert!(arena.bytes(95, 6).is_none());
    }
}
