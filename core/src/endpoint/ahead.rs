//! First bytes of a large message that come right behind its announcement, without being asked for: they save a round trip.
//!
//! They lie in the sender's memory, as all of the message does until the receiver has finished with it. So nothing is kept for
//! another link, and whoever has no place for them drops them, and asks for them later. What a receiver keeps of messages that nobody
//! waits for is within the bounds of the unexpected store, and makes way before a peer is told to stop; a sender goes ahead of its
//! peer by a few hundred KiB at most.
//!
//! Only who is alone goes ahead: while other large messages, or small ones beside them, are under way, it is the receiver who says
//! what comes when.

use super::flush::{announcement, Step};
use super::op::{EarlyBody, Incoming, Stage};
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{PeerId, Posted, Rail, RemoteSource};
use crate::wire::Message;

/// In a segment, instead of the receiver's operation, which the sender does not know: it belongs to the message that was announced
/// right before. No operation has this number.
pub(super) const UNASKED: u64 = 0;
/// Most bytes of one message that may come unasked.
const MOST_BYTES: u64 = 256 << 10;
/// Most bytes that go to a peer so, of messages that it has not finished: what it may have to drop.
const MOST_OUT: usize = 256 << 10;

/// Bytes that come unasked from a peer: of one message at a time, as they come in order.
#[derive(Debug)]
pub(super) struct Ahead {
    sender_op: u64,
    place: Place,
    /// The next byte in the message,
    next: u64,
    /// and where they end.
    end: u64,
}

/// Where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Receive(Key),
    Store(Key),
    /// Nobody waits for them, or there is no room: they are asked for later.
    Nowhere,
}

impl<R: Rail> Engine<R> {
    /// Announces a message, with its first bytes right behind. None when it is not the time for that.
    pub(super) fn flush_ahead(&mut self, peer: PeerId, key: Key) -> Option<Step> {
        let p = &mut self.state.peers[peer.index()];
        let is_wide = p.stripes.as_ref().is_some_and(|stripes| stripes.is_wide());
        let is_alone = self.state.pace.is_alone() && p.bulk.is_empty() && !p.bulk.is_shared();
        if !is_alone || is_wide || !p.outlets.is_empty() {
            return None;
        }
        let op = self.state.sends.get_mut(key)?;
        let rail = &mut self.rails[p.rail];
        let most = rail.ahead_len(p.link).min(MOST_BYTES as usize);
        let ahead = usize::try_from(op.len).map_or(most, |len| len.min(most));
        if ahead == 0 || p.ahead_out + ahead > MOST_OUT {
            return None;
        }
        let announcement = announcement(key, op, None, ahead as u64).frame(Gather::EMPTY);
        let first = Gather::all(op.iov.as_slice()).window(0, ahead);
        let segment = Message::Segment { op: UNASKED, offset: 0 }.frame(first);
        if rail.post_ahead(p.link, &announcement, &segment) != Posted::Done {
            return None;
        }
        op.stage = Stage::Announced { pieces: Default::default(), source: None, ahead };
        p.ahead_out += ahead;
        p.pending.pop_front();
        p.counts.cells.sends_rendezvous.add(1);
        crate::probes::rendezvous_started(peer, key.to_bits());
        self.state.pace.moved(ahead);
        Some(Step::Moved(ahead))
    }
}

impl State {
    /// A message has ended of which so many bytes went ahead.
    pub(super) fn ahead_ended(&mut self, peer: PeerId, ahead: usize) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.ahead_out = p.ahead_out.saturating_sub(ahead);
        }
    }

    /// So many bytes of an announced message come next.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when those of another are not all here, or there are too many.
    pub(super) fn expect_ahead(
        &mut self,
        peer: PeerId,
        (sender_op, len): (u64, u64),
        bytes: u64,
    ) -> Result<(), Error> {
        let Some(p) = self.peers.get_mut(peer.index()) else { return Ok(()) };
        if p.ahead.as_ref().is_some_and(|ahead| ahead.next < ahead.end) || bytes > len.min(MOST_BYTES) {
            return Err(Error::PeerMisbehaved);
        }
        let place = Place::Nowhere;
        p.ahead = (bytes > 0).then_some(Ahead { sender_op, place, next: 0, end: bytes });
        Ok(())
    }

    /// In what form an announced message is stored for which there is no receive: with what comes unasked, if there is room.
    pub(super) fn early_body(&self, peer: PeerId, sender_op: u64, source: Option<RemoteSource>) -> EarlyBody {
        let p = self.peers.get(peer.index());
        let coming =
            p.filter(|p| p.error().is_none()).and_then(|p| Some((p, p.ahead.as_ref()?.end as usize)));
        let has_room = |early_bytes: usize, room: usize| {
            self.stopping.is_empty()
                && self.unexpected_bytes + room <= self.limits.unexpected_bytes
                && early_bytes + room <= self.limits.unexpected_bytes / 4
        };
        match coming.filter(|(p, room)| has_room(p.early_bytes, *room)) {
            Some((_, room)) => EarlyBody::Begun { sender_op, bytes: Vec::new(), room },
            None => EarlyBody::Announced { sender_op, source },
        }
    }

    /// The message was stored: what comes of it belongs there.
    pub(super) fn keep_ahead(&mut self, peer: PeerId, stored: Option<Key>) {
        let Some(ahead) = self.peers.get_mut(peer.index()).and_then(|p| p.ahead.as_mut()) else { return };
        ahead.place = stored.map_or(Place::Nowhere, Place::Store);
    }

    /// Drops what is kept of announced messages: it is asked for anew, and so keeps nobody from speaking. While a peer is told to
    /// stop, none is kept.
    pub(super) fn drop_begun(&mut self) {
        for key in self.unexpected.keys_where(|_, early| matches!(early.body, EarlyBody::Begun { .. })) {
            self.change_early(key, |early| {
                if let EarlyBody::Begun { sender_op, .. } = early.body {
                    early.body = EarlyBody::Announced { sender_op, source: None };
                }
            });
        }
    }

    /// Asks for what does not come by itself of a message that has found its receive.
    pub(super) fn ask_behind(&mut self, key: Key) {
        let Some(incoming) = self.incoming.get(key) else { return };
        let (peer, op, received, wanted) =
            (incoming.peer, incoming.sender_op, incoming.received, incoming.wanted);
        let ahead = self.peers.get_mut(peer.index()).and_then(|p| p.ahead.as_mut());
        // Bytes may have been dropped meanwhile, while a probe held the message.
        let goes_on = |ahead: &&mut Ahead| (ahead.sender_op, ahead.next) == (op, received);
        let Some(ahead) = ahead.filter(goes_on).filter(|ahead| ahead.next < ahead.end) else {
            return self.ask(key);
        };
        ahead.place = Place::Receive(key);
        let offset = ahead.end;
        if offset < wanted {
            let len = wanted - offset;
            self.say(peer, Message::Rtr { op, receiver_op: key.to_bits(), offset, len, path: 0 });
        }
    }

    /// The first byte of a message that does not come by itself. Of a link that has broken nothing does; but over the next one the
    /// peer may have gone ahead before it is asked for what was lost.
    pub(super) fn first_to_ask_for(&self, key: Key, incoming: &Incoming) -> u64 {
        let ahead = self.peers.get(incoming.peer.index()).and_then(|p| p.ahead.as_ref());
        let comes = ahead.filter(|ahead| ahead.place == Place::Receive(key) && ahead.next < ahead.end);
        comes.map_or(incoming.received, |ahead| ahead.end)
    }

    /// Bytes have come that nobody has asked for.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]: they were not announced.
    pub(super) fn take_ahead(
        &mut self,
        peer: PeerId,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        match self.pass_ahead(peer, offset, payload.len())? {
            Place::Receive(key) => {
                let Some(incoming) = self.incoming.get(key) else { return Ok(()) };
                let left = usize::try_from(incoming.wanted - incoming.received).unwrap_or(usize::MAX);
                let len = payload.len().min(left);
                let all = Gather::all(incoming.receive.iov.as_slice());
                payload.copy_to(&all.window(offset as usize, len));
                self.note_segment(peer, (0, key.to_bits()), offset, len);
            }
            Place::Store(key) => {
                if let Some(EarlyBody::Begun { bytes, room, .. }) =
                    self.unexpected.get_mut(key).map(|early| &mut early.body)
                {
                    bytes.reserve_exact(room.saturating_sub(bytes.len()));
                    payload.append_to(bytes);
                }
            }
            Place::Nowhere => {}
        }
        Ok(())
    }

    /// Where such bytes belong, if that is in a receive that has room for all of them.
    pub(super) fn place_ahead(&mut self, peer: PeerId, offset: u64, len: usize) -> Option<Gather<'_>> {
        let ahead = self.peers.get(peer.index())?.ahead.as_ref()?;
        let Place::Receive(key) = ahead.place else { return None };
        if offset != ahead.next || len as u64 > ahead.end - ahead.next {
            return None;
        }
        let incoming = self.incoming.get(key).filter(|incoming| incoming.received == offset)?;
        let place = Gather::all(incoming.receive.iov.as_slice()).window(offset as usize, len);
        (place.len() == len && len as u64 <= incoming.wanted - incoming.received).then_some(place)
    }

    /// The rail has put them there.
    ///
    /// # Errors
    /// As [`Self::take_ahead`].
    pub(super) fn take_ahead_placed(&mut self, peer: PeerId, offset: u64, len: usize) -> Result<(), Error> {
        if let Place::Receive(key) = self.pass_ahead(peer, offset, len)? {
            self.note_segment(peer, (0, key.to_bits()), offset, len);
        }
        Ok(())
    }

    /// So many of the bytes that are announced have come. Of a message that has its receive nothing else came before them: a segment
    /// that was asked for belongs behind all of them.
    fn pass_ahead(&mut self, peer: PeerId, offset: u64, len: usize) -> Result<Place, Error> {
        let ahead = self.peers.get_mut(peer.index()).and_then(|p| p.ahead.as_mut());
        let is_next =
            |ahead: &&mut Ahead| offset == ahead.next && len != 0 && len as u64 <= ahead.end - ahead.next;
        let ahead = ahead.filter(is_next).ok_or(Error::PeerMisbehaved)?;
        ahead.next += len as u64;
        match ahead.place {
            Place::Receive(key) if self.incoming.get(key).is_some_and(|i| i.received != offset) => {
                Err(Error::PeerMisbehaved)
            }
            place => Ok(place),
        }
    }
}
