//! Control messages: typed, bounded in length, and open to what comes later.
//!
//! A message is its length (4 bytes, little-endian, without itself), its kind (2 bytes), and its fields as
//! [postcard](https://postcard.jamesmunns.com/wire-format) writes them. A kind with the bit [`MUST_KNOW`] ends the
//! connection where it is not known; any other is skipped. Fields that are added later come last, and are skipped, too.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::directory::{node_bytes, Update, Version};
use crate::error::{Error, Refusal};
use crate::name::Name;
use crate::record::{fields, raw, Extras};
use gridnet_core::wire::NodeId;

/// Bit of a kind that must be understood.
pub const MUST_KNOW: u16 = 0x8000;
/// Longest message, without its length.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the length.
pub const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 2;

/// A request to join a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Fields of later versions: they go into its entry.
    pub more: Extras,
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
    /// Are you there?
    0x0001 Ping(u64),
    /// I am, and this is what you said.
    0x0002 Pong(u64),
    /// I go, and do not come back.
    0x0003 Leave(()),
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
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::directory::{Change, Departure, Directory, Entry};
    use crate::record::EXTRAS_BYTES_MAX;
    use proptest::prelude::*;

    fn node(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn some() -> Vec<Message> {
        let more = Extras::default().with(5, b"new").unwrap();
        let entry =
            Entry { node: node(1), cluster: name("c"), label: name("h.1"), since: 9, more: more.clone() };
        let changes = vec![
            Change::Joined(entry),
            Change::Left(node(2), Departure::Lost),
            Change::Revoked(node(3), Moment::from_unix(7)),
            Change::Forgotten(node(4)),
            Change::Other(99, Box::from(&b"later"[..])),
        ];
        let version = Version { epoch: 3, number: 4 };
        vec![
            Message::Join(Join { ticket: node(1), proof: [7; 32], request: vec![1, 2] }),
            Message::Joined(Joined { node: node(1), certificate: vec![4], clock: -5 }),
            Message::Attach(Attach { cluster: name("c"), label: name("l"), known: version, more }),
            Message::Renew(vec![1]),
            Message::Renewed(vec![2]),
            Message::Refused(Refused { refusal: Refusal::UsedUp, reason: "why".into() }),
            Message::Update(Update::Changes { from: version, changes: changes.clone() }),
            Message::Update(Update::Snapshot { version, before: 1, is_last: true, changes }),
            Message::Missing(version),
            Message::Ping(1),
            Message::Pong(u64::MAX),
            Message::Leave(()),
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        for message in some() {
            let bytes = message.encode().unwrap();
            let (length, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(Message::length(*length).unwrap(), rest.len());
            assert_eq!(Message::decode(rest).unwrap(), Some(message.clone()));
            // A later version adds fields at the end.
            let longer = [rest, &[1, 2, 3]].concat();
            assert_eq!(Message::decode(&longer).unwrap(), Some(message));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_need_not_be_known_is_skipped() {
        assert_eq!(Message::decode(&[0x77, 0x00, 1, 2]).unwrap(), None);
        let error = Message::decode(&[0x77, 0x80, 1, 2]).unwrap_err().to_string();
        assert!(error.contains("unknown kind 0x8077"), "{error}");
        assert!(Message::decode(&[1]).is_err());
        for length in [0, 1, MESSAGE_BYTES_MAX as u32 + 1, u32::MAX] {
            assert!(Message::length(length.to_le_bytes()).is_err());
        }
        let zero = Message::Joined(Joined { node: node(1), certificate: vec![], clock: 0 }).encode().unwrap();
        let zeroed: Vec<u8> = zero[4..].iter().map(|byte| if *byte == 1 { 0 } else { *byte }).collect();
        assert!(Message::decode(&zeroed).unwrap_err().to_string().contains("makes no sense"));
        let long = Message::Renew(vec![0; MESSAGE_BYTES_MAX]);
        assert!(matches!(long.encode(), Err(Error::Config(_))));
    }

    #[test]
    fn the_largest_updates_fit() {
        let longest = name(&"n".repeat(crate::name::NAME_BYTES_MAX));
        let more = Extras::default().with(u16::MAX, &[7; EXTRAS_BYTES_MAX - 4]).unwrap();
        let mut directory = Directory::new(u64::MAX);
        for number in 1..=500u128 {
            let node = NodeId::new((number << 64 | 1).to_be_bytes()).unwrap();
            let (cluster, label, more) = (longest.clone(), longest.clone(), more.clone());
            directory.join(Entry { node, cluster, label, since: i64::MIN, more });
        }
        let at = directory.version();
        let mut known = vec![Version::default(), Version { number: at.number - 300, ..at }];
        while let Some(known) = known.pop() {
            let updates = directory.since(known);
            assert!(updates.len() > 4);
            updates.into_iter().for_each(|update| drop(Message::Update(update).encode().unwrap()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes: Vec<u8>, which in 0..12usize, at: usize, flip: u8) {
            let _ = Message::decode(&bytes);
            let mut mutated = some()[which].encode().unwrap();
            let at = at % mutated.len();
            mutated[at] ^= flip;
            let _ = Message::decode(&mutated[4..]);
        }
    }
}
