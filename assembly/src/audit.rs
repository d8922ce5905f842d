//! What was refused, as those who run a node see it: a line of the log each, the last ones kept, and counters.

use std::collections::{BTreeMap, VecDeque};

use gridnet_core::wire::NodeId;

use crate::message::{bounded, Refusal};

/// Lines that are kept.
const KEPT: usize = 256;

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
    counts: BTreeMap<Refusal, u64>,
}

impl Audit {
    pub(crate) fn refused(&mut self, who: NodeId, refusal: Refusal, why: &str) {
        let why = bounded(why);
        self.count(refusal);
        tracing::warn!(target: "gridnet::audit", "refused node {who} {}: {why}", refusal.name());
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { who, refusal, why });
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
