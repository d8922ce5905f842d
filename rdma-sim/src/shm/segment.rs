//! The memory that two ports share: two rings, and a buffer for each slot of them.
//!
//! The rings and the bell are those of `gridnet-core`, with all that is argued there. A packet of up to 48 bytes is in the slot
//! itself, a longer one in the buffer of the slot, which is used as long as the slot is: written before the slot is published,
//! read before it is given back.
//!
//! Nothing that the peer wrote is believed: lengths are checked, bytes are copied out once, a count of consumed slots that cannot be
//! is the end. The size of the memory is sealed, so that no access goes behind its end.

#![expect(unsafe_code)] // Memory that another process writes.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use gridnet_core::ring::bell::{Bell, Order, Ringer};
use gridnet_core::ring::slot::{Consumer, Producer, Slot, SlotHeader, BODY_BYTES};
use gridnet_core::sync::{AtomicU32, AtomicU64, Ordering};
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{fallocate, fcntl, FallocateFlags, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::wire::MAX_HEADER_BYTES;

/// Slots of a ring: as many as the window of a queue pair has packets at most.
const SLOTS: usize = 256;
/// Bytes of a buffer: the longest packet, in whole cache lines.
const BUFFER: usize = (4096 + MAX_HEADER_BYTES).next_multiple_of(LINE);
const LINE: usize = 64;

/// Where things are. Words that different sides write are in different lines.
const ARMING: [usize; 2] = [0, 2 * LINE];
const CONSUMED: [usize; 2] = [4 * LINE, 6 * LINE];
const RINGS: usize = 4096;
const RING: usize = SLOTS * size_of::<Slot>();
const BUFFERS: usize = RINGS + 2 * RING;
const SIZE: usize = BUFFERS + 2 * SLOTS * BUFFER;

/// The packet is in the slot.
const INLINE: u8 = 1;
/// The packet is in the buffer of the slot.
const BUFFERED: u8 = 2;

/// What became of a packet.
pub(super) enum Push {
    Done,
    Full,
    /// The peer says what cannot be.
    Corrupt,
}

/// What was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    Packet,
    /// What no port writes.
    Corrupt,
}

/// One side of the memory.
pub(super) struct Segment {
    producer: Producer,
    consumer: Consumer,
    bell: Bell,
    ringer: Ringer,
    /// This side's number: 0 has made the memory.
    side: usize,
    /// The last packet that was taken made the peer learn what it may overwrite.
    told: bool,
    /// Last, so that the rings go before.
    map: MmapRaw,
}

impl Segment {
    /// Makes the memory; the file is for the peer.
    pub(super) fn create() -> io::Result<(OwnedFd, Segment)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"gridnet-rdma", flags)?;
        ftruncate(&file, SIZE as i64)?;
        // Memory that is missing is an error now, instead of a signal later.
        fallocate(&file, FallocateFlags::empty(), 0, SIZE as i64)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(FIXED | SealFlag::F_SEAL_SEAL))?;
        let segment = Segment::map(&file, 0)?;
        Ok((file, segment))
    }

    /// The peer's memory.
    ///
    /// # Errors
    /// `InvalidData` when it is not what [`create`](Self::create) makes.
    pub(super) fn join(file: &OwnedFd) -> io::Result<Segment> {
        let seals = SealFlag::from_bits_retain(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(FIXED) || fstat(file)?.st_size != SIZE as i64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Segment::map(file, 1)
    }

    fn map(file: &OwnedFd, side: usize) -> io::Result<Segment> {
        let map = MmapOptions::new().len(SIZE).map_raw(file)?;
        let at = |offset: usize| {
            NonNull::new(map.as_mut_ptr().wrapping_add(offset)).ok_or(io::ErrorKind::OutOfMemory)
        };
        let ring = |which: usize| Ok::<_, io::Error>(at(RINGS + which * RING)?.cast::<Slot>());
        let consumed = |which: usize| Ok::<_, io::Error>(at(CONSUMED[which])?.cast::<AtomicU32>());
        let (out, back) = (side, 1 - side);
        // SAFETY: slots and words lie within the mapping of SIZE bytes, aligned to lines as it is to pages; it stays until `map`
        // is dropped, after both ends. Of this direction, this is the only end in this process. A peer that writes what is not
        // its own, or hands over memory that is not zero, changes numbers in atomics, which the ends do not trust.
        let (producer, consumer) = unsafe {
            (
                Producer::new(ring(out)?, SLOTS as u32, consumed(out)?),
                Consumer::new(ring(back)?, SLOTS as u32, consumed(back)?),
            )
        };
        Ok(Segment {
            producer,
            consumer,
            bell: Bell::default(),
            ringer: Ringer::default(),
            side,
            told: false,
            map,
        })
    }

    /// Whether a packet has room; none when the peer says what cannot be.
    pub(super) fn has_room(&mut self) -> Option<bool> {
        self.producer.has_space().ok()
    }

    /// Publishes a packet. One that is too long for any port is dropped.
    pub(super) fn push(&mut self, packet: &[u8]) -> Push {
        match self.has_room() {
            None => return Push::Corrupt,
            Some(false) => return Push::Full,
            Some(true) => {}
        }
        let header = |kind| SlotHeader { kind, len: packet.len() as u16, ..SlotHeader::default() };
        if packet.len() <= BODY_BYTES {
            self.producer.push(header(INLINE), 0, |body: &[AtomicU64; BODY_BYTES / 8]| {
                for (word, bytes) in body.iter().zip(packet.chunks(8)) {
                    let mut whole = [0; 8];
                    whole[..bytes.len()].copy_from_slice(bytes);
                    word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
                }
            });
        } else if packet.len() <= BUFFER {
            let buffer = self.buffer(self.side, self.producer.sent());
            // SAFETY: `buffer` has room for BUFFER bytes, and `packet` is private. The slot is free: the peer reads its buffer no
            // more (Acquire in `has_space`), and if it misbehaves and does, or writes there, only bytes are wrong that it gets.
            unsafe { std::ptr::copy_nonoverlapping(packet.as_ptr(), buffer, packet.len()) };
            self.producer.push(header(BUFFERED), 0, |_: &[AtomicU64; BODY_BYTES / 8]| {});
        }
        Push::Done
    }

    /// Takes the next packet, which replaces the content of `packet`.
    pub(super) fn take(&mut self, packet: &mut Vec<u8>) -> Taken {
        let Some(slot) = self.consumer.peek() else { return Taken::Nothing };
        let SlotHeader { kind, len, .. } = slot.header();
        let len = usize::from(len);
        packet.clear();
        match kind {
            INLINE if len <= BODY_BYTES => {
                let mut bytes = [0; BODY_BYTES];
                for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(slot.body()) {
                    *to = word.load(Ordering::Relaxed).to_ne_bytes();
                }
                packet.extend_from_slice(&bytes[..len]);
            }
            BUFFERED if len <= BUFFER => {
                let buffer = self.buffer(1 - self.side, self.consumer.taken());
                packet.reserve(len);
                // SAFETY: `len` bytes are within the buffer (checked), and fit into the vector, which is private and empty. The
                // peer published them with the slot (Acquire in `peek`), and if it misbehaves and changes them meanwhile, they
                // are arbitrary bytes, which is what the packet is taken for.
                unsafe {
                    std::ptr::copy_nonoverlapping(buffer.cast_const(), packet.as_mut_ptr(), len);
                    packet.set_len(len);
                }
            }
            _ => return Taken::Corrupt,
        }
        self.told = self.consumer.consume(false);
        Taken::Packet
    }

    /// Whether a packet waits.
    pub(super) fn has_packet(&self) -> bool {
        self.consumer.peek().is_some()
    }

    /// Whether the peer has learned of room with the last packet that was taken.
    pub(super) fn has_told(&self) -> bool {
        self.told
    }

    /// Whether the peer sleeps, and has to be woken for what was published.
    pub(super) fn must_ring(&mut self) -> bool {
        // SAFETY: as in `word`, which would borrow all of this.
        let arming = unsafe { &*self.map.as_mut_ptr().add(ARMING[1 - self.side]).cast::<AtomicU32>() };
        self.ringer.must_ring(arming, Order::Fence)
    }

    /// Announces that this side sleeps, as [`Bell::arm`] says.
    pub(super) fn arm(&mut self) {
        let mut bell = std::mem::take(&mut self.bell);
        bell.arm(self.word());
        self.bell = bell;
    }

    /// Announces that it works.
    pub(super) fn disarm(&mut self) {
        let mut bell = std::mem::take(&mut self.bell);
        bell.disarm(self.word());
        self.bell = bell;
    }

    /// The word that says whether this side sleeps.
    fn word(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned, and only ever used as an atomic.
        unsafe { &*self.map.as_mut_ptr().add(ARMING[self.side]).cast::<AtomicU32>() }
    }

    /// The buffer of the slot with this number, of the ring that this side writes.
    fn buffer(&self, side: usize, slot: u32) -> *mut u8 {
        let at = side * SLOTS + slot as usize % SLOTS;
        self.map.as_mut_ptr().wrapping_add(BUFFERS + at * BUFFER)
    }
}

/// Seals without which the memory could get shorter.
const FIXED: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

const _: () =
    assert!(CONSUMED[1] + LINE <= RINGS && RING.is_multiple_of(LINE) && BUFFER <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Segment, Segment) {
        let (file, own) = Segment::create().expect("memory");
        let peer = Segment::join(&file).expect("what was made");
        (own, peer)
    }

    fn packet(number: usize) -> Vec<u8> {
        (0..number * 37 % (BUFFER + 1)).map(|at| (at + number) as u8).collect()
    }

    #[test]
    fn packets_of_all_lengths_in_both_directions() {
        let (mut a, mut b) = pair();
        let mut got = Vec::new();
        for round in 0..20 {
            let numbers = round * SLOTS..(round + 1) * SLOTS;
            for number in numbers.clone() {
                assert!(matches!(a.push(&packet(number)), Push::Done));
                assert!(matches!(b.push(&packet(number + 1)), Push::Done));
            }
            assert!(matches!((a.push(&[1]), b.has_room()), (Push::Full, Some(false))));
            for number in numbers {
                assert!(b.take(&mut got) == Taken::Packet && got == packet(number));
                assert!(a.take(&mut got) == Taken::Packet && got == packet(number + 1));
            }
            assert!(a.take(&mut got) == Taken::Nothing && !b.has_packet());
        }
    }

    #[test]
    fn a_packet_that_is_too_long_is_dropped() {
        let (mut a, b) = pair();
        assert!(matches!(a.push(&[0; BUFFER + 1]), Push::Done));
        assert!(!b.has_packet());
    }

    #[test]
    fn a_peer_that_writes_what_it_likes() {
        for (kind, len) in [(INLINE, BODY_BYTES + 1), (BUFFERED, BUFFER + 1), (BUFFERED, 0xffff), (7, 1)] {
            let (mut a, mut b) = pair();
            let header = SlotHeader { kind, len: len as u16, ..SlotHeader::default() };
            a.producer.push(header, 0, |_: &[AtomicU64; BODY_BYTES / 8]| {});
            assert_eq!(b.take(&mut Vec::new()), Taken::Corrupt, "{kind} {len}");
        }
        let (mut a, b) = pair();
        // SAFETY: a word within the mapping; all use it as an atomic.
        let count = unsafe { &*b.map.as_mut_ptr().add(CONSUMED[0]).cast::<AtomicU32>() };
        count.store(SLOTS as u32 + 1, Ordering::Relaxed);
        // The count is looked at when the ring seems full.
        while matches!(a.push(&[1]), Push::Done) {}
        assert!(a.has_room().is_none(), "more was consumed than sent");
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let make = |size: usize, seals| {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let file = memfd_create(c"test", flags).expect("a file");
            ftruncate(&file, size as i64).expect("a length");
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
            Segment::join(&file).is_ok()
        };
        assert!(make(SIZE, FIXED));
        assert!(!make(SIZE, SealFlag::F_SEAL_GROW) && !make(SIZE, SealFlag::F_SEAL_SHRINK));
        assert!(!make(SIZE - 1, FIXED) && !make(2 * SIZE, FIXED));
        let other = OwnedFd::from(std::fs::File::open("/dev/zero").expect("a file"));
        assert!(Segment::join(&other).is_err());
    }

    #[test]
    fn whoever_sleeps_is_woken_once() {
        let (mut a, mut b) = pair();
        assert!(matches!(a.push(&[1]), Push::Done));
        assert!(!a.must_ring());
        b.arm();
        assert!(a.must_ring() && !a.must_ring());
        b.disarm();
        assert!(!a.must_ring());
        b.arm();
        assert!(a.must_ring());
    }
}
