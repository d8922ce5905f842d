//! The way back to a rail that is preferred.
//!
//! When a link breaks, the next rail that leads to the peer carries the conversation (`mend.rs`). Meanwhile the side that calls
//! tries, ever more seldom, the rails before that one in the order of preference which have carried it before. Once a link over
//! one of them takes frames, both sides leave the present link as if it had broken, and go on as after any break: each says
//! how far it came, what was under way is sent again, in order, before anything else.

use std::sync::Arc;

use super::peer::{Candidate, PeerState, ACCEPTED};
use super::recover::{rail_bit, LinkEvent, Previous};
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::rail::{LinkId, PeerId, Rail, Refusal};
use crate::ring::lane::Lane;
use crate::time::Time;

/// How long a conversation goes on over the second choice before the first is tried; doubled after each further time.
const FIRST_PAUSE_NS: u64 = 50_000_000;
/// The longest wait between two tries: each wakes a process that sleeps.
const LONGEST_PAUSE_NS: u64 = 5_000_000_000;
/// After so long over the preferred rail its next break has nothing to do with the one before.
const SETTLED_NS: u64 = 5_000_000_000;

impl<R: Rail> Engine<R> {
    /// Calls a peer over the rails that come before its present one, when it is time. When to look again.
    pub(super) fn seek_preferred(&mut self, peer: PeerId, now: Time) -> Option<Time> {
        let is_second_choice = self.state.is_second_choice(peer);
        let p = &mut self.state.peers[peer.index()];
        let recovery = p.recovery.as_mut()?;
        if !is_second_choice {
            recovery.settled_since.get_or_insert(now);
            return None;
        }
        if recovery.settled_since.take().is_some_and(|since| now.since(since) > SETTLED_NS) {
            recovery.seek_pause_ns = 0;
        }
        if recovery.attempt.is_some() {
            // How it ends is looked at then.
            return None;
        }
        let address = recovery.address.as_ref().filter(|_| !recovery.gives_way)?;
        let at =
            *recovery.seek_at.get_or_insert_with(|| now.after(recovery.seek_pause_ns.max(FIRST_PAUSE_NS)));
        if now < at {
            return Some(at);
        }
        recovery.seek_pause_ns = (recovery.seek_pause_ns * 2).clamp(FIRST_PAUSE_NS, LONGEST_PAUSE_NS);
        let next = now.after(recovery.seek_pause_ns);
        recovery.seek_at = Some(next);
        let possible = recovery.carried & p.rails;
        for rail in (0..p.rail).filter(|rail| possible & rail_bit(*rail) != 0) {
            match self.rails[rail].connect(peer, address) {
                Ok(link) => {
                    recovery.attempt = Some((rail, link));
                    recovery.was_called = false;
                    break;
                }
                Err(refusal) => recovery.refusal = Some(refusal),
            }
        }
        Some(next)
    }
}

impl State {
    /// Whether a rail that has carried the conversation with a peer comes before the one that does now.
    pub(super) fn is_second_choice(&self, peer: PeerId) -> bool {
        let Some(p) = self.peers.get(peer.index()) else { return false };
        p.recovery.as_ref().is_some_and(|recovery| (recovery.carried.trailing_zeros() as usize) < p.rail)
    }

    /// Whether a rail speaks of a link to a peer that another one has replaced.
    pub(super) fn is_stale(&self, peer: PeerId, link: (usize, LinkId)) -> bool {
        let Some(p) = self.peers.get(peer.index()) else { return false };
        let Some(recovery) = &p.recovery else { return false };
        (p.rail, p.link) != link && recovery.attempt != Some(link)
    }

    /// Whether a link is the one before, of which the peer has not said yet what has come to it.
    pub(super) fn is_previous(&self, peer: PeerId, link: (usize, LinkId)) -> bool {
        let recovery = self.peers.get(peer.index()).and_then(|p| p.recovery.as_ref());
        let previous = recovery.and_then(|recovery| recovery.previous);
        previous.is_some_and(|previous| (previous.rail, previous.link) == link)
    }

    /// A link over another rail takes frames, while the present one does: the conversation goes on there.
    pub(super) fn change_over(&mut self, peer: PeerId, to: (usize, LinkId), lane: Option<Arc<Lane>>) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let Some(recovery) = &mut p.recovery else { return };
        let (rail, link) = (p.rail, p.link);
        // Who has not heard the peer over the present link would take what it says there for what it says here.
        let start = recovery.start.filter(|_| recovery.heard.is_some());
        let Some(start) = start else {
            self.links.push_back(LinkEvent::Unused(to.0, to.1));
            return self.look_after(peer);
        };
        recovery.begin_link();
        recovery.moves += 1;
        recovery.previous = Some(Previous { rail, link, start });
        self.links.push_back(LinkEvent::Left(peer, rail, link));
        p.state = PeerState::Broken(Refusal::new(Error::Unreachable, "the messages move to another rail"));
        p.end_direct();
        self.look_after(peer);
        // While it is known over which link the peer was told of them.
        self.forget_pieces(peer, (rail, link));
        self.take_link(peer, to, lane);
    }

    /// What became of a part of a segment: one that comes over a link that was left in this round of polling, before that is fenced, is of a
    /// message that was forgotten there, and is asked for anew.
    pub(super) fn past_left(&self, peer: PeerId, rail: usize, taken: Result<(), Error>) -> Result<(), Error> {
        let p = self.peers.get(peer.index()).filter(|p| taken.is_err() && p.rail != rail);
        let previous = p.and_then(|p| p.recovery.as_ref()?.previous);
        match previous.is_some_and(|previous| previous.rail == rail) {
            true => Ok(()),
            false => taken,
        }
    }

    /// Notes for [`Engine::peer`] why another rail carries the messages from now on.
    pub(super) fn note_change(&mut self, peer: PeerId, to: usize) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let (Some(old), Some(new)) = (self.names.get(p.rail), self.names.get(to)) else { return };
        if p.rail == to {
            return;
        }
        let why = match &p.state {
            PeerState::Broken(why) if p.rail < to => format!("its link broke: {}", why.reason),
            _ => format!("not needed: rail {new} leads there and is preferred"),
        };
        // Who was called says why the rail is used that is.
        let was_called = p.candidates.iter().any(|candidate| candidate.rail == ACCEPTED);
        p.candidates.retain(|candidate| candidate.rail != *old && (candidate.rail != *new || !was_called));
        p.candidates.push(Candidate { rail: old, verdict: Err(why) });
        for candidate in p.candidates.iter_mut().filter(|candidate| candidate.rail == *new) {
            candidate.verdict = Ok(());
        }
        let place = |candidate: &Candidate| self.names.iter().position(|name| *name == candidate.rail);
        p.candidates.sort_by_key(place);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::completion::CompletionQueue;
    use crate::endpoint::op::{IovList, SendOp, Stage};
    use crate::endpoint::recover::conversation_with;
    use crate::endpoint::Limits;
    use crate::ledger::Unread;
    use crate::mem::Iov;
    use crate::rail::RemoteSource;
    use crate::wire::{Address, NetAddresses, NodeId};

    const PRESENT: (usize, LinkId) = (1, LinkId(7));
    const BETTER: (usize, LinkId) = (0, LinkId(3));

    /// A peer that is up over the second of two rails, while a link over the first is being made.
    fn state(has_heard: bool) -> (State, PeerId) {
        let node = NodeId::new([1; 16]).expect("not zero");
        let address = Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE };
        let facts = (vec![64; 2], vec![false; 2], vec![true; 2]);
        let mut state = State::new(address, Limits::default(), facts, None, Box::new(Unread));
        let peer = state.add_peer((node, None), 1, PRESENT.0, PRESENT.1, Some(&address));
        state.link_up(peer, PRESENT.0);
        state.set_up(peer);
        if has_heard {
            let heard = state.take_resume(peer, 0, 5, conversation_with(peer));
            assert_eq!(heard, Ok(()));
        }
        state.peers[peer.index()].recovery.as_mut().expect("the rail retains").attempt = Some(BETTER);
        state.links.clear();
        (state, peer)
    }

    fn given_back(state: &State) -> Vec<(usize, LinkId)> {
        let over = |event: &LinkEvent| match event {
            LinkEvent::Over(rail, link) | LinkEvent::Unused(rail, link) => Some((*rail, *link)),
            _ => None,
        };
        state.links.iter().filter_map(over).collect()
    }

    #[test]
    fn what_fails_beside_a_link_that_is_up_ends_nothing() {
        for error in Error::ALL {
            let (mut state, peer) = state(true);
            assert!(!state.is_stale(peer, BETTER) && !state.is_stale(peer, PRESENT));
            let other = (BETTER.0, LinkId(BETTER.1 .0 + 1));
            assert!(state.is_stale(peer, other), "another link of the same rail");
            assert!(state.attempt_failed(peer, BETTER, &Refusal::new(error, "so it is")), "{error:?}");
            assert_eq!(state.peers[peer.index()].state, PeerState::Up);
            assert!(state.is_stale(peer, BETTER), "what that rail says now concerns nobody");
            assert!(!state.is_stale(peer, PRESENT));
        }
    }

    /// How a call to a better rail may end, but by a move: its address is not that of a link which comes later.
    #[test]
    fn an_address_is_forgotten_with_its_call() {
        type End = fn(&mut State, PeerId);
        let ends: [End; 3] = [
            |state, peer| {
                assert!(state.attempt_failed(peer, BETTER, &Refusal::new(Error::Unreachable, "no")))
            },
            |state, peer| {
                state.link_broken(peer, BETTER.0, BETTER.1, &Refusal::new(Error::Unreachable, "no"))
            },
            State::cancel_call,
        ];
        for (number, end) in ends.into_iter().enumerate() {
            let (mut state, peer) = state(true);
            let p = &mut state.peers[peer.index()];
            let recovery = p.recovery.as_mut().expect("the rail retains");
            let before = **recovery.address.as_ref().expect("it was called");
            recovery.better = Some((BETTER.0, Box::new(Address { host: 9, ..before })));
            end(&mut state, peer);
            let recovery = state.peers[peer.index()].recovery.as_mut().expect("the rail retains");
            assert_eq!((recovery.attempt, recovery.better.is_none()), (None, true), "{number}");
            recovery.attempt = Some((BETTER.0, LinkId(4)));
            state.link_up(peer, BETTER.0);
            let p = &state.peers[peer.index()];
            let address = p.recovery.as_ref().and_then(|recovery| recovery.address.as_deref());
            assert_eq!((p.rail, address), (BETTER.0, Some(&before)), "{number}");
        }
    }

    #[test]
    fn a_call_that_is_cancelled_moves_nothing() {
        let (mut state, peer) = state(true);
        state.cancel_call(peer);
        assert_eq!(given_back(&state), [], "it is not one to a better rail");
        let recovery = state.peers[peer.index()].recovery.as_mut().expect("the rail retains");
        let address = recovery.address.clone().expect("it was called");
        recovery.better = Some((BETTER.0, address));
        state.cancel_call(peer);
        assert_eq!(given_back(&state), [BETTER]);
        assert!(state.is_stale(peer, BETTER), "what that rail says now concerns nobody");
        state.link_up(peer, BETTER.0);
        let p = &state.peers[peer.index()];
        assert_eq!(((p.rail, p.link), &p.state), (PRESENT, &PeerState::Up));
    }

    #[test]
    fn a_link_that_was_left_is_kept_until_what_it_retains_was_read() {
        let (mut state, peer) = state(true);
        state.link_up(peer, BETTER.0);
        let p = &state.peers[peer.index()];
        assert_eq!(((p.rail, p.link), p.live_link()), (BETTER, Some(BETTER)));
        let reason = Refusal::new(Error::Unreachable, "the other side has left it, too");
        state.link_broken(peer, PRESENT.0, PRESENT.1, &reason);
        assert_eq!(given_back(&state), []);
        state.link_broken(peer, PRESENT.0, LinkId(99), &reason);
        assert_eq!(given_back(&state), [(PRESENT.0, LinkId(99))]);
    }

    /// What a peer may fetch was exposed on the rail that is left, and is concealed there.
    #[test]
    fn what_was_exposed_is_concealed_on_its_own_rail() {
        let (mut state, peer) = state(true);
        let source = RemoteSource { rkey: 5, address: 0 };
        let queue = state.cqs.insert(CompletionQueue::new(1));
        state.sends.insert(SendOp {
            peer,
            owner: 0,
            cq: queue,
            context: 0,
            iov: IovList::One(Iov::EMPTY),
            len: 0,
            tag: 0,
            immediate: None,
            sync: false,
            stage: Stage::Announced { pieces: VecDeque::new(), source: Some(source), ahead: 0 },
        });
        state.link_up(peer, BETTER.0);
        assert_eq!(state.concealed, [(PRESENT.0, PRESENT.1, source)]);
    }

    #[test]
    fn who_has_not_heard_the_peer_stays() {
        let (mut state, peer) = state(false);
        state.link_up(peer, BETTER.0);
        let p = &state.peers[peer.index()];
        assert_eq!(((p.rail, p.link), &p.state), (PRESENT, &PeerState::Up));
        assert_eq!(given_back(&state), [BETTER]);
    }
}
