//! The rail tcp over pipes between members of a session, through two leaders and the rendez-vous node.

mod common;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::scene::Scene;
use gridnet::core::error::Error;
use gridnet::core::rail::{Rail, Refusal};
use gridnet::core::testing::node::exactly;
use gridnet::core::testing::pair::{Cutting, Fixture, Pair};
use gridnet::core::testing::random::Random;
use gridnet::core::time::Time;
use gridnet::core::wire::{Address, NetAddresses, NodeId};
use gridnet_core::conformance_call_each;
#[allow(clippy::wildcard_imports, reason = "the list of cases names all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_meta::credentials::{fabric_id, Credentials};
use gridnet_meta::directory::Entry;
use gridnet_meta::member::{About, Fate, Member};
use gridnet_meta::ticket::Ticket;
use gridnet_uring_tcp::{
    Adopter, Engine, Interfaces, Multirail, Security, Session, TcpConfig, TcpRail, Tuning, Way, Window,
};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection};

const LONG: Duration = Duration::from_secs(60);

/// Two clusters of two.
struct Tree {
    /// One below the leader of each.
    members: [Arc<Member>; 2],
    _leaders: Vec<Member>,
    _scene: Scene,
    calls: Arc<Calls>,
}

/// Where pipes to fabrics go, and how they fare.
#[derive(Default)]
struct Calls {
    adopters: Mutex<HashMap<Vec<u8>, Adopter>>,
    fates: Mutex<Vec<Fate>>,
}

impl Tree {
    fn new() -> Tree {
        let scene = Scene::new();
        let join = |cluster: &str, label: &str| {
            let ticket = Ticket::read(scene.ticket().as_ref()).unwrap();
            let cluster = Some(cluster.parse().unwrap());
            Member::join(ticket, About { cluster, ..About::new(label.parse().unwrap()) }, LONG).unwrap()
        };
        let (mut leaders, calls) = (Vec::new(), Arc::<Calls>::default());
        let members = ["a", "b"].map(|cluster| {
            let pair = ["1", "2"].map(|number| join(cluster, &format!("{cluster}{number}")));
            until("one leads the other", || pair.iter().any(|member| member.leader().is_some()));
            let [one, two] = pair;
            let (below, leader) = if one.leader().is_some() { (one, two) } else { (two, one) };
            leaders.push(leader);
            Arc::new(below)
        });
        for member in &members {
            let calls = calls.clone();
            member.serve_relays(move |from, about, relay| {
                let (socket, fate) = relay.into_parts();
                let adopters = calls.adopters.lock().unwrap();
                let adopter = adopters.get(about).ok_or("not here")?;
                // Each member has one fabric.
                let caller =
                    adopters.keys().find(|fabric| fabric[..8] == from.bytes()[..8]).ok_or("of none")?;
                let caller = NodeId::new(caller[..].try_into().unwrap()).unwrap();
                calls.fates.lock().unwrap().push(fate);
                adopter.adopt(caller, socket.into()).map_err(|why| why.reason)
            });
        }
        for (at, member) in members.iter().enumerate() {
            let other = members[1 - at].node();
            let is_routed = |entries: &[Entry]| entries.iter().any(|e| e.node == other && e.via.is_some());
            assert!(member.wait_for_nodes(LONG, is_routed));
        }
        Tree { members, _leaders: leaders, _scene: scene, calls }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The way of a member to the fabrics of the other.
#[derive(Debug)]
struct Relays {
    own: Arc<Member>,
    others: [NodeId; 2],
}

impl Way for Relays {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>> {
        let is_of = |node: &&NodeId| node.bytes()[..8] == address.node.bytes()[..8];
        let node = self.others.iter().find(is_of)?;
        let refused = |e: gridnet_meta::error::Error| Refusal::new(Error::Unreachable, e.to_string());
        let relay = self.own.begin_relay(*node, address.node.bytes(), LONG);
        Some(relay.map(|relay| relay.into_parts().0.into()).map_err(refused))
    }
}

#[derive(Debug)]
struct Certified(Credentials);

impl Session for Certified {
    fn call(&self, fabric: NodeId) -> Result<ClientConnection, Refusal> {
        Ok(self.0.call(fabric).unwrap())
    }

    fn answer(&self) -> Result<ServerConnection, Refusal> {
        Ok(self.0.answer().unwrap())
    }

    fn check(&self, shown: &[CertificateDer<'_>], fabric: NodeId) -> Result<(), Refusal> {
        self.0.check(shown, fabric).map_err(|e| Refusal::new(Error::Permission, e.to_string()))
    }

    fn may_come(&self, _: IpAddr) -> bool {
        true
    }

    fn proved(&self, _: IpAddr) {}

    fn revoked_of(&self, fabrics: &[NodeId]) -> Vec<NodeId> {
        self.0.revoked_of(fabrics)
    }

    fn refused(&self, who: &str, why: &str) {
        self.0.refused(who, why);
    }

    fn refusals(&self) -> u64 {
        self.0.refusals()
    }
}

/// Fabrics with odd numbers are of one cluster, others of the other.
struct Relayed {
    start: Instant,
    tree: Tree,
}

impl Relayed {
    fn new() -> Relayed {
        Relayed { start: Instant::now(), tree: Tree::new() }
    }
}

impl Fixture for Relayed {
    type Rail = TcpRail;

    fn address(&self, number: u8) -> Address {
        let member = &self.tree.members[usize::from(number % 2)];
        let node = fabric_id(member.node(), NodeId::new([number; 16]).unwrap());
        Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
    }

    fn rail(&mut self, address: &Address) -> TcpRail {
        let own = |member: &&Arc<Member>| member.node().bytes()[..8] == address.node.bytes()[..8];
        let member = self.tree.members.iter().find(own).unwrap();
        let mut rail = TcpRail::open(TcpConfig {
            local: *address,
            interfaces: Interfaces::parse("127.0.0.1").unwrap(),
            ports: None,
            security: Security::Session(Arc::new(Certified(member.credentials().unwrap()))),
            engine: Engine::Auto,
            single_thread: true,
            tuning: Tuning::default(),
            window: Window { bytes: 256 << 10, frames: 1024 },
            multirail: Multirail::Auto,
            retains: true,
        })
        .unwrap();
        let adopter = rail.adopter("relay").unwrap();
        self.tree.calls.adopters.lock().unwrap().insert(address.node.bytes().to_vec(), adopter);
        let others = [0, 1].map(|at: usize| self.tree.members[at].node());
        rail.lead_by(Arc::new(Relays { own: member.clone(), others }));
        rail
    }

    fn tick(&mut self) -> Time {
        // The bytes go through six threads of this process.
        std::thread::yield_now();
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn quiet_steps(&self) -> usize {
        20_000
    }

    fn patience(&self) -> usize {
        40_000_000
    }
}

impl Cutting for Relayed {
    /// Pipes break where the sockets of the rails do: when that is heard of is up to threads.
    fn is_exact(&self) -> bool {
        false
    }

    fn cut(&mut self, rails: [&mut TcpRail; 2], between: [NodeId; 2], random: &mut Random) {
        let side = random.below(2) as usize;
        for (at, rail) in rails.into_iter().enumerate().filter(|(at, _)| *at == side) {
            rail.link_with(between[1 - at]).into_iter().for_each(|link| rail.cut(link));
        }
    }
}

#[test]
fn some_cases_of_the_suites_pass_over_pipes() {
    conformance_call_each! { Relayed::new();
        transfer::messages_of_one_sender_keep_their_order
        reliability::two_that_call_each_other_again_have_one_link
    }
}

#[test]
fn messages_come_through_the_tree_also_when_pipes_break() {
    let mut pair = Pair::new(Relayed::new());
    let rail = |pair: &mut Pair<Relayed>| {
        let node = pair.b.address().node;
        let rail = &mut pair.a.engine().rails_mut()[0];
        rail.link_with(node).map(|link| rail.path(link))
    };
    let path = rail(&mut pair).unwrap();
    assert_eq!((path.remote.as_deref(), path.security), (Some("relay"), Some("TLS 1.3")));
    for round in 1..=6u64 {
        let bytes = Random::new(round).bytes(200_000);
        let receive = pair.b.receive(exactly(pair.to_a, round), bytes.len());
        pair.a.send(pair.to_b, &bytes, round);
        if round % 2 == 0 {
            let node = pair.b.address().node;
            let rail = &mut pair.a.engine().rails_mut()[0];
            rail.link_with(node).into_iter().for_each(|link| rail.cut(link));
        }
        assert_eq!(pair.finish_b(receive).bytes, bytes, "round {round}");
    }
    let fates = pair.fixture.tree.calls.fates.lock().unwrap();
    assert!(fates.len() > 1, "other pipes were asked for");
    assert!(fates.iter().any(|fate| fate.hops() == 4) && fates.iter().all(|fate| fate.hops() <= 4));
}
