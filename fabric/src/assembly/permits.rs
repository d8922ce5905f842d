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
    /// With whom a connection was agreed on since the rules came into force. It may be made anew, without being asked for before, as the
    /// grant says that goes with it; it is forgotten as that is.
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

    /// The other side has its answer, and may connect by it until the rules change.
    pub(super) fn agreed(&mut self, node: NodeId) {
        if let Some(ByAddress { agreed, .. }) = &mut self.address {
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
            self.agreed(node);
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
    pub(super) fn allows(&self, node: NodeId, now: Instant) -> bool {
        let is_tried =
            self.tries.get(&node).is_some_and(|tries| tries.values().any(|until| is_live(*until, now)));
        is_tried
            || self.address.as_ref().is_some_and(|address| {
                // What stands need not have been agreed on: it may be older than the rules.
                !address.is_bound || address.agreed.contains(&node) || self.linked.contains(&node)
            })
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
        assert!(!permits.allows(node(1), now) && permits.tries.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.revoke();
        assert!(!permits.allows(node(1), now) && permits.tries.is_empty());
        permits.allow(node(1), first, now + LATER, now);
        permits.linked(node(1), now);
        permits.allow(node(1), second, now + LATER, now);
        permits.revoke();
        assert!(permits.allows(node(1), now + LATER), "what stands stays");
        permits.withdraw(node(1), first);
        assert!(!permits.allows(node(1), now), "and nothing else does");
    }

    #[test]
    fn only_a_link_in_time_makes_a_permit_last() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (late, asking) = (now + LATER, Try::Asking(1, 0, 1));
        for (number, of) in [(1, Try::Asked(1, 1, 0)), (2, asking), (3, Try::Asked(1, 1, 0))] {
            permits.allow(node(number), of, late, now);
        }
        // Who is greeted is asked for again and again, and has no more time for it.
        assert!((1..4).all(|number| permits.allows(node(number), now)));
        assert!((1..4).all(|number| !permits.allows(node(number), late)));
        permits.linked(node(1), now);
        permits.linked(node(3), late);
        permits.linked(node(2), now);
        assert!(!permits.allows(node(2), late), "the try of this side says itself how it has gone");
        permits.keep(node(2), asking);
        assert!(permits.allows(node(1), late) && permits.allows(node(2), late), "what stands may come again");
        assert!(!permits.allows(node(3), late), "too late");
    }

    #[test]
    fn what_stands_ends_with_the_conversation() {
        let (mut permits, now) = (Permits::default(), Instant::now());
        let (stands, goes_on) = (Try::Asking(1, 0, 1), Try::Asking(2, 0, 1));
        permits.allow(node(1), stands, now + LATER, now);
        permits.linked(node(1), now);
        permits.keep(node(1), stands);
        permits.gone(node(2));
        assert!(permits.allows(node(1), now + LATER));
        permits.allow(node(1), goes_on, now + LATER, now);
        permits.gone(node(1));
        assert!(permits.allows(node(1), now), "it is being tried again");
        // It is heard only now that the link had come up, which is over.
        permits.keep(node(1), goes_on);
        assert!(!permits.allows(node(1), now + LATER) && permits.linked.is_empty());
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
        assert!(permits.allows(node(1), now + LATER));
    }

    #[test]
    fn who_has_an_address_may_come_until_there_are_rules() {
        let (mut permits, now) = (Permits::by_address(), Instant::now());
        assert!(permits.allows(node(1), now), "there are none");
        permits.linked(node(1), now);
        permits.bind(true);
        assert!(permits.allows(node(1), now + LATER), "it stands");
        assert!(!permits.allows(node(2), now) && !permits.allows(node(3), now));
        permits.gone(node(1));
        assert!(!permits.allows(node(1), now), "it has never been agreed on");
        permits.bind(false);
        assert!(permits.allows(node(2), now));
    }

    #[test]
    fn who_was_agreed_with_may_come_again_until_rules_change() {
        let (mut permits, now) = (Permits::by_address(), Instant::now());
        permits.bind(true);
        let [asking, asked] = [Try::Asking(1, 0, 1), Try::Asked(1, 1, 0)];
        permits.allow(node(1), asking, now + LATER, now);
        permits.allow(node(2), asked, now + LATER, now);
        permits.agreed(node(2));
        for number in [1, 2] {
            permits.linked(node(number), now);
            permits.keep(node(number), asking);
            permits.gone(node(number));
            assert!(
                permits.allows(node(number), now + LATER),
                "the conversation {number} is over, and may begin anew"
            );
            permits.linked(node(number), now);
        }
        permits.revoke();
        assert!(permits.allows(node(1), now) && permits.allows(node(2), now), "what stands stays");
        permits.gone(node(1));
        assert!(!permits.allows(node(1), now) && permits.allows(node(2), now));
        // Nobody was agreed with who never came up on this side.
        permits.allow(node(3), asking, now + LATER, now);
        permits.keep(node(3), asking);
        permits.withdraw(node(3), asking);
        assert!(!permits.allows(node(3), now));
    }
}
