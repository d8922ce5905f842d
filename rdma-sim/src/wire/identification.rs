//! The identification of an IPv4 header, found from the ICRC.
//!
//! The ICRC covers the identification, and a UDP socket does not tell it. As a CRC is linear, it can be computed: the difference
//! between the ICRC that came and the one for identification 0 is that of the 16 unknown bits, moved along by the bytes behind
//! them. Moved back, a difference that has more than 16 bits shows that something else is wrong. So of the 32 bits that the ICRC
//! has to find errors, 16 are left, beside the checksum of UDP.

use std::collections::HashMap;

use super::icrc::{Flow, ICRC_BYTES};

/// The polynomial of CRC-32, its lowest power in the highest bit.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Of the IPv4 header, the bytes behind the identification; and the UDP header.
const BEHIND: usize = 14 + 8;

/// Finds identifications; remembers what depends only on the length of a packet.
#[derive(Debug, Default)]
pub struct Identifications {
    /// By bytes of the packet: what each bit of a difference becomes when it is moved back.
    back: HashMap<u16, [u32; 32]>,
}

impl Identifications {
    /// The packet without its ICRC, if the ICRC is right for some identification. `flow` is one of IPv4, its identification does
    /// not matter.
    pub fn open<'a>(&mut self, flow: &Flow, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (packet, icrc) = datagram.split_last_chunk::<ICRC_BYTES>()?;
        let len = u16::try_from(packet.len()).ok()?;
        let difference = flow.crc_unidentified(packet)? ^ u32::from_le_bytes(*icrc);
        let columns = self.back.entry(len).or_insert_with(|| columns(usize::from(len)));
        let moved = (0..32).filter(|bit| difference >> bit & 1 != 0).fold(0, |sum, bit| sum ^ columns[bit]);
        // The first byte of the identification is in the lowest bits.
        (moved >> 16 == 0).then_some(packet)
    }
}

/// What each bit becomes when it is moved back by the packet, what is between, and the identification itself.
fn columns(len: usize) -> [u32; 32] {
    std::array::from_fn(|bit| (0..(len + BEHIND + 2) * 8).fold(1 << bit, |state, _| back(state)))
}

/// The state of the CRC before a bit that was 0.
const fn back(state: u32) -> u32 {
    // The polynomial was added if its highest bit is set, since that is where a 0 was moved in.
    if state >> 31 != 0 {
        (state ^ POLYNOMIAL) << 1 | 1
    } else {
        state << 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ipv4Fields;

    #[test]
    fn any_identification_and_no_other_error() {
        let flow = |identification| {
            let (from, to) = ("10.0.0.1:4000", "10.0.0.2:4791");
            let fields = Ipv4Fields { identification, ..Ipv4Fields::UNFRAGMENTED };
            Flow::new(from.parse().ok()?, to.parse().ok()?, fields)
        };
        let unknown = flow(0).expect("a flow");
        let mut found = Identifications::default();
        for identification in [0, 1, 0x718c, 0x8000, 0xffff] {
            for len in [12, 40, 1052] {
                let mut bytes = vec![identification as u8; len];
                flow(identification).expect("a flow").seal(&mut bytes);
                assert_eq!(
                    found.open(&unknown, &bytes),
                    Some(&bytes[..len]),
                    "{identification:#x}, {len} bytes"
                );
                for bit in 0..bytes.len() * 8 {
                    let mut spoiled = bytes.clone();
                    spoiled[bit / 8] ^= 1 << (bit % 8);
                    // The fifth byte is not covered.
                    assert_eq!(found.open(&unknown, &spoiled).is_some(), bit / 8 == 4, "bit {bit}");
                }
            }
        }
    }
}
