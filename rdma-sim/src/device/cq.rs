//! Completion queues, and the channels that wake who waits for them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::engine::Error;
use crate::wr::Wc;

/// Number of a completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CqId(pub(crate) u32);

/// A queue has lost completions because it was full. What is still in it can be polled; the queue pairs that use it are in ERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// What a queue tells its channel of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    Not,
    Solicited,
    Any,
}

/// The state of a completion queue.
pub(super) struct CqState {
    id: CqId,
    queue: VecDeque<Wc>,
    capacity: usize,
    overrun: bool,
    armed: Armed,
    channel: Option<CompletionChannel>,
}

impl CqState {
    pub(super) fn new(id: CqId, capacity: usize, channel: Option<CompletionChannel>) -> CqState {
        CqState { id, queue: VecDeque::new(), capacity, overrun: false, armed: Armed::Not, channel }
    }

    /// Adds a completion; false when it is the first that has no room. Further ones are dropped, and nobody is told again.
    pub(super) fn push(&mut self, wc: Wc, solicited: bool) -> bool {
        if self.overrun {
            return true;
        }
        if self.queue.len() >= self.capacity {
            self.overrun = true;
            self.wake();
            return false;
        }
        self.queue.push_back(wc);
        if self.armed == Armed::Any || (solicited && self.armed == Armed::Solicited) {
            self.wake();
        }
        true
    }

    fn wake(&mut self) {
        self.armed = Armed::Not;
        if let Some(channel) = &self.channel {
            channel.tell(self.id);
        }
    }

    /// The oldest completion.
    pub(super) fn poll(&mut self) -> Result<Option<Wc>, Overrun> {
        match self.queue.pop_front() {
            None if self.overrun => Err(Overrun),
            wc => Ok(wc),
        }
    }

    /// Whether completions were lost.
    pub(super) fn has_overrun(&self) -> bool {
        self.overrun
    }

    pub(super) fn arm(&mut self, solicited_only: bool) {
        self.armed = match (self.armed, solicited_only) {
            // Whoever asked for more gets more, as verbs say.
            (Armed::Any, _) | (_, false) => Armed::Any,
            (_, true) => Armed::Solicited,
        };
    }
}

/// A descriptor that becomes readable when a completion queue that was armed gets a completion.
#[derive(Clone)]
pub struct CompletionChannel(Arc<Channel>);

struct Channel {
    bell: EventFd,
    told: Mutex<VecDeque<CqId>>,
}

impl CompletionChannel {
    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error::System`] when there are no descriptors.
    pub fn open() -> Result<CompletionChannel, Error> {
        let bell =
            EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(|_| Error::System)?;
        Ok(CompletionChannel(Arc::new(Channel { bell, told: Mutex::default() })))
    }

    /// A queue that was armed and has something, or none. When it returns none, the descriptor is not readable until the next one.
    pub fn event(&self) -> Option<CqId> {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        let id = told.pop_front();
        if told.is_empty() {
            // An error says that it was quiet already.
            let _ = self.0.bell.read();
        }
        id
    }

    fn tell(&self, id: CqId) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push_back(id);
        // An error says that it rings as loudly as it can.
        let _ = self.0.bell.write(1);
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}
