//! One listener, and callers that reach it over different stacks at one time.

use std::path::PathBuf;
use std::sync::Barrier;

use gridnet::core::rail::PeerId;
use gridnet::{Listener, Stream, ThreadLevel};
use gridnet_core::testing::random::Random;
use gridnet_testbed::{lab_test, Host, HostSpec, Impairment, Running, Topology};
use sha2::{Digest, Sha256};

use crate::common::Party;
use crate::hosts::{is_long, open_lab, PATIENCE};
use crate::members::{find, join_as, open, Session, TICKET};

/// Who the part is, and the host that it runs on.
const LABEL: &str = "LAB_LABEL";
const HOST: &str = "LAB_HOST";
/// The file of its rules, if it has one: the server has none.
const RULES: &str = "LAB_RULES";
const SERVICE: &str = "store";
const PIECE: usize = 1 << 20;

fn megabytes() -> usize {
    if is_long() {
        100
    } else {
        10
    }
}

/// A part that the test has started: its fabric, by the settings of everybody.
fn part() -> Option<(Party, String)> {
    let [ticket, label, host] = [TICKET, LABEL, HOST].map(|name| std::env::var(name).ok());
    let (ticket, label) = (ticket?, label?);
    let session = PathBuf::from(&ticket).parent().unwrap().to_owned();
    let run_dir = session.with_file_name(format!("host-{}", host?));
    let rules = std::env::var(RULES).unwrap_or_default();
    let settings = [("GRIDNET_PROGRESS", "thread"), ("GRIDNET_SESSION_RULES", &rules)];
    let settings = &settings[..if rules.is_empty() { 1 } else { 2 }];
    Some((join_as(&ticket, &label, &run_dir, ThreadLevel::Multiple, settings), label))
}

fn start(session: &Session, host: Host<'_>, label: &str, test: &str) -> Running {
    let part = host.test(test).unwrap().env(TICKET, session.ticket());
    let part = part.env(LABEL, label).env(HOST, host.name());
    let rules = session.dir().with_file_name(format!("{label}.toml"));
    match rules.exists() {
        true => part.env(RULES, rules.to_str().unwrap()).spawn().unwrap(),
        false => part.spawn().unwrap(),
    }
}

/// The stack of a link, as the path to the peer tells it, which is that of the rail in use.
pub fn stack_of(party: &Party, peer: PeerId) -> String {
    let (why, rail) = {
        let fabric = party.enter();
        (fabric.explain(peer).unwrap(), fabric.engine.rail_name(peer))
    };
    let used = why.lines().find_map(|line| line.split_once(" in use: stack ").map(|(_, rest)| rest));
    let asked = || why.lines().find_map(|line| line.strip_prefix("stack "));
    let told = used.or_else(asked).unwrap_or_else(|| panic!("{why}"));
    let stack = told.split([',', ':']).next().unwrap();
    // The other side's story is written when it has asked, not when frames flow.
    let method = stack.rsplit('/').next().and_then(|last| last.split('(').next());
    assert_eq!(method, rail, "{why}");
    stack.to_owned()
}

#[test]
#[ignore = "a part that the tests start"]
fn stores() {
    let Some((party, _)) = part() else { return };
    let listener = Listener::open(&party.shared, SERVICE, 16).unwrap();
    println!("\nlistens");
    let streams = [0, 1].map(|_| listener.accept(Some(PATIENCE)).unwrap());
    // Nothing was read: both are under way.
    let live = streams.each_ref().map(|stream| stack_of(&party, stream.peer()));
    println!("at once {} end", live.join(" and "));
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| {
                both.wait();
                store(stream);
            });
        }
    });
    party.shared.stop_progress();
}

/// Answers by the digest of all that was said.
fn store(stream: &Stream) {
    let (mut digest, mut bytes) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match stream.read(&mut bytes, Some(PATIENCE)).unwrap() {
            0 => break,
            len => digest.update(&bytes[..len]),
        }
    }
    assert_eq!(stream.write(&digest.finalize(), Some(PATIENCE)), Ok(32));
    stream.shut_down().unwrap();
    assert_eq!(stream.read(&mut bytes, Some(PATIENCE)), Ok(0));
}

#[test]
#[ignore = "a part that the tests start"]
fn keeps() {
    let Some((party, label)) = part() else { return };
    let node = find(&party, "server");
    let to = open(&party, node);
    let stream = Stream::connect(&party.shared, to, SERVICE, Some(PATIENCE)).unwrap();
    println!("\n{label} over {} end", stack_of(&party, to));
    let mut noise = Random::new(u64::from(label.as_bytes()[0])).bytes(PIECE);
    let mut digest = Sha256::new();
    for piece in 0..megabytes() as u64 {
        noise[..8].copy_from_slice(&piece.to_le_bytes());
        digest.update(&noise);
        assert_eq!(stream.write(&noise, Some(PATIENCE)), Ok(PIECE));
    }
    stream.shut_down().unwrap();
    let (mut answer, mut len) = ([0; 33], 0);
    loop {
        match stream.read(&mut answer[len..], Some(PATIENCE)).unwrap() {
            0 => break,
            more => len += more,
        }
    }
    assert_eq!(answer[..len], digest.finalize()[..], "{label}");
    drop(stream);
    party.shared.stop_progress();
    println!("{label} stored end");
}

lab_test! {
    fn one_listener_serves_shared_memory_and_tls_at_once() {
        let public = |name: &str| HostSpec::new(name).public(Impairment::default());
        let topology = Topology::new().host(public("p")).host(public("a")).host(public("b"));
        let Some(lab) = open_lab(topology) else { return };
        let [p, a, b] = ["p", "a", "b"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let _serving = session.serve(p);
        let server = start(&session, b, "server", "stacks::stores");
        server.wait_for("listens", PATIENCE).unwrap();
        let far = "[[rule]]\nuse = ['shm', 'tls/tcp(streams=1)']";
        std::fs::write(session.dir().with_file_name("far.toml"), far).unwrap();
        let clients = [(a, "far", "tls/tcp(streams=1)"), (b, "near", "shm")];
        let parts = clients.map(|(host, label, stack)| (start(&session, host, label, "stacks::keeps"), label, stack));
        for (part, label, stack) in parts {
            let said = part.wait(PATIENCE).unwrap().success().unwrap();
            assert!(said.contains(&format!("{label} over {stack} end")), "{said}");
            assert!(said.contains(&format!("{label} stored end")), "{said}");
        }
        let said = server.wait(PATIENCE).unwrap().success().unwrap();
        assert!(["shm and tls/tcp(streams=1)", "tls/tcp(streams=1) and shm"].iter().any(|both| said.contains(&format!("at once {both} end"))), "{said}");
    }
}
