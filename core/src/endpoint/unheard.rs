//! First links over which frames go before the peer has said that it takes them, and what becomes of these frames when it does not.
//!
//! A rail that was [told what to expect](Rail::connect_unheard) says [up](crate::rail::Sink::up_unheard) as soon as it knows who is at the
//! other end. From then on all is as over any link that is up, but for three things:
//!
//! * The peer refuses it: it has taken nothing. What went by it is had back from the rail, and goes by the next link, which is a first
//!   one again.
//! * The peer calls over another rail: it is told to wait, or to call again. It may have taken this side's call, or be about to: what it
//!   says to that is waited for, so that nothing goes by two links.
//! * It breaks: nobody knows whether the peer has taken it. The conversation goes on as after any break. A peer that knows of none takes
//!   the second link for the first, as long as it has never had one with this life of that fabric: what it may have got before it
//!   gave that up is never delivered again.

use super::peer::PeerState;
use super::recover::LinkEvent;
use super::replay::LostFrame;
use super::state::State;
use super::Engine;
use crate::rail::{LinkId, PeerId, Rail, Refusal};

impl State {
    /// A first link takes frames, and may be refused still.
    pub(super) fn link_up_unheard(&mut self, peer: PeerId, rail: usize) {
        self.link_up(peer, rail);
        let Some(p) = self.peers.get_mut(peer.index()).filter(|p| p.rail == rail) else { return };
        if let Some(recovery) = p.recovery.as_mut().filter(|recovery| recovery.came_up) {
            recovery.is_unheard = recovery.start == Some(0);
        }
    }

    /// The peer has refused it.
    pub(super) fn link_refused(&mut self, peer: PeerId, link: (usize, LinkId), reason: &Refusal) {
        if self.take_back(peer, link) {
            if let Some(p) = self.peers.get_mut(peer.index()) {
                p.state = PeerState::Connecting;
            }
        }
        self.link_down(peer, link, reason);
    }

    /// Has all that went by this link go by the next one, which is the first; false when it is none of which that is to be done.
    fn take_back(&mut self, peer: PeerId, (rail, link): (usize, LinkId)) -> bool {
        let Some(p) = self.peers.get_mut(peer.index()).filter(|p| (p.rail, p.link) == (rail, link)) else {
            return false;
        };
        let Some(recovery) = p.recovery.as_mut().filter(|recovery| recovery.is_unheard) else { return false };
        recovery.begin_link();
        (recovery.start, recovery.spoke_first) = (Some(0), false);
        p.stalls = false;
        p.end_direct();
        self.links.push_back(LinkEvent::TakeBack(peer, rail, link));
        self.forget_pieces(peer, (rail, link));
        true
    }

    /// Whether there was a conversation before with the same life of a peer's fabric. One whose link never came up was none: nothing
    /// came by it.
    pub(super) fn has_had(&self, peer: PeerId) -> bool {
        let Some(p) = self.peers.get(peer.index()) else { return true };
        let is_same = |other: &super::peer::Peer| {
            other.has_begun && (other.node, other.incarnation) == (p.node, p.incarnation)
        };
        self.peers.iter().take(peer.index()).any(is_same)
    }
}

impl<R: Rail> Engine<R> {
    /// Has the frames back that went by a link which the peer has not taken.
    pub(super) fn have_back(&mut self, peer: PeerId, (rail, link): (usize, LinkId)) {
        self.rails[rail].fence(link);
        let mut back = Vec::new();
        let had = self.rails[rail].retained(link, 0, &mut |frame| back.extend(LostFrame::of(&frame)));
        self.rails[rail].disconnect(link);
        let Some(recovery) = &mut self.state.peers[peer.index()].recovery else { return };
        back.into_iter().rev().for_each(|frame| recovery.replay.push_front(frame));
        if let Err(error) = had {
            let why = "what went by a link that was refused is not to be had back";
            self.state.give_up(peer, &Refusal::new(error, why));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::endpoint::recover::UNTOLD;
    use crate::endpoint::Limits;
    use crate::error::Error;
    use crate::ledger::Unread;
    use crate::wire::{Address, NetAddresses, NodeId};

    const RAIL: usize = 1;

    fn address(number: u8) -> Address {
        let node = NodeId::new([number; 16]).expect("not zero");
        Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
    }

    fn state(own: u8) -> State {
        let facts = (vec![64; 2], vec![false; 2], vec![true; 2]);
        State::new(address(own), Limits::default(), facts, None, Box::new(Unread))
    }

    /// A peer that is called over the second rail, has been sent frames, and has said nothing.
    fn called(own: u8, peers: u8) -> (State, PeerId) {
        let (mut state, to) = (state(own), address(peers));
        let peer = state.add_peer((to.node, None), 1, RAIL, LinkId(4), Some(&to));
        state.link_up_unheard(peer, RAIL);
        state.set_up(peer);
        let recovery = state.peers[peer.index()].recovery.as_mut().expect("the rail retains");
        (recovery.greeted, recovery.spoke_first) = (true, true);
        assert!(recovery.is_unheard);
        state.links.clear();
        (state, peer)
    }

    #[test]
    fn a_link_that_is_refused_was_none() {
        let (mut state, peer) = called(1, 2);
        state.link_refused(peer, (RAIL, LinkId(4)), &Refusal::new(Error::Again, "call again"));
        let p = &state.peers[peer.index()];
        assert!(matches!(p.state, PeerState::Broken(_)), "{:?}", p.state);
        let recovery = p.recovery.as_ref().expect("it is called again");
        assert_eq!(
            (recovery.start, recovery.previous.is_none(), recovery.spoke_first),
            (Some(0), true, false)
        );
        assert_eq!((recovery.breaks, recovery.greeted, recovery.is_replaying()), (0, false, false));
        assert!(matches!(state.links.make_contiguous(), [LinkEvent::TakeBack(_, RAIL, LinkId(4))]));
        let (mut state, peer) = called(1, 2);
        state.link_refused(peer, (RAIL, LinkId(4)), &Refusal::new(Error::Permission, "nobody"));
        assert_eq!(state.peers[peer.index()].error(), Some(Error::Permission));
        // One that the peer has taken is as any other.
        let (mut state, peer) = called(1, 2);
        state.link_up(peer, RAIL);
        state.link_refused(peer, (RAIL, LinkId(4)), &Refusal::new(Error::Again, "call again"));
        assert_eq!(state.peers[peer.index()].error(), Some(Error::Again));
    }

    /// Whatever number it has: nobody knows yet whether it has taken what went.
    #[test]
    fn a_peer_that_calls_over_another_rail_is_told_to_wait() {
        for (own, peers) in [(1, 2), (2, 1)] {
            let (mut state, peer) = called(own, peers);
            let who = (address(peers).node, None);
            let answer = state.accept(who, 1, 0, LinkId(9));
            assert_eq!(answer.map_err(|refusal| refusal.error), Err(Error::Again));
            assert_eq!(state.peers[peer.index()].link, LinkId(4));
        }
    }

    #[test]
    fn a_second_link_is_the_first_for_one_that_knows_of_none() {
        let caller = address(2);
        // Whether there was another peer before, of which life, and whether its link came up.
        let cases =
            [(None, true), (Some((1, true)), false), (Some((1, false)), true), (Some((2, true)), true)];
        for (other, is_taken) in cases {
            let mut state = state(1);
            if let Some((incarnation, came_up)) = other {
                let before =
                    state.accept((caller.node, None), incarnation, RAIL, LinkId(1)).expect("it is let in");
                if came_up {
                    state.link_up(before, RAIL);
                }
                state.peer_down(before, &Refusal::new(Error::PeerGone, "it was given up"));
            }
            let peer = state.accept((caller.node, None), 1, RAIL, LinkId(2)).expect("it is let in");
            state.link_up(peer, RAIL);
            state.links.clear();
            assert_eq!(state.take_resume(peer, 0, 5, UNTOLD), Ok(()));
            let is_cut = state.links.iter().any(|event| matches!(event, LinkEvent::Cut(..)));
            assert_eq!(is_cut, !is_taken, "one with {other:?} before");
        }
    }
}
