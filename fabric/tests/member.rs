//! Fabrics that join a session themselves, with its ticket.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::scene::{converse, Scene};
use common::{within, Party, PATIENCE};
use gridnet::core::endpoint::PeerState;
use gridnet::core::error::Error;
use gridnet::{NodeEvent, ThreadLevel};
use gridnet_meta::rendezvous::revoke;

const TCP: (&str, &str) = ("GRIDNET_RAILS", "tcp");
const LONG: Duration = Duration::from_secs(32);

/// Both drive until it is so.
fn drive(parties: &[&Party], what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what}");
        for party in parties {
            let _ = party.wait(Duration::from_millis(5));
        }
    }
}

#[test]
fn fabrics_join_talk_encrypted_and_leave() {
    within(8 * PATIENCE, || {
        let mut scene = Scene::new();
        let watcher = scene.watcher();
        let options = [TCP, ("GRIDNET_SESSION_CLUSTER", "lab"), ("GRIDNET_SESSION_LABEL", "a-1")];
        let a = scene.party(ThreadLevel::Serialized, &options);
        let b = scene.party(ThreadLevel::Serialized, &[TCP]);
        assert!(watcher.wait_for_count(LONG, 3), "{:?}", watcher.nodes());
        let entry = watcher.nodes().into_iter().find(|entry| entry.node == a.address().node).unwrap();
        assert_eq!((entry.cluster.as_str(), entry.label.as_str()), ("lab", "a-1"));
        let to = a.connect(&b.address());
        converse(&a, to, &b, 8);
        let why = a.enter().explain(to).unwrap();
        assert!(why.contains(&format!("node {}", b.address().node)), "{why}");
        assert!(
            why.lines().any(|line| line.starts_with("link tcp ") && line.contains(", TLS 1.3, ")),
            "{why}"
        );
        // The rendez-vous node is nothing that a link needs.
        scene.stop();
        converse(&a, to, &b, 8);
        assert_eq!(a.enter().engine.breaks(to), (0, 0), "no link notices");
        scene.start();
        // On a busy machine b may be back only after a has seen it gone.
        drive(&[&a], "all are back", || a.enter().nodes().unwrap().len() == 3);
        assert!(watcher.wait_for_count(LONG, 3));
        assert_eq!(a.enter().take_node_events(9).unwrap(), []);
        let before = a.enter().watch_nodes().unwrap();
        assert!(before.iter().any(|entry| entry.node == b.address().node));
        let gone = b.address().node;
        drop(b);
        assert!(watcher.wait_for_count(LONG, 2), "who closes leaves: {:?}", watcher.nodes());
        let mut events = Vec::new();
        drive(&[&a], "the event comes", || {
            events.extend(a.enter().take_node_events(1).unwrap());
            // Why is not known to one that was not connected when it went.
            events.iter().any(|event| matches!(event, NodeEvent::Left(node, _) if *node == gone))
        });
        let c = scene.party(ThreadLevel::Serialized, &[TCP]);
        let came =
            |event: &NodeEvent| matches!(event, NodeEvent::Joined(entry) if entry.node == c.address().node);
        drive(&[&a], "the event comes", || a.enter().take_node_events(9).unwrap().iter().any(came));
        assert!(a.enter().watch_nodes().unwrap().iter().any(|entry| entry.node == c.address().node));
    });
}

#[test]
fn links_to_a_node_that_was_revoked_end() {
    within(8 * PATIENCE, || {
        let scene = Scene::new();
        let (a, b) =
            (scene.party(ThreadLevel::Serialized, &[TCP]), scene.party(ThreadLevel::Serialized, &[TCP]));
        let to = a.connect(&b.address());
        converse(&a, to, &b, 2);
        // On its way to its leader, a node is not there for a moment.
        assert!(revoke(&scene.store(), b.address().node).unwrap().is_some());
        let gone = || match a.enter().engine.peer(to).unwrap().2 {
            PeerState::Gone(why) => Some(why.clone()),
            _ => None,
        };
        drive(&[&a, &b], "the link ends", || gone().is_some());
        let why = gone().unwrap();
        assert!(why.error == Error::Permission && why.reason.contains("revoked"), "{why:?}");
    });
}

#[test]
fn what_keeps_a_fabric_from_joining_is_named() {
    let mut scene = Scene::new();
    let refused = |scene: &Scene, options: &[(&str, &str)]| {
        scene.try_party(ThreadLevel::Single, options).map(drop).unwrap_err()
    };
    let why = refused(&scene, &[("GRIDNET_NET_INSECURE", "1")]);
    assert!(why.error == Error::Config && why.reason.contains("exclude each other"), "{why:?}");
    let why = refused(&scene, &[("GRIDNET_SESSION_CLUSTER", "-a")]);
    assert!(why.error == Error::Config && why.reason.contains("GRIDNET_SESSION_CLUSTER: "), "{why:?}");

    let set_mode =
        |mode| std::fs::set_permissions(scene.ticket(), std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let why = refused(&scene, &[]);
    assert!(why.error == Error::Permission && why.reason.contains(&scene.ticket()), "{why:?}");
    set_mode(0o600);

    let good = std::fs::read_to_string(scene.ticket()).unwrap();
    let line = |begin: &str| good.lines().find(|line| line.starts_with(begin)).unwrap();
    let change = |from: &str, to: &str| std::fs::write(scene.ticket(), good.replace(from, to)).unwrap();
    change(line("expires"), "expires = 2020-01-01T00:00:00Z");
    let why = refused(&scene, &[]);
    assert!(why.error == Error::Permission && why.reason.contains("expired at 2020"), "{why:?}");
    change(line("secret"), &format!("secret = \"{}\"", "0".repeat(64)));
    let why = refused(&scene, &[]);
    assert_eq!(why.error, Error::Permission, "{why:?}");
    change(line("version"), "version = 99");
    let why = refused(&scene, &[]);
    assert!(why.error == Error::Config && why.reason.contains("version 99"), "{why:?}");
    change("", "");

    scene.stop();
    let why = refused(&scene, &[("GRIDNET_SESSION_TIMEOUT", "300ms")]);
    assert!(why.error == Error::Unreachable && why.reason.contains("127.0.0.1:"), "{why:?}");
}
