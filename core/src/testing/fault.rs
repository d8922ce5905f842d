//! A rail that fails as networks do, the same way each time.
//!
//! [`Faulty`] wraps any rail. What it does to a frame is decided when the frame is posted, by a [`FaultPlan`] and its
//! seed: two runs with the same frames in the same order fail alike.
//!
//! The protocol counts on frames that arrive once and in order. Over a rail that only delays it works as ever. Over
//! one that drops, doubles or reorders, operations stay pending or the peer is cut off; wrong bytes are never
//! delivered as right ones of an announced message. Making such a rail reliable is the work of a layer that numbers
//! and repeats frames.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::random::Random;
use super::raw::RawFrame;
use crate::error::Error;
use crate::forward_rail;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{Armed, Capabilities, LinkId, PeerId, Posted, Rail, Refusal, RemoteSource, Sign, Sink};
use crate::ring::lane::Lane;
use crate::time::Time;
use crate::wire::{Address, Frame, Incoming, NodeId};

/// Frames of one link that are held back at most; then there is no room.
const MAX_HELD: usize = 256;

/// What goes wrong, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaultPlan {
    /// Where the dice start.
    pub seed: u64,
    /// Probability that a frame is lost.
    pub drop: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Probability that the next frame overtakes it.
    pub reorder: f64,
    /// Probability that it is held back, and all later ones of its link behind it,
    pub delay: f64,
    /// for so many polls of this rail.
    pub delay_polls: u32,
    /// The link that carries the frame of this number is cut before it, once.
    pub disconnect_after: Option<u64>,
}

/// What a [`Faulty`] rail has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Frames that the engine has posted.
    pub frames: u64,
    /// Frames lost.
    pub dropped: u64,
    /// Frames doubled.
    pub duplicated: u64,
    /// Frames overtaken.
    pub reordered: u64,
    /// Frames held back by the dice, without those that waited behind them.
    pub delayed: u64,
    /// Links cut.
    pub disconnected: u64,
}

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
    cut: bool,
}

/// A rail with faults.
#[derive(Debug)]
pub struct Faulty<R> {
    inner: R,
    capabilities: Capabilities,
    plan: FaultPlan,
    random: Random,
    counters: FaultCounters,
    lines: HashMap<LinkId, Line>,
    /// Held frames whose memory the inner rail still reads.
    lent: HashMap<(PeerId, u64), RawFrame>,
    /// Links that were cut, and whose peers have not been reported.
    cut: Vec<(PeerId, LinkId)>,
    polls: u64,
}

impl<R: Rail> Faulty<R> {
    /// Wraps a rail.
    pub fn new(inner: R, plan: FaultPlan) -> Faulty<R> {
        let mut capabilities = *inner.capabilities();
        capabilities.reliable &= plan.drop == 0.0 && plan.duplicate == 0.0;
        capabilities.ordered &= plan.reorder == 0.0;
        capabilities.can_lose_connection |= plan.disconnect_after.is_some();
        // What is held back here is not retained below.
        capabilities.retains &= capabilities.reliable && capabilities.ordered && plan.delay == 0.0;
        Faulty {
            inner,
            capabilities,
            plan,
            random: Random::new(plan.seed),
            counters: FaultCounters::default(),
            lines: HashMap::new(),
            lent: HashMap::new(),
            cut: Vec::new(),
            polls: 0,
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

    /// Cuts a link: the peer hears of it from the inner rail, the engine at the next poll.
    fn cut(&mut self, link: LinkId) -> Posted {
        let line = self.lines.entry(link).or_default();
        line.cut = true;
        line.held.clear();
        line.aside = None;
        self.cut.extend(line.peer.map(|peer| (peer, link)));
        self.counters.disconnected += 1;
        self.inner.disconnect(link);
        Posted::Down
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

    fn sink<'a, S: Sink>(&'a mut self, sink: &'a mut S) -> (&'a mut R, FaultSink<'a, S>) {
        let retains = self.capabilities.retains;
        (&mut self.inner, FaultSink { sink, lines: &mut self.lines, lent: &mut self.lent, retains })
    }

    fn report_cut<S: Sink>(&mut self, sink: &mut S) -> usize {
        let reported = self.cut.len();
        for (peer, link) in self.cut.drain(..) {
            sink.down(peer, link, Refusal::new(Error::PeerGone, "the link was cut by the fault plan"));
        }
        reported
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
    forward_rail!(each => aside short_ways);

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        let link = self.inner.connect(peer, address)?;
        self.lines.insert(link, Line { peer: Some(peer), ..Line::default() });
        Ok(link)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let line = self.lines.entry(link).or_default();
        if line.cut {
            return Posted::Down;
        }
        if line.held.len() >= MAX_HELD {
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
        let reported = self.report_cut(sink);
        let (inner, mut sink) = self.sink(sink);
        reported + inner.poll(budget, &mut sink)
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        let (inner, mut sink) = self.sink(sink);
        inner.maintain(now, &mut sink)
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        self.inner.get(link, from, to)
    }

    fn arm(&mut self) -> Armed {
        let waits = |line: &Line| !line.held.is_empty() || line.aside.is_some();
        if self.lines.values().any(waits) || !self.cut.is_empty() {
            return Armed::Busy;
        }
        self.inner.arm()
    }

    fn disconnect(&mut self, link: LinkId) {
        self.lines.remove(&link);
        self.inner.disconnect(link);
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

/// Learns which links are whose, and keeps reports about frames of its own from the engine.
struct FaultSink<'a, S> {
    sink: &'a mut S,
    lines: &'a mut HashMap<LinkId, Line>,
    lent: &'a mut HashMap<(PeerId, u64), RawFrame>,
    retains: bool,
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl<S: Sink> Sink for FaultSink<'_, S> {
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        self.sink.message(peer, tag, payload);
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        self.sink.frame(peer, frame)
    }

    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        self.sink.place(peer, op, offset, len)
    }

    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        self.sink.placed(peer, op, offset, len)
    }

    crate::forward::forward_paths!();

    fn loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool {
        self.sink.loan(peer, tag, immediate, loan, message)
    }

    fn sent(&mut self, peer: PeerId, token: u64) {
        if self.lent.remove(&(peer, token)).is_none() {
            self.sink.sent(peer, token);
        }
    }

    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept(link, node, incarnation)?;
        self.lines.insert(link, Line { peer: Some(peer), ..Line::default() });
        Ok(peer)
    }

    fn accept_foreign(
        &mut self,
        link: LinkId,
        node: NodeId,
        incarnation: u64,
        user: u32,
    ) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept_foreign(link, node, incarnation, user)?;
        self.lines.insert(link, Line { peer: Some(peer), ..Line::default() });
        Ok(peer)
    }

    // A lane would lead past this rail.
    fn lane(&mut self, _: PeerId, _: Arc<Lane>) {}

    fn up(&mut self, peer: PeerId) {
        self.sink.up(peer);
    }

    fn sign(&mut self, peer: PeerId, sign: Sign) {
        self.sink.sign(peer, sign);
    }

    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.lines.remove(&link);
        self.sink.down(peer, link, reason);
    }

    fn broken(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.lines.remove(&link);
        if self.retains {
            self.sink.broken(peer, link, reason);
        } else {
            self.sink.down(peer, link, Refusal::new(Error::PeerGone, reason.reason));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::loopback::Loopback;
    use crate::testing::node::anything;
    use crate::testing::pair::{Fixture, Pair, Setup};

    struct Bad(Loopback, FaultPlan);

    impl Fixture for Bad {
        type Rail = Faulty<<Loopback as Fixture>::Rail>;

        fn rail(&mut self, address: &Address) -> Self::Rail {
            Faulty::new(self.0.rail(address), self.1)
        }

        fn tick(&mut self) -> Time {
            self.0.tick()
        }
    }

    /// Tags in the order in which 100 messages arrive.
    fn arrivals(plan: FaultPlan) -> (Vec<u64>, FaultCounters) {
        let mut pair =
            Pair::strangers(Bad(Loopback::new(0, false), FaultPlan { seed: 1, ..plan }), Setup::default());
        let address = *pair.b.address();
        let to_b = pair.a.engine().open(&address).unwrap();
        for tag in 0..100 {
            pair.a.send(to_b, &[0; 100], tag);
        }
        pair.run_until_quiet();
        let mut tags = Vec::new();
        while let Some(probe) = pair.b.engine().probe(&anything()) {
            tags.push(probe.tag);
            let receive = pair.b.receive(anything(), 100);
            pair.finish_b(receive);
        }
        let counters = pair.a.engine().rails()[0].counters();
        assert_eq!(counters.frames, 100);
        (tags, counters)
    }

    #[test]
    fn faults_happen_as_planned_and_the_same_each_time() {
        let (tags, counters) = arrivals(FaultPlan { drop: 0.2, ..FaultPlan::default() });
        assert!(counters.dropped > 5 && tags.len() as u64 == 100 - counters.dropped);
        assert!(tags.is_sorted());
        let (tags, counters) = arrivals(FaultPlan { duplicate: 0.2, ..FaultPlan::default() });
        assert!(counters.duplicated > 5 && tags.len() as u64 == 100 + counters.duplicated);
        let (tags, counters) = arrivals(FaultPlan { reorder: 0.2, ..FaultPlan::default() });
        assert!(counters.reordered > 5 && tags.len() == 100 && !tags.is_sorted());
        let delay = FaultPlan { delay: 0.2, delay_polls: 10, ..FaultPlan::default() };
        let (tags, counters) = arrivals(delay);
        assert!(counters.delayed > 5);
        assert_eq!(tags, (0..100).collect::<Vec<u64>>());
        let all = FaultPlan { drop: 0.1, duplicate: 0.1, reorder: 0.1, ..delay };
        assert_eq!(arrivals(all), arrivals(all));
    }
}
