//! Peers in processes of their own: the test binary, started again in a role.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What a child does: the name of its role.
const ROLE: &str = "TEST_ROLE";
/// Where it meets its parent.
const DIR: &str = "TEST_DIR";

/// Role of this process and run directory, if it was started as a peer.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(DIR).ok()?.into()))
}

/// A child that does not outlive its test.
pub struct Peer(Child);

impl Peer {
    pub fn kill(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
        drop(self.0.stdin.take());
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it has said on its standard error, which is a pipe, until its end.
    pub fn errors(&mut self) -> String {
        let mut said = String::new();
        let pipe = self.0.stderr.take();
        pipe.expect("it is a pipe").read_to_string(&mut said).expect("it is text");
        said
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is our child")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails when it was killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this test binary again, in a role; returns when it says that it is ready.
pub fn start(role: &str, dir: &Path) -> Peer {
    start_by(command(role, dir))
}

/// The same, by a command that has been prepared.
pub fn start_by(mut command: Command) -> Peer {
    let child = command.stdout(Stdio::piped()).spawn().expect("the test starts itself");
    let mut peer = Peer(child);
    let output = peer.0.stdout.take().expect("it is a pipe");
    let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(ready, "the child ended early: {command:?}");
    peer
}

/// Starts this test binary again, in a role and with further variables, and does not wait for it.
pub fn spawn(role: &str, dir: &Path, variables: &[(&str, &str)]) -> Peer {
    let variables = variables.iter().copied();
    Peer(command(role, dir).envs(variables).stdout(Stdio::null()).spawn().expect("the test starts itself"))
}

/// What starts this test binary again, in a role.
pub fn command(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test knows its file"));
    command
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdin(Stdio::piped());
    command
}

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("there is procfs").count()
}

/// Mappings of gridnet's segments.
pub fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("there is procfs");
    maps.lines().filter(|line| line.contains("memfd:gridnet")).count()
}

/// Names of the files in a directory and below it.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the run directory is there").flatten() {
        if entry.path().is_dir() {
            names.extend(files_below(&entry.path()));
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names
}
