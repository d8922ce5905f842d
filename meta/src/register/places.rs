//! Where each node is connected: to the rendez-vous node itself, or to the leader of its cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use gridnet_core::wire::NodeId;

use super::{Denied, Register};
use crate::clock::Moment;
use crate::cluster::{Leader, Order};
use crate::directory::{Departure, Entry};
use crate::error::Refusal;
use crate::message::{Attach, Present};
use crate::name::Name;
use crate::packet::Packet;
use crate::pass::Pass;

/// Addresses of a leader that are taken.
const ADDRESSES_MAX: usize = 8;

/// Where a node is connected.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Number of its connection, or of its leader's.
    connection: u64,
    via: Option<NodeId>,
    cluster: Name,
    /// As which one it came.
    order: u64,
    /// Of two claims the one with the larger number counts.
    serial: u64,
}

/// All places, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: BTreeMap<NodeId, Place>,
    below: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Leaders, as the directory has them.
    leading: BTreeMap<Name, NodeId>,
    connections: u64,
    serial: u64,
    orders: Vec<Order>,
}

impl Places {
    /// Numbers of claims go on where an earlier life has ended, if clocks do.
    pub(super) fn begin(&mut self, clock: Moment) {
        self.serial = u64::try_from(clock.unix()).unwrap_or(0) << 20;
    }
}

impl Register {
    /// A member is connected to the rendez-vous node; the number of its connection. What it had before counts no more.
    pub(crate) fn attach(
        &mut self,
        node: NodeId,
        attach: &Attach,
        (now, clock): (Instant, Moment),
    ) -> Result<u64, Denied> {
        self.ask(node, now)?;
        self.admit(node)?;
        let order = self.displace(node, attach, now);
        self.places.connections += 1;
        self.places.serial += 1;
        let (connection, serial) = (self.places.connections, self.places.serial);
        let place = Place { connection, via: None, cluster: attach.cluster.clone(), order, serial };
        self.places.places.insert(node, place);
        self.tell(node, attach, clock);
        let orders = self.clusters.came(&attach.cluster, node, (order, attach.will), now);
        self.places.orders.extend(orders);
        if !attach.leads.is_empty() {
            self.leads(node, attach.leads.clone(), now);
        }
        self.tell_leaders(&attach.cluster);
        Ok(connection)
    }

    /// A member that is connected here listens for its cluster.
    pub(crate) fn leads(&mut self, node: NodeId, mut addresses: Vec<SocketAddr>, now: Instant) {
        let Some(cluster) = self.direct(node).map(|place| place.cluster.clone()) else { return };
        addresses.truncate(ADDRESSES_MAX);
        addresses.retain(|address| !address.ip().is_unspecified() && address.port() != 0);
        let orders = self.clusters.leads(&cluster, node, addresses, now);
        self.places.orders.extend(orders);
        self.tell_leaders(&cluster);
    }

    /// A leader has said all that are connected to it: others that were before, by an earlier connection of the leader, are not.
    pub(crate) fn has_said_all(&mut self, leader: NodeId, now: Instant) {
        let Some(connection) = self.direct(leader).map(|place| place.connection) else { return };
        let below = self.places.below.get(&leader).into_iter().flatten();
        let is_gone =
            |node: &NodeId| self.places.places.get(node).is_some_and(|place| place.connection != connection);
        let gone: Vec<NodeId> = below.copied().filter(is_gone).collect();
        for node in gone {
            self.remove(node, Departure::Lost, now);
        }
    }

    /// A leader says that a node is connected to it.
    pub(crate) fn present(
        &mut self,
        leader: NodeId,
        present: &Present,
        (now, clock): (Instant, Moment),
    ) -> Result<(), Denied> {
        let (node, about) = (present.node, &present.about);
        let connection = self.may_lead(leader, node, about).map_err(|why| {
            self.count(Refusal::Pass);
            (Refusal::Pass, why)
        })?;
        self.admit(node)?;
        let order = self.displace(node, about, now);
        let serial = about.pass.as_ref().map_or(0, |pass| pass.serial);
        let place = Place { connection, via: Some(leader), cluster: about.cluster.clone(), order, serial };
        self.places.places.insert(node, place);
        self.places.below.entry(leader).or_default().insert(node);
        self.tell(node, about, clock);
        self.tell_leaders(&about.cluster);
        Ok(())
    }

    /// A leader says that a node is not connected to it any more.
    pub(crate) fn absent(&mut self, leader: NodeId, node: NodeId, why: Departure, now: Instant) {
        if self.places.places.get(&node).is_some_and(|place| place.via == Some(leader)) {
            self.remove(node, why, now);
        }
    }

    /// A connection has ended; its node is gone with all that were reached through it, unless it has another one.
    pub(crate) fn detach(&mut self, node: NodeId, connection: u64, why: Departure, now: Instant) {
        if self.is_current(node, connection) {
            self.remove(node, why, now);
        }
    }

    /// Whether a connection is the one over which its node is there.
    pub(crate) fn is_current(&self, node: NodeId, connection: u64) -> bool {
        self.direct(node).is_some_and(|place| place.connection == connection)
    }

    /// To whom a packet for a node goes from here.
    pub(crate) fn next_hop(&self, to: NodeId) -> Option<NodeId> {
        self.places.places.get(&to).map(|place| place.via.unwrap_or(to))
    }

    /// Whether a packet that was said to be of a node may come from one that is connected here.
    pub(crate) fn comes_from(&self, packet: &Packet, visitor: NodeId) -> bool {
        let place = self.places.places.get(&packet.from);
        match packet.trail.nodes() {
            [] => packet.from == visitor,
            [leader] => *leader == visitor && place.is_some_and(|place| place.via == Some(visitor)),
            _ => false,
        }
    }

    /// Whether one that is connected here may send a packet now.
    pub(crate) fn may_send(&mut self, visitor: NodeId, now: Instant) -> bool {
        match self.places.below.contains_key(&visitor) {
            true => self.sent_by_leaders.allows(visitor, now),
            false => self.sent.allows(visitor, now),
        }
    }

    /// A pass for a node that is sent to a leader.
    pub(crate) fn pass(&mut self, node: NodeId, leader: NodeId) -> Pass {
        self.places.serial += 1;
        Pass::new(&self.secret, node, leader, self.places.serial)
    }

    /// What is to be told to whom.
    pub(crate) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.places.orders)
    }

    /// Looks after those that were appointed.
    pub(crate) fn look(&mut self, now: Instant) {
        let orders = self.clusters.look(now);
        self.places.orders.extend(orders);
    }

    /// Who leads, where, and how many are reached through each.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = (&Name, &Leader, usize)> {
        let below = |leader: &Leader| self.places.below.get(&leader.node).map_or(0, BTreeSet::len);
        self.clusters.leaders().map(move |(name, leader)| (name, leader, below(leader)))
    }

    /// A node is not there any more. Whether it was.
    pub(super) fn remove(&mut self, node: NodeId, why: Departure, now: Instant) -> bool {
        let Some(place) = self.places.places.remove(&node) else { return false };
        self.directory.leave(node, why);
        match place.via {
            Some(leader) => self.lift(leader, node),
            None => self.leaves(node, &place.cluster, now),
        }
        true
    }

    /// A node is not connected here any more; those that were reached through it are lost.
    fn leaves(&mut self, node: NodeId, cluster: &Name, now: Instant) {
        for below in self.places.below.remove(&node).unwrap_or_default() {
            self.places.places.remove(&below);
            self.directory.leave(below, Departure::Lost);
        }
        let orders = self.clusters.went(cluster, node, now);
        self.places.orders.extend(orders);
        self.tell_leaders(cluster);
    }

    fn lift(&mut self, leader: NodeId, node: NodeId) {
        if let Some(below) = self.places.below.get_mut(&leader) {
            below.remove(&node);
            if below.is_empty() {
                self.places.below.remove(&leader);
            }
        }
    }

    /// Whether there is room for a node, and it was not revoked.
    fn admit(&mut self, node: NodeId) -> Result<(), Denied> {
        let denied = if self.revoked.contains_key(&node) {
            (Refusal::Revoked, format!("node {node} was revoked"))
        } else if self.directory.entries().len() >= self.rules.nodes_max && !self.directory.contains(node) {
            (Refusal::Limit, format!("{} nodes are there, which is the most", self.rules.nodes_max))
        } else {
            return Ok(());
        };
        self.count(denied.0);
        Err(denied)
    }

    /// Takes a node from where it was, since it is somewhere else now; as which one it came.
    fn displace(&mut self, node: NodeId, about: &Attach, now: Instant) -> u64 {
        let Some(place) = self.places.places.remove(&node) else {
            self.places.connections += 1;
            return self.places.connections;
        };
        // One that leads and goes on leading, by another connection, keeps those below.
        let goes_on = !about.leads.is_empty() && about.cluster == place.cluster;
        match place.via {
            Some(leader) => self.lift(leader, node),
            None if goes_on => (),
            None => self.leaves(node, &place.cluster, now),
        }
        place.order
    }

    /// The number of the connection of a leader, if a node may be below it; else why not.
    fn may_lead(&self, leader: NodeId, node: NodeId, about: &Attach) -> Result<u64, String> {
        let leads = self.clusters.leader(&about.cluster).is_some_and(|leads| leads.node == leader);
        let Some(place) = self.direct(leader).filter(|_| leads && leader != node) else {
            return Err(format!("node {leader} does not lead cluster {}", about.cluster));
        };
        let pass = about.pass.as_ref().filter(|pass| pass.is_for(&self.secret, node, leader));
        let Some(pass) = pass else {
            return Err(format!("node {node} was not sent to node {leader}"));
        };
        match self.places.places.get(&node) {
            Some(later) if later.serial > pass.serial => {
                Err(format!("node {node} has connected somewhere else since"))
            }
            _ => Ok(place.connection),
        }
    }

    fn direct(&self, node: NodeId) -> Option<&Place> {
        self.places.places.get(&node).filter(|place| place.via.is_none())
    }

    /// Writes a node into the directory.
    fn tell(&mut self, node: NodeId, about: &Attach, clock: Moment) {
        let Some(place) = self.places.places.get(&node) else { return };
        let (order, via) = (place.order, place.via);
        let since = self.directory.entry(node).map_or(clock.unix(), |entry| entry.since);
        let leads = self.places.leading.get(&about.cluster) == Some(&node);
        let (cluster, label, more) = (about.cluster.clone(), about.label.clone(), about.more.clone());
        self.directory.join(Entry { node, cluster, label, since, order, leads, via, more });
    }

    /// Writes into the directory who leads a cluster.
    fn tell_leaders(&mut self, cluster: &Name) {
        let now = self.clusters.leader(cluster).map(|leader| leader.node);
        let before = match now {
            Some(now) => self.places.leading.insert(cluster.clone(), now),
            None => self.places.leading.remove(cluster),
        };
        for node in [before, now].into_iter().flatten().filter(|_| before != now) {
            if let Some(entry) = self.directory.entry(node) {
                self.directory.join(Entry { leads: Some(node) == now, ..entry.clone() });
            }
        }
    }
}
