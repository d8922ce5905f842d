//! Shared memory as a port: peers that sleep, peers that are not there, strangers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::{Port, Received, ShmPort, ShmWaiter};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{connect, recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits in sleep for the next packet. A wake-up that does not come is a failure.
fn receive_asleep(port: &mut ShmPort, waiter: &ShmWaiter) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match port.receive(&mut bytes) {
            Received::Nothing if port.arm() => {
                let timeout = PollTimeout::try_from(PATIENCE).expect("a minute");
                let mut files = [PollFd::new(waiter.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut files, timeout), Ok(1), "it was not woken");
            }
            Received::Nothing => {}
            Received::Packet(_) => return bytes,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_peer_that_sleeps_is_woken() {
    let (mut a, mut b) = (ShmPort::open().expect("a port"), ShmPort::open().expect("a port"));
    let (to_a, to_b) = (a.address(), b.address());
    let answering = std::thread::spawn(move || {
        let waiter = b.waiter().expect("a descriptor");
        for _ in 0..300 {
            let mut packet = receive_asleep(&mut b, &waiter);
            assert!(b.send(to_a, &mut packet));
        }
        b
    });
    let waiter = a.waiter().expect("a descriptor");
    for number in 0..300u32 {
        let packet = number.to_le_bytes().repeat(number as usize);
        assert!(a.send(to_b, &mut packet.clone()));
        assert_eq!(receive_asleep(&mut a, &waiter), packet);
    }
    answering.join().expect("all were answered");
}

/// A sender whose packets have no room is told when they have.
#[test]
fn room_wakes_a_sender_that_sleeps() {
    let (mut a, mut b) = (ShmPort::open().expect("a port"), ShmPort::open().expect("a port"));
    let (to_b, waiter) = (b.address(), a.waiter().expect("a descriptor"));
    let mut sent = 0;
    while a.has_room(to_b) {
        assert!(a.send(to_b, &mut vec![1; 100]));
        sent += 1;
    }
    assert!(sent > 0 && !a.send(to_b, &mut vec![1; 100]));
    // Nothing of this is new to the descriptor: the first look takes what the connection has said.
    assert_eq!(a.receive(&mut Vec::new()), Received::Nothing);
    assert!(a.arm(), "there is nothing to do");
    let (start, mut bytes, mut came) = (Instant::now(), Vec::new(), 0);
    while came < sent {
        assert!(start.elapsed() < PATIENCE, "{came} of {sent} packets came");
        came += usize::from(matches!(b.receive(&mut bytes), Received::Packet(_)));
    }
    let mut files = [PollFd::new(waiter.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).expect("a minute");
    assert_eq!(poll(&mut files, timeout), Ok(1), "it was not woken");
    assert!(a.has_room(to_b));
}

/// One thread sleeps, and another looks: peers do not wake the first from then on, until it is armed again.
#[test]
fn a_look_uses_up_an_arming() {
    let mut port = ShmPort::open().expect("a port");
    assert!(port.arm() && port.is_armed());
    assert_eq!(port.receive(&mut Vec::new()), Received::Nothing);
    assert!(!port.is_armed());
    assert!(port.arm() && port.is_armed());
}

#[test]
fn packets_for_nobody_are_lost() {
    let mut port = ShmPort::open().expect("a port");
    let gone = ShmPort::open().expect("a port").address();
    for to in [gone, ([127, 0, 0, 1], 4791).into(), "[::1]:4791".parse().expect("an address")] {
        for _ in 0..1000 {
            assert!(port.has_room(to) && port.send(to, &mut vec![1; 100]));
        }
    }
    assert_eq!(port.receive(&mut Vec::new()), Received::Nothing);
}

/// Of those who say nothing, the one that came first makes room, whoever else has left.
#[test]
fn the_oldest_stranger_makes_room() {
    let mut port = ShmPort::open().expect("a port");
    let name = name_of(&port);
    let stranger = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
        connect(socket.as_raw_fd(), &name).expect("it listens");
        socket
    };
    // Whether the port has hung up, after it had its time to look, which it does when 50 us have passed, in one of 8 calls.
    let mut is_over = |stranger: &OwnedFd| {
        for _ in 0..3 {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(50) {}
            (0..8).for_each(|_| assert_eq!(port.receive(&mut Vec::new()), Received::Nothing));
        }
        recv(stranger.as_raw_fd(), &mut [0], MsgFlags::empty()) != Err(Errno::EAGAIN)
    };
    let mut strangers: Vec<OwnedFd> = Vec::new();
    for _ in 0..64 {
        strangers.push(stranger());
        assert!(!is_over(&strangers[0]));
    }
    send(strangers[0].as_raw_fd(), b"?", MsgFlags::empty()).expect("sent");
    assert!(is_over(&strangers[0]));
    strangers.extend([stranger(), stranger()]);
    assert!(is_over(&strangers[1]), "a younger one has made room");
    assert!(strangers[2..].iter().all(|stranger| !is_over(stranger)));
}

fn name_of(port: &ShmPort) -> UnixAddr {
    let to = port.address();
    let std::net::IpAddr::V6(ip) = to.ip() else { panic!("{to} is not what addresses look like") };
    let name = UnixAddr::new_abstract(format!("gridnet-rdma-{:016x}", ip.to_bits() as u64).as_bytes());
    name.expect("a name")
}

/// Others that connect and say what no port says, or nothing, take nobody's place.
#[test]
fn strangers() {
    let mut port = ShmPort::open().expect("a port");
    let (to, name) = (port.address(), name_of(&port));
    let mut silent = Vec::new();
    let words = [&b"?"[..], b"\xa1", b"\xa1........", b"\xb0", b"\xa1........................"];
    // More who say nothing than have room.
    for words in words.into_iter().chain([&b""[..]; 100]) {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.expect("a socket");
        connect(socket.as_raw_fd(), &name).expect("it listens");
        if !words.is_empty() {
            send(socket.as_raw_fd(), words, MsgFlags::empty()).expect("sent");
        }
        silent.push(socket);
    }
    let mut friend = ShmPort::open().expect("a port");
    let (start, mut bytes) = (Instant::now(), Vec::new());
    assert!(friend.send(to, &mut b"packet".to_vec()));
    while port.receive(&mut bytes) != Received::Packet(friend.address()) {
        assert!(start.elapsed() < PATIENCE, "the friend's packet does not come");
    }
    assert_eq!(bytes, b"packet");
}
