//! A peer that writes nonsense into all memory that it shares, and sends frames of its own making, while the victim sends,
//! receives, lends and fetches. Nothing crashes, the peer is cut off or borne with, and an honest peer notices nothing.
//!
//! Its memory lies between guard pages here, and the whole runs under the address sanitizer. In a part of the inputs the
//! nonsense comes from a thread of its own, so that words change between a check and a use.

#![no_main]

mod shm;

use std::sync::atomic::{AtomicBool, Ordering};

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::loan::Lent;
use gridnet_core::matching::Key;
use gridnet_core::mem::{MEMORY_HOST, NUMA_UNKNOWN};
use gridnet_core::rail::{Offered, PeerId, Rail};
use gridnet_core::region::{Access, Atomic, AtomicOp, RemoteKey, Width};
use gridnet_core::testing::loans::read;
use gridnet_core::testing::node::{anything, exactly, SendOptions, Ticket};
use gridnet_core::testing::pair::{address_of, Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::wire::{Kind, MAX_EXTENSION};
use gridnet_shm::testing::{Scribbler, Usage};
use gridnet_shm::ShmRail;
use libfuzzer_sys::fuzz_target;
use shm::Shm;

/// Bytes of a region.
const REGION: usize = 4096;
/// Longest play.
const STEPS: usize = 150;
/// Where a segment ends.
const END: u64 = shm::SEGMENT as u64;
/// Values that are wrong at the edges.
const ODD: [u64; 24] = [
    0,
    1,
    7,
    64,
    4096,
    8192,
    8193,
    1 << 16,
    1 << 20,
    1 << 31,
    1 << 32,
    (1 << 32) | (1 << 31),
    1 << 47,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
    // At the end of a segment, and of a heap.
    END - 4096,
    END - 64,
    END - 1,
    END,
    END + 4096,
    2 * END,
    END / 4 - 8,
    END / 4,
];

fuzz_target!(|script: &[u8]| {
    let mut random = Random::scripted(script);
    let races = random.chance(0.2);
    let mut scene = Scene::new(&mut random);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if races {
            // SAFETY: the scope ends before the scene, which owns the rail.
            let scribbler = unsafe { scene.mad().rail().scribbler() };
            let (end, seed) = (&end, random.next_u64());
            scope.spawn(move || {
                let mut random = Random::new(seed);
                while !end.load(Ordering::Relaxed) {
                    let place = place_in(&scribbler, 512, &mut random);
                    scribbler.scribble(place, nonsense(&mut random));
                }
            });
        }
        for _ in 0..STEPS {
            if random.is_out_of_script() {
                break;
            }
            scene.act(&mut random);
        }
        end.store(true, Ordering::Relaxed);
    });
    scene.finish();
});

struct Scene {
    /// The victim `a` and its honest friend `b`.
    pair: Pair<Shm>,
    /// None after its end.
    mad: Option<RawPeer<ShmRail>>,
    /// What the victim calls the mad peer.
    source: PeerId,
    /// Operations of the victim with the mad peer.
    operations: Vec<Ticket>,
    lent: Vec<Lent>,
    exchanges: u64,
    /// A region of the victim, which the mad peer knows,
    region: Key,
    /// and the mad peer's, as the victim has imported it.
    rkey: Option<Key>,
}

impl Scene {
    fn new(random: &mut Random) -> Scene {
        let mut pair = Pair::new(Shm::new(random));
        let rail = pair.fixture.rail(&address_of(9, pair.fixture.uid()));
        let mad = RawPeer::connect(rail, pair.a.address()).expect("the victim listens");
        let source = PeerId::new(u32::MAX);
        let region = pair
            .a
            .engine()
            .allocate(REGION, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN)
            .expect("there is room")
            .0;
        let mut scene = Scene {
            pair,
            mad: Some(mad),
            source,
            operations: Vec::new(),
            lent: Vec::new(),
            exchanges: 0,
            region,
            rkey: None,
        };
        while !scene.mad().is_up() {
            scene.step();
        }
        scene.source = scene.pair.a.peer_of(address_of(9, 0).node).expect("it is connected");
        // Who lies about where its memory is, harms its own process: here, that is ours.
        scene.pair.a.engine().rails_mut()[0].keep_out();
        scene.show_region();
        scene
    }

    /// The mad peer makes a region, and hands out its key.
    fn show_region(&mut self) {
        let rail = self.mad().rail();
        let Some(Ok(lent)) = rail.allocate(REGION, NUMA_UNKNOWN) else { return };
        let (number, len) = (7, REGION as u64);
        let offered = Offered {
            number,
            base: lent.base,
            len,
            access: Access::ALL,
            token: Some(lent.token),
            may_fault: false,
        };
        let Ok(hint) = rail.offer(&offered) else { return };
        let key =
            RemoteKey { node: address_of(9, 0).node, number, len, access: Access::ALL, align: 64, hint };
        self.rkey = self.pair.a.engine().import_key(self.source, &key.pack()).ok();
    }

    fn mad(&mut self) -> &mut RawPeer<ShmRail> {
        self.mad.as_mut().expect("it is there until the finish")
    }

    fn act(&mut self, random: &mut Random) {
        match random.below(20) {
            0..4 => self.scribble(random),
            4..7 => {
                let at_edge = random.chance(0.3);
                let frame = if at_edge { self.forge_at_an_edge(random) } else { self.forge(random) };
                self.mad().post(&frame);
            }
            7 => self.victim_sends(random),
            8 => self.victim_receives(random),
            9 => self.victim_lends(random),
            10 => self.victim_gives_back(random),
            11 => {
                if !self.operations.is_empty() {
                    let ticket = random.pick(&self.operations);
                    // Whatever the answer: the operation may have ended, or may not be such that can be cancelled.
                    let _ = self.pair.a.cancel(ticket);
                }
            }
            12 => {
                self.pair.a.engine().arm();
                self.pair.a.engine().disarm();
            }
            13 => self.exchange_with_friend(),
            14..18 => self.victim_reaches(random),
            _ => {
                for _ in 0..random.below(20) {
                    self.step();
                }
            }
        }
        self.collect();
    }

    fn step(&mut self) -> usize {
        let now = self.pair.fixture.tick();
        self.mad.as_mut().map_or(0, |mad| mad.drive(now)) + self.pair.step()
    }

    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 16 {
            idle = if self.step() == 0 { idle + 1 } else { 0 };
        }
    }

    fn scribble(&mut self, random: &mut Random) {
        let blocks: Vec<usize> = self.mad().rail().blocks().collect();
        // SAFETY: used at once.
        let scribbler = unsafe { self.mad().rail().scribbler() };
        let base = if blocks.is_empty() { 512 } else { random.pick(&blocks) };
        for _ in 0..=random.below(4) {
            let place = place_in(&scribbler, base, random);
            scribbler.scribble(place, nonsense(random));
        }
    }

    /// Frames of all kinds, some with numbers of operations that exist.
    fn forge(&mut self, random: &mut Random) -> RawFrame {
        let region = self.region.to_bits();
        let known: Vec<u64> = self
            .mad()
            .frames
            .iter()
            .rev()
            .take(8)
            .flat_map(|f| [f.word, f.extension[0], f.extension[1]])
            .collect();
        let number = |random: &mut Random| match random.below(4) {
            0 => random.pick(&ODD),
            1 if random.chance(0.5) => region,
            1 => random.next_u64(),
            _ if known.is_empty() => random.below(8),
            _ => random.pick(&known),
        };
        let kind = random.below(20) as u8;
        let flags = if random.chance(0.7) { 0 } else { random.next_u64() as u8 };
        // A tag that is waited for, or a number.
        let word = if random.chance(0.5) { random.below(4) } else { number(random) };
        let extension: [u64; MAX_EXTENSION] = std::array::from_fn(|_| number(random));
        let carries = kind == Kind::Eager as u8 || kind == Kind::Segment as u8;
        let len = if carries { random.pick(&[0, 1, 8, 40, 48, 49, 1000, 8192, 60_000]) } else { 0 };
        RawFrame { kind, flags, word, extension, payload: random.bytes(len) }
    }

    /// A loan that lies across an end of the segment, or an operation across the end of the victim's region.
    fn forge_at_an_edge(&self, random: &mut Random) -> RawFrame {
        let len = random.pick(&[0, 1, 64, 65, 4096, 4097, 8192, 1 << 32, u64::MAX]);
        let lends = random.chance(0.6);
        let (kind, word, start) = match random.pick(&[Kind::Put, Kind::Get, Kind::Atomic]) {
            _ if lends => {
                (Kind::Loan, random.below(4), random.pick(&[END - 4096, END - 64, END, 4096, 4095, 0]))
            }
            kind => (kind, self.region.to_bits(), random.pick(&[0, 8, 4032, 4088, 4095, 4096, u64::MAX])),
        };
        let payload =
            if kind == Kind::Put { random.bytes(random.clone().pick(&[1, 8, 48, 100])) } else { Vec::new() };
        RawFrame { kind: kind as u8, flags: 0, word, extension: [random.below(4), start, len, 1, 1], payload }
    }

    fn victim_sends(&mut self, random: &mut Random) {
        let len = random.pick(&[0, 8, 48, 49, 1000, 8192, 8193, 100_000, 300_000]);
        let options = SendOptions { sync: random.chance(0.2), ..SendOptions::default() };
        let sent = self.pair.a.send_with(self.source, &[&random.bytes(len)], random.below(4), options);
        self.operations.extend(self.accepted(sent));
    }

    fn victim_receives(&mut self, random: &mut Random) {
        let pattern = exactly(self.source, random.below(4));
        let posted = match random.below(3) {
            0 => self.pair.a.try_receive_loan(pattern),
            _ => self.pair.a.receive_with(pattern, &[random.pick(&[0, 8, 1000, 200_000])]),
        };
        self.operations.extend(self.accepted(posted));
    }

    fn victim_lends(&mut self, random: &mut Random) {
        let len = random.pick(&[0, 8, 4096, 100_000]);
        let Ok(loan) = self.pair.a.take_loan(&random.bytes(len)) else { return };
        let keep = random.chance(0.3);
        let sent = self.pair.a.send_loan(self.source, loan, len, random.below(4), keep);
        if keep || sent.is_err() {
            self.pair.a.engine().give_back(loan).expect("it is the victim's");
        }
        self.operations.extend(self.accepted(sent));
    }

    /// Put, get and atomic operations on the mad peer's region.
    fn victim_reaches(&mut self, random: &mut Random) {
        let Some(rkey) = self.rkey else { return };
        let (offset, len) = (random.pick(&[0, 8, 100, 4000, 4095, 4096]), random.pick(&[0, 1, 8, 96, 4096]));
        let (a, source) = (&mut self.pair.a, self.source);
        let started = match random.below(4) {
            0 => a.put(source, rkey, offset, &random.bytes(len)),
            1 => a.get(source, rkey, offset, len),
            2 => {
                let add = Atomic { op: AtomicOp::Add, width: Width::Eight, operand: 1, compare: 0 };
                a.atomic(source, rkey, offset, &add)
            }
            _ => a.flush(source),
        };
        let refused = matches!(
            started,
            Err(Error::Bounds | Error::Misaligned | Error::Key | Error::Access | Error::Fault)
        );
        if !refused {
            self.operations.extend(self.accepted(started));
        }
    }

    fn victim_gives_back(&mut self, random: &mut Random) {
        if self.lent.is_empty() {
            return;
        }
        let lent = self.lent.swap_remove(random.below(self.lent.len() as u64) as usize);
        // Every byte can be read, whatever it is.
        read(&lent);
        self.pair.a.engine().give_back(lent.loan).expect("it was received");
    }

    /// What was started, unless the peer has been cut off.
    fn accepted(&self, started: Result<Ticket, Error>) -> Option<Ticket> {
        match started {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                assert!(
                    matches!(error, Error::PeerMisbehaved | Error::PeerGone | Error::Again | Error::Limit),
                    "{error:?}"
                );
                None
            }
        }
    }

    /// Takes what has ended.
    fn collect(&mut self) {
        let Scene { pair, operations, lent, .. } = self;
        operations.retain(|ticket| match pair.a.take(*ticket) {
            Some(outcome) => {
                lent.extend(outcome.lent.filter(|_| outcome.status.is_ok()));
                false
            }
            None => true,
        });
    }

    /// Small, long and lent messages with the friend pass as if nothing were.
    fn exchange_with_friend(&mut self) {
        self.exchanges += 1;
        let tag = self.exchanges << 32;
        for len in [20, 3000, 80_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u64 * 7 + tag) as u8).collect();
            let receive = self.pair.a.receive(exactly(self.pair.to_b, tag), len);
            let to_a = self.pair.to_a;
            self.pair.b.send(to_a, &bytes, tag);
            let outcome = self.pair.finish_a(receive);
            assert_eq!(outcome.status, Ok(()));
            assert!(outcome.bytes == bytes, "{len} bytes of the friend differ");
        }
        let receive = self.pair.a.receive_loan(exactly(self.pair.to_b, tag));
        let to_a = self.pair.to_a;
        self.pair.b.send_as_loan(to_a, b"a loan of the friend", tag);
        let lent = self.pair.finish_a(receive).lent.expect("it was lent");
        assert_eq!(read(&lent), b"a loan of the friend");
        self.pair.a.engine().give_back(lent.loan).expect("it was received");
        assert_eq!(self.pair.a.state(self.pair.to_b), PeerState::Up);
    }

    /// The mad peer goes, and with it everything that was under way with it; nothing of it stays.
    fn finish(mut self) {
        self.settle();
        match self.pair.a.state(self.source) {
            PeerState::Up => {}
            PeerState::Gone(why) => assert_eq!(why.error, Error::PeerMisbehaved, "{}", why.reason),
            other => panic!("{other:?}"),
        }
        self.exchange_with_friend();
        self.mad = None;
        self.pair.run_until_quiet();
        while matches!(self.pair.a.state(self.source), PeerState::Up) {
            self.pair.step();
        }
        self.collect();
        assert!(self.operations.is_empty(), "an operation with a peer that has gone does not end");
        for lent in std::mem::take(&mut self.lent) {
            read(&lent);
            self.pair.a.engine().give_back(lent.loan).expect("it was received");
        }
        self.exchange_with_friend();
        // Loans that nobody has received keep the memory of the dead.
        while let Some((_, message)) = self.pair.a.engine().matched_probe(&anything()) {
            self.pair.a.receive_held(message, 0).expect("there is room");
        }
        self.pair.b.close();
        self.pair.run_until_quiet();
        self.check_usage();
    }

    fn check_usage(&mut self) {
        self.pair.a.engine().close_region(self.region).expect("nobody is inside");
        let engine = self.pair.a.engine();
        assert_eq!(engine.loans(), 0, "loans are lost");
        let Usage { arena, exposures, links, .. } = engine.rails()[0].usage();
        assert_eq!((arena, exposures, links), (0, 0, 0), "memory is lost");
    }
}

/// A word of the segment: mostly one that somebody reads.
fn place_in(scribbler: &Scribbler, block: usize, random: &mut Random) -> usize {
    match random.below(8) {
        // The consumed count, slots of the ring near its start, all of the ring.
        0 => block,
        1..4 => block + 8 + random.below(24 * 8) as usize,
        4 => block + 8 + random.below(64 * 8) as usize,
        // The arming word, the header.
        5 => random.below(16) as usize,
        // Exposures, buffers, and what is lent from the end.
        6 => 512 + random.below(1 << 13) as usize,
        _ => scribbler.words() - 1 - random.below(1 << 12) as usize,
    }
}

/// A value: odd, or the first word of a slot, or a reference into the segment.
fn nonsense(random: &mut Random) -> u64 {
    match random.below(5) {
        0 => random.pick(&ODD),
        1 => random.next_u64(),
        // Lap, kind, flags, length of a slot.
        2 | 3 => {
            let (lap, kind) = (random.below(3), random.below(20));
            let flags = random.pick(&[0, 0, 0x80, 1, 2, 0x81]);
            lap | (kind << 16) | (flags << 24) | (random.pick(&[0, 8, 48, 49, 8192, 0xffff]) << 32)
        }
        // Line and length.
        _ => ((64 + random.below(1 << 16)) << 32) | random.pick(&ODD),
    }
}
