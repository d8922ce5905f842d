//! What peers tell of having written, also when they send what they should not, or more than there is room for.

use std::sync::Arc;
use std::time::Instant;

use gridnet::core::endpoint::SendArgs;
use gridnet::core::mem::Iov;

use super::party::{call, close, Party, Setup, PATIENCE};
use crate::abi::flag::*;
use crate::abi::object::{FidCq, FidEp};
use crate::object::Object;
use crate::op::event;
use crate::queue::MOST_EVENTS;
use crate::remote::NOTICE;
use crate::state::{Domain, State};

const KEY: u64 = 3;

fn domain_of(party: &Party) -> &Arc<Domain> {
    // SAFETY: an open endpoint.
    unsafe { &Object::<FidEp>::of(party.ep).unwrap().domain }
}

/// Writes, and tells the peer with this number.
fn write_and_tell(a: &Party, b: &Party, number: u64) {
    let end = Instant::now() + PATIENCE;
    let byte = [1u8];
    // SAFETY: an open endpoint; the byte is copied.
    while unsafe { ((*(*a.ep).rma).injectdata)(a.ep, byte.as_ptr().cast(), 1, number, 0, 0, KEY) } != 0 {
        a.drive();
        b.drive();
        assert!(Instant::now() < end);
    }
}

/// Sends bytes as only a notice without any should be sent.
fn send_as_notice(a: &Party, bytes: &mut [u8]) {
    // SAFETY: an open endpoint.
    let key = unsafe { Object::<FidEp>::of(a.ep) }.unwrap().key;
    let mut state = domain_of(a).enter();
    let State { endpoints, vectors, .. } = &mut *state;
    let endpoint = endpoints.get_mut(key).unwrap();
    let peer = endpoint.peer(vectors, 0).unwrap();
    // No operation has this context.
    let args = SendArgs {
        cq: endpoint.cq,
        owner: 0,
        context: u64::MAX,
        tag: NOTICE,
        immediate: None,
        sync: false,
        always_complete: false,
    };
    // SAFETY: the test keeps the bytes until both endpoints are closed.
    let piece = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
    endpoint.shared.enter().unwrap().engine.send_iov(peer, &[piece], &args).unwrap();
}

#[test]
fn notices_come_after_one_that_was_none() {
    let mut strange = vec![0; 50_000];
    let mut memory = [0u8; 1];
    let (a, b) = Party::pair(Setup::default());
    let mr = b.register(&mut memory, REMOTE_WRITE, KEY).unwrap();
    // The links are there, so that the engine takes what follows.
    write_and_tell(&a, &b, 1);
    assert_eq!(b.next(&a).0.data, 1);
    for (len, number) in [(1, 2), (50_000, 3)] {
        send_as_notice(&a, &mut strange[..len]);
        write_and_tell(&a, &b, number);
        let (told, _) = b.next(&a);
        assert_eq!((told.flags, told.data), (RMA | REMOTE_WRITE | REMOTE_CQ_DATA, number), "{len} bytes");
    }
    assert_eq!(close(mr), 0);
}

/// A program that counts on progress without its calls starts its writes, and does something else.
#[test]
fn peers_are_told_without_calls_of_the_program() {
    const COUNT: u64 = 2000;
    let mut memory = [0u8; 1];
    let (a, b) = Party::pair(Setup { automatic: true, ..Setup::default() });
    let mr = b.register(&mut memory, REMOTE_WRITE, KEY).unwrap();
    for number in 0..COUNT {
        write_and_tell(&a, &b, number);
    }
    let end = Instant::now() + PATIENCE;
    // Writes by messages end later than those by the kernel that were begun after them.
    let mut next = 0;
    while next < COUNT {
        if let Ok((told, _)) = b.poll() {
            assert_eq!(
                (told.flags, told.data),
                (RMA | REMOTE_WRITE | REMOTE_CQ_DATA, next),
                "in their order"
            );
            next += 1;
        }
        assert!(Instant::now() < end, "only {next} notices came");
    }
    assert_eq!(close(mr), 0);
}

/// Waits for a completion of `a` while the queue of `b`, which makes progress, is not read.
fn next_while_full(a: &Party, b: &Party) {
    let end = Instant::now() + PATIENCE;
    while a.poll().is_err() {
        call!(b.cntr, read);
        assert!(Instant::now() < end);
    }
}

#[test]
fn notices_wait_for_room_and_none_is_lost() {
    const COUNT: u64 = 10;
    let mut memory = [0u8; 1];
    let (a, b) = Party::pair(Setup::default());
    let mr = b.register(&mut memory, REMOTE_READ | REMOTE_WRITE, KEY).unwrap();
    let mut to = [0u8; 1];
    assert_eq!(b.receive(&mut to, 1, 5), 0);
    // SAFETY: an open queue.
    let queue = unsafe { Object::<FidCq>::of(b.cq) }.unwrap().key;
    let waiting = || domain_of(&b).enter().reports.queues.get(queue).unwrap().len();
    {
        let mut state = domain_of(&b).enter();
        let queue = state.reports.queues.get_mut(queue).unwrap();
        while queue.has_room() {
            queue.push(event(7, 0, 0));
        }
    }
    for number in 0..COUNT {
        write_and_tell(&a, &b, number);
    }
    // Once a read has ended the writes before it have, and their notices are on their way; once this message has arrived, those
    // have.
    let (mut back, none) = ([0u8; 1], std::ptr::null_mut());
    // SAFETY: an open endpoint; the byte stays until the completion.
    let asked =
        unsafe { ((*(*a.ep).rma).read)(a.ep, back.as_mut_ptr().cast(), 1, none, 0, 0, KEY, 6 as *mut _) };
    assert_eq!(asked, 0);
    next_while_full(&a, &b);
    assert_eq!(a.send_pieces(&[b"x"], 1, 0, COMPLETION | DELIVERY_COMPLETE, 6), 0);
    next_while_full(&a, &b);
    for _ in 0..4 * COUNT {
        call!(b.cntr, read);
    }
    assert_eq!(waiting(), MOST_EVENTS + 2, "one notice, and a message that was asked for");
    let mut next = 0;
    while next < COUNT {
        let (told, _) = b.next(&a);
        if told.flags & REMOTE_CQ_DATA != 0 {
            assert_eq!(told.data, next);
            next += 1;
        }
    }
    assert_eq!(close(mr), 0);
}
