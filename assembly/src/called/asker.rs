//! What the node that is asked remembers of one that asks: what it was answered, what it may do again, how often it asks.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use super::{reply, Key, Order, CONNECTIONS_MAX};
use crate::data::Data;
use crate::message::{Failed, Grant, Outcome, Refusal};
use crate::name::Name;
use crate::stack::{Security, Stack};

/// Grants that are remembered, the last ones.
const GRANTS_MAX: usize = 64;

/// A candidate that the rules accept.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) index: u16,
    pub(super) stack: Stack,
    pub(super) security: Security,
    pub(super) hint: Vec<u8>,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}: {}", self.index, self.stack, self.security.name())
    }
}

/// A try that is being built.
#[derive(Debug, Clone)]
pub(super) struct Work {
    key: Key,
    pub(super) service: Name,
    /// The one that is being built, and those that come after it.
    accepted: VecDeque<Accepted>,
    is_begun: bool,
    pub(super) failed: Vec<Failed>,
    pub(super) first: Data,
    replaces: Option<Key>,
    again: Option<Grant>,
    /// Number of the rules by which they were accepted.
    pub(super) policy: u64,
    /// What the one that asks wants at least.
    pub(super) least: Security,
    pub(super) deadline: Instant,
}

impl Work {
    pub(super) fn new(
        (key, service): (Key, Name),
        (accepted, failed): (Vec<Accepted>, Vec<Failed>),
        (first, replaces): (Data, Option<Key>),
        (policy, least, deadline): (u64, Security, Instant),
    ) -> Work {
        let (accepted, is_begun, again) = (accepted.into(), false, None);
        Work { key, service, accepted, is_begun, failed, first, replaces, again, policy, least, deadline }
    }

    /// Begins with this one, which was granted before.
    pub(super) fn prefer(&mut self, stack: &str, grant: Grant) {
        let at = self.accepted.iter().position(|one| one.stack.to_string() == stack);
        if let Some(one) = at.and_then(|at| self.accepted.remove(at)) {
            self.accepted.push_front(one);
            self.again = Some(grant);
        }
    }

    /// Leaves out what is not accepted any more of those that come later, which is a reason each; what is said of the one that is
    /// being built, if it is not.
    pub(super) fn keep(
        &mut self,
        mut is_accepted: impl FnMut(&Stack) -> Result<(), (Refusal, String)>,
    ) -> Option<(Refusal, String)> {
        let mut accepted = std::mem::take(&mut self.accepted).into_iter();
        self.accepted.extend(accepted.next());
        for one in accepted {
            match is_accepted(&one.stack) {
                Ok(()) => self.accepted.push_back(one),
                Err((refusal, why)) => self.failed.push(Failed { index: one.index, refusal, why }),
            }
        }
        self.accepted.front().and_then(|one| is_accepted(&one.stack).err())
    }

    /// The next one to build.
    pub(super) fn next(&mut self) -> Option<Order> {
        if self.is_begun {
            self.accepted.pop_front();
            (self.again, self.replaces) = (None, None);
        }
        self.is_begun = true;
        let one = self.accepted.front()?;
        Some(Order {
            key: self.key,
            service: self.service.clone(),
            stack: one.stack.clone(),
            security: one.security,
            hint: one.hint.clone(),
            replaces: self.replaces,
            again: self.again,
            deadline: self.deadline,
        })
    }

    /// Number of the one that is being built.
    pub(super) fn index(&self) -> u16 {
        self.accepted.front().map_or(u16::MAX, |one| one.index)
    }

    /// The one that is being built.
    pub(super) fn stack(&self) -> Stack {
        self.accepted
            .front()
            .map_or_else(|| Stack::bare(crate::stack::Method::Relay), |one| one.stack.clone())
    }

    pub(super) fn answer(&self, incarnation: u64, outcome: Outcome) -> Vec<u8> {
        reply(incarnation, &self.key, outcome, self.failed.clone())
    }
}

#[derive(Debug)]
enum State {
    /// It was heard, and what becomes of it is being decided.
    Heard,
    Works(Box<Work>),
    Answered(Vec<u8>),
}

#[derive(Debug)]
struct Connection {
    attempt: u16,
    /// Whether the service has its first bytes.
    had_first: bool,
    state: State,
}

/// What is known of a request.
#[derive(Debug)]
pub(super) enum Known {
    /// Nothing; the try at the same connection before it, if there was one.
    New(Option<Key>),
    /// This was the answer.
    Answered(Vec<u8>),
    /// It is being built.
    Busy,
    /// It is of an earlier life, or too old to be remembered.
    Over,
}

#[derive(Debug)]
pub(super) struct Asker {
    incarnation: u64,
    /// The last ones, by number: what is below is over.
    connections: BTreeMap<u64, Connection>,
    grants: VecDeque<(Grant, Name, String)>,
    per_second: u32,
    /// When it will have asked nothing for so long that it may ask a whole second's worth at once.
    full_at: Instant,
    is_limited: bool,
    used: Instant,
}

impl Asker {
    pub(super) fn new(per_second: u32, now: Instant) -> Asker {
        Asker {
            incarnation: 0,
            connections: BTreeMap::new(),
            grants: VecDeque::new(),
            per_second,
            full_at: now,
            is_limited: false,
            used: now,
        }
    }

    /// Whether it may ask now, which counts.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        self.used = now;
        let next = self.full_at.max(now) + Duration::from_secs(1) / self.per_second;
        if next > now + Duration::from_secs(1) {
            return false;
        }
        (self.full_at, self.is_limited) = (next, false);
        true
    }

    /// Notes that it has asked too often; whether that is news.
    pub(super) fn note_limited(&mut self) -> bool {
        !std::mem::replace(&mut self.is_limited, true)
    }

    pub(super) fn is_idle(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.used) >= after
    }

    pub(super) fn judge(&mut self, key: &Key) -> Known {
        if key.incarnation < self.incarnation {
            return Known::Over;
        }
        if key.incarnation > self.incarnation {
            self.incarnation = key.incarnation;
            self.connections.clear();
            self.grants.clear();
        }
        let mut replaces = None;
        if let Some(known) = self.connections.get_mut(&key.connection) {
            match (&known.state, key.attempt.cmp(&known.attempt)) {
                (_, std::cmp::Ordering::Less) => return Known::Over,
                (State::Answered(answer), std::cmp::Ordering::Equal) => {
                    return Known::Answered(answer.clone())
                }
                (State::Answered(_), std::cmp::Ordering::Greater) => {
                    replaces = Some(Key { attempt: known.attempt, ..*key });
                    (known.attempt, known.state) = (key.attempt, State::Heard);
                }
                _ => return Known::Busy,
            }
        } else {
            let (attempt, had_first, state) = (key.attempt, false, State::Heard);
            self.connections.insert(key.connection, Connection { attempt, had_first, state });
            if self.connections.len() > CONNECTIONS_MAX {
                self.connections.pop_first();
            }
            // One that is older than all that are remembered was done, or not, and is not done now.
            if !self.connections.contains_key(&key.connection) {
                return Known::Over;
            }
        }
        Known::New(replaces)
    }

    pub(super) fn works(&mut self, key: &Key, work: Work) {
        if let Some(connection) = self.current(key) {
            connection.state = State::Works(Box::new(work));
        }
    }

    /// What is being built for a try, if it is wanted.
    pub(super) fn take_work(&mut self, key: &Key) -> Option<Work> {
        let connection = self.current(key)?;
        match std::mem::replace(&mut connection.state, State::Heard) {
            State::Works(work) => Some(*work),
            other => {
                connection.state = other;
                None
            }
        }
    }

    pub(super) fn answered(&mut self, key: &Key, answer: Vec<u8>, is_built: bool) {
        if let Some(connection) = self.current(key) {
            connection.had_first |= is_built;
            connection.state = State::Answered(answer);
        }
    }

    /// Whether the service has the first bytes of a connection.
    pub(super) fn had_first(&self, key: &Key) -> bool {
        self.connections.get(&key.connection).is_some_and(|connection| connection.had_first)
    }

    pub(super) fn grant(&mut self, grant: Grant, service: &Name, stack: &str) {
        // One for each service and stack: the last one.
        self.grants.retain(|(_, of, with)| of != service || with != stack);
        if self.grants.len() == GRANTS_MAX {
            self.grants.pop_front();
        }
        self.grants.push_back((grant, service.clone(), stack.to_owned()));
    }

    /// The stack of a grant that it has, for a service.
    pub(super) fn granted(&self, grant: Grant, service: &Name) -> Option<String> {
        let found = self.grants.iter().find(|(known, of, _)| *known == grant && of == service);
        found.map(|(_, _, stack)| stack.clone())
    }

    /// There is no such service any more.
    pub(super) fn forget_grants_of(&mut self, service: &Name) {
        self.grants.retain(|(_, of, _)| of != service);
    }

    pub(super) fn forget_grants(&mut self) {
        self.grants.clear();
    }

    fn current(&mut self, key: &Key) -> Option<&mut Connection> {
        if key.incarnation != self.incarnation {
            return None;
        }
        self.connections.get_mut(&key.connection).filter(|connection| connection.attempt == key.attempt)
    }
}
