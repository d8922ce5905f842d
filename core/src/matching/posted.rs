//! Receives that wait for their message.

use super::{hash, Key, Pattern, Source, ANY};
use crate::rail::PeerId;

const NONE: u32 = u32::MAX;
/// Most bits that bins can do without: each may make lists twice as long.
const MOST_BITS: u32 = 8;

/// A place for a receive, in a list of its bin or of the free ones.
#[derive(Debug)]
struct Entry<T> {
    next: u32,
    /// Odd while occupied; grows by one at each insertion and removal.
    generation: u32,
    /// Number of the peer accepted, or `ANY`.
    source: u32,
    hash: u32,
    tag: u64,
    ignore: u64,
    /// Order of posting.
    order: u64,
    receive: Option<T>,
}

impl<T> Entry<T> {
    #[inline(always)]
    fn accepts_tag(&self, tag: u64) -> bool {
        (self.tag ^ tag) & !self.ignore == 0
    }
}

/// A first-in first-out list of places.
#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// The posted receives of one fabric.
///
/// Receives that ignore no bit sit in bins by source and tag, or by tag alone when they accept any source; with them those that
/// ignore the same few bits, as all receives of an MPI do for the sake of its own protocol: the first of that kind says which,
/// and bins do not look at these bits from then on. Others that ignore bits are in one list. An arriving message looks at the
/// head of at most two bins and, when one of them could be meant, through the list; the earliest posted wins. Places are reused
/// last-in first-out, so that a short queue stays in cache.
#[derive(Debug)]
pub struct Posted<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    bins: Vec<List>,
    /// The bits that bins do not look at.
    unseen: u64,
    masked: List,
    masked_len: usize,
    /// Bits that all of the list, since it was empty last, look at and have in common; and what they are there.
    common: (u64, u64),
    any_source_len: usize,
    posted: u64,
}

impl<T> Default for Posted<T> {
    fn default() -> Self {
        Posted {
            entries: Vec::new(),
            free: NONE,
            len: 0,
            bins: vec![EMPTY; 256],
            unseen: 0,
            masked: EMPTY,
            masked_len: 0,
            common: (0, 0),
            any_source_len: 0,
            posted: 0,
        }
    }
}

impl<T> Posted<T> {
    /// Number of waiting receives.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no receive waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a receive behind all others.
    pub fn insert(&mut self, pattern: Pattern, receive: T) -> Key {
        let source = match pattern.source {
            Source::Any => ANY,
            Source::Peer(peer) => peer.number(),
        };
        let Pattern { tag, ignore, .. } = pattern;
        if self.unseen == 0 && (1..=MOST_BITS).contains(&ignore.count_ones()) {
            self.look_past(ignore);
        }
        if self.has_bins_for(ignore) {
            return self.insert_binned(source, tag, ignore, receive);
        }
        let (seen, value) = if self.masked_len == 0 { (!0, tag) } else { self.common };
        self.common = (seen & !ignore & !(tag ^ value), value);
        self.masked_len += 1;
        let key = self.occupy(source, tag, ignore, 0, receive);
        append(&mut self.entries, &mut self.masked, key.index());
        key
    }

    /// Whether receives that ignore these bits sit in bins.
    #[inline(always)]
    pub(crate) fn has_bins_for(&self, ignore: u64) -> bool {
        ignore == 0 || ignore == self.unseen
    }

    /// Adds a receive of one peer (or `ANY`) and tag behind all others; with bits that do not count, if there are
    /// [bins](Self::has_bins_for) for that.
    #[inline(always)]
    pub(crate) fn insert_binned(&mut self, source: u32, tag: u64, ignore: u64, receive: T) -> Key {
        debug_assert!(self.has_bins_for(ignore));
        let hash = self.hash(source, tag);
        let key = self.occupy(source, tag, ignore, hash, receive);
        self.any_source_len += usize::from(source == ANY);
        let bin = self.bin(hash);
        append(&mut self.entries, &mut self.bins[bin], key.index());
        key
    }

    /// Bins do not look at these bits any more.
    #[cold]
    fn look_past(&mut self, bits: u64) {
        self.unseen = bits;
        let mut binned: Vec<u32> = Vec::with_capacity(self.len);
        for list in &mut self.bins {
            let mut at = std::mem::replace(list, EMPTY).first;
            while let Some(entry) = self.entries.get_mut(at as usize) {
                binned.push(at);
                at = std::mem::replace(&mut entry.next, NONE);
            }
        }
        binned.sort_by_key(|index| self.entries[*index as usize].order);
        for index in binned {
            let entry = &self.entries[index as usize];
            let hash = self.hash(entry.source, entry.tag);
            self.entries[index as usize].hash = hash;
            let bin = self.bin(hash);
            append(&mut self.entries, &mut self.bins[bin], index);
        }
    }

    /// The earliest receive that accepts a message from `source` with `tag`, where it lies: moving it out would cost more than
    /// all the rest.
    #[inline(always)]
    pub fn first(&mut self, source: PeerId, tag: u64) -> Option<First<'_, T>> {
        let source = self.source_to_find(source, tag);
        let bin = self.bin(self.hash(source, tag));
        let first = self.entries.get(self.bins.get(bin)?.first as usize)?;
        if !first.accepts_tag(tag) || first.source != source {
            return self.first_further(bin, source, tag);
        }
        self.first_of(bin)
    }

    /// As [`Self::first`], where looking changes nothing that anybody could tell: no wildcard has to be weighed against another
    /// receive, and it is the first of its bin, or nobody minds the order there.
    #[inline(always)]
    pub fn first_plain(&mut self, source: PeerId, tag: u64) -> Option<First<'_, T>> {
        let source = match self.any_source_len + self.masked_len {
            0 => source.number(),
            _ if self.any_source_len == self.len => ANY,
            _ if self.may_be_for_wildcard(tag) => return None,
            _ => source.number(),
        };
        let bin = self.bin(self.hash(source, tag));
        let first = self.entries.get(self.bins.get(bin)?.first as usize)?;
        if first.accepts_tag(tag) && first.source == source {
            return self.first_of(bin);
        }
        if self.unseen != 0 {
            return None;
        }
        self.first_further(bin, source, tag)
    }

    /// The same, where another receive is the first of the bin.
    #[cold]
    fn first_further(&mut self, bin: usize, source: u32, tag: u64) -> Option<First<'_, T>> {
        if !self.bring_to_front(bin, source, tag) {
            return None;
        }
        self.first_of(bin)
    }

    #[inline(always)]
    fn first_of(&mut self, bin: usize) -> Option<First<'_, T>> {
        let list = self.bins.get_mut(bin)?;
        let index = list.first;
        let entry = self.entries.get_mut(index as usize)?;
        Some(First {
            index,
            entry,
            list,
            free: &mut self.free,
            len: &mut self.len,
            any_source_len: &mut self.any_source_len,
        })
    }

    /// Makes the earliest receive of this source and tag the first of its bin: those with others of the bin do not mind. False
    /// when there is none.
    fn bring_to_front(&mut self, bin: usize, source: u32, tag: u64) -> bool {
        let first = self.bins[bin].first;
        let found = self.search(first, |entry| entry.accepts_tag(tag) && entry.source == source);
        let Some((_, index)) = found else { return false };
        self.unlink(index, Some(bin));
        self.prepend(bin, index);
        true
    }

    /// The source under which the earliest receive that accepts a message is found by its tag.
    #[inline(always)]
    fn source_to_find(&mut self, source: PeerId, tag: u64) -> u32 {
        if self.any_source_len + self.masked_len == 0 {
            return source.number();
        }
        if self.any_source_len == self.len {
            return ANY;
        }
        if self.may_be_for_wildcard(tag) {
            self.bring_earliest_to_front(source.number(), tag);
        }
        source.number()
    }

    /// Whether a message with this tag could be for a receive of any source, or for one that ignores bits which bins look at.
    #[inline(always)]
    fn may_be_for_wildcard(&self, tag: u64) -> bool {
        let (seen, value) = self.common;
        self.masked_len != 0 && (tag ^ value) & seen == 0
            || self.any_source_len != 0 && self.first_binned(ANY, tag).is_some()
    }

    /// Takes the earliest receive that accepts a message from `source` with `tag`, with its key.
    pub fn take(&mut self, source: PeerId, tag: u64) -> Option<(Key, T)> {
        let found = self.first(source, tag)?;
        let key = found.key();
        Some((key, found.take()?))
    }

    /// Whether some receive accepts a message from `source` with `tag`.
    pub fn accepts(&self, source: PeerId, tag: u64) -> bool {
        let binned = self.first_binned(source.number(), tag).or(self.first_binned(ANY, tag));
        binned.or(self.first_masked(source.number(), tag)).is_some()
    }

    /// Takes the receive `key` out, matched or not by anything.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let index = key.index();
        let entry = self.entries.get(index as usize).filter(|e| e.generation == key.generation())?;
        let bin = self.has_bins_for(entry.ignore).then(|| self.bin(entry.hash));
        let previous = self.previous_of(index, bin);
        let entry = &mut self.entries[index as usize];
        let taken = entry.receive.take();
        self.any_source_len -= usize::from(entry.source == ANY && bin.is_some());
        self.masked_len -= usize::from(bin.is_none());
        self.vacate(index, previous, bin);
        taken
    }

    /// Keys of the receives that `choose` picks, for the slow path (a peer has gone, a queue is destroyed).
    pub fn keys_where(&self, mut choose: impl FnMut(Source, &T) -> bool) -> Vec<Key> {
        let occupied = self.entries.iter().enumerate().filter_map(|(i, e)| Some((i, e, e.receive.as_ref()?)));
        occupied
            .filter(|(_, e, receive)| choose(source_of(e.source), receive))
            .map(|(i, e, _)| Key::new(i as u32, e.generation))
            .collect()
    }

    /// When a wildcard receive is the earliest that accepts, makes it an exact one at the front of its bin.
    #[cold]
    fn bring_earliest_to_front(&mut self, source: u32, tag: u64) {
        let candidates =
            [self.first_binned(source, tag), self.first_binned(ANY, tag), self.first_masked(source, tag)];
        let Some((_, index)) = candidates.into_iter().flatten().min() else {
            return;
        };
        let entry = &self.entries[index as usize];
        let was_masked = !self.has_bins_for(entry.ignore);
        if entry.source == source && !was_masked {
            return;
        }
        let bin = (!was_masked).then_some(entry.hash).map(|hash| self.bin(hash));
        self.unlink(index, bin);
        self.masked_len -= usize::from(was_masked);
        self.any_source_len -= usize::from(!was_masked);
        let hash = self.hash(source, tag);
        let entry = &mut self.entries[index as usize];
        (entry.source, entry.tag, entry.ignore, entry.hash) = (source, tag, 0, hash);
        self.prepend(self.bin(hash), index);
    }

    /// Puts a place that is in no list at the front of a bin.
    fn prepend(&mut self, bin: usize, index: u32) {
        let first = std::mem::replace(&mut self.bins[bin].first, index);
        if first == NONE {
            self.bins[bin].last = index;
        }
        self.entries[index as usize].next = first;
    }

    /// Takes a place out of its list.
    fn unlink(&mut self, index: u32, bin: Option<usize>) {
        let (previous, next) = (self.previous_of(index, bin), self.entries[index as usize].next);
        self.close_gap(previous, next, bin);
    }

    /// The place before `index`, which is in the list of `bin`.
    fn previous_of(&self, index: u32, bin: Option<usize>) -> u32 {
        let mut previous = NONE;
        let mut at = bin.map_or(self.masked.first, |bin| self.bins[bin].first);
        while at != index {
            previous = at;
            at = self.entries[at as usize].next;
        }
        previous
    }

    /// Joins the places before and after one that leaves its list.
    #[inline(always)]
    fn close_gap(&mut self, previous: u32, next: u32, bin: Option<usize>) {
        let list = match bin {
            Some(bin) => &mut self.bins[bin],
            None => &mut self.masked,
        };
        if next == NONE {
            list.last = previous;
        }
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.next = next,
            None => list.first = next,
        }
    }

    #[inline(always)]
    fn vacate(&mut self, index: u32, previous: u32, bin: Option<usize>) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        entry.generation = entry.generation.wrapping_add(1);
        let next = std::mem::replace(&mut entry.next, self.free);
        self.free = index;
        self.len -= 1;
        self.close_gap(previous, next, bin);
    }

    #[inline(always)]
    fn occupy(&mut self, source: u32, tag: u64, ignore: u64, hash: u32, receive: T) -> Key {
        if self.free == NONE {
            self.add_place();
        }
        let index = self.free;
        self.posted += 1;
        self.len += 1;
        let entry = &mut self.entries[index as usize];
        self.free = entry.next;
        let generation = entry.generation.wrapping_add(1);
        (entry.generation, entry.next) = (generation, NONE);
        (entry.source, entry.hash, entry.tag, entry.ignore) = (source, hash, tag, ignore);
        entry.order = self.posted;
        // The place is free: there is nothing to drop.
        std::mem::forget(entry.receive.replace(receive));
        Key::new(index, generation)
    }

    #[cold]
    fn add_place(&mut self) {
        if self.entries.len() >= self.bins.len() * 2 {
            self.grow();
        }
        self.free =
            u32::try_from(self.entries.len()).expect("limits on operations keep queues far below 2^32");
        self.entries.push(Entry {
            next: NONE,
            generation: 0,
            source: 0,
            hash: 0,
            tag: 0,
            ignore: 0,
            order: 0,
            receive: None,
        });
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.bins);
        self.bins = vec![EMPTY; old.len() * 4];
        for list in old {
            let mut at = list.first;
            while at != NONE {
                let entry = &mut self.entries[at as usize];
                let (next, hash) = (std::mem::replace(&mut entry.next, NONE), entry.hash);
                let bin = self.bin(hash);
                append(&mut self.entries, &mut self.bins[bin], at);
                at = next;
            }
        }
    }

    #[inline(always)]
    fn bin(&self, hash: u32) -> usize {
        hash as usize & (self.bins.len() - 1)
    }

    /// Under which receives of this source and tag are found.
    #[inline(always)]
    fn hash(&self, source: u32, tag: u64) -> u32 {
        hash(source, tag & !self.unseen)
    }

    #[inline]
    fn first_binned(&self, source: u32, tag: u64) -> Option<(u64, u32)> {
        let first = self.bins[self.bin(self.hash(source, tag))].first;
        self.search(first, |entry| entry.accepts_tag(tag) && entry.source == source)
    }

    fn first_masked(&self, source: u32, tag: u64) -> Option<(u64, u32)> {
        self.search(self.masked.first, |entry| {
            entry.accepts_tag(tag) && (entry.source == ANY || entry.source == source)
        })
    }

    fn search(&self, first: u32, accepts: impl Fn(&Entry<T>) -> bool) -> Option<(u64, u32)> {
        let mut at = first;
        loop {
            let entry = self.entries.get(at as usize)?;
            if accepts(entry) {
                return Some((entry.order, at));
            }
            at = entry.next;
        }
    }
}

/// Puts a place at the end of a list.
#[inline(always)]
fn append<T>(entries: &mut [Entry<T>], list: &mut List, index: u32) {
    let last = std::mem::replace(&mut list.last, index);
    match entries.get_mut(last as usize) {
        Some(entry) => entry.next = index,
        None => list.first = index,
    }
}

/// The receive that a message has found, the first of its bin.
#[derive(Debug)]
pub struct First<'a, T> {
    index: u32,
    entry: &'a mut Entry<T>,
    list: &'a mut List,
    free: &'a mut u32,
    len: &'a mut usize,
    any_source_len: &'a mut usize,
}

impl<T> First<'_, T> {
    /// Its key.
    #[inline(always)]
    pub fn key(&self) -> Key {
        Key::new(self.index, self.entry.generation)
    }

    /// The receive.
    #[inline(always)]
    pub fn receive(&self) -> Option<&T> {
        self.entry.receive.as_ref()
    }

    /// Ends it.
    #[inline(always)]
    pub fn discard(self) {
        drop(self.take());
    }

    /// Takes it out.
    #[inline(always)]
    pub fn take(self) -> Option<T> {
        let taken = self.entry.receive.take();
        self.entry.generation = self.entry.generation.wrapping_add(1);
        self.list.first = std::mem::replace(&mut self.entry.next, *self.free);
        if self.list.first == NONE {
            self.list.last = NONE;
        }
        *self.free = self.index;
        *self.len -= 1;
        *self.any_source_len -= usize::from(self.entry.source == ANY);
        taken
    }
}

fn source_of(number: u32) -> Source {
    if number == ANY {
        Source::Any
    } else {
        Source::Peer(PeerId::new(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern() -> impl Strategy<Value = Pattern> {
        (0..4u32, 0..6u64, prop::sample::select(vec![0, 0, 0, 1, 1, 2, u64::MAX])).prop_map(
            |(s, tag, ignore)| Pattern {
                source: if s == 3 { Source::Any } else { Source::Peer(PeerId::new(s)) },
                tag,
                ignore,
            },
        )
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_searched_from_the_front(
            steps in prop::collection::vec(
                prop_oneof![
                    3 => pattern().prop_map(|p| (Some(p), 0, 0)),
                    2 => (0..3u32, 0..6u64).prop_map(|(s, t)| (None, s, t)),
                ],
                0..400,
            )
        ) {
            let mut posted = Posted::default();
            let mut list: Vec<(Pattern, usize)> = Vec::new();
            for (i, (post, source, tag)) in steps.into_iter().enumerate() {
                match post {
                    Some(pattern) => {
                        posted.insert(pattern, i);
                        list.push((pattern, i));
                    }
                    None => {
                        let source = PeerId::new(source);
                        let want = list.iter().position(|(p, _)| p.accepts(source, tag)).map(|at| list.remove(at).1);
                        // A look changes nothing, and is never wrong.
                        let seen = posted.first_plain(source, tag).and_then(|first| first.receive().copied());
                        prop_assert!(seen.is_none() || seen == want);
                        prop_assert_eq!(posted.take(source, tag).map(|(_, i)| i), want);
                        let other = posted.first_plain(source, (tag + 1) % 6).is_some();
                        prop_assert!(!other || list.iter().any(|(p, _)| p.accepts(source, (tag + 1) % 6)));
                    }
                }
                prop_assert_eq!(posted.len(), list.len());
            }
        }
    }

    #[test]
    fn receives_that_ignore_the_same_few_bits_are_found_in_bins() {
        const BITS: u64 = 0b101 << 60;
        let mut posted = Posted::default();
        let from = |source, tag, ignore| Pattern { source, tag, ignore };
        let one = Source::Peer(PeerId::new(1));
        let exact = posted.insert(from(one, 7 | 1 << 60, 0), 0);
        posted.insert(from(one, 7, BITS), 1);
        posted.insert(from(Source::Any, 7 | 1 << 63, 0), 2);
        // A wildcard of another kind, which shares bit 63 with the one before.
        posted.insert(from(Source::Any, 1 << 63, 0xffff), 3);
        assert_eq!((posted.unseen, posted.masked_len, posted.any_source_len), (BITS, 1, 1));
        // Only looked at: neither of the two ahead of the other.
        assert!(posted.first_plain(PeerId::new(1), 7).is_none(), "another receive is the first of its bin");
        let first = posted.first_plain(PeerId::new(1), 7 | 1 << 60).expect("it is the first of its bin");
        assert_eq!(first.key(), exact);
        assert_eq!(posted.take(PeerId::new(1), 7 | 1 << 62).map(|(_, found)| found), Some(1));
        assert_eq!(posted.take(PeerId::new(1), 7), None);
        assert_eq!(posted.take(PeerId::new(2), 7 | 1 << 63).map(|(_, found)| found), Some(2));
        assert_eq!(posted.take(PeerId::new(2), 7 | 1 << 63).map(|(_, found)| found), Some(3));
        assert_eq!(posted.remove(exact), Some(0));
        assert!(posted.is_empty());
    }

    #[test]
    fn receives_are_removed_by_key_once_and_from_anywhere() {
        let mut posted = Posted::default();
        let any = |tag, ignore| Pattern { source: Source::Any, tag, ignore };
        let exact = |tag| Pattern { source: Source::Peer(PeerId::new(0)), tag, ignore: 0 };
        let keys: Vec<Key> = [exact(1), exact(1), any(1, 0), any(0, 1), exact(1), any(2, 0)]
            .map(|p| posted.insert(p, ()))
            .into();
        for at in [1, 3, 0, 5, 4, 2] {
            assert_eq!(posted.remove(keys[at]), Some(()));
            assert_eq!(posted.remove(keys[at]), None);
        }
        assert!(posted.is_empty() && !posted.accepts(PeerId::new(0), 1));
    }

    #[test]
    fn exact_matches_among_many_thousands_touch_few_entries() {
        let mut posted = Posted::default();
        for tag in 0..100_000u64 {
            posted.insert(Pattern { source: Source::Peer(PeerId::new(1)), tag, ignore: 0 }, tag);
        }
        // The longest list bounds the work of any lookup.
        let mut lengths = vec![0; posted.bins.len()];
        posted.entries.iter().for_each(|e| lengths[posted.bin(e.hash)] += 1);
        let longest = lengths.iter().max().unwrap();
        assert!(*longest < 16, "a bin holds {longest} entries");
        for tag in (0..100_000u64).rev() {
            let found = posted.first(PeerId::new(1), tag).unwrap();
            assert_eq!(found.receive(), Some(&tag));
            found.discard();
        }
        assert!(posted.is_empty());
    }
}
