//! Two hosts whose fabrics join a session that a third one serves, and find each other by node id.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gridnet::core::endpoint::PeerState;
use gridnet::core::error::Error;
use gridnet::core::rail::PeerId;
use gridnet::core::wire::NodeId;
use gridnet::ThreadLevel;
use gridnet_meta::clock::Moment;
use gridnet_meta::rendezvous::{revoke, Rendezvous};
use gridnet_meta::store::{NewSession, NewTicket, Store};
use gridnet_meta::Rules;
use gridnet_testbed::{lab_test, Host, HostSpec, Impairment, Topology};

use crate::common::{from_any, Buffer, Party, Scratch};
use crate::cuts::Said;
use crate::hosts::{open_lab, PATIENCE};

/// The ticket, for the part that is to join.
pub const TICKET: &str = "LAB_TICKET";
const HELLO: u64 = 1;
const LARGE: usize = 200_000;
/// Rounds of a conversation in each state of the session.
const ROUNDS: usize = 30;

pub struct Session {
    pub scratch: Scratch,
}

impl Session {
    pub fn new(server: Host<'_>) -> Session {
        // Sandboxes have process numbers of their own, and files in common.
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let scratch = Scratch(std::env::temp_dir().join(format!("gridnet-lab-members-{now}")));
        std::fs::create_dir_all(&scratch.0).unwrap();
        let listen = (server.address().unwrap(), 7411).into();
        let ticket = NewTicket { lifetime: Duration::from_secs(86_400), uses: None };
        let new = NewSession { listen: vec![listen], addresses: Vec::new(), insecure: false, ticket };
        let session = Session { scratch };
        Store::create(&session.dir(), &new, Moment::now()).unwrap();
        session
    }

    pub fn dir(&self) -> PathBuf {
        self.scratch.0.join("session")
    }

    pub fn ticket(&self) -> String {
        self.dir().join("ticket").to_str().unwrap().to_owned()
    }

    pub fn store(&self) -> Store {
        Store::open(&self.dir()).unwrap()
    }

    pub fn serve(&self, server: Host<'_>) -> Rendezvous {
        server.run(|| Rendezvous::start(self.store(), Rules::default()).unwrap()).unwrap()
    }
}

/// A fabric that joins by this name, in a cluster of its own.
pub fn join(scratch: &Path, ticket: &str, label: &str) -> Party {
    join_with(scratch, ticket, label, &[])
}

/// The same, with more settings.
pub fn join_with(scratch: &Path, ticket: &str, label: &str, more: &[(&str, &str)]) -> Party {
    join_as(ticket, label, &scratch.join(label), ThreadLevel::Serialized, more)
}

/// The same, where the run directory is that of its host.
pub fn join_as(
    ticket: &str,
    label: &str,
    run_dir: &Path,
    level: ThreadLevel,
    further: &[(&str, &str)],
) -> Party {
    let own = [
        ("GRIDNET_SESSION", ticket),
        ("GRIDNET_SESSION_LABEL", label),
        ("GRIDNET_SESSION_CLUSTER", label),
        ("GRIDNET_SESSION_TIMEOUT", "60s"),
    ];
    let is_own = |(name, _): &(&str, &str)| !further.iter().any(|(other, _)| other == name);
    let own: Vec<(&str, &str)> = own.into_iter().filter(is_own).collect();
    Party::open(run_dir, None, level, &[&own[..], further].concat())
}

#[test]
#[ignore = "a part that the tests start"]
fn echoes() {
    let Ok(ticket) = std::env::var(TICKET) else { return };
    let scratch = Scratch::new();
    std::fs::create_dir_all(&scratch.0).unwrap();
    echo(&join(&scratch.0, &ticket, "b"));
}

/// Gives back what comes, as long as something comes.
pub fn echo(party: &Party) {
    loop {
        let buffer = Buffer::new(LARGE);
        party.receive(from_any(HELLO), buffer).unwrap();
        let received = loop {
            match party.wait(PATIENCE) {
                Ok(done) if done.context == crate::common::RECEIVE => break done,
                Ok(_) => {}
                Err(why) => return println!("heard nothing: {why:?}"),
            }
        };
        let back = buffer.first(received.length as usize);
        if party.send_buffer(PeerId::new(received.source), back, HELLO + 1).is_err() {
            return;
        }
    }
}

/// The node that calls itself so, once it is there.
pub fn find(party: &Party, label: &str) -> NodeId {
    let start = Instant::now();
    loop {
        let nodes = party.enter().nodes().unwrap();
        if let Some(entry) = nodes.iter().find(|entry| entry.label.as_str() == label) {
            return entry.node;
        }
        assert!(start.elapsed() < PATIENCE, "{nodes:?}");
        let _ = party.wait(Duration::from_millis(5));
    }
}

pub fn open(party: &Party, node: NodeId) -> PeerId {
    party.enter().open_node(party.cq, node, PATIENCE, 5).unwrap();
    let done = party.wait(PATIENCE).unwrap();
    assert_eq!((done.context, done.status), (5, 0), "{:?}", party.enter().node_story(node));
    party.enter().engine.open_known(PeerId::new(done.source)).unwrap()
}

/// One message there and back, whose bytes tell its number.
pub fn talk(party: &Party, to: PeerId, number: usize) {
    let len = [8, 3000, LARGE][number % 3];
    let (out, back) = (Buffer::new(len), Buffer::new(len));
    out.fill(number as u8);
    party.receive(from_any(HELLO + 1), back).unwrap();
    party.send_buffer(to, out, HELLO).unwrap();
    assert_eq!(party.wait_received().length, len as u64);
    assert!(back.to_vec().iter().all(|byte| *byte == number as u8), "message {number}");
}

lab_test! {
    fn members_of_two_hosts_find_each_other_and_need_the_rendezvous_node_no_more() {
        let near = Impairment::default().delay(Duration::from_millis(1));
        let public = |name: &str| HostSpec::new(name).public(near);
        let topology = Topology::new().host(public("p")).host(public("a")).host(public("b"));
        let Some(lab) = open_lab(topology) else { return };
        let [p, a, b] = ["p", "a", "b"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let ticket = session.ticket();
        let serving = session.serve(p);
        let echo = b.test("members::echoes").unwrap().env(TICKET, &ticket).spawn().unwrap();
        let (rounds, is_over, revoked) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let wait_rounds = |count: usize| {
            let (begin, start) = (rounds.load(Ordering::Relaxed), Instant::now());
            while rounds.load(Ordering::Relaxed) < begin + count {
                assert!(start.elapsed() < PATIENCE);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        };
        let talks = || {
            let _said = Said(&echo);
            let party = join(&session.scratch.0, &ticket, "a");
            let node = find(&party, "b");
            let to = open(&party, node);
            let why = party.enter().explain(to).unwrap();
            assert!(why.contains("stack tls/tcp: encrypted, agreed on for service gridnet"), "{why}");
            assert!(why.contains("shm not tried: they are not known to be on one host"), "{why}");
            assert!(why.contains(", TLS 1.3, "), "{why}");
            // Beside the link the two can ask each other without the rendez-vous node.
            let start = Instant::now();
            while !party.enter().explain(to).unwrap().contains("requests to the node go over tls/tcp, called ") {
                talk(&party, to, rounds.fetch_add(1, Ordering::Relaxed));
                assert!(start.elapsed() < PATIENCE, "{}", party.enter().explain(to).unwrap());
            }
            while !is_over.load(Ordering::Relaxed) {
                talk(&party, to, rounds.fetch_add(1, Ordering::Relaxed));
            }
            assert_eq!(party.enter().engine.breaks(to), (0, 0), "no link notices that the rendez-vous node goes and comes");
            assert!(revoke(&session.store(), node).unwrap().is_some());
            revoked.store(true, Ordering::Relaxed);
            let start = Instant::now();
            loop {
                let _ = party.wait(Duration::from_millis(20));
                match party.enter().engine.peer(to).unwrap().2.clone() {
                    PeerState::Gone(why) => break assert!(why.error == Error::Permission && why.reason.contains("revoked"), "{why:?}"),
                    state => assert!(start.elapsed() < PATIENCE, "{state:?}"),
                }
            }
        };
        std::thread::scope(|scope| {
            let talker = scope.spawn(|| a.run(talks).unwrap());
            let guarded = || {
                wait_rounds(ROUNDS);
                drop(serving);
                wait_rounds(ROUNDS);
                let again = session.serve(p);
                // Both are back, and hear of what is revoked.
                let start = Instant::now();
                while again.status().nodes.len() < 2 {
                    assert!(start.elapsed() < PATIENCE, "{:?}", again.status());
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                wait_rounds(ROUNDS);
                again
            };
            let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(guarded));
            is_over.store(true, Ordering::Relaxed);
            talker.join().unwrap();
            assert!(revoked.load(Ordering::Relaxed));
            drop(again.unwrap());
        });
    }
}
