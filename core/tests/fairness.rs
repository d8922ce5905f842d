//! Who gets how much of a path that several share, in virtual time. What is counted are bytes and the order of events, not time.

use gridnet_core::endpoint::{CqId, SendArgs, Sent};
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::matching::Key;
use gridnet_core::mem::{Iov, MEMORY_HOST};
use gridnet_core::rail::{Armed, PeerId};
use gridnet_core::region::Access;
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::{anything, exactly, from_any, Node, Ticket};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};

const MIB: usize = 1 << 20;
/// What a small message costs: 8 bytes, and as much as the arbiter counts for a frame.
const SMALL_COST: usize = 8 + 64;
/// Small messages that wait at any time.
const FLOOD: usize = 300;

fn pair() -> Pair<Loopback> {
    Pair::new(Loopback::new(0, false))
}

/// Starts a send of `len` bytes for a user of its own completion queue.
fn send_as(pair: &mut Pair<Loopback>, cq: CqId, len: usize, tag: u64) {
    let bytes = Vec::leak(vec![tag as u8; len]);
    // SAFETY: the memory is never freed, and nobody else has it.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    let args =
        SendArgs { cq, owner: 7, context: tag, tag, immediate: None, sync: false, always_complete: true };
    let sent = pair.a.engine().send_iov(pair.to_b, &[iov], &args);
    assert!(matches!(sent, Ok(Sent::InProgress(_))));
}

fn completed(pair: &mut Pair<Loopback>, cq: CqId) -> usize {
    pair.a.engine().take_completions(cq, |_| true)
}

/// Keeps small messages waiting at `a`; returns how many have come to `b` since.
struct Flood {
    sends: Vec<Ticket>,
    receives: Vec<Ticket>,
    came: usize,
}

impl Flood {
    const TAG: u64 = 99;

    fn go_on(&mut self, pair: &mut Pair<Loopback>, to: PeerId) {
        self.sends.retain(|send| pair.a.take(*send).is_none());
        while self.sends.len() < FLOOD {
            self.sends.push(pair.a.send(to, &[1; 8], Flood::TAG));
        }
        let before = self.receives.len();
        self.receives.retain(|receive| pair.b.take(*receive).is_none());
        self.came += before - self.receives.len();
        while self.receives.len() < 2 * FLOOD {
            self.receives.push(pair.b.receive(exactly(pair.to_a, Flood::TAG), 8));
        }
    }
}

/// A flood of small messages leaves half of the bytes to a large one, and no more.
#[test]
fn small_messages_and_large_ones_share_by_bytes() {
    let mut pair = pair();
    let mut flood = Flood { sends: Vec::new(), receives: Vec::new(), came: 0 };
    let to_b = pair.to_b;
    for _ in 0..100 {
        flood.go_on(&mut pair, to_b);
        pair.step();
    }
    let alone = flood.came;
    assert!(alone > 100 * 60, "{alone}: a flood alone has the path to itself");
    let receive = pair.b.receive(exactly(pair.to_a, 1), 4 * MIB);
    let send = pair.a.send(to_b, &vec![5; 4 * MIB], 1);
    while !pair.b.is_finished(receive) {
        flood.go_on(&mut pair, to_b);
        pair.step();
        assert!(flood.came < alone + 4 * MIB / SMALL_COST * 2, "the large message starves");
    }
    let share = (flood.came - alone) as f64 * SMALL_COST as f64 / (4 * MIB) as f64;
    assert!((0.8..1.25).contains(&share), "{share} times as many bytes of small messages");
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// Who sends many large messages gets no more than who sends one.
#[test]
fn users_share_by_bytes_and_not_by_messages() {
    let mut pair = pair();
    let many = pair.a.engine().create_cq(64);
    let one = pair.a.engine().create_cq(64);
    (0..8).for_each(|i| send_as(&mut pair, many, MIB, i));
    send_as(&mut pair, one, 2 * MIB, 8);
    let receives: Vec<_> = (0..9u64).map(|tag| pair.b.receive(exactly(pair.to_a, tag), 2 * MIB)).collect();
    let mut of_many = 0;
    let done = pair.run_until(|pair| {
        of_many += completed(pair, many);
        completed(pair, one) == 1
    });
    assert!(done, "the single message does not end");
    assert_eq!(of_many, 0, "each of the eight has had an eighth of what the one had");
    receives.into_iter().for_each(|receive| assert_eq!(pair.finish_b(receive).status, Ok(())));
    pair.run_until_quiet();
    assert_eq!(completed(&mut pair, many), 8);
}

/// Peers have their turns by bytes, whatever waits for each.
#[test]
fn peers_share_by_bytes_and_not_by_messages() {
    let mut pair = pair();
    let mut other = pair.stranger(3, Setup::default());
    let to_other = pair.a.engine().open(&other.address().to_owned()).expect("the rail leads there");
    let first = other.receive(anything(), 1);
    let ping = pair.a.send(to_other, b"x", 1);
    while !other.is_finished(first) {
        let now = pair.fixture.tick();
        pair.a.drive(now);
        other.drive(now);
    }
    pair.finish_a(ping);
    let sends: Vec<_> = (0..16u64).map(|tag| pair.a.send(pair.to_b, &vec![1; MIB], tag)).collect();
    let receives: Vec<_> = (0..16u64).map(|tag| pair.b.receive(exactly(pair.to_a, tag), MIB)).collect();
    let single = pair.a.send(to_other, &vec![2; 2 * MIB], 1);
    let received = other.receive(anything(), 2 * MIB);
    while !other.is_finished(received) {
        let now = pair.fixture.tick();
        pair.a.drive(now);
        pair.b.drive(now);
        other.drive(now);
    }
    let done = receives.iter().filter(|receive| pair.b.is_finished(**receive)).count();
    assert!(done <= 3, "{done} MiB to one peer while another got two");
    pair.finish_a(single);
    receives.into_iter().for_each(|receive| assert_eq!(pair.finish_b(receive).status, Ok(())));
    sends.into_iter().for_each(|send| assert_eq!(pair.finish_a(send).status, Ok(())));
}

/// How bytes go from `a` to `b`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Segments,
    Fetches,
    Puts,
    Gets,
}

/// Keeps large messages, puts or gets under way.
struct Stream {
    way: Way,
    /// Region of the one that is put to, or got from.
    rkey: Option<Key>,
    sends: Vec<Ticket>,
    receives: Vec<Ticket>,
    came: usize,
}

impl Stream {
    /// Bytes of each, and how many wait: of puts and gets more than a step has room for, so that there is always one under way.
    fn size(way: Way) -> (usize, usize) {
        match way {
            Way::Segments | Way::Fetches => (64 * 1024, 8),
            Way::Gets => (64 * 1024, 40),
            Way::Puts => (16 * 1024, 200),
        }
    }

    fn new(way: Way, pair: &mut Pair<Loopback>) -> Stream {
        let (len, _) = Stream::size(way);
        let memory = Vec::leak(vec![0u64; len / 8]).as_mut_ptr().cast();
        let register = |node: &mut Node<LoopbackRail>| {
            let region = node.engine().register(memory, len, Access::ALL, MEMORY_HOST);
            node.engine().region_key(region.expect("it is mapped")).expect("it is open")
        };
        let rkey = match way {
            Way::Segments | Way::Fetches => None,
            Way::Puts => {
                let key = register(&mut pair.b);
                Some(pair.a.engine().import_key(pair.to_b, &key).expect("it is one of b"))
            }
            Way::Gets => {
                let key = register(&mut pair.a);
                Some(pair.b.engine().import_key(pair.to_a, &key).expect("it is one of a"))
            }
        };
        Stream { way, rkey, sends: Vec::new(), receives: Vec::new(), came: 0 }
    }

    /// One step; how many have come so far.
    fn go_on(&mut self, pair: &mut Pair<Loopback>) -> usize {
        let came = self.fill(pair);
        pair.step();
        came
    }

    /// Starts as many as have ended; how many have come so far.
    fn fill(&mut self, pair: &mut Pair<Loopback>) -> usize {
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        let Stream { way, rkey, sends, receives, came } = self;
        let (len, waiting) = Stream::size(*way);
        let under_way = sends.len();
        sends.retain(|send| pair.a.take(*send).is_none());
        if *way == Way::Puts {
            *came += under_way - sends.len();
        }
        let before = receives.len();
        receives.retain(|receive| pair.b.take(*receive).is_none());
        *came += before - receives.len();
        let are_puts = *way == Way::Puts;
        while (if are_puts { sends.len() } else { receives.len() }) < waiting {
            match (&way, *rkey) {
                (Way::Puts, Some(rkey)) => {
                    sends.push(pair.a.put(to_b, rkey, 0, &vec![1; len]).expect("it starts"));
                }
                (Way::Gets, Some(rkey)) => {
                    receives.push(pair.b.get(to_a, rkey, 0, len).expect("it starts"));
                }
                _ => {
                    receives.push(pair.b.receive(exactly(to_a, 1), len));
                    sends.push(pair.a.send(to_b, &vec![1; len], 1));
                }
            }
        }
        *came
    }
}

/// Large messages that come while a small one goes there and back are few; when small ones have ceased, large ones move as
/// before.
fn ping_pong_beside_bulk(way: Way) {
    const ROUNDS: usize = 200;
    /// Ping-pongs until company is noticed; and parts of 20 KiB that move in the steps of one, in each of which a node looks twice.
    const FIRST: usize = 4;
    const MOST_PARTS: usize = 8;
    let mut pair = Pair::new(Loopback::new(0, way == Way::Fetches));
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    let mut stream = Stream::new(way, &mut pair);
    let alone: usize = (0..30).map(|_| stream.go_on(&mut pair)).last().unwrap_or(0);
    let (mut before, mut in_company) = (0, 0);
    for round in 0..ROUNDS {
        let (ping, pong) = (pair.b.receive(exactly(to_a, 2), 8), pair.a.receive(exactly(to_b, 3), 8));
        pair.a.send(to_b, b"ping", 2);
        while !pair.b.is_finished(ping) {
            stream.go_on(&mut pair);
        }
        pair.b.send(to_a, b"pong", 3);
        while !pair.a.is_finished(pong) {
            in_company = stream.go_on(&mut pair);
        }
        assert_eq!((pair.b.take(ping).is_some(), pair.a.take(pong).is_some()), (true, true));
        if round == FIRST {
            before = in_company;
        }
    }
    let bytes = (in_company - before) * Stream::size(way).0 / (ROUNDS - FIRST);
    assert!(bytes > 0, "large messages starve");
    assert!(bytes <= MOST_PARTS * 20 * 1024, "{bytes} bytes of large messages for each ping-pong");
    (0..300).for_each(|_| {
        stream.go_on(&mut pair);
    });
    let forgotten = stream.go_on(&mut pair);
    let again = (0..30).map(|_| stream.go_on(&mut pair)).last().unwrap_or(0) - forgotten;
    assert!(again * 10 >= alone * 9, "{again} alone again, {alone} before");
}

#[test]
fn segments_leave_room_for_a_ping_pong() {
    ping_pong_beside_bulk(Way::Segments);
}

#[test]
fn fetches_leave_room_for_a_ping_pong() {
    ping_pong_beside_bulk(Way::Fetches);
}

#[test]
fn puts_leave_room_for_a_ping_pong() {
    ping_pong_beside_bulk(Way::Puts);
}

#[test]
fn gets_leave_room_for_a_ping_pong() {
    ping_pong_beside_bulk(Way::Gets);
}

/// Small messages that come and go beside a large one: from now on that moves in short parts.
fn keep_company(pair: &mut Pair<Loopback>) {
    for _ in 0..6 {
        let ping = pair.b.receive(exactly(pair.to_a, 2), 8);
        let sent = pair.a.send(pair.to_b, b"ping", 2);
        pair.finish_b(ping);
        pair.finish_a(sent);
    }
}

/// What waits for room goes when the rail has got some since anybody looked, and the process does not sleep.
#[test]
fn nobody_sleeps_while_there_is_room_for_what_waits() {
    const LARGE: usize = 32 * MIB;
    for in_company in [false, true] {
        let mut pair = pair();
        let receive = pair.b.receive(exactly(pair.to_a, 1), LARGE);
        let send = pair.a.send(pair.to_b, &vec![1; LARGE], 1);
        pair.run_steps(4);
        if in_company {
            keep_company(&mut pair);
        }
        // Until there is no room any more: the other side does not look.
        let mut rounds = 0;
        while pair.a.engine().progress() > 0 {
            rounds += 1;
        }
        assert_eq!(rounds > 20, in_company, "{rounds} rounds: one short part in each");
        assert_eq!(pair.a.engine().arm(), Armed::Yes, "there is no room");
        pair.a.engine().disarm();
        // It looks now, and has nothing to say.
        pair.b.engine().progress();
        assert_eq!(pair.a.engine().arm(), Armed::Busy, "there is room, and nobody says so any more");
        assert_eq!(pair.finish_b(receive).status, Ok(()));
        pair.finish_a(send);
    }
}

/// Also in short parts each peer has its turn, however many messages of another are fetched.
#[test]
fn fetches_from_peers_share_by_bytes_and_not_by_messages() {
    let mut pair = Pair::new(Loopback::new(0, true));
    let mut other = pair.stranger(3, Setup::default());
    let address = *pair.b.address();
    let from_other = other.engine().open(&address).expect("the rail leads there");
    let mut stream = Stream::new(Way::Fetches, &mut pair);
    let (bulk, waiting) = Stream::size(Way::Fetches);
    // Small messages come and go all the time.
    let mut ping = |pair: &mut Pair<Loopback>, other: &mut Node<LoopbackRail>| {
        let ping = pair.b.receive(exactly(pair.to_a, 2), 8);
        pair.a.send(pair.to_b, b"ping", 2);
        while !pair.b.is_finished(ping) {
            stream.fill(pair);
            let now = pair.fixture.tick();
            pair.a.drive(now);
            other.drive(now);
            pair.b.drive(now);
        }
        pair.b.take(ping);
        stream.came
    };
    for _ in 0..20 {
        ping(&mut pair, &mut other);
    }
    let one = pair.b.receive(from_any(3), 10 * bulk);
    let send = other.send(from_other, &vec![3; 10 * bulk], 3);
    let before = ping(&mut pair, &mut other);
    let mut came = before;
    while !pair.b.is_finished(one) {
        came = ping(&mut pair, &mut other);
    }
    let of_many = came - before;
    assert!(of_many <= 10 + waiting, "{of_many} of one peer while ten of the other");
    assert_eq!(pair.b.take(one).map(|outcome| outcome.status), Some(Ok(())));
    while !other.is_finished(send) {
        ping(&mut pair, &mut other);
    }
}
