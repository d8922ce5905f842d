//! The peer process, as its parent sees it.

use super::plan::Plan;
use super::task::{Order, Report};
use crate::failure::Failure;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running peer. It ends when its orders do, and when its parent dies; what does not end by itself when this is
/// dropped is killed.
pub(crate) struct Peer {
    child: Child,
    /// None when there will be no more.
    orders: Option<ChildStdin>,
    reports: Reports,
}

impl Peer {
    /// Starts this program once more, as the peer that opens the fabric `name`.
    pub(crate) fn start(plan: &Plan, name: &str) -> Result<Peer, Failure> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command
            .args(["perf-peer", "--name", name, "--parent", &std::process::id().to_string()])
            .args(["--largest", &plan.largest().to_string()]);
        if let Some(core) = plan.placement.peer {
            command.args(["--core", &core.to_string()]);
        }
        for option in &plan.options {
            command.args(["--option", option]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Run(format!("cannot start the peer process: {error}")))?;
        let (orders, reports) = child.stdin.take().zip(child.stdout.take()).expect("both were asked for");
        Ok(Peer { child, orders: Some(orders), reports: Reports { pipe: reports, unread: Vec::new() } })
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells the peer what to do.
    pub(crate) fn order(&mut self, order: &Order) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(order).map_err(|error| Failure::Run(error.to_string()))?;
        line.push(b'\n');
        let Some(orders) = &mut self.orders else {
            return Err(self.gone());
        };
        match orders.write_all(&line) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(self.gone()),
            other => Ok(other?),
        }
    }

    /// Waits until the peer's receives are posted.
    pub(crate) fn ready(&mut self) -> Result<(), Failure> {
        match self.report()? {
            Report::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the peer has gathered a crowd; the addresses of its fabrics.
    pub(crate) fn gathered(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        match self.report()? {
            Report::Gathered(addresses) => Ok(addresses),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the peer is done with its order.
    pub(crate) fn done(&mut self) -> Result<(), Failure> {
        match self.report()? {
            Report::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// `failure` of this side, or what the peer says went wrong, if it says anything: that came first.
    pub(crate) fn cause(&mut self, failure: Failure) -> Failure {
        match self.reports.next(GRACE) {
            Ok(Some(Report::Failed(text))) => {
                Failure::Run(format!("{}; the peer process: {text}", said(failure)))
            }
            Ok(None) => Failure::Run(format!("{}; {}", said(failure), said(self.gone()))),
            _ => failure,
        }
    }

    fn report(&mut self) -> Result<Report, Failure> {
        match self.reports.next(PATIENCE)? {
            Some(Report::Failed(text)) => Err(Failure::Run(format!("the peer process: {text}"))),
            Some(report) => Ok(report),
            None => Err(self.gone()),
        }
    }

    fn gone(&mut self) -> Failure {
        let status = self.end().map_or("no exit status".to_owned(), |status| status.to_string());
        Failure::Run(format!("the peer process ended ({status})"))
    }

    fn end(&mut self) -> Option<ExitStatus> {
        self.orders = None;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // An error says that it has ended meanwhile.
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines that come from the peer.
struct Reports {
    pipe: ChildStdout,
    unread: Vec<u8>,
}

impl Reports {
    /// The next report; `None` at the end of the pipe.
    fn next(&mut self, timeout: Duration) -> Result<Option<Report>, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    Failure::Run(format!("the peer process said something strange: {error}"))
                });
            }
            if !self.readable(deadline.saturating_duration_since(Instant::now()))? {
                return Err(Failure::Run(format!("the peer process said nothing for {timeout:?}")));
            }
            let mut chunk = [0; 65536];
            match self.pipe.read(&mut chunk)? {
                0 => return Ok(None),
                len => self.unread.extend_from_slice(&chunk[..len]),
            }
        }
    }

    fn readable(&self, timeout: Duration) -> Result<bool, Failure> {
        let timeout = Timespec::try_from(timeout).map_err(|error| Failure::Run(error.to_string()))?;
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(Failure::Run(format!("poll: {error}"))),
        }
    }
}

fn unexpected(report: &Report) -> Failure {
    Failure::Run(format!("the peer process is out of step: {report:?}"))
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Usage(text) | Failure::Run(text) => text,
        Failure::OutputClosed => "a pipe was closed".to_owned(),
        Failure::Said(code) => format!("a process ended with {code}"),
    }
}

/// Longest time between an order and what the peer says to it: more than the peer's own patience, so that it can
/// say what it waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time for a peer that is ending to end.
const GRACE: Duration = Duration::from_secs(1);
