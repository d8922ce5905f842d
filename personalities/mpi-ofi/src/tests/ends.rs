//! Operations that end in another way, or later.

use std::time::{Duration, Instant};

use super::party::{call, close, open_others, Party, Setup, PATIENCE};
use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::message::CqErrEntry;
use crate::abi::{version, ADDR_UNSPEC};

#[test]
fn a_message_that_is_too_long_says_by_how_much() {
    let (a, b) = Party::pair(Setup::default());
    for len in [50, 50_000] {
        let mut to = [0; 20];
        assert_eq!(b.receive(&mut to, 1, 5), 0);
        let bytes = vec![3; len];
        assert_eq!(a.send(&bytes, 1, 6), 0);
        let error = b.next_error(&a);
        assert_eq!((error.err, error.len, error.olen, error.tag), (errno::ETRUNC, 20, len - 20, 1));
        assert_eq!((error.op_context as usize, error.src_addr), (5, 0));
        assert_eq!(to, [3; 20]);
        let mut text = [1; 200];
        call!(b.cq, strerror, error.prov_errno, std::ptr::null(), text.as_mut_ptr(), text.len());
        assert!(text.contains(&0) && text[0] != 0);
        a.next(&b);
    }
    assert_eq!(b.error().err(), Some(errno::EAGAIN), "each error is read once");
}

#[test]
fn an_entry_is_no_longer_than_the_program_knows() {
    for (api, len) in [(version(1, 5), 80), (version(1, 18), 80), (version(1, 21), 88), (version(2, 5), 88)] {
        let (a, b) = Party::pair(Setup { api, ..Setup::default() });
        let mut to = [0; 1];
        assert_eq!(b.receive(&mut to, 1, 5), 0);
        assert_eq!(a.send(b"xy", 1, 6), 0);
        let end = Instant::now() + PATIENCE;
        while b.poll().err() != Some(errno::EAVAIL) {
            a.drive();
            assert!(Instant::now() < end);
        }
        let mut entry = [0xee_u8; size_of::<CqErrEntry>()];
        assert_eq!(call!(b.cq, readerr, entry.as_mut_ptr().cast(), 0), 1);
        assert_eq!(entry.iter().rposition(|byte| *byte != 0xee), Some(len - 1), "API {api:#x}");
    }
}

#[test]
fn entries_have_the_format_of_their_queue() {
    for (format, len) in [(FORMAT_CONTEXT, 8), (FORMAT_MSG, 24), (FORMAT_DATA, 40), (FORMAT_TAGGED, 48)] {
        let (a, b) = Party::pair(Setup { format, ..Setup::default() });
        let mut to = [0; 8];
        for context in [1, 2] {
            assert_eq!(b.receive(&mut to, 1, context), 0);
            assert_eq!(a.send(b"xy", 1, 6), 0);
        }
        let (mut entries, mut taken) = ([0xee_u8; 128], 0);
        let end = Instant::now() + PATIENCE;
        while taken < 2 {
            // SAFETY: room for two entries of the longest format.
            let to = unsafe { entries.as_mut_ptr().add(taken * len) };
            taken += usize::try_from(call!(b.cq, read, to.cast(), 2 - taken)).unwrap_or(0);
            a.drive();
            assert!(Instant::now() < end);
        }
        assert_eq!((entries[0], entries[len]), (1, 2));
        assert!(entries[2 * len..].iter().all(|byte| *byte == 0xee), "format {format}");
    }
}

#[test]
fn only_what_is_asked_for_is_reported() {
    let (a, b) = Party::pair(Setup { selective: true, ..Setup::default() });
    let mut to = [0; 8];
    for (flags, reported) in [(0, false), (COMPLETION, true)] {
        assert_eq!(b.receive_flags(&mut to, ADDR_UNSPEC, (1, 0), COMPLETION, 1), 0);
        assert_eq!(a.send_pieces(&[b"x"], 1, 0, flags, 2), 0);
        b.next(&a);
        a.drive();
        assert_eq!(a.poll().is_ok(), reported);
    }
    assert_eq!(b.receive_flags(&mut to, ADDR_UNSPEC, (1, 0), 0, 1), 0);
    assert_eq!(b.receive_flags(&mut to, ADDR_UNSPEC, (2, 0), COMPLETION, 2), 0);
    assert_eq!(a.send_pieces(&[b"x"], 1, 0, 0, 2), 0);
    assert_eq!(a.send_pieces(&[b"x"], 2, 0, 0, 2), 0);
    assert_eq!(b.next(&a).0.op_context as usize, 2, "the first is not reported");
}

#[test]
fn delivery_is_complete_when_the_receiver_has_the_message() {
    let (a, b) = Party::pair(Setup::default());
    assert_eq!(a.send_pieces(&[b"x"], 1, 0, DELIVERY_COMPLETE | COMPLETION, 1), 0);
    for _ in 0..1000 {
        b.drive();
        assert_eq!(a.poll().err(), Some(errno::EAGAIN), "nobody has received it");
    }
    let mut to = [0; 1];
    assert_eq!(b.receive(&mut to, 1, 2), 0);
    assert_eq!(b.next(&a).0.len, 1);
    assert_eq!(a.next(&b).0.op_context as usize, 1);
}

#[test]
fn a_receive_is_cancelled_once() {
    let (a, b) = Party::pair(Setup::default());
    let mut to = [0; 1];
    let cancel = |context: usize| {
        // SAFETY: an open endpoint.
        unsafe { ((*(*b.ep).ops).cancel)(b.ep.cast(), context as *mut _) }
    };
    assert_eq!(b.receive(&mut to, 1, 5), 0);
    assert_eq!(cancel(4), -(libc::ENOENT as isize));
    assert_eq!(cancel(5), 0);
    let error = b.next_error(&a);
    assert_eq!((error.err, error.op_context as usize), (libc::ECANCELED, 5));
    assert_eq!(cancel(5), -(libc::ENOENT as isize));
    assert_eq!(b.receive(&mut to, 1, 6), 0);
    assert_eq!(a.send(b"x", 1, 7), 0);
    assert_eq!(b.next(&a).0.op_context as usize, 6, "the message went to the other one");
}

#[test]
fn when_there_is_no_room_nothing_is_lost() {
    let (a, b) = Party::pair(Setup::default());
    let messages: Vec<[u8; 8]> = (0..100_000u64).map(u64::to_le_bytes).collect();
    let (mut next, mut refused, mut done) = (0, 0, 0);
    // Nobody receives, and no completion is taken: at some time there is no room.
    while next < messages.len() && refused < 10 {
        match a.send(&messages[next], 3, next) {
            0 => next += 1,
            error => {
                assert_eq!(error, -(errno::EAGAIN as isize));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "there is room for {} sends", messages.len());
    for expected in &messages {
        let mut to = [0; 8];
        assert_eq!(b.receive(&mut to, 3, 1), 0);
        b.next(&a);
        assert_eq!(&to, expected);
        while a.poll().is_ok() {
            done += 1;
        }
        while next < messages.len() && a.send(&messages[next], 3, next) == 0 {
            next += 1;
        }
    }
    while done < messages.len() {
        a.next(&b);
        done += 1;
    }
}

#[test]
fn a_hundred_thousand_receives_may_wait() {
    let (a, b) = Party::pair(Setup::default());
    let mut to = [0; 8];
    for context in 0..100_000 {
        assert_eq!(b.receive(&mut to, context as u64, context), 0, "receive {context}");
    }
    assert_eq!(a.send(b"x", 99_999, 1), 0);
    assert_eq!(b.next(&a).0.op_context as usize, 99_999);
}

#[test]
fn a_peer_that_has_gone_ends_what_was_for_it() {
    let (a, mut b) = Party::pair(Setup::default());
    let mut to = [0; 8];
    assert_eq!(a.send(b"x", 1, 1), 0);
    assert_eq!(b.receive(&mut to, 1, 1), 0);
    b.next(&a);
    a.next(&b);
    let long = vec![0; 1 << 20];
    assert_eq!(a.send(&long, 1, 2), 0);
    assert_eq!(a.receive_flags(&mut to, 0, (5, 0), COMPLETION, 3), 0);
    b.close_endpoint();
    let mut ended = [a.next_error(&b), a.next_error(&b)].map(|error| (error.op_context as usize, error.err));
    ended.sort_unstable();
    assert_eq!(ended, [(2, libc::ECONNRESET), (3, libc::ECONNRESET)]);
    // What starts later ends so, too.
    assert_eq!(a.send(b"x", 1, 4), 0);
    let error = a.next_error(&b);
    assert_eq!((error.op_context as usize, error.err), (4, libc::ECONNRESET));
    assert_eq!(a.receive_flags(&mut to, 0, (5, 0), COMPLETION, 5), 0);
    assert_eq!(a.next_error(&b).op_context as usize, 5);
    // SAFETY: an open endpoint; the bytes are copied.
    let injected = unsafe { ((*(*a.ep).tagged).inject)(a.ep, b"x".as_ptr().cast(), 1, 0, 1) };
    assert_eq!(injected, -(libc::ECONNRESET as isize));
    assert_eq!(call!(a.cntr, readerr), 2, "failed sends that report");
}

#[test]
fn a_peek_that_finds_nothing_is_no_failed_receive() {
    let (a, b) = Party::pair(Setup::default());
    assert_eq!(b.bind(b.cntr, RECV), 0);
    assert_eq!(b.receive_flags(&mut [], ADDR_UNSPEC, (1, 0), PEEK | COMPLETION, 5), 0);
    let error = b.next_error(&a);
    assert_eq!((error.err, error.op_context as usize), (libc::ENOMSG, 5));
    assert_eq!(call!(b.cntr, readerr), 0);
    // Who waits for the receive goes on.
    let mut to = [0; 1];
    assert_eq!(b.receive(&mut to, 1, 6), 0);
    assert_eq!(a.send(b"x", 1, 7), 0);
    b.next(&a);
    assert_eq!(call!(b.cntr, wait, 1, -1), 0);
}

#[test]
fn what_is_not_bound_is_not_held() {
    let mut a = Party::new(Setup::default());
    let (av, cq, cntr) = open_others(a.domain, FORMAT_TAGGED, WAIT_NONE);
    assert_eq!(a.bind(av, 0), -libc::EINVAL, "there is an address vector");
    assert_eq!(a.bind(cntr, SEND | RECV), -libc::EINVAL, "sends are counted elsewhere");
    assert_eq!([close(av), close(cntr)], [0, 0]);
    a.replace_endpoint();
    assert_eq!(a.bind(a.cq, RECV), 0);
    assert_eq!(a.bind(cq, SEND | RECV), -libc::EINVAL, "receives report elsewhere");
    assert_eq!(a.bind(cq, SEND), 0, "but sends do not yet");
    assert_eq!(close(cq), -libc::EBUSY);
    a.close_endpoint();
    assert_eq!(close(cq), 0);
}

#[test]
fn a_closed_endpoint_has_sent_what_it_was_given() {
    let (mut a, b) = Party::pair(Setup::default());
    // Few enough for a slow machine: they have 5 s.
    let count = 200u64;
    let receiver = std::thread::scope(|scope| {
        let b = Movable(&b);
        let receiver = scope.spawn(move || {
            let b = b;
            for round in 0..count {
                let mut to = [0; 8];
                assert_eq!(b.0.receive(&mut to, 1, 1), 0);
                b.0.next(b.0);
                assert_eq!(to, round.to_le_bytes());
            }
        });
        for round in 0..count {
            // SAFETY: an open endpoint; the bytes are copied.
            let result = unsafe {
                ((*(*a.ep).tagged).injectdata)(a.ep, round.to_le_bytes().as_ptr().cast(), 8, 1, 0, 1)
            };
            assert_eq!(result, 0);
        }
        a.close_endpoint();
        receiver.join()
    });
    assert!(receiver.is_ok());
}

/// A party for another thread.
struct Movable<'a>(&'a Party);

// SAFETY: one thread at a time calls for a party.
unsafe impl Send for Movable<'_> {}

#[test]
fn waits_have_an_end() {
    let a = Party::new(Setup::default());
    let mut entry = [0_u8; 48];
    let none = std::ptr::null();
    assert_eq!(call!(a.cq, sread, entry.as_mut_ptr().cast(), 1, none, 10), -(errno::ENOSYS as isize));
    let start = Instant::now();
    assert_eq!(call!(a.cntr, wait, 1, 20), -libc::ETIMEDOUT);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(call!(a.cntr, add, 1), 0);
    assert_eq!(call!(a.cntr, wait, 1, -1), 0);
}
