//! The descriptors that a rail watches, with what they mean.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a descriptor is to the rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// New connections.
    Listener,
    /// New connections of other users.
    Foreign,
    /// The own doorbell.
    Bell,
    /// A connection whose handshake has not come yet; its place in the list of those.
    Greeting(u32),
    /// The socket of a link.
    Socket(u32),
    /// The socket of a link that was cut off.
    Leftovers,
    /// The clock, by which it is time to look whether peers live.
    Clock,
}

impl Watched {
    fn token(self) -> u64 {
        let (kind, index) = match self {
            Watched::Listener => (0, 0),
            Watched::Bell => (1, 0),
            Watched::Foreign => (5, 0),
            Watched::Greeting(i) => (2, i),
            Watched::Socket(i) => (3, i),
            Watched::Clock => (4, 0),
            Watched::Leftovers => (6, 0),
        };
        kind << 32 | u64::from(index)
    }

    fn from_token(token: u64) -> Watched {
        let index = token as u32;
        match token >> 32 {
            0 => Watched::Listener,
            1 => Watched::Bell,
            2 => Watched::Greeting(index),
            3 => Watched::Socket(index),
            5 => Watched::Foreign,
            6 => Watched::Leftovers,
            _ => Watched::Clock,
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> Result<Poller, Refusal> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        Ok(Poller { epoll })
    }

    /// Watches a descriptor until it is closed. The doorbell is watched for changes only, so that it is never read.
    ///
    /// # Errors
    /// When the system's limit on watches is reached.
    pub fn watch(&self, file: &impl AsFd, what: Watched) -> Result<(), Refusal> {
        let edge = if what == Watched::Bell { EpollFlags::EPOLLET } else { EpollFlags::empty() };
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | edge, what.token());
        self.epoll.add(file.as_fd(), event).map_err(failed)
    }

    /// Ends the watch of a descriptor that stays open.
    pub fn forget(&self, file: &OwnedFd) {
        let _ = self.epoll.delete(file.as_fd());
    }

    /// What is ready now, at most 64 at a time.
    pub fn ready(&self) -> impl Iterator<Item = Watched> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events.into_iter().take(count).map(|event| Watched::from_token(event.data()))
    }

    /// A descriptor that is readable when something is ready.
    pub fn descriptor(&self) -> i32 {
        self.epoll.0.as_raw_fd()
    }
}

fn failed(errno: nix::Error) -> Refusal {
    Refusal::new(Error::System, format!("epoll: {}", errno.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_their_meaning() {
        for what in [
            Watched::Listener,
            Watched::Foreign,
            Watched::Bell,
            Watched::Greeting(7),
            Watched::Socket(u32::MAX),
            Watched::Clock,
            Watched::Leftovers,
        ] {
            assert_eq!(Watched::from_token(what.token()), what);
        }
    }
}
