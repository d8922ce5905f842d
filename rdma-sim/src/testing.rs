//! A network within the process, with faults that follow from a seed, and a clock that its owner turns.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::port::{Port, Received};
use crate::wire::{Flow, Ipv4Fields};

/// What happens to packets: probabilities in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Disappears.
    pub loss: u32,
    /// Comes twice.
    pub duplication: u32,
    /// Comes up to ten delays later.
    pub reordering: u32,
    /// One bit is wrong.
    pub corruption: u32,
    /// The port has no room, and the packet stays with its sender.
    pub refusal: u32,
    /// From one port to another.
    pub delay: Duration,
}

impl Faults {
    /// None, and 10 us from port to port.
    pub const NONE: Faults = Faults {
        loss: 0,
        duplication: 0,
        reordering: 0,
        corruption: 0,
        refusal: 0,
        delay: Duration::from_micros(10),
    };
}

/// How often each fault has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FaultCounts {
    /// Packets that disappeared.
    pub lost: u64,
    /// Packets that came twice.
    pub repeated: u64,
    /// Packets that came before one that was sent earlier.
    pub overtaken: u64,
    /// Packets with a wrong bit.
    pub spoiled: u64,
    /// Packets that a port had no room for.
    pub refused: u64,
}

/// A network between the ports of one process.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

struct State {
    faults: Faults,
    counts: FaultCounts,
    random: u64,
    now: Duration,
    /// Number of the next packet, so that those of one moment keep their order.
    count: u64,
    /// By receiver, then by moment of arrival.
    under_way: HashMap<SocketAddr, BTreeMap<(Duration, u64), Datagram>>,
    /// Whether a packet is to be delivered; sees it without its ICRC.
    filter: Option<Filter>,
}

type Filter = Box<dyn FnMut(SocketAddr, &[u8]) -> bool + Send>;

struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Net {
    /// A network with these faults; what happens follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Net {
        Net(Arc::new(Mutex::new(State {
            faults,
            counts: FaultCounts::default(),
            random: seed,
            now: Duration::ZERO,
            count: 0,
            under_way: HashMap::new(),
            filter: None,
        })))
    }

    /// A port at this address, which no other has.
    pub fn port(&self, address: SocketAddr) -> NetPort {
        self.lock().under_way.insert(address, BTreeMap::new());
        NetPort { net: self.clone(), address }
    }

    /// From here on, other faults.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What has happened to packets.
    pub fn counts(&self) -> FaultCounts {
        self.lock().counts
    }

    /// From here on, packets for an address are delivered only where `filter` says so.
    pub fn set_filter(&self, filter: impl FnMut(SocketAddr, &[u8]) -> bool + Send + 'static) {
        self.lock().filter = Some(Box::new(filter));
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// When the next packet arrives somewhere.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.lock().under_way.values().filter_map(|queue| queue.keys().next()).map(|(when, _)| *when).min()
    }

    /// Turns the clock, forward only.
    pub fn set_now(&self, now: Duration) {
        let mut state = self.lock();
        state.now = state.now.max(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.next_random() % 1_000_000 < u64::from(per_million)
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        let faults = self.faults;
        if self.happens(faults.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.happens(faults.corruption) {
            self.counts.spoiled += 1;
            let bit = self.next_random() as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut when = self.now + faults.delay;
        if self.happens(faults.reordering) {
            when += faults.delay * (self.next_random() % 10) as u32;
        }
        self.count += 1;
        let key = (when, self.count);
        if let Some(queue) = self.under_way.get_mut(&to) {
            let overtakes = queue.last_key_value().is_some_and(|(last, _)| *last > key);
            self.counts.overtaken += u64::from(overtakes);
            queue.insert(key, Datagram { from, bytes });
        }
    }
}

/// A port of a [`Net`].
pub struct NetPort {
    net: Net,
    address: SocketAddr,
}

/// The flow of packets between two ports.
fn flow(from: SocketAddr, to: SocketAddr) -> Option<Flow> {
    Flow::new(from, to, Ipv4Fields::UNFRAGMENTED)
}

impl Port for NetPort {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        let mut state = self.net.lock();
        let refusal = state.faults.refusal;
        if state.happens(refusal) {
            state.counts.refused += 1;
            return false;
        }
        let wanted = state.filter.as_mut().is_none_or(|filter| filter(to, packet));
        let Some(flow) = flow(self.address, to).filter(|_| wanted) else { return true };
        let mut bytes = std::mem::take(packet);
        flow.seal(&mut bytes);
        let duplication = state.faults.duplication;
        if state.happens(duplication) {
            state.counts.repeated += 1;
            state.deliver(self.address, to, bytes.clone());
        }
        state.deliver(self.address, to, bytes);
        true
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        let mut state = self.net.lock();
        let now = state.now;
        let Some(queue) = state.under_way.get_mut(&self.address) else { return Received::Nothing };
        let Some(first) = queue.first_entry().filter(|entry| entry.key().0 <= now) else {
            return Received::Nothing;
        };
        let datagram = first.remove();
        let opened =
            flow(datagram.from, self.address).and_then(|flow| flow.open(&datagram.bytes).map(<[u8]>::to_vec));
        match opened {
            Some(bytes) => {
                *packet = bytes;
                Received::Packet(datagram.from)
            }
            None => Received::Corrupt,
        }
    }
}
