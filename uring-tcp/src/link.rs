//! A link, and how far it is.

use gridnet_core::rail::PeerId;
use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::call::Call;
use crate::conn::Conn;
use crate::out::Out;
use crate::paths::{PathOf, Paths};

/// A link, from the first call on.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// That of the call that made it.
    pub(crate) generation: u32,
    /// Addresses that did not do, and why, once the call has come through.
    pub(crate) tried: Vec<String>,
    /// How long nobody had answered there when it broke.
    pub(crate) silent_ns: u64,
    /// Its paths beside the first, where there may be some.
    pub(crate) paths: Option<Box<Paths>>,
    /// It is no link of its own, but a further path of one.
    pub(crate) part_of: Option<PathOf>,
    pub(crate) state: State,
}

/// How far a link is.
#[derive(Debug)]
pub(crate) enum State {
    /// This side calls.
    Calling(Box<Call>),
    /// This side has given way to the other's call, since when.
    Awaiting(Option<Time>),
    /// Frames flow.
    Live(Box<Conn>),
    /// The connection broke: what the peer may not have, and frames that were delivered.
    Broken(Box<Out>, u64),
    /// Nothing is left.
    Over,
}
