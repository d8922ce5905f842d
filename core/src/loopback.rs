//! The loopback rail: fabrics of one process, and a fabric with itself.
//!
//! Rails that share a [`Hub`] reach one another. Frames are encoded as on a byte stream, so that whoever tests over
//! loopback tests the codec too; large messages are fetched straight from the sender's memory. Time on the hub only
//! moves when somebody moves it, which is how the protocol is tested in virtual time.

mod cut;
mod hub;
mod late;
mod memory;
mod paths;

use std::collections::VecDeque;

use crate::error::Error;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{
    Armed, Capabilities, LinkId, Offered, PathId, PeerId, Posted, Rail, Refusal, RemoteSource, Sink,
};
use crate::region::{RemoteKey, Window};
use crate::time::Time;
use crate::wire::{is_sequenced, Address, Frame, Header, Incoming, Kind, NodeId};
use cut::Books;
use hub::{Parcel, Sent};
use late::Late;

pub use cut::Cut;
pub use hub::Hub;

/// How long a call over rails that retain waits for its answer.
const CALL_NS: u64 = 1_000_000_000;
/// Frames that may wait for one receiver from one sender.
const DEPTH: usize = 128;

#[derive(Debug)]
struct Link {
    peer: PeerId,
    node: NodeId,
    up: bool,
    over: bool,
    connection: u64,
    /// When it was called for.
    since: Time,
    /// How long it had been cut when that was noticed.
    silent_ns: u64,
    books: Books,
}

impl Link {
    fn new(peer: PeerId, node: NodeId, connection: u64, since: Time) -> Link {
        Link { peer, node, up: false, over: false, connection, since, silent_ns: 0, books: Books::default() }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct LoopbackRail {
    hub: Hub,
    local: Address,
    capabilities: Capabilities,
    links: Vec<Link>,
    late: Late,
}

impl LoopbackRail {
    fn link_to(&mut self, node: NodeId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.node == node && !link.over)
    }

    fn next(&self) -> Option<(NodeId, u64, Parcel)> {
        let mut shared = self.hub.lock();
        let now = shared.now;
        let queue = shared.queues.get_mut(&self.local.node)?;
        let Sent { from, connection, parcel, .. } = queue.pop_front_if(|sent| sent.at <= now)?;
        if matches!(parcel, Parcel::Frame(_)) {
            if let Some(count) = shared.under_way.get_mut(&(from, self.local.node)) {
                *count = count.saturating_sub(1);
            }
        }
        Some((from, connection, parcel))
    }

    fn take_call<S: Sink>(&mut self, from: NodeId, connection: u64, incarnation: u64, sink: &mut S) {
        if self.hub.retains && self.link_to(from).is_some_and(|link| link.up) {
            // The peer calls anew: it has lost the link that is still up here.
            self.break_link(from, sink);
        }
        let Some(link) = self.link_to(from) else {
            let id = LinkId(self.links.len() as u32);
            match sink.accept(id, from, incarnation) {
                Ok(peer) => self.links.push(Link::new(peer, from, connection, self.hub.lock().now)),
                Err(refusal) => {
                    self.hub.send(self.local.node, from, connection, Parcel::Refused(refusal));
                    return;
                }
            }
            self.hub.send(self.local.node, from, connection, Parcel::Answer);
            return self.set_up(from, sink);
        };
        // Both have called: one of the calls is the connection.
        link.connection = link.connection.min(connection);
        self.set_up(from, sink);
    }

    fn set_up<S: Sink>(&mut self, from: NodeId, sink: &mut S) {
        let own = self.local.node;
        if let Some(link) = self.link_to(from).filter(|link| !link.up) {
            link.up = true;
            let (peer, connection) = (link.peer, link.connection);
            self.hub.lock().connections.note_up(own, from, connection);
            sink.up(peer);
        }
    }

    /// A connection was lost.
    fn break_link<S: Sink>(&mut self, from: NodeId, sink: &mut S) {
        let Some(at) = self.links.iter().position(|link| link.node == from && !link.over) else { return };
        let link = &mut self.links[at];
        link.over = true;
        if link.up {
            sink.broken(link.peer, LinkId(at as u32), Refusal::new(Error::Unreachable, "the link was cut"));
        } else {
            let why = Refusal::new(Error::Unreachable, "the call was lost");
            sink.down(link.peer, LinkId(at as u32), why);
        }
    }

    fn notice_cuts<S: Sink>(&mut self, sink: &mut S) -> usize {
        let noticed: Vec<NodeId> = {
            let shared = self.hub.lock();
            let own = self.local.node;
            let is_noticed =
                |link: &&Link| !link.over && shared.connections.is_noticed(link.connection, own, shared.now);
            self.links.iter().filter(is_noticed).map(|link| link.node).collect()
        };
        for node in &noticed {
            let hub = self.hub.clone();
            if let Some(link) = self.link_to(*node) {
                let shared = hub.lock();
                link.silent_ns = shared.connections.silent_ns(link.connection, shared.now);
            }
            self.break_link(*node, sink);
        }
        noticed.len()
    }

    /// Gives up calls that nobody answers: the peer's side of the hub is there, but nobody looks.
    fn expire_calls<S: Sink>(&mut self, sink: &mut S) {
        let now = self.hub.lock().now;
        for (index, link) in (0..).zip(&mut self.links) {
            if !link.over && !link.up && now > link.since.after(CALL_NS) {
                link.over = true;
                let why = Refusal::new(Error::Timeout, "the peer does not answer");
                sink.down(link.peer, LinkId(index), why);
            }
        }
    }

    /// Counts a frame that was delivered, and tells the peer now and then.
    fn note_delivered(&mut self, from: NodeId, kind: u8) {
        let (hub, own) = (self.hub.clone(), self.local.node);
        let Some(link) = self.link_to(from).filter(|_| hub.retains && is_sequenced(kind)) else { return };
        link.books.delivered += 1;
        let mut shared = hub.lock();
        let is_last = shared.queues.get(&own).is_none_or(VecDeque::is_empty);
        if is_last || link.books.delivered % 8 == 0 {
            shared.connections.acknowledge(link.connection, own, link.books.delivered);
        }
    }

    fn take_frame<S: Sink>(&mut self, from: NodeId, connection: u64, bytes: &[u8], sink: &mut S) {
        let retains = self.hub.retains;
        let Some(link) = self.link_to(from) else { return };
        if retains && link.connection != connection {
            // What an earlier connection still had.
            return;
        }
        let peer = link.peer;
        let delivered = match Header::parse(bytes) {
            Ok(Some((header, len))) => {
                let payload = bytes.get(len..).unwrap_or_default();
                match header.kind == Kind::Segment as u8 && self.hub.places {
                    true => place_segment(peer, &header, payload, sink),
                    false => sink.frame(peer, incoming(&header, payload)),
                }
            }
            Ok(None) | Err(_) => Err(Error::PeerMisbehaved),
        };
        match delivered {
            Ok(()) => self.note_delivered(from, bytes.get(4).copied().unwrap_or(0)),
            Err(error) => self.misbehaved(from, error, sink),
        }
    }

    fn misbehaved<S: Sink>(&mut self, from: NodeId, error: Error, sink: &mut S) {
        let connection = self.connection_to(from).unwrap_or_default();
        self.end(from, sink, Refusal::new(error, "frame that breaks the protocol"));
        self.hub.send(self.local.node, from, connection, Parcel::Goodbye);
    }

    fn end<S: Sink>(&mut self, from: NodeId, sink: &mut S, reason: Refusal) {
        let at = self.links.iter().position(|link| link.node == from && !link.over);
        if let Some((at, link)) = at.and_then(|at| Some((at, self.links.get_mut(at)?))) {
            link.over = true;
            sink.down(link.peer, LinkId(at as u32), reason);
        }
    }
}

/// A frame as on a byte stream; none for one that cannot be.
fn encoded(frame: &Frame<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64 + frame.payload.len());
    Header::of(frame).and_then(|header| header.encode(&mut bytes)).ok()?;
    let start = bytes.len();
    bytes.resize(start + frame.payload.len(), 0);
    // SAFETY: the vector has just been made long enough; it is private.
    unsafe { frame.payload.copy_out(bytes.as_mut_ptr().add(start)) };
    Some(bytes)
}

fn incoming<'a>(header: &Header, payload: &'a [u8]) -> Incoming<'a> {
    let Header { kind, flags, word, extension, .. } = *header;
    Incoming { kind, flags, word, extension, payload: PeerBytes::from_slice(payload) }
}

/// Hands a segment over in parts, as byte streams do: some are read to their place, some came with what was before them, and lie
/// in the rail's memory.
fn place_segment<S: Sink>(peer: PeerId, header: &Header, payload: &[u8], sink: &mut S) -> Result<(), Error> {
    let mut header = *header;
    let mut rest = payload;
    loop {
        let (op, offset) = (header.word, header.extension[0]);
        let (part, behind) = rest.split_at(rest.len().div_ceil(2));
        let is_here = rest.len().is_multiple_of(3);
        let place = if is_here { None } else { sink.place(peer, op, offset, rest.len()) };
        match place.map(|place| PeerBytes::from_slice(part).copy_to(&place)) {
            Some(len) => sink.placed(peer, op, offset, len)?,
            None => sink.frame(peer, incoming(&header, part))?,
        }
        rest = behind;
        header.extension[0] = offset.wrapping_add(part.len() as u64);
        if rest.is_empty() {
            return Ok(());
        }
    }
}

impl LoopbackRail {
    /// A number for a connection that is to be made.
    fn admit_call(&self, address: &Address) -> Result<u64, Refusal> {
        let mut shared = self.hub.lock();
        if !self.hub.retains {
            return Ok(shared.connections.number());
        }
        if shared.connections.are_parted(self.local.node, address.node) {
            return Err(Refusal::new(Error::Unreachable, "no way leads there"));
        }
        let incarnation = shared.incarnations.get(&address.node);
        if incarnation.is_some_and(|known| *known != address.incarnation) {
            return Err(Refusal::new(Error::PeerGone, "unknown incarnation"));
        }
        let knew = self.links.iter().any(|link| link.node == address.node);
        if knew && !shared.queues.contains_key(&address.node) {
            return Err(Refusal::new(Error::PeerGone, "the peer's host refuses the connection"));
        }
        Ok(shared.connections.number())
    }

    fn poll_links<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        let mut taken = if self.hub.retains { self.notice_cuts(sink) } else { 0 };
        while taken < budget {
            let Some((from, connection, parcel)) = self.next() else { break };
            taken += 1;
            match parcel {
                Parcel::Call { incarnation } => self.take_call(from, connection, incarnation, sink),
                Parcel::Frame(bytes) => self.take_frame(from, connection, &bytes, sink),
                // What an earlier connection still had.
                _ if self.hub.retains && self.connection_to(from) != Some(connection) => {}
                Parcel::Answer => self.set_up(from, sink),
                Parcel::Refused(refusal) => self.end(from, sink, refusal),
                Parcel::Goodbye => {
                    self.end(from, sink, Refusal::new(Error::PeerGone, "the peer has closed its fabric"))
                }
            }
        }
        if self.hub.retains {
            taken += self.poll_paths(sink);
        }
        if !self.late.is_empty() {
            taken += self.finish_late(sink);
        }
        taken
    }

    fn connection_to(&mut self, node: NodeId) -> Option<u64> {
        self.link_to(node).map(|link| link.connection)
    }
}

impl Rail for LoopbackRail {
    fn name(&self) -> &'static str {
        self.hub.name.unwrap_or("loopback")
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        let own = address.node == self.local.node;
        let connection = self.admit_call(address)?;
        let parcel = if own { Parcel::Answer } else { Parcel::Call { incarnation: self.local.incarnation } };
        if !self.hub.send(self.local.node, address.node, connection, parcel) {
            let why = "the address is not this fabric's own, nor of a fabric that shares its hub";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        let id = LinkId(self.links.len() as u32);
        let now = self.hub.lock().now;
        self.links.push(Link::new(peer, address.node, connection, now));
        Ok(id)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(link) = self.links.get_mut(link.0 as usize).filter(|link| !link.over) else {
            return Posted::Down;
        };
        if !link.up {
            return Posted::NoResource;
        }
        let way = (self.local.node, link.node);
        let connection = link.connection;
        {
            let shared = self.hub.lock();
            if shared.under_way.get(&way).is_some_and(|count| *count >= DEPTH) {
                return Posted::NoResource;
            }
            link.books.settle(shared.connections.acknowledged(connection, way.1));
        }
        if link.books.is_full(connection) {
            return Posted::NoResource;
        }
        let Some(bytes) = encoded(frame) else { return Posted::Down };
        if self.hub.retains {
            link.books.keep(frame.kind as u8, &bytes);
        }
        if self.hub.send(way.0, way.1, connection, Parcel::Frame(bytes)) {
            Posted::Done
        } else {
            Posted::Down
        }
    }

    fn ahead_len(&mut self, link: LinkId) -> usize {
        let Some(link) = self.links.get(link.0 as usize).filter(|link| link.up && !link.over) else {
            return 0;
        };
        let shared = self.hub.lock();
        let has_room =
            shared.under_way.get(&(self.local.node, link.node)).is_none_or(|count| *count + 2 <= DEPTH);
        if self.hub.goes_ahead && has_room {
            self.capabilities.max_segment
        } else {
            0
        }
    }

    fn post_ahead(&mut self, link: LinkId, announcement: &Frame<'_>, segment: &Frame<'_>) -> Posted {
        if self.ahead_len(link) < segment.payload.len() {
            return Posted::NoResource;
        }
        if self.post(link, announcement) != Posted::Done {
            return Posted::NoResource;
        }
        // What is asked for anew when a link breaks need not be kept, and room for it there was.
        if let Some((link, bytes)) = self.links.get(link.0 as usize).zip(encoded(segment)) {
            self.hub.send(self.local.node, link.node, link.connection, Parcel::Frame(bytes));
        }
        Posted::Done
    }

    fn post_segment(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        self.post_on(path, frame)
    }

    #[inline(always)]
    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        if self.links.is_empty() {
            return 0;
        }
        self.poll_links(budget, sink)
    }

    fn maintain<S: Sink>(&mut self, _now: Time, sink: &mut S) -> usize {
        if self.hub.retains {
            self.expire_calls(sink);
        }
        // Calls come while there is no link yet, when `poll` does not look.
        if !self.links.is_empty() {
            return 0;
        }
        match self.next() {
            Some((from, connection, Parcel::Call { incarnation })) => {
                self.take_call(from, connection, incarnation, sink);
                1
            }
            _ => 0,
        }
    }

    fn expose(&mut self, _link: LinkId, memory: &Gather<'_>) -> Option<RemoteSource> {
        self.hub.lock().memory.expose(self.local.node, memory)
    }

    fn conceal(&mut self, _link: LinkId, source: RemoteSource) {
        self.hub.lock().memory.conceal(source);
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        if self.hub.is_late {
            return self.late.begin(link, from, to);
        }
        if self.hub.lock().memory.get(from, to) {
            Posted::Done
        } else {
            Posted::Down
        }
    }

    fn pulls(&self, _link: LinkId) -> bool {
        self.capabilities.get && !self.hub.is_late
    }

    fn abort_get(&mut self, _link: LinkId, token: u64) {
        self.late.abort(token);
    }

    fn offer(&mut self, region: &Offered) -> Result<u64, Refusal> {
        // Memory that may be gone is reached by messages, whose execution is guarded.
        if !self.capabilities.put || region.may_fault {
            return Ok(0);
        }
        self.hub.lock().memory.offer(self.local.node, region);
        Ok(0)
    }

    fn withdraw(&mut self, number: u64, _record: u64) -> bool {
        self.hub.lock().memory.withdraw(self.local.node, number)
    }

    fn window(&mut self, link: LinkId, key: &RemoteKey) -> Option<Window> {
        let node = self.links.get(link.0 as usize).filter(|link| link.up && !link.over)?.node;
        self.hub.lock().memory.window(node, key.number)
    }

    fn arm(&mut self) -> Armed {
        let shared = self.hub.lock();
        let now = shared.now;
        let due = |queue: &VecDeque<Sent>| queue.front().is_some_and(|sent| sent.at <= now);
        if shared.queues.get(&self.local.node).is_some_and(due) || !self.late.is_empty() {
            Armed::Busy
        } else {
            Armed::Yes
        }
    }

    fn disarm(&mut self) {}

    fn process(&self, _link: LinkId) -> Option<u32> {
        self.hub.process
    }

    fn disconnect(&mut self, link: LinkId) {
        let Some(link) = self.links.get_mut(link.0 as usize) else { return };
        link.books = Books::default();
        if !link.over {
            link.over = true;
            self.hub.send(self.local.node, link.node, link.connection, Parcel::Goodbye);
        }
    }

    fn fence(&mut self, link: LinkId) {
        let Some(link) = self.links.get_mut(link.0 as usize).filter(|link| link.up && !link.over) else {
            return;
        };
        link.over = true;
        let mut shared = self.hub.lock();
        let now = shared.now;
        shared.connections.end(now, link.connection, [self.local.node, link.node]);
    }

    fn silent_ns(&self, link: LinkId) -> u64 {
        self.links.get(link.0 as usize).map_or(0, |link| link.silent_ns)
    }

    fn delivered(&self, link: LinkId) -> u64 {
        self.links.get(link.0 as usize).map_or(0, |link| link.books.delivered)
    }

    fn retained(
        &mut self,
        link: LinkId,
        after: u64,
        each: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        let link = self.links.get_mut(link.0 as usize).ok_or(Error::NotFound)?;
        link.books.settle(self.hub.lock().connections.acknowledged(link.connection, link.node));
        link.books.retained(after, each)
    }
}

impl Drop for LoopbackRail {
    fn drop(&mut self) {
        {
            let mut shared = self.hub.lock();
            shared.queues.remove(&self.local.node);
            shared.memory.forget(self.local.node);
        }
        for link in self.links.iter().filter(|link| !link.over) {
            self.hub.send(self.local.node, link.node, link.connection, Parcel::Goodbye);
        }
    }
}
