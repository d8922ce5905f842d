//! The suite on wrapped rails, and what the protocol makes of rails that lose, double and reorder frames.

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::testing::fault::{FaultPlan, Faulty};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::SendOptions;
use gridnet_core::testing::pair::{Cutting, Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::testing::trace::{Journal, Traced};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_core::{conformance_tests, fault_tests, reliability_tests};

conformance_tests!(no_faults, Wrapped::new(FaultPlan::default(), true));
conformance_tests!(delays, Wrapped::new(DELAYS, false));
conformance_tests!(delays_and_places, Wrapped::placing(DELAYS));
conformance_tests!(delays_and_fetches, Wrapped::new(DELAYS, true));
reliability_tests!(cuts, Wrapped::cutting(FaultPlan::default()));
fault_tests!(faults, Loopback::cutting(0), cuts);
fault_tests!(faults_and_fetches, Loopback::new(0, true));
fault_tests!(faults_and_places, Loopback::new(0, false).placing());
fault_tests!(faults_and_late_fetches, Loopback::cutting(0).fetching_late(), cuts);

const DELAYS: FaultPlan = FaultPlan { seed: 7, delay: 0.05, delay_polls: 5, ..FaultPlan::NONE };

/// Loopback with faults, traced.
struct Wrapped {
    inner: Loopback,
    plan: FaultPlan,
    journals: Vec<Journal>,
    opened: u64,
}

impl Wrapped {
    fn new(plan: FaultPlan, get: bool) -> Wrapped {
        Wrapped { inner: Loopback::new(0, get), plan, journals: Vec::new(), opened: 0 }
    }

    fn placing(plan: FaultPlan) -> Wrapped {
        Wrapped { inner: Loopback::new(0, false).placing(), ..Wrapped::new(plan, false) }
    }

    fn cutting(plan: FaultPlan) -> Wrapped {
        Wrapped { inner: Loopback::cutting(0), ..Wrapped::new(plan, false) }
    }
}

impl Fixture for Wrapped {
    type Rail = Traced<Faulty<LoopbackRail>>;

    fn rail(&mut self, address: &Address) -> Self::Rail {
        self.opened += 1;
        let plan = FaultPlan { seed: self.plan.seed ^ self.opened << 32, ..self.plan };
        let (rail, journal) = Traced::recording(Faulty::new(self.inner.rail(address), plan));
        self.journals.push(journal);
        rail
    }

    fn tick(&mut self) -> Time {
        // What was told so far is of no interest; a long test would keep a lot of it.
        self.journals.iter().for_each(|journal| journal.lock().expect("nobody panics with it").clear());
        self.inner.tick()
    }

    fn quiet_steps(&self) -> usize {
        self.inner.quiet_steps() + 16 + 2 * self.plan.delay_polls as usize
    }

    fn overshoot(&self) -> usize {
        // What is held back comes on top of what is on its way.
        self.inner.overshoot() + 256 + 64 * 2 * self.plan.delay_polls as usize
    }
}

impl Cutting for Wrapped {
    fn cut(&mut self, _: [&mut Self::Rail; 2], between: [NodeId; 2], random: &mut Random) {
        self.inner.cut_between(between, random);
    }
}

/// What such a rail holds back is not retained, and would be lost.
#[test]
fn a_cut_link_is_the_end_over_a_rail_that_holds_frames_back() {
    let mut pair = Pair::new(Wrapped::cutting(DELAYS));
    let sync = SendOptions { sync: true, ..SendOptions::default() };
    let send = pair.a.send_with(pair.to_b, &[b"sync"], 1, sync).expect("the send starts");
    pair.cut(&mut Random::new(1));
    assert_eq!(pair.finish_a(send).status, Err(Error::PeerGone));
    let to_b = pair.to_b;
    assert!(matches!(pair.a.state(to_b), PeerState::Gone(_)));
}
