//! Whoever finds the port: strangers are refused, and disturb nobody.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{check_friend, drive_until_hung_up, is_hung_up, key, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::random::Random;
use gridnet_core::wire::Hello;
use gridnet_uring_tcp::{Engine, Security};

#[test]
fn nonsense_is_refused_and_disturbs_nobody() {
    for security in [Security::Insecure, key(1)] {
        let mut scene = Scene::new(Tcp { security, ..Tcp::new(Engine::Auto) });
        let mut random = Random::new(7);
        for round in 0..300 {
            let len = random.pick(&[1, 2, 3, 40, 200, 1025, 1026, 5000, 70_000]);
            let mut bytes = random.bytes(len);
            if round % 3 == 0 {
                // A length that may be, so that what comes next is looked at.
                bytes.splice(0..0, [len as u8, (len >> 8) as u8 & 3, b'H']);
            }
            let mut stranger = scene.call();
            // It may be refused before it has said everything.
            let _ = stranger.write_all(&bytes);
            let _ = stranger.shutdown(std::net::Shutdown::Write);
            scene.drive_until_hung_up(&mut stranger);
        }
        scene.check_friend();
    }
}

#[test]
fn a_valid_greeting_cut_or_changed_anywhere_is_refused() {
    let mut scene = Scene::new(Tcp::new(Engine::Auto));
    let node = scene.pair.fixture.address(9).node;
    let mut hello = Hello::new(node, 1, 1);
    let packet = |hello: &Hello| {
        let bytes = hello.encode();
        [&(bytes.len() as u16 + 1).to_le_bytes()[..], b"H", &bytes].concat()
    };
    let without_offer = packet(&hello);
    (hello.version_min, hello.version_max) = (7, 9);
    let later = packet(&hello);
    (hello.version_min, hello.version_max, hello.required) = (1, 1, 1 << 40);
    let demanding = packet(&hello);
    let longest = [&u16::MAX.to_le_bytes()[..], &[0; 70_000]].concat();
    let proof_first = [&33u16.to_le_bytes()[..], b"P", &[0; 32]].concat();
    let welcome_first = vec![1, 0, b'W'];
    for (bytes, says) in [
        (without_offer.clone(), "without an offer"),
        (later, "protocol versions 7 to 9"),
        (demanding, "requires unknown features"),
        (longest, "no handshake"),
        (proof_first, "out of its turn"),
        (welcome_first, "out of its turn"),
    ] {
        let mut stranger = scene.call();
        let _ = stranger.write_all(&bytes);
        let answer = scene.drive_until_hung_up(&mut stranger);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains(says), "{text:?} does not say {says:?}");
    }
    for cut in 0..without_offer.len() {
        let mut stranger = scene.call();
        stranger.write_all(&without_offer[..cut]).unwrap();
        drop(stranger);
        scene.pair.step();
    }
    scene.check_friend();
}

#[test]
fn who_does_not_say_who_it_is_has_to_go() {
    let mut scene = Scene::new(Tcp { slowness: 100, ..Tcp::new(Engine::Auto) });
    let mut slow = scene.call();
    for byte in [200u8, 0, b'H'] {
        slow.write_all(&[byte]).unwrap();
        scene.pair.run_steps(50);
    }
    assert!(!is_hung_up(&mut slow, &mut Vec::new()), "it may take some time");
    scene.pair.fixture.skipped += Duration::from_secs(6);
    scene.drive_until_hung_up(&mut slow);
    // More than are borne with at a time: the first ones go, and those who come later are heard.
    let mut crowd: Vec<TcpStream> = (0..300)
        .map(|_| {
            scene.pair.step();
            scene.call()
        })
        .collect();
    scene.pair.run_until_quiet();
    assert!(is_hung_up(&mut crowd[0], &mut Vec::new()));
    assert!(!is_hung_up(&mut crowd[299], &mut Vec::new()));
    scene.check_friend();
    scene.pair.b.close();
    scene.pair.run_until_quiet();
    scene.pair.b = scene.pair.stranger(10, Setup::default());
    scene.pair.meet();
    scene.check_friend();
}

#[test]
fn without_the_key_nobody_gets_in() {
    for (own, theirs) in [(key(1), key(2)), (key(1), Security::Insecure), (Security::Insecure, key(1))] {
        let mut scene = Scene::new(Tcp { security: own.clone(), ..Tcp::new(Engine::Auto) });
        scene.pair.fixture.security = theirs;
        let mut stranger = scene.pair.stranger(9, Setup::default());
        scene.pair.fixture.security = own;
        let address = *scene.pair.a.address();
        let to_a = stranger.engine().open(&address).expect("the call starts");
        let send = stranger.send(to_a, b"let me in", 1);
        let ended = scene.pair.run_until(|pair| {
            let now = pair.fixture.tick();
            stranger.drive(now);
            stranger.is_finished(send)
        });
        assert!(ended, "the send does not end");
        assert_eq!(stranger.take(send).unwrap().status, Err(Error::Permission));
        let PeerState::Gone(why) = stranger.state(to_a) else { panic!("it is in") };
        assert!(why.reason.contains("GRIDNET_NET_KEY_FILE"), "{}", why.reason);
        assert_eq!(scene.pair.a.engine().counters().peers_now, 1);
        scene.check_friend();
    }
}

#[test]
fn a_call_that_nobody_answers_says_which_addresses_were_tried() {
    let mut pair = Pair::strangers(Tcp::new(Engine::Auto), Setup::default());
    let mut gone = *pair.b.address();
    pair.b.close();
    let refused = pair.a.engine().open(&gone);
    let reason = match refused {
        Err(refusal) => refusal.reason,
        Ok(to_b) => {
            assert!(
                pair.run_until(|pair| matches!(pair.a.state(to_b), PeerState::Gone(_))),
                "nobody is there"
            );
            let PeerState::Gone(why) = pair.a.state(to_b) else { panic!("nobody is there") };
            assert_eq!(why.error, Error::PeerGone, "{}", why.reason);
            why.reason
        }
    };
    let at = gone.network.iter().next().expect("it had an address");
    assert!(reason.contains(&format!("{at}: connection refused")), "{reason}");
    gone.network = gridnet_core::wire::NetAddresses::NONE;
    gone.node = pair.fixture.address(9).node;
    assert_eq!(pair.a.engine().open(&gone).unwrap_err().error, Error::Unreachable);
}

#[test]
fn another_fabric_at_the_address_is_not_taken_for_the_one_that_was_meant() {
    let mut pair = Pair::new(Tcp { security: key(3), ..Tcp::new(Engine::Auto) });
    let mut stranger = pair.stranger(9, Setup::default());
    let mut earlier = *pair.a.address();
    earlier.incarnation -= 1;
    let to_a = stranger.engine().open(&earlier).expect("the call starts");
    let is_refused = pair.run_until(|pair| {
        let now = pair.fixture.tick();
        stranger.drive(now);
        matches!(stranger.state(to_a), PeerState::Gone(_))
    });
    assert!(is_refused, "it is taken for another");
    let PeerState::Gone(why) = stranger.state(to_a) else { panic!("it is taken for another") };
    assert!(why.error == Error::PeerGone && why.reason.contains("unknown incarnation"), "{}", why.reason);
}

/// A victim with a friend.
struct Scene {
    pair: Pair<Tcp>,
    tag: u64,
}

impl Scene {
    fn new(fixture: Tcp) -> Scene {
        Scene { pair: Pair::new(fixture), tag: 0 }
    }

    fn call(&self) -> TcpStream {
        let at: SocketAddr = self.pair.a.address().network.iter().next().expect("it listens");
        let stream = TcpStream::connect(at).expect("somebody listens");
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Runs until the victim has hung up; what it said before.
    fn drive_until_hung_up(&mut self, stranger: &mut TcpStream) -> Vec<u8> {
        drive_until_hung_up(&mut self.pair, stranger)
    }

    fn check_friend(&mut self) {
        check_friend(&mut self.pair, &mut self.tag);
    }
}
