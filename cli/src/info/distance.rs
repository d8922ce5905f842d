//! How far the cores are from each other.

use crate::canary;
use serde::Serialize;
use std::io;

/// One pair of cores.
#[derive(Serialize)]
pub(super) struct Distance {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Time of a cache line from one to the other.
    pub(super) one_way_ns: f64,
    /// `sibling`, `near` or `far`.
    pub(super) word: &'static str,
}

/// Measures each pair of the first few of `cores`.
pub(super) fn between(cores: &[usize]) -> io::Result<Vec<Distance>> {
    let cores = &cores[..cores.len().min(MOST_CORES)];
    let pairs = cores.iter().enumerate().flat_map(|(at, from)| cores[at + 1..].iter().map(|to| (*from, *to)));
    pairs
        .map(|(from, to)| {
            let one_way_ns = (canary::median(from, to)? * 10.0).round() / 10.0;
            Ok(Distance { from, to, one_way_ns, word: canary::distance_word(one_way_ns) })
        })
        .collect()
}

/// 28 pairs, a third of a second if all are far.
const MOST_CORES: usize = 8;
