//! Peers of other users, where the configuration allows them.
//!
//! Such a peer is given nothing of what the fabric shares with its own user's processes. Each side makes for the link a
//! segment of its own, which holds the link block, the arming word and the staging buffers of this pair and nothing else.
//! Whoever has a doorbell can keep it from ringing for others, or make ringing block, so there is none either: a
//! sleeper is woken by a packet on the link's socket. Loans, single copies, heaps and records of regions stay out; a
//! peer that speaks of them breaks the protocol.
//!
//! They meet at an abstract Unix socket, which is in no directory, so that no directory need be open to others. Anybody
//! can call there, and anybody can take the name of one that has ended: each side asks the kernel for the user of the other.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sink};
use gridnet_core::sync::{fence, Ordering};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};

use crate::arena::{Arena, MAX_STAGING};
use crate::config::ShmConfig;
use crate::layout::{link_block_len, Header, ARENA_OFFSET};
use crate::poller::{Poller, Watched};
use crate::rail::{Link, ShmRail};
use crate::segment::OwnSegment;
use crate::socket::{self, Packet};
use crate::staging::{BULK_DEPTH, PROMPT_CREDIT};
use crate::users::User;

/// Connections that are accepted in one go, so that strangers who call on and on keep nobody waiting.
const CALLS_AT_A_TIME: usize = 16;
/// Refused users that are remembered, to warn of each once.
const MOST_REFUSED: usize = 64;

/// How a fabric meets other users.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) listener: OwnedFd,
    /// Links that are not over. The node ids of other users are their own affair.
    by_node: HashMap<(u32, NodeId), u32>,
    refused: Vec<u32>,
}

/// What a link to another user has to itself.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The user of the peer.
    pub(crate) user: u32,
    /// The segment that this peer alone maps.
    pub(crate) arena: Arena,
}

impl Foreign {
    /// Listens for other users.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn open(local: &Address, poller: &Poller) -> Result<Foreign, Refusal> {
        let listener = socket::listen_abstract(&name_of(local))?;
        poller.watch(&listener, Watched::Foreign)?;
        Ok(Foreign { listener, by_node: HashMap::new(), refused: Vec::new() })
    }

    /// The link to a node of a user, unless it is over.
    pub(crate) fn index_of(&self, user: u32, node: NodeId) -> Option<u32> {
        self.by_node.get(&(user, node)).copied()
    }

    /// All links that are not over.
    pub(crate) fn links(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_node.values().copied()
    }

    /// Enters a link.
    pub(crate) fn enter(&mut self, user: u32, node: NodeId, index: u32) {
        self.by_node.insert((user, node), index);
    }

    /// A link is over.
    pub(crate) fn forget(&mut self, user: u32, node: NodeId, index: u32) {
        if self.by_node.get(&(user, node)) == Some(&index) {
            self.by_node.remove(&(user, node));
        }
    }

    fn note_refused(&mut self, user: u32, refusal: &Refusal) {
        if self.refused.len() < MOST_REFUSED && !self.refused.contains(&user) {
            self.refused.push(user);
            tracing::warn!(user, reason = %refusal.reason, "connection refused");
        } else {
            tracing::debug!(user, reason = %refusal.reason, "connection refused");
        }
    }
}

impl Pair {
    /// Makes the segment for one peer of `user`.
    ///
    /// # Errors
    /// What the system does not allow.
    pub(crate) fn new(user: u32, config: &ShmConfig) -> Result<Pair, Refusal> {
        let size = pair_size(config.ring_slots, config.link_window);
        let header = Header::new(size, *config.local.node.bytes(), config.local.incarnation);
        let mut segment = OwnSegment::create(size, &header, false)?;
        segment.hide_address();
        Ok(Pair { user, arena: Arena::new(segment, config.ring_slots) })
    }
}

/// Room for the block, and twice for all that may be under way, since buffers are as long as their class.
pub(crate) fn pair_size(slots: u32, window: usize) -> usize {
    let under_way = slots as usize * PROMPT_CREDIT + window + BULK_DEPTH * MAX_STAGING;
    (ARENA_OFFSET + link_block_len(slots) + 2 * under_way).next_multiple_of(ARENA_OFFSET)
}

impl ShmRail {
    /// Calls the fabric of another user; its socket.
    pub(crate) fn reach_foreign(&self, address: &Address) -> Result<OwnedFd, Refusal> {
        let stream = socket::connect_abstract(&name_of(address)).map_err(|refusal| match refusal.error {
            Error::Unreachable => self.explain_absence(address),
            _ => refusal,
        })?;
        let user = socket::peer_user(&stream)?;
        if user == address.uid {
            return Ok(stream);
        }
        let why = format!("a process of user {user} listens where user {} should", address.uid);
        Err(Refusal::new(Error::Permission, why))
    }

    /// Why nobody listens for us: the sockets of a host can be listed by all of its users.
    fn explain_absence(&self, address: &Address) -> Refusal {
        let listed = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        // The socket for its own user, in the run directory.
        if listed.contains(&format!("/{:016x}/{}.", address.host, address.node)) {
            let why = format!(
                "GRIDNET_SHM_ALLOW_UIDS of the process of user {} is empty: it does not name user {}",
                address.uid,
                self.users.own()
            );
            return Refusal::new(Error::Permission, why);
        }
        Refusal::new(
            Error::Unreachable,
            "no process of this network namespace listens there for other users: the peer has ended, or is in another",
        )
    }

    /// What the other end of a connection is to us; strangers come by the foreign listener only.
    pub(crate) fn user_of(&self, stream: &OwnedFd) -> Result<User, Refusal> {
        if self.foreign.is_none() {
            return Ok(User::Own);
        }
        self.users.check(socket::peer_user(stream)?)
    }

    pub(crate) fn accept_foreign<S: Sink>(&mut self, now: Time, sink: &mut S) {
        for _ in 0..CALLS_AT_A_TIME {
            let Some(foreign) = &mut self.foreign else { return };
            let stream = match socket::accept_next(&foreign.listener) {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(errno) => return self.pause_listening(errno, now),
            };
            let user = socket::peer_user(&stream).unwrap_or(u32::MAX);
            match self.users.check(user) {
                Ok(_) => self.hear_greeting(stream, now, sink),
                Err(refusal) => {
                    foreign.note_refused(user, &refusal);
                    // An error says that the caller has gone.
                    let _ = socket::send_reject(&stream, &refusal);
                }
            }
        }
    }

    /// The link to a node of the own user (`None`) or another one, unless it is over.
    pub(crate) fn index_of(&self, user: Option<u32>, node: NodeId) -> Option<u32> {
        match user {
            None => self.by_node.get(&node).copied(),
            Some(user) => self.foreign.as_ref()?.index_of(user, node),
        }
    }

    /// Shows the sleep, or its end, to peers of other users: they do not see the word of the common segment.
    pub(crate) fn show_arming(&self) {
        if self.pairs == 0 {
            return;
        }
        for index in self.foreign.iter().flat_map(Foreign::links) {
            self.show_arming_to(&self.links[index as usize]);
        }
        // Orders the arming before what is looked at next, as `Bell::arm` does.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn show_arming_to(&self, link: &Link) {
        if let Some(pair) = &link.pair {
            let word = self.arena.segment().arming().load(Ordering::Relaxed);
            pair.arena.segment().arming().store(word, Ordering::Relaxed);
        }
    }
}

/// What a refused caller finds in its line, if its call was cut short.
pub(crate) fn refusal_heard(stream: &OwnedFd, otherwise: Refusal) -> Refusal {
    match socket::receive(stream) {
        Ok(Packet::Reject(refusal)) => refusal,
        _ => otherwise,
    }
}

/// The number that an engine gives to a caller.
pub(crate) fn introduce<S: Sink>(
    sink: &mut S,
    user: Option<u32>,
    link: LinkId,
    (node, incarnation): (NodeId, u64),
) -> Result<PeerId, Refusal> {
    match user {
        None => sink.accept(link, node, incarnation),
        Some(user) => sink.accept_foreign(link, node, incarnation, user),
    }
}

/// The name at which a fabric meets other users. The node id is 128 random bits.
fn name_of(address: &Address) -> String {
    format!("gridnet-{:016x}-{}", address.host, address.node)
}

#[cfg(test)]
mod tests;
