//! What `gridnet session` prints.

use crate::text;
use gridnet::core::wire::NodeId;
use gridnet_meta::directory::{Departure, Entry, Event};
use gridnet_meta::member::{Connection, Member, INSECURE};
use gridnet_meta::rendezvous::{NodeStatus, Status};
use gridnet_meta::store::Store;
use gridnet_meta::ticket::Ticket;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// What to do with a session that was just made.
pub(super) fn made(out: &mut impl Write, store: &Store, made: &Ticket) -> io::Result<()> {
    let dir = store.dir().display();
    writeln!(out, "session {} in {dir}", store.session())?;
    writeln!(out, "authority {}", made.authority)?;
    writeln!(out, "serve it:      gridnet session serve --dir {dir}")?;
    ticket(out, &store.dir().join("ticket"), made)
}

/// Where a ticket is.
pub(super) fn ticket(out: &mut impl Write, file: &Path, ticket: &Ticket) -> io::Result<()> {
    writeln!(out, "ticket:        {}, number {}, until {}", file.display(), ticket.id, ticket.expires)?;
    if ticket.insecure {
        writeln!(out, "{INSECURE}")?;
    }
    writeln!(out, "keep it as you keep a password: whoever has the file can join")
}

/// Who is there, and who was refused.
pub(super) fn status(out: &mut impl Write, status: &Status, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, status)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "session {}: {} nodes, {} joined, {} revoked",
        status.session,
        status.nodes.len(),
        status.joined,
        status.revoked.len()
    )?;
    if status.insecure {
        writeln!(out, "{INSECURE}")?;
    }
    let nodes: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|n| vec![n.node.clone(), n.cluster.clone(), n.label.clone(), n.since.clone(), route(n)])
        .collect();
    text::columns(out, &["node", "cluster", "label", "since", "route"], &nodes)?;
    if !status.leaders.is_empty() {
        writeln!(out)?;
        let leaders = status.leaders.iter();
        let leaders = leaders
            .map(|l| (l, l.nodes.to_string(), l.addresses.join(", ")))
            .map(|(l, nodes, at)| vec![l.cluster.clone(), l.node.clone(), nodes, counts(&l.refusals), at]);
        let titles = ["cluster", "leader", "nodes", "refused", "listens at"];
        text::columns(out, &titles, &leaders.collect::<Vec<_>>())?;
    }
    if !status.links.is_empty() {
        writeln!(out)?;
        let links =
            status.links.iter().map(|link| vec![link.node.clone(), link.from.clone(), link.stack.clone()]);
        text::columns(out, &["link of", "from", "stack"], &links.collect::<Vec<_>>())?;
    }
    let packets = status.packets;
    writeln!(out, "\npackets: {} passed on, {} could not be", packets.passed_on, packets.undelivered)?;
    if !status.relayed.is_empty() {
        writeln!(out)?;
        let relayed = status.relayed.iter();
        let relayed = relayed.map(|r| vec![r.node.clone(), r.bytes.to_string(), r.refused.to_string()]);
        text::columns(out, &["relayed of", "bytes", "parts refused"], &relayed.collect::<Vec<_>>())?;
    }
    if !status.refused.is_empty() {
        writeln!(out, "\nrefused: {}", counts(&status.refusals))?;
        let lines: Vec<Vec<String>> = status
            .refused
            .iter()
            .map(|line| vec![line.at.clone(), line.who.clone(), line.refusal.clone(), line.why.clone()])
            .collect();
        text::columns(out, &["at", "who", "reason", "what"], &lines)?;
    }
    Ok(())
}

/// How many were refused, by reason.
fn counts(refusals: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = refusals.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if counts.is_empty() {
        "0".into()
    } else {
        counts.join(", ")
    }
}

/// How a node is reached.
fn route(node: &NodeStatus) -> String {
    match &node.via {
        Some(leader) => format!("through {leader}"),
        None if node.leads => "direct, leads".to_owned(),
        None => "direct".to_owned(),
    }
}

/// What became of a node that is no member any more.
pub(super) fn revoked(out: &mut impl Write, node: NodeId, was_there: Option<bool>) -> io::Result<()> {
    let what = match was_there {
        Some(true) => "it was there, and is told",
        Some(false) => "it was not there",
        None => "nobody serves the session now",
    };
    writeln!(out, "node {node} is revoked: {what}")
}

/// What became of a ticket.
pub(super) fn ended(out: &mut impl Write, ticket: NodeId) -> io::Result<()> {
    writeln!(out, "ticket {ticket} is ended")
}

/// Who this process is, and who is there.
pub(super) fn joined(out: &mut impl Write, member: &Member, json: bool) -> io::Result<()> {
    let nodes = member.watch_nodes();
    if json {
        let nodes: Vec<Value> = nodes.iter().map(entry).collect();
        let node = member.node().to_string();
        let joined =
            json!({"kind": "joined", "node": node, "insecure": member.is_insecure(), "nodes": nodes});
        writeln!(out, "{joined}")?;
        return out.flush();
    }
    writeln!(out, "joined as node {}, certified until {}", member.node(), member.certified_until())?;
    if member.is_insecure() {
        writeln!(out, "{INSECURE}")?;
    }
    let rows: Vec<Vec<String>> =
        nodes.iter().map(|e| vec![e.node.to_string(), e.cluster.to_string(), e.label.to_string()]).collect();
    text::columns(out, &["node", "cluster", "label"], &rows)?;
    out.flush()
}

/// Who came or went.
pub(super) fn event(out: &mut impl Write, event: &Event, json: bool) -> io::Result<()> {
    match (event, json) {
        (Event::Joined(node), true) => writeln!(out, "{}", json!({"kind": "came", "entry": entry(node)})),
        (Event::Joined(node), false) => writeln!(out, "came {} {} {}", node.node, node.cluster, node.label),
        (Event::Left(node, why), true) => {
            writeln!(out, "{}", json!({"kind": "went", "node": node.to_string(), "why": departure(*why)}))
        }
        (Event::Left(node, why), false) => writeln!(out, "went {node} {}", departure(*why)),
    }
}

/// Who is there, when it is not known who came and went.
pub(super) fn missed(out: &mut impl Write, nodes: &[Entry], json: bool) -> io::Result<()> {
    if json {
        let nodes: Vec<Value> = nodes.iter().map(entry).collect();
        return writeln!(out, "{}", json!({"kind": "missed", "nodes": nodes}));
    }
    writeln!(out, "missed some of what happened: {} nodes are there", nodes.len())?;
    nodes.iter().try_for_each(|e| writeln!(out, "there {} {} {}", e.node, e.cluster, e.label))
}

/// Whether the rendez-vous node hears this process.
pub(super) fn connection(out: &mut impl Write, connection: &Connection, json: bool) -> io::Result<()> {
    let (state, why) = match connection {
        Connection::Attached => ("attached", String::new()),
        Connection::Lost(_, e) => ("lost", e.to_string()),
        Connection::Refused(e) => ("refused", e.to_string()),
    };
    match json {
        true => writeln!(out, "{}", json!({"kind": "connection", "state": state, "why": why})),
        false => writeln!(out, "{}", format!("rendez-vous {state} {why}").trim_end()),
    }
}

fn entry(entry: &Entry) -> Value {
    json!({"node": entry.node.to_string(), "cluster": entry.cluster.as_str(), "label": entry.label.as_str(), "since": entry.since,
        "leads": entry.leads, "via": entry.via.map(|leader| leader.to_string())})
}

fn departure(why: Departure) -> &'static str {
    match why {
        Departure::Left => "left",
        Departure::Lost => "lost",
        Departure::Revoked => "revoked",
        _ => "gone",
    }
}
