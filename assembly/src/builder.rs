//! What the rails have to do for assembly.

use std::time::Instant;

use gridnet_core::wire::NodeId;

use crate::call::Path;
use crate::called::{Key, Order};
use crate::name::Name;
use crate::rules::Rules;
use crate::stack::Stack;

/// Makes and ends paths: the rails behind assembly. It may be called by several threads at once.
///
/// `build`, and what comes in at the place that it tells, is the side that is asked; `connect` the side that asks. Whoever connects
/// proves at that place who it is, and names connection and attempt; a place admits the node of the [`Order`], and nobody else.
///
/// Host and user of a node are what it says of itself. A path of `shm` has to make sure by the kernel that the other process is of the same
/// user where its security is [`Encrypted`](crate::stack::Security::Encrypted), and fail otherwise.
pub trait Builder: Send + Sync {
    /// A path for one service is that of this one, too: its rules hold for all. `None`: each path is for its service alone.
    fn shared(&self) -> Option<Name> {
        None
    }

    /// What the other side needs to know to build a stack, at most [`HINT_BYTES_MAX`](crate::message::HINT_BYTES_MAX) bytes.
    fn hint(&self, _to: NodeId, _stack: &Stack) -> Vec<u8> {
        Vec::new()
    }

    /// Prepares a stack for the node that asks: where it is to connect. It must not wait for long: few threads answer for all.
    ///
    /// What stands there is not used before [`Builder::begin`], and goes by [`Builder::close`], or when nobody has connected until
    /// the order's deadline. With a grant, the node may be connecting there already.
    ///
    /// # Errors
    /// Why it cannot be.
    fn build(&self, order: &Order) -> Result<Vec<u8>, String>;

    /// Whether [`Builder::build`], [`Builder::close`], [`Builder::new_rules`] and [`Builder::revoke_grants`] answer at once, as it is
    /// now: then whoever hears a request calls them, and the request waits for no other thread.
    fn is_quick(&self) -> bool {
        false
    }

    /// What was built is wanted: these are the first bytes of the connection, for the service.
    fn begin(&self, order: &Order, first: Vec<u8>);

    /// What was built for this try is not needed.
    fn close(&self, key: &Key);

    /// Connects to where the other side has built, until then at most.
    ///
    /// # Errors
    /// Why it cannot be.
    fn connect(&self, to: NodeId, path: &Path, deadline: Instant) -> Result<(), String>;

    /// A path that came up, or may come up, is not needed.
    fn disconnect(&self, to: NodeId, path: &Path);

    /// Other rules than before, if there are: asked for before rules are applied. They hold from then on.
    fn new_rules(&self) -> Option<Rules> {
        None
    }

    /// Grants that were given are over, but those of what stands: who connects has to have asked.
    fn revoke_grants(&self);
}
