//! How links are made.
//!
//! The caller connects to the socket of the other and sends its handshake with segment and doorbell; the called
//! maps the segment, answers likewise, and may send frames at once. When two call each other at the same time, the call of
//! the smaller node id counts: its side rejects the other's, and the other side drops its own.

use std::os::fd::{AsFd, OwnedFd};

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::rail::{PeerId, Refusal, Sink};
use gridnet_core::wire::{Address, Extension, Hello, NodeId, FEATURE_PULL};

use crate::arena::Arena;
use crate::doorbell::Doorbell;
use crate::foreign::{refusal_heard, Pair};
use crate::layout::{LinkOffer, LINK_OFFER};
use crate::link::Live;
use crate::poller::Watched;
use crate::process::Reach;
use crate::rail::{Link, ShmRail};
use crate::repeat::Repeat;
use crate::segment::PeerSegment;
use crate::socket::{self, Packet};
use crate::users::User;

/// What a fabric says that wants a link.
pub(crate) struct Greeting {
    /// The user that it runs as, when it is another.
    pub(crate) user: Option<u32>,
    pub(crate) hello: Box<Hello>,
    pub(crate) segment: Brought,
    pub(crate) bell: Doorbell,
}

/// The segment of one that wants a link.
pub(crate) enum Brought {
    /// As it has come.
    File(OwnedFd),
    /// It has come before, and was looked at with its doorbell.
    Mapped(PeerSegment),
}

/// The own end of a link that is being made.
pub(crate) struct Block {
    /// Where the block is, in lines.
    pub(crate) line: u32,
    /// The segment that it is in, unless that is the fabric's.
    pub(crate) pair: Option<Box<Pair>>,
}

impl Block {
    /// What allots the segment that it is in, where `common` is the fabric's.
    pub(crate) fn arena<'a>(&'a self, common: &'a Arena) -> &'a Arena {
        self.pair.as_deref().map_or(common, |pair| &pair.arena)
    }
}

impl ShmRail {
    /// Calls the fabric at `address`; the index of the link.
    pub(crate) fn call(&mut self, peer: PeerId, address: &Address) -> Result<u32, Refusal> {
        let user = self.check_reachable(address)?;
        let early = self.take_early(address.node).filter(|_| user.is_none());
        let was_early = early.is_some();
        let stream = match (user, early) {
            (None, Some(stream)) => stream,
            (None, None) => self.connect_to(address.node)?,
            (Some(_), _) => self.reach_foreign(address)?,
        };
        kill_point!("connect.socket");
        let block = self.take_block(user)?;
        let said = match was_early {
            true => socket::send_call(&stream, &self.hello(block.line)),
            false => self.say_hello(&stream, block.line, block.pair.as_deref()),
        };
        if let Err(refusal) = said {
            self.give_block(block);
            return Err(refusal_heard(&stream, refusal));
        }
        kill_point!("connect.hello");
        let index = self.links.len() as u32;
        if self.links.iter().any(|link| link.peer == peer) {
            self.repeats.push(Repeat::new(index));
        }
        // The peer is at work already: what it need not wait for comes after the call.
        block.arena(&self.arena).touch_block(block.line);
        self.enter(Link::new(peer, address.node, block));
        if let Err(refusal) = self.watch_link(index, stream) {
            self.release(index);
            return Err(refusal);
        }
        Ok(index)
    }

    /// Connects to the fabric of a node, which must be of the own user.
    pub(crate) fn connect_to(&self, node: NodeId) -> Result<OwnedFd, Refusal> {
        let stream = socket::connect_to(&self.dir.socket_of(node))?;
        socket::check_user(&stream)?;
        Ok(stream)
    }

    /// The user of a fabric that can be called, when it is another.
    fn check_reachable(&self, address: &Address) -> Result<Option<u32>, Refusal> {
        self.check_parted()?;
        if address.node == self.config.local.node {
            return Err(Refusal::new(Error::Unreachable, "the address is this fabric's own"));
        }
        if address.host != self.config.local.host {
            let why =
                "the peer is on another host (or in another network namespace; GRIDNET_HOST_ID joins them)";
            return Err(Refusal::new(Error::Unreachable, why));
        }
        Ok(match self.users.check(address.uid)? {
            User::Own => None,
            User::Other(user) => Some(user),
        })
    }

    /// Whether a test has forbidden links.
    pub(crate) fn check_parted(&self) -> Result<(), Refusal> {
        #[cfg(feature = "testing")]
        if self.shears.as_ref().is_some_and(|(shears, _)| shears.are_open()) {
            return Err(Refusal::new(Error::Unreachable, "the test has switched shared memory off"));
        }
        Ok(())
    }

    /// A block for a link: for another user, in a segment of its own.
    pub(crate) fn take_block(&mut self, user: Option<u32>) -> Result<Block, Refusal> {
        let Some(user) = user else {
            let line = self.arena.take_block().or_else(|refusal| {
                match self.leftovers.give_all_back(&mut self.arena, &self.poller) {
                    true => self.arena.take_block(),
                    false => Err(refusal),
                }
            })?;
            return Ok(Block { line, pair: None });
        };
        let mut pair = Box::new(Pair::new(user, &self.config)?);
        Ok(Block { line: pair.arena.take_block()?, pair: Some(pair) })
    }

    pub(crate) fn give_block(&mut self, block: Block) {
        if block.pair.is_none() {
            self.arena.give_block(block.line);
        }
    }

    /// Sends the handshake, with what the peer is to see.
    pub(crate) fn say_hello(&self, stream: &OwnedFd, block: u32, pair: Option<&Pair>) -> Result<(), Refusal> {
        let hello = self.hello(block);
        match pair {
            Some(pair) => socket::send_foreign(stream, &hello, pair.arena.segment().file()),
            None => {
                let files = [self.arena.segment().file(), self.bell_file.as_fd()];
                socket::send_hello(stream, &hello, files)
            }
        }
    }

    /// Sends what a handshake brings, to one that may be called later.
    pub(crate) fn say_early(&self, stream: &OwnedFd) -> Result<(), Refusal> {
        let hello = Hello::new(self.config.local.node, self.config.local.incarnation, 1);
        socket::send_early(stream, &hello, [self.arena.segment().file(), self.bell_file.as_fd()])
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
    pub(crate) fn join(&self, arena: &Arena, block: u32, greeting: Greeting) -> Result<Live, Refusal> {
        let Greeting { hello, segment, bell, .. } = greeting;
        hello.agree(&[LINK_OFFER]).map_err(|why| Refusal::new(Error::Version, why.to_string()))?;
        let (node, incarnation) = (hello.node.bytes(), hello.incarnation);
        let misbehaved = |why: &str| Refusal::new(Error::PeerMisbehaved, why);
        let segment = match (segment, &bell) {
            (Brought::Mapped(segment), _) => segment,
            (Brought::File(file), Doorbell::Event(bell)) => {
                self.look_at_brought(&file, bell, (node, incarnation))?
            }
            (Brought::File(file), Doorbell::Socket(_)) => PeerSegment::map_foreign(&file, node, incarnation)?,
        };
        kill_point!("connect.mapped");
        let offer =
            hello.extension(LINK_OFFER).ok_or_else(|| misbehaved("handshake without a link offer"))?;
        let offer = LinkOffer::parse(offer, segment.len()).map_err(|e| misbehaved(e.0))?;
        let mut live = Live::new(arena, &self.offer(block), &offer, segment, bell);
        live.knows_pulls = hello.features & FEATURE_PULL != 0;
        Ok(live)
    }

    /// Maps the segment of a fabric of the own user, and looks at its doorbell.
    pub(crate) fn look_at_brought(
        &self,
        segment: &OwnedFd,
        bell: &OwnedFd,
        (node, incarnation): (&[u8; 16], u64),
    ) -> Result<PeerSegment, Refusal> {
        let segment = PeerSegment::map(segment, node, incarnation)?;
        match socket::is_doorbell(bell, self.doorbell_kind) {
            true => Ok(segment),
            false => {
                let why = "the doorbell is no eventfd, or one that blocks";
                Err(Refusal::new(Error::PeerMisbehaved, why))
            }
        }
    }

    /// Drops the connection of an own call, in favour of the peer's.
    pub(crate) fn forget_call(&mut self, index: u32) {
        if let Some(stream) = self.links[index as usize].socket.take() {
            self.poller.forget(&stream);
        }
    }

    /// Enters a link that is being made.
    pub(crate) fn enter(&mut self, link: Link) {
        let index = self.links.len() as u32;
        self.drop_early(link.node);
        match (&link.pair, &mut self.foreign) {
            (Some(pair), Some(foreign)) => {
                foreign.enter(pair.user, link.node, index);
                self.pairs += 1;
            }
            _ => drop(self.by_node.insert(link.node, index)),
        }
        self.links.push(link);
        self.calls += 1;
    }

    pub(crate) fn establish<S: Sink>(&mut self, index: u32, stream: OwnedFd, live: Live, sink: &mut S) {
        self.set_live(index, live, sink);
        if let Err(refusal) = self.watch_link(index, stream) {
            return self.finish(index, refusal, sink);
        }
        self.show_heap_to(index);
    }

    /// From here on frames flow.
    fn set_live<S: Sink>(&mut self, index: u32, live: Live, sink: &mut S) {
        let mut live = live;
        self.pass_on_loans(index, &mut live);
        let link = &mut self.links[index as usize];
        link.live = Some(live);
        let peer = link.peer;
        if let Some(live) = &link.live {
            sink.lane(peer, live.lane().clone());
        }
        self.calls -= 1;
        self.show_arming_to(&self.links[index as usize]);
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
        let Some(link) = self.links.get(index as usize).filter(|link| link.kept.is_none()) else { return };
        let Some(stream) = &link.socket else { return };
        let calling = link.live.is_none();
        let user = link.pair.as_ref().map_or(User::Own, |pair| User::Other(pair.user));
        let heard = match hear_as(user, stream) {
            Ok(Heard::Greeting(greeting)) if calling => {
                if let Err(refusal) = self.take_answer(index, greeting, sink) {
                    self.finish(index, refusal, sink);
                }
                return;
            }
            Ok(Heard::Greeting(_) | Heard::Early(..) | Heard::Call(_)) => {
                Err(Refusal::new(Error::PeerMisbehaved, "second handshake on a link"))
            }
            Ok(Heard::Other(packet)) => Ok(packet),
            Err(refusal) => Err(refusal),
        };
        match heard {
            // To be woken is all that there is to it.
            Ok(Packet::Nothing | Packet::Wake) => {}
            Ok(Packet::Reject(refusal)) if calling && refusal.error == Error::InUse => self.yield_call(index),
            // The peer lives, and says that it has lost the link, or has no use for it.
            Ok(Packet::Reject(refusal))
                if !calling && matches!(refusal.error, Error::Unreachable | Error::InUse) =>
            {
                self.break_link(index, &refusal.reason, sink);
            }
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
            // `hear_as` has made greetings of these.
            Ok(Packet::Hello(..) | Packet::Foreign(..) | Packet::Early(..) | Packet::Call(_)) => {}
            Err(refusal) => self.finish(index, refusal, sink),
        }
    }

    fn take_answer<S: Sink>(&mut self, index: u32, greeting: Greeting, sink: &mut S) -> Result<(), Refusal> {
        let link = &self.links[index as usize];
        if greeting.hello.node != link.node {
            return Err(Refusal::new(Error::PeerMisbehaved, "another node answered than was called"));
        }
        let arena = link.pair.as_deref().map_or(&self.arena, |pair| &pair.arena);
        let live = self.join(arena, link.block, greeting)?;
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

/// A packet, after a look at who may send it.
pub(crate) enum Heard {
    /// A handshake.
    Greeting(Greeting),
    /// Segment and doorbell of one that may call later.
    Early(Box<Hello>, OwnedFd, OwnedFd),
    /// The handshake of one that has brought them before.
    Call(Box<Hello>),
    /// Any other.
    Other(Packet),
}

/// Reads a packet of a process of `user`: other users have other handshakes, and hand over nothing else.
pub(crate) fn hear_as(user: User, stream: &OwnedFd) -> Result<Heard, Refusal> {
    let packet = match user {
        User::Own => socket::receive(stream)?,
        User::Other(_) => socket::receive_foreign(stream)?,
    };
    Ok(match (packet, user) {
        (Packet::Hello(hello, segment, bell), User::Own) => {
            let segment = Brought::File(segment);
            Heard::Greeting(Greeting { user: None, hello, segment, bell: Doorbell::Event(bell) })
        }
        (Packet::Early(hello, segment, bell), User::Own) => Heard::Early(hello, segment, bell),
        (Packet::Call(hello), User::Own) => Heard::Call(hello),
        (Packet::Foreign(hello, segment), User::Other(user)) => {
            let bell = stream.try_clone().map_err(|e| Refusal::new(Error::System, format!("dup: {e}")))?;
            let segment = Brought::File(segment);
            Heard::Greeting(Greeting { user: Some(user), hello, segment, bell: Doorbell::Socket(bell) })
        }
        (Packet::Hello(..) | Packet::Early(..) | Packet::Call(_) | Packet::Heap(_), User::Other(_))
        | (Packet::Foreign(..) | Packet::Wake, User::Own) => {
            let why = "packet that is not for processes of one user, or of two";
            return Err(Refusal::new(Error::PeerMisbehaved, why));
        }
        (other, _) => Heard::Other(other),
    })
}

impl Link {
    pub(crate) fn new(peer: PeerId, node: NodeId, Block { line, pair }: Block) -> Link {
        Link {
            peer,
            node,
            block: line,
            // Another user's memory is not looked at.
            reach: if pair.is_some() { Reach::No } else { Reach::Unknown },
            pair,
            socket: None,
            live: None,
            kept: None,
            read: None,
            wants_room: false,
            over: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Header;
    use crate::open::{open_rail, Open, SEGMENT};
    use crate::segment::OwnSegment;
    use gridnet_core::rail::Rail;
    use gridnet_core::time::Time;
    use nix::sys::eventfd::{EfdFlags, EventFd};

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
        let mut rail = open_rail(&dir, 1);
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
