//! The rail: all links of one fabric on one host.

mod polling;
mod room;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::loan::LoanMemory;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{
    Armed, Capabilities, Lent, LinkId, Offered, PeerId, Posted, Rail, Refusal, RemoteSource, Sink,
};
use gridnet_core::region::{RemoteKey, Window};
use gridnet_core::ring::bell::Bell;
use gridnet_core::ring::lane::Lane;
use gridnet_core::ring::slot::{Lookout, BODY_BYTES};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming, Kind, NodeId};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::arena::{Arena, MAX_STAGING};
use crate::barrier;
use crate::called::Awaited;
use crate::config::{ShmConfig, SingleCopy};
use crate::cpu::core_stamp;
use crate::early::Early;
use crate::exposure::{self, Exposures};
use crate::foreign::{Foreign, Pair};
use crate::heap::OwnHeap;
use crate::layout::Header;
use crate::leftovers::Leftovers;
use crate::link::{Live, Read, MAX_EAGER};
use crate::loans::LoanSpace;
use crate::poller::{Poller, Watched};
use crate::process::{Process, Reach, Way};
use crate::remote::OwnRecord;
use crate::repeat::Repeat;
use crate::rundir::RunDir;
use crate::segment::OwnSegment;
use crate::socket;
use crate::users::Users;
use crate::vigil::Vigil;
use polling::{HOT_LINKS, ROUNDS_PER_SWEEP};

/// How long a connection may take to say who it is.
pub(crate) const GREETING_NS: u64 = 5_000_000_000;

/// A link, from the first packet on.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeId,
    /// Position of the own block in lines, in the segment of the fabric or that of the pair.
    pub(crate) block: u32,
    pub(crate) socket: Option<OwnedFd>,
    /// `None` until the peer's handshake has come, and after the end.
    pub(crate) live: Option<Live>,
    /// The link has broken, while the peer lives: what the peer may not have got.
    pub(crate) kept: Option<Box<Live>>,
    /// Where loans are still read of a peer that has gone.
    pub(crate) read: Option<Read>,
    /// The last frame found no room.
    pub(crate) wants_room: bool,
    pub(crate) over: bool,
    /// Whether the memory of the peer's process is within reach.
    pub(crate) reach: Reach,
    /// For a peer of another user. Dropped after `live`, whose rings lie in its segment.
    pub(crate) pair: Option<Box<Pair>>,
}

impl Link {
    /// Copies from the peer's memory, if it is and stays the peer's to give.
    fn copy_from_peer(&mut self, from: RemoteSource, to: &Gather<'_>) -> Result<(), Error> {
        let Some(pid) = self.reach() else { return Err(Error::Unsupported) };
        let Some(live) = &self.live else { return Err(Error::Unsupported) };
        if exposure::is_current(live.segment(), from.rkey) != Some(true) {
            return Err(Error::NotFound);
        }
        kill_point!("rendezvous.copy.before");
        let copied = Process::new(pid, live.segment().header()).read(from.address, to);
        kill_point!("rendezvous.copy.after");
        match copied {
            Ok(()) if exposure::is_current(live.segment(), from.rkey) == Some(true) => Ok(()),
            Ok(()) => Err(Error::NotFound),
            Err(error) => {
                self.give_up_reach(error);
                Err(error)
            }
        }
    }
}

/// The shared-memory rail.
#[derive(Debug)]
pub struct ShmRail {
    pub(crate) config: ShmConfig,
    capabilities: Capabilities,
    pub(crate) dir: RunDir,
    // Declared before the arena, and so dropped before it: the links' rings lie in its segment.
    pub(crate) links: Vec<Link>,
    pub(crate) by_node: HashMap<NodeId, u32>,
    pub(crate) hot: Vec<u32>,
    pub(crate) cold: Vec<u32>,
    /// Where the next frame of each cold link will be.
    lookouts: Vec<Lookout>,
    /// Rounds of polling, modulo 2^32.
    round: u32,
    cold_next: usize,
    hot_next: usize,
    pub(crate) arena: Arena,
    pub(crate) loans: LoanSpace,
    /// Memory that peers may still read which were cut off.
    pub(crate) leftovers: Leftovers,
    bell: Bell,
    pub(crate) bell_file: OwnedFd,
    /// See [`socket::doorbell_kind`].
    pub(crate) doorbell_kind: Option<(u64, u64)>,
    pub(crate) vigil: Vigil,
    pub(crate) listener: OwnedFd,
    pub(crate) users: Users,
    /// Where other users call, if any may.
    pub(crate) foreign: Option<Foreign>,
    /// Links to other users that are not over.
    pub(crate) pairs: usize,
    pub(crate) poller: Poller,
    /// Connections that have not said yet who they are, or that they call.
    pub(crate) greetings: Vec<Option<Awaited>>,
    /// Connections to those that may be called soon.
    pub(crate) early: Vec<Early>,
    /// Links that we have called and that have not answered.
    pub(crate) calls: usize,
    /// Those of them that had a link before.
    pub(crate) repeats: Vec<Repeat>,
    /// When the listener is watched again, after descriptors had run out.
    pub(crate) listen_again: Option<Time>,
    pub(crate) registered: bool,
    pub(crate) has_barrier: bool,
    /// Core stamp of the frame that came last.
    last_core: u16,
    /// Memory that peers may fetch.
    pub(crate) exposures: Exposures,
    /// Broken and ended links in whose segments loans are read.
    pub(crate) read_on: Vec<u32>,
    /// Links whose peers broke the protocol in this round, and those that are to be cut.
    pub(crate) broken: Vec<(u32, Refusal)>,
    pub(crate) rung_by_ended: u64,
    /// Memory for regions, from the first allocation on.
    pub(crate) heap: Option<OwnHeap>,
    /// Records of own regions, by number.
    pub(crate) records: HashMap<u64, OwnRecord>,
    /// The process that opened the rail.
    pub(crate) process: u32,
    /// Whose cuts are to be made, and how many were seen.
    #[cfg(feature = "testing")]
    pub(crate) shears: Option<(crate::testing::Shears, u64)>,
}

impl ShmRail {
    /// Opens the rail: makes the segment, and listens.
    ///
    /// # Errors
    /// What the system or the configuration does not allow.
    pub fn open(config: ShmConfig) -> Result<ShmRail, Refusal> {
        let base = config.run_dir.clone().unwrap_or_else(RunDir::default_base);
        let dir = RunDir::open(&base, config.local.host)?;
        let header = Header::new(config.segment_size, *config.local.node.bytes(), config.local.incarnation);
        let segment = OwnSegment::create(config.segment_size, &header, config.huge_pages)?;
        let bell_file = new_bell()?;
        let listener = socket::listen_at(&dir.socket_of(config.local.node))?;
        let vigil = Vigil::new()?;
        let poller = watch_all(&listener, &bell_file, &vigil)?;
        let users = Users::new(config.allow_uids.clone());
        let foreign = if users.has_others() { Some(Foreign::open(&config.local, &poller)?) } else { None };
        let registered = barrier::register();
        let rail = ShmRail {
            capabilities: capabilities(config.single_copy),
            arena: Arena::new(segment, config.ring_slots),
            loans: LoanSpace::default(),
            leftovers: Leftovers::default(),
            links: Vec::new(),
            by_node: HashMap::new(),
            hot: Vec::with_capacity(HOT_LINKS),
            cold: Vec::new(),
            lookouts: Vec::new(),
            round: 0,
            cold_next: 0,
            hot_next: 0,
            bell: Bell::default(),
            doorbell_kind: socket::doorbell_kind(&bell_file),
            bell_file,
            vigil,
            listener,
            users,
            foreign,
            pairs: 0,
            poller,
            greetings: Vec::new(),
            early: Vec::new(),
            calls: 0,
            repeats: Vec::new(),
            listen_again: None,
            registered,
            has_barrier: registered && barrier::run(),
            last_core: 0,
            exposures: Exposures::default(),
            read_on: Vec::new(),
            broken: Vec::new(),
            rung_by_ended: 0,
            heap: None,
            records: HashMap::new(),
            process: std::process::id(),
            #[cfg(feature = "testing")]
            shears: None,
            dir,
            config,
        };
        // A refused name drops the rail, which takes its socket away.
        if let Some(name) = &rail.config.name {
            rail.dir.register(name, &rail.config.local)?;
            kill_point!("open.named");
        }
        Ok(rail)
    }

    /// The run directory, to look names up.
    pub fn run_dir(&self) -> &RunDir {
        &self.dir
    }

    pub(crate) fn needs_barrier(&self) -> bool {
        self.has_barrier && self.live().any(Live::is_peer_unfenced)
    }
}

impl Rail for ShmRail {
    fn name(&self) -> &'static str {
        "shm"
    }

    #[inline]
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// A quarter of the message, so that both copies run at once, but neither so small that the hand-over costs more
    /// than the copy, nor so large that eight of them leave the second-level cache.
    #[inline]
    fn segment_len(&self, total: u64) -> usize {
        if total >= 4 << 20 {
            return MAX_STAGING;
        }
        (total as usize / 4).clamp(8 << 10, 64 << 10)
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        self.call(peer, address).map(LinkId)
    }

    fn foresee(&mut self, node: NodeId) {
        self.connect_early(node);
    }

    #[inline(always)]
    fn post_message(&mut self, link: LinkId, tag: u64, message: &Iov) -> Posted {
        if message.len() <= BODY_BYTES {
            if let Some(live) = self.links.get_mut(link.0 as usize).and_then(|link| link.live.as_mut()) {
                if live.post_small(tag, message) {
                    return Posted::Done;
                }
            }
        }
        self.post(link, &Frame::eager(tag, Gather::one(message)))
    }

    #[inline(always)]
    fn post_loan(&mut self, link: LinkId, tag: u64, words: [u64; 3]) -> Posted {
        if let Some(live) = self.links.get_mut(link.0 as usize).and_then(|link| link.live.as_mut()) {
            if live.post_loan(tag, words) {
                return Posted::Done;
            }
        }
        let [loan, position, len] = words;
        self.post(link, &Frame::loan(tag, loan, position, len))
    }

    #[inline(never)]
    fn post(&mut self, link_id: LinkId, frame: &Frame<'_>) -> Posted {
        let Some(link) = self.links.get_mut(link_id.0 as usize) else {
            return Posted::Down;
        };
        let Some(live) = &mut link.live else {
            return if link.over || link.kept.is_some() { Posted::Down } else { Posted::NoResource };
        };
        if matches!(frame.kind, Kind::Rtr | Kind::Fin) && link.reach != Reach::No {
            live.choice.watch(frame);
        }
        if let Some(pair) = &mut link.pair {
            let posted = live.post_in_pair(&mut pair.arena, self.config.link_window, frame);
            link.wants_room = posted == Posted::NoResource;
            return posted;
        }
        let mut posted = live.post(&mut self.arena, self.config.link_window, frame);
        if posted == Posted::NoResource && self.arena.shortage().is_some() {
            posted = self.post_with_what_others_have(link_id, frame);
        }
        let Some(link) = self.links.get_mut(link_id.0 as usize) else { return Posted::Down };
        let Some(live) = &mut link.live else { return Posted::Down };
        link.wants_room = posted == Posted::NoResource;
        if link.wants_room {
            live.note_refusal();
        }
        posted
    }

    #[inline]
    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        #[cfg(feature = "testing")]
        self.look_at_shears();
        let mut taken = 0;
        for at in 0..self.hot.len() {
            taken += self.deliver(self.hot[at], budget, sink);
        }
        self.round = self.round.wrapping_add(1);
        if self.hot.is_empty() || self.round.is_multiple_of(ROUNDS_PER_SWEEP) {
            taken += self.sweep(budget, sink);
        }
        if !self.broken.is_empty() {
            self.cut_broken(sink);
        }
        taken
    }

    fn favourite(&self) -> Option<&Arc<Lane>> {
        match self.hot[..] {
            [only] => Some(self.links.get(only as usize)?.live.as_ref()?.lane()),
            _ => None,
        }
    }

    fn poll_link<S: Sink>(&mut self, link: LinkId, budget: usize, sink: &mut S) -> usize {
        self.stamp(link.0);
        let taken = self.deliver(link.0, budget, sink);
        if !self.broken.is_empty() {
            self.cut_broken(sink);
        }
        taken
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        let mut happened = 0;
        if self.listen_again.is_some_and(|at| now >= at) {
            self.listen_again = None;
            happened += usize::from(self.poller.watch(&self.listener, Watched::Listener).is_ok());
            if let Some(foreign) = &self.foreign {
                happened += usize::from(self.poller.watch(&foreign.listener, Watched::Foreign).is_ok());
            }
        }
        for what in self.poller.ready() {
            happened += 1;
            match what {
                Watched::Bell => {}
                Watched::Listener => self.accept_all(now, sink),
                Watched::Foreign => self.accept_foreign(now, sink),
                Watched::Greeting(place) => self.greet(place, sink),
                Watched::Socket(index) => self.hear(index, sink),
                Watched::Leftovers => self.look_at_leftovers(),
                Watched::Clock => {
                    self.bury_dead(sink);
                    self.look_at_leftovers();
                }
            }
        }
        self.drop_silent(now);
        self.end_early(now);
        happened += self.end_late_calls(now, sink);
        self.cool_silent();
        self.stamp_hot();
        self.find_corrupt();
        if !self.broken.is_empty() {
            self.cut_broken(sink);
        }
        happened
    }

    fn deadline(&self) -> Option<Time> {
        let greetings = self.greetings.iter().flatten().map(|one| one.since.after(GREETING_NS));
        let repeats = self.repeats.iter().map(Repeat::deadline);
        let early = self.early.iter().map(Early::deadline);
        greetings.chain(repeats).chain(early).chain(self.listen_again).min()
    }

    #[inline]
    fn is_connecting(&self) -> bool {
        self.calls > 0 || !self.greetings.is_empty()
    }

    fn allocate(&mut self, len: usize, numa_node: u32) -> Option<Result<Lent, Refusal>> {
        Some(self.allocate_region(len, numa_node))
    }

    fn free(&mut self, token: u64) {
        if let Some(heap) = &mut self.heap {
            heap.free(token);
        }
    }

    fn offer(&mut self, region: &Offered) -> Result<u64, Refusal> {
        self.enter_record(region)
    }

    fn withdraw(&mut self, number: u64, _record: u64) -> bool {
        self.end_record(number)
    }

    fn window(&mut self, link: LinkId, key: &RemoteKey) -> Option<Window> {
        self.open_window(link.0, key)
    }

    fn copy_to(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        from: &Iov,
    ) -> Option<Result<(), Error>> {
        self.copy(link.0, key, offset, Way::Out, from)
    }

    fn copy_from(
        &mut self,
        link: LinkId,
        key: &RemoteKey,
        offset: u64,
        to: &Iov,
    ) -> Option<Result<(), Error>> {
        self.copy(link.0, key, offset, Way::In, to)
    }

    fn expose(&mut self, link: LinkId, memory: &Gather<'_>) -> Option<RemoteSource> {
        if self.links.get(link.0 as usize)?.pair.is_some() {
            return None;
        }
        let mut pieces = memory.pieces();
        let (base, _) = pieces.next()?;
        if pieces.next().is_some() {
            return None;
        }
        self.exposures.begin(&mut self.arena, base as usize as u64)
    }

    fn conceal(&mut self, _link: LinkId, source: RemoteSource) {
        self.exposures.end(&self.arena, source.rkey);
    }

    fn prefers_get(&mut self, link: LinkId, len: u64) -> bool {
        let always = self.config.single_copy == SingleCopy::Always;
        let live = self.links.get_mut(link.0 as usize).and_then(|link| link.live.as_mut());
        live.is_some_and(|live| live.choice.is_single(usize::try_from(len).unwrap_or(usize::MAX)) || always)
    }

    fn pulls(&self, link: LinkId) -> bool {
        let link =
            self.links.get(link.0 as usize).filter(|link| link.reach != Reach::No && link.pair.is_none());
        link.and_then(|link| link.live.as_ref()).is_some_and(|live| live.knows_pulls)
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        let Some(link) = self.links.get_mut(link.0 as usize) else { return Posted::Down };
        let Some(live) = &mut link.live else { return Posted::Down };
        if link.reach == Reach::No {
            return Posted::Failed(Error::Unsupported);
        }
        let began = live.choice.is_timed(to.len()).then(Instant::now);
        match link.copy_from_peer(from, to) {
            Ok(()) => {
                if let (Some(began), Some(live)) = (began, &mut link.live) {
                    live.choice.single_done(to.len(), began);
                }
                Posted::Done
            }
            Err(error) => Posted::Failed(error),
        }
    }

    fn lend(&mut self, len: usize) -> Result<LoanMemory, Error> {
        self.loans.take(self.arena.segment_mut(), len)
    }

    fn take_back(&mut self, memory: LoanMemory) {
        self.loans.give_back(self.arena.segment_mut(), &memory);
    }

    #[inline]
    fn release_loan(&mut self, link: LinkId) {
        let Some(link) = self.links.get_mut(link.0 as usize) else { return };
        match (link.live.as_mut().or(link.kept.as_deref_mut()), &mut link.read) {
            (Some(live), _) => live.release_loan(),
            (None, read) => drop(read.take_if(|read| !read.release())),
        }
    }

    fn delivered(&self, link: LinkId) -> u64 {
        let link = self.links.get(link.0 as usize);
        link.and_then(|link| link.live.as_ref().or(link.kept.as_deref())).map_or(0, Live::delivered)
    }

    fn retained(
        &mut self,
        link: LinkId,
        after: u64,
        each: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Error> {
        let link = self.links.get_mut(link.0 as usize).ok_or(Error::NotFound)?;
        let arena = link.pair.as_deref().map_or(&self.arena, |pair| &pair.arena);
        link.kept.as_mut().ok_or(Error::Invalid)?.retained(arena, after, each)
    }

    fn fence(&mut self, link: LinkId) {
        self.fence_link(link.0, "the messages move to another rail");
    }

    fn arm(&mut self) -> Armed {
        self.bell.arm(self.arena.segment().arming());
        self.show_arming();
        // A barrier that fails (forbidden since it was tried at opening) leaves the peers unordered: no sleep is safe then.
        let ordered = !self.needs_barrier() || barrier::run();
        if !ordered || self.has_news() {
            self.disarm();
            return Armed::Busy;
        }
        Armed::Yes
    }

    fn disarm(&mut self) {
        self.bell.disarm(self.arena.segment().arming());
        self.stamp_hot();
        self.show_arming();
    }

    fn wait_handle(&self) -> Option<i32> {
        Some(self.poller.descriptor())
    }

    #[inline]
    fn is_peer_on_this_core(&self) -> bool {
        let last = match self.favourite() {
            // SAFETY: whoever has the rail is alone with the fabric.
            Some(lane) => unsafe { lane.ends() }.peer_core,
            None => self.last_core,
        };
        last != 0 && last == core_stamp()
    }

    fn wakeups_sent(&self) -> u64 {
        self.rung_by_ended + self.live().map(Live::rung).sum::<u64>()
    }

    fn process(&self, link: LinkId) -> Option<u32> {
        let pid = socket::peer_pid(self.links.get(link.0 as usize)?.socket.as_ref()?);
        u32::try_from(pid).ok().filter(|pid| *pid != 0)
    }

    fn disconnect(&mut self, link: LinkId) {
        self.release(link.0);
    }
}

/// What is watched of a rail without links.
fn watch_all(listener: &OwnedFd, bell: &OwnedFd, vigil: &Vigil) -> Result<Poller, Refusal> {
    let poller = Poller::new()?;
    poller.watch(listener, Watched::Listener)?;
    poller.watch(bell, Watched::Bell)?;
    poller.watch(vigil.clock(), Watched::Clock)?;
    Ok(poller)
}

fn new_bell() -> Result<OwnedFd, Refusal> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    Ok(bell.map_err(|e| Refusal::new(Error::System, format!("eventfd: {}", e.desc())))?.into())
}

/// Latency and bandwidth as measured between near cores; the rest is how the link is built.
fn capabilities(single_copy: SingleCopy) -> Capabilities {
    let mut capabilities = Capabilities::minimal();
    capabilities.max_inline = BODY_BYTES;
    capabilities.max_eager = MAX_EAGER;
    capabilities.max_segment = MAX_STAGING;
    capabilities.max_iov = usize::MAX;
    capabilities.get = single_copy != SingleCopy::Never;
    capabilities.retains = true;
    capabilities.proves = true;
    capabilities.latency_ns = 65;
    capabilities.bandwidth = 40_000_000_000;
    capabilities.copies = 2;
    capabilities.put = true;
    capabilities.atomics = true;
    capabilities.loans = true;
    capabilities
}
