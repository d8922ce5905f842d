//! Exhaustion and early ends: memory for staging, descriptors, queues that go away with operations on them.
//!
//! Where descriptors run out, the test starts its own binary again; an environment variable tells it its role.

mod common;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{from_any, within, Buffer, Party, Scratch, PATIENCE, RECEIVE, SEND};
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::PeerState;
use gridnet::core::error::Error;
use gridnet::core::rail::{Armed, PeerId};
use gridnet::ThreadLevel;
use gridnet_testbed::testing::skip;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// What a child does: see [`child`].
const ROLE: &str = "TEST_ROLE";
/// Where it opens its fabrics.
const DIR: &str = "TEST_DIR";
/// Descriptors that a child may have: more than the table has that io_uring receives with, which would not be had otherwise.
const DESCRIPTORS: u64 = 640;
const LIMIT: Duration = Duration::from_secs(30);
const LARGE: usize = 2 << 20;

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else {
        return;
    };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, most).unwrap();
    within(LIMIT, move || match role.as_str() {
        "called" => {
            for level in [ThreadLevel::Single, ThreadLevel::Serialized] {
                be_called_without_descriptors(Path::new(&dir), level, &[]);
            }
        }
        "called over tcp" => {
            // One thread does all, so that io_uring may accept, too.
            for engine in ["epoll", "auto", "io_uring_recv"] {
                be_called_without_descriptors(Path::new(&dir), ThreadLevel::Single, &over_tcp(engine));
            }
        }
        "opening" => open_without_descriptors(Path::new(&dir)),
        other => panic!("unknown role {other}"),
    });
}

#[test]
fn a_small_segment_serves_one_peer_after_the_other() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let sender = open(&scratch, &[("GRIDNET_SHM_SEGMENT_SIZE", "1m")]);
        let (from, to) = (Buffer::new(1 << 20), Buffer::new(1 << 20));
        let mut receivers = Vec::new();
        for byte in 1..=8 {
            from.fill(byte);
            let receiver = open(&scratch, &[]);
            let peer = sender.connect(&receiver.address());
            receiver.receive(from_any(1), to).unwrap();
            assert!(sender.send_buffer(peer, from, 1).unwrap());
            let [sent, got] = both_end(&sender, &receiver);
            assert_eq!((sent.status, got.status), (0, 0), "peer {byte}");
            assert!(to.to_vec().iter().all(|b| *b == byte));
            receivers.push(receiver);
        }
    });
}

#[test]
fn a_segment_without_room_for_a_large_message_says_so() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        // The first page, four link blocks of 4096 slots and 3 lines each, and 3328 bytes.
        let options = [("GRIDNET_SHM_SEGMENT_SIZE", "1056768"), ("GRIDNET_SHM_RING_SLOTS", "4096")];
        let sender = open(&scratch, &options);
        let receivers: Vec<Party> = (0..5).map(|_| open(&scratch, &[])).collect();
        let peers: Vec<PeerId> = receivers[..4].iter().map(|r| sender.connect(&r.address())).collect();
        let refusal = sender.enter().engine.open(&receivers[4].address()).unwrap_err();
        assert!(refusal.reason.contains("GRIDNET_SHM_SEGMENT_SIZE"), "{refusal:?}");
        for (receiver, peer) in receivers.iter().zip(peers) {
            receiver.receive(from_any(1), Buffer::new(1 << 20)).unwrap();
            assert!(sender.send_buffer(peer, Buffer::new(1 << 20), 1).unwrap());
            let [sent, got] = both_end(&sender, receiver);
            assert_eq!((sent.status, got.status), (Error::Limit.code(), Error::Limit.code()));
            // The link is none the worse for it.
            receiver.receive(from_any(2), Buffer::new(8)).unwrap();
            sender.send(peer, b"small", 2, false).unwrap();
            assert_eq!(end_of(RECEIVE, receiver, &[&sender]).status, 0);
        }
    });
}

#[test]
fn who_only_sends_hears_stop_among_many_idle_links() {
    within(LIMIT, || {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let scratch = Scratch::new();
        let sender = open(&scratch, &[]);
        let bounds = [("GRIDNET_UNEXPECTED_MESSAGES", "64"), ("GRIDNET_SHM_SEGMENT_SIZE", "1m")];
        let receivers: Vec<Party> = (0..300).map(|_| open(&scratch, &bounds)).collect();
        let peers: Vec<PeerId> = receivers.iter().map(|r| sender.connect(&r.address())).collect();
        until("all links are up", || {
            receivers.iter().for_each(|receiver| drive(&[receiver]));
            drive(&[&sender]);
            sender.enter().engine.counters().peers_now == 300
        });
        // The first one has been idle longest.
        let (receiver, peer) = (&receivers[0], peers[0]);
        let mut waits = false;
        for _ in 0..40_000 {
            waits = sender.send(peer, b"message", 1, false).expect("the sender listens, and is not cut off");
            receiver.enter().poll_round();
            if waits {
                break;
            }
        }
        assert!(waits, "the sender does not hear that it is to stop");
        drive(&[receiver, &sender]);
        let counters = receiver.enter().engine.counters();
        assert_eq!((counters.peers_gone, counters.peers.backpressure_stops), (0, 1));
    });
}

#[test]
fn a_connection_waits_for_descriptors() {
    run_child("called");
}

/// A called fabric that is short of descriptors goes on, and makes the link when there are enough again.
fn be_called_without_descriptors(dir: &Path, level: ThreadLevel, options: &[(&str, &str)]) {
    for free in 0..6 {
        let called = match Party::try_open(dir, None, level, options) {
            Ok(called) => called,
            Err(refusal) => {
                assert!(refusal.reason.contains("io_uring"), "{}", refusal.reason);
                return skip(&format!("{options:?}"), &refusal.reason);
            }
        };
        let caller = Party::open(dir, None, level, options);
        called.enter().cq_descriptor(called.cq).unwrap();
        until("the queue is armed", || called.enter().arm_cq(called.cq) == Ok(Armed::Yes));
        let peer = caller.connect(&called.address());
        let taken = use_up_descriptors(free);
        // The end of each call looks after the armed queue.
        for _ in 0..100 {
            drive(&[&called]);
        }
        assert!(free > 0 || called.enter().engine.counters().peers_now == 0, "descriptors did not run out");
        drop(taken);
        called.receive(from_any(1), Buffer::new(8)).unwrap();
        caller.send(peer, b"message", 1, false).unwrap();
        until("the link is made", || {
            drive(&[&called, &caller]);
            caller.enter().engine.peer(peer).unwrap().2 != &PeerState::Connecting
        });
        assert_eq!(caller.enter().engine.peer(peer).unwrap().2, &PeerState::Up, "{free} free");
        assert_eq!(end_of(RECEIVE, &called, &[&caller]).status, 0);
    }
}

#[test]
fn a_connection_over_tcp_waits_for_descriptors() {
    run_child("called over tcp");
}

fn over_tcp(engine: &str) -> [(&str, &str); 4] {
    [
        ("GRIDNET_RAILS", "tcp"),
        ("GRIDNET_NET_INSECURE", "1"),
        ("GRIDNET_NET_INTERFACES", "lo"),
        ("GRIDNET_NET_ENGINE", engine),
    ]
}

#[test]
fn an_opening_without_descriptors_spares_the_living() {
    run_child("opening");
}

fn open_without_descriptors(dir: &Path) {
    let living = Party::open(dir, Some("living"), ThreadLevel::Serialized, &[]);
    let run_dir = living.enter().run_dir().cloned().unwrap();
    let files = [run_dir.socket_of(living.address().node), run_dir.path().join("living.name")];
    let mut failed = 0;
    for free in 0..12 {
        let taken = use_up_descriptors(free);
        failed += usize::from(Party::try_open(dir, None, ThreadLevel::Serialized, &[]).is_err());
        let found = living.shared.lookup("living", Some(Duration::ZERO));
        drop(taken);
        assert!(files.iter().all(|file| file.symlink_metadata().is_ok()), "{free} free: files are gone");
        assert_eq!(found.unwrap(), living.address());
    }
    assert!(failed > 1, "descriptors did not run out");
}

#[test]
fn a_destroyed_queue_writes_no_buffer() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let (sender, receiver) = (open(&scratch, &[]), open(&scratch, &[]));
        let other = receiver.with_own_queue();
        let peer = sender.connect(&receiver.address());
        let (from, coming, posted, free) = (filled(1), Buffer::new(LARGE), Buffer::new(8), Buffer::new(8));
        receiver.receive(from_any(1), coming).unwrap();
        receiver.receive(from_any(2), posted).unwrap();
        assert!(sender.send_buffer(peer, from, 1).unwrap());
        come_in(&sender, &receiver, coming);
        receiver.enter().close_cq(receiver.cq);
        let before = coming.to_vec();
        other.receive(from_any(2), free).unwrap();
        sender.send(peer, b"message", 2, false).unwrap();
        // The end of the large message, though into no memory, lets its sender go on.
        assert_eq!(end_of(SEND, &sender, &[&receiver]).status, 0);
        assert_eq!(end_of(RECEIVE, &other, &[&sender]).status, 0);
        assert!(coming.to_vec() == before, "a buffer is written after its queue was destroyed");
        assert_eq!((&posted.to_vec()[..7], &free.to_vec()[..7]), (&[0; 7][..], &b"message"[..]));
    });
}

#[test]
fn a_destroyed_queue_reads_no_memory() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let (sender, receiver) = (open(&scratch, &[]), open(&scratch, &[]));
        let other = sender.with_own_queue();
        let peer = sender.connect(&receiver.address());
        let (from, to) = (filled(1), Buffer::new(LARGE));
        receiver.receive(from_any(1), to).unwrap();
        assert!(sender.send_buffer(peer, from, 1).unwrap());
        come_in(&sender, &receiver, to);
        sender.enter().close_cq(sender.cq);
        from.fill(9);
        assert_eq!(end_of(RECEIVE, &receiver, &[&sender]).status, Error::Canceled.code());
        assert!(!to.to_vec().contains(&9), "memory is read after its queue was destroyed");
        receiver.receive(from_any(2), to).unwrap();
        other.send(peer, b"next", 2, false).unwrap();
        assert_eq!(end_of(RECEIVE, &receiver, &[&sender]).status, 0);
    });
}

#[test]
fn a_destroyed_queue_sends_nothing_that_still_waits() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let (sender, receiver) = (open(&scratch, &[]), open(&scratch, &[]));
        let other = sender.with_own_queue();
        // Nobody has answered yet: the message waits for the link.
        let peer = sender.connect(&receiver.address());
        let (from, to) = (Buffer::new(8), Buffer::new(8));
        from.fill(1);
        assert!(sender.send_buffer(peer, from, 1).unwrap());
        sender.enter().close_cq(sender.cq);
        from.fill(9);
        receiver.receive(from_any(1), to).unwrap();
        other.send(peer, b"next one", 1, false).unwrap();
        assert_eq!(end_of(RECEIVE, &receiver, &[&sender]).status, 0);
        assert_eq!(to.to_vec(), b"next one");
    });
}

fn open(scratch: &Scratch, options: &[(&str, &str)]) -> Party {
    Party::open(&scratch.0, None, ThreadLevel::Serialized, options)
}

fn filled(byte: u8) -> Buffer {
    let buffer = Buffer::new(LARGE);
    buffer.fill(byte);
    buffer
}

/// Until the first bytes of a large message have come, and not the last.
fn come_in(sender: &Party, receiver: &Party, to: Buffer) {
    until("the message begins to come in", || {
        drive(&[sender, receiver]);
        to.first(1).to_vec() != [0]
    });
    assert_eq!(to.to_vec().last(), Some(&0), "all of it has come at once");
}

fn drive(parties: &[&Party]) {
    for party in parties {
        let mut guard = party.enter();
        guard.maintain();
        guard.poll_round();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
    }
}

/// The next completion of `context` at `party`, while `others` are driven too.
fn end_of(context: u64, party: &Party, others: &[&Party]) -> Completion {
    let mut end = None;
    until("the operation ends", || {
        drive(&[party]);
        drive(others);
        party.enter().take(party.cq, |completion| {
            end = (completion.context == context).then_some(completion);
            end.is_none()
        });
        end.is_some()
    });
    end.unwrap()
}

/// The ends of one send and one receive.
fn both_end(sender: &Party, receiver: &Party) -> [Completion; 2] {
    [end_of(SEND, sender, &[receiver]), end_of(RECEIVE, receiver, &[sender])]
}

/// Takes all descriptors of the process but `free`.
fn use_up_descriptors(free: usize) -> Vec<OwnedFd> {
    let input = std::io::stdin();
    let mut taken: Vec<OwnedFd> =
        std::iter::from_fn(|| input.as_fd().try_clone_to_owned().ok()).take(DESCRIPTORS as usize).collect();
    taken.truncate(taken.len() - free);
    taken
}

fn run_child(role: &str) {
    let scratch = Scratch::new();
    let output = Command::new(std::env::current_exe().expect("the test knows its file"))
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, &scratch.0)
        .stdin(Stdio::null())
        .output()
        .expect("the test starts itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the child in the role {role} failed:\n{said}");
    for line in said.lines().filter(|line| line.starts_with("SKIPPED:")) {
        let _ = writeln!(std::io::stderr(), "\n{line}");
    }
}
