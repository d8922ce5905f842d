//! With which nodes a rail is allowed that is there for those only with which its stack was agreed on, by a try that has not come to
//! nothing: pipes (`relay`), and plain connections (`tcp`).

use std::collections::BTreeMap;
use std::time::Instant;

use gridnet_assembly::call::Path;
use gridnet_assembly::called::Key;
use gridnet_core::wire::NodeId;

/// Nodes with which the stack was agreed on; beyond, any of them is forgotten. A session has so many.
const NODES_MAX: usize = 16_384;
/// Tries of a node that are remembered: looks that have led to the same again, and the first.
const TRIES_MAX: usize = 8;

/// A try at a connection over pipes, as one of the two names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Try {
    /// The other side has asked: its life, the connection, the try.
    Asked(u64, u64, u16),
    /// This side has: the connection, the try, the path.
    Asking(u64, u16, u32),
}

impl From<&Key> for Try {
    fn from(key: &Key) -> Try {
        Try::Asked(key.incarnation, key.connection, key.attempt)
    }
}

impl From<&Path> for Try {
    fn from(path: &Path) -> Try {
        Try::Asking(path.connection, path.attempt, path.number)
    }
}

/// See the [module](self). Of each try: until when it allows pipes; without an end once a pipe has come of it.
#[derive(Debug, Default)]
pub(super) struct Permits(BTreeMap<NodeId, BTreeMap<Try, Option<Instant>>>);

impl Permits {
    /// Pipes are allowed until then, or for as long as the try stands.
    pub(super) fn allow(&mut self, node: NodeId, of: Try, until: Instant, now: Instant) {
        if self.0.len() >= NODES_MAX && !self.0.contains_key(&node) {
            self.0.pop_first();
        }
        let tries = self.0.entry(node).or_default();
        tries.retain(|_, until| is_live(*until, now));
        if tries.len() >= TRIES_MAX {
            tries.pop_first();
        }
        tries.insert(of, Some(until));
    }

    /// The try stands: a link has come of it.
    pub(super) fn keep(&mut self, node: NodeId, of: Try) {
        if let Some(until) = self.0.get_mut(&node).and_then(|tries| tries.get_mut(&of)) {
            *until = None;
        }
    }

    /// The try has come to nothing, or is over.
    pub(super) fn withdraw(&mut self, node: NodeId, of: Try) {
        let Some(tries) = self.0.get_mut(&node) else { return };
        tries.remove(&of);
        if tries.is_empty() {
            self.0.remove(&node);
        }
    }

    /// The conversation with the node is over: of what stands nothing is left. Tries that go on do.
    pub(super) fn gone(&mut self, node: NodeId) {
        let Some(tries) = self.0.get_mut(&node) else { return };
        tries.retain(|_, until| until.is_some());
        if tries.is_empty() {
            self.0.remove(&node);
        }
    }

    /// Tries that go on allow nothing any more. What stands does, also when its link is made again.
    pub(super) fn revoke(&mut self) {
        self.0.retain(|_, tries| {
            tries.retain(|_, until| until.is_none());
            !tries.is_empty()
        });
    }

    /// Whether a pipe is allowed.
    pub(super) fn allows(&self, node: NodeId, now: Instant) -> bool {
        self.0.get(&node).is_some_and(|tries| tries.values().any(|until| is_live(*until, now)))
    }

    /// The node comes by a pipe: whether it may. Then what was agreed on with it stands.
    pub(super) fn take(&mut self, node: NodeId, now: Instant) -> bool {
        let Some(tries) = self.0.get_mut(&node) else { return false };
        tries.retain(|_, until| is_live(*until, now));
        for (of, until) in tries.iter_mut() {
            if matches!(of, Try::Asked(..)) {
                *until = None;
            }
        }
        let is_allowed = !tries.is_empty();
        if !is_allowed {
            self.0.remove(&node);
        }
        is_allowed
    }
}

fn is_live(until: Option<Instant>, now: Instant) -> bool {
    until.is_none_or(|until| until > now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LATER: Duration = Duration::from_secs(1);

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 16]).unwrap()
    }

    #[test]
    fn a_permit_ends_with_its_try() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (first, second) = (Try::Asked(1, 1, 0), Try::Asked(1, 2, 0));
        permits.allow(node(1), first, now + LATER, now);
        permits.allow(node(1), second, now + LATER, now);
        assert!(permits.allows(node(1), now) && !permits.allows(node(2), now));
        permits.withdraw(node(1), second);
        assert!(permits.allows(node(1), now), "the other one goes on");
        permits.withdraw(node(1), first);
        assert!(!permits.allows(node(1), now) && !permits.take(node(1), now) && permits.0.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.revoke();
        assert!(!permits.allows(node(1), now) && permits.0.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.keep(node(1), first);
        permits.allow(node(1), second, now + LATER, now);
        permits.revoke();
        assert!(permits.allows(node(1), now + LATER), "what stands stays");
        permits.withdraw(node(1), first);
        assert!(!permits.allows(node(1), now), "and nothing else does");
    }

    #[test]
    fn who_does_not_come_in_time_may_not_come_later() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let late = now + LATER;
        for (number, of) in [(1, Try::Asked(1, 1, 0)), (2, Try::Asking(1, 0, 1)), (3, Try::Asked(1, 1, 0))] {
            permits.allow(node(number), of, late, now);
        }
        assert!(permits.take(node(1), now), "in time");
        permits.keep(node(2), Try::Asking(1, 0, 1));
        assert!(permits.take(node(1), late) && permits.take(node(2), late), "what stands may come again");
        assert!(permits.take(node(2), now) && !permits.take(node(3), late));
        assert!(!permits.0.contains_key(&node(3)));
    }

    #[test]
    fn what_stands_ends_with_the_conversation() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (stands, goes_on) = (Try::Asking(1, 0, 1), Try::Asking(2, 0, 1));
        permits.allow(node(1), stands, now + LATER, now);
        permits.keep(node(1), stands);
        permits.gone(node(2));
        assert!(permits.allows(node(1), now + LATER));
        permits.allow(node(1), goes_on, now + LATER, now);
        permits.gone(node(1));
        assert!(permits.allows(node(1), now), "it is being tried again");
        assert!(!permits.take(node(1), now + LATER) && permits.0.is_empty());
    }

    #[test]
    fn what_stands_outlives_the_looks_that_follow() {
        let (mut permits, mut now) = (Permits::default(), Instant::now());
        permits.allow(node(1), Try::Asked(1, 0, 0), now + LATER, now);
        assert!(permits.take(node(1), now));
        for look in 1..100 {
            permits.allow(node(1), Try::Asked(1, look, 0), now + LATER, now);
            assert!(permits.0[&node(1)].len() <= TRIES_MAX);
            now += LATER;
        }
        assert!(permits.allows(node(1), now + LATER));
    }
}
