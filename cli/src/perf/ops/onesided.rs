//! `put_lat`, `atomic_lat`, `get_lat`, `put_bw`, `get_bw`: operations on allocated regions.
//!
//! `put_lat` and `atomic_lat` go back and forth: each side waits for the word that the other writes, in its own memory, and
//! answers; half a round trip is one way. Of more than 8 bytes, the last 8 are put by themselves after the others. The other
//! operations are of one side alone: the time of a call, or of a window of calls with what it takes until all have taken
//! effect, while the owner sleeps.

use crate::args::Op;
use crate::cabi::region::{Region, Remote};
use crate::cabi::{Buffer, Kind, Sent};
use crate::failure::Failure;
use crate::perf::link::{patience, Link};
use crate::perf::stats::Samples;
use crate::perf::task::Task;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    let side = Side::new(link, task, || Ok(()))?;
    for round in 1..=task.warmup {
        side.round(task, round)?;
    }
    let batch = batch(task);
    let mut samples = Samples::with_capacity(task.rounds.div_ceil(batch));
    let (mut round, last) = (task.warmup, task.warmup + task.rounds);
    while round < last {
        let now = batch.min(last - round);
        let start = Instant::now();
        for _ in 0..now {
            round += 1;
            side.round(task, round)?;
        }
        let ways = if is_back_and_forth(task.op) { 2 } else { task.window };
        samples.add(start.elapsed().as_nanos() as f64, (now * ways) as f64);
    }
    let mut in_flight = 0;
    link.send(0, PARTING, &mut in_flight)?;
    await_message(link, in_flight)?;
    Ok(samples)
}

pub(crate) fn follow(
    link: &Link,
    task: Task,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let side = Side::new(link, task, ready)?;
    if is_back_and_forth(task.op) {
        for round in 1..=task.warmup + task.rounds {
            side.await_word(round)?;
            side.write(task, round)?;
        }
    }
    // The leader parts first: nothing of ours comes between its operations.
    await_message(link, 0)?;
    let mut in_flight = 0;
    link.send(0, PARTING, &mut in_flight)?;
    link.take_sent(in_flight)?;
    Ok(())
}

fn is_back_and_forth(op: Op) -> bool {
    matches!(op, Op::PutLat | Op::AtomicLat)
}

/// Rounds between two looks at the clock: 16 where they are short.
fn batch(task: Task) -> u64 {
    if task.window == 1 && task.size <= 4096 {
        16
    } else {
        1
    }
}

/// One end: its region, and that of the other.
struct Side<'a> {
    link: &'a Link,
    own: Region,
    there: Remote<'a>,
    /// Index of the word that the other side writes last.
    word: usize,
    scratch: Buffer,
    /// Operations go by messages, which have to be looked after: seen at the first of them.
    by_messages: Cell<bool>,
}

impl<'a> Side<'a> {
    /// Exchanges keys.
    fn new(
        link: &'a Link,
        task: Task,
        ready: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Side<'a>, Failure> {
        let len = task.size.next_multiple_of(8).max(8);
        let own = link.allocate(len)?;
        let mut in_flight = 0;
        link.post_key(KEYS)?;
        ready()?;
        link.send_key(own.key()?, KEYS, &mut in_flight)?;
        await_message(link, in_flight)?;
        let there = link.import(link.received_key())?;
        // For the parting.
        link.post(0, PARTING)?;
        let by_messages = Cell::new(false);
        Ok(Side { link, own, there, word: len / 8 - 1, scratch: link.scratch(), by_messages })
    }

    #[inline]
    fn round(&self, task: Task, round: u64) -> Result<(), Failure> {
        match task.op {
            Op::PutLat | Op::AtomicLat => {
                self.write(task, round)?;
                self.await_word(round)
            }
            Op::GetLat => self.end(self.there.get(self.scratch, task.size, 0)?),
            _ => self.window(task),
        }
    }

    /// Tells the other side of the round.
    #[inline]
    fn write(&self, task: Task, round: u64) -> Result<(), Failure> {
        let offset = self.word as u64 * 8;
        if task.op == Op::AtomicLat {
            return self.end(self.there.fetch_add(self.scratch, offset, 1)?);
        }
        if offset > 0 {
            self.end(self.there.put(self.scratch, offset as usize, 0)?)?;
        }
        self.scratch.write_word(round);
        self.end(self.there.put(self.scratch, 8, offset)?)
    }

    /// Waits until the other side has told of the round.
    #[inline]
    fn await_word(&self, round: u64) -> Result<(), Failure> {
        for _ in 0..if self.by_messages.get() { 1 } else { LOOKS } {
            if self.own.word(self.word).load(Ordering::Acquire) >= round {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.await_word_long(round)
    }

    /// As [`Self::await_word`], where messages have to be looked after, or the core has to be shared.
    #[cold]
    fn await_word_long(&self, round: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + patience();
        while self.own.word(self.word).load(Ordering::Acquire) < round {
            if Instant::now() > deadline {
                return Err(Failure::Run(format!("the other side is silent for {:?}", patience())));
            }
            self.link.progress()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    fn window(&self, task: Task) -> Result<(), Failure> {
        let mut in_flight = 0;
        for _ in 0..task.window {
            let sent = match task.op {
                Op::PutBw => self.there.put(self.scratch, task.size, 0)?,
                _ => self.there.get(self.scratch, task.size, 0)?,
            };
            match sent {
                Sent::Done => {}
                Sent::InFlight => in_flight += 1,
                Sent::Again => return Err(Failure::Run("no room for an operation".into())),
            }
        }
        in_flight += u64::from(self.there.flush()? == Sent::InFlight);
        for _ in 0..in_flight {
            self.link.next()?;
        }
        Ok(())
    }

    /// Waits for an operation that was not done at once.
    #[inline]
    fn end(&self, sent: Sent) -> Result<(), Failure> {
        match sent {
            Sent::Done => Ok(()),
            Sent::InFlight => {
                self.by_messages.set(true);
                self.link.next()?;
                Ok(())
            }
            Sent::Again => Err(Failure::Run("no room for an operation".into())),
        }
    }
}

/// Waits for the message that was asked for, and for the end of sends.
fn await_message(link: &Link, mut in_flight: u64) -> Result<(), Failure> {
    let mut received = false;
    while !received || in_flight > 0 {
        match link.wait()?.kind {
            Kind::Recv => received = true,
            Kind::Send => in_flight -= 1,
        }
    }
    Ok(())
}

/// Looks at the word between two looks at the rest of the world.
const LOOKS: u32 = 4096;
const KEYS: u64 = 4;
const PARTING: u64 = 5;
