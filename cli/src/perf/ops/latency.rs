//! `tag_lat`: half the time of a round trip.
//!
//! Each side answers a message at once, posts the receive of the next one, and waits for its entry: the order of
//! ucx_perftest, so that the two compare. The receive is posted while the answer is on its way, long before the next
//! message can be there.

use crate::cabi::Kind;
use crate::failure::Failure;
use crate::perf::link::Link;
use crate::perf::stats::Samples;
use crate::perf::task::Task;
use std::time::Instant;

pub(crate) fn lead(link: &Link, task: Task) -> Result<Samples, Failure> {
    link.wipe(task.size);
    let start = Instant::now();
    for _ in 0..task.warmup {
        round_trip(link, task.size)?;
    }
    let batch = batch(start.elapsed().as_nanos() as u64, task.warmup).min(task.rounds);
    let mut samples = Samples::with_capacity(task.rounds.div_ceil(batch));
    let mut left = task.rounds;
    while left > 0 {
        let now = batch.min(left);
        let start = Instant::now();
        for _ in 0..now {
            round_trip(link, task.size)?;
        }
        samples.add(start.elapsed().as_nanos() as f64, 2.0 * now as f64);
        left -= now;
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
    link.post(task.size, TAG)?;
    ready()?;
    let mut in_flight = 0;
    for round in 1..=rounds {
        answer(link, task.size, round == rounds, &mut in_flight)?;
    }
    link.take_sent(in_flight)?;
    link.verify(task.size)
}

/// Takes a message, answers it, and posts the receive of the next one.
#[inline]
pub(super) fn answer(link: &Link, size: usize, is_last: bool, in_flight: &mut u64) -> Result<(), Failure> {
    received(link, in_flight)?;
    link.send(size, TAG, in_flight)?;
    if !is_last {
        link.post(size, TAG)?;
    }
    Ok(())
}

#[inline]
pub(super) fn round_trip(link: &Link, size: usize) -> Result<(), Failure> {
    let mut in_flight = 0;
    link.send(size, TAG, &mut in_flight)?;
    link.post(size, TAG)?;
    received(link, &mut in_flight)?;
    link.take_sent(in_flight)?;
    Ok(())
}

/// Waits for a message, and takes the entries of sends on the way.
#[inline]
fn received(link: &Link, in_flight: &mut u64) -> Result<(), Failure> {
    loop {
        match link.wait()?.kind {
            Kind::Recv => return Ok(()),
            Kind::Send => *in_flight -= 1,
        }
    }
}

/// Round trips between two looks at the clock, which steps by 10 ns or more and costs about twice that: 16 where a
/// round trip takes less than 2 us, else each by itself.
pub(super) fn batch(warmup_ns: u64, warmup_rounds: u64) -> u64 {
    match warmup_ns.checked_div(warmup_rounds) {
        Some(round_trip_ns) if round_trip_ns >= 2_000 => 1,
        _ => 16,
    }
}

pub(super) const TAG: u64 = 1;

#[cfg(test)]
mod tests {
    use super::batch;

    #[test]
    fn short_round_trips_are_timed_in_batches() {
        assert_eq!(batch(1_999 * 10, 10), 16);
        assert_eq!(batch(2_000 * 10, 10), 1);
        assert_eq!(batch(0, 0), 16);
    }
}
