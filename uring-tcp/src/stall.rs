//! Which peers take nothing any more, while their hosts answer: their processes are stopped, or do not call.

use std::collections::HashMap;

use gridnet_core::rail::{Sign, Sink};
use gridnet_core::time::Time;

use crate::link::{Link, State};
use crate::rail::TcpRail;

/// Time between two looks: whoever has taken nothing in between stalls.
const LOOK_NS: u64 = 1_000_000_000;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// None before the first look at the clock.
    next_look: Option<Time>,
    /// Somebody who sleeps is to wake up for it.
    is_wanted: bool,
    /// Links whose peers have something to take.
    waiting: HashMap<u32, Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Frames that the peer has acknowledged, and bytes that went out.
    at: [u64; 2],
    stalls: bool,
}

impl Stalls {
    /// There was traffic, and now there is sleep; or something goes to a peer from which nothing has come for long, so that nothing
    /// else says so.
    pub(crate) fn want_look(&mut self) {
        self.is_wanted = true;
    }

    /// When somebody has to look.
    pub(crate) fn next_time(&self) -> Option<Time> {
        self.is_wanted.then(|| self.next_look.unwrap_or(Time(0)))
    }
}

impl TcpRail {
    /// Looks once in a second who has taken something since, and tells.
    pub(crate) fn look_for_stalls<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if now < *self.stalls.next_look.get_or_insert(now.after(LOOK_NS)) {
            return;
        }
        self.stalls.next_look = Some(now.after(LOOK_NS));
        let mut before = std::mem::take(&mut self.stalls.waiting);
        for index in self.by_node.values() {
            let Some(Link { state: State::Live(conn), peer, .. }) = self.links.get(*index as usize) else {
                continue;
            };
            let Some(at) = conn.owed() else { continue };
            let mark = before.remove(index);
            let stalls = mark.is_some_and(|mark| mark.at == at);
            if stalls != mark.is_some_and(|mark| mark.stalls) {
                sink.sign(*peer, Sign::Stalled(stalls));
            }
            self.stalls.waiting.insert(*index, Mark { at, stalls });
        }
        for (index, _) in before.into_iter().filter(|(_, mark)| mark.stalls) {
            if let Some(link) = self.links.get(index as usize) {
                sink.sign(link.peer, Sign::Stalled(false));
            }
        }
        self.stalls.is_wanted = self.stalls.waiting.values().any(|mark| !mark.stalls);
    }
}
