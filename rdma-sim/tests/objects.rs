//! Rules of the objects: states, queues, keys, failures; over a network without faults, at virtual time.

mod common;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use common::{address, connect, Options, Side, Two};
use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr, State};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wire::{Packet, Psn, RnrTimer};
use gridnet_rdma_sim::wr::{Data, RecvWr, Rkey, SendOp, SendWr, Sges, Wc, WcStatus};
use gridnet_rdma_sim::{
    CompletionChannel, Cq, Device, Error, Event, Overrun, Pd, Port, QpEvent, QpShape, Received, Srq,
};

fn statuses(wcs: &[Wc]) -> Vec<(u64, WcStatus)> {
    wcs.iter().map(|wc| (wc.wr_id, wc.status)).collect()
}

fn two() -> Two {
    Two::new(&Options::default())
}

const RTR: RtrAttr = RtrAttr {
    path_mtu: Mtu::B1024,
    remote: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)), 4791),
    dest_qp: gridnet_rdma_sim::wire::QpNum::new(9),
    rq_psn: Psn::new(0),
    max_dest_rd_atomic: 1,
    min_rnr_timer: RnrTimer::new(1),
};

const RTS: RtsAttr = RtsAttr {
    sq_psn: Psn::new(0),
    timeout: AckTimeout::new(8),
    retry_cnt: 7,
    rnr_retry: 7,
    max_rd_atomic: 1,
};

const INIT: InitAttr = InitAttr { access: Access::ALL };

/// Each change from each state: legal or refused, and then the state is as before.
#[test]
fn changes_of_state() {
    let changes = [
        (Change::Init(INIT), State::Init),
        (Change::Rtr(RTR), State::Rtr),
        (Change::Rts(RTS), State::Rts),
        (Change::Sqd, State::Sqd),
        (Change::Resume, State::Rts),
        (Change::Err, State::Err),
        (Change::Reset, State::Reset),
    ];
    let legal = [
        (State::Reset, State::Init),
        (State::Init, State::Init),
        (State::Init, State::Rtr),
        (State::Rtr, State::Rts),
        (State::Rts, State::Sqd),
        (State::Rts, State::Rts),
        (State::Sqd, State::Rts),
        (State::Sqd, State::Sqd),
    ];
    let net = Net::new(1, Faults::NONE);
    let side = Side::new(&net, address(1), &Options::default());
    for steps in 0..=4 {
        for (change, to) in changes {
            side.qp.change(Change::Reset).expect("always");
            changes[..steps].iter().for_each(|(change, _)| side.qp.change(*change).expect("the usual way"));
            let from = side.qp.state();
            let is_resume = matches!(change, Change::Resume);
            let expected = to == State::Reset
                || (to == State::Err && from != State::Reset)
                || (legal.contains(&(from, to)) && (to != State::Rts || is_resume == (from != State::Rtr)));
            let outcome = side.qp.change(change);
            assert_eq!(outcome.is_ok(), expected, "{from:?} to {to:?}: {outcome:?}");
            assert_eq!(side.qp.state(), if expected { to } else { from });
        }
    }
}

#[test]
fn attributes_out_of_range() {
    let net = Net::new(1, Faults::NONE);
    let side = Side::new(&net, address(1), &Options::default());
    side.qp.change(Change::Init(INIT)).expect("INIT");
    let family = "[::1]:4791".parse().expect("an address");
    for rtr in [RtrAttr { max_dest_rd_atomic: 17, ..RTR }, RtrAttr { remote: family, ..RTR }] {
        assert_eq!(side.qp.change(Change::Rtr(rtr)), Err(Error::Invalid));
    }
    side.qp.change(Change::Rtr(RTR)).expect("RTR");
    for rts in [
        RtsAttr { retry_cnt: 8, ..RTS },
        RtsAttr { rnr_retry: 8, ..RTS },
        RtsAttr { max_rd_atomic: 17, ..RTS },
    ] {
        assert_eq!(side.qp.change(Change::Rts(rts)), Err(Error::Invalid));
    }
    side.qp.change(Change::Rts(RTS)).expect("RTS");
}

#[test]
fn what_can_be_posted_when() {
    let net = Net::new(1, Faults::NONE);
    let side = Side::new(&net, address(1), &Options::default());
    let send = || side.qp.post_send(SendWr::new(1, SendOp::Send, Data::Inline(vec![1])));
    let recv = || side.qp.post_recv(RecvWr { wr_id: 2, sges: Sges::default() });
    assert_eq!((send(), recv()), (Err(Error::State), Err(Error::State)));
    side.qp.change(Change::Init(INIT)).expect("INIT");
    assert_eq!((send(), recv()), (Err(Error::State), Ok(())));
    side.qp.change(Change::Rtr(RTR)).expect("RTR");
    assert_eq!((send(), recv()), (Err(Error::State), Ok(())));
    side.qp.change(Change::Rts(RTS)).expect("RTS");
    assert_eq!((send(), recv()), (Ok(()), Ok(())));
    side.qp.change(Change::Err).expect("ERR");
    let flushed = WcStatus::WrFlushErr;
    let (sent, received) = side.drain();
    assert_eq!(statuses(&sent), [(1, flushed)]);
    assert_eq!(statuses(&received), [(2, flushed); 3]);
    // In ERR everything that is posted is flushed at once.
    assert_eq!((send(), recv()), (Ok(()), Ok(())));
    let (sent, received) = side.drain();
    assert_eq!((statuses(&sent), statuses(&received)), (vec![(1, flushed)], vec![(2, flushed)]));
    // RESET forgets in silence.
    side.qp.change(Change::Reset).expect("RESET");
    assert_eq!(side.drain(), (vec![], vec![]));
}

/// Queues of another device, or of another protection domain; receives that no message fills.
#[test]
fn queues_that_do_not_belong_together() {
    let two = two();
    let (a, b, shape) = (&two.a, &two.b, QpShape::default());
    let make = |send_cq: &Cq, recv_cq: &Cq, srq: Option<&Srq>| {
        a.pd.create_qp(send_cq, recv_cq, srq, shape).map(drop)
    };
    assert_eq!(make(&a.send_cq, &a.recv_cq, None), Ok(()));
    assert_eq!(make(&b.send_cq, &a.recv_cq, None), Err(Error::Invalid));
    assert_eq!(make(&a.send_cq, &b.recv_cq, None), Err(Error::Invalid));
    let srq = |pd: &Pd| pd.create_srq(4).expect("a queue");
    assert_eq!(make(&a.send_cq, &a.recv_cq, Some(&srq(&a.pd))), Ok(()));
    assert_eq!(make(&a.send_cq, &a.recv_cq, Some(&srq(&b.pd))), Err(Error::Invalid));
    assert_eq!(make(&a.send_cq, &a.recv_cq, Some(&srq(&a.device.alloc_pd()))), Err(Error::Invalid));
    let long = RecvWr { wr_id: 1, sges: vec![a.mr.sge(0, 1 << 30); 3].into() };
    assert_eq!(a.qp.post_recv(long.clone()), Err(Error::Invalid), "above 2 GiB");
    assert_eq!(srq(&a.pd).post_recv(long), Err(Error::Invalid));
}

#[test]
fn requests_that_cannot_be() {
    let options = Options {
        rd_atomic: 0,
        shape: QpShape { max_send_wr: 2, ..QpShape::default() },
        ..Options::default()
    };
    let two = Two::new(&options);
    let (qp, mr) = (&two.a.qp, &two.a.mr);
    let post = |op, data| qp.post_send(SendWr::new(1, op, data));
    let remote = two.b.mr.remote(0);
    let read = SendOp::RdmaRead(remote);
    assert_eq!(post(read, Data::Inline(vec![0; 8])), Err(Error::Invalid), "nowhere to put it");
    assert_eq!(post(read, Data::Sges(mr.sge(0, 8).into())), Err(Error::Invalid), "none were agreed");
    assert_eq!(post(SendOp::Send, Data::Inline(vec![0; 257])), Err(Error::Invalid));
    assert_eq!(post(SendOp::Send, Data::Sges(vec![mr.sge(0, 1); 5].into())), Err(Error::Invalid));
    assert_eq!(
        post(SendOp::Send, Data::Sges(vec![mr.sge(0, 1 << 30); 3].into())),
        Err(Error::Invalid),
        "above 2 GiB"
    );
    let add = SendOp::FetchAdd { remote, add: 1 };
    assert_eq!(post(add, Data::Sges(mr.sge(0, 4).into())), Err(Error::Invalid));
    let add = SendOp::FetchAdd { remote: two.b.mr.remote(4), add: 1 };
    assert_eq!(post(add, Data::Sges(mr.sge(0, 8).into())), Err(Error::Invalid), "not aligned");
    for _ in 0..2 {
        post(SendOp::RdmaWrite(remote), Data::Sges(mr.sge(0, 8).into())).expect("room");
    }
    assert_eq!(post(SendOp::RdmaWrite(remote), Data::Inline(vec![])), Err(Error::Full));
    two.settle();
    assert_eq!(two.a.drain().0.len(), 2);
}

#[test]
fn regions_that_cannot_be() {
    let two = two();
    let register = |len, access| two.a.pd.allocate(len, access).map(drop);
    assert_eq!(register(0, Access::ALL), Err(Error::Invalid));
    assert_eq!(
        register(64, Access::REMOTE_WRITE),
        Err(Error::Invalid),
        "peers cannot write what this side cannot"
    );
    assert_eq!(register(64, Access::REMOTE_ATOMIC | Access::REMOTE_READ), Err(Error::Invalid));
    assert_eq!(register(64, Access::REMOTE_READ), Ok(()));
}

/// Memory of the program itself, in place, with pieces.
#[test]
fn memory_of_the_program() {
    let two = two();
    let mut bytes = vec![0u8; 100];
    // SAFETY: the vector outlives the region, and is looked at when nothing is under way.
    let mr = unsafe { two.b.pd.register(bytes.as_mut_ptr(), bytes.len(), Access::ALL) }.expect("a region");
    assert_eq!(mr.read(0, 1), Err(Error::Invalid), "it is read where it is");
    two.a.mr.write(0, b"scattered and gathered").expect("room");
    let pieces = Data::Sges(vec![two.a.mr.sge(14, 8), two.a.mr.sge(9, 5), two.a.mr.sge(0, 9)].into());
    two.a.qp.post_send(SendWr::new(1, SendOp::RdmaWrite(mr.remote(3)), pieces)).expect("posted");
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success)]);
    drop(mr);
    assert_eq!(&bytes[..26], b"\0\0\0gathered and scattered\0");
}

/// Deregistered while work is under way: the work fails, the memory stays as it is.
#[test]
fn deregistered_at_the_peer() {
    for read in [false, true] {
        let two = two();
        let mr = two.b.pd.allocate(256 << 10, Access::ALL).expect("memory");
        let op = if read { SendOp::RdmaRead(mr.remote(0)) } else { SendOp::RdmaWrite(mr.remote(0)) };
        two.a.post(1, op, 0, 256 << 10);
        for _ in 0..6 {
            two.step();
        }
        assert_eq!(two.a.drain().0, [], "it is under way");
        drop(mr);
        two.settle();
        assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::RemAccessErr)], "read {read}");
        assert_eq!(two.b.device.event(), Some(Event::Qp(two.b.qp.num(), QpEvent::AccessErr)));
        assert_eq!((two.a.qp.state(), two.b.qp.state()), (State::Err, State::Err));
    }
}

#[test]
fn deregistered_here() {
    let two = two();
    let mr = two.a.pd.allocate(256 << 10, Access::ALL).expect("memory");
    let write = |wr_id, data| SendWr::new(wr_id, SendOp::RdmaWrite(two.b.mr.remote(0)), data);
    two.a.qp.post_send(write(1, Data::Inline(vec![1]))).expect("posted");
    two.a.qp.post_send(write(2, Data::Sges(mr.sge(0, 256 << 10).into()))).expect("posted");
    two.a.qp.post_send(write(3, Data::Inline(vec![1]))).expect("posted");
    for _ in 0..6 {
        two.step();
    }
    drop(mr);
    two.settle();
    let expected = [(1, WcStatus::Success), (2, WcStatus::LocProtErr), (3, WcStatus::WrFlushErr)];
    assert_eq!(statuses(&two.a.drain().0), expected);
}

/// A wrong local key: what was posted before is done first.
#[test]
fn wrong_local_keys() {
    let two = two();
    let mut wrong = two.a.mr.sge(0, 8);
    wrong.lkey.0 ^= 1;
    let outside = two.a.mr.sge((1 << 20) - 4, 8);
    for sge in [wrong, outside] {
        let two = self::two();
        two.a.post(1, SendOp::RdmaRead(two.b.mr.remote(0)), 0, 5000);
        let wr = SendWr::new(2, SendOp::RdmaWrite(two.b.mr.remote(0)), Data::Sges(sge.into()));
        two.a.qp.post_send(wr).expect("posted");
        two.settle();
        assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success), (2, WcStatus::LocProtErr)]);
    }
}

/// Requests of two devices: what the requester is told, with what was before and after.
#[test]
fn remote_failures() {
    let two = two();
    let mut remote = two.b.mr.remote(0);
    remote.rkey = Rkey(remote.rkey.0 ^ 1);
    two.a.post(1, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 3000);
    two.a.post(2, SendOp::RdmaWrite(remote), 0, 3000);
    two.a.post(3, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 3000);
    two.settle();
    let expected = [(1, WcStatus::Success), (2, WcStatus::RemAccessErr), (3, WcStatus::WrFlushErr)];
    assert_eq!(statuses(&two.a.drain().0), expected);
    // The receive is what is too short: the sender hears that its request was invalid.
    let two = self::two();
    two.b.post_recv(1, 0, 2999);
    two.a.post(1, SendOp::Send, 0, 3000);
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::RemInvReqErr)]);
    assert_eq!(statuses(&two.b.drain().1), [(1, WcStatus::LocLenErr)]);
}

/// Unsignaled requests have completions only when they fail.
#[test]
fn unsignaled() {
    let two = two();
    let mut wr = SendWr::new(1, SendOp::RdmaWrite(two.b.mr.remote(0)), Data::Inline(vec![1; 8]));
    wr.signaled = false;
    two.a.qp.post_send(wr.clone()).expect("posted");
    two.settle();
    assert_eq!(two.a.drain().0, []);
    wr.op = SendOp::RdmaWrite(two.b.mr.remote(1 << 20));
    two.a.qp.post_send(wr.clone()).expect("posted");
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::RemAccessErr)]);
    let shape = QpShape { signal_all: true, ..QpShape::default() };
    let two = Two::new(&Options { shape, ..Options::default() });
    wr.op = SendOp::RdmaWrite(two.b.mr.remote(0));
    two.a.qp.post_send(wr).expect("posted");
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success)]);
}

/// A write behind a read, of what is read from: with a fence it waits for the data, without one it leaves at once.
#[test]
fn fences() {
    for fence in [false, true] {
        let two = two();
        two.a.post(1, SendOp::RdmaRead(two.b.mr.remote(0)), 0, 8);
        let mut wr = SendWr::new(2, SendOp::RdmaWrite(two.b.mr.remote(0)), Data::Inline(vec![9; 8]));
        wr.fence = fence;
        two.a.qp.post_send(wr).expect("posted");
        assert_eq!(two.a.device.progress(two.net.now()), if fence { 1 } else { 2 }, "fence {fence}");
        two.settle();
        assert_eq!(two.a.drain().0.len(), 2);
        assert_eq!(two.b.mr.read(0, 8), Ok(vec![9; 8]));
    }
}

/// No more reads are under way than were agreed, and all are done.
#[test]
fn reads_wait_for_their_turn() {
    let two = Two::new(&Options { rd_atomic: 2, dest_rd_atomic: 2, ..Options::default() });
    for wr_id in 0..10 {
        two.a.post(wr_id, SendOp::RdmaRead(two.b.mr.remote(0)), 0, 100);
    }
    assert_eq!(two.a.device.progress(two.net.now()), 2);
    two.settle();
    assert_eq!(two.a.drain().0.iter().filter(|wc| wc.status == WcStatus::Success).count(), 10);
}

#[test]
fn a_peer_that_is_silent() {
    let two = Two::new(&Options { retry_cnt: 3, ..Options::default() });
    two.net.set_filter(|_, _| false);
    two.a.post(1, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 8);
    two.a.post(2, SendOp::Send, 0, 8);
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::RetryExcErr), (2, WcStatus::WrFlushErr)]);
    assert_eq!(two.a.device.counters().sent, 8, "two packets, and both again three times");
    assert_eq!(two.net.now(), AckTimeout::new(8).time().expect("ends") * 4);
}

#[test]
fn a_peer_without_receives() {
    let two = Two::new(&Options { rnr_retry: 2, ..Options::default() });
    two.a.post(1, SendOp::Send, 0, 8);
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::RnrRetryExcErr)]);
    assert!(two.net.now() >= RnrTimer::new(12).time() * 2, "it waits as long as it is asked to");
    // For ever, until there is one.
    let two = self::two();
    two.a.post(1, SendOp::Send, 0, 8);
    while two.net.now() < Duration::from_millis(50) {
        two.step();
    }
    assert_eq!(two.a.drain().0, []);
    two.b.post_recv(7, 0, 8);
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success)]);
}

#[test]
fn a_queue_that_is_full_of_completions() {
    let two = Two::new(&Options { cq: 2, ..Options::default() });
    for wr_id in 1..=3 {
        two.a.post(wr_id, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 8);
    }
    two.settle();
    assert_eq!(two.a.device.event(), Some(Event::CqErr(two.a.send_cq.id())));
    assert_eq!(two.a.qp.state(), State::Err);
    let poll = || two.a.send_cq.poll().map(|wc| wc.map(|wc| wc.wr_id));
    assert_eq!([poll(), poll(), poll(), poll()], [Ok(Some(1)), Ok(Some(2)), Err(Overrun), Err(Overrun)]);
    // From here on it could tell nothing.
    let (a, other) = (&two.a, two.a.device.create_cq(2, None).expect("a queue"));
    let make = |send_cq: &Cq, recv_cq: &Cq| a.pd.create_qp(send_cq, recv_cq, None, QpShape::default());
    assert_eq!(make(&a.send_cq, &other).map(drop), Err(Error::Invalid));
    assert_eq!(make(&other, &a.send_cq).map(drop), Err(Error::Invalid));
    a.qp.change(Change::Reset).expect("RESET");
    a.qp.change(Change::Init(INIT)).expect("INIT");
    assert_eq!(a.qp.change(Change::Rtr(RTR)), Err(Error::State));
}

fn is_readable(channel: &CompletionChannel) -> bool {
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

#[test]
fn channels() {
    let net = Net::new(1, Faults::NONE);
    let options = Options::default();
    let a = Side::new(&net, address(1), &options);
    let b = Side::new(&net, address(2), &options);
    let channel = CompletionChannel::open().expect("a descriptor");
    let cq = b.device.create_cq(16, Some(&channel)).expect("a queue");
    let qp = b.pd.create_qp(&cq, &cq, None, options.shape).expect("a queue pair");
    connect(&a.qp, address(2), &qp, &options);
    connect(&qp, address(1), &a.qp, &options);
    let two = Two { net, a, b };
    let send = |solicited| {
        qp.post_recv(RecvWr { wr_id: 1, sges: Sges::default() }).expect("posted");
        let mut wr = SendWr::new(1, SendOp::Send, Data::Inline(Vec::new()));
        wr.solicited = solicited;
        two.a.qp.post_send(wr).expect("posted");
        two.settle();
        assert_eq!(cq.poll().map(|wc| wc.is_some()), Ok(true));
    };
    send(true);
    assert!(!is_readable(&channel), "nobody has asked");
    cq.request_notify(true);
    send(false);
    assert!(!is_readable(&channel), "only solicited ones");
    send(true);
    assert!(is_readable(&channel));
    send(true);
    assert_eq!((channel.event(), channel.event()), (Some(cq.id()), None), "once");
    assert!(!is_readable(&channel));
    cq.request_notify(false);
    cq.request_notify(true);
    send(false);
    assert_eq!(channel.event(), Some(cq.id()), "who asks for less keeps what was asked for");
    // Failures wake those, too, who wait for solicited events.
    cq.request_notify(true);
    qp.post_recv(RecvWr { wr_id: 1, sges: Sges::default() }).expect("posted");
    qp.change(Change::Err).expect("ERR");
    assert_eq!(channel.event(), Some(cq.id()));
}

#[test]
fn shared_receives() {
    let net = Net::new(1, Faults::NONE);
    let options = Options::default();
    let a = Side::new(&net, address(1), &options);
    let b = Side::new(&net, address(2), &options);
    let srq = b.pd.create_srq(3).expect("a queue");
    let qp_a = a.pd.create_qp(&a.send_cq, &a.recv_cq, None, options.shape).expect("a queue pair");
    let shared: Vec<_> = (0..2)
        .map(|_| b.pd.create_qp(&b.send_cq, &b.recv_cq, Some(&srq), options.shape).expect("a queue pair"))
        .collect();
    for (qp, peer) in [(&a.qp, &shared[0]), (&qp_a, &shared[1])] {
        connect(qp, address(2), peer, &options);
        connect(peer, address(1), qp, &options);
    }
    let two = Two { net, a, b };
    let receive = |wr_id| RecvWr { wr_id, sges: two.b.mr.sge(8 * wr_id, 8).into() };
    assert_eq!(shared[0].post_recv(receive(0)), Err(Error::Invalid), "it has none of its own");
    (0..3).for_each(|wr_id| srq.post_recv(receive(wr_id)).expect("room"));
    assert_eq!(srq.post_recv(receive(3)), Err(Error::Full));
    srq.arm(2);
    let send = |qp: &gridnet_rdma_sim::Qp, byte| {
        qp.post_send(SendWr::new(1, SendOp::Send, Data::Inline(vec![byte; 8]))).expect("posted");
        two.settle();
    };
    send(&two.a.qp, 1);
    assert_eq!(two.b.device.event(), None);
    send(&qp_a, 2);
    assert_eq!(two.b.device.event(), Some(Event::SrqLimitReached(srq.id())));
    send(&two.a.qp, 3);
    assert_eq!(two.b.device.event(), None, "said once");
    let came: Vec<_> = two.b.drain().1.iter().map(|wc| (wc.wr_id, wc.qp)).collect();
    assert_eq!(came, [(0, shared[0].num()), (1, shared[1].num()), (2, shared[0].num())]);
    assert_eq!(two.b.mr.read(0, 24), Ok([[1; 8], [2; 8], [3; 8]].concat()));
    // What is in the shared queue stays there for the others.
    srq.post_recv(receive(0)).expect("room");
    shared[0].change(Change::Err).expect("ERR");
    assert_eq!(two.b.device.event(), Some(Event::Qp(shared[0].num(), QpEvent::LastWqeReached)));
    assert_eq!(two.b.drain().1, []);
    send(&qp_a, 4);
    assert_eq!(two.b.drain().1.len(), 1);
}

/// In SQD what was begun is finished, and nothing else begins.
#[test]
fn draining() {
    let two = two();
    two.a.post(1, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 200_000);
    two.a.post(2, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 8);
    two.step();
    two.a.qp.change(Change::Sqd).expect("SQD");
    assert_eq!(two.a.device.event(), None, "not drained yet");
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success)]);
    assert_eq!(two.a.device.event(), Some(Event::Qp(two.a.qp.num(), QpEvent::SqDrained)));
    two.a.qp.change(Change::Resume).expect("RTS");
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(2, WcStatus::Success)]);
}

/// An empty receive queue and long messages: the receiver is found again in the middle of a write with immediate data.
#[test]
fn a_receive_that_is_missing_at_the_end_of_a_write() {
    let two = two();
    two.a.mr.write(0, &[3; 5000]).expect("room");
    two.a.post(1, SendOp::RdmaWriteWithImm(two.b.mr.remote(0), 42), 0, 5000);
    while two.net.now() < Duration::from_millis(5) {
        two.step();
    }
    two.b.post_recv(9, 0, 0);
    two.settle();
    assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success)]);
    let (_, received) = two.b.drain();
    assert_eq!((received[0].imm, received[0].byte_len, received.len()), (Some(42), 5000, 1));
    assert_eq!(two.b.mr.read(0, 5001), Ok([&[3; 5000][..], &[0]].concat()));
}

/// Acknowledgements are put together: many packets that arrive at a time have one.
#[test]
fn acknowledgements_are_few() {
    let two = two();
    for wr_id in 0..30 {
        two.a.post(wr_id, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 8);
    }
    two.settle();
    assert_eq!(two.a.drain().0.len(), 30);
    assert!(two.b.device.counters().sent <= 3, "{} acknowledgements", two.b.device.counters().sent);
}

/// Nothing on the wire is longer than the path MTU, with its headers.
#[test]
fn packets_fit_the_path() {
    for mtu in [Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096] {
        let two = Two::new(&Options { mtu, ..Options::default() });
        two.net.set_filter(move |_, bytes| {
            let packet = Packet::decode(bytes).expect("a packet");
            assert!(packet.payload.len() <= mtu.bytes() as usize);
            true
        });
        two.a.post(1, SendOp::RdmaWrite(two.b.mr.remote(0)), 0, 100_001);
        two.a.post(2, SendOp::RdmaRead(two.b.mr.remote(0)), 200_000, 100_001);
        two.settle();
        assert_eq!(statuses(&two.a.drain().0), [(1, WcStatus::Success), (2, WcStatus::Success)]);
    }
}

/// Objects that others need stay; a queue pair that is gone answers nobody.
#[test]
fn handles_keep_what_they_need() {
    let Two { net, a, b } = two();
    let Side { device, qp, send_cq, mr, .. } = b;
    drop((send_cq, mr));
    drop(qp);
    a.post(1, SendOp::Send, 0, 8);
    for _ in 0..40 {
        net.set_now(a.device.deadline().unwrap_or_default().max(net.now() + Duration::from_micros(10)));
        a.device.progress(net.now());
        device.progress(net.now());
    }
    assert_eq!(statuses(&a.drain().0), [(1, WcStatus::RetryExcErr)]);
    assert!(device.counters().strange > 0);
}

/// A port at which nothing can be received, nor sent.
struct Broken;

impl Port for Broken {
    fn address(&self) -> SocketAddr {
        address(1)
    }

    fn send(&mut self, _: SocketAddr, _: &mut Vec<u8>) -> bool {
        false
    }

    fn receive(&mut self, _: &mut Vec<u8>) -> Received {
        Received::Failed
    }
}

/// It is no work, so that nobody spins for it.
#[test]
fn a_port_that_fails() {
    let device = Device::open(Broken).expect("random numbers");
    assert_eq!((device.progress(Duration::ZERO), device.progress(Duration::ZERO)), (0, 0));
    assert_eq!((device.counters().failed, device.counters().corrupt), (2, 0));
}
