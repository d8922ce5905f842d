//! Byte streams between fabrics, over shared memory and TCP.

mod common;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::process::{self, role, start};
use common::{within, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::{Armed, PeerId};
use gridnet::core::stream::Ready;
use gridnet::core::testing::random::Random;
use gridnet::page;
use gridnet::{Listener, Shared, Stream, ThreadLevel};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

const SHM: &[(&str, &str)] = &[("GRIDNET_RAILS", "shm")];
const TCP: &[(&str, &str)] =
    &[("GRIDNET_RAILS", "tcp"), ("GRIDNET_NET_INTERFACES", "127.0.0.1"), ("GRIDNET_NET_INSECURE", "1")];
const BOTH: &[(&str, &str)] =
    &[("GRIDNET_RAILS", "shm,tcp"), ("GRIDNET_NET_INTERFACES", "127.0.0.1"), ("GRIDNET_NET_INSECURE", "1")];
/// What is longer than any window.
const LONG_BYTES: usize = 2 << 20;
const NOW: Option<Duration> = Some(Duration::ZERO);
const LONG: Option<Duration> = Some(PATIENCE);
const LEVELS: [ThreadLevel; 2] = [ThreadLevel::Serialized, ThreadLevel::Multiple];

/// Bytes of a stream, told by their place.
fn text(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|place| (place % 251) as u8).collect()
}

/// Serves as many streams as come, one after the other, until one says nothing: gives back what it reads.
fn echo(listener: &Listener) {
    loop {
        let stream = listener.accept(LONG).unwrap();
        let mut bytes = vec![0; 100_000];
        let mut total = 0;
        loop {
            match stream.read(&mut bytes, LONG).unwrap() {
                0 if total == 0 => return,
                0 => break stream.shut_down().unwrap(),
                len => total += write_all(&stream, &bytes[..len]),
            }
        }
        // The caller says that it has read all.
        assert_eq!(stream.read(&mut bytes, LONG), Ok(0));
    }
}

fn write_all(stream: &Stream, bytes: &[u8]) -> usize {
    assert_eq!(stream.write(bytes, LONG), Ok(bytes.len()));
    bytes.len()
}

fn read_exactly(stream: &Stream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match stream.read(&mut bytes[done..], LONG).unwrap() {
            0 => panic!("the stream ends after {done} of {len} bytes"),
            more => done += more,
        }
    }
    bytes
}

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((role, dir)) = role() else { return };
    if role == "poor" {
        return converse_without_descriptors(&dir);
    }
    let rails = match role.as_str() {
        "shm" | "tells" => SHM,
        "tcp" => TCP,
        _ => BOTH,
    };
    let party = Party::open(&dir, Some("peer"), ThreadLevel::Serialized, rails);
    let listener = Listener::open(&party.shared, "echo", 16).unwrap();
    println!("ready");
    if role == "tells" {
        let stream = listener.accept(LONG).unwrap();
        // The other side kills this one.
        let _ = stream.write_all(&text(0, LONG_BYTES), LONG);
        return;
    }
    echo(&listener);
}

/// A fabric, and its peer by name.
fn caller(scratch: &Scratch, level: ThreadLevel, rails: &[(&str, &str)]) -> (Party, PeerId) {
    let party = Party::open(&scratch.0, None, level, rails);
    let address = party.shared.lookup("peer", LONG).unwrap();
    let peer = party.connect(&address);
    (party, peer)
}

fn connect(shared: &Arc<Shared>, peer: PeerId) -> Stream {
    Stream::connect(shared, peer, "echo", LONG).unwrap()
}

#[test]
fn another_process_gives_back_what_it_is_told() {
    for (name, rails) in [("shm", SHM), ("tcp", TCP)] {
        for level in LEVELS {
            within(4 * PATIENCE, move || {
                let scratch = Scratch::new();
                let _peer = start(name, &scratch.0);
                let (party, peer) = caller(&scratch, level, rails);
                let stream = connect(&party.shared, peer);
                converse(&stream);
                drop(stream);
                connect(&party.shared, peer).shut_down().unwrap();
            });
        }
    }
}

/// Says something short, something long, and something whose end the peer hears.
fn converse(stream: &Stream) {
    assert_eq!(stream.read(&mut [0], NOW), Err(Error::Again));
    for round in 0..50 {
        write_all(stream, &text(round, 8));
        assert_eq!(read_exactly(stream, 8), text(round, 8));
    }
    // Less than both windows: the peer cannot go on reading when nobody reads what it gives back.
    for (from, len) in [(0, 1), (7, 70_000), (9, 200_000)] {
        write_all(stream, &text(from, len));
        assert_eq!(read_exactly(stream, len), text(from, len));
    }
    write_all(stream, b"the last");
    stream.shut_down().unwrap();
    assert_eq!(stream.write(b"?", LONG), Err(Error::Closed));
    assert_eq!(read_exactly(stream, 8), b"the last");
    assert_eq!(stream.read(&mut [0], LONG), Ok(0));
    assert_eq!(stream.read(&mut [0], LONG), Ok(0));
}

/// Descriptors of a process that wants to run out of them.
const FEW_DESCRIPTORS: usize = 100;

/// Takes all descriptors that the system gives, then says and hears something, in calls that sleep.
fn converse_without_descriptors(dir: &Path) {
    let options = [("GRIDNET_RAILS", "shm"), ("GRIDNET_WAIT_MODE", "block")];
    let party = Party::open(dir, None, ThreadLevel::Multiple, &options);
    let address = party.shared.lookup("peer", LONG).unwrap();
    let stream = connect(&party.shared, party.connect(&address));
    let others: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(others.len() < FEW_DESCRIPTORS, "the system goes on giving descriptors");
    let before = party.enter().wait_counters().sleeps;
    let slept = || party.enter().wait_counters().sleeps - before;
    // An answer may be there before the call looks.
    let start = Instant::now();
    for round in (0..20).cycle() {
        write_all(&stream, &text(round, 8));
        assert_eq!(read_exactly(&stream, 8), text(round, 8));
        if round == 19 && slept() > 0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it did not sleep");
    }
    drop(others);
    stream.shut_down().unwrap();
    assert_eq!(stream.read(&mut [0], LONG), Ok(0));
    println!("ready");
}

#[test]
fn a_stream_that_stands_needs_no_more_descriptors() {
    within(4 * PATIENCE, || {
        let scratch = Scratch::new();
        let _peer = start("shm", &scratch.0);
        let poor = process::command("poor", &scratch.0);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {FEW_DESCRIPTORS} && exec \"$@\""), "sh"]);
        limited.arg(poor.get_program()).args(poor.get_args()).stdin(Stdio::piped());
        limited.envs(poor.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let _poor = process::start_by(limited);
    });
}

/// Two fabrics of this process, each with a thread of progress of its own, and a listener of the second.
struct Local {
    scratch: Scratch,
    parties: [Party; 2],
    to_second: PeerId,
    listener: Listener,
}

impl Local {
    fn new(rails: &[(&str, &str)]) -> Local {
        let scratch = Scratch::new();
        let mut options = rails.to_vec();
        options.extend([("GRIDNET_PROGRESS", "thread"), ("GRIDNET_STREAM_WINDOW", "64k")]);
        let parties = [0, 1].map(|_| Party::open(&scratch.0, None, ThreadLevel::Multiple, &options));
        let to_second = parties[0].connect(&parties[1].address());
        let listener = Listener::open(&parties[1].shared, "echo", 4).unwrap();
        Local { scratch, parties, to_second, listener }
    }

    fn connect(&self) -> [Stream; 2] {
        let ours = connect(&self.parties[0].shared, self.to_second);
        [ours, self.listener.accept(LONG).unwrap()]
    }

    /// Waits until so many calls on streams sleep.
    fn await_sleepers(&self, count: usize) {
        let start = Instant::now();
        let asleep = |found: &page::Found| {
            let waits = found.read().unwrap().waits;
            waits.iter().filter(|wait| wait.call == "stream" && wait.asleep).count()
        };
        while page::of_process(Some(&self.scratch.0), std::process::id())
            .is_ok_and(|found| found.iter().map(asleep).sum::<usize>() < count)
        {
            assert!(start.elapsed() < PATIENCE, "they do not sleep");
            std::thread::yield_now();
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.parties.iter().for_each(|party| party.shared.stop_progress());
    }
}

#[test]
fn what_the_peer_does_not_have_is_refused_and_so_is_a_crowd() {
    within(4 * PATIENCE, || {
        let local = Local::new(SHM);
        let call = |service| Stream::connect(&local.parties[0].shared, local.to_second, service, LONG);
        let refusal = call("nothing").unwrap_err();
        assert_eq!(refusal.error, Error::NotFound);
        assert!(refusal.reason.contains("\"nothing\""), "{}", refusal.reason);
        assert_eq!(call("").unwrap_err().error, Error::Invalid);
        let again = Listener::open(&local.parties[1].shared, "echo", 4).unwrap_err();
        assert_eq!(again.error, Error::NameInUse);
        let waiting: Vec<Stream> = (0..4).map(|_| call("echo").unwrap()).collect();
        assert_eq!(call("echo").unwrap_err().error, Error::Limit);
        let accepted = local.listener.accept(LONG).unwrap();
        write_all(&accepted, b"you");
        assert_eq!(read_exactly(&waiting[0], 3), b"you");
        let next = call("echo").unwrap();
        drop(accepted);
        assert_eq!(waiting[0].read(&mut [0], LONG), Ok(0));
        // Who is not accepted before the listener ends hears the end.
        let other = Listener::open(&local.parties[1].shared, "other", 1).unwrap();
        let lost = call("other").unwrap();
        drop(other);
        assert_eq!(lost.read(&mut [0], LONG), Ok(0));
        assert_eq!(call("other").unwrap_err().error, Error::NotFound);
        drop(next);
    });
}

#[test]
fn who_does_not_read_stops_its_own_stream_only() {
    for rails in [SHM, TCP] {
        within(4 * PATIENCE, || {
            let local = Local::new(rails);
            let [slow, slow_peer] = local.connect();
            let [quick, quick_peer] = local.connect();
            let bytes = text(0, 300_000);
            let written = fill(&slow, &bytes);
            // A window, and what stands in line where the rail had no room.
            assert!((64 << 10..=(64 << 10) + 64 * 1024).contains(&written), "{written}");
            assert_eq!(slow.write(b"more", Some(Duration::from_millis(1))), Err(Error::Timeout));
            for round in 0..20 {
                let part = text(round, 10_000);
                write_all(&quick, &part);
                assert_eq!(read_exactly(&quick_peer, 10_000), part);
            }
            assert_eq!(read_exactly(&slow_peer, written), bytes[..written]);
            assert_eq!(slow.write(b"more", LONG), Ok(4));
            assert_eq!(read_exactly(&slow_peer, 4), b"more");
        });
    }
}

/// Writes until nothing more may go, also not when what can be moved has moved.
fn fill(stream: &Stream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Ok(more) = stream.write(&bytes[written..], Some(Duration::from_millis(200))) {
        written += more;
    }
    written
}

#[test]
fn the_writer_hears_that_nobody_reads_any_more() {
    within(4 * PATIENCE, || {
        let local = Local::new(SHM);
        let [ours, theirs] = local.connect();
        write_all(&theirs, b"bye");
        drop(theirs);
        let start = Instant::now();
        let error = loop {
            match ours.write(&[1; 1000], LONG) {
                Ok(_) => assert!(start.elapsed() < PATIENCE, "it does not hear it"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::Closed);
        assert_eq!(read_exactly(&ours, 3), b"bye");
        assert_eq!(ours.read(&mut [0], LONG), Ok(0));
    });
}

#[test]
fn one_side_reads_while_another_thread_writes() {
    const LEN: usize = 3_000_000;
    for rails in [SHM, TCP] {
        within(4 * PATIENCE, || {
            let local = Local::new(rails);
            let [ours, theirs] = local.connect();
            std::thread::scope(|scope| {
                for stream in [&ours, &theirs] {
                    scope.spawn(move || {
                        let mut random = Random::new(3);
                        let mut at = 0;
                        while at < LEN {
                            let len = (1 + random.below(200_000) as usize).min(LEN - at);
                            at += write_all(stream, &text(at, len));
                        }
                        stream.shut_down().unwrap();
                    });
                    scope.spawn(move || {
                        assert!(read_exactly(stream, LEN) == text(0, LEN), "other bytes");
                        assert_eq!(stream.read(&mut [0], LONG), Ok(0));
                    });
                }
            });
        });
    }
}

#[test]
fn whoever_waits_is_woken_when_the_stream_is_aborted() {
    for rails in [SHM, TCP] {
        within(4 * PATIENCE, || {
            let local = Local::new(rails);
            let [ours, theirs] = local.connect();
            let written = fill(&ours, &text(0, 1_000_000));
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| ours.read(&mut [0], None));
                let writer = scope.spawn(|| ours.write(b"more", None));
                let waiter = scope.spawn(|| ours.wait(Ready { input: true, output: false }, None));
                local.await_sleepers(3);
                ours.abort().unwrap();
                assert_eq!(reader.join().unwrap(), Err(Error::Canceled));
                assert_eq!(writer.join().unwrap(), Err(Error::Canceled));
                assert_eq!(waiter.join().unwrap(), Ok(Ready { input: true, output: false }));
            });
            assert_eq!(ours.abort(), Ok(()));
            // The peer reads what was written before, then the end.
            assert!(read_exactly(&theirs, written) == text(0, written), "other bytes");
            assert_eq!(theirs.read(&mut [0], LONG), Ok(0));
        });
    }
}

#[test]
fn a_wait_says_what_can_be_done() {
    const READ: Ready = Ready { input: true, output: false };
    const BOTH_WAYS: Ready = Ready { input: true, output: true };
    within(4 * PATIENCE, || {
        let local = Local::new(SHM);
        let [ours, theirs] = local.connect();
        assert_eq!(ours.wait(READ, NOW), Err(Error::Again));
        assert_eq!(ours.wait(READ, Some(Duration::from_millis(1))), Err(Error::Timeout));
        assert_eq!(ours.wait(BOTH_WAYS, LONG), Ok(Ready { input: false, output: true }));
        assert_eq!(ours.wait(Ready::default(), LONG), Err(Error::Invalid));
        write_all(&theirs, b"x");
        assert_eq!(ours.wait(READ, LONG), Ok(READ));
        assert_eq!(ours.wait(BOTH_WAYS, LONG), Ok(BOTH_WAYS));
        assert_eq!(read_exactly(&ours, 1), b"x");
        assert_eq!(ours.wait(READ, NOW), Err(Error::Again));
    });
}

/// One listener serves clients over shared memory and TCP at once.
#[test]
fn clients_over_different_rails_share_a_listener() {
    within(4 * PATIENCE, || {
        let scratch = Scratch::new();
        let server = Party::open(&scratch.0, Some("peer"), ThreadLevel::Serialized, BOTH);
        let listener = Listener::open(&server.shared, "echo", 8).unwrap();
        let clients = [SHM, TCP].map(|rails| {
            let dir = scratch.0.clone();
            std::thread::spawn(move || {
                let party = Party::open(&dir, None, ThreadLevel::Serialized, rails);
                let address = party.shared.lookup("peer", LONG).unwrap();
                let peer = party.connect(&address);
                let stream = connect(&party.shared, peer);
                write_all(&stream, &text(5, 50_000));
                stream.shut_down().unwrap();
                assert_eq!(read_exactly(&stream, 50_000), text(5, 50_000));
                assert_eq!(stream.read(&mut [0], LONG), Ok(0));
            })
        });
        let streams = [0, 1].map(|_| listener.accept(LONG).unwrap());
        assert_ne!(streams[0].peer(), streams[1].peer());
        for stream in streams {
            let bytes = read_exactly(&stream, 50_000);
            assert_eq!(stream.read(&mut [0], LONG), Ok(0));
            write_all(&stream, &bytes);
            stream.shut_down().unwrap();
            assert_eq!(stream.read(&mut [0], LONG), Ok(0));
        }
        let guard = server.enter();
        drop(guard);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn a_peer_that_is_killed_is_an_error_after_what_it_wrote() {
    for (name, rails) in [("shm", SHM), ("tcp", TCP)] {
        within(6 * PATIENCE, move || {
            let scratch = Scratch::new();
            let mut peer = start(name, &scratch.0);
            let mut options = rails.to_vec();
            options.push(("GRIDNET_PEER_TIMEOUT", "200ms"));
            let (party, to) = caller(&scratch, ThreadLevel::Serialized, &options);
            let stream = connect(&party.shared, to);
            write_all(&stream, b"the last");
            let came = read_exactly(&stream, 4);
            // The rest has come too: it was one write.
            let rest = read_exactly(&stream, 4);
            peer.kill();
            assert_eq!([came, rest].concat(), b"the last");
            let error = stream.read(&mut [0], LONG).unwrap_err();
            assert_eq!(error, Error::PeerGone);
            assert_eq!(stream.write(b"?", LONG), Err(Error::PeerGone));
            let refused = Stream::connect(&party.shared, to, "echo", LONG).unwrap_err();
            assert_eq!(refused.error, Error::PeerGone);
        });
    }
}

/// Bytes for which the peer has no room are read where they lie, all in one where the reader has room for all.
#[test]
fn what_is_long_is_read_where_it_lies() {
    for (rails, in_one) in [(SHM, true), (TCP, false)] {
        within(4 * PATIENCE, move || {
            let local = Local::new(rails);
            let [ours, theirs] = local.connect();
            let all = text(0, LONG_BYTES);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The first is shown; the next ones go both ways in turn.
                    assert_eq!(ours.write_all(&all, LONG), Ok(()));
                    let mut random = Random::new(4);
                    let mut at = 0;
                    while at < all.len() {
                        let len = (1 + random.below(500_000) as usize).min(all.len() - at);
                        assert_eq!(ours.write_all(&all[at..at + len], LONG), Ok(()));
                        at += len;
                    }
                    ours.shut_down().unwrap();
                });
                let mut bytes = vec![0; LONG_BYTES + 1];
                let first = theirs.read(&mut bytes, LONG).unwrap();
                assert_eq!(first == LONG_BYTES, in_one, "{first} bytes came in one");
                assert!(bytes[..first] == all[..first], "other bytes");
                assert!(read_exactly(&theirs, LONG_BYTES - first) == all[first..], "other bytes");
                // Parts that end elsewhere.
                assert!(read_exactly(&theirs, 1000) == all[..1000], "other bytes");
                assert!(read_exactly(&theirs, LONG_BYTES - 1000) == all[1000..], "other bytes");
                assert_eq!(theirs.read(&mut bytes, LONG), Ok(0));
            });
        });
    }
}

/// What the peer has read was written, whatever it does next; what it has said before it went is there.
#[test]
fn who_has_read_what_is_long_may_answer_and_go() {
    within(4 * PATIENCE, || {
        let local = Local::new(SHM);
        let all = text(0, LONG_BYTES);
        for _ in 0..20 {
            let [ours, theirs] = local.connect();
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| ours.write_all(&all, LONG));
                local.await_sleepers(1);
                assert!(read_exactly(&theirs, LONG_BYTES) == all, "other bytes");
                write_all(&theirs, b"thanks");
                drop(theirs);
                assert_eq!(writer.join().unwrap(), Ok(()));
            });
            assert_eq!(read_exactly(&ours, 6), b"thanks");
        }
    });
}

/// Who waits for a reader of what is long is told of its own end, and of the time; the reader hears the end behind what came before.
#[test]
fn what_is_long_is_taken_back_by_the_end() {
    for rails in [SHM, TCP] {
        within(4 * PATIENCE, move || {
            let local = Local::new(rails);
            let all = text(0, LONG_BYTES);
            for ends in [Error::Canceled, Error::Timeout, Error::Closed] {
                let [ours, theirs] = local.connect();
                write_all(&ours, b"before");
                let timeout = if ends == Error::Timeout { Some(Duration::from_millis(1)) } else { LONG };
                let theirs = std::thread::scope(|scope| {
                    let writer = scope.spawn(|| ours.write_all(&all, timeout));
                    let theirs = match ends {
                        Error::Timeout => Some(theirs),
                        _ => {
                            local.await_sleepers(1);
                            if ends == Error::Canceled {
                                ours.abort().unwrap();
                            }
                            Some(theirs).filter(|_| ends == Error::Canceled)
                        }
                    };
                    assert_eq!(writer.join().unwrap(), Err(ends));
                    theirs
                });
                assert_eq!(ours.write(b"?", LONG), Err(Error::Canceled), "the stream is over");
                let Some(theirs) = theirs else { continue };
                let mut bytes = vec![0; LONG_BYTES];
                let mut read = 0;
                while read < LONG_BYTES {
                    match theirs.read(&mut bytes[read..], LONG) {
                        Ok(0) => break,
                        Ok(len) => read += len,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                assert!(
                    read < LONG_BYTES && bytes.starts_with(b"before") && bytes[6..read] == all[..read - 6]
                );
            }
        });
    }
}

/// Killed in the middle of what is long, on either side of it.
#[test]
fn who_is_killed_in_the_middle_of_what_is_long_has_gone() {
    within(6 * PATIENCE, || {
        let options = [SHM, &[("GRIDNET_PEER_TIMEOUT", "200ms")]].concat();
        let scratch = Scratch::new();
        let mut peer = start("shm", &scratch.0);
        let (party, to) = caller(&scratch, ThreadLevel::Multiple, &options);
        let stream = connect(&party.shared, to);
        let all = text(0, LONG_BYTES);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| stream.write_all(&all, LONG));
            // It has read a part, and waits for who reads what it gives back.
            assert!(read_exactly(&stream, 50_000) == all[..50_000], "other bytes");
            peer.kill();
            assert_eq!(writer.join().unwrap(), Err(Error::PeerGone));
        });
        let scratch = Scratch::new();
        let mut peer = start("tells", &scratch.0);
        let (party, to) = caller(&scratch, ThreadLevel::Serialized, &options);
        let stream = connect(&party.shared, to);
        assert!(read_exactly(&stream, 50_000) == all[..50_000], "other bytes");
        peer.kill();
        let mut bytes = vec![0; 50_000];
        let gone = (0..).find_map(|_| stream.read(&mut bytes, LONG).err());
        assert_eq!(gone, Some(Error::PeerGone));
    });
}

/// A loop that sleeps on descriptors only: nothing wakes it up but what happens.
#[test]
fn a_loop_over_descriptors_misses_nothing() {
    const ROUNDS: usize = 200;
    for (name, rails) in [("shm", SHM), ("tcp", TCP)] {
        within(6 * PATIENCE, move || {
            let scratch = Scratch::new();
            let server = Party::open(&scratch.0, Some("peer"), ThreadLevel::Serialized, rails);
            let listener = Listener::open(&server.shared, "echo", 8).unwrap();
            let dir = scratch.0.clone();
            let client = std::thread::spawn(move || {
                let party = Party::open(&dir, None, ThreadLevel::Serialized, rails);
                let address = party.shared.lookup("peer", LONG).unwrap();
                let stream = connect(&party.shared, party.connect(&address));
                for round in 0..ROUNDS {
                    let len = 1 + (round * 997) % 9000;
                    write_all(&stream, &text(round, len));
                    assert_eq!(read_exactly(&stream, len), text(round, len));
                }
                stream.shut_down().unwrap();
                assert_eq!(stream.read(&mut [0], LONG), Ok(0));
            });
            serve_by_descriptors(&listener, name);
            client.join().unwrap();
        });
    }
}

fn serve_by_descriptors(listener: &Listener, name: &str) {
    let stream = loop {
        match listener.accept(NOW) {
            Ok(stream) => break stream,
            Err(error) => assert_eq!(error, Error::Again),
        }
        if listener.arm().unwrap() == Armed::Yes {
            sleep_on(listener.descriptor().unwrap(), name);
        }
    };
    let (mut bytes, mut left) = (vec![0; 5000], Vec::new());
    loop {
        // What waits to be written goes first: nothing is read meanwhile.
        let wanted = Ready { input: left.is_empty(), output: !left.is_empty() };
        let done = if left.is_empty() { stream.read(&mut bytes, NOW) } else { stream.write(&left, NOW) };
        match done {
            Ok(0) => break,
            Ok(len) if left.is_empty() => left.extend_from_slice(&bytes[..len]),
            Ok(len) => drop(left.drain(..len)),
            Err(Error::Again) => {
                if stream.arm(wanted).unwrap() == Armed::Yes {
                    sleep_on(stream.descriptor().unwrap(), name);
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn sleep_on(descriptor: std::os::fd::RawFd, name: &str) {
    // SAFETY: the descriptor lives as long as its stream, which the caller has.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut files, timeout), Ok(1), "a wake-up was lost over {name}");
}

#[test]
fn very_many_services_are_listened_for_at_once() {
    const SERVICES: usize = 200;
    within(4 * PATIENCE, || {
        let local = Local::new(BOTH);
        let name = |number: usize| format!("service {number}");
        let listeners: Vec<Listener> = (0..SERVICES)
            .map(|number| Listener::open(&local.parties[1].shared, &name(number), 1).unwrap())
            .collect();
        let call =
            |number| Stream::connect(&local.parties[0].shared, local.to_second, &name(number), LONG).unwrap();
        let callers: Vec<Stream> = (0..SERVICES).map(call).collect();
        let streams: Vec<Stream> = listeners.iter().map(|listener| listener.accept(LONG).unwrap()).collect();
        for (number, caller) in callers.iter().enumerate() {
            write_all(caller, name(number).as_bytes());
        }
        for (number, stream) in streams.iter().enumerate() {
            assert_eq!(read_exactly(stream, name(number).len()), name(number).as_bytes());
        }
    });
}
