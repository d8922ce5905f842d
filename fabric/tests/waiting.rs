//! Waits: modes, threads, descriptors, names. No wake-up is lost.

mod common;

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::{Duration, Instant};

use common::{exactly, from_any, within, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::{Armed, PeerId};
use gridnet::core::testing::random::Random;
use gridnet::ThreadLevel;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

const LIMIT: Duration = Duration::from_secs(120);

/// Answers every message of tag 1 with one of tag 2.
fn echo(party: &Party, rounds: usize) {
    let buffer = Buffer::new(8);
    let mut peer = None;
    for _ in 0..rounds {
        party.receive(from_any(1), buffer).unwrap();
        let source = PeerId::new(party.wait_received().source);
        let peer = *peer.get_or_insert_with(|| party.enter().engine.open_known(source).unwrap());
        party.send(peer, b"answer", 2, false).unwrap();
    }
}

fn ping(party: &Party, peer: PeerId, rounds: usize) {
    let buffer = Buffer::new(8);
    for _ in 0..rounds {
        party.receive(exactly(peer, 2), buffer).unwrap();
        party.send(peer, b"ask", 1, false).unwrap();
        party.wait_received();
        assert_eq!(&buffer.to_vec()[..6], b"answer");
    }
}

fn ping_pong_in(mode: &'static str, rounds: usize) {
    within(LIMIT, move || {
        let scratch = Scratch::new();
        let options = [("GRIDNET_WAIT_MODE", mode)];
        let b = Party::open(&scratch.0, None, ThreadLevel::Serialized, &options);
        let address = b.address();
        let answering = std::thread::spawn(move || {
            echo(&b, rounds);
            b
        });
        let a = Party::open(&scratch.0, None, ThreadLevel::Single, &options);
        ping(&a, a.connect(&address), rounds);
        let b = answering.join().unwrap();
        let counters = [&a, &b].map(|party| party.enter().wait_counters());
        match mode {
            "spin" => assert!(counters.iter().all(|c| c.sleeps == 0)),
            "block" => assert!(counters.iter().all(|c| c.sleeps > 0)),
            _ => {}
        }
    });
}

#[test]
fn spinning_waits_are_answered() {
    ping_pong_in("spin", 200);
}

#[test]
fn blocking_waits_are_answered() {
    ping_pong_in("block", 2000);
}

#[test]
fn adaptive_waits_are_answered() {
    ping_pong_in("adaptive", 2000);
}

/// A fabric sleeps on shared memory and on tcp in one wait, which ends over whichever of them a message comes.
#[test]
fn a_message_over_either_rail_ends_sleep() {
    for level in [ThreadLevel::Single, ThreadLevel::Multiple] {
        // Timers wake it twice a second: if messages did not, this would take minutes.
        within(LIMIT / 4, move || woken_over_either_rail(level));
    }
}

fn woken_over_either_rail(level: ThreadLevel) {
    const RAILS: [&str; 2] = ["shm", "tcp"];
    const ROUNDS: usize = 300;
    let scratch = Scratch::new();
    let dir = scratch.0.clone();
    let open = move |rails, level| {
        let net = [("GRIDNET_NET_INTERFACES", "127.0.0.1"), ("GRIDNET_NET_INSECURE", "1")];
        // As little as can be is to wake it beside messages.
        let quiet = [("GRIDNET_WAIT_MODE", "block"), ("GRIDNET_NET_KEEP_ALIVE", "0s")];
        Party::open(&dir, None, level, &[&net[..], &quiet, &[("GRIDNET_RAILS", rails)]].concat())
    };
    let peers = RAILS.map(|rail| open(rail, ThreadLevel::Serialized));
    let ((says, awaits), (address, where_it_is)) = (channel(), channel());
    let sleeping = std::thread::spawn(move || {
        let party = open("shm,tcp", level);
        address.send(party.address()).unwrap();
        let mut slept = [0, 0];
        for number in 0..RAILS.len() * ROUNDS {
            party.receive(from_any(1), Buffer::new(8)).unwrap();
            let before = party.enter().wait_counters().sleeps;
            says.send(nix::unistd::gettid()).unwrap();
            let source = PeerId::new(party.wait_received().source);
            slept[number % 2] += u32::from(party.enter().wait_counters().sleeps > before);
            assert_eq!(party.enter().engine.rail_name(source), Some(RAILS[number % 2]));
        }
        // The first message of each makes its link.
        assert!(slept.iter().all(|slept| *slept > ROUNDS as u32 / 2), "slept {slept:?} times of {ROUNDS}");
    });
    let address = where_it_is.recv().unwrap();
    let to = [0, 1].map(|rail| peers[rail].connect(&address));
    for number in 0..RAILS.len() * ROUNDS {
        let Ok(thread) = awaits.recv() else { break };
        await_asleep(thread);
        let rail = number % 2;
        peers[rail].send(to[rail], b"wake up", 1, true).unwrap();
        let matched = peers[rail].wait(PATIENCE);
        assert_eq!(
            matched.map(|matched| matched.status),
            Ok(0),
            "asleep past message {number}, over {}",
            RAILS[rail]
        );
    }
    sleeping.join().unwrap();
}

/// Waits until a thread of this process sleeps.
fn await_asleep(thread: nix::unistd::Pid) {
    let start = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        // Behind the name, which is in brackets.
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it does not sleep");
        std::thread::yield_now();
    }
}

#[test]
fn a_wait_ends_in_time_without_a_message() {
    let scratch = Scratch::new();
    for mode in ["spin", "block", "adaptive"] {
        let party = Party::open(&scratch.0, None, ThreadLevel::Single, &[("GRIDNET_WAIT_MODE", mode)]);
        let start = Instant::now();
        assert_eq!(party.wait(Duration::from_millis(30)), Err(Error::Timeout));
        assert_eq!(party.wait(Duration::ZERO), Err(Error::Timeout));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(30) && waited < PATIENCE, "{mode}: {waited:?}");
    }
}

/// Four threads of each side, each with a queue and a tag of its own, send to and fro.
fn many_threads(mode: &'static str, rounds: u64) {
    within(LIMIT, move || {
        let scratch = Scratch::new();
        let options = [("GRIDNET_WAIT_MODE", mode)];
        let a = Party::open(&scratch.0, None, ThreadLevel::Multiple, &options);
        let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, &options);
        let to_b = a.connect(&b.address());
        // The link is up, and `b` has a number for `a`.
        let hello = Buffer::new(8);
        b.receive(from_any(99), hello).unwrap();
        let greeting = a.clone();
        let greeter = std::thread::spawn(move || {
            greeting.send(to_b, b"hello", 99, true).unwrap();
            greeting.wait(PATIENCE).unwrap()
        });
        let to_a = PeerId::new(b.wait_received().source);
        assert_eq!(greeter.join().unwrap().status, 0);
        let mut threads = Vec::new();
        for tag in 0..4 {
            let (a, b) = (a.with_own_queue(), b.with_own_queue());
            threads.push(std::thread::spawn(move || talk(&a, to_b, tag, rounds, true)));
            threads.push(std::thread::spawn(move || talk(&b, to_a, tag, rounds, false)));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn talk(party: &Party, peer: PeerId, tag: u64, rounds: u64, first: bool) {
    let buffer = Buffer::new(8);
    for _ in 0..rounds {
        party.receive(exactly(peer, tag), buffer).unwrap();
        if first {
            party.send(peer, b"ball", tag, false).unwrap();
        }
        let completion = party.wait_received();
        assert_eq!((completion.tag, completion.source), (tag, peer.number()));
        if !first {
            party.send(peer, b"ball", tag, false).unwrap();
        }
    }
}

#[test]
fn no_wake_up_is_lost_among_blocking_threads() {
    many_threads("block", 2500);
}

#[test]
fn no_wake_up_is_lost_among_adaptive_threads() {
    many_threads("adaptive", 2500);
}

/// Two threads wait; the one that is served leaves, and does not come back before the other was served.
fn one_leaves(mode: &'static str, rounds: u64) {
    within(LIMIT, move || {
        let scratch = Scratch::new();
        let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, &[("GRIDNET_WAIT_MODE", mode)]);
        let a = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
        let peer = a.connect(&b.address());
        let mut random = Random::new(1);
        let (first, second) = (Waiter::start(b.with_own_queue(), 1), Waiter::start(b, 2));
        let mut waiters = [first, second];
        for _ in 0..rounds {
            waiters.iter_mut().for_each(Waiter::begin);
            // From both at the beginning of their wait to both asleep.
            (0..random.below(40)).for_each(|_| std::thread::yield_now());
            let leaver = random.below(2) as usize;
            for at in [leaver, 1 - leaver] {
                a.send(peer, b"message", waiters[at].tag, false).unwrap();
                while !waiters[at].is_served() {
                    let mut guard = a.enter();
                    guard.maintain();
                    guard.poll_round();
                }
            }
        }
    });
}

/// A thread that waits for one message of its tag each time it is told to.
struct Waiter {
    tag: u64,
    order: Sender<()>,
    served: Receiver<()>,
    since: Instant,
}

impl Waiter {
    fn start(party: Party, tag: u64) -> Waiter {
        let ((order, orders), (serve, served)) = (channel(), channel());
        std::thread::spawn(move || {
            let buffer = Buffer::new(8);
            for () in orders {
                party.receive(from_any(tag), buffer).unwrap();
                serve.send(()).unwrap();
                party.wait_received();
                serve.send(()).unwrap();
            }
        });
        Waiter { tag, order, served, since: Instant::now() }
    }

    /// Returns when the receive is posted.
    fn begin(&mut self) {
        self.order.send(()).unwrap();
        self.served.recv_timeout(PATIENCE).unwrap();
        self.since = Instant::now();
    }

    fn is_served(&self) -> bool {
        assert!(self.since.elapsed() < PATIENCE, "a wake-up is lost");
        self.served.try_recv().is_ok()
    }
}

#[test]
fn who_leaves_a_blocking_wait_wakes_those_who_stay() {
    one_leaves("block", 5000);
}

#[test]
fn who_leaves_an_adaptive_wait_wakes_those_who_stay() {
    one_leaves("adaptive", 5000);
}

#[test]
fn a_progress_thread_works_while_the_program_does_not_call() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let options = [("GRIDNET_PROGRESS", "thread")];
        let b = Party::open(&scratch.0, None, ThreadLevel::Serialized, &options);
        let buffer = Buffer::new(500_000);
        b.receive(from_any(1), buffer).unwrap();
        let a = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
        let peer = a.connect(&b.address());
        let bytes: &'static [u8] =
            Box::leak((0..500_000u32).map(|i| i as u8).collect::<Vec<_>>().into_boxed_slice());
        assert_eq!(a.send(peer, bytes, 1, true), Ok(true));
        // Nobody calls `b`; its thread takes connection and message.
        assert_eq!(a.wait(PATIENCE).unwrap().status, 0);
        b.wait_received();
        assert!(buffer.to_vec() == bytes);
        b.shared.stop_progress();
    });
}

fn is_readable(fd: i32, timeout: PollTimeout) -> bool {
    // SAFETY: the descriptor belongs to a queue that is open.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    poll(&mut [PollFd::new(file, PollFlags::POLLIN)], timeout).unwrap() == 1
}

/// Arms until nothing is left to be handled.
fn arm(party: &Party) {
    loop {
        let mut guard = party.enter();
        if guard.arm_cq(party.cq).unwrap() == Armed::Yes {
            return;
        }
        guard.poll_round();
        assert_eq!(guard.completions(party.cq), 0, "a message came that nobody sent");
    }
}

#[test]
fn an_armed_descriptor_becomes_readable() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let a = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
        let b = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
        let fd = b.enter().cq_descriptor(b.cq).unwrap();
        let peer = a.connect(&b.address());
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        for round in 0..500 {
            b.receive(from_any(1), Buffer::new(8)).unwrap();
            if round > 0 {
                arm(&b);
                assert!(!is_readable(fd, PollTimeout::ZERO), "readable without a reason");
            }
            a.send(peer, b"message", 1, false).unwrap();
            while round == 0 && b.enter().completions(b.cq) == 0 {
                // The link is being made.
                a.enter().maintain();
                b.enter().maintain();
                a.enter().poll_round();
                b.enter().poll_round();
            }
            if round > 0 {
                assert!(is_readable(fd, patience), "the descriptor does not become readable");
            }
            // What has come is seen by arming: the descriptor alone may not tell twice.
            assert_eq!(b.enter().arm_cq(b.cq), Ok(Armed::Busy));
            b.wait_received();
        }
    });
}

#[test]
fn an_armed_descriptor_becomes_readable_when_another_thread_polls() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let a = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
        let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, &[("GRIDNET_WAIT_MODE", "spin")]);
        let watched = b.with_own_queue();
        let fd = b.enter().cq_descriptor(watched.cq).unwrap();
        b.receive(from_any(2), Buffer::new(8)).unwrap();
        // This thread takes all frames from the rails, those for the watched queue among them.
        let spinning = std::thread::spawn(move || b.wait_received().tag);
        let peer = a.connect(&watched.address());
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        let drive = || {
            let mut guard = a.enter();
            guard.maintain();
            guard.poll_round();
        };
        for _ in 0..200 {
            watched.receive(from_any(1), Buffer::new(8)).unwrap();
            while watched.enter().arm_cq(watched.cq) != Ok(Armed::Yes) {
                drive();
            }
            a.send(peer, b"message", 1, false).unwrap();
            drive();
            assert!(is_readable(fd, patience), "the descriptor does not become readable");
            // The rail may have been the reason; the message is here then, or comes.
            watched.wait_received();
        }
        a.send(peer, b"end", 2, false).unwrap();
        drive();
        assert_eq!(spinning.join().unwrap(), 2);
    });
}

#[test]
fn an_armed_descriptor_stays_armed_during_other_waits() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let a = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        for (mode, level) in [("block", ThreadLevel::Serialized), ("adaptive", ThreadLevel::Multiple)] {
            let b = Party::open(&scratch.0, None, level, &[("GRIDNET_WAIT_MODE", mode)]);
            let other = b.with_own_queue();
            let fd = b.enter().cq_descriptor(b.cq).unwrap();
            // A link that is up.
            let peer = a.connect(&b.address());
            let receiver = b.clone();
            receiver.receive(from_any(1), Buffer::new(8)).unwrap();
            let receiving = std::thread::spawn(move || receiver.wait_received());
            a.send(peer, b"first", 1, true).unwrap();
            assert_eq!(a.wait(PATIENCE).unwrap().status, 0);
            receiving.join().unwrap();
            for _ in 0..50 {
                b.receive(from_any(1), Buffer::new(8)).unwrap();
                arm(&b);
                assert_eq!(other.wait(Duration::from_millis(1)), Err(Error::Timeout));
                a.send(peer, b"message", 1, false).unwrap();
                assert!(is_readable(fd, patience), "another wait has disarmed the descriptor");
                b.wait_received();
            }
        }
    });
}

#[test]
fn the_child_of_a_fork_is_told() {
    use nix::sys::wait::{waitpid, WaitStatus};
    use nix::unistd::{fork, ForkResult};
    let scratch = Scratch::new();
    for level in [ThreadLevel::Single, ThreadLevel::Serialized, ThreadLevel::Multiple] {
        let party = Party::open(&scratch.0, None, level, &[]);
        // SAFETY: the child calls nothing but an atomic load and _exit, which are safe after a fork of one of many
        // threads.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let refused = matches!(party.shared.enter().map(drop), Err(Error::Forked));
                // SAFETY: ends the child without running anything else.
                unsafe { libc::_exit(i32::from(!refused)) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
                party.enter();
            }
        }
    }
}

#[test]
fn a_lookup_wakes_when_the_name_appears() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let a = Party::open(&scratch.0, None, ThreadLevel::Multiple, &[]);
        let missing = a.shared.lookup("service", Some(Duration::from_millis(1))).unwrap_err();
        assert_eq!(missing.error, Error::Timeout);
        assert_eq!(a.shared.lookup("no/name", None).unwrap_err().error, Error::Invalid);
        let looking = a.clone();
        let slept = a.enter().wait_counters().sleeps;
        let thread = std::thread::spawn(move || looking.shared.lookup("service", Some(PATIENCE)));
        while a.enter().wait_counters().sleeps == slept {
            std::thread::yield_now();
        }
        let b = Party::open(&scratch.0, Some("service"), ThreadLevel::Single, &[]);
        let found = thread.join().unwrap().expect("the name is found in time");
        assert_eq!(found, b.address());
        let taken = Party::try_open(&scratch.0, Some("service"), ThreadLevel::Single, &[]);
        assert_eq!(taken.map(drop).unwrap_err().error, Error::NameInUse);
    });
}

#[test]
fn without_a_place_for_names_a_lookup_says_which_variable_to_set() {
    let scratch = Scratch::new();
    let options = [("GRIDNET_RUN_DIR", "/dev/null"), ("GRIDNET_RAILS", "self")];
    let nameless = Party::open(&scratch.0, None, ThreadLevel::Single, &options);
    let refused = nameless.shared.lookup("service", None).unwrap_err();
    assert_eq!(refused.error, Error::Config);
    assert!(refused.reason.contains("GRIDNET_RUN_DIR"), "{}", refused.reason);
    let named = Party::try_open(&scratch.0, Some("service"), ThreadLevel::Single, &options);
    let refused = named.map(drop).unwrap_err();
    assert!(refused.reason.contains("/dev/null"), "{}", refused.reason);
}

#[test]
fn levels_that_are_broken_are_noticed() {
    let scratch = Scratch::new();
    let single = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
    let elsewhere = single.clone();
    let answer = std::thread::spawn(move || elsewhere.shared.enter().map(drop)).join().unwrap();
    assert_eq!(answer, Err(Error::Thread));
    let serialized = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
    let guard = serialized.enter();
    assert_eq!(serialized.shared.enter().map(drop), Err(Error::Thread));
    drop(guard);
    assert_eq!(serialized.shared.enter().map(drop), Ok(()));
    // A call that panics leaves nothing certain.
    let broken = serialized.clone();
    let panicked = std::thread::spawn(move || {
        let _guard = broken.enter();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(serialized.shared.enter().map(drop), Err(Error::Internal));
}

/// As little as can be is to wake it beside messages.
const QUIET_TCP: &[(&str, &str)] = &[
    ("GRIDNET_RAILS", "tcp"),
    ("GRIDNET_NET_INTERFACES", "127.0.0.1"),
    ("GRIDNET_NET_INSECURE", "1"),
    ("GRIDNET_NET_KEEP_ALIVE", "0s"),
    ("GRIDNET_WAIT_MODE", "block"),
];

/// Thread 1 polls, and so takes the event for which thread 2 sleeps; then it computes. What comes next wakes thread 2.
#[test]
fn who_polls_does_not_use_up_the_wake_up_of_another_thread() {
    const ROUNDS: u32 = 250;
    // Timers wake the sleeper twice a second: if messages did not, this would take a minute.
    within(LIMIT / 4, || {
        let scratch = Scratch::new();
        let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, QUIET_TCP);
        let a = Party::open(&scratch.0, None, ThreadLevel::Single, QUIET_TCP);
        let peer = a.connect(&b.address());
        let (sleeper, (says, thread)) = (b.with_own_queue(), channel());
        let sleeping = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                sleeper.receive(from_any(2), Buffer::new(16)).unwrap();
                says.send(nix::unistd::gettid()).unwrap();
                sleeper.wait_received();
            }
        });
        for _ in 0..ROUNDS {
            let thread = thread.recv().unwrap();
            b.receive(from_any(1), Buffer::new(16)).unwrap();
            await_asleep(thread);
            // The polls alone: looking at timers would use up the event openly.
            a.send(peer, b"for me", 1, false).unwrap();
            while b.enter().completions(b.cq) == 0 {
                a.enter().poll_round();
                b.enter().engine.progress();
            }
            b.enter().engine.take_completions(b.cq, |_| true);
            // Thread 1 does not call `b` until thread 2 is served.
            a.send(peer, b"for the sleeper", 2, true).unwrap();
            assert_eq!(a.wait(PATIENCE).map(|matched| matched.status), Ok(0), "asleep past its message");
        }
        sleeping.join().unwrap();
    });
}

/// Thread 2 sleeps, and no timer is due; then thread 1 does something that has one, and computes.
#[test]
fn a_sleeper_looks_at_timers_that_come_later() {
    within(LIMIT, || {
        let scratch = Scratch::new();
        let options = [QUIET_TCP, &[("GRIDNET_PEER_TIMEOUT", "300ms")]].concat();
        let b = Party::open(&scratch.0, None, ThreadLevel::Multiple, &options);
        // It takes calls, and never says anything.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut address = Party::open(&scratch.0, None, ThreadLevel::Single, &options).address();
        let at = mute.local_addr().unwrap();
        address.network = gridnet::core::wire::NetAddresses::new(at.port(), [at.ip()]);
        let (sleeper, (says, thread)) = (b.with_own_queue(), channel());
        let sends = sleeper.clone();
        let sleeping = std::thread::spawn(move || {
            says.send(nix::unistd::gettid()).unwrap();
            sleeper.wait(PATIENCE)
        });
        await_asleep(thread.recv().unwrap());
        let peer = b.connect(&address);
        sends.send(peer, b"to nobody", 1, false).unwrap();
        let ended = sleeping.join().unwrap().map(|sent| sent.status);
        assert!(ended.is_ok_and(|status| status < 0), "it sleeps on: {ended:?}");
    });
}
