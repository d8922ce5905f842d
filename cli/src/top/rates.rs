//! Samples of pages, and rates by differences of two.

use crate::explain::{of_activity, of_peer, of_waits, of_who, Names};
use gridnet::core::stats::PeerCounters;
use gridnet::page::{Found, PageView};
use serde_json::{json, Value};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// All pages at one moment.
pub(super) struct Sample {
    pub(super) views: Vec<PageView>,
    at: Instant,
}

impl Sample {
    /// Reads pages; one that cannot be read any more is left out.
    pub(super) fn take(pages: &[Found]) -> Sample {
        Sample { views: pages.iter().filter_map(|page| page.read().ok()).collect(), at: Instant::now() }
    }

    /// Rates of a fabric, and of one of its peers if a node is given, since `before`; `None` when it was not there.
    pub(super) fn rates(&self, before: Option<&Sample>, view: &PageView, peer: Option<u32>) -> Option<Rates> {
        let before = before?;
        let span = self.at.duration_since(before.at);
        let old = before.views.iter().find(|old| old.who.node == view.who.node)?;
        let of = |view: &PageView| match peer {
            None => Some(view.activity.peers),
            Some(number) => view.peers.iter().find(|p| p.peer == number).map(|p| p.counters),
        };
        Some(Rates::between(&of(old)?, &of(view)?, span))
    }
}

/// What happens in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) messages_sent: f64,
    pub(super) messages_received: f64,
    /// Of messages and streams.
    pub(super) bytes_sent: f64,
    pub(super) bytes_received: f64,
    /// Puts, gets and atomic operations on regions of peers.
    pub(super) region_operations: f64,
    /// Bytes of puts and gets.
    pub(super) region_bytes: f64,
}

impl Rates {
    fn between(old: &PeerCounters, new: &PeerCounters, span: Duration) -> Rates {
        // Counters only grow; in a page that was scribbled over they may do anything.
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / span.as_secs_f64().max(1e-9);
        Rates {
            messages_sent: rate(old.messages_sent, new.messages_sent),
            messages_received: rate(old.messages_received, new.messages_received),
            bytes_sent: rate(old.bytes_sent, new.bytes_sent)
                + rate(old.stream_bytes_sent, new.stream_bytes_sent),
            bytes_received: rate(old.bytes_received, new.bytes_received)
                + rate(old.stream_bytes_received, new.stream_bytes_received),
            region_operations: rate(old.region_operations(), new.region_operations()),
            region_bytes: rate(old.bytes_put, new.bytes_put) + rate(old.bytes_got, new.bytes_got),
        }
    }

    /// What rows are sorted by.
    pub(super) fn weight(&self) -> f64 {
        let messages = self.bytes_sent + self.bytes_received + self.messages_sent + self.messages_received;
        messages + self.region_operations + self.region_bytes
    }

    fn json(self) -> Value {
        json!({
            "messages_sent": self.messages_sent,
            "messages_received": self.messages_received,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "region_operations": self.region_operations,
            "region_bytes": self.region_bytes,
        })
    }
}

/// One refresh for programs. Rates are per second, and null for what was not there at the refresh before.
pub(super) fn json(now: &Sample, before: Option<&Sample>, names: &Names) -> Value {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fabric = |view: &PageView| {
        let mut all = of_who(&view.who);
        all["activity"] = of_activity(&view.activity);
        all["waits"] = of_waits(&view.waits);
        all["rates"] = now.rates(before, view, None).map_or(Value::Null, Rates::json);
        let peer = |peer: &gridnet::page::PeerView| {
            let mut one = of_peer(peer, names);
            one["rates"] = now.rates(before, view, Some(peer.peer)).map_or(Value::Null, Rates::json);
            one
        };
        all["peers"] = view.peers.iter().map(peer).collect();
        all["more_peers"] = view.more_peers.into();
        all
    };
    json!({
        "time_ns": since_epoch.as_nanos() as u64,
        "interval_ns": before.map(|before| now.at.duration_since(before.at).as_nanos() as u64),
        "fabrics": now.views.iter().map(fabric).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_per_second_and_never_negative() {
        let old = PeerCounters { messages_sent: 10, bytes_sent: 100, ..PeerCounters::default() };
        let new = PeerCounters { messages_sent: 30, bytes_sent: 50, ..PeerCounters::default() };
        let rates = Rates::between(&old, &new, Duration::from_secs(2));
        assert_eq!((rates.messages_sent, rates.bytes_sent, rates.messages_received), (10.0, 0.0, 0.0));
        let new = PeerCounters { puts: 1, gets: 2, atomics: 3, bytes_put: 10, bytes_got: 30, ..old };
        let rates = Rates::between(&old, &new, Duration::from_secs(2));
        assert_eq!((rates.region_operations, rates.region_bytes, rates.messages_sent), (3.0, 20.0, 0.0));
        let new = PeerCounters { bytes_sent: 104, stream_bytes_sent: 6, ..old };
        assert_eq!(Rates::between(&old, &new, Duration::from_secs(2)).bytes_sent, 5.0);
        assert!(Rates::between(&old, &new, Duration::ZERO).messages_sent.is_finite());
    }
}
