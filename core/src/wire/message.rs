//! The meaning of a frame.

use super::frame::{extension_words, Frame, Incoming, Kind, MAX_EXTENSION};
use super::frame::{FLAG_AHEAD, FLAG_IMMEDIATE, FLAG_LAST, FLAG_PATH, FLAG_SOURCE, FLAG_SYNC};
use super::said::Said;
use super::Malformed;
use crate::error::Error;
use crate::mem::Gather;
use crate::rail::RemoteSource;
use crate::region::Update;

/// What a frame says, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A whole message; the payload is the message.
    Eager {
        /// Tag.
        tag: u64,
        /// Immediate value.
        immediate: Option<u64>,
        /// The sender's operation, when it wants to hear of the match.
        sync: Option<u64>,
    },
    /// A message is ready to be sent.
    Rts {
        /// Tag.
        tag: u64,
        /// Length of the message in bytes.
        len: u64,
        /// The sender's operation.
        op: u64,
        /// Immediate value.
        immediate: Option<u64>,
        /// Where the receiver may fetch it from.
        source: Option<RemoteSource>,
        /// So many of its first bytes come right behind this, in one segment; 0 where all have to be asked for. Not with a source.
        ahead: u64,
    },
    /// The receiver asks for a piece.
    Rtr {
        /// The sender's operation.
        op: u64,
        /// The receiver's operation.
        receiver_op: u64,
        /// Where the piece begins in the message.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The path of the link over which it is to come; 0 is the first.
        path: u32,
    },
    /// A part of a piece; the payload is the part.
    Segment {
        /// The receiver's operation.
        op: u64,
        /// Where the part begins in the message.
        offset: u64,
    },
    /// The receiver is finished.
    Fin {
        /// The sender's operation.
        op: u64,
        /// What went wrong for both sides, if anything.
        status: Result<(), Error>,
    },
    /// A synchronous message was matched.
    Matched {
        /// The sender's operation.
        op: u64,
    },
    /// Send no further messages.
    Stop,
    /// Messages may be sent again.
    Go,
    /// The sender gives up.
    Abort {
        /// The receiver's operation.
        op: u64,
        /// Why.
        error: Error,
    },
    /// Bytes for a region; the payload is the bytes.
    Put {
        /// Number of the region.
        region: u64,
        /// The initiator's operation.
        op: u64,
        /// Where in the region.
        offset: u64,
        /// No part of the same put follows: the owner answers.
        last: bool,
    },
    /// Bytes of a region are wanted.
    Get {
        /// Number of the region.
        region: u64,
        /// The initiator's operation.
        op: u64,
        /// Where in the region.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Bytes of a region; the payload is the bytes.
    Data {
        /// The initiator's operation.
        op: u64,
        /// Where in what was asked for.
        offset: u64,
    },
    /// An atomic operation on a region.
    Atomic {
        /// Number of the region.
        region: u64,
        /// The initiator's operation.
        op: u64,
        /// Where in the region.
        offset: u64,
        /// What is to be done.
        update: Update,
    },
    /// What became of a put, a get that failed or was empty, or an atomic operation.
    Answer {
        /// The initiator's operation.
        op: u64,
        /// What went wrong, if anything.
        status: Result<(), Error>,
        /// The word before an atomic operation, else 0.
        value: u64,
    },
    /// A message in memory that the sender lends.
    Loan {
        /// Tag.
        tag: u64,
        /// Number by which the receiver gives it back.
        loan: u64,
        /// Where the message begins in what the sender shares.
        position: u64,
        /// Its length in bytes.
        len: u64,
        /// Immediate value.
        immediate: Option<u64>,
    },
    /// The receiver gives lent memory back.
    Return {
        /// The number that came with the loan.
        loan: u64,
    },
    /// How far the conversation has come: the first thing that is said over a link that retains.
    Resume {
        /// Sequenced frames that have come over earlier links.
        delivered: u64,
        /// The sender's number of the conversation, not 0.
        conversation: u64,
        /// The receiver's number of it; 0 when the sender has not been told.
        yours: u64,
    },
    /// Bytes of a stream; the payload is the bytes.
    Bytes {
        /// The receiver's stream.
        stream: u64,
    },
    /// What is said about a stream; the payload is the name of a service, when one is asked for.
    Stream {
        /// The receiver's stream; when one is asked for, the sender's.
        stream: u64,
        /// What is said.
        said: Said,
    },
    /// Bytes of a stream, which stay with their sender until [`Said::Pulled`].
    Pull {
        /// The receiver's stream.
        stream: u64,
        /// How many, not 0.
        len: u64,
        /// Where the receiver may fetch them from; none when it has to ask for them.
        source: Option<RemoteSource>,
    },
}

impl Message {
    /// Reads a frame.
    ///
    /// # Errors
    /// When kind, flags, words and payload do not go together.
    pub fn parse(frame: &Incoming<'_>) -> Result<Message, Malformed> {
        extension_words(frame.kind, frame.flags)?;
        let kind = Kind::from_number(frame.kind).ok_or(Malformed("unknown kind of frame"))?;
        if !kind.has_payload() && !frame.payload.is_empty() {
            return Err(Malformed("payload in a frame that has none"));
        }
        let mut words = frame.extension.into_iter();
        let mut next = || words.next().unwrap_or_default();
        let has = |flag| frame.flags & flag != 0;
        Ok(match kind {
            Kind::Eager => Message::Eager {
                tag: frame.word,
                immediate: has(FLAG_IMMEDIATE).then(&mut next),
                sync: has(FLAG_SYNC).then(&mut next),
            },
            Kind::Rts => Message::Rts {
                tag: frame.word,
                immediate: has(FLAG_IMMEDIATE).then(&mut next),
                len: next(),
                op: next(),
                ahead: if has(FLAG_AHEAD) { parse_ahead(next())? } else { 0 },
                source: has(FLAG_SOURCE).then(|| RemoteSource { rkey: next(), address: next() }),
            },
            Kind::Rtr => {
                let (receiver_op, offset, len) = (next(), next(), next());
                offset.checked_add(len).ok_or(Malformed("piece that ends beyond 2^64"))?;
                let path = if has(FLAG_PATH) { parse_path(next())? } else { 0 };
                Message::Rtr { op: frame.word, receiver_op, offset, len, path }
            }
            Kind::Segment => Message::Segment { op: frame.word, offset: next() },
            Kind::Fin => Message::Fin { op: frame.word, status: parse_status(next())? },
            Kind::Matched => Message::Matched { op: frame.word },
            Kind::Stop => Message::Stop,
            Kind::Go => Message::Go,
            Kind::Abort => Message::Abort {
                op: frame.word,
                error: parse_status(next())?.err().ok_or(Malformed("abort without an error"))?,
            },
            Kind::Put => {
                Message::Put { region: frame.word, op: next(), offset: next(), last: has(FLAG_LAST) }
            }
            Kind::Get => Message::Get { region: frame.word, op: next(), offset: next(), len: next() },
            Kind::Data => Message::Data { op: frame.word, offset: next() },
            Kind::Atomic => parse_atomic(frame.word, [next(), next()], [next(), next(), next()])?,
            Kind::Answer => Message::Answer { op: frame.word, status: parse_status(next())?, value: next() },
            Kind::Loan => {
                let immediate = has(FLAG_IMMEDIATE).then(&mut next);
                let (loan, position, len) = (next(), next(), next());
                position.checked_add(len).ok_or(Malformed("loan that ends beyond 2^64"))?;
                Message::Loan { tag: frame.word, loan, position, len, immediate }
            }
            Kind::Return => Message::Return { loan: frame.word },
            Kind::Resume => parse_resume(frame.word, next(), next())?,
            Kind::Bytes => Message::Bytes { stream: frame.word },
            Kind::Stream => parse_stream(frame.word, [next(), next(), next()], frame.payload.len())?,
            Kind::Pull => parse_pull(frame.word, next(), has(FLAG_SOURCE).then(|| [next(), next()]))?,
        })
    }

    /// The frame that says this, with `payload`.
    pub fn frame<'a>(&self, payload: Gather<'a>) -> Frame<'a> {
        let mut frame = Frame::eager(0, payload);
        match *self {
            Message::Eager { tag, immediate, sync } => {
                frame.word = tag;
                push_flagged(&mut frame, FLAG_IMMEDIATE, immediate);
                push_flagged(&mut frame, FLAG_SYNC, sync);
            }
            Message::Rts { tag, len, op, immediate, source, ahead } => {
                (frame.kind, frame.word) = (Kind::Rts, tag);
                push_flagged(&mut frame, FLAG_IMMEDIATE, immediate);
                push(&mut frame, &[len, op]);
                push_flagged(&mut frame, FLAG_AHEAD, (ahead != 0).then_some(ahead));
                if let Some(source) = source.filter(|_| ahead == 0) {
                    frame.flags |= FLAG_SOURCE;
                    push(&mut frame, &[source.rkey, source.address]);
                }
            }
            Message::Rtr { op, receiver_op, offset, len, path } => {
                set(&mut frame, Kind::Rtr, op, &[receiver_op, offset, len]);
                push_flagged(&mut frame, FLAG_PATH, (path != 0).then_some(path.into()));
            }
            Message::Segment { op, offset } => set(&mut frame, Kind::Segment, op, &[offset]),
            Message::Fin { op, status } => {
                set(&mut frame, Kind::Fin, op, &[status.err().map_or(0, status_word)]);
            }
            Message::Matched { op } => (frame.kind, frame.word) = (Kind::Matched, op),
            Message::Stop => frame.kind = Kind::Stop,
            Message::Go => frame.kind = Kind::Go,
            Message::Abort { op, error } => set(&mut frame, Kind::Abort, op, &[status_word(error)]),
            Message::Put { region, op, offset, last } => {
                set(&mut frame, Kind::Put, region, &[op, offset]);
                frame.flags = if last { FLAG_LAST } else { 0 };
            }
            Message::Get { region, op, offset, len } => {
                set(&mut frame, Kind::Get, region, &[op, offset, len]);
            }
            Message::Data { op, offset } => set(&mut frame, Kind::Data, op, &[offset]),
            Message::Atomic { region, op, offset, update } => {
                let [code, operand, compare] = update.words();
                set(&mut frame, Kind::Atomic, region, &[op, offset, code, operand, compare]);
            }
            Message::Answer { op, status, value } => {
                let status = status.err().map_or(0, status_word);
                set(&mut frame, Kind::Answer, op, &[status, value]);
            }
            Message::Loan { tag, loan, position, len, immediate } => {
                (frame.kind, frame.word) = (Kind::Loan, tag);
                push_flagged(&mut frame, FLAG_IMMEDIATE, immediate);
                push(&mut frame, &[loan, position, len]);
            }
            Message::Return { loan } => (frame.kind, frame.word) = (Kind::Return, loan),
            Message::Resume { delivered, conversation, yours } => {
                set(&mut frame, Kind::Resume, delivered, &[conversation, yours]);
            }
            Message::Bytes { stream } => (frame.kind, frame.word) = (Kind::Bytes, stream),
            Message::Stream { stream, said } => set(&mut frame, Kind::Stream, stream, &said.words()),
            Message::Pull { stream, len, source } => set_pull(&mut frame, stream, len, source),
        }
        frame
    }
}

fn parse_resume(delivered: u64, conversation: u64, yours: u64) -> Result<Message, Malformed> {
    if conversation == 0 {
        return Err(Malformed("conversation without a number"));
    }
    Ok(Message::Resume { delivered, conversation, yours })
}

fn parse_stream(stream: u64, words: [u64; 3], payload: usize) -> Result<Message, Malformed> {
    Ok(Message::Stream { stream, said: Said::parse(words, payload)? })
}

fn parse_atomic(region: u64, [op, offset]: [u64; 2], words: [u64; 3]) -> Result<Message, Malformed> {
    let update = Update::from_words(words).ok_or(Malformed("unknown atomic operation"))?;
    Ok(Message::Atomic { region, op, offset, update })
}

fn parse_pull(stream: u64, len: u64, source: Option<[u64; 2]>) -> Result<Message, Malformed> {
    let len = Some(len).filter(|len| *len != 0).ok_or(Malformed("no bytes of a stream to be fetched"))?;
    let source = source.map(|[rkey, address]| RemoteSource { rkey, address });
    Ok(Message::Pull { stream, len, source })
}

fn parse_path(word: u64) -> Result<u32, Malformed> {
    u32::try_from(word).ok().filter(|path| *path != 0).ok_or(Malformed("number of a path that cannot be"))
}

fn parse_ahead(word: u64) -> Result<u64, Malformed> {
    Some(word).filter(|bytes| *bytes != 0).ok_or(Malformed("announcement of no bytes that follow"))
}

fn status_word(error: Error) -> u64 {
    i64::from(error.code()) as u64
}

fn parse_status(word: u64) -> Result<Result<(), Error>, Malformed> {
    match i32::try_from(word as i64).map_err(|_| Malformed("status out of range"))? {
        0 => Ok(Ok(())),
        code => Error::from_code(code).map(Err).ok_or(Malformed("unknown status")),
    }
}

fn set(frame: &mut Frame<'_>, kind: Kind, word: u64, words: &[u64]) {
    (frame.kind, frame.word) = (kind, word);
    push(frame, words);
}

fn push(frame: &mut Frame<'_>, words: &[u64]) {
    for word in words {
        debug_assert!(frame.extension_len < MAX_EXTENSION);
        if let Some(to) = frame.extension.get_mut(frame.extension_len) {
            *to = *word;
            frame.extension_len += 1;
        }
    }
}

fn set_pull(frame: &mut Frame<'_>, stream: u64, len: u64, source: Option<RemoteSource>) {
    set(frame, Kind::Pull, stream, &[len]);
    if let Some(source) = source {
        frame.flags = FLAG_SOURCE;
        push(frame, &[source.rkey, source.address]);
    }
}

fn push_flagged(frame: &mut Frame<'_>, flag: u8, word: Option<u64>) {
    if let Some(word) = word {
        frame.flags |= flag;
        push(frame, &[word]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::PeerBytes;
    use crate::wire::MAX_SERVICE_BYTES;
    use proptest::prelude::*;

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            any::<(u64, u32)>().prop_map(|(stream, window)| Said::Accept { stream, window }),
            prop::sample::select(Error::ALL.to_vec()).prop_map(|error| Said::Refuse { error }),
            any::<u32>().prop_map(|bytes| Said::Credit { bytes }),
            any::<u64>().prop_map(|bytes| Said::Pulled { bytes }),
            Just(Said::End),
            Just(Said::Stop),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let source = prop::option::of(any::<(u64, u64)>())
            .prop_map(|s| s.map(|(rkey, address)| RemoteSource { rkey, address }));
        prop_oneof![
            any::<(u64, Option<u64>, Option<u64>)>().prop_map(|(tag, immediate, sync)| Message::Eager {
                tag,
                immediate,
                sync
            }),
            (any::<u64>(), 1..u64::MAX, source.clone()).prop_map(|(stream, len, source)| Message::Pull {
                stream,
                len,
                source
            }),
            (any::<(u64, u64, u64, Option<u64>)>(), source, any::<u64>()).prop_map(
                |((tag, len, op, immediate), source, ahead)| {
                    let ahead = if source.is_some() { 0 } else { ahead };
                    Message::Rts { tag, len, op, immediate, source, ahead }
                }
            ),
            any::<(u64, u64, u32, u32, u32)>().prop_map(|(op, receiver_op, offset, len, path)| {
                Message::Rtr { op, receiver_op, offset: offset.into(), len: len.into(), path }
            }),
            any::<(u64, u64)>().prop_map(|(op, offset)| Message::Segment { op, offset }),
            (any::<u64>(), prop::option::of(prop::sample::select(Error::ALL.to_vec())))
                .prop_map(|(op, e)| Message::Fin { op, status: e.map_or(Ok(()), Err) }),
            any::<u64>().prop_map(|op| Message::Matched { op }),
            Just(Message::Stop),
            Just(Message::Go),
            (any::<u64>(), prop::sample::select(Error::ALL.to_vec()))
                .prop_map(|(op, error)| Message::Abort { op, error }),
            any::<(u64, u64, u64, bool)>().prop_map(|(region, op, offset, last)| Message::Put {
                region,
                op,
                offset,
                last
            }),
            any::<(u64, u64, u64, u64)>().prop_map(|(region, op, offset, len)| Message::Get {
                region,
                op,
                offset,
                len
            }),
            any::<(u64, u64)>().prop_map(|(op, offset)| Message::Data { op, offset }),
            (any::<(u64, u64, u64, u64, u64)>(), 1..7u64, prop::sample::select(vec![4, 8, 5 << 16]))
                .prop_map(|((region, op, offset, operand, compare), number, rest)| {
                    let update = Update::from_words([number << 8 | rest, operand, compare]).unwrap();
                    Message::Atomic { region, op, offset, update }
                }),
            (any::<(u64, u64)>(), prop::option::of(prop::sample::select(Error::ALL.to_vec())))
                .prop_map(|((op, value), e)| Message::Answer { op, status: e.map_or(Ok(()), Err), value }),
            any::<(u64, u64, u32, u32, Option<u64>)>().prop_map(|(tag, loan, position, len, immediate)| {
                Message::Loan { tag, loan, position: position.into(), len: len.into(), immediate }
            }),
            any::<u64>().prop_map(|loan| Message::Return { loan }),
            any::<u64>().prop_map(|stream| Message::Bytes { stream }),
            (any::<u64>(), said()).prop_map(|(stream, said)| Message::Stream { stream, said }),
            (any::<u64>(), 1..u64::MAX, any::<u64>()).prop_map(|(delivered, conversation, yours)| {
                Message::Resume { delivered, conversation, yours }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_can_be_built_can_be_read(message in message()) {
            let frame = message.frame(Gather::EMPTY);
            prop_assert_eq!(extension_words(frame.kind as u8, frame.flags), Ok(frame.extension_len));
            let incoming = Incoming {
                kind: frame.kind as u8,
                flags: frame.flags,
                word: frame.word,
                extension: frame.extension,
                payload: PeerBytes::EMPTY,
            };
            prop_assert_eq!(Message::parse(&incoming), Ok(message));
            // The short ways build the same frames.
            let short = match message {
                Message::Loan { tag, loan, position, len, immediate: None } => Frame::loan(tag, loan, position, len),
                Message::Return { loan } => Frame::give_back(loan),
                _ => return Ok(()),
            };
            let parts = |f: &Frame<'_>| (f.kind, f.flags, f.word, f.extension, f.extension_len);
            prop_assert_eq!(parts(&short), parts(&frame));
        }

        #[test]
        fn a_stream_is_asked_for_by_a_name(stream: u64, window: u32, len in 0..MAX_SERVICE_BYTES + 2) {
            let said = Said::Open { window };
            let frame = Message::Stream { stream, said }.frame(Gather::EMPTY);
            let name = vec![b'a'; len];
            let incoming = Incoming {
                kind: frame.kind as u8,
                flags: 0,
                word: stream,
                extension: frame.extension,
                payload: PeerBytes::from_slice(&name),
            };
            let expected = (1..=MAX_SERVICE_BYTES).contains(&len).then_some(Message::Stream { stream, said });
            prop_assert_eq!(Message::parse(&incoming).ok(), expected);
        }

        #[test]
        fn any_words_are_refused_or_make_sense(kind: u8, flags: u8, word: u64, extension: [u64; MAX_EXTENSION]) {
            let incoming = Incoming { kind, flags, word, extension, payload: PeerBytes::EMPTY };
            if let Ok(message) = Message::parse(&incoming) {
                let frame = message.frame(Gather::EMPTY);
                prop_assert_eq!((frame.kind as u8, frame.flags), (kind, flags));
                prop_assert!(frame.word == word || matches!(message, Message::Stop | Message::Go));
            }
        }
    }
}
