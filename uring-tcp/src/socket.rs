//! TCP sockets that never block.

use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::{Path, Refusal};
use gridnet_core::sync::{AtomicU32, Ordering};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, MaybeUninitSlice, Protocol, SockAddr, SockAddrStorage, Socket, TcpKeepalive, Type};

use crate::config::{PortRange, Tuning};
use crate::shallow::Flow;
use crate::tls::{Failed, Tls};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// The congestion control that every system has and allows, and that never waits between two packets.
const UNPACED: &[u8] = b"reno";
/// Ports that are tried for one call.
const PORT_TRIES: u16 = 128;

/// What came of reading or writing.
#[derive(Debug)]
pub(crate) enum Moved {
    /// So many bytes; for reading, never 0.
    Bytes(usize),
    /// Nothing can be moved now.
    Nothing,
    /// The other side has said that nothing more comes.
    End,
    /// The connection is broken.
    Broken(std::io::Error),
}

impl Moved {
    fn of(result: std::io::Result<usize>) -> Moved {
        match result {
            Ok(0) => Moved::End,
            Ok(len) => Moved::Bytes(len),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Moved::Nothing,
            Err(e) => Moved::Broken(e),
        }
    }
}

/// A connected socket, or one that is being connected. Shut down when dropped, unless [`Self::leave`] is called: copies in
/// forked children keep no connection alive.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    /// The other side is on this host, as [`Self::stay_on_host`] was told.
    pub(crate) is_on_host: bool,
    /// 1: not to be shut down, since it belongs to the process that this one was forked from.
    left: AtomicU32,
    /// Who has made it, if that is no connection of TCP.
    way: Option<&'static str>,
    /// What seals and opens, where peers are known by a session.
    tls: Option<Box<Mutex<Tls>>>,
}

impl Stream {
    fn of(socket: Socket) -> Stream {
        Stream { socket, is_on_host: false, left: AtomicU32::new(0), way: None, tls: None }
    }

    /// A connected socket of any kind that somebody else has made.
    ///
    /// # Errors
    /// When it is no such socket, or its other side has gone already.
    pub(crate) fn adopt(descriptor: std::os::fd::OwnedFd, way: &'static str) -> std::io::Result<Stream> {
        let socket = Socket::from(descriptor);
        if socket.r#type()? != Type::STREAM {
            return Err(std::io::Error::new(ErrorKind::InvalidInput, "the socket is none of streams"));
        }
        socket.peer_addr()?;
        socket.set_nonblocking(true)?;
        let mut stream = Stream::of(socket);
        stream.way = Some(way);
        Ok(stream)
    }

    /// Who has made it, if that is no connection of TCP.
    pub(crate) fn way(&self) -> Option<&'static str> {
        self.way
    }

    /// A stream of any kind.
    #[cfg(feature = "testing")]
    pub(crate) fn of_descriptor(descriptor: OwnedFd) -> Stream {
        Stream::of(Socket::from(descriptor))
    }

    /// A connection that was accepted, and where it comes from.
    pub(crate) fn accepted(descriptor: OwnedFd) -> (Stream, Option<SocketAddr>) {
        let stream = Stream::of(Socket::from(descriptor));
        let from = stream.remote();
        (stream, from)
    }

    /// Whether everything is sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.tls.is_some()
    }

    /// Begins to connect, from that address if there is one. The port of this side is one of `ports`, if there are any.
    pub(crate) fn call(
        from: Option<IpAddr>,
        to: SocketAddr,
        ports: Option<PortRange>,
        tuning: &Tuning,
    ) -> std::io::Result<Stream> {
        let mut left = ports.map_or(1, |range| range.len().min(PORT_TRIES));
        let mut ports = ports.into_iter().flat_map(|range| range.shuffled());
        loop {
            left -= 1;
            let socket = new_socket(to, tuning)?;
            let port = ports.next();
            if from.is_some() || port.is_some() {
                let own = SocketAddr::new(from.unwrap_or_else(|| any_of(to)), port.unwrap_or(0));
                if let Err(e) = socket.bind(&SockAddr::from(own)) {
                    if e.kind() == ErrorKind::AddrInUse && left > 0 {
                        continue;
                    }
                    return Err(e);
                }
            }
            match socket.connect(&SockAddr::from(to)) {
                Ok(()) => return Ok(Stream::of(socket)),
                Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => return Ok(Stream::of(socket)),
                // The pair of ports is still in the memory of an earlier connection.
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable && left > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether connecting has come to an end; an error says that it failed.
    pub(crate) fn is_connected(&self) -> std::io::Result<bool> {
        if !self.is_ready(PollFlags::POLLOUT) {
            return Ok(false);
        }
        match self.socket.take_error()? {
            None => Ok(true),
            Some(e) => Err(e),
        }
    }

    /// Takes note that the other side is on this host: what goes between the two crosses no network.
    pub(crate) fn stay_on_host(&mut self, tuning: &Tuning) {
        self.is_on_host = true;
        if tuning.congestion.is_none() {
            // A wish. Without it data goes at the speed that the system chooses for networks.
            let _ = self.socket.set_tcp_congestion(UNPACED);
        }
    }

    /// The core that has taken the last packet from the network: on one host, that of the sender.
    pub(crate) fn last_core(&self) -> Option<usize> {
        self.socket.cpu_affinity().ok()
    }

    /// The address of this side.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Reads into `buffer`.
    #[inline]
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Moved {
        match self.tls() {
            None => Moved::of((&self.socket).read(buffer)),
            Some(mut tls) => tls.receive(&self.socket, buffer.len(), |at, part| {
                if let Some(to) = buffer.get_mut(at..at + part.len()) {
                    to.copy_from_slice(part);
                }
            }),
        }
    }

    /// Reads into several pieces of memory.
    pub(crate) fn receive_pieces(&self, pieces: &mut [MaybeUninitSlice<'_>]) -> Moved {
        let Some(mut tls) = self.tls() else {
            return Moved::of(self.socket.recv_vectored(pieces).map(|(len, _)| len));
        };
        let most = pieces.iter().map(|piece| piece.len()).sum();
        let (mut pieces, mut filled) = (pieces.iter_mut().peekable(), 0);
        tls.receive(&self.socket, most, |_, part| {
            let mut left = part;
            // There is room: not more than all of it was asked for.
            while let Some(piece) = pieces.peek_mut().filter(|_| !left.is_empty()) {
                let room = piece.get_mut(filled..).unwrap_or_default();
                let (now, later) = left.split_at(room.len().min(left.len()));
                if let Some(to) = room.get_mut(..now.len()) {
                    to.write_copy_of_slice(now);
                }
                left = later;
                filled += now.len();
                if filled == piece.len() {
                    pieces.next();
                    filled = 0;
                }
            }
        })
    }

    /// Writes `bytes`, which are not empty.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> Moved {
        match self.tls() {
            None => Moved::of(self.socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)),
            Some(mut tls) => tls.send(&self.socket, &mut [IoSlice::new(bytes)]),
        }
    }

    /// Writes several pieces, which are not all empty.
    pub(crate) fn send_pieces(&self, pieces: &mut [IoSlice<'_>]) -> Moved {
        match self.tls() {
            None => Moved::of(self.socket.send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL)),
            Some(mut tls) => tls.send(&self.socket, pieces),
        }
    }

    /// Has everything sealed that is said from now on, and nothing read that is not.
    pub(crate) fn secure(&mut self, connection: rustls::Connection) {
        self.tls = Some(Box::new(Mutex::new(Tls::new(connection))));
    }

    /// The same, until [`Self::unseal`] is called.
    pub(crate) fn secure_greeting(&mut self, connection: rustls::Connection) {
        self.tls = Some(Box::new(Mutex::new(Tls::exact(connection))));
    }

    /// Nothing is sealed any more, on both sides; false when something sealed is under way.
    pub(crate) fn unseal(&mut self) -> bool {
        let is_over = self.tls().is_some_and(|tls| tls.is_over());
        if is_over {
            self.tls = None;
        }
        is_over
    }

    #[inline]
    fn tls(&self) -> Option<MutexGuard<'_, Tls>> {
        // Nobody panics while holding it but by a defect, after which the other side finds what it gets wrong.
        self.tls.as_ref().map(|tls| tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The certificates that the other side has shown.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        self.tls().map_or(Vec::new(), |tls| tls.shown())
    }

    /// Whether this side has heard, by what seals the connection, that the other one is who it says.
    pub(crate) fn is_proved(&self) -> bool {
        self.tls().is_some_and(|tls| tls.is_proved())
    }

    /// Sends what was taken and is not under way yet, as far as the kernel takes it; whether something is left. Only where
    /// everything is sealed.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn push(&self) -> std::io::Result<bool> {
        self.tls().map_or(Ok(false), |mut tls| tls.push(&self.socket))
    }

    /// Seals with other keys from now on, as is done by itself after very many bytes.
    #[cfg(test)]
    pub(crate) fn renew_keys(&self) {
        self.tls().unwrap().renew_keys();
    }

    /// Whether something was taken that [`Self::push`] is to send.
    #[inline]
    pub(crate) fn is_clogged(&self) -> bool {
        self.tls().is_some_and(|tls| tls.is_clogged())
    }

    /// Whether something can be read that nobody who watches the descriptor would notice.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.tls().is_some_and(|tls| tls.has_more())
    }

    /// Whether the kernel has much room again.
    pub(crate) fn is_writable(&self) -> bool {
        self.is_ready(PollFlags::POLLOUT)
    }

    fn is_ready(&self, flags: PollFlags) -> bool {
        poll(&mut [PollFd::new(self.as_fd(), flags)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Bytes that the other side's system has not taken yet, and may still take.
    pub(crate) fn unacknowledged(&self) -> usize {
        const TCP_CLOSE: u8 = 7;
        if self.tcp_state() == Some(TCP_CLOSE) {
            return 0;
        }
        let mut count: libc::c_int = 0;
        // SAFETY: TIOCOUTQ writes one integer to `count`.
        let status = unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &mut count) };
        if status == 0 {
            usize::try_from(count).unwrap_or(0)
        } else {
            0
        }
    }

    /// Where the connection leads.
    pub(crate) fn path(&self) -> Path {
        let remote = self.socket.peer_addr().ok().and_then(|at| at.as_socket());
        Path {
            local: self.local().map(|at| at.to_string()),
            remote: remote.map(|at| at.to_string()).or_else(|| self.way.map(str::to_owned)),
            round_trip_ns: self.round_trip_us().map(|us| u64::from(us) * 1000),
            security: Some(if self.tls.is_some() { "TLS 1.3" } else { "plain" }),
            moved: None,
            tried: Vec::new(),
        }
    }

    /// Payload bytes that the other side's system has acknowledged, and that came from there, as the kernel counts them.
    pub(crate) fn moved(&self) -> Option<[u64; 2]> {
        // `tcpi_bytes_acked` and `tcpi_bytes_received`, which stand behind what the library's struct has (linux/tcp.h).
        const OFFSETS: [usize; 2] = [120, 128];
        let mut info = [0u8; 136];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the option writes at most `len` bytes to `info`, which has as many.
        let status = unsafe {
            let value = info.as_mut_ptr().cast();
            libc::getsockopt(self.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &mut len)
        };
        let word = |at: usize| info.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        let is_whole = status == 0 && len as usize == info.len();
        is_whole.then(|| Some([word(OFFSETS[0])?, word(OFFSETS[1])?])).flatten()
    }

    /// The kernel's estimate of the time there and back, once it has one.
    fn round_trip_us(&self) -> Option<u32> {
        self.tcp_info().map(|info| info.tcpi_rtt).filter(|us| *us > 0)
    }

    /// Time since the other side's system was last heard of, as far as ours tells.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let ms = |info: libc::tcp_info| info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv);
        self.tcp_info().map(|info| Duration::from_millis(ms(info).into()))
    }

    /// What the kernel knows of the connection.
    fn tcp_info(&self) -> Option<libc::tcp_info> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the option writes at most `len` bytes to `info`, which has as many.
        let status = unsafe {
            let value = info.as_mut_ptr().cast();
            libc::getsockopt(self.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &mut len)
        };
        // SAFETY: a struct of integers, for which zeroes are values, as are whatever bytes were written.
        let info = unsafe { info.assume_init() };
        (status == 0).then_some(info)
    }

    /// How full the path is, where the system says all of that.
    pub(crate) fn flow(&self) -> Option<Flow> {
        // Of the kernel's `struct tcp_info`, whose fields keep their places; that of the C library ends before most of them.
        const LEN: usize = 168;
        let mut info = [0u8; LEN];
        let mut len = LEN as libc::socklen_t;
        // SAFETY: the option writes at most `len` bytes to `info`, which has as many.
        let status = unsafe {
            let value = info.as_mut_ptr().cast();
            libc::getsockopt(self.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &mut len)
        };
        if status != 0 || (len as usize) < LEN {
            return None;
        }
        let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let long = |at: usize| info.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
        let (packet, packets_out, unsent) = (word(16)?, word(24)?, word(144)?);
        let on_the_way = u64::from(packets_out) * u64::from(packet) + u64::from(unsent);
        // All bits are set while no time was measured.
        let least_us = word(148).filter(|us| *us != u32::MAX)?;
        Some(Flow { on_the_way, acknowledged: long(120)?, least_us, rate: long(160)?, packet })
    }

    /// What TCP calls the state of the connection.
    fn tcp_state(&self) -> Option<u8> {
        let mut state = 0u8;
        let mut len: libc::socklen_t = 1;
        // SAFETY: the option writes at most `len` bytes, of which the state is the first, to `state`.
        let status = unsafe {
            let value = std::ptr::from_mut(&mut state).cast();
            libc::getsockopt(self.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &mut len)
        };
        (status == 0 && len == 1).then_some(state)
    }

    /// Has the kernel ask, after `idle` without traffic, whether the other side's system is there, each second, so many times
    /// until it gives the connection up. Sockets of which little is expected.
    pub(crate) fn ask(&self, idle: Duration, times: u32) -> std::io::Result<()> {
        let often =
            TcpKeepalive::new().with_time(idle).with_interval(Duration::from_secs(1)).with_retries(times);
        self.socket.set_tcp_keepalive(&often)
    }

    /// Has the kernel give the connection up when nothing of what was sent has been taken for so long. For connections
    /// that are not missed.
    pub(crate) fn give_up_after(&self, time: Duration) -> std::io::Result<()> {
        self.socket.set_tcp_user_timeout(Some(time))
    }

    /// The address of the other side.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }

    /// Nothing more will be sent.
    pub(crate) fn end_sending(&self) {
        if let Some(mut tls) = self.tls() {
            tls.end_sending(&self.socket);
        }
        // An error says that it is over already.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Ends the connection in both directions; what is under way is lost.
    pub(crate) fn reset(&self) {
        if self.way.is_some() {
            self.discard(usize::MAX);
            return self.end();
        }
        // Connecting to nowhere is how a socket says that it has no peer any more: the other side hears of it by a reset.
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
        let len = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: the address lives until the call returns, and is as long as it says.
        unsafe { libc::connect(self.as_raw_fd(), &nowhere, len) };
    }

    /// Reads what is there to nowhere, at most so many bytes: a socket that is closed with bytes unread tells the other side
    /// that its bytes were lost, which throws away what we had sent.
    pub(crate) fn discard(&self, most: usize) {
        let mut scrap = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut left = most;
        while let Ok(len @ 1..) = self.socket.recv(&mut scrap) {
            left = left.saturating_sub(len);
            if left == 0 {
                return;
            }
        }
    }

    /// Closes this copy of the descriptor, and leaves the connection to the process that has the other.
    pub(crate) fn leave(&self) {
        self.left.store(1, Ordering::Relaxed);
    }

    /// Ends the connection in both directions, whoever else holds a copy of the descriptor.
    pub(crate) fn end(&self) {
        // An error says that it is over already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) == 0 {
            self.end();
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A socket that listens at `address`.
pub(crate) fn listen_at(address: SocketAddr, tuning: &Tuning) -> std::io::Result<Socket> {
    let socket = new_socket(address, tuning)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The next connection, if there is one, and where it comes from. It has the settings of its listener.
///
/// # Errors
/// When the system has no descriptor or memory for it: it stays in the queue.
pub(crate) fn accept_next(listener: &Socket) -> std::io::Result<Option<(Stream, Option<SocketAddr>)>> {
    match accept_nonblocking(listener) {
        Ok((socket, from)) => Ok(Some((Stream::of(socket), from.as_socket()))),
        Err(e) => match e.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => Err(e),
            // Nobody is there, or not any more.
            _ => Ok(None),
        },
    }
}

fn accept_nonblocking(listener: &Socket) -> std::io::Result<(Socket, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accept = |storage: *mut SockAddrStorage, len| {
        // SAFETY: `try_init` hands over memory for an address, and its length.
        match unsafe { libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags) } {
            -1 => Err(std::io::Error::last_os_error()),
            // SAFETY: a descriptor that was made just now, and that nobody else has.
            fd => Ok(unsafe { Socket::from_raw_fd(fd) }),
        }
    };
    // SAFETY: the call writes an address of a kind that the system has, and its length.
    unsafe { SockAddr::try_init(accept) }
}

/// The address from which the system would call `to`. Sends nothing.
pub(crate) fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).ok()?;
    socket.connect(&SockAddr::from(to)).ok()?;
    Some(socket.local_addr().ok()?.as_socket()?.ip())
}

fn new_socket(towards: SocketAddr, tuning: &Tuning) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(towards), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Sizes of buffers count for the handshake of TCP, and are inherited by what a listener accepts.
    if tuning.send_buffer > 0 {
        socket.set_send_buffer_size(tuning.send_buffer)?;
    }
    if tuning.receive_buffer > 0 {
        socket.set_recv_buffer_size(tuning.receive_buffer)?;
    }
    tune(&socket, tuning)?;
    Ok(socket)
}

fn tune(socket: &Socket, tuning: &Tuning) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = &tuning.congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    if let Some(idle) = tuning.keep_alive {
        let often = TcpKeepalive::new().with_time(idle).with_interval(Duration::from_secs(1)).with_retries(4);
        socket.set_tcp_keepalive(&often)?;
    }
    if tuning.user_timeout.is_some() {
        socket.set_tcp_user_timeout(tuning.user_timeout)?;
    }
    Ok(())
}

/// The address that stands for whatever address the system chooses.
fn any_of(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// What an error of the system means to whoever wanted to connect.
pub(crate) fn refusal_of(e: &std::io::Error) -> Refusal {
    if let Some(failed) = Failed::of(e) {
        return Refusal::new(Error::Permission, failed.why.clone());
    }
    let error = match e.kind() {
        // The host answers that nobody listens there.
        ErrorKind::ConnectionRefused => Error::PeerGone,
        // Nobody answers, or somebody on the way says that nobody will. `Timeout` is for hosts that answer.
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::TimedOut => {
            Error::Unreachable
        }
        ErrorKind::PermissionDenied => Error::Permission,
        _ => Error::System,
    };
    let text = e.to_string().to_lowercase();
    Refusal::new(error, text.split(" (os error").next().unwrap_or_default())
}

/// Two ends of one connection, for tests.
#[cfg(test)]
pub(crate) fn pair() -> (Stream, Stream) {
    let tuning = Tuning { send_buffer: 64 << 10, receive_buffer: 64 << 10, ..Tuning::default() };
    let listener = listen_at("127.0.0.1:0".parse().unwrap(), &tuning).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    let one = Stream::call(None, at, None, &tuning).unwrap();
    while !one.is_connected().unwrap() {
        std::thread::yield_now();
    }
    loop {
        if let Some((other, _)) = accept_next(&listener).unwrap() {
            return (one, other);
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_has_the_settings_of_its_listener() {
        let tuning = Tuning {
            keep_alive: Some(Duration::from_secs(7)),
            user_timeout: Some(Duration::from_secs(9)),
            congestion: Some("reno".into()),
            ..Tuning::default()
        };
        let listener = listen_at("127.0.0.1:0".parse().unwrap(), &tuning).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let _one = Stream::call(None, at, None, &tuning).unwrap();
        let other = loop {
            if let Some((other, from)) = accept_next(&listener).unwrap() {
                assert_eq!(from.map(|from| from.ip()), Some(at.ip()));
                break other;
            }
            std::thread::yield_now();
        };
        let socket = &other.socket;
        assert!(
            socket.nonblocking().unwrap() && socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap()
        );
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
        assert!(socket.tcp_congestion().unwrap().starts_with(b"reno"));
    }

    #[test]
    fn within_a_host_nothing_is_paced_unless_it_is_asked_for() {
        let (mut one, mut other) = pair();
        let chosen = other.socket.tcp_congestion().unwrap();
        one.stay_on_host(&Tuning::default());
        assert!(one.is_on_host && one.socket.tcp_congestion().unwrap().starts_with(UNPACED));
        other.stay_on_host(&Tuning { congestion: Some("as it is".into()), ..Tuning::default() });
        assert_eq!(other.socket.tcp_congestion().unwrap(), chosen);
    }

    #[test]
    fn on_one_host_the_core_of_the_sender_is_known() {
        let (one, other) = pair();
        assert!(matches!(one.send(b"x"), Moved::Bytes(1)));
        while !matches!(other.receive(&mut [0; 8]), Moved::Bytes(1)) {
            std::thread::yield_now();
        }
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(other.last_core().is_some_and(|core| core < cores.max(1024)));
    }
}
