//! Keys as bytes: what an owner hands out, by any means, to those who may reach a region.
//!
//! Little-endian, whatever the hosts:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `GNRK` |
//! | 4 | 1 | form of what follows: 1 |
//! | 5 | 1 | rights |
//! | 6 | 2 | 0 |
//! | 8 | 16 | node id of the owner |
//! | 24 | 8 | number of the region |
//! | 32 | 8 | length in bytes |
//! | 40 | 8 | alignment of the region's start, as far as its peers count on it |
//! | 48 | 8 | where the owner's rail has its record; 0 for none |
//! | 56 | 8 | check value of the bytes before (FNV-1a): tells damage, not forgery |
//!
//! A key is a capability among processes that trust one another; whoever has the bytes has the rights.

use super::Access;
use crate::wire::{Malformed, NodeId, Reader};

/// Bytes of a packed key.
pub const KEY_BYTES: usize = 64;

const MAGIC: [u8; 4] = *b"GNRK";
const FORM: u8 = 1;
/// Starts of regions are taken to be aligned by no more than this.
const MAX_ALIGN: u64 = 4096;

/// A region of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteKey {
    /// Who owns it.
    pub node: NodeId,
    /// Its number there: a key of the owner's table, with its generation. Never 0.
    pub number: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What may be done with it.
    pub access: Access,
    /// A power of two that divides its address.
    pub align: u64,
    /// Where the owner's rail has its record; 0 for none.
    pub hint: u64,
}

impl RemoteKey {
    /// As bytes.
    pub fn pack(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = FORM;
        bytes[5] = self.access.bits() as u8;
        bytes[8..24].copy_from_slice(self.node.bytes());
        for (i, word) in [self.number, self.len, self.align, self.hint].into_iter().enumerate() {
            bytes[24 + i * 8..32 + i * 8].copy_from_slice(&word.to_le_bytes());
        }
        let check = check_value(&bytes[..56]);
        bytes[56..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::pack`] wrote.
    ///
    /// # Errors
    /// When the bytes are no key, or a damaged one.
    pub fn parse(bytes: &[u8]) -> Result<RemoteKey, Malformed> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().map_err(|_| Malformed("a key is 64 bytes long"))?;
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC {
            return Err(Malformed("these bytes are no key"));
        }
        let [form, access, zero, other_zero] = reader.array()?;
        if form != FORM || zero != 0 || other_zero != 0 {
            return Err(Malformed("the key has a form that this library does not know"));
        }
        let node = NodeId::new(reader.array()?).ok_or(Malformed("the key has no owner"))?;
        let (number, len, align, hint) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        if reader.u64()? != check_value(&bytes[..56]) {
            return Err(Malformed("the key is damaged"));
        }
        let access = Access::from_bits(u32::from(access)).ok_or(Malformed("the key has unknown rights"))?;
        if number == 0 || !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(Malformed("the key names no region"));
        }
        Ok(RemoteKey { node, number, len, access, align, hint })
    }

    /// The alignment that a key tells of a region at `base`.
    pub fn align_of(base: *const u8) -> u64 {
        (1u64 << (base as usize).trailing_zeros().min(63)).min(MAX_ALIGN)
    }
}

fn check_value(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> RemoteKey {
        RemoteKey {
            node: NodeId::new([7; 16]).unwrap(),
            number: 1 << 32 | 5,
            len: 4096,
            access: Access::ALL,
            align: 64,
            hint: 12,
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let packed = key().pack();
        assert_eq!(RemoteKey::parse(&packed), Ok(key()));
        for at in 0..KEY_BYTES {
            for bit in 0..8 {
                let mut damaged = packed;
                damaged[at] ^= 1 << bit;
                assert!(RemoteKey::parse(&damaged).is_err(), "byte {at} bit {bit}");
            }
        }
        assert!(RemoteKey::parse(&packed[..63]).is_err() && RemoteKey::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn keys_round_trip(node in 1..=u128::MAX, number in 1..=u64::MAX, len: u64, bits in 0..16u32, shift in 0..13u32, hint: u64) {
            let access = Access::from_bits(bits).unwrap();
            let node = NodeId::new(node.to_ne_bytes()).unwrap();
            let key = RemoteKey { node, number, len, access, align: 1 << shift, hint };
            prop_assert_eq!(RemoteKey::parse(&key.pack()), Ok(key));
        }

        #[test]
        fn any_bytes_are_refused_or_make_sense(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Ok(key) = RemoteKey::parse(&bytes) {
                prop_assert_eq!(&key.pack()[..], &bytes[..]);
            }
        }
    }
}
