//! What the responder says: acknowledgements, refusals, data, in the order of the requests; and what it remembers to say again.

use std::collections::VecDeque;

use super::{encode, Host, Ident};
use crate::attr::{Mtu, RtrAttr};
use crate::wire::{Aeth, Bth, Credits, Header, NakCode, Packet, Psn, Reth, RnrTimer, Syndrome};
use crate::wr::Rkey;

/// Answers that may wait besides those to reads and atomic operations: more are dropped, and asked for again.
const SPARE: usize = 8;

/// Something to say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// All up to here is done.
    Ack(Psn),
    RnrNak(Psn, RnrTimer),
    Nak(Psn, NakCode),
    Read(ReadReply),
    Atomic(AtomicReply),
}

/// Answers to a request to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadReply {
    /// Number of the first answer.
    pub(super) psn: Psn,
    /// What was asked for.
    pub(super) reth: Reth,
    /// Answers that were given.
    pub(super) sent: u32,
    /// It was asked for before, and counts no more.
    again: bool,
}

/// The answer to an atomic operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtomicReply {
    psn: Psn,
    /// What was in memory before.
    original: u64,
    /// As of reads.
    again: bool,
}

/// A request that was done, and must give the same answer when it comes again.
#[derive(Debug, Clone, Copy)]
enum Done {
    Read { psn: Psn, reth: Reth },
    Atomic { psn: Psn, original: u64 },
}

/// The answers of a responder.
pub(super) struct Replies {
    ident: Ident,
    queue: VecDeque<Reply>,
    /// The last reads and atomic operations, as many as the peer may have under way.
    done: VecDeque<Done>,
    most: usize,
}

impl Replies {
    pub(super) fn new(ident: Ident) -> Replies {
        Replies { ident, queue: VecDeque::new(), done: VecDeque::new(), most: 0 }
    }

    /// Whether there is nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Of reads and atomic operations, `most` may be under way.
    pub(super) fn start(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Acknowledges everything up to `psn`. Acknowledgements that wait with nothing behind them become one.
    pub(super) fn acknowledge(&mut self, psn: Psn) {
        match self.queue.back_mut() {
            Some(Reply::Ack(last)) => *last = psn,
            _ => self.push(Reply::Ack(psn)),
        }
    }

    pub(super) fn push(&mut self, reply: Reply) {
        if self.queue.len() < 2 * self.most + SPARE {
            self.queue.push_back(reply);
        }
    }

    /// Says nothing more after this.
    pub(super) fn push_last(&mut self, psn: Psn, code: NakCode) {
        self.queue.push_back(Reply::Nak(psn, code));
    }

    /// True when the peer has as many reads and atomic operations under way as it may. What comes again does not count: the network
    /// may have repeated it.
    pub(super) fn are_full(&self) -> bool {
        let is_new = |reply: &&Reply| match reply {
            Reply::Read(read) => !read.again,
            Reply::Atomic(atomic) => !atomic.again,
            _ => false,
        };
        self.queue.iter().filter(is_new).count() >= self.most
    }

    /// Answers a new request to read.
    pub(super) fn read(&mut self, psn: Psn, reth: Reth) {
        self.remember(Done::Read { psn, reth });
        self.push(Reply::Read(ReadReply { psn, reth, sent: 0, again: false }));
    }

    /// Answers a new atomic operation.
    pub(super) fn atomic(&mut self, psn: Psn, original: u64) {
        self.remember(Done::Atomic { psn, original });
        self.push(Reply::Atomic(AtomicReply { psn, original, again: false }));
    }

    fn remember(&mut self, done: Done) {
        if self.done.len() >= self.most {
            self.done.pop_front();
        }
        self.done.push_back(done);
    }

    /// Answers an atomic operation that comes again: with what it found the first time. One that is forgotten gets no answer.
    pub(super) fn atomic_again(&mut self, psn: Psn) {
        let found = self.done.iter().find_map(|done| match done {
            Done::Atomic { psn: first, original } if *first == psn => Some(*original),
            _ => None,
        });
        if let Some(original) = found {
            self.push(Reply::Atomic(AtomicReply { psn, original, again: true }));
        }
    }

    /// Answers a request to read that comes again, whole or from some answer on. Another one under an old number gets no answer.
    pub(super) fn read_again(&mut self, psn: Psn, reth: Reth, mtu: Mtu) {
        let is_part = |first: Psn, whole: &Reth| {
            let skip = u64::from(psn.since(first)) * u64::from(mtu.bytes());
            let end = skip + u64::from(reth.length);
            psn.since(first) < mtu.packets(whole.length)
                && reth.rkey == whole.rkey
                && reth.address == whole.address.wrapping_add(skip)
                && end <= u64::from(whole.length)
        };
        let known = self
            .done
            .iter()
            .any(|done| matches!(done, Done::Read { psn: first, reth } if is_part(*first, reth)));
        if !known {
            return;
        }
        // The answer may still be under way: then it goes on, or begins anew from there, instead of being followed by another one. What
        // is asked for may be a part, as when the peer only looks whether somebody is there: the rest of the answer comes as well.
        let waiting = self.queue.iter_mut().find_map(|reply| match reply {
            Reply::Read(read) if is_part(read.psn, &read.reth) || read.psn == psn => Some(read),
            _ => None,
        });
        match waiting {
            Some(read) if read.comes_to(psn, &reth, mtu) => {}
            Some(read) => {
                let length = read.end().saturating_sub(reth.address).max(reth.length.into());
                let reth = Reth { length: u32::try_from(length).unwrap_or(reth.length), ..reth };
                *read = ReadReply { psn, reth, sent: 0, again: read.again };
            }
            None => self.push(Reply::Read(ReadReply { psn, reth, sent: 0, again: true })),
        }
    }

    /// Appends the next packet to `out`; false when there is nothing to say.
    ///
    /// # Errors
    /// The memory that a new read was promised is gone: the number of the answer that cannot be given.
    pub(super) fn next(
        &mut self,
        msn: u32,
        peer: &RtrAttr,
        host: &Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Psn> {
        let Some(reply) = self.queue.front_mut() else { return Ok(false) };
        let aeth = |syndrome| Aeth { syndrome, msn };
        let ack = aeth(Syndrome::Ack(Credits::UNLIMITED));
        let mut say = |psn, header| encode(Bth::new(peer.dest_qp, psn), header, &[], out);
        match reply {
            Reply::Ack(psn) => say(*psn, Header::Acknowledge(ack)),
            Reply::RnrNak(psn, timer) => say(*psn, Header::Acknowledge(aeth(Syndrome::RnrNak(*timer)))),
            Reply::Nak(psn, code) => say(*psn, Header::Acknowledge(aeth(Syndrome::Nak(*code)))),
            Reply::Atomic(atomic) => say(atomic.psn, Header::AtomicAcknowledge(ack, atomic.original)),
            Reply::Read(read) => {
                let psn = read.psn.plus(read.sent);
                if !read.encode_next(self.ident, ack, peer, host, out) {
                    if !read.again {
                        return Err(psn);
                    }
                    // The network may have repeated a request that was done long ago, and then nobody hears this.
                    out.clear();
                    let gone = Header::Acknowledge(aeth(Syndrome::Nak(NakCode::RemoteAccess)));
                    encode(Bth::new(peer.dest_qp, psn), gone, &[], out);
                } else if read.sent < peer.path_mtu.packets(read.reth.length) {
                    return Ok(true);
                }
            }
        }
        self.queue.pop_front();
        Ok(true)
    }
}

impl ReadReply {
    /// Where its last byte ends.
    fn end(&self) -> u64 {
        self.reth.address.saturating_add(self.reth.length.into())
    }

    /// Whether what is still to be said of it has all of this answer.
    fn comes_to(&self, psn: Psn, reth: &Reth, mtu: Mtu) -> bool {
        let ahead = psn.since(self.psn);
        (self.sent..mtu.packets(self.reth.length)).contains(&ahead)
            && reth.address.saturating_add(reth.length.into()) <= self.end()
    }

    /// Appends the next answer; false when the peer must not have it any more.
    fn encode_next(
        &mut self,
        ident: Ident,
        ack: Aeth,
        peer: &RtrAttr,
        host: &Host<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mtu = peer.path_mtu;
        let header = match (self.sent == 0, self.sent + 1 == mtu.packets(self.reth.length)) {
            (true, true) => Header::ReadResponseOnly(ack),
            (true, false) => Header::ReadResponseFirst(ack),
            (false, false) => Header::ReadResponseMiddle,
            (false, true) => Header::ReadResponseLast(ack),
        };
        // A read is no longer than MAX_MESSAGE, so that the offset has 32 bits.
        let skip = self.sent * mtu.bytes();
        let len = (self.reth.length - skip).min(mtu.bytes());
        let bth = Bth::new(peer.dest_qp, self.psn.plus(self.sent));
        Packet::encode_head(&bth, &header, len as usize, out);
        let address = self.reth.address.wrapping_add(u64::from(skip));
        if !host.regions.read_remote(ident.pd, Rkey(self.reth.rkey), address, len, out) {
            return false;
        }
        Packet::encode_padding(len as usize, out);
        self.sent += 1;
        true
    }
}
