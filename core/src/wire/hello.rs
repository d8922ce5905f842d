//! The handshake: the first thing that two fabrics say to each other on any rail.
//!
//! Little-endian, whatever the hosts:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `GNET` |
//! | 4 | 2 | lowest protocol version spoken |
//! | 6 | 2 | highest protocol version spoken |
//! | 8 | 8 | features understood |
//! | 16 | 8 | features that the other side must understand |
//! | 24 | 1 | byte order of frames and shared words: 1 little, 2 big |
//! | 25 | 3 | 0 |
//! | 28 | 4 | generation of the rail: grows each time the link is made anew |
//! | 32 | 16 | node id |
//! | 48 | 8 | incarnation |
//! | 56 | ... | extensions: type (2), length (2), bytes |
//!
//! Extensions of unknown type are skipped, unless bit 15 of the type says that they must be understood.

use super::{Malformed, NodeId, Reader};

const MAGIC: [u8; 4] = *b"GNET";
const FIXED_BYTES: usize = 56;
/// Longest handshake that is read.
pub const MAX_HELLO_BYTES: usize = 1024;
/// Lowest protocol version that this library speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest protocol version that this library speaks.
pub const VERSION_MAX: u16 = 1;
/// Byte order of this host, as the handshake says it.
pub const BYTE_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
/// A link may have several paths: pieces are asked for over the one that the receiver chooses.
pub const FEATURE_PATHS: u64 = 1;
/// Announced messages may have their first bytes right behind the announcement.
pub const FEATURE_AHEAD: u64 = 2;
/// Long parts of streams may be fetched from their writer's memory.
pub const FEATURE_PULL: u64 = 4;
/// A caller may send frames before it has heard the other side's handshake, and so go on over a second link where nobody knows of a
/// first one.
pub const FEATURE_UNHEARD: u64 = 8;
/// Features that this library understands.
pub(super) const FEATURES: u64 = FEATURE_PATHS | FEATURE_AHEAD | FEATURE_PULL | FEATURE_UNHEARD;
/// Extensions with this bit in their type must be understood.
pub const EXTENSION_CRITICAL: u16 = 0x8000;

/// What a fabric says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version spoken.
    pub version_min: u16,
    /// Highest protocol version spoken.
    pub version_max: u16,
    /// Features understood.
    pub features: u64,
    /// Features that the reader must understand.
    pub required: u64,
    /// Byte order of frames and shared words.
    pub byte_order: u8,
    /// Generation of the rail.
    pub generation: u32,
    /// Who speaks.
    pub node: NodeId,
    /// In which life.
    pub incarnation: u64,
    /// What rails add.
    pub extensions: Vec<Extension>,
}

/// An addition to the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Type, with [`EXTENSION_CRITICAL`] when it must be understood.
    pub kind: u16,
    /// Content.
    pub bytes: Vec<u8>,
}

/// Why two fabrics cannot talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The bytes are no handshake.
    Malformed(Malformed),
    /// No version is spoken by both.
    Version {
        /// Theirs, lowest and highest.
        theirs: (u16, u16),
    },
    /// The other side requires features that this library lacks.
    Features(u64),
    /// The other host stores numbers the other way around.
    ByteOrder,
    /// An extension that must be understood is not.
    Extension(u16),
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rejection::Malformed(why) => write!(f, "handshake is malformed: {why}"),
            Rejection::Version { theirs: (low, high) } => write!(
                f,
                "peer speaks protocol versions {low} to {high}, this library {VERSION_MIN} to {VERSION_MAX}"
            ),
            Rejection::Features(bits) => write!(f, "peer requires unknown features {bits:#x}"),
            Rejection::ByteOrder => f.write_str("peer has the other byte order"),
            Rejection::Extension(kind) => write!(f, "peer requires the unknown extension {kind:#x}"),
        }
    }
}

impl Hello {
    /// The handshake of this library for a node.
    pub fn new(node: NodeId, incarnation: u64, generation: u32) -> Hello {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: FEATURES,
            required: 0,
            byte_order: BYTE_ORDER,
            generation,
            node,
            incarnation,
            extensions: Vec::new(),
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + 64);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version_min.to_le_bytes());
        out.extend_from_slice(&self.version_max.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&self.required.to_le_bytes());
        out.extend_from_slice(&[self.byte_order, 0, 0, 0]);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(self.node.bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        for extension in &self.extensions {
            let len = u16::try_from(extension.bytes.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&extension.kind.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(extension.bytes.get(..usize::from(len)).unwrap_or_default());
        }
        out
    }

    /// Reads a handshake, whatever version it speaks.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn parse(bytes: &[u8]) -> Result<Hello, Malformed> {
        if bytes.len() > MAX_HELLO_BYTES {
            return Err(Malformed("longer than 1024 bytes"));
        }
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC {
            return Err(Malformed("does not begin with GNET"));
        }
        let (version_min, version_max) = (reader.u16()?, reader.u16()?);
        if version_min > version_max {
            return Err(Malformed("lowest version above the highest"));
        }
        let (features, required) = (reader.u64()?, reader.u64()?);
        let [byte_order, ..] = reader.array::<4>()?;
        let generation = reader.u32()?;
        let node = NodeId::new(reader.array()?).ok_or(Malformed("no node id"))?;
        let incarnation = reader.u64()?;
        let mut extensions = Vec::new();
        while !reader.0.is_empty() {
            let (kind, len) = (reader.u16()?, reader.u16()?);
            extensions.push(Extension { kind, bytes: reader.take(len.into())?.to_vec() });
        }
        Ok(Hello {
            version_min,
            version_max,
            features,
            required,
            byte_order,
            generation,
            node,
            incarnation,
            extensions,
        })
    }

    /// Decides whether we can talk to whoever said this: the version to speak. `known` are the extensions that the
    /// caller understands.
    ///
    /// # Errors
    /// Why not.
    pub fn agree(&self, known: &[u16]) -> Result<u16, Rejection> {
        let version = self.version_max.min(VERSION_MAX);
        if version < self.version_min.max(VERSION_MIN) {
            return Err(Rejection::Version { theirs: (self.version_min, self.version_max) });
        }
        if self.required & !FEATURES != 0 {
            return Err(Rejection::Features(self.required & !FEATURES));
        }
        if self.byte_order != BYTE_ORDER {
            return Err(Rejection::ByteOrder);
        }
        let must = |e: &&Extension| e.kind & EXTENSION_CRITICAL != 0 && !known.contains(&e.kind);
        match self.extensions.iter().find(must) {
            Some(unknown) => Err(Rejection::Extension(unknown.kind)),
            None => Ok(version),
        }
    }

    /// The content of an extension.
    pub fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.kind == kind).map(|e| e.bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello::new(NodeId::new([3; 16]).unwrap(), 5, 1)
    }

    #[test]
    fn both_sides_agree_on_the_highest_common_version() {
        let mut theirs = hello();
        theirs.version_max = 9;
        assert_eq!(theirs.agree(&[]), Ok(VERSION_MAX));
        theirs.version_min = 7;
        assert_eq!(theirs.agree(&[]), Err(Rejection::Version { theirs: (7, 9) }));
    }

    #[test]
    fn what_must_be_understood_is_not_skipped() {
        let mut theirs = hello();
        theirs.extensions.push(Extension { kind: 0x17, bytes: vec![1, 2, 3] });
        assert_eq!(theirs.agree(&[]), Ok(1));
        theirs.extensions.push(Extension { kind: EXTENSION_CRITICAL | 1, bytes: vec![] });
        assert_eq!(theirs.agree(&[]), Err(Rejection::Extension(EXTENSION_CRITICAL | 1)));
        assert_eq!(theirs.agree(&[EXTENSION_CRITICAL | 1]), Ok(1));
        theirs.required = 1 << 63;
        assert_eq!(theirs.agree(&[EXTENSION_CRITICAL | 1]), Err(Rejection::Features(1 << 63)));
        theirs.required = 0;
        theirs.byte_order = 3 - BYTE_ORDER;
        assert_eq!(theirs.agree(&[EXTENSION_CRITICAL | 1]), Err(Rejection::ByteOrder));
        assert_eq!(Hello::parse(&theirs.encode()), Ok(theirs));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_round_trip(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            start in 0..3usize,
        ) {
            // Two in three cases begin like a handshake, so that the parser gets beyond the magic.
            if start > 0 {
                let mut valid = hello().encode();
                valid.extend(&bytes);
                bytes = valid;
            }
            if let Ok(hello) = Hello::parse(&bytes) {
                prop_assert_eq!(Hello::parse(&hello.encode()), Ok(hello));
            }
        }
    }
}
