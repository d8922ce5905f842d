//! `gridnet doctor mpi`: runs two ranks, and says what they went over.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::launcher::Kind;
use super::report::{output_of, Output, Ranks};
use super::{Place, Setting};
use crate::failure::Failure;
use crate::text;

/// How long the program may take, both ranks on one core included.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lines that are shown of an output that was not understood.
const LAST_LINES: usize = 12;
/// What ranks do when no program is named: each tells all others its number.
const PROGRAM: &str = "from mpi4py import MPI; MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.rank)";

#[derive(Debug, Args)]
pub(crate) struct MpiArgs {
    #[command(flatten)]
    place: Place,

    /// An MPI program with its arguments, such as: -- ./app [default: a line of Python, where mpi4py is beside the launcher]
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// Looks, and says what was found; fails if the ranks did not go over gridnet.
pub(crate) fn run(args: &MpiArgs) -> Result<(), Failure> {
    let setting = Setting::find(&args.place)?;
    let mut out = io::stdout().lock();
    writeln!(out, "mpi        {}, {}", setting.launcher.kind, setting.launcher.path.display())?;
    let folder = setting.variables.first().map_or("", |(_, folder)| folder.as_str());
    writeln!(out, "provider   {folder}/libgridnet-fi.so")?;
    let program = program_of(args, &setting.launcher.path)?;
    writeln!(out, "program    {}, 2 ranks", text::readable(&program.join(" ")))?;
    out.flush()?;
    let output = output_of(command(&setting).args(["-n", "2"]).args(&program), PATIENCE)?;
    let ranks = Ranks::parse(&output.text);
    if ranks.loaded_by.is_empty() {
        return Err(not_loaded(&setting.launcher.kind, &output));
    }
    for loaded_by in &ranks.loaded_by {
        writeln!(out, "libfabric  {}", text::readable(loaded_by))?;
    }
    writeln!(out, "endpoints  {}", ranks.rails.len())?;
    for rails in ranks.rails.iter().filter(|rails| !rails.is_empty()) {
        writeln!(out, "rails      {}", text::readable(rails))?;
    }
    writeln!(out, "messages   {}, {} bytes", ranks.messages, ranks.bytes)?;
    verdict(&output, &ranks)
}

/// What is wrong, if anything is.
fn verdict(output: &Output, ranks: &Ranks) -> Result<(), Failure> {
    if !output.succeeded {
        return Err(Failure::Run(format!("the program failed:\n{}", last_lines(&output.text))));
    }
    if ranks.messages == 0 {
        let why = "the provider was loaded, and no message went through it: the ranks have another way, or have not talked";
        return Err(Failure::Run(why.to_owned()));
    }
    Ok(())
}

fn command(setting: &Setting) -> std::process::Command {
    let mut command = setting.command();
    command.env("GRIDNET_LOG", "info");
    if matches!(setting.launcher.kind, Kind::OpenMpi(_)) {
        // Two ranks on one core, and as root in containers: this is a look, not a job.
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
        command.envs([("PRTE_ALLOW_RUN_AS_ROOT", "1"), ("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
        command.args(["--map-by", ":OVERSUBSCRIBE"]);
    }
    command
}

/// The program that is named, else Python beside the launcher.
fn program_of(args: &MpiArgs, launcher: &Path) -> Result<Vec<String>, Failure> {
    if !args.program.is_empty() {
        return Ok(args.program.clone());
    }
    let python = launcher.parent().map(|folder| folder.join("python3")).filter(|path| path.is_file());
    let has_mpi4py = |python: &PathBuf| {
        let looked = output_of(std::process::Command::new(python).args(["-c", "import mpi4py"]), PATIENCE);
        looked.is_ok_and(|output| output.succeeded)
    };
    let python = python.filter(has_mpi4py).ok_or_else(|| {
        Failure::Usage(
            "no mpi4py beside the launcher: name an MPI program, as in `gridnet doctor mpi -- ./app`"
                .to_owned(),
        )
    })?;
    Ok(vec![python.display().to_string(), "-c".to_owned(), PROGRAM.to_owned()])
}

fn not_loaded(kind: &Kind, output: &Output) -> Failure {
    let hint = match kind {
        Kind::Mpich(_) => "is it built with ch4:ofi? `mpichversion` tells",
        Kind::OpenMpi(_) => "is it built with libfabric? `ompi_info | grep ofi` tells",
    };
    let how = if output.succeeded { "the program ran without it" } else { "the program failed" };
    Failure::Run(format!("the provider was not loaded, and {how}; {hint}\n{}", last_lines(&output.text)))
}

fn last_lines(output: &str) -> String {
    let lines: Vec<String> =
        output.lines().filter(|line| !line.trim().is_empty()).map(text::readable).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
