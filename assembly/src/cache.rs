//! What was agreed before: the second connection to a node begins where the first one was made.

use std::collections::HashMap;
use std::time::Instant;

use gridnet_core::wire::NodeId;

use crate::message::Grant;
use crate::name::Name;
use crate::stack::{Security, Stack};

/// Agreements that are kept; beyond, the one that was not used for the longest time goes.
const KEPT: usize = 1024;

/// Where a connection for a service was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// By which stack.
    pub stack: Stack,
    /// How safe it is between these two.
    pub security: Security,
    /// Where.
    pub place: Vec<u8>,
    /// By which the other side knows that it may be done again.
    pub grant: Grant,
    /// Which life of the other side it was.
    pub incarnation: u64,
    /// Since when this stack is the one that came up.
    pub since: Instant,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Cache {
    agreed: HashMap<(NodeId, Name), (u64, Agreed)>,
    uses: u64,
}

impl Cache {
    /// What was agreed with a node for a service.
    pub fn find(&mut self, node: NodeId, service: &Name) -> Option<Agreed> {
        self.uses += 1;
        let (used, agreed) = self.agreed.get_mut(&(node, service.clone()))?;
        *used = self.uses;
        Some(agreed.clone())
    }

    /// Keeps an agreement.
    pub fn keep(&mut self, node: NodeId, service: Name, agreed: Agreed) {
        self.uses += 1;
        let key = (node, service);
        if self.agreed.len() >= KEPT && !self.agreed.contains_key(&key) {
            let oldest = self.agreed.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.into_iter().for_each(|oldest| drop(self.agreed.remove(&oldest)));
        }
        self.agreed.insert(key, (self.uses, agreed));
    }

    /// A connection failed, or a node went: nothing is taken for granted there.
    pub fn forget(&mut self, node: NodeId) {
        self.agreed.retain(|(with, _), _| *with != node);
    }

    /// A node is in this life: what was agreed with it in another one is over.
    pub fn seen(&mut self, node: NodeId, incarnation: u64) {
        self.agreed.retain(|(with, _), (_, agreed)| *with != node || agreed.incarnation == incarnation);
    }

    /// Other rules are in force on this side.
    pub fn clear(&mut self) {
        self.agreed.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.agreed.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.agreed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(incarnation: u64) -> Agreed {
        Agreed {
            stack: "shm".parse().unwrap(),
            security: Security::Encrypted,
            place: vec![],
            grant: Grant { incarnation: 1, token: 1 },
            incarnation,
            since: *START,
        }
    }

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    fn node(number: u128) -> NodeId {
        NodeId::new((number + 1).to_be_bytes()).unwrap()
    }

    #[test]
    fn agreements_end_with_the_life_of_the_other_side() {
        let (mut cache, service): (_, Name) = (Cache::default(), "s".parse().unwrap());
        cache.keep(node(1), service.clone(), agreed(5));
        cache.keep(node(2), service.clone(), agreed(5));
        cache.seen(node(1), 5);
        assert_eq!(cache.len(), 2);
        cache.seen(node(1), 6);
        assert_eq!((cache.find(node(1), &service), cache.find(node(2), &service)), (None, Some(agreed(5))));
        cache.forget(node(2));
        assert!(cache.is_empty());
    }

    #[test]
    fn what_was_not_used_for_long_goes_first() {
        let (mut cache, service): (_, Name) = (Cache::default(), "s".parse().unwrap());
        (0..KEPT as u128).for_each(|n| cache.keep(node(n), service.clone(), agreed(1)));
        assert!(cache.find(node(0), &service).is_some());
        cache.keep(node(KEPT as u128), service.clone(), agreed(1));
        assert_eq!(cache.len(), KEPT);
        assert!(cache.find(node(0), &service).is_some() && cache.find(node(1), &service).is_none());
        cache.clear();
        assert!(cache.is_empty());
    }
}
