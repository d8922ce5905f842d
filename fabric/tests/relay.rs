//! The rail tcp over pipes between members of a session, through two leaders and the rendez-vous node.

mod common;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::scene::Scene;
use gridnet::core::error::Error;
use gridnet::core::rail::{Rail, Refusal};
use gridnet::core::testing::fault::{FaultPlan, Faults};
use gridnet::core::testing::node::exactly;
use gridnet::core::testing::pair::{Cutting, Fixture, Pair};
use gridnet::core::testing::random::Random;
use gridnet::core::time::Time;
use gridnet::core::wire::{Address, NetAddresses, NodeId};
#[allow(clippy::wildcard_imports, reason = "the list of cases names all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_core::{conformance_call_each, conformance_cases, fault_call_each, fault_suite_cases};
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
const WINDOW: Window = Window { bytes: 256 << 10, frames: 1024 };
/// Bytes of each direction of a pipe that are on their way at most.
const PIPE_BYTES: usize = 128 << 10;

/// Members below each leader.
const BELOW: usize = 2;

/// Two clusters.
struct Tree {
    /// Those below leaders: of the one cluster and the other in turn.
    members: Vec<Arc<Member>>,
    _leaders: Vec<Member>,
    _scene: Scene,
    calls: Arc<Calls>,
}

/// Where pipes to fabrics go, and how they fare.
#[derive(Default)]
struct Calls {
    adopters: Mutex<HashMap<NodeId, Adopter>>,
    fates: Mutex<Vec<Fate>>,
}

impl Tree {
    fn new() -> Arc<Tree> {
        let scene = Scene::new();
        let join = |cluster: &str, number: usize| {
            let ticket = Ticket::read(scene.ticket().as_ref()).unwrap();
            let label = format!("{cluster}{number}").parse().unwrap();
            let cluster = Some(cluster.parse().unwrap());
            Member::join(ticket, About { cluster, ..About::new(label) }, LONG).unwrap()
        };
        let (mut leaders, mut below, calls) = (Vec::new(), Vec::new(), Arc::<Calls>::default());
        for cluster in ["a", "b"] {
            let all: Vec<Member> = (0..=BELOW).map(|number| join(cluster, number)).collect();
            let are_led = || all.iter().filter(|member| member.leader().is_some()).count() == BELOW;
            until("one leads the others", are_led);
            let (led, leading): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|member| member.leader().is_some());
            leaders.extend(leading);
            below.push(led);
        }
        let [a, b] = <[Vec<Member>; 2]>::try_from(below).ok().unwrap();
        let members: Vec<Arc<Member>> =
            a.into_iter().zip(b).flat_map(|(a, b)| [a, b].map(Arc::new)).collect();
        for member in &members {
            let calls = calls.clone();
            member.serve_relays(move |from, about, relay| {
                let (socket, fate) = relay.into_parts();
                let (called, caller) = named(about).ok_or("nonsense")?;
                let adopter = calls.adopters.lock().unwrap().get(&called).cloned().ok_or("not here")?;
                if !is_of(caller, from) {
                    return Err("of another node".to_owned());
                }
                calls.fates.lock().unwrap().push(fate);
                adopter.adopt(caller, socket.into()).map_err(|why| why.reason)
            });
        }
        let nodes: Vec<NodeId> = members.iter().map(|member| member.node()).collect();
        let is_routed = |entries: &[Entry]| {
            nodes.iter().all(|node| entries.iter().any(|e| e.node == *node && e.via.is_some()))
        };
        assert!(members.iter().all(|member| member.wait_for_nodes(LONG, is_routed)));
        Arc::new(Tree { members, _leaders: leaders, _scene: scene, calls })
    }
}

/// Whether a fabric is one of a node.
fn is_of(fabric: NodeId, node: NodeId) -> bool {
    fabric.bytes()[..8] == node.bytes()[..8]
}

/// The fabrics that a pipe is to join: the one that is called, and the one that calls.
fn named(about: &[u8]) -> Option<(NodeId, NodeId)> {
    let mut both = about.chunks(16).map(|id| NodeId::new(id.try_into().ok()?));
    Some((both.next()??, both.next()??))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The way of a fabric to those of other members.
struct Relays {
    own: NodeId,
    tree: Arc<Tree>,
}

impl std::fmt::Debug for Relays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relays of {}", self.own)
    }
}

impl Way for Relays {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn connect(&self, address: &Address) -> Option<Result<OwnedFd, Refusal>> {
        let member = |fabric| self.tree.members.iter().find(|member| is_of(fabric, member.node()));
        let (own, other) = (member(self.own)?, member(address.node)?);
        if own.node() == other.node() {
            // A member makes no pipe to itself: a fabric reaches itself by a socket, others of its member not at all.
            let (ours, theirs) = UnixStream::pair().unwrap();
            let adopter = self.tree.calls.adopters.lock().unwrap().get(&address.node).cloned();
            drop(adopter.map(|adopter| adopter.adopt(self.own, theirs.into())));
            return Some(Ok(ours.into()));
        }
        let about = [*address.node.bytes(), *self.own.bytes()].concat();
        let relay = own.begin_relay(other.node(), &about, LONG);
        let refused = |e: gridnet_meta::error::Error| Refusal::new(Error::Unreachable, e.to_string());
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

/// Fabrics of a tree, those of numbers 1 and 2 alone at a member each. All others of the suites talk to these.
struct Relayed {
    start: Instant,
    tree: Arc<Tree>,
    /// What its fabrics have in common: others of the same tree are not theirs.
    mark: u32,
}

impl Relayed {
    fn on(tree: &Arc<Tree>) -> Relayed {
        static MADE: AtomicU32 = AtomicU32::new(0);
        Relayed { start: Instant::now(), tree: tree.clone(), mark: MADE.fetch_add(1, Ordering::Relaxed) }
    }

    fn member(&self, number: u8) -> &Member {
        let at = match number {
            1 | 2 => number - 1,
            _ => 2 + number % 2,
        };
        &self.tree.members[usize::from(at)]
    }
}

impl Fixture for Relayed {
    type Rail = TcpRail;

    fn address(&self, number: u8) -> Address {
        let mut own = [number; 16];
        own[8..12].copy_from_slice(&self.mark.to_be_bytes());
        let node = fabric_id(self.member(number).node(), NodeId::new(own).unwrap());
        Address { uid: 0, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
    }

    fn rail(&mut self, address: &Address) -> TcpRail {
        let own = |member: &&Arc<Member>| is_of(address.node, member.node());
        let member = self.tree.members.iter().find(own).unwrap();
        let mut rail = TcpRail::open(TcpConfig {
            local: *address,
            interfaces: Interfaces::parse("127.0.0.1").unwrap(),
            ports: None,
            security: Security::Session(Arc::new(Certified(member.credentials().unwrap()))),
            engine: Engine::Auto,
            single_thread: true,
            tuning: Tuning::default(),
            window: WINDOW,
            multirail: Multirail::Auto,
            retains: true,
        })
        .unwrap();
        let adopter = rail.adopter("relay").unwrap();
        self.tree.calls.adopters.lock().unwrap().insert(address.node, adopter);
        rail.lead_by(Arc::new(Relays { own: address.node, tree: self.tree.clone() }));
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

    fn times(&self, all: u64) -> u64 {
        all.div_ceil(8)
    }

    fn overshoot(&self) -> usize {
        // What is under way, in pipes, too, and what was read at once before the word to stop was sent.
        WINDOW.frames as usize + (PIPE_BYTES + 2 * 16384) / 24
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
    let tree = Tree::new();
    conformance_call_each! { Relayed::on(&tree);
        transfer::messages_of_one_sender_keep_their_order
        reliability::two_that_call_each_other_again_have_one_link
    }
}

/// They take minutes.
#[test]
fn the_whole_suites_pass_over_pipes() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return println!("SKIPPED: the whole suites over pipes: they take minutes (TEST_SOAK=1)");
    }
    let tree = Tree::new();
    conformance_cases! { [conformance_call_each] Relayed::on(&tree) }
    conformance_call_each! { Relayed::on(&tree);
        reliability::a_cut_at_any_step_delays_a_transfer
        reliability::cuts_amid_the_repetition_are_survived
        reliability::two_that_call_each_other_again_have_one_link
        reliability::operations_on_regions_happen_once
        reliability::loans_survive_cuts
        reliability::stop_and_go_survive_cuts
        reliability::cancellation_under_cuts_ends_both_sides
    }
    reliability::messages_survive_many_cuts(|| Relayed::on(&tree));
    let fates = tree.calls.fates.lock().unwrap();
    assert!(fates.iter().any(|fate| fate.hops() == 4), "through both leaders");
}

/// Links are not lost here: the dice would ask for pipes faster than those before have gone, of which one node may have eight with another.
#[test]
fn cases_of_faults_pass_over_pipes() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return println!("SKIPPED: cases of faults over pipes: they take minutes (TEST_SOAK=1)");
    }
    let tree = Tree::new();
    let plan = FaultPlan { lose: 0.0, refuse: 0.0, ..FaultPlan::ALLOWED };
    fault_suite_cases! { [conformance_call_each] Faults::new(Relayed::on(&tree), plan) }
    conformance_call_each! { Faults::new(Relayed::on(&tree), plan);
        reliability::a_cut_at_any_step_delays_a_transfer
        reliability::two_that_call_each_other_again_have_one_link
        reliability::operations_on_regions_happen_once
    }
    fault_call_each! { Relayed::on(&tree);
        lost_frames_leave_operations_pending
        doubled_frames_deliver_nothing_wrong
        reordered_frames_deliver_nothing_wrong
    }
}

#[test]
fn messages_come_through_the_tree_also_when_pipes_break() {
    let mut pair = Pair::new(Relayed::on(&Tree::new()));
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
