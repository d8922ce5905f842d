//! Messages of all sizes arrive whole and in order.

use super::{assert_received, content};
use crate::error::Error;
use crate::rail::Rail;
use crate::testing::node::{anything, exactly, SendOptions};
use crate::testing::pair::{Fixture, Pair};

/// The longest of the sizes of which each is tried.
const SMALL_SIZES: u64 = 200;

/// Every size that fits into slots and a little more, receives posted first and last.
pub fn every_small_size_arrives<F: Fixture>(fixture: F) {
    let times = usize::try_from(fixture.times(SMALL_SIZES)).expect("a count of sizes");
    let mut pair = Pair::new(fixture);
    for len in (0..=SMALL_SIZES as usize).step_by(SMALL_SIZES as usize / times) {
        pass(&mut pair, len, true);
        pass(&mut pair, len, false);
    }
}

/// Sizes around the eager limit, segments, and powers of two up to 1 MiB.
pub fn sizes_around_every_border_arrive<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut borders = vec![256, 1024, 4096, 65536, 1 << 17, 1 << 20];
    let rail = &pair.a.engine().rails()[0];
    let capabilities = *rail.capabilities();
    borders.extend([capabilities.max_inline, capabilities.max_eager, capabilities.max_segment]);
    borders.extend([1 << 15, 1 << 18, 1 << 20].map(|total| rail.segment_len(total)));
    borders.extend([2, 3].map(|count| capabilities.max_segment * count));
    borders.sort_unstable();
    borders.dedup();
    for border in borders.into_iter().filter(|border| *border <= 1 << 20) {
        for len in [border.saturating_sub(1), border, border + 1] {
            pass(&mut pair, len, true);
            pass(&mut pair, len, false);
        }
    }
}

/// Messages of several megabytes, which rails may cut otherwise than small ones.
pub fn megabytes_arrive<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for len in [(4 << 20) - 1, 4 << 20, (9 << 20) + 5] {
        pass(&mut pair, len, true);
    }
}

/// A message without bytes, into a buffer without bytes.
pub fn zero_bytes_fit_into_nothing<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for pieces in [&[][..], &[&[][..]], &[&[], &[]]] {
        pair.a.send_with(pair.to_b, pieces, 5, SendOptions::default()).expect("the send starts");
        let receive = pair.b.receive_with(anything(), &[]).expect("the receive starts");
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 5, b"");
    }
}

/// A sender's messages are matched in the order in which it sent them, whatever way they go.
pub fn messages_of_one_sender_keep_their_order<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let eager = pair.a.engine().rails()[0].capabilities().max_eager;
    let len_of = |i: usize| [0, 8, eager + 1, 100, 3, eager, 5 * eager][i % 7];
    // A third posted before, a third meanwhile, a third afterwards.
    let mut receives: Vec<_> = (0..100).map(|_| pair.b.receive(anything(), 5 * eager)).collect();
    for i in 0..300 {
        pair.a.send(pair.to_b, &content(len_of(i), i as u64), i as u64);
        if i % 3 == 0 {
            pair.step();
            receives.push(pair.b.receive(anything(), 5 * eager));
        }
    }
    pair.run_until_quiet();
    receives.extend((0..100).map(|_| pair.b.receive(anything(), 5 * eager)));
    for (i, receive) in receives.into_iter().enumerate() {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, i as u64, &content(len_of(i), i as u64));
    }
    pair.run_until_quiet();
    assert_eq!((pair.a.pending(), pair.b.pending()), (0, 0));
}

/// Messages of several pieces, into several pieces, cut elsewhere.
pub fn pieces_are_gathered_and_scattered<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for total in [0, 1, 47, 48, 49, 500, 9000, 300_000] {
        for parts in [1, 2, 3, 17] {
            let bytes = content(total, parts as u64);
            let receive =
                pair.b.receive_with(anything(), &cut(total, parts % 3 + 2)).expect("the receive starts");
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for len in cut(total, parts) {
                let (piece, tail) = rest.split_at(len);
                pieces.push(piece);
                rest = tail;
            }
            let send =
                pair.a.send_with(pair.to_b, &pieces, 1, SendOptions::default()).expect("the send starts");
            let outcome = pair.finish_b(receive);
            assert_received(&outcome, 1, &bytes);
            assert_eq!(pair.finish_a(send).status, Ok(()));
        }
    }
}

/// More pieces than the limit are refused, the limit itself is not.
pub fn too_many_pieces_are_refused<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let pieces = vec![&b"x"[..]; 1025];
    let to_b = pair.to_b;
    let mut start = |count: usize| pair.a.send_with(to_b, &pieces[..count], 1, SendOptions::default());
    assert_eq!(start(1025), Err(Error::Invalid));
    start(1024).expect("1024 pieces are allowed");
    assert_eq!(pair.b.receive_with(anything(), &[1; 1025]), Err(Error::Invalid));
    let receive = pair.b.receive_with(anything(), &[1; 1024]).expect("1024 pieces are allowed");
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 1, &[b'x'; 1024]);
}

/// The immediate value of a message arrives with it; messages without one say so.
pub fn immediates_arrive<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for len in [0, 8, 33, 40, 41, 48, 49, 1000, 100_000] {
        for (value, sync) in [(Some(0), false), (None, false), (Some(u64::MAX), true), (None, true)] {
            let bytes = content(len, 3);
            let receive = pair.b.receive(exactly(pair.to_a, 9), len);
            let options = SendOptions { immediate: value, sync, always_complete: true };
            let send = pair.a.send_with(pair.to_b, &[&bytes], 9, options).expect("the send starts");
            let outcome = pair.finish_b(receive);
            assert_received(&outcome, 9, &bytes);
            let sent = pair.finish_a(send);
            for completion in [outcome.completion, sent.completion].map(|c| c.expect("both have completions"))
            {
                assert_eq!((completion.flags & 1 != 0).then_some(completion.immediate), value);
            }
        }
    }
}

/// A message that is longer than the buffer fills it, and its whole length is told.
pub fn longer_messages_are_truncated<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for (len, room) in [(1, 0), (49, 48), (200, 7), (8000, 1), (100_000, 0), (100_000, 1), (1 << 20, 100_001)]
    {
        for early in [false, true] {
            let bytes = content(len, 8);
            let posted = (!early).then(|| pair.b.receive(exactly(pair.to_a, 2), room));
            let send = pair.a.send(pair.to_b, &bytes, 2);
            pair.run_until_quiet();
            let receive = posted.unwrap_or_else(|| pair.b.receive(exactly(pair.to_a, 2), room));
            let outcome = pair.finish_b(receive);
            assert_eq!(outcome.status, Err(Error::Truncated), "{len} bytes into {room}");
            assert_eq!(outcome.completion.expect("receives have completions").length, len as u64);
            assert!(outcome.bytes == bytes[..room], "{len} bytes into {room} differ");
            assert_eq!(pair.finish_a(send).status, Ok(()));
        }
    }
}

/// Both send large and small messages at the same time.
pub fn both_directions_at_once<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let lengths = [10, 200_000, 0, 5000, 700_000];
    let mut receives = Vec::new();
    for (i, len) in lengths.into_iter().enumerate() {
        let tag = i as u64;
        receives.push((
            pair.a.receive(exactly(pair.to_b, tag), len),
            pair.b.receive(exactly(pair.to_a, tag), len),
        ));
        pair.a.send(pair.to_b, &content(len, 100 + tag), tag);
        pair.b.send(pair.to_a, &content(len, 200 + tag), tag);
    }
    for (i, (at_a, at_b)) in receives.into_iter().enumerate() {
        let tag = i as u64;
        let (at_a, at_b) = (pair.finish_a(at_a), pair.finish_b(at_b));
        assert_received(&at_a, tag, &content(lengths[i], 200 + tag));
        assert_received(&at_b, tag, &content(lengths[i], 100 + tag));
    }
    pair.run_until_quiet();
    assert_eq!((pair.a.pending(), pair.b.pending()), (0, 0));
}

/// Large messages under way at the same time all arrive, and small ones pass them.
pub fn many_large_messages_share_the_link<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let len = 150_000;
    let receives: Vec<_> = (0..40).map(|tag| pair.b.receive(exactly(pair.to_a, tag), len)).collect();
    let small = pair.b.receive(exactly(pair.to_a, 99), 8);
    for tag in 0..40 {
        pair.a.send(pair.to_b, &content(len, tag), tag);
    }
    pair.a.send(pair.to_b, b"small", 99);
    let outcome = pair.finish_b(small);
    assert_received(&outcome, 99, b"small");
    for (tag, receive) in receives.into_iter().enumerate() {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, tag as u64, &content(len, tag as u64));
    }
    let at_small = pair.b.order().iter().position(|ticket| *ticket == small).expect("it has ended");
    assert!(at_small < pair.b.order().len() - 1, "a small message waited for all large ones");
}

fn pass<F: Fixture>(pair: &mut Pair<F>, len: usize, posted_first: bool) {
    let bytes = content(len, u64::from(posted_first));
    let tag = len as u64;
    let posted = posted_first.then(|| pair.b.receive_now(pair.to_a, tag, len));
    let send = pair.a.send(pair.to_b, &bytes, tag);
    if !posted_first {
        pair.run_until_quiet();
    }
    let receive = posted.unwrap_or_else(|| pair.b.receive(exactly(pair.to_a, tag), len));
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, tag, &bytes);
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// Lengths of `parts` pieces of `total` bytes, of which some are empty.
fn cut(total: usize, parts: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..parts).map(|i| if i % 4 == 1 { 0 } else { total / parts }).collect();
    let rest = total - lengths.iter().sum::<usize>();
    lengths[parts - 1] += rest;
    lengths
}
