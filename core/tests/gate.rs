//! Who decides about streams, and over which rails a conversation goes on that has some, in virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::mem::Gather;
use gridnet_core::rail::Refusal;
use gridnet_core::stream::{Gate, ListenerId, Sought};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::testing::two_rails::TwoRails;
use gridnet_core::wire::{Kind, Message, Said, MAX_SERVICE_BYTES};

const SECOND_NS: u64 = 1_000_000_000;
/// The rails, as bits.
const NEAR: u64 = 1;
const FAR: u64 = 2;

/// Over which rails streams to each service may go; others may not be.
#[derive(Debug)]
struct Allowed(BTreeMap<&'static str, u64>);

impl Gate for Allowed {
    fn admit(&mut self, sought: &Sought<'_>) -> Result<u64, Refusal> {
        let rails = self.0.get(sought.service).copied();
        rails.ok_or_else(|| Refusal::new(Error::Permission, format!("no {}", sought.service)))
    }
}

fn gate<const N: usize>(services: [(&'static str, u64); N]) -> Box<dyn Gate> {
    Box::new(Allowed(services.into()))
}

/// A stream from `a` to a service of `b`: what the caller is told in the end.
fn call(pair: &mut Pair<TwoRails>, service: &str) -> Result<(), Error> {
    let (ours, _) = pair.a.engine().stream_connect(pair.to_b, service)?;
    assert!(pair.run_until(|pair| pair.a.engine().stream_connected(ours) != Err(Error::Again)));
    pair.a.engine().stream_connected(ours)
}

fn listen(pair: &mut Pair<TwoRails>, service: &str) -> ListenerId {
    pair.b.engine().stream_listen(service, 4).expect("the name is free").0
}

fn is_waiting(pair: &mut Pair<TwoRails>, listener: ListenerId) -> bool {
    pair.b.engine().listener_ready(listener).is_ok_and(|ready| ready.input)
}

#[test]
fn either_side_refuses_a_stream_and_nothing_else() {
    let mut pair = Pair::new(TwoRails::new());
    let (secrets, files) = (listen(&mut pair, "secrets"), listen(&mut pair, "files"));
    pair.b.engine().set_gate(gate([("files", NEAR | FAR), ("secrets", FAR)]));
    assert_eq!(call(&mut pair, "secrets"), Err(Error::Permission), "not over this rail");
    assert!(!is_waiting(&mut pair, secrets), "nobody hears of it");
    assert_eq!(call(&mut pair, "nothing"), Err(Error::NotFound), "nobody listens");
    assert_eq!(call(&mut pair, "files"), Ok(()));
    assert!(is_waiting(&mut pair, files));
    // The side that asks, before it has sent anything.
    pair.a.engine().set_gate(gate([("secrets", NEAR)]));
    let before = pair.b.engine().counters();
    let to_b = pair.to_b;
    let why = pair.a.engine().stream_admitted(to_b, "files").unwrap_err();
    assert_eq!((why.error, why.reason.as_str()), (Error::Permission, "no files"));
    assert_eq!(call(&mut pair, "files"), Err(Error::Permission));
    pair.run_steps(100);
    assert_eq!(pair.b.engine().counters(), before, "nothing has come");
    assert_eq!(call(&mut pair, ""), Err(Error::Invalid));
}

/// Which rails the two sides use, and whether they have gone, some time after the near one has broken.
fn after_a_break(prepare: impl Fn(&mut Pair<TwoRails>)) -> [(Option<&'static str>, bool); 2] {
    let mut pair = Pair::new(TwoRails::new());
    listen(&mut pair, "secrets");
    prepare(&mut pair);
    assert_eq!(call(&mut pair, "secrets"), Ok(()));
    pair.fixture.part([pair.a.address().node, pair.b.address().node], true);
    let begin = pair.fixture.now();
    while pair.fixture.now().since(begin) < 30 * SECOND_NS {
        pair.step();
    }
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    let of = |node: &mut gridnet_core::testing::node::Node<_>, peer| {
        let is_up = node.state(peer) == PeerState::Up;
        (node.engine().rail_name(peer), is_up)
    };
    [of(&mut pair.a, to_b), of(&mut pair.b, to_a)]
}

#[test]
fn what_may_go_over_one_rail_does_not_go_on_over_another() {
    let moved = [(Some("far"), true); 2];
    assert_eq!(after_a_break(|_| {}), moved, "nobody decides");
    let anywhere = |pair: &mut Pair<TwoRails>| pair.b.engine().set_gate(gate([("secrets", NEAR | FAR)]));
    assert_eq!(after_a_break(anywhere), moved);
    let near = || gate([("secrets", NEAR)]);
    let stays = [(Some("near"), false); 2];
    assert_eq!(after_a_break(|pair| pair.a.engine().set_gate(near())), stays, "the side that asks");
    assert_eq!(after_a_break(|pair| pair.b.engine().set_gate(near())), stays, "the side that is asked");
}

#[test]
fn a_conversation_stays_where_it_is_confined_to() {
    let mut pair = Pair::new(TwoRails::new());
    let nodes = [pair.a.address().node, pair.b.address().node];
    pair.fixture.part(nodes, true);
    let on_far = |pair: &mut Pair<TwoRails>| {
        pair.a.engine().rail_name(pair.to_b) == Some("far") && pair.a.state(pair.to_b) == PeerState::Up
    };
    let begin = pair.fixture.now();
    while !on_far(&mut pair) {
        assert!(pair.fixture.now().since(begin) < 100 * SECOND_NS);
        pair.step();
    }
    let (to_b, address) = (pair.to_b, *pair.b.address());
    pair.a.engine().confine(to_b, FAR);
    pair.a.engine().confine(to_b, NEAR | FAR);
    pair.fixture.part(nodes, false);
    // It would go back to the first rail by itself.
    let begin = pair.fixture.now();
    while pair.fixture.now().since(begin) < 30 * SECOND_NS {
        pair.step();
    }
    assert!(on_far(&mut pair));
    let why = pair.a.engine().call_over(to_b, "near", &address).unwrap_err();
    assert_eq!(why.error, Error::Permission);
}

/// Refuses all, and notes what it was asked for.
#[derive(Debug, Clone, Default)]
struct Strict(Arc<Mutex<Vec<String>>>);

impl Gate for Strict {
    fn admit(&mut self, sought: &Sought<'_>) -> Result<u64, Refusal> {
        assert!(sought.is_called);
        self.0.lock().expect("nobody panics").push(sought.service.to_owned());
        Err(Refusal::new(Error::Permission, "nothing"))
    }
}

/// A frame that asks for a stream.
fn asks(stream: u64, service: &[u8]) -> RawFrame {
    let open = Message::Stream { stream, said: Said::Open { window: 100 } };
    let mut frame = RawFrame::of(&open.frame(Gather::EMPTY));
    frame.payload = service.to_vec();
    frame
}

fn forger(pair: &mut Pair<Loopback>, number: u8) -> RawPeer<LoopbackRail> {
    let rail = pair.open_rail(number);
    let mut forger = RawPeer::connect(rail, pair.a.address()).expect("the rail leads to its peer");
    step(pair, &mut forger);
    forger
}

fn step(pair: &mut Pair<Loopback>, forger: &mut RawPeer<LoopbackRail>) {
    for _ in 0..20 {
        let now = pair.fixture.hub().advance(0);
        pair.step();
        forger.drive(now);
    }
}

/// Each call of one that calls on and on has its answer, and leaves nothing; names that are none end it, before the gate hears of them.
#[test]
fn whoever_calls_for_anything_is_answered_or_cut_off() {
    const CALLS: u64 = 1000;
    let mut pair = Pair::new(Loopback::new(0, true));
    let (listener, _) = pair.a.engine().stream_listen("secrets", 4).expect("the name is free");
    let gate = Strict::default();
    pair.a.engine().set_gate(Box::new(gate.clone()));
    let mut caller = forger(&mut pair, 9);
    for stream in 0..CALLS {
        let service = if stream % 2 == 0 { &b"secrets"[..] } else { b"Secrets" };
        assert!(caller.post(&asks(stream, service)));
        step(&mut pair, &mut caller);
    }
    assert!(caller.is_up() && !caller.is_down());
    let answers: Vec<_> = caller.frames.iter().filter(|frame| frame.kind == Kind::Stream as u8).collect();
    let is_refused = |frame: &RawFrame, error: Error| {
        // As the page of the wire format has it: what, and a status.
        (frame.extension[0], frame.extension[1] as u32 as i32) == (3, error.code())
    };
    assert_eq!(answers.len() as u64, CALLS);
    for (stream, answer) in (0..).zip(answers) {
        let error = if stream % 2 == 0 { Error::Permission } else { Error::NotFound };
        assert!(answer.word == stream && is_refused(answer, error), "{answer:?}");
    }
    assert!(!pair.a.engine().listener_ready(listener).expect("it listens").input);
    let asked = std::mem::take(&mut *gate.0.lock().expect("nobody panics"));
    assert_eq!(asked, vec!["secrets"; CALLS as usize / 2], "nobody listens for others");
    let long = vec![b's'; MAX_SERVICE_BYTES + 1];
    for (number, name) in (10..).zip([&b""[..], b"secrets\0", b"se\ncrets", b"\xff", &long]) {
        let mut other = forger(&mut pair, number);
        assert!(other.post(&asks(1, name)));
        step(&mut pair, &mut other);
        assert!(other.is_down(), "{name:?}");
    }
    assert!(gate.0.lock().expect("nobody panics").is_empty());
    assert!(caller.is_up() && !caller.is_down(), "others are not concerned");
}
