//! Where a fabric listens on networks: the last 24 bytes of an [`Address`](super::Address).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | port, the same for all; 0: nowhere |
//! | 2 | 1 | number of IPv6 addresses, 0 or 1 |
//! | 3 | 1 | number of IPv4 addresses: at most 5, or 1 beside an IPv6 address |
//! | 4 | 20 | the addresses, IPv6 first, in network byte order; what is left is 0, and ignored by the reader |

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Malformed, Reader};

/// Bytes of the encoded form.
pub(super) const NETWORK_BYTES: usize = 24;
/// Bytes that the addresses share.
const ROOM: usize = 20;
const V6_BYTES: usize = 16;
const V4_BYTES: usize = 4;

/// Network addresses with one port between them: up to one of IPv6 and one of IPv4, or five of IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NetAddresses {
    port: u16,
    v6_count: u8,
    v4_count: u8,
    /// As encoded; 0 beyond the addresses.
    octets: [u8; ROOM],
}

impl NetAddresses {
    /// The fabric listens on no network.
    pub const NONE: NetAddresses = NetAddresses { port: 0, v6_count: 0, v4_count: 0, octets: [0; ROOM] };

    /// Those of `addresses` for which there is room, the first ones first. None without a port.
    pub fn new(port: u16, addresses: impl IntoIterator<Item = IpAddr>) -> NetAddresses {
        let (mut v6, mut v4): (Vec<[u8; 16]>, Vec<[u8; 4]>) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V6(address) if fits(v6.len() + 1, v4.len()) => v6.push(address.octets()),
                IpAddr::V4(address) if fits(v6.len(), v4.len() + 1) => v4.push(address.octets()),
                _ => {}
            }
        }
        if port == 0 || v6.is_empty() && v4.is_empty() {
            return NetAddresses::NONE;
        }
        let mut octets = [0; ROOM];
        let all = v6.iter().flatten().chain(v4.iter().flatten());
        octets.iter_mut().zip(all).for_each(|(to, octet)| *to = *octet);
        NetAddresses { port, v6_count: v6.len() as u8, v4_count: v4.len() as u8, octets }
    }

    /// True when there is no address.
    pub fn is_empty(&self) -> bool {
        self.port == 0
    }

    /// The addresses, IPv6 first, each with the port.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let (v6, v4) = self.octets.split_at(usize::from(self.v6_count) * V6_BYTES);
        let v6 = v6.as_chunks::<V6_BYTES>().0.iter().map(|octets| IpAddr::from(*octets));
        let v4 = v4.as_chunks::<V4_BYTES>().0.iter().map(|octets| IpAddr::from(*octets));
        v6.chain(v4.take(usize::from(self.v4_count))).map(|address| SocketAddr::new(address, self.port))
    }

    /// The encoded form.
    pub fn to_bytes(self) -> [u8; NETWORK_BYTES] {
        let mut bytes = [0; NETWORK_BYTES];
        bytes[..2].copy_from_slice(&self.port.to_le_bytes());
        bytes[2..4].copy_from_slice(&[self.v6_count, self.v4_count]);
        bytes[4..].copy_from_slice(&self.octets);
        bytes
    }

    /// Reads the encoded form; `None` for bytes that are none.
    pub fn from_slice(bytes: &[u8]) -> Option<NetAddresses> {
        NetAddresses::parse(bytes.try_into().ok()?).ok()
    }

    pub(super) fn parse(bytes: &[u8; NETWORK_BYTES]) -> Result<NetAddresses, Malformed> {
        let mut reader = Reader(bytes);
        let port = reader.u16()?;
        let [v6_count, v4_count] = reader.array()?;
        if !fits(v6_count.into(), v4_count.into()) {
            return Err(Malformed("more network addresses than there is room for"));
        }
        let used = usize::from(v6_count) * V6_BYTES + usize::from(v4_count) * V4_BYTES;
        if (port == 0) != (used == 0) {
            return Err(Malformed("network addresses without a port, or a port without any"));
        }
        let mut octets = reader.array::<ROOM>()?;
        octets[used..].fill(0);
        Ok(NetAddresses { port, v6_count, v4_count, octets })
    }
}

impl fmt::Debug for NetAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One address of IPv6 at most, so that one of IPv4 always finds room beside it.
const fn fits(v6: usize, v4: usize) -> bool {
    v6 <= 1 && v4 <= ROOM / V4_BYTES && v6 * V6_BYTES + v4 * V4_BYTES <= ROOM
}

const _: () = assert!(size_of::<NetAddresses>() == NETWORK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn listed(addresses: &NetAddresses) -> Vec<String> {
        addresses.iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn as_many_as_fit_are_kept_in_order() {
        let v4: Vec<IpAddr> = (1..=7).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let (v6, other) = (ip("fd00::1"), ip("fd00::2"));
        let five = NetAddresses::new(7, v4.iter().copied());
        assert_eq!(five.iter().count(), 5);
        assert_eq!(listed(&NetAddresses::new(7, [v4[0], v6, v4[1], other])), ["[fd00::1]:7", "10.0.0.1:7"]);
        assert_eq!(listed(&NetAddresses::new(7, [v6, v4[1], v4[0]])), ["[fd00::1]:7", "10.0.0.2:7"]);
        assert_eq!(listed(&NetAddresses::new(7, [v4[0], v4[1], v6])), ["10.0.0.1:7", "10.0.0.2:7"]);
        assert_eq!(NetAddresses::new(0, [v6]), NetAddresses::NONE);
        assert_eq!(NetAddresses::new(7, []), NetAddresses::NONE);
        for addresses in [five, NetAddresses::new(0xfffe, [v6, v4[0]]), NetAddresses::new(1, [v6])] {
            assert_eq!(NetAddresses::parse(&addresses.to_bytes()), Ok(addresses));
        }
        assert_eq!(NetAddresses::parse(&[0; NETWORK_BYTES]), Ok(NetAddresses::NONE));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let with = |port, v6, v4| {
            let mut bytes = [1; NETWORK_BYTES];
            bytes[..4].copy_from_slice(&[port, 0, v6, v4]);
            NetAddresses::parse(&bytes)
        };
        for (v6, v4) in [(0, 6), (0, 255), (1, 2), (2, 0), (255, 255)] {
            assert!(with(1, v6, v4).is_err(), "{v6} and {v4}");
        }
        assert!(with(0, 0, 1).is_err() && with(0, 1, 0).is_err() && with(1, 0, 0).is_err());
        assert_eq!(listed(&with(1, 0, 1).unwrap()), ["1.1.1.1:1"]);
        assert_eq!(with(1, 1, 1).unwrap().iter().count(), 2);
    }
}
