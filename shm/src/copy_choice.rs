//! Which way long messages take: through buffers of the segment, copied by both sides at once, or by a single copy out
//! of the sender's memory.
//!
//! Neither is always the faster: between cores that share a cache the two copies overlap and win, between far ones
//! the single copy does; and virtual cores move. So the receiver measures both, for each peer and class of length, and
//! takes the one that was faster; now and then it tries the other again.

use std::time::Instant;

use gridnet_core::wire::{Frame, Kind};

/// Classes of lengths, each four times as long as the one before; the first ends at 32 KiB.
const CLASSES: usize = 5;
/// Messages of a class by which the choice begins: both ways in turn.
const TRIALS: u32 = 8;
/// Of so many messages afterwards two take the other way, and the second of them is timed: the first brings what that way uses
/// back into the cache.
const PERIOD: u32 = 128;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through buffers of the segment.
    Buffers,
    /// Single copy.
    Single,
}

/// What is known of one class.
#[derive(Debug, Clone, Copy, Default)]
struct Class {
    messages: u32,
    /// Nanoseconds for 1024 bytes by each way; 0 before the first measurement.
    cost: [f32; 2],
}

/// The choice for the messages of one peer.
#[derive(Debug, Default)]
pub struct CopyChoice {
    classes: [Class; CLASSES],
    /// A message that comes through buffers and is timed: the sender's operation, its length, and when it was asked for.
    timed: Option<(u64, u64, Instant)>,
}

impl CopyChoice {
    /// Whether the next message of `len` bytes is to come by a single copy.
    pub fn is_single(&mut self, len: usize) -> bool {
        let class = &mut self.classes[class_of(len)];
        class.messages = class.messages.wrapping_add(1);
        let best = if class.cost[Way::Buffers as usize] <= class.cost[Way::Single as usize] {
            Way::Buffers
        } else {
            Way::Single
        };
        let way = match class.messages {
            n if n <= TRIALS => [Way::Single, Way::Buffers][n as usize % 2],
            n if n % PERIOD < 2 => other(best),
            _ => best,
        };
        way == Way::Single
    }

    /// Whether the message that [`Self::is_single`] was last asked about is to be timed: all at first, then some one in eight.
    pub fn is_timed(&self, len: usize) -> bool {
        let messages = self.classes[class_of(len)].messages;
        messages <= TRIALS || messages % 8 == 1
    }

    /// A single copy of `len` bytes began then, and has ended.
    pub fn single_done(&mut self, len: usize, began: Instant) {
        self.learn(Way::Single, len as u64, began);
    }

    /// Looks at the frames that go to the peer: a request for a piece begins a measurement, the end of its message ends it.
    pub fn watch(&mut self, frame: &Frame<'_>) {
        match (frame.kind, self.timed) {
            (Kind::Rtr, None) => {
                let len = frame.extension.get(2).copied().unwrap_or_default();
                if !self.is_timed(len as usize) {
                    return;
                }
                self.timed = Some((frame.word, len, Instant::now()));
            }
            (Kind::Fin, Some((op, len, began))) if op == frame.word => {
                self.timed = None;
                self.learn(Way::Buffers, len, began);
            }
            // Its message was given up, most likely.
            (Kind::Rtr, Some((_, _, began))) if began.elapsed().as_millis() > 100 => self.timed = None,
            _ => {}
        }
    }

    fn learn(&mut self, way: Way, len: u64, began: Instant) {
        let sample = began.elapsed().as_nanos() as f32 * 1024.0 / len.max(1) as f32;
        let cost = &mut self.classes[class_of(len as usize)].cost[way as usize];
        // A pause of this process or the other is not what the way costs, nor are the first faults on its memory: a long time
        // counts for little, a short one for much.
        let weight = if sample < *cost { 0.75 } else { 0.25 };
        *cost = if *cost == 0.0 { sample } else { *cost + (sample.min(2.0 * *cost) - *cost) * weight };
    }
}

fn other(way: Way) -> Way {
    match way {
        Way::Buffers => Way::Single,
        Way::Single => Way::Buffers,
    }
}

fn class_of(len: usize) -> usize {
    let quarters = (len >> 13).checked_ilog2().unwrap_or(0) as usize / 2;
    quarters.min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet_core::mem::Gather;
    use std::time::Duration;

    fn ago(nanos: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_nanos(nanos)).unwrap()
    }

    /// Feeds a choice with what the two ways are said to cost; how often the last `count` messages came by a single copy.
    fn feed(choice: &mut CopyChoice, len: usize, (single, buffers): (u64, u64), count: u32) -> u32 {
        let mut singles = 0;
        for _ in 0..count {
            if choice.is_single(len) {
                singles += 1;
                choice.single_done(len, ago(single));
            } else {
                choice.learn(Way::Buffers, len as u64, ago(buffers));
            }
        }
        singles
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_not_forgotten() {
        let mut choice = CopyChoice::default();
        for len in [8193, 65536, 1 << 20, 1 << 30] {
            feed(&mut choice, len, (10_000_000, 90_000_000), 100);
            let singles = feed(&mut choice, len, (10_000_000, 90_000_000), 1000);
            assert!((900..1000).contains(&singles), "{singles} of 1000");
            // The cores have moved.
            feed(&mut choice, len, (90_000_000, 10_000_000), 1000);
            let singles = feed(&mut choice, len, (90_000_000, 10_000_000), 1000);
            assert!((1..100).contains(&singles), "{singles} of 1000");
        }
    }

    /// The first messages find no page of the segment mapped. That is soon forgotten.
    #[test]
    fn a_slow_beginning_is_no_verdict() {
        let mut choice = CopyChoice::default();
        let len = 1 << 20;
        for _ in 0..2 {
            assert!(!choice.is_single(len), "the two ways are taken in turn");
            choice.learn(Way::Buffers, len as u64, ago(400_000_000));
            assert!(choice.is_single(len));
            choice.single_done(len, ago(70_000_000));
        }
        feed(&mut choice, len, (70_000_000, 40_000_000), 4);
        let singles = feed(&mut choice, len, (70_000_000, 40_000_000), 100);
        assert!(singles < 10, "{singles} of 100");
    }

    /// The way that is not taken is judged by a message that comes after another one by it.
    #[test]
    fn the_other_way_is_timed_when_it_is_warm() {
        let mut choice = CopyChoice::default();
        let len = 65536;
        feed(&mut choice, len, (10_000_000, 90_000_000), TRIALS);
        let mut tried = Vec::new();
        for _ in 0..4 * PERIOD {
            if choice.is_single(len) {
                choice.single_done(len, ago(10_000_000));
            } else {
                tried.push(choice.is_timed(len));
            }
        }
        assert_eq!(tried, [false, true].repeat(4));
    }

    #[test]
    fn requests_and_ends_of_one_operation_are_a_measurement() {
        let mut choice = CopyChoice::default();
        let frame = |kind, word, len| Frame {
            kind,
            word,
            extension: [0, 0, len, 0, 0],
            extension_len: 3,
            ..Frame::eager(0, Gather::EMPTY)
        };
        choice.watch(&frame(Kind::Rtr, 7, 65536));
        choice.watch(&frame(Kind::Rtr, 8, 65536));
        choice.watch(&frame(Kind::Fin, 8, 0));
        assert_eq!(choice.classes[class_of(65536)].cost[Way::Buffers as usize], 0.0);
        choice.watch(&frame(Kind::Fin, 7, 0));
        assert!(choice.classes[class_of(65536)].cost[Way::Buffers as usize] > 0.0);
        assert!(choice.timed.is_none());
    }

    #[test]
    fn every_length_has_a_class() {
        assert_eq!(
            [0, 8193, 32767, 32768, 131_072, 524_288, 2 << 20, usize::MAX].map(class_of),
            [0, 0, 0, 1, 2, 3, 4, 4]
        );
    }
}
