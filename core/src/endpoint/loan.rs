//! Loans: messages that the receiver reads where the sender wrote them.
//!
//! A loan is taken, written, and sent to one peer or several; each of them holds it until it gives it back, or ends. When
//! nobody holds it any more its memory serves the next one. Over a rail that does not lend, the message is copied as any
//! other. A receive of loans takes any message: one that is no loan is lent from private memory.

use std::ptr::NonNull;

use super::flush::Step;
use super::loan_table::{Lender, LendingMemory, Loaned, Memory, Sending};
use super::op::{CqId, Early, EarlyBody, Incoming, IovList, MoreMemory, OpId, RecvOp, SendOp, Stage};
use super::receive::receive_completion;
use super::send::{must_listen, SendArgs, Sent};
use super::state::{complete, send_completion, State};
use super::Engine;
use crate::completion::{Completion, OpKind, HAS_IMMEDIATE};
use crate::error::Error;
use crate::loan::{class_of, LentSlot, PrivateMemory};
use crate::matching::{Key, Pattern, Source, ANY};
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{PeerId, Posted, Rail};
use crate::wire::{Frame, Message};

impl<R: Rail> Engine<R> {
    /// Gives the loans of this engine a mark, so that handles of another engine of the process are recognised.
    pub fn mark_loans(&mut self, mark: u32) {
        self.state.loans.set_mark(mark);
    }

    /// Takes a loan of `len` bytes: its handle, and where it begins. What it holds at first is not defined.
    ///
    /// # Errors
    /// [`Error::Again`] when all memory is lent, or there are too many loans; [`Error::Limit`] when there is no memory for as
    /// much, now or ever; [`Error::NoMemory`] when the system has none.
    pub fn take_loan(&mut self, len: usize) -> Result<(u64, NonNull<u8>), Error> {
        if let Some(taken) = self.take_loan_now(len) {
            return Ok(taken);
        }
        let (class, size) = class_of(len).ok_or(Error::Limit)?;
        if !self.state.loans.has_room(0) {
            return Err(Error::Again);
        }
        let memory = self.more_memory(class, size)?;
        kill_point!("loan.allot");
        Ok(self.state.loans.enter(memory, len))
    }

    /// Takes a loan whose memory came back before: the hot path. None when there is none, and nothing has happened:
    /// [`Self::take_loan`] then does it, or says why not.
    #[inline(always)]
    pub fn take_loan_now(&mut self, len: usize) -> Option<(u64, NonNull<u8>)> {
        let (class, _) = class_of(len)?;
        if !self.state.loans.has_room(0) {
            return None;
        }
        let memory = self.state.loans.reuse(class)?;
        let taken = self.state.loans.enter(memory, len);
        kill_point!("loan.reuse");
        Some(taken)
    }

    /// Memory of a class that receivers have given back, and that was not heard of yet.
    fn came_back(&mut self, class: usize) -> Option<Memory> {
        self.progress();
        self.state.loans.reuse(class)
    }

    #[cold]
    fn more_memory(&mut self, class: usize, size: usize) -> Result<Memory, Error> {
        let Some(lender) = self.state.loans.lender else {
            return match self.came_back(class) {
                Some(memory) => Ok(memory),
                None => PrivateMemory::new(size).map(Memory::Private).ok_or(Error::NoMemory),
            };
        };
        if let Ok(memory) = self.rails[lender].lend(size) {
            return Ok(Memory::Rail(memory));
        }
        if let Some(memory) = self.came_back(class) {
            return Ok(memory);
        }
        // What came back in other sizes is joined to what is needed.
        for memory in self.state.loans.drain_free() {
            if let Memory::Rail(memory) = memory {
                self.rails[lender].take_back(memory);
            }
        }
        self.rails[lender].lend(size).map(Memory::Rail)
    }

    /// Sends the first `len` bytes of a loan if that can be done at once: the hot path. False when it cannot, and nothing
    /// has happened: [`Self::send_loan`] then does it, or says why not. Unless `keep`, the handle names nothing afterwards.
    #[inline(always)]
    pub fn send_loan_now(&mut self, peer: PeerId, loan: u64, len: usize, tag: u64, keep: bool) -> bool {
        !self.state.peers.get(peer.index()).is_none_or(must_listen)
            && self.post_loan_now(peer, loan, len, tag, keep)
    }

    #[inline(always)]
    fn post_loan_now(&mut self, peer: PeerId, loan: u64, len: usize, tag: u64, keep: bool) -> bool {
        let State { peers, loans, .. } = &mut self.state;
        let Some(p) = peers.get_mut(peer.index()) else { return false };
        if !p.direct || !p.lends {
            return false;
        }
        let Ok(sending) = loans.begin_send(loan, len, peer, &mut p.first_hold) else { return false };
        kill_point!("loan.hold");
        let posted = match (self.rails.get_mut(p.rail), sending.position) {
            (Some(rail), Some(position)) => {
                rail.post_loan(p.link, tag, [sending.hold.to_bits(), position, len as u64])
            }
            _ => Posted::NoResource,
        };
        if posted != Posted::Done {
            loans.end_hold(sending.hold, peer, &mut p.first_hold);
            return false;
        }
        if !keep {
            loans.let_go(sending.loan);
        }
        kill_point!("loan.send");
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.bytes_sent.add(len as u64);
        crate::probes::send_posted(peer, tag, len as u64);
        true
    }

    /// Sends the first `len` bytes of a loan. Unless `keep`, the handle names nothing afterwards; when the call fails, it
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Engine::send_iov`]; [`Error::Invalid`] for a loan of another engine or one that is shorter, [`Error::Handle`] for
    /// one that was sent or given back, [`Error::Unsupported`] for one that was received.
    pub fn send_loan(
        &mut self,
        peer: PeerId,
        loan: u64,
        len: usize,
        keep: bool,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        if self.state.peers.get(peer.index()).is_some_and(must_listen) {
            self.listen_to(peer);
        }
        if args.immediate.is_none() && self.post_loan_now(peer, loan, len, args.tag, keep) {
            return Ok(Sent::Done);
        }
        let State { peers, loans, .. } = &mut self.state;
        let p = peers.get_mut(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        let lends = p.lends;
        let sending = loans.begin_send(loan, len, peer, &mut p.first_hold)?;
        let sent = match sending.position {
            Some(position) if lends => self.send_lent(peer, sending, position, len, args),
            _ => self.send_copied(peer, sending, len, args),
        };
        match sent {
            Ok(_) if !keep => self.state.loans.let_go(sending.loan),
            Ok(_) => {}
            Err(_) => self.state.end_hold(sending.hold, peer),
        }
        sent
    }

    /// Over the rail that lends: a frame that names the memory, now or in its turn.
    fn send_lent(
        &mut self,
        peer: PeerId,
        sending: Sending,
        position: u64,
        len: usize,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        self.state.admit(args.cq)?;
        // SAFETY: the memory of the loan stays until the hold ends, which is not before the send does. The program does not
        // write it after it was sent; whoever reads copies, or is a peer.
        let iov = unsafe { Iov::new(sending.base, len) };
        let loaned = Loaned { iov, hold: sending.hold, position: Some(position) };
        let key = self.state.sends.insert(SendOp {
            peer,
            owner: args.owner,
            cq: args.cq,
            context: args.context,
            iov: IovList::of_loan(loaned),
            len: len as u64,
            tag: args.tag,
            immediate: args.immediate,
            sync: false,
            stage: Stage::Queued,
        });
        let p = &mut self.state.peers[peer.index()];
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.bytes_sent.add(len as u64);
        crate::probes::send_queued(peer, args.tag, len as u64);
        p.pending.push_back(key);
        p.publish();
        let alone = p.direct;
        p.set_direct(false);
        self.state.engine.sends_now.set(self.state.sends.len() as u64);
        self.state.schedule(peer);
        if alone {
            self.flush();
        }
        Ok(Sent::InProgress(OpId::Send(key).to_bits()))
    }

    /// Over a rail that does not lend: as any message. The hold ends with the send.
    fn send_copied(
        &mut self,
        peer: PeerId,
        sending: Sending,
        len: usize,
        args: &SendArgs,
    ) -> Result<Sent, Error> {
        // SAFETY: as in `send_lent`.
        let iov = unsafe { Iov::new(sending.base, len) };
        let sent = self.send_iov(peer, std::slice::from_ref(&iov), args)?;
        let under_way = match sent {
            Sent::InProgress(number) => match OpId::from_bits(number) {
                OpId::Send(key) => self.state.sends.get_mut(key),
                _ => None,
            },
            Sent::Done => None,
        };
        match under_way {
            Some(op) => op.iov = IovList::of_loan(Loaned { iov, hold: sending.hold, position: None }),
            None => self.state.end_hold(sending.hold, peer),
        }
        Ok(sent)
    }

    /// The turn of a send that names its memory.
    pub(super) fn flush_loan(&mut self, peer: PeerId, key: Key) -> Step {
        let State { peers, sends, engine, .. } = &mut self.state;
        let p = &mut peers[peer.index()];
        let Some((op, loaned, position)) = sends.get(key).and_then(lent) else {
            return Step::Idle;
        };
        let loan = loaned.hold.to_bits();
        let message = Message::Loan { tag: op.tag, loan, position, len: op.len, immediate: op.immediate };
        match self.rails[p.rail].post(p.link, &message.frame(Gather::EMPTY)) {
            Posted::Done | Posted::Accepted(_) => {
                p.pending.pop_front();
                // The hold stays until the peer gives the loan back.
                if let Some(op) = sends.remove(key) {
                    engine.sends_now.set(sends.len() as u64);
                    self.state.complete(op.cq, send_completion(&op, OpId::Send(key).to_bits(), Ok(())));
                }
                Step::Moved(0)
            }
            Posted::Failed(error) => {
                self.state.abandon_send(key, error);
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }

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
        if !self.state.unexpected.is_empty()
            || !self.state.has_room_for_loan()
            || self.state.admit(cq).is_err()
        {
            return false;
        }
        self.state.posted.insert_exact(source, tag, RecvOp { iov: IovList::Lend(slot), cq, context });
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
        if !self.state.has_room_for_loan() {
            return Err(Error::Again);
        }
        self.receive_list(cq, pattern, IovList::Lend(slot), context)
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
        if !self.state.has_room_for_loan() {
            return Err(Error::Again);
        }
        self.receive_held_list(cq, message, IovList::Lend(slot), context)
    }

    /// Gives a loan back: an own one that was not sent for good, or one that was received.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a loan of another engine, [`Error::Handle`] for one that was sent or given back.
    #[inline(always)]
    pub fn give_back(&mut self, loan: u64) -> Result<(), Error> {
        if let Some((peer, loan)) = self.state.loans.give_back(loan)? {
            kill_point!("loan.give_back");
            self.return_loan(peer, loan);
        }
        Ok(())
    }

    #[inline]
    fn return_loan(&mut self, peer: PeerId, loan: u64) {
        let Some(p) = self.state.peers.get_mut(peer.index()) else { return };
        let Some(rail) = self.rails.get_mut(p.rail) else { return };
        let at_once = p.urgent.is_empty() && rail.post(p.link, &Frame::give_back(loan)) == Posted::Done;
        kill_point!("loan.return");
        rail.release_loan(p.link);
        kill_point!("loan.release");
        if !at_once {
            self.state.say(peer, Message::Return { loan });
        }
    }

    /// Loans that were taken and not given back by all, and received ones that the program has.
    pub fn loans(&self) -> usize {
        self.state.loans.len()
    }

    /// Tells the rails of loans that were copied out of the store.
    pub(super) fn release_copied(&mut self) {
        while let Some(peer) = self.state.loans.copied.pop() {
            let p = &self.state.peers[peer.index()];
            self.rails[p.rail].release_loan(p.link);
        }
    }
}

/// The parts of a send that names its memory.
fn lent(op: &SendOp) -> Option<(&SendOp, &Loaned, u64)> {
    let loaned = op.iov.loaned()?;
    Some((op, loaned, loaned.position?))
}

impl SendOp {
    /// True when the frame of this send names its memory instead of carrying it.
    pub(super) fn is_lent(&self) -> bool {
        lent(self).is_some()
    }
}

impl State {
    /// Each receive of loans that is posted may need a place.
    #[inline(always)]
    fn has_room_for_loan(&self) -> bool {
        self.loans.has_room(self.posted.len() + self.incoming.len())
    }

    pub(super) fn end_hold(&mut self, hold: Key, peer: PeerId) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            self.loans.end_hold(hold, peer, &mut p.first_hold);
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
        let Some(found) = self.posted.find(peer, tag) else {
            // SAFETY: readable until the rail is told, which happens when the message has left the store and was read.
            let message = unsafe { Iov::new(data.cast_mut(), message.len()) };
            let len = message.len() as u64;
            self.store_early(peer, tag, Early { len, immediate, body: EarlyBody::Loan { loan, message } });
            return true;
        };
        let mut kept = false;
        if let Some(receive) = self.posted.receive(&found) {
            let op = OpId::Receive(found.key());
            let what = (peer, tag, immediate);
            crate::probes::message_matched(peer, tag, message.len() as u64);
            let done = if let IovList::Lend(slot) = receive.iov {
                kept = true;
                self.loans.borrow(Lender::Peer(peer, loan), slot, data, message.len());
                lent_completion(receive, op.to_bits(), what, message.len() as u64)
            } else {
                receive_completion(receive, op, what, message)
            };
            complete(&mut self.cqs, receive.cq, done);
        }
        self.posted.discard(&found);
        if !kept {
            self.say(peer, Message::Return { loan });
        }
        kept
    }

    /// A peer gives a loan back.
    pub(super) fn take_return(&mut self, peer: PeerId, loan: u64) -> Result<(), Error> {
        let p = self.peers.get_mut(peer.index()).ok_or(Error::PeerMisbehaved)?;
        if self.loans.end_hold(Key::from_bits(loan), peer, &mut p.first_hold) {
            Ok(())
        } else {
            Err(Error::PeerMisbehaved)
        }
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
        let len = bytes.len() as u64;
        self.loans.borrow_bytes(bytes, slot);
        self.complete(receive.cq, lent_completion(receive, op, what, len));
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
                self.loans.borrow(Lender::Peer(peer, loan), slot, message.base(), message.len());
                self.complete(receive.cq, lent_completion(receive, 0, what, early.len));
            }
            // These are not there yet, or never.
            EarlyBody::Announced { .. } | EarlyBody::Lost => {}
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

/// The completion of a receive whose message was lent.
fn lent_completion(
    receive: &RecvOp,
    op: u64,
    (peer, tag, immediate): (PeerId, u64, Option<u64>),
    len: u64,
) -> Completion {
    Completion {
        context: receive.context,
        length: len,
        tag,
        immediate: immediate.unwrap_or(0),
        op,
        status: 0,
        source: peer.number(),
        kind: OpKind::Receive as u32,
        flags: if immediate.is_some() { HAS_IMMEDIATE } else { 0 },
    }
}
