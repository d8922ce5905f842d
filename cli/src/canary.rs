//! The canary: how long a cache line takes from one core to another, without gridnet.
//!
//! It is the floor under every latency in shared memory, and on a virtual machine it moves: the hypervisor moves
//! the virtual cores. A measurement means something only beside the canary of the same moment.

use crate::cores;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard};
use std::time::Instant;

/// Measures one-way times in ns between cores `a` and `b`: one sample per batch of round trips, sorted.
pub(crate) fn measure(a: usize, b: usize, batches: usize) -> io::Result<Vec<f64>> {
    let (there, back) = (Line::default(), Line::default());
    let start = Start::default();
    let rounds = ((batches + WARMUP_BATCHES) * BATCH) as u64;
    let mut samples = std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            start.on(b).map(|()| (1..=rounds).for_each(|round| back.put(round, there.take(round))))
        });
        let asking = scope.spawn(|| {
            start.on(a).map(|()| (0..rounds / BATCH as u64).map(|batch| ping(&there, &back, batch)).collect())
        });
        let samples: io::Result<Vec<f64>> = asking.join().expect("the asking thread does not panic");
        answering.join().expect("the answering thread does not panic").and(samples)
    })?;
    samples.drain(..WARMUP_BATCHES);
    samples.sort_by(f64::total_cmp);
    Ok(samples)
}

/// Median one-way time in ns between cores `a` and `b`.
pub(crate) fn median(a: usize, b: usize) -> io::Result<f64> {
    Ok(measure(a, b, MEDIAN_BATCHES)?[MEDIAN_BATCHES / 2])
}

/// What a one-way time says of where two cores are.
pub(crate) fn distance_word(one_way_ns: f64) -> &'static str {
    match one_way_ns {
        ns if ns < 40.0 => "sibling",
        ns if ns < 120.0 => "near",
        _ => "far",
    }
}

/// One batch of round trips: the mean one-way time in ns.
fn ping(there: &Line, back: &Line, batch: u64) -> f64 {
    let first = batch * BATCH as u64 + 1;
    let start = Instant::now();
    for round in first..first + BATCH as u64 {
        there.put(round, round);
        assert_eq!(back.take(round), round, "a payload arrives with its flag");
    }
    start.elapsed().as_nanos() as f64 / (2 * BATCH) as f64
}

/// Where the two threads meet, each on its core: neither begins a round that the other would not answer.
struct Start {
    meeting: Barrier,
    /// A core that could not be had.
    failed: Mutex<Option<usize>>,
}

impl Start {
    fn on(&self, core: usize) -> io::Result<()> {
        if cores::pin(core).is_err() {
            *self.failed() = Some(core);
        }
        self.meeting.wait();
        match *self.failed() {
            Some(core) => Err(io::Error::other(format!("core {core} cannot be used"))),
            None => Ok(()),
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<usize>> {
        self.failed.lock().expect("nobody panics with the lock")
    }
}

impl Default for Start {
    fn default() -> Self {
        Start { meeting: Barrier::new(2), failed: Mutex::new(None) }
    }
}

/// A flag and a payload of 8 bytes in one cache line; 128 bytes, because some processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    /// Number of the round whose payload is there. Its Release pairs with the Acquire in `take`: who sees the
    /// round sees its payload.
    flag: AtomicU64,
    payload: AtomicU64,
}

impl Line {
    #[inline]
    fn put(&self, round: u64, payload: u64) {
        self.payload.store(payload, Ordering::Relaxed);
        self.flag.store(round, Ordering::Release);
    }

    #[inline]
    fn take(&self, round: u64) -> u64 {
        // No spin-loop hint: it changes the time, and this is the bare loop that others measure too.
        while self.flag.load(Ordering::Acquire) != round {}
        self.payload.load(Ordering::Relaxed)
    }
}

/// Round trips between two looks at the clock: enough to make its step of 10 ns or more vanish.
const BATCH: usize = 500;

/// The first batches find cold caches and threads that are not on their core yet.
const WARMUP_BATCHES: usize = 2;

/// 20,000 round trips: 2 ms between near cores, 12 ms between far ones.
const MEDIAN_BATCHES: usize = 41;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_gives_a_sample_and_they_are_sorted() {
        let cores = cores::allowed().unwrap();
        if let [a, b, ..] = cores[..] {
            let samples = measure(a, b, 5).unwrap();
            assert_eq!(samples.len(), 5);
            assert!(samples.is_sorted() && samples[0] > 0.0);
        }
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        let core = cores::allowed().unwrap()[0];
        assert!(measure(core, 1023, 1).is_err());
    }
}
