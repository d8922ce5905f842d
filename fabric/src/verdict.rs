//! Why a rail carries the messages to a peer, and why the others do not.

use gridnet_core::endpoint::{Candidate, ACCEPTED};

use crate::config::{RailSelection, KNOWN_RAILS};

/// What is to be said of one rail on the way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the rail.
    pub rail: String,
    /// Whether it carries the messages.
    pub in_use: bool,
    /// Why, or why not: lower case, without a full stop.
    pub reason: String,
}

impl Verdict {
    /// The rails that were asked, in order, and those that the configuration excludes.
    pub(crate) fn all(candidates: &[Candidate], chosen: &str, allowed: &RailSelection) -> Vec<Verdict> {
        let asked = candidates.iter().map(|candidate| match &candidate.verdict {
            Ok(()) => Verdict::new(candidate.rail, true, "first in the order of preference that leads there"),
            Err(why) if candidate.rail == ACCEPTED => Verdict::new(chosen, true, why),
            Err(why) => Verdict::new(candidate.rail, false, why),
        });
        let excluded = KNOWN_RAILS.iter().filter(|rail| allowed.excludes(rail));
        asked.chain(excluded.map(|rail| Verdict::new(rail, false, "excluded by GRIDNET_RAILS"))).collect()
    }

    fn new(rail: &str, in_use: bool, reason: &str) -> Verdict {
        Verdict { rail: rail.to_owned(), in_use, reason: reason.to_owned() }
    }
}
