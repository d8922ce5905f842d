//! Who gets a link: calls of this side, and of others.
//!
//! When two call each other at the same time, the call of the smaller node id counts: its side refuses the other's, and the
//! other side drops its own.

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sign, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NetAddresses};

use crate::call::{say, Call, Progress};
use crate::conn::Conn;
use crate::handshake::{welcome, Agreed, Purpose, Stranger};
use crate::link::{Link, State};
use crate::rail::{TcpRail, CROSSING_NS};
use crate::socket::{accept_next, Stream};
use crate::unheard::UNHEARD_NS;
use crate::visitor::{Visit, Visitor, MAX_VISITORS, VISIT_NS};
use crate::watch::{Watched, READING};

/// Connections that are accepted in one go.
const ACCEPTED_AT_ONCE: usize = 64;

impl TcpRail {
    /// Calls the fabric at `address`; the index of the link.
    pub(crate) fn call(&mut self, peer: PeerId, address: &Address) -> Result<u32, Refusal> {
        if address.node == self.config.local.node {
            return Err(Refusal::new(Error::Unreachable, "the address is this fabric's own"));
        }
        let is_known = |link: &Link| {
            let is_same = (link.node, link.incarnation) == (address.node, address.incarnation);
            is_same && matches!(link.state, State::Broken(..))
        };
        let is_known = self.links.iter().any(is_known);
        // Later than all calls between the two. What others say of theirs counts for them only.
        let between = self.links.iter().filter(|link| link.node == address.node);
        let last = between.map(|link| link.generation).max().unwrap_or(0);
        let generation = self.generation.max(last).wrapping_add(1);
        let mut call = match self.by_way(address)? {
            Some(stream) => Call::by_way(stream, (address.node, address.incarnation), generation),
            None => Call::new(address, generation, &self.config, is_known)?,
        };
        let progress = call.step(&self.config);
        if let Progress::Failed(refusal) = progress {
            return Err(refusal);
        }
        let tells_more = call.is_to_tell();
        self.generation = self.generation.wrapping_add(1);
        let index = self.links.len() as u32;
        let target = (address.node, address.incarnation);
        self.enter(Link::new(peer, target, generation, State::Calling(Box::new(call))));
        self.calling.push(index);
        match progress {
            Progress::Waits(want) if !tells_more => {
                if let Err(refusal) = self.watch_call(index, want) {
                    self.take_down(index);
                    return Err(refusal);
                }
                self.watcher.submit();
            }
            // Whoever listens to the rail is told with the next look.
            _ => self.note_ready(index),
        }
        Ok(index)
    }

    fn enter(&mut self, link: Link) {
        self.by_node.insert(link.node, self.links.len() as u32);
        self.links.push(link);
    }

    fn watch_call(&mut self, index: u32, want: crate::watch::Want) -> Result<(), Refusal> {
        let Some(Link { state: State::Calling(call), .. }) = self.links.get(index as usize) else {
            return Ok(());
        };
        call.stream().map_or(Ok(()), |stream| self.watcher.watch(stream, Watched::Link(index), want))
    }

    /// Something has come of a call of this side.
    pub(crate) fn go_on_calling<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let State::Calling(call) = &mut link.state else { return 0 };
        let peer = link.peer;
        match call.step(&self.config) {
            Progress::Waits(want) => {
                if call.tell() {
                    sink.sign(peer, Sign::HostAnswers);
                }
                if let Err(refusal) = self.watch_call(index, want) {
                    self.finish(index, refusal, false, sink);
                }
            }
            Progress::Linked => self.establish_called(index, sink),
            Progress::Unheard => self.begin_unheard(index, sink),
            Progress::Crossed => self.give_way(index),
            Progress::Failed(refusal) => self.finish(index, refusal, false, sink),
        }
        1
    }

    /// The other's call counts.
    fn give_way(&mut self, index: u32) {
        if let Some(link) = self.links.get_mut(index as usize) {
            link.state = State::Awaiting(None);
        }
    }

    fn establish_called<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let State::Calling(call) = std::mem::replace(&mut link.state, State::Awaiting(None)) else { return };
        if let Some(whole) = link.whole_mut() {
            whole.tried = call.path().tried;
        }
        let there = call.there();
        if let Some((stream, rest, agreed)) = call.into_parts() {
            self.establish(index, stream, &rest, sink);
            self.expect_pulse(index);
            self.expect_more(index, agreed, Some(there));
        }
    }

    /// What both sides of a link know beside frames.
    pub(crate) fn expect_more(&mut self, index: u32, agreed: Option<Agreed>, there: Option<NetAddresses>) {
        if let (Some(conn), Some(agreed)) = (self.conn(index), &agreed) {
            conn.takes_ahead = agreed.takes_ahead;
        }
        self.expect_paths(index, agreed, there);
    }

    /// Frames flow from now on.
    fn establish<S: Sink>(&mut self, index: u32, stream: Stream, rest: &[u8], sink: &mut S) {
        let stream = match self.config.security.unseal(stream) {
            Ok(stream) => stream,
            Err(why) => return self.finish(index, why, false, sink),
        };
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let conn = Conn::new(stream, self.config.window, self.config.retains);
        let kept = link.whole_mut().and_then(|whole| whole.kept.take());
        let has_kept = kept.is_some();
        if let Some(kept) = kept {
            *conn.line.out() = kept.anew();
        }
        self.begin_live(index, conn, rest, sink);
        if has_kept {
            self.note_sent(index);
        }
    }

    /// Frames come over this connection from now on, first of all these.
    pub(crate) fn begin_live<S: Sink>(&mut self, index: u32, mut conn: Conn, rest: &[u8], sink: &mut S) {
        self.calling.retain(|i| *i != index);
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let peer = link.peer;
        self.config.security.note_linked(link.node);
        sink.up(peer);
        let begun = conn.begin(rest, peer, sink);
        link.state = State::Live(Box::new(conn));
        self.heat(index);
        match begun {
            Ok(()) if self.conn(index).is_some_and(|conn| !conn.is_hot) => self.watch_cold(index),
            Ok(()) => {}
            Err(ended) => self.end(index, ended),
        }
    }

    /// Takes the connections that wait at a listener.
    pub(crate) fn accept_all<S: Sink>(&mut self, place: u32, sink: &mut S) -> usize {
        let mut accepted = 0;
        loop {
            // Of those that the ring has accepted nobody would be told again.
            let taken = self.watcher.take_accepted(place).map(Stream::accepted);
            if taken.is_none() && accepted >= ACCEPTED_AT_ONCE {
                break;
            }
            let Some(listener) = self.listeners.sockets.get(place as usize) else { return accepted };
            match taken.map_or_else(|| accept_next(listener), |taken| Ok(Some(taken))) {
                Ok(Some((mut stream, from))) => {
                    accepted += 1;
                    self.relisten.succeed();
                    self.stay_awake();
                    if !self.config.security.may_come(from) {
                        continue;
                    }
                    if from.is_some_and(|from| self.listeners.ip(place) == Some(from.ip())) {
                        stream.stay_on_host(&self.config.tuning);
                    }
                    match self.config.security.begin_answer(&mut stream) {
                        // Callers speak at once: often it is here already.
                        Ok(()) => self.hear(None, Visitor::new(stream, from), sink),
                        Err(why) => tracing::warn!(reason = %why.reason, "connection dropped"),
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    tracing::warn!(reason = %e, "connections wait");
                    self.relisten.fail();
                    return accepted;
                }
            }
        }
        self.watch_listener(place);
        accepted
    }

    fn watch_listener(&mut self, place: u32) {
        let Some(listener) = self.listeners.sockets.get(place as usize) else { return };
        if let Err(refusal) = self.watcher.watch(listener, Watched::Listener(place), READING) {
            tracing::warn!(reason = %refusal.reason, "connections wait");
            self.relisten.fail();
        }
    }

    /// A visitor has something to say.
    pub(crate) fn attend<S: Sink>(&mut self, number: u32, sink: &mut S) -> usize {
        if let Some(visitor) = self.visitors.remove(&number) {
            self.hear(Some(number), visitor, sink);
        }
        1
    }

    pub(crate) fn hear<S: Sink>(&mut self, number: Option<u32>, visitor: Visitor, sink: &mut S) {
        match visitor.step(&self.config) {
            Visit::Waits(visitor) => self.await_visitor(number, visitor),
            Visit::Over => {}
            Visit::Known(visitor, who, bytes) if who.purpose == Purpose::Pulse => {
                self.admit_pulse(visitor, &who, &bytes);
            }
            Visit::Known(visitor, who @ Stranger { purpose: Purpose::Path(ticket), .. }, bytes) => {
                self.admit_path(visitor, &who, ticket, &bytes, sink);
            }
            Visit::Known(visitor, who, bytes) => {
                if let Some((visitor, who, bytes)) = self.have_wait(visitor, who, bytes) {
                    self.decide(visitor, &who, bytes, sink);
                }
            }
        }
    }

    /// Gives a caller a link, or says why not, behind these bytes of the handshake.
    pub(crate) fn decide<S: Sink>(&mut self, visitor: Visitor, who: &Stranger, bytes: Vec<u8>, sink: &mut S) {
        let index = match self.admit(who, sink) {
            Ok(index) => index,
            Err(refusal) => return visitor.refuse_after(&bytes, &refusal),
        };
        let agreed = visitor.agreed();
        self.tell_where(index, &visitor, who, sink);
        let said = [bytes, welcome()].concat();
        let (stream, rest) = visitor.into_parts();
        if !say(&stream, &said) {
            let why = Refusal::new(Error::PeerGone, "the peer hung up during the handshake");
            return self.finish(index, why, false, sink);
        }
        self.establish(index, stream, &rest, sink);
        self.expect_more(index, agreed, None);
        self.stay_awake();
    }

    /// Says where a caller can be called, if it calls from there: else it is behind a gateway, and others have its addresses here.
    fn tell_where<S: Sink>(&self, index: u32, visitor: &Visitor, who: &Stranger, sink: &mut S) {
        let Some(link) = self.links.get(index as usize) else { return };
        let from = visitor.from().map(|from| from.ip());
        if who.listens.iter().any(|told| Some(told.ip()) == from) {
            sink.sign(link.peer, Sign::ListensAt(who.listens));
        }
    }

    fn await_visitor(&mut self, number: Option<u32>, visitor: Visitor) {
        let number = number.unwrap_or_else(|| {
            self.next_visitor = self.next_visitor.wrapping_add(1);
            self.next_visitor
        });
        if self.visitors.len() >= MAX_VISITORS {
            // Numbers grow: the smallest has been here longest.
            if let Some(first) = self.visitors.keys().copied().min() {
                if let Some(first) = self.visitors.remove(&first) {
                    let why = "too many have not said who they are";
                    self.config.security.note_dropped(&first.name(), why);
                }
            }
        }
        match self.watcher.watch(visitor.stream(), Watched::Visitor(number), READING) {
            Ok(()) => {
                self.visitors.insert(number, visitor);
            }
            Err(refusal) => tracing::warn!(reason = %refusal.reason, "connection dropped"),
        }
    }

    /// Decides whether a caller gets a link; its index, ready to be established.
    fn admit<S: Sink>(&mut self, who: &Stranger, sink: &mut S) -> Result<u32, Refusal> {
        let local = self.config.local;
        if who.node == local.node {
            return Err(Refusal::new(Error::PeerMisbehaved, "the peer has our own node id"));
        }
        let known = self.by_node.get(&who.node).copied();
        if let Some(index) = known {
            let Some(link) = self.links.get_mut(index as usize) else {
                return Err(Refusal::new(Error::Internal, "a link without its place"));
            };
            match &link.state {
                State::Calling(_) | State::Unheard(_) | State::Awaiting(_)
                    if link.incarnation != who.incarnation =>
                {
                    return Err(Refusal::new(Error::Again, "another incarnation of this node is called"));
                }
                State::Calling(_) if local.node < who.node => return Err(crossed()),
                State::Unheard(_) => return Err(crossed()),
                // Our own call gives way.
                State::Calling(_) | State::Awaiting(_) => {
                    link.generation = who.generation;
                    return Ok(index);
                }
                _ if link.incarnation == who.incarnation && link.generation < who.generation => {
                    let why = "the peer has lost the connection, and calls again";
                    self.finish(index, Refusal::new(Error::PeerGone, why), true, sink);
                }
                _ => return Err(Refusal::new(Error::Invalid, "this node is connected already")),
            }
        }
        let index = self.links.len() as u32;
        let id = LinkId(index);
        let peer = if who.uid == local.uid {
            sink.accept(id, who.node, who.incarnation)?
        } else {
            sink.accept_foreign(id, who.node, who.incarnation, who.uid)?
        };
        let Stranger { node, incarnation, generation, .. } = *who;
        self.enter(Link::new(peer, (node, incarnation), generation, State::Awaiting(None)));
        Ok(index)
    }

    /// Ends what takes too long; returns how much happened.
    pub(crate) fn check_times<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        let mut happened = 0;
        if self.relisten.is_due(now) {
            (0..self.listeners.sockets.len()).for_each(|place| self.watch_listener(place as u32));
            self.watcher.submit();
        }
        let security = &self.config.security;
        self.visitors.retain(|_, visitor| {
            let late = now.since(*visitor.since.get_or_insert(now)) > VISIT_NS;
            if late {
                security.note_dropped(&visitor.name(), "it did not say who it is within 5 s");
            }
            !late
        });
        for at in (0..self.calling.len()).rev() {
            let Some(&index) = self.calling.get(at) else { continue };
            let is_late = match self.links.get_mut(index as usize).map(|link| &mut link.state) {
                Some(State::Calling(call)) => call.check_time(now),
                Some(State::Awaiting(since)) => now.since(*since.get_or_insert(now)) > CROSSING_NS,
                Some(State::Unheard(unheard)) => now.since(*unheard.since.get_or_insert(now)) > UNHEARD_NS,
                _ => false,
            };
            if is_late {
                happened += self.go_on_late(index, sink);
            }
        }
        self.tend_pulses(now);
        self.tend_paths(now, sink);
        self.look_for_stalls(now, sink);
        self.review_members(now);
        happened
    }

    /// The address of the moment does not answer, or the other's call does not come.
    fn go_on_late<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        if let Some(Link { state: State::Awaiting(_), .. }) = self.links.get(index as usize) {
            let why = "calls have crossed, and the peer's does not come";
            self.finish(index, Refusal::new(Error::Timeout, why), false, sink);
            return 1;
        }
        if let Some(Link { state: State::Unheard(_), .. }) = self.links.get(index as usize) {
            // It may have taken all that went.
            let why = "the peer has shown who it is, and does not greet";
            self.finish(index, Refusal::new(Error::Timeout, why), true, sink);
            return 1;
        }
        let happened = self.go_on_calling(index, sink);
        self.watcher.submit();
        happened
    }

    /// When [`Self::check_times`] has to be called.
    pub(crate) fn next_time(&self) -> Option<Time> {
        let visits =
            self.visitors.values().map(|v| v.since.map_or(Time(0), |since| since.after(VISIT_NS + 1)));
        let calls = self.calling.iter().filter_map(|index| match &self.links.get(*index as usize)?.state {
            State::Calling(call) => call.deadline(),
            State::Awaiting(since) => Some(since.map_or(Time(0), |since| since.after(CROSSING_NS + 1))),
            State::Unheard(it) => Some(it.since.map_or(Time(0), |since| since.after(UNHEARD_NS + 1))),
            _ => None,
        });
        let health =
            self.pulses.next_time().into_iter().chain(self.stalls.next_time()).chain(self.next_review());
        visits.chain(calls).chain(self.relisten.next_time()).chain(health).chain(self.next_path_time()).min()
    }
}

fn crossed() -> Refusal {
    Refusal::new(Error::InUse, "calls have crossed, and the other one counts")
}
