//! Pages for people.

use super::Names;
use gridnet::core::stats::PeerCounters;
use gridnet::page::{Activity, PageView, PeerView, WaitView, Who};
use gridnet::words;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn view(out: &mut impl Write, view: &PageView, names: &Names) -> io::Result<()> {
    writeln!(out, "{}, gridnet {}", title(&view.who), view.who.version)?;
    writeln!(
        out,
        "  node {}, user {}, open for {}",
        view.who.node,
        view.who.uid,
        duration(age_ns(view.who.incarnation))
    )?;
    configuration(out, &view.who)?;
    missing(out, &view.who)?;
    waits(out, view)?;
    activity(out, &view.activity)?;
    for peer in &view.peers {
        writeln!(out)?;
        self::peer(out, peer, names)?;
    }
    if view.more_peers > 0 {
        writeln!(out, "\nand {} more peers, which the page has no room for", view.more_peers)?;
    }
    Ok(())
}

/// A fabric in a few words.
fn title(who: &Who) -> String {
    let name = who.name.as_ref().map_or_else(|| "fabric".to_owned(), |name| format!("fabric {name}"));
    format!("{name} in process {} ({})", who.pid, who.program)
}

fn configuration(out: &mut impl Write, who: &Who) -> io::Result<()> {
    if who.config.is_empty() {
        return writeln!(out, "  configuration: all defaults");
    }
    writeln!(out, "  configuration that was set:")?;
    for s in &who.config {
        let default = if s.default.is_empty() { "empty" } else { &s.default };
        writeln!(out, "    {}={} (by the {}; default {default})", s.name, s.value, s.origin)?;
    }
    Ok(())
}

/// Rails that no peer can be reached by.
fn missing(out: &mut impl Write, who: &Who) -> io::Result<()> {
    who.missing.iter().try_for_each(|(rail, why)| writeln!(out, "  rail {rail} cannot be had: {why}"))
}

fn waits(out: &mut impl Write, view: &PageView) -> io::Result<()> {
    if view.waits.is_empty() {
        let ago = duration(view.activity.looked_ago_ns);
        writeln!(out, "  waits in no call; last looked at its descriptors {ago} ago")?;
    }
    for wait in &view.waits {
        writeln!(out, "  waits: {}, {}", wait_words(wait), view.who.wait_mode)?;
    }
    Ok(())
}

fn wait_words(wait: &WaitView) -> String {
    let how = if wait.asleep { "asleep" } else { "polling" };
    let most = wait.timeout_ns.map_or("without end".to_owned(), |ns| format!("at most {}", duration(ns)));
    format!("thread {} in {} for {}, {how}, {most}", wait.thread, wait.call, duration(wait.for_ns))
}

fn activity(out: &mut impl Write, a: &Activity) -> io::Result<()> {
    let posted = a.posted.map_or("unknown".to_owned(), |n| n.to_string());
    writeln!(
        out,
        "  now: {} sends under way, {posted} receives posted, {} coming in, {} unexpected ({} B)",
        a.sends, a.incoming, a.unexpected, a.unexpected_bytes
    )?;
    writeln!(
        out,
        "  so far: {} messages ({} B) sent, {} ({} B) received, {} operations failed, {} sleeps, {} wake-ups given",
        a.peers.messages_sent,
        a.peers.bytes_sent,
        a.peers.messages_received,
        a.peers.bytes_received,
        a.failures,
        a.sleeps,
        a.wakeups_sent
    )?;
    besides_messages(out, &a.peers)?;
    writeln!(out, "  peers: {} so far, {} of them gone", a.peers_total, a.peers_gone)
}

/// Operations on regions, and streams, if there were any.
fn besides_messages(out: &mut impl Write, c: &PeerCounters) -> io::Result<()> {
    words::regions(c).iter().chain(&words::streams(c)).try_for_each(|line| indented(out, line))
}

/// A line about a fabric or a peer, below its name.
fn indented(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "  {line}")
}

fn peer(out: &mut impl Write, peer: &PeerView, names: &Names) -> io::Result<()> {
    let name = names.of(&peer.node).map_or(String::new(), |name| format!(" {name}"));
    let pid = peer.pid.map_or(String::new(), |pid| format!(" in process {pid}"));
    write!(out, "peer {}{name}{pid}, node {}: {}", peer.peer, peer.node, peer.state)?;
    match &peer.error {
        Some((code, reason)) => writeln!(out, " ({code}): {reason}")?,
        None => writeln!(out)?,
    }
    if peer.torn {
        writeln!(out, "  its process was stopped while it wrote this: what follows may be mixed up")?;
    }
    peer.verdicts.iter().try_for_each(|verdict| indented(out, &words::verdict(verdict)))?;
    links(out, peer)?;
    let figures: Vec<String> = peer.figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
    writeln!(out, "  rail {}: {}", peer.rail, figures.join(", "))?;
    indented(out, &words::exchanged(&peer.counters))?;
    besides_messages(out, &peer.counters)?;
    peer.waiting.lines().iter().try_for_each(|line| indented(out, line))
}

/// Where the links lead, and what has become of them.
fn links(out: &mut impl Write, peer: &PeerView) -> io::Result<()> {
    for link in &peer.links {
        let [local, remote] = &link.ends;
        let time = link
            .round_trip_ns
            .map_or(String::new(), |ns| format!(", {} there and back when it came up", duration(ns)));
        let moved = link.moved.map_or(String::new(), words::moved);
        let security = words::security(link.security.as_deref());
        writeln!(out, "  {}{security}{time}{moved}", words::link(&link.rail, local, remote))?;
        for why in &link.tried {
            writeln!(out, "    tried before: {why}")?;
        }
    }
    words::breaks(peer.breaks, peer.replays).iter().try_for_each(|line| indented(out, line))?;
    match &peer.last_call {
        Some((code, reason)) => writeln!(out, "  last call failed ({code}): {reason}"),
        None => Ok(()),
    }
}

/// A time as people write it, in the unit that suits it.
pub(crate) fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        1_000_000_000..120_000_000_000 => format!("{:.1} s", ns as f64 / 1e9),
        _ => format!("{} min", ns / 60_000_000_000),
    }
}

fn age_ns(since: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (now.as_nanos() as u64).saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_suits_them() {
        for (ns, text) in [
            (5, "5 ns"),
            (1_500, "1.5 us"),
            (2_000_000, "2.0 ms"),
            (3_200_000_000, "3.2 s"),
            (7_200_000_000_000, "120 min"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }
}
