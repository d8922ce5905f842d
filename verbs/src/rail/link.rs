//! A link, and how far it is.

use gridnet_core::rail::PeerId;
use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::call::Call;
use crate::conn::{Conn, Remains};
use crate::device::QpNum;

/// A link, from the first call on.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    /// That of the call that made it.
    pub(super) generation: u32,
    /// How long nobody had answered there when it broke.
    pub(super) silent_ns: u64,
    /// Since when something is waited for that has a bound; none before the first look at the clock.
    pub(super) since: Option<Time>,
    pub(super) state: State,
}

impl Link {
    pub(super) fn new(
        peer: PeerId,
        (node, incarnation): (NodeId, u64),
        generation: u32,
        state: State,
    ) -> Link {
        Link { peer, node, incarnation, generation, silent_ns: 0, since: None, state }
    }
}

impl State {
    /// Whether the messages of the link go through this queue pair.
    pub(super) fn is_for(&self, qp: QpNum) -> bool {
        match self {
            State::Settling(conn) | State::Live(conn) | State::Leaving(conn) => conn.qp == qp,
            _ => false,
        }
    }
}

/// How far a link is.
#[derive(Debug)]
pub(super) enum State {
    /// This side calls.
    Calling(Box<Call>),
    /// This side has given way to the other's call.
    Awaiting,
    /// The other has called, and is not ready yet.
    Settling(Box<Conn>),
    /// Frames flow.
    Live(Box<Conn>),
    /// This side has said its last word; what it sent before is on its way.
    Leaving(Box<Conn>),
    /// The connection broke: what the peer may not have.
    Broken(Box<Remains>),
    /// Nothing is left.
    Over,
}
