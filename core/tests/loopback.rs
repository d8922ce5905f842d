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

#[test]
fn what_is_under_way_is_known_until_it_has_come() {
    use gridnet_core::testing::node::exactly;
    use gridnet_core::testing::pair::Pair;
    let mut pair = Pair::new(Loopback::new(0, false));
    let large = vec![7; 300_000];
    pair.a.send(pair.to_b, b"small", 1);
    assert_eq!(pair.a.engine().bytes_under_way(), 0);
    let send = pair.a.send(pair.to_b, &large, 2);
    pair.run_until_quiet();
    assert_eq!((pair.a.engine().bytes_under_way(), pair.b.engine().bytes_under_way()), (300_000, 0));
    let receive = pair.b.receive(exactly(pair.to_a, 2), large.len());
    pair.finish_b(receive);
    pair.finish_a(send);
    assert_eq!((pair.a.engine().bytes_under_way(), pair.b.engine().bytes_under_way()), (0, 0));
}
