//! Which receive takes which message.

use super::{assert_received, content};
use crate::error::Error;
use crate::matching::{Pattern, Source};
use crate::testing::node::{anything, exactly, from_any, SendOptions};
use crate::testing::pair::{Fixture, Pair, Setup};

const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

/// Tags choose, all 64 bits of them, but those that are ignored.
pub fn tags_and_ignored_bits_choose<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let high = 0xdead_beef_0000_0000;
    let masked = Pattern { source: Source::Peer(pair.to_a), tag: high, ignore: 0xffff_ffff };
    let by_mask = pair.b.receive(masked, 8);
    let exact = pair.b.receive(exactly(pair.to_a, high | 7), 8);
    let other = pair.b.receive(exactly(pair.to_a, 7), 8);
    pair.a.send(pair.to_b, b"other", 7);
    pair.a.send(pair.to_b, b"first", high | 7);
    pair.a.send(pair.to_b, b"second", high | 7);
    for (receive, tag, bytes) in
        [(by_mask, high | 7, &b"first"[..]), (exact, high | 7, b"second"), (other, 7, b"other")]
    {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, tag, bytes);
    }
    // Early messages likewise.
    pair.a.send(pair.to_b, b"one", 0);
    pair.a.send(pair.to_b, b"two", u64::MAX);
    pair.run_until_quiet();
    let top_bit_set = Pattern { source: Source::Any, tag: 1 << 63, ignore: u64::MAX >> 1 };
    let receive = pair.b.receive(top_bit_set, 8);
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, u64::MAX, b"two");
}

/// A receive that accepts any source takes from whoever sends first, and says from whom.
pub fn any_source_takes_from_all<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut third = pair.stranger(3, Setup::default());
    let address = *pair.b.address();
    let to_b = third.engine().open(&address).expect("the rail leads to its peer");
    let receives = [pair.b.receive(from_any(4), 8), pair.b.receive(from_any(4), 8)];
    pair.a.send(pair.to_b, b"from a", 4);
    let first = pair.finish_b(receives[0]);
    assert_received(&first, 4, b"from a");
    third.send(to_b, b"third", 4);
    let done = pair.run_until(|pair| {
        let now = pair.fixture.tick();
        third.drive(now);
        pair.b.is_finished(receives[1])
    });
    assert!(done, "the message of the third node does not arrive");
    let second = pair.b.take(receives[1]).expect("it has ended");
    assert_received(&second, 4, b"third");
    let source = second.completion.expect("receives have completions").source;
    assert_eq!(pair.b.peer_of(third.address().node).map(|peer| peer.number()), Some(source));
    assert_ne!(source, pair.to_a.number());
}

/// Messages that come before their receive are kept, and found in the order of their arrival.
pub fn early_messages_wait_in_order<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let len_of = |i: u64| [0, 48, 49, 4000, 70_000][i as usize % 5];
    for i in 0..100 {
        pair.a.send(pair.to_b, &content(len_of(i), i), i % 3);
    }
    assert!(pair.run_until(|pair| pair.b.engine().counters().unexpected_now == 100), "not all has come");
    for tag in [2, 0, 1] {
        for i in (0..100).filter(|i| i % 3 == tag) {
            let receive = pair.b.receive(exactly(pair.to_a, tag), len_of(i));
            let outcome = pair.finish_b(receive);
            assert_received(&outcome, tag, &content(len_of(i), i));
        }
    }
    let counters = pair.b.engine().counters();
    assert_eq!((counters.unexpected_now, counters.unexpected_bytes_now), (0, 0));
}

/// A probe tells of a message and leaves it; a matched probe takes it away from all others.
pub fn probes_look_and_matched_probes_take<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    assert_eq!(pair.b.engine().probe(&anything()), None);
    for len in [0, 20, 5000, 200_000] {
        let bytes = content(len, 1);
        let options = SendOptions { immediate: Some(77), ..SendOptions::default() };
        pair.a.send_with(pair.to_b, &[&bytes], 6, options).expect("the send starts");
        pair.a.send(pair.to_b, b"next", 6);
        pair.run_until_quiet();
        let pattern = exactly(pair.to_a, 6);
        let probe = pair.b.engine().probe(&pattern).expect("a message is there");
        assert_eq!(
            (probe.source, probe.tag, probe.len, probe.immediate),
            (pair.to_a, 6, len as u64, Some(77))
        );
        assert_eq!(pair.b.engine().probe(&exactly(pair.to_a, 5)), None);
        let (taken, message) = pair.b.engine().matched_probe(&pattern).expect("it is still there");
        assert_eq!(taken, probe);
        // The held message is not in the way of the next one.
        let next = pair.b.receive(pattern, 8);
        let outcome = pair.finish_b(next);
        assert_received(&outcome, 6, b"next");
        let held = pair.b.receive_held(message, len).expect("the message is held");
        let outcome = pair.finish_b(held);
        assert_received(&outcome, 6, &bytes);
        assert_eq!(pair.b.receive_held(message, len), Err(Error::NotFound));
    }
    pair.run_until_quiet();
    assert_eq!(pair.a.pending(), 0);
}

/// A synchronous send ends when, and only when, its message was matched.
pub fn synchronous_sends_end_with_the_match<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for len in [0, 8, 40, 5000, 100_000] {
        let bytes = content(len, 2);
        let send = pair.a.send_with(pair.to_b, &[&bytes], 1, SYNC).expect("the send starts");
        pair.run_until_quiet();
        assert!(!pair.a.is_finished(send), "a synchronous send of {len} bytes ends without a match");
        let receive = pair.b.receive(from_any(1), len);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 1, &bytes);
        assert_eq!(pair.finish_a(send).status, Ok(()));
        // With the receive there first.
        let receive = pair.b.receive(from_any(1), len);
        let send = pair.a.send_with(pair.to_b, &[&bytes], 1, SYNC).expect("the send starts");
        assert_eq!(pair.finish_a(send).status, Ok(()));
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 1, &bytes);
    }
    // A matched probe is a match; for messages that went whole the sender hears of it with the receive at the latest.
    let send = pair.a.send_with(pair.to_b, &[b"probed"], 1, SYNC).expect("the send starts");
    pair.run_until_quiet();
    let (_, message) = pair.b.engine().matched_probe(&from_any(1)).expect("a message is there");
    let receive = pair.b.receive_held(message, 6).expect("the message is held");
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 1, b"probed");
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// Thousands of receives wait, and each takes its message.
pub fn many_thousands_of_receives_wait<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let count = 20_000u64;
    let receives: Vec<_> = (0..count).map(|tag| pair.b.receive(exactly(pair.to_a, tag), 8)).collect();
    for tag in (0..count).rev() {
        pair.a.send(pair.to_b, &tag.to_le_bytes(), tag);
        if tag % 32 == 0 {
            pair.step();
        }
    }
    for (tag, receive) in receives.into_iter().enumerate() {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, tag as u64, &(tag as u64).to_le_bytes());
    }
}

/// Where the rail leads a fabric to itself, it talks to itself as to others; where not, it says so.
pub fn a_node_talks_to_itself<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let own = *pair.a.address();
    let me = match pair.a.engine().open(&own) {
        Ok(me) => me,
        Err(refusal) => return assert_eq!(refusal.error, Error::Unreachable),
    };
    for len in [0, 30, 3000, 300_000] {
        let bytes = content(len, 6);
        let receive = pair.a.receive(exactly(me, 3), len);
        let send = pair.a.send_with(me, &[&bytes], 3, SYNC).expect("the send starts");
        let outcome = pair.finish_a(receive);
        assert_received(&outcome, 3, &bytes);
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
}
