//! How long ago what a member is told was so: by the words of the rendez-vous node that its leader passes on.
//!
//! Clocks may differ: what counts is how much later each word is than the one that came with the least delay, such as the one
//! that the rendez-vous node has said itself. So who keeps words back to say them later cannot hide that they are old.

use std::time::{Duration, Instant};

use crate::directory::{Still, Version};

/// A word comes each minute: after that two were lost, or kept back.
const LAG_MAX: Duration = Duration::from_secs(150);
/// What was so when a word was said has to come soon after it. Changes are told together for 2 s at most, twice.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Freshness {
    /// The most that the last word may lie back; tests have less.
    pub(super) lag_max: Duration,
    /// When a word came, and when it was said by the other clock: the one with the least delay.
    base: Option<(Instant, i64)>,
    /// When the last one was said.
    last: i64,
    /// Before the first word.
    since: Instant,
    /// Where the directory was said to be, which was not known then, and when that was heard.
    owed: Option<(Version, Instant)>,
}

impl Freshness {
    pub(super) fn new(now: Instant) -> Freshness {
        Freshness { lag_max: LAG_MAX, base: None, last: i64::MIN, since: now, owed: None }
    }

    /// Takes a word that was signed, from the rendez-vous node itself or from a leader; the directory is known until `known`.
    pub(super) fn take(&mut self, still: &Still, is_direct: bool, known: Version, now: Instant) {
        let at = still.at;
        if is_direct {
            // Its clock may have been set.
            (self.base, self.last) = (Some((now, at)), at);
        }
        let is_early = |(then, base): (Instant, i64)| {
            let between = u64::try_from(at.saturating_sub(base)).unwrap_or(0);
            at > base && now.saturating_duration_since(then) < Duration::from_secs(between)
        };
        if self.base.is_none_or(is_early) {
            self.base = Some((now, at));
        }
        self.last = self.last.max(at);
        if self.owed.is_none_or(|(version, _)| known >= version) {
            self.owed = (known < still.version).then_some((still.version, now));
        }
    }

    /// Whether something may be kept back by now from a member that knows the directory until `known`.
    pub(super) fn is_doubtful(&self, known: Version, now: Instant) -> bool {
        let is_old = match self.base {
            Some((then, base)) => {
                let between = u64::try_from(self.last.saturating_sub(base)).unwrap_or(0);
                now.saturating_duration_since(then)
                    > Duration::from_secs(between).saturating_add(self.lag_max)
            }
            None => now.saturating_duration_since(self.since) > self.lag_max,
        };
        let is_behind = |(version, since): (Version, Instant)| {
            known < version && now.saturating_duration_since(since) > BEHIND_MAX
        };
        is_old || self.owed.is_some_and(is_behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, AuthorityKey};
    use crate::clock::Moment;
    use gridnet_core::wire::NodeId;

    const KNOWN: Version = Version { epoch: 1, number: 5 };

    fn authority() -> Authority {
        Authority::create(NodeId::new([1; 16]).unwrap(), Moment::now()).unwrap()
    }

    fn said(authority: &Authority, at: i64, number: u64) -> Still {
        Still::sign(Version { epoch: 1, number }, Moment::from_unix(at), authority).unwrap()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_word_is_the_authoritys_or_none() {
        let (authority, other) = (authority(), authority());
        let still = said(&authority, 7, 5);
        let key = AuthorityKey::of(authority.certificate()).unwrap();
        assert!(still.is_signed_by(&key) && !said(&other, 7, 5).is_signed_by(&key));
        let (mut later, mut further) = (still.clone(), still);
        later.at += 1;
        further.version.number += 1;
        assert!(!later.is_signed_by(&key) && !further.is_signed_by(&key));
    }

    #[test]
    fn who_has_no_late_word_is_doubted_also_when_it_says_early_ones_later() {
        let (authority, start) = (authority(), Instant::now());
        let mut fresh = Freshness::new(start);
        assert!(!fresh.is_doubtful(KNOWN, start + secs(150)) && fresh.is_doubtful(KNOWN, start + secs(151)));
        // The other clock is an hour ahead, and words take a second.
        let word = |minute: i64| said(&authority, 1_000_000 + 3600 + 60 * minute, 5);
        fresh.take(&word(0), true, KNOWN, start);
        for minute in 1..100u64 {
            let now = start + secs(60 * minute + 1);
            fresh.take(&word(minute as i64), false, KNOWN, now);
            assert!(!fresh.is_doubtful(KNOWN, now + secs(60)));
        }
        // From now on each that was said in a minute is said in two.
        let from = start + secs(60 * 99);
        let mut doubted = Vec::new();
        for minute in 1..10 {
            let now = from + secs(120 * minute);
            fresh.take(&word(99 + minute as i64), false, KNOWN, now);
            doubted.extend(fresh.is_doubtful(KNOWN, now).then_some(minute));
        }
        assert_eq!(doubted, [3, 4, 5, 6, 7, 8, 9]);
        // The same words again are no later.
        fresh.take(&word(50), false, KNOWN, from + secs(1300));
        assert!(fresh.is_doubtful(KNOWN, from + secs(1300)));
        // The rendez-vous node itself is believed, also when its clock was set back.
        fresh.take(&word(-30), true, KNOWN, from + secs(1400));
        assert!(!fresh.is_doubtful(KNOWN, from + secs(1500)));
    }

    #[test]
    fn what_was_so_has_to_come_soon() {
        let (authority, start) = (authority(), Instant::now());
        let mut fresh = Freshness::new(start);
        fresh.take(&said(&authority, 7, 6), true, KNOWN, start);
        fresh.take(&said(&authority, 9, 8), false, KNOWN, start + secs(2));
        assert!(!fresh.is_doubtful(KNOWN, start + secs(10)) && fresh.is_doubtful(KNOWN, start + secs(11)));
        assert!(!fresh.is_doubtful(Version { epoch: 1, number: 6 }, start + secs(11)));
    }
}
