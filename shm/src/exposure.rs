//! Memory of this process that a peer may fetch by itself, and until when.
//!
//! Each exposure has a word in the own segment, which grows by one when the exposure begins and when it ends: odd
//! while it lasts. The key names the word and its value. A peer compares the two before its copy and after: when they
//! still agree, the memory was the sender's to give for all of that time (a sequence lock, with the copy as the read).
//!
//! Orderings. The beginning is published by the frame that carries the key. The end is stored before the operation
//! completes, so before its memory is used for something else: the fence in [`Exposures::end`] keeps that order, and
//! the fence in [`is_current`] keeps the copy before the second look.

use gridnet_core::rail::RemoteSource;
use gridnet_core::sync::{fence, AtomicU32, Ordering};

use crate::arena::Arena;
use crate::layout::LINE;
use crate::segment::PeerSegment;

/// Words in a line.
const WORDS: u32 = (LINE / size_of::<u32>()) as u32;

/// The exposures of one fabric. Private bookkeeping but for the words themselves.
#[derive(Debug, Default)]
pub struct Exposures {
    /// Words that serve no exposure now, by their position in units of four bytes.
    free: Vec<u32>,
    /// Lines of words.
    lines: Vec<u32>,
}

impl Exposures {
    /// Lets peers fetch the memory at `address`; `None` when the segment has no word left for it.
    pub fn begin(&mut self, arena: &mut Arena, address: u64) -> Option<RemoteSource> {
        if self.free.is_empty() {
            // Positions of words have 32 bits: beyond 16 GiB of the segment there are none.
            let line = arena.take_line().ok().filter(|line| *line < u32::MAX / WORDS)?;
            self.lines.push(line);
            self.free.extend(line * WORDS..(line + 1) * WORDS);
        }
        let position = self.free.pop()?;
        let word = word_of(arena, position);
        let value = word.load(Ordering::Relaxed).wrapping_add(1);
        word.store(value, Ordering::Relaxed);
        let rkey = u64::from(position) << 32 | u64::from(value);
        Some(RemoteSource { rkey, address })
    }

    /// Bytes of the words, and how many of them serve an exposure.
    #[cfg(feature = "testing")]
    pub(crate) fn in_use(&self) -> (usize, usize) {
        (self.lines.len() * LINE, self.lines.len() * WORDS as usize - self.free.len())
    }

    /// Ends an exposure, whose key [`Self::begin`] gave out: copies that are under way, or come later, find the key stale.
    pub fn end(&mut self, arena: &Arena, rkey: u64) {
        let position = (rkey >> 32) as u32;
        let word = word_of(arena, position);
        if word.load(Ordering::Relaxed) != rkey as u32 {
            return;
        }
        word.store((rkey as u32).wrapping_add(1), Ordering::Relaxed);
        // What the program writes into the memory after this is seen by nobody who cannot see that the word has changed.
        fence(Ordering::Release);
        self.free.push(position);
    }

    /// Ends all exposures: the fabric closes, and its program may use the memory again.
    pub fn end_all(&mut self, arena: &Arena) {
        let words = self.lines.iter().flat_map(|line| line * WORDS..(line + 1) * WORDS);
        for position in words.collect::<Vec<u32>>() {
            let value = word_of(arena, position).load(Ordering::Relaxed);
            if !value.is_multiple_of(2) {
                self.end(arena, u64::from(position) << 32 | u64::from(value));
            }
        }
    }
}

fn word_of(arena: &Arena, position: u32) -> &AtomicU32 {
    let at = arena.segment().at(position as usize * size_of::<u32>());
    // SAFETY: a word of a line that was allotted for exposures, aligned, only ever accessed as an atomic.
    unsafe { at.cast::<AtomicU32>().as_ref() }
}

/// Whether a peer's exposure still lasts; `None` when its key names no place in the peer's segment.
pub fn is_current(segment: &PeerSegment, rkey: u64) -> Option<bool> {
    let word = segment.word((rkey >> 32) as usize * size_of::<u32>())?;
    // Whatever was copied before this look was read before it.
    fence(Ordering::Acquire);
    Some(word.load(Ordering::Acquire) == rkey as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Header;
    use crate::segment::OwnSegment;

    #[test]
    fn keys_go_stale_with_their_exposure_and_words_serve_again() {
        let own = OwnSegment::create(1 << 20, &Header::new(1 << 20, [4; 16], 1), false).unwrap();
        let peer = PeerSegment::map(&own.file().try_clone_to_owned().unwrap(), &[4; 16], 1).unwrap();
        let mut arena = Arena::new(own, 64);
        let mut exposures = Exposures::default();
        let mut stale = Vec::new();
        for round in 0..3u64 {
            let keys: Vec<u64> =
                (0..40).map(|i| exposures.begin(&mut arena, round * 100 + i).unwrap().rkey).collect();
            assert!(keys.iter().all(|key| is_current(&peer, *key) == Some(true)));
            assert!(stale.iter().all(|key| is_current(&peer, *key) == Some(false)));
            keys[..30].iter().for_each(|key| exposures.end(&arena, *key));
            exposures.end(&arena, keys[0]);
            exposures.end_all(&arena);
            assert!(keys.iter().all(|key| is_current(&peer, *key) == Some(false)));
            stale.extend(keys);
        }
        assert_eq!(
            (exposures.free.len(), exposures.lines.len()),
            (48, 3),
            "three lines of words, used again and again"
        );
        assert_eq!(is_current(&peer, u64::MAX), None);
        assert_eq!(is_current(&peer, 0), None, "the header is no place for words");
    }
}
