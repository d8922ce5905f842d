//! A refresh for people: the fabrics, then their peers, the busiest first.

use super::rates::{Rates, Sample};
use crate::explain::{duration, Names};
use crate::text;
use gridnet::page::{PageView, PeerView};

/// The lines of one refresh.
pub(super) fn lines(now: &Sample, before: Option<&Sample>, names: &Names) -> Vec<String> {
    if now.views.is_empty() {
        return vec!["no fabric of this user is open here".to_owned()];
    }
    let mut fabrics: Vec<(f64, Vec<String>)> = Vec::new();
    let mut peers: Vec<(f64, Vec<String>)> = Vec::new();
    let mut hidden = 0u64;
    for view in &now.views {
        let rates = now.rates(before, view, None);
        fabrics.push((weight(rates), fabric_row(view, rates)));
        hidden = view.more_peers.saturating_add(hidden);
        for peer in &view.peers {
            let rates = now.rates(before, view, Some(peer.peer));
            peers.push((weight(rates), peer_row(view, peer, rates, names)));
        }
    }
    let mut lines = table(&FABRIC_HEADING, fabrics);
    if !peers.is_empty() {
        lines.push(String::new());
        lines.append(&mut table(&PEER_HEADING, peers));
    }
    if hidden > 0 {
        lines.push(format!("and {hidden} more peers"));
    }
    lines
}

const FABRIC_HEADING: [&str; 15] = [
    "pid", "fabric", "peers", "gone", "out/s", "in/s", "outB/s", "inB/s", "reg/s", "regB/s", "sends",
    "recvs", "unexp", "errors", "waits",
];

const PEER_HEADING: [&str; 15] = [
    "pid", "fabric", "peer", "rail", "state", "out/s", "in/s", "outB/s", "inB/s", "reg/s", "regB/s",
    "pending", "large", "unexp", "errors",
];

fn fabric_row(view: &PageView, rates: Option<Rates>) -> Vec<String> {
    let a = &view.activity;
    let mut row = vec![
        view.who.pid.to_string(),
        label(view),
        a.peers_total.saturating_sub(a.peers_gone).to_string(),
        a.peers_gone.to_string(),
    ];
    row.extend(rate_cells(rates));
    row.extend([
        a.sends.to_string(),
        a.posted.map_or("?".to_owned(), |n| n.to_string()),
        a.unexpected.to_string(),
        a.failures.to_string(),
        waits(view),
    ]);
    row
}

fn peer_row(view: &PageView, peer: &PeerView, rates: Option<Rates>, names: &Names) -> Vec<String> {
    let name = names.of(&peer.node).map(str::to_owned);
    let pid = peer.pid.map(|pid| pid.to_string());
    let known: Vec<String> = [pid, name].into_iter().flatten().collect();
    let who = if known.is_empty() { peer.node.chars().take(8).collect() } else { known.join(" ") };
    let stopped = if peer.waiting.stopped { ", stopped" } else { "" };
    let mut row = vec![
        view.who.pid.to_string(),
        label(view),
        who,
        peer.rail.clone(),
        format!("{}{stopped}", peer.state),
    ];
    row.extend(rate_cells(rates));
    let w = &peer.waiting;
    row.extend([w.pending, w.bulk, w.unexpected, w.failures].map(|n| n.to_string()));
    row
}

fn waits(view: &PageView) -> String {
    let wait = |w: &gridnet::page::WaitView| {
        let how = if w.asleep { "asleep" } else { "polling" };
        format!("{} {how} {}", w.call, duration(w.for_ns))
    };
    match view.waits.as_slice() {
        [] => "-".to_owned(),
        [one] => wait(one),
        [one, others @ ..] => format!("{} and {} more", wait(one), others.len()),
    }
}

fn label(view: &PageView) -> String {
    view.who.name.clone().unwrap_or_else(|| view.who.program.clone())
}

fn rate_cells(rates: Option<Rates>) -> [String; 6] {
    let Some(r) = rates else { return ["-"; 6].map(str::to_owned) };
    let messages = [r.messages_sent, r.messages_received, r.bytes_sent, r.bytes_received].map(short);
    let [out, into, out_bytes, in_bytes] = messages;
    [out, into, out_bytes, in_bytes, short(r.region_operations), short(r.region_bytes)]
}

/// A number in four or five characters.
fn short(number: f64) -> String {
    let unit = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match unit.iter().find(|(size, _)| number >= *size) {
        Some((size, name)) => format!("{:.1}{name}", number / size),
        None => format!("{number:.0}"),
    }
}

fn weight(rates: Option<Rates>) -> f64 {
    rates.map_or(0.0, |rates| rates.weight())
}

/// Sorted, the heaviest first; equal ones stay in their order.
fn table(heading: &[&str], mut rows: Vec<(f64, Vec<String>)>) -> Vec<String> {
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = text::columns(&mut out, heading, &rows);
    String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (1500.0, "1.5k"), (2.5e9, "2.5G")] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn the_busiest_row_is_first() {
        let rows = vec![(1.0, vec!["slow".to_owned()]), (2.0, vec!["fast".to_owned()])];
        assert_eq!(table(&["x"], rows), ["x", "fast", "slow"]);
    }
}
