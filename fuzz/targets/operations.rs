//! Operations of two nodes over loopback, in any order, end as in the model.

#![no_main]

use gridnet_core::testing::model::Run;
use gridnet_core::testing::random::Random;
use libfuzzer_sys::fuzz_target;

/// Longer sequences are made of shorter ones, and cost time.
const STEPS: usize = 200;

fuzz_target!(|script: &[u8]| {
    let mut run = Run::new(Random::scripted(script));
    for _ in 0..STEPS {
        if run.is_out_of_script() {
            break;
        }
        run.act();
    }
    run.check();
});
