//! Memory that is given to the kernel ahead of what comes, so that it can receive without being asked each time.
//!
//! The kernel takes buffers from a queue in shared memory, in their order, and says of each completion which one it has filled. It
//! belongs to us from then on, until it is put into the queue again.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::ptr::NonNull;

use gridnet_core::sync::{fence, Ordering};
use io_uring::types::BufRingEntry;
use io_uring::Submitter;

/// Number of buffers, a power of two.
const COUNT: u16 = 128;
/// Bytes of each.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// Bytes between the beginnings of two: with a power of two all would share a few lines of the caches.
const STRIDE: usize = BUFFER_BYTES + 64;
/// What the kernel calls the queue.
pub(super) const GROUP: u16 = 0;
/// Bytes of the queue, which comes first.
const QUEUE_BYTES: usize = COUNT as usize * size_of::<BufRingEntry>();
const LAYOUT: Layout = match Layout::from_size_align(QUEUE_BYTES + COUNT as usize * STRIDE, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("the size is far from any limit"),
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Buffers {
    memory: NonNull<u8>,
    /// Buffers that were put into the queue, modulo 2^16.
    tail: u16,
    /// Those that the kernel has filled, and that are not in the queue.
    is_filled: [bool; COUNT as usize],
    /// The kernel knows of the memory.
    is_registered: bool,
}

// SAFETY: the memory belongs to this object alone, and to the kernel, which does not care for threads.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Buffers that the kernel knows of, and takes from now on.
    ///
    /// # Errors
    /// When the system knows no such thing (Linux before 5.19), or has no memory.
    pub(super) fn register(submitter: &Submitter<'_>) -> std::io::Result<Buffers> {
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc_zeroed(LAYOUT) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(LAYOUT) };
        let is_filled = [true; COUNT as usize];
        let mut buffers = Buffers { memory, tail: 0, is_filled, is_registered: false };
        // SAFETY: the queue has room for so many entries, is aligned to a page, and stays until `end` has taken it back.
        unsafe { submitter.register_buf_ring_with_flags(memory.as_ptr() as u64, COUNT, GROUP, 0)? };
        buffers.is_registered = true;
        for number in 0..COUNT {
            buffers.give(number);
        }
        Ok(buffers)
    }

    /// The kernel says that it has filled a buffer.
    pub(super) fn note_filled(&mut self, number: u16) {
        if let Some(is_filled) = self.is_filled.get_mut(usize::from(number)) {
            *is_filled = true;
        }
    }

    /// The first `len` bytes of a buffer that the kernel has filled; nothing of any other.
    pub(super) fn bytes(&self, number: u16, len: usize) -> &[u8] {
        if !self.is_filled.get(usize::from(number)).is_some_and(|is_filled| *is_filled) {
            return &[];
        }
        let len = len.min(BUFFER_BYTES);
        // SAFETY: the buffer is one of ours, was initialised when it was allocated, and the kernel does not touch it before it
        // is in the queue again, for which `give` wants this object for itself.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(offset_of(number)), len) }
    }

    /// Puts a buffer into the queue that is not there.
    pub(super) fn give(&mut self, number: u16) {
        let Some(is_filled) = self.is_filled.get_mut(usize::from(number)) else { return };
        if !std::mem::replace(is_filled, false) {
            return;
        }
        let queue = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the entry lies in the queue, and no buffer but this one can have it: there are as many entries as buffers, and
        // each buffer is there once at most. The kernel does not read it before the tail says so.
        unsafe {
            let entry = &mut *queue.add(usize::from(self.tail % COUNT));
            entry.set_addr(self.memory.as_ptr().add(offset_of(number)) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(number);
        }
        self.tail = self.tail.wrapping_add(1);
        // The kernel reads the tail (acquire), and then the entry.
        fence(Ordering::Release);
        // SAFETY: the tail is where the interface has it, in the first entry, in a field that entries do not use. The kernel reads
        // it at any time, and never writes it.
        unsafe { BufRingEntry::tail(queue).cast_mut().write_volatile(self.tail) };
    }

    /// Takes the memory back, if the kernel lets go of it; else it stays as it is for ever.
    pub(super) fn end(&mut self, submitter: &Submitter<'_>) {
        if self.is_registered && submitter.unregister_buf_ring(GROUP).is_ok() {
            self.is_registered = false;
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.is_registered {
            // SAFETY: it was allocated like this, and the kernel does not know of it any more: with the queue it has let go of all
            // buffers, as it fills one only while it holds the lock of the ring.
            unsafe { dealloc(self.memory.as_ptr(), LAYOUT) };
        }
    }
}

/// Where a buffer lies in the memory.
fn offset_of(number: u16) -> usize {
    QUEUE_BYTES + usize::from(number) * STRIDE
}
