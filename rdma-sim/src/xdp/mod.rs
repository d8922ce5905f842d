//! RoCEv2 over a socket of AF_XDP: the packets of `udp/` without the network of the system in between. Needs Linux 5.9, rights over
//! the network (CAP_NET_ADMIN with CAP_BPF or CAP_SYS_ADMIN, and CAP_NET_RAW), and IPv4.
//!
//! A UDP socket stands beside it. It keeps the UDP port from others, takes what comes for it by other queues of the interface
//! or is longer than a frame, and sends the first packets to a peer: so the kernel finds out where the peer is, and what the peer
//! answers says it here, too.
//!
//! | file | concept |
//! |---|---|
//! | `program.rs` | which packets come to the socket |
//! | `socket.rs`, `ring.rs` | the socket, and the memory that it shares with the kernel |
//! | `frame.rs` | headers in front of a packet |

mod frame;
mod program;
mod ring;
mod socket;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use self::frame::{Frame, Mac};
use self::program::{Mode, Program, HEADERS};
use self::ring::FRAME;
use self::socket::Socket;
use crate::port::{Port, Received};
use crate::udp::UdpPort;
use crate::wire::{Flow, Ipv4Fields, ICRC_BYTES};

/// What the kernel keeps free in front of a frame that comes.
const HEADROOM: usize = 256;
/// Longest frame that comes to the socket; others go to the UDP socket.
const LONGEST: usize = FRAME - HEADROOM;
/// Calls of `receive` that find nothing between two looks at the UDP socket, which cost a system call.
const LOOK_EACH: u32 = 16;
/// Peers whose places are known; when there are more, all are found out anew.
const MAX_PEERS: usize = 4096;

/// Packets of an [`XdpPort`] since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct XdpCounts {
    /// Sent without the system.
    pub sent: u64,
    /// Sent by the UDP socket.
    pub sent_slowly: u64,
    /// Received without the system.
    pub received: u64,
    /// Received by the UDP socket.
    pub received_slowly: u64,
}

/// A port at a queue of an interface.
pub struct XdpPort {
    socket: Socket,
    _program: Program,
    udp: UdpPort,
    own: SocketAddrV4,
    mac: Mac,
    /// Where peers are, as their packets say.
    peers: HashMap<Ipv4Addr, Mac>,
    quiet: u32,
    zero_copy: bool,
    counts: XdpCounts,
}

impl XdpPort {
    /// A port at this address of an interface of this host, at the first of its queues. Other devices expect port
    /// [`PORT`](crate::wire::PORT); port 0 is any. Tries without copying, which few drivers can do, before with.
    ///
    /// # Errors
    /// `PermissionDenied` without the rights, `ResourceBusy` when the interface has a program or the queue a socket (some ms longer
    /// than that is open), `NotFound` when no interface has the address, `Unsupported` for what the kernel cannot do, and those of [`UdpPort::bind`].
    pub fn bind(address: SocketAddrV4) -> io::Result<XdpPort> {
        XdpPort::bind_queue(address, 0)
    }

    /// The same, at this queue.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and `InvalidInput` for a queue that the interface does not have.
    pub fn bind_queue(address: SocketAddrV4, queue: u32) -> io::Result<XdpPort> {
        let udp = UdpPort::bind(SocketAddr::V4(address))?.accept_any_identification();
        let SocketAddr::V4(own) = udp.address() else { return Err(io::ErrorKind::Unsupported.into()) };
        let (interface, mac) = interface_of(*own.ip())?;
        let (socket, program, zero_copy) = match open(interface, queue, own, true) {
            Ok((socket, program)) => (socket, program, true),
            Err(_) => open(interface, queue, own, false).map(|(socket, program)| (socket, program, false))?,
        };
        let peers = HashMap::new();
        Ok(XdpPort {
            socket,
            _program: program,
            udp,
            own,
            mac,
            peers,
            quiet: 0,
            zero_copy,
            counts: XdpCounts::default(),
        })
    }

    /// Whether packets are not copied between the interface and this process.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// What was counted.
    pub fn counts(&self) -> XdpCounts {
        self.counts
    }

    /// A descriptor for who waits until something comes.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn waiter(&self) -> io::Result<XdpWaiter> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        let udp = self.udp.waiter()?;
        epoll.add(&self.socket, event())?;
        epoll.add(&udp, event())?;
        Ok(XdpWaiter { epoll: epoll.0, _udp: udp })
    }

    /// The longest packet, from BTH to padding, that is sent without the system.
    const LONGEST_PACKET: usize = FRAME - HEADERS - ICRC_BYTES;

    /// By the UDP socket.
    fn receive_slowly(&mut self, packet: &mut Vec<u8>) -> Received {
        self.quiet += 1;
        if self.quiet < LOOK_EACH {
            return Received::Nothing;
        }
        let received = self.udp.receive(packet);
        if received == Received::Nothing {
            self.quiet = 0;
        }
        self.counts.received_slowly += u64::from(matches!(received, Received::Packet(_)));
        received
    }

    fn send_slowly(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        let sent = self.udp.send(to, packet);
        self.counts.sent_slowly += u64::from(sent);
        sent
    }

    fn learn(&mut self, address: Ipv4Addr, mac: Mac) {
        if self.peers.get(&address) == Some(&mac) {
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            self.peers.clear();
        }
        self.peers.insert(address, mac);
    }
}

fn open(interface: u32, queue: u32, own: SocketAddrV4, zero_copy: bool) -> io::Result<(Socket, Program)> {
    let mode = if zero_copy { Mode::Native } else { Mode::Generic };
    let failed =
        |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let program = Program::attach(interface, own, LONGEST as i32, mode)
        .map_err(failed("the program for AF_XDP (needs CAP_NET_ADMIN and CAP_BPF)"))?;
    let socket = Socket::open(interface, queue, zero_copy)
        .map_err(failed("a socket of AF_XDP (needs CAP_NET_RAW)"))?;
    program.give(queue, socket.as_fd()).map_err(failed("the queue's place in the map of sockets"))?;
    Ok((socket, program))
}

impl Port for XdpPort {
    fn address(&self) -> SocketAddr {
        SocketAddr::V4(self.own)
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        let SocketAddr::V4(peer) = to else { return true };
        let Some(mac) = self.peers.get(peer.ip()).filter(|_| packet.len() <= XdpPort::LONGEST_PACKET) else {
            return self.send_slowly(to, packet);
        };
        if !self.socket.has_room() {
            return false;
        }
        let Some(flow) = Flow::new(SocketAddr::V4(self.own), to, Ipv4Fields::UNFRAGMENTED) else {
            return true;
        };
        flow.seal(packet);
        let frame = Frame { macs: [*mac, self.mac], from: self.own, to: peer };
        let sent = self.socket.send(HEADERS + packet.len(), |bytes| frame.write(packet, bytes));
        self.counts.sent += u64::from(sent);
        if !sent {
            packet.truncate(packet.len() - ICRC_BYTES);
        }
        sent
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        let own = SocketAddr::V4(self.own);
        let read = |bytes: &[u8]| {
            let came = frame::read(bytes)?;
            let flow = Flow::new(SocketAddr::V4(came.from), own, came.fields)?;
            packet.clear();
            packet.extend_from_slice(flow.open(came.datagram)?);
            Some((came.from, came.mac))
        };
        match self.socket.receive(read) {
            None => self.receive_slowly(packet),
            Some(None) => Received::Corrupt,
            Some(Some((from, mac))) => {
                self.learn(*from.ip(), mac);
                self.counts.received += 1;
                Received::Packet(SocketAddr::V4(from))
            }
        }
    }

    fn has_room(&mut self, _to: SocketAddr) -> bool {
        // If there is none, the kernel is told once more.
        self.socket.has_room() || {
            self.socket.flush();
            self.socket.has_room()
        }
    }

    fn flush(&mut self) -> bool {
        // What the UDP socket has is little, and leaves with it.
        self.udp.flush() & self.socket.flush()
    }

    fn arm(&mut self) -> bool {
        // The UDP socket is looked at by the next call.
        self.quiet = LOOK_EACH;
        self.udp.arm()
    }
}

/// A descriptor that is readable when an [`XdpPort`] has received something.
pub struct XdpWaiter {
    epoll: OwnedFd,
    _udp: crate::udp::UdpWaiter,
}

impl AsFd for XdpWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The interface that has an address: its number and its own address.
fn interface_of(address: Ipv4Addr) -> io::Result<(u32, Mac)> {
    let all: Vec<_> = getifaddrs()?.collect();
    let has = |found: &&nix::ifaddrs::InterfaceAddress| {
        found.address.is_some_and(|found| found.as_sockaddr_in().is_some_and(|found| found.ip() == address))
    };
    let name = &all.iter().find(has).ok_or(io::ErrorKind::NotFound)?.interface_name;
    let link = all
        .iter()
        .filter(|found| found.interface_name == *name)
        .find_map(|found| found.address.as_ref()?.as_link_addr().copied())
        .ok_or(io::ErrorKind::NotFound)?;
    let mac = link.addr().ok_or(io::ErrorKind::Unsupported)?;
    Ok((link.ifindex() as u32, Mac(mac)))
}
