//! Connections that break, between loopback rails that retain.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::error::Error;
use crate::time::Time;
use crate::wire::{is_sequenced, Header, Incoming, NodeId};

/// Frames that a link keeps at most; then there is no room. As rails bound bytes, a link may keep fewer than the one before.
const MAX_KEPT: [usize; 2] = [96, 24];

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// So much of what is on its way from the first to the second still arrives, and in the other direction.
    pub arrives: [usize; 2],
    /// Nanoseconds until the first and the second notice, if nothing tells them earlier.
    pub unnoticed_ns: [u64; 2],
}

/// What a hub knows of connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    next: u64,
    /// The newest between two nodes.
    live: HashMap<(NodeId, NodeId), u64>,
    /// Those that were cut, when, and when each end notices.
    cut: HashMap<u64, (Time, [(NodeId, Time); 2])>,
    /// Sequenced frames that a node says to have got over a connection.
    acknowledged: HashMap<(u64, NodeId), u64>,
    /// Pairs between which no connection can be made.
    parted: HashSet<(NodeId, NodeId)>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Connections {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn note_up(&mut self, a: NodeId, b: NodeId, connection: u64) {
        self.live.insert(pair(a, b), connection);
    }

    /// The connection that is cut from now on, if there is one.
    pub(super) fn cut(&mut self, now: Time, a: NodeId, b: NodeId, notice: [Time; 2]) -> Option<u64> {
        let connection = self.live.remove(&pair(a, b))?;
        self.cut.insert(connection, (now, [(a, notice[0]), (b, notice[1])]));
        Some(connection)
    }

    /// The newest connection between two nodes.
    pub(super) fn between(&self, a: NodeId, b: NodeId) -> Option<u64> {
        self.live.get(&pair(a, b)).copied()
    }

    /// One end has fenced a connection: the other notices at once.
    pub(super) fn end(&mut self, now: Time, connection: u64, ends: [NodeId; 2]) {
        self.live.retain(|_, live| *live != connection);
        self.cut.entry(connection).or_insert((now, ends.map(|node| (node, Time(0)))));
    }

    pub(super) fn is_cut(&self, connection: u64) -> bool {
        self.cut.contains_key(&connection)
    }

    /// Whether a node has noticed by now that a connection was cut.
    pub(super) fn is_noticed(&self, connection: u64, node: NodeId, now: Time) -> bool {
        let cut = self.cut.get(&connection);
        cut.is_some_and(|(_, ends)| ends.iter().any(|(of, at)| *of == node && *at <= now))
    }

    /// How long a connection has been cut.
    pub(super) fn silent_ns(&self, connection: u64, now: Time) -> u64 {
        self.cut.get(&connection).map_or(0, |(since, _)| now.since(*since))
    }

    pub(super) fn part(&mut self, a: NodeId, b: NodeId, parted: bool) {
        if parted {
            self.parted.insert(pair(a, b));
        } else {
            self.parted.remove(&pair(a, b));
        }
    }

    pub(super) fn are_parted(&self, a: NodeId, b: NodeId) -> bool {
        self.parted.contains(&pair(a, b))
    }

    pub(super) fn acknowledge(&mut self, connection: u64, node: NodeId, count: u64) {
        self.acknowledged.insert((connection, node), count);
    }

    pub(super) fn acknowledged(&self, connection: u64, by: NodeId) -> u64 {
        self.acknowledged.get(&(connection, by)).copied().unwrap_or(0)
    }
}

/// What a link has sent and got: counted, and the former kept until it was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Books {
    posted: u64,
    pub(super) delivered: u64,
    kept: VecDeque<Vec<u8>>,
}

impl Books {
    /// Forgets what the peer has got.
    pub(super) fn settle(&mut self, acknowledged: u64) {
        while self.posted - (self.kept.len() as u64) < acknowledged {
            if self.kept.pop_front().is_none() {
                return;
            }
        }
    }

    pub(super) fn is_full(&self, connection: u64) -> bool {
        self.kept.len() >= MAX_KEPT[(connection % 2) as usize]
    }

    pub(super) fn keep(&mut self, kind: u8, bytes: &[u8]) {
        if is_sequenced(kind) {
            self.posted += 1;
            self.kept.push_back(bytes.to_vec());
        }
    }

    pub(super) fn retained(&self, after: u64, each: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Error> {
        let acknowledged = self.posted - self.kept.len() as u64;
        if after < acknowledged || after > self.posted {
            return Err(Error::PeerMisbehaved);
        }
        for bytes in self.kept.iter().skip((after - acknowledged) as usize) {
            let Ok(Some((header, len))) = Header::parse(bytes) else { return Err(Error::Internal) };
            each(super::incoming(&header, bytes.get(len..).unwrap_or_default()));
        }
        Ok(())
    }
}
