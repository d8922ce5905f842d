//! What the engine knows of one peer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ahead::Ahead;
use super::bulk::{Bulk, Lead};
use super::loan_table::NO_HOLD;
use super::outlet::Outlet;
use super::recover::Recovery;
use super::remote_line::RemoteLine;
use super::stripe::Stripes;
use crate::error::Error;
use crate::ledger::{Kept, PeerCounts, Row};
use crate::matching::Key;
use crate::rail::{LinkId, Path, PeerId, Refusal};
use crate::ring::lane::Lane;
use crate::ring::slot::BODY_BYTES;
use crate::stream::Line;
use crate::wire::{Message, NodeId};

/// Whether frames can flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerState {
    /// The link is being made; sends wait.
    Connecting,
    /// Frames flow.
    Up,
    /// The link broke, for this reason; another is being made, and sends wait.
    Broken(Refusal),
    /// The link is over, for this reason; it does not come back.
    Gone(Refusal),
}

/// In place of a rail's name for a peer that has called: its reason is why the rail is used that is.
pub const ACCEPTED: &str = "accepted";

/// What became of one rail when a path to a peer was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the rail.
    pub rail: &'static str,
    /// Chosen, or why not.
    pub verdict: Result<(), String>,
}

/// A peer: one conversation over one link at a time.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// The user that its process belongs to, when that is another than ours.
    pub(super) user: Option<u32>,
    pub(super) incarnation: u64,
    pub(super) state: PeerState,
    /// Index of the rail in the engine.
    pub(super) rail: usize,
    pub(super) link: LinkId,
    /// Rails that may carry the conversation, as bits.
    pub(super) rails: u64,
    pub(super) candidates: Vec<Candidate>,
    /// Where its links lead, by the names of their rails, as told when they came up.
    pub(super) paths: Vec<(&'static str, Path)>,
    /// Largest message that goes whole.
    pub(super) eager_max: usize,
    /// Its rail may answer `Posted::Accepted`.
    pub(super) keeps_memory: bool,
    /// Loans go to it without a copy.
    pub(super) lends: bool,
    /// Its last link over the rail that lends: loans that came over it are given back to that rail.
    pub(super) lender: (usize, LinkId),
    /// Up, not stopped by the peer, nothing waits, and frames are done when posted: a message may go straight to the
    /// rail.
    pub(super) direct: bool,
    /// How handles of the program send small messages past the rail, while `direct` says that they may.
    lane: Option<Arc<Lane>>,
    /// The peer's store is full: no messages, until it says go.
    pub(super) stopped: bool,
    /// We told the peer to stop,
    pub(super) stopping: bool,
    /// and so many unexpected messages have come since.
    pub(super) since_stop: usize,
    /// Control messages, ahead of all else.
    pub(super) urgent: VecDeque<Message>,
    /// Messages in order.
    pub(super) pending: VecDeque<Key>,
    /// Frames of streams in order,
    pub(super) lines: VecDeque<Line>,
    /// and whether their turn was the last, or that of messages.
    pub(super) line_first: bool,
    /// Sends of which the peer has asked for pieces, in turn.
    pub(super) bulk: Bulk,
    /// How far messages in order are ahead of them.
    pub(super) lead: Lead,
    /// Pieces that it has asked for over further paths.
    pub(super) outlets: Vec<Outlet>,
    /// Its messages that this side fetches, in turn.
    pub(super) fetches: VecDeque<Key>,
    /// Bytes that come from it unasked,
    pub(super) ahead: Option<Ahead>,
    /// and those that went to it so, of messages that it has not finished.
    pub(super) ahead_out: usize,
    /// What it was asked for in pieces, once its link has several paths.
    pub(super) stripes: Option<Box<Stripes>>,
    /// Operations on its regions, and its own on ours.
    pub(super) remote: RemoteLine,
    /// In the engine's list of peers with work.
    pub(super) scheduled: bool,
    /// Unexpected messages from it, and their bytes.
    pub(super) early_messages: usize,
    pub(super) early_bytes: usize,
    /// First of the loans that it holds, in the table of loans.
    pub(super) first_hold: u32,
    /// So that the conversation survives its link, over rails that retain.
    pub(super) recovery: Option<Box<Recovery>>,
    /// It takes nothing any more, while its host answers.
    pub(super) stalls: bool,
    /// Open endpoint handles.
    pub(super) handles: usize,
    /// A link of a rail that retains has carried frames with it, or could have.
    pub(super) has_begun: bool,
    /// Its process, once the rail knows.
    pub(super) process: Option<u32>,
    /// Where the ledger shows it, if it does.
    pub(super) row: Option<Row>,
    pub(super) counts: Kept<PeerCounts>,
}

impl Peer {
    pub(super) fn new(
        (node, incarnation): (NodeId, u64),
        (rail, link): (usize, LinkId),
        eager_max: usize,
        (row, counts): (Option<Row>, Kept<PeerCounts>),
    ) -> Peer {
        Peer {
            node,
            user: None,
            incarnation,
            state: PeerState::Connecting,
            rail,
            link,
            rails: u64::MAX,
            candidates: Vec::new(),
            paths: Vec::new(),
            eager_max,
            keeps_memory: false,
            lends: false,
            lender: (rail, link),
            direct: false,
            lane: None,
            stopped: false,
            stopping: false,
            since_stop: 0,
            urgent: VecDeque::new(),
            pending: VecDeque::new(),
            lines: VecDeque::new(),
            line_first: false,
            bulk: Bulk::default(),
            lead: Lead::default(),
            outlets: Vec::new(),
            fetches: VecDeque::new(),
            ahead: None,
            ahead_out: 0,
            stripes: None,
            remote: RemoteLine::default(),
            scheduled: false,
            early_messages: 0,
            early_bytes: 0,
            first_hold: NO_HOLD,
            recovery: None,
            stalls: false,
            handles: 0,
            has_begun: false,
            process: None,
            row,
            counts,
        }
    }

    /// Why the peer cannot be used any more, if so.
    #[inline]
    pub(super) fn error(&self) -> Option<Error> {
        match &self.state {
            PeerState::Gone(refusal) => Some(refusal.error),
            _ => None,
        }
    }

    /// To be called after each change of what [`Self::direct`] says.
    #[inline]
    pub(super) fn refresh_direct(&mut self) {
        self.set_direct(
            self.state == PeerState::Up
                && !self.stopped
                && !self.keeps_memory
                && self.pending.is_empty()
                && (self.bulk.is_empty() || !self.lead.is_used_up()),
        );
        self.publish();
    }

    /// Says whether a message may go straight to the rail.
    #[inline]
    pub(super) fn set_direct(&mut self, direct: bool) {
        self.direct = direct;
        if let Some(lane) = &self.lane {
            // SAFETY: who has the engine's peers to itself is alone with the fabric.
            unsafe { lane.set_open(direct && self.eager_max >= BODY_BYTES) };
        }
    }

    /// Takes the lane of a new link.
    pub(super) fn take_lane(&mut self, peer: PeerId, lane: Arc<Lane>) {
        // SAFETY: as above.
        unsafe { lane.bind(peer, self.counts.clone()) };
        self.lane = Some(lane);
    }

    /// The lane, if there is one that is in use.
    pub(super) fn lane(&self) -> Option<&Arc<Lane>> {
        self.lane.as_ref().filter(|_| self.state == PeerState::Up)
    }

    /// Nothing goes straight to the rail any more.
    pub(super) fn end_direct(&mut self) {
        self.direct = false;
        if let Some(lane) = self.lane.take() {
            // SAFETY: as above.
            unsafe { lane.end() };
        }
    }

    /// Its link, if that is not over.
    pub(super) fn live_link(&self) -> Option<(usize, LinkId)> {
        let is_live = match &self.state {
            PeerState::Connecting | PeerState::Up => true,
            PeerState::Broken(_) => self.recovery.as_ref().is_some_and(|recovery| recovery.came_up),
            PeerState::Gone(_) => false,
        };
        is_live.then_some((self.rail, self.link))
    }

    /// Its host answers, its process does not.
    pub(super) fn is_stalled(&self) -> bool {
        match &self.state {
            PeerState::Up => self.stalls,
            PeerState::Broken(_) => self.recovery.as_ref().is_some_and(|recovery| recovery.host_answers),
            PeerState::Connecting | PeerState::Gone(_) => false,
        }
    }

    /// The new link carries what was lost with the old one, and nothing else yet.
    pub(super) fn is_replaying(&self) -> bool {
        matches!(self.state, PeerState::Broken(_)) && self.recovery.as_ref().is_some_and(|r| r.is_replaying())
    }

    /// True when there is something that could be sent now.
    pub(super) fn has_work(&self) -> bool {
        self.is_replaying()
            || self.state == PeerState::Up
                && (!self.urgent.is_empty()
                    || !self.lines.is_empty()
                    || !self.bulk.is_empty()
                    || !self.outlets.is_empty()
                    || self.remote.has_work()
                    || !self.stopped && !self.pending.is_empty())
    }
}
