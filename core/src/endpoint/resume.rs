//! How a conversation is taken up over a new link: both sides say how far they came, and send again what was lost.

use super::recover::{conversation_with, LinkEvent, UNTOLD};
use super::replay::LostFrame;
use super::Engine;
use crate::error::Error;
use crate::mem::Gather;
use crate::rail::{LinkId, PeerId, Posted, Rail, Refusal};
use crate::wire::{Kind, Message};

impl<R: Rail> Engine<R> {
    /// Deals with what has happened to links; returns the number of frames that went out.
    pub(super) fn settle_links(&mut self) -> usize {
        let mut moved = 0;
        if self.state.links.len() > 1 {
            // What came over a link that is over counts before anything is said over the next one. One round of polling may have
            // seen the last frames of the one and the beginning of the other.
            self.state.links.make_contiguous().sort_by_key(|event| !event.is_leave());
        }
        for _ in 0..self.state.links.len() {
            match self.state.links.pop_front() {
                Some(LinkEvent::Cut(peer, error, why)) => self.cut_off(peer, &Refusal::new(error, why)),
                Some(LinkEvent::Up(peer)) => moved += self.greet(peer),
                Some(LinkEvent::Resumed(peer)) => {
                    moved += self.greet(peer);
                    self.go_on(peer);
                }
                Some(LinkEvent::Broken(peer, rail, link, keep)) => self.take_leave(peer, (rail, link), keep),
                Some(LinkEvent::Left(peer, rail, link)) => {
                    self.rails[rail].fence(link);
                    // Also what came in between.
                    self.state.forget_pieces(peer, (rail, link));
                    self.take_leave(peer, (rail, link), true);
                }
                Some(LinkEvent::Unused(rail, link)) => {
                    self.rails[rail].fence(link);
                    self.rails[rail].disconnect(link);
                }
                Some(LinkEvent::TakeBack(peer, rail, link)) => self.have_back(peer, (rail, link)),
                Some(LinkEvent::Over(rail, link)) => self.rails[rail].disconnect(link),
                None => break,
            }
        }
        self.conceal_finished();
        moved
    }

    fn cut_off(&mut self, peer: PeerId, why: &Refusal) {
        if let Some((rail, link)) = self.state.peers[peer.index()].live_link() {
            self.rails[rail].disconnect(link);
        }
        self.state.peer_down(peer, why);
    }

    /// Counts what has come over a link that is over.
    fn take_leave(&mut self, peer: PeerId, (rail, link): (usize, LinkId), keep: bool) {
        let (delivered, silent_ns) = (self.rails[rail].delivered(link), self.rails[rail].silent_ns(link));
        if let Some(recovery) = &mut self.state.peers[peer.index()].recovery {
            recovery.delivered += delivered;
            recovery.silent_ns = silent_ns;
        }
        if !keep {
            self.rails[rail].disconnect(link);
        }
    }

    /// Says first of all how far the conversation has come here. Who was called, and does not know with what conversation,
    /// hears that before.
    fn greet(&mut self, peer: PeerId) -> usize {
        let p = &mut self.state.peers[peer.index()];
        let Some(recovery) = p.recovery.as_mut().filter(|r| r.came_up && !r.greeted) else { return 0 };
        if recovery.was_called && recovery.peers_number == 0 {
            return 0;
        }
        let is_first = recovery.start.is_some();
        let yours = match recovery.peers_number {
            0 if !is_first => UNTOLD,
            known => known,
        };
        let (delivered, conversation) = (recovery.delivered, conversation_with(peer));
        let resume = Message::Resume { delivered, conversation, yours };
        match self.rails[p.rail].post(p.link, &resume.frame(Gather::EMPTY)) {
            Posted::Done | Posted::Accepted(_) => recovery.greeted = true,
            Posted::NoResource => {
                self.state.links.push_back(LinkEvent::Up(peer));
                return 0;
            }
            // The rail says so, or has said so.
            Posted::Down | Posted::Failed(_) => return 0,
        }
        if is_first {
            recovery.spoke_first = recovery.heard.is_none();
            if recovery.replay.is_empty() {
                self.state.set_up(peer);
            } else {
                // It went to nobody by a link before.
                self.fit_replay(peer);
                self.flush_replay(peer);
            }
        } else {
            self.go_on(peer);
        }
        1
    }

    /// Goes on over a new link, once both sides have said how far they came.
    fn go_on(&mut self, peer: PeerId) {
        let p = &mut self.state.peers[peer.index()];
        let Some(recovery) = p.recovery.as_mut().filter(|r| r.greeted && r.start.is_none()) else { return };
        let (Some(heard), Some(previous)) = (recovery.heard, recovery.previous) else { return };
        let mut lost = Vec::new();
        let mut keep = |frame: crate::wire::Incoming<'_>| {
            // The receiver asks anew for everything that is missing.
            if frame.kind != Kind::Rtr as u8 {
                lost.extend(LostFrame::of(&frame));
            }
        };
        let rail = &mut self.rails[previous.rail];
        let found = match heard.checked_sub(previous.start) {
            Some(after) => rail.retained(previous.link, after, &mut keep),
            None => Err(Error::PeerMisbehaved),
        };
        if let Err(error) = found {
            return self.cut_off(peer, &Refusal::new(error, "the peer has got what it was never sent"));
        }
        rail.disconnect(previous.link);
        recovery.previous = None;
        recovery.start = Some(heard);
        recovery.replays += lost.len() as u64;
        // What was lost with the last link comes before what it had no time to repeat.
        lost.into_iter().rev().for_each(|frame| recovery.replay.push_front(frame));
        self.fit_replay(peer);
        self.state.ask_again(peer);
        self.flush_replay(peer);
    }

    /// Sends what was lost; after the last of it the peer is up.
    pub(super) fn flush_replay(&mut self, peer: PeerId) -> usize {
        let mut moved = 0;
        let p = &mut self.state.peers[peer.index()];
        let Some(recovery) = &mut p.recovery else { return 0 };
        while let Some(frame) = recovery.replay.front_mut() {
            match frame.post(&mut self.rails[p.rail], p.link) {
                Posted::Done | Posted::Accepted(_) => drop(recovery.replay.pop_front()),
                Posted::NoResource | Posted::Down => {
                    self.state.schedule(peer);
                    return moved;
                }
                Posted::Failed(error) => {
                    let why = Refusal::new(error, "the new link cannot carry what was lost with the old one");
                    self.cut_off(peer, &why);
                    return moved;
                }
            }
            moved += 1;
        }
        self.state.set_up(peer);
        if self.state.is_second_choice(peer) {
            self.state.look_after(peer);
        }
        moved
    }
}
