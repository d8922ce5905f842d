//! MPI over gridnet: the environment for a launcher that is found (`mpirun-env`), a launch with it (`run`), and a look at what
//! came of it (`doctor mpi`).

mod doctor;
mod launcher;
mod provider;
mod report;

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::failure::Failure;
use launcher::Launcher;

/// What a launch needs.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The MPI's own launcher, or a name to look for in PATH
    #[arg(long, value_name = "MPIEXEC", default_value = "mpiexec")]
    mpi: PathBuf,

    /// Folder of libgridnet-fi.so [default: lib/gridnet beside this command, or FI_PROVIDER_PATH]
    #[arg(long, value_name = "DIR")]
    provider: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    place: Place,

    /// Arguments of the MPI's launcher, then the program and its own, such as: -n 4 -- ./app
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(subcommand)]
    pub(crate) what: Doctor,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Doctor {
    /// Whether MPI programs go over gridnet here: runs two ranks, and says which libfabric, and which rails
    Mpi(doctor::MpiArgs),
}

/// `gridnet doctor`.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    match &args.what {
        Doctor::Mpi(args) => doctor::run(args),
    }
}

/// The variables that put an MPI on gridnet.
struct Setting {
    launcher: Launcher,
    variables: Vec<(&'static str, String)>,
}

impl Setting {
    /// Finds all that is needed.
    fn find(place: &Place) -> Result<Setting, Failure> {
        let launcher = Launcher::find(&place.mpi)?;
        let folder = provider::find(place.provider.as_deref())?;
        let mut variables =
            vec![("FI_PROVIDER_PATH", folder.display().to_string()), ("FI_PROVIDER", "gridnet".to_owned())];
        let more = launcher.kind.variables().iter();
        variables.extend(more.map(|(name, value)| (*name, (*value).to_owned())));
        Ok(Setting { launcher, variables })
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.variables.iter().map(|(name, _)| *name)
    }

    /// The launcher, to be given arguments.
    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.launcher.path);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// `gridnet mpirun-env`: for `eval`, and to read.
pub(crate) fn print_env(args: &EnvArgs) -> Result<(), Failure> {
    let setting = Setting::find(&args.place)?;
    let mut out = io::stdout().lock();
    writeln!(out, "# {}, {}", setting.launcher.kind, setting.launcher.path.display())?;
    for (name, value) in &setting.variables {
        writeln!(out, "export {name}={}", quoted(value))?;
    }
    let pass = setting.launcher.kind.pass_on(setting.names());
    if !pass.is_empty() {
        writeln!(out, "# for ranks on other hosts, arguments of mpiexec: {}", pass.join(" "))?;
    }
    Ok(())
}

/// `gridnet run`: becomes the MPI's launcher.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let setting = Setting::find(&args.place)?;
    let mut command = setting.command();
    command.args(setting.launcher.kind.pass_on(setting.names()));
    command.args(without_divider(&args.arguments));
    // Comes back only if there is nothing to become.
    let error = command.exec();
    Err(Failure::Run(format!("{}: {error}", setting.launcher.path.display())))
}

/// The arguments without the `--` before the program, which not every launcher knows. One behind it is the program's own.
fn without_divider(arguments: &[String]) -> impl Iterator<Item = &String> {
    let divider = arguments.iter().position(|argument| argument == "--");
    let divider = divider.filter(|at| !has_program(&arguments[..*at]));
    arguments.iter().enumerate().filter(move |(at, _)| Some(*at) != divider).map(|(_, argument)| argument)
}

/// Whether a program is among a launcher's arguments. What follows an option may be its value, such as that of `-launcher ssh`.
fn has_program(arguments: &[String]) -> bool {
    let is_option = |argument: &String| argument.starts_with('-');
    let after_options = std::iter::once(false).chain(arguments.iter().map(is_option));
    let mut words =
        arguments.iter().zip(after_options).filter(|(word, is_value)| !is_value && !is_option(word));
    words.any(|(word, _)| launcher::in_path(Path::new(word)).is_ok())
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,=@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divider_before_the_program_is_taken_away_and_no_other() {
        for (given, left) in [
            ("-n 4 -- /bin/sh -- x", "-n 4 /bin/sh -- x"),
            ("-n 4 /bin/sh -- x", "-n 4 /bin/sh -- x"),
            ("-n 4 sh -- x", "-n 4 sh -- x"),
            ("-launcher sh -n 4 -- /bin/sh x", "-launcher sh -n 4 /bin/sh x"),
            ("-n 4 /bin/sh x", "-n 4 /bin/sh x"),
        ] {
            let given: Vec<String> = given.split(' ').map(str::to_owned).collect();
            let kept: Vec<_> = without_divider(&given).map(String::as_str).collect();
            assert_eq!(kept.join(" "), left);
        }
    }

    #[test]
    fn words_for_a_shell_are_quoted_when_they_need_it() {
        assert_eq!(quoted("/opt/lib/a-b_1.so"), "/opt/lib/a-b_1.so");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
