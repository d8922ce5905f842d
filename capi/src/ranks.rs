//! What a group keeps of its ranks: how each is reached, and once it was used, a number that leads to its endpoint.

use std::time::Duration;

use gridnet::core::rail::PeerId;
use gridnet::core::wire::{KnownPeer, NodeId};

use crate::boundary::Failure;
use crate::cq::CqObject;

/// The ranks of a group, in order.
pub(crate) enum Ranks {
    /// By the addresses of fabrics.
    Addresses(Vec<KnownPeer>),
    /// By node ids: both sides agree on a stack when a rank is used first.
    Nodes(Nodes),
}

/// See [`Ranks::Nodes`].
pub(crate) struct Nodes {
    pub(crate) ranks: Vec<KnownNode>,
    /// How long agreeing may take.
    pub(crate) limit: Duration,
    /// Of the completions that tell how it went.
    pub(crate) context: u64,
}

/// A node that is known and perhaps not used.
#[derive(Clone, Copy)]
pub(crate) struct KnownNode {
    pub(crate) node: NodeId,
    /// Its endpoint, once used.
    pub(crate) endpoint: Option<u32>,
}

impl Ranks {
    pub(crate) fn len(&self) -> usize {
        match self {
            Ranks::Addresses(ranks) => ranks.len(),
            Ranks::Nodes(nodes) => nodes.ranks.len(),
        }
    }

    /// Number of the endpoint of a rank; None when there is no such rank, nothing within when it was not used.
    pub(crate) fn endpoint(&mut self, rank: usize) -> Option<&mut Option<u32>> {
        match self {
            Ranks::Addresses(ranks) => ranks.get_mut(rank).map(|known| &mut known.endpoint),
            Ranks::Nodes(nodes) => nodes.ranks.get_mut(rank).map(|known| &mut known.endpoint),
        }
    }

    /// The first rank that is this node.
    pub(crate) fn position(&self, node: NodeId) -> Option<usize> {
        match self {
            Ranks::Addresses(ranks) => ranks.iter().position(|known| known.address.node == node),
            Ranks::Nodes(nodes) => nodes.ranks.iter().position(|known| known.node == node),
        }
    }

    /// Opens the peer of a rank, which there is; none while both sides agree on a stack.
    pub(crate) fn open(&self, rank: usize, cq: &CqObject) -> Result<Option<PeerId>, Failure> {
        // A queue that was destroyed meanwhile is found out when the endpoint sends.
        let mut guard = cq.owner.shared.enter()?;
        Ok(match self {
            Ranks::Addresses(ranks) => Some(guard.engine.open(&ranks[rank].address)?),
            Ranks::Nodes(Nodes { ranks, limit, context }) => {
                guard.open_edge(cq.id, (ranks[rank].node, rank as u64), *limit, *context)?
            }
        })
    }
}
