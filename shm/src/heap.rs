//! The heap: memory for regions that peers reach by themselves.
//!
//! It is a memfd of its own beside the segment, since peers map it writable. Its size is sealed, so that no access raises
//! SIGBUS; pages are taken as regions need them. It exists from the first allocation on.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gridnet_core::error::Error;
use gridnet_core::mem::NUMA_UNKNOWN;
use gridnet_core::rail::{Lent, Refusal};
use memmap2::MmapRaw;
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::stat::fstat;

use crate::ranges::Ranges;
use crate::sealed::{map_sealed, PeerMap, Sealed};

/// Regions begin at multiples of this: nothing else shares their cache lines, nor the neighbours that are fetched with them.
const GRAIN: usize = 128;
/// Regions as long as this begin at a page.
const PAGE: usize = 4096;
/// Memory is taken from the system in steps of this many bytes.
const COMMIT_STEP: usize = 256 * 1024;
/// Largest heap there can be.
const MAX_HEAP: usize = 1 << 42;
/// Largest heap of a peer that is mapped by a fabric whose own is not larger: some thousand of them fit into the address
/// space.
const PEER_HEAP: usize = 64 << 30;
/// Address space that the heaps of all peers may take together: an eighth of what a process has.
const ALL_HEAPS: usize = 16 << 40;

/// The heap of this fabric.
#[derive(Debug)]
pub struct OwnHeap {
    file: OwnedFd,
    map: MmapRaw,
    /// Bytes from the start that the system has promised.
    committed: usize,
    /// First byte that was never allotted.
    next: usize,
    /// Ranges that were given back.
    free: Ranges,
    /// What is allotted: start to length, and whether it was placed on a node.
    allotted: HashMap<usize, (usize, bool)>,
}

impl OwnHeap {
    /// Makes a heap of at most `size` bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] when a limit on files or address space forbids it, [`Error::Unsupported`] when the kernel offers no
    /// sealed memfd.
    pub fn create(size: usize, huge_pages: bool) -> Result<OwnHeap, Refusal> {
        let kind =
            Sealed { name: c"gridnet-heap", what: "heap", variable: "GRIDNET_SHM_HEAP_SIZE", shared: true };
        let (file, map) = kind.make(size, huge_pages)?;
        Ok(OwnHeap { file, map, committed: 0, next: 0, free: Ranges::default(), allotted: HashMap::new() })
    }

    /// Allots zeroed memory.
    ///
    /// # Errors
    /// [`Error::Limit`] when the heap is full, [`Error::NoMemory`] when the system has none, [`Error::Invalid`] for a NUMA
    /// node that does not exist.
    pub fn allocate(&mut self, len: usize, numa_node: u32) -> Result<Lent, Refusal> {
        let placed = numa_node != NUMA_UNKNOWN;
        let grain = if placed || len >= PAGE { PAGE } else { GRAIN };
        let most = self.map.len();
        let full = || {
            let why = format!("no room for {len} bytes in a heap of {most} (GRIDNET_SHM_HEAP_SIZE)");
            Refusal::new(Error::Limit, why)
        };
        let size = len.checked_next_multiple_of(grain).ok_or_else(full)?;
        let (start, reused) = match self.free.take(size, grain) {
            Some(start) => (start, true),
            None => (self.take_new(size, grain).ok_or_else(full)?, false),
        };
        if let Err(refusal) = self.prepare(start, size, numa_node) {
            self.free.give(start, size);
            return Err(refusal);
        }
        let base = self.map.as_mut_ptr().wrapping_add(start);
        if reused {
            // SAFETY: inside the mapping and committed; it was given back, so that no region is made of it. A peer that
            // writes there all the same harms nothing but these bytes.
            unsafe { std::ptr::write_bytes(base, 0, size) };
        }
        self.allotted.insert(start, (size, placed));
        Ok(Lent { base, token: start as u64 })
    }

    /// Takes memory back.
    pub fn free(&mut self, token: u64) {
        let Some((size, placed)) = self.allotted.remove(&(token as usize)) else { return };
        if placed {
            // The next region here lies where it likes; an error says that it did before.
            let _ = bind(self.map.as_mut_ptr().wrapping_add(token as usize), size, NUMA_UNKNOWN);
        }
        self.free.give(token as usize, size);
    }

    /// Where allotted memory begins in the file.
    pub fn offset_of(&self, token: u64) -> Option<u64> {
        self.allotted.contains_key(&(token as usize)).then_some(token)
    }

    /// The file, to hand it to a peer.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn prepare(&mut self, start: usize, size: usize, numa_node: u32) -> Result<(), Refusal> {
        if numa_node != NUMA_UNKNOWN {
            bind(self.map.as_mut_ptr().wrapping_add(start), size, numa_node)?;
        }
        let end = start + size;
        if end <= self.committed {
            return Ok(());
        }
        let target = end.next_multiple_of(COMMIT_STEP).min(self.map.len());
        let (from, len) = (self.committed as i64, (target - self.committed) as i64);
        fallocate(&self.file, FallocateFlags::empty(), from, len).map_err(|e| {
            Refusal::new(Error::NoMemory, format!("taking memory for the heap: {}", e.desc()))
        })?;
        self.committed = target;
        Ok(())
    }

    fn take_new(&mut self, size: usize, grain: usize) -> Option<usize> {
        let start = self.next.next_multiple_of(grain);
        let end = start.checked_add(size).filter(|end| *end <= self.map.len())?;
        if start > self.next {
            self.free.give(self.next, start - self.next);
        }
        self.next = end;
        Some(start)
    }
}

/// Asks for pages of a range on a NUMA node; for no node in particular with `NUMA_UNKNOWN`.
fn bind(base: *mut u8, len: usize, numa_node: u32) -> Result<(), Refusal> {
    const MPOL_DEFAULT: i32 = 0;
    const MPOL_PREFERRED: i32 = 1;
    const MPOL_MF_MOVE: u32 = 2;
    const MAX_NODES: usize = 1024;
    let mut nodes = [0u64; MAX_NODES / 64];
    let known = numa_node != NUMA_UNKNOWN;
    let no_such = || Refusal::new(Error::Invalid, format!("there is no NUMA node {numa_node} here"));
    if known {
        let word = nodes.get_mut(numa_node as usize / 64).ok_or_else(no_such)?;
        *word |= 1 << (numa_node % 64);
    }
    let (policy, mask, count) = if known {
        (MPOL_PREFERRED, nodes.as_ptr(), MAX_NODES + 1)
    } else {
        (MPOL_DEFAULT, std::ptr::null(), 0)
    };
    // SAFETY: the range is inside a mapping of ours, and the mask as long as it says; pages move, their bytes do not change.
    let status = unsafe { libc::syscall(libc::SYS_mbind, base, len, policy, mask, count, MPOL_MF_MOVE) };
    match nix::errno::Errno::last() {
        _ if status == 0 => Ok(()),
        // A kernel without NUMA has the node 0; a filter that forbids placing leaves everything where it is.
        nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM if numa_node == 0 || !known => Ok(()),
        nix::errno::Errno::EINVAL => Err(no_such()),
        e => Err(Refusal::new(Error::System, format!("mbind: {}", e.desc()))),
    }
}

/// Bytes that one more heap of a peer may have, for a fabric whose own may have `own` and that has mapped `mapped` already.
pub fn room_for_heap(own: usize, mapped: usize) -> usize {
    own.max(PEER_HEAP).min(ALL_HEAPS.saturating_sub(mapped))
}

/// A peer's heap, mapped readable and writable.
#[derive(Debug)]
pub struct PeerHeap {
    map: PeerMap,
}

impl PeerHeap {
    /// Maps what a peer handed over, after a look at its seals and size.
    ///
    /// # Errors
    /// [`Error::Segment`] when it is no sealed heap, [`Error::Limit`] when it is larger than `most` bytes or cannot be mapped.
    pub fn map(file: &OwnedFd, most: usize) -> Result<PeerHeap, Refusal> {
        // Should the system not say, the next look at it does.
        let size = fstat(file).map_or(0, |stat| usize::try_from(stat.st_size).unwrap_or(0));
        if size > most && size <= MAX_HEAP {
            let why = format!("the peer's heap of {size} bytes takes more address space than {most} bytes");
            return Err(Refusal::new(Error::Limit, why));
        }
        map_sealed(file, "heap", PAGE..=MAX_HEAP, true).map(|map| PeerHeap { map })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Address of the byte at `offset`, of which `len` follow; `None` when they are not all inside.
    pub fn bytes(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.map.len() as u64).then(|| self.map.as_mut_ptr().wrapping_add(offset as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use nix::unistd::ftruncate;

    const SIZE: usize = 1 << 20;

    fn heap() -> OwnHeap {
        OwnHeap::create(SIZE, false).unwrap()
    }

    fn token(heap: &mut OwnHeap, len: usize) -> Option<u64> {
        heap.allocate(len, NUMA_UNKNOWN).ok().map(|lent| lent.token)
    }

    #[test]
    fn what_is_allotted_does_not_overlap_and_comes_back_whole() {
        let mut heap = heap();
        for round in 0..3 {
            let mut given: Vec<(u64, usize)> = Vec::new();
            for len in (1..200).map(|i| i * 61 % 9000 + 1) {
                let lent = heap.allocate(len, NUMA_UNKNOWN).unwrap();
                assert!(
                    lent.base.cast::<[u128; 8]>().is_aligned() || (lent.base as usize).is_multiple_of(GRAIN)
                );
                assert!(given
                    .iter()
                    .all(|(at, l)| lent.token >= at + *l as u64 || lent.token + len as u64 <= *at));
                // SAFETY: allotted just now, `len` bytes long.
                let bytes = unsafe { std::slice::from_raw_parts_mut(lent.base, len) };
                assert!(bytes.iter().all(|b| *b == 0), "not zeroed in round {round}");
                bytes.fill(0xff);
                given.push((lent.token, len));
            }
            for (token, _) in given {
                assert_eq!(heap.offset_of(token), Some(token));
                heap.free(token);
                heap.free(token);
            }
            assert_eq!((heap.free.count(), heap.allotted.len()), (1, 0), "free ranges are joined");
        }
    }

    #[test]
    fn a_full_heap_says_so_and_serves_again() {
        let mut heap = heap();
        let all = token(&mut heap, SIZE).unwrap();
        let refusal = heap.allocate(1, NUMA_UNKNOWN).unwrap_err();
        assert_eq!(refusal.error, Error::Limit);
        assert!(refusal.reason.contains("GRIDNET_SHM_HEAP_SIZE"), "{}", refusal.reason);
        heap.free(all);
        assert!(token(&mut heap, SIZE / 2).is_some() && token(&mut heap, SIZE / 2).is_some());
        assert!(token(&mut heap, usize::MAX).is_none() && token(&mut heap, SIZE + 1).is_none());
    }

    #[test]
    fn peers_see_the_same_bytes_and_only_sealed_heaps_are_mapped() {
        let mut heap = heap();
        let lent = heap.allocate(100, NUMA_UNKNOWN).unwrap();
        let peer = PeerHeap::map(&heap.file.try_clone().unwrap(), SIZE).unwrap();
        let there = peer.bytes(lent.token, 100).unwrap();
        // SAFETY: both are mapped, and nobody else uses them.
        unsafe {
            there.write(7);
            assert_eq!(lent.base.read(), 7);
        }
        assert!(peer.bytes(SIZE as u64, 1).is_none() && peer.bytes(u64::MAX, 2).is_none());
        assert!(peer.bytes(0, SIZE as u64 + 1).is_none());
        assert!(ftruncate(&heap.file, 4096).is_err(), "shrinking is sealed");
        let unsealed = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 1 << 20).unwrap();
        assert!(PeerHeap::map(&unsealed, SIZE).unwrap_err().reason.contains("not sealed"));
        let file = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        assert!(PeerHeap::map(&file, SIZE).unwrap_err().reason.contains("no memfd"));
    }

    #[test]
    fn heaps_that_take_too_much_address_space_are_not_mapped() {
        let heap = heap();
        let file = heap.file.try_clone().unwrap();
        let refusal = PeerHeap::map(&file, SIZE - 1).unwrap_err();
        assert_eq!(refusal.error, Error::Limit, "{}", refusal.reason);
        assert_eq!(room_for_heap(SIZE, 0), PEER_HEAP);
        assert_eq!(room_for_heap(MAX_HEAP, 0), MAX_HEAP, "as large as the own may be");
        assert_eq!((room_for_heap(SIZE, ALL_HEAPS - SIZE), room_for_heap(SIZE, usize::MAX)), (SIZE, 0));
    }

    #[test]
    fn memory_is_placed_on_nodes_that_exist() {
        let mut heap = heap();
        let lent = heap.allocate(100, 0).unwrap();
        assert!((lent.base as usize).is_multiple_of(PAGE));
        heap.free(lent.token);
        for node in [900, 5000] {
            assert_eq!(heap.allocate(100, node).unwrap_err().error, Error::Invalid);
        }
        assert!(heap.allocate(100, NUMA_UNKNOWN).is_ok());
    }
}
