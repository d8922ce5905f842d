//! Watching sockets with io_uring.
//!
//! The ring only watches: it holds one poll request for each socket on which little happens. Sockets that are busy are read
//! and written by plain calls, since whatever is armed on a socket costs each of its messages some tenths of a microsecond.
//! Whether anything has happened can be seen in shared memory, without a call.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use io_uring::{opcode, squeue, types, IoUring};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::watch::{Want, Watched};

/// Requests that are handed over in one go.
const ENTRIES: u32 = 256;
/// Completions that fit into memory; the kernel keeps what goes beyond.
const COMPLETIONS: u32 = 2048;

/// A ring.
pub(crate) struct Ring {
    ring: IoUring,
    /// Written by the kernel when something happens. The descriptor of the ring itself would not do: whoever polls that is not
    /// woken by work that waits for the one thread which may do it (seen with Linux 6.18).
    bell: EventFd,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.ring.as_raw_fd())
    }
}

impl Ring {
    /// A ring for the calling thread alone, if `single_thread`, else for any.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system does not allow it.
    pub(crate) fn new(single_thread: bool) -> Result<Ring, Refusal> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        if single_thread {
            // Completions wait until we look, and a flag in shared memory says so: nothing interrupts the thread.
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        let failed =
            |e: std::io::Error| Refusal::new(Error::Unsupported, format!("io_uring is not to be had: {e}"));
        let ring = builder.build(ENTRIES).map_err(failed)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = bell.map_err(|e| failed(e.into()))?;
        ring.submitter().register_eventfd(bell.as_fd().as_raw_fd()).map_err(failed)?;
        Ok(Ring { ring, bell })
    }

    /// What happens from now on makes the descriptor readable.
    pub(crate) fn arm(&mut self) {
        // An error says that it is not readable.
        let _ = self.bell.read();
    }

    /// Watches a socket until it is ready once. The request leaves with the next [`Self::submit`].
    ///
    /// # Errors
    /// When the kernel takes no more requests.
    pub(crate) fn watch(&mut self, file: RawFd, what: Watched, want: Want) -> Result<(), Refusal> {
        let mut events = libc::POLLRDHUP;
        if want.reading {
            events |= libc::POLLIN;
        }
        if want.writing {
            events |= libc::POLLOUT;
        }
        let request = opcode::PollAdd::new(types::Fd(file), events as u32).build().user_data(what.token());
        self.push(&request)
    }

    fn push(&mut self, request: &squeue::Entry) -> Result<(), Refusal> {
        if self.ring.submission().is_full() {
            self.submit();
        }
        // SAFETY: a poll request names a descriptor, which the kernel looks up when it is submitted, and no memory.
        let pushed = unsafe { self.ring.submission().push(request) };
        pushed.map_err(|_| Refusal::new(Error::Limit, "io_uring takes no more requests"))
    }

    /// Hands over what waits.
    pub(crate) fn submit(&mut self) {
        if !self.ring.submission().is_empty() {
            // An error (interrupted, no memory now) leaves the requests in the queue, for the next time.
            let _ = self.ring.submit();
        }
    }

    /// True when nothing has happened, as far as can be seen without a call.
    #[inline]
    pub(crate) fn is_quiet(&mut self) -> bool {
        let queue = self.ring.submission();
        let has_work = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !has_work && self.ring.completion().is_empty()
    }

    /// Takes what has happened.
    pub(crate) fn collect(&mut self, ready: &mut Vec<Watched>) {
        let queue = self.ring.submission();
        let has_work = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        drop(queue);
        if has_work {
            let _ = self.ring.submit();
        }
        let tokens = self.ring.completion().map(|completion| completion.user_data());
        ready.extend(tokens.filter_map(Watched::from_token));
    }

    /// A descriptor that is readable when something has happened.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }
}
