//! How long the machine kept a test from running, so that a limit in time says something of what is tested on a busy one, too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that wants to run every 5 ms, and notes what it waits longer than that.
pub struct Stalls {
    over: Arc<AtomicBool>,
    nanoseconds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    pub fn watch() -> Stalls {
        let (over, nanoseconds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, sum) = (Arc::clone(&over), Arc::clone(&nanoseconds));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::park_timeout(TURN);
                let late = begun.elapsed().saturating_sub(2 * TURN);
                sum.fetch_add(late.as_nanos() as u64, Ordering::Relaxed);
            }
        });
        Stalls { over, nanoseconds, thread: Some(thread) }
    }

    /// All of it since the beginning.
    pub fn so_far(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const TURN: Duration = Duration::from_millis(5);
