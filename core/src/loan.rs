//! Memory for loans: written by its sender, read by its receivers where it lies.
//!
//! A rail that lends allots ranges of what its peers can read; where there is none, loans are private memory, and what
//! is sent of them is copied as any message.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ptr::NonNull;

use crate::mem::Iov;

/// Alignment in bytes of loans and of private memory in their place: a cache line.
pub const LOAN_ALIGN: usize = 64;
/// Smallest unit in bytes in which loans are allotted: a page.
pub const LOAN_UNIT: usize = 4096;
/// Longest loan in bytes.
pub const MAX_LOAN: usize = 1 << 40;

/// Number of classes that [`class_of`] tells apart.
pub const CLASSES: usize = (MAX_LOAN.trailing_zeros() as usize - LOAN_UNIT.trailing_zeros() as usize + 1) * 4;

/// Class and size in bytes of the memory for a loan of `len` bytes: four sizes for each power of two, so that memory given
/// back serves the next loan of about the same length without a search, and at most a fifth of it is not used.
#[inline]
pub fn class_of(len: usize) -> Option<(usize, usize)> {
    if len <= LOAN_UNIT {
        return Some((0, LOAN_UNIT));
    }
    if len > MAX_LOAN {
        return None;
    }
    let power = len.next_power_of_two();
    let step = power / 8;
    let size = len.next_multiple_of(step.max(LOAN_UNIT));
    let shift = (power.trailing_zeros() - LOAN_UNIT.trailing_zeros()) as usize;
    Some((shift * 4 - (power - size) / step, size))
}

/// A range of memory that a rail lends: `capacity` bytes at `base`, which peers find at `position`.
#[derive(Debug, PartialEq, Eq)]
pub struct LoanMemory {
    /// Where it begins in what the fabric shares.
    pub position: u64,
    /// Where it begins in this process.
    pub base: NonNull<u8>,
    /// Its length in bytes.
    pub capacity: usize,
}

// SAFETY: an address; whoever holds the loan decides which thread touches the memory.
unsafe impl Send for LoanMemory {}

/// Zeroed private memory, aligned as loans are.
#[derive(Debug)]
pub struct PrivateMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: owned memory, reached by address only.
unsafe impl Send for PrivateMemory {}

impl PrivateMemory {
    /// Takes `len` bytes from the system; none when it has not as many. Pages are taken as they are touched.
    pub fn new(len: usize) -> Option<PrivateMemory> {
        let layout = layout_of(len)?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(PrivateMemory { base, len })
    }

    /// Its first byte.
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its length in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.len
    }

    /// The memory for an operation, which ends before the memory is dropped.
    pub(crate) fn iov(&self) -> Iov {
        // SAFETY: valid for reads and writes as long as `self` lives. Whoever starts an operation on it keeps it until the
        // operation has ended, and lets nobody else touch it meanwhile.
        unsafe { Iov::new(self.base.as_ptr(), self.len) }
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        if let Some(layout) = layout_of(self.len) {
            // SAFETY: taken from the allocator with this layout by `new`, and given back once.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

fn layout_of(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.max(1), LOAN_ALIGN).ok()
}

/// A message as a receive of loans hands it over. The C ABI's `gridnet_lent`, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Lent {
    /// The loan, to be given back.
    pub loan: u64,
    /// The message.
    pub data: *const u8,
    /// Its length in bytes.
    pub len: usize,
}

// SAFETY: an address and its length; what may be done with them is said where they are handed out.
unsafe impl Send for Lent {}

impl Lent {
    /// What a place holds before there is a message.
    pub const NONE: Lent = Lent { loan: 0, data: std::ptr::null(), len: 0 };
}

/// Where a receive of loans writes what it got.
#[derive(Debug, Clone, Copy)]
pub struct LentSlot(NonNull<Lent>);

// SAFETY: an address and a promise about it (see `LentSlot::new`); the promise holds on any thread.
unsafe impl Send for LentSlot {}

impl LentSlot {
    /// Names the place.
    ///
    /// # Safety
    /// Until the receive that takes it completes, the place is valid for writes, and nobody else touches it.
    #[inline]
    pub const unsafe fn new(place: NonNull<Lent>) -> LentSlot {
        LentSlot(place)
    }

    /// Writes what came; before the completion of the receive.
    #[inline]
    pub(crate) fn write(self, lent: Lent) {
        // SAFETY: the receive has not completed, so the promise of `new` holds.
        unsafe { self.0.as_ptr().write(lent) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn classes_hold_their_loans_and_waste_little(len in prop_oneof![0..100_000usize, 0..=MAX_LOAN]) {
            let (class, size) = class_of(len).unwrap();
            prop_assert!(class < CLASSES && size >= len && size.is_multiple_of(LOAN_UNIT));
            prop_assert!(len <= 4 * LOAN_UNIT || (size - len) * 4 < len);
            // Equal class, equal size: what was given back serves any loan of its class.
            prop_assert_eq!(class_of(size), Some((class, size)));
            if let Some((next, larger)) = class_of(size + 1) {
                prop_assert!(next > class && larger > size);
            }
        }
    }

    #[test]
    fn there_is_an_end_to_lengths() {
        assert_eq!(class_of(MAX_LOAN), Some((CLASSES - 4, MAX_LOAN)));
        assert_eq!((class_of(MAX_LOAN + 1), class_of(usize::MAX)), (None, None));
        assert!(PrivateMemory::new(usize::MAX).is_none());
        let memory = PrivateMemory::new(0).unwrap();
        assert_eq!((memory.capacity(), memory.base().as_ptr() as usize % LOAN_ALIGN), (0, 0));
    }
}
