//! Which way long writes to a stream take: by frames, which both sides copy at once, or by a single copy that the reader makes.
//!
//! Neither is always the faster. While both sides have a core, frames are, by a quarter to a half; where cores are short each wait for a frame may
//! cost a time slice, and the single copy has one wait only. So the writer measures both, and takes the one that was faster; now and then it tries the other
//! again.

use std::time::Duration;

/// Writes by which the choice begins: both ways in turn.
const TRIALS: u32 = 6;
/// Of so many writes afterwards one takes the other way.
const PERIOD: u32 = 64;
/// One sample counts for so much at most: a pause of the process is not what a way costs.
const MOST_AT_ONCE: f32 = 2.0;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By frames, as all bytes.
    Frames,
    /// Shown to the reader, which copies.
    Shown,
}

/// The choice for one stream.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    writes: u32,
    /// Nanoseconds for 1024 bytes by each way; 0 before the first measurement.
    cost: [f32; 2],
}

impl Ways {
    /// The way of the next long write.
    pub(crate) fn next(&mut self) -> Way {
        self.writes = self.writes.wrapping_add(1);
        let (best, other) = match self.cost[0] <= self.cost[1] {
            true => (Way::Frames, Way::Shown),
            false => (Way::Shown, Way::Frames),
        };
        match self.writes {
            n if n <= TRIALS => [Way::Frames, Way::Shown][n as usize % 2],
            n if n.is_multiple_of(PERIOD) => other,
            _ => best,
        }
    }

    /// A reader has taken so many bytes by this way in such a time.
    pub(crate) fn learn(&mut self, way: Way, bytes: usize, time: Duration) {
        let sample = time.as_nanos() as f32 * 1024.0 / bytes.max(1) as f32;
        let cost = &mut self.cost[way as usize];
        *cost = if *cost == 0.0 { sample } else { *cost + (sample.min(MOST_AT_ONCE * *cost) - *cost) / 4.0 };
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
        assert_eq!(write(&mut ways, TRIALS, [60, 90]), [TRIALS / 2; 2]);
        let [frames, shown] = write(&mut ways, 640, [60, 90]);
        assert!(frames > 620 && shown > 5, "{frames} {shown}");
        // Cores get short.
        let [_, shown] = write(&mut ways, 640, [400, 150]);
        assert!(shown > 600, "{shown}");
        // And are there again.
        write(&mut ways, 1280, [60, 90]);
        let [frames, _] = write(&mut ways, 640, [60, 90]);
        assert!(frames > 600, "{frames}");
    }

    #[test]
    fn a_pause_is_not_what_a_way_costs() {
        let mut ways = Ways::default();
        write(&mut ways, 640, [60, 90]);
        ways.learn(Way::Frames, MIB, Duration::from_secs(1));
        let [frames, _] = write(&mut ways, 640, [60, 90]);
        assert!(frames > 600, "{frames}");
    }
}
