//! How far the line to each member is. No socket, no clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::AbortHandle;

use super::direct::Direct;
use super::{At, Line, LineState};
use crate::error::Refusal;

/// Lines of one member, those that are being made among them. Whoever finds no room is asked over the bootstrap channel.
pub(super) const LINES_MAX: usize = 64;
/// Members that are remembered; beyond, those that are neither up nor being made are forgotten.
const REMEMBERED_MAX: usize = 1024;
/// After a line that could not be made, or broke soon, it is tried again after so long, and then after twice that, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// One that has stood for so long, and breaks, is tried again as if it were the first time.
const STEADY: Duration = Duration::from_secs(60);
/// And this soon.
const SOON: Duration = Duration::from_secs(1);
/// Messages that wait to be said over a line: more are dropped, and said again in time.
const QUEUE_MAX: usize = 128;

/// Who has asked for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Theirs,
}

/// A line that was agreed on, and is being made. What makes it ends with this.
#[derive(Debug)]
struct Agreed {
    number: u64,
    side: Side,
    task: Option<AbortHandle>,
}

impl Drop for Agreed {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

/// A line that stands. It ends when this is dropped.
struct Up {
    number: u64,
    queue: Sender<Vec<u8>>,
    /// Within the host, where nothing goes through the queue.
    direct: Option<Arc<Direct>>,
    at: At,
    has_called: bool,
    since: Instant,
    messages: u64,
}

struct Stage {
    up: Option<Up>,
    agreed: Option<Agreed>,
    /// When it is tried again, and how long after the next failure.
    again_at: Instant,
    pause: Duration,
    why: String,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Stages {
    of: BTreeMap<NodeId, Stage>,
    /// No line is made any more.
    is_closed: bool,
}

impl Stages {
    /// Whether a line may be made now.
    pub(super) fn is_due(&self, node: NodeId, now: Instant) -> bool {
        let is_due = |stage: &Stage| stage.up.is_none() && stage.agreed.is_none() && now >= stage.again_at;
        !self.is_closed && self.of.get(&node).is_none_or(is_due)
    }

    /// Begins to make the line of that number; `own` is this member.
    ///
    /// # Errors
    /// Why not: there are too many, or both have asked for one at the same time, and that of the other node counts.
    pub(super) fn begin(
        &mut self,
        (node, number): (NodeId, u64),
        side: Side,
        own: NodeId,
        now: Instant,
    ) -> Result<(), (Refusal, String)> {
        if self.is_closed || (side == Side::Ours && !self.is_due(node, now)) {
            return Err((Refusal::Ended, "no line is to be made now".to_owned()));
        }
        let is_busy = |stage: &Stage| stage.up.is_some() || stage.agreed.is_some();
        let others = self.of.iter().filter(|(other, stage)| **other != node && is_busy(stage)).count();
        if others >= LINES_MAX {
            return Err((Refusal::Limit, "it has as many lines as it can have".to_owned()));
        }
        let stage = self.stage(node, now);
        let is_ours = stage.agreed.as_ref().is_some_and(|agreed| agreed.side == Side::Ours);
        if side == Side::Theirs && is_ours && own.bytes() < node.bytes() {
            return Err((Refusal::Ended, "the other side makes one".to_owned()));
        }
        stage.agreed = Some(Agreed { number, side, task: None });
        Ok(())
    }

    /// This makes it.
    pub(super) fn made_by(&mut self, (node, number): (NodeId, u64), task: AbortHandle) {
        // It may be over already.
        if let Some(agreed) = self.agreed(node, number) {
            agreed.task = Some(task);
        }
    }

    /// It stands: what is to be said over it comes from here. Nothing when another one was agreed on meanwhile, or none is wanted.
    pub(super) fn stands(
        &mut self,
        (node, number): (NodeId, u64),
        (at, has_called): (At, bool),
        direct: Option<Arc<Direct>>,
        now: Instant,
    ) -> Option<Receiver<Vec<u8>>> {
        let stage = self.of.get_mut(&node)?;
        stage.agreed.take_if(|agreed| agreed.number == number)?.task = None;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        stage.up = Some(Up { number, queue, direct, at, has_called, since: now, messages: 0 });
        Some(queued)
    }

    /// It did not come about.
    pub(super) fn failed(&mut self, (node, number): (NodeId, u64), why: String, now: Instant) {
        if let Some(stage) = self.of.get_mut(&node) {
            if let Some(mut agreed) = stage.agreed.take_if(|agreed| agreed.number == number) {
                agreed.task = None;
                stage.rest(why, now);
            }
        }
    }

    /// There is to be none.
    pub(super) fn refused(&mut self, node: NodeId, why: String, now: Instant) {
        self.stage(node, now).rest(why, now);
    }

    /// It has stood, and is over.
    pub(super) fn down(&mut self, (node, number): (NodeId, u64), why: String, now: Instant) {
        let Some(stage) = self.of.get_mut(&node) else { return };
        let Some(up) = stage.up.take_if(|up| up.number == number) else { return };
        if now.saturating_duration_since(up.since) < STEADY {
            return stage.rest(why, now);
        }
        (stage.why, stage.again_at, stage.pause) = (why, now + SOON, PAUSES.0);
    }

    /// The line of that number, if it stands and leads to a process of this host. A message is about to go over it.
    pub(super) fn direct(&mut self, (node, number): (NodeId, u64)) -> Option<Arc<Direct>> {
        let up =
            self.of.get_mut(&node).and_then(|stage| stage.up.as_mut()).filter(|up| up.number == number)?;
        let direct = up.direct.clone()?;
        up.messages += 1;
        Some(direct)
    }

    /// Puts something in the queue of a line that stands; whether it does.
    pub(super) fn say(&mut self, (node, number): (NodeId, u64), bytes: Vec<u8>) -> bool {
        let up = self.of.get_mut(&node).and_then(|stage| stage.up.as_mut());
        let Some(up) = up.filter(|up| up.number == number) else { return false };
        up.messages += 1;
        !matches!(up.queue.try_send(bytes), Err(mpsc::error::TrySendError::Closed(_)))
    }

    /// Something has come over it.
    pub(super) fn heard(&mut self, (node, number): (NodeId, u64)) {
        let up = self.of.get_mut(&node).and_then(|stage| stage.up.as_mut());
        if let Some(up) = up.filter(|up| up.number == number) {
            up.messages += 1;
        }
    }

    /// Ends the line to a member, also one that is being made.
    pub(super) fn end(&mut self, node: NodeId) {
        self.of.remove(&node);
    }

    /// What has failed may be tried again.
    pub(super) fn anew(&mut self) {
        self.of.retain(|_, stage| stage.up.is_some() || stage.agreed.is_some());
    }

    /// Ends all, for good.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.of.clear();
    }

    /// Those that stand, and where the others are.
    pub(super) fn up(&self) -> Vec<(NodeId, At)> {
        self.of.iter().filter_map(|(node, stage)| Some((*node, stage.up.as_ref()?.at))).collect()
    }

    /// The number of the one that stands.
    #[cfg(test)]
    pub(super) fn number(&self, node: NodeId) -> Option<u64> {
        Some(self.of.get(&node)?.up.as_ref()?.number)
    }

    pub(super) fn state(&self, node: NodeId, now: Instant) -> Option<LineState> {
        self.of.get(&node).map(|stage| stage.state(now))
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Line> {
        self.of.iter().map(|(node, stage)| Line { node: *node, state: stage.state(now) }).collect()
    }

    fn agreed(&mut self, node: NodeId, number: u64) -> Option<&mut Agreed> {
        self.of.get_mut(&node)?.agreed.as_mut().filter(|agreed| agreed.number == number)
    }

    fn stage(&mut self, node: NodeId, now: Instant) -> &mut Stage {
        if self.of.len() >= REMEMBERED_MAX && !self.of.contains_key(&node) {
            self.of.retain(|_, stage| stage.up.is_some() || stage.agreed.is_some());
        }
        self.of.entry(node).or_insert_with(|| Stage {
            up: None,
            agreed: None,
            again_at: now,
            pause: PAUSES.0,
            why: String::new(),
        })
    }
}

impl Stage {
    /// Waits, longer each time.
    fn rest(&mut self, why: String, now: Instant) {
        (self.why, self.again_at) = (why, now + self.pause);
        self.pause = (2 * self.pause).min(PAUSES.1);
    }

    fn state(&self, now: Instant) -> LineState {
        match (&self.up, &self.agreed) {
            (Some(up), _) => LineState::Up {
                stack: up.at.stack(),
                at: up.at,
                has_called: up.has_called,
                age: now.saturating_duration_since(up.since),
                messages: up.messages,
            },
            (None, Some(_)) => LineState::Making,
            (None, None) => LineState::Bootstrap {
                why: self.why.clone(),
                again_in: self.again_at.saturating_duration_since(now),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (At, bool) = (At::Process(1), true);

    fn id(number: u128) -> NodeId {
        NodeId::new(number.to_be_bytes()).unwrap()
    }

    #[test]
    fn a_line_is_made_once_and_again_ever_more_seldom() {
        let (mut stages, start, [own, other]) = (Stages::default(), Instant::now(), [id(1), id(2)]);
        let (mut now, mut pauses) = (start, Vec::new());
        for number in 0..9 {
            stages.begin((other, number), Side::Ours, own, now).unwrap();
            assert!(stages.begin((other, 77), Side::Ours, own, now).is_err(), "it is being made");
            assert_eq!(stages.state(other, now), Some(LineState::Making));
            stages.failed((other, number), "nobody there".to_owned(), now);
            let Some(LineState::Bootstrap { why, again_in }) = stages.state(other, now) else { panic!() };
            assert_eq!(why, "nobody there");
            assert!(!stages.is_due(other, now) && stages.is_due(other, now + again_in));
            pauses.push(again_in);
            now += again_in;
        }
        assert!(pauses.is_sorted() && (pauses[0], pauses[8]) == PAUSES, "{pauses:?}");
        stages.begin((other, 10), Side::Ours, own, now).unwrap();
        let _queue = stages.stands((other, 10), AT, None, now).unwrap();
        assert!(stages.say((other, 10), vec![1]) && !stages.say((other, 9), vec![1]));
        stages.down((other, 10), "cut".to_owned(), now + STEADY);
        assert!(stages.is_due(other, now + STEADY + SOON), "it was steady");
    }

    #[test]
    fn of_two_that_are_asked_for_at_once_one_is_made() {
        let (now, [low, high]) = (Instant::now(), [id(1), id(2)]);
        let [mut of_low, mut of_high] = [Stages::default(), Stages::default()];
        of_low.begin((high, 1), Side::Ours, low, now).unwrap();
        of_high.begin((low, 2), Side::Ours, high, now).unwrap();
        assert!(of_low.begin((high, 2), Side::Theirs, low, now).is_err());
        of_high.begin((low, 1), Side::Theirs, high, now).unwrap();
        // What becomes of the other one does not matter any more.
        of_high.failed((low, 2), "refused".to_owned(), now);
        assert!(of_high.stands((low, 2), AT, None, now).is_none());
        assert!(
            of_high.stands((low, 1), AT, None, now).is_some()
                && of_low.stands((high, 1), AT, None, now).is_some()
        );
        // One that the other side has lost is made anew, and takes the place of the old one.
        of_low.begin((high, 3), Side::Theirs, low, now).unwrap();
        let queue = of_low.stands((high, 3), AT, None, now);
        assert!(queue.is_some() && of_low.number(high) == Some(3));
        of_low.down((high, 1), "late".to_owned(), now);
        assert_eq!(of_low.number(high), Some(3));
    }

    #[test]
    fn lines_are_bounded_and_end_with_the_member() {
        let (mut stages, now, own) = (Stages::default(), Instant::now(), id(1));
        let mut queues = Vec::new();
        for node in (2..).map(id).take(LINES_MAX) {
            stages.begin((node, 1), Side::Theirs, own, now).unwrap();
            queues.push(stages.stands((node, 1), AT, None, now).unwrap());
        }
        for side in [Side::Ours, Side::Theirs] {
            assert!(stages.begin((id(1 << 90), 1), side, own, now).is_err());
        }
        stages.begin((id(2), 2), Side::Theirs, own, now).expect("in the place of its own");
        for node in (1 << 80..).map(id).take(2 * REMEMBERED_MAX) {
            stages.refused(node, "rules".to_owned(), now);
        }
        assert!(stages.of.len() <= REMEMBERED_MAX && stages.number(id(2)) == Some(1));
        stages.close();
        assert!(queues
            .iter_mut()
            .all(|queue| queue.try_recv() == Err(mpsc::error::TryRecvError::Disconnected)));
        assert!(stages.begin((id(2), 1), Side::Theirs, own, now).is_err() && !stages.is_due(id(2), now));
    }
}
