//! The rendez-vous node: the directory of a session, and the authority that certifies its members.
//!
//! It runs in one thread of its own, with all signals blocked. Members do not depend on it once they are connected to one
//! another: it can be stopped and started again, and is filled again by those who come back.

mod admin;
mod route;
mod status;
mod visit;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use nix::fcntl::Flock;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::net::TcpListener;
use tokio::sync::{watch, Semaphore};
use tokio::task::JoinSet;

use crate::audit::Audit;
use crate::authority;
use crate::clock::Moment;
use crate::cluster::Order;
use crate::directory::{Departure, Version};
use crate::error::{Error, Refusal};
use crate::freight::Freight;
use crate::hub::{Encoded, Encoder};
use crate::identity::certified_key;
use crate::member::INSECURE;
use crate::message::{Follow, Message};
use crate::plain;
use crate::queue::Queue;
use crate::register::{Register, Rules};
use crate::store::Store;
use crate::strangers::Hellos;
use crate::tls;

pub use admin::{ask_status, end_ticket, new_ticket, revoke};
pub use status::{LeaderStatus, LinkStatus, NodeStatus, PacketCounts, RelayedStatus, Status};
pub(crate) use visit::{LONGEST_OF_MEMBER, LONGEST_OF_STRANGER};

/// Strangers that are heard at a time; others wait in the system's queue.
const STRANGERS_MAX: usize = 256;
/// How long the certificate of the rendez-vous node is valid; it is made when it starts.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How often those that were appointed to lead are looked after.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
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
    /// What is passed on of pipes.
    freight: Arc<Freight>,
    /// Connections of each network that have not said who they are.
    strangers: Mutex<HashMap<IpAddr, usize>>,
    hellos: Hellos,
    /// By which it is known where the session's configuration does without TLS, and only there.
    plain: Option<plain::Own>,
}

struct State {
    register: Register,
    audit: Audit,
    encoder: Encoder,
    /// Connections of members.
    links: HashMap<NodeId, Link>,
    packets: PacketCounts,
}

/// The connection of a member.
struct Link {
    connection: u64,
    from: SocketAddr,
    queue: Queue,
    /// Nothing protects what is said over it.
    is_plain: bool,
    /// How many it has refused as a leader, as it says.
    refusals: BTreeMap<Refusal, u64>,
}

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

    /// The same of somebody of whom only the address is known.
    fn refused_stranger(&self, from: SocketAddr, refusal: Refusal, why: &str) {
        let mut state = self.lock();
        state.register.count(refusal);
        state.audit.refused_at(from, refusal, why, (Instant::now(), Moment::now()));
    }

    /// What a follower that is at `known` misses, as it is sent, and where it is then. Made once for all who miss the same.
    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error> {
        let mut state = self.lock();
        let state = &mut *state;
        let pause = visit::signing_pause(state.links.len());
        let signed = state.register.signed(Instant::now(), pause)?;
        state.encoder.updates(&signed.directory, &signed.head, known)
    }

    /// Tells those who wait that the directory has changed, if it has, and leaders and others what is asked of them.
    fn announce(&self) {
        let number = {
            let mut state = self.lock();
            for order in state.register.take_orders() {
                state.give(order);
            }
            state.register.directory.version().number
        };
        self.changed.send_if_modified(|last| std::mem::replace(last, number) != number);
    }

    /// The connection of a member has ended.
    fn detach(&self, node: NodeId, connection: u64, why: Departure) {
        {
            let mut state = self.lock();
            state.register.detach(node, connection, why, Instant::now());
            if state.links.get(&node).is_some_and(|link| link.connection == connection) {
                state.links.remove(&node);
            }
        }
        self.announce();
    }

    /// Takes a node out of the session.
    fn revoke(&self, node: NodeId) -> Result<bool, Error> {
        let (was_there, kept) = {
            let mut state = self.lock();
            let was_there =
                state.register.revoke(node, (Instant::now(), Moment::now())).ok_or_else(|| {
                    Error::Config(
                        "as many nodes are revoked as can be told: it is time for a new session".into(),
                    )
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
}

impl State {
    /// A word that the directory is as it is now, as it is sent; one that cannot be signed says nothing.
    fn still(&self) -> Vec<u8> {
        let still = self.register.still(Moment::now()).and_then(|still| Message::Still(still).encode());
        still.unwrap_or_else(|e| {
            tracing::error!("rendez-vous: {e}");
            Vec::new()
        })
    }

    /// Tells a member what is asked of it. When its queue is full it is not told: then another one leads, or it stays where it is.
    fn give(&mut self, order: Order) {
        let (node, message) = match order {
            Order::Lead(node) => (node, Message::Lead(())),
            Order::Follow(node, leader) => {
                let pass = self.register.pass(node, leader.node);
                let (leader, addresses) = (leader.node, leader.addresses);
                let known = self.register.directory.version();
                (node, Message::Follow(Follow { leader, addresses, pass, known }))
            }
        };
        if let (Some(link), Ok(bytes)) = (self.links.get(&node), message.encode()) {
            let _ = link.queue.try_send(bytes);
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
        let certified = certified_key(&key, certificate.clone(), authority.certificate())?;
        let tls = tls::server(authority.certificate(), tls::always(certified))?;
        let above = authority.certificate().clone();
        let plain = store.insecure().then_some(plain::Own { key, certificate, authority: above });
        if plain.is_some() {
            tracing::warn!("rendez-vous: {INSECURE}");
        }
        let mut register = Register::new(authority, rules, store.begin_life(now)?, now);
        register.tickets = store.tickets(now)?;
        register.revoked_before(store.revoked()?, now);
        let admin = admin::listen(&store)?;
        let listeners = store.listen().iter().map(listen).collect::<Result<Vec<_>, _>>()?;
        let address =
            |listener: &std::net::TcpListener| listener.local_addr().map_err(|e| failed("listening", &e));
        let listening = listeners.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                register,
                audit: Audit::default(),
                encoder: Encoder::default(),
                links: HashMap::new(),
                packets: PacketCounts::default(),
            }),
            store,
            changed: watch::Sender::new(0),
            started: Instant::now(),
            rules,
            freight: Freight::new(rules.relay),
            strangers: Mutex::default(),
            hellos: Hellos::default(),
            plain,
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
    pub fn revoke(&self, node: NodeId) -> Result<bool, Error> {
        self.shared.revoke(node)
    }

    #[cfg(test)]
    pub(crate) fn freight(&self) -> &Freight {
        &self.shared.freight
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
    tasks.spawn(admin::serve(admin, shared.clone()));
    tasks.spawn(say_still(shared.clone()));
    tasks.spawn(look_after(shared));
    // When the sender is gone, so is who could want more.
    let _ = stopped.wait_for(|stop| *stop).await;
    tasks.shutdown().await;
}

/// Says to all members how the directory still is.
async fn say_still(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.rules.still).await;
        let mut state = shared.lock();
        let still = state.still();
        // Whose queue is full gets the next one.
        state.links.values_mut().for_each(|link| _ = link.queue.try_send(still.clone()));
    }
}

/// Looks after leaders that were appointed.
async fn look_after(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        shared.lock().register.look(Instant::now());
        shared.announce();
    }
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

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod tests;
