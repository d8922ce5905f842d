//! What is said over the connection beside a link, by peers that keep to nothing.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

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

/// Bytes that are no handshake, and packets that do not belong there.
#[test]
fn strangers_are_sent_away() {
    let mut pair = Pair::new(Verbs::udp());
    let mut random = Random::new(3);
    let packets: Vec<Vec<u8>> = vec![
        vec![0, 0],
        vec![0xff, 0xff, 1],
        vec![1, 0, 3],
        vec![1, 0, 5],
        vec![2, 0, 1, b'g'],
        [&[130, 0, 1][..], b"gridnet-verbs\0", &[9; 115]].concat(),
        [&[61, 0, 2][..], &[0; 60]].concat(),
        random.bytes(300),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for (tag, packet) in (0..).zip(packets) {
        let mut stranger = call(listener(&pair));
        stranger.write_all(&packet).expect("there is room");
        // What is only the beginning of a packet is waited for: no longer than its sender.
        stranger.shutdown(std::net::Shutdown::Write).expect("it is connected");
        drive_until_hung_up(&mut pair, &mut stranger);
        check_friend(&mut pair, tag);
    }
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
