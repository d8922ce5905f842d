//! The memory that a socket shares with the kernel: the frames, and four rings of descriptors.
//!
//! A ring is written by one side and read by the other; each has an index that only grows. Here the kernel is trusted.

#![expect(unsafe_code)] // Memory that the kernel writes.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use gridnet_core::sync::{AtomicU32, Ordering};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// Bytes of a frame: the kernel takes no more than a page.
pub(super) const FRAME: usize = 4096;

/// The frames, by their offset.
pub(super) struct Frames {
    map: MmapRaw,
    /// Frames that may be filled.
    free: Vec<u64>,
}

impl Frames {
    /// So many frames.
    pub(super) fn new(count: usize) -> io::Result<Frames> {
        let map = MmapRaw::from(MmapMut::map_anon(count * FRAME)?);
        Ok(Frames { map, free: (0..count as u64).map(|at| at * FRAME as u64).collect() })
    }

    pub(super) fn address(&self) -> u64 {
        self.map.as_mut_ptr() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// A frame that nobody has.
    pub(super) fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    /// Gives back what the kernel does not need any more: any place within the frame.
    pub(super) fn give(&mut self, place: u64) {
        self.free.push(place - place % FRAME as u64);
    }

    /// The bytes at a place, `len` of them; none when they are not within one frame. The frame must not be with the kernel.
    pub(super) fn bytes(&mut self, place: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(place).ok()?;
        if start % FRAME + len > FRAME || start >= self.map.len() {
            return None;
        }
        // SAFETY: within the mapping, which is initialized (zeros at first) and private to this process; the kernel writes only
        // to frames that are in the fill ring and have not come back, and callers name others. The reference ends before `self`
        // is used again.
        Some(unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(start), len) })
    }
}

/// A ring of descriptors, as one side sees it.
pub(super) struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    /// This side's index.
    own: u32,
    _map: MmapRaw,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers name shared memory of the mapping, which moves with the ring; it has `&mut self` methods, so that there is one
// user whatever thread it is on.
unsafe impl<T: Copy + Send> Send for Ring<T> {}

/// Where a ring is in the file of its socket.
pub(super) struct Layout {
    pub(super) page: u64,
    pub(super) offsets: libc::xdp_ring_offset,
}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `count` entries, a power of two.
    ///
    /// # Safety
    /// The socket has a ring of so many entries of the type `T` with this layout, and no other `Ring` has it.
    pub(super) unsafe fn map(socket: &OwnedFd, count: u32, layout: &Layout) -> io::Result<Ring<T>> {
        let offsets = &layout.offsets;
        let len = offsets.desc as usize + count as usize * size_of::<T>();
        let map = MmapOptions::new().offset(layout.page).len(len).populate().map_raw(socket.as_raw_fd())?;
        let at = |offset: u64| {
            NonNull::new(map.as_mut_ptr().wrapping_add(offset as usize)).ok_or(io::ErrorKind::OutOfMemory)
        };
        Ok(Ring {
            producer: at(offsets.producer)?.cast(),
            consumer: at(offsets.consumer)?.cast(),
            flags: at(offsets.flags)?.cast(),
            entries: at(offsets.desc)?.cast(),
            mask: count - 1,
            own: 0,
            _map: map,
            _entries: PhantomData,
        })
    }

    /// Entries that can be written.
    pub(super) fn room(&self) -> u32 {
        // Acquire: the kernel has read what it counts.
        let read = word(&self.consumer).load(Ordering::Acquire);
        self.mask + 1 - self.own.wrapping_sub(read)
    }

    /// Writes an entry; the caller has seen that there is [`room`](Self::room).
    pub(super) fn put(&mut self, entry: T) {
        // SAFETY: the masked index is within the ring, and the kernel does not read it before it is published.
        unsafe { self.entries.add((self.own & self.mask) as usize).write(entry) };
        self.own = self.own.wrapping_add(1);
    }

    /// Lets the kernel see what was written.
    pub(super) fn publish(&mut self) {
        // Release: the entries are written.
        word(&self.producer).store(self.own, Ordering::Release);
    }

    /// The next entry that the kernel has written.
    pub(super) fn get(&mut self) -> Option<T> {
        // Acquire: the kernel has written what it counts.
        if word(&self.producer).load(Ordering::Acquire) == self.own {
            return None;
        }
        // SAFETY: the masked index is within the ring, and the entry was published.
        let entry = unsafe { self.entries.add((self.own & self.mask) as usize).read() };
        self.own = self.own.wrapping_add(1);
        // Release: the entry was read.
        word(&self.consumer).store(self.own, Ordering::Release);
        Some(entry)
    }

    /// Whether the kernel asks to be called.
    pub(super) fn wants_call(&self) -> bool {
        word(&self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A word of the mapping.
fn word(place: &NonNull<AtomicU32>) -> &AtomicU32 {
    // SAFETY: within the mapping of the ring that has the pointer, aligned, and shared as an atomic.
    unsafe { place.as_ref() }
}
