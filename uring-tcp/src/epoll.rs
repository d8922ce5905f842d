//! Watching sockets with epoll, where io_uring is not to be had or several threads drive the rail.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll as Instance, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::watch::{Want, Watched};

/// Rounds of polling between two looks, each of which is a system call;
const ROUNDS: u32 = 16;
/// while nothing comes and nothing but this is looked at, when rounds are short: some microseconds, too.
const ROUNDS_WHILE_IDLE: u32 = 256;
/// Events that are taken in one call.
const EVENTS: usize = 64;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll {
    instance: Instance,
    /// Since the last look.
    rounds: u32,
    /// Between two looks while nothing else is looked at.
    pause: u32,
}

impl Epoll {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new() -> Result<Epoll, Refusal> {
        let instance = Instance::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        Ok(Epoll { instance, rounds: 0, pause: ROUNDS })
    }

    /// Watches a socket until it is ready once.
    ///
    /// # Errors
    /// When the system's limit on watches is reached.
    pub(crate) fn watch(&self, file: BorrowedFd<'_>, what: Watched, want: Want) -> Result<(), Refusal> {
        let mut events = EpollFlags::EPOLLONESHOT | EpollFlags::EPOLLRDHUP;
        events.set(EpollFlags::EPOLLIN, want.reading);
        events.set(EpollFlags::EPOLLOUT, want.writing);
        let mut event = EpollEvent::new(events, what.token());
        match self.instance.modify(file, &mut event) {
            Err(Errno::ENOENT) => self.instance.add(file, event).map_err(failed),
            watched => watched.map_err(failed),
        }
    }

    /// True when it is not worth a call to look whether something has happened; sockets are read in each round if `is_busy`.
    #[inline]
    pub(crate) fn is_quiet(&mut self, is_busy: bool) -> bool {
        self.rounds += 1;
        self.rounds < if is_busy { ROUNDS } else { self.pause }
    }

    /// Takes what has happened.
    pub(crate) fn collect(&mut self, ready: &mut Vec<Watched>) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.instance.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        self.rounds = 0;
        self.pause = if count > 0 { ROUNDS } else { (self.pause * 2).min(ROUNDS_WHILE_IDLE) };
        ready.extend(events.iter().take(count).filter_map(|event| Watched::from_token(event.data())));
    }

    /// A descriptor that is readable when something has happened.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.instance.0.as_raw_fd()
    }
}

fn failed(errno: Errno) -> Refusal {
    Refusal::new(Error::System, format!("epoll: {}", errno.desc()))
}
