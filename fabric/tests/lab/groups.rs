//! Six nodes of two sites, of which one or both let nothing in: a group by node ids, over the stack that each edge came to.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use gridnet::core::rail::PeerId;
use gridnet::core::wire::NodeId;
use gridnet::ThreadLevel;
use gridnet_testbed::{lab_test, Finished, HostSpec, Impairment, Running, Site, SiteKind, Topology};

use crate::common::{from_any, Buffer, Party, RECEIVE};
use crate::hosts::{open_lab, PATIENCE};
use crate::members::{join_as, Session, TICKET};
use crate::stacks::stack_of;

const RANK: &str = "LAB_RANK";
const HOST: &str = "LAB_HOST";
/// Where each rank runs: two sites, two of them on one host in each.
const PLACES: [&str; 6] = ["a1", "a1", "a2", "b1", "b1", "b2"];
const ROUNDS: u64 = 3;
const BYTES: usize = 1024;
/// Kinds of messages; behind them their sender.
const HELLO: u64 = 0x100;
const HERE: u64 = 0x200;
const GO: u64 = 0x300;
const ALL: u64 = 0x1000;
/// Of openings, and behind it the rank.
const OPEN: u64 = 100;

/// One of the group.
struct Rank {
    own: usize,
    party: Party,
    peers: [Option<PeerId>; PLACES.len()],
    /// What has come and was not asked for yet: its tag.
    come: Vec<u64>,
}

impl Rank {
    /// The ids of all, in the order of their ranks.
    fn members(&mut self) -> Vec<NodeId> {
        let start = Instant::now();
        loop {
            let mut nodes = self.party.enter().nodes().unwrap();
            if nodes.len() == PLACES.len() {
                nodes.sort_by_key(|entry| entry.label.to_string());
                return nodes.iter().map(|entry| entry.node).collect();
            }
            assert!(start.elapsed() < PATIENCE, "{nodes:?}");
            let _ = self.party.wait(Duration::from_millis(5));
        }
    }

    /// One completion: a peer that was opened, or a message.
    fn step(&mut self) {
        let done = self.party.wait(PATIENCE).unwrap();
        assert_eq!(done.status, 0, "{done:?}");
        if done.context == RECEIVE {
            self.come.push(done.tag);
            if done.tag & !0xff == HELLO {
                self.peers[(done.tag & 0xff) as usize] = Some(PeerId::new(done.source));
            }
        } else if done.context >= OPEN {
            let peer = self.party.enter().engine.open_known(PeerId::new(done.source)).unwrap();
            self.peers[(done.context - OPEN) as usize] = Some(peer);
            self.say((done.context - OPEN) as usize, HELLO, Buffer::new(1));
        }
    }

    fn await_tag(&mut self, tag: u64) {
        loop {
            if let Some(at) = self.come.iter().position(|other| *other == tag) {
                self.come.swap_remove(at);
                return;
            }
            self.step();
        }
    }

    fn say(&self, to: usize, kind: u64, buffer: Buffer) {
        self.party.send_buffer(self.peers[to].unwrap(), buffer, kind | self.own as u64).unwrap();
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let own = self.own;
        (0..PLACES.len()).filter(move |rank| *rank != own)
    }

    /// Each edge is opened by the lower rank: those of the closed site call, nobody can call them.
    fn open_all(&mut self, nodes: &[NodeId]) {
        for rank in 0..self.own {
            self.party.receive(from_any(HELLO | rank as u64), Buffer::new(1)).unwrap();
        }
        for (rank, node) in nodes.iter().enumerate().skip(self.own + 1) {
            self.party.enter().open_node(self.party.cq, *node, PATIENCE, OPEN + rank as u64).unwrap();
        }
        while self.others().any(|rank| self.peers[rank].is_none()) {
            self.step();
        }
        self.come.clear();
    }

    /// Nobody comes out before all have come in.
    fn barrier(&mut self) {
        let word = Buffer::new(1);
        if self.own == 0 {
            let others: Vec<usize> = self.others().collect();
            for rank in &others {
                self.party.receive(from_any(HERE | *rank as u64), word).unwrap();
            }
            others.iter().for_each(|rank| self.await_tag(HERE | *rank as u64));
            others.iter().for_each(|rank| self.say(*rank, GO, word));
        } else {
            self.party.receive(from_any(GO), word).unwrap();
            self.say(0, HERE, word);
            self.await_tag(GO);
        }
    }

    /// Each says something else to each.
    fn all_to_all(&mut self, round: u64) {
        let kind = ALL + (round << 8);
        let others: Vec<usize> = self.others().collect();
        let buffers: Vec<Buffer> = others.iter().map(|_| Buffer::new(BYTES)).collect();
        for (rank, buffer) in others.iter().zip(&buffers) {
            self.party.receive(from_any(kind | *rank as u64), *buffer).unwrap();
        }
        self.barrier();
        for rank in &others {
            let out = Buffer::new(BYTES);
            out.fill(word(self.own, *rank, round));
            self.say(*rank, kind, out);
        }
        for (rank, buffer) in others.iter().zip(&buffers) {
            self.await_tag(kind | *rank as u64);
            assert_eq!(buffer.to_vec(), [word(*rank, self.own, round); BYTES], "from {rank}");
        }
    }
}

fn word(from: usize, to: usize, round: u64) -> u8 {
    (from * 36 + to * 6) as u8 + round as u8
}

fn now() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()
}

#[test]
#[ignore = "a part that the tests start"]
fn member() {
    let [ticket, rank, host] = [TICKET, RANK, HOST].map(|name| std::env::var(name).ok());
    let (Some(ticket), Some(rank), Some(host)) = (ticket, rank, host) else { return };
    let run_dir = PathBuf::from(&ticket).parent().unwrap().with_file_name(format!("host-{host}"));
    let party = join_as(&ticket, &format!("r{rank}"), &run_dir, ThreadLevel::Serialized, &[]);
    let mut one = Rank { own: rank.parse().unwrap(), party, peers: Default::default(), come: Vec::new() };
    let nodes = one.members();
    one.open_all(&nodes);
    for round in 0..ROUNDS {
        one.all_to_all(round);
    }
    let came = now();
    one.barrier();
    println!("\nbarrier {came} {} end", now());
    for other in one.others() {
        println!("edge {} {other} {} end", one.own, stack_of(&one.party, one.peers[other].unwrap()));
    }
    // Nobody goes while others may still have something to hear.
    one.barrier();
}

/// What a part has said that begins so.
fn said<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let lines = text.lines().filter_map(move |line| line.strip_prefix(begin)?.strip_suffix(" end"));
    lines.map(|line| line.split(' ').collect())
}

/// Runs the group, the second site being of this kind: each edge between the sites is over this stack, the others share memory or
/// have TCP.
fn six_nodes(second: SiteKind, between: &str) {
    let far = Impairment::default().delay(Duration::from_millis(5));
    let topology = Topology::new()
        .host(HostSpec::new("p").public(Impairment::default()))
        .site(Site::new("a", SiteKind::Masquerading).hosts(2).uplink(far))
        .site(Site::new("b", second).hosts(2).uplink(far));
    let Some(lab) = open_lab(topology) else { return };
    let p = lab.host("p").unwrap();
    let session = Session::new(p);
    let _serving = session.serve(p);
    let parts: Vec<Running> = PLACES
        .iter()
        .enumerate()
        .map(|(rank, host)| {
            let part = lab.host(host).unwrap().test("groups::member").unwrap();
            part.env(TICKET, session.ticket()).env(RANK, rank.to_string()).env(HOST, host).spawn().unwrap()
        })
        .collect();
    // All at once: who has failed is told beside those who wait for it.
    let ended: Vec<_> = std::thread::scope(|scope| {
        let waiting: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| part.wait(PATIENCE))).collect();
        waiting.into_iter().map(|one| one.join().unwrap().and_then(Finished::success)).collect()
    });
    assert!(ended.iter().all(Result::is_ok), "{ended:#?}");
    let texts: Vec<String> = ended.into_iter().map(Result::unwrap).collect();
    check(&texts, between);
}

/// All are out of the barrier after all are in it, and each edge has its stack at both ends.
fn check(texts: &[String], between: &str) {
    let mut edges = 0;
    let (mut came, mut went) = (0, u128::MAX);
    for text in texts {
        for edge in said(text, "edge ") {
            let [from, to] = [0, 1].map(|at| PLACES[edge[at].parse::<usize>().unwrap()]);
            let stack = match (from == to, from[..1] == to[..1]) {
                (true, _) => "shm",
                (_, true) => "tls/tcp",
                _ => between,
            };
            assert_eq!(edge[2], stack, "{from} to {to}: {text}");
            edges += 1;
        }
        for times in said(text, "barrier ") {
            came = came.max(times[0].parse().unwrap());
            went = went.min(times[1].parse().unwrap());
        }
    }
    assert_eq!(edges, 30, "both ends of each");
    assert!(0 < came && came <= went, "{came} {went}");
}

lab_test! {
    fn six_nodes_of_two_sites_are_a_group() {
        six_nodes(SiteKind::Open, "tls/tcp");
    }

    fn six_nodes_of_two_closed_sites_are_a_group() {
        six_nodes(SiteKind::Masquerading, "tls/relay");
    }
}
