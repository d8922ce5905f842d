//! All that an engine knows besides its rails, and how operations complete.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::loan_table::Loans;
use super::onesided::RemoteState;
use super::op::{CqId, Early, Fetching, Incoming, IovList, MoreMemory, RecvOp, SendOp};
use super::orphans::Orphans;
use super::pace::Pace;
use super::peer::{Peer, PeerState};
use super::receive::HeldMessage;
use super::recover::LinkEvent;
use crate::completion::{Completion, CompletionQueue, OpKind, HAS_IMMEDIATE};
use crate::error::Error;
use crate::ledger::{EngineCells, Kept, Ledger};
use crate::matching::{Key, Posted, Slab, Unexpected};
use crate::mem::Iov;
use crate::rail::{LinkId, PeerId, RemoteSource};
use crate::ring::lane::Lane;
use crate::stats::Counters;
use crate::stream::{Gate, Line, Streams};
use crate::time::Time;
use crate::wire::{Address, Message, NodeId};

/// Bounds on memory. Every one is a number of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes that goes whole, if the rail can.
    pub eager_max: usize,
    /// Bytes of unexpected messages beyond which senders are told to stop.
    pub unexpected_bytes: usize,
    /// Unexpected messages beyond which senders are told to stop.
    pub unexpected_messages: usize,
    /// Operations under way.
    pub max_ops: usize,
    /// Bytes that announced messages may have taken for receives of loans before they have come.
    pub lent_bytes: usize,
    /// Time in ns after which a peer has gone that no path leads to.
    pub peer_timeout_ns: u64,
    /// Bytes of one stream that may wait to be read.
    pub stream_window: u32,
    /// Whether conversations survive their links, over rails that retain; off for measurements only.
    pub reliability: bool,
}

impl Default for Limits {
    /// Eager up to 8 KiB (one copy in, one copy out beats the round trip of a rendezvous up to there), 64 MiB and
    /// 65536 unexpected messages, a million operations, 16 GiB to be lent, 5 s, 256 KiB of a stream.
    fn default() -> Limits {
        Limits {
            eager_max: 8192,
            unexpected_bytes: 64 << 20,
            unexpected_messages: 65536,
            max_ops: 1 << 20,
            lent_bytes: 16 << 30,
            peer_timeout_ns: 5_000_000_000,
            stream_window: 256 << 10,
            reliability: true,
        }
    }
}

/// Control messages that may wait for one peer. Who lets more of them pile up asks on and on, and does not listen.
pub(super) const MAX_ANSWERS: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct State {
    pub(super) local: Address,
    pub(super) limits: Limits,
    /// Name of each rail.
    pub(super) names: Vec<&'static str>,
    /// Eager limit of each rail.
    pub(super) eager_max: Vec<usize>,
    /// Whether each rail may keep the memory of frames for a while.
    pub(super) keeps_memory: Vec<bool>,
    /// Whether each rail retains what a peer has not got.
    pub(super) retains: Vec<bool>,
    /// Whether each rail knows from the system who its peers are.
    pub(super) proves: Vec<bool>,
    pub(super) peers: Vec<Peer>,
    /// Peers whose link is not over. Another user's may have any node id, also that of a peer of ours.
    pub(super) by_node: HashMap<(NodeId, Option<u32>), PeerId>,
    pub(super) cqs: Slab<CompletionQueue>,
    /// The lane of the only link in use: see `quick.rs`.
    pub(super) favourite: Option<Arc<Lane>>,
    /// The queues cannot admit more operations than the limit allows.
    is_roomy: bool,
    pub(super) sends: Slab<SendOp>,
    pub(super) posted: Posted<RecvOp>,
    pub(super) incoming: Slab<Incoming>,
    pub(super) unexpected: Unexpected<Early>,
    pub(super) unexpected_bytes: usize,
    pub(super) orphans: Orphans,
    pub(super) held: Slab<HeldMessage>,
    pub(super) loans: Loans,
    /// Bytes that were taken for announced messages to receives of loans, and have not all come.
    pub(super) lending_bytes: u64,
    /// Peers with something to send, each once.
    pub(super) ready: VecDeque<PeerId>,
    /// How much of large messages moves in a round.
    pub(super) pace: Pace,
    /// Peers from whom this side fetches messages, each once.
    pub(super) fetching: VecDeque<PeerId>,
    /// Eager messages whose memory a rail still reads.
    pub(super) in_rail: HashMap<(PeerId, u64), Key>,
    /// Messages of which a rail is fetching a part, by its index and token.
    pub(super) in_fetch: HashMap<(usize, u64), Key>,
    /// Fetches into memory that is not to be written any more.
    pub(super) aborted: Vec<Fetching>,
    /// Memory to be concealed again.
    pub(super) concealed: Vec<(usize, LinkId, RemoteSource)>,
    /// Peers that we told to stop.
    pub(super) stopping: Vec<PeerId>,
    /// What has happened to links, the first first.
    pub(super) links: VecDeque<LinkEvent>,
    /// Peers whose link has broken, and perhaps some that have a new one.
    pub(super) mending: Vec<PeerId>,
    /// When to look at them.
    pub(super) mend_at: Option<Time>,
    /// Regions, keys of peers' regions, and operations on them.
    pub(super) remote: RemoteState,
    pub(super) streams: Streams,
    /// Who decides about streams, if somebody does.
    pub(super) gate: Option<Box<dyn Gate>>,
    /// Most bytes of a stream in one frame.
    pub(super) stream_chunk: usize,
    /// Frames of streams whose memory a rail still reads.
    pub(super) lines_in_rail: HashMap<(PeerId, u64), Line>,
    pub(super) ledger: Box<dyn Ledger>,
    pub(super) engine: Kept<EngineCells>,
    /// Peers whose link has come up, of which the ledger is to be told.
    pub(super) fresh: Vec<PeerId>,
    /// Peers whose link has several paths, and when the ledger is told next how much each has carried.
    pub(super) wide: Vec<PeerId>,
    pub(super) show_at: Time,
    /// Peers that have gone and may still have a row in the ledger, the first to go first.
    pub(super) gone: VecDeque<PeerId>,
    /// Nodes whose conversation is over, for who wants to know.
    pub(super) departed: Option<Vec<NodeId>>,
}

impl State {
    pub(super) fn new(
        local: Address,
        limits: Limits,
        (eager_max, keeps_memory, retains): (Vec<usize>, Vec<bool>, Vec<bool>),
        lender: Option<usize>,
        mut ledger: Box<dyn Ledger>,
    ) -> State {
        let engine = ledger.engine();
        State {
            local,
            limits,
            names: Vec::new(),
            eager_max,
            keeps_memory,
            retains,
            proves: Vec::new(),
            peers: Vec::new(),
            by_node: HashMap::new(),
            cqs: Slab::default(),
            favourite: None,
            is_roomy: true,
            sends: Slab::default(),
            posted: Posted::default(),
            incoming: Slab::default(),
            unexpected: Unexpected::default(),
            unexpected_bytes: 0,
            orphans: Orphans::default(),
            held: Slab::default(),
            loans: Loans::new(lender),
            lending_bytes: 0,
            ready: VecDeque::new(),
            pace: Pace::default(),
            fetching: VecDeque::new(),
            in_rail: HashMap::new(),
            in_fetch: HashMap::new(),
            aborted: Vec::new(),
            concealed: Vec::new(),
            stopping: Vec::new(),
            links: VecDeque::new(),
            mending: Vec::new(),
            mend_at: None,
            remote: RemoteState::default(),
            streams: Streams::new(limits.stream_window),
            gate: None,
            stream_chunk: 1,
            lines_in_rail: HashMap::new(),
            ledger,
            engine,
            fresh: Vec::new(),
            wide: Vec::new(),
            show_at: Time(0),
            gone: VecDeque::new(),
            departed: None,
        }
    }

    #[inline(always)]
    pub(super) fn has_deferred_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.fetching.is_empty()
            || !self.concealed.is_empty()
            || !self.aborted.is_empty()
            || !self.links.is_empty()
    }

    /// Takes room for an operation in its queue.
    #[inline(always)]
    pub(super) fn admit(&mut self, cq: CqId) -> Result<(), Error> {
        if !self.is_roomy && self.is_full() {
            return Err(Error::Again);
        }
        let queue = self.cqs.get_mut(cq).ok_or(Error::Handle)?;
        if queue.reserve() {
            Ok(())
        } else {
            Err(if queue.is_closed() { Error::Handle } else { Error::Again })
        }
    }

    /// See [`super::Engine::bytes_under_way`].
    pub(super) fn bytes_under_way(&self) -> u64 {
        const LOOKS: usize = 16;
        let announced = |op: &SendOp| matches!(op.stage, super::op::Stage::Announced { .. });
        let out = self.sends.iter().take(LOOKS).filter(|(_, op)| announced(op)).map(|(_, op)| op.len);
        let incoming = self.incoming.iter().take(LOOKS).map(|(_, i)| i.wanted.saturating_sub(i.received));
        out.chain(incoming).fold(self.streams.bytes_shown, u64::saturating_add)
    }

    /// To be called when queues have come or gone: whether all that they admit together is within the limit.
    pub(super) fn weigh_queues(&mut self) {
        let room = self.cqs.iter().map(|(_, queue)| queue.capacity().max(queue.outstanding()));
        self.is_roomy = room.sum::<usize>() <= self.limits.max_ops;
    }

    #[cold]
    fn is_full(&self) -> bool {
        let under_way = self.sends.len() + self.posted.len() + self.incoming.len() + self.remote.ops.len();
        under_way >= self.limits.max_ops
    }

    /// Adds a completion, and drops a queue that was destroyed meanwhile with its last one.
    #[inline]
    pub(super) fn complete(&mut self, cq: CqId, completion: Completion) {
        complete(&mut self.cqs, cq, completion);
    }

    pub(super) fn complete_send(&mut self, key: Key, status: Result<(), Error>) {
        let Some(op) = self.sends.remove(key) else { return };
        self.engine.sends_now.set(self.sends.len() as u64);
        if let Err(error) = status {
            self.note_failure(op.peer, error);
        }
        self.complete(op.cq, send_completion(&op, super::op::OpId::Send(key).to_bits(), status));
        if matches!(op.stage, super::op::Stage::Announced { .. }) {
            crate::probes::rendezvous_ended(op.peer, key.to_bits(), status);
        }
        if let super::op::Stage::Announced { ahead, .. } = op.stage {
            self.ahead_ended(op.peer, ahead);
        }
        if let super::op::Stage::Announced { source: Some(source), .. } = op.stage {
            let link = self.peers.get(op.peer.index()).map(|p| (p.rail, p.link));
            self.concealed.extend(link.map(|(rail, link)| (rail, link, source)));
        }
        if let Some(loaned) = op.iov.loaned() {
            self.end_hold(loaned.hold, op.peer);
        }
    }

    pub(super) fn complete_incoming(&mut self, key: Key, status: Result<(), Error>) {
        let Some(mut op) = self.incoming.remove(key) else {
            return;
        };
        self.engine.incoming_now.set(self.incoming.len() as u64);
        if let Err(error) = status {
            self.note_failure(op.peer, error);
        }
        self.abort_fetch(op.fetching.take());
        if let Some(missing) = op.missing.take() {
            self.end_pieces(op.peer, key, &missing);
        }
        let truncated = if op.wanted < op.total { Err(Error::Truncated) } else { Ok(()) };
        let status = status.and(truncated);
        let iov = std::mem::replace(&mut op.receive.iov, IovList::One(Iov::EMPTY));
        if let IovList::More(more) = iov {
            if let MoreMemory::Lending(lending) = *more {
                self.lending_bytes = self.lending_bytes.saturating_sub(op.total);
                match status {
                    Ok(()) => self.loans.borrow_memory(lending),
                    Err(_) => self.loans.break_promise(),
                }
            }
        }
        self.complete(
            op.receive.cq,
            Completion {
                context: op.receive.context,
                length: op.total,
                tag: op.tag,
                immediate: op.immediate.unwrap_or(0),
                op: op.op,
                status: status.err().map_or(0, Error::code),
                source: op.peer.number(),
                kind: OpKind::Receive as u32,
                flags: if op.immediate.is_some() { HAS_IMMEDIATE } else { 0 },
            },
        );
    }

    /// Queues a control message; it goes ahead of everything else for that peer.
    pub(super) fn say(&mut self, peer: PeerId, message: Message) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            if p.error().is_none() {
                p.urgent.push_back(message);
                if p.urgent.len() > MAX_ANSWERS {
                    self.links.push_back(LinkEvent::flooding(peer));
                }
                self.schedule(peer);
            }
        }
    }

    /// A send, or what takes its place between regions, has ended: perhaps no large message is under way any more.
    pub(super) fn note_end_of_bulk(&mut self) {
        if self.sends.is_empty() && self.remote.ops.is_empty() {
            self.pace.end_bulk();
        }
    }

    /// Puts a peer into the list of those with work.
    pub(super) fn schedule(&mut self, peer: PeerId) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            if !p.scheduled && p.has_work() {
                p.scheduled = true;
                self.ready.push_back(peer);
            }
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters {
            unexpected_now: self.unexpected.len() as u64,
            unexpected_bytes_now: self.unexpected_bytes as u64,
            pending_now: (self.sends.len() + self.posted.len() + self.incoming.len() + self.remote.ops.len())
                as u64,
            ..Counters::default()
        };
        for peer in &self.peers {
            counters.peers.add(&peer.counts.cells.snapshot());
            match peer.state {
                PeerState::Up => counters.peers_now += 1,
                PeerState::Gone(_) => counters.peers_gone += 1,
                PeerState::Connecting | PeerState::Broken(_) => {}
            }
        }
        counters
    }
}

/// See [`State::complete`].
#[inline(always)]
pub(super) fn complete(cqs: &mut Slab<CompletionQueue>, cq: CqId, completion: Completion) {
    let Some(queue) = cqs.get_mut(cq) else { return };
    crate::probes::operation_completed(completion.context, completion.status, completion.length);
    queue.push(completion);
    if queue.is_finished() {
        cqs.remove(cq);
    }
}

pub(super) fn send_completion(op: &SendOp, number: u64, status: Result<(), Error>) -> Completion {
    Completion {
        context: op.context,
        length: op.len,
        tag: op.tag,
        immediate: op.immediate.unwrap_or(0),
        op: number,
        status: status.err().map_or(0, Error::code),
        source: op.peer.number(),
        kind: OpKind::Send as u32,
        flags: if op.immediate.is_some() { HAS_IMMEDIATE } else { 0 },
    }
}
