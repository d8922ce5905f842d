//! The connection of a member to the rendez-vous node: made, kept, renewed, made again.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{interval, sleep, sleep_until, timeout, MissedTickBehavior};
use tokio_rustls::client::TlsStream;

use super::{connect, jittered, Connection, Shared, EVENTS_MAX, PAUSES};
use crate::channel::{send, Inbox};
use crate::clock::Moment;
use crate::error::{Error, Refusal};
use crate::identity::NodeKey;
use crate::message::{Attach, Message, MESSAGE_BYTES_MAX};
use crate::record::Extras;
use crate::tls;

/// A member says this often that it is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A rendez-vous node of which nothing is heard for so long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// How long a member that ends waits for its last word to go out.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// Keeps a member attached until it is stopped, or refused for good.
pub(super) async fn run(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut pause = PAUSES.0;
    loop {
        let attached = tokio::select! {
            () = stop(&mut stopped) => return,
            attached = Attached::new(&shared) => attached,
        };
        let ended = match attached {
            Ok(mut attached) => match attached.stay(&shared, &mut stopped).await {
                Ok(()) => return,
                Err(e) => {
                    // A connection that has stood for a moment is worth coming back to at once.
                    pause = if attached.was_heard { PAUSES.0 } else { pause };
                    e
                }
            },
            Err(e) => e,
        };
        tracing::debug!("session: {ended}");
        let until = shared.lock().identity.until();
        let end = match &ended {
            Error::Refused(Refusal::Revoked, _) => Some(ended.clone()),
            _ if Moment::now() >= until => {
                let why = format!("the certificate of this node ended at {until}: it is to join again");
                Some(Error::Refused(Refusal::Expired, why))
            }
            _ => None,
        };
        if let Some(end) = end {
            return shared.change(|state| state.connection = Connection::Refused(end));
        }
        shared.change(|state| {
            let since = match &state.connection {
                Connection::Lost(since, _) => *since,
                _ => Moment::now(),
            };
            state.connection = Connection::Lost(since, ended);
        });
        tokio::select! {
            () = stop(&mut stopped) => return,
            () = sleep(jittered(pause)) => (),
        }
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Waits until the member is stopped, or forgotten.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

struct Attached {
    reader: Inbox<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    /// The key of the certificate that is being asked for.
    renewing: Option<NodeKey>,
    /// When the last one was given: a clock that is wrong does not make it ask all the time.
    renewed: Option<tokio::time::Instant>,
    /// Whether the rendez-vous node has answered.
    was_heard: bool,
}

impl Attached {
    async fn new(shared: &Shared) -> Result<Attached, Error> {
        let (identity, known) = {
            let state = shared.lock();
            (state.identity.clone(), state.follower.version())
        };
        let stream = connect(&shared.addresses, tls::member(&shared.authority, &identity)?).await?;
        let (reader, mut writer) = tokio::io::split(stream);
        let (cluster, label) = (shared.about.cluster.clone(), shared.about.label.clone());
        let more = Extras::default();
        send(&mut writer, &Message::Attach(Attach { cluster, label, known, more })).await?;
        Ok(Attached {
            reader: Inbox::new(reader, MESSAGE_BYTES_MAX),
            writer,
            renewing: None,
            renewed: None,
            was_heard: false,
        })
    }

    /// Until the member is stopped, which is `Ok`, or the connection ends.
    async fn stay(&mut self, shared: &Shared, stopped: &mut watch::Receiver<bool>) -> Result<(), Error> {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = tokio::time::Instant::now() + SILENCE_LIMIT;
        loop {
            tokio::select! {
                () = stop(stopped) => {
                    let leave = async {
                        send(&mut self.writer, &Message::Leave(())).await?;
                        tokio::io::AsyncWriteExt::shutdown(&mut self.writer).await.map_err(|e| crate::channel::broken(&e))
                    };
                    let _ = timeout(LEAVE_LIMIT, leave).await;
                    return Ok(());
                }
                message = self.reader.next() => {
                    silent_at = tokio::time::Instant::now() + SILENCE_LIMIT;
                    self.take(shared, message?).await?;
                }
                () = sleep_until(silent_at) => {
                    return Err(Error::Unreachable(format!("the rendez-vous node is silent for {SILENCE_LIMIT:?}")));
                }
                _ = pings.tick() => {
                    send(&mut self.writer, &Message::Ping(0)).await?;
                    self.renew_in_time(shared).await?;
                }
            }
        }
    }

    async fn take(&mut self, shared: &Shared, message: Message) -> Result<(), Error> {
        match message {
            Message::Pong(_) => {
                self.was_heard = true;
                shared.change(|state| state.connection = Connection::Attached);
            }
            Message::Update(update) => {
                let mut gap = None;
                shared.change(|state| match state.follower.take(update) {
                    Ok(events) => {
                        state.connection = Connection::Attached;
                        state.events.extend(events);
                        while state.events.len() > EVENTS_MAX {
                            state.events.pop_front();
                            state.missed = true;
                        }
                    }
                    Err(_) => gap = Some(state.follower.version()),
                });
                if let Some(known) = gap {
                    send(&mut self.writer, &Message::Missing(known)).await?;
                }
            }
            Message::Renewed(certificate) => {
                let Some(key) = self.renewing.take() else {
                    return Err(Error::Peer("a certificate that was not asked for".into()));
                };
                let identity = key.certified(shared.lock().identity.node(), &certificate)?;
                self.renewed = Some(tokio::time::Instant::now());
                shared.change(|state| state.identity = identity);
            }
            Message::Refused(refused) => return Err(Error::Refused(refused.refusal, refused.reason)),
            _ => return Err(Error::Peer("the rendez-vous node says what only members say".into())),
        }
        Ok(())
    }

    /// Asks for a new certificate when the old one ends soon. It is used from the next connection on.
    async fn renew_in_time(&mut self, shared: &Shared) -> Result<(), Error> {
        let (is_due, span) = {
            let identity = &shared.lock().identity;
            (identity.is_to_be_renewed(Moment::now()), identity.span())
        };
        let is_new = self.renewed.is_some_and(|renewed| renewed.elapsed() < span / 6);
        if is_due && !is_new && self.renewing.is_none() {
            let key = NodeKey::create()?;
            send(&mut self.writer, &Message::Renew(key.request().to_vec())).await?;
            self.renewing = Some(key);
        }
        Ok(())
    }
}
