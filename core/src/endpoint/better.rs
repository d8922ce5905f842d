//! Moving a conversation to a better rail that somebody else knows of.
//!
//! The engine seeks the way back to rails that have carried a conversation (`prefer.rs`). Which others may, and at which address, it
//! is told: then it calls there while the present link goes on, and changes over in the same way, once frames flow.

use super::confine::not_carried;
use super::peer::PeerState;
use super::recover::LinkEvent;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::rail::{PeerId, Rail, Refusal};
use crate::wire::Address;

impl<R: Rail> Engine<R> {
    /// Calls a peer that is up at this address, over the rail of this name alone. When a link comes of it, the conversation goes on
    /// there, without losing, repeating or reordering anything, and is found by this address from then on; until then, and if none
    /// does, all is as before.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a peer or rail; [`Error::Invalid`] for the address of another one, or where conversations do
    /// not survive their links; [`Error::Permission`] where the conversation is [confined](Self::confine) to others; [`Error::Again`] while its link is not up, or another one is being made; why the rail does not lead
    /// there.
    pub fn call_over(&mut self, peer: PeerId, rail: &str, address: &Address) -> Result<(), Refusal> {
        let refused = |error, why: &str| Refusal::new(error, why);
        let index = self.rails.iter().position(|one| one.name() == rail);
        let index = index.ok_or_else(|| refused(Error::NotFound, "there is no such rail"))?;
        let retains = self.state.retains.get(index).is_some_and(|retains| *retains);
        if !self.state.may_carry(peer, index) {
            return Err(Refusal { error: Error::Permission, ..not_carried() });
        }
        let p = self.state.peers.get_mut(peer.index());
        let p = p.ok_or_else(|| refused(Error::NotFound, "there is no such peer"))?;
        if (address.node, address.incarnation) != (p.node, p.incarnation) {
            return Err(refused(Error::Invalid, "the address is that of another peer"));
        }
        let recovery = p.recovery.as_mut().filter(|_| retains);
        let recovery =
            recovery.ok_or_else(|| refused(Error::Invalid, "conversations end with their links there"))?;
        let is_settled = p.state == PeerState::Up && recovery.heard.is_some() && recovery.attempt.is_none();
        if !is_settled {
            return Err(refused(Error::Again, "its link is being made"));
        }
        if p.rail == index {
            return Ok(());
        }
        let link = self.rails[index].connect(peer, address)?;
        recovery.attempt = Some((index, link));
        recovery.was_called = false;
        recovery.refusal = None;
        recovery.better = Some((index, Box::new(*address)));
        Ok(())
    }

    /// Ends a call of [`Self::call_over`] that nobody waits for any more: the conversation does not move by it. Nothing happens when
    /// none is under way, or the peer calls.
    pub fn cancel_call(&mut self, peer: PeerId) {
        self.state.cancel_call(peer);
        self.settle_links();
    }

    /// Whether the conversation with a peer can go on over another rail.
    pub fn can_move(&self, peer: PeerId) -> bool {
        self.state.peers.get(peer.index()).is_some_and(|p| p.recovery.is_some())
    }

    /// Why the last call to a peer that is known did not come about; none while another is under way.
    pub fn why_not_called(&self, peer: PeerId) -> Option<&Refusal> {
        let recovery = self.state.peers.get(peer.index())?.recovery.as_ref()?;
        recovery.refusal.as_ref().filter(|_| recovery.attempt.is_none())
    }

    /// Whether a link to a peer is being made.
    pub fn is_calling(&self, peer: PeerId) -> bool {
        let recovery = self.state.peers.get(peer.index()).and_then(|p| p.recovery.as_ref());
        recovery.is_some_and(|recovery| recovery.attempt.is_some())
    }
}

impl State {
    pub(super) fn cancel_call(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.index()).filter(|p| p.state == PeerState::Up) else { return };
        let Some(recovery) = p.recovery.as_mut().filter(|recovery| !recovery.was_called) else { return };
        let better = recovery.better.as_ref().map(|(rail, _)| *rail);
        let Some((rail, link)) = recovery.attempt.take_if(|(rail, _)| Some(*rail) == better) else { return };
        (recovery.better, recovery.lane, recovery.host_answers) = (None, None, false);
        self.links.push_back(LinkEvent::Unused(rail, link));
        self.look_after(peer);
    }
}
