//! A peer with which there is a conversation of every kind, out of which it says frames again that are not quite right: they name
//! what is under way, on both sides. It is cut off, or borne with; nobody else is disturbed, and nothing is written but where the
//! program has allowed it.

#[path = "../common/mod.rs"]
mod common;
mod forge;
mod friend;
mod land;
mod talk;
mod tap;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::Tcp;
use forge::{Count, Forge};
use friend::Friend;
use gridnet_core::endpoint::{Limits, PeerState};
use gridnet_core::error::Error;
use gridnet_core::rail::PeerId;
use gridnet_core::region::Access;
use gridnet_core::stream::ListenerId;
use gridnet_core::testing::node::{anything, Node};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, NodeId};
use gridnet_uring_tcp::{Engine, TcpRail};
use land::Land;
use talk::{Side, SERVICE};
use tap::Tap;

/// Forged frames of one peer at most.
const FRAMES: u64 = 100;
/// Peers of one victim: what it knows of them stays.
const PEERS: u64 = 500;
/// The dice are thrown alike each time, but what they fall on depends on the kernel: it goes on for so many times as many frames
/// until there was enough of each kind.
const MOST_TIMES: u64 = 4;
/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(100);
/// Rounds of talk until something is forged.
const HONEST_ROUNDS: u32 = 2;
/// Kinds that name an operation, a region or a stream,
const NAMING: [u8; 13] = [2, 3, 4, 5, 6, 9, 13, 14, 16, 17, 18, 19, 20];
/// and those in which something else can break the protocol all the same.
const CHECKED: [u8; 6] = [3, 4, 13, 14, 18, 20];
const REGION: usize = 70_000;

#[test]
fn forged_frames_of_a_conversation_end_it_and_nothing_else() {
    let total = total();
    let mut tally = Tally::default();
    let mut random = Random::new(4);
    let goes_on = |tally: &Tally| {
        let said = tally.said();
        said < total || said < MOST_TIMES * total && !tally.missing(total).is_empty()
    };
    while goes_on(&tally) {
        let mut scene = Scene::new(random.next_u64());
        while goes_on(&tally) && scene.peers < PEERS {
            scene.live_through_one(&mut tally);
        }
        scene.friend.check(&mut scene.pair);
    }
    tally.check(total);
}

/// How many frames are forged at least.
fn total() -> u64 {
    let is_set = |name| std::env::var_os(name).is_some();
    match (is_set("TEST_SOAK"), is_set("TEST_SANITIZED")) {
        (false, _) => 4_000,
        (true, false) => 1_000_000,
        // Some 20 minutes, too.
        (true, true) => 300_000,
    }
}

/// What was forged, and what came of it.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<u8, Count>,
    peers: u64,
    cut_off: u64,
    under_way: u64,
    finished: u64,
}

impl Tally {
    fn said(&self) -> u64 {
        self.counts.values().map(|count| count.said).sum()
    }

    fn add(&mut self, counts: &BTreeMap<u8, Count>) {
        for (kind, more) in counts {
            let count = self.counts.entry(*kind).or_default();
            count.said += more.said;
            count.named += more.named;
            count.refused += more.refused;
            count.refused_named += more.refused_named;
        }
    }

    fn note_under_way(&mut self, node: &Node<TcpRail>, side: &Side) {
        let is_finished = |ticket| node.is_finished(ticket);
        let finished = side.tickets.iter().filter(|ticket| is_finished(**ticket)).count();
        self.finished += finished as u64;
        self.under_way += (side.tickets.len() - finished) as u64;
    }

    /// Of which kinds there was not enough yet.
    fn missing(&self, total: u64) -> Vec<String> {
        let count = |kind| self.counts.get(&kind).copied().unwrap_or_default();
        let unnamed = NAMING.into_iter().filter(|kind| count(*kind).named < total / 1000);
        let unnamed = unnamed.map(|kind| format!("kind {kind} hardly names what there is"));
        let passed = CHECKED.into_iter().filter(|kind| count(*kind).refused_named < (total / 10_000).max(1));
        unnamed.chain(passed.map(|kind| format!("kind {kind} is hardly looked at"))).collect()
    }

    fn check(&self, total: u64) {
        println!("RESULT {} forged frames of {} peers, {} cut off", self.said(), self.peers, self.cut_off);
        println!("RESULT {} operations had ended, {} had not", self.finished, self.under_way);
        for (kind, count) in &self.counts {
            println!("RESULT kind {kind} {count:?}");
        }
        assert!(self.cut_off * 4 > self.peers, "the frames are too good to tell");
        assert!(self.cut_off * 20 < self.said() * 19, "no forged frame is borne with");
        assert!(self.under_way > 2 * self.peers, "nothing is under way that frames could name");
        assert!(self.missing(total).is_empty(), "{:?}", self.missing(total));
    }
}

/// A victim, its friend, and one forger after the other.
struct Scene {
    pair: Pair<Tcp>,
    lands: [Land; 2],
    listener: ListenerId,
    friend: Friend,
    random: Random,
    peers: u64,
}

/// A node that means no harm, and who is between it and the victim.
struct Forger {
    node: Node<TcpRail>,
    land: Land,
    listener: ListenerId,
    tap: Tap,
    /// What it calls the victim.
    victim: PeerId,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let limits = Limits { unexpected_bytes: 4 << 20, unexpected_messages: 256, ..Limits::default() };
        let mut pair = Pair::strangers(Tcp::new(Engine::Auto), Setup { limits, ..Setup::default() });
        pair.a = pair.a.keeping(100);
        let victim = &mut pair.a;
        let lands = [Access::ALL, Access::REMOTE_READ].map(|access| Land::of(victim, REGION, access, 0));
        let (listener, _) = victim.engine().stream_listen(SERVICE, 8).expect("the name is good");
        let friend = Friend::new(&mut pair, listener);
        Scene { pair, lands, listener, friend, random: Random::new(seed), peers: 0 }
    }

    fn live_through_one(&mut self, tally: &mut Tally) {
        self.peers += 1;
        let (mut forger, source) = self.meet();
        let keys = self.lands.each_ref().map(|land| land.key(&mut self.pair.a));
        let mut theirs = Side::new(&mut forger.node, forger.victim, &keys, REGION);
        let key = forger.land.key(&mut forger.node);
        let mut ours = Side::new(&mut self.pair.a, source, &[key], REGION);
        ours.call(&mut self.pair.a);
        theirs.call(&mut forger.node);
        let (start, mut rounds) = (Instant::now(), 0);
        while forger.tap.forge.said < FRAMES && self.pair.a.state(source) == PeerState::Up {
            assert!(start.elapsed() < PATIENCE, "nothing is forged");
            self.start(&mut forger, &mut ours, &mut theirs);
            tally.note_under_way(&self.pair.a, &ours);
            self.go_on(&mut forger, &mut ours, &mut theirs);
            rounds += 1;
            forger.tap.forge.chance = if rounds < HONEST_ROUNDS { 0.0 } else { 0.3 };
        }
        if self.is_refused(source) && !forger.tap.has_peer_left {
            tally.cut_off += 1;
            forger.tap.forge.note_refused();
        }
        tally.peers += 1;
        tally.add(&forger.tap.forge.counts);
        self.part(forger, source, ours);
    }

    /// A new node, which calls the victim, or is called.
    fn meet(&mut self) -> (Forger, PeerId) {
        let is_victim_called = self.random.chance(0.5);
        let fixture = &mut self.pair.fixture;
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&self.peers.to_le_bytes());
        let local = Address { node: NodeId::new(id).expect("not zero"), ..fixture.address(9) };
        let rail = fixture.rail(&local);
        let local = fixture.reached_at(&rail, local);
        let mut node = Node::new(local, rail, Limits::default(), 1 << 12);
        let land = Land::of(&mut node, REGION, Access::ALL, 0);
        let (listener, _) = node.engine().stream_listen(SERVICE, 8).expect("the name is good");
        let victim = *self.pair.a.address();
        let called = if is_victim_called { victim } else { local };
        let at = called.network.iter().next().expect("it listens");
        let tap = Tap::new(at, is_victim_called, Forge::new(self.random.next_u64()));
        let through = Address { network: tap.at(), ..called };
        let caller = if is_victim_called { node.engine() } else { self.pair.a.engine() };
        let to = caller.open(&through).expect("the call starts");
        let mut forger = Forger { node, land, listener, tap, victim: to };
        let mut source = (!is_victim_called).then_some(to);
        let start = Instant::now();
        loop {
            self.step(&mut forger);
            source = source.or_else(|| self.pair.a.peer_of(local.node));
            forger.victim = forger.node.peer_of(victim.node).unwrap_or(to);
            let is_known = forger.node.peer_of(victim.node).is_some();
            let is_up = is_known && forger.node.state(forger.victim) == PeerState::Up;
            if let Some(source) = source.filter(|source| is_up && self.pair.a.state(*source) == PeerState::Up)
            {
                return (forger, source);
            }
            assert!(start.elapsed() < PATIENCE, "they do not meet");
        }
    }

    /// Something of everything.
    fn start(&mut self, forger: &mut Forger, ours: &mut Side, theirs: &mut Side) {
        let (a, random) = (&mut self.pair.a, &mut self.random);
        talk::message((a, ours), (&mut forger.node, theirs), random);
        talk::message((&mut forger.node, theirs), (a, ours), random);
        talk::remote(a, ours, random);
        talk::remote(&mut forger.node, theirs, random);
        if random.chance(0.3) {
            talk::cancel(a, ours, random);
        }
        if random.chance(0.3) {
            talk::cancel(&mut forger.node, theirs, random);
        }
        (0..2).for_each(|_| self.friend.talk(&mut self.pair, random));
    }

    fn go_on(&mut self, forger: &mut Forger, ours: &mut Side, theirs: &mut Side) {
        forger.tap.forge.others = self.friend.overheard();
        for _ in 0..10 {
            ours.stream(&mut self.pair.a, self.listener, &mut self.random);
            theirs.stream(&mut forger.node, forger.listener, &mut self.random);
            self.step(forger);
            forger.tap.interject();
        }
        self.take_unexpected();
    }

    fn step(&mut self, forger: &mut Forger) {
        let now = self.pair.fixture.tick();
        forger.node.drive(now);
        forger.tap.pump();
        self.pair.step();
        self.friend.go_on(&mut self.pair);
    }

    fn is_refused(&mut self, source: PeerId) -> bool {
        matches!(self.pair.a.state(source), PeerState::Gone(why) if why.error == Error::PeerMisbehaved)
    }

    /// The forger goes, with all that was under way with it.
    fn part(&mut self, mut forger: Forger, source: PeerId, ours: Side) {
        forger.tap.forge.chance = 0.0;
        forger.node.close();
        let start = Instant::now();
        while !matches!(self.pair.a.state(source), PeerState::Gone(_)) {
            self.step(&mut forger);
            assert!(start.elapsed() < PATIENCE, "it does not go: {:?}", self.pair.a.state(source));
        }
        self.pair.a.collect();
        for ticket in &ours.tickets {
            assert!(self.pair.a.take(*ticket).is_some(), "an operation outlives its peer");
        }
        ours.end(&mut self.pair.a);
        // Now and then only: what is under way with the friend is to be there to be named.
        if self.peers.is_multiple_of(10) {
            self.friend.check(&mut self.pair);
        }
        forger.land.check();
        self.lands.iter().for_each(Land::check);
        self.pair.a.check_ended();
        assert_eq!(self.pair.a.engine().counters().peers_now, 1);
        self.take_unexpected();
    }

    /// What no receive was posted for.
    fn take_unexpected(&mut self) {
        while let Some(found) = self.pair.a.engine().probe(&anything()) {
            let receive = self.pair.a.receive(anything(), found.len.min(8192) as usize);
            self.pair.a.collect();
            self.pair.a.take(receive);
        }
    }
}
