//! Where the links to a peer lead, how they were found, and what waits: the end of what [`Fabric::explain`] says.

use std::fmt::Write as _;

use gridnet_core::ledger::PeerGauges;
use gridnet_core::rail::{Path, PeerId};
use gridnet_core::stats::PeerCounters;

use crate::fabric::Fabric;

impl Fabric {
    pub(crate) fn explain_path(&self, peer: PeerId, text: &mut String) {
        // Writing to a string does not fail.
        for (rail, path) in self.engine.paths(peer) {
            let _ = writeln!(text, "link {rail}{}", words(&path));
            for why in &path.tried {
                let _ = writeln!(text, "tried {rail} {why}");
            }
        }
        if let Some(why) = self.engine.last_call(peer) {
            let _ = writeln!(text, "last call failed: {}", why.reason);
        }
        if let Some(counters) = self.engine.peer_counters(peer) {
            exchanged(&counters, text);
        }
        if let Some(gauges) = self.engine.gauges(peer) {
            waiting(gauges, text);
        }
    }
}

fn words(path: &Path) -> String {
    let mut words = String::new();
    for (word, value) in [("from", &path.local), ("to", &path.remote)] {
        if let Some(value) = value {
            let _ = write!(words, " {word} {value}");
        }
    }
    if let Some(ns) = path.round_trip_ns {
        let _ = write!(words, ", {} us there and back", ns as f64 / 1000.0);
    }
    if let Some([sent, received]) = path.moved {
        let _ = write!(words, ", {sent} B sent, {received} B received");
    }
    words
}

fn exchanged(c: &PeerCounters, text: &mut String) {
    let _ = writeln!(
        text,
        "sent {} messages ({} B; {} whole, {} announced), received {} ({} B; {} unexpected)",
        c.messages_sent,
        c.bytes_sent,
        c.sends_eager,
        c.sends_rendezvous,
        c.messages_received,
        c.bytes_received,
        c.unexpected_total
    );
    if c.region_operations() > 0 || c.served > 0 {
        let _ = writeln!(
            text,
            "regions: {} puts, {} gets, {} atomic operations, {} of them by messages; served {}",
            c.puts, c.gets, c.atomics, c.by_message, c.served
        );
    }
}

fn waiting(gauges: &PeerGauges, text: &mut String) {
    let _ = writeln!(
        text,
        "waiting: {} to be sent, {} large ones under way, {} unexpected ({} B); {} operations failed",
        gauges.pending.value(),
        gauges.bulk.value(),
        gauges.unexpected.value(),
        gauges.unexpected_bytes.value(),
        gauges.failures.value()
    );
    if gauges.stopped.value() != 0 {
        text.push_str("it takes no messages now: its store of unexpected messages is full\n");
    }
    if gauges.stopping.value() != 0 {
        text.push_str("it was told to stop: the store of unexpected messages here is full\n");
    }
}
