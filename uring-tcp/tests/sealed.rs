//! A rail in a session: who is no member is refused, that is noted, and nothing is said before TLS knows who is there.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::certificates::{name, Authority};
use common::{check_friend, drive_until_hung_up, is_hung_up, key, Members, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, NetAddresses};
use gridnet_uring_tcp::{Engine, Security};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

#[test]
fn nonsense_is_refused_and_noted_and_disturbs_nobody() {
    let mut scene = Scene::new(1);
    let mut random = Random::new(5);
    for round in 0..100 {
        let len = random.pick(&[6, 40, 200, 1025, 5000, 70_000]);
        let mut bytes = random.bytes(len);
        match round % 3 {
            // A record of TLS of any kind and length, and a greeting that is not sealed.
            0 => drop(bytes.splice(0..5, [0x14 + (round % 5) as u8, 3, 3, 0, len as u8])),
            1 => drop(bytes.splice(0..3, [len as u8, 0, b'H'])),
            _ => {}
        }
        let mut stranger = scene.call();
        let _ = stranger.write_all(&bytes);
        let _ = stranger.shutdown(std::net::Shutdown::Write);
        let said = scene.drive_until_hung_up(&mut stranger);
        assert!(said.is_empty() || said[0] == 0x15, "something else than an alert was said: {said:?}");
    }
    assert!(scene.refused().len() >= 50, "{:?}", scene.refused().len());
    scene.check_friend();
}

#[test]
fn who_does_not_finish_the_handshake_has_to_go() {
    let mut scene = Scene::new(100);
    let mut slow = scene.call();
    let hello = first_words(&scene.configs().client);
    for byte in &hello[..20] {
        slow.write_all(&[*byte]).unwrap();
        scene.pair.run_steps(20);
    }
    let mut crowd: Vec<TcpStream> = (0..10).map(|_| scene.call()).collect();
    scene.pair.run_steps(50);
    assert!(!is_hung_up(&mut slow, &mut Vec::new()), "it may take some time");
    scene.pair.fixture.skipped += Duration::from_secs(6);
    scene.drive_until_hung_up(&mut slow);
    crowd.iter_mut().for_each(|one| drop(scene.drive_until_hung_up(one)));
    assert!(scene.refused().iter().all(|line| line.contains("within 5 s")), "{:?}", scene.refused());
    assert_eq!(scene.refused().len(), 11);
    scene.check_friend();
}

#[test]
fn more_than_may_come_are_dropped_before_anything_is_said_to_them() {
    let mut scene = Scene::new(1);
    *scene.members.hellos.lock().unwrap() = 3;
    let hello = first_words(&scene.configs().client);
    let mut crowd: Vec<TcpStream> = (0..10).map(|_| scene.call()).collect();
    // Those that were dropped already are not written to.
    crowd.iter_mut().for_each(|one| _ = one.write_all(&hello));
    let is_too_much = |line: &String| line.contains("too many from there");
    let dropped = |scene: &Scene| scene.refused().iter().filter(|line| is_too_much(line)).count();
    let members = Arc::clone(&scene.members);
    assert!(scene.pair.run_until(|_| members.refused.lock().unwrap().len() >= 7));
    assert_eq!(dropped(&scene), 7);
    // Who proves who it is takes nothing away from others.
    *scene.members.hellos.lock().unwrap() = 1;
    for number in 9..12 {
        let mut member = scene.pair.stranger(number, Setup::default());
        let to_a = member.engine().open(scene.pair.a.address()).expect("the call starts");
        let is_over = scene.pair.run_until(|pair| {
            let now = pair.fixture.tick();
            member.drive(now);
            !matches!(member.state(to_a), PeerState::Connecting)
        });
        assert!(is_over && member.state(to_a) == PeerState::Up, "{:?}", member.state(to_a));
    }
    assert_eq!((*scene.members.hellos.lock().unwrap(), dropped(&scene)), (1, 7));
    scene.check_friend();
}

#[test]
fn strangers_of_all_kinds_are_refused_with_a_reason() {
    let kinds = ["invalid peer certificate", "CertificateRequired", "GRIDNET_SESSION", "GRIDNET_SESSION"];
    for (number, says) in kinds.into_iter().enumerate() {
        let mut scene = Scene::new(1);
        let mut others = Members::of(&Authority::new());
        if number == 1 {
            // It trusts the authority, which has not certified it.
            others.configs.client = scene.authority.stranger();
        }
        let theirs = match number {
            0 | 1 => Security::Session(Arc::new(others)),
            2 => Security::Insecure,
            _ => key(3),
        };
        let why = scene.try_as(theirs, 9);
        assert!(why.error == Error::Permission && why.reason.contains(says), "{says}: {why:?}");
        // In the first case it was the stranger that did not take the victim.
        assert!(number == 0 || !scene.refused().is_empty(), "{says}: it was not noted");
        scene.check_friend();
    }
}

#[test]
fn a_member_speaks_for_its_own_fabrics_only() {
    let mut scene = Scene::new(1);
    // The called finds it out: the caller says so itself.
    let why = scene.try_as(scene.security(), NOBODY);
    assert!(why.error == Error::Permission && why.reason.contains("somebody else"), "{why:?}");
    assert!(scene.refused().iter().any(|line| line.contains("somebody else")), "{:?}", scene.refused());
    scene.check_friend();
}

#[test]
fn a_caller_says_nothing_before_it_knows_who_is_there() {
    let scene = Scene::new(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let mut pair = scene.pair;
    let mut to = pair.fixture.address(8);
    to.network = NetAddresses::new(at.port(), [at.ip()]);
    pair.a.engine().open(&to).expect("the call starts");
    let (mut heard, mut called) = (Vec::new(), None);
    let has_spoken = pair.run_until(|_| {
        called = called.take().or_else(|| listener.accept().ok().map(|(stream, _)| stream));
        called.iter_mut().for_each(|stream| _ = is_hung_up(stream, &mut heard));
        heard.len() > 100
    });
    assert!(has_spoken, "nobody calls");
    pair.run_until_quiet();
    called.iter_mut().for_each(|stream| _ = is_hung_up(stream, &mut heard));
    let len = usize::from(u16::from_be_bytes([heard[3], heard[4]]));
    assert_eq!((heard[0], heard.len()), (0x16, 5 + len), "more than the beginning of TLS was said");
    let own = pair.a.address().node;
    for word in [&b"GNET"[..], own.bytes(), to.node.bytes()] {
        assert!(!heard.windows(word.len()).any(|at| at == word), "{word:?} was said");
    }
}

#[test]
fn nothing_is_said_to_who_is_not_known() {
    let mut scene = Scene::new(1);
    let stranger = scene.call();
    stranger.set_nonblocking(true).unwrap();
    let client = ClientConnection::new(scene.authority.stranger(), name()).unwrap();
    let mut stranger = StreamOwned::new(client, stranger);
    let mut heard = Vec::new();
    let over = scene.pair.run_until(|_| {
        // All of this is what a caller may say first, if it is a member.
        let _ = stranger.write(b"\x01\x00W");
        let mut buffer = [0; 100];
        match stranger.read(&mut buffer) {
            Ok(len) => heard.extend_from_slice(&buffer[..len]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
        false
    });
    assert!(over && heard.is_empty(), "{heard:?}");
    scene.check_friend();
}

#[test]
fn a_link_ends_when_its_peer_is_revoked() {
    let mut scene = Scene::new(100);
    let b = scene.pair.b.address().node;
    scene.pair.fixture.skipped += Duration::from_secs(6);
    scene.check_friend();
    scene.members.revoked.lock().unwrap().push(b);
    let to_b = scene.pair.to_b;
    scene.pair.run_steps(50);
    assert_eq!(scene.pair.a.state(to_b), PeerState::Up, "it is looked at now and then");
    assert!(scene.pair.a.engine().rails()[0].deadline().is_some(), "nobody would wake up for it");
    scene.pair.fixture.skipped += Duration::from_secs(6);
    let over = scene.pair.run_until(|pair| matches!(pair.a.state(to_b), PeerState::Gone(_)));
    let PeerState::Gone(why) = scene.pair.a.state(to_b) else { panic!("{over}: it is still there") };
    assert!(why.error == Error::Permission && why.reason.contains("revoked"), "{why:?}");
    let said = format!("{b} its node was revoked");
    assert_eq!(scene.refused(), [said]);
}

/// Nobody may speak for the fabric of this number.
const NOBODY: u8 = 77;

/// A victim with a friend.
struct Scene {
    pair: Pair<Tcp>,
    authority: Authority,
    members: Arc<Members>,
    tag: u64,
}

impl Scene {
    fn new(slowness: u32) -> Scene {
        let authority = Authority::new();
        let mut members = Members::of(&authority);
        members.nobody = vec![Tcp::new(Engine::Auto).address(NOBODY).node];
        let members = Arc::new(members);
        let security = Security::Session(members.clone());
        let pair = Pair::new(Tcp { security, slowness, ..Tcp::new(Engine::Auto) });
        Scene { pair, authority, members, tag: 0 }
    }

    fn security(&self) -> Security {
        Security::Session(self.members.clone())
    }

    fn configs(&self) -> &common::certificates::Configs {
        &self.members.configs
    }

    fn refused(&self) -> Vec<String> {
        self.members.refused.lock().unwrap().clone()
    }

    fn call(&self) -> TcpStream {
        let at: SocketAddr = self.pair.a.address().network.iter().next().expect("it listens");
        TcpStream::connect(at).expect("somebody listens")
    }

    /// Why a fabric that knows its peers in this way has not come in.
    fn try_as(&mut self, theirs: Security, number: u8) -> Refusal {
        let own = std::mem::replace(&mut self.pair.fixture.security, theirs);
        let mut stranger = self.pair.stranger(number, Setup::default());
        self.pair.fixture.security = own;
        let address: Address = *self.pair.a.address();
        let to_a = match stranger.engine().open(&address) {
            Ok(to_a) => to_a,
            Err(why) => return why,
        };
        let over = self.pair.run_until(|pair| {
            let now = pair.fixture.tick();
            stranger.drive(now);
            matches!(stranger.state(to_a), PeerState::Gone(_))
        });
        assert!(over, "it is in, or waits");
        let PeerState::Gone(why) = stranger.state(to_a) else { panic!("it is in") };
        assert_eq!(self.pair.a.engine().counters().peers_now, 1);
        why
    }

    fn drive_until_hung_up(&mut self, stranger: &mut TcpStream) -> Vec<u8> {
        drive_until_hung_up(&mut self.pair, stranger)
    }

    fn check_friend(&mut self) {
        check_friend(&mut self.pair, &mut self.tag);
    }
}

/// The first that a caller says by TLS.
fn first_words(config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut client = ClientConnection::new(config.clone(), name()).unwrap();
    let mut words = Vec::new();
    client.write_tls(&mut words).unwrap();
    words
}
