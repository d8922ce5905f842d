//! Announced messages that this side fetches from their senders' memory, where the rail can.
//!
//! Peers from whom something is to be fetched stand in one line. In a round each of them has its turn, for one part of each of
//! its messages; while small messages come and go, for a short part of one.

use super::pace::Measure;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::Gather;
use crate::rail::{PeerId, Posted, Rail, RemoteSource};
use crate::wire::Message;

/// Bytes that are fetched in one go, so that a large message does not keep others waiting.
const FETCH_PART: u64 = 2 << 20;

impl State {
    /// A message is to be fetched.
    pub(super) fn join_fetches(&mut self, peer: PeerId, key: Key) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        if p.fetches.is_empty() {
            self.fetching.push_back(peer);
        }
        p.fetches.push_back(key);
    }
}

impl<R: Rail> Engine<R> {
    /// Fetches what this side may fetch; returns the number of parts.
    pub(super) fn run_fetches(&mut self, measure: Measure) -> usize {
        let most = match measure {
            Measure::Alone => usize::MAX,
            Measure::Short => 1,
            Measure::Nothing => return 0,
        };
        let mut moved = 0;
        for _ in 0..self.state.fetching.len() {
            let Some(peer) = self.state.fetching.pop_front() else { break };
            let count = self.state.peers[peer.index()].fetches.len().min(most);
            moved += (0..count).filter(|_| self.fetch_next(peer, measure)).count();
            if !self.state.peers[peer.index()].fetches.is_empty() {
                self.state.fetching.push_back(peer);
            }
        }
        moved
    }

    /// Fetches a part of the message of a peer whose turn it is; false when the rail had better fetch nothing now.
    fn fetch_next(&mut self, peer: PeerId, measure: Measure) -> bool {
        let p = &mut self.state.peers[peer.index()];
        let Some(key) = p.fetches.pop_front() else { return false };
        let Some(incoming) = self.state.incoming.get_mut(key) else { return true };
        let Some(source) = incoming.source else { return true };
        let (sender_op, from) = (incoming.sender_op, incoming.received);
        let rail = &mut self.rails[p.rail];
        let most = match measure {
            Measure::Short => rail.short_segment_len(p.link) as u64,
            _ => FETCH_PART,
        };
        let len = (incoming.wanted - from).min(most);
        if len == 0 {
            p.fetches.push_back(key);
            return false;
        }
        let target = Gather::all(incoming.receive.iov.as_slice()).window(from as usize, len as usize);
        let fetched = if from > 0 || rail.prefers_get(p.link, incoming.wanted) {
            let address = source.address.wrapping_add(from);
            rail.get(p.link, RemoteSource { address, ..source }, &target)
        } else {
            Posted::Failed(Error::Unsupported)
        };
        match fetched {
            Posted::Done | Posted::Accepted(_) => {
                incoming.received += len;
                self.state.pace.moved(len as usize);
                if incoming.received < incoming.wanted {
                    p.fetches.push_back(key);
                } else {
                    self.state.say(peer, Message::Fin { op: sender_op, status: Ok(()) });
                    self.state.complete_incoming(key, Ok(()));
                }
            }
            // The rail prefers pieces, or the memory is not there any more. The sender, asked for pieces, says whether it
            // gave up; if it has gone, the end of the link says so.
            Posted::NoResource | Posted::Down | Posted::Failed(_) => {
                incoming.source = None;
                self.state.ask(key);
            }
        }
        true
    }
}
