//! What others ask of this member: each request is done once.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use super::{Key, LIMIT_MAX, OPEN_MAX};
use crate::message::Answer;

/// Members that are remembered. More are refused, unless one has not asked for [`FORGOTTEN_AFTER`].
const ASKERS_MAX: usize = 16_384;
/// After that no request is said again that was said before.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * LIMIT_MAX.as_secs());

/// A request that is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Over which conversation it has come.
    pub(super) key: Key,
    pub(crate) from: NodeId,
    pub(super) id: u64,
    pub(crate) service: u16,
    pub(crate) body: Vec<u8>,
    /// Nobody waits for the answer any more then.
    pub(crate) deadline: Instant,
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
    /// Requests below have been answered, and the other side knows.
    floor: u64,
    answers: BTreeMap<u64, Option<Answer>>,
    used: Instant,
}

#[derive(Default)]
pub(super) struct Asked {
    askers: HashMap<NodeId, Asker>,
}

impl Asked {
    pub(super) fn judge(&mut self, from: NodeId, id: u64, done: u64, now: Instant) -> Judged {
        if self.askers.len() >= ASKERS_MAX && !self.askers.contains_key(&from) {
            self.askers.retain(|_, asker| now.saturating_duration_since(asker.used) < FORGOTTEN_AFTER);
            if self.askers.len() >= ASKERS_MAX {
                return Judged::Full;
            }
        }
        let new = || Asker { floor: 0, answers: BTreeMap::new(), used: now };
        let asker = self.askers.entry(from).or_insert_with(new);
        asker.used = now;
        asker.floor = asker.floor.max(done);
        asker.answers = asker.answers.split_off(&asker.floor);
        if id < asker.floor || id - asker.floor >= OPEN_MAX {
            return Judged::Known;
        }
        match asker.answers.get(&id) {
            Some(Some(answer)) => Judged::Answered(answer.clone()),
            Some(None) => Judged::Known,
            None => {
                asker.answers.insert(id, None);
                Judged::New
            }
        }
    }

    pub(super) fn answered(&mut self, from: NodeId, answer: Answer, now: Instant) {
        let Some(asker) = self.askers.get_mut(&from) else { return };
        asker.used = now;
        if let Some(place) = asker.answers.get_mut(&answer.id) {
            *place = Some(answer);
        }
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
}
