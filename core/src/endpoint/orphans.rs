//! Unexpected messages of peers that have gone: they stay receivable, and nobody can be told to stop sending them.

use super::state::Limits;
use crate::error::Error;
use crate::rail::Refusal;

/// Who wants to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    New,
    /// The next process of a node whose last one was not given up yet.
    NextLife,
}

/// What peers that have gone left in the unexpected store.
///
/// Each peer may bring a share beyond the bound of the store before it hears that it is full. Who comes again and again under
/// another name could fill any memory with such shares: while those that have gone left as much as the store may hold, nobody
/// new is let in. The next process of a node that was there is, up to twice as much; who is called comes as ever.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    messages: usize,
    bytes: usize,
}

impl Orphans {
    /// A peer has gone, and left these.
    pub(super) fn add(&mut self, messages: usize, bytes: usize) {
        self.messages += messages;
        self.bytes += bytes;
    }

    /// A message of so many bytes was taken.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }

    /// Whether one more peer may come.
    ///
    /// # Errors
    /// [`Error::Limit`] while the store is full of what others left.
    pub(super) fn check(&self, limits: &Limits, caller: Caller) -> Result<(), Refusal> {
        let times = if caller == Caller::NextLife { 2 } else { 1 };
        let is_below = |count: usize, bound: usize| count <= bound.saturating_mul(times);
        if is_below(self.messages, limits.unexpected_messages)
            && is_below(self.bytes, limits.unexpected_bytes)
        {
            return Ok(());
        }
        let why = format!(
            "{} messages ({} B) of peers that have gone wait to be received (GRIDNET_UNEXPECTED_MESSAGES={}, \
             GRIDNET_UNEXPECTED_BYTES={})",
            self.messages, self.bytes, limits.unexpected_messages, limits.unexpected_bytes
        );
        Err(Refusal::new(Error::Limit, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_of_a_node_has_twice_the_room() {
        let limits = Limits { unexpected_messages: 10, unexpected_bytes: 1000, ..Limits::default() };
        let mut orphans = Orphans::default();
        let verdicts = |orphans: &Orphans| {
            [Caller::New, Caller::NextLife].map(|caller| orphans.check(&limits, caller).is_ok())
        };
        orphans.add(10, 1000);
        assert_eq!(verdicts(&orphans), [true, true]);
        orphans.add(1, 0);
        assert_eq!(verdicts(&orphans), [false, true]);
        orphans.add(9, 1001);
        assert_eq!(verdicts(&orphans), [false, false]);
        orphans.remove(1001);
        assert_eq!(verdicts(&orphans), [false, true]);
        (0..9).for_each(|_| orphans.remove(0));
        assert_eq!(verdicts(&orphans), [true, true]);
    }
}
