//! Starting sends.

use super::link::RailSink;
use super::op::{CqId, IovList, OpId, SendOp, Stage};
use super::peer::Peer;
use super::Engine;
use crate::completion::{Completion, OpKind, HAS_IMMEDIATE};
use crate::error::Error;
use crate::mem::{Gather, Iov, MEMORY_HOST};
use crate::probes;
use crate::rail::{PeerId, Posted, Rail};
use crate::ring::lane::LISTEN;
use crate::wire::Message;

/// Most pieces of memory of one operation.
const MAX_IOV: usize = 1024;

/// What a send can be given besides memory and tag.
#[derive(Debug, Clone, Copy)]
pub struct SendArgs {
    /// Queue that its completion goes to.
    pub cq: CqId,
    /// The endpoint handle that sends, for [`Engine::cancel_sends_of`].
    pub owner: u64,
    /// Given back with the completion.
    pub context: u64,
    /// Tag.
    pub tag: u64,
    /// Value that travels with the message.
    pub immediate: Option<u64>,
    /// Complete only when the receiver has matched the message.
    pub sync: bool,
    /// Report the completion even of a send that is done at once.
    pub always_complete: bool,
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The memory may be reused, and no completion follows.
    Done,
    /// A completion follows for the operation of this number.
    InProgress(u64),
}

impl<R: Rail> Engine<R> {
    /// Sends one piece of memory if that can be done at once: the hot path. False when it cannot, and nothing has
    /// happened: [`Self::send_iov`] then does it, or says why not.
    #[inline(always)]
    pub fn send_now(&mut self, peer: PeerId, message: Iov, tag: u64) -> bool {
        let Some(p) = self.state.peers.get_mut(peer.index()) else {
            return false;
        };
        if !p.direct || message.len() > p.eager_max || must_listen(p) {
            return false;
        }
        let Some(rail) = self.rails.get_mut(p.rail) else {
            return false;
        };
        if rail.post_message(p.link, tag, &message) != Posted::Done {
            return false;
        }
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.sends_eager.add(1);
        p.counts.cells.bytes_sent.add(message.len() as u64);
        probes::send_posted(peer, tag, message.len() as u64);
        true
    }

    /// Sends pieces of memory as one message.
    ///
    /// # Errors
    /// [`Error::Again`] when a limit on operations is reached; the peer's error when it has gone; [`Error::Handle`]
    /// when there is no such queue; [`Error::Invalid`] for more than 1024 pieces; [`Error::Unsupported`] for memory
    /// that is not of the host.
    pub fn send_iov(&mut self, peer: PeerId, iov: &[Iov], args: &SendArgs) -> Result<Sent, Error> {
        let len = checked_len(iov)?;
        if self.state.peers.get(peer.index()).is_some_and(must_listen) {
            self.listen_to(peer);
        }
        let p = self.state.peers.get_mut(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        let fits = usize::try_from(len).is_ok_and(|len| len <= p.eager_max);
        let at_once = p.direct && fits && !args.sync;
        if args.always_complete || !at_once {
            self.state.admit(args.cq)?;
        }
        if at_once && self.post_at_once(peer, iov, args) {
            return Ok(self.finish_at_once(peer, len, args));
        }
        if at_once && !args.always_complete {
            self.state.admit(args.cq)?;
        }
        let key = self.state.sends.insert(SendOp {
            peer,
            owner: args.owner,
            cq: args.cq,
            context: args.context,
            iov: IovList::new(iov),
            len,
            tag: args.tag,
            immediate: args.immediate,
            sync: args.sync,
            stage: Stage::Queued,
        });
        let p = &mut self.state.peers[peer.index()];
        p.counts.cells.messages_sent.add(1);
        p.counts.cells.bytes_sent.add(len);
        probes::send_queued(peer, args.tag, len);
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

    /// Hears what a peer says to whom much is sent, and then the others.
    pub(super) fn listen_to(&mut self, peer: PeerId) {
        let p = &self.state.peers[peer.index()];
        let (index, link) = (p.rail, p.link);
        if p.live_link().is_some() {
            let mut sink = RailSink { state: &mut self.state, rail: index };
            self.rails[index].poll_link(link, super::POLL_BUDGET, &mut sink);
        }
        self.progress();
    }

    /// Tries to hand a whole message to the rail; true when its memory is free again.
    fn post_at_once(&mut self, peer: PeerId, iov: &[Iov], args: &SendArgs) -> bool {
        let p = &self.state.peers[peer.index()];
        let message = Message::Eager { tag: args.tag, immediate: args.immediate, sync: None };
        let rail = &mut self.rails[p.rail];
        rail.capabilities().max_iov >= iov.len()
            && rail.post(p.link, &message.frame(Gather::all(iov))) == Posted::Done
    }

    /// Accounts for a message that the rail has taken; when a completion is wanted, room for it was taken before.
    fn finish_at_once(&mut self, peer: PeerId, len: u64, args: &SendArgs) -> Sent {
        let cells = &self.state.peers[peer.index()].counts.cells;
        cells.messages_sent.add(1);
        cells.sends_eager.add(1);
        cells.bytes_sent.add(len);
        probes::send_posted(peer, args.tag, len);
        if !args.always_complete {
            return Sent::Done;
        }
        let completion = Completion {
            context: args.context,
            length: len,
            tag: args.tag,
            immediate: args.immediate.unwrap_or(0),
            op: 0,
            status: 0,
            source: peer.number(),
            kind: OpKind::Send as u32,
            flags: if args.immediate.is_some() { HAS_IMMEDIATE } else { 0 },
        };
        self.state.complete(args.cq, completion);
        Sent::InProgress(0)
    }

    /// Cancels the sends of one endpoint handle that have not completed.
    pub fn cancel_sends_of(&mut self, owner: u64) {
        self.cancel_sends_where(|op| op.owner == owner);
        self.state.cancel_remote_where(|op| op.owner == owner);
    }

    /// Cancels the sends that `choose` picks.
    pub(super) fn cancel_sends_where(&mut self, choose: impl Fn(&SendOp) -> bool) {
        let keys: Vec<_> = self.state.sends.iter().filter(|(_, op)| choose(op)).map(|(key, _)| key).collect();
        for key in keys {
            self.state.abandon_send(key, Error::Canceled);
        }
        self.conceal_finished();
    }
}

impl super::state::State {
    /// Ends a send early. The receiver is told when it already asked for pieces, or as soon as it asks.
    pub(super) fn abandon_send(&mut self, key: crate::matching::Key, error: Error) {
        let Some(op) = self.sends.get(key) else { return };
        let peer = op.peer;
        if let Stage::Announced { pieces, .. } = &op.stage {
            let waiting = pieces.front().map(|piece| piece.receiver_op);
            if let Some(op) = waiting.or_else(|| self.waits_at_outlet(peer, key)) {
                self.say(peer, Message::Abort { op, error });
            }
        }
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.pending.retain(|k| *k != key);
            p.bulk.remove(key);
            p.refresh_direct();
        }
        self.complete_send(key, Err(error));
    }
}

#[inline(always)]
pub(super) fn must_listen(peer: &Peer) -> bool {
    peer.counts.cells.messages_sent.value() % LISTEN == LISTEN - 1
}

/// Length of the message in bytes.
pub(super) fn checked_len(iov: &[Iov]) -> Result<u64, Error> {
    if iov.len() > MAX_IOV {
        return Err(Error::Invalid);
    }
    if iov.iter().any(|piece| piece.memory_kind() != MEMORY_HOST) {
        return Err(Error::Unsupported);
    }
    let total = iov.iter().try_fold(0usize, |sum, piece| sum.checked_add(piece.len()));
    Ok(total.ok_or(Error::Invalid)? as u64)
}
