//! What the two processes of a measurement tell each other, over the peer's standard input and output: one JSON
//! object a line. It is not the transport that is measured, so it works, or can say why not, whatever that does.

use crate::args::Op;
use serde::{Deserialize, Serialize};

/// One run of an operation, the same on both sides.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Task {
    /// One that is run over a link.
    pub(crate) op: Op,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Unmeasured rounds before the measured ones.
    pub(crate) warmup: u64,
    /// Measured rounds: round trips, or windows.
    pub(crate) rounds: u64,
    /// Messages in flight (bandwidth and rate).
    pub(crate) window: u64,
}

/// From the parent to its peer.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Take part in a run.
    Run(Task),
    /// Open a fresh fabric of this name and answer the first message of whoever connects to it.
    Answer {
        /// Name of the fabric.
        name: String,
        /// Wait asleep; otherwise polling.
        asleep: bool,
    },
    /// Open that many fabrics.
    Gather {
        /// How many.
        count: usize,
    },
    /// Answer so many messages to each of the fabrics from `first` on that [`Order::Gather`] has opened.
    Echo {
        /// The first of them.
        first: usize,
        /// How many of them.
        count: usize,
        /// Messages that each gets.
        rounds: u64,
    },
    /// Take part in a run on the first of them.
    RunGathered(Task),
    /// Close them.
    Disperse,
}

/// From the peer to its parent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// Receives are posted: go.
    Ready,
    /// The order is carried out.
    Done,
    /// So are these fabrics open: their addresses.
    Gathered(Vec<Vec<u8>>),
    /// It went wrong; the peer ends.
    Failed(String),
}
