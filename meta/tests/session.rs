//! Whole sessions on one host: rendez-vous node and members, over real sockets.

mod common;

use common::{calm, ids, join, until, Scene, DAY, LONG};
use gridnet_core::wire::NodeId;
use gridnet_meta::clock::Moment;
use gridnet_meta::directory::{Departure, Event};
use gridnet_meta::driver::Driver;
use gridnet_meta::error::{Error, Refusal};
use gridnet_meta::member::{About, Connection, Member};
use gridnet_meta::rendezvous::{ask_status, end_ticket, new_ticket, revoke, Rendezvous};
use gridnet_meta::store::{NewTicket, Store};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn all_know_all_within_a_moment_and_see_who_goes() {
    let scene = Scene::new("all");
    // Nobody has a leader: who moves to one is away for a moment.
    let mut members: Vec<Member> = (0..8).map(|i| scene.join_alone(&format!("m{i}")).unwrap()).collect();
    let all: BTreeSet<NodeId> = members.iter().map(Member::node).collect();
    assert_eq!(all.len(), 8);
    for member in &members {
        assert!(member.wait_for_nodes(LONG, |nodes| nodes.len() == 8));
        assert_eq!(ids(member), all);
        assert!(member.wait_for_connection(LONG, |connection| *connection == Connection::Attached));
    }
    members.iter().for_each(|member| drop(member.watch_nodes()));
    let gone = members.pop().unwrap();
    let node = gone.node();
    drop(gone);
    for member in &members {
        assert!(member.wait_for_nodes(LONG, |nodes| nodes.len() == 7));
        let (events, missed) = member.take_events();
        assert!(!missed && events.last() == Some(&Event::Left(node, Departure::Left)), "{events:?}");
    }
    let status = ask_status(&scene.dir).unwrap();
    assert_eq!((status.nodes.len(), status.joined, status.refused.len()), (7, 8, 0));
}

/// 40 times, with `TEST_SOAK=1` a thousand.
#[test]
fn who_is_started_again_is_another_node_each_time() {
    let count = if std::env::var_os("TEST_SOAK").is_some() { 1000 } else { 40 };
    let scene = Scene::new("again");
    let driver = Driver::start().unwrap();
    let join = || {
        let about = About::new("again".parse().unwrap());
        Member::join_by(&driver, scene.ticket.clone(), about, LONG).unwrap().node()
    };
    let nodes: BTreeSet<NodeId> = (0..count).map(|_| join()).collect();
    assert_eq!(nodes.len(), count);
    until("all have left", || scene.rendezvous().status().nodes.is_empty());
}

#[test]
fn members_come_back_after_the_rendezvous_was_away_and_nobody_seems_to_go() {
    let mut scene = Scene::new("restart");
    let members: Vec<Member> = (0..4).map(|i| scene.join(&format!("m{i}")).unwrap()).collect();
    let all: BTreeSet<NodeId> = members.iter().map(Member::node).collect();
    members.iter().for_each(|member| assert!(member.wait_for_nodes(LONG, |nodes| nodes.len() == 4)));
    members.iter().for_each(|member| drop(member.watch_nodes()));
    scene.stop();
    for member in &members {
        assert!(member.wait_for_connection(LONG, |connection| matches!(connection, Connection::Lost(..))));
        assert_eq!(ids(member), all, "what was known stays");
    }
    scene.start();
    // One that comes after the start is seen by those that were there before.
    let late = scene.join("late").unwrap();
    for member in &members {
        assert!(member.wait_for_nodes(LONG, |nodes| nodes.iter().any(|entry| entry.node == late.node())));
        assert_eq!(ids(member).len(), 5);
        let (events, _) = member.take_events();
        assert!(events.iter().all(|event| matches!(event, Event::Joined(_))), "nobody went: {events:?}");
    }
    assert!(late.wait_for_nodes(LONG, |nodes| nodes.len() == 5));
}

#[test]
fn a_member_that_says_no_more_is_lost() {
    let scene = Scene::with("lost", Rules { silence: Duration::from_secs(3), ..calm() }, None);
    let stays = scene.join("stays").unwrap();
    stays.watch_nodes();
    // Another process joins and is stopped: its connection stays, and nothing comes over it.
    let stopped = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_stops"])
        .env("SESSION_TEST_TICKET", scene.dir.join("ticket"))
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut stopped = Kill(stopped.unwrap());
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.len() == 2));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stopped.0.id() as i32), nix::sys::signal::SIGSTOP)
        .unwrap();
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.len() == 1));
    let (events, _) = stays.take_events();
    assert!(matches!(events.last(), Some(Event::Left(_, Departure::Lost))), "{events:?}");
    // When it goes on, it comes back by itself, as the node that it was.
    let Some(Event::Left(node, _)) = events.last() else { panic!() };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stopped.0.id() as i32), nix::sys::signal::SIGCONT)
        .unwrap();
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.iter().any(|entry| entry.node == *node)));
    stopped.0.kill().unwrap();
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.len() == 1));
}

struct Kill(std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "run by a_member_that_says_no_more_is_lost, as a process of its own"]
fn child_that_stops() {
    let Some(path) = std::env::var_os("SESSION_TEST_TICKET") else { return };
    let member = join(&Ticket::read(path.as_ref()).unwrap(), "child").unwrap();
    member.wait_for_nodes(Duration::from_secs(300), <[_]>::is_empty);
}

#[test]
fn intruders_are_refused_and_audited() {
    let scene = Scene::with("intruders", calm(), Some(2));
    let other = Scene::new("other");
    // Another secret.
    let wrong = Ticket { secret: other.ticket.secret.clone(), ..scene.ticket.clone() };
    assert!(matches!(join(&wrong, "x"), Err(Error::Refused(Refusal::Secret, _))));
    // Another ticket id.
    let unknown = Ticket { id: other.ticket.id, ..scene.ticket.clone() };
    assert!(matches!(join(&unknown, "x"), Err(Error::Refused(Refusal::Ticket, _))));
    // Another rendez-vous node behind the address: the member says no before it proves anything.
    let misled = Ticket { addresses: other.ticket.addresses.clone(), ..scene.ticket.clone() };
    let error = join(&misled, "x").unwrap_err();
    assert!(matches!(&error, Error::Peer(text) if text.contains("another session")), "{error}");
    // Used up.
    let members = [scene.join("one").unwrap(), scene.join("two").unwrap()];
    assert!(matches!(scene.join("three"), Err(Error::Refused(Refusal::UsedUp, _))));
    assert_eq!(members.len(), 2);
    let status = scene.rendezvous().status();
    let count = |name: &str| status.refusals.get(name).copied().unwrap_or(0);
    assert_eq!((count("secret"), count("ticket"), count("used_up")), (1, 1, 1), "{:?}", status.refusals);
    let of_tickets = status.refused.iter().filter(|line| line.refusal != "stranger");
    assert_eq!(of_tickets.filter(|line| line.who.starts_with("127.0.0.1:")).count(), 3);
    let deadline = Instant::now() + LONG;
    while other.rendezvous().status().refusals.get("stranger") != Some(&1) {
        assert!(
            Instant::now() < deadline,
            "the other rendez-vous node has been called by mistake, and says so"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_used_up_ticket_stays_so_when_the_rendezvous_is_started_again() {
    let mut scene = Scene::with("used", calm(), Some(1));
    let member = scene.join("one").unwrap();
    scene.stop();
    scene.start();
    assert!(matches!(scene.join("two"), Err(Error::Refused(Refusal::UsedUp, _))));
    assert!(member.wait_for_connection(LONG, |connection| *connection == Connection::Attached));
}

#[test]
fn an_expired_ticket_is_refused_by_both_sides() {
    let scene = Scene::new("expired");
    let expired = Ticket { expires: Moment::now().before(DAY), ..scene.ticket.clone() };
    assert!(matches!(join(&expired, "x"), Err(Error::Refused(Refusal::Expired, _))));
    // One that claims to be valid for longer than the rendez-vous node knows.
    let store = Store::open(&scene.dir).unwrap();
    let short = NewTicket { lifetime: Duration::from_secs(1), uses: None };
    let made = store.new_ticket(&store.authority().unwrap(), short, Moment::now().before(DAY)).unwrap();
    let mut scene = scene;
    scene.stop();
    scene.start();
    let forged = Ticket { expires: Moment::now().after(DAY), ..made };
    assert!(matches!(join(&forged, "x"), Err(Error::Refused(Refusal::Expired, _))));
    // Who had called, what it was refused for, and why.
    let status = scene.rendezvous().status();
    assert_eq!(status.refusals.get("expired"), Some(&1), "{:?}", status.refusals);
    let line = status.refused.iter().find(|line| line.refusal == "expired").unwrap();
    assert!(line.who.starts_with("127.0.0.1:") && line.why.starts_with("the ticket expired at "), "{line:?}");
}

#[test]
fn tickets_are_made_while_the_session_is_served_and_while_not() {
    let mut scene = Scene::with("tickets", calm(), Some(1));
    let store = Store::open(&scene.dir).unwrap();
    let once = NewTicket { lifetime: DAY, uses: Some(1) };
    let _member = scene.join("first").unwrap();
    let (served, unserved) = (scene.dir.join("served"), scene.dir.join("unserved"));
    new_ticket(&store, &served, once).unwrap();
    let made = Ticket::read(&served).unwrap();
    join(&made, "second").unwrap();
    assert!(matches!(join(&made, "third"), Err(Error::Refused(Refusal::UsedUp, _))));
    assert!(matches!(scene.join("fourth"), Err(Error::Refused(Refusal::UsedUp, _))), "that is kept, too");
    assert!(new_ticket(&store, &served, once).unwrap_err().to_string().contains("there is such a file"));
    scene.stop();
    new_ticket(&store, &unserved, once).unwrap();
    scene.start();
    let unserved = Ticket::read(&unserved).unwrap();
    join(&unserved, "fifth").unwrap();
    // A ticket that is ended is none any more, and the one it was made beside stays.
    let another = scene.dir.join("another");
    new_ticket(&store, &another, once).unwrap();
    end_ticket(&store, Ticket::read(&another).unwrap().id).unwrap();
    assert!(matches!(join(&Ticket::read(&another).unwrap(), "x"), Err(Error::Refused(Refusal::Ticket, _))));
    assert!(matches!(join(&unserved, "x"), Err(Error::Refused(Refusal::UsedUp, _))));
    assert!(end_ticket(&store, scene.ticket.session).unwrap_err().to_string().contains("there is no ticket"));
}

#[test]
fn a_revoked_node_is_out_at_once_and_for_good() {
    let mut scene = Scene::new("revoked");
    let (stays, goes) = (scene.join("stays").unwrap(), scene.join("goes").unwrap());
    stays.watch_nodes();
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.len() == 2));
    let store = Store::open(&scene.dir).unwrap();
    assert_eq!(revoke(&store, goes.node()).unwrap(), Some(true));
    assert!(stays.wait_for_nodes(LONG, |nodes| nodes.len() == 1));
    assert!(stays.take_events().0.contains(&Event::Left(goes.node(), Departure::Revoked)));
    let is_refused = |connection: &Connection| {
        matches!(connection, Connection::Refused(Error::Refused(Refusal::Revoked, _)))
    };
    assert!(goes.wait_for_connection(LONG, is_refused));
    // One that comes later knows it, too; also when nobody serves the session any more.
    let late = scene.join("late").unwrap();
    let knows = |member: &Member, node: NodeId| until("it is revoked", || member.is_revoked(node));
    knows(&stays, goes.node());
    knows(&late, goes.node());
    scene.stop();
    assert!(late.is_revoked(goes.node()) && !late.is_revoked(stays.node()));
    // Also when nobody serves the session while it is said, and after a new start.
    assert_eq!(revoke(&store, stays.node()).unwrap(), None);
    scene.start();
    assert!(stays.wait_for_connection(LONG, is_refused));
    knows(&late, stays.node());
    knows(&late, goes.node());
    assert_eq!(scene.rendezvous().status().revoked.len(), 2);
}

#[test]
fn certificates_are_renewed_before_they_end() {
    let rules = Rules { certificate_lifetime: Duration::from_secs(15), ..calm() };
    let mut scene = Scene::with("renewed", rules, None);
    let member = scene.join("m").unwrap();
    let (node, first) = (member.node(), member.certified_until());
    // From now on certificates are for a day.
    scene.stop();
    scene.rules.certificate_lifetime = DAY;
    scene.start();
    let deadline = Instant::now() + LONG;
    while member.certified_until() < first.after(DAY / 2) {
        assert!(Instant::now() < deadline, "not renewed");
        std::thread::yield_now();
    }
    assert_eq!(member.node(), node);
    // The new one is what it comes back with.
    scene.stop();
    assert!(member.wait_for_connection(LONG, |connection| matches!(connection, Connection::Lost(..))));
    scene.start();
    assert!(member.wait_for_connection(LONG, |connection| *connection == Connection::Attached));
}

#[test]
fn strangers_say_nothing_that_is_heard() {
    let scene = Scene::new("strangers");
    let member = scene.join("m").unwrap();
    // A plain one, one that says nonsense, one that goes, one that is silent.
    for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1], &[]] {
        let mut stream = TcpStream::connect(scene.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // At most an alert of TLS: type 21.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    let mut silent = TcpStream::connect(scene.address).unwrap();
    silent.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "who says nothing is dropped");
    assert_eq!(member.connection(), Connection::Attached);
    let deadline = Instant::now() + LONG;
    let refused = || scene.rendezvous().status().refused;
    while refused().iter().filter(|line| line.refusal == "stranger").count() < 4 {
        assert!(Instant::now() < deadline, "{:?}", refused());
        std::thread::yield_now();
    }
}

#[test]
fn one_process_serves_a_session_and_leaves_nothing_behind() {
    let mut scene = Scene::new("one");
    let second = Rendezvous::start(Store::open(&scene.dir).unwrap(), scene.rules).unwrap_err().to_string();
    assert!(second.contains("another process serves the session"), "{second}");
    scene.join("still-served").unwrap();
    scene.stop();
    assert!(!scene.dir.join("control.sock").exists());
    assert!(matches!(ask_status(&scene.dir), Err(Error::Unreachable(_))));
    let about = About::new("x".parse().unwrap());
    let refused = Member::join(scene.ticket.clone(), about, Duration::from_secs(2)).unwrap_err();
    assert!(
        matches!(&refused, Error::Unreachable(text) if text.contains(&scene.address.to_string())),
        "{refused}"
    );
}
