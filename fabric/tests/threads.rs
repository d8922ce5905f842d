//! Threads that share fabrics, at the levels SERIALIZED and MULTIPLE: each message arrives whole, and, under the thread
//! sanitizer (`ci/san.sh`), no access races.
//!
//! What hands over between threads here is made of atomics of this crate's own, which the sanitizer sees, and not of locks
//! and channels of the standard library, which it does not.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use common::{exactly, Buffer, Party, Scratch, PATIENCE, RECEIVE};
use gridnet::core::rail::PeerId;
use gridnet::{AnyRail, ThreadLevel};
use gridnet_testbed::testing::skip;

const THREADS: u64 = 4;
const LENGTHS: [usize; 5] = [0, 8, 100, 5_000, 60_000];
/// Rounds of each thread; the sanitizer makes them ten times as long.
const ROUNDS: u64 = 60;

/// The turn goes round among threads.
struct Baton(AtomicU64);

impl Baton {
    /// Waits for one's turn. Acquire: what the thread before has done is seen.
    fn take(&self, turn: u64) {
        let start = Instant::now();
        while self.0.load(Ordering::Acquire) != turn {
            assert!(start.elapsed() < PATIENCE * 4, "the turn does not come");
            std::thread::yield_now();
        }
    }

    /// Release: pairs with the Acquire of who is next.
    fn pass(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Two fabrics of this process, and what each calls the other.
struct Pair {
    parties: [Party; 2],
    peers: [PeerId; 2],
}

impl Pair {
    fn open(scratch: &Scratch, level: ThreadLevel, options: &[(&str, &str)]) -> Pair {
        let parties = [0, 1].map(|_| Party::open(&scratch.0, None, level, options));
        let to_second = parties[0].connect(&parties[1].address());
        parties[1].receive(common::from_any(9), Buffer::new(8)).expect("there is room");
        let mut open = parties[0].send(to_second, b"hello", 9, false).expect("it lives");
        // Both have to be driven until the link is up.
        let start = Instant::now();
        let mut source = None;
        while source.is_none() || open {
            parties[0].enter().maintain();
            parties[1].enter().maintain();
            let cq = parties[0].cq;
            open &= parties[0].enter().take(cq, |_| true) == 0;
            let cq = parties[1].cq;
            parties[1].enter().take(cq, |completion| {
                source = Some(completion.source);
                true
            });
            assert!(start.elapsed() < PATIENCE, "no link comes about");
        }
        let to_first = PeerId::new(source.expect("it has come"));
        Pair { parties, peers: [to_second, to_first] }
    }

    /// Whether io_uring receives what the first sends to the second now.
    fn is_received(&self) -> bool {
        let node = self.parties[0].address().node;
        let mut guard = self.parties[1].enter();
        guard.engine.rails_mut().iter_mut().any(|rail| match rail {
            AnyRail::Tcp(tcp) => tcp.link_with(node).is_some_and(|link| tcp.is_received(link)),
            _ => false,
        })
    }

    /// A message each way.
    fn exchange(&self, queues: &[Party; 2], tag: u64, len: usize) {
        for from in 0..2 {
            let (sender, receiver) = (&queues[from], &queues[1 - from]);
            let (out, back) = (Buffer::new(len), Buffer::new(len));
            out.fill(tag as u8);
            receiver.receive(exactly(self.peers[1 - from], tag), back).expect("there is room");
            let mut open = usize::from(sender.send_buffer(self.peers[from], out, tag).expect("it lives"));
            let mut received = false;
            let start = Instant::now();
            while open > 0 || !received {
                for (party, is_sender) in [(sender, true), (receiver, false)] {
                    let cq = party.cq;
                    party.enter().take(cq, |completion| {
                        assert_eq!(completion.status, 0);
                        assert_eq!(completion.context == RECEIVE, !is_sender);
                        open -= usize::from(is_sender);
                        received |= !is_sender;
                        true
                    });
                }
                assert!(start.elapsed() < PATIENCE * 4, "a message of {len} bytes does not come");
            }
            assert!(back.to_vec().iter().all(|byte| *byte == tag as u8), "{len} bytes differ");
        }
    }
}

#[test]
fn a_serialized_fabric_goes_from_thread_to_thread() {
    goes_round(ROUNDS, &[], |_| ());
}

/// Each thread in turn exchanges a message, and does something else.
fn goes_round(rounds: u64, options: &[(&str, &str)], then: impl Fn(&Pair) + Send + Sync + 'static) {
    let scratch = Scratch::new();
    let pair = Pair::open(&scratch, ThreadLevel::Serialized, options);
    let baton = Baton(AtomicU64::new(0));
    on_threads(THREADS, move |thread| {
        for round in 0..rounds {
            let turn = round * THREADS + thread;
            baton.take(turn);
            pair.exchange(&pair.parties, 100 + thread, LENGTHS[turn as usize % LENGTHS.len()]);
            then(&pair);
            baton.pass();
        }
    });
}

fn at_once(options: &[(&str, &str)]) {
    let scratch = Scratch::new();
    let pair = Pair::open(&scratch, ThreadLevel::Multiple, options);
    on_threads(THREADS, move |thread| {
        let queues = [pair.parties[0].with_own_queue(), pair.parties[1].with_own_queue()];
        for round in 0..ROUNDS {
            let len = LENGTHS[(round + thread) as usize % LENGTHS.len()];
            pair.exchange(&queues, 100 + thread, len);
        }
    });
}

/// Runs `work` on so many threads, and waits for them: by joining, which the sanitizer sees, other than the end of a scope.
fn on_threads(count: u64, work: impl Fn(u64) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..count)
        .map(|thread| {
            let work = Arc::clone(&work);
            std::thread::spawn(move || work(thread))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[test]
fn threads_call_at_once() {
    at_once(&[]);
}

#[test]
fn threads_call_at_once_beside_a_progress_thread() {
    at_once(&[("GRIDNET_PROGRESS", "thread")]);
}

/// One thread sleeps in a wait while another sends what it waits for.
#[test]
fn a_wait_hears_of_what_another_thread_did() {
    let scratch = Scratch::new();
    let pair = Pair::open(&scratch, ThreadLevel::Multiple, &[("GRIDNET_WAIT_MODE", "block")]);
    on_threads(2, move |thread| {
        let party = &pair.parties[thread as usize];
        for round in 0..ROUNDS {
            let buffer = Buffer::new(8);
            if thread == 0 {
                buffer.fill(round as u8);
                party.send_buffer(pair.peers[0], buffer, round).expect("it lives");
                continue;
            }
            party.receive(exactly(pair.peers[1], round), buffer).expect("there is room");
            assert_eq!(party.wait_received().tag, round);
            assert_eq!(buffer.to_vec(), [round as u8; 8]);
        }
    });
}

/// Over sockets that io_uring receives from: requests of one thread are collected by the next one.
#[test]
fn a_ring_that_receives_goes_from_thread_to_thread() {
    let options = [
        ("GRIDNET_RAILS", "tcp"),
        ("GRIDNET_NET_INSECURE", "1"),
        ("GRIDNET_NET_INTERFACES", "lo"),
        ("GRIDNET_NET_ENGINE", "io_uring_recv"),
    ];
    let scratch = Scratch::new();
    if let Err(refusal) = Party::try_open(&scratch.0, None, ThreadLevel::Serialized, &options) {
        assert!(refusal.reason.contains("io_uring"), "{}", refusal.reason);
        return skip("threads where io_uring receives", &refusal.reason);
    }
    // One thread sees to it that the ring receives, and the next one gets what comes by it.
    goes_round(ROUNDS / 6, &options, |pair| {
        let start = Instant::now();
        while !pair.is_received() {
            assert!(start.elapsed() < PATIENCE * 4, "plain calls receive");
            for party in &pair.parties {
                party.enter().maintain();
                party.enter().poll_round();
            }
        }
    });
}
