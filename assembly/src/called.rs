//! The node that is asked: judges requests by its own rules, has stacks built, and answers. Each request takes effect once.
//!
//! Somebody else builds: what is to be built comes out, and how it went comes in. Whoever carries requests says who has sent
//! them, which must be proved, and what is known of that node.

mod asker;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use crate::audit::Audit;
use crate::choice::{accept, shares, Reason};
use crate::data::{Data, Hidden};
use crate::facts::Facts;
use crate::message::{Ask, Built, Failed, Grant, Outcome, Refusal, Reply, PLACE_BYTES_MAX};
use crate::name::Name;
use crate::rules::{Pair, Rules};
use crate::stack::{Security, Stack};
use crate::standing::Denied;

use asker::{Asker, Known};

/// Nodes that are remembered; more are refused, unless one has not asked for [`FORGOTTEN_AFTER`].
const ASKERS_MAX: usize = 16_384;
/// After that no request is on its way any more that was sent before: twice the longest time that one may take.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// How often it is looked which nodes can be forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Connections of one node whose answers are remembered: those with the highest numbers. What is asked of others is over.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest time that a request may take.
pub const LIMIT_MAX: Duration = Duration::from_secs(60);
/// Requests that are heard of one node in a second, unless it is said otherwise.
pub const PER_SECOND: u32 = 50;

/// A try at a connection: who asks, and the numbers that it has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Who asks.
    pub from: NodeId,
    /// Which life of it.
    pub incarnation: u64,
    /// Number of the connection.
    pub connection: u64,
    /// How often it was tried before.
    pub attempt: u16,
}

/// What is to be built.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// For which try.
    pub key: Key,
    /// What the connection is for.
    pub service: Name,
    /// The stack.
    pub stack: Stack,
    /// How safe it is between these two.
    pub security: Security,
    /// What the method of the other side wants to be known.
    pub hint: Vec<u8>,
    /// Another try at the same connection, which is over: what was built for it is not needed.
    pub replaces: Option<Key>,
    /// The other side may be connecting already, to the place that goes with this grant.
    pub again: Option<Grant>,
    /// Nobody waits for it any more then.
    pub deadline: Instant,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { key, service, stack, security, hint, replaces, again, deadline } = self;
        f.debug_struct("Order")
            .field("key", key)
            .field("service", service)
            .field("stack", stack)
            .field("security", security)
            .field("hint", &Hidden(hint))
            .field("replaces", replaces)
            .field("again", again)
            .field("deadline", deadline)
            .finish()
    }
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Answer this.
    Answer(Vec<u8>),
    /// Nothing takes the place of what was built for this earlier try at the same connection, which is over: close that, then answer
    /// this.
    Close(Key, Vec<u8>),
    /// It stands. First the service gets these first bytes of the connection, which it gets once, then answer this.
    Built {
        /// The first bytes; none when there are none, or the service has them.
        first: Data,
        /// The answer.
        answer: Vec<u8>,
    },
    /// Build this, and say how it went by [`Called::built`]. What was built stands only if [`Step::Built`] follows.
    Build(Box<Order>),
    /// The request makes no sense: there is no answer in this protocol.
    Malformed(String),
    /// It was built too late: it is not needed.
    Unwanted,
}

/// What the one that is asked goes by.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its own rules.
    pub rules: &'a Rules,
    /// What it says of itself.
    pub own: &'a Facts,
    /// What it knows of the node that asks.
    pub from: Option<&'a Facts>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Called {
    incarnation: u64,
    /// Number of the rules in force.
    policy: u64,
    last_token: u64,
    per_second: u32,
    services: BTreeSet<Name>,
    /// What all services share, where they share something.
    all: Option<Name>,
    askers: HashMap<NodeId, Asker>,
    audit: Audit,
    look_at: Option<Instant>,
}

impl Called {
    /// One that answers for no service yet; `incarnation` is greater in each life.
    pub fn new(incarnation: u64) -> Called {
        Called {
            incarnation,
            policy: 1,
            last_token: 0,
            per_second: PER_SECOND,
            services: BTreeSet::new(),
            all: None,
            askers: HashMap::new(),
            audit: Audit::default(),
            look_at: None,
        }
    }

    /// The same, hearing so many requests of one node in a second.
    #[must_use]
    pub fn with_rate(self, per_second: u32) -> Called {
        Called { per_second: per_second.max(1), ..self }
    }

    /// The same, where a path for one service is that of this one, too: its rules hold for all.
    #[must_use]
    pub fn sharing(self, all: Option<Name>) -> Called {
        Called { all, ..self }
    }

    /// There is such a service from now on.
    pub fn serve(&mut self, service: Name) {
        self.services.insert(service);
    }

    /// There is no such service any more.
    pub fn end_service(&mut self, service: &Name) {
        self.services.remove(service);
        self.askers.values_mut().for_each(|asker| asker.forget_grants_of(service));
    }

    /// Other rules are in force, or its own node can do something else: nobody connects any more without having asked.
    pub fn rules_changed(&mut self) {
        self.policy += 1;
        self.askers.values_mut().for_each(|asker| asker.forget_grants());
    }

    /// Refuses something that a node wants to go over a path that stands. It does not pass through [`Self::take`], which counts how often
    /// it asks: so a line comes now and then only, and a count always.
    pub fn refuse_on(&mut self, who: NodeId, denied: &Denied, now: Instant) {
        self.audit.refused_now_and_then(who, denied.refusal, &denied.why, now);
    }

    /// What was refused.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Takes a request.
    pub fn take(&mut self, from: NodeId, body: &[u8], view: &View<'_>, now: Instant) -> Step {
        let ask = match Ask::decode(body) {
            Ok(ask) => ask,
            Err(why) => {
                let is_heard = self.asker(from, now).is_some_and(|asker| asker.may_ask(now));
                if is_heard {
                    self.audit.refused(from, Refusal::Malformed, &why);
                } else {
                    self.audit.count(Refusal::Rate);
                }
                return Step::Malformed(why);
            }
        };
        let key =
            Key { from, incarnation: ask.incarnation, connection: ask.connection, attempt: ask.attempt };
        match self.hear(&key, now) {
            Ok(replaces) => match (self.judge(ask, key, replaces, view, now), replaces) {
                (Step::Answer(answer), Some(before)) => Step::Close(before, answer),
                (step, _) => step,
            },
            Err(step) => step,
        }
    }

    /// How it went: where to connect, or why it was not built. It is judged by the rules of now: anything but [`Step::Built`] means
    /// that what was built is not needed.
    pub fn built(
        &mut self,
        key: &Key,
        outcome: Result<Vec<u8>, String>,
        view: &View<'_>,
        now: Instant,
    ) -> Step {
        let work = self.askers.get_mut(&key.from).and_then(|asker| asker.take_work(key));
        let Some(mut work) = work else { return Step::Unwanted };
        let (index, is_late) = (work.index(), now >= work.deadline);
        let place = outcome.and_then(|place| match place.len() <= PLACE_BYTES_MAX {
            true => Ok(place),
            false => Err("the place is too long to be told".to_owned()),
        });
        let (refusal, why) = match (self.judge_again(&mut work, view), place) {
            (Some(refused), _) => refused,
            (None, Ok(_)) if is_late => {
                self.finish(key, &work, Outcome::Refused(Refusal::Late, "it took too long".into()));
                return Step::Unwanted;
            }
            (None, Ok(place)) => return self.stands(key, work, place),
            (None, Err(why)) => (Refusal::Build, why),
        };
        work.failed.push(Failed { index, refusal, why: why.clone() });
        match work.next() {
            Some(order) if !is_late => {
                if let Some(asker) = self.askers.get_mut(&key.from) {
                    asker.works(key, work);
                }
                Step::Build(Box::new(order))
            }
            _ if refusal == Refusal::Build => {
                let why = "none of the stacks could be built".to_owned();
                Step::Answer(self.finish(key, &work, Outcome::Refused(Refusal::Build, why)))
            }
            _ => self.end(key, refusal, &format!("by rules that came meanwhile: {why}"), work.failed),
        }
    }

    /// Leaves out what the rules do not accept any more, where they have changed; why they do not accept what is being built.
    fn judge_again(&self, work: &mut asker::Work, view: &View<'_>) -> Option<(Refusal, String)> {
        let is_served = self.services.contains(&work.service);
        if is_served && work.policy == self.policy {
            return None;
        }
        let (service, least) = (work.service.clone(), work.least);
        work.keep(|stack| match view.from {
            _ if !is_served => Err((Refusal::Service, format!("there is no service {service} any more"))),
            None => Err((Refusal::Unknown, "this node does not know it any more".to_owned())),
            Some(from) => {
                let pair = Pair { from, to: view.own, service: &service };
                judge(view.rules, &pair, self.all.as_ref(), stack, least).map(drop)
            }
        })
    }

    /// It was built, and is wanted.
    fn stands(&mut self, key: &Key, work: asker::Work, place: Vec<u8>) -> Step {
        // What was begun by rules that are not in force any more is good for this connection only.
        let is_granted = work.policy == self.policy;
        let grant = is_granted.then_some(Grant { incarnation: self.incarnation, token: self.last_token + 1 });
        if let (Some(grant), Some(asker)) = (grant, self.askers.get_mut(&key.from)) {
            self.last_token = grant.token;
            asker.grant(grant, &work.service, &work.stack().to_string());
        }
        let answer = self.finish(key, &work, Outcome::Built(Built { index: work.index(), place, grant }));
        Step::Built { first: work.first, answer }
    }

    /// The answer to a try, from now on.
    fn finish(&mut self, key: &Key, work: &asker::Work, outcome: Outcome) -> Vec<u8> {
        let is_built = matches!(outcome, Outcome::Built(_));
        let answer = work.answer(self.incarnation, outcome);
        if let Some(asker) = self.askers.get_mut(&key.from) {
            asker.answered(key, answer.clone(), is_built);
        }
        answer
    }

    /// Forgets nodes that have not asked for long.
    fn look(&mut self, now: Instant) {
        self.look_at = Some(now + LOOK_EVERY);
        self.askers.retain(|_, asker| !asker.is_idle(now, FORGOTTEN_AFTER));
    }

    /// A node is gone for good.
    pub fn forget(&mut self, node: NodeId) {
        self.askers.remove(&node);
    }

    /// Whether something was asked for the first time; the try before it, if there was one.
    fn hear(&mut self, key: &Key, now: Instant) -> Result<Option<Key>, Step> {
        let Some(asker) = self.asker(key.from, now) else {
            // Nobody counts how often those ask: one line for all of them.
            let is_news = self.audit.lines().last().is_none_or(|line| line.refusal != Refusal::Limit);
            return Err(self.refuse_often(key, Refusal::Limit, "too many nodes ask this one", is_news));
        };
        if !asker.may_ask(now) {
            let is_news = asker.note_limited();
            return Err(self.refuse_often(key, Refusal::Rate, "it asks too often", is_news));
        }
        match asker.judge(key) {
            Known::New(replaces) => Ok(replaces),
            Known::Answered(answer) => Err(Step::Answer(answer)),
            Known::Busy => Err(self.refusal(key, Refusal::Busy, "it is being built")),
            Known::Over => Err(self.refuse(key, Refusal::Replayed, "this request is over")),
        }
    }

    fn judge(&mut self, ask: Ask, key: Key, replaces: Option<Key>, view: &View<'_>, now: Instant) -> Step {
        if !self.services.contains(&ask.service) {
            let why = format!("there is no service {}", ask.service);
            return self.end(&key, Refusal::Service, &why, Vec::new());
        }
        let Some(from) = view.from else {
            return self.end(&key, Refusal::Unknown, "this node does not know it", Vec::new());
        };
        let pair = Pair { from, to: view.own, service: &ask.service };
        let least = ask.min_security.security();
        let mut failed = Vec::new();
        let mut accepted = Vec::new();
        for (index, wanted) in (0u16..).zip(&ask.candidates) {
            let judged = wanted.stack.parse::<Stack>().map_err(|e| (Refusal::Policy, e.to_string()));
            let judged = judged.and_then(|stack| {
                let least =
                    least.ok_or_else(|| (Refusal::Security, "nothing is as safe as that".to_owned()))?;
                let is = judge(view.rules, &pair, self.all.as_ref(), &stack, least)?;
                Ok(asker::Accepted { index, stack, security: is, hint: wanted.hint.clone() })
            });
            match judged {
                Ok(one) => accepted.push(one),
                Err((refusal, why)) => failed.push(Failed { index, refusal, why }),
            }
        }
        let weak = failed.iter().find(|failed| failed.refusal == Refusal::Security);
        if accepted.is_empty() {
            let refusal = weak.map_or(Refusal::Policy, |weak| weak.refusal);
            let why = weak.or(failed.first()).map_or_else(String::new, |failed| failed.why.clone());
            return self.end(&key, refusal, &format!("none of its stacks is accepted: {why}"), failed);
        }
        if let Some(weak) = weak {
            // Something else is left, but that it was asked for is to be seen.
            self.audit.refused(key.from, Refusal::Security, &weak.why);
        }
        let policy = self.policy;
        let Some(asker) = self.askers.get_mut(&key.from) else { return Step::Unwanted };
        let granted = ask.again.and_then(|grant| Some((grant, asker.granted(grant, &ask.service)?)));
        let deadline = now + Duration::from_millis(ask.left_ms.into()).min(LIMIT_MAX);
        let had_first = replaces.is_some_and(|_| asker.had_first(&key));
        let first = if had_first { Data::default() } else { ask.first };
        let mut work = asker::Work::new(
            (key, ask.service),
            (accepted, failed),
            (first, replaces),
            (policy, least.unwrap_or(Security::Encrypted), deadline),
        );
        if let Some((grant, stack)) = granted {
            work.prefer(&stack, grant);
        }
        let Some(order) = work.next() else { return Step::Unwanted };
        asker.works(&key, work);
        Step::Build(Box::new(order))
    }

    fn asker(&mut self, from: NodeId, now: Instant) -> Option<&mut Asker> {
        if self.look_at.is_none_or(|at| now >= at) {
            self.look(now);
        }
        if self.askers.len() >= ASKERS_MAX && !self.askers.contains_key(&from) {
            self.look(now);
            if self.askers.len() >= ASKERS_MAX {
                return None;
            }
        }
        let per_second = self.per_second;
        Some(self.askers.entry(from).or_insert_with(|| Asker::new(per_second, now)))
    }

    /// Refuses a try for good, with an audit line; the same answer from now on.
    fn end(&mut self, key: &Key, refusal: Refusal, why: &str, failed: Vec<Failed>) -> Step {
        match refusal {
            // Other tries follow, in case it was too early.
            Refusal::Unknown | Refusal::Service => self.audit.refused_once(key.from, refusal, why),
            _ => self.audit.refused(key.from, refusal, why),
        }
        let outcome = Outcome::Refused(refusal, why.to_owned());
        let answer = reply(self.incarnation, key, outcome, failed);
        if let Some(asker) = self.askers.get_mut(&key.from) {
            asker.answered(key, answer.clone(), false);
        }
        Step::Answer(answer)
    }

    /// Refuses with an audit line, without remembering it.
    fn refuse(&mut self, key: &Key, refusal: Refusal, why: &str) -> Step {
        self.audit.refused(key.from, refusal, why);
        self.refusal(key, refusal, why)
    }

    /// The same, with a line only if it is news.
    fn refuse_often(&mut self, key: &Key, refusal: Refusal, why: &str, is_news: bool) -> Step {
        if is_news {
            return self.refuse(key, refusal, why);
        }
        self.audit.count(refusal);
        self.refusal(key, refusal, why)
    }

    fn refusal(&self, key: &Key, refusal: Refusal, why: &str) -> Step {
        Step::Answer(reply(self.incarnation, key, Outcome::Refused(refusal, why.to_owned()), Vec::new()))
    }
}

/// Whether the rules accept a stack, for what all services share, too: how safe it is, or why not.
fn judge(
    rules: &Rules,
    pair: &Pair<'_>,
    all: Option<&Name>,
    stack: &Stack,
    least: Security,
) -> Result<Security, (Refusal, String)> {
    let accepted = accept(rules, pair, stack, least)
        .and_then(|is| all.map_or(Ok(()), |all| shares(rules, pair, all, stack, is)).map(|()| is));
    accepted.map_err(|reason| {
        let why = format!("{reason}{}", rules.policy(pair).behind());
        match reason {
            Reason::TooWeak { .. } | Reason::Shared { weak: Some(_), .. } => (Refusal::Security, why),
            _ => (Refusal::Policy, why),
        }
    })
}

fn reply(incarnation: u64, key: &Key, outcome: Outcome, failed: Vec<Failed>) -> Vec<u8> {
    let reply = Reply { incarnation, connection: key.connection, attempt: key.attempt, outcome, failed };
    // Reasons and places are bounded: it always fits.
    reply.encode().unwrap_or_default()
}

#[cfg(test)]
mod tests;
