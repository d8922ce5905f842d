//! Lines between members of several hosts: who calls where only one side lets others in, lines that fall silent, and a rendez-vous node
//! that is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gridnet_meta::directory::Entry;
use gridnet_meta::member::{About, LineState, Member, MetaAt, ECHO};
use gridnet_meta::ticket::Ticket;
use gridnet_testbed::{lab_test, Host, HostSpec, Impairment, Site, SiteKind, Topology};

use crate::hosts::{open_lab, PATIENCE};
use crate::members::Session;
use crate::sealed::{shows, Capture, NONCE};

const SERVICE: u16 = 1000;
/// The most that a request may take.
const LONGEST: Duration = Duration::from_secs(60);

/// One in a cluster of its own.
fn join(session: &Session, host: Host<'_>, label: &str) -> Member {
    join_as(
        session,
        host,
        About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) },
    )
}

fn join_as(session: &Session, host: Host<'_>, about: About) -> Member {
    let ticket = Ticket::read(session.ticket().as_ref()).unwrap();
    host.run(|| Member::join(ticket, about, PATIENCE).unwrap()).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn ask(from: &Member, to: &Member) -> usize {
    let answer = from.ask(to.node(), ECHO, b"x", LONGEST).unwrap();
    assert_eq!(answer.body, b"x");
    answer.trail.nodes().len()
}

/// Whether the first has called for the line that both have.
fn up(from: &Member, to: &Member) -> Option<bool> {
    match (from.line(to.node()), to.line(from.node())) {
        (LineState::Up { has_called, .. }, LineState::Up { .. }) => Some(has_called),
        _ => None,
    }
}

/// Asks until a line stands; whether who asks has called.
fn warm(from: &Member, to: &Member) -> bool {
    until("a line stands", || {
        ask(from, to);
        up(from, to).is_some()
    });
    up(from, to).unwrap()
}

/// Nothing goes over the line any more, in either direction; what is asked meanwhile is done once.
fn falls_silent(from: &Member, to: &Member, host: Host<'_>) {
    let state = from.line(to.node());
    let LineState::Up { at: MetaAt::Address(at), has_called: true, .. } = state else { panic!("{state}") };
    let (open, gate) = channel::<()>();
    let (gate, done) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let count = done.clone();
    to.serve(SERVICE, move |_, body| {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = gate.lock().unwrap().recv();
        Ok(body.to_vec())
    });
    let nft = |line: String| {
        let nft = host.command("nft").args([line]);
        nft.output(PATIENCE).unwrap().success().unwrap();
    };
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| from.ask(to.node(), SERVICE, b"once", LONGEST));
        until("it is being done", || done.load(Ordering::Relaxed) == 1);
        nft("add table inet silent".to_owned());
        for (name, hook, end) in [("i", "input", "dport"), ("o", "output", "sport")] {
            nft(format!("add chain inet silent {name} {{ type filter hook {hook} priority 0; }}"));
            nft(format!("add rule inet silent {name} tcp {end} {} drop", at.port()));
        }
        drop(open);
        assert_eq!(waits.join().unwrap().unwrap().body, b"once");
    });
    assert_eq!(done.load(Ordering::Relaxed), 1);
    nft("delete table inet silent".to_owned());
}

/// Those of some members that are below a leader, once each host has one.
fn below(members: &[Member], hosts: usize) -> Vec<&Member> {
    let is_led = |entries: &[Entry]| {
        entries.iter().filter(|entry| entry.leads).count() == hosts
            && entries.iter().all(|entry| entry.leads != entry.via.is_some())
    };
    members
        .iter()
        .for_each(|member| assert!(member.wait_for_nodes(PATIENCE, is_led), "{:?}", member.nodes()));
    let below: Vec<&Member> = members.iter().filter(|member| member.leads_at().is_none()).collect();
    until("they are below it", || below.iter().all(|member| member.leader().is_some()));
    below
}

lab_test! {
    fn processes_below_leaders_reach_each_other_by_the_addresses_of_their_hosts() {
        let public = |name: &str| HostSpec::new(name).public(Impairment::default());
        let Some(lab) = open_lab(Topology::new().host(public("p")).host(public("b")).host(public("c"))) else { return };
        let [p, b, c] = ["p", "b", "c"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let _serving = session.serve(p);
        // Each in the cluster of its host, whose leader listens at 127.0.0.1.
        let join = |host| join_as(&session, host, About::new("one".parse().unwrap()));
        let members = [b, b, b, c, c].map(join);
        let below = below(&members, 2);
        let [one, other, apart] = below[..] else { panic!("two of three, one of two") };
        assert_eq!(ask(one, apart), 3, "leader, rendez-vous node, leader");
        assert_eq!(ask(one, other), 1, "leader");
        let place = |to: &Member| {
            assert!(warm(one, to), "both let others in");
            let LineState::Up { at, .. } = one.line(to.node()) else { panic!("it stands") };
            at
        };
        let MetaAt::Address(at) = place(apart) else { panic!("it is of another host") };
        assert_eq!(at.ip(), c.address().unwrap());
        // What is said over it is for the two only.
        let tap = Capture::start(c);
        let answer = one.ask(apart.node(), ECHO, &NONCE.repeat(100), LONGEST).unwrap();
        assert_eq!((answer.body, answer.trail.nodes().len()), (NONCE.repeat(100), 0));
        let passed = tap.stop();
        assert!(passed.len() > 2 * 100 * NONCE.len() && !shows(&passed, NONCE), "{}", passed.len());
        let leader = members.iter().find(|member| Some(member.node()) == one.leader()).unwrap();
        for beside in [other, leader] {
            assert_eq!(place(beside), MetaAt::Process(std::process::id()), "within a host without TLS");
        }
    }

    fn lines_lead_where_one_side_lets_others_in_and_need_nobody_then() {
        let near = || Impairment::default().delay(Duration::from_millis(2));
        let site = |name: &str, kind| Site::new(name, kind).uplink(near());
        let topology = Topology::new()
            .host(HostSpec::new("p").public(near()))
            .host(HostSpec::new("b").public(near()))
            .site(site("m", SiteKind::Masquerading))
            .site(site("f", SiteKind::Firewalled).reject());
        let Some(lab) = open_lab(topology) else { return };
        let [p, b, m, f] = ["p", "b", "m1", "f1"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let serving = session.serve(p);
        let [public, masked, walled] =
            [(b, "public"), (m, "masked"), (f, "walled")].map(|(host, label)| join(&session, host, label));
        for member in [&public, &masked, &walled] {
            assert!(member.wait_for_count(PATIENCE, 3));
        }
        assert_eq!(ask(&masked, &public), 1, "the first by the rendez-vous node");
        assert!(warm(&masked, &public), "it calls the one that lets others in");
        assert!(!warm(&public, &walled), "it is called by the one that lets nobody in");
        // Between the two that let nobody in requests stay where they are.
        assert_eq!((ask(&masked, &walled), ask(&walled, &masked)), (1, 1));
        for _ in 0..20 {
            assert_eq!((ask(&masked, &public), ask(&public, &masked), ask(&walled, &public)), (0, 0, 0));
        }
        assert!(up(&masked, &walled).is_none());
        falls_silent(&masked, &public, b);
        drop(serving);
        assert_eq!((ask(&public, &walled), ask(&walled, &public)), (0, 0), "the rendez-vous node is gone");
        assert!(masked.ask(walled.node(), ECHO, b"x", Duration::from_millis(500)).is_err(), "there is no other way");
    }
}
