//! An engine that owns its buffers, so that tests start operations by value.

use std::collections::{BTreeMap, VecDeque};

use crate::completion::Completion;
use crate::endpoint::{CqId, Engine, Limits, PeerState, SendArgs, Sent};
use crate::error::Error;
use crate::loan::Lent;
use crate::matching::{Key, Pattern, Source};
use crate::mem::Iov;
use crate::rail::{PeerId, Rail};
use crate::time::Time;
use crate::wire::{Address, NodeId};

/// Bytes behind each buffer that nobody may touch,
pub(super) const GUARD: usize = 32;
/// and what they hold.
const GUARD_BYTE: u8 = 0xa5;
/// What the memory of a send holds once it is free: a rail that reads it late sends this.
const FREED_BYTE: u8 = 0xdd;

/// Names an operation of a [`Node`]: its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How a send differs from a plain one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// Value that travels along.
    pub immediate: Option<u64>,
    /// Complete only when matched.
    pub sync: bool,
    /// Report completion even when done at once.
    pub always_complete: bool,
}

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Success, or why not.
    pub status: Result<(), Error>,
    /// The completion; none for sends that were done at once.
    pub completion: Option<Completion>,
    /// What the buffers of a receive hold, one after the other; empty for sends.
    pub bytes: Vec<u8>,
    /// What a receive of loans got.
    pub lent: Option<Lent>,
}

#[derive(Debug, Default)]
pub(super) struct Operation {
    /// Number in the engine, for cancellation.
    pub(super) number: u64,
    pub(super) buffers: Vec<Box<[u8]>>,
    pub(super) receives: bool,
    /// Where a receive of loans writes what it got.
    pub(super) lent: Option<Box<Lent>>,
}

/// One fabric of a test. Buffers live as long as their operation; what a rail does beyond that, or beyond their
/// ends, is found out.
#[derive(Debug)]
pub struct Node<R> {
    // Declared before the buffers, and so dropped before them: rails may hold their addresses.
    engine: Option<Engine<R>>,
    pub(super) cq: CqId,
    address: Address,
    pub(super) operations: BTreeMap<Ticket, Operation>,
    pub(super) outcomes: BTreeMap<Ticket, Outcome>,
    pub(super) order: Vec<Ticket>,
    pub(super) next: u64,
    /// Buffers of operations that have ended: nobody may write them any more.
    ended: VecDeque<Box<[u8]>>,
    /// So many of them at most.
    most_ended: usize,
}

impl<R: Rail> Node<R> {
    /// A node at `address` over one rail, with a queue of `cq_capacity`.
    pub fn new(address: Address, rail: R, limits: Limits, cq_capacity: usize) -> Node<R> {
        Node::over(address, vec![rail], limits, cq_capacity)
    }

    /// The same over several rails, in order of preference.
    pub fn over(address: Address, rails: Vec<R>, limits: Limits, cq_capacity: usize) -> Node<R> {
        let mut engine = Engine::new(address, rails, limits);
        engine.mark_loans(u32::from(address.node.bytes()[0]));
        Node {
            cq: engine.create_cq(cq_capacity),
            engine: Some(engine),
            address,
            operations: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            order: Vec::new(),
            next: 1,
            ended: VecDeque::new(),
            most_ended: 0,
        }
    }

    /// The same, which keeps the buffers of the last operations that have ended, to see whether anybody writes them.
    #[must_use]
    pub fn keeping(self, most_ended: usize) -> Node<R> {
        Node { most_ended, ..self }
    }

    /// Checks the buffers that [`Self::keeping`] keeps.
    ///
    /// # Panics
    /// When one was written after its operation had ended.
    pub fn check_ended(&self) {
        self.ended.iter().for_each(|buffer| check_freed(buffer));
    }

    /// The same, which others reach at `address`.
    #[must_use]
    pub fn known_as(self, address: Address) -> Node<R> {
        Node { address, ..self }
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The engine.
    ///
    /// # Panics
    /// After [`Self::close`].
    pub fn engine(&mut self) -> &mut Engine<R> {
        self.engine.as_mut().expect("the node is closed")
    }

    /// The queue that operations report to.
    pub fn cq(&self) -> CqId {
        self.cq
    }

    /// Destroys the queue, with what is under way, and makes another.
    pub fn renew_cq(&mut self, capacity: usize) {
        let old = self.cq;
        self.engine().destroy_cq(old);
        self.cq = self.engine().create_cq(capacity);
        self.operations.clear();
    }

    /// Closes the fabric as a program does that ends: what was under way is lost.
    pub fn close(&mut self) {
        self.engine = None;
        self.operations.clear();
    }

    /// One round of maintenance and progress; returns how much happened.
    pub fn drive(&mut self, now: Time) -> usize {
        let Some(engine) = &mut self.engine else { return 0 };
        let moved = engine.maintain(now) + engine.progress();
        moved + self.collect()
    }

    /// Takes the completions that are there.
    pub fn collect(&mut self) -> usize {
        let cq = self.cq;
        let mut taken = Vec::new();
        self.engine().take_completions(cq, |completion| {
            taken.push(completion);
            true
        });
        let count = taken.len();
        taken.into_iter().for_each(|completion| self.finish(completion));
        count
    }

    /// Sends `bytes` as one message.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn send(&mut self, to: PeerId, bytes: &[u8], tag: u64) -> Ticket {
        self.send_with(to, &[bytes], tag, SendOptions::default()).expect("the send starts")
    }

    /// Sends several pieces as one message.
    ///
    /// # Errors
    /// As [`Engine::send_iov`].
    pub fn send_with(
        &mut self,
        to: PeerId,
        pieces: &[&[u8]],
        tag: u64,
        options: SendOptions,
    ) -> Result<Ticket, Error> {
        let mut buffers: Vec<_> = pieces.iter().map(|piece| guarded(piece)).collect();
        let iov = iov_of(&mut buffers);
        let ticket = Ticket(self.next);
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: ticket.0,
            tag,
            immediate: options.immediate,
            sync: options.sync,
            always_complete: options.always_complete,
        };
        let sent = match iov[..] {
            [one] if options == SendOptions::default() && self.engine().send_now(to, one, tag) => {
                Ok(Sent::Done)
            }
            _ => self.engine().send_iov(to, &iov, &args),
        };
        let number = match sent {
            Ok(Sent::InProgress(number)) => Some(number),
            Ok(Sent::Done) => None,
            Err(error) => {
                scribble(&mut buffers);
                return Err(error);
            }
        };
        self.next += 1;
        match number {
            Some(number) => {
                let operation = Operation { number, buffers, ..Operation::default() };
                self.operations.insert(ticket, operation);
            }
            None => {
                scribble(&mut buffers);
                self.finish_at_once(ticket);
            }
        }
        Ok(ticket)
    }

    /// Posts a receive of at most `len` bytes.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn receive(&mut self, pattern: Pattern, len: usize) -> Ticket {
        self.receive_with(pattern, &[len]).expect("the receive starts")
    }

    /// Posts a receive of one peer and tag the way that costs least; it cannot be cancelled.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn receive_now(&mut self, source: PeerId, tag: u64, len: usize) -> Ticket {
        let (ticket, cq) = (Ticket(self.next), self.cq);
        let mut buffers = vec![guarded(&vec![0; len])];
        let iov = iov_of(&mut buffers);
        if self.engine().receive_now(cq, Source::Peer(source), (tag, 0), iov[0], ticket.0).is_none() {
            return self.receive(exactly(source, tag), len);
        }
        self.next += 1;
        self.operations.insert(ticket, Operation { number: 0, buffers, receives: true, lent: None });
        ticket
    }

    /// Posts a receive into pieces of these lengths.
    ///
    /// # Errors
    /// As [`Engine::receive_iov`].
    pub fn receive_with(&mut self, pattern: Pattern, lengths: &[usize]) -> Result<Ticket, Error> {
        let (ticket, cq) = (Ticket(self.next), self.cq);
        let mut buffers: Vec<_> = lengths.iter().map(|len| guarded(&vec![0; *len])).collect();
        let iov = iov_of(&mut buffers);
        let number = match iov[..] {
            [one] => self.engine().receive(cq, &pattern, one, ticket.0),
            _ => self.engine().receive_iov(cq, &pattern, &iov, ticket.0),
        }?;
        self.next += 1;
        self.operations.insert(ticket, Operation { number, buffers, receives: true, lent: None });
        Ok(ticket)
    }

    /// Receives a message that a matched probe took.
    ///
    /// # Errors
    /// As [`Engine::receive_held`].
    pub fn receive_held(&mut self, message: Key, len: usize) -> Result<Ticket, Error> {
        let (ticket, cq) = (Ticket(self.next), self.cq);
        let mut buffers = vec![guarded(&vec![0; len])];
        let iov = iov_of(&mut buffers);
        let number = self.engine().receive_held(cq, message, iov[0], ticket.0)?;
        self.next += 1;
        self.operations.insert(ticket, Operation { number, buffers, receives: true, lent: None });
        Ok(ticket)
    }

    /// Cancels an operation.
    ///
    /// # Errors
    /// As [`Engine::cancel`].
    pub fn cancel(&mut self, ticket: Ticket) -> Result<(), Error> {
        let number = self.operations.get(&ticket).ok_or(Error::NotFound)?.number;
        self.engine().cancel(number)
    }

    /// True when the operation has ended and its outcome was not taken.
    pub fn is_finished(&self, ticket: Ticket) -> bool {
        self.outcomes.contains_key(&ticket)
    }

    /// Takes the outcome of an operation that has ended.
    pub fn take(&mut self, ticket: Ticket) -> Option<Outcome> {
        self.outcomes.remove(&ticket)
    }

    /// Operations that have not ended.
    pub fn pending(&self) -> usize {
        self.operations.len()
    }

    /// Operations in the order in which they ended.
    pub fn order(&self) -> &[Ticket] {
        &self.order
    }

    /// State of a peer.
    ///
    /// # Panics
    /// When there is no such peer.
    pub fn state(&mut self, peer: PeerId) -> PeerState {
        self.engine().peer(peer).expect("the peer exists").2.clone()
    }

    /// The peer whose node this is, the newest of several.
    pub fn peer_of(&mut self, node: NodeId) -> Option<PeerId> {
        let engine = self.engine();
        let known =
            (0..).map(PeerId::new).map_while(|peer| engine.peer(peer).ok().map(|(of, ..)| (peer, of)));
        known.filter(|(_, of)| *of == node).last().map(|(peer, _)| peer)
    }

    /// A send that was done within its call.
    pub(super) fn finish_at_once(&mut self, ticket: Ticket) {
        self.order.push(ticket);
        let outcome = Outcome { status: Ok(()), completion: None, bytes: Vec::new(), lent: None };
        self.outcomes.insert(ticket, outcome);
    }

    fn finish(&mut self, completion: Completion) {
        let ticket = Ticket(completion.context);
        let operation = self.operations.remove(&ticket);
        let mut operation = operation.unwrap_or_else(|| panic!("completion of no operation: {completion:?}"));
        let mut bytes = Vec::new();
        for buffer in &operation.buffers {
            let (content, guard) = buffer.split_at(buffer.len() - GUARD);
            assert!(
                guard.iter().all(|byte| *byte == GUARD_BYTE),
                "bytes behind a buffer were written: {completion:?}"
            );
            if operation.receives {
                bytes.extend_from_slice(content);
            }
        }
        scribble(&mut operation.buffers);
        let status = match completion.status {
            0 => Ok(()),
            code => Err(Error::from_code(code).expect("completions hold known errors")),
        };
        let lent = operation.lent.map(|lent| *lent);
        self.ended.extend(operation.buffers);
        while self.ended.len() > self.most_ended {
            self.ended.pop_front().iter().for_each(|buffer| check_freed(buffer));
        }
        self.order.push(ticket);
        self.outcomes.insert(ticket, Outcome { status, completion: Some(completion), bytes, lent });
    }
}

/// Accepts messages of `source` with exactly this tag.
pub fn exactly(source: PeerId, tag: u64) -> Pattern {
    Pattern { source: Source::Peer(source), tag, ignore: 0 }
}

/// Accepts messages of anybody with exactly this tag.
pub fn from_any(tag: u64) -> Pattern {
    Pattern { source: Source::Any, tag, ignore: 0 }
}

/// Accepts everything.
pub fn anything() -> Pattern {
    Pattern { source: Source::Any, tag: 0, ignore: u64::MAX }
}

pub(super) fn guarded(content: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(content.len() + GUARD);
    bytes.extend_from_slice(content);
    bytes.resize(content.len() + GUARD, GUARD_BYTE);
    bytes.into_boxed_slice()
}

pub(super) fn scribble(buffers: &mut [Box<[u8]>]) {
    buffers.iter_mut().for_each(|buffer| buffer.fill(FREED_BYTE));
}

fn check_freed(buffer: &[u8]) {
    // Compared in blocks: there may be megabytes.
    let is_untouched = |part: &[u8]| *part == [FREED_BYTE; 1024][..part.len()];
    assert!(buffer.chunks(1024).all(is_untouched), "memory of an operation was written after it had ended");
}

pub(super) fn iov_of(buffers: &mut [Box<[u8]>]) -> Vec<Iov> {
    let piece = |buffer: &mut Box<[u8]>| {
        let len = buffer.len() - GUARD;
        // SAFETY: the node keeps the box, whose bytes do not move with it, until the operation completes or the
        // engine is gone, and touches the bytes only then.
        unsafe { Iov::new(buffer.as_mut_ptr(), len) }
    };
    buffers.iter_mut().map(piece).collect()
}
