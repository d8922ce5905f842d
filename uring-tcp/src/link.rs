//! A link, and how far it is.

use gridnet_core::rail::PeerId;
use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::call::Call;
use crate::conn::Conn;
use crate::out::Out;
use crate::paths::{PathOf, Paths};
use crate::unheard::Unheard;

/// A link, from the first call on.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// That of the call that made it.
    pub(crate) generation: u32,
    role: Role,
    pub(crate) state: State,
}

/// What an entry of the rail's table is.
#[derive(Debug)]
enum Role {
    /// A link.
    Whole(Whole),
    /// No link of its own, but a further path of one.
    Path(PathOf),
}

/// What only links have, and not their further paths.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Addresses that did not do, and why, once the call has come through.
    pub(crate) tried: Vec<String>,
    /// How long nobody had answered there when it broke.
    pub(crate) silent_ns: u64,
    /// Its paths beside the first, where there may be some.
    pub(crate) paths: Option<Box<Paths>>,
    /// What went by a call that has given way: it goes by the other's.
    pub(crate) kept: Option<Box<Out>>,
}

impl Link {
    /// A link to the fabric of this node and incarnation.
    pub(crate) fn new(
        peer: PeerId,
        (node, incarnation): (NodeId, u64),
        generation: u32,
        state: State,
    ) -> Link {
        Link { peer, node, incarnation, generation, role: Role::Whole(Whole::default()), state }
    }

    /// A further path of this link.
    pub(crate) fn path(&self, of: PathOf, state: State) -> Link {
        let Link { peer, node, incarnation, generation, .. } = *self;
        Link { peer, node, incarnation, generation, role: Role::Path(of), state }
    }

    /// Of which link it is a further path, if it is one.
    #[inline]
    pub(crate) fn part_of(&self) -> Option<PathOf> {
        match self.role {
            Role::Path(of) => Some(of),
            Role::Whole(_) => None,
        }
    }

    /// What only links have.
    pub(crate) fn whole(&self) -> Option<&Whole> {
        match &self.role {
            Role::Whole(whole) => Some(whole),
            Role::Path(_) => None,
        }
    }

    /// The same, to change it.
    pub(crate) fn whole_mut(&mut self) -> Option<&mut Whole> {
        match &mut self.role {
            Role::Whole(whole) => Some(whole),
            Role::Path(_) => None,
        }
    }

    /// Its paths beside the first, where there may be some.
    pub(crate) fn paths(&self) -> Option<&Paths> {
        self.whole()?.paths.as_deref()
    }

    /// The same, to change them.
    pub(crate) fn paths_mut(&mut self) -> Option<&mut Paths> {
        self.whole_mut()?.paths.as_deref_mut()
    }
}

/// How far a link is.
#[derive(Debug)]
pub(crate) enum State {
    /// This side calls.
    Calling(Box<Call>),
    /// This side has given way to the other's call, since when.
    Awaiting(Option<Time>),
    /// This side calls, and sends frames: the other one has said nothing yet.
    Unheard(Box<Unheard>),
    /// Frames flow.
    Live(Box<Conn>),
    /// The connection broke: what the peer may not have, and frames that were delivered.
    Broken(Box<Out>, u64),
    /// Nothing is left.
    Over,
}
