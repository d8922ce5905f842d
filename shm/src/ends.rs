//! How links end, and the rail: what they held is given back, and whoever may still read it is waited for.

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::rail::{LinkId, Refusal, Sink};

use crate::foreign::Foreign;
use crate::leftovers::Leftover;
use crate::link::Live;
use crate::rail::ShmRail;
use crate::socket;

#[cfg(test)]
mod tests;

impl ShmRail {
    /// Takes down the links whose peers broke the protocol.
    #[cold]
    pub(crate) fn cut_broken<S: Sink>(&mut self, sink: &mut S) {
        while let Some((index, refusal)) = self.broken.pop() {
            let node = self.links[index as usize].node;
            if refusal.error == Error::Unreachable {
                self.break_link(index, &refusal.reason, sink);
                continue;
            }
            tracing::warn!(node = %node, reason = %refusal.reason, "peer broke the protocol and is cut off");
            self.finish(index, refusal, sink);
        }
    }

    /// The peer has ended, or closed its fabric: what it had published is delivered, then the link is over.
    pub(crate) fn finish_drained<S: Sink>(&mut self, index: u32, why: &str, sink: &mut S) {
        let slots = self.arena.slots().max(gridnet_core::ring::slot::MAX_SLOTS) as usize;
        self.deliver(index, slots, sink);
        let broken =
            self.broken.iter().position(|(i, _)| *i == index).map(|at| self.broken.swap_remove(at).1);
        self.finish(index, broken.unwrap_or_else(|| Refusal::new(Error::PeerGone, why)), sink);
    }

    pub(crate) fn finish<S: Sink>(&mut self, index: u32, reason: Refusal, sink: &mut S) {
        if self.release(index) {
            let peer = self.links[index as usize].peer;
            tracing::debug!(peer = peer.number(), reason = %reason.reason, "link is over");
            sink.down(peer, LinkId(index), reason);
        }
    }

    /// A link is over, while its peer lives: the conversation may go on over another.
    pub(crate) fn break_link<S: Sink>(&mut self, index: u32, why: &str, sink: &mut S) {
        if self.fence_link(index, why) {
            let peer = self.links[index as usize].peer;
            sink.broken(peer, LinkId(index), Refusal::new(Error::Unreachable, why));
        }
    }

    /// Ends a live link as far as frames go, and says so to the peer; what the peer has not got is kept. False when it was not
    /// live.
    pub(crate) fn fence_link(&mut self, index: u32, why: &str) -> bool {
        let Some(link) = self.links.get_mut(index as usize) else { return false };
        let Some(mut live) = link.live.take() else {
            // Whoever answers this call yet is not to take its end for that of the process.
            if let Some(stream) = link.socket.as_ref().filter(|_| link.kept.is_none()) {
                let _ = socket::send_reject(stream, &Refusal::new(Error::Unreachable, why));
            }
            return false;
        };
        live.fence();
        if let Some(stream) = &link.socket {
            self.poller.forget(stream);
            // Who does not hear it any more has left, or will be told so by the next link.
            let _ = socket::send_reject(stream, &Refusal::new(Error::Unreachable, why));
        }
        tracing::debug!(peer = link.peer.number(), reason = why, "link is broken");
        link.kept = Some(Box::new(live));
        self.forget_node(index);
        self.read_on.push(index);
        self.stop_polling(index);
        true
    }

    /// The node of a link may have another from now on.
    fn forget_node(&mut self, index: u32) {
        let link = &self.links[index as usize];
        match (&link.pair, &mut self.foreign) {
            (Some(pair), Some(foreign)) => foreign.forget(pair.user, link.node, index),
            _ if self.by_node.get(&link.node) == Some(&index) => drop(self.by_node.remove(&link.node)),
            _ => {}
        }
    }

    /// Loans of earlier links to the same peer are read on: a new link looks after their memory.
    pub(crate) fn pass_on_loans(&mut self, index: u32, live: &mut Live) {
        let peer = self.links[index as usize].peer;
        for at in (0..self.read_on.len()).rev() {
            let Some(old) = self.links.get_mut(self.read_on[at] as usize) else { continue };
            if old.peer != peer {
                continue;
            }
            let read = old.kept.as_mut().map_or_else(|| old.read.take(), |kept| kept.take_read());
            read.into_iter().for_each(|read| live.inherit(read));
            self.read_on.swap_remove(at);
        }
    }

    /// Gives everything back that a link holds, what its peer may still read as soon as it cannot; false when that was done
    /// before.
    pub(crate) fn release(&mut self, index: u32) -> bool {
        let Some(link) = self.links.get_mut(index as usize).filter(|link| !link.over) else {
            return false;
        };
        link.over = true;
        // A forked child may hold copies, which would keep connection and watches alive beyond our close.
        let stream = link.socket.take();
        stream.iter().for_each(|stream| self.poller.forget(stream));
        self.calls -= usize::from(link.live.is_none() && link.kept.is_none());
        let mut left = Leftover { block: link.block, staging: Vec::new() };
        if let Some(live) = link.live.take().or(link.kept.take().map(|kept| *kept)) {
            self.rung_by_ended += live.rung();
            (left.staging, link.read) = live.end();
            if link.read.is_some() && !self.read_on.contains(&index) {
                // The next link to the same peer looks after them.
                self.read_on.push(index);
            }
        }
        let node = link.node;
        match link.pair.take() {
            None => self.leftovers.leave(left, stream, &mut self.arena, &self.poller),
            // Its memory is nobody else's, and goes.
            Some(pair) => {
                stream.iter().for_each(socket::hang_up);
                self.pairs -= 1;
                if let Some(foreign) = &mut self.foreign {
                    foreign.forget(pair.user, node, index);
                }
            }
        }
        if self.by_node.get(&node) == Some(&index) {
            self.by_node.remove(&node);
        }
        self.end_vigil();
        self.stop_polling(index);
        true
    }

    /// Nobody is left whose end is to be noticed.
    fn end_vigil(&mut self) {
        if self.by_node.is_empty() && self.pairs == 0 && self.leftovers.is_empty() {
            self.vigil.end();
        }
    }

    /// Takes back what peers have left that were cut off.
    pub(crate) fn look_at_leftovers(&mut self) {
        if !self.leftovers.is_empty() {
            self.leftovers.look(&mut self.arena, &self.poller);
            self.end_vigil();
        }
    }

    /// Ends the links to some of the peers whose processes have ended, though somebody keeps their connections.
    pub(crate) fn bury_dead<S: Sink>(&mut self, sink: &mut S) {
        let mut due: Vec<u32> = self.vigil.due(&self.by_node);
        due.extend(self.foreign.iter().flat_map(Foreign::links));
        for index in due {
            let stream = self.links.get(index as usize).and_then(|link| link.socket.as_ref());
            if stream.is_some_and(|stream| !socket::is_peer_alive(stream)) {
                self.finish_drained(index, "the peer process has ended", sink);
            }
        }
    }

    /// A peer whose consumed count lied is cut off; sends to it were refused meanwhile.
    pub(crate) fn find_corrupt(&mut self) {
        for index in self.hot.iter().chain(&self.cold) {
            let live = self.links.get(*index as usize).and_then(|link| link.live.as_ref());
            if live.is_some_and(Live::is_corrupt) {
                let why = "the peer says that it consumed more than it was sent";
                self.broken.push((*index, Refusal::new(Error::PeerMisbehaved, why)));
            }
        }
    }
}

impl Drop for ShmRail {
    fn drop(&mut self) {
        // In a forked child the files still belong to the parent.
        if self.process != std::process::id() {
            return;
        }
        kill_point!("close.begin");
        self.end_all_records();
        kill_point!("close.regions");
        self.exposures.end_all(&self.arena);
        kill_point!("close.concealed");
        self.dir.unregister(self.config.local.node, self.config.name.as_deref());
        kill_point!("close.unregistered");
        // A forked child may hold copies of these: closing ours would not end them.
        self.links.iter().filter_map(|link| link.socket.as_ref()).for_each(socket::hang_up);
        self.early.iter().for_each(|one| socket::hang_up(one.stream()));
        self.greetings.iter().flatten().for_each(|one| socket::hang_up(one.stream()));
        kill_point!("close.links");
        socket::hang_up(&self.listener);
        kill_point!("close.listener");
        self.foreign.iter().for_each(|foreign| socket::hang_up(&foreign.listener));
    }
}
