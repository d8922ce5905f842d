//! Atomic operations on peers' memory.

use super::party::{call, close, Party, Setup};
use crate::abi::flag::*;
use crate::abi::message::{Ioc, MsgAtomic, RmaIoc};
use crate::abi::object::AtomicAttr;

const KEY: u64 = 5;
const U16: i32 = 3;
const I32: i32 = 4;
const U64: i32 = 7;
const F64: i32 = 9;
const MIN: i32 = 0;
const SUM: i32 = 2;
const XOR: i32 = 9;
const READ_IT: i32 = 10;
const WRITE_IT: i32 = 11;
const SWAP: i32 = 12;
const SWAP_BITS: i32 = 18;

/// Calls a function of the endpoint's table of atomic operations.
macro_rules! atomic {
    ($party:expr, $function:ident $(, $argument:expr)*) => {
        // SAFETY: an open endpoint; tests keep the memory until the completion.
        unsafe { ((*(*$party.ep).atomic).$function)($party.ep $(, $argument)*) }
    };
}

fn none<T>() -> *mut T {
    std::ptr::null_mut()
}

fn context(number: usize) -> *mut std::ffi::c_void {
    number as *mut _
}

/// Two parties, the second of which owns words.
fn scene(memory: &mut [u64]) -> (Party, Party, *mut crate::abi::object::FidMr) {
    let (a, b) = Party::pair(Setup::default());
    // SAFETY: the same memory, as bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len() * 8) };
    let mr = b.register(bytes, REMOTE_READ | REMOTE_WRITE, KEY).unwrap();
    (a, b, mr)
}

#[test]
fn what_is_said_to_be_valid_is_and_nothing_else() {
    let a = Party::new(Setup::default());
    for datatype in -1..20 {
        for op in -1..24 {
            let known = (0..10).contains(&datatype);
            let bits = (6..=7).contains(&op) || op == XOR || op == SWAP_BITS;
            let fits = known && !(bits && datatype >= 8);
            let plain = fits && ((0..10).contains(&op) || op == WRITE_IT);
            let fetch = plain || fits && op == READ_IT;
            let compare = fits && (12..=18).contains(&op);
            let (mut count, none) = (0usize, std::ptr::null_mut());
            for (result, valid, flags) in [
                (atomic!(a, writevalid, datatype, op, &mut count), plain, 0),
                (atomic!(a, readwritevalid, datatype, op, none), fetch, FETCH_ATOMIC),
                (atomic!(a, compwritevalid, datatype, op, none), compare, COMPARE_ATOMIC),
            ] {
                let expected = if valid { 0 } else { -libc::EOPNOTSUPP };
                assert_eq!(result, expected, "type {datatype}, operation {op}, {flags:x}");
                let mut attr = AtomicAttr { count: 0, size: 0 };
                assert_eq!(call!(a.domain, query_atomic, datatype, op, &mut attr, flags), expected);
                assert_eq!(attr.size > 0, valid);
            }
            assert_eq!(count > 0, plain);
        }
    }
}

#[test]
fn each_element_is_changed_once_and_told_as_it_was() {
    let mut memory = [10u64, 20, 30, 40];
    let (a, b, mr) = scene(&mut memory);
    let (operands, mut before) = ([1u64, 2, 3], [0u64; 3]);
    let from = operands.as_ptr().cast();
    assert_eq!(atomic!(a, write, from, 3, none(), 0, 8, KEY, U64, SUM, context(1)), 0);
    assert_eq!(a.next(&b).0.flags, ATOMIC | WRITE);
    assert_eq!(memory, [10, 21, 32, 43]);
    let to = before.as_mut_ptr().cast();
    assert_eq!(atomic!(a, readwrite, from, 3, none(), to, none(), 0, 0, KEY, U64, WRITE_IT, context(2)), 0);
    let (done, _) = a.next(&b);
    assert_eq!((done.flags, done.op_context as usize), (ATOMIC | READ, 2));
    assert_eq!((before, memory), ([10, 21, 32], [1, 2, 3, 43]));
    // Of a read, no operands are looked at.
    let nowhere = std::ptr::null();
    assert_eq!(atomic!(a, readwrite, nowhere, 1, none(), to, none(), 0, 24, KEY, U64, READ_IT, none()), 0);
    a.next(&b);
    assert_eq!(before[0], 43);
    let compares = [1u64, 9, 3];
    let with = compares.as_ptr().cast();
    assert_eq!(
        atomic!(a, compwrite, from, 3, none(), with, none(), to, none(), 0, 0, KEY, U64, SWAP, none()),
        0
    );
    a.next(&b);
    assert_eq!((before, memory), ([1, 2, 3], [1, 2, 3, 43]), "equal ones were replaced by themselves");
    let injected = [2.5f64];
    assert_eq!(atomic!(a, inject, injected.as_ptr().cast(), 1, 0, 0, KEY, F64, WRITE_IT), 0);
    let narrow = [0xffffu16];
    assert_eq!(atomic!(a, inject, narrow.as_ptr().cast(), 1, 0, 26, KEY, U16, SUM), 0);
    let least = [-5i32];
    let (mut was, none_yet) = ([0i32], none());
    let to = was.as_mut_ptr().cast();
    let from = least.as_ptr().cast();
    assert_eq!(atomic!(a, readwrite, from, 1, none_yet, to, none(), 0, 20, KEY, I32, MIN, none()), 0);
    a.next(&b);
    assert_eq!(was, [0]);
    assert_eq!((memory[0], memory[3]), (2.5f64.to_bits(), 0xffff_0000 | 43));
    assert_eq!(memory[2] >> 32, u64::from(-5i32 as u32));
    assert_eq!(close(mr), 0);
}

#[test]
fn pieces_and_messages_reach_the_same() {
    let mut memory = [0u64; 4];
    let (a, b, mr) = scene(&mut memory);
    let operands = [3u64, 5];
    let piece = |index: usize| Ioc { addr: operands[index..].as_ptr().cast_mut().cast(), count: 1 };
    let pieces = [piece(1), piece(0)];
    let there = [RmaIoc { addr: 0, count: 1, key: KEY }, RmaIoc { addr: 24, count: 1, key: KEY }];
    let msg = MsgAtomic {
        iov: pieces.as_ptr(),
        desc: none(),
        iov_count: 2,
        addr: 0,
        rma_iov: there.as_ptr(),
        rma_iov_count: 2,
        datatype: U64,
        op: SUM,
        context: context(4),
        data: 99,
    };
    assert_eq!(atomic!(a, writemsg, &msg, COMPLETION | REMOTE_CQ_DATA), 0);
    let (told, _) = b.next(&a);
    assert_eq!((told.flags & REMOTE_CQ_DATA, told.data), (REMOTE_CQ_DATA, 99));
    a.next(&b);
    assert_eq!(memory, [5, 0, 0, 3]);
    let mut before = [0u64; 2];
    let results = [Ioc { addr: before.as_mut_ptr().cast(), count: 2 }];
    assert_eq!(atomic!(a, readwritemsg, &msg, results.as_ptr(), none(), 1, COMPLETION), 0);
    a.next(&b);
    assert_eq!((before, memory), ([5, 3], [10, 0, 0, 6]));
    let swap = MsgAtomic { op: SWAP, ..msg };
    let compares = [10u64, 7];
    let compares = [Ioc { addr: compares.as_ptr().cast_mut().cast(), count: 2 }];
    let (with, to) = (compares.as_ptr(), results.as_ptr());
    assert_eq!(atomic!(a, compwritemsg, &swap, with, none(), 1, to, none(), 1, COMPLETION), 0);
    a.next(&b);
    assert_eq!((before, memory), ([10, 6], [5, 0, 0, 6]));
    assert_eq!(close(mr), 0);
}

#[test]
fn what_cannot_be_is_refused_or_fails() {
    let mut memory = [0u64; 4];
    let (a, b, mr) = scene(&mut memory);
    let operands = [1u64; 32];
    let from = operands.as_ptr().cast();
    for (count, datatype, op, error) in [
        (1, F64, XOR, libc::EOPNOTSUPP),
        (1, 12, SUM, libc::EOPNOTSUPP),
        (0, U64, SUM, libc::EINVAL),
        (32, U64, SUM, libc::EMSGSIZE),
    ] {
        let result = atomic!(a, write, from, count, none(), 0, 0, KEY, datatype, op, none());
        assert_eq!(result, -(error as isize), "{count} of type {datatype}, operation {op}");
    }
    let nowhere = std::ptr::null();
    assert_eq!(atomic!(a, inject, nowhere, 1, 0, 0, KEY, U64, SUM), -(libc::EINVAL as isize));
    for (addr, key, error) in [
        (4, KEY, libc::EINVAL),
        (32, KEY, libc::EOVERFLOW),
        (u64::MAX - 7, KEY, libc::EOVERFLOW),
        (0, 6, crate::abi::errno::ENOKEY),
    ] {
        assert_eq!(atomic!(a, write, from, 1, none(), 0, addr, key, U64, SUM, context(3)), 0);
        let failed = a.next_error(&b);
        assert_eq!((failed.err, failed.op_context as usize), (error, 3), "place {addr}");
    }
    assert_eq!(memory, [0; 4]);
    assert_eq!(close(mr), 0);
}

#[test]
fn memory_that_cannot_be_written_is_read_and_no_operands_are_needed() {
    let page = 4096;
    let map = |protection| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory anywhere.
        let at = unsafe { libc::mmap(none(), page, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at
    };
    let (a, b) = Party::pair(Setup::default());
    let mut before = [7u64; 2];
    let results = [Ioc { addr: before.as_mut_ptr().cast(), count: 2 }];
    for (protection, error) in [(libc::PROT_READ, 0), (libc::PROT_NONE, libc::EFAULT)] {
        let at = map(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: just mapped; nothing is done with the bytes here.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.cast(), page) };
        let mr = b.register(bytes, REMOTE_READ, KEY).unwrap();
        // SAFETY: mapped above.
        assert_eq!(unsafe { libc::mprotect(at, page, protection) }, 0);
        let there = [RmaIoc { addr: 0, count: 2, key: KEY }];
        let msg = MsgAtomic {
            iov: std::ptr::null(),
            desc: none(),
            iov_count: 1,
            addr: 0,
            rma_iov: there.as_ptr(),
            rma_iov_count: 1,
            datatype: U64,
            op: READ_IT,
            context: context(1),
            data: 0,
        };
        let end = || match error {
            0 => assert_eq!(a.next(&b).0.op_context as usize, 1),
            _ => assert_eq!(a.next_error(&b).err, error),
        };
        assert_eq!(atomic!(a, readwritemsg, &msg, results.as_ptr(), none(), 1, COMPLETION), 0);
        end();
        let (from, to) = (std::ptr::null(), results.as_ptr());
        assert_eq!(
            atomic!(a, readwritev, from, none(), 1, to, none(), 1, 0, 0, KEY, U64, READ_IT, context(1)),
            0
        );
        end();
        assert_eq!(before, [0; 2], "as it was, or not touched");
        assert_eq!(close(mr), 0);
        // SAFETY: not used any more.
        assert_eq!(unsafe { libc::munmap(at, page) }, 0);
    }
}
