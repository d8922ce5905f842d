//! Completion queues: what they hold.

use std::collections::VecDeque;
use std::ffi::c_void;

use gridnet::core::error::Error;
use gridnet::core::matching::Key;

use crate::abi::errno;
use crate::abi::flag;
use crate::abi::message::CqEntry;
use crate::abi::FiAddr;
use crate::wait::Sleep;

/// Operations are refused, to be tried again, while so many events wait.
pub(crate) const MOST_EVENTS: usize = 1 << 16;

/// The end of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) context: usize,
    pub(crate) flags: u64,
    pub(crate) len: usize,
    pub(crate) buffer: usize,
    pub(crate) data: u64,
    pub(crate) tag: u64,
    pub(crate) source: FiAddr,
}

/// Why it failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Number of libfabric's.
    pub(crate) errno: i32,
    /// Number of gridnet's, 0 for none.
    pub(crate) code: i32,
    /// Bytes that did not fit.
    pub(crate) overflow: usize,
}

impl Failure {
    pub(crate) fn of(error: Error) -> Failure {
        Failure { errno: errno::of(error), code: error.code(), overflow: 0 }
    }
}

/// Bytes of the longest format.
const LONGEST: usize = size_of::<CqEntry>();

/// Bytes of an entry of each format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format(usize);

impl Format {
    /// The format of this number.
    pub(crate) fn new(number: u32) -> Option<Format> {
        Some(Format(match number {
            // Unspecified: what is shortest.
            0 | flag::FORMAT_CONTEXT => 8,
            flag::FORMAT_MSG => 24,
            flag::FORMAT_DATA => 40,
            flag::FORMAT_TAGGED => LONGEST,
            _ => return None,
        }))
    }
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Queue {
    format: Format,
    /// How programs may wait in it: `FI_WAIT_*`.
    pub(crate) wait: u32,
    /// By which they sleep, if they do.
    pub(crate) sleep: Option<Sleep>,
    /// Endpoints that it is bound to.
    pub(crate) endpoints: Vec<Key>,
    events: VecDeque<(Event, Option<Failure>)>,
    vain_reads: u32,
}

impl Queue {
    pub(crate) fn new(format: Format, wait: u32, sleep: Option<Sleep>) -> Queue {
        let events = VecDeque::with_capacity(64);
        Queue { format, wait, sleep, endpoints: Vec::new(), events, vain_reads: 0 }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.events.len() < MOST_EVENTS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.events.push_back((event, None));
        self.ring();
    }

    pub(crate) fn push_failure(&mut self, event: Event, failure: Failure) {
        self.events.push_back((event, Some(failure)));
        self.ring();
    }

    #[inline]
    fn ring(&mut self) {
        if let Some(sleep) = &mut self.sleep {
            sleep.ring();
        }
    }

    /// Takes the failure that is next, if one is.
    pub(crate) fn pop_failure(&mut self) -> Option<(Event, Failure)> {
        let (event, failure) = *self.events.front()?;
        let failure = failure?;
        self.events.pop_front();
        Some((event, failure))
    }

    /// Takes at most `count` events up to the next failure.
    ///
    /// # Errors
    /// That there is none; that a failure is next.
    ///
    /// # Safety
    /// `out` is valid for writes of `count` entries of the format, `sources` too, or NULL.
    pub(crate) unsafe fn read(
        &mut self,
        out: *mut c_void,
        count: usize,
        sources: *mut FiAddr,
    ) -> Result<isize, i32> {
        let mut taken = 0;
        while taken < count {
            let Some((event, None)) = self.events.front() else { break };
            // SAFETY: `taken` is below `count`.
            unsafe { self.hand_out(event, out, sources, taken) };
            self.events.pop_front();
            taken += 1;
        }
        match self.events.front() {
            _ if taken > 0 => Ok(taken as isize),
            Some((_, Some(_))) => Err(errno::EAVAIL),
            // Nothing was asked for but progress.
            Some(_) => Ok(0),
            None => Err(errno::EAGAIN),
        }
    }

    /// Writes an event to the program's entry of this number.
    ///
    /// # Safety
    /// `out` has such an entry, of the format; so has `sources`, if it is not NULL.
    #[inline]
    pub(crate) unsafe fn hand_out(
        &self,
        event: &Event,
        out: *mut c_void,
        sources: *mut FiAddr,
        number: usize,
    ) {
        let entry = CqEntry {
            op_context: event.context as *mut c_void,
            flags: event.flags,
            len: event.len,
            buf: event.buffer as *mut c_void,
            data: event.data,
            tag: event.tag,
        };
        // SAFETY: the caller's promise; the shorter formats are the beginnings of this one.
        unsafe {
            let out = out.byte_add(number * self.format.0).cast::<u8>();
            // A length that is known costs no call.
            match self.format.0 {
                LONGEST => std::ptr::copy_nonoverlapping((&raw const entry).cast(), out, LONGEST),
                len => std::ptr::copy_nonoverlapping((&raw const entry).cast(), out, len),
            }
            if !sources.is_null() {
                sources.add(number).write(event.source);
            }
        }
    }

    /// The endpoint that it is bound to, if that is one, and nothing is there.
    #[inline]
    pub(crate) fn lone_endpoint(&self) -> Option<Key> {
        match self.endpoints[..] {
            [key] if self.events.is_empty() => Some(key),
            _ => None,
        }
    }

    /// Whether one more read in vain makes a multiple of so many in a row.
    #[inline]
    pub(crate) fn is_read_in_vain(&self, times: u32) -> bool {
        self.vain_reads.wrapping_add(1).is_multiple_of(times)
    }

    /// Counts a read; how many in a row were in vain.
    pub(crate) fn count_read(&mut self, found: bool) -> u32 {
        self.vain_reads = if found { 0 } else { self.vain_reads.wrapping_add(1) };
        self.vain_reads
    }
}
