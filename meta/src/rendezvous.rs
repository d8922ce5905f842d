//! The rendez-vous node: the directory of a session, and the authority that certifies its members.
//!
//! It runs in one thread of its own, with all signals blocked. Members do not depend on it once they are connected to one
//! another: it can be stopped and started again, and is filled again by those who come back.

mod admin;
mod visit;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::signal::{SigSet, SigmaskHow};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{watch, Semaphore};
use tokio::task::JoinSet;

use crate::audit::{Audit, Line};
use crate::authority;
use crate::clock::Moment;
use crate::directory::{Departure, Entry, Version};
use crate::error::{Error, Refusal};
use crate::identity::certified_key;
use crate::message::Message;
use crate::register::{Register, Rules};
use crate::store::Store;
use crate::tls;

pub use admin::{ask_status, end_ticket, new_ticket, revoke};

/// Strangers that are heard at a time; others wait in the system's queue.
const STRANGERS_MAX: usize = 256;
/// How long the certificate of the rendez-vous node is valid; it is made when it starts.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// After a start, members of an earlier life are given so long to come back before the others hear who is there.
pub(crate) const SETTLING: Duration = Duration::from_secs(3);

/// What all connections share.
pub(crate) struct Shared {
    state: Mutex<State>,
    store: Store,
    /// Number of the directory's last change: who waits for it looks what it misses.
    changed: watch::Sender<u64>,
    started: Instant,
    rules: Rules,
    /// Connections of each address that have not said who they are.
    strangers: Mutex<HashMap<IpAddr, usize>>,
}

struct State {
    register: Register,
    audit: Audit,
    /// The last updates that were sent: from where, to where.
    encoded: Option<(Version, Version, Encoded)>,
}

/// Updates as they are sent, one message each.
type Encoded = Arc<[Vec<u8>]>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it but by a defect; what is there is whole all the same.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn strangers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.strangers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts and notes a refusal.
    fn refused(&self, who: String, refusal: Refusal, why: &str) {
        let mut state = self.lock();
        state.register.count(refusal);
        state.audit.refused(who, refusal, why, Moment::now());
    }

    /// What a follower that is at `known` misses, as it is sent, and where it is then. Made once for all who miss the same.
    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error> {
        let mut state = self.lock();
        let version = state.register.directory.version();
        // Whoever is of another life misses the same: everything.
        let known = if known.epoch == version.epoch { known } else { Version::default() };
        if let Some((from, to, encoded)) = &state.encoded {
            if (*from, *to) == (known, version) {
                return Ok((encoded.clone(), version));
            }
        }
        let updates = state.register.directory.since(known);
        let encoded: Result<Encoded, Error> =
            updates.into_iter().map(|update| Message::Update(update).encode()).collect();
        let encoded = encoded?;
        state.encoded = Some((known, version, encoded.clone()));
        Ok((encoded, version))
    }

    /// Tells those who wait that the directory has changed, if it has.
    fn announce(&self) {
        let number = self.lock().register.directory.version().number;
        self.changed.send_if_modified(|last| std::mem::replace(last, number) != number);
    }

    /// Takes a node out of the session.
    fn revoke(&self, node: gridnet_core::wire::NodeId) -> Result<bool, Error> {
        let (was_there, kept) = {
            let mut state = self.lock();
            let was_there = state.register.revoke(node, Moment::now()).ok_or_else(|| {
                Error::Config("as many nodes are revoked as can be told: it is time for a new session".into())
            })?;
            (was_there, self.store.keep_revoked(&state.register.revoked))
        };
        self.announce();
        kept.map(|()| was_there)
    }

    /// Makes or ends tickets.
    fn change_tickets(&self, change: impl FnOnce(&Store) -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.lock();
        change(&self.store)?;
        state.register.tickets = self.store.tickets(Moment::now())?;
        Ok(())
    }

    fn status(&self) -> Status {
        let state = self.lock();
        let refusals = state.register.refusals.iter();
        Status {
            session: self.store.session().to_string(),
            nodes: state.register.directory.entries().cloned().map(NodeStatus::from).collect(),
            joined: state.register.joined,
            revoked: state.register.revoked.keys().map(ToString::to_string).collect(),
            refusals: refusals.map(|(refusal, count)| (refusal.name().to_owned(), *count)).collect(),
            refused: state.audit.lines().cloned().collect(),
        }
    }
}

/// What `gridnet session status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The session.
    pub session: String,
    /// Who is there.
    pub nodes: Vec<NodeStatus>,
    /// How many have joined since the rendez-vous node was started.
    pub joined: u64,
    /// Who was revoked.
    pub revoked: Vec<String>,
    /// How many were refused since the start, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// The last of them.
    pub refused: Vec<Line>,
}

/// A node, as [`Status`] shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// What it says of itself.
    pub label: String,
    /// When it came, as RFC 3339 writes it.
    pub since: String,
}

impl From<Entry> for NodeStatus {
    fn from(entry: Entry) -> NodeStatus {
        NodeStatus {
            node: entry.node.to_string(),
            cluster: entry.cluster.to_string(),
            label: entry.label.to_string(),
            since: Moment::from_unix(entry.since).to_string(),
        }
    }
}

/// A rendez-vous node that runs. It stops when this is dropped.
pub struct Rendezvous {
    shared: Arc<Shared>,
    listening: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    /// Nobody else serves the session.
    _lock: Flock<std::fs::File>,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rendezvous({:?})", self.listening)
    }
}

impl Rendezvous {
    /// Starts the rendez-vous node of a session.
    ///
    /// # Errors
    /// [`Error::Config`] when an address is in use, or another process serves the session already.
    pub fn start(store: Store, rules: Rules) -> Result<Rendezvous, Error> {
        let Some(lock) = store.lock()? else {
            let why = format!("another process serves the session in {}", store.dir().display());
            return Err(Error::Config(why));
        };
        raise_descriptors();
        let now = Moment::now();
        let authority = store.authority()?;
        let key = authority::key()?;
        let certificate = authority.certify_rendezvous(&key, now, CERTIFICATE_LIFETIME)?;
        let certified = certified_key(&key, certificate, authority.certificate())?;
        let tls = tls::server(authority.certificate(), tls::always(certified))?;
        let mut register = Register::new(authority, rules, crate::random::word()?);
        register.tickets = store.tickets(now)?;
        register.revoked_before(store.revoked()?, now);
        let admin = admin::listen(&store)?;
        let listeners = store.listen().iter().map(listen).collect::<Result<Vec<_>, _>>()?;
        let address =
            |listener: &std::net::TcpListener| listener.local_addr().map_err(|e| failed("listening", &e));
        let listening = listeners.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { register, audit: Audit::default(), encoded: None }),
            store,
            changed: watch::Sender::new(0),
            started: Instant::now(),
            rules,
            strangers: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed("runtime", &e))?;
        let serve = serve(shared.clone(), listeners, admin, tls, stopped);
        let thread = spawn("gridnet-rdv", move || runtime.block_on(serve))?;
        Ok(Rendezvous { shared, listening, stop, thread: Some(thread), _lock: lock })
    }

    /// Where it listens.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// What there is to tell.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Takes a node out of the session for good. Whether it was there.
    ///
    /// # Errors
    /// [`Error::System`] when that cannot be kept on disk; it holds until the next start then. [`Error::Config`] when 16,384
    /// are revoked whose certificates may be valid.
    pub fn revoke(&self, node: gridnet_core::wire::NodeId) -> Result<bool, Error> {
        self.shared.revoke(node)
    }

    /// Whether it runs; it ends by itself by a defect only.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        admin::remove(&self.shared.store);
    }
}

/// Starts a thread that no signal of the program gets to.
pub(crate) fn spawn<F>(name: &str, body: F) -> Result<JoinHandle<()>, Error>
where
    F: FnOnce() + Send + 'static,
{
    let mut before = SigSet::empty();
    let all = SigSet::all();
    nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before))
        .map_err(|e| Error::System(format!("blocking signals: {e}")))?;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    let _ = nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    thread.map_err(|e| failed("thread", &e))
}

/// Each member takes a descriptor: as many as the system allows.
fn raise_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn listen(address: &SocketAddr) -> Result<std::net::TcpListener, Error> {
    let listener = std::net::TcpListener::bind(address)
        .map_err(|e| Error::Config(format!("listening at {address}: {e}")))?;
    listener.set_nonblocking(true).map_err(|e| failed("listening", &e))?;
    Ok(listener)
}

async fn serve(
    shared: Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
    admin: std::os::unix::net::UnixListener,
    tls: Arc<rustls::ServerConfig>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                drop(tasks.spawn(accept(listener, shared.clone(), tls.clone(), strangers.clone())))
            }
            Err(e) => tracing::error!("rendez-vous: {e}"),
        }
    }
    tasks.spawn(admin::serve(admin, shared));
    // When the sender is gone, so is who could want more.
    let _ = stopped.wait_for(|stop| *stop).await;
    tasks.shutdown().await;
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
    strangers: Arc<Semaphore>,
) {
    let mut visits = JoinSet::new();
    loop {
        let Ok(stranger) = strangers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                drop(visits.spawn(visit::visit(shared.clone(), tls.clone(), stream, from, stranger)))
            }
            Err(e) => {
                // No descriptors are left, mostly: some come back.
                tracing::warn!("rendez-vous: accepting: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while visits.try_join_next().is_some() {}
    }
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::System(format!("rendez-vous: {what}: {error}"))
}

/// Why a node is gone whose connection has ended like this.
fn departure(ended: &Result<(), Error>) -> Departure {
    match ended {
        Ok(()) => Departure::Left,
        Err(_) => Departure::Lost,
    }
}
