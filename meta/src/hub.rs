//! One member at the end of one connection, as the rendez-vous node and leaders serve it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout, Instant};

use crate::channel::{send, send_encoded, Inbox};
use crate::clock::Moment;
use crate::directory::{Directory, Version};
use crate::error::Error;
use crate::message::{Message, Refused};
use crate::register::Denied;

/// Messages that wait until a member takes them; more are dropped, and those packets' senders told.
const QUEUE_MAX: usize = 128;
/// How long a member may leave what it misses where it is.
const UPDATE_LIMIT: Duration = Duration::from_secs(10);
/// A member that says more than it may is not listened to for so long, each time.
const CALM: Duration = Duration::from_millis(10);

/// Updates as they are sent, one message each.
pub(crate) type Encoded = Arc<[Vec<u8>]>;
/// Makes updates, once for all who miss the same.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Option<(Version, Version, Encoded)>);

impl Encoder {
    /// What a follower that is at `known` misses, as it is sent, and where it is then.
    pub(crate) fn updates(&mut self, of: &Directory, known: Version) -> Result<(Encoded, Version), Error> {
        let version = of.version();
        // Whoever is of another life misses the same: everything.
        let known = if known.epoch == version.epoch { known } else { Version::default() };
        if let Some((from, to, encoded)) = &self.0 {
            if (*from, *to) == (known, version) {
                return Ok((encoded.clone(), version));
            }
        }
        let updates = of.since(known).into_iter();
        let encoded: Result<Encoded, Error> =
            updates.map(|update| Message::Update(update).encode()).collect();
        let encoded = encoded?;
        self.0 = Some((known, version, encoded.clone()));
        Ok((encoded, version))
    }
}

/// Where messages for a member are put, as they are sent.
pub(crate) type Queue = mpsc::Sender<Vec<u8>>;

/// A queue for messages to one member.
pub(crate) fn queue() -> (Queue, mpsc::Receiver<Vec<u8>>) {
    mpsc::channel(QUEUE_MAX)
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
    pub(crate) writer: WriteHalf<Stream>,
    /// How far it knows the directory.
    pub(crate) known: Version,
    pub(crate) queue: mpsc::Receiver<Vec<u8>>,
}

impl<Stream: AsyncRead + AsyncWrite + Send> Served<Stream> {
    /// Until it leaves, which is `Ok`, or is lost.
    pub(crate) async fn serve<H: Hub>(&mut self, hub: &H) -> Result<(), Error> {
        let mut changed = hub.changes();
        changed.mark_changed();
        let mut silent_at = Instant::now() + hub.silence();
        let mut update_at = hub.first_update_at(self.known);
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    silent_at = Instant::now() + hub.silence();
                    if self.take(hub, message?).await? {
                        return Ok(());
                    }
                }
                Some(message) = self.queue.recv() => send_encoded(&mut self.writer, &message).await?,
                () = sleep_until(silent_at) => {
                    return Err(Error::Unreachable(format!("nothing was heard for {:?}", hub.silence())));
                }
                _ = async { sleep_until(update_at).await; changed.changed().await } => {
                    self.update(hub).await?;
                    update_at = Instant::now() + hub.update_pause();
                }
            }
            self.check(hub)?;
        }
    }

    fn check<H: Hub>(&self, hub: &H) -> Result<(), Error> {
        if Moment::now() >= self.visitor.until {
            return Err(Error::Peer(format!("its certificate ended at {}", self.visitor.until)));
        }
        hub.check(&self.visitor)
    }

    /// Takes a message; whether it was the last.
    async fn take<H: Hub>(&mut self, hub: &H, message: Message) -> Result<bool, Error> {
        let said = match message {
            Message::Ping(word) => Said::Answer(Message::Pong(word)),
            Message::Leave(()) => return Ok(true),
            Message::Missing(known) => match hub.may_ask(&self.visitor) {
                Ok(()) => {
                    self.known = known;
                    self.update(hub).await?;
                    Said::Nothing
                }
                Err(denied) => Said::Denied(denied),
            },
            other => hub.take(&mut self.visitor, other)?,
        };
        match said {
            Said::Nothing => (),
            Said::Answer(message) => send(&mut self.writer, &message).await?,
            Said::Denied(denied) => {
                hub.note(&self.visitor, &denied);
                refuse(&mut self.writer, &denied).await?;
                return Err(Error::Refused(denied.0, denied.1));
            }
            Said::TooMuch(message) => {
                if let Some(message) = message {
                    send(&mut self.writer, &message).await?;
                }
                sleep(CALM).await;
            }
        }
        Ok(false)
    }

    async fn update<H: Hub>(&mut self, hub: &H) -> Result<(), Error> {
        let (updates, version) = hub.updates(self.known)?;
        let all = async {
            for update in updates.iter() {
                self.check(hub)?;
                send_encoded(&mut self.writer, update).await?;
            }
            Ok(())
        };
        let late = |_| Error::Unreachable(format!("it does not take the directory within {UPDATE_LIMIT:?}"));
        timeout(UPDATE_LIMIT, all).await.map_err(late)??;
        self.known = version;
        Ok(())
    }
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
