//! Who gets a link: calls of this side, and of others.
//!
//! When two call each other at the same time, the call of the smaller node id counts: its side refuses the other's, and the other
//! side drops its own.

use std::net::{IpAddr, SocketAddr, TcpListener};

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sign, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::Address;

use super::link::{Link, State};
use super::VerbsRail;
use crate::call::{Call, Progress};
use crate::config::Ports;
use crate::conn::{Conn, Ended};
use crate::device::Wc;
use crate::hello::{Role, OFFER};
use crate::visitor::{send_away, Known, Visit, Visitor, MAX_VISITORS, VISIT_NS};
use crate::watch::Watched;
use crate::wire::{refusal_of, Wire};

/// Connections that are accepted in one go.
const ACCEPTED_AT_ONCE: usize = 64;
/// How long a listener is left alone that cannot accept.
const REST_NS: u64 = 100_000_000;

/// Listens at this address, on one of these ports.
pub(super) fn listen(at: IpAddr, ports: Option<Ports>) -> Result<TcpListener, Refusal> {
    let mut why = None;
    for port in Ports::shuffled(ports) {
        match TcpListener::bind(SocketAddr::new(at, port)) {
            Ok(listener) => {
                let is_ready = listener.set_nonblocking(true);
                return is_ready.map(|()| listener).map_err(|e| refusal_of(&e));
            }
            Err(e) => why = Some(e),
        }
    }
    let why = why.map_or_else(String::new, |e| format!(": {e}"));
    Err(Refusal::new(Error::System, format!("no port to listen at on {at}{why}")))
}

impl VerbsRail {
    /// Calls the fabric at `address`; the index of the link.
    pub(super) fn call(&mut self, peer: PeerId, address: &Address) -> Result<u32, Refusal> {
        if address.node == self.local.node {
            return Err(Refusal::new(Error::Unreachable, "the address is this fabric's own"));
        }
        let target = (address.node, address.incarnation);
        let to = address.network.iter().find(|to| to.is_ipv4() == self.from.is_ipv4());
        let to = to.ok_or_else(|| {
            Refusal::new(Error::Unreachable, "the peer listens nowhere that this side reaches")
        })?;
        let is_same = |link: &&Link| (link.node, link.incarnation) == target;
        // Where the device does not answer, that the host does is no news.
        let is_known = !self.deaf.contains(&address.node)
            && self.links.iter().filter(is_same).any(|link| matches!(link.state, State::Broken(_)));
        // Later than all calls between the two. What others say of theirs counts for them only.
        let between = self.links.iter().filter(|link| link.node == address.node);
        let last = between.map(|link| link.generation).max().unwrap_or(0);
        let generation = self.generation.max(last).wrapping_add(1);
        let call = Call::begin((self.from, self.ports, to), target, generation, is_known)?;
        self.generation = self.generation.wrapping_add(1);
        let index = self.links.len() as u32;
        if let Some(wire) = call.wire() {
            self.watcher.watch(wire, Watched::Link(index), true)?;
        }
        self.enter(Link::new(peer, target, generation, State::Calling(Box::new(call))));
        Ok(index)
    }

    fn enter(&mut self, link: Link) {
        let index = self.links.len() as u32;
        self.by_node.insert(link.node, index);
        self.timed.push(index);
        self.links.push(link);
    }

    /// Something may have come of a call of this side.
    pub(super) fn go_on_calling<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let VerbsRail { links, device, local, security, watcher, .. } = self;
        let Some(link) = links.get_mut(index as usize) else { return 0 };
        let State::Calling(call) = &mut link.state else { return 0 };
        let side = crate::call::Side { local, security };
        let progress = call.step(&side, &mut **device);
        if call.tell() {
            sink.sign(link.peer, Sign::HostAnswers);
        }
        if matches!(progress, Progress::Connected) {
            let settled = call.wire().map_or(Ok(()), |wire| watcher.settle(wire, Watched::Link(index)));
            if let Err(refusal) = settled {
                self.finish(index, refusal, false, sink);
            }
            return 1;
        }
        self.take_progress(index, progress, sink)
    }

    /// Something has come of the first message of a call.
    pub(super) fn complete_call<S: Sink>(&mut self, index: u32, wc: &Wc, sink: &mut S) {
        let VerbsRail { links, device, .. } = self;
        let Some(Link { state: State::Calling(call), .. }) = links.get_mut(index as usize) else { return };
        let progress = call.complete(wc, &mut **device);
        self.take_progress(index, progress, sink);
    }

    fn take_progress<S: Sink>(&mut self, index: u32, progress: Progress, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        match progress {
            Progress::Waits => return 0,
            Progress::Connected => {}
            Progress::Proving(qp) => {
                self.by_qp.insert(qp, index);
                self.device.progress();
            }
            Progress::Linked(conn) => {
                self.deaf.remove(&link.node);
                link.state = State::Settling(conn);
                self.establish(index, sink);
                // What was read with the last word of the handshake is told of by nothing.
                self.hear(index, sink);
            }
            Progress::Crossed => {
                link.state = State::Awaiting;
                link.since = None;
                self.forget_pairs(index);
            }
            Progress::Deaf(refusal) => {
                self.deaf.insert(link.node);
                self.finish(index, refusal, false, sink);
            }
            Progress::Failed(refusal) => self.finish(index, refusal, false, sink),
        }
        1
    }

    /// Frames flow from now on.
    pub(super) fn establish<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        match std::mem::replace(&mut link.state, State::Over) {
            State::Settling(conn) => {
                self.timed.retain(|i| *i != index);
                conn.wire.tune(self.keep_alive);
                self.by_qp
                    .extend([Some(conn.qp), conn.reach.reader()].into_iter().flatten().map(|qp| (qp, index)));
                link.state = State::Live(conn);
                link.since = None;
                sink.up(link.peer);
            }
            // Said twice, or after a last word, whose time goes on.
            other => link.state = other,
        }
    }

    /// Takes the connections that wait at the listener.
    pub(super) fn accept_all<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut accepted = 0;
        while accepted < ACCEPTED_AT_ONCE {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    self.rest(&e);
                    break;
                }
            };
            accepted += 1;
            match Wire::accepted(stream) {
                Ok(wire) => {
                    wire.tune(None);
                    self.hear_visitor(Visitor::new(wire), sink);
                }
                Err(e) => tracing::warn!(reason = %e, "connection dropped"),
            }
        }
        accepted
    }

    /// A visitor has something to say.
    pub(super) fn attend<S: Sink>(&mut self, number: u32, sink: &mut S) -> usize {
        let Some(visitor) = self.dismiss(number) else { return 0 };
        self.hear_visitor(visitor, sink);
        1
    }

    /// Takes a visitor out of everything. A forked child may have a copy of its descriptor, of which the watcher would tell for ever.
    fn dismiss(&mut self, number: u32) -> Option<Visitor> {
        let visitor = self.visitors.remove(&number)?;
        self.watcher.forget(&visitor.wire);
        Some(visitor)
    }

    fn hear_visitor<S: Sink>(&mut self, visitor: Visitor, sink: &mut S) {
        match visitor.step(&self.side()) {
            Visit::Waits(visitor) => self.await_visitor(visitor),
            Visit::Over => {}
            Visit::Known(known) => self.admit(known, sink),
        }
    }

    fn await_visitor(&mut self, visitor: Visitor) {
        if self.visitors.len() >= MAX_VISITORS {
            // Numbers grow: the smallest has been here longest.
            let first = self.visitors.keys().copied().min();
            if let Some(first) = first.and_then(|first| self.dismiss(first)) {
                tracing::warn!(
                    from = first.name(),
                    "connection dropped: too many have not said who they are"
                );
            }
        }
        self.next_visitor = self.next_visitor.wrapping_add(1);
        let number = self.next_visitor;
        match self.watcher.watch(&visitor.wire, Watched::Visitor(number), false) {
            Ok(()) => drop(self.visitors.insert(number, visitor)),
            Err(refusal) => tracing::warn!(reason = %refusal.reason, "connection dropped"),
        }
    }

    /// Decides whether a caller gets a link, and makes it.
    fn admit<S: Sink>(&mut self, mut known: Known, sink: &mut S) {
        let index = match self.place_for(&known, sink) {
            Ok(index) => index,
            Err(refusal) => return send_away(&mut known.wire, &refusal),
        };
        let Known { wire, mut transcript, hello, pair } = known;
        let from = wire.peer().map(|from| from.ip());
        if hello.listens.iter().any(|told| Some(told.ip()) == from) {
            if let Some(link) = self.links.get(index as usize) {
                sink.sign(link.peer, Sign::ListensAt(hello.listens));
            }
        }
        let made = Conn::open(&mut *self.device, wire, Role::Called).and_then(|mut conn| {
            match conn.connect(&mut *self.device, &pair) {
                Ok(()) => Ok(conn),
                Err(refusal) => {
                    send_away(&mut conn.wire, &refusal);
                    drop(conn.fence(&mut *self.device));
                    Err(refusal)
                }
            }
        });
        let conn = match made {
            Ok(conn) => conn,
            Err(refusal) => return self.finish(index, refusal, false, sink),
        };
        let offer = transcript.offer(conn.pair(&*self.device), Role::Called, &self.security);
        let said = conn.wire.say(OFFER, &offer).map_err(|e| refusal_of(&e));
        let watched = said.and_then(|()| self.watcher.watch(&conn.wire, Watched::Link(index), false));
        self.by_qp.insert(conn.qp, index);
        if let Some(link) = self.links.get_mut(index as usize) {
            link.state = State::Settling(Box::new(conn));
            link.since = None;
        }
        if let Err(refusal) = watched {
            self.finish(index, refusal, false, sink);
        }
    }

    /// Where the link of a caller goes; the index of one that awaits it.
    fn place_for<S: Sink>(&mut self, known: &Known, sink: &mut S) -> Result<u32, Refusal> {
        let who = &known.hello;
        let found = self.by_node.get(&who.node).copied();
        if let Some(index) = found {
            let local = self.local.node;
            let Some(link) = self.links.get_mut(index as usize) else {
                return Err(Refusal::new(Error::Internal, "a link without its place"));
            };
            match &link.state {
                State::Calling(_) | State::Awaiting if link.incarnation != who.incarnation => {
                    return Err(Refusal::new(Error::Again, "another incarnation of this node is called"));
                }
                State::Calling(_) if local < who.node => {
                    return Err(Refusal::new(Error::InUse, "calls have crossed, and the other one counts"));
                }
                // Our own call gives way.
                State::Calling(_) | State::Awaiting => {
                    link.generation = who.generation;
                    link.since = None;
                    if let State::Calling(call) = std::mem::replace(&mut link.state, State::Awaiting) {
                        call.wire().into_iter().for_each(|wire| self.watcher.forget(wire));
                        call.give_up(&mut *self.device);
                    }
                    self.forget_pairs(index);
                    return Ok(index);
                }
                _ if link.incarnation == who.incarnation && link.generation < who.generation => {
                    // What the old one still holds is delivered before.
                    self.drain(sink);
                    let why =
                        Refusal::new(Error::PeerGone, "the peer has lost the connection, and calls again");
                    self.finish_ended(sink);
                    self.finish(index, why, true, sink);
                }
                _ => return Err(Refusal::new(Error::Invalid, "this node is connected already")),
            }
        }
        let index = self.links.len() as u32;
        let peer = if who.uid == self.local.uid {
            sink.accept(LinkId(index), who.node, who.incarnation)?
        } else {
            sink.accept_foreign(LinkId(index), who.node, who.incarnation, who.uid)?
        };
        self.enter(Link::new(peer, (who.node, who.incarnation), who.generation, State::Awaiting));
        Ok(index)
    }

    /// Delivers what the device still holds, some rounds long.
    pub(super) fn drain<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut frames = 0;
        for _ in 0..super::LAST_ROUNDS {
            match self.look(usize::MAX, sink) {
                0 => break,
                more => frames += more,
            }
        }
        frames
    }

    pub(super) fn drop_late_visitors(&mut self, now: Time) {
        let is_late = |visitor: &mut Visitor| now.since(*visitor.since.get_or_insert(now)) > VISIT_NS;
        let all = self.visitors.iter_mut();
        let late: Vec<u32> =
            all.filter_map(|(number, visitor)| is_late(visitor).then_some(*number)).collect();
        for visitor in late.into_iter().filter_map(|number| self.dismiss(number)) {
            tracing::warn!(from = visitor.name(), "connection dropped: it did not say who it is within 5 s");
        }
    }

    /// The listener cannot accept, as when descriptors have run out: it would be told of all the time.
    fn rest(&mut self, why: &std::io::Error) {
        tracing::warn!(reason = %why, "connections wait");
        self.watcher.forget(&self.listener);
        self.rests_until = Some(self.looked.0.after(REST_NS));
    }

    /// Listens again, when it is time.
    pub(super) fn wake_listener(&mut self, now: Time) {
        if self.rests_until.is_some_and(|until| now >= until) {
            let watched = self.watcher.watch(&self.listener, Watched::Listener, false);
            self.rests_until = watched.err().map(|_| now.after(REST_NS));
        }
    }
}

impl Ended {
    /// The queue pair is of no use any more.
    pub(crate) fn failed(why: &str) -> Ended {
        Ended::Broken(Refusal::new(Error::PeerGone, why), 0)
    }
}
