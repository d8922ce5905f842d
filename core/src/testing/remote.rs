//! Operations of a [`Node`] on regions of its peers.

use super::node::{guarded, iov_of, scribble, Node, Operation, Outcome, Ticket, GUARD};
use crate::endpoint::{RemoteArgs, Sent};
use crate::error::Error;
use crate::matching::Key;
use crate::mem::Iov;
use crate::rail::{PeerId, Rail};
use crate::region::{Atomic, Element, Update};

impl<R: Rail> Node<R> {
    /// Puts `bytes` at `offset`.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::put`].
    pub fn put(&mut self, to: PeerId, rkey: Key, offset: u64, bytes: &[u8]) -> Result<Ticket, Error> {
        self.run_remote(bytes, false, |node, iov, args| {
            // SAFETY: the buffer is as long as the piece.
            if unsafe { node.engine().put_now(to, rkey, offset, iov.base(), iov.len()) } {
                return Ok(Sent::Done);
            }
            node.engine().put(to, rkey, offset, iov, &args)
        })
    }

    /// Gets `len` bytes from `offset`.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::get`].
    pub fn get(&mut self, from: PeerId, rkey: Key, offset: u64, len: usize) -> Result<Ticket, Error> {
        self.run_remote(&vec![0; len], true, |node, iov, args| {
            // SAFETY: the buffer is as long as the piece.
            if unsafe { node.engine().get_now(from, rkey, offset, iov.base(), iov.len()) } {
                return Ok(Sent::Done);
            }
            node.engine().get(from, rkey, offset, iov, &args)
        })
    }

    /// Runs an atomic operation at `offset`; the bytes of the outcome are the word before.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::atomic`].
    pub fn atomic(&mut self, to: PeerId, rkey: Key, offset: u64, atomic: &Atomic) -> Result<Ticket, Error> {
        self.run_remote(&vec![0; atomic.width.bytes()], true, |node, iov, args| {
            node.engine().atomic(to, rkey, offset, atomic, Some(iov), &args)
        })
    }

    /// Runs an operation on an element at `offset`; the bytes of the outcome are the element before.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::element`].
    pub fn element(
        &mut self,
        to: PeerId,
        rkey: Key,
        offset: u64,
        element: &Element,
    ) -> Result<Ticket, Error> {
        self.run_remote(&vec![0; Update::Element(*element).bytes()], true, |node, iov, args| {
            node.engine().element(to, rkey, offset, element, Some(iov), &args)
        })
    }

    /// Waits for the operations before.
    ///
    /// # Errors
    /// As [`crate::endpoint::Engine::flush_remote_ops`].
    pub fn flush(&mut self, to: PeerId) -> Result<Ticket, Error> {
        self.run_remote(&[], false, |node, _, args| node.engine().flush_remote_ops(to, &args))
    }

    fn run_remote(
        &mut self,
        content: &[u8],
        receives: bool,
        start: impl FnOnce(&mut Self, Iov, RemoteArgs) -> Result<Sent, Error>,
    ) -> Result<Ticket, Error> {
        let ticket = Ticket(self.next);
        let mut buffers = vec![guarded(content)];
        let iov = iov_of(&mut buffers)[0];
        let args = RemoteArgs { cq: self.cq(), owner: 1, context: ticket.0 };
        match start(self, iov, args) {
            Err(error) => {
                scribble(&mut buffers);
                return Err(error);
            }
            Ok(Sent::InProgress(number)) => {
                self.operations.insert(ticket, Operation { number, buffers, receives, lent: None });
            }
            Ok(Sent::Done) => {
                let whole = &buffers[0];
                let bytes = if receives { whole[..whole.len() - GUARD].to_vec() } else { Vec::new() };
                scribble(&mut buffers);
                self.order.push(ticket);
                self.outcomes.insert(ticket, Outcome { status: Ok(()), completion: None, bytes, lent: None });
            }
        }
        self.next += 1;
        Ok(ticket)
    }
}
