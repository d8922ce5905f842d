//! Sessions of tests: rendez-vous node and members on one host, over real sockets.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod stalls;

use gridnet_core::wire::NodeId;
use gridnet_meta::clock::Moment;
use gridnet_meta::directory::Entry;
use gridnet_meta::error::Error;
use gridnet_meta::member::{About, Member};
use gridnet_meta::rendezvous::Rendezvous;
use gridnet_meta::store::{NewSession, NewTicket, Store};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Far longer than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);

/// Rules under which nobody is lost because a machine is busy.
pub fn calm() -> Rules {
    Rules { joins_per_second: 10_000, silence: LONG, ..Rules::default() }
}

pub struct Scene {
    pub dir: PathBuf,
    pub ticket: Ticket,
    pub address: SocketAddr,
    pub rules: Rules,
    /// Whether members may have lines.
    pub lines: bool,
    rendezvous: Option<Rendezvous>,
}

impl Scene {
    pub fn new(what: &str) -> Scene {
        Scene::with(what, calm(), None)
    }

    /// One whose members ask each other over the bootstrap channel only.
    pub fn without_lines(what: &str) -> Scene {
        let mut scene = Scene::new(what);
        scene.lines = false;
        scene
    }

    pub fn with(what: &str, rules: Rules, uses: Option<u64>) -> Scene {
        Scene::at(what, (rules, uses, false), |_| Vec::new())
    }

    /// One whose bootstrap channel is plain TCP.
    pub fn insecure(what: &str, rules: Rules) -> Scene {
        Scene::at(what, (rules, None, true), |_| Vec::new())
    }

    /// One whose rendez-vous node is called by a name that is to be looked up.
    pub fn named(what: &str) -> Scene {
        Scene::at(what, (calm(), None, false), |address| vec![format!("localhost:{}", address.port())])
    }

    fn at(
        what: &str,
        (rules, uses, insecure): (Rules, Option<u64>, bool),
        addresses: impl Fn(SocketAddr) -> Vec<String>,
    ) -> Scene {
        let dir = std::env::temp_dir().join(format!("gridnet-session-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let address = free_address();
        let addresses = addresses(address);
        let ticket = NewTicket { lifetime: DAY, uses };
        let new = NewSession { listen: vec![address], addresses, insecure, ticket };
        let (_, ticket) = Store::create(&dir, &new, Moment::now()).unwrap();
        let mut scene = Scene { dir, ticket, address, rules, lines: true, rendezvous: None };
        scene.start();
        scene
    }

    pub fn start(&mut self) {
        self.rendezvous = Some(Rendezvous::start(Store::open(&self.dir).unwrap(), self.rules).unwrap());
    }

    pub fn stop(&mut self) {
        self.rendezvous = None;
    }

    pub fn rendezvous(&self) -> &Rendezvous {
        self.rendezvous.as_ref().unwrap()
    }

    pub fn join(&self, label: &str) -> Result<Member, Error> {
        join(&self.ticket, label)
    }

    /// One that is in a cluster of its own, so that there are no leaders.
    pub fn join_alone(&self, label: &str) -> Result<Member, Error> {
        self.join_in(label, label)
    }

    pub fn join_in(&self, cluster: &str, label: &str) -> Result<Member, Error> {
        let (cluster, lines) = (Some(cluster.parse().unwrap()), self.lines);
        let about = About { cluster, lines, ..About::new(label.parse().unwrap()) };
        Member::join(self.ticket.clone(), about, LONG)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn join(ticket: &Ticket, label: &str) -> Result<Member, Error> {
    let about = About { cluster: Some("here".parse().unwrap()), ..About::new(label.parse().unwrap()) };
    Member::join(ticket.clone(), about, LONG)
}

/// A port below those that the system gives to connections.
pub fn free_address() -> SocketAddr {
    static TRIED: AtomicU64 = AtomicU64::new(0);
    let seed = u64::from(std::process::id()) * 7919;
    loop {
        let next = seed + TRIED.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + u16::try_from(next % 12_000).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

pub fn ids(member: &Member) -> BTreeSet<NodeId> {
    member.nodes().iter().map(|entry| entry.node).collect()
}

/// Waits until it is so.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Waits until each of a cluster but one is below that one; which one.
pub fn led(members: &[Member]) -> NodeId {
    let all: BTreeSet<NodeId> = members.iter().map(Member::node).collect();
    let leader = || members.iter().find(|member| member.leads_at().is_some()).map(Member::node);
    let is_led = || {
        let leader = leader();
        leader.is_some() && members.iter().all(|m| Some(m.node()) == leader || m.leader() == leader)
    };
    until("all but one are below that one", is_led);
    let leader = leader().unwrap();
    let is_told = |entries: &[Entry]| {
        let mut ours = entries.iter().filter(|entry| all.contains(&entry.node));
        ours.all(|e| e.leads == (e.node == leader) && e.via == (e.node != leader).then_some(leader))
    };
    for member in members {
        assert!(member.wait_for_nodes(LONG, is_told), "{:?}", member.nodes());
    }
    leader
}

/// Three members each, one of which leads.
pub fn two_clusters(scene: &Scene) -> [Vec<Member>; 2] {
    ["a", "b"].map(|cluster| {
        let members: Vec<Member> =
            (1..=3).map(|i| scene.join_in(cluster, &format!("{cluster}{i}")).unwrap()).collect();
        led(&members);
        members
    })
}
