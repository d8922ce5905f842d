//! What a device sends while it hears nothing: as little as finds out what was lost.

mod common;

use std::time::Duration;

use common::{Options, Side, Two};
use gridnet_rdma_sim::wr::{Data, SendOp, SendWr};

/// A timeout of 67 ms, which is far away.
const OPTIONS: fn() -> Options = || Options { timeout: 14, ..Options::default() };
/// Of so many messages one asks for a completion: the one whose number asks for an acknowledgement, too.
const SIGNAL_EACH: u64 = 16;

/// Sends 8 bytes, which arrive.
fn send(two: &Two, from: &Side, to: &Side, id: u64) {
    to.post_recv(id, 0, 8);
    let data = Data::Sges(vec![from.mr.sge(0, 8)]);
    let signaled = id.is_multiple_of(SIGNAL_EACH);
    from.qp.post_send(SendWr { signaled, ..SendWr::new(id, SendOp::Send, data) }).expect("posted");
    while to.drain().1.is_empty() {
        assert!(two.step(), "it does not arrive");
    }
    from.drain();
}

/// Lets this time pass.
fn pass(two: &Two, time: Duration) {
    let end = two.net.now() + time;
    while two.net.now() < end {
        let moments = [two.net.next_arrival(), two.a.device.deadline(), two.b.device.deadline()];
        let next = moments.into_iter().flatten().min().unwrap_or(end);
        two.net.set_now(next.clamp(two.net.now(), end));
        while two.a.device.progress(two.net.now()) + two.b.device.progress(two.net.now()) > 0 {}
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
