//! The line in which operations by messages on the regions of one peer stand.
//!
//! The owner reads the bytes of a get when their turn comes to be sent, and runs puts and atomic operations as they arrive.
//! So that none of these overtakes a get that was called before, they wait here until its bytes have come: waiting at the
//! owner would cost memory there without bound.

use std::collections::VecDeque;

use super::serve::Reply;
use crate::matching::Key;

/// Operations between this fabric and one peer.
#[derive(Debug, Default)]
pub(super) struct RemoteLine {
    /// Ours that have not ended, in the order of the calls; some of those behind the first may have ended.
    line: VecDeque<Key>,
    /// Those of them that are not sent, and whether each changes the memory of a region.
    to_send: VecDeque<(Key, bool)>,
    /// Gets that were sent, and whose bytes have not all come.
    pub(super) gets: usize,
    /// What the peer is to be sent of our regions.
    pub(super) replies: VecDeque<Reply>,
    turn: u8,
}

impl RemoteLine {
    /// Nothing is under way.
    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty()
    }

    /// Adds an operation of ours.
    pub(super) fn join(&mut self, key: Key, changes_memory: bool) {
        self.line.push_back(key);
        self.to_send.push_back((key, changes_memory));
    }

    /// The first that has not ended.
    pub(super) fn first(&self) -> Option<Key> {
        self.line.front().copied()
    }

    /// The first has ended.
    pub(super) fn advance(&mut self) {
        self.line.pop_front();
    }

    /// The one to be sent next, if one may be.
    pub(super) fn next_to_send(&self) -> Option<Key> {
        let (key, changes_memory) = *self.to_send.front()?;
        (self.gets == 0 || !changes_memory).then_some(key)
    }

    /// That one was sent, or has ended before.
    pub(super) fn has_left(&mut self) {
        self.to_send.pop_front();
    }

    pub(super) fn has_work(&self) -> bool {
        self.next_to_send().is_some() || !self.replies.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.line.clear();
        self.to_send.clear();
        self.replies.clear();
        self.gets = 0;
    }

    /// Whose turn it is: large messages, operations, answers.
    pub(super) fn next_turn(&mut self) -> u8 {
        self.turn = if self.turn >= 2 { 0 } else { self.turn + 1 };
        self.turn
    }
}
