//! What a rail with faults hears of the rail inside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Line;
use crate::error::Error;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{LinkId, PeerId, Refusal, Sign, Sink};
use crate::ring::lane::Lane;
use crate::testing::raw::RawFrame;
use crate::wire::{Incoming, NodeId};

/// Learns which links are whose, and keeps reports about frames of its own from the engine.
pub(super) struct FaultSink<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) lines: &'a mut BTreeMap<LinkId, Line>,
    pub(super) lent: &'a mut HashMap<(PeerId, u64), RawFrame>,
    /// Peers whose links were lost, and who may be called again.
    pub(super) lost: &'a mut HashSet<PeerId>,
    /// Links that have broken and are not called for again: the rail inside is to be told.
    pub(super) given_up: &'a mut Vec<LinkId>,
    /// Who was heard last.
    pub(super) heard: &'a mut Option<PeerId>,
    pub(super) retains: bool,
}

impl<S> FaultSink<'_, S> {
    fn begin(&mut self, link: LinkId, peer: PeerId, node: NodeId) {
        self.lines.insert(link, Line::of(peer, node));
    }
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl<S: Sink> Sink for FaultSink<'_, S> {
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        *self.heard = Some(peer);
        self.sink.message(peer, tag, payload);
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        *self.heard = Some(peer);
        self.sink.frame(peer, frame)
    }

    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        self.sink.place(peer, op, offset, len)
    }

    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        *self.heard = Some(peer);
        self.sink.placed(peer, op, offset, len)
    }

    crate::forward::forward_paths!();

    fn loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool {
        *self.heard = Some(peer);
        self.sink.loan(peer, tag, immediate, loan, message)
    }

    fn sent(&mut self, peer: PeerId, token: u64) {
        if self.lent.remove(&(peer, token)).is_none() {
            self.sink.sent(peer, token);
        }
    }

    fn fetched(&mut self, peer: PeerId, token: u64, outcome: Result<(), Error>) {
        self.sink.fetched(peer, token, outcome);
    }

    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept(link, node, incarnation)?;
        self.begin(link, peer, node);
        Ok(peer)
    }

    fn accept_foreign(
        &mut self,
        link: LinkId,
        node: NodeId,
        incarnation: u64,
        user: u32,
    ) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept_foreign(link, node, incarnation, user)?;
        self.begin(link, peer, node);
        Ok(peer)
    }

    // A lane would lead past this rail.
    fn lane(&mut self, _: PeerId, _: Arc<Lane>) {}

    fn up(&mut self, peer: PeerId) {
        self.lost.remove(&peer);
        // Of several links to one peer only one is ever up.
        for line in self.lines.values_mut().filter(|line| line.peer == Some(peer) && !line.cut) {
            line.up = true;
        }
        self.sink.up(peer);
    }

    // Nobody is told here by `connect_unheard` that it may be.
    fn up_unheard(&mut self, peer: PeerId) {
        self.up(peer);
    }

    fn refused(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.lines.remove(&link);
        self.sink.refused(peer, link, reason);
    }

    fn sign(&mut self, peer: PeerId, sign: Sign) {
        self.sink.sign(peer, sign);
    }

    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.lines.remove(&link);
        self.sink.down(peer, link, reason);
    }

    fn broken(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.lines.remove(&link);
        if self.retains {
            self.lost.insert(peer);
            self.sink.broken(peer, link, reason);
        } else {
            self.given_up.push(link);
            self.sink.down(peer, link, Refusal::new(Error::PeerGone, reason.reason));
        }
    }
}
