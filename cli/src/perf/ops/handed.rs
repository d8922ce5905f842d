//! `handed_lat`: `tag_lat` where another thread calls after each few hundred round trips, on both sides, as programs may at
//! the thread level SERIALIZED. Handing over is not part of what is measured.

use super::latency::{answer, round_trip};
use crate::cabi::in_another_thread;
use crate::failure::Failure;
use crate::perf::link::Link;
use crate::perf::stats::Samples;
use crate::perf::task::Task;
use std::time::Instant;

pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    link.wipe(task.size);
    let mut samples = Samples::with_capacity(task.rounds);
    for (first, count) in turns(task) {
        let times = in_another_thread(link, |link| lead_turn(link, task.size, count))?;
        let measured = times.into_iter().enumerate().filter(|(at, _)| first + *at as u64 >= task.warmup);
        measured.for_each(|(_, ns)| samples.add(ns, 2.0));
    }
    link.verify(task.size)?;
    Ok(samples)
}

pub(crate) fn follow(
    link: &Link,
    task: Task,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let rounds = task.warmup + task.rounds;
    link.wipe(task.size);
    link.post(task.size, super::latency::TAG)?;
    ready()?;
    for (first, count) in turns(task) {
        let is_last = |round: u64| first + round == rounds;
        in_another_thread(link, |link| {
            let mut in_flight = 0;
            (1..=count).try_for_each(|round| answer(link, task.size, is_last(round), &mut in_flight))?;
            link.take_sent(in_flight)?;
            Ok::<(), Failure>(())
        })?;
    }
    link.verify(task.size)
}

fn lead_turn(link: &Link, size: usize, count: u64) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let start = Instant::now();
        round_trip(link, size)?;
        times.push(start.elapsed().as_nanos() as f64);
    }
    Ok(times)
}

/// The first round trip of each turn, and how many it has.
fn turns(task: Task) -> impl Iterator<Item = (u64, u64)> {
    let rounds = task.warmup + task.rounds;
    (0..rounds.div_ceil(TURN)).map(move |turn| (turn * TURN, TURN.min(rounds - turn * TURN)))
}

/// Round trips of one thread: much more than it takes to begin one.
const TURN: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Op;

    #[test]
    fn turns_are_all_the_round_trips() {
        let of = |warmup, rounds| {
            turns(Task { op: Op::HandedLat, size: 8, warmup, rounds, window: 1 }).collect::<Vec<_>>()
        };
        assert_eq!(of(6, 250), [(0, 256)]);
        assert_eq!(of(300, 300), [(0, 256), (256, 256), (512, 88)]);
    }
}
