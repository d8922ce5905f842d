//! Frames: the unit that rails carry.
//!
//! A frame is a kind, flags, one word (a tag or an operation id), up to five extension words that kind and
//! flags call for, and a payload. Rails on shared memory put it into slots; rails on byte streams use the
//! encoding of [`Header`]:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of the payload, little-endian |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags |
//! | 6 | 1 | number of extension words |
//! | 7 | 1 | 0 |
//! | 8 | 8 | word |
//! | 16 | 8 each | extension words |

use super::{Malformed, Reader};
use crate::mem::{Gather, PeerBytes};

/// Bytes of an encoded header without extension words.
pub const HEADER_BYTES: usize = 16;
/// Most extension words.
pub const MAX_EXTENSION: usize = 5;

/// The first extension word is the immediate value.
pub const FLAG_IMMEDIATE: u8 = 1;
/// The sender wants to hear of the match; its operation id is an extension word.
pub const FLAG_SYNC: u8 = 2;
/// The receiver may fetch the payload itself from the memory that two extension words name.
pub const FLAG_SOURCE: u8 = 4;
/// The last part of a put: the owner answers.
pub const FLAG_LAST: u8 = 8;
/// The piece is to come over another path of the link than the first; its number is an extension word.
pub const FLAG_PATH: u8 = 16;
/// The first bytes of the announced message come right behind the announcement, without being asked for; how many is an extension
/// word.
pub const FLAG_AHEAD: u8 = 32;

/// Kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A whole message. Word: tag.
    Eager = 1,
    /// Ready to send: announces a message. Word: tag.
    Rts = 2,
    /// Ready to receive: asks for a piece of an announced message. Word: the sender's operation.
    Rtr = 3,
    /// Part of a piece. Word: the receiver's operation.
    Segment = 4,
    /// The receiver is finished with a message. Word: the sender's operation.
    Fin = 5,
    /// A synchronous message was matched. Word: the sender's operation.
    Matched = 6,
    /// Send no further messages until [`Kind::Go`]: the unexpected store is full.
    Stop = 7,
    /// Messages may be sent again.
    Go = 8,
    /// The sender gives a message up that the receiver waits for. Word: the receiver's operation.
    Abort = 9,
    /// Part of a put. Word: the region.
    Put = 16,
    /// Asks for bytes of a region. Word: the region.
    Get = 17,
    /// Part of what was asked for. Word: the initiator's operation.
    Data = 18,
    /// An atomic operation. Word: the region.
    Atomic = 19,
    /// The owner of a region has done what it was asked for, or says why not. Word: the initiator's operation.
    Answer = 20,
    /// A message that the receiver reads where it lies, in memory that the sender lends. Word: tag.
    Loan = 10,
    /// The receiver gives lent memory back. Word: the loan.
    Return = 11,
    /// Bytes of a stream. Word: the receiver's stream.
    Bytes = 13,
    /// What is said about a stream. Word: the receiver's stream; when one is asked for, the sender's.
    Stream = 14,
    /// Bytes of a stream that the receiver may fetch from the sender's memory. Word: the receiver's stream.
    Pull = 15,
    /// The first frame of a link over a rail that retains: how far the conversation has come. Word: sequenced frames that
    /// have come over earlier links.
    Resume = 12,
}

impl Kind {
    /// The kind of this number.
    #[inline]
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Eager,
            2 => Kind::Rts,
            3 => Kind::Rtr,
            4 => Kind::Segment,
            5 => Kind::Fin,
            6 => Kind::Matched,
            7 => Kind::Stop,
            8 => Kind::Go,
            9 => Kind::Abort,
            16 => Kind::Put,
            17 => Kind::Get,
            18 => Kind::Data,
            19 => Kind::Atomic,
            20 => Kind::Answer,
            10 => Kind::Loan,
            11 => Kind::Return,
            12 => Kind::Resume,
            13 => Kind::Bytes,
            14 => Kind::Stream,
            15 => Kind::Pull,
            _ => return None,
        })
    }

    /// Whether frames of this kind may have a payload.
    pub(super) fn has_payload(self) -> bool {
        use Kind::{Bytes, Data, Eager, Put, Segment, Stream};
        matches!(self, Eager | Segment | Put | Data | Bytes | Stream)
    }
}

/// Whether frames of the kind of this number are counted, retained until the peer has them, and repeated over the next link
/// when this one breaks. The bytes of segments stay in the sender's memory; what is missing of them is asked for anew.
#[inline]
pub const fn is_sequenced(kind: u8) -> bool {
    kind != Kind::Segment as u8 && kind != Kind::Resume as u8
}

/// Number of extension words that a frame of this kind with these flags has.
///
/// # Errors
/// When the kind is unknown, or a flag is set that the kind does not have.
#[inline]
pub fn extension_words(kind: u8, flags: u8) -> Result<usize, Malformed> {
    const { assert!(Kind::Eager as u8 == 1) };
    if kind == Kind::Eager as u8 && flags == 0 {
        return Ok(0);
    }
    let (base, allowed) = match Kind::from_number(kind).ok_or(Malformed("unknown kind of frame"))? {
        Kind::Eager => (0, FLAG_IMMEDIATE | FLAG_SYNC),
        Kind::Rts if flags & FLAG_AHEAD != 0 => (3, FLAG_IMMEDIATE | FLAG_AHEAD),
        Kind::Rts => (2, FLAG_IMMEDIATE | FLAG_SOURCE),
        Kind::Rtr => (3, FLAG_PATH),
        Kind::Segment => (1, 0),
        Kind::Fin | Kind::Abort => (1, 0),
        Kind::Loan => (3, FLAG_IMMEDIATE),
        Kind::Matched | Kind::Stop | Kind::Go | Kind::Return => (0, 0),
        Kind::Put => (2, FLAG_LAST),
        Kind::Get => (3, 0),
        Kind::Data => (1, 0),
        Kind::Atomic => (5, 0),
        Kind::Answer => (2, 0),
        Kind::Resume => (2, 0),
        Kind::Bytes => (0, 0),
        Kind::Stream => (3, 0),
        Kind::Pull => (1, FLAG_SOURCE),
    };
    if flags & !allowed != 0 {
        return Err(Malformed("flag that this kind of frame does not have"));
    }
    let immediate = usize::from(flags & FLAG_IMMEDIATE != 0);
    let sync = usize::from(flags & FLAG_SYNC != 0);
    let source = usize::from(flags & FLAG_SOURCE != 0) * 2;
    let path = usize::from(flags & FLAG_PATH != 0);
    Ok(base + immediate + sync + source + path)
}

/// A frame to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// `FLAG_*`.
    pub flags: u8,
    /// Tag or operation id.
    pub word: u64,
    /// The words that kind and flags call for, from the front.
    pub extension: [u64; MAX_EXTENSION],
    /// How many of them.
    pub extension_len: usize,
    /// Memory of the caller.
    pub payload: Gather<'a>,
}

impl<'a> Frame<'a> {
    /// A message without extension: the hot path.
    #[inline(always)]
    pub fn eager(tag: u64, payload: Gather<'a>) -> Frame<'a> {
        Frame {
            kind: Kind::Eager,
            flags: 0,
            word: tag,
            extension: [0; MAX_EXTENSION],
            extension_len: 0,
            payload,
        }
    }

    /// A message of `len` bytes at `position` in what the sender shares, lent under the number `loan`: the hot path.
    #[inline(always)]
    pub fn loan(tag: u64, loan: u64, position: u64, len: u64) -> Frame<'static> {
        let extension = [loan, position, len, 0, 0];
        Frame { kind: Kind::Loan, flags: 0, word: tag, extension, extension_len: 3, payload: Gather::EMPTY }
    }

    /// Gives the loan of this number back: the hot path.
    #[inline(always)]
    pub fn give_back(loan: u64) -> Frame<'static> {
        Frame { kind: Kind::Return, ..Frame::eager(loan, Gather::EMPTY) }
    }

    /// The extension words in use.
    #[inline(always)]
    pub fn extension(&self) -> &[u64] {
        self.extension.get(..self.extension_len).unwrap_or(&self.extension)
    }
}

/// A frame that has arrived: kind and flags are numbers that the peer chose, until [`super::Message::parse`].
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Number of the kind.
    pub kind: u8,
    /// Flags of the protocol.
    pub flags: u8,
    /// Tag or operation id.
    pub word: u64,
    /// Extension words; those that kind and flags do not call for mean nothing.
    pub extension: [u64; MAX_EXTENSION],
    /// What came with it.
    pub payload: PeerBytes<'a>,
}

/// The encoded form of a frame without its payload, for byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload that follow.
    pub payload_len: u32,
    /// Number of the kind.
    pub kind: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Tag or operation id.
    pub word: u64,
    /// Extension words.
    pub extension: [u64; MAX_EXTENSION],
}

impl Header {
    /// The header of a frame.
    ///
    /// # Errors
    /// When the payload has 4 GiB or more: no rail's segments are that long.
    pub fn of(frame: &Frame<'_>) -> Result<Header, Malformed> {
        Ok(Header {
            payload_len: u32::try_from(frame.payload.len())
                .map_err(|_| Malformed("payload of 4 GiB or more"))?,
            kind: frame.kind as u8,
            flags: frame.flags,
            word: frame.word,
            extension: frame.extension,
        })
    }

    /// Appends the encoded form.
    ///
    /// # Errors
    /// When kind and flags do not go together.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let words = extension_words(self.kind, self.flags)?;
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        out.extend_from_slice(&[self.kind, self.flags, words as u8, 0]);
        out.extend_from_slice(&self.word.to_le_bytes());
        for word in self.extension.iter().take(words) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Reads a header from the front of `bytes`: the header and its length. `None` when more bytes are needed.
    ///
    /// # Errors
    /// When no bytes that follow could make it a header.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let mut reader = Reader(fixed);
        let payload_len = reader.u32()?;
        let [kind, flags, words, zero] = reader.array()?;
        let word = reader.u64()?;
        if extension_words(kind, flags)? != usize::from(words) || zero != 0 {
            return Err(Malformed("number of extension words does not fit kind and flags"));
        }
        let total = HEADER_BYTES + usize::from(words) * 8;
        let Some(rest) = bytes.get(HEADER_BYTES..total) else {
            return Ok(None);
        };
        let mut extension = [0; MAX_EXTENSION];
        let mut reader = Reader(rest);
        for to in extension.iter_mut().take(usize::from(words)) {
            *to = reader.u64()?;
        }
        Ok(Some((Header { payload_len, kind, flags, word, extension }, total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(kind in 1..=20u8, flags in 0..64u8, word: u64, ext: [u64; MAX_EXTENSION], payload_len: u32) {
            let Ok(words) = extension_words(kind, flags) else { return Ok(()) };
            let mut extension = ext;
            extension[words..].fill(0);
            let header = Header { payload_len, kind, flags, word, extension };
            let mut bytes = Vec::new();
            header.encode(&mut bytes).unwrap();
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
            }
            prop_assert_eq!(Header::parse(&bytes), Ok(Some((header, bytes.len()))));
        }

        #[test]
        fn any_bytes_are_refused_or_make_sense(bytes: Vec<u8>) {
            if let Ok(Some((header, len))) = Header::parse(&bytes) {
                let mut again = Vec::new();
                header.encode(&mut again).unwrap();
                prop_assert_eq!(&bytes[..len], &again[..]);
            }
        }
    }

    #[test]
    fn unknown_kinds_and_flags_are_refused() {
        assert!(extension_words(0, 0).is_err());
        assert!(extension_words(21, 0).is_err());
        assert!(extension_words(Kind::Pull as u8, FLAG_LAST).is_err());
        assert!(extension_words(Kind::Bytes as u8, FLAG_SYNC).is_err());
        assert!(extension_words(Kind::Eager as u8, FLAG_SOURCE).is_err());
        assert!(extension_words(Kind::Fin as u8, FLAG_IMMEDIATE).is_err());
        assert!(extension_words(Kind::Loan as u8, FLAG_SYNC).is_err());
        assert!(extension_words(Kind::Return as u8, FLAG_IMMEDIATE).is_err());
        assert!(extension_words(Kind::Rts as u8, 0x80).is_err());
        assert!(extension_words(Kind::Segment as u8, FLAG_PATH).is_err());
    }
}
