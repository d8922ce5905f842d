//! Links over which frames go behind the greeting of this side, before the other side's has come: who was called is known by TLS, and what
//! it will say [by another way](gridnet_core::rail::Rail::connect_unheard).
//!
//! Frames go as over any link; what comes is the handshake, and is heard as in a [call](crate::call). With its end the link is live. Of
//! one that is refused the peer has taken nothing. Of two that cross one is refused, and what went by that one is kept, and goes first
//! by the other: which has to wait until then, as nothing may go by both.

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, PeerId, Posted, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Frame, NetAddresses, Preface};

use crate::call::{Call, HANDSHAKE_READ};
use crate::config::TcpConfig;
use crate::conn::{Conn, Outcome};
use crate::handshake::{Agreed, Caller, Inbox, Step, Stranger};
use crate::link::{Link, State};
use crate::rail::TcpRail;
use crate::socket::Moved;
use crate::visitor::Visitor;
use crate::watch::{Want, Watched};

/// How long the other side may take to greet: as for a call. It has shown who it is, so that it runs, and its host answers.
pub(crate) const UNHEARD_NS: u64 = 3_000_000_000;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Unheard {
    pub(crate) conn: Conn,
    caller: Caller,
    inbox: Inbox,
    /// What the other side is to say of itself.
    preface: Preface,
    /// All addresses of the peer.
    there: NetAddresses,
    /// The other's call, which counts as soon as this one is refused.
    crossing: Option<Box<(Visitor, Stranger, Vec<u8>)>>,
    /// Since when; none before the first look at the clock.
    pub(crate) since: Option<Time>,
}

/// How it goes on.
#[derive(Debug)]
enum Heard {
    /// It is to be looked at when its socket is ready.
    Waits,
    /// The other side wants the link.
    Welcome,
    /// It does not, and has taken nothing.
    Refused(Refusal),
    /// Nobody knows what it has taken.
    Broken(String),
    /// What it says cannot be.
    Misbehaved(Refusal),
}

impl Unheard {
    /// Leaves the connections to the process that this one was forked from.
    pub(crate) fn leave(self) {
        self.conn.line.stream.leave();
        if let Some(crossing) = self.crossing {
            let (visitor, ..) = *crossing;
            visitor.leave();
        }
    }

    fn hear(&mut self, config: &TcpConfig) -> Heard {
        loop {
            match self.caller.step(&mut self.inbox, &config.security) {
                Ok(Step::Done(_)) => return Heard::Welcome,
                Ok(Step::Send(_)) => {
                    return Heard::Misbehaved(misbehaved("the handshake has no proof"));
                }
                Ok(Step::Wait) => {}
                Err(refusal) if self.caller.was_refused() => return Heard::Refused(refusal),
                Err(refusal) => return Heard::Misbehaved(refusal),
            }
            let mut buffer = [0; HANDSHAKE_READ];
            match self.conn.line.stream.receive(&mut buffer) {
                Moved::Bytes(len) => self.inbox.push(buffer.get(..len).unwrap_or_default()),
                Moved::Nothing if self.conn.is_broken() => {
                    return Heard::Broken("nothing can be sent any more".to_owned());
                }
                Moved::Nothing => return Heard::Waits,
                Moved::End => return Heard::Broken("the peer hung up before it had greeted".to_owned()),
                Moved::Broken(e) => return Heard::Broken(format!("the connection broke: {e}")),
            }
        }
    }
}

impl TcpRail {
    /// A call has come so far that frames may go.
    pub(crate) fn begin_unheard<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let State::Calling(call) = std::mem::replace(&mut link.state, State::Awaiting(None)) else { return };
        if let Some(whole) = link.whole_mut() {
            whole.tried = call.path().tried;
        }
        let (peer, node, there) = (link.peer, link.node, call.there());
        let Some((stream, (caller, inbox), preface)) = Call::into_unheard(*call) else { return };
        let conn = Conn::new(stream, self.config.window, self.config.retains);
        let unheard = Unheard { conn, caller, inbox, preface, there, crossing: None, since: None };
        link.state = State::Unheard(Box::new(unheard));
        self.config.security.note_linked(node);
        sink.up_unheard(peer);
        self.watch_unheard(index, crate::watch::READING);
    }

    /// Takes a frame for one who has not greeted yet.
    #[cold]
    pub(crate) fn post_unheard(&mut self, index: u32, frame: &Frame<'_>) -> Posted {
        let round = self.round;
        let Some(Link { state: State::Unheard(unheard), .. }) = self.links.get_mut(index as usize) else {
            return Posted::Down;
        };
        let Outcome { posted, waits } = unheard.conn.post(frame, round, &mut self.courier);
        if waits {
            self.note_sent(index);
        }
        posted
    }

    /// Has the connection watched.
    pub(crate) fn watch_unheard(&mut self, index: u32, want: Want) {
        let Some(Link { state: State::Unheard(unheard), .. }) = self.links.get_mut(index as usize) else {
            return;
        };
        let conn = &mut unheard.conn;
        if conn.watched.is_some_and(|watched| watched.covers(want)) {
            return;
        }
        conn.watched = Some(want);
        if let Err(refusal) = self.watcher.watch(&conn.line.stream, Watched::Link(index), want) {
            tracing::warn!(reason = %refusal.reason, "a connection cannot be watched");
            self.note_ready(index);
        }
    }

    /// Something has come of one of them.
    pub(crate) fn go_on_unheard<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let State::Unheard(unheard) = &mut link.state else { return 0 };
        match unheard.hear(&self.config) {
            Heard::Waits => {
                let writing = unheard.conn.waits();
                self.watch_unheard(index, Want { reading: true, writing });
                return 0;
            }
            Heard::Welcome => self.go_live(index, sink),
            Heard::Refused(refusal) if refusal.error == Error::InUse => self.give_way_unheard(index, sink),
            Heard::Refused(refusal) => self.take_refusal(index, refusal, sink),
            Heard::Broken(why) => self.finish(index, Refusal::new(Error::PeerGone, why), true, sink),
            Heard::Misbehaved(refusal) => {
                tracing::warn!(node = %link.node, reason = %refusal.reason, "peer broke the protocol and is cut off");
                self.finish(index, refusal, false, sink);
            }
        }
        1
    }

    /// The other side wants the link.
    fn go_live<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let State::Unheard(unheard) = std::mem::replace(&mut link.state, State::Awaiting(None)) else {
            return;
        };
        let Unheard { conn, caller, inbox, preface, there, .. } = *unheard;
        let agreed: Option<Agreed> = caller.into_agreed();
        if agreed.as_ref().map(|agreed| agreed.preface) != Some(preface) {
            link.state = State::Live(Box::new(conn));
            let why = "the peer greets otherwise than it has said that it would";
            return self.end(index, crate::frame_in::Ended::Misbehaved(misbehaved(why)));
        }
        self.begin_live(index, conn, &inbox.into_rest(), sink);
        self.note_sent(index);
        self.expect_pulse(index);
        self.expect_more(index, agreed, Some(there));
    }

    /// The other's call counts: what went by this one goes by that.
    fn give_way_unheard<S: Sink>(&mut self, index: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let State::Unheard(unheard) = std::mem::replace(&mut link.state, State::Awaiting(None)) else {
            return;
        };
        let out = self.take_out(&unheard.conn);
        if let Some(whole) = self.links.get_mut(index as usize).and_then(Link::whole_mut) {
            whole.kept = Some(Box::new(out));
        }
        self.forget_dirty(index);
        if let Some((visitor, who, bytes)) = unheard.crossing.map(|crossing| *crossing) {
            self.decide(visitor, &who, bytes, sink);
        }
    }

    /// A caller is known. When this side calls it, too, and has sent frames, and the other's call counts, it waits until this one is
    /// refused; else it is given back.
    pub(crate) fn have_wait(
        &mut self,
        visitor: Visitor,
        who: Stranger,
        bytes: Vec<u8>,
    ) -> Option<(Visitor, Stranger, Vec<u8>)> {
        let is_later = self.config.local.node > who.node;
        let index = self.by_node.get(&who.node).copied();
        let link = index.and_then(|index| self.links.get_mut(index as usize));
        match link.filter(|link| is_later && link.incarnation == who.incarnation).map(|link| &mut link.state)
        {
            Some(State::Unheard(unheard)) => {
                unheard.crossing = Some(Box::new((visitor, who, bytes)));
                None
            }
            _ => Some((visitor, who, bytes)),
        }
    }

    /// The other side does not want the link.
    fn take_refusal<S: Sink>(&mut self, index: u32, refusal: Refusal, sink: &mut S) {
        let Some(State::Unheard(unheard)) = self.take_down(index) else { return };
        let out = self.take_out(&unheard.conn);
        let Some(link) = self.links.get_mut(index as usize) else { return };
        link.state = State::Broken(Box::new(out), 0);
        let peer: PeerId = link.peer;
        tracing::debug!(peer = peer.number(), reason = %refusal.reason, "link is refused");
        sink.refused(peer, LinkId(index), refusal);
    }
}

fn misbehaved(why: &'static str) -> Refusal {
    Refusal::new(Error::PeerMisbehaved, why)
}
