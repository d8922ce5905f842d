//! Rails that fail: what a rail may do costs a delay, and what it promises not to do costs no more than the peer.

use super::reliability::Line;
use crate::endpoint::PeerState;
use crate::error::Error;
use crate::rail::{Capabilities, Rail};
use crate::testing::fault::{FaultCounters, FaultPlan, Faults};
use crate::testing::node::{exactly, SendOptions, Ticket};
use crate::testing::pair::{Fixture, Pair};
use crate::testing::random::Random;

/// Frames that are held back now and then.
const DELAYS: FaultPlan = FaultPlan { delay: 0.05, delay_polls: 5, ..FaultPlan::NONE };

/// Messages of all sizes in both directions arrive once and in order, whatever a rail does that keeps its promises: it has no
/// room, hears nothing for a while, and, where it retains, loses links, also just behind what it has delivered, and refuses calls.
pub fn what_a_rail_may_do_loses_nothing<F: Fixture>(mut fixture: impl FnMut() -> F) {
    let (mut done, mut can) = (FaultCounters::default(), None);
    for seed in 0..8 {
        let plan = FaultPlan { seed, ..FaultPlan::ALLOWED };
        let mut pair = Pair::new(Faults::new(fixture(), plan));
        let mut random = Random::new(seed);
        let mut lines = [Line::new(seed, 100), Line::new(!seed, 100)];
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        while lines.iter().any(|line| line.has_more()) {
            lines[0].go_on(&mut pair.a, &mut pair.b, to_b, &mut random);
            lines[1].go_on(&mut pair.b, &mut pair.a, to_a, &mut random);
            pair.step();
        }
        assert!(pair.run_until(|pair| pair.a.pending() + pair.b.pending() == 0), "seed {seed}: no end");
        lines[0].check(&mut pair.a, &mut pair.b, seed);
        lines[1].check(&mut pair.b, &mut pair.a, seed);
        done = done + counters(&mut pair);
        can = Some(*pair.a.engine().rails()[0].capabilities());
    }
    assert_tried(&done, &can.expect("there were runs"));
}

/// Each fault that the rail's capabilities leave room for has happened.
fn assert_tried(done: &FaultCounters, can: &Capabilities) {
    assert!(done.no_room > 100 && done.deaf > 20, "{done:?}");
    if can.retains {
        assert!(done.lost > 12 && done.lost_behind > 1 && done.refused > 2, "{done:?}");
    } else {
        assert_eq!((done.lost, done.refused), (0, 0), "nothing is retained");
    }
}

/// Frames that are lost.
pub fn lost_frames_leave_operations_pending<F: Fixture>(mut fixture: impl FnMut() -> F) {
    let done = check_all(RUNS, &mut fixture, FaultPlan { drop: 0.02, ..FaultPlan::NONE });
    assert!(done.dropped > 2, "{done:?}");
}

/// Frames that come twice.
pub fn doubled_frames_deliver_nothing_wrong<F: Fixture>(mut fixture: impl FnMut() -> F) {
    let done = check_all(RUNS, &mut fixture, FaultPlan { duplicate: 0.02, ..FaultPlan::NONE });
    assert!(done.duplicated > 2, "{done:?}");
}

/// Frames that overtake one another.
pub fn reordered_frames_deliver_nothing_wrong<F: Fixture>(mut fixture: impl FnMut() -> F) {
    let done = check_all(RUNS, &mut fixture, FaultPlan { reorder: 0.02, ..FaultPlan::NONE });
    assert!(done.reordered > 2, "{done:?}");
}

/// All of that, and what a rail may do.
pub fn everything_at_once_delivers_nothing_wrong<F: Fixture>(mut fixture: impl FnMut() -> F) {
    let FaultPlan { no_room, deaf, deaf_polls, .. } = FaultPlan::ALLOWED;
    let broken = FaultPlan { drop: 0.01, duplicate: 0.01, reorder: 0.01, ..DELAYS };
    let plan = FaultPlan { no_room, deaf, deaf_polls, ..broken };
    let mut done = FaultCounters::default();
    // Where time is real, so are the dice to some degree: some runs more, then.
    let have_all_been = (0..8).any(|round| {
        done = done + check_from(round * 2 * RUNS, 2 * RUNS, &mut fixture, plan);
        let times = [done.dropped, done.duplicated, done.reordered, done.delayed, done.no_room, done.deaf];
        times.iter().all(|times| *times > 2)
    });
    assert!(have_all_been, "{done:?}");
}

/// A link that ends for good.
pub fn a_cut_link_ends_everything<F: Fixture>(mut fixture: impl FnMut() -> F) {
    for after in (0..150).step_by(21) {
        let plan = FaultPlan { disconnect_after: Some(after), ..FaultPlan::NONE };
        let run = run(fixture(), plan);
        assert!(after > 30 || run.counters.disconnected > 0, "{:?}", run.counters);
        assert!(run.counters.frames >= after || run.counters.disconnected == 0);
        check(run);
    }
}

/// Seeds of each kind.
const RUNS: u64 = 6;

/// Checks so many runs; what went wrong in all of them.
fn check_all<F: Fixture>(runs: u64, fixture: &mut impl FnMut() -> F, plan: FaultPlan) -> FaultCounters {
    check_from(0, runs, fixture, plan)
}

/// The same with seeds from `first` on.
fn check_from<F: Fixture>(
    first: u64,
    runs: u64,
    fixture: &mut impl FnMut() -> F,
    plan: FaultPlan,
) -> FaultCounters {
    (first..first + runs).fold(FaultCounters::default(), |done, seed| {
        let run = run(fixture(), FaultPlan { seed, ..plan });
        let done = done + run.counters;
        check(run);
        done
    })
}

/// Every message of a run, and what became of it.
struct Run<F: Fixture> {
    pair: Pair<Faults<F>>,
    /// Receive at `b`, tag, and what was sent with it.
    messages: Vec<(Ticket, u64, Vec<u8>)>,
    counters: FaultCounters,
}

/// Messages of all sizes from `a` to `b`, each with a tag of its own, over a bad rail, until nothing moves.
fn run<F: Fixture>(fixture: F, plan: FaultPlan) -> Run<F> {
    let mut random = Random::new(plan.seed);
    let mut pair = Pair::strangers(Faults::new(fixture, plan), Default::default());
    let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
    pair.to_b = pair.a.engine().open(&address_b).expect("the rail leads to its peer");
    // Connections are made without frames.
    assert!(pair.run_until(|pair| pair.b.peer_of(address_a.node).is_some() && is_decided(pair)));
    pair.to_a = pair.b.peer_of(address_a.node).expect("it has called");
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
    let counters = counters(&mut pair);
    Run { pair, messages, counters }
}

/// What was received well is what was sent; what is not is pending, or ended with its link.
fn check<F: Fixture>(mut run: Run<F>) {
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

fn is_decided<F: Fixture>(pair: &mut Pair<Faults<F>>) -> bool {
    let to_b = pair.to_b;
    pair.a.state(to_b) != PeerState::Connecting
}

/// What the rails of both sides have done.
fn counters<F: Fixture>(pair: &mut Pair<Faults<F>>) -> FaultCounters {
    pair.a.engine().rails()[0].counters() + pair.b.engine().rails()[0].counters()
}
