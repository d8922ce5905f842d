//! Requests between members over the bootstrap channel: each has an id, a deadline and exactly one effect, and is answered, or
//! fails with a reason, in bounded time.
//!
//! No socket, no clock: packets come in and go out. A request is said again until it is answered or its deadline has passed; the
//! other side remembers what it has answered until it is told that the answer has come, and so does nothing twice.

mod asked;
mod asking;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_core::wire::NodeId;
use rustls::{ClientConfig, ServerConfig};

use crate::clock::Moment;
use crate::conversation::Talk;
use crate::error::{Error, Refusal};
use crate::message::{Answer, Message, Request};
use crate::packet::{Conversation, Load, Packet, Trail};

pub(crate) use asked::Call;
use asked::{Asked, Judged};
use asking::Asking;
pub(crate) use asking::{Tell, Told};

/// Most bytes of a request, and of an answer.
pub const REQUEST_BYTES_MAX: usize = 20 << 10;
/// Longest time that a request may take.
pub const LIMIT_MAX: Duration = Duration::from_secs(60);
/// Requests to one member that wait for their answers; more wait for their turn.
pub(crate) const OPEN_MAX: u64 = 64;
/// Conversations at a time; beyond, those that were not used for the longest time end.
const TALKS_MAX: usize = 1024;
/// Conversations with one member at a time.
const TALKS_OF_PEER_MAX: usize = 8;
/// A conversation that has not come about for so long is begun anew.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// A conversation, by the other member and its number there.
type Key = (NodeId, Conversation);

/// How something has come, and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a conversation inside of packets.
    Sealed(Key),
    /// By a line to that node, of that number.
    Line(NodeId, u64),
}

impl Way {
    /// The member at its other end.
    fn peer(self) -> NodeId {
        match self {
            Way::Sealed((peer, _)) | Way::Line(peer, _) => peer,
        }
    }
}

/// What is to be said over a line, which is known by the other member and its number.
#[derive(Debug)]
pub(crate) struct ToLine {
    pub(crate) line: (NodeId, u64),
    pub(crate) message: Message,
}

struct Kept {
    talk: Talk,
    /// Requests that go out when it is open.
    carries: BTreeSet<u64>,
    begun: Instant,
    used: Instant,
}

/// See the [module](self).
pub(crate) struct Office {
    node: NodeId,
    tls: (Arc<ClientConfig>, Arc<ServerConfig>),
    talks: HashMap<Key, Kept>,
    /// Lines that stand, each with its number: what is asked goes over these.
    lines: HashMap<NodeId, u64>,
    asking: HashMap<NodeId, Asking>,
    asked: Asked,
    start: Instant,
    /// To whom each of the last packets went.
    last: std::collections::VecDeque<(u64, Key)>,
    out: Vec<Packet>,
    to_lines: Vec<ToLine>,
    /// Who has answered inside of packets.
    answered: Vec<NodeId>,
}

impl Office {
    pub(crate) fn new(node: NodeId, tls: (Arc<ClientConfig>, Arc<ServerConfig>)) -> Office {
        Office {
            node,
            tls,
            talks: HashMap::new(),
            lines: HashMap::new(),
            asking: HashMap::new(),
            asked: Asked::default(),
            start: Instant::now(),
            last: std::collections::VecDeque::new(),
            out: Vec::new(),
            to_lines: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// The certificate was renewed: it is shown from the next conversation on.
    pub(crate) fn renewed(&mut self, tls: (Arc<ClientConfig>, Arc<ServerConfig>)) {
        self.tls = tls;
    }

    /// Asks a member for something; `tell` hears what became of it, at `deadline` at the latest.
    pub(crate) fn ask(
        &mut self,
        to: NodeId,
        (service, body): (u16, Vec<u8>),
        (now, deadline): (Instant, Instant),
        tell: Tell,
    ) {
        // Numbers are never used again, also when one was forgotten meanwhile: nobody asks a million times a second.
        let last = u64::try_from((now - self.start).as_micros()).unwrap_or(u64::MAX / 2);
        self.asking.entry(to).or_insert_with(|| Asking::new(last, now)).ask(service, body, deadline, tell);
        self.speak(to, now);
    }

    /// Takes a packet that is for this member; what it asks for.
    pub(crate) fn take(
        &mut self,
        packet: &Packet,
        is_revoked: bool,
        (now, clock): (Instant, Moment),
    ) -> Vec<Call> {
        match packet.load() {
            Some(Load::Sealed(piece)) if !is_revoked => {
                let of = Conversation { is_mine: !piece.of.is_mine, ..piece.of };
                self.hear((packet.from, of), &piece, &packet.trail, (now, clock))
            }
            Some(Load::Unknown(of)) => {
                self.end((packet.from, Conversation { is_mine: !of.is_mine, ..of }), None, now);
                Vec::new()
            }
            Some(Load::Undelivered { number, why }) => {
                // Whoever is on the way may say so; nobody else knows the numbers of what was sent.
                let of = self.last.iter().find(|(sent, _)| *sent == number).map(|(_, key)| *key);
                if let Some(key) = of {
                    let reason = format!("node {} cannot be reached ({})", key.0, why.name());
                    self.end(key, Some(Error::Refused(why, reason)), now);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A packet could not even begin its way.
    pub(crate) fn undelivered(&mut self, packet: &Packet, why: Refusal, now: Instant) {
        if let Some(told) = packet.undelivered(self.node, why) {
            self.take(&told, false, (now, Moment::now()));
        }
    }

    /// What a request has led to.
    pub(crate) fn answer(&mut self, call: &Call, outcome: Result<Vec<u8>, (Refusal, String)>, now: Instant) {
        let (refusal, body) = match outcome {
            Ok(body) if body.len() <= REQUEST_BYTES_MAX => (None, body),
            Ok(_) => (Some(Refusal::Trouble), b"the answer is too long".to_vec()),
            Err((refusal, why)) => (Some(refusal), why.into_bytes().into_iter().take(200).collect()),
        };
        let answer = Answer { id: call.id, refusal, body };
        self.asked.answered(call.from, answer.clone(), now);
        let way = self.way_back(call.way);
        self.say(way, Message::Answer(answer), now);
    }

    /// A line stands: from now on what is asked goes over it.
    pub(crate) fn line_stands(&mut self, (peer, number): (NodeId, u64), now: Instant) {
        if self.lines.insert(peer, number).is_some() {
            // What was said by the one before may not have come there.
            self.again(peer, None, now);
        }
    }

    /// A line is over: what was said by it and not answered is said again by another way.
    pub(crate) fn line_ended(&mut self, (peer, number): (NodeId, u64), now: Instant) {
        if self.lines.get(&peer) == Some(&number) {
            self.lines.remove(&peer);
            self.again(peer, None, now);
        }
    }

    /// The way to a member has changed (to all of them, for `None`): what was on it may be lost, so what was not answered is said again.
    /// A conversation that had not come about yet is begun anew. What goes over lines does not go that way. Whether there is something.
    pub(crate) fn moved(&mut self, peer: Option<NodeId>, now: Instant) -> bool {
        let is_open =
            |to: &NodeId| !self.lines.contains_key(to) && self.asking.get(to).is_some_and(Asking::has_open);
        let open: Vec<NodeId> = match peer {
            Some(peer) => Some(peer).filter(is_open).into_iter().collect(),
            None => self.asking.keys().copied().filter(is_open).collect(),
        };
        for to in &open {
            self.talks.retain(|key, kept| key.0 != *to || !key.1.is_mine || kept.talk.is_open());
            self.again(*to, None, now);
        }
        !open.is_empty()
    }

    /// Takes what was said over a line by the other member, which has proved who it is; what it asks for.
    pub(crate) fn hear_line(
        &mut self,
        (peer, number): (NodeId, u64),
        message: Message,
        now: Instant,
    ) -> Vec<Call> {
        let mut calls = Vec::new();
        self.heard(Way::Line(peer, number), message, &Trail::default(), now, &mut calls);
        calls
    }

    /// What is to be said over lines.
    pub(crate) fn take_to_lines(&mut self) -> Vec<ToLine> {
        std::mem::take(&mut self.to_lines)
    }

    /// Who has answered inside of packets since this was asked last.
    pub(crate) fn take_answered(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.answered)
    }

    /// Says again what was not answered, and ends what is late.
    pub(crate) fn look(&mut self, (now, clock): (Instant, Moment)) {
        let ended: Vec<Key> =
            self.talks.iter().filter(|(_, k)| k.talk.has_ended(clock)).map(|(key, _)| *key).collect();
        ended.into_iter().for_each(|key| self.end(key, None, now));
        let late: Vec<NodeId> =
            self.asking.iter_mut().filter_map(|(to, asking)| asking.look(now).then_some(*to)).collect();
        for to in late {
            let stuck = |(key, kept): (&Key, &Kept)| {
                (key.0 == to && !kept.talk.is_open() && now - kept.begun > HANDSHAKE_LIMIT).then_some(*key)
            };
            let stuck: Vec<Key> = self.talks.iter().filter_map(stuck).collect();
            stuck.into_iter().for_each(|key| drop(self.talks.remove(&key)));
            self.speak(to, now);
        }
        self.asking.retain(|_, asking| !asking.is_idle(now));
        self.asked.forget(now);
    }

    /// When to look again, if anything waits.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.asking.values().filter_map(Asking::next_look).chain(self.asked.next_look()).min()
    }

    /// A member was revoked, or is gone for good: nothing more is said to it.
    pub(crate) fn forget(&mut self, node: NodeId, why: &Error) {
        self.talks.retain(|(peer, _), _| *peer != node);
        self.lines.remove(&node);
        if let Some(asking) = self.asking.remove(&node) {
            asking.fail(why);
        }
    }

    /// Says what may be no message, if there is a conversation; whether there is.
    #[cfg(test)]
    pub(crate) fn say_raw(&mut self, to: NodeId, bytes: &[u8]) -> bool {
        let open = self.talks.iter_mut().find(|(key, kept)| key.0 == to && kept.talk.is_open());
        let key = open.map(|(key, kept)| {
            kept.talk.say_raw(bytes);
            *key
        });
        key.map(|key| self.send(key)).is_some()
    }

    /// What is to be sent.
    pub(crate) fn take_packets(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.out)
    }

    /// Says what is due to a member, over a conversation with it.
    fn speak(&mut self, to: NodeId, now: Instant) {
        let Some(asking) = self.asking.get_mut(&to) else { return };
        let due = asking.due(now);
        if due.is_empty() {
            return;
        }
        if let Some(number) = self.lines.get(&to) {
            for request in due {
                asking.may_be_done(request.id);
                self.to_lines.push(ToLine { line: (to, *number), message: Message::Request(request) });
            }
            return;
        }
        // One that somebody else has begun may be anybody's until it is open, and TLS says what waits before we look.
        let is_its = |key: &Key, kept: &Kept| key.0 == to && (key.1.is_mine || kept.talk.is_open());
        let of_it = self.talks.iter().filter(|(key, kept)| is_its(key, kept));
        // One that stands, before one that is being made.
        let best = of_it.max_by_key(|(_, kept)| (kept.talk.is_open(), kept.begun)).map(|(key, _)| *key);
        let key = match best.map_or_else(|| self.begin(to, now), Ok) {
            Ok(key) => key,
            Err(why) => return self.forget(to, &why),
        };
        for request in due {
            if let Some(kept) = self.talks.get_mut(&key) {
                kept.carries.insert(request.id);
            }
            self.say_sealed(key, &Message::Request(request), now);
        }
    }

    fn begin(&mut self, to: NodeId, now: Instant) -> Result<Key, Error> {
        let number = crate::random::word()?;
        let talk = Talk::begin(to, number, self.tls.0.clone())?;
        let key = (to, Conversation { number, is_mine: true });
        self.keep(key, talk, now);
        Ok(key)
    }

    fn keep(&mut self, key: Key, talk: Talk, now: Instant) {
        // One who begins many is not to end those of others, nor those that we have begun with it.
        let of_peer = self.talks.iter().filter(|(kept, _)| kept.0 == key.0);
        let oldest = match of_peer.clone().count() >= TALKS_OF_PEER_MAX {
            true => of_peer.min_by_key(|(key, kept)| (key.1.is_mine, kept.used)),
            false if self.talks.len() >= TALKS_MAX => self.talks.iter().min_by_key(|(_, kept)| kept.used),
            false => None,
        };
        let oldest = oldest.map(|(key, _)| *key);
        oldest.into_iter().for_each(|key| drop(self.talks.remove(&key)));
        self.talks.insert(key, Kept { talk, carries: BTreeSet::new(), begun: now, used: now });
    }

    /// The way by which something has come; where that is over, another one to the same member, which has proved who it is.
    fn way_back(&self, way: Way) -> Way {
        let stands = match way {
            Way::Sealed(key) => self.talks.contains_key(&key),
            Way::Line(peer, number) => self.lines.get(&peer) == Some(&number),
        };
        let line = || self.lines.get(&way.peer()).map(|number| Way::Line(way.peer(), *number));
        let open = || {
            let of_it = self.talks.iter().filter(|(key, kept)| key.0 == way.peer() && kept.talk.is_open());
            of_it.max_by_key(|(_, kept)| kept.used).map(|(key, _)| Way::Sealed(*key))
        };
        Some(way).filter(|_| stands).or_else(line).or_else(open).unwrap_or(way)
    }

    fn say(&mut self, way: Way, message: Message, now: Instant) {
        match way {
            Way::Sealed(key) => self.say_sealed(key, &message, now),
            Way::Line(peer, number) => self.to_lines.push(ToLine { line: (peer, number), message }),
        }
    }

    fn say_sealed(&mut self, key: Key, message: &Message, now: Instant) {
        let Some(kept) = self.talks.get_mut(&key) else { return };
        kept.used = now;
        match kept.talk.say(message) {
            Ok(()) => {
                self.carried(key);
                self.send(key);
            }
            Err(why) => self.end(key, Some(why), now),
        }
    }

    /// When the certificate ends by which a member is known inside of packets; the latest of those that it has shown.
    pub(crate) fn certified_until(&self, peer: NodeId) -> Option<Moment> {
        let of_it = self.talks.iter().filter(|(key, kept)| key.0 == peer && kept.talk.is_open());
        of_it.filter_map(|(_, kept)| kept.talk.certified_until()).max()
    }

    /// What was said by a conversation goes out once it is open.
    fn carried(&mut self, key: Key) {
        let Some(kept) = self.talks.get_mut(&key).filter(|kept| kept.talk.is_open()) else { return };
        let carried = std::mem::take(&mut kept.carries);
        if let Some(asking) = self.asking.get_mut(&key.0) {
            carried.into_iter().for_each(|id| asking.may_be_done(id));
        }
    }

    fn send(&mut self, key: Key) {
        let Some(kept) = self.talks.get_mut(&key) else { return };
        for load in kept.talk.pieces() {
            // Without one it is as if it were lost.
            let Ok(number) = crate::random::word() else { continue };
            self.last.push_back((number, key));
            if self.last.len() > LAST_MAX {
                self.last.pop_front();
            }
            self.out.push(Packet::new(self.node, key.0, number, &load));
        }
    }

    fn hear(
        &mut self,
        key: Key,
        piece: &crate::packet::Sealed,
        trail: &Trail,
        (now, clock): (Instant, Moment),
    ) -> Vec<Call> {
        if !self.talks.contains_key(&key) {
            // Only its first piece begins one.
            let begun = (!key.1.is_mine && piece.sequence == 0)
                .then(|| Talk::answer(key.0, key.1.number, self.tls.1.clone()));
            match begun {
                Some(Ok(talk)) => self.keep(key, talk, now),
                _ => {
                    self.tell_unknown(key);
                    return Vec::new();
                }
            }
        }
        let Some(kept) = self.talks.get_mut(&key) else { return Vec::new() };
        kept.used = now;
        let heard = match kept.talk.has_ended(clock) {
            true => Err(Error::Peer("its certificate has ended".into())),
            false => kept.talk.take(piece),
        };
        self.carried(key);
        match heard {
            Ok(messages) => {
                self.send(key);
                let mut calls = Vec::new();
                for message in messages {
                    self.heard(Way::Sealed(key), message, trail, now, &mut calls);
                }
                calls
            }
            Err(why) => {
                tracing::debug!("conversation with node {}: {why}", key.0);
                // An alert, that says why.
                self.send(key);
                self.tell_unknown(key);
                // Where a piece is missing, another conversation begins at once.
                let why = if matches!(why, Error::Unreachable(_)) { None } else { Some(why) };
                self.end(key, why, now);
                Vec::new()
            }
        }
    }

    fn heard(&mut self, way: Way, message: Message, trail: &Trail, now: Instant, calls: &mut Vec<Call>) {
        let from = way.peer();
        match message {
            Message::Request(Request { id, done, service, left_ms, body }) => {
                let deadline = now + Duration::from_millis(left_ms.into()).min(LIMIT_MAX);
                let call = Call { way, from, id, service, body, deadline };
                if self.asked.is_busy(from, id, now) {
                    return;
                }
                match self.asked.judge(from, id, done, now) {
                    Judged::New => {
                        self.asked.begun(from, id, deadline);
                        calls.push(call);
                    }
                    Judged::Answered(answer) => self.say(way, Message::Answer(answer), now),
                    Judged::Known => (),
                    Judged::Full => {
                        let (refusal, why) = (Refusal::Limit, "too many ask this node".to_owned());
                        let answer = Answer { id, refusal: Some(refusal), body: why.into_bytes() };
                        self.say(way, Message::Answer(answer), now);
                    }
                }
            }
            Message::Answer(answer) => {
                if let Some(asking) = self.asking.get_mut(&from) {
                    asking.answered(answer, trail);
                }
                if matches!(way, Way::Sealed(_)) && !self.answered.contains(&from) {
                    self.answered.push(from);
                }
                self.speak(from, now);
            }
            _ => (),
        }
    }

    fn tell_unknown(&mut self, key: Key) {
        let Ok(number) = crate::random::word() else { return };
        self.out.push(Packet::new(self.node, key.0, number, &Load::Unknown(key.1)));
    }

    /// A conversation is over; what was said by it and not answered is said again by another.
    fn end(&mut self, key: Key, why: Option<Error>, now: Instant) {
        if self.talks.remove(&key).is_none() {
            return;
        }
        self.again(key.0, why, now);
    }

    /// Says again what is open.
    fn again(&mut self, peer: NodeId, why: Option<Error>, now: Instant) {
        if let Some(asking) = self.asking.get_mut(&peer) {
            asking.broken(why, now);
        }
        self.speak(peer, now);
    }
}

/// Packets whose fate is remembered until somebody says that they did not get there.
const LAST_MAX: usize = 1024;

#[cfg(test)]
mod tests;
