//! How links are made.
//!
//! The caller connects to the socket of the other and sends its handshake with segment and doorbell; the called
//! maps the segment, answers likewise, and may send frames at once. When two call each other at the same time, the call of
//! the smaller node id counts: its side rejects the other's, and the other side drops its own.

use std::os::fd::{AsFd, OwnedFd};

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Extension, Hello};
use nix::unistd::geteuid;

use crate::layout::{LinkOffer, LINK_OFFER};
use crate::link::Live;
use crate::poller::Watched;
use crate::rail::{Link, ShmRail, GREETING_NS};
use crate::remote::Reach;
use crate::segment::PeerSegment;
use crate::socket::{self, Packet};

/// How long callers wait when descriptors have run out.
const LISTEN_PAUSE_NS: u64 = 100_000_000;
/// Most connections that have not said who they are.
const MAX_GREETINGS: usize = 1024;

impl ShmRail {
    /// Calls the fabric at `address`; the index of the link.
    pub(crate) fn call(&mut self, peer: PeerId, address: &Address) -> Result<u32, Refusal> {
        self.check_reachable(address)?;
        let stream = socket::connect_to(&self.dir.socket_of(address.node))?;
        kill_point!("connect.socket");
        socket::check_user(&stream)?;
        let block = self.arena.take_block()?;
        let files = [self.arena.segment().file(), self.bell_file.as_fd()];
        if let Err(refusal) = socket::send_hello(&stream, &self.hello(block), files) {
            self.arena.give_block(block);
            return Err(refusal);
        }
        kill_point!("connect.hello");
        let index = self.links.len() as u32;
        self.links.push(Link::new(peer, address.node, block));
        self.calls += 1;
        self.by_node.insert(address.node, index);
        // The peer is at work already: what it need not wait for comes after the call.
        self.arena.touch_block(block);
        if let Err(refusal) = self.watch_link(index, stream) {
            self.release(index);
            return Err(refusal);
        }
        Ok(index)
    }

    fn check_reachable(&self, address: &Address) -> Result<(), Refusal> {
        if address.node == self.config.local.node {
            return Err(Refusal::new(Error::Unreachable, "the address is this fabric's own"));
        }
        if address.host != self.config.local.host {
            let why =
                "the peer is on another host (or in another network namespace; GRIDNET_HOST_ID joins them)";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        let own = geteuid().as_raw();
        if address.uid != own {
            let why = format!("the peer runs as user {}, this process as user {own}", address.uid);
            return Err(Refusal::new(Error::Permission, why));
        }
        Ok(())
    }

    fn offer(&self, block: u32) -> LinkOffer {
        LinkOffer {
            block,
            slots: self.arena.slots(),
            registered: self.registered,
            has_barrier: self.has_barrier,
        }
    }

    fn hello(&self, block: u32) -> Hello {
        let mut hello = Hello::new(self.config.local.node, self.config.local.incarnation, 1);
        hello.extensions.push(Extension { kind: LINK_OFFER, bytes: self.offer(block).encode() });
        hello
    }

    /// Maps what a peer offers and joins it with the own block.
    fn join(&self, block: u32, hello: &Hello, segment: &OwnedFd, bell: OwnedFd) -> Result<Live, Refusal> {
        hello.agree(&[LINK_OFFER]).map_err(|why| Refusal::new(Error::Version, why.to_string()))?;
        let segment = PeerSegment::map(segment, hello.node.bytes(), hello.incarnation)?;
        let misbehaved = |why: &str| Refusal::new(Error::PeerMisbehaved, why);
        if !socket::is_doorbell(&bell, self.doorbell_kind) {
            return Err(misbehaved("the doorbell is no eventfd, or one that blocks"));
        }
        kill_point!("connect.mapped");
        let offer =
            hello.extension(LINK_OFFER).ok_or_else(|| misbehaved("handshake without a link offer"))?;
        let offer = LinkOffer::parse(offer, segment.len()).map_err(|e| misbehaved(e.0))?;
        Ok(Live::new(&self.arena, &self.offer(block), &offer, segment, bell))
    }

    pub(crate) fn accept_all<S: Sink>(&mut self, now: Time, sink: &mut S) {
        loop {
            let stream = match socket::accept_next(&self.listener) {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(errno) => return self.pause_listening(errno, now),
            };
            kill_point!("connect.accepted");
            match socket::check_user(&stream) {
                // Callers speak at once: often it is here already.
                Ok(()) => self.hear_greeting(stream, now, sink),
                Err(refusal) => tracing::warn!(reason = %refusal.reason, "connection refused"),
            }
        }
    }

    /// Descriptors have run out: callers wait in the queue, and are looked for again in a while.
    fn pause_listening(&mut self, errno: nix::Error, now: Time) {
        tracing::warn!(reason = errno.desc(), "connections wait");
        self.poller.forget(&self.listener);
        self.listen_again = Some(now.after(LISTEN_PAUSE_NS));
    }

    /// A connection that is not yet a link has something to say.
    pub(crate) fn greet<S: Sink>(&mut self, place: u32, sink: &mut S) {
        if let Some((stream, since)) = self.greetings.get_mut(place as usize).and_then(Option::take) {
            self.poller.forget(&stream);
            self.hear_greeting(stream, since, sink);
        }
    }

    fn hear_greeting<S: Sink>(&mut self, stream: OwnedFd, since: Time, sink: &mut S) {
        match socket::receive(&stream) {
            Ok(Packet::Nothing) => self.await_greeting(stream, since),
            Ok(Packet::Hello(hello, segment, bell)) => self.answer(stream, &hello, &segment, bell, sink),
            // Somebody only looked whether we live.
            Ok(Packet::Closed | Packet::Reject(_) | Packet::Heap(_)) => {}
            Err(refusal) => refuse(&stream, &refusal),
        }
    }

    /// Watches a connection until it says who it is.
    fn await_greeting(&mut self, stream: OwnedFd, since: Time) {
        let place = self.greetings.iter().position(Option::is_none).unwrap_or(self.greetings.len());
        if place >= MAX_GREETINGS {
            tracing::warn!(limit = MAX_GREETINGS, "connection refused: too many have not said who they are");
            return;
        }
        if self.poller.watch(&stream, Watched::Greeting(place as u32)).is_ok() {
            if place == self.greetings.len() {
                self.greetings.push(None);
            }
            self.greetings[place] = Some((stream, since));
        }
    }

    /// Drops connections that did not say in time who they are.
    pub(crate) fn drop_silent(&mut self, now: Time) {
        for entry in &mut self.greetings {
            if let Some((stream, _)) = entry.take_if(|(_, since)| now.since(*since) > GREETING_NS) {
                self.poller.forget(&stream);
                tracing::warn!("connection dropped: it did not say who it is within 5 s");
            }
        }
        while self.greetings.pop_if(|entry| entry.is_none()).is_some() {}
    }

    /// Answers a call, or rejects it.
    fn answer<S: Sink>(
        &mut self,
        stream: OwnedFd,
        hello: &Hello,
        segment: &OwnedFd,
        bell: OwnedFd,
        sink: &mut S,
    ) {
        match self.agree(&stream, hello, segment, bell, sink) {
            Ok((index, live)) => self.establish(index, stream, live, sink),
            Err(refusal) => refuse(&stream, &refusal),
        }
    }

    /// Joins a caller: the link's index, and what is to become its live part.
    fn agree<S: Sink>(
        &mut self,
        stream: &OwnedFd,
        hello: &Hello,
        segment: &OwnedFd,
        bell: OwnedFd,
        sink: &mut S,
    ) -> Result<(u32, Live), Refusal> {
        let own_call = self.own_call(hello)?;
        let block = match own_call {
            Some(index) => self.links[index as usize].block,
            None => self.arena.take_block()?,
        };
        let index = own_call.unwrap_or(self.links.len() as u32);
        let agreed = self.join(block, hello, segment, bell).and_then(|live| {
            let files = [self.arena.segment().file(), self.bell_file.as_fd()];
            socket::send_hello(stream, &self.hello(block), files)?;
            kill_point!("connect.answered");
            // While the peer joins.
            self.arena.touch_block(block);
            let peer = match own_call {
                Some(index) => self.links[index as usize].peer,
                None => sink.accept(LinkId(index), hello.node, hello.incarnation)?,
            };
            Ok((live, peer))
        });
        match agreed {
            Ok((live, peer)) => {
                self.adopt(index, Link::new(peer, hello.node, block));
                Ok((index, live))
            }
            Err(refusal) => {
                match own_call {
                    None => self.arena.give_block(block),
                    // The peer has given way, or will: nobody else will end our call.
                    Some(index) => self.finish(index, refusal.clone(), sink),
                }
                Err(refusal)
            }
        }
    }

    /// The own call that is dropped in favour of the peer's, if there is one.
    fn own_call(&self, hello: &Hello) -> Result<Option<u32>, Refusal> {
        let local = self.config.local.node;
        if hello.node == local {
            return Err(Refusal::new(Error::PeerMisbehaved, "the peer has our own node id"));
        }
        match self.by_node.get(&hello.node) {
            None => Ok(None),
            Some(&index) if self.links[index as usize].live.is_none() && local > hello.node => {
                Ok(Some(index))
            }
            Some(_) => Err(Refusal::new(Error::InUse, "the two nodes have a link, or are making one")),
        }
    }

    /// Enters a link, in place of an own call if there was one.
    fn adopt(&mut self, index: u32, link: Link) {
        match self.links.get_mut(index as usize) {
            Some(own) => {
                if let Some(stream) = own.socket.take() {
                    self.poller.forget(&stream);
                }
            }
            None => {
                self.by_node.insert(link.node, index);
                self.links.push(link);
                self.calls += 1;
            }
        }
    }

    fn establish<S: Sink>(&mut self, index: u32, stream: OwnedFd, live: Live, sink: &mut S) {
        self.set_live(index, live, sink);
        if let Err(refusal) = self.watch_link(index, stream) {
            return self.finish(index, refusal, sink);
        }
        self.show_heap_to(index);
    }

    /// From here on frames flow.
    fn set_live<S: Sink>(&mut self, index: u32, live: Live, sink: &mut S) {
        let link = &mut self.links[index as usize];
        link.live = Some(live);
        let peer = link.peer;
        self.calls -= 1;
        self.start_polling(index);
        sink.up(peer);
        kill_point!("connect.up");
    }

    fn watch_link(&mut self, index: u32, stream: OwnedFd) -> Result<(), Refusal> {
        self.poller.watch(&stream, Watched::Socket(index))?;
        self.links[index as usize].socket = Some(stream);
        self.vigil.begin();
        Ok(())
    }

    /// The socket of a link has something to say: the answer to our call, or the end.
    pub(crate) fn hear<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(stream) = self.links.get(index as usize).and_then(|link| link.socket.as_ref()) else {
            return;
        };
        let calling = self.links[index as usize].live.is_none();
        match socket::receive(stream) {
            Ok(Packet::Nothing) => {}
            Ok(Packet::Hello(hello, segment, bell)) if calling => {
                if let Err(refusal) = self.take_answer(index, &hello, &segment, bell, sink) {
                    self.finish(index, refusal, sink);
                }
            }
            Ok(Packet::Reject(refusal)) if calling && refusal.error == Error::InUse => self.yield_call(index),
            Ok(Packet::Reject(refusal)) => self.finish(index, refusal, sink),
            Ok(Packet::Closed) => {
                self.finish_drained(index, "the peer has closed its fabric, or ended", sink)
            }
            Ok(Packet::Heap(file)) if !calling => {
                if let Err(refusal) = self.take_heap(index, &file) {
                    self.finish(index, refusal, sink);
                }
            }
            Ok(Packet::Heap(_)) => {
                let refusal = Refusal::new(Error::PeerMisbehaved, "heap before the handshake");
                self.finish(index, refusal, sink);
            }
            Ok(Packet::Hello(..)) => {
                let refusal = Refusal::new(Error::PeerMisbehaved, "second handshake on a link");
                self.finish(index, refusal, sink);
            }
            Err(refusal) => self.finish(index, refusal, sink),
        }
    }

    fn take_answer<S: Sink>(
        &mut self,
        index: u32,
        hello: &Hello,
        segment: &OwnedFd,
        bell: OwnedFd,
        sink: &mut S,
    ) -> Result<(), Refusal> {
        let link = &self.links[index as usize];
        if hello.node != link.node {
            return Err(Refusal::new(Error::PeerMisbehaved, "another node answered than was called"));
        }
        let live = self.join(link.block, hello, segment, bell)?;
        kill_point!("connect.joined");
        self.set_live(index, live, sink);
        self.show_heap_to(index);
        Ok(())
    }

    /// The peer's own call counts: it is in our queue, or answered already. The socket tells whether the peer lives until
    /// then, and nothing more.
    fn yield_call(&mut self, index: u32) {
        if let Some(stream) = &self.links[index as usize].socket {
            self.poller.forget(stream);
        }
    }
}

fn refuse(stream: &OwnedFd, refusal: &Refusal) {
    tracing::info!(reason = %refusal.reason, "connection refused");
    let _ = socket::send_reject(stream, refusal);
}

impl Link {
    fn new(peer: PeerId, node: gridnet_core::wire::NodeId, block: u32) -> Link {
        Link {
            peer,
            node,
            block,
            socket: None,
            process: None,
            pid: None,
            identified: 0,
            live: None,
            read: None,
            wants_room: false,
            over: false,
            reach: Reach::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Header;
    use crate::rail::ShmConfig;
    use crate::segment::OwnSegment;
    use gridnet_core::mem::PeerBytes;
    use gridnet_core::rail::Rail;
    use gridnet_core::wire::{Incoming, NodeId};
    use nix::sys::eventfd::{EfdFlags, EventFd};

    const SEGMENT: usize = 1 << 20;

    /// Accepts everybody.
    #[derive(Default)]
    struct Open {
        up: usize,
    }

    impl Sink for Open {
        fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}

        fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
            Ok(())
        }

        fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
            false
        }

        fn sent(&mut self, _: PeerId, _: u64) {}

        fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
            Ok(PeerId::new(link.0))
        }

        fn up(&mut self, _: PeerId) {
            self.up += 1;
        }

        fn down(&mut self, _: PeerId, _: Refusal) {}
    }

    fn open_rail(dir: &std::path::Path) -> ShmRail {
        let node = NodeId::new([1; 16]).unwrap();
        ShmRail::open(ShmConfig {
            local: Address { uid: geteuid().as_raw(), host: 1, node, incarnation: 1 },
            name: None,
            run_dir: Some(dir.to_owned()),
            segment_size: SEGMENT,
            ring_slots: 64,
            link_window: SEGMENT,
            huge_pages: false,
            heap_size: SEGMENT,
            single_copy: crate::rail::SingleCopy::Auto,
        })
        .unwrap()
    }

    /// Calls `rail` as a stranger whose doorbell is `bell`: what it answers.
    fn call_with(rail: &mut ShmRail, bell: &OwnedFd, sink: &mut Open) -> (OwnedFd, Packet) {
        let stranger = NodeId::new([2; 16]).unwrap();
        let segment =
            OwnSegment::create(SEGMENT, &Header::new(SEGMENT, *stranger.bytes(), 1), false).unwrap();
        let block = (crate::layout::ARENA_OFFSET / crate::layout::LINE) as u32;
        let offer = LinkOffer { block, slots: 64, registered: false, has_barrier: false };
        let mut hello = Hello::new(stranger, 1, 1);
        hello.extensions.push(Extension { kind: LINK_OFFER, bytes: offer.encode() });
        let stream = socket::connect_to(&rail.dir.socket_of(rail.config.local.node)).unwrap();
        socket::send_hello(&stream, &hello, [segment.file(), bell.as_fd()]).unwrap();
        rail.maintain(Time(0), sink);
        let answer = socket::receive(&stream).unwrap();
        (stream, answer)
    }

    #[test]
    fn a_doorbell_must_be_an_eventfd_that_never_blocks() {
        let dir = std::env::temp_dir().join(format!("gridnet-test-doorbell-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut rail = open_rail(&dir);
        let mut sink = Open::default();
        let (_reader, pipe) = std::io::pipe().unwrap();
        let blocking = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        for bell in [OwnedFd::from(pipe), OwnedFd::from(blocking)] {
            let (_stream, answer) = call_with(&mut rail, &bell, &mut sink);
            assert!(
                matches!(&answer, Packet::Reject(why) if why.error == Error::PeerMisbehaved),
                "{answer:?}"
            );
            assert!(rail.links.is_empty() && sink.up == 0);
        }
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        let (_stream, answer) = call_with(&mut rail, &bell.into(), &mut sink);
        assert!(matches!(answer, Packet::Hello(..)), "{answer:?}");
        assert_eq!((rail.links.len(), sink.up), (1, 1));
        drop(rail);
        let _ = std::fs::remove_dir_all(&dir);
    }
}
