//! Changes of the directory, and how they are sent.

use std::sync::Arc;

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{node_bytes, Entry, Head};
use crate::clock::Moment;
use crate::record::{fields, Raw};

/// Why a node is not there any more; numbers of the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
#[non_exhaustive]
#[repr(u16)]
pub enum Departure {
    /// For a reason that this version does not know.
    Gone = 0,
    /// It said so.
    Left = 1,
    /// It was not heard of any more.
    Lost = 2,
    /// It was revoked.
    Revoked = 3,
}

impl From<Departure> for u16 {
    fn from(why: Departure) -> u16 {
        why as u16
    }
}

impl From<u16> for Departure {
    fn from(number: u16) -> Departure {
        let known = [Departure::Left, Departure::Lost, Departure::Revoked];
        known.into_iter().find(|why| *why as u16 == number).unwrap_or(Departure::Gone)
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node came, or says something else of itself.
    Joined(Entry),
    /// A node went.
    Left(NodeId, Departure),
    /// A node was revoked; its last certificate ends then.
    Revoked(NodeId, Moment),
    /// The certificates of a revoked node have ended, so it need not be told any more.
    Forgotten(NodeId),
}

pub(super) const JOINED: u16 = 1;
const LEFT: u16 = 2;
pub(super) const REVOKED: u16 = 3;
const FORGOTTEN: u16 = 4;

/// By which a record of a later kind takes the place of another.
pub(super) type Key = [u8; 16];

#[derive(Serialize, Deserialize)]
struct OfNode<Rest>(#[serde(with = "node_bytes")] NodeId, Rest);

/// A change as it is written, signed and passed on: its kind, and its fields. One who does not know the kind counts it and
/// passes it on as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    kind: u16,
    fields: Arc<[u8]>,
}

impl Record {
    /// Bytes of the longest one that is taken.
    pub const BYTES_MAX: usize = 2048;

    /// The change; `None` when this version does not know it.
    pub fn change(&self) -> Option<Change> {
        Some(match self.kind {
            JOINED => Change::Joined(fields(&self.fields).ok()?),
            LEFT => {
                let OfNode(node, why) = fields(&self.fields).ok()?;
                Change::Left(node, why)
            }
            REVOKED => {
                let OfNode(node, until) = fields(&self.fields).ok()?;
                Change::Revoked(node, Moment::from_unix(until))
            }
            FORGOTTEN => Change::Forgotten(fields::<OfNode<()>>(&self.fields).ok()?.0),
            _ => return None,
        })
    }

    pub(super) fn kind(&self) -> u16 {
        self.kind
    }

    /// Of a kind that this version does not know: of which kind and key, and whether it has more than a key; without, it ends what the
    /// key was of. `None` when it is no part of a state.
    pub(super) fn other(&self) -> Option<((u16, Key), bool)> {
        let (key, rest) = self.fields.split_first_chunk().filter(|_| self.kind > FORGOTTEN)?;
        Some(((self.kind, *key), !rest.is_empty()))
    }

    /// Bytes that it takes at most in a message: with its kind and its length.
    pub(super) fn size(&self) -> usize {
        self.fields.len() + 6
    }

    /// Adds it to what is signed.
    pub(super) fn hash(&self, to: &mut Sha256) {
        to.update(self.kind.to_le_bytes());
        to.update((self.fields.len() as u64).to_le_bytes());
        to.update(&self.fields);
    }

    /// One of a later version.
    #[cfg(test)]
    pub(crate) fn of_later(kind: u16, fields: &[u8]) -> Record {
        Record { kind, fields: fields.into() }
    }
}

impl From<&Change> for Record {
    fn from(change: &Change) -> Record {
        match change {
            Change::Joined(entry) => Record::new(JOINED, entry),
            Change::Left(node, why) => Record::new(LEFT, &OfNode(*node, *why)),
            Change::Revoked(node, until) => Record::new(REVOKED, &OfNode(*node, until.unix())),
            Change::Forgotten(node) => Record::new(FORGOTTEN, &OfNode(*node, ())),
        }
    }
}

impl Record {
    pub(super) fn new(kind: u16, fields: &impl Serialize) -> Record {
        // What we write ourselves can be written.
        let fields = postcard::to_stdvec(fields).unwrap_or_default();
        Record { kind, fields: fields.into() }
    }

    /// As [`Change::Joined`], of an entry that stays where it is.
    pub(super) fn joined(entry: &Entry) -> Record {
        Record::new(JOINED, entry)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.kind, Raw(&self.fields)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Record, D::Error> {
        let (kind, fields) = <(u16, &'de [u8])>::deserialize(deserializer)?;
        match fields.len() <= Record::BYTES_MAX {
            true => Ok(Record { kind, fields: fields.into() }),
            false => Err(serde::de::Error::custom("a change that is too long")),
        }
    }
}

/// What a follower gets: a part of the way to a state that the authority has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Where it leads, once all parts are there.
    pub head: Head,
    /// The part.
    pub part: Part,
}

/// Records of an [`Update`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Changes of the same life, behind the one of this number.
    Changes {
        /// Where they begin.
        from: u64,
        /// One after the other.
        records: Vec<Record>,
    },
    /// A part of all that there is.
    Snapshot {
        /// Records before those of this part.
        before: u64,
        /// What makes the state out of nothing.
        records: Vec<Record>,
    },
}
