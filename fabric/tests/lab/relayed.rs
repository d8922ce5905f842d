//! Two sites that let nothing in: the fabrics of both reach the rendez-vous node, and each other through it, until one site opens.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gridnet::core::rail::PeerId;
use gridnet::core::testing::random::Random;
use gridnet::{Listener, Stream};
use gridnet_meta::cluster::Will;
use gridnet_meta::member::{About, Member};
use gridnet_meta::ticket::Ticket;
use gridnet_testbed::{lab_test, HostSpec, Impairment, Site, SiteKind, Topology};
use sha2::{Digest, Sha256};

use crate::common::{Party, Scratch};
use crate::cuts::Said;
use crate::hosts::{open_lab, PATIENCE};
use crate::members::{echo, find, join_with, open, talk, Session, TICKET};

const LONG: Option<Duration> = Some(PATIENCE);
const SERVICE: &str = "sink";
/// Messages over a rail after the first.
const MORE: usize = 10;
const HASH_BYTES: usize = 32;
/// So much goes before the site opens, and after the endpoint has moved: more than a pipe and all sockets hold.
const ENOUGH: usize = 1 << 20;

#[test]
#[ignore = "a part that the tests start"]
fn sinks() {
    let Ok(ticket) = std::env::var(TICKET) else { return };
    let scratch = Scratch::new();
    std::fs::create_dir_all(&scratch.0).unwrap();
    let party = join_with(&scratch.0, &ticket, "b", &[("GRIDNET_PROGRESS", "thread")]);
    let listener = Listener::open(&party.shared, SERVICE, 4).unwrap();
    let stream = listener.accept(LONG).unwrap();
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; 100_000]);
    loop {
        match stream.read(&mut bytes, LONG).unwrap() {
            0 => break,
            len => hash.update(&bytes[..len]),
        }
    }
    assert_eq!(stream.write(&hash.finalize(), LONG), Ok(HASH_BYTES));
    stream.shut_down().unwrap();
    // Until the other side has it, and ends.
    assert_eq!(stream.read(&mut bytes, LONG), Ok(0));
}

fn read_hash(stream: &Stream) -> [u8; HASH_BYTES] {
    let (mut hash, mut done) = ([0; HASH_BYTES], 0);
    while done < HASH_BYTES {
        let len = stream.read(&mut hash[done..], LONG).unwrap();
        assert!(len > 0, "the stream ends after {done} bytes of the hash");
        done += len;
    }
    hash
}

/// Messages back as they come, until nobody sends any more.
#[test]
#[ignore = "a part that the tests start"]
fn echoes() {
    let Ok(ticket) = std::env::var(TICKET) else { return };
    let scratch = Scratch::new();
    std::fs::create_dir_all(&scratch.0).unwrap();
    echo(&join_with(&scratch.0, &ticket, "b", &[]));
}

/// Talks until the rail is this one, and some more; how many messages have gone.
fn talk_until(party: &Party, to: PeerId, rail: &str, number: &mut usize) {
    let start = Instant::now();
    let mut left = MORE;
    while left > 0 {
        talk(party, to, *number);
        *number += 1;
        left -= usize::from(party.enter().engine.rail_name(to) == Some(rail));
        assert!(start.elapsed() < PATIENCE, "not over {rail}: {}", party.enter().explain(to).unwrap());
    }
}

/// What drops packets from and to an address.
fn drop_rules(address: &IpAddr) -> String {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    ["saddr", "daddr"].map(|end| format!("; nft add rule inet cut f {family} {end} {address} drop")).concat()
}

lab_test! {
    fn what_only_the_tree_connects_talks_through_it_and_moves_when_the_way_opens() {
        let far = || Impairment::default().delay(Duration::from_millis(2));
        let site = |name: &str| Site::new(name, SiteKind::Firewalled).reject().uplink(far());
        let topology = Topology::new().site(site("a")).site(site("b")).host(HostSpec::new("p").public(far()));
        let Some(lab) = open_lab(topology) else { return };
        let [p, a, b, gate] = ["p", "a1", "b1", "gw-b"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let ticket = session.dir().join("ticket").to_str().unwrap().to_owned();
        let serving = session.serve(p);
        let sink = b.test("relayed::sinks").unwrap().env(TICKET, &ticket).spawn().unwrap();
        let sent = AtomicUsize::new(0);
        let transfer = || {
            let _said = Said(&sink);
            let party = join_with(&session.scratch.0, &ticket, "a", &[]);
            let to = open(&party, find(&party, "b"));
            let explain = || party.enter().explain(to).unwrap();
            let why = explain();
            assert!(why.contains("stack tls/relay: encrypted, agreed on for service gridnet"), "{why}");
            assert!(why.contains("shm not tried: they are not known to be on one host"), "{why}");
            assert!(why.lines().any(|line| line.starts_with("tls/tcp: ")), "{why}");
            assert!(why.lines().any(|line| line.starts_with("link relay ")), "{why}");
            let stream = Stream::connect(&party.shared, to, SERVICE, LONG).unwrap();
            let (mut hash, mut random) = (Sha256::new(), Random::new(7));
            let (mut moved_at, start) = (None, Instant::now());
            while moved_at.is_none_or(|at| sent.load(Ordering::Relaxed) < at + ENOUGH) {
                let len = 1 + random.below(60_000) as usize;
                let bytes = random.bytes(len);
                assert_eq!(stream.write(&bytes, LONG), Ok(len), "{}", explain());
                hash.update(&bytes);
                let all = sent.fetch_add(len, Ordering::Relaxed) + len;
                if moved_at.is_none() && party.enter().engine.rail_name(to) == Some("tcp") {
                    moved_at = Some(all);
                }
                assert!(start.elapsed() < PATIENCE, "{}", explain());
            }
            stream.shut_down().unwrap();
            assert_eq!(read_hash(&stream)[..], hash.finalize()[..], "{}", explain());
            // What was agreed on is said when the move is complete, and the pipe is closed.
            let is_said = |why: &str| {
                why.contains("stack tls/tcp: encrypted, agreed on for service gridnet")
                    && !why.lines().any(|line| line.starts_with("link relay "))
            };
            while !is_said(&explain()) {
                assert!(start.elapsed() < PATIENCE, "{}", explain());
                let _ = party.wait(Duration::from_millis(5));
            }
            drop(stream);
        };
        std::thread::scope(|scope| {
            let talker = scope.spawn(|| a.run(transfer).unwrap());
            let start = Instant::now();
            while sent.load(Ordering::Relaxed) < ENOUGH && !talker.is_finished() {
                assert!(start.elapsed() < PATIENCE);
                std::thread::park_timeout(Duration::from_millis(2));
            }
            gate.shell("nft delete table inet site").output(PATIENCE).unwrap().success().unwrap();
            talker.join().unwrap();
        });
        sink.wait(PATIENCE).unwrap().success().unwrap();
        drop(serving);
    }

    /// A fabric on a host without a route out: it joins through a leader that is on both networks, and is reached through it.
    fn a_site_without_a_way_out_is_reached_through_its_leader() {
        let topology = Topology::new()
            .host(HostSpec::new("p").public(Impairment::default()))
            .site(Site::new("b", SiteKind::NoWayOut).hosts(1));
        let Some(lab) = open_lab(topology) else { return };
        let [p, b, gate] = ["p", "b1", "gw-b"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let serving = session.serve(p);
        let inner = gate.addresses().into_iter().find(|at| at.to_string().starts_with("10.")).unwrap();
        let at = (inner, 7412).into();
        let ticket = Ticket::read(session.ticket().as_ref()).unwrap();
        let member = |label: &str, about: About| {
            let about = About { cluster: Some("b".parse().unwrap()), label: label.parse().unwrap(), ..about };
            gate.run(|| Member::join(ticket.clone(), about, PATIENCE).unwrap()).unwrap()
        };
        let about = || About::new("any".parse().unwrap());
        let leads = About { will: Will::Configured, listen: Some(at), passes_joins: true, ..about() };
        let (leader, below) = (member("leads", leads), member("below", about()));
        let start = Instant::now();
        while leader.leads_at().is_none() {
            assert!(start.elapsed() < PATIENCE);
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let closed = session.dir().with_file_name("closed-ticket");
        Ticket { via: vec![at.to_string()], ..ticket.clone() }.write(&closed).unwrap();
        let echo = b.test("relayed::echoes").unwrap().env(TICKET, closed.to_str().unwrap()).spawn().unwrap();
        let talks = || {
            let _said = Said(&echo);
            let party = join_with(&session.scratch.0, &session.ticket(), "a", &[]);
            let to = open(&party, find(&party, "b"));
            let why = party.enter().explain(to).unwrap();
            assert!(why.contains("stack tls/relay: encrypted, agreed on for service gridnet"), "{why}");
            assert!(why.lines().any(|line| line.starts_with("link relay ")), "{why}");
            (0..MORE).for_each(|number| talk(&party, to, number));
        };
        let talked = p.run(talks);
        drop(echo.kill());
        talked.unwrap();
        drop((leader, below, serving));
    }

    /// The direct way falls silent after the endpoint has moved there, and comes back.
    fn a_pipe_carries_on_where_the_direct_way_falls_silent() {
        if std::env::var_os("TEST_SOAK").is_none() {
            return println!("SKIPPED a direct way that falls silent and comes back: it takes 20 s (TEST_SOAK=1)");
        }
        let far = || Impairment::default().delay(Duration::from_millis(2));
        let site = |name: &str| Site::new(name, SiteKind::Firewalled).reject().uplink(far());
        let topology = Topology::new().site(site("a")).site(site("b")).host(HostSpec::new("p").public(far()));
        let Some(lab) = open_lab(topology) else { return };
        let [p, a, b, gate] = ["p", "a1", "b1", "gw-b"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let ticket = session.dir().join("ticket").to_str().unwrap().to_owned();
        let serving = session.serve(p);
        let echo = b.test("relayed::echoes").unwrap().env(TICKET, &ticket).spawn().unwrap();
        let at_gate = |line: &str| drop(gate.shell(line).output(PATIENCE).unwrap().success().unwrap());
        let dropped = a.addresses().iter().map(drop_rules).collect::<Vec<_>>().concat();
        let chain = "nft add table inet cut; nft add chain inet cut f '{ type filter hook forward priority 0; }'";
        let silence = format!("{chain}{dropped}");
        let talks = || {
            let _said = Said(&echo);
            let party = join_with(&session.scratch.0, &ticket, "a", &[]);
            let to = open(&party, find(&party, "b"));
            let mut number = 0;
            talk_until(&party, to, "relay", &mut number);
            at_gate("nft delete table inet site");
            talk_until(&party, to, "tcp", &mut number);
            at_gate(&silence);
            talk_until(&party, to, "relay", &mut number);
            at_gate("nft delete table inet cut");
            talk_until(&party, to, "tcp", &mut number);
        };
        let talked = a.run(talks);
        drop(echo.kill());
        talked.unwrap();
        drop(serving);
    }
}
