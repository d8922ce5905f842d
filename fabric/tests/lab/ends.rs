//! Peers that come to an end, and networks that do not come back: every operation ends, in time, and nothing is left.

use std::time::{Duration, Instant};

use gridnet::core::error::Error;
use gridnet::core::rail::PeerId;
use gridnet::core::wire::Address;
use gridnet_core::testing::random::Random;
use gridnet_testbed::{lab_test, Host, Lab, Running};

use crate::common::process::descriptors;
use crate::common::{exactly, from_any, Buffer, Party, Scratch};
use crate::cuts::linger;
use crate::hosts::{address_of, await_pulses, count, is_long, kib, open, say_address, two, COUNT, PATIENCE};

const LARGE: usize = 3_000_000;
/// What is left to find another path beyond the timeout, when a silence is noticed late;
const NOTICED_LATE: Duration = Duration::from_secs(2);
/// what the end of operations may take beyond that on a machine that has much else to do;
const SLACK: Duration = Duration::from_secs(1);
/// and once when it was stopped meanwhile.
const STOPPED: Duration = Duration::from_secs(60);
/// The default of `GRIDNET_PEER_TIMEOUT`.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// One side of a conversation that has begun.
struct Side {
    party: Party,
    to: PeerId,
    _scratch: Scratch,
}

impl Side {
    /// The one that calls.
    fn call(address: &Address, timeout: Duration) -> Side {
        let scratch = Scratch::new();
        let party = open(&scratch, &[("GRIDNET_PEER_TIMEOUT", &format!("{}s", timeout.as_secs()))]);
        Side { to: greet(&party, address), party, _scratch: scratch }
    }

    /// The one that is called; none where no test has started it.
    fn called() -> Option<Side> {
        count()?;
        let scratch = Scratch::new();
        let party = open(&scratch, &[]);
        say_address(&party);
        party.receive(from_any(1), Buffer::new(8)).unwrap();
        let to = PeerId::new(party.wait(PATIENCE).expect("somebody calls").source);
        Some(Side { to, party, _scratch: scratch })
    }
}

/// Calls a peer, which hears it.
fn greet(party: &Party, address: &Address) -> PeerId {
    let to = party.connect(address);
    assert_eq!(party.send(to, b"hello", 1, true), Ok(true));
    assert_eq!(party.wait(PATIENCE).unwrap().status, 0);
    to
}

/// Starts a peer in a host: one of the ignored tests below.
fn start(host: Host<'_>, part: &str) -> Running {
    host.test(&format!("ends::{part}")).unwrap().env(COUNT, "1").spawn().unwrap()
}

/// What was under way has ended, so long after the cable was pulled: not before its time, and whether it was not much later.
fn is_in_time(took: Duration, timeout: Duration) -> bool {
    assert!(took > timeout - Duration::from_secs(2) && took < timeout + STOPPED, "{took:?}");
    took < timeout + NOTICED_LATE + SLACK
}

/// Tries again once: the machine may have been stopped.
fn twice(mut is_in_time: impl FnMut() -> bool) {
    assert!(is_in_time() || is_in_time(), "two times in a row much later than the timeout");
}

/// Operations with a peer that end only with it: it matches none of them.
fn start_everything(party: &Party, peer: PeerId, memory: Buffer) -> usize {
    for tag in 100..110 {
        party.receive(exactly(peer, tag), memory).expect("the peer lives");
    }
    assert_eq!(party.send(peer, b"sync", 200, true), Ok(true));
    assert_eq!(party.send_buffer(peer, memory, 200), Ok(true));
    12
}

/// Waits until so many operations have ended; how many of them with the peer.
fn await_ends(party: &Party, count: usize) -> usize {
    let mut gone = 0;
    for _ in 0..count {
        let status = party.wait(PATIENCE).expect("operations with a dead peer end").status;
        assert!(status == 0 || status == Error::PeerGone.code(), "status {status}");
        gone += usize::from(status != 0);
    }
    gone
}

lab_test! {
    /// kill -9 at random moments, again and again.
    fn peers_that_are_killed_leave_nothing() {
        let Some(lab) = two(1000) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let rounds = if is_long() { 200 } else { 15_u64 };
        a.run(|| {
            let scratch = Scratch::new();
            let party = open(&scratch, &[]);
            let memory = Buffer::new(LARGE);
            let mut before = None;
            let mut took = Vec::new();
            for round in 0..rounds {
                let peer = start(b, "streams");
                let to = greet(&party, &address_of(&peer));
                let mut started = start_everything(&party, to, memory);
                let (mut ended, mut gone) = (0, 0);
                let moment = Random::new(round).below(300);
                for step in 0..moment {
                    let posted = party.receive(exactly(to, 2 + step % 2), memory);
                    started += usize::from(posted.is_ok());
                    started += usize::from(party.send_buffer(to, memory.first(100), 4).unwrap_or(false));
                    if let Ok(completion) = party.wait(Duration::from_millis(1)) {
                        ended += 1;
                        gone += usize::from(completion.status != 0);
                    }
                }
                let killed = Instant::now();
                peer.kill().unwrap();
                gone += await_ends(&party, started - ended);
                took.push(killed.elapsed());
                assert!(gone >= 12, "{gone} operations ended with the peer");
                let counters = party.enter().engine.counters();
                assert_eq!((counters.peers_now, counters.pending_now), (0, 0));
                drain(&party, to, memory);
                // The first rounds fill what is kept for later ones.
                if round == 4 {
                    before = Some((descriptors(), kib(std::process::id(), "VmRSS")));
                }
            }
            let (descriptors_before, kib_before) = before.expect("there are more than five rounds");
            await_no_more_than(descriptors_before);
            let growth = kib(std::process::id(), "VmRSS").saturating_sub(kib_before);
            took.sort();
            let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
            println!("RESULT {rounds} kills: all ended within {slowest:?}, half of them {median:?}, {growth} KiB more");
            // The kernel tells of the dead at once; all but one, as the machine may have been stopped.
            assert!(median < SLACK && took[took.len() - 2] < PEER_TIMEOUT && slowest < STOPPED, "{took:?}");
            assert!(growth < 1024 + 16 * rounds, "{growth} KiB more after {rounds} rounds");
        })
        .unwrap();
    }

    /// The cable is pulled for good, while much is under way in both directions.
    fn a_blackout_that_lasts_ends_everything() {
        let Some(lab) = two(300) else { return };
        twice(|| lasts(&lab));
    }

    /// The same behind a process that is stopped, with its buffers full: TCP asks it less and less often, which is no silence.
    fn a_blackout_behind_a_full_peer_ends_everything() {
        let Some(lab) = two(1000) else { return };
        twice(|| is_behind_a_full_peer(&lab));
    }

    #[ignore = "is started by the tests above, in a host"]
    fn streams() {
        let Some(Side { _scratch, party, to }) = Side::called() else { return };
        let memory = Buffer::new(100_000);
        let mut under_way = 0;
        loop {
            for (tag, len) in [(2, 8), (3, 100_000)] {
                under_way += u32::from(party.send_buffer(to, memory.first(len), tag).unwrap_or(false));
            }
            while under_way > 8 {
                under_way -= u32::from(party.wait(Duration::from_millis(10)).is_ok());
            }
        }
    }

    #[ignore = "is started by the test above, in a host"]
    fn is_left_alone() {
        let Some(Side { _scratch, party, to }) = Side::called() else { return };
        await_pulses(&party, 1);
        let started = start_everything(&party, to, Buffer::new(LARGE));
        println!("has started");
        assert_eq!(await_ends(&party, started), started);
        println!("all has ended");
        party.receive(from_any(3), Buffer::new(8)).unwrap();
        party.wait_received();
        linger(&party);
    }
}

fn lasts(lab: &Lab) -> bool {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let peer = start(b, "is_left_alone");
    let address = address_of(&peer);
    let in_time = a.run(|| {
        let Side { _scratch, party, to } = Side::call(&address, PEER_TIMEOUT);
        await_pulses(&party, 1);
        let started = start_everything(&party, to, Buffer::new(LARGE));
        peer.wait_for("has started\n", PATIENCE).unwrap();
        lab.link("a-b").unwrap().blackout(true).unwrap();
        let pulled = Instant::now();
        assert_eq!(await_ends(&party, started), started);
        let took = pulled.elapsed();
        println!("RESULT blackout: everything ended after {took:?}");
        peer.wait_for("all has ended\n", PATIENCE).unwrap();
        lab.link("a-b").unwrap().blackout(false).unwrap();
        // Both live, and can have each other again.
        let again = party.connect(&address);
        assert_ne!(again, to);
        party.send(again, b"again", 3, true).unwrap();
        assert_eq!(party.wait(PATIENCE).unwrap().status, 0);
        is_in_time(took, PEER_TIMEOUT)
    });
    peer.wait(PATIENCE).unwrap().success().unwrap();
    in_time.unwrap()
}

fn is_behind_a_full_peer(lab: &Lab) -> bool {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let peer = start(b, "streams");
    let address = address_of(&peer);
    let seconds = if is_long() { (12, 20) } else { (PEER_TIMEOUT.as_secs(), 1) };
    let (timeout, full_for) = (Duration::from_secs(seconds.0), Duration::from_secs(seconds.1));
    let in_time = a.run(|| {
        let Side { _scratch, party, to } = Side::call(&address, timeout);
        await_pulses(&party, 1);
        peer.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
        let memory = Buffer::new(LARGE);
        let mut started = start_everything(&party, to, memory);
        // Until it is full: nothing ends any more.
        let (mut last, mut ended) = (Instant::now(), 0);
        let begin = Instant::now();
        while last.elapsed() < full_for || !party.enter().engine.is_stalled(to) {
            assert!(begin.elapsed() < PATIENCE, "nobody notices that it takes nothing");
            while started - ended < 1000 {
                started += usize::from(party.send_buffer(to, memory.first(8000), 4).unwrap());
            }
            if party.wait(Duration::from_millis(10)).is_ok() {
                (last, ended) = (Instant::now(), ended + 1);
            }
        }
        lab.link("a-b").unwrap().blackout(true).unwrap();
        let pulled = Instant::now();
        assert_eq!(await_ends(&party, started - ended), started - ended);
        let took = pulled.elapsed();
        println!("RESULT blackout behind a full peer: everything ended after {took:?}");
        is_in_time(took, timeout)
    });
    peer.kill().unwrap();
    lab.link("a-b").unwrap().blackout(false).unwrap();
    in_time.unwrap()
}

/// Takes what the dead peer has left unexpected.
fn drain(party: &Party, peer: PeerId, memory: Buffer) {
    for tag in [2, 3] {
        while party.receive(exactly(peer, tag), memory).is_ok() {
            party.wait(PATIENCE).unwrap();
        }
    }
}

/// Waits until no more descriptors are open than that: threads that read what a part says may need a moment.
fn await_no_more_than(before: usize) {
    let end = Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(Instant::now() < end, "{before} descriptors before, {} after", descriptors());
        std::thread::yield_now();
    }
}
