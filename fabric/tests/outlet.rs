//! The short way out of an endpoint: in order with the long one, closed when the peer says stop, when it has gone, and to
//! programs whose calls need a lock.

mod common;

use common::{exactly, Buffer, Party, Scratch, PATIENCE, RECEIVE};
use gridnet::core::endpoint::PeerState;
use gridnet::core::mem::Iov;
use gridnet::core::rail::PeerId;
use gridnet::core::testing::random::Random;
use gridnet::{Outlet, ThreadLevel};

const MESSAGES: u64 = 20_000;
const TAG: u64 = 7;
/// What the receiver keeps without a receive.
const STORE: u64 = 100;

/// Sends one number; true when it went the short way.
fn send(party: &Party, outlet: &Outlet, number: u64) -> bool {
    let bytes = Box::leak(Box::new(number.to_le_bytes()));
    // SAFETY: leaked, and not written any more.
    let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    if outlet.send(TAG, iov) {
        return true;
    }
    outlet.refresh(&mut party.enter());
    party.send(outlet.peer(), bytes, TAG, false).expect("the send starts");
    false
}

/// Two fabrics of this thread that are connected: the sender's outlet, and the receiver's name for the sender.
fn pair(level: ThreadLevel, scratch: &Scratch) -> (Party, Outlet, Party, PeerId) {
    let store = STORE.to_string();
    let options = [("GRIDNET_UNEXPECTED_MESSAGES", store.as_str())];
    let (a, b) =
        (Party::open(&scratch.0, None, level, &options), Party::open(&scratch.0, None, level, &options));
    let outlet = Outlet::new(a.shared.clone(), a.connect(&b.address()));
    send(&a, &outlet, u64::MAX);
    let buffer = Buffer::new(8);
    b.receive(common::from_any(TAG), buffer).unwrap();
    let source = loop {
        a.enter().poll_round();
        let mut got = None;
        b.enter().take(b.cq, |completion| {
            got = Some(completion.source);
            false
        });
        if let Some(source) = got {
            break PeerId::new(source);
        }
    };
    (a, outlet, b, source)
}

#[test]
fn messages_keep_their_order_whichever_way_they_take() {
    let scratch = Scratch::new();
    let (a, outlet, b, source) = pair(ThreadLevel::Serialized, &scratch);
    let mut random = Random::new(1);
    let (mut short, mut sent, mut received) = (0, 0, 0);
    let buffer = Buffer::new(8);
    while received < MESSAGES {
        for _ in 0..random.below(400) {
            if sent < MESSAGES {
                short += u64::from(send(&a, &outlet, sent));
                sent += 1;
            }
        }
        a.enter().poll_round();
        a.enter().take(a.cq, |_| true);
        for _ in 0..random.below(500) {
            if received == sent {
                break;
            }
            b.receive(exactly(source, TAG), buffer).unwrap();
            loop {
                let mut done = false;
                b.enter().take(b.cq, |completion| {
                    done = completion.context == RECEIVE;
                    false
                });
                if done {
                    break;
                }
                a.enter().poll_round();
            }
            assert_eq!(buffer.to_vec(), received.to_le_bytes());
            received += 1;
        }
        let kept = b.enter().engine.counters().unexpected_now;
        assert!(kept <= STORE + 400, "{kept} messages in store: the peer's stop was not heard");
    }
    assert!(short > MESSAGES / 10 && short < MESSAGES, "{short} of {MESSAGES} took the short way");
    assert_eq!(a.enter().engine.peer_counters(outlet.peer()).unwrap().messages_sent, MESSAGES + 1);
}

#[test]
fn nothing_is_sent_to_a_peer_that_has_gone() {
    let scratch = Scratch::new();
    let (a, outlet, b, _) = pair(ThreadLevel::Serialized, &scratch);
    outlet.refresh(&mut a.enter());
    assert!(outlet.send(TAG, Iov::EMPTY));
    drop(b);
    let start = std::time::Instant::now();
    while !matches!(a.enter().engine.peer(outlet.peer()).unwrap().2, PeerState::Gone(_)) {
        assert!(start.elapsed() < PATIENCE, "the end of the peer is not noticed");
        a.enter().poll_round();
    }
    assert!(!outlet.send(TAG, Iov::EMPTY));
    outlet.refresh(&mut a.enter());
    assert!(!outlet.send(TAG, Iov::EMPTY));
}

#[test]
fn programs_with_several_threads_take_the_way_with_the_lock() {
    let scratch = Scratch::new();
    let (a, outlet, _b, _) = pair(ThreadLevel::Multiple, &scratch);
    outlet.refresh(&mut a.enter());
    assert!(!outlet.send(TAG, Iov::EMPTY));
}

#[test]
fn programs_of_one_thread_take_the_short_way_too() {
    let scratch = Scratch::new();
    let (a, outlet, _b, _) = pair(ThreadLevel::Single, &scratch);
    outlet.refresh(&mut a.enter());
    assert!(outlet.send(TAG, Iov::EMPTY));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| outlet.send(TAG, Iov::EMPTY));
        assert!(!other.join().unwrap(), "that is for the thread which opened the fabric");
    });
}

#[test]
fn what_may_not_go_at_once_does_not_go_the_short_way() {
    let scratch = Scratch::new();
    let options = [("GRIDNET_EAGER_MAX", "0")];
    let open = || Party::open(&scratch.0, None, ThreadLevel::Serialized, &options);
    let (a, b) = (open(), open());
    let to_b = a.connect(&b.address());
    while !matches!(a.enter().engine.peer(to_b).unwrap().2, PeerState::Up) {
        a.enter().poll_round();
        b.enter().poll_round();
    }
    let outlet = Outlet::new(a.shared.clone(), to_b);
    outlet.refresh(&mut a.enter());
    assert!(!outlet.send(TAG, Buffer::new(8).iov()));
}

#[test]
fn a_lane_of_another_fabric_is_not_taken() {
    let scratch = Scratch::new();
    let (_a, outlet, b, _) = pair(ThreadLevel::Serialized, &scratch);
    let fresh = Outlet::new(outlet.shared().clone(), outlet.peer());
    fresh.refresh(&mut b.enter());
    assert!(!fresh.send(TAG, Iov::EMPTY));
}

#[test]
fn an_immediate_value_takes_the_short_way_too_before_at_most_40_bytes() {
    let scratch = Scratch::new();
    let (a, outlet, b, source) = pair(ThreadLevel::Serialized, &scratch);
    outlet.refresh(&mut a.enter());
    let (bytes, buffer) = (Buffer::new(41), Buffer::new(48));
    bytes.fill(7);
    for len in [0, 1, 8, 39, 40] {
        b.receive(exactly(source, TAG), buffer).unwrap();
        assert!(outlet.send_with(TAG, u64::MAX - len as u64, bytes.first(len).iov()));
        let mut got = Vec::new();
        while got.is_empty() {
            b.enter().take(b.cq, |completion| {
                got.push(completion);
                true
            });
        }
        assert_eq!((got[0].length, got[0].immediate, got[0].flags), (len as u64, u64::MAX - len as u64, 1));
        assert_eq!(buffer.to_vec()[..len], vec![7; len]);
    }
    assert!(!outlet.send_with(TAG, 1, bytes.iov()), "it does not fit beside the value");
}
