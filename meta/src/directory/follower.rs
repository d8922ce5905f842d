//! The directory as a follower knows it: what was signed, and nothing older than what it knows already.

use super::{
    head, Directory, Entry, Event, Head, Part, Record, Shelf, Still, Tables, Update, Version, LOG_MAX,
};
use crate::authority::AuthorityKey;
use std::sync::Arc;

/// Records of a state that a follower takes, far beyond what a rendez-vous node serves.
const SIZE_MAX: u64 = 1 << 20;

/// Why an update was not taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It does not go on where the follower is: it is to ask for what it misses.
    Gap,
    /// The authority has not said so: whoever has passed it on is not honest.
    Forged,
}

/// The directory as a follower knows it.
#[derive(Debug)]
pub struct Follower {
    key: AuthorityKey,
    directory: Directory,
    /// By which others believe what it knows.
    head: Option<Head>,
    /// What others of this process have made of the same.
    shelf: Arc<Shelf>,
    /// States before this one are not taken.
    floor: Version,
    coming: Pending,
}

/// What has come over one connection of an update of which there is more: who says it is believed, or blamed, for that only.
#[derive(Debug, Default)]
pub struct Pending(Option<Coming>);

/// The parts of an update that are there.
#[derive(Debug)]
struct Coming {
    /// Signed.
    head: Head,
    is_snapshot: bool,
    /// Where the follower was when it began.
    known: Version,
    /// Number of the next record.
    next: u64,
    /// Those that are not known.
    records: Vec<Record>,
}

impl Follower {
    /// One that believes what this authority has signed.
    pub fn new(key: AuthorityKey) -> Follower {
        Follower::beside(key, Arc::default())
    }

    /// The same, beside others with the same shelf.
    pub(crate) fn beside(key: AuthorityKey, shelf: Arc<Shelf>) -> Follower {
        let (directory, floor) = (Directory::default(), Version::default());
        Follower { key, directory, head: None, shelf, floor, coming: Pending::default() }
    }

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

    /// What it knows as the authority has signed it; none before the first update.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Whether the authority has said so.
    pub(crate) fn believes(&self, still: &Still) -> bool {
        still.is_signed_by(&self.key)
    }

    /// Keeps changes from now on for followers of its own.
    pub fn keep_changes(&mut self) {
        self.directory.log_max = LOG_MAX;
    }

    /// The rendez-vous node was at `version`: states before that are of the past, whoever tells them.
    pub fn raise_floor(&mut self, version: Version) {
        self.floor = self.floor.max(version);
    }

    #[cfg(test)]
    pub(crate) fn floor(&self) -> Version {
        self.floor
    }

    /// Records that wait for more.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.coming.0.as_ref().map_or(0, |coming| coming.records.len())
    }

    /// Takes an update; what has changed by it. One that leads no further than what is known changes nothing.
    ///
    /// # Errors
    /// [`Trouble`], with nothing changed.
    pub fn take(&mut self, update: Update) -> Result<Arc<[Event]>, Trouble> {
        let mut pending = std::mem::take(&mut self.coming);
        let taken = self.take_of(&mut pending, update);
        self.coming = pending;
        taken
    }

    /// The same of one of several connections.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_of(&mut self, pending: &mut Pending, update: Update) -> Result<Arc<[Event]>, Trouble> {
        let Update { head, part } = update;
        let known = self.version();
        if head.version <= known || head.version < self.floor {
            return Ok(Arc::default());
        }
        // Changes that have come by another connection meanwhile are not to be done again.
        let is_it = |coming: &Coming| coming.head == head && (coming.is_snapshot || coming.known == known);
        let mut coming = match pending.0.take().filter(is_it) {
            Some(coming) if coming.goes_on(&part) => coming,
            _ => Coming::begin(head, &part, known, (&self.key, &self.shelf))?,
        };
        coming.add(part, known)?;
        if coming.next < coming.end() {
            pending.0 = Some(coming);
            return Ok(Arc::default());
        }
        match coming.is_snapshot {
            true => self.replace(coming),
            false => self.go_on(coming),
        }
    }

    /// Does changes that are all there.
    fn go_on(&mut self, Coming { head, records, .. }: Coming) -> Result<Arc<[Event]>, Trouble> {
        let found = self.shelf.find(&self.key, self.head.as_ref(), &head);
        // What is kept for others is looked at by whoever keeps it.
        if found.is_none() || self.directory.log_max > 0 {
            let chain = self.directory.chain;
            if records.iter().fold(chain, |chain, record| head::chained(&chain, record)) != head.chain {
                return Err(Trouble::Forged);
            }
        }
        let events = match found {
            Some((tables, events)) => {
                self.directory.tables = tables;
                events
            }
            None => {
                let tables = Arc::make_mut(&mut self.directory.tables);
                let events: Arc<[Event]> = records.iter().filter_map(|record| tables.take(record)).collect();
                self.share(&head, &events);
                events
            }
        };
        self.directory.chain = head.chain;
        records.into_iter().for_each(|record| self.directory.keep(record));
        self.directory.version = head.version;
        self.head = Some(head);
        Ok(events)
    }

    /// Takes a state that is there as a whole.
    fn replace(&mut self, Coming { head, records, .. }: Coming) -> Result<Arc<[Event]>, Trouble> {
        let tables = match self.shelf.tables(&self.key, &head) {
            Some(tables) => tables,
            None if head::digest(records.iter()) != head.state => return Err(Trouble::Forged),
            None => {
                let mut tables = Tables::default();
                records.iter().for_each(|record| drop(tables.take(record)));
                Arc::new(tables)
            }
        };
        let (version, chain, log_max) = (head.version, head.chain, self.directory.log_max);
        let now = Directory { version, chain, tables, log_max, ..Directory::default() };
        let earlier = std::mem::replace(&mut self.directory, now);
        let events = self.directory.tables.differences(&earlier.tables).into();
        self.share(&head, &events);
        self.head = Some(head);
        Ok(events)
    }

    /// Lets others have what a step to `head` has led to.
    fn share(&self, head: &Head, events: &Arc<[Event]>) {
        let (from, tables) = (self.head.clone(), &self.directory.tables);
        self.shelf.put(&self.key, from, head.clone(), tables, events.clone());
    }
}

impl Coming {
    /// The first part of an update, for a follower that is at `known`.
    fn begin(
        head: Head,
        part: &Part,
        known: Version,
        (key, shelf): (&AuthorityKey, &Shelf),
    ) -> Result<Coming, Trouble> {
        let (is_snapshot, next) = match part {
            Part::Snapshot { before, .. } => (true, *before),
            Part::Changes { from, .. } => (false, *from),
        };
        let begins = match is_snapshot {
            true => next == 0,
            false => head.version.epoch == known.epoch && next <= known.number,
        };
        if !begins {
            return Err(Trouble::Gap);
        }
        // So much is kept until all of it is there, and no more.
        let is_bounded = match is_snapshot {
            true => head.size <= SIZE_MAX,
            false => head.version.number - known.number <= LOG_MAX as u64,
        };
        match is_bounded && (shelf.knows(key, &head) || head.is_signed_by(key)) {
            true => Ok(Coming { head, is_snapshot, known, next, records: Vec::new() }),
            false => Err(Trouble::Forged),
        }
    }

    fn goes_on(&self, part: &Part) -> bool {
        match part {
            Part::Snapshot { before, .. } => self.is_snapshot && *before == self.next,
            Part::Changes { from, .. } => !self.is_snapshot && *from == self.next,
        }
    }

    /// The number behind the last record.
    fn end(&self) -> u64 {
        match self.is_snapshot {
            true => self.head.size,
            false => self.head.version.number,
        }
    }

    /// Keeps the records of a part that are not known.
    fn add(&mut self, part: Part, known: Version) -> Result<(), Trouble> {
        let (Part::Snapshot { records, .. } | Part::Changes { records, .. }) = part;
        let count = records.len() as u64;
        if count > self.end() - self.next {
            return Err(Trouble::Forged);
        }
        // What is known already comes again when an update was late.
        let late = if self.is_snapshot { 0 } else { known.number.saturating_sub(self.next) };
        self.records.extend(records.into_iter().skip(usize::try_from(late).unwrap_or(usize::MAX)));
        self.next += count;
        Ok(())
    }
}
