//! What is said before frames flow.
//!
//! | packet | from | says |
//! |---|---|---|
//! | 1 hello | caller | who it is, whom it wants, a random number |
//! | 1 hello | called | who it is, a random number |
//! | 2 offer | caller | its queue pair, and a proof that it has the key |
//! | 2 offer | called | the same; its queue pair is ready |
//! | 3 ready | caller | a message of a whole packet has come through the queue pairs |
//! | 4 refusal | either | why there will be no link: an error, and words |
//! | 5 bye | either | that the link is over, why, and how many messages were sent over it |
//!
//! A proof is over everything that was said before it, and good for one side only. Without a key it is zeros.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use gridnet_core::wire::{NetAddresses, NodeId};

use crate::config::{Security, PROOF_BYTES};
use crate::device::QpNum;

pub(crate) const HELLO: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const READY: u8 = 3;
pub(crate) const REFUSAL: u8 = 4;
pub(crate) const BYE: u8 = 5;

/// First bytes of a hello.
const MAGIC: [u8; 14] = *b"gridnet-verbs\0";
/// Version of all of this, and of what goes over the queue pair, with its lengths and counts.
const VERSION: u16 = 2;
const NONCE_BYTES: usize = 32;
/// Longest words of a refusal.
const MAX_WORDS: usize = 300;

/// Bytes of a hello.
const HELLO_BYTES: usize = 14 + 2 + 1 + 16 + 8 + 4 + 4 + 16 + 8 + 24 + NONCE_BYTES;
/// Bytes of a description of a queue pair.
const PAIR_BYTES: usize = 16 + 2 + 4 + 4 + 2 + 4;

/// Who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) security: u8,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) uid: u32,
    /// Number of the call, which grows between two nodes.
    pub(crate) generation: u32,
    /// Whom it wants.
    pub(crate) target: (NodeId, u64),
    /// Where it listens.
    pub(crate) listens: NetAddresses,
    pub(crate) nonce: [u8; NONCE_BYTES],
}

impl Hello {
    /// The bytes.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(self.security);
        bytes.extend_from_slice(self.node.bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.uid.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(self.target.0.bytes());
        bytes.extend_from_slice(&self.target.1.to_le_bytes());
        bytes.extend_from_slice(&self.listens.to_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes
    }

    /// Reads a hello. What comes after it in a later version is ignored by none: lengths are those of the version.
    ///
    /// # Errors
    /// [`Error::Version`] for another version, [`Error::PeerMisbehaved`] for bytes that are none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Hello, Refusal> {
        let mut fields = Fields(bytes);
        if fields.array() != Some(MAGIC) {
            return Err(Refusal::new(
                Error::PeerMisbehaved,
                "whoever is there does not speak for a rail verbs",
            ));
        }
        let version = fields.array().map(u16::from_le_bytes);
        if version != Some(VERSION) {
            let why = format!(
                "the peer has version {} of the rail verbs, this side {VERSION}",
                version.unwrap_or(0)
            );
            return Err(Refusal::new(Error::Version, why));
        }
        Hello::fields(&mut fields)
            .filter(|_| fields.0.is_empty())
            .ok_or_else(|| Refusal::new(Error::PeerMisbehaved, "a hello that cannot be"))
    }

    fn fields(fields: &mut Fields<'_>) -> Option<Hello> {
        let [security] = fields.array()?;
        Some(Hello {
            security,
            node: NodeId::new(fields.array()?)?,
            incarnation: u64::from_le_bytes(fields.array()?),
            uid: u32::from_le_bytes(fields.array()?),
            generation: u32::from_le_bytes(fields.array()?),
            target: (NodeId::new(fields.array()?)?, u64::from_le_bytes(fields.array()?)),
            listens: NetAddresses::from_slice(&fields.array::<24>()?)?,
            nonce: fields.array()?,
        })
    }
}

/// A queue pair, as the other side has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Address of its device.
    pub(crate) gid: SocketAddr,
    pub(crate) num: QpNum,
    /// First number that it sends with.
    pub(crate) psn: u32,
    /// Largest path MTU of its device.
    pub(crate) mtu: u16,
    /// The queue pair beside it, for reads, if it has one; 0 says that it has none.
    pub(crate) reader: Option<QpNum>,
}

impl Pair {
    fn to_bytes(self) -> Vec<u8> {
        let ip = match self.gid.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = Vec::with_capacity(PAIR_BYTES + PROOF_BYTES);
        bytes.extend_from_slice(&ip.octets());
        bytes.extend_from_slice(&self.gid.port().to_le_bytes());
        bytes.extend_from_slice(&self.num.0.to_le_bytes());
        bytes.extend_from_slice(&self.psn.to_le_bytes());
        bytes.extend_from_slice(&self.mtu.to_le_bytes());
        bytes.extend_from_slice(&self.reader.map_or(0, |qp| qp.0).to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Pair> {
        let mut fields = Fields(bytes);
        let ip = Ipv6Addr::from(fields.array::<16>()?).to_canonical();
        let pair = Pair {
            gid: SocketAddr::new(ip, u16::from_le_bytes(fields.array()?)),
            num: QpNum(u32::from_le_bytes(fields.array()?)),
            psn: u32::from_le_bytes(fields.array()?),
            mtu: u16::from_le_bytes(fields.array()?),
            reader: Some(u32::from_le_bytes(fields.array()?)).filter(|qp| *qp != 0).map(QpNum),
        };
        let is_possible = fields.0.is_empty()
            && pair.gid.port() != 0
            && pair.num.0 < 1 << 24
            && pair.reader.is_none_or(|qp| qp.0 < 1 << 24)
            && pair.psn < 1 << 24
            && matches!(pair.mtu, 256 | 512 | 1024 | 2048 | 4096);
        is_possible.then_some(pair)
    }
}

/// Which side makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Caller,
    Called,
}

impl Role {
    fn purpose(self) -> &'static str {
        match self {
            Role::Caller => "gridnet verbs 2 caller",
            Role::Called => "gridnet verbs 2 called",
        }
    }
}

/// What the packets of both sides have said so far, for the proofs.
#[derive(Debug, Default)]
pub(crate) struct Transcript(Vec<Vec<u8>>);

impl Transcript {
    /// Notes a hello.
    pub(crate) fn note(&mut self, said: &[u8]) {
        self.0.push(said.to_vec());
    }

    /// An offer of this side.
    pub(crate) fn offer(&mut self, pair: Pair, role: Role, security: &Security) -> Vec<u8> {
        let mut bytes = pair.to_bytes();
        self.note(&bytes);
        let proof = match security {
            Security::Key(key) => key.sign(role.purpose(), &self.texts()),
            Security::Insecure => [0; PROOF_BYTES],
        };
        bytes.extend_from_slice(&proof);
        bytes
    }

    /// The queue pair that the other side offers, when its proof is right.
    ///
    /// # Errors
    /// [`Error::Permission`] for a wrong proof, [`Error::PeerMisbehaved`] for what is no offer.
    pub(crate) fn accept(&mut self, offer: &[u8], role: Role, security: &Security) -> Result<Pair, Refusal> {
        let none = || Refusal::new(Error::PeerMisbehaved, "an offer that cannot be");
        let (said, proof) = offer.split_at_checked(PAIR_BYTES).ok_or_else(none)?;
        if proof.len() != PROOF_BYTES {
            return Err(none());
        }
        self.note(said);
        if let Security::Key(key) = security {
            if !key.accepts(role.purpose(), &self.texts(), proof) {
                return Err(Refusal::new(Error::Permission, "the peer has another key"));
            }
        }
        Pair::parse(said).ok_or_else(none)
    }

    fn texts(&self) -> Vec<&[u8]> {
        self.0.iter().map(Vec::as_slice).collect()
    }
}

impl Security {
    /// As a hello says it.
    pub(crate) fn number(&self) -> u8 {
        match self {
            Security::Insecure => 0,
            Security::Key(_) => 1,
        }
    }

    /// Refuses a peer that asks for something else.
    pub(crate) fn check(&self, theirs: u8) -> Result<(), Refusal> {
        if theirs == self.number() {
            return Ok(());
        }
        let why = "one side has a key (GRIDNET_NET_KEY_FILE), the other none (GRIDNET_NET_INSECURE)";
        Err(Refusal::new(Error::Permission, why))
    }
}

/// The bytes of a refusal.
pub(crate) fn refuse(refusal: &Refusal) -> Vec<u8> {
    let mut bytes = i64::from(refusal.error.code()).to_le_bytes().to_vec();
    let mut words = refusal.reason.as_str();
    while words.len() > MAX_WORDS {
        words = &words[..words.floor_char_boundary(MAX_WORDS)];
    }
    bytes.extend_from_slice(words.as_bytes());
    bytes
}

/// What a refusal says. Words of a peer are shown to people: nothing but printable ones.
pub(crate) fn refused(bytes: &[u8]) -> Refusal {
    let mut fields = Fields(bytes);
    let code = fields.array().map(i64::from_le_bytes);
    let error = code.and_then(error_of).unwrap_or(Error::PeerMisbehaved);
    let words: String =
        String::from_utf8_lossy(fields.0).chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    Refusal::new(error, format!("the peer refuses: {words}"))
}

fn error_of(code: i64) -> Option<Error> {
    Error::ALL.iter().copied().find(|error| i64::from(error.code()) == code)
}

/// The bytes of a bye: whether the other side is cut off, and how many messages were sent.
pub(crate) fn bye(is_protocol: bool, sent: u64) -> Vec<u8> {
    let mut bytes = vec![u8::from(is_protocol)];
    bytes.extend_from_slice(&sent.to_le_bytes());
    bytes
}

/// Whether the peer cuts this side off, and how many messages it has sent, as its bye says.
pub(crate) fn heard_bye(bytes: &[u8]) -> Option<(bool, u64)> {
    let mut fields = Fields(bytes);
    let [is_protocol] = fields.array()?;
    Some((is_protocol != 0, u64::from_le_bytes(fields.array()?)))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
}
