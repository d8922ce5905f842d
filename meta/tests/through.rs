//! Newcomers that do not reach the rendez-vous node, and join through a leader that was told to pass that on.

mod common;

use common::{free_address, until, Scene, DAY, LONG};
use gridnet_meta::cluster::Will;
use gridnet_meta::error::{Error, Refusal};
use gridnet_meta::member::{About, Keeper, Member, ECHO};
use gridnet_meta::ticket::Ticket;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What leads the cluster, at an address that newcomers are told.
fn leader(scene: &Scene, passes_joins: bool) -> (Member, SocketAddr) {
    let at = free_address();
    let about = About { will: Will::Configured, listen: Some(at), passes_joins, ..about("leader") };
    let leader = Member::join(scene.ticket.clone(), about, LONG).unwrap();
    // It leads from the second member on.
    (leader, at)
}

fn about(label: &str) -> About {
    About { cluster: Some("closed".parse().unwrap()), ..About::new(label.parse().unwrap()) }
}

/// A ticket with which only the leader is reached: nobody listens at port 1.
fn closed(scene: &Scene, leader: SocketAddr) -> Ticket {
    let (addresses, via) = (vec!["127.0.0.1:1".to_owned()], vec![leader.to_string()]);
    Ticket { addresses, via, ..scene.ticket.clone() }
}

/// A leader that leads already: one that reaches the rendez-vous node is below it.
fn with_leader(scene: &Scene, passes_joins: bool) -> (Member, Member, SocketAddr) {
    let (leader, at) = leader(scene, passes_joins);
    let other = Member::join(scene.ticket.clone(), about("other"), LONG).unwrap();
    until("it leads", || other.leader() == Some(leader.node()));
    (leader, other, at)
}

#[test]
fn a_node_that_reaches_only_a_leader_joins_through_it_and_stays_below_it() {
    let mut scene = Scene::new("through");
    let (leader, other, at) = with_leader(&scene, true);
    let member = Member::join(closed(&scene, at), about("inner"), LONG).unwrap();
    until("it is below the leader", || member.leader() == Some(leader.node()));
    assert!(member.wait_for_count(LONG, 3) && other.wait_for_count(LONG, 3));
    assert_eq!(other.ask(member.node(), ECHO, b"in there?", LONG).unwrap().body, b"in there?");
    // Its connection through the leader has ended: two links are below the leader.
    until("one link", || scene.rendezvous().status().links.len() == 1);
    // It is the rendez-vous node that it has joined at: who has another authority's ticket is not taken in by the leader.
    let misled = Ticket { authority: Scene::new("through-other").ticket.authority, ..closed(&scene, at) };
    let why = Member::join(misled, about("misled"), Duration::from_millis(200)).unwrap_err();
    assert!(matches!(&why, Error::Peer(why) if why.contains("through 127.0.0.1")), "{why}");
    // When the rendez-vous node is away nobody joins, and the leader says why.
    scene.stop();
    assert!(Member::join(closed(&scene, at), about("late"), Duration::from_millis(200)).is_err());
    until("it is noted", || leader.refused().iter().any(|line| line.refusal == Refusal::NoRoute.name()));
}

#[test]
fn a_node_below_a_leader_is_renewed_through_it_and_goes_on_through_it() {
    let mut scene = Scene::new("through-renewed");
    let (leader, _other, at) = with_leader(&scene, true);
    scene.rules.certificate_lifetime = Duration::from_secs(15);
    scene.stop();
    scene.start();
    let dir = std::env::temp_dir().join(format!("gridnet-through-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let mut keeper = Keeper::lock(&dir).unwrap();
    let member = keeper.join(closed(&scene, at), about("inner"), LONG).unwrap();
    until("it is below the leader", || member.leader() == Some(leader.node()));
    let (node, first) = (member.node(), member.certified_until());
    scene.rules.certificate_lifetime = DAY;
    scene.stop();
    scene.start();
    until("it is renewed", || member.certified_until() > first.after(DAY / 2));
    until("it is below the leader again", || member.leader() == Some(leader.node()));
    // One that is started again is the same node, by the same way.
    keeper.look(&member).unwrap();
    drop(member);
    let again = keeper.join(closed(&scene, at), about("inner"), LONG).unwrap();
    assert_eq!(again.node(), node);
    drop((again, keeper));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_leader_that_was_not_told_so_passes_nothing_on_and_one_that_was_no_nonsense() {
    let scene = Scene::new("through-not");
    let (leader, _other, at) = with_leader(&scene, false);
    let why = Member::join(closed(&scene, at), about("inner"), Duration::from_millis(200)).unwrap_err();
    assert!(matches!(why, Error::Peer(_) | Error::Unreachable(_)), "{why}");
    until("it is noted", || leader.refused().iter().any(|line| line.refusal == Refusal::Stranger.name()));
    drop((leader, _other));
    let scene = Scene::new("through-nonsense");
    let (leader, _other, at) = with_leader(&scene, true);
    let joined = scene.rendezvous().status().links.len();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[2, 0, 0, 0, 0x1a, 0x80], &[2, 0, 0, 0, 0x19, 0x80]] {
        let mut stranger = TcpStream::connect(at).unwrap();
        stranger.write_all(nonsense).unwrap();
        stranger.write_all(b"hello, is there anybody in there?").unwrap();
        stranger.set_read_timeout(Some(LONG)).unwrap();
        let mut said = Vec::new();
        let _ = stranger.read_to_end(&mut said);
        // What is passed on is nonsense to the rendez-vous node, which answers with an alert of TLS.
        assert!(said.is_empty() || said.starts_with(&[0x15, 3]), "{said:?}");
    }
    assert!(leader.refused().iter().filter(|line| line.refusal == Refusal::Stranger.name()).count() >= 2);
    assert_eq!(scene.rendezvous().status().links.len(), joined);
}
