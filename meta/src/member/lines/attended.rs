//! Lines within the host, for those who poll: what has come over one is taken by whoever looks first.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::direct::Direct;
use crate::member::state::Shared;
use crate::member::Member;

/// Lines that are looked at in one turn.
const AT_A_TIME: usize = 8;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Attended {
    /// Watches all of them; none where the system gives none.
    epoll: OnceLock<Option<Epoll>>,
    /// Those that stand.
    lines: Mutex<Vec<Arc<Direct>>>,
    /// How many, for those who look often.
    count: AtomicUsize,
    /// The process that has them.
    process: OnceLock<u32>,
}

impl Attended {
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

/// Tells one that is watched from others.
fn mark(direct: &Direct) -> u64 {
    u64::try_from(direct.socket().as_raw_fd()).unwrap_or(u64::MAX)
}

impl Member {
    /// Takes what has come over lines within the host, and answers it, as its thread does that nobody need wait for then; how much.
    /// For those who poll: it does not wait.
    pub fn attend(&self) -> usize {
        let shared: &Arc<Shared> = &self.shared;
        if shared.lines.attended.is_empty() {
            return 0;
        }
        let come = shared.lines.attended.come();
        // In a child of fork nobody goes on with what is begun.
        if come.is_empty() || !shared.lines.attended.is_home() {
            return 0;
        }
        // What is answered may begin something that the thread of the member goes on with.
        let _here = shared.lines.handle.enter();
        come.iter().map(|direct| direct.take_some(shared)).sum()
    }
}
