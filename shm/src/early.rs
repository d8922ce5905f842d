//! Connections to fabrics that may be called soon: who asks another one by another way whether it may call it connects meanwhile, and brings
//! its segment and its doorbell, which the other side looks at and maps, and says so. It calls when it may: until then there is no link. Where
//! the other side has not said so by then, as it was busy, or is one that knows nothing of this, it calls over another connection.

use std::os::fd::OwnedFd;

use gridnet_core::time::Time;
use gridnet_core::wire::NodeId;

use crate::rail::{ShmRail, GREETING_NS};
use crate::socket;

/// As many at a time; others connect when they call.
const EARLY_MAX: usize = 16;
/// How long one is kept: within a host an answer takes microseconds of who polls, and milliseconds of who sleeps. The other side drops what
/// says nothing after a longer time.
const EARLY_NS: u64 = 100_000_000;
const _: () = assert!(EARLY_NS < GREETING_NS / 2);

/// A connection over which nothing else was said.
#[derive(Debug)]
pub(crate) struct Early {
    node: NodeId,
    stream: OwnedFd,
    /// When it was looked at first.
    since: Option<Time>,
}

impl Early {
    pub(crate) fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    /// When it has to be looked at.
    pub(crate) fn deadline(&self) -> Time {
        self.since.map_or(Time(0), |since| since.after(EARLY_NS + 1))
    }

    fn is_late(&mut self, now: Time) -> bool {
        now.since(*self.since.get_or_insert(now)) > EARLY_NS
    }
}

impl ShmRail {
    /// Connects to the fabric of a node of the own user, which may be called soon. What fails here fails again when it is called.
    pub(crate) fn connect_early(&mut self, node: NodeId) {
        let is_there = self.by_node.contains_key(&node) || self.early.iter().any(|one| one.node == node);
        if is_there || node == self.config.local.node || self.early.len() >= EARLY_MAX {
            return;
        }
        if self.check_parted().is_err() {
            return;
        }
        let Ok(stream) = self.connect_to(node) else { return };
        if self.say_early(&stream).is_ok() {
            self.early.push(Early { node, stream, since: None });
        }
    }

    /// The connection to a node that was made so, if the other side is ready for a call over it.
    pub(crate) fn take_early(&mut self, node: NodeId) -> Option<OwnedFd> {
        let at = self.early.iter().position(|one| one.node == node)?;
        let Early { stream, .. } = self.early.swap_remove(at);
        let is_ready = socket::take_ready(&stream);
        if !is_ready {
            socket::hang_up(&stream);
        }
        is_ready.then_some(stream)
    }

    /// Ends the connection to a node that was made so: there is a link.
    pub(crate) fn drop_early(&mut self, node: NodeId) {
        self.early.extract_if(.., |one| one.node == node).for_each(|one| socket::hang_up(&one.stream));
    }

    /// Ends connections of which nothing has come.
    pub(crate) fn end_early(&mut self, now: Time) {
        self.early.retain_mut(|one| {
            let is_late = one.is_late(now);
            if is_late {
                // A forked child may hold a copy.
                socket::hang_up(&one.stream);
            }
            !is_late
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use gridnet_core::error::Error;
    use gridnet_core::rail::{PeerId, Rail};
    use gridnet_core::wire::Hello;
    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;
    use crate::called::{Awaited, MAX_EARLY};
    use crate::layout::Header;
    use crate::open::{address, open_rail, Open, Scratch, SEGMENT};
    use crate::segment::OwnSegment;
    use crate::socket::Packet;

    /// Has both look around often enough; how many connections wait at the second one then.
    fn turn(rails: [&mut ShmRail; 2], sinks: [&mut Open; 2], now: Time) -> usize {
        let ([a, b], [of_a, of_b]) = (rails, sinks);
        for _ in 0..100 {
            b.maintain(now, of_b);
            a.maintain(now, of_a);
        }
        b.greetings.iter().flatten().count()
    }

    #[test]
    fn who_has_connected_before_it_calls_does_so_once() {
        let dir = Scratch::new("early");
        let (mut a, mut b) = (open_rail(&dir.0, 1), open_rail(&dir.0, 2));
        let (mut of_a, mut of_b) = (Open::default(), Open::default());
        let address = b.config.local;
        a.foresee(address.node);
        a.foresee(address.node);
        a.foresee(a.config.local.node);
        assert_eq!(turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(0)), 1, "it waits");
        assert_eq!((of_a.up, of_b.up, a.links.len(), b.links.len()), (0, 0, 0, 0), "there is no link");
        assert!(b.greetings.iter().flatten().all(Awaited::has_brought), "all but the call is there");
        let early = a.early[0].stream.as_raw_fd();
        a.connect(PeerId::new(0), &address).unwrap();
        assert_eq!(a.links[0].socket.as_ref().map(AsRawFd::as_raw_fd), Some(early));
        assert_eq!(turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(0)), 0);
        assert_eq!((of_a.up, of_b.up, a.early.len()), (1, 1, 0));
        a.foresee(address.node);
        assert!(a.early.is_empty(), "there is a link");
    }

    /// What `rail` says to a stranger that has said these packets, and whether it said before that it is ready.
    fn answer_to(rail: &mut ShmRail, say: impl FnOnce(&OwnedFd)) -> (bool, Packet) {
        let stream = socket::connect_to(&rail.dir.socket_of(rail.config.local.node)).unwrap();
        say(&stream);
        let mut sink = Open::default();
        for _ in 0..4 {
            rail.maintain(Time(0), &mut sink);
        }
        assert_eq!(sink.up, 0);
        match socket::receive(&stream) {
            Ok(packet) => (false, packet),
            // That it is ready is said to who calls so, and is no packet that others know.
            Err(refusal) => {
                assert!(refusal.reason.contains("unknown type"), "{}", refusal.reason);
                (true, socket::receive(&stream).unwrap())
            }
        }
    }

    #[test]
    fn who_calls_is_who_has_brought_a_good_segment() {
        let dir = Scratch::new("early-forged");
        let mut rail = open_rail(&dir.0, 1);
        let [one, other] = [2, 3].map(|number| Hello::new(address(number).node, 1, 1));
        let header = Header::new(SEGMENT, *one.node.bytes(), 1);
        let segment = OwnSegment::create(SEGMENT, &header, false).unwrap();
        let bell: OwnedFd =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap().into();
        let blocks: OwnedFd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap().into();
        let early = |stream: &OwnedFd, hello: &Hello, bell: &OwnedFd| {
            socket::send_early(stream, hello, [segment.file(), bell.as_fd()]).unwrap();
        };
        let call = |stream: &OwnedFd, hello: &Hello| socket::send_call(stream, hello).unwrap();
        let mut refuses = |say: &dyn Fn(&OwnedFd)| match answer_to(&mut rail, say) {
            (is_ready, Packet::Reject(why)) => (is_ready, why.error),
            other => panic!("{other:?}"),
        };
        let unready = |error| (false, error);
        let ready = |error| (true, error);
        assert_eq!(
            refuses(&|stream| call(stream, &one)),
            unready(Error::PeerMisbehaved),
            "it has brought nothing"
        );
        assert_eq!(
            refuses(&|stream| early(stream, &other, &bell)),
            unready(Error::Segment),
            "that of another"
        );
        assert_eq!(
            refuses(&|stream| early(stream, &one, &blocks)),
            unready(Error::PeerMisbehaved),
            "the doorbell"
        );
        let twice = |stream: &OwnedFd| (0..2).for_each(|_| early(stream, &one, &bell));
        assert_eq!(refuses(&twice), ready(Error::PeerMisbehaved), "twice");
        let as_other = |stream: &OwnedFd| {
            early(stream, &one, &bell);
            call(stream, &other);
        };
        assert_eq!(refuses(&as_other), ready(Error::PeerMisbehaved), "another calls");
        let offers_nothing = |stream: &OwnedFd| {
            early(stream, &one, &bell);
            call(stream, &one);
        };
        assert_eq!(refuses(&offers_nothing), ready(Error::PeerMisbehaved), "a call without a block");
        assert!(matches!(answer_to(&mut rail, |stream| early(stream, &one, &bell)), (true, Packet::Nothing)));
    }

    #[test]
    fn who_is_not_ready_in_time_is_called_in_the_usual_way() {
        let dir = Scratch::new("early-busy");
        let (mut a, mut b) = (open_rail(&dir.0, 1), open_rail(&dir.0, 2));
        let (mut of_a, mut of_b) = (Open::default(), Open::default());
        let address = b.config.local;
        a.foresee(address.node);
        let early = a.early[0].stream.try_clone().unwrap();
        a.connect(PeerId::new(0), &address).unwrap();
        assert!(a.early.is_empty());
        assert_eq!(turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(0)), 0);
        assert_eq!((of_a.up, of_b.up), (1, 1));
        assert!(socket::has_left(&early), "nobody waits for more over the other one");
    }

    #[test]
    fn more_than_may_bring_their_segments_call_in_the_usual_way() {
        let dir = Scratch::new("early-many");
        let mut rail = open_rail(&dir.0, 1);
        let mut callers: Vec<ShmRail> = (2..70).map(|number| open_rail(&dir.0, number)).collect();
        let (mut of_rail, mut sinks) =
            (Open::default(), callers.iter().map(|_| Open::default()).collect::<Vec<_>>());
        let address = rail.config.local;
        callers.iter_mut().for_each(|caller| caller.foresee(address.node));
        for _ in 0..100 {
            rail.maintain(Time(0), &mut of_rail);
        }
        assert_eq!(rail.greetings.iter().flatten().count(), MAX_EARLY);
        for caller in &mut callers {
            caller.connect(PeerId::new(0), &address).unwrap();
        }
        for (caller, sink) in callers.iter_mut().zip(&mut sinks) {
            turn([caller, &mut rail], [sink, &mut of_rail], Time(0));
        }
        assert!(sinks.iter().all(|sink| sink.up == 1));
        assert_eq!(of_rail.up, callers.len());
    }

    #[test]
    fn what_nothing_comes_of_ends_and_what_the_other_side_has_ended_is_made_anew() {
        let dir = Scratch::new("early-end");
        let (mut a, mut b) = (open_rail(&dir.0, 1), open_rail(&dir.0, 2));
        let (mut of_a, mut of_b) = (Open::default(), Open::default());
        let address = b.config.local;
        a.foresee(address.node);
        assert_eq!(turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(0)), 1);
        assert_eq!(a.deadline(), Some(Time(EARLY_NS + 1)), "who sleeps wakes for it");
        assert_eq!(turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(EARLY_NS + 1)), 0, "it has ended");
        assert!(a.early.is_empty() && a.deadline().is_none());
        // The other side is slow to hear, and drops it first.
        a.foresee(address.node);
        b.maintain(Time(0), &mut of_b);
        b.maintain(Time(GREETING_NS + 1), &mut of_b);
        assert!(b.greetings.is_empty() && a.early.len() == 1);
        a.connect(PeerId::new(0), &address).unwrap();
        turn([&mut a, &mut b], [&mut of_a, &mut of_b], Time(GREETING_NS + 1));
        assert_eq!((of_a.up, of_b.up), (1, 1));
    }
}
