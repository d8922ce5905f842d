//! A live link: two rings, staging buffers on their way, and the peer's doorbell.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{PeerId, Posted, Refusal, Sink};
use gridnet_core::ring::bell::{Order, Ringer};
use gridnet_core::ring::slot::{Consumer, Producer, Ready, SlotHeader, BODY_BYTES, BODY_WORDS};
use gridnet_core::sync::{relax, AtomicU32, Ordering};
use gridnet_core::wire::{extension_words, Frame, Incoming, MAX_EXTENSION};

use crate::arena::{Arena, Staging, MAX_STAGING};
use crate::cpu::core_stamp;
use crate::layout::{LinkOffer, StagingRef, LINE};
use crate::segment::PeerSegment;

/// In the flags of a slot: the payload is in a staging buffer, and the word after the extension names it.
const FLAG_STAGED: u8 = 0x80;
/// Staged payloads beyond this many bytes are given back at once rather than every quarter ring.
const PROMPT_CREDIT: usize = 1024;
/// Staging buffers beyond this size count as bulk,
const BULK: usize = 8192;
/// of which so many are under way at once: enough to keep both copies busy, few enough to stay in the cache.
const BULK_DEPTH: usize = 8;
/// After a run of this many frames the receiver lets the sender get ahead,
const RUN: u32 = 8;
/// until the slot this far ahead is ready,
const LOOK_AHEAD: u32 = 7;
/// for at most so many looks.
const LOOKS: u32 = 64;

/// Both ends of the conversation with one peer.
#[derive(Debug)]
pub struct Live {
    producer: Producer,
    consumer: Consumer,
    ringer: Ringer,
    /// How we order our publications,
    order: Order,
    /// and the peer its own.
    peer_order: Order,
    bell: OwnedFd,
    /// Kept mapped: the ends above point into it.
    segment: PeerSegment,
    /// Staging buffers that the peer has not given back, by the slot that named them.
    under_way: VecDeque<(u32, Staging)>,
    under_way_bytes: usize,
    bulk_under_way: usize,
    /// Frames delivered without a pause.
    run: u32,
    /// The consumed count lies; the link is to be cut.
    corrupt: bool,
    /// Wake-ups given.
    rung: u64,
}

impl Live {
    /// Joins the own block, as offered to the peer, and the peer's.
    pub fn new(arena: &Arena, ours: &LinkOffer, theirs: &LinkOffer, segment: PeerSegment, bell: OwnedFd) -> Live {
        let base = ours.block as usize * LINE;
        let consumed = arena.segment().at(base).cast::<AtomicU32>();
        let slots = arena.segment().at(base + LINE).cast();
        // SAFETY: the own block was allotted zeroed for this link and is mapped as long as the arena lives, which
        // is longer than the link; only this producer writes its slots. The peer's consumed line was checked to be
        // inside its segment, which `self.segment` keeps mapped.
        let producer = unsafe { Producer::new(slots, arena.slots(), segment.consumed(theirs.block)) };
        // SAFETY: the peer's slots were checked likewise; the consumed line of the own block is written by this consumer
        // alone.
        let consumer = unsafe { Consumer::new(segment.slots(theirs.block), theirs.slots, consumed) };
        Live {
            producer,
            consumer,
            ringer: Ringer::default(),
            order: order_of(ours, theirs),
            peer_order: order_of(theirs, ours),
            bell,
            segment,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            bulk_under_way: 0,
            run: 0,
            corrupt: false,
            rung: 0,
        }
    }

    /// Puts a frame into the ring; at most `window` bytes of staging buffers are under way.
    #[inline(always)]
    pub fn post(&mut self, arena: &mut Arena, window: usize, frame: &Frame<'_>) -> Posted {
        match self.producer.has_space() {
            Ok(true) => {}
            Ok(false) => return Posted::NoResource,
            Err(_) => return self.give_up(),
        }
        let len = frame.payload.len();
        if frame.extension_len * 8 + len > BODY_BYTES {
            return self.post_staged(arena, window, frame);
        }
        let header = SlotHeader { kind: frame.kind as u8, flags: frame.flags, len: len as u16, core: core_stamp() };
        if frame.extension_len == 0 {
            let body: [u64; BODY_WORDS] = frame.payload.load_words();
            self.producer.push(header, frame.word, &body[..len.div_ceil(8)]);
        } else {
            self.push_extended(header, frame);
        }
        self.ring();
        Posted::Done
    }

    fn push_extended(&mut self, header: SlotHeader, frame: &Frame<'_>) {
        let mut body = [0u64; BODY_WORDS];
        let words: [u64; BODY_WORDS] = frame.payload.load_words();
        let all = frame.extension().iter().chain(&words);
        body.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        self.producer.push(header, frame.word, &body);
    }

    fn post_staged(&mut self, arena: &mut Arena, window: usize, frame: &Frame<'_>) -> Posted {
        let len = frame.payload.len();
        let Some(staging) = self.stage(arena, window, len) else {
            return if self.corrupt { Posted::Down } else { Posted::NoResource };
        };
        let to = arena.segment().at(staging.line as usize * LINE);
        // SAFETY: the buffer has at least `len` bytes (its class was chosen so), lies in the own segment, is not under
        // way to anybody, and the caller's memory is elsewhere.
        unsafe { frame.payload.copy_out(to.as_ptr()) };
        self.under_way.push_back((self.producer.sent(), staging));
        self.under_way_bytes += staging.size();
        self.bulk_under_way += usize::from(staging.size() > BULK);
        let mut body = [0u64; BODY_WORDS];
        body.iter_mut().zip(frame.extension()).for_each(|(to, from)| *to = *from);
        body[frame.extension_len] = StagingRef { line: staging.line, len: len as u32 }.pack();
        let header = SlotHeader {
            kind: frame.kind as u8,
            flags: frame.flags | FLAG_STAGED,
            len: 0,
            core: core_stamp(),
        };
        self.producer.push(header, frame.word, &body[..=frame.extension_len]);
        self.ring();
        Posted::Done
    }

    /// A free staging buffer: one given back, one that the peer has finished with, or a new one.
    fn stage(&mut self, arena: &mut Arena, window: usize, len: usize) -> Option<Staging> {
        debug_assert!(len <= MAX_STAGING);
        let bulk = len > BULK;
        let full = |live: &Live| {
            live.under_way_bytes + len > window || bulk && live.bulk_under_way >= BULK_DEPTH
        };
        if full(self) {
            self.reclaim(arena);
            if full(self) {
                return None;
            }
        }
        if let Some(staging) = arena.take_staging(len) {
            return Some(staging);
        }
        self.reclaim(arena);
        if let Some(staging) = arena.take_staging(len) {
            return Some(staging);
        }
        if let Err(refusal) = arena.grow_staging(len) {
            tracing::debug!(reason = %refusal.reason, "no staging buffer");
        }
        arena.take_staging(len)
    }

    /// Takes the staging buffers back that the peer has finished with.
    fn reclaim(&mut self, arena: &mut Arena) {
        if self.producer.refresh().is_err() {
            self.corrupt = true;
            return;
        }
        let consumed = self.producer.consumed();
        let sent = self.producer.sent();
        while let Some(&(slot, staging)) = self.under_way.front() {
            // Both distances are below the size of the ring; a slot is consumed when it is further back.
            if sent.wrapping_sub(slot) <= sent.wrapping_sub(consumed) {
                break;
            }
            self.under_way.pop_front();
            self.return_staging(arena, staging);
        }
    }

    fn return_staging(&mut self, arena: &mut Arena, staging: Staging) {
        self.under_way_bytes -= staging.size();
        self.bulk_under_way -= usize::from(staging.size() > BULK);
        arena.give_staging(staging);
    }

    /// Gives everything back to the arena but the block.
    pub fn release(mut self, arena: &mut Arena) {
        while let Some((_, staging)) = self.under_way.pop_front() {
            self.return_staging(arena, staging);
        }
    }

    /// Wakes the peer if it sleeps. To be called after each publication.
    #[inline(always)]
    fn ring(&mut self) {
        // SAFETY: `segment` keeps the peer's arming word mapped.
        let arming = unsafe { self.segment.arming().as_ref() };
        if self.ringer.must_ring(arming, self.order) {
            self.rung += 1;
            ring_bell(&self.bell);
        }
    }

    /// Hands at most `budget` frames to `sink`; the core stamp of the last one goes to `core`.
    ///
    /// # Errors
    /// Why the peer is to be cut off.
    #[inline(always)]
    pub fn deliver<S: Sink>(&mut self, peer: PeerId, budget: usize, sink: &mut S, core: &mut u16) -> Result<usize, Refusal> {
        if self.consumer.peek().is_none() {
            self.run = 0;
            return Ok(0);
        }
        self.deliver_run(peer, budget, sink, core)
    }

    #[inline(always)]
    fn deliver_run<S: Sink>(&mut self, peer: PeerId, budget: usize, sink: &mut S, core: &mut u16) -> Result<usize, Refusal> {
        if self.run >= RUN {
            self.let_sender_get_ahead();
        }
        let mut taken = 0;
        while taken < budget {
            let Some(ready) = self.consumer.peek() else {
                self.run = 0;
                break;
            };
            let header = ready.header();
            *core = header.core;
            let prompt = take_slot(&self.segment, peer, &ready, sink)?;
            taken += 1;
            if self.consumer.consume(prompt) {
                self.ring();
            }
        }
        self.run = self.run.saturating_add(taken as u32);
        Ok(taken)
    }

    /// In a stream, a receiver that takes each line as soon as it is written steals the line that the sender is
    /// about to write. Waiting (some 60 ns at most) until a few are ready is 1.2 to 1.6 times as fast.
    fn let_sender_get_ahead(&self) {
        for _ in 0..LOOKS {
            if self.consumer.is_ready_ahead(LOOK_AHEAD) {
                break;
            }
            relax();
        }
    }

    /// True when a frame waits, or when the peer has made room since the ring was found full.
    pub fn has_news(&mut self, wants_room: bool) -> bool {
        self.consumer.peek().is_some()
            || wants_room && self.producer.refresh().is_ok() && self.producer.has_space().unwrap_or(true)
    }

    /// True when the consumed count has lied.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// True when the peer publishes without a fence, and counts on our barrier.
    pub fn is_peer_unfenced(&self) -> bool {
        self.peer_order == Order::Barrier
    }

    /// Wake-ups given to the peer.
    pub fn rung(&self) -> u64 {
        self.rung
    }

    #[cold]
    fn give_up(&mut self) -> Posted {
        self.corrupt = true;
        Posted::Down
    }
}

/// A sender publishes without a fence only if barriers interrupt it, and the receiver runs them.
fn order_of(sender: &LinkOffer, receiver: &LinkOffer) -> Order {
    if sender.registered && receiver.has_barrier {
        Order::Barrier
    } else {
        Order::Fence
    }
}

/// Hands the frame of one slot over; true when the sender waits for its buffer.
#[inline(always)]
fn take_slot<S: Sink>(segment: &PeerSegment, peer: PeerId, ready: &Ready<'_>, sink: &mut S) -> Result<bool, Refusal> {
    let header = ready.header();
    let mut frame = Incoming {
        kind: header.kind,
        flags: header.flags,
        word: ready.word(),
        extension: [0; MAX_EXTENSION],
        payload: PeerBytes::Words(ready.body(), usize::from(header.len)),
    };
    let mut prompt = false;
    let plain = header.flags == 0 && header.kind == gridnet_core::wire::Kind::Eager as u8;
    if plain {
        if usize::from(header.len) > BODY_BYTES {
            return Err(misbehaved("slot that is longer than a slot"));
        }
    } else {
        prompt = unpack_extended(segment, ready, &mut frame)?;
    }
    sink.frame(peer, frame).map_err(|error| Refusal::new(error, "frame that breaks the protocol"))?;
    Ok(prompt)
}

/// Fills in extension words and staged payload.
fn unpack_extended<'a>(segment: &'a PeerSegment, ready: &Ready<'a>, frame: &mut Incoming<'a>) -> Result<bool, Refusal> {
    let staged = frame.flags & FLAG_STAGED != 0;
    frame.flags &= !FLAG_STAGED;
    let words = extension_words(frame.kind, frame.flags).map_err(|e| misbehaved(e.0))?;
    let body = ready.body();
    for (to, from) in frame.extension.iter_mut().zip(body).take(words) {
        *to = from.load(Ordering::Relaxed);
    }
    let rest = body.get(words..).unwrap_or_default();
    if !staged {
        let len = usize::from(ready.header().len);
        if len > rest.len() * 8 {
            return Err(misbehaved("slot that is longer than a slot"));
        }
        frame.payload = PeerBytes::Words(rest, len);
        return Ok(false);
    }
    let reference = rest.first().map_or(0, |word| word.load(Ordering::Relaxed));
    let (start, len) = StagingRef::unpack(reference, segment.len())
        .filter(|(_, len)| *len <= MAX_STAGING)
        .ok_or_else(|| misbehaved("staging buffer outside the segment"))?;
    let base = segment.bytes(start, len).ok_or_else(|| misbehaved("staging buffer outside the segment"))?;
    // SAFETY: inside the peer's mapping, which outlives the frame: the link is not dropped while it is delivered.
    frame.payload = unsafe { PeerBytes::raw(base, len) };
    Ok(len > PROMPT_CREDIT)
}

#[cold]
fn misbehaved(why: &str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}

/// Writes to an eventfd. It cannot be full in the time of this universe, and the peer's death is noticed elsewhere.
#[cold]
fn ring_bell(bell: &OwnedFd) {
    let _ = nix::unistd::write(bell, &1u64.to_ne_bytes());
}
