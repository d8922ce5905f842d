//! How a member joins, and how it connects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::channel::{broken, prepare, send, Inbox};
use crate::clock::Moment;
use crate::error::Error;
use crate::identity::{Identity, NodeKey};
use crate::message::{Follow, Join, Message, MESSAGE_BYTES_MAX};
use crate::ticket::Ticket;
use crate::tls;

/// How long an address is tried, to the end of the handshake.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// How long the rendez-vous node may take to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pauses between tries to come back: the first, and the longest.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

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
pub(super) async fn connect(
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
    call(address, tls::rendezvous()?, tls).await
}

/// Connects to a leader, at the first of its addresses that answers.
pub(super) async fn connect_to_leader(
    follow: &Follow,
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let mut reasons = Vec::new();
    for address in &follow.addresses {
        let tried = call(address, tls::node(follow.leader)?, tls.clone());
        match timeout(ADDRESS_LIMIT, tried).await {
            Ok(Ok(stream)) => return Ok(stream),
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
    let stream = TcpStream::connect(address).await.map_err(|e| broken(&e))?;
    prepare(&stream);
    TlsConnector::from(tls).connect(name, stream).await.map_err(|e| broken(&e))
}
