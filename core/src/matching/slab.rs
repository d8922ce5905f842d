//! Numbered storage whose keys go stale: a key of a removed entry names nothing, even when the place is taken again.

/// Names an entry of a [`Slab`]. Never zero as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn new(index: u32, generation: u32) -> Key {
        Key { index, generation }
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    /// The key as a number other than 0, for the wire and the C ABI.
    #[inline]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key of a number; one that was never given out names nothing.
    #[inline]
    pub fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, generation: (bits >> 32) as u32 }
    }

    /// The place of the entry.
    #[inline]
    pub fn index(self) -> u32 {
        self.index
    }
}

#[derive(Debug)]
struct Entry<T> {
    /// Odd while occupied; grows by one at each insertion and removal.
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

/// Storage that hands out [`Key`]s and reuses places last-in first-out, so that a short queue stays in cache.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without entries.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `value`.
    #[inline(always)]
    pub fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        let Some(entry) = self.entries.get_mut(self.free as usize) else {
            return self.grow(value);
        };
        let index = self.free;
        self.free = entry.next_free;
        entry.generation = entry.generation.wrapping_add(1);
        entry.value = Some(value);
        Key { index, generation: entry.generation }
    }

    #[cold]
    fn grow(&mut self, value: T) -> Key {
        let index =
            u32::try_from(self.entries.len()).expect("limits on operations keep slabs far below 2^32");
        self.entries.push(Entry { generation: 1, next_free: NONE, value: Some(value) });
        Key { index, generation: 1 }
    }

    /// Takes the entry out.
    #[inline]
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next_free = self.free;
        self.free = key.index;
        self.len -= 1;
        Some(value)
    }

    /// The entry.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.entries.get(key.index as usize).filter(|e| e.generation == key.generation)?.value.as_ref()
    }

    /// The entry, to change it.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key.index as usize).filter(|e| e.generation == key.generation)?.value.as_mut()
    }

    /// The entry at a place, with its key.
    #[inline(always)]
    pub fn at(&self, index: u32) -> Option<(Key, &T)> {
        let entry = self.entries.get(index as usize)?;
        Some((Key { index, generation: entry.generation }, entry.value.as_ref()?))
    }

    /// The entry at a place, to change it.
    #[inline(always)]
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.value.as_mut()
    }

    /// All values, in the order of their places, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    /// All entries, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0..self.entries.len() as u32).filter_map(|index| self.at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_keys_name_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_eq!(b.index(), a.index());
        assert_eq!(slab.remove(a), None);
        assert_eq!((slab.get(a), slab.get(b)), (None, Some(&"b")));
        assert_eq!(Key::from_bits(b.to_bits()), b);
        assert_eq!(slab.get(Key::from_bits(0)), None);
        assert_eq!(slab.get(Key::from_bits(u64::MAX)), None);
        assert_ne!(b.to_bits(), 0);
    }
}
