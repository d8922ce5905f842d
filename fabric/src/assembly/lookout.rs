//! Looks for better ways to nodes that are reached through the bootstrap tree.
//!
//! The side that has asked asks anew now and then, as if there were nothing yet: the first stack that the rules of both sides allow and
//! that comes up is taken, and the endpoint moves there if it is another one.

use std::time::{Duration, Instant};

use gridnet_core::endpoint::{Engine, PeerState};
use gridnet_core::rail::{PeerId, Rail};
use gridnet_core::wire::NodeId;

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
    /// When to look; none while that goes on.
    at: Option<Instant>,
    pause: Duration,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Lookout(Vec<Watched>);

impl Lookout {
    /// From now on looks for a better way to a peer that is reached by this rail, if that may be.
    pub(super) fn add(&mut self, node: NodeId, peer: PeerId, rail: Option<&str>, now: Instant) {
        let is_known = self.0.iter().any(|watched| watched.peer == peer);
        if rail == Some(RELAY) && !is_known {
            self.0.push(Watched { peer, node, at: Some(now + FIRST_PAUSE), pause: FIRST_PAUSE });
        }
    }

    /// A look has ended. Where it has led is seen by the peer.
    pub(crate) fn ended(&mut self, node: NodeId, now: Instant) {
        for watched in self.0.iter_mut().filter(|watched| watched.node == node && watched.at.is_none()) {
            watched.pause = (watched.pause * 2).min(LONGEST_PAUSE);
            watched.at = Some(now + watched.pause);
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
        self.due_at(Instant::now(), |peer| match engine.peer(peer) {
            Ok((_, _, PeerState::Gone(_), _)) | Err(_) => false,
            Ok(_) => engine.rail_name(peer) == Some(RELAY),
        })
    }

    fn due_at(&mut self, now: Instant, is_relayed: impl Fn(PeerId) -> bool) -> Vec<Wish> {
        if self.next().is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.0.retain(|watched| watched.at.is_none() || is_relayed(watched.peer));
        let room = LOOKS_MAX.saturating_sub(self.under_way());
        let due = self.0.iter_mut().filter(|watched| watched.at.is_some_and(|at| at <= now)).take(room);
        due.map(|watched| {
            watched.at = None;
            Wish { node: watched.node, deadline: now + LIMIT, asked_by: AskedBy::Lookout }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId::new([number as u8 + 1; 16]).unwrap()
    }

    fn lookout(count: usize, now: Instant) -> Lookout {
        let mut lookout = Lookout::default();
        for number in 0..count {
            for rail in [Some("tcp"), None, Some(RELAY), Some(RELAY)] {
                lookout.add(node(number), PeerId::new(number as u32), rail, now);
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
            assert!(lookout.due_at(next - Duration::from_nanos(1), |_| true).is_empty());
            let due = lookout.due_at(next, |_| true);
            assert_eq!(due.iter().map(|wish| wish.node).collect::<Vec<_>>(), [node(0)]);
            assert!(lookout.next().is_none(), "one at a time");
            at = next + Duration::from_secs(3);
            lookout.ended(node(0), at);
        }
        let next = lookout.next().unwrap();
        assert!(lookout.due_at(next, |_| false).is_empty());
        assert!(lookout.0.is_empty() && lookout.next().is_none());
    }

    #[test]
    fn there_are_few_looks_at_a_time() {
        let start = Instant::now();
        let mut lookout = lookout(2 * LOOKS_MAX, start);
        let next = lookout.next().unwrap();
        assert_eq!(lookout.due_at(next, |_| true).len(), LOOKS_MAX);
        assert!(lookout.next().is_none() && lookout.due_at(next, |_| true).is_empty());
        lookout.ended(node(0), next);
        let due = lookout.due_at(next, |_| true);
        assert_eq!(due.iter().map(|wish| wish.node).collect::<Vec<_>>(), [node(LOOKS_MAX)]);
    }
}
