//! What a rail is opened with.

use std::time::Duration;

use gridnet_core::wire::Address;

use crate::auth::Security;
use crate::candidates::Interfaces;

/// What a rail is opened with.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// The fabric's address.
    pub local: Address,
    /// Which addresses of this host are used and told to others.
    pub interfaces: Interfaces,
    /// Ports of listeners and of calls; any when there is none.
    pub ports: Option<PortRange>,
    /// What is asked of peers.
    pub security: Security,
    /// What watches sockets on which little happens.
    pub engine: Engine,
    /// One thread only will drive the rail, the one that opens it.
    pub single_thread: bool,
    /// Settings of sockets.
    pub tuning: Tuning,
    /// What may be under way to one peer.
    pub window: Window,
    /// How many paths a link may have at a time.
    pub multirail: Multirail,
    /// Frames are kept until the peer's rail has them, so that they survive a broken connection.
    pub retains: bool,
}

/// How many paths a link may have at a time, each between other addresses of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multirail {
    /// One.
    Off,
    /// One for each pair of interfaces, at most [`MAX_PATHS`].
    Auto,
    /// The same, at most so many.
    AtMost(u32),
    /// So many, all between the same two addresses, also on one host: what a [session](crate::Session::streams) agrees on, and for tests.
    Alike(u32),
}

/// Most paths of a link: more than hosts have interfaces.
pub const MAX_PATHS: u32 = 8;

impl Multirail {
    /// The number of paths, at most.
    pub(crate) fn most(self) -> u32 {
        match self {
            Multirail::Off => 1,
            Multirail::Auto => MAX_PATHS,
            Multirail::AtMost(most) | Multirail::Alike(most) => most.clamp(1, MAX_PATHS),
        }
    }
}

/// What may be under way to one peer, and is kept until its rail has it; bytes of segments do not count. One frame more is
/// taken while less than that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bytes, at least 256 KiB.
    pub bytes: usize,
    /// Frames, at least 1024.
    pub frames: u64,
}

impl Default for Window {
    /// 1 MiB: some milliseconds of small messages. 8192 frames: a peer that has to be told to stop sends no more than that
    /// until it hears, half of what the protocol bears with.
    fn default() -> Window {
        Window { bytes: 1 << 20, frames: 8192 }
    }
}

/// What watches sockets on which little happens, or receives from all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where one thread drives the rail and the system allows it, else epoll.
    Auto,
    /// io_uring, or the rail does not open.
    IoUring,
    /// epoll.
    Epoll,
    /// io_uring, which also accepts and receives, or the rail does not open.
    IoUringRecv,
    /// The same by a thread of the kernel, which looks for requests without being called.
    IoUringSqpoll,
}

/// Settings of sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of the kernel's buffer for sending; 0 leaves it to the kernel.
    pub send_buffer: usize,
    /// Bytes of the kernel's buffer for receiving; 0 leaves it to the kernel.
    pub receive_buffer: usize,
    /// Name of the congestion control; the system's choice when there is none.
    pub congestion: Option<String>,
    /// After how long without traffic the kernel asks whether the other side is there.
    pub keep_alive: Option<Duration>,
    /// After how long without an answer to what was sent the kernel gives a connection up.
    pub user_timeout: Option<Duration>,
}

/// Ports from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`; none when `first` is 0 or beyond `last`.
    pub fn new(first: u16, last: u16) -> Option<PortRange> {
        (first > 0 && first <= last).then_some(PortRange { first, last })
    }

    /// The first port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Number of ports; 65535 at most.
    pub(crate) fn len(self) -> u16 {
        (self.last - self.first).saturating_add(1)
    }

    /// Every port once, from another place for each process and call: processes that share a range seldom meet.
    pub(crate) fn shuffled(self) -> impl Iterator<Item = u16> {
        use std::hash::{BuildHasher, RandomState};
        let count = u32::from(self.last - self.first) + 1;
        let start = (RandomState::new().hash_one(self.first) % u64::from(count)) as u32;
        (0..count).map(move |i| self.first + ((start + i) % count) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_range_comes_once() {
        assert_eq!(PortRange::new(0, 7).or(PortRange::new(8, 7)), None);
        let range = PortRange::new(65000, 65535).unwrap();
        let mut ports: Vec<u16> = range.shuffled().collect();
        ports.sort_unstable();
        assert_eq!(ports, (65000..=65535).collect::<Vec<_>>());
        assert_eq!(PortRange::new(9, 9).unwrap().shuffled().collect::<Vec<_>>(), [9]);
    }
}
