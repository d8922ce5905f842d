//! The functions of libfabric's tables. Each may be called with what libfabric's manual pages allow: objects that are open, memory
//! that is valid as long as they say.

pub(crate) mod atomic;
pub(crate) mod av;
pub(crate) mod cntr;
pub(crate) mod cq;
pub(crate) mod domain;
pub(crate) mod ep;
pub(crate) mod fabric;
pub(crate) mod mr;
pub(crate) mod msg;
pub(crate) mod rma;
pub(crate) mod tagged;

use std::ffi::c_void;

use gridnet::core::mem::Iov;

use crate::abi::message::IoVec;
use crate::abi::FiAddr;
use crate::info::IOV_LIMIT;
use crate::receive::Wish;
use crate::send::Order;

/// A send, of a message with this tag or without.
pub(crate) fn order(iov: &[Iov], peer: FiAddr, tag: Option<u64>, context: *mut c_void) -> Order<'_> {
    Order { iov, peer, tag, data: None, context: context as usize, flags: 0, silent: false }
}

/// A receive, of messages with this tag, of which some bits do not count, or of those without.
pub(crate) fn wish(iov: &[Iov], peer: FiAddr, tag: Option<(u64, u64)>, context: *mut c_void) -> Wish<'_> {
    Wish { iov, peer, tag, context: context as usize, flags: 0 }
}

/// One piece of memory.
///
/// # Safety
/// `base` is valid for `len` bytes until the operation ends.
pub(crate) unsafe fn piece(base: *const c_void, len: usize) -> Result<Iov, i32> {
    if len == 0 {
        return Ok(Iov::EMPTY);
    }
    if base.is_null() || len > isize::MAX as usize {
        // Who does not look at the answer waits for ever.
        tracing::error!(?base, len, "the program gives memory that cannot be");
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { Iov::new(base.cast_mut().cast(), len) })
}

/// Pieces of memory, handed to `use_them`.
///
/// # Safety
/// `iov` is valid for `count` entries, each of which is as [`piece`] says.
pub(crate) unsafe fn with_pieces<T>(
    iov: *const IoVec,
    count: usize,
    use_them: impl FnOnce(&[Iov]) -> Result<T, i32>,
) -> Result<T, i32> {
    if count > IOV_LIMIT || count > 0 && iov.is_null() {
        return Err(libc::EINVAL);
    }
    let mut pieces = [Iov::EMPTY; IOV_LIMIT];
    for (index, to) in pieces.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's promise.
        *to = unsafe {
            let entry = *iov.add(index);
            piece(entry.base, entry.len)?
        };
    }
    // A message of no bytes is one empty piece.
    use_them(&pieces[..count.max(1)])
}
