//! What a program opens: endpoints by node id between hosts, until the first message has come there ([figures](../../../bench/results/2026-11-22-establish.md)).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridnet::core::endpoint::PeerState;
use gridnet::core::rail::PeerId;
use gridnet::core::wire::NodeId;
use gridnet::AnyRail;
use gridnet_meta::member::LineState;
use gridnet_testbed::Host;

use crate::common::{from_any, Buffer, Party, RECEIVE, SEND};
use crate::cuts::Over;
use crate::establish::{best_within, Arrival};
use crate::hosts::PATIENCE;
use crate::members::{find, join_with, open, Session};

/// So soon a peer is given up that is not reached: long before another connection can be made.
const QUICK_END: (&str, &str) = ("GRIDNET_PEER_TIMEOUT", "50ms");
/// Both fabrics are in one process, whose host is that of its first thread.
const HOST_ID: &str = "GRIDNET_HOST_ID";
/// What endpoints say first.
const MESSAGE: &[u8] = b"hello...";
const TAG: u64 = 7;

/// The fabric of another host, which a thread serves.
struct Other<'a> {
    node: NodeId,
    /// When the first message of an endpoint was there.
    arrival: &'a Arrival,
    /// It has no peer.
    is_alone: &'a AtomicBool,
}

/// Notes each message, until it is over.
fn serve(party: &Party, arrival: &Arrival, is_alone: &AtomicBool, is_over: &AtomicBool) {
    let receive = || party.receive(from_any(TAG), Buffer::new(MESSAGE.len())).unwrap();
    receive();
    while !is_over.load(Ordering::Relaxed) {
        if party.wait(Duration::from_millis(5)).is_ok_and(|done| done.context == RECEIVE) {
            arrival.note();
            receive();
        }
        is_alone.store(party.enter().engine.counters().peers_now == 0, Ordering::Relaxed);
    }
}

/// A fabric that joins by this name.
fn open_as(session: &Session, label: &str, more: &[(&str, &str)]) -> Party {
    let settings = [&[QUICK_END, (HOST_ID, label)], more].concat();
    join_with(&session.scratch.0, &session.ticket(), label, &settings)
}

/// With a new fabric of another host.
fn beside<T>(
    from: &Party,
    host: Host<'_>,
    open: impl FnOnce() -> Party + Send,
    label: &str,
    work: impl FnOnce(&Other<'_>) -> T,
) -> T {
    let (arrival, is_alone, is_over) = (Arrival::default(), AtomicBool::new(true), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| host.run(|| serve(&open(), &arrival, &is_alone, &is_over)).unwrap());
        let _over = Over(&is_over);
        work(&Other { node: find(from, label), arrival: &arrival, is_alone: &is_alone })
    })
}

impl Other<'_> {
    /// Until both ask each other over a line: what is asked by one that stands here is answered by it when it stands there, too.
    fn warm(&self, from: &Party) {
        let (start, mut stood) = (Instant::now(), 0);
        while stood < 2 {
            let line = from.enter().ask_node(self.node, PATIENCE).unwrap();
            stood += usize::from(matches!(line, LineState::Up { .. }));
            assert!(start.elapsed() < PATIENCE, "{line}");
        }
    }

    /// An endpoint by node id, from asking for it until its first message is there.
    fn reach(&self, from: &Party) -> (PeerId, Duration) {
        let begun = Instant::now();
        let to = open(from, self.node);
        let is_to_complete = from.send(to, MESSAGE, TAG, false).unwrap();
        let took = self.arrival.take(begun);
        if is_to_complete {
            assert_eq!(from.wait(PATIENCE).unwrap().context, SEND);
        }
        assert_eq!(from.enter().engine.rail_name(to), Some("tcp"));
        (to, took)
    }

    /// Ends the conversation on both sides: its link breaks, and a new one takes longer than peers are sought.
    fn part(&self, from: &Party, to: PeerId) {
        let mut fabric = from.enter();
        let node = fabric.engine.peer(to).unwrap().0;
        for rail in fabric.engine.rails_mut() {
            let AnyRail::Tcp(rail) = rail else { continue };
            rail.link_with(node).into_iter().for_each(|link| rail.cut(link));
        }
        drop(fabric);
        let start = Instant::now();
        let is_gone = || matches!(from.enter().engine.peer(to).unwrap().2, PeerState::Gone(_));
        while !is_gone() || !self.is_alone.load(Ordering::Relaxed) {
            let _ = from.wait(Duration::from_millis(5));
            assert!(start.elapsed() < PATIENCE, "the conversation goes on");
        }
    }
}

/// What a program opens: endpoints of fabrics with these settings, the first ones and later ones, over a line that stands, within these times.
pub fn endpoints(
    session: &Session,
    b: Host<'_>,
    more: &[(&str, &str)],
    [first, later]: [Duration; 2],
    rounds: usize,
) {
    let party = open_as(session, &format!("from-{}", more.len()), more);
    let mut count = 0;
    let mut with_another = |work: &mut dyn FnMut(&Other<'_>) -> Duration| {
        count += 1;
        let label = format!("to-{}-{count}", more.len());
        beside(&party, b, || open_as(session, &label, more), &label, work)
    };
    let what = "endpoint of a fabric, first, over a line";
    best_within(what, rounds, first, || {
        with_another(&mut |other| {
            other.warm(&party);
            other.reach(&party).1
        })
    });
    with_another(&mut |other| {
        let (mut to, took) = other.reach(&party);
        let took_ms = took.as_secs_f64() * 1e3;
        println!("RESULT endpoint of a fabric, the two have never spoken, rendez-vous node on the way: {took_ms:.1} ms");
        let what = "endpoint of a fabric, later, over a line";
        best_within(what, rounds, later, || {
            other.part(&party, to);
            other.warm(&party);
            let took;
            (to, took) = other.reach(&party);
            took
        });
        took
    });
}
