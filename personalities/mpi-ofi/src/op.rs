//! Operations under way, and how they end.

use gridnet::core::completion::{Completion, HAS_IMMEDIATE};
use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Pattern, Slab, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::PeerId;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::addresses::Addresses;
use crate::endpoint::{Copied, Endpoint};
use crate::queue::{Event, Failure};
use crate::state::Reports;

/// In tags of the engine: a message without a tag of the program.
pub(crate) const UNTAGGED: u64 = 1 << 63;
/// Complaints about peers that are written to the log; more say nothing new.
const MOST_COMPLAINTS: u32 = 16;

/// An operation that the engine has.
pub(crate) struct Op {
    pub(crate) context: usize,
    /// What completions of it say.
    pub(crate) flags: u64,
    /// Success is reported.
    pub(crate) reports: bool,
    /// Of the engine's.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Send {
        copy: Option<Copied>,
    },
    Receive {
        buffer: usize,
        room: usize,
    },
    /// Several messages into one buffer, of which this much is used.
    Multi {
        buffer: usize,
        room: usize,
        used: usize,
        source: Source,
    },
    /// A message that nobody wants.
    Discard,
    /// A part of an errand.
    Step(Key),
    /// Asks a peer for a region.
    Question,
    /// A peer tells that it has written.
    Notice,
    /// A node of the session becomes the peer of this number, as long as the address vector is what it was.
    Opening {
        number: FiAddr,
        changes: u64,
    },
}

impl Op {
    pub(crate) fn is_receive(&self) -> bool {
        matches!(self.kind, Kind::Receive { .. } | Kind::Multi { .. })
    }
}

pub(crate) fn event(context: usize, flags: u64, len: usize) -> Event {
    Event { context, flags, len, buffer: 0, data: 0, tag: 0, source: ADDR_UNSPEC }
}

pub(crate) fn length(iov: &[Iov]) -> usize {
    iov.iter().fold(0, |sum, piece| sum.saturating_add(piece.len()))
}

/// Whether an error is about the call rather than the peer.
pub(crate) fn is_misuse(error: Error) -> bool {
    matches!(
        error,
        Error::Invalid | Error::Handle | Error::Unsupported | Error::NotFound | Error::Forked | Error::Thread
    )
}

impl Endpoint {
    /// Forgets an operation.
    pub(crate) fn drop_op(&mut self, key: Key) {
        if let Some(Op { kind: Kind::Send { copy }, .. }) = self.ops.remove(key) {
            self.sends -= 1;
            self.give_spare(copy);
        }
    }

    /// Takes what has come in, and reports it.
    pub(crate) fn progress(&mut self, vectors: &Slab<Addresses>, reports: &mut Reports) -> Result<(), i32> {
        self.take()?;
        if !self.taken.is_empty() {
            let mut taken = std::mem::take(&mut self.taken);
            for completion in taken.drain(..) {
                self.end(vectors, reports, &completion);
            }
            self.taken = taken;
        }
        if self.remote.has_stalled() {
            self.resume_stalled(reports);
        }
        if self.is_deaf {
            self.listen(reports);
        }
        Ok(())
    }

    /// An operation has ended.
    pub(crate) fn end(&mut self, vectors: &Slab<Addresses>, reports: &mut Reports, end: &Completion) {
        let key = Key::from_bits(end.context);
        let Some(op) = self.ops.get(key) else { return };
        let mut event = event(op.context, op.flags, end.length as usize);
        let failure = Error::from_code(end.status).map(Failure::of);
        if let Kind::Step(_) | Kind::Question | Kind::Notice = op.kind {
            return self.end_remote(vectors, reports, key, end, failure);
        }
        if let Kind::Opening { .. } = op.kind {
            return self.node_opened(vectors, key, end);
        }
        if let Kind::Send { .. } = op.kind {
            let report = op.reports;
            self.drop_op(key);
            return match failure {
                None => reports.done(&self.tx, report.then_some(event)),
                Some(failure) => {
                    self.complain(vectors, end);
                    reports.failed(&self.tx, event, failure);
                }
            };
        }
        if end.status != Error::Canceled.code() {
            event.source = self.source(vectors, end.source);
        }
        if end.flags & HAS_IMMEDIATE != 0 {
            event.data = end.immediate;
            event.flags |= REMOTE_CQ_DATA;
        }
        event.tag = end.tag & !UNTAGGED;
        self.end_receive(reports, key, event, failure);
        if end.status != 0 {
            self.complain(vectors, end);
        }
    }

    /// An operation on memory has ended, of a peer's or of our own.
    fn end_remote(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        key: Key,
        end: &Completion,
        failure: Option<Failure>,
    ) {
        match self.ops.remove(key).map(|op| op.kind) {
            Some(Kind::Step(errand)) => {
                if let Some(failure) = failure {
                    self.complain(vectors, end);
                    self.fail_errand(errand, failure);
                }
                self.step_ended(reports, errand);
            }
            Some(Kind::Notice) => {
                if failure.is_none() {
                    let source = self.source(vectors, end.source);
                    self.noticed(reports, end.immediate, source);
                }
                // Whatever one peer has sent, the others are heard.
                self.listen(reports);
            }
            _ => {}
        }
    }

    fn end_receive(&mut self, reports: &mut Reports, key: Key, mut event: Event, failure: Option<Failure>) {
        let Some(op) = self.ops.get(key) else { return };
        let mut report = op.reports;
        let (buffer, room) = match op.kind {
            Kind::Receive { buffer, room } => (buffer, room),
            Kind::Multi { buffer, room, used, .. } => (buffer + used, room - used),
            Kind::Send { .. }
            | Kind::Discard
            | Kind::Step(_)
            | Kind::Question
            | Kind::Notice
            | Kind::Opening { .. } => {
                self.ops.remove(key);
                return;
            }
        };
        let overflow = event.len.saturating_sub(room);
        event.len -= overflow;
        event.buffer = buffer;
        let gone = if self.goes_on(key, event.len, failure) { None } else { self.ops.remove(key) };
        if matches!(gone, Some(Op { kind: Kind::Multi { .. }, .. })) {
            event.flags |= MULTI_RECV;
            report = true;
        }
        match failure {
            None => reports.done(&self.rx, report.then_some(event)),
            Some(failure) => reports.failed(&self.rx, event, Failure { overflow, ..failure }),
        }
    }

    /// Whether a buffer for several messages waits for the next one.
    fn goes_on(&mut self, key: Key, len: usize, failure: Option<Failure>) -> bool {
        let least = self.min_multi_recv.max(1);
        let Some(op) = self.ops.get_mut(key) else { return false };
        let Kind::Multi { buffer, room, used, source } = &mut op.kind else { return false };
        *used += len;
        let is_over = failure.is_some_and(|failure| failure.errno != errno::ETRUNC);
        if is_over || *room - *used < least {
            return false;
        }
        // SAFETY: the rest of the program's buffer, which is valid until the last of its completions.
        let rest = unsafe { Iov::new((*buffer + *used) as *mut u8, *room - *used) };
        let pattern = Pattern { source: *source, tag: UNTAGGED, ignore: 0 };
        let posted = self
            .shared
            .enter()
            .and_then(|mut guard| guard.engine.receive(self.cq, &pattern, rest, key.to_bits()));
        if let Ok(number) = posted {
            op.number = number;
        }
        posted.is_ok()
    }

    /// Says in the log why a peer cannot be used, which completions have no room for.
    #[cold]
    fn complain(&mut self, vectors: &Slab<Addresses>, end: &Completion) {
        let silent = [Error::Canceled.code(), Error::Truncated.code()];
        if silent.contains(&end.status) || self.complaints == MOST_COMPLAINTS {
            return;
        }
        self.complaints += 1;
        let number = self.source(vectors, end.source);
        let who = self.describe(vectors, number);
        let Ok(guard) = self.shared.enter() else { return };
        let peer = PeerId::new(end.source);
        let rail = guard.engine.rail_name(peer).unwrap_or("none");
        let Ok((node, _, state, _)) = guard.engine.peer(peer) else { return };
        let error = Error::from_code(end.status).map_or("", Error::text);
        tracing::warn!(rank = who.rank, host = who.host, %node, rail, ?state, error, "an operation with a rank failed");
    }
}
