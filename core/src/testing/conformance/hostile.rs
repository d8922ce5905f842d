//! A peer that forges frames harms nobody but its own conversation.

use super::{assert_received, content};
use crate::endpoint::{Limits, PeerState};
use crate::error::Error;
use crate::rail::PeerId;
use crate::testing::node::{exactly, SendOptions, Ticket};
use crate::testing::pair::{Fixture, Pair, Setup};
use crate::testing::random::Random;
use crate::testing::raw::{RawFrame, RawPeer};
use crate::wire::{extension_words, Kind, FLAG_AHEAD, FLAG_IMMEDIATE, FLAG_SOURCE, FLAG_SYNC, MAX_EXTENSION};

/// Peers that forge, one after the other.
const FORGERS: u64 = 60;
/// Frames of each.
const FRAMES: usize = 120;
/// Values that are wrong at the edges.
const ODD: [u64; 12] =
    [0, 1, 2, 8, 4096, 100_000, 1 << 31, 1 << 32 | 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX - 1, u64::MAX];

/// Frames of any kind with any numbers, some of them numbers of operations that exist.
pub fn forged_frames_harm_nobody_else<F: Fixture>(fixture: F) {
    let forgers = u8::try_from(fixture.times(FORGERS)).expect("they are numbered by a byte");
    let mut scene = Scene::new(fixture);
    let mut cut = 0;
    for number in 0..forgers {
        let mut random = Random::new(u64::from(number));
        scene.admit(20 + number);
        scene.start_operations(&mut random);
        for _ in 0..FRAMES {
            let frame = scene.forge(&mut random);
            scene.forger.post(&frame);
            scene.step();
            if scene.forger.is_down() {
                break;
            }
        }
        cut += u32::from(scene.forger.is_down());
        scene.check_victim();
        scene.check_friend(number);
        scene.dismiss();
    }
    assert!(cut > u32::from(forgers) / 4, "only {cut} forgers were cut off: the frames are too tame");
}

/// Answers to questions that were not asked.
pub fn answers_nobody_asked_for_are_survived<F: Fixture>(fixture: F) {
    let mut scene = Scene::new(fixture);
    let harmless = [Kind::Rtr, Kind::Fin, Kind::Matched, Kind::Abort, Kind::Stop, Kind::Go];
    let kinds = harmless.into_iter().chain([Kind::Segment, Kind::Return]);
    for (number, kind) in kinds.enumerate() {
        scene.admit(100 + number as u8);
        let mut frame = plain(kind, 0);
        frame.word = 1 << 32;
        frame.extension = [1 << 32, 0, 8, 0, 0];
        if kind == Kind::Segment {
            frame.payload = vec![1; 8];
        }
        match kind {
            Kind::Abort => frame.extension[0] = i64::from(Error::Canceled.code()) as u64,
            Kind::Fin => frame.extension[0] = 0,
            _ => {}
        }
        assert!(scene.forger.post(&frame), "{kind:?}");
        scene.settle();
        scene.check_victim();
        assert_eq!(scene.forger.is_down(), !harmless.contains(&kind), "{kind:?}");
        scene.check_friend(number as u8);
        scene.dismiss();
    }
}

/// Announced lengths that no memory has.
pub fn lengths_beyond_memory_are_survived<F: Fixture>(fixture: F) {
    let mut scene = Scene::new(fixture);
    scene.admit(100);
    let source = scene.source;
    for (i, len) in [u64::MAX, u64::MAX, i64::MAX as u64, 1 << 47].into_iter().enumerate() {
        let receive = scene.pair.a.receive(exactly(source, i as u64), 64);
        let mut frame = plain(Kind::Rts, 0);
        frame.word = i as u64;
        frame.extension = [len, 7, 0, 0, 0];
        if !scene.forger.post(&frame) {
            break;
        }
        scene.settle();
        // Either the peer is cut off, or it is asked for what fits into the buffer.
        if scene.forger.is_down() {
            assert_eq!(scene.pair.finish_a(receive).status, Err(Error::PeerMisbehaved));
            break;
        }
        let asked = scene.forger.frames.pop().expect("the victim asks");
        assert_eq!((asked.kind, asked.extension[2]), (Kind::Rtr as u8, 64));
        let mut answer = plain(Kind::Segment, 0);
        answer.word = asked.extension[0];
        answer.payload = vec![9; 64];
        assert!(scene.forger.post(&answer));
        scene.settle();
        let outcome = scene.pair.finish_a(receive);
        assert_eq!((outcome.status, outcome.bytes), (Err(Error::Truncated), vec![9; 64]));
    }
    scene.check_friend(0);
}

/// The same for a receive that has no buffer: the message is refused where memory for it cannot be had, on both sides.
pub fn lengths_beyond_memory_are_not_lent<F: Fixture>(fixture: F) {
    let mut scene = Scene::new(fixture);
    scene.admit(100);
    let source = scene.source;
    for (i, len) in [u64::MAX, i64::MAX as u64, 1 << 62].into_iter().enumerate() {
        let tag = i as u64;
        let posted = (i % 2 == 0).then(|| scene.pair.a.receive_loan(exactly(source, tag)));
        let mut frame = plain(Kind::Rts, 0);
        frame.word = tag;
        frame.extension = [len, 7, 0, 0, 0];
        assert!(scene.forger.post(&frame));
        scene.settle();
        let receive = posted.unwrap_or_else(|| scene.pair.a.receive_loan(exactly(source, tag)));
        let outcome = scene.pair.finish_a(receive);
        assert_eq!(outcome.status, Err(Error::Limit));
        scene.settle();
        let answer = scene.forger.frames.pop().expect("the sender hears of it");
        let refused = i64::from(Error::Limit.code()) as u64;
        assert_eq!((answer.kind, answer.word, answer.extension[0]), (Kind::Fin as u8, 7, refused));
    }
    assert_eq!(scene.pair.a.engine().loans(), 0);
    scene.check_victim();
    scene.check_friend(0);
}

/// What is announced and does not come takes a bounded room, which the end of the queue or the peer frees.
pub fn announced_lengths_share_a_bound<F: Fixture>(fixture: F) {
    let limits = Limits { lent_bytes: 1 << 20, ..Limits::default() };
    let mut scene = Scene::with(fixture, Setup { limits, ..Setup::default() });
    scene.admit(100);
    scene.announce_too_much();
    scene.operations.clear();
    scene.pair.a.renew_cq(8);
    assert_eq!(scene.pair.a.engine().promised_loans(), 0);
    scene.announce_too_much();
    scene.dismiss();
    assert_eq!(scene.pair.a.engine().promised_loans(), 0);
    let bytes = content(1 << 20, 2);
    for tag in 0..3 {
        let (to_a, to_b) = (scene.pair.to_a, scene.pair.to_b);
        let receive = scene.pair.a.receive_loan(exactly(to_b, tag));
        scene.pair.b.send(to_a, &bytes, tag);
        assert_eq!(scene.pair.finish_a(receive).status, Ok(()), "what has come takes no room");
    }
}

/// Loans that lie nowhere, and loans given back that are not held: the peer is cut off. Over rails that do not lend, any loan
/// is one too many.
pub fn loans_that_cannot_be_are_refused<F: Fixture>(fixture: F) {
    let mut scene = Scene::new(fixture);
    let lends = scene.pair.lends();
    let ranges = [
        (0, 64),
        (4095, 1),
        (4096, u64::MAX - 4096),
        (4096, 1 << 40),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1 << 63, 0),
        (1 << 62, 1 << 62),
    ];
    for (i, (position, len)) in ranges.into_iter().enumerate() {
        scene.admit(120 + i as u8);
        let receive = scene.pair.a.receive_loan(exactly(scene.source, 1));
        let mut frame = plain(Kind::Loan, 0);
        frame.word = 1;
        frame.extension = [7, position, len, 0, 0];
        assert!(scene.forger.post(&frame));
        scene.settle();
        assert!(scene.forger.is_down(), "position {position} length {len}");
        assert_eq!(scene.pair.finish_a(receive).status, Err(Error::PeerMisbehaved));
        scene.check_victim();
        scene.check_friend(i as u8);
    }
    for (number, again) in [(140, false), (141, true)] {
        scene.admit(number);
        let source = scene.source;
        scene.pair.a.send_as_loan(source, &content(100, 1), 3);
        scene.settle();
        let sent = scene.forger.frames.iter().find(|frame| frame.kind == Kind::Loan as u8);
        let Some(loan) = sent.map(|frame| frame.extension[0]) else {
            assert!(!lends, "a rail that lends sends loans");
            continue;
        };
        let mut frame = plain(Kind::Return, 0);
        // One that was never given out, or the right one: once.
        frame.word = if again { loan } else { loan ^ 1 << 40 };
        assert!(scene.forger.post(&frame));
        scene.settle();
        assert_eq!(scene.forger.is_down(), !again);
        if again {
            assert_eq!(scene.pair.a.engine().loans(), 0);
            assert!(scene.forger.post(&frame));
            scene.settle();
            assert!(scene.forger.is_down(), "given back twice");
        }
        scene.check_victim();
        assert_eq!(scene.pair.a.engine().loans(), 0);
        scene.check_friend(number);
    }
}

/// The victim `a`, its friend `b`, and the forger of the moment.
struct Scene<F: Fixture> {
    pair: Pair<F>,
    forger: RawPeer<F::Rail>,
    /// What the victim calls the forger.
    source: PeerId,
    operations: Vec<Ticket>,
}

impl<F: Fixture> Scene<F> {
    fn new(fixture: F) -> Scene<F> {
        Scene::with(fixture, Setup::default())
    }

    fn with(fixture: F, setup: Setup) -> Scene<F> {
        let mut pair = Pair::with(fixture, setup);
        let forger = call(&mut pair, 9);
        Scene { pair, forger, source: PeerId::new(u32::MAX), operations: Vec::new() }
    }

    /// Replaces the forger.
    fn admit(&mut self, number: u8) {
        self.forger = call(&mut self.pair, number);
        for _ in 0..10_000 {
            if self.forger.is_up() {
                break;
            }
            self.step();
        }
        let node = self.pair.fixture.address(number).node;
        self.source = self.pair.a.peer_of(node).expect("the forger is connected");
    }

    /// Operations of all kinds with the forger, so that its numbers may hit some.
    fn start_operations(&mut self, random: &mut Random) {
        let (a, source) = (&mut self.pair.a, self.source);
        let sync = SendOptions { sync: true, ..SendOptions::default() };
        let mut started = vec![
            a.send_with(source, &[b"sync"], 1, sync),
            a.send_with(source, &[&content(100_000, 1)], 2, SendOptions::default()),
            a.send_with(source, &[&content(20_000, 1), b"more"], 2, sync),
        ];
        for tag in 0..4 {
            started.push(a.receive_with(exactly(source, tag), &[random.below(200_000) as usize]));
        }
        let streams = [a.engine().stream_connect(source, "echo"), a.engine().stream_connect(source, "echo")];
        assert!(streams.iter().all(Result::is_ok), "the forger is up");
        self.operations = started.into_iter().map(|ticket| ticket.expect("the forger is up")).collect();
        self.settle();
        // The victim asks for pieces of these, so that segments may hit.
        for tag in 0..2 {
            let mut frame = plain(Kind::Rts, 0);
            frame.word = tag;
            frame.extension = [random.below(300_000), 77 + tag, 0, 0, 0];
            self.forger.post(&frame);
        }
        self.settle();
    }

    /// Announces three messages to receives of loans, of which two find room.
    fn announce_too_much(&mut self) {
        for tag in 0..3 {
            self.operations.push(self.pair.a.receive_loan(exactly(self.source, tag)));
            let mut frame = plain(Kind::Rts, 0);
            frame.word = tag;
            frame.extension = [400_000, 7, 0, 0, 0];
            assert!(self.forger.post(&frame));
        }
        self.settle();
        let refused = self.operations.pop().expect("three were posted");
        assert_eq!(self.pair.finish_a(refused).status, Err(Error::Limit));
        assert_eq!(self.pair.a.engine().promised_loans(), 2, "no room, no place");
    }

    fn forge(&mut self, random: &mut Random) -> RawFrame {
        let mut known: Vec<u64> = self.forger.frames.iter().map(|frame| frame.word).collect();
        known.extend(self.forger.frames.iter().flat_map(|frame| frame.extension).filter(|word| *word != 0));
        let kinds = [1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15];
        let kind = Kind::from_number(random.pick(&kinds)).expect("these are kinds");
        let both = FLAG_IMMEDIATE | FLAG_SYNC;
        let flags = random.pick(&[0, 0, 0, FLAG_IMMEDIATE, FLAG_SYNC, FLAG_SOURCE, FLAG_AHEAD, both, 0x40]);
        // Mostly flags that the kind has: others are refused before anybody looks at the words.
        let allowed = extension_words(kind as u8, flags).is_ok() || random.chance(0.05);
        let mut frame = plain(kind, if allowed { flags } else { 0 });
        let mut number = || match random.below(4) {
            0 => random.pick(&ODD),
            1 => random.next_u64(),
            _ if known.is_empty() => random.below(8),
            _ => random.pick(&known),
        };
        frame.word = number();
        frame.extension = std::array::from_fn(|_| number());
        if matches!(kind, Kind::Fin | Kind::Abort) && random.chance(0.7) {
            frame.extension[0] = i64::from(random.pick(&Error::ALL).code()) as u64;
        }
        if kind == Kind::Stream {
            frame.extension[0] = random.below(9);
        }
        if matches!(kind, Kind::Eager | Kind::Segment | Kind::Bytes) || random.chance(0.02) {
            let len = random.pick(&[0, 1, 8, 40, 48, 49, 1000, 8192]);
            frame.payload = random.bytes(len);
        }
        frame
    }

    fn step(&mut self) -> usize {
        let now = self.pair.fixture.tick();
        self.forger.drive(now) + self.pair.step()
    }

    fn settle(&mut self) {
        let mut idle = 0;
        while idle <= self.pair.fixture.quiet_steps() {
            idle = if self.step() == 0 { idle + 1 } else { 0 };
        }
    }

    /// The victim either bears with the forger or has cut it off, and says why.
    fn check_victim(&mut self) {
        self.settle();
        let state = self.pair.a.state(self.source);
        let cut = matches!(&state, PeerState::Gone(why) if why.error == Error::PeerMisbehaved);
        assert!(cut || state == PeerState::Up, "{state:?}");
        assert_eq!(cut, self.forger.is_down());
    }

    /// The friend's messages pass as if nothing were.
    fn check_friend(&mut self, number: u8) {
        for (tag, len) in [(1 << 50, 20), (1 << 51, 80_000)] {
            let bytes = content(len, u64::from(number));
            let receive = self.pair.a.receive(exactly(self.pair.to_b, tag), len);
            let to_a = self.pair.to_a;
            self.pair.b.send(to_a, &bytes, tag);
            let outcome = self.pair.finish_a(receive);
            assert_received(&outcome, tag, &bytes);
        }
        assert_eq!(self.pair.a.state(self.pair.to_b), PeerState::Up);
    }

    /// The forger goes, and with it every operation that was under way with it.
    fn dismiss(&mut self) {
        self.forger = call(&mut self.pair, 9);
        self.settle();
        for ticket in std::mem::take(&mut self.operations) {
            assert!(
                self.pair.a.take(ticket).is_some(),
                "an operation with a peer that has gone does not end"
            );
        }
        let state = self.pair.a.state(self.source);
        assert!(matches!(state, PeerState::Gone(_)), "{state:?}");
    }
}

fn call<F: Fixture>(pair: &mut Pair<F>, number: u8) -> RawPeer<F::Rail> {
    let rail = pair.open_rail(number);
    RawPeer::connect(rail, pair.a.address()).expect("the rail leads to its peer")
}

fn plain(kind: Kind, flags: u8) -> RawFrame {
    RawFrame { kind: kind as u8, flags, word: 0, extension: [0; MAX_EXTENSION], payload: Vec::new() }
}
