//! A packet of RoCEv2 in a frame of Ethernet: IPv4 without options, UDP.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::program::HEADERS;
use crate::wire::Ipv4Fields;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const VERSION_AND_LENGTH: u8 = 0x45;
const TIME_TO_LIVE: u8 = 64;
const PROTOCOL_UDP: u8 = 17;

/// An address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mac(pub(super) [u8; 6]);

/// What stands in front of a packet.
pub(super) struct Frame {
    /// To, from.
    pub(super) macs: [Mac; 2],
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
}

impl Frame {
    /// Writes headers and `datagram` to `frame`, which has just the room.
    pub(super) fn write(&self, datagram: &[u8], frame: &mut [u8]) {
        let mut header = [0; HEADERS];
        let udp_len = (UDP + datagram.len()) as u16;
        let Ipv4Fields { identification, fragment } = Ipv4Fields::UNFRAGMENTED;
        header[..6].copy_from_slice(&self.macs[0].0);
        header[6..12].copy_from_slice(&self.macs[1].0);
        header[12..14].copy_from_slice(&TYPE_IPV4);
        header[14] = VERSION_AND_LENGTH;
        header[16..18].copy_from_slice(&(IPV4 as u16 + udp_len).to_be_bytes());
        header[18..20].copy_from_slice(&identification.to_be_bytes());
        header[20..22].copy_from_slice(&fragment.to_be_bytes());
        (header[22], header[23]) = (TIME_TO_LIVE, PROTOCOL_UDP);
        header[26..30].copy_from_slice(&self.from.ip().octets());
        header[30..34].copy_from_slice(&self.to.ip().octets());
        let sum = checksum(&header[ETHERNET..ETHERNET + IPV4]);
        header[24..26].copy_from_slice(&sum.to_be_bytes());
        header[34..36].copy_from_slice(&self.from.port().to_be_bytes());
        header[36..38].copy_from_slice(&self.to.port().to_be_bytes());
        header[38..40].copy_from_slice(&udp_len.to_be_bytes());
        // Its checksum stays 0, which is none: the ICRC finds more.
        let (head, rest) = frame.split_at_mut(HEADERS);
        head.copy_from_slice(&header);
        rest.copy_from_slice(datagram);
    }
}

/// What came.
pub(super) struct Came<'a> {
    /// The neighbour that has sent the frame.
    pub(super) mac: Mac,
    pub(super) from: SocketAddrV4,
    /// What the ICRC covers of the header.
    pub(super) fields: Ipv4Fields,
    /// Packet and ICRC.
    pub(super) datagram: &'a [u8],
}

/// Reads a frame that the program let through: none when its lengths are not right.
pub(super) fn read(frame: &[u8]) -> Option<Came<'_>> {
    let (header, rest) = frame.split_first_chunk::<HEADERS>()?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // What is behind the datagram fills a short frame up.
    let len = usize::from(number(38)).checked_sub(UDP)?;
    if header[12..14] != TYPE_IPV4
        || header[14] != VERSION_AND_LENGTH
        || usize::from(number(16)) != IPV4 + UDP + len
    {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let mut mac = [0; 6];
    mac.copy_from_slice(&header[6..12]);
    Some(Came {
        mac: Mac(mac),
        from: SocketAddrV4::new(address(26), number(34)),
        fields: Ipv4Fields { identification: number(18), fragment: number(20) },
        datagram: rest.get(..len)?,
    })
}

/// The checksum of the internet (RFC 1071) of a header whose own is 0.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 =
        header.as_chunks().0.iter().map(|pair: &[u8; 2]| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frame = Frame {
            macs: [Mac([1; 6]), Mac([2; 6])],
            from: SocketAddrV4::new([10, 0, 0, 1].into(), 4000),
            to: SocketAddrV4::new([10, 0, 0, 2].into(), 4791),
        };
        let mut bytes = vec![0; HEADERS + 20];
        frame.write(&[7; 20], &mut bytes);
        assert_eq!(checksum(&bytes[14..34]), 0, "a header with its checksum has the sum 0");
        bytes.extend([0; 6]);
        let came = read(&bytes).expect("a frame");
        assert_eq!((came.mac, came.from, came.datagram), (Mac([2; 6]), frame.from, &[7; 20][..]));
        assert_eq!(came.fields, Ipv4Fields::UNFRAGMENTED);
        for len in 0..HEADERS + 20 {
            assert!(read(&bytes[..len]).is_none(), "{len} bytes");
        }
    }

    /// The example of RFC 1071, with its bytes in pairs.
    #[test]
    fn the_sum_of_the_internet() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
