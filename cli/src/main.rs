//! The `gridnet` command: `info` says what this host offers, `config` how gridnet is configured, `explain` and
//! `top` what running programs do with it, `perf` how fast two processes talk to each other here, measured through the
//! C interface that programs use; `lab` makes hosts and bad links to try things on; `session` is for processes of several hosts
//! that trust and know each other; `mpirun-env`, `run` and `doctor` put MPI programs on gridnet.

// The calls of the C interface are the one exception, in `cabi`.
#![deny(unsafe_code)]

mod args;
mod cabi;
mod canary;
mod config_cmd;
mod cores;
mod explain;
mod failure;
mod info;
mod lab;
mod lossy;
mod mpi;
mod perf;
mod raw_tcp;
mod session;
mod signals;
mod text;
mod top;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Info { json } => info::run(json),
        Command::Config { json } => config_cmd::run(json),
        Command::Explain(args) => explain::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Session(args) => session::run(&args),
        Command::MpirunEnv(args) => mpi::print_env(&args),
        Command::Run(args) => mpi::run(&args),
        Command::Doctor(args) => mpi::doctor(&args),
        Command::Perf(args) => perf::run(&args),
        Command::PerfPeer(args) => perf::serve(&args),
        Command::PerfOpened(args) => perf::be_opened(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
