//! First calls that cross: both sides open each other at the same time, over different rails, as they prefer different ones.
//!
//! One of the two counts, and the same on both sides: that over the rail which knows its processes, if only one does; otherwise
//! that of the smaller node id, as when calls cross within a rail. Whose call counts says [`Error::Again`] to the other one. That
//! side takes the call instead of its own, whichever comes first: the call, or the answer. If no call comes, it calls again.

use super::peer::{Candidate, PeerState};
use super::recover::{rail_bit, LinkEvent};
use super::state::State;
use crate::error::Error;
use crate::rail::{LinkId, PeerId, Refusal};

impl State {
    /// A peer calls over `rail`, while the first call to it is under way over another.
    ///
    /// # Errors
    /// [`Error::Again`] when the own call counts.
    pub(super) fn cross_first_calls(
        &mut self,
        peer: PeerId,
        rail: usize,
        link: LinkId,
    ) -> Result<PeerId, Refusal> {
        let own_counts = self.own_call_counts(peer, rail);
        let name = self.names.get(rail).copied().unwrap_or("another");
        let Some(p) = self.peers.get_mut(peer.index()).filter(|_| !own_counts) else { return Err(crossed()) };
        let Some(recovery) = &mut p.recovery else { return Err(crossed()) };
        let why = Refusal::new(Error::Unreachable, format!("the peer has called over rail {name}"));
        self.links.push_back(LinkEvent::Unused(p.rail, p.link));
        (recovery.attempt, recovery.lane) = (Some((rail, link)), None);
        (recovery.was_called, recovery.gives_way) = (true, true);
        recovery.carried = rail_bit(rail);
        for candidate in &mut p.candidates {
            candidate.verdict = match candidate.rail == name {
                true => Ok(()),
                false => Err(why.reason.clone()),
            };
        }
        if p.candidates.iter().all(|candidate| candidate.rail != name) {
            p.candidates.push(Candidate { rail: name, verdict: Ok(()) });
        }
        (p.rail, p.link) = (rail, link);
        p.end_direct();
        p.state = PeerState::Broken(why);
        self.look_after(peer);
        self.announce(peer);
        Ok(peer)
    }

    /// What the rail of the first call to a peer says of its end: true when the peer calls itself, or is to be called again.
    pub(super) fn awaits_call(&mut self, peer: PeerId, link: (usize, LinkId), reason: &Refusal) -> bool {
        let Some(p) = self.peers.get_mut(peer.index()) else { return false };
        let is_first = p.state == PeerState::Connecting && (p.rail, p.link) == link;
        let Some(recovery) = p.recovery.as_mut().filter(|_| is_first && reason.error == Error::Again) else {
            return false;
        };
        recovery.gives_way = true;
        recovery.refusal = Some(reason.clone());
        p.end_direct();
        p.state = PeerState::Broken(reason.clone());
        self.look_after(peer);
        self.announce(peer);
        true
    }

    fn own_call_counts(&self, peer: PeerId, rail: usize) -> bool {
        let proves = |rail: usize| self.proves.get(rail).is_some_and(|proves| *proves);
        let Some(p) = self.peers.get(peer.index()) else { return true };
        match (proves(p.rail), proves(rail)) {
            (true, false) => true,
            (false, true) => false,
            _ => self.local.node < p.node,
        }
    }
}

/// What the side is told whose call does not count.
pub(super) fn crossed() -> Refusal {
    Refusal::new(Error::Again, "calls over two rails have crossed, and the other one counts")
}
