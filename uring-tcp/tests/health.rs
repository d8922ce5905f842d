//! Whether the way to a peer is still there, and what a peer that is only slow has to fear: nothing.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{tls, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::Armed;
use gridnet_core::testing::node::{exactly, from_any, SendOptions};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::wire::{Address, NetAddresses};
use gridnet_uring_tcp::{Engine, Security, TcpRail, Tuning, Window};

const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };
const SECOND: Duration = Duration::from_secs(1);
/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(100);

#[test]
fn a_link_has_a_pulse_when_it_is_a_second_old() {
    let plain = [Engine::Auto, Engine::Epoll].map(|engine| (engine, Security::Insecure));
    for (engine, security) in plain.into_iter().chain([(Engine::Auto, tls())]) {
        let mut pair = watchful_of(Tcp { security, ..Tcp::new(engine) });
        pair.run_until_quiet();
        assert_eq!(pulses(&mut pair), [0, 0], "links that are used for moments need none");
        until_there_are_pulses(&mut pair);
        // One that breaks is made again, and the link knows nothing of it.
        for _ in 0..3 {
            rail(&mut pair.a).cut_pulses();
            until(&mut pair, |pair| pulses(pair) == [0, 0]);
            until_there_are_pulses(&mut pair);
            rail(&mut pair.b).cut_pulses();
            until(&mut pair, |pair| pulses(pair) == [0, 0]);
            until_there_are_pulses(&mut pair);
        }
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        assert_eq!((pair.a.engine().breaks(to_b), pair.b.engine().breaks(to_a)), ((0, 0), (0, 0)));
        // It ends with its link, and the next one has another.
        let link = rail(&mut pair.a).link_with(node(&pair.b)).expect("there is a link");
        rail(&mut pair.a).cut(link);
        until(&mut pair, |pair| {
            let breaks = (pair.a.engine().breaks(to_b).0, pair.b.engine().breaks(to_a).0);
            breaks == (1, 1) && pair.a.state(to_b) == PeerState::Up && pair.b.state(to_a) == PeerState::Up
        });
        assert_eq!(pulses(&mut pair), [0, 0]);
        until_there_are_pulses(&mut pair);
    }
}

#[test]
fn a_caller_that_is_stopped_when_its_link_breaks_is_not_gone() {
    let mut pair = watchful(Engine::Auto);
    let send = pair.b.send_with(pair.to_a, &[b"as long as it takes"], 1, SYNC).expect("the send starts");
    let link = rail(&mut pair.b).link_with(node(&pair.a)).expect("there is a link");
    rail(&mut pair.b).cut(link);
    // Nobody drives the caller; its system answers.
    let to_a = pair.to_a;
    for _ in 0..300 {
        pair.fixture.skipped += SECOND / 2;
        for _ in 0..20 {
            let now = pair.fixture.tick();
            pair.b.drive(now);
        }
        let state = pair.b.state(to_a);
        assert!(matches!(state, PeerState::Broken(_)), "{state:?}");
    }
    assert!(pair.b.engine().is_stalled(to_a));
    let receive = pair.a.receive(exactly(pair.to_b, 1), 32);
    assert_eq!((pair.finish_a(receive).status, pair.finish_b(send).status), (Ok(()), Ok(())));
    assert!(!pair.b.engine().is_stalled(to_a));
}

#[test]
fn a_caller_that_ends_when_its_link_has_broken_is_gone_at_once() {
    let mut pair = watchful(Engine::Auto);
    let send = pair.b.send_with(pair.to_a, &[b"too late"], 1, SYNC).expect("the send starts");
    let link = rail(&mut pair.b).link_with(node(&pair.a)).expect("there is a link");
    rail(&mut pair.b).cut(link);
    let (now, start) = (pair.fixture.tick(), Instant::now());
    pair.b.drive(now);
    pair.a.close();
    while !pair.b.is_finished(send) {
        pair.fixture.skipped += SECOND / 1000;
        let now = pair.fixture.tick();
        pair.b.drive(now);
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(pair.b.take(send).expect("it has ended").status, Err(Error::PeerGone));
    let PeerState::Gone(why) = pair.b.state(pair.to_a) else { panic!("it is gone") };
    assert!(why.reason.contains("connection refused"), "{}", why.reason);
}

#[test]
fn a_peer_that_takes_nothing_stalls_until_it_does() {
    let mut pair = watchful(Engine::Auto);
    let to_b = pair.to_b;
    let small = pair.a.send_with(to_b, &[b"small"], 1, SYNC).expect("the send starts");
    let large = pair.a.send(to_b, &vec![3; 20_000_000], 2);
    let start = Instant::now();
    while !pair.a.engine().is_stalled(to_b) {
        pair.fixture.skipped += SECOND / 20;
        let now = pair.fixture.tick();
        pair.a.drive(now);
        assert!(start.elapsed() < PATIENCE, "nobody notices");
    }
    assert_eq!(pair.a.state(to_b), PeerState::Up);
    let receives = [1, 2].map(|tag| pair.b.receive(exactly(pair.to_a, tag), 20_000_000));
    for receive in receives {
        assert_eq!(pair.finish_b(receive).status, Ok(()));
    }
    assert_eq!((pair.finish_a(small).status, pair.finish_a(large).status), (Ok(()), Ok(())));
    pair.fixture.skipped += 2 * SECOND;
    pair.run_until_quiet();
    assert!(!pair.a.engine().is_stalled(to_b));
}

/// A gateway, or a firewall, may let nobody else in: the link that is there is none the worse for it.
#[test]
fn a_link_outlives_the_way_by_which_it_was_made() {
    let tuning = Tuning { keep_alive: Some(SECOND), ..Tuning::default() };
    let fixture = Tcp { tuning, slowness: 1000, ..Tcp::new(Engine::Auto) };
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    let network = gateway_for_one(address.network.iter().next().expect("it listens"));
    let to_b = pair.a.engine().open(&Address { network, ..address }).expect("the call starts");
    let talk = |pair: &mut Pair<Tcp>, tag| {
        let receive = pair.b.receive(from_any(tag), 8);
        let send = pair.a.send_with(to_b, &[b"hello"], tag, SYNC).expect("the send starts");
        // The gateway's threads need the processor, too: steps do not say how long that takes.
        let start = Instant::now();
        while !(pair.b.is_finished(receive) && pair.a.is_finished(send)) {
            assert!(start.elapsed() < PATIENCE, "message {tag} does not arrive");
            pair.step();
        }
        assert_eq!((pair.finish_b(receive).status, pair.finish_a(send).status), (Ok(()), Ok(())));
    };
    talk(&mut pair, 1);
    for tag in 2..12 {
        // Time for the next attempt at a pulse, which is refused.
        pair.fixture.skipped += 2 * SECOND;
        pair.run_until_quiet();
        talk(&mut pair, tag);
    }
    assert_eq!(pulses(&mut pair), [0, 0], "nobody else gets in");
    assert_eq!(pair.a.engine().breaks(to_b), (0, 0));
}

/// Where the first connection leads on to `to`, and all others are refused.
fn gateway_for_one(to: SocketAddr) -> NetAddresses {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let at = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        let (near, _) = listener.accept().expect("somebody calls");
        drop(listener);
        let far = TcpStream::connect(to).expect("it listens");
        let carry = |from: &TcpStream, to: &TcpStream| {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            // An error says that one of the two has ended.
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)))
        };
        [carry(&near, &far), carry(&far, &near)]
    });
    NetAddresses::new(at.port(), [at.ip()])
}

/// Whoever sleeps after a message to a peer from which nothing came for long is woken to see whether it was taken.
#[test]
fn a_message_over_an_idle_link_is_looked_after_by_whoever_sleeps() {
    let mut pair = Pair::new(Tcp { slowness: 1_000_000, ..Tcp::new(Engine::Auto) });
    let to_b = pair.to_b;
    pair.run_until_quiet();
    fall_asleep(&mut pair);
    // The last look finds nothing to be taken: none is wanted any more.
    pair.fixture.skipped += 2 * SECOND;
    let now = pair.fixture.tick();
    pair.a.drive(now);
    fall_asleep(&mut pair);
    assert_eq!(pair.a.engine().deadline(), None, "who has nothing under way is not woken");
    pair.a.send(to_b, b"x", 1);
    fall_asleep(&mut pair);
    for _ in 0..3 {
        let at = pair.a.engine().deadline().expect("it is looked at again");
        assert!(at.since(now) <= 3_000_000_000, "{:?}", at.since(now));
        pair.fixture.skipped += SECOND;
        let now = pair.fixture.tick();
        pair.a.drive(now);
        if pair.a.engine().is_stalled(to_b) {
            return;
        }
        fall_asleep(&mut pair);
    }
    panic!("nobody notices");
}

/// What came while the kernel took nothing is acknowledged once it does: the peer keeps it until then, and takes this side for one
/// that has stopped.
#[test]
fn what_comes_while_nothing_can_be_said_is_acknowledged_later() {
    let tuning = Tuning { send_buffer: 8 << 10, receive_buffer: 8 << 10, ..Tuning::default() };
    let window = Window { bytes: 8 << 20, frames: 4096 };
    let mut pair = Pair::new(Tcp { tuning, window, slowness: 1000, ..Tcp::new(Engine::Auto) });
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    pair.run_until_quiet();
    // More than the kernel takes, and all of it within the window: nothing is left that could carry the word later.
    for _ in 0..500 {
        pair.a.send(to_b, &[7; 4000], 1);
    }
    assert_eq!(pair.a.engine().counters().pending_now, 0);
    pair.b.send(to_a, b"while it is full", 2);
    let receive = pair.a.receive(exactly(to_b, 2), 32);
    let start = Instant::now();
    while !pair.a.is_finished(receive) {
        let now = pair.fixture.tick();
        pair.a.drive(now);
        assert!(start.elapsed() < PATIENCE);
    }
    // The moment in which it would be said: nothing more comes.
    for _ in 0..10 {
        let now = pair.fixture.tick();
        pair.a.drive(now);
    }
    fall_asleep(&mut pair);
    pair.run_until_quiet();
    for _ in 0..4 {
        pair.fixture.skipped += SECOND;
        pair.run_until_quiet();
    }
    assert!(!pair.b.engine().is_stalled(to_a), "it has taken everything");
}

/// The first node goes to sleep, and is awake again.
fn fall_asleep(pair: &mut Pair<Tcp>) {
    let start = Instant::now();
    while pair.a.engine().arm() == Armed::Busy {
        let now = pair.fixture.tick();
        pair.a.drive(now);
        assert!(start.elapsed() < PATIENCE, "it does not sleep");
    }
    pair.a.engine().disarm();
}

/// Two nodes that look after their links.
fn watchful(engine: Engine) -> Pair<Tcp> {
    watchful_of(Tcp::new(engine))
}

fn watchful_of(fixture: Tcp) -> Pair<Tcp> {
    let tuning = Tuning { keep_alive: Some(SECOND), ..Tuning::default() };
    Pair::new(Tcp { tuning, slowness: 1000, ..fixture })
}

type Node = gridnet_core::testing::node::Node<TcpRail>;

fn rail(node: &mut Node) -> &mut TcpRail {
    &mut node.engine().rails_mut()[0]
}

fn node(of: &Node) -> gridnet_core::wire::NodeId {
    of.address().node
}

fn pulses(pair: &mut Pair<Tcp>) -> [usize; 2] {
    [rail(&mut pair.a).pulses(), rail(&mut pair.b).pulses()]
}

fn until_there_are_pulses(pair: &mut Pair<Tcp>) {
    until(pair, |pair| {
        pair.fixture.skipped += SECOND / 100;
        pulses(pair) == [1, 1]
    });
}

fn until(pair: &mut Pair<Tcp>, mut done: impl FnMut(&mut Pair<Tcp>) -> bool) {
    let start = Instant::now();
    while !done(pair) {
        pair.fixture.skipped += SECOND / 10_000;
        pair.step();
        assert!(start.elapsed() < PATIENCE, "{:?} pulses", pulses(pair));
    }
}
