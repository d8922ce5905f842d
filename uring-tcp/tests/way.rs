//! Connections that others make: the suites of the rail over them, and what is particular to them.

mod common;

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{key, tls, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::{Rail, Refusal};
#[allow(clippy::wildcard_imports, reason = "the list of cases names all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::{Cutting, Fixture, Pair};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_core::{conformance_call_each, conformance_cases};
use gridnet_uring_tcp::{Adopter, Engine, TcpRail, Way, Window};

const SMALLEST: Window = Window { bytes: 256 << 10, frames: 1024 };

#[test]
fn short_suites_pass_by_another_way() {
    conformance_call_each! { Led::new(Tcp::new(Engine::IoUring));
        transfer::messages_of_one_sender_keep_their_order
        transfer::both_directions_at_once
        ends::operations_end_when_the_peer_closes
        ends::a_new_link_follows_an_old_one
        loans::what_is_received_has_a_place
    }
    let new = || Led::new(Tcp { window: SMALLEST, ..Tcp::new(Engine::Epoll) });
    conformance_call_each! { new();
        reliability::two_that_call_each_other_again_have_one_link
        reliability::stop_and_go_survive_cuts
    }
    reliability::messages_survive_many_cuts(new);
}

/// They take minutes.
#[test]
fn the_whole_suite_passes_by_another_way() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return common::skip("the whole suite by another way: it takes minutes (TEST_SOAK=1)");
    }
    conformance_cases! { [gridnet_core::conformance_call_each] Led::new(Tcp::new(Engine::IoUring)) }
}

/// Leads to all rails of a test by sockets of this host.
#[derive(Debug, Default)]
struct Exchange {
    adopters: Mutex<HashMap<NodeId, Adopter>>,
    /// Connections that were asked for.
    asked: Mutex<usize>,
    /// Who lends its connections to all others, if somebody does.
    lender: Mutex<Option<NodeId>>,
}

/// The exchange as this node sees it.
#[derive(Debug)]
struct Own(NodeId, Arc<Exchange>);

impl Way for Own {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>> {
        *self.1.asked.lock().unwrap() += 1;
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Who is not there is found out by the end of the socket.
        let adopter = self.1.adopters.lock().unwrap().get(&address.node).cloned();
        let from = self.1.lender.lock().unwrap().unwrap_or(self.0);
        if let Some(adopter) = adopter {
            // Nor is a rail that is over.
            drop(adopter.adopt(from, theirs.into()));
        }
        Some(Ok(ours.into()))
    }
}

/// Rails that reach one another by an exchange only: nobody is told where they listen.
struct Led {
    tcp: Tcp,
    exchange: Arc<Exchange>,
}

impl Led {
    fn new(tcp: Tcp) -> Led {
        Led { tcp: Tcp { security: tls(), ..tcp }, exchange: Arc::default() }
    }
}

impl Fixture for Led {
    type Rail = TcpRail;

    fn rail(&mut self, address: &Address) -> TcpRail {
        let mut rail = self.tcp.rail(address);
        let adopter = rail.adopter("relay").unwrap();
        self.exchange.adopters.lock().unwrap().insert(address.node, adopter);
        rail.lead_by(Arc::new(Own(address.node, Arc::clone(&self.exchange))));
        rail
    }

    fn reached_at(&self, _rail: &TcpRail, address: Address) -> Address {
        address
    }

    fn tick(&mut self) -> Time {
        self.tcp.tick()
    }

    fn quiet_steps(&self) -> usize {
        self.tcp.quiet_steps()
    }

    fn patience(&self) -> usize {
        self.tcp.patience()
    }

    fn times(&self, all: u64) -> u64 {
        self.tcp.times(all).div_ceil(4)
    }

    fn overshoot(&self) -> usize {
        self.tcp.overshoot()
    }
}

impl Cutting for Led {
    fn is_exact(&self) -> bool {
        self.tcp.is_exact()
    }

    fn cut(&mut self, rails: [&mut TcpRail; 2], between: [NodeId; 2], random: &mut Random) {
        self.tcp.cut(rails, between, random);
    }
}

fn rail(pair: &mut Pair<Led>) -> &mut TcpRail {
    &mut pair.a.engine().rails_mut()[0]
}

#[test]
fn it_is_called_by_name_and_asked_for_again_when_it_breaks() {
    let mut pair = Pair::new(Led::new(Tcp::new(Engine::Auto)));
    let (node, exchange) = (pair.b.address().node, Arc::clone(&pair.fixture.exchange));
    let link = rail(&mut pair).link_with(node).unwrap();
    let path = rail(&mut pair).path(link);
    assert_eq!((path.remote.as_deref(), path.local, path.security), (Some("relay"), None, Some("TLS 1.3")));
    assert_eq!(*exchange.asked.lock().unwrap(), 1);
    for round in 1..=10 {
        let link = rail(&mut pair).link_with(node);
        link.into_iter().for_each(|link| rail(&mut pair).cut(link));
        let bytes = Random::new(round).bytes(100_000);
        let receive = pair.b.receive(exactly(pair.to_a, round), bytes.len());
        pair.a.send(pair.to_b, &bytes, round);
        assert_eq!(pair.finish_b(receive).bytes, bytes);
    }
    assert!(*exchange.asked.lock().unwrap() > 1);
}

#[test]
fn who_is_not_there_is_not_reached() {
    let mut pair = Pair::new(Led::new(Tcp::new(Engine::Auto)));
    let address = pair.fixture.address(9);
    let refusal = pair.a.engine().open(&address).unwrap_err();
    assert!(refusal.error == Error::Unreachable && refusal.reason.contains("relay: "), "{refusal:?}");
}

/// Both are members of the session, and each proves that it is who it says.
#[test]
fn a_connection_that_is_lent_to_another_node_is_refused() {
    let mut pair = Pair::new(Led::new(Tcp::new(Engine::Auto)));
    let (node, exchange) = (pair.b.address().node, Arc::clone(&pair.fixture.exchange));
    let lender = pair.fixture.address(9).node;
    *exchange.lender.lock().unwrap() = Some(lender);
    let asked = *exchange.asked.lock().unwrap();
    rail(&mut pair).link_with(node).into_iter().for_each(|link| rail(&mut pair).cut(link));
    let to_b = pair.to_b;
    let refused = |pair: &mut Pair<Led>| match pair.a.engine().peer(to_b) {
        Ok((_, _, PeerState::Gone(why), _)) => why.reason.contains("made for another node"),
        _ => false,
    };
    assert!(pair.run_until(refused), "{:?}", pair.a.engine().peer(to_b));
    assert!(*exchange.asked.lock().unwrap() > asked);
}

#[test]
fn only_streams_of_a_session_are_taken() {
    let mut open = Tcp { security: key(4), ..Tcp::new(Engine::Auto) };
    let address = open.address(1);
    let mut rail = open.rail(&address);
    assert_eq!(rail.adopter("relay").unwrap_err().error, Error::Permission);
    rail.lead_by(Arc::new(Own(address.node, Arc::default())));
    // What is no stream, what has no other side, and who says nothing, disturb nobody.
    let mut pair = Pair::new(Led::new(Tcp::new(Engine::Auto)));
    let adopter = pair.fixture.exchange.adopters.lock().unwrap()[&pair.b.address().node].clone();
    let from = pair.a.address().node;
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    adopter.adopt(from, datagrams.into()).unwrap();
    adopter.adopt(from, UnixStream::pair().unwrap().0.into()).unwrap();
    let (silent, mut stranger) = UnixStream::pair().unwrap();
    adopter.adopt(from, silent.into()).unwrap();
    stranger.set_nonblocking(true).unwrap();
    pair.run_steps(100);
    let is_there = |stranger: &mut UnixStream| !matches!(stranger.read(&mut [0; 99]), Ok(0));
    assert!(is_there(&mut stranger), "it has 5 s");
    pair.fixture.tcp.skipped += Duration::from_secs(6);
    assert!(pair.run_until(|_| !is_there(&mut stranger)), "it is closed");
    let receive = pair.a.receive(exactly(pair.to_b, 1), 5);
    pair.b.send(pair.to_a, b"there", 1);
    assert_eq!(pair.finish_a(receive).bytes, b"there");
    // There is an end to how many wait.
    let more = || UnixStream::pair().unwrap().0.into();
    let full = (0..100).map(|_| adopter.adopt(from, more())).find_map(Result::err);
    assert_eq!(full.unwrap().error, Error::Limit);
}

#[test]
fn a_rail_that_is_over_keeps_nothing_and_takes_nothing() {
    let mut led = Led::new(Tcp::new(Engine::Auto));
    let address = led.address(1);
    let rail = led.rail(&address);
    let adopter = led.exchange.adopters.lock().unwrap()[&address.node].clone();
    let from = address.node;
    let (waiting, mut other) = UnixStream::pair().unwrap();
    other.set_nonblocking(true).unwrap();
    adopter.adopt(from, waiting.into()).unwrap();
    drop(rail);
    assert_eq!(other.read(&mut [0; 1]).unwrap(), 0, "what waited is closed");
    let late = UnixStream::pair().unwrap().0;
    assert_eq!(adopter.adopt(from, late.into()).unwrap_err().error, Error::Handle);
}
