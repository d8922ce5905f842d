//! Memory of loopback rails that others reach: what an operation exposes, and regions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{Offered, RemoteSource};
use crate::region::{Access, Watch, Window};
use crate::ring::bell::Order;
use crate::sync::{AtomicU64, Ordering};
use crate::wire::NodeId;

/// What the rails of a hub have shown to one another.
#[derive(Debug, Default)]
pub(super) struct Memory {
    exposed: HashMap<u64, Exposed>,
    next_rkey: u64,
    /// Regions that windows may be opened over, by owner and number.
    regions: HashMap<(NodeId, u64), Shown>,
}

/// A region that windows may be opened over.
#[derive(Debug)]
struct Shown {
    base: *mut u8,
    len: u64,
    access: Access,
    /// Its number as long as it lives.
    live: Arc<AtomicU64>,
    /// What those announce who have a window.
    announced: Vec<Arc<AtomicU64>>,
}

// SAFETY: the address is only used through windows, while the owner waits until nobody is inside before the memory goes.
unsafe impl Send for Shown {}

#[derive(Debug)]
struct Exposed {
    node: NodeId,
    base: *mut u8,
    len: usize,
}

// SAFETY: the address is only used under the hub's lock, while the exposing operation promises that the memory is
// readable from any thread (`Iov::new`).
unsafe impl Send for Exposed {}

/// The pieces of memory that a fetch goes to, for as long as it is under way.
pub(super) fn pieces_of(memory: &Gather<'_>) -> Vec<Iov> {
    // SAFETY: the receive that fetches keeps the promise of its own pieces until it completes, and aborts the fetch before.
    memory.pieces().map(|(base, len)| unsafe { Iov::new(base, len) }).collect()
}

impl Memory {
    /// Shows memory of an operation, if it is one piece.
    pub(super) fn expose(&mut self, node: NodeId, memory: &Gather<'_>) -> Option<RemoteSource> {
        let mut pieces = memory.pieces();
        let (base, len) = pieces.next()?;
        if pieces.next().is_some() {
            return None;
        }
        self.next_rkey += 1;
        let rkey = self.next_rkey;
        self.exposed.insert(rkey, Exposed { node, base, len });
        Some(RemoteSource { rkey, address: 0 })
    }

    pub(super) fn conceal(&mut self, source: RemoteSource) {
        self.exposed.remove(&source.rkey);
    }

    /// Copies from memory that an operation shows; false when it shows no such place.
    pub(super) fn get(&self, from: RemoteSource, to: &Gather<'_>) -> bool {
        let Some(exposed) = self.exposed.get(&from.rkey) else { return false };
        let Ok(start) = usize::try_from(from.address) else { return false };
        if start.checked_add(to.len()).is_none_or(|end| end > exposed.len) {
            return false;
        }
        // SAFETY: inside memory that its operation promises to be readable until it is concealed, which takes the lock
        // that is held here.
        let bytes = unsafe { PeerBytes::raw(exposed.base.add(start), to.len()) };
        bytes.copy_to(to);
        true
    }

    pub(super) fn offer(&mut self, node: NodeId, region: &Offered) {
        let Offered { number, base, len, access, .. } = *region;
        let live = Arc::new(AtomicU64::new(number));
        let shown = Shown { base, len, access, live, announced: Vec::new() };
        self.regions.insert((node, number), shown);
    }

    /// Takes a region back; false as long as somebody is inside.
    pub(super) fn withdraw(&mut self, node: NodeId, number: u64) -> bool {
        let place = (node, number);
        let Some(shown) = self.regions.get(&place) else { return true };
        shown.live.store(0, Ordering::Relaxed);
        if shown.announced.iter().any(|word| Watch::is_inside(word, number)) {
            return false;
        }
        self.regions.remove(&place);
        true
    }

    pub(super) fn window(&mut self, node: NodeId, number: u64) -> Option<Window> {
        // Windows have offsets only.
        let shown =
            self.regions.get_mut(&(node, number)).filter(|shown| !shown.access.allows(Access::BY_ADDRESS))?;
        let announced = Arc::new(AtomicU64::new(0));
        shown.announced.push(announced.clone());
        let keep = Arc::new((shown.live.clone(), announced.clone()));
        // SAFETY: `keep` holds both words, of which this watch alone uses the second. The region's memory stays until
        // `withdraw` has found nobody inside, and the watch lets nobody in afterwards.
        unsafe {
            let watch = Watch::new(number, &*shown.live, &*announced, Order::Fence, keep.clone());
            Some(Window::new(shown.base, shown.len, shown.access, watch, keep))
        }
    }

    /// Forgets all of a node that is going.
    pub(super) fn forget(&mut self, node: NodeId) {
        // The operations that exposed the memory end with the fabric, and with them the promise about it.
        self.exposed.retain(|_, exposed| exposed.node != node);
        self.regions.retain(|(owner, _), shown| {
            let stays = *owner != node;
            if !stays {
                shown.live.store(0, Ordering::Relaxed);
            }
            stays
        });
    }
}
