//! The short ways: small messages that go at once, receives that wait for one tag, and completions that polling a ring brings.
//! Each is what its longer counterpart would do; where it cannot, nothing has happened.

use std::mem::MaybeUninit;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::NonNull;

use gridnet::core::completion::{Completion, HAS_IMMEDIATE};
use gridnet::core::endpoint::Quick;
use gridnet::core::error::Error;
use gridnet::core::matching::{Key, Slab, Source};
use gridnet::core::mem::Iov;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::addresses::Addresses;
use crate::endpoint::{Endpoint, BATCH};
use crate::op::{event, Kind, Op, UNTAGGED};
use crate::queue::Event;
use crate::state::Reports;

/// Flags under which a send is complete as soon as its memory may be used again.
const AT_ONCE: u64 = COMPLETION | INJECT | INJECT_COMPLETE | TRANSMIT_COMPLETE | MORE;
/// Looks at the ring before all else is looked at.
const LOOKS: u32 = 8;
/// So often in a row the ring alone is looked at, where all that comes comes there: polling all the rest takes several times as long.
const MOST_LEAN: u32 = 7;
/// Looks in one take while a long message moves, some 2 us: between two of its pieces programs had better not be elsewhere.
const LOOKS_IN_TRANSFER: u32 = 1 << 8;
/// So many takes in a row stay so long though nothing seems to move: the peer may be busy with something else.
const MOST_VAIN_STAYS: u32 = 64;

/// Long messages under way, as takes see them.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// Bytes, when it was looked last.
    bytes: u64,
    vain_stays: u32,
}

impl Transfer {
    /// A long message may be under way now.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.vain_stays = 0;
    }

    /// Notes what is under way.
    fn note(&mut self, bytes: u64, has_taken: bool) {
        let is_vain = bytes == self.bytes && !has_taken;
        self.vain_stays = if is_vain { self.vain_stays.saturating_add(1) } else { 0 };
        self.bytes = bytes;
    }

    /// Polling may have something to do though nothing has come.
    #[inline]
    fn is_under_way(&self) -> bool {
        self.bytes > 0
    }

    /// Looks that the next take is worth.
    fn looks(&self) -> u32 {
        if self.is_under_way() && self.vain_stays < MOST_VAIN_STAYS {
            LOOKS_IN_TRANSFER
        } else {
            1
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Sends, receives and completions of this thread that took a short way.
    pub(crate) static SHORT: [std::cell::Cell<u64>; 3] = const { [const { std::cell::Cell::new(0) }; 3] };
}

/// A small message with a tag, under the flags of its endpoint.
pub(crate) struct Small {
    pub(crate) message: Iov,
    pub(crate) peer: FiAddr,
    pub(crate) tag: u64,
    /// Bits of the tag that do not count, of a receive.
    pub(crate) ignore: u64,
    pub(crate) data: Option<u64>,
    pub(crate) context: usize,
    /// Its success is not reported (`fi_inject`).
    pub(crate) silent: bool,
}

/// What a look at the ring of an endpoint has brought.
pub(crate) enum Look {
    /// A message of a receive that reports to the queue, and to nothing else.
    Received(Event),
    /// Something else that has ended.
    Ended(Completion),
    /// Nothing, and polling would bring nothing either.
    Nothing,
    /// There may be something, which polling has to take.
    Poll,
}

impl Endpoint {
    /// As [`Self::send`]; false when the message does not go at once.
    #[inline(always)]
    pub(crate) fn send_small(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        small: &Small,
    ) -> bool {
        let flags = if small.silent { INJECT } else { self.tx.op_flags };
        if self.check_enabled().is_err() || small.tag & UNTAGGED != 0 || flags & !AT_ONCE != 0 {
            return false;
        }
        let vector = self.vector.and_then(|key| vectors.get(key));
        let Some(outlet) = vector.and_then(|vector| self.peers.outlet(vector, small.peer)) else {
            return false;
        };
        if !reports.has_room(&self.tx) {
            return false;
        }
        let sent = match small.data {
            None => outlet.send(small.tag, small.message),
            Some(data) => outlet.send_with(small.tag, data, small.message),
        };
        if sent {
            #[cfg(test)]
            SHORT.with(|short| short[0].set(short[0].get() + 1));
            let does_report = !small.silent && self.tx.reports(flags);
            let done = || event(small.context, SEND | TAGGED, small.message.len());
            reports.done(&self.tx, does_report.then(done));
        }
        sent
    }

    /// As [`Self::receive`]; false when something is there already, the peer is not, or unusual bits of the tag do not count.
    #[inline(always)]
    pub(crate) fn receive_small(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &Reports,
        small: &Small,
    ) -> bool {
        if self.check_enabled().is_err() || small.tag & UNTAGGED != 0 || !reports.has_room(&self.rx) {
            return false;
        }
        let vector = self.vector.and_then(|key| vectors.get(key));
        let source = match vector.and_then(|vector| self.peers.outlet(vector, small.peer)) {
            Some(outlet) => Source::Peer(outlet.peer()),
            None if small.peer == ADDR_UNSPEC => Source::Any,
            None => return false,
        };
        let Some(mut fabric) = self.shared.enter_plain() else { return false };
        let (buffer, room) = (small.message.base() as usize, small.message.len());
        let key = self.ops.insert(Op {
            context: small.context,
            flags: RECV | TAGGED,
            reports: self.rx.reports(self.rx.op_flags),
            number: 0,
            kind: Kind::Receive { buffer, room },
        });
        // Whatever the program ignores, messages with tags do not mix with others.
        let tag = (small.tag, small.ignore & !UNTAGGED);
        let posted = fabric.engine.receive_now(self.cq, source, tag, small.message, key.to_bits());
        match (posted, self.ops.get_mut(key)) {
            (Some(number), Some(op)) => {
                #[cfg(test)]
                SHORT.with(|short| short[1].set(short[1].get() + 1));
                op.number = number;
            }
            _ => drop(self.ops.remove(key)),
        }
        posted.is_some()
    }

    /// Looks for one completion, for who reads this queue.
    #[inline(always)]
    pub(crate) fn look(&mut self, vectors: &Slab<Addresses>, queue: Key) -> Look {
        // What is sent piece by piece goes on by polling only.
        if self.lean_takes >= MOST_LEAN || self.transfer.is_under_way() {
            return Look::Poll;
        }
        let Some(mut fabric) = self.shared.enter_plain() else { return Look::Poll };
        let mut end = MaybeUninit::<Completion>::uninit();
        // SAFETY: room for one.
        let (_, quick) = unsafe { fabric.take_quick(self.cq, NonNull::from(&mut end).cast(), 1, LOOKS) };
        drop(fabric);
        if !quick.is_written() {
            self.lean_takes += 1;
            return if quick == Quick::Nothing { Look::Nothing } else { Look::Poll };
        }
        // SAFETY: written.
        let end = unsafe { end.assume_init() };
        let key = Key::from_bits(end.context);
        let Some(op) = self.ops.get(key) else { return Look::Ended(end) };
        let Kind::Receive { buffer, .. } = op.kind else { return Look::Ended(end) };
        let reports_here = op.reports && self.rx.queue == Some(queue) && self.rx.counter.is_none();
        if end.status != 0 || !reports_here {
            return Look::Ended(end);
        }
        let data = if end.flags & HAS_IMMEDIATE != 0 { REMOTE_CQ_DATA } else { 0 };
        let event = Event {
            context: op.context,
            flags: op.flags | data,
            len: end.length as usize,
            buffer,
            data: end.immediate,
            tag: end.tag & !UNTAGGED,
            source: self.source(vectors, end.source),
        };
        self.ops.remove(key);
        #[cfg(test)]
        SHORT.with(|short| short[2].set(short[2].get() + 1));
        Look::Received(event)
    }

    /// Takes what has come in to `self.taken`, where calls need no lock; whether they do not.
    ///
    /// # Errors
    /// That the fabric is broken.
    #[inline(always)]
    pub(super) fn take_quickly(&mut self) -> Result<bool, i32> {
        // Both are so already, unless a panic has come in between.
        self.taken.clear();
        self.taken.reserve(BATCH);
        let Some(mut fabric) = self.shared.enter_plain() else { return Ok(false) };
        let Some(out) = NonNull::new(self.taken.as_mut_ptr()) else { return Ok(false) };
        // SAFETY: room for as many.
        let (mut taken, _) = unsafe { fabric.take_quick(self.cq, out, BATCH, 1) };
        self.lean_takes = 0;
        if taken == 0 {
            // What peers have sent is handled in here.
            let looks = if fabric.engine.is_peer_on_this_core() { 1 } else { self.transfer.looks() };
            // SAFETY: as above.
            let round = || unsafe { fabric.take_into(self.cq, out, BATCH, looks) };
            let Ok(more) = catch_unwind(AssertUnwindSafe(round)) else {
                std::mem::forget(fabric);
                self.shared.mark_broken();
                return Err(errno::of(Error::Internal));
            };
            taken = more;
            self.transfer.note(fabric.engine.bytes_under_way(), taken > 0);
        }
        // SAFETY: so many were written.
        unsafe { self.taken.set_len(taken) };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_stay_while_a_long_message_moves() {
        let mut transfer = Transfer::default();
        assert!(!transfer.is_under_way());
        assert_eq!(transfer.looks(), 1);
        transfer.begin(1 << 20);
        for _ in 0..MOST_VAIN_STAYS {
            assert_eq!(transfer.looks(), LOOKS_IN_TRANSFER);
            transfer.note(1 << 20, false);
        }
        assert_eq!(transfer.looks(), 1, "the peer does not answer");
        assert!(transfer.is_under_way(), "polling goes on");
        transfer.note(1 << 19, false);
        assert_eq!(transfer.looks(), LOOKS_IN_TRANSFER);
        transfer.note(0, true);
        assert!(!transfer.is_under_way());
    }
}
