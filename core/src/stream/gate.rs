//! Who decides whether a stream to a service may be: rules that the engine knows nothing of.

use std::fmt::Debug;

use crate::rail::Refusal;
use crate::wire::NodeId;

/// A stream that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// The peer's node.
    pub node: NodeId,
    /// The user that its process belongs to, when that is another than ours.
    pub user: Option<u32>,
    /// The rail that carries what is said to the peer: its index in the engine.
    pub rail: usize,
    /// What the peer, or this side, is asked for.
    pub service: &'a str,
    /// The peer asks; else this side does.
    pub is_called: bool,
}

/// Decides whether a stream may be. It is asked for each one once, before anything of it is sent or answered.
pub trait Gate: Debug + Send {
    /// Over which rails the conversation may go from now on, as bits by their index. Without the one that carries it now, the stream
    /// is refused.
    ///
    /// # Errors
    /// Why there is to be no stream.
    fn admit(&mut self, sought: &Sought<'_>) -> Result<u64, Refusal>;
}
