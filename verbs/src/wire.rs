//! The TCP connection beside a queue pair: a few short packets, then nothing but its end.
//!
//! A packet is its length in two bytes, a number that says what it is, and what it says. All numbers are little-endian.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::config::Ports;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Longest packet, without its length.
pub(crate) const MAX_PACKET: usize = 512;
/// Ports that are tried for one call.
const PORT_TRIES: usize = 64;
/// Questions without an answer after which the other host counts as gone.
const KEEP_ALIVE_QUESTIONS: u32 = 2;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    inbox: Vec<u8>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A packet: what it is, and what it says.
    Packet(u8, Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// The other side has hung up,
    End,
    /// or the connection broke.
    Broken(io::Error),
}

impl Wire {
    /// Begins to connect, from one of these ports, or any.
    pub(crate) fn call(to: SocketAddr, (from, ports): (IpAddr, Option<Ports>)) -> io::Result<Wire> {
        let mut why = ErrorKind::AddrInUse.into();
        for port in Ports::shuffled(ports).take(PORT_TRIES) {
            match Wire::call_from(to, SocketAddr::new(from, port)) {
                // A port of another, or one of which the system remembers a connection to there.
                Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => why = e,
                other => return other,
            }
        }
        Err(why)
    }

    fn call_from(to: SocketAddr, own: SocketAddr) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.bind(&own.into())?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => Err(e),
            _ => Ok(Wire { stream: socket.into(), inbox: Vec::new() }),
        }
    }

    /// A connection that was accepted.
    pub(crate) fn accepted(stream: TcpStream) -> io::Result<Wire> {
        stream.set_nonblocking(true)?;
        Ok(Wire { stream, inbox: Vec::new() })
    }

    /// Whether it is connected by now.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Has the systems of both sides ask each other whether they are there. Packets go at once.
    pub(crate) fn tune(&self, keep_alive: Option<Duration>) {
        // Without either it works as well, only later.
        let _ = self.stream.set_nodelay(true);
        if let Some(time) = keep_alive {
            let time = time.max(Duration::from_secs(1));
            let asks =
                TcpKeepalive::new().with_time(time).with_interval(time).with_retries(KEEP_ALIVE_QUESTIONS);
            let _ = SockRef::from(&self.stream).set_tcp_keepalive(&asks);
        }
    }

    /// Address of the other side.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Address of this side.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// Says something. What goes over the connection in all its life has room in the buffers of a new socket: less room is the
    /// end of it.
    pub(crate) fn say(&self, what: u8, body: &[u8]) -> io::Result<()> {
        let len = body.len() + 1;
        if len > MAX_PACKET {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut packet = Vec::with_capacity(len + 2);
        packet.extend_from_slice(&(len as u16).to_le_bytes());
        packet.push(what);
        packet.extend_from_slice(body);
        if (&self.stream).write(&packet)? == packet.len() {
            Ok(())
        } else {
            Err(ErrorKind::WriteZero.into())
        }
    }

    /// What came next.
    pub(crate) fn hear(&mut self) -> Heard {
        loop {
            match self.take() {
                Ok(Some((what, body))) => return Heard::Packet(what, body),
                Ok(None) => {}
                Err(()) => return Heard::Broken(ErrorKind::InvalidData.into()),
            }
            let mut bytes = [0; MAX_PACKET + 2];
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return Heard::End,
                Ok(len) => self.inbox.extend_from_slice(bytes.get(..len).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Heard::Nothing,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Heard::Broken(e),
            }
        }
    }

    /// The first packet that is whole; an error for one that cannot be.
    fn take(&mut self) -> Result<Option<(u8, Vec<u8>)>, ()> {
        let Some((len, rest)) = self.inbox.split_first_chunk::<2>() else { return Ok(None) };
        let len = usize::from(u16::from_le_bytes(*len));
        if len == 0 || len > MAX_PACKET {
            return Err(());
        }
        let Some([what, body @ ..]) = rest.get(..len) else { return Ok(None) };
        let packet = (*what, body.to_vec());
        self.inbox.drain(..len + 2);
        Ok(Some(packet))
    }

    /// Whether the other side has hung up, or said something that nobody has heard, which is then its last word. Hears nothing.
    pub(crate) fn has_ended(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// Ends the connection, whoever has copies of its descriptor.
    pub(crate) fn end(&self) {
        // An error says that it has ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What an error of the connection says of the peer.
pub(crate) fn refusal_of(e: &io::Error) -> Refusal {
    let error = match e.kind() {
        // The host answers that nobody listens there.
        ErrorKind::ConnectionRefused => Error::PeerGone,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::TimedOut => {
            Error::Unreachable
        }
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Error::Unreachable
        }
        ErrorKind::PermissionDenied => Error::Permission,
        _ => Error::System,
    };
    let text = e.to_string().to_lowercase();
    Refusal::new(error, text.split(" (os error").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Wire::accepted(listener.accept().unwrap().0).unwrap(), stream)
    }

    fn heard(wire: &mut Wire) -> Heard {
        loop {
            match wire.hear() {
                Heard::Nothing => std::thread::yield_now(),
                heard => return heard,
            }
        }
    }

    #[test]
    fn packets_come_whole_in_whatever_pieces() {
        let (mut wire, mut stream) = pair();
        for byte in [3, 0, 9, 1, 2, 1, 0, 7] {
            stream.write_all(&[byte]).unwrap();
        }
        assert!(matches!(heard(&mut wire), Heard::Packet(9, body) if body == [1, 2]));
        assert!(matches!(heard(&mut wire), Heard::Packet(7, body) if body.is_empty()));
        wire.say(5, b"x").unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said, [2, 0, 5, b'x']);
        drop(stream);
        assert!(matches!(heard(&mut wire), Heard::End));
    }

    #[test]
    fn lengths_that_cannot_be_end_it() {
        for len in [0u16, MAX_PACKET as u16 + 1, u16::MAX] {
            let (mut wire, mut stream) = pair();
            stream.write_all(&len.to_le_bytes()).unwrap();
            assert!(matches!(heard(&mut wire), Heard::Broken(_)), "{len}");
        }
    }
}
