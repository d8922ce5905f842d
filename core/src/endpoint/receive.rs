//! Receives, probes, and the store of unexpected messages.

use super::op::{CqId, Early, EarlyBody, Fetching, Incoming, IovList, OpId, RecvOp};
use super::recover::LinkEvent;
use super::send::checked_len;
use super::state::State;
use super::Engine;
use crate::completion::{Completion, OpKind, HAS_IMMEDIATE};
use crate::error::Error;
use crate::matching::{Key, Pattern, Source, ANY};
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{PeerId, Rail, RemoteSource};
use crate::sync::AtomicU64;
use crate::wire::Message;

/// Unexpected messages that a peer may have sent until it hears that it is to stop: all slots of its ring, and what it
/// sends between two looks, with a wide margin. Who sends more does not listen.
const MAX_AFTER_STOP: usize = 4 * crate::ring::slot::MAX_SLOTS as usize;

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Who sent the message.
    pub source: PeerId,
    /// Its tag.
    pub tag: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The value that came with it.
    pub immediate: Option<u64>,
}

/// A message that a matched probe took out of the store.
#[derive(Debug)]
pub struct HeldMessage {
    pub(super) source: PeerId,
    tag: u64,
    pub(super) early: Early,
}

impl<R: Rail> Engine<R> {
    /// Posts a receive; its completion goes to `cq`. Returns the operation's number.
    ///
    /// # Errors
    /// [`Error::Again`] when a limit on operations is reached; the peer's error when the only peer accepted has gone
    /// and none of its messages is left; [`Error::Handle`] when there is no such queue.
    pub fn receive(&mut self, cq: CqId, pattern: &Pattern, iov: Iov, context: u64) -> Result<u64, Error> {
        self.receive_list(cq, pattern, IovList::One(iov), context)
    }

    /// Posts a receive of one tag, of which perhaps some bits do not count, if nothing has come unexpected and the peer, if one is named, lives: the hot path. The
    /// operation's number; nothing when it cannot, and nothing has happened: [`Self::receive`] then does it, or says why not.
    #[inline(always)]
    pub fn receive_now(
        &mut self,
        cq: CqId,
        source: Source,
        (tag, ignore): (u64, u64),
        iov: Iov,
        context: u64,
    ) -> Option<u64> {
        let source = match source {
            Source::Any => ANY,
            Source::Peer(peer) if self.state.peers.get(peer.index()).is_some_and(|p| p.direct) => {
                peer.number()
            }
            Source::Peer(_) => return None,
        };
        let may_wait = self.state.unexpected.is_empty() && self.state.posted.has_bins_for(ignore);
        if !may_wait || self.state.admit(cq).is_err() {
            return None;
        }
        let receive = RecvOp { iov: IovList::One(iov), cq, context };
        let key = self.state.posted.insert_binned(source, tag, ignore, receive);
        self.state.engine.receives_posted.add(1);
        Some(OpId::Receive(key).to_bits())
    }

    /// Posts a receive into several pieces of memory.
    ///
    /// # Errors
    /// As [`Self::receive`]; and [`Error::Invalid`] for more than 1024 pieces, [`Error::Unsupported`] for memory that
    /// is not of the host.
    pub fn receive_iov(
        &mut self,
        cq: CqId,
        pattern: &Pattern,
        iov: &[Iov],
        context: u64,
    ) -> Result<u64, Error> {
        checked_len(iov)?;
        self.receive_list(cq, pattern, IovList::new(iov), context)
    }

    #[inline(never)]
    pub(super) fn receive_list(
        &mut self,
        cq: CqId,
        pattern: &Pattern,
        iov: IovList,
        context: u64,
    ) -> Result<u64, Error> {
        self.state.admit(cq)?;
        let receive = RecvOp { iov, cq, context };
        if let Some(key) = self.state.unexpected.find(pattern) {
            return Ok(self.receive_early(key, receive));
        }
        if let Source::Peer(peer) = pattern.source {
            let error = self.state.peers.get(peer.index()).map_or(Some(Error::NotFound), |p| p.error());
            if let Some(error) = error {
                self.state.unadmit(cq);
                return Err(error);
            }
        }
        self.state.engine.receives_posted.add(1);
        Ok(OpId::Receive(self.state.posted.insert(*pattern, receive)).to_bits())
    }

    #[cold]
    fn receive_early(&mut self, key: Key, receive: RecvOp) -> u64 {
        let Some((source, tag, early)) = self.state.take_early(key) else {
            return 0;
        };
        let number = self.state.deliver_early(source, tag, early, receive);
        self.release_copied();
        if self.state.has_deferred_work() {
            self.flush();
        }
        number
    }

    /// Looks for a message that `pattern` accepts, without taking it.
    pub fn probe(&self, pattern: &Pattern) -> Option<Probe> {
        let (source, tag, early) = self.state.unexpected.get(self.state.unexpected.find(pattern)?)?;
        Some(Probe { source, tag, len: early.len, immediate: early.immediate })
    }

    /// Takes a message that `pattern` accepts out of the store: nobody else receives it. The number is for
    /// [`Self::receive_held`].
    pub fn matched_probe(&mut self, pattern: &Pattern) -> Option<(Probe, Key)> {
        let (source, tag, early) = self.state.take_early(self.state.unexpected.find(pattern)?)?;
        let probe = Probe { source, tag, len: early.len, immediate: early.immediate };
        Some((probe, self.state.held.insert(HeldMessage { source, tag, early })))
    }

    /// Receives a message that a matched probe took.
    ///
    /// # Errors
    /// [`Error::Again`] when a limit on operations is reached, and the message stays held; [`Error::NotFound`] when
    /// there is no such message; [`Error::Handle`] when there is no such queue.
    pub fn receive_held(&mut self, cq: CqId, message: Key, iov: Iov, context: u64) -> Result<u64, Error> {
        self.receive_held_list(cq, message, IovList::One(iov), context)
    }

    pub(super) fn receive_held_list(
        &mut self,
        cq: CqId,
        message: Key,
        iov: IovList,
        context: u64,
    ) -> Result<u64, Error> {
        self.state.held.get(message).ok_or(Error::NotFound)?;
        self.state.admit(cq)?;
        let Some(held) = self.state.held.remove(message) else {
            return Err(Error::NotFound);
        };
        let receive = RecvOp { iov, cq, context };
        let number = self.state.deliver_early(held.source, held.tag, held.early, receive);
        self.release_copied();
        self.flush();
        Ok(number)
    }

    /// Cancels an operation that has not completed; its completion says [`Error::Canceled`]. A send that the peer
    /// knows of may have been received all the same.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such operation, it has completed, or a receive's message is coming in.
    pub fn cancel(&mut self, op: u64) -> Result<(), Error> {
        match OpId::from_bits(op) {
            OpId::Send(key) => {
                self.state.sends.get(key).ok_or(Error::NotFound)?;
                self.state.abandon_send(key, Error::Canceled);
                self.conceal_finished();
                Ok(())
            }
            OpId::Receive(key) => {
                let receive = self.state.posted.remove(key).ok_or(Error::NotFound)?;
                self.state.engine.receives_withdrawn.add(1);
                self.state.complete_receive_failed(receive, op, PeerId::new(u32::MAX), Error::Canceled);
                Ok(())
            }
            OpId::Incoming(_) => Err(Error::NotFound),
            OpId::Remote(key) => self.state.cancel_remote(key),
        }
    }

    /// Takes back the receives that report to a queue, silently.
    pub(super) fn withdraw_receives(&mut self, cq: CqId) {
        for key in self.state.posted.keys_where(|_, receive| receive.cq == cq) {
            if let Some(receive) = self.state.posted.remove(key) {
                self.state.engine.receives_withdrawn.add(1);
                self.state.break_promise(&receive);
                self.state.unadmit(cq);
            }
        }
        // What is coming in comes to an end, but into no memory.
        let mut fetches = Vec::new();
        let State { incoming, loans, lending_bytes, .. } = &mut self.state;
        for incoming in incoming.values_mut().filter(|incoming| incoming.receive.cq == cq) {
            fetches.extend(incoming.fetching);
            let withdrawn = std::mem::replace(&mut incoming.receive.iov, IovList::One(Iov::EMPTY));
            if withdrawn.is_lent() {
                loans.break_promise();
                *lending_bytes = lending_bytes.saturating_sub(incoming.total);
            }
        }
        for Fetching { rail, link, token, .. } in fetches {
            self.rails[rail].abort_get(link, token);
            if let Some(peer) = self.state.fetched_by((rail, token)) {
                self.state.take_fetched(peer, (rail, token), Err(Error::Canceled));
            }
        }
    }
}

impl State {
    pub(super) fn unadmit(&mut self, cq: CqId) {
        if let Some(queue) = self.cqs.get_mut(cq) {
            queue.unreserve();
        }
    }

    /// A receive that ends without a message.
    pub(super) fn complete_receive_failed(&mut self, receive: RecvOp, op: u64, peer: PeerId, error: Error) {
        self.note_failure(peer, error);
        self.break_promise(&receive);
        let completion = Completion {
            context: receive.context,
            length: 0,
            tag: 0,
            immediate: 0,
            op,
            status: error.code(),
            source: peer.number(),
            kind: OpKind::Receive as u32,
            flags: 0,
        };
        self.complete(receive.cq, completion);
    }

    /// A receive whose message was announced: asks for it.
    /// Of it, the bytes that have `come` were kept.
    pub(super) fn begin_incoming(&mut self, mut incoming: Incoming, number: Option<u64>, come: &[u8]) -> u64 {
        if let Err(error) = self.make_room(&mut incoming) {
            return self.refuse_incoming(incoming, number, error);
        }
        let capacity = Gather::all(incoming.receive.iov.as_slice()).len() as u64;
        incoming.wanted = incoming.total.min(capacity);
        let kept = PeerBytes::from_slice(come).copy_to(&Gather::all(incoming.receive.iov.as_slice()));
        incoming.received = incoming.wanted.min(kept as u64);
        let (peer, sender_op, source) = (incoming.peer, incoming.sender_op, incoming.source);
        let is_whole = incoming.received == incoming.wanted;
        let key = self.incoming.insert(incoming);
        self.engine.incoming_now.set(self.incoming.len() as u64);
        let number = number.unwrap_or(OpId::Incoming(key).to_bits());
        if let Some(incoming) = self.incoming.get_mut(key) {
            incoming.op = number;
        }
        if is_whole {
            self.say(peer, Message::Fin { op: sender_op, status: Ok(()) });
            self.complete_incoming(key, Ok(()));
        } else if source.is_some() {
            self.join_fetches(peer, key);
        } else {
            self.ask_behind(key);
        }
        number
    }

    /// There is no memory for a message that was announced: it ends on both sides.
    #[cold]
    fn refuse_incoming(&mut self, incoming: Incoming, number: Option<u64>, error: Error) -> u64 {
        let Incoming { receive, peer, sender_op, .. } = incoming;
        self.say(peer, Message::Fin { op: sender_op, status: Err(error) });
        let number = number.unwrap_or(0);
        self.complete_receive_failed(receive, number, peer, error);
        number
    }

    /// Gives a message from the store to a receive.
    fn deliver_early(&mut self, peer: PeerId, tag: u64, early: Early, receive: RecvOp) -> u64 {
        if matches!(receive.iov, IovList::Lend(_)) && early.is_here() {
            self.lend_early(peer, tag, early, &receive);
            return 0;
        }
        let what = (peer, tag, early.immediate);
        let none = OpId::Send(Key::from_bits(0));
        match early.body {
            EarlyBody::Words(words) => {
                let words = words.map(AtomicU64::new);
                let payload = PeerBytes::Words(&words, early.len as usize);
                self.complete(receive.cq, receive_completion(&receive, none, what, &payload));
                0
            }
            EarlyBody::Bytes(bytes) => {
                let payload = PeerBytes::from_slice(&bytes);
                self.complete(receive.cq, receive_completion(&receive, none, what, &payload));
                0
            }
            EarlyBody::Sync { bytes, sender_op } => {
                let payload = PeerBytes::from_slice(&bytes);
                self.complete(receive.cq, receive_completion(&receive, none, what, &payload));
                self.say(peer, Message::Matched { op: sender_op });
                0
            }
            EarlyBody::Announced { sender_op, source } => {
                self.begin_early((sender_op, source), (what, early.len), receive, &[])
            }
            EarlyBody::Begun { sender_op, bytes, .. } => {
                self.begin_early((sender_op, None), (what, early.len), receive, &bytes)
            }
            EarlyBody::Loan { loan, message } => {
                self.copy_early_loan(what, (loan, message), &receive);
                0
            }
            EarlyBody::Lost => {
                self.complete_receive_failed(receive, 0, peer, Error::PeerGone);
                0
            }
        }
    }

    /// A receive has found a message that was announced before.
    fn begin_early(
        &mut self,
        (sender_op, source): (u64, Option<RemoteSource>),
        ((peer, tag, immediate), total): ((PeerId, u64, Option<u64>), u64),
        receive: RecvOp,
        come: &[u8],
    ) -> u64 {
        let incoming = Incoming {
            receive,
            op: 0,
            peer,
            sender_op,
            tag,
            immediate,
            total,
            wanted: 0,
            received: 0,
            missing: None,
            source,
            fetching: None,
        };
        self.begin_incoming(incoming, None, come)
    }

    /// Adds a message to the store; when the store or the peer's share is full, the peer is told to stop. What
    /// it has sent until it hears of that is still taken: so much, and no more, goes beyond the bound.
    pub(super) fn store_early(&mut self, peer: PeerId, tag: u64, early: Early) -> Option<Key> {
        let cost = early.cost();
        let p = self.peers.get_mut(peer.index())?;
        p.counts.cells.unexpected_total.add(1);
        crate::probes::message_unexpected(peer, tag, early.len);
        p.early_messages += 1;
        p.early_bytes += cost;
        if p.error().is_some() {
            self.orphans.add(1, cost);
        }
        self.unexpected_bytes += cost;
        let key = self.unexpected.insert(peer, tag, early);
        if p.stopping {
            p.since_stop += 1;
            if p.since_stop > MAX_AFTER_STOP {
                self.links.push_back(LinkEvent::flooding(peer));
            }
        } else if self.is_full_for(peer) {
            self.stop(peer);
        }
        self.publish_unexpected(peer);
        Some(key)
    }

    /// Whether the store holds more than it should, of all or of this peer: a quarter is for one, so that others are heard while it
    /// floods.
    fn is_full_for(&self, peer: PeerId) -> bool {
        let is_above = |bytes: usize, messages: usize, parts: usize| {
            bytes > self.limits.unexpected_bytes / parts || messages > self.limits.unexpected_messages / parts
        };
        is_above(self.unexpected_bytes, self.unexpected.len(), 1)
            || self.peers.get(peer.index()).is_some_and(|p| is_above(p.early_bytes, p.early_messages, 4))
    }

    /// Makes room, or tells the peer to stop.
    #[cold]
    fn stop(&mut self, peer: PeerId) {
        self.drop_begun();
        if !self.is_full_for(peer) {
            return;
        }
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        p.since_stop = 0;
        p.stopping = true;
        p.publish();
        p.counts.cells.backpressure_stops.add(1);
        self.stopping.push(peer);
        self.say(peer, Message::Stop);
    }

    /// Changes what is kept of a message in the store, whose peer's are not counted as orphans yet; it costs no more than before.
    pub(super) fn change_early(&mut self, key: Key, change: impl FnOnce(&mut Early)) {
        let Some((peer, ..)) = self.unexpected.get(key) else { return };
        let Some(early) = self.unexpected.get_mut(key) else { return };
        let before = early.cost();
        change(early);
        let freed = before.saturating_sub(early.cost());
        self.unexpected_bytes -= freed;
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.early_bytes -= freed;
        }
        self.publish_unexpected(peer);
    }

    /// A peer goes: what it has only announced never comes, and what is here stays for whoever receives it.
    pub(super) fn orphan_early(&mut self, peer: PeerId) {
        for key in self.unexpected.keys_where(|source, early| source == peer && !early.is_here()) {
            self.change_early(key, Early::lose);
        }
        for held in self.held.values_mut().filter(|held| held.source == peer) {
            held.early.lose();
        }
        if let Some(p) = self.peers.get(peer.index()) {
            self.orphans.add(p.early_messages, p.early_bytes);
        }
    }

    /// Takes a message out of the store; lets peers go on when there is room again.
    pub(super) fn take_early(&mut self, key: Key) -> Option<(PeerId, u64, Early)> {
        let (peer, tag, early) = self.unexpected.remove(key)?;
        self.unexpected_bytes -= early.cost();
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.early_messages -= 1;
            p.early_bytes -= early.cost();
            if p.error().is_some() {
                self.orphans.remove(early.cost());
            }
        }
        self.publish_unexpected(peer);
        if !self.stopping.is_empty() {
            self.let_go();
        }
        Some((peer, tag, early))
    }

    /// Half of each bound must be free again, so that stop and go do not alternate message by message.
    fn let_go(&mut self) {
        let limits = self.limits;
        if self.unexpected_bytes > limits.unexpected_bytes / 2
            || self.unexpected.len() > limits.unexpected_messages / 2
        {
            return;
        }
        for peer in std::mem::take(&mut self.stopping) {
            let Some(p) = self.peers.get_mut(peer.index()) else {
                continue;
            };
            if p.early_bytes > limits.unexpected_bytes / 8
                || p.early_messages > limits.unexpected_messages / 8
            {
                self.stopping.push(peer);
                continue;
            }
            p.stopping = false;
            p.publish();
            self.say(peer, Message::Go);
        }
    }
}

/// Copies a whole message into its receive, and says so.
#[inline(always)]
pub(super) fn receive_completion(
    receive: &RecvOp,
    op: OpId,
    what: (PeerId, u64, Option<u64>),
    payload: &PeerBytes<'_>,
) -> Completion {
    let copied = match &receive.iov {
        IovList::One(iov) => payload.copy_to(&Gather::one(iov)),
        other => payload.copy_to(&Gather::all(other.as_slice())),
    };
    received(receive.context, op.to_bits(), what, payload.len(), copied)
}

/// The completion of a receive whose message has `len` bytes, of which so many are where the program wants them.
#[inline(always)]
pub(super) fn received(
    context: u64,
    op: u64,
    (peer, tag, immediate): (PeerId, u64, Option<u64>),
    len: usize,
    copied: usize,
) -> Completion {
    Completion {
        context,
        length: len as u64,
        tag,
        immediate: immediate.unwrap_or(0),
        op,
        status: if copied < len { Error::Truncated.code() } else { 0 },
        source: peer.number(),
        kind: OpKind::Receive as u32,
        flags: if immediate.is_some() { HAS_IMMEDIATE } else { 0 },
    }
}
