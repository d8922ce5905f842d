//! Regions: put, get, atomic operations; by the rail itself and by messages.

use super::{content, moments};
use crate::endpoint::PeerState;
use crate::error::Error;
use crate::matching::Key;
use crate::mem::{MEMORY_DEVICE, MEMORY_HOST, NUMA_UNKNOWN};
use crate::rail::Rail;
use crate::region::{Access, Atomic, AtomicOp, Width};
use crate::sync::{AtomicU64, Ordering};
use crate::testing::node::{exactly, Node, Ticket};
use crate::testing::pair::{Fixture, Pair, Setup};
use crate::testing::random::Random;
use crate::testing::raw::{RawFrame, RawPeer};
use crate::wire::{Kind, FLAG_LAST, MAX_EXTENSION};

/// Whose memory a region of a test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Program,
    Library,
}

const BOTH: [Of; 2] = [Of::Program, Of::Library];

/// A region of `b`, imported by `a`.
pub(super) struct Shared {
    region: Key,
    pub(super) rkey: Key,
    base: *mut u8,
    len: usize,
    /// Memory of the program; words, so that it is aligned.
    _memory: Vec<u64>,
}

impl Shared {
    pub(super) fn new<F: Fixture>(pair: &mut Pair<F>, of: Of, len: usize, access: Access) -> Shared {
        let (region, base, memory) = make(&mut pair.b, of, len, access);
        let packed = pair.b.engine().region_key(region).expect("the region is open");
        let rkey = pair.a.engine().import_key(pair.to_b, &packed).expect("the key is one of b");
        Shared { region, rkey, base, len, _memory: memory }
    }

    /// What is in the region.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // SAFETY: the memory is there as long as `self`, and nobody writes while the test looks.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }.to_vec()
    }

    fn fill(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base, self.len) };
    }

    pub(super) fn word(&self, index: usize) -> u64 {
        assert!(index * 8 + 8 <= self.len);
        // SAFETY: in bounds and aligned; the memory is there as long as `self`.
        unsafe { &*self.base.cast::<AtomicU64>().add(index) }.load(Ordering::Acquire)
    }
}

fn make<R: crate::rail::Rail>(
    node: &mut Node<R>,
    of: Of,
    len: usize,
    access: Access,
) -> (Key, *mut u8, Vec<u64>) {
    match of {
        Of::Library => {
            let (region, base) =
                node.engine().allocate(len, access, MEMORY_HOST, NUMA_UNKNOWN).expect("there is memory");
            (region, base, Vec::new())
        }
        Of::Program => {
            let mut memory = vec![0u64; len.div_ceil(8)];
            let base: *mut u8 = memory.as_mut_ptr().cast();
            let region = node.engine().register(base, len, access, MEMORY_HOST).expect("it is mapped");
            (region, base, memory)
        }
    }
}

pub(super) fn add(operand: u64) -> Atomic {
    Atomic { op: AtomicOp::Add, width: Width::Eight, operand, compare: 0 }
}

impl<F: Fixture> Pair<F> {
    fn end(&mut self, ticket: Result<Ticket, Error>) -> Result<Vec<u8>, Error> {
        let outcome = self.finish_a(ticket?);
        outcome.status.map(|()| outcome.bytes)
    }
}

/// Puts and gets of every size around the borders, at crooked places.
pub fn bytes_go_in_and_out_at_every_size<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    for of in BOTH {
        let shared = Shared::new(&mut pair, of, 1_100_000, Access::ALL);
        let mut expected = vec![0; shared.len];
        let around = [48, 256, 4096, 8192, 65536, 131_072, 300_000, 1 << 20];
        let sizes = (0..70).chain(around.into_iter().flat_map(|size| size - 1..=size + 1));
        for (i, len) in sizes.enumerate() {
            let offset = (i * 37) % 40_000;
            let bytes = content(len, i as u64);
            expected[offset..offset + len].copy_from_slice(&bytes);
            let put = pair.a.put(to_b, shared.rkey, offset as u64, &bytes);
            assert_eq!(pair.end(put), Ok(Vec::new()), "{len} bytes at {offset} {of:?}");
            let get = pair.a.get(to_b, shared.rkey, offset as u64, len);
            assert!(pair.end(get) == Ok(bytes), "{len} bytes at {offset} {of:?}");
        }
        assert!(shared.bytes() == expected, "bytes beside a put were written {of:?}");
        let whole = content(shared.len, 1);
        shared.fill(&whole);
        let get = pair.a.get(to_b, shared.rkey, 0, shared.len);
        assert!(pair.end(get) == Ok(whole));
        assert_eq!(pair.b.engine().close_region(shared.region), Ok(()));
    }
}

/// Every operation at both widths, with what it returns.
pub fn atomics_do_what_they_say<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let ops = [
        (AtomicOp::Add, 0xf0 + 0x3c),
        (AtomicOp::And, 0x30),
        (AtomicOp::Or, 0xfc),
        (AtomicOp::Xor, 0xcc),
        (AtomicOp::Swap, 0x3c),
        (AtomicOp::CompareSwap, 0x3c),
    ];
    for of in BOTH {
        let shared = Shared::new(&mut pair, of, 64, Access::ALL);
        for (op, expected) in ops {
            for width in [Width::Four, Width::Eight] {
                shared.fill(&[0xff; 64]);
                let place = 16 + width.bytes() as u64;
                let start = 0xf0u64.to_le_bytes();
                let put = pair.a.put(to_b, shared.rkey, place, &start[..width.bytes()]);
                pair.end(put).expect("the put is allowed");
                let atomic = Atomic { op, width, operand: 0x3c, compare: 0xf0 };
                let old = pair.a.atomic(to_b, shared.rkey, place, &atomic);
                assert_eq!(pair.end(old).as_deref(), Ok(&start[..width.bytes()]), "{op:?} {width:?} {of:?}");
                let mut whole = [0xff; 64];
                let at = place as usize;
                whole[at..at + width.bytes()]
                    .copy_from_slice(&(expected as u64).to_le_bytes()[..width.bytes()]);
                assert_eq!(shared.bytes(), whole, "{op:?} {width:?} {of:?}");
            }
        }
        let miss = Atomic { op: AtomicOp::CompareSwap, width: Width::Eight, operand: 1, compare: 2 };
        let before = shared.bytes();
        let old = pair.a.atomic(to_b, shared.rkey, 8, &miss);
        assert_eq!(pair.end(old).as_deref(), Ok(&before[8..16]));
        assert_eq!(shared.bytes(), before);
    }
}

/// The owner and its peer count on the same word.
pub fn counters_of_many_add_up<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    for of in BOTH {
        let shared = Shared::new(&mut pair, of, 64, Access::ALL);
        let mut seen = Vec::new();
        for i in 0..300 {
            let ticket = pair.a.atomic(to_b, shared.rkey, 0, &add(1)).expect("the counter is allowed");
            // SAFETY: in bounds and aligned; the memory is there as long as `shared`.
            unsafe { &*shared.base.cast::<AtomicU64>() }.fetch_add(1, Ordering::AcqRel);
            if i % 7 == 0 {
                pair.b.send(to_a, b"x", 1);
            }
            seen.push(ticket);
        }
        let old: Vec<u64> = seen
            .into_iter()
            .map(|ticket| {
                let bytes = pair.end(Ok(ticket)).expect("the counter is allowed");
                u64::from_ne_bytes(bytes.try_into().expect("a word"))
            })
            .collect();
        assert!(old.windows(2).all(|two| two[0] < two[1]), "a word was counted twice");
        assert_eq!(shared.word(0), 600);
    }
}

/// Operations of one node on regions of another take effect in the order of the calls, however they travel.
pub fn operations_take_effect_in_order<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let (own, lent) = (
        Shared::new(&mut pair, Of::Program, 200_000, Access::ALL),
        Shared::new(&mut pair, Of::Library, 200_000, Access::ALL),
    );
    for round in 1..20u64 {
        for shared in [&own, &lent] {
            let mut tickets = Vec::new();
            // A later put overtaken by an earlier one would leave the earlier one's bytes.
            for turn in 0..5u8 {
                let len = if turn % 2 == 0 { 200_000 } else { 64 };
                tickets.push(pair.a.put(to_b, shared.rkey, 0, &vec![turn + 1; len]));
            }
            tickets.push(pair.a.put(to_b, shared.rkey, 0, &round.to_ne_bytes()));
            let old = pair.a.atomic(to_b, shared.rkey, 0, &add(1));
            let get = pair.a.get(to_b, shared.rkey, 0, 8);
            let flush = pair.a.flush(to_b);
            assert_eq!(pair.end(flush), Ok(Vec::new()));
            // After the flush everything before it has taken effect and completed.
            assert_eq!(shared.word(0), round + 1);
            for ticket in tickets {
                assert!(pair.a.is_finished(ticket.expect("the put is allowed")));
            }
            assert_eq!(pair.end(old), Ok(round.to_ne_bytes().to_vec()));
            assert_eq!(pair.end(get), Ok((round + 1).to_ne_bytes().to_vec()));
            assert_eq!(&shared.bytes()[64..], vec![5; 200_000 - 64]);
        }
    }
    let nothing_under_way = pair.a.flush(to_b);
    assert_eq!(pair.end(nothing_under_way), Ok(Vec::new()));
}

/// What was called after a get takes effect after its bytes were read.
pub fn gets_see_nothing_that_comes_after_them<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    for (of, len) in BOTH.into_iter().flat_map(|of| [(of, 8), (of, 300_000)]) {
        let shared = Shared::new(&mut pair, of, len, Access::ALL);
        shared.fill(&vec![1; len]);
        let mut gets = Vec::new();
        let mut rest = Vec::new();
        for turn in 1..5u8 {
            gets.push((turn, pair.a.get(to_b, shared.rkey, 0, len), pair.a.get(to_b, shared.rkey, 0, 4)));
            rest.push(pair.a.put(to_b, shared.rkey, 0, &vec![turn; len]));
            rest.push(pair.a.atomic(to_b, shared.rkey, 0, &add(0x0101_0101_0101_0101)));
            rest.push(pair.a.put(to_b, shared.rkey, 8.min(len as u64), &vec![turn + 1; len - 8]));
        }
        rest.push(pair.a.flush(to_b));
        for (turn, whole, start) in gets {
            assert!(pair.end(whole) == Ok(vec![turn; len]), "get {turn} of {len} bytes {of:?}");
            assert_eq!(pair.end(start), Ok(vec![turn; 4]), "get {turn} beside {len} bytes {of:?}");
        }
        for ticket in rest {
            assert!(pair.end(ticket).is_ok());
        }
        assert!(shared.bytes() == vec![5; len]);
    }
}

/// Each operation is counted once by its initiator, and by the owner if it came by messages.
pub fn operations_are_counted<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    for (round, of) in (1..).zip(BOTH) {
        let shared = Shared::new(&mut pair, of, 200_000, Access::ALL);
        for len in [8, 150_000] {
            let put = pair.a.put(to_b, shared.rkey, 0, &vec![1; len]);
            assert!(pair.end(put).is_ok());
            let get = pair.a.get(to_b, shared.rkey, 0, len / 2);
            assert!(pair.end(get).is_ok());
        }
        let old = pair.a.atomic(to_b, shared.rkey, 0, &add(1));
        assert!(pair.end(old).is_ok());
        let flush = pair.a.flush(to_b);
        assert!(pair.end(flush).is_ok());
        let beyond = pair.a.put(to_b, shared.rkey, 199_999, b"xy");
        assert_eq!(pair.end(beyond), Err(Error::Bounds));
        let ours = pair.a.engine().peer_counters(to_b).expect("it is a peer");
        let theirs = pair.b.engine().peer_counters(to_a).expect("it is a peer");
        assert_eq!((ours.puts, ours.gets, ours.atomics), (2 * round, 2 * round, round));
        assert_eq!((ours.bytes_put, ours.bytes_got), (150_008 * round, 75_004 * round));
        assert_eq!(theirs.served, ours.by_message);
        assert!(theirs.bytes_served <= ours.bytes_put + ours.bytes_got);
        assert_eq!(theirs.bytes_served > 0, ours.by_message > round, "{of:?}");
    }
}

/// So many flushes that none may cost stack.
pub fn many_flushes_wait_for_one_operation<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let own = Shared::new(&mut pair, Of::Program, 4096, Access::ALL);
    let old = pair.a.atomic(to_b, own.rkey, 0, &add(1));
    let flushes: Vec<_> = (0..20_000).map(|_| pair.a.flush(to_b)).collect();
    assert_eq!(pair.end(old), Ok(vec![0; 8]));
    for flush in flushes {
        assert_eq!(pair.end(flush), Ok(Vec::new()));
    }
}

/// A key is imported before the connection is there.
pub fn operations_before_the_link_is_up_are_done<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    pair.to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let to_b = pair.to_b;
    let shared = BOTH.map(|of| Shared::new(&mut pair, of, 4096, Access::ALL));
    let tickets: Vec<_> =
        (0..50u64).map(|i| pair.a.put(to_b, shared[i as usize % 2].rkey, i * 8, &i.to_ne_bytes())).collect();
    let flush = pair.a.flush(to_b);
    assert_eq!(pair.end(flush), Ok(Vec::new()));
    for (i, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(pair.end(ticket), Ok(Vec::new()));
        assert_eq!(shared[i % 2].word(i), i as u64);
    }
}

/// Bounds, rights, alignment.
pub fn what_a_key_does_not_allow_is_refused<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    for of in BOTH {
        let all = Shared::new(&mut pair, of, 100, Access::ALL);
        let far = [(100, 1), (0, 101), (93, 8), (u64::MAX, 1), (u64::MAX - 7, 8), (1 << 63, 8)];
        for (offset, len) in far {
            assert_eq!(pair.a.put(to_b, all.rkey, offset, &vec![1; len]), Err(Error::Bounds));
            assert_eq!(pair.a.get(to_b, all.rkey, offset, len), Err(Error::Bounds));
            if len == 8 {
                assert_eq!(pair.a.atomic(to_b, all.rkey, offset, &add(1)), Err(Error::Bounds));
            }
        }
        let none = pair.a.put(to_b, all.rkey, 100, &[]);
        assert_eq!(pair.end(none), Ok(Vec::new()), "no bytes at the end are inside");
        let none = pair.a.get(to_b, all.rkey, 100, 0);
        assert_eq!(pair.end(none), Ok(Vec::new()));
        for offset in [1, 2, 4, 7, 9] {
            assert_eq!(pair.a.atomic(to_b, all.rkey, offset, &add(1)), Err(Error::Misaligned));
        }
        let (r, w, x) = (Access::REMOTE_READ, Access::REMOTE_WRITE, Access::REMOTE_ATOMIC);
        for access in [Access::LOCAL, r, w, x, r.and(w), w.and(x)] {
            let some = Shared::new(&mut pair, of, 64, access);
            let answers = [
                (w, pair.a.put(to_b, some.rkey, 0, &[0; 8])),
                (r, pair.a.get(to_b, some.rkey, 0, 8)),
                (x, pair.a.atomic(to_b, some.rkey, 0, &add(0))),
            ];
            for (needed, answer) in answers {
                let answer = pair.end(answer).map(drop);
                assert_eq!(answer, if access.allows(needed) { Ok(()) } else { Err(Error::Access) });
            }
        }
        assert_eq!(all.bytes(), [0; 100]);
    }
    // A region that begins at a crooked address has no aligned words where the offset is aligned.
    let mut memory = vec![0u64; 8];
    let base = memory.as_mut_ptr().cast::<u8>().wrapping_add(3);
    let region = pair.b.engine().register(base, 61, Access::ALL, MEMORY_HOST).expect("it is mapped");
    let packed = pair.b.engine().region_key(region).expect("the region is open");
    let rkey = pair.a.engine().import_key(to_b, &packed).expect("the key is one of b");
    let crooked = pair.a.atomic(to_b, rkey, 8, &add(1));
    assert_eq!(pair.end(crooked), Err(Error::Misaligned));
    let straight = pair.a.atomic(to_b, rkey, 5, &add(1));
    assert_eq!(pair.end(straight), Ok(vec![0; 8]));
    assert_eq!(pair.b.engine().close_region(region), Ok(()));
    assert_eq!(memory[1], 1);
}

/// Keys that are not keys of this peer's regions.
pub fn keys_of_others_and_damaged_keys_are_refused<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let shared = Shared::new(&mut pair, Of::Library, 64, Access::ALL);
    let packed = pair.b.engine().region_key(shared.region).expect("the region is open");
    let (own, ..) = make(&mut pair.a, Of::Library, 64, Access::ALL);
    let own = pair.a.engine().region_key(own).expect("the region is open");
    let mut import = |bytes: &[u8]| pair.a.engine().import_key(to_b, bytes).map_err(|refusal| refusal.error);
    assert_eq!(import(&own), Err(Error::Key), "a key of another node");
    assert_eq!(import(&packed[..63]), Err(Error::Key));
    assert_eq!(import(&[0; 64]), Err(Error::Key));
    let mut damaged = packed;
    damaged[33] ^= 1;
    assert_eq!(import(&damaged), Err(Error::Key));
    assert!(import(&packed).is_ok(), "a key may be imported twice");
    // Handles of keys that were given back, and of other peers.
    pair.a.engine().close_key(shared.rkey);
    assert_eq!(pair.a.put(to_b, shared.rkey, 0, b"x"), Err(Error::Key));
    let mut other = pair.stranger(7, Setup::default());
    let address = *other.address();
    let to_other = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let rkey = pair.a.engine().import_key(to_b, &packed).expect("the key is one of b");
    assert_eq!(pair.a.put(to_other, rkey, 0, b"x"), Err(Error::Key));
    // A well-made key with a number that names nothing: the owner, or its record, says so.
    let mut forged = crate::region::RemoteKey::parse(&packed).expect("it is a key");
    forged.number += 1 << 33;
    let rkey = pair.a.engine().import_key(to_b, &forged.pack()).expect("it looks like a key");
    let put = pair.a.put(to_b, rkey, 0, b"x");
    assert_eq!(pair.end(put), Err(Error::Key));
    // A key that promises more than the region has.
    let mut forged = crate::region::RemoteKey::parse(&packed).expect("it is a key");
    forged.len = 1 << 40;
    let rkey = pair.a.engine().import_key(to_b, &forged.pack()).expect("it looks like a key");
    for (offset, len) in [(64, 8), (60, 8), (1 << 39, 100_000)] {
        let put = pair.a.put(to_b, rkey, offset, &vec![1; len]);
        assert_eq!(pair.end(put), Err(Error::Bounds));
        let get = pair.a.get(to_b, rkey, offset, len);
        assert_eq!(pair.end(get), Err(Error::Bounds));
    }
    assert_eq!(shared.bytes(), [0; 64]);
    assert_eq!(pair.a.state(to_b), PeerState::Up);
    other.close();
}

/// Keys of a closed region name nothing, even when its place and memory serve again.
pub fn a_closed_region_is_out_of_reach<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    for of in BOTH {
        let old = Shared::new(&mut pair, of, 4096, Access::ALL);
        let put = pair.a.put(to_b, old.rkey, 0, b"before");
        assert_eq!(pair.end(put), Ok(Vec::new()));
        let packed = pair.b.engine().region_key(old.region).expect("the region is open");
        assert_eq!(pair.b.engine().close_region(old.region), Ok(()));
        assert_eq!(pair.b.engine().close_region(old.region), Err(Error::Key));
        assert_eq!(pair.b.engine().region_key(old.region), Err(Error::Key));
        let new = Shared::new(&mut pair, of, 4096, Access::ALL);
        assert_eq!(new.region.index(), old.region.index());
        let again = pair.a.engine().import_key(to_b, &packed).expect("it looks like a key");
        for rkey in [old.rkey, again] {
            let answers = [
                pair.a.put(to_b, rkey, 0, b"after"),
                pair.a.get(to_b, rkey, 0, 8),
                pair.a.atomic(to_b, rkey, 0, &add(1)),
            ];
            for answer in answers {
                assert_eq!(pair.end(answer), Err(Error::Key));
            }
        }
        assert_eq!(new.bytes(), [0; 4096], "new regions are zeroed, and not written by old keys");
        let put = pair.a.put(to_b, new.rkey, 0, b"new");
        assert_eq!(pair.end(put), Ok(Vec::new()));
    }
}

/// The owner closes a region while operations on it are under way: each ends, and what follows is refused.
pub fn a_region_is_closed_under_operations<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let bytes = content(1 << 20, 0);
    for steps in 0..12 {
        for of in BOTH {
            let shared = Shared::new(&mut pair, of, 1 << 20, Access::ALL);
            let tickets = [
                pair.a.put(to_b, shared.rkey, 0, &bytes),
                pair.a.get(to_b, shared.rkey, 0, 1 << 20),
                pair.a.atomic(to_b, shared.rkey, 0, &add(1)),
            ];
            let flush = pair.a.flush(to_b);
            pair.run_steps(steps);
            assert_eq!(pair.b.engine().close_region(shared.region), Ok(()));
            let after = (of == Of::Program).then(|| shared.bytes());
            for ticket in tickets {
                let end = pair.end(ticket).map(drop);
                assert!(matches!(end, Ok(()) | Err(Error::Key)), "{end:?}");
            }
            assert_eq!(pair.end(flush), Ok(Vec::new()));
            // Memory of the library has gone with the region.
            if let Some(after) = after {
                assert!(shared.bytes() == after, "a byte was written after the region was closed");
            }
            let late = pair.a.put(to_b, shared.rkey, 0, &bytes);
            assert_eq!(pair.end(late), Err(Error::Key));
        }
    }
    assert_eq!(pair.a.engine().counters().pending_now, 0);
    assert_eq!(pair.a.state(to_b), PeerState::Up);
}

/// Two regions of the same memory: each keeps its key, bounds and rights, and lives as long as itself.
pub fn overlapping_regions_keep_their_own_bounds<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let mut memory = vec![0u64; 512];
    let base: *mut u8 = memory.as_mut_ptr().cast();
    let mut register = |from: usize, len: usize, access: Access| {
        let region = pair
            .b
            .engine()
            .register(base.wrapping_add(from), len, access, MEMORY_HOST)
            .expect("it is mapped");
        let packed = pair.b.engine().region_key(region).expect("the region is open");
        (region, pair.a.engine().import_key(to_b, &packed).expect("the key is one of b"))
    };
    let (whole, whole_key) = register(0, 4096, Access::ALL);
    let (inner, inner_key) = register(1024, 64, Access::REMOTE_READ);
    let (twin, twin_key) = register(0, 4096, Access::REMOTE_WRITE);
    assert!(whole != inner && whole != twin);
    assert_eq!(pair.a.put(to_b, inner_key, 0, b"x"), Err(Error::Access));
    assert_eq!(pair.a.get(to_b, inner_key, 60, 8), Err(Error::Bounds));
    let put = pair.a.put(to_b, twin_key, 1024, b"shared memory");
    assert_eq!(pair.end(put), Ok(Vec::new()));
    let get = pair.a.get(to_b, inner_key, 0, 13);
    assert_eq!(pair.end(get).as_deref(), Ok(&b"shared memory"[..]));
    assert_eq!(pair.b.engine().close_region(twin), Ok(()));
    assert_eq!(pair.b.engine().close_region(inner), Ok(()));
    let get = pair.a.get(to_b, whole_key, 1024, 13);
    assert_eq!(pair.end(get).as_deref(), Ok(&b"shared memory"[..]));
    let late = pair.a.put(to_b, twin_key, 0, b"x");
    assert_eq!(pair.end(late), Err(Error::Key));
    assert_eq!(pair.b.engine().close_region(whole), Ok(()));
    let cache = pair.b.engine().cache_counters();
    assert_eq!((cache.hits, cache.misses), (2, 1), "ranges inside a registered one are taken over");
    let kind = pair.b.engine().register(base, 8, Access::ALL, MEMORY_DEVICE).map_err(|r| r.error);
    assert_eq!(kind, Err(Error::Unsupported));
    let none = pair.b.engine().register(base, 0, Access::ALL, MEMORY_HOST).map_err(|r| r.error);
    assert_eq!(none, Err(Error::Invalid));
    drop(memory);
}

/// The owner goes: operations under way end by name, later ones are refused.
pub fn operations_end_when_the_owner_goes<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(1 << 20, 0);
    for steps in moments(&pair.fixture, 10) {
        let to_b = pair.to_b;
        let shared = BOTH.map(|of| Shared::new(&mut pair, of, 1 << 20, Access::ALL));
        let mut tickets = Vec::new();
        for shared in &shared {
            tickets.push(pair.a.put(to_b, shared.rkey, 0, &bytes));
            tickets.push(pair.a.get(to_b, shared.rkey, 0, 1 << 20));
            tickets.push(pair.a.atomic(to_b, shared.rkey, 0, &add(1)));
        }
        tickets.push(pair.a.flush(to_b));
        pair.run_steps(steps.into());
        pair.b.close();
        for ticket in tickets {
            let end = pair.end(ticket).map(drop);
            assert!(matches!(end, Ok(()) | Err(Error::PeerGone | Error::Key)), "{end:?}");
        }
        pair.run_until_quiet();
        for shared in &shared {
            assert_eq!(pair.a.put(to_b, shared.rkey, 0, b"x"), Err(Error::PeerGone));
            assert_eq!(pair.a.get(to_b, shared.rkey, 0, 8), Err(Error::PeerGone));
        }
        assert_eq!(pair.a.flush(to_b), Err(Error::PeerGone));
        assert_eq!(pair.a.engine().counters().pending_now, 0);
        pair.b = pair.stranger(10 + steps, Setup::default());
        pair.meet();
    }
}

/// Operations by messages are cancelled, by number and with their queue; what comes late is ignored.
pub fn operations_are_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    for steps in 0..6 {
        let shared = Shared::new(&mut pair, Of::Program, 1 << 20, Access::ALL);
        let tickets = [
            pair.a.get(to_b, shared.rkey, 0, 1 << 20),
            pair.a.put(to_b, shared.rkey, 0, &content(1 << 20, 1)),
            pair.a.atomic(to_b, shared.rkey, 0, &add(1)),
        ];
        pair.run_steps(steps);
        for ticket in tickets.into_iter().flatten() {
            // Done ones are not found.
            let _ = pair.a.cancel(ticket);
            let end = pair.end(Ok(ticket)).map(drop);
            assert!(matches!(end, Ok(()) | Err(Error::Canceled)), "{end:?}");
        }
        let flush = pair.a.flush(to_b);
        assert_eq!(pair.end(flush), Ok(Vec::new()));
        let put = pair.a.put(to_b, shared.rkey, 8, b"still works");
        assert_eq!(pair.end(put), Ok(Vec::new()));
        pair.run_until_quiet();
        assert_eq!(&shared.bytes()[8..19], b"still works");
        assert_eq!(pair.b.engine().close_region(shared.region), Ok(()));
    }
    assert_eq!(pair.a.state(to_b), PeerState::Up);
}

/// A node is a peer of itself where the rail leads there.
pub fn a_node_reaches_its_own_regions<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let address = *pair.a.address();
    let Ok(own) = pair.a.engine().open(&address) else { return };
    pair.run_until_quiet();
    for of in BOTH {
        let (region, _, _memory) = make(&mut pair.a, of, 128, Access::ALL);
        let packed = pair.a.engine().region_key(region).expect("the region is open");
        let rkey = pair.a.engine().import_key(own, &packed).expect("the key is its own");
        let put = pair.a.put(own, rkey, 3, b"to myself");
        assert_eq!(pair.end(put), Ok(Vec::new()));
        let get = pair.a.get(own, rkey, 3, 9);
        assert_eq!(pair.end(get).as_deref(), Ok(&b"to myself"[..]));
        let old = pair.a.atomic(own, rkey, 64, &add(5));
        assert_eq!(pair.end(old), Ok(vec![0; 8]));
        assert_eq!(pair.a.engine().close_region(region), Ok(()));
        let late = pair.a.put(own, rkey, 0, b"x");
        assert_eq!(pair.end(late), Err(Error::Key));
    }
}

/// The number under which peers know a region.
fn number_of<R: Rail>(owner: &mut Node<R>, region: Key) -> u64 {
    let packed = owner.engine().region_key(region).expect("the region is open");
    crate::region::RemoteKey::parse(&packed).expect("it is a key").number
}

/// A peer that sends whatever frames of this kind it likes reaches nothing that it may not, and harms nobody else.
pub fn forged_operations_harm_nobody<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let (open, read_only) = (
        make(&mut pair.a, Of::Program, 256, Access::ALL),
        make(&mut pair.a, Of::Library, 256, Access::REMOTE_READ),
    );
    let friend = Shared::new(&mut pair, Of::Program, 1 << 16, Access::ALL);
    let [known, also_known] = [open.0, read_only.0].map(|region| number_of(&mut pair.a, region));
    for number in 0..20u8 {
        let mut random = Random::new(u64::from(number));
        let rail = pair.open_rail(20 + number);
        let mut forger = RawPeer::connect(rail, pair.a.address()).expect("the rail leads to its peer");
        for _ in 0..10_000 {
            if forger.is_up() {
                break;
            }
            let now = pair.fixture.tick();
            forger.drive(now);
            pair.step();
        }
        let numbers = [known, also_known, 0, u64::MAX, known.wrapping_add(1 << 32)];
        for _ in 0..100 {
            let kind =
                random.pick(&[Kind::Put, Kind::Put, Kind::Get, Kind::Atomic, Kind::Data, Kind::Answer]);
            let mut frame = RawFrame {
                kind: kind as u8,
                flags: if kind == Kind::Put { random.pick(&[0, FLAG_LAST]) } else { 0 },
                word: random.pick(&numbers),
                extension: [0; MAX_EXTENSION],
                payload: Vec::new(),
            };
            let odd = [0, 8, 100, 248, 255, 256, 257, 1 << 32, u64::MAX - 7, u64::MAX];
            frame.extension = std::array::from_fn(|_| random.pick(&odd));
            if kind == Kind::Atomic && random.chance(0.8) {
                frame.extension[2] = u64::from(random.below(8) as u32) << 8 | random.pick(&[4, 8]);
            }
            if kind == Kind::Put || kind == Kind::Data {
                let len = random.pick(&[0, 1, 8, 32, 100, 256, 1000]);
                frame.payload = random.bytes(len);
            }
            forger.post(&frame);
            let now = pair.fixture.tick();
            forger.drive(now);
            pair.step();
            if forger.is_down() {
                break;
            }
        }
        let to_b = pair.to_b;
        let bytes = content(50_000, u64::from(number));
        let put = pair.a.put(to_b, friend.rkey, 100, &bytes);
        assert_eq!(pair.end(put), Ok(Vec::new()));
        let get = pair.a.get(to_b, friend.rkey, 100, 50_000);
        assert!(pair.end(get) == Ok(bytes));
        let message = pair.a.receive(exactly(to_b, 5), 4);
        let to_a = pair.to_a;
        pair.b.send(to_a, b"fine", 5);
        assert_eq!(pair.finish_a(message).bytes, b"fine");
    }
    // SAFETY: memory of an open region of `a`; nobody writes while the test looks.
    let untouched = unsafe { std::slice::from_raw_parts(read_only.1, 256) };
    assert_eq!(untouched, [0; 256], "a region that peers may only read was written");
}
