//! One connection to the rendez-vous node: somebody who joins, or a member.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use super::{departure, Shared, SETTLING};
use crate::channel::{broken, send, send_encoded, Inbox};
use crate::clock::Moment;
use crate::directory::Version;
use crate::error::{Error, Refusal};
use crate::identity::Certificate;
use crate::message::{Attach, Join, Message, Refused};
use crate::register::Denied;
use crate::tls;

/// How long a stranger may take to say who it is.
const STRANGER_LIMIT: Duration = Duration::from_secs(5);
/// Strangers of one address that are heard at a time.
const STRANGERS_OF_ADDRESS: usize = 64;
/// Longest message that is taken here: a request for a certificate, and what goes with it.
const LONGEST: usize = 4096;
/// Changes are told together when they come faster than this.
const UPDATE_INTERVAL: Duration = Duration::from_millis(20);
/// How long a member may leave what it misses where it is.
const UPDATE_LIMIT: Duration = Duration::from_secs(10);

type Reader = Inbox<ReadHalf<TlsStream<TcpStream>>>;
type Writer = WriteHalf<TlsStream<TcpStream>>;

/// Serves one connection to its end.
pub(super) async fn visit(
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
    stranger: OwnedSemaphorePermit,
) {
    let Some(place) = Place::take(&shared, from.ip()) else {
        let why = format!("{STRANGERS_OF_ADDRESS} connections of its address have not said who they are");
        return shared.refused(from.to_string(), Refusal::Rate, &why);
    };
    let _ = stream.set_nodelay(true);
    let greeting = timeout(STRANGER_LIMIT, greet(&shared, tls, stream, from)).await;
    drop((stranger, place));
    let member = match greeting {
        Ok(Ok(member)) => member,
        Ok(Err(e)) => return shared.refused(from.to_string(), Refusal::Stranger, &e.to_string()),
        Err(_) => {
            let why = format!("said not who it is within {STRANGER_LIMIT:?}");
            return shared.refused(from.to_string(), Refusal::Stranger, &why);
        }
    };
    if let Some(mut member) = member {
        let ended = member.serve(&shared).await;
        tracing::debug!("rendez-vous: node {} from {from}: {ended:?}", member.node);
        shared.lock().register.detach(member.node, member.connection, departure(&ended));
        shared.announce();
    }
}

/// The place of one stranger among those of its address.
struct Place<'a>(&'a Shared, IpAddr);

impl Place<'_> {
    fn take(shared: &Shared, address: IpAddr) -> Option<Place<'_>> {
        let mut strangers = shared.strangers();
        let count = strangers.entry(address).or_default();
        (*count < STRANGERS_OF_ADDRESS).then(|| {
            *count += 1;
            Place(shared, address)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut strangers = self.0.strangers();
        if let Some(count) = strangers.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.1);
            }
        }
    }
}

/// TLS, and what somebody wants: a member, or nothing more to be done.
async fn greet(
    shared: &Shared,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Option<Member>, Error> {
    let stream = TlsAcceptor::from(tls).accept(stream).await.map_err(|e| broken(&e))?;
    let connection = stream.get_ref().1;
    let wants = connection.alpn_protocol().map(<[u8]>::to_vec);
    let certificate = tls::shown(connection.peer_certificates())?;
    let keying = tls::keying(connection)?;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Inbox::new(reader, LONGEST);
    let certified = certificate.and_then(|certificate| Some((certificate.node?, certificate.until)));
    match (wants.as_deref(), certified) {
        (Some(tls::ALPN_JOIN), _) => match reader.next().await? {
            Message::Join(join) => join_in(shared, &mut writer, &join, &keying, from).await.map(|()| None),
            other => Err(unexpected(&other)),
        },
        (Some(tls::ALPN_CONTROL), Some((node, until))) => match reader.next().await? {
            Message::Attach(attach) => {
                Member::attach(shared, reader, writer, (node, until), from, &attach).await
            }
            other => Err(unexpected(&other)),
        },
        (Some(tls::ALPN_CONTROL), None) => Err(Error::Peer("shows no certificate of a node".into())),
        _ => Err(Error::Peer("speaks no protocol of sessions".into())),
    }
}

async fn join_in(
    shared: &Shared,
    writer: &mut Writer,
    join: &Join,
    keying: &[u8],
    from: SocketAddr,
) -> Result<(), Error> {
    let now = (Instant::now(), Moment::now());
    let judged = {
        let mut state = shared.lock();
        let judged = state.register.join(join, keying, from.ip(), now);
        let is_counted = state.register.tickets.get(&join.ticket).is_some_and(|ticket| ticket.left.is_some());
        match judged {
            // Before it is told: a ticket for one is never good for two.
            Ok(joined) if is_counted => match shared.store.keep_tickets(&state.register.tickets) {
                Ok(()) => Ok(joined),
                Err(e) => {
                    tracing::error!("rendez-vous: {e}");
                    state.register.count(Refusal::Trouble);
                    Err((Refusal::Trouble, "the use of the ticket could not be written down".into()))
                }
            },
            judged => judged,
        }
    };
    match judged {
        Ok(joined) => send(writer, &Message::Joined(joined)).await,
        Err(denied) => refuse(shared, writer, from.to_string(), denied).await,
    }
}

async fn refuse(shared: &Shared, writer: &mut Writer, who: String, denied: Denied) -> Result<(), Error> {
    let (refusal, reason) = denied;
    shared.lock().audit.refused(who, refusal, &reason, Moment::now());
    send(writer, &Message::Refused(Refused { refusal, reason })).await?;
    // The end of the stream says that nothing was cut off; whoever has gone already need not hear it.
    let _ = tokio::io::AsyncWriteExt::shutdown(writer).await;
    Ok(())
}

fn unexpected(message: &Message) -> Error {
    let text = format!("{message:?}");
    let name = text.split('(').next().unwrap_or_default();
    Error::Peer(format!("a message that makes no sense here: {name}"))
}

/// A member that is there.
struct Member {
    node: NodeId,
    connection: u64,
    from: SocketAddr,
    reader: Reader,
    writer: Writer,
    /// How far it knows the directory.
    known: Version,
    /// When its certificate ends, and with it the connection.
    until: Moment,
}

impl Member {
    async fn attach(
        shared: &Shared,
        reader: Reader,
        mut writer: Writer,
        (node, until): (NodeId, Moment),
        from: SocketAddr,
        attach: &Attach,
    ) -> Result<Option<Member>, Error> {
        let attached = {
            let register = &mut shared.lock().register;
            register.ask(node, Instant::now()).and_then(|()| register.attach(node, attach, Moment::now()))
        };
        match attached {
            Ok(connection) => {
                shared.announce();
                let known = attach.known;
                Ok(Some(Member { node, connection, from, reader, writer, known, until }))
            }
            Err(denied) => {
                refuse(shared, &mut writer, format!("{from} node {node}"), denied).await?;
                Ok(None)
            }
        }
    }

    /// Until it leaves, which is `Ok`, or is lost.
    async fn serve(&mut self, shared: &Shared) -> Result<(), Error> {
        let mut changed = shared.changed.subscribe();
        changed.mark_changed();
        let mut silent_at = tokio::time::Instant::now() + shared.rules.silence;
        let mut update_at = self.first_update_at(shared);
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    silent_at = tokio::time::Instant::now() + shared.rules.silence;
                    if self.take(shared, message?).await? {
                        return Ok(());
                    }
                }
                () = sleep_until(silent_at) => {
                    return Err(Error::Unreachable(format!("nothing was heard for {:?}", shared.rules.silence)));
                }
                _ = async { sleep_until(update_at).await; changed.changed().await } => {
                    self.update(shared).await?;
                    update_at = tokio::time::Instant::now() + UPDATE_INTERVAL;
                }
            }
            check(shared, (self.node, self.connection), self.until)?;
        }
    }

    /// One that knows an earlier life of ours is told who is there when the others have had time to come back.
    fn first_update_at(&self, shared: &Shared) -> tokio::time::Instant {
        let epoch = shared.lock().register.directory.version().epoch;
        let is_of_earlier_life = self.known.epoch != 0 && self.known.epoch != epoch;
        match is_of_earlier_life {
            true => (shared.started + SETTLING).into(),
            false => tokio::time::Instant::now(),
        }
    }

    /// Takes a message; whether it was the last.
    async fn take(&mut self, shared: &Shared, message: Message) -> Result<bool, Error> {
        match message {
            Message::Ping(word) => send(&mut self.writer, &Message::Pong(word)).await?,
            Message::Leave(()) => return Ok(true),
            Message::Missing(known) => {
                let allowed = shared.lock().register.ask(self.node, Instant::now());
                self.unless_denied(shared, allowed).await?;
                self.known = known;
                self.update(shared).await?;
            }
            Message::Renew(request) => {
                let renewed = {
                    let register = &mut shared.lock().register;
                    let allowed = register.ask(self.node, Instant::now());
                    allowed.and_then(|()| register.renew(self.node, &request, Moment::now()))
                };
                let certificate = self.unless_denied(shared, renewed).await?;
                self.until = Certificate::read(&certificate)?.until;
                send(&mut self.writer, &Message::Renewed(certificate)).await?;
            }
            other => {
                let why = unexpected(&other);
                shared.refused(self.who(), Refusal::Malformed, &why.to_string());
                return Err(why);
            }
        }
        Ok(false)
    }

    /// Tells the member of a refusal, which ends its connection.
    async fn unless_denied<T>(&mut self, shared: &Shared, judged: Result<T, Denied>) -> Result<T, Error> {
        match judged {
            Ok(value) => Ok(value),
            Err((refusal, reason)) => {
                let who = self.who();
                refuse(shared, &mut self.writer, who, (refusal, reason.clone())).await?;
                Err(Error::Refused(refusal, reason))
            }
        }
    }

    fn who(&self) -> String {
        format!("{} node {}", self.from, self.node)
    }

    async fn update(&mut self, shared: &Shared) -> Result<(), Error> {
        let (updates, version) = shared.updates(self.known)?;
        let (here, until) = ((self.node, self.connection), self.until);
        let all = async {
            for update in updates.iter() {
                check(shared, here, until)?;
                send_encoded(&mut self.writer, update).await?;
            }
            Ok(())
        };
        let late = |_| Error::Unreachable(format!("it does not take the directory within {UPDATE_LIMIT:?}"));
        timeout(UPDATE_LIMIT, all).await.map_err(late)??;
        self.known = version;
        Ok(())
    }
}

/// Whether a connection still is the one by which its node is here.
fn check(shared: &Shared, (node, connection): (NodeId, u64), until: Moment) -> Result<(), Error> {
    if !shared.lock().register.is_current(node, connection) {
        return Err(Error::Peer("revoked, or here by another connection".into()));
    }
    if Moment::now() >= until {
        return Err(Error::Peer(format!("its certificate ended at {until}")));
    }
    Ok(())
}
