//! What peers do to own regions by messages. Nothing is believed: each frame is checked against the table by itself, so
//! that a region which is closed between two parts of a put refuses the second.

use super::flush::{most_of_bulk, Step};
use super::pace::Measure;
use super::recover::LinkEvent;
use super::state::{State, MAX_ANSWERS};
use super::Engine;
use crate::error::Error;
use crate::mem::{Gather, Iov, PeerBytes};
use crate::rail::{PeerId, Posted, Rail};
use crate::region::{Access, Update};
use crate::sync::fence;
use crate::sync::Ordering;
use crate::wire::Message;

/// Bytes of an own region that a peer waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// The peer's operation.
    op: u64,
    region: u64,
    offset: u64,
    len: u64,
    sent: u64,
}

impl State {
    /// A part of a put.
    pub(super) fn serve_put(
        &mut self,
        peer: PeerId,
        region: u64,
        op: u64,
        offset: u64,
        last: bool,
        payload: &PeerBytes<'_>,
    ) {
        let status = self.write_region(region, offset, payload);
        kill_point!("region.written");
        self.count_served(peer, u64::from(last), if status.is_ok() { payload.len() } else { 0 });
        if last || status.is_err() {
            let value = self.remote.regions.hint(region);
            self.say(peer, Message::Answer { op, status, value });
        }
    }

    /// So many bytes more of the first reply have gone.
    fn note_replied(&mut self, peer: PeerId, bytes: u64) {
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        let Some(reply) = p.remote.replies.front_mut() else { return };
        reply.sent += bytes;
        if reply.sent == reply.len {
            p.remote.replies.pop_front();
            if p.remote.replies.is_empty() {
                self.note_end_of_bulk();
            }
        }
    }

    fn count_served(&self, peer: PeerId, operations: u64, bytes: usize) {
        if let Some(p) = self.peers.get(peer.index()) {
            p.counts.cells.served.add(operations);
            p.counts.cells.bytes_served.add(bytes as u64);
        }
    }

    fn write_region(&mut self, region: u64, offset: u64, payload: &PeerBytes<'_>) -> Result<(), Error> {
        let len = payload.len();
        let (to, may_fault) = self.remote.regions.place(region, offset, len, Access::REMOTE_WRITE)?;
        let mut words = [0u64; 6];
        let from = match payload.as_raw() {
            Some(from) => from,
            None => {
                // SAFETY: the array is private and as long as any words of a slot.
                let target = unsafe { Iov::new(words.as_mut_ptr().cast(), len.min(size_of_val(&words))) };
                payload.copy_to(&Gather::one(&target));
                words.as_ptr().cast()
            }
        };
        if may_fault {
            // SAFETY: `from` is readable as long as the frame is looked at; `to` was registered by the program.
            return if unsafe { self.remote.guard.write(to, from, len) } {
                Ok(())
            } else {
                Err(Error::Fault)
            };
        }
        // SAFETY: inside a region whose memory is ours until it is closed (`place` has found it open), and which nobody
        // borrows.
        unsafe { crate::region::store(to, from, len) };
        // Whoever learns of this put by a later message or answer sees its bytes.
        fence(Ordering::Release);
        Ok(())
    }

    /// Bytes are wanted.
    pub(super) fn serve_get(&mut self, peer: PeerId, region: u64, op: u64, offset: u64, len: u64) {
        let size = usize::try_from(len).map_err(|_| Error::Bounds);
        let status = size
            .and_then(|len| self.remote.regions.place(region, offset, len, Access::REMOTE_READ))
            .map(drop);
        self.count_served(peer, 1, 0);
        if status.is_err() || len == 0 {
            let value = self.remote.regions.hint(region);
            return self.say(peer, Message::Answer { op, status, value });
        }
        if let Some(p) = self.peers.get_mut(peer.index()) {
            p.remote.replies.push_back(Reply { op, region, offset, len, sent: 0 });
            if p.remote.replies.len() > MAX_ANSWERS {
                self.links.push_back(LinkEvent::flooding(peer));
            }
        }
        self.schedule(peer);
    }

    /// An atomic operation.
    pub(super) fn serve_atomic(&mut self, peer: PeerId, region: u64, op: u64, offset: u64, update: &Update) {
        let (status, value) = match self.run_atomic(region, offset, update) {
            Ok(value) => (Ok(()), value),
            Err(error) => (Err(error), 0),
        };
        kill_point!("region.counted");
        self.count_served(peer, 1, 0);
        self.say(peer, Message::Answer { op, status, value });
    }

    fn run_atomic(&mut self, region: u64, offset: u64, update: &Update) -> Result<u64, Error> {
        let len = update.bytes();
        let right = if update.only_reads() { Access::REMOTE_READ } else { Access::REMOTE_ATOMIC };
        let (at, may_fault) = self.remote.regions.place(region, offset, len, right)?;
        update.check_place(at as usize as u64)?;
        if may_fault && !self.is_there(at, len, update.only_reads()) {
            return Err(Error::Fault);
        }
        // SAFETY: in bounds and aligned (checked). Memory of ours is there; registered memory was found to be there just now, and
        // unmapping it during a call of this library is what the program promises not to do.
        Ok(unsafe { update.run(at) })
    }

    /// Whether registered memory of a word at most can be read, or also written.
    fn is_there(&self, at: *mut u8, len: usize, only_reads: bool) -> bool {
        let guard = &self.remote.guard;
        let mut word = [0u8; size_of::<u64>()];
        // SAFETY: the array has room for a word, and is private.
        let mut can_read = || len <= word.len() && unsafe { guard.read(at, word.as_mut_ptr(), len) };
        if only_reads {
            can_read()
        } else {
            guard.is_writable(at, len)
        }
    }
}

impl<R: Rail> Engine<R> {
    /// The next part of what a peer waits for.
    pub(super) fn flush_reply(&mut self, peer: PeerId, measure: Measure) -> Step {
        let p = &mut self.state.peers[peer.index()];
        let Some(&Reply { op, region, offset, len, sent }) = p.remote.replies.front() else {
            return Step::Idle;
        };
        let rail = &mut self.rails[p.rail];
        let is_large = len > p.eager_max as u64;
        let most = match if is_large { most_of_bulk(rail, p.link, measure) } else { Ok(usize::MAX) } {
            Ok(most) => most,
            Err(step) => return step,
        };
        let part = rail.segment_len(len).min(usize::try_from(len - sent).unwrap_or(usize::MAX)).min(most);
        let remote = &mut self.state.remote;
        let keeps_memory = p.keeps_memory;
        let from = remote.regions.place(region, offset + sent, part, Access::REMOTE_READ).and_then(
            |(from, may_fault)| {
                if !may_fault && !keeps_memory {
                    return Ok(from);
                }
                remote.bounce.resize(part.max(remote.bounce.len()), 0);
                let to = remote.bounce.as_mut_ptr();
                // SAFETY: the bounce buffer has room for the part; `from` was registered by the program, or is ours.
                let is_there = unsafe { remote.guard.read(from, to, part) };
                is_there.then_some(to).ok_or(Error::Fault)
            },
        );
        let from = match from {
            Ok(from) => from,
            Err(error) => {
                p.remote.replies.pop_front();
                self.state.say(peer, Message::Answer { op, status: Err(error), value: 0 });
                return Step::Moved(0);
            }
        };
        // SAFETY: memory of an open region of ours, which the rail copies before it returns, or the bounce buffer, which is kept
        // until the rail has read it. Peers may write the former meanwhile; what is copied is arbitrary bytes to them.
        let piece = unsafe { Iov::new(from, part) };
        match rail.post(p.link, &Message::Data { op, offset: sent }.frame(Gather::one(&piece))) {
            posted @ (Posted::Done | Posted::Accepted(_)) => {
                if let Posted::Accepted(token) = posted {
                    let kept = std::mem::take(&mut self.state.remote.bounce);
                    self.state.remote.in_rail.insert((peer, token), kept);
                }
                self.state.count_served(peer, 0, part);
                if is_large {
                    self.state.pace.moved(part);
                }
                self.state.note_replied(peer, part as u64);
                Step::Moved(part)
            }
            Posted::Failed(error) => {
                p.remote.replies.pop_front();
                self.state.say(peer, Message::Answer { op, status: Err(error), value: 0 });
                Step::Moved(0)
            }
            Posted::NoResource | Posted::Down => Step::Full,
        }
    }
}
