//! The fixture of a loopback rail whose links have several paths, each of its own speed, in virtual time.

use super::pair::{Cutting, Fixture};
use super::random::Random;
use crate::loopback::{Cut, Hub, LoopbackRail};
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// Time that passes in a step.
const STEP_NS: u64 = 1_000_000;
/// Longest segment: the first path carries 64 of them in a step.
const SEGMENT: u16 = 1500;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 300;

/// One rail for each node.
#[derive(Debug)]
pub struct Wide {
    hub: Hub,
    speeds: Vec<u64>,
    random: Random,
    now: Time,
}

impl Wide {
    /// Bytes that the first path carries in a step, at most.
    pub const FIRST: u64 = 64 * SEGMENT as u64;

    /// Links with so many further paths as there are speeds, which are in bytes in a step.
    pub fn new(speeds: &[u64]) -> Wide {
        let hub = Hub::new().retaining().placing().with_segments(SEGMENT);
        Wide { hub, speeds: speeds.to_vec(), random: Random::new(5), now: Time(0) }
    }

    /// Where the rails meet.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Opens all paths of the connection between two nodes that are not there.
    pub fn widen(&self, [a, b]: [NodeId; 2]) {
        for speed in self.speeds.iter().skip(self.hub.paths_between(a, b).len()) {
            self.hub.open_path(a, b, *speed);
        }
    }
}

impl Fixture for Wide {
    type Rail = LoopbackRail;

    fn rail(&mut self, address: &Address) -> LoopbackRail {
        self.hub.rail(address)
    }

    /// Now and then a path is opened.
    fn tick(&mut self) -> Time {
        if self.random.below(4) == 0 {
            let nodes = [1, 2].map(|number| self.address(number).node);
            self.widen(nodes);
        }
        self.now = self.hub.advance(STEP_NS);
        self.now
    }

    fn quiet_steps(&self) -> usize {
        CALL_STEPS
    }
}

impl Cutting for Wide {
    /// One time in three only a path ends.
    fn cut(&mut self, _: [&mut LoopbackRail; 2], [a, b]: [NodeId; 2], random: &mut Random) {
        let paths = self.hub.paths_between(a, b);
        if !paths.is_empty() && random.below(3) == 0 {
            return self.hub.end_path(random.pick(&paths), random.below(4) as usize);
        }
        let mut arrives = || random.below(8) as usize;
        let arrives = [arrives(), arrives()];
        let unnoticed_ns = [(); 2].map(|()| random.pick(&[0, 2 * STEP_NS, 20 * STEP_NS]));
        self.hub.cut(a, b, Cut { arrives, unnoticed_ns });
    }
}
