//! Sockets of packets between two processes of this host (`SOCK_SEQPACKET`): a packet comes as a whole, or not at all. So any
//! thread may say or take something, at any time, and nobody has half of it.
//!
//! Names are abstract: they are in no directory, and lead to processes of the same network namespace, as does a host's name here. They
//! are no secret; who is at the other end the kernel says (`SO_PEERCRED`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{getsockopt, recv, send, MsgFlags};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::{UnixDatagram, UnixListener};

/// What a name begins with, so that people see whose it is.
const PREFIX: &str = "gridnet-line-";
/// Callers that may wait to be taken.
const BACKLOG: i32 = 16;

/// The number in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name([u8; 16]);

impl Name {
    fn address(self) -> io::Result<SockAddr> {
        SockAddr::unix(format!("\0{PREFIX}{}", self.hex()))
    }

    pub(super) fn hex(self) -> String {
        crate::hex::encode(&self.0)
    }
}

/// A process at the other end, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) pid: u32,
}

/// The user of this process, as the kernel shows it to others.
pub(super) fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether the kernel tells this process of which user others are: those that are not mapped in its namespace all look like one.
pub(super) fn knows_users() -> bool {
    static UNMAPPED: OnceLock<u32> = OnceLock::new();
    let unmapped = UNMAPPED.get_or_init(|| {
        let said = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        said.and_then(|said| said.trim().parse().ok()).unwrap_or(65_534)
    });
    own_uid() != *unmapped
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Where somebody may call.
pub(super) struct Listener(UnixListener);

impl Listener {
    /// Listens at a name that nobody has. Within the runtime.
    pub(super) fn open() -> io::Result<(Listener, Name)> {
        let mut name = Name([0; 16]);
        crate::random::fill(&mut name.0).map_err(io::Error::other)?;
        let socket = open()?;
        socket.bind(&name.address()?)?;
        socket.listen(BACKLOG)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
        Ok((Listener(listener), name))
    }

    pub(super) async fn accept(&self) -> io::Result<Packets> {
        // It does not block already.
        let (caller, _) = self.0.accept().await?;
        Packets::new(caller.into_std()?.into())
    }
}

/// One end of a connection.
pub(super) struct Packets {
    waker: Waker,
    socket: OwnedFd,
}

/// What wakes the thread of the member when something has come: that thread watches this set, and the socket is in it only as long as the
/// thread is to be woken.
struct Waker {
    /// Another descriptor of the set, which waits as a `UnixDatagram` does: the type has no part in what that asks of the system.
    watched: UnixDatagram,
    set: Epoll,
}

impl Waker {
    /// An empty one. Within the runtime.
    fn new() -> io::Result<Waker> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watched = std::os::unix::net::UnixDatagram::from(set.0.try_clone()?);
        // Nobody reads it, but it is asked for.
        watched.set_nonblocking(true)?;
        Ok(Waker { watched: UnixDatagram::from_std(watched)?, set })
    }
}

impl Packets {
    /// Within the runtime.
    fn new(socket: OwnedFd) -> io::Result<Packets> {
        let packets = Packets { waker: Waker::new()?, socket };
        packets.watch(true)?;
        Ok(packets)
    }

    /// Whether the thread of the member is woken from now on when something comes. When something is there already, it is woken at
    /// once. Only in turns.
    pub(super) fn watch(&self, is_watched: bool) -> io::Result<()> {
        let set = &self.waker.set;
        // It goes, and comes anew: the system would not look again at one that is only changed, and was ready before.
        match is_watched {
            true => set.add(&self.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?,
            false => set.delete(&self.socket)?,
        }
        Ok(())
    }

    /// Calls who listens at a name. Within the runtime.
    pub(super) fn connect(name: Name) -> io::Result<Packets> {
        let socket = open()?;
        // Where there is room it is done at once, whether somebody has taken it or not.
        socket.connect(&name.address()?)?;
        Packets::new(socket.into())
    }

    /// Who is at the other end: who has called, or listens.
    pub(super) fn peer(&self) -> io::Result<Process> {
        let peer = getsockopt(&self.socket, PeerCredentials)?;
        // Of another process namespace it is 0.
        Ok(Process { uid: peer.uid(), pid: u32::try_from(peer.pid()).unwrap_or(0) })
    }

    /// Says something, if there is room; whether there was.
    pub(super) fn try_say(&self, packet: &[u8]) -> io::Result<bool> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.socket.as_raw_fd(), packet, flags) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What has come, if anything: how many bytes it has, of which those are in `room` for which there is some. 0: the other end is
    /// closed.
    pub(super) fn try_hear(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until something may have come, and has `hear` take it; that is nothing when all was taken.
    pub(super) async fn when_come<Out>(
        &self,
        mut hear: impl FnMut() -> Option<Out>,
    ) -> io::Result<Option<Out>> {
        let watched = &self.waker.watched;
        watched.readable().await?;
        match watched.try_io(Interest::READABLE, || hear().ok_or(io::ErrorKind::WouldBlock.into())) {
            Ok(heard) => Ok(Some(heard)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits for a packet of so many bytes.
    pub(super) async fn hear<const LEN: usize>(&self) -> io::Result<[u8; LEN]> {
        let mut room = [0; LEN];
        loop {
            match self.when_come(|| self.try_hear(&mut room).transpose()).await?.transpose()? {
                Some(len) if len == LEN => return Ok(room),
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) => return Err(io::Error::other("it says something else")),
                None => (),
            }
        }
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_runtime;

    #[test]
    fn packets_come_as_a_whole_from_whom_the_kernel_says() {
        in_runtime(async {
            let (listener, name) = Listener::open().unwrap();
            let caller = Packets::connect(name).unwrap();
            let called = listener.accept().await.unwrap();
            let own = Process { uid: own_uid(), pid: std::process::id() };
            assert_eq!((caller.peer().unwrap(), called.peer().unwrap()), (own, own));
            assert!(caller.try_say(b"one").unwrap() && caller.try_say(b"three").unwrap());
            assert_eq!(called.hear::<3>().await.unwrap(), *b"one");
            assert!(called.hear::<4>().await.is_err(), "it is longer");
            let mut room = [0; 8];
            assert_eq!(called.try_hear(&mut room).unwrap(), None);
            while caller.try_say(&[7; 4096]).unwrap() {}
            assert_eq!(called.try_hear(&mut room).unwrap(), Some(4096), "also what has no room");
            drop(caller);
            while called.try_hear(&mut room).unwrap() != Some(0) {}
            assert!(called.try_say(b"x").is_err());
            drop((listener, called));
            assert!(Packets::connect(name).is_err(), "nobody listens any more");
        });
    }
}
