//! Pipes of bytes to other members, through leaders and the rendez-vous node: a way of last resort.
//!
//! The program's end of a pipe is a connected socket, whose other end a task in the member's thread reads and writes. A pipe is asked
//! for by a request ([`RELAY`]), so that it is known who asks; what goes through it is seen by all on the way, unless the program
//! encrypts it.

mod pump;

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::post::Origin;
use super::state::Shared;
use super::Member;
use crate::directory::Departure;
use crate::error::{Error, Refusal};
use crate::office::Told;
use crate::packet::{Conversation, Load, Packet, Part};
use crate::pipe::{Pipe, PIPES_MAX};
use crate::rate::Rates;
use crate::record::{fields, raw};
use pump::Pump;

/// The service of requests between members by which pipes are asked for.
pub const RELAY: u16 = 2;
/// Most bytes that say what a pipe is for.
pub const ABOUT_BYTES_MAX: usize = 1024;

/// Pipes that others have asked for, and those of one of them.
const ASKED_MAX: (usize, usize) = (PIPES_MAX * 3 / 4, 8);
/// Parts of pipes that are not known, of which the sender is told, per second.
const UNKNOWN_PER_SECOND: u32 = 100;
/// Of a node that has left, parts may come for so long: the word that it has left goes before them.
const LAST_PARTS: Duration = Duration::from_secs(2);
/// How long a member that ends waits until the others have what was sent last.
const LAST_SENT: Duration = Duration::from_secs(1);
/// How long it waits for the tasks of its pipes to say that they are over.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A pipe to another member, as a connected stream socket: it ends where the socket does.
///
/// What is written comes there in order, or the pipe ends. Each direction is closed by itself. A direction that has ended well is
/// not told from one that broke by the socket: what goes through the pipe is to say its own end, as TLS does.
#[derive(Debug)]
pub struct Relay {
    stream: UnixStream,
    fate: Fate,
}

impl Relay {
    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket, and what tells how the pipe fares.
    pub fn into_parts(self) -> (UnixStream, Fate) {
        (self.stream, self.fate)
    }
}

/// Tells how a pipe fares.
#[derive(Debug, Clone)]
pub struct Fate(Arc<End>);

impl Fate {
    /// The other member.
    pub fn peer(&self) -> NodeId {
        self.0.key.0
    }

    /// Hops of what has come last; 0 when nothing has.
    pub fn hops(&self) -> usize {
        self.0.lock().hops
    }

    /// Whether it is over; and why, unless both sides have ended it.
    pub fn end(&self) -> Option<Result<(), Error>> {
        let (ended, why_not) = {
            let inner = self.0.lock();
            (inner.ended?, inner.why_not.clone())
        };
        if let Some(why) = why_not {
            return Some(Err(why));
        }
        Some(ended.map_err(|refusal| {
            let why = match refusal {
                Refusal::Ended => "the other side has ended it",
                Refusal::Late => "nothing was heard of it, or some of it was lost",
                Refusal::NoRoute => "there is no way there any more",
                Refusal::Rate => "somebody on the way has no room for more",
                Refusal::Revoked => "the other node was revoked",
                Refusal::Malformed => "the other side sends what it must not",
                _ => "it broke",
            };
            Error::Refused(refusal, format!("the pipe to node {} is over: {why}", self.peer()))
        }))
    }
}

/// A pipe, by the other member, and its number there.
type Key = (NodeId, Conversation);

/// This end of a pipe.
#[derive(Debug)]
struct End {
    key: Key,
    /// That of all its packets, which those on the way know, and nobody else.
    number: u64,
    inner: Mutex<Inner>,
    woken: Notify,
}

#[derive(Debug)]
struct Inner {
    pipe: Pipe,
    hops: usize,
    /// Why it is to end. What has come goes to the program before.
    over: Option<Refusal>,
    /// Until when what was sent before may come, although it is over.
    comes_until: Option<Instant>,
    /// Whether the other side has said so, or is told in another way.
    is_told: bool,
    ended: Option<Result<(), Refusal>>,
    /// Whether the other side has taken it.
    is_open: bool,
    /// Why it did not come about.
    why_not: Option<Error>,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has come about is known.
    fn opened(&self, why_not: Option<&Error>) {
        {
            let mut inner = self.lock();
            inner.is_open = why_not.is_none();
            inner.why_not = why_not.cloned();
            if let Some(why) = why_not {
                let refusal = if let Error::Refused(refusal, _) = why { *refusal } else { Refusal::NoRoute };
                inner.over.get_or_insert(refusal);
            } else {
                // Asking may have taken longer than a pipe may be silent.
                inner.pipe.opened(Instant::now());
            }
        }
        self.woken.notify_one();
    }

    fn is_open(&self) -> Result<bool, Refusal> {
        let inner = self.lock();
        inner.over.map_or(Ok(inner.is_open), Err)
    }

    fn end(&self, why: Refusal) {
        self.lock().over.get_or_insert(why);
        self.woken.notify_one();
    }

    /// The other side has gone, or is not reached any more: nothing can be sent, but what it has sent may be on its way.
    fn end_soon(&self, why: Refusal) {
        {
            let mut inner = self.lock();
            if inner.over.is_none() {
                (inner.over, inner.comes_until) = (Some(why), Some(Instant::now() + LAST_PARTS));
            }
        }
        self.woken.notify_one();
    }
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    number: u64,
    #[serde(with = "raw")]
    about: Vec<u8>,
}

/// The pipes of a member.
pub(super) struct Relays {
    ends: Mutex<HashMap<Key, Arc<End>>>,
    unknown: Mutex<Rates<()>>,
    handle: Handle,
    /// The member ends: each pipe does when the other side has what was sent.
    is_leaving: AtomicBool,
    /// A pipe has ended.
    ended: Notify,
}

impl Relays {
    pub(super) fn new(handle: Handle) -> Relays {
        Relays {
            ends: Mutex::default(),
            unknown: Mutex::new(Rates::new(UNKNOWN_PER_SECOND)),
            handle,
            is_leaving: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<Key, Arc<End>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a pipe.
    fn begin(&self, key: Key) -> Result<Arc<End>, Error> {
        let number = crate::random::word()?;
        let mut ends = self.ends();
        // With the lock: whoever leaves sees this pipe, or this sees that it leaves.
        if self.is_leaving() {
            return Err(Error::Refused(Refusal::Ended, "this member is leaving".into()));
        }
        let asked = ends.keys().filter(|(_, of)| !of.is_mine);
        let (asked, of_peer) =
            asked.fold((0, 0), |(all, of_peer), (peer, _)| (all + 1, of_peer + usize::from(*peer == key.0)));
        let is_full = !key.1.is_mine && (asked >= ASKED_MAX.0 || of_peer >= ASKED_MAX.1);
        if is_full || ends.len() >= PIPES_MAX || ends.contains_key(&key) {
            return Err(Error::Refused(Refusal::Limit, "there are as many pipes as can be".into()));
        }
        let pipe = Pipe::new(Instant::now());
        let inner = Mutex::new(Inner {
            pipe,
            hops: 0,
            over: None,
            comes_until: None,
            is_told: false,
            ended: None,
            is_open: !key.1.is_mine,
            why_not: None,
        });
        let end = Arc::new(End { key, number, inner, woken: Notify::new() });
        ends.insert(key, end.clone());
        Ok(end)
    }

    fn end_where(&self, why: Refusal, is_meant: impl Fn(NodeId) -> bool) {
        self.ends().values().filter(|end| is_meant(end.key.0)).for_each(|end| end.end(why));
    }

    /// A node is not there any more.
    pub(super) fn gone(&self, node: NodeId, why: Departure) {
        match why {
            Departure::Left => {
                let ends = self.ends();
                let of_node = ends.values().filter(|end| end.key.0 == node);
                of_node.for_each(|end| end.end_soon(Refusal::NoRoute));
            }
            Departure::Revoked => self.end_where(Refusal::Revoked, |peer| peer == node),
            _ => self.end_where(Refusal::NoRoute, |peer| peer == node),
        }
    }

    fn is_leaving(&self) -> bool {
        // Relaxed: who sets it wakes those who look, with the lock of the pipes.
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// The member is about to end: waits, for a bounded time, until the others have what was sent to them.
    pub(super) async fn leave(&self) {
        {
            let ends = self.ends();
            self.is_leaving.store(true, Ordering::Relaxed);
            ends.values().for_each(|end| end.woken.notify_one());
        }
        if timeout(LAST_SENT, self.all_over()).await.is_err() {
            self.end_all();
            let _ = timeout(LAST_WORDS, self.all_over()).await;
        }
    }

    async fn all_over(&self) {
        while !self.ends().is_empty() {
            self.ended.notified().await;
        }
    }

    /// The member ends.
    pub(super) fn end_all(&self) {
        self.end_where(Refusal::Ended, |_| true);
    }

    /// A pipe is over.
    fn remove(&self, key: Key) -> Option<Arc<End>> {
        let end = self.ends().remove(&key);
        self.ended.notify_one();
        end
    }
}

impl Member {
    /// Asks another member for a pipe of bytes through leaders and the rendez-vous node. `about` says what it is for, in at most
    /// 1 KiB, `limit` is at most a minute. Those on the way see what goes through it: it is to be encrypted.
    ///
    /// There are at most 64 pipes of one member, at most 48 of which others have asked for, and at most 8 of these one of them. In each
    /// direction at most 128 KiB are on their way, beside what the socket holds. How fast it is depends on what those on the way
    /// pass on ([`Shares`](crate::Shares)).
    ///
    /// # Errors
    /// As those of [`Member::ask`]; [`Refusal::Other`] with what the other side says when it does not want the pipe,
    /// [`Refusal::Service`] when it takes none at all, [`Refusal::Limit`] when this member has as many as it can.
    pub fn relay(&self, to: NodeId, about: &[u8], limit: Duration) -> Result<Relay, Error> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let relay = self.open(to, about, limit, move |opened| drop(tell.send(opened)))?;
        let gone = |_| Error::Refused(Refusal::Late, "this member has ended".into());
        // Nobody may poll meanwhile.
        self.rest();
        told.recv_timeout(limit + Duration::from_secs(1)).map_err(gone)?.map(|()| relay)
    }

    /// The same, and does not wait: what is written goes when the pipe stands. When it does not come about, the socket is closed, and
    /// [`Fate::end`] says why.
    ///
    /// # Errors
    /// When it cannot even be asked for.
    pub fn begin_relay(&self, to: NodeId, about: &[u8], limit: Duration) -> Result<Relay, Error> {
        self.open(to, about, limit, drop)
    }

    fn open<F>(&self, to: NodeId, about: &[u8], limit: Duration, tell: F) -> Result<Relay, Error>
    where
        F: FnOnce(Result<(), Error>) + Send + 'static,
    {
        if about.len() > ABOUT_BYTES_MAX {
            return Err(Error::Config(format!("a pipe is described in at most {ABOUT_BYTES_MAX} bytes")));
        }
        let of = Conversation { number: crate::random::word()?, is_mine: true };
        let open = Open { number: of.number, about: about.to_vec() };
        let open = postcard::to_stdvec(&open).map_err(|e| Error::System(e.to_string()))?;
        // Its first bytes may come before the answer.
        let end = self.shared.relays.begin((to, of))?;
        let asked = end.clone();
        let told = Box::new(move |told: Told| {
            let opened = told.outcome.map(drop);
            asked.opened(opened.as_ref().err());
            tell(opened);
        });
        let asked = self.begin_to_ask(to, (RELAY, &open), limit, told);
        let opened = asked.and_then(|()| self.shared.pump(end));
        if opened.is_err() {
            self.shared.forget((to, of));
        }
        opened
    }

    /// Takes pipes that others ask for from now on: `take` is given who asks, what it is for, and the pipe; or says why it does not want
    /// it. It is called as those of [`Member::serve`] are.
    pub fn serve_relays<F>(&self, take: F)
    where
        F: Fn(NodeId, &[u8], Relay) -> Result<(), String> + Send + Sync + 'static,
    {
        let shared = Arc::downgrade(&self.shared);
        self.serve(RELAY, move |from, body| {
            let shared = shared.upgrade().ok_or("the member has ended")?;
            let Open { number, about } = fields(body).map_err(|e| format!("it makes no sense: {e}"))?;
            if about.len() > ABOUT_BYTES_MAX {
                return Err(format!("more than {ABOUT_BYTES_MAX} bytes say what it is for"));
            }
            let of = Conversation { number, is_mine: false };
            let end = shared.relays.begin((from, of)).map_err(|e| e.to_string())?;
            let taken = match shared.pump(end) {
                Ok(relay) => take(from, &about, relay),
                Err(e) => Err(e.to_string()),
            };
            if taken.is_err() {
                shared.forget((from, of));
            }
            taken.map(|()| Vec::new())
        });
    }
}

impl Shared {
    /// Begins to carry bytes between a socket and a pipe.
    fn pump(self: &Arc<Shared>, end: Arc<End>) -> Result<Relay, Error> {
        let failed = |e: std::io::Error| Error::System(format!("pipe: {e}"));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let relay = Relay { stream: theirs, fate: Fate(end.clone()) };
        let shared = self.clone();
        drop(self.relays.handle.spawn(async move {
            let outcome = match tokio::net::UnixStream::from_std(ours) {
                Ok(ours) => Pump::new(&shared, &end, ours).run().await,
                Err(_) => Err(Refusal::Trouble),
            };
            let is_told = end.lock().is_told;
            if let (Err(why), false) = (outcome, is_told) {
                shared.say_over(end.key, end.number, why);
            }
            // A member that ends waits for it, and then for nothing more.
            let _ = shared.relays.remove(end.key);
            end.lock().ended = Some(outcome);
        }));
        Ok(relay)
    }

    /// A pipe did not come about, of which whoever asked hears by the answer, with the reason: to say that it is over might be heard before.
    fn forget(&self, key: Key) {
        let Some(end) = self.relays.remove(key) else { return };
        end.lock().is_told = true;
        end.end(Refusal::Ended);
    }

    fn say_over(&self, (to, of): Key, number: u64, why: Refusal) {
        // Who does not hear it learns it by silence.
        let _ = self
            .route(Packet::new(self.node, to, number, &Load::Piped(of, Part::Over { why })), Origin::Here);
    }

    /// Takes a packet if it is of a pipe, or says that one of a pipe did not get there; whether it is.
    pub(super) fn take_relayed(&self, packet: &Packet, is_revoked: bool) -> bool {
        let (of, part) = match packet.load() {
            Some(Load::Piped(of, part)) => (Conversation { is_mine: !of.is_mine, ..of }, part),
            Some(Load::Undelivered { number, why }) => {
                let end = self.relays.ends().values().find(|end| end.number == number).cloned();
                let end = end.inspect(|end| match why {
                    // Perhaps it has left, having said all.
                    Refusal::NoRoute => end.end_soon(why),
                    _ => end.end(why),
                });
                return end.is_some();
            }
            _ => return packet.is_piped(),
        };
        let key = (packet.from, of);
        let Some(end) = self.relays.ends().get(&key).filter(|_| !is_revoked).cloned() else {
            let is_over = matches!(part, Part::Over { .. });
            let mut unknown = self.relays.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if let (false, true, Ok(number)) =
                (is_over, unknown.allows((), Instant::now()), crate::random::word())
            {
                drop(unknown);
                self.say_over(key, number, Refusal::Ended);
            }
            return true;
        };
        {
            let mut inner = end.lock();
            inner.hops = packet.trail.hops();
            inner.is_told |= matches!(part, Part::Over { .. });
            if let Err(why) = inner.pipe.take(part, Instant::now()) {
                // Nothing comes behind the last word, nor is taken of what makes no sense.
                inner.comes_until = None;
                match why {
                    Refusal::Malformed => inner.over = Some(why),
                    _ => _ = inner.over.get_or_insert(why),
                }
            }
        }
        end.woken.notify_one();
        true
    }

    /// The connection to leader or rendez-vous node has broken, and with it all pipes that lead there.
    pub(super) fn end_relays_by_uplink(&self) {
        let below: Vec<NodeId> = {
            let state = self.lock();
            state.leading.iter().flat_map(|leading| leading.members.keys().copied()).collect()
        };
        self.relays.end_where(Refusal::NoRoute, |peer| !below.contains(&peer));
    }
}

#[cfg(test)]
mod tests;
