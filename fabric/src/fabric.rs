//! A fabric: an engine with its rails, a clock, and what sleepers need.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::endpoint::{CqId, Engine, Limits};
use gridnet_core::error::Error;
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_shm::{NameHolder, RunDir, SelfGuard};

use crate::config::{Config, WaitMode};
use crate::identity;
use crate::logging;
use crate::member::Membership;
use crate::open::{find_run_dir, ledger_of, open_page};
use crate::page::{Identity, Page};
use crate::rails::{open_rails, AnyRail, Opened};
use crate::sleep::CqDescriptor;

/// Tells the loans of the fabrics of a process apart; 0 is given to none of the first.
static NEXT_MARK: AtomicU32 = AtomicU32::new(1);

/// Rounds of polling between two looks at descriptors (new links, dead peers): some microseconds.
const ROUNDS_PER_MAINTENANCE: u32 = 512;

/// The same when the rounds before found nothing: whoever comes next may be a new peer, and waits.
const ROUNDS_WHILE_IDLE: u32 = 64;

/// The same while a link is being made, when somebody waits for its descriptor.
const ROUNDS_WHILE_CONNECTING: u32 = 32;

/// The same where nothing else moves, and something has just happened or is waited for: whoever is at the other end waits, too.
const ROUNDS_WHILE_AWAITED: u32 = 4;
/// So long it is waited for as closely, from the last that happened.
const QUICK_NS: u64 = 1_000_000;

/// Operations on regions that are done at once between two looks at the peers: some microseconds, as above.
const DIRECT_PER_LOOK: u32 = 256;

/// Messages that are taken the short way between two rounds of polling that look at all;
const QUICK_TURNS: u32 = 32;
/// frames that such a round takes from each link.
const FEW: usize = 2;

/// A peer that has the core to itself copies more than this in a nanosecond.
const SLOW_BYTES_PER_NS: u64 = 5;
/// Longer messages under way are not waited for without sleep.
const LONGEST_SPUN: u64 = 4 << 20;

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
}
/// An open fabric. One thread at a time; see [`crate::Shared`] for more.
#[derive(Debug)]
pub struct Fabric {
    /// The protocol engine.
    pub engine: Engine<AnyRail>,
    pub(crate) config: Config,
    run_dir: Option<RunDir>,
    pub(crate) start: Instant,
    /// Rounds of polling until the next maintenance.
    rounds: u32,
    /// Operations on regions that may be done at once until the next look at the peers.
    direct_left: u32,
    pub(crate) counters: WaitCounters,
    /// Takes the short way until all others are looked at.
    pub(crate) quick_left: u32,
    /// What `rounds` was when they were last counted.
    rounds_given: u32,
    /// Until when what is waited for is looked for closely.
    quick_until: Time,
    /// Something was waited for at the last look.
    waited: bool,
    /// Rounds of polling,
    polls: u64,
    /// those that found something,
    fruitful_polls: u64,
    /// and messages that came the short way.
    pub(crate) quick_takes: u64,
    /// What had happened when maintenance was last done.
    events_before: u64,
    pub(crate) policy: WaitPolicy,
    pub(crate) descriptors: Vec<CqDescriptor>,
    /// What others see of this fabric.
    page: Option<Arc<Page>>,
    /// Senders will ring, and nobody has used up the ring.
    pub(crate) is_armed: bool,
    /// Whoever was waited for last runs on this core, as far as is known.
    pub(crate) shares_core: bool,
    /// Other work has kept the core when it was offered: until then it is not offered again.
    pub(crate) no_offers_before: Option<Instant>,
    /// Rails that would be used if they could be had, and why they cannot.
    pub(crate) missing: Vec<(&'static str, String)>,
    /// The name, where no rail holds it.
    _name_holder: Option<NameHolder>,
    /// Its place in a session that it has joined itself; left last of all.
    pub(crate) membership: Option<Membership>,
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
        let membership = Membership::join(&config, &mut local)?;
        let Opened { rails, missing, plain } =
            open_rails(&config, &mut local, name, single_thread, membership.as_ref())?;
        let (run_dir, name_holder) = find_run_dir(&config, &local, name, &rails)?;
        let limits = Limits {
            eager_max: config.eager_max,
            unexpected_bytes: config.unexpected_bytes,
            unexpected_messages: config.unexpected_messages,
            max_ops: config.max_ops,
            lent_bytes: config.lent_bytes,
            peer_timeout_ns: u64::try_from(config.peer_timeout.as_nanos()).unwrap_or(u64::MAX),
            stream_window: u32::try_from(config.stream_window).unwrap_or(u32::MAX),
            reliability: config.reliability,
        };
        let policy = WaitPolicy { mode: config.wait_mode, spin: config.wait_spin };
        let page = open_page(
            &Identity { local: &local, name, config: &config, missing: &missing },
            run_dir.as_ref(),
        );
        let ledger = ledger_of(page.as_ref(), &rails, &config);
        let mut engine = Engine::with_ledger(local, rails, limits, ledger);
        if let Some(membership) = &membership {
            membership.open(&mut engine, plain)?;
        }
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
            quick_until: Time(0),
            waited: false,
            direct_left: DIRECT_PER_LOOK,
            counters: WaitCounters::default(),
            fruitful_polls: 0,
            polls: 0,
            quick_takes: 0,
            events_before: 0,
            policy,
            descriptors: Vec::new(),
            page,
            is_armed: false,
            shares_core: false,
            no_offers_before: None,
            missing,
            _name_holder: name_holder,
            membership,
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
        let happened = self.engine.maintain(now) + self.tend_openings();
        self.count_polls();
        let idle = self.events() == self.events_before;
        self.events_before = self.events();
        let is_connecting = self.engine.is_connecting();
        let is_awaited = self.is_awaited(now, happened, is_connecting);
        self.rounds = match idle {
            true if is_awaited => ROUNDS_WHILE_AWAITED,
            _ if is_connecting => ROUNDS_WHILE_CONNECTING,
            true => ROUNDS_WHILE_IDLE,
            false => ROUNDS_PER_MAINTENANCE,
        };
        self.rounds_given = self.rounds;
        if happened > 0 {
            // Whatever woke us may have been meant for others too: senders ring once for each arming.
            self.is_armed = false;
        }
        self.show_pulse();
        happened
    }

    /// Has the next round look at descriptors.
    pub(crate) fn look_soon(&mut self) {
        self.count_polls();
        (self.rounds, self.rounds_given) = (1, 1);
    }

    /// Whether somebody is likely to answer in a moment. Who has not for a while may be busy, or stopped.
    fn is_awaited(&mut self, now: Time, happened: usize, is_connecting: bool) -> bool {
        let waits = is_connecting || self.is_agreeing();
        if happened > 0 || waits && !self.waited {
            self.quick_until = now.after(QUICK_NS);
        }
        self.waited = waits;
        happened > 0 || waits && now < self.quick_until
    }

    fn is_agreeing(&self) -> bool {
        self.membership.as_ref().is_some_and(Membership::is_agreeing)
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
}
