//! The fixture of the loopback rail: virtual time.

use super::pair::{Cutting, Fixture};
use super::random::Random;
use crate::loopback::{Cut, Hub, LoopbackRail};
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// Time that passes in a step.
const STEP_NS: u64 = 1_000;
/// The same on rails whose links break, so that few steps pass until a peer is called again.
const CUTTING_STEP_NS: u64 = 1_000_000;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 300;

/// Loopback rails on one hub.
#[derive(Debug)]
pub struct Loopback {
    hub: Hub,
    latency_ns: u64,
    step_ns: u64,
}

impl Loopback {
    /// Rails on which everything takes `latency_ns`, and that can fetch if `get`.
    pub fn new(latency_ns: u64, get: bool) -> Loopback {
        let hub = Hub::with_latency(latency_ns);
        Loopback { hub: if get { hub } else { hub.without_get() }, latency_ns, step_ns: STEP_NS }
    }

    /// Rails that retain, and whose links can be cut.
    pub fn cutting(latency_ns: u64) -> Loopback {
        Loopback { hub: Hub::with_latency(latency_ns).retaining(), latency_ns, step_ns: CUTTING_STEP_NS }
    }

    /// The same, with rails that fetch.
    #[must_use]
    pub fn fetching(self) -> Loopback {
        Loopback { hub: self.hub.with_get(), ..self }
    }

    /// The same, with rails that take some polls to fetch.
    #[must_use]
    pub fn fetching_late(self) -> Loopback {
        Loopback { hub: self.hub.fetching_late(), ..self }
    }

    /// Where the rails meet.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The same, with rails that put segments straight to their place.
    #[must_use]
    pub fn placing(self) -> Loopback {
        Loopback { hub: self.hub.placing(), ..self }
    }

    /// The same, with rails that send the first bytes of large messages with the announcement.
    #[must_use]
    pub fn going_ahead(self) -> Loopback {
        Loopback { hub: self.hub.going_ahead(), ..self }
    }

    fn latency_steps(&self) -> usize {
        (self.latency_ns / self.step_ns) as usize + 1
    }
}

impl Fixture for Loopback {
    type Rail = LoopbackRail;

    fn rail(&mut self, address: &Address) -> LoopbackRail {
        self.hub.rail(address)
    }

    fn tick(&mut self) -> Time {
        self.hub.advance(self.step_ns)
    }

    fn quiet_steps(&self) -> usize {
        let calls = if self.step_ns == CUTTING_STEP_NS { CALL_STEPS } else { 0 };
        self.latency_steps() + 1 + calls
    }

    fn overshoot(&self) -> usize {
        // What is on its way, and what a poll takes in each step until the sender has heard.
        128 + 64 * self.latency_steps() * 2
    }
}

impl Cutting for Loopback {
    fn cut(&mut self, _: [&mut LoopbackRail; 2], between: [NodeId; 2], random: &mut Random) {
        self.cut_between(between, random);
    }
}

impl Loopback {
    /// As [`Cutting::cut`], for fixtures around this one.
    pub fn cut_between(&self, between: [NodeId; 2], random: &mut Random) {
        let mut arrives = || random.below(8) as usize;
        let arrives = [arrives(), arrives()];
        // At once, soon, or not before the peer calls again.
        let unnoticed_ns = [(); 2].map(|()| random.pick(&[0, 2 * self.step_ns, 20 * self.step_ns]));
        self.hub.cut(between[0], between[1], Cut { arrives, unnoticed_ns });
    }
}
