//! One peer: its two rings, the connection to it, and the bells.

use std::os::fd::OwnedFd;

use super::greeting::{self, Said};
use super::segment::{Push, Segment};

pub(super) use super::segment::Taken;

/// Bells that are taken in one go: one is as good as many, and a peer that sends on and on keeps nobody.
const BELLS: usize = 16;

/// See the file.
pub(super) struct Link {
    peer: u64,
    stream: OwnedFd,
    segment: Segment,
    /// The peer has gone, or misbehaves: nothing is sent to it any more; what it has sent is still taken.
    over: bool,
    /// The last look found no room.
    full: bool,
}

impl Link {
    pub(super) fn new(peer: u64, stream: OwnedFd, segment: Segment) -> Link {
        Link { peer, stream, segment, over: false, full: false }
    }

    pub(super) fn peer(&self) -> u64 {
        self.peer
    }

    pub(super) fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the bells that came; false when there will be none any more.
    pub(super) fn listen(&mut self) -> bool {
        for _ in 0..BELLS {
            match greeting::hear(&self.stream) {
                Said::Nothing => break,
                Said::Bell => {}
                Said::Hello(..) | Said::Closed => self.over = true,
            }
        }
        !self.over
    }

    /// False when there is no room.
    pub(super) fn send(&mut self, packet: &[u8]) -> bool {
        if self.over {
            return true;
        }
        match self.segment.push(packet) {
            Push::Done => {}
            Push::Full => {
                self.full = true;
                return false;
            }
            Push::Corrupt => {
                self.over = true;
                return true;
            }
        }
        self.ring();
        true
    }

    /// True also when it does not matter any more.
    pub(super) fn has_room(&mut self) -> bool {
        match self.segment.has_room() {
            Some(room) => self.full = !room,
            None => self.over = true,
        }
        self.over || !self.full
    }

    /// Takes the next packet.
    pub(super) fn take(&mut self, packet: &mut Vec<u8>) -> Taken {
        let taken = self.segment.take(packet);
        if taken == Taken::Packet && self.segment.has_told() {
            // It may sleep until there is room.
            self.ring();
        }
        taken
    }

    fn ring(&mut self) {
        if self.segment.must_ring() {
            greeting::ring(&self.stream);
        }
    }

    /// Announces that this side sleeps.
    pub(super) fn arm(&mut self) {
        self.segment.arm();
    }

    /// Announces that this side works.
    pub(super) fn disarm(&mut self) {
        self.segment.disarm();
    }

    /// Whether there is something to do: a packet, or room that was missing.
    pub(super) fn has_something(&mut self) -> bool {
        self.segment.has_packet() || (self.full && self.has_room())
    }
}
