//! What lies where in a segment, and how a link is offered in the handshake.
//!
//! A segment belongs to one fabric, which alone writes it; peers map it read-only. Numbers are of the host's byte
//! order (the handshake compares it), positions are offsets from the start.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 64 | [`Header`] |
//! | 64 | 64 | the arming word of the owner's doorbell, alone in its line |
//! | 4096 | ... | link blocks and staging buffers, in 64-byte lines, as the owner allots them |
//! | up to the end | ... | loans, in pages; they begin at the end and grow towards the start |
//!
//! A link block: one line with the owner's consumed count for the peer's ring, then the slots of the owner's ring to
//! that peer, then one line in which the owner announces its accesses to the peer's regions, then one of padding. The odd
//! number of lines staggers the rings of many peers over the sets of the first-level cache.
//!
//! A region's record: one line of words, see [`Record`].

use gridnet_core::region::Access;
use gridnet_core::ring::slot;
use gridnet_core::sync::AtomicU32;
use gridnet_core::wire::Malformed;

/// Bytes of a cache line, and the unit of positions.
pub const LINE: usize = 64;
/// Where the owner's arming word is.
pub const ARMING_OFFSET: usize = 64;
/// Where link blocks and buffers begin.
pub const ARENA_OFFSET: usize = 4096;
/// Smallest segment.
pub const MIN_SEGMENT: usize = 64 * 1024;
/// Largest segment: positions in lines fit into 32 bits.
pub const MAX_SEGMENT: usize = 256 << 30;

const MAGIC: u64 = u64::from_ne_bytes(*b"gridnet\x01");

/// The first line of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Says that this is a segment of gridnet in this layout.
    pub magic: u64,
    /// Bytes of the segment.
    pub size: u64,
    /// Node id of the owner.
    pub node: [u8; 16],
    /// Incarnation of the owner.
    pub incarnation: u64,
    /// Where the owner has mapped it: what a peer reads there, in the owner's process, must be this header.
    pub address: u64,
    /// 0.
    pub reserved: [u64; 2],
}

/// What peers have to know of a region, as words of a line of the owner's segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Word 0: number of the region as long as it lives, else 0.
    pub number: u64,
    /// Words 1 and 2: where it is.
    pub place: RecordPlace,
    /// Word 3: its length in bytes.
    pub len: u64,
    /// Word 4: what peers may do.
    pub access: Access,
}

/// Where a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPlace {
    /// At this offset of the owner's heap.
    Heap(u64),
    /// At this address in the owner's process.
    Address(u64),
}

/// Words of a record's line.
pub const RECORD_WORDS: usize = LINE / 8;

impl Record {
    /// As words, without the number, which makes it live.
    pub fn words(&self) -> [u64; RECORD_WORDS] {
        let (kind, place) = match self.place {
            RecordPlace::Heap(offset) => (1, offset),
            RecordPlace::Address(address) => (2, address),
        };
        [0, kind, place, self.len, u64::from(self.access.bits()), 0, 0, 0]
    }

    /// Reads words that a peer wrote.
    pub fn parse(words: &[u64; RECORD_WORDS]) -> Option<Record> {
        let place = match words[1] {
            1 => RecordPlace::Heap(words[2]),
            2 => RecordPlace::Address(words[2]),
            _ => return None,
        };
        let access = Access::parse(u32::try_from(words[4]).ok()?)?;
        words[2].checked_add(words[3])?;
        (words[0] != 0).then_some(Record { number: words[0], place, len: words[3], access })
    }
}

const _: () = assert!(size_of::<Header>() == LINE);
const _: () = assert!(size_of::<AtomicU32>() == 4);

impl Header {
    /// The header of a segment.
    pub fn new(size: usize, node: [u8; 16], incarnation: u64) -> Header {
        Header { magic: MAGIC, size: size as u64, node, incarnation, address: 0, reserved: [0; 2] }
    }

    /// Compares a peer's header with what the peer said in the handshake and with the size of its file.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, file_size: usize, node: &[u8; 16], incarnation: u64) -> Result<(), Malformed> {
        if self.magic != MAGIC {
            return Err(Malformed("the memory is no segment of gridnet, or one of another layout"));
        }
        if self.size != file_size as u64 {
            return Err(Malformed("the size in its header is not that of the file"));
        }
        if self.node != *node || self.incarnation != incarnation {
            return Err(Malformed("it belongs to another node"));
        }
        Ok(())
    }
}

/// Bytes of a link block with rings of `slots`.
pub fn link_block_len(slots: u32) -> usize {
    (slots as usize + 3) * LINE
}

/// Position in lines, in a link block with rings of `slots`, of the announcements.
pub fn announcement_line(slots: u32) -> u32 {
    slots + 1
}

/// Type of the handshake extension that offers a link.
pub const LINK_OFFER: u16 = 0x8001;
const LINK_OFFER_BYTES: usize = 16;

/// The sender runs no fence after it publishes, if the receiver has a barrier.
const FLAG_REGISTERED: u32 = 1;
/// The receiver runs a process-wide barrier before it sleeps.
const FLAG_HAS_BARRIER: u32 = 2;

/// Where in its segment a fabric has put its block for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkOffer {
    /// Offset of the block in lines.
    pub block: u32,
    /// Slots of the ring.
    pub slots: u32,
    /// The process takes part in process-wide barriers.
    pub registered: bool,
    /// The process runs one before it sleeps.
    pub has_barrier: bool,
}

impl LinkOffer {
    /// The content of the extension.
    pub fn encode(&self) -> Vec<u8> {
        let flags =
            u32::from(self.registered) * FLAG_REGISTERED + u32::from(self.has_barrier) * FLAG_HAS_BARRIER;
        [self.block, self.slots, flags, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads an offer for a segment of `size` bytes.
    ///
    /// # Errors
    /// When the block does not lie in the segment, or no ring can be like that.
    pub fn parse(bytes: &[u8], size: usize) -> Result<LinkOffer, Malformed> {
        let bytes: &[u8; LINK_OFFER_BYTES] =
            bytes.try_into().map_err(|_| Malformed("link offer is not 16 bytes"))?;
        let word = |i: usize| {
            u32::from_le_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]])
        };
        let (block, slots, flags) = (word(0), word(1), word(2));
        if !slot::is_valid_count(slots) {
            return Err(Malformed("number of slots is no power of two from 64 to 4096"));
        }
        let start = block as usize * LINE;
        if start < ARENA_OFFSET || start + link_block_len(slots) > size {
            return Err(Malformed("link block is outside the segment"));
        }
        Ok(LinkOffer {
            block,
            slots,
            registered: flags & FLAG_REGISTERED != 0,
            has_barrier: flags & FLAG_HAS_BARRIER != 0,
        })
    }
}

/// A reference to a staging buffer, as a slot carries it: position in lines and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingRef {
    /// Offset in lines.
    pub line: u32,
    /// Length in bytes.
    pub len: u32,
}

impl StagingRef {
    /// As a word.
    #[inline]
    pub fn pack(self) -> u64 {
        u64::from(self.line) << 32 | u64::from(self.len)
    }

    /// From a word that a peer wrote: offset and length in bytes, inside a segment of `size` bytes.
    #[inline]
    pub fn unpack(word: u64, size: usize) -> Option<(usize, usize)> {
        let (start, len) = ((word >> 32) as usize * LINE, word as u32 as usize);
        (start >= ARENA_OFFSET && start + len <= size).then_some((start, len))
    }
}

/// Start and length in bytes of a loan from words that a peer wrote, inside a segment of `size` bytes.
#[inline]
pub fn loan_range(position: u64, len: u64, size: usize) -> Option<(usize, usize)> {
    let (start, len) = (usize::try_from(position).ok()?, usize::try_from(len).ok()?);
    (start >= ARENA_OFFSET && start.checked_add(len)? <= size).then_some((start, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_of_others_are_refused() {
        let header = Header::new(1 << 20, [1; 16], 7);
        assert_eq!(header.check(1 << 20, &[1; 16], 7), Ok(()));
        assert!(header.check(1 << 19, &[1; 16], 7).is_err());
        assert!(header.check(1 << 20, &[2; 16], 7).is_err());
        assert!(header.check(1 << 20, &[1; 16], 8).is_err());
        assert!(Header { magic: 0, ..header }.check(1 << 20, &[1; 16], 7).is_err());
    }

    #[test]
    fn records_of_peers_are_refused_or_make_sense() {
        let record = Record { number: 9, place: RecordPlace::Heap(128), len: 64, access: Access::ALL };
        let mut words = record.words();
        assert_eq!(Record::parse(&words), None, "not live");
        words[0] = 9;
        assert_eq!(Record::parse(&words), Some(record));
        for (word, value) in [(1, 0), (1, 3), (2, u64::MAX), (3, u64::MAX), (4, 32), (4, 1 << 40)] {
            let mut forged = words;
            forged[word] = value;
            assert_eq!(Record::parse(&forged), None, "word {word} is {value}");
        }
    }

    proptest! {
        #[test]
        fn offers_and_references_stay_inside_the_segment(
            bytes in prop::collection::vec(any::<u8>(), 16),
            word: u64,
            position: u64,
            len: u64,
            size in MIN_SEGMENT..(64 << 20),
        ) {
            if let Ok(offer) = LinkOffer::parse(&bytes, size) {
                prop_assert!(offer.block as usize * LINE + link_block_len(offer.slots) <= size);
                prop_assert_eq!(LinkOffer::parse(&offer.encode(), size), Ok(offer));
            }
            if let Some((start, len)) = StagingRef::unpack(word, size) {
                prop_assert!(start >= ARENA_OFFSET && start + len <= size);
            }
            // Full range, and near the end of the segment, where the border is.
            for (position, len) in [(position, len), (position % (2 * size as u64), len % size as u64)] {
                let inside = position >= ARENA_OFFSET as u64
                    && position.checked_add(len).is_some_and(|end| end <= size as u64);
                prop_assert_eq!(loan_range(position, len, size), inside.then_some((position as usize, len as usize)));
            }
        }

        #[test]
        fn valid_offers_round_trip(block in 64..10_000u32, shift in 6..13u32, registered: bool, has_barrier: bool) {
            let offer = LinkOffer { block, slots: 1 << shift, registered, has_barrier };
            prop_assert_eq!(LinkOffer::parse(&offer.encode(), 64 << 20), Ok(offer));
        }
    }
}
