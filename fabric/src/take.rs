//! How completions are taken: those that are there, those that come the short way, and those that polling brings.

use std::ptr::NonNull;

use gridnet_core::completion::Completion;
use gridnet_core::endpoint::{CqId, Quick};

use crate::config::WaitMode;
use crate::fabric::Fabric;

/// Polls between two looks at the clock, which costs as much as several polls.
const POLLS_PER_CLOCK: u32 = 64;
/// The same where whoever we wait for needs this core: polling only keeps it from answering.
const POLLS_ON_ONE_CORE: u32 = 2;

/// completions that such a call takes;
const MOST_AT_ONCE: usize = 64;
/// Looks at the short way for one round of polling, in a call that waits.
const LOOKS_PER_ROUND: u32 = 8;

impl Fabric {
    /// Takes completions, polling once when there is none.
    #[inline(always)]
    pub fn take(&mut self, cq: CqId, out: impl FnMut(Completion) -> bool) -> usize {
        if self.completions(cq) == 0 {
            self.poll_round();
        }
        if !self.descriptors.is_empty() {
            self.wake_up(cq);
        }
        self.engine.take_completions(cq, out)
    }

    /// Polls that a waiting call does before it looks at the clock, or sleeps.
    #[inline(always)]
    pub fn rounds_before_clock(&self) -> u32 {
        match self.policy.mode {
            WaitMode::Block => 1,
            _ if self.shares_core => POLLS_ON_ONE_CORE,
            _ => POLLS_PER_CLOCK,
        }
    }

    /// Takes at most `room` completions to `out` that are there, or come the short way, after at most `looks` for the first.
    /// Returns how many, and how that look ended.
    ///
    /// # Safety
    /// `out` is valid for writes of `room` entries.
    #[inline(always)]
    pub unsafe fn take_quick(
        &mut self,
        cq: CqId,
        out: NonNull<Completion>,
        room: usize,
        looks: u32,
    ) -> (usize, Quick) {
        if self.quick_left == 0 {
            return (0, Quick::Poll);
        }
        // SAFETY: the caller's promise.
        let quick = unsafe { self.take_one(cq, out, looks) };
        if !quick.is_written() {
            return (0, quick);
        }
        if room == 1 {
            return (1, quick);
        }
        // SAFETY: the caller's promise.
        (unsafe { self.take_more(cq, out, room) }, quick)
    }

    /// The first of `room` entries is written: takes what follows. Returns how many are written then.
    ///
    /// # Safety
    /// As [`Self::take_quick`].
    #[inline(never)]
    unsafe fn take_more(&mut self, cq: CqId, out: NonNull<Completion>, room: usize) -> usize {
        let mut taken = 1;
        while taken < room.min(MOST_AT_ONCE) && self.quick_left > 0 {
            // SAFETY: the caller's promise; fewer than `room` were written.
            if !unsafe { self.take_one(cq, out.add(taken), 1) }.is_written() {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// Takes one completion the short way, and counts it against the turn of the others if it came out of a slot.
    ///
    /// # Safety
    /// `out` is valid for a write.
    #[inline(always)]
    unsafe fn take_one(&mut self, cq: CqId, out: NonNull<Completion>, looks: u32) -> Quick {
        // SAFETY: the caller's promise.
        let quick = unsafe { self.engine.take_quick(cq, out, looks) };
        if quick == Quick::Taken {
            self.quick_left -= 1;
            self.quick_takes += 1;
        }
        quick
    }

    /// As [`Self::take_quick`]; polls for the first at most `rounds` times.
    ///
    /// # Safety
    /// `out` is valid for writes of `room` entries.
    #[inline(always)]
    pub unsafe fn take_into(
        &mut self,
        cq: CqId,
        out: NonNull<Completion>,
        room: usize,
        rounds: u32,
    ) -> usize {
        let Some(queue) = self.engine.cq(cq) else { return 0 };
        queue.armed = false;
        if !queue.is_empty() {
            // SAFETY: the caller's promise.
            return unsafe { queue.pop_into(out.as_ptr(), room) };
        }
        // SAFETY: the caller's promise; the lending ends below.
        unsafe { queue.lend(out.as_ptr(), room) };
        let mut taken = 0;
        for round in 0..rounds {
            if round % LOOKS_PER_ROUND != 0 {
                // SAFETY: the caller's promise. The queue is empty, and so is what it was lent.
                let (quickly, quick) = unsafe { self.take_quick(cq, out, room, 1) };
                taken = quickly;
                if taken > 0 {
                    break;
                }
                if quick == Quick::Nothing {
                    continue;
                }
            }
            // Also a round that says it has done nothing may have ended operations: those of a peer that was cut off.
            self.poll_round();
            let Some(queue) = self.engine.cq(cq) else { return 0 };
            if queue.lent_room() < room {
                return room - queue.end_lending();
            }
        }
        match self.engine.cq(cq) {
            Some(queue) if taken == 0 => room - queue.end_lending(),
            Some(queue) => {
                queue.end_lending();
                taken
            }
            None => 0,
        }
    }

    /// Whoever takes from a queue does not sleep on its descriptor.
    #[cold]
    fn wake_up(&mut self, cq: CqId) {
        if let Some(queue) = self.engine.cq(cq) {
            queue.armed = false;
        }
    }
}
