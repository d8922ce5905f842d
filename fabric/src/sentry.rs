//! How several threads sleep: one of them looks after the rails, [`Company`] says which.
//!
//! Each has a bell of its own, which is rung by whoever finds completions for its queue, so that a message wakes the thread that is meant,
//! and at most one beside it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::company::{Duty, Place};
use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::{Armed, Refusal};
use gridnet_core::time::Time;
use nix::sys::eventfd::EventFd;

use crate::shared::{new_bell, Guard, Inner, Shared};
use crate::sleep::{sleep_on, HandleCopies};

/// A thread that finds no descriptors to sleep on looks again after so long.
const NAP: Duration = Duration::from_millis(1);
/// The first doze: as long as a thread spins, so that it is no worse for who waits than one that came too late;
const SHORT_DOZE: Duration = Duration::from_micros(50);
/// all others: what comes while those compute who found something a moment ago waits for two of them at most.
const LONG_DOZE: Duration = Duration::from_micros(150);
/// Longest sleep in one go: bounds what a wake-up lost by the kernel, or by a peer that misbehaves, can cost.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

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
        let span = guard.span_until(guard.wake_time(end, Duty::Watch, false));
        guard.counters.sleeps += 1;
        probe::probe!(gridnet, sleep, span.as_nanos());
        guard.sleep_on_rails(span, extra);
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
        // The bell comes last: a place that is taken is to be given back.
        let handles = guard.watched_handles().ok();
        let Some((handles, (place, bell))) =
            handles.and_then(|handles| Some((handles, guard.take_bell().ok()?)))
        else {
            // There are no descriptors left: that ends no wait.
            return self.nap(guard, cq, end, extra);
        };
        let mut has_dozed = false;
        loop {
            let duty = guard.inner().company.duty(this_thread(), has_dozed);
            if !guard.is_quiet(cq, duty) {
                guard.inner().company.give_back(place);
                return Ok(guard);
            }
            let until = guard.wake_time(end, duty, has_dozed);
            let span = guard.span_until(until);
            guard.counters.sleeps += 1;
            probe::probe!(gridnet, sleep, span.as_nanos());
            guard.inner().company.fall_asleep(place, cq, duty, until);
            drop(guard);
            let rails = handles.files().filter(|_| duty == Duty::Watch);
            let woken = sleep_on(rails.chain([bell.as_fd()]).chain(extra), span);
            probe::probe!(gridnet, wake);
            guard = self.enter()?;
            guard.inner().company.wake(place);
            if duty == Duty::Watch {
                guard.disarm();
            }
            guard.maintain();
            let is_over = end.is_some_and(|end| Instant::now() >= end);
            if woken || is_over || duty != Duty::Doze {
                guard.inner().company.give_back(place);
                return Ok(guard);
            }
            has_dozed = true;
        }
    }

    /// Sleeps for a moment on nothing but the clock and `extra`, while others may come in.
    fn nap<'a>(
        &'a self,
        mut guard: Guard<'a>,
        cq: Option<CqId>,
        end: Option<Instant>,
        extra: Option<BorrowedFd<'_>>,
    ) -> Result<Guard<'a>, Error> {
        if !guard.is_quiet(cq, Duty::Nothing) {
            return Ok(guard);
        }
        let span = guard.span_until(guard.wake_time(end, Duty::Watch, false)).min(NAP);
        drop(guard);
        sleep_on(extra.into_iter(), span);
        probe::probe!(gridnet, wake);
        let mut guard = self.enter()?;
        guard.maintain();
        Ok(guard)
    }
}

impl Guard<'_> {
    /// Whether there is nothing to be done before sleep; the rails are armed then if that is the duty.
    fn is_quiet(&mut self, cq: Option<CqId>, duty: Duty) -> bool {
        let happened = match duty {
            Duty::Watch => self.arm() == Armed::Busy,
            Duty::Doze | Duty::Nothing => {
                if duty == Duty::Nothing && self.inner().company.polling() == 0 {
                    self.rest();
                }
                self.maintain() + self.engine.progress() > 0
            }
        };
        let is_quiet = !happened && cq.is_none_or(|cq| self.completions(cq) == 0);
        if !is_quiet && duty == Duty::Watch {
            self.disarm();
        }
        is_quiet
    }

    /// Until when a thread with this duty may sleep that wants to wait until `end`: who watches the rails looks at their timers, too.
    fn wake_time(&self, end: Option<Instant>, duty: Duty, has_dozed: bool) -> Time {
        let own = match duty {
            Duty::Watch => self.due(),
            Duty::Doze if has_dozed => Some(self.now_and(LONG_DOZE)),
            Duty::Doze => Some(self.now_and(SHORT_DOZE)),
            Duty::Nothing => None,
        };
        let end = end.map(|end| self.time_of(end));
        own.into_iter().chain(end).fold(self.now_and(LONGEST_SLEEP), Time::min)
    }

    /// A place to sleep at, with its bell, which is quiet.
    fn take_bell(&mut self) -> Result<(Place, Arc<EventFd>), Error> {
        let Inner { company, bells, .. } = self.inner();
        let place = company.take_place();
        // Places are numbered one after the other.
        if place.index() >= bells.len() {
            match new_bell() {
                Ok(bell) => bells.push(Arc::new(bell)),
                Err(error) => {
                    company.forget(place);
                    return Err(error);
                }
            }
        }
        let bell = bells[place.index()].clone();
        // An error says that it is quiet.
        let _ = bell.read();
        Ok((place, bell))
    }

    /// Copies of what the sentry has to watch: made once, and again when the rails have others.
    fn watched_handles(&mut self) -> Result<Arc<HandleCopies>, Refusal> {
        let Inner { fabric, handles, .. } = self.inner();
        match handles {
            Some(copies) if copies.are_of(fabric) => Ok(copies.clone()),
            _ => Ok(handles.insert(Arc::new(HandleCopies::new(fabric)?)).clone()),
        }
    }

    /// Rings for sleepers whose queues have filled, and for one who has to look after the rails, if nobody does.
    #[cold]
    pub(crate) fn serve_sleepers(&mut self) {
        let Inner { fabric, company, bells, .. } = self.inner();
        for place in company.served(|cq| fabric.completions(cq) > 0) {
            let _ = bells[place.index()].write(1);
        }
        if let Some(place) = company.call(|| fabric.stays_armed(), || fabric.due()) {
            let _ = bells[place.index()].write(1);
        }
    }
}

/// Tells threads apart that live at the same time.
pub(crate) fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}
