//! Byte streams over the rails: what [`crate::stream`] wants said goes out here, bytes straight from the writer's memory where
//! the rail has room.
//!
//! Frames of streams to a peer keep their order among themselves, and have turns with its messages. No message stands in
//! their way otherwise: a peer that was told to stop sending messages still sends bytes of streams, which have windows of their own.

use super::flush::Step;
use super::op::CqId;
use super::peer::{Peer, PeerState};
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{PeerId, Posted, Rail};
use crate::stream::{is_service, Bells, Line, ListenerId, Ready, Room, Say, StreamId};
use crate::wire::{Message, Said};

/// Most bytes of a stream in one frame: others have their turn in between, and it stays in a cache.
const CHUNK_BYTES: usize = 32 << 10;
/// Frames without a buffer of their own that are still quicker than one with: whoever reads that has to fetch its lines after the slot.
const INLINE_FRAMES: usize = 3;
/// Streams that may wait to be accepted, at most.
const MAX_BACKLOG: usize = 4096;

impl<R: Rail> Engine<R> {
    /// Begins to take calls for a service, of which `backlog` wait to be accepted at most (1 to 4096).
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name or number; [`Error::NameInUse`].
    pub fn stream_listen(&mut self, service: &str, backlog: usize) -> Result<(ListenerId, Bells), Error> {
        if !(1..=MAX_BACKLOG).contains(&backlog) {
            return Err(Error::Invalid);
        }
        let bells = Bells { input: Some(self.create_cq(1)), ..Bells::default() };
        match self.state.streams.listen(service, backlog, bells) {
            Ok(id) => Ok((id, bells)),
            Err(error) => {
                self.drop_bells(bells);
                Err(error)
            }
        }
    }

    /// Takes no more calls; ends streams that nobody has accepted.
    /// Returns the queues that have ended with it.
    pub fn stream_unlisten(&mut self, id: ListenerId) -> Bells {
        let bells = self.state.streams.close_listener(id);
        self.drop_bells(bells);
        self.settle_and_flush();
        bells
    }

    /// Takes the oldest stream that waits to be accepted, with its peer.
    ///
    /// # Errors
    /// [`Error::Again`] when there is none; [`Error::Handle`] without such a listener.
    pub fn stream_accept(&mut self, id: ListenerId) -> Result<(StreamId, Bells, PeerId), Error> {
        if !self.state.streams.listener_ready(id)?.input {
            return Err(Error::Again);
        }
        let bells = self.new_bells();
        match self.state.streams.accept(id, bells) {
            Ok((stream, peer)) => {
                self.hold(peer);
                Ok((stream, bells, peer))
            }
            Err(error) => {
                self.drop_bells(bells);
                Err(error)
            }
        }
    }

    /// Asks a peer for a stream to a service; [`Self::stream_connected`] has the answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name; [`Error::Permission`] where a [`Gate`](crate::stream::Gate) says no:
    /// [`Self::stream_admitted`] has the reason; the peer's error when it has gone.
    pub fn stream_connect(&mut self, peer: PeerId, service: &str) -> Result<(StreamId, Bells), Error> {
        let p = self.state.peers.get(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        if !is_service(service) {
            return Err(Error::Invalid);
        }
        self.state.admit_stream(peer, service, None).map_err(|refusal| refusal.error)?;
        let bells = self.new_bells();
        match self.state.streams.connect(peer, service, bells) {
            Ok(id) => {
                self.hold(peer);
                self.settle_and_flush();
                Ok((id, bells))
            }
            Err(error) => {
                self.drop_bells(bells);
                Err(error)
            }
        }
    }

    /// Whether the peer has accepted.
    ///
    /// # Errors
    /// [`Error::Again`] as long as it has not answered; [`Error::NotFound`] when it has no such service, [`Error::Limit`]
    /// when too many wait there, the peer's error when it has gone.
    pub fn stream_connected(&self, id: StreamId) -> Result<(), Error> {
        self.state.streams.connected(id)
    }

    /// Reads what has come; 0 bytes are the end of the stream.
    ///
    /// # Errors
    /// [`Error::Again`] when nothing has come; the peer's error when it has gone, after what has come.
    pub fn stream_read(&mut self, id: StreamId, to: &mut [u8]) -> Result<usize, Error> {
        let len = match self.state.streams.read(id, to) {
            Err(Error::Again) => return self.stream_pull(id, to),
            read => read?,
        };
        if self.state.streams.has_work() {
            self.settle_and_flush();
        }
        Ok(len)
    }

    /// What comes next goes straight to this memory, as long as it fits, until [`Self::stream_take_back`], which is the end of
    /// the operation that the promise of [`Iov::new`] is about. False when that cannot be: somebody else has lent some.
    pub fn stream_lend(&mut self, id: StreamId, memory: Iov) -> bool {
        self.state.streams.lend(id, memory)
    }

    /// Ends [`Self::stream_lend`]: how many bytes have come there. Those are read, before all others.
    pub fn stream_take_back(&mut self, id: StreamId) -> usize {
        let len = self.state.streams.take_back(id);
        if self.state.streams.has_work() {
            self.settle_and_flush();
        }
        len
    }

    /// Writes as much as may go now; how much. All of it was copied, or has gone.
    ///
    /// # Errors
    /// When nothing was written: [`Error::Again`] when nothing may go now, [`Error::Closed`] when nothing will, why not when the
    /// peer has gone or has refused.
    pub fn stream_write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error> {
        let mut written = 0;
        while written < bytes.len() {
            let room = match self.state.streams.room(id) {
                Ok(room) => room,
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            };
            let left = &bytes[written..];
            let most = left.len().min(room.most);
            let now = &left[..most.min(self.chunk_for(room.peer, bytes.len()))];
            let (len, in_line) = if self.post_bytes(&room, now) {
                (now.len(), false)
            } else {
                let line = &left[..most.min(self.state.stream_chunk)];
                self.put_in_line(id, &room, line);
                (line.len(), true)
            };
            self.state.streams.wrote(id, len, in_line);
            if let Some(p) = self.state.peers.get(room.peer.index()) {
                p.counts.cells.stream_bytes_sent.add(len as u64);
            }
            written += len;
        }
        match self.state.streams.room(id) {
            Err(error) if bytes.is_empty() && error != Error::Again => Err(error),
            _ => Ok(written),
        }
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`Error::Again`] before the peer has accepted; why not, when it has gone or has refused.
    pub fn stream_shut_down(&mut self, id: StreamId) -> Result<(), Error> {
        self.state.streams.shut_down(id)?;
        self.settle_and_flush();
        Ok(())
    }

    /// Ends a stream at once, both ways: who reads or writes is told [`Error::Canceled`]. It stays, to be closed.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a stream.
    pub fn stream_abort(&mut self, id: StreamId) -> Result<(), Error> {
        self.state.streams.abort(id)?;
        self.settle_and_flush();
        Ok(())
    }

    /// Ends a stream: what was written before still goes out, what comes is not read.
    /// Returns the queues that have ended with it.
    pub fn stream_close(&mut self, id: StreamId) -> Bells {
        let Some((peer, bells)) = self.state.streams.close(id) else { return Bells::default() };
        self.drop_bells(bells);
        self.close(peer);
        self.settle_and_flush();
        bells
    }

    /// What can be done to a stream without waiting.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a stream.
    pub fn stream_ready(&self, id: StreamId) -> Result<Ready, Error> {
        self.state.streams.ready(id)
    }

    /// Whether a stream can be accepted without waiting.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a listener.
    pub fn listener_ready(&self, id: ListenerId) -> Result<Ready, Error> {
        self.state.streams.listener_ready(id)
    }

    /// The queue that gets an entry when anything changes for a stream.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a stream.
    pub fn stream_bell(&mut self, id: StreamId) -> Result<CqId, Error> {
        let known = self.state.streams.bells(id).ok_or(Error::Handle)?.any;
        let bell = known.unwrap_or_else(|| self.create_cq(1));
        self.state.streams.bells(id).ok_or(Error::Handle)?.any = Some(bell);
        Ok(bell)
    }

    /// The same for a listener.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a listener.
    pub fn listener_bell(&mut self, id: ListenerId) -> Result<CqId, Error> {
        let known = self.state.streams.listener_bells(id).ok_or(Error::Handle)?.any;
        let bell = known.unwrap_or_else(|| self.create_cq(1));
        self.state.streams.listener_bells(id).ok_or(Error::Handle)?.any = Some(bell);
        Ok(bell)
    }

    /// The queue of [`Self::stream_bell`], if it was ever asked for.
    pub fn known_stream_bell(&mut self, id: StreamId) -> Option<CqId> {
        self.state.streams.bells(id).and_then(|bells| bells.any)
    }

    /// The same of a listener.
    pub fn known_listener_bell(&mut self, id: ListenerId) -> Option<CqId> {
        self.state.streams.listener_bells(id).and_then(|bells| bells.any)
    }

    fn new_bells(&mut self) -> Bells {
        Bells { input: Some(self.create_cq(1)), output: Some(self.create_cq(1)), any: None }
    }

    fn drop_bells(&mut self, bells: Bells) {
        for cq in [bells.input, bells.output, bells.any].into_iter().flatten() {
            self.destroy_cq(cq);
        }
    }

    /// One more stream that uses a peer.
    fn hold(&mut self, peer: PeerId) {
        if let Some(p) = self.state.peers.get_mut(peer.index()) {
            p.handles += 1;
            p.counts.cells.streams.add(1);
        }
    }

    pub(super) fn settle_and_flush(&mut self) {
        self.state.settle_streams();
        if self.state.has_deferred_work() {
            self.flush();
        }
    }

    /// Most bytes in one frame of a stream to a peer, when so many are to be sent.
    fn chunk_for(&self, peer: PeerId, len: usize) -> usize {
        let rail = self.state.peers.get(peer.index()).and_then(|p| self.rails.get(p.rail));
        match rail.map_or(0, |rail| rail.capabilities().max_inline) {
            inline if len <= inline * INLINE_FRAMES => inline.min(self.state.stream_chunk),
            _ => self.state.stream_chunk,
        }
    }

    /// Sends bytes at once, if nothing stands in line before them and the rail has room. Whether they have gone.
    fn post_bytes(&mut self, room: &Room, bytes: &[u8]) -> bool {
        let message = Message::Bytes { stream: room.remote };
        let Some(p) = self.state.peers.get_mut(room.peer.index()) else { return true };
        if may_go_now(p) {
            // SAFETY: the bytes are borrowed for the call, and nothing writes them: a rail only reads what it posts. One that
            // would read after the call is not asked.
            let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
            if self.rails[p.rail].post(p.link, &message.frame(Gather::one(&iov))) == Posted::Done {
                p.lead.grow(bytes.len());
                return true;
            }
        }
        false
    }

    /// Puts a copy of the bytes in line.
    fn put_in_line(&mut self, id: StreamId, room: &Room, bytes: &[u8]) {
        let Some(p) = self.state.peers.get_mut(room.peer.index()) else { return };
        let message = Message::Bytes { stream: room.remote };
        p.lines.push_back(Line { stream: id, message, payload: bytes.into() });
        self.state.schedule(room.peer);
    }

    /// The next frame of a stream, or the next message in order, by turns.
    pub(super) fn flush_in_order(&mut self, peer: PeerId) -> Step {
        let p = &mut self.state.peers[peer.index()];
        if p.lines.is_empty() {
            return self.flush_message(peer);
        }
        p.line_first = !p.line_first;
        let line_first = p.line_first;
        let first = if line_first { self.flush_line(peer) } else { self.flush_message(peer) };
        match first {
            Step::Idle if line_first => self.flush_message(peer),
            Step::Idle => self.flush_line(peer),
            step => step,
        }
    }

    fn flush_line(&mut self, peer: PeerId) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(line) = p.lines.front_mut() else { return Step::Idle };
        let len = line.payload.len();
        // SAFETY: the bytes are ours, and stay where they are until the rail is finished with them: see `lines_in_rail`.
        let iov = unsafe { Iov::new(line.payload.as_mut_ptr(), len) };
        let posted = self.rails[p.rail].post(p.link, &line.message.frame(Gather::one(&iov)));
        if matches!(posted, Posted::NoResource | Posted::Down) {
            return Step::Full;
        }
        let Some(line) = p.lines.pop_front() else { return Step::Idle };
        let stream = line.stream;
        match posted {
            Posted::Failed(error) => self.state.streams.fail(stream, error),
            Posted::Accepted(token) => {
                self.state.lines_in_rail.insert((peer, token), line);
            }
            _ => {}
        }
        p.lead.grow(len);
        let of_bytes = matches!(posted, Posted::Done | Posted::Accepted(_)).then_some(len);
        self.state.streams.left_line(stream, of_bytes.unwrap_or(0));
        self.state.settle_streams();
        Step::Moved(len)
    }
}

impl State {
    /// Passes on what streams want said, and wakes who waits for them.
    pub(super) fn settle_streams(&mut self) {
        self.concealed.append(&mut self.streams.concealed);
        while let Some(say) = self.streams.says.pop_front() {
            match say {
                Say::Now(peer, message) => self.say(peer, message),
                Say::InLine(peer, line) => {
                    if let Some(p) = self.peers.get_mut(peer.index()).filter(|p| p.error().is_none()) {
                        p.lines.push_back(line);
                        self.schedule(peer);
                    }
                }
            }
        }
        for cq in self.streams.rings.drain(..) {
            if let Some(queue) = self.cqs.get_mut(cq) {
                queue.ring();
            }
        }
    }

    /// Takes what a peer says about a stream, over a rail.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`]: the peer is to be cut off.
    pub(super) fn take_said(
        &mut self,
        (peer, rail): (PeerId, usize),
        stream: u64,
        said: Said,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let is_call = matches!(said, Said::Open { .. }) && self.gate.is_some();
        let service = is_call.then(|| self.streams.listened_for(payload)).flatten();
        let refused = service.and_then(|service| self.admit_stream(peer, &service, Some(rail)).err());
        let taken = match refused {
            Some(_) => {
                self.streams.refuse(peer, stream, Error::Permission);
                Ok(())
            }
            None => self.streams.take_said(peer, stream, said, payload),
        };
        self.settle_streams();
        taken
    }

    /// A peer has gone: so have its streams.
    pub(super) fn end_streams(&mut self, peer: PeerId, error: Error) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.lines.clear();
        }
        self.lines_in_rail.retain(|(of, _), _| *of != peer);
        self.streams.peer_gone(peer, error);
        self.settle_streams();
    }
}

/// Whether nothing stands before bytes of a stream, and they are done when posted.
pub(super) fn may_go_now(p: &Peer) -> bool {
    p.state == PeerState::Up
        && !p.keeps_memory
        && p.urgent.is_empty()
        && p.lines.is_empty()
        && (p.bulk.is_empty() || !p.lead.is_used_up())
}

/// Most bytes of a stream in one frame that any of these rails carries: what one has lost another may have to repeat.
pub(super) fn chunk_of<R: Rail>(rails: &[R]) -> usize {
    rails
        .iter()
        .map(|rail| rail.capabilities().max_segment)
        .min()
        .unwrap_or(CHUNK_BYTES)
        .clamp(1, CHUNK_BYTES)
}
