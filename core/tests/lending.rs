//! The suite on a rail that reads the memory of frames later, as rails with zero-copy sends do.

use std::collections::{HashMap, VecDeque};

use gridnet_core::conformance_tests;
use gridnet_core::error::Error;
use gridnet_core::loopback::LoopbackRail;
use gridnet_core::mem::{Gather, Iov, PeerBytes};
use gridnet_core::rail::{Armed, Capabilities, LinkId, PeerId, Posted, Rail, Refusal, Sink};
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::pair::Fixture;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Incoming, Kind, NodeId, MAX_EXTENSION};

conformance_tests!(lending, Lender(Loopback::new(0, false)));

/// Loopback rails that lend memory.
struct Lender(Loopback);

impl Fixture for Lender {
    type Rail = Lending;

    fn rail(&mut self, address: &Address) -> Lending {
        let inner = self.0.rail(address);
        let mut capabilities = *inner.capabilities();
        capabilities.keeps_memory = true;
        Lending { inner, capabilities, lent: VecDeque::new(), peers: HashMap::new(), tokens: 0 }
    }

    fn tick(&mut self) -> Time {
        self.0.tick()
    }

    fn overshoot(&self) -> usize {
        self.0.overshoot() + MAX_LENT
    }
}

const MAX_LENT: usize = 32;

struct Lent {
    link: LinkId,
    token: u64,
    kind: Kind,
    flags: u8,
    word: u64,
    extension: ([u64; MAX_EXTENSION], usize),
    payload: Vec<Iov>,
}

/// Takes frames with a promise, and reads them in the next poll.
struct Lending {
    inner: LoopbackRail,
    capabilities: Capabilities,
    lent: VecDeque<Lent>,
    peers: HashMap<LinkId, PeerId>,
    tokens: u64,
}

impl Rail for Lending {
    fn name(&self) -> &'static str {
        "lending"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, peer: PeerId, address: &Address) -> Result<LinkId, Refusal> {
        let link = self.inner.connect(peer, address)?;
        self.peers.insert(link, peer);
        Ok(link)
    }

    fn post(&mut self, link: LinkId, frame: &Frame<'_>) -> Posted {
        if !self.peers.contains_key(&link) {
            return Posted::Down;
        }
        if self.lent.len() >= MAX_LENT {
            return Posted::NoResource;
        }
        self.tokens += 1;
        // SAFETY: the engine keeps the memory as it is until the token is returned.
        let payload = frame.payload.pieces().map(|(base, len)| unsafe { Iov::new(base, len) }).collect();
        self.lent.push_back(Lent {
            link,
            token: self.tokens,
            kind: frame.kind,
            flags: frame.flags,
            word: frame.word,
            extension: (frame.extension, frame.extension_len),
            payload,
        });
        Posted::Accepted(self.tokens)
    }

    fn poll<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        let mut moved = 0;
        while let Some(Lent { link, token, kind, flags, word, extension, payload }) = self.lent.front() {
            let (kind, flags, word, payload) = (*kind, *flags, *word, Gather::all(payload));
            let frame =
                Frame { kind, flags, word, extension: extension.0, extension_len: extension.1, payload };
            match self.inner.post(*link, &frame) {
                Posted::NoResource => break,
                // Reported late, so that the answer of the peer may be first.
                Posted::Done | Posted::Accepted(_) => {
                    moved += self.inner.poll(budget, &mut Learn(sink, &mut self.peers));
                    if let Some(peer) = self.peers.get(link) {
                        sink.sent(*peer, *token);
                    }
                }
                Posted::Down | Posted::Failed(_) => {}
            }
            self.lent.pop_front();
        }
        moved + self.inner.poll(budget, &mut Learn(sink, &mut self.peers))
    }

    fn maintain<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        self.inner.maintain(now, &mut Learn(sink, &mut self.peers))
    }

    fn arm(&mut self) -> Armed {
        if self.lent.is_empty() {
            self.inner.arm()
        } else {
            Armed::Busy
        }
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn disconnect(&mut self, link: LinkId) {
        self.peers.remove(&link);
        self.inner.disconnect(link);
    }
}

/// Learns which links are whose.
struct Learn<'a, S>(&'a mut S, &'a mut HashMap<LinkId, PeerId>);

impl<S: Sink> Sink for Learn<'_, S> {
    fn message(&mut self, peer: PeerId, tag: u64, payload: PeerBytes<'_>) {
        self.0.message(peer, tag, payload);
    }

    fn frame(&mut self, peer: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        self.0.frame(peer, frame)
    }

    fn loan(
        &mut self,
        peer: PeerId,
        tag: u64,
        immediate: Option<u64>,
        loan: u64,
        message: PeerBytes<'_>,
    ) -> bool {
        self.0.loan(peer, tag, immediate, loan, message)
    }

    fn sent(&mut self, peer: PeerId, token: u64) {
        self.0.sent(peer, token);
    }

    fn accept(&mut self, link: LinkId, node: NodeId, incarnation: u64) -> Result<PeerId, Refusal> {
        let peer = self.0.accept(link, node, incarnation)?;
        self.1.insert(link, peer);
        Ok(peer)
    }

    fn up(&mut self, peer: PeerId) {
        self.0.up(peer);
    }

    fn down(&mut self, peer: PeerId, link: LinkId, reason: Refusal) {
        self.1.remove(&link);
        self.0.down(peer, link, reason);
    }
}
