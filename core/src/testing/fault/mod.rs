//! A rail that fails as networks do, the same way each time.
//!
//! [`Faulty`] wraps any rail. What it does to a frame is decided when the frame is posted, by a [`FaultPlan`] and its
//! seed: two runs with the same frames in the same order fail alike.
//!
//! The protocol counts on frames that arrive once and in order. Over a rail that only delays, that has no room, hears nothing
//! for a while, or loses links over which it retains, it works as ever. Over one that drops, doubles or reorders, operations stay pending or the peer is cut off; wrong bytes are never
//! delivered as right ones of an announced message. Making such a rail reliable is the work of a layer that numbers
//! and repeats frames.
//!
//! What goes past frames is handed through as it is: windows over regions, lent memory, and places of segments. Lanes are not
//! handed on: their messages would lead past the faults.

mod fixture;
mod plan;
mod sink;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

pub use self::fixture::Faults;
pub use self::plan::{FaultCounters, FaultPlan};
use self::sink::FaultSink;
use super::random::Random;
use super::raw::RawFrame;
use crate::error::Error;
use crate::forward_rail;
use crate::mem::Gather;
use crate::rail::{Armed, Capabilities, LinkId, PathId, PeerId, Posted, Rail, Refusal, RemoteSource, Sink};
use crate::time::Time;
use crate::wire::{Address, Frame, NodeId, Preface};

/// Frames of one link that are held back at most; then there is no room.
const MAX_HELD: usize = 256;
/// Links from here on are calls that will have been refused; the rail inside has none of such numbers.
const FIRST_REFUSED: u32 = 1 << 31;

#[derive(Debug)]
struct HeldFrame {
    /// Number of the poll from which on it may go.
    due: u64,
    frame: RawFrame,
}

#[derive(Debug, Default)]
struct Line {
    /// In order, ahead of whatever is posted next.
    held: VecDeque<HeldFrame>,
    /// Waits to be overtaken.
    aside: Option<RawFrame>,
    peer: Option<PeerId>,
    node: Option<NodeId>,
    up: bool,
    /// The engine hears of it at the next poll, or has ended it itself.
    cut: bool,
}

impl Line {
    fn of(peer: PeerId, node: NodeId) -> Line {
        Line { peer: Some(peer), node: Some(node), ..Line::default() }
    }
}

/// The end of a link, of which the engine has not heard.
#[derive(Debug)]
struct End {
    peer: PeerId,
    link: LinkId,
    /// None for one that is to be made again.
    error: Option<Error>,
    why: &'static str,
}

/// A rail with faults.
#[derive(Debug)]
pub struct Faulty<R> {
    inner: R,
    capabilities: Capabilities,
    plan: FaultPlan,
    random: Random,
    counters: FaultCounters,
    /// In the order of their numbers, in which what is held is let go: the same in each run.
    lines: BTreeMap<LinkId, Line>,
    /// Held frames whose memory the inner rail still reads.
    lent: HashMap<(PeerId, u64), RawFrame>,
    /// Links that were cut or lost.
    ends: Vec<End>,
    /// Links that have broken below, and are over for the engine.
    given_up: Vec<LinkId>,
    /// Peers whose links were lost.
    lost: HashSet<PeerId>,
    polls: u64,
    /// Number of the poll from which on it hears again.
    deaf_until: u64,
}

impl<R: Rail> Faulty<R> {
    /// Wraps a rail.
    pub fn new(inner: R, plan: FaultPlan) -> Faulty<R> {
        let capabilities = plan.spoils(inner.capabilities());
        Faulty {
            inner,
            capabilities,
            plan: plan.within(&capabilities),
            random: Random::new(plan.seed),
            counters: FaultCounters::default(),
            lines: BTreeMap::new(),
            lent: HashMap::new(),
            ends: Vec::new(),
            given_up: Vec::new(),
            lost: HashSet::new(),
            polls: 0,
            deaf_until: 0,
        }
    }

    /// The rail inside.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Loses the link to a node, if there is one that is up. Only over rails that retain.
    pub fn lose_link_with(&mut self, node: NodeId) {
        let is_up = |line: &Line| line.node == Some(node) && line.up && !line.cut;
        let found = self.lines.iter().find(|(_, line)| is_up(line)).map(|(link, _)| *link);
        if let Some(link) = found.filter(|_| self.capabilities.retains) {
            self.lose(link);
        }
    }

    /// What it has done so far.
    pub fn counters(&self) -> FaultCounters {
        self.counters
    }

    fn hold(&mut self, link: LinkId, frame: RawFrame, polls: u32) {
        let due = self.polls + u64::from(polls);
        self.lines.entry(link).or_default().held.push_back(HeldFrame { due, frame });
    }

    /// Frames that go their way without being held: straight to the inner rail, unless others wait before them.
    fn pass(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let line = self.lines.entry(link).or_default();
        if !line.held.is_empty() {
            self.hold(link, RawFrame::of(frame), 0);
            return Posted::Done;
        }
        self.inner.post(link, frame)
    }

    /// Cuts a link: the engine hears of it at the next poll, the peer from the inner rail.
    fn cut(&mut self, link: LinkId) -> Posted {
        self.end(link, Some(Error::PeerGone), "the link was cut by the fault plan");
        self.counters.disconnected += 1;
        Posted::Down
    }

    /// Loses a link, as [`Self::cut`], which is to be made again.
    fn lose(&mut self, link: LinkId) -> Posted {
        self.end(link, None, "the link was lost by the fault plan");
        self.counters.lost += 1;
        self.inner.fence(link);
        Posted::Down
    }

    fn end(&mut self, link: LinkId, error: Option<Error>, why: &'static str) {
        let line = self.lines.entry(link).or_default();
        line.cut = true;
        line.held.clear();
        line.aside = None;
        self.ends.extend(line.peer.map(|peer| End { peer, link, error, why }));
    }

    fn is_cut(&self, link: LinkId) -> bool {
        self.lines.get(&link).is_some_and(|line| line.cut)
    }

    /// Throws the dice for a link over which something is posted.
    fn is_lost_now(&mut self, link: LinkId) -> bool {
        self.lines.get(&link).is_some_and(|line| line.up) && self.random.chance(self.plan.lose)
    }

    /// What is posted is not taken this time.
    fn has_no_room(&mut self) -> bool {
        let has_none = self.random.chance(self.plan.no_room);
        self.counters.no_room += u64::from(has_none);
        has_none
    }

    /// Throws the dice for the link over which something was heard last.
    fn lose_behind(&mut self, heard: Option<PeerId>) {
        let is_up = |line: &Line| heard.is_some() && line.peer == heard && line.up && !line.cut;
        let Some(link) = self.lines.iter().find(|(_, line)| is_up(line)).map(|(link, _)| *link) else {
            return;
        };
        if self.random.chance(self.plan.lose) {
            self.counters.lost_behind += 1;
            self.lose(link);
        }
    }

    fn is_deaf(&mut self) -> bool {
        if self.polls >= self.deaf_until && self.random.chance(self.plan.deaf) {
            self.deaf_until = self.polls + u64::from(self.plan.deaf_polls);
            self.counters.deaf += 1;
        }
        self.polls < self.deaf_until
    }

    /// Posts held frames whose time has come.
    fn release(&mut self) {
        for (link, line) in &mut self.lines {
            // Nobody came to overtake it.
            if line.held.is_empty() {
                line.held.extend(line.aside.take().map(|frame| HeldFrame { due: self.polls, frame }));
            }
            while let Some(first) = line.held.front_mut().filter(|held| held.due <= self.polls) {
                match first.frame.post(&mut self.inner, *link) {
                    Posted::NoResource => break,
                    Posted::Accepted(token) => {
                        let lent = line.held.pop_front().map(|held| held.frame);
                        self.lent.extend(line.peer.zip(lent).map(|(peer, frame)| ((peer, token), frame)));
                    }
                    Posted::Done | Posted::Down | Posted::Failed(_) => drop(line.held.pop_front()),
                }
            }
        }
    }

    fn sink<'a, S: Sink>(
        &'a mut self,
        sink: &'a mut S,
        heard: &'a mut Option<PeerId>,
    ) -> (&'a mut R, FaultSink<'a, S>) {
        let Faulty { inner, lines, lent, lost, given_up, capabilities, .. } = self;
        let retains = capabilities.retains;
        (inner, FaultSink { sink, lines, lent, lost, given_up, heard, retains })
    }

    fn report_ends<S: Sink>(&mut self, sink: &mut S) -> usize {
        let ends = std::mem::take(&mut self.ends);
        let reported = ends.len();
        for End { peer, link, error, why } in ends {
            self.lines.remove(&link);
            match error {
                Some(error) => {
                    self.leave(link);
                    sink.down(peer, link, Refusal::new(error, why));
                }
                None => {
                    self.lost.insert(peer);
                    sink.broken(peer, link, Refusal::new(Error::Unreachable, why));
                }
            }
        }
        reported
    }

    /// What has broken below is not called again, where nothing is retained here.
    fn leave_given_up(&mut self) {
        for link in std::mem::take(&mut self.given_up) {
            self.leave(link);
        }
    }

    fn leave(&mut self, link: LinkId) {
        if link.0 < FIRST_REFUSED {
            self.inner.disconnect(link);
        }
    }

    /// The engine ends a link itself: it hears nothing more of it.
    fn forget_end(&mut self, link: LinkId) {
        self.ends.retain(|end| end.link != link);
    }
}

/// Calls go to the rail inside.
macro_rules! each {
    ($self:ident, $rail:ident => $call:expr) => {
        match $self {
            Faulty { inner: $rail, .. } => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl<R: Rail> Rail for Faulty<R> {
    forward_rail!(each => beside short_ways);

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        let is_refused = self.lost.contains(&peer) && self.random.chance(self.plan.refuse);
        self.counters.refused += u64::from(is_refused);
        let why = "the call was refused by the fault plan";
        if is_refused && self.random.chance(0.5) {
            return Err(Refusal::new(Error::Unreachable, why));
        }
        if is_refused {
            let link = LinkId(FIRST_REFUSED + self.counters.refused as u32);
            self.lines.insert(link, Line::of(peer, address.node));
            self.end(link, Some(Error::Unreachable), why);
            return Ok(link);
        }
        let link = self.inner.connect(peer, address)?;
        self.lines.insert(link, Line::of(peer, address.node));
        Ok(link)
    }

    fn connect_unheard(&mut self, peer: PeerId, address: &Address, _: Preface) -> Result<LinkId, Refusal> {
        self.connect(peer, address)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let line = self.lines.entry(link).or_default();
        if line.cut {
            return Posted::Down;
        }
        if line.held.len() >= MAX_HELD {
            return Posted::NoResource;
        }
        if self.is_lost_now(link) {
            return self.lose(link);
        }
        if self.has_no_room() {
            return Posted::NoResource;
        }
        if self.plan.disconnect_after.is_some_and(|after| self.counters.frames >= after)
            && self.counters.disconnected == 0
        {
            return self.cut(link);
        }
        let dice = self.random.clone();
        let posted = self.post_with_faults(link, frame);
        match posted {
            Posted::Done | Posted::Accepted(_) => self.counters.frames += 1,
            // The frame comes again, and with it its fate.
            Posted::NoResource | Posted::Down | Posted::Failed(_) => self.random = dice,
        }
        posted
    }

    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        self.polls += 1;
        self.release();
        let mut moved = self.report_ends(sink);
        if self.is_deaf() {
            return moved;
        }
        let mut heard = None;
        let (inner, mut inner_sink) = self.sink(sink, &mut heard);
        moved += inner.poll(budget, &mut inner_sink);
        self.leave_given_up();
        self.lose_behind(heard);
        moved + self.report_ends(sink)
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        // Before a new link takes the place of a lost one.
        let mut moved = self.report_ends(sink);
        // A rail may deliver here what has come over quiet links.
        if self.polls < self.deaf_until {
            return moved;
        }
        let mut heard = None;
        let (inner, mut inner_sink) = self.sink(sink, &mut heard);
        moved += inner.maintain(now, &mut inner_sink);
        self.leave_given_up();
        self.lose_behind(heard);
        moved + self.report_ends(sink)
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        if self.is_cut(link) {
            return Posted::Down;
        }
        if self.has_no_room() {
            return Posted::NoResource;
        }
        self.inner.get(link, from, to)
    }

    fn post_segment(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        if self.is_cut(path.link) {
            return Posted::Down;
        }
        // All paths of a link end with it.
        if self.is_lost_now(path.link) {
            return self.lose(path.link);
        }
        if self.has_no_room() {
            return Posted::NoResource;
        }
        self.inner.post_segment(path, frame)
    }

    fn arm(&mut self) -> Armed {
        let waits = |line: &Line| !line.held.is_empty() || line.aside.is_some();
        let is_busy = self.lines.values().any(waits) || !self.ends.is_empty();
        if is_busy || self.polls < self.deaf_until {
            return Armed::Busy;
        }
        self.inner.arm()
    }

    fn fence(&mut self, link: LinkId) {
        self.forget_end(link);
        self.lines.entry(link).or_default().cut = true;
        if link.0 < FIRST_REFUSED {
            self.inner.fence(link);
        }
    }

    fn disconnect(&mut self, link: LinkId) {
        self.forget_end(link);
        self.lines.remove(&link);
        self.leave(link);
    }
}

impl<R: Rail> Faulty<R> {
    /// Throws the dice for one frame.
    fn post_with_faults(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let plan = self.plan;
        if self.random.chance(plan.drop) {
            self.counters.dropped += 1;
            return Posted::Done;
        }
        if self.random.chance(plan.reorder) && self.lines.entry(link).or_default().aside.is_none() {
            self.lines.entry(link).or_default().aside = Some(RawFrame::of(frame));
            self.counters.reordered += 1;
            return Posted::Done;
        }
        let twice = self.random.chance(plan.duplicate);
        let posted = if self.random.chance(plan.delay) {
            self.counters.delayed += 1;
            self.hold(link, RawFrame::of(frame), plan.delay_polls);
            Posted::Done
        } else {
            self.pass(link, frame)
        };
        if matches!(posted, Posted::NoResource | Posted::Down) {
            return posted;
        }
        if twice {
            self.counters.duplicated += 1;
            self.hold(link, RawFrame::of(frame), 0);
        }
        if let Some(overtaken) = self.lines.entry(link).or_default().aside.take() {
            self.hold(link, overtaken, 0);
        }
        posted
    }
}
