//! Who of several threads that sleep looks after the rails.
//!
//! Each has a bell of its own, which is rung by whoever finds completions for its queue. One of them, the *sentry*, is woken by the rails as
//! well, so that a message wakes one thread, and not all. When it leaves, another one is called to take its place.
//!
//! Peers that ring take longer to send, and arming the rails costs a barrier: too much for each call of a thread that comes and goes while
//! others sleep. As long as such a thread has found something a moment ago, and so polls again soon, the sentry *dozes*: the rails are not
//! armed, and it looks for itself after a while. What comes when nobody polls is found that much later.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::{Armed, Refusal};
use nix::sys::eventfd::EventFd;

use crate::shared::{new_bell, Guard, Inner, Shared};
use crate::sleep::{sleep_on, HandleCopies};

/// A thread that finds no descriptors to sleep on looks again after so long.
const NAP: Duration = Duration::from_millis(1);
/// The first doze: as long as a thread spins, so that it is no worse for who waits than one that came too late;
const SHORT_DOZE: Duration = Duration::from_micros(50);
/// each next one is twice as long, up to this: some wake-ups in a thousand microseconds cost a hundredth of a core.
const LONG_DOZE: Duration = Duration::from_micros(800);
/// Longest sleep in one go: bounds what a wake-up lost by the kernel, or by a peer that misbehaves, can cost.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Threads inside of waits.
#[derive(Debug, Default)]
pub(crate) struct Company {
    /// Those that poll.
    pub(crate) spinning: u32,
    sleepers: Vec<Sleeper>,
    sentry: Option<(Arc<EventFd>, Duty)>,
    /// Bells of those who slept: a wait takes no descriptor that one before it has not had.
    spare_bells: Vec<Arc<EventFd>>,
    /// Waits that have ended by polling,
    finds: u64,
    /// and whose the last of them was.
    finder: usize,
    /// What `finds` was when a sentry last looked.
    finds_seen: u64,
}

/// A thread that sleeps outside the lock.
#[derive(Debug)]
struct Sleeper {
    /// The queue it waits for; none for the progress thread.
    cq: Option<CqId>,
    bell: Arc<EventFd>,
}

/// What a sentry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// Looks again soon.
    Dozes,
    /// Is woken by the rails.
    Armed,
    /// Was rung for to become it, or to arm again.
    Called,
}

impl Company {
    #[inline(always)]
    pub(crate) fn has_sleepers(&self) -> bool {
        !self.sleepers.is_empty()
    }

    /// The calling thread has found by polling what it waited for.
    pub(crate) fn note_find(&mut self) {
        self.finds = self.finds.wrapping_add(1);
        self.finder = this_thread();
    }

    /// Whether another thread polls, or has found something since a sentry last looked.
    fn is_busy(&mut self) -> bool {
        let found = std::mem::replace(&mut self.finds_seen, self.finds) != self.finds;
        self.spinning > 0 || found && self.finder != this_thread()
    }

    fn is_sentry(&self, bell: &Arc<EventFd>) -> bool {
        self.sentry.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, bell))
    }

    /// What a thread with this bell has to do for the rails while it sleeps: nothing when another does it. `dozed` so many times.
    fn duty(&mut self, dozed: u32) -> Option<Duty> {
        let is_busy = self.is_busy();
        match self.sentry {
            Some((_, Duty::Armed | Duty::Called)) => None,
            // Who has just come sleeps less long than the one that dozes.
            Some((_, Duty::Dozes)) if dozed > 0 => None,
            _ if is_busy => Some(Duty::Dozes),
            _ => Some(Duty::Armed),
        }
    }

    /// Sees to it that somebody looks after the rails for those who sleep.
    fn call_sentry(&mut self, is_armed: bool) {
        let called = match &self.sentry {
            Some((bell, Duty::Armed)) if !is_armed => bell.clone(),
            // Who polls comes by here when it leaves.
            None if self.spinning == 0 => match self.sleepers.first() {
                Some(first) => first.bell.clone(),
                None => return,
            },
            _ => return,
        };
        let _ = called.write(1);
        self.sentry = Some((called, Duty::Called));
    }

    fn leave(&mut self, bell: &Arc<EventFd>) {
        self.sleepers.retain(|sleeper| !Arc::ptr_eq(&sleeper.bell, bell));
        if self.is_sentry(bell) {
            self.sentry = None;
        }
    }
}

impl Shared {
    /// Sleeps until something happens to a rail, to `cq`, or to the `extra` descriptor.
    pub(crate) fn sleep<'a>(
        &'a self,
        mut guard: Guard<'a>,
        cq: Option<CqId>,
        end: Option<Instant>,
        extra: Option<BorrowedFd<'_>>,
    ) -> Result<Guard<'a>, Error> {
        if self.locked {
            return self.sleep_among_others(guard, cq, end, extra);
        }
        if guard.arm() == Armed::Busy || cq.is_some_and(|cq| guard.completions(cq) > 0) {
            guard.disarm();
            return Ok(guard);
        }
        let span = guard.longest_sleep(end);
        guard.counters.sleeps += 1;
        probe::probe!(gridnet, sleep, span.as_nanos());
        guard.sleep_on_rails(Some(span), extra);
        probe::probe!(gridnet, wake);
        guard.disarm();
        guard.maintain();
        Ok(guard)
    }

    /// As [`Self::sleep`], where other threads may come in meanwhile.
    fn sleep_among_others<'a>(
        &'a self,
        mut guard: Guard<'a>,
        cq: Option<CqId>,
        end: Option<Instant>,
        extra: Option<BorrowedFd<'_>>,
    ) -> Result<Guard<'a>, Error> {
        let (Ok(bell), Ok(handles)) = (guard.take_bell(), guard.watched_handles()) else {
            // There are no descriptors left: that ends no wait.
            return self.nap(guard, end, extra);
        };
        let mut dozed = 0;
        loop {
            let duty = guard.inner().company.duty(dozed);
            if !guard.is_quiet(cq, duty) {
                guard.inner().company.spare_bells.push(bell);
                return Ok(guard);
            }
            let span = match duty {
                Some(Duty::Dozes) => guard.longest_sleep(end).min((SHORT_DOZE * (1 << dozed)).min(LONG_DOZE)),
                _ => guard.longest_sleep(end),
            };
            probe::probe!(gridnet, sleep, span.as_nanos());
            guard.counters.sleeps += 1;
            let company = &mut guard.inner().company;
            company.sleepers.push(Sleeper { cq, bell: bell.clone() });
            if let Some(duty) = duty {
                company.sentry = Some((bell.clone(), duty));
            }
            drop(guard);
            let rails = handles.files().filter(|_| duty == Some(Duty::Armed));
            let woken = sleep_on(rails.chain([bell.as_fd()]).chain(extra), Some(span));
            probe::probe!(gridnet, wake);
            guard = self.enter()?;
            guard.inner().company.leave(&bell);
            if duty == Some(Duty::Armed) {
                guard.disarm();
            }
            let is_over = end.is_some_and(|end| Instant::now() >= end);
            if woken || is_over || duty != Some(Duty::Dozes) {
                guard.maintain();
                guard.inner().company.spare_bells.push(bell);
                return Ok(guard);
            }
            dozed = (dozed + 1).min(LONG_DOZE.as_micros().ilog2());
        }
    }

    /// Sleeps for a moment on nothing but the clock and `extra`, while others may come in.
    fn nap<'a>(
        &'a self,
        guard: Guard<'a>,
        end: Option<Instant>,
        extra: Option<BorrowedFd<'_>>,
    ) -> Result<Guard<'a>, Error> {
        let span = guard.longest_sleep(end).min(NAP);
        drop(guard);
        sleep_on(extra.into_iter(), Some(span));
        probe::probe!(gridnet, wake);
        let mut guard = self.enter()?;
        guard.maintain();
        Ok(guard)
    }
}

impl Guard<'_> {
    /// Whether there is nothing to be done before sleep; the rails are armed then if that is the duty.
    fn is_quiet(&mut self, cq: Option<CqId>, duty: Option<Duty>) -> bool {
        let happened = match duty {
            Some(Duty::Armed) => self.arm() == Armed::Busy,
            _ => self.maintain() + self.engine.progress() > 0,
        };
        let is_quiet = !happened && cq.is_none_or(|cq| self.completions(cq) == 0);
        if !is_quiet && duty == Some(Duty::Armed) {
            self.disarm();
        }
        is_quiet
    }

    /// Until `end`, and until timers have to be looked at.
    fn longest_sleep(&self, end: Option<Instant>) -> Duration {
        let until_end = end.map(|end| end.saturating_duration_since(Instant::now()));
        [until_end, self.timer()].into_iter().flatten().fold(LONGEST_SLEEP, Duration::min)
    }

    /// A bell that is quiet.
    fn take_bell(&mut self) -> Result<Arc<EventFd>, Error> {
        let Some(bell) = self.inner().company.spare_bells.pop() else { return Ok(Arc::new(new_bell()?)) };
        // An error says that it is quiet.
        let _ = bell.read();
        Ok(bell)
    }

    /// Copies of what the sentry has to watch: made once, and again when the rails have others.
    fn watched_handles(&mut self) -> Result<Arc<HandleCopies>, Refusal> {
        let Inner { fabric, handles, .. } = self.inner();
        match handles {
            Some(copies) if copies.are_of(fabric) => Ok(copies.clone()),
            _ => Ok(handles.insert(Arc::new(HandleCopies::new(fabric)?)).clone()),
        }
    }

    /// Rings for sleepers whose queues have filled, and sees to a sentry for them.
    #[cold]
    pub(crate) fn serve_sleepers(&mut self) {
        let Inner { fabric, company, .. } = self.inner();
        for sleeper in &company.sleepers {
            if sleeper.cq.is_some_and(|cq| fabric.completions(cq) > 0) {
                let _ = sleeper.bell.write(1);
            }
        }
        company.call_sentry(fabric.is_armed);
    }
}

/// Tells threads apart that live at the same time.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}
