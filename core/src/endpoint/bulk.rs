//! Large messages to one peer whose bytes it has asked for.
//!
//! The users of a fabric, each known by its completion queue, have their turns by bytes (deficit round robin, Shreedhar and
//! Varghese 1995), and of each user its messages one segment at a time: who sends many large messages gets no more than who
//! sends one.
//!
//! Messages in order go before segments, but only so far: [`Lead`].

use std::collections::VecDeque;

use super::op::CqId;
use crate::matching::Key;

/// Bytes that a user may send before it is the next one's turn: a few segments.
const QUANTUM: usize = 256 * 1024;
/// What a frame costs besides its payload.
pub(super) const FRAME_COST: usize = 64;
/// Bytes that messages in order may be ahead of segments that wait: a thousand small ones, which a ring of shared memory holds
/// and a network takes in some ten microseconds.
const MOST_AHEAD: usize = 64 * 1024;

/// Who has large messages under way.
#[derive(Debug)]
struct User {
    cq: CqId,
    messages: VecDeque<Key>,
    /// Bytes that it may send yet.
    left: usize,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Bulk {
    users: VecDeque<User>,
    len: usize,
    /// The memory of a user's line that has come to its end.
    spare: VecDeque<Key>,
}

impl Bulk {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Messages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a message of a user.
    pub(super) fn push(&mut self, cq: CqId, key: Key) {
        self.len += 1;
        if let Some(user) = self.users.iter_mut().find(|user| user.cq == cq) {
            return user.messages.push_back(key);
        }
        let mut messages = std::mem::take(&mut self.spare);
        messages.push_back(key);
        self.users.push_back(User { cq, messages, left: QUANTUM });
    }

    /// The message whose turn it is.
    pub(super) fn front(&self) -> Option<Key> {
        self.users.front()?.messages.front().copied()
    }

    /// That message has sent so many bytes, or has come to its end: the next turn.
    pub(super) fn turn(&mut self, bytes: usize, stays: bool) {
        let Some(user) = self.users.front_mut() else { return };
        if !stays {
            user.messages.pop_front();
            self.len -= 1;
        } else if user.messages.len() > 1 {
            user.messages.rotate_left(1);
        }
        user.left = user.left.saturating_sub(bytes + FRAME_COST);
        if user.messages.is_empty() {
            self.drop_front();
        } else if user.left == 0 {
            user.left = QUANTUM;
            self.users.rotate_left(1);
        }
    }

    /// Forgets a message.
    pub(super) fn remove(&mut self, key: Key) {
        for user in &mut self.users {
            user.messages.retain(|other| *other != key);
        }
        self.users.retain(|user| !user.messages.is_empty());
        self.len = self.users.iter().map(|user| user.messages.len()).sum();
    }

    pub(super) fn clear(&mut self) {
        self.users.clear();
        self.len = 0;
    }

    fn drop_front(&mut self) {
        if let Some(user) = self.users.pop_front() {
            self.spare = user.messages;
        }
    }
}

/// How far messages in order are ahead of segments that wait. So a stream of small messages that fills the path leaves half of
/// it to large ones; and one that does not fill it has the path at once.
#[derive(Debug, Default)]
pub(super) struct Lead {
    bytes: usize,
    /// Whole messages that had been sent when this was last counted: also those that went past the arbiter.
    seen: u64,
}

impl Lead {
    /// Takes note of what went past the arbiter: `sends` whole messages there were ever. Nothing is ahead of nothing. How many
    /// are new.
    pub(super) fn note(&mut self, sends: u64, bulk_waits: bool) -> u64 {
        let count = sends.wrapping_sub(std::mem::replace(&mut self.seen, sends));
        let passed = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(FRAME_COST);
        self.bytes = if bulk_waits { self.bytes.saturating_add(passed) } else { 0 };
        count
    }

    /// A message in order has gone: besides the frame, which is counted elsewhere, so many bytes.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A segment has gone.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes + FRAME_COST);
    }

    /// Messages in order have to wait for a segment.
    pub(super) fn is_used_up(&self) -> bool {
        self.bytes >= MOST_AHEAD
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::matching::Slab;

    /// Segments of each user in the order of their turns, for so many bytes.
    fn run(bulk: &mut Bulk, owner_of: impl Fn(Key) -> usize, mut bytes: usize) -> [usize; 3] {
        let mut sent = [0; 3];
        while bytes > 0 {
            let key = bulk.front().expect("there is more");
            sent[owner_of(key)] += 64 * 1024;
            bulk.turn(64 * 1024, true);
            bytes -= 64 * 1024;
        }
        sent
    }

    #[test]
    fn users_share_by_bytes_and_not_by_messages() {
        let (mut keys, mut cqs) = (Slab::default(), Slab::default());
        let users = [cqs.insert(()), cqs.insert(()), cqs.insert(())];
        let mut bulk = Bulk::default();
        let mut owners = Vec::new();
        for (user, count) in [(0, 20), (1, 1), (2, 3)] {
            for _ in 0..count {
                let key = keys.insert(());
                owners.push((key, user));
                bulk.push(users[user], key);
            }
        }
        let owner_of = |key| owners.iter().find(|(known, _)| *known == key).map_or(0, |(_, user)| *user);
        assert_eq!(bulk.len(), 24);
        let sent = run(&mut bulk, owner_of, 48 << 20);
        for bytes in sent {
            assert!(bytes.abs_diff(16 << 20) <= 2 * QUANTUM, "{sent:?}");
        }
        // One has come to its end: the others share what it had.
        let single = owners.iter().find(|(_, user)| *user == 1).expect("it is there").0;
        bulk.remove(single);
        let sent = run(&mut bulk, owner_of, 48 << 20);
        assert_eq!(sent[1], 0);
        assert!(sent[0].abs_diff(sent[2]) <= 2 * QUANTUM, "{sent:?}");
        while let Some(key) = bulk.front() {
            assert_ne!(key, single);
            bulk.turn(1, false);
        }
        assert!(bulk.is_empty());
    }

    #[test]
    fn nothing_is_ahead_of_nothing() {
        let mut lead = Lead::default();
        lead.note(1_000_000, false);
        assert!(!lead.is_used_up());
        lead.note(1_000_000 + (MOST_AHEAD / FRAME_COST) as u64, true);
        assert!(lead.is_used_up());
        lead.shrink(1);
        assert!(!lead.is_used_up());
        lead.grow(MOST_AHEAD);
        assert!(lead.is_used_up());
        lead.note(1_000_000 + (MOST_AHEAD / FRAME_COST) as u64, false);
        assert!(!lead.is_used_up());
    }
}
