//! The model of a link in one direction: when, and whether, a packet comes out. No clock and no socket: times are handed in.

use crate::impairment::Impairment;

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Line {
    impairment: Impairment,
    blackout: bool,
    /// When the last bit of all that was accepted has left at `rate`.
    free_at_ns: u64,
    /// When the last packet comes out; none overtakes it.
    last_due_ns: u64,
    dice: Dice,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It comes out then.
    Due { at_ns: u64 },
    /// It is lost, as asked.
    Lost,
    /// It found the queue full.
    QueueFull,
    /// Nothing passes.
    Blackout,
}

impl Line {
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Line {
        Line { impairment, blackout: false, free_at_ns: 0, last_due_ns: 0, dice: Dice(seed) }
    }

    /// From now on it is so.
    pub(crate) fn set(&mut self, impairment: Impairment, blackout: bool) {
        self.impairment = impairment;
        self.blackout = blackout;
    }

    pub(crate) fn is_dark(&self) -> bool {
        self.blackout
    }

    /// A packet of `bytes` goes in.
    pub(crate) fn offer(&mut self, now_ns: u64, bytes: u64) -> Fate {
        if self.blackout {
            return Fate::Blackout;
        }
        if self.dice.below(MILLION) < u64::from(self.impairment.loss.parts_per_million) {
            return Fate::Lost;
        }
        let mut left_at = now_ns;
        if let Some(rate) = self.impairment.rate {
            let start = self.free_at_ns.max(now_ns);
            // The last byte leaves no later than one after a full queue.
            let deepest = rate.time_ns(self.impairment.queue_bytes(rate));
            left_at = start.saturating_add(rate.time_ns(bytes));
            if left_at - now_ns > deepest {
                return Fate::QueueFull;
            }
            self.free_at_ns = left_at;
        }
        let jitter = span_ns(self.impairment.jitter.0);
        let late =
            span_ns(self.impairment.delay.0) + if jitter == 0 { 0 } else { self.dice.below(jitter + 1) };
        let at_ns = left_at.saturating_add(late).max(self.last_due_ns);
        self.last_due_ns = at_ns;
        Fate::Due { at_ns }
    }
}

fn span_ns(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// A number from 0 to `end` - 1. The fault of taking 64 bits for a fraction is below 2^-40 here.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * u128::from(end)) >> 64) as u64
    }
}

const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn line(impairment: Impairment) -> Line {
        Line::new(impairment, 1)
    }

    #[test]
    fn a_line_with_nothing_wrong_passes_at_once() {
        assert_eq!(line(Impairment::default()).offer(5, 1500), Fate::Due { at_ns: 5 });
    }

    #[test]
    fn delay_and_rate_add_up() {
        let mut line = line(Impairment::default().delay(Duration::from_millis(10)).mbit(12));
        // 1500 bytes take 1 ms at 12 mbit; the second one waits for the first.
        assert_eq!(line.offer(0, 1500), Fate::Due { at_ns: 11 * MS });
        assert_eq!(line.offer(0, 1500), Fate::Due { at_ns: 12 * MS });
        assert_eq!(line.offer(100 * MS, 1500), Fate::Due { at_ns: 111 * MS });
    }

    #[test]
    fn a_full_queue_drops_the_tail() {
        let mut line = line(Impairment::default().mbit(12).queue(4500));
        let fates: Vec<Fate> = (0..5).map(|_| line.offer(0, 1500)).collect();
        let due = |ms| Fate::Due { at_ns: ms * MS };
        assert_eq!(fates, [due(1), due(2), due(3), Fate::QueueFull, Fate::QueueFull]);
        assert_eq!(line.offer(MS, 1500), due(4), "a place is free again after one has left");
    }

    #[test]
    fn jitter_spreads_and_keeps_order() {
        let mut line =
            line(Impairment::default().delay(Duration::from_millis(10)).jitter(Duration::from_millis(4)));
        let mut before = 0;
        let mut late = Vec::new();
        for packet in 0..1000 {
            let now = packet * 10 * MS;
            let Fate::Due { at_ns } = line.offer(now, 100) else { panic!("not due") };
            assert!(at_ns >= before);
            before = at_ns;
            late.push(at_ns - now);
        }
        assert!(late.iter().all(|late| (10 * MS..=14 * MS).contains(late)));
        assert!(
            late.iter().min().unwrap() < &(10 * MS + MS / 10)
                && late.iter().max().unwrap() > &(14 * MS - MS / 10)
        );
    }

    #[test]
    fn as_many_are_lost_as_asked() {
        let mut line = line(Impairment::default().loss_percent(1.0));
        let lost = (0..100_000).filter(|_| line.offer(0, 100) == Fate::Lost).count();
        // Six standard deviations; the seed is fixed anyway.
        assert!((810..=1190).contains(&lost), "{lost}");
    }

    #[test]
    fn nothing_passes_a_blackout_and_all_does_after() {
        let mut line = line(Impairment::default());
        line.set(Impairment::default(), true);
        assert_eq!((line.offer(0, 100), line.is_dark()), (Fate::Blackout, true));
        line.set(Impairment::default(), false);
        assert_eq!(line.offer(0, 100), Fate::Due { at_ns: 0 });
    }
}
