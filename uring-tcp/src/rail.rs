//! The rail: all links of one fabric over TCP.
//!
//! A few connections are *hot*: each round of polling reads them, and nothing watches them. All others are cold: the watcher
//! says when something comes, and looking at it costs nothing. A connection gets hot when something comes, and cold after some
//! thousand looks in vain.

use std::collections::HashMap;
use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{Armed, Capabilities, LinkId, Path, PathId, PeerId, Posted, Rail, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming, NetAddresses, NodeId};

use crate::auth::Security;
use crate::bell::Alarm;
use crate::call::Call;
use crate::config::{Multirail, TcpConfig, Window};
use crate::conn::{Conn, Outcome, CALM_FRAMES};
use crate::courier::Courier;
use crate::frame_in::{Ended, SCRATCH_BYTES};
use crate::listener::Listeners;
use crate::out::Out;
use crate::path::receive_on;
use crate::paths::{PathOf, PathTable, Paths};
use crate::pulse::Pulses;
use crate::shallow::Room;
use crate::socket::refusal_of;
use crate::stall::Stalls;
use crate::visitor::Visitor;
use crate::watch::{Want, Watched, Watcher, READING};

/// Longest payload of a frame that carries a whole message.
pub(crate) const MAX_EAGER: usize = 8 << 10;
/// Longest payload of a segment: the kernel moves pieces of this length fastest.
pub(crate) const MAX_SEGMENT: usize = 256 << 10;
/// The same while small messages come and go: the kernel takes some 10 us for it, as for a message there and back.
const SHORT_SEGMENT: usize = 20 << 10;
/// Connections that are read in each round.
const HOT_LINKS: usize = 8;
/// Looks in vain, over all hot connections, after which one is cold: about half a millisecond.
const PATIENCE: u32 = 4096;
/// Rounds of polling, about a microsecond each where sleep is tried after each, in which nobody sleeps after a call was accepted, and
/// after a link was made of it: the greeting and the first message are on their way, and to be woken for each takes longer.
const AWAKE_ROUNDS: u32 = 96;
/// Looks in vain after which the core is asked for from which the peer speaks: it costs a call, as each of them did.
const LONG_WAIT: u32 = 32;
/// How long a side that has given way waits for the other's call.
pub(crate) const CROSSING_NS: u64 = 5_000_000_000;
/// How long the end of a rail waits for the systems of peers to take what was sent.
const FAREWELL_NS: u64 = 1_000_000_000;

/// A link, from the first call on.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// That of the call that made it.
    pub(crate) generation: u32,
    /// Addresses that did not do, and why, once the call has come through.
    pub(crate) tried: Vec<String>,
    /// How long nobody had answered there when it broke.
    pub(crate) silent_ns: u64,
    /// Its paths beside the first, where there may be some.
    pub(crate) paths: Option<Box<Paths>>,
    /// It is no link of its own, but a further path of one.
    pub(crate) part_of: Option<PathOf>,
    pub(crate) state: State,
}

/// How far a link is.
#[derive(Debug)]
pub(crate) enum State {
    /// This side calls.
    Calling(Box<Call>),
    /// This side has given way to the other's call, since when.
    Awaiting(Option<Time>),
    /// Frames flow.
    Live(Box<Conn>),
    /// The connection broke: what the peer may not have, and frames that were delivered.
    Broken(Box<Out>, u64),
    /// Nothing is left.
    Over,
}

/// The TCP rail.
#[derive(Debug)]
pub struct TcpRail {
    pub(crate) config: TcpConfig,
    capabilities: Capabilities,
    pub(crate) links: Vec<Link>,
    /// Links that are neither broken nor over.
    pub(crate) by_node: HashMap<NodeId, u32>,
    hot: Vec<u32>,
    /// Links with something to send, or for which the kernel has no room.
    dirty: Vec<u32>,
    /// Links whose peers are to be told of frames.
    owing: Vec<u32>,
    /// Links that have come to an end in this round.
    pub(crate) ended: Vec<(u32, Ended)>,
    /// When members are looked at again; none before the first look at the clock.
    pub(crate) next_review: Option<Time>,
    /// Links that are being made by this side.
    pub(crate) calling: Vec<u32>,
    pub(crate) listeners: Listeners,
    /// When the listeners are watched again, after descriptors had run out.
    pub(crate) listen_again: Option<Time>,
    pub(crate) visitors: HashMap<u32, Visitor>,
    pub(crate) next_visitor: u32,
    pub(crate) pulses: Pulses,
    pub(crate) paths: PathTable,
    pub(crate) stalls: Stalls,
    pub(crate) watcher: Watcher,
    ready: Vec<Watched>,
    alarm: Alarm,
    scratch: Box<[u8]>,
    pub(crate) courier: Courier,
    /// Somebody sleeps, or is about to.
    is_armed: bool,
    /// The round until which nobody sleeps, modulo 2^32: whoever has just called says more at once.
    awake_until: u32,
    /// Rounds of polling, modulo 2^32.
    pub(crate) round: u32,
    /// Number of calls of this side.
    pub(crate) generation: u32,
    /// The process that opened the rail.
    process: u32,
}

impl TcpRail {
    /// Opens the rail: listens.
    ///
    /// # Errors
    /// What the system or the configuration does not allow.
    pub fn open(mut config: TcpConfig) -> Result<TcpRail, Refusal> {
        let addresses = config.interfaces.addresses()?;
        config.interfaces.remember(&addresses);
        let is_alone = addresses.len() < 2 || config.interfaces.count() < 2;
        if is_alone && !matches!(config.multirail, Multirail::Alike(_)) {
            config.multirail = Multirail::Off;
        }
        let listeners = Listeners::open(&addresses, config.ports, &config.tuning)?;
        let mut watcher = Watcher::open(config.engine, config.single_thread)?;
        for (place, socket) in listeners.sockets.iter().enumerate() {
            watcher.watch(socket, Watched::Listener(place as u32), READING)?;
        }
        watcher.submit();
        tracing::debug!(addresses = ?listeners.addresses, engine = watcher.name(), "tcp listens");
        let local = Address { network: listeners.addresses, ..config.local };
        Ok(TcpRail {
            capabilities: capabilities(config.retains),
            links: Vec::new(),
            by_node: HashMap::new(),
            hot: Vec::with_capacity(HOT_LINKS),
            dirty: Vec::new(),
            owing: Vec::new(),
            ended: Vec::new(),
            next_review: None,
            calling: Vec::new(),
            listeners,
            listen_again: None,
            visitors: HashMap::new(),
            next_visitor: 0,
            pulses: Pulses::default(),
            paths: PathTable::default(),
            stalls: Stalls::default(),
            watcher,
            ready: Vec::new(),
            alarm: Alarm::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            courier: Courier::default(),
            is_armed: false,
            awake_until: 0,
            round: 0,
            generation: 0,
            process: std::process::id(),
            config: TcpConfig { local, ..config },
        })
    }

    /// Where peers call.
    pub fn listens_at(&self) -> NetAddresses {
        self.listeners.addresses
    }

    /// How often somebody was refused who is no member of the session, if peers are known by one.
    pub fn refusals(&self) -> Option<u64> {
        match &self.config.security {
            Security::Session(session) => Some(session.refusals()),
            Security::Key(_) | Security::Insecure => None,
        }
    }

    /// What watches the sockets on which little happens: `io_uring` or `epoll`.
    pub fn engine(&self) -> &'static str {
        self.watcher.name()
    }

    /// Breaks the connection of a link, as a network does: what was not read here is lost.
    #[cfg(feature = "testing")]
    pub fn cut(&mut self, link: LinkId) {
        if let Some(conn) = self.conn(link.0) {
            conn.line.stream.reset();
        }
    }

    /// Ends the connection of a link without a word: what was sent still arrives.
    #[cfg(feature = "testing")]
    pub fn shut(&mut self, link: LinkId) {
        if let Some(conn) = self.conn(link.0) {
            conn.line.stream.end();
        }
    }

    /// Number of pulses that both sides know of.
    #[cfg(feature = "testing")]
    pub fn pulses(&self) -> usize {
        self.pulses.open()
    }

    /// Breaks the pulses, as a network does.
    #[cfg(feature = "testing")]
    pub fn cut_pulses(&mut self) {
        self.pulses.cut();
    }

    /// The link with a node, if there is one.
    #[cfg(feature = "testing")]
    pub fn link_with(&self, node: NodeId) -> Option<LinkId> {
        self.by_node.get(&node).copied().map(LinkId)
    }

    pub(crate) fn conn(&mut self, index: u32) -> Option<&mut Conn> {
        match &mut self.links.get_mut(index as usize)?.state {
            State::Live(conn) => Some(conn),
            _ => None,
        }
    }

    /// Has a connection read in each round, if there is room.
    pub(crate) fn heat(&mut self, index: u32) {
        if self.hot.len() < HOT_LINKS {
            if let Some(conn) = self.conn(index).filter(|conn| !conn.is_hot) {
                conn.is_hot = true;
                conn.empty = LONG_WAIT;
                self.hot.push(index);
            }
        }
    }

    /// Has a connection watched.
    fn watch(&mut self, index: u32, want: Want) {
        let Some(Link { state: State::Live(conn), .. }) = self.links.get_mut(index as usize) else { return };
        conn.is_hot = false;
        conn.line.out().trim();
        // What TLS has taken from the socket and not handed out wakes nobody.
        if conn.line.stream.has_more() {
            self.ready.push(Watched::Link(index));
        }
        // Watches that nothing has come of would pile up.
        if conn.watched.is_some_and(|watched| watched.covers(want)) {
            return;
        }
        conn.watched = Some(want);
        if let Err(refusal) = self.watcher.watch(&conn.line.stream, Watched::Link(index), want) {
            tracing::warn!(reason = %refusal.reason, "a connection cannot be watched");
            self.ended.push((index, Ended::Broken(std::io::ErrorKind::OutOfMemory.into())));
        }
    }

    /// Has a connection watched that finds no room among the hot ones.
    pub(crate) fn watch_cold(&mut self, index: u32) {
        self.watch(index, READING);
    }

    /// Keeps sleepers awake for a moment.
    pub(crate) fn stay_awake(&mut self) {
        self.awake_until = self.round.wrapping_add(AWAKE_ROUNDS);
    }

    /// Has something looked at in the next round.
    pub(crate) fn note_ready(&mut self, what: Watched) {
        self.ready.push(what);
    }

    /// Has a link ended at the end of the round.
    pub(crate) fn end(&mut self, index: u32, ended: Ended) {
        self.ended.push((index, ended));
    }

    /// Reads a connection; returns how many frames came.
    #[inline]
    fn receive<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let State::Live(conn) = &mut link.state else { return 0 };
        let received = match link.part_of {
            None => conn.receive(&mut self.scratch, link.peer, sink),
            Some(path) => receive_on(conn, path.id(), &mut self.scratch, link.peer, sink),
        };
        if !conn.inbox.paths_over.is_empty() {
            let over = std::mem::take(&mut conn.inbox.paths_over);
            self.ended.extend(over.into_iter().map(|number| (index, Ended::Path(number))));
        }
        match received {
            Ok((0, _)) => {
                conn.empty += 1;
                0
            }
            Ok((taken, _)) => {
                if conn.empty >= LONG_WAIT && conn.line.stream.is_on_host {
                    conn.peer_core = conn.line.stream.last_core();
                }
                conn.empty = 0;
                if conn.owes() && !conn.is_owing {
                    conn.is_owing = true;
                    self.owing.push(index);
                }
                taken
            }
            Err(ended) => {
                self.ended.push((index, ended));
                1
            }
        }
    }

    /// Sends what waited for the end of the round; `at_once` also what may gather for another one.
    fn flush_dirty(&mut self, at_once: bool) {
        let (mut at, round) = (0, self.round);
        while let Some(&index) = self.dirty.get(at) {
            let waits = self.conn(index).is_some_and(|conn| {
                if !at_once && conn.is_gathering(round) {
                    return true;
                }
                conn.flush();
                conn.is_dirty = conn.waits();
                conn.is_dirty
            });
            if waits {
                at += 1;
            } else {
                self.dirty.swap_remove(at);
                self.check_broken(index);
            }
        }
    }

    /// Tells peers of what has come, when there was nothing else to say: all of them, or those from whom nothing comes now.
    fn acknowledge_all(&mut self, silent_only: bool) {
        for at in (0..self.owing.len()).rev() {
            let index = self.owing[at];
            let is_later = |conn: &mut Conn| silent_only && conn.owes() && !conn.is_silent();
            if self.conn(index).is_some_and(is_later) {
                continue;
            }
            let still_owes = self.conn(index).is_some_and(|conn| {
                conn.acknowledge();
                // Where the kernel takes nothing, nothing was said.
                conn.is_owing = conn.owes() && !conn.is_broken();
                conn.is_owing
            });
            if !still_owes {
                self.owing.swap_remove(at);
            }
            self.note_sent(index);
        }
    }

    /// Something was given to a connection to be sent.
    #[inline]
    pub(crate) fn note_sent(&mut self, index: u32) {
        let Some(conn) = self.conn(index) else { return };
        if conn.waits() && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(index);
            if self.is_armed {
                self.watch(index, Want { reading: true, writing: true });
                self.watcher.submit();
            }
        }
        self.check_broken(index);
    }

    /// A connection over which nothing can be sent is read until it says why.
    #[inline]
    fn check_broken(&mut self, index: u32) {
        let is_idle = |conn: &&mut Conn| conn.is_broken() && !conn.is_hot;
        if self.conn(index).filter(is_idle).is_some() {
            self.hot.push(index);
            if let Some(conn) = self.conn(index) {
                conn.is_hot = true;
            }
        }
    }

    /// Has connections watched that were silent for long.
    #[cold]
    fn cool_silent(&mut self) {
        let patience = PATIENCE / self.hot.len().max(1) as u32;
        for at in (0..self.hot.len()).rev() {
            let index = self.hot[at];
            if self.conn(index).is_none_or(|conn| conn.empty >= patience) {
                self.hot.swap_remove(at);
                self.watch(index, READING);
            }
        }
        self.watcher.submit();
    }

    /// Sees to what the watcher has to say; returns how much happened.
    #[cold]
    fn look<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut ready = std::mem::take(&mut self.ready);
        self.watcher.collect(&mut ready);
        let mut happened = 0;
        for what in ready.drain(..) {
            happened += match what {
                Watched::Listener(place) => self.accept_all(place, sink),
                Watched::Visitor(number) => self.attend(number, sink),
                Watched::Link(index) => self.attend_link(index, sink),
                Watched::Pulse(number) => {
                    self.attend_pulse(number);
                    1
                }
                Watched::Bell => {
                    self.alarm.rang();
                    1
                }
            };
        }
        // What was noted meanwhile is for the next round.
        ready.append(&mut self.ready);
        self.ready = ready;
        self.watcher.submit();
        happened
    }

    fn attend_link<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        if let Some(conn) = self.conn(index) {
            conn.watched = None;
        }
        let found = self.links.get(index as usize);
        match found.map(|link| &link.state) {
            Some(State::Calling(_)) if found.is_some_and(|link| link.part_of.is_some()) => {
                self.go_on_calling_path(index, sink);
                1
            }
            Some(State::Calling(_)) => self.go_on_calling(index, sink),
            Some(State::Live(conn)) if !conn.is_hot => {
                self.heat(index);
                let taken = self.receive(index, sink);
                if self.conn(index).is_some_and(|conn| !conn.is_hot) {
                    self.watch(index, READING);
                }
                taken
            }
            _ => 0,
        }
    }

    /// Ends the links that have come to their end.
    #[cold]
    pub(crate) fn finish_ended<S: Sink>(&mut self, sink: &mut S) {
        while let Some((index, ended)) = self.ended.pop() {
            if self.links.get(index as usize).is_some_and(|link| link.part_of.is_some()) {
                self.finish_path(index, ended, sink);
                continue;
            }
            let closed = |why: String| (Refusal::new(Error::PeerGone, why), true);
            let (reason, is_broken) = match ended {
                Ended::Bye(0) => (Refusal::new(Error::PeerGone, "the peer has closed its fabric"), false),
                Ended::Bye(_) => (Refusal::new(Error::PeerGone, "the peer has ended the link"), false),
                Ended::Path(number) => {
                    self.hear_of_end(index, number, sink);
                    continue;
                }
                Ended::Closed => closed("the connection was closed without a word".to_owned()),
                Ended::Broken(e) => {
                    self.note_silence(index, &e);
                    closed(format!("the connection broke: {e}"))
                }
                Ended::Misbehaved(refusal) => {
                    if let Some(link) = self.links.get(index as usize) {
                        let node = link.node;
                        tracing::warn!(%node, reason = %refusal.reason, "peer broke the protocol and is cut off");
                    }
                    if let Some(conn) = self.conn(index) {
                        conn.hang_up(i64::from(refusal.error.code()) as u64);
                    }
                    (refusal, false)
                }
            };
            self.finish(index, reason, is_broken, sink);
        }
    }

    /// Ends a link, which may be made anew if it `is_broken`.
    pub(crate) fn finish<S: Sink>(&mut self, index: u32, reason: Refusal, is_broken: bool, sink: &mut S) {
        let Some(state) = self.take_down(index) else { return };
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let peer = link.peer;
        tracing::debug!(peer = peer.number(), reason = %reason.reason, "link is over");
        match state {
            State::Live(conn) if is_broken && self.config.retains => {
                link.state = broken_off(*conn, self.config.window);
                sink.broken(peer, LinkId(index), reason);
            }
            _ => sink.down(peer, LinkId(index), reason),
        }
    }

    /// A link broke because nobody answered.
    fn note_silence(&mut self, index: u32, e: &std::io::Error) {
        if refusal_of(e).error != Error::Unreachable {
            return;
        }
        let silence = self.silence(index).unwrap_or_default();
        if let Some(link) = self.links.get_mut(index as usize) {
            link.silent_ns = silence.as_nanos() as u64;
        }
    }

    /// Takes a link out of everything; its state, unless it was taken down before.
    pub(crate) fn take_down(&mut self, index: u32) -> Option<State> {
        let link = self.links.get_mut(index as usize)?;
        let state = std::mem::replace(&mut link.state, State::Over);
        if matches!(state, State::Over | State::Broken(..)) {
            return None;
        }
        if self.by_node.get(&link.node) == Some(&index) {
            self.by_node.remove(&link.node);
        }
        for list in [&mut self.hot, &mut self.dirty, &mut self.owing, &mut self.calling] {
            list.retain(|i| *i != index);
        }
        self.ended.retain(|(i, _)| *i != index);
        self.pulses.forget(index);
        self.drop_paths(index);
        Some(state)
    }

    /// Segments are held back. False when nobody could be woken who sleeps already.
    fn hold_back(&mut self, span: Duration) -> bool {
        self.alarm.note(self.round, span);
        if !self.is_armed {
            return true;
        }
        let is_set = self.alarm.set(self.round, &mut self.watcher) == Armed::Yes;
        self.watcher.submit();
        is_set
    }

    /// Whether something could be done at once.
    fn has_news(&mut self) -> bool {
        self.watcher.submit();
        self.watcher.collect(&mut self.ready);
        !self.ready.is_empty() || !self.ended.is_empty()
    }
}

impl Rail for TcpRail {
    fn name(&self) -> &'static str {
        "tcp"
    }

    #[inline]
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn short_segment_len(&mut self, link: LinkId) -> usize {
        match self.conn(link.0).map(|conn| conn.room(SHORT_SEGMENT)) {
            Some(Room::Bytes(len)) => len,
            Some(Room::After(span)) if self.hold_back(span) => 0,
            _ => SHORT_SEGMENT,
        }
    }

    fn short_segment_len_on(&mut self, path: PathId) -> usize {
        // In the table a path is a link. Of one that is over the engine hears when it posts.
        self.place_of(path).map_or(SHORT_SEGMENT, |place| self.short_segment_len(LinkId(place)))
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        self.call(peer, address).map(LinkId)
    }

    #[inline]
    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(found) = self.links.get_mut(link.0 as usize) else { return Posted::Down };
        let State::Live(conn) = &mut found.state else {
            return match found.state {
                State::Calling(_) | State::Awaiting(_) => Posted::NoResource,
                _ => Posted::Down,
            };
        };
        if !conn.is_hot {
            self.stalls.want_look();
        }
        let Outcome { posted, waits } = conn.post(frame, self.round, &mut self.courier);
        if waits != conn.is_dirty || conn.is_broken() {
            self.note_sent(link.0);
        }
        posted
    }

    #[inline]
    fn post_message(&mut self, link: LinkId, tag: u64, message: &Iov) -> Posted {
        match self.links.get_mut(link.0 as usize).map(|link| &mut link.state) {
            Some(State::Live(conn)) if message.len() <= MAX_EAGER => {
                if !conn.is_hot {
                    self.stalls.want_look();
                }
                let Outcome { posted, waits } =
                    conn.post_message(tag, message, self.round, &mut self.courier);
                if waits != conn.is_dirty || conn.is_broken() {
                    self.note_sent(link.0);
                }
                posted
            }
            _ => self.post(link, &Frame::eager(tag, Gather::one(message))),
        }
    }

    fn post_segment(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        self.post_on(path, frame)
    }

    #[inline]
    fn poll<S: Sink>(&mut self, _budget: usize, sink: &mut S) -> usize {
        self.round = self.round.wrapping_add(1);
        if !self.dirty.is_empty() {
            self.flush_dirty(false);
        }
        let mut taken = 0;
        let mut at = 0;
        while let Some(&index) = self.hot.get(at) {
            taken += self.receive(index, sink);
            at += 1;
        }
        if self.round.is_multiple_of(256) && !self.hot.is_empty() {
            self.cool_silent();
        }
        if !self.ready.is_empty() || !self.watcher.is_quiet(!self.hot.is_empty()) {
            taken += self.look(sink);
        }
        if !self.ended.is_empty() {
            self.finish_ended(sink);
        }
        taken
    }

    fn poll_link<S: Sink>(&mut self, link: LinkId, _budget: usize, sink: &mut S) -> usize {
        // Not a round: whoever listens in the middle of what it sends is not done.
        let taken = self.receive(link.0, sink);
        self.finish_ended(sink);
        taken
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        self.flush_dirty(true);
        self.acknowledge_all(true);
        let happened = self.look(sink) + self.check_times(now, sink);
        self.finish_ended(sink);
        happened
    }

    fn deadline(&self) -> Option<Time> {
        self.next_time()
    }

    fn is_connecting(&self) -> bool {
        !self.calling.is_empty() || !self.visitors.is_empty()
    }

    fn path(&self, link: LinkId) -> Path {
        let Some(found) = self.links.get(link.0 as usize) else { return Path::default() };
        match &found.state {
            State::Live(conn) => {
                let stream = &conn.line.stream;
                // Beside others it matters how much each carries.
                let is_wide = found.paths.as_ref().is_some_and(|paths| paths.is_wide());
                let moved = is_wide.then(|| stream.moved()).flatten();
                Path { tried: found.tried.clone(), moved, ..stream.path() }
            }
            State::Calling(call) => call.path(),
            _ => Path::default(),
        }
    }

    fn further_paths(&self, link: LinkId) -> Vec<Path> {
        self.paths_of(link)
    }

    fn delivered(&self, link: LinkId) -> u64 {
        match self.links.get(link.0 as usize).map(|link| &link.state) {
            Some(State::Live(conn)) => conn.inbox.delivered,
            Some(State::Broken(_, delivered)) => *delivered,
            _ => 0,
        }
    }

    fn retained(
        &mut self,
        link: LinkId,
        after: u64,
        each: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        match self.links.get(link.0 as usize).map(|link| &link.state) {
            Some(State::Broken(out, _)) => out.retained(after, each),
            _ => Err(Error::Invalid),
        }
    }

    fn fence(&mut self, link: LinkId) {
        if self.conn(link.0).is_none() {
            return;
        }
        if let Some(State::Live(conn)) = self.take_down(link.0) {
            self.links[link.0 as usize].state = broken_off(*conn, self.config.window);
        }
    }

    fn silent_ns(&self, link: LinkId) -> u64 {
        self.links.get(link.0 as usize).map_or(0, |link| link.silent_ns)
    }

    fn arm(&mut self) -> Armed {
        if (1..=AWAKE_ROUNDS).contains(&self.awake_until.wrapping_sub(self.round)) {
            return Armed::Busy;
        }
        self.watcher.arm();
        if !self.hot.is_empty() {
            self.stalls.want_look();
        }
        self.flush_dirty(true);
        self.acknowledge_all(false);
        for index in std::mem::take(&mut self.hot) {
            if let Some(conn) = self.conn(index) {
                conn.calm = CALM_FRAMES;
            }
            self.watch(index, READING);
        }
        // Those that the kernel has no room for wait for it, too.
        for at in 0..self.dirty.len() {
            self.watch(self.dirty[at], Want { reading: true, writing: true });
        }
        let is_set = self.alarm.set(self.round, &mut self.watcher) == Armed::Yes;
        self.is_armed = is_set && !self.has_news();
        if self.is_armed {
            Armed::Yes
        } else {
            Armed::Busy
        }
    }

    fn disarm(&mut self) {
        self.is_armed = false;
    }

    fn wait_handle(&self) -> Option<i32> {
        Some(self.watcher.descriptor())
    }

    fn is_peer_on_this_core(&self) -> bool {
        // SAFETY: it takes nothing and touches no memory of ours; negative where the system does not say.
        let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let speaks_here = |index: &u32| match self.links.get(*index as usize).map(|link| &link.state) {
            Some(State::Live(conn)) => conn.peer_core.is_some() && conn.peer_core == here,
            _ => false,
        };
        self.hot.iter().any(speaks_here)
    }

    fn disconnect(&mut self, link: LinkId) {
        if let Some(found) = self.links.get_mut(link.0 as usize) {
            if matches!(found.state, State::Broken(..)) {
                found.state = State::Over;
            }
        }
        if let Some(State::Live(mut conn)) = self.take_down(link.0) {
            conn.hang_up(0);
        }
    }
}

impl Drop for TcpRail {
    fn drop(&mut self) {
        let is_home = std::process::id() == self.process;
        let mut leaving = Vec::new();
        if is_home {
            // Watches, and forked children, may hold copies of the descriptors: closing ours would not end them.
            self.listeners.sockets.iter().for_each(end_listening);
        }
        for link in self.links.drain(..) {
            match link.state {
                State::Live(conn) if !is_home => conn.line.stream.leave(),
                // What it carries is worth nothing without its link.
                State::Live(_) if link.part_of.is_some() => {}
                State::Live(mut conn) => {
                    conn.hang_up(0);
                    leaving.push(*conn);
                }
                State::Calling(call) if !is_home => call.leave(),
                _ => {}
            }
        }
        if !is_home {
            self.courier.leave();
            self.visitors.drain().for_each(|(_, visitor)| visitor.leave());
            self.pulses.leave();
        }
        say_farewell(leaving);
    }
}

/// What is left of a connection that delivers nothing any more: what the network still holds is dropped with the socket.
fn broken_off(conn: Conn, window: Window) -> State {
    let Conn { line, inbox, .. } = conn;
    line.stream.end();
    let out = std::mem::replace(&mut *line.out(), Out::new(window, true));
    State::Broken(Box::new(out), inbox.delivered)
}

fn end_listening(socket: &socket2::Socket) {
    // An error says that it is over already.
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Waits, for a bounded time, until the systems of the peers have what was sent.
fn say_farewell(mut leaving: Vec<Conn>) {
    let start = std::time::Instant::now();
    loop {
        leaving.retain_mut(|conn| !conn.finish_hanging_up());
        if leaving.is_empty() {
            return;
        }
        if start.elapsed().as_nanos() as u64 > FAREWELL_NS {
            tracing::warn!(links = leaving.len(), "peers do not take what was sent before the fabric closed");
            return;
        }
        std::thread::yield_now();
    }
}

fn capabilities(retains: bool) -> Capabilities {
    let mut capabilities = Capabilities::minimal();
    capabilities.max_eager = MAX_EAGER;
    capabilities.max_segment = MAX_SEGMENT;
    capabilities.max_iov = 64;
    capabilities.retains = retains;
    // A switched network of 10 Gbit/s. The kernel copies in and out.
    capabilities.latency_ns = 10_000;
    capabilities.bandwidth = 1_250_000_000;
    capabilities
}
