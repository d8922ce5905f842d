//! The suite on the loopback rail.

use gridnet_core::conformance_tests;
use gridnet_core::testing::loopback::Loopback;

conformance_tests!(fetching, Loopback::new(0, true));
conformance_tests!(segments, Loopback::new(0, false));
conformance_tests!(placing, Loopback::new(0, false).placing());
conformance_tests!(retaining, Loopback::cutting(0));
conformance_tests!(retaining_with_latency, Loopback::cutting(1_000_000).placing());
conformance_tests!(fetching_with_latency, Loopback::new(10_000, true));
conformance_tests!(segments_with_latency, Loopback::new(10_000, false));

#[test]
fn the_whole_suite_runs_in_one_go() {
    gridnet_core::testing::conformance::run_all(|| Loopback::new(1_000, true));
}
