//! `gridnet perf`: how fast two processes of this host talk to each other, through the C interface.
//!
//! The command starts itself once more as the peer. What the two have to agree on goes over pipes ([`task`]), what
//! is measured goes over gridnet ([`link`], [`ops`]).

mod link;
mod ops;
mod output;
mod peer;
mod plan;
mod plot;
mod row;
mod scale;
mod serve;
mod session;
mod stats;
mod task;

pub(crate) use serve::serve;

use crate::args::PerfArgs;
use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use plan::{Plan, Spec};
use plot::PlotFile;
use row::Row;
use session::Session;
use std::io::IsTerminal;

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &PerfArgs) -> Result<(), Failure> {
    let plan = Plan::new(args)?;
    let plot = plan.plot.as_deref().map(PlotFile::create).transpose()?;
    let circumstances = output::circumstances(&plan)?;
    let rows = measure(&plan, &circumstances)?;
    output::print(&output::legend(&rows, plan.format))?;
    plot.map_or(Ok(()), |plot| plot.finish(&circumstances, &rows))
}

/// Measures and prints row by row.
fn measure(plan: &Plan, circumstances: &str) -> Result<Vec<Row>, Failure> {
    let mut session = Session::start(plan)?;
    output::print(&output::heading(circumstances, plan.format))?;
    let bar = progress(plan.specs.len());
    let mut rows = Vec::with_capacity(plan.specs.len());
    for spec in &plan.specs {
        bar.set_message(what(spec));
        let row = session.measure(*spec)?;
        bar.suspend(|| output::print(&output::row(&row, plan.format)?))?;
        bar.inc(1);
        rows.push(row);
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// A bar on standard error if that is a terminal, else nothing.
fn progress(rows: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
    let bar = ProgressBar::new(rows as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn what(spec: &Spec) -> String {
    let peer = spec.peer.map(|state| format!(", peer {}", state.word())).unwrap_or_default();
    format!("{} {}{peer}", spec.op, crate::text::size(spec.size))
}
