//! A live link: frames into slots, and, by `take.rs`, out of them.

mod retained;

use std::ptr::NonNull;
use std::sync::Arc;

use gridnet_core::kill_point;
use gridnet_core::mem::{Gather, Iov, PeerBytes};
use gridnet_core::rail::{PeerId, Posted, Refusal, Sink};
use gridnet_core::region::Watch;
use gridnet_core::ring::bell::Order;
use gridnet_core::ring::lane::{Ends, Lane, PREFETCH_AHEAD};
use gridnet_core::ring::slot::{Consumer, Lookout, Producer, SlotHeader, BODY_BYTES, BODY_WORDS};
use gridnet_core::sync::{AtomicU32, AtomicU64, Ordering};
use gridnet_core::wire::{is_sequenced, Frame, Kind};

use crate::arena::{Arena, Staging, MAX_STAGING};
use crate::copy_choice::CopyChoice;
use crate::cpu::core_stamp;
use crate::doorbell::Doorbell;
use crate::heap::PeerHeap;
use crate::layout::{announcement_line, LinkOffer, StagingRef, LINE};
use crate::segment::PeerSegment;
use crate::staging::{UnderWay, FLAG_STAGED, PROMPT_CREDIT, STAGED_CREDITS};
use crate::take::{take_slot, Content};

/// Largest message in bytes that goes whole.
pub const MAX_EAGER: usize = 8192;

/// Segments of a peer in which loans are read, and how many: which of them lies where is not known.
#[derive(Debug)]
pub struct Read {
    segments: Vec<Arc<PeerSegment>>,
    loans: u32,
}

impl Read {
    /// One loan is not read any more; false when it was the last.
    pub fn release(&mut self) -> bool {
        self.loans = self.loans.saturating_sub(1);
        self.loans > 0
    }
}

/// Both ends of the conversation with one peer.
#[derive(Debug)]
pub struct Live {
    /// Both ends, and the peer's doorbell.
    lane: Arc<Lane>,
    /// How we order our publications,
    order: Order,
    /// and the peer its own.
    peer_order: Order,
    /// Kept mapped: the ends above point into it.
    segment: Arc<PeerSegment>,
    /// Where we announce accesses to the peer's regions,
    announced: NonNull<AtomicU64>,
    /// and where the peer announces its own, in lines of its segment.
    peer_announced: u32,
    /// The peer's heap, once it came.
    heap: Option<Arc<PeerHeap>>,
    /// Staging buffers that the peer has not given back.
    under_way: UnderWay,
    /// The consumed count when the last frame found no room.
    refused_at: u32,
    /// Slots taken when [`Self::was_silent`] was last asked.
    taken_before: u32,
    /// Which way the peer's long messages take.
    pub choice: CopyChoice,
    /// Whether the peer knows that bytes of streams may be fetched.
    pub knows_pulls: bool,
    /// Loans of the peer that are read in its segment, or in those of links before.
    loans_read: u32,
    older_segments: Vec<Arc<PeerSegment>>,
    /// Some of them came over this link.
    has_lent: bool,
    /// Frames that are not sequenced: those sent,
    loose_out: u64,
    /// and those that came.
    loose_in: u64,
    /// The consumed count lies; the link is to be cut.
    corrupt: bool,
}

// SAFETY: the pointers name words of shared memory, only ever accessed as atomics.
unsafe impl Send for Live {}

impl Live {
    /// Joins the own block, as offered to the peer, and the peer's.
    pub fn new(
        arena: &Arena,
        ours: &LinkOffer,
        theirs: &LinkOffer,
        segment: PeerSegment,
        bell: Doorbell,
    ) -> Live {
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
        // SAFETY: `self.segment` keeps the peer's arming word mapped, and the arena the own slots; `release`, by which both
        // may go, ends the lane.
        let lane = unsafe {
            Lane::new(producer, consumer, order_of(ours, theirs), segment.arming(), Box::new(bell))
        };
        let announced = arena.segment().words(ours.block + announcement_line(arena.slots()));
        let announced = NonNull::from(&announced[0]);
        let mut live = Live {
            lane,
            order: order_of(ours, theirs),
            peer_order: order_of(theirs, ours),
            segment: Arc::new(segment),
            announced,
            peer_announced: theirs.block + announcement_line(theirs.slots),
            heap: None,
            under_way: UnderWay::default(),
            refused_at: 0,
            taken_before: 0,
            choice: CopyChoice::default(),
            knows_pulls: false,
            loans_read: 0,
            older_segments: Vec::new(),
            has_lent: false,
            loose_out: 0,
            loose_in: 0,
            corrupt: false,
        };
        live.stamp();
        live
    }

    /// Both ends, to change them.
    #[inline(always)]
    fn out(&mut self) -> &mut Ends {
        self.ends()
    }

    /// Both ends. Private, so that nobody but the functions of this file can hold the result of one call over another.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "see above")]
    fn ends(&self) -> &mut Ends {
        // SAFETY: who has a link has the rail, and so is alone with the fabric. No function here uses what it got after it,
        // or one that it calls, has asked again.
        unsafe { self.lane.ends() }
    }

    /// The lane by which handles send.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Takes note of the core that we run on, for the frames that follow. Not for each of them: the instruction takes some
    /// ten nanoseconds.
    pub fn stamp(&mut self) {
        self.out().core = core_stamp();
    }

    /// Puts a message without extension that fits into a slot into the ring; false when there is no room, or
    /// something is wrong that [`Self::post`] finds out.
    #[inline(always)]
    pub fn post_small(&mut self, tag: u64, message: &Iov) -> bool {
        if self.out().producer.has_space() != Ok(true) {
            return false;
        }
        let header = SlotHeader {
            kind: Kind::Eager as u8,
            flags: 0,
            len: message.len() as u16,
            core: self.out().core,
        };
        self.out().producer.push(header, tag, *message);
        self.ring();
        true
    }

    /// Puts a frame into the ring that names a loan; false when there is no room, as above.
    #[inline(always)]
    pub fn post_loan(&mut self, tag: u64, words: [u64; 3]) -> bool {
        if self.out().producer.has_space() != Ok(true) {
            return false;
        }
        let header = SlotHeader { kind: Kind::Loan as u8, flags: 0, len: 0, core: self.out().core };
        self.out().producer.push(header, tag, |body: &[AtomicU64; BODY_WORDS]| store_all(body, &words));
        self.ring();
        true
    }

    /// Puts a frame into the ring; at most `window` bytes of staging buffers are under way.
    pub fn post(&mut self, arena: &mut Arena, window: usize, frame: &Frame<'_>) -> Posted {
        match self.out().producer.has_space() {
            Ok(true) => {}
            Ok(false) => return Posted::NoResource,
            Err(_) => return self.give_up(),
        }
        let len = frame.payload.len();
        if frame.extension_len * 8 + len > BODY_BYTES {
            return self.post_staged(arena, window, frame);
        }
        let header =
            SlotHeader { kind: frame.kind as u8, flags: frame.flags, len: len as u16, core: self.out().core };
        if frame.extension_len == 0 {
            self.out()
                .producer
                .push(header, frame.word, |body: &[AtomicU64; BODY_WORDS]| store(&frame.payload, body));
        } else {
            self.push_extended(header, frame);
        }
        self.count_loose(frame);
        self.ring();
        Posted::Done
    }

    /// Rings number all frames; conversations, those that are sequenced.
    #[inline(always)]
    fn count_loose(&mut self, frame: &Frame<'_>) {
        self.loose_out += u64::from(!is_sequenced(frame.kind as u8));
    }

    /// As [`Self::post`], out of a segment that this peer alone has: when it is full, no other peer can make room.
    pub fn post_in_pair(&mut self, arena: &mut Arena, window: usize, frame: &Frame<'_>) -> Posted {
        let posted = self.post(arena, window, frame);
        if posted != Posted::NoResource {
            return posted;
        }
        self.note_refusal();
        match arena.shortage() {
            Some(error) if !self.lends() => Posted::Failed(error),
            _ => posted,
        }
    }

    fn push_extended(&mut self, header: SlotHeader, frame: &Frame<'_>) {
        self.out().producer.push(header, frame.word, |body: &[AtomicU64; BODY_WORDS]| {
            let (words, rest) = body.split_at(frame.extension_len.min(BODY_WORDS));
            store_all(words, frame.extension());
            store(&frame.payload, rest);
        });
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
        kill_point!("ring.stage");
        let slot = self.out().producer.sent();
        self.under_way.add(slot, staging);
        let reference = StagingRef { line: staging.line, len: len as u32 }.pack();
        let header = SlotHeader {
            kind: frame.kind as u8,
            flags: frame.flags | FLAG_STAGED,
            len: 0,
            core: self.out().core,
        };
        self.out().producer.push(header, frame.word, |body: &[AtomicU64; BODY_WORDS]| {
            store_all(body, frame.extension());
            store_all(&body[frame.extension_len..], &[reference]);
        });
        self.count_loose(frame);
        self.ring();
        Posted::Done
    }

    /// A free staging buffer: one given back, one that the peer has finished with, or a new one.
    fn stage(&mut self, arena: &mut Arena, window: usize, len: usize) -> Option<Staging> {
        debug_assert!(len <= MAX_STAGING);
        if self.under_way.is_full(window, len) {
            self.reclaim(arena);
            if self.under_way.is_full(window, len) {
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

    /// Takes the staging buffers back that the peer has finished with; whether there were any.
    pub fn reclaim(&mut self, arena: &mut Arena) -> bool {
        if self.out().producer.refresh().is_err() {
            self.corrupt = true;
            return false;
        }
        let (sent, consumed) = (self.out().producer.sent(), self.out().producer.consumed());
        self.under_way.give_back(arena, sent, consumed)
    }

    /// True when the peer holds staging buffers.
    pub fn lends(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Nothing goes or comes any more.
    pub fn fence(&mut self) {
        // SAFETY: as in `out`.
        unsafe { self.lane.end() };
    }

    /// What is left at the end: the staging buffers that the peer has not given back; and where loans of the peer are read.
    pub fn end(mut self) -> (Vec<Staging>, Option<Read>) {
        self.fence();
        let read = self.take_read();
        (self.under_way.into_staging(), read)
    }

    /// Where loans of the peer are read: somebody else looks after that from now on.
    pub fn take_read(&mut self) -> Option<Read> {
        let loans = std::mem::take(&mut self.loans_read);
        let mut segments = std::mem::take(&mut self.older_segments);
        // One in which nothing was lent is not kept: links may break again and again while one loan is read.
        if std::mem::take(&mut self.has_lent) {
            segments.push(self.segment.clone());
        }
        (loans > 0).then_some(Read { segments, loans })
    }

    /// Segments of links before in which loans are read.
    #[cfg(test)]
    pub fn older(&self) -> usize {
        self.older_segments.len()
    }

    /// Looks after the loans of links before.
    pub fn inherit(&mut self, read: Read) {
        self.loans_read += read.loans;
        self.older_segments.extend(read.segments);
    }

    /// A loan of the peer is not read any more.
    #[inline]
    pub fn release_loan(&mut self) {
        self.loans_read = self.loans_read.saturating_sub(1);
        if self.loans_read == 0 && !self.older_segments.is_empty() {
            self.older_segments.clear();
            self.has_lent = false;
        }
    }

    /// Wakes the peer if it sleeps. To be called after each publication.
    #[inline(always)]
    fn ring(&mut self) {
        self.out().ring();
    }

    /// Hands at most `budget` frames to `sink`; the core stamp of the last one goes to `core`.
    ///
    /// # Errors
    /// Why the peer is to be cut off.
    #[inline(always)]
    pub fn deliver<S: Sink>(
        &mut self,
        peer: PeerId,
        budget: usize,
        sink: &mut S,
        core: &mut u16,
    ) -> Result<usize, Refusal> {
        let ends = self.ends();
        if ends.consumer.peek().is_none() {
            self.end_run();
            return Ok(0);
        }
        ends.let_sender_get_ahead();
        let mut taken = 0;
        while taken < budget {
            let ends = self.ends();
            let Some(ready) = ends.consumer.peek() else {
                self.end_run();
                break;
            };
            if taken > 0 {
                // A stream: the lines that follow are written already, and would come over one or two at a time.
                ends.consumer.prefetch_ahead(PREFETCH_AHEAD);
            }
            taken += 1;
            *core = ready.header().core;
            ends.peer_core = *core;
            if let Some(len) = ready.plain_len(Kind::Eager as u8) {
                sink.message(peer, ready.word(), PeerBytes::Words(ready.body(), len));
                self.ends().consume();
            } else if !self.deliver_other(peer, sink)? {
                break;
            }
        }
        Ok(taken)
    }

    /// Hands the next frame, which is there, to `sink`: any but a whole message in a slot. False when the run ends with it.
    #[inline(never)]
    fn deliver_other<S: Sink>(&mut self, peer: PeerId, sink: &mut S) -> Result<bool, Refusal> {
        let Some(ready) = self.ends().consumer.peek() else { return Ok(false) };
        let is_loose = !is_sequenced(ready.header().kind);
        let content = take_slot(&self.segment, peer, &ready, sink)?;
        self.loose_in += u64::from(is_loose);
        let ends = self.ends();
        ends.run = ends.run.saturating_add(1);
        let published = ends.consumer.consume(false);
        match content {
            Content::Slot if published => self.ring(),
            Content::Slot => {}
            Content::Staged(len) => self.count_staged(len),
            Content::Loan { kept } => {
                self.count_loan(kept, published);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A loan was delivered. The program has much to read now; and what follows a loan is often the return of another, whose
    /// line would have to come over first: so the run ends here.
    #[inline(never)]
    fn count_loan(&mut self, kept: bool, published: bool) {
        self.loans_read += u32::from(kept);
        self.has_lent |= kept;
        self.out().run = 0;
        if published {
            self.ring();
        }
    }

    /// The link will not be polled each round any more.
    #[inline(always)]
    pub fn end_run(&mut self) {
        self.out().end_run();
    }

    /// A staging buffer was consumed: the sender learns of it at once when it is large, of several small ones together.
    fn count_staged(&mut self, len: usize) {
        let ends = self.out();
        ends.uncredited += 1;
        if len > PROMPT_CREDIT || ends.uncredited >= STAGED_CREDITS {
            ends.credit();
        }
    }

    /// Remembers that a frame found no room: [`Self::has_news`] tells when the peer has consumed something since.
    pub fn note_refusal(&mut self) {
        self.refused_at = self.out().producer.consumed();
    }

    /// True when a frame waits, or when the peer has made room that somebody `wants_room` waits for.
    pub fn has_news(&mut self, wants_room: bool) -> bool {
        if self.ends().consumer.peek().is_some() {
            return true;
        }
        wants_room
            && (self.out().producer.refresh().is_err() || self.out().producer.consumed() != self.refused_at)
    }

    /// True when the consumed count has lied.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// True when the peer publishes without a fence, and counts on our barrier.
    pub fn is_peer_unfenced(&self) -> bool {
        self.peer_order == Order::Barrier
    }

    /// True when nothing was delivered since this was last asked.
    pub fn was_silent(&mut self) -> bool {
        let taken = self.ends().consumer.taken();
        let before = std::mem::replace(&mut self.taken_before, taken);
        before == self.taken_before
    }

    /// Where the next frame of the peer will be.
    pub fn lookout(&self) -> Lookout {
        self.ends().consumer.lookout()
    }

    /// The peer's segment.
    pub fn segment(&self) -> &Arc<PeerSegment> {
        &self.segment
    }

    /// The peer's heap, once it came.
    pub fn heap(&self) -> Option<&Arc<PeerHeap>> {
        self.heap.as_ref()
    }

    /// Takes the peer's heap.
    pub fn set_heap(&mut self, heap: PeerHeap) {
        self.heap = Some(Arc::new(heap));
    }

    /// Our agreement with the peer on its region `number`, whose record begins with `live`.
    pub fn watch(&self, number: u64, live: &AtomicU64) -> Watch {
        let keep: Arc<PeerSegment> = self.segment.clone();
        // SAFETY: `live` lies in the peer's segment, which `keep` holds; the announcement in the own segment, which is mapped
        // as long as the rail, and the rail's windows are used no longer. Whoever has the rail is alone with it.
        unsafe { Watch::new(number, live, self.announced.as_ptr(), self.order, keep) }
    }

    /// Whether the peer is in the middle of an access to our region `number`. See [`Watch::is_inside`].
    pub fn is_peer_inside(&self, number: u64) -> bool {
        let words = self.segment.words(u64::from(self.peer_announced));
        words.is_some_and(|words| Watch::is_inside(&words[0], number))
    }

    /// Wake-ups given to the peer.
    pub fn rung(&self) -> u64 {
        // SAFETY: as in `out`.
        unsafe { self.lane.ends() }.rung
    }

    #[cold]
    fn give_up(&mut self) -> Posted {
        self.corrupt = true;
        Posted::Down
    }
}

/// Stores a payload, if there is one.
#[inline(always)]
fn store(payload: &Gather<'_>, to: &[AtomicU64]) {
    if !payload.is_empty() {
        payload.store_words(to);
    }
}

fn store_all(to: &[AtomicU64], from: &[u64]) {
    to.iter().zip(from).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
}

/// A sender publishes without a fence only if barriers interrupt it, and the receiver runs them.
fn order_of(sender: &LinkOffer, receiver: &LinkOffer) -> Order {
    if sender.registered && receiver.has_barrier {
        Order::Barrier
    } else {
        Order::Fence
    }
}
