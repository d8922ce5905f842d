//! How callers sleep: the rails are armed, and descriptors become readable when something has happened.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::{Armed, Refusal};
use gridnet_core::time::Time;
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::fabric::Fabric;
use crate::member::Membership;

/// Times that somebody tries to arm the rails for others who sleep.
pub(crate) const ARMING_TRIES: u32 = 16;

/// The descriptor of a completion queue.
#[derive(Debug)]
pub(crate) struct CqDescriptor {
    pub(crate) cq: CqId,
    epoll: Epoll,
    /// Written when somebody else's polling fills an armed queue.
    kick: EventFd,
}

impl Fabric {
    /// The end of sleep.
    pub(crate) fn disarm(&mut self) {
        self.is_armed = false;
        self.engine.disarm();
    }

    /// Nobody polls from now on: what comes for this member wakes somebody. To be said before the last look.
    pub(crate) fn rest(&mut self) {
        if let Some(membership) = &mut self.membership {
            membership.rest();
        }
    }

    /// Prepares rails for sleep, after everything that is known to have happened was handled.
    pub(crate) fn arm(&mut self) -> Armed {
        self.rest();
        if self.maintain() + self.engine.progress() > 0 {
            return Armed::Busy;
        }
        // A new arming, so that senders that rang for an earlier one ring again.
        self.engine.disarm();
        let armed = self.engine.arm();
        self.is_armed = armed == Armed::Yes;
        armed
    }

    /// Whether the rails were armed for somebody who sleeps, and still are.
    pub(crate) fn stays_armed(&self) -> bool {
        self.is_armed && self.engine.is_armed()
    }

    /// When a sleeper has to look at timers, at the latest.
    pub(crate) fn due(&self) -> Option<Time> {
        let look = self.membership.as_ref().and_then(Membership::next_look);
        self.engine.deadline().into_iter().chain(look.map(|at| self.time_of(at))).min()
    }

    /// A moment on the clock of the engine.
    pub(crate) fn time_of(&self, at: Instant) -> Time {
        Time(u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX))
    }

    /// So much later than now.
    pub(crate) fn now_and(&self, span: Duration) -> Time {
        self.time_of(Instant::now() + span)
    }

    /// How long it is until then.
    pub(crate) fn span_until(&self, time: Time) -> Duration {
        Duration::from_nanos(time.0).saturating_sub(self.start.elapsed())
    }

    /// The descriptor of a queue: readable, after [`Self::arm_cq`] said yes, once something has happened.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a queue, [`Error::System`] without free descriptors.
    pub fn cq_descriptor(&mut self, cq: CqId) -> Result<RawFd, Refusal> {
        self.engine.cq(cq).ok_or_else(|| Refusal::new(Error::Handle, "no such completion queue"))?;
        if let Some(known) = self.descriptors.iter().find(|d| d.cq == cq) {
            return Ok(known.epoll.0.as_raw_fd());
        }
        let failed =
            |e: nix::Error| Refusal::new(Error::System, format!("descriptor of a queue: {}", e.desc()));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(kick.as_fd(), readable()).map_err(failed)?;
        for handle in self.engine.wait_handles() {
            // SAFETY: a rail's wait handle is open as long as the rail is, which `self.engine` owns.
            epoll.add(unsafe { BorrowedFd::borrow_raw(handle) }, readable()).map_err(failed)?;
        }
        if let Some(bell) = self.openings_bell() {
            epoll.add(bell, readable()).map_err(failed)?;
        }
        let descriptor = epoll.0.as_raw_fd();
        self.descriptors.push(CqDescriptor { cq, epoll, kick });
        Ok(descriptor)
    }

    /// Arms the descriptor of a queue: BUSY when there is something to be taken already.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a queue.
    pub fn arm_cq(&mut self, cq: CqId) -> Result<Armed, Refusal> {
        self.cq_descriptor(cq)?;
        if let Some(known) = self.descriptors.iter().find(|d| d.cq == cq) {
            // An error says that it was not kicked.
            let _ = known.kick.read();
        }
        let busy = self.arm() == Armed::Busy;
        let queue =
            self.engine.cq(cq).ok_or_else(|| Refusal::new(Error::Handle, "no such completion queue"))?;
        queue.armed = !busy && queue.is_empty();
        Ok(if queue.armed { Armed::Yes } else { Armed::Busy })
    }

    /// Makes the descriptors readable of armed queues that somebody else's polling has filled, and arms the rails again
    /// for the others when somebody else's waiting has disarmed them.
    #[inline(always)]
    pub(crate) fn kick_armed(&mut self) {
        if !self.descriptors.is_empty() {
            self.kick_some();
        }
    }

    #[cold]
    fn kick_some(&mut self) {
        for _ in 0..ARMING_TRIES {
            if !self.kick_full() || self.stays_armed() || self.arm() == Armed::Yes {
                return;
            }
            self.engine.progress();
        }
        // Something keeps happening: whoever sleeps looks for himself.
        for descriptor in &self.descriptors {
            if let Some(queue) = self.engine.cq(descriptor.cq).filter(|queue| queue.armed) {
                queue.armed = false;
                let _ = descriptor.kick.write(1);
            }
        }
    }

    /// Kicks armed queues that are not empty; whether others stay armed.
    fn kick_full(&mut self) -> bool {
        let mut others = false;
        for descriptor in &self.descriptors {
            let Some(queue) = self.engine.cq(descriptor.cq).filter(|queue| queue.armed) else {
                continue;
            };
            if queue.is_empty() {
                others = true;
            } else {
                queue.armed = false;
                let _ = descriptor.kick.write(1);
            }
        }
        others
    }

    /// Forgets the descriptor of a queue that is destroyed.
    pub fn close_cq(&mut self, cq: CqId) {
        self.descriptors.retain(|d| d.cq != cq);
        self.engine.destroy_cq(cq);
    }

    /// Sleeps until a rail's wait handle or `extra` is readable, at most for `span`.
    pub(crate) fn sleep_on_rails(&self, span: Duration, extra: Option<BorrowedFd<'_>>) {
        // SAFETY: a rail's wait handle is open as long as the rail is, which `self.engine` owns.
        let handles = self.engine.wait_handles().map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        sleep_on(handles.chain(self.openings_bell()).chain(extra), span);
    }

    /// The descriptors that a sleeper has to watch.
    fn wait_handles(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.engine.wait_handles().chain(self.openings_bell().map(|bell| bell.as_raw_fd()))
    }
}

/// Copies of the descriptors that sleepers have to watch: they stay open while somebody sleeps on them, whatever becomes of the rails.
#[derive(Debug)]
pub(crate) struct HandleCopies {
    of: Vec<RawFd>,
    files: Vec<OwnedFd>,
}

impl HandleCopies {
    /// # Errors
    /// [`Error::System`] without free descriptors.
    pub(crate) fn new(fabric: &Fabric) -> Result<HandleCopies, Refusal> {
        let copy = |fd: &RawFd| {
            // SAFETY: a rail's wait handle is open as long as the rail is, and the bell as the membership; `fabric` owns both.
            let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
            borrowed
                .try_clone_to_owned()
                .map_err(|e| Refusal::new(Error::System, format!("copying a descriptor: {e}")))
        };
        let of: Vec<RawFd> = fabric.wait_handles().collect();
        let files = of.iter().map(copy).collect::<Result<_, _>>()?;
        Ok(HandleCopies { of, files })
    }

    /// Whether these are what the fabric has: its rails, and so their handles, stay to its end.
    pub(crate) fn are_of(&self, fabric: &Fabric) -> bool {
        fabric.wait_handles().eq(self.of.iter().copied())
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(OwnedFd::as_fd)
    }
}

/// Sleeps until one of some descriptors is readable, a signal comes, or `span` is over. Whether it was not for the time alone.
pub(crate) fn sleep_on<'a>(files: impl Iterator<Item = BorrowedFd<'a>>, span: Duration) -> bool {
    let mut files: Vec<PollFd<'a>> = files.map(|file| PollFd::new(file, PollFlags::POLLIN)).collect();
    // An error is a signal: whoever sleeps looks again.
    ppoll(&mut files, Some(TimeSpec::from(span)), None) != Ok(0)
}
