//! Messages that arrive.

use super::party::{call, Party, Setup};
use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::ADDR_UNSPEC;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251) as u8).collect()
}

#[test]
fn messages_of_all_lengths_arrive_both_before_and_after_their_receives() {
    let (a, b) = Party::pair(Setup::default());
    for (round, len) in [0, 1, 48, 4096, 8192, 9000, 3_000_000].into_iter().enumerate() {
        let (bytes, tag) = (pattern(len), 100 + round as u64);
        for late in [false, true] {
            let mut to = vec![0; len + 3];
            if !late {
                assert_eq!(b.receive(&mut to, tag, 2), 0);
            }
            assert_eq!(a.send(&bytes, tag, 1), 0);
            if late {
                (0..100).for_each(|_| b.drive());
                assert_eq!(b.receive(&mut to, tag, 2), 0);
            }
            let (received, from) = b.next(&a);
            assert_eq!((received.len, received.tag, received.op_context as usize, from), (len, tag, 2, 0));
            assert_eq!(received.flags, RECV | TAGGED);
            assert_eq!(to[..len], bytes);
            let (sent, _) = a.next(&b);
            assert_eq!((sent.flags, sent.op_context as usize), (SEND | TAGGED, 1));
        }
    }
    assert_eq!(call!(a.cntr, read), 14, "sends that a counter has counted");
    assert_eq!(call!(b.cntr, read), 0);
}

#[test]
fn pieces_data_and_injected_copies_arrive() {
    let (a, b) = Party::pair(Setup::default());
    let mut to = [0; 16];
    for flags in [REMOTE_CQ_DATA, REMOTE_CQ_DATA | INJECT, REMOTE_CQ_DATA | DELIVERY_COMPLETE] {
        assert_eq!(b.receive(&mut to, 5, 2), 0);
        assert_eq!(a.send_pieces(&[b"ab", b"", b"cde"], 5, 0xdead_beef_0123, flags | COMPLETION, 1), 0);
        let (received, _) = b.next(&a);
        assert_eq!((received.len, received.data), (5, 0xdead_beef_0123));
        assert_eq!(received.flags, RECV | TAGGED | REMOTE_CQ_DATA);
        assert_eq!(&to[..5], b"abcde");
        a.next(&b);
    }
    let long = vec![0; 5000];
    assert_eq!(a.send_pieces(&[&long], 5, 0, INJECT, 1), -(libc::EMSGSIZE as isize));
    assert_eq!(a.send(b"x", 1 << 63, 1), -(libc::EINVAL as isize), "a tag of 64 bits");
}

#[test]
fn injected_memory_is_free_at_once_and_its_end_is_not_reported() {
    let (a, b) = Party::pair(Setup::default());
    let mut bytes = [0; 64];
    for round in 0..3000u32 {
        bytes[..4].copy_from_slice(&round.to_le_bytes());
        // The other does not look: copies pile up.
        // SAFETY: an open endpoint; the bytes are copied.
        let result = unsafe { ((*(*a.ep).tagged).injectdata)(a.ep, bytes.as_ptr().cast(), 64, 9, 0, 4) };
        assert_eq!(result, 0);
    }
    bytes.fill(0xff);
    for round in 0..3000u32 {
        let mut to = [0; 64];
        assert_eq!(b.receive(&mut to, 4, 1), 0);
        b.next(&a);
        assert_eq!(to[..4], round.to_le_bytes());
    }
    assert_eq!(a.poll().err(), Some(errno::EAGAIN));
}

#[test]
fn messages_with_and_without_tags_do_not_mix_and_ignored_bits_do_not_count() {
    let (a, b) = Party::pair(Setup::default());
    let (mut untagged, mut tagged) = ([0; 8], [0; 8]);
    assert_eq!(b.receive_flags(&mut tagged, ADDR_UNSPEC, (0, u64::MAX), COMPLETION, 1), 0);
    assert_eq!(b.receive_msg(&mut untagged, COMPLETION, 2), 0);
    assert_eq!(a.send_msg(b"message", 3), 0);
    let (received, from) = b.next(&a);
    assert_eq!((received.op_context as usize, received.flags, from), (2, RECV | MSG, 0));
    assert_eq!(a.send(b"tag", 0x1234, 4), 0);
    let (received, _) = b.next(&a);
    assert_eq!((received.op_context as usize, received.flags, received.tag), (1, RECV | TAGGED, 0x1234));
    assert_eq!((&untagged[..7], &tagged[..3]), (&b"message"[..], &b"tag"[..]));
}

#[test]
fn a_directed_receive_waits_for_its_peer() {
    let (a, b) = Party::pair(Setup::default());
    assert_eq!(b.insert(&b.name()), (1, 1));
    let (mut own, mut others) = ([0; 4], [0; 4]);
    assert_eq!(b.receive_flags(&mut own, 1, (7, 0), COMPLETION, 1), 0);
    assert_eq!(b.receive_flags(&mut others, 0, (7, 0), COMPLETION, 2), 0);
    assert_eq!(a.send(b"from", 7, 3), 0);
    let (received, from) = b.next(&a);
    assert_eq!((received.op_context as usize, from), (2, 0));
    // SAFETY: the bytes are copied.
    assert_eq!(unsafe { ((*(*b.ep).tagged).inject)(b.ep, b"self".as_ptr().cast(), 4, 1, 7) }, 0);
    let (received, from) = b.next(&a);
    assert_eq!((received.op_context as usize, from), (1, 1));
    assert_eq!((&own, &others), (b"self", b"from"));
}

#[test]
fn a_buffer_takes_several_messages_until_it_is_given_back() {
    let (a, b) = Party::pair(Setup::default());
    let least = 100usize;
    // SAFETY: an open endpoint, and a number.
    unsafe {
        let set = (*(*b.ep).ops).setopt;
        assert_eq!(set(b.ep.cast(), 0, OPT_MIN_MULTI_RECV, (&raw const least).cast(), 8), 0);
        assert_eq!(set(b.ep.cast(), 0, 77, (&raw const least).cast(), 8), -libc::ENOPROTOOPT);
    }
    let (mut first, mut second) = (vec![0; 20_000], vec![0; 20_000]);
    let places = [first.as_ptr() as usize, second.as_ptr() as usize];
    assert_eq!(b.receive_msg(&mut first, MULTI_RECV, 0), 0);
    assert_eq!(b.receive_msg(&mut second, MULTI_RECV, 1), 0);
    let mut used = [0, 0];
    let mut given_back = 0;
    let sent: Vec<Vec<u8>> =
        (0..).map(|round| vec![round as u8 + 1; [60, 9500, 0][round % 3]]).take(16).collect();
    for bytes in &sent {
        assert_eq!(a.send_msg(bytes, 9), 0);
        let (received, _) = b.next(&a);
        a.next(&b);
        let which = received.op_context as usize;
        assert_eq!(received.buf as usize, places[which] + used[which], "one after the other");
        assert_eq!(received.len, bytes.len());
        let buffer = if which == 0 { &first } else { &second };
        assert_eq!(buffer[used[which]..used[which] + bytes.len()], bytes[..]);
        used[which] += bytes.len();
        let is_last = 20_000 - used[which] < least;
        assert_eq!(received.flags & MULTI_RECV != 0, is_last);
        if is_last {
            given_back += 1;
        }
        if used.iter().all(|used| 20_000 - used < 9500) {
            break;
        }
    }
    assert!(used.iter().all(|used| *used > 9500), "both were used: {used:?}");
    // What is longer than the rest ends as what is too long does, and the buffer is given back.
    let long = vec![1; 19_000];
    while given_back < 2 {
        assert_eq!(a.send_msg(&long, 9), 0);
        let error = b.next_error(&a);
        assert_eq!(error.err, errno::ETRUNC);
        assert_ne!(error.flags & MULTI_RECV, 0);
        assert_eq!(error.len + error.olen, 19_000);
        a.next(&b);
        given_back += 1;
    }
    assert_eq!(b.receive_msg(&mut first, MULTI_RECV, 0), 0);
    // SAFETY: an open endpoint.
    assert_eq!(unsafe { ((*(*b.ep).ops).cancel)(b.ep.cast(), std::ptr::null_mut()) }, 0);
    assert_eq!(b.next_error(&a).err, libc::ECANCELED);
}

#[test]
fn a_message_is_peeked_at_claimed_and_received_or_discarded() {
    let (a, b) = Party::pair(Setup::default());
    let (peek, any) = (PEEK | COMPLETION, (0, u64::MAX));
    assert_eq!(b.receive_flags(&mut [], ADDR_UNSPEC, any, peek, 1), 0);
    assert_eq!(b.next_error(&a).err, libc::ENOMSG);
    let look = |flags: u64, context: usize| {
        let end = std::time::Instant::now() + super::party::PATIENCE;
        loop {
            assert_eq!(b.receive_flags(&mut [], ADDR_UNSPEC, any, peek | flags, context), 0);
            match b.poll() {
                Ok((found, from)) => return (found.len, found.tag, found.data, from),
                Err(_) => assert_eq!(b.error().unwrap().err, libc::ENOMSG),
            }
            a.drive();
            assert!(std::time::Instant::now() < end);
        }
    };
    for len in [5, 100_000] {
        let bytes = pattern(len);
        for tag in [10, 11, 12] {
            assert_eq!(a.send_pieces(&[&bytes], tag, tag + 1, REMOTE_CQ_DATA | COMPLETION, 1), 0);
        }
        assert_eq!(look(0, 1), (len, 10, 11, 0));
        assert_eq!(look(CLAIM, 7), (len, 10, 11, 0));
        assert_eq!(look(DISCARD, 8), (len, 11, 12, 0), "the first is claimed");
        let mut to = vec![0; len];
        assert_eq!(b.receive_flags(&mut to, ADDR_UNSPEC, any, COMPLETION, 3), 0);
        assert_eq!(b.next(&a).0.tag, 12, "the second is discarded");
        to.fill(0);
        assert_eq!(
            b.receive_flags(&mut to, ADDR_UNSPEC, any, CLAIM | COMPLETION, 8),
            -(libc::EINVAL as isize)
        );
        assert_eq!(b.receive_flags(&mut to, ADDR_UNSPEC, any, CLAIM | COMPLETION, 7), 0);
        let (received, from) = b.next(&a);
        assert_eq!((received.len, received.tag, received.op_context as usize, from), (len, 10, 7, 0));
        assert_eq!(to, bytes);
        (0..3).for_each(|_| assert_eq!(a.next(&b).0.op_context as usize, 1));
    }
}
