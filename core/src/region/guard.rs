//! Access to memory of this process that may be gone: registered memory belongs to the program, which can unmap it.

/// Copies to and from memory that may not be there. What has system calls for it implements this; [`Trusting`] believes.
pub trait Guard: Send + std::fmt::Debug {
    /// Copies `len` bytes from `from` to `to`; false when memory at `to` cannot be written. Some bytes may have been copied
    /// then.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes. If `to` is memory of this process, the program has registered it.
    unsafe fn write(&self, to: *mut u8, from: *const u8, len: usize) -> bool;

    /// Copies `len` bytes from `from` to `to`; false when memory at `from` cannot be read.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes and private. If `from` is memory of this process, the program has registered it.
    unsafe fn read(&self, from: *const u8, to: *mut u8, len: usize) -> bool;

    /// True when `len` bytes at `at` are mapped, whatever may be done with them.
    fn is_mapped(&self, at: *const u8, len: usize) -> bool;

    /// True when `len` bytes at `at` can be read and written in place.
    fn is_writable(&self, at: *mut u8, len: usize) -> bool;
}

/// Believes that memory is there as long as it is registered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trusting;

impl Guard for Trusting {
    unsafe fn write(&self, to: *mut u8, from: *const u8, len: usize) -> bool {
        // SAFETY: the caller's promise, and the program's: who uses this guard keeps registered memory.
        unsafe { std::ptr::copy(from, to, len) };
        true
    }

    unsafe fn read(&self, from: *const u8, to: *mut u8, len: usize) -> bool {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from, to, len) };
        true
    }

    fn is_mapped(&self, _at: *const u8, _len: usize) -> bool {
        true
    }

    fn is_writable(&self, _at: *mut u8, _len: usize) -> bool {
        true
    }
}
