//! The peer process, as its parent sees it: one that it has started, or one on another host.

use super::lines::Lines;
use super::link::patience;
use super::plan::Plan;
use super::scale::Footprint;
use super::task::{Here, Order, Report};
use crate::failure::Failure;
use crate::text;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running peer. It ends when its orders do, and when its parent dies; what does not end by itself when this is
/// dropped is killed, if it is a process of this host.
pub(crate) struct Peer {
    kind: Kind,
    /// None when there will be no more.
    orders: Option<File>,
    reports: Lines,
}

enum Kind {
    Child(Child),
    /// Where it is.
    Remote(SocketAddr),
}

impl Peer {
    /// Starts this program once more, as the peer that opens the fabric `name`.
    pub(crate) fn start(plan: &Plan, name: &str) -> Result<Peer, Failure> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command
            .args(["perf-peer", "--name", name, "--parent", &std::process::id().to_string()])
            .args(["--largest", &plan.largest().to_string()])
            .args(["--timeout", &patience().as_secs().to_string()]);
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
        let (orders, reports) = (OwnedFd::from(orders), OwnedFd::from(reports));
        Ok(Peer::new(Kind::Child(child), File::from(orders), Lines::new(File::from(reports), LONGEST)))
    }

    /// The peer behind a connection to another host, of which `reports` come.
    pub(crate) fn remote(at: SocketAddr, connection: File, reports: Lines) -> Peer {
        Peer::new(Kind::Remote(at), connection, reports.up_to(LONGEST))
    }

    fn new(kind: Kind, orders: File, reports: Lines) -> Peer {
        Peer { kind, orders: Some(orders), reports }
    }

    /// Process id, if it is a process of this host.
    pub(crate) fn id(&self) -> Option<u32> {
        match &self.kind {
            Kind::Child(child) => Some(child.id()),
            Kind::Remote(_) => None,
        }
    }

    /// Tells the peer what to do.
    pub(crate) fn order(&mut self, order: &Order) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(order).map_err(|error| Failure::Run(error.to_string()))?;
        line.push(b'\n');
        let Some(orders) = &mut self.orders else {
            return Err(self.gone());
        };
        match orders.write_all(&line) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                // What it has said before it went comes first.
                match self.next(GRACE) {
                    Ok(Some(Report::Failed(text))) => Err(Failure::Run(format!("{}: {text}", self.name()))),
                    _ => Err(self.gone()),
                }
            }
            other => Ok(other?),
        }
    }

    /// Waits until the peer has a fabric.
    pub(crate) fn here(&mut self) -> Result<Here, Failure> {
        match self.report()? {
            Report::Here(here) => Ok(here),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer's receives are posted.
    pub(crate) fn ready(&mut self) -> Result<(), Failure> {
        match self.report()? {
            Report::Ready => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer's receives are posted on a fresh fabric; its address.
    pub(crate) fn at(&mut self) -> Result<Vec<u8>, Failure> {
        match self.report()? {
            Report::At(address) => Ok(address),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer says that it sleeps.
    pub(crate) fn asleep(&mut self) -> Result<(), Failure> {
        match self.report()? {
            Report::Asleep => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer listens for a bare socket.
    pub(crate) fn listens(&mut self) -> Result<SocketAddr, Failure> {
        match self.report()? {
            Report::Listens(at) => Ok(at),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer has gathered a crowd; the addresses of its fabrics.
    pub(crate) fn gathered(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        match self.report()? {
            Report::Gathered(addresses) => Ok(addresses),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer has said what it holds.
    pub(crate) fn weighed(&mut self) -> Result<Footprint, Failure> {
        match self.report()? {
            Report::Weighed(footprint) => Ok(footprint),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits until the peer is done with its order.
    pub(crate) fn done(&mut self) -> Result<(), Failure> {
        match self.report()? {
            Report::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// `failure` of this side, or what the peer says went wrong, if it says anything: that came first.
    pub(crate) fn cause(&mut self, failure: Failure) -> Failure {
        match self.next(GRACE) {
            Ok(Some(Report::Failed(text))) => {
                Failure::Run(format!("{}; {}: {text}", said(failure), self.name()))
            }
            Ok(None) => Failure::Run(format!("{}; {}", said(failure), said(self.gone()))),
            _ => failure,
        }
    }

    fn report(&mut self) -> Result<Report, Failure> {
        let patience = patience() + MORE_PATIENCE;
        match self.next(patience)? {
            Some(Report::Failed(text)) => Err(Failure::Run(format!("{}: {text}", self.name()))),
            Some(report) => Ok(report),
            None => Err(self.gone()),
        }
    }

    /// The next report; `None` if there will be no more.
    fn next(&mut self, timeout: Duration) -> Result<Option<Report>, Failure> {
        let line = match self.reports.next(Some(timeout)) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(Failure::Run(format!("{} said nothing for {timeout:?}", self.name())));
            }
            Err(error) => return Err(Failure::Run(format!("{}: {error}", self.name()))),
        };
        let report: Result<Report, _> = serde_json::from_slice(&line);
        report.map(|report| Some(report.readable())).map_err(|error| {
            let why = match self.kind {
                Kind::Child(_) => "",
                Kind::Remote(_) => "; is it another version of gridnet?",
            };
            // What it has said may be part of the error.
            let error = text::readable(&error.to_string());
            Failure::Run(format!("{} said something strange: {error}{why}", self.name()))
        })
    }

    fn gone(&mut self) -> Failure {
        let name = self.name();
        Failure::Run(match self.kind {
            Kind::Child(_) => {
                let status = self.end().map_or("no exit status".to_owned(), |status| status.to_string());
                format!("{name} ended ({status})")
            }
            Kind::Remote(_) => format!("{name} has hung up"),
        })
    }

    fn unexpected(&self, report: &Report) -> Failure {
        Failure::Run(format!("{} is out of step: {report:?}", self.name()))
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        match &self.kind {
            Kind::Child(_) => "the peer process".to_owned(),
            Kind::Remote(at) => format!("the server at {at}"),
        }
    }

    fn end(&mut self) -> Option<ExitStatus> {
        self.orders = None;
        let Kind::Child(child) = &mut self.kind else { return None };
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // An error says that it has ended meanwhile.
        let _ = child.kill();
        child.wait().ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Usage(text) | Failure::Run(text) => text,
        Failure::OutputClosed => "a pipe was closed".to_owned(),
        Failure::Said(code) => format!("a process ended with {code}"),
    }
}

/// How much longer a report is waited for than the peer waits for anything, so that it can say what it waited for.
const MORE_PATIENCE: Duration = Duration::from_secs(10);

/// Time for a peer that is ending to end.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes of the longest report: the addresses of the largest crowd, a number of up to three digits and a comma for each byte.
const LONGEST: usize = 4 << 20;
