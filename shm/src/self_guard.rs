//! Memory of this process that may be gone.
//!
//! The kernel finds out whether memory is there, so that nobody is killed for what a program has unmapped.

use gridnet_core::region::Guard;

use crate::process::{copy_within, Way};

/// `madvise`: brings pages in writable, or says that it cannot (Linux 5.14).
const MADV_POPULATE_WRITE: i32 = 23;

/// Access to registered memory of this process, by system calls that say when it is gone.
#[derive(Debug)]
pub struct SelfGuard {
    pid: i32,
    /// The kernel copies within this process.
    copies: bool,
    /// The kernel says whether pages can be written.
    populates: bool,
}

impl SelfGuard {
    /// Finds out what the system allows.
    pub fn new() -> SelfGuard {
        let pid = std::process::id() as i32;
        let (mut from, mut to) = ([7u8; 8], [0u8; 8]);
        // SAFETY: two private arrays of 8 bytes.
        let copies = unsafe { copy_within(pid, Way::In, to.as_mut_ptr(), from.as_mut_ptr() as u64, 8) }
            .is_ok()
            && from == to;
        let mut guard = SelfGuard { pid, copies, populates: true };
        guard.populates = guard.is_writable(to.as_mut_ptr(), 8);
        guard
    }
}

impl Default for SelfGuard {
    fn default() -> SelfGuard {
        SelfGuard::new()
    }
}

impl Guard for SelfGuard {
    unsafe fn write(&self, to: *mut u8, from: *const u8, len: usize) -> bool {
        if self.copies {
            // SAFETY: the caller's promise.
            return unsafe { copy_within(self.pid, Way::Out, from.cast_mut(), to as u64, len) }.is_ok();
        }
        let is_there = self.is_writable(to, len);
        if is_there {
            // SAFETY: the caller's promise; `to` was found to be there just now.
            unsafe { std::ptr::copy(from, to, len) };
        }
        is_there
    }

    unsafe fn read(&self, from: *const u8, to: *mut u8, len: usize) -> bool {
        if self.copies {
            // SAFETY: the caller's promise.
            return unsafe { copy_within(self.pid, Way::In, to, from as u64, len) }.is_ok();
        }
        let is_there = self.is_mapped(from, len);
        if is_there {
            // SAFETY: the caller's promise; `from` was found to be there just now.
            unsafe { std::ptr::copy(from, to, len) };
        }
        is_there
    }

    fn is_mapped(&self, at: *const u8, len: usize) -> bool {
        let (start, len) = pages_of(at, len);
        // SAFETY: asked for in this way msync changes nothing (Linux 2.6.19); it fails for pages that are not mapped.
        unsafe { libc::msync(start, len, libc::MS_ASYNC) == 0 }
    }

    fn is_writable(&self, at: *mut u8, len: usize) -> bool {
        if !self.populates {
            return self.is_mapped(at, len);
        }
        let (start, len) = pages_of(at, len);
        // SAFETY: brings pages in as a write would that changes nothing; fails where a write would fault.
        unsafe { libc::madvise(start, len, MADV_POPULATE_WRITE) == 0 }
    }
}

/// The whole pages in which some bytes lie.
fn pages_of(at: *const u8, len: usize) -> (*mut libc::c_void, usize) {
    // SAFETY: sysconf has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let start = at as usize / page * page;
    let end = (at as usize).saturating_add(len.max(1)).div_ceil(page).saturating_mul(page);
    (start as *mut libc::c_void, end - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::{MmapMut, MmapRaw};

    const PAGE: usize = 4096;

    /// Two pages, of which the second is unmapped again.
    fn half_there() -> (*mut u8, MmapRaw) {
        let map = MmapRaw::from(MmapMut::map_anon(2 * PAGE).unwrap());
        let base = map.as_mut_ptr();
        // SAFETY: the second page of a mapping that nobody uses.
        assert_eq!(unsafe { libc::munmap(base.add(PAGE).cast(), PAGE) }, 0);
        (base, map)
    }

    #[test]
    fn memory_that_has_gone_is_an_answer_and_no_signal() {
        let plain = SelfGuard { copies: false, ..SelfGuard::new() };
        for guard in [SelfGuard::new(), plain] {
            let (base, map) = half_there();
            let mut bytes = [5u8; 64];
            assert!(guard.is_mapped(base, PAGE) && !guard.is_mapped(base, PAGE + 1));
            assert!(guard.is_writable(base, PAGE) && !guard.is_writable(base.wrapping_add(PAGE), 1));
            // SAFETY: the array is private; the pages are as registered memory of which a part has gone.
            unsafe {
                assert!(guard.write(base, bytes.as_ptr(), 64));
                assert!(guard.read(base, bytes.as_mut_ptr(), 64) && bytes == [5; 64]);
                assert!(!guard.write(base.add(PAGE - 8), bytes.as_ptr(), 64));
                assert!(!guard.read(base.add(PAGE - 8), bytes.as_mut_ptr(), 64));
            }
            // The mapping is one page now: dropping both would unmap what may be somebody else's.
            // SAFETY: the first page, which nobody uses any more.
            assert_eq!(unsafe { libc::munmap(base.cast(), PAGE) }, 0);
            std::mem::forget(map);
        }
    }

    #[test]
    fn memory_that_may_only_be_read_is_not_written() {
        let guard = SelfGuard::new();
        let map = MmapMut::map_anon(PAGE).unwrap().make_read_only().unwrap();
        let base = map.as_ptr().cast_mut();
        let bytes = [1u8; 8];
        // SAFETY: the array is private; the page is as registered memory that may only be read.
        assert!(!unsafe { guard.write(base, bytes.as_ptr(), 8) });
        if guard.populates {
            assert!(!guard.is_writable(base, 8));
        }
        assert_eq!(map[0], 0);
    }
}
