//! One connection of a member, to the rendez-vous node or to its leader.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until, timeout, Instant, MissedTickBehavior};
use tokio_rustls::client::TlsStream;

use super::connect::{connect, connect_to_leader, jittered, PAUSES};
use super::post::Origin;
use super::state::Shared;
use crate::channel::{broken, send, send_encoded, Inbox};
use crate::clock::Moment;
use crate::error::Error;
use crate::hub::queue;
use crate::identity::{Identity, NodeKey};
use crate::message::{Follow, Message, MESSAGE_BYTES_MAX};
use crate::tls;

/// A member says this often that it is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A rendez-vous node, or a leader, of which nothing is heard for so long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// How long a member that ends waits for its last word to go out.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// How long one that was called may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A connection that another has taken the place of is heard for so long: something may be on its way.
const LINGER: Duration = Duration::from_secs(5);
/// A member whose leader has lost the rendez-vous node for so long looks for it itself.
const LEADER_ALONE: Duration = Duration::from_secs(4);

/// Waits until the member is stopped, or forgotten.
pub(super) async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// How a connection has ended well.
pub(super) enum Next {
    Stopped,
    Moved(Box<Link>),
}

/// What is done beside.
enum Done {
    /// Another connection stands.
    Moved(Result<Box<Link>, Error>),
    /// A certificate was given.
    Renewed(Result<Identity, Error>),
}

/// A connection.
pub(super) struct Link {
    reader: Inbox<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    pub(super) sender: crate::hub::Queue,
    queue: mpsc::Receiver<Vec<u8>>,
    /// The leader at the other end, as the rendez-vous node has named it; `None` when that one is there itself.
    pub(super) follow: Option<Follow>,
    /// Our address.
    local: IpAddr,
    /// The key of the certificate that is being asked for.
    renewing: Option<NodeKey>,
    /// When the last one was given: a clock that is wrong does not make it ask all the time.
    renewed: Option<Instant>,
    /// Whether the other side has answered.
    pub(super) was_heard: bool,
    /// Since when the leader has no connection to the rendez-vous node.
    alone_since: Option<Instant>,
    beside: JoinSet<Done>,
}

impl Link {
    pub(super) async fn to_rendezvous(shared: Arc<Shared>) -> Result<Link, Error> {
        let tls = tls::member(&shared.authority, &shared.identity())?;
        let stream = connect(&shared.addresses, tls).await?;
        Link::new(&shared, stream, None).await
    }

    /// A connection to a leader, which has answered.
    async fn to_leader(shared: Arc<Shared>, follow: Follow) -> Result<Link, Error> {
        let tls = tls::below(&shared.authority, &shared.identity())?;
        let stream = connect_to_leader(&follow, tls).await?;
        let mut link = Link::new(&shared, stream, Some(follow)).await?;
        send(&mut link.writer, &Message::Ping(0)).await?;
        let heard = async {
            while !link.was_heard {
                let message = link.reader.next().await?;
                link.take(&shared, message).await?;
            }
            Ok(())
        };
        let silent = |_| Error::Unreachable(format!("no answer of the leader within {ANSWER_LIMIT:?}"));
        timeout(ANSWER_LIMIT, heard).await.map_err(silent)??;
        Ok(link)
    }

    async fn new(
        shared: &Arc<Shared>,
        stream: TlsStream<TcpStream>,
        follow: Option<Follow>,
    ) -> Result<Link, Error> {
        let local = stream.get_ref().0.local_addr().map_err(|e| broken(&e))?.ip();
        let (reader, mut writer) = tokio::io::split(stream);
        let pass = follow.as_ref().map(|follow| follow.pass.clone());
        send(&mut writer, &Message::Attach(shared.attach(pass))).await?;
        let (sender, queue) = queue();
        Ok(Link {
            reader: Inbox::new(reader, MESSAGE_BYTES_MAX),
            writer,
            sender,
            queue,
            follow,
            local,
            renewing: None,
            renewed: None,
            was_heard: false,
            alone_since: None,
            beside: JoinSet::new(),
        })
    }

    pub(super) fn leader(&self) -> Option<gridnet_core::wire::NodeId> {
        self.follow.as_ref().map(|follow| follow.leader)
    }

    /// Until the member is stopped, another connection has taken the place of this one, or it has ended.
    pub(super) async fn stay(
        &mut self,
        shared: &Arc<Shared>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<Next, Error> {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + SILENCE_LIMIT;
        self.report(shared, true).await?;
        loop {
            tokio::select! {
                () = stop(stopped) => {
                    self.leave().await;
                    return Ok(Next::Stopped);
                }
                message = self.reader.next() => {
                    silent_at = Instant::now() + SILENCE_LIMIT;
                    self.take(shared, message?).await?;
                }
                Some(message) = self.queue.recv() => send_encoded(&mut self.writer, &message).await?,
                () = shared.report.notified() => self.report(shared, false).await?,
                () = sleep_until(silent_at) => {
                    return Err(Error::Unreachable(format!("the other side is silent for {SILENCE_LIMIT:?}")));
                }
                _ = pings.tick() => {
                    send(&mut self.writer, &Message::Ping(0)).await?;
                    self.renew_in_time(shared).await?;
                    self.look_for_rendezvous(shared);
                }
                Some(done) = self.beside.join_next() => {
                    if let Some(next) = self.is_done(shared, done.map_err(|e| Error::System(e.to_string()))?) {
                        return Ok(Next::Moved(next));
                    }
                }
            }
        }
    }

    /// Tells the rendez-vous node who is below this one.
    async fn report(&mut self, shared: &Shared, is_all: bool) -> Result<(), Error> {
        if self.follow.is_none() {
            for report in shared.reports(is_all) {
                send(&mut self.writer, &report).await?;
            }
            let leads = shared.lock().leading.as_ref().map(|leading| leading.addresses.clone());
            if let Some(addresses) = leads.filter(|_| is_all) {
                // That was all of them.
                send(&mut self.writer, &Message::Leading(addresses)).await?;
            }
        }
        Ok(())
    }

    async fn leave(&mut self) {
        let leave = async {
            send(&mut self.writer, &Message::Leave(())).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut self.writer).await.map_err(|e| broken(&e))
        };
        let _ = timeout(LEAVE_LIMIT, leave).await;
    }

    /// Hears and says what was on its way when another connection took the place of this one.
    pub(super) async fn linger(mut self, shared: Arc<Shared>) {
        self.beside.abort_all();
        let rest = async {
            loop {
                tokio::select! {
                    message = self.reader.next() => {
                        let Ok(message) = message else { return };
                        // Others are of the past.
                        if matches!(message, Message::Packet(_) | Message::Update(_))
                            && self.take(&shared, message).await.is_err()
                        {
                            return;
                        }
                    }
                    Some(message) = self.queue.recv() => {
                        if send_encoded(&mut self.writer, &message).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let _ = timeout(LINGER, rest).await;
    }

    async fn take(&mut self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
        match message {
            Message::Pong(_) => {
                self.was_heard = true;
                if self.alone_since.is_none() {
                    shared.attached();
                }
            }
            Message::Update(update) => {
                if let Some(known) = shared.take_update(update, self.alone_since.is_none()) {
                    send(&mut self.writer, &Message::Missing(known)).await?;
                }
            }
            Message::Packet(packet) => shared.receive(packet, Origin::Uplink),
            Message::Refused(refused) => return Err(Error::Refused(refused.refusal, refused.reason)),
            Message::Uplink(stands) if self.follow.is_some() => {
                self.alone_since = (!stands).then(|| self.alone_since.unwrap_or_else(Instant::now));
                match stands {
                    true => shared.attached(),
                    false => {
                        shared.lost(Error::Unreachable("the leader has lost the rendez-vous node".into()))
                    }
                }
            }
            message if self.follow.is_none() => self.take_of_rendezvous(shared, message).await?,
            _ => return Err(Error::Peer("the leader says what is not for it to say".into())),
        }
        Ok(())
    }

    async fn take_of_rendezvous(&mut self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
        match message {
            Message::Renewed(certificate) => {
                let Some(key) = self.renewing.take() else {
                    return Err(Error::Peer("a certificate that was not asked for".into()));
                };
                let identity = key.certified(shared.node, &certificate)?;
                self.renewed = Some(Instant::now());
                shared.renewed(identity)?;
            }
            Message::Lead(()) => match super::lead::begin(shared, self.local) {
                Ok(addresses) => send(&mut self.writer, &Message::Leading(addresses)).await?,
                // Another one is appointed then.
                Err(e) => tracing::warn!("session: this node is to lead its cluster and cannot: {e}"),
            },
            Message::Follow(follow) if follow.leader != shared.node => {
                super::lead::end(shared);
                if shared.lock().unreached != Some(follow.leader) {
                    self.move_to(shared, follow);
                }
            }
            Message::Denied(denied) => super::lead::drop_member(shared, denied.node),
            Message::Follow(_) => (),
            _ => return Err(Error::Peer("the rendez-vous node says what only members say".into())),
        }
        Ok(())
    }

    fn move_to(&mut self, shared: &Arc<Shared>, follow: Follow) {
        self.beside.abort_all();
        let shared = shared.clone();
        self.beside.spawn(async move {
            let leader = follow.leader;
            let link = Link::to_leader(shared.clone(), follow).await;
            if let Err(e) = &link {
                tracing::debug!("session: leader {leader}: {e}");
                // It stays where it is; the next connection tries again.
                shared.lock().unreached = Some(leader);
            }
            Done::Moved(link.map(Box::new))
        });
    }

    fn is_done(&mut self, shared: &Arc<Shared>, done: Done) -> Option<Box<Link>> {
        match done {
            Done::Moved(Ok(link)) => return Some(link),
            Done::Moved(Err(_)) => (),
            Done::Renewed(Ok(identity)) => {
                self.renewed = Some(Instant::now());
                // The leader is shown the new one by a connection in the place of this one.
                match (shared.renewed(identity), self.follow.clone()) {
                    (Ok(()), Some(follow)) => self.move_to(shared, follow),
                    (Err(e), _) => tracing::warn!("session: {e}"),
                    _ => (),
                }
            }
            Done::Renewed(Err(e)) => tracing::debug!("session: renewing: {e}"),
        }
        None
    }

    /// Asks for a new certificate when the old one ends soon. It is used from the next connection on.
    async fn renew_in_time(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        let identity = shared.identity();
        let is_new = self.renewed.is_some_and(|renewed| renewed.elapsed() < identity.span() / 6);
        if !identity.is_to_be_renewed(Moment::now()) || is_new {
            return Ok(());
        }
        if self.follow.is_none() && self.renewing.is_none() {
            let key = NodeKey::create()?;
            send(&mut self.writer, &Message::Renew(key.request().to_vec())).await?;
            self.renewing = Some(key);
        } else if self.follow.is_some() && self.beside.is_empty() {
            // Of the rendez-vous node itself: a leader could ask in the name of others.
            let shared = shared.clone();
            self.beside.spawn(async move { Done::Renewed(renew_at_rendezvous(&shared).await) });
        }
        Ok(())
    }

    /// When the leader has lost the rendez-vous node, and it is there all the same, a member goes there itself.
    fn look_for_rendezvous(&mut self, shared: &Arc<Shared>) {
        let is_alone = self.alone_since.is_some_and(|since| since.elapsed() > LEADER_ALONE);
        if is_alone && self.beside.is_empty() {
            let shared = shared.clone();
            self.beside.spawn(async move {
                sleep(jittered(PAUSES.1)).await;
                Done::Moved(Link::to_rendezvous(shared).await.map(Box::new))
            });
        }
    }
}

async fn renew_at_rendezvous(shared: &Shared) -> Result<Identity, Error> {
    let stream = connect(&shared.addresses, tls::member(&shared.authority, &shared.identity())?).await?;
    let (reader, mut writer) = tokio::io::split(stream);
    let key = NodeKey::create()?;
    send(&mut writer, &Message::Renew(key.request().to_vec())).await?;
    let answer = timeout(ANSWER_LIMIT, Inbox::new(reader, MESSAGE_BYTES_MAX).next()).await;
    match answer.map_err(|_| Error::Unreachable("no answer of the rendez-vous node".into()))?? {
        Message::Renewed(certificate) => key.certified(shared.node, &certificate),
        Message::Refused(refused) => Err(Error::Refused(refused.refusal, refused.reason)),
        _ => Err(Error::Peer("the rendez-vous node answers something else than was asked".into())),
    }
}
