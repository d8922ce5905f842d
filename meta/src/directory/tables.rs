//! Who is there, and who was revoked: a state of the directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use gridnet_core::wire::NodeId;

use super::{Change, Departure, Entry, Event, Record};
use crate::clock::Moment;

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(super) entries: BTreeMap<NodeId, Arc<Entry>>,
    /// Revoked nodes, and when the last certificate of each has ended.
    pub(super) revoked: BTreeMap<NodeId, Moment>,
}

impl Tables {
    /// How many records make it out of nothing.
    pub(super) fn size(&self) -> u64 {
        (self.entries.len() + self.revoked.len()) as u64
    }

    /// What makes it out of nothing, always in the same order.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let entries = self.entries.values().map(|entry| Record::joined(entry));
        let revoked = self.revoked.iter().map(|(node, until)| Change::Revoked(*node, *until));
        entries.chain(revoked.map(|change| Record::from(&change)))
    }

    /// Who is there.
    pub(crate) fn list(&self) -> Vec<Entry> {
        self.entries.values().map(|entry| Entry::clone(entry)).collect()
    }

    /// Does a change; what has changed by it.
    pub(super) fn apply(&mut self, change: Change) -> Option<Event> {
        match change {
            Change::Joined(entry) => {
                let entry = Arc::new(entry);
                let before = self.entries.insert(entry.node, entry.clone());
                (before.as_ref() != Some(&entry)).then(|| Event::Joined(Entry::clone(&entry)))
            }
            Change::Left(node, why) => self.entries.remove(&node).map(|_| Event::Left(node, why)),
            Change::Revoked(node, until) => {
                self.revoked.insert(node, until);
                None
            }
            Change::Forgotten(node) => {
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
