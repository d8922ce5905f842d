//! What peers say to each other: frames, the handshake, addresses.
//!
//! Each form has a view over bytes that a peer wrote, checked once, and a meaning which is plain data: what can
//! be built can be sent, and what parses makes sense.

mod address;
mod frame;
mod hello;
mod message;
mod network;
mod preface;
mod said;

pub use address::{Address, KnownPeer, ADDRESS_BYTES};
pub use frame::{extension_words, is_sequenced, Frame, Header, Incoming, Kind, HEADER_BYTES, MAX_EXTENSION};
pub use frame::{FLAG_AHEAD, FLAG_IMMEDIATE, FLAG_LAST, FLAG_PATH, FLAG_SOURCE, FLAG_SYNC};
pub use hello::{
    Extension, Hello, Rejection, BYTE_ORDER, EXTENSION_CRITICAL, FEATURE_AHEAD, FEATURE_PATHS, FEATURE_PULL,
    FEATURE_UNHEARD, MAX_HELLO_BYTES, VERSION_MAX, VERSION_MIN,
};
pub use message::Message;
pub use network::NetAddresses;
pub use preface::{Preface, PREFACE_BYTES};
pub use said::{Said, MAX_SERVICE_BYTES};

/// A node: one fabric of one process. 128 random bits, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The id of these bytes; none when all are zero.
    pub fn new(bytes: [u8; 16]) -> Option<NodeId> {
        (bytes != [0; 16]).then_some(NodeId(bytes))
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Display for NodeId {
    /// Thirty-two hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl std::str::FromStr for NodeId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<NodeId, Malformed> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(Malformed("node id is not 32 hexadecimal digits"));
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| Malformed("node id is not text"))?;
            *byte = u8::from_str_radix(text, 16)
                .map_err(|_| Malformed("node id has a digit that is not hexadecimal"))?;
        }
        NodeId::new(bytes).ok_or(Malformed("node id is zero"))
    }
}

/// Bytes that make no sense, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads little-endian fields from the front; what is missing is an error.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed("cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
}
