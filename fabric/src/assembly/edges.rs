//! The edges of groups of nodes: endpoints by node id that are opened at their first use, whoever of the two uses it first.

use std::collections::BTreeMap;
use std::time::Duration;

use gridnet_core::endpoint::CqId;
use gridnet_core::error::Error;
use gridnet_core::rail::{PeerId, Refusal};
use gridnet_core::wire::NodeId;

use super::requirements::Requirements;
use crate::fabric::Fabric;

/// Endpoints by node id that the program has asked for as the rules for fabrics have them: how many are being agreed on, and the peers of those that came about.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    opening: BTreeMap<NodeId, usize>,
    opened: BTreeMap<NodeId, PeerId>,
}

impl Edges {
    /// One is being agreed on.
    pub(crate) fn begun(&mut self, node: NodeId) {
        *self.opening.entry(node).or_default() += 1;
    }

    /// One has come about, or not.
    pub(super) fn ended(&mut self, node: NodeId, outcome: Result<PeerId, Error>) {
        if let Some(count) = self.opening.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&node);
            }
        }
        if let Ok(peer) = outcome {
            self.opened.insert(node, peer);
        }
    }

    /// The conversation with a node is over.
    pub(super) fn gone(&mut self, node: NodeId) {
        self.opened.remove(&node);
    }
}

impl Fabric {
    /// An edge of a group: the peer that is this node, with one more handle, if there is a conversation with it, whichever side has
    /// opened that. Otherwise it is opened as by [`Self::open_node`], unless that goes on already; the tag of the completion is
    /// `rank`. This fabric itself is there at once.
    ///
    /// # Errors
    /// As [`Self::open_node`].
    pub fn open_edge(
        &mut self,
        cq: CqId,
        (node, rank): (NodeId, u64),
        limit: Duration,
        context: u64,
    ) -> Result<Option<PeerId>, Refusal> {
        let edges = &self.membership()?.edges;
        let (opened, is_opening) = (edges.opened.get(&node).copied(), edges.opening.contains_key(&node));
        if node == self.engine.local().node {
            let own = *self.engine.local();
            return self.engine.open(&own).map(Some);
        }
        let known = opened.or_else(|| self.engine.find(node));
        if let Some(Ok(peer)) = known.map(|peer| self.engine.open_known(peer)) {
            return Ok(Some(peer));
        }
        if !is_opening {
            let wanted = Requirements::of_fabric()?.wanted();
            self.begin_to_open(cq, (node, wanted), limit, (context, rank))?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_opened_until_the_last_who_asked_has_heard() {
        let (mut edges, node) = (Edges::default(), NodeId::new([1; 16]).unwrap());
        edges.begun(node);
        edges.begun(node);
        edges.ended(node, Err(Error::Timeout));
        assert!(edges.opening.contains_key(&node) && edges.opened.is_empty());
        edges.ended(node, Ok(PeerId::new(3)));
        assert!(edges.opening.is_empty());
        // A look for a better way is nobody's edge.
        edges.ended(node, Ok(PeerId::new(3)));
        assert_eq!(edges.opened.get(&node), Some(&PeerId::new(3)));
        edges.gone(node);
        assert!(edges.opened.is_empty());
    }
}
