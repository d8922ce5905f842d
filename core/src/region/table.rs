//! The owner's regions.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ptr::NonNull;

use super::{check_bounds, Access, Registration, RemoteKey};
use crate::error::Error;
use crate::matching::{Key, Slab};
use crate::wire::NodeId;

/// Whose memory a region is.
#[derive(Debug)]
pub enum Memory {
    /// The program's: it may be gone when it is accessed.
    Registered(Registration),
    /// Lent by the rail of this index, under this token.
    Lent(usize, u64),
    /// Of this process alone, for rails that lend none.
    Private(PrivateMemory),
}

/// A region of this fabric.
#[derive(Debug)]
pub struct Region {
    /// Where it starts.
    pub base: *mut u8,
    /// Its length in bytes.
    pub len: u64,
    /// What peers may do.
    pub access: Access,
    /// Whose memory it is.
    pub memory: Memory,
    /// Where the rails have their records, by index of the rail; 0 for none.
    pub hints: Vec<u64>,
    /// Its number, if the program has chosen one.
    pub number: Option<u64>,
    /// Peers are refused; the owner waits until nobody is inside.
    pub closing: bool,
}

// SAFETY: `base` names memory that the program or this region owns, usable from any thread; whoever has the table is alone
// with it.
unsafe impl Send for Region {}

impl Region {
    /// True when the memory may be gone when it is accessed.
    pub fn may_fault(&self) -> bool {
        matches!(self.memory, Memory::Registered(_))
    }

    /// The first rail's record that has one.
    fn hint(&self) -> u64 {
        self.hints.iter().copied().find(|hint| *hint != 0).unwrap_or(0)
    }
}

/// All regions of a fabric.
#[derive(Debug, Default)]
pub struct Regions {
    slab: Slab<Region>,
    /// Makes numbers of keys.
    secret: RandomState,
    by_number: HashMap<u64, Key>,
}

impl Regions {
    /// Whether a region has this number.
    pub fn has_number(&self, number: u64) -> bool {
        self.by_number.contains_key(&number)
    }

    /// Where rails have the record of the region `number`, for keys; 0 for nowhere.
    pub fn hint(&self, number: u64) -> u64 {
        let region = self.by_number.get(&number).and_then(|key| self.slab.get(*key));
        region.filter(|region| !region.closing).map_or(0, Region::hint)
    }

    /// Enters a region, which has no number or one that none has.
    pub fn insert(&mut self, region: Region) -> Key {
        let key = self.slab.insert(region);
        self.by_number.insert(self.number(key), key);
        key
    }

    /// The number under which peers know a region. A peer of another user that was not given the key has to guess 64 bits:
    /// a hash under a random secret, unless the program has chosen the number. Never 0.
    pub fn number(&self, key: Key) -> u64 {
        let chosen = self.slab.get(key).and_then(|region| region.number);
        chosen.unwrap_or_else(|| self.drawn_number(key))
    }

    fn drawn_number(&self, key: Key) -> u64 {
        self.secret.hash_one(key.to_bits()).max(1)
    }

    /// Takes a region out: its number names nothing from now on.
    pub fn remove(&mut self, key: Key) -> Option<Region> {
        self.by_number.remove(&self.number(key));
        self.slab.remove(key)
    }

    /// A region.
    pub fn get(&self, key: Key) -> Option<&Region> {
        self.slab.get(key)
    }

    /// A region, to change it.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Region> {
        self.slab.get_mut(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// True without regions.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All regions with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Region)> {
        self.slab.iter()
    }

    /// Where a peer may access `len` bytes at `place` of the region `number`, an offset or an address, and whether the memory may
    /// be gone.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Access`], [`Error::Bounds`], in this order.
    pub fn place(
        &self,
        number: u64,
        place: u64,
        len: usize,
        access: Access,
    ) -> Result<(*mut u8, bool), Error> {
        let region = self.by_number.get(&number).and_then(|key| self.slab.get(*key));
        let region = region.filter(|region| !region.closing);
        let region = region.ok_or(Error::Key)?;
        if !region.access.allows(access) {
            return Err(Error::Access);
        }
        let offset = region.access.offset_of(place, region.base as u64);
        check_bounds(offset, len, region.len)?;
        Ok((region.base.wrapping_add(offset as usize), region.may_fault()))
    }

    /// The key of a region, for peers.
    ///
    /// # Errors
    /// [`Error::Key`] when there is no such region, or it is being closed; [`Error::Unsupported`] when its places are addresses, which
    /// keys do not say.
    pub fn remote_key(&self, key: Key, node: NodeId) -> Result<RemoteKey, Error> {
        let region = self.slab.get(key).filter(|region| !region.closing).ok_or(Error::Key)?;
        if region.access.allows(Access::BY_ADDRESS) {
            return Err(Error::Unsupported);
        }
        Ok(RemoteKey {
            node,
            number: self.number(key),
            len: region.len,
            access: region.access,
            align: RemoteKey::align_of(region.base),
            hint: region.hint(),
        })
    }
}

/// Zeroed memory of this process alone.
#[derive(Debug)]
pub struct PrivateMemory {
    base: NonNull<u8>,
    layout: Layout,
}

/// As rails align what they lend: nothing shares a pair of cache lines with it.
const ALIGN: usize = 128;

// SAFETY: owned memory without any tie to a thread.
unsafe impl Send for PrivateMemory {}

impl PrivateMemory {
    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn new(len: usize) -> Result<PrivateMemory, Error> {
        let layout = Layout::from_size_align(len.max(1), ALIGN).map_err(|_| Error::NoMemory)?.pad_to_align();
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::NoMemory)?;
        Ok(PrivateMemory { base, layout })
    }

    /// Where it starts.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: taken with this layout, and not given back before.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn region(access: Access) -> Region {
        let memory = PrivateMemory::new(64).unwrap();
        let base = memory.base();
        Region {
            base,
            len: 64,
            access,
            memory: Memory::Private(memory),
            hints: vec![0, 7],
            number: None,
            closing: false,
        }
    }

    #[test]
    fn numbers_of_closed_regions_name_nothing_even_when_the_place_is_taken_again() {
        let mut regions = Regions::default();
        let first = regions.insert(region(Access::ALL));
        regions.remove(first);
        let second = regions.insert(region(Access::REMOTE_READ));
        assert_eq!(first.index(), second.index());
        assert_ne!(regions.number(second), second.to_bits(), "it cannot be guessed");
        let read = Access::REMOTE_READ;
        assert_eq!(regions.place(regions.number(first), 0, 1, read), Err(Error::Key));
        assert_eq!(regions.place(0, 0, 1, read), Err(Error::Key));
        assert!(regions.place(regions.number(second), 63, 1, read).is_ok());
        assert_eq!(regions.place(regions.number(second), 64, 1, read), Err(Error::Bounds));
        assert_eq!(regions.place(regions.number(second), u64::MAX, 2, read), Err(Error::Bounds));
        assert_eq!(regions.place(regions.number(second), 0, 1, Access::REMOTE_WRITE), Err(Error::Access));
        regions.get_mut(second).unwrap().closing = true;
        assert_eq!(regions.place(regions.number(second), 0, 1, read), Err(Error::Key));
    }

    #[test]
    fn keys_say_what_the_region_is() {
        let mut regions = Regions::default();
        let key = regions.insert(region(Access::REMOTE_ATOMIC));
        let node = NodeId::new([3; 16]).unwrap();
        let remote = regions.remote_key(key, node).unwrap();
        assert_eq!((remote.node, remote.number, remote.len, remote.hint), (node, regions.number(key), 64, 7));
        assert!(remote.align >= ALIGN as u64);
        regions.get_mut(key).unwrap().closing = true;
        assert_eq!(regions.remote_key(key, node), Err(Error::Key));
    }
}
