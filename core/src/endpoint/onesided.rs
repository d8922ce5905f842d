//! Operations on peers' regions: put, get, atomic operations, flush.
//!
//! Where the rail reaches the region by itself, an operation is done when its call returns. Elsewhere it goes to the owner
//! by messages (`remote_op.rs`), and completes when the owner has answered (`answer.rs`). While one is under way, later
//! operations on regions of the same peer go by messages too, in one line (`remote_line.rs`): so all of them take effect
//! in the order of the calls.

use std::collections::HashMap;

use super::answer::deliver_word;
use super::op::CqId;
use super::peer::PeerState;
use super::remote_op::{Place, RemoteOp, Work};
use super::send::Sent;
use super::Engine;
use crate::error::Error;
use crate::ledger::PeerCells;
use crate::matching::{Key, Slab};
use crate::mem::Iov;
use crate::rail::{LinkId, PeerId, Rail};
use crate::region::{
    check_bounds, Access, Atomic, Cache, Element, Guard, Regions, RemoteKey, Trusting, Update, Window,
};

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
        let Some((window, cells)) = self.window_now(peer, rkey) else { return false };
        // SAFETY: the caller's promise.
        let done = unsafe { window.put(offset, from, len) }.is_ok();
        if done {
            cells.puts.add(1);
            cells.bytes_put.add(len as u64);
        }
        done
    }

    /// Gets, as [`Self::put_now`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline(always)]
    pub unsafe fn get_now(&mut self, peer: PeerId, rkey: Key, offset: u64, to: *mut u8, len: usize) -> bool {
        let Some((window, cells)) = self.window_now(peer, rkey) else { return false };
        // SAFETY: the caller's promise.
        let done = unsafe { window.get(offset, to, len) }.is_ok();
        if done {
            cells.gets.add(1);
            cells.bytes_got.add(len as u64);
        }
        done
    }

    /// Runs an atomic operation, as [`Self::put_now`]; the word as it was before.
    #[inline(always)]
    pub fn atomic_now(&mut self, peer: PeerId, rkey: Key, offset: u64, atomic: &Atomic) -> Option<u64> {
        let (window, cells) = self.window_now(peer, rkey)?;
        let before = window.atomic(offset, atomic).ok()?;
        cells.atomics.add(1);
        Some(before)
    }

    /// The window of a key, when nothing is under way that has to come first, and where its use is counted. Windows are gone
    /// as soon as their peer is.
    #[inline(always)]
    fn window_now(&self, peer: PeerId, rkey: Key) -> Option<(&Window, &PeerCells)> {
        let known = self.state.remote.rkeys.get(rkey)?;
        let window = known.window.as_ref()?;
        let p = self.state.peers.get(peer.index())?;
        (known.peer == peer && p.remote.is_idle()).then(|| (window, &p.counts.cells))
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
        let work = Work::Put(from);
        if let Some((index, link)) = self.reach(peer, rkey) {
            if let Some((window, _)) = self.window_now(peer, rkey) {
                // SAFETY: the piece is readable by the promise of `Iov::new`.
                let done = unsafe { window.put(offset, from.base(), from.len()) };
                return self.done_at_once(peer, &work, done);
            }
            if let Some(done) = self.rails[index].copy_to(link, &key, offset, &from) {
                return self.done_at_once(peer, &work, done);
            }
        }
        let place = Place { rkey: Some(rkey), region: key.number, offset };
        self.start(peer, args, place, work)
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
        let work = Work::Get(to);
        if let Some((index, link)) = self.reach(peer, rkey) {
            if let Some((window, _)) = self.window_now(peer, rkey) {
                // SAFETY: the piece is writable by the promise of `Iov::new`.
                let done = unsafe { window.get(offset, to.base(), to.len()) };
                return self.done_at_once(peer, &work, done);
            }
            if let Some(done) = self.rails[index].copy_from(link, &key, offset, &to) {
                return self.done_at_once(peer, &work, done);
            }
        }
        let place = Place { rkey: Some(rkey), region: key.number, offset };
        self.start(peer, args, place, work)
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
        let work = Work::Atomic(Update::Word(*atomic), result);
        if let Some((window, _)) = self.window_now(peer, rkey) {
            let before = window.atomic(offset, atomic)?;
            deliver_word(before, atomic.width.bytes(), result.as_ref());
            return self.done_at_once(peer, &work, Ok(()));
        }
        let place = Place { rkey: Some(rkey), region: key.number, offset };
        self.start(peer, args, place, work)
    }

    /// Runs an atomic operation on an element, as [`Self::atomic`], always by messages. Whoever has a right to one has it to what it
    /// replaces, too; to read an element, the right to get is enough.
    ///
    /// # Errors
    /// As [`Self::atomic`].
    pub fn element(
        &mut self,
        peer: PeerId,
        rkey: Key,
        offset: u64,
        element: &Element,
        result: Option<Iov>,
        args: &RemoteArgs,
    ) -> Result<Sent, Error> {
        let update = Update::Element(*element);
        let right = if update.only_reads() { Access::REMOTE_READ } else { Access::REMOTE_ATOMIC };
        let key = self.check(peer, rkey, offset, update.bytes(), right)?;
        if key.align >= update.bytes() as u64 {
            update.check_place(offset)?;
        }
        let place = Place { rkey: Some(rkey), region: key.number, offset };
        self.start(peer, args, place, Work::Atomic(update, result))
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
        if p.remote.is_idle() {
            return Ok(Sent::Done);
        }
        self.start(peer, args, Place::default(), Work::Flush)
    }

    /// The end of an operation in its call, counted.
    fn done_at_once(&self, peer: PeerId, work: &Work, done: Result<(), Error>) -> Result<Sent, Error> {
        done?;
        if let Some(p) = self.state.peers.get(peer.index()) {
            work.count(&p.counts.cells);
        }
        Ok(Sent::Done)
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
    fn reach(&mut self, peer: PeerId, rkey: Key) -> Option<(usize, LinkId)> {
        let p = self.state.peers.get(peer.index())?;
        if p.state != PeerState::Up || !p.remote.is_idle() {
            return None;
        }
        let known = self.state.remote.rkeys.get_mut(rkey)?;
        let rail = self.rails.get_mut(p.rail)?;
        if known.window.is_none() && rail.capabilities().put {
            known.window = rail.window(p.link, &known.key);
        }
        Some((p.rail, p.link))
    }
}
