//! Unexpected messages of peers that have gone: they stay receivable, and nobody can be told to stop sending them.

use super::state::Limits;
use crate::error::Error;
use crate::rail::Refusal;

/// What peers that have gone left in the unexpected store.
///
/// Each peer may bring a share beyond the bound of the store before it hears that it is full. Who comes again and again under
/// another name could fill any memory with such shares: while those that have gone left as much as the store may hold, nobody
/// new is let in. Peers that are known already, or are called, come as ever.
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
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.messages <= limits.unexpected_messages && self.bytes <= limits.unexpected_bytes {
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
