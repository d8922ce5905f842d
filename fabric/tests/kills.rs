//! Peers that go through all protocols and are killed at any time: nothing of them stays. The steps of `kill_points.rs` are
//! those that we have thought of.

mod common;

use std::time::{Duration, Instant};

use common::dialogue::{Doomed, Survivor};
use common::process::{descriptors, mappings, role, spawn};
use common::Scratch;
use gridnet::core::testing::random::Random;

/// How often a peer is killed.
const ROUNDS: &str = "TEST_KILL_ROUNDS";
const LIMIT: Duration = Duration::from_secs(60);
/// A peer is killed within this time after its start: more than it needs for everything once.
const SPAN_US: u64 = 60_000;

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((_, dir)) = role() else { return };
    let doomed = Doomed::open(&dir);
    loop {
        doomed.run();
    }
}

#[test]
fn random_kills_leave_nothing_behind() {
    let rounds = std::env::var(ROUNDS).map_or(40, |text| text.parse().expect("a number"));
    let scratch = Scratch::new();
    let mut survivor = Survivor::open(&scratch.0);
    let mut baseline = None;
    for round in 0..rounds {
        let mut child = spawn("doomed", &scratch.0, &[]);
        let end = Instant::now() + Duration::from_micros(Random::new(round).below(SPAN_US));
        while Instant::now() < end {
            survivor.serve();
        }
        child.kill();
        while !survivor.is_alone() {
            survivor.serve();
            assert!(end.elapsed() < LIMIT, "the survivor waits for a dead peer: {survivor:?}, round {round}");
        }
        // The first rounds take what is taken for good. A connection of the dead that waits to be heard goes in a moment.
        let account = |survivor: &Survivor| (descriptors(), mappings(), survivor.usage());
        if round >= 8 {
            let baseline = baseline.get_or_insert_with(|| account(&survivor)).clone();
            while account(&survivor) != baseline {
                survivor.serve();
                assert!(
                    end.elapsed() < LIMIT,
                    "{:?}, not {baseline:?} after round {round}",
                    account(&survivor)
                );
            }
        }
    }
    assert!(survivor.served() > rounds, "the peers were killed before they did anything");
    println!("RESULT {rounds} random kills, {} operations of the survivor", survivor.served());
}
