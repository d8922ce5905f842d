//! Announced messages that this side fetches from their senders' memory, where the rail can.
//!
//! Peers from whom something is to be fetched stand in one line. In a round each of them has its turn, for one part of each of
//! its messages; while small messages come and go, for a short part of one. A rail may take its time for a part: the message
//! stands in line again when that has come.

use super::op::Fetching;
use super::pace::Measure;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::Gather;
use crate::rail::{PeerId, Posted, Rail, RemoteSource};
use crate::wire::Message;

impl State {
    /// A message is to be fetched.
    pub(super) fn join_fetches(&mut self, peer: PeerId, key: Key) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        if p.fetches.is_empty() {
            self.fetching.push_back(peer);
        }
        p.fetches.push_back(key);
    }

    /// A fetch that a rail was asked for is over.
    pub(super) fn take_fetched(&mut self, peer: PeerId, fetch: (usize, u64), outcome: Result<(), Error>) {
        let Some(key) = self.in_fetch.remove(&fetch) else { return };
        let Some(incoming) = self.incoming.get_mut(key).filter(|incoming| incoming.peer == peer) else {
            return;
        };
        let Some(fetching) = incoming.fetching.take() else { return };
        match outcome {
            Ok(()) => {
                if self.note_fetched(key, fetching.len) {
                    self.join_fetches(peer, key);
                }
            }
            Err(_) => self.ask_instead(key),
        }
    }

    /// So many bytes have come; whether more are to be fetched.
    fn note_fetched(&mut self, key: Key, len: u64) -> bool {
        self.pace.moved(len as usize);
        let Some(incoming) = self.incoming.get_mut(key) else { return false };
        incoming.received += len;
        if incoming.received < incoming.wanted {
            return true;
        }
        let (peer, op) = (incoming.peer, incoming.sender_op);
        self.say(peer, Message::Fin { op, status: Ok(()) });
        self.complete_incoming(key, Ok(()));
        false
    }

    /// The rail prefers pieces, or the memory is not there any more. The sender, asked for pieces, says whether it gave up; if it
    /// has gone, the end of the link says so.
    fn ask_instead(&mut self, key: Key) {
        if let Some(incoming) = self.incoming.get_mut(key) {
            incoming.source = None;
            self.ask(key);
        }
    }

    /// From whom a rail is fetching under this token.
    pub(super) fn fetched_by(&self, fetch: (usize, u64)) -> Option<PeerId> {
        let key = self.in_fetch.get(&fetch)?;
        self.incoming.get(*key).map(|incoming| incoming.peer)
    }

    /// The receive of a fetch has ended.
    pub(super) fn abort_fetch(&mut self, fetching: Option<Fetching>) {
        if let Some(fetching) = fetching {
            self.in_fetch.remove(&(fetching.rail, fetching.token));
            self.aborted.push(fetching);
        }
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
        let from = incoming.received;
        let (index, link) = (p.rail, p.link);
        let rail = &mut self.rails[index];
        let most = rail.capabilities().max_get;
        let most = match measure {
            Measure::Short => most.min(rail.short_segment_len(link)) as u64,
            _ => most as u64,
        };
        let len = (incoming.wanted - from).min(most);
        if len == 0 {
            p.fetches.push_back(key);
            return false;
        }
        let target = Gather::all(incoming.receive.iov.as_slice()).window(from as usize, len as usize);
        let fetched = if from > 0 || rail.prefers_get(link, incoming.wanted) {
            let address = source.address.wrapping_add(from);
            rail.get(link, RemoteSource { address, ..source }, &target)
        } else {
            Posted::Failed(Error::Unsupported)
        };
        match fetched {
            Posted::Done => {
                if self.state.note_fetched(key, len) {
                    self.state.peers[peer.index()].fetches.push_back(key);
                }
            }
            Posted::Accepted(token) => {
                incoming.fetching = Some(Fetching { rail: index, link, token, len });
                self.state.in_fetch.insert((index, token), key);
            }
            Posted::NoResource => {
                p.fetches.push_back(key);
                return false;
            }
            Posted::Down | Posted::Failed(_) => self.state.ask_instead(key),
        }
        true
    }
}
