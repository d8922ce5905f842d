//! Peers coming and going.

use std::sync::Arc;

use super::op::OpId;
use super::orphans::Caller;
use super::peer::{Candidate, Peer, PeerState, ACCEPTED};
use super::recover::{LinkEvent, Recovery};
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::matching::Source;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{LinkId, PathId, PeerId, Rail, Refusal, Sign, Sink};
use crate::ring::lane::Lane;
use crate::wire::{Address, Incoming, Kind, NodeId, Preface};

impl<R: Rail> Engine<R> {
    /// Finds or makes the peer at `address`: each rail is asked in order, the first that leads there carries the
    /// messages. Sends may start at once. Each call is answered by one of [`Self::close`].
    ///
    /// # Errors
    /// Why no rail leads there, with the reasons of all.
    pub fn open(&mut self, address: &Address) -> Result<PeerId, Refusal> {
        self.open_by(address, None, None)
    }

    /// As [`Self::open`], over the rail of this name alone: no other one is asked. A peer that is known stays as it is.
    ///
    /// # Errors
    /// Why that rail does not lead there.
    pub fn open_over(&mut self, address: &Address, rail: &str) -> Result<PeerId, Refusal> {
        self.open_by(address, Some(rail), None)
    }

    /// As [`Self::open_over`], for one that was heard to say this of itself: see [`Rail::connect_unheard`].
    ///
    /// # Errors
    /// As [`Self::open_over`].
    pub fn open_unheard(
        &mut self,
        address: &Address,
        rail: &str,
        preface: Preface,
    ) -> Result<PeerId, Refusal> {
        self.open_by(address, Some(rail), Some(preface))
    }

    /// A peer of this host and this user may be [opened over](Self::open_over) the rail of this name in a moment, if it lets us: see
    /// [`Rail::foresee`]. Nothing happens for one that is known.
    pub fn foresee(&mut self, node: NodeId, rail: &str) {
        if self.state.by_node.contains_key(&(node, None)) {
            return;
        }
        if let Some(rail) = self.rails.iter_mut().find(|one| one.name() == rail) {
            rail.foresee(node);
        }
    }

    fn open_by(
        &mut self,
        address: &Address,
        only: Option<&str>,
        preface: Option<Preface>,
    ) -> Result<PeerId, Refusal> {
        let user = (address.uid != self.state.local.uid).then_some(address.uid);
        if let Some(peer) = self.known_at(address, user) {
            return Ok(peer);
        }
        let peer = PeerId::new(self.state.peers.len() as u32);
        let mut candidates = Vec::new();
        let mut chosen = None;
        let mut error = Error::Unreachable;
        let is_meant = |rail: &R| only.is_none_or(|only| only == rail.name());
        for (index, rail) in self.rails.iter_mut().enumerate().filter(|(_, rail)| is_meant(rail)) {
            let verdict = match chosen {
                Some((_, name)) => Err(format!("not needed: rail {name} leads there and is preferred")),
                None => call(rail, peer, address, preface)
                    .map(|link| chosen = Some(((index, link), rail.name())))
                    .map_err(|refusal| {
                        // "Not there" is what a rail says that has nothing to do with the address.
                        if refusal.error != Error::Unreachable {
                            error = refusal.error;
                        }
                        refusal.reason
                    }),
            };
            candidates.push(Candidate { rail: rail.name(), verdict });
        }
        let Some(((rail, link), _)) = chosen else {
            return Err(refusal_of(error, &candidates));
        };
        self.state.add_peer((address.node, user), address.incarnation, rail, link, Some(address));
        let p = &mut self.state.peers[peer.index()];
        p.candidates = candidates;
        p.handles = 1;
        self.state.announce(peer);
        Ok(peer)
    }

    /// The peer at an address, if it is one already, for one more handle.
    fn known_at(&mut self, address: &Address, user: Option<u32>) -> Option<PeerId> {
        let peer = *self.state.by_node.get(&(address.node, user))?;
        let is_broken = matches!(self.state.peers[peer.index()].state, PeerState::Broken(_));
        if is_broken && self.state.is_superseded(peer, address.incarnation) {
            let why = "the program knows the process that has come in its place";
            self.state.give_up(peer, &Refusal::new(Error::PeerGone, why));
            self.settle_links();
            return None;
        }
        let p = &mut self.state.peers[peer.index()];
        p.handles += 1;
        if let Some(recovery) = &mut p.recovery {
            recovery.learn(address);
        }
        Some(peer)
    }

    /// Opens a peer that has sent something.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such peer, its error when it has gone.
    pub fn open_known(&mut self, peer: PeerId) -> Result<PeerId, Error> {
        let p = self.state.peers.get_mut(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        p.handles += 1;
        Ok(peer)
    }

    /// The peer that is this node, of this process's user, once frames have flowed to it and as long as it has not gone.
    pub fn find(&self, node: NodeId) -> Option<PeerId> {
        let peer = *self.state.by_node.get(&(node, None))?;
        let p = self.state.peers.get(peer.index())?;
        matches!(p.state, PeerState::Up | PeerState::Broken(_)).then_some(peer)
    }

    /// Whether there are handles of a peer.
    pub fn is_open(&self, peer: PeerId) -> bool {
        self.state.peers.get(peer.index()).is_some_and(|p| p.handles > 0)
    }

    /// Gives a handle back. The link stays, so that the next handle costs nothing; it ends with either fabric.
    pub fn close(&mut self, peer: PeerId) {
        if let Some(p) = self.state.peers.get_mut(peer.index()) {
            p.handles = p.handles.saturating_sub(1);
        }
    }

    /// As [`Self::close`], by one who has waited for the link in vain: when no other handle is left and it has never come up, it is
    /// not made any more, and the peer is gone.
    pub fn abandon(&mut self, peer: PeerId) {
        self.close(peer);
        self.state.abandon(peer);
        self.settle_links();
    }

    /// From now on [`Self::take_departed`] tells which nodes go.
    pub fn note_departures(&mut self) {
        self.state.departed.get_or_insert_default();
    }

    /// Nodes whose conversation has ended for good since the last call, and that have no other one.
    pub fn take_departed(&mut self) -> Vec<NodeId> {
        let departed = self.state.departed.as_mut().map(std::mem::take).unwrap_or_default();
        let is_there = |node: &NodeId| self.state.by_node.keys().any(|(there, _)| there == node);
        departed.into_iter().filter(|node| !is_there(node)).collect()
    }
}

fn call<R: Rail>(
    rail: &mut R,
    peer: PeerId,
    address: &Address,
    preface: Option<Preface>,
) -> Result<LinkId, Refusal> {
    match preface {
        Some(preface) => rail.connect_unheard(peer, address, preface),
        None => rail.connect(peer, address),
    }
}

fn refusal_of(error: Error, candidates: &[Candidate]) -> Refusal {
    let reasons: Vec<String> = candidates
        .iter()
        .filter_map(|c| c.verdict.as_ref().err().map(|why| format!("{}: {why}", c.rail)))
        .collect();
    Refusal::new(error, if reasons.is_empty() { "no rail is open".to_owned() } else { reasons.join("; ") })
}

/// The engine as the rail of this index sees it.
pub(super) struct RailSink<'a> {
    pub(super) state: &'a mut State,
    pub(super) rail: usize,
}

impl Sink for RailSink<'_> {
    #[inline(always)]
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        self.state.take_eager(peer, tag, None, &payload);
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        let taken = self.state.take_frame((peer, self.rail), &frame);
        match frame.kind == Kind::Segment as u8 {
            true => self.state.past_left(peer, self.rail, taken),
            false => taken,
        }
    }

    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        self.state.place_segment(peer, 0, op, offset, len)
    }

    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        let taken = self.state.take_placed(peer, 0, op, offset, len);
        self.state.past_left(peer, self.rail, taken)
    }

    fn path_up(&mut self, peer: PeerId, path: PathId) {
        self.state.path_up(peer, self.rail, path);
    }

    fn path_over(&mut self, peer: PeerId, path: PathId) {
        self.state.path_over(peer, self.rail, path);
    }

    fn place_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Option<Gather<'_>> {
        self.state.place_on(peer, (self.rail, path), op, offset, len)
    }

    fn placed_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), Error> {
        self.state.take_placed_on(peer, (self.rail, path), op, offset, len)
    }

    fn segment_on(
        &mut self,
        peer: PeerId,
        path: PathId,
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        self.state.take_segment_on(peer, (self.rail, path), op, offset, payload)
    }

    fn loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool {
        self.state.take_loan(peer, tag, immediate, loan, &message)
    }

    fn sent(&mut self, peer: PeerId, token: u64) {
        self.state.memory_returned(peer, token);
    }

    fn fetched(&mut self, peer: PeerId, token: u64, outcome: Result<(), Error>) {
        self.state.take_fetched(peer, (self.rail, token), outcome);
    }

    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal> {
        self.state.accept((node, None), incarnation, self.rail, link)
    }

    fn accept_foreign(
        &mut self,
        link: LinkId,
        node: NodeId,
        incarnation: u64,
        user: u32,
    ) -> Result<PeerId, Refusal> {
        self.state.accept((node, Some(user)), incarnation, self.rail, link)
    }

    fn lane(&mut self, peer: PeerId, lane: Arc<Lane>) {
        let Some(p) = self.state.peers.get_mut(peer.index()) else { return };
        match &mut p.recovery {
            // It is not the peer's yet: messages go another way, or wait.
            Some(recovery) if p.state != PeerState::Connecting => recovery.lane = Some(lane),
            _ => p.take_lane(peer, lane),
        }
    }

    fn up(&mut self, peer: PeerId) {
        match self.state.peers.get(peer.index()) {
            Some(p) if p.recovery.is_some() => self.state.link_up(peer, self.rail),
            Some(p) if p.state == PeerState::Connecting => self.state.set_up(peer),
            _ => {}
        }
    }

    fn up_unheard(&mut self, peer: PeerId) {
        self.state.link_up_unheard(peer, self.rail);
    }

    fn refused(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.state.link_refused(peer, (self.rail, link), &reason);
    }

    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.state.link_down(peer, (self.rail, link), &reason);
    }

    fn sign(&mut self, peer: PeerId, sign: Sign) {
        self.state.take_sign(peer, self.rail, sign);
    }

    fn broken(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.state.link_broken(peer, self.rail, link, &reason);
    }
}

impl State {
    pub(super) fn accept(
        &mut self,
        who: (NodeId, Option<u32>),
        incarnation: u64,
        rail: usize,
        link: LinkId,
    ) -> Result<PeerId, Refusal> {
        if let Some(&known) = self.by_node.get(&who) {
            self.check_claim(known, rail)?;
            if !self.is_superseded(known, incarnation) {
                return self.accept_again(known, rail, link);
            }
            let why = "the process has gone, and another has come in its place";
            self.orphans.check(&self.limits, Caller::NextLife)?;
            self.give_up(known, &Refusal::new(Error::PeerGone, why));
        } else {
            self.orphans.check(&self.limits, Caller::New)?;
        }
        let peer = self.add_peer(who, incarnation, rail, link, None);
        let why = match who.1 {
            None => "the peer chose the rail".to_owned(),
            Some(user) => format!("the peer, which runs as user {user}, chose the rail"),
        };
        self.peers[peer.index()].candidates = vec![Candidate { rail: ACCEPTED, verdict: Err(why) }];
        self.announce(peer);
        Ok(peer)
    }

    pub(super) fn add_peer(
        &mut self,
        (node, user): (NodeId, Option<u32>),
        incarnation: u64,
        rail: usize,
        link: LinkId,
        address: Option<&Address>,
    ) -> PeerId {
        let peer = PeerId::new(self.peers.len() as u32);
        let eager_max = self.eager_max.get(rail).copied().unwrap_or(0);
        let row = self.open_row();
        let mut p = Peer::new((node, incarnation), (rail, link), eager_max, row);
        p.keeps_memory = self.keeps_memory.get(rail).copied().unwrap_or(false);
        p.user = user;
        if self.retains.get(rail).copied().unwrap_or(false) {
            p.recovery = Some(Recovery::new(address, rail));
        }
        // What another user sees of our memory is what is meant for it alone.
        p.lends = user.is_none() && self.loans.lender == Some(rail);
        self.peers.push(p);
        self.by_node.insert((node, user), peer);
        peer
    }

    /// Frames flow to a peer.
    pub(super) fn set_up(&mut self, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        p.state = PeerState::Up;
        p.refresh_direct();
        self.schedule(peer);
        self.fresh.push(peer);
        crate::probes::link_up(peer);
    }

    /// A rail says that a link is over, or has not come about.
    pub(super) fn link_down(&mut self, peer: PeerId, link: (usize, LinkId), reason: &Refusal) {
        if self.is_stale(peer, link) {
            // What was said over a link that was left counts as long as that is remembered.
            if reason.error == Error::PeerMisbehaved && self.is_previous(peer, link) {
                let why = "the peer broke the protocol over the link before";
                self.links.push_back(LinkEvent::Cut(peer, Error::PeerMisbehaved, why));
            }
        } else if !self.awaits_call(peer, link, reason) && !self.attempt_failed(peer, link, reason) {
            self.peer_down(peer, reason);
        }
    }

    /// Ends a first call that nobody waits for any more.
    fn abandon(&mut self, peer: PeerId) {
        let p = self.peers.get(peer.index());
        if p.is_some_and(|p| p.handles == 0 && p.state == PeerState::Connecting) {
            self.give_up(peer, &Refusal::new(Error::Timeout, "nobody waits for it any more"));
        }
    }

    /// Ends everything that concerns a peer; what it had sent before stays receivable.
    pub(super) fn peer_down(&mut self, peer: PeerId, reason: &Refusal) {
        let Some(p) = self.peers.get_mut(peer.index()) else {
            return;
        };
        if p.error().is_some() {
            return;
        }
        crate::probes::link_down(peer, reason.error);
        p.state = PeerState::Gone(reason.clone());
        p.end_direct();
        p.urgent.clear();
        p.pending.clear();
        p.bulk.clear();
        p.outlets.clear();
        p.fetches.clear();
        p.remote.clear();
        // Nothing is asked of it any more while its operations end.
        p.stripes = None;
        let who = (p.node, p.user);
        if self.by_node.get(&who) == Some(&peer) {
            self.by_node.remove(&who);
        }
        if let Some(departed) = &mut self.departed {
            departed.push(who.0);
        }
        self.drop_recovery(peer);
        self.fail_operations(peer, reason.error);
        self.end_streams(peer, reason.error);
        // What it held comes back; what it lent stays readable, and in the store.
        if let Some(p) = self.peers.get_mut(peer.index()) {
            self.loans.end_holds_of(peer, &mut p.first_hold);
        }
        self.announce_gone(peer);
        self.orphan_early(peer);
    }

    fn fail_operations(&mut self, peer: PeerId, error: Error) {
        self.fail_remote(peer, error);
        let sends: Vec<_> = self.sends.iter().filter(|(_, op)| op.peer == peer).map(|(key, _)| key).collect();
        for key in sends {
            self.complete_send(key, Err(error));
        }
        let incoming: Vec<_> =
            self.incoming.iter().filter(|(_, i)| i.peer == peer).map(|(key, _)| key).collect();
        for key in incoming {
            self.complete_incoming(key, Err(error));
        }
        for key in self.posted.keys_where(|source, _| source == Source::Peer(peer)) {
            if let Some(receive) = self.posted.remove(key) {
                self.engine.receives_withdrawn.add(1);
                self.complete_receive_failed(receive, OpId::Receive(key).to_bits(), peer, error);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::completion::CompletionQueue;
    use crate::endpoint::op::{self, IovList, RecvOp};
    use crate::endpoint::recover::Previous;
    use crate::endpoint::Limits;
    use crate::ledger::Unread;
    use crate::mem::Iov;
    use crate::wire::NetAddresses;

    /// A peer whose link 7 over the second of two rails has broken, while 9 is being made over the same one.
    fn broken() -> (State, PeerId) {
        let node = NodeId::new([1; 16]).expect("not zero");
        let address = Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE };
        let facts = (vec![64; 2], vec![false; 2], vec![true; 2]);
        let mut state = State::new(address, Limits::default(), facts, None, Box::new(Unread));
        let peer = state.add_peer((node, None), 1, 1, LinkId(7), Some(&address));
        state.link_up(peer, 1);
        state.link_broken(peer, 1, LinkId(7), &Refusal::new(Error::Unreachable, "it was cut"));
        state.peers[peer.index()].recovery.as_mut().expect("the rail retains").attempt = Some((1, LinkId(9)));
        state.links.clear();
        (state, peer)
    }

    #[test]
    fn a_link_that_fails_beside_another_of_its_rail_says_nothing_of_that() {
        for error in Error::ALL {
            let (mut state, peer) = broken();
            RailSink { state: &mut state, rail: 1 }.down(peer, LinkId(8), Refusal::new(error, "so it is"));
            let p = &state.peers[peer.index()];
            assert!(matches!(p.state, PeerState::Broken(_)), "{error:?}: {:?}", p.state);
            assert_eq!(p.recovery.as_ref().and_then(|r| r.attempt), Some((1, LinkId(9))), "{error:?}");
        }
        let (mut state, peer) = broken();
        let reason = Refusal::new(Error::PeerGone, "nobody listens there");
        RailSink { state: &mut state, rail: 1 }.down(peer, LinkId(9), reason);
        assert_eq!(state.peers[peer.index()].error(), Some(Error::PeerGone));
    }

    /// Its operations end one after the other, and with each of them there would be room for a piece of the next.
    #[test]
    fn nothing_is_asked_of_a_peer_that_has_gone() {
        let (mut state, peer) = broken();
        let p = &mut state.peers[peer.index()];
        p.state = PeerState::Up;
        let path = PathId { link: p.link, number: 1 };
        state.path_up(peer, 1, path);
        let cq = state.cqs.insert(CompletionQueue::new(4));
        for sender_op in 0..4 {
            assert_eq!(state.admit(cq), Ok(()));
            let key = state.incoming.insert(op::Incoming {
                receive: RecvOp { iov: IovList::One(Iov::EMPTY), cq, context: sender_op },
                op: 1,
                peer,
                sender_op,
                tag: 5,
                immediate: None,
                total: 16 << 20,
                wanted: 16 << 20,
                received: 0,
                missing: None,
                source: None,
                fetching: None,
            });
            state.ask(key);
        }
        assert!(!state.peers[peer.index()].urgent.is_empty(), "pieces are asked for");
        state.peer_down(peer, &Refusal::new(Error::PeerGone, "it has gone"));
        assert!(state.incoming.is_empty());
        let p = &state.peers[peer.index()];
        assert!(p.urgent.is_empty() && !p.has_work(), "{:?}", p.urgent);
    }

    #[test]
    fn a_first_call_ends_with_the_last_who_waits_for_it() {
        let (mut state, up) = broken();
        let node = NodeId::new([2; 16]).expect("not zero");
        let peer = state.add_peer((node, None), 1, 1, LinkId(11), None);
        state.departed = Some(Vec::new());
        state.peers[peer.index()].handles = 1;
        state.abandon(peer);
        state.abandon(up);
        assert!(state.links.is_empty(), "somebody waits; the other one has been up");
        state.peers[peer.index()].handles = 0;
        state.abandon(peer);
        assert!(
            matches!(state.links.make_contiguous(), [LinkEvent::Over(1, LinkId(11))]),
            "{:?}",
            state.links
        );
        assert_eq!(state.peers[peer.index()].error(), Some(Error::Timeout));
        assert_eq!(state.departed, Some(vec![node]));
        state.abandon(peer);
        assert_eq!(state.links.len(), 1, "once");
    }

    /// The rails are polled one after the other: the link is fenced when all were.
    #[test]
    fn the_rest_of_a_segment_may_come_over_a_link_that_was_just_left() {
        let (mut state, peer) = broken();
        state.link_up(peer, 1);
        let p = &mut state.peers[peer.index()];
        p.state = PeerState::Up;
        let recovery = p.recovery.as_mut().expect("the rail retains");
        (recovery.heard, recovery.start, recovery.previous) = (Some(0), Some(0), None);
        recovery.attempt = Some((0, LinkId(3)));
        let come = |state: &mut State, rail: usize| {
            let payload = crate::mem::PeerBytes::from_slice(b"rest");
            let kind = Kind::Segment as u8;
            let frame = Incoming { kind, flags: 0, word: 0, extension: [8, 0, 0, 0, 0], payload };
            RailSink { state, rail }.frame(peer, frame)
        };
        assert_eq!(come(&mut state, 1), Err(Error::PeerMisbehaved), "nothing was announced");
        state.link_up(peer, 0);
        assert_eq!(state.peers[peer.index()].rail, 0);
        assert_eq!((come(&mut state, 1), come(&mut state, 0)), (Ok(()), Err(Error::PeerMisbehaved)));
    }

    #[test]
    fn what_a_peer_does_wrong_over_the_link_before_ends_it() {
        for (link, is_cut) in [(LinkId(7), true), (LinkId(6), false)] {
            let (mut state, peer) = broken();
            let recovery = state.peers[peer.index()].recovery.as_mut().expect("the rail retains");
            recovery.previous = Some(Previous { rail: 0, link: LinkId(7), start: 0 });
            let reason = Refusal::new(Error::PeerMisbehaved, "a frame that cannot be");
            RailSink { state: &mut state, rail: 0 }.down(peer, link, reason);
            let cut = state.links.iter().any(|event| matches!(event, LinkEvent::Cut(of, ..) if *of == peer));
            assert_eq!(cut, is_cut, "{link:?}");
        }
    }
}
