//! What lies where in a page. Numbers are in the byte order of the host; offsets are in bytes.
//!
//! | offset | content |
//! |---|---|
//! | 0 | [`Prefix`], then [`HEAD_TEXT`] bytes of text that never changes |
//! | 4096 | [`Live`]: counters of the fabric, and waiting calls |
//! | 8192 | [`ROWS`] times [`PeerRow`] |

use gridnet_core::ledger::{Counter, EngineCells, PeerCells, PeerCounts};
use gridnet_core::sync::AtomicU64;

/// The first eight bytes. Written last, so that a page which has them is whole.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"GNPAGE\r\n");

/// The form of the page that this build writes and reads. Another form has another number; keys may be added to
/// the text without one.
pub const VERSION: u32 = 3;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// Where [`Live`] begins.
pub(crate) const LIVE_OFFSET: usize = 4096;
/// Where the rows begin.
pub(crate) const ROWS_OFFSET: usize = 8192;
/// Peers that have a row at the same time: as many as make a page of a mebibyte.
pub(crate) const ROWS: usize = (PAGE_BYTES - ROWS_OFFSET) / size_of::<PeerRow>();
/// Most bytes of the text of the head.
pub(crate) const HEAD_TEXT: usize = LIVE_OFFSET - size_of::<Prefix>();
/// Calls that are shown to wait at the same time.
pub(crate) const WAITS: usize = 16;
/// Words of the text of a row.
pub(crate) const ROW_WORDS: usize = 94;
/// Most bytes of the text of a row.
pub(crate) const ROW_TEXT: usize = ROW_WORDS * 8;

/// The beginning of a page.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Prefix {
    pub(crate) magic: AtomicU64,
    /// [`VERSION`].
    pub(crate) version: AtomicU64,
    /// [`PAGE_BYTES`].
    pub(crate) bytes: AtomicU64,
    /// Bytes of the text.
    pub(crate) text_len: AtomicU64,
}

/// What changes with each call, or nearly.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Live {
    pub(crate) engine: EngineCells,
    /// Sums over peers that had a row and have left it.
    pub(crate) departed: PeerCells,
    pub(crate) pulse: Pulse,
    pub(crate) waits: [WaitSlot; WAITS],
}

/// How polling goes, as of the last look at descriptors.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Pulse {
    pub(crate) polls: Counter,
    pub(crate) empty_polls: Counter,
    pub(crate) sleeps: Counter,
    pub(crate) wakeups_sent: Counter,
    /// When the fabric last looked at its descriptors: CLOCK_MONOTONIC in ns.
    pub(crate) looked_ns: Counter,
    /// Rows that have been used; they are the first ones.
    pub(crate) rows_used: Counter,
}

/// A call that waits.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct WaitSlot {
    /// Number of the thread; 0 when the slot is free. Taken by exchange.
    pub(crate) thread: AtomicU64,
    /// See `waits.rs`.
    pub(crate) call: Counter,
    /// Since when: CLOCK_MONOTONIC in ns.
    pub(crate) since_ns: Counter,
    /// For how long at most, in ns; all ones is for ever.
    pub(crate) timeout_ns: Counter,
    /// 1 while it sleeps.
    pub(crate) asleep: Counter,
}

/// One peer.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PeerRow {
    pub(crate) counts: PeerCounts,
    /// Odd while the text is being written.
    pub(crate) turn: AtomicU64,
    /// Bytes of the text; 0 when the row is free.
    pub(crate) text_len: AtomicU64,
    pub(crate) text: [AtomicU64; ROW_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Prefix>() == 32);
    assert!(size_of::<Live>() == 64 * (5 + WAITS) && size_of::<Live>() <= ROWS_OFFSET - LIVE_OFFSET);
    assert!(size_of::<PeerRow>() == 1024 && ROWS == 1016);
    assert!(std::mem::offset_of!(PeerRow, turn) == 256);
};
