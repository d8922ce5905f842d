//! Reads and writes of peers' memory.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::party::{call, close, Party, Setup};
use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::message::{IoVec, MsgRma, RmaIov};
use crate::abi::object::FidMr;
use crate::abi::version;

const BOTH: u64 = REMOTE_READ | REMOTE_WRITE;
const KEY: u64 = 1 << 63 | 77;

/// Calls a function of the endpoint's table of reads and writes.
macro_rules! rma {
    ($party:expr, $function:ident $(, $argument:expr)*) => {
        // SAFETY: an open endpoint; tests keep the memory until the completion.
        unsafe { ((*(*$party.ep).rma).$function)($party.ep $(, $argument)*) }
    };
}

fn none<T>() -> *mut T {
    std::ptr::null_mut()
}

fn write(a: &Party, bytes: &[u8], addr: u64, key: u64, context: usize) -> isize {
    rma!(a, write, bytes.as_ptr().cast(), bytes.len(), none(), 0, addr, key, context as *mut _)
}

fn read(a: &Party, to: &mut [u8], addr: u64, key: u64, context: usize) -> isize {
    rma!(a, read, to.as_mut_ptr().cast(), to.len(), none(), 0, addr, key, context as *mut _)
}

#[test]
fn bytes_are_written_and_read_in_their_order() {
    for api in [version(1, 5), version(1, 18), version(1, 21), version(2, 5)] {
        let (a, b) = Party::pair(Setup { api, ..Setup::default() });
        let mut memory = vec![0; 3_000_000];
        let mr = b.register(&mut memory, BOTH, KEY).unwrap();
        for (round, len) in [1, 8, 5000, 2_500_000].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|index| (index * 7 + round) as u8).collect();
            let mut back = vec![0; len];
            assert_eq!(write(&a, &bytes, 9, KEY, 1), 0);
            assert_eq!(read(&a, &mut back, 9, KEY, 2), 0);
            for (context, way) in [(1, WRITE), (2, READ)] {
                let (done, _) = a.next(&b);
                assert_eq!((done.op_context as usize, done.flags), (context, RMA | way));
            }
            assert!(back == bytes, "{len} bytes, read after they were written");
            assert_eq!(memory[9..9 + len], bytes);
        }
        assert_eq!(memory[..9], [0; 9]);
        assert_eq!(close(mr), 0);
    }
}

#[test]
fn pieces_of_both_sides_are_cut_to_fit_and_modes_of_completion_hold() {
    let (a, b) = Party::pair(Setup { selective: true, ..Setup::default() });
    let (mut memory, mut other) = ([0u8; 8], [0u8; 8]);
    let (mr, other_mr) =
        (b.register(&mut memory, BOTH, 1).unwrap(), b.register(&mut other, BOTH, 2).unwrap());
    let iov = |bytes: &[u8]| IoVec { base: bytes.as_ptr().cast_mut().cast(), len: bytes.len() };
    let here = [iov(b"abc"), iov(b""), iov(b"defgh")];
    let there = [RmaIov { addr: 6, len: 2, key: 1 }, RmaIov { addr: 0, len: 6, key: 2 }];
    let msg = |here: &[IoVec], there: &[RmaIov], context: usize| MsgRma {
        iov: here.as_ptr(),
        desc: none(),
        iov_count: here.len(),
        addr: 0,
        rma_iov: there.as_ptr(),
        rma_iov_count: there.len(),
        context: context as *mut _,
        data: 0xfeed,
    };
    assert_eq!(rma!(a, writemsg, &msg(&here, &there, 5), 0), 0, "which is not reported");
    assert_eq!(rma!(a, writemsg, &msg(&here, &there, 6), COMPLETION | DELIVERY_COMPLETE | INJECT), 0);
    assert_eq!(a.next(&b).0.op_context as usize, 6);
    assert_eq!((&memory, &other), (b"\0\0\0\0\0\0ab", b"cdefgh\0\0"));
    let (mut first, mut second) = ([0u8; 7], [0u8; 1]);
    let back = [
        IoVec { base: first.as_mut_ptr().cast(), len: 7 },
        IoVec { base: second.as_mut_ptr().cast(), len: 1 },
    ];
    assert_eq!(rma!(a, readmsg, &msg(&back, &there, 7), COMPLETION), 0);
    assert_eq!(a.next(&b).0.op_context as usize, 7);
    assert_eq!((&first, &second), (b"abcdefg", b"h"));
    assert_eq!(
        rma!(a, readmsg, &msg(&back, &there[..1], 7), COMPLETION),
        -(libc::EINVAL as isize),
        "lengths"
    );
    assert_eq!(rma!(a, readmsg, &msg(&back, &there, 7), INJECT), -(libc::EINVAL as isize), "flags");
    // With data, the peer is told when it is all there.
    assert_eq!(rma!(a, writemsg, &msg(&here, &there, 8), COMPLETION | REMOTE_CQ_DATA), 0);
    let (told, from) = b.next(&a);
    assert_eq!((told.flags, told.data, from), (RMA | REMOTE_WRITE | REMOTE_CQ_DATA, 0xfeed, 0));
    assert_eq!(a.next(&b).0.op_context as usize, 8);
    assert_eq!([close(mr), close(other_mr)], [0, 0]);
}

#[test]
fn injected_writes_are_copied_counted_and_not_reported() {
    let (a, b) = Party::pair(Setup::default());
    let mut memory = vec![0u8; 8 * 3000];
    let mr = b.register(&mut memory, REMOTE_WRITE, KEY).unwrap();
    let mut bytes = [0u8; 8];
    for round in 0..3000u64 {
        bytes = round.to_le_bytes();
        while rma!(a, injectdata, bytes.as_ptr().cast(), 8, round, 0, round * 8, KEY) != 0 {
            a.drive();
            b.drive();
        }
    }
    bytes.fill(0xff);
    for round in 0..3000 {
        let (told, _) = b.next(&a);
        assert_eq!(told.data, round, "in the order of the writes");
        let at = round as usize * 8;
        assert_eq!(memory[at..at + 8], round.to_le_bytes());
    }
    assert_eq!(a.poll().err(), Some(errno::EAGAIN));
    let long = vec![0u8; 5000];
    let refused = rma!(a, inject, long.as_ptr().cast(), 5000, 0, 0, KEY);
    assert_eq!(refused, -(libc::EMSGSIZE as isize));
    assert_eq!(bytes, [0xff; 8]);
    assert_eq!(close(mr), 0);
}

#[test]
fn counters_count_writes_and_reads_apart() {
    let (a, b) = Party::pair(Setup { selective: true, ..Setup::default() });
    let (av, cq, reads) = super::party::open_others(a.domain, FORMAT_TAGGED, WAIT_NONE);
    let (other_av, other_cq, writes) = super::party::open_others(a.domain, FORMAT_TAGGED, WAIT_NONE);
    assert_eq!([a.bind(reads, READ), a.bind(writes, WRITE)], [0, 0]);
    assert_eq!(a.bind(reads, WRITE), -libc::EINVAL, "writes are counted elsewhere");
    assert_eq!(a.bind(reads, REMOTE_WRITE), -errno::ENOSYS);
    let mut memory = [0u8; 64];
    let mr = b.register(&mut memory, BOTH, KEY).unwrap();
    let mut to = [0u8; 64];
    for _ in 0..5 {
        assert_eq!(rma!(a, inject, to.as_ptr().cast(), 8, 0, 0, KEY), 0);
    }
    assert_eq!(read(&a, &mut to, 0, KEY, 1), 0);
    assert_eq!(read(&a, &mut to, 1, KEY, 1), 0, "beyond its end by one");
    let end = std::time::Instant::now() + super::party::PATIENCE;
    while (call!(reads, read), call!(reads, readerr), call!(writes, read)) != (1, 1, 5) {
        b.drive();
        assert!(std::time::Instant::now() < end);
    }
    assert_eq!(call!(a.cntr, read), 0, "no sends");
    let error = a.next_error(&b);
    assert_eq!((error.err, error.flags), (libc::EOVERFLOW, RMA | READ));
    assert_eq!(close(mr), 0);
    let mut a = a;
    a.close_endpoint();
    for result in [close(av), close(cq), close(reads), close(other_av), close(other_cq), close(writes)] {
        assert_eq!(result, 0);
    }
}

#[test]
fn the_owner_says_what_may_be_done() {
    let (a, b) = Party::pair(Setup::default());
    let (mut readable, mut writable) = ([1u8; 16], [2u8; 16]);
    let only_read = b.register(&mut readable, REMOTE_READ, 1).unwrap();
    let only_write = b.register(&mut writable, REMOTE_WRITE, 2).unwrap();
    assert_eq!(b.register(&mut [0; 4], BOTH, 2).err(), Some(errno::ENOKEY), "the key is in use");
    assert_eq!(b.register(&mut [0; 4], BOTH, u64::MAX).err(), Some(errno::ENOKEY));
    let mut to = [0u8; 16];
    // Twice: the first time by messages, then by the rail itself where it can.
    for _ in 0..2 {
        for (key, addr, ends) in [
            (1, 0, (libc::EACCES, 0)),
            (2, 0, (0, libc::EACCES)),
            (1, 1, (libc::EACCES, libc::EOVERFLOW)),
            (2, 1, (libc::EOVERFLOW, libc::EACCES)),
            (1, u64::MAX, (libc::EOVERFLOW, libc::EOVERFLOW)),
            (3, 0, (errno::ENOKEY, errno::ENOKEY)),
            (u64::MAX, 0, (errno::ENOKEY, errno::ENOKEY)),
        ] {
            assert_eq!(write(&a, &[2; 16], addr, key, 1), 0);
            assert_eq!(end_of_next(&a, &b), ends.0, "write, key {key}, place {addr}");
            assert_eq!(read(&a, &mut to, addr, key, 1), 0);
            assert_eq!(end_of_next(&a, &b), ends.1, "read, key {key}, place {addr}");
        }
    }
    assert_eq!((readable, writable), ([1; 16], [2; 16]));
    assert_eq!([close(only_read), close(only_write)], [0, 0]);
}

/// The error of the next completion, 0 for none.
fn end_of_next(a: &Party, b: &Party) -> i32 {
    let end = std::time::Instant::now() + super::party::PATIENCE;
    loop {
        match a.poll() {
            Ok(_) => return 0,
            Err(errno::EAVAIL) => return a.error().unwrap().err,
            Err(_) => b.drive(),
        }
        assert!(std::time::Instant::now() < end, "nothing came");
    }
}

#[test]
fn a_key_names_nothing_after_its_end_and_other_memory_later() {
    let (a, b) = Party::pair(Setup::default());
    let (mut old, mut new) = ([0u8; 8], [0u8; 8]);
    let mr = b.register(&mut old, BOTH, KEY).unwrap();
    for _ in 0..3 {
        assert_eq!(write(&a, b"before..", 0, KEY, 1), 0);
        assert_eq!(end_of_next(&a, &b), 0);
    }
    assert_eq!(close(mr), 0);
    assert_eq!(write(&a, b"between.", 0, KEY, 1), 0);
    assert_eq!(end_of_next(&a, &b), errno::ENOKEY);
    let mr = b.register(&mut new, BOTH, KEY).unwrap();
    for _ in 0..3 {
        assert_eq!(write(&a, b"after...", 0, KEY, 1), 0);
        assert_eq!(end_of_next(&a, &b), 0);
    }
    assert_eq!((&old, &new), (b"before..", b"after..."));
    assert_eq!(close(mr), 0);
}

#[test]
fn keys_are_chosen_here_when_the_program_can_live_with_it_and_new_endpoints_show_old_memory() {
    let setup = Setup { mr_mode: MR_PROV_KEY, ..Setup::default() };
    let (a, mut b) = (Party::new(setup), Party::new(setup));
    let mut memory = [7u8; 8];
    let mr: *mut FidMr = b.register(&mut memory, BOTH, 1).unwrap();
    // SAFETY: an open registration.
    let key = unsafe { (*mr).key };
    assert_ne!(key, 1);
    b.replace_endpoint();
    assert_eq!([b.bind(b.av, 0), b.bind(b.cq, SEND | RECV), b.enable()], [0, 0, 0]);
    assert_eq!(a.insert(&b.name()), (1, 0));
    let mut to = [0u8; 8];
    assert_eq!(read(&a, &mut to, 0, key, 1), 0);
    assert_eq!(end_of_next(&a, &b), 0);
    assert_eq!(to, [7; 8]);
    assert_eq!(close(b.domain), -libc::EBUSY);
    assert_eq!(close(mr), 0);
}

#[test]
fn places_are_addresses_where_the_program_says_so() {
    for mr_mode in [MR_VIRT_ADDR, MR_BASIC] {
        let (a, b) = Party::pair(Setup { mr_mode, ..Setup::default() });
        let mut memory = [0u8; 64];
        let start = memory.as_ptr() as u64;
        let mr = b.register(&mut memory, BOTH, KEY).unwrap();
        // SAFETY: an open registration.
        let key = unsafe { (*mr).key };
        assert_eq!(key == KEY, mr_mode == MR_VIRT_ADDR, "who chooses keys");
        // By messages first, then by the rail itself where it can.
        for round in 1..4 {
            let mut back = [0u8; 8];
            assert_eq!(write(&a, &[round; 8], start + 5, key, 1), 0);
            assert_eq!(end_of_next(&a, &b), 0);
            assert_eq!(read(&a, &mut back, start + 5, key, 1), 0);
            assert_eq!(end_of_next(&a, &b), 0);
            assert_eq!(back, [round; 8]);
            for beyond in [start - 1, start + 57, 0, 5, u64::MAX] {
                assert_eq!(write(&a, &[9; 8], beyond, key, 1), 0);
                assert_eq!(end_of_next(&a, &b), libc::EOVERFLOW, "{beyond:x} of {start:x}");
            }
        }
        assert_eq!(close(mr), 0);
        assert_eq!(memory.iter().filter(|byte| **byte == 3).count(), 8);
        assert_eq!(memory.iter().filter(|byte| **byte == 0).count(), 56);
    }
}

/// A peer reads and writes by the kernel, over and over; once the registration has ended, it does neither.
#[test]
fn peers_come_out_of_memory_before_its_registration_ends() {
    const LEN: usize = 4 << 20;
    const ROUNDS: u8 = 8;
    let (a, b) = Party::pair(Setup { serialized: false, ..Setup::default() });
    let mut memory = vec![0; LEN];
    for round in 0..ROUNDS {
        memory.fill(1);
        let mr = b.register(&mut memory, BOTH, KEY).unwrap();
        let (count, over) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let peer = Movable(&a);
            let (count, over) = (&count, &over);
            let peer = scope.spawn(move || {
                let peer = peer;
                let (mut to, from) = (vec![1; LEN], vec![1; LEN]);
                loop {
                    let is_read = (count.load(Ordering::Relaxed) + u32::from(round)).is_multiple_of(2);
                    let begun = if is_read {
                        read(peer.0, &mut to, 0, KEY, 1)
                    } else {
                        write(peer.0, &from, 0, KEY, 1)
                    };
                    assert_eq!(begun, 0);
                    // The other thread drives the owner.
                    let error = end_of_next(peer.0, peer.0);
                    assert!(to.iter().all(|byte| *byte == 1), "bytes of after the end were read");
                    if error != 0 {
                        over.store(true, Ordering::Release);
                        return error;
                    }
                    count.fetch_add(1, Ordering::Release);
                }
            });
            let drive_until = |is_there: &dyn Fn() -> bool| {
                let end = std::time::Instant::now() + super::party::PATIENCE;
                while !is_there() {
                    b.drive();
                    assert!(std::time::Instant::now() < end);
                }
            };
            drive_until(&|| count.load(Ordering::Acquire) > 2);
            assert_eq!(close(mr), 0);
            memory.fill(2);
            drive_until(&|| over.load(Ordering::Acquire));
            assert_eq!(peer.join().ok(), Some(errno::ENOKEY));
        });
        assert!(memory.iter().all(|byte| *byte == 2), "written after the end");
    }
}

/// For tests that call for a party by another thread than the one that made it, with a lock or one at a time.
struct Movable<'a>(&'a Party);
// SAFETY: the tests see to what is said above.
unsafe impl Send for Movable<'_> {}

#[test]
fn who_writes_to_a_peer_that_has_gone_is_told() {
    let (a, mut b) = Party::pair(Setup::default());
    let mut memory = [0u8; 8];
    let mr = b.register(&mut memory, BOTH, KEY).unwrap();
    assert_eq!(write(&a, b"12345678", 0, KEY, 1), 0);
    assert_eq!(end_of_next(&a, &b), 0);
    b.close_endpoint();
    let end = std::time::Instant::now() + super::party::PATIENCE;
    // Until the end is noticed, writes go to memory that nobody will read.
    loop {
        assert_eq!(write(&a, b"12345678", 0, KEY, 2), 0);
        match end_of_next(&a, &b) {
            0 => assert!(std::time::Instant::now() < end),
            error => break assert_eq!(error, libc::ECONNRESET),
        }
    }
    assert_eq!(close(mr), 0);
}

#[test]
fn without_room_nothing_is_lost_and_what_is_refused_has_not_happened() {
    let (a, b) = Party::pair(Setup::default());
    let mut memory = vec![0u8; 8 * 70_000];
    let mr = b.register(&mut memory, REMOTE_WRITE, KEY).unwrap();
    let values: Vec<[u8; 8]> = (0..70_000u64).map(u64::to_le_bytes).collect();
    let (mut next, mut refused) = (0, 0);
    // The owner does not look, and no completion is taken.
    while next < values.len() && refused < 10 {
        match write(&a, &values[next], next as u64 * 8, KEY, next) {
            0 => next += 1,
            error => {
                assert_eq!(error, -(errno::EAGAIN as isize));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "there is room for {} writes", values.len());
    for context in 0..next {
        assert_eq!(a.next(&b).0.op_context as usize, context, "in the order of the writes");
    }
    for (index, value) in values.iter().enumerate() {
        let expected = if index < next { *value } else { [0; 8] };
        assert_eq!(memory[index * 8..index * 8 + 8], expected);
    }
    assert_eq!(close(mr), 0);
}

#[test]
fn a_closed_endpoint_has_written_what_it_was_given() {
    // Few enough for a slow machine: they have 5 s.
    let count = 200u64;
    let (mut a, b) = Party::pair(Setup::default());
    let mut memory = vec![0u8; 8 * count as usize];
    let mr = b.register(&mut memory, REMOTE_WRITE, KEY).unwrap();
    std::thread::scope(|scope| {
        let b = Movable(&b);
        let owner = scope.spawn(move || {
            let b = b;
            for round in 0..count {
                assert_eq!(b.0.next(b.0).0.data, round);
            }
        });
        for round in 0..count {
            let value = round.to_le_bytes();
            assert_eq!(rma!(a, injectdata, value.as_ptr().cast(), 8, round, 0, round * 8, KEY), 0);
        }
        a.close_endpoint();
        assert!(owner.join().is_ok());
    });
    for round in 0..count {
        let at = round as usize * 8;
        assert_eq!(memory[at..at + 8], round.to_le_bytes());
    }
    assert_eq!(close(mr), 0);
}
