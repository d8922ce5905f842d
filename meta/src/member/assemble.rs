//! Assembly between members: requests of `gridnet-assembly`, carried by those between members.
//!
//! Who asks is proved by the conversation that a request comes in; what is known of it is what the directory says.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gridnet_assembly::audit::Line;
use gridnet_assembly::cache::Cache;
use gridnet_assembly::call::{Action, Call, Failure, Path, Wish};
use gridnet_assembly::called::{Called, Order, Step, View, CONNECTIONS_MAX};
use gridnet_assembly::choice::Choice;
use gridnet_assembly::facts::Facts;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::name::Name;
use gridnet_assembly::rules::{Pair, Rules};
use gridnet_assembly::stack::Security;
use gridnet_assembly::Builder;
use gridnet_core::sync::{AtomicU64, Ordering};
use gridnet_core::wire::NodeId;

use super::state::Shared;
use super::turn::Turns;
use super::Member;
use crate::error::{Error, Refusal};
use crate::office::{Told, LIMIT_MAX};

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
    inner: Arc<Inner>,
}

struct Inner {
    shared: Weak<Shared>,
    builder: Arc<dyn Builder>,
    rules: RwLock<Rules>,
    /// Held while other rules come into force: nobody goes on by the old ones meanwhile, and of two the later ones stay.
    changing: Mutex<()>,
    called: Mutex<Called>,
    cache: Mutex<Cache>,
    incarnation: u64,
    turns: Arc<Turns>,
    /// Those who are connecting, by number; nothing when none is to any more.
    callers: Mutex<Option<BTreeMap<u64, Sender<Heard>>>>,
    last_caller: AtomicU64,
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
        let inner = Arc::new(Inner {
            shared: Arc::downgrade(&self.shared),
            builder,
            rules: RwLock::new(rules),
            changing: Mutex::default(),
            called: Mutex::new(Called::new(incarnation)),
            cache: Mutex::default(),
            incarnation,
            turns: Arc::new(Turns::new(OPEN_MAX, CONNECTIONS_MAX as u64)),
            callers: Mutex::new(Some(BTreeMap::new())),
            last_caller: AtomicU64::new(0),
            beside: Mutex::new(Some(Vec::new())),
        });
        let in_force = inner.rules().clone();
        self.shared.rule_lines(in_force);
        let answers = inner.clone();
        self.serve(ASSEMBLY, move |from, body| answers.answer(from, body));
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
        let gone = || NoPath::Session(Error::Refused(Refusal::Late, "this member has ended".into()));
        let shared = self.inner.shared.upgrade().ok_or_else(gone)?;
        let deadline = Instant::now() + limit.min(LIMIT_MAX);
        let late = || {
            NoPath::Session(Error::Refused(Refusal::Late, "others connect there, and had the turn".into()))
        };
        let turn = self.inner.turns.wait(to, deadline).ok_or_else(late)?;
        let now = Instant::now();
        let wish = self.inner.wish(&shared, to, wanted, deadline)?;
        let (call, actions) =
            Call::begin(wish, (self.inner.incarnation, turn.number), &mut self.inner.cache(), now);
        let (tell, told) = std::sync::mpsc::channel();
        // Relaxed: a number that nobody else has.
        let number = self.inner.last_caller.fetch_add(1, Ordering::Relaxed);
        self.inner.callers().as_mut().ok_or_else(gone)?.insert(number, tell.clone());
        let agreed = Caller { inner: &self.inner, shared, call, deadline, paths: Arc::default(), tell, told }
            .run(actions);
        self.inner.callers().as_mut().and_then(|callers| callers.remove(&number));
        agreed
    }
}

impl Inner {
    fn called(&self) -> MutexGuard<'_, Called> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn callers(&self) -> MutexGuard<'_, Option<BTreeMap<u64, Sender<Heard>>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beside(&self) -> MutexGuard<'_, Option<Vec<JoinHandle<()>>>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
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
    fn wish(&self, shared: &Shared, to: NodeId, wanted: Wanted, deadline: Instant) -> Result<Wish, NoPath> {
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
            Choice::new(&rules, &pair, min_security)
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

/// What a call hears.
enum Heard {
    Answer(Result<Vec<u8>, Error>),
    Path(u32, Result<(), String>),
    Closed,
}

/// The paths of a call that are wanted, by number, and whether each stands.
#[derive(Default)]
struct Wanting(Mutex<BTreeMap<u32, (Path, bool)>>);

impl Wanting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, (Path, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, path: Path) {
        self.lock().insert(path.number, (path, false));
    }

    fn connect(&self, builder: &dyn Builder, to: NodeId, path: &Path, by: Instant) -> Result<(), String> {
        let outcome = builder.connect(to, path, by);
        let is_wanted = match self.lock().get_mut(&path.number) {
            Some((_, stands)) => {
                *stands = outcome.is_ok();
                true
            }
            None => false,
        };
        if outcome.is_ok() && !is_wanted {
            builder.disconnect(to, path);
        }
        outcome
    }

    /// Ends one. What does not stand yet ends when it does.
    fn end(&self, builder: &dyn Builder, to: NodeId, number: u32) {
        let ended = self.lock().remove(&number);
        if let Some((path, true)) = ended {
            builder.disconnect(to, &path);
        }
    }
}

/// One call, on the thread that makes it.
struct Caller<'a> {
    inner: &'a Inner,
    shared: Arc<Shared>,
    call: Call,
    deadline: Instant,
    paths: Arc<Wanting>,
    tell: Sender<Heard>,
    told: Receiver<Heard>,
}

impl Caller<'_> {
    fn run(mut self, mut actions: Vec<Action>) -> Result<Agreed, NoPath> {
        loop {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Up(path) => {
                        return Ok(Agreed { path: *path, failure: self.call.failure().clone() });
                    }
                    Action::Failed(why) => return Err(NoPath::Stacks(why)),
                    Action::Say(body) => self.say(body),
                    Action::Connect(path) => self.connect(path),
                    Action::Close(number) => {
                        self.paths.end(&*self.inner.builder, self.call.to(), number);
                    }
                }
            }
            let next = self.call.next_look().unwrap_or(self.deadline);
            let heard = self.told.recv_timeout(next.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            let mut cache = self.inner.cache();
            actions = match heard {
                Ok(Heard::Answer(Ok(body))) => self.call.heard(&body, &mut cache, now),
                Ok(Heard::Path(number, outcome)) => self.call.connected(number, outcome, &mut cache, now),
                Ok(Heard::Answer(Err(why))) => match why {
                    Error::Refused(Refusal::Service, _) => {
                        self.call.unserved(&why.to_string(), &mut cache, now)
                    }
                    // Nothing that is asked later would be heard.
                    Error::Refused(Refusal::Revoked, _) | Error::Config(_) => {
                        self.call.give_up(&why.to_string(), &mut cache)
                    }
                    _ => {
                        self.call.lost(&why.to_string());
                        Vec::new()
                    }
                },
                Ok(Heard::Closed) => self.call.give_up("this side is closing", &mut cache),
                Err(_) => self.call.look(now),
            };
        }
    }

    /// Asks the other member, until it would be asked again.
    fn say(&self, body: Vec<u8>) {
        let now = Instant::now();
        let until = self.call.next_look().unwrap_or(self.deadline).max(now);
        let tell = self.tell.clone();
        let tell = Box::new(move |Told { outcome, .. }| drop(tell.send(Heard::Answer(outcome))));
        self.shared.post.office().ask(self.call.to(), (ASSEMBLY, body), (now, until), tell);
        self.shared.send_all();
    }

    /// Connects. Where somebody may say meanwhile that it leads elsewhere, another thread does.
    fn connect(&self, path: Path) {
        let (to, deadline, number) = (self.call.to(), self.deadline, path.number);
        self.paths.add(path.clone());
        let (builder, paths, tell) = (self.inner.builder.clone(), self.paths.clone(), self.tell.clone());
        let is_again = path.again.is_some();
        let connect = move || {
            let outcome = paths.connect(&*builder, to, &path, deadline);
            drop(tell.send(Heard::Path(number, outcome)));
        };
        if !is_again {
            return connect();
        }
        let mut beside = self.inner.beside();
        let Some(beside) = beside.as_mut() else {
            return drop(self.tell.send(Heard::Path(number, Err("this side is closing".to_owned()))));
        };
        beside.retain(|thread| !thread.is_finished());
        match std::thread::Builder::new().name("gridnet-connect".into()).spawn(connect) {
            Ok(thread) => beside.push(thread),
            Err(why) => drop(self.tell.send(Heard::Path(number, Err(format!("no thread: {why}"))))),
        }
    }
}
