//! The short way out of an endpoint: a small message goes to its peer's ring past the tables of fabric, engine and rail.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

use gridnet_core::mem::Iov;
use gridnet_core::rail::PeerId;
use gridnet_core::ring::lane::Lane;
use gridnet_core::sync::{AtomicU32, Ordering};

use crate::fabric::Fabric;
use crate::fork::HOME;
use crate::shared::{Shared, ENTERED, SINGLE};

/// What an endpoint handle keeps of its peer.
#[derive(Debug)]
pub struct Outlet {
    /// The gate of `shared`, one step nearer.
    gate: NonNull<AtomicU32>,
    lane: UnsafeCell<Option<Arc<Lane>>>,
    /// Keeps the gate where it is.
    shared: Arc<Shared>,
    peer: PeerId,
}

// SAFETY: the gate is an atomic that `shared` keeps; the lane is looked at and changed by whoever is inside of the fabric.
unsafe impl Send for Outlet {}
// SAFETY: as above.
unsafe impl Sync for Outlet {}

impl Outlet {
    /// The outlet to a peer of `shared`.
    pub fn new(shared: Arc<Shared>, peer: PeerId) -> Outlet {
        let gate = NonNull::from(shared.gate());
        Outlet { gate, lane: UnsafeCell::new(None), shared, peer }
    }

    /// The fabric.
    #[inline(always)]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The peer.
    #[inline(always)]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Sends a small message if that can be done at once, by a program whose calls need no lock. False when it cannot, and
    /// nothing has happened: the way through the engine then does it, or says why not.
    #[inline(always)]
    pub fn send(&self, tag: u64, message: Iov) -> bool {
        // Relaxed, as in `Shared::enter`.
        if self.gate().load(Ordering::Relaxed) != HOME {
            return self.send_in_one_thread(tag, message);
        }
        // SAFETY: inside, alone.
        self.inside(HOME, |lane| unsafe { lane.send(tag, message) })
    }

    /// The same, with an immediate value.
    #[inline(always)]
    pub fn send_with(&self, tag: u64, immediate: u64, message: Iov) -> bool {
        let gate = self.gate().load(Ordering::Relaxed);
        let may_go_in = gate == HOME || gate == HOME | SINGLE && self.shared.is_home_thread();
        // SAFETY: inside, alone.
        may_go_in && self.inside(gate, |lane| unsafe { lane.send_with(tag, immediate, message) })
    }

    /// As [`Self::send`], at the level where only the thread that opened the fabric may call.
    #[inline(never)]
    fn send_in_one_thread(&self, tag: u64, message: Iov) -> bool {
        let may_go_in = self.gate().load(Ordering::Relaxed) == HOME | SINGLE && self.shared.is_home_thread();
        // SAFETY: inside, alone.
        may_go_in && self.inside(HOME | SINGLE, |lane| unsafe { lane.send(tag, message) })
    }

    /// The gate was seen to be `open`: alone inside, since calls of such a fabric do not overlap, by the promise of the
    /// program. What `send` says of the lane, if there is one.
    #[inline(always)]
    fn inside(&self, open: u32, send: impl FnOnce(&Lane) -> bool) -> bool {
        self.gate().store(open | ENTERED, Ordering::Relaxed);
        // SAFETY: inside, alone.
        let sent = match unsafe { &*self.lane.get() } {
            Some(lane) => send(lane),
            None => false,
        };
        self.gate().store(open, Ordering::Relaxed);
        sent
    }

    #[inline(always)]
    fn gate(&self) -> &AtomicU32 {
        // SAFETY: `shared` keeps it.
        unsafe { self.gate.as_ref() }
    }

    /// Takes note of the lane that leads to the peer now; `fabric` is that of the outlet, or nothing happens.
    pub fn refresh(&self, fabric: &mut Fabric) {
        if !self.shared.is_of(fabric) {
            return;
        }
        // SAFETY: whoever has the fabric is inside, alone.
        let lane = unsafe { &mut *self.lane.get() };
        let now = fabric.engine.lane(self.peer);
        if now.map(Arc::as_ptr) != lane.as_ref().map(Arc::as_ptr) {
            *lane = now.cloned();
        }
    }
}
