//! Frames that go behind the greeting of the side that calls, before the other one's has come.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::certificates::Authority;
use common::{tls, Members, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::PeerId;
use gridnet_core::testing::node::{from_any, Node};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::wire::{Address, NetAddresses, Preface};
use gridnet_uring_tcp::{Engine, Multirail, Security, TcpRail};

/// A hand between a caller and the called, which holds back what either says from the second thing on that the caller says: for TLS 1.3
/// that is the end of the handshake, and behind it the greeting, and frames.
struct Door {
    listener: TcpListener,
    to: (Ipv4Addr, u16),
    ducts: Vec<Duct>,
    holds_caller: bool,
    holds_called: bool,
}

struct Duct {
    caller: TcpStream,
    called: TcpStream,
    /// The called has answered,
    answered: bool,
    /// and the caller has spoken again.
    spoke_again: bool,
}

impl Door {
    fn to(address: &Address) -> Door {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = address.network.iter().next().unwrap().port();
        let to = (Ipv4Addr::LOCALHOST, port);
        Door { listener, to, ducts: Vec::new(), holds_caller: false, holds_called: true }
    }

    /// The address that leads through it.
    fn address(&self, behind: &Address) -> Address {
        let port = self.listener.local_addr().unwrap().port();
        Address { network: NetAddresses::new(port, [Ipv4Addr::LOCALHOST.into()]), ..*behind }
    }

    fn step(&mut self) {
        if let Ok((caller, _)) = self.listener.accept() {
            let called = TcpStream::connect(self.to).unwrap();
            [&caller, &called].iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
            self.ducts.push(Duct { caller, called, answered: false, spoke_again: false });
        }
        let (holds_caller, holds_called) = (self.holds_caller, self.holds_called);
        self.ducts.retain_mut(|duct| {
            let is_held = holds_caller && duct.answered;
            let said = if is_held { Some(0) } else { pass(&duct.caller, &duct.called) };
            duct.spoke_again |= duct.answered && said.is_some_and(|len| len > 0);
            let is_held = holds_called && duct.spoke_again;
            let heard = if is_held { Some(0) } else { pass(&duct.called, &duct.caller) };
            duct.answered |= heard.is_some_and(|len| len > 0);
            said.is_some() && heard.is_some()
        });
    }

    fn open(&mut self) {
        (self.holds_caller, self.holds_called) = (false, false);
    }
}

/// Hands on what there is; how much, or nothing at the end.
fn pass(mut from: &TcpStream, mut to: &TcpStream) -> Option<usize> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => None,
        // What the tests say here fits into the buffers of sockets.
        Ok(len) => to.write_all(&buffer[..len]).ok().map(|()| len),
        Err(e) => (e.kind() == ErrorKind::WouldBlock).then_some(0),
    }
}

fn strangers(security: Security) -> Pair<Tcp> {
    let tcp = Tcp { security, multirail: Multirail::Off, slowness: 20, ..Tcp::new(Engine::Auto) };
    Pair::strangers(tcp, Setup::default())
}

fn open(from: &mut Node<TcpRail>, to: &Address, preface: Preface) -> PeerId {
    from.engine().open_unheard(to, "tcp", preface).unwrap()
}

/// Runs until this is so, while the doors do their part.
fn run(pair: &mut Pair<Tcp>, doors: &mut [&mut Door], mut until: impl FnMut(&mut Pair<Tcp>) -> bool) -> bool {
    pair.run_until(|pair| {
        doors.iter_mut().for_each(|door| door.step());
        until(pair)
    })
}

/// The second node gets these messages from the first, in this order, and nothing else.
fn hears(pair: &mut Pair<Tcp>, doors: &mut [&mut Door], messages: &[&[u8]]) {
    for message in messages {
        let received = pair.b.receive(from_any(1), message.len());
        assert!(run(pair, doors, |pair| pair.b.is_finished(received)), "{message:?} has not come");
        assert_eq!(pair.b.take(received).unwrap().bytes, *message);
    }
}

fn hears_nothing_more(pair: &mut Pair<Tcp>, doors: &mut [&mut Door]) {
    let further = pair.b.receive(from_any(1), 1000);
    let mut steps = pair.fixture.quiet_steps();
    assert!(run(pair, doors, |_| {
        steps = steps.saturating_sub(1);
        steps == 0
    }));
    assert!(!pair.b.is_finished(further), "something came twice");
    pair.b.cancel(further).unwrap();
}

/// The first node has opened the second through a door, and sent something. It has heard nothing of it but that it is there.
fn opened(security: Security, holds_caller: bool) -> (Pair<Tcp>, Door) {
    let mut pair = strangers(security);
    let door = calls(&mut pair, holds_caller);
    (pair, door)
}

fn calls(pair: &mut Pair<Tcp>, holds_caller: bool) -> Door {
    let behind = *pair.b.address();
    let mut door = Door { holds_caller, ..Door::to(&behind) };
    let address = door.address(&behind);
    pair.to_b = open(&mut pair.a, &address, Preface::OWN);
    let is_up = run(pair, &mut [&mut door], |pair| pair.a.state(pair.to_b) == PeerState::Up);
    assert!(is_up, "{:?}", pair.a.state(pair.to_b));
    pair.a.send(pair.to_b, b"first", 1);
    door
}

fn converses(pair: &mut Pair<Tcp>, door: &mut Door) {
    let from_a = pair.a.address().node;
    let to_a = pair.b.peer_of(from_a).unwrap();
    let answer = pair.a.receive(from_any(2), 1000);
    pair.b.send(to_a, b"answer", 2);
    assert!(run(pair, &mut [door], |pair| pair.a.is_finished(answer)));
    let large: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let received = pair.b.receive(from_any(1), large.len());
    pair.a.send(pair.to_b, &large, 1);
    assert!(run(pair, &mut [door], |pair| pair.b.is_finished(received)));
    assert!(pair.b.take(received).unwrap().bytes == large);
}

#[test]
fn the_first_message_is_there_before_the_caller_has_heard_a_greeting() {
    let (mut pair, mut door) = opened(tls(), false);
    hears(&mut pair, &mut [&mut door], &[b"first"]);
    pair.a.send(pair.to_b, b"second", 1);
    hears(&mut pair, &mut [&mut door], &[b"second"]);
    door.open();
    converses(&mut pair, &mut door);
    assert_eq!(pair.a.engine().breaks(pair.to_b), (0, 0));
}

#[test]
fn who_was_told_nothing_or_knows_no_session_waits_for_the_greeting() {
    let older = Preface { features: Preface::OWN.features & !8, ..Preface::OWN };
    for (security, preface) in [(tls(), older), (common::key(1), Preface::OWN)] {
        let mut pair = strangers(security);
        let behind = *pair.b.address();
        let mut door = Door::to(&behind);
        let address = door.address(&behind);
        pair.to_b = open(&mut pair.a, &address, preface);
        pair.a.send(pair.to_b, b"first", 1);
        let mut steps = 0;
        assert!(pair.run_until(|_| {
            door.step();
            steps += usize::from(door.ducts.iter().any(|duct| duct.spoke_again));
            steps == 500
        }));
        assert_eq!(pair.a.state(pair.to_b), PeerState::Connecting);
        door.open();
        hears(&mut pair, &mut [&mut door], &[b"first"]);
        converses(&mut pair, &mut door);
    }
}

/// Two that call each other at a time, through doors that hold what each has sent behind its greeting: a message.
fn crossed_calls() -> (Pair<Tcp>, Door, Door) {
    let mut pair = strangers(tls());
    let [a, b] = [*pair.a.address(), *pair.b.address()];
    let (mut to_a, mut to_b) = (Door::to(&a), Door::to(&b));
    pair.to_b = open(&mut pair.a, &to_b.address(&b), Preface::OWN);
    pair.to_a = open(&mut pair.b, &to_a.address(&a), Preface::OWN);
    (to_a.holds_caller, to_b.holds_caller) = (true, true);
    let is_up = |pair: &mut Pair<Tcp>| {
        [pair.a.state(pair.to_b), pair.b.state(pair.to_a)].iter().all(|state| *state == PeerState::Up)
    };
    assert!(run(&mut pair, &mut [&mut to_a, &mut to_b], is_up));
    pair.a.send(pair.to_b, b"first", 1);
    pair.b.send(pair.to_a, b"from the other", 2);
    (pair, to_a, to_b)
}

/// Of two calls that cross one is refused: what went by it goes by the other, and nothing by both.
#[test]
fn both_call_at_a_time_and_all_comes_once() {
    let (mut pair, mut to_a, mut to_b) = crossed_calls();
    pair.run_steps(10);
    to_a.open();
    to_b.open();
    hears(&mut pair, &mut [&mut to_a, &mut to_b], &[b"first"]);
    let received = pair.a.receive(from_any(2), b"from the other".len());
    assert!(run(&mut pair, &mut [&mut to_a, &mut to_b], |pair| pair.a.is_finished(received)));
    assert_eq!(pair.a.take(received).unwrap().bytes, b"from the other");
    let (to, from) = (pair.to_b, pair.to_a);
    assert_eq!((pair.a.engine().breaks(to), pair.b.engine().breaks(from)), ((0, 0), (0, 0)));
    hears_nothing_more(&mut pair, &mut [&mut to_a, &mut to_b]);
    converses(&mut pair, &mut to_b);
}

/// Nobody has taken what went by a call that gave way.
#[test]
fn a_call_that_counts_and_never_comes_costs_time_and_nothing_else() {
    let (mut pair, mut to_a, mut to_b) = crossed_calls();
    to_a.open();
    let mut steps = 500;
    assert!(run(&mut pair, &mut [&mut to_a, &mut to_b], |_| {
        steps -= 1;
        steps == 0
    }));
    pair.fixture.skipped += Duration::from_millis(5100);
    let is_up = |pair: &mut Pair<Tcp>| pair.b.state(pair.to_a) == PeerState::Up;
    assert!(run(&mut pair, &mut [&mut to_a, &mut to_b], |pair| !is_up(pair)));
    let state = pair.b.state(pair.to_a);
    assert!(matches!(state, PeerState::Broken(_)), "{state:?}");
    // The other's comes after all.
    to_b.open();
    hears(&mut pair, &mut [&mut to_a, &mut to_b], &[b"first"]);
    let received = pair.a.receive(from_any(2), b"from the other".len());
    assert!(run(&mut pair, &mut [&mut to_a, &mut to_b], |pair| pair.a.is_finished(received)));
    assert_eq!(pair.a.take(received).unwrap().bytes, b"from the other");
    hears_nothing_more(&mut pair, &mut [&mut to_a, &mut to_b]);
}

#[test]
fn a_caller_that_is_refused_is_told_why_and_nothing_of_it_is_taken() {
    let mut members = Members::of(&Authority::new());
    members.nobody = vec![Tcp::new(Engine::Auto).address(1).node];
    let members = Arc::new(members);
    let (mut pair, mut door) = opened(Security::Session(members.clone()), false);
    // What it was agreed on by stands for the caller from then on.
    assert_eq!(*members.linked.lock().unwrap(), [pair.b.address().node]);
    door.open();
    let is_gone = |pair: &mut Pair<Tcp>| matches!(pair.a.state(pair.to_b), PeerState::Gone(_));
    assert!(run(&mut pair, &mut [&mut door], is_gone));
    let PeerState::Gone(why) = pair.a.state(pair.to_b) else { unreachable!() };
    assert_eq!((why.error, why.reason.as_str()), (Error::Permission, "a name of somebody else"));
    assert_eq!(pair.b.engine().counters().peers_now, 0);
    hears_nothing_more(&mut pair, &mut [&mut door]);
}

#[test]
fn who_greets_otherwise_than_it_has_said_is_cut_off() {
    let mut pair = strangers(tls());
    let address = *pair.b.address();
    let preface = Preface { features: Preface::OWN.features | 1 << 63, ..Preface::OWN };
    pair.to_b = open(&mut pair.a, &address, preface);
    pair.a.send(pair.to_b, b"first", 1);
    let is_gone = |pair: &mut Pair<Tcp>| matches!(pair.a.state(pair.to_b), PeerState::Gone(_));
    assert!(run(&mut pair, &mut [], is_gone));
    let PeerState::Gone(why) = pair.a.state(pair.to_b) else { unreachable!() };
    assert!(why.error == Error::PeerMisbehaved && why.reason.contains("greets otherwise"), "{why:?}");
    // It was taken, and is not again.
    hears(&mut pair, &mut [], &[b"first"]);
    hears_nothing_more(&mut pair, &mut []);
}

/// Nobody knows what was taken: both say so over the next link.
#[test]
fn a_link_that_breaks_before_the_greeting_is_made_again_and_all_comes_once() {
    for holds_caller in [false, true] {
        let (mut pair, mut door) = opened(tls(), holds_caller);
        if !holds_caller {
            hears(&mut pair, &mut [&mut door], &[b"first"]);
        }
        door.ducts.clear();
        door.open();
        pair.a.send(pair.to_b, b"second", 1);
        let expected: &[&[u8]] = if holds_caller { &[b"first", b"second"] } else { &[b"second"] };
        hears(&mut pair, &mut [&mut door], expected);
        assert_eq!(pair.a.engine().breaks(pair.to_b).0, 1, "it broke once");
        converses(&mut pair, &mut door);
    }
}

/// The other side waits for another life of the caller's fabric at that moment.
#[test]
fn what_went_by_a_link_that_was_refused_goes_by_the_next_one() {
    let mut pair = strangers(tls());
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let network = NetAddresses::new(silent.local_addr().unwrap().port(), [Ipv4Addr::LOCALHOST.into()]);
    let other = Address { incarnation: 7, network, ..*pair.a.address() };
    let waited_for = pair.b.engine().open(&other).unwrap();
    let mut door = calls(&mut pair, false);
    pair.a.send(pair.to_b, b"second", 1);
    door.open();
    let is_refused = |pair: &mut Pair<Tcp>| matches!(pair.a.state(pair.to_b), PeerState::Broken(_));
    assert!(run(&mut pair, &mut [&mut door], is_refused));
    pair.b.engine().abandon(waited_for);
    // It leaves the other side time to call.
    pair.fixture.skipped += Duration::from_millis(200);
    hears(&mut pair, &mut [&mut door], &[b"first", b"second"]);
    assert_eq!(pair.a.engine().breaks(pair.to_b), (0, 0), "that link was none");
    hears_nothing_more(&mut pair, &mut [&mut door]);
    converses(&mut pair, &mut door);
}
