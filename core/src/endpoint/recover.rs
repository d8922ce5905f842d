//! Links that break, and how the conversation goes on over the next one.
//!
//! Over a rail that retains, each link begins with a Resume from both sides: so many of your sequenced frames have come to
//! me over earlier links. When a link breaks, its rail keeps what the peer may not have got, and another link is made
//! (`mend.rs`). Over that one each says how far it came, and sends the rest before anything else (`resume.rs`). A frame is
//! sent again only if the peer says that it did not come, and the old link delivers nothing after that was said: so nothing
//! is lost, nothing comes twice, and the order stays.
//!
//! Bytes of announced messages are not kept: the sender forgets which pieces were asked for, the receiver asks again for what
//! is missing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::confine::not_carried;
use super::crossed::crossed;
use super::op::Stage;
use super::peer::{Peer, PeerState};
use super::replay::LostFrame;
use super::state::State;
use crate::error::Error;
use crate::rail::{LinkId, PeerId, Refusal, Sign};
use crate::ring::lane::Lane;
use crate::time::Time;
use crate::wire::{Address, Message};

/// What has happened to links, for when the rails are at hand.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The peer is to be cut off.
    Cut(PeerId, Error, &'static str),
    /// The link takes frames.
    Up(PeerId),
    /// The peer has said how far it came.
    Resumed(PeerId),
    /// The link delivers nothing any more; `true` when the rail keeps something that is still needed.
    Broken(PeerId, usize, LinkId, bool),
    /// The conversation goes on over another link: this one is to be fenced.
    Left(PeerId, usize, LinkId),
    /// The link is not needed any more.
    Over(usize, LinkId),
    /// The peer has taken nothing of what went by this link: that is to go by the next one.
    TakeBack(PeerId, usize, LinkId),
    /// Another link has taken the place of this one before anything was said over it: the peer is not to take that for the end.
    Unused(usize, LinkId),
}

impl LinkEvent {
    /// What came over the link is to be counted, or what went is to be had back.
    pub(super) fn is_leave(&self) -> bool {
        matches!(self, LinkEvent::Broken(..) | LinkEvent::Left(..) | LinkEvent::TakeBack(..))
    }

    /// The peer sends on and on without listening, and is to be cut off.
    #[cold]
    pub(super) fn flooding(peer: PeerId) -> LinkEvent {
        LinkEvent::Cut(peer, Error::PeerMisbehaved, "the peer sends on and on, and does not listen")
    }
}

/// A link of a rail, and how many sequenced frames the peer had got before its first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Previous {
    pub(super) rail: usize,
    pub(super) link: LinkId,
    pub(super) start: u64,
}

/// What is remembered of a peer so that its conversation survives its link.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// How the peer is called; none for one that has called, and calls again.
    pub(super) address: Option<Box<Address>>,
    /// The peer has called first, and calls again.
    pub(super) gives_way: bool,
    /// The peer's number of the conversation, once it has said so.
    pub(super) peers_number: u64,
    /// Sequenced frames that have come over links which are over.
    pub(super) delivered: u64,
    /// The present link takes frames, or did.
    pub(super) came_up: bool,
    /// The same, and it is the first one, and the peer has not said that it takes it (`unheard.rs`).
    pub(super) is_unheard: bool,
    /// It was called for by the peer.
    pub(super) was_called: bool,
    /// Frames went to the peer before it had said its number.
    pub(super) spoke_first: bool,
    /// Our Resume has gone over it.
    pub(super) greeted: bool,
    /// The peer's has come: how far it was.
    pub(super) heard: Option<u64>,
    /// What was posted to the present link follows so many sequenced frames. None until the peer has said how many.
    pub(super) start: Option<u64>,
    /// The last link over which something was posted, until the peer has said how far it came.
    pub(super) previous: Option<Previous>,
    /// What the peer has not got.
    pub(super) replay: VecDeque<LostFrame>,
    /// A link that is being made.
    pub(super) attempt: Option<(usize, LinkId)>,
    /// The rail and the address that it was called at to move there.
    pub(super) better: Option<(usize, Box<Address>)>,
    /// Its lane, until it takes frames.
    pub(super) lane: Option<Arc<Lane>>,
    /// Rails that have carried the conversation, as bits.
    pub(super) carried: u64,
    /// When the way back to a rail that is preferred is sought, and how long the pause after that is.
    pub(super) seek_at: Option<Time>,
    pub(super) seek_pause_ns: u64,
    /// Since when the preferred rail has carried the conversation, as far as was seen.
    pub(super) settled_since: Option<Time>,
    /// The peer's host has answered the attempt.
    pub(super) host_answers: bool,
    /// How long nobody had answered when the link broke.
    pub(super) silent_ns: u64,
    /// No path has answered since.
    pub(super) since: Option<Time>,
    /// The present link has taken frames since, and the peer has not said how far it came.
    pub(super) up_since: Option<Time>,
    /// Links over which the peer said nothing, one after the other.
    pub(super) mute_links: u32,
    /// When the peer is called again, and how long the pause after that is.
    pub(super) next_call: Time,
    pub(super) pause_ns: u64,
    /// The rail that is asked first next time.
    pub(super) next_rail: usize,
    /// Why the last call failed.
    pub(super) refusal: Option<Refusal>,
    /// Links that broke, links that were left for better ones, and frames sent again.
    pub(super) breaks: u64,
    pub(super) moves: u64,
    pub(super) replays: u64,
}

impl Recovery {
    /// For a peer whose first link is being made.
    pub(super) fn new(address: Option<&Address>, rail: usize) -> Box<Recovery> {
        let was_called = address.is_none();
        let address = address.map(|address| Box::new(*address));
        let carried = rail_bit(rail);
        Box::new(Recovery { address, was_called, carried, start: Some(0), ..Recovery::default() })
    }

    /// The program knows how to call the peer.
    pub(super) fn learn(&mut self, address: &Address) {
        if self.address.is_none() {
            self.address = Some(Box::new(*address));
            self.gives_way = true;
        }
    }

    /// The new link carries what was lost.
    pub(super) fn is_replaying(&self) -> bool {
        self.greeted && self.start.is_some() && !self.replay.is_empty()
    }

    pub(super) fn begin_link(&mut self) {
        (self.came_up, self.greeted, self.heard, self.start) = (false, false, None, None);
        (self.host_answers, self.up_since, self.is_unheard) = (false, None, false);
    }
}

/// In place of the peer's number of a conversation, of which it has not been told, while the link is not the first.
pub(super) const UNTOLD: u64 = u64::MAX;

/// The own number of the conversation with a peer. Numbers of peers are not used again.
pub(super) fn conversation_with(peer: PeerId) -> u64 {
    u64::from(peer.number()) + 1
}

impl State {
    /// The link of a rail that retains takes frames.
    pub(super) fn link_up(&mut self, peer: PeerId, rail: usize) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let Some(recovery) = &mut p.recovery else { return };
        let attempt = recovery.attempt.take_if(|(of, _)| *of == rail);
        if attempt.is_none() && p.rail == rail {
            recovery.is_unheard = false;
        }
        let lane = recovery.lane.take();
        let may = p.rails & rail_bit(rail) != 0;
        match (&p.state, attempt) {
            // What may not go there was begun meanwhile.
            (_, Some((rail, link))) if !may => {
                recovery.better = None;
                self.links.push_back(LinkEvent::Unused(rail, link));
                self.look_after(peer);
            }
            (PeerState::Up, Some(link)) => self.change_over(peer, link, lane),
            (PeerState::Broken(_), Some(link)) if !recovery.came_up => self.take_link(peer, link, lane),
            (PeerState::Connecting, None) if !recovery.came_up => self.begin(peer),
            _ => {}
        }
    }

    /// A new link carries the conversation from now on.
    pub(super) fn take_link(&mut self, peer: PeerId, (rail, link): (usize, LinkId), lane: Option<Arc<Lane>>) {
        self.note_change(peer, rail);
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        (p.rail, p.link, p.stalls) = (rail, link, false);
        let better = p.recovery.as_mut().and_then(|recovery| {
            // Whichever it is, that call is over.
            let (_, address) = recovery.better.take().filter(|(of, _)| *of == rail)?;
            Some((recovery, address))
        });
        if let Some((recovery, address)) = better {
            recovery.address = Some(address);
        }
        p.eager_max = self.eager_max.get(rail).copied().unwrap_or(0);
        p.keeps_memory = self.keeps_memory.get(rail).copied().unwrap_or(false);
        p.lends = p.user.is_none() && self.loans.lender == Some(rail);
        if p.lends {
            p.lender = (rail, link);
        } else {
            // Loans that wait cannot be named here: they are copied.
            for op in self.sends.values_mut().filter(|op| op.peer == peer) {
                op.forget_position();
            }
        }
        if let Some(lane) = lane {
            p.take_lane(peer, lane);
        }
        self.begin(peer);
    }

    fn begin(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let Some(recovery) = &mut p.recovery else { return };
        p.has_begun = true;
        recovery.came_up = true;
        (recovery.since, recovery.host_answers) = (None, false);
        recovery.next_rail = p.rail;
        recovery.carried |= rail_bit(p.rail);
        recovery.seek_at = None;
        p.stripes.iter_mut().for_each(|stripes| stripes.begin_link());
        self.links.push_back(LinkEvent::Up(peer));
    }

    /// A link of a rail that retains is over.
    pub(super) fn link_broken(&mut self, peer: PeerId, rail: usize, link: LinkId, reason: &Refusal) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let is_present = (p.rail, p.link) == (rail, link);
        let Some(recovery) = p.recovery.as_mut().filter(|recovery| is_present && recovery.came_up) else {
            return self.other_link_over(peer, rail, link, reason);
        };
        let start = recovery.start;
        recovery.begin_link();
        recovery.breaks += 1;
        (recovery.pause_ns, recovery.next_call) = (0, Time(0));
        if let Some(start) = start {
            recovery.previous = Some(Previous { rail, link, start });
        }
        self.links.push_back(LinkEvent::Broken(peer, rail, link, start.is_some()));
        p.state = PeerState::Broken(reason.clone());
        p.stalls = false;
        p.end_direct();
        self.forget_pieces(peer, (rail, link));
        self.look_after(peer);
        self.announce(peer);
    }

    /// The peer is to be looked at soon.
    pub(super) fn look_after(&mut self, peer: PeerId) {
        if !self.mending.contains(&peer) {
            self.mending.push(peer);
        }
        self.mend_at = Some(Time(0));
    }

    /// A link over which nothing was said is over.
    fn other_link_over(&mut self, peer: PeerId, rail: usize, link: LinkId, reason: &Refusal) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let previous = p.recovery.as_ref().and_then(|recovery| recovery.previous);
        if previous.is_some_and(|previous| (previous.rail, previous.link) == (rail, link)) {
            // It was left before, and what it retains is needed still.
            return;
        }
        self.links.push_back(LinkEvent::Over(rail, link));
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        match (&p.state, &mut p.recovery) {
            (PeerState::Broken(_) | PeerState::Up, Some(recovery))
                if recovery.attempt == Some((rail, link)) =>
            {
                (recovery.attempt, recovery.host_answers) = (None, false);
                recovery.better = None;
                recovery.refusal = Some(reason.clone());
                self.look_after(peer);
            }
            // One that another link has replaced.
            (PeerState::Broken(_) | PeerState::Up, Some(_)) => {}
            // Nobody can go on from here.
            _ => {
                let why = format!("the link has broken: {}", reason.reason);
                self.peer_down(peer, &Refusal::new(Error::PeerGone, why));
            }
        }
    }

    /// The rail could not make a link anew; false when that, or what it says, is the end of the peer.
    pub(super) fn attempt_failed(&mut self, peer: PeerId, link: (usize, LinkId), reason: &Refusal) -> bool {
        let Some(p) = self.peers.get_mut(peer.index()) else { return false };
        let Some(recovery) = &mut p.recovery else { return false };
        if recovery.attempt != Some(link) {
            return false;
        }
        (recovery.attempt, recovery.lane, recovery.host_answers) = (None, None, false);
        recovery.better = None;
        if p.state == PeerState::Up {
            // Another rail carries the conversation.
            recovery.refusal = Some(reason.clone());
            self.look_after(peer);
            return true;
        }
        // Who has called and hangs up at once may have given way to a call over another rail.
        let gave_way = recovery.was_called && reason.error == Error::PeerGone;
        if !gave_way && is_final(reason.error, recovery.carried & rail_bit(link.0) != 0) {
            return false;
        }
        if reason.error == Error::Timeout {
            // The peer's host has answered: the peer is slow.
            recovery.since = None;
        }
        recovery.refusal = Some(reason.clone());
        self.mend_at = Some(Time(0));
        self.announce(peer);
        true
    }

    /// Whether who calls over a rail may be a peer that is known already. A rail that only has the caller's word takes nobody's
    /// place whom another rail knows from the system: not while a link over that one is there, and of other users never.
    ///
    /// # Errors
    /// [`Error::Unreachable`]: the real peer calls again, and finds that link gone; [`Error::Again`]: its call has crossed ours.
    pub(super) fn check_claim(&self, peer: PeerId, rail: usize) -> Result<(), Refusal> {
        let proves = |rail: usize| self.proves.get(rail).is_some_and(|proves| *proves);
        let Some(p) = self.peers.get(peer.index()).filter(|_| !proves(rail)) else { return Ok(()) };
        let carried = p.recovery.as_ref().map_or(rail_bit(p.rail), |recovery| recovery.carried);
        let was_proved = (0..self.proves.len()).any(|rail| proves(rail) && carried & rail_bit(rail) != 0);
        let is_proved = p.live_link().is_some_and(|(rail, _)| proves(rail));
        if is_proved || p.user.is_some() && was_proved {
            let is_unheard = p.recovery.as_ref().is_some_and(|recovery| recovery.is_unheard);
            if p.state == PeerState::Connecting || is_unheard {
                return Err(crossed());
            }
            let why = "this node has a link over a rail that knows its process, and this one does not";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        Ok(())
    }

    /// A known node asks for a link: it has lost the one before. When calls over two rails cross, that of the smaller node id
    /// counts, as within a rail: otherwise each side would drop what the other has accepted.
    pub(super) fn accept_again(
        &mut self,
        peer: PeerId,
        rail: usize,
        link: LinkId,
    ) -> Result<PeerId, Refusal> {
        let in_use = || Refusal::new(Error::InUse, "this node is connected already");
        if !self.may_carry(peer, rail) {
            return Err(not_carried());
        }
        let p = self.peers.get_mut(peer.index()).ok_or_else(in_use)?;
        let Some(recovery) =
            p.recovery.as_mut().filter(|_| self.retains.get(rail).is_some_and(|retains| *retains))
        else {
            return Err(in_use());
        };
        match &p.state {
            PeerState::Broken(_) if !recovery.came_up => {}
            // It has lost that link, or prefers another rail.
            PeerState::Up if rail != p.rail && recovery.heard.is_some() => {}
            PeerState::Connecting if rail != p.rail => return self.cross_first_calls(peer, rail, link),
            // It may have taken our own call. What it says to that comes first: then it calls again, or need not.
            PeerState::Up if recovery.is_unheard => return Err(crossed()),
            PeerState::Connecting => return Err(in_use()),
            // No call of ours is under way that the caller could wait for.
            _ => return Err(Refusal::new(Error::Unreachable, "this node is connected already")),
        }
        let crosses = !recovery.was_called && recovery.attempt.is_some_and(|(of, _)| of != rail);
        if crosses && self.local.node < p.node {
            let why = "calls over two rails have crossed, and the other one counts";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        recovery.was_called = true;
        if let Some((rail, link)) = recovery.attempt.replace((rail, link)) {
            self.links.push_back(LinkEvent::Unused(rail, link));
        }
        Ok(peer)
    }

    /// A rail has learnt something of a peer.
    pub(super) fn take_sign(&mut self, peer: PeerId, rail: usize, sign: Sign) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let before = p.is_stalled();
        match (sign, &mut p.recovery) {
            (Sign::ListensAt(network), Some(recovery)) => {
                // Networks lead to it, whatever its host is.
                let uid = p.user.unwrap_or(self.local.uid);
                let (node, incarnation) = (p.node, p.incarnation);
                recovery.learn(&Address { uid, host: 0, node, incarnation, network });
            }
            (Sign::HostAnswers, Some(recovery)) => {
                recovery.host_answers |= recovery.attempt.is_some_and(|(of, _)| of == rail);
            }
            (Sign::Stalled(stalls), _) if p.rail == rail => p.stalls = stalls,
            (Sign::Stalled(_), _) | (_, None) => {}
        }
        if p.is_stalled() != before {
            self.announce(peer);
        }
    }

    /// The peer says how far it came.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]; [`Error::PeerGone`] when it speaks of another conversation: the one that is known here is over.
    pub(super) fn take_resume(
        &mut self,
        peer: PeerId,
        delivered: u64,
        conversation: u64,
        yours: u64,
    ) -> Result<(), Error> {
        let is_known = yours == UNTOLD && self.has_had(peer);
        let recovery = self.peers.get_mut(peer.index()).and_then(|p| p.recovery.as_mut());
        let recovery = recovery.filter(|recovery| recovery.heard.is_none());
        let recovery = recovery.ok_or(Error::PeerMisbehaved)?;
        if recovery.peers_number != 0 && recovery.peers_number != conversation {
            return Err(Error::PeerGone);
        }
        let is_first = recovery.start.is_some();
        // Who begins anew may have got what was said to it before.
        let began_anew = yours == 0 && !is_first && recovery.peers_number == 0 && recovery.spoke_first;
        let knows_another = ![0, UNTOLD, conversation_with(peer)].contains(&yours);
        if began_anew || knows_another || is_first && (delivered != 0 || is_known) {
            let why = "the peer speaks of another conversation";
            self.links.push_back(LinkEvent::Cut(peer, Error::PeerGone, why));
            return Ok(());
        }
        recovery.peers_number = conversation;
        recovery.heard = Some(delivered);
        recovery.mute_links = 0;
        self.links.push_back(LinkEvent::Resumed(peer));
        Ok(())
    }

    /// The link to a peer has broken: of what it asked for, nothing more comes, and what was asked of it is asked again.
    pub(super) fn forget_pieces(&mut self, peer: PeerId, (rail, link): (usize, LinkId)) {
        for op in self.sends.values_mut().filter(|op| op.peer == peer) {
            if let Stage::Announced { pieces, source, .. } = &mut op.stage {
                pieces.clear();
                self.concealed.extend(source.take().map(|source| (rail, link, source)));
            }
        }
        for incoming in self.incoming.values_mut().filter(|incoming| incoming.peer == peer) {
            incoming.source = None;
            if let Some(fetching) = incoming.fetching.take() {
                self.in_fetch.remove(&(fetching.rail, fetching.token));
                self.aborted.push(fetching);
            }
        }
        for rkey in self.remote.rkeys.values_mut().filter(|rkey| rkey.peer == peer) {
            rkey.window = None;
        }
        // What the rail could fetch over that link it cannot any more.
        for key in self.unexpected.keys_where(|source, _| source == peer) {
            if let Some(early) = self.unexpected.get_mut(key) {
                early.forget_source();
            }
        }
        for held in self.held.values_mut().filter(|held| held.source == peer) {
            held.early.forget_source();
        }
        self.streams.forget_exposed(peer);
        self.settle_streams();
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.bulk.clear();
            p.outlets.clear();
            p.ahead = None;
            p.publish();
        }
    }

    /// Asks again for what is missing of the messages of a peer.
    pub(super) fn ask_again(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        p.urgent.retain(|message| !matches!(message, Message::Rtr { .. }));
        // What may be fetched was announced over the new link, and is asked for elsewhere if need be.
        let missing: Vec<Message> = self
            .incoming
            .iter()
            .filter(|(_, incoming)| incoming.peer == peer && incoming.source.is_none())
            .filter(|(_, incoming)| incoming.missing.is_none())
            .filter_map(|(key, incoming)| {
                let (op, offset) = (incoming.sender_op, self.first_to_ask_for(key, incoming));
                let len = incoming.wanted.checked_sub(offset).filter(|len| *len > 0)?;
                Some(Message::Rtr { op, receiver_op: key.to_bits(), offset, len, path: 0 })
            })
            .collect();
        for message in missing {
            self.say(peer, message);
        }
        self.ask_for_pieces_again(peer);
    }

    /// Whether a node with this incarnation has taken the place of a peer whose path may be mended.
    pub(super) fn is_superseded(&self, peer: PeerId, incarnation: u64) -> bool {
        let p = self.peers.get(peer.index());
        p.is_some_and(|p| p.recovery.is_some() && incarnation > p.incarnation)
    }

    /// Gives a peer up, and its link.
    pub(super) fn give_up(&mut self, peer: PeerId, why: &Refusal) {
        let live = self.peers.get(peer.index()).and_then(Peer::live_link);
        self.links.extend(live.map(|(rail, link)| LinkEvent::Over(rail, link)));
        self.peer_down(peer, why);
    }

    /// The peer has gone: what was kept for it goes, too.
    pub(super) fn drop_recovery(&mut self, peer: PeerId) {
        let Some(recovery) = self.peers.get_mut(peer.index()).and_then(|p| p.recovery.take()) else { return };
        let previous = recovery.previous.map(|previous| (previous.rail, previous.link));
        for (rail, link) in previous.into_iter().chain(recovery.attempt) {
            self.links.push_back(LinkEvent::Over(rail, link));
        }
    }
}

/// Whether a call that failed so need not be repeated. What is not allowed over a rail that never carried the conversation says
/// nothing about the others.
fn is_final(error: Error, has_carried: bool) -> bool {
    match error {
        Error::PeerGone | Error::PeerMisbehaved => true,
        Error::Version | Error::Permission => has_carried,
        _ => false,
    }
}

/// The rail as a bit.
pub(super) fn rail_bit(rail: usize) -> u64 {
    1 << rail.min(63)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::endpoint::Limits;
    use crate::ledger::Unread;
    use crate::wire::{NetAddresses, NodeId};

    const NEAR: usize = 0;
    const FAR: usize = 1;

    /// A peer of a rail that proves who it is, whose link has broken, and the second rail, which proves nothing.
    fn broken(own: u8, peers: u8, user: Option<u32>) -> (State, PeerId) {
        let node = |number| NodeId::new([number; 16]).expect("not zero");
        let address = |node| Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE };
        let facts = (vec![64; 2], vec![false; 2], vec![true; 2]);
        let mut state = State::new(address(node(own)), Limits::default(), facts, None, Box::new(Unread));
        state.proves = vec![true, false];
        let called = address(node(peers));
        let peer = state.add_peer((node(peers), user), 1, NEAR, LinkId(0), Some(&called));
        state.link_up(peer, NEAR);
        state.link_broken(peer, NEAR, LinkId(0), &Refusal::new(Error::Unreachable, "it was cut"));
        state.links.clear();
        (state, peer)
    }

    fn recovery(state: &mut State, peer: PeerId) -> &mut Recovery {
        state.peers[peer.index()].recovery.as_mut().expect("the rail retains")
    }

    #[test]
    fn other_users_are_believed_only_where_the_system_knows_them() {
        for (user, believed) in [(None, true), (Some(7), false)] {
            for incarnation in [1, 2] {
                let (mut state, peer) = broken(1, 2, user);
                let who = (state.peers[peer.index()].node, user);
                let answer = state.accept(who, incarnation, FAR, LinkId(5));
                assert_eq!(answer.is_ok(), believed, "{user:?}: {answer:?}");
                let answer = state.accept(who, incarnation + 1, NEAR, LinkId(1));
                assert!(answer.is_ok(), "{answer:?}");
            }
        }
    }

    /// Each side calls over another rail: one of the calls counts, and the same on both sides.
    #[test]
    fn of_calls_that_cross_one_counts() {
        for (own, peers) in [(1, 2), (2, 1)] {
            let (mut state, peer) = broken(own, peers, None);
            recovery(&mut state, peer).attempt = Some((NEAR, LinkId(1)));
            let answer = state.accept_again(peer, FAR, LinkId(5));
            assert_eq!(answer.is_ok(), own > peers, "{answer:?}");
            let unused = state.links.iter().any(|event| matches!(event, LinkEvent::Unused(NEAR, LinkId(1))));
            assert_eq!(unused, own > peers);
            let attempt = recovery(&mut state, peer).attempt;
            assert_eq!(attempt, Some(if own > peers { (FAR, LinkId(5)) } else { (NEAR, LinkId(1)) }));
        }
    }

    #[test]
    fn a_caller_that_hangs_up_before_it_speaks_is_not_gone() {
        let gone = Refusal::new(Error::PeerGone, "the peer hung up during the handshake");
        let (mut state, peer) = broken(2, 1, None);
        assert_eq!(state.accept_again(peer, FAR, LinkId(5)), Ok(peer));
        assert!(state.attempt_failed(peer, (FAR, LinkId(5)), &gone));
        assert_eq!(recovery(&mut state, peer).attempt, None);
    }

    /// What the rail says of a call decides whether there is another.
    #[test]
    fn calls_that_fail_for_good_are_not_repeated() {
        let node = NodeId::new([1; 16]).expect("not zero");
        let address = Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE };
        for error in Error::ALL {
            let facts = (vec![64], vec![false], vec![true]);
            let mut state = State::new(address, Limits::default(), facts, None, Box::new(Unread));
            let peer = state.add_peer((node, None), 1, 0, LinkId(0), Some(&address));
            state.link_up(peer, 0);
            let reason = Refusal::new(error, "so it is");
            state.link_broken(peer, 0, LinkId(0), &reason);
            assert!(!state.attempt_failed(peer, (0, LinkId(1)), &reason), "none is under way");
            let attempt = |state: &mut State| {
                let recovery = state.peers[peer.index()].recovery.as_mut().expect("it is broken");
                (recovery.attempt, recovery.since) = (Some((0, LinkId(1))), Some(Time(1)));
            };
            attempt(&mut state);
            for other in [(1, LinkId(1)), (0, LinkId(2))] {
                assert!(!state.attempt_failed(peer, other, &reason), "that is none");
            }
            let goes_on = state.attempt_failed(peer, (0, LinkId(1)), &reason);
            let ends = [Error::PeerGone, Error::PeerMisbehaved, Error::Version, Error::Permission];
            assert_eq!(goes_on, !ends.contains(&error), "{error:?}");
            let recovery = state.peers[peer.index()].recovery.as_ref().expect("it is broken");
            assert_eq!(recovery.attempt, None);
            assert_eq!(
                recovery.since.is_none(),
                error == Error::Timeout,
                "only a host that answers gives time"
            );
        }
    }
}
