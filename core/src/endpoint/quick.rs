//! The short way in: a small message goes from its slot into the receive that waits for it, and its completion into the
//! program's array, past rail and queue.
//!
//! Only where nothing could tell the difference: the queue is empty, one link alone is in use, the next slot of it holds a
//! message without anything beside it but an immediate value, and the receive for that one reports to this queue. Else nothing has happened, and polling as usual sees the
//! same slot.

use std::ptr::NonNull;
use std::sync::Arc;

use super::op::{CqId, IovList, OpId};
use super::receive::received;
use super::state::State;
use super::Engine;
use crate::completion::Completion;
use crate::mem::{Gather, PeerBytes};
use crate::probes;
use crate::rail::Rail;
use crate::ring::lane::PREFETCH_AHEAD;
use crate::sync::Ordering;
use crate::wire::{Kind, FLAG_IMMEDIATE};

/// What came the short way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quick {
    /// The completion of a message out of its slot.
    Taken,
    /// A completion that waited in the queue.
    Waited,
    /// Nothing: the next slot of the link is empty.
    Nothing,
    /// There may be something, which polling has to take.
    Poll,
}

impl Quick {
    /// True when a completion was written.
    #[inline(always)]
    pub fn is_written(self) -> bool {
        matches!(self, Quick::Taken | Quick::Waited)
    }
}

impl<R: Rail> Engine<R> {
    /// Takes a completion of `cq` to `out`: one that waits, or that of a message that can be taken at once, after at most
    /// `looks` at its slot. No panic starts here.
    ///
    /// # Safety
    /// `out` is valid for a write.
    #[inline(always)]
    pub unsafe fn take_quick(&mut self, cq: CqId, out: NonNull<Completion>, looks: u32) -> Quick {
        // SAFETY: the caller's promise.
        unsafe { self.state.take_quick(cq, out, looks) }
    }

    /// Looks again which link messages are taken from directly; whether there is one.
    pub fn choose_favourite(&mut self) -> bool {
        let mut lanes = self.rails.iter().filter_map(R::favourite);
        let now = lanes.next().filter(|_| lanes.next().is_none());
        if now.map(Arc::as_ptr) != self.state.favourite.as_ref().map(Arc::as_ptr) {
            self.state.favourite = now.cloned();
        }
        self.state.favourite.is_some()
    }
}

impl State {
    /// See [`Engine::take_quick`]. A function of its own, since what surrounds it would need the same registers.
    ///
    /// # Safety
    /// `out` is valid for a write.
    #[inline(never)]
    unsafe fn take_quick(&mut self, cq: CqId, out: NonNull<Completion>, mut looks: u32) -> Quick {
        let Some(queue) = self.cqs.get_mut(cq) else { return Quick::Poll };
        // Whoever takes from a queue does not sleep on its descriptor.
        queue.armed = false;
        if !queue.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { queue.pop_into(out.as_ptr(), 1) };
            return Quick::Waited;
        }
        let Some(lane) = &self.favourite else { return Quick::Poll };
        // SAFETY: whoever has the engine is alone with the fabric, and nothing below asks for the ends again.
        let ends = unsafe { lane.ends() };
        while !ends.has_frame() {
            looks = looks.saturating_sub(1);
            if looks == 0 {
                ends.run = 0;
                // Polling tells the sender which of its buffers are free.
                return if ends.uncredited > 0 { Quick::Poll } else { Quick::Nothing };
            }
        }
        let Some((ready, peer, cells)) = ends.peek() else { return Quick::Poll };
        let plain = ready.plain_len(Kind::Eager as u8);
        let with_immediate = || ready.flagged_len(Kind::Eager as u8, FLAG_IMMEDIATE);
        let Some(len) = plain.or_else(with_immediate) else { return Quick::Poll };
        let tag = ready.word();
        // Only looked at: what makes a receive narrower happens when it is taken, with what the slot says then.
        let Some(found) = self.posted.first_plain(peer, tag) else { return Quick::Poll };
        let Some(receive) = found.receive() else { return Quick::Poll };
        let IovList::One(iov) = &receive.iov else { return Quick::Poll };
        if receive.cq != cq {
            return Quick::Poll;
        }
        probes::message_matched(peer, tag, len as u64);
        let (immediate, copied) = if plain.is_some() {
            (None, PeerBytes::Words(ready.body(), len).copy_to(&Gather::one(iov)))
        } else {
            let [first, rest @ ..] = ready.body();
            let immediate = first.load(Ordering::Relaxed);
            (Some(immediate), PeerBytes::Words(rest, len).copy_to(&Gather::one(iov)))
        };
        let op = OpId::Receive(found.key()).to_bits();
        let done = received(receive.context, op, (peer, tag, immediate), len, copied);
        // SAFETY: the caller's promise.
        unsafe { out.write(done) };
        probes::operation_completed(done.context, done.status, done.length);
        queue.unreserve();
        self.pace.note_small();
        cells.messages_received.add(1);
        cells.bytes_received.add(len as u64);
        // One piece of memory: nothing to drop.
        std::mem::forget(found.take());
        let core = ready.header().core;
        if ends.run > 0 {
            ends.consumer.prefetch_ahead(PREFETCH_AHEAD);
        }
        ends.peer_core = core;
        ends.consume();
        Quick::Taken
    }
}
