//! What wakes a sleeper when segments that were held back may go: a timer.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use gridnet_core::rail::Armed;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::watch::{Watched, Watcher, READING};

/// No sleep is shorter: it would take as long to fall asleep.
const SHORTEST: Duration = Duration::from_micros(20);
/// Whatever was estimated, somebody looks again after so long.
const LONGEST: Duration = Duration::from_millis(100);

/// What is held back, and the bell for it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// In which round of polling something was held back, and for about how long.
    held: Option<(u32, Duration)>,
    bell: Option<Bell>,
}

impl Alarm {
    /// Segments are held back in this round, for about so long. To be said in each round in which it is so: what was said in
    /// earlier ones counts no more.
    pub(crate) fn note(&mut self, round: u32, span: Duration) {
        let before = self.held.filter(|(of, _)| *of == round);
        self.held = Some((round, before.map_or(span, |(_, before)| before.min(span))));
    }

    /// Has a sleeper woken when what is held back in this round may go. Busy where there is no timer to be had.
    pub(crate) fn set(&mut self, round: u32, watcher: &mut Watcher) -> Armed {
        let Some(span) = self.take_span(round) else { return Armed::Yes };
        if self.bell.is_none() {
            self.bell = Bell::new();
        }
        let Some(bell) = &mut self.bell else { return Armed::Busy };
        let now = Instant::now();
        if bell.rings_within(span, now) || bell.ring_after(span, now) && bell.watch(watcher) {
            Armed::Yes
        } else {
            Armed::Busy
        }
    }

    /// The bell has rung.
    pub(crate) fn rang(&mut self) {
        if let Some(bell) = &mut self.bell {
            (bell.is_watched, bell.rings_at) = (false, None);
        }
    }

    fn take_span(&mut self, round: u32) -> Option<Duration> {
        self.held.take().filter(|(of, _)| *of == round).map(|(_, span)| span)
    }
}

/// See the [module](self).
#[derive(Debug)]
struct Bell {
    timer: TimerFd,
    /// Something waits for the timer.
    is_watched: bool,
    /// When it rings.
    rings_at: Option<Instant>,
}

impl Bell {
    /// A bell that nobody rings; none when the system has no descriptor for it.
    fn new() -> Option<Bell> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
        Some(Bell { timer, is_watched: false, rings_at: None })
    }

    /// Rings once after `span`, and not before; false when the system refuses.
    fn ring_after(&mut self, span: Duration, now: Instant) -> bool {
        let span = span.clamp(SHORTEST, LONGEST);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(span));
        let is_set = self.timer.set(expiration, TimerSetTimeFlags::empty()).is_ok();
        self.rings_at = is_set.then_some(now + span);
        is_set
    }

    /// Whether it is set already, and somebody waits for it.
    fn rings_within(&self, span: Duration, now: Instant) -> bool {
        self.is_watched && self.rings_at.is_some_and(|at| now < at && at <= now + span + SHORTEST)
    }

    fn watch(&mut self, watcher: &mut Watcher) -> bool {
        self.is_watched = self.is_watched || watcher.watch(self, Watched::Bell, READING).is_ok();
        self.is_watched
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Engine;

    #[test]
    fn it_rings_once_each_time_and_not_before() {
        for (engine, single) in [(Engine::IoUring, true), (Engine::Epoll, true)] {
            let Ok(mut watcher) = Watcher::open(engine, single) else {
                eprintln!("SKIPPED {engine:?}: the system does not allow io_uring");
                continue;
            };
            let mut alarm = Alarm::default();
            let mut ready = Vec::new();
            for span in [Duration::from_millis(2), Duration::ZERO, Duration::from_millis(2)] {
                let began = Instant::now();
                alarm.note(7, span);
                assert_eq!(alarm.set(7, &mut watcher), Armed::Yes);
                while ready.is_empty() {
                    watcher.submit();
                    watcher.collect(&mut ready);
                }
                assert!(began.elapsed() >= span, "{}", watcher.name());
                assert_eq!(std::mem::take(&mut ready), [Watched::Bell]);
                alarm.rang();
            }
        }
    }

    #[test]
    fn what_was_held_back_in_an_earlier_round_wakes_nobody() {
        let ms = Duration::from_millis;
        let mut alarm = Alarm::default();
        assert_eq!(alarm.take_span(0), None);
        alarm.note(1, ms(3));
        alarm.note(1, ms(5));
        assert_eq!(alarm.take_span(1), Some(ms(3)), "the first that may go");
        alarm.note(1, ms(3));
        alarm.note(2, ms(5));
        assert_eq!(alarm.take_span(2), Some(ms(5)));
        alarm.note(2, ms(5));
        assert_eq!(alarm.take_span(3), None);
    }

    #[test]
    fn a_bell_that_is_set_is_not_set_again() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut bell = Bell::new().unwrap();
        assert!(bell.ring_after(ms(50), now));
        assert!(!bell.rings_within(ms(50), now), "nobody waits for it");
        bell.is_watched = true;
        assert!(bell.rings_within(ms(50), now) && bell.rings_within(ms(20), now + ms(30)));
        assert!(!bell.rings_within(ms(20), now), "it would ring too late");
        assert!(!bell.rings_within(ms(20), now + ms(50)), "it has rung");
    }
}
