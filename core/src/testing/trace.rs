//! A rail that tells what passes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::forward_rail;
use crate::mem::{Gather, PeerBytes};
use crate::rail::{Armed, Capabilities, LinkId, PeerId, Posted, Rail, Refusal, RemoteSource, Sign, Sink};
use crate::ring::lane::Lane;
use crate::time::Time;
use crate::wire::{Address, Frame, Incoming, Kind, NodeId, Preface};

/// What can be said of a frame in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Number of the kind.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Tag or operation.
    pub word: u64,
    /// Length of the payload in bytes.
    pub len: usize,
}

/// Something that passed between engine and rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The engine asked for a link.
    Connecting(PeerId, NodeId, Result<LinkId, Error>),
    /// A fabric asked for a link.
    Accepting(LinkId, NodeId, Result<PeerId, Error>),
    /// The engine posted a frame.
    Posted(LinkId, Summary, Posted),
    /// The rail delivered a frame; the engine's answer.
    Delivered(PeerId, Summary, Result<(), Error>),
    /// The rail put this many bytes of a segment for this operation to their place; the engine's answer.
    Placed(PeerId, u64, usize, Result<(), Error>),
    /// The rail gave memory back.
    Sent(PeerId, u64),
    /// The engine fetched this many bytes.
    Fetched(LinkId, usize, Posted),
    /// What the rail was fetching has come, or does not.
    Came(PeerId, u64, Result<(), Error>),
    /// A link is up.
    Up(PeerId),
    /// A link is over.
    Down(PeerId, LinkId, Refusal),
    /// A link is over, while the peer may live.
    Broken(PeerId, LinkId, Refusal),
    /// The engine ended a link.
    Disconnected(LinkId),
}

/// Events that a [`Traced`] rail has told of.
pub type Journal = Arc<Mutex<Vec<Event>>>;

/// A rail that tells of each event before the next one happens.
pub struct Traced<R> {
    inner: R,
    tell: Box<dyn FnMut(&Event) + Send>,
}

impl<R: Rail> Traced<R> {
    /// Wraps a rail; `tell` hears of each event.
    pub fn new(inner: R, tell: impl FnMut(&Event) + Send + 'static) -> Traced<R> {
        Traced { inner, tell: Box::new(tell) }
    }

    /// Wraps a rail, and keeps the events.
    pub fn recording(inner: R) -> (Traced<R>, Journal) {
        let journal = Journal::default();
        let kept = journal.clone();
        let keep =
            move |event: &Event| kept.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        (Traced::new(inner, keep), journal)
    }

    /// The rail inside.
    pub fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: fmt::Debug> fmt::Debug for Traced<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Calls go to the rail inside.
macro_rules! each {
    ($self:ident, $rail:ident => $call:expr) => {
        match $self {
            Traced { inner: $rail, .. } => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl<R: Rail> Rail for Traced<R> {
    forward_rail!(each => aside short_ways);

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        let link = self.inner.connect(peer, address);
        let told = link.as_ref().map(|link| *link).map_err(|refusal| refusal.error);
        (self.tell)(&Event::Connecting(peer, address.node, told));
        link
    }

    fn connect_unheard(
        &mut self,
        peer: PeerId,
        address: &Address,
        preface: Preface,
    ) -> Result<LinkId, Refusal> {
        let link = self.inner.connect_unheard(peer, address, preface);
        let told = link.as_ref().map(|link| *link).map_err(|refusal| refusal.error);
        (self.tell)(&Event::Connecting(peer, address.node, told));
        link
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        let posted = self.inner.post(link, frame);
        let Frame { kind, flags, word, payload, .. } = *frame;
        let summary = Summary { kind: kind as u8, flags, word, len: payload.len() };
        (self.tell)(&Event::Posted(link, summary, posted));
        posted
    }

    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        self.inner.poll(budget, &mut TraceSink { sink, tell: &mut self.tell })
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        self.inner.maintain(now, &mut TraceSink { sink, tell: &mut self.tell })
    }

    fn get(&mut self, link: LinkId, from: RemoteSource, to: &Gather<'_>) -> Posted {
        let posted = self.inner.get(link, from, to);
        (self.tell)(&Event::Fetched(link, to.len(), posted));
        posted
    }

    fn arm(&mut self) -> Armed {
        self.inner.arm()
    }

    fn disconnect(&mut self, link: LinkId) {
        self.inner.disconnect(link);
        (self.tell)(&Event::Disconnected(link));
    }
}

struct TraceSink<'a, S> {
    sink: &'a mut S,
    tell: &'a mut Box<dyn FnMut(&Event) + Send>,
}

#[deny(clippy::missing_trait_methods, reason = "what is not handed on is lost")]
impl<S: Sink> Sink for TraceSink<'_, S> {
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        let summary = Summary { kind: Kind::Eager as u8, flags: 0, word: tag, len: payload.len() };
        self.sink.message(peer, tag, payload);
        (self.tell)(&Event::Delivered(peer, summary, Ok(())));
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        let Incoming { kind, flags, word, payload, .. } = frame;
        let answer = self.sink.frame(peer, frame);
        (self.tell)(&Event::Delivered(peer, Summary { kind, flags, word, len: payload.len() }, answer));
        answer
    }

    fn place(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Option<Gather<'_>> {
        self.sink.place(peer, op, offset, len)
    }

    fn placed(&mut self, peer: PeerId, op: u64, offset: u64, len: usize) -> Result<(), Error> {
        let answer = self.sink.placed(peer, op, offset, len);
        (self.tell)(&Event::Placed(peer, op, len, answer));
        answer
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
        let summary = Summary { kind: Kind::Loan as u8, flags: 0, word: tag, len: message.len() };
        let kept = self.sink.loan(peer, tag, immediate, loan, message);
        (self.tell)(&Event::Delivered(peer, summary, Ok(())));
        kept
    }

    fn sent(&mut self, peer: PeerId, token: u64) {
        self.sink.sent(peer, token);
        (self.tell)(&Event::Sent(peer, token));
    }

    fn fetched(&mut self, peer: PeerId, token: u64, outcome: Result<(), Error>) {
        self.sink.fetched(peer, token, outcome);
        (self.tell)(&Event::Came(peer, token, outcome));
    }

    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept(link, node, incarnation);
        let told = peer.as_ref().map(|peer| *peer).map_err(|refusal| refusal.error);
        (self.tell)(&Event::Accepting(link, node, told));
        peer
    }

    fn accept_foreign(
        &mut self,
        link: LinkId,
        node: NodeId,
        incarnation: u64,
        user: u32,
    ) -> Result<PeerId, Refusal> {
        let peer = self.sink.accept_foreign(link, node, incarnation, user);
        let told = peer.as_ref().map(|peer| *peer).map_err(|refusal| refusal.error);
        (self.tell)(&Event::Accepting(link, node, told));
        peer
    }

    // A lane would lead past this rail.
    fn lane(&mut self, _: PeerId, _: Arc<Lane>) {}

    fn up(&mut self, peer: PeerId) {
        self.sink.up(peer);
        (self.tell)(&Event::Up(peer));
    }

    fn up_unheard(&mut self, peer: PeerId) {
        self.sink.up_unheard(peer);
        (self.tell)(&Event::Up(peer));
    }

    fn refused(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        (self.tell)(&Event::Down(peer, link, reason.clone()));
        self.sink.refused(peer, link, reason);
    }

    fn sign(&mut self, peer: PeerId, sign: Sign) {
        self.sink.sign(peer, sign);
    }

    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        (self.tell)(&Event::Down(peer, link, reason.clone()));
        self.sink.down(peer, link, reason);
    }

    fn broken(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        (self.tell)(&Event::Broken(peer, link, reason.clone()));
        self.sink.broken(peer, link, reason);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Kind::from_number(self.kind) {
            Some(kind) => write!(f, "{}", format!("{kind:?}").to_lowercase())?,
            None => write!(f, "kind {}", self.kind)?,
        }
        write!(f, " flags {} word {:x} len {}", self.flags, self.word, self.len)
    }
}

impl fmt::Display for Event {
    /// One lower-case line: name, then value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Connecting(peer, node, Ok(link)) => {
                write!(f, "connecting peer {} node {node} link {}", peer.number(), link.0)
            }
            Event::Connecting(peer, node, Err(error)) => {
                write!(f, "not connecting peer {} node {node} error {}", peer.number(), error.code())
            }
            Event::Accepting(link, node, Ok(peer)) => {
                write!(f, "accepting link {} node {node} peer {}", link.0, peer.number())
            }
            Event::Accepting(link, node, Err(error)) => {
                write!(f, "not accepting link {} node {node} error {}", link.0, error.code())
            }
            Event::Posted(link, frame, posted) => {
                write!(f, "posted link {} {frame} outcome {}", link.0, outcome(*posted))
            }
            Event::Delivered(peer, frame, Ok(())) => write!(f, "delivered peer {} {frame}", peer.number()),
            Event::Delivered(peer, frame, Err(error)) => {
                write!(f, "refused peer {} {frame} error {}", peer.number(), error.code())
            }
            Event::Placed(peer, op, len, Ok(())) => {
                write!(f, "placed peer {} word {op:x} len {len}", peer.number())
            }
            Event::Placed(peer, op, len, Err(error)) => {
                write!(f, "not placed peer {} word {op:x} len {len} error {}", peer.number(), error.code())
            }
            Event::Sent(peer, token) => write!(f, "sent peer {} token {token:x}", peer.number()),
            Event::Came(peer, token, outcome) => {
                write!(f, "fetched peer {} token {token:x} {outcome:?}", peer.number())
            }
            Event::Fetched(link, len, posted) => {
                write!(f, "fetched link {} len {len} outcome {}", link.0, outcome(*posted))
            }
            Event::Up(peer) => write!(f, "up peer {}", peer.number()),
            Event::Down(peer, link, why) => {
                write!(f, "down peer {} link {} reason {}", peer.number(), link.0, why.reason)
            }
            Event::Broken(peer, link, why) => {
                write!(f, "broken peer {} link {} reason {}", peer.number(), link.0, why.reason)
            }
            Event::Disconnected(link) => write!(f, "disconnected link {}", link.0),
        }
    }
}

fn outcome(posted: Posted) -> &'static str {
    match posted {
        Posted::Done => "done",
        Posted::Accepted(_) => "accepted",
        Posted::NoResource => "no resource",
        Posted::Failed(_) => "failed",
        Posted::Down => "down",
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::loopback::LoopbackRail;
    use crate::testing::loopback::Loopback;
    use crate::testing::node::from_any;
    use crate::testing::pair::{address_of, Fixture, Pair};

    /// The rail of the first node is recorded.
    struct Recorded(Loopback, Journal);

    impl Fixture for Recorded {
        type Rail = Traced<LoopbackRail>;

        fn rail(&mut self, address: &Address) -> Self::Rail {
            let (rail, journal) = Traced::recording(self.0.rail(address));
            if address == &address_of(1, 0) {
                self.1 = journal;
            }
            rail
        }

        fn tick(&mut self) -> Time {
            self.0.tick()
        }
    }

    #[test]
    fn segments_are_put_to_their_place() {
        let hub = Loopback::new(0, false).placing();
        let mut pair = Pair::new(Recorded(hub, Journal::default()));
        let receive = pair.a.receive(from_any(5), 100_000);
        let send = pair.b.send(pair.to_a, &[7; 100_000], 5);
        let outcome = pair.finish_a(receive);
        assert_eq!((outcome.status, outcome.bytes), (Ok(()), vec![7; 100_000]));
        pair.finish_b(send);
        let journal = pair.fixture.1.lock().unwrap();
        let placed = |event: &Event| match event {
            Event::Placed(_, _, len, Ok(())) => *len,
            _ => 0,
        };
        let sum: usize = journal.iter().map(placed).sum();
        assert!(sum > 50_000, "{sum} bytes were placed");
    }

    #[test]
    fn a_conversation_reads_well() {
        let mut pair = Pair::new(Recorded(Loopback::new(0, false), Journal::default()));
        let receive = pair.b.receive(from_any(0x2a), 10_000);
        let send = pair.a.send(pair.to_b, &[1; 10_000], 0x2a);
        pair.finish_b(receive);
        pair.finish_a(send);
        pair.b.close();
        pair.run_until_quiet();
        let journal = pair.fixture.1.lock().unwrap();
        let lines: Vec<String> = journal.iter().map(Event::to_string).collect();
        let node = address_of(2, 0).node;
        let expected = [
            &format!("connecting peer 0 node {node} link 0"),
            "up peer 0",
            "posted link 0 eager flags 0 word ffffffffffffffff len 0 outcome done",
            "posted link 0 rts flags 0 word 2a len 0 outcome done",
            "delivered peer 0 rtr flags 0 word 300000000 len 0",
            "posted link 0 segment flags 0 word 100000000 len 10000 outcome done",
            "delivered peer 0 fin flags 0 word 300000000 len 0",
            "down peer 0 link 0 reason the peer has closed its fabric",
        ];
        assert_eq!(lines, expected, "{lines:#?}");
    }
}
