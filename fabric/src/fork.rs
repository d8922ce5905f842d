//! Notices that the process is the child of a fork.

use std::sync::atomic::{AtomicU32, Ordering};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use memmap2::{MmapMut, MmapRaw};

/// In the word: this is the process that made it.
pub(crate) const HOME: u32 = 1 << 31;

/// A word that the kernel clears in a forked child (MADV_WIPEONFORK, Linux 4.14): one load tells, whatever
/// way the process was cloned.
#[derive(Debug)]
pub(crate) struct ForkMark {
    page: MmapRaw,
}

impl ForkMark {
    pub(crate) fn new() -> Result<ForkMark, Refusal> {
        let failed = |e: std::io::Error| Refusal::new(Error::System, format!("page for the fork mark: {e}"));
        let page = MmapMut::map_anon(size_of::<AtomicU32>()).map_err(failed)?;
        // SAFETY: the range is the mapping that `page` owns, which nobody else uses.
        let status =
            unsafe { libc::madvise(page.as_ptr().cast_mut().cast(), page.len(), libc::MADV_WIPEONFORK) };
        if status != 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        let mark = ForkMark { page: page.into() };
        mark.word().store(HOME, Ordering::Relaxed);
        Ok(mark)
    }

    /// True in the process that made the mark.
    #[inline(always)]
    pub(crate) fn is_home(&self) -> bool {
        self.word().load(Ordering::Relaxed) & HOME != 0
    }

    /// The word. Its other bits are for the owner, who keeps [`HOME`] set.
    #[inline(always)]
    pub(crate) fn word(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped readable and writable as long as `self` lives, aligned, and used through this
        // atomic only. The kernel's wipe happens before the child runs.
        unsafe { &*self.page.as_mut_ptr().cast::<AtomicU32>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_of_a_fork_is_not_at_home() {
        use nix::sys::wait::{waitpid, WaitStatus};
        use nix::unistd::{fork, ForkResult};
        let mark = ForkMark::new().unwrap();
        // SAFETY: the child only reads a word and leaves.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => std::process::exit(i32::from(mark.is_home())),
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
        assert!(mark.is_home());
    }
}
