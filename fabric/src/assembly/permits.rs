//! With which nodes a rail is allowed that is there for those only with which its stack was agreed on, by a try that has not come to
//! nothing: pipes (`relay`), plain connections (`tcp`), and where there are rules the sealed ones of the rail tcp.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use gridnet_assembly::call::Path;
use gridnet_assembly::called::Key;
use gridnet_core::wire::NodeId;

/// Nodes with which a stack was agreed on; beyond, any of them is forgotten. A session has so many.
pub(super) const NODES_MAX: usize = 16_384;
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

/// Which of two connects: rules have a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// This side.
    Calls,
    /// The other side.
    IsCalled,
}

impl Direction {
    /// Whether it is that of whoever has asked.
    fn is_of(self, of: Try) -> bool {
        matches!((self, of), (Direction::Calls, Try::Asking(..)) | (Direction::IsCalled, Try::Asked(..)))
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Permits {
    /// Of each try: until when it allows the rail; without an end once a link has come of it.
    tries: BTreeMap<NodeId, BTreeMap<Try, Option<Instant>>>,
    /// With whom a link has come up, until the conversation is over.
    linked: BTreeSet<NodeId>,
    /// Of a rail that may be there for everybody.
    address: Option<ByAddress>,
}

/// What there is beside tries where who has an address may come, unless rules say otherwise.
#[derive(Debug, Default)]
struct ByAddress {
    /// There are rules: to have the address is not enough.
    is_bound: bool,
    /// Who has asked for a connection, and has got it, since the rules came into force. They may call anew before they ask again, as the
    /// grant says that goes with the answer; it is forgotten as that is.
    agreed: BTreeSet<NodeId>,
}

impl Permits {
    /// Of a rail that everybody may come by, until [`Self::bind`].
    pub(super) fn by_address() -> Permits {
        Permits { address: Some(ByAddress::default()), ..Permits::default() }
    }

    /// From now on those only may come with whom it was agreed on, and those between whom it stands; or everybody again.
    pub(super) fn bind(&mut self, is_bound: bool) {
        if let Some(address) = &mut self.address {
            address.is_bound = is_bound;
        }
    }

    /// The other side has the answer to what it has asked for, and may connect by it until the rules change. Not when the try is over,
    /// as by rules that have changed meanwhile.
    pub(super) fn agreed(&mut self, node: NodeId, of: Try) {
        let goes_on = self.tries.get(&node).is_some_and(|tries| tries.contains_key(&of));
        if let Some(ByAddress { agreed, .. }) = self.address.as_mut().filter(|_| goes_on) {
            insert(agreed, node);
        }
    }

    /// The rail is allowed until then, or for as long as the try stands.
    pub(super) fn allow(&mut self, node: NodeId, of: Try, until: Instant, now: Instant) {
        if self.tries.len() >= NODES_MAX && !self.tries.contains_key(&node) {
            self.tries.pop_first();
        }
        let tries = self.tries.entry(node).or_default();
        tries.retain(|_, until| is_live(*until, now));
        if tries.len() >= TRIES_MAX {
            tries.pop_first();
        }
        tries.insert(of, Some(until));
    }

    /// The try stands: a link has come of it, or was there. Not when that is gone by now.
    pub(super) fn keep(&mut self, node: NodeId, of: Try) {
        if !self.linked.contains(&node) {
            return;
        }
        if let Some(until) = self.tries.get_mut(&node).and_then(|tries| tries.get_mut(&of)) {
            *until = None;
        }
    }

    /// The try has come to nothing, or is over.
    pub(super) fn withdraw(&mut self, node: NodeId, of: Try) {
        let Some(tries) = self.tries.get_mut(&node) else { return };
        tries.remove(&of);
        if tries.is_empty() {
            self.tries.remove(&node);
        }
    }

    /// The conversation with the node is over: of what stands nothing is left. Tries that go on do.
    pub(super) fn gone(&mut self, node: NodeId) {
        self.linked.remove(&node);
        let Some(tries) = self.tries.get_mut(&node) else { return };
        tries.retain(|_, until| until.is_some());
        if tries.is_empty() {
            self.tries.remove(&node);
        }
    }

    /// Tries that go on allow nothing any more. What stands does, also when its link is made again.
    pub(super) fn revoke(&mut self) {
        self.tries.retain(|_, tries| {
            tries.retain(|_, until| until.is_none());
            !tries.is_empty()
        });
        self.address.iter_mut().for_each(|address| address.agreed.clear());
    }

    /// Whether the rail is allowed. Asking changes nothing: who is greeted and goes has no more time for it.
    pub(super) fn allows(&self, node: NodeId, direction: Direction, now: Instant) -> bool {
        let mut tries =
            self.tries.get(&node).into_iter().flatten().filter(|(_, until)| is_live(**until, now));
        let Some(ByAddress { is_bound, agreed }) = &self.address else { return tries.next().is_some() };
        // What stands need not have been agreed on: it may be older than the rules.
        !is_bound
            || self.linked.contains(&node)
            || tries.any(|(of, _)| direction.is_of(*of))
            || direction == Direction::IsCalled && agreed.contains(&node)
    }

    /// A link with the node has come up: what it was agreed on by stands. Of tries of this side [`Self::keep`] says so.
    pub(super) fn linked(&mut self, node: NodeId, now: Instant) {
        insert(&mut self.linked, node);
        let asked = self.tries.get_mut(&node).into_iter().flatten();
        for (_, until) in asked.filter(|(of, until)| matches!(of, Try::Asked(..)) && is_live(**until, now)) {
            *until = None;
        }
    }
}

/// Adds a node; beyond the bound another one goes.
fn insert(nodes: &mut BTreeSet<NodeId>, node: NodeId) {
    if nodes.len() >= NODES_MAX && !nodes.contains(&node) {
        nodes.pop_first();
    }
    nodes.insert(node);
}

fn is_live(until: Option<Instant>, now: Instant) -> bool {
    until.is_none_or(|until| until > now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Direction::{Calls, IsCalled};
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
        assert!(permits.allows(node(1), IsCalled, now) && !permits.allows(node(2), IsCalled, now));
        permits.withdraw(node(1), second);
        assert!(permits.allows(node(1), IsCalled, now), "the other one goes on");
        permits.withdraw(node(1), first);
        assert!(!permits.allows(node(1), IsCalled, now) && permits.tries.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.revoke();
        assert!(!permits.allows(node(1), IsCalled, now) && permits.tries.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.linked(node(1), now);
        permits.allow(node(1), second, now + LATER, now);
        permits.revoke();
        assert!(permits.allows(node(1), IsCalled, now + LATER), "what stands stays");
        permits.withdraw(node(1), first);
        assert!(!permits.allows(node(1), IsCalled, now), "and nothing else does");
    }

    #[test]
    fn only_a_link_in_time_makes_a_permit_last() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (late, asking) = (now + LATER, Try::Asking(1, 0, 1));
        for (number, of) in [(1, Try::Asked(1, 1, 0)), (2, asking), (3, Try::Asked(1, 1, 0))] {
            permits.allow(node(number), of, late, now);
        }
        // Who is greeted is asked for again and again, and has no more time for it.
        assert!((1..4).all(|number| permits.allows(node(number), IsCalled, now)));
        assert!((1..4).all(|number| !permits.allows(node(number), IsCalled, late)));
        permits.linked(node(1), now);
        permits.linked(node(3), late);
        permits.linked(node(2), now);
        assert!(!permits.allows(node(2), IsCalled, late), "the try of this side says itself how it has gone");
        permits.keep(node(2), asking);
        assert!(
            permits.allows(node(1), IsCalled, late) && permits.allows(node(2), IsCalled, late),
            "what stands may come again"
        );
        assert!(!permits.allows(node(3), IsCalled, late), "too late");
    }

    #[test]
    fn what_stands_ends_with_the_conversation() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (stands, goes_on) = (Try::Asking(1, 0, 1), Try::Asking(2, 0, 1));
        permits.allow(node(1), stands, now + LATER, now);
        permits.linked(node(1), now);
        permits.keep(node(1), stands);
        permits.gone(node(2));
        assert!(permits.allows(node(1), IsCalled, now + LATER));
        permits.allow(node(1), goes_on, now + LATER, now);
        permits.gone(node(1));
        assert!(permits.allows(node(1), IsCalled, now), "it is being tried again");
        // It is heard only now that the link had come up, which is over.
        permits.keep(node(1), goes_on);
        assert!(!permits.allows(node(1), IsCalled, now + LATER) && permits.linked.is_empty());
    }

    #[test]
    fn what_stands_outlives_the_looks_that_follow() {
        let (mut permits, mut now) = (Permits::default(), Instant::now());
        permits.allow(node(1), Try::Asked(1, 0, 0), now + LATER, now);
        permits.linked(node(1), now);
        for look in 1..100 {
            permits.allow(node(1), Try::Asked(1, look, 0), now + LATER, now);
            assert!(permits.tries[&node(1)].len() <= TRIES_MAX);
            now += LATER;
        }
        assert!(permits.allows(node(1), IsCalled, now + LATER));
    }

    #[test]
    fn who_has_an_address_may_come_until_there_are_rules() {
        let (mut permits, now) = (Permits::by_address(), Instant::now());
        assert!(permits.allows(node(1), IsCalled, now), "there are none");
        permits.linked(node(1), now);
        permits.bind(true);
        assert!(permits.allows(node(1), IsCalled, now + LATER), "it stands");
        assert!(!permits.allows(node(2), IsCalled, now) && !permits.allows(node(3), IsCalled, now));
        permits.gone(node(1));
        assert!(!permits.allows(node(1), IsCalled, now), "it has never been agreed on");
        permits.bind(false);
        assert!(permits.allows(node(2), IsCalled, now));
    }

    #[test]
    fn who_has_asked_may_come_again_until_rules_change() {
        let (mut permits, now) = (Permits::by_address(), Instant::now());
        permits.bind(true);
        let asked = Try::Asked(1, 1, 0);
        permits.allow(node(1), asked, now + LATER, now);
        assert!(
            permits.allows(node(1), IsCalled, now) && !permits.allows(node(1), Calls, now),
            "it has asked"
        );
        permits.agreed(node(1), asked);
        permits.linked(node(1), now);
        assert!(permits.allows(node(1), Calls, now), "what stands is made anew by either side");
        permits.gone(node(1));
        assert!(permits.allows(node(1), IsCalled, now + LATER), "it is over, and may begin anew");
        assert!(!permits.allows(node(1), Calls, now + LATER), "for who has asked");
        permits.linked(node(1), now);
        permits.revoke();
        assert!(permits.allows(node(1), IsCalled, now), "what stands stays");
        permits.gone(node(1));
        assert!(!permits.allows(node(1), IsCalled, now));
        // The rules have changed while it was answered.
        permits.allow(node(2), asked, now + LATER, now);
        permits.revoke();
        permits.agreed(node(2), asked);
        assert!(!permits.allows(node(2), IsCalled, now));
    }

    #[test]
    fn who_was_asked_may_come_while_it_stands() {
        let (mut permits, now) = (Permits::by_address(), Instant::now());
        permits.bind(true);
        let asking = Try::Asking(1, 0, 1);
        permits.allow(node(1), asking, now + LATER, now);
        assert!(
            permits.allows(node(1), Calls, now) && !permits.allows(node(1), IsCalled, now),
            "this side asks"
        );
        permits.linked(node(1), now);
        permits.keep(node(1), asking);
        assert!(
            permits.allows(node(1), Calls, now + LATER) && permits.allows(node(1), IsCalled, now + LATER)
        );
        permits.gone(node(1));
        assert!([Calls, IsCalled].iter().all(|direction| !permits.allows(node(1), *direction, now)));
    }
}
