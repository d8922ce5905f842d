//! The node that asks: one connection, from the first request until it stands or all stacks have failed.
//!
//! What is to be said and done comes out as [`Action`]s; answers, paths that came up or failed, and time come in. Where somebody
//! has been connected to before, it connects at once, while it asks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use crate::cache::{Agreed, Cache};
use crate::choice::{Candidate, Choice, Reason};
use crate::data::Data;
use crate::message::{bounded, Ask, Built, Failed, Grant, Level, Outcome, Refusal, Reply, Wanted};
use crate::message::{CANDIDATES_MAX, FIRST_BYTES_MAX};
use crate::name::Name;
use crate::stack::{Security, Stack};

/// A request without an answer is said again after so long, and then after twice that, up to the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(12));
/// One that was put off is said again after so long, and then after twice that.
const AGAIN_SOON: Duration = Duration::from_millis(100);
/// A path that was made at once, and has failed sooner than that, is made once more when the answer leads there: it may have come there
/// before the request did, and have been refused. One that nobody answers takes longer.
const TOO_EARLY: Duration = Duration::from_secs(2);

/// For so long a node without the service is asked again: it may be just starting.
const STARTING: Duration = Duration::from_secs(2);
/// For so long a stack that came up although it is not the best is taken at once: then better ones have their turn again.
const SECOND_BEST: Duration = Duration::from_secs(30);

/// What is said where there is nothing to be tried.
const NONE_ALLOWED: &str = "no stack is allowed";

/// A connection that somebody wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// To which node.
    pub to: NodeId,
    /// For which service.
    pub service: Name,
    /// What the rules say.
    pub choice: Choice,
    /// What the methods want the other side to know, by stack.
    pub hints: BTreeMap<String, Vec<u8>>,
    /// Data that travels with the request: at most [`FIRST_BYTES_MAX`].
    pub first: Data,
    /// When it is given up.
    pub deadline: Instant,
}

/// A path that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Number of the connection, and of the try at it: the other side knows it by them.
    pub connection: u64,
    /// See [`Path::connection`].
    pub attempt: u16,
    /// Which path of this connection it is.
    pub number: u32,
    /// The stack.
    pub stack: Stack,
    /// How safe it is between these two.
    pub security: Security,
    /// Where to connect, as the method wrote it.
    pub place: Vec<u8>,
    /// It goes to a place where a connection was made before.
    pub again: Option<Grant>,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the other node this. What it answers goes to [`Call::heard`]; without an answer it is asked again by itself.
    Say(Vec<u8>),
    /// Make this path, and say how it went by [`Call::connected`].
    Connect(Path),
    /// End the path of this number: it is not needed.
    Close(u32),
    /// The connection stands, by this path. The last action.
    Up(Box<Path>),
    /// It does not. The last action.
    Failed(Box<Failure>),
}

/// A stack that did not do, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The stack; `None`: all of them.
    pub stack: Option<Stack>,
    /// Why, as the other side has said it; `None`: this side knows.
    pub refusal: Option<Refusal>,
    /// The same for people.
    pub why: String,
}

/// Why a connection does not stand: all reasons, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stacks that the rules of this side left out.
    pub left_out: Vec<(Stack, Reason)>,
    /// The rule by which they were, for people; nothing when none matches.
    pub by: String,
    /// Those that were tried.
    pub tried: Vec<Tried>,
}

impl Failure {
    /// Whether the rules of this side, and what was asked for, have left nothing to be tried.
    pub fn is_none_allowed(&self) -> bool {
        matches!(&self.tried[..], [Tried { stack: None, refusal: None, why }] if why == NONE_ALLOWED)
    }

    /// All reasons, each for itself: what the other side wrote cannot look like another one.
    pub fn reasons(&self) -> Vec<String> {
        let tried = self.tried.iter().map(|tried| {
            let refused =
                tried.refusal.map_or(String::new(), |refusal| format!("refused ({}): ", refusal.name()));
            let stack = tried.stack.as_ref().map_or(String::new(), |stack| format!("{stack}: "));
            format!("{stack}{refused}{}", tried.why)
        });
        let left_out =
            self.left_out.iter().map(|(stack, reason)| format!("{stack} not tried: {reason}{}", self.by));
        tried.chain(left_out).collect()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons().join("; "))
    }
}

impl std::error::Error for Failure {}

#[derive(Debug)]
enum Tie {
    /// There is none yet, or none any more.
    None,
    Connecting(Path),
    Up(Path),
    /// It failed before the other side has answered.
    Broken(Path),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Call {
    to: NodeId,
    service: Name,
    incarnation: u64,
    connection: u64,
    attempt: u16,
    least: Security,
    /// What is left to try.
    candidates: Vec<Candidate>,
    hints: BTreeMap<String, Vec<u8>>,
    again: Option<Agreed>,
    first: Data,
    begun: Instant,
    /// When this try began.
    asked_at: Instant,
    deadline: Instant,
    failure: Failure,
    tie: Tie,
    paths: u32,
    /// What the other side has answered to this try.
    is_answered: bool,
    asks_at: Instant,
    pause: Duration,
    /// Why it was put off.
    put_off: Option<String>,
    is_over: bool,
}

impl Call {
    /// Begins one: `incarnation` is greater in each life of this node, `connection` for each one of this life.
    pub fn begin(
        wish: Wish,
        (incarnation, connection): (u64, u64),
        cache: &mut Cache,
        now: Instant,
    ) -> (Call, Vec<Action>) {
        let Wish { to, service, choice, hints, first, deadline } = wish;
        let known = cache.find(to, &service);
        let is_one =
            |agreed: &Agreed| match choice.candidates.iter().position(|one| one.stack == agreed.stack) {
                Some(0) => true,
                Some(_) => now.saturating_duration_since(agreed.since) < SECOND_BEST,
                None => false,
            };
        let again = known.filter(|agreed| agreed.security >= choice.least && is_one(agreed));
        let mut candidates = choice.candidates;
        candidates.truncate(CANDIDATES_MAX);
        let by = choice.policy.behind();
        let failure = Failure { left_out: choice.left_out, by, tried: Vec::new() };
        let mut call = Call {
            to,
            service,
            incarnation,
            connection,
            attempt: 0,
            least: choice.least,
            candidates,
            hints,
            again,
            first,
            begun: now,
            asked_at: now,
            deadline,
            failure,
            tie: Tie::None,
            paths: 0,
            is_answered: false,
            asks_at: now,
            pause: AGAIN.0,
            put_off: None,
            is_over: false,
        };
        let actions = match call.first.len() > FIRST_BYTES_MAX {
            true => call.end(Some((None, None, "there is too much data in the request".to_owned()))),
            false => call.ask(now),
        };
        (call, actions)
    }

    /// To whom.
    pub fn to(&self) -> NodeId {
        self.to
    }

    /// The stack that is asked for first, of those that are left.
    pub fn first_choice(&self) -> Option<&Stack> {
        self.candidates.first().map(|one| &one.stack)
    }

    /// What did not do so far, and what was left out.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The other side has answered.
    pub fn heard(&mut self, body: &[u8], cache: &mut Cache, now: Instant) -> Vec<Action> {
        if self.is_over {
            return Vec::new();
        }
        let reply = match Reply::decode(body) {
            Ok(reply) => reply,
            Err(why) => return self.nonsense(&why, cache),
        };
        let is_mine = (reply.connection, reply.attempt) == (self.connection, self.attempt);
        if !is_mine || self.is_answered {
            // Of an earlier try, or a second time.
            return Vec::new();
        }
        cache.seen(self.to, reply.incarnation);
        match reply.outcome {
            Outcome::Refused(refusal @ (Refusal::Busy | Refusal::Rate), why) => {
                self.put_off(refusal, &why, now);
                Vec::new()
            }
            Outcome::Refused(refusal, why) if self.may_change(refusal, now) => {
                self.put_off(refusal, &why, now);
                // The other side has refused this try for good.
                self.attempt += 1;
                self.leave_path(cache)
            }
            Outcome::Refused(refusal, why) => {
                cache.forget(self.to);
                self.note(&reply.failed);
                self.end(Some((None, Some(refusal), bounded(&why))))
            }
            Outcome::Built(built) => {
                // By its number in what was asked for.
                let chosen = self.candidates.get(usize::from(built.index)).cloned();
                self.note(&reply.failed);
                match chosen {
                    Some(chosen) => self.built(chosen, built, reply.incarnation, cache, now),
                    None => self.nonsense("it has built what was not asked for", cache),
                }
            }
        }
    }

    /// Says the same later, for a reason that passes.
    fn put_off(&mut self, refusal: Refusal, why: &str, now: Instant) {
        self.put_off = Some(format!("put off ({}): {}", refusal.name(), bounded(why)));
        self.pause = if self.pause >= AGAIN.0 { AGAIN_SOON } else { (2 * self.pause).min(AGAIN.0 / 2) };
        self.asks_at = now + self.pause;
    }

    /// Whether what the other side lacks may come: it hears of this node by the directory, and a process that starts is there before
    /// its services are.
    fn may_change(&self, refusal: Refusal, now: Instant) -> bool {
        match refusal {
            Refusal::Unknown => self.attempt < u16::MAX,
            Refusal::Service => self.attempt < u16::MAX && now < self.begun + STARTING,
            _ => false,
        }
    }

    /// Ends the path that was made at once, and makes none before it is told where.
    fn leave_path(&mut self, cache: &mut Cache) -> Vec<Action> {
        cache.forget(self.to);
        self.again = None;
        self.end_tie().into_iter().collect()
    }

    /// The other side does not answer such requests: perhaps not yet.
    pub fn unserved(&mut self, why: &str, cache: &mut Cache, now: Instant) -> Vec<Action> {
        if self.is_over || self.is_answered {
            // Of before.
            return Vec::new();
        }
        if !self.may_change(Refusal::Service, now) {
            return self.give_up(why, cache);
        }
        self.put_off(Refusal::Service, why, now);
        self.leave_path(cache)
    }

    /// A path came up, or failed.
    pub fn connected(
        &mut self,
        number: u32,
        outcome: Result<(), String>,
        cache: &mut Cache,
        now: Instant,
    ) -> Vec<Action> {
        let path = match std::mem::replace(&mut self.tie, Tie::None) {
            Tie::Connecting(path) if path.number == number && !self.is_over => path,
            other => {
                self.tie = other;
                return Vec::new();
            }
        };
        match (outcome, self.is_answered) {
            (Ok(()), true) => self.up(path),
            (Ok(()), false) => {
                self.tie = Tie::Up(path);
                Vec::new()
            }
            (Err(_), true) if path.again.is_some() && now < self.asked_at + TOO_EARLY => {
                vec![self.connect_now(path)]
            }
            (Err(why), true) => self.failed(path, why, cache, now),
            (Err(_), false) => {
                // The answer may lead elsewhere.
                cache.forget(self.to);
                self.tie = Tie::Broken(path);
                Vec::new()
            }
        }
    }

    /// A request, or its answer, did not get there, and why. It is said again when it is time.
    pub fn lost(&mut self, why: &str) {
        self.put_off = Some(bounded(why));
    }

    /// The other side cannot be asked at all.
    pub fn give_up(&mut self, why: &str, cache: &mut Cache) -> Vec<Action> {
        if self.is_over {
            return Vec::new();
        }
        cache.forget(self.to);
        self.end(Some((None, None, bounded(why))))
    }

    /// Asks again, or gives up, when it is time.
    pub fn look(&mut self, now: Instant) -> Vec<Action> {
        match () {
            () if self.is_over => Vec::new(),
            () if now >= self.deadline => {
                let why = match (&self.put_off, self.is_answered) {
                    (_, true) => "the path did not come up in time".to_owned(),
                    (Some(why), _) => why.clone(),
                    (None, _) => "no answer has come in time".to_owned(),
                };
                let stack = match &self.tie {
                    Tie::Connecting(path) if self.is_answered => Some(path.stack.clone()),
                    _ => None,
                };
                self.end(Some((stack, None, why)))
            }
            () if !self.is_answered && now >= self.asks_at => {
                self.pause = (2 * self.pause).min(AGAIN.1);
                self.asks_at = now + self.pause;
                self.say(now)
            }
            () => Vec::new(),
        }
    }

    /// When to look again.
    pub fn next_look(&self) -> Option<Instant> {
        let asks_at = if self.is_answered { self.deadline } else { self.asks_at };
        (!self.is_over).then(|| asks_at.min(self.deadline))
    }

    /// A new try: says what is left, and goes where it was before.
    fn ask(&mut self, now: Instant) -> Vec<Action> {
        if self.candidates.is_empty() {
            let is_none = self.failure.tried.is_empty();
            return self.end(is_none.then(|| (None, None, NONE_ALLOWED.to_owned())));
        }
        (self.is_answered, self.pause, self.put_off) = (false, AGAIN.0, None);
        (self.asked_at, self.asks_at) = (now, now + self.pause);
        let mut actions = self.say(now);
        if let (Some(agreed), false) = (&self.again, self.is_over) {
            let (stack, security, place) = (agreed.stack.clone(), agreed.security, agreed.place.clone());
            let again = Some(agreed.grant);
            actions.push(self.connect(stack, security, place, again));
        }
        actions
    }

    fn say(&mut self, now: Instant) -> Vec<Action> {
        let left = self.deadline.saturating_duration_since(now).as_millis();
        let wanted = |one: &Candidate| {
            let stack = one.stack.to_string();
            Wanted { hint: self.hints.get(&stack).cloned().unwrap_or_default(), stack }
        };
        let ask = Ask {
            incarnation: self.incarnation,
            connection: self.connection,
            attempt: self.attempt,
            left_ms: u32::try_from(left).unwrap_or(u32::MAX),
            service: self.service.clone(),
            min_security: Level::from(self.least),
            candidates: self.candidates.iter().map(wanted).collect(),
            again: self.again.as_ref().map(|agreed| agreed.grant),
            first: self.first.clone(),
        };
        match ask.encode() {
            Some(bytes) => vec![Action::Say(bytes)],
            None => self.end(Some((None, None, "a method has too much to say".to_owned()))),
        }
    }

    fn connect(&mut self, stack: Stack, security: Security, place: Vec<u8>, again: Option<Grant>) -> Action {
        self.paths += 1;
        let (connection, attempt, number) = (self.connection, self.attempt, self.paths);
        let path = Path { connection, attempt, number, stack, security, place, again };
        self.tie = Tie::Connecting(path.clone());
        Action::Connect(path)
    }

    /// Makes a path once more, now that the other side knows of it.
    fn connect_now(&mut self, path: Path) -> Action {
        self.connect(path.stack, path.security, path.place, None)
    }

    fn built(
        &mut self,
        Candidate { stack, security }: Candidate,
        built: Built,
        incarnation: u64,
        cache: &mut Cache,
        now: Instant,
    ) -> Vec<Action> {
        self.is_answered = true;
        let Built { place, grant, .. } = built;
        if let Some(grant) = grant {
            let before = self.again.as_ref().filter(|before| before.stack == stack);
            let since = before.map_or(now, |before| before.since);
            let agreed =
                Agreed { stack: stack.clone(), security, place: place.clone(), grant, incarnation, since };
            cache.keep(self.to, self.service.clone(), agreed);
        }
        // What listens at the same place in another life knows nothing of this connection.
        let is_its = |path: &Path| path.again.is_none_or(|grant| grant.incarnation == incarnation);
        let is_same = |path: &Path| (&path.stack, &path.place) == (&stack, &place) && is_its(path);
        match std::mem::replace(&mut self.tie, Tie::None) {
            Tie::Up(path) if is_same(&path) => self.up(path),
            Tie::Connecting(path) if is_same(&path) => {
                self.tie = Tie::Connecting(path);
                Vec::new()
            }
            Tie::Broken(path) if is_same(&path) => vec![self.connect_now(path)],
            Tie::Up(path) | Tie::Connecting(path) => {
                vec![Action::Close(path.number), self.connect(stack, security, place, None)]
            }
            Tie::None | Tie::Broken(..) => vec![self.connect(stack, security, place, None)],
        }
    }

    /// A path did not come up: the next stack.
    fn failed(&mut self, path: Path, why: String, cache: &mut Cache, now: Instant) -> Vec<Action> {
        cache.forget(self.to);
        self.again = None;
        self.candidates.retain(|one| one.stack != path.stack);
        let why = bounded(&why);
        self.failure.tried.push(Tried { stack: Some(path.stack), refusal: None, why });
        self.attempt += 1;
        self.ask(now)
    }

    /// Keeps the reasons of the other side. Those stacks are not asked for again.
    fn note(&mut self, failed: &[Failed]) {
        let of = |one: &Failed| {
            self.candidates.get(usize::from(one.index)).map(|candidate| candidate.stack.clone())
        };
        let failed: Vec<(Option<Stack>, &Failed)> = failed.iter().map(|one| (of(one), one)).collect();
        for (stack, one) in failed.into_iter().filter(|(stack, _)| stack.is_some()) {
            self.candidates.retain(|candidate| Some(&candidate.stack) != stack.as_ref());
            self.failure.tried.push(Tried { stack, refusal: Some(one.refusal), why: bounded(&one.why) });
        }
    }

    fn nonsense(&mut self, why: &str, cache: &mut Cache) -> Vec<Action> {
        cache.forget(self.to);
        self.end(Some((None, None, format!("its answer makes no sense: {}", bounded(why)))))
    }

    fn up(&mut self, path: Path) -> Vec<Action> {
        self.is_over = true;
        vec![Action::Up(Box::new(path))]
    }

    fn end(&mut self, last: Option<(Option<Stack>, Option<Refusal>, String)>) -> Vec<Action> {
        self.is_over = true;
        let last = last.map(|(stack, refusal, why)| Tried { stack, refusal, why });
        self.failure.tried.extend(last);
        let open = self.end_tie();
        let failed = Action::Failed(Box::new(self.failure.clone()));
        open.into_iter().chain([failed]).collect()
    }

    /// Ends the path that there is, if there is one.
    fn end_tie(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.tie, Tie::None) {
            Tie::Connecting(path) | Tie::Up(path) => Some(Action::Close(path.number)),
            Tie::None | Tie::Broken(..) => None,
        }
    }
}

#[cfg(test)]
mod tests;
