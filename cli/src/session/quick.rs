//! `gridnet session quick`: a session of one node, for one command and what that starts, which leaves nothing behind.
//!
//! Its authority certifies one node and is forgotten: nobody else can ever join. All processes that the command starts are that
//! node, and know each other by it, also over TCP.

use crate::failure::Failure;
use crate::signals::Watch;
use gridnet::core::wire::NodeId;
use gridnet::proof;
use gridnet_meta::authority::Authority;
use gridnet_meta::clock::Moment;
use gridnet_meta::credentials::keep_certified;
use rustix::fs::{flock, FlockOperation};
use rustix::process::{kill_process, Pid, Signal};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// How long the node is certified: commands that run for longer join a session that is served.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const PREFIX: &str = "gridnet-quick-";
/// Random bytes of a name.
const NAME_BYTES: usize = 16;

/// Runs a command in a session of its own.
pub(super) fn run(command: &[String]) -> Result<(), Failure> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    // From now on nothing ends this process before the directory is removed, but SIGKILL.
    let signals = Watch::start()?;
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    remove_leftovers(&base);
    let dir = Dir::make(&base)?;
    certify(&dir.path)?;
    let child = Command::new(program).args(args).env("GRIDNET_SESSION", &dir.path).spawn();
    let mut child = child.map_err(|error| Failure::Run(format!("{program}: {error}")))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // A terminal tells ^C to the command as well; others tell only us.
        if signals.wait()? {
            // It may have ended meanwhile, and is not waited for yet: the number is still its own.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
    };
    drop(dir);
    match code(status) {
        0 => Ok(()),
        code => Err(Failure::Said(code)),
    }
}

/// Writes a node whose authority nobody has.
fn certify(dir: &Path) -> Result<NodeId, Failure> {
    let now = Moment::now();
    let session = NodeId::new([0xff; 16]).ok_or(Failure::Run("no number for the session".into()))?;
    Ok(keep_certified(dir, &Authority::create(session, now)?, now, LIFETIME)?)
}

/// As shells say it: the code, or 128 and the number of the signal.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// A directory that is removed in the end. While it is locked its owner lives.
struct Dir {
    path: PathBuf,
    _lock: File,
}

impl Dir {
    fn make(base: &Path) -> Result<Dir, Failure> {
        // Others can write where it lies: a name that is known before could be taken before.
        let nonce = proof::nonce().map_err(|refusal| Failure::Run(refusal.reason))?;
        let name: String = nonce.iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let path = base.join(format!("{PREFIX}{name}"));
        let failed = |error: std::io::Error| Failure::Run(format!("{}: {error}", path.display()));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let lock = File::open(&path).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Dir { path, _lock: lock })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("gridnet: {} is left behind: {error}", self.path.display());
        }
    }
}

/// Removes what others of this user have left that were killed.
fn remove_leftovers(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // One without a node may have been made just now, and is not locked yet.
        if !is_ours || !entry.path().join("node").exists() {
            continue;
        }
        let Ok(dir) = File::open(entry.path()) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another user's directory stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
