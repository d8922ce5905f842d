//! Which rails a conversation may use: some of what goes over it may be for certain ones only.
//!
//! Each endpoint and each stream may say so, and what all of them allow is left, until the conversation is over: what was written before a
//! stream was closed may be sent again later. Links over other rails are not made, taken or used; when nothing else leads
//! to the peer, it is gone after the usual time.

use super::recover::rail_bit;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::rail::{PeerId, Rail, Refusal};
use crate::stream::{Gate, Sought};

impl<R: Rail> Engine<R> {
    /// From now on it is asked about each stream.
    pub fn set_gate(&mut self, gate: Box<dyn Gate>) {
        self.state.gate = Some(gate);
    }

    /// Whether a stream to a service of a peer may be asked for, as it is reached now.
    ///
    /// # Errors
    /// [`Error::Permission`], and why not; [`Error::NotFound`] without such a peer.
    pub fn stream_admitted(&mut self, peer: PeerId, service: &str) -> Result<(), Refusal> {
        self.state.rails_for(peer, service, None).map(drop)
    }

    /// Whose process a peer is, when that is another user's than ours, and which rail carries the conversation, by its index.
    pub fn reached_by(&self, peer: PeerId) -> Option<(Option<u32>, usize)> {
        self.state.peers.get(peer.index()).map(|p| (p.user, p.rail))
    }

    /// The conversation with a peer goes over these rails only from now on, as bits by their index: of those that were left before.
    pub fn confine(&mut self, peer: PeerId, rails: u64) {
        if let Some(p) = self.state.peers.get_mut(peer.index()) {
            p.rails &= rails;
        }
    }
}

impl State {
    /// Whether a stream to a service may be; from then on the conversation goes where that may be only. A peer that asks has done so
    /// over `called`, which may be another rail than the one that leads to it while the conversation moves.
    ///
    /// # Errors
    /// As [`Engine::stream_admitted`].
    pub(super) fn admit_stream(
        &mut self,
        peer: PeerId,
        service: &str,
        called: Option<usize>,
    ) -> Result<(), Refusal> {
        if self.gate.is_none() {
            return Ok(());
        }
        let rails = self.rails_for(peer, service, called)?;
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.rails &= rails;
        }
        Ok(())
    }

    /// Over which rails a stream to a service may go: among them the present one, and the one over which the peer has asked.
    fn rails_for(&mut self, peer: PeerId, service: &str, called: Option<usize>) -> Result<u64, Refusal> {
        let Some(gate) = &mut self.gate else { return Ok(u64::MAX) };
        let p = self.peers.get(peer.index());
        let p = p.ok_or_else(|| Refusal::new(Error::NotFound, "there is no such peer"))?;
        let is_called = called.is_some();
        let rails = gate.admit(&Sought { node: p.node, user: p.user, rail: p.rail, service, is_called })?;
        let no = |why: &str| Err(Refusal::new(Error::Permission, why));
        match called {
            _ if rails & rail_bit(p.rail) == 0 => no("it may not go over the rail that leads to the peer"),
            Some(rail) if rails & rail_bit(rail) == 0 => {
                no("it may not go over the rail that it was asked over")
            }
            _ => Ok(rails),
        }
    }

    /// Whether a rail may carry the conversation with a peer.
    pub(super) fn may_carry(&self, peer: PeerId, rail: usize) -> bool {
        self.peers.get(peer.index()).is_none_or(|p| p.rails & rail_bit(rail) != 0)
    }
}

/// Why a rail does not.
pub(super) fn not_carried() -> Refusal {
    let why = "what goes over the conversation may not go over this rail";
    // Others may lead there.
    Refusal::new(Error::Unreachable, why)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::peer::PeerState;
    use super::super::recover::{conversation_with, LinkEvent};
    use super::super::Limits;
    use super::*;
    use crate::ledger::Unread;
    use crate::rail::LinkId;
    use crate::wire::{Address, NetAddresses, NodeId};

    const PRESENT: (usize, LinkId) = (1, LinkId(7));
    const OTHER: (usize, LinkId) = (0, LinkId(3));

    /// Streams may go over the present rail only.
    #[derive(Debug)]
    struct Present;

    impl Gate for Present {
        fn admit(&mut self, _: &Sought<'_>) -> Result<u64, Refusal> {
            Ok(rail_bit(PRESENT.0))
        }
    }

    /// While a conversation moves, what is asked over the other rail is not judged by this one alone.
    #[test]
    fn a_stream_is_judged_by_the_rail_that_it_was_asked_over_too() {
        let mut state = state();
        let peer = peer(&mut state);
        state.gate = Some(Box::new(Present));
        let why = state.admit_stream(peer, "secrets", Some(OTHER.0)).unwrap_err();
        assert_eq!((why.error, state.may_carry(peer, OTHER.0)), (Error::Permission, true));
        assert!(state.admit_stream(peer, "secrets", Some(PRESENT.0)).is_ok());
        assert!(!state.may_carry(peer, OTHER.0));
    }

    fn state() -> State {
        let address = address();
        let facts = (vec![64; 2], vec![false; 2], vec![true; 2]);
        State::new(address, Limits::default(), facts, None, Box::new(Unread))
    }

    fn address() -> Address {
        let node = NodeId::new([1; 16]).expect("not zero");
        Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
    }

    fn peer(state: &mut State) -> PeerId {
        let address = address();
        state.add_peer((address.node, None), 1, PRESENT.0, PRESENT.1, Some(&address))
    }

    /// A link that was being made when a stream came that may not go over it.
    #[test]
    fn a_link_that_comes_up_too_late_is_not_used() {
        for breaks in [false, true] {
            let mut state = state();
            let peer = peer(&mut state);
            state.link_up(peer, PRESENT.0);
            state.set_up(peer);
            assert_eq!(state.take_resume(peer, 0, 5, conversation_with(peer)), Ok(()));
            if breaks {
                let why = Refusal::new(Error::Unreachable, "it was cut");
                state.link_broken(peer, PRESENT.0, PRESENT.1, &why);
            }
            let p = &mut state.peers[peer.index()];
            p.rails = rail_bit(PRESENT.0);
            p.recovery.as_mut().expect("the rail retains").attempt = Some(OTHER);
            state.links.clear();
            state.link_up(peer, OTHER.0);
            let p = &state.peers[peer.index()];
            assert_eq!((p.rail, p.link), PRESENT);
            assert_eq!(p.state == PeerState::Up, !breaks);
            let given_back = state.links.make_contiguous();
            assert!(matches!(given_back, [LinkEvent::Unused(0, LinkId(3))]), "{given_back:?}");
            assert!(!state.may_carry(peer, OTHER.0) && state.accept_again(peer, OTHER.0, OTHER.1).is_err());
        }
    }
}
