//! What is measured. A new operation is a new entry of [`OPS`].

use crate::args::Table;
use crate::peer::{GRIDNET, RAW};
use std::fmt;

/// An operation, by the name that `gridnet perf --op` has for it.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) name: &'static str,
    pub(crate) shows: Shows,
    pub(crate) sizes: &'static [u64],
    /// What ucx_perftest calls it, if it has it.
    pub(crate) ucx: Option<&'static str>,
    /// Who has it besides gridnet, in each table; nobody named: everybody.
    pub(crate) peers: &'static [&'static str],
    /// Only these tables have it.
    pub(crate) tables: &'static [Table],
}

/// What of an operation is shown. Ratios are always those of the times of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// One-way time: the median of the run.
    Latency,
    /// Messages a second: from the average of the run, the only one that every program says.
    Rate,
    /// Bytes a second: from the average, too.
    Bandwidth,
}

/// An operation and a message size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) op: &'static Op,
    pub(crate) size: u64,
}

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "tag_lat",
        shows: Shows::Latency,
        sizes: &[8, 1 << 10, 64 << 10, 1 << 20],
        ucx: Some("tag_lat"),
        peers: &[],
        tables: ALL,
    },
    Op { name: "tag_rate", shows: Shows::Rate, sizes: &[8], ucx: Some("tag_bw"), peers: &[], tables: ALL },
    Op {
        name: "tag_bw",
        shows: Shows::Bandwidth,
        sizes: &[1 << 20],
        ucx: Some("tag_bw"),
        peers: &[],
        tables: ALL,
    },
    Op {
        name: "put_lat",
        shows: Shows::Latency,
        sizes: &[8],
        ucx: Some("ucp_put_lat"),
        peers: &["ucx", "ucx-debian", "ucx-tcp", "ucx-debian-tcp"],
        tables: BOTH,
    },
    Op {
        name: "loan_lat",
        shows: Shows::Latency,
        sizes: &[1 << 20],
        ucx: None,
        peers: &["iceoryx2"],
        tables: &[Table::Shm],
    },
];

const ALL: &[Table] = &[Table::Shm, Table::Tcp, Table::Mpi];
const BOTH: &[Table] = &[Table::Shm, Table::Tcp];

/// Measures a stream of bytes, which has no messages: one operation is all it has.
const IPERF: &str = "iperf3";

/// The operation of this name.
pub(crate) fn named(name: &str) -> Result<&'static Op, String> {
    let names = || OPS.iter().map(|op| op.name).collect::<Vec<_>>().join(", ");
    OPS.iter().find(|op| op.name == name).ok_or_else(|| format!("accepted is one of {}", names()))
}

impl Op {
    /// Whether a peer has this operation at all, in this table.
    pub(crate) fn is_of(&self, peer: &str, table: Table) -> bool {
        match peer {
            _ if !self.tables.contains(&table) => false,
            GRIDNET => true,
            IPERF => self.shows == Shows::Bandwidth,
            // A message is a call there: how many of them there are in a second says nothing of how fast the socket can be.
            RAW if self.shows == Shows::Rate => false,
            _ => self.peers.is_empty() || self.peers.contains(&peer),
        }
    }
}

impl Shows {
    /// `value` of a message of `size` bytes that takes `time_ns`, with its unit.
    pub(crate) fn text(self, time_ns: f64, size: u64) -> String {
        match self {
            Shows::Latency if time_ns < 1_000.0 => format!("{:.3} us", time_ns / 1_000.0),
            Shows::Latency if time_ns < 10_000.0 => format!("{:.2} us", time_ns / 1_000.0),
            Shows::Latency => format!("{:.1} us", time_ns / 1_000.0),
            Shows::Rate => format!("{:.1} M/s", 1_000.0 / time_ns),
            Shows::Bandwidth => format!("{:.1} GB/s", size as f64 / time_ns),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op.name, size_text(self.size))
    }
}

/// `bytes` as people write it: `8 B`, `64 KiB`, `1 MiB`.
fn size_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    exact.map_or_else(|| format!("{bytes} B"), |(shift, name)| format!("{} {name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_unit_of_their_operation() {
        assert_eq!(Shows::Latency.text(62.5, 8), "0.062 us");
        assert_eq!(Shows::Latency.text(4_190.0, 8), "4.19 us");
        assert_eq!(Shows::Latency.text(46_500.0, 8), "46.5 us");
        assert_eq!(Shows::Rate.text(50.0, 8), "20.0 M/s");
        assert_eq!(Shows::Bandwidth.text(100_000.0, 1 << 20), "10.5 GB/s");
    }

    #[test]
    fn who_has_no_such_operation_has_no_row() {
        let has = |op: &str, peer| named(op).unwrap().is_of(peer, Table::Shm);
        assert!(has("put_lat", "gridnet") && has("put_lat", "ucx") && !has("put_lat", "zeromq"));
        assert!(has("tag_lat", "zeromq"));
        let has = |op: &str, peer| named(op).unwrap().is_of(peer, Table::Tcp);
        assert!(has("tag_bw", "iperf3") && !has("tag_lat", "iperf3") && !has("loan_lat", "gridnet"));
        assert!(has("tag_lat", "raw") && !has("tag_rate", "raw") && has("put_lat", "ucx-tcp"));
    }

    #[test]
    fn an_unknown_operation_is_told_the_known_ones() {
        assert!(named("tag_lat").is_ok());
        assert!(named("nonsense").unwrap_err().contains("tag_bw"));
    }
}
