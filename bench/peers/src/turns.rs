//! The order of the runs: for each task A B C, A B C, ..., with a canary between any two.

use crate::args::Args;
use crate::canary;
use crate::op::Task;
use crate::peer::{Circumstances, Peer};
use crate::row::{self, Row, Runs, Sample};
use std::time::Duration;

/// Measures everything.
pub(crate) fn take(args: &Args, cores: (usize, usize), peers: &[Peer]) -> Vec<Row> {
    let here = Circumstances { cores, ms: args.ms, limit: Duration::from_secs(args.limit.into()) };
    for peer in peers {
        match &peer.version {
            Ok(version) => println!("{:<20}{version}", peer.name),
            Err(why) => println!("{:<20}not run: {why}", peer.name),
        }
    }
    let mut rows = Vec::new();
    for task in args.tasks() {
        println!("\n{task}");
        let of_task = measure(args.rounds, task, here, peers, || canary_between(cores));
        of_task.iter().for_each(|row| println!("{}", line(row)));
        rows.extend(of_task);
    }
    rows
}

/// All rounds of one task. A peer that failed in the first round is not asked again: it may take its whole time limit.
fn measure(
    rounds: u32,
    task: Task,
    here: Circumstances,
    peers: &[Peer],
    canary: impl Fn() -> Option<f64>,
) -> Vec<Row> {
    let runs = |peer: &Peer| Runs { samples: Vec::new(), failure: peer.version.clone().err() };
    let peers: Vec<&Peer> = peers.iter().filter(|peer| peer.does(task.op)).collect();
    let mut all: Vec<(&'static str, Runs)> = peers.iter().map(|peer| (peer.name, runs(peer))).collect();
    let mut before = canary();
    for _ in 0..rounds {
        for (peer, (_, runs)) in peers.iter().zip(&mut all) {
            if runs.failure.is_some() && runs.samples.is_empty() {
                continue;
            }
            let outcome = peer.run(task, here);
            let after = canary();
            match outcome {
                Ok(times) => runs.samples.push(Sample { times, before, after }),
                Err(why) => _ = runs.failure.get_or_insert(why),
            }
            before = after;
        }
    }
    row::rows(task, &all)
}

/// The bare cores; `None` where they cannot be measured, which makes rows unstable.
fn canary_between((a, b): (usize, usize)) -> Option<f64> {
    canary::median(a, b).map_err(|error| eprintln!("no canary: {error}")).ok()
}

/// A row for whoever watches.
fn line(row: &Row) -> String {
    match &row.figures {
        Ok(figures) => {
            let value = row.task.op.shows.text(figures.time_ns, row.task.size);
            let ratio = figures.to_gridnet.map_or(String::new(), |ratio| format!("{ratio:.2} x gridnet"));
            let canary = figures.canary_ns.map_or("-".to_owned(), |ns| format!("{ns:.0} ns"));
            let unstable = if figures.unstable { "  unstable" } else { "" };
            let used = format!("{}/{} runs", figures.used_ns.len(), figures.runs);
            format!("  {:<20}{value:>12}  {ratio:>16}  canary {canary}  {used}{unstable}", row.peer)
        }
        Err(why) => format!("  {:<20}not run: {why}", row.peer),
    }
}
