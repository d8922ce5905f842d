//! `tag_bw` and `tag_rate`: a window of messages in flight, then an acknowledgement of the whole window.
//!
//! The receiver keeps a window of receives posted: each message that arrives is followed by the next receive. Both
//! sides take one entry per call. A sample is the time of a window, from the first send to the acknowledgement.

use crate::cabi::Kind;
use crate::failure::Failure;
use crate::perf::link::Link;
use crate::perf::stats::Samples;
use crate::perf::task::Task;
use std::time::Instant;

pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    for _ in 0..task.warmup {
        send_window(link, task)?;
    }
    let mut samples = Samples::with_capacity(task.rounds);
    for _ in 0..task.rounds {
        let start = Instant::now();
        send_window(link, task)?;
        samples.add(start.elapsed().as_nanos() as f64, task.window as f64);
    }
    Ok(samples)
}

pub(crate) fn follow(
    link: &Link,
    task: Task,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let windows = task.warmup + task.rounds;
    link.wipe(task.size);
    let mut to_post = windows * task.window;
    for _ in 0..task.window {
        link.post(task.size, DATA)?;
        to_post -= 1;
    }
    ready()?;
    let mut in_flight = 0;
    for _ in 0..windows {
        for _ in 0..task.window {
            received(link, &mut in_flight)?;
            if to_post > 0 {
                link.post(task.size, DATA)?;
                to_post -= 1;
            }
        }
        link.send(0, ACK, &mut in_flight)?;
    }
    link.take_sent(in_flight)?;
    link.verify(task.size)
}

#[inline]
fn send_window(link: &Link, task: Task) -> Result<(), Failure> {
    let mut in_flight = 0;
    link.post(0, ACK)?;
    for _ in 0..task.window {
        link.send(task.size, DATA, &mut in_flight)?;
    }
    received(link, &mut in_flight)?;
    link.take_sent(in_flight)?;
    Ok(())
}

/// Waits for a message, and takes the entries of sends on the way.
#[inline]
fn received(link: &Link, in_flight: &mut u64) -> Result<(), Failure> {
    loop {
        match link.next()?.kind {
            Kind::Recv => return Ok(()),
            Kind::Send => *in_flight -= 1,
        }
    }
}

const DATA: u64 = 2;
const ACK: u64 = 3;
