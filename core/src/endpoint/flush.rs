//! The arbiter: whose frame is next.
//!
//! Peers with something to send stand in one line. Each in turn gets a quantum of bytes (deficit round robin,
//! Shreedhar and Varghese 1995, with the deficit never carried over, as a frame is small against the quantum): first its control
//! messages, then messages in order and frames of streams, by turns, as long as they are not too far ahead of large ones, then
//! segments of these, the users of the fabric in turn (`bulk.rs`). A rail without room sends the peer to the end of the line; it costs nobody else more than one
//! look.

use super::bulk::FRAME_COST;
use super::op::{Piece, SendOp, Stage};
use super::pace::Measure;
use super::peer::PeerState;
use super::state::State;
use super::Engine;
use crate::matching::Key;
use crate::mem::Gather;
use crate::rail::{LinkId, PeerId, Posted, Rail};
use crate::wire::Message;

/// Bytes that a peer may send before it is the next one's turn: a few segments.
const QUANTUM: usize = 512 * 1024;

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A frame went out, of this many bytes.
    Moved(usize),
    /// Nothing to send.
    Idle,
    /// The rail has no room.
    Full,
}

impl<R: Rail> Engine<R> {
    /// Gives each peer with work one turn; returns the number of frames that went out.
    pub(super) fn flush(&mut self) -> usize {
        let mut moved = if self.state.links.is_empty() { 0 } else { self.settle_links() };
        let measure = self.state.pace.begin();
        moved += self.run_fetches(measure);
        for _ in 0..self.state.ready.len() {
            let Some(peer) = self.state.ready.pop_front() else {
                break;
            };
            self.state.peers[peer.index()].scheduled = false;
            moved += self.flush_peer(peer, measure);
            self.state.schedule(peer);
        }
        self.conceal_finished();
        moved
    }

    fn flush_peer(&mut self, peer: PeerId, measure: Measure) -> usize {
        let mut moved = 0;
        let mut budget = QUANTUM;
        if self.state.peers[peer.index()].is_replaying() {
            moved += self.flush_replay(peer);
        }
        while budget > 0 && self.state.peers[peer.index()].state == PeerState::Up {
            let mut step = self.flush_urgent(peer);
            if step == Step::Idle && self.may_lead(peer) {
                step = self.flush_in_order(peer);
            }
            let mut is_bulk = false;
            if step == Step::Idle {
                step = self.flush_bulk(peer, measure);
                is_bulk = true;
            }
            match step {
                // Others are heard before the next.
                Step::Moved(1..) if is_bulk && measure == Measure::Short => {
                    moved += 1;
                    break;
                }
                Step::Moved(bytes) => {
                    moved += 1;
                    budget = budget.saturating_sub(bytes + FRAME_COST);
                }
                Step::Idle | Step::Full => break,
            }
        }
        let p = &self.state.peers[peer.index()];
        if !p.outlets.is_empty() && p.state == PeerState::Up {
            moved += self.flush_outlets(peer, measure);
        }
        self.state.peers[peer.index()].refresh_direct();
        moved
    }

    /// Whether the next message in order goes before segments that wait.
    fn may_lead(&mut self, peer: PeerId) -> bool {
        let p = &mut self.state.peers[peer.index()];
        let bulk_waits = !p.bulk.is_empty();
        let sent = p.lead.note(p.counts.cells.sends_eager.value(), bulk_waits);
        if bulk_waits {
            self.state.pace.note_sent(sent);
        }
        !p.lead.is_used_up()
    }

    fn flush_urgent(&mut self, peer: PeerId) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(message) = p.urgent.front() else {
            return Step::Idle;
        };
        match self.rails[p.rail].post(p.link, &message.frame(Gather::EMPTY)) {
            Posted::Done | Posted::Accepted(_) => {
                note_answer(message);
                p.urgent.pop_front();
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down | Posted::Failed(_) => Step::Full,
        }
    }

    /// The next message in order: whole, or its announcement.
    pub(super) fn flush_message(&mut self, peer: PeerId) -> Step {
        let p = &mut self.state.peers[peer.index()];
        if p.stopped {
            return Step::Idle;
        }
        let Some(&key) = p.pending.front() else {
            return Step::Idle;
        };
        let Some(op) = self.state.sends.get_mut(key) else {
            p.pending.pop_front();
            return Step::Moved(0);
        };
        if op.is_lent() {
            return self.flush_loan(peer, key);
        }
        let whole = usize::try_from(op.len).is_ok_and(|len| len <= p.eager_max);
        if !whole {
            if let Some(step) = self.flush_ahead(peer, key) {
                return step;
            }
        }
        let p = &mut self.state.peers[peer.index()];
        let Some(op) = self.state.sends.get_mut(key) else { return Step::Idle };
        let rail = &mut self.rails[p.rail];
        let gather = Gather::all(op.iov.as_slice());
        let posted = if whole {
            let sync = op.sync.then(|| super::op::OpId::Send(key).to_bits());
            let message = Message::Eager { tag: op.tag, immediate: op.immediate, sync };
            rail.post(p.link, &message.frame(gather))
        } else {
            let source = rail.capabilities().get.then(|| rail.expose(p.link, &gather)).flatten();
            kill_point!("rendezvous.expose");
            let posted = rail.post(p.link, &announcement(key, op, source, 0).frame(Gather::EMPTY));
            match (posted, source) {
                (Posted::Done | Posted::Accepted(_), _) => {
                    kill_point!("rendezvous.rts");
                    op.stage = Stage::Announced { pieces: Default::default(), source, ahead: 0 };
                }
                (_, Some(source)) => rail.conceal(p.link, source),
                (_, None) => {}
            }
            posted
        };
        self.message_posted(peer, key, whole, posted)
    }

    fn message_posted(&mut self, peer: PeerId, key: Key, whole: bool, posted: Posted) -> Step {
        if let Posted::Failed(error) = posted {
            self.state.abandon_send(key, error);
            return Step::Moved(0);
        }
        if matches!(posted, Posted::NoResource | Posted::Down) {
            return Step::Full;
        }
        let p = &mut self.state.peers[peer.index()];
        p.pending.pop_front();
        if !whole {
            p.counts.cells.sends_rendezvous.add(1);
            crate::probes::rendezvous_started(peer, key.to_bits());
            return Step::Moved(0);
        }
        p.counts.cells.sends_eager.add(1);
        let Some(op) = self.state.sends.get_mut(key) else {
            return Step::Moved(0);
        };
        let len = op.len as usize;
        p.lead.grow(len);
        match (posted, op.sync) {
            (Posted::Accepted(token), _) => {
                op.stage = Stage::InRail;
                self.state.in_rail.insert((peer, token), key);
            }
            (_, true) => op.stage = Stage::AwaitsMatch,
            (_, false) => self.state.complete_send(key, Ok(())),
        }
        Step::Moved(len)
    }

    /// Large messages, operations on the peer's regions and answers to its own, in turn.
    fn flush_bulk(&mut self, peer: PeerId, measure: Measure) -> Step {
        for _ in 0..3 {
            let step = match self.state.peers[peer.index()].remote.next_turn() {
                0 => self.flush_segment(peer, measure),
                1 => self.flush_remote(peer, measure),
                _ => self.flush_reply(peer, measure),
            };
            if step != Step::Idle {
                return step;
            }
        }
        Step::Idle
    }

    /// The next segment of the large message whose turn it is.
    fn flush_segment(&mut self, peer: PeerId, measure: Measure) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(key) = p.bulk.front() else {
            return Step::Idle;
        };
        let Some(op) = self.state.sends.get_mut(key) else {
            p.bulk.turn(0, false);
            return Step::Moved(0);
        };
        let Stage::Announced { pieces, .. } = &mut op.stage else {
            return Step::Idle;
        };
        let Some(piece) = pieces.front_mut() else {
            p.bulk.turn(0, false);
            return Step::Moved(0);
        };
        let rail = &mut self.rails[p.rail];
        let left = usize::try_from(piece.end - piece.offset).unwrap_or(usize::MAX);
        // Users share what waits here, and not what the path has taken already.
        if measure == Measure::Alone && p.bulk.is_shared() && rail.short_segment_len(p.link) == 0 {
            return Step::Full;
        }
        let most = match most_of_bulk(rail, p.link, measure) {
            Ok(most) => most,
            Err(step) => return step,
        };
        let len = rail.segment_len(op.len).min(left).min(most);
        let window = Gather::all(op.iov.as_slice()).window(piece.offset as usize, len);
        let message = Message::Segment { op: piece.receiver_op, offset: piece.offset };
        match rail.post(p.link, &message.frame(window)) {
            Posted::Done | Posted::Accepted(_) => {
                kill_point!("rendezvous.segment");
                piece.offset += len as u64;
                let finished = piece.offset == piece.end;
                if finished {
                    pieces.pop_front();
                }
                p.bulk.turn(len, !finished || !pieces.is_empty());
                p.lead.shrink(len);
                self.state.pace.moved(len);
                Step::Moved(len)
            }
            Posted::Failed(error) => {
                self.state.abandon_send(key, error);
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }

    /// Withdraws memory that was exposed for sends which have ended, and that of receives which have before their messages came.
    pub(super) fn conceal_finished(&mut self) {
        while let Some(fetching) = self.state.aborted.pop() {
            self.rails[fetching.rail].abort_get(fetching.link, fetching.token);
        }
        while let Some((rail, link, source)) = self.state.concealed.pop() {
            self.rails[rail].conceal(link, source);
            kill_point!("rendezvous.conceal");
        }
    }
}

/// Bytes of a large message that may go over a link now, at most.
///
/// # Errors
/// What to say when that is none.
pub(super) fn most_of_bulk<R: Rail>(rail: &mut R, link: LinkId, measure: Measure) -> Result<usize, Step> {
    match measure {
        Measure::Alone => Ok(usize::MAX),
        Measure::Short => match rail.short_segment_len(link) {
            0 => Err(Step::Full),
            most => Ok(most),
        },
        Measure::Nothing => Err(Step::Idle),
    }
}

impl State {
    /// The rail is finished with the memory of an eager message.
    pub(super) fn memory_returned(&mut self, peer: PeerId, token: u64) {
        let Some(key) = self.in_rail.remove(&(peer, token)) else {
            self.remote.in_rail.remove(&(peer, token));
            self.lines_in_rail.remove(&(peer, token));
            return;
        };
        match self.sends.get_mut(key) {
            Some(op) if op.sync => op.stage = Stage::AwaitsMatch,
            _ => self.complete_send(key, Ok(())),
        }
    }
}

/// What announces a message, of which so many bytes follow at once.
pub(super) fn announcement(
    key: Key,
    op: &SendOp,
    source: Option<crate::rail::RemoteSource>,
    ahead: u64,
) -> Message {
    Message::Rts {
        tag: op.tag,
        len: op.len,
        op: super::op::OpId::Send(key).to_bits(),
        immediate: op.immediate,
        source,
        ahead,
    }
}

/// An answer has left.
#[inline(always)]
fn note_answer(message: &Message) {
    match message {
        Message::Rtr { .. } => kill_point!("rendezvous.rtr"),
        Message::Fin { .. } => kill_point!("rendezvous.fin"),
        Message::Matched { .. } => kill_point!("ring.matched"),
        _ => {}
    }
}

const _: () = assert!(size_of::<Piece>() == 24);
