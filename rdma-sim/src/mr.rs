//! Memory regions: which keys open what, for whom.

use std::sync::Arc;

use crate::attr::Access;
use crate::memory::Memory;
use crate::number::ByNumber;
use crate::wr::{Lkey, Rkey, Sge};

/// A protection domain's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PdId(pub(crate) u64);

/// A registered region.
struct Region {
    pd: PdId,
    access: Access,
    memory: Arc<Memory>,
}

/// All regions of a device, by key. The local key of a region is its remote one.
#[derive(Default)]
pub(crate) struct Regions {
    by_key: ByNumber<u32, Region>,
}

/// A place within a region that was checked.
pub(crate) struct Place<'a> {
    memory: &'a Memory,
    offset: usize,
}

impl Place<'_> {
    /// The word there, if it is aligned.
    pub(crate) fn word(&self) -> Option<&std::sync::atomic::AtomicU64> {
        self.memory.word(self.offset)
    }
}

impl Regions {
    /// Registers memory under `key`; false when the key is taken.
    pub(crate) fn insert(&mut self, key: u32, pd: PdId, access: Access, memory: Arc<Memory>) -> bool {
        if self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(key, Region { pd, access, memory });
        true
    }

    /// Deregisters. From here on nobody reaches the memory, whatever is under way.
    pub(crate) fn remove(&mut self, key: u32) {
        self.by_key.remove(&key);
    }

    /// The place of `len` bytes at `address` in the region of this key, if all of them are within it, and the region is of this
    /// domain and allows this.
    fn find(&self, pd: PdId, key: u32, address: u64, len: u32, access: Access) -> Option<Place<'_>> {
        let region =
            self.by_key.get(&key).filter(|region| region.pd == pd && region.access.allows(access))?;
        let offset = usize::try_from(address.checked_sub(region.memory.address())?).ok()?;
        let end = offset.checked_add(len as usize)?;
        (end <= region.memory.len()).then_some(Place { memory: &region.memory, offset })
    }

    /// A place that a peer names.
    pub(crate) fn remote(
        &self,
        pd: PdId,
        rkey: Rkey,
        address: u64,
        len: u32,
        access: Access,
    ) -> Option<Place<'_>> {
        self.find(pd, rkey.0, address, len, access)
    }

    /// Appends bytes of a peer's choice to `out`; false when it must not have them.
    #[must_use]
    pub(crate) fn read_remote(
        &self,
        pd: PdId,
        rkey: Rkey,
        address: u64,
        len: u32,
        out: &mut Vec<u8>,
    ) -> bool {
        len == 0
            || self
                .remote(pd, rkey, address, len, Access::REMOTE_READ)
                .is_some_and(|place| place.memory.read(place.offset, len as usize, out))
    }

    /// Writes where a peer wants it; false when it must not.
    #[must_use]
    pub(crate) fn write_remote(&self, pd: PdId, rkey: Rkey, address: u64, bytes: &[u8]) -> bool {
        bytes.is_empty()
            || self
                .remote(pd, rkey, address, bytes.len() as u32, Access::REMOTE_WRITE)
                .is_some_and(|place| place.memory.write(place.offset, bytes))
    }

    /// Whether all pieces can be reached for this.
    pub(crate) fn covers(&self, pd: PdId, sges: &[Sge], access: Access) -> bool {
        sges.iter().all(|sge| {
            sge.length == 0 || self.find(pd, sge.lkey.0, sge.address, sge.length, access).is_some()
        })
    }

    /// Appends `len` bytes of the pieces to `out`, beginning `skip` bytes after their start; false when a key is wrong.
    #[must_use]
    pub(crate) fn gather(&self, pd: PdId, sges: &[Sge], skip: u32, len: u32, out: &mut Vec<u8>) -> bool {
        window(sges, skip, len).all(|(lkey, address, len)| {
            self.find(pd, lkey.0, address, len, Access::LOCAL_READ)
                .is_some_and(|place| place.memory.read(place.offset, len as usize, out))
        })
    }

    /// Writes `bytes` into the pieces, beginning `skip` bytes after their start; false when a key is wrong.
    #[must_use]
    pub(crate) fn scatter(&self, pd: PdId, sges: &[Sge], skip: u32, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        window(sges, skip, bytes.len() as u32).all(|(lkey, address, len)| {
            let (now, later) = rest.split_at((len as usize).min(rest.len()));
            rest = later;
            self.find(pd, lkey.0, address, len, Access::LOCAL_WRITE)
                .is_some_and(|place| place.memory.write(place.offset, now))
        })
    }
}

/// Bytes that the pieces have together.
pub(crate) fn total(sges: &[Sge]) -> u64 {
    sges.iter().map(|sge| u64::from(sge.length)).sum()
}

/// The parts of the pieces that are between `skip` and `skip + len`: key, address, length.
fn window(sges: &[Sge], skip: u32, len: u32) -> impl Iterator<Item = (Lkey, u64, u32)> + '_ {
    let (mut skip, mut left) = (skip, len);
    sges.iter().filter_map(move |sge| {
        let from = skip.min(sge.length);
        skip -= from;
        let len = (sge.length - from).min(left);
        left -= len;
        (len > 0).then(|| (sge.lkey, sge.address.wrapping_add(u64::from(from)), len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PD: PdId = PdId(1);

    fn regions(access: Access) -> (Regions, Arc<Memory>) {
        let memory = Arc::new(Memory::allocate(64));
        let mut regions = Regions::default();
        assert!(regions.insert(5, PD, access, memory.clone()));
        assert!(!regions.insert(5, PD, access, memory.clone()), "a key names one region");
        (regions, memory)
    }

    #[test]
    fn keys_bounds_domains_and_rights_are_checked() {
        let (mut regions, memory) = regions(Access::LOCAL_WRITE | Access::REMOTE_WRITE);
        let base = memory.address();
        let reaches = |regions: &Regions, pd, key, address, len, access| {
            regions.remote(pd, Rkey(key), address, len, access).is_some()
        };
        let write = Access::REMOTE_WRITE;
        assert!(reaches(&regions, PD, 5, base, 64, write));
        assert!(reaches(&regions, PD, 5, base + 64, 0, write));
        assert!(!reaches(&regions, PD, 5, base, 65, write));
        assert!(!reaches(&regions, PD, 5, base.wrapping_sub(1), 2, write));
        assert!(!reaches(&regions, PD, 5, u64::MAX, u32::MAX, write));
        assert!(!reaches(&regions, PD, 6, base, 1, write));
        assert!(!reaches(&regions, PdId(2), 5, base, 1, write));
        assert!(!reaches(&regions, PD, 5, base, 1, Access::REMOTE_READ));
        regions.remove(5);
        assert!(!reaches(&regions, PD, 5, base, 1, write));
    }

    #[test]
    fn pieces_are_walked_in_order() {
        let (regions, memory) = regions(Access::LOCAL_WRITE);
        let base = memory.address();
        let piece = |offset: u64, length| Sge { address: base + offset, length, lkey: Lkey(5) };
        let sges = [piece(40, 3), piece(0, 0), piece(8, 4), piece(20, 5)];
        assert_eq!(total(&sges), 12);
        assert!(regions.scatter(PD, &sges, 1, &[2, 3, 4, 5, 6, 7, 8]));
        let mut out = Vec::new();
        assert!(regions.gather(PD, &sges, 0, 12, &mut out));
        assert_eq!(out, [0, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
        let mut all = Vec::new();
        assert!(memory.read(40, 3, &mut all));
        assert_eq!(all, [0, 2, 3]);
    }
}
