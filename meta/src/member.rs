//! A member of a session: joins, stays attached to the rendez-vous node, and knows who else is there.
//!
//! One thread does it, with all signals blocked. When the rendez-vous node is lost, what is known stays, and the member comes
//! back by itself; its certificate is renewed in time.

mod attached;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::channel::{broken, send, Inbox};
use crate::clock::Moment;
use crate::directory::{Entry, Event, Follower, Version};
use crate::error::Error;
use crate::identity::{Identity, NodeKey};
use crate::message::{Join, Message, MESSAGE_BYTES_MAX};
use crate::name::Name;
use crate::rendezvous::spawn;
use crate::ticket::Ticket;
use crate::tls;

/// How long an address is tried, to the end of the handshake.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// How long the rendez-vous node may take to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pauses between tries to come back: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Events that wait to be taken; beyond, the oldest are dropped, and that is told.
const EVENTS_MAX: usize = 4096;

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// Its cluster: nodes that reach one another by a network of their own.
    pub cluster: Name,
    /// For people: host and process.
    pub label: Name,
}

/// Whether the rendez-vous node hears us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// It does.
    Attached,
    /// It does not, since then, for this reason; it is tried again and again.
    Lost(Moment, Error),
    /// It never will again: the session has refused us.
    Refused(Error),
}

struct State {
    follower: Follower,
    events: VecDeque<Event>,
    /// Whether events were dropped.
    missed: bool,
    connection: Connection,
    identity: Identity,
}

pub(crate) struct Shared {
    addresses: Vec<String>,
    about: About,
    authority: CertificateDer<'static>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it but by a defect; what is there is whole all the same.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A process's place in a session, which ends when this is dropped.
pub struct Member {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
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
        let deadline = Instant::now() + limit;
        let late = || Error::Unreachable(format!("the session was not joined within {limit:?}"));
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = spawn("gridnet-member", move || be_member(ticket, about, deadline, &tell, stopped))?;
        // However long the system takes to look up a name, this call ends in time.
        let shared = told.recv_timeout(limit).map_err(|_| late())??;
        let member = Member { shared, stop, thread: Some(thread) };
        let is_there = |state: &State| {
            state.follower.version() != Version::default()
                || matches!(state.connection, Connection::Refused(_))
        };
        match (member.wait(deadline, is_there), member.connection()) {
            (_, Connection::Refused(e)) | (false, Connection::Lost(_, e)) => Err(e),
            (true, _) => Ok(member),
            (false, _) => Err(late()),
        }
    }

    /// Who this is.
    pub fn node(&self) -> NodeId {
        self.shared.lock().identity.node()
    }

    /// Until when its certificate is valid.
    pub fn certified_until(&self) -> Moment {
        self.shared.lock().identity.until()
    }

    /// Whether the rendez-vous node hears it.
    pub fn connection(&self) -> Connection {
        self.shared.lock().connection.clone()
    }

    /// Who is there, itself among them, by node id.
    pub fn nodes(&self) -> Vec<Entry> {
        self.shared.lock().follower.entries().cloned().collect()
    }

    /// Whether a node was revoked, as far as this member knows the directory: also when nobody serves the session any more.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.shared.lock().follower.directory().is_revoked(node)
    }

    /// Who is there, and from now on events tell what changes.
    pub fn watch_nodes(&self) -> Vec<Entry> {
        let mut state = self.shared.lock();
        state.events.clear();
        state.missed = false;
        state.follower.entries().cloned().collect()
    }

    /// What has changed since the last call, in order, and whether some of it was dropped since nobody took it: then
    /// [`Member::nodes`] is to be looked at.
    pub fn take_events(&self) -> (Vec<Event>, bool) {
        let mut state = self.shared.lock();
        let missed = std::mem::take(&mut state.missed);
        (state.events.drain(..).collect(), missed)
    }

    /// Waits until the nodes that are there satisfy `holds`; whether they did in time.
    pub fn wait_for_nodes(&self, limit: Duration, holds: impl Fn(&[Entry]) -> bool) -> bool {
        self.wait(Instant::now() + limit, |state| {
            holds(&state.follower.entries().cloned().collect::<Vec<_>>())
        })
    }

    /// Waits for a change of [`Member::connection`]; whether `holds` was true of it in time.
    pub fn wait_for_connection(&self, limit: Duration, holds: impl Fn(&Connection) -> bool) -> bool {
        self.wait(Instant::now() + limit, |state| holds(&state.connection))
    }

    fn wait(&self, deadline: Instant, holds: impl Fn(&State) -> bool) -> bool {
        let mut state = self.shared.lock();
        loop {
            if holds(&state) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

impl Drop for Member {
    /// Tells the rendez-vous node, in bounded time.
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Told = std::sync::mpsc::SyncSender<Result<Arc<Shared>, Error>>;

/// The life of a member, in its thread.
fn be_member(ticket: Ticket, about: About, deadline: Instant, tell: &Told, stopped: watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return drop(tell.send(Err(Error::System(format!("runtime: {e}"))))),
    };
    match runtime.block_on(join_in_time(&ticket, deadline)) {
        Ok((identity, authority)) => {
            let shared = Arc::new(Shared {
                addresses: ticket.addresses.clone(),
                about,
                authority,
                state: Mutex::new(State {
                    follower: Follower::default(),
                    events: VecDeque::new(),
                    missed: false,
                    connection: Connection::Lost(
                        Moment::now(),
                        Error::Unreachable("not attached yet".into()),
                    ),
                    identity,
                }),
                changed: Condvar::new(),
            });
            // The secret is not needed any more.
            drop(ticket);
            if tell.send(Ok(shared.clone())).is_ok() {
                runtime.block_on(attached::run(shared, stopped));
            }
        }
        Err(e) => drop(tell.send(Err(e))),
    }
    // Looking up a name may take as long as it likes: nobody waits for it.
    runtime.shutdown_background();
}

/// Joins; again and again while nobody answers, or too many ask.
async fn join_in_time(
    ticket: &Ticket,
    deadline: Instant,
) -> Result<(Identity, CertificateDer<'static>), Error> {
    let mut pause = PAUSES.0;
    loop {
        let e = match join(ticket).await {
            Err(e @ (Error::Unreachable(_) | Error::Refused(crate::error::Refusal::Rate, _))) => e,
            joined => return joined,
        };
        let next = Instant::now() + jittered(pause);
        if next >= deadline {
            return Err(e);
        }
        tokio::time::sleep_until(next.into()).await;
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Members that were lost together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = crate::random::word().unwrap_or(u64::MAX / 2) as f64 / u64::MAX as f64;
    pause.mul_f64(0.5 + 0.5 * random)
}

/// Proves the secret; what one is from then on, and the authority that says so.
async fn join(ticket: &Ticket) -> Result<(Identity, CertificateDer<'static>), Error> {
    let now = Moment::now();
    if now >= ticket.expires {
        let why = format!("the ticket expired at {}; it is {now}", ticket.expires);
        return Err(Error::Refused(crate::error::Refusal::Expired, why));
    }
    let key = NodeKey::create()?;
    let stream = connect(&ticket.addresses, tls::joining(ticket.authority)?).await?;
    let connection = stream.get_ref().1;
    let keying = tls::keying(connection)?;
    let authority = authority_of(connection.peer_certificates(), ticket)?;
    let (reader, mut writer) = tokio::io::split(stream);
    let request = key.request().to_vec();
    let proof = ticket.secret.prove(&keying, &[ticket.id.bytes(), &request]);
    send(&mut writer, &Message::Join(Join { ticket: ticket.id, proof, request })).await?;
    let answer = timeout(ANSWER_LIMIT, Inbox::new(reader, MESSAGE_BYTES_MAX).next()).await;
    let silent = |_| Error::Unreachable(format!("no answer to the request to join within {ANSWER_LIMIT:?}"));
    match answer.map_err(silent)?? {
        Message::Joined(joined) => Ok((key.certified(joined.node, &joined.certificate)?, authority)),
        Message::Refused(refused) => Err(Error::Refused(refused.refusal, refused.reason)),
        _ => Err(Error::Peer("the rendez-vous node answers something else than was asked".into())),
    }
}

fn authority_of(
    shown: Option<&[CertificateDer<'_>]>,
    ticket: &Ticket,
) -> Result<CertificateDer<'static>, Error> {
    let is_it =
        |certificate: &&CertificateDer<'_>| crate::authority::fingerprint(certificate) == ticket.authority;
    let found = shown.unwrap_or_default().iter().find(is_it);
    found
        .map(|certificate| certificate.clone().into_owned())
        .ok_or_else(|| Error::Peer("no authority was shown".into()))
}

/// Connects to the rendez-vous node, at the first of its addresses that answers.
async fn connect(
    addresses: &[String],
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let mut reasons = Vec::new();
    let mut worst = None;
    for address in addresses {
        let tried = timeout(ADDRESS_LIMIT, connect_to(address, tls.clone())).await;
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            // Somebody answers who is not the rendez-vous node: that is graver than nobody.
            Ok(Err(e @ Error::Peer(_))) => worst = worst.or(Some(Error::Peer(format!("{address}: {e}")))),
            Ok(Err(e)) => reasons.push(format!("{address}: {e}")),
            Err(_) => reasons.push(format!("{address}: no answer within {ADDRESS_LIMIT:?}")),
        }
    }
    Err(worst.unwrap_or_else(|| Error::Unreachable(format!("the rendez-vous node: {}", reasons.join("; ")))))
}

async fn connect_to(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<TlsStream<TcpStream>, Error> {
    let stream = TcpStream::connect(address).await.map_err(|e| broken(&e))?;
    let _ = stream.set_nodelay(true);
    TlsConnector::from(tls).connect(tls::rendezvous()?, stream).await.map_err(|e| broken(&e))
}
