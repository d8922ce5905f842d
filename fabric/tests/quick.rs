//! The short way in: what it takes comes in order with what polling takes, and nobody waits for ever behind a stream.

mod common;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use common::{exactly, from_any, Buffer, Party, Scratch, RECEIVE};
use gridnet::core::completion::Completion;
use gridnet::core::error::Error;
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::PeerId;
use gridnet::core::testing::random::Random;
use gridnet::{Outlet, ThreadLevel};

/// What `gridnet_cq_poll` does for one entry; whether the short way was it.
fn poll(party: &Party) -> Option<(Completion, bool)> {
    let mut entry = MaybeUninit::uninit();
    let out = NonNull::from(&mut entry).cast();
    let mut fabric = party.enter();
    let waited = fabric.completions(party.cq) > 0;
    // SAFETY: room for one entry, as is said.
    let quick = unsafe { fabric.take_quick(party.cq, out, 1) }.0 == 1;
    // SAFETY: as above; and whoever says that it took one has written it.
    (quick || unsafe { fabric.take_into(party.cq, out, 1, 1) } == 1)
        .then(|| (unsafe { entry.assume_init() }, quick && !waited))
}

fn open(scratch: &Scratch) -> Party {
    Party::open(&scratch.0, None, ThreadLevel::Serialized, &[])
}

/// Connects, and tells the receiver who that is.
fn meet(from: &Party, to: &Party) -> (PeerId, PeerId) {
    let there = from.connect(&to.address());
    from.send(there, b"hello", 1, false).unwrap();
    to.receive(from_any(1), Buffer::new(8)).unwrap();
    loop {
        from.enter().poll_round();
        if let Some((completion, _)) = poll(to) {
            return (there, PeerId::new(completion.source));
        }
    }
}

#[test]
fn messages_come_in_order_by_both_ways() {
    let scratch = Scratch::new();
    let (a, b) = (open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let mut random = Random::new(3);
    let (mut sent, mut expected, mut short) = (VecDeque::new(), VecDeque::new(), 0);
    for round in 0..30_000u64 {
        if sent.len() < 40 {
            let len = random.pick(&[0, 3, 8, 48, 49, 700, 20_000]);
            let bytes: &'static [u8] = Box::leak(random.bytes(len).into_boxed_slice());
            a.send(to_b, bytes, round % 2, random.chance(0.05)).unwrap();
            sent.push_back((round % 2, bytes));
        }
        while expected.len() < sent.len() {
            // Which of the two accepts a message of what tag, in turn.
            let room = random.pick(&[2, 20_000, 20_000]);
            let buffer = Buffer::new(room);
            let (pattern, tags) = match random.below(4) {
                0 => (Pattern { source: Source::Any, tag: 0, ignore: !0 }, vec![0, 1]),
                1 => (from_any(0), vec![0]),
                2 => (exactly(from_a, 1), vec![1]),
                _ => (exactly(from_a, 0), vec![0]),
            };
            let op = b.receive(pattern, buffer).unwrap();
            expected.push_back((op, tags, buffer));
        }
        a.enter().poll_round();
        a.enter().take(a.cq, |_| true);
        while let Some((completion, quick)) = poll(&b) {
            assert_eq!(completion.context, RECEIVE);
            short += u64::from(quick);
            // The first receive that accepts the tag has it, and the first message of the tag.
            let at = expected.iter().position(|(op, ..)| *op == completion.op).expect("it was posted");
            let earlier = expected.iter().take(at).any(|(_, tags, _)| tags.contains(&completion.tag));
            assert!(!earlier, "a later receive was served first");
            let (_, _, buffer) = expected.remove(at).unwrap();
            let first = sent.iter().position(|(tag, _)| *tag == completion.tag).unwrap();
            let (_, bytes) = sent.remove(first).unwrap();
            let got = buffer.to_vec();
            let fits = bytes.len() <= got.len();
            assert_eq!(completion.status, if fits { 0 } else { Error::Truncated.code() });
            assert_eq!(completion.length, bytes.len() as u64);
            assert!(!fits || got[..bytes.len()] == *bytes, "the bytes differ");
        }
    }
    assert!(short > 300, "{short} messages came the short way");
}

#[test]
fn others_are_heard_during_a_stream() {
    let scratch = Scratch::new();
    let (a, b, c) = (open(&scratch), open(&scratch), open(&scratch));
    let (to_b, from_a) = meet(&a, &b);
    let (c_to_b, from_c) = meet(&c, &b);
    let outlet = Outlet::new(a.shared.clone(), to_b);
    outlet.refresh(&mut a.enter());
    let buffer = Buffer::new(8);
    let stream = |count: u64, ahead: u64| {
        let (mut short, mut others) = (0, 0);
        for i in 0..count + ahead {
            if i < count {
                if !outlet.send(5, Iov::EMPTY) {
                    a.send(to_b, b"", 5, false).unwrap();
                }
                b.receive(exactly(from_a, 5), buffer).unwrap();
            }
            // So many are there already that each look finds one.
            if i >= ahead {
                let (completion, quick) = poll(&b).expect("a message is there");
                short += u64::from(quick);
                others += u64::from(completion.source == from_c.number());
            }
        }
        (short, others)
    };
    // Until the other's link is an idle one.
    let mut tries = 0;
    while stream(2000, 1).0 < 1500 {
        tries += 1;
        assert!(tries < 1000, "the stream does not come the short way");
    }
    b.receive(exactly(from_c, 6), buffer).unwrap();
    c.send(c_to_b, b"it's me", 6, false).unwrap();
    assert_eq!(stream(5000, 20).1, 1, "the message of the third was not heard");
}
