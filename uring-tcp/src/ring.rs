//! Watching sockets with io_uring, and receiving from them where that is asked for.
//!
//! By default the ring only watches: it holds one poll request for each socket on which little happens. Sockets that are busy are
//! read and written by plain calls, since whatever is armed on a socket costs each of its messages some tenths of a microsecond.
//! Whether anything has happened can be seen in shared memory, without a call.
//!
//! As an option it holds one request for each connection that receives until it is cancelled, and one for each listener that
//! accepts, with or without a thread of the kernel that looks for requests.

mod buffers;
mod receiving;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use io_uring::{cqueue, opcode, squeue, types, IoUring};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::watch::{Arrival, Turn, Want, Watched, RECV, SQPOLL};
#[cfg(test)]
pub(crate) use buffers::BUFFER_BYTES;
use receiving::Receiving;

/// Requests that are handed over in one go.
const ENTRIES: u32 = 256;
/// Completions that fit into memory; the kernel keeps what goes beyond.
const COMPLETIONS: u32 = 2048;
/// Milliseconds without requests after which the thread of the kernel sleeps until it is woken, which costs a call.
const THREAD_IDLE_MS: u32 = 2;

/// What a ring does beside watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Nothing.
    Watch,
    /// It receives and accepts.
    Receive,
    /// It receives; a thread of the kernel does it.
    ReceiveByThread,
}

/// A ring.
pub(crate) struct Ring {
    ring: IoUring,
    /// Written by the kernel when something happens. The descriptor of the ring itself would not do: whoever polls that is not
    /// woken by work that waits for the one thread which may do it (seen with Linux 6.18).
    bell: EventFd,
    /// Where it receives.
    receiving: Option<Box<Receiving>>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.ring.as_raw_fd())
    }
}

impl Ring {
    /// A ring for the calling thread alone, if `single_thread`, else for any.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system does not allow it.
    pub(crate) fn new(task: Task, single_thread: bool) -> Result<Ring, Refusal> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        if task == Task::ReceiveByThread {
            // Whatever thread drives the rail, that of the kernel does the work.
            builder.setup_sqpoll(THREAD_IDLE_MS);
        } else if single_thread {
            // Completions wait until we look, and a flag in shared memory says so: nothing interrupts the thread.
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        let failed =
            |e: std::io::Error| Refusal::new(Error::Unsupported, format!("io_uring is not to be had: {e}"));
        let ring = builder.build(ENTRIES).map_err(failed)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = bell.map_err(|e| failed(e.into()))?;
        ring.submitter().register_eventfd(bell.as_fd().as_raw_fd()).map_err(failed)?;
        let receiving = match task {
            Task::Watch => None,
            // Only where a call of ours accepts: else strangers could take all descriptors of a program that does not poll.
            Task::Receive | Task::ReceiveByThread => {
                let accepts = task == Task::Receive && single_thread;
                Some(Box::new(Receiving::new(&ring.submitter(), accepts).map_err(failed)?))
            }
        };
        Ok(Ring { ring, bell, receiving })
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &'static str {
        match &self.receiving {
            None => "io_uring",
            Some(_) if self.ring.params().is_setup_sqpoll() => SQPOLL,
            Some(_) => RECV,
        }
    }

    /// What happens from now on makes the descriptor readable.
    pub(crate) fn arm(&mut self) {
        // An error says that it is not readable.
        let _ = self.bell.read();
    }

    /// Watches a socket until it is ready once. The request leaves with the next [`Self::submit`].
    ///
    /// # Errors
    /// When the kernel takes no more requests.
    pub(crate) fn watch(&mut self, file: RawFd, what: Watched, want: Want) -> Result<(), Refusal> {
        if let Watched::Listener(place) = what {
            if self.receiving.as_ref().is_some_and(|receiving| receiving.accepts) {
                return self.accept(file, place);
            }
        }
        let mut events = libc::POLLRDHUP;
        if want.reading {
            events |= libc::POLLIN;
        }
        if want.writing {
            events |= libc::POLLOUT;
        }
        let request = opcode::PollAdd::new(types::Fd(file), events as u32).build().user_data(what.token());
        self.push(&request)
    }

    /// Accepts whoever calls at a listener, until further notice; each of them is told as [`Watched::Listener`].
    fn accept(&mut self, file: RawFd, place: u32) -> Result<(), Refusal> {
        let Some(receiving) = &self.receiving else { return Ok(()) };
        if receiving.listeners.contains(&place) {
            return Ok(());
        }
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let request = opcode::AcceptMulti::new(types::Fd(file)).flags(flags).build();
        self.push(&request.user_data(Token::Accept(place).bits()))?;
        self.receiving.iter_mut().for_each(|receiving| receiving.listeners.push(place));
        Ok(())
    }

    /// Who has called at a listener and was accepted.
    pub(crate) fn take_accepted(&mut self, place: u32) -> Option<OwnedFd> {
        let accepted = &mut self.receiving.as_mut()?.accepted;
        let at = accepted.iter().position(|(of, _)| *of == place)?;
        accepted.remove(at).map(|(_, file)| file)
    }

    /// Whether the ring receives.
    #[inline]
    pub(crate) fn receives(&self) -> bool {
        self.receiving.is_some()
    }

    /// Whether it has room for another connection.
    pub(crate) fn has_room(&self) -> bool {
        self.receiving.as_ref().is_some_and(|receiving| receiving.has_room())
    }

    /// Receives from the connection of a link from the next [`Self::submit`] on, until the last [`Arrival`] says otherwise; returns
    /// the turn that all of them name. `None` where there is no room for it, or it is received from already.
    pub(crate) fn receive(&mut self, file: &impl AsFd, link: u32) -> Option<Turn> {
        let file = file.as_fd().as_raw_fd();
        // By its place in the table: a descriptor could be another file's by the time when the kernel looks it up.
        let (place, turn) = self.receiving.as_mut()?.enter(&self.ring.submitter(), link, file)?;
        let request = opcode::RecvMulti::new(types::Fixed(place), buffers::GROUP).build();
        let is_pushed = self.push(&request.user_data(Token::Receive(link, turn).bits())).is_ok();
        if !is_pushed {
            self.release(link);
        }
        is_pushed.then_some(turn)
    }

    /// Asks for the end of what [`Self::receive`] has begun; false when the kernel takes no more requests.
    pub(crate) fn stop_receiving(&mut self, link: u32, turn: Turn) -> bool {
        let request = opcode::AsyncCancel::new(Token::Receive(link, turn).bits()).build();
        self.push(&request.user_data(Token::Nobody.bits())).is_ok()
    }

    fn release(&mut self, link: u32) {
        if let Some(receiving) = &mut self.receiving {
            receiving.leave(&self.ring.submitter(), link);
        }
    }

    /// The bytes of an arrival, until it is [given back](Self::give_back).
    pub(crate) fn bytes(&self, arrival: Arrival) -> &[u8] {
        let len = usize::try_from(arrival.result).unwrap_or(0);
        match (&self.receiving, arrival.buffer) {
            (Some(receiving), Some(number)) => receiving.buffers.bytes(number, len),
            _ => &[],
        }
    }

    /// The bytes of an arrival were read.
    pub(crate) fn give_back(&mut self, arrival: Arrival) {
        if let (Some(receiving), Some(number)) = (&mut self.receiving, arrival.buffer) {
            receiving.buffers.give(number);
        }
    }

    fn push(&mut self, request: &squeue::Entry) -> Result<(), Refusal> {
        if self.ring.submission().is_full() {
            self.submit();
            if self.ring.params().is_setup_sqpoll() {
                // The kernel's thread takes them, and a full queue is no fault of this connection.
                let _ = self.ring.submitter().squeue_wait();
            }
        }
        // SAFETY: no request names memory. A descriptor is looked up when the request is submitted; buffers are those of the ring,
        // which stay until the kernel has let go of them (`Buffers`).
        let pushed = unsafe { self.ring.submission().push(request) };
        pushed.map_err(|_| Refusal::new(Error::Limit, "io_uring takes no more requests"))
    }

    /// Hands over what waits.
    pub(crate) fn submit(&mut self) {
        if !self.ring.submission().is_empty() {
            // An error (interrupted, no memory now) leaves the requests in the queue, for the next time.
            let _ = self.ring.submit();
        }
    }

    /// True when nothing has happened, as far as can be seen without a call.
    #[inline]
    pub(crate) fn is_quiet(&mut self) -> bool {
        let queue = self.ring.submission();
        let has_work = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !has_work && self.ring.completion().is_empty()
    }

    /// Takes what has happened.
    pub(crate) fn collect(&mut self, ready: &mut Vec<Watched>) {
        let queue = self.ring.submission();
        let has_work = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        drop(queue);
        if has_work {
            let _ = self.ring.submit();
        }
        if self.receiving.is_some() {
            return self.collect_arrivals(ready);
        }
        let tokens = self.ring.completion().map(|completion| completion.user_data());
        ready.extend(tokens.filter_map(Watched::from_token));
    }

    /// The same, where some of it are bytes and callers.
    fn collect_arrivals(&mut self, ready: &mut Vec<Watched>) {
        let Some(receiving) = &mut self.receiving else { return };
        let (submitter, _, completions) = self.ring.split();
        for completion in completions {
            let (result, flags) = (completion.result(), completion.flags());
            let is_last = !cqueue::more(flags);
            match Token::of(completion.user_data()) {
                Token::Nobody => {}
                Token::Watch(what) => ready.push(what),
                Token::Receive(link, turn) => {
                    let buffer = cqueue::buffer_select(flags);
                    buffer.iter().for_each(|number| receiving.buffers.note_filled(*number));
                    if is_last {
                        receiving.leave(&submitter, link);
                    }
                    ready.push(Watched::Received(link, Arrival { result, buffer, is_last, turn }));
                }
                Token::Accept(place) => {
                    if is_last {
                        receiving.listeners.retain(|of| *of != place);
                    }
                    if result >= 0 {
                        // SAFETY: the kernel has made the descriptor for this completion, which is taken once.
                        let file = unsafe { OwnedFd::from_raw_fd(result) };
                        receiving.accepted.push_back((place, file));
                    }
                    if ready.last() != Some(&Watched::Listener(place)) {
                        ready.push(Watched::Listener(place));
                    }
                }
            }
        }
    }

    /// A descriptor that is readable when something has happened.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A process that was forked has copies of what is not its own: the ring goes on where it was made.
        let of = self.receiving.as_ref().map(|receiving| receiving.process);
        if of != Some(std::process::id()) {
            return;
        }
        // Who was accepted and not asked for hangs up.
        self.collect(&mut Vec::new());
        if let Some(receiving) = &mut self.receiving {
            receiving.buffers.end(&self.ring.submitter());
        }
    }
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Nobody waits for what comes of it.
    Nobody,
    Watch(Watched),
    /// The connection of the link of this number, in this turn.
    Receive(u32, Turn),
    /// The listener of this place.
    Accept(u32),
}

impl Token {
    const RECEIVE: u64 = 16 << 32;
    const ACCEPT: u64 = 17 << 32;

    fn bits(self) -> u64 {
        match self {
            Token::Nobody => 0,
            Token::Watch(what) => what.token(),
            Token::Receive(link, Turn(turn)) => u64::from(turn) << 40 | Token::RECEIVE | u64::from(link),
            Token::Accept(place) => Token::ACCEPT | u64::from(place),
        }
    }

    fn of(bits: u64) -> Token {
        let index = bits as u32;
        match bits & 0xff << 32 {
            Token::RECEIVE => Token::Receive(index, Turn((bits >> 40) as u32)),
            Token::ACCEPT => Token::Accept(index),
            _ => Watched::from_token(bits).map_or(Token::Nobody, Token::Watch),
        }
    }
}

#[cfg(test)]
mod tests;
