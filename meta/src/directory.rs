//! The directory of a session: which nodes there are. Kept by the rendez-vous node, followed by all others.
//!
//! Each change has a number. A follower says how far it is and gets what it misses, so that updates may be lost or late:
//! the next one repairs it. A rendez-vous node that has been started again begins a new epoch, and its followers begin anew.

use std::collections::{BTreeMap, VecDeque};

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Changes that are kept for followers that are behind; who is further behind gets everything.
const LOG_MAX: usize = 1024;
/// Entries that a follower takes, far beyond what a rendez-vous node serves.
const ENTRIES_MAX: usize = 1 << 20;
/// Entries or changes in one update, which must fit a message.
pub const UPDATE_ENTRIES_MAX: usize = 256;

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
}

/// Why a node is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Departure {
    /// It said so.
    Left,
    /// It was not heard of any more.
    Lost,
    /// It was revoked.
    Revoked,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node came, or says something else of itself.
    Joined(Entry),
    /// A node went.
    Left(#[serde(with = "node_bytes")] NodeId, Departure),
}

/// How far a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Version {
    /// Which life of the rendez-vous node; 0 for none.
    pub epoch: u64,
    /// Number of the last change.
    pub number: u64,
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Changes after `from`, up to `from` and their number.
    Changes {
        /// Where they begin.
        from: Version,
        /// One after the other.
        changes: Vec<Change>,
    },
    /// A part of all that there is.
    Snapshot {
        /// Of which state it is.
        version: Version,
        /// Entries before those of this part.
        before: u64,
        /// Whether nothing follows.
        is_last: bool,
        /// The entries, by node.
        entries: Vec<Entry>,
    },
}

/// The directory as the rendez-vous node keeps it.
#[derive(Debug)]
pub struct Directory {
    version: Version,
    entries: BTreeMap<NodeId, Entry>,
    log: VecDeque<Change>,
}

impl Directory {
    /// An empty one; `epoch` is another one in each life of the rendez-vous node, and not 0.
    pub fn new(epoch: u64) -> Directory {
        let version = Version { epoch: epoch.max(1), number: 0 };
        Directory { version, entries: BTreeMap::new(), log: VecDeque::new() }
    }

    /// Where it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who is there.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether a node is there.
    pub fn contains(&self, node: NodeId) -> bool {
        self.entries.contains_key(&node)
    }

    /// A node has come, or says something else of itself.
    pub fn join(&mut self, entry: Entry) {
        if self.entries.get(&entry.node) != Some(&entry) {
            self.entries.insert(entry.node, entry.clone());
            self.note(Change::Joined(entry));
        }
    }

    /// A node has gone.
    pub fn leave(&mut self, node: NodeId, why: Departure) {
        if self.entries.remove(&node).is_some() {
            self.note(Change::Left(node, why));
        }
    }

    /// What a follower that is at `known` misses, in parts; nothing when it is up to date.
    pub fn since(&self, known: Version) -> Vec<Update> {
        if known == self.version {
            return Vec::new();
        }
        let behind = self.version.number.checked_sub(known.number).and_then(|n| usize::try_from(n).ok());
        match behind {
            Some(behind) if known.epoch == self.version.epoch && behind <= self.log.len() => {
                self.changes(known, self.log.len() - behind)
            }
            _ => self.snapshot(),
        }
    }

    fn note(&mut self, change: Change) {
        self.version.number += 1;
        self.log.push_back(change);
        if self.log.len() > LOG_MAX {
            self.log.pop_front();
        }
    }

    fn changes(&self, known: Version, first: usize) -> Vec<Update> {
        let missing: Vec<&Change> = self.log.range(first..).collect();
        let mut from = known;
        let mut updates = Vec::new();
        for part in missing.chunks(UPDATE_ENTRIES_MAX) {
            updates.push(Update::Changes {
                from,
                changes: part.iter().map(|change| (*change).clone()).collect(),
            });
            from.number += part.len() as u64;
        }
        updates
    }

    fn snapshot(&self) -> Vec<Update> {
        let entries: Vec<&Entry> = self.entries.values().collect();
        let parts: Vec<&[&Entry]> = match entries.is_empty() {
            true => vec![&[]],
            false => entries.chunks(UPDATE_ENTRIES_MAX).collect(),
        };
        let last = parts.len() - 1;
        let part = |(index, entries): (usize, &&[&Entry])| Update::Snapshot {
            version: self.version,
            before: (index * UPDATE_ENTRIES_MAX) as u64,
            is_last: index == last,
            entries: entries.iter().map(|entry| (*entry).clone()).collect(),
        };
        parts.iter().enumerate().map(part).collect()
    }
}

/// What a follower tells its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node came.
    Joined(Entry),
    /// A node went.
    Left(NodeId, Departure),
}

/// An update does not go on where the follower is: it is to ask for what it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap;

/// The directory as a follower knows it.
#[derive(Debug, Default)]
pub struct Follower {
    version: Version,
    entries: BTreeMap<NodeId, Entry>,
    /// The snapshot that is coming.
    coming: Option<(Version, BTreeMap<NodeId, Entry>)>,
}

impl Follower {
    /// How far it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who is there.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// Takes an update; what has changed by it.
    ///
    /// # Errors
    /// [`Gap`] when something is missing before it. Nothing has changed then.
    pub fn take(&mut self, update: Update) -> Result<Vec<Event>, Gap> {
        match update {
            Update::Changes { from, changes } => self.take_changes(from, changes),
            Update::Snapshot { version, before, is_last, entries } => {
                self.take_snapshot(version, before, is_last, entries)
            }
        }
    }

    fn take_changes(&mut self, from: Version, changes: Vec<Change>) -> Result<Vec<Event>, Gap> {
        if from.epoch != self.version.epoch || from.number > self.version.number {
            return Err(Gap);
        }
        self.coming = None;
        // What is known already comes again when an update was late.
        let known = usize::try_from(self.version.number - from.number).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        for change in changes.into_iter().skip(known) {
            self.version.number = self.version.number.wrapping_add(1);
            match change {
                Change::Joined(entry) => {
                    self.entries.insert(entry.node, entry.clone());
                    events.push(Event::Joined(entry));
                }
                Change::Left(node, why) => {
                    if self.entries.remove(&node).is_some() {
                        events.push(Event::Left(node, why));
                    }
                }
            }
        }
        Ok(events)
    }

    fn take_snapshot(
        &mut self,
        version: Version,
        before: u64,
        is_last: bool,
        entries: Vec<Entry>,
    ) -> Result<Vec<Event>, Gap> {
        if version.epoch == self.version.epoch && version.number <= self.version.number {
            // It is late: that and more is known.
            return Ok(Vec::new());
        }
        let mut coming = match self.coming.take() {
            _ if before == 0 => BTreeMap::new(),
            Some((of, coming))
                if of == version && coming.len() as u64 == before && coming.len() < ENTRIES_MAX =>
            {
                coming
            }
            _ => return Err(Gap),
        };
        coming.extend(entries.into_iter().map(|entry| (entry.node, entry)));
        if !is_last {
            self.coming = Some((version, coming));
            return Ok(Vec::new());
        }
        let earlier = std::mem::replace(&mut self.entries, coming);
        self.version = version;
        let gone = earlier.keys().filter(|node| !self.entries.contains_key(node));
        let mut events: Vec<Event> = gone.map(|node| Event::Left(*node, Departure::Lost)).collect();
        // When it came back to a rendez-vous node that was started again is no news.
        let is_same = |a: &Entry, b: &Entry| (&a.cluster, &a.label) == (&b.cluster, &b.label);
        let come =
            self.entries.iter().filter(|(node, entry)| !earlier.get(node).is_some_and(|e| is_same(e, entry)));
        events.extend(come.map(|(_, entry)| Event::Joined(entry.clone())));
        Ok(events)
    }
}

#[cfg(test)]
mod tests;
