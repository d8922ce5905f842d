//! Unix sockets: where links are made, and how the end of a peer is noticed.
//!
//! Packets (SOCK_SEQPACKET): one byte of type, then either a handshake with two descriptors (segment and doorbell)
//! or a rejection (status, four bytes, and a text), or, once a link is made, the sender's heap as a descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{Hello, MAX_HELLO_BYTES};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, shutdown, socket, sockopt, AddressFamily,
    Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
};
use nix::sys::stat::fstat;
use nix::unistd::geteuid;

const TYPE_HELLO: u8 = b'H';
const TYPE_REJECT: u8 = b'R';
const TYPE_HEAP: u8 = b'M';
const TYPE_FOREIGN: u8 = b'F';
const TYPE_WAKE: u8 = b'W';
const TYPE_EARLY: u8 = b'E';
const TYPE_CALL: u8 = b'C';
const TYPE_READY: u8 = b'Y';
/// Packets that are thrown away in one go, so that nobody who sends on and on keeps anybody waiting.
const MOST_UNHEARD: usize = 16;
/// Descriptors that a connection brings: segment and doorbell.
const BROUGHT: usize = 2;
const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// What a peer sent.
#[derive(Debug)]
pub enum Packet {
    /// Its handshake, its segment and its doorbell.
    Hello(Box<Hello>, OwnedFd, OwnedFd),
    /// The same of one that may call later.
    Early(Box<Hello>, OwnedFd, OwnedFd),
    /// The handshake of one whose segment and doorbell have come before.
    Call(Box<Hello>),
    /// The handshake and the segment of a fabric of another user.
    Foreign(Box<Hello>, OwnedFd),
    /// A peer of another user wants to be looked at.
    Wake,
    /// It does not want the link, or this one of two.
    Reject(Refusal),
    /// Its heap.
    Heap(OwnedFd),
    /// Nothing yet.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// A socket that accepts links at `path`. It appears there when it accepts, not before.
///
/// # Errors
/// When the path is too long, or the system refuses.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Refusal> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None).map_err(system("socket"))?;
    let temporary = path.with_extension("new");
    bind(listener.as_raw_fd(), &address(&temporary)?).map_err(system("bind"))?;
    kill_point!("open.bound");
    let backlog = Backlog::new(4096).unwrap_or(Backlog::MAXCONN);
    listen(&listener, backlog).map_err(system("listen"))?;
    std::fs::rename(&temporary, path)
        .map_err(|e| Refusal::new(Error::System, format!("renaming to {}: {e}", path.display())))?;
    kill_point!("open.listening");
    Ok(listener)
}

/// A socket that accepts links of other users, at a name that is in no directory.
///
/// # Errors
/// When the name is taken, or the system refuses.
pub fn listen_abstract(name: &str) -> Result<OwnedFd, Refusal> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None).map_err(system("socket"))?;
    let address = UnixAddr::new_abstract(name.as_bytes()).map_err(system("bind"))?;
    bind(listener.as_raw_fd(), &address).map_err(system("bind"))?;
    listen(&listener, Backlog::new(128).unwrap_or(Backlog::MAXCONN)).map_err(system("listen"))?;
    Ok(listener)
}

/// Connects to the fabric that listens at such a name.
///
/// # Errors
/// As [`connect_to`].
pub fn connect_abstract(name: &str) -> Result<OwnedFd, Refusal> {
    connect_at(&UnixAddr::new_abstract(name.as_bytes()).map_err(system("connect"))?)
}

/// Connects to the fabric that listens at `path`.
///
/// # Errors
/// [`Error::Unreachable`] when nobody listens there, [`Error::Again`] when its queue is full.
pub fn connect_to(path: &Path) -> Result<OwnedFd, Refusal> {
    connect_at(&address(path)?)
}

fn connect_at(address: &UnixAddr) -> Result<OwnedFd, Refusal> {
    let stream = socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None).map_err(system("socket"))?;
    match connect(stream.as_raw_fd(), address) {
        Ok(()) => Ok(stream),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Err(Refusal::new(
            Error::Unreachable,
            "no process of this host listens there: the peer has ended, or belongs to another host, network namespace or run directory",
        )),
        Err(Errno::EAGAIN) => Err(Refusal::new(Error::Again, "the peer's queue of new connections is full")),
        Err(Errno::EACCES | Errno::EPERM) => {
            Err(Refusal::new(Error::Permission, "the peer's socket belongs to another user"))
        }
        Err(e) => Err(system("connect")(e)),
    }
}

/// Looks whether somebody holds a listening socket, without a call that its owner would have to answer.
#[derive(Debug)]
pub struct Probe(OwnedFd);

impl Probe {
    /// Serves any number of looks.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub fn new() -> Result<Probe, Refusal> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Unix, SockType::Datagram, flags, None).map(Probe).map_err(system("socket"))
    }

    /// Whether the socket at `path` belongs to nobody any more. Of one that a forked child of its dead owner holds this
    /// says no; whatever else goes wrong is no proof either.
    pub fn is_abandoned(&self, path: &Path) -> bool {
        // A datagram socket cannot connect to one that listens: the system says that it is of another type (EPROTOTYPE), if
        // it is there at all.
        let Ok(address) = address(path) else { return false };
        let connected = connect(self.0.as_raw_fd(), &address);
        matches!(connected, Err(Errno::ECONNREFUSED | Errno::ENOENT))
    }
}

/// Ends a connection, or listening, whoever else holds a copy of the descriptor.
pub fn hang_up(stream: &OwnedFd) {
    // An error says that it is over already.
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Both);
}

/// Ends a connection for the other end, whoever here holds a copy, and goes on hearing whether it hangs up.
pub fn say_goodbye(stream: &OwnedFd) {
    // An error says that it is over already.
    let _ = shutdown(stream.as_raw_fd(), Shutdown::Write);
}

/// Whether the other end of a connection has hung up, or its process has ended. What it had sent is thrown away.
pub fn has_left(stream: &OwnedFd) -> bool {
    for _ in 0..MOST_UNHEARD {
        match receive(stream) {
            Ok(Packet::Closed) => return true,
            Ok(Packet::Nothing) => break,
            Ok(_) | Err(_) => {}
        }
    }
    !is_peer_alive(stream)
}

/// Whether the process at the other end lives; a connection can also be kept by its forked child.
///
/// Without a mistake on Linux 6.5 and later; before, a process that has ended and whose number was taken again is taken for
/// its successor. What cannot be known (no such descriptors, or none left) counts as life.
pub fn is_peer_alive(stream: &OwnedFd) -> bool {
    peer_process(stream).map_or_else(|errno| errno != Errno::ESRCH, |process| !has_ended(&process))
}

/// The next connection, if there is one.
///
/// # Errors
/// When the system has no descriptor or memory for it and for what it brings: it stays in the queue.
pub fn accept_next(listener: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    // A handshake that finds no room for its descriptors is lost: better not to hear it yet.
    let room: Result<Vec<OwnedFd>, _> = (0..BROUGHT).map(|_| listener.try_clone()).collect();
    let accepted = room.map_err(|_| Errno::EMFILE).and_then(|_room| accept4(listener.as_raw_fd(), FLAGS));
    match accepted {
        // SAFETY: accept4 has just made this descriptor, and nobody else has it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)) => Err(e),
        Err(_) => Ok(None),
    }
}

/// Whether a descriptor is an eventfd that never blocks: whatever else a peer hands over as its doorbell could stop or
/// kill whoever rings. `kind` is what [`doorbell_kind`] says of the own one.
///
/// Eventfds share one inode with other files of no place, such as timers and epoll instances, which refuse to be written
/// to. Where they do not, the name that the system gives them decides, which takes much longer.
pub fn is_doorbell(file: &OwnedFd, kind: Option<(u64, u64)>) -> bool {
    let flags = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let blocks = !flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK));
    !blocks && (kind.is_some() && doorbell_kind(file) == kind || is_named_eventfd(file))
}

fn is_named_eventfd(file: &OwnedFd) -> bool {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    name.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]")
}

/// Refuses a peer of another user: one user is one domain of trust.
///
/// # Errors
/// [`Error::Permission`].
pub fn check_user(stream: &OwnedFd) -> Result<(), Refusal> {
    let peer = peer_user(stream)?;
    if peer == geteuid().as_raw() {
        return Ok(());
    }
    Err(Refusal::new(
        Error::Permission,
        format!("the peer runs as user {peer}, this process as user {}", geteuid()),
    ))
}

/// The user of the process at the other end, when it called or began to listen.
///
/// # Errors
/// When the system does not say.
pub fn peer_user(stream: &OwnedFd) -> Result<u32, Refusal> {
    getsockopt(stream, sockopt::PeerCredentials).map(|peer| peer.uid()).map_err(system("SO_PEERCRED"))
}

/// Number of the process at the other end; 0 when it has none among the processes that are seen from here.
pub fn peer_pid(stream: &OwnedFd) -> i32 {
    getsockopt(stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid())
}

/// A descriptor that is readable when the process at the other end has ended.
///
/// # Errors
/// ESRCH when it has ended and was collected.
pub fn peer_process(stream: &OwnedFd) -> Result<OwnedFd, Errno> {
    const SO_PEERPIDFD: i32 = 77;
    let mut fd: RawFd = -1;
    let mut len = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: the option writes one descriptor into `fd`, whose size `len` gives.
    let status = unsafe {
        let value = std::ptr::from_mut(&mut fd).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value, &mut len)
    };
    if status != 0 {
        match Errno::last() {
            Errno::ENOPROTOOPT => fd = process_of(peer_pid(stream))?,
            // Kernels disagree on how to say that there is no such process any more.
            Errno::EINVAL | Errno::ESRCH => return Err(Errno::ESRCH),
            other => return Err(other),
        }
    }
    // SAFETY: the kernel has just made this descriptor (close-on-exec, as all pidfds), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of the process of this number, to be owned by the caller.
fn process_of(pid: i32) -> Result<RawFd, Errno> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(|fd| fd as RawFd)
}

/// What all eventfds of a system have in common: device and inode.
pub fn doorbell_kind(own: &OwnedFd) -> Option<(u64, u64)> {
    fstat(own).ok().map(|file| (file.st_dev, file.st_ino))
}

/// Sends a handshake with segment and doorbell.
///
/// # Errors
/// When the other end is closed.
pub fn send_hello(stream: &OwnedFd, hello: &Hello, files: [BorrowedFd<'_>; 2]) -> Result<(), Refusal> {
    let fds = files.map(|f| f.as_raw_fd());
    send(stream, TYPE_HELLO, &hello.encode(), &[ControlMessage::ScmRights(&fds)])
}

/// Sends what a handshake brings, before it is known whether there will be one.
///
/// # Errors
/// When the other end is closed.
pub fn send_early(stream: &OwnedFd, hello: &Hello, files: [BorrowedFd<'_>; 2]) -> Result<(), Refusal> {
    let fds = files.map(|f| f.as_raw_fd());
    send(stream, TYPE_EARLY, &hello.encode(), &[ControlMessage::ScmRights(&fds)])
}

/// Says to one who has brought all that a handshake brings that it may call here.
pub fn send_ready(stream: &OwnedFd) {
    // Who has gone meanwhile does not call.
    let _ = send(stream, TYPE_READY, &[], &[]);
}

/// Sends a handshake to one who has been sent all that it brings, and has said that it is [ready](send_ready).
///
/// # Errors
/// When the other end is closed.
pub fn send_call(stream: &OwnedFd, hello: &Hello) -> Result<(), Refusal> {
    send(stream, TYPE_CALL, &hello.encode(), &[])
}

/// Sends a handshake with the segment for this pair, to another user.
///
/// # Errors
/// When the other end is closed.
pub fn send_foreign(stream: &OwnedFd, hello: &Hello, segment: BorrowedFd<'_>) -> Result<(), Refusal> {
    send(stream, TYPE_FOREIGN, &hello.encode(), &[ControlMessage::ScmRights(&[segment.as_raw_fd()])])
}

/// Wakes a peer of another user.
pub fn send_wake(stream: &OwnedFd) {
    // When it finds no room, there are packets that wake as well.
    let _ = send(stream, TYPE_WAKE, &[], &[]);
}

/// Sends a rejection.
///
/// # Errors
/// When the other end is closed.
pub fn send_reject(stream: &OwnedFd, refusal: &Refusal) -> Result<(), Refusal> {
    let mut body = refusal.error.code().to_le_bytes().to_vec();
    body.extend(refusal.reason.bytes().take(MAX_HELLO_BYTES - 4));
    send(stream, TYPE_REJECT, &body, &[])
}

/// Sends a heap.
///
/// # Errors
/// When the other end is closed, or listens to nothing.
pub fn send_heap(stream: &OwnedFd, heap: BorrowedFd<'_>) -> Result<(), Refusal> {
    send(stream, TYPE_HEAP, &[], &[ControlMessage::ScmRights(&[heap.as_raw_fd()])])
}

/// Whether the next packet is a heap.
pub fn is_heap_next(stream: &OwnedFd) -> bool {
    let mut kind = [0u8];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    nix::sys::socket::recv(stream.as_raw_fd(), &mut kind, flags) == Ok(1) && kind == [TYPE_HEAP]
}

/// Takes the next packet, if one has come; whether it says that the other end is [ready](send_ready) for a call, which is still there.
pub fn take_ready(stream: &OwnedFd) -> bool {
    let mut kind = [0u8];
    let mut receive =
        |flags| nix::sys::socket::recv(stream.as_raw_fd(), &mut kind, flags | MsgFlags::MSG_DONTWAIT);
    let is_one = receive(MsgFlags::empty()) == Ok(1);
    let is_silent = receive(MsgFlags::MSG_PEEK) == Err(Errno::EAGAIN);
    is_one && is_silent && kind == [TYPE_READY]
}

/// Whether the process of such a descriptor has ended. A look that a signal cuts short says nothing: the next one will.
pub fn has_ended(process: &OwnedFd) -> bool {
    let mut set = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut set, PollTimeout::ZERO), Ok(ready) if ready > 0)
}

fn send(stream: &OwnedFd, kind: u8, body: &[u8], control: &[ControlMessage<'_>]) -> Result<(), Refusal> {
    let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(body)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    match sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, control, flags, None) {
        Ok(_) => Ok(()),
        Err(Errno::EPIPE | Errno::ECONNRESET) => {
            Err(Refusal::new(Error::Unreachable, "the peer has ended while the link was made"))
        }
        Err(e) => Err(system("sendmsg")(e)),
    }
}

/// Reads one packet.
///
/// # Errors
/// [`Error::PeerMisbehaved`] when it is none of ours.
pub fn receive(stream: &OwnedFd) -> Result<Packet, Refusal> {
    receive_with(stream, |files| files)
}

/// As [`receive`], from another user. Of descriptors that are no memory files, a file system that does not answer could
/// make even closing wait: that happens aside.
///
/// # Errors
/// As [`receive`].
pub fn receive_foreign(stream: &OwnedFd) -> Result<Packet, Refusal> {
    receive_with(stream, |files| {
        let (memory, other): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| fcntl(file, FcntlArg::F_GET_SEALS).is_ok());
        if !other.is_empty() {
            let aside = std::thread::Builder::new().name("gridnet-close".to_owned());
            // Without a thread the files are closed here.
            let _ = aside.spawn(move || drop(other));
        }
        memory
    })
}

fn receive_with(
    stream: &OwnedFd,
    sift: impl FnOnce(Vec<OwnedFd>) -> Vec<OwnedFd>,
) -> Result<Packet, Refusal> {
    let mut bytes = [0u8; MAX_HELLO_BYTES + 1];
    let mut control = cmsg_space!([RawFd; 4]);
    let (len, files) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            // Said once, when the other end has gone without hearing us; what it had said itself comes next.
            Err(Errno::ECONNRESET) => return Ok(Packet::Nothing),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Packet::Nothing),
            Err(_) => return Ok(Packet::Closed),
        };
        let mut files = Vec::new();
        for part in message.cmsgs().map_err(system("recvmsg"))? {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel has just installed these descriptors for us, and nobody else has them.
                files.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, files)
    };
    parse_packet(bytes.get(..len).unwrap_or_default(), sift(files))
}

pub(crate) fn parse_packet(bytes: &[u8], files: Vec<OwnedFd>) -> Result<Packet, Refusal> {
    let misbehaved = |why: String| Refusal::new(Error::PeerMisbehaved, why);
    match bytes.split_first() {
        None => Ok(Packet::Closed),
        Some((kind @ (&TYPE_HELLO | &TYPE_EARLY), body)) => {
            let hello = Hello::parse(body).map_err(|e| misbehaved(format!("handshake is malformed: {e}")))?;
            let [segment, doorbell] = <[OwnedFd; 2]>::try_from(files)
                .map_err(|files| misbehaved(format!("handshake with {} descriptors, not 2", files.len())))?;
            Ok(match *kind {
                TYPE_HELLO => Packet::Hello(Box::new(hello), segment, doorbell),
                _ => Packet::Early(Box::new(hello), segment, doorbell),
            })
        }
        Some((&TYPE_CALL, body)) => {
            let hello = Hello::parse(body).map_err(|e| misbehaved(format!("handshake is malformed: {e}")))?;
            Ok(Packet::Call(Box::new(hello)))
        }
        Some((&TYPE_FOREIGN, body)) => {
            let hello = Hello::parse(body).map_err(|e| misbehaved(format!("handshake is malformed: {e}")))?;
            let [segment] = <[OwnedFd; 1]>::try_from(files)
                .map_err(|files| misbehaved(format!("handshake with {} memory files, not 1", files.len())))?;
            Ok(Packet::Foreign(Box::new(hello), segment))
        }
        Some((&TYPE_WAKE, [])) => Ok(Packet::Wake),
        Some((&TYPE_HEAP, [])) => {
            let [heap] = <[OwnedFd; 1]>::try_from(files)
                .map_err(|files| misbehaved(format!("heap with {} descriptors, not 1", files.len())))?;
            Ok(Packet::Heap(heap))
        }
        Some((&TYPE_REJECT, body)) => {
            let (code, text) =
                body.split_first_chunk().ok_or_else(|| misbehaved("short rejection".into()))?;
            let error = Error::from_code(i32::from_le_bytes(*code)).unwrap_or(Error::Unreachable);
            Ok(Packet::Reject(Refusal::new(error, String::from_utf8_lossy(text))))
        }
        Some((other, _)) => Err(misbehaved(format!("packet of unknown type {other}"))),
    }
}

fn address(path: &Path) -> Result<UnixAddr, Refusal> {
    UnixAddr::new(path).map_err(|_| {
        Refusal::new(
            Error::Config,
            format!("{} is too long for a socket; set GRIDNET_RUN_DIR to a shorter path", path.display()),
        )
    })
}

fn system(what: &'static str) -> impl Fn(Errno) -> Refusal {
    move |errno| Refusal::new(Error::System, format!("{what}: {}", errno.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet_core::wire::NodeId;
    use nix::sys::socket::socketpair;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, FLAGS).unwrap()
    }

    #[test]
    fn handshakes_and_rejections_arrive_as_sent() {
        let (a, b) = pair();
        assert!(matches!(receive(&b).unwrap(), Packet::Nothing));
        let hello = Hello::new(NodeId::new([5; 16]).unwrap(), 6, 1);
        send_hello(&a, &hello, [a.as_fd(), b.as_fd()]).unwrap();
        assert!(matches!(receive(&b).unwrap(), Packet::Hello(got, _, _) if *got == hello));
        let refusal = Refusal::new(Error::Version, "too new");
        send_reject(&a, &refusal).unwrap();
        assert!(matches!(receive(&b).unwrap(), Packet::Reject(got) if got == refusal));
        drop(a);
        assert!(matches!(receive(&b).unwrap(), Packet::Closed));
    }

    #[test]
    fn a_peer_that_has_just_ended_is_unreachable() {
        let (a, b) = pair();
        drop(b);
        let hello = Hello::new(NodeId::new([5; 16]).unwrap(), 6, 1);
        let refusal = send_hello(&a, &hello, [a.as_fd(), a.as_fd()]).unwrap_err();
        assert_eq!(refusal.error, Error::Unreachable, "{}", refusal.reason);
    }

    #[test]
    fn strange_packets_are_refused() {
        for bytes in [&b"X"[..], b"H", b"HGNET", b"E", b"C", b"CGNET", b"R", b"R12", b"M", b"Mx"] {
            assert_eq!(
                parse_packet(bytes, Vec::new()).unwrap_err().error,
                Error::PeerMisbehaved,
                "{bytes:?}"
            );
        }
        let mut whole = vec![TYPE_HELLO];
        whole.extend(Hello::new(NodeId::new([5; 16]).unwrap(), 6, 1).encode());
        assert!(parse_packet(&whole, Vec::new()).unwrap_err().reason.contains("descriptors"));
    }

    #[test]
    fn the_end_of_this_process_has_not_come() {
        let (a, _b) = pair();
        check_user(&a).unwrap();
        assert!(peer_process(&a).is_ok() && is_peer_alive(&a));
    }

    #[test]
    fn the_end_of_a_process_is_seen_though_its_child_keeps_the_connection() {
        use nix::sys::wait::waitpid;
        use nix::unistd::{fork, ForkResult};
        let dir = std::env::temp_dir().join(format!("gridnet-test-end-{}", std::process::id()));
        let (stop_reader, stop) = std::io::pipe().unwrap();
        // SAFETY: parent and child only make system calls until they leave.
        let owner = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let listener = listen_at(&dir);
                // SAFETY: as above.
                if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() {
                    let mut set = [PollFd::new(listener.as_ref().unwrap().as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut set, PollTimeout::NONE);
                } else {
                    // The grandchild stays until the test closes its end.
                    drop(stop);
                    let _ = nix::unistd::read(&stop_reader, &mut [0]);
                }
                // SAFETY: ends the process without running anything of the test's harness.
                unsafe { libc::_exit(0) }
            }
        };
        let stream = loop {
            if let Ok(stream) = connect_to(&dir) {
                break stream;
            }
            std::thread::yield_now();
        };
        waitpid(owner, None).unwrap();
        assert!(!is_peer_alive(&stream));
        assert!(matches!(receive(&stream).unwrap(), Packet::Nothing), "its child keeps the connection");
        drop(stop);
        let _ = std::fs::remove_file(&dir);
    }

    #[test]
    fn only_an_eventfd_that_does_not_block_is_a_doorbell() {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        let bell = |flags| OwnedFd::from(EventFd::from_flags(flags).unwrap());
        let own = bell(EfdFlags::EFD_NONBLOCK);
        let (socket, _b) = pair();
        for kind in [doorbell_kind(&own), None] {
            assert!(is_doorbell(&bell(EfdFlags::EFD_NONBLOCK), kind));
            assert!(!is_doorbell(&bell(EfdFlags::empty()), kind), "it blocks");
            assert!(!is_doorbell(&socket, kind));
        }
    }
}
