//! The rendez-vous node's judgement: who may join, who is there. No sockets, no clock: both are handed in.

mod places;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;

use crate::authority::{Authority, CLOCK_SKEW};
use crate::clock::Moment;
use crate::cluster::Clusters;
use crate::directory::{Departure, Directory, Head, Still};
use crate::error::{Error, Refusal};
use crate::freight::Shares;
use crate::message::{Join, Joined};
use crate::rate::Rates;
use crate::secret::JoinSecret;
use crate::strangers::network;
use places::Places;

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
    /// Joins that are judged of one address (IPv6: of one network of 64 bits), per second.
    pub joins_per_second: u32,
    /// Most nodes that are there at a time.
    pub nodes_max: usize,
    /// A member of which nothing is heard for so long is lost. It says something each second.
    pub silence: Duration,
    /// How often members are told that the directory is still so: they look for more when they have not heard it for 150 s.
    pub still: Duration,
    /// What is passed on of pipes between members.
    pub relay: Shares,
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
            still: Duration::from_secs(60),
            relay: Shares::default(),
        }
    }
}

/// Requests of one node for the directory, a certificate or a new connection, per second.
const ASKED_PER_SECOND: u32 = 10;
/// Packets of one node, and of a leader and those below it, per second.
const SENT_PER_SECOND: (u32, u32) = (500, 10_000);

/// Nodes that a leader says to be there, or not any more, per second; beyond, it is listened to more slowly.
const REPORTED_PER_SECOND: u32 = 2000;

/// Revoked nodes that are kept, and told to members: some 300 KB of the directory.
const REVOKED_MAX: usize = 16_384;

/// A refusal, and what it says.
pub(crate) type Denied = (Refusal, String);

/// A state of the directory, signed.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) directory: Directory,
    pub(crate) head: Head,
    at: Instant,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Register {
    authority: Authority,
    rules: Rules,
    pub(crate) tickets: BTreeMap<NodeId, TicketState>,
    /// Revoked nodes, and when the last certificate of each has surely ended.
    pub(crate) revoked: BTreeMap<NodeId, Moment>,
    pub(crate) directory: Directory,
    /// The last state of it that was signed.
    signed: Option<Signed>,
    pub(crate) clusters: Clusters,
    places: Places,
    /// By which it knows its own passes.
    secret: JoinSecret,
    joins: Rates<IpAddr>,
    /// What members ask for that costs more than an answer.
    asked: Rates<NodeId>,
    /// Packets.
    sent: Rates<NodeId>,
    sent_by_leaders: Rates<NodeId>,
    /// What leaders say of those below them, and what of it is noted when it is refused.
    reported: Rates<NodeId>,
    noted: Rates<NodeId>,
    pub(crate) refusals: BTreeMap<Refusal, u64>,
    pub(crate) joined: u64,
}

impl Register {
    pub(crate) fn new(authority: Authority, rules: Rules, epoch: u64, clock: Moment) -> Register {
        let mut places = Places::default();
        places.begin(clock);
        let of_nodes = |per_second| Rates::new(per_second).callers(rules.nodes_max);
        Register {
            clusters: Clusters::default(),
            places,
            secret: authority.own_secret(),
            authority,
            rules,
            tickets: BTreeMap::new(),
            revoked: BTreeMap::new(),
            directory: Directory::new(epoch),
            signed: None,
            joins: Rates::new(rules.joins_per_second),
            asked: of_nodes(ASKED_PER_SECOND),
            sent: of_nodes(SENT_PER_SECOND.0),
            sent_by_leaders: of_nodes(SENT_PER_SECOND.1),
            reported: of_nodes(REPORTED_PER_SECOND),
            noted: of_nodes(ASKED_PER_SECOND),
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
        if !self.joins.allows(network(from), now) {
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

    /// Whether a leader may go on at once saying who is below it.
    pub(crate) fn may_report(&mut self, leader: NodeId, now: Instant) -> bool {
        self.reported.allows(leader, now)
    }

    /// Whether a refusal of what a leader has said is to be noted: the lines of others are not to be pushed out.
    pub(crate) fn may_note(&mut self, leader: NodeId, now: Instant) -> bool {
        self.noted.allows(leader, now)
    }

    /// A new certificate for a member.
    pub(crate) fn renew(
        &mut self,
        node: NodeId,
        request: &[u8],
        (now, clock): (Instant, Moment),
    ) -> Result<Vec<u8>, Denied> {
        self.ask(node, now)?;
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
    pub(crate) fn revoke(&mut self, node: NodeId, (now, clock): (Instant, Moment)) -> Option<bool> {
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
        let was_there = self.remove(node, Departure::Revoked, now);
        self.directory.revoke(node, until);
        Some(was_there)
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

    /// The state of the directory, signed; an earlier one, when that was signed less than `pause` ago: all of it is looked at for that,
    /// so that it is signed once for all that changes meanwhile.
    pub(crate) fn signed(&mut self, now: Instant, pause: Duration) -> Result<&Signed, Error> {
        let is_good =
            |signed: &Signed| signed.head.version == self.directory.version() || now < signed.at + pause;
        let signed = match self.signed.take().filter(is_good) {
            Some(signed) => signed,
            None => {
                let directory = self.directory.clone();
                Signed { head: Head::sign(&directory, &self.authority)?, directory, at: now }
            }
        };
        Ok(self.signed.insert(signed))
    }

    /// Until when that stays so.
    pub(crate) fn signed_until(&self, pause: Duration) -> Option<Instant> {
        let signed = self.signed.as_ref()?;
        (signed.head.version != self.directory.version()).then(|| signed.at + pause)
    }

    /// A word that the directory is as it is now.
    pub(crate) fn still(&self, now: Moment) -> Result<Still, Error> {
        Still::sign(self.directory.version(), now, &self.authority)
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
