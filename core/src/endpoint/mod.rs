//! The engine: messages in, frames out, and back.
//!
//! An [`Engine`] owns the rails of one fabric and everything that is known of its peers. It is driven: nothing
//! happens but inside its methods, and none of them blocks. The way of a message:
//!
//! * up to the rail's eager limit it goes whole, at once when the peer is free to take it, else it waits in the
//!   peer's queue, in order;
//! * longer ones are announced (RTS); the receiver, once it has a buffer, asks for pieces (RTR) or fetches by
//!   itself where the rail can; the sender cuts pieces into segments; the receiver says FIN.
//!
//! | file | concept |
//! |---|---|
//! | `op.rs` | operations under way |
//! | `peer.rs` | one peer |
//! | `state.rs` | all that is known, and completion |
//! | `send.rs` | starting sends |
//! | `quick.rs` | the short way in |
//! | `receive.rs` | receives, probes, the unexpected store |
//! | `arrive.rs` | what frames of peers do |
//! | `flush.rs` | the arbiter: whose frame is next |
//! | `bulk.rs` | large messages, by users and in turn |
//! | `fetch.rs` | those that are fetched |
//! | `stripe.rs`, `outlet.rs` | several paths at a time: what the receiver asks for over which, and how it goes out |
//! | `pace.rs` | how much of them moves at once |
//! | `link.rs` | peers coming and going |
//! | `unheard.rs` | first links over which frames go before the peer has answered |
//! | `recover.rs`, `mend.rs`, `resume.rs`, `replay.rs` | links that break; new ones, and how they go on; what was lost |
//! | `prefer.rs`, `better.rs` | the way back to a rail that is preferred; the way to one that somebody else knows of |
//! | `confine.rs` | rails that a conversation may not use |
//! | `regions.rs` | own regions, and keys of peers' |
//! | `onesided.rs` | operations on peers' regions |
//! | `remote_op.rs`, `remote_line.rs`, `answer.rs` | the same by messages: how they go out, in which order, how they end |
//! | `serve.rs` | what peers do to own regions by messages |
//! | `loan.rs`, `loan_send.rs`, `loan_receive.rs` | messages that are read where they were written |
//! | `loan_table.rs` | who has which loan |
//! | `streams.rs` | byte streams |
//! | `publish.rs` | what the ledger is told |

mod ahead;
mod answer;
mod arrive;
mod assembled;
mod better;
mod bulk;
mod confine;
mod crossed;
mod fetch;
mod flush;
mod link;
mod loan;
mod loan_receive;
mod loan_send;
mod loan_table;
mod mend;
mod onesided;
mod op;
mod orphans;
mod outlet;
mod pace;
mod peer;
mod prefer;
mod publish;
mod pull;
mod quick;
mod receive;
mod recover;
mod regions;
mod remote_line;
mod remote_op;
mod replay;
mod resume;
mod send;
mod serve;
mod state;
mod streams;
mod stripe;
mod unheard;

pub use onesided::RemoteArgs;
pub use op::CqId;
pub use peer::{Candidate, PeerState, ACCEPTED};
pub use quick::Quick;
pub use receive::{HeldMessage, Probe};
pub use send::{SendArgs, Sent};
pub use state::Limits;

use std::sync::Arc;

use crate::completion::{Completion, CompletionQueue};
use crate::error::Error;
use crate::ledger::{Ledger, Unread};
use crate::matching::{Pattern, Source};
use crate::rail::{Armed, PeerId, Rail};
use crate::ring::lane::Lane;
use crate::stats::{Counters, PeerCounters};
use crate::time::Time;
use crate::wire::{Address, NodeId};
use link::RailSink;
use state::State;

/// Frames taken from a rail in one go, so that no rail keeps others waiting.
const POLL_BUDGET: usize = 64;

/// The protocol engine of one fabric.
#[derive(Debug)]
pub struct Engine<R> {
    rails: Vec<R>,
    state: State,
}

impl<R: Rail> Engine<R> {
    /// An engine for the fabric at `local`; `rails` in order of preference.
    pub fn new(local: Address, rails: Vec<R>, limits: Limits) -> Engine<R> {
        Engine::with_ledger(local, rails, limits, Box::new(Unread))
    }

    /// As [`Self::new`], with counters in the memory of `ledger`.
    pub fn with_ledger(local: Address, rails: Vec<R>, limits: Limits, ledger: Box<dyn Ledger>) -> Engine<R> {
        let eager_max = eager_limits(&rails, &limits);
        let keeps_memory = rails.iter().map(|r| r.capabilities().keeps_memory).collect();
        let retains = rails.iter().map(|r| limits.reliability && r.capabilities().retains).collect();
        let lender = rails.iter().position(|r| r.capabilities().loans);
        let facts = (eager_max, keeps_memory, retains);
        let mut state = State::new(local, limits, facts, lender, ledger);
        state.stream_chunk = streams::chunk_of(&rails);
        state.names = rails.iter().map(R::name).collect();
        state.proves = rails.iter().map(|r| r.capabilities().proves).collect();
        Engine { rails, state }
    }

    /// The address of this fabric.
    pub fn local(&self) -> &Address {
        &self.state.local
    }

    /// Takes what rails have and sends what waits; returns how many frames moved. No system call on rails of shared
    /// memory, unless a sleeping peer is to be woken.
    #[inline(always)]
    pub fn progress(&mut self) -> usize {
        self.progress_within(POLL_BUDGET)
    }

    /// The same, with at most about `budget` frames of each link.
    #[inline]
    pub fn progress_within(&mut self, budget: usize) -> usize {
        let mut moved = 0;
        for (index, rail) in self.rails.iter_mut().enumerate() {
            moved += rail.poll(budget, &mut RailSink { state: &mut self.state, rail: index });
        }
        if self.state.has_deferred_work() {
            self.state.pace.looked();
            moved += self.flush();
        }
        moved
    }

    /// The slow path of [`Self::progress`]: new links, dead peers, timers. Returns how much happened.
    pub fn maintain(&mut self, now: Time) -> usize {
        let mut happened = 0;
        for (index, rail) in self.rails.iter_mut().enumerate() {
            happened += rail.maintain(now, &mut RailSink { state: &mut self.state, rail: index });
        }
        if !self.state.mending.is_empty() {
            self.mend(now);
        }
        if self.state.has_deferred_work() {
            self.state.pace.looked();
            happened += self.flush();
        }
        self.choose_favourite();
        if !self.state.wide.is_empty() {
            self.show_paths(now);
        }
        self.introduce();
        happened
    }

    /// When [`Self::maintain`] has to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        self.rails.iter().filter_map(R::deadline).chain(self.state.mend_at).min()
    }

    /// True while a link is being made: [`Self::maintain`] should then be called more often.
    pub fn is_connecting(&self) -> bool {
        self.rails.iter().any(R::is_connecting)
    }

    /// Prepares all rails for sleep. Unless all say yes, none is armed afterwards.
    pub fn arm(&mut self) -> Armed {
        for index in 0..self.rails.len() {
            if self.rails[index].arm() == Armed::Busy {
                self.disarm();
                return Armed::Busy;
            }
        }
        // What waits for room gets a last chance: a rail that drained before it was armed rings nobody. They have all looked.
        if self.state.has_deferred_work() {
            self.state.pace.looked();
            if self.flush() > 0 {
                self.disarm();
                return Armed::Busy;
            }
        }
        Armed::Yes
    }

    /// The end of sleep.
    pub fn disarm(&mut self) {
        self.rails.iter_mut().for_each(R::disarm);
    }

    /// Whether rails that were armed still are, see [`Rail::is_armed`].
    pub fn is_armed(&self) -> bool {
        self.rails.iter().all(R::is_armed)
    }

    /// Descriptors that are readable when an armed engine has something to do.
    pub fn wait_handles(&self) -> impl Iterator<Item = i32> + '_ {
        self.rails.iter().filter_map(R::wait_handle)
    }

    /// True when spinning only keeps the peer that we wait for from running.
    #[inline]
    pub fn is_peer_on_this_core(&self) -> bool {
        self.rails.iter().any(R::is_peer_on_this_core)
    }

    /// Makes a completion queue for at most `capacity` operations.
    pub fn create_cq(&mut self, capacity: usize) -> CqId {
        let cq = self.state.cqs.insert(CompletionQueue::new(capacity));
        self.state.weigh_queues();
        cq
    }

    /// Ends a completion queue: the operations that report to it end, and their memory is not touched any more. A send of
    /// which the peer knows may have been received.
    pub fn destroy_cq(&mut self, cq: CqId) {
        self.withdraw_receives(cq);
        self.cancel_sends_where(|op| op.cq == cq);
        self.state.cancel_remote_where(|op| op.cq == cq);
        if let Some(queue) = self.state.cqs.get_mut(cq) {
            queue.close();
            if queue.is_finished() {
                self.state.cqs.remove(cq);
            }
        }
        self.state.weigh_queues();
    }

    /// The queue, to look at it or to arm it.
    #[inline(always)]
    pub fn cq(&mut self, cq: CqId) -> Option<&mut CompletionQueue> {
        self.state.cqs.get_mut(cq)
    }

    /// Takes completions into `out`; returns how many.
    #[inline(always)]
    pub fn take_completions(&mut self, cq: CqId, mut out: impl FnMut(Completion) -> bool) -> usize {
        let Some(queue) = self.state.cqs.get_mut(cq) else {
            return 0;
        };
        let mut taken = 0;
        while let Some(completion) = queue.pop() {
            taken += 1;
            if !out(completion) {
                break;
            }
        }
        taken
    }

    /// Counters of the whole engine.
    pub fn counters(&self) -> Counters {
        let mut counters = self.state.counters();
        counters.wakeups_sent = self.rails.iter().map(R::wakeups_sent).sum();
        counters
    }

    /// Why the only peer that `pattern` accepts can send nothing any more, if so.
    pub fn source_error(&self, pattern: &Pattern) -> Option<Error> {
        match pattern.source {
            Source::Any => None,
            Source::Peer(peer) => self.state.peers.get(peer.index())?.error(),
        }
    }

    /// Counters of one peer.
    pub fn peer_counters(&self, peer: PeerId) -> Option<PeerCounters> {
        self.state.peers.get(peer.index()).map(|p| p.counts.cells.snapshot())
    }

    /// State of one peer, its node with incarnation, and what became of each rail when its path was chosen.
    pub fn peer(&self, peer: PeerId) -> Result<(NodeId, u64, &PeerState, &[Candidate]), Error> {
        let peer = self.state.peers.get(peer.index()).ok_or(Error::NotFound)?;
        Ok((peer.node, peer.incarnation, &peer.state, &peer.candidates))
    }

    /// About how many bytes of announced messages are on their way, out and in; at most a few messages are looked at.
    pub fn bytes_under_way(&self) -> u64 {
        self.state.bytes_under_way()
    }

    /// How a peer is sent small messages past the engine, if it can be.
    pub fn lane(&self, peer: PeerId) -> Option<&Arc<Lane>> {
        self.state.peers.get(peer.index())?.lane()
    }

    /// Name of the rail that carries a peer's messages.
    pub fn rail_name(&self, peer: PeerId) -> Option<&'static str> {
        let peer = self.state.peers.get(peer.index())?;
        self.rails.get(peer.rail).map(R::name)
    }

    /// The rails, in order of preference.
    pub fn rails(&self) -> &[R] {
        &self.rails
    }

    /// The same, to misuse them.
    #[cfg(any(test, feature = "testing"))]
    pub fn rails_mut(&mut self) -> &mut [R] {
        &mut self.rails
    }
}

/// The longest message that goes whole over each rail. What one rail retains another may have to carry: so those that retain have
/// one limit in common.
fn eager_limits<R: Rail>(rails: &[R], limits: &Limits) -> Vec<usize> {
    let retaining = rails.iter().map(R::capabilities).filter(|can| can.retains);
    let common = retaining.map(|can| can.max_eager).min().unwrap_or(usize::MAX);
    let limit_of = |rail: &R| match rail.capabilities() {
        can if can.retains => common.min(limits.eager_max),
        can => can.max_eager.min(limits.eager_max),
    };
    rails.iter().map(limit_of).collect()
}
