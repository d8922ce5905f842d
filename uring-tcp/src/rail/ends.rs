//! How links end, and the rail: what they carried is delivered before anybody hears of it.

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, Refusal, Sink};

use super::TcpRail;
use crate::config::Window;
use crate::conn::Conn;
use crate::frame_in::Ended;
use crate::link::{Link, State};
use crate::out::Out;
use crate::socket::refusal_of;
use crate::way::Adopter;

/// How long the end of a rail waits for the systems of peers to take what was sent.
const FAREWELL_NS: u64 = 1_000_000_000;

impl TcpRail {
    /// Has a link ended at the end of the round.
    pub(crate) fn end(&mut self, index: u32, ended: Ended) {
        self.ended.push((index, ended));
    }

    /// Ends the links that have come to their end.
    #[cold]
    pub(crate) fn finish_ended<S: Sink>(&mut self, sink: &mut S) {
        while let Some((index, ended)) = self.ended.pop() {
            if self.links.get(index as usize).is_some_and(|link| link.part_of().is_some()) {
                self.finish_path(index, ended, sink);
                continue;
            }
            let closed = |why: String| (Refusal::new(Error::PeerGone, why), true);
            let (reason, is_broken) = match ended {
                Ended::Bye(0) => (Refusal::new(Error::PeerGone, "the peer has closed its fabric"), false),
                Ended::Bye(_) => (Refusal::new(Error::PeerGone, "the peer has ended the link"), false),
                Ended::Path(number) => {
                    self.hear_of_end(index, number, sink);
                    continue;
                }
                Ended::Closed => closed("the connection was closed without a word".to_owned()),
                Ended::Broken(e) => {
                    self.note_silence(index, &e);
                    closed(format!("the connection broke: {e}"))
                }
                Ended::Misbehaved(refusal) => {
                    if let Some(link) = self.links.get(index as usize) {
                        let node = link.node;
                        tracing::warn!(%node, reason = %refusal.reason, "peer broke the protocol and is cut off");
                    }
                    if let Some(conn) = self.conn(index) {
                        conn.hang_up(i64::from(refusal.error.code()) as u64);
                    }
                    (refusal, false)
                }
            };
            self.finish(index, reason, is_broken, sink);
        }
    }

    /// Ends a link, which may be made anew if it `is_broken`.
    pub(crate) fn finish<S: Sink>(&mut self, index: u32, reason: Refusal, is_broken: bool, sink: &mut S) {
        let kept = self.links.get_mut(index as usize).and_then(Link::whole_mut).and_then(|w| w.kept.take());
        let Some(state) = self.take_down(index) else { return };
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let peer = link.peer;
        tracing::debug!(peer = peer.number(), reason = %reason.reason, "link is over");
        match state {
            // The other's call has not come through, and of this side's nothing was taken.
            State::Awaiting(_) if kept.is_some() => {
                link.state = kept.map_or(State::Over, |kept| State::Broken(kept, 0));
                sink.refused(peer, LinkId(index), Refusal::new(Error::Again, reason.reason));
            }
            State::Live(conn) if is_broken && self.config.retains => {
                link.state = broken_off(*conn, self.config.window);
                sink.broken(peer, LinkId(index), reason);
            }
            State::Unheard(unheard) if is_broken => {
                link.state = cut_off(unheard.conn, self.config.window);
                sink.broken(peer, LinkId(index), reason);
            }
            _ => sink.down(peer, LinkId(index), reason),
        }
    }

    /// A link broke because nobody answered.
    pub(super) fn note_silence(&mut self, index: u32, e: &std::io::Error) {
        if refusal_of(e).error != Error::Unreachable {
            return;
        }
        let silence = self.silence(index).unwrap_or_default();
        if let Some(link) = self.links.get_mut(index as usize).and_then(Link::whole_mut) {
            link.silent_ns = silence.as_nanos() as u64;
        }
    }

    /// Takes a link out of everything; its state, unless it was taken down before.
    pub(crate) fn take_down(&mut self, index: u32) -> Option<State> {
        let link = self.links.get_mut(index as usize)?;
        let state = std::mem::replace(&mut link.state, State::Over);
        if matches!(state, State::Over | State::Broken(..)) {
            return None;
        }
        if let Some(whole) = link.whole_mut() {
            whole.kept = None;
        }
        if self.by_node.get(&link.node) == Some(&index) {
            self.by_node.remove(&link.node);
        }
        for list in [&mut self.hot, &mut self.dirty, &mut self.owing, &mut self.calling] {
            list.retain(|i| *i != index);
        }
        self.ended.retain(|(i, _)| *i != index);
        self.pulses.forget(index);
        self.drop_paths(index);
        Some(state)
    }

    /// Ends a link as if it had broken.
    pub(super) fn break_off(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let kept = link.whole_mut().and_then(|whole| whole.kept.take());
        if self.sender(index).is_none() && kept.is_none() {
            return;
        }
        let window = self.config.window;
        let left = match (self.take_down(index), kept) {
            (Some(State::Live(conn)), _) => broken_off(*conn, window),
            (Some(State::Unheard(unheard)), _) => cut_off(unheard.conn, window),
            (_, Some(kept)) => State::Broken(kept, 0),
            _ => return,
        };
        if let Some(link) = self.links.get_mut(index as usize) {
            link.state = left;
        }
    }

    /// Ends a link, or gives back what is left of one.
    pub(super) fn hang_up(&mut self, index: u32) {
        if let Some(found) = self.links.get_mut(index as usize) {
            if matches!(found.state, State::Broken(..)) {
                found.state = State::Over;
            }
        }
        match self.take_down(index) {
            Some(State::Live(mut conn)) => conn.hang_up(0),
            Some(State::Unheard(mut unheard)) => unheard.conn.hang_up(0),
            _ => {}
        }
    }

    /// What went by a connection that ends: what the network still holds is dropped with the socket.
    pub(crate) fn take_out(&self, conn: &Conn) -> Out {
        conn.line.stream.end();
        std::mem::replace(&mut *conn.line.out(), Out::new(self.config.window, true))
    }
}

impl Drop for TcpRail {
    fn drop(&mut self) {
        let is_home = std::process::id() == self.process;
        let mut leaving = Vec::new();
        if is_home {
            // Watches, and forked children, may hold copies of the descriptors: closing ours would not end them.
            self.listeners.sockets.iter().for_each(end_listening);
            // In a forked child another thread's lock might never be given back.
            self.adopter.iter().for_each(Adopter::close);
        }
        for link in self.links.drain(..) {
            match link.state {
                State::Live(conn) if !is_home => conn.line.stream.leave(),
                // What it carries is worth nothing without its link.
                State::Live(_) if link.part_of().is_some() => {}
                State::Live(mut conn) => {
                    conn.hang_up(0);
                    leaving.push(*conn);
                }
                State::Unheard(unheard) if !is_home => unheard.leave(),
                State::Unheard(mut unheard) => {
                    unheard.conn.hang_up(0);
                    leaving.push(unheard.conn);
                }
                State::Calling(call) if !is_home => call.leave(),
                _ => {}
            }
        }
        if !is_home {
            self.courier.leave();
            self.visitors.drain().for_each(|(_, visitor)| visitor.leave());
            self.pulses.leave();
        }
        say_farewell(leaving);
    }
}

/// What is left of a connection that delivers nothing any more: what the network still holds is dropped with the socket.
fn broken_off(conn: Conn, window: Window) -> State {
    let Conn { line, inbox, .. } = conn;
    line.stream.end();
    let out = std::mem::replace(&mut *line.out(), Out::new(window, true));
    State::Broken(Box::new(out), inbox.delivered)
}

/// The same of one of which the peer may not know: what is under way is not to come there later.
fn cut_off(conn: Conn, window: Window) -> State {
    conn.line.stream.reset();
    broken_off(conn, window)
}

fn end_listening(socket: &socket2::Socket) {
    // An error says that it is over already.
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Waits, for a bounded time, until the systems of the peers have what was sent.
fn say_farewell(mut leaving: Vec<Conn>) {
    let start = std::time::Instant::now();
    loop {
        leaving.retain_mut(|conn| !conn.finish_hanging_up());
        if leaving.is_empty() {
            return;
        }
        if start.elapsed().as_nanos() as u64 > FAREWELL_NS {
            tracing::warn!(links = leaving.len(), "peers do not take what was sent before the fabric closed");
            return;
        }
        std::thread::yield_now();
    }
}
