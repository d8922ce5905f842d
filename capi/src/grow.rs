//! Structs that begin with their size, and grow at their end from version to version.
//!
//! A program may be older than the library, and then has a shorter struct: what it lacks is off, or is not told. It may be newer:
//! then what this library does not know has to be zero, which is off, and is told as zero.

use std::mem::MaybeUninit;

use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;

use crate::boundary::{null, Failure};

/// A struct of the C interface that may grow at its end.
///
/// # Safety
/// It is `repr(C)`, its first field is its size as a `usize`, it has no padding, and zeroes are a value for every field.
pub(crate) unsafe trait Growing: Copy {
    /// What it is called.
    const NAME: &'static str;
    /// Its size when it was published: programs have no shorter one. A number, which does not grow with the struct.
    const FIRST: usize;
}

/// The largest struct that is believed to be one: far more than any will grow to.
const MOST: usize = 4096;

/// Reads a parameter struct.
///
/// # Safety
/// `params` is NULL, or valid for reads of as many bytes as its first field says.
pub(crate) unsafe fn read_params<T: Growing>(params: *const T) -> Result<Option<T>, Failure> {
    if params.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; the size is the first field of a `Growing`.
    let size = unsafe { params.cast::<usize>().read() };
    if size == size_of::<T>() {
        // SAFETY: the caller vouches for as many bytes as the size says.
        return Ok(Some(unsafe { params.read() }));
    }
    check::<T>(size)?;
    // SAFETY: as above.
    unsafe { read_other(params.cast(), size) }.map(Some)
}

/// As [`read_params`], of another size, which was checked.
///
/// # Safety
/// `from` is valid for reads of `size` bytes.
#[cold]
unsafe fn read_other<T: Growing>(from: *const u8, size: usize) -> Result<T, Failure> {
    let known = size.min(size_of::<T>());
    for at in known..size {
        // SAFETY: below `size`.
        if unsafe { from.add(at).read() } != 0 {
            let why = format!(
                "{}: the field size is {size}, and something is set behind byte {at}; this library knows {known}",
                T::NAME
            );
            return Err(Refusal::new(Error::StructSize, why).into());
        }
    }
    let mut read = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are within both; zeroes are a value of what was not copied, by the promise of `Growing`.
    unsafe {
        std::ptr::copy_nonoverlapping(from, read.as_mut_ptr().cast(), known);
        Ok(read.assume_init())
    }
}

/// The size that a program says that its output struct has.
///
/// # Safety
/// `out` is NULL, or points to a struct whose first field is set.
pub(crate) unsafe fn size_of_out<T: Growing>(out: *const T, what: &str) -> Result<usize, Failure> {
    if out.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL; the size is the first field of a `Growing`.
    let size = unsafe { out.cast::<usize>().read() };
    check::<T>(size)?;
    Ok(size)
}

/// Writes as much of `value` as the program's struct of `size` bytes has room for, and zeroes behind it. The size stays as the
/// program has set it.
///
/// # Safety
/// `out` is valid for writes of `size` bytes, which [`size_of_out`] has given.
pub(crate) unsafe fn write_grown<T: Growing>(out: *mut T, size: usize, value: &T) {
    let known = size.min(size_of::<T>());
    let (to, from) = (out.cast::<u8>(), std::ptr::from_ref(value).cast::<u8>());
    let first = size_of::<usize>();
    // SAFETY: all within `size` bytes, by the caller's promise, and within `value`, which has no padding.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(first), to.add(first), known - first);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
}

fn check<T: Growing>(size: usize) -> Result<(), Failure> {
    if (T::FIRST..=MOST).contains(&size) && size.is_multiple_of(align_of::<T>()) {
        return Ok(());
    }
    let (name, accepted) = (T::NAME, size_of::<T>());
    let why = format!("{name}: the field size is {size}; accepted: {accepted}, or that of another version");
    Err(Refusal::new(Error::StructSize, why).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct that has grown by two fields.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Grown {
        size: usize,
        old: u64,
        new: u64,
        newer: u64,
    }

    // SAFETY: of this form; numbers.
    unsafe impl Growing for Grown {
        const NAME: &'static str = "grown";
        const FIRST: usize = 16;
    }

    /// What a program of another version has in memory, with a word behind it that is not its own.
    fn words(size: usize, words: [u64; 5]) -> [u64; 6] {
        let [a, b, c, d, e] = words;
        [size as u64, a, b, c, d, e]
    }

    fn read(program: &[u64; 6]) -> Result<Grown, Error> {
        // SAFETY: as many words as the sizes in these tests say, or the size is refused.
        let read = unsafe { read_params(program.as_ptr().cast::<Grown>()) };
        match read {
            Ok(read) => Ok(read.expect("not NULL")),
            Err(Failure::Told(refusal)) => Err(refusal.error),
            Err(Failure::Plain(error)) => Err(error),
        }
    }

    #[test]
    fn what_an_older_program_lacks_is_zero() {
        let grown = |size, new, newer| Ok(Grown { size, old: 1, new, newer });
        assert_eq!(read(&words(16, [1, 2, 3, 4, 5])), grown(16, 0, 0));
        assert_eq!(read(&words(24, [1, 2, 3, 4, 5])), grown(24, 2, 0));
        assert_eq!(read(&words(32, [1, 2, 3, 4, 5])), grown(32, 2, 3));
    }

    #[test]
    fn what_a_newer_program_sets_is_not_ignored() {
        assert_eq!(read(&words(48, [1, 2, 3, 0, 0])), Ok(Grown { size: 48, old: 1, new: 2, newer: 3 }));
        assert_eq!(read(&words(40, [1, 2, 3, 0, 9])).map(|read| read.newer), Ok(3), "not its own");
        assert_eq!(read(&words(48, [1, 2, 3, 0, 9])), Err(Error::StructSize));
        assert_eq!(read(&words(48, [1, 2, 3, 1 << 56, 0])), Err(Error::StructSize));
    }

    #[test]
    fn sizes_that_no_version_has_are_refused() {
        for size in [0, 1, 8, 15, 17, 31, 33, 4104, 1 << 20, usize::MAX] {
            assert_eq!(read(&words(size, [0; 5])), Err(Error::StructSize), "{size}");
        }
        // SAFETY: NULL.
        assert!(matches!(unsafe { read_params::<Grown>(std::ptr::null()) }, Ok(None)));
        // SAFETY: NULL.
        assert!(unsafe { size_of_out::<Grown>(std::ptr::null(), "out") }.is_err());
    }

    #[test]
    fn an_output_fills_what_the_program_has_and_nothing_else() {
        let value = Grown { size: 7, old: 1, new: 2, newer: 3 };
        for (size, expected) in
            [(16, [1, 9, 9, 9, 9]), (24, [1, 2, 9, 9, 9]), (32, [1, 2, 3, 9, 9]), (40, [1, 2, 3, 0, 9])]
        {
            let mut program = words(size, [9; 5]);
            let out = program.as_mut_ptr().cast::<Grown>();
            // SAFETY: six words, of which `size` bytes are written.
            unsafe {
                let size = size_of_out(out, "out").map_err(drop).unwrap();
                write_grown(out, size, &value);
            }
            assert_eq!(program, words(size, expected));
        }
    }
}
