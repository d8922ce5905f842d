//! When callers are looked at again after descriptors have run out.
//!
//! Whoever has called stays in the system's line, also when it has gone meanwhile: so it is tried again, whatever watches, as long as
//! there is no descriptor for it; soon at first, as one may be had in a moment, and then more seldom, as each time costs calls, a line of
//! the log and the sleep of whoever sleeps.

use gridnet_core::time::Time;

/// The first pause,
const SHORTEST_NS: u64 = 100_000_000;
/// and the longest: a caller is not to wait much longer than until there are descriptors again.
const LONGEST_NS: u64 = 400_000_000;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Relisten {
    /// When it is tried again; zero where the pause has not begun.
    at: Option<Time>,
    /// The last pause; zero when there has been none since the last success.
    pause_ns: u64,
}

impl Relisten {
    /// There was no descriptor.
    pub(crate) fn fail(&mut self) {
        self.at = Some(Time(0));
    }

    /// There was one.
    pub(crate) fn succeed(&mut self) {
        self.pause_ns = 0;
    }

    /// Whether it is to be tried again now; once after each failure.
    pub(crate) fn is_due(&mut self, now: Time) -> bool {
        if self.at == Some(Time(0)) {
            self.pause_ns = (2 * self.pause_ns).clamp(SHORTEST_NS, LONGEST_NS);
            self.at = Some(now.after(self.pause_ns));
        }
        self.at.take_if(|at| *at <= now).is_some()
    }

    /// When [`Self::is_due`] has to be asked.
    pub(crate) fn next_time(&self) -> Option<Time> {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses in milliseconds until it is due, of so many failures.
    fn pauses(relisten: &mut Relisten, now: &mut Time, failures: usize) -> Vec<u64> {
        let mut pauses = Vec::new();
        for _ in 0..failures {
            relisten.fail();
            assert_eq!(relisten.next_time(), Some(Time(0)));
            assert!(!relisten.is_due(*now));
            let at = relisten.next_time().expect("it is tried again");
            assert!(!relisten.is_due(Time(at.0 - 1)));
            assert!(relisten.is_due(at));
            assert!(!relisten.is_due(at.after(LONGEST_NS)), "twice after one failure");
            pauses.push(at.since(*now) / 1_000_000);
            *now = at;
        }
        pauses
    }

    #[test]
    fn callers_that_find_no_descriptor_are_looked_at_ever_more_seldom() {
        let (mut relisten, mut now) = (Relisten::default(), Time(7));
        assert!(!relisten.is_due(now) && relisten.next_time().is_none());
        assert_eq!(pauses(&mut relisten, &mut now, 5), [100, 200, 400, 400, 400]);
        relisten.succeed();
        assert_eq!(pauses(&mut relisten, &mut now, 2), [100, 200]);
    }
}
