//! What tests see and do that nobody else may: how much of a segment is in use, and writing nonsense into it.

use std::ptr::NonNull;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::sync::{AtomicU64, Ordering};

use crate::layout::LinkOffer;
use crate::rail::ShmRail;
use crate::socket;

const WORD: usize = size_of::<u64>();

/// What of a fabric's memory is in use, besides its own regions. All but `loans` is 0 when no peer is connected.
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
    /// Connections that have not said who they are.
    pub greetings: usize,
}

/// In the hands of a test: breaks the links of a rail, and keeps it from making new ones.
#[derive(Debug, Clone, Default)]
pub struct Shears {
    cuts: Arc<AtomicU64>,
    parted: Arc<AtomicU64>,
}

impl Shears {
    /// Breaks all links that there are.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on no link can be made, or one can again.
    pub fn part(&self, parted: bool) {
        self.parted.store(u64::from(parted), Ordering::Relaxed);
    }

    pub(crate) fn are_open(&self) -> bool {
        self.parted.load(Ordering::Relaxed) != 0
    }
}

impl ShmRail {
    /// What is in use now.
    pub fn usage(&self) -> Usage {
        let (words, exposures) = self.exposures.in_use();
        let links = self.links.iter().filter(|link| !link.over || link.read.is_some()).count();
        let arena = self.arena.in_use() - words - self.records.len() * crate::layout::LINE;
        Usage {
            arena,
            exposures,
            loans: self.loans.in_use(),
            links,
            greetings: self.greetings.iter().flatten().count(),
        }
    }

    /// Breaks links from now on, while the processes live, as somebody else says.
    pub fn obey(&mut self, shears: &Shears) {
        self.shears = Some((shears.clone(), 0));
    }

    /// Breaks all links if it was said so since the last look.
    pub(crate) fn look_at_shears(&mut self) {
        let Some((shears, seen)) = &mut self.shears else { return };
        let cuts = shears.cuts.load(Ordering::Relaxed);
        if std::mem::replace(seen, cuts) == cuts {
            return;
        }
        for index in self.hot.iter().chain(&self.cold) {
            self.broken.push((*index, Refusal::new(Error::Unreachable, "the link was cut")));
        }
    }

    /// Never reaches into the memory of the peers' processes: for tests in which peers that lie are of this process.
    pub fn keep_out(&mut self) {
        self.links.iter_mut().for_each(|link| link.reach = crate::process::Reach::No);
    }

    /// Hands out the means to write nonsense into the own segment, as a process does that has gone mad.
    ///
    /// # Safety
    /// Not to be used after the rail is gone.
    pub unsafe fn scribbler(&self) -> Scribbler {
        let segment = self.arena.segment();
        Scribbler { base: segment.at(0).cast(), words: segment.len() / WORD, backed: segment.backed() }
    }

    /// Where the blocks of the links begin in the own segment, in words: consumed count, then the ring.
    pub fn blocks(&self) -> impl Iterator<Item = usize> + '_ {
        let words = crate::layout::LINE / WORD;
        self.links.iter().filter(|link| !link.over).map(move |link| link.block as usize * words)
    }

    /// Where the links' announcements of accesses to peers' regions are in the own segment, in words.
    pub fn announcements(&self) -> impl Iterator<Item = usize> + '_ {
        let words = crate::layout::LINE / WORD;
        let line = crate::layout::announcement_line(self.arena.slots()) as usize;
        self.blocks().map(move |block| block + line * words)
    }
}

/// Writes words of a segment that peers are reading.
#[derive(Debug)]
pub struct Scribbler {
    base: NonNull<AtomicU64>,
    words: usize,
    /// Where memory ends that the system has promised, and where it begins again, in bytes.
    backed: (usize, usize),
}

// SAFETY: an address of words that are only ever accessed as atomics.
unsafe impl Send for Scribbler {}

impl Scribbler {
    /// Words that there are.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Replaces a word; those that are outside, or have no memory, stay as they are.
    pub fn scribble(&self, word: usize, value: u64) {
        let offset = word.saturating_mul(WORD);
        if word < self.words && (offset < self.backed.0 || offset >= self.backed.1) {
            // SAFETY: inside the segment, which is mapped as long as the rail lives: the promise of `scribbler`.
            unsafe { self.base.add(word).as_ref() }.store(value, Ordering::Relaxed);
        }
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
    let brings = matches!(packet, Ok(socket::Packet::Hello(..) | socket::Packet::Early(..)));
    assert!(!brings, "a handshake without descriptors");
}
