//! What is decided outside of the engine: endpoints whose rails two nodes have agreed on.

use super::peer::Candidate;
use super::Engine;
use crate::completion::Completion;
use crate::endpoint::CqId;
use crate::rail::{PeerId, Rail};

impl<R: Rail> Engine<R> {
    /// Adds the completion of an operation that is none of the engine's; its room was taken by
    /// [`CompletionQueue::reserve`](crate::completion::CompletionQueue::reserve).
    pub fn complete(&mut self, cq: CqId, completion: Completion) {
        self.state.complete(cq, completion);
    }

    /// Notes for [`Engine::peer`] why a peer has the rail that it has, where somebody else has chosen.
    pub fn note_choice(&mut self, peer: PeerId, candidates: Vec<Candidate>) {
        if let Some(p) = self.state.peers.get_mut(peer.index()) {
            p.candidates = candidates;
            self.state.announce(peer);
        }
    }
}
