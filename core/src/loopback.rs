//! The loopback rail: fabrics of one process, and a fabric with itself.
//!
//! Rails that share a [`Hub`] reach one another. Frames are encoded as on a byte stream, so that whoever tests over
//! loopback tests the codec too; large messages are fetched straight from the sender's memory. Time on the hub only
//! moves when somebody moves it, which is how the protocol is tested in virtual time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{Armed, Capabilities, LinkId, Offered, PeerId, Posted, Rail, Refusal, RemoteSource, Sink};
use crate::region::{Access, RemoteKey, Watch, Window};
use crate::ring::bell::Order;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;
use crate::wire::{Address, Frame, Header, Incoming, Kind, NodeId};

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
}

#[derive(Debug, Default)]
struct Shared {
    now: Time,
    /// What is on its way to each node, in order.
    queues: HashMap<NodeId, VecDeque<(Time, NodeId, Parcel)>>,
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

#[derive(Debug)]
enum Parcel {
    Call { incarnation: u64 },
    Answer,
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

    /// Moves the time on; returns the new time.
    pub fn advance(&self, ns: u64) -> Time {
        let mut shared = self.lock();
        shared.now = shared.now.after(ns);
        shared.now
    }

    /// A rail for the fabric at `local`.
    pub fn rail(&self, local: &Address) -> LoopbackRail {
        self.lock().queues.insert(local.node, VecDeque::new());
        let mut capabilities = Capabilities::minimal();
        capabilities.max_eager = 8192;
        capabilities.max_segment = 65536;
        capabilities.max_iov = usize::MAX;
        capabilities.get = !self.without_get;
        capabilities.put = !self.without_get;
        capabilities.atomics = !self.without_get;
        capabilities.can_lose_connection = false;
        capabilities.latency_ns = u32::try_from(self.latency_ns).unwrap_or(u32::MAX);
        capabilities.bandwidth = 10_000_000_000;
        LoopbackRail { hub: self.clone(), local: *local, capabilities, links: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // What the lock protects is consistent between any two statements: a panic elsewhere does not spoil it.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, from: NodeId, to: NodeId, parcel: Parcel) -> bool {
        let mut shared = self.lock();
        let at = shared.now.after(self.latency_ns);
        let Some(queue) = shared.queues.get_mut(&to) else {
            return false;
        };
        queue.push_back((at, from, parcel));
        true
    }
}

#[derive(Debug)]
struct Link {
    peer: PeerId,
    node: NodeId,
    up: bool,
    over: bool,
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

    fn next(&self) -> Option<(NodeId, Parcel)> {
        let mut shared = self.hub.lock();
        let now = shared.now;
        let queue = shared.queues.get_mut(&self.local.node)?;
        let (_, from, parcel) = queue.pop_front_if(|(at, ..)| *at <= now)?;
        if matches!(parcel, Parcel::Frame(_)) {
            if let Some(count) = shared.under_way.get_mut(&(from, self.local.node)) {
                *count = count.saturating_sub(1);
            }
        }
        Some((from, parcel))
    }

    fn take_call<S: Sink>(&mut self, from: NodeId, incarnation: u64, sink: &mut S) {
        if self.link_to(from).is_none() {
            let id = LinkId(self.links.len() as u32);
            match sink.accept(id, from, incarnation) {
                Ok(peer) => self.links.push(Link { peer, node: from, up: false, over: false }),
                Err(_) => {
                    self.hub.send(self.local.node, from, Parcel::Goodbye);
                    return;
                }
            }
            self.hub.send(self.local.node, from, Parcel::Answer);
        }
        self.set_up(from, sink);
    }

    fn set_up<S: Sink>(&mut self, from: NodeId, sink: &mut S) {
        if let Some(link) = self.link_to(from).filter(|link| !link.up) {
            link.up = true;
            sink.up(link.peer);
        }
    }

    fn take_frame<S: Sink>(&mut self, from: NodeId, bytes: &[u8], sink: &mut S) {
        let Some(link) = self.link_to(from) else { return };
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
        if let Err(error) = delivered {
            self.end(from, sink, Refusal::new(error, "frame that breaks the protocol"));
            self.hub.send(self.local.node, from, Parcel::Goodbye);
        }
    }

    fn end<S: Sink>(&mut self, from: NodeId, sink: &mut S, reason: Refusal) {
        if let Some(link) = self.link_to(from) {
            link.over = true;
            sink.down(link.peer, reason);
        }
    }
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
    fn poll_links<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        let mut taken = 0;
        while taken < budget {
            let Some((from, parcel)) = self.next() else { break };
            taken += 1;
            match parcel {
                Parcel::Call { incarnation } => self.take_call(from, incarnation, sink),
                Parcel::Answer => self.set_up(from, sink),
                Parcel::Frame(bytes) => self.take_frame(from, &bytes, sink),
                Parcel::Goodbye => {
                    self.end(from, sink, Refusal::new(Error::PeerGone, "the peer has closed its fabric"))
                }
            }
        }
        taken
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
        let parcel = if own { Parcel::Answer } else { Parcel::Call { incarnation: self.local.incarnation } };
        if !self.hub.send(self.local.node, address.node, parcel) {
            let why = "the address is not this fabric's own, nor of a fabric that shares its hub";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        let id = LinkId(self.links.len() as u32);
        self.links.push(Link { peer, node: address.node, up: false, over: false });
        Ok(id)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(link) = self.links.get(link.0 as usize).filter(|link| !link.over) else {
            return Posted::Down;
        };
        if !link.up {
            return Posted::NoResource;
        }
        let way = (self.local.node, link.node);
        {
            let mut shared = self.hub.lock();
            let count = shared.under_way.entry(way).or_default();
            if *count >= DEPTH {
                return Posted::NoResource;
            }
            *count += 1;
        }
        let mut bytes = Vec::with_capacity(64 + frame.payload.len());
        let Ok(()) = Header::of(frame).and_then(|header| header.encode(&mut bytes)) else {
            return Posted::Down;
        };
        let start = bytes.len();
        bytes.resize(start + frame.payload.len(), 0);
        // SAFETY: the vector has just been made long enough; it is private.
        unsafe { frame.payload.copy_out(bytes.as_mut_ptr().add(start)) };
        if self.hub.send(way.0, way.1, Parcel::Frame(bytes)) {
            Posted::Done
        } else {
            Posted::Down
        }
    }

    #[inline(always)]
    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        if self.links.is_empty() {
            return 0;
        }
        self.poll_links(budget, sink)
    }

    fn maintain<S: Sink>(&mut self, _now: Time, sink: &mut S) -> usize {
        // Calls come while there is no link yet, when `poll` does not look.
        if !self.links.is_empty() {
            return 0;
        }
        match self.next() {
            Some((from, Parcel::Call { incarnation })) => {
                self.take_call(from, incarnation, sink);
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
        let due = |queue: &VecDeque<(Time, NodeId, Parcel)>| queue.front().is_some_and(|(at, ..)| *at <= now);
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
        if let Some(link) = self.links.get_mut(link.0 as usize).filter(|link| !link.over) {
            link.over = true;
            let node = link.node;
            self.hub.send(self.local.node, node, Parcel::Goodbye);
        }
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
            self.hub.send(self.local.node, link.node, Parcel::Goodbye);
        }
    }
}
