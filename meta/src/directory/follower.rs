//! The directory as a follower knows it.

use gridnet_core::wire::NodeId;

use super::{Change, Departure, Directory, Entry, Event, Update, Version, LOG_MAX};

/// Entries that a follower takes, far beyond what a rendez-vous node serves.
const ENTRIES_MAX: usize = 1 << 20;

/// An update does not go on where the follower is: it is to ask for what it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap;

/// The directory as a follower knows it.
#[derive(Debug, Default)]
pub struct Follower {
    directory: Directory,
    /// The snapshot that is coming, and how many changes of it are there.
    coming: Option<(Directory, u64)>,
}

impl Follower {
    /// How far it is.
    pub fn version(&self) -> Version {
        self.directory.version()
    }

    /// Who is there.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.directory.entries()
    }

    /// What it knows.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Keeps changes from now on for followers of its own.
    pub fn keep_changes(&mut self) {
        self.directory.log_max = LOG_MAX;
    }

    /// Takes an update; what has changed by it.
    ///
    /// # Errors
    /// [`Gap`] when something is missing before it. Nothing has changed then.
    pub fn take(&mut self, update: Update) -> Result<Vec<Event>, Gap> {
        match update {
            Update::Changes { from, changes } => self.take_changes(from, changes),
            Update::Snapshot { version, before, is_last, changes } => {
                self.take_snapshot(version, before, is_last, changes)
            }
        }
    }

    fn take_changes(&mut self, from: Version, changes: Vec<Change>) -> Result<Vec<Event>, Gap> {
        let version = self.version();
        if from.epoch != version.epoch || from.number > version.number {
            return Err(Gap);
        }
        self.coming = None;
        // What is known already comes again when an update was late.
        let known = usize::try_from(version.number - from.number).unwrap_or(usize::MAX);
        let new = changes.into_iter().skip(known);
        Ok(new.filter_map(|change| self.directory.change(change)).collect())
    }

    fn take_snapshot(
        &mut self,
        version: Version,
        before: u64,
        is_last: bool,
        changes: Vec<Change>,
    ) -> Result<Vec<Event>, Gap> {
        let known = self.version();
        if version.epoch == known.epoch && version.number <= known.number {
            // It is late: that and more is known.
            return Ok(Vec::new());
        }
        let (mut coming, mut count) = match self.coming.take() {
            _ if before == 0 => {
                (Directory { version, log_max: self.directory.log_max, ..Directory::default() }, 0)
            }
            Some((coming, count)) if coming.version == version && count == before => (coming, count),
            _ => return Err(Gap),
        };
        count += changes.len() as u64;
        if count > ENTRIES_MAX as u64 {
            return Err(Gap);
        }
        changes.iter().for_each(|change| drop(coming.apply(change)));
        if !is_last {
            self.coming = Some((coming, count));
            return Ok(Vec::new());
        }
        let earlier = std::mem::replace(&mut self.directory, coming);
        Ok(self.differences(&earlier))
    }

    fn differences(&self, earlier: &Directory) -> Vec<Event> {
        let gone = earlier.entries.keys().filter(|node| !self.directory.contains(**node));
        let why = |node: NodeId| match self.directory.is_revoked(node) {
            true => Departure::Revoked,
            false => Departure::Lost,
        };
        let mut events: Vec<Event> = gone.map(|node| Event::Left(*node, why(*node))).collect();
        let is_new =
            |entry: &&Entry| !earlier.entry(entry.node).is_some_and(|known| entry.is_same_but_since(known));
        events.extend(self.entries().filter(is_new).cloned().map(Event::Joined));
        events
    }
}
