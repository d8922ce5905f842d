//! Notices peers that have ended while somebody else keeps their connections: a child that they have forked.
//!
//! All others are noticed at once, since their connections end. For these, a clock runs while there are links, and at each
//! tick the processes of some peers are looked at: one descriptor for all, instead of one for each.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::NodeId;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Twice in a second: a process that sleeps hardly notices.
const TICK: Duration = Duration::from_millis(500);
/// Ticks in which all peers are looked at. A look takes some two microseconds, which a polling process loses.
const ROUND: usize = 8;

/// Whose turn it is.
#[derive(Debug)]
pub struct Vigil {
    clock: TimerFd,
    is_running: bool,
    next: usize,
}

impl Vigil {
    /// Waits until there are links.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> Result<Vigil, Refusal> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .map_err(|e| Refusal::new(Error::System, format!("timerfd: {}", e.desc())))?;
        Ok(Vigil { clock, is_running: false, next: 0 })
    }

    /// Readable when it is time for [`Self::due`].
    pub fn clock(&self) -> &impl AsFd {
        &self.clock
    }

    /// There are links.
    pub fn begin(&mut self) {
        if !self.is_running {
            let every = Expiration::Interval(TimeSpec::from_duration(TICK));
            self.is_running = self.clock.set(every, TimerSetTimeFlags::empty()).is_ok();
        }
    }

    /// There are none any more.
    pub fn end(&mut self) {
        if self.is_running {
            self.is_running = self.clock.unset().is_err();
        }
    }

    /// Those of `links` that are to be looked at now.
    pub fn due(&mut self, links: &HashMap<NodeId, u32>) -> Vec<u32> {
        // The clock stands still until it is read. An error says that it has not struck.
        let _ = self.clock.wait();
        if self.next >= links.len() {
            self.next = 0;
        }
        let count = links.len().div_ceil(ROUND);
        let due = links.values().copied().skip(self.next).take(count).collect();
        self.next += count;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn all_have_their_turn_in_a_round() {
        let mut vigil = Vigil::new().unwrap();
        for count in [0, 1, 7, 8, 9, 100] {
            let node = |index: u32| NodeId::new([index as u8 + 1; 16]).unwrap();
            let links: HashMap<_, _> = (0..count).map(|index| (node(index), index)).collect();
            for _ in 0..3 {
                let seen: HashSet<u32> = (0..=ROUND).flat_map(|_| vigil.due(&links)).collect();
                assert_eq!(seen.len(), count as usize);
            }
        }
    }

    #[test]
    fn the_clock_runs_while_there_are_links() {
        let mut vigil = Vigil::new().unwrap();
        assert_eq!(vigil.clock.get().unwrap(), None);
        vigil.begin();
        assert!(vigil.clock.get().unwrap().is_some());
        vigil.end();
        assert_eq!(vigil.clock.get().unwrap(), None);
    }
}
