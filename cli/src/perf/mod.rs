//! `gridnet perf`: how fast two processes talk to each other, through the C interface.
//!
//! The command starts itself once more as the peer, or finds it on another host ([`hosts`]). What the two have to agree on
//! goes over pipes or a connection of its own ([`task`]), what is measured goes over gridnet ([`link`], [`ops`]).

mod establish;
mod hosts;
mod lines;
mod link;
mod ops;
mod output;
mod palette;
mod peer;
mod plan;
mod plot;
mod row;
mod scale;
mod serve;
mod session;
mod stats;
mod task;

pub(crate) use establish::be_opened;
pub(crate) use link::{patience, Link};
pub(crate) use serve::serve;

use crate::args::{Op, PerfArgs};
use crate::cores;
use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use link::be_patient_for;
use peer::Peer;
use plan::{Plan, Spec};
use plot::PlotFile;
use row::Row;
use session::Session;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::IsTerminal;
use std::time::Duration;

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &PerfArgs) -> Result<(), Failure> {
    if args.hosts.serve {
        return hosts::serve(args);
    }
    if args.op.contains(&Op::Establish) {
        return establish::run(args);
    }
    if let Some(seconds) = args.timeout {
        be_patient_for(Duration::from_secs(seconds));
    }
    let mut plan = Plan::new(args)?;
    let plot = plan.plot.as_deref().map(PlotFile::create).transpose()?;
    if let Some(core) = plan.placement.parent {
        cores::pin(core)?;
    }
    let (peer, here, circumstances) = match &args.hosts.connect {
        Some(to) => {
            let mut peer = hosts::call(to, args, &mut plan)?;
            let here = peer.here()?;
            let circumstances = output::between_hosts(&plan, to, &here);
            (peer, here, circumstances)
        }
        None => {
            let circumstances = output::circumstances(&plan)?;
            let mut peer = Peer::start(&plan, &unique_name())?;
            let here = peer.here().map_err(|failure| failure.during("the peer process did not start"))?;
            (peer, here, circumstances)
        }
    };
    let session = Session::start(&plan, peer, &here)?;
    let rows = measure(session, &plan, &circumstances)?;
    output::print(&output::legend(&rows, plan.format))?;
    plot.map_or(Ok(()), |plot| plot.finish(&circumstances, &rows))
}

/// Measures and prints row by row.
fn measure(mut session: Session<'_>, plan: &Plan, circumstances: &str) -> Result<Vec<Row>, Failure> {
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

/// A name that no other fabric has.
pub(crate) fn unique_name() -> String {
    format!("perf-{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish())
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
