//! Calls of peers whose link has broken: bounded in time, since other rails wait for how they end.
//!
//! The first call of a peer is not: a process that is stopped answers when it goes on, and there is nothing better to do.

use gridnet_core::error::Error;
use gridnet_core::rail::{Refusal, Sink};
use gridnet_core::time::Time;

use crate::rail::ShmRail;

/// How long a peer that has had a link may take to answer. One that is at work needs microseconds.
const ANSWER_NS: u64 = 1_000_000_000;

/// A call of a peer that has had a link before.
#[derive(Debug)]
pub(crate) struct Repeat {
    link: u32,
    /// When it was looked at first.
    since: Option<Time>,
}

impl Repeat {
    pub(crate) fn new(link: u32) -> Repeat {
        Repeat { link, since: None }
    }

    /// When it has to be looked at.
    pub(crate) fn deadline(&self) -> Time {
        self.since.map_or(Time(0), |since| since.after(ANSWER_NS + 1))
    }

    fn is_late(&mut self, now: Time) -> bool {
        now.since(*self.since.get_or_insert(now)) > ANSWER_NS
    }
}

impl ShmRail {
    /// Ends calls that are not answered in time: the peer is there, since the system has its socket, and is slow. Returns how
    /// many there were.
    pub(crate) fn end_late_calls<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        let mut ended = 0;
        for at in (0..self.repeats.len()).rev() {
            let repeat = &mut self.repeats[at];
            let (link, is_late) = (repeat.link, repeat.is_late(now));
            let found = &self.links[link as usize];
            let waits = !found.over && found.live.is_none() && found.kept.is_none();
            if waits && !is_late {
                continue;
            }
            self.repeats.swap_remove(at);
            if waits {
                ended += 1;
                self.finish(link, Refusal::new(Error::Timeout, "the peer does not answer"), sink);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::{open_rail, Open, Scratch};
    use gridnet_core::rail::{PeerId, Rail};

    #[test]
    fn a_call_of_one_that_had_a_link_ends_in_time() {
        let scratch = Scratch::new("repeat");
        let (mut caller, mut called) = (open_rail(&scratch.0, 1), open_rail(&scratch.0, 2));
        let address = called.config.local;
        let (peer, mut sink, mut other) = (PeerId::new(3), Open::default(), Open::default());
        let first = caller.connect(peer, &address).unwrap();
        caller.maintain(Time(0), &mut sink);
        assert_eq!(caller.deadline(), None, "the first call may take as long as it likes");
        while other.up + sink.up < 2 {
            called.maintain(Time(0), &mut other);
            caller.maintain(Time(0), &mut sink);
        }
        caller.fence(first);
        // Nobody looks after the other rail: its process is stopped.
        caller.connect(peer, &address).unwrap();
        let second = 1_000_000_000;
        caller.maintain(Time(5 * second), &mut sink);
        assert_eq!((caller.deadline(), sink.down.len()), (Some(Time(6 * second + 1)), 0));
        caller.maintain(Time(6 * second), &mut sink);
        assert_eq!(sink.down, [], "it has that long");
        caller.maintain(Time(6 * second + 1), &mut sink);
        assert_eq!((sink.down.as_slice(), caller.deadline()), ([Error::Timeout].as_slice(), None));
        // It goes on: what was called for too late comes to nothing, and the next call to a link.
        for _ in 0..100 {
            called.maintain(Time(0), &mut other);
        }
        caller.connect(peer, &address).unwrap();
        for _ in 0..1000 {
            called.maintain(Time(0), &mut other);
            caller.maintain(Time(7 * second), &mut sink);
        }
        assert_eq!(sink.up, 2);
        assert_eq!(caller.deadline(), None);
    }
}
