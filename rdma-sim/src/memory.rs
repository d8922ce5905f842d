//! Memory that was registered: the one place that touches bytes of the user.
//!
//! Every access is atomic, and all are relaxed: words of eight bytes where the place is aligned, single bytes at the ends. Accesses of
//! different sizes must not race, so the lock of the device is held for each; `Pd::register` says what that means for others.
//! Nobody makes a reference to the bytes that is not to an atomic number.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

/// Bytes of a word.
const WORD: usize = 8;

/// A piece of memory, of the user or of its own.
pub(crate) struct Memory {
    base: *mut u8,
    len: usize,
    /// Where the memory is the device's own: what `base` points to, of which this is the owner.
    own: Option<NonNull<[AtomicU64]>>,
}

// SAFETY: the memory is reached by atomic operations only, from any thread; that it stays is the promise of `new`, or it is owned.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Names `len` bytes at `base`.
    ///
    /// # Safety
    /// Until this value is dropped the memory is mapped and can be read and written. Meanwhile, others reach it only when the
    /// protocol between them and the peers says that it is at rest, or words of it that all reach by atomic operations of one size.
    pub(crate) unsafe fn new(base: *mut u8, len: usize) -> Memory {
        Memory { base, len, own: None }
    }

    /// Memory of its own, all zero; a multiple of 8 bytes is taken.
    pub(crate) fn allocate(len: usize) -> Memory {
        let own: Box<[AtomicU64]> = (0..len.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect();
        let own = NonNull::from(Box::leak(own));
        Memory { base: own.as_ptr().cast(), len, own: Some(own) }
    }

    /// Where it starts.
    pub(crate) fn address(&self) -> u64 {
        self.base as u64
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True when it is the device's own.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Appends `len` bytes from `offset` on to `out`; false, and nothing, when they are not all within the memory.
    #[must_use]
    pub(crate) fn read(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> bool {
        let Some(span) = self.span(offset, len) else { return false };
        out.reserve(len);
        for piece in span {
            match piece {
                Piece::Word(word) => out.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()),
                Piece::Byte(byte) => out.push(byte.load(Ordering::Relaxed)),
            }
        }
        true
    }

    /// Writes `bytes` from `offset` on; false, and nothing, when there is no room for all.
    #[must_use]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(span) = self.span(offset, bytes.len()) else { return false };
        let mut rest = bytes;
        for piece in span {
            match (piece, rest) {
                (Piece::Word(to), [a, b, c, d, e, f, g, h, after @ ..]) => {
                    to.store(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), Ordering::Relaxed);
                    rest = after;
                }
                (Piece::Byte(to), [byte, after @ ..]) => {
                    to.store(*byte, Ordering::Relaxed);
                    rest = after;
                }
                // The span is as long as the bytes.
                _ => break,
            }
        }
        true
    }

    /// The word at `offset`; none when it is not within the memory, or not aligned there.
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU64> {
        let mut span = self.span(offset, WORD)?;
        match span.next() {
            Some(Piece::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn span(&self, offset: usize, len: usize) -> Option<Span<'_>> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(Span { memory: self, at: offset, end })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(own) = self.own {
            // SAFETY: it was leaked by `allocate`, is freed once, and nobody has a reference that outlives this value.
            drop(unsafe { Box::from_raw(own.as_ptr()) });
        }
    }
}

/// Bytes of a memory from `at` to `end`, which is not beyond its length: as words where they are aligned.
struct Span<'a> {
    memory: &'a Memory,
    at: usize,
    end: usize,
}

enum Piece<'a> {
    Word(&'a AtomicU64),
    Byte(&'a AtomicU8),
}

impl<'a> Iterator for Span<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let left = self.end - self.at;
        if left == 0 {
            return None;
        }
        let place = self.memory.base.wrapping_add(self.at);
        if left >= WORD && place.cast::<AtomicU64>().is_aligned() {
            self.at += WORD;
            // SAFETY: eight bytes from `place` on are within the memory, which is mapped as long as `memory` lives (`Memory::new`),
            // and aligned; others reach them by atomic operations, or not at all meanwhile.
            return Some(Piece::Word(unsafe { AtomicU64::from_ptr(place.cast()) }));
        }
        self.at += 1;
        // SAFETY: as above, for one byte.
        Some(Piece::Byte(unsafe { AtomicU8::from_ptr(place) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_any_place() {
        for offset in 0..17 {
            for len in 0..40 {
                let memory = Memory::allocate(64);
                let bytes: Vec<u8> = (1..=len as u8).collect();
                assert!(memory.write(offset, &bytes));
                let mut all = Vec::new();
                assert!(memory.read(0, 64, &mut all));
                assert_eq!(all[offset..offset + len], bytes);
                assert!(all[..offset].iter().chain(&all[offset + len..]).all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn nothing_is_reached_beyond_the_end() {
        let memory = Memory::allocate(10);
        let mut out = Vec::new();
        assert!(!memory.read(8, 3, &mut out) && out.is_empty());
        assert!(!memory.read(usize::MAX, 2, &mut out));
        assert!(!memory.write(10, &[1]));
        assert!(memory.write(10, &[]));
        assert!(memory.word(8).is_none() && memory.word(1).is_none() && memory.word(0).is_some());
    }

    #[test]
    fn memory_of_others_is_written_in_place() {
        let mut bytes = vec![7u8; 32];
        // SAFETY: the vector outlives the memory, and is not looked at meanwhile.
        let memory = unsafe { Memory::new(bytes.as_mut_ptr(), bytes.len()) };
        assert!(memory.write(3, &[1, 2, 3]));
        drop(memory);
        assert_eq!(bytes[..8], [7, 7, 7, 1, 2, 3, 7, 7]);
    }
}
