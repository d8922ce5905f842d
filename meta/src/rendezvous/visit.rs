//! One connection to the rendez-vous node: somebody who joins, or a member.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{watch, OwnedSemaphorePermit};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{departure, Link, Shared, SETTLING};
use crate::channel::{broken, prepare, send, Inbox};
use crate::clock::Moment;
use crate::directory::Version;
use crate::error::{Error, Refusal};
use crate::hub::{refuse, unexpected, Encoded, Hub, Said, Served, Visitor};
use crate::identity::Certificate;
use crate::message::{Attach, Denied as Unwanted, Join, Message, Present, Refused};
use crate::outbox::Outbox;
use crate::plain::{self, Caller};
use crate::queue::queue;
use crate::register::Denied;
use crate::strangers::{network, Hellos};
use crate::tls::{self, KEYING_BYTES};
use crate::wire::{begins_tls, Wire};

/// How long a stranger may take to say who it is.
const STRANGER_LIMIT: Duration = Duration::from_secs(5);
/// Strangers of one network that are heard at a time.
const STRANGERS_OF_ADDRESS: usize = 64;
/// Longest message that is taken of a stranger: a request for a certificate, and what goes with it.
pub(crate) const LONGEST_OF_STRANGER: usize = 4096;
/// Longest message that is taken of a member: a packet, and what is around it.
pub(crate) const LONGEST_OF_MEMBER: usize = crate::packet::PACKET_BYTES_MAX + 1024;
/// Changes are told together when they come faster than this; and for each member there is, this later.
const UPDATE_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_micros(100));

fn pause(members: usize) -> Duration {
    UPDATE_PAUSE.0 + u32::try_from(members).unwrap_or(u32::MAX) * UPDATE_PAUSE.1
}

/// The directory is signed no more often: whoever is told of changes finds later ones signed.
pub(super) fn signing_pause(members: usize) -> Duration {
    pause(members) / 2
}

type Reader = Inbox<ReadHalf<Wire>>;
type Writer = WriteHalf<Wire>;

/// Serves one connection to its end.
pub(super) async fn visit(
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
    stranger: OwnedSemaphorePermit,
) {
    let Some(place) = Place::take(&shared, network(from.ip())) else {
        let why = format!("{STRANGERS_OF_ADDRESS} connections of its network have not said who they are");
        return shared.refused_stranger(from, Refusal::Rate, &why);
    };
    if !shared.hellos.may_come(from.ip(), Instant::now()) {
        return shared.refused_stranger(from, Refusal::Rate, &Hellos::why());
    }
    prepare(&stream);
    let greeting = timeout(STRANGER_LIMIT, greet(&shared, tls, stream, from)).await;
    drop((stranger, place));
    let member = match greeting {
        Ok(Ok(member)) => member,
        Ok(Err(e)) => return shared.refused_stranger(from, Refusal::Stranger, &e.to_string()),
        Err(_) => {
            let why = format!("said not who it is within {STRANGER_LIMIT:?}");
            return shared.refused_stranger(from, Refusal::Stranger, &why);
        }
    };
    if let Some(mut member) = member {
        let ended = member.serve(&shared).await;
        let Visitor { node, connection, .. } = member.visitor;
        tracing::debug!("rendez-vous: node {node} from {from}: {ended:?}");
        shared.detach(node, connection, departure(&ended));
    }
}

/// The place of one stranger among those of its network.
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

/// Who is there, and what it wants.
enum Wants {
    /// To join: what the proof is bound to.
    Join([u8; KEYING_BYTES]),
    /// To be a member, whose certificate ends then.
    Member(NodeId, Moment),
    /// Another certificate, for this request.
    Renew(NodeId, Vec<u8>),
}

/// One that was greeted: the way to it, what it wants, and its first message if that is there.
struct Greeted {
    reader: Reader,
    writer: Writer,
    is_plain: bool,
    wants: Wants,
    first: Option<Message>,
}

/// Greets, and does what somebody wants: a member, or nothing more to be done.
async fn greet(
    shared: &Shared,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Option<Served<Wire>>, Error> {
    let speaks_tls = begins_tls(&stream).await?;
    let greeted = match &shared.plain {
        Some(own) if !speaks_tls => greet_plainly(own, stream).await?,
        _ => greet_by_tls(tls, stream).await.map_err(|e| match e {
            Error::Peer(why) if !speaks_tls => {
                Error::Peer(format!("{why}; no TLS, and the session is not insecure = true"))
            }
            e => e,
        })?,
    };
    let Greeted { mut reader, mut writer, is_plain, wants, first } = greeted;
    if let Wants::Renew(node, request) = wants {
        return renew(shared, &mut writer, node, &request, from).await.map(|()| None);
    }
    let first = match first {
        Some(first) => first,
        None => reader.next().await?,
    };
    match (wants, first) {
        (Wants::Join(keying), Message::Join(join)) => {
            join_in(shared, &mut writer, &join, &keying, from).await.map(|()| None)
        }
        (Wants::Member(node, until), Message::Attach(attach)) => {
            let visitor = Visitor { node, connection: 0, from, until, is_plain };
            attach_member(shared, (reader, writer), visitor, &attach).await
        }
        // One that is connected to its leader, and not to us.
        (Wants::Member(node, _), Message::Renew(request)) if !is_plain => {
            renew(shared, &mut writer, node, &request, from).await.map(|()| None)
        }
        (_, other) => Err(unexpected(&other)),
    }
}

async fn greet_by_tls(tls: Arc<rustls::ServerConfig>, stream: TcpStream) -> Result<Greeted, Error> {
    let stream = TlsAcceptor::from(tls).accept(stream).await.map_err(|e| broken(&e))?;
    let connection = stream.get_ref().1;
    let certificate = tls::shown(connection.peer_certificates())?;
    let certified = certificate.and_then(|certificate| Some((certificate.node?, certificate.until)));
    let wants = match (connection.alpn_protocol(), certified) {
        (Some(tls::ALPN_JOIN), _) => Wants::Join(tls::keying(connection)?),
        (Some(tls::ALPN_CONTROL), Some((node, until))) => Wants::Member(node, until),
        (Some(tls::ALPN_CONTROL), None) => return Err(nameless()),
        _ => return Err(Error::Peer("speaks no protocol of sessions".into())),
    };
    let (reader, writer) = tokio::io::split(Wire::Tls(Box::new(stream.into())));
    let reader = Inbox::new(reader, LONGEST_OF_STRANGER);
    Ok(Greeted { reader, writer, is_plain: false, wants, first: None })
}

async fn greet_plainly(own: &plain::Own, stream: TcpStream) -> Result<Greeted, Error> {
    let (reader, mut writer) = tokio::io::split(Wire::Plain(stream));
    let mut reader = Inbox::new(reader, LONGEST_OF_STRANGER);
    let (caller, first) = plain::answer(own, &mut reader, &mut writer).await?;
    let wants = match caller {
        Caller::Newcomer(keying) => Wants::Join(keying),
        Caller::Node(certificate, request) => match (certificate.node, request) {
            (Some(node), None) => Wants::Member(node, certificate.until),
            (Some(node), Some(request)) => Wants::Renew(node, request),
            (None, _) => return Err(nameless()),
        },
    };
    Ok(Greeted { reader, writer, is_plain: true, wants, first })
}

fn nameless() -> Error {
    Error::Peer("shows no certificate of a node".into())
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
        Ok(joined) => {
            shared.hellos.proved(from.ip());
            send(writer, &Message::Joined(joined)).await
        }
        Err(denied) => {
            shared.lock().audit.refused_at(from, denied.0, &denied.1, now);
            refuse(writer, &denied).await
        }
    }
}

async fn renew(
    shared: &Shared,
    writer: &mut Writer,
    node: NodeId,
    request: &[u8],
    from: SocketAddr,
) -> Result<(), Error> {
    let renewed = shared.lock().register.renew(node, request, (Instant::now(), Moment::now()));
    match renewed {
        Ok(certificate) => {
            shared.hellos.proved(from.ip());
            send(writer, &Message::Renewed(certificate)).await
        }
        Err(denied) => deny(shared, writer, format!("{from} node {node}"), denied).await,
    }
}

/// Tells somebody of a refusal, which was counted.
async fn deny(shared: &Shared, writer: &mut Writer, who: String, denied: Denied) -> Result<(), Error> {
    shared.lock().audit.refused(who, denied.0, &denied.1, Moment::now());
    refuse(writer, &denied).await
}

async fn attach_member(
    shared: &Shared,
    (reader, mut writer): (Reader, Writer),
    visitor: Visitor,
    attach: &Attach,
) -> Result<Option<Served<Wire>>, Error> {
    let (sender, queue) = queue(&shared.freight);
    let attached = {
        let mut state = shared.lock();
        let attached = state.register.attach(visitor.node, attach, (Instant::now(), Moment::now()));
        if let Ok(connection) = attached {
            // Before it is sent anywhere: by this one it knows how late words of others are.
            let _ = sender.try_send(state.still());
            let (from, is_plain, refusals) = (visitor.from, visitor.is_plain, BTreeMap::new());
            let link = Link { connection, from, queue: sender, is_plain, refusals };
            state.links.insert(visitor.node, link);
        }
        attached
    };
    shared.announce();
    match attached {
        Ok(connection) => {
            shared.hellos.proved(visitor.from.ip());
            let (visitor, reader) = (Visitor { connection, ..visitor }, reader.longest(LONGEST_OF_MEMBER));
            let outbox = Outbox::new(writer);
            Ok(Some(Served { visitor, reader, outbox, known: attach.known, queue }))
        }
        Err(denied) => deny(shared, &mut writer, visitor.who(), denied).await.map(|()| None),
    }
}

impl Shared {
    /// A leader says how many it has refused. Reasons are few, whatever it has sent.
    fn take_refusals(&self, visitor: &Visitor, counts: BTreeMap<Refusal, u64>, now: Instant) -> Said {
        let mut state = self.lock();
        let link = state.links.get_mut(&visitor.node);
        if let Some(link) = link.filter(|link| link.connection == visitor.connection) {
            link.refusals = counts;
        }
        match state.register.may_report(visitor.node, now) {
            true => Said::Nothing,
            false => Said::TooMuch(None),
        }
    }

    /// A leader says that a node is below it. Whatever comes of it, a leader that says so too fast is slowed down.
    fn take_present(&self, visitor: &Visitor, present: &Present, now: (Instant, Moment)) -> Said {
        let node = present.node;
        let (denied, is_calm) = {
            let mut state = self.lock();
            let denied = state.register.present(visitor.node, present, now).err();
            if let Some((refusal, reason)) = &denied {
                if state.register.may_note(visitor.node, now.0) {
                    let who = format!("node {node} through {}", visitor.who());
                    state.audit.refused(who, *refusal, reason, now.1);
                }
            }
            (denied, state.register.may_report(visitor.node, now.0))
        };
        self.announce();
        let answer = denied
            .map(|(refusal, reason)| Message::Denied(Unwanted { node, why: Refused { refusal, reason } }));
        match (answer, is_calm) {
            (answer, false) => Said::TooMuch(answer),
            (Some(answer), true) => Said::Answer(answer),
            (None, true) => Said::Nothing,
        }
    }
}

impl Hub for Arc<Shared> {
    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn silence(&self) -> Duration {
        self.rules.silence
    }

    fn update_pause(&self) -> Duration {
        pause(self.lock().links.len())
    }

    fn is_latest(&self, known: Version) -> bool {
        known >= self.lock().register.directory.version()
    }

    /// One that knows an earlier life of ours is told who is there when the others have had time to come back.
    fn first_update_at(&self, known: Version) -> tokio::time::Instant {
        let state = self.lock();
        let epoch = state.register.directory.version().epoch;
        let is_of_earlier_life = known.epoch != 0 && known.epoch != epoch;
        match is_of_earlier_life {
            true => (self.started + SETTLING).into(),
            // What is told it has itself in it.
            false => {
                let signed_until = state.register.signed_until(signing_pause(state.links.len()));
                signed_until.unwrap_or_else(Instant::now).into()
            }
        }
    }

    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error> {
        Shared::updates(self.as_ref(), known)
    }

    fn check(&self, visitor: &Visitor) -> Result<(), Error> {
        match self.lock().register.is_current(visitor.node, visitor.connection) {
            true => Ok(()),
            false => Err(Error::Peer("revoked, or here by another connection".into())),
        }
    }

    fn may_ask(&self, visitor: &Visitor) -> Result<(), Denied> {
        self.lock().register.ask(visitor.node, Instant::now())
    }

    fn take(&self, visitor: &mut Visitor, message: Message) -> Result<Said, Error> {
        let now = (Instant::now(), Moment::now());
        Ok(match message {
            Message::Renew(_) if visitor.is_plain => {
                let why = "a certificate over a plain connection that is not for it alone".to_owned();
                Said::Denied((Refusal::Malformed, why))
            }
            Message::Renew(request) => {
                let renewed = self.lock().register.renew(visitor.node, &request, now);
                match renewed {
                    Ok(certificate) => {
                        visitor.until = Certificate::read(&certificate)?.until;
                        Said::Answer(Message::Renewed(certificate))
                    }
                    Err(denied) => Said::Denied(denied),
                }
            }
            Message::Packet(packet) => self.pass_on(visitor, packet),
            Message::Leading(addresses) => {
                let denied = {
                    let mut state = self.lock();
                    let asked = state.register.ask(visitor.node, now.0);
                    if asked.is_ok() {
                        state.register.leads(visitor.node, addresses, now.0);
                        state.register.has_said_all(visitor.node, now.0);
                    }
                    asked.err()
                };
                self.announce();
                denied.map_or(Said::Nothing, Said::Denied)
            }
            Message::Present(present) => self.take_present(visitor, &present, now),
            Message::Refusals(counts) => self.take_refusals(visitor, counts, now.0),
            Message::Absent(absent) => {
                let is_calm = {
                    let mut state = self.lock();
                    state.register.absent(visitor.node, absent.node, absent.why, now.0);
                    state.register.may_report(visitor.node, now.0)
                };
                self.announce();
                if is_calm {
                    Said::Nothing
                } else {
                    Said::TooMuch(None)
                }
            }
            other => {
                let why = unexpected(&other);
                self.refused(visitor.who(), Refusal::Malformed, &why.to_string());
                return Err(why);
            }
        })
    }

    fn note(&self, visitor: &Visitor, denied: &Denied) {
        self.lock().audit.refused(visitor.who(), denied.0, &denied.1, Moment::now());
    }
}
