//! An address vector: numbers for addresses.

use std::collections::HashMap;

use gridnet::core::matching::Key;
use gridnet::core::wire::{Address, NodeId, ADDRESS_BYTES};

use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::rank;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    all: Vec<Option<Address>>,
    by_node: HashMap<NodeId, FiAddr>,
    /// Ranks of those that say theirs.
    ranks: HashMap<FiAddr, u32>,
    /// Numbers that are free again.
    free: Vec<FiAddr>,
    /// Endpoints that it is bound to.
    pub(crate) endpoints: Vec<Key>,
    /// Grows with each change, so that others know when what they remember is old.
    pub(crate) changes: u64,
}

impl Addresses {
    /// Adds an address; `None` when the bytes are none.
    pub(crate) fn insert(&mut self, bytes: &[u8; ADDRESS_BYTES]) -> Option<FiAddr> {
        let (plain, rank) = rank::split(bytes);
        let address = Address::parse(&plain).ok()?;
        let number = self.free.pop().unwrap_or(self.all.len() as FiAddr);
        match self.all.get_mut(number as usize) {
            Some(place) => *place = Some(address),
            None => self.all.push(Some(address)),
        }
        self.by_node.entry(address.node).or_insert(number);
        self.ranks.extend(rank.map(|rank| (number, rank)));
        self.changes += 1;
        Some(number)
    }

    /// Takes an address out; whether it was there.
    pub(crate) fn remove(&mut self, number: FiAddr) -> bool {
        let place = usize::try_from(number).ok().and_then(|index| self.all.get_mut(index));
        let Some(address) = place.and_then(Option::take) else { return false };
        if self.by_node.get(&address.node) == Some(&number) {
            self.by_node.remove(&address.node);
            // Another number may stand for the same node.
            let other = self.all.iter().position(|a| a.is_some_and(|a| a.node == address.node));
            if let Some(other) = other {
                self.by_node.insert(address.node, other as FiAddr);
            }
        }
        self.ranks.remove(&number);
        self.free.push(number);
        self.changes += 1;
        true
    }

    /// The address of this number.
    pub(crate) fn get(&self, number: FiAddr) -> Option<&Address> {
        self.all.get(usize::try_from(number).ok()?)?.as_ref()
    }

    /// Which rank has this number, if it has said so.
    fn rank(&self, number: FiAddr) -> Option<u32> {
        self.ranks.get(&number).copied()
    }

    /// The same for people.
    pub(crate) fn rank_in_words(&self, number: FiAddr) -> String {
        self.rank(number).map_or_else(|| "unknown".to_owned(), |rank| rank.to_string())
    }

    /// The bytes that were inserted as this number.
    pub(crate) fn name(&self, number: FiAddr) -> Option<[u8; ADDRESS_BYTES]> {
        let mut bytes = self.get(number)?.to_bytes();
        rank::write(&mut bytes, self.rank(number));
        Some(bytes)
    }

    /// The number of a node, or `FI_ADDR_NOTAVAIL`.
    pub(crate) fn number_of(&self, node: &NodeId) -> FiAddr {
        self.by_node.get(node).copied().unwrap_or(ADDR_UNSPEC)
    }
}

#[cfg(test)]
mod tests {
    use gridnet::core::wire::NetAddresses;

    use super::*;

    #[test]
    fn a_node_with_two_numbers_keeps_the_other_when_one_goes() {
        let mut vector = Addresses::default();
        let address = |byte| {
            let node = NodeId::new([byte; 16]).unwrap();
            Address { uid: 1, host: 2, node, incarnation: 3, network: NetAddresses::NONE }
        };
        let numbers = [7, 7, 8].map(|byte| vector.insert(&address(byte).to_bytes()).unwrap());
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(vector.number_of(&address(7).node), 0);
        assert!(vector.remove(0) && !vector.remove(0) && !vector.remove(u64::MAX));
        assert_eq!(vector.number_of(&address(7).node), 1);
        assert_eq!(vector.insert(&address(9).to_bytes()), Some(0), "a number that is free is given again");
        assert!(vector.remove(1));
        assert_eq!(vector.number_of(&address(7).node), ADDR_UNSPEC);
        assert_eq!(vector.get(2), Some(&address(8)));
    }
}
