//! Loans: messages that the receiver reads where the sender wrote them.
//!
//! A loan is taken, written, and sent to one peer or several; each of them holds it until it gives it back, or ends. When
//! nobody holds it any more its memory serves the next one. Over a rail that does not lend, the message is copied as any
//! other. A receive of loans takes any message: one that is no loan is lent from private memory.

use std::ptr::NonNull;

use super::loan_table::Memory;
use super::peer::PeerState;
use super::state::State;
use super::Engine;
use crate::error::Error;
use crate::loan::{class_of, PrivateMemory};
use crate::matching::Key;
use crate::rail::{PeerId, Posted, Rail};
use crate::wire::{Frame, Message};

impl<R: Rail> Engine<R> {
    /// Gives the loans of this engine a mark, so that handles of another engine of the process are recognised.
    pub fn mark_loans(&mut self, mark: u32) {
        self.state.loans.set_mark(mark);
    }

    /// Bounds the loans that there may be at once, own and received: a million at most, which is the default.
    pub fn limit_loans(&mut self, most: usize) {
        self.state.loans.set_most(most);
    }

    /// Takes a loan of `len` bytes: its handle, and where it begins. What it holds at first is not defined.
    ///
    /// # Errors
    /// [`Error::Again`] when all memory is lent, or there are too many loans; [`Error::Limit`] when there is no memory for as
    /// much, now or ever, whatever comes back; [`Error::NoMemory`] when the system has none.
    pub fn take_loan(&mut self, len: usize) -> Result<(u64, NonNull<u8>), Error> {
        if let Some(taken) = self.take_loan_now(len) {
            return Ok(taken);
        }
        let (class, size) = class_of(len).ok_or(Error::Limit)?;
        if !self.state.loans.has_room() {
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
        if !self.state.loans.has_room() {
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
        let is_up = p.state == PeerState::Up && p.urgent.is_empty();
        let at_once = is_up && rail.post(p.link, &Frame::give_back(loan)) == Posted::Done;
        kill_point!("loan.return");
        let (lender, link) = p.lender;
        if let Some(lender) = self.rails.get_mut(lender) {
            lender.release_loan(link);
        }
        kill_point!("loan.release");
        if !at_once {
            self.state.say(peer, Message::Return { loan });
        }
    }

    /// Loans that were taken and not given back by all, and received ones that the program has.
    pub fn loans(&self) -> usize {
        self.state.loans.len()
    }

    /// Receives of loans under way, each of which has a place for its loan.
    pub fn promised_loans(&self) -> usize {
        self.state.loans.promised()
    }

    /// Tells the rails of loans that were copied out of the store.
    pub(super) fn release_copied(&mut self) {
        while let Some(peer) = self.state.loans.copied.pop() {
            let (rail, link) = self.state.peers[peer.index()].lender;
            self.rails[rail].release_loan(link);
        }
    }
}

impl State {
    pub(super) fn end_hold(&mut self, hold: Key, peer: PeerId) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            self.loans.end_hold(hold, peer, &mut p.first_hold);
        }
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
}
