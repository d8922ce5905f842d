//! What is watched while little happens on it, and by what.
//!
//! A watch says once that its socket is ready, and is over then: a socket that becomes busy is watched by nothing.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use gridnet_core::rail::Refusal;

use crate::config::Engine;
use crate::epoll::Epoll;
use crate::ring::{Ring, Task};

/// What a descriptor is to the rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// New connections at the address of this place.
    Listener(u32),
    /// A connection of this number that is not a link yet.
    Visitor(u32),
    /// The socket of the link of this number.
    Link(u32),
    /// The pulse of this number.
    Pulse(u32),
    /// The timer for what is held back.
    Bell,
    /// Connections that others have made.
    Door,
    /// Not a watch: what has come for the link of this number.
    Received(u32, Arrival),
}

/// What a ring has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Number of bytes, 0 at the end of the connection, or the negative number of an error.
    pub(crate) result: i32,
    /// The buffer in which they are.
    pub(crate) buffer: Option<u16>,
    /// Nothing more is received for the link.
    pub(crate) is_last: bool,
    /// Of which receive it is: numbers of further paths are given to others while the kernel still has something for the one before.
    pub(crate) turn: Turn,
}

/// A number of each receive, of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn(pub(crate) u32);

impl Turn {
    pub(crate) fn next(self) -> Turn {
        Turn(self.0.wrapping_add(1) & 0xff_ffff)
    }
}

impl Watched {
    pub(crate) fn token(self) -> u64 {
        let (kind, index) = match self {
            Watched::Listener(i) => (1, i),
            Watched::Visitor(i) => (2, i),
            Watched::Link(i) => (3, i),
            Watched::Pulse(i) => (4, i),
            Watched::Bell => (5, 0),
            // It is told of what has come, and asked for nothing.
            Watched::Received(i, _) => (6, i),
            Watched::Door => (7, 0),
        };
        kind << 32 | u64::from(index)
    }

    pub(crate) fn from_token(token: u64) -> Option<Watched> {
        let index = token as u32;
        match token >> 32 {
            1 => Some(Watched::Listener(index)),
            2 => Some(Watched::Visitor(index)),
            3 => Some(Watched::Link(index)),
            4 => Some(Watched::Pulse(index)),
            5 => Some(Watched::Bell),
            7 => Some(Watched::Door),
            _ => None,
        }
    }
}

/// What is waited for; the end of a connection always is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) reading: bool,
    pub(crate) writing: bool,
}

impl Want {
    /// Whether whoever waits for this waits for `other`, too.
    pub(crate) fn covers(self, other: Want) -> bool {
        (self.reading || !other.reading) && (self.writing || !other.writing)
    }
}

/// Something comes.
pub(crate) const READING: Want = Want { reading: true, writing: false };
/// There is room, or connecting has come to an end.
pub(crate) const WRITING: Want = Want { reading: false, writing: true };

/// What the configuration calls a ring that receives,
pub(crate) const RECV: &str = "io_uring_recv";
/// and one for which a thread of the kernel does so.
pub(crate) const SQPOLL: &str = "io_uring_sqpoll";

/// Either kind of watcher.
#[derive(Debug)]
pub(crate) enum Watcher {
    Ring(Box<Ring>),
    Epoll(Epoll),
}

impl Watcher {
    /// The watcher that `engine` asks for. Where io_uring may be had and is not, one line of the log says so.
    pub(crate) fn open(engine: Engine, single_thread: bool) -> Result<Watcher, Refusal> {
        let ring = |task, single| Ring::new(task, single).map(|ring| Watcher::Ring(Box::new(ring)));
        let named = |refusal: Refusal, name: &str| Refusal {
            reason: format!("GRIDNET_NET_ENGINE={name}: {}", refusal.reason),
            ..refusal
        };
        match engine {
            Engine::IoUring => ring(Task::Watch, single_thread),
            Engine::IoUringRecv => ring(Task::Receive, single_thread).map_err(|why| named(why, RECV)),
            Engine::IoUringSqpoll => {
                ring(Task::ReceiveByThread, single_thread).map_err(|why| named(why, SQPOLL))
            }
            Engine::Auto if single_thread => match ring(Task::Watch, true) {
                Ok(ring) => Ok(ring),
                Err(refusal) => {
                    tracing::warn!(reason = %refusal.reason, "tcp uses epoll");
                    Ok(Watcher::Epoll(Epoll::new()?))
                }
            },
            Engine::Auto | Engine::Epoll => Ok(Watcher::Epoll(Epoll::new()?)),
        }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Watcher::Ring(ring) => ring.name(),
            Watcher::Epoll(_) => "epoll",
        }
    }

    /// Watches a socket until it is ready once, from the next [`Self::submit`] on.
    pub(crate) fn watch(&mut self, file: &impl AsFd, what: Watched, want: Want) -> Result<(), Refusal> {
        match self {
            Watcher::Ring(ring) => ring.watch(file.as_fd().as_raw_fd(), what, want),
            Watcher::Epoll(epoll) => epoll.watch(file.as_fd(), what, want),
        }
    }

    /// The ring, where it receives.
    #[inline]
    pub(crate) fn receiver(&mut self) -> Option<&mut Ring> {
        match self {
            Watcher::Ring(ring) => Some(&mut **ring).filter(|ring| ring.receives()),
            Watcher::Epoll(_) => None,
        }
    }

    /// Who has called at a listener and was accepted by the ring.
    pub(crate) fn take_accepted(&mut self, place: u32) -> Option<OwnedFd> {
        self.receiver()?.take_accepted(place)
    }

    /// To be called before the last look ahead of sleep: what happens from now on makes the descriptor readable.
    pub(crate) fn arm(&mut self) {
        if let Watcher::Ring(ring) = self {
            ring.arm();
        }
    }

    /// Begins the watches that were asked for.
    pub(crate) fn submit(&mut self) {
        if let Watcher::Ring(ring) = self {
            ring.submit();
        }
    }

    /// True when there is nothing to collect, or it is not worth a look; sockets are read in each round if `is_busy`. Costs no call.
    #[inline]
    pub(crate) fn is_quiet(&mut self, is_busy: bool) -> bool {
        match self {
            Watcher::Ring(ring) => ring.is_quiet(),
            Watcher::Epoll(epoll) => epoll.is_quiet(is_busy),
        }
    }

    /// Adds what is ready to `ready`.
    pub(crate) fn collect(&mut self, ready: &mut Vec<Watched>) {
        match self {
            Watcher::Ring(ring) => ring.collect(ready),
            Watcher::Epoll(epoll) => epoll.collect(ready),
        }
    }

    /// A descriptor that is readable when something is ready.
    pub(crate) fn descriptor(&self) -> RawFd {
        match self {
            Watcher::Ring(ring) => ring.descriptor(),
            Watcher::Epoll(epoll) => epoll.descriptor(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn tokens_keep_their_meaning() {
        let all = [
            Watched::Listener(0),
            Watched::Visitor(7),
            Watched::Link(u32::MAX),
            Watched::Pulse(3),
            Watched::Bell,
        ];
        for what in all {
            assert_eq!(Watched::from_token(what.token()), Some(what));
        }
        assert_eq!(Watched::from_token(0), None);
    }

    #[test]
    fn a_watch_speaks_once_and_again_when_it_is_renewed() {
        for (engine, single) in [(Engine::IoUring, true), (Engine::IoUring, false), (Engine::Epoll, true)] {
            let Ok(mut watcher) = Watcher::open(engine, single) else {
                eprintln!("SKIPPED {engine:?}: the system does not allow io_uring");
                continue;
            };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (other, _) = listener.accept().unwrap();
            let mut ready = Vec::new();
            let mut look = |watcher: &mut Watcher| {
                ready.clear();
                watcher.submit();
                watcher.collect(&mut ready);
                ready.clone()
            };
            watcher.watch(&other, Watched::Link(5), READING).unwrap();
            assert_eq!(look(&mut watcher), []);
            one.write_all(b"x").unwrap();
            let mut seen = look(&mut watcher);
            while seen.is_empty() {
                seen = look(&mut watcher);
            }
            assert_eq!(seen, [Watched::Link(5)], "{}", watcher.name());
            one.write_all(b"y").unwrap();
            assert_eq!(look(&mut watcher), [], "the watch is over");
            // What is there when a watch begins counts, too.
            watcher.watch(&other, Watched::Link(6), READING).unwrap();
            assert_eq!(look(&mut watcher), [Watched::Link(6)]);
            watcher.watch(&other, Watched::Link(7), WRITING).unwrap();
            assert_eq!(look(&mut watcher), [Watched::Link(7)]);
        }
    }
}
