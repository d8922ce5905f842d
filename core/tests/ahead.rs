//! The first bytes of large messages come right behind the announcement.

use gridnet_core::endpoint::Limits;
use gridnet_core::error::Error;
use gridnet_core::mem::Gather;
use gridnet_core::testing::conformance::reliability;
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::{anything, exactly};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::wire::{Kind, Message};

#[test]
fn a_cut_at_any_step_delays_a_transfer() {
    reliability::a_cut_at_any_step_delays_a_transfer(Loopback::cutting(0).placing().going_ahead());
}

#[test]
fn cancellation_under_cuts_ends_both_sides() {
    reliability::cancellation_under_cuts_ends_both_sides(Loopback::cutting(0).placing().going_ahead());
}

/// Steps of the hub's time for one way.
const LATENCY_STEPS: usize = 10;
/// Longer than what goes whole, and shorter than a segment.
const LEN: usize = 60_000;

fn far(goes_ahead: bool) -> Pair<Loopback> {
    let loopback = Loopback::new(LATENCY_STEPS as u64 * 1_000, false).placing();
    Pair::new(if goes_ahead { loopback.going_ahead() } else { loopback })
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// Steps until a message has come for which a receive waits.
fn steps(pair: &mut Pair<Loopback>, len: usize) -> usize {
    let receive = pair.b.receive(exactly(pair.to_a, 1), len);
    let send = pair.a.send(pair.to_b, &bytes(len), 1);
    let mut steps = 0;
    assert!(pair.run_until(|pair| {
        steps += 1;
        pair.b.collect();
        pair.b.is_finished(receive)
    }));
    assert_eq!(pair.finish_b(receive).bytes, bytes(len));
    assert_eq!(pair.finish_a(send).status, Ok(()));
    steps
}

#[test]
fn what_goes_ahead_takes_one_way() {
    let [ahead, asked] = [true, false].map(|goes_ahead| steps(&mut far(goes_ahead), LEN));
    assert!(ahead <= LATENCY_STEPS + 4, "{ahead} steps");
    assert!(asked >= 3 * LATENCY_STEPS, "{asked} steps");
    // The rest of a longer one is asked for while the first bytes come.
    let [ahead, asked] = [true, false].map(|goes_ahead| steps(&mut far(goes_ahead), 5 * LEN));
    assert!(ahead <= 3 * LATENCY_STEPS + 10 && ahead <= asked, "{ahead} and {asked} steps");
}

/// They wait in the store, as far as its bound allows; what was dropped is asked for.
#[test]
fn what_nobody_waits_for_is_kept_within_the_bound() {
    for unexpected_bytes in [1 << 20, 4 * LEN + 100, 1000] {
        let limits = Limits { unexpected_bytes, ..Limits::default() };
        let setup = Setup { limits, ..Setup::default() };
        let mut pair = Pair::with(Loopback::new(0, false).placing().going_ahead(), setup);
        let sends = [1, 2, 3].map(|tag| pair.a.send(pair.to_b, &bytes(LEN + tag as usize), tag));
        pair.run_until_quiet();
        let kept = pair.b.engine().counters().unexpected_bytes_now as usize;
        let count = (unexpected_bytes / 4 / (LEN + 3)).min(3);
        assert_eq!(kept, (1..=count).map(|tag| LEN + tag).sum::<usize>(), "{unexpected_bytes}");
        assert!(sends.iter().all(|send| !pair.a.is_finished(*send)), "nobody has received them");
        for tag in [3, 1, 2] {
            let receive = pair.b.receive(exactly(pair.to_a, tag), LEN + tag as usize);
            assert_eq!(pair.finish_b(receive).bytes, bytes(LEN + tag as usize), "{unexpected_bytes}");
        }
        for send in sends {
            assert_eq!(pair.finish_a(send).status, Ok(()));
        }
        assert_eq!(pair.b.engine().counters().unexpected_bytes_now, 0);
    }
}

/// What is kept of large messages makes way for small ones: no peer is told to stop for it.
#[test]
fn what_comes_ahead_stops_nobody() {
    let limits = Limits { unexpected_bytes: 16 * LEN, ..Limits::default() };
    let setup = Setup { limits, ..Setup::default() };
    let mut pair = Pair::with(Loopback::new(0, false).placing().going_ahead(), setup);
    let large = [1, 2, 3, 4].map(|tag| pair.a.send(pair.to_b, &bytes(LEN), tag));
    pair.run_until_quiet();
    assert_eq!(
        pair.b.engine().counters().unexpected_bytes_now as usize,
        4 * LEN,
        "all that one peer may bring"
    );
    let small = [5, 6].map(|tag| pair.a.send(pair.to_b, &bytes(100), tag));
    let receive = pair.b.receive(exactly(pair.to_a, 6), 100);
    assert_eq!(pair.finish_b(receive).bytes, bytes(100));
    let counters = pair.b.engine().counters();
    assert_eq!((counters.peers.backpressure_stops, counters.unexpected_bytes_now), (0, 100));
    for (tag, len) in [(3, LEN), (1, LEN), (5, 100), (4, LEN), (2, LEN)] {
        let receive = pair.b.receive(exactly(pair.to_a, tag), len);
        assert_eq!(pair.finish_b(receive).bytes, bytes(len));
    }
    for send in large.into_iter().chain(small) {
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
}

/// A matched probe takes a message of which not all has come: what comes meanwhile has no place, and is asked for.
#[test]
fn a_message_is_held_while_it_comes() {
    let mut pair = Pair::new(Loopback::new(0, false).placing().going_ahead());
    let send = pair.a.send(pair.to_b, &bytes(3 * LEN), 1);
    assert!(pair.run_until(|pair| pair.b.engine().probe(&exactly(pair.to_a, 1)).is_some()));
    let pattern = exactly(pair.to_a, 1);
    let (_, held) = pair.b.engine().matched_probe(&pattern).expect("just seen");
    pair.run_until_quiet();
    let receive = pair.b.receive_held(held, 3 * LEN).expect("it is held");
    assert_eq!(pair.finish_b(receive).bytes, bytes(3 * LEN));
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// A sender goes ahead by so much, and not by all that it has to send.
#[test]
fn whoever_is_not_heard_goes_ahead_by_a_bound() {
    let mut pair = Pair::new(Loopback::new(0, false).placing().going_ahead());
    let sends: Vec<_> = (0..20).map(|tag| pair.a.send(pair.to_b, &bytes(LEN), tag)).collect();
    pair.run_until_quiet();
    let kept = pair.b.engine().counters().unexpected_bytes_now as usize;
    assert!((LEN..=256 << 10).contains(&kept), "{kept} bytes");
    for tag in 0..20 {
        let receive = pair.b.receive(exactly(pair.to_a, tag), LEN);
        assert_eq!(pair.finish_b(receive).bytes, bytes(LEN));
    }
    for send in sends {
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
}

/// What it is, whether a peer may say that, messages and the lengths of their payloads.
type Case<'a> = (&'a str, bool, &'a [(Message, usize)]);

/// What a peer may say of bytes that come unasked, and what ends it.
#[test]
fn bytes_that_do_not_follow_their_announcement_end_the_peer() {
    let segment = |offset| Message::Segment { op: 0, offset };
    let cases: [Case<'_>; 8] = [
        ("in two parts", true, &[(announced(9000, 900), 0), (segment(0), 400), (segment(400), 500)]),
        ("for a receive that is too short", true, &[(announced(90_000, 20_000), 0), (segment(0), 20_000)]),
        ("without an announcement", false, &[(segment(0), 400)]),
        ("more than announced", false, &[(announced(9000, 900), 0), (segment(0), 901)]),
        ("twice", false, &[(announced(9000, 900), 0), (segment(0), 400), (segment(0), 400)]),
        ("beyond their place", false, &[(announced(9000, 900), 0), (segment(1), 400)]),
        ("longer than the message", false, &[(announced(100, 900), 0)]),
        ("cut short", false, &[(announced(9000, 900), 0), (segment(0), 400), (announced(9000, 0), 0)]),
    ];
    for (what, is_fine, frames) in cases {
        for has_receive in [true, false] {
            let mut stranger = Stranger::new();
            if has_receive {
                stranger.pair.a.receive(anything(), 9000);
            }
            stranger.say(frames);
            assert_eq!(stranger.raw.is_down(), !is_fine, "{what}, {has_receive}");
        }
    }
}

/// What was asked for is behind what comes unasked. Who sends the first bytes of a message twice, by both ways, does not make it whole.
#[test]
fn a_segment_that_was_asked_for_takes_no_place_of_those_ahead() {
    type Segments = &'static [(bool, u64, usize)];
    let cases: [(&str, Segments); 3] = [
        ("asked for, unasked", &[(true, 0, 900), (false, 0, 900)]),
        ("unasked, asked for, unasked", &[(false, 0, 400), (true, 400, 500), (false, 400, 500)]),
        ("unasked, asked for", &[(false, 0, 400), (true, 400, 1400)]),
    ];
    for (what, segments) in cases {
        let mut stranger = Stranger::new();
        let receive = stranger.pair.a.receive(anything(), 1800);
        stranger.say(&[(announced(1800, 900), 0)]);
        let asked = stranger.raw.frames.iter().find(|frame| frame.kind == Kind::Rtr as u8).expect("it asks");
        let (op, offset) = (asked.extension[0], asked.extension[1]);
        assert_eq!(offset, 900, "{what}");
        for (is_asked_for, offset, len) in segments {
            let op = if *is_asked_for { op } else { 0 };
            stranger.say(&[(Message::Segment { op, offset: *offset }, *len)]);
        }
        assert!(stranger.raw.is_down(), "{what}");
        assert!(stranger.pair.finish_a(receive).status.is_err(), "{what}");
    }
}

/// Of a message whose sender goes in its midst nothing is kept, and no room is counted for it; one that is here stays.
#[test]
fn what_never_comes_whole_takes_no_room() {
    for (len, kept) in [(9000, 0), (900, 900)] {
        for come in [400, 900] {
            let kept = if come == 900 { kept } else { 0 };
            let mut stranger = Stranger::new();
            stranger.say(&[(announced(len, 900), 0), (Message::Segment { op: 0, offset: 0 }, come)]);
            let now = |stranger: &mut Stranger| stranger.pair.a.engine().counters();
            assert_eq!(now(&mut stranger).unexpected_bytes_now, 900);
            // It breaks the protocol.
            stranger.say(&[(Message::Segment { op: 0, offset: 7 }, 1)]);
            assert!(stranger.raw.is_down());
            let counters = now(&mut stranger);
            assert_eq!((counters.unexpected_now, counters.unexpected_bytes_now), (1, kept), "{len}, {come}");
            let receive = stranger.pair.a.receive(anything(), 900);
            let outcome = stranger.pair.finish_a(receive);
            if kept > 0 {
                assert_eq!((outcome.status, outcome.bytes), (Ok(()), vec![7; 900]));
            } else {
                assert_eq!(outcome.status, Err(Error::PeerGone), "{len}, {come}");
            }
            assert_eq!(now(&mut stranger).unexpected_bytes_now, 0);
        }
    }
}

fn announced(len: u64, ahead: u64) -> Message {
    Message::Rts { tag: 1, len, op: 77, immediate: None, source: None, ahead }
}

/// Somebody who says anything, and whom he talks to: the first of a pair.
struct Stranger {
    raw: RawPeer<<Loopback as Fixture>::Rail>,
    pair: Pair<Loopback>,
}

impl Stranger {
    fn new() -> Stranger {
        let mut pair = Pair::new(Loopback::new(0, false).placing().going_ahead());
        let rail = pair.open_rail(3);
        let address = *pair.a.address();
        let raw = RawPeer::connect(rail, &address).expect("the rail leads there");
        let mut stranger = Stranger { raw, pair };
        stranger.say(&[]);
        stranger
    }

    fn say(&mut self, frames: &[(Message, usize)]) {
        for (message, len) in frames {
            let mut frame = RawFrame::of(&message.frame(Gather::EMPTY));
            frame.payload = vec![7; *len];
            self.raw.post(&frame);
        }
        for _ in 0..10 {
            let now = self.pair.fixture.tick();
            self.raw.drive(now);
            self.pair.a.drive(now);
        }
    }
}
