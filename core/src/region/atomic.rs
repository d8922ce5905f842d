//! Atomic operations on regions.

use crate::error::Error;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What is done to the word. The C ABI's `GRIDNET_ATOMIC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AtomicOp {
    /// Adds the operand, modulo the width.
    Add = 1,
    /// Bitwise and with the operand.
    And = 2,
    /// Bitwise or with the operand.
    Or = 3,
    /// Bitwise exclusive or with the operand.
    Xor = 4,
    /// Replaces the word by the operand.
    Swap = 5,
    /// Replaces the word by the operand when it equals `compare`.
    CompareSwap = 6,
}

/// Width of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Width {
    /// 32 bits.
    Four = 4,
    /// 64 bits.
    Eight = 8,
}

/// An atomic operation. Words are of the owner's byte order, which on one host is everybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atomic {
    /// What is done.
    pub op: AtomicOp,
    /// To how wide a word.
    pub width: Width,
    /// With what; of 32-bit words the low half counts.
    pub operand: u64,
    /// See [`AtomicOp::CompareSwap`].
    pub compare: u64,
}

impl AtomicOp {
    /// The operation of this number.
    pub const fn from_number(number: u32) -> Option<AtomicOp> {
        Some(match number {
            1 => AtomicOp::Add,
            2 => AtomicOp::And,
            3 => AtomicOp::Or,
            4 => AtomicOp::Xor,
            5 => AtomicOp::Swap,
            6 => AtomicOp::CompareSwap,
            _ => return None,
        })
    }
}

impl Width {
    /// The width of so many bytes.
    pub const fn from_bytes(bytes: u32) -> Option<Width> {
        match bytes {
            4 => Some(Width::Four),
            8 => Some(Width::Eight),
            _ => None,
        }
    }

    /// In bytes.
    #[inline(always)]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

impl Atomic {
    /// Operation and width as a word of a frame.
    pub fn code(&self) -> u64 {
        (self.op as u64) << 8 | self.width as u64
    }

    /// Reads what [`Self::code`] wrote; a peer's word may be anything.
    pub fn from_code(code: u64, operand: u64, compare: u64) -> Option<Atomic> {
        let op = AtomicOp::from_number(u32::try_from(code >> 8).ok()?)?;
        let width = Width::from_bytes((code & 0xff) as u32)?;
        Some(Atomic { op, width, operand, compare })
    }

    /// That a word of this width may lie at `address`.
    ///
    /// # Errors
    /// [`Error::Misaligned`].
    #[inline(always)]
    pub fn check_place(&self, address: u64) -> Result<(), Error> {
        if address & (self.width as u64 - 1) == 0 {
            Ok(())
        } else {
            Err(Error::Misaligned)
        }
    }

    /// Runs the operation; the word as it was before.
    ///
    /// # Safety
    /// `at` is valid for reads and writes of the width, aligned to it, and while this runs only accessed by atomic
    /// operations, of this process or of others.
    #[inline(always)]
    pub unsafe fn run(&self, at: *mut u8) -> u64 {
        match self.width {
            // SAFETY: valid and aligned by the caller's promise; others access it atomically.
            Width::Eight => run_64(self, unsafe { &*at.cast::<AtomicU64>() }),
            // SAFETY: as above.
            Width::Four => u64::from(run_32(self, unsafe { &*at.cast::<AtomicU32>() })),
        }
    }
}

macro_rules! run {
    ($name:ident, $word:ty, $value:ty) => {
        #[inline(always)]
        fn $name(atomic: &Atomic, word: &$word) -> $value {
            // Acquire and release: what was written before an operation is seen by whoever sees its result.
            const ORDER: Ordering = Ordering::AcqRel;
            let operand = atomic.operand as $value;
            match atomic.op {
                AtomicOp::Add => word.fetch_add(operand, ORDER),
                AtomicOp::And => word.fetch_and(operand, ORDER),
                AtomicOp::Or => word.fetch_or(operand, ORDER),
                AtomicOp::Xor => word.fetch_xor(operand, ORDER),
                AtomicOp::Swap => word.swap(operand, ORDER),
                AtomicOp::CompareSwap => {
                    match word.compare_exchange(atomic.compare as $value, operand, ORDER, Ordering::Acquire) {
                        Ok(old) | Err(old) => old,
                    }
                }
            }
        }
    };
}

run!(run_32, AtomicU32, u32);
run!(run_64, AtomicU64, u64);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const OPS: [AtomicOp; 6] =
        [AtomicOp::Add, AtomicOp::And, AtomicOp::Or, AtomicOp::Xor, AtomicOp::Swap, AtomicOp::CompareSwap];

    fn run_on(word: &mut u64, atomic: Atomic) -> u64 {
        // SAFETY: a private aligned word.
        unsafe { atomic.run(std::ptr::from_mut(word).cast()) }
    }

    #[test]
    fn each_operation_does_what_it_says_at_both_widths() {
        let expected: [u64; 6] = [0xf0 + 0x3c, 0xf0 & 0x3c, 0xf0 | 0x3c, 0xf0 ^ 0x3c, 0x3c, 0x3c];
        for width in [Width::Four, Width::Eight] {
            for (op, expected) in OPS.into_iter().zip(expected) {
                let mut word = 0xf0;
                let atomic = Atomic { op, width, operand: 0x3c, compare: 0xf0 };
                assert_eq!(run_on(&mut word, atomic), 0xf0, "{op:?}");
                assert_eq!(word, expected, "{op:?}");
                assert_eq!(Atomic::from_code(atomic.code(), 0x3c, 0xf0), Some(atomic));
            }
        }
        let mut word = 1;
        let miss = Atomic { op: AtomicOp::CompareSwap, width: Width::Eight, operand: 9, compare: 2 };
        assert_eq!((run_on(&mut word, miss), word), (1, 1));
    }

    #[test]
    fn narrow_words_leave_their_neighbours_alone() {
        let mut words = [u32::MAX, 7];
        let add = Atomic { op: AtomicOp::Add, width: Width::Four, operand: 1, compare: 0 };
        // SAFETY: a private aligned word.
        let old = unsafe { add.run(words.as_mut_ptr().cast()) };
        assert_eq!((old, words), (u64::from(u32::MAX), [0, 7]));
    }

    #[test]
    fn strange_codes_and_crooked_places_are_refused() {
        for code in [0, 1, 8, 7 << 8 | 8, 1 << 8 | 2, u64::MAX, 1 << 40 | 1 << 8 | 8] {
            assert_eq!(Atomic::from_code(code, 0, 0), None, "{code:#x}");
        }
        let add = Atomic { op: AtomicOp::Add, width: Width::Eight, operand: 1, compare: 0 };
        assert_eq!(add.check_place(16), Ok(()));
        assert_eq!(add.check_place(12), Err(Error::Misaligned));
        assert_eq!(Atomic { width: Width::Four, ..add }.check_place(12), Ok(()));
    }
}
