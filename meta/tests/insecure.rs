//! Sessions whose configuration says `insecure = true`: the bootstrap channel is plain TCP, and nothing else is.

mod common;

use common::{calm, until, Scene, DAY, LONG};
use gridnet_meta::error::Error;
use gridnet_meta::member::{About, Member, ECHO};
use gridnet_meta::ticket::Ticket;
use gridnet_meta::Rules;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NONCE: &[u8] = b"nobody reads it!";

/// Somebody on the way to an address, who writes down what passes.
struct OnTheWay {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<u8>>>,
}

impl OnTheWay {
    /// Its threads end with the connections.
    fn to(address: SocketAddr) -> OnTheWay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = OnTheWay { address: listener.local_addr().unwrap(), passed: Arc::default() };
        let passed = way.passed.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(address).unwrap());
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (passed, passed_too) = (passed.clone(), passed.clone());
                std::thread::spawn(move || pass(near, far, &passed));
                std::thread::spawn(move || pass(far_too, near_too, &passed_too));
            }
        });
        way
    }

    fn has_seen(&self, bytes: &[u8]) -> bool {
        self.passed.lock().unwrap().windows(bytes.len()).any(|seen| seen == bytes)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, passed: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        passed.lock().unwrap().extend_from_slice(&buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

fn join(ticket: &Ticket, at: SocketAddr, label: &str) -> Result<Member, Error> {
    let ticket = Ticket { addresses: vec![at.to_string()], ..ticket.clone() };
    let about = About { cluster: Some(label.parse().unwrap()), ..About::new(label.parse().unwrap()) };
    Member::join(ticket, about, LONG)
}

/// How the rendez-vous node says that each link is made.
fn stacks(scene: &Scene) -> Vec<String> {
    scene.rendezvous().status().links.into_iter().map(|link| link.stack).collect()
}

#[test]
fn the_bootstrap_channel_is_plain_and_says_so_and_what_members_say_is_not() {
    let scene = Scene::insecure("plain", calm());
    assert!(scene.ticket.insecure && scene.rendezvous().status().insecure);
    let way = OnTheWay::to(scene.address);
    let [one, two] = ["label-one", "label-two"].map(|label| join(&scene.ticket, way.address, label).unwrap());
    assert!(one.is_insecure());
    assert!(one.wait_for_count(LONG, 2) && two.wait_for_count(LONG, 2));
    assert_eq!(one.ask(two.node(), ECHO, NONCE, LONG).unwrap().body, NONCE);
    assert!(way.has_seen(b"label-one"), "it is plain");
    assert!(!way.has_seen(NONCE), "what members say to one another is sealed by them");
    assert_eq!(stacks(&scene), ["tcp", "tcp"]);
    // With a ticket that does not say so nothing is plain there either.
    let secure = Ticket { insecure: false, ..scene.ticket.clone() };
    let third = join(&secure, way.address, "label-three").unwrap();
    assert!(!third.is_insecure() && third.wait_for_count(LONG, 3));
    let mut stacks = stacks(&scene);
    stacks.sort();
    assert_eq!(stacks, ["tcp", "tcp", "tls/tcp"]);
}

#[test]
fn a_rendezvous_node_that_was_not_told_so_never_answers_plainly() {
    let scene = Scene::new("not-plain");
    let way = OnTheWay::to(scene.address);
    let insecure =
        Ticket { insecure: true, addresses: vec![way.address.to_string()], ..scene.ticket.clone() };
    let about = About::new("x".parse().unwrap());
    let why = Member::join(insecure, about, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(why, Error::Peer(_) | Error::Unreachable(_)), "{why}");
    let is_noted = || {
        let refused = scene.rendezvous().status().refused;
        refused.iter().any(|line| line.refusal == "stranger" && line.why.contains("insecure = true"))
    };
    until("it is audited", is_noted);
    let authority = scene.rendezvous().status();
    assert!(!authority.insecure && authority.nodes.is_empty());
    // It has answered with an alert of TLS (RFC 8446, 6), and shown nothing.
    assert!(!way.has_seen(b"rendezvous.gridnet"));
}

#[test]
fn a_member_whose_ticket_is_secure_never_speaks_plainly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let scene = Scene::insecure("secure-ticket", calm());
    let secure = Ticket { insecure: false, ..scene.ticket.clone() };
    let said = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 3];
        stream.read_exact(&mut first).unwrap();
        first
    });
    let about = About::new("x".parse().unwrap());
    let ticket = Ticket { addresses: vec![at.to_string()], ..secure };
    assert!(Member::join(ticket, about, Duration::from_millis(200)).is_err());
    let first = said.join().unwrap();
    assert_eq!(first[..2], [0x16, 3], "a handshake of TLS");
}

#[test]
fn certificates_are_renewed_over_connections_of_their_own() {
    // Two thirds of it are over in 10 s; then one that lasts is given.
    let rules = Rules { certificate_lifetime: Duration::from_secs(15), ..calm() };
    let mut scene = Scene::insecure("renewed", rules);
    let member = join(&scene.ticket, scene.address, "renews").unwrap();
    let first = member.certified_until();
    scene.rules.certificate_lifetime = DAY;
    scene.stop();
    scene.start();
    until("it is renewed", || member.certified_until() > first.after(DAY / 2));
    until("it stays, by one connection", || stacks(&scene) == ["tcp"]);
    assert_eq!(scene.rendezvous().status().refusals.values().sum::<u64>(), 0);
}
