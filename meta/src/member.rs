//! A member of a session: joins, stays connected to the rendez-vous node or to its leader, and knows who else is there.
//!
//! One thread does it, with all signals blocked. When the rendez-vous node is lost, what is known stays, and the member comes
//! back by itself; its certificate is renewed in time. A member that is appointed leads its cluster: see `lead.rs`.

mod admit;
mod assemble;
mod caller;
mod connect;
mod fresh;
mod keep;
mod lead;
mod lines;
mod link;
#[cfg(test)]
mod mutated;
mod post;
mod present;
mod relay;
mod state;
mod turn;
mod uplink;
#[cfg(test)]
mod wild;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gridnet_assembly::facts::Offer;
use gridnet_core::wire::NodeId;
use tokio::sync::{oneshot, watch};

use crate::audit::Line;
use crate::clock::Moment;
use crate::cluster::Will;
use crate::directory::{Entry, Event, Version};
use crate::driver::{Common, Driver};
use crate::error::Error;
use crate::freight::Shares;
use crate::kept;
use crate::name::Name;
use crate::ticket::Ticket;
use state::{Shared, State};

pub use admit::Passage;
pub use assemble::{Agreed, Assembler, NoPath, Wanted, ASSEMBLY};
pub use caller::{Bell, Need, Pending};
pub use keep::Keeper;
pub use lines::{At as MetaAt, Line as MetaLine, LineState, LINE, META};
pub use post::{Answered, Handler, ECHO};
pub(crate) use present::Present;
pub use relay::{Fate, Relay, ABOUT_BYTES_MAX, RELAY};

/// What a member says of itself, and how it is to behave.
#[derive(Debug, Clone)]
pub struct About {
    /// Its cluster: nodes that reach one another by a network of their own. `None`: that of its host.
    pub cluster: Option<Name>,
    /// For people: host and process.
    pub label: Name,
    /// Whether it is to lead its cluster.
    pub will: Will,
    /// Where it listens for its cluster when it leads. `None`: at the address from which it has reached the rendez-vous node, or
    /// 127.0.0.1 when all of the cluster is on this host; at a port that the system chooses.
    pub listen: Option<SocketAddr>,
    /// Where it is, and what stacks can be built to it. `None`: none can.
    pub offer: Option<Offer>,
    /// What it passes on of the pipes of those below it, when it leads.
    pub relay: Shares,
    /// Whether requests may go over lines of their own between two members, where rules and network let them. Otherwise all go over the
    /// bootstrap channel.
    pub lines: bool,
    /// Whether it passes on, when it leads, what newcomers of a closed network say to the rendez-vous node.
    pub passes_joins: bool,
}

impl About {
    /// One that is in the cluster of its host, and leads it if it is elected.
    pub fn new(label: Name) -> About {
        About {
            cluster: None,
            label,
            will: Will::Willing,
            listen: None,
            offer: None,
            relay: Shares::default(),
            lines: true,
            passes_joins: false,
        }
    }
}

/// Whether the rendez-vous node hears us, by itself or through our leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// It does.
    Attached,
    /// It does not, since then, for this reason; it is tried again and again.
    Lost(Moment, Error),
    /// It never will again: the session has refused us.
    Refused(Error),
}

/// A process's place in a session, which ends when this is dropped.
pub struct Member {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
    /// The one that runs this member alone.
    _driver: Option<Driver>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({})", self.node())
    }
}

impl Member {
    /// Joins the session of a ticket, and waits until the directory is there.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason; [`Error::Unreachable`] with what each address answered; [`Error::Peer`] when who
    /// answers is not the rendez-vous node of the ticket.
    pub fn join(ticket: Ticket, about: About, limit: Duration) -> Result<Member, Error> {
        Member::join_prepared(ticket, about, limit, |_| ()).map(|(member, ())| member)
    }

    /// The same, run by a driver that others use, too, and that lives longer.
    ///
    /// # Errors
    /// As [`Member::join`].
    pub fn join_by(driver: &Driver, ticket: Ticket, about: About, limit: Duration) -> Result<Member, Error> {
        let joined = Member::join_as(driver, None, (ticket, about), limit, |_| ());
        joined.map(|(member, ())| member)
    }

    /// Joins as [`Member::join`] does, and prepares itself before any other member hears of it: what `prepare` gives it is there
    /// for the first that asks. The directory is not there yet then.
    ///
    /// # Errors
    /// As [`Member::join`].
    pub fn join_prepared<Prepared>(
        ticket: Ticket,
        about: About,
        limit: Duration,
        prepare: impl FnOnce(&Member) -> Prepared,
    ) -> Result<(Member, Prepared), Error> {
        Member::join_alone(None, (ticket, about), limit, prepare)
    }

    /// The same with a driver of its own, as this node if there is one.
    fn join_alone<Prepared>(
        earlier: Option<keep::Known>,
        of: (Ticket, About),
        limit: Duration,
        prepare: impl FnOnce(&Member) -> Prepared,
    ) -> Result<(Member, Prepared), Error> {
        let driver = Driver::start()?;
        let (mut member, prepared) = Member::join_as(&driver, earlier, of, limit, prepare)?;
        member._driver = Some(driver);
        Ok((member, prepared))
    }

    /// The same, run by this driver.
    fn join_as<Prepared>(
        driver: &Driver,
        earlier: Option<keep::Known>,
        (ticket, about): (Ticket, About),
        limit: Duration,
        prepare: impl FnOnce(&Member) -> Prepared,
    ) -> Result<(Member, Prepared), Error> {
        let deadline = Instant::now() + limit;
        let late = || Error::Unreachable(format!("the session was not joined within {limit:?}"));
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        let (begin, begun) = oneshot::channel();
        let common = driver.common();
        driver.run(async move {
            be_member((ticket, earlier), about, (deadline, common), (tell, begun), stopped).await;
            drop(end);
        });
        // However long the system takes to look up a name, this call ends in time.
        let shared = told.recv_timeout(limit).map_err(|_| late())??;
        let member = Member { shared, stop, ended: Mutex::new(ended), _driver: None };
        let prepared = prepare(&member);
        member.shared.has_joined();
        // The task is gone only if it was told to stop.
        let _ = begin.send(());
        let is_there = |state: &State| {
            state.follower.version() != Version::default()
                || matches!(state.connection, Connection::Refused(_))
        };
        match (member.wait(deadline, is_there, |is_there| *is_there), member.connection()) {
            (_, Connection::Refused(e)) | (false, Connection::Lost(_, e)) => Err(e),
            (true, _) => Ok((member, prepared)),
            (false, _) => Err(late()),
        }
    }

    /// Who this is.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Name {
        &self.shared.cluster
    }

    /// Until when its certificate is valid.
    pub fn certified_until(&self) -> Moment {
        self.shared.lock().identity.until()
    }

    /// Whether the rendez-vous node hears it.
    pub fn connection(&self) -> Connection {
        self.shared.lock().connection.clone()
    }

    /// Whether it speaks to the rendez-vous node over plain TCP, as its ticket says.
    pub fn is_insecure(&self) -> bool {
        self.shared.rendezvous.insecure
    }

    /// The leader that it is connected to; `None` when it is connected to the rendez-vous node itself, or to nobody.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.lock().uplink.as_ref()?.leader
    }

    /// Where it listens for its cluster, when it leads it.
    pub fn leads_at(&self) -> Option<Vec<SocketAddr>> {
        self.shared.lock().leading.as_ref().map(|leading| leading.addresses.clone())
    }

    /// The last that this member has refused itself, as a leader.
    pub fn refused(&self) -> Vec<Line> {
        self.shared.lock().audit.lines().cloned().collect()
    }

    /// Who is there, itself among them, by node id.
    pub fn nodes(&self) -> Vec<Entry> {
        self.shared.tables().list()
    }

    /// Whether a node was revoked, as far as this member knows the directory: also when nobody serves the session any more.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.shared.lock().follower.directory().is_revoked(node)
    }

    /// Writes who this is, and which nodes were revoked, into a directory from which other programs of this user can be the same
    /// node ([`credentials`](crate::credentials)). To be done again when [`Self::certified_until`] or [`Self::version`] has
    /// changed.
    ///
    /// # Errors
    /// [`Error::Permission`] when others can look into the directory, [`Error::Config`] when it cannot be made.
    pub fn keep_in(&self, dir: &Path) -> Result<(), Error> {
        kept::create(dir)?;
        let (identity, revoked) = {
            let state = self.shared.lock();
            (state.identity.clone(), state.follower.directory().revocations().clone())
        };
        // First who is refused: nobody is to be taken who is not any more.
        kept::write_revoked(dir, &revoked)?;
        kept::write_node(dir, &identity, &self.shared.authority)
    }

    /// How far this member knows the directory.
    pub fn version(&self) -> Version {
        self.shared.lock().follower.version()
    }

    /// Who is there, and from now on events tell what changes.
    pub fn watch_nodes(&self) -> Vec<Entry> {
        let mut state = self.shared.lock();
        state.events = Some(VecDeque::new());
        state.missed = false;
        state.follower.entries().cloned().collect()
    }

    /// What has changed since [`Member::watch_nodes`], or the last call, in order, and whether some of it was dropped since nobody took
    /// it: then [`Member::nodes`] is to be looked at.
    pub fn take_events(&self) -> (Vec<Event>, bool) {
        let mut state = self.shared.lock();
        let missed = std::mem::take(&mut state.missed);
        (state.events.iter_mut().flat_map(|events| events.drain(..)).collect(), missed)
    }

    /// Waits until the nodes that are there satisfy `holds`, which may ask this member; whether they did in time.
    pub fn wait_for_nodes(&self, limit: Duration, holds: impl Fn(&[Entry]) -> bool) -> bool {
        let see = |state: &State| state.follower.directory().tables();
        self.wait(Instant::now() + limit, see, |tables| holds(&tables.list()))
    }

    /// Waits until so many nodes are there; whether they were in time.
    pub fn wait_for_count(&self, limit: Duration, count: usize) -> bool {
        let see = |state: &State| state.follower.entries().len();
        self.wait(Instant::now() + limit, see, |seen| *seen == count)
    }

    /// Waits for a change of [`Member::connection`]; whether `holds` was true of it in time.
    pub fn wait_for_connection(&self, limit: Duration, holds: impl Fn(&Connection) -> bool) -> bool {
        self.wait(Instant::now() + limit, |state| state.connection.clone(), holds)
    }

    /// Waits until `holds` is true of what `see` sees. Only the latter is called with the lock.
    fn wait<Seen>(
        &self,
        deadline: Instant,
        see: impl Fn(&State) -> Seen,
        holds: impl Fn(&Seen) -> bool,
    ) -> bool {
        loop {
            let (seen, changes) = {
                let state = self.shared.lock();
                (see(&state), state.changes)
            };
            if holds(&seen) {
                return true;
            }
            if !self.shared.wait_for_change(changes, deadline) {
                return false;
            }
        }
    }
}

impl Drop for Member {
    /// Tells the rendez-vous node, in bounded time.
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        // It ends when the task does: nothing is ever sent.
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = ended.recv_timeout(LAST_WORD_LIMIT);
    }
}

/// What `insecure = true` means, for people.
pub const INSECURE: &str =
    "insecure = true: the bootstrap channel is plain TCP, which whoever is on the way can read and change";
/// How long the end of a member may take.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(2);

type Told = std::sync::mpsc::SyncSender<Result<Arc<Shared>, Error>>;

/// The life of a member.
async fn be_member(
    (ticket, earlier): (Ticket, Option<keep::Known>),
    about: About,
    (deadline, common): (Instant, Common),
    (tell, begun): (Told, oneshot::Receiver<()>),
    mut stopped: watch::Receiver<bool>,
) {
    let join = async {
        match earlier {
            Some(known) => keep::go_on(&(&ticket).into(), known, deadline).await,
            None => connect::join_in_time(&ticket, deadline).await,
        }
    };
    let joined = tokio::select! {
        joined = join => joined,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    let shared = joined.and_then(|of| Shared::new(&ticket, about, of, common).map(Arc::new));
    if ticket.insecure {
        tracing::warn!("session: {INSECURE}");
    }
    // The secret is not needed any more.
    drop(ticket);
    if let Ok(shared) = &shared {
        let (shared, (leave, leaving)) = (shared.clone(), watch::channel(false));
        let last = async {
            link::stop(&mut stopped).await;
            shared.relays.leave().await;
            let _ = leave.send(true);
        };
        let live = async {
            tokio::join!(
                uplink::run(shared.clone(), leaving.clone()),
                post::look_after(shared.clone(), leaving.clone()),
                lines::attended::look(&shared, leaving),
                last
            )
        };
        // Nobody begins it any more when the caller has gone.
        if tell.send(Ok(shared.clone())).is_ok() && begun.await.is_ok() {
            live.await;
        }
        shared.relays.end_all();
        shared.lines.end_all();
        return lead::end(&shared);
    }
    let _ = tell.send(shared);
}
