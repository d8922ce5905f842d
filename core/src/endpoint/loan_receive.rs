//! Receives of loans: they take any message. One that is no loan is lent from private memory.

use super::loan_table::{Lender, LendingMemory};
use super::op::{CqId, Early, EarlyBody, Incoming, IovList, MoreMemory, OpId, RecvOp};
use super::receive::{receive_completion, received};
use super::state::{complete, State};
use super::Engine;
use crate::error::Error;
use crate::loan::LentSlot;
use crate::matching::{Key, Pattern, Source, ANY};
use crate::mem::{Iov, PeerBytes};
use crate::rail::{PeerId, Rail};
use crate::wire::Message;

impl<R: Rail> Engine<R> {
    /// Posts a receive of one tag whose message is lent to the program: the hot path. As [`Engine::receive_now`].
    #[inline(always)]
    pub fn receive_loan_now(
        &mut self,
        cq: CqId,
        source: Source,
        tag: u64,
        slot: LentSlot,
        context: u64,
    ) -> bool {
        let source = match source {
            Source::Any => ANY,
            Source::Peer(peer) if self.state.peers.get(peer.index()).is_some_and(|p| p.direct) => {
                peer.number()
            }
            Source::Peer(_) => return false,
        };
        if !self.state.unexpected.is_empty() || !self.state.loans.has_room() || self.state.admit(cq).is_err()
        {
            return false;
        }
        self.state.loans.promise();
        self.state.posted.insert_binned(source, tag, 0, RecvOp { iov: IovList::Lend(slot), cq, context });
        self.state.engine.receives_posted.add(1);
        true
    }

    /// Posts a receive whose message is lent to the program: where the sender wrote it if that is a loan, else in private
    /// memory. On success `slot` has been written when the completion comes.
    ///
    /// # Errors
    /// As [`Engine::receive`].
    pub fn receive_loan(
        &mut self,
        cq: CqId,
        pattern: &Pattern,
        slot: LentSlot,
        context: u64,
    ) -> Result<u64, Error> {
        if !self.state.loans.has_room() {
            return Err(Error::Again);
        }
        self.state.loans.promise();
        self.receive_list(cq, pattern, IovList::Lend(slot), context)
            .inspect_err(|_| self.state.loans.break_promise())
    }

    /// Receives a message that a matched probe took, lent to the program.
    ///
    /// # Errors
    /// As [`Engine::receive_held`].
    pub fn receive_held_loan(
        &mut self,
        cq: CqId,
        message: Key,
        slot: LentSlot,
        context: u64,
    ) -> Result<u64, Error> {
        if !self.state.loans.has_room() {
            return Err(Error::Again);
        }
        self.state.loans.promise();
        self.receive_held_list(cq, message, IovList::Lend(slot), context)
            .inspect_err(|_| self.state.loans.break_promise())
    }
}

impl State {
    /// A receive has ended without a message: what it was promised is free again.
    pub(super) fn break_promise(&mut self, receive: &RecvOp) {
        if receive.iov.is_lent() {
            self.loans.break_promise();
        }
    }

    /// Takes a loan of a peer; true when it is kept, false when it was copied.
    pub(super) fn take_loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: &PeerBytes<'_>,
    ) -> bool {
        let Some(data) = message.address() else { return false };
        kill_point!("loan.receive");
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.counts.cells.messages_received.add(1);
            p.counts.cells.bytes_received.add(message.len() as u64);
        }
        let Some(found) = self.posted.first(peer, tag) else {
            // SAFETY: readable until the rail is told, which happens when the message has left the store and was read.
            let message = unsafe { Iov::new(data.cast_mut(), message.len()) };
            let len = message.len() as u64;
            self.store_early(peer, tag, Early { len, immediate, body: EarlyBody::Loan { loan, message } });
            return true;
        };
        let mut kept = false;
        if let Some(receive) = found.receive() {
            let op = OpId::Receive(found.key());
            let what = (peer, tag, immediate);
            crate::probes::message_matched(peer, tag, message.len() as u64);
            let done = if let IovList::Lend(slot) = receive.iov {
                kept = true;
                self.loans.borrow(Lender::Peer(peer, loan), slot, data, message.len());
                received(receive.context, op.to_bits(), what, message.len(), message.len())
            } else {
                receive_completion(receive, op, what, message)
            };
            complete(&mut self.cqs, receive.cq, done);
        }
        found.discard();
        if !kept {
            self.say(peer, Message::Return { loan });
        }
        kept
    }

    /// Lends a message that is no loan to the receive that was found for it.
    #[cold]
    pub(super) fn lend_eager(
        &mut self,
        receive: &RecvOp,
        op: u64,
        what: (PeerId, u64, Option<u64>),
        payload: &PeerBytes<'_>,
    ) {
        self.lend_bytes(receive, op, what, payload.to_vec().into_boxed_slice());
    }

    fn lend_bytes(&mut self, receive: &RecvOp, op: u64, what: (PeerId, u64, Option<u64>), bytes: Box<[u8]>) {
        let IovList::Lend(slot) = receive.iov else { return };
        let len = bytes.len();
        self.loans.borrow_bytes(bytes, slot);
        self.complete(receive.cq, received(receive.context, op, what, len, len));
    }

    /// Gives a message that lies in the store to a receive of loans.
    pub(super) fn lend_early(&mut self, peer: PeerId, tag: u64, early: Early, receive: &RecvOp) {
        let what = (peer, tag, early.immediate);
        match early.body {
            EarlyBody::Words(words) => {
                let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                bytes.truncate(early.len as usize);
                self.lend_bytes(receive, 0, what, bytes.into_boxed_slice());
            }
            EarlyBody::Bytes(bytes) => self.lend_bytes(receive, 0, what, bytes),
            EarlyBody::Sync { bytes, sender_op } => {
                self.lend_bytes(receive, 0, what, bytes);
                self.say(peer, Message::Matched { op: sender_op });
            }
            EarlyBody::Loan { loan, message } => {
                let IovList::Lend(slot) = receive.iov else { return };
                let len = message.len();
                self.loans.borrow(Lender::Peer(peer, loan), slot, message.base(), len);
                self.complete(receive.cq, received(receive.context, 0, what, len, len));
            }
            // These are not there yet, or never.
            EarlyBody::Announced { .. } | EarlyBody::Begun { .. } | EarlyBody::Lost => {}
        }
    }

    /// Gives a loan that lies in the store to a receive with a buffer.
    pub(super) fn copy_early_loan(
        &mut self,
        (peer, tag, immediate): (PeerId, u64, Option<u64>),
        (loan, message): (u64, Iov),
        receive: &RecvOp,
    ) {
        let none = OpId::Send(Key::from_bits(0));
        // SAFETY: readable until the rail is told, below.
        let bytes = unsafe { PeerBytes::raw(message.base(), message.len()) };
        self.complete(receive.cq, receive_completion(receive, none, (peer, tag, immediate), &bytes));
        self.loans.copied.push(peer);
        self.say(peer, Message::Return { loan });
    }

    /// Gives a receive of loans memory for a message that was announced. Its length is what the peer says: so many bytes are
    /// not taken before they come that nothing else would find room.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::NoMemory`].
    pub(super) fn make_room(&mut self, incoming: &mut Incoming) -> Result<(), Error> {
        let IovList::Lend(slot) = incoming.receive.iov else { return Ok(()) };
        let taken = self.lending_bytes.saturating_add(incoming.total);
        if taken > self.limits.lent_bytes as u64 {
            return Err(Error::Limit);
        }
        let lending = LendingMemory::new(slot, incoming.total).ok_or(Error::NoMemory)?;
        self.lending_bytes = taken;
        incoming.receive.iov = IovList::More(Box::new(MoreMemory::Lending(lending)));
        Ok(())
    }
}
