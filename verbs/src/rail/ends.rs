//! How links end, and the rail: what they carried is delivered before anybody hears of it.

use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, Refusal, Sink};
use gridnet_core::time::Time;

use super::link::{Link, State};
use super::VerbsRail;
use crate::conn::{Ended, MAX_WORDS};
use crate::hello::{heard_bye, BYE, READY, REFUSAL};
use crate::visitor::VISIT_NS;
use crate::wire::Heard;

/// How long a side that has given way waits for the other's call, or one that was called until the caller is ready.
const MAKING_NS: u64 = 5_000_000_000;
/// How long what was sent before a last word may take to arrive.
const LEAVING_NS: u64 = 1_000_000_000;
/// The same when the rail ends, and its process waits for that: as long as the rail tcp does.
const FAREWELL: Duration = Duration::from_secs(1);

/// What was heard beside a link.
enum Words {
    /// Something, and there may be more.
    More,
    /// The end of the connection.
    Last,
    /// Nothing.
    None,
}

impl VerbsRail {
    /// Something was said over the connection beside a link.
    pub(super) fn hear<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        // What was read with a packet is told of by nothing, so all of it is looked at. Nobody has as much to say.
        for heard in 0..MAX_WORDS {
            match self.hear_one(index, sink) {
                Words::More => {}
                Words::Last => return heard + 1,
                Words::None => return heard,
            }
        }
        let why = Refusal::new(Error::PeerMisbehaved, "it says too much");
        self.end(index, Ended::Misbehaved(why));
        MAX_WORDS
    }

    fn hear_one<S: Sink>(&mut self, index: u32, sink: &mut S) -> Words {
        let heard = match self.state(index) {
            Some(State::Calling(_)) => {
                return if self.go_on_calling(index, sink) > 0 { Words::More } else { Words::None };
            }
            Some(State::Settling(conn) | State::Live(conn) | State::Leaving(conn)) => conn.wire.hear(),
            _ => return Words::None,
        };
        let is_end = matches!(heard, Heard::End | Heard::Broken(_));
        match heard {
            Heard::Nothing => return Words::None,
            Heard::Packet(READY, _) => self.establish(index, sink),
            Heard::Packet(BYE, said) => self.hear_bye(index, &said, sink),
            Heard::Packet(REFUSAL, said) => {
                let refusal = crate::hello::refused(&said);
                self.finish(index, refusal, false, sink);
            }
            Heard::Packet(..) => {
                let why = Refusal::new(Error::PeerMisbehaved, "a packet that does not belong there");
                self.end(index, Ended::Misbehaved(why));
            }
            Heard::End => self.hear_end(index, "the connection was closed without a word", sink),
            Heard::Broken(e) => self.hear_end(index, &format!("the connection broke: {e}"), sink),
        }
        if is_end {
            Words::Last
        } else {
            Words::More
        }
    }

    /// The peer has said its last word.
    fn hear_bye<S: Sink>(&mut self, index: u32, said: &[u8], sink: &mut S) {
        let Some((is_cut_off, count)) = heard_bye(said) else {
            let why = Refusal::new(Error::PeerMisbehaved, "a last word that cannot be");
            return self.end(index, Ended::Misbehaved(why));
        };
        match self.state(index) {
            Some(State::Live(conn)) if is_cut_off => {
                let _ = conn;
                self.finish(index, Refusal::new(Error::PeerGone, "the peer has ended the link"), false, sink);
            }
            Some(State::Live(conn)) if conn.last.is_none() => {
                conn.last = Some(count);
                if let Some(link) = self.links.get_mut(index as usize) {
                    link.since = None;
                }
                self.timed.push(index);
                self.drain(sink);
                self.end_after_last(index);
                self.finish_ended(sink);
            }
            _ => {
                self.finish(index, Refusal::new(Error::PeerGone, "the peer has ended the link"), false, sink)
            }
        }
    }

    /// Ends a link whose peer has said its last word, when all that it had sent was taken.
    pub(super) fn end_after_last(&mut self, index: u32) {
        let Some(State::Live(conn)) = self.state(index) else { return };
        if conn.last.is_some_and(|last| conn.taken() >= last) {
            self.end(index, Ended::Bye);
        }
    }

    /// The connection beside a link is over.
    fn hear_end<S: Sink>(&mut self, index: u32, why: &str, sink: &mut S) {
        match self.state(index) {
            Some(State::Leaving(_)) => self.leave(index),
            Some(State::Live(conn)) if conn.last.is_some() => {
                // It has gone, and what it sent may still be on its way. It would be told of for ever.
                let State::Live(conn) = &self.links[index as usize].state else { return };
                self.watcher.forget(&conn.wire);
            }
            Some(State::Live(_)) => {
                self.drain(sink);
                self.end(index, Ended::Broken(Refusal::new(Error::PeerGone, why), 0));
                self.finish_ended(sink);
            }
            _ => self.finish(index, Refusal::new(Error::Unreachable, why), false, sink),
        }
    }

    /// Ends the links that have come to their end.
    pub(super) fn finish_ended<S: Sink>(&mut self, sink: &mut S) {
        while let Some((index, ended)) = self.ended.pop() {
            match ended {
                Ended::Bye => {
                    let why = Refusal::new(Error::PeerGone, "the peer has closed its fabric");
                    self.finish(index, why, false, sink);
                }
                Ended::Broken(why, silent_ns) => {
                    if let Some(link) = self.links.get_mut(index as usize) {
                        link.silent_ns = silent_ns;
                    }
                    self.finish(index, why, true, sink);
                }
                Ended::Misbehaved(why) => {
                    let device = &mut *self.device;
                    if let Some(link) = self.links.get_mut(index as usize) {
                        let node = link.node;
                        tracing::warn!(%node, reason = %why.reason, "peer broke the protocol and is cut off");
                        if let State::Live(conn) | State::Settling(conn) = &mut link.state {
                            conn.hang_up(device, true);
                        }
                    }
                    self.finish(index, why, false, sink);
                }
            }
        }
    }

    /// Ends a link, which may be made anew if it `is_broken`.
    pub(super) fn finish<S: Sink>(&mut self, index: u32, reason: Refusal, is_broken: bool, sink: &mut S) {
        let Some(state) = self.take_down(index) else { return };
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let peer = link.peer;
        tracing::debug!(peer = peer.number(), reason = %reason.reason, "link is over");
        match state {
            State::Live(conn) if is_broken && self.retains => {
                link.state = State::Broken(Box::new(conn.fence(&mut *self.device)));
                sink.broken(peer, LinkId(index), reason);
            }
            // Nobody listens to those any more.
            State::Leaving(conn) => drop(conn.fence(&mut *self.device)),
            State::Live(conn) | State::Settling(conn) => {
                drop(conn.fence(&mut *self.device));
                sink.down(peer, LinkId(index), reason);
            }
            State::Calling(call) => {
                call.give_up(&mut *self.device);
                sink.down(peer, LinkId(index), reason);
            }
            _ => sink.down(peer, LinkId(index), reason),
        }
    }

    /// Takes a link out of everything; its state, unless it was taken down before.
    fn take_down(&mut self, index: u32) -> Option<State> {
        let link = self.links.get_mut(index as usize)?;
        let state = std::mem::replace(&mut link.state, State::Over);
        match &state {
            State::Over => return None,
            State::Broken(_) => {
                link.state = state;
                return None;
            }
            State::Calling(call) => call.wire().into_iter().for_each(|wire| self.watcher.forget(wire)),
            State::Settling(conn) | State::Live(conn) | State::Leaving(conn) => {
                self.watcher.forget(&conn.wire)
            }
            State::Awaiting => {}
        }
        if self.by_node.get(&link.node) == Some(&index) {
            self.by_node.remove(&link.node);
        }
        self.forget_pairs(index);
        self.timed.retain(|i| *i != index);
        self.ended.retain(|(i, _)| *i != index);
        Some(state)
    }

    /// Ends a link as if it had broken.
    pub(super) fn break_off(&mut self, index: u32) {
        if !matches!(self.state(index), Some(State::Live(_))) {
            return;
        }
        if let Some(State::Live(conn)) = self.take_down(index) {
            let remains = conn.fence(&mut *self.device);
            self.links[index as usize].state = State::Broken(Box::new(remains));
        }
    }

    /// Ends a link, or gives back what is left of one.
    pub(super) fn hang_up(&mut self, index: u32) {
        let device = &mut *self.device;
        let Some(link) = self.links.get_mut(index as usize) else { return };
        match std::mem::replace(&mut link.state, State::Over) {
            State::Broken(remains) => drop(remains),
            State::Live(mut conn) => {
                conn.hang_up(device, false);
                device.progress();
                link.state = State::Leaving(conn);
                link.since = None;
                let node = link.node;
                if self.by_node.get(&node) == Some(&index) {
                    self.by_node.remove(&node);
                }
                self.timed.push(index);
            }
            state => {
                link.state = state;
                match self.take_down(index) {
                    Some(State::Calling(call)) => call.give_up(&mut *self.device),
                    Some(State::Settling(conn)) => drop(conn.fence(&mut *self.device)),
                    _ => {}
                }
            }
        }
    }

    /// Everything has arrived that was sent before the last word, or never will.
    pub(super) fn leave(&mut self, index: u32) {
        if let Some(State::Leaving(mut conn)) = self.take_down(index) {
            conn.hear_out();
            drop(conn.fence(&mut *self.device));
        }
    }

    /// Ends what takes too long; returns how much happened.
    pub(super) fn check_times<S: Sink>(&mut self, now: Time, sink: &mut S) -> usize {
        self.drop_late_visitors(now);
        self.wake_listener(now);
        let mut happened = 0;
        for at in (0..self.timed.len()).rev() {
            let Some(&index) = self.timed.get(at) else { continue };
            let Some(link) = self.links.get_mut(index as usize) else { continue };
            let late = match &mut link.state {
                State::Calling(call) => call.is_late(now),
                State::Leaving(conn) if conn.is_done() => {
                    self.leave(index);
                    continue;
                }
                _ => {
                    let most = if matches!(link.state, State::Awaiting | State::Settling(_)) {
                        MAKING_NS
                    } else {
                        LEAVING_NS
                    };
                    let since = *link.since.get_or_insert(now);
                    (now.since(since) > most)
                        .then(|| Refusal::new(Error::Timeout, "the peer's call does not come to its end"))
                }
            };
            let Some(why) = late else { continue };
            happened += 1;
            match link.state {
                State::Leaving(_) => self.leave(index),
                // It has said its last word, and what is missing does not come any more.
                State::Live(_) => self.end(index, Ended::Bye),
                _ => self.finish(index, why, false, sink),
            }
        }
        happened
    }

    /// When [`Self::check_times`] has to be called.
    pub(super) fn next_time(&self) -> Option<Time> {
        let after = |since: Option<Time>, most| since.map_or(Time(0), |since| since.after(most + 1));
        let links = self.timed.iter().filter_map(|index| {
            let link = self.links.get(*index as usize)?;
            Some(match &link.state {
                State::Calling(call) => call.deadline(),
                State::Awaiting | State::Settling(_) => after(link.since, MAKING_NS),
                _ => after(link.since, LEAVING_NS),
            })
        });
        let visits = self.visitors.values().map(|visitor| after(visitor.since, VISIT_NS));
        links.chain(visits).chain(self.rests_until).min()
    }
}

impl Drop for VerbsRail {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // A forked child has copies of the descriptors, and nothing to say.
            return;
        }
        let all = 0..self.links.len() as u32;
        all.clone().for_each(|index| self.hang_up(index));
        let start = Instant::now();
        while all
            .clone()
            .any(|index| matches!(self.state(index), Some(State::Leaving(conn)) if !conn.is_done()))
        {
            self.device.progress();
            // Who hangs up, too, takes nothing any more.
            let has_gone = |link: &Link| matches!(&link.state, State::Leaving(conn) if conn.wire.has_ended());
            let gone: Vec<u32> =
                all.clone().filter(|index| self.links.get(*index as usize).is_some_and(has_gone)).collect();
            gone.into_iter().for_each(|index| self.leave(index));
            let mut completions = std::mem::take(&mut self.completions);
            if completions.is_empty() && self.device.poll_cq(&mut completions).is_err() {
                break;
            }
            for wc in completions.drain(..) {
                let Some(index) = self.by_qp.get(&wc.qp).copied() else { continue };
                if let Some(State::Leaving(conn)) = self.state(index) {
                    if conn.qp == wc.qp && conn.wind_up(&wc) {
                        self.leave(index);
                    }
                }
            }
            self.completions = completions;
            if start.elapsed() > FAREWELL {
                tracing::warn!("peers do not take what was sent before the fabric closed");
                break;
            }
            std::thread::yield_now();
        }
        all.for_each(|index| self.leave(index));
    }
}
