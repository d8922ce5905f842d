//! Lines within the host, for those who poll: what has come over one is taken by whoever looks first.
//!
//! While a program polls all the time, it takes everything, and the thread of the member is not woken for what comes: it would only take
//! the core from one who polls. That thread looks now and then whether the program still polls ([`look`]), and is woken again as soon as
//! it does not, at once where the program says that it goes to sleep ([`Member::rest`]). Who is to be woken again is woken for what is
//! there already: so nothing waits for longer than until that look.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::runtime::Handle;
use tokio::sync::{watch, Notify};
use tokio::time::sleep;

use super::direct::Direct;
use crate::member::state::Shared;
use crate::member::Member;

/// Lines that are looked at in one turn.
const AT_A_TIME: usize = 8;
/// Who has polled for so long goes on with it.
const STEADY: Duration = Duration::from_millis(1);
/// Who has not polled for so long does something else.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked whether the program still polls.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// See the [module](self).
pub(in crate::member) struct Attended {
    /// Watches all of them; none where the system gives none.
    epoll: OnceLock<Option<Epoll>>,
    /// Those that stand.
    lines: Mutex<Vec<Arc<Direct>>>,
    /// How many, for those who look often.
    count: AtomicUsize,
    /// The process that has them.
    process: OnceLock<u32>,
    polls: Polls,
    /// The program takes everything, and the thread of the member is not woken. Changed with `lines` only.
    is_left: AtomicBool,
    /// Has just been left to it.
    left: Notify,
    /// Those who poll have asked or answered something that is to be looked after.
    has_said: AtomicBool,
}

/// How somebody polls. Times are in microseconds.
struct Polls {
    start: Instant,
    /// When it was last,
    last: AtomicU64,
    /// and since when without a pause: [`Polls::NOT`] after a rest.
    since: AtomicU64,
}

/// What that means for the thread of the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The program polls all the time.
    Steady,
    /// It may be that it does.
    New,
    /// It has done something else for a while.
    Paused,
}

impl Polls {
    const NOT: u64 = u64::MAX;

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX - 1)
    }

    // Relaxed, all of them: hints. Of those who poll there is one at a time.
    fn poll(&self, now: Instant) -> Pace {
        let now = self.at(now);
        let (last, since) = (self.last.load(Ordering::Relaxed), self.since.load(Ordering::Relaxed));
        self.last.store(now, Ordering::Relaxed);
        let is_paused = is_over(last, now, PAUSE);
        if is_paused || since == Polls::NOT {
            self.since.store(now, Ordering::Relaxed);
            return if is_paused { Pace::Paused } else { Pace::New };
        }
        if is_over(since, now, STEADY) {
            Pace::Steady
        } else {
            Pace::New
        }
    }

    fn rest(&self) {
        self.since.store(Polls::NOT, Ordering::Relaxed);
    }

    /// Whether nobody has polled for a while.
    fn is_paused(&self, now: Instant) -> bool {
        is_over(self.last.load(Ordering::Relaxed), self.at(now), PAUSE)
    }
}

fn is_over(since: u64, now: u64, span: Duration) -> bool {
    u128::from(now.saturating_sub(since)) >= span.as_micros()
}

impl Attended {
    pub(super) fn new() -> Attended {
        Attended {
            epoll: OnceLock::new(),
            lines: Mutex::default(),
            count: AtomicUsize::new(0),
            process: OnceLock::new(),
            polls: Polls {
                start: Instant::now(),
                last: AtomicU64::new(0),
                since: AtomicU64::new(Polls::NOT),
            },
            is_left: AtomicBool::new(false),
            left: Notify::new(),
            has_said: AtomicBool::new(false),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Arc<Direct>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stands. Where it cannot be watched, the thread of the member takes what comes.
    pub(super) fn add(&self, direct: &Arc<Direct>) {
        self.process.get_or_init(std::process::id);
        let epoll = self.epoll.get_or_init(|| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok());
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, mark(direct));
        if epoll.as_ref().is_some_and(|epoll| epoll.add(direct.socket(), readable).is_ok()) {
            let mut lines = self.lines();
            lines.push(direct.clone());
            if self.is_left() {
                direct.watch(false);
            }
            // Relaxed: a hint, as all that is read below.
            self.count.store(lines.len(), Ordering::Relaxed);
        }
    }

    /// One is over.
    pub(super) fn remove(&self, direct: &Arc<Direct>) {
        let mut lines = self.lines();
        if let Some(Some(epoll)) = self.epoll.get() {
            // It may not have been watched.
            let _ = epoll.delete(direct.socket());
        }
        lines.retain(|kept| !Arc::ptr_eq(kept, direct));
        self.count.store(lines.len(), Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn is_home(&self) -> bool {
        self.process.get() == Some(&std::process::id())
    }

    /// Something was said that is to be looked after; whether [`look`] comes to it within its interval, as everything is left to those
    /// who poll.
    pub(in crate::member) fn looks_after(&self) -> bool {
        // Before the look at whether it is left: the last of the looks is behind the end of that.
        self.has_said.store(true, Ordering::SeqCst);
        self.is_left.load(Ordering::SeqCst)
    }

    /// Whether the program takes everything just now.
    fn is_left(&self) -> bool {
        // Relaxed: it is a hint, but where `lines` is held.
        self.is_left.load(Ordering::Relaxed)
    }

    /// Leaves what comes to those who poll, or not any more.
    fn leave(&self, is_left: bool) {
        // A child of fork has the same descriptors, and is not to change what they do.
        if self.is_left() == is_left || !self.is_home() {
            return;
        }
        let lines = self.lines();
        if self.is_left.swap(is_left, Ordering::SeqCst) != is_left {
            lines.iter().for_each(|direct| direct.watch(!is_left));
            if is_left {
                self.left.notify_one();
            }
        }
    }

    /// Somebody polls.
    fn poll(&self, now: Instant) {
        match self.polls.poll(now) {
            Pace::Steady => self.leave(true),
            Pace::Paused => self.leave(false),
            Pace::New => (),
        }
    }

    /// Those over which something has come.
    fn come(&self) -> Vec<Arc<Direct>> {
        let Some(Some(epoll)) = self.epoll.get() else { return Vec::new() };
        let mut events = [EpollEvent::empty(); AT_A_TIME];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        let lines = self.lines();
        let come = |event: &EpollEvent| lines.iter().find(|direct| mark(direct) == event.data());
        events.iter().take(count).filter_map(come).cloned().collect()
    }
}

/// Whether this thread has ended what it keeps for the runtime: handlers of `exit` run behind that, and whatever begins something there
/// would panic.
fn is_thread_ending() -> bool {
    Handle::try_current().is_err_and(|why| why.is_thread_local_destroyed())
}

/// Tells one that is watched from others.
fn mark(direct: &Direct) -> u64 {
    u64::try_from(direct.socket().as_raw_fd()).unwrap_or(u64::MAX)
}

/// Looks whether the program still polls, as long as everything is left to it.
pub(in crate::member) async fn look(shared: &Shared, mut stopped: watch::Receiver<bool>) {
    let attended = &shared.lines.attended;
    let looks = async {
        loop {
            attended.left.notified().await;
            let mut is_left = true;
            while is_left {
                sleep(LOOK_INTERVAL).await;
                if attended.polls.is_paused(Instant::now()) {
                    attended.leave(false);
                }
                is_left = attended.is_left.load(Ordering::SeqCst);
                // After the look at whether it is left: see there.
                if attended.has_said.swap(false, Ordering::SeqCst) {
                    shared.post.look_soon();
                }
            }
        }
    };
    tokio::select! {
        () = looks => (),
        _ = stopped.wait_for(|stop| *stop) => attended.leave(false),
    }
}

impl Member {
    /// Takes what has come over lines within the host, and answers it, as its thread does that nobody need wait for then; how much.
    /// For those who poll: it does not wait.
    pub fn attend(&self) -> usize {
        attend(&self.shared)
    }

    /// Whoever has [attended](Self::attend) goes to sleep: what comes from now on is taken by the member's thread.
    pub fn rest(&self) {
        let attended = &self.shared.lines.attended;
        attended.polls.rest();
        attended.leave(false);
    }
}

fn attend(shared: &Arc<Shared>) -> usize {
    let attended = &shared.lines.attended;
    if attended.is_empty() {
        return 0;
    }
    if is_thread_ending() {
        // The thread of the member takes it.
        attended.leave(false);
        return 0;
    }
    attended.poll(Instant::now());
    let come = attended.come();
    // In a child of fork nobody goes on with what is begun.
    if come.is_empty() || !attended.is_home() {
        return 0;
    }
    // What is answered may begin something that the thread of the member goes on with.
    let _here = shared.lines.handle.enter();
    come.iter().map(|direct| direct.take_some(shared)).sum()
}

#[cfg(test)]
mod tests;
