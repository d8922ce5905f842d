//! An operation on a peer's region by messages: how it goes out.

use super::flush::{most_of_bulk, Step};
use super::onesided::RemoteArgs;
use super::op::{CqId, OpId};
use super::pace::Measure;
use super::send::Sent;
use super::Engine;
use crate::completion::OpKind;
use crate::error::Error;
use crate::ledger::PeerCells;
use crate::matching::Key;
use crate::mem::{Gather, Iov};
use crate::rail::{PeerId, Posted, Rail};
use crate::region::Update;
use crate::wire::Message;

/// What an operation does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Put(Iov),
    Get(Iov),
    /// What was there before goes to the memory, if there is any.
    Atomic(Update, Option<Iov>),
    Flush,
}

impl Work {
    /// Adds it to what happened with the peer.
    pub(super) fn count(&self, cells: &PeerCells) {
        match self {
            Work::Put(from) => {
                cells.puts.add(1);
                cells.bytes_put.add(from.len() as u64);
            }
            Work::Get(to) => {
                cells.gets.add(1);
                cells.bytes_got.add(to.len() as u64);
            }
            Work::Atomic(..) => cells.atomics.add(1),
            Work::Flush => {}
        }
    }
}

/// Where an operation goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// The key that it is started with.
    pub(super) rkey: Option<Key>,
    /// Number of the region at its owner.
    pub(super) region: u64,
    pub(super) offset: u64,
}

/// An operation by messages.
#[derive(Debug)]
pub(super) struct RemoteOp {
    pub(super) peer: PeerId,
    pub(super) owner: u64,
    pub(super) cq: CqId,
    pub(super) context: u64,
    /// The key that it was started with, which may be closed meanwhile.
    pub(super) rkey: Option<Key>,
    /// Number of the region at its owner.
    region: u64,
    offset: u64,
    pub(super) work: Work,
    /// Bytes that have moved: sent of a put, come of a get.
    pub(super) moved: usize,
    /// Everything of it was handed to the rail.
    pub(super) is_sent: bool,
}

impl<R: Rail> Engine<R> {
    /// Starts an operation by messages.
    pub(super) fn start(
        &mut self,
        peer: PeerId,
        args: &RemoteArgs,
        place: Place,
        work: Work,
    ) -> Result<Sent, Error> {
        self.state.admit(args.cq)?;
        let RemoteArgs { cq, owner, context } = *args;
        let Place { rkey, region, offset } = place;
        let op = RemoteOp { peer, owner, cq, context, rkey, region, offset, work, moved: 0, is_sent: false };
        let changes_memory = op.changes_memory();
        let key = self.state.remote.ops.insert(op);
        let p = &mut self.state.peers[peer.index()];
        p.remote.join(key, changes_memory);
        work.count(&p.counts.cells);
        p.counts.cells.by_message.add(u64::from(!matches!(work, Work::Flush)));
        self.state.schedule(peer);
        self.flush();
        Ok(Sent::InProgress(OpId::Remote(key).to_bits()))
    }

    /// The next frame of the operation whose turn it is.
    pub(super) fn flush_remote(&mut self, peer: PeerId, measure: Measure) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(key) = p.remote.next_to_send() else {
            return Step::Idle;
        };
        let Some(op) = self.state.remote.ops.get_mut(key) else {
            p.remote.has_left();
            return Step::Moved(0);
        };
        let rail = &mut self.rails[p.rail];
        let is_large = matches!(&op.work, Work::Put(from) if from.len() > p.eager_max);
        let most = match if is_large { most_of_bulk(rail, p.link, measure) } else { Ok(usize::MAX) } {
            Ok(most) => most,
            Err(step) => return step,
        };
        let len = op.part(rail, most);
        let posted = match (op.message(key, len), op.work) {
            // Its turn to end comes when those before it have.
            (None, _) => Posted::Done,
            (Some(message), Work::Put(from)) => {
                let from = Gather::one(&from).window(op.moved, len);
                rail.post(p.link, &message.frame(from))
            }
            (Some(message), _) => rail.post(p.link, &message.frame(Gather::EMPTY)),
        };
        match posted {
            Posted::Done | Posted::Accepted(_) => {
                kill_point!("region.sent");
                op.note_sent(len);
                if is_large {
                    self.state.pace.moved(len);
                }
                if op.is_sent {
                    p.remote.has_left();
                    p.remote.gets += usize::from(op.is_get());
                }
                Step::Moved(len)
            }
            Posted::Failed(error) => {
                p.remote.has_left();
                self.state.complete_remote(key, Err(error));
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }
}

impl RemoteOp {
    /// What is to be said next, with so many bytes of a put.
    fn message(&self, key: Key, len: usize) -> Option<Message> {
        let (op, region, offset) = (OpId::Remote(key).to_bits(), self.region, self.offset);
        Some(match &self.work {
            Work::Put(from) => {
                let last = self.moved + len == from.len();
                Message::Put { region, op, offset: offset + self.moved as u64, last }
            }
            Work::Get(to) => Message::Get { region, op, offset, len: to.len() as u64 },
            Work::Atomic(update, _) => Message::Atomic { region, op, offset, update: *update },
            Work::Flush => return None,
        })
    }

    /// Bytes of the next part of a put, at most so many.
    fn part<R: Rail>(&self, rail: &R, most: usize) -> usize {
        match &self.work {
            Work::Put(from) => rail.segment_len(from.len() as u64).min(from.len() - self.moved).min(most),
            _ => 0,
        }
    }

    fn note_sent(&mut self, len: usize) {
        self.is_sent = match &self.work {
            Work::Put(from) => {
                self.moved += len;
                self.moved == from.len()
            }
            _ => true,
        };
    }

    pub(super) fn kind(&self) -> OpKind {
        match self.work {
            Work::Put(_) => OpKind::Put,
            Work::Get(_) => OpKind::Get,
            Work::Atomic(..) => OpKind::Atomic,
            Work::Flush => OpKind::Flush,
        }
    }

    pub(super) fn len(&self) -> u64 {
        match &self.work {
            Work::Put(iov) | Work::Get(iov) => iov.len() as u64,
            Work::Atomic(update, _) => update.bytes() as u64,
            Work::Flush => 0,
        }
    }

    /// It has to wait for the bytes of gets before it: their owner reads them when their turn comes to be sent.
    pub(super) fn changes_memory(&self) -> bool {
        matches!(self.work, Work::Put(_) | Work::Atomic(..))
    }

    pub(super) fn is_get(&self) -> bool {
        matches!(self.work, Work::Get(_))
    }
}
