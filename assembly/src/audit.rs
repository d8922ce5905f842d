//! What was refused, as those who run a node see it: a line of the log each, the last ones kept, and counters.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use crate::message::{bounded, Refusal};

/// Lines that are kept: beyond, the oldest goes of the node that has the most, so that no node pushes out those of others.
const KEPT: usize = 256;
/// The pause between two lines of a node about what it may ask without a bound.
const LINE_EVERY: Duration = Duration::from_millis(100);

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who asked.
    pub who: NodeId,
    /// Why it was refused.
    pub refusal: Refusal,
    /// The same for people.
    pub why: String,
}

/// The last refusals, oldest first, and how many there were of each.
#[derive(Debug, Default)]
pub struct Audit {
    lines: VecDeque<Line>,
    /// How many lines are of each.
    of_node: HashMap<NodeId, usize>,
    counts: BTreeMap<Refusal, u64>,
    /// When nodes have had their last line of what is noted now and then.
    lined: HashMap<NodeId, Instant>,
}

impl Audit {
    pub(crate) fn refused(&mut self, who: NodeId, refusal: Refusal, why: &str) {
        let why = bounded(why);
        self.count(refusal);
        tracing::warn!(target: "gridnet::audit", "refused node {who} {}: {why}", refusal.name());
        self.lines.push_back(Line { who, refusal, why });
        *self.of_node.entry(who).or_default() += 1;
        if self.lines.len() > KEPT {
            self.drop_one();
        }
    }

    /// The same, without a line where the last one of that node says just that.
    pub(crate) fn refused_once(&mut self, who: NodeId, refusal: Refusal, why: &str) {
        let last = self.lines.iter().rev().find(|line| line.who == who);
        match last.is_some_and(|line| line.refusal == refusal && line.why == bounded(why)) {
            true => self.count(refusal),
            false => self.refused(who, refusal, why),
        }
    }

    /// The same, with a line only where that node has had none of this kind for [`LINE_EVERY`]: for what is asked without a bound.
    pub(crate) fn refused_now_and_then(&mut self, who: NodeId, refusal: Refusal, why: &str, now: Instant) {
        let is_due = |at: &Instant| now.saturating_duration_since(*at) >= LINE_EVERY;
        if self.lined.get(&who).is_some_and(|at| !is_due(at)) {
            return self.count(refusal);
        }
        if self.lined.len() >= KEPT {
            self.lined.retain(|_, at| !is_due(at));
        }
        // So many nodes at a time are nobody's program: what is not noted is counted.
        if self.lined.len() >= KEPT {
            return self.count(refusal);
        }
        self.lined.insert(who, now);
        self.refused(who, refusal, why);
    }

    fn drop_one(&mut self) {
        let most = self.of_node.values().max().copied();
        let at = self.lines.iter().position(|line| self.of_node.get(&line.who).copied() == most);
        let Some(line) = at.and_then(|at| self.lines.remove(at)) else { return };
        if let Some(count) = self.of_node.get_mut(&line.who) {
            *count -= 1;
            if *count == 0 {
                self.of_node.remove(&line.who);
            }
        }
    }

    /// One more, of which there is a line already.
    pub(crate) fn count(&mut self, refusal: Refusal) {
        *self.counts.entry(refusal).or_default() += 1;
    }

    /// The last lines.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = &Line> {
        self.lines.iter()
    }

    /// How many were refused for this reason.
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.counts.get(&refusal).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        NodeId::new((u128::from(number) + 1).to_be_bytes()).unwrap()
    }

    #[test]
    fn what_is_asked_without_a_bound_is_counted_and_noted_now_and_then() {
        let (mut audit, start) = (Audit::default(), Instant::now());
        let refused = |audit: &mut Audit, number, now| {
            audit.refused_now_and_then(node(number), Refusal::Policy, &format!("{now:?}"), now);
        };
        for step in 0..1000 {
            refused(&mut audit, 1, start + step * LINE_EVERY / 100);
        }
        refused(&mut audit, 2, start);
        assert_eq!(
            (audit.lines().len(), audit.refusals(Refusal::Policy)),
            (11, 1001),
            "the other one at once"
        );
        // Ever others: the memory is bounded, and so are the lines of a moment.
        let later = start + 100 * LINE_EVERY;
        for number in 0..3 * KEPT as u16 {
            refused(&mut audit, number, later);
        }
        assert_eq!((audit.lined.len(), audit.refusals(Refusal::Policy)), (KEPT, 1001 + 3 * KEPT as u64));
    }

    #[test]
    fn no_node_pushes_out_the_lines_of_others() {
        let mut audit = Audit::default();
        audit.refused(node(0), Refusal::Security, "the one that matters");
        for n in 0..2 * KEPT {
            audit.refused(node(1), Refusal::Service, &n.to_string());
        }
        let whys: Vec<&str> = audit.lines().map(|line| line.why.as_str()).collect();
        assert_eq!((whys.len(), whys[0], whys[1]), (KEPT, "the one that matters", "257"));
        assert_eq!((whys[KEPT - 1], audit.refusals(Refusal::Service)), ("511", 512));
        // Of very many with a line each the oldest go.
        for n in 2..2 + 2 * KEPT as u16 {
            audit.refused(node(n), Refusal::Policy, "");
        }
        let last: Vec<NodeId> = audit.lines().map(|line| line.who).collect();
        let first = 2 + KEPT as u16;
        assert_eq!(last, (first..first + KEPT as u16).map(node).collect::<Vec<_>>());
        assert_eq!(audit.of_node.len(), KEPT);
    }
}
