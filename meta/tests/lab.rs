//! Sessions over bad ways: two sites of three processes, one behind a masquerading gateway and one behind a firewall, with the
//! rendez-vous node on the public network.

mod common;

use common::stalls::Stalls;
use common::{calm, LONG};
use gridnet_assembly::call::Path as Agreed;
use gridnet_assembly::called::{Key, Order};
use gridnet_assembly::Builder;
use gridnet_core::wire::NodeId;
use gridnet_meta::clock::Moment;
use gridnet_meta::cluster::Will;
use gridnet_meta::directory::{Entry, Event};
use gridnet_meta::error::Error;
use gridnet_meta::member::{About, Connection, LineState, Member, ECHO};
use gridnet_meta::rendezvous::Rendezvous;
use gridnet_meta::store::{NewSession, NewTicket, Store};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;
use gridnet_testbed::{
    lab_test, Host, HostSpec, Impairment, Lab, LinkSpec, Running, Site, SiteKind, Topology,
};
use nix::sys::socket::{recv, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

const PORT: u16 = 7411;
const HOSTS: [&str; 6] = ["a1", "a2", "a3", "b1", "b2", "b3"];

/// Both sites, and one process on each of their hosts.
struct Scene<'lab> {
    lab: &'lab Lab,
    dir: PathBuf,
    rendezvous: Option<Rendezvous>,
    members: Vec<(&'static str, Running)>,
    /// The node ids of site a, once it is said who they are.
    nodes_of_a: Vec<String>,
}

/// How long a node may be silent.
const SILENCE: Duration = Duration::from_secs(3);
/// What nobody on the way may see.
const NONCE: &[u8] = b"nobody reads it!";

/// Everything that passes a host.
struct Capture {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<u8>>,
}

impl Capture {
    fn start(host: Host<'_>) -> Capture {
        let open =
            || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
        let socket = host.run(open).unwrap().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut passed, mut frame) = (Vec::new(), vec![0; 70_000]);
            loop {
                // Once more after the end: what has passed by then is there.
                let is_last = stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty);
                while let Ok(len) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    passed.extend_from_slice(&frame[..len]);
                }
                if is_last {
                    return passed;
                }
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        Capture { stop, thread }
    }

    fn stop(self) -> Vec<u8> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn topology() -> Topology {
    let far = Impairment::default().delay(Duration::from_millis(10));
    Topology::new()
        .host(HostSpec::new("p").public(Impairment::default()))
        .site(Site::new("a", SiteKind::Masquerading).hosts(3).uplink(far))
        .site(Site::new("b", SiteKind::Firewalled).hosts(3).uplink(far))
}

impl<'lab> Scene<'lab> {
    fn new(lab: &'lab Lab, what: &str) -> Scene<'lab> {
        Scene::by(lab, what, false)
    }

    /// By plain TCP, if it is to be insecure.
    fn by(lab: &'lab Lab, what: &str, insecure: bool) -> Scene<'lab> {
        let dir = std::env::temp_dir().join(format!("gridnet-lab-session-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let listen = (lab.host("p").unwrap().address().unwrap(), PORT).into();
        let ticket = NewTicket { lifetime: common::DAY, uses: None };
        let new = NewSession { listen: vec![listen], addresses: Vec::new(), insecure, ticket };
        Store::create(&dir, &new, Moment::now()).unwrap();
        let mut scene = Scene { lab, dir, rendezvous: None, members: Vec::new(), nodes_of_a: Vec::new() };
        scene.start();
        for host in HOSTS {
            let run = scene.host(host).test("child_member").unwrap();
            let run = run
                .env("SESSION_TEST_TICKET", scene.dir.join("ticket"))
                .env("SESSION_TEST_CLUSTER", &host[..1]);
            let run = run.env("SESSION_TEST_LABEL", host).spawn().unwrap();
            scene.members.push((host, run));
        }
        scene
    }

    fn host(&self, name: &str) -> Host<'lab> {
        self.lab.host(name).unwrap()
    }

    fn start(&mut self) {
        let start = || {
            let rules = Rules { silence: SILENCE, ..calm() };
            Rendezvous::start(Store::open(&self.dir).unwrap(), rules).unwrap()
        };
        self.rendezvous = Some(self.host("p").run(start).unwrap());
    }

    fn stop(&mut self) {
        self.rendezvous = None;
    }

    fn member(&self, host: &str) -> &Running {
        &self.members.iter().find(|(name, _)| *name == host).unwrap().1
    }

    /// Waits until a member has said a line for the `count`th time; the last such line.
    fn line(&self, host: &str, begin: &str, count: usize) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let said = self.member(host).said();
            let lines: Vec<&str> = said[0].lines().filter(|line| line.starts_with(begin)).collect();
            if let Some(line) = lines.get(count - 1) {
                return line.to_string();
            }
            assert!(
                Instant::now() < deadline,
                "{host} does not say {begin:?} {count} times: {}",
                said.join("\n")
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn count(&self, host: &str, begin: &str) -> usize {
        self.member(host).said()[0].lines().filter(|line| line.starts_with(begin)).count()
    }

    /// The lines of a member that begin so, by words.
    fn words(&self, host: &str, begin: &str) -> Vec<Vec<String>> {
        let said = self.member(host).said();
        let lines = said[0].lines().filter(|line| line.starts_with(begin));
        lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }

    /// Checks that a host of the other site was told, by now and in time, that exactly the nodes of cluster a have left.
    fn was_told(&self, host: &str, begun: Duration, stalls: &Stalls) {
        let of_a: BTreeSet<String> = self.nodes_of_a.iter().cloned().collect();
        let left = self.words(host, "left ");
        let nodes: BTreeSet<String> = left.iter().map(|words| words[1].clone()).collect();
        assert_eq!(nodes, of_a, "{host}: {left:?}");
        let first_of_each = of_a.iter().map(|node| left.iter().find(|words| words[1] == *node).unwrap());
        let last = first_of_each.map(|words| stamp(&words[2])).max().unwrap();
        let took = last.saturating_sub(begun);
        println!("RESULT {host} was told of all after {} ms", took.as_millis());
        assert!(took <= borne(SILENCE + NEAR, stalls), "{host}: {took:?}");
    }

    /// Waits until each process has asked all others `rounds` times; the most hops of the last time.
    fn all_have_asked(&self, hosts: &[&str], others: usize, rounds: usize) -> usize {
        let begin = format!("asked {others} ");
        let hops = hosts.iter().map(|host| {
            let line = self.line(host, &begin, rounds);
            line.split(' ').nth(2).unwrap().parse::<usize>().unwrap()
        });
        hops.max().unwrap()
    }

    /// Waits for a state of the session, as the rendez-vous node sees it.
    fn until(&self, what: &str, holds: impl Fn(&gridnet_meta::rendezvous::Status) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            let status = self.rendezvous.as_ref().unwrap().status();
            if holds(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {status:#?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Remembers who is of site a now.
    fn note_nodes(&mut self) {
        let nodes = self.rendezvous.as_ref().unwrap().status().nodes;
        let of_a = nodes.into_iter().filter(|node| node.cluster == "a");
        self.nodes_of_a = of_a.map(|node| node.node.to_string()).collect();
        assert_eq!(self.nodes_of_a.len(), 3);
    }

    /// The host of the leader of a cluster.
    fn leader(&self, cluster: &str) -> &'static str {
        let status = self.rendezvous.as_ref().unwrap().status();
        let leader = status.nodes.iter().find(|node| node.leads && node.cluster == cluster);
        let label = leader.unwrap_or_else(|| panic!("{status:#?}")).label.clone();
        HOSTS.into_iter().find(|host| *host == label).unwrap()
    }

    /// A column of what `ss` says of a host's TCP sockets.
    fn sockets(&self, host: &str, args: &[&str], column: usize) -> Vec<String> {
        let ss = self.host(host).command("ss").args(["-H", "-t", "-n"]).args(args);
        let said = ss.output(LONG).unwrap().success().unwrap();
        said.lines().filter_map(|line| line.split_whitespace().nth(column).map(str::to_owned)).collect()
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.members.clear();
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What the way takes, and who looks every 10 ms.
const NEAR: Duration = Duration::from_millis(100);

/// What is borne of a limit that seven processes have together, of which one thread of this one was watched: the lines printed say how
/// long it took, and a quiet machine keeps to the limit itself.
fn borne(limit: Duration, stalls: &Stalls) -> Duration {
    3 * limit + 7 * stalls.so_far()
}

/// Nanoseconds that all processes of this machine count alike.
fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

fn stamp(nanoseconds: &str) -> Duration {
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Whether both clusters of three have a leader, by which the others are reached.
fn is_settled(status: &gridnet_meta::rendezvous::Status) -> bool {
    status.nodes.len() == 6
        && status.leaders.len() == 2
        && status.leaders.iter().all(|leader| leader.nodes == 2)
}

fn shows(passed: &[u8], word: &[u8]) -> bool {
    passed.windows(word.len()).any(|part| part == word)
}

/// The node ids of all, as they are written on the wire.
fn ids_of(scene: &Scene<'_>) -> Vec<Vec<u8>> {
    let status = scene.rendezvous.as_ref().unwrap().status();
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    status.nodes.iter().map(|node| node.node.as_bytes().chunks(2).map(byte).collect()).collect()
}

/// All six know the same nodes within a second after the last has joined.
fn same_sets_soon(scene: &Scene<'_>, stalls: &Stalls) {
    let joined = HOSTS.map(|host| stamp(&scene.words(host, "joined ")[0][1]));
    let last = joined.into_iter().max().unwrap();
    let sets = HOSTS.map(|host| scene.words(host, "set 6 ")[0].clone());
    for (host, set) in HOSTS.iter().zip(&sets) {
        assert_eq!(set[3], sets[0][3], "{host}");
        let took = stamp(&set[2]).saturating_sub(last);
        println!("RESULT {host} knows all after {took:?}");
        assert!(took <= borne(Duration::from_secs(1), stalls), "{host}: {took:?}");
    }
    let distinct: BTreeSet<&str> = sets[0][3].split(',').collect();
    assert_eq!(distinct.len(), 6);
}

lab_test! {
    fn two_closed_sites_reach_each_other_by_their_leaders() {
        let lab = Lab::open_unchecked(topology()).unwrap();
        let capture = Capture::start(lab.host("internet").unwrap());
        let stalls = Stalls::watch();
        let scene = Scene::new(&lab, "reach");
        scene.until("both have leaders", is_settled);
        assert_eq!(scene.all_have_asked(&HOSTS, 5, 1), 4);
        same_sets_soon(&scene, &stalls);
        for host in HOSTS {
            let took = Duration::from_millis(scene.words(host, "asked 5 ")[0][3].parse().unwrap());
            println!("RESULT {host} has asked all after {took:?}");
            assert!(took <= borne(Duration::from_secs(5), &stalls), "{host}: {took:?}");
        }
        let passed = capture.stop();
        // The 18 pairs across the sites, there and back: so much went by, and none of it can be read.
        assert!(passed.len() > 18 * 2 * 1000, "{}", passed.len());
        assert!(passed.windows(5).any(|part| part.starts_with(b"\x17\x03\x03")), "records of TLS");
        assert!(!shows(&passed, NONCE));
        // Nor who is there.
        assert!(!ids_of(&scene).iter().any(|id| shows(&passed, id)));
        // Only leaders are connected to the rendez-vous node, only they listen, and the others have one connection: to them.
        let p = format!("{}:{PORT}", lab.host("p").unwrap().address().unwrap());
        let leaders = ["a", "b"].map(|cluster| scene.leader(cluster));
        scene.until("the connections of the beginning have ended", |status| status.links.len() == 2);
        for host in HOSTS {
            let peers = scene.sockets(host, &["state", "established"], 3);
            let listens = scene.sockets(host, &["-l"], 3);
            let is_leader = leaders.contains(&host);
            assert_eq!(peers.contains(&p), is_leader, "{host}: {peers:?}");
            assert_eq!((peers.len(), listens.len()), if is_leader { (3, 1) } else { (1, 0) }, "{host}: {peers:?} {listens:?}");
            assert!(listens.iter().all(|at| !at.starts_with("0.0.0.0") && !at.starts_with('*') && !at.starts_with("[::]")));
        }
    }

    /// The same processes, where nothing is different but the session: it speaks plain TCP with the rendez-vous node.
    fn a_session_without_tls_does_the_same_and_shows_who_is_there() {
        let lab = Lab::open_unchecked(topology()).unwrap();
        let capture = Capture::start(lab.host("internet").unwrap());
        let scene = Scene::by(&lab, "plain", true);
        scene.until("both have leaders", is_settled);
        assert_eq!(scene.all_have_asked(&HOSTS, 5, 1), 4);
        scene.until("it says so", |status| status.insecure && status.links.iter().all(|link| link.stack == "tcp"));
        let passed = capture.stop();
        assert!(ids_of(&scene).iter().all(|id| shows(&passed, id)), "it is plain");
        assert!(!shows(&passed, NONCE), "what members say to one another is sealed all the same");
    }

    fn a_node_without_a_way_out_joins_through_a_leader_on_both_networks() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("a", SiteKind::NoWayOut).hosts(1));
        let lab = Lab::open_unchecked(topology).unwrap();
        let host = |name| lab.host(name).unwrap();
        let dir = std::env::temp_dir().join(format!("gridnet-lab-session-through-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let listen = (host("p").address().unwrap(), PORT).into();
        let ticket = NewTicket { lifetime: common::DAY, uses: None };
        let new = NewSession { listen: vec![listen], addresses: Vec::new(), insecure: false, ticket };
        let (store, ticket) = Store::create(&dir, &new, Moment::now()).unwrap();
        let rendezvous = host("p").run(|| Rendezvous::start(store, calm()).unwrap()).unwrap();
        let inner = host("gw-a").addresses().into_iter().find(|at| at.to_string().starts_with("10.")).unwrap();
        let about = |label: &str| {
            About { cluster: Some("a".parse().unwrap()), ..About::new(label.parse().unwrap()) }
        };
        let at = SocketAddr::new(inner, PORT);
        let leads = About { will: Will::Configured, listen: Some(at), passes_joins: true, ..about("gw") };
        let join = |on, ticket: &Ticket, about, limit| {
            let ticket = ticket.clone();
            host(on).run(move || Member::join(ticket, about, limit)).unwrap()
        };
        let leader = join("gw-a", &ticket, leads, LONG).unwrap();
        let _second = join("gw-a", &ticket, about("second"), LONG).unwrap();
        common::until("it leads", || leader.leads_at() == Some(vec![at]));
        // There is no other way.
        let alone = join("a1", &ticket, about("alone"), Duration::from_millis(500)).unwrap_err();
        assert!(matches!(alone, Error::Unreachable(_)), "{alone}");
        let capture = Capture::start(host("gw-a"));
        let through = Ticket { via: vec![at.to_string()], ..ticket.clone() };
        let member = join("a1", &through, about("label-inside"), LONG).unwrap();
        common::until("it is below the leader", || member.leader() == Some(leader.node()));
        assert_eq!(leader.ask(member.node(), ECHO, NONCE, LONG).unwrap().body, NONCE);
        let passed = capture.stop();
        for secret in [&b"label-inside"[..], NONCE] {
            assert!(!passed.windows(secret.len()).any(|part| part == secret), "the leader's host sees ciphertext");
        }
        drop((member, leader, _second, rendezvous));
        let _ = std::fs::remove_dir_all(&dir);
    }

    /// How long it takes is printed, and not judged: 20 ms are asked for.
    fn who_joins_over_a_wire_is_there_at_once() {
        const TIMES: usize = 25;
        let topology = Topology::new().host("p").host("x").link(LinkSpec::between("p", "x"));
        let lab = Lab::open_unchecked(topology).unwrap();
        let [p, x] = ["p", "x"].map(|name| lab.host(name).unwrap());
        let dir = std::env::temp_dir().join(format!("gridnet-lab-session-wire-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let ticket = NewTicket { lifetime: common::DAY, uses: None };
        let listen = vec![(p.address().unwrap(), PORT).into()];
        let new = NewSession { listen, addresses: Vec::new(), insecure: false, ticket };
        let (store, ticket) = Store::create(&dir, &new, Moment::now()).unwrap();
        let rendezvous = p.run(|| Rendezvous::start(store, calm()).unwrap()).unwrap();
        let join = |number: usize| {
            // Nobody has a leader to move to.
            let about = About { cluster: Some(format!("c{number}").parse().unwrap()), ..About::new("x".parse().unwrap()) };
            let begun = Instant::now();
            let member = Member::join(ticket.clone(), about, LONG).unwrap();
            (begun.elapsed(), member)
        };
        let (mut took, members): (Vec<Duration>, Vec<Member>) = x.run(|| (0..TIMES).map(join).unzip()).unwrap();
        took.sort();
        println!("RESULT join over a wire: median {:?}, least {:?}, most {:?}", took[TIMES / 2], took[0], took[TIMES - 1]);
        common::until("all are there", || rendezvous.status().links.len() == TIMES);
        let (status, from) = (rendezvous.status(), format!("{}:", x.address().unwrap()));
        assert_eq!((status.joined, status.nodes.len()), (TIMES as u64, TIMES));
        assert!(status.links.iter().all(|link| link.from.starts_with(&from)), "{status:#?}");
        drop((members, rendezvous));
        let _ = std::fs::remove_dir_all(&dir);
    }

    fn a_leader_is_killed_and_the_rendezvous_node_started_again() {
        let lab = Lab::open_unchecked(topology()).unwrap();
        let mut scene = Scene::new(&lab, "killed");
        scene.until("both have leaders", is_settled);
        scene.all_have_asked(&HOSTS, 5, 1);
        // The rendez-vous node goes and comes: nobody seems to have gone, and all reach all again.
        scene.stop();
        HOSTS.iter().for_each(|host| drop(scene.line(host, "lost", 1)));
        scene.start();
        scene.until("all are back", is_settled);
        scene.all_have_asked(&HOSTS, 5, 2);
        assert!(HOSTS.iter().all(|host| scene.count(host, "left ") == 0));
        // A leader is killed: the others of its cluster are back with another one.
        scene.note_nodes();
        let killed = scene.leader("a");
        let at = scene.members.iter().position(|(name, _)| *name == killed).unwrap();
        let (stalls, begun) = (Stalls::watch(), now());
        scene.members.remove(at).1.kill().unwrap();
        let is_replaced = |status: &gridnet_meta::rendezvous::Status| {
            status.nodes.len() == 5 && status.leaders.iter().map(|leader| leader.nodes).sum::<usize>() == 3
        };
        scene.until("it is replaced", is_replaced);
        let left: Vec<&str> = HOSTS.into_iter().filter(|host| *host != killed).collect();
        assert_eq!(scene.all_have_asked(&left, 4, 1), 4);
        // Each of the other site was told of that cluster, and of nobody else.
        ["b1", "b2", "b3"].iter().for_each(|host| scene.was_told(host, begun, &stalls));
    }

    fn a_leader_that_is_cut_off_loses_its_cluster_and_comes_back() {
        let lab = Lab::open_unchecked(topology()).unwrap();
        let mut scene = Scene::new(&lab, "cut");
        scene.until("both have leaders", is_settled);
        scene.all_have_asked(&HOSTS, 5, 1);
        scene.note_nodes();
        let cut = scene.leader("a");
        let nft = |line: &str| {
            let nft = scene.host(cut).command("nft").args([line]);
            nft.output(LONG).unwrap().success().unwrap();
        };
        nft("add table inet cut");
        nft("add chain inet cut out { type filter hook output priority 0; }");
        let (stalls, begun) = (Stalls::watch(), now());
        nft(&format!("add rule inet cut out tcp dport {PORT} drop"));
        // All of the cluster are gone for the others, within the time of silence; one that is lost may come back at once.
        ["b1", "b2", "b3"].iter().for_each(|host| drop(scene.line(host, "left ", 3)));
        ["b1", "b2", "b3"].iter().for_each(|host| scene.was_told(host, begun, &stalls));
        // Those that reach the rendez-vous node themselves are back with another leader.
        scene.until("another leads", |status| {
            let of_a = status.leaders.iter().find(|leader| leader.cluster == "a");
            status.nodes.len() == 5 && of_a.is_some_and(|leader| leader.nodes == 1)
        });
        assert_ne!(scene.leader("a"), cut);
        nft("delete table inet cut");
        scene.until("it is back, and all of the cluster have one leader", is_settled);
        scene.all_have_asked(&HOSTS, 5, 2);
        // Nobody else was lost meanwhile.
        for host in ["b1", "b2", "b3"] {
            assert!(scene.words(host, "left ").iter().all(|words| words[3] == "a"));
        }
    }
}

#[test]
#[ignore = "run by the tests of this file, as a process of its own"]
fn child_member() {
    let Some(path) = std::env::var_os("SESSION_TEST_TICKET") else { return };
    let [cluster, label] =
        ["CLUSTER", "LABEL"].map(|name| std::env::var(format!("SESSION_TEST_{name}")).unwrap());
    // All that is asked goes over the bootstrap channel.
    let about =
        About { cluster: Some(cluster.parse().unwrap()), lines: false, ..About::new(label.parse().unwrap()) };
    let member = Member::join(Ticket::read(path.as_ref()).unwrap(), about, LONG).unwrap();
    // What the test program says stands in the same line.
    println!("\njoined {}", now().as_nanos());
    let mut known: Vec<Entry> = member.watch_nodes();
    let mut told = 0;
    let (mut asked, mut was_attached) = (Vec::new(), true);
    loop {
        let (events, _) = member.take_events();
        for event in events {
            match event {
                Event::Joined(entry) => {
                    known.retain(|other| other.node != entry.node);
                    known.push(entry);
                }
                Event::Left(node, _) => {
                    let cluster =
                        known.iter().find(|entry| entry.node == node).map(|entry| entry.cluster.to_string());
                    println!("left {node} {} {}", now().as_nanos(), cluster.unwrap_or_default());
                }
            }
        }
        let is_attached = member.connection() == Connection::Attached;
        if !is_attached && was_attached {
            println!("lost");
        }
        // Asked again whenever who leads has changed, or the rendez-vous node was away.
        let nodes = member.nodes();
        if nodes.len() != told {
            told = nodes.len();
            println!("set {told} {} {}", now().as_nanos(), listed(&nodes));
        }
        let leads: Vec<NodeId> = nodes.iter().filter(|entry| entry.leads).map(|entry| entry.node).collect();
        let state = (member.version().epoch, leads, nodes.len());
        let is_whole = nodes.iter().all(|entry| entry.leads != entry.via.is_some()) && state.1.len() == 2;
        if is_attached && is_whole && !asked.contains(&state) {
            let begun = Instant::now();
            let (answered, hops) = ask_all(&member, &nodes);
            println!("asked {answered} {hops} {}", begun.elapsed().as_millis());
            asked.push(state);
        }
        was_attached = is_attached;
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Two of these have a line in the end: the caller asks the other one until then. Started by `ci/listens.py`.
#[test]
#[ignore = "a process of its own"]
fn child_line() {
    let Some(path) = std::env::var_os("SESSION_TEST_TICKET") else { return };
    let [cluster, label] =
        ["CLUSTER", "LABEL"].map(|name| std::env::var(format!("SESSION_TEST_{name}")).unwrap());
    let about = About { cluster: Some(cluster.parse().unwrap()), ..About::new(label.parse().unwrap()) };
    let member = Member::join(Ticket::read(path.as_ref()).unwrap(), about, LONG).unwrap();
    // Where rules are given, lines go by them.
    let rules = std::env::var("SESSION_TEST_RULES").ok();
    let _assembler =
        rules.map(|rules| member.assemble(rules.parse().unwrap(), std::sync::Arc::new(NoStacks)));
    println!("\njoined");
    let is_other =
        |entry: &Entry| ["called", "caller"].contains(&entry.label.as_str()) && entry.node != member.node();
    let find = || member.nodes().into_iter().find(is_other).map(|entry| entry.node);
    common::until("the other one is there", || find().is_some());
    let other = find().unwrap();
    if label == "called" {
        // It is asked, and called, meanwhile.
        return common::until("the other one has gone", || find().is_none());
    }
    common::until("there is a line", || {
        assert_eq!(member.ask(other, ECHO, NONCE, LONG).unwrap().body, NONCE);
        matches!(member.line(other), LineState::Up { .. })
    });
    let LineState::Up { stack, .. } = member.line(other) else { panic!("it has gone") };
    println!("line over {stack}");
    // It may stand a moment before it is used.
    common::until("the line is used", || {
        member.ask(other, ECHO, NONCE, LONG).unwrap().trail.nodes().is_empty()
    });
}

/// What builds no stack: the rules of a member that has it are about lines only.
struct NoStacks;

impl Builder for NoStacks {
    fn build(&self, _: &Order) -> Result<Vec<u8>, String> {
        Err("none".into())
    }

    fn begin(&self, _: &Order, _: Vec<u8>) {}

    fn close(&self, _: &Key) {}

    fn connect(&self, _: NodeId, _: &Agreed, _: Instant) -> Result<(), String> {
        Err("none".into())
    }

    fn disconnect(&self, _: NodeId, _: &Agreed) {}

    fn revoke_grants(&self) {}
}

/// All nodes, in order.
fn listed(nodes: &[Entry]) -> String {
    let mut names: Vec<String> = nodes.iter().map(|entry| entry.node.to_string()).collect();
    names.sort();
    names.join(",")
}

/// Asks all others; how many have answered, and the most hops.
fn ask_all(member: &Member, nodes: &[Entry]) -> (usize, usize) {
    let (mut answered, mut most) = (0, 0);
    for to in nodes.iter().map(|entry| entry.node).filter(|to| *to != member.node()) {
        let nonce = [member.node().bytes().as_slice(), to.bytes(), &NONCE.repeat(968 / NONCE.len())].concat();
        match member.ask(to, ECHO, &nonce, LONG) {
            Ok(answer) => {
                assert_eq!(answer.body, nonce);
                answered += 1;
                most = most.max(answer.trail.hops());
            }
            Err(e) => println!("not asked {to}: {e}"),
        }
    }
    (answered, most)
}
