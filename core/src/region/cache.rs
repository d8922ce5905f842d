//! Registrations that outlive their regions.
//!
//! Programs register the same buffers again and again, and on rails that pin memory or write it into a device's table a
//! registration costs more than a transfer. So the range of a closed region stays registered for a while, and a region
//! inside it takes it over. Bounds and rights belong to the region and are never shared: a region in the middle of a cached
//! range does not open the rest of it.
//!
//! A range whose memory has gone must not be taken over. Nobody is told of an unmapping without hooks into the program's
//! allocator; so whoever looks an entry up asks whether the memory is mapped (one system call, O(mappings)), and an
//! entry that is not is dropped. Memory that was mapped anew at the same place is as good as the old: rails of today name
//! memory by its address, and a rail that pins will have to ask more. After a fork the child's handles are refused as a whole,
//! and this with them.

use std::collections::BTreeMap;

use crate::matching::{Key, Slab};

/// Idle registrations that are kept.
const KEPT: usize = 64;
/// Entries that a lookup looks at: ranges that start at or before the wanted one, the nearest first.
const LOOKS: usize = 16;

/// A registered range, as long as a region holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration(Key);

/// How lookups went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Ranges found.
    pub hits: u64,
    /// Ranges registered anew.
    pub misses: u64,
    /// Entries dropped since their memory had gone.
    pub invalidated: u64,
}

#[derive(Debug)]
struct Entry {
    base: usize,
    len: usize,
    users: usize,
    /// Serves new regions.
    valid: bool,
    /// When it became idle.
    idle_since: u64,
}

/// Registered ranges, in use and idle.
#[derive(Debug, Default)]
pub struct Cache {
    entries: Slab<Entry>,
    /// Valid entries by where they start, and by key.
    by_base: BTreeMap<(usize, u64), Key>,
    idle: usize,
    clock: u64,
    counters: CacheCounters,
}

impl Cache {
    /// A registration for `len` bytes at `base`, which the caller has found mapped. Cached ranges are asked for by `is_mapped`.
    pub fn acquire(
        &mut self,
        base: usize,
        len: usize,
        is_mapped: impl Fn(usize, usize) -> bool,
    ) -> Registration {
        while let Some(key) = self.find(base, len) {
            let Some(entry) = self.entries.get_mut(key) else { break };
            if is_mapped(entry.base, entry.len) {
                self.idle -= usize::from(entry.users == 0);
                entry.users += 1;
                self.counters.hits += 1;
                return Registration(key);
            }
            self.invalidate(key);
        }
        self.counters.misses += 1;
        let key = self.entries.insert(Entry { base, len, users: 1, valid: true, idle_since: 0 });
        self.by_base.insert((base, key.to_bits()), key);
        Registration(key)
    }

    /// The end of a region: its range stays for the next one, unless its memory has gone.
    pub fn release(&mut self, registration: Registration) {
        let key = registration.0;
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        if !entry.valid {
            self.entries.remove(key);
            return;
        }
        entry.idle_since = self.clock;
        self.idle += 1;
        if self.idle > KEPT {
            self.drop_oldest();
        }
    }

    /// How lookups went.
    pub fn counters(&self) -> CacheCounters {
        self.counters
    }

    /// A valid range that contains this one.
    fn find(&self, base: usize, len: usize) -> Option<Key> {
        let before = self.by_base.range(..=(base, u64::MAX)).rev().take(LOOKS);
        before.map(|(_, key)| *key).find(|key| {
            let entry = self.entries.get(*key);
            entry.is_some_and(|entry| len <= entry.len && base - entry.base <= entry.len - len)
        })
    }

    /// No region takes the entry over any more; those that have it keep it to their end.
    fn invalidate(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.valid = false;
        self.by_base.remove(&(entry.base, key.to_bits()));
        self.counters.invalidated += 1;
        if entry.users == 0 {
            self.idle -= 1;
            self.entries.remove(key);
        }
    }

    fn drop_oldest(&mut self) {
        let idle = self.entries.iter().filter(|(_, entry)| entry.users == 0);
        let Some(key) = idle.min_by_key(|(_, entry)| entry.idle_since).map(|(key, _)| key) else { return };
        if let Some(entry) = self.entries.remove(key) {
            self.by_base.remove(&(entry.base, key.to_bits()));
            self.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: fn(usize, usize) -> bool = |_, _| true;

    #[test]
    fn the_same_range_and_ranges_inside_are_found_again() {
        let mut cache = Cache::default();
        let whole = cache.acquire(4096, 8192, ALWAYS);
        assert_eq!(cache.acquire(4096, 8192, ALWAYS), whole);
        assert_eq!(cache.acquire(5000, 100, ALWAYS), whole);
        for _ in 0..3 {
            cache.release(whole);
        }
        assert_eq!(cache.acquire(4097, 1, ALWAYS), whole, "closed regions leave their range");
        assert_ne!(cache.acquire(4096, 8193, ALWAYS), whole);
        assert_ne!(cache.acquire(4095, 10, ALWAYS), whole);
        assert_eq!(cache.counters(), CacheCounters { hits: 3, misses: 3, invalidated: 0 });
    }

    #[test]
    fn ranges_whose_memory_has_gone_are_not_taken_over() {
        let mut cache = Cache::default();
        let (held, idle) = (cache.acquire(4096, 100, ALWAYS), cache.acquire(9000, 100, ALWAYS));
        cache.release(idle);
        for base in [4096, 9000] {
            let anew = cache.acquire(base, 100, |_, _| false);
            assert!(anew != held && anew != idle);
            assert_eq!(cache.acquire(base, 100, ALWAYS), anew);
        }
        assert_eq!(cache.counters().invalidated, 2);
        cache.release(held);
        assert_ne!(cache.acquire(4096, 100, ALWAYS), held);
    }

    #[test]
    fn idle_ranges_are_bounded_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        for i in 0..KEPT + 10 {
            let registration = cache.acquire(i * 100, 100, ALWAYS);
            cache.release(registration);
        }
        assert_eq!((cache.idle, cache.entries.len(), cache.by_base.len()), (KEPT, KEPT, KEPT));
        cache.acquire(0, 100, ALWAYS);
        cache.acquire((KEPT + 9) * 100, 100, ALWAYS);
        assert_eq!(cache.counters().hits, 1);
    }
}
