//! What the two processes of a measurement tell each other, over the peer's standard input and output: one JSON
//! object a line. It is not the transport that is measured, so it works, or can say why not, whatever that does.

use super::scale::Footprint;
use crate::args::{Op, LARGEST, MOST_ITERS, MOST_PEERS, MOST_WINDOW};
use crate::failure::Failure;
use crate::text;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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
    /// Open a fresh fabric and answer the first message of whoever connects to it.
    Answer {
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
    /// Say what this process holds.
    Weigh,
    /// Answer messages over a bare socket, until it is closed.
    Raw {
        /// Bytes of a message.
        size: usize,
        /// What the caller says first.
        token: [u8; 16],
    },
}

/// From the peer to its parent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The peer has a fabric.
    Here(Here),
    /// Receives are posted: go.
    Ready,
    /// They are, on the fabric at this address.
    At(Vec<u8>),
    /// The peer sleeps.
    Asleep,
    /// The peer listens for a bare socket.
    Listens(SocketAddr),
    /// The order is carried out.
    Done,
    /// So are these fabrics open: their addresses.
    Gathered(Vec<Vec<u8>>),
    /// What the process holds.
    Weighed(Footprint),
    /// It went wrong; the peer ends.
    Failed(String),
}

/// Where the peer is.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Here {
    /// Of its fabric.
    pub(crate) address: Vec<u8>,
    /// Of the library.
    pub(crate) version: String,
    /// Name of the host.
    pub(crate) host: String,
    /// What the processor calls itself.
    pub(crate) processor: String,
}

impl Order {
    /// Refuses what no parent of this build would ask for, given the largest message that was agreed on.
    pub(crate) fn check(&self, largest: usize) -> Result<(), Failure> {
        let fits = match self {
            Order::Run(task) | Order::RunGathered(task) => task.fits(largest),
            Order::Gather { count } => *count <= MOST_PEERS as usize,
            Order::Echo { rounds, .. } => *rounds <= MOST_ITERS,
            Order::Raw { size, .. } => (1..=LARGEST).contains(size),
            Order::Answer { .. } | Order::Disperse | Order::Weigh => true,
        };
        if fits {
            Ok(())
        } else {
            Err(Failure::Run(format!("an order is beyond all bounds: {self:?}")))
        }
    }
}

impl Report {
    /// The same, fit to be shown.
    pub(crate) fn readable(self) -> Report {
        let plain = |said: String| text::readable(&said);
        match self {
            Report::Failed(text) => Report::Failed(plain(text)),
            Report::Here(Here { address, version, host, processor }) => Report::Here(Here {
                address,
                version: plain(version),
                host: plain(host),
                processor: plain(processor),
            }),
            other => other,
        }
    }
}

impl Task {
    fn fits(&self, largest: usize) -> bool {
        let counts = self.warmup <= MOST_ITERS && self.rounds <= MOST_ITERS;
        counts && self.size <= largest && (1..=MOST_WINDOW).contains(&self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_says_of_itself_does_nothing_to_the_terminal() {
        let said = || "x\u{1b}[2J".to_owned();
        let here = Here { address: vec![1], version: said(), host: said(), processor: said() };
        for report in [Report::Here(here), Report::Failed(said())] {
            let line = serde_json::to_string(&report.readable()).unwrap();
            assert!(line.contains("x?[2J") && !line.contains("u001b"), "{line}");
        }
    }

    #[test]
    fn orders_beyond_what_was_agreed_on_are_refused() {
        let task = Task { op: Op::TagBw, size: 8, warmup: 0, rounds: 1, window: 64 };
        assert!(Order::Run(task).check(8).is_ok());
        for bad in [
            Task { size: 9, ..task },
            Task { rounds: u64::MAX, ..task },
            Task { warmup: u64::MAX, ..task },
            Task { window: 0, ..task },
            Task { window: u64::MAX, ..task },
        ] {
            assert!(Order::Run(bad).check(8).is_err(), "{bad:?}");
            assert!(Order::RunGathered(bad).check(8).is_err(), "{bad:?}");
        }
        assert!(Order::Gather { count: usize::MAX }.check(8).is_err());
        assert!(Order::Raw { size: 0, token: [0; 16] }.check(8).is_err());
    }
}
