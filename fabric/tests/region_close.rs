//! The end of a region while a peer says that it is inside.

mod common;

use std::time::Instant;

use common::{from_any, within, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::matching::Key;
use gridnet::core::mem::{MEMORY_HOST, NUMA_UNKNOWN};
use gridnet::core::region::{Access, RemoteKey};
use gridnet::{AnyRail, ThreadLevel};

/// Calls that are looked at: on a busy machine one may be over before anybody could look.
const CALLS: u32 = 10;

#[test]
fn other_threads_use_the_fabric_while_a_region_closes() {
    within(PATIENCE * 8, || {
        let scratch = Scratch::new();
        let owner = Party::open(&scratch.0, None, ThreadLevel::Multiple, &[]);
        let liar = Party::open(&scratch.0, None, ThreadLevel::Serialized, &[]);
        link(&liar, &owner);
        assert!((0..CALLS).any(|_| is_used_meanwhile(&owner, &liar)), "nobody gets in while a region closes");
    });
}

/// Closes a region that a peer says to be inside of, and lets the peer come out as soon as this thread gets in; whether that
/// was during the call.
fn is_used_meanwhile(owner: &Party, liar: &Party) -> bool {
    let allocated = owner.enter().engine.allocate(64, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN);
    let region = allocated.expect("there is room").0;
    announce(liar, number_of(owner, region));
    let closed = std::thread::scope(|scope| {
        let closing = scope.spawn(|| owner.shared.close_region(region));
        while owner.enter().engine.region_key(region) != Err(Error::Key) {
            std::thread::yield_now();
        }
        // This call sees it only if the fabric was left to this thread.
        announce(liar, 0);
        closing.join().expect("it does not panic")
    });
    if closed.is_err() {
        assert_eq!(owner.shared.close_region(region), Ok(()), "the peer has come out");
    }
    closed.is_ok()
}

/// Makes a link, driving both sides.
fn link(from: &Party, to: &Party) {
    let peer = from.connect(&to.address());
    to.receive(from_any(1), Buffer::new(8)).expect("there is room");
    from.send(peer, b"hello", 1, false).expect("it lives");
    let start = Instant::now();
    while to.enter().take(to.cq, |_| true) == 0 {
        from.enter().maintain();
        to.enter().maintain();
        assert!(start.elapsed() < PATIENCE, "no link comes about");
    }
}

/// Says that this fabric is inside of a region of its peer, in the line for such announcements.
fn announce(liar: &Party, number: u64) {
    let guard = liar.enter();
    let AnyRail::Shm(shm) = &guard.engine.rails()[0] else { panic!("the first rail is that of the host") };
    // SAFETY: used while the rail is there.
    let scribbler = unsafe { shm.scribbler() };
    shm.announcements().for_each(|word| scribbler.scribble(word, number));
}

fn number_of(owner: &Party, region: Key) -> u64 {
    let key = owner.enter().engine.region_key(region).expect("it is open");
    RemoteKey::parse(&key).expect("it is a key").number
}
