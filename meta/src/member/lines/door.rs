//! The member that waits to be called for a line: it listens for this one other member, and for as long as that may come.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::run::{Stood, Stream};
use crate::channel::{broken, prepare, send, Inbox};
use crate::door::{Door, Place};
use crate::error::{Error, Refusal};
use crate::member::state::Shared;
use crate::message::Message;
use crate::rendezvous::{LONGEST_OF_MEMBER, LONGEST_OF_STRANGER};
use crate::tls;

/// How long the other member may take to come. It tries two addresses, and hears first where to call.
pub(super) const DOOR_LIMIT: Duration = Duration::from_secs(10);
/// Callers that have not said who they are, at a time.
pub(super) const STRANGERS_MAX: usize = 16;

/// Listens at these addresses, as far as they are there, at ports that the system chooses.
///
/// # Errors
/// Why it does not listen anywhere.
pub(super) fn open(places: &[IpAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), String> {
    let mut open = (Vec::new(), Vec::new());
    let mut reasons = Vec::new();
    for ip in places {
        match listen(*ip) {
            Ok((listener, at)) => {
                open.0.push(listener);
                open.1.push(at);
            }
            Err(e) => reasons.push(format!("listening at {ip}: {e}")),
        }
    }
    match (open.0.is_empty(), reasons.is_empty()) {
        (true, true) => Err("this node has no address for others to call".to_owned()),
        (true, false) => Err(reasons.join("; ")),
        (false, _) => Ok(open),
    }
}

fn listen(ip: IpAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind((ip, 0))?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, at))
}

/// Waits until the member has called with which the line was agreed on. Nobody else gets in.
pub(super) async fn wait(
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    line: (NodeId, u64),
) -> Result<Stood, String> {
    let tls = tls::called_line(&shared.authority, shared.key.clone()).map_err(|e| e.to_string())?;
    let door = Door::new(STRANGERS_MAX);
    let mut guests = JoinSet::new();
    let called = async {
        loop {
            tokio::select! {
                accepted = accept(&listeners) => match accepted {
                    Ok((stream, from)) => {
                        let place = door.enter(from.ip());
                        drop(guests.spawn(greet(shared.clone(), tls.clone(), (stream, from), place, line)));
                    }
                    // Descriptors may have run out.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                },
                guest = guests.join_next(), if !guests.is_empty() => {
                    if let Some(Ok(Some(stood))) = guest {
                        return stood;
                    }
                }
            }
        }
    };
    // With it go the listeners, and all other guests.
    timeout(DOOR_LIMIT, called).await.map_err(|_| format!("it has not called within {DOOR_LIMIT:?}"))
}

async fn accept(listeners: &[TcpListener]) -> std::io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let ready = listeners.iter().find_map(|listener| match listener.poll_accept(context) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Hears a caller; the line when it is the one that was agreed on.
async fn greet(
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
    (stream, from): (TcpStream, SocketAddr),
    mut place: Place,
    line: (NodeId, u64),
) -> Option<Stood> {
    prepare(&stream);
    let heard = match place.first_word(&stream, from.ip(), &shared.hellos).await {
        Ok(()) => place.hear(hear(&shared, tls, stream, from, line)).await,
        Err(denied) => Err(denied),
    };
    heard.map_err(|(refusal, why)| shared.refused_stranger(from, refusal, &why)).ok()
}

/// Has a caller prove who it is. One that is another member than the one that is waited for hears nothing more.
async fn hear(
    shared: &Shared,
    tls: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    from: SocketAddr,
    (node, number): (NodeId, u64),
) -> Result<Stood, Error> {
    let stream = TlsAcceptor::from(tls).accept(stream).await.map_err(|e| broken(&e))?;
    let shown = tls::shown(stream.get_ref().1.peer_certificates())?;
    let caller = shown.ok_or_else(|| Error::Peer("shows no certificate".into()))?;
    if caller.node != Some(node) {
        let who = caller.node.map_or("no node".to_owned(), |node| format!("node {node}"));
        return Err(Error::Peer(format!("is {who}: a line was agreed on with node {node}")));
    }
    let (reader, mut writer) = tokio::io::split(Stream::from(stream));
    let mut reader = Inbox::new(reader, LONGEST_OF_STRANGER);
    match reader.next().await? {
        Message::Line(other) if other == number => (),
        _ => return Err(Error::Peer(format!("node {node} calls for a line that was not agreed on"))),
    }
    if shared.lock().follower.directory().is_revoked(node) {
        return Err(Error::Refused(Refusal::Revoked, format!("node {node} was revoked")));
    }
    shared.hellos.proved(from.ip());
    send(&mut writer, &Message::Line(number)).await?;
    Ok(Stood::new((reader.longest(LONGEST_OF_MEMBER), writer), caller.until, (from, false)))
}
