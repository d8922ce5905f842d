//! A line within a host that stands: requests and answers of both members, as packets between two processes.
//!
//! Any thread may say something, or take what has come, and so do those that poll a fabric: nothing waits for the thread of the member.
//! That one ([`run`]) takes what nobody else does, and ends the line when it is time.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use tokio::sync::mpsc::Receiver;
use tokio::sync::Notify;
use tokio::time::{interval, sleep, MissedTickBehavior};

use super::packets::Packets;
use super::run::{CALM, KEEP_ALIVE, LOOK_INTERVAL, MESSAGES_PER_SECOND, SILENCE_LIMIT};
use crate::clock::Moment;
use crate::error::{Error, Refusal};
use crate::hub::unexpected;
use crate::member::state::Shared;
use crate::message::{Message, LENGTH_BYTES};
use crate::rate::Rates;
use crate::rendezvous::LONGEST_OF_MEMBER;

/// Messages that are taken at a time; others of this process have their turn then.
const TAKEN_MAX: usize = 64;
/// Messages that wait for room: more are dropped, and said again in time.
const UNSAID_MAX: usize = 128;
/// How soon it is looked whether there is room.
const ROOM_INTERVAL: Duration = Duration::from_millis(2);

/// See the [module](self).
pub(super) struct Direct {
    packets: Packets,
    line: (NodeId, u64),
    /// When the certificate of the other member ends, by which it was known when this was agreed on.
    until: Moment,
    /// The other process.
    pub(super) pid: u32,
    /// Whether this one has called.
    pub(super) has_called: bool,
    marks: Mutex<Marks>,
    /// Whoever takes what has come. Nothing is done with it while this is held.
    room: Mutex<Vec<u8>>,
    /// What has found no room, in its order.
    unsaid: Mutex<VecDeque<Vec<u8>>>,
    /// There is something of that.
    is_full: Notify,
    /// It is over: see [`Marks::over`].
    ended: Notify,
}

/// When what happened.
struct Marks {
    heard: Instant,
    /// Since when something is said, and nothing was heard.
    waits: Option<Instant>,
    /// When something was asked or answered.
    used: Instant,
    rates: Rates<()>,
    /// Not before is it listened to again.
    calm_until: Option<Instant>,
    /// Why it is over, as somebody has found.
    over: Option<Error>,
}

/// What there may be more to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    More,
    /// It says more than it may.
    TooMuch,
}

impl Direct {
    pub(super) fn new(
        packets: Packets,
        line: (NodeId, u64),
        until: Moment,
        (pid, has_called): (u32, bool),
    ) -> Direct {
        let now = Instant::now();
        let marks = Marks {
            heard: now,
            waits: None,
            used: now,
            rates: Rates::new(MESSAGES_PER_SECOND),
            calm_until: None,
            over: None,
        };
        let room = Mutex::new(vec![0; LENGTH_BYTES + LONGEST_OF_MEMBER]);
        let (marks, ended) = (Mutex::new(marks), Notify::new());
        let (unsaid, is_full) = (Mutex::default(), Notify::new());
        Direct { packets, line, until, pid, has_called, marks, room, unsaid, is_full, ended }
    }

    /// What is readable when something has come.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }

    /// Whether [`run`] is woken when something comes; else others take it. Only in turns.
    pub(super) fn watch(&self, is_watched: bool) {
        if let Err(e) = self.packets.watch(is_watched) {
            self.end(crate::channel::broken(&e));
        }
    }

    // What is there is whole, whoever has panicked.
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says a request or an answer, as [`Message::encode`] gave it; whether the line stands. What finds no room waits for it, or is lost
    /// where much waits, and said again in time.
    pub(super) fn say(&self, bytes: &[u8]) -> bool {
        let now = Instant::now();
        {
            let mut marks = self.marks();
            marks.used = now;
            marks.waits.get_or_insert(now);
        }
        let said = self.say_in_turn(bytes);
        if let Err(e) = &said {
            self.end(crate::channel::broken(e));
        }
        said.is_ok()
    }

    // What is there is whole, whoever has panicked.
    fn unsaid(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behind what waits already.
    fn say_in_turn(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut unsaid = self.unsaid();
        if unsaid.is_empty() && self.packets.try_say(bytes)? {
            return Ok(());
        }
        if unsaid.len() < UNSAID_MAX {
            unsaid.push_back(bytes.to_vec());
            self.is_full.notify_one();
        }
        Ok(())
    }

    /// Says what waits, as far as there is room; whether that was all.
    fn say_waiting(&self) -> std::io::Result<bool> {
        let mut unsaid = self.unsaid();
        while let Some(first) = unsaid.front() {
            if !self.packets.try_say(first)? {
                return Ok(false);
            }
            unsaid.pop_front();
        }
        Ok(true)
    }

    /// Says what waits, as soon as there is room; why that is over.
    async fn say_in_time(&self) -> std::io::Error {
        loop {
            self.is_full.notified().await;
            loop {
                sleep(ROOM_INTERVAL).await;
                match self.say_waiting() {
                    Ok(true) => break,
                    Ok(false) => (),
                    Err(e) => return e,
                }
            }
        }
    }

    /// Has whoever runs it end it.
    fn end(&self, why: Error) {
        self.marks().over.get_or_insert(why);
        self.ended.notify_one();
    }

    fn say_also(&self, message: &Message) -> Result<(), Error> {
        let bytes = message.encode()?;
        self.packets.try_say(&bytes).map(drop).map_err(|e| crate::channel::broken(&e))
    }

    /// Takes what has come, on whatever thread; how much.
    pub(super) fn take_some(&self, shared: &Arc<Shared>) -> usize {
        let (taken, left) = self.take(shared);
        if let Err(why) = left {
            self.end(why);
        }
        taken
    }

    /// Waits until something may have come, and takes it; nothing when others have.
    pub(super) async fn when_come(
        &self,
        shared: &Arc<Shared>,
    ) -> std::io::Result<Option<Result<Left, Error>>> {
        let take = || Some(self.take(shared).1).filter(|left| !matches!(left, Ok(Left::Nothing)));
        self.packets.when_come(take).await
    }

    fn take(&self, shared: &Arc<Shared>) -> (usize, Result<Left, Error>) {
        for taken in 0..TAKEN_MAX {
            if self.is_calm() {
                return (taken, Ok(Left::TooMuch));
            }
            let message = match self.next() {
                Ok(Some(message)) => message,
                Ok(None) => return (taken, Ok(Left::Nothing)),
                Err(why) => return (taken, Err(why)),
            };
            if let Err(why) = self.hear(shared, message) {
                return (taken, Err(why));
            }
        }
        (TAKEN_MAX, Ok(Left::More))
    }

    /// Whether it has said more than it may, and waits for that.
    fn is_calm(&self) -> bool {
        let mut marks = self.marks();
        let now = Instant::now();
        marks.calm_until = marks.calm_until.filter(|until| now < *until);
        marks.calm_until.is_some()
    }

    /// The next message that is known, if there is one.
    fn next(&self) -> Result<Option<Message>, Error> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let heard = self.packets.try_hear(&mut room).map_err(|e| crate::channel::broken(&e))?;
            let Some(len) = heard else { return Ok(None) };
            if len == 0 {
                return Err(Error::Unreachable("the connection was closed".into()));
            }
            {
                let mut marks = self.marks();
                (marks.heard, marks.waits) = (Instant::now(), None);
            }
            let whole = room.get(..len).and_then(|bytes| bytes.split_first_chunk::<LENGTH_BYTES>());
            let Some((length, message)) = whole else {
                return Err(Error::Peer(format!("a packet of {len} bytes")));
            };
            if Message::length(*length)? != message.len() {
                return Err(Error::Peer("a packet that is not one message".into()));
            }
            if let Some(message) = Message::decode(message)? {
                return Ok(Some(message));
            }
        }
    }

    fn hear(&self, shared: &Arc<Shared>, message: Message) -> Result<(), Error> {
        let now = Instant::now();
        {
            let mut marks = self.marks();
            if !marks.rates.allows((), now) {
                marks.calm_until = Some(now + CALM);
            }
        }
        match message {
            Message::Ping(word) => self.say_also(&Message::Pong(word)),
            Message::Pong(_) => Ok(()),
            Message::Leave(()) => Err(Error::Refused(Refusal::Ended, "the other side has ended it".into())),
            message @ (Message::Request(_) | Message::Answer(_)) => {
                self.marks().used = now;
                shared.hear_line(self.line, message);
                Ok(())
            }
            other => {
                let why = unexpected(&other);
                let who = format!("process {} node {}", self.pid, self.line.0);
                shared.refused_one(who, Refusal::Malformed, &why.to_string());
                Err(why)
            }
        }
    }

    /// Each second: whether the line may stay. Asks whether the other side is there.
    fn look(&self, shared: &Arc<Shared>) -> Result<(), Error> {
        // Who was stopped has not heard yet what has come meanwhile.
        self.take(shared).1?;
        let now = Instant::now();
        let (used, waits, heard) = {
            let marks = self.marks();
            (marks.used, marks.waits, marks.heard)
        };
        if waits.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE_LIMIT) {
            return Err(Error::Unreachable(format!("nothing was heard for {SILENCE_LIMIT:?}")));
        }
        let ended = |why| Error::Refused(Refusal::Ended, why);
        let at = super::At::Process(self.pid);
        shared.may_go_on(self.line.0, at, self.until, now.saturating_duration_since(used)).map_err(ended)?;
        if waits.is_some() || now.saturating_duration_since(heard) >= KEEP_ALIVE {
            self.marks().waits.get_or_insert(now);
            self.say_also(&Message::Ping(0))?;
        }
        Ok(())
    }
}

/// Takes what comes and nobody else has taken, until the line is over; why it is.
pub(super) async fn run(direct: &Direct, shared: &Arc<Shared>, mut wanted: Receiver<Vec<u8>>) -> Error {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let says = direct.say_in_time();
    tokio::pin!(says);
    let why = loop {
        let ended = tokio::select! {
            e = &mut says => Some(crate::channel::broken(&e)),
            taken = direct.when_come(shared) => match taken {
                Ok(Some(Ok(Left::TooMuch))) => {
                    sleep(CALM).await;
                    None
                }
                // Others of this thread have their turn.
                Ok(Some(Ok(_))) => {
                    tokio::task::yield_now().await;
                    None
                }
                Ok(None) => None,
                Ok(Some(Err(why))) => Some(why),
                Err(e) => Some(crate::channel::broken(&e)),
            },
            () = direct.ended.notified() => direct.marks().over.take(),
            // Nothing comes here but its end.
            _ = wanted.recv() => Some(Error::Refused(Refusal::Ended, "it is not wanted any more".into())),
            _ = looks.tick() => direct.look(shared).err(),
        };
        if let Some(why) = ended {
            break why;
        }
    };
    // There is nobody who would wait for it; one that has gone need not hear it.
    let _ = direct.say_also(&Message::Leave(()));
    why
}

#[cfg(test)]
mod tests;
