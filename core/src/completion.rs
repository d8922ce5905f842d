//! Completion queues: where operations report their end.

use std::collections::VecDeque;

/// What kind of operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OpKind {
    /// A send.
    Send = 1,
    /// A receive.
    Receive = 2,
}

/// [`Completion::immediate`] holds what the sender gave.
pub const HAS_IMMEDIATE: u32 = 1;

/// The end of one operation. The C ABI's `gridnet_completion`, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Completion {
    /// What the caller gave with the operation.
    pub context: u64,
    /// Length of the message in bytes; of a truncated one, its whole length.
    pub length: u64,
    /// Tag of the message.
    pub tag: u64,
    /// Immediate value, when [`HAS_IMMEDIATE`] is in `flags`.
    pub immediate: u64,
    /// Number of the operation.
    pub op: u64,
    /// 0, or the code of an [`crate::error::Error`].
    pub status: i32,
    /// Number of the peer.
    pub source: u32,
    /// [`OpKind`] as a number.
    pub kind: u32,
    /// [`HAS_IMMEDIATE`] or 0.
    pub flags: u32,
}

const _: () = assert!(size_of::<Completion>() == 56);

/// A bounded queue of completions in private memory.
///
/// Room is taken when an operation starts, so that its completion always fits: a queue never overflows, the
/// start of an operation says [`crate::error::Error::Again`] instead.
#[derive(Debug)]
pub struct CompletionQueue {
    entries: VecDeque<Completion>,
    /// Operations that will complete here.
    outstanding: usize,
    capacity: usize,
    /// Somebody sleeps on this queue's descriptor.
    pub armed: bool,
    /// The queue is destroyed; completions that still come are dropped.
    closed: bool,
}

impl CompletionQueue {
    /// An empty queue for at most `capacity` operations, started or completed.
    pub fn new(capacity: usize) -> CompletionQueue {
        CompletionQueue { entries: VecDeque::new(), outstanding: 0, capacity, armed: false, closed: false }
    }

    /// Takes room for one operation; false when the queue is full.
    #[inline(always)]
    pub fn reserve(&mut self) -> bool {
        let fits = self.outstanding + self.entries.len() < self.capacity;
        self.outstanding += usize::from(fits);
        fits
    }

    /// Gives room back that no completion will use.
    #[inline]
    pub fn unreserve(&mut self) {
        self.outstanding -= 1;
    }

    /// Adds the completion of an operation that has room.
    #[inline(always)]
    pub fn push(&mut self, completion: Completion) {
        self.outstanding -= 1;
        if !self.closed {
            self.entries.push_back(completion);
        }
    }

    /// Takes the oldest completion.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Completion> {
        self.entries.pop_front()
    }

    /// Number of completions to be taken.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without completions.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Operations that have started and not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Drops what is there and all that comes.
    pub fn close(&mut self) {
        self.closed = true;
        self.entries = VecDeque::new();
    }

    /// True after [`Self::close`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_refuses_operations_instead_of_losing_completions() {
        let done = Completion {
            context: 7,
            length: 0,
            tag: 0,
            immediate: 0,
            op: 0,
            status: 0,
            source: 0,
            kind: OpKind::Send as u32,
            flags: 0,
        };
        let mut queue = CompletionQueue::new(2);
        assert!(queue.reserve() && queue.reserve() && !queue.reserve());
        queue.push(done);
        assert!(!queue.reserve());
        assert_eq!(queue.pop(), Some(done));
        assert!(queue.reserve());
        assert_eq!(queue.outstanding(), 2);
    }
}
