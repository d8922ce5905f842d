//! Segments: the memory that a fabric shares, and a peer's as mapped here.
//!
//! A segment is a memfd: it has no name, and goes away with its last mapping. It is sealed before it is handed over:
//! its size is fixed, so that no access behind a shrunk end can raise SIGBUS, and nobody else can map it writable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::ring::slot::Slot;
use gridnet_core::sync::{AtomicU32, AtomicU64};
use memmap2::{Advice, MmapRaw};
use nix::fcntl::{fallocate, fcntl, FallocateFlags, FcntlArg};
use nix::sys::stat::fstat;
use nix::sys::statfs::{fstatfs, TMPFS_MAGIC};

use crate::layout::{Header, ARENA_OFFSET, ARMING_OFFSET, LINE, MAX_SEGMENT, MIN_SEGMENT, RECORD_WORDS};
use crate::sealed::{failed, map_sealed, refused, PeerMap, Sealed};

/// Memory is taken from the system in steps of this many bytes.
const COMMIT_STEP: usize = 256 * 1024;
/// Largest segment of a peer of another user: reading what was never written takes memory of the reader.
const MAX_FOREIGN_SEGMENT: i64 = 256 << 20;

const KIND: Sealed =
    Sealed { name: c"gridnet", what: "segment", variable: "GRIDNET_SHM_SEGMENT_SIZE", shared: false };

/// The memory that this fabric shares.
#[derive(Debug)]
pub struct OwnSegment {
    file: OwnedFd,
    map: MmapRaw,
    /// Bytes from the start that the system has promised.
    committed: usize,
    /// Where the part that was claimed from the end begins.
    claimed: usize,
}

impl OwnSegment {
    /// Makes a segment of `size` bytes; memory is taken as it is needed.
    ///
    /// # Errors
    /// [`Error::Limit`] when a limit on files or address space forbids it, [`Error::Unsupported`] when the
    /// kernel offers no sealed memfd.
    pub fn create(size: usize, header: &Header, huge_pages: bool) -> Result<OwnSegment, Refusal> {
        let (file, map) = KIND.make(size, huge_pages)?;
        // A forked child must not write here; it gets `GRIDNET_ERR_FORKED` before it could.
        map.advise(Advice::DontFork).map_err(|e| Refusal::new(Error::System, format!("madvise: {e}")))?;
        let mut segment = OwnSegment { file, map, committed: 0, claimed: size };
        segment.commit(COMMIT_STEP.min(size))?;
        let header = Header { address: segment.map.as_ptr() as usize as u64, ..*header };
        // SAFETY: offset 0 of a mapping of at least `MIN_SEGMENT` bytes, page-aligned; nobody has the file yet.
        unsafe { segment.map.as_mut_ptr().cast::<Header>().write(header) };
        Ok(segment)
    }

    /// Makes sure that the bytes up to `end` are backed by memory, so that touching them cannot fail.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when the system has none, [`Error::Limit`] when `end` is beyond the segment.
    pub fn commit(&mut self, end: usize) -> Result<(), Refusal> {
        if end <= self.committed {
            return Ok(());
        }
        if end > self.claimed {
            return Err(Refusal::new(Error::Limit, "the segment is full (GRIDNET_SHM_SEGMENT_SIZE)"));
        }
        let target = end.next_multiple_of(COMMIT_STEP).min(self.claimed);
        let (from, len) = (self.committed as i64, (target - self.committed) as i64);
        fallocate(&self.file, FallocateFlags::empty(), from, len)
            .map_err(|e| failed(Error::NoMemory, "taking memory for the segment", e))?;
        self.committed = target;
        Ok(())
    }

    /// Claims `len` bytes before those that were claimed last, beginning at a multiple of `align`, and has them backed by
    /// memory. They begin at `floor` or behind it.
    ///
    /// # Errors
    /// [`Error::Limit`] when there is no room, [`Error::NoMemory`] when the system has none.
    pub fn claim_from_end(&mut self, len: usize, align: usize, floor: usize) -> Result<usize, Error> {
        let start = self.claimed.checked_sub(len).ok_or(Error::Limit)?;
        let start = start - start % align;
        if start < floor.max(self.committed) {
            return Err(Error::Limit);
        }
        fallocate(&self.file, FallocateFlags::empty(), start as i64, len as i64)
            .map_err(|_| Error::NoMemory)?;
        self.claimed = start;
        Ok(start)
    }

    /// Whether [`Self::claim_from_end`] would find room if all that was claimed were given back. What messages have taken
    /// never is.
    pub fn could_claim(&self, len: usize, align: usize, floor: usize) -> bool {
        let start = self.map.len().checked_sub(len).map(|start| start - start % align);
        start.is_some_and(|start| start >= floor.max(self.committed))
    }

    /// Gives the first `len` bytes of the claimed part back to the other one.
    pub fn unclaim(&mut self, len: usize) {
        self.claimed = (self.claimed + len).min(self.map.len());
    }

    /// Where the claimed part begins.
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Where the memory ends that is backed from the start on, and where it begins that is backed to the end.
    #[cfg(feature = "testing")]
    pub(crate) fn backed(&self) -> (usize, usize) {
        (self.committed, self.claimed)
    }

    /// Takes the address out of the header: who may not read this process need not know.
    pub fn hide_address(&mut self) {
        // SAFETY: the header is at offset 0 of the mapping; nobody has the file yet.
        unsafe { (*self.map.as_mut_ptr().cast::<Header>()).address = 0 };
    }

    /// The file, to hand it to a peer.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The word that says whether this fabric sleeps.
    #[inline]
    pub fn arming(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned, and only ever accessed as an atomic.
        unsafe { &*self.map.as_mut_ptr().add(ARMING_OFFSET).cast::<AtomicU32>() }
    }

    /// The words of the line at a position in lines, which the own allocator gave out.
    ///
    /// # Panics
    /// When the line is outside.
    pub fn words(&self, line: u32) -> &[AtomicU64; RECORD_WORDS] {
        let start = line as usize * LINE;
        assert!(start + LINE <= self.map.len());
        // SAFETY: inside the mapping, aligned, and as a record or announcement only ever accessed as atomics.
        unsafe { &*self.map.as_mut_ptr().add(start).cast() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Address of the byte at `offset`.
    ///
    /// # Panics
    /// When `offset` is outside: positions in the own segment come from its own allocator.
    #[inline]
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.map.len());
        // SAFETY: inside the mapping, which is not at address 0.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr().add(offset)) }
    }

    /// Zeroes memory that no peer reads any more.
    pub fn clear(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.map.len());
        // SAFETY: inside the mapping; this process alone writes it, and no reference to it exists.
        unsafe { std::ptr::write_bytes(self.map.as_mut_ptr().add(offset), 0, len) };
    }
}

/// A peer's segment, mapped read-only.
#[derive(Debug)]
pub struct PeerSegment {
    map: PeerMap,
    /// As it was when the segment was mapped.
    header: Header,
    /// Bytes among which loans may lie: none, when it is of another user.
    lendable: usize,
}

impl PeerSegment {
    /// As [`Self::map`], of another user: no larger than such a segment has to be, and of ordinary memory, which cannot
    /// be taken away once it is mapped.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub fn map_foreign(file: &OwnedFd, node: &[u8; 16], incarnation: u64) -> Result<PeerSegment, Refusal> {
        let refuse = |why: &str| refused("segment", why);
        // First of all: other files may belong to a file system that does not answer.
        fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| refuse("it is no memfd"))?;
        let system = fstatfs(file).map_err(|e| refuse(e.desc()))?;
        if system.filesystem_type() != TMPFS_MAGIC {
            return Err(refuse("it is not of ordinary memory"));
        }
        let size = fstat(file).map_err(|e| refuse(e.desc()))?.st_size;
        if size > MAX_FOREIGN_SEGMENT {
            return Err(refuse("it is too large for a peer of another user"));
        }
        let segment = PeerSegment::map(file, node, incarnation)?;
        Ok(PeerSegment { lendable: 0, ..segment })
    }

    /// Maps what a peer handed over, after a look at its seals, size and header.
    ///
    /// # Errors
    /// [`Error::Segment`] when it is not a sealed segment of that node.
    pub fn map(file: &OwnedFd, node: &[u8; 16], incarnation: u64) -> Result<PeerSegment, Refusal> {
        let map = map_sealed(file, "segment", MIN_SEGMENT..=MAX_SEGMENT, false)?;
        let size = map.len();
        // SAFETY: the mapping has at least `MIN_SEGMENT` bytes and is page-aligned; the header is plain data, copied out
        // by a volatile read since the peer may write it, and only the copy is looked at.
        let header = unsafe { map.as_ptr().cast::<Header>().read_volatile() };
        header.check(size, node, incarnation).map_err(|e| refused("segment", e.0))?;
        Ok(PeerSegment { map, header, lendable: size })
    }

    /// The header, as it was found and checked.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// True when it is of another user: of its own memory such a peer offers what it sends, and nothing else.
    pub fn is_foreign(&self) -> bool {
        self.lendable == 0
    }

    /// Bytes from the start among which loans may lie.
    #[inline]
    pub fn lendable(&self) -> usize {
        self.lendable
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Address of the byte at `offset`, of which `len` follow; `None` when they are not all inside.
    #[inline]
    pub fn bytes(&self, offset: usize, len: usize) -> Option<*const u8> {
        (offset.checked_add(len)? <= self.map.len()).then(|| self.map.as_ptr().wrapping_add(offset))
    }

    /// The words of the line at a position in lines that a peer, or somebody with a key, named.
    pub fn words(&self, line: u64) -> Option<&[AtomicU64; RECORD_WORDS]> {
        let start = usize::try_from(line).ok()?.checked_mul(LINE)?;
        let bytes = self.bytes(start, LINE).filter(|_| start >= ARENA_OFFSET)?;
        // SAFETY: inside the mapping, aligned, and only ever accessed as atomics, whatever the peer has there.
        Some(unsafe { &*bytes.cast() })
    }

    /// A word at `offset`, behind the first page; `None` when there is none.
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let inside = offset >= ARENA_OFFSET && offset.checked_add(size_of::<u32>())? <= self.map.len();
        // SAFETY: inside the mapping, as long as `self` lives; aligned (checked), and only ever accessed as an atomic.
        (inside && offset.is_multiple_of(align_of::<AtomicU32>()))
            .then(|| unsafe { &*self.map.as_ptr().add(offset).cast::<AtomicU32>() })
    }

    /// The peer's arming word.
    pub fn arming(&self) -> NonNull<AtomicU32> {
        self.pointer(ARMING_OFFSET)
    }

    /// The line of a block with the peer's consumed count.
    pub fn consumed(&self, block: u32) -> NonNull<AtomicU32> {
        self.pointer(block as usize * LINE)
    }

    /// The slots of a block.
    pub fn slots(&self, block: u32) -> NonNull<Slot> {
        self.pointer((block as usize + 1) * LINE)
    }

    /// # Panics
    /// When `offset` is outside; offsets are checked when a link offer is parsed.
    fn pointer<T>(&self, offset: usize) -> NonNull<T> {
        assert!(offset + size_of::<T>() <= self.map.len() && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, which is not at address 0.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr().add(offset).cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use nix::unistd::ftruncate;

    fn own() -> OwnSegment {
        OwnSegment::create(1 << 20, &Header::new(1 << 20, [9; 16], 3), false).unwrap()
    }

    #[test]
    fn a_segment_is_sealed_and_maps_read_only_elsewhere() {
        let own = own();
        own.arming().store(5, gridnet_core::sync::Ordering::Relaxed);
        let handed = own.file.try_clone().unwrap();
        let peer = PeerSegment::map(&handed, &[9; 16], 3).unwrap();
        assert_eq!(
            // SAFETY: mapped as long as `peer` lives.
            unsafe { peer.arming().as_ref() }.load(gridnet_core::sync::Ordering::Relaxed),
            5
        );
        assert!(ftruncate(&handed, 4096).is_err(), "shrinking is sealed");
        assert!(MmapOptions::new().len(4096).map_raw(&handed).is_err(), "no second writable mapping");
        assert!(peer.bytes(0, 1 << 20).is_some());
        assert!(peer.bytes(1, 1 << 20).is_none());
        assert!(peer.bytes(usize::MAX, 2).is_none());
    }

    #[test]
    fn what_is_not_a_sealed_segment_of_that_node_is_refused() {
        let own = own();
        for (node, incarnation) in [([8; 16], 3), ([9; 16], 4)] {
            let refusal = PeerSegment::map(&own.file, &node, incarnation).unwrap_err();
            assert_eq!(refusal.error, Error::Segment, "{refusal:?}");
        }
        let unsealed = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 1 << 20).unwrap();
        assert!(PeerSegment::map(&unsealed, &[9; 16], 3).unwrap_err().reason.contains("not sealed"));
        let empty = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        KIND.seal(&empty).unwrap();
        assert!(PeerSegment::map(&empty, &[9; 16], 3).unwrap_err().reason.contains("too small"));
        let foreign = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&foreign, 1 << 20).unwrap();
        KIND.seal(&foreign).unwrap();
        assert!(PeerSegment::map(&foreign, &[9; 16], 3).unwrap_err().reason.contains("no segment"));
        let file = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        assert!(PeerSegment::map(&file, &[9; 16], 3).unwrap_err().reason.contains("no memfd"));
    }

    #[test]
    fn both_ends_grow_until_they_meet() {
        let mut own = own();
        assert_eq!(own.claim_from_end(5000, 4096, 0), Ok((1 << 20) - 8192));
        assert_eq!(own.claim_from_end(4096, 4096, 1 << 20), Err(Error::Limit), "below the floor");
        assert_eq!(own.claim_from_end(600 << 10, 4096, 0), Ok((1 << 20) - 8192 - (600 << 10)));
        own.commit(400 << 10).unwrap();
        assert_eq!(own.commit(500 << 10).unwrap_err().error, Error::Limit);
        assert_eq!(own.claim_from_end(200 << 10, 4096, 0), Err(Error::Limit));
        own.unclaim(600 << 10);
        own.commit(500 << 10).unwrap();
        assert_eq!(own.claim_from_end(usize::MAX, 4096, 0), Err(Error::Limit));
    }

    #[test]
    fn memory_beyond_the_segment_is_refused() {
        let mut own = own();
        own.commit(1 << 20).unwrap();
        assert_eq!(own.commit((1 << 20) + 1).unwrap_err().error, Error::Limit);
    }
}
