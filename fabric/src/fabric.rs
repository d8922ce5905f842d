//! A fabric: an engine with its rails, a clock, and what sleepers need.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::completion::Completion;
use gridnet_core::endpoint::{CqId, Engine, Limits, Quick};
use gridnet_core::error::Error;
use gridnet_core::ledger::{Ledger, Unread};
use gridnet_core::rail::{Armed, Rail, Refusal};
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_shm::{NameHolder, RunDir, SelfGuard};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::config::{Config, WaitMode};
use crate::identity;
use crate::logging;
use crate::page::{Identity, Page, PageLedger};
use crate::rails::{open_rails, AnyRail, Opened};

/// Tells the loans of the fabrics of a process apart; 0 is given to none of the first.
static NEXT_MARK: AtomicU32 = AtomicU32::new(1);

/// Rounds of polling between two looks at descriptors (new links, dead peers): some microseconds.
const ROUNDS_PER_MAINTENANCE: u32 = 512;

/// The same when the rounds before found nothing: whoever comes next may be a new peer, and waits.
const ROUNDS_WHILE_IDLE: u32 = 64;

/// The same while a link is being made, when somebody waits for its descriptor.
const ROUNDS_WHILE_CONNECTING: u32 = 32;

/// Operations on regions that are done at once between two looks at the peers: some microseconds, as above.
const DIRECT_PER_LOOK: u32 = 256;

/// Polls between two looks at the clock, which costs as much as several polls.
pub(crate) const POLLS_PER_CLOCK: u32 = 64;
/// The same where whoever we wait for needs this core: polling only keeps it from answering.
const POLLS_ON_ONE_CORE: u32 = 2;

/// Messages that are taken the short way between two rounds of polling that look at all;
const QUICK_TURNS: u32 = 32;
/// completions that such a call takes;
const MOST_AT_ONCE: usize = 64;
/// frames that such a round takes from each link.
const FEW: usize = 2;

/// Looks at the short way for one round of polling, in a call that waits.
const LOOKS_PER_ROUND: u32 = 8;

/// A peer that has the core to itself copies more than this in a nanosecond.
const SLOW_BYTES_PER_NS: u64 = 5;
/// Longer messages under way are not waited for without sleep.
const LONGEST_SPUN: u64 = 4 << 20;

/// Times that somebody tries to arm the rails for others who sleep.
pub(crate) const ARMING_TRIES: u32 = 16;

/// How polling and sleeping went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitCounters {
    /// Rounds of polling.
    pub polls: u64,
    /// Rounds that found nothing.
    pub empty_polls: u64,
    /// Times a caller slept.
    pub sleeps: u64,
}

/// What of the configuration is looked at after opening.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitPolicy {
    pub(crate) mode: WaitMode,
    pub(crate) spin: Duration,
    /// The process may run on one core only.
    pub(crate) single_core: bool,
}

/// The descriptor of a completion queue.
#[derive(Debug)]
struct CqDescriptor {
    cq: CqId,
    epoll: Epoll,
    /// Written when somebody else's polling fills an armed queue.
    kick: EventFd,
}

/// An open fabric. One thread at a time; see [`crate::Shared`] for more.
#[derive(Debug)]
pub struct Fabric {
    /// The protocol engine.
    pub engine: Engine<AnyRail>,
    pub(crate) config: Config,
    run_dir: Option<RunDir>,
    start: Instant,
    /// Rounds of polling until the next maintenance.
    rounds: u32,
    /// Operations on regions that may be done at once until the next look at the peers.
    direct_left: u32,
    pub(crate) counters: WaitCounters,
    /// Takes the short way until all others are looked at.
    quick_left: u32,
    /// What `rounds` was when they were last counted.
    rounds_given: u32,
    /// Rounds of polling,
    polls: u64,
    /// those that found something,
    fruitful_polls: u64,
    /// and messages that came the short way.
    quick_takes: u64,
    /// What had happened when maintenance was last done.
    events_before: u64,
    pub(crate) policy: WaitPolicy,
    descriptors: Vec<CqDescriptor>,
    /// What others see of this fabric.
    page: Option<Arc<Page>>,
    /// Maintenance used up a wake-up that sleepers may have been meant by.
    pub(crate) bell_taken: bool,
    /// Senders will ring, and nobody has used up the ring.
    pub(crate) is_armed: bool,
    /// Whoever was waited for last runs on this core, as far as is known.
    pub(crate) shares_core: bool,
    /// Rails that would be used if they could be had, and why they cannot.
    pub(crate) missing: Vec<(&'static str, String)>,
    /// The name, where no rail holds it.
    _name_holder: Option<NameHolder>,
}

impl Fabric {
    /// Opens a fabric.
    ///
    /// # Errors
    /// What the system or the configuration does not allow.
    pub fn open(config: Config, name: Option<&str>) -> Result<Fabric, Refusal> {
        Fabric::open_for(config, name, false)
    }

    /// Opens a fabric that the calling thread alone will use, if `single_thread`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(config: Config, name: Option<&str>, single_thread: bool) -> Result<Fabric, Refusal> {
        logging::start(&config.log)?;
        if let Some(name) = name.filter(|name| !gridnet_shm::is_valid_name(name)) {
            let form = "1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot";
            return Err(Refusal::new(Error::Invalid, format!("{name:?} is no name of a fabric: {form}")));
        }
        let mut local = identity::new_address(config.host_id.as_deref())?;
        let Opened { rails, missing } = open_rails(&config, &mut local, name, single_thread)?;
        let (run_dir, name_holder) = find_run_dir(&config, &local, name, &rails)?;
        let limits = Limits {
            eager_max: config.eager_max,
            unexpected_bytes: config.unexpected_bytes,
            unexpected_messages: config.unexpected_messages,
            max_ops: config.max_ops,
            lent_bytes: config.lent_bytes,
            peer_timeout_ns: u64::try_from(config.peer_timeout.as_nanos()).unwrap_or(u64::MAX),
            reliability: config.reliability,
        };
        let policy =
            WaitPolicy { mode: config.wait_mode, spin: config.wait_spin, single_core: is_single_core() };
        let page = open_page(
            &Identity { local: &local, name, config: &config, missing: &missing },
            run_dir.as_ref(),
        );
        let ledger = ledger_of(page.as_ref(), &rails, &config);
        let mut engine = Engine::with_ledger(local, rails, limits, ledger);
        engine.set_guard(Box::new(SelfGuard::new()));
        engine.mark_loans(NEXT_MARK.fetch_add(1, Ordering::Relaxed));
        tracing::info!(node = %local.node, name, "fabric open");
        Ok(Fabric {
            engine,
            config,
            run_dir,
            start: Instant::now(),
            rounds: 1,
            quick_left: QUICK_TURNS,
            rounds_given: 1,
            direct_left: DIRECT_PER_LOOK,
            counters: WaitCounters::default(),
            fruitful_polls: 0,
            polls: 0,
            quick_takes: 0,
            events_before: 0,
            policy,
            descriptors: Vec::new(),
            page,
            bell_taken: false,
            is_armed: false,
            shares_core: false,
            missing,
            _name_holder: name_holder,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The directory where names are, if the fabric has one.
    pub fn run_dir(&self) -> Option<&RunDir> {
        self.run_dir.as_ref()
    }

    /// What others see of this fabric, unless it is switched off or cannot be had.
    pub(crate) fn page(&self) -> Option<&Arc<Page>> {
        self.page.as_ref()
    }

    /// Shows how polling goes.
    fn show_pulse(&self) {
        if let Some(page) = &self.page {
            let wakeups = self.engine.rails().iter().map(AnyRail::wakeups_sent).sum();
            page.show_pulse(&self.counters, wakeups);
        }
    }

    /// How polling and sleeping went so far.
    pub fn wait_counters(&mut self) -> WaitCounters {
        self.count_polls();
        self.counters
    }

    /// The address of this fabric.
    pub fn address(&self) -> &Address {
        self.engine.local()
    }

    /// One round of polling; now and then also of maintenance. Returns how much happened.
    #[inline(always)]
    pub fn poll_round(&mut self) -> usize {
        let moved = match std::mem::replace(&mut self.quick_left, QUICK_TURNS) {
            // In the middle of a stream: others have their turn, and what follows comes the short way again, if the link is still
            // the only one in use.
            0 if self.engine.choose_favourite() => self.engine.progress_within(FEW),
            _ => self.engine.progress(),
        };
        if moved > 0 {
            self.fruitful_polls += 1;
        }
        self.rounds -= 1;
        if self.rounds == 0 {
            return moved + self.maintain();
        }
        moved
    }

    /// Grows whenever polling finds something.
    pub(crate) fn events(&self) -> u64 {
        self.fruitful_polls + self.quick_takes
    }

    /// How long the long messages under way may well take. Whoever waits for one had better not sleep meanwhile: to be woken
    /// takes as long as half a megabyte.
    pub(crate) fn transfer_time(&self) -> Duration {
        let bytes = self.engine.bytes_under_way().min(LONGEST_SPUN);
        Duration::from_nanos(bytes / SLOW_BYTES_PER_NS)
    }

    /// Counts the rounds of polling since the last maintenance.
    fn count_polls(&mut self) {
        self.polls += u64::from(self.rounds_given - self.rounds);
        self.rounds_given = self.rounds;
        self.counters.polls = self.polls + self.quick_takes;
        self.counters.empty_polls = self.polls - self.fruitful_polls;
    }

    /// Whether an operation on a region may be done at once. Now and then it may not: [`Self::look_now_and_then`] comes
    /// first, since who does nothing else would not notice that the owner has ended.
    #[inline(always)]
    pub fn may_go_at_once(&mut self) -> bool {
        let may = self.direct_left > 0;
        self.direct_left -= u32::from(may);
        may
    }

    /// Polls, and looks at descriptors, when it is time. To be called before operations on regions.
    pub fn look_now_and_then(&mut self) {
        if !self.may_go_at_once() {
            self.direct_left = DIRECT_PER_LOOK;
            self.poll_round();
            self.maintain();
        }
    }

    /// Looks at descriptors and timers.
    #[cold]
    pub fn maintain(&mut self) -> usize {
        let now = Time(self.start.elapsed().as_nanos() as u64);
        let happened = self.engine.maintain(now);
        self.count_polls();
        let idle = self.events() == self.events_before;
        self.events_before = self.events();
        self.rounds = match idle {
            _ if self.engine.is_connecting() => ROUNDS_WHILE_CONNECTING,
            true => ROUNDS_WHILE_IDLE,
            false => ROUNDS_PER_MAINTENANCE,
        };
        self.rounds_given = self.rounds;
        if happened > 0 {
            // Whatever woke us may have been meant for others too: senders ring once for each arming.
            self.bell_taken = true;
            self.is_armed = false;
        }
        self.show_pulse();
        happened
    }

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

    /// Polls until there is a completion, at most `rounds` times; whether there is.
    #[inline]
    pub(crate) fn poll_until(&mut self, cq: CqId, rounds: u32) -> bool {
        (0..rounds).any(|_| {
            self.poll_round();
            self.completions(cq) > 0
        })
    }

    /// Number of completions that wait in a queue.
    #[inline(always)]
    pub fn completions(&mut self, cq: CqId) -> usize {
        self.engine.cq(cq).map_or(0, |queue| queue.len())
    }

    /// The end of sleep.
    pub(crate) fn disarm(&mut self) {
        self.is_armed = false;
        self.engine.disarm();
    }

    /// Prepares rails for sleep, after everything that is known to have happened was handled.
    pub(crate) fn arm(&mut self) -> Armed {
        if self.maintain() + self.engine.progress() > 0 {
            return Armed::Busy;
        }
        // A new arming, so that senders that rang for an earlier one ring again.
        self.engine.disarm();
        let armed = self.engine.arm();
        self.is_armed = armed == Armed::Yes;
        armed
    }

    /// Time after which a sleeper has to look at timers.
    pub(crate) fn timer(&self) -> Option<Duration> {
        let at = self.engine.deadline()?;
        Some(Duration::from_nanos(at.0).saturating_sub(self.start.elapsed()))
    }

    /// The descriptor of a queue: readable, after [`Self::arm_cq`] said yes, once something has happened.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a queue, [`Error::System`] without free descriptors.
    pub fn cq_descriptor(&mut self, cq: CqId) -> Result<RawFd, Refusal> {
        self.engine.cq(cq).ok_or_else(|| Refusal::new(Error::Handle, "no such completion queue"))?;
        if let Some(known) = self.descriptors.iter().find(|d| d.cq == cq) {
            return Ok(known.epoll.0.as_raw_fd());
        }
        let failed =
            |e: nix::Error| Refusal::new(Error::System, format!("descriptor of a queue: {}", e.desc()));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(kick.as_fd(), readable()).map_err(failed)?;
        for handle in self.engine.wait_handles() {
            // SAFETY: a rail's wait handle is open as long as the rail is, which `self.engine` owns.
            epoll.add(unsafe { BorrowedFd::borrow_raw(handle) }, readable()).map_err(failed)?;
        }
        let descriptor = epoll.0.as_raw_fd();
        self.descriptors.push(CqDescriptor { cq, epoll, kick });
        Ok(descriptor)
    }

    /// Arms the descriptor of a queue: BUSY when there is something to be taken already.
    ///
    /// # Errors
    /// [`Error::Handle`] without such a queue.
    pub fn arm_cq(&mut self, cq: CqId) -> Result<Armed, Refusal> {
        self.cq_descriptor(cq)?;
        if let Some(known) = self.descriptors.iter().find(|d| d.cq == cq) {
            // An error says that it was not kicked.
            let _ = known.kick.read();
        }
        let busy = self.arm() == Armed::Busy;
        let queue =
            self.engine.cq(cq).ok_or_else(|| Refusal::new(Error::Handle, "no such completion queue"))?;
        queue.armed = !busy && queue.is_empty();
        Ok(if queue.armed { Armed::Yes } else { Armed::Busy })
    }

    /// Makes the descriptors readable of armed queues that somebody else's polling has filled, and arms the rails again
    /// for the others when somebody else's waiting has disarmed them.
    #[inline(always)]
    pub(crate) fn kick_armed(&mut self) {
        if !self.descriptors.is_empty() {
            self.kick_some();
        }
    }

    #[cold]
    fn kick_some(&mut self) {
        for _ in 0..ARMING_TRIES {
            if !self.kick_full() || self.is_armed || self.arm() == Armed::Yes {
                return;
            }
            self.engine.progress();
        }
        // Something keeps happening: whoever sleeps looks for himself.
        for descriptor in &self.descriptors {
            if let Some(queue) = self.engine.cq(descriptor.cq).filter(|queue| queue.armed) {
                queue.armed = false;
                let _ = descriptor.kick.write(1);
            }
        }
    }

    /// Kicks armed queues that are not empty; whether others stay armed.
    fn kick_full(&mut self) -> bool {
        let mut others = false;
        for descriptor in &self.descriptors {
            let Some(queue) = self.engine.cq(descriptor.cq).filter(|queue| queue.armed) else {
                continue;
            };
            if queue.is_empty() {
                others = true;
            } else {
                queue.armed = false;
                let _ = descriptor.kick.write(1);
            }
        }
        others
    }

    /// Forgets the descriptor of a queue that is destroyed.
    pub fn close_cq(&mut self, cq: CqId) {
        self.descriptors.retain(|d| d.cq != cq);
        self.engine.destroy_cq(cq);
    }

    /// Sleeps until a rail's wait handle or `extra` is readable, at most for `span`.
    pub(crate) fn sleep_on_rails(&self, span: Option<Duration>, extra: Option<BorrowedFd<'_>>) {
        // SAFETY: a rail's wait handle is open as long as the rail is, which `self.engine` owns.
        let handles = self.engine.wait_handles().map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        sleep_on(handles.chain(extra), span);
    }

    /// Copies of the descriptors that a sleeper has to watch.
    pub(crate) fn wait_handles(&self) -> Result<Vec<OwnedFd>, Refusal> {
        let copy = |fd: RawFd| {
            // SAFETY: a rail's wait handle is open as long as the rail is, which `self.engine` owns.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            borrowed
                .try_clone_to_owned()
                .map_err(|e| Refusal::new(Error::System, format!("copying a descriptor: {e}")))
        };
        self.engine.wait_handles().map(copy).collect()
    }
}

/// The directory where the fabric finds others by their names, if it can be had, and its own name there.
fn find_run_dir(
    config: &Config,
    local: &Address,
    name: Option<&str>,
    rails: &[AnyRail],
) -> Result<(Option<RunDir>, Option<NameHolder>), Refusal> {
    let of_shm = rails.iter().find_map(|rail| match rail {
        AnyRail::Shm(shm) => Some(shm.run_dir().clone()),
        AnyRail::Tcp(_) | AnyRail::Own(_) => None,
    });
    if of_shm.is_some() {
        return Ok((of_shm, None));
    }
    let base = config.run_dir.clone().unwrap_or_else(RunDir::default_base);
    match (RunDir::open(&base, local.host), name) {
        (Ok(dir), Some(name)) => {
            let holder = dir.hold_name(name, local)?;
            Ok((Some(dir), Some(holder)))
        }
        (Ok(dir), None) => Ok((Some(dir), None)),
        (Err(refusal), Some(_)) => Err(refusal),
        (Err(_), None) => Ok((None, None)),
    }
}

/// The page of a new fabric. A fabric does without one where the system gives none.
fn open_page(who: &Identity<'_>, run_dir: Option<&RunDir>) -> Option<Arc<Page>> {
    if !who.config.page {
        return None;
    }
    let dir = run_dir.cloned().map_or_else(
        || RunDir::open(&who.config.run_dir.clone().unwrap_or_else(RunDir::default_base), who.local.host),
        Ok,
    );
    match dir.and_then(|dir| Page::create(dir.path(), who)) {
        Ok(page) => Some(page),
        Err(refusal) => {
            tracing::info!(reason = %refusal.reason, "the fabric has no page");
            None
        }
    }
}

fn ledger_of(page: Option<&Arc<Page>>, rails: &[AnyRail], config: &Config) -> Box<dyn Ledger> {
    let Some(page) = page else { return Box::new(Unread) };
    let figures = rails.iter().map(|rail| (rail.name(), *rail.capabilities())).collect();
    Box::new(PageLedger::new(page.clone(), figures, config.rails.clone()))
}

/// Sleeps until one of some descriptors is readable, a signal comes, or `span` is over.
pub(crate) fn sleep_on<'a>(files: impl Iterator<Item = BorrowedFd<'a>>, span: Option<Duration>) {
    let mut files: Vec<PollFd<'a>> = files.map(|file| PollFd::new(file, PollFlags::POLLIN)).collect();
    // An error is a signal: whoever sleeps looks again.
    let _ = ppoll(&mut files, span.map(TimeSpec::from), None);
}

fn is_single_core() -> bool {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    set.is_ok_and(|set| {
        (0..nix::sched::CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).count() == 1
    })
}
