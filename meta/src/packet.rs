//! Packets of the bootstrap channel: what goes from one member to another, by its leader, the rendez-vous node, and the other's
//! leader, or a part of that way.
//!
//! What is inside is sealed between the two. Who passes a packet on sees who sends it to whom, and adds itself to its trail.

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::directory::node_bytes;
use crate::error::Refusal;
use crate::record::{fields, raw};

/// Most hops of a packet: node, leader, rendez-vous node, leader, node.
pub const HOPS_MAX: usize = 4;
/// Most bytes of what is inside.
pub const PACKET_BYTES_MAX: usize = 24 << 10;

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Who sends it. Who takes it from the sender's connection checks that.
    #[serde(with = "node_bytes")]
    pub from: NodeId,
    /// For whom it is.
    #[serde(with = "node_bytes")]
    pub to: NodeId,
    /// The sender's number of it, by chance, for those who have to say that it did not get there.
    pub number: u64,
    /// Who has passed it on; the rendez-vous node by the number of the session.
    pub trail: Trail,
    /// What is inside: its kind, and its fields.
    pub kind: u16,
    /// See [`Packet::kind`].
    #[serde(with = "raw")]
    pub load: Vec<u8>,
}

/// Who has passed a packet on, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<[u8; 16]>", into = "Vec<[u8; 16]>")]
pub struct Trail(Vec<NodeId>);

impl Trail {
    /// In order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.0
    }

    /// Hops of one that has got there by this trail.
    pub fn hops(&self) -> usize {
        self.0.len() + 1
    }
}

impl From<Trail> for Vec<[u8; 16]> {
    fn from(trail: Trail) -> Vec<[u8; 16]> {
        trail.0.iter().map(|node| *node.bytes()).collect()
    }
}

impl TryFrom<Vec<[u8; 16]>> for Trail {
    type Error = &'static str;

    fn try_from(nodes: Vec<[u8; 16]>) -> Result<Trail, &'static str> {
        if nodes.len() >= HOPS_MAX {
            return Err("too many hops");
        }
        let nodes: Option<Vec<NodeId>> = nodes.into_iter().map(NodeId::new).collect();
        nodes.map(Trail).ok_or("node id is zero")
    }
}

/// What is inside of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// A piece of a conversation by TLS.
    Sealed(Sealed),
    /// This conversation is not known (any more): begin another one.
    Unknown(Conversation),
    /// A packet did not get there.
    Undelivered {
        /// The sender's number of it.
        number: u64,
        /// Why.
        why: Refusal,
    },
    /// A part of a pipe.
    Piped(Conversation, Part),
    /// Something that this version does not know.
    Other(u16),
}

/// What is said by a pipe of bytes between two members, which is known as a conversation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These come behind the first `at`.
    Bytes {
        /// How many came before.
        at: u64,
        /// What comes.
        bytes: Vec<u8>,
    },
    /// So many have come, and so many may be sent in all.
    Room {
        /// Without a gap.
        received: u64,
        /// Counted from the first.
        until: u64,
    },
    /// No more than so many come.
    Finish {
        /// Counted from the first.
        at: u64,
    },
    /// The pipe is over.
    Over {
        /// Why.
        why: Refusal,
    },
}

#[derive(Serialize, Deserialize)]
struct Piece {
    of: Conversation,
    at: u64,
    #[serde(with = "raw")]
    bytes: Vec<u8>,
}

/// A conversation between two members: who has begun it gave it a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// Its number, by chance.
    pub number: u64,
    /// Whether who sends this has begun it.
    pub is_mine: bool,
}

/// A piece of what TLS says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Of what.
    pub of: Conversation,
    /// Number of the piece, from 0, in each direction.
    pub sequence: u32,
    /// The piece.
    #[serde(with = "raw")]
    pub bytes: Vec<u8>,
}

const SEALED: u16 = 1;
const UNKNOWN: u16 = 2;
const UNDELIVERED: u16 = 3;
const PIPE_BYTES: u16 = 4;
const PIPE_ROOM: u16 = 5;
const PIPE_FINISH: u16 = 6;
const PIPE_OVER: u16 = 7;

impl Load {
    fn to_record(&self) -> postcard::Result<(u16, Vec<u8>)> {
        Ok(match self {
            Load::Sealed(sealed) => (SEALED, postcard::to_stdvec(sealed)?),
            Load::Unknown(conversation) => (UNKNOWN, postcard::to_stdvec(conversation)?),
            Load::Undelivered { number, why } => (UNDELIVERED, postcard::to_stdvec(&(number, why))?),
            Load::Piped(of, part) => part.to_record(*of)?,
            Load::Other(kind) => (*kind, Vec::new()),
        })
    }
}

impl Part {
    fn to_record(&self, of: Conversation) -> postcard::Result<(u16, Vec<u8>)> {
        Ok(match self {
            Part::Bytes { at, bytes } => {
                let piece = Piece { of, at: *at, bytes: bytes.clone() };
                (PIPE_BYTES, postcard::to_stdvec(&piece)?)
            }
            Part::Room { received, until } => (PIPE_ROOM, postcard::to_stdvec(&(of, received, until))?),
            Part::Finish { at } => (PIPE_FINISH, postcard::to_stdvec(&(of, at))?),
            Part::Over { why } => (PIPE_OVER, postcard::to_stdvec(&(of, why))?),
        })
    }

    fn read(kind: u16, load: &[u8]) -> Option<(Conversation, Part)> {
        Some(match kind {
            PIPE_BYTES => {
                let Piece { of, at, bytes } = fields(load).ok()?;
                (of, Part::Bytes { at, bytes })
            }
            PIPE_ROOM => {
                let (of, received, until) = fields(load).ok()?;
                (of, Part::Room { received, until })
            }
            PIPE_FINISH => {
                let (of, at) = fields(load).ok()?;
                (of, Part::Finish { at })
            }
            _ => {
                let (of, why) = fields(load).ok()?;
                (of, Part::Over { why })
            }
        })
    }
}

impl Packet {
    /// One that begins its way.
    pub(crate) fn new(from: NodeId, to: NodeId, number: u64, load: &Load) -> Packet {
        // What we write ourselves can be written.
        let (kind, load) = load.to_record().unwrap_or_default();
        Packet { from, to, number, trail: Trail::default(), kind, load }
    }

    /// What is inside; `None` when it makes no sense.
    pub(crate) fn load(&self) -> Option<Load> {
        let load = match self.kind {
            SEALED => Load::Sealed(fields(&self.load).ok()?),
            UNKNOWN => Load::Unknown(fields(&self.load).ok()?),
            UNDELIVERED => {
                let (number, why) = fields(&self.load).ok()?;
                Load::Undelivered { number, why }
            }
            kind if self.is_piped() => {
                let (of, part) = Part::read(kind, &self.load)?;
                Load::Piped(of, part)
            }
            other => Load::Other(other),
        };
        Some(load)
    }

    /// Whether it is of a pipe: everything else goes first.
    pub(crate) fn is_piped(&self) -> bool {
        (PIPE_BYTES..=PIPE_OVER).contains(&self.kind)
    }

    /// The packet as `by` passes it on.
    ///
    /// # Errors
    /// [`Refusal::Hops`] when it has come too far, [`Refusal::Malformed`] when it is too long.
    pub(crate) fn passed_on(mut self, by: NodeId) -> Result<Packet, (Packet, Refusal)> {
        if self.load.len() > PACKET_BYTES_MAX {
            return Err((self, Refusal::Malformed));
        }
        if self.trail.0.len() + 2 > HOPS_MAX || self.trail.0.contains(&by) {
            return Err((self, Refusal::Hops));
        }
        self.trail.0.push(by);
        Ok(self)
    }

    /// What its sender is told by `by`, who could not pass it on; nothing when it was such a word itself.
    pub(crate) fn undelivered(&self, by: NodeId, why: Refusal) -> Option<Packet> {
        (self.kind != UNDELIVERED)
            .then(|| Packet::new(by, self.from, 0, &Load::Undelivered { number: self.number, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    fn loads() -> Vec<Load> {
        let of = Conversation { number: u64::MAX, is_mine: true };
        vec![
            Load::Sealed(Sealed { of, sequence: 7, bytes: vec![1; 300] }),
            Load::Unknown(of),
            Load::Undelivered { number: 9, why: Refusal::NoRoute },
            Load::Piped(of, Part::Bytes { at: 1 << 40, bytes: vec![3; 300] }),
            Load::Piped(of, Part::Room { received: 5, until: u64::MAX }),
            Load::Piped(of, Part::Finish { at: 6 }),
            Load::Piped(of, Part::Over { why: Refusal::Rate }),
            Load::Other(900),
        ]
    }

    #[test]
    fn loads_come_out_as_they_went_in_and_unknown_ones_are_told_so() {
        for load in loads() {
            assert_eq!(Packet::new(id(1), id(2), 5, &load).load(), Some(load));
        }
    }

    #[test]
    fn nothing_makes_more_than_four_hops_or_comes_by_twice() {
        let mut packet = Packet::new(id(1), id(2), 5, &loads()[0]);
        for by in 3..=5 {
            assert_eq!(packet.trail.hops(), usize::from(by) - 2);
            packet = packet.passed_on(id(by)).unwrap();
        }
        assert_eq!((packet.trail.hops(), packet.trail.nodes()), (HOPS_MAX, &[id(3), id(4), id(5)][..]));
        assert_eq!(packet.clone().passed_on(id(6)).unwrap_err().1, Refusal::Hops);
        let sent = postcard::to_stdvec(&packet).unwrap();
        assert_eq!(postcard::from_bytes::<Packet>(&sent).unwrap(), packet);
        packet.trail = Trail(vec![id(3)]);
        assert_eq!(packet.clone().passed_on(id(3)).unwrap_err().1, Refusal::Hops);
        packet.trail = Trail(vec![id(3); 4]);
        let sent = postcard::to_stdvec(&packet).unwrap();
        assert!(postcard::from_bytes::<Packet>(&sent).is_err());
        packet = Packet { load: vec![0; PACKET_BYTES_MAX + 1], trail: Trail::default(), ..packet };
        assert_eq!(packet.passed_on(id(3)).unwrap_err().1, Refusal::Malformed);
    }

    #[test]
    fn nobody_is_told_of_words_about_packets_that_did_not_get_there() {
        let packet = Packet::new(id(1), id(2), 5, &loads()[0]);
        let told = packet.undelivered(id(3), Refusal::NoRoute).unwrap();
        assert_eq!(
            (told.to, told.load()),
            (id(1), Some(Load::Undelivered { number: 5, why: Refusal::NoRoute }))
        );
        assert_eq!(told.undelivered(id(4), Refusal::NoRoute), None);
    }

    proptest! {
        #[test]
        fn any_load_is_borne(kind in 0..9u16, load: Vec<u8>) {
            let _ = Packet { kind, load, ..Packet::new(id(1), id(2), 5, &Load::Other(0)) }.load();
        }
    }
}
