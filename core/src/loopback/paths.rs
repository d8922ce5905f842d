//! Paths beside the first, between loopback rails: each of its own speed, and each can end by itself.

use std::collections::{HashMap, VecDeque};

use super::{encoded, incoming, Hub, LoopbackRail};
use crate::error::Error;
use crate::mem::PeerBytes;
use crate::rail::{LinkId, PathId, PeerId, Posted, Sink};
use crate::time::Time;
use crate::wire::{Frame, Header, NodeId};

/// What a path holds at most, in time: as a socket's buffer.
const BUFFER_NS: u64 = 4_000_000;

/// The paths of a hub, by connection and number.
#[derive(Debug, Default)]
pub(super) struct Roads {
    by_number: HashMap<(u64, u32), Road>,
    next: u32,
}

#[derive(Debug)]
struct Road {
    ends: [NodeId; 2],
    /// Bytes in a millisecond, in each direction.
    speed: u64,
    /// Towards each end.
    lanes: [Lane; 2],
    /// Which end was told that it is there, and that it is over.
    told: [bool; 2],
    told_over: [bool; 2],
    is_over: bool,
}

#[derive(Debug, Default)]
struct Lane {
    under_way: VecDeque<(Time, Vec<u8>)>,
    free_at: Time,
}

impl Hub {
    /// Opens another path of the connection between two nodes, which carries so many bytes in a millisecond; its number, if there is a connection.
    pub fn open_path(&self, a: NodeId, b: NodeId, speed: u64) -> Option<u32> {
        let mut shared = self.lock();
        let connection = shared.connections.between(a, b)?;
        let roads = &mut shared.roads;
        roads.next += 1;
        let road = Road {
            ends: [a, b],
            speed,
            lanes: Default::default(),
            told: [false; 2],
            told_over: [false; 2],
            is_over: false,
        };
        roads.by_number.insert((connection, roads.next), road);
        Some(roads.next)
    }

    /// Ends a path: of what is under way in each direction only the first so many segments arrive.
    pub fn end_path(&self, number: u32, arrives: usize) {
        let mut shared = self.lock();
        for road in
            shared.roads.by_number.iter_mut().filter(|((_, of), _)| *of == number).map(|(_, road)| road)
        {
            road.is_over = true;
            road.lanes.iter_mut().for_each(|lane| lane.under_way.truncate(arrives));
        }
    }

    /// Numbers of the paths between two nodes.
    pub fn paths_between(&self, a: NodeId, b: NodeId) -> Vec<u32> {
        let shared = self.lock();
        let Some(connection) = shared.connections.between(a, b) else { return Vec::new() };
        let roads = shared.roads.by_number.iter();
        roads
            .filter(|((of, _), road)| *of == connection && !road.is_over)
            .map(|((_, number), _)| *number)
            .collect()
    }
}

/// What happens on a path.
enum News {
    Up,
    Over,
    Segment(Vec<u8>),
}

impl LoopbackRail {
    /// Hands a segment to a path.
    pub(super) fn post_on(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        let Some(link) = self.links.get(path.link.0 as usize).filter(|link| link.up && !link.over) else {
            return Posted::Down;
        };
        let mut shared = self.hub.lock();
        let now = shared.now;
        let Some(road) = shared.roads.by_number.get_mut(&(link.connection, path.number)) else {
            return Posted::Failed(Error::PeerMisbehaved);
        };
        if road.is_over {
            return Posted::Down;
        }
        let speed = road.speed;
        let Some(lane) = road.lane_to(link.node) else { return Posted::Down };
        if lane.free_at > now.after(BUFFER_NS) {
            return Posted::NoResource;
        }
        let Some(bytes) = encoded(frame) else { return Posted::Down };
        lane.free_at = lane.free_at.max(now).after(bytes.len() as u64 * 1_000_000 / speed.max(1));
        lane.under_way.push_back((lane.free_at, bytes));
        Posted::Done
    }

    /// Delivers what has come over paths; returns how much happened.
    pub(super) fn poll_paths<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut happened = 0;
        for at in 0..self.links.len() {
            let link = &self.links[at];
            if !link.up || link.over {
                continue;
            }
            let (peer, connection) = (link.peer, link.connection);
            let numbers = self.hub.lock().roads.numbers_of(connection);
            for number in numbers {
                let path = PathId { link: LinkId(at as u32), number };
                while let Some(news) = self.next_on(connection, number) {
                    happened += 1;
                    if let Err(error) = tell(sink, peer, path, &news) {
                        let node = self.links[at].node;
                        self.misbehaved(node, error, sink);
                        return happened;
                    }
                }
            }
        }
        happened
    }

    fn next_on(&self, connection: u64, number: u32) -> Option<News> {
        let own = self.local.node;
        let mut shared = self.hub.lock();
        let now = shared.now;
        let road = shared.roads.by_number.get_mut(&(connection, number))?;
        let end = road.ends.iter().position(|node| *node == own)?;
        if !std::mem::replace(&mut road.told[end], true) {
            return Some(News::Up);
        }
        if let Some((_, bytes)) = road.lanes[end].under_way.pop_front_if(|(at, _)| *at <= now) {
            return Some(News::Segment(bytes));
        }
        let is_end = road.is_over && road.lanes[end].under_way.is_empty();
        (is_end && !std::mem::replace(&mut road.told_over[end], true)).then_some(News::Over)
    }
}

impl Road {
    fn lane_to(&mut self, node: NodeId) -> Option<&mut Lane> {
        let end = self.ends.iter().position(|end| *end == node)?;
        self.lanes.get_mut(end)
    }
}

impl Roads {
    fn numbers_of(&self, connection: u64) -> Vec<u32> {
        let of = self.by_number.keys().filter(|(of, _)| *of == connection);
        let mut numbers: Vec<u32> = of.map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn tell<S: Sink>(sink: &mut S, peer: PeerId, path: PathId, news: &News) -> Result<(), Error> {
    match news {
        News::Up => sink.path_up(peer, path),
        News::Over => sink.path_over(peer, path),
        News::Segment(bytes) => return deliver(sink, peer, path, bytes),
    }
    Ok(())
}

/// Half of a segment is read to its place, the other half lies in the rail's memory, as on byte streams.
fn deliver<S: Sink>(sink: &mut S, peer: PeerId, path: PathId, bytes: &[u8]) -> Result<(), Error> {
    let Ok(Some((header, len))) = Header::parse(bytes) else { return Err(Error::PeerMisbehaved) };
    let frame = incoming(&header, bytes.get(len..).unwrap_or_default());
    let (op, offset) = (frame.word, frame.extension[0]);
    let payload = bytes.get(len..).unwrap_or_default();
    let (first, second) = payload.split_at(payload.len() / 2);
    if let Some(place) = sink.place_on(peer, path, op, offset, first.len()) {
        let placed = PeerBytes::from_slice(first).copy_to(&place);
        sink.placed_on(peer, path, op, offset, placed)?;
        let offset = offset.wrapping_add(placed as u64);
        return sink.segment_on(peer, path, op, offset, &PeerBytes::from_slice(second));
    }
    sink.segment_on(peer, path, op, offset, &frame.payload)
}
