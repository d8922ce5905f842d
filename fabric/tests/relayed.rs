//! Endpoints by node id that go through the bootstrap tree, as rules leave nothing else, and move on when there is a better way.

mod common;

use std::time::{Duration, Instant};

use common::onesided::{Initiator, Regions};
use common::scene::{converse, Scene};
use common::{from_any, within, Buffer, Party, PATIENCE};
use gridnet::core::endpoint::PeerState;
use gridnet::core::rail::PeerId;
use gridnet::core::wire::NodeId;
use gridnet::{Entry, Listener, Stream, ThreadLevel};
use gridnet_meta::cluster::Will;
use gridnet_meta::member::{About, Member};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Shares;

const LONG: Duration = Duration::from_secs(50);
const CONTEXT: u64 = 78;

/// A fabric with these rules, of this cluster.
fn party(scene: &Scene, (name, cluster): (&str, &str), rules: &str, options: &[(&str, &str)]) -> Party {
    let path = scene.scratch.0.join(format!("{name}.toml"));
    std::fs::write(&path, rules).unwrap();
    let own = [
        ("GRIDNET_SESSION_RULES", path.to_str().unwrap()),
        ("GRIDNET_SESSION_LABEL", name),
        ("GRIDNET_SESSION_CLUSTER", cluster),
    ];
    scene.party(ThreadLevel::Serialized, &[&own, options].concat())
}

/// A fabric that makes progress by itself.
fn other(scene: &Scene, who: (&str, &str), rules: &str) -> Party {
    party(scene, who, rules, &[("GRIDNET_PROGRESS", "thread")])
}

/// Waits until one knows of the other.
fn know(a: &Party, b: &Party) {
    let (start, node) = (Instant::now(), b.address().node);
    while !a.enter().nodes().unwrap().iter().any(|entry| entry.node == node) {
        assert!(start.elapsed() < LONG, "the directory comes");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn open(a: &Party, b: &Party) -> PeerId {
    know(a, b);
    know(b, a);
    let node = b.address().node;
    a.enter().open_node(a.cq, node, LONG, CONTEXT).unwrap();
    let start = Instant::now();
    let ended = loop {
        match a.wait(PATIENCE) {
            Ok(ended) if ended.context == CONTEXT => break ended,
            // Sends of before.
            Ok(_) => {}
            Err(_) => assert!(start.elapsed() < LONG, "{}", story(a, node)),
        }
    };
    assert_eq!(ended.status, 0, "{}", story(a, node));
    a.enter().engine.open_known(PeerId::new(ended.source)).unwrap()
}

fn story(party: &Party, node: NodeId) -> String {
    party.enter().node_story(node).unwrap_or_default().join("\n")
}

fn explain(party: &Party, peer: PeerId) -> String {
    party.enter().explain(peer).unwrap()
}

/// Puts, gets and atomic operations on regions of the other side.
fn put_and_get(a: &Party, to: PeerId, b: &Party) {
    let regions = Regions::open(b);
    let initiator = Initiator::import(a, to, &regions.keys(b)).unwrap();
    initiator.check();
    initiator.end();
    regions.close(b);
}

/// A stream there and back, of more than a pipe holds.
fn stream(a: &Party, to: PeerId, b: &Party) {
    let text: Vec<u8> = (0..500_000usize).map(|place| (place % 251) as u8).collect();
    let listener = Listener::open(&b.shared, "echo", 4).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stream = listener.accept(Some(PATIENCE)).unwrap();
            let mut bytes = vec![0; 50_000];
            loop {
                match stream.read(&mut bytes, Some(PATIENCE)).unwrap() {
                    0 => break stream.shut_down().unwrap(),
                    len => assert_eq!(stream.write(&bytes[..len], Some(PATIENCE)), Ok(len)),
                }
            }
        });
        let stream = Stream::connect(&a.shared, to, "echo", Some(PATIENCE)).unwrap();
        let (mut sent, mut come) = (0, Vec::new());
        let mut bytes = vec![0; 50_000];
        while come.len() < text.len() {
            let next = (sent + 50_000).min(text.len());
            if sent < next {
                assert_eq!(stream.write(&text[sent..next], Some(PATIENCE)), Ok(next - sent));
                sent = next;
            }
            let len = stream.read(&mut bytes, Some(PATIENCE)).unwrap();
            assert!(len > 0, "it ends after {} bytes", come.len());
            come.extend_from_slice(&bytes[..len]);
        }
        stream.shut_down().unwrap();
        assert_eq!(stream.read(&mut bytes, Some(PATIENCE)), Ok(0));
        assert!(come == text);
    });
}

#[test]
fn all_that_endpoints_do_goes_through_the_tree() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let a = party(&scene, ("a", "x"), "scheme = 'relay-only'", &[]);
        let b = other(&scene, ("b", "y"), "");
        let to = open(&a, &b);
        converse(&a, to, &b, 8);
        put_and_get(&a, to, &b);
        stream(&a, to, &b);
        let why = explain(&a, to);
        for line in [
            "stack tls/relay: encrypted, agreed on for service gridnet",
            "rail relay in use: stack tls/relay, encrypted, was agreed on",
            "rail tcp not used: the stack that was agreed on does not have it",
            "shm not tried: scheme relay-only has no such method",
            "tls/tcp not tried: scheme relay-only has no such method",
        ] {
            assert!(why.contains(line), "{line}: {why}");
        }
        let link = why.lines().find(|line| line.starts_with("link ")).unwrap();
        assert!(link.starts_with("link relay ") && link.contains("TLS 1.3"), "{why}");
        let asked = story(&b, a.address().node);
        let line = "stack tls/relay: encrypted, as the node has asked for service gridnet";
        assert_eq!(asked.lines().next(), Some(line));
        assert!(
            asked.lines().any(|line| line.starts_with("requests to the node go over the bootstrap channel")),
            "{asked}"
        );
        // The other way round by its own rules there is more; those of this side do not allow it.
        let back = open(&b, &a);
        let why = explain(&b, back);
        assert!(why.contains("tls/tcp: refused (policy): scheme relay-only has no such method"), "{why}");
        assert_eq!(b.enter().engine.rail_name(back), Some("relay"), "{why}");
        // Who closes is not taken for broken, and what it waits for ends in bounded time.
        let start = Instant::now();
        drop(a);
        assert!(start.elapsed() < LONG / 2, "closing took {:?}", start.elapsed());
    });
}

/// Messages that were sent come, also when the fabric closes at once: most of them still wait at the leader then.
#[test]
fn what_was_sent_last_comes_when_the_fabric_closes() {
    const COUNT: usize = 16;
    const LEN: usize = 4000;
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let b = other(&scene, ("b", "y"), "");
        let slow = Shares { member_bytes_per_second: 256 << 10, ..Shares::default() };
        let _leader = member(&scene, "x", Will::Willing, slow);
        let a = party(&scene, ("a", "x"), "scheme = 'relay-only'", &[("GRIDNET_SESSION_LEAD", "never")]);
        let (start, node) = (Instant::now(), a.address().node);
        let is_led = |entry: &Entry| entry.node == node && entry.via.is_some();
        while !b.enter().nodes().unwrap().iter().any(is_led) {
            assert!(start.elapsed() < LONG, "a leader is found");
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let to = open(&a, &b);
        let buffers: Vec<Buffer> = (0..COUNT).map(|_| Buffer::new(LEN)).collect();
        for buffer in &buffers {
            b.receive(from_any(9), *buffer).unwrap();
        }
        let out = Buffer::new(LEN);
        out.fill(7);
        let follow = (0..COUNT).filter(|_| a.send_buffer(to, out, 9).unwrap()).count();
        (0..follow).for_each(|_| assert_eq!(a.wait(PATIENCE).unwrap().status, 0));
        a.enter().engine.close(to);
        drop(a);
        for _ in &buffers {
            b.wait_received();
        }
        assert!(buffers.iter().all(|buffer| buffer.to_vec() == [7; LEN]));
    });
}

/// Each scheme, without and with an exception: by label, by cluster.
#[test]
fn schemes_and_exceptions_decide_which_stack_it_is() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let b = other(&scene, ("b", "y"), "");
        let by_label = "[[rule]]\nto.node = 'b'\nuse = ['tls/tcp(streams=1)']";
        let by_cluster = "[[rule]]\nto.cluster = 'y'\nscheme = 'relay-only'";
        let of_another = "[[rule]]\nto.cluster = 'z'\nuse = ['tls/tcp']";
        for (number, (scheme, exception, stack)) in [
            ("direct", "", "shm"),
            ("direct", by_label, "tls/tcp(streams=1)"),
            ("direct", by_cluster, "tls/relay"),
            ("direct", of_another, "shm"),
            ("cluster", "", "tls/relay"),
            ("cluster", by_label, "tls/tcp(streams=1)"),
            ("relay-only", "", "tls/relay"),
            ("relay-only", by_label, "tls/tcp(streams=1)"),
            ("relay-only", of_another, "tls/relay"),
        ]
        .into_iter()
        .enumerate()
        {
            let rules = format!("scheme = '{scheme}'\n{exception}");
            let label = format!("a{number}");
            let a = party(&scene, (&label, "x"), &rules, &[]);
            let to = open(&a, &b);
            let why = explain(&a, to);
            assert!(
                why.contains(&format!(" in use: stack {stack}, encrypted, was agreed on\n")),
                "{rules}: {why}"
            );
            assert!(
                story(&b, a.address().node).contains(&format!("stack {stack}: encrypted")),
                "both name it"
            );
            converse(&a, to, &b, 2);
        }
    });
}

/// Nobody gets a pipe with whom it was not agreed on, whatever is known of the way.
#[test]
fn pipes_that_were_not_agreed_on_are_refused() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let b = other(&scene, ("b", "y"), "");
        let stranger = scene.watcher();
        let node = b.address().node;
        assert!(stranger.wait_for_nodes(LONG, |entries| entries.iter().any(|entry| entry.node == node)));
        for about in [&b"gridnet"[..], b"another", b""] {
            let why = stranger.relay(node, about, LONG).unwrap_err().to_string();
            let is_known = about == b"gridnet";
            assert!(why.contains(if is_known { "was not agreed on" } else { "no such service" }), "{why}");
        }
    });
}

/// Who has gone comes by no pipe again, nor is called by one, before it was agreed on anew.
#[test]
fn pipes_end_with_the_conversation_that_they_were_agreed_on_for() {
    within(8 * PATIENCE, || {
        let mut scene = Scene::new();
        // Conversations end with their links.
        let off = ("GRIDNET_RELIABILITY", "off");
        let a = party(&scene, ("a", "x"), "scheme = 'relay-only'", &[off]);
        let b = party(&scene, ("b", "y"), "", &[off, ("GRIDNET_PROGRESS", "thread")]);
        let to = open(&a, &b);
        converse(&a, to, &b, 2);
        scene.stop();
        let start = Instant::now();
        while !matches!(a.enter().engine.peer(to), Ok((_, _, PeerState::Gone(_), _))) {
            assert!(start.elapsed() < LONG, "the pipe ends");
            let _ = a.wait(Duration::from_millis(5));
        }
        let _ = a.wait(Duration::from_millis(5));
        let why = a.enter().engine.open_over(&b.address(), "relay").unwrap_err().reason;
        assert!(why.contains("no stack was agreed on"), "{why}");
    });
}

/// Joins a cluster, and leads it or does not; passes on so much of pipes.
fn member(scene: &Scene, cluster: &str, will: Will, relay: Shares) -> Member {
    let ticket = Ticket::read(scene.ticket().as_ref()).unwrap();
    let about = About::new(format!("{cluster}2").parse().unwrap());
    let cluster = Some(cluster.parse().unwrap());
    Member::join(ticket, About { cluster, will, relay, ..about }, LONG).unwrap()
}

/// By the scheme `cluster` leaders talk to each other directly: both begin to lead while messages go.
#[test]
fn the_endpoint_moves_when_rules_allow_a_better_way() {
    for (rails, rail, stack) in [("auto", "shm", "shm"), ("tcp,self", "tcp", "tls/tcp")] {
        within(8 * PATIENCE, move || {
            let scene = Scene::new();
            let rules = "scheme = 'cluster'";
            let a = party(&scene, ("a", "x"), rules, &[("GRIDNET_RAILS", rails)]);
            let b = other(&scene, ("b", "y"), rules);
            let to = open(&a, &b);
            converse(&a, to, &b, 4);
            let why = explain(&a, to);
            assert!(why.contains("rail relay in use"), "{why}");
            assert!(why.contains("tls/tcp not tried: scheme cluster: they are of two clusters"), "{why}");
            let followers =
                ["x", "y"].map(|cluster| member(&scene, cluster, Will::Unwilling, Shares::default()));
            let start = Instant::now();
            while a.enter().engine.rail_name(to) != Some(rail) {
                assert!(start.elapsed() < LONG, "{}", explain(&a, to));
                converse(&a, to, &b, 4);
            }
            converse(&a, to, &b, 8);
            put_and_get(&a, to, &b);
            // What was agreed on is said when the move is complete, and the pipe is closed.
            let agreed = format!("stack {stack}: encrypted, agreed on for service gridnet");
            while !explain(&a, to).contains(&agreed) {
                assert!(start.elapsed() < LONG, "{}", explain(&a, to));
                let _ = a.wait(Duration::from_millis(5));
            }
            let why = explain(&a, to);
            let in_use = format!("rail {rail} in use: stack {stack}, encrypted, was agreed on");
            assert!(why.contains(&in_use), "{why}");
            assert!(!why.lines().any(|line| line.starts_with("link relay")), "{why}");
            drop(followers);
        });
    }
}

/// Other rules for a fabric from now on; not an empty file, which is taken for one that is being written.
fn change_rules(scene: &Scene, name: &str, rules: &str) {
    let (new, path) =
        (scene.scratch.0.join(format!("{name}.new")), scene.scratch.0.join(format!("{name}.toml")));
    std::fs::write(&new, rules).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Each side has opened the endpoint, and looks for a better way; both find it.
#[test]
fn both_sides_look_for_a_better_way_at_once() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let rules = "scheme = 'relay-only'";
        let [a, b] = [("a", "x"), ("b", "y")].map(|who| other(&scene, who, rules));
        let (to_b, to_a) = std::thread::scope(|scope| {
            let to_b = scope.spawn(|| open(&a, &b));
            let to_a = open(&b, &a);
            (to_b.join().unwrap(), to_a)
        });
        let rail = |party: &Party, to: PeerId| party.enter().engine.rail_name(to);
        assert_eq!([rail(&a, to_b), rail(&b, to_a)], [Some("relay"); 2]);
        ["a", "b"].iter().for_each(|name| change_rules(&scene, name, "# nothing"));
        let (start, in_use) = (Instant::now(), "rail shm in use: stack shm, encrypted, was agreed on");
        // Each has looked for itself, wherever the look of the other one has led by then.
        while [(&a, to_b), (&b, to_a)].iter().any(|(party, to)| !explain(party, *to).contains(in_use)) {
            assert!(start.elapsed() < LONG, "{} {}", explain(&a, to_b), explain(&b, to_a));
            converse(&a, to_b, &b, 4);
            converse(&b, to_a, &a, 4);
        }
        for (party, to) in [(&a, to_b), (&b, to_a)] {
            while explain(party, to).lines().any(|line| line.starts_with("link relay")) {
                assert!(start.elapsed() < LONG, "{}", explain(party, to));
                let _ = party.wait(Duration::from_millis(5));
            }
        }
        converse(&a, to_b, &b, 4);
        converse(&b, to_a, &a, 4);
    });
}

/// Nothing but the clock of the library ends the sleep of a program that waits: below the longest sleep there is.
#[test]
fn who_sleeps_is_woken_to_look_for_a_better_way() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let sleeps = [("GRIDNET_WAIT_MODE", "block")];
        let a = party(&scene, ("a", "x"), "scheme = 'relay-only'", &sleeps);
        let b = other(&scene, ("b", "y"), "");
        let to = open(&a, &b);
        converse(&a, to, &b, 2);
        let back = b.enter().engine.find(a.address().node).unwrap();
        change_rules(&scene, "a", "# nothing");
        let buffer = Buffer::new(1);
        a.receive(from_any(7), buffer).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while b.enter().engine.rail_name(back) != Some("shm") && start.elapsed() < LONG {
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                b.send(back, b"x", 7, false).unwrap();
            });
            a.wait_received();
        });
        assert_eq!(a.enter().engine.rail_name(to), Some("shm"), "{}", explain(&a, to));
    });
}
