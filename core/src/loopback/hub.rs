//! Where loopback rails meet: what is on its way between them, and the time of it all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cut::{Connections, Cut};
use super::late::Late;
use super::memory::Memory;
use super::paths::Roads;
use super::LoopbackRail;
use crate::rail::{Capabilities, Refusal};
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// Where loopback rails meet.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) latency_ns: u64,
    pub(super) name: Option<&'static str>,
    pub(super) process: Option<u32>,
    pub(super) without_get: bool,
    pub(super) is_late: bool,
    pub(super) places: bool,
    pub(super) goes_ahead: bool,
    pub(super) retains: bool,
    pub(super) proves: bool,
    /// Longest segment and longest whole message, where that is not what is usual.
    pub(super) segment: Option<u16>,
    pub(super) eager: Option<u16>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) now: Time,
    /// What is on its way to each node, in order.
    pub(super) queues: HashMap<NodeId, VecDeque<Sent>>,
    /// The incarnation of each node.
    pub(super) incarnations: HashMap<NodeId, u64>,
    pub(super) connections: Connections,
    pub(super) roads: Roads,
    /// Frames on their way from the first to the second.
    pub(super) under_way: HashMap<(NodeId, NodeId), usize>,
    pub(super) memory: Memory,
}

/// Something on its way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) at: Time,
    pub(super) from: NodeId,
    pub(super) connection: u64,
    pub(super) parcel: Parcel,
}

#[derive(Debug)]
pub(super) enum Parcel {
    Call { incarnation: u64 },
    Answer,
    Refused(Refusal),
    Frame(Vec<u8>),
    Goodbye,
}

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

    /// The same hub, whose rails send the first bytes of large messages with the announcement.
    pub fn going_ahead(self) -> Hub {
        Hub { goes_ahead: true, ..self }
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

    /// The same hub, whose rails take some polls to fetch.
    pub fn fetching_late(self) -> Hub {
        Hub { is_late: true, ..self.with_get() }
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
        LoopbackRail {
            hub: self.clone(),
            local: *local,
            capabilities,
            links: Vec::new(),
            late: Late::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // What the lock protects is consistent between any two statements: a panic elsewhere does not spoil it.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, from: NodeId, to: NodeId, connection: u64, parcel: Parcel) -> bool {
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
