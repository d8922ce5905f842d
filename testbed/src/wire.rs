//! Packet sockets: whole Ethernet frames in and out of one interface, with the kernel's notes on checksums and
//! segmentation in front (`virtio_net_hdr`), so that both may stay undone on the way.

use crate::error::{Error, Result};
use nix::sys::socket::{recv, send, MsgFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A packet socket on one interface of the calling thread's network.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

/// What a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// The kernel has no room, or the interface is down.
    Dropped,
}

impl Wire {
    /// Opens one on `interface`.
    pub(crate) fn open(interface: &str) -> Result<Wire> {
        let failed = |what: &str| {
            let what = format!("packet socket on {interface}: {what}");
            move |e: nix::Error| Error::setup(&what, e)
        };
        let index = nix::net::if_::if_nametoindex(interface).map_err(failed("index"))?;
        // SAFETY: no pointer; the result is checked before it is owned.
        let socket = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        let socket = nix::Error::result(socket).map_err(failed("socket"))?;
        // SAFETY: a descriptor that was just made belongs to nobody else.
        let wire = Wire(unsafe { OwnedFd::from_raw_fd(socket) });
        for (option, what) in [
            (PACKET_VNET_HDR, "PACKET_VNET_HDR"),
            (PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING"),
            (PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS"),
        ] {
            wire.set(libc::SOL_PACKET, option, 1).map_err(failed(what))?;
        }
        // As much as we may have: the relay may not run for a while on a busy machine.
        if wire.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES).is_err() {
            wire.set(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER_BYTES).map_err(failed("SO_RCVBUF"))?;
        }
        wire.bind(index).map_err(failed("bind"))?;
        Ok(wire)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> nix::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `value` is an int of `length` bytes, which the call only reads.
        let done =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        nix::Error::result(done).map(drop)
    }

    fn bind(&self, index: libc::c_uint) -> nix::Result<()> {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is valid for `length` bytes, which the call only reads.
        let done = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) };
        nix::Error::result(done).map(drop)
    }

    /// Takes a frame that has come, if any. `buffer` has room for the largest.
    pub(crate) fn take<'a>(&self, buffer: &'a mut [u8]) -> nix::Result<Option<&'a [u8]>> {
        match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(buffer.get(..length)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
            // The interface went down; frames come again when it is up.
            Err(nix::Error::ENETDOWN) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Sends a frame as it was taken.
    pub(crate) fn send(&self, frame: &[u8]) -> nix::Result<Sent> {
        match send(self.0.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(Sent::Done),
            Err(nix::Error::EAGAIN | nix::Error::ENOBUFS | nix::Error::ENETDOWN | nix::Error::EINTR) => {
                Ok(Sent::Dropped)
            }
            // A frame that the kernel will not have back, such as one longer than the interface takes.
            Err(nix::Error::EINVAL | nix::Error::EMSGSIZE) => Ok(Sent::Dropped),
            Err(other) => Err(other),
        }
    }

    /// Frames that found the socket's buffer full since the last call.
    pub(crate) fn overruns(&self) -> u64 {
        let mut counts = [0_u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: `counts` has room for the two numbers of tpacket_stats, which is what `length` says.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if done < 0 {
            0
        } else {
            counts[1].into()
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bytes that a frame, as it was taken, has on the wire: a large packet that the kernel has left whole counts as the
/// packets that it is to become.
pub(crate) fn wire_bytes(frame: &[u8]) -> u64 {
    let length = frame.len().saturating_sub(VNET_HEADER) as u64;
    let field = |at: usize| frame.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let (kind, segment, transport) =
        (frame.get(1).copied().unwrap_or(0) & GSO_KIND, u64::from(field(4)), u64::from(field(6)));
    let headers = transport
        + match kind {
            GSO_UDP_L4 => 8,
            GSO_TCP_4 | GSO_TCP_6 => {
                frame.get(VNET_HEADER + transport as usize + 12).map_or(20, |byte| u64::from(byte >> 4) * 4)
            }
            _ => return length,
        };
    if segment == 0 || headers >= length {
        return length;
    }
    let payload = length - headers;
    payload + payload.div_ceil(segment) * headers
}

/// Room for the largest frame with what stands in front.
pub(crate) const LARGEST_FRAME: usize = VNET_HEADER + 65536 + 64;

/// Length of `virtio_net_hdr` (Virtio 1.2, 5.1.6; linux/virtio_net.h).
const VNET_HEADER: usize = 10;
const GSO_KIND: u8 = 0x7f;
const GSO_TCP_4: u8 = 1;
const GSO_TCP_6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// linux/if_packet.h
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// What comes in 32 ms at 1 gbit, as the kernel counts it.
const BUFFER_BYTES: libc::c_int = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, segment: u16, transport: u16, doff: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; VNET_HEADER + length];
        frame[1] = kind;
        frame[4..6].copy_from_slice(&segment.to_le_bytes());
        frame[6..8].copy_from_slice(&transport.to_le_bytes());
        if let Some(byte) = frame.get_mut(VNET_HEADER + usize::from(transport) + 12) {
            *byte = doff << 4;
        }
        frame
    }

    #[test]
    fn a_plain_frame_counts_as_it_is() {
        assert_eq!(wire_bytes(&frame(0, 0, 0, 0, 1514)), 1514);
        assert_eq!(wire_bytes(&[]), 0);
    }

    #[test]
    fn a_large_packet_counts_as_its_segments() {
        // 14 Ethernet, 20 IPv4, 32 TCP with time stamps, ten segments of 1448.
        assert_eq!(wire_bytes(&frame(1, 1448, 34, 8, 66 + 14_480)), 10 * 1514);
        assert_eq!(wire_bytes(&frame(GSO_UDP_L4, 1000, 34, 0, 42 + 2500)), 2500 + 3 * 42);
        // With ECN.
        assert_eq!(wire_bytes(&frame(0x81, 1448, 34, 8, 66 + 2896)), 2 * 1514);
    }

    #[test]
    fn nonsense_counts_as_it_is() {
        for (segment, transport) in [(0, 34), (1448, 60_000)] {
            assert_eq!(wire_bytes(&frame(1, segment, transport, 8, 2000)), 2000);
        }
        assert_eq!(wire_bytes(&[0, 1, 0]), 0);
    }
}
