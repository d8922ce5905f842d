//! Atomic operations on elements of more types than words: what interfaces of message passing ask for. The owner of the region runs
//! them.

use super::Atomic;
use crate::error::Error;
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "named as in Rust")]
pub enum ElementType {
    I8 = 1,
    U8 = 2,
    I16 = 3,
    U16 = 4,
    I32 = 5,
    U32 = 6,
    I64 = 7,
    U64 = 8,
    F32 = 9,
    F64 = 10,
}

/// What is done to an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ElementOp {
    /// The smaller of the element and the operand.
    Min = 1,
    /// The larger.
    Max = 2,
    /// The sum; of integers modulo their width.
    Sum = 3,
    /// The product; of integers modulo their width.
    Product = 4,
    /// 1 if one of the two is not 0, else 0.
    LogicalOr = 5,
    /// 1 if neither is 0, else 0.
    LogicalAnd = 6,
    /// 1 if exactly one of the two is not 0, else 0.
    LogicalXor = 7,
    /// Bitwise or, of integers.
    Or = 8,
    /// Bitwise and, of integers.
    And = 9,
    /// Bitwise exclusive or, of integers.
    Xor = 10,
    /// Nothing: the element is read.
    Read = 11,
    /// The operand takes its place.
    Write = 12,
    /// The operand takes its place if `compare` equals the element,
    SwapIfEqual = 13,
    /// if it does not,
    SwapIfUnequal = 14,
    /// if it is at most the element,
    SwapIfAtMost = 15,
    /// if it is below,
    SwapIfBelow = 16,
    /// if it is at least the element,
    SwapIfAtLeast = 17,
    /// if it is above.
    SwapIfAbove = 18,
    /// The bits of integers that are set in `compare` are replaced by those of the operand.
    SwapBits = 19,
}

/// An atomic operation on an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    kind: ElementType,
    op: ElementOp,
    /// With what, in the low bytes.
    operand: u64,
    /// See [`ElementOp::SwapIfEqual`] and those after it.
    compare: u64,
}

/// What an owner is asked to do to memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// To a word.
    Word(Atomic),
    /// To an element.
    Element(Element),
}

impl ElementType {
    const ALL: [ElementType; 10] = [
        ElementType::I8,
        ElementType::U8,
        ElementType::I16,
        ElementType::U16,
        ElementType::I32,
        ElementType::U32,
        ElementType::I64,
        ElementType::U64,
        ElementType::F32,
        ElementType::F64,
    ];

    /// The type of this number.
    pub fn from_number(number: u64) -> Option<ElementType> {
        Self::ALL.into_iter().find(|kind| *kind as u64 == number)
    }

    /// Its length in bytes, and its alignment.
    pub const fn bytes(self) -> usize {
        match self {
            ElementType::I8 | ElementType::U8 => 1,
            ElementType::I16 | ElementType::U16 => 2,
            ElementType::I32 | ElementType::U32 | ElementType::F32 => 4,
            ElementType::I64 | ElementType::U64 | ElementType::F64 => 8,
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, ElementType::F32 | ElementType::F64)
    }
}

impl ElementOp {
    const ALL: [ElementOp; 19] = [
        ElementOp::Min,
        ElementOp::Max,
        ElementOp::Sum,
        ElementOp::Product,
        ElementOp::LogicalOr,
        ElementOp::LogicalAnd,
        ElementOp::LogicalXor,
        ElementOp::Or,
        ElementOp::And,
        ElementOp::Xor,
        ElementOp::Read,
        ElementOp::Write,
        ElementOp::SwapIfEqual,
        ElementOp::SwapIfUnequal,
        ElementOp::SwapIfAtMost,
        ElementOp::SwapIfBelow,
        ElementOp::SwapIfAtLeast,
        ElementOp::SwapIfAbove,
        ElementOp::SwapBits,
    ];

    /// The operation of this number.
    pub fn from_number(number: u64) -> Option<ElementOp> {
        Self::ALL.into_iter().find(|op| *op as u64 == number)
    }

    /// True for what looks at bits.
    const fn is_bitwise(self) -> bool {
        matches!(self, ElementOp::Or | ElementOp::And | ElementOp::Xor | ElementOp::SwapBits)
    }
}

impl Element {
    /// An operation; `None` for one on bits of a number that is no integer.
    pub fn new(kind: ElementType, op: ElementOp, operand: u64, compare: u64) -> Option<Element> {
        (!kind.is_float() || !op.is_bitwise()).then_some(Element { kind, op, operand, compare })
    }

    /// True when nothing is written.
    pub fn only_reads(&self) -> bool {
        self.op == ElementOp::Read
    }

    /// What becomes of an element.
    fn outcome(&self, before: u64) -> u64 {
        let Element { op, operand, compare, .. } = *self;
        match self.kind {
            ElementType::I8 => u64::from(of_i8(op, before as i8, operand as i8, compare as i8) as u8),
            ElementType::U8 => u64::from(of_u8(op, before as u8, operand as u8, compare as u8)),
            ElementType::I16 => u64::from(of_i16(op, before as i16, operand as i16, compare as i16) as u16),
            ElementType::U16 => u64::from(of_u16(op, before as u16, operand as u16, compare as u16)),
            ElementType::I32 => u64::from(of_i32(op, before as i32, operand as i32, compare as i32) as u32),
            ElementType::U32 => u64::from(of_u32(op, before as u32, operand as u32, compare as u32)),
            ElementType::I64 => of_i64(op, before as i64, operand as i64, compare as i64) as u64,
            ElementType::U64 => of_u64(op, before, operand, compare),
            ElementType::F32 => {
                let float = |bits: u64| f32::from_bits(bits as u32);
                let after = of_f32(op, float(before), float(operand), float(compare));
                u64::from(after.to_bits())
            }
            ElementType::F64 => {
                let float = f64::from_bits;
                of_f64(op, float(before), float(operand), float(compare)).to_bits()
            }
        }
    }

    /// Runs the operation; the element as it was before.
    ///
    /// # Safety
    /// As [`Atomic::run`], of [`ElementType::bytes`].
    pub unsafe fn run(&self, at: *mut u8) -> u64 {
        macro_rules! run {
            ($word:ty, $value:ty) => {{
                // SAFETY: valid and aligned by the caller's promise; others access it atomically.
                let word = unsafe { &*at.cast::<$word>() };
                // Acquire and release, as operations on words have.
                let mut before = word.load(Ordering::Acquire);
                while !self.only_reads() {
                    let after = self.outcome(u64::from(before)) as $value;
                    match word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => break,
                        Err(now) => before = now,
                    }
                }
                u64::from(before)
            }};
        }
        match self.kind.bytes() {
            1 => run!(AtomicU8, u8),
            2 => run!(AtomicU16, u16),
            4 => run!(AtomicU32, u32),
            _ => run!(AtomicU64, u64),
        }
    }
}

impl Update {
    /// Length in bytes of what is changed, and its alignment.
    pub fn bytes(&self) -> usize {
        match self {
            Update::Word(atomic) => atomic.width.bytes(),
            Update::Element(element) => element.kind.bytes(),
        }
    }

    /// What is to be done as words of a frame: code, operand, compare.
    pub fn words(&self) -> [u64; 3] {
        match self {
            Update::Word(atomic) => [atomic.code(), atomic.operand, atomic.compare],
            Update::Element(element) => {
                let Element { kind, op, operand, compare } = *element;
                [(kind as u64) << 16 | (op as u64) << 8, operand, compare]
            }
        }
    }

    /// Reads what [`Self::words`] wrote; a peer's words may be anything.
    pub fn from_words([code, operand, compare]: [u64; 3]) -> Option<Update> {
        if code >> 16 == 0 {
            return Atomic::from_code(code, operand, compare).map(Update::Word);
        }
        let (kind, op) = (ElementType::from_number(code >> 16)?, ElementOp::from_number(code >> 8 & 0xff)?);
        let element = (code & 0xff == 0).then(|| Element::new(kind, op, operand, compare))?;
        element.map(Update::Element)
    }

    /// True when nothing is written.
    pub fn only_reads(&self) -> bool {
        matches!(self, Update::Element(element) if element.only_reads())
    }

    /// That it may lie at `address`.
    ///
    /// # Errors
    /// [`Error::Misaligned`].
    pub fn check_place(&self, address: u64) -> Result<(), Error> {
        if address & (self.bytes() as u64 - 1) == 0 {
            Ok(())
        } else {
            Err(Error::Misaligned)
        }
    }

    /// Runs it; what was there before.
    ///
    /// # Safety
    /// As [`Atomic::run`], of [`Self::bytes`].
    pub unsafe fn run(&self, at: *mut u8) -> u64 {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Update::Word(atomic) => atomic.run(at),
                Update::Element(element) => element.run(at),
            }
        }
    }
}

macro_rules! common {
    ($op:expr, $old:expr, $operand:expr, $compare:expr, $zero:expr, $one:expr, $($more:tt)*) => {{
        let truth = |is_true: bool| if is_true { $one } else { $zero };
        let swap = |is_true: bool| if is_true { $operand } else { $old };
        match $op {
            ElementOp::Min => swap($operand < $old),
            ElementOp::Max => swap($operand > $old),
            ElementOp::LogicalOr => truth($old != $zero || $operand != $zero),
            ElementOp::LogicalAnd => truth($old != $zero && $operand != $zero),
            ElementOp::LogicalXor => truth(($old != $zero) != ($operand != $zero)),
            ElementOp::Read => $old,
            ElementOp::Write => $operand,
            ElementOp::SwapIfEqual => swap($compare == $old),
            ElementOp::SwapIfUnequal => swap($compare != $old),
            ElementOp::SwapIfAtMost => swap($compare <= $old),
            ElementOp::SwapIfBelow => swap($compare < $old),
            ElementOp::SwapIfAtLeast => swap($compare >= $old),
            ElementOp::SwapIfAbove => swap($compare > $old),
            $($more)*
        }
    }};
}

macro_rules! integers {
    ($($name:ident $value:ty),*) => {$(
        fn $name(op: ElementOp, old: $value, operand: $value, compare: $value) -> $value {
            common!(op, old, operand, compare, 0, 1,
                ElementOp::Sum => old.wrapping_add(operand),
                ElementOp::Product => old.wrapping_mul(operand),
                ElementOp::Or => old | operand,
                ElementOp::And => old & operand,
                ElementOp::Xor => old ^ operand,
                ElementOp::SwapBits => (operand & compare) | (old & !compare),
            )
        }
    )*};
}

macro_rules! floats {
    ($($name:ident $value:ty),*) => {$(
        #[expect(clippy::float_cmp, reason = "what is asked for")]
        fn $name(op: ElementOp, old: $value, operand: $value, compare: $value) -> $value {
            common!(op, old, operand, compare, 0.0, 1.0,
                ElementOp::Sum => old + operand,
                ElementOp::Product => old * operand,
                // Refused when the operation was made.
                ElementOp::Or | ElementOp::And | ElementOp::Xor | ElementOp::SwapBits => old,
            )
        }
    )*};
}

integers!(of_i8 i8, of_u8 u8, of_i16 i16, of_u16 u16, of_i32 i32, of_u32 u32, of_i64 i64, of_u64 u64);
floats!(of_f32 f32, of_f64 f64);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Runs on an element between two others, which stay.
    fn run(kind: ElementType, op: ElementOp, before: u64, operand: u64, compare: u64) -> u64 {
        let len = kind.bytes();
        let mut memory = [u64::MAX; 3];
        let bytes = memory.as_mut_ptr().cast::<u8>();
        let element = Element::new(kind, op, operand, compare).unwrap();
        // SAFETY: inside the array, aligned as 8 bytes are.
        unsafe {
            let at = bytes.add(8);
            std::ptr::copy_nonoverlapping(before.to_le_bytes().as_ptr(), at, len);
            assert_eq!(element.run(at), before);
            let mut after = [0; 8];
            std::ptr::copy_nonoverlapping(at, after.as_mut_ptr(), len);
            let others = std::slice::from_raw_parts(at.add(len), 16 - len);
            assert!(others.iter().all(|byte| *byte == 0xff), "{kind:?} {op:?}");
            u64::from_le_bytes(after)
        }
    }

    #[test]
    fn integers_are_of_their_width_and_sign() {
        use ElementOp::*;
        use ElementType::*;
        for (kind, op, before, operand, after) in [
            (I8, Min, 0x05, 0xff, 0xff),
            (U8, Min, 0x05, 0xff, 0x05),
            (I16, Max, 0x8000, 1, 1),
            (U16, Max, 0x8000, 1, 0x8000),
            (U8, Sum, 0xff, 2, 1),
            (I32, Sum, 0xffff_ffff, 1, 0),
            (U64, Sum, u64::MAX, 2, 1),
            (I16, Product, 0xffff, 3, 0xfffd),
            (I64, Min, 0, u64::MAX, u64::MAX),
            (U32, LogicalOr, 0, 8, 1),
            (U32, LogicalAnd, 4, 8, 1),
            (U32, LogicalXor, 4, 8, 0),
            (U16, Or, 0xf0, 0x0f, 0xff),
            (U16, And, 0xf0, 0x3c, 0x30),
            (U16, Xor, 0xf0, 0x3c, 0xcc),
            (I32, Read, 7, 9, 7),
            (I32, Write, 7, 9, 9),
        ] {
            assert_eq!(run(kind, op, before, operand, 0), after, "{kind:?} {op:?}");
        }
    }

    #[test]
    fn floats_are_compared_and_added_as_such() {
        use ElementOp::*;
        let bits = f64::to_bits;
        for (op, before, operand, after) in [
            (Min, 1.5, -2.0, -2.0),
            (Max, 1.5, -2.0, 1.5),
            (Sum, 1.5, 0.25, 1.75),
            (Product, 1.5, -2.0, -3.0),
            (LogicalAnd, 1.5, -2.0, 1.0),
            (LogicalXor, 1.5, -2.0, 0.0),
        ] {
            assert_eq!(run(ElementType::F64, op, bits(before), bits(operand), 0), bits(after), "{op:?}");
        }
        let bits = |value: f32| u64::from(value.to_bits());
        assert_eq!(run(ElementType::F32, Sum, bits(0.5), bits(1.0), 0), bits(1.5));
        assert_eq!(Element::new(ElementType::F32, Xor, 0, 0), None);
    }

    #[test]
    fn swaps_ask_how_the_comparison_stands_to_the_element() {
        use ElementOp::*;
        for (op, when) in [
            (SwapIfEqual, [false, true, false]),
            (SwapIfUnequal, [true, false, true]),
            (SwapIfAtMost, [true, true, false]),
            (SwapIfBelow, [true, false, false]),
            (SwapIfAtLeast, [false, true, true]),
            (SwapIfAbove, [false, false, true]),
        ] {
            for (compare, swaps) in [4, 5, 6].into_iter().zip(when) {
                let after = if swaps { 77 } else { 5 };
                assert_eq!(run(ElementType::U32, op, 5, 77, compare), after, "{op:?} {compare}");
            }
        }
        assert_eq!(run(ElementType::U32, SwapBits, 0xabcd, 0x1234, 0x0ff0), 0xa23d);
    }

    #[test]
    fn words_of_frames_round_trip_or_are_refused() {
        for kind in 0..16 {
            for op in 0..24 {
                let known = (1..=10).contains(&kind) && (1..=19).contains(&op);
                let words = [kind << 16 | op << 8, 3, 4];
                let Some(update) = Update::from_words(words) else {
                    let is_float = kind >= 9;
                    let is_bitwise = (8..=10).contains(&op) || op == 19;
                    assert!(kind == 0 || !known || is_float && is_bitwise, "{kind} {op}");
                    continue;
                };
                assert!(known);
                assert_eq!(update.words(), words);
            }
        }
        assert_eq!(Update::from_words([1 << 16 | 1 << 8 | 8, 0, 0]), None);
        assert_eq!(Update::from_words([u64::MAX, 0, 0]), None);
        let word = Update::from_words([1 << 8 | 8, 5, 0]).unwrap();
        assert!(matches!(word, Update::Word(_)) && word.bytes() == 8);
    }
}
