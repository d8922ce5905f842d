//! The fixture of two loopback rails between the same nodes: the near one is preferred, and fails; the far one carries less.

use super::pair::{Cutting, Fixture};
use super::random::Random;
use crate::loopback::{Cut, Hub, LoopbackRail};
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// Time that passes in a step.
const STEP_NS: u64 = 1_000_000;
/// What the far rail carries in one: less than what the near one retains of a put or a get.
const FAR_SEGMENT: u16 = 3000;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 300;

/// Two rails for each node, in virtual time.
#[derive(Debug)]
pub struct TwoRails {
    near: Hub,
    far: Hub,
    /// The node that prefers the far rail, if there is one.
    prefers_far: Option<u8>,
    now: Time,
}

impl Default for TwoRails {
    fn default() -> TwoRails {
        TwoRails::new()
    }
}

impl TwoRails {
    /// A near rail that reaches memory of peers, and a far one that does not; both retain.
    pub fn new() -> TwoRails {
        let near = Hub::new().named("near").retaining().with_get();
        let far =
            Hub::with_latency(STEP_NS / 2).named("far").retaining().placing().with_segments(FAR_SEGMENT);
        TwoRails { near, far, prefers_far: None, now: Time(0) }
    }

    /// The same, where the near rail knows who its peers are.
    pub fn with_proof() -> TwoRails {
        let two = TwoRails::new();
        TwoRails { near: two.near.clone().proving(), ..two }
    }

    /// The same as [`Self::new`], with a far rail that carries whole messages of at most `len` bytes.
    pub fn with_far_eager(len: u16) -> TwoRails {
        let two = TwoRails::new();
        TwoRails { far: two.far.clone().with_eager(len), ..two }
    }

    /// The same, where the node of that number asks the far rail first.
    #[must_use]
    pub fn preferring_far(self, number: u8) -> TwoRails {
        TwoRails { prefers_far: Some(number), ..self }
    }

    /// Where the rails of that name meet: `near`, or `far`.
    pub fn hub(&self, name: &str) -> &Hub {
        if name == "near" {
            &self.near
        } else {
            &self.far
        }
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Cuts the link over the near rail, if there is one, and lets none come about; or lets it.
    pub fn part(&self, [a, b]: [NodeId; 2], parted: bool) {
        self.near.part(a, b, parted);
        if parted {
            self.near.cut(a, b, Cut::default());
        }
    }
}

impl Fixture for TwoRails {
    type Rail = LoopbackRail;

    fn rail(&mut self, address: &Address) -> LoopbackRail {
        self.near.rail(address)
    }

    fn rails(&mut self, address: &Address) -> Vec<LoopbackRail> {
        let mut rails = vec![self.near.rail(address), self.far.rail(address)];
        if self.prefers_far == address.node.bytes().first().copied() {
            rails.reverse();
        }
        rails
    }

    fn tick(&mut self) -> Time {
        self.far.advance(STEP_NS);
        self.now = self.near.advance(STEP_NS);
        self.now
    }

    fn quiet_steps(&self) -> usize {
        CALL_STEPS
    }
}

impl Cutting for TwoRails {
    /// One time in two the near rail is out of order from then on, or in order again.
    fn cut(&mut self, _: [&mut LoopbackRail; 2], [a, b]: [NodeId; 2], random: &mut Random) {
        if random.below(2) == 0 {
            self.near.part(a, b, random.below(2) == 0);
        }
        for hub in [&self.near, &self.far] {
            let mut arrives = || random.below(8) as usize;
            let arrives = [arrives(), arrives()];
            let unnoticed_ns = [(); 2].map(|()| random.pick(&[0, 2 * STEP_NS, 20 * STEP_NS]));
            hub.cut(a, b, Cut { arrives, unnoticed_ns });
        }
    }
}
