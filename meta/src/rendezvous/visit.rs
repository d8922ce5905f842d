//! One connection to the rendez-vous node: somebody who joins, or a member.

use std::net::SocketAddr;
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
use crate::channel::{broken, send, Inbox};
use crate::clock::Moment;
use crate::directory::Version;
use crate::error::{Error, Refusal};
use crate::message::{Attach, Join, Message, Refused};
use crate::register::Denied;
use crate::tls;

/// How long a stranger may take to say who it is.
const STRANGER_LIMIT: Duration = Duration::from_secs(5);
/// A member of which nothing is heard for so long is lost. It says something each second.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Changes are told together when they come faster than this.
const UPDATE_INTERVAL: Duration = Duration::from_millis(20);

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
    let _ = stream.set_nodelay(true);
    let greeting = timeout(STRANGER_LIMIT, greet(&shared, tls, stream, from)).await;
    drop(stranger);
    let member = match greeting {
        Ok(Ok(member)) => member,
        Ok(Err(e)) => {
            return shared.lock().audit.refused(from.to_string(), None, &e.to_string(), Moment::now())
        }
        Err(_) => {
            let why = format!("said not who it is within {STRANGER_LIMIT:?}");
            return shared.lock().audit.refused(from.to_string(), None, &why, Moment::now());
        }
    };
    if let Some(mut member) = member {
        let ended = member.serve(&shared).await;
        tracing::debug!("rendez-vous: node {} from {from}: {ended:?}", member.node);
        shared.lock().register.detach(member.node, member.connection, departure(&ended));
        shared.announce();
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
    let mut reader = Inbox::new(reader);
    match (wants.as_deref(), certificate.and_then(|certificate| certificate.node)) {
        (Some(tls::ALPN_JOIN), _) => match reader.next().await? {
            Message::Join(join) => join_in(shared, &mut writer, &join, &keying, from).await.map(|()| None),
            other => Err(unexpected(&other)),
        },
        (Some(tls::ALPN_CONTROL), Some(node)) => match reader.next().await? {
            Message::Attach(attach) => Member::attach(shared, reader, writer, (node, from), &attach).await,
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
        if judged.is_ok() && is_counted {
            // Before it is told: a ticket for one is never good for two.
            shared.store.keep_tickets(&state.register.tickets)?;
        }
        judged
    };
    match judged {
        Ok(joined) => send(writer, &Message::Joined(joined)).await,
        Err(denied) => refuse(shared, writer, from.to_string(), denied).await,
    }
}

async fn refuse(shared: &Shared, writer: &mut Writer, who: String, denied: Denied) -> Result<(), Error> {
    let (refusal, reason) = denied;
    shared.lock().audit.refused(who, Some(refusal), &reason, Moment::now());
    send(writer, &Message::Refused(Refused { refusal, reason })).await?;
    // The end of the stream says that nothing was cut off.
    tokio::io::AsyncWriteExt::shutdown(writer).await.map_err(|e| broken(&e))
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
}

impl Member {
    async fn attach(
        shared: &Shared,
        reader: Reader,
        mut writer: Writer,
        (node, from): (NodeId, SocketAddr),
        attach: &Attach,
    ) -> Result<Option<Member>, Error> {
        let attached = shared.lock().register.attach(node, attach, Moment::now());
        match attached {
            Ok(connection) => {
                shared.announce();
                Ok(Some(Member { node, connection, from, reader, writer, known: attach.known }))
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
        let mut silent_at = tokio::time::Instant::now() + SILENCE_LIMIT;
        let mut update_at = self.first_update_at(shared);
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    silent_at = tokio::time::Instant::now() + SILENCE_LIMIT;
                    if self.take(shared, message?).await? {
                        return Ok(());
                    }
                }
                () = sleep_until(silent_at) => {
                    return Err(Error::Unreachable(format!("nothing was heard for {SILENCE_LIMIT:?}")));
                }
                _ = async { sleep_until(update_at).await; changed.changed().await } => {
                    self.update(shared).await?;
                    update_at = tokio::time::Instant::now() + UPDATE_INTERVAL;
                }
            }
            if !shared.lock().register.is_current(self.node, self.connection) {
                return Err(Error::Peer("revoked, or here by another connection".into()));
            }
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
                self.known = known;
                self.update(shared).await?;
            }
            Message::Renew(request) => {
                let renewed = shared.lock().register.renew(self.node, &request, Moment::now());
                match renewed {
                    Ok(certificate) => send(&mut self.writer, &Message::Renewed(certificate)).await?,
                    Err(denied) => {
                        let refused = (denied.0, denied.1.clone());
                        refuse(shared, &mut self.writer, format!("{} node {}", self.from, self.node), denied)
                            .await?;
                        return Err(Error::Refused(refused.0, refused.1));
                    }
                }
            }
            other => {
                shared.lock().register.count(Refusal::Malformed);
                let (who, why) = (format!("{} node {}", self.from, self.node), unexpected(&other));
                shared.lock().audit.refused(who, Some(Refusal::Malformed), &why.to_string(), Moment::now());
                return Err(why);
            }
        }
        Ok(false)
    }

    async fn update(&mut self, shared: &Shared) -> Result<(), Error> {
        let (updates, version) = {
            let state = shared.lock();
            (state.register.directory.since(self.known), state.register.directory.version())
        };
        for update in updates {
            send(&mut self.writer, &Message::Update(update)).await?;
        }
        self.known = version;
        Ok(())
    }
}
