//! The rail: all links of one fabric over TCP.
//!
//! | file | concept |
//! |---|---|
//! | `hot.rs` | which connections are read in each round, and which are watched |
//! | `arrivals.rs` | those that the ring receives for, if that is asked for |
//! | `sending.rs` | what waits to be sent |
//! | `sleep.rs` | before a process sleeps |
//! | `ends.rs` | how links end, and the rail |

mod arrivals;
mod ends;
mod hot;
mod sending;
mod sleep;

use std::collections::HashMap;
use std::sync::Arc;

use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{Armed, Capabilities, LinkId, Path, PathId, PeerId, Posted, Rail, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming, NetAddresses, NodeId, Preface};

use crate::auth::Security;
use crate::bell::Alarm;
use crate::config::{Multirail, TcpConfig};
use crate::conn::{Conn, Outcome, Source};
use crate::courier::Courier;
use crate::frame_in::{Ended, SCRATCH_BYTES};
use crate::link::{Link, State};
use crate::listener::Listeners;
use crate::paths::{PathTable, Paths};
use crate::pulse::Pulses;
use crate::relisten::Relisten;
use crate::shallow::Room;
use crate::stall::Stalls;
use crate::visitor::Visitor;
use crate::watch::{Watched, Watcher, READING};
use crate::way::{Adopter, Way};
use hot::HOT_LINKS;

/// Longest payload of a frame that carries a whole message.
pub(crate) const MAX_EAGER: usize = 8 << 10;
/// Longest payload of a segment: the kernel moves pieces of this length fastest.
pub(crate) const MAX_SEGMENT: usize = 256 << 10;
/// The same while small messages come and go: the kernel takes some 10 us for it, as for a message there and back.
const SHORT_SEGMENT: usize = 20 << 10;
/// What is expected of connections that come by a way only, in ns,
const WAY_LATENCY_NS: u32 = 1_000_000;
/// and in bytes per second.
const WAY_BANDWIDTH: u64 = 4 << 20;
/// How long a side that has given way waits for the other's call.
pub(crate) const CROSSING_NS: u64 = 5_000_000_000;

/// The TCP rail.
#[derive(Debug)]
pub struct TcpRail {
    name: &'static str,
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
    pub(crate) relisten: Relisten,
    pub(crate) visitors: HashMap<u32, Visitor>,
    pub(crate) next_visitor: u32,
    pub(crate) pulses: Pulses,
    pub(crate) paths: PathTable,
    pub(crate) stalls: Stalls,
    pub(crate) watcher: Watcher,
    ready: Vec<Watched>,
    /// Connections to be looked at in the next round, of which no watch may tell.
    noted: Vec<u32>,
    alarm: Alarm,
    scratch: Box<[u8]>,
    pub(crate) courier: Courier,
    /// Leads to peers that are not called by their addresses.
    pub(crate) way: Option<Arc<dyn Way>>,
    pub(crate) adopter: Option<Adopter>,
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
    pub fn open(config: TcpConfig) -> Result<TcpRail, Refusal> {
        TcpRail::open_as("tcp", config)
    }

    /// The same by another name: for whoever has another rail of this kind.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(name: &'static str, mut config: TcpConfig) -> Result<TcpRail, Refusal> {
        let addresses = config.interfaces.addresses()?;
        config.interfaces.remember(&addresses);
        let is_alone = addresses.len() < 2 || config.interfaces.count() < 2;
        if is_alone && !matches!(config.multirail, Multirail::Alike(_)) {
            config.multirail = Multirail::Off;
        }
        let listeners = Listeners::open(&addresses, config.ports, &config.tuning)?;
        TcpRail::with(name, config, listeners)
    }

    /// Opens a rail of this name that listens nowhere and calls nobody by an address: all its connections come by `way`, and by the
    /// [`Adopter`] of its other side. Whoever has another rail of this kind can so tell the two apart, and move from one to the other.
    ///
    /// # Errors
    /// What the system does not allow.
    pub fn open_by(name: &'static str, way: Arc<dyn Way>, config: TcpConfig) -> Result<TcpRail, Refusal> {
        let config = TcpConfig { multirail: Multirail::Off, ..config };
        let mut rail = TcpRail::with(name, config, Listeners::default())?;
        rail.capabilities.latency_ns = WAY_LATENCY_NS;
        rail.capabilities.bandwidth = WAY_BANDWIDTH;
        rail.way = Some(way);
        Ok(rail)
    }

    fn with(name: &'static str, config: TcpConfig, listeners: Listeners) -> Result<TcpRail, Refusal> {
        let mut watcher = Watcher::open(config.engine, config.single_thread)?;
        for (place, socket) in listeners.sockets.iter().enumerate() {
            watcher.watch(socket, Watched::Listener(place as u32), READING)?;
        }
        watcher.submit();
        tracing::debug!(name, addresses = ?listeners.addresses, engine = watcher.name(), "rail open");
        let local = Address { network: listeners.addresses, ..config.local };
        Ok(TcpRail {
            name,
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
            relisten: Relisten::default(),
            visitors: HashMap::new(),
            next_visitor: 0,
            pulses: Pulses::default(),
            paths: PathTable::default(),
            stalls: Stalls::default(),
            watcher,
            ready: Vec::new(),
            noted: Vec::new(),
            alarm: Alarm::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            courier: Courier::default(),
            way: None,
            adopter: None,
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

    /// What watches the sockets on which little happens: `io_uring` or `epoll`; or receives from all: `io_uring_recv` or
    /// `io_uring_sqpoll`.
    pub fn engine(&self) -> &'static str {
        self.watcher.name()
    }

    /// Breaks the connection of a link, as a network does: what was not read here is lost.
    #[cfg(feature = "testing")]
    pub fn cut(&mut self, link: LinkId) {
        if let Some(conn) = self.sender(link.0) {
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

    /// Whether the ring receives what comes over a link.
    #[cfg(feature = "testing")]
    pub fn is_received(&mut self, link: LinkId) -> bool {
        self.conn(link.0).is_some_and(|conn| conn.source == Source::Ring)
    }

    /// The connection of a link that takes frames.
    pub(crate) fn sender(&mut self, index: u32) -> Option<&mut Conn> {
        match &mut self.links.get_mut(index as usize)?.state {
            State::Live(conn) => Some(conn),
            State::Unheard(unheard) => Some(&mut unheard.conn),
            _ => None,
        }
    }

    pub(crate) fn conn(&mut self, index: u32) -> Option<&mut Conn> {
        match &mut self.links.get_mut(index as usize)?.state {
            State::Live(conn) => Some(conn),
            _ => None,
        }
    }
}

impl Rail for TcpRail {
    fn name(&self) -> &'static str {
        self.name
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

    fn connect_unheard(
        &mut self,
        peer: PeerId,
        address: &Address,
        preface: Preface,
    ) -> Result<LinkId, Refusal> {
        let index = self.call(peer, address)?;
        if let Some(State::Calling(call)) = self.links.get_mut(index as usize).map(|link| &mut link.state) {
            call.go_unheard(preface);
        }
        Ok(LinkId(index))
    }

    #[inline]
    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(found) = self.links.get_mut(link.0 as usize) else { return Posted::Down };
        let State::Live(conn) = &mut found.state else {
            return match found.state {
                State::Calling(_) | State::Awaiting(_) => Posted::NoResource,
                State::Unheard(_) => self.post_unheard(link.0, frame),
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

    fn ahead_len(&mut self, link: LinkId) -> usize {
        let may = self.conn(link.0).is_some_and(|conn| conn.may_go_ahead());
        if may {
            MAX_SEGMENT
        } else {
            0
        }
    }

    fn post_ahead(&mut self, link: LinkId, announcement: &Frame<'_>, segment: &Frame<'_>) -> Posted {
        let Some(conn) = self.conn(link.0).filter(|conn| conn.may_go_ahead()) else {
            return Posted::NoResource;
        };
        let is_hot = conn.is_hot;
        let Outcome { posted, waits } = conn.post_ahead(announcement, segment);
        let changes = waits != conn.is_dirty || conn.is_broken();
        if !is_hot {
            self.stalls.want_look();
        }
        if changes {
            self.note_sent(link.0);
        }
        posted
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
        if !self.ready.is_empty() || !self.noted.is_empty() || !self.watcher.is_quiet(!self.hot.is_empty()) {
            taken += self.look(sink);
        }
        if !self.ended.is_empty() {
            self.finish_ended(sink);
        }
        taken
    }

    fn poll_link<S: Sink>(&mut self, link: LinkId, _budget: usize, sink: &mut S) -> usize {
        // Not a round: whoever listens in the middle of what it sends is not done.
        let taken = match self.conn(link.0).is_some_and(|conn| conn.source != Source::Calls) {
            false => self.receive(link.0, sink),
            true => self.look(sink),
        };
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
                let is_wide = found.paths().is_some_and(Paths::is_wide);
                let moved = is_wide.then(|| stream.moved()).flatten();
                let tried = found.whole().map_or(Vec::new(), |whole| whole.tried.clone());
                Path { tried, moved, ..stream.path() }
            }
            State::Calling(call) => call.path(),
            State::Unheard(unheard) => unheard.conn.line.stream.path(),
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
        self.break_off(link.0);
    }

    fn silent_ns(&self, link: LinkId) -> u64 {
        let whole = self.links.get(link.0 as usize).and_then(Link::whole);
        whole.map_or(0, |whole| whole.silent_ns)
    }

    fn arm(&mut self) -> Armed {
        self.fall_asleep()
    }

    fn disarm(&mut self) {
        self.is_armed = false;
    }

    fn is_armed(&self) -> bool {
        // Of what is noted no watch may tell.
        self.is_armed && self.noted.is_empty()
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
        self.hang_up(link.0);
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
