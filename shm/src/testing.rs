//! What tests see and do that nobody else may: how much of a segment is in use, and writing nonsense into it.

use gridnet_core::sync::{AtomicU64, Ordering};

use crate::layout::LinkOffer;
use crate::rail::ShmRail;
use crate::socket;

/// What of a fabric's memory is in use. All but `loans` is 0 when no peer is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of link blocks and staging buffers.
    pub arena: usize,
    /// Exposures that last.
    pub exposures: usize,
    /// Bytes that the engine has for loans, lent or kept for the next one.
    pub loans: usize,
    /// Links that are up or are being made, and segments of dead peers in which loans are read.
    pub links: usize,
}

impl ShmRail {
    /// What is in use now.
    pub fn usage(&self) -> Usage {
        let (words, exposures) = self.exposures.in_use();
        let links = self.links.iter().filter(|link| !link.over || link.read.is_some()).count();
        Usage { arena: self.arena.in_use() - words, exposures, loans: self.loans.in_use(), links }
    }

    /// Bytes of the own segment.
    pub fn segment_bytes(&self) -> usize {
        self.arena.segment().len()
    }

    /// Replaces a word of the own segment, as a process does that has gone mad; words that have no memory stay.
    pub fn scribble(&self, word: usize, value: u64) {
        let segment = self.arena.segment();
        let offset = word * size_of::<u64>();
        if offset + size_of::<u64>() > segment.len() || !segment.is_backed(offset) {
            return;
        }
        // SAFETY: inside the own segment, aligned; whoever reads it there takes it for an atomic, too.
        unsafe { segment.at(offset).cast::<AtomicU64>().as_ref() }.store(value, Ordering::Relaxed);
    }

    /// Where the blocks of the links begin in the own segment, in words: consumed count, then the ring.
    pub fn blocks(&self) -> impl Iterator<Item = usize> + '_ {
        let words = crate::layout::LINE / size_of::<u64>();
        self.links.iter().filter(|link| !link.over).map(move |link| link.block as usize * words)
    }
}

/// Reads a link offer, for a segment whose length the first two bytes tell.
///
/// # Panics
/// When the offer leads out of the segment.
pub fn read_offer(bytes: &[u8]) {
    let Some((size, offer)) = bytes.split_first_chunk::<2>() else { return };
    let size = usize::from(u16::from_le_bytes(*size)) << 12;
    if let Ok(offer) = LinkOffer::parse(offer, size) {
        assert!(
            offer.block as usize * crate::layout::LINE + crate::layout::link_block_len(offer.slots) <= size
        );
        assert_eq!(LinkOffer::parse(&offer.encode(), size), Ok(offer));
    }
}

/// Reads a packet of the socket that came without descriptors.
///
/// # Panics
/// When that makes a link.
pub fn read_packet(bytes: &[u8]) {
    let packet = socket::parse_packet(bytes, Vec::new());
    assert!(!matches!(packet, Ok(socket::Packet::Hello(..))), "a handshake without descriptors");
}
