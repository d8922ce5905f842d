//! Pieces of memory as a program names them.

use std::ffi::c_void;

use gridnet::core::error::Error;
use gridnet::core::mem::Iov;
use gridnet::core::rail::Refusal;

use crate::boundary::{invalid, null, Failure};

/// gridnet_iov.memory_kind: memory of the host.
pub const GRIDNET_MEMORY_HOST: u32 = 0;
/// gridnet_iov.memory_kind: memory of an accelerator; no rail moves it yet (GRIDNET_ERR_UNSUPPORTED).
pub const GRIDNET_MEMORY_DEVICE: u32 = 1;
/// gridnet_iov.numa_node: not known.
pub const GRIDNET_NUMA_UNKNOWN: u32 = 0xffff_ffff;

/// One piece of memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_iov {
    /// Where it starts.
    pub base: *mut c_void,
    /// Length in bytes.
    pub len: usize,
    /// GRIDNET_MEMORY_*.
    pub memory_kind: u32,
    /// NUMA node where it lies, or GRIDNET_NUMA_UNKNOWN. A hint.
    pub numa_node: u32,
}

const _: () = assert!(size_of::<gridnet_iov>() == size_of::<Iov>());

/// # Safety
/// `buf` is valid for `len` bytes as the operation needs it, or `len` is 0.
#[inline(always)]
pub(crate) unsafe fn one_piece(buf: *mut c_void, len: usize) -> Result<Iov, Failure> {
    if buf.is_null() {
        return if len == 0 { Ok(Iov::EMPTY) } else { Err(null("buf")) };
    }
    if len > isize::MAX as usize {
        return Err(invalid(format!("len is {len}; accepted: at most {}", isize::MAX)));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { Iov::new(buf.cast(), len) })
}

/// # Safety
/// `iov` points to `count` pieces, each as the operation needs it.
pub(crate) unsafe fn pieces<'a>(iov: *const gridnet_iov, count: usize) -> Result<&'a [Iov], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if iov.is_null() {
        return Err(null("iov"));
    }
    if count > 1024 {
        return Err(invalid(format!("iov_count is {count}; accepted: at most 1024")));
    }
    // SAFETY: the caller's promise; the two structs are the same, field by field.
    let pieces = unsafe { std::slice::from_raw_parts(iov.cast::<Iov>(), count) };
    let mut total = 0usize;
    for piece in pieces {
        total = total.saturating_add(piece.len());
        if piece.base().is_null() && !piece.is_empty() {
            return Err(null("base of a piece"));
        }
        if piece.memory_kind() != GRIDNET_MEMORY_HOST {
            let why = format!("memory_kind is {}; rails move GRIDNET_MEMORY_HOST only", piece.memory_kind());
            return Err(Refusal::new(Error::Unsupported, why).into());
        }
    }
    if total > isize::MAX as usize {
        return Err(invalid(format!(
            "the pieces have {total} bytes together; accepted: at most {}",
            isize::MAX
        )));
    }
    Ok(pieces)
}
