//! Unix sockets between ports: how a segment comes to the peer, how a peer that sleeps is woken, and how the end of its process
//! is seen.
//!
//! Names are in the abstract namespace: they go away with their process, and those of another network namespace are not seen. A
//! connection carries packets (SOCK_SEQPACKET): one greeting, and then bells, of which only that there are some matters.

#![expect(unsafe_code)] // Descriptors that came are owned from here on.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    accept4, bind, connect, getsockopt, listen as open_to_all, recvmsg, send, sendmsg, socket, sockopt,
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
};
use nix::unistd::geteuid;

/// The first byte of a greeting; the number of the layout of segments is in it.
const HELLO: u8 = 0xa1;
/// The one byte of a bell.
const BELL: u8 = 0xb0;
/// Type, number of the sender.
const HELLO_BYTES: usize = 1 + 8;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// What came through a connection.
pub(super) enum Said {
    /// Nothing for now.
    Nothing,
    /// Wake up.
    Bell,
    /// A port, and the segment that it has made.
    Hello(u64, OwnedFd),
    /// The end, or something that no port says.
    Closed,
}

fn name(id: u64) -> nix::Result<UnixAddr> {
    UnixAddr::new_abstract(format!("gridnet-rdma-{id:016x}").as_bytes())
}

fn new() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

/// Where peers of the port `id` connect to.
pub(super) fn listen(id: u64) -> io::Result<OwnedFd> {
    let listener = new()?;
    bind(listener.as_raw_fd(), &name(id)?)?;
    open_to_all(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// Whether the other end is a process of this user: others may connect, since names of this kind have no permissions.
pub(super) fn is_of_this_user(stream: &OwnedFd) -> bool {
    getsockopt(stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

/// The next connection, of whichever user: see [`is_of_this_user`]. None when there is none, or none to be had for now.
pub(super) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let file = accept4(listener.as_raw_fd(), flags).ok()?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(file) })
}

/// A connection to the port `id`.
pub(super) fn connect_to(id: u64) -> io::Result<OwnedFd> {
    let stream = new()?;
    connect(stream.as_raw_fd(), &name(id)?)?;
    if !is_of_this_user(&stream) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(stream)
}

/// Says who this is, and hands the segment over.
pub(super) fn hello(stream: &OwnedFd, own: u64, segment: BorrowedFd<'_>) -> io::Result<()> {
    let mut bytes = [HELLO; HELLO_BYTES];
    bytes[1..].copy_from_slice(&own.to_ne_bytes());
    let files = [segment.as_raw_fd()];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let with = [ControlMessage::ScmRights(&files)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&bytes)], &with, flags, None)?;
    Ok(())
}

/// Wakes the peer. When there is no room, bells wait there that it has not heard.
pub(super) fn ring(stream: &OwnedFd) {
    let _ = send(stream.as_raw_fd(), &[BELL], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
}

/// Takes what came next.
pub(super) fn hear(stream: &OwnedFd) -> Said {
    let mut bytes = [0; HELLO_BYTES + 1];
    let (len, mut files) = match take(stream, &mut bytes) {
        Ok(taken) => taken,
        Err(Errno::EAGAIN | Errno::EINTR) => return Said::Nothing,
        Err(_) => return Said::Closed,
    };
    match (bytes.get(..len), files.pop()) {
        (Some([BELL]), None) => Said::Bell,
        (Some([HELLO, id @ ..]), Some(file)) => match <[u8; 8]>::try_from(id) {
            Ok(id) if files.is_empty() => Said::Hello(u64::from_ne_bytes(id), file),
            _ => Said::Closed,
        },
        _ => Said::Closed,
    }
}

fn take(stream: &OwnedFd, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    // More descriptors than there is room for are closed by the kernel.
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut files = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just installed these descriptors for us, and nobody else has them.
            files.extend(numbers.into_iter().map(|file| unsafe { OwnedFd::from_raw_fd(file) }));
        }
    }
    Ok((message.bytes, files))
}
