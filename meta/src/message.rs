//! Control messages: typed, bounded in length, and open to what comes later.
//!
//! A message is its length (4 bytes, little-endian, without itself), its kind (2 bytes), and its fields as
//! [postcard](https://postcard.jamesmunns.com/wire-format) writes them. A kind with the bit [`MUST_KNOW`] ends the
//! connection where it is not known; any other is skipped. Fields that are added later come last, and are skipped, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cluster::Will;
use crate::directory::{node_bytes, Departure, Still, Update, Version};
use crate::error::{Error, Refusal};
use crate::name::Name;
use crate::packet::Packet;
use crate::pass::Pass;
use crate::record::{fields, raw, Extras};
use gridnet_core::wire::NodeId;

/// Bit of a kind that must be understood.
pub const MUST_KNOW: u16 = 0x8000;
/// Longest message, without its length.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the length.
pub const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 2;

/// A request to join a session. `Debug` does not show the proof.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The ticket.
    #[serde(with = "node_bytes")]
    pub ticket: NodeId,
    /// Proves to know its secret, on this connection, for this request.
    pub proof: [u8; 32],
    /// Request for a certificate (PKCS #10, RFC 2986), in DER.
    #[serde(with = "raw")]
    pub request: Vec<u8>,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Join({}, ..)", self.ticket)
    }
}

/// The answer to [`Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Who the node is from now on.
    #[serde(with = "node_bytes")]
    pub node: NodeId,
    /// Its certificate, in DER.
    #[serde(with = "raw")]
    pub certificate: Vec<u8>,
    /// What the clock of the rendez-vous node says, in seconds after 1970 began.
    pub clock: i64,
}

/// A member is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Its cluster.
    pub cluster: Name,
    /// What it says of itself, for people.
    pub label: Name,
    /// How far it knows the directory.
    pub known: Version,
    /// Whether it is to lead its cluster.
    pub will: Will,
    /// Where it listens for its cluster, if it leads it.
    pub leads: Vec<SocketAddr>,
    /// By which the rendez-vous node has sent it to this leader.
    pub pass: Option<Pass>,
    /// Fields of later versions: they go into its entry.
    pub more: Extras,
}

/// Go to this leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Who it is.
    #[serde(with = "node_bytes")]
    pub leader: NodeId,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// To be shown there.
    pub pass: Pass,
    /// Where the directory is: what the leader tells of earlier states is of the past.
    pub known: Version,
}

/// A node is connected to this leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Which one.
    #[serde(with = "node_bytes")]
    pub node: NodeId,
    /// What it has said.
    pub about: Attach,
}

/// A node is not connected to this leader any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Which one.
    #[serde(with = "node_bytes")]
    pub node: NodeId,
    /// Why.
    pub why: Departure,
}

/// A node that a leader has named may not be below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Which one.
    #[serde(with = "node_bytes")]
    pub node: NodeId,
    /// Why.
    pub why: Refused,
}

/// Who is at an end of a connection without TLS: what is said at its beginning, by either side. `Debug` shows little
/// of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// A random number, for the first two.
    pub nonce: [u8; 32],
    /// The certificate of who says it, in DER.
    #[serde(with = "raw")]
    pub certificate: Vec<u8>,
    /// That of the authority, by the rendez-vous node.
    #[serde(with = "raw")]
    pub authority: Vec<u8>,
    /// Request for another certificate (PKCS #10), if that is what the connection is for.
    #[serde(with = "raw")]
    pub request: Vec<u8>,
    /// What a member says of itself otherwise: [`Attach`], as a message.
    #[serde(with = "raw")]
    pub attach: Vec<u8>,
    /// By the key of the certificate.
    #[serde(with = "raw")]
    pub signature: Vec<u8>,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plain({} bytes of certificate, ..)", self.certificate.len())
    }
}

/// What a member asks of another, sealed in packets. `Debug` does not show what is asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Number of the request, the asker's own for this member.
    pub id: u64,
    /// The answers to all below this number have come, or are not waited for.
    pub done: u64,
    /// What kind of request it is.
    pub service: u16,
    /// How long its answer is waited for, in milliseconds.
    pub left_ms: u32,
    /// What is asked.
    #[serde(with = "raw")]
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({}, service {}, {} bytes)", self.id, self.service, self.body.len())
    }
}

/// The answer to a [`Request`]. `Debug` does not show what is answered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the request.
    pub id: u64,
    /// Why there is none.
    pub refusal: Option<Refusal>,
    /// What is answered, or the reason for people.
    #[serde(with = "raw")]
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, {:?}, {} bytes)", self.id, self.refusal, self.body.len())
    }
}

/// A refusal, after which the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The same for people.
    pub reason: String,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal $name:ident($body:ty),)*) => {
        /// One message.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Message { $($(#[$doc])* $name($body),)* }

        impl Message {
            fn kind(&self) -> u16 {
                match self { $(Message::$name(_) => $number,)* }
            }

            fn write_fields(&self, to: Vec<u8>) -> postcard::Result<Vec<u8>> {
                match self { $(Message::$name(body) => postcard::to_extend(body, to),)* }
            }

            fn read(kind: u16, fields: &[u8]) -> Result<Option<Message>, Error> {
                match kind {
                    $($number => fields_of(kind, fields).map(|body| Some(Message::$name(body))),)*
                    other if other & MUST_KNOW != 0 => {
                        Err(Error::Peer(format!("control message of the unknown kind {other:#06x}")))
                    }
                    _ => Ok(None),
                }
            }
        }
    };
}

messages! {
    /// May I join?
    0x8001 Join(Join),
    /// You are a member.
    0x8002 Joined(Joined),
    /// I am here.
    0x8003 Attach(Attach),
    /// Give me a certificate for this request (PKCS #10), in place of mine, which ends soon.
    0x8004 Renew(Vec<u8>),
    /// Here it is, in DER.
    0x8005 Renewed(Vec<u8>),
    /// No; and why. The last message of a connection.
    0x8006 Refused(Refused),
    /// The directory has changed.
    0x8007 Update(Update),
    /// I miss changes after these.
    0x8008 Missing(Version),
    /// Listen for your cluster.
    0x8009 Lead(()),
    /// Go to this leader.
    0x800a Follow(Follow),
    /// I listen for my cluster, here.
    0x800b Leading(Vec<SocketAddr>),
    /// This node is connected to me.
    0x800c Present(Present),
    /// This one is not any more.
    0x800d Absent(Absent),
    /// This one may not be.
    0x800e Denied(Denied),
    /// Pass this on.
    0x800f Packet(Packet),
    /// Do this, once. Sealed in packets.
    0x8010 Request(Request),
    /// It was done. Sealed in packets.
    0x8011 Answer(Answer),
    /// This is to be the line of that number; and: it is. The first message of a line, from each side.
    0x8012 Line(u64),
    /// This is me, without TLS.
    0x8018 Plain(Plain),
    /// Pass on what follows to the rendez-vous node, and what that says to me.
    0x8019 Through(()),
    /// Are you there?
    0x0001 Ping(u64),
    /// I am, and this is what you said.
    0x0002 Pong(u64),
    /// I go, and do not come back.
    0x0003 Leave(()),
    /// Whether this leader has a connection to the rendez-vous node.
    0x0004 Uplink(bool),
    /// The directory is still so.
    0x0005 Still(Still),
    /// So many were refused here since this leader began, by reason.
    0x0006 Refusals(BTreeMap<Refusal, u64>),
}

impl Message {
    /// The message with its length in front.
    ///
    /// # Errors
    /// [`Error::Config`] when it is too long.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; LENGTH_BYTES];
        bytes.extend(self.kind().to_le_bytes());
        let mut bytes =
            self.write_fields(bytes).map_err(|e| Error::System(format!("writing a control message: {e}")))?;
        let len = bytes.len() - LENGTH_BYTES;
        if len > MESSAGE_BYTES_MAX {
            return Err(Error::Config(format!(
                "a control message has {len} bytes; {MESSAGE_BYTES_MAX} are the most"
            )));
        }
        if let (Some(to), Ok(len)) = (bytes.first_chunk_mut(), u32::try_from(len)) {
            *to = len.to_le_bytes();
        }
        Ok(bytes)
    }

    /// Length of a message, from its first bytes.
    ///
    /// # Errors
    /// [`Error::Peer`] when it is too long, or too short for a kind.
    pub fn length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, Error> {
        let len = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        match (KIND_BYTES..=MESSAGE_BYTES_MAX).contains(&len) {
            true => Ok(len),
            false => Err(Error::Peer(format!(
                "control message of {len} bytes: {KIND_BYTES} to {MESSAGE_BYTES_MAX}"
            ))),
        }
    }

    /// The message of these bytes, which come behind its length; none when it is to be skipped.
    ///
    /// # Errors
    /// [`Error::Peer`] when they make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Option<Message>, Error> {
        match bytes.split_first_chunk() {
            Some((kind, fields)) if bytes.len() <= MESSAGE_BYTES_MAX => {
                Message::read(u16::from_le_bytes(*kind), fields)
            }
            _ => Err(Error::Peer(format!("control message of {} bytes", bytes.len()))),
        }
    }
}

fn fields_of<Body: DeserializeOwned>(kind: u16, bytes: &[u8]) -> Result<Body, Error> {
    // What comes behind the fields was added later.
    fields(bytes).map_err(|e| Error::Peer(format!("control message {kind:#06x} makes no sense: {e}")))
}

#[cfg(test)]
pub(crate) mod tests;
