//! What verbs promise of reliable connections, whatever the device.

use std::collections::VecDeque;

use gridnet_rdma_sim::attr::{Access, State};
use gridnet_rdma_sim::wr::{Data, RecvWr, Remote, SendOp, SendWr, Sge, Sges, Wc, WcOpcode, WcStatus};

use crate::end::{Bed, End};

/// Around the path MTU of 1024 bytes, the windows, and what is long.
const SIZES: [u32; 10] = [0, 1, 7, 1023, 1024, 1025, 4096, 65_537, 262_144, 1 << 20];
const MOST: usize = 1 << 20;

fn pattern(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(at >> 8).wrapping_add(seed * 7)) as u8).collect()
}

fn wr(wr_id: u64, op: SendOp, sge: Sge) -> SendWr {
    SendWr::new(wr_id, op, Data::Sges(sge.into()))
}

/// Waits for a completion of one of the four queues.
fn wait(bed: &mut dyn Bed, what: &str, poll: impl Fn(&mut dyn End, &mut dyn End) -> Option<Wc>) -> Wc {
    loop {
        let more = bed.turn();
        let (a, b) = bed.ends();
        if let Some(wc) = poll(a, b) {
            return wc;
        }
        assert!(more, "no completion: {what}");
    }
}

fn sent(bed: &mut dyn Bed) -> Wc {
    wait(bed, "A's send queue", |a, _| a.poll_send())
}

fn received(bed: &mut dyn Bed) -> Wc {
    wait(bed, "B's receive queue", |_, b| b.poll_recv())
}

fn assert_sent(bed: &mut dyn Bed, expected: &[(u64, WcStatus)]) {
    let got: Vec<_> = expected.iter().map(|_| sent(bed)).map(|wc| (wc.wr_id, wc.status)).collect();
    assert_eq!(got, expected);
}

/// A region with a pattern at A, and one of zeros at B.
fn regions(bed: &mut dyn Bed) -> (usize, usize) {
    let (a, b) = bed.ends();
    let (at_a, at_b) = (a.allocate(MOST, Access::ALL), b.allocate(MOST, Access::ALL));
    a.fill(at_a, 0, &pattern(1, MOST as u32));
    (at_a, at_b)
}

pub fn sends_of_all_sizes(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    for (id, len) in (0..).zip(SIZES) {
        let (a, b) = bed.ends();
        a.fill(at_a, 0, &pattern(len, len));
        b.post_recv(RecvWr { wr_id: id, sges: b.sge(at_b, 0, MOST as u32).into() }).expect("posted");
        let op = if id % 2 == 0 { SendOp::Send } else { SendOp::SendWithImm(len ^ 0xdead_beef) };
        a.post_send(wr(id, op, a.sge(at_a, 0, len))).expect("posted");
        let came = received(bed);
        assert_eq!((came.wr_id, came.status, came.opcode), (id, WcStatus::Success, WcOpcode::Recv));
        assert_eq!(came.byte_len, len);
        assert_eq!(came.imm, (id % 2 == 1).then_some(len ^ 0xdead_beef));
        let done = sent(bed);
        assert_eq!((done.wr_id, done.status, done.opcode), (id, WcStatus::Success, WcOpcode::Send));
        assert!(bed.ends().1.bytes(at_b, 0, len as usize) == pattern(len, len), "{len} bytes");
    }
}

pub fn writes_of_all_sizes(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    for (id, len) in (0..).zip(SIZES) {
        let (a, b) = bed.ends();
        a.fill(at_a, 0, &pattern(len, len));
        let op = SendOp::RdmaWrite(b.remote(at_b, 0));
        a.post_send(wr(id, op, a.sge(at_a, 0, len))).expect("posted");
        let done = sent(bed);
        assert_eq!((done.wr_id, done.status, done.opcode), (id, WcStatus::Success, WcOpcode::RdmaWrite));
        assert!(bed.ends().1.bytes(at_b, 0, len as usize) == pattern(len, len), "{len} bytes");
    }
    assert_eq!(bed.ends().1.poll_recv(), None, "writes are not noticed");
}

pub fn writes_with_immediate_data(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    for (id, len) in (0..).zip(SIZES) {
        let (a, b) = bed.ends();
        a.fill(at_a, 0, &pattern(len, len));
        b.post_recv(RecvWr { wr_id: id, sges: Sges::default() }).expect("posted");
        let op = SendOp::RdmaWriteWithImm(b.remote(at_b, 0), len);
        a.post_send(wr(id, op, a.sge(at_a, 0, len))).expect("posted");
        let came = received(bed);
        assert_eq!(
            (came.wr_id, came.status, came.opcode),
            (id, WcStatus::Success, WcOpcode::RecvRdmaWithImm)
        );
        assert_eq!((came.imm, came.byte_len), (Some(len), len));
        // What was written before is there when the completion is.
        assert!(bed.ends().1.bytes(at_b, 0, len as usize) == pattern(len, len), "{len} bytes");
        assert_sent(bed, &[(id, WcStatus::Success)]);
    }
}

pub fn reads_of_all_sizes(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    for (id, len) in (0..).zip(SIZES) {
        let (a, b) = bed.ends();
        b.fill(at_b, 0, &pattern(len, len));
        let op = SendOp::RdmaRead(b.remote(at_b, 0));
        a.post_send(wr(id, op, a.sge(at_a, 0, len))).expect("posted");
        let done = sent(bed);
        assert_eq!((done.wr_id, done.status, done.opcode), (id, WcStatus::Success, WcOpcode::RdmaRead));
        assert_eq!(done.byte_len, len);
        assert!(bed.ends().0.bytes(at_a, 0, len as usize) == pattern(len, len), "{len} bytes");
    }
}

pub fn atomic_operations(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    let (_, b) = bed.ends();
    b.fill(at_b, 8, &100u64.to_ne_bytes());
    let remote = b.remote(at_b, 8);
    let swap = |compare, swap| SendOp::CompareSwap { remote, compare, swap };
    let steps = [
        (swap(100, 7), 100, 7),
        (swap(100, 9), 7, 7),
        (SendOp::FetchAdd { remote, add: 5 }, 7, 12),
        (SendOp::FetchAdd { remote, add: u64::MAX }, 12, 11),
    ];
    for (id, (op, original, after)) in (0..).zip(steps) {
        let (a, _) = bed.ends();
        a.post_send(wr(id, op, a.sge(at_a, 64, 8))).expect("posted");
        assert_sent(bed, &[(id, WcStatus::Success)]);
        let (a, b) = bed.ends();
        assert_eq!(a.bytes(at_a, 64, 8), u64::to_ne_bytes(original), "{op:?}");
        assert_eq!(b.bytes(at_b, 8, 8), u64::to_ne_bytes(after), "{op:?}");
    }
}

pub fn pieces_and_inline_data(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    let (a, b) = bed.ends();
    a.fill(at_a, 0, b"one two three");
    let pieces = vec![a.sge(at_a, 8, 5), a.sge(at_a, 3, 1), a.sge(at_a, 4, 3)];
    b.post_recv(RecvWr { wr_id: 1, sges: vec![b.sge(at_b, 100, 2), b.sge(at_b, 0, 50)].into() })
        .expect("posted");
    a.post_send(SendWr::new(1, SendOp::Send, Data::Sges(pieces.into()))).expect("posted");
    b.post_recv(RecvWr { wr_id: 2, sges: b.sge(at_b, 200, 50).into() }).expect("posted");
    a.post_send(SendWr::new(2, SendOp::Send, Data::Inline(b"inline".to_vec()))).expect("posted");
    a.post_send(SendWr::new(3, SendOp::RdmaWrite(b.remote(at_b, 300)), Data::Inline(b"too".to_vec())))
        .expect("posted");
    assert_eq!((received(bed).byte_len, received(bed).byte_len), (9, 6));
    assert_sent(bed, &[(1, WcStatus::Success), (2, WcStatus::Success), (3, WcStatus::Success)]);
    let (_, b) = bed.ends();
    assert_eq!((b.bytes(at_b, 100, 2), b.bytes(at_b, 0, 7)), (b"th".to_vec(), b"ree two".to_vec()));
    assert_eq!((b.bytes(at_b, 200, 6), b.bytes(at_b, 300, 3)), (b"inline".to_vec(), b"too".to_vec()));
}

/// Many requests of all kinds at once: done in the order in which they were posted, and so are those of the other direction.
pub fn order_in_both_directions(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    let (mut next_a, mut next_b) = (VecDeque::from_iter(0..300u64), VecDeque::from_iter(0..300u64));
    let op = |id: u64, remote: Remote| match id % 3 {
        0 => SendOp::RdmaWrite(remote),
        1 => SendOp::RdmaRead(remote),
        _ => SendOp::FetchAdd { remote, add: 1 },
    };
    let len = |id: u64| if id % 3 == 2 { 8 } else { (id * 37 % 5000) as u32 };
    let (mut done_a, mut done_b) = (Vec::new(), Vec::new());
    while done_a.len() + done_b.len() < 600 {
        let (a, b) = bed.ends();
        let remotes = (a.remote(at_a, 512 << 10), b.remote(at_b, 512 << 10));
        for (end, at, remote, next) in [(a, at_a, remotes.1, &mut next_a), (b, at_b, remotes.0, &mut next_b)]
        {
            while let Some(id) = next.front() {
                if end.post_send(wr(*id, op(*id, remote), end.sge(at, 0, len(*id)))).is_err() {
                    break;
                }
                next.pop_front();
            }
        }
        let more = bed.turn();
        let (a, b) = bed.ends();
        done_a.extend(std::iter::from_fn(|| a.poll_send()));
        done_b.extend(std::iter::from_fn(|| b.poll_send()));
        assert!(more, "{} and {} of 300 are done", done_a.len(), done_b.len());
    }
    for done in [done_a, done_b] {
        assert!(done.iter().map(|wc| (wc.wr_id, wc.status)).eq((0..300).map(|id| (id, WcStatus::Success))));
    }
}

pub fn unsignaled_requests(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    let (a, b) = bed.ends();
    for id in 0..8 {
        let mut wr = wr(id, SendOp::RdmaWrite(b.remote(at_b, 0)), a.sge(at_a, 0, 3000));
        wr.signaled = id % 4 == 3;
        a.post_send(wr).expect("posted");
    }
    assert_sent(bed, &[(3, WcStatus::Success), (7, WcStatus::Success)]);
}

/// Waits until a receive is posted.
pub fn a_receive_that_is_late(bed: &mut dyn Bed) {
    let (at_a, at_b) = regions(bed);
    let (a, _) = bed.ends();
    a.post_send(wr(1, SendOp::Send, a.sge(at_a, 0, 5000))).expect("posted");
    for _ in 0..200 {
        assert!(bed.turn());
    }
    let (a, b) = bed.ends();
    assert_eq!(a.poll_send(), None);
    b.post_recv(RecvWr { wr_id: 2, sges: b.sge(at_b, 0, 5000).into() }).expect("posted");
    assert_eq!(received(bed).byte_len, 5000);
    assert_sent(bed, &[(1, WcStatus::Success)]);
    assert!(bed.ends().1.bytes(at_b, 0, 5000) == pattern(1, 5000));
}

/// A request that fails, between one that was done and one that is flushed; with what B's receive, if any, says.
fn fails(bed: &mut dyn Bed, at: (usize, usize), bad: SendWr, status: WcStatus, receive: Option<WcStatus>) {
    let (a, b) = bed.ends();
    b.post_recv(RecvWr { wr_id: 70, sges: b.sge(at.1, 0, 10).into() }).expect("posted");
    a.post_recv(RecvWr { wr_id: 80, sges: Sges::default() }).expect("posted");
    let write = SendOp::RdmaWrite(b.remote(at.1, 0));
    a.post_send(wr(1, write, a.sge(at.0, 0, 2000))).expect("posted");
    a.post_send(SendWr { wr_id: 2, ..bad }).expect("posted");
    a.post_send(wr(3, write, a.sge(at.0, 0, 8))).expect("posted");
    assert_sent(bed, &[(1, WcStatus::Success), (2, status), (3, WcStatus::WrFlushErr)]);
    assert_eq!(bed.ends().0.state(), State::Err);
    let flushed = wait(bed, "A's receive queue", |a, _| a.poll_recv());
    assert_eq!((flushed.wr_id, flushed.status), (80, WcStatus::WrFlushErr));
    if let Some(expected) = receive {
        let came = received(bed);
        assert_eq!((came.wr_id, came.status), (70, expected));
        assert_eq!(bed.ends().1.state(), State::Err);
    }
}

/// What a failing request wants to do with memory of the peer, if the key were right.
fn ops(remote: Remote) -> [(SendOp, u32); 4] {
    [
        (SendOp::RdmaWrite(remote), 3000),
        (SendOp::RdmaRead(remote), 3000),
        (SendOp::FetchAdd { remote, add: 1 }, 8),
        (SendOp::CompareSwap { remote, compare: 0, swap: 1 }, 8),
    ]
}

/// Requests for memory that A must not have; `which` of the four kinds.
fn remote_access(bed: &mut dyn Bed, which: usize, spoil: impl Fn(&mut dyn End, usize) -> Remote) {
    let at = regions(bed);
    let (a, b) = bed.ends();
    let remote = spoil(b, at.1);
    let (op, len) = ops(remote)[which];
    let bad = wr(2, op, a.sge(at.0, 0, len));
    fails(bed, at, bad, WcStatus::RemAccessErr, Some(WcStatus::WrFlushErr));
    assert!(bed.ends().1.bytes(at.1, 2000, MOST - 2000).iter().all(|byte| *byte == 0), "memory was written");
}

fn wrong_key(end: &mut dyn End, region: usize) -> Remote {
    let mut remote = end.remote(region, 4096);
    remote.rkey.0 ^= 0x100;
    remote
}

pub fn wrong_key_to_write(bed: &mut dyn Bed) {
    remote_access(bed, 0, wrong_key);
}

pub fn wrong_key_to_read(bed: &mut dyn Bed) {
    remote_access(bed, 1, wrong_key);
}

pub fn wrong_key_to_add(bed: &mut dyn Bed) {
    remote_access(bed, 2, wrong_key);
}

pub fn wrong_key_to_swap(bed: &mut dyn Bed) {
    remote_access(bed, 3, wrong_key);
}

pub fn beyond_the_end_to_write(bed: &mut dyn Bed) {
    remote_access(bed, 0, |end, region| end.remote(region, MOST as u64 - 2999));
}

pub fn before_the_start_to_read(bed: &mut dyn Bed) {
    remote_access(bed, 1, |end, region| end.remote(region, 0u64.wrapping_sub(1)));
}

pub fn a_region_that_is_read_only(bed: &mut dyn Bed) {
    remote_access(bed, 0, |end, _| {
        let region = end.allocate(4096, Access::REMOTE_READ);
        end.remote(region, 0)
    });
}

pub fn a_region_without_atomic_operations(bed: &mut dyn Bed) {
    remote_access(bed, 2, |end, _| {
        let region = end.allocate(4096, Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ);
        end.remote(region, 0)
    });
}

pub fn a_region_that_was_deregistered(bed: &mut dyn Bed) {
    remote_access(bed, 0, |end, _| {
        let region = end.allocate(4096, Access::ALL);
        let remote = end.remote(region, 0);
        end.deregister(region);
        remote
    });
}

pub fn a_receive_that_is_too_short(bed: &mut dyn Bed) {
    let at = regions(bed);
    let bad = wr(2, SendOp::Send, bed.ends().0.sge(at.0, 0, 11));
    fails(bed, at, bad, WcStatus::RemInvReqErr, Some(WcStatus::LocLenErr));
}

pub fn a_wrong_local_key(bed: &mut dyn Bed) {
    let at = regions(bed);
    let (a, b) = bed.ends();
    let mut sge = a.sge(at.0, 0, 8);
    sge.lkey.0 ^= 0x100;
    let bad = wr(2, SendOp::RdmaWrite(b.remote(at.1, 0)), sge);
    fails(bed, at, bad, WcStatus::LocProtErr, None);
}

pub fn a_read_into_memory_that_must_not_be_written(bed: &mut dyn Bed) {
    let at = regions(bed);
    let (a, b) = bed.ends();
    let region = a.allocate(64, Access::LOCAL_READ);
    let bad = wr(2, SendOp::RdmaRead(b.remote(at.1, 0)), a.sge(region, 0, 8));
    fails(bed, at, bad, WcStatus::LocProtErr, None);
}

/// To ERR by the program: everything that is there, and what is posted later, is flushed.
pub fn flushes(bed: &mut dyn Bed) {
    let (at_a, _) = regions(bed);
    let (a, _) = bed.ends();
    for id in 0..3 {
        a.post_recv(RecvWr { wr_id: id, sges: Sges::default() }).expect("posted");
    }
    a.fail();
    a.post_send(wr(5, SendOp::Send, a.sge(at_a, 0, 8))).expect("posted");
    a.post_recv(RecvWr { wr_id: 3, sges: Sges::default() }).expect("posted");
    assert_sent(bed, &[(5, WcStatus::WrFlushErr)]);
    for id in 0..4 {
        let wc = wait(bed, "A's receive queue", |a, _| a.poll_recv());
        assert_eq!((wc.wr_id, wc.status), (id, WcStatus::WrFlushErr));
    }
}
