//! One member at the end of one connection, as the rendez-vous node and leaders serve it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, Instant};

use crate::channel::{send, Inbox};
use crate::clock::Moment;
use crate::directory::{Directory, Head, Version};
use crate::error::Error;
use crate::message::{Message, Refused};
use crate::outbox::{Outbox, WRITE_LIMIT};
use crate::queue::Queued;
use crate::register::Denied;

/// A member that says more than it may is not listened to for so long, each time.
const CALM: Duration = Duration::from_millis(10);

/// Updates as they are sent, one message each.
pub(crate) type Encoded = Arc<[Arc<[u8]>]>;
/// Makes updates, once for all who miss the same.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// All that there is, whatever those know who get it.
    whole: Option<(Version, Encoded)>,
    /// Changes, from one version to another.
    changes: Option<(Version, Version, Encoded)>,
}

impl Encoder {
    /// What a follower that is at `known` misses to be where `head` says, as it is sent, and where it is then.
    pub(crate) fn updates(
        &mut self,
        of: &Directory,
        head: &Head,
        known: Version,
    ) -> Result<(Encoded, Version), Error> {
        let version = of.version();
        if known >= version {
            return Ok((Encoded::default(), known));
        }
        let is_whole = !of.has_changes(known);
        match (&self.whole, &self.changes) {
            (Some((to, encoded)), _) if is_whole && *to == version => return Ok((encoded.clone(), version)),
            (_, Some((from, to, encoded))) if !is_whole && (*from, *to) == (known, version) => {
                return Ok((encoded.clone(), version));
            }
            _ => (),
        }
        let updates = of.since(known, head).into_iter();
        let encoded: Result<Encoded, Error> =
            updates.map(|update| Message::Update(update).encode().map(Arc::from)).collect();
        let encoded = encoded?;
        match is_whole {
            true => self.whole = Some((version, encoded.clone())),
            false => self.changes = Some((known, version, encoded.clone())),
        }
        Ok((encoded, version))
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) node: NodeId,
    /// Number of the connection.
    pub(crate) connection: u64,
    pub(crate) from: SocketAddr,
    /// When its certificate ends, and with it the connection.
    pub(crate) until: Moment,
    /// Nothing protects what it says: somebody else may have said it.
    pub(crate) is_plain: bool,
}

impl Visitor {
    /// As audit lines call it.
    pub(crate) fn who(&self) -> String {
        format!("{} node {}", self.from, self.node)
    }
}

/// What comes of a message.
pub(crate) enum Said {
    Nothing,
    Answer(Message),
    /// It is told why, and its connection ends.
    Denied(Denied),
    /// It says more than it may: not listened to for a moment.
    TooMuch(Option<Message>),
}

/// Whoever serves members.
pub(crate) trait Hub: Send + Sync {
    /// Changes when the directory does.
    fn changes(&self) -> watch::Receiver<u64>;
    /// A member of which nothing is heard for so long is lost.
    fn silence(&self) -> Duration;
    /// Changes are told together when they come faster than this.
    fn update_pause(&self) -> Duration;
    /// When a member that knows the directory so far is told of it first.
    fn first_update_at(&self, known: Version) -> Instant;
    /// What one that is at `known` misses, and where it is then.
    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error>;
    /// Whether nothing else is known by now, for one that is at `known`: else it is told after the next pause.
    fn is_latest(&self, _known: Version) -> bool {
        true
    }
    /// Whether the connection still is the one by which its node is here.
    fn check(&self, visitor: &Visitor) -> Result<(), Error>;
    /// Whether it may ask for the directory again.
    fn may_ask(&self, visitor: &Visitor) -> Result<(), Denied>;
    /// Takes a message that is not of the connection itself.
    fn take(&self, visitor: &mut Visitor, message: Message) -> Result<Said, Error>;
    /// Notes a refusal, which was counted.
    fn note(&self, visitor: &Visitor, denied: &Denied);
}

/// A connection with a member.
pub(crate) struct Served<Stream> {
    pub(crate) visitor: Visitor,
    pub(crate) reader: Inbox<ReadHalf<Stream>>,
    pub(crate) outbox: Outbox<WriteHalf<Stream>>,
    /// How far it knows the directory.
    pub(crate) known: Version,
    pub(crate) queue: Queued,
}

impl<Stream: AsyncRead + AsyncWrite + Send> Served<Stream> {
    /// Until it leaves, which is `Ok`, or is lost.
    pub(crate) async fn serve<H: Hub>(&mut self, hub: &H) -> Result<(), Error> {
        let mut changed = hub.changes();
        changed.mark_changed();
        let mut silent_at = Instant::now() + hub.silence();
        let mut update_at = hub.first_update_at(self.known);
        if update_at <= Instant::now() {
            // Before it is sent anywhere: a leader may not know as much.
            self.update(hub)?;
        }
        loop {
            let (may_answer, is_idle) = (self.outbox.may_answer(), self.outbox.is_empty());
            let is_update_due = update_at <= Instant::now() && changed.has_changed().unwrap_or(false);
            let heard = tokio::select! {
                message = self.reader.next(), if may_answer => Some(message?),
                written = self.outbox.write(), if !is_idle => {
                    written?;
                    None
                }
                Some(message) = self.queue.next(!is_update_due), if is_idle => {
                    self.outbox.push_encoded(message.into());
                    None
                }
                () = sleep_until(silent_at), if may_answer => match self.reader.come(hub.silence()).await {
                    Some(message) => message?,
                    None => {
                        let silence = hub.silence();
                        return Err(Error::Unreachable(format!("nothing was heard for {silence:?}")));
                    }
                },
                _ = async { sleep_until(update_at).await; changed.changed().await }, if is_idle => {
                    self.update(hub)?;
                    update_at = Instant::now() + hub.update_pause();
                    if !hub.is_latest(self.known) {
                        changed.mark_changed();
                    }
                    None
                }
            };
            if let Some(message) = heard {
                match self.take(hub, message).await? {
                    Next::Ends => return Ok(()),
                    Next::Misses => changed.mark_changed(),
                    Next::Stays => (),
                }
            }
            self.check(hub)?;
            // While it is not listened to it cannot be heard.
            let heard = if may_answer { self.reader.heard() } else { Instant::now() };
            silent_at = heard + hub.silence();
        }
    }

    fn check<H: Hub>(&self, hub: &H) -> Result<(), Error> {
        if Moment::now() >= self.visitor.until {
            return Err(Error::Peer(format!("its certificate ended at {}", self.visitor.until)));
        }
        hub.check(&self.visitor)
    }

    /// Takes a message.
    async fn take<H: Hub>(&mut self, hub: &H, message: Message) -> Result<Next, Error> {
        let said = match message {
            Message::Ping(word) => Said::Answer(Message::Pong(word)),
            Message::Leave(()) => return Ok(Next::Ends),
            Message::Missing(known) => match hub.may_ask(&self.visitor) {
                Ok(()) => {
                    self.known = known;
                    return Ok(Next::Misses);
                }
                Err(denied) => Said::Denied(denied),
            },
            other => hub.take(&mut self.visitor, other)?,
        };
        match said {
            Said::Nothing => (),
            Said::Answer(message) => self.outbox.answer(&message)?,
            Said::Denied(denied) => {
                hub.note(&self.visitor, &denied);
                let (refusal, reason) = denied.clone();
                self.outbox.answer(&Message::Refused(Refused { refusal, reason }))?;
                self.outbox.finish(WRITE_LIMIT).await?;
                return Err(Error::Refused(denied.0, denied.1));
            }
            Said::TooMuch(message) => {
                message.map_or(Ok(()), |message| self.outbox.answer(&message))?;
                sleep(CALM).await;
            }
        }
        Ok(Next::Stays)
    }

    fn update<H: Hub>(&mut self, hub: &H) -> Result<(), Error> {
        let (updates, version) = hub.updates(self.known)?;
        updates.iter().for_each(|update| self.outbox.push_encoded(update.clone()));
        self.known = version;
        Ok(())
    }
}

/// What follows from a message.
enum Next {
    Stays,
    /// It misses changes of the directory.
    Misses,
    /// That was the last.
    Ends,
}

/// Says no, and why.
pub(crate) async fn refuse<Stream>(writer: &mut WriteHalf<Stream>, denied: &Denied) -> Result<(), Error>
where
    Stream: AsyncWrite,
{
    let (refusal, reason) = denied.clone();
    send(writer, &Message::Refused(Refused { refusal, reason })).await?;
    // The end of the stream says that nothing was cut off; whoever has gone already need not hear it.
    let _ = tokio::io::AsyncWriteExt::shutdown(writer).await;
    Ok(())
}

/// A message that only another would say.
pub(crate) fn unexpected(message: &Message) -> Error {
    let text = format!("{message:?}");
    let name = text.split('(').next().unwrap_or_default();
    Error::Peer(format!("a message that makes no sense here: {name}"))
}

#[cfg(test)]
mod tests;
