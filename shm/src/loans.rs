//! Who has which range of the own segment for loans. Private bookkeeping, as in `arena.rs`.
//!
//! Loans grow from the end of the segment towards its start, link blocks and staging buffers the other way. Ranges that come
//! back are joined with their neighbours; the smallest that suffices serves the next request. This is the slow path: most
//! loans are served from what came back in the same size, which the engine keeps.

use gridnet_core::error::Error;
use gridnet_core::loan::{LoanMemory, LOAN_UNIT};

use crate::ranges::Ranges;
use crate::segment::OwnSegment;

/// Ranges of a segment.
#[derive(Debug, Default)]
pub struct LoanSpace {
    free: Ranges,
    /// Bytes that are lent.
    lent: usize,
}

impl LoanSpace {
    /// Bytes that are lent.
    #[cfg(feature = "testing")]
    pub(crate) fn in_use(&self) -> usize {
        self.lent
    }

    /// Allots `len` bytes, a multiple of the unit.
    ///
    /// # Errors
    /// As [`gridnet_core::rail::Rail::lend`].
    pub fn take(&mut self, segment: &mut OwnSegment, len: usize) -> Result<LoanMemory, Error> {
        // Messages need room, too: a quarter of the segment is never lent.
        let floor = segment.len() / 4;
        // What they have taken beyond it does not come back, whatever becomes of the loans.
        if !segment.could_claim(len, LOAN_UNIT, floor) {
            return Err(Error::Limit);
        }
        let start = match self.free.take(len, LOAN_UNIT) {
            Some(start) => start,
            // Loans that come back will make room.
            None => segment.claim_from_end(len, LOAN_UNIT, floor).map_err(|error| match error {
                Error::Limit => Error::Again,
                other => other,
            })?,
        };
        self.lent += len;
        Ok(LoanMemory { position: start as u64, base: segment.at(start), capacity: len })
    }

    /// Takes a range back.
    pub fn give_back(&mut self, segment: &mut OwnSegment, memory: &LoanMemory) {
        self.lent -= memory.capacity;
        let (start, len) = self.free.give(memory.position as usize, memory.capacity);
        if start == segment.claimed() {
            self.free.remove(start);
            segment.unclaim(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Header;
    use proptest::prelude::*;

    const SIZE: usize = 4 << 20;

    fn segment() -> OwnSegment {
        OwnSegment::create(SIZE, &Header::new(SIZE, [1; 16], 0), false).unwrap()
    }

    #[test]
    fn a_full_segment_says_whether_waiting_helps() {
        let (mut segment, mut space) = (segment(), LoanSpace::default());
        assert_eq!(space.take(&mut segment, SIZE), Err(Error::Limit));
        let whole = space.take(&mut segment, SIZE / 4 * 3).unwrap();
        assert_eq!(space.take(&mut segment, LOAN_UNIT), Err(Error::Again));
        space.give_back(&mut segment, &whole);
        assert_eq!(segment.claimed(), SIZE, "what is not used serves messages");
        segment.commit(SIZE / 2).unwrap();
        // Messages have taken the room for good: no loan that comes back makes any, lent or not.
        assert_eq!(space.take(&mut segment, SIZE / 4 * 3), Err(Error::Limit));
        let half = space.take(&mut segment, SIZE / 2).unwrap();
        assert_eq!(space.take(&mut segment, SIZE / 2 + LOAN_UNIT), Err(Error::Limit));
        assert_eq!(space.take(&mut segment, SIZE / 2), Err(Error::Again), "it will come back");
        space.give_back(&mut segment, &half);
        space.take(&mut segment, SIZE / 2).unwrap();
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_join_in_the_end(
            steps in prop::collection::vec((any::<bool>(), 1..60usize, any::<u16>()), 1..150)
        ) {
            let (mut segment, mut space) = (segment(), LoanSpace::default());
            let mut lent: Vec<LoanMemory> = Vec::new();
            for (take, units, pick) in steps {
                if !take && !lent.is_empty() {
                    let memory = lent.swap_remove(pick as usize % lent.len());
                    space.give_back(&mut segment, &memory);
                    continue;
                }
                match space.take(&mut segment, units * LOAN_UNIT) {
                    Ok(memory) => {
                        let (start, end) = (memory.position, memory.position + memory.capacity as u64);
                        prop_assert!(start as usize >= SIZE / 4 && end as usize <= SIZE);
                        prop_assert!(lent.iter().all(|m| m.position >= end || m.position + m.capacity as u64 <= start));
                        prop_assert_eq!(memory.base, segment.at(start as usize));
                        lent.push(memory);
                    }
                    Err(error) => prop_assert_eq!(error, Error::Again),
                }
            }
            lent.drain(..).for_each(|memory| space.give_back(&mut segment, &memory));
            prop_assert_eq!((segment.claimed(), space.free.count(), space.lent), (SIZE, 0, 0));
        }
    }
}
