//! The rendez-vous node's judgement: who may join, who is there. No sockets, no clock: both are handed in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use crate::authority::{Authority, CLOCK_SKEW};
use crate::clock::Moment;
use crate::directory::{Departure, Directory, Entry};
use crate::error::{Error, Refusal};
use crate::message::{Attach, Join, Joined};
use crate::rate::Rates;
use crate::secret::JoinSecret;

/// A ticket, as the rendez-vous node knows it.
#[derive(Debug, Clone)]
pub(crate) struct TicketState {
    pub(crate) secret: JoinSecret,
    pub(crate) expires: Moment,
    /// How many may still join with it; `None`: any number.
    pub(crate) left: Option<u64>,
}

/// What a session is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a certificate of a node is valid.
    pub certificate_lifetime: Duration,
    /// Joins that are judged of one address, per second.
    pub joins_per_second: u32,
    /// Most nodes that are there at a time.
    pub nodes_max: usize,
    /// A member of which nothing is heard for so long is lost. It says something each second.
    pub silence: Duration,
}

impl Default for Rules {
    /// A day: a node renews after two thirds of it, so it can miss the rendez-vous node for eight hours. 50 joins a second:
    /// a job of some thousand processes behind one address starts within the minute. 16,384 nodes take some 10 MB.
    fn default() -> Rules {
        Rules {
            certificate_lifetime: Duration::from_secs(86_400),
            joins_per_second: 50,
            nodes_max: 16_384,
            silence: Duration::from_secs(3),
        }
    }
}

/// Requests of one node for the directory, a certificate or a new connection, per second.
const ASKED_PER_SECOND: u32 = 10;

/// Revoked nodes that are kept, and told to members: some 300 KB of the directory.
const REVOKED_MAX: usize = 16_384;

/// A refusal, and what it says.
pub(crate) type Denied = (Refusal, String);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Register {
    authority: Authority,
    rules: Rules,
    pub(crate) tickets: BTreeMap<NodeId, TicketState>,
    /// Revoked nodes, and when the last certificate of each has surely ended.
    pub(crate) revoked: BTreeMap<NodeId, Moment>,
    pub(crate) directory: Directory,
    /// The connection over which a node is there.
    attached: BTreeMap<NodeId, u64>,
    connections: u64,
    joins: Rates<IpAddr>,
    /// What members ask for that costs more than an answer.
    asked: Rates<NodeId>,
    pub(crate) refusals: BTreeMap<Refusal, u64>,
    pub(crate) joined: u64,
}

impl Register {
    pub(crate) fn new(authority: Authority, rules: Rules, epoch: u64) -> Register {
        Register {
            authority,
            rules,
            tickets: BTreeMap::new(),
            revoked: BTreeMap::new(),
            directory: Directory::new(epoch),
            attached: BTreeMap::new(),
            connections: 0,
            joins: Rates::new(rules.joins_per_second),
            asked: Rates::new(ASKED_PER_SECOND),
            refusals: BTreeMap::new(),
            joined: 0,
        }
    }

    /// Judges a request to join: the new member, and its certificate.
    pub(crate) fn join(
        &mut self,
        join: &Join,
        keying: &[u8],
        from: IpAddr,
        (now, clock): (Instant, Moment),
    ) -> Result<Joined, Denied> {
        self.judge(join, keying, from, (now, clock)).inspect_err(|(refusal, _)| self.count(*refusal))
    }

    fn judge(
        &mut self,
        join: &Join,
        keying: &[u8],
        from: IpAddr,
        (now, clock): (Instant, Moment),
    ) -> Result<Joined, Denied> {
        if !self.joins.allows(from, now) {
            let rate = self.rules.joins_per_second;
            return Err((
                Refusal::Rate,
                format!("more than {rate} joins a second from {from}: try again later"),
            ));
        }
        let Some(ticket) = self.tickets.get_mut(&join.ticket) else {
            return Err((Refusal::Ticket, "there is no such ticket in this session".into()));
        };
        // Who does not know the secret learns nothing of the ticket.
        if !ticket.secret.verifies(keying, &[join.ticket.bytes(), &join.request], &join.proof) {
            return Err((Refusal::Secret, "the secret is not that of the ticket".into()));
        }
        if clock >= ticket.expires {
            return Err((
                Refusal::Expired,
                format!("the ticket expired at {}; it is {clock}", ticket.expires),
            ));
        }
        if ticket.left == Some(0) {
            return Err((Refusal::UsedUp, "as many have joined with the ticket as may".into()));
        }
        let node = crate::random::id().map_err(|e| (Refusal::Trouble, e.to_string()))?;
        let certificate = self
            .authority
            .certify(node, &join.request, clock, self.rules.certificate_lifetime)
            .map_err(|e| (Refusal::Malformed, e.to_string()))?;
        ticket.left = ticket.left.map(|left| left - 1);
        self.joined += 1;
        Ok(Joined { node, certificate: certificate.to_vec(), clock: clock.unix() })
    }

    /// Judges whether a member may ask for something that costs more than an answer.
    pub(crate) fn ask(&mut self, node: NodeId, now: Instant) -> Result<(), Denied> {
        if self.asked.allows(node, now) {
            return Ok(());
        }
        self.count(Refusal::Rate);
        Err((Refusal::Rate, format!("node {node} asks more than {ASKED_PER_SECOND} times a second")))
    }

    /// A member is there; the number of its connection. The one it had before counts no more.
    pub(crate) fn attach(&mut self, node: NodeId, attach: &Attach, clock: Moment) -> Result<u64, Denied> {
        let refused = if self.revoked.contains_key(&node) {
            Some((Refusal::Revoked, format!("node {node} was revoked")))
        } else if self.directory.entries().len() >= self.rules.nodes_max && !self.directory.contains(node) {
            Some((Refusal::Limit, format!("{} nodes are there, which is the most", self.rules.nodes_max)))
        } else {
            None
        };
        if let Some(denied) = refused {
            self.count(denied.0);
            return Err(denied);
        }
        self.connections += 1;
        self.attached.insert(node, self.connections);
        let (cluster, label) = (attach.cluster.clone(), attach.label.clone());
        let more = attach.more.clone();
        self.directory.join(Entry { node, cluster, label, since: clock.unix(), more });
        Ok(self.connections)
    }

    /// Whether a connection is the one over which its node is there.
    pub(crate) fn is_current(&self, node: NodeId, connection: u64) -> bool {
        self.attached.get(&node) == Some(&connection)
    }

    /// A connection has ended; its node is gone, unless it has another one.
    pub(crate) fn detach(&mut self, node: NodeId, connection: u64, why: Departure) {
        if self.is_current(node, connection) {
            self.attached.remove(&node);
            self.directory.leave(node, why);
        }
    }

    /// A new certificate for a member.
    pub(crate) fn renew(&mut self, node: NodeId, request: &[u8], clock: Moment) -> Result<Vec<u8>, Denied> {
        if self.revoked.contains_key(&node) {
            self.count(Refusal::Revoked);
            return Err((Refusal::Revoked, format!("node {node} was revoked")));
        }
        let made = self.authority.certify(node, request, clock, self.rules.certificate_lifetime);
        made.map(|certificate| certificate.to_vec()).map_err(|e: Error| {
            self.count(Refusal::Malformed);
            (Refusal::Malformed, e.to_string())
        })
    }

    /// Takes a node out of the session, for good. Whether it was there; `None` when there is no room for more.
    pub(crate) fn revoke(&mut self, node: NodeId, clock: Moment) -> Option<bool> {
        self.directory.forget_ended(clock);
        if self.revoked.len() >= REVOKED_MAX && !self.revoked.contains_key(&node) {
            // Who has no certificate any more is refused without being known.
            self.revoked.retain(|_, until| clock < *until);
            if self.revoked.len() >= REVOKED_MAX {
                return None;
            }
        }
        let end = self.last_certificates_end(clock);
        let until = *self.revoked.entry(node).or_insert(end);
        self.directory.revoke(node, until);
        Some(self.attached.remove(&node).is_some())
    }

    /// Nodes that were revoked before this start; `None`: it is not known until when it matters.
    pub(crate) fn revoked_before(&mut self, revoked: BTreeMap<NodeId, Option<Moment>>, clock: Moment) {
        let end = self.last_certificates_end(clock);
        self.revoked = revoked.into_iter().map(|(node, until)| (node, until.unwrap_or(end))).collect();
        for (node, until) in &self.revoked {
            if clock < *until {
                self.directory.revoke(*node, *until);
            }
        }
    }

    /// When certificates have ended that were made until now, by any clock that is right enough.
    fn last_certificates_end(&self, clock: Moment) -> Moment {
        clock.after(self.rules.certificate_lifetime).after(2 * CLOCK_SKEW)
    }

    /// Counts a refusal.
    pub(crate) fn count(&mut self, refusal: Refusal) {
        *self.refusals.entry(refusal).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
