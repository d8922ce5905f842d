//! What others ask of this member: each request is done once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use super::{Way, LIMIT_MAX, OPEN_MAX};
use crate::message::Answer;

/// Members that are remembered. More are refused, unless one has not asked for [`FORGOTTEN_AFTER`].
const ASKERS_MAX: usize = 16_384;
/// After that no request is said again that was said before.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * LIMIT_MAX.as_secs());

/// Bytes of answers that are remembered; beyond, the oldest are forgotten.
const REMEMBERED_BYTES_MAX: usize = 64 << 20;
/// The order of requests is looked through for those that were forgotten when it has grown to this, or to twice what was left.
const ORDER_MIN: usize = 1024;

/// A request that is to be done.
#[derive(Clone)]
pub(crate) struct Call {
    /// How it has come.
    pub(super) way: Way,
    pub(crate) from: NodeId,
    pub(super) id: u64,
    pub(crate) service: u16,
    pub(crate) body: Vec<u8>,
    /// Nobody waits for the answer any more then.
    pub(crate) deadline: Instant,
}

impl std::fmt::Debug for Call {
    /// Without what is asked.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({} of node {}, service {})", self.id, self.from, self.service)
    }
}

/// What there is to do for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    New,
    /// It was done: this was the answer.
    Answered(Answer),
    /// It is being done, or its answer has come.
    Known,
    Full,
}

struct Asker {
    /// Requests below have been answered, and the other side knows; or they were forgotten, and are not done any more.
    floor: u64,
    answers: BTreeMap<u64, Option<Answer>>,
    /// Requests that are being done, whatever the other side says that it knows of, and until when they are.
    doing: BTreeMap<u64, Instant>,
    used: Instant,
}

impl Asker {
    /// Forgets requests below; the bytes of their answers.
    fn raise(&mut self, floor: u64) -> usize {
        self.floor = self.floor.max(floor);
        let kept = self.answers.split_off(&self.floor);
        let gone = std::mem::replace(&mut self.answers, kept);
        gone.values().flatten().map(bytes_of).sum()
    }
}

fn bytes_of(answer: &Answer) -> usize {
    size_of::<Answer>() + answer.body.len()
}

pub(super) struct Asked {
    askers: HashMap<NodeId, Asker>,
    /// Requests as they have come, also some that were forgotten already.
    order: VecDeque<(Instant, NodeId, u64)>,
    order_max: usize,
    /// Of all answers.
    bytes: usize,
    bytes_max: usize,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked::new(REMEMBERED_BYTES_MAX)
    }
}

impl Asked {
    fn new(bytes_max: usize) -> Asked {
        let (askers, order) = (HashMap::new(), VecDeque::new());
        Asked { askers, order, order_max: ORDER_MIN, bytes: 0, bytes_max }
    }

    pub(super) fn judge(&mut self, from: NodeId, id: u64, done: u64, now: Instant) -> Judged {
        if self.askers.len() >= ASKERS_MAX && !self.askers.contains_key(&from) {
            self.forget(now);
            // What these have asked is forgotten already.
            self.askers.retain(|_, asker| now.saturating_duration_since(asker.used) < FORGOTTEN_AFTER);
            if self.askers.len() >= ASKERS_MAX {
                return Judged::Full;
            }
        }
        let new = || Asker { floor: 0, answers: BTreeMap::new(), doing: BTreeMap::new(), used: now };
        let asker = self.askers.entry(from).or_insert_with(new);
        asker.used = now;
        self.bytes -= asker.raise(done);
        if id < asker.floor || id - asker.floor >= OPEN_MAX {
            return Judged::Known;
        }
        match asker.answers.get(&id) {
            Some(Some(answer)) => Judged::Answered(answer.clone()),
            Some(None) => Judged::Known,
            None => {
                asker.answers.insert(id, None);
                self.keep_order((now, from, id));
                Judged::New
            }
        }
    }

    /// Whether so much is being done for it that nothing else is begun, as only one has that is not honest: what it has asked is not
    /// remembered.
    pub(super) fn is_busy(&mut self, from: NodeId, id: u64, now: Instant) -> bool {
        let Some(asker) = self.askers.get_mut(&from) else { return false };
        if (asker.doing.len() as u64) < OPEN_MAX || asker.answers.contains_key(&id) {
            return false;
        }
        asker.doing.retain(|_, until| *until > now);
        asker.doing.len() as u64 >= OPEN_MAX
    }

    /// A request that is new is being done, until then at most.
    pub(super) fn begun(&mut self, from: NodeId, id: u64, until: Instant) {
        if let Some(asker) = self.askers.get_mut(&from) {
            asker.doing.insert(id, until);
        }
    }

    pub(super) fn answered(&mut self, from: NodeId, answer: Answer, now: Instant) {
        let Some(asker) = self.askers.get_mut(&from) else { return };
        asker.used = now;
        asker.doing.remove(&answer.id);
        if let Some(place) = asker.answers.get_mut(&answer.id) {
            self.bytes += bytes_of(&answer);
            self.bytes -= place.replace(answer).as_ref().map_or(0, bytes_of);
        }
        while self.bytes > self.bytes_max && self.forget_oldest() {}
    }

    /// Forgets what nobody can say again: neither it nor its answer is on its way after so long.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= FORGOTTEN_AFTER;
        while self.order.front().is_some_and(|(at, ..)| is_over(*at)) && self.forget_oldest() {}
    }

    /// When there is something to forget.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.order.front().map(|(at, ..)| *at + FORGOTTEN_AFTER)
    }

    /// Whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, from, id)) = self.order.pop_front() else { return false };
        if let Some(asker) = self.askers.get_mut(&from) {
            // It is not done again, if it comes again after all.
            self.bytes -= asker.raise(id.saturating_add(1));
        }
        true
    }

    fn keep_order(&mut self, request: (Instant, NodeId, u64)) {
        if self.order.len() >= self.order_max {
            let askers = &self.askers;
            let is_kept = |from: &NodeId, id: &u64| {
                askers.get(from).is_some_and(|asker| asker.answers.contains_key(id))
            };
            self.order.retain(|(_, from, id)| is_kept(from, id));
            self.order_max = ORDER_MIN.max(2 * self.order.len());
        }
        self.order.push_back(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64) -> Answer {
        Answer { id, refusal: None, body: vec![1] }
    }

    #[test]
    fn each_request_is_new_once() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let [one, other] = [1, 2].map(|byte| NodeId::new([byte; 16]).unwrap());
        assert_eq!(asked.judge(one, 5, 5, now), Judged::New);
        assert_eq!(asked.judge(one, 5, 5, now), Judged::Known);
        asked.answered(one, answer(5), now);
        assert_eq!(asked.judge(one, 5, 5, now), Judged::Answered(answer(5)));
        assert_eq!(asked.judge(other, 5, 5, now), Judged::New, "numbers are each member's own");
        assert_eq!(asked.judge(one, 6, 6, now), Judged::New);
        assert_eq!(asked.judge(one, 5, 6, now), Judged::Known, "late: its answer has come");
        assert_eq!(asked.judge(one, 5, 0, now), Judged::Known);
        assert_eq!(asked.askers[&one].answers.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let id = |n: u128| NodeId::new((n + 1).to_be_bytes()).unwrap();
        for request in 0..2 * OPEN_MAX {
            let judged = asked.judge(id(0), request, 0, now);
            assert_eq!(judged == Judged::New, request < OPEN_MAX);
        }
        assert_eq!(asked.askers[&id(0)].answers.len(), OPEN_MAX as usize);
        (1..ASKERS_MAX as u128).for_each(|n| drop(asked.judge(id(n), 1, 1, now)));
        assert_eq!(asked.judge(id(1 << 100), 1, 1, now), Judged::Full);
        assert_eq!(asked.judge(id(1 << 100), 1, 1, now + FORGOTTEN_AFTER), Judged::New);
        assert_eq!(asked.askers.len(), 1);
    }

    #[test]
    fn answers_are_forgotten_in_time_and_nothing_is_done_again() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let one = NodeId::new([1; 16]).unwrap();
        let later = now + Duration::from_secs(1);
        for (id, at) in [(5, now), (6, later)] {
            assert_eq!(asked.judge(one, id, 5, at), Judged::New);
            asked.answered(one, answer(id), at);
        }
        assert_eq!(asked.next_look(), Some(now + FORGOTTEN_AFTER));
        asked.forget(now + FORGOTTEN_AFTER);
        assert_eq!(asked.judge(one, 5, 5, later), Judged::Known);
        assert_eq!(asked.judge(one, 6, 5, later), Judged::Answered(answer(6)));
        asked.forget(later + FORGOTTEN_AFTER);
        assert_eq!(asked.judge(one, 6, 5, later), Judged::Known);
        assert_eq!((asked.bytes, asked.next_look(), asked.askers[&one].answers.len()), (0, None, 0));
        assert_eq!(asked.judge(one, 7, 5, later), Judged::New);
    }

    #[test]
    fn answers_take_so_many_bytes_and_the_oldest_go_first() {
        let id = |n: u8| NodeId::new([n; 16]).unwrap();
        let size = bytes_of(&answer(1));
        let (mut asked, now) = (Asked::new(10 * size), Instant::now());
        for n in 1..=20 {
            assert_eq!(asked.judge(id(n), 1, 1, now), Judged::New);
            asked.answered(id(n), answer(1), now);
            assert!(asked.bytes <= 10 * size);
        }
        for n in 1..=20 {
            let judged = asked.judge(id(n), 1, 1, now);
            assert_eq!(judged, if n <= 10 { Judged::Known } else { Judged::Answered(answer(1)) });
            asked.judge(id(n), 2, 2, now);
        }
        assert_eq!(asked.bytes, 0, "all have come");
    }

    #[test]
    fn the_order_does_not_grow_by_what_was_forgotten() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        for n in 0..20 * ORDER_MIN as u64 {
            assert_eq!(asked.judge(NodeId::new([1; 16]).unwrap(), n, n, now), Judged::New);
            assert!(asked.order.len() <= ORDER_MIN);
        }
    }
}
