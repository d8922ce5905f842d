//! A peer's memory between two pages that nobody may touch, so that a test which reads or writes past it ends at once.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use memmap2::Advice;

const PAGE: usize = 4096;

/// A mapping, and the guards around it. Has what the crate uses of [`memmap2::MmapRaw`].
#[derive(Debug)]
pub struct Guarded {
    /// The first guard.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; whoever uses the memory takes care of it, as with `MmapRaw`.
unsafe impl Send for Guarded {}
// SAFETY: as above; `&self` gives addresses only.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Maps the first `len` bytes of a file, writable or not.
    pub fn map(file: &impl AsRawFd, len: usize, writable: bool) -> std::io::Result<Guarded> {
        let whole = Guarded::span(len);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice takes nothing away from anybody.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| std::io::Error::other("mapped at address 0"))?;
        let guarded = Guarded { start, len };
        let rights = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let fixed = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: replaces a part of the mapping just made, which nobody else knows.
        let mapped =
            unsafe { libc::mmap(guarded.as_mut_ptr().cast(), len, rights, fixed, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(guarded)
    }

    fn span(len: usize) -> usize {
        len.next_multiple_of(PAGE) + 2 * PAGE
    }

    /// Where the file begins.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.as_mut_ptr()
    }

    /// As above.
    #[inline]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(PAGE)
    }

    /// Bytes of the file that are mapped.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Advises the kernel on the mapping.
    pub fn advise(&self, advice: Advice) -> std::io::Result<()> {
        // SAFETY: a range that this object has mapped.
        let status = unsafe { libc::madvise(self.as_mut_ptr().cast(), self.len, advice as i32) };
        if status == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the range that `map` has mapped, which nobody uses after its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Guarded::span(self.len)) };
    }
}
