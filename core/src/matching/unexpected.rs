//! Messages that arrived before their receive.

use super::bins::Bins;
use super::{hash, Key, Pattern, Slab, Source, ANY};
use crate::rail::PeerId;

#[derive(Debug)]
struct Arrived<T> {
    source: PeerId,
    tag: u64,
    message: T,
}

/// The unexpected messages of one fabric, in order of arrival.
///
/// Each message is in three lists: by source and tag, by tag, and of all; a receive looks through the shortest
/// that holds everything it accepts. What the messages may take in memory is bounded by whoever inserts.
#[derive(Debug)]
pub struct Unexpected<T> {
    arrived: Slab<Arrived<T>>,
    by_source: Bins,
    by_tag: Bins,
    all: Bins,
}

impl<T> Default for Unexpected<T> {
    fn default() -> Self {
        Unexpected {
            arrived: Slab::default(),
            by_source: Bins::new(),
            by_tag: Bins::new(),
            all: Bins::single(),
        }
    }
}

impl<T> Unexpected<T> {
    /// Number of messages.
    #[inline]
    pub fn len(&self) -> usize {
        self.arrived.len()
    }

    /// True without messages.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Adds a message behind all others.
    pub fn insert(&mut self, source: PeerId, tag: u64, message: T) -> Key {
        let key = self.arrived.insert(Arrived { source, tag, message });
        let index = key.index();
        self.by_source.push(index, hash(source.number(), tag));
        self.by_tag.push(index, hash(ANY, tag));
        self.all.push(index, 0);
        key
    }

    /// The earliest message that `pattern` accepts.
    #[inline]
    pub fn find(&self, pattern: &Pattern) -> Option<Key> {
        if self.arrived.is_empty() {
            return None;
        }
        match (pattern.ignore, pattern.source) {
            (0, Source::Peer(peer)) => {
                self.first(self.by_source.list(hash(peer.number(), pattern.tag)), pattern)
            }
            (0, Source::Any) => self.first(self.by_tag.list(hash(ANY, pattern.tag)), pattern),
            _ => self.first(self.all.list(0), pattern),
        }
    }

    /// Source, tag and message of `key`.
    pub fn get(&self, key: Key) -> Option<(PeerId, u64, &T)> {
        self.arrived.get(key).map(|a| (a.source, a.tag, &a.message))
    }

    /// The message of `key`, to change it.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.arrived.get_mut(key).map(|a| &mut a.message)
    }

    /// Takes a message out.
    pub fn remove(&mut self, key: Key) -> Option<(PeerId, u64, T)> {
        let arrived = self.arrived.remove(key)?;
        self.by_source.remove(key.index());
        self.by_tag.remove(key.index());
        self.all.remove(key.index());
        Some((arrived.source, arrived.tag, arrived.message))
    }

    /// Keys of the messages that `choose` picks, for the slow path.
    pub fn keys_where(&self, mut choose: impl FnMut(PeerId, &T) -> bool) -> Vec<Key> {
        self.arrived.iter().filter(|(_, a)| choose(a.source, &a.message)).map(|(key, _)| key).collect()
    }

    fn first(&self, mut list: impl Iterator<Item = u32>, pattern: &Pattern) -> Option<Key> {
        list.find_map(|index| {
            let (key, arrived) = self.arrived.at(index)?;
            pattern.accepts(arrived.source, arrived.tag).then_some(key)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_list_searched_from_the_front(
            steps in prop::collection::vec((any::<bool>(), 0..4u32, 0..6u64, 0..4usize), 0..400)
        ) {
            let mut store = Unexpected::default();
            let mut list: Vec<(PeerId, u64, usize)> = Vec::new();
            for (i, (arrives, source, tag, mask)) in steps.into_iter().enumerate() {
                if arrives {
                    let source = PeerId::new(source.min(2));
                    store.insert(source, tag, i);
                    list.push((source, tag, i));
                } else {
                    let source = if source == 3 { Source::Any } else { Source::Peer(PeerId::new(source)) };
                    let pattern = Pattern { source, tag, ignore: [0, 0, 1, u64::MAX][mask] };
                    let want = list.iter().position(|(s, t, _)| pattern.accepts(*s, *t)).map(|at| list.remove(at));
                    let got = store.find(&pattern).and_then(|key| store.remove(key));
                    prop_assert_eq!(got, want);
                }
                prop_assert_eq!(store.len(), list.len());
            }
        }
    }

    #[test]
    fn exact_searches_among_many_thousands_touch_few_entries() {
        let mut store = Unexpected::default();
        for tag in 0..50_000u64 {
            store.insert(PeerId::new(tag as u32 % 7), tag, ());
        }
        let longest = (0..50_000u64)
            .map(|t| {
                store
                    .by_source
                    .list(hash(t as u32 % 7, t))
                    .count()
                    .max(store.by_tag.list(hash(ANY, t)).count())
            })
            .max()
            .unwrap();
        assert!(longest < 16, "a bin holds {longest} entries");
    }
}
