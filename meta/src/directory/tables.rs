//! Who is there, and who was revoked: a state of the directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use gridnet_core::wire::NodeId;

use super::change::{Key, JOINED, REVOKED};
use super::{Change, Departure, Entry, Event, Record};
use crate::clock::Moment;

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(super) entries: BTreeMap<NodeId, Arc<Entry>>,
    /// Revoked nodes, and when the last certificate of each has ended.
    pub(super) revoked: BTreeMap<NodeId, Moment>,
    /// Entries and revocations that a later version has written, and that this one would write otherwise; by their kind.
    as_written: BTreeMap<(u16, NodeId), Record>,
    /// What later versions have in a state: of each kind and key the last one.
    others: BTreeMap<(u16, Key), Record>,
}

impl Tables {
    /// How many records make it out of nothing.
    pub(super) fn size(&self) -> u64 {
        (self.entries.len() + self.revoked.len() + self.others.len()) as u64
    }

    /// What makes it out of nothing, always in the same order.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let written = |record: Record, node: NodeId| {
            self.as_written.get(&(record.kind(), node)).cloned().unwrap_or(record)
        };
        let entries = self.entries.values().map(move |entry| written(Record::joined(entry), entry.node));
        let revoked = self.revoked.iter();
        let revoked =
            revoked.map(move |(node, until)| written(Record::from(&Change::Revoked(*node, *until)), *node));
        entries.chain(revoked).chain(self.others.values().cloned())
    }

    /// Does a change as it was written, also one of a kind that is not known: what makes this state for others has to be what was
    /// signed.
    pub(super) fn take(&mut self, record: &Record) -> Option<Event> {
        let Some(change) = record.change() else {
            match record.other() {
                Some((key, true)) => drop(self.others.insert(key, record.clone())),
                Some((key, false)) => drop(self.others.remove(&key)),
                None => (),
            }
            return None;
        };
        let otherwise = match &change {
            Change::Joined(Entry { node, .. }) | Change::Revoked(node, _) => {
                (Record::from(&change) != *record).then_some((record.kind(), *node))
            }
            Change::Left(..) | Change::Forgotten(_) => None,
        };
        let event = self.apply(change);
        self.as_written.extend(otherwise.map(|key| (key, record.clone())));
        event
    }

    /// Who is there.
    pub(crate) fn list(&self) -> Vec<Entry> {
        self.entries.values().map(|entry| Entry::clone(entry)).collect()
    }

    /// Does a change; what has changed by it.
    pub(super) fn apply(&mut self, change: Change) -> Option<Event> {
        match change {
            Change::Joined(entry) => {
                self.as_written.remove(&(JOINED, entry.node));
                let entry = Arc::new(entry);
                let before = self.entries.insert(entry.node, entry.clone());
                (before.as_ref() != Some(&entry)).then(|| Event::Joined(Entry::clone(&entry)))
            }
            Change::Left(node, why) => {
                self.as_written.remove(&(JOINED, node));
                self.entries.remove(&node).map(|_| Event::Left(node, why))
            }
            Change::Revoked(node, until) => {
                self.as_written.remove(&(REVOKED, node));
                self.revoked.insert(node, until);
                None
            }
            Change::Forgotten(node) => {
                self.as_written.remove(&(REVOKED, node));
                self.revoked.remove(&node);
                None
            }
        }
    }

    /// What has changed since an earlier state, where the changes are not known.
    pub(super) fn differences(&self, earlier: &Tables) -> Vec<Event> {
        let gone = earlier.entries.keys().filter(|node| !self.entries.contains_key(node));
        let why = |node: NodeId| match self.revoked.contains_key(&node) {
            true => Departure::Revoked,
            false => Departure::Lost,
        };
        let mut events: Vec<Event> = gone.map(|node| Event::Left(*node, why(*node))).collect();
        let is_new = |entry: &&Arc<Entry>| {
            !earlier.entries.get(&entry.node).is_some_and(|known| entry.is_same_but_since(known))
        };
        events.extend(self.entries.values().filter(is_new).map(|entry| Event::Joined(Entry::clone(entry))));
        events
    }
}
