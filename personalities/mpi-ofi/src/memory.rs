//! Memory of the program that peers may reach: registered with the domain, and shown by each of its endpoints.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use gridnet::core::matching::Key;
use gridnet::core::mem::MEMORY_HOST;
use gridnet::core::region::Access;

use crate::abi::errno;
use crate::abi::flag::{REMOTE_READ, REMOTE_WRITE};
use crate::endpoint::Endpoint;
use crate::state::{Domain, State};

/// What is registered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    base: usize,
    len: usize,
    access: Access,
    /// It is shown no more, and ends when no peer is inside.
    closing: bool,
}

/// How long the end of a registration waits for peers that are inside.
const PATIENCE: Duration = Duration::from_secs(1);

/// All that is, by keys.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    all: HashMap<u64, Memory>,
    secret: RandomState,
    made: u64,
}

impl Memory {
    /// Memory with libfabric's rights, of which peers name places by offsets or by addresses.
    pub(crate) fn new(base: usize, len: usize, rights: u64, by_address: bool) -> Memory {
        let mut access = if by_address { Access::BY_ADDRESS.and(Access::LOCAL) } else { Access::LOCAL };
        if rights & REMOTE_READ != 0 {
            access = access.and(Access::REMOTE_READ);
        }
        // Atomic operations are writes to libfabric, and may tell what was there before.
        if rights & REMOTE_WRITE != 0 {
            access = access.and(Access::REMOTE_WRITE).and(Access::REMOTE_ATOMIC);
        }
        Memory { base, len, access, closing: false }
    }
}

impl Registered {
    /// A key that nobody has, and nobody guesses.
    fn new_key(&mut self) -> u64 {
        loop {
            self.made += 1;
            let key = self.secret.hash_one(self.made);
            if number_of(key).is_ok() && !self.all.contains_key(&key) {
                return key;
            }
        }
    }
}

/// The number under which a fabric knows the region of this key: 0 is none.
///
/// # Errors
/// `FI_ENOKEY` for the one key that names no region.
pub(crate) fn number_of(key: u64) -> Result<u64, i32> {
    Some(!key).filter(|number| *number != 0).ok_or(errno::ENOKEY)
}

impl State {
    /// Registers memory under this key, or one that is chosen here. The key.
    ///
    /// # Errors
    /// As [`Domain::register`]; when an endpoint does not show it, what was begun is to be ended.
    fn register(&mut self, memory: Memory, key: Option<u64>) -> Result<u64, (i32, Option<u64>)> {
        let key = key.unwrap_or_else(|| self.memory.new_key());
        number_of(key).map_err(|error| (error, None))?;
        if self.memory.all.contains_key(&key) {
            return Err((errno::ENOKEY, None));
        }
        self.memory.all.insert(key, memory);
        let shown = self.endpoints.values_mut().try_for_each(|endpoint| endpoint.show(key, &memory));
        shown.map(|()| key).map_err(|error| (error, Some(key)))
    }

    pub(crate) fn begin_end(&mut self, key: u64) {
        if let Some(memory) = self.memory.all.get_mut(&key) {
            memory.closing = true;
        }
    }

    /// Ends a registration where no peer is inside.
    ///
    /// # Errors
    /// `EBUSY` when one is in the middle of an access; nobody else comes in.
    pub(crate) fn end_memory(&mut self, key: u64) -> Result<(), i32> {
        self.begin_end(key);
        // Each of them: none is shown any longer, whoever is inside of another.
        let mut all = Ok(());
        for endpoint in self.endpoints.values_mut() {
            all = all.and(endpoint.hide(key));
        }
        all?;
        self.memory.all.remove(&key);
        Ok(())
    }

    /// Shows all that is registered by a new endpoint.
    fn show_all(&self, endpoint: &mut Endpoint) -> Result<(), i32> {
        let all = self.memory.all.iter().filter(|(_, memory)| !memory.closing);
        all.map(|(key, memory)| (*key, memory)).try_for_each(|(key, memory)| endpoint.show(key, memory))
    }
}

impl Domain {
    /// Registers memory under this key, or one that is chosen here. The key.
    ///
    /// # Errors
    /// `FI_ENOKEY` when the key is in use, `EFAULT` when not all of the memory is mapped.
    pub(crate) fn register(&self, memory: Memory, key: Option<u64>) -> Result<u64, i32> {
        let registered = self.enter().register(memory, key);
        registered.map_err(|(error, begun)| {
            // Should a peer that has guessed the key not come out, nobody gets the key again.
            let _ = begun.map(|key| self.deregister(key));
            error
        })
    }

    /// Ends a registration: no peer reaches the memory from now on. Others may go in while it waits.
    ///
    /// # Errors
    /// `EBUSY` when a peer is in the middle of an access, and does not come out for a second: to be done again.
    pub(crate) fn deregister(&self, key: u64) -> Result<(), i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.enter().end_memory(key);
            if ended != Err(libc::EBUSY) || Instant::now() >= end {
                return ended;
            }
            std::thread::yield_now();
        }
    }

    /// Takes a new endpoint in, which shows all that is registered.
    ///
    /// # Errors
    /// As [`Self::register`]: then it is closed.
    pub(crate) fn take_in(&self, mut endpoint: Endpoint) -> Result<Key, i32> {
        let mut state = self.enter();
        if let Err(error) = state.show_all(&mut endpoint) {
            drop(state);
            endpoint.close();
            return Err(error);
        }
        Ok(state.endpoints.insert(endpoint))
    }
}

impl Endpoint {
    /// Lets peers reach the memory.
    fn show(&mut self, key: u64, memory: &Memory) -> Result<(), i32> {
        // Nothing can be done with it.
        if memory.len == 0 {
            return Ok(());
        }
        let Memory { base, len, access, .. } = *memory;
        let number = Some(number_of(key)?);
        let mut guard = self.shared.enter().map_err(errno::of)?;
        let shown = guard.engine.register_as(base as *mut u8, len, access, MEMORY_HOST, number);
        let region = shown.map_err(|refusal| {
            tracing::debug!(reason = %refusal.reason, "memory not registered");
            errno::of(refusal.error)
        })?;
        drop(guard);
        self.regions.insert(key, region);
        Ok(())
    }

    fn hide(&mut self, key: u64) -> Result<(), i32> {
        let Some(region) = self.regions.get(&key) else { return Ok(()) };
        self.shared.enter().and_then(|mut guard| guard.engine.close_region(*region)).map_err(errno::of)?;
        self.regions.remove(&key);
        Ok(())
    }
}
