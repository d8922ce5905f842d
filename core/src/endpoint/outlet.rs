//! What peers ask for over paths beside the first of a link. Each path has its own line: one that is full keeps none of the others
//! waiting.

use std::collections::VecDeque;

use super::flush::Step;
use super::op::{Piece, Stage, MAX_PIECES};
use super::pace::Measure;
use super::recover::LinkEvent;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::Gather;
use crate::rail::{PathId, PeerId, Posted, Rail};
use crate::wire::Message;

/// Bytes that go over a path before it is another peer's turn: a few segments.
const QUANTUM: usize = 512 * 1024;

/// Pieces that go out over one path, in order.
#[derive(Debug)]
pub(super) struct Outlet {
    path: u32,
    pieces: VecDeque<(Key, Piece)>,
}

impl State {
    /// The peer asks for a piece over a path beside the first. Whether there is such a path only the rail knows.
    pub(super) fn take_rtr_on(
        &mut self,
        peer: PeerId,
        path: u32,
        key: Key,
        piece: Piece,
    ) -> Result<(), Error> {
        let Some(p) = self.peers.get_mut(peer.index()) else { return Ok(()) };
        let at = p.outlets.iter().position(|outlet| outlet.path == path).unwrap_or_else(|| {
            p.outlets.push(Outlet { path, pieces: VecDeque::new() });
            p.outlets.len() - 1
        });
        let pieces = &mut p.outlets[at].pieces;
        // Nobody needs as many pieces, or paths.
        if pieces.len() >= MAX_PIECES || at >= MAX_PIECES {
            return Err(Error::PeerMisbehaved);
        }
        pieces.push_back((key, piece));
        self.schedule(peer);
        Ok(())
    }

    /// The receiver's operation, if it waits for a piece of this send.
    pub(super) fn waits_at_outlet(&self, peer: PeerId, key: Key) -> Option<u64> {
        let outlets = &self.peers.get(peer.index())?.outlets;
        let (_, piece) = outlets.iter().flat_map(|outlet| &outlet.pieces).find(|(send, _)| *send == key)?;
        Some(piece.receiver_op)
    }
}

impl<R: Rail> Engine<R> {
    /// Sends what the paths take; while small messages come and go, one short segment over each. Returns the number of frames.
    pub(super) fn flush_outlets(&mut self, peer: PeerId, measure: Measure) -> usize {
        if measure == Measure::Nothing {
            return 0;
        }
        let mut moved = 0;
        for at in 0..self.state.peers[peer.index()].outlets.len() {
            let mut budget = match measure {
                Measure::Short => self.short_len_at(peer, at),
                _ => QUANTUM,
            };
            if budget == 0 {
                continue;
            }
            while let Step::Moved(len) = self.flush_outlet(peer, at, budget) {
                moved += 1;
                self.state.pace.moved(len);
                budget = budget.saturating_sub(len);
                if budget == 0 {
                    break;
                }
            }
        }
        self.state.peers[peer.index()].outlets.retain(|outlet| !outlet.pieces.is_empty());
        moved
    }

    /// Length of a short segment over one path; 0 when nothing more had better be on its way there.
    fn short_len_at(&mut self, peer: PeerId, at: usize) -> usize {
        let p = &self.state.peers[peer.index()];
        let Some(outlet) = p.outlets.get(at) else { return 0 };
        self.rails[p.rail].short_segment_len_on(PathId { link: p.link, number: outlet.path })
    }

    /// The next segment over one path, of at most so many bytes.
    fn flush_outlet(&mut self, peer: PeerId, at: usize, most: usize) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(Outlet { path, pieces }) = p.outlets.get_mut(at) else { return Step::Idle };
        let Some((key, piece)) = pieces.front_mut() else { return Step::Idle };
        let send = self.state.sends.get_mut(*key);
        let Some(op) = send.filter(|op| matches!(op.stage, Stage::Announced { .. })) else {
            // Given up meanwhile.
            pieces.pop_front();
            return Step::Moved(0);
        };
        let rail = &mut self.rails[p.rail];
        let left = usize::try_from(piece.end - piece.offset).unwrap_or(usize::MAX);
        let len = rail.segment_len(op.len).min(left).min(most);
        let window = Gather::all(op.iov.as_slice()).window(piece.offset as usize, len);
        let message = Message::Segment { op: piece.receiver_op, offset: piece.offset };
        match rail.post_segment(PathId { link: p.link, number: *path }, &message.frame(window)) {
            Posted::Done | Posted::Accepted(_) => {
                piece.offset += len as u64;
                if piece.offset == piece.end {
                    pieces.pop_front();
                }
                Step::Moved(len)
            }
            Posted::NoResource => Step::Full,
            // The peer hears of that, and asks for it elsewhere.
            Posted::Down => {
                pieces.clear();
                Step::Idle
            }
            Posted::Failed(_) => {
                let why = "the peer asks for a piece over a path that there never was";
                self.state.links.push_back(LinkEvent::Cut(peer, Error::PeerMisbehaved, why));
                pieces.clear();
                Step::Idle
            }
        }
    }
}
