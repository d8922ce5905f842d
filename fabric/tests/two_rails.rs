//! Processes of one host that reach one another over shared memory and over TCP: when the first breaks while both live, the
//! second carries the messages, until the first is back.

use std::collections::HashMap;
use std::path::PathBuf;

use gridnet::AnyRail;
use gridnet_core::endpoint::PeerState;
use gridnet_core::rail::PeerId;
use gridnet_core::testing::conformance::reliability::loans_survive_cuts;
use gridnet_core::testing::loans::read;
use gridnet_core::testing::node::{anything, Node, SendOptions};
use gridnet_core::testing::pair::{Cutting, Fixture, Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use gridnet_shm::testing::Shears;
use gridnet_shm::{ShmConfig, ShmRail, SingleCopy};
use gridnet_uring_tcp::{Engine, Interfaces, Multirail, Security, TcpConfig, TcpRail, Tuning, Window};

/// Time that passes in a step: the systems of both sides are this one, which needs some of them for what TCP says.
const STEP_NS: u64 = 100_000;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 4000;
/// More steps than anything takes here.
const MANY_STEPS: usize = 2_000_000;

/// Shared memory, which fails, and TCP over the loopback interface, which does not.
struct ShmAndTcp {
    dir: PathBuf,
    /// The node that prefers TCP, if there is one.
    prefers_tcp: Option<u8>,
    steps: u64,
    shears: HashMap<NodeId, Shears>,
}

impl ShmAndTcp {
    fn new() -> ShmAndTcp {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gridnet-two-rails-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        ShmAndTcp { dir, prefers_tcp: None, steps: 0, shears: HashMap::new() }
    }

    /// From now on shared memory leads nowhere, or leads to the peer again.
    fn part(&self, parted: bool) {
        for shears in self.shears.values() {
            shears.part(parted);
            shears.cut();
        }
    }

    fn shm(&mut self, address: &Address) -> AnyRail {
        let config = ShmConfig {
            local: *address,
            name: None,
            run_dir: Some(self.dir.clone()),
            segment_size: 64 << 20,
            ring_slots: 64,
            link_window: 256 << 10,
            huge_pages: false,
            heap_size: 64 << 20,
            single_copy: SingleCopy::Auto,
            allow_uids: Vec::new(),
        };
        let mut rail = ShmRail::open(config).expect("the rail opens");
        rail.obey(self.shears.entry(address.node).or_default());
        AnyRail::Shm(Box::new(rail))
    }

    fn tcp(address: &Address) -> AnyRail {
        let config = TcpConfig {
            local: *address,
            interfaces: Interfaces::parse("127.0.0.1").expect("the names are right"),
            ports: None,
            security: Security::Insecure,
            engine: Engine::Auto,
            single_thread: true,
            tuning: Tuning::default(),
            window: Window::default(),
            multirail: Multirail::Auto,
            retains: true,
        };
        AnyRail::Tcp(Box::new(TcpRail::open(config).expect("the rail opens")))
    }
}

impl Fixture for ShmAndTcp {
    type Rail = AnyRail;

    fn rail(&mut self, address: &Address) -> AnyRail {
        self.shm(address)
    }

    fn rails(&mut self, address: &Address) -> Vec<AnyRail> {
        let mut rails = vec![self.shm(address), ShmAndTcp::tcp(address)];
        if self.prefers_tcp == address.node.bytes().first().copied() {
            rails.reverse();
        }
        rails
    }

    fn reached_at(&self, rail: &AnyRail, address: Address) -> Address {
        match rail {
            AnyRail::Tcp(tcp) => Address { network: tcp.listens_at(), ..address },
            _ => address,
        }
    }

    fn tick(&mut self) -> Time {
        // What the kernel does with packets may be waiting for the core.
        std::thread::yield_now();
        self.steps += 1;
        Time(self.steps * STEP_NS)
    }

    fn quiet_steps(&self) -> usize {
        CALL_STEPS
    }

    fn uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }
}

impl Cutting for ShmAndTcp {
    /// One side or both break the link over shared memory; one time in two it is out of order from then on, or in order again.
    fn is_exact(&self) -> bool {
        false
    }

    fn cut(&mut self, _: [&mut Self::Rail; 2], between: [NodeId; 2], random: &mut Random) {
        if random.below(2) == 0 {
            let parted = random.below(2) == 0;
            between.iter().for_each(|node| self.shears.entry(*node).or_default().part(parted));
        }
        let first = random.below(3) as usize;
        for node in between.iter().cycle().skip(first).take(1 + first / 2) {
            self.shears.entry(*node).or_default().cut();
        }
    }
}

impl Drop for ShmAndTcp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs until both sides are up over the rail of that name.
fn run_until_over(pair: &mut Pair<ShmAndTcp>, name: &str) {
    for _ in 0..MANY_STEPS {
        let is_over = |node: &mut Node<AnyRail>, peer| {
            node.state(peer) == PeerState::Up && node.engine().rail_name(peer) == Some(name)
        };
        if is_over(&mut pair.a, pair.to_b) && is_over(&mut pair.b, pair.to_a) {
            return;
        }
        pair.step();
    }
    panic!("a is not over {name}: {:?}, {:?}", pair.a.state(pair.to_b), pair.a.engine().rail_name(pair.to_b));
}

#[test]
fn shared_memory_fails_while_tcp_lives_and_comes_back() {
    let mut pair = Pair::new(ShmAndTcp::new());
    run_until_over(&mut pair, "shm");
    let mut expected = 0;
    for round in 0..4 {
        pair.fixture.part(true);
        for len in [3, 5000, 300_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u64 * 7 + expected) as u8).collect();
            let send = pair.a.send(pair.to_b, &bytes, expected);
            let receive = pair.b.receive(anything(), len);
            let got = pair.finish_b(receive);
            assert_eq!(got.completion.map(|c| c.tag), Some(expected), "round {round}");
            assert!(got.bytes[..len] == bytes[..], "round {round}: {len} bytes");
            assert_eq!(pair.finish_a(send).status, Ok(()));
            expected += 1;
        }
        run_until_over(&mut pair, "tcp");
        pair.fixture.part(false);
        run_until_over(&mut pair, "shm");
    }
    let usage = pair.a.engine().rails().iter().find_map(|rail| match rail {
        AnyRail::Shm(shm) => Some(shm.usage()),
        _ => None,
    });
    let usage = usage.expect("there is the rail");
    assert_eq!((usage.links, usage.greetings), (1, 0), "links that broke were given back");
}

/// Messages of all sizes in both directions, while shared memory breaks and comes back at any moment.
#[test]
fn nothing_is_lost_between_the_two() {
    let lens = [0, 8, 100, 3000, 8192, 8193, 70_000, 200_000];
    let mut moves = 0;
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new(ShmAndTcp::new());
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        let mut parted = false;
        for burst in 0..6u64 {
            let sends: Vec<_> = (0..10u64)
                .map(|i| {
                    let len = random.pick(&lens);
                    let bytes = random.bytes(len);
                    let tag = burst * 10 + i;
                    (pair.a.send(to_b, &bytes, tag), pair.b.send(to_a, &bytes, tag), bytes, tag)
                })
                .collect();
            pair.run_steps(random.below(10) as usize);
            parted = !parted;
            pair.fixture.part(parted);
            for (of_a, of_b, bytes, tag) in sends {
                let receives =
                    (pair.a.receive(anything(), bytes.len()), pair.b.receive(anything(), bytes.len()));
                for got in [pair.finish_a(receives.0), pair.finish_b(receives.1)] {
                    assert_eq!(got.completion.map(|c| c.tag), Some(tag), "seed {seed}");
                    assert!(got.bytes[..bytes.len()] == bytes[..], "seed {seed}: message {tag}");
                }
                assert_eq!((pair.finish_a(of_a).status, pair.finish_b(of_b).status), (Ok(()), Ok(())));
            }
            if random.below(2) == 0 {
                run_until_over(&mut pair, if parted { "tcp" } else { "shm" });
            }
        }
        moves += pair.a.engine().breaks(to_b).0 + pair.a.engine().moves(to_b);
    }
    assert!(moves > 12, "{moves} changes are too few to tell");
}

/// Each opens the other, and they prefer different rails: shared memory counts, where the system knows the processes.
#[test]
fn first_calls_that_cross_make_one_link() {
    for number in [1, 2] {
        let mut fixture = ShmAndTcp::new();
        fixture.prefers_tcp = Some(number);
        let mut pair = Pair::strangers(fixture, Setup::default());
        let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
        pair.to_b = pair.a.engine().open(&address_b).expect("a rail leads there");
        pair.to_a = pair.b.engine().open(&address_a).expect("a rail leads there");
        let sends = [pair.a.send(pair.to_b, &[1; 20_000], 1), pair.b.send(pair.to_a, &[2; 20_000], 2)];
        let receives = [pair.a.receive(anything(), 20_000), pair.b.receive(anything(), 20_000)];
        assert_eq!(pair.finish_a(receives[0]).bytes, [2; 20_000], "{number} prefers tcp");
        assert_eq!(pair.finish_b(receives[1]).bytes, [1; 20_000], "{number} prefers tcp");
        assert_eq!((pair.finish_a(sends[0]).status, pair.finish_b(sends[1]).status), (Ok(()), Ok(())));
        run_until_over(&mut pair, "shm");
    }
}

#[test]
fn loans_survive_shared_memory() {
    loans_survive_cuts(ShmAndTcp::new());
}

/// Loans that were sent, and not heard of, are copied over the other rail; those that are read stay readable, and are given back
/// over it, while shared memory is away and after it has come back.
#[test]
fn loans_outlive_the_link_that_they_came_over() {
    let mut pair = Pair::new(ShmAndTcp::new());
    run_until_over(&mut pair, "shm");
    let lens = [100, 40_000];
    let mut held = Vec::new();
    for round in 0..6u8 {
        let sends: Vec<_> = lens.map(|len| pair.a.send_as_loan(pair.to_b, &vec![round; len], 1)).into();
        if round % 2 == 0 {
            pair.run_steps(3);
        }
        pair.fixture.part(round % 3 < 2);
        for len in lens {
            let receive = pair.b.receive_loan(anything());
            let outcome = pair.finish_b(receive);
            let lent = outcome.lent.expect("it was lent");
            assert_eq!(read(&lent), vec![round; len], "round {round}");
            held.push((lent, round, len));
        }
        sends.into_iter().for_each(|send| assert_eq!(pair.finish_a(send).status, Ok(())));
        run_until_over(&mut pair, if round % 3 < 2 { "tcp" } else { "shm" });
        if round == 3 {
            for (lent, round, len) in held.drain(1..5) {
                assert_eq!(read(&lent), vec![round; len]);
                assert_eq!(pair.b.engine().give_back(lent.loan), Ok(()));
            }
        }
    }
    for (lent, round, len) in held {
        assert_eq!(read(&lent), vec![round; len]);
        assert_eq!(pair.b.engine().give_back(lent.loan), Ok(()));
    }
    pair.fixture.part(false);
    run_until_over(&mut pair, "shm");
    let ping =
        pair.a.send_with(pair.to_b, &[b"ping"], 2, SendOptions { sync: true, ..SendOptions::default() });
    let receive = pair.b.receive(anything(), 4);
    pair.finish_b(receive);
    pair.finish_a(ping.expect("the peer lives"));
    assert_eq!((pair.a.engine().loans(), pair.b.engine().loans()), (0, 0), "all came back");
}

/// Two that talk over tcp, as the one has called the other by an address of another host; its address on this one.
fn over_tcp() -> (Pair<ShmAndTcp>, Address) {
    let mut pair = Pair::strangers(ShmAndTcp::new(), Setup::default());
    let (address_a, address) = (*pair.a.address(), *pair.b.address());
    let far = Address { host: !address.host, ..address };
    (pair.to_a, pair.to_b) = (PeerId::new(0), pair.a.engine().open(&far).expect("tcp leads there"));
    let to = pair.to_b;
    let hello = pair.a.send(to, b"hello", 0);
    let receive = pair.b.receive(anything(), 5);
    assert_eq!(pair.finish_b(receive).bytes, b"hello");
    pair.finish_a(hello);
    run_until_over(&mut pair, "tcp");
    let another = Address { incarnation: address.incarnation + 1, ..address };
    for (rail, address, why) in [
        ("none", address, "no such rail"),
        ("shm", address_a, "another peer"),
        ("shm", another, "another peer"),
    ] {
        let refused = pair.a.engine().call_over(to, rail, &address).unwrap_err();
        assert!(refused.reason.contains(why), "{refused:?}");
    }
    // It has to be known first what the other side has got.
    let mut steps = 0..MANY_STEPS;
    while pair.a.engine().call_over(to, "tcp", &far).is_err() {
        assert!(steps.next().is_some(), "it is there");
        pair.step();
    }
    let engine = pair.a.engine();
    assert!(engine.call_over(to, "shm", &far).is_err() && !engine.is_calling(to));
    (pair, address)
}

/// Where that does not lead there at once, another one would.
#[test]
fn an_address_that_is_opened_over_one_rail_comes_by_no_other() {
    let mut pair = Pair::strangers(ShmAndTcp::new(), Setup::default());
    let near = Address { network: NetAddresses::NONE, ..*pair.b.address() };
    for (rail, why) in [("tcp", "tcp: "), ("none", "no rail")] {
        let refused = pair.a.engine().open_over(&near, rail).unwrap_err().reason;
        assert!(refused.starts_with(why) && !refused.contains("shm"), "{refused}");
    }
    let peer = pair.a.engine().open_over(&near, "shm").expect("shm leads there");
    assert_eq!(pair.a.engine().rail_name(peer), Some("shm"));
    assert_eq!(pair.a.engine().open_over(&near, "tcp"), Ok(peer), "it is known");
}

/// Somebody knows of a better rail than the one that leads to the address of the beginning.
#[test]
fn a_conversation_moves_where_it_is_called_to_and_loses_nothing() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let (mut pair, address_b) = over_tcp();
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        // One that leads nowhere changes nothing.
        pair.fixture.part(true);
        let mut called = false;
        let mut sends = Vec::new();
        for tag in 0..30u64 {
            if tag == 10 {
                pair.fixture.part(false);
            }
            if tag % 5 == 0 && !called {
                called = pair.a.engine().call_over(to_b, "shm", &address_b).is_ok() && tag >= 10;
            }
            let len = random.pick(&[0, 100, 8193, 200_000]);
            let bytes = random.bytes(len);
            sends.push((pair.a.send(to_b, &bytes, tag), pair.b.send(to_a, &bytes, tag), bytes, tag));
            pair.run_steps(random.below(40) as usize);
        }
        assert!(called, "a link over shared memory is being made");
        for (of_a, of_b, bytes, tag) in sends {
            let receives = (pair.a.receive(anything(), bytes.len()), pair.b.receive(anything(), bytes.len()));
            for got in [pair.finish_a(receives.0), pair.finish_b(receives.1)] {
                assert_eq!(got.completion.map(|c| c.tag), Some(tag), "seed {seed}");
                assert!(got.bytes[..bytes.len()] == bytes[..], "seed {seed}: message {tag}");
            }
            assert_eq!((pair.finish_a(of_a).status, pair.finish_b(of_b).status), (Ok(()), Ok(())));
        }
        run_until_over(&mut pair, "shm");
        // Where the other side leaves the link first, it is seen to break.
        let engine = pair.a.engine();
        assert!(engine.breaks(to_b).0 + engine.moves(to_b) > 0, "seed {seed}");
        // It is found there again.
        pair.fixture.shears.values().for_each(Shears::cut);
        let last = pair.a.send(to_b, b"last", 99);
        let receive = pair.b.receive(anything(), 4);
        assert_eq!(pair.finish_b(receive).bytes, b"last");
        pair.finish_a(last);
        run_until_over(&mut pair, "shm");
    }
}
