//! How long this process could not run: a span that is longer by as much says nothing against what was measured in it.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often a thread looks at the clock. What it is late by less than that is no gap.
const BEAT: Duration = Duration::from_millis(20);

/// Looks at the clock until it is dropped.
pub struct Gaps {
    beats: Arc<Mutex<Beats>>,
    _end: Sender<()>,
}

struct Beats {
    last: Instant,
    sum: Duration,
}

impl Beats {
    fn beat(&mut self) {
        self.sum += self.last.elapsed().saturating_sub(2 * BEAT);
        self.last = Instant::now();
    }
}

impl Gaps {
    pub fn watch() -> Gaps {
        let beats = Arc::new(Mutex::new(Beats { last: Instant::now(), sum: Duration::ZERO }));
        let (end, ended) = channel();
        let thread = Arc::clone(&beats);
        std::thread::spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                thread.lock().unwrap().beat();
            }
        });
        Gaps { beats, _end: end }
    }

    /// All gaps so far, with one that has only just ended.
    pub fn sum(&self) -> Duration {
        let mut beats = self.beats.lock().unwrap();
        beats.beat();
        beats.sum
    }
}

/// A span, and how much of it this process could not run.
pub struct Clock<'a> {
    gaps: &'a Gaps,
    begin: Instant,
    before: Duration,
}

impl Clock<'_> {
    pub fn start(gaps: &Gaps) -> Clock<'_> {
        Clock { gaps, before: gaps.sum(), begin: Instant::now() }
    }

    /// The whole span, and the gaps in it.
    pub fn read(&self) -> (Duration, Duration) {
        let took = self.begin.elapsed();
        (took, self.gaps.sum() - self.before)
    }
}
