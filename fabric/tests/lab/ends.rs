//! Peers that come to an end, and networks that do not come back: every operation ends, in time, and nothing is left.

use std::time::{Duration, Instant};

use gridnet::core::completion::Completion;
use gridnet::core::error::Error;
use gridnet::core::rail::PeerId;
use gridnet::core::wire::Address;
use gridnet_core::testing::random::Random;
use gridnet_testbed::{lab_test, Host, HostCommand, Lab, Running};

use crate::common::process::descriptors;
use crate::common::{exactly, from_any, Buffer, Party, Scratch};
use crate::cuts::linger;
use crate::gaps::{Clock, Gaps};
use crate::hosts::{address_of, await_pulses, count, is_long, kib, open, say_address, two, COUNT, PATIENCE};
use crate::streamed::{self, Streamed};

const LARGE: usize = 3_000_000;
/// What is left to find another path beyond the timeout, when a silence is noticed late;
const NOTICED_LATE: Duration = Duration::from_secs(2);
/// and what the end of operations may take beyond that on a machine that has much else to do.
const SLACK: Duration = Duration::from_secs(1);
/// Ports of a peer.
const PORT: &str = "LAB_PORT";
/// KiB that peers may leave in all, with what the allocator does,
const LEFT_KIB: u64 = 1024;
/// and each of them.
const LEFT_KIB_EACH: u64 = 2;
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
        let port = std::env::var(PORT).ok();
        let options: Vec<_> = port.iter().map(|port| ("GRIDNET_NET_PORTS", port.as_str())).collect();
        let party = open(&scratch, &options);
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

/// A peer in a host: one of the ignored tests below.
fn part(host: Host<'_>, part: &str) -> HostCommand {
    host.test(&format!("ends::{part}")).unwrap().env(COUNT, "1")
}

fn start(host: Host<'_>, name: &str) -> Running {
    part(host, name).spawn().unwrap()
}

/// What was under way has ended, since the cable was pulled: not before its time, and not much later.
fn assert_in_time(pulled: &Clock<'_>, timeout: Duration) -> Duration {
    let (took, gaps) = pulled.read();
    let latest = timeout + NOTICED_LATE + SLACK + gaps;
    assert!(took > timeout - Duration::from_secs(2) && took < latest, "{took:?}, {gaps:?} of it stopped");
    took
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
    await_each_end(party, count, |_| {})
}

/// The same; `each` hears of them.
fn await_each_end(party: &Party, count: usize, mut each: impl FnMut(&Completion)) -> usize {
    let mut gone = 0;
    for _ in 0..count {
        let completion = party.wait(PATIENCE).expect("operations with a dead peer end");
        each(&completion);
        let status = completion.status;
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
            let (gaps, memory) = (Gaps::watch(), Buffer::new(LARGE));
            let (noise, mut free) = (streamed::noise(), streamed::buffers());
            let mut before = None;
            let (mut took, mut came, mut last) = (Vec::new(), 0, None);
            for round in 0..rounds {
                // Each at the place of the one before.
                let peer = part(b, "streams").env(PORT, "41000-41000").spawn().unwrap();
                let address = address_of(&peer);
                let to = greet(&party, &address);
                assert_ne!(last.replace(to), Some(to), "the one that was killed");
                let streamed = Streamed::new(&party, to, noise, &mut free);
                let (ended, right) = kill_in_a_stream(peer, streamed, memory, Random::new(round).below(300), &gaps);
                took.push(ended);
                came += right;
                // The first rounds fill what is kept for later ones.
                if round == 4 {
                    before = Some((descriptors(), kib(std::process::id(), "VmRSS")));
                }
            }
            assert!(came > 10 * rounds, "{came} messages have come before their senders were killed");
            let (descriptors_before, kib_before) = before.expect("there are more than five rounds");
            await_no_more_than(descriptors_before);
            let growth = kib(std::process::id(), "VmRSS").saturating_sub(kib_before);
            took.sort();
            let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
            println!(
                "RESULT {rounds} kills: all ended within {slowest:?}, half of them {median:?}, {growth} KiB more, \
                 {came} messages right before"
            );
            // The kernel tells of the dead at once.
            assert!(median < SLACK && slowest < PEER_TIMEOUT, "{took:?}");
            let most = LEFT_KIB + LEFT_KIB_EACH * rounds;
            assert!(growth < most, "{growth} KiB more after {rounds} rounds");
        })
        .unwrap();
    }

    /// The cable is pulled for good, while much is under way in both directions.
    fn a_blackout_that_lasts_ends_everything() {
        let Some(lab) = two(300) else { return };
        lasts(&lab);
    }

    /// The same behind a process that is stopped, with its buffers full: TCP asks it less and less often, which is no silence.
    fn a_blackout_behind_a_full_peer_ends_everything() {
        let Some(lab) = two(1000) else { return };
        is_behind_a_full_peer(&lab);
    }

    #[ignore = "is started by the tests above, in a host"]
    fn streams() {
        let Some(Side { _scratch, party, to }) = Side::called() else { return };
        let noise = streamed::noise();
        let mut under_way = 0;
        for number in 0.. {
            under_way += u32::from(streamed::send(&party, to, noise, number));
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

/// Kills a peer after so many steps of a conversation; in what time everything ended, without gaps, and how many of the messages
/// it had sent have come as they were sent.
fn kill_in_a_stream(
    peer: Running,
    mut streamed: Streamed<'_>,
    memory: Buffer,
    steps: u64,
    gaps: &Gaps,
) -> (Duration, u64) {
    let (party, to) = (streamed.party, streamed.from);
    let mut started = start_everything(party, to, memory);
    let (mut ended, mut gone) = (0, 0);
    for step in 0..steps {
        started += usize::from(streamed.receive(step as usize % 2));
        started += usize::from(party.send_buffer(to, memory.first(100), 4).unwrap_or(false));
        if let Ok(completion) = party.wait(Duration::from_millis(1)) {
            streamed.take(&completion);
            ended += 1;
            gone += usize::from(completion.status != 0);
        }
    }
    let killed = Clock::start(gaps);
    peer.kill().unwrap();
    gone += await_each_end(party, started - ended, |completion| streamed.take(completion));
    let (took, stopped) = killed.read();
    assert!(gone >= 12, "{gone} operations ended with the peer");
    let counters = party.enter().engine.counters();
    assert_eq!((counters.peers_now, counters.pending_now), (0, 0));
    // What the dead has left.
    for which in [0, 1] {
        while streamed.receive(which) {
            streamed.take(&party.wait(PATIENCE).unwrap());
        }
    }
    (took.saturating_sub(stopped), streamed.came)
}

fn lasts(lab: &Lab) {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let peer = start(b, "is_left_alone");
    let address = address_of(&peer);
    let gaps = Gaps::watch();
    a.run(|| {
        let Side { _scratch, party, to } = Side::call(&address, PEER_TIMEOUT);
        await_pulses(&party, 1);
        let started = start_everything(&party, to, Buffer::new(LARGE));
        peer.wait_for("has started\n", PATIENCE).unwrap();
        lab.link("a-b").unwrap().blackout(true).unwrap();
        let pulled = Clock::start(&gaps);
        assert_eq!(await_ends(&party, started), started);
        let took = assert_in_time(&pulled, PEER_TIMEOUT);
        println!("RESULT blackout: everything ended after {took:?}");
        peer.wait_for("all has ended\n", PATIENCE).unwrap();
        lab.link("a-b").unwrap().blackout(false).unwrap();
        // Both live, and can have each other again.
        let again = party.connect(&address);
        assert_ne!(again, to);
        party.send(again, b"again", 3, true).unwrap();
        assert_eq!(party.wait(PATIENCE).unwrap().status, 0);
    })
    .unwrap();
    peer.wait(PATIENCE).unwrap().success().unwrap();
}

fn is_behind_a_full_peer(lab: &Lab) {
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let peer = start(b, "streams");
    let address = address_of(&peer);
    let seconds = if is_long() { (12, 20) } else { (PEER_TIMEOUT.as_secs(), 1) };
    let (timeout, full_for) = (Duration::from_secs(seconds.0), Duration::from_secs(seconds.1));
    let gaps = Gaps::watch();
    a.run(|| {
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
        let pulled = Clock::start(&gaps);
        assert_eq!(await_ends(&party, started - ended), started - ended);
        let took = assert_in_time(&pulled, timeout);
        println!("RESULT blackout behind a full peer: everything ended after {took:?}");
    })
    .unwrap();
    peer.kill().unwrap();
    lab.link("a-b").unwrap().blackout(false).unwrap();
}

/// Waits until no more descriptors are open than that: threads that read what a part says may need a moment.
fn await_no_more_than(before: usize) {
    let end = Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(Instant::now() < end, "{before} descriptors before, {} after", descriptors());
        std::thread::yield_now();
    }
}
