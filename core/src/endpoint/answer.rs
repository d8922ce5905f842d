//! What the owners of regions say to our operations, and how these end.

use super::op::OpId;
use super::remote_op::{RemoteOp, Work};
use super::state::State;
use crate::completion::Completion;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::PeerId;

impl State {
    /// Bytes of a region have come.
    pub(super) fn take_data(
        &mut self,
        peer: PeerId,
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        let Some((key, op)) = self.remote_op(peer, op)? else { return Ok(()) };
        let Work::Get(to) = op.work else { return Err(Error::PeerMisbehaved) };
        // Rails here keep the order: parts follow one another.
        let fits = payload.len() <= to.len() - op.moved && !payload.is_empty();
        if !op.is_sent || offset != op.moved as u64 || !fits {
            return Err(Error::PeerMisbehaved);
        }
        payload.copy_to(&Gather::one(&to).window(op.moved, payload.len()));
        op.moved += payload.len();
        if op.moved == to.len() {
            self.complete_remote(key, Ok(()));
        }
        Ok(())
    }

    /// The owner of a region has done what it was asked for, or says why not.
    pub(super) fn take_answer(
        &mut self,
        peer: PeerId,
        op: u64,
        status: Result<(), Error>,
        value: u64,
    ) -> Result<(), Error> {
        let Some((key, op)) = self.remote_op(peer, op)? else { return Ok(()) };
        if status.is_ok() {
            let mut hint = 0;
            match &op.work {
                Work::Put(_) if op.is_sent => hint = value,
                Work::Get(to) if op.is_sent && to.is_empty() => hint = value,
                Work::Atomic(update, result) if op.is_sent => {
                    deliver_word(value, update.bytes(), result.as_ref());
                }
                _ => return Err(Error::PeerMisbehaved),
            }
            let rkey = op.rkey.and_then(|rkey| self.remote.rkeys.get_mut(rkey));
            // A key that was made of a number, which may name another region than before. Rails check what a hint leads to.
            if let Some(rkey) = rkey.filter(|rkey| hint != 0 && rkey.key.hint != hint) {
                rkey.key.hint = hint;
            }
        }
        self.complete_remote(key, status);
        Ok(())
    }

    /// The operation that a peer speaks of; none when it was given up meanwhile.
    fn remote_op(&mut self, peer: PeerId, op: u64) -> Result<Option<(Key, &mut RemoteOp)>, Error> {
        let OpId::Remote(key) = OpId::from_bits(op) else {
            return Err(Error::PeerMisbehaved);
        };
        match self.remote.ops.get_mut(key) {
            Some(op) if op.peer != peer || matches!(op.work, Work::Flush) => Err(Error::PeerMisbehaved),
            Some(op) => Ok(Some((key, op))),
            None => Ok(None),
        }
    }

    /// Ends an operation, and the flushes that waited for it.
    pub(super) fn complete_remote(&mut self, key: Key, status: Result<(), Error>) {
        if let Some(peer) = self.finish_remote(key, status) {
            self.advance_line(peer);
        }
    }

    /// Ends one operation; the peer in whose line it stood.
    fn finish_remote(&mut self, key: Key, status: Result<(), Error>) -> Option<PeerId> {
        let op = self.remote.ops.remove(key)?;
        if let Err(error) = status {
            self.note_failure(op.peer, error);
        }
        let completion = Completion {
            context: op.context,
            length: op.len(),
            tag: 0,
            immediate: 0,
            op: OpId::Remote(key).to_bits(),
            status: status.err().map_or(0, Error::code),
            source: op.peer.number(),
            kind: op.kind() as u32,
            flags: 0,
        };
        self.complete(op.cq, completion);
        if op.is_get() && op.is_sent {
            self.get_ended(op.peer);
        }
        self.note_end_of_bulk();
        Some(op.peer)
    }

    /// What waits for the bytes of a get may be sent now.
    fn get_ended(&mut self, peer: PeerId) {
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.remote.gets = p.remote.gets.saturating_sub(1);
            self.schedule(peer);
        }
    }

    /// Forgets what has ended at the front of the line; a flush there ends too.
    fn advance_line(&mut self, peer: PeerId) {
        loop {
            let Some(p) = self.peers.get_mut(peer.index()) else { return };
            let Some(key) = p.remote.first() else { return };
            match self.remote.ops.get(key) {
                None => p.remote.advance(),
                Some(op) if matches!(op.work, Work::Flush) => {
                    p.remote.advance();
                    // Not `complete_remote`, which would come back here once for each flush in the line.
                    self.finish_remote(key, Ok(()));
                }
                Some(_) => return,
            }
        }
    }

    pub(super) fn cancel_remote(&mut self, key: Key) -> Result<(), Error> {
        self.remote.ops.get(key).ok_or(Error::NotFound)?;
        self.complete_remote(key, Err(Error::Canceled));
        Ok(())
    }

    pub(super) fn cancel_remote_where(&mut self, choose: impl Fn(&RemoteOp) -> bool) {
        let chosen: Vec<_> =
            self.remote.ops.iter().filter(|(_, op)| choose(op)).map(|(key, _)| key).collect();
        for key in chosen {
            self.complete_remote(key, Err(Error::Canceled));
        }
    }

    /// The peer has gone: its regions are out of reach.
    pub(super) fn fail_remote(&mut self, peer: PeerId, error: Error) {
        for rkey in self.remote.rkeys.values_mut().filter(|rkey| rkey.peer == peer) {
            rkey.window = None;
        }
        self.remote.in_rail.retain(|(holder, _), _| *holder != peer);
        let lost: Vec<_> =
            self.remote.ops.iter().filter(|(_, op)| op.peer == peer).map(|(key, _)| key).collect();
        for key in lost {
            self.complete_remote(key, Err(error));
        }
    }
}

/// Writes the word before an atomic operation, of so many bytes, to where the caller wants it.
pub(super) fn deliver_word(value: u64, len: usize, result: Option<&Iov>) {
    let Some(result) = result else { return };
    let bytes = value.to_ne_bytes();
    let from = if cfg!(target_endian = "big") { size_of::<u64>() - len } else { 0 };
    PeerBytes::from_slice(&bytes[from..from + len]).copy_to(&Gather::one(result));
}
