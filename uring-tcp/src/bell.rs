//! What wakes a sleeper when segments that were held back may go: a timer.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// No sleep is shorter: it would take as long to fall asleep.
const SHORTEST: Duration = Duration::from_micros(20);
/// Whatever was estimated, somebody looks again after so long.
const LONGEST: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Bell {
    timer: TimerFd,
    /// Something waits for the timer.
    pub(crate) is_watched: bool,
}

impl Bell {
    /// A bell that nobody rings; none when the system has no descriptor for it.
    pub(crate) fn new() -> Option<Bell> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
        Some(Bell { timer, is_watched: false })
    }

    /// Rings once after `span`, and not before; false when the system refuses.
    pub(crate) fn ring_after(&self, span: Duration) -> bool {
        let span = TimeSpec::from_duration(span.clamp(SHORTEST, LONGEST));
        self.timer.set(Expiration::OneShot(span), TimerSetTimeFlags::empty()).is_ok()
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
    use crate::watch::{Watched, Watcher, READING};
    use std::time::Instant;

    #[test]
    fn it_rings_once_each_time_and_not_before() {
        for (engine, single) in [(Engine::IoUring, true), (Engine::Epoll, true)] {
            let Ok(mut watcher) = Watcher::open(engine, single) else {
                eprintln!("SKIPPED {engine:?}: the system does not allow io_uring");
                continue;
            };
            let bell = Bell::new().unwrap();
            let mut ready = Vec::new();
            for span in [Duration::from_millis(2), Duration::ZERO, Duration::from_millis(2)] {
                let began = Instant::now();
                assert!(bell.ring_after(span));
                watcher.watch(&bell, Watched::Bell, READING).unwrap();
                while ready.is_empty() {
                    watcher.submit();
                    watcher.collect(&mut ready);
                }
                assert!(began.elapsed() >= span, "{}", watcher.name());
                assert_eq!(std::mem::take(&mut ready), [Watched::Bell]);
            }
        }
    }
}
