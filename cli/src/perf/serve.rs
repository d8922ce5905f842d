//! The peer process itself: carries out its parent's orders until there are no more.

use super::link::{Link, Side, PATIENCE};
use super::ops::{self, connect, peers::Crowd};
use super::task::{Order, Report};
use crate::args::PeerArgs;
use crate::cabi::{Buffer, Fabric, Kind};
use crate::cores;
use crate::failure::Failure;
use rustix::process::{getppid, set_parent_process_death_signal, Signal};
use std::io::{self, BufRead, Write};

/// Runs the peer. What goes wrong is reported to the parent, which tells the user.
pub(crate) fn serve(args: &PeerArgs) -> Result<(), Failure> {
    follow_parent(args.parent)?;
    match carry_out(args) {
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
    let mut orders = io::stdin().lock().lines();
    report(&Report::Ready)?;
    let link = accept(&fabric, args.largest)?;
    report(&Report::Done)?;
    let small = Buffer::new(connect::SIZE, 0);
    let mut crowd = Crowd::default();
    while let Some(line) = orders.next().transpose()? {
        let order =
            serde_json::from_str(&line).map_err(|error| Failure::Run(format!("bad order: {error}")))?;
        let ready = || report(&Report::Ready);
        match order {
            Order::Run(task) => ops::follow(&link, task, ready)?,
            Order::Answer { name, asleep } => connect::follow(&name, &args.option, asleep, small, ready)?,
            Order::Gather { count } => {
                crowd = Crowd::gather(count, &args.option)?;
                report(&Report::Gathered(crowd.addresses()?))?;
            }
            Order::Echo { first, count, rounds } => crowd.echo(first, count, rounds, small, ready)?,
            Order::RunGathered(task) => ops::follow(crowd.first(args.largest)?, task, ready)?,
            Order::Disperse => crowd = Crowd::default(),
        }
        report(&Report::Done)?;
    }
    Ok(())
}

/// Waits for the parent's first message and answers it.
fn accept(fabric: &Fabric, largest: usize) -> Result<Link, Failure> {
    let cq = fabric.cq()?;
    cq.recv(Buffer::new(0, 0), 0, HELLO)?;
    let source = cq.wait(PATIENCE)?.source;
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

fn report(report: &Report) -> Result<(), Failure> {
    let line = serde_json::to_string(report).map_err(|error| Failure::Run(error.to_string()))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Tag of the first message in each direction.
pub(crate) const HELLO: u64 = 0;
