//! The device as programs see it: objects of verbs, each a handle that can be cloned. The last clone that is dropped destroys the
//! object; an object keeps those that it needs.
//!
//! | file | concept |
//! |---|---|
//! | `core.rs` | what a device has, and its work |
//! | `cq.rs` | completion queues and channels |
//! | `objects.rs` | protection domains, memory regions, queues, queue pairs |

mod core;
mod cq;
mod objects;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::core::Core;
use crate::engine::{Clock, Error};
use crate::port::Port;
use crate::wr::Wc;

pub use self::core::{Counters, Event, SrqId};
pub use self::cq::{CompletionChannel, CqId, Overrun};
pub use self::objects::{Cq, Mr, Pd, Qp, QpShape, Srq};

/// A software RDMA device with one port. It has no thread and no clock: the caller drives it.
#[derive(Clone)]
pub struct Device {
    core: Arc<Mutex<Core>>,
}

impl Device {
    /// A device at this port.
    ///
    /// # Errors
    /// [`Error::System`] when the system gives no random numbers: queue pairs of a device that was opened before must not be
    /// taken for those of this one.
    pub fn open(port: impl Port + 'static) -> Result<Device, Error> {
        Device::with(Box::new(port), Clock::new(None))
    }

    /// A device that asks this clock for the time, where it needs it, instead of being told: for [`work`](Self::work).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_clock(
        port: impl Port + 'static,
        clock: impl Fn() -> Duration + Send + 'static,
    ) -> Result<Device, Error> {
        Device::with(Box::new(port), Clock::new(Some(Box::new(clock))))
    }

    fn with(port: Box<dyn Port>, clock: Clock) -> Result<Device, Error> {
        let first = getrandom::u32().map_err(|_| Error::System)?;
        Ok(Device { core: Arc::new(Mutex::new(Core::new(port, first, clock))) })
    }

    /// Where peers send to.
    pub fn address(&self) -> SocketAddr {
        self.lock().port.address()
    }

    /// Receives, resends and sends what can be at `now`, the time since any moment, which is the same in each call; returns how
    /// many packets came or left. Never blocks. What it does in one call is bounded: 0 says that there was nothing to do, or that the
    /// port has no room, and then [`deadline`](Self::deadline) says "now".
    pub fn progress(&self, now: Duration) -> usize {
        let mut core = self.lock();
        core.tell_time(now);
        core.progress()
    }

    /// As [`progress`](Self::progress), for a device that has a [clock](Self::open_with_clock).
    pub fn work(&self) -> usize {
        self.lock().progress()
    }

    /// [Works](Self::work), then hands out the oldest completions of `cq`, which is of this device, at most so many; how many there
    /// were.
    ///
    /// # Errors
    /// As [`Cq::poll`].
    pub fn work_and_poll(&self, cq: &Cq, most: usize, each: impl FnMut(Wc)) -> Result<usize, Overrun> {
        let mut core = self.lock();
        core.progress();
        core.poll_many(cq.id(), most, each)
    }

    /// The next moment at which [`progress`](Self::progress) is to be called even if no packet comes. While a packet waits for
    /// room in the port, this is the time of the last call: at once, or as soon as the port can take something.
    pub fn deadline(&self) -> Option<Duration> {
        self.lock().deadline()
    }

    /// To be called before waiting until the descriptor of the port becomes readable: says to peers that share memory that they have
    /// to wake this side. False when something has come meanwhile: then [`progress`](Self::progress) is next, not sleep. Ends with
    /// the next call of `progress`.
    pub fn arm(&self) -> bool {
        self.lock().arm()
    }

    /// Whether [`arm`](Self::arm) still holds: another thread may have called [`progress`](Self::progress) since, and it has to be done again.
    pub fn is_armed(&self) -> bool {
        self.lock().port.is_armed()
    }

    /// The oldest event that was not taken.
    pub fn event(&self) -> Option<Event> {
        self.lock().events.pop_front()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
