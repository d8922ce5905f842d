//! Memory that was registered: the one place that touches bytes of the user.
//!
//! Every access is atomic, and all are relaxed: words of eight bytes where the place is aligned, single bytes at the ends. Accesses of
//! different sizes must not race, so the lock of the device is held for each; `Pd::register` says what that means for others.
//! Nobody makes a reference to the bytes that is not to an atomic number.

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

/// Bytes of a word.
const WORD: usize = 8;
/// Words that are read together.
const BLOCK: usize = 16;

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
        let Some(Parts { before, words, after }) = self.parts(offset, len) else { return false };
        out.reserve(len);
        out.extend(before.iter().map(|byte| byte.load(Ordering::Relaxed)));
        // Some words at a time are gathered first: the vector looks for room each time that it gets something.
        for words in words.chunks(BLOCK) {
            let mut block = [0; BLOCK * WORD];
            for (to, word) in block.as_chunks_mut().0.iter_mut().zip(words) {
                *to = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            out.extend_from_slice(&block[..words.len() * WORD]);
        }
        out.extend(after.iter().map(|byte| byte.load(Ordering::Relaxed)));
        true
    }

    /// Writes `bytes` from `offset` on; false, and nothing, when there is no room for all.
    #[must_use]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(Parts { before, words, after }) = self.parts(offset, bytes.len()) else { return false };
        let (head, rest) = bytes.split_at(before.len());
        let (middle, tail) = rest.as_chunks();
        before.iter().zip(head).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
        words
            .iter()
            .zip(middle)
            .for_each(|(to, word)| to.store(u64::from_ne_bytes(*word), Ordering::Relaxed));
        after.iter().zip(tail).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
        true
    }

    /// The word at `offset`; none when it is not within the memory, or not aligned there.
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU64> {
        self.parts(offset, WORD)?.words.first()
    }

    /// The pieces of `len` bytes from `offset` on; none when they are not all within the memory.
    fn parts(&self, offset: usize, len: usize) -> Option<Parts<'_>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        let start = self.base.wrapping_add(offset);
        let before = start.align_offset(WORD).min(len);
        let words = (len - before) / WORD;
        let after = len - before - words * WORD;
        let middle = start.wrapping_add(before);
        let end = middle.wrapping_add(words * WORD);
        // SAFETY: the three pieces follow each other within the memory, which is mapped as long as `self` lives (`Memory::new`); the
        // words are aligned, unless there are none, and then an aligned pointer stands for them. Others reach them by atomic
        // operations, or not at all meanwhile.
        unsafe {
            Some(Parts {
                before: slice::from_raw_parts(start.cast::<AtomicU8>(), before),
                words: match words {
                    0 => &[],
                    _ => slice::from_raw_parts(middle.cast::<AtomicU64>(), words),
                },
                after: slice::from_raw_parts(end.cast::<AtomicU8>(), after),
            })
        }
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

/// Bytes of a memory: aligned words, and what is in front of them and behind them.
struct Parts<'a> {
    before: &'a [AtomicU8],
    words: &'a [AtomicU64],
    after: &'a [AtomicU8],
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
