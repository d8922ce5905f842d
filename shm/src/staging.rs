//! Staging buffers that one peer has not given back: how many may be under way, and which are free again.

use std::collections::VecDeque;

use crate::arena::{Arena, Staging};

/// In the flags of a slot: the payload is in a staging buffer, and the word after the extension names it.
pub const FLAG_STAGED: u8 = 0x80;
/// Staged payloads beyond this many bytes are given back at once,
pub const PROMPT_CREDIT: usize = 1024;
/// others after so many, or when the ring runs empty.
pub const STAGED_CREDITS: u32 = 16;
/// Staging buffers beyond this size count as bulk,
const BULK: usize = 8192;
/// of which so many are under way at once: enough to keep both copies busy, few enough to stay in the cache.
pub const BULK_DEPTH: usize = 8;

/// See the file.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// In the order of the slots that name them.
    buffers: VecDeque<(u32, Staging)>,
    /// What they count in the window.
    bytes: usize,
    bulk: usize,
}

impl UnderWay {
    /// True when one for `len` bytes more would go beyond `window`, or be one too many of the large ones.
    pub fn is_full(&self, window: usize, len: usize) -> bool {
        self.bytes > 0 && self.bytes + len > window || len > BULK && self.bulk >= BULK_DEPTH
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Adds the buffer that the next slot names, which has this number.
    pub fn add(&mut self, slot: u32, staging: Staging) {
        self.buffers.push_back((slot, staging));
        self.bytes += weight(staging);
        self.bulk += usize::from(staging.size() > BULK);
    }

    /// Gives those back to the arena whose slots were consumed; whether there were any. Both numbers count slots, modulo 2^32.
    pub fn give_back(&mut self, arena: &mut Arena, sent: u32, consumed: u32) -> bool {
        let before = self.buffers.len();
        while let Some(&(slot, staging)) = self.buffers.front() {
            // How far back each lies: a slot is consumed when it is further back than what was consumed last.
            if sent.wrapping_sub(slot) <= sent.wrapping_sub(consumed) {
                break;
            }
            self.buffers.pop_front();
            self.bytes -= weight(staging);
            self.bulk -= usize::from(staging.size() > BULK);
            arena.give_staging(staging);
        }
        self.buffers.len() < before
    }

    /// What the peer has not given back, at the end.
    pub fn into_staging(self) -> Vec<Staging> {
        self.buffers.into_iter().map(|(_, staging)| staging).collect()
    }
}

/// What a staging buffer counts in the window. Those that the peer does not give back promptly count nothing: a sender
/// that waited for them could wait for ever, and the ring bounds them.
fn weight(staging: Staging) -> usize {
    if staging.size() > PROMPT_CREDIT {
        staging.size()
    } else {
        0
    }
}
