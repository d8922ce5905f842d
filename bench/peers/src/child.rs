//! Other programs, under a time limit: whatever they do, this program goes on, and nothing of them stays behind.
//!
//! One command, with all that it starts, runs at a time (ucx_perftest: two). When it has ended, or its time is over,
//! every descendant of this process is killed: launchers leave daemons behind, and a peer that failed its other half.

use crate::cores;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{self, Pid, Signal, WaitOptions};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A command and the core it begins on.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// `None`: any; the program pins itself.
    pub(crate) core: Option<usize>,
}

/// From now on a process whose parent has ended becomes a child of this one, so that it is found and killed.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(process::set_child_subreaper(Some(process::getpid()))?)
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(spec: &Spec, limit: Duration) -> Result<String, String> {
    let ended = Running::start(spec).and_then(|running| running.end(limit));
    sweep();
    ended?.output()
}

/// Runs two commands, the second as soon as the first is `ready`; what the second printed.
pub(crate) fn run_both(
    server: &Spec,
    client: &Spec,
    ready: impl Fn() -> bool,
    limit: Duration,
) -> Result<String, String> {
    let deadline = Instant::now() + limit;
    let left = || deadline.saturating_duration_since(Instant::now());
    let serving = Running::start(server)?;
    let asked = serving
        .until(ready, left())
        .and_then(|()| Running::start(client)?.end(left()))
        .and_then(Ended::output);
    // A server whose client failed may wait for the next one for ever.
    let grace = if asked.is_ok() { GRACE } else { Duration::ZERO };
    let served = serving.end(grace);
    sweep();
    asked.map_err(|why| match served {
        Ok(ended) => format!("{why}; the server: {}", ended.reason()),
        Err(_) => why,
    })
}

struct Running {
    child: Child,
    what: String,
    out: File,
    err: File,
}

impl Running {
    fn start(spec: &Spec) -> Result<Running, String> {
        let what = spec.program.display().to_string();
        let failed = |error: io::Error| format!("{what}: {error}");
        // Files, not pipes: the end of a pipe is not seen while a forgotten process holds it.
        let (out, err) = unnamed_file().and_then(|out| Ok((out, unnamed_file()?))).map_err(failed)?;
        let (stdout, stderr) = out.try_clone().and_then(|out| Ok((out, err.try_clone()?))).map_err(failed)?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let core = spec.core;
        // A child begins where the thread that starts it runs; this thread exists for that.
        let starting = thread::spawn(move || {
            core.map_or(Ok(()), cores::pin)?;
            command.spawn()
        });
        let child = starting.join().expect("a thread that starts a child does not panic").map_err(failed)?;
        Ok(Running { child, what, out, err })
    }

    /// Waits until `ready`; an error if the child has ended before.
    fn until(&self, ready: impl Fn() -> bool, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if self.wait(STEP)? {
                return Err("the server ended at once".into());
            }
            if Instant::now() >= deadline {
                return Err(format!("the server was not ready within {limit:?}"));
            }
        }
        Ok(())
    }

    /// Waits for the end of the child, and kills it when `limit` is over.
    fn end(mut self, limit: Duration) -> Result<Ended, String> {
        let in_time = self.wait(limit)?;
        if !in_time {
            // An error says that it has ended meanwhile.
            let _ = self.child.kill();
        }
        let failed = |error: io::Error| format!("{}: {error}", self.what);
        let status = self.child.wait().map_err(failed)?;
        if !in_time {
            return Err(format!("not done within {} s", limit.as_secs()));
        }
        let (out, err) = text(self.out).and_then(|out| Ok((out, text(self.err)?))).map_err(failed)?;
        Ok(Ended { success: status.success(), status: status.to_string(), out, err })
    }

    /// Whether the child ends within `limit`. Asleep: this takes no time from what is measured.
    fn wait(&self, limit: Duration) -> Result<bool, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: cannot be waited for: {why}", self.what);
        let pid = Pid::from_child(&self.child);
        let end: OwnedFd =
            process::pidfd_open(pid, process::PidfdFlags::empty()).map_err(|error| failed(&error))?;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|error| failed(&error))?;
            match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}

struct Ended {
    success: bool,
    status: String,
    out: String,
    err: String,
}

impl Ended {
    /// What it printed, if it succeeded.
    fn output(self) -> Result<String, String> {
        match self.success {
            true => Ok(self.out),
            false => Err(format!("{} ({})", self.reason(), self.status)),
        }
    }

    /// The first line of the errors, or the last of the output: where programs say what went wrong.
    fn reason(&self) -> String {
        let said = |line: &&str| line.chars().any(char::is_alphanumeric);
        let line = self.err.lines().find(said).or_else(|| self.out.lines().rfind(said));
        line.map_or("it said nothing".to_owned(), |line| line.trim().chars().take(LONGEST_REASON).collect())
    }
}

/// A file that is gone when it is closed.
fn unnamed_file() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(File::from(rustix::fs::memfd_create("peer-output", flags)?))
}

fn text(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MOST_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Kills every descendant until there is none, and takes their exit codes. Nobody else may be waiting for a child.
fn sweep() {
    let deadline = Instant::now() + GRACE;
    let own = process::getpid().as_raw_pid();
    loop {
        let living = descendants(own, &parents());
        if living.is_empty() || Instant::now() >= deadline {
            break;
        }
        for pid in living.into_iter().filter_map(Pid::from_raw) {
            // An error says that it has ended meanwhile.
            let _ = process::kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(1));
    }
    while let Ok(Some(_)) = process::wait(WaitOptions::NOHANG) {}
}

/// Every living process and its parent.
fn parents() -> HashMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    pids.filter_map(|pid| Some((pid, parent(&stat(pid)?)?))).collect()
}

/// The parent of a process by the text of its `stat`; `None` for one that has ended and is only remembered.
fn parent(stat: &str) -> Option<i32> {
    // State and parent follow the name, which is in parentheses and may contain any character.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}

/// Those of `parents` that descend from `ancestor`.
fn descendants(ancestor: i32, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let descends = |pid: i32| {
        let mut above = parents.get(&pid).copied();
        // No chain is longer than the table, whatever a changing /proc says.
        for _ in 0..=parents.len() {
            match above {
                Some(found) if found == ancestor => return true,
                Some(found) => above = parents.get(&found).copied(),
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|pid| descends(*pid)).collect()
}

/// Between two looks at whether a server is ready.
const STEP: Duration = Duration::from_millis(5);

/// Time for a process to end that has nothing left to do.
const GRACE: Duration = Duration::from_secs(5);

/// More is no output of a measurement.
const MOST_OUTPUT_BYTES: u64 = 1 << 20;

/// Characters of a reason in a table.
const LONGEST_REASON: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_over_generations() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (7, 6), (8, 9), (9, 8)]);
        let mut found = descendants(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(descendants(4, &parents).is_empty());
    }

    #[test]
    fn the_parent_is_read_past_any_name() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (gone) Z 7 12 12 0"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn the_reason_is_where_programs_put_it() {
        let ended = |out: &str, err: &str| {
            Ended { success: false, status: "exit 1".into(), out: out.into(), err: err.into() }.reason()
        };
        assert_eq!(ended("a\nb\n", "----\nbroken\nmore\n"), "broken");
        assert_eq!(ended("a\nb\n\n", "\n"), "b");
        assert_eq!(ended("", ""), "it said nothing");
    }
}
