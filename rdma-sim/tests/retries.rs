//! When a requester sends again, and what counts as a retry: answers that the network repeats do not, nor what could not be sent.

mod common;

use std::time::Duration;

use common::{address, connect, Options, Side, Two};
use gridnet_rdma_sim::attr::Access;
use gridnet_rdma_sim::testing::{Faults, Net, NetPort};
use gridnet_rdma_sim::wire::{Aeth, Bth, Credits, Header, NakCode, Packet, Psn, RnrTimer, Syndrome};
use gridnet_rdma_sim::wr::{Data, SendOp, SendWr, Wc, WcStatus};
use gridnet_rdma_sim::{Mr, Port, Received};

const PSN: u32 = 100;

/// A side that sends, and a port from which the test answers.
struct Listener {
    net: Net,
    side: Side,
    port: NetPort,
}

impl Listener {
    /// The side waits 65 us for an answer, and sends again once.
    fn new() -> Listener {
        let options = Options { psn: PSN, timeout: 4, retry_cnt: 1, rnr_retry: 1, ..Options::default() };
        let net = Net::new(7, Faults::NONE);
        let side = Side::new(&net, address(1), &options);
        let port = net.port(address(2));
        connect(&side.qp, address(2), &side.qp, &options);
        Listener { net, side, port }
    }

    /// Lets this time pass; returns the numbers of the requests that came.
    fn wait(&mut self, micros: u64) -> Vec<u32> {
        self.requests(micros).into_iter().map(|(number, _)| number).collect()
    }

    /// The same, with whether they ask for an acknowledgement.
    fn requests(&mut self, micros: u64) -> Vec<(u32, bool)> {
        let mut numbers = Vec::new();
        for _ in 0..micros {
            self.net.set_now(self.net.now() + Duration::from_micros(1));
            self.side.device.progress(self.net.now());
            let mut bytes = Vec::new();
            while self.port.receive(&mut bytes) != Received::Nothing {
                let bth = Packet::decode(&bytes).expect("a packet").bth;
                numbers.push((bth.psn.value() - PSN, bth.ack_request));
            }
        }
        numbers
    }

    /// Sends three messages of which nobody wants to hear.
    fn unsignaled() -> Listener {
        let mut listener = Listener::new();
        for id in 0..3 {
            let data = Data::Sges(listener.side.mr.sge(0, 4).into());
            let wr = SendWr { signaled: false, ..SendWr::new(id, SendOp::Send, data) };
            listener.side.qp.post_send(wr).expect("posted");
        }
        assert_eq!(listener.requests(20), [(0, false), (1, false), (2, false)]);
        listener
    }

    fn say(&mut self, number: u32, syndrome: Syndrome) {
        let header = Header::Acknowledge(Aeth { syndrome, msn: 0 });
        let bth = Bth::new(self.side.qp.num(), Psn::new(PSN + number));
        let mut bytes = Vec::new();
        Packet { bth, header, payload: b"" }.encode(&mut bytes);
        self.port.send(self.side.device.address(), &mut bytes);
    }

    fn statuses(&self) -> Vec<WcStatus> {
        self.side.drain().0.iter().map(|wc: &Wc| wc.status).collect()
    }

    /// It has sent a request, and hears these answers to it at once.
    fn told(answers: &[Syndrome]) -> Listener {
        let mut listener = Listener::new();
        listener.side.post(1, SendOp::Send, 0, 4);
        assert_eq!(listener.wait(20), [0]);
        for answer in answers {
            listener.say(0, *answer);
        }
        listener
    }

    fn ends_well(mut self) {
        self.say(0, Syndrome::Ack(Credits::UNLIMITED));
        self.wait(20);
        assert_eq!(self.statuses(), [WcStatus::Success]);
    }
}

const NOT_READY: Syndrome = Syndrome::RnrNak(RnrTimer::new(12)); // 640 us
const MISSING: Syndrome = Syndrome::Nak(NakCode::PsnSequence);

#[test]
fn rnr_nak_that_comes_twice_counts_once() {
    let mut listener = Listener::told(&[NOT_READY, NOT_READY, NOT_READY]);
    assert_eq!(listener.wait(640), [], "it was asked for silence");
    assert_eq!(listener.wait(60), [0]);
    listener.ends_well();
}

/// But a second one, after the silence, counts.
#[test]
fn rnr_nak_after_the_silence_counts() {
    let mut listener = Listener::told(&[NOT_READY]);
    assert_eq!(listener.wait(700), [0]);
    listener.say(0, NOT_READY);
    listener.wait(20);
    assert_eq!(listener.statuses(), [WcStatus::RnrRetryExcErr]);
}

#[test]
fn nothing_is_a_retry_while_silence_was_asked_for() {
    let mut listener = Listener::told(&[NOT_READY, MISSING]);
    assert_eq!(listener.wait(640), [], "it was asked for silence");
    assert_eq!(listener.wait(60), [0]);
    listener.ends_well();
}

#[test]
fn nak_of_the_sequence_that_comes_twice_counts_once() {
    let mut listener = Listener::told(&[MISSING, MISSING, MISSING]);
    assert_eq!(listener.wait(40), [0], "it is sent again, once");
    listener.ends_well();
}

/// Silence of the peer: one retry as agreed, then the end.
#[test]
fn retries_come_to_an_end() {
    let mut listener = Listener::told(&[]);
    assert_eq!(listener.wait(80), [0]);
    assert_eq!(listener.wait(80), []);
    assert_eq!(listener.statuses(), [WcStatus::RetryExcErr]);
}

/// A peer that reads all the time, and whose first packet is lost on its way: what this side sends arrives all the same.
#[test]
fn a_peer_that_reads_does_not_keep_requests_from_leaving() {
    let two = Two::new(&Options { timeout: 6, retry_cnt: 2, ..Options::default() });
    let mut lost = 0;
    two.net.set_filter(move |_, bytes| {
        let is_send = Packet::decode(bytes).is_ok_and(|packet| packet.header == Header::SendOnly);
        lost += u32::from(is_send);
        !is_send || lost > 1
    });
    let remote = two.b.mr.remote(0);
    for id in 0..8 {
        two.a.post(id, SendOp::RdmaRead(remote), 0, 1 << 20);
    }
    two.a.post_recv(100, 0, 8);
    // The answers to reads never run out.
    let tick = || {
        two.net.set_now(two.net.now() + Duration::from_micros(10));
        two.a.device.progress(two.net.now());
        two.b.device.progress(two.net.now());
    };
    (0..20).for_each(|_| tick());
    two.b.post(200, SendOp::Send, 0, 8);
    let (mut sent, mut read) = (Vec::new(), 0);
    while sent.is_empty() {
        tick();
        sent = two.b.drain().0;
        read += two.a.drain().0.len();
        assert!(read < 4, "the reads go first");
    }
    assert_eq!((sent[0].wr_id, sent[0].status), (200, WcStatus::Success));
}

/// While its port takes nothing, a requester does not give up; a responder, which has no timers, says that it is to be called.
#[test]
fn a_port_without_room() {
    let two = Two::new(&Options { timeout: 4, retry_cnt: 1, ..Options::default() });
    let full = Faults { refusal: 1_000_000, ..Faults::NONE };
    let pass = |micros| two.net.set_now(two.net.now() + Duration::from_micros(micros));
    two.b.post_recv(7, 0, 8);
    two.a.post(1, SendOp::Send, 0, 8);
    two.net.set_faults(full);
    for _ in 0..20 {
        assert_eq!(two.a.device.progress(two.net.now()), 0);
        assert_eq!(two.a.device.deadline(), Some(two.net.now()));
        pass(100);
    }
    two.net.set_faults(Faults::NONE);
    assert!(two.a.device.progress(two.net.now()) > 0);
    pass(10);
    two.net.set_faults(full);
    two.b.device.progress(two.net.now());
    assert_eq!(two.b.device.deadline(), Some(two.net.now()), "an acknowledgement waits");
    two.net.set_faults(Faults::NONE);
    assert_eq!(two.b.device.progress(two.net.now()), 1);
    assert_eq!(two.b.device.deadline(), None);
    pass(10);
    two.a.device.progress(two.net.now());
    let statuses: Vec<_> = two.a.drain().0.iter().map(|wc| wc.status).collect();
    assert_eq!(statuses, [WcStatus::Success]);
}

/// Of messages that nobody waits for no acknowledgement is asked. After the timeout the last one comes again and asks.
#[test]
fn an_end_that_nobody_waits_for() {
    let mut listener = Listener::unsignaled();
    assert_eq!(listener.requests(60), [(2, true)]);
    listener.say(2, Syndrome::Ack(Credits::UNLIMITED));
    assert_eq!(listener.wait(500), []);
    assert_eq!(listener.statuses(), []);
    // All three have left the queue, and the next one is a new one.
    listener.side.post(1, SendOp::Send, 0, 4);
    assert_eq!(listener.requests(20), [(3, true)]);
    listener.say(3, Syndrome::Ack(Credits::UNLIMITED));
    listener.wait(20);
    assert_eq!(listener.statuses(), [WcStatus::Success]);
}

/// To ask is no retry: one is left after it, which sends everything again.
#[test]
fn a_peer_that_is_asked_and_says_nothing() {
    let mut listener = Listener::unsignaled();
    assert_eq!(listener.wait(60), [2]);
    assert_eq!(listener.requests(66), [(0, false), (1, false), (2, true)]);
    assert_eq!(listener.wait(200), []);
    assert_eq!(listener.statuses(), [WcStatus::RetryExcErr, WcStatus::WrFlushErr, WcStatus::WrFlushErr]);
}

/// What was lost before the message that asks.
#[test]
fn a_peer_that_is_asked_and_misses_something() {
    let mut listener = Listener::unsignaled();
    assert_eq!(listener.wait(60), [2]);
    listener.say(1, Syndrome::Nak(NakCode::PsnSequence));
    // By itself: what comes then says whether the peer has kept the rest.
    assert_eq!(listener.requests(20), [(1, true)]);
    listener.say(1, Syndrome::Ack(Credits::UNLIMITED));
    assert_eq!(listener.requests(20), [(2, true)], "it has not");
}

/// One that has kept what came behind a gap needs only what is missing; and whoever did so once does it again.
#[test]
fn a_peer_that_keeps_what_came_behind_a_gap() {
    let mut listener = Listener::new();
    for id in 0..8 {
        listener.side.post(id, SendOp::Send, 0, 4);
    }
    assert_eq!(listener.wait(20), [0, 1, 2, 3, 4, 5, 6, 7]);
    listener.say(1, Syndrome::Nak(NakCode::PsnSequence));
    assert_eq!(listener.requests(20), [(1, true)]);
    listener.say(3, Syndrome::Ack(Credits::UNLIMITED));
    assert_eq!(listener.requests(20), [(4, true)], "2 and 3 were there");
    listener.say(4, Syndrome::Ack(Credits::UNLIMITED));
    assert_eq!(listener.requests(20), [(5, true)], "it keeps, and 5 is missing, too");
    listener.say(7, Syndrome::Ack(Credits::UNLIMITED));
    assert_eq!(listener.wait(500), []);
    assert_eq!(listener.statuses(), [WcStatus::Success; 8]);
}

/// A side that has sent two messages of which nobody wants to hear; the memory of the second is gone since.
fn half_gone() -> (Listener, Mr) {
    let mut listener = Listener::new();
    let other = listener.side.pd.allocate(4096, Access::ALL).expect("memory");
    for (id, sge) in [listener.side.mr.sge(0, 4), other.sge(0, 4)].into_iter().enumerate() {
        let wr = SendWr { signaled: false, ..SendWr::new(id as u64, SendOp::Send, Data::Sges(sge.into())) };
        listener.side.qp.post_send(wr).expect("posted");
    }
    assert_eq!(listener.requests(20), [(0, false), (1, false)]);
    (listener, other)
}

/// The last message should ask, and cannot: the one before does, and what it hears ends both.
#[test]
fn a_question_whose_memory_is_gone() {
    let (mut listener, memory) = half_gone();
    drop(memory);
    assert_eq!(listener.requests(60), []);
    assert_eq!(listener.requests(66), [(0, true)]);
    listener.say(0, Syndrome::Ack(Credits::UNLIMITED));
    listener.wait(20);
    assert_eq!(listener.statuses(), [WcStatus::LocProtErr]);
}

/// The same with a peer that says nothing any more, before and after it has said that it misses everything.
#[test]
fn a_question_whose_memory_is_gone_to_nobody() {
    for misses in [false, true] {
        let (mut listener, memory) = half_gone();
        drop(memory);
        if misses {
            listener.say(0, MISSING);
            assert_eq!(listener.requests(20), [(0, true)]);
        }
        let asked = listener.requests(1000);
        assert!(asked.len() < 4 && asked.iter().all(|asked| *asked == (0, true)), "{asked:?}");
        assert_eq!(listener.statuses(), [WcStatus::RetryExcErr, WcStatus::WrFlushErr], "misses {misses}");
    }
}
