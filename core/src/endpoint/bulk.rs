//! Large messages to one peer whose bytes it has asked for; and those from one that this side asks for piece by piece.
//!
//! The users of a fabric, each known by its completion queue, have their turns by bytes (deficit round robin, Shreedhar and
//! Varghese 1995), and of each user its messages one segment, or piece, at a time: who has many large messages gets no more than
//! who has one. What is beyond a turn counts for the next ones.
//!
//! Messages in order go before segments, but only so far: [`Lead`].
//!
//! Turns are had by what waits here. What has gone into the path is in line there, and who has much under way would fill it while
//! another one's message waits to be asked for: so among several users no more is to go than keeps the path full.

use std::collections::VecDeque;

use super::op::CqId;
use crate::matching::Key;

/// Bytes that a user may send before it is the next one's turn: a few segments.
const QUANTUM: i64 = 256 * 1024;
/// What a frame costs besides its payload.
pub(super) const FRAME_COST: usize = 64;
/// Bytes that messages in order may be ahead of segments that wait: a thousand small ones, which a ring of shared memory holds
/// and a network takes in some ten microseconds.
const MOST_AHEAD: usize = 64 * 1024;

/// Bytes for which it is remembered that several users had something to send: more than passes over long paths while a message is
/// announced and asked for.
const COMPANY: usize = 8 << 20;

/// Who has large messages under way.
#[derive(Debug)]
struct User {
    cq: CqId,
    messages: VecDeque<Key>,
    /// Bytes that it may send yet, less those that it has sent before its time.
    left: i64,
}

impl User {
    fn pay(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(i64::try_from(bytes + FRAME_COST).unwrap_or(i64::MAX));
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Bulk {
    users: VecDeque<User>,
    len: usize,
    /// The memory of a user's line that has come to its end.
    spare: VecDeque<Key>,
    /// Bytes until it is forgotten that there were several users.
    company: usize,
}

impl Bulk {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Messages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Several users have something to send, or had until lately.
    pub(super) fn is_shared(&self) -> bool {
        self.company > 0
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
        if self.users.len() > 1 {
            self.company = COMPANY;
        }
    }

    /// The message whose turn it is.
    pub(super) fn front(&self) -> Option<Key> {
        self.users.front()?.messages.front().copied()
    }

    /// That message has sent so many bytes, or has come to its end: the next turn.
    pub(super) fn turn(&mut self, bytes: usize, stays: bool) {
        self.company = if self.users.len() > 1 { COMPANY } else { self.company.saturating_sub(bytes) };
        let Some(user) = self.users.front_mut() else { return };
        if !stays {
            user.messages.pop_front();
            self.len -= 1;
        } else if user.messages.len() > 1 {
            user.messages.rotate_left(1);
        }
        user.pay(bytes);
        if user.messages.is_empty() {
            self.drop_front();
        }
        while let Some(user) = self.users.front_mut().filter(|user| user.left <= 0) {
            user.left += QUANTUM;
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
        self.company = 0;
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
            assert!(bytes.abs_diff(16 << 20) <= 2 * QUANTUM as usize, "{sent:?}");
        }
        // One has come to its end: the others share what it had.
        let single = owners.iter().find(|(_, user)| *user == 1).expect("it is there").0;
        bulk.remove(single);
        let sent = run(&mut bulk, owner_of, 48 << 20);
        assert_eq!(sent[1], 0);
        assert!(sent[0].abs_diff(sent[2]) <= 2 * QUANTUM as usize, "{sent:?}");
        while let Some(key) = bulk.front() {
            assert_ne!(key, single);
            bulk.turn(1, false);
        }
        assert!(bulk.is_empty());
    }

    /// Pieces can be much longer than a turn.
    #[test]
    fn what_is_beyond_a_turn_counts_for_the_next_ones() {
        let (mut keys, mut cqs) = (Slab::default(), Slab::default());
        let (long, short) = (keys.insert(()), keys.insert(()));
        let mut bulk = Bulk::default();
        bulk.push(cqs.insert(()), long);
        bulk.push(cqs.insert(()), short);
        let mut sent = [0; 2];
        while sent[0] < 64 << 20 {
            let (user, len) = if bulk.front() == Some(long) { (0, 4 << 20) } else { (1, 32 << 10) };
            sent[user] += len;
            bulk.turn(len, true);
        }
        assert!(sent[0].abs_diff(sent[1]) <= 5 << 20, "{sent:?}");
    }

    #[test]
    fn company_is_remembered_for_a_while() {
        let (mut keys, mut cqs) = (Slab::default(), Slab::default());
        let (first, second) = (cqs.insert(()), cqs.insert(()));
        let mut bulk = Bulk::default();
        (0..2).for_each(|_| bulk.push(first, keys.insert(())));
        bulk.turn(1 << 20, true);
        assert!(!bulk.is_shared(), "one user with several messages");
        let single = keys.insert(());
        bulk.push(second, single);
        bulk.remove(single);
        let mut alone = 0;
        while bulk.is_shared() {
            bulk.turn(64 << 10, true);
            alone += 64 << 10;
            assert!(alone <= COMPANY, "it is remembered for ever");
        }
        assert_eq!(alone, COMPANY);
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
