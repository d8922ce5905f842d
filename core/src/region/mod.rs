//! Regions: memory that peers reach by key, without a message of the program.
//!
//! An owner names memory (registered: any of its own; allocated: lent by a rail so that peers reach it by themselves),
//! and gives the packed [`RemoteKey`] to whom it likes. Whoever has the key puts, gets and runs atomic operations, within
//! the bounds and rights of the region, until it is closed: a key then names nothing, even when its place was taken again.
//!
//! | file | concept |
//! |---|---|
//! | `access.rs` | rights |
//! | `key.rs` | keys as bytes |
//! | `table.rs` | the owner's regions |
//! | `cache.rs` | registrations that outlive their regions, until their memory goes away |
//! | `window.rs` | memory of a peer that this process reaches by itself, and the end of such reach |
//! | `atomic.rs`, `element.rs` | atomic operations on words, and on elements of other types |
//! | `guard.rs` | access to memory that may be gone |

mod access;
mod atomic;
mod cache;
mod element;
mod guard;
mod key;
mod table;
mod window;

pub use access::Access;
pub use atomic::{Atomic, AtomicOp, Width};
pub use cache::{Cache, CacheCounters, Registration};
pub use element::{Element, ElementOp, ElementType, Update};
pub use guard::{Guard, Trusting};
pub use key::{RemoteKey, KEY_BYTES};
pub use table::{Memory, PrivateMemory, Region, Regions};
pub(crate) use window::store;
pub use window::{Watch, Window, PART};

/// That `len` bytes at `offset` lie in a region of `size` bytes.
///
/// # Errors
/// [`crate::error::Error::Bounds`].
#[inline(always)]
pub fn check_bounds(offset: u64, len: usize, size: u64) -> Result<(), crate::error::Error> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(crate::error::Error::Bounds),
    }
}
