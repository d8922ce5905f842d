//! Commands that run in a host: what they say is kept, every wait has an end, and none outlives its handle.

use crate::error::{Error, Result};
use crate::namespace::Namespaces;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A command that is to run in a host.
#[derive(Debug)]
pub struct HostCommand {
    command: Command,
    namespaces: Namespaces,
    host: String,
}

/// A command that runs in a host. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Readable once it has ended.
    pidfd: OwnedFd,
    said: Arc<Said>,
    what: String,
}

/// How a command ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

#[derive(Debug, Default)]
struct Said {
    streams: Mutex<Streams>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Streams {
    bytes: [Vec<u8>; 2],
    ended: [bool; 2],
}

impl HostCommand {
    pub(crate) fn new(program: &OsStr, host: &str, namespaces: Namespaces) -> HostCommand {
        let mut command = Command::new(program);
        // A directory of the host's own, as the login of a user has.
        command.env("XDG_RUNTIME_DIR", "/run").stdin(Stdio::null());
        HostCommand { command, namespaces, host: host.to_owned() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it, in a process group of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut self) -> Result<Running> {
        let what = format!("{} in host {}", self.command.get_program().to_string_lossy(), self.host);
        self.namespaces.enter_with(&mut self.command)?;
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = self.command.spawn().map_err(|e| Error::setup(&what, e))?;
        let said = Arc::new(Said::default());
        let streams = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        for (number, stream) in streams.into_iter().enumerate() {
            let (said, stream) = (Arc::clone(&said), stream.map(std::fs::File::from));
            // Ends with the stream: when the command, and whatever has inherited it, is gone.
            std::thread::spawn(move || said.collect(number, stream));
        }
        let pidfd = pidfd(&child);
        match pidfd {
            Ok(pidfd) => Ok(Running { child, pidfd, said, what }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it has to be killed; how it ends by itself is no error.
    pub fn output(self, timeout: Duration) -> Result<Finished> {
        self.spawn()?.wait(timeout)
    }

    /// Runs it with the standard streams of this process, as long as it takes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attached(mut self) -> Result<ExitStatus> {
        self.namespaces.enter_with(&mut self.command)?;
        let what = format!("{} in host {}", self.command.get_program().to_string_lossy(), self.host);
        self.command.stdin(Stdio::inherit()).status().map_err(|e| Error::setup(&what, e))
    }
}

impl Running {
    /// Its process id, as seen here.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far: standard output, standard error.
    pub fn said(&self) -> [String; 2] {
        let streams = self.said.lock();
        [0, 1].map(|number| String::from_utf8_lossy(&streams.bytes[number]).into_owned())
    }

    /// Waits until its standard output has `part` in it.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it does not come, [`Error::Setup`] when the command ends without it.
    pub fn wait_for(&self, part: &str, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        let mut streams = self.said.lock();
        loop {
            if String::from_utf8_lossy(&streams.bytes[0]).contains(part) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if streams.ended[0] || left.is_zero() {
                drop(streams);
                let said = self.said().join("\n");
                return Err(if left.is_zero() {
                    Error::Timeout { what: format!("{}: {part:?}", self.what), after: timeout, said }
                } else {
                    Error::setup(&self.what, format!("it ended without {part:?}; it said: {said}"))
                });
            }
            streams = self.said.changed.wait_timeout(streams, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for its end; kills it when that does not come in time.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it has to be killed.
    pub fn wait(mut self, timeout: Duration) -> Result<Finished> {
        let end = Instant::now() + timeout;
        while !self.has_ended_within(end.saturating_duration_since(Instant::now()))? {
            if Instant::now() >= end {
                let [out, err] = self.said();
                let said = format!("{out}{err}");
                return Err(Error::Timeout {
                    what: self.what.clone(),
                    after: timeout,
                    said: said.trim().to_owned(),
                });
            }
        }
        let status = self.child.wait()?;
        self.said.wait_for_ends(STRAGGLERS);
        let [stdout, stderr] = self.said();
        Ok(Finished { status, stdout, stderr })
    }

    /// Sends a signal to it and what it has started.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(killpg(self.group(), signal)?)
    }

    /// Kills it and what it has started, and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        // It may have ended by itself.
        let _ = killpg(self.group(), Signal::SIGKILL);
        Ok(self.child.wait()?)
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn has_ended_within(&self, span: Duration) -> Result<bool> {
        let mut files = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        // Rounded up: a wait of no time would spin.
        let timeout = PollTimeout::try_from(span + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::Error::EINTR) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not a group that has been waited for: its number may be somebody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Finished {
    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    /// [`Error::Setup`] with what it said, when it did not.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(Error::Setup(format!("{}; it said: {}{}", self.status, self.stdout, self.stderr)))
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a stream to its end.
    fn collect(&self, number: usize, stream: Option<std::fs::File>) {
        let mut buffer = [0; 4096];
        if let Some(mut stream) = stream {
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        let mut streams = self.lock();
                        let room = MOST_KEPT.saturating_sub(streams.bytes[number].len());
                        streams.bytes[number].extend_from_slice(&buffer[..length.min(room)]);
                        self.changed.notify_all();
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        self.lock().ended[number] = true;
        self.changed.notify_all();
    }

    fn wait_for_ends(&self, span: Duration) {
        let open = |streams: &mut Streams| streams.ended != [true, true];
        // What still holds a stream then is a process in the background, which may do so.
        let _ = self.changed.wait_timeout_while(self.lock(), span, open);
    }
}

fn pidfd(child: &Child) -> nix::Result<OwnedFd> {
    // SAFETY: no pointer; the child has not been waited for, so that the number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = nix::Error::result(fd)?;
    // SAFETY: a descriptor that was just made belongs to nobody else; the kernel makes it close on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What is kept of one stream; the rest is read and forgotten.
const MOST_KEPT: usize = 64 << 20;
/// How long the end of the streams is waited for after that of the command.
const STRAGGLERS: Duration = Duration::from_secs(1);
