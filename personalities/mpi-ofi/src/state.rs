//! What a domain has: its endpoints, queues, counters and address vectors, behind one lock.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gridnet::core::matching::{Key, Slab};

use crate::addresses::Addresses;
use crate::endpoint::Endpoint;
use crate::memory::Registered;
use crate::queue::{Event, Failure, Queue};

/// See the [module](self).
#[derive(Default)]
pub(crate) struct State {
    pub(crate) endpoints: Slab<Endpoint>,
    pub(crate) vectors: Slab<Addresses>,
    pub(crate) memory: Registered,
    pub(crate) reports: Reports,
}

/// Where operations report their end.
#[derive(Default)]
pub(crate) struct Reports {
    pub(crate) queues: Slab<Queue>,
    pub(crate) counters: Slab<Counter>,
}

/// A counter of libfabric.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) value: u64,
    pub(crate) errors: u64,
    /// Endpoints that it is bound to.
    pub(crate) endpoints: Vec<Key>,
}

/// One side of an endpoint: where its operations report.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) queue: Option<Key>,
    pub(crate) counter: Option<Key>,
    /// Only operations that ask for it report success.
    pub(crate) selective: bool,
    /// Flags of operations that are given none.
    pub(crate) op_flags: u64,
}

impl Side {
    /// The same without its counter: for what is looked at, and not done.
    pub(crate) fn uncounted(&self) -> Side {
        Side { counter: None, ..*self }
    }

    /// Whether an operation with these flags reports success.
    pub(crate) fn reports(&self, flags: u64) -> bool {
        !self.selective || flags & crate::abi::flag::COMPLETION != 0
    }
}

impl Reports {
    /// An operation has succeeded.
    pub(crate) fn done(&mut self, side: &Side, event: Option<Event>) {
        if let Some(counter) = side.counter.and_then(|key| self.counters.get_mut(key)) {
            counter.value = counter.value.wrapping_add(1);
        }
        if let (Some(event), Some(queue)) = (event, side.queue.and_then(|key| self.queues.get_mut(key))) {
            queue.push(event);
        }
    }

    /// An operation has failed.
    pub(crate) fn failed(&mut self, side: &Side, event: Event, failure: Failure) {
        if let Some(counter) = side.counter.and_then(|key| self.counters.get_mut(key)) {
            counter.errors = counter.errors.wrapping_add(1);
        }
        if let Some(queue) = side.queue.and_then(|key| self.queues.get_mut(key)) {
            queue.push_failure(event, failure);
        }
    }

    /// Whether there is room for one more event.
    pub(crate) fn has_room(&self, side: &Side) -> bool {
        side.queue.and_then(|key| self.queues.get(key)).is_none_or(Queue::has_room)
    }
}

impl State {
    /// Takes what has come in for these endpoints.
    pub(crate) fn progress(&mut self, endpoints: &[Key]) -> Result<(), i32> {
        let State { endpoints: all, vectors, reports, .. } = self;
        for key in endpoints {
            if let Some(endpoint) = all.get_mut(*key) {
                endpoint.progress(vectors, reports)?;
            }
        }
        Ok(())
    }
}

/// What a program wants of a domain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    /// What the program wrote its structures for.
    pub(crate) api: u32,
    /// The program counts on progress without its calls.
    pub(crate) automatic: bool,
    /// Keys of registrations are chosen here, and not by the program.
    pub(crate) chooses_keys: bool,
    /// Places in memory of peers are addresses, not offsets.
    pub(crate) by_address: bool,
    /// The calls of the program do not overlap (`FI_THREAD_DOMAIN`).
    pub(crate) serialized: bool,
}

/// A domain.
pub(crate) struct Domain {
    pub(crate) wishes: Wishes,
    /// Lets one call in at a time, where they may overlap.
    lock: Mutex<()>,
    /// Somebody is inside, where they do not.
    inside: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only reached through `Inside`, of which there is one at a time: by the lock, or by the promise of the
// program that its calls do not overlap, which `inside` checks as well as a check without a lock can. `State` may move between
// threads.
unsafe impl Sync for Domain {}

/// The right to what a domain has.
pub(crate) struct Inside<'a> {
    domain: &'a Domain,
    lock: Option<MutexGuard<'a, ()>>,
}

impl Domain {
    pub(crate) fn new(wishes: Wishes) -> Domain {
        let state = UnsafeCell::new(State::default());
        Domain { wishes, lock: Mutex::new(()), inside: AtomicBool::new(false), state }
    }

    /// Goes in.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Inside<'_> {
        if !self.wishes.serialized {
            // After a panic the fabric inside refuses each call by itself.
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            return Inside { domain: self, lock: Some(lock) };
        }
        // Loads and stores rather than an exchange, which costs as much as sending a message does: a program that breaks its
        // promise waits here most of the time.
        while self.inside.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.inside.store(true, Ordering::Relaxed);
        Inside { domain: self, lock: None }
    }
}

impl Deref for Inside<'_> {
    type Target = State;

    #[inline(always)]
    fn deref(&self) -> &State {
        // SAFETY: there is one `Inside` at a time.
        unsafe { &*self.domain.state.get() }
    }
}

impl DerefMut for Inside<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: as above.
        unsafe { &mut *self.domain.state.get() }
    }
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.lock.is_none() {
            self.domain.inside.store(false, Ordering::Release);
        }
    }
}
