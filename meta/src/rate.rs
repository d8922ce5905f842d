//! How often somebody may ask: a bucket of tokens for each, which fills evenly.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Callers that are remembered; beyond, those whose buckets are full are forgotten.
const CALLERS_MAX: usize = 4096;

/// Buckets of one second's tokens.
#[derive(Debug)]
pub(crate) struct Rates<Caller> {
    per_second: u32,
    callers_max: usize,
    /// When the bucket of a caller will be full, unless it asks again.
    full_at: HashMap<Caller, Instant>,
}

impl<Caller: Eq + Hash> Rates<Caller> {
    pub(crate) fn new(per_second: u32) -> Rates<Caller> {
        Rates { per_second: per_second.max(1), callers_max: CALLERS_MAX, full_at: HashMap::new() }
    }

    /// The same, for so many callers.
    pub(crate) fn callers(self, callers_max: usize) -> Rates<Caller> {
        Rates { callers_max, ..self }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allows(&mut self, caller: Caller, now: Instant) -> bool {
        if self.full_at.len() >= self.callers_max && !self.full_at.contains_key(&caller) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.callers_max {
                return false;
            }
        }
        let full_at = self.full_at.entry(caller).or_insert(now);
        let next = (*full_at).max(now) + Duration::from_secs(1) / self.per_second;
        if next > now + Duration::from_secs(1) {
            return false;
        }
        *full_at = next;
        true
    }

    /// Puts a token back that was taken.
    pub(crate) fn give_back(&mut self, caller: &Caller) {
        if let Some(full_at) = self.full_at.get_mut(caller) {
            // A bucket that is more than full is taken for a full one.
            *full_at = full_at.checked_sub(Duration::from_secs(1) / self.per_second).unwrap_or(*full_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_so_many_a_second() {
        let (mut rates, start) = (Rates::new(10), Instant::now());
        let count = |rates: &mut Rates<u8>, caller, at| (0..100).filter(|_| rates.allows(caller, at)).count();
        assert_eq!(count(&mut rates, 1, start), 10);
        assert_eq!(count(&mut rates, 1, start), 0);
        assert_eq!(count(&mut rates, 2, start), 10);
        assert_eq!(count(&mut rates, 1, start + Duration::from_millis(350)), 3);
        assert_eq!(count(&mut rates, 1, start + Duration::from_secs(60)), 10, "no more is saved up");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut rates, start) = (Rates::new(10), Instant::now());
        let allowed = (0..2 * CALLERS_MAX).filter(|caller| rates.allows(*caller, start)).count();
        assert_eq!((allowed, rates.full_at.len()), (CALLERS_MAX, CALLERS_MAX));
        assert!(rates.allows(usize::MAX, start + Duration::from_secs(1)), "full buckets are forgotten");
        assert_eq!(rates.full_at.len(), 1);
    }
}
