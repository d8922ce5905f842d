//! Which connections are read in each round, and which are watched.
//!
//! A few connections are *hot*: each round of polling reads them, and nothing watches them. All others are cold: the watcher
//! says when something comes, and looking at it costs nothing. A connection gets hot when something comes, and cold after some
//! thousand looks in vain.

use gridnet_core::rail::Sink;

use super::TcpRail;
use crate::conn::{Conn, Source};
use crate::frame_in::Ended;
use crate::link::{Link, State};
use crate::path::receive_on;
use crate::watch::{Want, Watched, READING, WRITING};

/// Connections that are read in each round.
pub(super) const HOT_LINKS: usize = 8;
/// Looks in vain, over all hot connections, after which one is cold: about half a millisecond.
const PATIENCE: u32 = 4096;
/// Looks in vain after which the core is asked for from which the peer speaks: it costs a call, as each of them did.
const LONG_WAIT: u32 = 32;

impl TcpRail {
    /// Has a connection read in each round, if there is room.
    pub(crate) fn heat(&mut self, index: u32) {
        if self.hot.len() < HOT_LINKS {
            if let Some(conn) = self.conn(index).filter(|conn| !conn.is_hot) {
                conn.is_hot = true;
                conn.empty = LONG_WAIT;
                self.hot.push(index);
            }
        }
    }

    /// Has a connection watched, or received by the ring where that is asked for.
    pub(super) fn watch(&mut self, index: u32, want: Want) {
        self.watch_unheard(index, want);
        let Some(Link { state: State::Live(conn), .. }) = self.links.get_mut(index as usize) else { return };
        conn.is_hot = false;
        conn.line.out().trim();
        // What TLS has taken from the socket and not handed out wakes nobody.
        if conn.line.stream.has_more() {
            self.noted.push(index);
        }
        let want = match self.arm_receive(index) {
            // The ring tells of what comes, and of the end.
            true if !want.writing => return,
            true => WRITING,
            false => want,
        };
        let Some(Link { state: State::Live(conn), .. }) = self.links.get_mut(index as usize) else { return };
        // Watches that nothing has come of would pile up.
        if conn.watched.is_some_and(|watched| watched.covers(want)) {
            return;
        }
        conn.watched = Some(want);
        if let Err(refusal) = self.watcher.watch(&conn.line.stream, Watched::Link(index), want) {
            tracing::warn!(reason = %refusal.reason, "a connection cannot be watched");
            self.ended.push((index, Ended::Broken(std::io::ErrorKind::OutOfMemory.into())));
        }
    }

    /// Has a connection watched that finds no room among the hot ones.
    pub(crate) fn watch_cold(&mut self, index: u32) {
        self.watch(index, READING);
    }

    /// Has a connection looked at in the next round, whatever the watcher says.
    pub(crate) fn note_ready(&mut self, index: u32) {
        self.noted.push(index);
    }

    /// Reads a connection; returns how many frames came.
    #[inline]
    pub(super) fn receive<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else { return 0 };
        let part_of = link.part_of();
        let State::Live(conn) = &mut link.state else { return 0 };
        let received = match part_of {
            None => conn.receive(&mut self.scratch, link.peer, sink),
            Some(path) => receive_on(conn, path.id(), &mut self.scratch, link.peer, sink),
        };
        if !conn.is_hot && conn.line.stream.has_more() {
            self.noted.push(index);
        }
        note_received(conn, index, received.map(|(taken, _)| taken), &mut self.ended, &mut self.owing)
    }

    /// Has connections watched that were silent for long.
    #[cold]
    pub(super) fn cool_silent(&mut self) {
        let patience = PATIENCE / self.hot.len().max(1) as u32;
        let ring_has_room = self.watcher.receiver().is_some_and(|ring| ring.has_room());
        for at in (0..self.hot.len()).rev() {
            let index = self.hot[at];
            let is_for_ring = |conn: &mut Conn| ring_has_room && conn.is_for_ring();
            if self.conn(index).is_none_or(|conn| conn.empty >= patience || is_for_ring(conn)) {
                self.hot.swap_remove(at);
                self.watch(index, READING);
            }
        }
        self.watcher.submit();
    }

    /// Sees to what the watcher has to say; returns how much happened.
    #[cold]
    pub(super) fn look<S: Sink>(&mut self, sink: &mut S) -> usize {
        let mut ready = std::mem::take(&mut self.ready);
        self.watcher.collect(&mut ready);
        // Each watch speaks once, and connections that are read in each round have none: nothing wakes who sleeps any more.
        self.is_armed &= ready.is_empty() && self.noted.is_empty();
        let mut happened = 0;
        for what in ready.drain(..) {
            happened += match what {
                Watched::Listener(place) => self.accept_all(place, sink),
                Watched::Visitor(number) => self.attend(number, sink),
                Watched::Link(index) => {
                    if let Some(conn) = self.sender(index) {
                        conn.watched = None;
                    }
                    self.attend_link(index, sink)
                }
                Watched::Received(index, arrival) => self.attend_arrival(index, arrival, sink),
                Watched::Pulse(number) => {
                    self.attend_pulse(number);
                    1
                }
                Watched::Door => self.take_adopted(sink),
                Watched::Bell => {
                    self.alarm.rang();
                    1
                }
            };
        }
        self.ready = ready;
        // What is noted meanwhile is for the next round. Watches stay as they are.
        for index in std::mem::take(&mut self.noted) {
            happened += self.attend_link(index, sink);
        }
        self.watcher.submit();
        happened
    }

    pub(super) fn attend_link<S: Sink>(&mut self, index: u32, sink: &mut S) -> usize {
        let found = self.links.get(index as usize);
        match found.map(|link| &link.state) {
            Some(State::Calling(_)) if found.is_some_and(|link| link.part_of().is_some()) => {
                self.go_on_calling_path(index, sink);
                1
            }
            Some(State::Calling(_)) => self.go_on_calling(index, sink),
            Some(State::Unheard(_)) => self.go_on_unheard(index, sink),
            Some(State::Live(conn)) if !conn.is_hot && conn.source == Source::Calls => {
                self.heat(index);
                let taken = self.receive(index, sink);
                if self.conn(index).is_some_and(|conn| !conn.is_hot) {
                    self.watch(index, READING);
                }
                taken
            }
            _ => 0,
        }
    }
}

/// Sees to what came of reading a connection; returns how many frames.
#[inline]
pub(super) fn note_received(
    conn: &mut Conn,
    index: u32,
    received: Result<usize, Ended>,
    ended: &mut Vec<(u32, Ended)>,
    owing: &mut Vec<u32>,
) -> usize {
    if !conn.inbox.paths_over.is_empty() {
        let over = std::mem::take(&mut conn.inbox.paths_over);
        ended.extend(over.into_iter().map(|number| (index, Ended::Path(number))));
    }
    match received {
        Ok(0) => {
            conn.empty += 1;
            0
        }
        Ok(taken) => {
            if conn.empty >= LONG_WAIT && conn.line.stream.is_on_host {
                conn.peer_core = conn.line.stream.last_core();
            }
            conn.empty = 0;
            if conn.owes() && !conn.is_owing {
                conn.is_owing = true;
                owing.push(index);
            }
            taken
        }
        Err(why) => {
            ended.push((index, why));
            1
        }
    }
}
