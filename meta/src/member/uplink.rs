//! The way of a member to the rendez-vous node: one connection after the other, made, moved, made again.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use super::connect::{jittered, PAUSES};
use super::link::{stop, Link, Next};
use super::state::Shared;
use super::Connection;
use crate::clock::Moment;
use crate::error::{Error, Refusal};

/// Keeps a member connected until it is stopped, or refused for good.
pub(super) async fn run(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut pause = PAUSES.0;
    loop {
        let opened = tokio::select! {
            () = stop(&mut stopped) => return,
            opened = Link::to_rendezvous(shared.clone()) => opened,
        };
        let mut was_heard = false;
        let ended = match opened {
            Ok(link) => match keep(&shared, link, &mut was_heard, &mut stopped).await {
                Some(ended) => ended,
                None => return,
            },
            Err(e) => e,
        };
        // A connection that has stood for a moment is worth coming back to at once.
        pause = if was_heard { PAUSES.0 } else { pause };
        tracing::debug!("session: {ended}");
        shared.unlinked();
        if let Some(end) = end_of(&shared, &ended) {
            // Those below go elsewhere.
            super::lead::end(&shared);
            return shared.change(|state| state.connection = Connection::Refused(end));
        }
        shared.lost(ended);
        tokio::select! {
            () = stop(&mut stopped) => return,
            () = sleep(jittered(pause)) => (),
        }
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Why a member need not come back any more.
fn end_of(shared: &Shared, ended: &Error) -> Option<Error> {
    let until = shared.lock().identity.until();
    match ended {
        Error::Refused(Refusal::Revoked, _) => Some(ended.clone()),
        _ if Moment::now() >= until => {
            let why = format!("the certificate of this node ended at {until}: it is to join again");
            Some(Error::Refused(Refusal::Expired, why))
        }
        _ => None,
    }
}

/// Keeps one connection, and those that take its place, until the last is lost; `None` when the member is stopped.
async fn keep(
    shared: &Arc<Shared>,
    mut link: Link,
    was_heard: &mut bool,
    stopped: &mut watch::Receiver<bool>,
) -> Option<Error> {
    loop {
        shared.linked(&link.sender, link.leader());
        let ended = link.stay(shared, stopped).await;
        *was_heard |= link.was_heard;
        match ended {
            Ok(Next::Stopped) => return None,
            Ok(Next::Moved(next)) => {
                let earlier = std::mem::replace(&mut link, *next);
                tokio::spawn(earlier.linger(shared.clone()));
            }
            // Only the rendez-vous node can say that it is for good.
            Err(Error::Refused(_, why)) if link.follow.is_some() => return Some(Error::Unreachable(why)),
            Err(e) => return Some(e),
        }
    }
}
