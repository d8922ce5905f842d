//! The seam to a device: what the rail needs of verbs, and no more.
//!
//! Names and rules are those of libibverbs, so that a device of it fits: work requests are posted in lists of which a prefix may be
//! taken (`ibv_post_send`), completions are polled into an array (`ibv_poll_cq`), a completion queue that was armed makes a descriptor
//! readable (`ibv_req_notify_cq` and its channel). A rail has one device, with one protection domain and one completion queue.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use gridnet_core::mem::{Gather, PeerBytes};

use crate::arena::Arena;

/// Why a device refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A queue has no room.
    Full,
    /// There is no such object, or its state does not allow it.
    Invalid,
    /// The system has no memory, or the device no object left.
    NoMemory,
}

/// What a device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest path MTU in bytes: 256 to 4096.
    pub max_mtu: u16,
    /// Bytes of a work request that may be inline.
    pub max_inline: usize,
    /// Completions that its queue holds.
    pub max_cqe: usize,
}

/// What keeps memory registered.
pub trait Deregister: Send {
    /// Ends that; false when the device does not let go of the memory, and may still reach it.
    #[must_use]
    fn deregister(self: Box<Self>) -> bool;
}

/// Registered memory: deregistered, then given back. What the device does not let go of is never given back.
pub struct Region {
    /// There until the region is dropped.
    registration: Option<Box<dyn Deregister>>,
    arena: Arena,
    lkey: u32,
}

impl Region {
    /// Memory that a device has registered; when `registration` has ended, it reaches it no more.
    pub fn new(registration: Box<dyn Deregister>, arena: Arena, lkey: u32) -> Region {
        Region { registration: Some(registration), arena, lkey }
    }

    /// Copies `head`, then `payload`, to `at`, which no work request names; false, and nothing, where there is no room for both.
    #[must_use]
    pub(crate) fn fill(&mut self, at: usize, head: &[u8], payload: &Gather<'_>) -> bool {
        self.arena.fill(at, head, payload)
    }

    /// Copies bytes from `at` on; false, and nothing, where there are not as many.
    #[must_use]
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> bool {
        self.arena.read(at, into)
    }

    /// The bytes there, for who copies them; none where there are not as many.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> Option<PeerBytes<'_>> {
        self.arena.bytes(at, len)
    }

    /// A piece of it, for work requests.
    pub fn sge(&self, at: usize, length: u32) -> Sge {
        Sge { address: self.arena.base() as u64 + at as u64, length, lkey: self.lkey }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let is_free = self.registration.take().is_none_or(Deregister::deregister);
        if !is_free {
            self.arena.leak();
        }
    }
}

impl Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("len", &self.arena.len()).finish_non_exhaustive()
    }
}

/// Memory of the program that a device has registered: when it is dropped, nobody reaches that any more, whatever is under way.
pub struct Registration {
    _guard: Box<dyn Send>,
    /// The key for work requests of this side,
    pub lkey: u32,
    /// and that for those of peers.
    pub rkey: u32,
}

impl Registration {
    /// What ends when `guard` is dropped.
    pub fn new(guard: Box<dyn Send>, lkey: u32, rkey: u32) -> Registration {
        Registration { _guard: guard, lkey, rkey }
    }
}

impl Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}

/// A piece of registered memory: `ibv_sge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sge {
    /// Where it starts.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// The key of its region.
    pub lkey: u32,
}

/// Number of a queue pair, 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QpNum(pub u32);

/// Sizes of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Work requests of the send queue.
    pub send: usize,
    /// Work requests of the receive queue.
    pub receive: usize,
    /// Reads that may be under way in either direction, at most [`READS`]. With 0 neither side reads through it: what peers ask for
    /// is refused. Only for devices that [can](Device::can_read).
    pub reads: u8,
}

/// Where a queue pair leads, and what it counts from: the attributes of RTR and RTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Address of the other device: its GID, and for software devices the UDP port.
    pub remote: SocketAddr,
    /// The queue pair there.
    pub dest_qp: QpNum,
    /// Path MTU in bytes.
    pub mtu: u16,
    /// First number that the peer sends with.
    pub rq_psn: u32,
    /// First number that this side sends with.
    pub sq_psn: u32,
}

/// A SEND with immediate data: `ibv_send_wr`.
#[derive(Debug, Clone, Copy)]
pub struct SendWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// The message; none is an empty one.
    pub sge: Option<Sge>,
    /// 32 bits for the completion there.
    pub imm: u32,
    /// A completion is wanted, not only when it fails.
    pub signaled: bool,
}

/// Reads of one queue pair that may be under way, in either direction.
pub const READS: u8 = 16;

/// An RDMA READ: `ibv_send_wr`. Its completion is always wanted.
#[derive(Debug, Clone, Copy)]
pub struct ReadWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// Where the bytes go.
    pub sge: Sge,
    /// Where they are, in the memory of the peer,
    pub remote: u64,
    /// and the key for it.
    pub rkey: u32,
}

/// A receive: `ibv_recv_wr`.
#[derive(Debug, Clone, Copy)]
pub struct RecvWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// Where the message goes.
    pub sge: Sge,
}

/// How a work request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// The queue pair was in ERR before.
    Flushed,
    /// The peer's device did not answer.
    NoAnswer,
    /// Anything else, by its name.
    Failed(&'static str),
}

/// A work completion: `ibv_wc`. Unless the status is success, only `wr_id`, `status` and `qp` mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wc {
    /// Of the work request.
    pub wr_id: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes of a message that came.
    pub byte_len: u32,
    /// Immediate data, where some came.
    pub imm: Option<u32>,
    /// The queue pair.
    pub qp: QpNum,
}

/// A verbs device that was opened, with a protection domain and a completion queue.
pub trait Device: Debug + Send {
    /// What it is called, for people.
    fn name(&self) -> String;

    /// Where peers send to: its GID, and for software devices the UDP port.
    fn gid(&self) -> SocketAddr;

    /// What it can do.
    fn limits(&self) -> Limits;

    /// Whether a GID may be that of a device of this host. Whoever could name any would have this side send to strangers.
    fn leads_to(&self, gid: SocketAddr, host: IpAddr) -> bool {
        gid.ip() == host
    }

    /// What it costs, as the capabilities of a rail say it: time in ns until a small message is seen, bytes that pass in a second.
    fn cost(&self) -> (u32, u64) {
        (8_000, 1_000_000_000)
    }

    /// Registers memory that only this side reaches.
    ///
    /// # Errors
    /// [`Failure::NoMemory`].
    fn register(&mut self, arena: Arena) -> Result<Region, Failure>;

    /// Whether peers can read memory here, and this side there: then what follows is there, too, and queue pairs take up to [`READS`] reads.
    /// A read that fails is the end of its queue pair, so reads have one of their own.
    fn can_read(&self) -> bool {
        false
    }

    /// Registers memory of the program: for this side to write, if `writes`, or else for peers to read.
    ///
    /// # Safety
    /// Until the registration is dropped the memory stays readable, and writable if `writes`. Nobody else writes it meanwhile, nor
    /// reads it if `writes`, but before the first work request for it and after the completion of the last one.
    ///
    /// # Errors
    /// [`Failure::NoMemory`], [`Failure::Invalid`] when it cannot.
    #[expect(unsafe_code)] // Only the caller knows how long memory of the program stays.
    unsafe fn register_memory(
        &mut self,
        base: *mut u8,
        len: usize,
        writes: bool,
    ) -> Result<Registration, Failure> {
        let _ = (base, len, writes);
        Err(Failure::Invalid)
    }

    /// Posts a read, which leaves likewise.
    ///
    /// # Errors
    /// Why it was not taken.
    fn post_read(&mut self, qp: QpNum, wr: &ReadWr) -> Result<(), Failure> {
        let _ = (qp, wr);
        Err(Failure::Invalid)
    }

    /// A queue pair in INIT: receives can be posted.
    ///
    /// # Errors
    /// [`Failure::NoMemory`]; [`Failure::Invalid`] when it is to take reads and the device cannot.
    fn create_qp(&mut self, depth: Depth) -> Result<QpNum, Failure>;

    /// From INIT to RTR, then RTS.
    ///
    /// # Errors
    /// [`Failure::Invalid`] for another state, and attributes that make no sense.
    fn connect_qp(&mut self, qp: QpNum, route: &Route) -> Result<(), Failure>;

    /// To ERR: everything is flushed.
    fn fail_qp(&mut self, qp: QpNum);

    /// Destroys a queue pair: nothing comes through it any more. What it has completed can still be polled.
    fn destroy_qp(&mut self, qp: QpNum);

    /// Posts sends, in order. They leave at once, as far as there is room.
    ///
    /// # Errors
    /// How many were taken, and why the next one was not.
    fn post_send(&mut self, qp: QpNum, list: &[SendWr]) -> Result<(), (usize, Failure)>;

    /// Posts receives, in order.
    ///
    /// # Errors
    /// As [`post_send`](Self::post_send).
    fn post_recv(&mut self, qp: QpNum, list: &[RecvWr]) -> Result<(), (usize, Failure)>;

    /// Moves completions to the end of `into`, at most as many as it has room for without growing.
    ///
    /// # Errors
    /// [`Failure::Full`] when completions were lost.
    fn poll_cq(&mut self, into: &mut Vec<Wc>) -> Result<(), Failure>;

    /// Has the next completion make the [`descriptor`](Self::descriptor) readable. What is there already does not: poll after this.
    /// False when a software device has something to do meanwhile: then [`progress`](Self::progress) is next, not sleep.
    #[must_use]
    fn arm(&mut self) -> bool {
        true
    }

    /// Whether [`arm`](Self::arm) still holds. Not where its event was taken, or a device works that has to be told of sleep.
    fn is_armed(&self) -> bool {
        true
    }

    /// The descriptor of the completion channel; for software devices, of what they do their work for. None for devices that only
    /// this process feeds.
    fn descriptor(&self) -> Option<RawFd> {
        None
    }

    /// The work of a software device: returns how much it did. Adapters do theirs by themselves.
    fn progress(&mut self) -> usize {
        0
    }

    /// [`progress`](Self::progress), then [`poll_cq`](Self::poll_cq).
    ///
    /// # Errors
    /// As `poll_cq`.
    fn progress_and_poll(&mut self, into: &mut Vec<Wc>) -> Result<(), Failure> {
        self.progress();
        self.poll_cq(into)
    }

    /// How long until a software device has something to do though nothing comes.
    fn next_work(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Held;

    impl Deregister for Held {
        fn deregister(self: Box<Self>) -> bool {
            false
        }
    }

    /// Whether this is memory of the process.
    fn is_mapped(at: u64) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let mut ends = line.split([' ', '-']).map(|end| u64::from_str_radix(end, 16).unwrap_or(0));
            let (start, end) = (ends.next().unwrap_or(0), ends.next().unwrap_or(0));
            (start..end).contains(&at)
        })
    }

    #[test]
    fn memory_that_a_device_holds_is_not_given_back() {
        // So much that the allocator gives it back to the system at once.
        let arena = Arena::new(64 << 20).unwrap();
        let region = Region::new(Box::new(Held), arena, 0);
        let held = region.sge(1 << 20, 1).address;
        drop(region);
        assert!(is_mapped(held));
    }
}
