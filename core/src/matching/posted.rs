//! Receives that wait for their message.

use super::bins::Bins;
use super::{hash, Key, Pattern, Slab, Source, ANY};
use crate::rail::PeerId;

#[derive(Debug)]
struct Waiting<T> {
    pattern: Pattern,
    /// Order of posting.
    order: u64,
    receive: T,
}

/// The posted receives of one fabric.
///
/// Exact receives (no bit ignored) sit in bins by source and tag, or by tag alone when they accept any source;
/// those which ignore bits in one list. An arriving message looks at the head of at most two bins and, when there
/// are any, through the list; the earliest posted wins.
#[derive(Debug)]
pub struct Posted<T> {
    waiting: Slab<Waiting<T>>,
    exact: Bins,
    masked: Bins,
    any_source: usize,
    posted: u64,
}

impl<T> Default for Posted<T> {
    fn default() -> Self {
        Posted {
            waiting: Slab::default(),
            exact: Bins::new(),
            masked: Bins::single(),
            any_source: 0,
            posted: 0,
        }
    }
}

impl<T> Posted<T> {
    /// Number of waiting receives.
    #[inline]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when no receive waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a receive behind all others.
    #[inline]
    pub fn insert(&mut self, pattern: Pattern, receive: T) -> Key {
        let order = self.posted;
        self.posted += 1;
        let key = self.waiting.insert(Waiting { pattern, order, receive });
        if pattern.ignore != 0 {
            self.masked.push(key.index(), 0);
        } else {
            self.any_source += usize::from(pattern.source == Source::Any);
            self.exact.push(key.index(), hash(number(pattern.source), pattern.tag));
        }
        key
    }

    /// Takes the earliest receive that accepts a message from `source` with `tag`.
    #[inline]
    pub fn take(&mut self, source: PeerId, tag: u64) -> Option<T> {
        self.take_keyed(source, tag).map(|(_, receive)| receive)
    }

    /// As [`Self::take`], with the key that the receive had.
    #[inline]
    pub fn take_keyed(&mut self, source: PeerId, tag: u64) -> Option<(Key, T)> {
        let key = self.find(source, tag)?;
        Some((key, self.remove(key)?))
    }

    /// Whether some receive accepts a message from `source` with `tag`.
    pub fn accepts(&self, source: PeerId, tag: u64) -> bool {
        self.find(source, tag).is_some()
    }

    #[inline]
    fn find(&self, source: PeerId, tag: u64) -> Option<Key> {
        let mut best = self.first_exact(source.number(), Source::Peer(source), tag);
        if self.any_source != 0 {
            best = earlier(best, self.first_exact(ANY, Source::Any, tag));
        }
        if !self.masked.is_empty() {
            best = earlier(best, self.first_masked(source, tag));
        }
        best.map(|(_, key)| key)
    }

    /// Takes the receive `key` out, matched or not by anything.
    #[inline]
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let waiting = self.waiting.remove(key)?;
        if waiting.pattern.ignore != 0 {
            self.masked.remove(key.index());
        } else {
            self.any_source -= usize::from(waiting.pattern.source == Source::Any);
            self.exact.remove(key.index());
        }
        Some(waiting.receive)
    }

    /// The receive `key`.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.waiting.get(key).map(|w| &w.receive)
    }

    /// Keys of the receives that `choose` picks, for the slow path (a peer has gone, a queue is destroyed).
    pub fn keys_where(&self, mut choose: impl FnMut(&Pattern, &T) -> bool) -> Vec<Key> {
        self.waiting.iter().filter(|(_, w)| choose(&w.pattern, &w.receive)).map(|(key, _)| key).collect()
    }

    #[inline]
    fn first_exact(&self, number: u32, source: Source, tag: u64) -> Option<(u64, Key)> {
        self.exact
            .list(hash(number, tag))
            .filter_map(|index| self.waiting.at(index))
            .find(|(_, w)| w.pattern.tag == tag && w.pattern.source == source)
            .map(|(key, w)| (w.order, key))
    }

    fn first_masked(&self, source: PeerId, tag: u64) -> Option<(u64, Key)> {
        self.masked
            .list(0)
            .filter_map(|index| self.waiting.at(index))
            .find(|(_, w)| w.pattern.accepts(source, tag))
            .map(|(key, w)| (w.order, key))
    }
}

#[inline]
fn number(source: Source) -> u32 {
    match source {
        Source::Any => ANY,
        Source::Peer(peer) => peer.number(),
    }
}

#[inline]
fn earlier(a: Option<(u64, Key)>, b: Option<(u64, Key)>) -> Option<(u64, Key)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern() -> impl Strategy<Value = Pattern> {
        (0..4u32, 0..6u64, prop::sample::select(vec![0, 0, 0, 1, 2, u64::MAX])).prop_map(|(s, tag, ignore)| Pattern {
            source: if s == 3 { Source::Any } else { Source::Peer(PeerId::new(s)) },
            tag,
            ignore,
        })
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
                        prop_assert_eq!(posted.take(source, tag), want);
                    }
                }
                prop_assert_eq!(posted.len(), list.len());
            }
        }
    }

    #[test]
    fn exact_matches_among_many_thousands_touch_few_entries() {
        let mut posted = Posted::default();
        for tag in 0..100_000u64 {
            posted.insert(Pattern { source: Source::Peer(PeerId::new(1)), tag, ignore: 0 }, tag);
        }
        // The longest list bounds the work of any lookup.
        let longest = (0..100_000u64).map(|tag| posted.exact.list(hash(1, tag)).count()).max().unwrap();
        assert!(longest < 16, "a bin holds {longest} entries");
        for tag in (0..100_000u64).rev() {
            assert_eq!(posted.take(PeerId::new(1), tag), Some(tag));
        }
        assert!(posted.is_empty());
    }
}
