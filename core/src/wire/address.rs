//! Addresses: opaque to programs, self-contained, 64 bytes.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version of the layout, 1 |
//! | 1 | 3 | 0 |
//! | 4 | 4 | user id of the process |
//! | 8 | 8 | host: processes with equal numbers can share memory |
//! | 16 | 16 | node id |
//! | 32 | 8 | incarnation |
//! | 40 | 24 | [where it listens on networks](NetAddresses) |

use super::network::NetAddresses;
use super::{Malformed, NodeId, Reader};

/// Bytes of an address.
pub const ADDRESS_BYTES: usize = 64;
const VERSION: u8 = 1;

/// How a fabric is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// User id of the process.
    pub uid: u32,
    /// Processes with equal numbers can share memory.
    pub host: u64,
    /// The node.
    pub node: NodeId,
    /// Which of the node's lives.
    pub incarnation: u64,
    /// Where it listens on networks.
    pub network: NetAddresses,
}

impl Address {
    /// The bytes.
    pub fn to_bytes(&self) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[0] = VERSION;
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.host.to_le_bytes());
        bytes[16..32].copy_from_slice(self.node.bytes());
        bytes[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[40..].copy_from_slice(&self.network.to_bytes());
        bytes
    }

    /// Reads an address.
    ///
    /// # Errors
    /// When the bytes are no address, or one of a later layout.
    pub fn parse(bytes: &[u8; ADDRESS_BYTES]) -> Result<Address, Malformed> {
        let mut reader = Reader(bytes);
        match reader.array()? {
            [VERSION, 0, 0, 0] => {}
            [0, ..] => return Err(Malformed("address is empty")),
            _ => return Err(Malformed("address of another layout")),
        }
        let (uid, host) = (reader.u32()?, reader.u64()?);
        let node = NodeId::new(reader.array()?).ok_or(Malformed("address without a node id"))?;
        let incarnation = reader.u64()?;
        Ok(Address { uid, host, node, incarnation, network: NetAddresses::parse(&reader.array()?)? })
    }
}

/// A peer that is known and not used: what a group keeps for each of its ranks.
#[derive(Debug, Clone, Copy)]
pub struct KnownPeer {
    /// How it is reached.
    pub address: Address,
    /// Its endpoint, once used.
    pub endpoint: Option<u32>,
}

const _: () = assert!(size_of::<Address>() == ADDRESS_BYTES);
const _: () =
    assert!(size_of::<KnownPeer>() <= 128, "an address that is known and not used takes at most 128 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_strangers_are_refused() {
        let node = NodeId::new([7; 16]).unwrap();
        let network = NetAddresses::new(41000, [[10, 1, 2, 3].into()]);
        let address = Address { uid: 1000, host: u64::MAX, node, incarnation: 42, network };
        let mut bytes = address.to_bytes();
        assert_eq!(Address::parse(&bytes), Ok(address));
        bytes[63] = 1;
        assert_eq!(Address::parse(&bytes), Ok(address), "bytes that are not used are ignored");
        bytes[43] = 6;
        assert!(Address::parse(&bytes).is_err());
        bytes[43] = 1;
        bytes[0] = 2;
        assert!(Address::parse(&bytes).is_err());
        assert_eq!(Address::parse(&[0; 64]), Err(Malformed("address is empty")));
        let mut nobody = address.to_bytes();
        nobody[16..32].fill(0);
        assert!(Address::parse(&nobody).is_err());
    }
}
