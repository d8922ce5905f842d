//! RoCEv2 through a UDP socket: a port to adapters, to the software device of Linux, and to devices like this one.
//!
//! The ICRC covers fields of the IP header that a socket does not show, so their values must be known. Of what is sent they
//! are: "do not fragment" is set, and then Linux gives a socket that is not connected the identification 0. Of what comes over
//! IPv4 the identification may be unknown; see [`UdpPort::accept_any_identification`]. IPv6 has nothing of that kind.

mod batch;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};

use self::batch::{Inbox, Outbox, BATCH};
use crate::port::{Port, Received};
use crate::wire::{Flow, Identifications, Ipv4Fields, ICRC_BYTES, MAX_HEADER_BYTES};

/// Longest datagram that is understood: the largest path MTU with all headers. What is longer is cut, and then its ICRC is wrong.
const MAX_DATAGRAM: usize = 4096 + MAX_HEADER_BYTES + ICRC_BYTES;

/// What the kernel is asked to keep for this port, in bytes: some windows of 256 packets of 4 KiB. It gives less where
/// `net.core.rmem_max` says so.
const BUFFER_BYTES: usize = 8 << 20;

/// A port at a UDP socket.
pub struct UdpPort {
    socket: UdpSocket,
    address: SocketAddr,
    inbox: Inbox,
    outbox: Outbox,
    /// Peers may send segments, also where an interface of this side cannot.
    accepts_segments: bool,
    identifications: Option<Identifications>,
    /// The identification of the segment that would come next.
    expected: u16,
}

impl UdpPort {
    /// A port at this address, which must be one of this host and not "any", as the ICRC covers it. Other devices expect port
    /// [`PORT`](crate::wire::PORT); port 0 is any.
    ///
    /// # Errors
    /// Those of sockets, and `InvalidInput` for an address that is none.
    pub fn bind(address: SocketAddr) -> io::Result<UdpPort> {
        if address.ip().is_unspecified() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a port needs an address of its own"));
        }
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        forbid_fragments(&socket)?;
        // As much as there is: less costs packets, no errors.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES);
        let _ = setsockopt(&socket, sockopt::SndBuf, &BUFFER_BYTES);
        let address = socket.local_addr()?;
        let (inbox, outbox) = (Inbox::new(), Outbox::new());
        Ok(UdpPort {
            socket,
            address,
            inbox,
            outbox,
            accepts_segments: false,
            identifications: None,
            expected: 0,
        })
    }

    /// Accepts packets over IPv4 whose identification is not 0, as adapters and the device of Linux send them. The ICRC then finds
    /// all but one in 65536 errors, instead of one in 4 thousand million. "Do not fragment" must be set in any case.
    #[must_use]
    pub fn accept_any_identification(mut self) -> UdpPort {
        self.identifications = Some(Identifications::default());
        self
    }

    /// Sends packets of one length for one peer as segments of one datagram, which the system or the adapter cuts (UDP GSO): long
    /// messages cost far fewer walks through the network of the system. Over IPv4 segments have the identifications 0 to 15, so
    /// the peer has to accept these: it has called this, too, or sees them, as adapters do. The ICRC then has 28 bits to find errors.
    #[must_use]
    pub fn send_segments(mut self) -> UdpPort {
        self.outbox.segments = true;
        self.accepts_segments = true;
        self
    }

    /// The socket once more, for who waits until it becomes readable.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn waiter(&self) -> io::Result<UdpWaiter> {
        Ok(UdpWaiter(self.socket.try_clone()?))
    }
}

/// A descriptor that is readable when a [`UdpPort`] has received something, and writable when it has room again.
pub struct UdpWaiter(UdpSocket);

impl AsFd for UdpWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Port for UdpPort {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        if to.is_ipv4() != self.address.is_ipv4() {
            return true;
        }
        if self.outbox.is_full() && !self.flush() {
            return false;
        }
        self.outbox.push(to, packet);
        true
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        let (from, datagram) = match self.inbox.next(&self.socket) {
            Ok(Some(came)) => came,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Received::Failed,
            // A call that a signal cut short says nothing: the next one will.
            _ => return Received::Nothing,
        };
        let flow = |identification| {
            Flow::new(from, self.address, Ipv4Fields { identification, ..Ipv4Fields::UNFRAGMENTED })
        };
        // Where peers send segments, the next one is most likely; then the beginning of others; then one after some that were lost.
        let likely = if self.accepts_segments { self.expected } else { 0 };
        let all = if self.accepts_segments && from.is_ipv4() { 0..BATCH as u16 } else { 0..1 };
        let opened = std::iter::once(likely)
            .chain(all)
            .find_map(|identification| Some((identification, flow(identification)?.open(datagram)?)))
            .or_else(|| Some((0, self.identifications.as_mut()?.open(&flow(0)?, datagram)?)));
        let Some((identification, opened)) = opened else { return Received::Corrupt };
        self.expected = (identification + 1) % BATCH as u16;
        packet.clear();
        packet.extend_from_slice(opened);
        Received::Packet(from)
    }

    fn flush(&mut self) -> bool {
        self.outbox.send(&self.socket, self.address)
    }

    fn arm(&mut self) -> bool {
        !self.inbox.has_some()
    }
}

/// Sets "do not fragment", whatever the path is believed to carry.
#[expect(unsafe_code)] // No crate has this option.
fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
    let (level, name) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    // The value "do" is the same number for both families.
    let value = libc::IP_PMTUDISC_DO;
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the option reads `len` bytes of `value`, which outlives the call.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn who_cannot_send_segments_takes_those_of_others() {
        let port = || UdpPort::bind(([127, 0, 0, 1], 0).into()).expect("a port").send_segments();
        let (mut from, mut port) = (port(), port());
        // As after an interface that cannot.
        port.outbox.segments = false;
        for byte in 0..4 {
            assert!(from.send(port.address(), &mut vec![byte; 100]));
        }
        assert!(from.flush());
        let (start, mut bytes, mut came) = (Instant::now(), Vec::new(), 0);
        while came < 4 {
            assert!(start.elapsed() < Duration::from_secs(60), "{came} of 4 packets came");
            match port.receive(&mut bytes) {
                Received::Nothing => std::thread::yield_now(),
                received => assert_eq!(received, Received::Packet(from.address())),
            }
            came += u8::from(bytes == [came; 100]);
        }
    }
}
