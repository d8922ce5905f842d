//! Peers that are killed: the survivor goes on, and nothing of them stays.
//!
//! The tests start their own binary again as a peer; an environment variable tells it its role. They count
//! descriptors and mappings of the whole process, and so run one at a time.

mod common;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::process::{descriptors, files_below, mappings, role, start};
use common::{exactly, from_any, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::PeerId;
use gridnet::core::testing::random::Random;
use gridnet::{Listener, Stream, ThreadLevel};
use nix::sys::resource::{getrlimit, getrusage, setrlimit, Resource, UsageWho};

/// How often a peer is killed.
const ROUNDS: &str = "TEST_KILL_ROUNDS";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((role, dir)) = role() else { return };
    match role.as_str() {
        "named" => hold_name(&dir),
        "stream" => stream(&dir),
        "bare" => wait_without_descriptors(&dir),
        other => panic!("unknown role {other}"),
    }
}

/// Reads a stream when no descriptors are left, and answers. Who reads does not poll by itself.
fn wait_without_descriptors(dir: &Path) {
    let options = [("GRIDNET_WAIT_MODE", "block")];
    let party = Party::open(dir, Some("bare"), ThreadLevel::Multiple, &options);
    let listener = Listener::open(&party.shared, "bare", 1).unwrap();
    println!("ready");
    // The link takes descriptors; a wait would, and the next one would have them.
    let stream = loop {
        match listener.accept(Some(Duration::ZERO)) {
            Err(Error::Again) => party.enter().maintain(),
            accepted => break accepted.unwrap(),
        };
    };
    // None below this are free: it is the lowest that is.
    let lowest = u64::try_from(std::fs::File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, lowest, hard).unwrap();
    stream.write(&nix::unistd::gettid().as_raw().to_le_bytes(), Some(PATIENCE)).unwrap();
    stream.read(&mut [0], Some(PATIENCE)).unwrap();
    stream.write(b"answer", Some(PATIENCE)).unwrap();
    // Until the test ends it.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn who_has_no_descriptors_left_sleeps_all_the_same_and_is_answered() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scratch = Scratch::new();
    let bare = start("bare", &scratch.0);
    let party = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
    let peer = party.connect(&party.shared.lookup("bare", Some(PATIENCE)).unwrap());
    let stream = Stream::connect(&party.shared, peer, "bare", Some(PATIENCE)).unwrap();
    let mut thread = [0; 4];
    assert_eq!(stream.read(&mut thread, Some(PATIENCE)), Ok(4));
    let stat = format!("/proc/{}/task/{}/stat", bare.pid(), i32::from_le_bytes(thread));
    let start = Instant::now();
    // Behind the name, which is in brackets.
    while !std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('S') {
        assert!(start.elapsed() < PATIENCE, "it does not sleep");
        std::thread::yield_now();
    }
    stream.write(b"!", Some(PATIENCE)).unwrap();
    let mut answer = [0; 6];
    assert_eq!(stream.read(&mut answer, Some(PATIENCE)), Ok(6));
    assert_eq!(&answer, b"answer");
}

/// Of many threads that sleep, the rails wake one, which rings for the one that is meant: counted by how often threads of this process
/// began to sleep.
#[test]
fn a_message_does_not_wake_all_who_sleep() {
    const WAITERS: u64 = 40;
    const ROUNDS: u64 = 400;
    // Who looks after the rails, who is meant, who takes the place of the first; the channels of the test; and now and then a lock.
    const WOKEN: i64 = 15;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scratch = Scratch::new();
    let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, &[("GRIDNET_WAIT_MODE", "block")]);
    let a = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
    let peer = a.connect(&b.address());
    let served: Vec<_> = (0..WAITERS)
        .map(|tag| {
            let (party, (serve, served)) = (b.with_own_queue(), channel());
            std::thread::spawn(move || loop {
                party.receive(from_any(tag), Buffer::new(8)).unwrap();
                // An error says that the test is over.
                if serve.send(()).is_err() || party.wait(PATIENCE).is_err() {
                    return;
                }
            });
            served.recv().unwrap();
            served
        })
        .collect();
    while b.enter().wait_counters().sleeps < WAITERS {
        a.enter().poll_round();
    }
    let sleeps = || getrusage(UsageWho::RUSAGE_SELF).unwrap().voluntary_context_switches();
    let before = sleeps();
    for round in 0..ROUNDS {
        let tag = round % WAITERS;
        a.send(peer, b"message", tag, false).unwrap();
        let start = Instant::now();
        while served[tag as usize].try_recv().is_err() {
            assert!(start.elapsed() < PATIENCE, "a wake-up is lost");
            let mut guard = a.enter();
            guard.maintain();
            guard.poll_round();
        }
    }
    let slept = sleeps() - before;
    assert!(slept <= WOKEN * ROUNDS as i64, "{ROUNDS} messages woke {slept} times");
}

#[test]
fn the_name_of_a_killed_process_is_free() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scratch = Scratch::new();
    for _ in 0..5 {
        let mut holder = start("named", &scratch.0);
        let taken = Party::try_open(&scratch.0, Some("service"), ThreadLevel::Single, &[]);
        assert_eq!(taken.map(drop).unwrap_err().error, Error::NameInUse);
        holder.kill();
        let party = Party::open(&scratch.0, Some("service"), ThreadLevel::Single, &[]);
        let found = party.shared.lookup("service", Some(PATIENCE)).unwrap();
        assert_eq!(found, party.address());
    }
}

#[test]
fn a_survivor_of_killed_peers_keeps_nothing_of_them() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rounds = std::env::var(ROUNDS).map_or(50, |text| text.parse().expect("a number"));
    let scratch = Scratch::new();
    let survivor = Party::open(&scratch.0, Some("survivor"), ThreadLevel::Single, &[]);
    let bytes: &'static [u8] = Box::leak(vec![7u8; 400_000].into_boxed_slice());
    let large = Buffer::new(400_000);
    let baseline = (descriptors(), mappings());
    for round in 0..rounds {
        let mut random = Random::new(round);
        survive(&survivor, &scratch.0, bytes, large, &mut random);
        survivor.settle();
        assert_eq!((descriptors(), mappings()), baseline, "after round {round}");
    }
    // The next start removes the files that the dead left.
    drop(Party::open(&scratch.0, None, ThreadLevel::Single, &[]));
    let node = survivor.address().node;
    let mut left = files_below(&scratch.0);
    let own = [format!("{node}.sock"), format!("{node}.page")];
    left.retain(|name| !own.contains(name) && name != "survivor.name" && name != "lock");
    assert!(left.is_empty(), "the dead left {left:?}");
}

/// One peer streams and is killed at some point.
fn survive(party: &Party, dir: &Path, bytes: &'static [u8], large: Buffer, random: &mut Random) {
    let mut started = 0;
    party.receive(from_any(1), Buffer::new(8)).unwrap();
    let mut peer = start("stream", dir);
    let source = PeerId::new(party.wait_received().source);
    // Operations that can end only with the peer: it matches none of them.
    for tag in 100..110 {
        party.receive(exactly(source, tag), large).unwrap();
        started += 1;
    }
    started += u32::from(party.send(source, bytes, 200, false).unwrap());
    started += u32::from(party.send(source, b"sync", 200, true).unwrap());
    // A stream in both directions, to be cut anywhere.
    let mut before_kill = random.below(400);
    let mut killed = false;
    let (mut ended, mut gone) = (0, 0);
    while ended < started {
        if !killed {
            for (tag, len) in [(2, 8), (3, 400_000)] {
                let posted = party.receive(exactly(source, tag), large.first(len));
                started += u32::from(posted.is_ok());
            }
            started += u32::from(party.send(source, &bytes[..100], 4, false).unwrap_or(false));
        }
        let completion = party.wait(PATIENCE).expect("operations with a killed peer end");
        ended += 1;
        match completion.status {
            0 => {}
            status => {
                assert_eq!(status, Error::PeerGone.code());
                gone += 1;
            }
        }
        before_kill = before_kill.saturating_sub(1);
        if before_kill == 0 && !killed {
            peer.kill();
            killed = true;
        }
    }
    assert!(gone >= 12, "only {gone} operations ended with the peer");
    let mut guard = party.enter();
    let start = Instant::now();
    while guard.engine.counters().peers_now > 0 {
        guard.maintain();
        assert!(start.elapsed() < PATIENCE, "the end of the peer is not noticed");
    }
    assert_eq!(guard.engine.counters().pending_now, 0);
    drop(guard);
    drain(party, source);
}

/// Takes what the dead peer has left unexpected, so that the store does not fill over the rounds.
fn drain(party: &Party, source: PeerId) {
    for tag in [2, 3] {
        while party.receive(exactly(source, tag), Buffer::new(0)).is_ok() {
            party.wait(PATIENCE).unwrap();
        }
    }
}

fn hold_name(dir: &Path) {
    let party = Party::open(dir, Some("service"), ThreadLevel::Single, &[]);
    println!("the peer is ready");
    // Until killed; the parent's end closes the other end of standard input.
    let _ = std::io::stdin().lines().next();
    drop(party);
}

/// Sends small and large messages to the fabric named survivor, and takes those of tag 4, until killed.
fn stream(dir: &Path) {
    let party = Party::open(dir, None, ThreadLevel::Single, &[]);
    let address = party.shared.lookup("survivor", Some(PATIENCE)).expect("the survivor is there");
    let peer = party.connect(&address);
    let bytes: &'static [u8] = Box::leak(vec![9u8; 400_000].into_boxed_slice());
    println!("the peer is ready");
    party.send(peer, b"hello", 1, false).expect("the survivor lives");
    let buffer = Buffer::new(100);
    for round in 0u64.. {
        if party.receive(exactly(peer, 4), buffer).is_err() {
            return;
        }
        // The survivor is gone when a send is refused for another reason than a full queue.
        for (tag, len) in [(2, 8), (3, 400_000)] {
            if let Err(error) = party.send(peer, &bytes[..len], tag, round % 8 == 0) {
                if error != Error::Again {
                    return;
                }
            }
        }
        match party.wait(PATIENCE) {
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
