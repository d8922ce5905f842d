//! Connections that the ring receives for, where the configuration asks for that.
//!
//! Such a connection is neither hot nor cold: the kernel fills buffers with what comes, and says so. Large messages would be
//! copied twice then, so while segments come the connection is taken from the ring and read by plain calls, straight to their
//! place; it goes back once none has come for some hundred rounds. What TLS seals is read by plain calls anyway: it is opened
//! from a buffer of its own.

use gridnet_core::rail::Sink;

use super::hot::{note_received, HOT_LINKS};
use super::TcpRail;
use crate::conn::Source;
use crate::frame_in::Ended;
use crate::link::State;
use crate::path::feed_on;
use crate::watch::Arrival;

/// Bytes of a segment that are still to come for which it is worth while to read them by plain calls.
const LARGE_BYTES: usize = 32 << 10;

impl TcpRail {
    /// Whether the ring receives for a connection from now on, or does so already.
    pub(super) fn arm_receive(&mut self, index: u32) -> bool {
        let Some(ring) = self.watcher.receiver() else { return false };
        // Who polls without having said that nobody sleeps any more: two that read would mix up the bytes.
        if self.hot.contains(&index) {
            return false;
        }
        let Some(State::Live(conn)) = self.links.get_mut(index as usize).map(|link| &mut link.state) else {
            return false;
        };
        if conn.source != Source::Calls {
            return true;
        }
        let stream = &conn.line.stream;
        // Why a connection broke is found by reading.
        if stream.is_sealed() || conn.is_broken() {
            return false;
        }
        let Some(turn) = ring.receive(stream, index) else { return false };
        (conn.source, conn.turn) = (Source::Ring, turn);
        true
    }

    /// Has a connection read by plain calls again, as soon as the ring has let go of it; true if that is still to come.
    pub(super) fn leave_ring(&mut self, index: u32) -> bool {
        let Some(State::Live(conn)) = self.links.get_mut(index as usize).map(|link| &mut link.state) else {
            return false;
        };
        if conn.source == Source::Ring {
            // It leaves with the other requests of the round.
            if self.watcher.receiver().is_some_and(|ring| ring.stop_receiving(index, conn.turn)) {
                conn.source = Source::RingStill;
            }
        }
        conn.source != Source::Calls
    }

    /// Something has come by the ring, or nothing will any more; returns how many frames.
    pub(super) fn attend_arrival<S: Sink>(&mut self, index: u32, arrival: Arrival, sink: &mut S) -> usize {
        let mut taken = self.deliver(index, arrival, sink);
        if let Some(ring) = self.watcher.receiver() {
            ring.give_back(arrival);
        }
        let (has_room, is_over) = (self.hot.len() < HOT_LINKS, self.is_over(index));
        let Some(conn) = self.conn(index).filter(|conn| !is_over && conn.is_received_in(arrival.turn)) else {
            return taken;
        };
        let is_large = conn.inbox.segment_left() >= LARGE_BYTES;
        if !arrival.is_last {
            if is_large && has_room {
                self.leave_ring(index);
            }
            return taken;
        }
        // Who was asked to leave does so, wherever in a segment the end has come.
        let leaves = is_large || conn.source == Source::RingStill;
        conn.source = Source::Calls;
        match -arrival.result {
            0 => self.end(index, Ended::Closed),
            // There was no buffer, or it was asked for: some of what has come may still be in the kernel.
            ..0 | libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                taken += self.go_on_without(index, leaves, sink);
            }
            number => self.end(index, Ended::Broken(std::io::Error::from_raw_os_error(number))),
        }
        taken
    }

    /// The ring has let go of a connection that goes on.
    fn go_on_without<S: Sink>(&mut self, index: u32, leaves: bool, sink: &mut S) -> usize {
        self.check_broken(index);
        if leaves {
            self.heat(index);
        }
        if self.conn(index).is_some_and(|conn| conn.is_hot) {
            return self.receive(index, sink);
        }
        self.watch_cold(index);
        0
    }

    /// Whether a link has come to its end in this round: nothing that comes behind counts, and it ends for one reason.
    fn is_over(&self, index: u32) -> bool {
        self.ended.iter().any(|(of, ended)| *of == index && !matches!(ended, Ended::Path(_)))
    }

    /// Hands over the bytes of an arrival; returns how many frames.
    fn deliver<S: Sink>(&mut self, index: u32, arrival: Arrival, sink: &mut S) -> usize {
        if self.is_over(index) {
            return 0;
        }
        let Some(ring) = self.watcher.receiver() else { return 0 };
        let bytes = ring.bytes(arrival);
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let part_of = link.part_of();
        let State::Live(conn) = &mut link.state else { return 0 };
        if bytes.is_empty() || !conn.is_received_in(arrival.turn) {
            return 0;
        }
        let received = match part_of {
            None => conn.feed(bytes, &mut self.scratch, link.peer, sink),
            Some(path) => feed_on(conn, path.id(), bytes, &mut self.scratch, link.peer, sink),
        };
        note_received(conn, index, received, &mut self.ended, &mut self.owing)
    }
}
