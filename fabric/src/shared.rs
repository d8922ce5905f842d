//! A fabric for several threads, and the waits.
//!
//! At the levels SINGLE and SERIALIZED the program promises that calls do not overlap; a cheap check catches most that
//! do. At MULTIPLE, and with a progress thread, a lock lets one thread in at a time; who sleeps does so outside.
//!
//! Any thread that waits drives all rails. How they poll is in `spin.rs`, how they sleep in `sentry.rs`.

use std::cell::{Cell, UnsafeCell};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use gridnet_core::company::Company;
use gridnet_core::completion::Completion;
use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::Address;
use gridnet_shm::RunDir;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow};

use crate::config::{Config, ProgressMode, WaitMode};
use crate::fabric::Fabric;
use crate::fork::{ForkMark, HOME};
use crate::lock::{Mutex, MutexGuard};
use crate::page::{Call, Page, Waiting};
use crate::sleep::HandleCopies;

/// Rounds that the progress thread polls before it lets others in.
const ROUNDS_AT_A_TIME: u32 = 16;

/// In the gate: somebody is inside, at levels without a lock.
pub(crate) const ENTERED: u32 = 1;
/// In the gate: a call ended in a panic, and nothing is certain any more.
const BROKEN: u32 = 2;
/// In the gate: several threads may come, and a lock lets one in.
const LOCKED: u32 = 4;
/// In the gate: only the thread that opened the fabric may come.
pub(crate) const SINGLE: u32 = 8;

/// Which threads call, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadLevel {
    /// Only the thread that opened the fabric.
    Single,
    /// Any thread, one at a time.
    Serialized,
    /// Any thread at any time.
    Multiple,
}

/// A fabric that several may hold.
#[derive(Debug)]
pub struct Shared {
    home: ThreadId,
    /// The gate: `HOME`, and some of the bits above. `HOME` alone when a call may simply go in.
    mark: ForkMark,
    /// There can be two threads inside calls.
    pub(crate) locked: bool,
    /// What others see of the fabric.
    page: Option<Arc<Page>>,
    lock: Mutex<()>,
    inner: UnsafeCell<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) fabric: Fabric,
    pub(crate) company: Company,
    /// Those of sleepers, by place: a wait takes no descriptor that one before it has not had.
    pub(crate) bells: Vec<Arc<EventFd>>,
    /// What the sentry watches.
    pub(crate) handles: Option<Arc<HandleCopies>>,
    progress: Option<(Arc<EventFd>, std::thread::JoinHandle<()>)>,
}

// SAFETY: `inner` is only reached through `Guard`, of which there is one at a time: by the lock where several threads
// may call, else by the program's promise, which `gate` checks. `Inner` itself may move between threads.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The right to use the fabric.
pub struct Guard<'a> {
    shared: &'a Shared,
    lock: Option<MutexGuard<'a, ()>>,
}

impl Shared {
    /// Opens a fabric.
    ///
    /// # Errors
    /// As [`Fabric::open`].
    pub fn open(config: Config, name: Option<&str>, level: ThreadLevel) -> Result<Arc<Shared>, Refusal> {
        let thread = config.progress == ProgressMode::Thread;
        let fabric = Fabric::open_for(config, name, level == ThreadLevel::Single && !thread)?;
        let locked = level == ThreadLevel::Multiple || thread;
        let gate = match level {
            _ if locked => HOME | LOCKED,
            ThreadLevel::Single => HOME | SINGLE,
            _ => HOME,
        };
        let shared = Arc::new(Shared {
            home: std::thread::current().id(),
            mark: ForkMark::new()?,
            locked,
            page: fabric.page().cloned(),
            lock: Mutex::new(()),
            inner: UnsafeCell::new(Inner {
                fabric,
                company: Company::default(),
                bells: Vec::new(),
                handles: None,
                progress: None,
            }),
        });
        shared.gate().store(gate, Ordering::Relaxed);
        if thread {
            shared.start_progress()?;
        }
        Ok(shared)
    }

    /// What others see of the fabric.
    pub(crate) fn page(&self) -> Option<&Arc<Page>> {
        self.page.as_ref()
    }

    #[inline(always)]
    pub(crate) fn gate(&self) -> &AtomicU32 {
        self.mark.word()
    }

    /// Goes in.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child; [`Error::Thread`] when the thread level is broken; [`Error::Internal`] after a
    /// panic.
    pub fn enter(&self) -> Result<Guard<'_>, Error> {
        let gate = self.gate().load(Ordering::Relaxed);
        if gate & HOME == 0 {
            return Err(Error::Forked);
        }
        if gate & BROKEN != 0 {
            return Err(Error::Internal);
        }
        if gate & LOCKED != 0 {
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            if self.gate().load(Ordering::Relaxed) & BROKEN != 0 {
                return Err(Error::Internal);
            }
            return Ok(Guard { shared: self, lock: Some(lock) });
        }
        if gate & SINGLE != 0 && std::thread::current().id() != self.home {
            return Err(Error::Thread);
        }
        // Relaxed moves instead of a locked exchange: catches overlapping calls most of the time, and costs nothing.
        if gate & ENTERED != 0 {
            return Err(Error::Thread);
        }
        self.gate().store(gate | ENTERED, Ordering::Relaxed);
        Ok(Guard { shared: self, lock: None })
    }

    /// True in the thread that opened the fabric.
    #[inline]
    pub(crate) fn is_home_thread(&self) -> bool {
        thread_local!(static ID: Cell<Option<ThreadId>> = const { Cell::new(None) });
        // The id itself costs two locked instructions.
        let id = ID.get().unwrap_or_else(|| {
            let id = std::thread::current().id();
            ID.set(Some(id));
            id
        });
        id == self.home
    }

    /// True for the fabric inside.
    pub(crate) fn is_of(&self, fabric: &Fabric) -> bool {
        // SAFETY: only the address is taken.
        std::ptr::eq(unsafe { &raw const (*self.inner.get()).fabric }, fabric)
    }

    /// Goes in where a call may simply go in; `None` where [`Self::enter`] has to decide. For hot paths.
    #[inline(always)]
    pub fn enter_plain(&self) -> Option<PlainGuard<'_>> {
        let gate = self.gate().load(Ordering::Relaxed);
        if gate != HOME && !(gate == HOME | SINGLE && self.is_home_thread()) {
            return None;
        }
        self.gate().store(gate | ENTERED, Ordering::Relaxed);
        Some(PlainGuard { shared: self, gate })
    }

    /// A call ended in a panic, which the caller has stopped: the fabric cannot be used any more.
    #[cold]
    pub fn mark_broken(&self) {
        self.gate().fetch_or(BROKEN, Ordering::Relaxed);
    }

    /// True in the process that opened the fabric.
    pub fn is_home(&self) -> bool {
        self.mark.is_home()
    }

    /// Takes completions of `cq`, waiting for the first. `None` for `timeout` waits for ever.
    ///
    /// # Errors
    /// [`Error::Timeout`]; and as [`Self::enter`].
    pub fn wait(
        &self,
        cq: CqId,
        timeout: Option<Duration>,
        mut out: impl FnMut(Completion) -> bool,
    ) -> Result<usize, Error> {
        let mut guard = self.enter()?;
        let taken = guard.take(cq, &mut out);
        if taken > 0 {
            return Ok(taken);
        }
        if timeout == Some(Duration::ZERO) {
            return Err(Error::Timeout);
        }
        if guard.poll_at_first(cq) {
            return Ok(guard.take(cq, out));
        }
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        let waiting = Waiting::begin(self.page.as_ref(), Call::Completion, timeout);
        loop {
            guard = self.spin(guard, cq, end)?;
            let taken = guard.take(cq, &mut out);
            if taken > 0 {
                return Ok(taken);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(Error::Timeout);
            }
            if guard.policy.mode != WaitMode::Spin {
                waiting.set_asleep(true);
                guard = self.sleep(guard, Some(cq), end, None)?;
                waiting.set_asleep(false);
            }
        }
    }

    /// Waits for a name to appear among the fabrics of this host; progress goes on. `None` waits for ever.
    ///
    /// # Errors
    /// [`Error::Timeout`] when nobody took the name in time; [`Error::Invalid`] when nobody can.
    pub fn lookup(&self, name: &str, timeout: Option<Duration>) -> Result<Address, Refusal> {
        let code = |error: Error| Refusal::new(error, error.text());
        let mut guard = self.enter().map_err(code)?;
        let dir = guard.run_dir().cloned();
        let dir = dir.ok_or_else(|| {
            Refusal::new(Error::Config, "names need a run directory, and none could be had (GRIDNET_RUN_DIR)")
        })?;
        if let Some(address) = dir.lookup(name)? {
            return Ok(address);
        }
        let watch = watch_names(&dir)?;
        let waiting = Waiting::begin(self.page.as_ref(), Call::Lookup, timeout);
        waiting.set_asleep(true);
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(address) = dir.lookup(name)? {
                return Ok(address);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(Refusal::new(
                    Error::Timeout,
                    format!("no fabric of this host is named {name:?}"),
                ));
            }
            guard = self.sleep(guard, None, end, Some(watch.as_fd())).map_err(code)?;
            // Changes that were not seen would only make the next sleep short.
            let _ = watch.read_events();
        }
    }

    /// Starts the thread that makes progress while the program does not call.
    fn start_progress(self: &Arc<Shared>) -> Result<(), Refusal> {
        let stop = Arc::new(new_bell().map_err(|e| Refusal::new(e, "eventfd"))?);
        let (shared, heard) = (Arc::clone(self), Arc::clone(&stop));
        // Signals are for the program's threads: this one is born with all of them blocked.
        let mut before = SigSet::empty();
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        let spawned =
            std::thread::Builder::new().name("gridnet".into()).spawn(move || shared.run_progress(&heard));
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        let thread = spawned.map_err(|e| Refusal::new(Error::System, format!("progress thread: {e}")))?;
        let mut guard = self.enter().map_err(|e| Refusal::new(e, e.text()))?;
        guard.inner().progress = Some((stop, thread));
        Ok(())
    }

    fn run_progress(&self, stop: &EventFd) {
        let waiting = Waiting::begin(self.page.as_ref(), Call::Progress, None);
        let Ok(mut guard) = self.enter() else { return };
        loop {
            if (0..ROUNDS_AT_A_TIME).all(|_| guard.poll_round() > 0) {
                // Callers want the lock too; nobody has to be woken meanwhile.
                guard.inner().company.begin_polling();
                drop(guard);
                std::thread::yield_now();
                match self.enter() {
                    Ok(again) => guard = again,
                    Err(_) => return,
                }
                guard.inner().company.end_polling();
                continue;
            }
            waiting.set_asleep(true);
            match self.sleep(guard, None, None, Some(stop.as_fd())) {
                Ok(woken) => guard = woken,
                Err(_) => return,
            }
            waiting.set_asleep(false);
            if stop.read().is_ok() {
                return;
            }
        }
    }

    /// Ends the progress thread, if there is one. To be called before the last reference goes.
    pub fn stop_progress(&self) {
        let Ok(mut guard) = self.enter() else { return };
        let progress = guard.inner().progress.take();
        drop(guard);
        if let Some((stop, thread)) = progress {
            let _ = stop.write(1);
            let _ = thread.join();
        }
    }
}

impl Guard<'_> {
    pub(crate) fn inner(&mut self) -> &mut Inner {
        // SAFETY: whoever has the guard is alone inside (see `Sync for Shared`), and `&mut self` keeps it so.
        unsafe { &mut *self.shared.inner.get() }
    }
}

impl Deref for Guard<'_> {
    type Target = Fabric;

    #[inline(always)]
    fn deref(&self) -> &Fabric {
        // SAFETY: as in `inner`.
        unsafe { &(*self.shared.inner.get()).fabric }
    }
}

impl DerefMut for Guard<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Fabric {
        &mut self.inner().fabric
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.shared.mark_broken();
        }
        self.kick_armed();
        if self.lock.is_none() {
            let gate = self.shared.gate().load(Ordering::Relaxed);
            self.shared.gate().store(gate & !ENTERED, Ordering::Relaxed);
        } else if self.inner().company.has_sleepers() {
            self.serve_sleepers();
        }
    }
}

/// The right to use a fabric that needs no lock: a [`Guard`] without its cases.
pub struct PlainGuard<'a> {
    shared: &'a Shared,
    gate: u32,
}

impl Deref for PlainGuard<'_> {
    type Target = Fabric;

    #[inline(always)]
    fn deref(&self) -> &Fabric {
        // SAFETY: as in `Guard::inner`.
        unsafe { &(*self.shared.inner.get()).fabric }
    }
}

impl DerefMut for PlainGuard<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Fabric {
        // SAFETY: as in `Guard::inner`.
        unsafe { &mut (*self.shared.inner.get()).fabric }
    }
}

impl Drop for PlainGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.kick_armed();
        self.shared.gate().store(self.gate, Ordering::Relaxed);
    }
}

pub(crate) fn new_bell() -> Result<EventFd, Error> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|_| Error::System)
}

fn watch_names(dir: &RunDir) -> Result<Inotify, Refusal> {
    let failed = |e: nix::Error| Refusal::new(Error::System, format!("watching for names: {}", e.desc()));
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    watch.add_watch(dir.path(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).map_err(failed)?;
    Ok(watch)
}
