//! What is left of fabrics that were closed, and of links that broke: nothing. Alone in its process, as it counts what that has.

mod common;

use common::Verbs;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::random::Random;

/// What the process has: open descriptors, and KiB of memory, whether it was touched or not.
fn usage() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("a list").count();
    let status = std::fs::read_to_string("/proc/self/status").expect("text");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a line");
    let kib = memory.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
    (descriptors, kib)
}

/// What `cycle` leaves when it was done so often, after some that may fill caches of the process: descriptors, KiB.
fn left_by(cycles: usize, mut cycle: impl FnMut(u64)) -> (usize, usize) {
    (0..10).for_each(&mut cycle);
    let (descriptors, memory) = usage();
    (10..10 + cycles as u64).for_each(&mut cycle);
    let (descriptors_now, memory_now) = usage();
    (descriptors_now.saturating_sub(descriptors), memory_now.saturating_sub(memory))
}

/// A message, so that slots, keys and packets were in use: short ones go in one packet, long ones are fetched.
fn exchange(pair: &mut Pair<Verbs>, tag: u64) {
    let len = if tag.is_multiple_of(2) { 8 } else { 100_000 };
    let receive = pair.b.receive(exactly(pair.to_a, tag), len);
    let send = pair.a.send(pair.to_b, &vec![7; len], tag);
    assert_eq!((pair.finish_b(receive).status, pair.finish_a(send).status), (Ok(()), Ok(())));
}

/// A link takes 2 MiB in each side, and so does a segment of shared memory: if one stays of each two cycles, it is seen.
#[test]
fn nothing_is_left() {
    let cycles = if std::env::var_os("TEST_SOAK").is_some() { 1000 } else { 30 };
    for open in [Verbs::udp, Verbs::shm] {
        let (descriptors, memory) = left_by(cycles, |tag| {
            let mut pair = Pair::new(open());
            exchange(&mut pair, tag);
            // As if one was killed: the other does not wait until all is taken.
            let b = pair.b.address().node;
            pair.a.engine().rails_mut()[0].cut_wire(b);
        });
        assert_eq!(descriptors, 0, "descriptors are left");
        assert!(memory < cycles << 10, "{memory} KiB are left of {cycles} fabrics");
        let mut pair = Pair::new(open());
        let mut random = Random::new(1);
        let (descriptors, memory) = left_by(cycles, |tag| {
            pair.cut(&mut random);
            exchange(&mut pair, tag);
        });
        assert!(descriptors < 8, "{descriptors} descriptors are left of links that broke");
        assert!(memory < cycles << 10, "{memory} KiB are left of {cycles} links that broke");
    }
}
