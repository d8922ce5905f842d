//! How callers poll before they sleep.
//!
//! Alone on its core, a caller polls. Where whoever it waits for runs on that core, or other threads poll the same fabric, it offers the core
//! after some rounds (`sched_yield`): the next one has it within a microsecond, where sleep and a wake-up take several, and a wake-up would
//! again bring together what the scheduler parts. A core that was offered and did not come back soon is wanted by other work: then sleep is better
//! for a while, as who sleeps is served before who has offered.

use std::time::{Duration, Instant};

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;

use crate::config::WaitMode;
use crate::sentry::this_thread;
use crate::shared::{Guard, Shared};

/// Making a link takes longer than a message: so many times as long is spun meanwhile.
const CONNECTING_PATIENCE: u32 = 4;
/// Rounds that one of several threads polls before the next one has its turn: each of them drives all.
const ROUNDS_IN_COMPANY: u32 = 2;
/// A core that comes back later was given away for a time slice. Who is waited for needs less: it copies a mebibyte in a tenth of that.
const SLOW_OFFER: Duration = Duration::from_millis(1);
/// So long it is not offered then: a few time slices.
const NO_OFFERS: Duration = Duration::from_millis(20);

impl Guard<'_> {
    /// The first polls of a wait, before it looks at the clock, which costs half of a short one, and shows itself to others. Whether there is a
    /// completion.
    pub(crate) fn poll_at_first(&mut self, cq: CqId) -> bool {
        if self.policy.mode == WaitMode::Block {
            return false;
        }
        let rounds = self.rounds_in_turn(0);
        let found = self.poll_until(cq, rounds);
        if found {
            self.inner().company.note_find(this_thread());
        }
        found
    }

    /// Polls of one turn: few when others poll, too. `own` is 1 when the calling thread is counted among them.
    fn rounds_in_turn(&mut self, own: u32) -> u32 {
        match self.inner().company.polling() > own {
            true => ROUNDS_IN_COMPANY,
            false => self.rounds_before_clock(),
        }
    }
}

impl Shared {
    /// Polls until there is a completion, or until sleeping is better.
    pub(crate) fn spin<'a>(
        &'a self,
        mut guard: Guard<'a>,
        cq: CqId,
        end: Option<Instant>,
    ) -> Result<Guard<'a>, Error> {
        if guard.policy.mode == WaitMode::Block {
            return Ok(guard);
        }
        guard.inner().company.begin_polling();
        // An error says that the fabric cannot be used any more.
        let (mut guard, found) = self.spin_among_others(guard, cq, end)?;
        guard.inner().company.end_polling();
        if found {
            guard.inner().company.note_find(this_thread());
        }
        Ok(guard)
    }

    /// As [`Self::spin`]; also whether there is a completion.
    fn spin_among_others<'a>(
        &'a self,
        mut guard: Guard<'a>,
        cq: CqId,
        end: Option<Instant>,
    ) -> Result<(Guard<'a>, bool), Error> {
        let policy = guard.policy;
        let mut start = Instant::now();
        let mut events = guard.events();
        loop {
            let in_company = guard.inner().company.polling() > 1;
            let rounds = guard.rounds_in_turn(1);
            if guard.poll_until(cq, rounds) {
                return Ok((guard, true));
            }
            let now = Instant::now();
            let patience = if guard.engine.is_connecting() { CONNECTING_PATIENCE } else { 1 };
            if std::mem::replace(&mut events, guard.events()) != events {
                start = now;
            }
            let sleeps = policy.mode != WaitMode::Spin;
            guard.shares_core = sleeps && guard.engine.is_peer_on_this_core();
            let is_long = sleeps && now - start >= policy.spin * patience + guard.transfer_time();
            if is_long || end.is_some_and(|end| now >= end) {
                return Ok((guard, false));
            }
            let is_wanted = in_company || guard.shares_core;
            if is_wanted && sleeps && guard.no_offers_before.is_some_and(|time| now < time) {
                return Ok((guard, false));
            }
            guard = self.let_others(guard, is_wanted)?;
        }
    }

    /// Others have their turn with the fabric, and with the core if it `is_wanted`.
    fn let_others<'a>(&'a self, guard: Guard<'a>, is_wanted: bool) -> Result<Guard<'a>, Error> {
        if !is_wanted {
            return if self.locked { self.enter_again(guard) } else { Ok(guard) };
        }
        let offer = || {
            let before = Instant::now();
            std::thread::yield_now();
            before.elapsed() >= SLOW_OFFER
        };
        // Outside of the lock: who waits for it then does not take that for time that others had the core.
        let (mut guard, was_slow) = if self.locked {
            drop(guard);
            let was_slow = offer();
            (self.enter()?, was_slow)
        } else {
            (guard, offer())
        };
        if was_slow {
            guard.no_offers_before = Instant::now().checked_add(NO_OFFERS);
        }
        Ok(guard)
    }

    fn enter_again<'a>(&'a self, guard: Guard<'a>) -> Result<Guard<'a>, Error> {
        drop(guard);
        self.enter()
    }
}
