//! How a fabric is called: connections are accepted, say who they are, and become links or are refused.

use std::os::fd::OwnedFd;

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::rail::{LinkId, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Hello, NodeId};

use crate::doorbell::Doorbell;
use crate::foreign::introduce;
use crate::handshake::{hear_as, Brought, Greeting, Heard};
use crate::link::Live;
use crate::poller::Watched;
use crate::rail::{Link, ShmRail, GREETING_NS};
use crate::segment::PeerSegment;
use crate::socket::{self, Packet};
use crate::users::User;

/// How long callers wait when descriptors have run out.
const LISTEN_PAUSE_NS: u64 = 100_000_000;
/// What a peer may have said over a link besides frames: its heap, wake-ups, the end.
const MOST_WORDS: usize = 4;
/// Most connections that have not said who they are.
const MAX_GREETINGS: usize = 1024;
/// Those of other users are among the first so many, and so leave room.
const MAX_FOREIGN_GREETINGS: usize = 64;

/// Most of them whose segments are mapped: those beyond are refused, and call in the usual way.
pub(crate) const MAX_EARLY: usize = 64;

/// A connection that is no link yet.
#[derive(Debug)]
pub(crate) struct Awaited {
    stream: OwnedFd,
    pub(crate) since: Time,
    /// What it has brought before it calls.
    early: Option<Box<Early>>,
}

impl Awaited {
    pub(crate) fn stream(&self) -> &OwnedFd {
        &self.stream
    }
}

#[cfg(test)]
impl Awaited {
    pub(crate) fn has_brought(&self) -> bool {
        self.early.is_some()
    }
}

/// Segment and doorbell of one that may call later, and who that is.
#[derive(Debug)]
struct Early {
    node: NodeId,
    incarnation: u64,
    segment: PeerSegment,
    bell: OwnedFd,
}

impl ShmRail {
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
    pub(crate) fn pause_listening(&mut self, errno: nix::Error, now: Time) {
        tracing::warn!(reason = errno.desc(), "connections wait");
        self.poller.forget(&self.listener);
        self.foreign.iter().for_each(|foreign| self.poller.forget(&foreign.listener));
        self.listen_again = Some(now.after(LISTEN_PAUSE_NS));
    }

    /// A connection that is not yet a link has something to say.
    pub(crate) fn greet<S: Sink>(&mut self, place: u32, sink: &mut S) {
        if let Some(awaited) = self.greetings.get_mut(place as usize).and_then(Option::take) {
            self.poller.forget(&awaited.stream);
            self.hear_awaited(awaited, sink);
        }
    }

    pub(crate) fn hear_greeting<S: Sink>(&mut self, stream: OwnedFd, since: Time, sink: &mut S) {
        self.hear_awaited(Awaited { stream, since, early: None }, sink);
    }

    fn hear_awaited<S: Sink>(&mut self, awaited: Awaited, sink: &mut S) {
        let Awaited { stream, since, early } = awaited;
        let heard = self.user_of(&stream).and_then(|user| hear_as(user, &stream));
        match heard {
            Ok(Heard::Greeting(greeting)) => self.answer(stream, greeting, sink),
            Ok(Heard::Other(Packet::Nothing)) => self.await_greeting(Awaited { stream, since, early }),
            Ok(Heard::Early(hello, segment, bell)) if early.is_none() => {
                match self.look_at_early(&hello, &segment, bell) {
                    Ok(early) => {
                        socket::send_ready(&stream);
                        self.await_greeting(Awaited { stream, since, early: Some(early) });
                    }
                    Err(refusal) => refuse(&stream, &refusal),
                }
            }
            Ok(Heard::Call(hello)) => match early {
                Some(early) if (early.node, early.incarnation) == (hello.node, hello.incarnation) => {
                    let Early { segment, bell, .. } = *early;
                    let (segment, bell) = (Brought::Mapped(segment), Doorbell::Event(bell));
                    self.answer(stream, Greeting { user: None, hello, segment, bell }, sink);
                }
                _ => refuse(&stream, &misbehaved("it calls, and has not brought its segment")),
            },
            Ok(Heard::Early(..)) => refuse(&stream, &misbehaved("it brings two segments")),
            // Somebody only looked whether we live.
            Ok(Heard::Other(_)) => {}
            Err(refusal) => refuse(&stream, &refusal),
        }
    }

    /// Maps what one has brought that may call later.
    fn look_at_early(&self, hello: &Hello, segment: &OwnedFd, bell: OwnedFd) -> Result<Box<Early>, Refusal> {
        if self.greetings.iter().flatten().filter(|one| one.early.is_some()).count() >= MAX_EARLY {
            return Err(Refusal::new(Error::Again, "too many have brought what they do not use"));
        }
        self.check_parted()?;
        let (node, incarnation) = (hello.node, hello.incarnation);
        let segment = self.look_at_brought(segment, &bell, (node.bytes(), incarnation))?;
        Ok(Box::new(Early { node, incarnation, segment, bell }))
    }

    /// Watches a connection until it says who it is, or that it calls.
    fn await_greeting(&mut self, awaited: Awaited) {
        let stream = &awaited.stream;
        let place = self.greetings.iter().position(Option::is_none).unwrap_or(self.greetings.len());
        let is_own = self.user_of(stream) == Ok(User::Own);
        if place >= if is_own { MAX_GREETINGS } else { MAX_FOREIGN_GREETINGS } {
            tracing::warn!(limit = MAX_GREETINGS, "connection refused: too many have not said who they are");
            return;
        }
        if self.poller.watch(stream, Watched::Greeting(place as u32)).is_ok() {
            if place == self.greetings.len() {
                self.greetings.push(None);
            }
            self.greetings[place] = Some(awaited);
        }
    }

    /// Drops connections that did not say in time who they are.
    pub(crate) fn drop_silent(&mut self, now: Time) {
        for entry in &mut self.greetings {
            if let Some(awaited) = entry.take_if(|one| now.since(one.since) > GREETING_NS) {
                self.poller.forget(&awaited.stream);
                tracing::warn!("connection dropped: it did not say who it is within 5 s");
            }
        }
        while self.greetings.pop_if(|entry| entry.is_none()).is_some() {}
    }

    /// Answers a call, or rejects it.
    fn answer<S: Sink>(&mut self, stream: OwnedFd, greeting: Greeting, sink: &mut S) {
        match self.agree(&stream, greeting, sink) {
            Ok((index, live)) => self.establish(index, stream, live, sink),
            Err(refusal) => refuse(&stream, &refusal),
        }
    }

    /// Joins a caller: the link's index, and what is to become its live part.
    fn agree<S: Sink>(
        &mut self,
        stream: &OwnedFd,
        greeting: Greeting,
        sink: &mut S,
    ) -> Result<(u32, Live), Refusal> {
        self.check_parted()?;
        self.hear_of_loss(&greeting, sink);
        if let Some(index) = self.own_call(&greeting)? {
            return match self.join_and_answer(index, stream, greeting) {
                Ok(live) => {
                    self.forget_call(index);
                    Ok((index, live))
                }
                Err(refusal) => {
                    // The peer has given way, or will: nobody else will end our call.
                    self.finish(index, refusal.clone(), sink);
                    Err(refusal)
                }
            };
        }
        let (user, node, incarnation) = (greeting.user, greeting.hello.node, greeting.hello.incarnation);
        let block = self.take_block(user)?;
        let index = self.links.len() as u32;
        // Who is refused does not hear before that he is not: he might leave another link for this one.
        let agreed = self
            .join(block.arena(&self.arena), block.line, greeting)
            .and_then(|live| Ok((live, introduce(sink, user, LinkId(index), (node, incarnation))?)));
        let (live, peer) = match agreed {
            Ok(agreed) => agreed,
            Err(refusal) => {
                self.give_block(block);
                return Err(refusal);
            }
        };
        self.enter(Link::new(peer, node, block));
        if let Err(refusal) = self.answer_from(index, stream) {
            self.finish(index, refusal.clone(), sink);
            return Err(refusal);
        }
        Ok((index, live))
    }

    /// Says what a link has to offer, once it is sure that there is one.
    fn answer_from(&self, index: u32, stream: &OwnedFd) -> Result<(), Refusal> {
        let link = &self.links[index as usize];
        let pair = link.pair.as_deref();
        self.say_hello(stream, link.block, pair)?;
        kill_point!("connect.answered");
        // While the peer joins.
        pair.map_or(&self.arena, |pair| &pair.arena).touch_block(link.block);
        Ok(())
    }

    /// A node that calls while its link is live here has said before that it has lost that one.
    fn hear_of_loss<S: Sink>(&mut self, Greeting { user, hello, .. }: &Greeting, sink: &mut S) {
        for _ in 0..MOST_WORDS {
            match self.index_of(*user, hello.node) {
                Some(index) if self.links[index as usize].live.is_some() => self.hear(index, sink),
                _ => return,
            }
        }
    }

    /// Joins a caller with the block of our own call.
    fn join_and_answer(&self, index: u32, stream: &OwnedFd, greeting: Greeting) -> Result<Live, Refusal> {
        let link = &self.links[index as usize];
        let pair = link.pair.as_deref();
        let arena = pair.map_or(&self.arena, |pair| &pair.arena);
        let live = self.join(arena, link.block, greeting)?;
        self.say_hello(stream, link.block, pair)?;
        arena.touch_block(link.block);
        Ok(live)
    }

    /// The own call that is dropped in favour of the peer's, if there is one.
    fn own_call(&self, Greeting { user, hello, .. }: &Greeting) -> Result<Option<u32>, Refusal> {
        let local = self.config.local.node;
        if hello.node == local {
            return Err(Refusal::new(Error::PeerMisbehaved, "the peer has our own node id"));
        }
        match self.index_of(*user, hello.node) {
            None => Ok(None),
            Some(index) if self.links[index as usize].live.is_none() && local > hello.node => Ok(Some(index)),
            Some(_) => Err(Refusal::new(Error::InUse, "the two nodes have a link, or are making one")),
        }
    }
}

fn misbehaved(why: &str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}

fn refuse(stream: &OwnedFd, refusal: &Refusal) {
    tracing::info!(reason = %refusal.reason, "connection refused");
    let _ = socket::send_reject(stream, refusal);
}
