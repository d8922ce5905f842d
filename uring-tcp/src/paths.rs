//! Several paths of one link: connections between other addresses of the two hosts, over which segments go beside the first.
//!
//! Whoever has called for the link calls for its further paths, one after the other, each from another interface to another
//! address of the peer, and again when one has ended. The handshake is that of a link, and says besides to which link the path
//! belongs, by a proof that only the two sides of that link can make. The kernel gives up a path over which nobody answers; its
//! number is told over the first path, and never used again.
//!
//! In the tables of the rail a path is a link that its peer does not know of.

use std::time::Duration;

use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, Path, PathId, Posted, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Frame, NetAddresses};

use crate::auth::Key;
use crate::call::{say, Call, Progress};
use crate::candidates::further_pairs;
use crate::config::Multirail;
use crate::conn::{Conn, Outcome};
use crate::frame_in::Ended;
use crate::handshake::{welcome, Agreed, Standing, Stranger, Ticket};
use crate::link::{Link, State};
use crate::own::Own;
use crate::path::begin_on;
use crate::rail::TcpRail;
use crate::socket::Stream;
use crate::visitor::Visitor;
use crate::watch::{Want, Watched};

/// How long to wait after a path has ended or could not be made; doubled after each further time.
const FIRST_PAUSE_NS: u64 = 50_000_000;
/// Bytes after which a path is one that carries segments: its handshake has fewer.
const CARRIED_MIN: u64 = 4096;
/// The longest such wait: each try wakes a process that sleeps.
const LONGEST_PAUSE_NS: u64 = 5_000_000_000;
/// How long to wait after the peer has said that it takes no further path at all.
const UNWANTED_PAUSE_NS: u64 = 60_000_000_000;
/// How long a path may say nothing beyond the time after which its kernel asks: two questions.
const SILENCE: Duration = Duration::from_secs(2);
/// Questions of the kernel that stay without an answer.
const QUESTIONS: u32 = 2;

/// Which path of which link an entry of the rail's table is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathOf {
    pub(crate) link: u32,
    pub(crate) number: u32,
}

impl PathOf {
    pub(crate) fn id(self) -> PathId {
        PathId { link: LinkId(self.link), number: self.number }
    }
}

/// The paths of a link beside its first.
#[derive(Debug)]
pub(crate) struct Paths {
    secret: Key,
    /// How many there may be, and between which addresses.
    multirail: Multirail,
    /// Where the peer listens, if this side calls for paths.
    there: Option<NetAddresses>,
    /// Numbers of the paths that are there, and their places in the rail's table.
    live: Vec<(u32, u32)>,
    /// The path that is being called for.
    calling: Option<(u32, u32)>,
    /// The highest number that was ever used.
    last: u32,
    /// When another path is called for, or after how long from now on.
    due: Option<Time>,
    due_in_ns: Option<u64>,
    /// The same, when somebody looks anyhow: there are no addresses left now, or the peer has enough.
    look_at: Option<Time>,
    look_in_ns: Option<u64>,
    pause_ns: u64,
    /// Calls that have failed, one after the other.
    failures: usize,
}

impl Paths {
    fn new(secret: Key, multirail: Multirail, there: Option<NetAddresses>) -> Paths {
        let due_in_ns = there.is_some().then_some(0);
        Paths {
            secret,
            multirail,
            there,
            live: Vec::new(),
            calling: None,
            last: 0,
            due: None,
            due_in_ns,
            look_at: None,
            look_in_ns: None,
            pause_ns: FIRST_PAUSE_NS,
            failures: 0,
        }
    }

    /// No more, as both sides have it.
    fn is_full(&self) -> bool {
        self.live.len() as u32 + 1 >= self.multirail.most()
    }

    fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.live.iter().chain(&self.calling).map(|(_, place)| *place)
    }

    /// There is one.
    pub(crate) fn is_wide(&self) -> bool {
        !self.live.is_empty()
    }

    fn place_of(&self, number: u32) -> Option<u32> {
        self.live.iter().chain(&self.calling).find(|(of, _)| *of == number).map(|(_, place)| *place)
    }

    /// Another path is to be called for after a pause.
    fn try_later(&mut self) {
        if self.there.is_some() {
            self.due_in_ns = Some(self.pause_ns);
            self.pause_ns = (self.pause_ns * 2).min(LONGEST_PAUSE_NS);
        }
    }

    /// A path has ended, or a call for one: when there is to be another. Only the peer itself can say that it wants none now.
    fn note_end(&mut self, reason: Error, is_word_of_peer: bool, has_carried: bool) {
        if has_carried {
            self.pause_ns = FIRST_PAUSE_NS;
        } else {
            self.failures += 1;
        }
        match reason {
            Error::Unsupported if is_word_of_peer => self.look_in_ns = Some(UNWANTED_PAUSE_NS),
            Error::Limit if is_word_of_peer => self.look_in_ns = Some(LONGEST_PAUSE_NS),
            _ => self.try_later(),
        }
    }

    fn is_due(&mut self, now: Time) -> bool {
        if let Some(ns) = self.due_in_ns.take() {
            self.due = Some(now.after(ns));
        }
        if let Some(ns) = self.look_in_ns.take() {
            self.look_at = Some(now.after(ns));
        }
        let is_due = self.due.is_some_and(|at| at <= now) || self.look_at.is_some_and(|at| at <= now);
        if is_due {
            (self.due, self.look_at) = (None, None);
        }
        is_due && self.calling.is_none()
    }
}

/// What a rail keeps of the paths of all links.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    /// Links for which this side calls for paths.
    callers: Vec<u32>,
    /// Places of the rail's table that were those of paths.
    spare: Vec<u32>,
    own: Own,
}

/// When links look again for which there are no addresses now: all at one time, so that the system is asked once for all.
fn next_look(now: Time) -> Time {
    Time((now.0 / LONGEST_PAUSE_NS + 1).saturating_mul(LONGEST_PAUSE_NS))
}

impl TcpRail {
    /// A link has come up: the peer may call for further paths, or this side does, if it knows the addresses of the peer.
    pub(crate) fn expect_paths(&mut self, index: u32, agreed: Option<Agreed>, there: Option<NetAddresses>) {
        let Some(link) = self.links.get(index as usize) else { return };
        let multirail = self.config.security.paths(link.node).unwrap_or(self.config.multirail);
        // Without questions of the kernel nobody would notice a path that has fallen silent.
        if multirail.most() == 1 || self.config.tuning.keep_alive.is_none() {
            return;
        }
        let is_alike = matches!(multirail, Multirail::Alike(_));
        let of_hosts = |addresses: NetAddresses| addresses.iter().filter(|at| !at.ip().is_loopback()).count();
        let several = |addresses: NetAddresses| is_alike || of_hosts(addresses) > 1;
        let Some(Agreed { secret, takes_paths: true, .. }) = agreed else { return };
        // What leads to another way's peer may lead nowhere.
        if self.conn(index).is_some_and(|conn| conn.line.stream.way().is_some()) {
            return;
        }
        let can_be = several(self.listeners.addresses) && there.is_none_or(several);
        if !can_be || self.conn(index).is_none_or(|conn| conn.line.stream.is_on_host && !is_alike) {
            return;
        }
        if there.is_some() {
            self.paths.callers.push(index);
        }
        if let Some(whole) = self.links.get_mut(index as usize).and_then(Link::whole_mut) {
            whole.paths = Some(Box::new(Paths::new(secret, multirail, there)));
        }
    }

    /// Calls for the paths that are due, and ends calls that take too long.
    pub(crate) fn tend_paths<S: Sink>(&mut self, now: Time, sink: &mut S) {
        for at in (0..self.paths.callers.len()).rev() {
            let Some(&index) = self.paths.callers.get(at) else { continue };
            let Some(paths) = self.links.get_mut(index as usize).and_then(Link::paths_mut) else {
                self.paths.callers.swap_remove(at);
                continue;
            };
            let (is_due, calling) = (paths.is_due(now), paths.calling);
            if is_due {
                self.call_for_path(index, now, sink);
            } else if let Some((_, place)) = calling {
                if let Some(State::Calling(call)) = self.links.get_mut(place as usize).map(|l| &mut l.state) {
                    if call.check_time(now) {
                        self.go_on_calling_path(place, sink);
                    }
                }
            }
        }
        self.watcher.submit();
    }

    /// When [`Self::tend_paths`] has to be called.
    pub(crate) fn next_path_time(&self) -> Option<Time> {
        let times = self.paths.callers.iter().filter_map(|index| {
            let paths = self.links.get(*index as usize)?.paths()?;
            let call = paths.calling.and_then(|(_, place)| self.links.get(place as usize));
            let deadline = match call.map(|link| &link.state) {
                Some(State::Calling(call)) => call.deadline(),
                _ => None,
            };
            paths.due_in_ns.map(|_| Time(0)).or(paths.due).into_iter().chain(deadline).min()
        });
        times.min()
    }

    fn call_for_path<S: Sink>(&mut self, index: u32, now: Time, sink: &mut S) {
        let pairs = self.further_pairs_of(index, now);
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let (target, generation) = ((link.node, link.incarnation), link.generation);
        let Some(paths) = link.paths_mut() else { return };
        if paths.is_full() {
            return;
        }
        if pairs.is_empty() {
            // Addresses come and go. Nobody is woken for that.
            paths.look_at = Some(next_look(now));
            return;
        }
        let Some(&pair) = pairs.get(paths.failures % pairs.len()) else { return };
        paths.last += 1;
        let number = paths.last;
        let ticket = Ticket::new(number, &paths.secret);
        let call = Call::further(pair, target, generation, ticket);
        let path = link.path(PathOf { link: index, number }, State::Calling(Box::new(call)));
        let place = self.take_place(path);
        if let Some(paths) = self.links.get_mut(index as usize).and_then(Link::paths_mut) {
            paths.calling = Some((number, place));
        }
        self.go_on_calling_path(place, sink);
    }

    /// Between which addresses further paths of a link may be.
    fn further_pairs_of(&mut self, index: u32, now: Time) -> Vec<(std::net::IpAddr, std::net::SocketAddr)> {
        let Some(paths) = self.links.get(index as usize).and_then(Link::paths) else { return Vec::new() };
        let ends = |place: u32| match &self.links.get(place as usize)?.state {
            State::Live(conn) => Some((conn.line.stream.local()?, conn.line.stream.remote()?)),
            _ => None,
        };
        if matches!(paths.multirail, Multirail::Alike(_)) {
            return ends(index).map(|(from, to)| (from.ip(), to)).into_iter().collect();
        }
        let taken = paths.places().chain([index]).filter_map(ends).map(|(from, to)| (from.ip(), to.ip()));
        let taken: Vec<_> = taken.collect();
        let Some(there) = paths.there else { return Vec::new() };
        further_pairs(self.paths.own.addresses(now), &taken, there.iter(), &self.config.interfaces)
    }

    fn take_place(&mut self, link: Link) -> u32 {
        if let Some(place) = self.paths.spare.pop() {
            if let Some(found) = self.links.get_mut(place as usize) {
                *found = link;
                return place;
            }
        }
        self.links.push(link);
        self.links.len() as u32 - 1
    }

    /// Something has come of a call for a path.
    pub(crate) fn go_on_calling_path<S: Sink>(&mut self, place: u32, sink: &mut S) {
        let Some(link) = self.links.get_mut(place as usize) else { return };
        let (Some(of), State::Calling(call)) = (link.part_of(), &mut link.state) else { return };
        let refusal = match call.step(&self.config) {
            Progress::Waits(want) => match self.watch_path(place, want) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
            Progress::Linked => {
                let state = std::mem::replace(&mut link.state, State::Over);
                let State::Calling(call) = state else { return };
                let Some((stream, rest, _)) = call.into_parts() else { return };
                return self.establish_path(place, of, stream, &rest, sink);
            }
            // Only links are called so.
            Progress::Crossed | Progress::Unheard => {
                Refusal::new(Error::InUse, "the link is not there any more")
            }
            Progress::Failed(refusal) => refusal,
        };
        self.end_path(place, &refusal, sink);
    }

    fn watch_path(&mut self, place: u32, want: Want) -> Result<(), Refusal> {
        let Some(Link { state: State::Calling(call), .. }) = self.links.get(place as usize) else {
            return Ok(());
        };
        call.stream().map_or(Ok(()), |stream| self.watcher.watch(stream, Watched::Link(place), want))
    }

    /// A peer has called for a further path of its link; `bytes` of the handshake are to be said.
    pub(crate) fn admit_path<S: Sink>(
        &mut self,
        visitor: Visitor,
        who: &Stranger,
        ticket: Ticket,
        bytes: &[u8],
        sink: &mut S,
    ) {
        let index = match self.check_ticket(who, ticket) {
            Ok(index) => index,
            Err(refusal) => return visitor.refuse_after(bytes, &refusal),
        };
        let (stream, rest) = visitor.into_parts();
        if !say(&stream, &[bytes, &welcome()].concat()) {
            return;
        }
        let Some(link) = self.links.get(index as usize) else { return };
        let of = PathOf { link: index, number: ticket.number };
        let path = link.path(of, State::Over);
        let place = self.take_place(path);
        self.establish_path(place, of, stream, &rest, sink);
    }

    /// The link to which the path of a caller is to belong.
    fn check_ticket(&mut self, who: &Stranger, ticket: Ticket) -> Result<u32, Refusal> {
        let is_meant = |link: &&mut Link| {
            let which = (link.incarnation, link.generation) == (who.incarnation, who.generation);
            which && matches!(link.state, State::Live(_))
        };
        let known = self.by_node.get(&who.node).copied();
        let link = known.and_then(|at| self.links.get_mut(at as usize)).filter(is_meant);
        let (Some(index), Some(link)) = (known, link) else {
            return Err(Refusal::new(Error::InUse, "the link is not there any more"));
        };
        let Some(paths) = link.paths_mut() else {
            return Err(Refusal::new(Error::Unsupported, "this side takes one path for each link"));
        };
        if !ticket.is_for(&paths.secret) {
            let why = "a path for a link by somebody who has not made it";
            return Err(Refusal::new(Error::Permission, why));
        }
        if paths.there.is_some() {
            return Err(Refusal::new(Error::Invalid, "this side calls for the paths of the link"));
        }
        if ticket.number <= paths.last || paths.is_full() {
            return Err(Refusal::new(Error::Limit, "the link has this path, or enough of them"));
        }
        paths.last = ticket.number;
        Ok(index)
    }

    /// Segments may come and go over a path from now on.
    fn establish_path<S: Sink>(&mut self, place: u32, of: PathOf, stream: Stream, rest: &[u8], sink: &mut S) {
        let idle = self.config.tuning.keep_alive.unwrap_or_default();
        // What the kernel does not accept was not told before, either.
        let _ = stream.ask(idle, QUESTIONS);
        let _ = stream.give_up_after(idle + SILENCE);
        let Some(main) = self.links.get_mut(of.link as usize) else { return };
        let (peer, Some(paths)) = (main.peer, main.paths_mut()) else { return };
        paths.calling = paths.calling.filter(|(number, _)| *number != of.number);
        paths.live.push((of.number, place));
        paths.failures = 0;
        // There may be more.
        paths.due_in_ns = paths.there.map(|_| 0);
        tracing::debug!(peer = peer.number(), number = of.number, path = ?stream.path(), "another path");
        let mut conn = Conn::new(stream, self.config.window, false);
        sink.path_up(peer, of.id());
        let begun = begin_on(&mut conn, of.id(), rest, peer, sink);
        if let Some(link) = self.links.get_mut(place as usize) {
            link.state = State::Live(Box::new(conn));
        }
        // It is read in each round once something comes.
        self.watch_cold(place);
        if let Err(ended) = begun {
            self.end(place, ended);
        }
    }

    /// A path has come to its end.
    pub(crate) fn finish_path<S: Sink>(&mut self, place: u32, ended: Ended, sink: &mut S) {
        let reason = match ended {
            Ended::Misbehaved(refusal) => refusal,
            Ended::Bye(_) | Ended::Path(_) => Refusal::new(Error::PeerGone, "the peer has ended it"),
            Ended::Closed => Refusal::new(Error::Unreachable, "it was closed"),
            Ended::Broken(e) => Refusal::new(Error::Unreachable, format!("it broke: {e}")),
        };
        self.end_path(place, &reason, sink);
    }

    /// The peer says that the path of this number is over.
    pub(crate) fn hear_of_end<S: Sink>(&mut self, index: u32, number: u64, sink: &mut S) {
        let paths = self.links.get(index as usize).and_then(Link::paths);
        let place = paths.zip(u32::try_from(number).ok()).and_then(|(paths, number)| paths.place_of(number));
        if let Some(place) = place {
            self.end_path(place, &Refusal::new(Error::PeerGone, "the peer has ended it"), sink);
        }
    }

    /// Ends a path, on both sides: its connection is closed before anybody hears of it.
    fn end_path<S: Sink>(&mut self, place: u32, reason: &Refusal, sink: &mut S) {
        let Some(of) = self.links.get(place as usize).and_then(Link::part_of) else { return };
        let Some(state) = self.take_down(place) else { return };
        let was_live = matches!(state, State::Live(_));
        let has_carried = match &state {
            State::Live(conn) => {
                conn.line.stream.moved().is_some_and(|both| both.iter().any(|n| *n > CARRIED_MIN))
            }
            _ => false,
        };
        let standing = match &state {
            State::Calling(call) => call.standing(),
            _ => Standing::MayHaveTaken,
        };
        drop(state);
        self.paths.spare.push(place);
        if was_live {
            self.paths.own.doubt();
        }
        let Some(main) = self.links.get_mut(of.link as usize) else { return };
        let peer = main.peer;
        tracing::debug!(peer = peer.number(), number = of.number, reason = %reason.reason, "path is over");
        // A peer that has refused knows that there is none, and one that was not reached never heard of it.
        if let (State::Live(conn), Standing::MayHaveTaken) = (&mut main.state, standing) {
            conn.end_path(of.number);
        }
        if let Some(paths) = main.paths_mut() {
            paths.live.retain(|(number, _)| *number != of.number);
            paths.calling = paths.calling.filter(|(number, _)| *number != of.number);
            paths.note_end(reason.error, standing == Standing::Refused, has_carried);
        }
        self.note_sent(of.link);
        if was_live {
            sink.path_over(peer, of.id());
        }
        // Who does not take the call need not be the peer: the address may be another host's here.
        if was_live && reason.error == Error::PeerMisbehaved {
            self.end(of.link, Ended::Misbehaved(reason.clone()));
        }
    }

    /// The link is over, and with it all of its paths: nothing comes over them any more.
    pub(crate) fn drop_paths(&mut self, index: u32) {
        let whole = self.links.get_mut(index as usize).and_then(Link::whole_mut);
        let Some(paths) = whole.and_then(|whole| whole.paths.take()) else { return };
        for place in paths.places() {
            // The connection is closed here.
            drop(self.take_down(place));
            self.paths.spare.push(place);
        }
        self.paths.callers.retain(|other| *other != index);
    }

    /// The place of a path in the rail's table.
    pub(crate) fn place_of(&self, path: PathId) -> Option<u32> {
        self.links.get(path.link.0 as usize)?.paths()?.place_of(path.number)
    }

    /// Hands a segment to a path.
    pub(crate) fn post_on(&mut self, path: PathId, frame: &Frame<'_>) -> Posted {
        let link = self.links.get(path.link.0 as usize);
        let Some(link) = link.filter(|link| matches!(link.state, State::Live(_))) else {
            return Posted::Down;
        };
        let paths = link.paths().filter(|paths| path.number <= paths.last);
        let Some(paths) = paths else { return Posted::Failed(Error::PeerMisbehaved) };
        let Some(place) = paths.place_of(path.number) else { return Posted::Down };
        // The peer may have heard before this side that the path is there.
        let Some(conn) = self.conn(place) else { return Posted::NoResource };
        let (is_dirty, round) = (conn.is_dirty, self.round);
        let Some(Link { state: State::Live(conn), .. }) = self.links.get_mut(place as usize) else {
            return Posted::NoResource;
        };
        let Outcome { posted, waits } = conn.post(frame, round, &mut self.courier);
        if waits != is_dirty || conn.is_broken() {
            self.note_sent(place);
        }
        posted
    }

    /// Where the further paths of a link lead.
    pub(crate) fn paths_of(&self, link: LinkId) -> Vec<Path> {
        let Some(paths) = self.links.get(link.0 as usize).and_then(Link::paths) else { return Vec::new() };
        let path = |(_, place): &(u32, u32)| match &self.links.get(*place as usize)?.state {
            State::Live(conn) => {
                let stream = &conn.line.stream;
                Some(Path { moved: stream.moved(), ..stream.path() })
            }
            _ => None,
        };
        paths.live.iter().filter_map(path).collect()
    }

    /// Number of further paths of a link.
    #[cfg(feature = "testing")]
    pub fn further(&self, link: LinkId) -> usize {
        let paths = self.links.get(link.0 as usize).and_then(Link::paths);
        paths.map_or(0, |paths| paths.live.len())
    }

    /// Breaks a further path of a link, as a network does, if there is one.
    #[cfg(feature = "testing")]
    pub fn cut_path(&mut self, link: LinkId) {
        let paths = self.links.get(link.0 as usize).and_then(Link::paths);
        if let Some(&(_, place)) = paths.and_then(|paths| paths.live.first()) {
            if let Some(conn) = self.conn(place) {
                conn.line.stream.reset();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Security;
    use crate::candidates::Interfaces;
    use crate::config::{Engine, TcpConfig, Tuning, Window};
    use gridnet_core::mem::PeerBytes;
    use gridnet_core::rail::PeerId;
    use gridnet_core::testing::pair::address_of;
    use gridnet_core::wire::{Incoming, NodeId};

    const SECOND: u64 = 1_000_000_000;

    /// Who listens to a rail on which nothing happens.
    struct Nobody;

    impl Sink for Nobody {
        fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}
        fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
            Ok(())
        }
        fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
            false
        }
        fn sent(&mut self, _: PeerId, _: u64) {}
        fn accept(&mut self, _: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
            Err(Refusal::new(Error::Internal, "nobody calls"))
        }
        fn up(&mut self, _: PeerId) {}
        fn down(&mut self, _: PeerId, _: LinkId, _: Refusal) {}
    }

    /// A rail that may have several paths.
    fn rail() -> TcpRail {
        let config = TcpConfig {
            local: address_of(1, 0),
            interfaces: Interfaces::parse("127.0.0.1").expect("it is an address"),
            ports: None,
            security: Security::Insecure,
            engine: Engine::Epoll,
            single_thread: true,
            tuning: Tuning::default(),
            window: Window::default(),
            multirail: Multirail::Auto,
            retains: true,
        };
        let mut rail = TcpRail::open(config).expect("it opens");
        rail.config.multirail = Multirail::Auto;
        rail
    }

    /// Adds a link whose peer cannot be reached by any other interface, and for which another path is due after so long.
    fn add_link(rail: &mut TcpRail, due_in_ns: u64) {
        let (secret, at) = (Key::new(&[7; 32]).expect("it is long enough"), ["203.0.113.7", "203.0.113.8"]);
        let there = NetAddresses::new(7, at.map(|at| at.parse().expect("it is one")));
        let mut paths = Paths::new(secret, Multirail::Auto, Some(there));
        paths.due_in_ns = Some(due_in_ns);
        let index = rail.links.len() as u32;
        let mut link = Link::new(PeerId::new(index), (address_of(2, 0).node, 1), 1, State::Over);
        link.whole_mut().expect("it is one").paths = Some(Box::new(paths));
        rail.links.push(link);
        rail.paths.callers.push(index);
    }

    #[test]
    fn the_interfaces_are_read_once_for_all_links() {
        let mut rail = rail();
        // They have come up one after the other.
        (0..20).for_each(|number| add_link(&mut rail, number * SECOND / 7));
        (0..10 * 31).for_each(|tenth| rail.tend_paths(Time(tenth * SECOND / 10), &mut Nobody));
        // In the first three seconds each time one of them comes up, and then every five.
        assert!((6..=4 + 6).contains(&rail.paths.own.reads), "{} times in 31 s", rail.paths.own.reads);
    }

    /// Its address may have gone: what was read before does not serve to call for the next one.
    #[test]
    fn the_interfaces_are_read_anew_when_a_path_has_ended() {
        let mut rail = rail();
        add_link(&mut rail, 0);
        let ms = |ms: u64| Time(SECOND + ms * 1_000_000);
        rail.tend_paths(ms(0), &mut Nobody);
        assert_eq!(rail.paths.own.reads, 1);
        let (near, _far) = crate::socket::pair();
        let conn = Conn::new(near, Window::default(), false);
        let path = rail.links[0].path(PathOf { link: 0, number: 1 }, State::Live(Box::new(conn)));
        rail.links.push(path);
        rail.links[0].paths_mut().expect("it has some").live.push((1, 1));
        rail.end_path(1, &Refusal::new(Error::Unreachable, "it broke"), &mut Nobody);
        rail.tend_paths(ms(1), &mut Nobody);
        rail.tend_paths(ms(60), &mut Nobody);
        assert_eq!(rail.paths.own.reads, 2, "another path is due");
    }

    fn caller() -> Paths {
        let secret = Key::new(&[7; 32]).expect("it is long enough");
        let there = NetAddresses::new(7, ["203.0.113.7".parse().expect("it is one")]);
        let mut paths = Paths::new(secret, Multirail::Auto, Some(there));
        assert!(paths.is_due(Time(SECOND)), "at once");
        paths
    }

    /// Seconds after which the next path is called for.
    fn due_after(paths: &mut Paths) -> u64 {
        paths.is_due(Time(SECOND));
        (1..200).find(|s| paths.is_due(Time((1 + s) * SECOND))).expect("it is called for some time")
    }

    #[test]
    fn only_the_peer_says_that_it_takes_no_path_and_not_for_good() {
        for (error, is_word_of_peer, seconds) in [
            (Error::Unsupported, true, 60),
            (Error::Limit, true, 5),
            (Error::Unsupported, false, 1),
            (Error::Limit, false, 1),
            (Error::Unreachable, true, 1),
        ] {
            let mut paths = caller();
            paths.note_end(error, is_word_of_peer, false);
            assert_eq!(due_after(&mut paths), seconds, "{error:?}, {is_word_of_peer}");
        }
    }

    #[test]
    fn pauses_grow_until_a_path_has_carried_something() {
        let mut paths = caller();
        (0..10).for_each(|_| paths.note_end(Error::Unreachable, false, false));
        assert_eq!((due_after(&mut paths), paths.failures), (5, 10));
        paths.note_end(Error::Unreachable, false, true);
        assert_eq!((due_after(&mut paths), paths.failures), (1, 10));
    }
}
