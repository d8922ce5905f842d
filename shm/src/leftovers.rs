//! What links leave behind whose peers may still read it.
//!
//! A peer that was cut off, and lives, polls its ring and reads the staging buffers named there until it has heard. Memory that
//! served another peer by then would be read as its own messages. So the memory waits until the peer has hung up, or its
//! process has ended. The wait is bounded: a peer that does neither keeps no more than a few rings from the others, and
//! none at all when memory is short.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::arena::{Arena, Staging};
use crate::poller::{Poller, Watched};
use crate::socket;

/// Most links whose memory waits; then the oldest has waited long enough.
const MOST: usize = 32;

/// Memory of the own segment that one peer reads.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Position of the link block in lines.
    pub(crate) block: u32,
    /// Staging buffers that the peer has not given back.
    pub(crate) staging: Vec<Staging>,
}

impl Leftover {
    /// Nobody reads it any more.
    fn give_back(self, arena: &mut Arena) {
        self.staging.into_iter().for_each(|staging| arena.give_staging(staging));
        arena.give_block(self.block);
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    waiting: VecDeque<(OwnedFd, Leftover)>,
}

impl Leftovers {
    /// Takes the memory of a link that is over, with its connection, which ends.
    pub(crate) fn leave(
        &mut self,
        left: Leftover,
        stream: Option<OwnedFd>,
        arena: &mut Arena,
        poller: &Poller,
    ) {
        let Some(stream) = stream else { return left.give_back(arena) };
        if socket::has_left(&stream) {
            socket::hang_up(&stream);
            return left.give_back(arena);
        }
        socket::say_goodbye(&stream);
        // One that cannot be watched is looked at when the clock strikes.
        let _ = poller.watch(&stream, Watched::Leftovers);
        self.waiting.push_back((stream, left));
        if self.waiting.len() > MOST {
            self.give_back_oldest(arena, poller);
        }
    }

    /// Gives the memory back whose peers have gone.
    pub(crate) fn look(&mut self, arena: &mut Arena, poller: &Poller) {
        for _ in 0..self.waiting.len() {
            // In turn: each to the front once.
            if self.waiting.front().is_some_and(|(stream, _)| socket::has_left(stream)) {
                self.give_back_oldest(arena, poller);
            } else {
                self.waiting.rotate_left(1);
            }
        }
    }

    /// Gives all back, since those who behave need it; whether there was any.
    #[cold]
    pub(crate) fn give_all_back(&mut self, arena: &mut Arena, poller: &Poller) -> bool {
        let any = !self.waiting.is_empty();
        while !self.waiting.is_empty() {
            self.give_back_oldest(arena, poller);
        }
        any
    }

    /// True when nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn give_back_oldest(&mut self, arena: &mut Arena, poller: &Poller) {
        if let Some((stream, left)) = self.waiting.pop_front() {
            // A forked child may hold a copy, which would keep connection and watch alive beyond our close.
            poller.forget(&stream);
            socket::hang_up(&stream);
            left.give_back(arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::MAX_EAGER;
    use crate::open::{link_up, open_rail, Open, Scratch};
    use crate::rail::ShmRail;
    use gridnet_core::error::Error;
    use gridnet_core::mem::{Gather, Iov};
    use gridnet_core::rail::{LinkId, Posted, Rail, Refusal};
    use gridnet_core::time::Time;
    use gridnet_core::wire::{Frame, Message};

    /// A rail that cuts the link of this index off; its peer has not heard of it.
    fn cut_off(rail: &mut ShmRail, index: u32) {
        rail.finish(index, Refusal::new(Error::PeerMisbehaved, "as a test wants it"), &mut Open::default());
    }

    fn maintain(rail: &mut ShmRail) {
        rail.maintain(Time(0), &mut Open::default());
    }

    #[test]
    fn a_ring_serves_nobody_else_while_its_peer_may_read_it() {
        let dir = Scratch::new("leftovers");
        let mut rail = open_rail(&dir.0, 1);
        let (mut first, mut second) = (open_rail(&dir.0, 2), open_rail(&dir.0, 3));
        link_up(&mut first, &mut rail);
        let bytes = [7u8; MAX_EAGER];
        // SAFETY: an array that is only read.
        let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
        assert_eq!(rail.post(LinkId(0), &Frame::eager(1, Gather::one(&iov))), Posted::Done);

        cut_off(&mut rail, 0);
        maintain(&mut rail);
        link_up(&mut second, &mut rail);
        assert_ne!(rail.links[1].block, rail.links[0].block, "the first still reads it");
        // What had been sent to it is as it was.
        let others = [9u8; MAX_EAGER];
        // SAFETY: as above.
        let iov = unsafe { Iov::new(others.as_ptr().cast_mut(), others.len()) };
        assert_eq!(rail.post(LinkId(1), &Frame::eager(2, Gather::one(&iov))), Posted::Done);
        let mut sink = Open::default();
        first.poll(64, &mut sink);
        assert_eq!(sink.frames, [(1, Some(7))]);

        // It hears, and hangs up.
        maintain(&mut first);
        assert!(first.links[0].over);
        maintain(&mut rail);
        assert!(rail.leftovers.is_empty());
        let mut third = open_rail(&dir.0, 4);
        link_up(&mut third, &mut rail);
        assert_eq!(rail.links[2].block, rail.links[0].block, "it serves again");
    }

    #[test]
    fn a_peer_that_never_hangs_up_keeps_a_bounded_number_of_rings() {
        let dir = Scratch::new("many-leftovers");
        let mut rail = open_rail(&dir.0, 1);
        let mut peers = Vec::new();
        for number in 0..MOST as u32 + 8 {
            let mut peer = open_rail(&dir.0, 2 + number as u8);
            link_up(&mut peer, &mut rail);
            cut_off(&mut rail, number);
            peers.push(peer);
        }
        assert_eq!(rail.leftovers.waiting.len(), MOST);
        // Eight of the first ten have given way to later ones; the end of the others is seen without the clock.
        drop(peers.drain(..10));
        maintain(&mut rail);
        assert_eq!(rail.leftovers.waiting.len(), MOST - 2);
    }

    #[test]
    fn memory_that_is_short_goes_to_those_who_behave() {
        let dir = Scratch::new("short-leftovers");
        let mut rail = open_rail(&dir.0, 1);
        let (mut first, mut second) = (open_rail(&dir.0, 2), open_rail(&dir.0, 3));
        link_up(&mut first, &mut rail);
        link_up(&mut second, &mut rail);
        let bytes = vec![7u8; crate::arena::MAX_STAGING];
        // SAFETY: a vector that is only read.
        let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
        let segment = || Message::Segment { op: 1, offset: 0 }.frame(Gather::one(&iov));
        let mut held = 0;
        while rail.post(LinkId(0), &segment()) == Posted::Done {
            held += 1;
        }
        assert!(held >= 4 && rail.arena.shortage().is_some(), "the segment is full");
        cut_off(&mut rail, 0);
        assert!(!rail.leftovers.is_empty());
        assert_eq!(rail.post(LinkId(1), &segment()), Posted::Done);
        assert!(rail.leftovers.is_empty());
    }

    #[test]
    fn what_was_sent_before_the_end_is_thrown_away() {
        let dir = Scratch::new("chatty-leftovers");
        let mut rail = open_rail(&dir.0, 1);
        let mut peer = open_rail(&dir.0, 2);
        link_up(&mut peer, &mut rail);
        // A heap, which nobody hears any more.
        peer.allocate_region(64, gridnet_core::mem::NUMA_UNKNOWN).unwrap();
        cut_off(&mut rail, 0);
        drop(peer);
        maintain(&mut rail);
        assert!(rail.leftovers.is_empty());
    }
}
