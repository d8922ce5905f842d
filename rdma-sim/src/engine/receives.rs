//! Receives that wait for messages: of one queue pair, or shared by several.

use std::collections::VecDeque;

use super::{Error, MAX_MESSAGE};
use crate::mr::total;
use crate::wr::RecvWr;

/// A receive queue.
pub(crate) struct Receives {
    queue: VecDeque<RecvWr>,
    capacity: usize,
    /// Below so many, whoever asked is told once.
    limit: usize,
    limit_reached: bool,
}

impl Receives {
    pub(crate) fn new(capacity: usize) -> Receives {
        Receives { queue: VecDeque::new(), capacity, limit: 0, limit_reached: false }
    }

    pub(crate) fn post(&mut self, wr: RecvWr) -> Result<(), Error> {
        // What a peer fills is counted in 32 bits, and no message is longer.
        if total(&wr.sges) > u64::from(MAX_MESSAGE) {
            return Err(Error::Invalid);
        }
        if self.queue.len() >= self.capacity {
            return Err(Error::Full);
        }
        self.queue.push_back(wr);
        Ok(())
    }

    /// The oldest receive, for a message that has begun.
    pub(crate) fn take(&mut self) -> Option<RecvWr> {
        let wr = self.queue.pop_front()?;
        if self.queue.len() < self.limit {
            self.limit = 0;
            self.limit_reached = true;
        }
        Some(wr)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Tells once when fewer than `limit` are left.
    pub(crate) fn arm(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether the limit was reached since the last call.
    pub(crate) fn take_limit_reached(&mut self) -> bool {
        std::mem::take(&mut self.limit_reached)
    }
}
