//! Completion queues: where operations report their end.

/// What kind of operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OpKind {
    /// A send.
    Send = 1,
    /// A receive.
    Receive = 2,
    /// A put.
    Put = 8,
    /// A get.
    Get = 9,
    /// An atomic operation.
    Atomic = 10,
    /// A flush.
    Flush = 11,
    /// An endpoint that was opened by node id.
    Open = 12,
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

impl Completion {
    /// What an unused place of a queue holds.
    const NONE: Completion = Completion {
        context: 0,
        length: 0,
        tag: 0,
        immediate: 0,
        op: 0,
        status: 0,
        source: 0,
        kind: 0,
        flags: 0,
    };
}

/// A completion in a cache line of its own, found by a shift instead of a multiplication.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Place(Completion);

const FREE: Place = Place(Completion::NONE);

/// A bounded queue of completions in private memory.
///
/// Room is taken when an operation starts, so that its completion always fits: a queue never overflows, the
/// start of an operation says [`crate::error::Error::Again`] instead. Memory grows to what was needed at most.
#[derive(Debug)]
pub struct CompletionQueue {
    /// A ring whose length is a power of two.
    ring: Box<[Place]>,
    /// Completions pushed and popped so far; they differ by at most the length of the ring.
    pushed: usize,
    popped: usize,
    /// Operations that will complete here.
    outstanding: usize,
    capacity: usize,
    /// Somebody sleeps on this queue's descriptor.
    pub armed: bool,
    /// The queue is destroyed; completions that still come are dropped.
    closed: bool,
    /// Where the program wants the next completions, and how many more it has room for: see [`Self::lend`].
    lent: *mut Completion,
    lent_room: usize,
}

// SAFETY: the pointer is only used between `lend` and `end_lending`, by whoever has the queue to itself; the memory
// may be written from any thread, as `lend` demands.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// An empty queue for at most `capacity` operations, started or completed.
    pub fn new(capacity: usize) -> CompletionQueue {
        let ring = vec![FREE; capacity.min(64).next_power_of_two()].into_boxed_slice();
        CompletionQueue {
            ring,
            pushed: 0,
            popped: 0,
            outstanding: 0,
            capacity,
            armed: false,
            closed: false,
            lent: std::ptr::null_mut(),
            lent_room: 0,
        }
    }

    /// Takes room for one operation; false when the queue is full.
    #[inline(always)]
    pub fn reserve(&mut self) -> bool {
        if self.outstanding + self.len() >= self.capacity {
            return false;
        }
        self.outstanding += 1;
        true
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
        if self.lent_room > 0 {
            // SAFETY: `lent` is valid for `lent_room` more entries, by the contract of `lend`.
            unsafe {
                self.lent.write(completion);
                self.lent = self.lent.add(1);
            }
            self.lent_room -= 1;
            return;
        }
        self.push_ring(completion);
    }

    #[inline]
    fn push_ring(&mut self, completion: Completion) {
        if self.len() == self.ring.len() {
            self.grow();
        }
        let at = self.pushed & (self.ring.len() - 1);
        self.ring[at].0 = completion;
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// Adds an entry that only wakes who waits, unless there is one already.
    pub fn ring(&mut self) {
        if self.is_empty() && self.reserve() {
            self.push(Completion::NONE);
        }
    }

    /// Takes the oldest completion.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Completion> {
        if self.is_empty() {
            return None;
        }
        let completion = self.ring[self.popped & (self.ring.len() - 1)].0;
        self.popped = self.popped.wrapping_add(1);
        Some(completion)
    }

    /// Takes at most `room` completions to `out`; returns how many.
    ///
    /// # Safety
    /// `out` is valid for writes of `room` entries.
    #[inline(always)]
    pub unsafe fn pop_into(&mut self, out: *mut Completion, room: usize) -> usize {
        let mut taken = 0;
        while taken < room && !self.is_empty() {
            let Some(place) = self.ring.get(self.popped & (self.ring.len() - 1)) else { break };
            // SAFETY: `taken` is below `room`.
            unsafe { out.add(taken).write(place.0) };
            self.popped = self.popped.wrapping_add(1);
            taken += 1;
        }
        taken
    }

    /// Lends the queue, which is empty, the memory where the program wants its completions: they are written there at
    /// once, instead of into the queue and out of it again.
    ///
    /// # Safety
    /// `out` is valid for writes of `room` entries, from any thread, until [`Self::end_lending`], which is called before
    /// anything is taken.
    #[inline(always)]
    pub unsafe fn lend(&mut self, out: *mut Completion, room: usize) {
        debug_assert!(self.is_empty());
        (self.lent, self.lent_room) = (out, room);
    }

    /// Room that is left in the memory lent.
    #[inline(always)]
    pub fn lent_room(&self) -> usize {
        self.lent_room
    }

    /// Gives the memory back that was lent; how much room is left in it.
    #[inline(always)]
    pub fn end_lending(&mut self) -> usize {
        std::mem::take(&mut self.lent_room)
    }

    /// Number of completions to be taken.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.pushed.wrapping_sub(self.popped)
    }

    /// True without completions.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.pushed == self.popped
    }

    /// Most operations, started or completed; 0 once the queue is closed.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Operations that have started and not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Nobody takes completions any more; no operation starts.
    pub fn close(&mut self) {
        self.closed = true;
        self.capacity = 0;
    }

    /// True after [`Self::close`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// True when the queue is closed and nothing will complete here any more.
    #[inline(always)]
    pub fn is_finished(&self) -> bool {
        self.closed && self.outstanding == 0
    }

    #[cold]
    fn grow(&mut self) {
        let mut longer = vec![FREE; self.ring.len() * 2].into_boxed_slice();
        let len = self.len();
        for to in longer.iter_mut().take(len) {
            *to = self.ring[self.popped & (self.ring.len() - 1)];
            self.popped = self.popped.wrapping_add(1);
        }
        (self.ring, self.popped, self.pushed) = (longer, 0, len);
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

    #[test]
    fn lent_memory_is_filled_first_and_what_is_left_over_waits() {
        let mut queue = CompletionQueue::new(10);
        let entry = |context| Completion { context, ..Completion::NONE };
        let mut out = [Completion::NONE; 3];
        for count in 0..5 {
            (0..count).for_each(|_| assert!(queue.reserve()));
            // SAFETY: `out` has three entries, and is not looked at before the lending ends.
            unsafe { queue.lend(out.as_mut_ptr(), 3) };
            (0..count).for_each(|i| queue.push(entry(10 * count + i)));
            let written = 3 - queue.end_lending();
            let mut got: Vec<u64> = out[..written].iter().map(|c| c.context).collect();
            assert_eq!(written as u64, count.min(3));
            got.extend(std::iter::from_fn(|| queue.pop()).map(|c| c.context));
            assert_eq!(got, (0..count).map(|i| 10 * count + i).collect::<Vec<_>>());
            assert_eq!(queue.outstanding(), 0);
        }
    }

    #[test]
    fn completions_come_in_order_while_the_ring_grows_and_wraps() {
        let mut queue = CompletionQueue::new(10_000);
        let (mut next, mut expected) = (0, 0);
        for round in 0..2000u64 {
            for _ in 0..round % 7 {
                assert!(queue.reserve());
                queue.push(Completion { context: next, ..Completion::NONE });
                next += 1;
            }
            for _ in 0..round % 5 {
                let popped = queue.pop().map(|c| c.context);
                assert_eq!(popped, (expected < next).then_some(expected));
                expected += u64::from(popped.is_some());
            }
            assert_eq!(queue.len() as u64, next - expected);
        }
    }
}
