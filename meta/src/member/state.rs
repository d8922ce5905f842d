//! What the parts of a member share.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use gridnet_assembly::facts::Offer;
use gridnet_core::wire::NodeId;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::{watch, Notify};

use super::connect::Whereabouts;
use super::fresh::Freshness;
use super::lines::Lines;
use super::relay::Relays;
use super::{lead, post, About, Connection};
use crate::audit::Audit;
use crate::authority::AuthorityKey;
use crate::clock::Moment;
use crate::directory::{Departure, Event, Follower, Pending, Still, Tables, Trouble, Update, Version, OFFER};
use crate::driver::Common;
use crate::error::{Error, Refusal};
use crate::freight::Freight;
use crate::hub::Encoder;
use crate::identity::Identity;
use crate::message::{Attach, Message};
use crate::name::Name;
use crate::office::Office;
use crate::pass::Pass;
use crate::queue::Queue;
use crate::rate::Rates;
use crate::record::Extras;
use crate::strangers::Hellos;
use crate::through::Tunnels;
use crate::tls::{self, CurrentKey};

/// Events that wait to be taken; beyond, the oldest are dropped, and that is told.
const EVENTS_MAX: usize = 4096;
/// Requests of one that is below for the directory, and packets of it, per second.
const BELOW_PER_SECOND: (u32, u32) = (10, 500);
/// Leaders that are remembered not to be followed any more.
const MISTRUSTED_MAX: usize = 64;

/// The connection of the moment.
pub(super) struct Uplink {
    pub(super) queue: Queue,
    /// The leader at the other end; `None`: the rendez-vous node.
    pub(super) leader: Option<NodeId>,
}

pub(super) struct State {
    pub(super) follower: Follower,
    pub(super) encoder: Encoder,
    /// From the moment on when somebody wants them: of thousands of nodes they take as much room as the directory.
    pub(super) events: Option<VecDeque<Event>>,
    /// Whether events were dropped.
    pub(super) missed: bool,
    pub(super) connection: Connection,
    pub(super) identity: Identity,
    pub(super) uplink: Option<Uplink>,
    pub(super) leading: Option<lead::Leading>,
    /// What tells this host from others; nothing where the system does not say.
    pub(super) host: Option<Name>,
    /// By which own addresses the rendez-vous node, and the leader, were reached last.
    pub(super) own: [Option<IpAddr>; 2],
    /// The leader that could not be reached.
    pub(super) unreached: Option<NodeId>,
    /// Leaders that have said what is not true, or what is not for them to say.
    mistrusted: BTreeSet<NodeId>,
    /// Counts what has changed, for those who wait.
    pub(super) changes: u64,
    pub(super) asked: Rates<NodeId>,
    pub(super) sent: Rates<NodeId>,
    pub(super) audit: Audit,
    pub(super) fresh: Freshness,
}

pub(crate) struct Shared {
    pub(super) node: NodeId,
    pub(super) rendezvous: Whereabouts,
    pub(super) about: About,
    pub(super) cluster: Name,
    pub(super) authority: CertificateDer<'static>,
    pub(super) key: Arc<CurrentKey>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Counts changes of the directory, for those below.
    pub(super) versions: watch::Sender<u64>,
    /// There is something to report to the rendez-vous node.
    pub(super) report: Notify,
    pub(super) post: post::Post,
    /// Of those who come to be below it.
    pub(super) hellos: Hellos,
    /// Of newcomers that are to be passed on.
    pub(super) tunnels: Tunnels,
    /// What is passed on of pipes.
    pub(super) freight: Arc<Freight>,
    pub(super) relays: Relays,
    /// Ways to other members for requests, without the tree.
    pub(super) lines: Lines,
}

impl Shared {
    pub(super) fn new(
        rendezvous: impl Into<Whereabouts>,
        about: About,
        (identity, authority): (Identity, CertificateDer<'static>),
        Common { turns, shelf, handle }: Common,
    ) -> Result<Shared, Error> {
        let node = identity.node();
        let cluster = about.cluster.clone().map_or_else(crate::name::of_host, Ok)?;
        let key = Arc::new(CurrentKey::new(identity.certified_key(&authority)?));
        let sealing = (tls::asking(&authority, &identity)?, tls::asked(&authority, key.clone())?);
        let not_yet = Connection::Lost(Moment::now(), Error::Unreachable("not attached yet".into()));
        let state = State {
            follower: Follower::beside(AuthorityKey::of(&authority)?, shelf),
            encoder: Encoder::default(),
            events: None,
            missed: false,
            connection: not_yet,
            identity,
            uplink: None,
            leading: None,
            host: crate::name::of_host().ok(),
            own: [None; 2],
            unreached: None,
            mistrusted: BTreeSet::new(),
            changes: 0,
            asked: Rates::new(BELOW_PER_SECOND.0),
            sent: Rates::new(BELOW_PER_SECOND.1),
            audit: Audit::default(),
            fresh: Freshness::new(Instant::now()),
        };
        Ok(Shared {
            node,
            rendezvous: rendezvous.into(),
            cluster,
            authority,
            key,
            state: Mutex::new(state),
            changed: Condvar::new(),
            versions: watch::Sender::new(0),
            report: Notify::new(),
            post: post::Post::new(Office::new(node, sealing), turns),
            hellos: Hellos::default(),
            tunnels: Tunnels::default(),
            freight: Freight::new(about.relay),
            relays: Relays::new(handle.clone()),
            lines: Lines::new(handle),
            about,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it but by a defect; what is there is whole all the same.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a change after so many; whether there was one in time.
    pub(super) fn wait_for_change(&self, changes: u64, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.changes == changes {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        true
    }

    /// Who is there, and was revoked.
    pub(super) fn tables(&self) -> Arc<Tables> {
        self.lock().follower.directory().tables()
    }

    pub(super) fn identity(&self) -> Identity {
        self.lock().identity.clone()
    }

    /// What it says to whom it attaches; to its leader with a pass.
    pub(super) fn attach(&self, pass: Option<Pass>) -> Attach {
        let offer = self.about.offer.as_ref().map(Offer::encode);
        let state = self.lock();
        Attach {
            cluster: self.cluster.clone(),
            label: self.about.label.clone(),
            known: state.follower.version(),
            will: self.about.will,
            leads: state.leading.as_ref().map(|leading| leading.addresses.clone()).unwrap_or_default(),
            pass,
            // An offer is bounded, and fits.
            more: offer.and_then(|offer| Extras::default().with(OFFER, &offer)).unwrap_or_default(),
        }
    }

    /// Another connection is the one of the moment.
    pub(super) fn linked(&self, queue: &Queue, leader: Option<NodeId>) {
        self.change(|state| state.uplink = Some(Uplink { queue: queue.clone(), leader }));
        self.tell_below(true);
        // What was on its way by the one before may be lost, and so may be what was answered.
        if self.post.office().moved(None, Instant::now()) {
            self.send_all();
        }
    }

    /// There is none.
    pub(super) fn unlinked(&self) {
        self.change(|state| {
            state.uplink = None;
            state.unreached = None;
        });
        self.end_relays_by_uplink();
        self.tell_below(false);
    }

    pub(super) fn renewed(&self, identity: Identity) -> Result<(), Error> {
        self.key.set(identity.certified_key(&self.authority)?);
        let sealing =
            (tls::asking(&self.authority, &identity)?, tls::asked(&self.authority, self.key.clone())?);
        self.post.office().renewed(sealing);
        self.change(|state| state.identity = identity);
        Ok(())
    }

    /// The rendez-vous node hears this member.
    pub(super) fn attached(&self) {
        if self.lock().connection != Connection::Attached {
            self.change(|state| state.connection = Connection::Attached);
        }
    }

    /// The rendez-vous node does not hear this member, for this reason.
    pub(super) fn lost(&self, why: Error) {
        self.change(|state| {
            let since = match &state.connection {
                Connection::Lost(since, _) => *since,
                _ => Moment::now(),
            };
            state.connection = Connection::Lost(since, why);
        });
    }

    /// Why a node is not to be followed; `None` when it may be.
    pub(super) fn why_not_follow(&self, leader: NodeId) -> Option<Error> {
        let state = self.lock();
        if state.follower.directory().is_revoked(leader) {
            return Some(Error::Refused(Refusal::Revoked, format!("leader {leader} was revoked")));
        }
        let is_mistrusted = state.mistrusted.contains(&leader);
        is_mistrusted.then(|| Error::Peer(format!("leader {leader} has said what it must not say")))
    }

    /// A leader is not followed any more.
    pub(super) fn mistrust(&self, leader: NodeId) {
        let mut state = self.lock();
        if state.mistrusted.len() >= MISTRUSTED_MAX {
            state.mistrusted.pop_first();
        }
        state.mistrusted.insert(leader);
    }

    /// Takes a word of the rendez-vous node, from itself or from a leader, and passes it on to those below.
    ///
    /// # Errors
    /// [`Error::Peer`] when the authority has not said so.
    pub(super) fn take_still(&self, still: Still, is_direct: bool) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.follower.believes(&still) {
            return Err(Error::Peer("a word that the session's authority has not signed".into()));
        }
        let known = state.follower.version();
        state.fresh.take(&still, is_direct, known, Instant::now());
        if let (Some(leading), Ok(message)) = (&state.leading, Message::Still(still).encode()) {
            leading.members.values().for_each(|below| _ = below.queue.try_send(message.clone()));
        }
        Ok(())
    }

    /// Whether something may be kept back from this member.
    pub(super) fn is_doubtful(&self) -> bool {
        let state = self.lock();
        state.fresh.is_doubtful(state.follower.version(), Instant::now())
    }

    /// Takes what has changed of the directory, by which the rendez-vous node shows that it hears us, unless our leader has lost it;
    /// where it is when something is missing before.
    ///
    /// # Errors
    /// [`Error::Peer`] when the authority has not said so.
    pub(super) fn take_update(
        &self,
        pending: &mut Pending,
        update: Update,
        is_heard: bool,
    ) -> Result<Option<Version>, Error> {
        let (mut gap, mut is_forged, mut gone, mut moved) = (None, false, Vec::new(), Vec::new());
        self.change(|state| match state.follower.take_of(pending, update) {
            Ok(events) => {
                for event in events.iter() {
                    match event {
                        Event::Left(node, why) => gone.push((*node, *why)),
                        Event::Joined(entry) => moved.push(entry.node),
                    }
                }
                if is_heard {
                    state.connection = Connection::Attached;
                }
                if let Some(waiting) = &mut state.events {
                    waiting.extend(events.iter().cloned());
                    while waiting.len() > EVENTS_MAX {
                        waiting.pop_front();
                        state.missed = true;
                    }
                }
            }
            Err(Trouble::Gap) => gap = Some(state.follower.version()),
            Err(Trouble::Forged) => is_forged = true,
        });
        if is_forged {
            return Err(Error::Peer("changes of the directory that its authority has not signed".into()));
        }
        for (node, why) in gone {
            self.relays.gone(node, why);
            if why == Departure::Revoked {
                self.lines.end(node);
                let why = Error::Refused(Refusal::Revoked, format!("node {node} was revoked"));
                self.post.office().forget(node, &why);
            }
        }
        self.look_for_moved(&moved);
        self.versions.send_modify(|version| *version += 1);
        Ok(gap)
    }
    /// These nodes are there, perhaps by another way than before.
    fn look_for_moved(&self, nodes: &[NodeId]) {
        let now = Instant::now();
        let more = {
            let mut office = self.post.office();
            nodes.iter().filter(|node| office.moved(Some(**node), now)).count()
        };
        if more > 0 {
            self.send_all();
        }
    }
}
