//! The member that calls for a line.

use std::net::SocketAddr;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::time::timeout;

use super::run::{Stood, Stream};
use crate::channel::{send, Inbox};
use crate::error::Error;
use crate::member::connect::call;
use crate::member::state::Shared;
use crate::message::Message;
use crate::rendezvous::LONGEST_OF_MEMBER;
use crate::tls;

/// How long an address is tried, until the line stands.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);

/// Calls another member, at the first of its addresses that answers; why none does.
pub(super) async fn dial(
    shared: &Shared,
    line: (NodeId, u64),
    places: &[SocketAddr],
) -> Result<Stood, String> {
    let mut reasons = Vec::new();
    for at in places {
        match timeout(ADDRESS_LIMIT, try_one(shared, line, *at)).await {
            Ok(Ok(stood)) => return Ok(stood),
            Ok(Err(e)) => reasons.push(format!("{at}: {}", e)),
            Err(_) => reasons.push(format!("{at}: no answer within {ADDRESS_LIMIT:?}")),
        }
    }
    match reasons.is_empty() {
        true => Err("it listens nowhere".to_owned()),
        false => Err(reasons.join("; ")),
    }
}

async fn try_one(shared: &Shared, (node, number): (NodeId, u64), at: SocketAddr) -> Result<Stood, Error> {
    let tls = tls::calling_line(&shared.authority, &shared.identity())?;
    let stream = call(at, tls::node(node)?, tls).await?;
    let shown = tls::shown(stream.get_ref().1.peer_certificates())?;
    let until = shown.ok_or_else(|| Error::Peer("no certificate was shown".into()))?.until;
    let (reader, mut writer) = tokio::io::split(Stream::from(stream));
    send(&mut writer, &Message::Line(number)).await?;
    let mut reader = Inbox::new(reader, LONGEST_OF_MEMBER);
    match reader.next().await? {
        Message::Line(other) if other == number => Ok(Stood::new((reader, writer), until, (at, true))),
        _ => Err(Error::Peer("it does not know the line".into())),
    }
}
