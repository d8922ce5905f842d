//! What is said over the connection beside a link, by peers that keep to nothing.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use common::Verbs;
use gridnet_core::endpoint::PeerState;
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::testing::random::Random;

/// Where the rail of the first node listens.
fn listener(pair: &Pair<Verbs>) -> SocketAddr {
    pair.a.address().network.iter().next().expect("it listens")
}

fn call(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("somebody listens");
    stream.set_nonblocking(true).expect("it is a socket");
    stream
}

/// Runs until the rail has hung up on a stranger; what it said before.
fn drive_until_hung_up(pair: &mut Pair<Verbs>, stranger: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let over = pair.run_until(|_| {
        let mut bytes = [0; 512];
        match stranger.read(&mut bytes) {
            Ok(0) => true,
            Ok(len) => {
                heard.extend_from_slice(&bytes[..len]);
                false
            }
            Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
        }
    });
    assert!(over, "a stranger is still there");
    heard
}

fn check_friend(pair: &mut Pair<Verbs>, tag: u64) {
    let bytes = Random::new(tag).bytes(100_000);
    let receive = pair.a.receive(exactly(pair.to_b, tag), bytes.len());
    pair.b.send(pair.to_a, &bytes, tag);
    assert!(pair.finish_a(receive).bytes == bytes);
    assert_eq!(pair.a.state(pair.to_b), PeerState::Up);
}

/// A packet of the kind `what`.
fn packet(what: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16 + 1).to_le_bytes()[..], &[what], body].concat()
}

const HELLO: u8 = 1;
const OFFER: u8 = 2;
const READY: u8 = 3;
const REFUSAL: u8 = 4;
const BYE: u8 = 5;

/// Bytes that are no handshake, and packets that do not belong there: whoever says them is told why it is sent away, and those with
/// whom nobody can talk are not.
#[test]
fn strangers_are_sent_away() {
    let mut pair = Pair::new(Verbs::udp());
    let random = Random::new(3).bytes(300);
    let later_version = [&b"gridnet-verbs\0"[..], &[9; 115]].concat();
    let strangers = [
        (vec![0, 0], None),
        (vec![0xff, 0xff, 1], None),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        (packet(READY, &[]), Some(REFUSAL)),
        (packet(BYE, &[]), Some(REFUSAL)),
        (packet(HELLO, b"g"), Some(REFUSAL)),
        (packet(HELLO, &later_version), Some(REFUSAL)),
        (packet(OFFER, &[0; 60]), Some(REFUSAL)),
        (packet(random[0], &random[1..]), Some(REFUSAL)),
    ];
    for (tag, (said, answer)) in (0..).zip(strangers) {
        let mut stranger = call(listener(&pair));
        stranger.write_all(&said).expect("there is room");
        let heard = drive_until_hung_up(&mut pair, &mut stranger);
        assert_eq!(heard.get(2).copied(), answer, "said {said:?}, heard {heard:?}");
        check_friend(&mut pair, tag);
    }
    // What is only the beginning of a packet is waited for: no longer than its sender.
    let mut stranger = call(listener(&pair));
    stranger.write_all(&packet(HELLO, &later_version)[..50]).expect("there is room");
    stranger.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(drive_until_hung_up(&mut pair, &mut stranger), []);
}

/// Makes a link as the description of the protocol says, with a queue pair from which nothing comes.
fn link(pair: &mut Pair<Verbs>, number: u8) -> TcpStream {
    let to = pair.a.address();
    let mut hello =
        [&b"gridnet-verbs\0"[..], &2u16.to_le_bytes(), &[0], &[100 + number; 16], &[number; 8]].concat();
    hello.extend([&to.uid.to_le_bytes()[..], &1u32.to_le_bytes(), to.node.bytes()].concat());
    hello.extend([&to.incarnation.to_le_bytes()[..], &to.network.to_bytes(), &[number; 32]].concat());
    let ip = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    let numbers = [&9u16.to_le_bytes()[..], &5u32.to_le_bytes(), &5u32.to_le_bytes(), &1024u16.to_le_bytes()];
    let offer = [&ip[..], &numbers.concat(), &0u32.to_le_bytes(), &[0; 32]].concat();
    let mut peer = call(listener(pair));
    for said in [packet(HELLO, &hello), packet(OFFER, &offer)] {
        peer.write_all(&said).expect("there is room");
        let mut answer = vec![0; said.len()];
        let mut len = 0;
        let is_answered = pair.run_until(|_| {
            len += peer.read(&mut answer[len..]).unwrap_or(0);
            len == said.len() || answer[2] == REFUSAL
        });
        assert!(is_answered && answer[2] != REFUSAL, "{}", String::from_utf8_lossy(&answer));
        assert_eq!(answer[..3], said[..3], "it is no answer");
    }
    peer.write_all(&packet(READY, &[])).expect("there is room");
    peer
}

/// What does not belong beside a link is the end of it.
#[test]
fn nonsense_beside_a_link() {
    let mut pair = Pair::new(Verbs::udp());
    let nonsense = [
        packet(9, b"?"),
        packet(HELLO, &[]),
        packet(BYE, b"short"),
        packet(READY, &[]).repeat(100),
        vec![0; 9],
    ];
    for (number, said) in (1..).zip(nonsense) {
        let mut peer = link(&mut pair, number);
        peer.write_all(&said).expect("there is room");
        let heard = drive_until_hung_up(&mut pair, &mut peer);
        // Where one packet ends is not known any more in the last case.
        let cut_off = [&packet(BYE, &[1])[2..], &[0; 8]].concat();
        assert!(number == 5 || heard.get(2..) == Some(&cut_off), "said {said:?}, heard {heard:?}");
        check_friend(&mut pair, number.into());
    }
}

/// A last word that promises more than comes is waited for, no longer than that may take, whatever else is said.
#[test]
fn a_last_word_has_its_time() {
    let mut pair = Pair::new(Verbs::udp());
    let mut peer = link(&mut pair, 1);
    let last_word = packet(BYE, &[&[0][..], &5u64.to_le_bytes()].concat());
    peer.write_all(&[last_word, packet(READY, &[])].concat()).expect("there is room");
    drive_until_hung_up(&mut pair, &mut peer);
    check_friend(&mut pair, 1);
}

/// Those who only call make room for those who come later, and the rail is there for its peers.
#[test]
fn silent_strangers_are_bounded() {
    let mut pair = Pair::new(Verbs::udp());
    let at = listener(&pair);
    let mut strangers: Vec<TcpStream> = (0..100).map(|_| call(at)).collect();
    let mut first = strangers.remove(0);
    drive_until_hung_up(&mut pair, &mut first);
    check_friend(&mut pair, 1);
    drop(strangers);
    let now = pair.fixture.tick();
    pair.a.drive(now);
    check_friend(&mut pair, 2);
}
