//! Counters in memory that others may read at any time, and who keeps that memory.
//!
//! The engine adds to a [`Counter`] by a plain load and a plain store, whether it lies in private memory or in a page
//! that another process has open: whoever reads sees each counter as of the last call, even when the process hangs. A
//! [`Ledger`] gives out the memory, and hears what changes seldom: which peers there are, and how they are reached.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::endpoint::{Candidate, PeerState};
use crate::rail::{Path, PeerId, Refusal};
pub use crate::stats::PeerCells;
use crate::stats::PeerCounters;
use crate::sync::{AtomicU64, Ordering};
use crate::wire::NodeId;

/// A number that one thread at a time writes, and any process may read.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; wraps, since the memory may be one that somebody scribbles over.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        // Relaxed, and no locked instruction: there is one writer, and a reader orders nothing by it.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline(always)]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much waits in the conversation with one peer. Written where messages wait, never on the shortest path.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PeerGauges {
    /// Messages that wait to be sent.
    pub pending: Counter,
    /// Large messages of which the peer has asked for pieces.
    pub bulk: Counter,
    /// Its messages in the unexpected store.
    pub unexpected: Counter,
    /// Their bytes.
    pub unexpected_bytes: Counter,
    /// Operations that ended with an error; receives that were too short are not counted.
    pub failures: Counter,
    /// 1 when the peer said that it takes no messages now.
    pub stopped: Counter,
    /// 1 when we said so to the peer.
    pub stopping: Counter,
}

/// All that is counted of one peer.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PeerCounts {
    /// What happened.
    pub cells: PeerCells,
    /// What waits.
    pub gauges: PeerGauges,
}

impl PeerCounts {
    /// Forgets all.
    pub fn clear(&self) {
        self.cells.clear();
        let gauges = &self.gauges;
        let waiting = [
            &gauges.pending,
            &gauges.bulk,
            &gauges.unexpected,
            &gauges.unexpected_bytes,
            &gauges.failures,
            &gauges.stopped,
            &gauges.stopping,
        ];
        waiting.into_iter().for_each(|counter| counter.set(0));
    }
}

/// What is counted of the engine besides its peers.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EngineCells {
    /// Receives that were posted, and not served by an unexpected message at once.
    pub receives_posted: Counter,
    /// Those of them that ended without a message.
    pub receives_withdrawn: Counter,
    /// Sends that have not completed.
    pub sends_now: Counter,
    /// Receives whose message is coming in.
    pub incoming_now: Counter,
    /// Unexpected messages in store.
    pub unexpected_now: Counter,
    /// Their bytes.
    pub unexpected_bytes_now: Counter,
    /// Peers there have been.
    pub peers_total: Counter,
    /// Those of them that have gone.
    pub peers_gone: Counter,
}

/// A `T` in memory that `owner` keeps: shared, never moved.
pub struct Kept<T> {
    at: NonNull<T>,
    /// Keeps the memory.
    owner: Arc<dyn Any + Send + Sync>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept { at: self.at, owner: self.owner.clone() }
    }
}

impl<T: Any + Send + Sync> Kept<T> {
    /// In memory of its own.
    pub fn private(value: T) -> Kept<T> {
        let owner = Arc::new(value);
        Kept { at: NonNull::from(&*owner), owner }
    }
}

impl<T: Sync> Kept<T> {
    /// In memory of somebody else.
    ///
    /// # Safety
    /// `at` is aligned and valid for shared access as a `T` as long as `owner`, or a clone of it, is there.
    pub unsafe fn within(owner: Arc<dyn Any + Send + Sync>, at: NonNull<T>) -> Kept<T> {
        Kept { at, owner }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the owner keeps the value where it is (an `Arc` does not move what it holds; otherwise by the promise
        // of `within`), and nobody has it exclusively.
        unsafe { self.at.as_ref() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// SAFETY: gives shared access only, to a `T` that several threads may share; the owner may go from thread to thread.
unsafe impl<T: Sync> Send for Kept<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Kept<T> {}

/// What is to be known of a peer besides its counters.
#[derive(Debug, Clone, Copy)]
pub struct PeerNote<'a> {
    /// Its number.
    pub peer: PeerId,
    /// Its node.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: u64,
    /// Its process, where the rail knows it.
    pub process: Option<u32>,
    /// Index of the rail that carries its messages.
    pub rail: usize,
    /// Largest message that goes whole, in bytes.
    pub eager_max: usize,
    /// Whether frames flow.
    pub state: &'a PeerState,
    /// Its host answers, its process does not.
    pub stalled: bool,
    /// What became of each rail.
    pub candidates: &'a [Candidate],
    /// Names of rails, and where their links to the peer lead, as they were when they came up.
    pub paths: &'a [(&'static str, Path)],
    /// Times that its path broke, and frames that were sent again because of that.
    pub breaks: (u64, u64),
    /// Why the last call failed, while another path is sought.
    pub last_call: Option<&'a Refusal>,
}

/// Names a row of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(pub u32);

/// Gives out the memory of counters, and hears of changes. Called on slow paths only.
pub trait Ledger: fmt::Debug + Send {
    /// Memory for the engine's counters. Asked for once.
    fn engine(&mut self) -> Kept<EngineCells>;

    /// Memory for a new peer; `None` when no row is free.
    fn open(&mut self) -> Option<(Row, Kept<PeerCounts>)>;

    /// The row of a peer that has gone is free; these are its counters' last values.
    fn close(&mut self, row: Row, last: &PeerCounters);

    /// Something is different with the peer of this row.
    fn note(&mut self, row: Row, note: &PeerNote<'_>);
}

/// A ledger that nobody reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unread;

impl Ledger for Unread {
    fn engine(&mut self) -> Kept<EngineCells> {
        Kept::private(EngineCells::default())
    }

    fn open(&mut self) -> Option<(Row, Kept<PeerCounts>)> {
        None
    }

    fn close(&mut self, _: Row, _: &PeerCounters) {}

    fn note(&mut self, _: Row, _: &PeerNote<'_>) {}
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PeerCells>() == 192 && size_of::<PeerCounts>() == 256);
#[cfg(not(loom))]
const _: () = assert!(size_of::<EngineCells>() == 64);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_in_foreign_memory_lives_as_long_as_its_handles() {
        let owner: Arc<[PeerCounts; 2]> = Arc::new(Default::default());
        let watch = Arc::downgrade(&owner);
        let at = NonNull::from(&owner[1]);
        // SAFETY: an element of the array, which the Arc keeps in its place.
        let kept = unsafe { Kept::within(owner, at) };
        kept.cells.messages_sent.add(u64::MAX);
        kept.cells.messages_sent.add(3);
        assert_eq!(kept.cells.snapshot().messages_sent, 2, "wraps");
        assert_eq!(watch.upgrade().map(|all| all[1].cells.messages_sent.value()), Some(2));
        drop(kept);
        assert!(watch.upgrade().is_none());
    }

    #[test]
    fn the_last_values_of_a_peer_are_added_up() {
        let (sum, one) = (PeerCells::default(), PeerCounters { bytes_sent: 5, ..Default::default() });
        sum.add(&one);
        sum.add(&one);
        assert_eq!(sum.snapshot(), PeerCounters { bytes_sent: 10, ..Default::default() });
    }
}
