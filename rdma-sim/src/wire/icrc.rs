//! The invariant CRC: the CRC-32 of Ethernet over the IP, UDP and transport headers and the payload, in which everything that
//! routers may change counts as ones. It stands behind the padding, its least significant byte first.
//!
//! In front of the IP header count 8 bytes of ones, which stand for the local route header of InfiniBand. Ones are: the type of
//! service, time to live and checksum of IPv4; the traffic class, flow label and hop limit of IPv6; the checksum of UDP; the byte
//! of BTH with FECN and BECN.

use std::net::{IpAddr, SocketAddr};

use super::BTH_BYTES;

/// Bytes of the invariant CRC.
pub const ICRC_BYTES: usize = 4;

/// Of BTH, the byte with FECN and BECN.
const BTH_MASKED: usize = 4;
const IPV4_BYTES: u16 = 20;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// What of an IPv4 header the addresses and lengths do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Fields {
    /// The identification.
    pub identification: u16,
    /// Flags and fragment offset: 0x4000 for "do not fragment".
    pub fragment: u16,
}

impl Ipv4Fields {
    /// What Linux writes for a UDP socket that is not connected and forbids fragments.
    pub const UNFRAGMENTED: Ipv4Fields = Ipv4Fields { identification: 0, fragment: 0x4000 };
}

/// Where a datagram comes from and goes to: what its ICRC covers of IP and UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    source: SocketAddr,
    destination: SocketAddr,
    /// Used with IPv4 only.
    ipv4: Ipv4Fields,
}

impl Flow {
    /// The flow from `source` to `destination`; none when one is IPv4 and the other IPv6.
    pub fn new(source: SocketAddr, destination: SocketAddr, ipv4: Ipv4Fields) -> Option<Flow> {
        (source.is_ipv4() == destination.is_ipv4()).then_some(Flow { source, destination, ipv4 })
    }

    /// Appends the ICRC to a packet that [`Packet::encode`](super::Packet::encode) has written.
    pub fn seal(&self, packet: &mut Vec<u8>) {
        let crc = self.crc(packet);
        packet.extend(crc.to_le_bytes());
    }

    /// The packet without its ICRC; none when the ICRC is not right.
    pub fn open<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (packet, icrc) = datagram.split_last_chunk::<ICRC_BYTES>()?;
        (packet.len() > BTH_MASKED && self.crc(packet).to_le_bytes() == *icrc).then_some(packet)
    }

    /// The CRC as if the identification were 0; none for IPv6.
    pub(super) fn crc_unidentified(&self, packet: &[u8]) -> Option<u32> {
        let ipv4 = Ipv4Fields { identification: 0, ..self.ipv4 };
        self.source.is_ipv4().then(|| Flow { ipv4, ..*self }.crc(packet))
    }

    fn crc(&self, packet: &[u8]) -> u32 {
        // Lengths above 16 bits are those of no datagram: they are cut, and the sum is that of none.
        let udp_len = (UDP_BYTES + packet.len() + ICRC_BYTES) as u16;
        // What is in front of the rest goes through the sum in one piece, which takes a fraction of what many small ones take.
        let mut head = Head { bytes: [0xff; HEAD_BYTES], len: 8 };
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                head.add([0x6f, 0xff, 0xff, 0xff]);
                head.add(udp_len.to_be_bytes());
                head.add([PROTOCOL_UDP, 0xff]);
                head.add(from.octets());
                head.add(to.octets());
            }
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                head.add([0x45, 0xff]);
                head.add(udp_len.wrapping_add(IPV4_BYTES).to_be_bytes());
                head.add(self.ipv4.identification.to_be_bytes());
                head.add(self.ipv4.fragment.to_be_bytes());
                head.add([0xff, PROTOCOL_UDP, 0xff, 0xff]);
                head.add(from.octets());
                head.add(to.octets());
            }
            // `new` lets no such pair through.
            _ => {}
        }
        head.add(self.source.port().to_be_bytes());
        head.add(self.destination.port().to_be_bytes());
        head.add(udp_len.to_be_bytes());
        head.add([0xff, 0xff]);
        let mut crc = crc32fast::Hasher::new();
        // Nobody asks for less than a header; if so, what is missing is not in the sum.
        let (bth, rest) = packet.split_at(BTH_BYTES.min(packet.len()));
        for (at, byte) in bth.iter().enumerate() {
            head.add([if at == BTH_MASKED { 0xff } else { *byte }]);
        }
        crc.update(head.bytes());
        crc.update(rest);
        crc.finalize()
    }
}

/// What the sum covers up to the end of BTH, at most: the ones, IPv6, UDP, BTH.
const HEAD_BYTES: usize = 8 + 40 + UDP_BYTES + BTH_BYTES;

/// The first bytes of the sum.
struct Head {
    bytes: [u8; HEAD_BYTES],
    len: usize,
}

impl Head {
    fn add<const N: usize>(&mut self, part: [u8; N]) {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + N) {
            to.copy_from_slice(&part);
        }
        self.len += N;
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
