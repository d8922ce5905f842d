//! Who sends what has waited: a thread, for the case that the program does not call again.
//!
//! Of several small messages between two rounds of polling the first is sent at once, unless there were several before as well; the
//! others wait for the next round, or until there are enough: a call to the kernel costs as much as some hundred frames. A program need not poll for a long time, though.
//! So connections on which something waits are put into a list, and the thread looks through it every [`LINGER`]. It starts once
//! [`EARLY`] messages were to wait, so that nobody waits for it who only connects, and sleeps while none waits. All that it touches is behind the lock of a connection's [`Line`].

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow};

use crate::line::Line;

/// How long a message waits for others: much longer than polling programs take between two rounds, and not long for all else.
const LINGER: Duration = Duration::from_micros(100);
/// The same while the program has sent by itself what was looked at: each look takes some microseconds of a core.
const LONG_LINGER: Duration = Duration::from_micros(400);
/// Looks in vain before the thread sleeps until it is woken, which costs the sender a call.
const PATIENCE: u32 = 50;

/// Messages that are sent by themselves instead of waiting, before there is a thread.
const EARLY: u32 = 64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Courier {
    /// Messages that were to wait before there was a thread.
    early: u32,
    shared: Option<Arc<Shared>>,
    thread: Option<JoinHandle<()>>,
    /// There is no thread to be had: nothing may wait.
    is_absent: bool,
}

#[derive(Debug, Default)]
struct Shared {
    list: Mutex<List>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct List {
    lines: VecDeque<Arc<Line>>,
    is_asleep: bool,
    has_ended: bool,
}

impl Shared {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Courier {
    /// Has the line looked at some time soon; false when there is nobody who could.
    pub(crate) fn take(&mut self, line: &Arc<Line>) -> bool {
        if self.thread.is_none() {
            self.early += 1;
            if self.early <= EARLY {
                return false;
            }
            self.early = EARLY;
            self.start();
        }
        let Some(shared) = &self.shared else { return false };
        if !line.must_be_listed() {
            return true;
        }
        let mut list = shared.list();
        list.lines.push_back(Arc::clone(line));
        let is_asleep = std::mem::replace(&mut list.is_asleep, false);
        drop(list);
        if is_asleep {
            shared.bell.notify_one();
        }
        true
    }

    #[cold]
    fn start(&mut self) {
        if self.is_absent {
            return;
        }
        let shared = Arc::new(Shared::default());
        let heard = Arc::clone(&shared);
        // Signals are for the program's threads: this one is born with all of them blocked.
        let mut before = SigSet::empty();
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        let spawned = std::thread::Builder::new().name("gridnet-tcp".into()).spawn(move || run(&heard));
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        match spawned {
            Ok(thread) => (self.shared, self.thread) = (Some(shared), Some(thread)),
            Err(e) => {
                tracing::warn!(reason = %e, "tcp has no thread: each message is sent by itself");
                self.is_absent = true;
            }
        }
    }

    /// Leaves the thread to the process that this one was forked from.
    pub(crate) fn leave(&mut self) {
        (self.shared, self.thread) = (None, None);
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        let (Some(shared), Some(thread)) = (self.shared.take(), self.thread.take()) else { return };
        shared.list().has_ended = true;
        shared.bell.notify_one();
        let _ = thread.join();
    }
}

fn run(shared: &Shared) {
    let mut idle = 0;
    let mut linger = LINGER;
    loop {
        std::thread::sleep(linger);
        let mut list = shared.list();
        if list.lines.is_empty() {
            idle += 1;
            if idle > PATIENCE && !list.has_ended {
                list.is_asleep = true;
                list = shared
                    .bell
                    .wait_while(list, |list| list.lines.is_empty() && !list.has_ended)
                    .unwrap_or_else(PoisonError::into_inner);
                list.is_asleep = false;
                idle = 0;
                linger = LINGER;
            }
        } else {
            idle = 0;
            let lines = std::mem::take(&mut list.lines);
            drop(list);
            let sent = lines.iter().filter(|line| line.deliver()).count();
            linger = if sent > 0 { LINGER } else { (linger * 2).min(LONG_LINGER) };
            list = shared.list();
        }
        if list.has_ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;
    use crate::out::Out;
    use crate::socket::pair;

    fn line() -> Arc<Line> {
        Arc::new(Line::new(pair().0, Out::new(Window { bytes: 1 << 20, frames: 64 }, true)))
    }

    #[test]
    fn the_thread_starts_when_it_pays() {
        let (mut courier, line) = (Courier::default(), line());
        for _ in 0..EARLY {
            assert!(!courier.take(&line) && courier.thread.is_none());
        }
        assert!(courier.take(&line) && courier.thread.is_some());
    }

    #[test]
    fn nothing_waits_for_a_thread_that_is_not_to_be_had() {
        let mut courier = Courier::default();
        courier.is_absent = true;
        let line = line();
        assert!((0..2 * EARLY).all(|_| !courier.take(&line)));
    }
}
