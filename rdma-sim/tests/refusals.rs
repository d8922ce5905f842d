//! A peer that breaks rules, packet by packet: what it is told, what this side sees, and that no memory is touched.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{address, connect, Options, Side};
use gridnet_rdma_sim::attr::{Access, State};
use gridnet_rdma_sim::testing::{Faults, Net, NetPort};
use gridnet_rdma_sim::wire::{
    Aeth, AtomicEth, Bth, Credits, Header, NakCode, Packet, Psn, QpNum, Reth, RnrTimer, Syndrome,
};
use gridnet_rdma_sim::wr::{SendOp, Wc, WcStatus};
use gridnet_rdma_sim::{Event, Port, QpEvent, Received};

/// First number of either side.
const PSN: u32 = 100;

/// A side, and the peer that it believes to have: a port from which the test sends what it likes.
struct Rogue {
    net: Net,
    side: Side,
    port: NetPort,
    psn: Psn,
}

/// Where the memory of the side begins that must stay as it was.
const FILL: u8 = 0x5a;

impl Rogue {
    fn new(options: &Options) -> Rogue {
        let options = Options { psn: PSN, memory: 1 << 16, ..*options };
        let net = Net::new(7, Faults::NONE);
        let side = Side::new(&net, address(1), &options);
        side.mr.write(0, &[FILL; 1 << 16]).expect("room");
        let port = net.port(address(2));
        // The number of the peer's queue pair does not matter: nobody looks at it.
        connect(&side.qp, address(2), &side.qp, &options);
        Rogue { net, side, port, psn: Psn::new(PSN) }
    }

    fn send_with(&mut self, bth: Bth, header: Header, payload: &[u8]) {
        let mut bytes = Vec::new();
        Packet { bth, header, payload }.encode(&mut bytes);
        self.port.send(self.side.device.address(), &mut bytes);
    }

    /// Sends the next packet, asking for an acknowledgement.
    fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bth = Bth::new(self.side.qp.num(), self.psn);
        bth.ack_request = true;
        self.psn = self.psn.plus(1);
        self.send_with(bth, header, payload);
    }

    /// Lets all packets arrive; returns what came back.
    fn answers(&mut self) -> Vec<(Psn, Header)> {
        let mut answers = Vec::new();
        for _ in 0..10 {
            self.net.set_now(self.net.now() + Duration::from_micros(20));
            while self.side.device.progress(self.net.now()) > 0 {}
            let mut bytes = Vec::new();
            while self.port.receive(&mut bytes) != Received::Nothing {
                let packet = Packet::decode(&bytes).expect("a packet");
                answers.push((packet.bth.psn, packet.header));
            }
        }
        answers
    }

    /// Sends one packet that is refused for good.
    fn refused(mut self, header: Header, payload: &[u8], nak: NakCode, event: QpEvent) {
        let psn = self.psn;
        self.side.post_recv(77, 0, 64);
        self.send(header, payload);
        assert_eq!(self.answers(), [(psn, nak_of(nak, 0))], "{header:?}");
        assert_eq!(self.side.qp.state(), State::Err, "{header:?}");
        assert_eq!(self.side.device.event(), Some(Event::Qp(self.side.qp.num(), event)));
        self.is_untouched();
        // And from here on it is deaf.
        self.send(Header::SendOnly, b"hello");
        assert_eq!(self.answers(), []);
    }

    fn is_untouched(&self) {
        let bytes = self.side.mr.read(0, 1 << 16).expect("within");
        assert!(bytes.iter().all(|byte| *byte == FILL), "memory was written");
    }

    fn received(&self) -> Vec<(u64, WcStatus)> {
        self.side.drain().1.iter().map(|wc: &Wc| (wc.wr_id, wc.status)).collect()
    }

    fn reth(&self, offset: u64, length: u32) -> Reth {
        let remote = self.side.mr.remote(offset);
        Reth { address: remote.address, rkey: remote.rkey.0, length }
    }
}

fn nak_of(nak: NakCode, msn: u32) -> Header {
    Header::Acknowledge(Aeth { syndrome: Syndrome::Nak(nak), msn })
}

fn ack_of(msn: u32) -> Header {
    Header::Acknowledge(Aeth { syndrome: Syndrome::Ack(Credits::UNLIMITED), msn })
}

fn rogue() -> Rogue {
    Rogue::new(&Options::default())
}

#[test]
fn keys_and_bounds() {
    let access = |header: Header, payload: &[u8]| {
        rogue().refused(header, payload, NakCode::RemoteAccess, QpEvent::AccessErr);
    };
    let bad = Reth { address: 0, rkey: 0, length: 4 };
    access(Header::WriteOnly(bad), b"evil");
    access(Header::ReadRequest(bad), b"");
    let atomic = AtomicEth { address: 8, rkey: 0, swap_or_add: 1, compare: 0 };
    access(Header::FetchAdd(atomic), b"");
    access(Header::CompareSwap(atomic), b"");
    type Spoil = fn(&mut Reth, u64);
    let spoils: [Spoil; 4] = [
        |reth, _| reth.rkey ^= 1,
        |reth, len| reth.address += len - 3,
        |reth, _| reth.address -= 1,
        |reth, _| reth.address = u64::MAX - 1,
    ];
    for spoil in spoils {
        let rogue = rogue();
        let mut reth = rogue.reth(0, 4);
        spoil(&mut reth, 1 << 16);
        rogue.refused(Header::WriteOnly(reth), b"evil", NakCode::RemoteAccess, QpEvent::AccessErr);
        let rogue = self::rogue();
        let mut reth = rogue.reth(0, 4);
        spoil(&mut reth, 1 << 16);
        rogue.refused(Header::ReadRequest(reth), b"", NakCode::RemoteAccess, QpEvent::AccessErr);
    }
    // The whole range is looked at before the first packet is written.
    let rogue = rogue();
    let reth = rogue.reth(0, (1 << 16) + 1);
    rogue.refused(Header::WriteFirst(reth), &[1; 1024], NakCode::RemoteAccess, QpEvent::AccessErr);
}

#[test]
fn lengths_and_order() {
    let check = |make: fn(&Rogue) -> Header, payload: &[u8]| {
        let rogue = rogue();
        let header = make(&rogue);
        rogue.refused(header, payload, NakCode::InvalidRequest, QpEvent::ReqErr);
    };
    check(|_| Header::SendMiddle, &[1; 1024]);
    check(|_| Header::SendLast, &[1; 4]);
    check(|_| Header::WriteMiddle, &[1; 1024]);
    check(|_| Header::WriteLastImm(1), &[1; 4]);
    check(|_| Header::SendFirst, &[1; 1023]);
    check(|_| Header::SendFirst, &[1; 1025]);
    check(|_| Header::SendOnly, &[1; 1025]);
    check(|rogue| Header::WriteOnly(rogue.reth(0, 5)), b"four");
    check(|rogue| Header::WriteOnly(rogue.reth(0, 3)), b"four");
    check(|rogue| Header::WriteFirst(rogue.reth(0, 1024)), &[1; 1024]);
    check(|rogue| Header::WriteOnly(rogue.reth(0, u32::MAX)), b"four");
    check(|rogue| Header::ReadRequest(rogue.reth(0, (1 << 31) + 1)), b"");
    check(
        |rogue| {
            let Reth { address, rkey, .. } = rogue.reth(4, 8);
            Header::FetchAdd(AtomicEth { address, rkey, swap_or_add: 1, compare: 0 })
        },
        b"",
    );
}

/// SEND with invalidate, which a queue pair of an adapter knows, and an opcode that nobody knows.
#[test]
fn unknown_opcodes() {
    for opcode in [0x17, 0x1f] {
        let mut bytes = Vec::new();
        let mut bth = Bth::new(QpNum::new(0), Psn::new(PSN));
        let mut rogue = rogue();
        bth.dest_qp = rogue.side.qp.num();
        Packet { bth, header: Header::SendOnly, payload: b"abcdefgh" }.encode(&mut bytes);
        bytes[0] = opcode;
        rogue.port.send(rogue.side.device.address(), &mut bytes);
        assert_eq!(rogue.answers(), [(Psn::new(PSN), nak_of(NakCode::InvalidRequest, 0))]);
    }
}

#[test]
fn what_the_queue_pair_does_not_allow() {
    let options = Options { access: Access::LOCAL_WRITE, ..Options::default() };
    let check = |make: fn(&Rogue) -> Header, payload: &[u8]| {
        let rogue = Rogue::new(&options);
        let header = make(&rogue);
        rogue.refused(header, payload, NakCode::InvalidRequest, QpEvent::ReqErr);
    };
    check(|rogue| Header::WriteOnly(rogue.reth(0, 4)), b"four");
    check(|rogue| Header::ReadRequest(rogue.reth(0, 4)), b"");
    check(
        |rogue| {
            let Reth { address, rkey, .. } = rogue.reth(0, 8);
            Header::CompareSwap(AtomicEth { address, rkey, swap_or_add: 1, compare: 0 })
        },
        b"",
    );
}

#[test]
fn a_region_that_does_not_allow_it() {
    for (access, header) in [
        (Access::REMOTE_READ, Header::WriteOnly as fn(Reth) -> Header),
        (Access::LOCAL_WRITE | Access::REMOTE_WRITE, Header::ReadRequest),
    ] {
        let rogue = rogue();
        let mr = rogue.side.pd.allocate(64, access).expect("memory");
        let header = header(Reth { address: mr.address(), rkey: mr.rkey().0, length: 4 });
        let payload: &[u8] = if header.has_payload() { b"evil" } else { b"" };
        rogue.refused(header, payload, NakCode::RemoteAccess, QpEvent::AccessErr);
        assert_eq!(mr.read(0, 64), Ok(vec![0; 64]));
    }
    // And one of another protection domain.
    let rogue = rogue();
    let other = rogue.side.device.alloc_pd().allocate(64, Access::ALL).expect("memory");
    let reth = Reth { address: other.address(), rkey: other.rkey().0, length: 4 };
    rogue.refused(Header::WriteOnly(reth), b"evil", NakCode::RemoteAccess, QpEvent::AccessErr);
}

#[test]
fn a_message_that_is_longer_than_its_receive() {
    let mut rogue = rogue();
    rogue.side.post_recv(1, 0, 4);
    rogue.side.post_recv(2, 0, 4);
    rogue.send(Header::SendOnly, b"hello");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), nak_of(NakCode::InvalidRequest, 0))]);
    assert_eq!(rogue.received(), [(1, WcStatus::LocLenErr), (2, WcStatus::WrFlushErr)]);
    rogue.is_untouched();
}

#[test]
fn a_receive_whose_memory_is_gone() {
    let mut rogue = rogue();
    let mr = rogue.side.pd.allocate(64, Access::LOCAL_WRITE).expect("memory");
    let wr = gridnet_rdma_sim::wr::RecvWr { wr_id: 1, sges: mr.sge(0, 64).into() };
    rogue.side.qp.post_recv(wr).expect("posted");
    drop(mr);
    rogue.send(Header::SendOnly, b"hello");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), nak_of(NakCode::RemoteOperation, 0))]);
    assert_eq!(rogue.received(), [(1, WcStatus::LocProtErr)]);
}

/// Without a receive the peer hears of that first; one that is there ends with the request.
#[test]
fn a_wrong_key_with_immediate_data() {
    let mut rogue = rogue();
    let bad = Reth { address: 0, rkey: 0, length: 4 };
    rogue.send(Header::WriteOnlyImm(bad, 1), b"evil");
    let rnr = Header::Acknowledge(Aeth { syndrome: Syndrome::RnrNak(RnrTimer::new(12)), msn: 0 });
    assert_eq!(rogue.answers(), [(Psn::new(PSN), rnr)]);
    rogue.side.post_recv(1, 0, 4);
    rogue.psn = Psn::new(PSN);
    rogue.send(Header::WriteOnlyImm(bad, 1), b"evil");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), nak_of(NakCode::RemoteAccess, 0))]);
    assert_eq!(rogue.received(), [(1, WcStatus::RemAccessErr)]);
}

#[test]
fn a_message_that_is_broken_off() {
    let mut rogue = rogue();
    rogue.side.post_recv(1, 0, 4096);
    rogue.send(Header::SendFirst, &[FILL; 1024]);
    rogue.send(Header::WriteOnly(rogue.reth(0, 4)), b"evil");
    let answers = rogue.answers();
    assert_eq!(answers.last(), Some(&(Psn::new(PSN + 1), nak_of(NakCode::InvalidRequest, 0))));
    assert_eq!(rogue.received(), [(1, WcStatus::RemInvReqErr)]);
    rogue.is_untouched();
}

#[test]
fn numbers_that_are_ahead() {
    let mut rogue = rogue();
    for id in 1..=3 {
        rogue.side.post_recv(id, 0, 4);
    }
    let first = rogue.psn;
    rogue.psn = first.plus(1);
    for _ in 0..2 {
        rogue.send(Header::SendOnly, b"late");
    }
    // Too far for any to be kept.
    rogue.psn = first.plus(1000);
    rogue.send(Header::SendOnly, b"evil");
    // Told once, whatever else comes.
    assert_eq!(rogue.answers(), [(first, nak_of(NakCode::PsnSequence, 0))]);
    rogue.is_untouched();
    rogue.psn = first;
    rogue.send(Header::SendOnly, &[FILL; 4]);
    // Those behind it have been kept, and are done as if they had come now.
    assert_eq!(rogue.answers(), [(first.plus(2), ack_of(3))]);
    let done = |id| (id, WcStatus::Success);
    assert_eq!(rogue.received(), [done(1), done(2), done(3)]);
}

/// Who asks again, as it has not heard that something is missing, is told again.
#[test]
fn a_number_that_is_ahead_again() {
    let mut rogue = rogue();
    let first = rogue.psn;
    for _ in 0..2 {
        rogue.psn = first.plus(1);
        rogue.send(Header::SendOnly, b"evil");
        assert_eq!(rogue.answers(), [(first, nak_of(NakCode::PsnSequence, 0))]);
    }
    rogue.is_untouched();
}

/// What came ahead of one that finds no receive is not kept: all of it is to come again.
#[test]
fn numbers_that_are_ahead_of_a_late_receive() {
    let mut rogue = rogue();
    let first = rogue.psn;
    for at in [1, 0, 1] {
        rogue.psn = first.plus(at);
        rogue.send(Header::SendOnly, b"evil");
    }
    let answers = rogue.answers();
    assert_eq!(answers.len(), 2, "missing, then no receive: {answers:?}");
    rogue.side.post_recv(1, 0, 4);
    rogue.side.post_recv(2, 0, 4);
    rogue.psn = first;
    rogue.send(Header::SendOnly, &[FILL; 4]);
    assert_eq!(rogue.answers(), [(first, ack_of(1))]);
    assert_eq!(rogue.received(), [(1, WcStatus::Success)]);
}

#[test]
fn numbers_that_were_there() {
    let mut rogue = rogue();
    rogue.side.post_recv(1, 0, 4);
    rogue.side.post_recv(2, 0, 4);
    rogue.send(Header::SendOnly, &[FILL; 4]);
    rogue.psn = Psn::new(PSN);
    rogue.send(Header::SendOnly, b"evil");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), ack_of(1))], "two that wait become one");
    assert_eq!(rogue.received(), [(1, WcStatus::Success)], "it is done once");
    rogue.is_untouched();
}

/// An atomic operation that comes again is answered with what it found at first, and done once.
#[test]
fn atomic_operations_that_were_there() {
    let mut rogue = rogue();
    rogue.side.mr.write(0, &5u64.to_ne_bytes()).expect("room");
    let Reth { address, rkey, .. } = rogue.reth(0, 8);
    let add = Header::FetchAdd(AtomicEth { address, rkey, swap_or_add: 10, compare: 0 });
    let aeth = |msn| Aeth { syndrome: Syndrome::Ack(Credits::UNLIMITED), msn };
    rogue.send(add, b"");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), Header::AtomicAcknowledge(aeth(1), 5))]);
    rogue.send(add, b"");
    assert_eq!(rogue.answers(), [(Psn::new(PSN + 1), Header::AtomicAcknowledge(aeth(2), 15))]);
    rogue.psn = Psn::new(PSN);
    rogue.send(add, b"");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), Header::AtomicAcknowledge(aeth(2), 5))]);
    assert_eq!(rogue.side.mr.read(0, 8), Ok(25u64.to_ne_bytes().to_vec()));
}

/// A read under an old number opens nothing that the first one has not opened.
#[test]
fn reads_that_were_there() {
    let mut rogue = rogue();
    let whole = rogue.reth(0, 3000);
    rogue.send(Header::ReadRequest(whole), b"");
    let numbers =
        |answers: Vec<(Psn, Header)>| answers.iter().map(|(psn, _)| psn.value() - PSN).collect::<Vec<_>>();
    assert_eq!(numbers(rogue.answers()), [0, 1, 2]);
    // From the second answer on.
    rogue.psn = Psn::new(PSN + 1);
    let tail = rogue.reth(1024, 1976);
    rogue.send(Header::ReadRequest(tail), b"");
    assert_eq!(numbers(rogue.answers()), [1, 2]);
    let wrong = [
        (0, rogue.reth(0, 3001)),
        (0, rogue.reth(4, 3000)),
        (1, rogue.reth(0, 1000)),
        (0, Reth { rkey: whole.rkey ^ 1, ..whole }),
    ];
    for (number, reth) in wrong {
        rogue.psn = Psn::new(PSN + number);
        rogue.send(Header::ReadRequest(reth), b"");
        assert_eq!(rogue.answers(), [], "{reth:?}");
    }
    assert_eq!(rogue.side.qp.state(), State::Rts);
}

/// A part of an answer that still waits is asked for: all of it comes, once.
#[test]
fn reads_that_wait_are_not_cut_short() {
    let mut rogue = rogue();
    let (whole, tail) = (rogue.reth(0, 3000), rogue.reth(1024, 1024));
    rogue.send(Header::ReadRequest(whole), b"");
    rogue.psn = Psn::new(PSN + 1);
    rogue.send(Header::ReadRequest(tail), b"");
    let numbers: Vec<_> = rogue.answers().iter().map(|(psn, _)| psn.value() - PSN).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

/// The network repeats the request of a read that is done, and whose memory is gone since: that breaks nothing.
#[test]
fn a_read_that_was_there_of_memory_that_is_gone() {
    let mut rogue = rogue();
    let mr = rogue.side.pd.allocate(64, Access::REMOTE_READ).expect("memory");
    let read = Header::ReadRequest(Reth { address: mr.address(), rkey: mr.rkey().0, length: 64 });
    rogue.send(read, b"");
    assert_eq!(rogue.answers().len(), 1);
    drop(mr);
    rogue.psn = Psn::new(PSN);
    rogue.send(read, b"");
    // For a peer that has lost the answer; the one that has it does not listen.
    assert_eq!(rogue.answers(), [(Psn::new(PSN), nak_of(NakCode::RemoteAccess, 1))]);
    assert_eq!((rogue.side.qp.state(), rogue.side.device.event()), (State::Rts, None));
    let reth = rogue.reth(0, 4);
    rogue.send(Header::ReadRequest(reth), b"");
    assert_eq!(rogue.answers().len(), 1);
}

#[test]
fn more_reads_than_were_agreed() {
    let mut rogue = rogue();
    let reth = rogue.reth(0, 4);
    for _ in 0..5 {
        rogue.send(Header::ReadRequest(reth), b"");
    }
    let answers = rogue.answers();
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[4], (Psn::new(PSN + 4), nak_of(NakCode::InvalidRequest, 4)));
    let rogue = Rogue::new(&Options { dest_rd_atomic: 0, ..Options::default() });
    let reth = rogue.reth(0, 4);
    rogue.refused(Header::ReadRequest(reth), b"", NakCode::InvalidRequest, QpEvent::ReqErr);
}

#[test]
fn no_receive() {
    let mut rogue = rogue();
    rogue.send(Header::SendOnly, &[FILL; 4]);
    rogue.send(Header::SendOnly, &[FILL; 4]);
    let rnr = Header::Acknowledge(Aeth { syndrome: Syndrome::RnrNak(RnrTimer::new(12)), msn: 0 });
    assert_eq!(rogue.answers(), [(Psn::new(PSN), rnr)], "what follows is dropped in silence");
    rogue.psn = Psn::new(PSN);
    let reth = rogue.reth(0, 4);
    rogue.send(Header::WriteOnlyImm(reth, 1), b"evil");
    assert_eq!(rogue.answers(), [(Psn::new(PSN), rnr)]);
    rogue.is_untouched();
}

#[test]
fn strangers_and_noise() {
    let mut rogue = rogue();
    rogue.side.post_recv(1, 0, 64);
    // From another host; for a queue pair that is not there; of no service that is.
    let mut stranger = rogue.net.port(SocketAddr::from(([10, 0, 0, 3], 4791)));
    let mut bytes = Vec::new();
    Packet { bth: Bth::new(rogue.side.qp.num(), rogue.psn), header: Header::SendOnly, payload: b"evil" }
        .encode(&mut bytes);
    stranger.send(rogue.side.device.address(), &mut bytes);
    let nobody = QpNum::new(rogue.side.qp.num().value() ^ 0x80_0000);
    rogue.send_with(Bth::new(nobody, Psn::new(PSN)), Header::SendOnly, b"evil");
    rogue.port.send(rogue.side.device.address(), &mut b"what is this".to_vec());
    assert_eq!(rogue.answers(), []);
    let counters = rogue.side.device.counters();
    assert_eq!((counters.strange, counters.malformed, counters.corrupt), (2, 1, 0));
    // A wrong ICRC is dropped and counted, and nobody is told.
    rogue.net.set_faults(Faults { corruption: 1_000_000, ..Faults::NONE });
    rogue.send(Header::SendOnly, b"evil");
    assert_eq!(rogue.answers(), []);
    assert_eq!(rogue.side.device.counters().corrupt, 1);
    rogue.is_untouched();
    assert_eq!(rogue.side.qp.state(), State::Rts);
}

/// Answers that make no sense.
#[test]
fn wrong_answers() {
    let aeth = Aeth { syndrome: Syndrome::Ack(Credits::UNLIMITED), msn: 1 };
    let answers = [
        (Header::ReadResponseOnly(aeth), 5, WcStatus::BadRespErr),
        (Header::ReadResponseFirst(aeth), 4, WcStatus::BadRespErr),
        (Header::AtomicAcknowledge(aeth, 3), 0, WcStatus::BadRespErr),
        (nak_of(NakCode::InvalidRequest, 0), 0, WcStatus::RemInvReqErr),
        (nak_of(NakCode::RemoteAccess, 0), 0, WcStatus::RemAccessErr),
        (nak_of(NakCode::RemoteOperation, 0), 0, WcStatus::RemOpErr),
    ];
    for (header, len, status) in answers {
        let mut rogue = rogue();
        let remote = rogue.side.mr.remote(0);
        rogue.side.post(1, SendOp::RdmaRead(remote), 0, 4);
        rogue.side.post(2, SendOp::Send, 0, 4);
        rogue.side.device.progress(rogue.net.now());
        rogue.send(header, &vec![1; len]);
        rogue.answers();
        let statuses: Vec<_> = rogue.side.drain().0.iter().map(|wc| (wc.wr_id, wc.status)).collect();
        assert_eq!(statuses, [(1, status), (2, WcStatus::WrFlushErr)], "{header:?}");
        rogue.is_untouched();
    }
}

/// Answers to nothing are ignored, whatever they say.
#[test]
fn answers_to_nothing() {
    let mut rogue = rogue();
    for psn in [PSN - 1, PSN, PSN + 1, PSN + 0x80_0000] {
        for header in [ack_of(1), nak_of(NakCode::RemoteAccess, 0), nak_of(NakCode::PsnSequence, 0)] {
            rogue.send_with(Bth::new(rogue.side.qp.num(), Psn::new(psn)), header, b"");
        }
    }
    assert_eq!(rogue.answers(), []);
    assert_eq!(rogue.side.qp.state(), State::Rts);
}
