//! The suite on wrapped rails, and what the protocol makes of rails that lose, double and reorder frames.

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::testing::fault::{FaultCounters, FaultPlan, Faulty};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::{exactly, SendOptions, Ticket};
use gridnet_core::testing::pair::{Cutting, Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::testing::trace::{Journal, Traced};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_core::{conformance_tests, reliability_tests};

conformance_tests!(no_faults, Wrapped::new(FaultPlan::default(), true));
conformance_tests!(delays, Wrapped::new(DELAYS, false));
conformance_tests!(delays_and_places, Wrapped::placing(DELAYS));
conformance_tests!(delays_and_fetches, Wrapped::new(DELAYS, true));
reliability_tests!(cuts, Wrapped::cutting(FaultPlan::default()));

const DELAYS: FaultPlan = FaultPlan {
    seed: 7,
    drop: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    delay: 0.05,
    delay_polls: 5,
    disconnect_after: None,
};

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

/// Every message of a run, and what became of it.
struct Run {
    pair: Pair<Wrapped>,
    /// Receive at `b`, tag, and what was sent with it.
    messages: Vec<(Ticket, u64, Vec<u8>)>,
    counters: FaultCounters,
}

/// Messages of all sizes from `a` to `b`, each with a tag of its own, over a bad rail, until nothing moves.
fn run(plan: FaultPlan, get: bool) -> Run {
    let mut random = Random::new(plan.seed);
    let mut pair = Pair::strangers(Wrapped::new(plan, get), Default::default());
    let address = *pair.b.address();
    pair.to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    pair.run_until_quiet();
    pair.to_a = pair.b.peer_of(pair.a.address().node).expect("connections are made without frames");
    let mut messages = Vec::new();
    for tag in 0..40 {
        let len = random.pick(&[10, 100, 20_000, 150_000]);
        let bytes = random.bytes(len);
        let options = SendOptions { sync: random.chance(0.3), ..SendOptions::default() };
        if pair.a.send_with(pair.to_b, &[&bytes], tag, options).is_err() {
            break;
        }
        // Fails when the link is cut already.
        let Ok(receive) = pair.b.receive_with(exactly(pair.to_a, tag), &[bytes.len()]) else {
            break;
        };
        messages.push((receive, tag, bytes));
        pair.run_steps(3);
    }
    pair.run_until_quiet();
    let counters = pair.a.engine().rails()[0].inner().counters();
    Run { pair, messages, counters }
}

/// What was received well is what was sent; what is not is pending, or ended with its link.
fn check(mut run: Run) {
    let states = [run.pair.a.state(run.pair.to_b), run.pair.b.state(run.pair.to_a)];
    let gone = states.iter().any(|state| matches!(state, PeerState::Gone(_)));
    let mut missing = 0;
    for (receive, tag, bytes) in &run.messages {
        let Some(outcome) = run.pair.b.take(*receive) else {
            missing += 1;
            continue;
        };
        match outcome.status {
            Ok(()) => assert!(outcome.bytes == *bytes, "message {tag} of {} bytes differs", bytes.len()),
            Err(error) => {
                assert!(
                    gone && matches!(error, Error::PeerGone | Error::PeerMisbehaved),
                    "{error:?}: {states:?}"
                );
            }
        }
    }
    if gone {
        assert_eq!(
            (missing, run.pair.a.pending(), run.pair.b.pending()),
            (0, 0, 0),
            "operations outlive their link"
        );
    }
}

#[test]
fn lost_frames_leave_operations_pending() {
    for seed in 0..40 {
        let run = run(FaultPlan { seed, drop: 0.02, ..FaultPlan::default() }, seed % 2 == 0);
        assert!(seed > 0 || run.counters.dropped > 0);
        check(run);
    }
}

#[test]
fn doubled_frames_deliver_nothing_wrong() {
    for seed in 0..40 {
        check(run(FaultPlan { seed, duplicate: 0.02, ..FaultPlan::default() }, seed % 2 == 0));
    }
}

#[test]
fn reordered_frames_deliver_nothing_wrong() {
    for seed in 0..40 {
        check(run(FaultPlan { seed, reorder: 0.02, ..FaultPlan::default() }, seed % 2 == 0));
    }
}

#[test]
fn everything_at_once_delivers_nothing_wrong() {
    for seed in 0..80 {
        let plan =
            FaultPlan { seed, drop: 0.01, duplicate: 0.01, reorder: 0.01, disconnect_after: None, ..DELAYS };
        check(run(plan, seed % 2 == 0));
    }
}

#[test]
fn a_cut_link_ends_everything() {
    for after in (0..200).step_by(3) {
        let plan = FaultPlan { disconnect_after: Some(after), ..FaultPlan::default() };
        let run = run(plan, after % 2 == 0);
        let states = [run.counters.disconnected, run.counters.frames];
        assert!(states[0] == 0 || states[1] >= after);
        check(run);
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
