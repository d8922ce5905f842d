//! `mpirun-env`, `run` and `doctor mpi`, with an MPI that is a shell script.

mod common;

use common::{gridnet, run};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MPICH: &str = "HYDRA build details:\n    Version:                                 5.0.2\n";
const OPEN_MPI_4: &str = "mpiexec (OpenRTE) 4.1.4\n";
const OPEN_MPI_5: &str = "mpiexec (Open MPI) 5.0.11\n";

/// A folder with a launcher and a provider.
struct Fake {
    folder: PathBuf,
}

impl Fake {
    /// A launcher that says this version, and does this otherwise.
    fn new(name: &str, version: &str, does: &str) -> Fake {
        let folder = std::env::temp_dir().join(format!("gridnet-mpi {name} {}", std::process::id()));
        std::fs::create_dir_all(folder.join("lib")).unwrap();
        std::fs::write(folder.join("lib/libgridnet-fi.so"), "").unwrap();
        std::fs::write(folder.join("version"), version).unwrap();
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then cat \"$(dirname \"$0\")/version\"; exit; fi\n{does}\n"
        );
        // By another name, so that nobody has it open for writing when it is run.
        std::fs::write(folder.join("new"), script).unwrap();
        std::fs::set_permissions(folder.join("new"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(folder.join("new"), folder.join("mpiexec")).unwrap();
        Fake { folder }
    }

    fn provider(&self) -> PathBuf {
        self.folder.join("lib").canonicalize().unwrap()
    }

    /// The command with this launcher first in PATH, and its provider.
    fn gridnet(&self, args: &[&str]) -> Command {
        let mut command = gridnet(args);
        let path = format!("{}:{}", self.folder.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("FI_PROVIDER_PATH", self.provider());
        command.env_remove("FI_PROVIDER").env_remove("MPIR_CVAR_NOLOCAL").env_remove("OMPI_MCA_pml");
        command
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_environment_is_that_of_the_launcher_and_fit_for_a_shell() {
    for (name, version, expected, passed) in [
        ("env-mpich", MPICH, "MPIR_CVAR_CH4_NETMOD=ofi MPIR_CVAR_NOLOCAL=1", ""),
        ("env-four", OPEN_MPI_4, "OMPI_MCA_pml=cm OMPI_MCA_btl=self", "-x FI_PROVIDER_PATH -x FI_PROVIDER"),
        (
            "env-five",
            OPEN_MPI_5,
            "OMPI_MCA_mtl_ofi_provider_include=gridnet",
            "-x FI_PROVIDER_PATH -x FI_PROVIDER",
        ),
    ] {
        let fake = Fake::new(name, version, "");
        let (code, out, err) = run(&mut fake.gridnet(&["mpirun-env"]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains(passed), "{out}");
        let shell = run(Command::new("sh").args(["-c", &format!("{out}\nenv")]));
        for variable in expected.split(' ').chain(["FI_PROVIDER=gridnet"]) {
            assert!(shell.1.lines().any(|line| line == variable), "{variable} is not in {}", shell.1);
        }
        let path = format!("FI_PROVIDER_PATH={}", fake.provider().display());
        assert!(shell.1.lines().any(|line| line == path), "{path} is not in {}", shell.1);
    }
}

#[test]
fn a_run_is_the_launchers_with_its_arguments_and_its_end() {
    let tell = "printf '<%s>' \"$@\"; echo; echo \"$FI_PROVIDER $MPIR_CVAR_NOLOCAL $OMPI_MCA_pml\"; exit 7";
    let fake = Fake::new("run-mpich", MPICH, tell);
    let (code, out, err) = run(&mut fake.gridnet(&["run", "-n", "4", "--", "./app", "a b", "--", "-n"]));
    assert_eq!((code, err.as_str()), (Some(7), ""));
    assert_eq!(out, "<-n><4><./app><a b><--><-n>\ngridnet 1 \n");
    let fake = Fake::new("run-open", OPEN_MPI_5, tell);
    let (code, out, _) = run(&mut fake.gridnet(&["run", "-n", "2", "./app"]));
    assert_eq!(code, Some(7));
    assert_eq!(out, "<-x><FI_PROVIDER_PATH><-x><FI_PROVIDER><-n><2><./app>\ngridnet  cm\n");
}

#[test]
fn what_was_not_found_is_named() {
    let fake = Fake::new("missing", "Intel(R) MPI Library for Linux* OS\n", "");
    for (args, expected) in [
        (
            &["run", "-n", "1", "--", "x"][..],
            "neither MPICH nor Open MPI 4 or 5: `--version` says \"Intel(R)",
        ),
        (&["mpirun-env", "--mpi", "no-such-mpiexec"], "no-such-mpiexec was not found in PATH"),
        (&["mpirun-env", "--mpi", "/no/such/mpiexec"], "/no/such/mpiexec: no such program"),
    ] {
        let (code, out, err) = run(&mut fake.gridnet(args));
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains(expected), "{err}");
    }
    let fake = Fake::new("no-provider", MPICH, "");
    let (code, _, err) = run(&mut fake.gridnet(&["run", "--provider", "/no/such", "-n", "1", "x"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("libgridnet-fi.so was not found (looked in /no/such)"), "{err}");
    let (code, ..) = run(&mut fake.gridnet(&["run"]));
    assert_eq!(code, Some(2), "nothing to run");
}

/// What the doctor says of a program whose ranks write these lines.
fn diagnosis(name: &str, does: &str) -> (Option<i32>, String, String) {
    let fake = Fake::new(name, MPICH, does);
    run(&mut fake.gridnet(&["doctor", "mpi", "--", "./app", "-x"]))
}

#[test]
fn the_doctor_tells_what_the_ranks_went_over() {
    let closed = |rails: &str, messages: u32| {
        format!("echo 'I gridnet_fi::endpoint: endpoint closed node=1 messages_sent={messages} bytes_sent=10 rails=\"{rails}\"'")
    };
    let open = "echo 'I gridnet_fi::endpoint: endpoint open libfabric=\"/x/libfabric.so.1\" api=\"2.5\"' >&2";
    let both = [open, &closed("shm", 3), open, &closed("tcp", 4)].join("\n");
    let (code, out, err) = diagnosis("well", &both);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for line in [
        "mpi        MPICH 5.0.2,",
        "program    ./app -x, 2 ranks",
        "libfabric  /x/libfabric.so.1, API 2.5",
        "endpoints  2",
        "rails      shm",
        "rails      tcp",
        "messages   7, 20 bytes",
    ] {
        assert!(out.contains(line), "{line} is not in {out}");
    }
    for (name, does, expected) in [
        (
            "none",
            "echo some output".to_owned(),
            "the provider was not loaded, and the program ran without it",
        ),
        ("failed", "echo why >&2; exit 3".to_owned(), "the provider was not loaded, and the program failed"),
        ("idle", [open, &closed("", 0)].join("\n"), "no message went through it"),
        ("broken", [open, &closed("shm", 1), "exit 1"].join("\n"), "the program failed"),
    ] {
        let (code, _, err) = diagnosis(name, &does);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(expected), "{err}");
    }
    // Without a program there has to be mpi4py beside the launcher, which tells them apart from the system's.
    let fake = Fake::new("no-python", MPICH, "");
    let (code, _, err) = run(&mut fake.gridnet(&["doctor", "mpi"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("no mpi4py beside the launcher") && Path::new(&fake.folder).exists(), "{err}");
}
