//! Assembly between members: requests of `gridnet-assembly`, carried by those between members.
//!
//! Who asks is proved by the conversation that a request comes in; what is known of it is what the directory says.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gridnet_assembly::audit::Line;
use gridnet_assembly::cache::Cache;
use gridnet_assembly::call::{Failure, Path, Wish};
use gridnet_assembly::called::{Called, Order, Step, View, CONNECTIONS_MAX};
use gridnet_assembly::choice::Choice;
use gridnet_assembly::facts::Facts;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::name::Name;
use gridnet_assembly::rules::{Pair, Rules};
use gridnet_assembly::stack::Security;
use gridnet_assembly::Builder;
use gridnet_core::sync::AtomicU64;
use gridnet_core::wire::NodeId;

use super::caller::{Bell, Caller, Heard, Pending};
use super::state::Shared;
use super::turn::Turns;
use super::Member;
use crate::error::{Error, Refusal};
use crate::office::LIMIT_MAX;

/// The service of requests between members by which they agree on stacks.
pub const ASSEMBLY: u16 = 1;

/// Connections to one node that are made at a time; more wait for their turn.
const OPEN_MAX: usize = 32;

/// What one wants a connection for.
#[derive(Clone)]
pub struct Wanted {
    /// The service of the other node.
    pub service: Name,
    /// How safe it has to be, at least; the rules may ask for more.
    pub min_security: Security,
    /// Data that travels with the request: at most 16 KiB.
    pub first: Vec<u8>,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wanted { service, min_security, first } = self;
        write!(f, "Wanted {{ {service}, {}, {} bytes }}", min_security.name(), first.len())
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPath {
    /// It could not even be asked for.
    Session(Error),
    /// Each stack, and why not.
    Stacks(Box<Failure>),
}

impl fmt::Display for NoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPath::Session(why) => write!(f, "{why}"),
            NoPath::Stacks(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for NoPath {}

/// A path that stands, and how it was come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The path.
    pub path: Path,
    /// What did not do before, and what was left out.
    pub failure: Failure,
}

/// A member's part in assembly: asks others for stacks, and answers them.
pub struct Assembler {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Weak<Shared>,
    pub(super) builder: Arc<dyn Builder>,
    rules: RwLock<Rules>,
    /// Held while other rules come into force: nobody goes on by the old ones meanwhile, and of two the later ones stay.
    changing: Mutex<()>,
    called: Mutex<Called>,
    cache: Mutex<Cache>,
    pub(super) incarnation: u64,
    pub(super) turns: Arc<Turns>,
    /// Those who are connecting, by number; nothing when none is to any more.
    callers: Mutex<Option<BTreeMap<u64, Sender<Heard>>>>,
    pub(super) last_caller: AtomicU64,
    /// Threads that connect beside a call; nothing when there are to be no more.
    beside: Mutex<Option<Vec<JoinHandle<()>>>>,
}

impl Member {
    /// Agrees on stacks with other members from now on, by these rules; `builder` makes them. A member does it once.
    ///
    /// What can be built has to be said when the member joins, by [`About::offer`](super::About::offer).
    pub fn assemble(&self, rules: Rules, builder: Arc<dyn Builder>) -> Assembler {
        // Later lives are greater; a clock that was set back costs no more than that this node is taken for an earlier one.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let called = Called::new(incarnation).sharing(builder.shared());
        let inner = Arc::new(Inner {
            shared: Arc::downgrade(&self.shared),
            builder,
            rules: RwLock::new(rules),
            changing: Mutex::default(),
            called: Mutex::new(called),
            cache: Mutex::default(),
            incarnation,
            turns: Arc::new(Turns::new(OPEN_MAX, CONNECTIONS_MAX as u64)),
            callers: Mutex::new(Some(BTreeMap::new())),
            last_caller: AtomicU64::new(0),
            beside: Mutex::new(Some(Vec::new())),
        });
        let in_force = inner.rules().clone();
        self.shared.rule_lines(in_force);
        let (answers, builder) = (inner.clone(), inner.builder.clone());
        self.serve_quickly(
            ASSEMBLY,
            move |from, body| answers.answer(from, body),
            move || builder.is_quick(),
        );
        Assembler { inner }
    }
}

impl Assembler {
    /// There is such a service on this node from now on.
    pub fn serve(&self, service: Name) {
        self.inner.called().serve(service);
    }

    /// There is no such service any more.
    pub fn end_service(&self, service: &Name) {
        self.inner.called().end_service(service);
    }

    /// Other rules are in force. What stands stays; nothing that was agreed before is taken for granted.
    pub fn change_rules(&self, rules: Rules) {
        let _changing = self.inner.changing();
        self.inner.change_rules(rules);
    }

    /// Takes other rules, if [`Builder::new_rules`] has some: for one who is about to go by them without a request.
    pub fn look_for_rules(&self) {
        self.inner.look_for_rules();
    }

    /// A path to a node has broken: nothing that was agreed with it is taken for granted.
    pub fn broken(&self, node: NodeId) {
        self.inner.cache().forget(node);
    }

    /// The last requests that were refused.
    pub fn refused(&self) -> Vec<Line> {
        self.inner.called().audit().lines().cloned().collect()
    }

    /// How many requests were refused for this reason.
    pub fn refusals(&self, reason: Reason) -> u64 {
        self.inner.called().audit().refusals(reason)
    }

    /// Connects to a service of another node, by the first stack of those that both sides allow that comes up, in `limit` (at
    /// most a minute).
    ///
    /// # Errors
    /// All reasons, of both sides.
    pub fn connect(&self, to: NodeId, wanted: Wanted, limit: Duration) -> Result<Path, NoPath> {
        self.agree(to, wanted, limit).map(|agreed| agreed.path)
    }

    /// Ends all that are connecting, and whoever will: for the end of what builds. Waits for threads that connect: the builder is to
    /// let them go before.
    pub fn close(&self) {
        let callers = self.inner.callers().take().unwrap_or_default();
        callers.into_values().for_each(|caller| drop(caller.send(Heard::Closed)));
        let beside = self.inner.beside().take().unwrap_or_default();
        beside.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// As [`Self::connect`], with what was tried before.
    ///
    /// # Errors
    /// As there.
    pub fn agree(&self, to: NodeId, wanted: Wanted, limit: Duration) -> Result<Agreed, NoPath> {
        let deadline = Instant::now() + limit.min(LIMIT_MAX);
        let (caller, actions) = Caller::begin(&self.inner, (to, wanted), (deadline, deadline), None)?;
        caller.run(actions)
    }

    /// As [`Self::agree`], for one who does not wait: what there is to do is asked of [`Pending`], when `bell` has rung, and now.
    ///
    /// # Errors
    /// As there; also when others connect there, and have the turn.
    pub fn begin(&self, to: NodeId, wanted: Wanted, limit: Duration, bell: Bell) -> Result<Pending, NoPath> {
        let now = Instant::now();
        let (caller, actions) =
            Caller::begin(&self.inner, (to, wanted), (now + limit.min(LIMIT_MAX), now), Some(bell))?;
        Ok(Pending::new(caller, actions))
    }
}

impl Inner {
    pub(super) fn called(&self) -> MutexGuard<'_, Called> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn callers(&self) -> MutexGuard<'_, Option<BTreeMap<u64, Sender<Heard>>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beside(&self) -> MutexGuard<'_, Option<Vec<JoinHandle<()>>>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With [`Self::changing`].
    fn change_rules(&self, rules: Rules) {
        {
            // Nothing is judged by the new rules before it is known that they are new.
            let mut in_force = self.rules.write().unwrap_or_else(PoisonError::into_inner);
            *in_force = rules.clone();
            self.called().rules_changed();
        }
        self.cache().clear();
        if let Some(shared) = self.shared.upgrade() {
            shared.rule_lines(rules);
        }
        self.builder.revoke_grants();
    }

    /// Takes other rules, if there are.
    fn look_for_rules(&self) {
        let _changing = self.changing();
        if let Some(rules) = self.builder.new_rules() {
            self.change_rules(rules);
        }
    }

    /// What the rules of this side say of a connection.
    pub(super) fn wish(
        &self,
        shared: &Shared,
        to: NodeId,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Wish, NoPath> {
        let unknown = || {
            NoPath::Session(Error::Refused(Refusal::NoRoute, format!("node {to} is not in the directory")))
        };
        if to == shared.node {
            return Err(NoPath::Session(Error::Config("a member does not ask itself".into())));
        }
        self.look_for_rules();
        let other = shared.facts(to).ok_or_else(unknown)?;
        let Wanted { service, min_security, first } = wanted;
        let pair = Pair { from: &shared.own_facts(), to: &other, service: &service };
        let choice = {
            let rules = self.rules();
            let choice = Choice::new(&rules, &pair, min_security);
            match self.builder.shared() {
                Some(all) => choice.shared(&rules, &pair, &all),
                None => choice,
            }
        };
        let hint = |stack| (format!("{stack}"), self.builder.hint(to, stack));
        let hints = choice.candidates.iter().map(|candidate| hint(&candidate.stack)).collect();
        Ok(Wish { to, service, choice, hints, first: first.into(), deadline })
    }

    /// Answers a request of another member.
    fn answer(&self, from: NodeId, body: &[u8]) -> Result<Vec<u8>, String> {
        let shared = self.shared.upgrade().ok_or("the member has ended")?;
        self.look_for_rules();
        let (own, facts) = (shared.own_facts(), shared.facts(from));
        let mut step = {
            let rules = self.rules();
            let view = View { rules: &rules, own: &own, from: facts.as_ref() };
            self.called().take(from, body, &view, Instant::now())
        };
        let mut built: Option<Order> = None;
        loop {
            match step {
                Step::Answer(answer) => return Ok(answer),
                Step::Malformed(why) => return Err(why),
                Step::Close(before, answer) => {
                    self.builder.close(&before);
                    return Ok(answer);
                }
                Step::Unwanted => return Err("nobody waits for it any more".to_owned()),
                Step::Built { first, answer } => {
                    if let Some(order) = &built {
                        self.builder.begin(order, first.into_bytes());
                    }
                    return Ok(answer);
                }
                Step::Build(order) => {
                    let outcome = self.build(&order);
                    let stands = outcome.is_ok();
                    step = {
                        let (rules, facts) = (self.rules(), shared.facts(from));
                        let view = View { rules: &rules, own: &shared.own_facts(), from: facts.as_ref() };
                        self.called().built(&order.key, outcome, &view, Instant::now())
                    };
                    if stands && !matches!(step, Step::Built { .. }) {
                        self.builder.close(&order.key);
                    }
                    built = Some(*order);
                }
            }
        }
    }

    /// Builds in the place of what was built for an earlier try. A builder that panics has not built: the try goes on.
    fn build(&self, order: &Order) -> Result<Vec<u8>, String> {
        let build = || {
            if let Some(before) = &order.replaces {
                self.builder.close(before);
            }
            self.builder.build(order)
        };
        std::panic::catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| {
            // What it has left behind is not known.
            self.builder.close(&order.key);
            Err("building it has panicked".to_owned())
        })
    }
}

impl Shared {
    /// What the directory says of a node.
    pub(super) fn facts(&self, node: NodeId) -> Option<Facts> {
        let state = self.lock();
        state.follower.directory().entry(node).map(crate::directory::Entry::facts)
    }

    pub(super) fn own_facts(&self) -> Facts {
        Facts {
            node: self.node,
            label: self.about.label.clone(),
            cluster: self.cluster.clone(),
            leads: self.lock().leading.is_some(),
            offer: self.about.offer.clone().unwrap_or_default(),
        }
    }
}
