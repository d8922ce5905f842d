//! Random sequences of operations between two nodes, against a model.
//!
//! `TEST_SEEDS` sets how many sequences are run, `TEST_SEED` picks one of them.

use gridnet_core::testing::model::Run;
use gridnet_core::testing::random::Random;

const STEPS: usize = 120;

#[test]
fn random_operations_end_as_in_the_model() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let only: Option<u64> = number("TEST_SEED");
    let seeds = only.map_or(0..number("TEST_SEEDS").unwrap_or(300), |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(Random::new(seed));
            (0..STEPS).for_each(|_| run.act());
            run.check();
        });
        if let Err(panic) = result {
            eprintln!("sequence of seed {seed}: run it alone with TEST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
