//! Lines for people about the conversation with a peer: the same whether the program asks
//! ([`Fabric::explain`](crate::Fabric::explain)) or somebody looks from outside (`gridnet explain`).

use gridnet_core::ledger::PeerGauges;
use gridnet_core::stats::PeerCounters;

use crate::verdict::Verdict;

/// A rail, and why it is used, or not.
pub fn verdict(verdict: &Verdict) -> String {
    let used = if verdict.in_use { "in use" } else { "not used" };
    format!("rail {} {used}: {}", verdict.rail, verdict.reason)
}

/// A link over a rail, and its addresses; what is not known is empty.
pub fn link(rail: &str, local: &str, remote: &str) -> String {
    let ends = [("from", local), ("to", remote)].into_iter().filter(|(_, at)| !at.is_empty());
    let ends: String = ends.map(|(word, at)| format!(" {word} {at}")).collect();
    format!("link {rail}{ends}")
}

/// How what goes over a link is protected, where it leaves the host.
pub fn security(how: Option<&str>) -> String {
    how.map_or(String::new(), |how| format!(", {how}"))
}

/// How much a path has carried, sent and received.
pub fn moved([sent, received]: [u64; 2]) -> String {
    format!(", {sent} B sent, {received} B received")
}

/// How often the path has broken, and how many frames were sent again; nothing where it never has.
pub fn breaks(breaks: u64, replays: u64) -> Option<String> {
    (breaks > 0).then(|| format!("path broken {breaks} times, {replays} frames sent again"))
}

/// Messages that were exchanged.
pub fn exchanged(c: &PeerCounters) -> String {
    format!(
        "sent {} messages ({} B; {} whole, {} announced), received {} ({} B; {} unexpected)",
        c.messages_sent,
        c.bytes_sent,
        c.sends_eager,
        c.sends_rendezvous,
        c.messages_received,
        c.bytes_received,
        c.unexpected_total
    )
}

/// Operations on regions, if there were any.
pub fn regions(c: &PeerCounters) -> Vec<String> {
    let there = (c.region_operations() > 0).then(|| {
        format!(
            "on regions there: {} puts ({} B), {} gets ({} B), {} atomic operations; {} of them by messages",
            c.puts, c.bytes_put, c.gets, c.bytes_got, c.atomics, c.by_message
        )
    });
    let here = (c.served > 0)
        .then(|| format!("on regions here: {} operations by messages ({} B)", c.served, c.bytes_served));
    there.into_iter().chain(here).collect()
}

/// Streams, if there were any.
pub fn streams(c: &PeerCounters) -> Option<String> {
    (c.streams > 0).then(|| {
        let [sent, received] = [c.stream_bytes_sent, c.stream_bytes_received];
        format!("over {} streams: {sent} B sent, {received} B received", c.streams)
    })
}

/// What waits in the conversation with a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages that wait to be sent.
    pub pending: u64,
    /// Large messages of which the peer has asked for pieces.
    pub bulk: u64,
    /// Its messages in the unexpected store.
    pub unexpected: u64,
    /// Their bytes.
    pub unexpected_bytes: u64,
    /// Operations that ended with an error.
    pub failures: u64,
    /// The peer takes no messages now.
    pub stopped: bool,
    /// It was told to send none.
    pub stopping: bool,
}

impl Waiting {
    /// What is to be said of it.
    pub fn lines(&self) -> Vec<String> {
        let Waiting { pending, bulk, unexpected, unexpected_bytes, failures, .. } = self;
        let mut lines = vec![format!(
            "waiting: {pending} to be sent, {bulk} large ones under way, {unexpected} unexpected ({unexpected_bytes} B); \
             {failures} operations failed"
        )];
        if self.stopped {
            lines.push("it takes no messages now: its store of unexpected messages is full".to_owned());
        }
        if self.stopping {
            lines.push("it was told to stop: the store of unexpected messages here is full".to_owned());
        }
        lines
    }
}

impl From<&PeerGauges> for Waiting {
    fn from(gauges: &PeerGauges) -> Waiting {
        Waiting {
            pending: gauges.pending.value(),
            bulk: gauges.bulk.value(),
            unexpected: gauges.unexpected.value(),
            unexpected_bytes: gauges.unexpected_bytes.value(),
            failures: gauges.failures.value(),
            stopped: gauges.stopped.value() != 0,
            stopping: gauges.stopping.value() != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_on_regions_are_told_if_there_were_any() {
        let mut counters = PeerCounters { messages_sent: 9, ..PeerCounters::default() };
        assert!(regions(&counters).is_empty());
        (counters.puts, counters.bytes_put, counters.atomics, counters.by_message) = (2, 16, 3, 1);
        let there =
            "on regions there: 2 puts (16 B), 0 gets (0 B), 3 atomic operations; 1 of them by messages";
        assert_eq!(regions(&counters), [there]);
        (counters.served, counters.bytes_served) = (4, 8);
        assert_eq!(regions(&counters), [there, "on regions here: 4 operations by messages (8 B)"]);
    }

    #[test]
    fn streams_are_told_if_there_were_any() {
        assert_eq!(streams(&PeerCounters { bytes_sent: 9, ..PeerCounters::default() }), None);
        let some = PeerCounters {
            streams: 2,
            stream_bytes_sent: 30,
            stream_bytes_received: 4,
            ..Default::default()
        };
        assert_eq!(streams(&some).as_deref(), Some("over 2 streams: 30 B sent, 4 B received"));
    }

    #[test]
    fn what_waits_and_why_is_told() {
        let lines =
            |stopped, stopping| Waiting { pending: 3, stopped, stopping, ..Waiting::default() }.lines();
        let first = "waiting: 3 to be sent, 0 large ones under way, 0 unexpected (0 B); 0 operations failed";
        assert_eq!(lines(false, false), [first]);
        assert!(lines(true, false)[1].starts_with("it takes no messages now"));
        assert!(lines(false, true)[1].starts_with("it was told to stop"));
        assert_eq!(lines(true, true).len(), 3);
    }

    #[test]
    fn of_a_link_only_the_ends_are_told_that_are_known() {
        assert_eq!(link("tcp", "10.0.0.1:7", "10.0.0.2:8"), "link tcp from 10.0.0.1:7 to 10.0.0.2:8");
        assert_eq!(link("shm", "", ""), "link shm");
        assert_eq!(
            (breaks(0, 0), breaks(2, 5).as_deref()),
            (None, Some("path broken 2 times, 5 frames sent again"))
        );
    }
}
