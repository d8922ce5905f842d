//! The directory of a session: which nodes there are, and which are revoked. Kept by the rendez-vous node, followed by all others.
//!
//! Each change has a number. A follower says how far it is and gets what it misses, so that updates may be lost or late:
//! the next one repairs it. A rendez-vous node that has been started again begins a new epoch, and its followers begin anew.
//! Changes are records: a follower counts one of a kind that it does not know, and passes it on. What a follower takes was signed
//! by the authority, whoever has passed it on; of two states the one of the later life, or with the larger number, is the later.

mod change;
mod follower;
mod head;
mod shelf;
mod still;
mod tables;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gridnet_assembly::facts::{Facts, Offer};
use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::name::Name;
use crate::record::Extras;

pub use change::{Change, Departure, Part, Record, Update};
pub use follower::{Follower, Pending, Trouble};
pub use head::Head;
pub(crate) use shelf::Shelf;
pub use still::Still;
pub(crate) use tables::Tables;

/// Number of the extra field in which a node says where it is and what it can do.
pub const OFFER: u16 = 1;
/// Changes that are kept for followers that are behind; who is further behind gets everything.
const LOG_MAX: usize = 1024;
/// Changes in one update take at most so many bytes, which fit a message.
const UPDATE_BYTES: usize = 48 << 10;

/// A node id, as control messages carry it.
pub(crate) mod node_bytes {
    use super::NodeId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        node.bytes().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        NodeId::new(<[u8; 16]>::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("node id is zero"))
    }
}

/// The same for one that there may be.
mod maybe_node_bytes {
    use super::NodeId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(node: &Option<NodeId>, serializer: S) -> Result<S::Ok, S::Error> {
        node.map(|node| *node.bytes()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<NodeId>, D::Error> {
        let bytes = Option::<[u8; 16]>::deserialize(deserializer)?;
        bytes
            .map(|bytes| NodeId::new(bytes).ok_or_else(|| serde::de::Error::custom("node id is zero")))
            .transpose()
    }
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is.
    #[serde(with = "node_bytes")]
    pub node: NodeId,
    /// The cluster that it says it belongs to.
    pub cluster: Name,
    /// What it says of itself, for people: its host and process.
    pub label: Name,
    /// When it came, in seconds after 1970 began, by the clock of the rendez-vous node.
    pub since: i64,
    /// As which one it came, of all since the rendez-vous node was started.
    pub order: u64,
    /// Whether it leads its cluster.
    pub leads: bool,
    /// The leader through which it is reached; `None`: it is connected to the rendez-vous node.
    #[serde(with = "maybe_node_bytes")]
    pub via: Option<NodeId>,
    /// Fields of later versions.
    pub more: Extras,
}

impl Entry {
    /// What it is to those who choose a stack to it. A node that says nothing of what it can do can do nothing.
    pub fn facts(&self) -> Facts {
        Facts {
            node: self.node,
            label: self.label.clone(),
            cluster: self.cluster.clone(),
            leads: self.leads,
            offer: self.more.field(OFFER).and_then(Offer::decode).unwrap_or_default(),
        }
    }

    /// Whether it is the same but for when it came: to a rendez-vous node that was started again, that is no news.
    fn is_same_but_since(&self, other: &Entry) -> bool {
        *self == Entry { since: self.since, order: self.order, ..other.clone() }
    }
}

/// How far a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Version {
    /// Which life of the rendez-vous node: a later one has a larger number; 0 for none.
    pub epoch: u64,
    /// Number of the last change.
    pub number: u64,
}

/// What a follower tells its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node came, or something else is said of it.
    Joined(Entry),
    /// A node went.
    Left(NodeId, Departure),
}

/// The directory as the rendez-vous node keeps it, or as a follower knows it.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    version: Version,
    /// The digest of all changes of this life.
    chain: head::Digest,
    tables: Arc<Tables>,
    log: VecDeque<Record>,
    log_max: usize,
}

impl Directory {
    /// An empty one; `epoch` is larger in each life of the rendez-vous node, and not 0.
    pub fn new(epoch: u64) -> Directory {
        let version = Version { epoch: epoch.max(1), number: 0 };
        Directory { version, log_max: LOG_MAX, ..Directory::default() }
    }

    /// Where it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who is there.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.tables.entries.values().map(AsRef::as_ref)
    }

    /// What is known of a node.
    pub fn entry(&self, node: NodeId) -> Option<&Entry> {
        self.tables.entries.get(&node).map(AsRef::as_ref)
    }

    /// Whether a node is there.
    pub fn contains(&self, node: NodeId) -> bool {
        self.tables.entries.contains_key(&node)
    }

    /// Whether a node was revoked.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.tables.revoked.contains_key(&node)
    }

    /// The revoked nodes whose certificates may not have ended.
    pub fn revoked(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.tables.revoked.keys().copied()
    }

    /// The state as it is now; what changes later does not change it.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.tables.clone()
    }

    /// The same, and until when the last certificate of each is valid.
    pub(crate) fn revocations(&self) -> &BTreeMap<NodeId, Moment> {
        &self.tables.revoked
    }

    /// A node has come, or says something else of itself.
    pub fn join(&mut self, entry: Entry) {
        if self.entry(entry.node) != Some(&entry) {
            self.change(Change::Joined(entry));
        }
    }

    /// A node has gone.
    pub fn leave(&mut self, node: NodeId, why: Departure) {
        if self.contains(node) {
            self.change(Change::Left(node, why));
        }
    }

    /// A node was revoked. It is told until `until`, when its last certificate has ended.
    pub fn revoke(&mut self, node: NodeId, until: Moment) {
        self.leave(node, Departure::Revoked);
        if self.tables.revoked.get(&node) != Some(&until) {
            self.change(Change::Revoked(node, until));
        }
    }

    /// Forgets revocations of nodes whose certificates have ended.
    pub fn forget_ended(&mut self, now: Moment) {
        let revoked = self.tables.revoked.iter();
        let ended: Vec<NodeId> = revoked.filter(|(_, until)| now >= **until).map(|(node, _)| *node).collect();
        ended.into_iter().for_each(|node| self.change(Change::Forgotten(node)));
    }

    /// What a follower that is at `known` misses to be where `head` says, which is of this state, in parts; nothing when it knows
    /// as much, or more.
    pub fn since(&self, known: Version, head: &Head) -> Vec<Update> {
        if known >= self.version {
            return Vec::new();
        }
        let parts = match self.first_change(known) {
            Some(first) => self.changes(known.number, first),
            None => self.snapshot(),
        };
        parts.into_iter().map(|part| Update { head: head.clone(), part }).collect()
    }

    /// Whether who is at `known` gets changes, and not all that there is.
    pub(crate) fn has_changes(&self, known: Version) -> bool {
        self.first_change(known).is_some()
    }

    /// Where the changes behind `known` begin, if they are kept.
    fn first_change(&self, known: Version) -> Option<usize> {
        let behind = usize::try_from(self.version.number.checked_sub(known.number)?).ok()?;
        self.log.len().checked_sub(behind).filter(|_| known.epoch == self.version.epoch)
    }

    /// Does a change, and keeps it for those that are behind.
    fn change(&mut self, change: Change) {
        let record = Record::from(&change);
        Arc::make_mut(&mut self.tables).apply(change);
        self.chain = head::chained(&self.chain, &record);
        self.keep(record);
    }

    /// Counts a change, and keeps it for those that are behind.
    fn keep(&mut self, record: Record) {
        self.version.number = self.version.number.saturating_add(1);
        if self.log_max > 0 {
            self.log.push_back(record);
        }
        while self.log.len() > self.log_max {
            self.log.pop_front();
        }
    }

    fn changes(&self, known: u64, first: usize) -> Vec<Part> {
        let mut next = known;
        let part = |records: Vec<Record>| {
            let from = next;
            next += records.len() as u64;
            Part::Changes { from, records }
        };
        parts(self.log.range(first..).cloned()).into_iter().map(part).collect()
    }

    fn snapshot(&self) -> Vec<Part> {
        let mut next = 0;
        let part = |records: Vec<Record>| {
            let before = next;
            next += records.len() as u64;
            Part::Snapshot { before, records }
        };
        parts(self.tables.records()).into_iter().map(part).collect()
    }
}

/// As many records together as surely fit a message; one part at least.
fn parts(records: impl Iterator<Item = Record>) -> Vec<Vec<Record>> {
    let mut parts = vec![Vec::new()];
    let mut room = UPDATE_BYTES;
    for record in records {
        let size = record.size();
        if size > room {
            parts.push(Vec::new());
            room = UPDATE_BYTES;
        }
        room = room.saturating_sub(size);
        if let Some(part) = parts.last_mut() {
            part.push(record);
        }
    }
    parts
}

#[cfg(test)]
mod tests;
