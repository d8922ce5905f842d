//! One row of the result.

use super::plan::{Plan, Spec};
use super::stats::Samples;
use crate::args::Op;
use crate::failure::Failure;
use serde::Serialize;

/// What was measured, where, and what came out. The fields are the keys of the JSON objects and the columns of the
/// CSV, in this order; what does not apply is null there and empty here.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) op: Op,
    pub(crate) rails: String,
    pub(crate) size: usize,
    /// Time of a message: one way (`tag_lat`, `loan_lat`), while others are in flight (`tag_bw`, `tag_rate`), or of a connection.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) avg_us: f64,
    /// From the average, 10^9 bytes a second.
    pub(crate) gb_per_s: Option<f64>,
    /// From the average, millions of messages a second.
    pub(crate) mmsg_per_s: Option<f64>,
    pub(crate) canary_ns: Option<f64>,
    /// Median over canary, for what is one way of one message.
    pub(crate) ratio_to_canary: Option<f64>,
    pub(crate) pin: String,
    pub(crate) wait: String,
    /// How the peer waited for the connection.
    pub(crate) peer: Option<&'static str>,
    /// The cores moved during each of the repetitions.
    pub(crate) unstable: bool,
}

impl Row {
    pub(crate) fn new(
        plan: &Plan,
        rails: &str,
        spec: Spec,
        samples: Samples,
        canary_ns: Option<f64>,
        unstable: bool,
    ) -> Result<Row, Failure> {
        let nothing = || Failure::Run(format!("{}: there is nothing to measure", spec.op));
        let summary = samples.summary().ok_or_else(nothing)?;
        let us = |ns: f64| rounded(ns / 1000.0);
        let carries = matches!(spec.op, Op::TagLat | Op::TagBw | Op::TagRate) || spec.op.is_onesided();
        let one_way = matches!(spec.op, Op::TagLat | Op::LoanLat | Op::PutLat | Op::AtomicLat | Op::Canary);
        Ok(Row {
            op: spec.op,
            rails: rails.to_owned(),
            size: spec.size,
            p50_us: us(summary.p50_ns),
            p99_us: us(summary.p99_ns),
            avg_us: us(summary.avg_ns),
            gb_per_s: carries.then(|| rounded(spec.size as f64 / summary.avg_ns)),
            mmsg_per_s: carries.then(|| rounded(1000.0 / summary.avg_ns)),
            canary_ns: canary_ns.map(rounded),
            ratio_to_canary: canary_ns
                .filter(|_| one_way)
                .map(|canary_ns| rounded(summary.p50_ns / canary_ns)),
            pin: plan.placement.pin.to_string(),
            wait: plan.wait.clone(),
            peer: spec.peer.map(|state| state.word()),
            unstable,
        })
    }
}

/// `value` with four decimals: tenths of a nanosecond where it counts microseconds.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
