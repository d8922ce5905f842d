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
conformance_tests!(fetching_late, Loopback::new(0, true).fetching_late());
conformance_tests!(fetching_late_and_retaining, Loopback::cutting(0).fetching_late());

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

/// A queue is destroyed while the rail fetches for one of its receives: the memory is not written any more, and the send ends.
#[test]
fn a_fetch_ends_with_the_queue_of_its_receive() {
    use gridnet_core::mem::Iov;
    use gridnet_core::testing::node::exactly;
    use gridnet_core::testing::pair::Pair;
    let mut pair = Pair::new(Loopback::new(0, true).fetching_late());
    let mut memory = vec![0; 3 << 20];
    // SAFETY: the memory outlives the pair's last step.
    let iov = unsafe { Iov::new(memory.as_mut_ptr(), memory.len()) };
    let cq = pair.b.engine().create_cq(4);
    let pattern = exactly(pair.to_a, 1);
    pair.b.engine().receive(cq, &pattern, iov, 0).expect("there is room");
    let send = pair.a.send(pair.to_b, &vec![7; 3 << 20], 1);
    assert!(pair.run_until(|pair| pair.b.engine().bytes_under_way() != 0), "nothing is fetched");
    pair.b.engine().destroy_cq(cq);
    assert_eq!(pair.finish_a(send).status, Ok(()));
    assert!(memory.iter().all(|byte| *byte == 0), "it was written");
}
