//! RoCEv2 over UDP sockets: what goes over the wire, and packets of others.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::wire::{Bth, Flow, Header, Identifications, Ipv4Fields, Packet, Psn, QpNum};
use gridnet_rdma_sim::{Port, Received, UdpPort};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn port() -> UdpPort {
    UdpPort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port of this host")
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Packet { bth: Bth::new(QpNum::new(5), Psn::new(6)), header: Header::SendOnly, payload: b"hello" }
        .encode(&mut bytes);
    bytes
}

fn receive(port: &mut UdpPort) -> (Received, Vec<u8>) {
    let (start, mut bytes) = (Instant::now(), Vec::new());
    loop {
        let received = port.receive(&mut bytes);
        if received != Received::Nothing {
            return (received, bytes);
        }
        assert!(start.elapsed() < PATIENCE, "nothing came");
        std::thread::yield_now();
    }
}

/// The ICRC is right for the IP header that the kernel writes, not only for the one that this side believes in.
#[test]
fn the_icrc_is_that_of_the_header_on_the_wire() {
    let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
        Ok(raw) => raw,
        Err(error) => return println!("SKIPPED: the IP header that a port sends: {error}"),
    };
    // An address of its own: everything else that goes over loopback would fill the socket, and one packet would be lost.
    let own = SocketAddr::from(([127, 0, 0, 2], 0));
    raw.bind(&own.into()).expect("an address of this host");
    raw.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut raw = raw;
    let (mut from, to) = (port(), UdpPort::bind(own).expect("a port of this host"));
    let address = from.address();
    assert!(from.send(to.address(), &mut hello()) && from.flush());
    let (start, mut bytes) = (Instant::now(), [0; 2048]);
    let header = loop {
        assert!(start.elapsed() < PATIENCE, "it does not come by");
        let Ok(len) = raw.read(&mut bytes) else { continue };
        // The port of the sender: others may send over loopback, too.
        if len > 28 && bytes[20..22] == address.port().to_be_bytes() {
            break &bytes[..len];
        }
    };
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    assert_eq!(
        (header[0], field(4), field(6)),
        (0x45, 0, 0x4000),
        "no options, identification 0, not to be fragmented"
    );
    let fields = Ipv4Fields { identification: field(4), fragment: field(6) };
    let flow = Flow::new(address, to.address(), fields).expect("one family");
    assert_eq!(flow.open(&header[28..]), Some(&hello()[..]));
    let mut received = to;
    assert_eq!(receive(&mut received), (Received::Packet(address), hello()));
}

/// Others count the packets that they send in the identification.
#[test]
fn identifications_of_others() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let from = other.local_addr().expect("an address");
    for accepts in [false, true] {
        let mut port = if accepts { port().accept_any_identification() } else { port() };
        let fields = Ipv4Fields { identification: 0x1234, ..Ipv4Fields::UNFRAGMENTED };
        let mut bytes = hello();
        Flow::new(from, port.address(), fields).expect("one family").seal(&mut bytes);
        other.send_to(&bytes, port.address()).expect("sent");
        let expected = if accepts { Received::Packet(from) } else { Received::Corrupt };
        assert_eq!(receive(&mut port).0, expected);
        bytes[20] ^= 1;
        other.send_to(&bytes, port.address()).expect("sent");
        assert_eq!(receive(&mut port).0, Received::Corrupt);
        // Longer than any packet.
        other.send_to(&[0; 9000], port.address()).expect("sent");
        assert_eq!(receive(&mut port).0, Received::Corrupt);
    }
    assert_eq!(
        Identifications::default().open(&Flow::new(from, from, Ipv4Fields::UNFRAGMENTED).expect("one"), &[]),
        None
    );
}

#[test]
fn a_port_needs_an_address() {
    let any = UdpPort::bind("0.0.0.0:0".parse().expect("an address")).map(drop).map_err(|error| error.kind());
    assert_eq!(any, Err(std::io::ErrorKind::InvalidInput));
}

/// Packets for several peers that leave together, more than fit into one call.
#[test]
fn a_batch() {
    batch(port);
    batch(|| port().send_segments());
    let v6 = || UdpPort::bind("[::1]:0".parse().expect("an address"));
    match v6() {
        Ok(_) => batch(|| v6().expect("a port").send_segments()),
        Err(error) => println!("SKIPPED: segments over IPv6: {error}"),
    }
}

fn batch(port: impl Fn() -> UdpPort) {
    let (mut from, mut peers) = (port(), [port(), port()]);
    let packet = |number: usize| {
        let mut bytes = Vec::new();
        let payload = vec![number as u8; number * 50];
        Packet { bth: Bth::new(QpNum::new(5), Psn::new(6)), header: Header::SendOnly, payload: &payload }
            .encode(&mut bytes);
        bytes
    };
    // One that cannot be sent at all: lost, and nothing else with it.
    let nowhere = SocketAddr::from(([255, 255, 255, 255], 1));
    for number in 0..80 {
        assert!(from.send(peers[number % 2].address(), &mut packet(number)));
        assert!(from.send(nowhere, &mut packet(1)));
    }
    assert!(from.flush());
    for number in 0..80 {
        assert_eq!(receive(&mut peers[number % 2]), (Received::Packet(from.address()), packet(number)));
    }
    // Of one length, with a shorter one at the end, as those of a long message are.
    for len in [8, 200, 1024, 4096] {
        for round in 0..3 {
            let all: Vec<usize> = (0..40).map(|number| if number == 39 { len / 2 } else { len }).collect();
            let packet = |len: usize| {
                let mut bytes = Vec::new();
                let payload = vec![round; len];
                Packet {
                    bth: Bth::new(QpNum::new(5), Psn::new(6)),
                    header: Header::SendOnly,
                    payload: &payload,
                }
                .encode(&mut bytes);
                bytes
            };
            all.iter().for_each(|len| assert!(from.send(peers[0].address(), &mut packet(*len))));
            assert!(from.flush());
            for len in all {
                assert_eq!(receive(&mut peers[0]), (Received::Packet(from.address()), packet(len)));
            }
        }
    }
    assert!(peers.iter_mut().all(|peer| peer.receive(&mut Vec::new()) == Received::Nothing && peer.arm()));
}

/// Segments are what the sender says: a peer that does not know of them sees another identification than it expects.
#[test]
fn segments_have_identifications_of_their_own() {
    let (mut from, mut plain) = (port().send_segments(), port());
    for _ in 0..2 {
        assert!(from.send(plain.address(), &mut hello()));
    }
    assert!(from.flush());
    assert_eq!(receive(&mut plain).0, Received::Packet(from.address()));
    match receive(&mut plain).0 {
        Received::Corrupt => {}
        Received::Packet(_) => println!("SKIPPED: segments of UDP: the kernel has none"),
        other => panic!("{other:?}"),
    }
}
