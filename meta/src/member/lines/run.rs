//! A line that stands: requests and answers of both members, until one of them has nothing more to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::time::{interval, sleep, sleep_until, Instant, MissedTickBehavior};

use super::At;
use crate::channel::Inbox;
use crate::clock::Moment;
use crate::error::{Error, Refusal};
use crate::hub::unexpected;
use crate::member::state::Shared;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::rate::Rates;

/// The connection of a line.
pub(super) type Stream = tokio_rustls::TlsStream<TcpStream>;

/// How often a line is looked at. When nothing was heard since something was said, the other side is asked whether it is there.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// One over which nothing is heard for so long after something was said is lost.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// So long after anything was heard the other side is asked in any case.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// One over which nothing was asked or answered for so long ends: after that not even a request that was said again is open.
const IDLE_LIMIT: Duration = Duration::from_secs(180);
/// Messages of the other member that are heard in a second: as many as a leader passes on of it.
pub(super) const MESSAGES_PER_SECOND: u32 = 500;
/// One that says more is not listened to for so long, each time.
pub(super) const CALM: Duration = Duration::from_millis(10);
/// How long the last word may take.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// A line that was made, with both sides proved.
pub(super) struct Stood<Over = Stream> {
    reader: Inbox<ReadHalf<Over>>,
    outbox: Outbox<WriteHalf<Over>>,
    /// Since when something is said, and nothing was heard.
    waits: Option<Instant>,
    /// When the certificate of the other member ends.
    until: Moment,
    /// Where the other member is.
    pub(super) at: SocketAddr,
    /// Whether this one has called.
    pub(super) has_called: bool,
}

impl<Over: AsyncRead + AsyncWrite> Stood<Over> {
    pub(super) fn new(
        (reader, writer): (Inbox<ReadHalf<Over>>, WriteHalf<Over>),
        until: Moment,
        (at, has_called): (SocketAddr, bool),
    ) -> Stood<Over> {
        Stood { reader, outbox: Outbox::new(writer), waits: None, until, at, has_called }
    }
}

/// What comes of a message.
enum Heard {
    /// Something was asked, or answered.
    Use,
    /// Only that the other side is there.
    Life,
    /// It says more than it may.
    TooMuch,
}

/// Says what is in the queue, and takes what comes; why it is over.
pub(super) async fn run<Over: AsyncRead + AsyncWrite>(
    shared: &Arc<Shared>,
    line: (NodeId, u64),
    mut stood: Stood<Over>,
    mut queue: Receiver<Vec<u8>>,
) -> Error {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rates = Rates::new(MESSAGES_PER_SECOND);
    let mut used = Instant::now();
    loop {
        let (is_idle, may_answer) = (stood.outbox.is_empty(), stood.outbox.may_answer());
        stood.waits = stood.waits.filter(|since| *since >= stood.reader.heard());
        let (is_waiting, since) = (stood.waits.is_some(), stood.waits.unwrap_or(used));
        let turn = tokio::select! {
            message = stood.reader.next(), if may_answer => message.map(Some),
            written = stood.outbox.write(), if !is_idle => written.map(|()| None),
            message = queue.recv(), if is_idle => match message {
                Some(message) => {
                    used = Instant::now();
                    stood.waits.get_or_insert(used);
                    stood.outbox.push_encoded(message.into());
                    Ok(None)
                }
                None => return stood.leave("it is not wanted any more").await,
            },
            () = sleep_until(since + SILENCE_LIMIT), if is_waiting && may_answer => match stood.reader.come(since.elapsed()).await {
                Some(message) => message,
                None => Err(Error::Unreachable(format!("nothing was heard for {SILENCE_LIMIT:?}"))),
            },
            _ = looks.tick() => match stood.look(shared, line.0, used) {
                Ok(()) => Ok(None),
                Err(why) => return stood.leave(&why).await,
            },
        };
        let heard = match turn {
            Ok(Some(message)) => stood.take(shared, line, message, &mut rates),
            Ok(None) => continue,
            Err(why) => Err(why),
        };
        match heard {
            Ok(Heard::Use) => used = Instant::now(),
            Ok(Heard::Life) => (),
            Ok(Heard::TooMuch) => sleep(CALM).await,
            Err(why) => return why,
        }
    }
}

impl<Over: AsyncRead + AsyncWrite> Stood<Over> {
    /// Each second: whether the line may stay. Asks whether the other side is there.
    fn look(&mut self, shared: &Shared, peer: NodeId, used: Instant) -> Result<(), String> {
        shared.may_go_on(peer, At::Address(self.at), self.until, used.elapsed())?;
        let is_silent = self.waits.is_some() || self.reader.heard().elapsed() >= KEEP_ALIVE;
        if is_silent && self.outbox.is_empty() {
            self.waits.get_or_insert_with(Instant::now);
            self.outbox.push(&Message::Ping(0)).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        shared: &Arc<Shared>,
        line: (NodeId, u64),
        message: Message,
        rates: &mut Rates<()>,
    ) -> Result<Heard, Error> {
        let is_too_much = !rates.allows((), std::time::Instant::now());
        let heard = match message {
            Message::Ping(word) => {
                self.outbox.answer(&Message::Pong(word))?;
                Heard::Life
            }
            Message::Pong(_) => Heard::Life,
            Message::Leave(()) => {
                return Err(Error::Refused(Refusal::Ended, "the other side has ended it".into()))
            }
            message @ (Message::Request(_) | Message::Answer(_)) => {
                shared.hear_line(line, message);
                Heard::Use
            }
            other => {
                let why = unexpected(&other);
                let who = format!("{} node {}", self.at, line.0);
                shared.refused_one(who, Refusal::Malformed, &why.to_string());
                return Err(why);
            }
        };
        Ok(if is_too_much { Heard::TooMuch } else { heard })
    }

    /// Says that this was the last.
    async fn leave(mut self, why: &str) -> Error {
        if self.outbox.push(&Message::Leave(())).is_ok() {
            let _ = self.outbox.finish(LEAVE_LIMIT).await;
        }
        Error::Refused(Refusal::Ended, why.to_owned())
    }
}

impl Shared {
    /// Whether a line may go on that leads there, whose certificate ends then, and over which nothing was asked for so long.
    pub(super) fn may_go_on(
        &self,
        peer: NodeId,
        at: At,
        until: Moment,
        unused: Duration,
    ) -> Result<(), String> {
        let now = Moment::now();
        let (own_until, is_revoked) = {
            let state = self.lock();
            (state.identity.until(), state.follower.directory().is_revoked(peer))
        };
        if is_revoked {
            return Err(format!("node {peer} was revoked"));
        }
        // It may say something else of itself by now.
        self.may_stay(peer, at)?;
        // Where the own one was renewed since, the other side sees when the one ends that it was shown.
        if now >= until || now >= own_until {
            return Err("a certificate has ended".to_owned());
        }
        match unused >= IDLE_LIMIT {
            true => Err(format!("nothing was asked for {IDLE_LIMIT:?}")),
            false => Ok(()),
        }
    }

    /// Takes what a member says over its line.
    pub(super) fn hear_line(self: &Arc<Shared>, line: (NodeId, u64), message: Message) {
        self.lines.stages().heard(line);
        let calls = self.post.office().hear_line(line, message, std::time::Instant::now());
        calls.into_iter().for_each(|call| self.serve(call));
        self.send_all();
    }
}

#[cfg(test)]
mod tests;
