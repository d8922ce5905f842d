//! The two rings of a link, where the program's calls reach them in one step.
//!
//! A small message that waits for nothing needs no more than a slot, the peer's arming word and three counters; one that
//! comes in, the next slot and the receive that it is for. All of them hang on one object, which the rail, the engine and the
//! program's endpoint handles share: the way through the tables of all three is a dozen loads, each of which waits for the one
//! before.
//!
//! The engine says when messages may go out this way ([`Lane::set_open`]); the rail, when the lane is over ([`Lane::end`]).

use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::bell::{Order, Ringer};
use super::slot::{Consumer, Fill, Producer, Ready, SlotHeader, BODY_BYTES, BODY_WORDS};
use crate::ledger::{Kept, PeerCells, PeerCounts};
use crate::mem::{Gather, Iov};
use crate::probes;
use crate::rail::PeerId;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::wire::{Kind, FLAG_IMMEDIATE};

/// Messages between two looks at what comes in, so that a program which only sends hears the peer say stop.
pub const LISTEN: u64 = 128;

/// After a run of this many frames the receiver lets the sender get ahead,
const RUN: u32 = 8;
/// until the slot this far ahead is ready,
const LOOK_AHEAD: u32 = 7;
/// for at most so many looks.
const LOOKS: u32 = 8;
/// How far ahead of the message that is taken lines of a stream are asked for. Between far cores, 3 to 8 are alike, 1 and 12 are worse.
pub const PREFETCH_AHEAD: u32 = 6;

/// Wakes a peer that sleeps.
pub trait Wake: fmt::Debug + Send {
    /// Wakes it; its death is noticed elsewhere.
    fn wake(&self);
}

/// What sends need. The rail works with it, too: see [`Lane::ends`].
#[derive(Debug)]
pub struct Ends {
    /// Messages may go past the engine. False before the engine has said otherwise.
    is_open: bool,
    /// Core stamp for the next frames.
    pub core: u16,
    /// How publications are ordered before the look at the arming word.
    order: Order,
    /// The sending end.
    pub producer: Producer,
    ringer: Ringer,
    /// The peer's arming word.
    arming: NonNull<AtomicU32>,
    /// The engine's counters for the peer.
    counts: Option<(PeerId, Kept<PeerCounts>)>,
    /// None once the lane is over.
    waker: Option<Box<dyn Wake>>,
    /// Wake-ups given.
    pub rung: u64,
    /// The receiving end.
    pub consumer: Consumer,
    /// Frames delivered without a pause.
    pub run: u32,
    /// Frames that were consumed and whose payload lay in a buffer of the sender, which does not know yet that it is free.
    pub uncredited: u32,
    /// Core stamp of the last frame that came.
    pub peer_core: u16,
}

/// See the file.
pub struct Lane {
    ends: UnsafeCell<Ends>,
}

// SAFETY: what is inside is reached through `ends` and `send` only, whose callers are alone with the fabric; it may move
// between threads (the pointers name shared memory that is used through atomics, `Wake` is `Send`).
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

/// A message behind its immediate value.
struct Led {
    immediate: u64,
    message: Iov,
}

impl Fill for Led {
    #[inline(always)]
    fn fill(self, body: &[AtomicU64; BODY_WORDS]) {
        let [first, rest @ ..] = body;
        first.store(self.immediate, Ordering::Relaxed);
        Gather::one(&self.message).store_words(rest);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane")
    }
}

impl Lane {
    /// A closed lane.
    ///
    /// # Safety
    /// `arming` is valid for atomic access until [`Self::end`], and after that for as long as the rail works with
    /// [`Self::ends`]: a link that is left for another is ended by the engine first, and unmapped by the rail later. So is what
    /// `producer` and `consumer` point to.
    pub unsafe fn new(
        producer: Producer,
        consumer: Consumer,
        order: Order,
        arming: NonNull<AtomicU32>,
        waker: Box<dyn Wake>,
    ) -> Arc<Lane> {
        let ends = Ends {
            is_open: false,
            core: 0,
            order,
            producer,
            ringer: Ringer::default(),
            arming,
            counts: None,
            waker: Some(waker),
            rung: 0,
            consumer,
            run: 0,
            uncredited: 0,
            peer_core: 0,
        };
        Arc::new(Lane { ends: UnsafeCell::new(ends) })
    }

    /// What is inside.
    ///
    /// # Safety
    /// The caller is alone with the fabric that the lane is of (it has the fabric's guard, or something that only the holder
    /// of the guard reaches), and what it got before is not used any more.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the promise of the caller")]
    pub unsafe fn ends(&self) -> &mut Ends {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.ends.get() }
    }

    /// Sends a message of at most 48 bytes if that can be done at once. False when it cannot, and nothing has happened.
    ///
    /// # Safety
    /// As [`Self::ends`].
    #[inline(always)]
    pub unsafe fn send(&self, tag: u64, message: Iov) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.send_slot(0, tag, message.len(), BODY_BYTES, message) }
    }

    /// The same, of at most 40 bytes with an immediate value.
    ///
    /// # Safety
    /// As [`Self::ends`].
    #[inline(always)]
    pub unsafe fn send_with(&self, tag: u64, immediate: u64, message: Iov) -> bool {
        let len = message.len();
        // SAFETY: the caller's promise.
        unsafe { self.send_slot(FLAG_IMMEDIATE, tag, len, BODY_BYTES - 8, Led { immediate, message }) }
    }

    /// Sends a message that fits into `room` bytes, of `len` bytes, which `content` stores.
    ///
    /// # Safety
    /// As [`Self::ends`].
    #[inline(always)]
    unsafe fn send_slot(&self, flags: u8, tag: u64, len: usize, room: usize, content: impl Fill) -> bool {
        // SAFETY: the caller's promise.
        let ends = unsafe { self.ends() };
        if !ends.is_open || len > room {
            return false;
        }
        let Some((peer, counts)) = &ends.counts else { return false };
        let cells = &counts.cells;
        let sent = cells.messages_sent.value();
        if sent % LISTEN == LISTEN - 1 || !ends.producer.has_space_left() {
            return false;
        }
        let header = SlotHeader { kind: Kind::Eager as u8, flags, len: len as u16, core: ends.core };
        ends.producer.push(header, tag, content);
        cells.messages_sent.set(sent.wrapping_add(1));
        cells.sends_eager.add(1);
        cells.bytes_sent.add(len as u64);
        probes::send_posted(*peer, tag, len as u64);
        ends.ring();
        true
    }

    /// The engine's part: whose lane this is.
    ///
    /// # Safety
    /// As [`Self::ends`].
    pub unsafe fn bind(&self, peer: PeerId, counts: Kept<PeerCounts>) {
        // SAFETY: the caller's promise.
        unsafe { self.ends() }.counts = Some((peer, counts));
    }

    /// Whether messages may go past the engine.
    ///
    /// # Safety
    /// As [`Self::ends`].
    #[inline(always)]
    pub unsafe fn set_open(&self, is_open: bool) {
        // SAFETY: the caller's promise.
        let ends = unsafe { self.ends() };
        ends.is_open = is_open && ends.counts.is_some();
    }

    /// Nothing goes this way any more, whatever the engine says: the rail's part when the link is over, the engine's when it is
    /// left for another.
    ///
    /// # Safety
    /// As [`Self::ends`].
    pub unsafe fn end(&self) {
        // SAFETY: the caller's promise.
        let ends = unsafe { self.ends() };
        (ends.is_open, ends.counts, ends.waker) = (false, None, None);
    }
}

impl Ends {
    /// The next frame, with the peer that sent it and its counters. Nothing when the lane is over.
    #[inline(always)]
    pub fn peek(&self) -> Option<(Ready<'_>, PeerId, &PeerCells)> {
        let (peer, counts) = self.counts.as_ref()?;
        Some((self.consumer.peek()?, *peer, &counts.cells))
    }

    /// True when [`Self::peek`] may find something, and when it will not whatever comes.
    #[inline(always)]
    pub fn has_frame(&self) -> bool {
        self.counts.is_none() || self.consumer.peek().is_some()
    }

    /// Gives the slot back that was found.
    #[inline(always)]
    pub fn consume(&mut self) {
        self.run = self.run.saturating_add(1);
        if self.consumer.consume(false) {
            self.ring();
        }
    }

    /// In a stream, a receiver that takes each line as soon as it is written steals the line that the sender is
    /// about to write: a few looks, until some are ready.
    #[inline(always)]
    pub fn let_sender_get_ahead(&self) {
        if self.run >= RUN {
            // No pause between the looks: on some processors that takes longer than all of them.
            let _ = (0..LOOKS).any(|_| self.consumer.is_ready_ahead(LOOK_AHEAD));
        }
    }

    /// The ring is empty, or will not be looked at each round any more: the sender learns of what was consumed.
    #[inline(always)]
    pub fn end_run(&mut self) {
        self.run = 0;
        if self.uncredited > 0 {
            self.credit();
        }
    }

    /// Tells the sender what was consumed, and wakes it if it sleeps until there is room.
    #[inline(never)]
    pub fn credit(&mut self) {
        self.uncredited = 0;
        self.consumer.publish();
        self.ring();
    }

    /// Wakes the peer if it sleeps. To be called after each publication.
    #[inline(always)]
    pub fn ring(&mut self) {
        // SAFETY: by the promise of `Lane::new`. A program's call comes here only while the lane is open (`send`, `peek`), so
        // before its end; the rail, also for a link that was left, as long as it has it mapped.
        let arming = unsafe { self.arming.as_ref() };
        if self.ringer.must_ring(arming, self.order) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            self.rung += 1;
            waker.wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::slot::Slot;

    #[derive(Debug)]
    struct Flag {
        _held: Arc<()>,
    }

    impl Wake for Flag {
        fn wake(&self) {}
    }

    #[test]
    fn a_lane_that_is_over_keeps_no_doorbell_and_takes_no_message() {
        let slots: &'static [Slot] = Vec::leak((0..64).map(|_| Slot::default()).collect());
        let words: &'static [AtomicU32; 3] = Box::leak(Box::default());
        let slots = NonNull::from(slots).cast();
        let flag = Arc::new(());
        // SAFETY: leaked, zeroed memory that these ends alone use; and this test is alone with the lane.
        unsafe {
            let producer = Producer::new(slots, 64, NonNull::from(&words[0]));
            let consumer = Consumer::new(slots, 64, NonNull::from(&words[0]));
            let waker = Box::new(Flag { _held: flag.clone() });
            let lane = Lane::new(producer, consumer, Order::Fence, NonNull::from(&words[1]), waker);
            assert!(!lane.send(1, Iov::EMPTY), "nobody has opened it");
            lane.bind(PeerId::new(0), Kept::private(PeerCounts::default()));
            lane.set_open(true);
            assert!(lane.send(1, Iov::EMPTY));
            assert_eq!(Arc::strong_count(&flag), 2);
            lane.end();
            assert_eq!(Arc::strong_count(&flag), 1);
            lane.set_open(true);
            assert!(!lane.send(1, Iov::EMPTY), "it is over");
        }
    }

    #[test]
    fn a_pause_tells_the_sender_which_buffers_are_free() {
        let slots: &'static [Slot] = Vec::leak((0..64).map(|_| Slot::default()).collect());
        let words: &'static [AtomicU32; 2] = Box::leak(Box::default());
        let slots = NonNull::from(slots).cast();
        // SAFETY: leaked, zeroed memory that these ends alone use; and this test is alone with the lane.
        unsafe {
            let producer = Producer::new(slots, 64, NonNull::from(&words[0]));
            let consumer = Consumer::new(slots, 64, NonNull::from(&words[0]));
            let waker = Box::new(Flag { _held: Arc::new(()) });
            let lane = Lane::new(producer, consumer, Order::Fence, NonNull::from(&words[1]), waker);
            lane.bind(PeerId::new(0), Kept::private(PeerCounts::default()));
            lane.set_open(true);
            let consumed = || words[0].load(crate::sync::Ordering::Relaxed);
            assert!(lane.send(1, Iov::EMPTY) && lane.send(1, Iov::EMPTY));
            lane.ends().consume();
            lane.ends().end_run();
            assert_eq!(consumed(), 0, "no buffer waits: a quarter of the ring comes first");
            lane.ends().uncredited = 1;
            lane.ends().consume();
            assert_eq!((lane.ends().run, consumed()), (1, 0));
            lane.ends().end_run();
            assert_eq!((lane.ends().run, lane.ends().uncredited, consumed()), (0, 0, 2));
        }
    }
}
