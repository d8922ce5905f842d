//! The peer process itself: carries out its parent's orders until there are no more.

use super::lines::Lines;
use super::link::{be_patient_for, patience, Link, Side};
use super::ops::{self, connect, peers::Crowd, raw};
use super::scale::Footprint;
use super::task::{Here, Order, Report};
use crate::args::PeerArgs;
use crate::cabi::{self, Buffer, Fabric, Kind};
use crate::cores;
use crate::failure::Failure;
use rustix::process::{getppid, set_parent_process_death_signal, Signal};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Runs the peer. What goes wrong is reported to the parent, which tells the user.
pub(crate) fn serve(args: &PeerArgs) -> Result<(), Failure> {
    follow_parent(args.parent)?;
    be_patient_for(Duration::from_secs(args.timeout));
    match carry_out(args) {
        Err(Failure::Run(text) | Failure::Usage(text)) if args.remote => {
            // Whoever gave the orders is told, if there is anybody, and so is the user of this host.
            let _ = report(&Report::Failed(text.clone()));
            Err(Failure::Run(text))
        }
        Err(Failure::Run(text) | Failure::Usage(text)) => report(&Report::Failed(text)),
        // A closed pipe: the parent has gone, and nobody waits for an answer.
        other => other,
    }
}

/// Makes this process end with its parent, at any instant and without a chance to object.
fn follow_parent(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // The parent may have ended before the signal was asked for.
    match getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) {
        Some(pid) if pid == parent => Ok(()),
        _ => Err(Failure::Usage("perf-peer is started by `gridnet perf`".into())),
    }
}

fn carry_out(args: &PeerArgs) -> Result<(), Failure> {
    if let Some(core) = args.core {
        cores::pin(core)?;
    }
    let fabric = Fabric::open(Some(&args.name), &args.option)?;
    let mut orders = Orders::of(args)?;
    report(&Report::Here(here(&fabric)?))?;
    let link = accept(&fabric, args.largest)?;
    report(&Report::Done)?;
    let small = Buffer::new(connect::SIZE, 0);
    let mut crowd = Crowd::default();
    while let Some(order) = orders.next()? {
        order.check(args.largest)?;
        let ready = || report(&Report::Ready);
        match order {
            Order::Run(task) => ops::follow(&link, task, ready)?,
            Order::Answer { asleep } => connect::follow(&args.option, asleep, small, |address| {
                report(&Report::At(address.to_vec()))?;
                if asleep && args.remote {
                    report_when_asleep();
                }
                Ok(())
            })?,
            Order::Gather { count } => {
                crowd = Crowd::gather(count, &args.option)?;
                report(&Report::Gathered(crowd.addresses()?))?;
            }
            Order::Echo { first, count, rounds } => crowd.echo(first, count, rounds, small, ready)?,
            Order::RunGathered(task) => ops::follow(crowd.first(args.largest)?, task, ready)?,
            Order::Disperse => crowd = Crowd::default(),
            Order::Weigh => report(&Report::Weighed(Footprint::own()?))?,
            Order::Raw { size, token } => {
                raw::follow(own_address()?, size, token, |at| report(&Report::Listens(at)))?;
            }
        }
        report(&Report::Done)?;
    }
    Ok(())
}

/// The orders of the parent.
struct Orders {
    lines: Lines,
    /// How long one is waited for. A parent of this host is there or this process is not.
    patience: Option<Duration>,
}

impl Orders {
    fn of(args: &PeerArgs) -> io::Result<Orders> {
        let from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let patience = args.remote.then(|| ORDER_PATIENCE * patience());
        Ok(Orders { lines: Lines::new(from, LONGEST), patience })
    }

    fn next(&mut self) -> Result<Option<Order>, Failure> {
        let line = match self.lines.next(self.patience) {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let why = format!("no order came for {:?}", self.patience.unwrap_or_default());
                return Err(Failure::Run(why));
            }
            Err(error) => return Err(error.into()),
        };
        let order = line.map(|line| serde_json::from_slice(&line)).transpose();
        order.map_err(|error| Failure::Run(format!("bad order: {error}")))
    }
}

fn here(fabric: &Fabric) -> Result<Here, Failure> {
    Ok(Here {
        address: fabric.address()?.to_vec(),
        version: cabi::version(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        processor: cores::processor(),
    })
}

/// This side's address of the connection over which orders come.
fn own_address() -> Result<std::net::IpAddr, Failure> {
    let orders = std::net::TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    Ok(orders.local_addr()?.ip())
}

/// Waits for the parent's first message and answers it.
fn accept(fabric: &Fabric, largest: usize) -> Result<Link, Failure> {
    let cq = fabric.cq()?;
    cq.recv(Buffer::new(0, 0), 0, HELLO)?;
    let source = cq.wait(patience())?.source;
    let endpoint = cq.answer(source)?;
    let link = Link::new(Side::Peer, cq, endpoint, largest);
    greet(&link)?;
    Ok(link)
}

/// Sends an empty message and waits until it is gone.
pub(crate) fn greet(link: &Link) -> Result<(), Failure> {
    let mut in_flight = 0;
    link.send(0, HELLO, &mut in_flight)?;
    while in_flight > 0 {
        in_flight -= u64::from(link.wait()?.kind == Kind::Send);
    }
    Ok(())
}

/// Reports from a thread of its own once this thread, the first one, sleeps; or that it never did.
fn report_when_asleep() {
    let look = || match until_asleep(std::process::id()) {
        Ok(()) => report(&Report::Asleep),
        Err(failure) => report(&Report::Failed(failure.text().to_owned())),
    };
    // Where there can be no thread, the parent waits in vain and says so.
    let _ = std::thread::Builder::new().spawn(look);
}

/// Waits until the first thread of a process sleeps; it has said that it is about to.
pub(crate) fn until_asleep(id: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + patience();
    while Instant::now() < deadline {
        // Longer than the library spins before it sleeps, and than the report that it is about to.
        std::thread::sleep(Duration::from_millis(1));
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The state follows the name, which is in parentheses and may contain any character.
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')) {
            return Ok(());
        }
    }
    Err(Failure::Run("the peer process does not go to sleep".into()))
}

fn report(report: &Report) -> Result<(), Failure> {
    let line = serde_json::to_string(report).map_err(|error| Failure::Run(error.to_string()))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Tag of the first message in each direction.
pub(crate) const HELLO: u64 = 0;

/// Orders of another host are waited for as many times as long as anything else: between two of them it may wait in vain, or print.
const ORDER_PATIENCE: u32 = 3;

/// Bytes of an order, and more.
const LONGEST: usize = 4096;
