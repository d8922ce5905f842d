//! Loans of a [`Node`]: tests write and read their bytes by value.

use std::ptr::NonNull;

use super::node::{Node, Operation, SendOptions, Ticket};
use crate::endpoint::{SendArgs, Sent};
use crate::error::Error;
use crate::loan::{Lent, LentSlot};
use crate::matching::{Key, Pattern, Source};
use crate::rail::{PeerId, Rail};

impl<R: Rail> Node<R> {
    /// Takes a loan for `bytes` and writes them.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::take_loan`].
    pub fn take_loan(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        let (loan, base) = self.engine().take_loan(bytes.len())?;
        // SAFETY: the loan has room for as many bytes, and was just taken: nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.as_ptr(), bytes.len()) };
        Ok(loan)
    }

    /// Sends the first `len` bytes of a loan, by the shortest way if that is open; `keep` keeps the handle.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::send_loan`].
    pub fn send_loan(
        &mut self,
        to: PeerId,
        loan: u64,
        len: usize,
        tag: u64,
        keep: bool,
    ) -> Result<Ticket, Error> {
        if self.engine().send_loan_now(to, loan, len, tag, keep) {
            return Ok(self.loan_sent(Sent::Done));
        }
        self.send_loan_with(to, loan, len, tag, keep, SendOptions::default())
    }

    /// As [`Self::send_loan`], the long way.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::send_loan`].
    pub fn send_loan_with(
        &mut self,
        to: PeerId,
        loan: u64,
        len: usize,
        tag: u64,
        keep: bool,
        options: SendOptions,
    ) -> Result<Ticket, Error> {
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: self.next,
            tag,
            immediate: options.immediate,
            sync: false,
            always_complete: false,
        };
        let sent = self.engine().send_loan(to, loan, len, keep, &args)?;
        Ok(self.loan_sent(sent))
    }

    fn loan_sent(&mut self, sent: Sent) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        match sent {
            Sent::Done => self.finish_at_once(ticket),
            Sent::InProgress(number) => {
                self.operations.insert(ticket, Operation { number, ..Operation::default() });
            }
        }
        ticket
    }

    /// Takes a loan for `bytes`, writes them, and sends them for good.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn send_as_loan(&mut self, to: PeerId, bytes: &[u8], tag: u64) -> Ticket {
        let loan = self.take_loan(bytes).expect("there is memory for a loan");
        self.send_loan(to, loan, bytes.len(), tag, false).expect("the send starts")
    }

    /// Posts a receive whose message is lent, by the shortest way if that is open.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn receive_loan(&mut self, pattern: Pattern) -> Ticket {
        self.try_receive_loan(pattern).expect("the receive starts")
    }

    /// As [`Self::receive_loan`].
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::receive_loan`].
    pub fn try_receive_loan(&mut self, pattern: Pattern) -> Result<Ticket, Error> {
        let (ticket, cq) = (Ticket(self.next), self.cq);
        let (lent, slot) = place();
        let (source, tag) = (pattern.source, pattern.tag);
        let exact = pattern.ignore == 0 && matches!(source, Source::Peer(_));
        let at_once = exact && self.engine().receive_loan_now(cq, source, tag, slot, ticket.0);
        let number = if at_once { 0 } else { self.engine().receive_loan(cq, &pattern, slot, ticket.0)? };
        self.next += 1;
        let operation = Operation { number, lent: Some(lent), ..Operation::default() };
        self.operations.insert(ticket, operation);
        Ok(ticket)
    }

    /// Receives a message that a matched probe took, lent.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::receive_held_loan`].
    pub fn receive_held_loan(&mut self, message: Key) -> Result<Ticket, Error> {
        let (ticket, cq) = (Ticket(self.next), self.cq);
        let (lent, slot) = place();
        let number = self.engine().receive_held_loan(cq, message, slot, ticket.0)?;
        self.next += 1;
        self.operations.insert(ticket, Operation { number, lent: Some(lent), ..Operation::default() });
        Ok(ticket)
    }
}

/// The bytes of a received loan, which was not given back.
pub fn read(lent: &Lent) -> Vec<u8> {
    // SAFETY: readable until the loan is given back, which the tests do only afterwards; its sender does not write it.
    unsafe { std::slice::from_raw_parts(lent.data, lent.len) }.to_vec()
}

fn place() -> (Box<Lent>, LentSlot) {
    let mut lent = Box::new(Lent::NONE);
    // SAFETY: the node keeps the box, whose content does not move with it, until the receive completes or the engine is gone.
    let slot = unsafe { LentSlot::new(NonNull::from(lent.as_mut())) };
    (lent, slot)
}
