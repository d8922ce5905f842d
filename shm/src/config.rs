//! What a rail is opened with.

use std::path::PathBuf;

use gridnet_core::wire::Address;

/// What a rail is opened with.
#[derive(Debug, Clone)]
pub struct ShmConfig {
    /// The fabric's address.
    pub local: Address,
    /// The name by which others find it.
    pub name: Option<String>,
    /// The run directory; `None` for the automatic place.
    pub run_dir: Option<PathBuf>,
    /// Bytes of the segment.
    pub segment_size: usize,
    /// Slots of a ring.
    pub ring_slots: u32,
    /// Bytes that may be under way to one peer.
    pub link_window: usize,
    /// Ask for huge pages.
    pub huge_pages: bool,
    /// Most bytes of memory for regions.
    pub heap_size: usize,
    /// Whether long messages may be copied straight from process to process.
    pub single_copy: SingleCopy,
    /// Other users whose processes may be peers.
    pub allow_uids: Vec<u32>,
}

/// When a long message is copied straight out of the sender's memory, instead of through the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleCopy {
    /// When that is the faster way, as measured on the run.
    Auto,
    /// Whenever the system allows it.
    Always,
    /// Never.
    Never,
}
