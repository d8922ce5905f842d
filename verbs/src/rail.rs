//! The rail: all links of one fabric over one device.
//!
//! | file | concept |
//! |---|---|
//! | `link.rs` | a link, and how far it is |
//! | `greet.rs` | who gets a link: calls of this side, and of others |
//! | `ends.rs` | how links end, and the rail |

mod ends;
mod greet;
mod link;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::mem::Gather;
use gridnet_core::rail::{
    Armed, Capabilities, LinkId, Path, PeerId, Posted, Rail, Refusal, RemoteSource, Sink,
};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming, NetAddresses, NodeId};
use gridnet_rdma_sim::number::ByNumber;

use crate::call::Side;
use crate::config::{Ports, Security, VerbsConfig};
use crate::conn::{Ended, MAX_PAYLOAD};
use crate::device::{Device, Failure, QpNum, Status, Wc};
use crate::visitor::Visitor;
use crate::watch::{Watched, Watcher};
use link::{Link, State};

/// Longest payload of a frame that carries a whole message: that of the rail tcp, so that what went whole over one goes whole over
/// the other.
const MAX_EAGER: usize = 8 << 10;
/// Most bytes that are fetched in one go: for so long others wait on the link, some hundred microseconds.
const MAX_GET: usize = 512 << 10;
/// Completions that are taken in one go.
const COMPLETIONS: usize = 64;
/// Rounds in which what a device still holds is looked for, before a link ends.
const LAST_ROUNDS: usize = 64;

/// The rail over verbs.
#[derive(Debug)]
pub struct VerbsRail {
    local: Address,
    security: Security,
    keep_alive: Option<Duration>,
    retains: bool,
    from: IpAddr,
    ports: Option<Ports>,
    capabilities: Capabilities,
    device: Box<dyn Device>,
    links: Vec<Link>,
    /// Links that are neither broken nor over.
    by_node: HashMap<NodeId, u32>,
    by_qp: ByNumber<QpNum, u32>,
    /// Nodes whose device did not answer the last call of this side, though their host did.
    deaf: HashSet<NodeId>,
    /// Links with a bound in time: that are being made, or come to their end.
    timed: Vec<u32>,
    /// Links that have come to an end in this round.
    ended: Vec<(u32, Ended)>,
    listener: TcpListener,
    visitors: HashMap<u32, Visitor>,
    next_visitor: u32,
    watcher: Watcher,
    /// The listener is left alone until then, as it could not accept; 0 before the first look at the clock.
    rests_until: Option<Time>,
    /// Completions that were taken from the device and not looked at.
    completions: Vec<Wc>,
    /// Number of fetches of this side.
    fetches: u64,
    /// Number of calls of this side.
    generation: u32,
    /// The last look at the clock of the engine, and when that was.
    looked: (Time, Instant),
    /// The process that opened the rail.
    process: u32,
}

impl VerbsRail {
    /// Opens the rail: listens.
    ///
    /// # Errors
    /// What the system does not allow.
    pub fn open(config: VerbsConfig) -> Result<VerbsRail, Refusal> {
        let listener = greet::listen(config.listen, config.ports)?;
        let at = listener.local_addr().map_err(|e| Refusal::new(Error::System, e.to_string()))?;
        let watcher = Watcher::open()?;
        watcher.watch(&listener, Watched::Listener, false)?;
        if let Some(descriptor) = config.device.descriptor() {
            watcher.watch_device(descriptor)?;
        }
        let network = NetAddresses::new(at.port(), [at.ip()]);
        tracing::debug!(address = %at, device = config.device.name(), gid = %config.device.gid(), "rail open");
        Ok(VerbsRail {
            local: Address { network, ..config.local },
            security: config.security,
            keep_alive: config.keep_alive,
            retains: config.retains,
            from: config.listen,
            ports: config.ports,
            capabilities: capabilities(config.retains, &*config.device),
            device: config.device,
            links: Vec::new(),
            by_node: HashMap::new(),
            by_qp: ByNumber::default(),
            deaf: HashSet::new(),
            timed: Vec::new(),
            ended: Vec::new(),
            listener,
            visitors: HashMap::new(),
            next_visitor: 0,
            watcher,
            rests_until: None,
            completions: Vec::with_capacity(COMPLETIONS),
            fetches: 0,
            generation: 0,
            looked: (Time(0), Instant::now()),
            process: std::process::id(),
        })
    }

    /// Where peers call.
    pub fn listens_at(&self) -> NetAddresses {
        self.local.network
    }

    /// What the device is called, and its GID.
    pub fn device(&self) -> (String, SocketAddr) {
        (self.device.name(), self.device.gid())
    }

    /// Breaks the queue pair of a link, as a network does: its device fails, and what was not taken here is lost.
    #[cfg(feature = "testing")]
    pub fn break_pair(&mut self, node: NodeId) {
        if let Some(State::Live(conn)) =
            self.by_node.get(&node).and_then(|i| self.links.get(*i as usize)).map(|link| &link.state)
        {
            self.device.fail_qp(conn.qp);
        }
    }

    /// How often this side has asked its device to fetch.
    #[cfg(feature = "testing")]
    pub fn fetches(&self) -> u64 {
        self.fetches
    }

    /// Fetches of this side that have begun and not ended.
    #[cfg(feature = "testing")]
    pub fn fetches_under_way(&self) -> usize {
        let of = |link: &Link| match &link.state {
            State::Live(conn) => conn.reach.under_way(),
            _ => 0,
        };
        self.links.iter().map(of).sum()
    }

    /// Ends the connection beside a link.
    #[cfg(feature = "testing")]
    pub fn cut_wire(&mut self, node: NodeId) {
        if let Some(State::Live(conn)) =
            self.by_node.get(&node).and_then(|i| self.links.get(*i as usize)).map(|link| &link.state)
        {
            conn.wire.end();
        }
    }

    fn side(&self) -> Side<'_> {
        Side { local: &self.local, security: &self.security }
    }

    fn state(&mut self, index: u32) -> Option<&mut State> {
        self.links.get_mut(index as usize).map(|link| &mut link.state)
    }

    /// Lets the device work, and takes what it has completed; how many frames were delivered.
    fn look<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        let mut frames = 0;
        let mut completions = std::mem::take(&mut self.completions);
        let mut polled = self.device.progress_and_poll(&mut completions);
        loop {
            if polled.is_err() {
                self.lose_all();
            }
            let count = completions.len();
            frames += completions.drain(..).map(|wc| self.complete(&wc, sink)).sum::<usize>();
            if count < COMPLETIONS || frames >= budget {
                break;
            }
            polled = self.device.poll_cq(&mut completions);
        }
        self.completions = completions;
        frames
    }

    fn complete<S: Sink>(&mut self, wc: &Wc, sink: &mut S) -> usize {
        let Some(&index) = self.by_qp.get(&wc.qp) else { return 0 };
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let peer = link.peer;
        match &link.state {
            State::Calling(_) => {
                self.complete_call(index, wc, sink);
                return 0;
            }
            // The peer sends more than its first message: it is ready, whatever way that takes to be told.
            State::Settling(conn) if wc.status == Status::Success && conn.taken() > 0 => {
                self.establish(index, sink)
            }
            _ => {}
        }
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let is_other = !link.state.is_for(wc.qp);
        match &mut link.state {
            State::Live(conn) if conn.reach.reader() == Some(wc.qp) => {
                let taken = conn.reach.take(&mut *self.device, wc);
                if conn.reach.reader().is_none() {
                    self.by_qp.remove(&wc.qp);
                }
                match taken {
                    Ok(all) => {
                        all.into_iter().map(|(token, outcome)| sink.fetched(peer, token, outcome)).count()
                    }
                    Err(ended) => {
                        self.end(index, ended);
                        0
                    }
                }
            }
            // Of a queue pair that is gone, or for reads of which nobody wants to know any more.
            State::Settling(_) | State::Live(_) | State::Leaving(_) if is_other => 0,
            // Of one that is being made, the message that shows whether others come through, or its end.
            State::Settling(conn) | State::Live(conn) => match conn.take(&mut *self.device, wc, peer, sink) {
                Ok(frames) => {
                    self.end_after_last(index);
                    frames
                }
                Err(ended) => {
                    self.end(index, ended);
                    0
                }
            },
            State::Leaving(conn) => {
                if conn.wind_up(wc) {
                    self.leave(index);
                }
                0
            }
            _ => 0,
        }
    }

    /// The device has lost completions: nothing is known of any link any more.
    fn lose_all(&mut self) {
        tracing::error!("the device has lost completions, and with them all links");
        let all: Vec<u32> = self.by_qp.values().copied().collect();
        all.into_iter().for_each(|index| self.end(index, Ended::failed("the device has lost completions")));
    }

    fn end(&mut self, index: u32, ended: Ended) {
        // What comes first says why.
        if !self.ended.iter().any(|(i, _)| *i == index) {
            self.ended.push((index, ended));
        }
        self.forget_pairs(index);
    }

    /// What the queue pairs of this link still have completed is nothing to whatever takes its place.
    fn forget_pairs(&mut self, index: u32) {
        self.by_qp.retain(|_, i| *i != index);
    }

    /// When the device has to work though nothing comes.
    fn next_work(&self) -> Option<Time> {
        if self.by_qp.is_empty() {
            return None;
        }
        let (time, at) = self.looked;
        let after = at.elapsed() + self.device.next_work()?;
        Some(time.after(after.as_nanos() as u64))
    }
}

impl Rail for VerbsRail {
    fn name(&self) -> &'static str {
        "verbs"
    }

    #[inline]
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        self.call(peer, address).map(LinkId)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        match self.links.get_mut(link.0 as usize).map(|link| &mut link.state) {
            Some(State::Live(conn)) => conn.post(&mut *self.device, frame),
            Some(State::Calling(_) | State::Awaiting | State::Settling(_)) => Posted::NoResource,
            _ => Posted::Down,
        }
    }

    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        if self.by_qp.is_empty() {
            return 0;
        }
        let frames = self.look(budget, sink);
        if !self.ended.is_empty() {
            self.finish_ended(sink);
        }
        frames
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        self.looked = (now, Instant::now());
        let mut happened = 0;
        for what in self.watcher.ready() {
            happened += match what {
                Watched::Listener => self.accept_all(sink),
                // Nobody else does where no link is there to be polled, and a sleeper would be woken for ever.
                Watched::Device => {
                    self.device.progress();
                    0
                }
                Watched::Link(index) => self.hear(index, sink),
                Watched::Visitor(number) => self.attend(number, sink),
            };
        }
        happened += self.check_times(now, sink);
        self.finish_ended(sink);
        happened
    }

    fn deadline(&self) -> Option<Time> {
        self.next_time().into_iter().chain(self.next_work()).min()
    }

    fn is_connecting(&self) -> bool {
        !self.timed.is_empty() || !self.visitors.is_empty()
    }

    fn path(&self, link: LinkId) -> Path {
        let at = |at: Option<SocketAddr>| at.map(|at| at.to_string());
        match self.links.get(link.0 as usize).map(|link| &link.state) {
            Some(State::Live(conn)) => Path {
                local: Some(self.device.gid().to_string()),
                remote: at(conn.remote()),
                security: Some("plain, neither sealed nor signed"),
                ..Path::default()
            },
            Some(State::Calling(call)) => Path { remote: at(Some(call.to())), ..Path::default() },
            _ => Path::default(),
        }
    }

    fn expose(&mut self, link: LinkId, memory: &Gather<'_>) -> Option<RemoteSource> {
        // What is one segment, or little more, goes as such: a read costs as much as its announcement.
        if memory.len() <= MAX_PAYLOAD {
            return None;
        }
        match self.links.get_mut(link.0 as usize).map(|link| &mut link.state) {
            Some(State::Live(conn)) => conn.reach.expose(&mut *self.device, memory),
            _ => None,
        }
    }

    fn conceal(&mut self, link: LinkId, source: RemoteSource) {
        if let Some(State::Live(conn)) = self.state(link.0) {
            conn.reach.conceal(source);
        }
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        if to.is_empty() {
            // The memory of a receive that nobody waits for any more.
            return Posted::Done;
        }
        let Some(State::Live(conn)) = self.links.get_mut(link.0 as usize).map(|link| &mut link.state) else {
            return Posted::Down;
        };
        self.fetches += 1;
        match conn.reach.get(&mut *self.device, from, to, self.fetches) {
            Ok(()) => Posted::Accepted(self.fetches),
            Err(Failure::Full) => Posted::NoResource,
            // In pieces it goes, too.
            Err(_) => Posted::Failed(Error::Unsupported),
        }
    }

    fn abort_get(&mut self, link: LinkId, token: u64) {
        if let Some(State::Live(conn)) = self.state(link.0) {
            // The queue pair for reads fails when more comes.
            conn.reach.end(token);
        }
    }

    fn delivered(&self, link: LinkId) -> u64 {
        match self.links.get(link.0 as usize).map(|link| &link.state) {
            Some(State::Live(conn)) => conn.delivered(),
            Some(State::Broken(remains)) => remains.delivered,
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
            Some(State::Broken(remains)) => remains.retained(after, each),
            _ => Err(Error::Invalid),
        }
    }

    fn fence(&mut self, link: LinkId) {
        self.break_off(link.0);
    }

    fn silent_ns(&self, link: LinkId) -> u64 {
        self.links.get(link.0 as usize).map_or(0, |link| link.silent_ns)
    }

    fn arm(&mut self) -> Armed {
        if self.by_qp.is_empty() {
            return Armed::Yes;
        }
        // Who sleeps with packets that could come or leave is woken by nothing.
        if self.device.progress() > 0 || !self.device.arm() {
            return Armed::Busy;
        }
        // An error is noticed by the next poll.
        if self.completions.is_empty() {
            let _ = self.device.poll_cq(&mut self.completions);
        }
        if self.completions.is_empty() && self.ended.is_empty() {
            Armed::Yes
        } else {
            Armed::Busy
        }
    }

    fn disarm(&mut self) {}

    fn is_armed(&self) -> bool {
        self.by_qp.is_empty() || self.device.is_armed()
    }

    fn wait_handle(&self) -> Option<i32> {
        Some(self.watcher.descriptor())
    }

    fn disconnect(&mut self, link: LinkId) {
        self.hang_up(link.0);
    }
}

fn capabilities(retains: bool, device: &dyn Device) -> Capabilities {
    let (latency_ns, bandwidth) = device.cost();
    let mut capabilities = Capabilities::minimal();
    capabilities.max_eager = MAX_EAGER;
    capabilities.max_segment = MAX_PAYLOAD;
    capabilities.max_iov = 64;
    capabilities.retains = retains;
    capabilities.get = device.can_read();
    capabilities.max_get = MAX_GET;
    capabilities.latency_ns = latency_ns;
    capabilities.bandwidth = bandwidth;
    capabilities
}
