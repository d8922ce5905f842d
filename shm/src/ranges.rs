//! Free ranges of some memory, each joined with its neighbours.

use std::collections::{BTreeMap, BTreeSet};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Length of each range, by its start,
    by_start: BTreeMap<usize, usize>,
    /// and the same by length and start.
    by_len: BTreeSet<(usize, usize)>,
}

impl Ranges {
    /// Takes `len` bytes that begin at a multiple of `grain`, out of the smallest range that has them; where they begin.
    pub(crate) fn take(&mut self, len: usize, grain: usize) -> Option<usize> {
        let fits = |&(range, start): &(usize, usize)| {
            let before = start.next_multiple_of(grain) - start;
            (before + len <= range).then_some((start, range, before))
        };
        let (start, range, before) = self.by_len.range((len, 0)..).find_map(fits)?;
        self.remove(start);
        if before > 0 {
            self.insert(start, before);
        }
        if range > before + len {
            self.insert(start + before + len, range - before - len);
        }
        Some(start + before)
    }

    /// Enters a range; start and length of what it is now part of.
    pub(crate) fn give(&mut self, mut start: usize, mut len: usize) -> (usize, usize) {
        len += self.remove(start + len).unwrap_or(0);
        let before = self.by_start.range(..start).next_back().map(|(start, len)| (*start, *len));
        if let Some((first, range)) = before.filter(|(first, range)| first + range == start) {
            self.remove(first);
            (start, len) = (first, range + len);
        }
        self.insert(start, len);
        (start, len)
    }

    /// Takes out the range that begins here; its length.
    pub(crate) fn remove(&mut self, start: usize) -> Option<usize> {
        let len = self.by_start.remove(&start)?;
        self.by_len.remove(&(len, start));
        Some(len)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        assert_eq!(self.by_start.len(), self.by_len.len());
        self.by_start.len()
    }

    fn insert(&mut self, start: usize, len: usize) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 1 << 16;

    #[test]
    fn the_smallest_that_suffices_serves_and_neighbours_are_joined() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.give(10, 100), (10, 100));
        assert_eq!(ranges.give(200, 50), (200, 50));
        assert_eq!(ranges.take(40, 1), Some(200));
        assert_eq!(ranges.take(60, 64), None, "not from a multiple of 64 on");
        assert_eq!(ranges.take(30, 64), Some(64));
        assert_eq!((ranges.give(64, 30), ranges.give(200, 40)), ((10, 100), (200, 50)));
        assert_eq!((ranges.give(110, 90), ranges.count()), ((10, 240), 1));
        assert_eq!((ranges.remove(10), ranges.remove(10), ranges.count()), (Some(240), None, 0));
    }

    proptest! {
        #[test]
        fn what_is_taken_never_overlaps_and_comes_back_whole(
            steps in prop::collection::vec((any::<bool>(), 1..5000usize, 0..13u32, any::<u16>()), 1..150)
        ) {
            let mut ranges = Ranges::default();
            ranges.give(0, SIZE);
            let mut taken: Vec<(usize, usize)> = Vec::new();
            for (take, len, shift, pick) in steps {
                if !take && !taken.is_empty() {
                    let (start, len) = taken.swap_remove(pick as usize % taken.len());
                    ranges.give(start, len);
                } else if let Some(start) = ranges.take(len, 1 << shift) {
                    prop_assert!(start.is_multiple_of(1 << shift) && start + len <= SIZE);
                    prop_assert!(taken.iter().all(|(s, l)| start + len <= *s || s + l <= start));
                    taken.push((start, len));
                }
            }
            for (start, len) in taken {
                ranges.give(start, len);
            }
            prop_assert_eq!((ranges.count(), ranges.remove(0)), (1, Some(SIZE)));
        }
    }
}
