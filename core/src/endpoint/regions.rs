//! Own regions, and keys of peers' regions.

use super::onesided::Rkey;
use super::Engine;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{MEMORY_HOST, NUMA_UNKNOWN};
use crate::rail::{Lent, Offered, PeerId, Rail, Refusal};
use crate::region::{Access, CacheCounters, Guard, Memory, PrivateMemory, Region, RemoteKey, KEY_BYTES};

impl<R: Rail> Engine<R> {
    /// How memory of the program is accessed that may be gone; until then it is believed to be there.
    pub fn set_guard(&mut self, guard: Box<dyn Guard>) {
        self.state.remote.guard = guard;
    }

    /// Makes `len` bytes of the program's at `base` a region. Regions may overlap: each has its own key, bounds and rights.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no bytes or an address that wraps, [`Error::Fault`] when the memory is not there,
    /// [`Error::Unsupported`] for memory that is not of the host; what a rail says that has no room for it.
    pub fn register(
        &mut self,
        base: *mut u8,
        len: usize,
        access: Access,
        memory_kind: u32,
    ) -> Result<Key, Refusal> {
        self.register_as(base, len, access, memory_kind, None)
    }

    /// Registers as [`Self::register`] does, under a number that peers know: [`Self::import_number`]. Who can guess the number needs no
    /// key. With [`Access::BY_ADDRESS`], for which there are no keys, peers name places by their addresses here.
    ///
    /// # Errors
    /// As [`Self::register`]; [`Error::InUse`] when a region has the number, [`Error::Invalid`] for 0.
    pub fn register_as(
        &mut self,
        base: *mut u8,
        len: usize,
        access: Access,
        memory_kind: u32,
        number: Option<u64>,
    ) -> Result<Key, Refusal> {
        if memory_kind != MEMORY_HOST {
            let why = format!("memory_kind is {memory_kind}; rails reach MEMORY_HOST only");
            return Err(Refusal::new(Error::Unsupported, why));
        }
        if len == 0 || isize::try_from(len).is_err() || (base as usize).checked_add(len).is_none() {
            return Err(Refusal::new(Error::Invalid, "a region has from one byte to all there can be"));
        }
        let remote = &mut self.state.remote;
        if number == Some(0) {
            return Err(Refusal::new(Error::Invalid, "no region has the number 0"));
        }
        if number.is_some_and(|number| remote.regions.has_number(number)) {
            return Err(Refusal::new(Error::InUse, "a region has this number"));
        }
        if !remote.guard.is_mapped(base, len) {
            return Err(Refusal::new(Error::Fault, "not all of the memory is mapped"));
        }
        let guard = &remote.guard;
        let is_mapped = |base: usize, len: usize| guard.is_mapped(base as *const u8, len);
        let registration = remote.cache.acquire(base as usize, len, is_mapped);
        self.enter_region(base, len, access, Memory::Registered(registration), number)
    }

    /// Takes memory for a region of `len` bytes, zeroed, from the first rail that lends it, else private memory. The region, and
    /// where it starts. The memory goes with the region.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no bytes, or a NUMA node that does not exist; [`Error::Limit`], [`Error::NoMemory`].
    pub fn allocate(
        &mut self,
        len: usize,
        access: Access,
        memory_kind: u32,
        numa_node: u32,
    ) -> Result<(Key, *mut u8), Refusal> {
        if memory_kind != MEMORY_HOST {
            let why = format!("memory_kind is {memory_kind}; there is MEMORY_HOST only");
            return Err(Refusal::new(Error::Unsupported, why));
        }
        if len == 0 || isize::try_from(len).is_err() {
            return Err(Refusal::new(Error::Invalid, "a region has from one byte to all there can be"));
        }
        for index in 0..self.rails.len() {
            if let Some(lent) = self.rails[index].allocate(len, numa_node) {
                let Lent { base, token } = lent?;
                kill_point!("region.allocated");
                let key = self.enter_region(base, len, access, Memory::Lent(index, token), None)?;
                return Ok((key, base));
            }
        }
        if numa_node != NUMA_UNKNOWN {
            return Err(Refusal::new(Error::Unsupported, "no rail places memory on NUMA nodes"));
        }
        let memory = PrivateMemory::new(len).map_err(|e| Refusal::new(e, e.text()))?;
        let base = memory.base();
        let key = self.enter_region(base, len, access, Memory::Private(memory), None)?;
        Ok((key, base))
    }

    fn enter_region(
        &mut self,
        base: *mut u8,
        len: usize,
        access: Access,
        memory: Memory,
        number: Option<u64>,
    ) -> Result<Key, Refusal> {
        let lender = match &memory {
            Memory::Lent(index, token) => Some((*index, *token)),
            _ => None,
        };
        let len = len as u64;
        let may_fault = matches!(memory, Memory::Registered(_));
        let region = Region { base, len, access, memory, hints: Vec::new(), number, closing: false };
        let key = self.state.remote.regions.insert(region);
        let number = self.state.remote.regions.number(key);
        for index in 0..self.rails.len() {
            let token = lender.filter(|(lender, _)| *lender == index).map(|(_, token)| token);
            let offered = Offered { number, base, len, access, token, may_fault };
            match (self.rails[index].offer(&offered), self.state.remote.regions.get_mut(key)) {
                (Ok(hint), Some(region)) => {
                    kill_point!("region.offered");
                    region.hints.push(hint);
                }
                (Err(refusal), _) => {
                    // Nobody has the key yet: nobody is inside.
                    let _ = self.close_region(key);
                    return Err(refusal);
                }
                (Ok(_), None) => {}
            }
        }
        Ok(key)
    }

    /// Ends a region: its keys name nothing from now on. When this returns `Ok`, no access of a peer is under way, and none
    /// comes.
    ///
    /// # Errors
    /// [`Error::InUse`] while a peer is in the middle of an access: keys name nothing already, but the region has to be
    /// closed again. [`Error::Key`] when there is no such region.
    pub fn close_region(&mut self, key: Key) -> Result<(), Error> {
        let number = self.state.remote.regions.number(key);
        let region = self.state.remote.regions.get_mut(key).ok_or(Error::Key)?;
        region.closing = true;
        let mut is_free = true;
        for (rail, hint) in self.rails.iter_mut().zip(&region.hints) {
            is_free &= rail.withdraw(number, *hint);
        }
        kill_point!("region.withdrawn");
        if !is_free {
            return Err(Error::InUse);
        }
        let region = self.state.remote.regions.remove(key).ok_or(Error::Key)?;
        match region.memory {
            Memory::Registered(registration) => self.state.remote.cache.release(registration),
            Memory::Lent(index, token) => self.rails[index].free(token),
            Memory::Private(_) => {}
        }
        kill_point!("region.closed");
        Ok(())
    }

    /// The key of a region, to be handed to peers.
    ///
    /// # Errors
    /// [`Error::Key`] when there is no such region, [`Error::Unsupported`] for one of [`Access::BY_ADDRESS`].
    pub fn region_key(&self, key: Key) -> Result<[u8; KEY_BYTES], Error> {
        Ok(self.state.remote.regions.remote_key(key, self.state.local.node)?.pack())
    }

    /// Takes a key of a peer's region.
    ///
    /// # Errors
    /// [`Error::Key`] for bytes that are no key, or the key of another peer; the peer's error when it has gone.
    pub fn import_key(&mut self, peer: PeerId, bytes: &[u8]) -> Result<Key, Refusal> {
        let key = RemoteKey::parse(bytes).map_err(|why| Refusal::new(Error::Key, why.0))?;
        let p = self.state.peers.get(peer.index());
        let p = p.ok_or_else(|| Refusal::new(Error::NotFound, "there is no such peer"))?;
        if p.node != key.node {
            let why = format!("the key is of node {}, the endpoint leads to node {}", key.node, p.node);
            return Err(Refusal::new(Error::Key, why));
        }
        if let Some(error) = p.error() {
            return Err(Refusal::new(error, error.text()));
        }
        Ok(self.state.remote.rkeys.insert(Rkey { peer, key, window: None }))
    }

    /// A key of a peer's region by the number that the peer has chosen for it. Nothing is known of the region: rights and bounds are
    /// checked by the peer. Where its rail reaches the region by itself, it does so once an operation has completed: a put, or a get of
    /// no bytes.
    ///
    /// # Errors
    /// [`Error::Key`] for 0, [`Error::NotFound`] when there is no such peer; the peer's error when it has gone.
    pub fn import_number(&mut self, peer: PeerId, number: u64) -> Result<Key, Error> {
        let p = self.state.peers.get(peer.index()).ok_or(Error::NotFound)?;
        if let Some(error) = p.error() {
            return Err(error);
        }
        if number == 0 {
            return Err(Error::Key);
        }
        let key = RemoteKey { node: p.node, number, len: u64::MAX, access: Access::ALL, align: 1, hint: 0 };
        Ok(self.state.remote.rkeys.insert(Rkey { peer, key, window: None }))
    }

    /// Forgets a key of a peer's region. Operations under way go on.
    pub fn close_key(&mut self, rkey: Key) {
        self.state.remote.rkeys.remove(rkey);
    }

    /// How the registration cache did.
    pub fn cache_counters(&self) -> CacheCounters {
        self.state.remote.cache.counters()
    }
}
