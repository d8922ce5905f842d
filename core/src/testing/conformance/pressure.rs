//! Bounds hold: senders wait, nothing is lost.

use super::{assert_received, content};
use crate::endpoint::Limits;
use crate::error::Error;
use crate::mem::Iov;
use crate::testing::node::{anything, exactly, Node, SendOptions};
use crate::testing::pair::{Fixture, Pair, Setup, BURST};

const MESSAGES: usize = 400;

/// Ten times as many messages as the receiver keeps, and more than can be under way.
pub fn a_flood_is_bounded_and_loses_nothing<F: Fixture>(fixture: F) {
    let mut pair = Pair::with(fixture, few_messages());
    let bound = MESSAGES / 4 + pair.fixture.overshoot();
    let total = (10 * MESSAGES).max(2 * bound) as u64;
    for i in 0..total {
        pair.a.send(pair.to_b, &i.to_le_bytes(), i);
        if i % BURST as u64 == 0 {
            pair.step();
        }
    }
    pair.run_until_quiet();
    assert_bounded(&mut pair.b, bound);
    assert!(pair.a.pending() >= total as usize - bound - 1, "only {} sends wait", pair.a.pending());
    assert!(pair.b.engine().counters().peers.backpressure_stops > 0);
    for i in 0..total {
        let receive = pair.b.receive(anything(), 8);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, i, &i.to_le_bytes());
        assert_bounded(&mut pair.b, bound);
    }
    pair.run_until_quiet();
    assert_eq!((pair.a.pending(), pair.b.engine().counters().unexpected_now), (0, 0));
}

/// A program that only sends hears the word to stop as well.
pub fn a_sender_that_never_polls_is_bounded<F: Fixture>(fixture: F) {
    let mut pair = Pair::with(fixture, few_messages());
    let total = 40 * MESSAGES as u64;
    let bound = MESSAGES / 4 + 4 * pair.fixture.overshoot();
    assert!(total as usize > 2 * bound || pair.fixture.overshoot() > 1024, "the flood is too small to tell");
    for i in 0..total {
        pair.a.send(pair.to_b, &i.to_le_bytes(), i);
        if i % BURST as u64 == 0 {
            let now = pair.fixture.tick();
            pair.b.drive(now);
        }
    }
    assert_bounded(&mut pair.b, bound);
    for i in 0..total {
        let receive = pair.b.receive(anything(), 8);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, i, &i.to_le_bytes());
    }
}

/// The bound on bytes, with messages that go whole.
pub fn a_flood_of_bytes_is_bounded<F: Fixture>(fixture: F) {
    let len = 1000;
    let limits = Limits { unexpected_bytes: 200 * len, ..Limits::default() };
    let mut pair = Pair::with(fixture, Setup { limits, ..Setup::default() });
    let bound = (50 + pair.fixture.overshoot()) * len;
    let total = 2000 + 2 * pair.fixture.overshoot() as u64;
    for i in 0..total {
        pair.a.send(pair.to_b, &content(len, i), i);
        if i % BURST as u64 == 0 {
            pair.step();
        }
    }
    pair.run_until_quiet();
    let stored = pair.b.engine().counters().unexpected_bytes_now as usize;
    assert!(stored <= bound, "{stored} bytes are kept, more than {bound}");
    assert!(pair.a.pending() > 0);
    for i in 0..total {
        let receive = pair.b.receive(anything(), len);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, i, &content(len, i));
    }
}

/// One peer's flood leaves room for others.
pub fn other_peers_are_heard_during_a_flood<F: Fixture>(fixture: F) {
    let mut pair = Pair::with(fixture, few_messages());
    for i in 0..2 * MESSAGES as u64 {
        pair.a.send(pair.to_b, b"flood", i);
        pair.step();
    }
    let mut third = pair.stranger(3, Setup::default());
    let address = *pair.b.address();
    let to_b = third.engine().open(&address).expect("the rail leads to its peer");
    third.send(to_b, b"early", 7 << 40);
    drive_until(&mut pair, &mut third, |pair, _| pair.b.engine().probe(&exactly_of_third(7)).is_some());
    let receive = pair.b.receive(exactly_of_third(7), 8);
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 7 << 40, b"early");
    let receive = pair.b.receive(exactly_of_third(8), 8);
    let send = third.send(to_b, b"posted", 8 << 40);
    drive_until(&mut pair, &mut third, |pair, third| pair.b.is_finished(receive) && third.is_finished(send));
}

/// While one side may not send messages, large ones of the other side still reach it.
pub fn transfers_the_other_way_pass_a_flood<F: Fixture>(fixture: F) {
    let mut pair = Pair::with(fixture, few_messages());
    for i in 0..10 * MESSAGES as u64 {
        pair.a.send(pair.to_b, b"flood", i);
        if i % BURST as u64 == 0 {
            pair.step();
        }
    }
    pair.run_until_quiet();
    assert!(pair.a.pending() > 0, "the sender is not held back");
    let bytes = content(500_000, 4);
    let receive = pair.a.receive(exactly(pair.to_b, 1), bytes.len());
    let options = SendOptions { sync: true, ..SendOptions::default() };
    let send = pair.b.send_with(pair.to_a, &[&bytes], 1, options).expect("the send starts");
    let outcome = pair.finish_a(receive);
    assert_received(&outcome, 1, &bytes);
    assert_eq!(pair.finish_b(send).status, Ok(()));
    assert!(pair.a.pending() > 0, "the sender was let go meanwhile");
}

/// A completion queue without room refuses operations; those it took are all reported.
pub fn a_full_queue_refuses_and_loses_nothing<F: Fixture>(fixture: F) {
    let mut pair = Pair::with(fixture, Setup { cq_capacity: 4, ..Setup::default() });
    let receives: Vec<_> = (0..4).map(|tag| pair.b.receive(exactly(pair.to_a, tag), 8)).collect();
    assert_eq!(pair.b.receive_with(anything(), &[8]), Err(Error::Again));
    for tag in 0..4 {
        pair.a.send(pair.to_b, &[tag as u8], tag);
    }
    for (tag, receive) in receives.into_iter().enumerate() {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, tag as u64, &[tag as u8]);
    }
    // Sends that wait for a match.
    let options = SendOptions { sync: true, ..SendOptions::default() };
    let (to_b, mut start) = (pair.to_b, Vec::new());
    for _ in 0..4 {
        start.push(pair.a.send_with(to_b, &[b"sync"], 1, options).expect("there is room"));
    }
    assert_eq!(pair.a.send_with(to_b, &[b"sync"], 1, options), Err(Error::Again));
    assert_eq!(pair.a.send_with(to_b, &[&content(100_000, 0)], 1, options), Err(Error::Again));
    for send in start {
        let receive = pair.b.receive(anything(), 8);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 1, b"sync");
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
    pair.run_until_quiet();
    assert_eq!(pair.b.engine().probe(&anything()), None, "a refused send was sent");
}

/// A queue that is destroyed gives its receives back, and takes no more operations.
pub fn a_destroyed_queue_takes_no_operations<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let engine = pair.b.engine();
    let cq = engine.create_cq(8);
    let mut bytes = [0u8; 8];
    // SAFETY: the array lives until the end of the function, where both receives have ended.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    let pattern = exactly(pair.to_a, 1);
    engine.receive(cq, &pattern, iov, 0).expect("the receive starts");
    engine.destroy_cq(cq);
    assert_eq!(engine.receive(cq, &pattern, iov, 0), Err(Error::Handle));
    pair.a.send(pair.to_b, b"message", 1);
    pair.run_until_quiet();
    let receive = pair.b.receive(pattern, 8);
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 1, b"message");
    // A receive in transfer keeps the queue until it ends, unreported.
    let engine = pair.b.engine();
    let cq = engine.create_cq(8);
    pair.a.send(pair.to_b, &content(100_000, 0), 1);
    pair.run_until_quiet();
    let engine = pair.b.engine();
    engine.receive(cq, &pattern, iov, 0).expect("the receive starts");
    engine.destroy_cq(cq);
    assert_eq!(engine.receive(cq, &pattern, iov, 0), Err(Error::Handle));
    pair.run_until_quiet();
    assert!(pair.b.engine().cq(cq).is_none(), "the queue stays for ever");
    assert_eq!(pair.a.pending(), 0);
}

fn few_messages() -> Setup {
    Setup { limits: Limits { unexpected_messages: MESSAGES, ..Limits::default() }, ..Setup::default() }
}

fn assert_bounded<R: crate::rail::Rail>(node: &mut Node<R>, bound: usize) {
    let stored = node.engine().counters().unexpected_now as usize;
    assert!(stored <= bound, "{stored} messages are kept, more than {bound}");
}

/// Messages whose tag no flood has.
fn exactly_of_third(number: u64) -> crate::matching::Pattern {
    crate::testing::node::from_any(number << 40)
}

fn drive_until<F: Fixture>(
    pair: &mut Pair<F>,
    third: &mut Node<F::Rail>,
    mut done: impl FnMut(&mut Pair<F>, &mut Node<F::Rail>) -> bool,
) {
    let reached = pair.run_until(|pair| {
        let now = pair.fixture.tick();
        third.drive(now);
        done(pair, third)
    });
    assert!(reached, "what was waited for does not come");
}
