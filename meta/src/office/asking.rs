//! What this member asks of one other.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::OPEN_MAX;
use crate::error::{Error, Refusal};
use crate::message::{Answer, Request};
use crate::packet::Trail;

/// A request is said again after so long, and then after twice that, up to the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// Where nobody knew the way, it is tried again after so long, and then after twice that.
const AGAIN_UNREACHED: Duration = Duration::from_millis(50);
/// What was asked of a member is forgotten after so long.
const IDLE: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) outcome: Result<Vec<u8>, Error>,
    /// By whom the answer has come.
    pub(crate) trail: Trail,
}

/// Whoever waits for it.
pub(crate) type Tell = Box<dyn FnOnce(Told) + Send>;

struct Open {
    service: u16,
    body: Vec<u8>,
    deadline: Instant,
    tell: Tell,
    again_at: Instant,
    pause: Duration,
    /// Why it was not answered yet.
    why: Option<Error>,
    /// Whether the other may have heard it.
    maybe_done: bool,
}

/// Requests to one member, by their numbers.
pub(crate) struct Asking {
    last: u64,
    open: BTreeMap<u64, Open>,
    /// Those that wait for their turn.
    waiting: VecDeque<Open>,
    used: Instant,
}

impl Asking {
    /// One whose numbers begin behind `last`.
    pub(crate) fn new(last: u64, now: Instant) -> Asking {
        Asking { last, open: BTreeMap::new(), waiting: VecDeque::new(), used: now }
    }

    pub(crate) fn ask(&mut self, service: u16, body: Vec<u8>, deadline: Instant, tell: Tell) {
        let again_at = Instant::now();
        let (pause, why, maybe_done) = (AGAIN.0, None, false);
        self.waiting.push_back(Open { service, body, deadline, tell, again_at, pause, why, maybe_done });
    }

    /// Requests that are to be said now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Request> {
        self.used = now;
        // Numbers that are open lie within one window, so that the other side remembers so many answers and no more.
        while self.open.keys().next().is_none_or(|first| self.last + 1 < first + OPEN_MAX) {
            let Some(mut next) = self.waiting.pop_front() else { break };
            next.again_at = now;
            self.last += 1;
            self.open.insert(self.last, next);
        }
        let done = self.open.keys().next().copied().unwrap_or(self.last + 1);
        let due = self.open.iter_mut().filter(|(_, open)| open.again_at <= now && open.deadline > now);
        let request = |(id, open): (&u64, &mut Open)| {
            open.again_at = now + open.pause;
            open.pause = (2 * open.pause).min(AGAIN.1);
            let left = open.deadline.saturating_duration_since(now).as_millis();
            let left_ms = u32::try_from(left).unwrap_or(u32::MAX);
            Request { id: *id, done, service: open.service, left_ms, body: open.body.clone() }
        };
        due.map(request).collect()
    }

    /// Ends what is late; whether something is due.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        let late: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.deadline <= now).map(|(id, _)| *id).collect();
        let late = late.into_iter().filter_map(|id| self.open.remove(&id));
        late.for_each(Open::late);
        let waiting = std::mem::take(&mut self.waiting);
        let (late, waiting) = waiting.into_iter().partition::<VecDeque<_>, _>(|open| open.deadline <= now);
        self.waiting = waiting;
        late.into_iter().for_each(Open::late);
        !self.waiting.is_empty() || self.open.values().any(|open| open.again_at <= now)
    }

    pub(crate) fn next_look(&self) -> Option<Instant> {
        let open = self.open.values().map(|open| open.again_at.min(open.deadline));
        open.chain(self.waiting.iter().map(|open| open.deadline)).min()
    }

    /// A request was said by a conversation in which the other can hear it.
    pub(crate) fn may_be_done(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.maybe_done = true;
        }
    }

    pub(crate) fn answered(&mut self, answer: Answer, trail: &Trail) {
        // One that comes twice, or too late, is nobody's.
        let Some(open) = self.open.remove(&answer.id) else { return };
        let outcome = match answer.refusal {
            None => Ok(answer.body),
            Some(refusal) => Err(Error::Refused(refusal, String::from_utf8_lossy(&answer.body).into_owned())),
        };
        (open.tell)(Told { outcome, trail: trail.clone() });
    }

    /// Whether something was said that is not answered.
    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The conversation has ended: what is open is said again, at once or after a moment.
    pub(crate) fn broken(&mut self, why: Option<Error>, now: Instant) {
        for open in self.open.values_mut() {
            let Some(why) = &why else {
                open.again_at = now;
                continue;
            };
            let is_first = !matches!(open.why, Some(Error::Refused(..) | Error::Peer(_)));
            open.pause = if is_first { AGAIN_UNREACHED } else { (2 * open.pause).min(AGAIN.0) };
            open.again_at = now + open.pause;
            open.why = Some(why.clone());
        }
    }

    pub(crate) fn fail(self, why: &Error) {
        self.open.into_values().chain(self.waiting).for_each(|open| open.end(why.clone()));
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        let is_empty = self.open.is_empty() && self.waiting.is_empty();
        is_empty && now.saturating_duration_since(self.used) > IDLE
    }
}

impl Open {
    fn late(mut self) {
        let late = || Error::Refused(Refusal::Late, "no answer came in time".into());
        let why = self.why.take().unwrap_or_else(late);
        self.end(why);
    }

    /// There will be no answer. What is said of a request that was surely not done is the reason alone.
    fn end(self, why: Error) {
        let why = match self.maybe_done {
            true => Error::Refused(Refusal::Late, format!("whether it was done is not known: {why}")),
            false => why,
        };
        (self.tell)(Told { outcome: Err(why), trail: Trail::default() });
    }
}
