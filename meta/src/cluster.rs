//! Who leads which cluster: the rendez-vous node's judgement, without I/O.
//!
//! A cluster of two or more nodes gets a leader: the rendez-vous node appoints the one that came first among those that are connected
//! to it and willing, those first that were configured to lead. Once that one listens for the others, they are sent to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// How long one that was appointed may take until it listens.
const APPOINTED_LIMIT: Duration = Duration::from_secs(3);

/// Whether a node is there to lead its cluster; numbers of the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
#[repr(u16)]
pub enum Will {
    /// It does if it is elected.
    #[default]
    Willing = 0,
    /// It is to lead, before all that are merely willing.
    Configured = 1,
    /// Never.
    Unwilling = 2,
}

impl From<Will> for u16 {
    fn from(will: Will) -> u16 {
        will as u16
    }
}

impl From<u16> for Will {
    fn from(number: u16) -> Will {
        match number {
            1 => Will::Configured,
            2 => Will::Unwilling,
            _ => Will::Willing,
        }
    }
}

/// One that leads, and where it listens for its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: NodeId,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What a node is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Listen for your cluster.
    Lead(NodeId),
    /// Go to this leader.
    Follow(NodeId, Leader),
}

/// The nodes of one cluster that are connected to the rendez-vous node, and the one that leads.
#[derive(Debug, Default)]
struct Cluster {
    leader: Option<Leader>,
    appointed: Option<(NodeId, Instant)>,
    direct: BTreeMap<NodeId, Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    order: u64,
    will: Will,
    /// It was appointed, and did not listen in time.
    has_failed: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    clusters: BTreeMap<Name, Cluster>,
}

impl Clusters {
    /// Who leads a cluster.
    pub(crate) fn leader(&self, cluster: &Name) -> Option<&Leader> {
        self.clusters.get(cluster)?.leader.as_ref()
    }

    /// All that have a leader.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = (&Name, &Leader)> {
        self.clusters.iter().filter_map(|(name, cluster)| Some((name, cluster.leader.as_ref()?)))
    }

    /// A node is connected to the rendez-vous node, as number `order` of all; what is to be told to whom.
    pub(crate) fn came(
        &mut self,
        name: &Name,
        node: NodeId,
        (order, will): (u64, Will),
        now: Instant,
    ) -> Vec<Order> {
        let cluster = self.clusters.entry(name.clone()).or_default();
        cluster.direct.insert(node, Candidate { order, will, has_failed: false });
        let mut orders = cluster.elect(now);
        orders.extend(cluster.follow(node));
        orders
    }

    /// A node listens for its cluster: it was appointed, or it did before the rendez-vous node was started again.
    pub(crate) fn leads(
        &mut self,
        name: &Name,
        node: NodeId,
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) -> Vec<Order> {
        let Some(cluster) = self.clusters.get_mut(name) else { return Vec::new() };
        if !cluster.direct.contains_key(&node) || addresses.is_empty() {
            return Vec::new();
        }
        let is_appointed = cluster.appointed.is_some_and(|(appointed, _)| appointed == node);
        match &cluster.leader {
            Some(leader) if leader.node != node && !is_appointed => {
                return vec![Order::Follow(node, leader.clone())]
            }
            _ => (),
        }
        cluster.appointed = None;
        let leader = Leader { node, addresses };
        cluster.leader = Some(leader.clone());
        let others = cluster.direct.keys().filter(|other| **other != node);
        let mut orders: Vec<Order> = others.map(|other| Order::Follow(*other, leader.clone())).collect();
        orders.extend(cluster.elect(now));
        orders
    }

    /// A node is not connected to the rendez-vous node any more: it went, or is reached through its leader.
    pub(crate) fn went(&mut self, name: &Name, node: NodeId, now: Instant) -> Vec<Order> {
        let Some(cluster) = self.clusters.get_mut(name) else { return Vec::new() };
        cluster.direct.remove(&node);
        if cluster.leader.as_ref().is_some_and(|leader| leader.node == node) {
            cluster.leader = None;
        }
        if cluster.appointed.is_some_and(|(appointed, _)| appointed == node) {
            cluster.appointed = None;
        }
        let orders = cluster.elect(now);
        if cluster.direct.is_empty() {
            self.clusters.remove(name);
        }
        orders
    }

    /// Others take the place of those that were appointed and do not listen.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        for cluster in self.clusters.values_mut() {
            let Some((node, since)) = cluster.appointed else { continue };
            if now.saturating_duration_since(since) > APPOINTED_LIMIT {
                cluster.appointed = None;
                if let Some(candidate) = cluster.direct.get_mut(&node) {
                    candidate.has_failed = true;
                }
                orders.extend(cluster.elect(now));
                orders.extend(cluster.follow(node));
            }
        }
        orders
    }
}

impl Cluster {
    /// Sends a node to the leader, unless it is that itself, or is to be.
    fn follow(&self, node: NodeId) -> Option<Order> {
        let leader = self.leader.as_ref().filter(|leader| leader.node != node)?;
        let is_appointed = self.appointed.is_some_and(|(appointed, _)| appointed == node);
        (!is_appointed).then(|| Order::Follow(node, leader.clone()))
    }

    fn elect(&mut self, now: Instant) -> Vec<Order> {
        if self.appointed.is_some() {
            return Vec::new();
        }
        let is_there = |candidate: &Candidate| candidate.will != Will::Unwilling && !candidate.has_failed;
        let candidates = self.direct.iter().filter(|(_, candidate)| is_there(candidate));
        let best =
            candidates.min_by_key(|(_, candidate)| (candidate.will != Will::Configured, candidate.order));
        let Some((node, best)) = best else { return Vec::new() };
        let is_needed = match &self.leader {
            // One that was elected gives way to one that is configured.
            Some(leader) => {
                let is_elected = self.direct.get(&leader.node).is_none_or(|l| l.will != Will::Configured);
                best.will == Will::Configured && is_elected
            }
            None => self.direct.len() > 1,
        };
        if !is_needed {
            return Vec::new();
        }
        self.appointed = Some((*node, now));
        vec![Order::Lead(*node)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> NodeId {
        NodeId::new([byte; 16]).unwrap()
    }

    fn name() -> Name {
        "c".parse().unwrap()
    }

    fn addresses(port: u16) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([10, 0, 0, 1], port))]
    }

    struct Scene(Clusters, Instant);

    impl Scene {
        fn new() -> Scene {
            Scene(Clusters::default(), Instant::now())
        }

        fn came(&mut self, node: u8, will: Will) -> Vec<Order> {
            self.0.came(&name(), id(node), (u64::from(node), will), self.1)
        }

        fn leads(&mut self, node: u8) -> Vec<Order> {
            self.0.leads(&name(), id(node), addresses(node.into()), self.1)
        }

        fn went(&mut self, node: u8) -> Vec<Order> {
            self.0.went(&name(), id(node), self.1)
        }

        fn leader(&self) -> Option<NodeId> {
            self.0.leader(&name()).map(|leader| leader.node)
        }
    }

    fn follow(node: u8, leader: u8) -> Order {
        Order::Follow(id(node), Leader { node: id(leader), addresses: addresses(leader.into()) })
    }

    #[test]
    fn the_first_that_came_is_elected_once_there_are_two_and_replaced_when_it_goes() {
        let mut scene = Scene::new();
        assert_eq!(scene.came(1, Will::Willing), []);
        assert_eq!(scene.came(2, Will::Willing), [Order::Lead(id(1))]);
        assert_eq!(scene.came(3, Will::Willing), []);
        assert_eq!(scene.leads(1), [follow(2, 1), follow(3, 1)]);
        assert_eq!(scene.came(4, Will::Willing), [follow(4, 1)]);
        for node in 2..=4 {
            assert_eq!(scene.went(node), [], "they are reached through it");
        }
        assert_eq!((scene.leader(), scene.went(1)), (Some(id(1)), vec![]));
        assert!(scene.0.clusters.is_empty());
        // They come back, in another order.
        assert_eq!(scene.came(4, Will::Willing), []);
        assert_eq!(scene.came(2, Will::Willing), [Order::Lead(id(2))]);
        assert_eq!(scene.leads(2), [follow(4, 2)]);
    }

    #[test]
    fn one_that_is_configured_leads_and_one_that_will_not_does_not() {
        let mut scene = Scene::new();
        scene.came(1, Will::Unwilling);
        assert_eq!(scene.came(2, Will::Unwilling), []);
        assert_eq!(scene.came(3, Will::Willing), [Order::Lead(id(3))]);
        assert_eq!(scene.leads(3), [follow(1, 3), follow(2, 3)]);
        assert_eq!(scene.came(4, Will::Configured), [Order::Lead(id(4))]);
        scene.1 += APPOINTED_LIMIT * 2;
        assert_eq!(scene.0.look(scene.1), [follow(4, 3)], "it does not, so it follows");
        assert_eq!(scene.went(4), []);
        assert_eq!(scene.came(4, Will::Configured), [Order::Lead(id(4))]);
        assert_eq!(scene.leads(4), [follow(1, 4), follow(2, 4), follow(3, 4)]);
        assert_eq!(scene.came(5, Will::Configured), [follow(5, 4)], "one is enough");
        // One that comes late with a claim of its own is put right.
        assert_eq!(scene.leads(5), [follow(5, 4)]);
        assert_eq!(scene.leader(), Some(id(4)));
    }

    #[test]
    fn one_that_is_appointed_and_does_nothing_is_passed_over() {
        let mut scene = Scene::new();
        scene.came(1, Will::Willing);
        assert_eq!(scene.came(2, Will::Willing), [Order::Lead(id(1))]);
        assert_eq!(scene.0.look(scene.1), []);
        scene.1 += APPOINTED_LIMIT * 2;
        assert_eq!(scene.0.look(scene.1), [Order::Lead(id(2))]);
        assert_eq!(scene.leads(2), [follow(1, 2)]);
        assert_eq!(scene.leads(1), [follow(1, 2)], "too late");
        // One that was appointed goes.
        let mut scene = Scene::new();
        scene.came(1, Will::Willing);
        scene.came(2, Will::Willing);
        assert_eq!(scene.came(3, Will::Willing), []);
        assert_eq!(scene.went(1), [Order::Lead(id(2))]);
    }

    #[test]
    fn a_leader_of_an_earlier_life_stays_one() {
        let mut scene = Scene::new();
        scene.came(7, Will::Willing);
        assert_eq!(scene.leads(7), []);
        assert_eq!(scene.came(2, Will::Willing), [follow(2, 7)]);
        assert_eq!(scene.0.leads(&name(), id(9), addresses(9), scene.1), [], "who is not there leads nobody");
    }
}
