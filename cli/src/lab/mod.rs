//! `gridnet lab`: hosts, sites and bad links to try things on, out of network namespaces.

mod args;
mod output;

pub(crate) use args::LabArgs;

use crate::failure::Failure;
use args::{LabCommand, OutputArgs, RunArgs};
use gridnet_testbed::{attach, sandbox, Error, Host, Lab, Running, Topology};
use output::Output;
use std::io::{self, IsTerminal};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::time::Instant;

/// Does what the command line says; in a sandbox, which it starts.
pub(crate) fn run(args: &LabArgs) -> Result<(), Failure> {
    match &args.command {
        LabCommand::Shell { host, topology, lab, .. } if !topology.is_given() => {
            // How the last command in a shell ended is nothing to report.
            attach::command(*lab, host, &shell())?.status()?;
            return Ok(());
        }
        // Mistakes are told before anything is started.
        LabCommand::Check { topology, .. } | LabCommand::Shell { topology, .. } => drop(topology.read()?),
        LabCommand::Run(args) => drop(args.topology.read()?),
    }
    if !sandbox::is_inside() {
        return outside();
    }
    match &args.command {
        LabCommand::Check { topology, output } => drop(open(topology.read()?, *output)?),
        LabCommand::Run(args) => run_all(args)?,
        LabCommand::Shell { host, topology, output, .. } => {
            let topology = topology.read()?;
            let lab = open(topology, *output)?;
            let host = lab.host(host)?;
            with_events(&lab, *output, || shell_in(host))?;
        }
    }
    Ok(())
}

/// Runs this command again, in a sandbox.
fn outside() -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let command = || {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        command
    };
    let status = sandbox::spawn(command)?.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => Err(Failure::Said(u8::try_from(code).unwrap_or(1))),
        None => ended("the lab", status),
    }
}

/// Brings up a lab, shows it and checks it.
fn open(topology: Topology, args: OutputArgs) -> Result<Lab, Failure> {
    let output = Output { json: args.json };
    let progress = output.progress();
    progress.set_message("bringing up the lab");
    let lab = Lab::open_unchecked(topology);
    // The terminal is free for whatever comes.
    progress.finish_and_clear();
    let lab = lab?;
    output.lab(&lab)?;
    if !args.no_check {
        let progress = output.progress();
        let report = lab.check(&mut |what| progress.set_message(format!("self-check: {what}")));
        progress.finish_and_clear();
        let report = report?;
        output.report(&report)?;
        report.into_result()?;
    }
    Ok(lab)
}

/// The commands of the file, then the one of the command line; a shell where there is neither, for people.
fn run_all(args: &RunArgs) -> Result<(), Failure> {
    let topology = args.topology.read()?;
    let first = topology.sites.first().map(|site| format!("{}1", site.name));
    let first = args.host.clone().or(first).or_else(|| topology.hosts.first().map(|host| host.name.clone()));
    let lab = open(topology, args.output)?;
    let first = lab.host(&first.unwrap_or_default())?;
    let output = Output { json: args.output.json };
    let nothing = lab.topology().runs.is_empty() && args.command.is_empty();
    if nothing && !lab.topology().events.is_empty() {
        // Until the last one has happened.
        let (_hold, stop) = mpsc::channel();
        play(&lab, &stop, output)?;
    } else if nothing && io::stdin().is_terminal() && !args.output.json {
        shell_in(first)?;
    } else {
        with_events(&lab, args.output, || {
            let _background = runs(&lab, output)?;
            if args.command.is_empty() {
                Ok(())
            } else {
                attached(first, &args.command)
            }
        })?;
    }
    output.counts(&lab)
}

/// Runs the commands of the file; those in the background go on as long as what is given back is kept.
fn runs(lab: &Lab, output: Output) -> Result<Vec<Running>, Failure> {
    let mut background = Vec::new();
    for run in &lab.topology().runs {
        let command = lab.host(&run.host)?.shell(&run.command);
        let start = Instant::now();
        if run.background {
            background.push(command.spawn()?);
            continue;
        }
        let finished = command.output(run.timeout)?;
        output.finished(&run.host, &run.command, start.elapsed(), &finished)?;
        ended(&format!("{:?} in host {}", run.command, run.host), finished.status)?;
    }
    Ok(background)
}

/// Lets the events happen while `work` runs.
fn with_events(
    lab: &Lab,
    args: OutputArgs,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let output = Output { json: args.json };
    let (hold, stop) = mpsc::channel();
    std::thread::scope(|scope| {
        let events = scope.spawn(move || play(lab, &stop, output));
        let worked = work();
        drop(hold);
        let played = events.join().unwrap_or_else(|_| Err(Failure::Run("the events broke off".into())));
        worked.and(played)
    })
}

/// Lets the events happen; the first that fails is told again at the end.
fn play(lab: &Lab, stop: &mpsc::Receiver<()>, output: Output) -> Result<(), Failure> {
    let mut failed = Ok(());
    lab.play(stop, &mut |event, outcome| {
        let outcome = outcome.map_err(Failure::from);
        let told = output.event(event, &outcome).map_err(Failure::from);
        if failed.is_ok() {
            failed = outcome.and(told);
        }
    });
    failed
}

/// Runs a command on our own terminal.
fn attached(host: Host<'_>, words: &[String]) -> Result<(), Failure> {
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let status = host.command(program).args(args).attached()?;
    ended(&format!("{program:?} in host {}", host.name()), status)
}

/// How the last command in a shell ended is nothing to report.
fn shell_in(host: Host<'_>) -> Result<(), Failure> {
    host.command(shell()).env("PS1", format!("{}$ ", host.name())).attached()?;
    Ok(())
}

fn ended(what: &str, status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Run(format!("{what}: {status}")))
    }
}

/// The user's own shell.
fn shell() -> String {
    std::env::var("SHELL").ok().filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".to_owned())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Topology(_) | Error::NoSuch { .. } => Failure::Usage(error.to_string()),
            Error::Io(error) => Failure::from(error),
            other => Failure::Run(other.to_string()),
        }
    }
}
