//! Operations under way.

use std::collections::VecDeque;

use super::loan_table::{LendingMemory, Loaned};
use super::stripe::Missing;
use crate::loan::LentSlot;
use crate::matching::Key;
use crate::mem::Iov;
use crate::rail::{LinkId, PeerId, RemoteSource};

/// Which completion queue an operation reports to.
pub type CqId = Key;

/// Number of an operation, for cancellation and for the peer. Never 0.
///
/// Bits 31 and 30 tell what it is; the rest is a [`Key`]. Slabs stay below 2^30 places by the limit on operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpId {
    Send(Key),
    /// A posted receive.
    Receive(Key),
    /// A receive that found its message announced: it was never posted.
    Incoming(Key),
    /// An operation on a peer's region.
    Remote(Key),
}

const RECEIVE_BIT: u64 = 1 << 31;
const INCOMING_BIT: u64 = 1 << 30;

impl OpId {
    #[inline]
    pub(super) fn to_bits(self) -> u64 {
        match self {
            OpId::Send(key) => key.to_bits(),
            OpId::Receive(key) => key.to_bits() | RECEIVE_BIT,
            OpId::Incoming(key) => key.to_bits() | INCOMING_BIT,
            OpId::Remote(key) => key.to_bits() | RECEIVE_BIT | INCOMING_BIT,
        }
    }

    #[inline]
    pub(super) fn from_bits(bits: u64) -> OpId {
        let key = Key::from_bits(bits & !(RECEIVE_BIT | INCOMING_BIT));
        match (bits & RECEIVE_BIT != 0, bits & INCOMING_BIT != 0) {
            (false, false) => OpId::Send(key),
            (true, false) => OpId::Receive(key),
            (true, true) => OpId::Remote(key),
            (false, true) => OpId::Incoming(key),
        }
    }
}

/// The memory of an operation. What most have takes no memory of its own, and is dropped at no cost.
#[derive(Debug)]
pub(super) enum IovList {
    One(Iov),
    /// Of a receive: the message is lent to the program, wherever it lies.
    Lend(LentSlot),
    More(Box<MoreMemory>),
}

/// See [`IovList::More`].
#[derive(Debug)]
pub(super) enum MoreMemory {
    Many(Box<[Iov]>),
    /// Of a send: memory of a loan.
    Loan(Loaned),
    /// As [`IovList::Lend`], with memory for a message that was announced.
    Lending(LendingMemory),
}

impl IovList {
    #[inline]
    pub(super) fn new(iov: &[Iov]) -> IovList {
        match iov {
            [] => IovList::One(Iov::EMPTY),
            [one] => IovList::One(*one),
            many => IovList::More(Box::new(MoreMemory::Many(many.into()))),
        }
    }

    pub(super) fn of_loan(loaned: Loaned) -> IovList {
        IovList::More(Box::new(MoreMemory::Loan(loaned)))
    }

    /// The loan of a send, if it is one.
    pub(super) fn loaned(&self) -> Option<&Loaned> {
        match self {
            IovList::More(more) => match &**more {
                MoreMemory::Loan(loaned) => Some(loaned),
                _ => None,
            },
            _ => None,
        }
    }

    /// A loan of a send is copied as any message.
    pub(super) fn forget_position(&mut self) {
        if let IovList::More(more) = self {
            if let MoreMemory::Loan(loaned) = &mut **more {
                loaned.position = None;
            }
        }
    }

    /// True for a receive of loans.
    pub(super) fn is_lent(&self) -> bool {
        match self {
            IovList::One(_) => false,
            IovList::Lend(_) => true,
            IovList::More(more) => matches!(**more, MoreMemory::Lending(_)),
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[Iov] {
        match self {
            IovList::One(one) => std::slice::from_ref(one),
            IovList::Lend(_) => &[],
            IovList::More(more) => match &**more {
                MoreMemory::Many(many) => many,
                MoreMemory::Loan(loaned) => std::slice::from_ref(&loaned.iov),
                MoreMemory::Lending(lending) => std::slice::from_ref(&lending.iov),
            },
        }
    }
}

/// A piece of a message that the receiver asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// The receiver's operation.
    pub(super) receiver_op: u64,
    /// Next byte to send.
    pub(super) offset: u64,
    /// Where the piece ends.
    pub(super) end: u64,
}

/// Most pieces that a receiver may have asked for and not received.
pub(super) const MAX_PIECES: usize = 64;

/// How far a send has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits its turn; no peer knows of it.
    Queued,
    /// The rail still reads the memory of an eager message.
    InRail,
    /// Eager and delivered to the rail; waits for the match.
    AwaitsMatch,
    /// Announced; the receiver asks for pieces and says when it is finished.
    Announced {
        pieces: VecDeque<Piece>,
        source: Option<RemoteSource>,
        /// First bytes that went right behind the announcement.
        ahead: usize,
    },
}

/// A send that was not done at once.
#[derive(Debug)]
pub(super) struct SendOp {
    pub(super) peer: PeerId,
    /// The endpoint handle that started it.
    pub(super) owner: u64,
    pub(super) cq: CqId,
    pub(super) context: u64,
    pub(super) iov: IovList,
    pub(super) len: u64,
    pub(super) tag: u64,
    pub(super) immediate: Option<u64>,
    pub(super) sync: bool,
    pub(super) stage: Stage,
}

/// A posted receive.
#[derive(Debug)]
pub(super) struct RecvOp {
    pub(super) iov: IovList,
    pub(super) cq: CqId,
    pub(super) context: u64,
}

/// A receive whose message comes in segments, or is to be fetched.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) receive: RecvOp,
    /// Number that the caller knows the receive by.
    pub(super) op: u64,
    pub(super) peer: PeerId,
    pub(super) sender_op: u64,
    pub(super) tag: u64,
    pub(super) immediate: Option<u64>,
    /// Length of the message.
    pub(super) total: u64,
    /// Bytes that fit into the buffer.
    pub(super) wanted: u64,
    /// Bytes that have come: the first ones, unless the message is divided.
    pub(super) received: u64,
    /// The message is divided, and this was not asked for.
    pub(super) missing: Option<Box<Missing>>,
    pub(super) source: Option<RemoteSource>,
    /// The part that a rail is fetching.
    pub(super) fetching: Option<Fetching>,
}

/// A part of a message that a rail is fetching.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetching {
    pub(super) rail: usize,
    pub(super) link: LinkId,
    pub(super) token: u64,
    /// Its length in bytes.
    pub(super) len: u64,
}

/// A message without a receive yet.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) len: u64,
    pub(super) immediate: Option<u64>,
    pub(super) body: EarlyBody,
}

#[derive(Debug)]
pub(super) enum EarlyBody {
    /// All of it, small.
    Words([u64; 6]),
    /// All of it.
    Bytes(Box<[u8]>),
    /// All of it; the sender waits to hear of the match.
    Sync { bytes: Box<[u8]>, sender_op: u64 },
    /// Announced by the sender.
    Announced { sender_op: u64, source: Option<RemoteSource> },
    /// The same, with the first bytes, as far as they have come; there is `room` for those that come unasked.
    Begun { sender_op: u64, bytes: Vec<u8>, room: usize },
    /// Lent by the sender under this number; the memory stays readable until the rail is told.
    Loan { loan: u64, message: Iov },
    /// Announced by a sender that has gone since.
    Lost,
}

impl Early {
    /// True when its bytes can be read.
    pub(super) fn is_here(&self) -> bool {
        !matches!(self.body, EarlyBody::Announced { .. } | EarlyBody::Begun { .. } | EarlyBody::Lost)
    }

    /// An announced message has to be asked for in pieces.
    pub(super) fn forget_source(&mut self) {
        if let EarlyBody::Announced { source, .. } = &mut self.body {
            *source = None;
        }
    }

    /// Its sender has gone: what is not here whole never comes.
    pub(super) fn lose(&mut self) {
        self.body = match std::mem::replace(&mut self.body, EarlyBody::Lost) {
            EarlyBody::Begun { bytes, .. } if bytes.len() as u64 == self.len => {
                EarlyBody::Bytes(bytes.into_boxed_slice())
            }
            EarlyBody::Announced { .. } | EarlyBody::Begun { .. } => EarlyBody::Lost,
            other => other,
        };
    }

    /// Bytes of memory that it takes, for the bound on the store.
    pub(super) fn cost(&self) -> usize {
        match &self.body {
            EarlyBody::Bytes(bytes) | EarlyBody::Sync { bytes, .. } => bytes.len(),
            EarlyBody::Begun { room, .. } => *room,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_numbers_tell_what_they_name() {
        let mut slab = crate::matching::Slab::default();
        let key = slab.insert(());
        for op in [OpId::Send(key), OpId::Receive(key), OpId::Incoming(key), OpId::Remote(key)] {
            assert_eq!(OpId::from_bits(op.to_bits()), op);
            assert_ne!(op.to_bits(), 0);
        }
    }
}
