//! What there is to tell of a session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Shared;
use crate::audit::Line;
use crate::clock::Moment;
use crate::directory::Entry;
use crate::error::Refusal;
use crate::freight::Carried;

/// What `gridnet session status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The session.
    pub session: String,
    /// Its configuration says `insecure = true`: the bootstrap channel may be plain TCP, which whoever is on the way can read and change.
    #[serde(default)]
    pub insecure: bool,
    /// Who is there.
    pub nodes: Vec<NodeStatus>,
    /// Who leads which cluster.
    pub leaders: Vec<LeaderStatus>,
    /// Connections of members to the rendez-vous node.
    pub links: Vec<LinkStatus>,
    /// Packets between members that came by.
    pub packets: PacketCounts,
    /// What was passed on here of members' pipes.
    #[serde(default)]
    pub relayed: Vec<RelayedStatus>,
    /// How many have joined since the rendez-vous node was started.
    pub joined: u64,
    /// Who was revoked.
    pub revoked: Vec<String>,
    /// How many were refused since the start, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// The last of them.
    pub refused: Vec<Line>,
}

/// A node, as [`Status`] shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// What it says of itself.
    pub label: String,
    /// When it came, as RFC 3339 writes it.
    pub since: String,
    /// Whether it leads its cluster.
    pub leads: bool,
    /// The leader through which it is reached; `None`: it is connected to the rendez-vous node.
    pub via: Option<String>,
    /// What it is to those who choose a stack to it, as `gridnet explain` takes it.
    pub facts: String,
}

/// A leader, as [`Status`] shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Its cluster.
    pub cluster: String,
    /// Its id.
    pub node: String,
    /// Where it listens for its cluster.
    pub addresses: Vec<String>,
    /// How many nodes are reached through it.
    pub nodes: usize,
    /// How many it has refused since it began, by reason, as it says.
    #[serde(default)]
    pub refusals: BTreeMap<String, u64>,
}

/// A connection to the rendez-vous node, as [`Status`] shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The member.
    pub node: String,
    /// Its address.
    pub from: String,
    /// How it is made and secured.
    pub stack: String,
}

/// Packets between members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketCounts {
    /// Passed on.
    pub passed_on: u64,
    /// Which could not be; their senders were told.
    pub undelivered: u64,
}

/// What was passed on of a member's pipes, as [`Status`] shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedStatus {
    /// The member that sent it.
    pub node: String,
    /// Bytes, with what is around them.
    pub bytes: u64,
    /// Parts that were not, since too much waited.
    pub refused: u64,
}

impl From<Entry> for NodeStatus {
    fn from(entry: Entry) -> NodeStatus {
        NodeStatus {
            node: entry.node.to_string(),
            facts: entry.facts().to_string(),
            cluster: entry.cluster.to_string(),
            label: entry.label.to_string(),
            since: Moment::from_unix(entry.since).to_string(),
            leads: entry.leads,
            via: entry.via.map(|leader| leader.to_string()),
        }
    }
}

fn by_name(counts: &BTreeMap<Refusal, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(refusal, count)| (refusal.name().to_owned(), *count)).collect()
}

impl Shared {
    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        let leaders = state.register.leaders().map(|(cluster, leader, nodes)| LeaderStatus {
            cluster: cluster.to_string(),
            node: leader.node.to_string(),
            addresses: leader.addresses.iter().map(ToString::to_string).collect(),
            nodes,
            refusals: state
                .links
                .get(&leader.node)
                .map_or_else(BTreeMap::new, |link| by_name(&link.refusals)),
        });
        let mut links: Vec<LinkStatus> = state
            .links
            .iter()
            .map(|(node, link)| LinkStatus {
                node: node.to_string(),
                from: link.from.to_string(),
                stack: if link.is_plain { "tcp" } else { "tls/tcp" }.into(),
            })
            .collect();
        links.sort_by(|a, b| a.node.cmp(&b.node));
        let carried = self.freight.carried().into_iter();
        let relayed = carried.map(|(node, Carried { bytes, refused })| RelayedStatus {
            node: node.to_string(),
            bytes,
            refused,
        });
        Status {
            session: self.store.session().to_string(),
            insecure: self.store.insecure(),
            nodes: state.register.directory.entries().cloned().map(NodeStatus::from).collect(),
            leaders: leaders.collect(),
            links,
            packets: state.packets,
            relayed: relayed.collect(),
            joined: state.register.joined,
            revoked: state.register.revoked.keys().map(ToString::to_string).collect(),
            refusals: by_name(&state.register.refusals),
            refused: state.audit.lines().cloned().collect(),
        }
    }
}
