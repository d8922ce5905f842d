//! Shared memory between processes of a host: a port without a network.
//!
//! Each pair of ports that talk has a segment with two rings, one in either direction. Who sends first makes it, and hands it over
//! through a Unix socket that has no name in any directory; the connection stays, wakes a device that sleeps, and tells of the end
//! of the peer's process. Packets have no ICRC: nothing is between the two.
//!
//! | file | concept |
//! |---|---|
//! | `segment.rs` | the memory, and the two rings in it |
//! | `greeting.rs` | sockets: how a segment comes to the peer, wake-ups |
//! | `link.rs` | a peer: its rings, its socket, the bell |
//!
//! Whoever has the same user id is trusted not to forge the number of another process; what it writes into the memory is not.

mod greeting;
mod link;
mod segment;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use self::greeting::Said;
use self::link::{Link, Taken};
use self::segment::Segment;
use crate::number::ByNumber;
use crate::port::{Port, Received};
use crate::wire::PORT;

/// The upper half of addresses: a prefix that no router forwards (RFC 6666), so that nobody takes them for those of hosts.
const PREFIX: u64 = 0x0100_0000_0000_0000;
/// The sockets are looked at, which costs a system call, when so much time has passed since the last look: a new peer waits so long,
const LOOK_EACH: Duration = Duration::from_micros(50);
/// and of so many calls of `receive` one asks for the time. Few, as the caller may give its core away between two calls, which takes
/// milliseconds on a busy machine.
const ASK_EACH: u32 = 8;
/// Packets of one peer before the next has its turn.
const RUN: u32 = 16;
/// Connections that have not said who they are.
const MAX_GUESTS: usize = 64;
/// Peers of one port: each takes two descriptors for a moment, one for good, and 2 MiB of memory.
const MAX_LINKS: usize = 4096;
/// Events of sockets that are looked at together.
const EVENTS: usize = 16;

/// A port to devices of other processes of this host, of the same user and in the same network namespace.
///
/// Its address is a number of chance that looks like an address of IPv6, the port means nothing. Not to be used in a forked child.
pub struct ShmPort {
    id: u64,
    listener: OwnedFd,
    epoll: Epoll,
    guests: Vec<OwnedFd>,
    links: Vec<Link>,
    /// Where in `links` a peer is that can be sent to.
    by_peer: ByNumber<u64, usize>,
    /// The link whose turn it is, and packets that it had in this turn.
    turn: usize,
    run: u32,
    /// The last look at the sockets, and calls since the clock was asked.
    looked: Instant,
    unasked: u32,
    /// Peers were told that this side sleeps.
    asleep: bool,
}

impl ShmPort {
    /// A port with an address of its own.
    ///
    /// # Errors
    /// When the system has no random numbers, or no descriptors.
    pub fn open() -> io::Result<ShmPort> {
        let id = getrandom::u64().map_err(|_| io::Error::other("the system has no random numbers"))?;
        let listener = greeting::listen(id)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, interest(&listener))?;
        Ok(ShmPort {
            id,
            listener,
            epoll,
            guests: Vec::new(),
            links: Vec::new(),
            by_peer: ByNumber::default(),
            turn: 0,
            run: 0,
            looked: Instant::now(),
            unasked: 0,
            asleep: false,
        })
    }

    /// Whether an address is that of such a port; there may be none of this number.
    pub fn is_address(address: SocketAddr) -> bool {
        id_of(address).is_some()
    }

    /// A descriptor for who waits until something comes, or there is room again: after [`Device::arm`](crate::Device::arm) has said
    /// that it may.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn waiter(&self) -> io::Result<ShmWaiter> {
        Ok(ShmWaiter(self.epoll.0.try_clone()?))
    }

    /// Looks at the sockets: new peers, wake-ups, peers that have gone.
    fn look_around(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        // What goes wrong now is seen by the next look.
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            self.attend(event.data() as RawFd);
        }
    }

    fn attend(&mut self, file: RawFd) {
        if file == self.listener.as_raw_fd() {
            return self.accept();
        }
        if let Some(at) = self.guests.iter().position(|guest| guest.as_raw_fd() == file) {
            return self.greet(at);
        }
        if let Some(link) = self.links.iter_mut().find(|link| link.stream().as_raw_fd() == file) {
            if !link.listen() {
                // It is read to its end: from here on the socket would only wake without need.
                let _ = self.epoll.delete(link.stream());
            }
        }
    }

    fn accept(&mut self) {
        // Those of other users count, too: they may come as fast as they are accepted.
        for _ in 0..MAX_GUESTS {
            let Some(guest) = greeting::accept(&self.listener) else { return };
            if !greeting::is_of_this_user(&guest) {
                continue;
            }
            if self.guests.len() >= MAX_GUESTS {
                // Whoever is silent longest makes room: ports speak at once.
                let silent = self.guests.remove(0);
                let _ = self.epoll.delete(&silent);
            }
            if self.links.len() < MAX_LINKS && self.epoll.add(&guest, interest(&guest)).is_ok() {
                self.guests.push(guest);
            }
        }
    }

    /// A guest has said something: who it is, or it has to go.
    fn greet(&mut self, at: usize) {
        let said = greeting::hear(&self.guests[at]);
        if matches!(said, Said::Nothing) {
            return;
        }
        // The others stay in the order in which they came.
        let stream = self.guests.remove(at);
        if let Said::Hello(peer, file) = said {
            if let Ok(segment) = Segment::join(&file) {
                return self.add(Link::new(peer, stream, segment));
            }
        }
        let _ = self.epoll.delete(&stream);
    }

    fn add(&mut self, link: Link) {
        self.links.push(link);
        self.index();
    }

    fn remove(&mut self, at: usize) {
        // May have been done.
        let _ = self.epoll.delete(self.links[at].stream());
        self.links.swap_remove(at);
        self.turn = 0;
        self.index();
    }

    /// Says anew where peers are. Of two links to one, which both have made at the same time, either does.
    fn index(&mut self) {
        let alive = self.links.iter().enumerate().filter(|(_, link)| !link.is_over());
        self.by_peer = alive.map(|(at, link)| (link.peer(), at)).collect();
    }

    /// The link to a device, which is made when there is none. None when there is no such device.
    fn link_to(&mut self, to: SocketAddr) -> Option<&mut Link> {
        let peer = id_of(to)?;
        let known = self.by_peer.get(&peer).copied();
        let at = match known.filter(|at| !self.links[*at].is_over()) {
            Some(at) => at,
            None => {
                self.call(peer).ok()?;
                self.links.len() - 1
            }
        };
        self.links.get_mut(at)
    }

    fn call(&mut self, peer: u64) -> io::Result<()> {
        if self.links.len() >= MAX_LINKS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let stream = greeting::connect_to(peer)?;
        let (file, segment) = Segment::create()?;
        greeting::hello(&stream, self.id, file.as_fd())?;
        self.epoll.add(&stream, interest(&stream))?;
        self.add(Link::new(peer, stream, segment));
        Ok(())
    }

    /// The device works again: peers need not wake it.
    fn wake(&mut self) {
        self.asleep = false;
        self.links.iter_mut().for_each(Link::disarm);
        self.look_around();
    }

    fn is_time_to_look(&mut self) -> bool {
        self.unasked += 1;
        if self.unasked < ASK_EACH {
            return false;
        }
        self.unasked = 0;
        let now = Instant::now();
        let is_time = now.duration_since(self.looked) >= LOOK_EACH;
        if is_time {
            self.looked = now;
        }
        is_time
    }

    fn next_turn(&mut self) {
        self.run = 0;
        self.turn = if self.turn + 1 < self.links.len() { self.turn + 1 } else { 0 };
    }
}

impl Port for ShmPort {
    fn address(&self) -> SocketAddr {
        address_of(self.id)
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        // Nobody is there: lost, as on any network.
        self.link_to(to).is_none_or(|link| link.send(packet))
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        if self.asleep {
            self.wake();
        } else if self.is_time_to_look() {
            self.look_around();
        }
        for _ in 0..self.links.len() {
            let Some(link) = self.links.get_mut(self.turn) else { break };
            match link.take(packet) {
                Taken::Packet => {
                    let from = address_of(link.peer());
                    self.run += 1;
                    if self.run >= RUN {
                        self.next_turn();
                    }
                    return Received::Packet(from);
                }
                Taken::Corrupt => {
                    self.remove(self.turn);
                    return Received::Corrupt;
                }
                Taken::Nothing if link.is_over() => self.remove(self.turn),
                Taken::Nothing => self.next_turn(),
            }
        }
        Received::Nothing
    }

    fn has_room(&mut self, to: SocketAddr) -> bool {
        // Where there is no link yet, the first packet makes one.
        let at = id_of(to).and_then(|peer| self.by_peer.get(&peer).copied());
        at.and_then(|at| self.links.get_mut(at)).is_none_or(Link::has_room)
    }

    fn arm(&mut self) -> bool {
        self.asleep = true;
        self.links.iter_mut().for_each(Link::arm);
        !self.links.iter_mut().any(Link::has_something)
    }

    fn is_armed(&self) -> bool {
        self.asleep
    }
}

/// A descriptor that is readable when a [`ShmPort`] that was armed has something to do.
pub struct ShmWaiter(OwnedFd);

impl AsFd for ShmWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn interest(file: &OwnedFd) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, file.as_raw_fd() as u64)
}

fn address_of(id: u64) -> SocketAddr {
    let address = Ipv6Addr::from_bits(u128::from(PREFIX) << 64 | u128::from(id));
    SocketAddr::new(address.into(), PORT)
}

fn id_of(address: SocketAddr) -> Option<u64> {
    let IpAddr::V6(address) = address.ip() else { return None };
    let bits = address.to_bits();
    (bits >> 64 == u128::from(PREFIX)).then_some(bits as u64)
}
