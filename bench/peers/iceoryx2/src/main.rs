//! iceoryx2 as a peer of the comparison: publish and subscribe between two processes, the loops of `gridnet perf`.
//!
//!   PROGRAM version
//!   PROGRAM OP SIZE MS CORE_A,CORE_B     leader on core A, follower on core B, about MS of measuring
//!
//! `tag_lat`, `tag_bw` and `tag_rate` carry a message from one private buffer to another, as the other peers do: a
//! copy into the loan and one out of the sample (there are no tags). `loan_lat` writes and reads the first and the
//! last cache line of the loan in place. Prints one JSON object: times of a message in ns.

// One exception, in `pipe`: a loan that is not initialised.
#![deny(unsafe_code)]

mod measure;
mod pipe;

use iceoryx2::prelude::{set_log_level, LogLevel};
use measure::{Call, Op, Outcome};
use pipe::Pipe;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Outcome<()> {
    set_log_level(LogLevel::Error);
    match args {
        ["version"] => {
            println!("iceoryx2 {VERSION}");
            Ok(())
        }
        [op, size, ms, cores] => lead(&call(op, size, ms, cores)?, args),
        ["follow", name, op, size, ms, cores] => follow(&call(op, size, ms, cores)?, name),
        _ => Err("usage: version | OP SIZE MS CORE_A,CORE_B".into()),
    }
}

fn lead(call: &Call, args: &[&str]) -> Outcome<()> {
    end_after(LIFETIME);
    let name = format!("gridnet-peers-{}", std::process::id());
    pin(call.cores.1)?; // The follower is born on its core.
    let follower = Follower::start(&name, args)?;
    pin(call.cores.0)?;
    let pipe = Pipe::open(&name, true, call.size)?;
    println!("{}", measure::lead(&pipe, call)?);
    follower.end()
}

fn follow(call: &Call, name: &str) -> Outcome<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    end_after(LIFETIME);
    measure::follow(&Pipe::open(name, false, call.size)?, call)
}

struct Follower(Child);

impl Follower {
    fn start(name: &str, args: &[&str]) -> Outcome<Follower> {
        let program = std::env::current_exe()?;
        Ok(Follower(Command::new(program).args(["follow", name]).args(args).stdin(Stdio::null()).spawn()?))
    }

    fn end(mut self) -> Outcome<()> {
        match self.0.wait()?.success() {
            true => Ok(()),
            false => Err("the other process failed".into()),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Has ended already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn call(op: &str, size: &str, ms: &str, cores: &str) -> Outcome<Call> {
    let op = Op::named(op).ok_or("no such operation here")?;
    let (a, b) = cores.split_once(',').ok_or("cores are A,B")?;
    Ok(Call { op, size: size.parse()?, ms: ms.parse()?, cores: (a.parse()?, b.parse()?) })
}

fn pin(core: usize) -> Outcome<()> {
    let mut mask = rustix::thread::CpuSet::new();
    mask.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &mask)?)
}

/// A program that nobody waits for any more ends by itself.
fn end_after(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("not done after {limit:?}");
        std::process::exit(1);
    });
}

/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(120);

/// As in Cargo.toml: the crate does not say it itself.
const VERSION: &str = "0.10.0";
