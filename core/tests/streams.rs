//! Byte streams between engines, in virtual time: over links that break, past messages that are stopped, and against peers
//! that say what they may not.

use gridnet_core::endpoint::{Limits, PeerState};
use gridnet_core::error::Error;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::stream::{ListenerId, Ready, StreamId};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::Node;
use gridnet_core::testing::pair::{Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::wire::{Kind, Message, Said};

const LEN: usize = 300_000;

fn text(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|place| (place % 251) as u8).collect()
}

/// A stream from `a`, with its end at `b`.
fn connect(pair: &mut Pair<Loopback>) -> [StreamId; 2] {
    let (listener, _) = pair.b.engine().stream_listen("echo", 4).expect("the name is free");
    let (ours, _) = pair.a.engine().stream_connect(pair.to_b, "echo").expect("the peer lives");
    let theirs = accept(pair, listener);
    assert!(pair.run_until(|pair| pair.a.engine().stream_connected(ours) == Ok(())));
    [ours, theirs]
}

fn accept(pair: &mut Pair<Loopback>, listener: ListenerId) -> StreamId {
    assert!(pair.run_until(|pair| pair.b.engine().listener_ready(listener).is_ok_and(|ready| ready.input)));
    let (stream, _, peer) = pair.b.engine().stream_accept(listener).expect("it is ready");
    assert_eq!(peer, pair.to_a);
    stream
}

/// How far one end has come.
#[derive(Default)]
struct End {
    written: usize,
    read: usize,
    ended: bool,
}

impl End {
    /// Writes and reads some, if it can.
    fn go_on(&mut self, node: &mut Node<LoopbackRail>, stream: StreamId, random: &mut Random) {
        let len = (1 + random.below(20_000) as usize).min(LEN - self.written);
        match node.engine().stream_write(stream, &text(self.written, len)) {
            Ok(0) => {}
            Ok(len) => {
                self.written += len;
                if self.written == LEN {
                    assert_eq!(node.engine().stream_shut_down(stream), Ok(()));
                }
            }
            Err(error) => assert!(error == Error::Again || error == Error::Closed && self.written == LEN),
        }
        let mut to = vec![0; 1 + random.below(30_000) as usize];
        match node.engine().stream_read(stream, &mut to) {
            Ok(0) => self.ended = true,
            Ok(len) => {
                assert!(!self.ended && to[..len] == text(self.read, len), "other bytes");
                self.read += len;
            }
            Err(error) => assert_eq!(error, Error::Again),
        }
    }
}

#[test]
fn every_byte_comes_once_over_links_that_break() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new(Loopback::cutting(2_500_000 * (seed % 2)));
        let [ours, theirs] = connect(&mut pair);
        let mut ends = [End::default(), End::default()];
        let mut cuts = 0;
        for round in 0.. {
            assert!(round < 200_000, "no end");
            ends[0].go_on(&mut pair.a, ours, &mut random);
            ends[1].go_on(&mut pair.b, theirs, &mut random);
            if cuts < 10 && random.chance(0.1) {
                pair.cut(&mut random);
                cuts += 1;
            }
            pair.step();
            if ends.iter().all(|end| end.ended) {
                break;
            }
        }
        assert_eq!(ends.map(|end| (end.written, end.read)), [(LEN, LEN); 2]);
        assert!(cuts > 0, "no link was broken");
        for (node, peer) in [(&mut pair.a, pair.to_b), (&mut pair.b, pair.to_a)] {
            let counters = node.engine().peer_counters(peer).expect("it is there");
            let counted = [counters.streams, counters.stream_bytes_sent, counters.stream_bytes_received];
            assert_eq!(counted, [1, LEN as u64, LEN as u64], "bytes that were sent again count once");
        }
    }
}

/// A writer that shows what it writes, in long parts and short ones.
struct Shower<'a> {
    bytes: &'a [u8],
    written: usize,
    /// How many bytes are shown, and how many were read so.
    shown: usize,
    read_there: usize,
}

impl Shower<'_> {
    fn go_on(&mut self, node: &mut Node<LoopbackRail>, stream: StreamId, random: &mut Random) {
        if self.shown > 0 {
            match node.engine().stream_shown(stream) {
                Ok(len) => {
                    assert!(len <= self.shown);
                    (self.written, self.read_there, self.shown) =
                        (self.written + len, self.read_there + len, 0);
                }
                Err(error) => return assert_eq!(error, Error::Again),
            }
        }
        let left = &self.bytes[self.written..];
        if left.is_empty() {
            // Once more does nothing.
            return assert_eq!(node.engine().stream_shut_down(stream), Ok(()));
        }
        let part = &left[..(1 + random.below(900_000) as usize).min(left.len())];
        // SAFETY: nobody writes the bytes, and they outlive the engine's interest: the test runs until all were read.
        let memory = unsafe { Iov::new(part.as_ptr().cast_mut(), part.len()) };
        if node.engine().stream_show(stream, &memory) {
            self.shown = part.len();
            assert_eq!(node.engine().stream_write(stream, part), Err(Error::Again), "nothing passes it");
            return;
        }
        match node.engine().stream_write(stream, part) {
            Ok(len) => self.written += len,
            Err(error) => assert_eq!(error, Error::Again),
        }
    }
}

/// What is shown comes once and in its place among what is written, by whatever link there is: one that breaks, over which it has to be
/// sent after all, or one that cannot fetch.
#[test]
fn bytes_that_are_fetched_come_once_and_in_order() {
    const WHOLE: usize = 3_000_000;
    let bytes = text(0, WHOLE);
    let mut read_there = [0; 3];
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let way = seed as usize % 3;
        let mut pair = Pair::new(match way {
            0 => Loopback::new(0, true),
            1 => Loopback::cutting(0).fetching(),
            _ => Loopback::new(0, true).fetching_late(),
        });
        let [ours, theirs] = connect(&mut pair);
        let mut shower = Shower { bytes: &bytes, written: 0, shown: 0, read_there: 0 };
        let (mut read, mut cuts, mut ended) = (0, 0, false);
        let mut to = vec![0; 700_000];
        for round in 0.. {
            assert!(round < 200_000, "no end");
            shower.go_on(&mut pair.a, ours, &mut random);
            let len = 1 + random.below(to.len() as u64) as usize;
            match pair.b.engine().stream_read(theirs, &mut to[..len]) {
                Ok(0) => ended = true,
                Ok(len) => {
                    assert!(to[..len] == text(read, len), "other bytes");
                    read += len;
                }
                Err(error) => assert_eq!(error, Error::Again),
            }
            if way == 1 && cuts < 10 && random.chance(0.2) {
                pair.cut(&mut random);
                cuts += 1;
            }
            pair.step();
            if ended {
                break;
            }
        }
        assert_eq!((shower.written, read), (WHOLE, WHOLE));
        read_there[way] += shower.read_there;
        let counters = pair.b.engine().peer_counters(pair.to_a).expect("it is there");
        assert_eq!(counters.stream_bytes_received, WHOLE as u64);
        let counters = pair.a.engine().peer_counters(pair.to_b).expect("it is there");
        assert_eq!(counters.stream_bytes_sent, WHOLE as u64);
    }
    assert!(read_there[0] > WHOLE / 2 && read_there[1] > 0, "most of it was to be fetched: {read_there:?}");
    assert_eq!(read_there[2], 0, "a rail that takes its time is not asked");
}

/// A part that is taken back cannot be fetched any more, and ends the stream for both.
#[test]
fn what_is_taken_back_is_not_fetched() {
    let bytes = text(0, 1 << 20);
    // SAFETY: as above.
    let memory = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
    let mut to = vec![0; 1 << 20];
    for reads_first in [false, true] {
        let mut pair = Pair::new(Loopback::new(0, true));
        let [ours, theirs] = connect(&mut pair);
        assert!(pair.a.engine().stream_show(ours, &memory));
        assert!(pair.run_until(|pair| pair.b.engine().stream_ready(theirs).is_ok_and(|ready| ready.input)));
        if reads_first {
            assert_eq!(pair.b.engine().stream_read(theirs, &mut to[..1000]), Ok(1000));
        }
        pair.a.engine().stream_hide(ours);
        assert_eq!(pair.a.engine().stream_shown(ours), Err(Error::Canceled));
        assert_eq!(pair.b.engine().stream_read(theirs, &mut to), Err(Error::Again), "it is out of reach");
        pair.run_until_quiet();
        // What the two say of it has crossed: nobody is cut off.
        assert_eq!(pair.b.engine().stream_read(theirs, &mut to), Ok(0));
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        assert_eq!((pair.a.state(to_b), pair.b.state(to_a)), (PeerState::Up, PeerState::Up));
        assert_eq!(pair.a.engine().bytes_under_way(), 0);
    }
    // A reader that goes says so, and the writer is told.
    let mut pair = Pair::new(Loopback::new(0, true));
    let [ours, theirs] = connect(&mut pair);
    assert!(pair.a.engine().stream_show(ours, &memory));
    pair.run_until_quiet();
    pair.b.engine().stream_close(theirs);
    pair.run_until_quiet();
    assert_eq!(pair.a.engine().stream_shown(ours), Err(Error::Closed));
    pair.a.engine().stream_hide(ours);
    assert_eq!(pair.a.engine().bytes_under_way(), 0);
}

/// Messages that nobody receives stop messages, and nothing else.
#[test]
fn streams_go_past_messages_that_nobody_receives() {
    let limits = Limits { unexpected_messages: 64, ..Limits::default() };
    let mut pair = Pair::with(Loopback::new(0, true), Setup { limits, ..Setup::default() });
    let to_b = pair.to_b;
    for _ in 0..2000 {
        pair.a.send(to_b, b"flood", 1);
        pair.step();
    }
    let stuck = pair.a.send(to_b, b"one more", 1);
    pair.run_until_quiet();
    assert!(!pair.a.is_finished(stuck), "messages were to be stopped");
    let [ours, theirs] = connect(&mut pair);
    assert_eq!(pair.a.engine().stream_write(ours, b"hello"), Ok(5));
    assert!(pair.run_until(|pair| pair.b.engine().stream_ready(theirs).is_ok_and(|ready| ready.input)));
    let mut to = [0; 10];
    assert_eq!(pair.b.engine().stream_read(theirs, &mut to), Ok(5));
    assert_eq!(&to[..5], b"hello");
}

/// Long messages and a stream share a link: neither waits for the end of the other.
#[test]
fn a_stream_goes_on_beside_long_messages() {
    let mut pair = Pair::new(Loopback::new(0, false));
    let [ours, theirs] = connect(&mut pair);
    let to_b = pair.to_b;
    let long: Vec<_> = (0..4)
        .map(|tag| {
            pair.b.receive(gridnet_core::testing::node::from_any(tag), 4_000_000);
            pair.a.send(to_b, &vec![1; 4_000_000], tag)
        })
        .collect();
    let (mut written, mut read, mut to) = (0, 0, vec![0; 100_000]);
    while read < LEN {
        assert!(
            !long.iter().all(|ticket| pair.a.is_finished(*ticket)),
            "the stream has waited for all of them"
        );
        if let Ok(len) = pair.a.engine().stream_write(ours, &text(written, LEN - written)) {
            written += len;
        }
        pair.step();
        if let Ok(len) = pair.b.engine().stream_read(theirs, &mut to) {
            assert!(to[..len] == text(read, len));
            read += len;
        }
    }
    for ticket in long {
        assert_eq!(pair.finish_a(ticket).status, Ok(()));
    }
}

#[test]
fn a_peer_that_has_gone_ends_its_streams() {
    let mut pair = Pair::new(Loopback::new(0, true));
    let [ours, theirs] = connect(&mut pair);
    assert_eq!(pair.a.engine().stream_write(ours, b"last"), Ok(4));
    pair.run_until_quiet();
    pair.a.close();
    let to_a = pair.to_a;
    assert!(pair.run_until(|pair| matches!(pair.b.state(to_a), PeerState::Gone(_))));
    let both = Ready { input: true, output: true };
    assert_eq!(pair.b.engine().stream_ready(theirs), Ok(both));
    let mut to = [0; 10];
    assert_eq!(pair.b.engine().stream_read(theirs, &mut to), Ok(4));
    assert_eq!(pair.b.engine().stream_read(theirs, &mut to), Err(Error::PeerGone));
    assert_eq!(pair.b.engine().stream_write(theirs, b"?"), Err(Error::PeerGone));
}

/// A peer that sends what it was not granted is cut off, and so are its streams; others go on.
#[test]
fn a_peer_that_sends_more_than_it_may_is_cut_off() {
    let mut pair = Pair::new(Loopback::new(0, true));
    let (listener, _) = pair.a.engine().stream_listen("echo", 4).expect("the name is free");
    let rail = pair.open_rail(9);
    let mut forger = RawPeer::connect(rail, pair.a.address()).expect("the rail leads to its peer");
    let step = |pair: &mut Pair<Loopback>, forger: &mut RawPeer<LoopbackRail>| {
        for _ in 0..20 {
            let now = pair.fixture.hub().advance(0);
            pair.step();
            forger.drive(now);
        }
    };
    step(&mut pair, &mut forger);
    let open = Message::Stream { stream: 5, said: Said::Open { window: 100 } };
    let mut call = RawFrame::of(&open.frame(Gather::EMPTY));
    call.payload = b"echo".to_vec();
    assert!(forger.post(&call));
    step(&mut pair, &mut forger);
    let (stream, _, source) = pair.a.engine().stream_accept(listener).expect("it has called");
    let answer = forger.frames.iter().find(|frame| frame.kind == Kind::Stream as u8).expect("it is answered");
    let (window, number) = (answer.extension[1], answer.extension[2]);
    assert_eq!((answer.word, window), (5, 256 << 10));
    let bytes = |len: u64| {
        let mut frame = RawFrame::of(&Message::Bytes { stream: number }.frame(Gather::EMPTY));
        frame.payload = vec![1; len as usize];
        frame
    };
    for _ in 0..window / 1024 {
        assert!(forger.post(&bytes(1024)));
        step(&mut pair, &mut forger);
    }
    assert_eq!(pair.a.state(source), PeerState::Up);
    assert!(forger.post(&bytes(1)));
    step(&mut pair, &mut forger);
    assert!(forger.is_down());
    let mut to = vec![0; 300_000];
    assert_eq!(pair.a.engine().stream_read(stream, &mut to), Ok(256 << 10));
    assert_eq!(pair.a.engine().stream_read(stream, &mut to), Err(Error::PeerMisbehaved));
    // The other peer is not concerned.
    let (ours, _) = pair.b.engine().stream_connect(pair.to_a, "echo").expect("the peer lives");
    assert!(pair.run_until(|pair| pair.b.engine().stream_connected(ours) == Ok(())));
}
