//! Launchers of MPIs: which one is installed, and what it wants to be told.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::report;
use crate::failure::Failure;

/// How long a launcher may take to say its version.
const PATIENCE: Duration = Duration::from_secs(20);

/// An MPI, as its launcher says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Mpich(String),
    OpenMpi(String),
}

/// A launcher that was found.
#[derive(Debug)]
pub(super) struct Launcher {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

impl Launcher {
    /// Finds the launcher, and asks it what it is.
    ///
    /// # Errors
    /// What was not found, or not understood.
    pub(super) fn find(name: &Path) -> Result<Launcher, Failure> {
        let path = in_path(name)?;
        let answer = report::output_of(Command::new(&path).arg("--version"), PATIENCE)?.text;
        let kind = Kind::parse(&answer).ok_or_else(|| {
            let line = crate::text::readable(answer.lines().next().unwrap_or("nothing"));
            Failure::Run(format!(
                "{}: neither MPICH nor Open MPI 4 or 5: `--version` says \"{line}\"",
                path.display()
            ))
        })?;
        Ok(Launcher { path, kind })
    }
}

/// The file of this name: as it is with a `/` in it, else in the folders of PATH.
pub(super) fn in_path(name: &Path) -> Result<PathBuf, Failure> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        let found = is_program(name).then(|| name.to_owned());
        return found.ok_or_else(|| Failure::Run(format!("{}: no such program", name.display())));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| is_program(path));
    found.ok_or_else(|| {
        Failure::Run(format!(
            "{} was not found in PATH: install an MPI, or name its launcher by --mpi",
            name.display()
        ))
    })
}

impl Kind {
    fn parse(answer: &str) -> Option<Kind> {
        let first = answer.lines().next()?;
        if first.starts_with("HYDRA build details") {
            let version = answer.lines().find_map(|line| line.trim().strip_prefix("Version:"))?.trim();
            return version
                .starts_with(|c: char| c.is_ascii_digit())
                .then(|| Kind::Mpich(version.to_owned()));
        }
        let is_open_mpi = ["(Open MPI)", "(OpenRTE)"].iter().any(|name| first.contains(name));
        let version = first.split_whitespace().next_back()?;
        let is_known = ["4.", "5."].iter().any(|major| version.starts_with(major));
        (is_open_mpi && is_known).then(|| Kind::OpenMpi(version.to_owned()))
    }

    /// What is set besides libfabric's own variables.
    pub(super) fn variables(&self) -> &'static [(&'static str, &'static str)] {
        const MPICH: &[(&str, &str)] = &[("MPIR_CVAR_CH4_NETMOD", "ofi"), ("MPIR_CVAR_NOLOCAL", "1")];
        const OPEN_MPI: &[(&str, &str)] = &[
            ("OMPI_MCA_pml", "cm"),
            ("OMPI_MCA_mtl", "ofi"),
            ("OMPI_MCA_mtl_ofi_provider_include", "gridnet"),
        ];
        // Its transport for one-sided operations would be opened beside.
        const OPEN_MPI_4: &[(&str, &str)] = &[
            ("OMPI_MCA_pml", "cm"),
            ("OMPI_MCA_mtl", "ofi"),
            ("OMPI_MCA_mtl_ofi_provider_include", "gridnet"),
            ("OMPI_MCA_btl", "self"),
        ];
        match self {
            Kind::Mpich(_) => MPICH,
            Kind::OpenMpi(version) if version.starts_with("4.") => OPEN_MPI_4,
            Kind::OpenMpi(_) => OPEN_MPI,
        }
    }

    /// Arguments of the launcher that give variables to ranks on other hosts, too.
    pub(super) fn pass_on(&self, names: impl Iterator<Item = &'static str>) -> Vec<String> {
        match self {
            // It passes on all that there is.
            Kind::Mpich(_) => Vec::new(),
            // Those of its own it passes on by itself.
            Kind::OpenMpi(_) => names
                .filter(|name| !name.starts_with("OMPI_"))
                .flat_map(|name| ["-x".to_owned(), name.to_owned()])
                .collect(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Mpich(version) => write!(f, "MPICH {version}"),
            Kind::OpenMpi(version) => write!(f, "Open MPI {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_what_they_say() {
        let mpich = "HYDRA build details:\n    Version:                                 5.0.2\n";
        for (answer, kind) in [
            (mpich, Some(Kind::Mpich("5.0.2".to_owned()))),
            ("mpiexec (Open MPI) 5.0.11\n\nReport bugs", Some(Kind::OpenMpi("5.0.11".to_owned()))),
            ("mpiexec (OpenRTE) 4.1.4\n", Some(Kind::OpenMpi("4.1.4".to_owned()))),
            ("mpirun (Open MPI) 3.1.3\n", None),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.9\n", None),
            ("HYDRA build details:\n    Version:   unknown\n", None),
            ("", None),
        ] {
            assert_eq!(Kind::parse(answer), kind, "{answer}");
        }
    }
}
