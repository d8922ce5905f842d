//! What a device sends while it hears nothing: as little as finds out what was lost.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use common::{address, Options, Side, Two};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wr::{Data, SendOp, SendWr, WcStatus};
use gridnet_rdma_sim::Device;

/// A timeout of 67 ms, which is far away.
const OPTIONS: fn() -> Options = || Options { timeout: 14, psn: 0xff_ffe5, ..Options::default() };
/// Of so many messages one asks for a completion: before so many went without a question that one has to ask.
const SIGNAL_EACH: u64 = 16;

/// Sends 8 bytes, which arrive.
fn send(two: &Two, from: &Side, to: &Side, id: u64) {
    to.post_recv(id, 0, 8);
    let data = Data::Sges(from.mr.sge(0, 8).into());
    let signaled = id.is_multiple_of(SIGNAL_EACH);
    from.qp.post_send(SendWr { signaled, ..SendWr::new(id, SendOp::Send, data) }).expect("posted");
    while to.drain().1.is_empty() {
        assert!(two.step(), "it does not arrive");
    }
    from.drain();
}

/// Lets this time pass.
fn pass(two: &Two, time: Duration) {
    let work = || while two.a.device.progress(two.net.now()) + two.b.device.progress(two.net.now()) > 0 {};
    let end = two.net.now() + time;
    work();
    while two.net.now() < end {
        let moments = [two.net.next_arrival(), two.a.device.deadline(), two.b.device.deadline()];
        let next = moments.into_iter().flatten().min().unwrap_or(end);
        two.net.set_now(next.clamp(two.net.now(), end));
        work();
    }
}

/// Where nobody asked for an answer, silence says nothing: no packet is sent twice, and nobody is woken before the timeout.
#[test]
fn who_has_not_asked_waits_for_nothing() {
    const MESSAGES: u64 = 10 * SIGNAL_EACH;
    let two = Two::new(&OPTIONS());
    for id in 0..MESSAGES {
        send(&two, &two.a, &two.b, id);
        pass(&two, Duration::from_millis(2));
        send(&two, &two.b, &two.a, id);
        pass(&two, Duration::from_millis(2));
        if !id.is_multiple_of(SIGNAL_EACH) {
            let deadlines = [two.a.device.deadline(), two.b.device.deadline()];
            let is_far = |at: Duration| at > two.net.now() + Duration::from_micros(500);
            assert!(deadlines.into_iter().flatten().all(is_far), "message {id}: {deadlines:?}");
        }
    }
    let most = MESSAGES + MESSAGES / SIGNAL_EACH;
    let sent = [&two.a, &two.b].map(|side| side.device.counters().sent);
    assert_eq!(sent, [most; 2], "each message once, and an acknowledgement of each {SIGNAL_EACH}th");
}

/// Who has asked learns of a loss long before the timeout: one packet more, and its acknowledgement.
#[test]
fn who_has_asked_asks_again() {
    let two = Two::new(&OPTIONS());
    send(&two, &two.a, &two.b, 0);
    pass(&two, Duration::from_millis(2));
    let (before, mut lost) = (two.net.now(), false);
    two.net.set_filter(move |_, _| std::mem::replace(&mut lost, true));
    send(&two, &two.a, &two.b, SIGNAL_EACH);
    let took = two.net.now() - before;
    assert!(took < Duration::from_millis(2), "{took:?}");
    two.settle();
    assert_eq!([&two.a, &two.b].map(|side| side.device.counters().sent), [3, 2]);
}

/// A request to read is lost, and all are answered in the end. When answers stay away later, a probe asks for the last of them only, as it
/// does where nothing was lost before.
#[test]
fn a_loss_among_reads_is_over_when_they_are_answered() {
    const READS: u64 = 4;
    const ANSWERS: u32 = 16;
    let options = OPTIONS();
    let two = Two::new(&options);
    let read = |id| {
        two.a.post(id, SendOp::RdmaRead(two.b.mr.remote(0)), 0, ANSWERS * options.mtu.bytes());
    };
    // From the first it knows how long answers take.
    read(0);
    two.settle();
    let requests = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&requests);
    two.net.set_filter(move |to, _| to != address(2) || seen.fetch_add(1, Ordering::Relaxed) != 1);
    (1..=READS).for_each(read);
    two.settle();
    assert_eq!(two.a.drain().0.len() as u64, 1 + READS);
    assert_eq!(requests.load(Ordering::Relaxed), READS as u32 + 1, "one is lost, and sent again");

    let before = two.b.device.counters().sent;
    let seen = Arc::clone(&requests);
    two.net.set_filter(move |to, _| {
        let is_request = to == address(2);
        seen.fetch_add(u32::from(is_request), Ordering::Relaxed);
        is_request
    });
    requests.store(0, Ordering::Relaxed);
    read(1 + READS);
    pass(&two, Duration::from_millis(20));
    let probes = u64::from(requests.load(Ordering::Relaxed)) - 1;
    assert!(probes > 1, "{probes} probes");
    assert_eq!(
        two.b.device.counters().sent - before,
        u64::from(ANSWERS) + probes,
        "one answer to each probe"
    );
    two.net.set_filter(|_, _| true);
    two.settle();
    assert_eq!(two.a.drain().0.len(), 1);
}

/// A device that has a clock asks it for what a timer needs, and in one of four calls whether one is due.
#[test]
fn a_clock_is_asked_when_the_time_is_needed() {
    let net = Net::new(1, Faults::NONE);
    let asked = Arc::new(AtomicU32::new(0));
    let clock = {
        let (net, asked) = (net.clone(), asked.clone());
        move || {
            asked.fetch_add(1, Ordering::Relaxed);
            net.now()
        }
    };
    let device = Device::open_with_clock(net.port(address(1)), clock).expect("random numbers");
    let (a, b) = (Side::on(device, &OPTIONS()), Side::new(&net, address(2), &OPTIONS()));
    a.connect(&b, &OPTIONS());
    let asks_of = |calls: u32| {
        let before = asked.load(Ordering::Relaxed);
        (0..calls).for_each(|_| assert_eq!(a.device.work(), 0));
        asked.load(Ordering::Relaxed) - before
    };
    assert_eq!(asks_of(80), 0, "no timer runs");
    // The other side is no peer of this one, and says nothing.
    let data = Data::Sges(a.mr.sge(0, 8).into());
    a.qp.send_now(SendWr::new(1, SendOp::Send, data)).expect("posted");
    assert_eq!(a.device.counters().sent, 1, "it has left");
    assert_eq!(asks_of(80), 20);
    assert!(a.device.arm());
    assert_eq!((asks_of(1), asks_of(3)), (1, 0), "who has slept looks at once");
    let mut ended = Vec::new();
    for _ in 0..10_000 {
        net.set_now(net.now() + Duration::from_millis(1));
        a.device.work_and_poll(&a.send_cq, 4, |wc| ended.push(wc)).expect("no overrun");
    }
    assert_eq!(ended.iter().map(|wc| wc.status).collect::<Vec<_>>(), [WcStatus::RetryExcErr]);
}
