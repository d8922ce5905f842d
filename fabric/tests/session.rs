//! Fabrics that know each other by a session, over the loopback interface.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::process::{role, start};
use common::{echo, exactly, from_any, within, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::endpoint::PeerState;
use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;
use gridnet::core::wire::NodeId;
use gridnet::ThreadLevel;
use gridnet_meta::authority::Authority;
use gridnet_meta::clock::Moment;
use gridnet_meta::credentials::{keep_certified, keep_revoked};

const LO: (&str, &str) = ("GRIDNET_NET_INTERFACES", "127.0.0.1");
const TCP: (&str, &str) = ("GRIDNET_RAILS", "tcp");
const SESSION: &str = "GRIDNET_SESSION";
const DAY: Duration = Duration::from_secs(86_400);

/// The authority of a session, and a directory for those of its nodes.
struct Session {
    scratch: Scratch,
    authority: Authority,
}

impl Session {
    fn new() -> Session {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).unwrap();
        Session {
            scratch,
            authority: Authority::create(NodeId::new([9; 16]).unwrap(), Moment::now()).unwrap(),
        }
    }

    fn dir(&self, name: &str) -> String {
        self.scratch.0.join(name).to_str().unwrap().to_owned()
    }

    fn join(&self, name: &str) -> NodeId {
        keep_certified(Path::new(&self.dir(name)), &self.authority, Moment::now(), DAY).unwrap()
    }

    fn party(&self, name: &str) -> Party {
        let dir = self.dir(name);
        let options = [TCP, LO, (SESSION, dir.as_str()), ("GRIDNET_PEER_TIMEOUT", "1s")];
        Party::open(&self.scratch.0.join("run"), None, ThreadLevel::Serialized, &options)
    }
}

const ECHOES: usize = 20;
const LARGE: usize = 3_000_000;

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((_, dir)) = role() else { return };
    let node = dir.join("node");
    let options = [TCP, LO, (SESSION, node.to_str().unwrap())];
    let party = Party::open(&dir, Some("echo"), ThreadLevel::Serialized, &options);
    println!("ready");
    echo(&party, ECHOES, LARGE);
}

#[test]
fn processes_of_one_node_talk_and_their_links_say_how_they_are_protected() {
    for level in [ThreadLevel::Single, ThreadLevel::Multiple] {
        within(6 * PATIENCE, move || {
            let session = Session::new();
            let node = session.join("node");
            let _peer = start("echo", &session.scratch.0);
            let dir = session.dir("node");
            let party = Party::open(&session.scratch.0, None, level, &[TCP, LO, (SESSION, &dir)]);
            let address = party.shared.lookup("echo", Some(PATIENCE)).unwrap();
            assert_ne!(address.node, party.address().node);
            for of in [address.node, party.address().node] {
                assert_eq!(of.bytes()[..8], node.bytes()[..8]);
            }
            let to = party.connect(&address);
            for i in 0..ECHOES {
                let (out, back) = (Buffer::new(LARGE), Buffer::new(LARGE));
                let len = [0, 8, 5000, 100_000, LARGE][i % 5];
                out.fill(i as u8);
                party.receive(exactly(to, 2), back).unwrap();
                party.send_buffer(to, out.first(len), 1).unwrap();
                assert_eq!(party.wait_received().length, len as u64);
                assert!(back.first(len).to_vec().iter().all(|byte| *byte == i as u8));
            }
            let why = party.enter().explain(to).unwrap();
            let is_link =
                |line: &&str| line.starts_with("link tcp from 127.0.0.1:") && line.contains(", TLS 1.3, ");
            assert!(why.lines().any(|line| is_link(&line)), "{why}");
            party.send(to, b"!", 3, false).unwrap();
        });
    }
}

/// What becomes of a message from one to the other, both of which are looked after.
fn send(from: &Party, to: &Party) -> Result<(), Refusal> {
    // It may be refused at once.
    let peer = from.enter().engine.open(&to.address())?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = to.wait(Duration::from_millis(5));
            }
        });
        from.enter().engine.peer(peer).unwrap();
        // With the other's answer, or never.
        let sent = from.send(peer, b"hello", 7, true);
        let done = sent.and_then(|_| from.wait(4 * PATIENCE));
        over.store(true, Ordering::Relaxed);
        let state = from.enter().engine.peer(peer).unwrap().2.clone();
        match (done, state) {
            (Ok(done), PeerState::Up) if done.status == 0 => Ok(()),
            (_, PeerState::Gone(why)) => Err(why),
            (done, state) => panic!("{done:?} {state:?}"),
        }
    })
}

#[test]
fn members_meet_and_others_are_refused_and_counted() {
    let (mine, others) = (Session::new(), Session::new());
    let nodes = ["a", "b"].map(|name| mine.join(name));
    others.join("c");
    let (a, b, c) = (mine.party("a"), mine.party("b"), others.party("c"));
    for party in [&a, &b, &c] {
        party.receive(from_any(7), Buffer::new(64)).unwrap();
        party.receive(from_any(7), Buffer::new(64)).unwrap();
    }
    send(&a, &b).unwrap();
    let why = send(&c, &b).unwrap_err();
    assert!(why.error == Error::Permission && why.reason.contains("TLS: "), "{why:?}");
    // From now on a refuses b, which has not heard of it.
    let until = Moment::now().after(DAY);
    keep_revoked(Path::new(&mine.dir("a")), &BTreeMap::from([(nodes[1], until)])).unwrap();
    let late = mine.party("b");
    let why = send(&late, &a).unwrap_err();
    assert!(why.error == Error::Permission && why.reason.contains("CertificateRevoked"), "{why:?}");
    assert!(send(&a, &late).unwrap_err().reason.contains("Revoked"));
    let refused = a.enter().refusals();
    assert_eq!(refused, Some(2));
}

#[test]
fn one_who_has_a_session_does_not_talk_to_one_who_has_none() {
    let session = Session::new();
    session.join("a");
    let a = session.party("a");
    let insecure = [TCP, LO, ("GRIDNET_NET_INSECURE", "1"), ("GRIDNET_PEER_TIMEOUT", "1s")];
    let plain = Party::open(&session.scratch.0.join("run"), None, ThreadLevel::Serialized, &insecure);
    for (from, to) in [(&plain, &a), (&a, &plain)] {
        to.receive(from_any(7), Buffer::new(64)).unwrap();
        let why = send(from, to).unwrap_err();
        assert!(why.error == Error::Permission && why.reason.contains(SESSION), "{why:?}");
    }
    let own = plain.address();
    assert!(own.network.iter().count() > 0);
}

#[test]
fn what_contradicts_itself_or_is_no_session_is_named() {
    let session = Session::new();
    session.join("a");
    let scratch = Scratch::new();
    let refused = |options: &[(&str, &str)]| {
        let options = [&[TCP, LO], options].concat();
        Party::try_open(&scratch.0, None, ThreadLevel::Single, &options).map(drop).unwrap_err()
    };
    let dir = session.dir("a");
    for (name, value) in [("GRIDNET_NET_KEY_FILE", "/k"), ("GRIDNET_NET_INSECURE", "1")] {
        let why = refused(&[(SESSION, &dir), (name, value)]);
        assert_eq!(why.error, Error::Config);
        assert!(why.reason.contains(&format!("{SESSION} and {name} exclude each other")), "{why:?}");
    }
    let why = refused(&[(SESSION, "/nonexistent")]);
    assert!(why.error == Error::Config && why.reason.contains("/nonexistent"), "{why:?}");
    // A rail less is not what was asked for, whatever rails there are.
    let auto = [("GRIDNET_RAILS", "auto"), (SESSION, "/nonexistent")];
    let why = Party::try_open(&scratch.0, None, ThreadLevel::Single, &auto).map(drop).unwrap_err();
    assert!(why.error == Error::Config && why.reason.contains("/nonexistent"), "{why:?}");
    let past = Moment::now().before(2 * DAY);
    let old = session.dir("old");
    keep_certified(Path::new(&old), &session.authority, past, DAY).unwrap();
    assert!(refused(&[(SESSION, &old)]).reason.contains("it is to join again"));
}
