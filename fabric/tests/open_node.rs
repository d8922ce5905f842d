//! Endpoints by node id: two fabrics of a session agree on a stack by the rules of both, and talk over it.

mod common;
#[path = "open_node/services.rs"]
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::scene::{converse, Scene};
use common::{from_any, within, Buffer, Party, Scratch, PATIENCE, RECEIVE};
use gridnet::core::completion::{Completion, OpKind};
use gridnet::core::endpoint::{CqId, PeerState};
use gridnet::core::error::Error;
use gridnet::core::rail::{Armed, PeerId, Rail, Refusal};
use gridnet::core::wire::NodeId;
use gridnet::page;
use gridnet::{AnyRail, Fabric, ThreadLevel, Verdict};
use gridnet_meta::member::{LineState, MetaLine};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{getrlimit, setrlimit, Resource};

const LONG: Duration = Duration::from_secs(50);
const CONTEXT: u64 = 77;

/// A fabric with these rules.
fn party(scene: &Scene, name: &str, rules: &str, options: &[(&str, &str)]) -> Party {
    let path = scene.scratch.0.join(format!("{name}.toml"));
    std::fs::write(&path, rules).unwrap();
    let own = [("GRIDNET_SESSION_RULES", path.to_str().unwrap()), ("GRIDNET_SESSION_LABEL", name)];
    scene.party(ThreadLevel::Serialized, &[&own, options].concat())
}

/// Two that know each other, in clusters of their own: who moves to a leader is in no directory for a moment.
fn two(scene: &Scene, rules: [&str; 2]) -> (Party, Party) {
    let of = |name| [("GRIDNET_SESSION_CLUSTER", name)];
    let (a, b) = (party(scene, "a", rules[0], &of("a")), party(scene, "b", rules[1], &of("b")));
    know(&a, &b);
    know(&b, &a);
    (a, b)
}

/// Waits until one knows of the other.
fn know(a: &Party, b: &Party) {
    let (start, node) = (Instant::now(), b.address().node);
    while !a.enter().nodes().unwrap().iter().any(|entry| entry.node == node) {
        assert!(start.elapsed() < LONG, "the directory comes");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Opens an endpoint, while the other side looks after its rails; the error and what is said of it when it fails.
fn open(a: &Party, b: &Party, limit: Duration) -> Result<PeerId, (Error, String)> {
    open_with(a, b, |fabric, cq, node| fabric.open_node(cq, node, limit, CONTEXT).unwrap())
}

/// As [`open`], which is begun so.
fn open_with(
    a: &Party,
    b: &Party,
    begin: impl FnOnce(&mut Fabric, CqId, NodeId),
) -> Result<PeerId, (Error, String)> {
    let node = b.address().node;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = b.wait(Duration::from_millis(5));
            }
        });
        begin(&mut a.enter(), a.cq, node);
        let mut ended = a.wait_past_sends(PATIENCE);
        let start = Instant::now();
        // A busy machine: no wake-up is lost, or the wait would not end before.
        while ended == Err(Error::Timeout) && start.elapsed() < LONG {
            ended = a.wait_past_sends(PATIENCE);
        }
        over.store(true, Ordering::Relaxed);
        let ended = ended.expect("it completes");
        assert_eq!((ended.kind, ended.context), (OpKind::Open as u32, CONTEXT));
        match Error::from_code(ended.status) {
            None => Ok(a.enter().engine.open_known(PeerId::new(ended.source)).unwrap()),
            Some(error) => Err((error, story(a, node))),
        }
    })
}

fn story(party: &Party, node: NodeId) -> String {
    party.enter().node_story(node).unwrap_or_default().join("\n")
}

/// What `gridnet explain` shows from outside of why the peer of this node has its rail.
fn shown_outside(scene: &Scene, node: NodeId) -> Vec<Verdict> {
    let run_dir = scene.scratch.0.join("run");
    let pages = page::of_process(Some(&run_dir), std::process::id()).unwrap();
    let views = pages.iter().map(|page| page.read().unwrap());
    let mut peers = views.flat_map(|view| view.peers);
    peers.find(|peer| peer.node == node.to_string()).expect("it is shown").verdicts
}

fn explain(party: &Party, peer: PeerId) -> String {
    party.enter().explain(peer).unwrap()
}

#[test]
fn processes_of_one_host_share_memory() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["", ""]);
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 8);
        let why = explain(&a, to);
        assert!(why.contains("stack shm: encrypted, agreed on for service gridnet"), "{why}");
        assert!(why.contains("rail shm in use: stack shm, encrypted, was agreed on"), "{why}");
        assert!(why.contains("rail tcp not used: the stack that was agreed on does not have it"), "{why}");
        assert!(why.contains("rail relay not used: the stack that was agreed on does not have it"), "{why}");
        // The other way round it is the same conversation.
        let back = open(&b, &a, LONG).unwrap();
        converse(&b, back, &a, 4);
    });
}

/// Waits until both ask each other over a line within the host.
fn warm(a: &Party, b: &Party) {
    for (from, to) in [(a, b), (b, a)] {
        let (start, node) = (Instant::now(), to.address().node);
        while !matches!(from.enter().ask_node(node, LONG), Ok(LineState::Up { stack: "unix", .. })) {
            assert!(start.elapsed() < LONG, "a line stands: {:?}", from.enter().ask_node(node, LONG));
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// What the story of an endpoint says that was agreed on without other threads.
const AT_ONCE: &str = "agreed on by the program's own calls, over a line within the host";

#[test]
fn over_a_line_within_the_host_those_who_call_agree_themselves() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["", ""]);
        warm(&a, &b);
        let to = open(&a, &b, LONG).unwrap();
        let why = story(&a, b.address().node);
        assert!(why.contains("stack shm: encrypted") && why.contains(AT_ONCE), "{why}");
        assert!(why.contains("requests to the node go over unix, called "), "{why}");
        converse(&a, to, &b, 8);
        // What was agreed on is known.
        assert_eq!(open(&a, &b, LONG), Ok(to));
        let back = open(&b, &a, LONG).unwrap();
        assert!(story(&b, a.address().node).contains(AT_ONCE));
        converse(&b, back, &a, 4);
    });
}

/// A thread sleeps that goes on with it, and who has asked does not call again.
#[test]
fn over_a_line_within_the_host_who_asks_wakes_a_thread_that_sleeps() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let progress = [("GRIDNET_PROGRESS", "thread")];
        let [a, b] = ["a", "b"].map(|name| party(&scene, name, "", &progress));
        know(&a, &b);
        know(&b, &a);
        warm(&a, &b);
        let descriptor = a.enter().cq_descriptor(a.cq).unwrap();
        let start = Instant::now();
        while a.enter().arm_cq(a.cq) != Ok(Armed::Yes) {
            assert!(start.elapsed() < LONG, "the queue is armed");
        }
        // Each call wakes nobody, and the thread sleeps soon after the last one.
        let (mut before, mut still) = (0, 0);
        while still < 3 {
            assert!(start.elapsed() < LONG, "the thread sleeps");
            let sleeps = a.enter().wait_counters().sleeps;
            still = if sleeps == before && sleeps > 0 { still + 1 } else { 0 };
            before = sleeps;
            std::thread::park_timeout(Duration::from_millis(20));
        }
        a.enter().open_node(a.cq, b.address().node, LONG, CONTEXT).unwrap();
        // SAFETY: the fabric keeps it open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1));
        assert_eq!(a.wait(PATIENCE).unwrap().status, 0);
        assert!(story(&a, b.address().node).contains(AT_ONCE));
    });
}

/// The thread of the other member answers, but nobody looks after its rails.
#[test]
fn over_a_line_within_the_host_it_ends_in_the_time_given_however_one_waits() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["", ""]);
        warm(&a, &b);
        let node = b.address().node;
        let begin = || a.enter().open_node(a.cq, node, Duration::from_millis(300), CONTEXT).unwrap();
        let ends = |how: &str| {
            let ended = a.wait(PATIENCE).unwrap_or_else(|why| panic!("{how}: {why:?}"));
            assert_eq!(Error::from_code(ended.status), Some(Error::Timeout), "{how}: {}", story(&a, node));
        };
        begin();
        ends("in a call");
        begin();
        let start = Instant::now();
        while a.enter().completions(a.cq) == 0 && start.elapsed() < PATIENCE {
            a.enter().poll_round();
        }
        ends("by polling");
        let descriptor = a.enter().cq_descriptor(a.cq).unwrap();
        // SAFETY: the fabric keeps it open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        begin();
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        while a.enter().completions(a.cq) == 0 {
            // It is busy as long as there is something to do.
            if a.enter().arm_cq(a.cq) == Ok(Armed::Yes) {
                let woken = poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], patience);
                assert_eq!(woken, Ok(1), "who sleeps is woken");
            }
            a.enter().poll_round();
        }
        ends("on a descriptor");
    });
}

#[test]
fn over_a_line_within_the_host_a_thread_goes_on_where_memory_in_common_does_not_do() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["[[rule]]\nservice = 'gridnet'\nuse = ['tls/tcp']", ""]);
        warm(&a, &b);
        let to = open(&a, &b, LONG).unwrap();
        let why = explain(&a, to);
        assert!(why.contains("rail tcp in use: stack tls/tcp, encrypted, was agreed on"), "{why}");
        assert!(!why.contains(AT_ONCE), "{why}");
        converse(&a, to, &b, 4);
    });
}

#[test]
fn rules_that_name_tls_lead_over_tcp_and_the_other_side_can_say_so() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["[[rule]]\nuse = ['tls/tcp']", ""]);
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 8);
        let why = explain(&a, to);
        assert!(why.contains("rail tcp in use: stack tls/tcp, encrypted, was agreed on"), "{why}");
        assert!(
            why.lines().any(|line| line.starts_with("link tcp ") && line.contains(", TLS 1.3, ")),
            "{why}"
        );
        assert!(why.contains("shm not tried: the rule does not name it"), "{why}");
        let shown = shown_outside(&scene, b.address().node);
        let used: Vec<&str> = shown.iter().filter(|one| one.in_use).map(|one| one.reason.as_str()).collect();
        assert_eq!(used, ["stack tls/tcp, encrypted, was agreed on"], "{shown:?}");
        let asked = story(&b, a.address().node);
        let line = "stack tls/tcp: encrypted, as the node has asked for service gridnet";
        assert_eq!(asked.lines().next(), Some(line));
        assert!(asked.lines().any(|line| line.starts_with("requests to the node go over ")), "{asked}");
        // Once more: what was agreed on is known.
        assert_eq!(open(&a, &b, LONG), Ok(to));
        // By its own rules the other side would share memory: those of both count.
        let back = open(&b, &a, LONG).unwrap();
        let why = explain(&b, back);
        assert!(why.contains("shm: refused (policy): the rule does not name it"), "{why}");
        assert!(why.contains("rail tcp in use: stack tls/tcp, encrypted, was agreed on"), "{why}");
        converse(&b, back, &a, 4);
    });
}

#[test]
fn what_the_other_side_does_not_allow_fails_with_every_reason_and_is_noted_there() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let rules =
            ["min_security = 'plain'\n[[rule]]\nuse = ['shm', 'tcp', 'tls/tcp']", "scheme = 'relay-only'"];
        let (a, b) = two(&scene, rules);
        let (error, why) = open(&a, &b, LONG).unwrap_err();
        assert_eq!(error, Error::Permission, "{why}");
        for stack in ["shm", "tcp", "tls/tcp"] {
            assert!(why.lines().any(|line| line.starts_with(&format!("{stack}: refused ("))), "{why}");
        }
        assert!(why.contains("scheme relay-only has no such method"), "{why}");
        let lines = b.enter().refused_stacks().unwrap();
        assert!(lines.iter().any(|line| line.who == a.address().node), "{lines:?}");
    });
}

#[test]
fn the_next_stack_is_taken_when_one_does_not_come_up() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let elsewhere = Scratch::new();
        let rules = "[[rule]]\nuse = ['shm', 'tls/shm', 'tls/tcp']";
        let a = party(&scene, "a", rules, &[]);
        // Of the same host, as it says, and not to be found there.
        let b = party(&scene, "b", "", &[("GRIDNET_RUN_DIR", elsewhere.0.to_str().unwrap())]);
        know(&a, &b);
        know(&b, &a);
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 4);
        let why = explain(&a, to);
        assert!(why.contains("stack tls/tcp: encrypted"), "{why}");
        assert!(why.lines().any(|line| line.starts_with("shm: ")), "{why}");
        assert!(why.contains("tls/shm: refused (build): no rail of this version makes tls/shm"), "{why}");
    });
}

/// A stack says over how many connections it goes, whatever the sides are configured for; also when the link is made again.
#[test]
fn a_stack_says_over_how_many_connections_it_goes() {
    within(8 * PATIENCE, || {
        for (streams, multirail) in [(3, "off"), (1, "auto")] {
            let scene = Scene::new();
            let stack = format!("tls/tcp(streams={streams})");
            let settings = [("GRIDNET_MULTIRAIL", multirail)];
            let a = party(&scene, "a", &format!("[[rule]]\nuse = ['{stack}']"), &settings);
            let b = party(&scene, "b", "", &settings);
            know(&a, &b);
            know(&b, &a);
            let to = open(&a, &b, LONG).unwrap();
            let count = |party: &Party, node: NodeId| {
                let fabric = party.enter();
                let peer = fabric.engine.find(node).unwrap();
                fabric.engine.paths(peer).len()
            };
            let ends = [a.address().node, b.address().node];
            for round in 0..2 {
                let start = Instant::now();
                while [count(&a, ends[1]), count(&b, ends[0])] != [streams, streams] {
                    assert!(start.elapsed() < LONG, "{}", explain(&a, to));
                    let _ = (a.wait(Duration::from_millis(2)), b.wait(Duration::from_millis(2)));
                }
                converse(&a, to, &b, 8);
                if round == 0 {
                    cut(&a, "tcp", ends[1]);
                    converse(&a, to, &b, 4);
                }
            }
            let why = explain(&a, to);
            assert!(
                why.contains(&format!("rail tcp in use: stack {stack}, encrypted, was agreed on")),
                "{why}"
            );
            let asked = story(&b, ends[0]);
            assert!(
                asked.starts_with(&format!("stack {stack}: encrypted, as the node has asked")),
                "{asked}"
            );
        }
        let scene = Scene::new();
        let path = scene.scratch.0.join("plain.toml");
        std::fs::write(&path, "[[rule]]\nmin_security = 'plain'\nuse = ['tcp(streams=2)']").unwrap();
        let rules = ("GRIDNET_SESSION_RULES", path.to_str().unwrap());
        let why = scene.try_party(ThreadLevel::Single, &[rules]).map(drop).unwrap_err();
        assert!(why.error == Error::Config && why.reason.contains("a plain connection is one"), "{why:?}");
    });
}

/// Breaks the link with a node, as a network does.
fn cut(party: &Party, rail: &str, with: NodeId) {
    let mut fabric = party.enter();
    let rail = fabric.engine.rails_mut().iter_mut().find(|other| other.name() == rail);
    let Some(AnyRail::Tcp(rail)) = rail else { panic!("there is such a rail") };
    rail.link_with(with).into_iter().for_each(|link| rail.cut(link));
}

#[test]
fn a_conversation_over_a_rail_that_the_rules_do_not_allow_is_not_taken() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["[[rule]]\nuse = ['tls/tcp']", ""]);
        let by_address = a.connect(&b.address());
        converse(&a, by_address, &b, 2);
        assert_eq!(a.enter().engine.rail_name(by_address), Some("shm"));
        let (error, why) = open(&a, &b, LONG).unwrap_err();
        assert_eq!(error, Error::Unreachable);
        assert!(why.contains("there is a conversation with it already, over rail shm"), "{why}");
    });
}

/// Rules that leave nothing but a plain connection.
const PLAIN: &str = "[[rule]]\nmin_security = 'plain'\nuse = ['tcp']\n";

#[test]
fn a_connection_is_plain_where_the_rules_of_both_lead_to_it_and_says_so() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, [PLAIN, PLAIN]);
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 8);
        let why = explain(&a, to);
        assert!(why.contains("stack tcp: plain, agreed on for service gridnet"), "{why}");
        assert!(why.contains("rail tcp-plain in use: stack tcp, plain, was agreed on"), "{why}");
        let is_plain = |line: &str| line.starts_with("link tcp-plain ") && line.contains(", plain, ");
        assert!(why.lines().any(is_plain), "{why}");
        let asked = story(&b, a.address().node);
        assert_eq!(asked.lines().next(), Some("stack tcp: plain, as the node has asked for service gridnet"));
        // It is mended in the same way, also when rules have changed that matter to others: then nothing is allowed but what stands.
        for (party, name) in [(&a, "a"), (&b, "b")] {
            let path = scene.scratch.0.join(format!("{name}.toml"));
            std::fs::write(path, format!("scheme = 'cluster'\n{PLAIN}")).unwrap();
            let stranger = NodeId::new([5; 16]).unwrap();
            party.enter().open_node(party.cq, stranger, LONG, CONTEXT).unwrap();
            let ended = party.wait_past_sends(PATIENCE).unwrap();
            assert_eq!(Error::from_code(ended.status), Some(Error::NotFound));
        }
        cut(&a, "tcp-plain", b.address().node);
        converse(&a, to, &b, 8);
        assert_eq!(a.enter().engine.rail_name(to), Some("tcp-plain"));
    });
}

#[test]
fn a_connection_is_sealed_where_one_side_wants_it_so() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let willing = "[[rule]]\nmin_security = 'plain'\nuse = ['tcp', 'tls/tcp']\n";
        let (a, b) = two(&scene, [willing, "[[rule]]\nuse = ['tls/tcp']\n"]);
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 4);
        let why = explain(&a, to);
        assert!(why.contains("rail tcp in use: stack tls/tcp, encrypted, was agreed on"), "{why}");
        assert!(why.lines().any(|line| line.starts_with("tcp: refused (")), "{why}");
        // Who does not want it plain does not listen for it; whoever calls there all the same is not taken.
        assert!(rails(&a).contains(&"tcp-plain") && !rails(&b).contains(&"tcp-plain"));
        let why = a.enter().engine.open_over(&b.address(), "tcp-plain").map(drop);
        assert!(why.is_ok(), "the conversation that is there is sealed");
        assert_eq!(a.enter().engine.rail_name(to), Some("tcp"));
        let (c, d) = (party(&scene, "c", PLAIN, &[]), party(&scene, "d", PLAIN, &[]));
        let why = c.enter().engine.open_over(&d.address(), "tcp-plain").unwrap_err();
        assert!(why.reason.contains("no plain connection was agreed on"), "{why:?}");
    });
}

#[test]
fn a_conversation_that_is_sealed_stays_so_and_one_that_is_plain_is_no_sealed_one() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        // One direction may be plain, the other may not.
        let rules =
            "[[rule]]\nfrom.node = 'a'\nmin_security = 'plain'\nuse = ['tcp']\n[[rule]]\nuse = ['tls/tcp']\n";
        let (a, b) = two(&scene, [rules, rules]);
        let back = open(&b, &a, LONG).unwrap();
        assert_eq!(b.enter().engine.rail_name(back), Some("tcp"));
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 4);
        assert_eq!(a.enter().engine.rail_name(to), Some("tcp"), "{}", explain(&a, to));
        // Nothing plain may come of it later.
        let called = {
            let mut fabric = a.enter();
            let mut rails = fabric.engine.rails_mut().iter_mut();
            let rail = rails.find(|rail| rail.name() == "tcp-plain").unwrap();
            rail.connect(PeerId::new(1000), &b.address()).unwrap_err()
        };
        assert!(called.reason.contains("no plain connection was agreed on"), "{called:?}");
        let (c, d) = (party(&scene, "a", rules, &[]), party(&scene, "d", rules, &[]));
        know(&c, &d);
        know(&d, &c);
        let to = open(&c, &d, LONG).unwrap();
        assert_eq!(c.enter().engine.rail_name(to), Some("tcp-plain"));
        let (_, why) = open(&d, &c, LONG).unwrap_err();
        assert!(why.contains("there is a conversation with it already, over rail tcp-plain"), "{why}");
    });
}

/// Rules bind those, too, who have the address of a fabric: on both sides nobody comes by that alone.
#[test]
fn where_there_are_rules_members_are_reached_by_node_id_and_not_by_address() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let tcp = [("GRIDNET_RAILS", "tcp,self")];
        // The first rules are none: it is as without a file.
        let rules = ["scheme = 'direct'", "[[rule]]\nservice = 'meta'\nscheme = 'relay-only'"];
        let [a, b] = [("a", rules[0]), ("b", rules[1])].map(|(name, rules)| party(&scene, name, rules, &tcp));
        know(&a, &b);
        know(&b, &a);
        let why = refused_by(&a, &b);
        assert!(why.error == Error::Permission && why.reason.contains("let in by node id"), "{why:?}");
        assert_eq!(b.enter().refusals(), Some(1), "it is noted");
        let file = scene.scratch.0.join("b.toml");
        let why = b.enter().engine.open(&a.address()).unwrap_err();
        assert_eq!(why.error, Error::Permission, "{why:?}");
        for part in [file.to_str().unwrap(), "GRIDNET_SESSION_RULES", "gridnet_endpoint_open_node"] {
            assert!(why.reason.contains(part), "{why:?}");
        }
        // What was agreed on comes in, also when its link is made anew, by either side.
        for (from, to) in [(&a, &b), (&b, &a)] {
            let peer = open(from, to, LONG).unwrap();
            converse(from, peer, to, 4);
            for party in [&a, &b] {
                let other = if party.address() == a.address() { &b } else { &a };
                cut(party, "tcp", other.address().node);
                converse(from, peer, to, 4);
            }
        }
        // Nobody who was let in is noted: neither at first, nor later.
        assert_eq!([a.enter().refusals(), b.enter().refusals()], [Some(0), Some(1)]);
    });
}

/// Opens an address, while the other side looks after its rails, and is refused.
fn refused_by(a: &Party, b: &Party) -> Refusal {
    let (to, start) = (a.connect(&b.address()), Instant::now());
    loop {
        let _ = (a.wait(Duration::from_millis(2)), b.wait(Duration::from_millis(2)));
        match a.enter().engine.peer(to).unwrap().2.clone() {
            PeerState::Gone(why) => return why,
            state => assert!(start.elapsed() < LONG, "{state:?}"),
        }
    }
}

/// Without a request that would have them read; what stands stays.
#[test]
fn rules_that_come_bind_those_who_have_an_address() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let tcp = [("GRIDNET_RAILS", "tcp,self")];
        let [a, b, c] = ["a", "b", "c"].map(|name| party(&scene, name, "", &tcp));
        let to = a.connect(&b.address());
        converse(&a, to, &b, 4);
        std::fs::write(scene.scratch.0.join("b.toml"), "[[rule]]\nuse = ['tls/tcp']").unwrap();
        let mut refused = None;
        if is_near(&scene) {
            refused = Some(refused_by(&c, &b).reason).filter(|why| why.contains("let in by node id"));
            assert!(refused.is_some());
        } else {
            println!(
                "SKIPPED: rules that are read without a request: {} is on no near file system",
                scene.scratch.0.display()
            );
        }
        cut(&a, "tcp", b.address().node);
        converse(&a, to, &b, 4);
        assert_eq!(b.enter().refusals(), Some(u64::from(refused.is_some())));
        know(&c, &b);
        know(&b, &c);
        let to = open(&c, &b, LONG).unwrap();
        converse(&c, to, &b, 4);
    });
}

/// Whether rules are on a file system that is looked at where nothing may wait.
fn is_near(scene: &Scene) -> bool {
    use nix::sys::statfs as fs;
    let near = [
        fs::EXT4_SUPER_MAGIC,
        fs::XFS_SUPER_MAGIC,
        fs::BTRFS_SUPER_MAGIC,
        fs::F2FS_SUPER_MAGIC,
        fs::TMPFS_MAGIC,
        fs::OVERLAYFS_SUPER_MAGIC,
    ];
    let is_near = |path: &Path| fs::statfs(path).is_ok_and(|of| near.contains(&of.filesystem_type()));
    scene.scratch.0.ancestors().all(is_near)
}

fn rails(party: &Party) -> Vec<&'static str> {
    party.enter().engine.rails().iter().map(Rail::name).collect()
}

#[test]
fn rules_are_read_again_when_the_file_changes_and_nonsense_changes_nothing() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) = two(&scene, ["[[rule]]\nuse = ['tls/tcp']", ""]);
        let write = |text: &str| {
            // As editors do: nobody reads half of it.
            let (new, path) = (scene.scratch.0.join("new"), scene.scratch.0.join("b.toml"));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, path).unwrap();
        };
        // The side that is asked: from now on nothing is allowed there that the other one has.
        write("scheme = 'relay-only'");
        let (_, why) = open(&a, &b, LONG).unwrap_err();
        assert!(why.contains("tls/tcp: refused (policy): scheme relay-only has no such method"), "{why}");
        write("scheme = 'relay-only'\nmin_security = 'none'");
        assert!(open(&a, &b, LONG).is_err());
        write("# nothing");
        let to = open(&a, &b, LONG).unwrap();
        converse(&a, to, &b, 4);
        // The side that asks.
        write("[[rule]]\nuse = ['shm']");
        let (_, why) = open(&b, &a, LONG).unwrap_err();
        assert!(why.contains("shm: "), "{why}");
        write("[[rule]]\nuse = ['tls/tcp']");
        open(&b, &a, LONG).unwrap();
    });
}

#[test]
fn who_is_not_there_is_not_waited_for_beyond_the_time_given() {
    within(8 * PATIENCE, || {
        let mut scene = Scene::new();
        let (a, b) = two(&scene, ["[[rule]]\nuse = ['tls/tcp']", ""]);
        let stranger = NodeId::new([5; 16]).unwrap();
        let [own, other] = [&a, &b].map(|party| party.address().node);
        a.enter().open_node(a.cq, stranger, LONG, CONTEXT).unwrap();
        let ended = a.wait(PATIENCE).unwrap();
        assert_eq!(Error::from_code(ended.status), Some(Error::NotFound), "{}", story(&a, stranger));
        // Itself needs nobody else.
        a.enter().open_node(a.cq, own, LONG, CONTEXT).unwrap();
        assert_eq!(a.wait(PATIENCE).unwrap().status, 0);
        // Nobody looks after this one.
        let start = Instant::now();
        a.enter().open_node(a.cq, other, Duration::from_millis(500), CONTEXT).unwrap();
        let ended = a.wait(PATIENCE).unwrap();
        assert_eq!(Error::from_code(ended.status), Some(Error::Timeout), "{}", story(&a, other));
        assert!(start.elapsed() >= Duration::from_millis(500));
        // No link comes of it later.
        let counters = a.enter().engine.counters();
        assert_eq!(counters.peers_now, 1, "itself");
        assert!(counters.peers_gone <= 1, "the other one, if it was called in time");
        // Without the rendez-vous node the other one cannot be asked, and closing does not wait for that.
        scene.stop();
        a.enter().open_node(a.cq, other, LONG, CONTEXT).unwrap();
        let start = Instant::now();
        drop(a);
        assert!(start.elapsed() < LONG / 2, "closing took {:?}", start.elapsed());
    });
}

#[test]
fn without_a_ticket_there_are_no_nodes_and_rules_are_checked_before_joining() {
    let scratch = Scratch::new();
    let party = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
    let node = NodeId::new([5; 16]).unwrap();
    let why = party.enter().open_node(party.cq, node, LONG, 0).unwrap_err();
    assert!(why.error == Error::Config && why.reason.contains("GRIDNET_SESSION"), "{why:?}");
    assert_eq!(party.enter().nodes().unwrap_err().error, Error::Config);

    let scene = Scene::new();
    let path = scene.scratch.0.join("wrong.toml");
    std::fs::write(&path, "scheme = 'direct'\nmin_security = 'none'").unwrap();
    let rules = ("GRIDNET_SESSION_RULES", path.to_str().unwrap());
    let why = scene.try_party(ThreadLevel::Single, &[rules]).map(drop).unwrap_err();
    assert!(why.error == Error::Config && why.reason.contains("wrong.toml"), "{why:?}");
    assert!(why.reason.contains("line 2"), "{why:?}");
}

/// Nodes of the ring.
const RING: usize = 64;

#[test]
fn idle_nodes_have_no_links_and_a_ring_of_first_messages_has_as_many_as_nodes() {
    allow_descriptors();
    within(16 * PATIENCE, || {
        let scene = Scene::new();
        let join = |number: usize| party(&scene, &format!("n{number}"), "", &[]);
        let parties: Vec<Party> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| scope.spawn(move || (thread..RING).step_by(4).map(join).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let start = Instant::now();
        while parties.iter().any(|party| party.enter().nodes().unwrap().len() < RING) {
            assert!(start.elapsed() < LONG, "the directories come");
            look(&parties, |_, _| {});
        }
        assert_eq!(links(&scene, &parties), (0, 0), "nobody has said anything");
        assert_eq!(lines(&parties), [].into(), "nor asked");
        for (at, party) in parties.iter().enumerate() {
            party.receive(from_any(1), Buffer::new(1)).unwrap();
            let next = parties[(at + 1) % RING].address().node;
            party.enter().open_node(party.cq, next, LONG, CONTEXT).unwrap();
        }
        let (start, mut heard) = (Instant::now(), 0);
        while heard < RING {
            assert!(start.elapsed() < 2 * LONG, "{heard} have heard");
            look(&parties, |party, done| {
                assert_eq!(done.status, 0, "{done:?}");
                match done.context {
                    CONTEXT => {
                        let to = party.enter().engine.open_known(PeerId::new(done.source)).unwrap();
                        party.send(to, b"x", 1, false).unwrap();
                    }
                    RECEIVE => heard += 1,
                    _ => {}
                }
            });
        }
        // Each has two ends.
        assert_eq!(links(&scene, &parties), (2 * RING, 2 * RING));
        // The same of the meta-channel: one way for each edge, and for nothing else, however far it is.
        let nodes = parties.iter().map(|party| party.address().node);
        let edges: BTreeSet<_> = nodes.clone().zip(nodes.cycle().skip(1)).map(|(a, b)| edge(a, b)).collect();
        assert_eq!(edges.len(), RING);
        let start = Instant::now();
        let stands = |line: &MetaLine| matches!(line.state, LineState::Up { .. });
        let all = loop {
            let all = lines(&parties);
            if all.len() >= RING && all.values().flatten().any(stands) {
                break all;
            }
            assert!(start.elapsed() < LONG, "{all:?}");
            look(&parties, |_, _| {});
        };
        assert_eq!(all.into_keys().collect::<BTreeSet<_>>(), edges);
        let next = parties[1].address().node;
        let peer = parties[0].enter().engine.find(next).unwrap();
        let why = explain(&parties[0], peer);
        assert!(why.lines().any(|line| line.starts_with("meta-channel: ")), "{why}");
    });
}

/// Two nodes, whichever of them comes first.
fn edge(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

/// Lines of the meta-channel that stand, are being made, or were to be made, by the nodes that they join.
fn lines(parties: &[Party]) -> BTreeMap<(NodeId, NodeId), Vec<MetaLine>> {
    let mut lines = BTreeMap::<_, Vec<MetaLine>>::new();
    for party in parties {
        let (own, all) = (party.address().node, party.enter().lines().unwrap());
        for line in all {
            lines.entry(edge(own, line.node)).or_default().push(line);
        }
    }
    lines
}

/// Looks after all of them once, and tells what was completed.
fn look(parties: &[Party], mut told: impl FnMut(&Party, Completion)) {
    for party in parties {
        let mut taken = Vec::new();
        party.enter().maintain();
        party.enter().take(party.cq, |done| {
            taken.push(done);
            true
        });
        taken.into_iter().for_each(|done| told(party, done));
    }
}

/// Links of all rails that their pages show, and those of shared memory that the rail itself has.
fn links(scene: &Scene, parties: &[Party]) -> (usize, usize) {
    let run_dir = scene.scratch.0.join("run");
    let ours: BTreeSet<String> = parties.iter().map(|party| party.address().node.to_string()).collect();
    // Other tests have fabrics in this process, too, which come and go.
    let pages = page::of_process(Some(&run_dir), std::process::id()).unwrap();
    let views = pages.iter().filter_map(|page| page.read().ok()).filter(|view| ours.contains(&view.who.node));
    let shown: Vec<usize> = views.map(|view| view.peers.len()).collect();
    assert_eq!(shown.len(), RING);
    (shown.iter().sum(), parties.iter().map(|party| party.usage().links).sum())
}

/// Allows this process the descriptors that so many fabrics need.
fn allow_descriptors() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(16_384)), hard).unwrap();
}
