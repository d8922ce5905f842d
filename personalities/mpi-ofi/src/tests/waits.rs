//! Descriptors of queues, and sleep.

use std::time::{Duration, Instant};

use super::party::{call, Party, Setup, PATIENCE};
use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::object::Fid;
use crate::op::event;
use crate::queue::{Failure, Format, Queue};
use crate::wait::Sleep;

const WITH_DESCRIPTOR: Setup = Setup {
    api: crate::abi::version(2, 5),
    format: FORMAT_TAGGED,
    selective: false,
    wait: WAIT_FD,
    mr_mode: 0,
    // One of the tests calls from two threads.
    serialized: false,
    automatic: false,
};

fn control(party: &Party, command: i32) -> Result<i32, i32> {
    let mut answer = -1;
    let fid: *mut Fid = party.cq.cast();
    // SAFETY: an open queue, and room for an `int`.
    let result = unsafe { ((*(*fid).ops).control)(fid, command, (&raw mut answer).cast()) };
    if result == 0 {
        Ok(answer)
    } else {
        Err(-result)
    }
}

/// Whether one may sleep on the queue's descriptor.
fn try_wait(party: &Party) -> i32 {
    let mut fids: [*mut Fid; 2] = [party.cq.cast(), party.cntr.cast()];
    call!(party.fabric, trywait, fids.as_mut_ptr(), 2)
}

/// Whether the descriptor tells something within so many ms.
fn tells(descriptor: i32, ms: i32) -> bool {
    let mut file = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor.
    unsafe { libc::poll(&mut file, 1, ms) > 0 }
}

/// Reads until there is nothing, and one may sleep; what was read.
fn drain(party: &Party) -> usize {
    let (mut read, end) = (0, Instant::now() + PATIENCE);
    loop {
        while party.poll().is_ok() {
            read += 1;
        }
        match try_wait(party) {
            0 => return read,
            error => assert_eq!(error, -errno::EAGAIN),
        }
        assert!(Instant::now() < end, "never quiet");
    }
}

#[test]
fn a_descriptor_tells_what_comes_after_it_was_armed() {
    let (a, b) = Party::pair(WITH_DESCRIPTOR);
    let descriptor = control(&b, GETWAIT).unwrap();
    assert_eq!(control(&b, GETWAITOBJ), Ok(WAIT_FD as i32));
    assert_eq!(control(&b, ENABLE), Err(errno::ENOSYS));
    let mut to = [0; 8];
    for round in 0..200u64 {
        assert_eq!(b.receive(&mut to, 1, 2), 0);
        assert_eq!(drain(&b), 0);
        assert_eq!(a.send(&round.to_le_bytes(), 1, 1), 0);
        let (mut received, end) = (0, Instant::now() + PATIENCE);
        while received == 0 {
            // A link that is being made needs both.
            if tells(descriptor, 1) {
                received += drain(&b);
            }
            a.drive();
            assert!(Instant::now() < end, "round {round}: the descriptor does not tell");
        }
        assert_eq!(to, round.to_le_bytes());
        drain(&a);
    }
}

#[test]
fn what_waits_to_be_read_forbids_sleep_and_errors_do_too() {
    let (a, b) = Party::pair(WITH_DESCRIPTOR);
    let mut to = [0; 1];
    assert_eq!(b.receive(&mut to, 1, 7), 0);
    assert_eq!(a.send(b"xy", 1, 1), 0);
    let end = Instant::now() + PATIENCE;
    while try_wait(&b) == 0 {
        a.drive();
        assert!(Instant::now() < end);
    }
    for _ in 0..3 {
        assert_eq!(try_wait(&b), -errno::EAGAIN);
        assert_eq!(b.poll().err(), Some(errno::EAVAIL));
    }
    let error = b.error().unwrap();
    assert_eq!((error.err, error.olen, error.len, error.op_context as usize), (errno::ETRUNC, 1, 1, 7));
    assert_eq!(b.error().err(), Some(errno::EAGAIN), "it is told once");
    assert_eq!(drain(&b), 0);
}

#[test]
fn who_sleeps_is_woken_by_what_another_thread_has_done_at_once() {
    struct Movable<'a>(&'a Party);
    // SAFETY: each call of the provider goes in behind the lock of the domain.
    unsafe impl Send for Movable<'_> {}

    let (a, b) = Party::pair(WITH_DESCRIPTOR);
    let descriptor = control(&a, GETWAIT).unwrap();
    // The link is there: from now on a send is done in its call.
    let mut to = [0; 1];
    assert_eq!(b.receive(&mut to, 1, 1), 0);
    assert_eq!(a.send(b"x", 1, 1), 0);
    b.next(&a);
    a.next(&b);
    assert_eq!(drain(&a), 0);
    assert!(!tells(descriptor, 0));
    std::thread::scope(|scope| {
        let a = Movable(&a);
        scope.spawn(move || {
            let a = a;
            assert_eq!(a.0.send(b"x", 1, 2), 0);
        });
        assert!(tells(descriptor, PATIENCE.as_millis() as i32));
    });
    assert_eq!(a.poll().unwrap().0.op_context as usize, 2);
}

#[test]
fn waits_sleep_and_have_an_end() {
    for wait in [WAIT_FD, WAIT_UNSPEC, WAIT_YIELD] {
        let a = Party::new(Setup { wait, ..WITH_DESCRIPTOR });
        let expected = if wait == WAIT_YIELD { WAIT_YIELD } else { WAIT_FD };
        assert_eq!(control(&a, GETWAITOBJ), Ok(expected as i32));
        assert_eq!(control(&a, GETWAIT).is_ok(), wait != WAIT_YIELD);
        let (mut entry, none) = ([0_u8; 48], std::ptr::null());
        let start = Instant::now();
        let result = call!(a.cq, sread, entry.as_mut_ptr().cast(), 1, none, 30);
        assert_eq!(result, -(errno::EAGAIN as isize));
        assert!(start.elapsed() >= Duration::from_millis(30));
        // Its own messages are events like others.
        let mut to = [0; 1];
        assert_eq!(a.insert(&a.name()), (1, 0));
        assert_eq!(a.receive(&mut to, 1, 1), 0);
        assert_eq!(a.send(b"x", 1, 1), 0);
        for _ in 0..2 {
            assert_eq!(call!(a.cq, sread, entry.as_mut_ptr().cast(), 1, none, -1), 1);
        }
    }
}

#[test]
fn an_armed_queue_rings_once_for_what_is_reported() {
    let mut queue = Queue::new(Format::new(FORMAT_TAGGED).unwrap(), WAIT_FD, Some(Sleep::new().unwrap()));
    let descriptor = queue.sleep.as_ref().unwrap().descriptor();
    let failure = Failure::of(gridnet::core::error::Error::PeerGone);
    queue.push(event(1, SEND, 0));
    assert!(!tells(descriptor, 0), "nobody sleeps");
    for fails in [false, true] {
        queue.sleep.as_mut().unwrap().arm();
        assert!(!tells(descriptor, 0));
        match fails {
            false => queue.push(event(1, SEND, 0)),
            true => queue.push_failure(event(1, SEND, 0), failure),
        }
        assert!(tells(descriptor, 0));
    }
}
