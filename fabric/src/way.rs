//! Which way long writes to a stream take: by frames, which both sides copy at once, or by a single copy that the reader makes.
//!
//! Neither is always the faster. While both sides have a core, frames are, by a quarter to a half; where cores are short each wait for a frame may
//! cost a time slice, and the single copy has one wait only. So the writer measures both, and takes the one that was faster; now and then it tries the other
//! again, less often after it was in vain. What a way costs is the median of its last writes: some always find cold caches,
//! or a pause of the process.

use std::time::Duration;

/// So many writes say what a way costs.
const SAMPLES: usize = 7;
/// Writes of a trial.
const TRIAL: u32 = SAMPLES as u32;
/// Frames after the first trial, which begins a stream: they touch memory for the first time.
const WARM_UP: u32 = 2 * TRIAL;
/// Writes from one trial to the next: at first, and after many in vain.
const LEAST_PAUSE: u32 = 32;
const MOST_PAUSE: u32 = 512;
/// The way in use is in doubt when it costs so much more than the other one did; a trial has failed when it does after so many writes.
const CLEARLY: f32 = 1.25;
const CLEAR: usize = 5;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By frames, as all bytes.
    Frames,
    /// Shown to the reader, which copies.
    Shown,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Frames => Self::Shown,
            Self::Shown => Self::Frames,
        }
    }
}

/// What the last writes by a way have cost: nanoseconds for 1024 bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Costs {
    samples: [f32; SAMPLES],
    count: usize,
}

impl Costs {
    fn add(&mut self, sample: f32) {
        self.samples[self.count % SAMPLES] = sample;
        self.count += 1;
    }

    /// The upper median; `None` before the first sample.
    fn median(&self) -> Option<f32> {
        let mut known = self.samples;
        let known = &mut known[..self.count.min(SAMPLES)];
        known.sort_unstable_by(f32::total_cmp);
        known.get(known.len() / 2).copied()
    }
}

/// The choice for one stream.
#[derive(Debug)]
pub(crate) struct Ways {
    best: Way,
    /// Writes that are left of a trial of the other way; else until the next one.
    trial: u32,
    rest: u32,
    pause: u32,
    costs: [Costs; 2],
}

impl Default for Ways {
    fn default() -> Self {
        Self { best: Way::Frames, trial: TRIAL, rest: WARM_UP, pause: LEAST_PAUSE, costs: Default::default() }
    }
}

impl Ways {
    /// The way of the next long write.
    pub(crate) fn next(&mut self) -> Way {
        if self.trial == 0 && self.rest == 0 {
            (self.trial, self.rest) = (TRIAL, self.pause);
            self.costs[self.best.other() as usize] = Costs::default();
        }
        if self.trial > 0 {
            self.trial -= 1;
            self.best.other()
        } else {
            self.rest -= 1;
            self.best
        }
    }

    /// A reader has taken so many bytes by this way in such a time.
    pub(crate) fn learn(&mut self, way: Way, bytes: usize, time: Duration) {
        self.costs[way as usize].add(time.as_nanos() as f32 * 1024.0 / bytes.max(1) as f32);
        let [best, other] = [self.best, self.best.other()].map(|way| self.costs[way as usize].median());
        let (Some(best), Some(other)) = (best, other) else { return };
        let count = self.costs[way as usize].count;
        if way == self.best {
            if count >= SAMPLES && best > CLEARLY * other {
                self.rest = 0;
            }
        } else if count >= CLEAR && other > CLEARLY * best || self.trial == 0 && other >= best {
            self.trial = 0;
            self.pause = MOST_PAUSE.min(2 * self.pause);
        } else if self.trial == 0 {
            (self.best, self.pause, self.rest) = (way, LEAST_PAUSE, LEAST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Writes a MiB so many times, by ways that take so many microseconds: how often each was taken.
    fn write(ways: &mut Ways, times: u32, us: [u64; 2]) -> [u32; 2] {
        let mut taken = [0; 2];
        for _ in 0..times {
            let way = ways.next();
            taken[way as usize] += 1;
            ways.learn(way, MIB, Duration::from_micros(us[way as usize]));
        }
        taken
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_one_tried_now_and_then() {
        let mut ways = Ways::default();
        assert_eq!(
            write(&mut ways, TRIAL + WARM_UP + CLEAR as u32, [60, 90]),
            [WARM_UP, TRIAL + CLEAR as u32],
            "a trial ends when it is in vain"
        );
        let [frames, shown] = write(&mut ways, 5120, [60, 90]);
        assert!(frames > 5000 && shown >= 30, "{frames} {shown}");
        // Cores get short.
        let [_, shown] = write(&mut ways, 640, [400, 150]);
        assert!(shown > 600, "{shown}");
        // And are there again.
        write(&mut ways, 1280, [60, 90]);
        let [frames, _] = write(&mut ways, 640, [60, 90]);
        assert!(frames > 600, "{frames}");
    }

    #[test]
    fn ways_that_cost_nearly_the_same_are_compared_by_whole_trials() {
        let mut ways = Ways::default();
        write(&mut ways, 640, [100, 95]);
        assert_eq!(ways.best, Way::Shown);
        write(&mut ways, 5120, [92, 95]);
        assert_eq!(ways.best, Way::Frames);
    }

    #[test]
    fn cold_caches_after_a_change_do_not_count() {
        let mut ways = Ways::default();
        let (mut last, mut taken) = (None, [0; 2]);
        for _ in 0..640 {
            let way = ways.next();
            let cold = if way == Way::Shown || last == Some(way) { 1 } else { 20 };
            last = Some(way);
            taken[way as usize] += 1;
            ways.learn(way, MIB, Duration::from_micros([60, 90][way as usize] * cold));
        }
        assert!(taken[0] > 580, "{taken:?}");
    }

    #[test]
    fn a_pause_is_not_what_a_way_costs() {
        let mut ways = Ways::default();
        write(&mut ways, 640, [60, 90]);
        for _ in 0..3 {
            ways.learn(Way::Frames, MIB, Duration::from_secs(1));
        }
        let [frames, _] = write(&mut ways, 640, [60, 90]);
        assert!(frames > 600, "{frames}");
    }
}
