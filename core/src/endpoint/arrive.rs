//! What the frames of peers do. Nothing in a frame is believed: operations are looked up, offsets and lengths
//! compared with what was asked for; what does not fit cuts the peer off.

use super::ahead::UNASKED;
use super::op::{Early, EarlyBody, Incoming, IovList, OpId, Piece, Stage, MAX_PIECES};
use super::peer::PeerState;
use super::receive::receive_completion;
use super::state::{complete, State};
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::probes;
use crate::rail::{PeerId, RemoteSource};
use crate::wire::{Incoming as IncomingFrame, Kind, Message};

impl State {
    /// Takes one frame.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]: the peer is to be cut off.
    pub(super) fn take_frame(
        &mut self,
        (peer, rail): (PeerId, usize),
        frame: &IncomingFrame<'_>,
    ) -> Result<(), Error> {
        if frame.kind == Kind::Eager as u8 && frame.flags == 0 {
            self.take_eager_frame(peer, frame.word, None, &frame.payload);
            return Ok(());
        }
        self.take_other((peer, rail), frame)
    }

    /// Takes a whole message.
    #[inline(always)]
    pub(super) fn take_eager(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        payload: &PeerBytes<'_>,
    ) {
        if let Some(p) = self.peers.get(peer.index()) {
            let cells = &p.counts.cells;
            cells.messages_received.add(1);
            cells.bytes_received.add(payload.len() as u64);
        }
        self.pace.note_small();
        let Some(found) = self.posted.first(peer, tag) else {
            return self.keep_eager(peer, tag, immediate, payload);
        };
        if let Some(receive) = found.receive() {
            probes::message_matched(peer, tag, payload.len() as u64);
            if let IovList::Lend(_) = receive.iov {
                return self.take_eager_lent((peer, tag, immediate), payload);
            }
            let op = OpId::Receive(found.key());
            let done = receive_completion(receive, op, (peer, tag, immediate), payload);
            complete(&mut self.cqs, receive.cq, done);
        }
        found.discard();
    }

    /// The same, where it need not be quick.
    #[inline(never)]
    fn take_eager_frame(&mut self, peer: PeerId, tag: u64, immediate: Option<u64>, payload: &PeerBytes<'_>) {
        self.take_eager(peer, tag, immediate, payload);
    }

    /// The message has found a receive of loans.
    #[cold]
    fn take_eager_lent(&mut self, what: (PeerId, u64, Option<u64>), payload: &PeerBytes<'_>) {
        if let Some((key, receive)) = self.posted.take(what.0, what.1) {
            self.lend_eager(&receive, OpId::Receive(key).to_bits(), what, payload);
        }
    }

    #[cold]
    fn keep_eager(&mut self, peer: PeerId, tag: u64, immediate: Option<u64>, payload: &PeerBytes<'_>) {
        let len = payload.len();
        let body = if len <= 48 {
            let mut words = [0u64; 6];
            // SAFETY: the array has 48 bytes, is private, and is not touched until the copy is over.
            let target = unsafe { Iov::new(words.as_mut_ptr().cast(), len) };
            payload.copy_to(&Gather::one(&target));
            EarlyBody::Words(words)
        } else {
            EarlyBody::Bytes(payload.to_vec().into_boxed_slice())
        };
        self.store_early(peer, tag, Early { len: len as u64, immediate, body });
    }

    fn take_other(&mut self, (peer, rail): (PeerId, usize), frame: &IncomingFrame<'_>) -> Result<(), Error> {
        match Message::parse(frame).map_err(|_| Error::PeerMisbehaved)? {
            Message::Eager { tag, immediate, sync } => {
                self.take_flagged_eager(peer, tag, immediate, sync, &frame.payload);
                Ok(())
            }
            Message::Rts { tag, len, op, immediate, source, ahead } => {
                self.expect_ahead(peer, (op, len), ahead)?;
                self.take_rts(peer, tag, (len, op), immediate, source);
                Ok(())
            }
            Message::Rtr { op, receiver_op, offset, len, path } => {
                self.take_rtr(peer, (op, path), receiver_op, offset, len)
            }
            Message::Segment { op: UNASKED, offset } => self.take_ahead(peer, offset, &frame.payload),
            Message::Segment { op, offset } => self.take_segment(peer, 0, op, offset, &frame.payload),
            Message::Fin { op, status } => self.take_fin(peer, op, status),
            Message::Matched { op } => self.take_matched(peer, op),
            Message::Abort { op, error } => self.take_abort(peer, op, error),
            // A rail that lends hands loans over by `Sink::loan`.
            Message::Loan { .. } => Err(Error::PeerMisbehaved),
            Message::Return { loan } => self.take_return(peer, loan),
            Message::Stop => self.set_stopped(peer, true),
            Message::Go => self.set_stopped(peer, false),
            Message::Put { region, op, offset, last } => {
                self.serve_put(peer, region, op, offset, last, &frame.payload);
                Ok(())
            }
            Message::Get { region, op, offset, len } => {
                self.serve_get(peer, region, op, offset, len);
                Ok(())
            }
            Message::Atomic { region, op, offset, update } => {
                self.serve_atomic(peer, region, op, offset, &update);
                Ok(())
            }
            Message::Data { op, offset } => self.take_data(peer, op, offset, &frame.payload),
            Message::Answer { op, status, value } => self.take_answer(peer, op, status, value),
            Message::Resume { delivered, conversation, yours } => {
                self.take_resume(peer, delivered, conversation, yours)
            }
            Message::Bytes { stream } => {
                let taken = self.streams.take_bytes(peer, stream, &frame.payload);
                self.settle_streams();
                self.peers[peer.index()].counts.cells.stream_bytes_received.add(frame.payload.len() as u64);
                taken
            }
            Message::Pull { stream, len, source } => {
                let taken = self.streams.take_pull(peer, stream, len, source);
                self.settle_streams();
                taken
            }
            Message::Stream { stream, said } => self.take_said((peer, rail), stream, said, &frame.payload),
        }
    }

    fn take_flagged_eager(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        sync: Option<u64>,
        payload: &PeerBytes<'_>,
    ) {
        let Some(sender_op) = sync else {
            self.take_eager_frame(peer, tag, immediate, payload);
            return;
        };
        // An unexpected synchronous message is kept with its sender's operation, to tell of the match later.
        if self.posted.accepts(peer, tag) {
            self.take_eager_frame(peer, tag, immediate, payload);
            self.say(peer, Message::Matched { op: sender_op });
        } else {
            if let Some(p) = self.peers.get_mut(peer.index()) {
                p.counts.cells.messages_received.add(1);
                p.counts.cells.bytes_received.add(payload.len() as u64);
            }
            let bytes = payload.to_vec().into_boxed_slice();
            let body = EarlyBody::Sync { bytes, sender_op };
            self.store_early(peer, tag, Early { len: payload.len() as u64, immediate, body });
        }
    }

    fn take_rts(
        &mut self,
        peer: PeerId,
        tag: u64,
        (len, sender_op): (u64, u64),
        immediate: Option<u64>,
        source: Option<RemoteSource>,
    ) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.counts.cells.messages_received.add(1);
            // The length is what the peer says; nothing has come yet.
            let bytes = &p.counts.cells.bytes_received;
            bytes.set(bytes.value().saturating_add(len));
        }
        probes::message_announced(peer, tag, len);
        match self.posted.take(peer, tag) {
            Some((key, receive)) => {
                probes::message_matched(peer, tag, len);
                let incoming = Incoming {
                    receive,
                    op: 0,
                    peer,
                    sender_op,
                    tag,
                    immediate,
                    total: len,
                    wanted: 0,
                    received: 0,
                    missing: None,
                    source,
                    fetching: None,
                };
                self.begin_incoming(incoming, Some(OpId::Receive(key).to_bits()), &[]);
            }
            None => {
                let body = self.early_body(peer, sender_op, source);
                let key = self.store_early(peer, tag, Early { len, immediate, body });
                self.keep_ahead(peer, key);
            }
        }
    }

    fn take_rtr(
        &mut self,
        peer: PeerId,
        (op, path): (u64, u32),
        receiver_op: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        let OpId::Send(key) = OpId::from_bits(op) else {
            return Err(Error::PeerMisbehaved);
        };
        let Some(send) = self.sends.get_mut(key).filter(|send| send.peer == peer) else {
            // Given up meanwhile (cancelled); the receiver waits for pieces and has to hear it.
            self.say(peer, Message::Abort { op: receiver_op, error: Error::Canceled });
            return Ok(());
        };
        let end = offset.checked_add(len).filter(|end| *end <= send.len).ok_or(Error::PeerMisbehaved)?;
        let Stage::Announced { pieces, .. } = &mut send.stage else {
            return Err(Error::PeerMisbehaved);
        };
        if pieces.len() >= MAX_PIECES || len == 0 {
            return Err(Error::PeerMisbehaved);
        }
        if path != 0 {
            return self.take_rtr_on(peer, path, key, Piece { receiver_op, offset, end });
        }
        pieces.push_back(Piece { receiver_op, offset, end });
        let cq = send.cq;
        if pieces.len() == 1 {
            if let Some(p) = self.peers.get_mut(peer.index()) {
                if p.bulk.is_empty() {
                    p.lead.note(p.counts.cells.sends_eager.value(), false);
                }
                p.bulk.push(cq, key);
                p.publish();
            }
            self.schedule(peer);
        }
        Ok(())
    }

    /// Takes a segment that has come over a path, of which 0 is the first.
    pub(super) fn take_segment(
        &mut self,
        peer: PeerId,
        path: u32,
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let incoming = self.awaited(peer, (path, op), offset, payload.len()).ok_or(Error::PeerMisbehaved)?;
        let all = Gather::all(incoming.receive.iov.as_slice());
        payload.copy_to(&all.window(offset as usize, payload.len()));
        self.note_segment(peer, (path, op), offset, payload.len());
        Ok(())
    }

    /// The receive that such a segment is for: what comes next of what was asked for over this path.
    fn awaited(&self, peer: PeerId, (path, op): (u32, u64), offset: u64, len: usize) -> Option<&Incoming> {
        let incoming = self.incoming.get(Key::from_bits(op)).filter(|i| i.peer == peer)?;
        if incoming.missing.is_some() {
            return self.is_piece(incoming, (path, op), offset, len).then_some(incoming);
        }
        // Rails here keep the order, and one piece is asked for: segments follow one another.
        let left = incoming.wanted - incoming.received;
        let is_next = path == 0
            && offset == incoming.received
            && offset == self.first_to_ask_for(Key::from_bits(op), incoming);
        (is_next && len != 0 && len as u64 <= left).then_some(incoming)
    }

    /// So many bytes of an awaited segment are where they belong.
    pub(super) fn note_segment(&mut self, peer: PeerId, (path, op): (u32, u64), offset: u64, len: usize) {
        let key = Key::from_bits(op);
        let Some(incoming) = self.incoming.get_mut(key) else { return };
        incoming.received += len as u64;
        let (is_divided, is_whole) = (incoming.missing.is_some(), incoming.received == incoming.wanted);
        let sender_op = incoming.sender_op;
        if is_divided {
            self.note_piece(peer, (path, op), offset, len);
        }
        if is_whole {
            self.say(peer, Message::Fin { op: sender_op, status: Ok(()) });
            self.complete_incoming(key, Ok(()));
        }
    }

    /// Where the next bytes of an awaited segment belong. None for those that would not all fit: the memory of a receive whose
    /// queue was destroyed is not written any more.
    pub(super) fn place_segment(
        &mut self,
        peer: PeerId,
        path: u32,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Option<Gather<'_>> {
        if (path, op) == (0, UNASKED) {
            return self.place_ahead(peer, offset, len);
        }
        let incoming = self.awaited(peer, (path, op), offset, len)?;
        let place = Gather::all(incoming.receive.iov.as_slice()).window(offset as usize, len);
        (place.len() == len).then_some(place)
    }

    /// The rail has put bytes there.
    pub(super) fn take_placed(
        &mut self,
        peer: PeerId,
        path: u32,
        op: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), Error> {
        if (path, op) == (0, UNASKED) {
            return self.take_ahead_placed(peer, offset, len);
        }
        self.awaited(peer, (path, op), offset, len).ok_or(Error::PeerMisbehaved)?;
        self.note_segment(peer, (path, op), offset, len);
        Ok(())
    }

    fn take_fin(&mut self, peer: PeerId, op: u64, status: Result<(), Error>) -> Result<(), Error> {
        let OpId::Send(key) = OpId::from_bits(op) else {
            return Err(Error::PeerMisbehaved);
        };
        match self.sends.get(key) {
            Some(send) if send.peer != peer => Err(Error::PeerMisbehaved),
            Some(send) if matches!(send.stage, Stage::Announced { .. }) => {
                if let Some(p) = self.peers.get_mut(peer.index()) {
                    p.bulk.remove(key);
                    p.publish();
                }
                self.complete_send(key, status);
                self.note_end_of_bulk();
                Ok(())
            }
            Some(_) => Err(Error::PeerMisbehaved),
            // Cancelled meanwhile.
            None => Ok(()),
        }
    }

    fn take_matched(&mut self, peer: PeerId, op: u64) -> Result<(), Error> {
        let OpId::Send(key) = OpId::from_bits(op) else {
            return Err(Error::PeerMisbehaved);
        };
        match self.sends.get(key) {
            Some(send) if send.peer == peer && matches!(send.stage, Stage::AwaitsMatch) => {
                self.complete_send(key, Ok(()));
                Ok(())
            }
            Some(_) => Err(Error::PeerMisbehaved),
            None => Ok(()),
        }
    }

    fn take_abort(&mut self, peer: PeerId, op: u64, error: Error) -> Result<(), Error> {
        let key = Key::from_bits(op);
        match self.incoming.get(key) {
            Some(incoming) if incoming.peer == peer => {
                self.complete_incoming(key, Err(error));
                Ok(())
            }
            Some(_) => Err(Error::PeerMisbehaved),
            None => Ok(()),
        }
    }

    fn set_stopped(&mut self, peer: PeerId, stopped: bool) -> Result<(), Error> {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.stopped = stopped;
            p.refresh_direct();
            if p.state == PeerState::Up {
                self.schedule(peer);
            }
        }
        Ok(())
    }
}
