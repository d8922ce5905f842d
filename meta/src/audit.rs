//! Refusals, as those who run a session see them: a line of the log each, the last ones kept, and counters.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::error::Refusal;
use crate::strangers::Lines;

/// Refusals of strangers that are kept, and of others.
const KEPT: usize = 256;
/// Bytes of a text of a stranger that are kept.
const TEXT_BYTES_MAX: usize = 200;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, as RFC 3339 writes it.
    pub at: String,
    /// Who: an address, and the node where it is known.
    pub who: String,
    /// Name of the reason.
    pub refusal: String,
    /// What was said.
    pub why: String,
}

/// The last refusals, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Of those of whom nothing was known.
    strangers: VecDeque<Line>,
    /// Of all others.
    known: VecDeque<Line>,
    /// Lines of those of whom nothing is known.
    limit: Lines,
    counts: BTreeMap<Refusal, u64>,
}

impl Audit {
    /// Notes a refusal.
    pub(crate) fn refused(&mut self, who: String, refusal: Refusal, why: &str, now: Moment) {
        self.note(who, refusal, why, now, refusal == Refusal::Stranger);
    }

    /// Notes a refusal of somebody of whom only the address is known, unless there are too many lines of its network.
    pub(crate) fn refused_at(
        &mut self,
        from: SocketAddr,
        refusal: Refusal,
        why: &str,
        (now, clock): (Instant, Moment),
    ) {
        match self.limit.next(from.ip(), now) {
            None => self.count(refusal),
            Some(rest) => {
                let is_anybody = matches!(refusal, Refusal::Stranger | Refusal::Rate);
                self.note(from.to_string(), refusal, &format!("{why}{rest}"), clock, is_anybody);
            }
        }
    }

    /// Notes a refusal of a process of this host of which nothing more is known, unless there are too many lines of such.
    pub(crate) fn refused_here(
        &mut self,
        who: String,
        refusal: Refusal,
        why: &str,
        (now, clock): (Instant, Moment),
    ) {
        match self.limit.next(Ipv4Addr::LOCALHOST.into(), now) {
            None => self.count(refusal),
            Some(rest) => self.note(who, refusal, &format!("{why}{rest}"), clock, true),
        }
    }

    fn note(&mut self, who: String, refusal: Refusal, why: &str, now: Moment, is_anybody: bool) {
        self.count(refusal);
        let why: String = why.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
        let name = refusal.name();
        tracing::warn!(target: "gridnet::audit", "refused {who} {name}: {why}");
        // Strangers do not push out what members and tickets are refused for.
        let kept = if is_anybody { &mut self.strangers } else { &mut self.known };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Line { at: now.to_string(), who, refusal: name.to_owned(), why });
    }

    fn count(&mut self, refusal: Refusal) {
        *self.counts.entry(refusal).or_default() += 1;
    }

    /// How many were refused for each reason, with those of which there is no line.
    pub(crate) fn counts(&self) -> &BTreeMap<Refusal, u64> {
        &self.counts
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.strangers.iter().chain(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_so_many_lines_and_pushes_out_none_of_members() {
        let (mut audit, now) = (Audit::default(), (Instant::now(), Moment::from_unix(0)));
        audit.refused("node 7".into(), Refusal::Ticket, "before", now.1);
        for port in 1..1000 {
            audit.refused_at(SocketAddr::from(([127, 0, 0, 9], port)), Refusal::Rate, "too many", now);
        }
        audit.refused_at(SocketAddr::from(([10, 0, 0, 9], 1)), Refusal::Stranger, "no TLS", now);
        let whys: Vec<&str> = audit.lines().map(|line| line.why.as_str()).collect();
        assert_eq!((whys.len(), whys[10], whys[11]), (12, "no TLS (989 more had no line)", "before"));
        let counted = [(Refusal::Ticket, 1), (Refusal::Rate, 999), (Refusal::Stranger, 1)];
        assert_eq!(*audit.counts(), counted.into(), "each, with a line or without");
    }

    #[test]
    fn processes_of_this_host_have_so_many_lines_too() {
        let (mut audit, now) = (Audit::default(), (Instant::now(), Moment::from_unix(0)));
        for pid in 1..1000 {
            audit.refused_here(format!("process {pid}"), Refusal::Stranger, "no proof", now);
        }
        audit.refused_at(SocketAddr::from(([10, 0, 0, 9], 1)), Refusal::Stranger, "no TLS", now);
        let whys: Vec<&str> = audit.lines().map(|line| line.why.as_str()).collect();
        assert_eq!((whys.len(), whys[0], whys[10]), (11, "no proof", "no TLS (989 more had no line)"));
        assert_eq!(*audit.counts(), [(Refusal::Stranger, 1000)].into());
    }

    #[test]
    fn what_strangers_say_is_bounded_and_cannot_forge_lines() {
        let mut audit = Audit::default();
        let text = format!("first\nrefused 10.0.0.1 secret: \x1b[31m{}", "x".repeat(5000));
        for _ in 0..1000 {
            audit.refused("10.9.9.9:1".into(), Refusal::Malformed, &text, Moment::from_unix(0));
        }
        assert_eq!(audit.lines().count(), KEPT);
        let line = audit.lines().next().unwrap();
        assert!(!line.why.contains(['\n', '\x1b']) && line.why.len() <= TEXT_BYTES_MAX);
        assert_eq!((line.at.as_str(), line.refusal.as_str()), ("1970-01-01T00:00:00Z", "malformed"));
    }
}
