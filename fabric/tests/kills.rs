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
/// A peer is killed after less than so many operations of the survivor: more than there are when it goes through everything,
const OPERATIONS: u64 = 80;
/// and some time, in which it does what the survivor does not see.
const SPAN_US: u64 = 3_000;

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
        let mut random = Random::new(round);
        let (start, target) = (Instant::now(), survivor.served() + random.below(OPERATIONS));
        while survivor.served() < target {
            survivor.serve();
            assert!(start.elapsed() < LIMIT, "the peer does nothing: {survivor:?}, round {round}");
        }
        let end = Instant::now() + Duration::from_micros(random.below(SPAN_US));
        while Instant::now() < end {
            std::thread::yield_now();
        }
        child.kill();
        while !survivor.is_alone() {
            survivor.serve();
            assert!(end.elapsed() < LIMIT, "the survivor waits for a dead peer: {survivor:?}, round {round}");
        }
        // The first rounds take what is taken for good. A connection of the dead that waits to be heard goes in a moment.
        let account = |survivor: &Survivor| (descriptors(), mappings(), survivor.usage());
        if round >= 8 {
            survivor.settle(LIMIT);
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
    println!("RESULT {rounds} random kills, {} operations of the survivor", survivor.served());
}
