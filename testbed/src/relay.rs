//! A link through user space, for what the kernel cannot do everywhere: delay, jitter, and a queue of known length.
//!
//! Each end is a veth pair; the far ends lie in a network namespace of the relay's own, and one thread for each direction
//! moves frames from one packet socket to the other when they are due. A TUN device would do the same, but needs
//! `/dev/net/tun`, which containers and ordinary users often may not open; packet sockets need no more than the
//! namespace.

use crate::error::{Error, Result};
use crate::impairment::Impairment;
use crate::line::{Fate, Line};
use crate::wire::{wire_bytes, Sent, Wire, LARGEST_FRAME};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// What went through a link in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came out.
    pub passed: u64,
    /// Bytes of theirs, as on the wire.
    pub bytes: u64,
    /// Frames that were lost, as asked.
    pub lost: u64,
    /// Frames that found the queue full.
    pub queue_full: u64,
    /// Frames that came during a blackout.
    pub blackout: u64,
    /// Frames that were lost, and should not have been: the relay was too slow, or out of memory.
    pub overrun: u64,
}

/// A link that is relayed, while it is.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Readable once the threads are to end; nobody reads it.
    stop: EventFd,
}

#[derive(Debug)]
struct State {
    impairment: Impairment,
    blackout: bool,
    counts: [Counts; 2],
    /// Why a direction has ended that should not have.
    failed: Option<String>,
}

/// A frame on its way.
struct Frame {
    due_ns: u64,
    wire_bytes: u64,
    bytes: Vec<u8>,
}

/// One direction.
struct Direction {
    number: usize,
    shared: Arc<Shared>,
    from: Arc<Wire>,
    to: Arc<Wire>,
    line: Line,
    start: Instant,
    on_the_way: VecDeque<Frame>,
    bytes_on_the_way: usize,
    /// Buffers that are free.
    free: Vec<Vec<u8>>,
    fresh: Counts,
}

impl Relay {
    /// Relays between two wires until it is dropped.
    pub(crate) fn start(name: &str, wires: [Wire; 2], impairment: Impairment, seed: u64) -> Result<Relay> {
        let state = State { impairment, blackout: false, counts: [Counts::default(); 2], failed: None };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { state: Mutex::new(state), stop });
        let [a, b] = wires.map(Arc::new);
        let mut relay = Relay { shared: Arc::clone(&shared), threads: Vec::new() };
        for (number, (from, to)) in [(&a, &b), (&b, &a)].into_iter().enumerate() {
            let direction = Direction {
                number,
                shared: Arc::clone(&shared),
                from: Arc::clone(from),
                to: Arc::clone(to),
                line: Line::new(impairment, seed.wrapping_add(number as u64)),
                start: Instant::now(),
                on_the_way: VecDeque::new(),
                bytes_on_the_way: 0,
                free: Vec::new(),
                fresh: Counts::default(),
            };
            let thread = Builder::new().name(format!("relay {name}")).spawn(move || direction.run());
            relay.threads.push(thread.map_err(|e| Error::setup("a relay's thread", e))?);
        }
        Ok(relay)
    }

    /// From now on the link is so.
    pub(crate) fn set(&self, impairment: Impairment) {
        self.shared.lock().impairment = impairment;
    }

    /// From now on nothing passes, or does again.
    pub(crate) fn set_blackout(&self, on: bool) {
        self.shared.lock().blackout = on;
    }

    /// What has gone through so far, from the first end and from the second.
    pub(crate) fn counts(&self) -> Result<[Counts; 2]> {
        let state = self.shared.lock();
        match &state.failed {
            Some(why) => Err(Error::Setup(format!("the relay has ended: {why}"))),
            None => Ok(state.counts),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from its end.
        let _ = self.shared.stop.write(1);
        for thread in self.threads.drain(..) {
            // A panic in there was reported by then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whoever panicked has left plain values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Direction {
    fn run(mut self) {
        // Wake-ups as late as 50 us are the default. Without it delays are a little longer.
        let _ = nix::sys::prctl::set_timerslack(1);
        let mut buffer = vec![0; LARGEST_FRAME];
        let ended = loop {
            match self.round(&mut buffer) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => break error,
            }
        };
        self.shared.lock().failed = Some(ended.to_string());
    }

    /// Sends what is due, takes what has come, and waits; false once it is to end.
    fn round(&mut self, buffer: &mut [u8]) -> nix::Result<bool> {
        self.exchange_state();
        self.send_due()?;
        let full = self.take_some(buffer)?;
        if full {
            return Ok(!self.is_stopped());
        }
        self.wait()
    }

    /// Hands over what was counted, and learns what the link is to be.
    fn exchange_state(&mut self) {
        self.fresh.overrun += self.from.overruns();
        let mut state = self.shared.lock();
        let fresh = std::mem::take(&mut self.fresh);
        let counts = &mut state.counts[self.number];
        counts.passed += fresh.passed;
        counts.bytes += fresh.bytes;
        counts.lost += fresh.lost;
        counts.queue_full += fresh.queue_full;
        counts.blackout += fresh.blackout;
        counts.overrun += fresh.overrun;
        self.line.set(state.impairment, state.blackout);
    }

    fn send_due(&mut self) -> nix::Result<()> {
        let now = self.now_ns();
        while self.on_the_way.front().is_some_and(|frame| frame.due_ns <= now) {
            let Some(frame) = self.on_the_way.pop_front() else { break };
            self.bytes_on_the_way -= frame.bytes.len();
            if self.line.is_dark() {
                self.fresh.blackout += 1;
            } else {
                match self.to.send(&frame.bytes)? {
                    Sent::Done => {
                        self.fresh.passed += 1;
                        self.fresh.bytes += frame.wire_bytes;
                    }
                    Sent::Dropped => self.fresh.overrun += 1,
                }
            }
            if self.free.len() < MOST_FREE {
                self.free.push(frame.bytes);
            }
        }
        Ok(())
    }

    /// Takes frames; true when there may be more.
    fn take_some(&mut self, buffer: &mut [u8]) -> nix::Result<bool> {
        for _ in 0..BATCH {
            let Some(bytes) = self.from.take(buffer)? else { return Ok(false) };
            let wire_bytes = wire_bytes(bytes);
            match self.line.offer(self.now_ns(), wire_bytes) {
                Fate::Lost => self.fresh.lost += 1,
                Fate::QueueFull => self.fresh.queue_full += 1,
                Fate::Blackout => self.fresh.blackout += 1,
                Fate::Due { .. } if self.bytes_on_the_way + bytes.len() > MOST_BYTES => {
                    self.fresh.overrun += 1
                }
                Fate::Due { at_ns } => {
                    let mut copy = self.free.pop().unwrap_or_default();
                    copy.clear();
                    copy.extend_from_slice(bytes);
                    self.bytes_on_the_way += copy.len();
                    self.on_the_way.push_back(Frame { due_ns: at_ns, wire_bytes, bytes: copy });
                }
            }
        }
        Ok(true)
    }

    /// Waits for a frame, or until one is due; false once it is to end.
    fn wait(&self) -> nix::Result<bool> {
        let due = self.on_the_way.front().map(|frame| frame.due_ns.saturating_sub(self.now_ns()));
        let span = Duration::from_nanos(due.unwrap_or(u64::MAX)).min(LONGEST_WAIT);
        let mut files = [
            PollFd::new((*self.from).as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.stop.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut files, Some(TimeSpec::from_duration(span)), None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(other) => return Err(other),
        }
        Ok(!files[1].any().unwrap_or(false))
    }

    fn is_stopped(&self) -> bool {
        let mut files = [PollFd::new(self.shared.stop.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut files, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn now_ns(&self) -> u64 {
        // 64 bits of nanoseconds are 584 years.
        self.start.elapsed().as_nanos() as u64
    }
}

/// Frames between two looks at what is due: some 50 us of work.
const BATCH: usize = 32;
/// Free buffers that are kept: what is on its way in 10 ms at 1 gbit.
const MOST_FREE: usize = 1024;
/// Bytes that one direction keeps: what is on its way in 200 ms at 10 gbit.
const MOST_BYTES: usize = 256 << 20;
/// So that a change, and overruns, are noticed also while nothing happens.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
