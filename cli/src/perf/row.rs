//! One row of the result.

use super::plan::{Plan, Spec};
use super::scale::Scale;
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
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) avg_us: Option<f64>,
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
    #[serde(flatten)]
    pub(crate) scale: Scale,
}

impl Row {
    pub(crate) fn new(
        plan: &Plan,
        rails: &str,
        spec: Spec,
        (samples, scale): (Samples, Scale),
        canary_ns: Option<f64>,
        unstable: bool,
    ) -> Result<Row, Failure> {
        let nothing = || Failure::Run(format!("{}: there is nothing to measure", spec.op));
        let summary = samples.summary();
        if summary.is_none() && !scale.says_something() {
            return Err(nothing());
        }
        let us = |ns: f64| rounded(ns / 1000.0);
        let sends = matches!(spec.op, Op::TagLat | Op::HandedLat | Op::TagBw | Op::TagRate | Op::RawTcp)
            || spec.op.is_onesided();
        let carries = summary.filter(|_| sends);
        let one_way = matches!(
            spec.op,
            Op::TagLat
                | Op::HandedLat
                | Op::LoanLat
                | Op::PutLat
                | Op::AtomicLat
                | Op::PeersLat
                | Op::Canary
                | Op::RawTcp
        );
        Ok(Row {
            op: spec.op,
            rails: rails.to_owned(),
            size: spec.size,
            p50_us: summary.map(|s| us(s.p50_ns)),
            p99_us: summary.map(|s| us(s.p99_ns)),
            avg_us: summary.map(|s| us(s.avg_ns)),
            gb_per_s: carries.map(|s| rounded(spec.size as f64 / s.avg_ns)),
            mmsg_per_s: carries.map(|s| rounded(1000.0 / s.avg_ns)),
            canary_ns: canary_ns.map(rounded),
            ratio_to_canary: canary_ns
                .zip(summary)
                .filter(|_| one_way)
                .map(|(canary_ns, s)| rounded(s.p50_ns / canary_ns)),
            pin: plan.placement.pin.to_string(),
            wait: plan.wait.clone(),
            peer: spec.peer.map(|state| state.word()),
            unstable,
            scale,
        })
    }
}

/// `value` with four decimals: tenths of a nanosecond where it counts microseconds.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
