//! Several paths at a time: who receives a large message chooses which piece of it comes over which path.
//!
//! Two pieces are under way on each path, and the path that has delivered one is asked for the next: so paths share by their
//! speed, which shows in what they deliver. No clock is needed. Pieces grow while a path delivers, and get shorter as less is
//! missing; a path that would deliver its piece long after all else has come is left out.
//!
//! The pieces of a path that ends are asked for again over the others.
//!
//! The users of this side, whose receives the messages are for, have their turns by bytes, as those of a sender (`bulk.rs`). Which
//! user of the other side has sent a message is not told.

use std::ops::Range;

use super::bulk::Bulk;
use super::op::Incoming;
use super::state::State;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{LinkId, PathId, PeerId};
use crate::wire::Message;

/// Shortest message that is divided: below, a second request costs more than a second path gains.
const DIVIDED_MIN: u64 = 128 << 10;
/// Shortest piece, unless less is left: what a path of 100 Mbit/s carries in 3 ms.
const PIECE_MIN: u64 = 32 << 10;
/// Longest piece of a path that has delivered none yet.
const PIECE_FIRST: u64 = 64 << 10;
/// Longest piece: two of them are what is under way at 1 Gbit/s and 67 ms.
const PIECE_MAX: u64 = 4 << 20;
/// Pieces under way on each path: while one comes the request for the next is on its way.
const PIECES: u32 = 2;
/// Bytes that all paths have delivered when half of what is known of their speeds is forgotten.
const MEMORY: u64 = 16 << 20;
/// However little it has delivered, a path counts as one that carries this part: else it would never show that it is faster now.
const SMALLEST_SHARE: u64 = 1024;

/// Of a message that comes over several paths: what was not asked for.
#[derive(Debug)]
pub(super) struct Missing {
    rest: Range<u64>,
    /// What paths that are over did not deliver.
    lost: Vec<Range<u64>>,
}

impl Missing {
    fn len(&self) -> u64 {
        self.lost.iter().chain([&self.rest]).map(|range| range.end - range.start).sum()
    }

    /// Takes a piece of about `most` bytes.
    fn take(&mut self, most: u64) -> Range<u64> {
        let mut from = self.lost.pop().unwrap_or_else(|| std::mem::replace(&mut self.rest, 0..0));
        let piece = from.start..from.end.min(from.start + most);
        from.start = piece.end;
        if self.rest.is_empty() {
            self.rest = from;
        } else if !from.is_empty() {
            self.lost.push(from);
        }
        piece
    }
}

/// A path, as the receiver sees it.
#[derive(Debug)]
struct Way {
    number: u32,
    /// Pieces that were asked for over it and have not all come, and their bytes.
    pieces: u32,
    bytes: u64,
    /// The longest piece that it is asked for.
    longest: u64,
    /// Bytes that it has delivered while others had something to do, too; those that came long ago count less.
    delivered: u64,
}

impl Way {
    fn new(number: u32) -> Way {
        Way { number, pieces: 0, bytes: 0, longest: PIECE_FIRST, delivered: 0 }
    }
}

/// A piece that was asked for.
#[derive(Debug)]
struct Asked {
    path: u32,
    message: Key,
    range: Range<u64>,
}

/// All that is asked for in pieces of one peer.
#[derive(Debug)]
pub(super) struct Stripes {
    /// The first path of the link, and then the others.
    ways: Vec<Way>,
    asked: Vec<Asked>,
    /// Messages of which something was not asked for, by users and in turn.
    line: Bulk,
    /// How much that is.
    missing: u64,
}

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes { ways: vec![Way::new(0)], asked: Vec::new(), line: Bulk::default(), missing: 0 }
    }
}

impl Stripes {
    /// Another link, or none: it has one path, of which nothing is known. What was asked for is not forgotten before
    /// [`Self::ask_again`]: until the old link is fenced it may still come.
    pub(super) fn begin_link(&mut self) {
        self.ways = vec![Way::new(0)];
    }

    pub(super) fn is_wide(&self) -> bool {
        self.ways.len() > 1
    }

    /// The path over which the next piece comes soonest, and the length of the piece; `None` while it is better to wait until one
    /// has delivered what it was asked for.
    fn choose(&self) -> Option<(usize, u64)> {
        let delivered: u64 = self.ways.iter().map(|way| way.delivered).sum();
        let speed = |way: &Way| u128::from(way.delivered.max(delivered / SMALLEST_SHARE).max(1));
        let total: u128 = self.ways.iter().map(speed).sum();
        let fastest = self.ways.iter().map(speed).max()?;
        let ahead = u128::from(self.missing + self.ways.iter().map(|way| way.bytes).sum::<u64>());
        let free = self.ways.iter().enumerate().filter(|(_, way)| way.pieces < PIECES);
        let piece = |way: &Way| {
            let share = (u128::from(self.missing) * speed(way) / total / 2) as u64;
            share.clamp(PIECE_MIN, way.longest)
        };
        // Bytes over speed is when it is done. All together are done when what is ahead has come at the speed of all; half as
        // much again is borne with.
        let is_in_time = |way: &Way| {
            let done = u128::from(way.bytes + piece(way));
            speed(way) == fastest || done * total * 2 <= 3 * ahead * speed(way)
        };
        let soonest = free.filter(|(_, way)| is_in_time(way)).min_by(|(_, a), (_, b)| {
            let done = |way: &Way, other: &Way| u128::from(way.bytes + piece(way)) * speed(other);
            done(a, b).cmp(&done(b, a))
        });
        soonest.map(|(at, way)| (at, piece(way)))
    }

    /// Notes that a piece was asked for; the number of its path.
    fn ask(&mut self, at: usize, message: Key, range: Range<u64>) -> u32 {
        let len = range.end - range.start;
        self.missing -= len;
        let way = &mut self.ways[at];
        way.pieces += 1;
        way.bytes += len;
        self.asked.push(Asked { path: way.number, message, range });
        way.number
    }

    /// The piece whose next `len` bytes come over this path.
    fn find(&self, path: u32, message: Key, offset: u64, len: usize) -> Option<usize> {
        self.asked.iter().position(|asked| {
            (asked.path, asked.message, asked.range.start) == (path, message, offset)
                && len as u64 <= asked.range.end - offset
        })
    }

    /// Bytes of a piece have come; true when all of it has.
    fn deliver(&mut self, piece: usize, len: usize) -> bool {
        let len = len as u64;
        let asked = &mut self.asked[piece];
        asked.range.start += len;
        let (path, is_over) = (asked.path, asked.range.is_empty());
        if is_over {
            self.asked.swap_remove(piece);
        }
        let Some(at) = self.ways.iter().position(|way| way.number == path) else { return is_over };
        // What comes while no other path has anything to do says nothing about which is faster.
        let is_race = self.ways.iter().any(|way| way.number != path && way.pieces > 0);
        let way = &mut self.ways[at];
        way.delivered += if is_race { len } else { 0 };
        way.bytes = way.bytes.saturating_sub(len);
        if is_over {
            way.pieces = way.pieces.saturating_sub(1);
            way.longest = (way.longest * 2).min(PIECE_MAX);
        }
        if self.ways.iter().map(|way| way.delivered).sum::<u64>() > MEMORY {
            self.ways.iter_mut().for_each(|way| way.delivered /= 2);
        }
        is_over
    }

    /// Takes back what was asked for and `is_meant`.
    fn take_back(&mut self, is_meant: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let (taken, kept) = std::mem::take(&mut self.asked).into_iter().partition(is_meant);
        self.asked = kept;
        for Asked { path, range, .. } in &taken {
            if let Some(way) = self.ways.iter_mut().find(|way| way.number == *path) {
                way.pieces = way.pieces.saturating_sub(1);
                way.bytes = way.bytes.saturating_sub(range.end - range.start);
            }
        }
        taken
    }
}

impl State {
    /// Asks for an announced message, from the first byte that has not come: in pieces where there are several paths.
    pub(super) fn ask(&mut self, key: Key) {
        let State { peers, incoming, .. } = self;
        let Some(found) = incoming.get_mut(key) else { return };
        let (peer, op, rest) = (found.peer, found.sender_op, found.received..found.wanted);
        let stripes = peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut());
        let len = rest.end - rest.start;
        match stripes.filter(|stripes| stripes.is_wide() && len >= DIVIDED_MIN) {
            Some(stripes) => {
                found.missing = Some(Box::new(Missing { rest, lost: Vec::new() }));
                stripes.missing += len;
                stripes.line.push(found.receive.cq, key);
                self.ask_for_pieces(peer);
            }
            None => {
                let offset = rest.start;
                self.say(peer, Message::Rtr { op, receiver_op: key.to_bits(), offset, len, path: 0 });
            }
        }
    }

    /// Asks for as many pieces as are to be under way.
    fn ask_for_pieces(&mut self, peer: PeerId) {
        let State { peers, incoming, .. } = self;
        let Some(p) = peers.get_mut(peer.index()) else { return };
        let Some(stripes) = &mut p.stripes else { return };
        while let Some(key) = stripes.line.front() {
            let message = incoming.get_mut(key).and_then(|i| Some((i.sender_op, i.missing.as_mut()?)));
            let Some((op, missing)) = message.filter(|(_, missing)| missing.len() > 0) else {
                stripes.line.turn(0, false);
                continue;
            };
            let Some((at, most)) = stripes.choose() else { break };
            let range = missing.take(most);
            let (offset, len, stays) = (range.start, range.end - range.start, missing.len() > 0);
            let path = stripes.ask(at, key, range);
            p.urgent.push_back(Message::Rtr { op, receiver_op: key.to_bits(), offset, len, path });
            stripes.line.turn(usize::try_from(len).unwrap_or(usize::MAX), stays);
        }
        self.schedule(peer);
    }

    /// Whether the next bytes of a message that is divided come over this path.
    pub(super) fn is_piece(
        &self,
        incoming: &Incoming,
        (path, op): (u32, u64),
        offset: u64,
        len: usize,
    ) -> bool {
        let stripes = self.peers.get(incoming.peer.index()).and_then(|p| p.stripes.as_ref());
        let key = Key::from_bits(op);
        stripes.is_some_and(|stripes| len != 0 && stripes.find(path, key, offset, len).is_some())
    }

    /// Bytes of a piece have come.
    pub(super) fn note_piece(&mut self, peer: PeerId, (path, op): (u32, u64), offset: u64, len: usize) {
        let stripes = self.peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut());
        let Some(stripes) = stripes else { return };
        let piece = stripes.find(path, Key::from_bits(op), offset, len);
        if piece.is_some_and(|piece| stripes.deliver(piece, len)) && stripes.missing > 0 {
            self.ask_for_pieces(peer);
        }
    }

    /// A message that was divided has come to its end, perhaps before its time: nothing of it is waited for any more.
    pub(super) fn end_pieces(&mut self, peer: PeerId, key: Key, missing: &Missing) {
        let stripes = self.peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut());
        let Some(stripes) = stripes else { return };
        if missing.len() > 0 {
            stripes.missing -= missing.len().min(stripes.missing);
            stripes.line.remove(key);
        }
        if !stripes.take_back(|asked| asked.message == key).is_empty() {
            self.ask_for_pieces(peer);
        }
    }

    /// Whether a path belongs to the present link of a peer.
    fn is_of_present_link(&self, peer: PeerId, rail: usize, link: LinkId) -> bool {
        self.peers.get(peer.index()).is_some_and(|p| (p.rail, p.link) == (rail, link))
    }

    /// Pieces may come over another path.
    pub(super) fn path_up(&mut self, peer: PeerId, rail: usize, path: PathId) {
        if !self.is_of_present_link(peer, rail, path.link) {
            return;
        }
        let Some(p) = self.peers.get_mut(peer.index()) else { return };
        p.stripes.get_or_insert_default().ways.push(Way::new(path.number));
        self.fresh.push(peer);
        if !self.wide.contains(&peer) {
            self.wide.push(peer);
        }
        self.ask_for_pieces(peer);
    }

    /// Nothing comes over a path any more: what it owes is asked for elsewhere.
    pub(super) fn path_over(&mut self, peer: PeerId, rail: usize, path: PathId) {
        if !self.is_of_present_link(peer, rail, path.link) {
            return;
        }
        let Some(stripes) = self.peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut()) else { return };
        let owed = stripes.take_back(|asked| asked.path == path.number);
        stripes.ways.retain(|way| way.number != path.number);
        self.lose_pieces(peer, owed);
        self.fresh.push(peer);
        self.ask_for_pieces(peer);
    }

    fn lose_pieces(&mut self, peer: PeerId, pieces: Vec<Asked>) {
        let State { peers, incoming, .. } = self;
        let Some(stripes) = peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut()) else { return };
        for Asked { message, range, .. } in pieces {
            let Some(found) = incoming.get_mut(message) else { continue };
            let Some(missing) = &mut found.missing else { continue };
            stripes.missing += range.end - range.start;
            if missing.len() == 0 {
                stripes.line.push(found.receive.cq, message);
            }
            missing.lost.push(range);
        }
    }

    /// A new link carries the conversation: what was asked for over the old one, and did not come, is asked for there.
    pub(super) fn ask_for_pieces_again(&mut self, peer: PeerId) {
        let Some(stripes) = self.peers.get_mut(peer.index()).and_then(|p| p.stripes.as_mut()) else { return };
        let owed = stripes.take_back(|_| true);
        for way in &mut stripes.ways {
            (way.pieces, way.bytes) = (0, 0);
        }
        self.lose_pieces(peer, owed);
        self.ask_for_pieces(peer);
    }

    /// Where the next bytes of a piece belong that come over a path beside the first.
    pub(super) fn place_on(
        &mut self,
        peer: PeerId,
        (rail, path): (usize, PathId),
        op: u64,
        offset: u64,
        len: usize,
    ) -> Option<Gather<'_>> {
        let is_present = self.is_of_present_link(peer, rail, path.link);
        is_present.then(|| self.place_segment(peer, path.number, op, offset, len)).flatten()
    }

    /// The rail has put bytes there. Of a link that was left everything is asked for again, as in [`Self::take_segment_on`].
    pub(super) fn take_placed_on(
        &mut self,
        peer: PeerId,
        (rail, path): (usize, PathId),
        op: u64,
        offset: u64,
        len: usize,
    ) -> Result<(), Error> {
        if !self.is_of_present_link(peer, rail, path.link) {
            return Ok(());
        }
        self.take_placed(peer, path.number, op, offset, len)
    }

    /// A part of a piece has come over a path beside the first.
    pub(super) fn take_segment_on(
        &mut self,
        peer: PeerId,
        (rail, path): (usize, PathId),
        op: u64,
        offset: u64,
        payload: &PeerBytes<'_>,
    ) -> Result<(), Error> {
        // Paths are in no order with one another: the sender may have given the message up over the first one meanwhile, and of
        // a link that was left everything is asked for again.
        let is_late = self.incoming.get(Key::from_bits(op)).is_none();
        if is_late || !self.is_of_present_link(peer, rail, path.link) {
            return Ok(());
        }
        self.take_segment(peer, path.number, op, offset, payload)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::matching::Slab;

    const MIB: u64 = 1 << 20;

    /// Delivers a message of `len` bytes over paths of these speeds, in bytes per ms, as fast as they can; how long it took in ms, and how much each
    /// has carried.
    fn run(stripes: &mut Stripes, speeds: &[u64], len: u64) -> (u64, Vec<u64>) {
        let key = Slab::default().insert(());
        let mut missing = Missing { rest: 0..len, lost: Vec::new() };
        stripes.missing = len;
        let mut carried = vec![0; speeds.len()];
        let mut time = 0;
        let mut left = len;
        while left > 0 {
            while missing.len() > 0 {
                let Some((at, most)) = stripes.choose() else { break };
                let range = missing.take(most);
                assert!(!range.is_empty());
                stripes.ask(at, key, range);
            }
            assert!(!stripes.asked.is_empty(), "something is always under way");
            time += 1;
            for (path, speed) in speeds.iter().enumerate() {
                let mut room = *speed;
                while room > 0 {
                    let first = stripes.asked.iter().position(|asked| asked.path == path as u32);
                    let Some(first) = first else { break };
                    let range = stripes.asked[first].range.clone();
                    let part = room.min(range.end - range.start);
                    room -= part;
                    left -= part;
                    carried[path] += part;
                    stripes.deliver(first, part as usize);
                }
            }
        }
        assert_eq!((stripes.missing, stripes.ways.iter().map(|way| way.bytes).sum::<u64>()), (0, 0));
        (time, carried)
    }

    fn over(paths: u32) -> Stripes {
        let mut stripes = Stripes::default();
        stripes.ways.extend((1..paths).map(Way::new));
        stripes
    }

    #[test]
    fn paths_share_by_their_speed() {
        for speeds in [[12_500, 37_500], [37_500, 12_500], [100_000, 100_000], [125_000, 5_000]] {
            let mut stripes = over(2);
            let (time, carried) = run(&mut stripes, &speeds, 64 * MIB);
            let ideal = 64 * MIB / (speeds[0] + speeds[1]);
            assert!(time <= ideal * 105 / 100 + 4, "{speeds:?}: {time} ms instead of {ideal}, {carried:?}");
        }
    }

    #[test]
    fn a_slow_path_keeps_nobody_waiting() {
        for slow in [100, 500, 10_000] {
            let mut stripes = over(2);
            for _ in 0..8 {
                run(&mut stripes, &[100_000, slow], 8 * MIB);
            }
            for len in [DIVIDED_MIN, MIB, 8 * MIB] {
                let (time, carried) = run(&mut stripes, &[100_000, slow], len);
                let alone = len.div_ceil(100_000);
                assert!(
                    time <= alone + alone / 2 + 3,
                    "{slow}: {len} in {time} ms, {alone} alone, {carried:?}"
                );
            }
        }
    }

    #[test]
    fn a_path_that_gets_faster_is_noticed() {
        let mut stripes = over(2);
        run(&mut stripes, &[100_000, 1_000], 64 * MIB);
        run(&mut stripes, &[100_000, 100_000], 64 * MIB);
        let (time, carried) = run(&mut stripes, &[100_000, 100_000], 64 * MIB);
        assert!(time <= 64 * MIB / 200_000 * 110 / 100, "{time} ms, {carried:?}");
    }

    #[test]
    fn what_is_missing_is_taken_once() {
        let mut missing = Missing { rest: 0..100, lost: vec![200..220, 220..230] };
        let mut taken = Vec::new();
        while missing.len() > 0 {
            taken.push(missing.take(40));
        }
        taken.sort_by_key(|range| range.start);
        assert_eq!(taken, [0..40, 40..80, 80..100, 200..220, 220..230]);
    }
}
