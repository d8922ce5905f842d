//! Looks for better ways to nodes that are reached through the bootstrap tree.
//!
//! The side that has asked asks anew now and then, as if there were nothing yet: the first stack that the rules of both sides allow and
//! that comes up is taken, and the endpoint moves there if it is another one. Should it come back to the tree, looks go on. They end
//! with the peer, or when the program has closed its endpoints.

use std::time::{Duration, Instant};

use gridnet_core::endpoint::{Engine, PeerState};
use gridnet_core::rail::{PeerId, Rail};
use gridnet_core::wire::NodeId;
use gridnet_meta::member::Wanted;

use super::desk::{AskedBy, Wish};
use super::RELAY;

/// From the beginning to the first look; doubled after each look.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a look wakes both processes, and takes some packets.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a look takes at most.
const LIMIT: Duration = Duration::from_secs(20);
/// Looks at a time: they are not to take the place of endpoints that somebody waits for.
const LOOKS_MAX: usize = 4;

/// A peer that may be reached in a better way.
#[derive(Debug)]
struct Watched {
    peer: PeerId,
    node: NodeId,
    /// For what.
    wanted: Wanted,
    /// When to look; none while that goes on.
    at: Option<Instant>,
    pause: Duration,
    /// The program was seen to have an endpoint.
    was_open: bool,
}

/// What becomes of a peer that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It may be reached in a better way.
    Relayed,
    /// It is reached in another way, which may break.
    Moved,
    /// The program has no endpoint, or none yet.
    Closed,
    Gone,
}

impl Fate {
    fn of<R: Rail>(engine: &Engine<R>, peer: PeerId) -> Fate {
        match engine.peer(peer) {
            Ok((_, _, PeerState::Gone(_), _)) | Err(_) => Fate::Gone,
            Ok(_) if !engine.is_open(peer) => Fate::Closed,
            Ok(_) if engine.rail_name(peer) == Some(RELAY) => Fate::Relayed,
            Ok(_) => Fate::Moved,
        }
    }
}

impl Watched {
    fn put_off(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.at = Some(now + self.pause);
    }

    /// Whether it is watched further, and whether to look now.
    fn judge(&mut self, now: Instant, fate: Fate) -> (bool, bool) {
        match fate {
            Fate::Gone => return (false, false),
            Fate::Closed if self.was_open => return (false, false),
            Fate::Closed => self.put_off(now),
            Fate::Moved => {
                (self.at, self.pause, self.was_open) = (Some(now + LONGEST_PAUSE), FIRST_PAUSE, true)
            }
            Fate::Relayed => {
                self.was_open = true;
                return (true, true);
            }
        }
        (true, false)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Lookout(Vec<Watched>);

impl Lookout {
    /// From now on looks for a better way to a peer that is reached by this rail, if that may be.
    pub(super) fn add(&mut self, wish: &Wish, peer: PeerId, rail: Option<&str>, now: Instant) {
        let is_known = self.0.iter().any(|watched| watched.peer == peer);
        if rail == Some(RELAY) && !is_known {
            let (node, wanted) = (wish.node, wish.wanted.clone());
            let (at, pause) = (Some(now + FIRST_PAUSE), FIRST_PAUSE);
            self.0.push(Watched { peer, node, wanted, at, pause, was_open: false });
        }
    }

    /// A look has ended. Where it has led is seen by the peer.
    pub(crate) fn ended(&mut self, node: NodeId, now: Instant) {
        for watched in self.0.iter_mut().filter(|watched| watched.node == node && watched.at.is_none()) {
            watched.put_off(now);
        }
    }

    /// When something is due. None when nothing is, or only the end of a look may change that.
    pub(crate) fn next(&self) -> Option<Instant> {
        let due = self.0.iter().filter_map(|watched| watched.at).min();
        due.filter(|_| self.under_way() < LOOKS_MAX)
    }

    fn under_way(&self) -> usize {
        self.0.iter().filter(|watched| watched.at.is_none()).count()
    }

    /// Looks that are due.
    pub(crate) fn due<R: Rail>(&mut self, engine: &Engine<R>) -> Vec<Wish> {
        if self.0.is_empty() {
            return Vec::new();
        }
        self.due_at(Instant::now(), |peer| Fate::of(engine, peer))
    }

    fn due_at(&mut self, now: Instant, fate: impl Fn(PeerId) -> Fate) -> Vec<Wish> {
        if self.next().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let room = LOOKS_MAX.saturating_sub(self.under_way());
        // Who has waited longest comes first.
        self.0.sort_by_key(|watched| watched.at);
        let mut due = Vec::new();
        self.0.retain_mut(|watched| {
            if due.len() >= room || watched.at.is_none_or(|at| at > now) {
                return true;
            }
            let (is_watched, looks) = watched.judge(now, fate(watched.peer));
            if looks {
                watched.at = None;
                due.push(Wish {
                    node: watched.node,
                    wanted: watched.wanted.clone(),
                    deadline: now + LIMIT,
                    asked_by: AskedBy::Lookout,
                    begun: None,
                });
            }
            is_watched
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::super::requirements::Requirements;
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId::new([number as u8 + 1; 16]).unwrap()
    }

    fn wish(number: usize, deadline: Instant) -> Wish {
        let wanted = Requirements::of_fabric().unwrap().wanted();
        Wish { node: node(number), wanted, deadline, asked_by: AskedBy::Lookout, begun: None }
    }

    fn lookout(count: usize, now: Instant) -> Lookout {
        let mut lookout = Lookout::default();
        for number in 0..count {
            for rail in [Some("tcp"), None, Some(RELAY), Some(RELAY)] {
                lookout.add(&wish(number, now), PeerId::new(number as u32), rail, now);
            }
        }
        lookout
    }

    #[test]
    fn looks_become_rarer_and_end_with_the_relay() {
        let start = Instant::now();
        let mut lookout = lookout(1, start);
        let mut at = start;
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let next = lookout.next().unwrap();
            assert_eq!(next - at, Duration::from_secs(pause));
            assert!(lookout.due_at(next - Duration::from_nanos(1), |_| Fate::Relayed).is_empty());
            let due = lookout.due_at(next, |_| Fate::Relayed);
            assert_eq!(due.iter().map(|wish| wish.node).collect::<Vec<_>>(), [node(0)]);
            assert!(lookout.next().is_none(), "one at a time");
            at = next + Duration::from_secs(3);
            lookout.ended(node(0), at);
        }
        let next = lookout.next().unwrap();
        assert!(lookout.due_at(next, |_| Fate::Gone).is_empty());
        assert!(lookout.0.is_empty() && lookout.next().is_none());
    }

    #[test]
    fn who_comes_back_to_the_tree_is_looked_for_anew() {
        let start = Instant::now();
        let mut lookout = lookout(1, start);
        for _ in 0..3 {
            let next = lookout.next().unwrap();
            assert_eq!(lookout.due_at(next, |_| Fate::Relayed).len(), 1);
            lookout.ended(node(0), next);
            let moved = lookout.next().unwrap();
            assert!(lookout.due_at(moved, |_| Fate::Moved).is_empty());
            assert_eq!(lookout.next(), Some(moved + LONGEST_PAUSE), "it is asked of this side alone");
            assert_eq!(lookout.0[0].pause, FIRST_PAUSE);
        }
    }

    #[test]
    fn nobody_looks_for_endpoints_that_are_closed() {
        let start = Instant::now();
        let mut lookout = lookout(1, start);
        // The program has not taken the completion yet.
        let next = lookout.next().unwrap();
        assert!(lookout.due_at(next, |_| Fate::Closed).is_empty());
        let next = lookout.next().unwrap();
        assert_eq!(lookout.due_at(next, |_| Fate::Relayed).len(), 1);
        lookout.ended(node(0), next);
        let next = lookout.next().unwrap();
        assert!(lookout.due_at(next, |_| Fate::Closed).is_empty());
        assert!(lookout.0.is_empty() && lookout.next().is_none());
    }

    #[test]
    fn who_has_waited_longest_is_first() {
        let start = Instant::now();
        let mut lookout = lookout(LOOKS_MAX + 2, start);
        let next = lookout.next().unwrap();
        assert_eq!(lookout.due_at(next, |_| Fate::Relayed).len(), LOOKS_MAX);
        for number in 0..LOOKS_MAX {
            lookout.ended(node(number), next);
        }
        // All are due, and two have been since before.
        let due = lookout.due_at(next + LONGEST_PAUSE, |_| Fate::Relayed);
        let nodes: Vec<_> = due.iter().map(|wish| wish.node).collect();
        assert_eq!((nodes.len(), &nodes[..2]), (LOOKS_MAX, &[node(LOOKS_MAX), node(LOOKS_MAX + 1)][..]));
    }

    #[test]
    fn there_are_few_looks_at_a_time() {
        let start = Instant::now();
        let mut lookout = lookout(2 * LOOKS_MAX, start);
        let next = lookout.next().unwrap();
        assert_eq!(lookout.due_at(next, |_| Fate::Relayed).len(), LOOKS_MAX);
        assert!(lookout.next().is_none() && lookout.due_at(next, |_| Fate::Relayed).is_empty());
        lookout.ended(node(0), next);
        let due = lookout.due_at(next, |_| Fate::Relayed);
        assert_eq!(due.iter().map(|wish| wish.node).collect::<Vec<_>>(), [node(LOOKS_MAX)]);
    }
}
