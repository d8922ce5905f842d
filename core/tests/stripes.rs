//! Several paths at a time, in virtual time: they share by their speed, end while pieces are under way, and are misused.

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{LinkId, PathId, Posted, Rail};
use gridnet_core::reliability_tests;
use gridnet_core::testing::node::{anything, exactly, Ticket};
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::testing::wide::Wide;
use gridnet_core::wire::{Kind, Message, FLAG_PATH};

reliability_tests!(cuts_of_paths, Wide::new(&[2 * Wide::FIRST, Wide::FIRST / 4]));

const MIB: usize = 1 << 20;

fn nodes(pair: &Pair<Wide>) -> [gridnet_core::wire::NodeId; 2] {
    [pair.a.address().node, pair.b.address().node]
}

/// Two nodes whose link has all of its paths.
fn wide(speeds: &[u64]) -> Pair<Wide> {
    let mut pair = Pair::new(Wide::new(speeds));
    pair.fixture.widen(nodes(&pair));
    pair.run_steps(5);
    pair
}

fn begin(pair: &mut Pair<Wide>, bytes: &[u8], tag: u64) -> (Ticket, Ticket) {
    let send = pair.a.send(pair.to_b, bytes, tag);
    (send, pair.b.receive(exactly(pair.to_a, tag), bytes.len()))
}

fn finish(pair: &mut Pair<Wide>, (send, receive): (Ticket, Ticket), bytes: &[u8]) {
    let outcome = pair.finish_b(receive);
    assert_eq!(outcome.status, Ok(()));
    assert!(outcome.bytes == bytes, "the message differs");
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// Sends a message; how many steps it took.
fn time(pair: &mut Pair<Wide>, bytes: &[u8]) -> u64 {
    let before = pair.fixture.now();
    let tickets = begin(pair, bytes, 1);
    finish(pair, tickets, bytes);
    pair.fixture.now().since(before) / 1_000_000
}

#[test]
fn two_paths_carry_together_what_both_can() {
    let bytes = Random::new(1).bytes(16 * MIB);
    for times in [1, 3] {
        let mut pair = wide(&[times * Wide::FIRST]);
        time(&mut pair, &bytes);
        let took = time(&mut pair, &bytes);
        let ideal = bytes.len() as u64 / ((1 + times) * Wide::FIRST);
        // The announcement and the last word take their time.
        assert!((took - 4) * 9 <= ideal * 10, "{took} steps, where both together take {ideal}");
        let mut alone = Pair::new(Wide::new(&[]));
        assert!(time(&mut alone, &bytes) > took * times.min(2), "the second path gains nothing");
    }
}

#[test]
fn several_messages_share_the_paths() {
    let mut pair = wide(&[2 * Wide::FIRST]);
    let messages: Vec<Vec<u8>> = (0..12).map(|seed| Random::new(seed).bytes(MIB + seed as usize)).collect();
    let before = pair.fixture.now();
    let mut under_way = Vec::new();
    for (tag, bytes) in (0..).zip(&messages) {
        under_way.push(begin(&mut pair, bytes, tag));
    }
    for (tickets, bytes) in under_way.into_iter().zip(&messages) {
        finish(&mut pair, tickets, bytes);
    }
    let took = pair.fixture.now().since(before) / 1_000_000;
    let ideal = 12 * MIB as u64 / (3 * Wide::FIRST);
    assert!(took * 8 <= ideal * 10, "{took} steps, where both together take {ideal}");
}

/// Who receives many large messages gets no more of the paths than who receives a few.
#[test]
fn users_of_a_receiver_share_the_paths_by_bytes() {
    const MANY: u64 = 40;
    const LONG: usize = 8 * MIB;
    let mut pair = wide(&[2 * Wide::FIRST]);
    let few = pair.b.engine().create_cq(8);
    let receives: Vec<Ticket> = (0..MANY).map(|tag| pair.b.receive(exactly(pair.to_a, tag), MIB)).collect();
    let memory = Vec::leak(vec![0; LONG]);
    // SAFETY: the memory is never freed, and nobody else has it.
    let iov = unsafe { Iov::new(memory.as_mut_ptr(), LONG) };
    pair.b.engine().receive(few, &exactly(pair.to_a, MANY), iov, 1).expect("there is room");
    let bytes = Random::new(6).bytes(LONG);
    let mut sends: Vec<Ticket> = (0..MANY).map(|tag| pair.a.send(pair.to_b, &bytes[..MIB], tag)).collect();
    sends.push(pair.a.send(pair.to_b, &bytes, MANY));
    let mut done = 0;
    while done == 0 {
        pair.step();
        done = pair.b.engine().take_completions(few, |completion| completion.status == 0);
    }
    assert!(memory == bytes, "the message differs");
    let of_many = receives.iter().filter(|receive| pair.b.is_finished(**receive)).count();
    // Pieces are of some MiB then.
    assert!((4..=16).contains(&of_many), "{of_many} MiB of the one user, 8 MiB of the other");
    receives.into_iter().for_each(|receive| assert_eq!(pair.finish_b(receive).status, Ok(())));
    sends.into_iter().for_each(|send| assert_eq!(pair.finish_a(send).status, Ok(())));
}

/// While small messages come and go one short segment at a time moves over each path.
#[test]
fn further_paths_leave_room_for_a_ping_pong() {
    const SEGMENT: u64 = Wide::FIRST / 64;
    let mut pair = wide(&[64 * Wide::FIRST]);
    let bytes = Random::new(7).bytes(32 * MIB);
    let tickets = begin(&mut pair, &bytes, 1);
    assert!(pair.run_until(|pair| pair.b.engine().bytes_under_way() > 0), "it does not begin");
    let mut passed = Vec::new();
    for _ in 0..40 {
        let (before, since) = (pair.b.engine().bytes_under_way(), pair.fixture.now());
        let ping = pair.b.receive(exactly(pair.to_a, 2), 8);
        let sent = pair.a.send(pair.to_b, b"ping", 2);
        pair.finish_b(ping);
        pair.finish_a(sent);
        let pong = pair.a.receive(exactly(pair.to_b, 3), 8);
        pair.b.send(pair.to_a, b"pong", 3);
        pair.finish_a(pong);
        let steps = pair.fixture.now().since(since) / 1_000_000;
        passed.push((before - pair.b.engine().bytes_under_way()) / steps);
    }
    assert!(pair.b.engine().bytes_under_way() > 0, "it has come to its end too soon");
    // A node looks twice in a step.
    assert!(passed[20..].iter().all(|bytes| *bytes <= 2 * 2 * SEGMENT), "{passed:?} bytes in each step");
    finish(&mut pair, tickets, &bytes);
}

#[test]
fn what_a_path_owed_when_it_ended_comes_over_the_others() {
    let bytes = Random::new(2).bytes(4 * MIB);
    for steps in [1, 2, 5, 8, 11] {
        for arrives in [0, 1, 7] {
            let mut pair = wide(&[Wide::FIRST, 2 * Wide::FIRST]);
            let tickets = begin(&mut pair, &bytes, 1);
            pair.run_steps(steps);
            let [a, b] = nodes(&pair);
            for path in pair.fixture.hub().paths_between(a, b) {
                pair.fixture.hub().end_path(path, arrives);
            }
            finish(&mut pair, tickets, &bytes);
            assert_eq!(pair.a.engine().breaks(pair.to_b), (0, 0), "the link goes on");
        }
    }
}

/// The link breaks while pieces are under way on each path, and some come over the next one.
#[test]
fn pieces_survive_the_end_of_their_link() {
    let bytes = Random::new(3).bytes(3 * MIB);
    let mut random = Random::new(9);
    for seed in 0..60 {
        let mut pair = wide(&[Wide::FIRST, 3 * Wide::FIRST]);
        let tickets = begin(&mut pair, &bytes, seed);
        for _ in 0..4 {
            pair.run_steps(1 + random.below(6) as usize);
            pair.cut(&mut random);
        }
        finish(&mut pair, tickets, &bytes);
        pair.run_until_quiet();
        assert_eq!(pair.b.engine().counters().pending_now, 0);
    }
}

/// A cancelled send ends its receive, whose memory is not written afterwards (each buffer is watched), and disturbs no other.
#[test]
fn a_message_that_is_given_up_ends_on_both_sides() {
    let bytes = Random::new(4).bytes(2 * MIB);
    // Over the slow path something waits when nothing does over the first.
    for speeds in [[Wide::FIRST, 3 * Wide::FIRST], [Wide::FIRST / 16, Wide::FIRST / 16]] {
        let mut canceled = 0;
        for steps in 1.. {
            let mut pair = wide(&speeds);
            let (send, receive) = begin(&mut pair, &bytes[..MIB], 1);
            pair.run_steps(steps);
            if pair.a.cancel(send).is_err() {
                break;
            }
            let other = begin(&mut pair, &bytes, 2);
            let outcome = pair.finish_b(receive);
            // All of it may have come, and only the last word is under way.
            let is_whole = outcome.status.is_ok() && outcome.bytes == bytes[..MIB];
            assert!(is_whole || outcome.status == Err(Error::Canceled), "{:?} after {steps}", outcome.status);
            canceled += usize::from(!is_whole);
            finish(&mut pair, other, &bytes);
            assert_eq!(pair.a.state(pair.to_b), PeerState::Up);
        }
        assert!(canceled > 3, "{canceled} are too few to tell");
    }
}

#[test]
fn the_queue_of_a_receive_can_go_while_pieces_come() {
    let bytes = Random::new(5).bytes(2 * MIB);
    let mut pair = wide(&[Wide::FIRST]);
    begin(&mut pair, &bytes, 1);
    pair.run_steps(3);
    pair.b.renew_cq(64);
    pair.run_until_quiet();
    assert_eq!(pair.a.state(pair.to_b), PeerState::Up);
    time(&mut pair, &bytes);
}

/// A node, and a peer of it that does as it likes over a link with one further path.
struct Misuse {
    pair: Pair<Wide>,
    raw: RawPeer<<Wide as Fixture>::Rail>,
    path: u32,
}

impl Misuse {
    fn new() -> Misuse {
        let mut pair = Pair::new(Wide::new(&[]));
        let rail = pair.open_rail(3);
        let address = *pair.a.address();
        let raw = RawPeer::connect(rail, &address).expect("the rail leads there");
        let mut misuse = Misuse { pair, raw, path: 0 };
        misuse.run(20);
        let node = misuse.pair.fixture.address(3).node;
        misuse.path = misuse.pair.fixture.hub().open_path(node, address.node, Wide::FIRST).expect("it is up");
        misuse.run(5);
        assert!(misuse.raw.is_up());
        misuse
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let now = self.pair.fixture.tick();
            self.raw.drive(now);
            self.pair.a.drive(now);
        }
    }

    /// The node has a receive for a message that the peer announces; what it asks for: path, operation, offset, length.
    fn announce(&mut self, len: u64) -> Vec<(u32, u64, u64, u64)> {
        self.pair.a.receive(anything(), len as usize);
        let rts = Message::Rts { tag: 1, len, op: 77, immediate: None, source: None, ahead: 0 };
        assert!(self.raw.post(&RawFrame::of(&rts.frame(Gather::EMPTY))));
        self.run(5);
        let asked =
            std::mem::take(&mut self.raw.frames).into_iter().filter(|frame| frame.kind == Kind::Rtr as u8);
        asked
            .map(|frame| {
                let [op, offset, len, path, _] = frame.extension;
                (if frame.flags & FLAG_PATH != 0 { path as u32 } else { 0 }, op, offset, len)
            })
            .collect()
    }

    fn post_on(&mut self, number: u32, op: u64, offset: u64, len: usize) -> Posted {
        let payload = vec![7; len];
        let mut frame = RawFrame::of(&Message::Segment { op, offset }.frame(Gather::EMPTY));
        frame.payload = payload;
        frame.post_with(|frame| self.raw.rail().post_segment(PathId { link: LinkId(0), number }, frame))
    }

    fn is_cut_off(&mut self) -> bool {
        self.run(10);
        self.raw.is_down()
    }
}

#[test]
fn pieces_are_taken_over_the_path_that_they_were_asked_for() {
    let mut misuse = Misuse::new();
    let path = misuse.path;
    let asked = misuse.announce(200_000);
    assert!(asked.iter().any(|piece| piece.0 == path) && asked.iter().any(|piece| piece.0 == 0), "{asked:?}");
    let &(_, op, offset, _) = asked.iter().find(|piece| piece.0 == path).expect("just seen");
    assert_eq!(misuse.post_on(path, op, offset, 1000), Posted::Done);
    assert!(!misuse.is_cut_off());
    // The same once more: it overlaps what has come.
    assert_eq!(misuse.post_on(path, op, offset, 1000), Posted::Done);
    assert!(misuse.is_cut_off());
}

#[test]
fn what_was_not_asked_for_over_a_path_ends_the_peer() {
    type Choice = fn(&[(u32, u64, u64, u64)], u32) -> (u64, u64, usize);
    let cases: [(&str, Choice); 4] = [
        ("of another path", |asked, _| {
            let piece = asked.iter().find(|piece| piece.0 == 0).expect("some comes over the first");
            (piece.1, piece.2, 100)
        }),
        ("behind its beginning", |asked, path| {
            let piece = asked.iter().find(|piece| piece.0 == path).expect("some comes over it");
            (piece.1, piece.2 + 1, 100)
        }),
        ("longer than it", |asked, path| {
            let piece = asked.iter().find(|piece| piece.0 == path).expect("some comes over it");
            (piece.1, piece.2, piece.3 as usize + 1)
        }),
        ("of nothing", |asked, path| {
            let piece = asked.iter().find(|piece| piece.0 == path).expect("some comes over it");
            (piece.1, piece.2, 0)
        }),
    ];
    for (name, choose) in cases {
        let mut misuse = Misuse::new();
        let path = misuse.path;
        let asked = misuse.announce(200_000);
        let (op, offset, len) = choose(&asked, path);
        assert_eq!(misuse.post_on(path, op, offset, len), Posted::Done, "{name}");
        assert!(misuse.is_cut_off(), "{name}");
    }
}

/// What was given up meanwhile may still come over a path, and is nobody's.
#[test]
fn segments_of_nothing_are_ignored() {
    let mut misuse = Misuse::new();
    let path = misuse.path;
    let asked = misuse.announce(200_000);
    let &(_, op, offset, _) = asked.iter().find(|piece| piece.0 == path).expect("some comes over it");
    let abort = Message::Abort { op, error: Error::Canceled };
    assert!(misuse.raw.post(&RawFrame::of(&abort.frame(Gather::EMPTY))));
    misuse.run(5);
    assert_eq!(misuse.post_on(path, op, offset, 1000), Posted::Done);
    assert!(!misuse.is_cut_off());
}

/// A message that the node announces, asked for in ways that cannot be.
#[test]
fn pieces_of_paths_that_never_were_end_the_peer() {
    type Ask = fn(u32) -> (u32, u64, u64, usize);
    let cases: [(&str, bool, Ask); 5] = [
        ("a path that is there", true, |path| (path, 0, 1000, 1)),
        ("another path", false, |path| (path + 1, 0, 1000, 1)),
        ("beyond the message", false, |path| (path, 1, 200_000, 1)),
        ("of nothing", false, |path| (path, 0, 0, 1)),
        ("too often", false, |path| (path, 0, 200_000, 200)),
    ];
    for (name, is_fine, ask) in cases {
        let mut misuse = Misuse::new();
        let node = misuse.pair.fixture.address(3).node;
        let to = misuse.pair.a.peer_of(node).expect("it has called");
        misuse.pair.a.send(to, &vec![1; 200_000], 5);
        misuse.run(5);
        let rts =
            misuse.raw.frames.iter().find(|frame| frame.kind == Kind::Rts as u8).expect("it is announced");
        let op = rts.extension[1];
        let (path, offset, len, times) = ask(misuse.path);
        for _ in 0..times {
            let rtr = Message::Rtr { op, receiver_op: 9, offset, len, path };
            misuse.raw.post(&RawFrame::of(&rtr.frame(Gather::EMPTY)));
        }
        assert_eq!(misuse.is_cut_off(), !is_fine, "{name}");
    }
}
