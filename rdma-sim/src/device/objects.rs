//! Protection domains, memory regions, completion queues, shared receive queues, queue pairs.

use std::sync::Arc;

use super::core::{Pair, Source};
use super::cq::{CompletionChannel, CqId, CqState, Overrun};
use super::{Device, SrqId};
use crate::attr::{Access, Change, State};
use crate::engine::{Engine, Error, Ident, Receives, Shape};
use crate::memory::Memory;
use crate::mr::PdId;
use crate::wire::QpNum;
use crate::wr::{Lkey, RecvWr, Remote, Rkey, SendWr, Sge, Wc};

/// Longest region.
const MAX_REGION: usize = 1 << 40;

impl Device {
    /// A new protection domain.
    pub fn alloc_pd(&self) -> Pd {
        let id = self.lock().next_pd();
        Pd { device: self.clone(), id }
    }

    /// A completion queue for `capacity` completions, which can tell `channel`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no capacity.
    pub fn create_cq(&self, capacity: usize, channel: Option<&CompletionChannel>) -> Result<Cq, Error> {
        if capacity == 0 {
            return Err(Error::Invalid);
        }
        let mut core = self.lock();
        let id = CqId(core.next_id());
        core.cqs.insert(id.0, CqState::new(id, capacity, channel.cloned()));
        drop(core);
        Ok(Cq(Arc::new(CqHandle { device: self.clone(), id })))
    }
}

/// A protection domain: queue pairs reach memory regions of their own only.
#[derive(Clone)]
pub struct Pd {
    device: Device,
    id: PdId,
}

impl Pd {
    /// Registers `len` bytes of the caller at `base`.
    ///
    /// # Safety
    /// Until the last clone of the region is dropped the memory is mapped, and can be read and written. The device reaches it by
    /// atomic operations: of eight bytes where they are aligned and wanted whole, of single bytes elsewhere. Others reach it only
    /// where the protocol with the peers says that it is at rest: no request is under way that was posted for it, and no peer uses
    /// the key. An aligned word of eight bytes may be reached at any time by atomic operations of eight bytes, if peers and
    /// requests of this side reach it only whole, too. The same holds for other devices where it is registered.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a length that no region has, and when peers may write what this side may not.
    /// [`Error::System`] when there are no random numbers.
    #[expect(unsafe_code)] // What is unsafe is the promise; `memory.rs` does what needs it.
    pub unsafe fn register(&self, base: *mut u8, len: usize, access: Access) -> Result<Mr, Error> {
        // SAFETY: the caller promises what `Memory::new` asks for, until the region is dropped, which drops the memory.
        self.adopt(unsafe { Memory::new(base, len) }, access)
    }

    /// Allocates `len` bytes, all zero, and registers them.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn allocate(&self, len: usize, access: Access) -> Result<Mr, Error> {
        if len > MAX_REGION {
            return Err(Error::Invalid);
        }
        self.adopt(Memory::allocate(len), access)
    }

    fn adopt(&self, memory: Memory, access: Access) -> Result<Mr, Error> {
        if memory.len() == 0 || memory.len() > MAX_REGION || !access.is_legal() {
            return Err(Error::Invalid);
        }
        let memory = Arc::new(memory);
        loop {
            // Who does not know a key does not guess it soon, and one that was deregistered does not come back soon.
            let key = getrandom::u32().map_err(|_| Error::System)?;
            if self.device.lock().regions.insert(key, self.id, access, memory.clone()) {
                return Ok(Mr(Arc::new(MrHandle { pd: self.clone(), memory, key })));
            }
        }
    }

    /// A shared receive queue for `capacity` receives.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no capacity.
    pub fn create_srq(&self, capacity: usize) -> Result<Srq, Error> {
        if capacity == 0 {
            return Err(Error::Invalid);
        }
        let mut core = self.device.lock();
        let id = SrqId(core.next_id());
        core.srqs.insert(id.0, Receives::new(capacity));
        drop(core);
        Ok(Srq(Arc::new(SrqHandle { pd: self.clone(), id })))
    }

    /// A queue pair in RESET. Its receives are those of `srq`, if there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a completion queue of another device or one that has lost completions, and for a shared receive queue
    /// of another protection domain: whose keys count would not be clear.
    pub fn create_qp(
        &self,
        send_cq: &Cq,
        recv_cq: &Cq,
        srq: Option<&Srq>,
        shape: QpShape,
    ) -> Result<Qp, Error> {
        let is_of_device = |device: &Device| Arc::ptr_eq(&device.core, &self.device.core);
        let is_of_domain = |srq: &Srq| is_of_device(&srq.0.pd.device) && srq.0.pd.id == self.id;
        let belongs = is_of_device(&send_cq.0.device) && is_of_device(&recv_cq.0.device);
        if !belongs || !srq.is_none_or(is_of_domain) {
            return Err(Error::Invalid);
        }
        let mut core = self.device.lock();
        if !core.tells(send_cq.0.id) || !core.tells(recv_cq.0.id) {
            return Err(Error::Invalid);
        }
        let num = QpNum::new(core.next_id());
        let engine = Engine::new(
            Ident { num, pd: self.id },
            Shape {
                max_send_wr: shape.max_send_wr,
                max_inline: shape.max_inline,
                max_sge: shape.max_sge,
                signal_all: shape.signal_all,
                shared_receives: srq.is_some(),
            },
        );
        let source = match srq {
            Some(srq) => Source::Shared(srq.0.id),
            None => Source::Own(Receives::new(shape.max_recv_wr)),
        };
        core.pairs.insert(num.value(), Pair::new(engine, send_cq.0.id, recv_cq.0.id, source));
        drop(core);
        Ok(Qp(Arc::new(QpHandle {
            device: self.device.clone(),
            num,
            _cqs: [send_cq.clone(), recv_cq.clone()],
            srq: srq.cloned(),
        })))
    }
}

/// Sizes of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpShape {
    /// Work requests of the send queue.
    pub max_send_wr: usize,
    /// Work requests of the receive queue, if it has one of its own.
    pub max_recv_wr: usize,
    /// Pieces of one work request.
    pub max_sge: usize,
    /// Bytes of inline data.
    pub max_inline: usize,
    /// Each send work request has a completion.
    pub signal_all: bool,
}

impl Default for QpShape {
    /// What programs for verbs usually ask for.
    fn default() -> QpShape {
        QpShape { max_send_wr: 128, max_recv_wr: 128, max_sge: 4, max_inline: 256, signal_all: false }
    }
}

/// A memory region. When the last clone is dropped it is deregistered: from then on nobody reaches the memory, and what is under
/// way for it fails.
#[derive(Clone)]
pub struct Mr(Arc<MrHandle>);

struct MrHandle {
    pd: Pd,
    memory: Arc<Memory>,
    key: u32,
}

impl Mr {
    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.0.memory.address()
    }

    /// The key for this side.
    pub fn lkey(&self) -> Lkey {
        Lkey(self.0.key)
    }

    /// The key for peers.
    pub fn rkey(&self) -> Rkey {
        Rkey(self.0.key)
    }

    /// `length` bytes from `offset` on, for work requests of this side.
    pub fn sge(&self, offset: u64, length: u32) -> Sge {
        Sge { address: self.address().wrapping_add(offset), length, lkey: self.lkey() }
    }

    /// The place at `offset`, for work requests of peers.
    pub fn remote(&self, offset: u64) -> Remote {
        Remote { address: self.address().wrapping_add(offset), rkey: self.rkey() }
    }

    /// Copies bytes of memory that was [allocated](Pd::allocate).
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are not all within it, or the memory is the caller's.
    pub fn read(&self, offset: usize, len: usize) -> Result<Vec<u8>, Error> {
        // The device may be at work in another thread, with pieces of other sizes.
        let _device = self.0.pd.device.lock();
        let mut bytes = Vec::new();
        if self.0.memory.is_own() && self.0.memory.read(offset, len, &mut bytes) {
            Ok(bytes)
        } else {
            Err(Error::Invalid)
        }
    }

    /// Fills memory that was [allocated](Pd::allocate).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        // As in `read`.
        let _device = self.0.pd.device.lock();
        if self.0.memory.is_own() && self.0.memory.write(offset, bytes) {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }
}

impl Drop for MrHandle {
    fn drop(&mut self) {
        self.pd.device.lock().regions.remove(self.key);
    }
}

/// A completion queue.
#[derive(Clone)]
pub struct Cq(Arc<CqHandle>);

struct CqHandle {
    device: Device,
    id: CqId,
}

impl Cq {
    /// Its number, by which channels and events name it.
    pub fn id(&self) -> CqId {
        self.0.id
    }

    /// The oldest completion.
    ///
    /// # Errors
    /// [`Overrun`] once all that is left was taken of a queue that was full.
    pub fn poll(&self) -> Result<Option<Wc>, Overrun> {
        self.0.device.lock().cqs.get_mut(&self.0.id.0).map_or(Ok(None), CqState::poll)
    }

    /// Hands out the oldest completions, at most so many; how many there were.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_many(&self, most: usize, each: impl FnMut(Wc)) -> Result<usize, Overrun> {
        self.0.device.lock().poll_many(self.0.id, most, each)
    }

    /// Tells the channel of the next completion, or of the next that is solicited or a failure; once. What was in the queue
    /// before tells nothing: poll after this call, before waiting.
    pub fn request_notify(&self, solicited_only: bool) {
        if let Some(cq) = self.0.device.lock().cqs.get_mut(&self.0.id.0) {
            cq.arm(solicited_only);
        }
    }
}

impl Drop for CqHandle {
    fn drop(&mut self) {
        let removed = self.device.lock().cqs.remove(&self.id.0);
        drop(removed);
    }
}

/// A shared receive queue.
#[derive(Clone)]
pub struct Srq(Arc<SrqHandle>);

struct SrqHandle {
    pd: Pd,
    id: SrqId,
}

impl Srq {
    /// Its number, by which events name it.
    pub fn id(&self) -> SrqId {
        self.0.id
    }

    /// Posts a receive for whichever queue pair needs it first.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Invalid`] for more than 2 GiB.
    pub fn post_recv(&self, wr: RecvWr) -> Result<(), Error> {
        self.with(|receives| receives.post(wr)).unwrap_or(Err(Error::Invalid))
    }

    /// Tells by an event, once, when fewer than `limit` receives are left; 0 is never.
    pub fn arm(&self, limit: usize) {
        self.with(|receives| receives.arm(limit));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Receives) -> R) -> Option<R> {
        self.0.pd.device.lock().srqs.get_mut(&self.0.id.0).map(work)
    }
}

impl Drop for SrqHandle {
    fn drop(&mut self) {
        let removed = self.pd.device.lock().srqs.remove(&self.id.0);
        drop(removed);
    }
}

/// A queue pair of the reliable connected service.
#[derive(Clone)]
pub struct Qp(Arc<QpHandle>);

struct QpHandle {
    device: Device,
    num: QpNum,
    /// They stay as long as it needs them.
    _cqs: [Cq; 2],
    /// Where its receives come from, if not from its own queue.
    srq: Option<Srq>,
}

impl Qp {
    /// Its number, which the peer needs.
    pub fn num(&self) -> QpNum {
        self.0.num
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.0.device.lock().run(self.0.num, |engine, _, _| engine.state()).unwrap_or(State::Err)
    }

    /// Changes its state.
    ///
    /// # Errors
    /// [`Error::State`] for a change that is not legal, and for one to RTR when a completion queue has lost completions, so that
    /// nothing could be told; [`Error::Invalid`] for attributes out of range. Then nothing has changed.
    pub fn change(&self, change: Change) -> Result<(), Error> {
        let mut core = self.0.device.lock();
        let family = core.port.address().is_ipv4();
        if matches!(change, Change::Rtr(peer) if peer.remote.is_ipv4() != family) {
            return Err(Error::Invalid);
        }
        if matches!(change, Change::Rtr(_)) && !core.can_tell(self.0.num) {
            return Err(Error::State);
        }
        core.run(self.0.num, |engine, host, _| engine.change(change, host)).unwrap_or(Err(Error::State))
    }

    /// Posts a request to send, write, read or do an atomic operation. It leaves with [`Device::progress`].
    ///
    /// # Errors
    /// [`Error::State`] before RTS, [`Error::Full`], [`Error::Invalid`].
    pub fn post_send(&self, wr: SendWr) -> Result<(), Error> {
        self.0.device.lock().post_send(self.0.num, wr)
    }

    /// Posts a request, and lets it leave as far as it can: what a doorbell does. Looks at nothing that comes.
    ///
    /// # Errors
    /// As [`post_send`](Self::post_send).
    pub fn send_now(&self, wr: SendWr) -> Result<(), Error> {
        let mut core = self.0.device.lock();
        core.post_send(self.0.num, wr)?;
        core.flush();
        Ok(())
    }

    /// Posts a receive.
    ///
    /// # Errors
    /// [`Error::State`] in RESET, [`Error::Full`], [`Error::Invalid`] for too many pieces, more than 2 GiB, or with a shared receive
    /// queue.
    pub fn post_recv(&self, wr: RecvWr) -> Result<(), Error> {
        if self.0.srq.is_some() {
            return Err(Error::Invalid);
        }
        self.0.device.lock().post_recv(self.0.num, wr)
    }
}

impl Drop for QpHandle {
    fn drop(&mut self) {
        let removed = self.device.lock().pairs.remove(&self.num.value());
        drop(removed);
    }
}
