//! Passes: by them the rendez-vous node knows that it has sent a node to a leader, also after it was started again.
//!
//! A leader says which nodes are connected to it. It is believed for those that were sent to it, and only until the node has
//! connected somewhere else.

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::secret::{JoinSecret, SECRET_BYTES};

const LABEL: &[u8] = b"gridnet pass 1";

/// See the [module](self). `Debug` does not show the proof: whoever has it can be where another was sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Of two for one node, the larger is the later.
    pub serial: u64,
    /// By whom it was made, and for whom.
    pub proof: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pass({}, ..)", self.serial)
    }
}

impl Pass {
    pub(crate) fn new(secret: &JoinSecret, node: NodeId, leader: NodeId, serial: u64) -> Pass {
        Pass { serial, proof: secret.prove(LABEL, &[node.bytes(), leader.bytes(), &serial.to_le_bytes()]) }
    }

    pub(crate) fn is_for(&self, secret: &JoinSecret, node: NodeId, leader: NodeId) -> bool {
        secret.verifies(LABEL, &[node.bytes(), leader.bytes(), &self.serial.to_le_bytes()], &self.proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_for_one_node_and_one_leader() {
        let id = |byte| NodeId::new([byte; 16]).unwrap();
        let (secret, other) = (JoinSecret::random().unwrap(), JoinSecret::random().unwrap());
        let pass = Pass::new(&secret, id(1), id(2), 3);
        assert!(pass.is_for(&secret, id(1), id(2)));
        assert!(!pass.is_for(&other, id(1), id(2)));
        assert!(!pass.is_for(&secret, id(2), id(1)) && !pass.is_for(&secret, id(1), id(3)));
        assert!(!Pass { serial: 4, ..pass }.is_for(&secret, id(1), id(2)));
    }
}
