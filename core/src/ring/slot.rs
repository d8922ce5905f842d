//! A single-producer single-consumer ring of cache lines, each with its own ready flag.
//!
//! The flag, the header and up to 48 bytes of payload share one 64-byte line, so that a small message costs
//! one cache-line transfer. The idea is FastForward's (Giacomoni et al., PPoPP 2008), with a lap number
//! instead of an empty marker: the consumer writes nothing in the ring, so that its process can map it
//! read-only. Consumption is published in a word that lives in the consumer's memory, every quarter ring.
//!
//! Layout of a slot, eight little words of 64 bits in the byte order of the host:
//!
//! | word | content |
//! |---|---|
//! | 0 | lap (bits 0-15), kind (16-23), flags (24-31), length (32-47), core stamp (48-63); stored last |
//! | 1 | the frame's word: tag or operation id |
//! | 2-7 | payload, or extension words followed by payload |
//!
//! Orderings. The producer stores words 1-7 relaxed, then word 0 with Release; the consumer loads word 0
//! with Acquire (pair A), so the words 1-7 of a ready slot are those that belong to it. The consumer stores
//! the consumed count with Release after its last read of a slot; the producer loads it with Acquire (pair B)
//! before it overwrites that slot. On x86-64 these are plain moves; on aarch64 `stlr`/`ldar`-class
//! instructions, which order everything said here; no fence is needed on either. A consumer that is about to
//! sleep needs more: see [`super::bell`].
//!
//! A crash of the producer between any two stores leaves the slot not ready or whole.

use std::ptr::NonNull;

use crate::mem::{Gather, Iov};
use crate::sync::{prefetch, prefetch_for_write, AtomicU32, AtomicU64, Ordering};

/// Words of a slot after the header and the frame's word.
pub const BODY_WORDS: usize = 6;
/// Payload bytes that fit into a slot.
pub const BODY_BYTES: usize = BODY_WORDS * 8;
/// Fewest slots of a ring.
pub const MIN_SLOTS: u32 = 64;
/// Most slots of a ring.
pub const MAX_SLOTS: u32 = 4096;
/// How far ahead of the store the producer asks for a line.
const PREFETCH_AHEAD: u64 = 16;

/// One line of the ring. Zeroed memory is a valid empty slot.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Slot {
    words: [AtomicU64; 8],
}

/// What goes into the body of a slot. Closures do; a type whose method is always inlined does it at no cost.
pub trait Fill {
    /// Stores the words.
    fn fill(self, body: &[AtomicU64; BODY_WORDS]);
}

impl<F: FnOnce(&[AtomicU64; BODY_WORDS])> Fill for F {
    #[inline(always)]
    fn fill(self, body: &[AtomicU64; BODY_WORDS]) {
        self(body);
    }
}

impl Fill for Iov {
    #[inline(always)]
    fn fill(self, body: &[AtomicU64; BODY_WORDS]) {
        Gather::one(&self).store_words(body);
    }
}

impl Slot {
    #[inline(always)]
    fn body(&self) -> &[AtomicU64; BODY_WORDS] {
        let Some(body) = self.words[2..].first_chunk() else { unreachable!() };
        body
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 64 && align_of::<Slot>() == 64);

/// What the producer writes into the header besides the lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotHeader {
    /// Kind of the frame.
    pub kind: u8,
    /// Flags of the frame.
    pub flags: u8,
    /// Length in bytes of what the body holds.
    pub len: u16,
    /// Core that the producer ran on, plus one; 0 when unknown.
    pub core: u16,
}

impl SlotHeader {
    #[inline(always)]
    fn pack(self, lap: u16) -> u64 {
        u64::from(lap)
            | u64::from(self.kind) << 16
            | u64::from(self.flags) << 24
            | u64::from(self.len) << 32
            | u64::from(self.core) << 48
    }

    #[inline(always)]
    fn unpack(word: u64) -> SlotHeader {
        SlotHeader {
            kind: (word >> 16) as u8,
            flags: (word >> 24) as u8,
            len: (word >> 32) as u16,
            core: (word >> 48) as u16,
        }
    }
}

/// The consumed count read from the consumer's memory says that more was consumed than was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorruptCount;

/// The sending end.
#[derive(Debug)]
pub struct Producer {
    slots: NonNull<Slot>,
    consumed: NonNull<AtomicU32>,
    mask: u32,
    lap_shift: u32,
    /// Number of slots that were written. Peers are told of its lower 32 bits.
    next: u64,
    /// The last consumed count seen.
    consumed_seen: u32,
}

// SAFETY: the pointers name shared memory that is only accessed through atomics; the end itself is moved as a
// whole and has `&mut self` methods, so that there is one producer whatever thread it is on.
unsafe impl Send for Producer {}

impl Producer {
    /// Makes the sending end of an empty ring.
    ///
    /// # Safety
    /// `slots` points to `count` slots, zeroed, which only this producer writes; `consumed` to a zeroed word
    /// that only the consumer writes; both stay mapped while the producer lives.
    ///
    /// # Panics
    /// When `count` is not a power of two between [`MIN_SLOTS`] and [`MAX_SLOTS`] (any power of two under loom).
    pub unsafe fn new(slots: NonNull<Slot>, count: u32, consumed: NonNull<AtomicU32>) -> Producer {
        check_count(count);
        Producer {
            slots,
            consumed,
            mask: count - 1,
            lap_shift: count.trailing_zeros(),
            next: 0,
            consumed_seen: 0,
        }
    }

    /// Number of slots that were sent so far, modulo 2^32.
    #[inline]
    pub fn sent(&self) -> u32 {
        self.next as u32
    }

    /// The same, all of it.
    #[inline]
    pub fn sent_ever(&self) -> u64 {
        self.next
    }

    /// The slots that the consumer is not known to have consumed, the oldest first, as they were written.
    pub fn unconsumed(&self) -> impl Iterator<Item = Ready<'_>> {
        let count = u64::from(self.sent().wrapping_sub(self.consumed_seen));
        (self.next - count.min(self.next)..self.next).map(|index| {
            let slot = self.slot(index);
            // Relaxed: this end has written it.
            Ready { slot, header: slot.words[0].load(Ordering::Relaxed) }
        })
    }

    /// Number of slots that the consumer is known to have consumed, modulo 2^32.
    #[inline]
    pub fn consumed(&self) -> u32 {
        self.consumed_seen
    }

    /// True when a slot is free, without a look at the consumer's word when the last look suffices.
    #[inline(always)]
    pub fn has_space(&mut self) -> Result<bool, CorruptCount> {
        if self.has_space_left() {
            return Ok(true);
        }
        self.refresh()?;
        Ok(self.has_space_left())
    }

    /// True when a slot is free, as far as the last look at the consumer's word tells.
    #[inline(always)]
    pub fn has_space_left(&self) -> bool {
        self.sent().wrapping_sub(self.consumed_seen) <= self.mask
    }

    /// Reads the consumer's word again.
    ///
    /// # Errors
    /// When the word says that more was consumed than sent, or goes back: the consumer misbehaves.
    #[inline]
    pub fn refresh(&mut self) -> Result<(), CorruptCount> {
        // SAFETY: `consumed` is mapped and valid for atomics by the contract of `new`.
        // Acquire: pair B, the consumer's reads of the slots it counts are over.
        let seen = unsafe { self.consumed.as_ref() }.load(Ordering::Acquire);
        let outstanding = self.sent().wrapping_sub(self.consumed_seen);
        if seen.wrapping_sub(self.consumed_seen) > outstanding {
            return Err(CorruptCount);
        }
        self.consumed_seen = seen;
        Ok(())
    }

    /// Writes and publishes one slot. The caller has seen [`Self::has_space`] say yes.
    ///
    /// `content` stores those words of the body that carry something; the others keep what an earlier lap left.
    #[inline(always)]
    pub fn push(&mut self, header: SlotHeader, word: u64, content: impl Fill) {
        debug_assert!(self.sent().wrapping_sub(self.consumed_seen) <= self.mask);
        let slot = self.slot(self.next);
        prefetch_for_write(self.slot(self.next + PREFETCH_AHEAD));
        kill_point!("ring.reserve");
        slot.words[1].store(word, Ordering::Relaxed);
        content.fill(slot.body());
        kill_point!("ring.payload");
        let lap = lap_of(self.next, self.lap_shift);
        // Release: pair A, words 1-7 are visible to whoever sees this lap number.
        slot.words[0].store(header.pack(lap), Ordering::Release);
        self.next += 1;
        kill_point!("ring.publish");
    }

    #[inline(always)]
    fn slot(&self, index: u64) -> &Slot {
        // SAFETY: the masked index is below the count, so the slot lies in the memory that `new` was promised;
        // `Slot` is made of atomics, so a shared reference to memory that others read is sound.
        unsafe { self.slots.add((index as u32 & self.mask) as usize).as_ref() }
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Consumer {
    slots: NonNull<Slot>,
    consumed: NonNull<AtomicU32>,
    mask: u32,
    lap_shift: u32,
    /// Number of slots that were consumed.
    next: u64,
    published: u32,
}

// SAFETY: as for `Producer`.
unsafe impl Send for Consumer {}

/// A slot that is ready, until it is consumed. Its words may be changed at any time by a producer that
/// misbehaves: each is read once, then checked.
#[derive(Debug, Clone, Copy)]
pub struct Ready<'a> {
    slot: &'a Slot,
    /// Word 0.
    header: u64,
}

impl<'a> Ready<'a> {
    /// The header, as it was when the slot was found ready.
    #[inline(always)]
    pub fn header(&self) -> SlotHeader {
        SlotHeader::unpack(self.header)
    }

    /// Length of the body, if the header has this kind, no flags, and a length that a body can have.
    #[inline(always)]
    pub fn plain_len(&self, kind: u8) -> Option<usize> {
        let len = usize::from((self.header >> 32) as u16);
        ((self.header >> 16) as u16 == u16::from(kind) && len <= BODY_BYTES).then_some(len)
    }

    /// Length of what follows the first word of the body, if the header has this kind, this flag alone, and a length that the rest of
    /// a body can have.
    #[inline(always)]
    pub fn flagged_len(&self, kind: u8, flag: u8) -> Option<usize> {
        let len = usize::from((self.header >> 32) as u16);
        let wanted = u16::from(kind) | u16::from(flag) << 8;
        ((self.header >> 16) as u16 == wanted && len <= BODY_BYTES - 8).then_some(len)
    }

    /// Word 1.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        self.slot.words[1].load(Ordering::Relaxed)
    }

    /// The words of the body, each an atomic that the producer may change.
    #[inline(always)]
    pub fn body(&self) -> &'a [AtomicU64; BODY_WORDS] {
        self.slot.body()
    }
}

impl Consumer {
    /// Makes the receiving end of an empty ring.
    ///
    /// # Safety
    /// `slots` points to `count` slots that stay mapped readable while the consumer lives; `consumed` to a zeroed
    /// word that only this consumer writes.
    ///
    /// # Panics
    /// As [`Producer::new`]: a count that a peer wrote is checked before.
    pub unsafe fn new(slots: NonNull<Slot>, count: u32, consumed: NonNull<AtomicU32>) -> Consumer {
        check_count(count);
        Consumer {
            slots,
            consumed,
            mask: count - 1,
            lap_shift: count.trailing_zeros(),
            next: 0,
            published: 0,
        }
    }

    /// The next slot, if it is ready.
    #[inline(always)]
    pub fn peek(&self) -> Option<Ready<'_>> {
        let slot = self.slot(self.next);
        // Acquire: pair A.
        let word = slot.words[0].load(Ordering::Acquire);
        (word as u16 == lap_of(self.next, self.lap_shift)).then_some(Ready { slot, header: word })
    }

    /// Number of slots that were consumed so far, modulo 2^32.
    pub fn taken(&self) -> u32 {
        self.next as u32
    }

    /// The same, all of it.
    pub fn taken_ever(&self) -> u64 {
        self.next
    }

    /// Where this consumer looks next.
    pub fn lookout(&self) -> Lookout {
        Lookout { slot: NonNull::from(self.slot(self.next)), lap: lap_of(self.next, self.lap_shift) }
    }

    /// Asks for the line of the slot `distance` after the next one.
    #[inline(always)]
    pub fn prefetch_ahead(&self, distance: u32) {
        prefetch(self.slot(self.next + u64::from(distance)));
    }

    /// True when the slot `distance` after the next one is ready. A hint: says nothing about those between.
    #[inline(always)]
    pub fn is_ready_ahead(&self, distance: u32) -> bool {
        let index = self.next + u64::from(distance);
        self.slot(index).words[0].load(Ordering::Relaxed) as u16 == lap_of(index, self.lap_shift)
    }

    /// Gives the slot found by [`Self::peek`] back. The producer learns of it every quarter ring, or at once when
    /// `publish_now` (the slot carries a buffer that the producer waits for). True when it was told: a producer that
    /// sleeps until there is room has to be woken.
    #[inline(always)]
    pub fn consume(&mut self, publish_now: bool) -> bool {
        self.next += 1;
        kill_point!("ring.consume");
        let publish = publish_now || self.taken().wrapping_sub(self.published) > self.mask / 4;
        if publish {
            self.publish();
        }
        publish
    }

    /// Tells the producer how much was consumed.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.taken() {
            self.published = self.taken();
            // SAFETY: `consumed` is mapped and valid for atomics by the contract of `new`.
            // Release: pair B, our reads of the slots are over.
            unsafe { self.consumed.as_ref() }.store(self.published, Ordering::Release);
            kill_point!("ring.credit");
        }
    }

    #[inline(always)]
    fn slot(&self, index: u64) -> &Slot {
        // SAFETY: the masked index is below the count, so the slot lies in the memory that `new` was promised;
        // `Slot` is made of atomics, so a shared reference to memory that others write is sound.
        unsafe { self.slots.add((index as u32 & self.mask) as usize).as_ref() }
    }
}

/// Where a consumer looked next when it was asked. Many of them lie in few lines, where the consumers would be in many: so
/// most looks at idle rings touch nothing but the slot.
#[derive(Debug, Clone, Copy)]
pub struct Lookout {
    slot: NonNull<Slot>,
    lap: u16,
}

// SAFETY: the pointer is only followed by `may_be_ready`, whose caller vouches for it; what it names is made of atomics.
unsafe impl Send for Lookout {}

impl Lookout {
    /// False when the slot is not ready. True when it is, and also when the consumer has moved on since: laps of a slot only
    /// grow.
    ///
    /// # Safety
    /// The slots of the consumer are still mapped.
    #[inline(always)]
    pub unsafe fn may_be_ready(&self) -> bool {
        // SAFETY: mapped by the caller's promise; `Slot` is made of atomics. Relaxed: who believes it looks again
        // (`Consumer::peek`).
        let word = unsafe { self.slot.as_ref() }.words[0].load(Ordering::Relaxed);
        (word as u16).wrapping_sub(self.lap) < 1 << 15
    }
}

/// Laps count from 1, so that zeroed memory is not ready; they run modulo 2^16, and a slot only ever holds the
/// number of this lap or of the one before.
#[inline(always)]
fn lap_of(index: u64, lap_shift: u32) -> u16 {
    ((index >> lap_shift) + 1) as u16
}

/// Whether a ring may have this many slots.
pub fn is_valid_count(count: u32) -> bool {
    count.is_power_of_two() && (MIN_SLOTS..=MAX_SLOTS).contains(&count)
}

fn check_count(count: u32) {
    assert!(
        is_valid_count(count) || cfg!(any(test, loom)) && count.is_power_of_two(),
        "ring of {count} slots"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(count: u32) -> (Producer, Consumer) {
        let slots: &'static [Slot] = Vec::leak((0..count).map(|_| Slot::default()).collect());
        let consumed: &'static AtomicU32 = Box::leak(Box::default());
        let slots = NonNull::from(slots).cast();
        // SAFETY: leaked, zeroed memory that these two ends alone use.
        unsafe {
            (Producer::new(slots, count, consumed.into()), Consumer::new(slots, count, consumed.into()))
        }
    }

    #[cfg(not(loom))]
    fn header(len: u16) -> SlotHeader {
        SlotHeader { kind: 3, flags: 1, len, core: 9 }
    }

    #[test]
    #[cfg(not(loom))]
    fn slots_arrive_whole_and_in_order_over_many_laps() {
        let (mut p, mut c) = ring(64);
        for i in 0..64u64 * 3000 {
            assert!(p.has_space().unwrap());
            p.push(header(i as u16), i, |body: &[AtomicU64; BODY_WORDS]| {
                body[1].store(i + 2, Ordering::Relaxed)
            });
            let ready = c.peek().unwrap();
            assert_eq!((ready.header(), ready.word()), (header(i as u16), i));
            assert_eq!(ready.body()[1].load(Ordering::Relaxed), i + 2);
            c.consume(false);
            assert!(c.peek().is_none());
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn indices_survive_the_wrap_of_32_bits() {
        let (mut p, mut c) = ring(64);
        // A whole number of laps before the wrap, as if 2^32 - 128 slots had passed.
        let start = 0u32.wrapping_sub(128);
        (p.next, p.consumed_seen) = (u64::from(start), start);
        (c.next, c.published) = (u64::from(start), start);
        // SAFETY: leaked memory of the test.
        unsafe { c.consumed.as_ref() }.store(start, Ordering::Relaxed);
        for i in 0..512 {
            assert!(p.has_space().unwrap());
            p.push(header(0), i, |_: &[AtomicU64; BODY_WORDS]| {});
            assert_eq!(c.peek().unwrap().word(), i);
            c.consume(false);
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn a_look_from_afar_misses_nothing_over_many_laps() {
        let (mut p, mut c) = ring(64);
        let first = c.lookout();
        for i in 0..64u64 * 3000 {
            let before = c.lookout();
            // SAFETY: leaked memory of the test.
            assert!(unsafe { !before.may_be_ready() && (i == 0 || first.may_be_ready()) });
            assert!(p.has_space().unwrap());
            p.push(header(0), i, |_: &[AtomicU64; BODY_WORDS]| {});
            // SAFETY: as above.
            assert!(unsafe { before.may_be_ready() });
            c.consume(false);
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn what_was_not_consumed_can_be_read_again() {
        let (mut p, mut c) = ring(64);
        for i in 0..1000u64 {
            assert!(p.has_space().unwrap());
            p.push(header(i as u16), i, |_: &[AtomicU64; BODY_WORDS]| {});
            p.refresh().unwrap();
            let waiting: Vec<u64> = p.unconsumed().map(|ready| ready.word()).collect();
            assert_eq!(waiting, (c.taken_ever()..=i).collect::<Vec<_>>());
            assert_eq!(p.sent_ever(), i + 1);
            while i % 40 == 39 && c.peek().is_some() {
                c.consume(true);
            }
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn a_full_ring_says_so_until_something_is_consumed() {
        let (mut p, mut c) = ring(64);
        for i in 0..64 {
            assert!(p.has_space().unwrap());
            p.push(header(0), i, |_: &[AtomicU64; BODY_WORDS]| {});
        }
        assert!(!p.has_space().unwrap());
        c.consume(true);
        assert!(p.has_space().unwrap());
        assert_eq!(p.consumed(), 1);
    }

    #[test]
    #[cfg(not(loom))]
    fn a_lying_consumer_is_found_out() {
        let (mut p, c) = ring(64);
        p.push(header(0), 0, |_: &[AtomicU64; BODY_WORDS]| {});
        // SAFETY: leaked memory of the test.
        unsafe { c.consumed.as_ref() }.store(2, Ordering::Relaxed);
        assert_eq!(p.refresh(), Err(CorruptCount));
    }

    #[test]
    #[cfg(not(loom))]
    fn two_threads_stream_a_million_slots() {
        let (mut p, mut c) = ring(256);
        const COUNT: u64 = 1_000_000;
        let sender = std::thread::spawn(move || {
            for i in 0..COUNT {
                while !p.has_space().unwrap() {
                    std::thread::yield_now();
                }
                p.push(header(8), i, |body: &[AtomicU64; BODY_WORDS]| body[0].store(!i, Ordering::Relaxed));
            }
        });
        for i in 0..COUNT {
            let (word, body) = loop {
                if let Some(r) = c.peek() {
                    break (r.word(), r.body()[0].load(Ordering::Relaxed));
                }
                std::thread::yield_now();
            };
            assert_eq!((word, body), (i, !i));
            c.consume(false);
        }
        sender.join().unwrap();
    }

    #[test]
    #[cfg(loom)]
    fn loom_slots_are_never_torn_nor_overwritten_early() {
        loom::model(|| {
            let (mut p, mut c) = ring(2);
            let sender = loom::thread::spawn(move || {
                for i in 1..=3u64 {
                    while !p.has_space().unwrap() {
                        loom::thread::yield_now();
                    }
                    p.push(SlotHeader::default(), i, |body: &[AtomicU64; BODY_WORDS]| {
                        body[0].store(i * 10, Ordering::Relaxed)
                    });
                }
            });
            for i in 1..=3u64 {
                let got = loop {
                    if let Some(r) = c.peek() {
                        break (r.word(), r.body()[0].load(Ordering::Relaxed));
                    }
                    loom::thread::yield_now();
                };
                assert_eq!(got, (i, i * 10));
                c.consume(true);
            }
            sender.join().unwrap();
        });
    }
}
