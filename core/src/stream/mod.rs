//! Byte streams: who may send how much, what has come, and what is to be said.
//!
//! `Streams` knows all streams and listeners of a fabric. It sends nothing by itself: what is to be said and who is to be woken
//! lies in `Streams::says` and `Streams::rings`, for the engine (`endpoint/streams.rs`) to take. Bytes go from the
//! writer's memory to the rail, when `Streams::room` says how many may.
//!
//! | file | concept |
//! |---|---|
//! | `one.rs` | one stream |
//! | `arrive.rs` | what peers say |
//! | `buffer.rs` | bytes that wait to be read |
//! | `pull.rs` | bytes that wait in their writer's memory |
//! | `gate.rs` | who decides whether a stream may be |

mod arrive;
mod buffer;
mod gate;
mod one;
mod pull;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::{HashMap, VecDeque};

use crate::endpoint::CqId;
use crate::error::Error;
use crate::matching::{Key, Slab};
use crate::mem::{Iov, PeerBytes};
use crate::rail::PeerId;
use crate::wire::{Message, Said, MAX_SERVICE_BYTES};
pub use gate::{Gate, Sought};
use one::One;
pub(crate) use pull::Exposed;

/// A stream, as its fabric knows it. One that was closed names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(Key);

/// A listener, as its fabric knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(Key);

/// Queues that get an entry when something changes for whoever waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bells {
    /// There may be something to be read, or accepted.
    pub input: Option<CqId>,
    /// There may be room to write, or the stream has been accepted or refused.
    pub output: Option<CqId>,
    /// Either.
    pub any: Option<CqId>,
}

/// What can be done without waiting. An error is something that can be told at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// To read, or to accept.
    pub input: bool,
    /// To write.
    pub output: bool,
}

/// Something to be said to a peer.
#[derive(Debug)]
pub(crate) enum Say {
    /// At once: it may overtake what stands in line.
    Now(PeerId, Message),
    /// Behind what was said in line before, with bytes.
    InLine(PeerId, Line),
}

/// A frame of a stream that waits for its turn.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: StreamId,
    pub(crate) message: Message,
    pub(crate) payload: Box<[u8]>,
}

/// Where bytes may go now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) peer: PeerId,
    /// The peer's number of the stream.
    pub(crate) remote: u64,
    /// How many it has room for.
    pub(crate) most: usize,
}

#[derive(Debug)]
struct Listener {
    service: Box<str>,
    /// Streams that nobody has accepted yet.
    waiting: VecDeque<StreamId>,
    most: usize,
    bells: Bells,
}

/// All streams and listeners of a fabric.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Bytes of one stream that may wait to be read.
    window: u32,
    streams: Slab<One>,
    listeners: Slab<Listener>,
    services: HashMap<Box<str>, ListenerId>,
    /// What is to be said, the first first.
    pub(crate) says: VecDeque<Say>,
    /// Queues that are to get an entry.
    pub(crate) rings: Vec<CqId>,
    /// Exposures that are over.
    pub(crate) concealed: Vec<Exposed>,
    /// Bytes that peers are to fetch from the own memory.
    pub(crate) bytes_shown: u64,
}

impl Streams {
    pub(crate) fn new(window: u32) -> Streams {
        Streams {
            window: window.max(1),
            streams: Slab::default(),
            listeners: Slab::default(),
            services: HashMap::new(),
            says: VecDeque::new(),
            rings: Vec::new(),
            concealed: Vec::new(),
            bytes_shown: 0,
        }
    }

    /// Something is to be said, or somebody to be woken.
    pub(crate) fn has_work(&self) -> bool {
        !self.says.is_empty() || !self.rings.is_empty() || !self.concealed.is_empty()
    }

    /// Begins to take calls for a service; at most `most` streams wait for [`Self::accept`].
    pub(crate) fn listen(&mut self, service: &str, most: usize, bells: Bells) -> Result<ListenerId, Error> {
        if !is_service(service) {
            return Err(Error::Invalid);
        }
        if self.services.contains_key(service) {
            return Err(Error::NameInUse);
        }
        let listener = Listener { service: service.into(), waiting: VecDeque::new(), most, bells };
        let id = ListenerId(self.listeners.insert(listener));
        self.services.insert(service.into(), id);
        Ok(id)
    }

    /// The oldest stream that waits to be accepted, with its peer.
    ///
    /// # Errors
    /// [`Error::Again`] when there is none.
    pub(crate) fn accept(&mut self, id: ListenerId, bells: Bells) -> Result<(StreamId, PeerId), Error> {
        let listener = self.listeners.get_mut(id.0).ok_or(Error::Handle)?;
        while let Some(stream) = listener.waiting.pop_front() {
            if let Some(one) = self.streams.get_mut(stream.0) {
                one.bells = bells;
                return Ok((stream, one.peer));
            }
        }
        Err(Error::Again)
    }

    /// Takes no more calls; ends the streams that nobody has accepted. Returns the bells.
    pub(crate) fn close_listener(&mut self, id: ListenerId) -> Bells {
        let Some(listener) = self.listeners.remove(id.0) else { return Bells::default() };
        self.services.remove(&listener.service);
        for stream in listener.waiting {
            self.close(stream);
        }
        listener.bells
    }

    /// The service that a peer asks for, if somebody listens for it.
    pub(crate) fn listened_for(&self, asked: &PeerBytes<'_>) -> Option<String> {
        let name = String::from_utf8(asked.to_vec()).ok()?;
        self.services.contains_key(name.as_str()).then_some(name)
    }

    /// Tells a peer that it gets no stream, by its number.
    pub(crate) fn refuse(&mut self, peer: PeerId, stream: u64, error: Error) {
        let message = Message::Stream { stream, said: Said::Refuse { error } };
        self.says.push_back(Say::Now(peer, message));
    }

    /// Asks a peer for a stream to a service.
    pub(crate) fn connect(&mut self, peer: PeerId, service: &str, bells: Bells) -> Result<StreamId, Error> {
        if !is_service(service) {
            return Err(Error::Invalid);
        }
        let id = StreamId(self.streams.insert(One::calling(peer, self.window, bells)));
        let message = Message::Stream { stream: id.0.to_bits(), said: Said::Open { window: self.window } };
        self.says
            .push_back(Say::InLine(peer, Line { stream: id, message, payload: service.as_bytes().into() }));
        Ok(id)
    }

    /// Whether the peer has accepted.
    ///
    /// # Errors
    /// [`Error::Again`] as long as it has not answered; why not, when it has refused or has gone.
    pub(crate) fn connected(&self, id: StreamId) -> Result<(), Error> {
        let one = self.streams.get(id.0).ok_or(Error::Handle)?;
        match (one.remote, one.failed) {
            (Some(_), _) => Ok(()),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::Again),
        }
    }

    /// Reads what has come: 0 bytes are the end of the stream.
    ///
    /// # Errors
    /// [`Error::Again`] when nothing has come; the peer's error when it has gone, after the last byte.
    pub(crate) fn read(&mut self, id: StreamId, to: &mut [u8]) -> Result<usize, Error> {
        let one = self.streams.get_mut(id.0).ok_or(Error::Handle)?;
        let (len, credit) = one.read(to)?;
        say_credit(&mut self.says, one, credit);
        Ok(len)
    }

    /// What comes goes to this memory from now on, until [`Self::take_back`]; false when that cannot be.
    pub(crate) fn lend(&mut self, id: StreamId, memory: Iov) -> bool {
        self.streams.get_mut(id.0).is_some_and(|one| one.lend(memory))
    }

    /// The end of [`Self::lend`]: how many bytes have come there. Those are read.
    pub(crate) fn take_back(&mut self, id: StreamId) -> usize {
        let Some(one) = self.streams.get_mut(id.0) else { return 0 };
        let (len, credit) = one.take_back();
        say_credit(&mut self.says, one, credit);
        len
    }

    /// Where bytes may go now, and how many.
    ///
    /// # Errors
    /// [`Error::Again`] when none may; [`Error::Closed`] when none will; why not, when the peer has gone or has refused.
    pub(crate) fn room(&self, id: StreamId) -> Result<Room, Error> {
        self.streams.get(id.0).ok_or(Error::Handle)?.room()
    }

    /// So many bytes are on their way, or stand in line.
    pub(crate) fn wrote(&mut self, id: StreamId, len: usize, in_line: bool) {
        if let Some(one) = self.streams.get_mut(id.0) {
            one.wrote(len, in_line);
        }
    }

    /// So many bytes that stood in line are on their way.
    pub(crate) fn left_line(&mut self, id: StreamId, len: usize) {
        if let Some(one) = self.streams.get_mut(id.0) {
            one.left_line(len);
            if len > 0 {
                ring(&mut self.rings, one.bells.output, one.bells.any);
            }
        }
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`Error::Again`] before the peer has accepted; why not, when it has gone or has refused.
    pub(crate) fn shut_down(&mut self, id: StreamId) -> Result<(), Error> {
        let one = self.streams.get_mut(id.0).ok_or(Error::Handle)?;
        if let Some(error) = one.failed {
            return Err(error);
        }
        let stream = one.remote.ok_or(Error::Again)?;
        if !std::mem::replace(&mut one.out_ended, true) {
            let message = Message::Stream { stream, said: Said::End };
            self.says.push_back(Say::InLine(one.peer, Line { stream: id, message, payload: Box::default() }));
            // Another thread that waits to write is told.
            ring(&mut self.rings, one.bells.output, one.bells.any);
        }
        Ok(())
    }

    /// Ends a stream; what was written before still goes out. Returns its peer and its bells.
    pub(crate) fn close(&mut self, id: StreamId) -> Option<(PeerId, Bells)> {
        // Before the peer has accepted, and when it has gone, nothing can be said.
        let _ = self.shut_down(id);
        self.hide(id);
        let one = self.streams.remove(id.0)?;
        if let (Some(stream), None, false) = (one.remote, one.failed, one.in_ended) {
            self.says.push_back(Say::Now(one.peer, Message::Stream { stream, said: Said::Stop }));
        }
        Some((one.peer, one.bells))
    }

    /// Ends a stream at once, both ways: what has come is dropped, and whoever reads or writes is told
    /// [`Error::Canceled`]. What was written before still goes out. It stays, to be closed.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a stream.
    pub(crate) fn abort(&mut self, id: StreamId) -> Result<(), Error> {
        // As in `close`: what cannot be said now is said when the peer accepts, or never.
        let _ = self.shut_down(id);
        let one = self.streams.get_mut(id.0).ok_or(Error::Handle)?;
        if let (Some(stream), None, false) = (one.remote, one.failed, one.in_ended) {
            self.says.push_back(Say::Now(one.peer, Message::Stream { stream, said: Said::Stop }));
        }
        one.abort(&mut self.rings);
        Ok(())
    }

    /// What can be done to a stream.
    pub(crate) fn ready(&self, id: StreamId) -> Result<Ready, Error> {
        Ok(self.streams.get(id.0).ok_or(Error::Handle)?.ready())
    }

    /// What can be done to a listener.
    pub(crate) fn listener_ready(&self, id: ListenerId) -> Result<Ready, Error> {
        let listener = self.listeners.get(id.0).ok_or(Error::Handle)?;
        Ok(Ready { input: !listener.waiting.is_empty(), output: false })
    }

    /// The bells of a stream, to add one.
    pub(crate) fn bells(&mut self, id: StreamId) -> Option<&mut Bells> {
        self.streams.get_mut(id.0).map(|one| &mut one.bells)
    }

    /// The same of a listener.
    pub(crate) fn listener_bells(&mut self, id: ListenerId) -> Option<&mut Bells> {
        self.listeners.get_mut(id.0).map(|listener| &mut listener.bells)
    }

    /// The rail cannot carry what was to be sent.
    pub(crate) fn fail(&mut self, id: StreamId, error: Error) {
        if let Some(one) = self.streams.get_mut(id.0) {
            one.fail(error, &mut self.rings);
        }
    }

    /// The peer has gone: its streams end with this error, after what has come.
    pub(crate) fn peer_gone(&mut self, peer: PeerId, error: Error) {
        for one in self.streams.values_mut().filter(|one| one.peer == peer) {
            one.fail(error, &mut self.rings);
        }
    }
}

/// Whether a service can have this name: 1 to 128 bytes, none of them of control characters.
pub fn is_service(name: &str) -> bool {
    (1..=MAX_SERVICE_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Tells the peer of a stream how many bytes more it may send.
fn say_credit(says: &mut VecDeque<Say>, one: &One, credit: Option<u32>) {
    if let (Some(bytes), Some(stream)) = (credit, one.remote) {
        says.push_back(Say::Now(one.peer, Message::Stream { stream, said: Said::Credit { bytes } }));
    }
}

fn ring(rings: &mut Vec<CqId>, bell: Option<CqId>, any: Option<CqId>) {
    rings.extend(bell.into_iter().chain(any));
}
