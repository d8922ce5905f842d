//! The fixture of the loopback rail: virtual time.

use super::pair::Fixture;
use crate::loopback::{Hub, LoopbackRail};
use crate::time::Time;
use crate::wire::Address;

/// Time that passes in a step.
const STEP_NS: u64 = 1_000;

/// Loopback rails on one hub.
#[derive(Debug)]
pub struct Loopback {
    hub: Hub,
    latency_ns: u64,
}

impl Loopback {
    /// Rails on which everything takes `latency_ns`, and that can fetch if `get`.
    pub fn new(latency_ns: u64, get: bool) -> Loopback {
        let hub = Hub::with_latency(latency_ns);
        Loopback { hub: if get { hub } else { hub.without_get() }, latency_ns }
    }

    /// The same, with rails that put segments straight to their place.
    #[must_use]
    pub fn placing(self) -> Loopback {
        Loopback { hub: self.hub.placing(), ..self }
    }

    fn latency_steps(&self) -> usize {
        (self.latency_ns / STEP_NS) as usize + 1
    }
}

impl Fixture for Loopback {
    type Rail = LoopbackRail;

    fn rail(&mut self, address: &Address) -> LoopbackRail {
        self.hub.rail(address)
    }

    fn tick(&mut self) -> Time {
        self.hub.advance(STEP_NS)
    }

    fn quiet_steps(&self) -> usize {
        self.latency_steps() + 1
    }

    fn overshoot(&self) -> usize {
        // What is on its way, and what a poll takes in each step until the sender has heard.
        128 + 64 * self.latency_steps() * 2
    }
}
