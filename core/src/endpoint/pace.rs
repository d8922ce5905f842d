//! How much of large messages moves between two looks at what comes.
//!
//! Alone they move in parts that cost least per byte. Where small messages come and go beside them, in short parts, one a round, so
//! that small ones are heard in between, and answered. Beside means: while large ones are under way. An answer after each window of
//! large messages, as benchmarks of bandwidth have it, comes when none is.

/// Bytes of large messages for which a small one is remembered: several times what may be under way while nobody makes room for
/// small ones.
const MEMORY: usize = 4 << 20;

/// How much of large messages may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// As much as is best for them.
    Alone,
    /// One short part for each peer.
    Short,
    /// Nothing: a part has moved since the last look at what comes.
    Nothing,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Small messages that have come or gone,
    small: u64,
    /// and those of which account was taken.
    seen: u64,
    /// Large ones are under way.
    has_bulk: bool,
    /// Somebody has looked what comes.
    has_looked: bool,
    /// Bytes of large messages until the small ones are forgotten. One small message makes no company: more than what is remembered of
    /// one does.
    left: usize,
}

impl Pace {
    /// A small message has come.
    #[inline(always)]
    pub(super) fn note_small(&mut self) {
        self.small = self.small.wrapping_add(1);
    }

    /// So many small messages have gone.
    pub(super) fn note_sent(&mut self, count: u64) {
        self.small = self.small.wrapping_add(count);
    }

    /// What comes was looked at.
    pub(super) fn looked(&mut self) {
        self.has_looked = true;
    }

    /// What waits is going to be sent, and fetched.
    pub(super) fn begin(&mut self) -> Measure {
        let came = self.small != std::mem::replace(&mut self.seen, self.small);
        if came && self.has_bulk {
            self.left = (self.left + MEMORY).min(2 * MEMORY);
        }
        let has_looked = std::mem::take(&mut self.has_looked);
        match (self.is_alone(), has_looked) {
            (true, _) => Measure::Alone,
            (false, true) => Measure::Short,
            (false, false) => Measure::Nothing,
        }
    }

    /// No small messages come and go beside large ones.
    pub(super) fn is_alone(&self) -> bool {
        self.left <= MEMORY
    }

    /// No large message is under way.
    pub(super) fn end_bulk(&mut self) {
        self.has_bulk = false;
    }

    /// So many bytes of large messages have moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.has_bulk = true;
        self.left = self.left.saturating_sub(bytes);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PART: usize = 16 << 10;

    fn round(pace: &mut Pace) -> Measure {
        pace.looked();
        pace.begin()
    }

    #[test]
    fn small_messages_make_company_while_large_ones_wait() {
        let mut pace = Pace::default();
        assert_eq!(round(&mut pace), Measure::Alone);
        pace.moved(PART);
        pace.note_small();
        assert_eq!(round(&mut pace), Measure::Alone, "one may be the end of something");
        pace.note_small();
        assert_eq!(round(&mut pace), Measure::Short);
        assert_eq!(pace.begin(), Measure::Nothing, "nobody has looked what comes");
        for _ in 0..1000 {
            (0..10).for_each(|_| pace.moved(PART));
            pace.note_small();
            assert_eq!(round(&mut pace), Measure::Short);
        }
        let mut alone = 0;
        while round(&mut pace) == Measure::Short {
            pace.moved(PART);
            alone += PART;
            assert!(alone <= 2 * MEMORY, "they are remembered for ever");
        }
        assert!(alone >= MEMORY / 2);
    }

    #[test]
    fn answers_to_whole_windows_are_no_company() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            for _ in 0..16 {
                assert_eq!(round(&mut pace), Measure::Alone);
                pace.moved(64 << 10);
            }
            pace.end_bulk();
            // All is received, and the other side says so.
            pace.note_small();
            assert_eq!(round(&mut pace), Measure::Alone);
        }
    }
}
