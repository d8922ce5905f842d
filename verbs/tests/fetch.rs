//! Large messages, which the receiver fetches.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use common::Verbs;
use gridnet_core::error::Error;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::random::Random;
use gridnet_rdma_sim::testing::Faults;

const LARGE: usize = 3_000_000;

/// Sends a large message to the second node, and compares; how many times that has fetched by then.
fn send(pair: &mut Pair<Verbs>, tag: u64) -> u64 {
    let bytes = Random::new(tag).bytes(LARGE);
    let receive = pair.b.receive(exactly(pair.to_a, tag), LARGE);
    let send = pair.a.send(pair.to_b, &bytes, tag);
    let outcome = pair.finish_b(receive);
    assert_eq!((outcome.status, pair.finish_a(send).status), (Ok(()), Ok(())));
    assert!(outcome.bytes[..LARGE] == bytes, "the message is another");
    fetches(pair)
}

fn fetches(pair: &mut Pair<Verbs>) -> u64 {
    pair.b.engine().rails_mut()[0].fetches()
}

#[test]
fn large_messages_are_fetched() {
    for wire in [Verbs::udp(), Verbs::shm(), Verbs::net(Faults { loss: 10_000, ..Faults::NONE })] {
        let mut pair = Pair::new(wire);
        assert_eq!((send(&mut pair, 1), send(&mut pair, 2)), (6, 12));
    }
}

/// A sender whose device does not answer reads for a while, as one that computes: the link is made anew, and reads go on.
#[test]
fn after_a_pause_reads_go_on() {
    let mut pair = Pair::new(Verbs::net(Faults::NONE));
    let net = pair.fixture.net_of().expect("it is one");
    let pauses = Arc::new(AtomicBool::new(true));
    let does_pause = pauses.clone();
    // Opcodes of responses to RDMA READ.
    net.set_filter(move |_, packet| {
        let is_response = matches!(packet.first(), Some(0x0d..=0x10));
        !(is_response && does_pause.load(Ordering::Relaxed))
    });
    let bytes = Random::new(1).bytes(LARGE);
    let send_1 = pair.a.send(pair.to_b, &bytes, 1);
    let receive = pair.b.receive(exactly(pair.to_a, 1), LARGE);
    let to_a = pair.to_a;
    assert!(pair.run_until(|pair| pair.b.engine().breaks(to_a).0 > 0), "the link does not break");
    pauses.store(false, Ordering::Relaxed);
    let outcome = pair.finish_b(receive);
    assert_eq!((outcome.status, pair.finish_a(send_1).status), (Ok(()), Ok(())));
    assert!(outcome.bytes[..LARGE] == bytes, "the message is another");
    let before = fetches(&mut pair);
    assert_eq!(send(&mut pair, 2), before + 6);
}

/// The memory of a send that is cancelled cannot be read any more: that is the end of reads, and of nothing else.
#[test]
fn a_read_that_fails_ends_nothing_but_reads() {
    let mut pair = Pair::new(Verbs::net(Faults::NONE));
    let cancelled = pair.a.send(pair.to_b, &vec![7; LARGE], 1);
    let receive = pair.b.receive(exactly(pair.to_a, 1), LARGE);
    assert!(pair.run_until(|pair| fetches(pair) > 0), "nothing is fetched");
    pair.a.cancel(cancelled).expect("it is under way");
    assert_eq!(pair.finish_a(cancelled).status, Err(Error::Canceled));
    assert_eq!(pair.finish_b(receive).status, Err(Error::Canceled));
    let before = fetches(&mut pair);
    // The other one is told, too, that there are no reads any more, or finds out.
    assert!(send(&mut pair, 2) <= before + 1);
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    assert_eq!((pair.a.engine().breaks(to_b).0, pair.b.engine().breaks(to_a).0), (0, 0));
}

/// The device takes 16 reads at a time: what is more waits for its turn, and comes.
#[test]
fn more_fetches_than_the_device_takes_at_a_time() {
    const MESSAGES: u64 = 40;
    const LEN: usize = 50_000;
    let mut pair = Pair::new(Verbs::net(Faults::NONE));
    let net = pair.fixture.net_of().expect("it is one");
    let waits = Arc::new(AtomicBool::new(true));
    let does_wait = waits.clone();
    // No answer to a read leaves before as many have been asked for as may be.
    net.set_filter(move |_, packet| {
        let is_response = matches!(packet.first(), Some(0x0d..=0x10));
        !(is_response && does_wait.load(Ordering::Relaxed))
    });
    let messages: Vec<Vec<u8>> = (0..MESSAGES).map(|tag| Random::new(tag).bytes(LEN)).collect();
    let receives: Vec<_> = (0..MESSAGES).map(|tag| pair.b.receive(exactly(pair.to_a, tag), LEN)).collect();
    let sends: Vec<_> =
        (0..MESSAGES).map(|tag| pair.a.send(pair.to_b, &messages[tag as usize], tag)).collect();
    assert!(pair.run_until(|pair| under_way(pair) == 16), "{} reads are under way", under_way(&mut pair));
    waits.store(false, Ordering::Relaxed);
    for (receive, bytes) in receives.into_iter().zip(&messages) {
        let outcome = pair.finish_b(receive);
        assert_eq!(outcome.status, Ok(()));
        assert!(outcome.bytes[..LEN] == *bytes, "the message is another");
    }
    for send in sends {
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
    assert_eq!(under_way(&mut pair), 0);
}

fn under_way(pair: &mut Pair<Verbs>) -> usize {
    pair.b.engine().rails_mut()[0].fetches_under_way()
}
