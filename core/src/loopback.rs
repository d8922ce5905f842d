//! The loopback rail: fabrics of one process, and a fabric with itself.
//!
//! Rails that share a [`Hub`] reach one another. Frames are encoded as on a byte stream, so that whoever tests over
//! loopback tests the codec too; large messages are fetched straight from the sender's memory. Time on the hub only
//! moves when somebody moves it, which is how the protocol is tested in virtual time.

mod cut;
mod paths;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{
    Armed, Capabilities, LinkId, Offered, PathId, PeerId, Posted, Rail, Refusal, RemoteSource, Sink,
};
use crate::region::{Access, RemoteKey, Watch, Window};
use crate::ring::bell::Order;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;
use crate::wire::{is_sequenced, Address, Frame, Header, Incoming, Kind, NodeId};
use cut::{Books, Connections};
use paths::Roads;

pub use cut::Cut;

/// How long a call over rails that retain waits for its answer.
const CALL_NS: u64 = 1_000_000_000;
/// Frames that may wait for one receiver from one sender.
const DEPTH: usize = 128;

/// Where loopback rails meet.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    shared: Arc<Mutex<Shared>>,
    latency_ns: u64,
    name: Option<&'static str>,
    process: Option<u32>,
    without_get: bool,
    places: bool,
    retains: bool,
    proves: bool,
    /// Longest segment and longest whole message, where that is not what is usual.
    segment: Option<u16>,
    eager: Option<u16>,
}

#[derive(Debug, Default)]
struct Shared {
    now: Time,
    /// What is on its way to each node, in order.
    queues: HashMap<NodeId, VecDeque<Sent>>,
    /// The incarnation of each node.
    incarnations: HashMap<NodeId, u64>,
    connections: Connections,
    roads: Roads,
    /// Frames on their way from the first to the second.
    under_way: HashMap<(NodeId, NodeId), usize>,
    exposed: HashMap<u64, Exposed>,
    next_rkey: u64,
    /// Regions that windows may be opened over, by owner and number.
    regions: HashMap<(NodeId, u64), Shown>,
}

/// A region that windows may be opened over.
#[derive(Debug)]
struct Shown {
    base: *mut u8,
    len: u64,
    access: Access,
    /// Its number as long as it lives.
    live: Arc<AtomicU64>,
    /// What those announce who have a window.
    announced: Vec<Arc<AtomicU64>>,
}

// SAFETY: the address is only used through windows, while the owner waits until nobody is inside before the memory goes.
unsafe impl Send for Shown {}

/// Something on its way.
#[derive(Debug)]
struct Sent {
    at: Time,
    from: NodeId,
    connection: u64,
    parcel: Parcel,
}

#[derive(Debug)]
enum Parcel {
    Call { incarnation: u64 },
    Answer,
    Refused(Refusal),
    Frame(Vec<u8>),
    Goodbye,
}

#[derive(Debug)]
struct Exposed {
    node: NodeId,
    base: *mut u8,
    len: usize,
}

// SAFETY: the address is only used under the hub's lock, while the exposing operation promises that the memory is
// readable from any thread (`Iov::new`).
unsafe impl Send for Exposed {}

impl Hub {
    /// A hub on which everything arrives at once.
    pub fn new() -> Hub {
        Hub::default()
    }

    /// A hub on which everything takes `ns` of its own time.
    pub fn with_latency(ns: u64) -> Hub {
        Hub { latency_ns: ns, ..Hub::default() }
    }

    /// The same hub with rails of another name.
    pub fn named(self, name: &'static str) -> Hub {
        Hub { name: Some(name), ..self }
    }

    /// The same hub, whose rails are all in the process of this number.
    pub fn of_process(self, process: u32) -> Hub {
        Hub { process: Some(process), ..self }
    }

    /// The same hub, whose rails reach no memory of peers: large messages go in segments, and regions are reached by
    /// messages.
    pub fn without_get(self) -> Hub {
        Hub { without_get: true, ..self }
    }

    /// The same hub, whose rails put segments straight to their place, in parts, as rails over byte streams do.
    pub fn placing(self) -> Hub {
        Hub { places: true, ..self }
    }

    /// The same hub, whose connections can be [cut](Self::cut); its rails retain, and reach no memory of peers.
    pub fn retaining(self) -> Hub {
        Hub { retains: true, ..self.without_get() }
    }

    /// The same hub, whose rails know who their peers are, and do not just believe them.
    pub fn proving(self) -> Hub {
        Hub { proves: true, ..self }
    }

    /// The same hub, whose rails reach memory of peers, also when they retain.
    pub fn with_get(self) -> Hub {
        Hub { without_get: false, ..self }
    }

    /// The same hub with rails that carry segments, and parts of puts, of at most `len` bytes.
    pub fn with_segments(self, len: u16) -> Hub {
        Hub { segment: Some(len), ..self }
    }

    /// The same hub with rails that carry whole messages of at most `len` bytes.
    pub fn with_eager(self, len: u16) -> Hub {
        Hub { eager: Some(len), ..self }
    }

    /// Cuts the connection between two nodes; false when there is none.
    pub fn cut(&self, a: NodeId, b: NodeId, how: Cut) -> bool {
        let mut shared = self.lock();
        let notice = how.unnoticed_ns.map(|ns| shared.now.after(ns));
        let now = shared.now;
        let Some(connection) = shared.connections.cut(now, a, b, notice) else { return false };
        for (from, to, arrives) in [(a, b, how.arrives[0]), (b, a, how.arrives[1])] {
            shared.lose(from, to, connection, arrives);
        }
        true
    }

    /// From now on no connection between two nodes can be made, or one can again.
    pub fn part(&self, a: NodeId, b: NodeId, parted: bool) {
        self.lock().connections.part(a, b, parted);
    }

    /// Moves the time on; returns the new time.
    pub fn advance(&self, ns: u64) -> Time {
        let mut shared = self.lock();
        shared.now = shared.now.after(ns);
        shared.now
    }

    /// A rail for the fabric at `local`.
    pub fn rail(&self, local: &Address) -> LoopbackRail {
        {
            let mut shared = self.lock();
            shared.queues.insert(local.node, VecDeque::new());
            shared.incarnations.insert(local.node, local.incarnation);
        }
        let mut capabilities = Capabilities::minimal();
        capabilities.max_eager = self.eager.map_or(8192, usize::from);
        capabilities.max_segment = self.segment.map_or(65536, usize::from);
        capabilities.max_iov = usize::MAX;
        capabilities.get = !self.without_get;
        capabilities.put = !self.without_get;
        capabilities.atomics = !self.without_get;
        capabilities.can_lose_connection = self.retains;
        capabilities.retains = self.retains;
        capabilities.proves = self.proves;
        capabilities.latency_ns = u32::try_from(self.latency_ns).unwrap_or(u32::MAX);
        capabilities.bandwidth = 10_000_000_000;
        LoopbackRail { hub: self.clone(), local: *local, capabilities, links: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // What the lock protects is consistent between any two statements: a panic elsewhere does not spoil it.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, from: NodeId, to: NodeId, connection: u64, parcel: Parcel) -> bool {
        let mut shared = self.lock();
        let at = shared.now.after(self.latency_ns);
        let Shared { connections, queues, under_way, .. } = &mut *shared;
        let Some(queue) = queues.get_mut(&to) else {
            return false;
        };
        if connections.is_cut(connection) {
            return true;
        }
        if matches!(parcel, Parcel::Frame(_)) {
            *under_way.entry((from, to)).or_default() += 1;
        }
        queue.push_back(Sent { at, from, connection, parcel });
        true
    }
}

impl Shared {
    /// Loses what is on its way over a connection, but for the first so many parcels.
    fn lose(&mut self, from: NodeId, to: NodeId, connection: u64, arrives: usize) {
        let Some(queue) = self.queues.get_mut(&to) else { return };
        let (mut seen, mut lost) = (0, 0);
        queue.retain(|sent| {
            if sent.connection != connection || sent.from != from {
                return true;
            }
            seen += 1;
            lost += usize::from(seen > arrives && matches!(sent.parcel, Parcel::Frame(_)));
            seen <= arrives
        });
        if let Some(count) = self.under_way.get_mut(&(from, to)) {
            *count -= lost;
        }
    }
}

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
        let mut pieces = memory.pieces();
        let (base, len) = pieces.next()?;
        if pieces.next().is_some() {
            return None;
        }
        let mut shared = self.hub.lock();
        shared.next_rkey += 1;
        let rkey = shared.next_rkey;
        shared.exposed.insert(rkey, Exposed { node: self.local.node, base, len });
        Some(RemoteSource { rkey, address: 0 })
    }

    fn conceal(&mut self, _link: LinkId, source: RemoteSource) {
        self.hub.lock().exposed.remove(&source.rkey);
    }

    fn get(&mut self, _link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        let shared = self.hub.lock();
        let Some(exposed) = shared.exposed.get(&from.rkey) else {
            return Posted::Down;
        };
        let Ok(start) = usize::try_from(from.address) else {
            return Posted::Down;
        };
        if start.checked_add(to.len()).is_none_or(|end| end > exposed.len) {
            return Posted::Down;
        }
        // SAFETY: inside memory that its operation promises to be readable until it is concealed, which takes the lock
        // that is held here.
        let bytes = unsafe { PeerBytes::raw(exposed.base.add(start), to.len()) };
        bytes.copy_to(to);
        Posted::Done
    }

    fn offer(&mut self, region: &Offered) -> Result<u64, Refusal> {
        // Memory that may be gone is reached by messages, whose execution is guarded.
        if !self.capabilities.put || region.may_fault {
            return Ok(0);
        }
        let Offered { number, base, len, access, .. } = *region;
        let live = Arc::new(AtomicU64::new(number));
        let shown = Shown { base, len, access, live, announced: Vec::new() };
        self.hub.lock().regions.insert((self.local.node, number), shown);
        Ok(0)
    }

    fn withdraw(&mut self, number: u64, _record: u64) -> bool {
        let mut shared = self.hub.lock();
        let place = (self.local.node, number);
        let Some(shown) = shared.regions.get(&place) else { return true };
        shown.live.store(0, Ordering::Relaxed);
        if shown.announced.iter().any(|word| Watch::is_inside(word, number)) {
            return false;
        }
        shared.regions.remove(&place);
        true
    }

    fn window(&mut self, link: LinkId, key: &RemoteKey) -> Option<Window> {
        let node = self.links.get(link.0 as usize).filter(|link| link.up && !link.over)?.node;
        let mut shared = self.hub.lock();
        let shown = shared.regions.get_mut(&(node, key.number))?;
        let announced = Arc::new(AtomicU64::new(0));
        shown.announced.push(announced.clone());
        let keep = Arc::new((shown.live.clone(), announced.clone()));
        // SAFETY: `keep` holds both words, of which this watch alone uses the second. The region's memory stays until
        // `withdraw` has found nobody inside, and the watch lets nobody in afterwards.
        unsafe {
            let watch = Watch::new(key.number, &*shown.live, &*announced, Order::Fence, keep.clone());
            Some(Window::new(shown.base, shown.len, shown.access, watch, keep))
        }
    }

    fn arm(&mut self) -> Armed {
        let shared = self.hub.lock();
        let now = shared.now;
        let due = |queue: &VecDeque<Sent>| queue.front().is_some_and(|sent| sent.at <= now);
        if shared.queues.get(&self.local.node).is_some_and(due) {
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
            // The operations that exposed the memory end with the fabric, and with them the promise about it.
            shared.exposed.retain(|_, exposed| exposed.node != self.local.node);
            shared.regions.retain(|(node, _), shown| {
                let stays = *node != self.local.node;
                if !stays {
                    shown.live.store(0, Ordering::Relaxed);
                }
                stays
            });
        }
        for link in self.links.iter().filter(|link| !link.over) {
            self.hub.send(self.local.node, link.node, link.connection, Parcel::Goodbye);
        }
    }
}
