//! Operations on peers' regions: put, get, atomic operations, flush.
//!
//! Where the rail reaches the region by itself, an operation is done when its call returns. Elsewhere it goes to the owner
//! by messages, in order, and completes when the owner has answered. While one is under way, later operations on
//! regions of the same peer go by messages too: so all of them take effect in the order of the calls.

use std::collections::{HashMap, VecDeque};

use super::flush::Step;
use super::op::{CqId, OpId};
use super::peer::PeerState;
use super::send::Sent;
use super::serve::Reply;
use super::state::State;
use super::Engine;
use crate::completion::{Completion, OpKind};
use crate::error::Error;
use crate::matching::{Key, Slab};
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{PeerId, Posted, Rail};
use crate::region::{check_bounds, Access, Atomic, Cache, Guard, Regions, RemoteKey, Trusting, Window};
use crate::wire::Message;

/// What an operation on a region can be given besides memory and place.
#[derive(Debug, Clone, Copy)]
pub struct RemoteArgs {
    /// Queue that its completion goes to.
    pub cq: CqId,
    /// The endpoint handle that starts it, for [`Engine::cancel_sends_of`].
    pub owner: u64,
    /// Given back with the completion.
    pub context: u64,
}

/// A region of a peer, imported.
#[derive(Debug)]
pub(super) struct Rkey {
    pub(super) peer: PeerId,
    pub(super) key: RemoteKey,
    /// Open once the rail reaches the region by itself; gone with the link.
    pub(super) window: Option<Window>,
}

/// What an operation does.
#[derive(Debug, Clone, Copy)]
enum Work {
    Put(Iov),
    Get(Iov),
    /// The word as it was before goes to the memory, if there is any.
    Atomic(Atomic, Option<Iov>),
    Flush,
}

/// An operation by messages.
#[derive(Debug)]
pub(super) struct RemoteOp {
    peer: PeerId,
    pub(super) owner: u64,
    pub(super) cq: CqId,
    context: u64,
    /// Number of the region at its owner.
    region: u64,
    offset: u64,
    work: Work,
    /// Bytes that have moved: sent of a put, come of a get.
    moved: usize,
    /// Everything of it was handed to the rail.
    is_sent: bool,
}

/// What an engine knows of regions.
#[derive(Debug)]
pub(super) struct RemoteState {
    pub(super) regions: Regions,
    pub(super) cache: Cache,
    pub(super) guard: Box<dyn Guard>,
    pub(super) rkeys: Slab<Rkey>,
    pub(super) ops: Slab<RemoteOp>,
    /// Where bytes of registered memory are copied first, since it may be gone; and all bytes for rails that keep memory.
    pub(super) bounce: Vec<u8>,
    /// Such copies that a rail still reads.
    pub(super) in_rail: HashMap<(PeerId, u64), Vec<u8>>,
}

impl Default for RemoteState {
    fn default() -> RemoteState {
        RemoteState {
            regions: Regions::default(),
            cache: Cache::default(),
            guard: Box::new(Trusting),
            rkeys: Slab::default(),
            ops: Slab::default(),
            bounce: Vec::new(),
            in_rail: HashMap::new(),
        }
    }
}

/// Operations between this fabric and one peer.
#[derive(Debug, Default)]
pub(super) struct RemoteLine {
    /// Ours that have not ended, in the order of the calls; some of those behind the first may have ended.
    line: VecDeque<Key>,
    /// Those of them that are not sent.
    to_send: VecDeque<Key>,
    /// What the peer is to be sent of our regions.
    pub(super) replies: VecDeque<Reply>,
    turn: u8,
}

impl RemoteLine {
    pub(super) fn has_work(&self) -> bool {
        !self.to_send.is_empty() || !self.replies.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.line.clear();
        self.to_send.clear();
        self.replies.clear();
    }

    /// Whose turn it is: large messages, operations, answers.
    pub(super) fn next_turn(&mut self) -> u8 {
        self.turn = if self.turn >= 2 { 0 } else { self.turn + 1 };
        self.turn
    }
}

impl<R: Rail> Engine<R> {
    /// Puts if the region is reached by this process itself: the hot path. False when not, or when something is wrong, and
    /// nothing has happened: [`Self::put`] then does it, or says why not.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes.
    #[inline(always)]
    pub unsafe fn put_now(
        &mut self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        from: *const u8,
        len: usize,
    ) -> bool {
        // SAFETY: the caller's promise.
        self.window_now(peer, rkey).is_some_and(|w| unsafe { w.put(offset, from, len) }.is_ok())
    }

    /// Gets, as [`Self::put_now`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline(always)]
    pub unsafe fn get_now(&mut self, peer: PeerId, rkey: Key, offset: u64, to: *mut u8, len: usize) -> bool {
        // SAFETY: the caller's promise.
        self.window_now(peer, rkey).is_some_and(|w| unsafe { w.get(offset, to, len) }.is_ok())
    }

    /// Runs an atomic operation, as [`Self::put_now`]; the word as it was before.
    #[inline(always)]
    pub fn atomic_now(&mut self, peer: PeerId, rkey: Key, offset: u64, atomic: &Atomic) -> Option<u64> {
        self.window_now(peer, rkey)?.atomic(offset, atomic).ok()
    }

    /// The window of a key, when nothing is under way that has to come first. Windows are gone as soon as their peer is.
    #[inline(always)]
    fn window_now(&self, peer: PeerId, rkey: Key) -> Option<&Window> {
        let known = self.state.remote.rkeys.get(rkey)?;
        let window = known.window.as_ref()?;
        let is_idle = self.state.peers.get(peer.index())?.remote.line.is_empty();
        (known.peer == peer && is_idle).then_some(window)
    }

    /// Copies `from` to `offset` of a peer's region.
    ///
    /// # Errors
    /// [`Error::Key`] for a key of another peer or a closed one, [`Error::Access`], [`Error::Bounds`], [`Error::Fault`]; the
    /// peer's error when it has gone; [`Error::Again`] when a limit on operations is reached.
    pub fn put(
        &mut self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        from: Iov,
        args: &RemoteArgs,
    ) -> Result<Sent, Error> {
        let key = self.check(peer, rkey, offset, from.len(), Access::REMOTE_WRITE)?;
        if let Some((index, link)) = self.reach(peer, rkey) {
            if let Some(window) = self.window_now(peer, rkey) {
                // SAFETY: the piece is readable by the promise of `Iov::new`.
                return unsafe { window.put(offset, from.base(), from.len()) }.map(|()| Sent::Done);
            }
            if let Some(done) = self.rails[index].copy_to(link, &key, offset, &from) {
                return done.map(|()| Sent::Done);
            }
        }
        self.start(peer, args, (key.number, offset), Work::Put(from))
    }

    /// Copies from `offset` of a peer's region to `to`.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn get(
        &mut self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        to: Iov,
        args: &RemoteArgs,
    ) -> Result<Sent, Error> {
        let key = self.check(peer, rkey, offset, to.len(), Access::REMOTE_READ)?;
        if let Some((index, link)) = self.reach(peer, rkey) {
            if let Some(window) = self.window_now(peer, rkey) {
                // SAFETY: the piece is writable by the promise of `Iov::new`.
                return unsafe { window.get(offset, to.base(), to.len()) }.map(|()| Sent::Done);
            }
            if let Some(done) = self.rails[index].copy_from(link, &key, offset, &to) {
                return done.map(|()| Sent::Done);
            }
        }
        self.start(peer, args, (key.number, offset), Work::Get(to))
    }

    /// Runs an atomic operation at `offset` of a peer's region. The word as it was before goes to `result`, if there is one,
    /// which is as long as the word is wide.
    ///
    /// # Errors
    /// As [`Self::put`], and [`Error::Misaligned`].
    pub fn atomic(
        &mut self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        atomic: &Atomic,
        result: Option<Iov>,
        args: &RemoteArgs,
    ) -> Result<Sent, Error> {
        let key = self.check(peer, rkey, offset, atomic.width.bytes(), Access::REMOTE_ATOMIC)?;
        // A region that starts crookedly is told by its owner, who knows the address.
        if key.align >= atomic.width.bytes() as u64 {
            atomic.check_place(offset)?;
        }
        self.reach(peer, rkey);
        if let Some(window) = self.window_now(peer, rkey) {
            deliver_word(window.atomic(offset, atomic)?, atomic, result.as_ref());
            return Ok(Sent::Done);
        }
        self.start(peer, args, (key.number, offset), Work::Atomic(*atomic, result))
    }

    /// Completes when every operation on the peer's regions that was started before has taken effect.
    ///
    /// # Errors
    /// The peer's error when it has gone; [`Error::Again`] when a limit on operations is reached.
    pub fn flush_remote_ops(&mut self, peer: PeerId, args: &RemoteArgs) -> Result<Sent, Error> {
        let p = self.state.peers.get(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        if p.remote.line.is_empty() {
            return Ok(Sent::Done);
        }
        self.start(peer, args, (0, 0), Work::Flush)
    }

    /// The key, if it is one of this peer and allows this.
    fn check(
        &self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<RemoteKey, Error> {
        let known = self.state.remote.rkeys.get(rkey).filter(|known| known.peer == peer);
        let key = known.ok_or(Error::Key)?.key;
        let p = self.state.peers.get(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        if !key.access.allows(access) {
            return Err(Error::Access);
        }
        check_bounds(offset, len, key.len)?;
        Ok(key)
    }

    /// Opens the window of a key if there is to be one. The rail and link when this process may reach the region by
    /// itself: the link is up, and nothing is under way that has to come first.
    fn reach(&mut self, peer: PeerId, rkey: Key) -> Option<(usize, crate::rail::LinkId)> {
        let p = self.state.peers.get(peer.index())?;
        if p.state != PeerState::Up || !p.remote.line.is_empty() {
            return None;
        }
        let known = self.state.remote.rkeys.get_mut(rkey)?;
        let rail = self.rails.get_mut(p.rail)?;
        if known.window.is_none() && rail.capabilities().put {
            known.window = rail.window(p.link, &known.key);
        }
        Some((p.rail, p.link))
    }

    /// Starts an operation by messages.
    fn start(
        &mut self,
        peer: PeerId,
        args: &RemoteArgs,
        (region, offset): (u64, u64),
        work: Work,
    ) -> Result<Sent, Error> {
        self.state.admit(args.cq)?;
        let RemoteArgs { cq, owner, context } = *args;
        let op = RemoteOp { peer, owner, cq, context, region, offset, work, moved: 0, is_sent: false };
        let key = self.state.remote.ops.insert(op);
        let remote = &mut self.state.peers[peer.index()].remote;
        remote.line.push_back(key);
        remote.to_send.push_back(key);
        self.state.schedule(peer);
        self.flush();
        Ok(Sent::InProgress(OpId::Remote(key).to_bits()))
    }

    /// The next frame of the operation whose turn it is.
    pub(super) fn flush_remote(&mut self, peer: PeerId) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(&key) = p.remote.to_send.front() else {
            return Step::Idle;
        };
        let Some(op) = self.state.remote.ops.get_mut(key) else {
            p.remote.to_send.pop_front();
            return Step::Moved(0);
        };
        let rail = &mut self.rails[p.rail];
        let posted = match (op.message(key, rail), op.work) {
            // Its turn to end comes when those before it have.
            (None, _) => Posted::Done,
            (Some((message, len)), Work::Put(from)) => {
                let from = Gather::one(&from).window(op.moved, len);
                rail.post(p.link, &message.frame(from))
            }
            (Some((message, _)), _) => rail.post(p.link, &message.frame(Gather::EMPTY)),
        };
        match posted {
            Posted::Done | Posted::Accepted(_) => {
                kill_point!("region.sent");
                let len = op.note_sent(rail);
                if op.is_sent {
                    p.remote.to_send.pop_front();
                }
                Step::Moved(len)
            }
            Posted::Failed(error) => {
                p.remote.to_send.pop_front();
                self.state.complete_remote(key, Err(error));
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }
}

impl RemoteOp {
    /// What is to be said next, with how many bytes of a put.
    fn message<R: Rail>(&self, key: Key, rail: &R) -> Option<(Message, usize)> {
        let (op, region, offset) = (OpId::Remote(key).to_bits(), self.region, self.offset);
        Some(match &self.work {
            Work::Put(from) => {
                let len = self.part(rail);
                let last = self.moved + len == from.len();
                (Message::Put { region, op, offset: offset + self.moved as u64, last }, len)
            }
            Work::Get(to) => (Message::Get { region, op, offset, len: to.len() as u64 }, 0),
            Work::Atomic(atomic, _) => (Message::Atomic { region, op, offset, atomic: *atomic }, 0),
            Work::Flush => return None,
        })
    }

    /// Bytes of the next part of a put.
    fn part<R: Rail>(&self, rail: &R) -> usize {
        match &self.work {
            Work::Put(from) => rail.segment_len(from.len() as u64).min(from.len() - self.moved),
            _ => 0,
        }
    }

    fn note_sent<R: Rail>(&mut self, rail: &R) -> usize {
        let len = self.part(rail);
        self.is_sent = match &self.work {
            Work::Put(from) => {
                self.moved += len;
                self.moved == from.len()
            }
            _ => true,
        };
        len
    }

    fn kind(&self) -> OpKind {
        match self.work {
            Work::Put(_) => OpKind::Put,
            Work::Get(_) => OpKind::Get,
            Work::Atomic(..) => OpKind::Atomic,
            Work::Flush => OpKind::Flush,
        }
    }

    fn len(&self) -> u64 {
        match &self.work {
            Work::Put(iov) | Work::Get(iov) => iov.len() as u64,
            Work::Atomic(atomic, _) => atomic.width.bytes() as u64,
            Work::Flush => 0,
        }
    }
}

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
            match &op.work {
                Work::Put(_) if op.is_sent => {}
                Work::Get(to) if op.is_sent && to.is_empty() => {}
                Work::Atomic(atomic, result) if op.is_sent => deliver_word(value, atomic, result.as_ref()),
                _ => return Err(Error::PeerMisbehaved),
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
        Some(op.peer)
    }

    /// Forgets what has ended at the front of the line; a flush there ends too.
    fn advance_line(&mut self, peer: PeerId) {
        loop {
            let Some(p) = self.peers.get_mut(peer.index()) else { return };
            let Some(&key) = p.remote.line.front() else { return };
            match self.remote.ops.get(key) {
                None => drop(p.remote.line.pop_front()),
                Some(op) if matches!(op.work, Work::Flush) => {
                    p.remote.line.pop_front();
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

/// Writes the word before an atomic operation to where the caller wants it.
fn deliver_word(value: u64, atomic: &Atomic, result: Option<&Iov>) {
    let Some(result) = result else { return };
    let whole = value.to_ne_bytes();
    let narrow = (value as u32).to_ne_bytes();
    let bytes: &[u8] = if atomic.width.bytes() == 8 { &whole } else { &narrow };
    PeerBytes::from_slice(bytes).copy_to(&Gather::one(result));
}
