//! Numbers of connections to one node, for as many as may be made at a time: more wait for their turn.
//!
//! The other side remembers the connections with the highest numbers. So a number is given only while the lowest one that is still in
//! use is among them, however long that one takes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gridnet_core::wire::NodeId;

/// The numbers that are in use with one node, and the last one.
#[derive(Debug)]
struct Open {
    numbers: BTreeSet<u64>,
    last: u64,
}

/// Turns by node.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many have a turn at a time.
    most: usize,
    /// How far numbers in use lie apart.
    window: u64,
    start: Instant,
    open: Mutex<HashMap<NodeId, Open>>,
    freed: Condvar,
}

impl Turns {
    pub(super) fn new(most: usize, window: u64) -> Turns {
        Turns { most, window, start: Instant::now(), open: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits for a turn with a node; `None` when there was none in time.
    pub(super) fn wait(self: &Arc<Turns>, node: NodeId, deadline: Instant) -> Option<Turn> {
        let mut all = self.lock();
        loop {
            // Numbers are never used again, also when a node was forgotten meanwhile: nobody connects a million times a second.
            let micros = || u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX / 2);
            let open = all.entry(node).or_insert_with(|| Open { numbers: BTreeSet::new(), last: micros() });
            let is_near = open.numbers.first().is_none_or(|first| open.last + 1 - first < self.window);
            if open.numbers.len() < self.most && is_near {
                open.last += 1;
                open.numbers.insert(open.last);
                return Some(Turn { of: self.clone(), node, number: open.last });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            all = self.freed.wait_timeout(all, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    of: Arc<Turns>,
    node: NodeId,
    pub(super) number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if let Some(open) = all.get_mut(&self.node) {
            open.numbers.remove(&self.number);
            if open.numbers.is_empty() {
                all.remove(&self.node);
            }
        }
        drop(all);
        // Whoever waits for another node is woken, too, and looks again.
        self.of.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn turns(most: usize, window: u64) -> (Arc<Turns>, [NodeId; 2], Instant) {
        (
            Arc::new(Turns::new(most, window)),
            [1, 2].map(|byte| NodeId::new([byte; 16]).unwrap()),
            Instant::now(),
        )
    }

    #[test]
    fn so_many_have_a_turn_and_the_next_gets_what_is_given_back() {
        let (turns, [one, other], now) = turns(2, 100);
        let (first, second) = (turns.wait(one, now).unwrap(), turns.wait(one, now).unwrap());
        assert!(turns.wait(one, now).is_none() && turns.wait(other, now).is_some());
        let waiting = turns.clone();
        let third = std::thread::spawn(move || waiting.wait(one, now + Duration::from_secs(60)).is_some());
        drop(first);
        assert!(third.join().unwrap());
        let last = second.number;
        drop(second);
        assert!(turns.lock().is_empty(), "nothing is kept");
        assert!(turns.wait(one, now).unwrap().number > last, "and no number comes again");
    }

    #[test]
    fn none_gets_ahead_of_a_slow_one_by_more_than_is_remembered() {
        let (turns, [one, other], now) = turns(10, 4);
        let slow = turns.wait(one, now).unwrap();
        let numbers: Vec<u64> =
            (0..10).map_while(|_| turns.wait(one, now).map(|turn| turn.number - slow.number)).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(turns.wait(other, now).is_some());
        drop(slow);
        assert!(turns.wait(one, now).is_some());
    }
}
