//! `loan_lat`: half the time of a round trip of loans.
//!
//! Each side takes a loan, writes its first and last line, and sends it; the other reads both lines where they are, answers
//! likewise, and gives the loan back once the answer is on its way.

use crate::cabi::{Kind, Loans, Received, Sent};
use crate::failure::Failure;
use crate::perf::link::Link;
use crate::perf::stats::Samples;
use crate::perf::task::Task;
use std::time::Instant;

pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    let mut side = Side::new(link, task.size);
    let start = Instant::now();
    for _ in 0..task.warmup {
        side.round_trip()?;
    }
    let batch = super::latency::batch(start.elapsed().as_nanos() as u64, task.warmup).min(task.rounds);
    let mut samples = Samples::with_capacity(task.rounds.div_ceil(batch));
    let mut left = task.rounds;
    while left > 0 {
        let now = batch.min(left);
        let start = Instant::now();
        for _ in 0..now {
            side.round_trip()?;
        }
        samples.add(start.elapsed().as_nanos() as f64, 2.0 * now as f64);
        left -= now;
    }
    side.finish()?;
    Ok(samples)
}

pub(crate) fn follow(
    link: &Link,
    task: Task,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut side = Side::new(link, task.size);
    side.loans.recv(TAG)?;
    ready()?;
    let rounds = task.warmup + task.rounds;
    for round in 1..=rounds {
        side.receive()?;
        side.send()?;
        if round < rounds {
            side.loans.recv(TAG)?;
        }
    }
    side.finish()
}

/// One end of the conversation.
struct Side<'a> {
    link: &'a Link,
    loans: Loans<'a>,
    size: usize,
    /// Number of the round: both sides write it.
    round: u64,
    in_flight: u64,
    /// The message that came last, until the answer to it has left.
    read: Option<Received>,
}

impl<'a> Side<'a> {
    fn new(link: &'a Link, size: usize) -> Side<'a> {
        Side { link, loans: link.loans(), size, round: 0, in_flight: 0, read: None }
    }

    #[inline]
    fn round_trip(&mut self) -> Result<(), Failure> {
        self.round += 1;
        self.send()?;
        self.loans.recv(TAG)?;
        self.wait()?;
        self.check(self.round)
    }

    /// Sends the answer to what was read, and gives that back.
    #[inline]
    fn send(&mut self) -> Result<(), Failure> {
        let Some(mut loan) = self.loans.take(self.size)? else {
            return Err(Failure::Run(format!(
                "no memory for a loan of {} bytes, though few are in use",
                self.size
            )));
        };
        loan.write_edges(self.round);
        self.in_flight += u64::from(self.loans.send(loan, TAG)? == Sent::InFlight);
        match self.read.take() {
            Some(read) => Ok(self.loans.give_back(read)?),
            None => Ok(()),
        }
    }

    #[inline]
    fn receive(&mut self) -> Result<(), Failure> {
        self.round += 1;
        self.wait()?;
        self.check(self.round)
    }

    /// Waits for a message, and takes the entries of sends on the way.
    #[inline]
    fn wait(&mut self) -> Result<(), Failure> {
        loop {
            match self.link.wait()?.kind {
                Kind::Recv => return Ok(()),
                Kind::Send => self.in_flight -= 1,
            }
        }
    }

    #[inline]
    fn check(&mut self, round: u64) -> Result<(), Failure> {
        let received = self.loans.received();
        if received.len() != self.size || !received.has_edges(round) {
            return Err(Failure::Run(format!(
                "a loan of {} bytes did not arrive as it was written",
                self.size
            )));
        }
        self.read = Some(received);
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        while self.in_flight > 0 {
            self.link.next()?;
            self.in_flight -= 1;
        }
        match self.read.take() {
            Some(read) => Ok(self.loans.give_back(read)?),
            None => Ok(()),
        }
    }
}

const TAG: u64 = 7;
