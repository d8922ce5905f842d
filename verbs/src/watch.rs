//! Sockets on which little happens, and the descriptor by which a sleeper is woken.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Sockets that are told of in one go.
const AT_ONCE: usize = 32;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Calls of others.
    Listener,
    /// Work for the device: the rail looks there anyhow.
    Device,
    /// The connection beside a link.
    Link(u32),
    /// Somebody who has not said who it is.
    Visitor(u32),
}

impl Watched {
    fn to_number(self) -> u64 {
        match self {
            Watched::Listener => 0,
            Watched::Device => 1,
            Watched::Link(index) => 2 << 32 | u64::from(index),
            Watched::Visitor(number) => 3 << 32 | u64::from(number),
        }
    }

    fn from_number(number: u64) -> Watched {
        match (number >> 32, number as u32) {
            (2, index) => Watched::Link(index),
            (3, number) => Watched::Visitor(number),
            (_, 0) => Watched::Listener,
            _ => Watched::Device,
        }
    }
}

/// Sockets that are watched. Whatever is ready is told of until it is not.
#[derive(Debug)]
pub(crate) struct Watcher(Epoll);

impl Watcher {
    /// One that watches nothing.
    pub(crate) fn open() -> Result<Watcher, Refusal> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Watcher).map_err(|e| refused(&e))
    }

    /// Watches for something to read; while a connection is being made also for that it is.
    pub(crate) fn watch(&self, socket: impl AsFd, what: Watched, is_new: bool) -> Result<(), Refusal> {
        let flags = if is_new { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        self.0.add(socket, EpollEvent::new(flags, what.to_number())).map_err(|e| refused(&e))
    }

    /// From now on only for something to read.
    pub(crate) fn settle(&self, socket: impl AsFd, what: Watched) -> Result<(), Refusal> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, what.to_number());
        self.0.modify(socket, &mut event).map_err(|e| refused(&e))
    }

    /// The same socket is for something else now.
    pub(crate) fn forget(&self, socket: impl AsFd) {
        // An error says that it was not watched.
        let _ = self.0.delete(socket);
    }

    /// What is ready.
    pub(crate) fn ready(&self) -> Vec<Watched> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let count = self.0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events.iter().take(count).map(|event| Watched::from_number(event.data())).collect()
    }

    /// The descriptor that is readable when something is ready.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.0 .0.as_raw_fd()
    }

    /// Watches a descriptor of the device, which lives as long as the rail.
    #[expect(unsafe_code)] // Devices name their descriptor by its number, as C libraries do.
    pub(crate) fn watch_device(&self, descriptor: RawFd) -> Result<(), Refusal> {
        // SAFETY: the device keeps it open, and is borrowed by the caller.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        self.watch(descriptor, Watched::Device, false)
    }
}

fn refused(e: &nix::errno::Errno) -> Refusal {
    Refusal::new(Error::System, format!("a socket cannot be watched: {e}"))
}
