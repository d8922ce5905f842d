//! Changes of the directory, and how they are sent.

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{node_bytes, Entry, Version};
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
    /// Something that this version does not know: its kind, and its fields.
    Other(u16, Box<[u8]>),
}

const JOINED: u16 = 1;
const LEFT: u16 = 2;
const REVOKED: u16 = 3;
const FORGOTTEN: u16 = 4;

#[derive(Serialize, Deserialize)]
struct OfNode<Rest>(#[serde(with = "node_bytes")] NodeId, Rest);

impl Change {
    /// Bytes that it takes at most in a message.
    pub(super) fn size_max(&self) -> usize {
        // Node ids, numbers of at most ten bytes, and lengths of at most three.
        const FIXED: usize = 128;
        match self {
            Change::Joined(entry) => {
                FIXED + entry.cluster.as_str().len() + entry.label.as_str().len() + entry.more.size()
            }
            Change::Other(_, fields) => FIXED + fields.len(),
            Change::Left(..) | Change::Revoked(..) | Change::Forgotten(_) => FIXED,
        }
    }

    fn to_record(&self) -> postcard::Result<(u16, Vec<u8>)> {
        Ok(match self {
            Change::Joined(entry) => (JOINED, postcard::to_stdvec(entry)?),
            Change::Left(node, why) => (LEFT, postcard::to_stdvec(&OfNode(*node, *why))?),
            Change::Revoked(node, until) => (REVOKED, postcard::to_stdvec(&OfNode(*node, until.unix()))?),
            Change::Forgotten(node) => (FORGOTTEN, postcard::to_stdvec(&OfNode(*node, ()))?),
            Change::Other(kind, fields) => (*kind, fields.to_vec()),
        })
    }

    fn of_record(kind: u16, bytes: &[u8]) -> postcard::Result<Change> {
        Ok(match kind {
            JOINED => Change::Joined(fields(bytes)?),
            LEFT => {
                let OfNode(node, why) = fields(bytes)?;
                Change::Left(node, why)
            }
            REVOKED => {
                let OfNode(node, until) = fields(bytes)?;
                Change::Revoked(node, Moment::from_unix(until))
            }
            FORGOTTEN => Change::Forgotten(fields::<OfNode<()>>(bytes)?.0),
            other => Change::Other(other, bytes.into()),
        })
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, bytes) = self.to_record().map_err(serde::ser::Error::custom)?;
        (kind, Raw(&bytes)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Change, D::Error> {
        let (kind, bytes) = <(u16, &'de [u8])>::deserialize(deserializer)?;
        Change::of_record(kind, bytes).map_err(serde::de::Error::custom)
    }
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
        /// Changes before those of this part.
        before: u64,
        /// Whether nothing follows.
        is_last: bool,
        /// What makes the state out of nothing.
        changes: Vec<Change>,
    },
}
