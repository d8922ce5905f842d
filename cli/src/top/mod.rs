//! `gridnet top`: the fabrics of this user while they work.

mod rates;
mod table;
mod terminal;

use crate::args::TopArgs;
use crate::explain::{self, Names};
use crate::failure::Failure;
use rates::Sample;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use terminal::{Event, Terminal};

/// Shows fabrics until the count is reached, or q is pressed.
pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let base = explain::run_dir()?;
    // A fabric that was asked for and is not there is an error; that there are none at all is not.
    explain::select(base.as_deref(), args.fabric.as_deref())?;
    explain::warn(base.as_deref());
    if !args.json && io::stdout().is_terminal() && io::stdin().is_terminal() {
        return watch(args, base.as_deref());
    }
    let mut out = io::stdout().lock();
    let mut before = take(args, base.as_deref())?;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        std::thread::sleep(args.interval);
        let now = take(args, base.as_deref())?;
        let names = Names::collect(base.as_deref());
        if args.json {
            serde_json::to_writer(&mut out, &rates::json(&now, Some(&before), &names))
                .map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            for line in table::lines(&now, Some(&before), &names) {
                writeln!(out, "{line}")?;
            }
            writeln!(out)?;
        }
        out.flush()?;
        before = now;
    }
    Ok(())
}

/// The live view.
fn watch(args: &TopArgs, base: Option<&Path>) -> Result<(), Failure> {
    let mut terminal = Terminal::open()?;
    let mut before = None;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        let now = take(args, base)?;
        let names = Names::collect(base);
        terminal.draw(&table::lines(&now, before.as_ref(), &names))?;
        before = Some(now);
        if terminal.wait(args.interval)? == Event::Quit {
            break;
        }
    }
    Ok(())
}

fn take(args: &TopArgs, base: Option<&Path>) -> Result<Sample, Failure> {
    match explain::select(base, args.fabric.as_deref()) {
        Ok(pages) => Ok(Sample::take(&pages)),
        // It was there, and has ended.
        Err(Failure::Run(_)) => Ok(Sample::take(&[])),
        Err(other) => Err(other),
    }
}
