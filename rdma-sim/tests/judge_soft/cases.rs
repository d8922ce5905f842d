//! The cases of `ci/roce-guest/data.c` and `errors.c`, for the software device.

use gridnet_rdma_sim::attr::{Access, Change, Mtu};
use gridnet_rdma_sim::wr::{Remote, SendOp};

use crate::pair::{numbers, Op, Pair, Rules, RULES};

/// What an operation is, from the place in the peer's memory and its numbers.
type Make = fn(Remote, &Op) -> SendOp;

/// Name, rules, what is done.
pub type Case = (&'static str, Rules, fn(&mut Pair));

/// Offset of operation `i`.
const fn at(i: u32) -> u32 {
    i * 16384
}

const SEND: Make = |_, _| SendOp::Send;
const SEND_IMM: Make = |_, op| SendOp::SendWithImm(op.imm);
const WRITE: Make = |remote, _| SendOp::RdmaWrite(remote);
const WRITE_IMM: Make = |remote, op| SendOp::RdmaWriteWithImm(remote, op.imm);
const READ: Make = |remote, _| SendOp::RdmaRead(remote);
const ADD: Make = |remote, op| SendOp::FetchAdd { remote, add: op.compare_add };
const SWAP: Make = |remote, op| SendOp::CompareSwap { remote, compare: op.compare_add, swap: op.swap };

fn op(id: u64, make: Make, from: u32, len: u32) -> Op {
    let from = vec![(from, len, 0)];
    Op {
        id,
        make,
        from,
        to: 0,
        rkey: None,
        rkey_off: 0,
        imm: 0,
        compare_add: 0,
        swap: 0,
        quiet: false,
        fence: false,
        inline: false,
    }
}

const LENGTHS: [u32; 8] = [0, 1, 2, 3, 4, 256, 257, 769];

fn number_b(pair: &mut Pair) {
    pair.b.mr().write(0, &numbers(2_246_822_519, pair.rules.memory)).expect("room");
}

fn each_length(pair: &mut Pair, make: Make, receives: bool) {
    for (i, len) in (0..).zip(LENGTHS) {
        if receives {
            pair.recv(u64::from(i) + 1, at(i), len);
        }
        let imm = 0x0102_0304 * i;
        pair.send(Op { to: at(i).into(), imm, ..op(u64::from(i) + 1, make, at(i), len) });
    }
    pair.settle();
    for (i, len) in (0..).zip(LENGTHS) {
        pair.same(at(i), at(i), len);
    }
}

fn each_kind(pair: &mut Pair) {
    let len = pair.rules.mtu.bytes() + 1;
    number_b(pair);
    pair.recv(1, at(0), len);
    pair.recv(2, at(1), len);
    pair.recv(4, 0, 0);
    for (i, make) in (0..).zip([SEND, SEND_IMM, WRITE, WRITE_IMM, READ]) {
        pair.send(Op { to: at(i).into(), imm: 77, ..op(u64::from(i) + 1, make, at(i), len) });
    }
    pair.settle();
    (0..5).for_each(|i| pair.same(at(i), at(i), len));
}

fn atomic(pair: &mut Pair) {
    let put = |i: u32, value: u64| pair.b.mr().write(at(i) as usize, &value.to_ne_bytes()).expect("room");
    [(1, 5), (2, 6), (3, u64::MAX)].into_iter().for_each(|(i, value)| put(i, value));
    for (id, make, compare_add) in [(1, SWAP, 5), (2, SWAP, 5), (3, ADD, 3)] {
        let place = at(id as u32);
        pair.send(Op { to: place.into(), compare_add, swap: 50, ..op(id, make, place, 8) });
    }
    pair.settle();
    for (i, was, now) in [(1, 5, 50), (2, 6, 6), (3, u64::MAX, 2)] {
        let right =
            pair.a.bytes(at(i), 8) == was.to_ne_bytes() && pair.b.bytes(at(i), 8) == u64::to_ne_bytes(now);
        pair.noted(right);
    }
}

fn is_inline(pair: &mut Pair) {
    pair.recv(1, at(0), 64);
    let was = pair.a.bytes(0, 64);
    pair.send(Op { inline: true, ..op(1, SEND, 0, 64) });
    pair.a.mr().write(0, &[0; 64]).expect("room");
    pair.settle();
    pair.noted(pair.b.bytes(0, 64) == was);
}

fn gather(pair: &mut Pair) {
    pair.b.recv(1, &[(at(1), 500, 0), (at(2), 600, 0)]).expect("posted");
    let from = vec![(0, 300, 0), (300, 1, 0), (301, 749, 0)];
    pair.send(Op { from, ..op(1, SEND, 0, 0) });
    pair.settle();
    pair.same(0, at(1), 500);
    pair.same(500, at(2), 550);
}

fn unsignaled(pair: &mut Pair) {
    for i in 1..=3 {
        pair.recv(i.into(), at(i), 100);
        pair.send(Op { quiet: i < 3, ..op(i.into(), SEND, at(i), 100) });
    }
    pair.settle();
    (1..=3).for_each(|i| pair.same(at(i), at(i), 100));
}

fn wrap(pair: &mut Pair) {
    pair.recv(1, 0, 1000);
    pair.send(op(1, SEND, 0, 1000));
    pair.send(Op { to: at(1).into(), ..op(2, READ, at(1), 1000) });
    pair.settle();
    pair.same(0, 0, 1000);
    pair.same(at(1), at(1), 1000);
}

fn many_reads(pair: &mut Pair) {
    number_b(pair);
    for i in 1..=6 {
        pair.send(Op { to: at(i).into(), ..op(i.into(), READ, at(i), 300) });
    }
    pair.settle();
    (1..=6).for_each(|i| pair.same(at(i), at(i), 300));
}

fn fence(pair: &mut Pair) {
    number_b(pair);
    pair.send(Op { to: at(1).into(), ..op(1, READ, at(1), 700) });
    pair.send(Op { to: at(2).into(), fence: true, ..op(2, WRITE, at(1), 700) });
    pair.settle();
    pair.same(at(1), at(1), 700);
    pair.same(at(1), at(2), 700);
}

fn shared_queue(pair: &mut Pair) {
    pair.recv(1, at(1), 100);
    pair.recv(2, at(2), 100);
    pair.send(op(1, SEND, at(1), 100));
    pair.send(Op { imm: 9, ..op(2, SEND_IMM, at(2), 90) });
    pair.settle();
    pair.same(at(1), at(1), 100);
    pair.same(at(2), at(2), 90);
}

fn both_ways(pair: &mut Pair) {
    pair.recv(1, at(1), 100);
    pair.a.recv(11, &[(at(2), 100, 0)]).expect("posted");
    pair.send(op(1, SEND, at(1), 100));
    pair.settle();
    pair.post(&pair.b, &pair.a, op(12, SEND, at(1), 100)).expect("posted");
    pair.settle();
    pair.same(at(1), at(1), 100);
    pair.same(at(2), at(1), 100);
}

fn empty_write(pair: &mut Pair) {
    pair.send(Op { rkey: Some(1), to: -1, from: Vec::new(), ..op(1, WRITE, 0, 0) });
    pair.settle();
    pair.untouched_b();
}

fn megabyte(pair: &mut Pair) {
    const MIB: u32 = 1 << 20;
    number_b(pair);
    pair.recv(1, 0, MIB);
    pair.send(op(1, SEND, 0, MIB));
    pair.settle();
    pair.same(0, 0, MIB);
    pair.send(Op { to: MIB.into(), ..op(2, WRITE, 0, MIB) });
    pair.settle();
    pair.same(0, MIB, MIB);
    number_b(pair);
    pair.send(Op { to: MIB.into(), ..op(3, READ, 0, MIB) });
    pair.settle();
    pair.same(0, MIB, MIB);
}

fn late_receive(pair: &mut Pair) {
    pair.send(op(1, SEND, 0, 100));
    pair.run(10_000);
    pair.recv(1, 0, 100);
    pair.settle();
    pair.same(0, 0, 100);
}

/// One operation that fails, and touches no memory of b.
fn fails(pair: &mut Pair, op: Op) {
    pair.send(op);
    pair.settle();
    pair.untouched_b();
}

fn write_op() -> Op {
    op(1, WRITE, 0, 100)
}

fn read_op() -> Op {
    op(1, READ, 0, 100)
}

fn add_op() -> Op {
    Op { compare_add: 1, ..op(1, ADD, 0, 8) }
}

fn plain_read(pair: &mut Pair) {
    fails(pair, read_op());
    pair.untouched_a();
}

fn plain_atomic(pair: &mut Pair) {
    fails(pair, add_op());
    pair.untouched_a();
}

fn key_write_imm(pair: &mut Pair) {
    pair.recv(1, 0, 0);
    fails(pair, Op { rkey_off: 0x100, ..op(1, WRITE_IMM, 0, 100) });
}

/// One byte beyond the end of b's memory.
fn beyond(pair: &mut Pair, op: Op) {
    let to = pair.rules.memory as i64 - 99;
    fails(pair, Op { to, ..op });
}

fn local_bounds(pair: &mut Pair) {
    let from = pair.rules.memory as u32 - 99;
    fails(pair, op(1, WRITE, from, 100));
}

fn bounds_wrap(pair: &mut Pair) {
    let to = -(pair.b.mr().address() as i64) - 50;
    fails(pair, Op { to, ..write_op() });
}

fn other_domain(pair: &mut Pair) {
    let other = pair
        .b
        .device
        .alloc_pd()
        .allocate(pair.rules.memory, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
        .expect("memory");
    let to = other.address().wrapping_sub(pair.b.mr().address()) as i64;
    fails(pair, Op { rkey: Some(other.rkey().0), to, ..write_op() });
}

fn deregistered(pair: &mut Pair) {
    let key = pair.b.mr().rkey().0;
    pair.b.mr = None;
    fails(pair, Op { rkey: Some(key), ..write_op() });
}

fn misaligned(pair: &mut Pair) {
    pair.refused = pair.post(&pair.a, &pair.b, Op { to: 4, ..add_op() }).err();
    pair.settle();
    pair.untouched_b();
}

fn local_key(pair: &mut Pair) {
    fails(pair, Op { from: vec![(0, 100, 0x100)], ..write_op() });
}

fn local_key_of_read(pair: &mut Pair) {
    pair.send(Op { from: vec![(0, 100, 0x100)], ..read_op() });
    pair.settle();
    pair.untouched_a();
}

fn local_key_of_receive(pair: &mut Pair) {
    pair.b.recv(1, &[(0, 100, 0x100)]).expect("posted");
    fails(pair, op(1, SEND, 0, 100));
}

fn send_to(pair: &mut Pair, receive: u32, len: u32) {
    pair.recv(1, 0, receive);
    pair.send(op(1, SEND, 0, len));
    pair.settle();
}

fn no_receive(pair: &mut Pair) {
    fails(pair, op(1, SEND, 0, 100));
}

fn no_receive_for_imm(pair: &mut Pair) {
    pair.send(op(1, WRITE_IMM, 0, 100));
    pair.settle();
}

fn flushed(pair: &mut Pair) {
    pair.recv(1, 0, 100);
    pair.recv(2, 0, 100);
    pair.send(Op { rkey_off: 0x100, ..write_op() });
    pair.send(op(2, SEND, 0, 100));
    pair.send(Op { quiet: true, ..op(3, SEND, 0, 100) });
    pair.settle();
    pair.untouched_b();
}

fn posted_in_error(pair: &mut Pair) {
    pair.a.qp.change(Change::Err).expect("ERR");
    pair.b.qp.change(Change::Err).expect("ERR");
    pair.recv(1, 0, 100);
    fails(pair, write_op());
}

fn moved_to_error(pair: &mut Pair) {
    pair.recv(1, 0, 100);
    pair.recv(2, 0, 100);
    pair.b.qp.change(Change::Err).expect("ERR");
    pair.settle();
    pair.untouched_b();
}

const fn mtu(mtu: Mtu) -> Rules {
    Rules { mtu, ..RULES }
}

const M256: Rules = mtu(Mtu::B256);
/// 16.8 ms, tried twice.
const QUICK: Rules = Rules { timeout: 12, retries: 1, ..RULES };

/// Operations that succeed.
pub fn data() -> Vec<Case> {
    vec![
        ("data.send", M256, |pair| each_length(pair, SEND, true)),
        ("data.send_imm", M256, |pair| each_length(pair, SEND_IMM, true)),
        ("data.write", M256, |pair| each_length(pair, WRITE, false)),
        ("data.write_imm", M256, |pair| each_length(pair, WRITE_IMM, true)),
        ("data.read", M256, |pair| {
            number_b(pair);
            each_length(pair, READ, false);
        }),
        ("data.mtu_512", mtu(Mtu::B512), each_kind),
        ("data.mtu_1024", RULES, each_kind),
        ("data.mtu_2048", mtu(Mtu::B2048), each_kind),
        ("data.mtu_4096", mtu(Mtu::B4096), each_kind),
        ("data.atomic", RULES, atomic),
        ("data.inline", RULES, is_inline),
        ("data.gather", RULES, gather),
        ("data.unsignaled", RULES, unsignaled),
        ("data.psn_wrap", Rules { psn: 0xff_fffe, ..M256 }, wrap),
        ("data.many_reads", Rules { depth: 2, ..RULES }, many_reads),
        ("data.fence", RULES, fence),
        ("data.srq", Rules { srq: true, ..RULES }, shared_queue),
        ("data.both_ways", RULES, both_ways),
        ("data.empty_write", RULES, empty_write),
        ("data.megabyte", Rules { memory: 2 << 20, ..mtu(Mtu::B4096) }, megabyte),
        ("data.late_receive", RULES, late_receive),
    ]
}

/// Keys, bounds and rights that do not open memory of the peer.
pub fn refused() -> Vec<Case> {
    let write_only = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
    vec![
        ("key.write", RULES, |pair| fails(pair, Op { rkey_off: 0x100, ..write_op() })),
        ("key.read", RULES, |pair| fails(pair, Op { rkey_off: 0x100, ..read_op() })),
        ("key.atomic", RULES, |pair| fails(pair, Op { rkey_off: 0x100, ..add_op() })),
        ("key.long_write", RULES, |pair| fails(pair, Op { rkey_off: 0x100, ..op(1, WRITE, 0, 3000) })),
        ("key.write_imm", RULES, key_write_imm),
        ("key.other_turn", RULES, |pair| fails(pair, Op { rkey_off: 1, ..write_op() })),
        ("bounds.end", RULES, |pair| beyond(pair, write_op())),
        ("bounds.start", RULES, |pair| fails(pair, Op { to: -1, ..write_op() })),
        ("bounds.read", RULES, |pair| beyond(pair, read_op())),
        ("bounds.wrap", RULES, bounds_wrap),
        ("region.other_domain", RULES, other_domain),
        ("region.deregistered", RULES, deregistered),
        ("region.no_write", Rules { region: Access::REMOTE_READ, ..RULES }, |pair| fails(pair, write_op())),
        ("region.no_read", Rules { region: write_only, ..RULES }, plain_read),
        ("region.no_atomic", Rules { region: write_only, ..RULES }, plain_atomic),
        ("qp.no_write", Rules { allowed: Access::REMOTE_READ, ..RULES }, |pair| fails(pair, write_op())),
        ("qp.no_read", Rules { allowed: Access::REMOTE_WRITE, ..RULES }, plain_read),
        ("qp.no_atomic", Rules { allowed: Access::REMOTE_WRITE, ..RULES }, plain_atomic),
        ("qp.no_read_depth", Rules { b_depth: 0, ..RULES }, plain_read),
    ]
}

/// Other failures.
pub fn failed() -> Vec<Case> {
    let rnr = |rnr_retries| Rules { rnr_retries, rnr_timer: 14, ..RULES };
    vec![
        ("atomic.misaligned", RULES, misaligned),
        ("local.key", RULES, local_key),
        ("local.key_of_read", RULES, local_key_of_read),
        ("local.key_of_receive", RULES, local_key_of_receive),
        ("local.bounds", RULES, local_bounds),
        ("length.short_receive", RULES, |pair| send_to(pair, 99, 100)),
        ("length.short_receive_of_two", RULES, |pair| send_to(pair, 1500, 2000)),
        ("length.longer_packets", Rules { b_mtu: Some(Mtu::B512), ..RULES }, |pair| {
            send_to(pair, 2000, 1000)
        }),
        ("rnr.exhausted", rnr(2), no_receive),
        ("rnr.at_once", rnr(0), no_receive),
        ("rnr.write_imm", rnr(0), no_receive_for_imm),
        ("retry.silent_peer", Rules { b_stays: true, ..QUICK }, |pair| fails(pair, write_op())),
        ("retry.no_such_qp", Rules { qpn_off: 1000, ..QUICK }, |pair| fails(pair, write_op())),
        ("psn.ahead", Rules { psn: 105, b_expects: Some(100), ..QUICK }, |pair| fails(pair, write_op())),
        ("psn.behind", Rules { psn: 95, b_expects: Some(100), ..QUICK }, |pair| fails(pair, write_op())),
        ("flush.behind_failure", RULES, flushed),
        ("flush.quiet_failure", RULES, |pair| fails(pair, Op { rkey_off: 0x100, quiet: true, ..write_op() })),
        ("flush.posted_in_error", RULES, posted_in_error),
        ("flush.moved_to_error", RULES, moved_to_error),
    ]
}

/// What is posted to see whether it can be.
pub fn write_of_8() -> Op {
    op(1, WRITE, 0, 8)
}
