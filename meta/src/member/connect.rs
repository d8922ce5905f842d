//! How a member joins, and how it connects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::authority::fingerprint;
use crate::channel::{broken, prepare, send, Inbox};
use crate::clock::Moment;
use crate::error::Error;
use crate::identity::{Identity, NodeKey};
use crate::message::{Follow, Join, Message, MESSAGE_BYTES_MAX};
use crate::plain::Wants;
use crate::ticket::{Fingerprint, Ticket};
use crate::tls::{self, KEYING_BYTES};
use crate::wire::Wire;
use crate::{plain, through};

/// How long an address is tried, to the end of the handshake.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// How long the rendez-vous node may take to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pauses between tries to come back: the first, and the longest.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where the rendez-vous node is, and how it is spoken to.
#[derive(Debug, Clone, Default)]
pub(super) struct Whereabouts {
    /// Its addresses, in the order in which they are tried.
    pub(super) addresses: Vec<String>,
    /// Leaders that pass on what is said to it: tried when it is not reached.
    pub(super) via: Vec<String>,
    /// By plain TCP.
    pub(super) insecure: bool,
}

impl From<&Ticket> for Whereabouts {
    fn from(ticket: &Ticket) -> Whereabouts {
        let Ticket { addresses, via, insecure, .. } = ticket.clone();
        Whereabouts { addresses, via, insecure }
    }
}

impl From<Vec<String>> for Whereabouts {
    fn from(addresses: Vec<String>) -> Whereabouts {
        Whereabouts { addresses, ..Whereabouts::default() }
    }
}

/// As whom one calls the rendez-vous node.
#[derive(Clone, Copy)]
pub(super) enum Caller<'a> {
    /// One that wants to join, and knows the authority by its ticket.
    Newcomer(Fingerprint),
    /// A member, and what it says of itself: `Message::Attach`, which it says after the handshake where that is TLS.
    Member(&'a CertificateDer<'static>, &'a Identity, &'a [u8]),
    /// One that wants nothing but another certificate, for this request.
    Renewing(&'a CertificateDer<'static>, &'a Identity, &'a [u8]),
}

/// A connection at whose other end is who was called.
pub(super) struct Connected {
    pub(super) wire: Wire,
    /// The certificates that it has shown, its own first.
    pub(super) shown: Vec<CertificateDer<'static>>,
    /// What both ends have in common, and no other connection.
    keying: [u8; KEYING_BYTES],
}

/// Joins; again and again while nobody answers, or too many ask.
pub(super) async fn join_in_time(
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
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = crate::random::word().unwrap_or(u64::MAX / 2) as f64 / u64::MAX as f64;
    pause.mul_f64(0.5 + 0.5 * random)
}

/// Proves the secret; what one is from then on, and the authority that says so.
async fn join(ticket: &Ticket) -> Result<(Identity, CertificateDer<'static>), Error> {
    let now = Moment::now();
    if now >= ticket.expires {
        let why = format!("the ticket expired at {}; it is {now}", ticket.expires);
        tracing::warn!(target: "gridnet::audit", "refused ticket {} expired: {why}", ticket.id);
        return Err(Error::Refused(crate::error::Refusal::Expired, why));
    }
    let key = NodeKey::create()?;
    let connected = connect(&Whereabouts::from(ticket), Caller::Newcomer(ticket.authority)).await?;
    let (keying, authority) = (connected.keying, authority_of(&connected.shown, ticket)?);
    let (reader, mut writer) = tokio::io::split(connected.wire);
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
    shown: &[CertificateDer<'static>],
    ticket: &Ticket,
) -> Result<CertificateDer<'static>, Error> {
    let found = shown.iter().find(|certificate| fingerprint(certificate) == ticket.authority);
    found.cloned().ok_or_else(|| Error::Peer("no authority was shown".into()))
}

/// Connects to the rendez-vous node, at the first of its addresses that answers, or through a leader.
pub(super) async fn connect(to: &Whereabouts, caller: Caller<'_>) -> Result<Connected, Error> {
    let mut reasons = Vec::new();
    let mut worst = None;
    let direct = to.addresses.iter().map(|address| (address, false));
    for (address, is_through) in direct.chain(to.via.iter().map(|address| (address, true))) {
        let name = if is_through { format!("through {address}") } else { address.clone() };
        match timeout(ADDRESS_LIMIT, connect_to(address, is_through, to.insecure, caller)).await {
            Ok(Ok(connected)) => return Ok(connected),
            // Somebody answers who is not the rendez-vous node: that is graver than nobody.
            Ok(Err(e @ Error::Peer(_))) => worst = worst.or(Some(Error::Peer(format!("{name}: {e}")))),
            Ok(Err(e)) => reasons.push(format!("{name}: {e}")),
            Err(_) => reasons.push(format!("{name}: no answer within {ADDRESS_LIMIT:?}")),
        }
    }
    Err(worst.unwrap_or_else(|| Error::Unreachable(format!("the rendez-vous node: {}", reasons.join("; ")))))
}

async fn connect_to(
    address: &str,
    is_through: bool,
    insecure: bool,
    caller: Caller<'_>,
) -> Result<Connected, Error> {
    let mut stream = dial(address).await?;
    if is_through {
        through::ask(&mut stream).await?;
    }
    if insecure {
        let (authority, node) = match caller {
            Caller::Newcomer(authority) => (authority, None),
            Caller::Member(authority, identity, attach) => {
                (fingerprint(authority), Some((identity, Wants::Attach(attach))))
            }
            Caller::Renewing(authority, identity, request) => {
                (fingerprint(authority), Some((identity, Wants::Renewal(request))))
            }
        };
        let (shown, keying) = plain::call(&mut stream, authority, node).await?;
        return Ok(Connected { wire: Wire::Plain(stream), shown, keying });
    }
    let tls = match caller {
        Caller::Newcomer(authority) => tls::joining(authority)?,
        Caller::Member(authority, identity, _) | Caller::Renewing(authority, identity, _) => {
            tls::member(authority, identity)?
        }
    };
    let stream = TlsConnector::from(tls).connect(tls::rendezvous()?, stream).await;
    secured(stream.map_err(|e| broken(&e))?)
}

/// Connects to a leader, at the first of its addresses that answers.
pub(super) async fn connect_to_leader(
    follow: &Follow,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Connected, Error> {
    let mut reasons = Vec::new();
    for address in &follow.addresses {
        let tried = call(address, tls::node(follow.leader)?, tls.clone());
        match timeout(ADDRESS_LIMIT, tried).await {
            Ok(Ok(stream)) => return secured(stream),
            Ok(Err(e)) => reasons.push(format!("{address}: {e}")),
            Err(_) => reasons.push(format!("{address}: no answer within {ADDRESS_LIMIT:?}")),
        }
    }
    Err(Error::Unreachable(format!("leader {}: {}", follow.leader, reasons.join("; "))))
}

pub(super) async fn call(
    address: impl ToSocketAddrs,
    name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let stream = dial(address).await?;
    TlsConnector::from(tls).connect(name, stream).await.map_err(|e| broken(&e))
}

async fn dial(address: impl ToSocketAddrs) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(address).await.map_err(|e| broken(&e))?;
    prepare(&stream);
    Ok(stream)
}

fn secured(stream: TlsStream<TcpStream>) -> Result<Connected, Error> {
    let connection = stream.get_ref().1;
    let shown = connection.peer_certificates().unwrap_or_default();
    let shown = shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let keying = tls::keying(connection)?;
    Ok(Connected { wire: Wire::Tls(Box::new(stream.into())), shown, keying })
}
