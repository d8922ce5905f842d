//! A way into a host of a lab that another process holds, for people who want a second terminal.
//!
//! A lab says where its hosts are in a file that has no name in any folder (`memfd`): it is found among the descriptors of
//! the processes of the same user, and goes with the lab.

use crate::error::{Error, Result};
use crate::namespace::{Namespaces, KINDS};
use crate::sandbox::wait_and_end;
use nix::sched::{setns, CloneFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A lab that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The process that holds it.
    pub pid: u32,
    /// Its hosts.
    pub hosts: Vec<String>,
}

/// A host of a lab of another process: the numbers of the descriptors of its namespaces there.
type Entry = (String, [u32; 4]);

/// The labs of this user.
pub fn labs() -> Vec<Found> {
    let found = |(pid, entries): (u32, Vec<Entry>)| Found {
        pid,
        hosts: entries.into_iter().map(|(host, _)| host).collect(),
    };
    announced().into_iter().map(found).collect()
}

/// A command that will run in a host of a lab that runs: of the process `lab`, or of the only one of this user. Waiting
/// for the command is waiting for what runs in there.
///
/// # Errors
/// [`Error::NoSuch`] when there is no such lab or host, [`Error::Setup`] when there are several labs.
pub fn command(lab: Option<u32>, host: &str, program: &str) -> Result<Command> {
    let (pid, entries) = choose(lab)?;
    let entry = entries.iter().find(|(name, _)| name == host).ok_or_else(|| Error::NoSuch {
        kind: "host",
        name: host.to_owned(),
        known: entries.iter().map(|(name, _)| name.clone()).collect(),
    })?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mut doors = Vec::new();
    for (name, kind) in [("user", CloneFlags::CLONE_NEWUSER), ("pid", CloneFlags::CLONE_NEWPID)] {
        let (own, other) = (Path::new("/proc/self/ns").join(name), process.join("ns").join(name));
        // Into one's own user namespace nobody may go again.
        if fs::metadata(own)?.ino() != fs::metadata(&other)?.ino() {
            doors.push((OwnedFd::from(File::open(other)?), kind));
        }
    }
    for (number, (_, kind)) in entry.1.iter().zip(KINDS) {
        doors.push((OwnedFd::from(File::open(process.join("fd").join(number.to_string()))?), kind));
    }
    let directory =
        CString::new(std::env::current_dir()?.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.env("XDG_RUNTIME_DIR", "/run").env("PS1", format!("{host}$ "));
    // SAFETY: what runs between fork and exec are system calls on descriptors and a string that were made before; the
    // process has one thread there.
    unsafe {
        command.pre_exec(move || {
            for (door, kind) in &doors {
                setns(door, *kind)?;
            }
            libc::chdir(directory.as_ptr());
            // A process namespace is for children only. It ends them with the lab.
            match nix::Error::result(libc::fork())? {
                0 => Ok(()),
                child => wait_and_end(child, None),
            }
        });
    }
    Ok(command)
}

/// Lets others of this user find the hosts, as long as what is given back is open.
pub(crate) fn announce<'a>(hosts: impl Iterator<Item = (&'a str, &'a Namespaces)>) -> Result<OwnedFd> {
    let mut text = String::new();
    for (name, namespaces) in hosts {
        let [net, mnt, uts, ipc] = namespaces.numbers();
        _ = writeln!(text, "{name} {net} {mnt} {uts} {ipc}");
    }
    let file = memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

fn choose(lab: Option<u32>) -> Result<(u32, Vec<Entry>)> {
    let mut labs = announced();
    let known = || announced().iter().map(|(pid, _)| pid.to_string()).collect();
    match lab {
        Some(wanted) => {
            let found = labs.into_iter().find(|(pid, _)| *pid == wanted);
            found.ok_or_else(|| Error::NoSuch { kind: "lab", name: wanted.to_string(), known: known() })
        }
        None if labs.len() > 1 => {
            let known: Vec<String> = known();
            Err(Error::Setup(format!(
                "several labs run: say which one, by the process {}",
                known.join(" or ")
            )))
        }
        None => labs.pop().ok_or_else(|| {
            Error::Setup("no lab of this user runs: give a topology, by a FILE or --sites".to_owned())
        }),
    }
}

/// What the processes of this user announce.
fn announced() -> Vec<(u32, Vec<Entry>)> {
    let uid = nix::unistd::geteuid().as_raw();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = processes.filter(|process| process.metadata().is_ok_and(|meta| meta.uid() == uid));
    let pids = own.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.flat_map(|pid| announced_by(pid).into_iter().map(move |entries| (pid, entries))).collect()
}

/// One for each lab of a process; processes that are not ours to see, or end, have none.
fn announced_by(pid: u32) -> Vec<Vec<Entry>> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy() == format!("/memfd:{NAME} (deleted)"))
    };
    let read = |path: PathBuf| {
        let mut text = String::new();
        File::open(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
        text.lines().map(entry).collect::<Option<Vec<_>>>().filter(|entries| !entries.is_empty())
    };
    files.map(|file| file.path()).filter(is_ours).filter_map(read).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let (host, numbers) = line.split_once(' ')?;
    let numbers: Vec<u32> = numbers.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    Some((host.to_owned(), numbers.try_into().ok()?))
}

const NAME: &str = "gridnet-lab";
/// Thousands of hosts.
const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_among_descriptors_is_no_lab() {
        assert_eq!(entry("a 1 2 3 4"), Some(("a".to_owned(), [1, 2, 3, 4])));
        for line in ["", "a", "a 1 2 3", "a 1 2 3 4 5", "a 1 2 3 x", "a 1 2 3 -4"] {
            assert_eq!(entry(line), None, "{line}");
        }
    }
}
