//! One connection of a member, to the rendez-vous node or to its leader.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until, timeout, Instant, MissedTickBehavior};

use super::connect::{connect, connect_to_leader, jittered, Caller, Connected, Whereabouts, PAUSES};
use super::post::Origin;
use super::state::Shared;
use crate::channel::{send, Inbox};
use crate::clock::Moment;
use crate::directory::Pending;
use crate::error::Error;
use crate::identity::{Identity, NodeKey};
use crate::message::{Follow, Message, MESSAGE_BYTES_MAX};
use crate::outbox::Outbox;
use crate::queue::{queue, Queue, Queued};
use crate::tls;
use crate::wire::Wire;

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
    reader: Inbox<ReadHalf<Wire>>,
    outbox: Outbox<WriteHalf<Wire>>,
    pub(super) sender: Queue,
    queue: Queued,
    /// The leader at the other end, as the rendez-vous node has named it; `None` when that one is there itself.
    pub(super) follow: Option<Follow>,
    /// Nothing protects what is said over it.
    is_plain: bool,
    /// When the certificate of the other side ends.
    until: Moment,
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
    /// How many were refused here, as the rendez-vous node was told.
    told: u64,
    /// The parts of an update that have come over it.
    pending: Pending,
    beside: JoinSet<Done>,
}

impl Link {
    pub(super) async fn to_rendezvous(shared: Arc<Shared>) -> Result<Link, Error> {
        let identity = shared.identity();
        let attach = Message::Attach(shared.attach(None)).encode()?;
        let caller = Caller::Member(&shared.authority, &identity, &attach);
        let connected = connect(&shared.rendezvous, caller).await?;
        Link::new(&shared, connected, None).await
    }

    /// A connection to a leader, which has answered.
    async fn to_leader(shared: Arc<Shared>, follow: Follow) -> Result<Link, Error> {
        let tls = tls::below(&shared.authority, &shared.identity())?;
        shared.lock().follower.raise_floor(follow.known);
        let connected = connect_to_leader(&follow, tls).await?;
        let mut link = Link::new(&shared, connected, Some(follow)).await?;
        link.outbox.push(&Message::Ping(0))?;
        let heard = async {
            while !link.was_heard {
                tokio::select! {
                    message = link.reader.next() => link.take(&shared, message?)?,
                    written = link.outbox.write(), if !link.outbox.is_empty() => written?,
                }
            }
            Ok(())
        };
        let silent = |_| Error::Unreachable(format!("no answer of the leader within {ANSWER_LIMIT:?}"));
        timeout(ANSWER_LIMIT, heard).await.map_err(silent)??;
        Ok(link)
    }

    async fn new(shared: &Arc<Shared>, connected: Connected, follow: Option<Follow>) -> Result<Link, Error> {
        let (local, is_plain) = (connected.wire.local_ip()?, connected.wire.is_plain());
        shared.lock().own[usize::from(follow.is_some())] = Some(local);
        let shown = tls::shown(Some(&connected.shown))?;
        let until = shown.ok_or_else(|| Error::Peer("no certificate was shown".into()))?.until;
        let (reader, mut writer) = tokio::io::split(connected.wire);
        // Over a plain connection that was said with the proof of who says it.
        if !is_plain {
            let pass = follow.as_ref().map(|follow| follow.pass.clone());
            send(&mut writer, &Message::Attach(shared.attach(pass))).await?;
        }
        let (sender, queue) = queue(&shared.freight);
        Ok(Link {
            reader: Inbox::new(reader, MESSAGE_BYTES_MAX),
            outbox: Outbox::new(writer),
            sender,
            queue,
            follow,
            is_plain,
            until,
            local,
            renewing: None,
            renewed: None,
            was_heard: false,
            alone_since: None,
            told: 0,
            pending: Pending::default(),
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
        self.report(shared, true)?;
        loop {
            let (is_idle, silent_at) = (self.outbox.is_empty(), self.reader.heard() + SILENCE_LIMIT);
            tokio::select! {
                () = stop(stopped) => {
                    self.leave().await;
                    return Ok(Next::Stopped);
                }
                message = self.reader.next() => self.take(shared, message?)?,
                written = self.outbox.write(), if !is_idle => written?,
                message = self.queue.next_or(shared.report.notified()), if is_idle => {
                    // First: what one below says is not passed on before it is known to be there.
                    self.report(shared, false)?;
                    if let Some(message) = message {
                        self.outbox.push_encoded(message.into());
                    }
                }
                () = sleep_until(silent_at) => match self.reader.come(SILENCE_LIMIT).await {
                    Some(message) => message?.map_or(Ok(()), |message| self.take(shared, message))?,
                    None => {
                        let why = format!("the other side is silent for {SILENCE_LIMIT:?}");
                        return Err(Error::Unreachable(why));
                    }
                },
                _ = pings.tick() => {
                    if is_idle {
                        self.outbox.push(&Message::Ping(0))?;
                    }
                    self.tell_refusals(shared)?;
                    self.renew_in_time(shared)?;
                    self.look_for_rendezvous(shared);
                }
                Some(done) = self.beside.join_next() => {
                    if let Some(next) = self.is_done(shared, done.map_err(|e| Error::System(e.to_string()))?) {
                        return Ok(Next::Moved(next));
                    }
                }
            }
            self.check(shared)?;
        }
    }

    /// Whether who is there may still be followed.
    fn check(&self, shared: &Shared) -> Result<(), Error> {
        let Some(leader) = self.leader() else { return Ok(()) };
        if Moment::now() >= self.until {
            return Err(Error::Unreachable(format!(
                "the certificate of leader {leader} ended at {}",
                self.until
            )));
        }
        shared.why_not_follow(leader).map_or(Ok(()), Err)
    }

    /// Tells the rendez-vous node who is below this one.
    fn report(&mut self, shared: &Shared, is_all: bool) -> Result<(), Error> {
        if self.follow.is_some() {
            return Ok(());
        }
        for report in shared.reports(is_all) {
            self.outbox.push(&report)?;
        }
        if is_all {
            let leads = shared.lock().leading.as_ref().map(|leading| leading.addresses.clone());
            if let Some(addresses) = leads {
                // That was all of them.
                self.outbox.push(&Message::Leading(addresses))?;
            }
        }
        Ok(())
    }

    /// Tells the rendez-vous node how many this leader has refused, if that has changed.
    fn tell_refusals(&mut self, shared: &Shared) -> Result<(), Error> {
        let counts = {
            let state = shared.lock();
            if self.follow.is_some() || state.leading.is_none() {
                return Ok(());
            }
            state.audit.counts().clone()
        };
        let all = counts.values().fold(0, |all: u64, count| all.saturating_add(*count));
        if all > self.told {
            self.told = all;
            self.outbox.push(&Message::Refusals(counts))?;
        }
        Ok(())
    }

    /// Says all that waits to be said, and that this was the last.
    async fn leave(&mut self) {
        let rest: Vec<Vec<u8>> = self.queue.rest().collect();
        rest.into_iter().for_each(|message| self.outbox.push_encoded(message.into()));
        if self.outbox.push(&Message::Leave(())).is_ok() {
            let _ = self.outbox.finish(LEAVE_LIMIT).await;
        }
    }

    /// Hears and says what was on its way when another connection took the place of this one.
    pub(super) async fn linger(mut self, shared: Arc<Shared>) {
        self.beside.abort_all();
        let rest = async {
            loop {
                let is_idle = self.outbox.is_empty();
                tokio::select! {
                    message = self.reader.next() => {
                        let Ok(message) = message else { return };
                        // Others are of the past.
                        if matches!(message, Message::Packet(_) | Message::Update(_))
                            && self.take(&shared, message).is_err()
                        {
                            return;
                        }
                    }
                    written = self.outbox.write(), if !is_idle => {
                        if written.is_err() {
                            return;
                        }
                    }
                    Some(message) = self.queue.next(true), if is_idle => self.outbox.push_encoded(message.into()),
                }
            }
        };
        let _ = timeout(LINGER, rest).await;
    }

    /// Takes a message. A leader that says what it must not is never followed again.
    pub(super) fn take(&mut self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
        let taken = self.judge(shared, message);
        if let (Err(Error::Peer(why)), Some(leader)) = (&taken, self.leader()) {
            tracing::warn!("session: leader {leader} is left: {why}");
            shared.mistrust(leader);
        }
        taken
    }

    fn judge(&mut self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
        match message {
            Message::Pong(_) => {
                self.was_heard = true;
                if self.alone_since.is_none() {
                    shared.attached();
                }
            }
            Message::Update(update) => {
                let known = shared.take_update(&mut self.pending, update, self.alone_since.is_none())?;
                if let Some(known) = known.filter(|_| self.outbox.may_answer()) {
                    self.outbox.answer(&Message::Missing(known))?;
                }
            }
            // Over a plain connection anybody may say an old one again.
            Message::Still(still) => shared.take_still(still, self.follow.is_none() && !self.is_plain)?,
            Message::Packet(packet) => drop(shared.receive(packet, Origin::Uplink)),
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
            message if self.follow.is_none() => self.take_of_rendezvous(shared, message)?,
            _ => return Err(Error::Peer("the leader says what is not for it to say".into())),
        }
        Ok(())
    }

    fn take_of_rendezvous(&mut self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
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
                Ok(addresses) => self.outbox.push(&Message::Leading(addresses))?,
                // Another one is appointed then.
                Err(e) => tracing::warn!("session: this node is to lead its cluster and cannot: {e}"),
            },
            Message::Follow(mut follow) if follow.leader != shared.node => {
                if self.is_plain {
                    // Anybody may have said it: a member that believes it would take no update any more.
                    follow.known = shared.lock().follower.version();
                }
                super::lead::end(shared);
                let is_unreached = shared.lock().unreached == Some(follow.leader);
                if !is_unreached && shared.why_not_follow(follow.leader).is_none() {
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
                    (Ok(()), None) => self.come_again(shared, Duration::ZERO),
                    (Err(e), _) => tracing::warn!("session: {e}"),
                }
            }
            Done::Renewed(Err(e)) => tracing::debug!("session: renewing: {e}"),
        }
        None
    }

    /// Asks for a new certificate when the old one ends soon. It is used from the next connection on.
    fn renew_in_time(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        let identity = shared.identity();
        let is_new = self.renewed.is_some_and(|renewed| renewed.elapsed() < identity.span() / 6);
        if !identity.is_to_be_renewed(Moment::now()) || is_new {
            return Ok(());
        }
        let is_safe = self.follow.is_none() && !self.is_plain;
        if is_safe && self.renewing.is_none() {
            let key = NodeKey::create()?;
            self.outbox.push(&Message::Renew(key.request().to_vec()))?;
            self.renewing = Some(key);
        } else if !is_safe && self.beside.is_empty() {
            // Of the rendez-vous node itself: a leader could ask in the name of others, and so could who is on the way of a plain
            // connection, but for its beginning.
            let shared = shared.clone();
            self.beside.spawn(async move { Done::Renewed(renewed(&shared).await) });
        }
        Ok(())
    }

    /// When the leader has lost the rendez-vous node, or passes on no word of it, and it is there all the same, a member goes there
    /// itself.
    fn look_for_rendezvous(&mut self, shared: &Arc<Shared>) {
        let is_alone = self.alone_since.is_some_and(|since| since.elapsed() > LEADER_ALONE);
        let is_doubtful = self.follow.is_some() && shared.is_doubtful();
        if (is_alone || is_doubtful) && self.beside.is_empty() {
            self.come_again(shared, jittered(PAUSES.1));
        }
    }

    /// Another connection to the rendez-vous node takes the place of this one.
    fn come_again(&mut self, shared: &Arc<Shared>, pause: Duration) {
        let shared = shared.clone();
        self.beside.spawn(async move {
            sleep(pause).await;
            Done::Moved(Link::to_rendezvous(shared).await.map(Box::new))
        });
    }
}

async fn renewed(shared: &Shared) -> Result<Identity, Error> {
    renew_at_rendezvous(&shared.rendezvous, &shared.authority, &shared.identity()).await
}

/// Asks the rendez-vous node for a new certificate, on a connection of its own.
pub(super) async fn renew_at_rendezvous(
    rendezvous: &Whereabouts,
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<Identity, Error> {
    let key = NodeKey::create()?;
    let connected = connect(rendezvous, Caller::Renewing(authority, identity, key.request())).await?;
    let is_asked = connected.wire.is_plain();
    let (reader, mut writer) = tokio::io::split(connected.wire);
    if !is_asked {
        send(&mut writer, &Message::Renew(key.request().to_vec())).await?;
    }
    let answer = timeout(ANSWER_LIMIT, Inbox::new(reader, MESSAGE_BYTES_MAX).next()).await;
    match answer.map_err(|_| Error::Unreachable("no answer of the rendez-vous node".into()))?? {
        Message::Renewed(certificate) => key.certified(identity.node(), &certificate),
        Message::Refused(refused) => Err(Error::Refused(refused.refusal, refused.reason)),
        _ => Err(Error::Peer("the rendez-vous node answers something else than was asked".into())),
    }
}

#[cfg(test)]
mod tests;
