//! AF_XDP as a port, between two hosts of a lab: which packets go past the system, and what of others does not.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::wire::{Bth, Header, Packet, Psn, QpNum, PORT};
use gridnet_rdma_sim::{Port, Received, UdpPort, XdpPort};
use gridnet_testbed::{lab_test, testing, Host, Lab, LinkSpec, Topology};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn lab() -> Lab {
    let lab =
        Lab::open(Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"))).expect("a lab");
    for host in lab.hosts() {
        let wider =
            "ip -o -4 addr show scope global | while read n i r; do ip link set dev $i mtu 9000; done";
        host.shell(wider).output(PATIENCE).expect("a shell").success().expect("an interface");
    }
    lab
}

fn address(host: &Host<'_>, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(host.address().expect("an address"), port)
}

/// A port in the network of a host; says aloud where it cannot be had.
fn port(lab: &Lab, name: &str, test: &str) -> Option<XdpPort> {
    let host = lab.host(name).expect("a host");
    let address = address(&host, PORT);
    match host.run(|| XdpPort::bind(address)).expect("the network of the host") {
        Ok(port) => Some(port),
        Err(error) => {
            testing::skip(test, &error.to_string());
            None
        }
    }
}

fn packet(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
    Packet { bth: Bth::new(QpNum::new(5), Psn::new(6)), header: Header::SendOnly, payload: &payload }
        .encode(&mut bytes);
    bytes
}

fn receive(port: &mut dyn Port) -> (Received, Vec<u8>) {
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

/// From one port to the other; what arrives.
fn carry(from: &mut dyn Port, to: &mut dyn Port, len: usize) {
    assert!(from.send(to.address(), &mut packet(len)));
    assert!(from.flush());
    assert_eq!(receive(to), (Received::Packet(from.address()), packet(len)), "{len} bytes");
}

lab_test! {
    /// The first packet finds the peer, all others go past the system, unless they are too long for a frame.
    fn packets_go_past_the_system() {
        let lab = lab();
        let Some(mut a) = port(&lab, "a", "packets past the system") else { return };
        let Some(mut b) = port(&lab, "b", "packets past the system") else { return };
        for len in [0, 1, 100, 1024, 2048, 3000, 8, 4096] {
            for _ in 0..50 {
                carry(&mut a, &mut b, len);
                carry(&mut b, &mut a, len);
            }
        }
        for (counts, first) in [(a.counts(), 1), (b.counts(), 0)] {
            assert_eq!((counts.sent, counts.sent_slowly), (350 - first, 50 + first));
            assert_eq!((counts.received, counts.received_slowly), (350, 50));
        }
        // A frame that is sent, but does not fit where it comes, as the system needs room in front of it.
        carry(&mut a, &mut b, 3900);
        assert_eq!((a.counts().sent_slowly, b.counts().received_slowly), (51, 51));
    }

    /// More packets than there are frames.
    fn a_burst() {
        let lab = lab();
        let Some(mut a) = port(&lab, "a", "a burst over AF_XDP") else { return };
        let Some(mut b) = port(&lab, "b", "a burst over AF_XDP") else { return };
        carry(&mut a, &mut b, 8);
        carry(&mut b, &mut a, 8);
        let mut came = 0;
        for round in 1..=100 {
            (0..100).for_each(|_| assert!(a.has_room(b.address()) && a.send(b.address(), &mut packet(100))));
            assert!(a.flush());
            let (start, mut bytes) = (Instant::now(), Vec::new());
            while came < 100 * round {
                came += u32::from(b.receive(&mut bytes) != Received::Nothing);
                assert!(start.elapsed() < PATIENCE, "{came} packets came");
            }
        }
    }

    /// What is sent while the interface is down is lost, and the port goes on when it is up again.
    fn an_interface_that_is_down() {
        let lab = lab();
        let Some(mut a) = port(&lab, "a", "an interface that is down") else { return };
        let Some(mut b) = port(&lab, "b", "an interface that is down") else { return };
        carry(&mut a, &mut b, 8);
        carry(&mut b, &mut a, 8);
        let set = |state: &str| {
            let all = "ip -o -4 addr show scope global | while read n i r; do ip link set dev $i";
            let host = lab.host("a").expect("a host");
            let outcome = host.shell(&format!("{all} {state}; done")).output(PATIENCE).expect("a shell");
            outcome.success().expect("an interface");
        };
        set("down");
        // More than there are frames.
        for _ in 0..3000 {
            assert!(a.has_room(b.address()) && a.send(b.address(), &mut packet(8)), "it waits for room");
            assert!(a.flush(), "it is to be called again at once");
        }
        set("up");
        let (start, mut bytes) = (Instant::now(), Vec::new());
        loop {
            if a.has_room(b.address()) {
                a.send(b.address(), &mut packet(100));
                a.flush();
            }
            if b.receive(&mut bytes) == Received::Packet(a.address()) && bytes == packet(100) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "nothing comes");
        }
    }

    /// A port of sockets at the other side speaks the same; whoever sleeps is woken by its packets.
    fn with_a_port_of_sockets() {
        let lab = lab();
        let Some(mut a) = port(&lab, "a", "AF_XDP and UDP") else { return };
        let host = lab.host("b").expect("a host");
        let address = SocketAddr::V4(address(&host, PORT));
        let mut b = host.run(|| UdpPort::bind(address)).expect("the network").expect("a port");
        for len in [0, 100, 3000, 4096] {
            carry(&mut b, &mut a, len);
            carry(&mut a, &mut b, len);
        }
        assert!(a.counts().sent == 3 && a.counts().received == 3);
        let waiter = a.waiter().expect("a descriptor");
        assert!(a.receive(&mut Vec::new()) == Received::Nothing && a.arm());
        let mut files = [PollFd::new(waiter.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut files, PollTimeout::ZERO), Ok(0), "nothing was sent");
        assert!(b.send(a.address(), &mut packet(8)) && b.flush());
        assert_eq!(poll(&mut files, PollTimeout::try_from(PATIENCE).expect("a minute")), Ok(1));
        assert_eq!(receive(&mut a), (Received::Packet(address), packet(8)));
    }

    /// Segments have the headers that their ICRCs were made for: a port that sees the headers takes them, once the system has cut them.
    fn segments_are_what_their_headers_say() {
        let lab = lab();
        let Some(mut a) = port(&lab, "a", "headers of segments") else { return };
        let host = lab.host("b").expect("a host");
        let cut = "ip -o -4 addr show scope global | while read n i r; do ethtool -K $i tx-udp-segmentation off; done";
        let outcome = host.shell(cut).output(PATIENCE).expect("a shell");
        if outcome.success().is_err() {
            return testing::skip("headers of segments", "no ethtool, or an interface without such segments");
        }
        let at = SocketAddr::V4(address(&host, PORT));
        let port = host.run(|| UdpPort::bind(at)).expect("the network").expect("a port");
        let mut b = port.send_segments();
        carry(&mut b, &mut a, 8);
        for _ in 0..10 {
            (0..15).for_each(|_| assert!(b.send(a.address(), &mut packet(1024))));
            assert!(b.flush());
            for _ in 0..15 {
                assert_eq!(receive(&mut a), (Received::Packet(at), packet(1024)));
            }
        }
        assert_eq!((a.counts().received, a.counts().received_slowly), (151, 0));
    }

    /// What is not for the port goes on to the system, and an interface has one program, which goes with its port.
    fn others_are_left_alone() {
        let lab = lab();
        let Some(a) = port(&lab, "a", "others beside AF_XDP") else { return };
        let (host, other) = (lab.host("a").expect("a host"), lab.host("b").expect("a host"));
        let at = address(&host, 5000);
        let socket = host.run(|| UdpSocket::bind(at)).expect("the network").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        let sender = other.run(|| UdpSocket::bind("0.0.0.0:0")).expect("the network").expect("a socket");
        sender.send_to(b"hello", at).expect("sent");
        let mut bytes = [0; 10];
        assert_eq!(socket.recv(&mut bytes).expect("it comes"), 5);
        let again = host.run(|| XdpPort::bind(address(&host, 5001)).map(drop)).expect("the network");
        assert_eq!(again.expect_err("there is a program").kind(), ErrorKind::ResourceBusy);
        drop(a);
        let start = Instant::now();
        while let Err(error) = host.run(|| XdpPort::bind(address(&host, PORT))).expect("the network") {
            // The kernel lets go of a queue some time after its socket was closed.
            assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
            assert!(start.elapsed() < PATIENCE, "{error}");
        }
    }
}

/// An ordinary user is told what is missing, also where they are root of a network of their own.
#[test]
fn without_rights() {
    testing::isolated_as(Some(65534), concat!(module_path!(), "::without_rights"), || {
        let lab = lab();
        let host = lab.host("a").expect("a host");
        let outcome = host.run(|| XdpPort::bind(address(&host, PORT)).map(drop)).expect("the network");
        let error = outcome.expect_err("nobody may do that");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    });
}

#[test]
fn an_address_that_no_interface_has() {
    let nowhere = XdpPort::bind("192.0.2.1:0".parse().expect("an address")).map(drop);
    assert!(nowhere.is_err());
}
