//! gridnet beside other libraries: every peer in turn, several rounds, with the canary between any two of them.
//!
//! `bench/peers/run` installs the peers and starts this program.
//!
//! | file | |
//! |---|---|
//! | [`args`] | the command line |
//! | [`op`] | what is measured |
//! | [`peer`] | who is measured, and how each is called |
//! | [`parse`] | what the programs print |
//! | [`canary`], [`cores`], [`palette`] | the bare cores, colours: the files of the `gridnet` command |
//! | [`child`] | other programs, under a time limit |
//! | [`turns`] | the order of the runs |
//! | [`row`], [`stats`] | what the samples of a peer say |
//! | [`machine`] | where it was measured |
//! | [`report`], [`chart`] | Markdown, JSON lines, SVG |

#![forbid(unsafe_code)]

mod args;
// The canary is that of `gridnet perf`, to the letter.
#[path = "../../../cli/src/canary.rs"]
mod canary;
mod chart;
mod child;
#[path = "../../../cli/src/cores.rs"]
mod cores;
mod machine;
mod op;
#[path = "../../../cli/src/perf/palette.rs"]
mod palette;
mod parse;
mod peer;
mod report;
mod row;
mod stats;
mod turns;

use args::Args;
use clap::Parser;
use machine::Machine;
use peer::Peer;
use report::Report;
use std::fs;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    child::adopt_orphans().map_err(|error| format!("cannot look after child processes: {error}"))?;
    let cores = args.cores()?;
    let peers = Peer::all(args)?;
    let mut machine = Machine::describe(args, cores);
    let rows = turns::take(args, cores, &peers);
    machine.finish(&rows);
    write(args, &Report { machine: &machine, peers: &peers, rows: &rows })
}

/// All results at once at the end, so that no old file stays beside a new one.
fn write(args: &Args, report: &Report) -> Result<(), String> {
    let failed = |path: &std::path::Path, error| format!("{}: {error}", path.display());
    fs::create_dir_all(&args.out).map_err(|error| failed(&args.out, error))?;
    let files =
        [("md", report.markdown(&args.stem)), ("jsonl", report.json_lines()?), ("svg", chart::draw(report)?)];
    for (extension, text) in files {
        let path = args.out.join(format!("{}.{extension}", args.stem));
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
        println!("wrote {}", path.display());
    }
    match &args.readme {
        Some(path) => {
            let old = fs::read_to_string(path).map_err(|error| failed(path, error))?;
            let new = report.replace_in(&old).ok_or_else(|| format!("{}: no marks", path.display()))?;
            fs::write(path, new).map_err(|error| failed(path, error))
        }
        None => Ok(()),
    }
}
