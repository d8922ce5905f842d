//! Tag matching: which posted receive takes which message.
//!
//! The rules are MPI's (MPI 4.1, section 3.5): a message matches the earliest posted receive whose source and tag
//! accept it, a receive takes the earliest arrived message of a sender that it accepts. Tags have 64 bits, and a
//! receive may ignore any of them. Exact matches cost the same with one entry and with thousands.

mod bins;
mod posted;
mod slab;
mod unexpected;

pub use posted::Posted;
pub use slab::{Key, Slab};
pub use unexpected::Unexpected;

use crate::rail::PeerId;

/// Whom a receive accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Any peer.
    Any,
    /// This one.
    Peer(PeerId),
}

/// What a receive or probe accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// The sender.
    pub source: Source,
    /// The tag, of which
    pub tag: u64,
    /// these bits do not count.
    pub ignore: u64,
}

impl Pattern {
    /// Whether a message from `source` with `tag` is accepted.
    #[inline]
    pub fn accepts(&self, source: PeerId, tag: u64) -> bool {
        (self.tag ^ tag) & !self.ignore == 0
            && match self.source {
                Source::Any => true,
                Source::Peer(peer) => peer == source,
            }
    }
}

/// Stands for "any source" where a peer's number is hashed.
pub(crate) const ANY: u32 = u32::MAX;

/// Spreads source and tag over 32 bits: the two halves of a product of 128 bits, folded (as in wyhash, Wang Yi 2019), with
/// the golden ratio's multiplier. Tags that count up, or differ in high bits only, land in different bins.
#[inline(always)]
fn hash(source: u32, tag: u64) -> u32 {
    let x = tag ^ u64::from(source).rotate_right(20);
    let product = u128::from(x ^ 0xa076_1d64_78bd_642f) * 0x9e37_79b9_7f4a_7c15;
    let folded = (product >> 64) as u64 ^ product as u64;
    (folded ^ (folded >> 32)) as u32
}
