//! The short ways: what takes them is what the long ones would have made of it, in one order with theirs.

use std::cell::Cell;
use std::collections::VecDeque;

use super::party::{Party, Setup};
use crate::abi::flag::*;
use crate::abi::message::CqEntry;
use crate::abi::FiAddr;
use crate::quick::SHORT;

const TAG: u64 = 3;
const MESSAGES: u64 = 3000;

/// The same numbers in each run.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's multiplier for 64 bits; its high bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }

    /// True so often in ten.
    fn chance(&mut self, of_ten: u64) -> bool {
        self.below(10) < of_ten
    }
}

/// A message, and what its completions have to say.
struct Sent {
    bytes: Vec<u8>,
    data: Option<u64>,
    /// Its end is reported at the sender.
    reported: bool,
}

/// Sends bytes by one of the calls for small messages.
fn send(from: &Party, number: u64, random: &mut Random) -> Sent {
    let lengths = [0, 1, 8, 39, 40, 41, 48, 49, 900];
    let len = lengths[random.below(lengths.len() as u64) as usize];
    let sent = Sent {
        bytes: (0..len).map(|_| random.below(256) as u8).collect(),
        data: random.chance(5).then_some(number),
        reported: random.chance(5),
    };
    let (buf, none, context) = (sent.bytes.as_ptr().cast(), std::ptr::null_mut(), number as usize as *mut _);
    // SAFETY: an open endpoint; the bytes stay until their end is reported, or are copied.
    let result = unsafe {
        let ops = &*(*from.ep).tagged;
        match (sent.data, sent.reported) {
            (None, true) => (ops.send)(from.ep, buf, len, none, 0, TAG, context),
            (None, false) => (ops.inject)(from.ep, buf, len, 0, TAG),
            (Some(data), true) => (ops.senddata)(from.ep, buf, len, none, data, 0, TAG, context),
            (Some(data), false) => (ops.injectdata)(from.ep, buf, len, data, 0, TAG),
        }
    };
    assert_eq!(result, 0);
    sent
}

/// Posts a receive as MPIs do: a bit or two of their own do not count, or nothing.
fn receive(at: &Party, to: &mut [u8], from: FiAddr, context: usize) {
    let (tag, ignore) = match context % 3 {
        0 => (TAG, 0),
        _ => (TAG | 1 << 60, 1 << 60),
    };
    let (none, context) = (std::ptr::null_mut(), context as *mut _);
    // SAFETY: an open endpoint; the memory stays until the end is reported.
    let result = unsafe {
        ((*(*at.ep).tagged).recv)(at.ep, to.as_mut_ptr().cast(), to.len(), none, from, tag, ignore, context)
    };
    assert_eq!(result, 0);
}

fn check(entry: &CqEntry, sent: &Sent, to: &[u8]) {
    let data = if sent.data.is_some() { REMOTE_CQ_DATA } else { 0 };
    assert_eq!(entry.flags, RECV | TAGGED | data);
    assert_eq!((entry.len, entry.tag, entry.data), (sent.bytes.len(), TAG, sent.data.unwrap_or(0)));
    assert_eq!(entry.buf.cast_const().cast(), to.as_ptr());
    assert_eq!(to[..entry.len], sent.bytes);
}

/// Messages of both kinds and all lengths; receives come before them and after them.
fn exchange(setup: Setup) {
    let (a, b) = Party::pair(setup);
    let mut random = Random(5);
    let mut to = vec![0; 1000];
    for number in 0..MESSAGES {
        let early = random.chance(7);
        // Of any source: the first message tells who it is.
        let from = if number == 0 || random.chance(3) { crate::abi::ADDR_UNSPEC } else { 0 };
        if early {
            receive(&b, &mut to, from, number as usize);
        }
        let sent = send(&a, number, &mut random);
        if !early {
            b.drive();
            receive(&b, &mut to, from, number as usize);
        }
        let (entry, source) = b.next(&a);
        assert_eq!((entry.op_context as usize, source), (number as usize, 0));
        check(&entry, &sent, &to);
        if sent.reported {
            let (entry, _) = a.next(&b);
            assert_eq!((entry.op_context as usize, entry.flags), (number as usize, SEND | TAGGED));
        }
        assert!(a.poll().is_err(), "nothing else is reported");
    }
    let short = SHORT.with(|short| short.each_ref().map(Cell::get));
    assert!(
        short.into_iter().all(|times| times > MESSAGES / 10),
        "the short ways were taken {short:?} times"
    );
}

#[test]
fn small_messages_are_the_same_with_a_lock_and_without() {
    exchange(Setup::default());
    exchange(Setup { serialized: false, ..Setup::default() });
}

#[test]
fn small_messages_of_a_queue_for_what_was_asked_for_are_the_same() {
    let (a, b) = Party::pair(Setup { selective: true, ..Setup::default() });
    let mut random = Random(6);
    let (mut to, mut end) = ([0; 1000], [0; 8]);
    for number in 0..200 {
        receive(&b, &mut to, 0, 1);
        let sent = send(&a, number, &mut random);
        // The flags of the endpoint, which stand for those of the calls, do not ask for it.
        assert_eq!(b.receive_flags(&mut end, 0, (TAG + 1, 0), COMPLETION, 2), 0);
        assert_eq!(a.send_pieces(&[b"end"], TAG + 1, 0, 0, 9), 0);
        assert_eq!(b.next(&a).0.op_context as usize, 2);
        assert_eq!(to[..sent.bytes.len()], sent.bytes);
    }
}

#[test]
fn a_burst_of_small_messages_comes_whole_and_in_order() {
    let (a, b) = Party::pair(Setup::default());
    let mut random = Random(7);
    let mut room: Vec<Vec<u8>> = (0..200).map(|_| vec![0; 1000]).collect();
    for _ in 0..20 {
        for (index, to) in room.iter_mut().enumerate() {
            receive(&b, to, 0, index);
        }
        let mut sent: VecDeque<Sent> = (0..200).map(|number| send(&a, number, &mut random)).collect();
        for (index, to) in room.iter().enumerate() {
            let (entry, _) = b.next(&a);
            assert_eq!(entry.op_context as usize, index);
            check(&entry, &sent.pop_front().expect("as many as were sent"), to);
        }
        while a.poll().is_ok() {}
    }
}
