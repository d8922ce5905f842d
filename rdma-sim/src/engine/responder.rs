//! Requests of the peer: each is checked before it has any effect, done once, and answered.
//!
//! The order of the checks: number, order of opcodes, what the queue pair allows, resources, length, key.

use super::parked::Parked;
use super::reply::{Replies, Reply};
use super::{Host, Ident, QpEvent, MAX_MESSAGE};
use crate::attr::{Access, RtrAttr};
use crate::mr::total;
use crate::wire::{AtomicEth, Header, NakCode, Packet, Psn, Reth};
use crate::wr::{RecvWr, Rkey, Wc, WcOpcode, WcStatus};

/// The half of a queue pair that does what the peer asks for.
pub(super) struct Responder {
    ident: Ident,
    /// Number of the next new packet.
    expected: Psn,
    /// Messages that were finished; 24 bits.
    msn: u32,
    /// The peer was told that something is missing, and has not sent it yet.
    told: bool,
    /// It was told to come again later, with everything from there on.
    refused: bool,
    parked: Parked,
    receiving: Receiving,
    replies: Replies,
}

/// A message of which packets are missing.
enum Receiving {
    Nothing,
    /// Into a receive, so many bytes of which are there.
    Send(RecvWr, u32),
    /// Into memory, so many bytes of which are there.
    Write(Reth, u32),
}

/// Why a request is refused for good.
struct Refusal {
    nak: NakCode,
    /// How the receive ends that was in use.
    status: WcStatus,
}

const INVALID: Refusal = Refusal { nak: NakCode::InvalidRequest, status: WcStatus::RemInvReqErr };
const NO_ACCESS: Refusal = Refusal { nak: NakCode::RemoteAccess, status: WcStatus::RemAccessErr };
const TOO_LONG: Refusal = Refusal { nak: NakCode::InvalidRequest, status: WcStatus::LocLenErr };
const BAD_RECEIVE: Refusal = Refusal { nak: NakCode::RemoteOperation, status: WcStatus::LocProtErr };

/// What a packet is part of, and where in it.
struct Part {
    first: bool,
    last: bool,
    imm: Option<u32>,
}

/// A request while it is looked at.
struct Request<'a, 'p> {
    packet: &'a Packet<'p>,
    peer: &'a RtrAttr,
    access: Access,
}

impl Responder {
    pub(super) fn new(ident: Ident) -> Responder {
        Responder {
            ident,
            expected: Psn::default(),
            msn: 0,
            told: false,
            refused: false,
            parked: Parked::default(),
            receiving: Receiving::Nothing,
            replies: Replies::new(ident),
        }
    }

    pub(super) fn start(&mut self, attr: &RtrAttr) {
        self.expected = attr.rq_psn;
        self.replies.start(usize::from(attr.max_dest_rd_atomic));
    }

    /// Whether there is something to say.
    pub(super) fn may_send(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Says nothing more.
    pub(super) fn silence(&mut self) {
        self.replies.clear();
    }

    /// A request.
    ///
    /// # Errors
    /// It breaks a rule: the peer is told, and this queue pair comes into ERR.
    pub(super) fn request(
        &mut self,
        packet: &Packet<'_>,
        peer: &RtrAttr,
        access: Access,
        host: &mut Host<'_>,
    ) -> Result<(), QpEvent> {
        match packet.bth.psn.ahead_of(self.expected) {
            0 => self.in_turn(packet, peer, access, host)?,
            1.. => {
                self.ahead(packet, peer);
                return Ok(());
            }
            _ => {
                self.again(packet, peer);
                return Ok(());
            }
        }
        self.go_on(peer, access, host)
    }

    /// A request before which one is missing: told once, and again to who asks again, as that may have been lost.
    fn ahead(&mut self, packet: &Packet<'_>, peer: &RtrAttr) {
        let is_new = self.refused || self.parked.keep(packet, self.expected, peer.path_mtu.bytes());
        if !self.told || (!is_new && packet.bth.ack_request) {
            self.tell_missing();
        }
    }

    /// Says that the next packet is missing.
    fn tell_missing(&mut self) {
        self.told = true;
        self.replies.push(Reply::Nak(self.expected, NakCode::PsnSequence));
    }

    /// Does what was kept behind a gap that is closed now. What is done then is acknowledged, so that the peer knows where the next
    /// gap is.
    fn go_on(&mut self, peer: &RtrAttr, access: Access, host: &mut Host<'_>) -> Result<(), QpEvent> {
        let mut last = None;
        while let Some(kept) = self.parked.take(self.expected) {
            let packet = kept.packet();
            self.in_turn(&packet, peer, access, host)?;
            last = Some(packet.header);
        }
        let is_message =
            |header| !matches!(header, Header::ReadRequest(_) | Header::CompareSwap(_) | Header::FetchAdd(_));
        match last {
            _ if self.told => {}
            Some(header) if is_message(header) => self.replies.acknowledge(self.expected.minus(1)),
            // An acknowledgement would be one of an answer that was not given yet.
            Some(_) if !self.parked.is_empty() => self.tell_missing(),
            _ => {}
        }
        Ok(())
    }

    /// The request that was expected.
    fn in_turn(
        &mut self,
        packet: &Packet<'_>,
        peer: &RtrAttr,
        access: Access,
        host: &mut Host<'_>,
    ) -> Result<(), QpEvent> {
        self.told = false;
        self.refused = false;
        let request = Request { packet, peer, access };
        match self.execute(&request, host) {
            Ok(()) => Ok(()),
            Err(refusal) => {
                self.replies.push_last(packet.bth.psn, refusal.nak);
                self.end_receive(refusal.status, host);
                Err(event_of(refusal.nak))
            }
        }
    }

    /// A request that was done already.
    fn again(&mut self, packet: &Packet<'_>, peer: &RtrAttr) {
        match packet.header {
            Header::ReadRequest(reth) => self.replies.read_again(packet.bth.psn, reth, peer.path_mtu),
            Header::CompareSwap(_) | Header::FetchAdd(_) => self.replies.atomic_again(packet.bth.psn),
            _ => self.replies.acknowledge(self.expected.minus(1)),
        }
    }

    fn execute(&mut self, request: &Request<'_, '_>, host: &mut Host<'_>) -> Result<(), Refusal> {
        let part = |first, last, imm| Part { first, last, imm };
        match request.packet.header {
            Header::SendFirst => self.send(&part(true, false, None), request, host),
            Header::SendMiddle => self.send(&part(false, false, None), request, host),
            Header::SendLast => self.send(&part(false, true, None), request, host),
            Header::SendLastImm(imm) => self.send(&part(false, true, Some(imm)), request, host),
            Header::SendOnly => self.send(&part(true, true, None), request, host),
            Header::SendOnlyImm(imm) => self.send(&part(true, true, Some(imm)), request, host),
            Header::WriteFirst(reth) => self.write(Some(reth), &part(true, false, None), request, host),
            Header::WriteMiddle => self.write(None, &part(false, false, None), request, host),
            Header::WriteLast => self.write(None, &part(false, true, None), request, host),
            Header::WriteLastImm(imm) => self.write(None, &part(false, true, Some(imm)), request, host),
            Header::WriteOnly(reth) => self.write(Some(reth), &part(true, true, None), request, host),
            Header::WriteOnlyImm(reth, imm) => {
                self.write(Some(reth), &part(true, true, Some(imm)), request, host)
            }
            Header::ReadRequest(reth) => self.read(reth, request, host),
            Header::CompareSwap(atomic) => {
                let swap = |was| if was == atomic.compare { atomic.swap_or_add } else { was };
                self.atomic(atomic, swap, request, host)
            }
            Header::FetchAdd(atomic) => {
                self.atomic(atomic, |was| was.wrapping_add(atomic.swap_or_add), request, host)
            }
            _ => Err(INVALID),
        }
    }

    /// A packet of a message into a receive.
    fn send(&mut self, part: &Part, request: &Request<'_, '_>, host: &mut Host<'_>) -> Result<(), Refusal> {
        match (&self.receiving, part.first) {
            (Receiving::Nothing, true) | (Receiving::Send(..), false) => {}
            _ => return Err(INVALID),
        }
        request.check_length(part)?;
        if part.first {
            let Some(wr) = host.receives.take() else {
                self.not_ready(request);
                return Ok(());
            };
            self.receiving = Receiving::Send(wr, 0);
        }
        let payload = request.packet.payload;
        let Receiving::Send(wr, got) = &mut self.receiving else { return Err(INVALID) };
        let room = total(&wr.sges).min(u64::from(MAX_MESSAGE));
        if u64::from(*got) + payload.len() as u64 > room {
            return Err(TOO_LONG);
        }
        if !host.regions.scatter(self.ident.pd, &wr.sges, *got, payload) {
            return Err(BAD_RECEIVE);
        }
        *got += payload.len() as u32;
        if part.last {
            let (wr_id, byte_len) = (wr.wr_id, *got);
            self.receiving = Receiving::Nothing;
            self.complete(wr_id, WcOpcode::Recv, byte_len, part.imm, request, host);
        }
        self.accept(1, part.last, request);
        Ok(())
    }

    /// A packet of a message into memory.
    fn write(
        &mut self,
        reth: Option<Reth>,
        part: &Part,
        request: &Request<'_, '_>,
        host: &mut Host<'_>,
    ) -> Result<(), Refusal> {
        let (reth, got) = match (&self.receiving, reth) {
            (Receiving::Nothing, Some(reth)) => (reth, 0),
            (Receiving::Write(reth, got), None) => (*reth, *got),
            _ => return Err(INVALID),
        };
        if !request.access.allows(Access::REMOTE_WRITE) {
            return Err(INVALID);
        }
        request.check_length(part)?;
        let payload = request.packet.payload;
        let end = u64::from(got) + payload.len() as u64;
        let fits = if part.last { end == u64::from(reth.length) } else { end < u64::from(reth.length) };
        if reth.length > MAX_MESSAGE || !fits {
            return Err(INVALID);
        }
        // The receive for immediate data is there, or nothing of this packet is written.
        let receive = match part.imm.map(|_| host.receives.take()) {
            Some(None) => {
                self.not_ready(request);
                return Ok(());
            }
            taken => taken.flatten(),
        };
        let pd = self.ident.pd;
        let (rkey, address) = (Rkey(reth.rkey), reth.address.wrapping_add(u64::from(got)));
        let all = host.regions.remote(pd, rkey, reth.address, reth.length, Access::REMOTE_WRITE);
        let is_open = !part.first || reth.length == 0 || all.is_some();
        if !is_open || !host.regions.write_remote(pd, rkey, address, payload) {
            // A receive that was taken for it ends with it.
            self.receiving = receive.map_or(Receiving::Nothing, |wr| Receiving::Send(wr, 0));
            return Err(NO_ACCESS);
        }
        self.receiving = if part.last { Receiving::Nothing } else { Receiving::Write(reth, end as u32) };
        if let Some(wr) = receive {
            self.complete(wr.wr_id, WcOpcode::RecvRdmaWithImm, reth.length, part.imm, request, host);
        }
        self.accept(1, part.last, request);
        Ok(())
    }

    fn read(&mut self, reth: Reth, request: &Request<'_, '_>, host: &Host<'_>) -> Result<(), Refusal> {
        self.check_response(Access::REMOTE_READ, request)?;
        if reth.length > MAX_MESSAGE {
            return Err(INVALID);
        }
        let place = host.regions.remote(
            self.ident.pd,
            Rkey(reth.rkey),
            reth.address,
            reth.length,
            Access::REMOTE_READ,
        );
        if reth.length > 0 && place.is_none() {
            return Err(NO_ACCESS);
        }
        self.replies.read(request.packet.bth.psn, reth);
        self.advance(request.peer.path_mtu.packets(reth.length), true);
        Ok(())
    }

    fn atomic(
        &mut self,
        eth: AtomicEth,
        becomes: impl Fn(u64) -> u64,
        request: &Request<'_, '_>,
        host: &Host<'_>,
    ) -> Result<(), Refusal> {
        self.check_response(Access::REMOTE_ATOMIC, request)?;
        if !eth.address.is_multiple_of(8) {
            return Err(INVALID);
        }
        let place = host
            .regions
            .remote(self.ident.pd, Rkey(eth.rkey), eth.address, 8, Access::REMOTE_ATOMIC)
            .ok_or(NO_ACCESS)?;
        // Several devices, or the program itself, may work on the same word: the processor decides who is first.
        let word = place.word().ok_or(INVALID)?;
        let mut was = word.load(std::sync::atomic::Ordering::Relaxed);
        loop {
            // Orders nothing else: who learns of the operation learns by a packet.
            let relaxed = std::sync::atomic::Ordering::Relaxed;
            match word.compare_exchange_weak(was, becomes(was), relaxed, relaxed) {
                Ok(_) => break,
                Err(now) => was = now,
            }
        }
        self.replies.atomic(request.packet.bth.psn, was);
        self.advance(1, true);
        Ok(())
    }

    /// What reads and atomic operations have in common.
    fn check_response(&self, access: Access, request: &Request<'_, '_>) -> Result<(), Refusal> {
        let between = matches!(self.receiving, Receiving::Nothing);
        if !between || !request.access.allows(access) || self.replies.are_full() {
            return Err(INVALID);
        }
        Ok(())
    }

    /// No receive is there: the peer is to come again later.
    fn not_ready(&mut self, request: &Request<'_, '_>) {
        self.told = true;
        self.refused = true;
        self.parked.clear();
        self.replies.push(Reply::RnrNak(request.packet.bth.psn, request.peer.min_rnr_timer));
    }

    fn complete(
        &mut self,
        wr_id: u64,
        opcode: WcOpcode,
        byte_len: u32,
        imm: Option<u32>,
        request: &Request<'_, '_>,
        host: &mut Host<'_>,
    ) {
        let wc = Wc { wr_id, status: WcStatus::Success, opcode, byte_len, imm, qp: self.ident.num };
        host.effects.received.push((wc, request.packet.bth.solicited));
    }

    /// A packet of a send or write is done.
    fn accept(&mut self, packets: u32, last: bool, request: &Request<'_, '_>) {
        self.advance(packets, last);
        if request.packet.bth.ack_request {
            self.replies.acknowledge(request.packet.bth.psn);
        }
    }

    fn advance(&mut self, packets: u32, last: bool) {
        self.expected = self.expected.plus(packets);
        self.msn = (self.msn + u32::from(last)) & 0xff_ffff;
    }

    /// The next packet for the peer; false when there is none.
    ///
    /// # Errors
    /// Memory that the peer reads was deregistered: this queue pair comes into ERR.
    pub(super) fn next_reply(
        &mut self,
        peer: &RtrAttr,
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, QpEvent> {
        self.replies.next(self.msn, peer, host, out).map_err(|psn| {
            self.replies.clear();
            self.replies.push_last(psn, NakCode::RemoteAccess);
            QpEvent::AccessErr
        })
    }

    /// A message that has begun will not end, in ERR.
    pub(super) fn flush(&mut self, host: &mut Host<'_>) {
        self.parked.clear();
        self.end_receive(WcStatus::WrFlushErr, host);
    }

    fn end_receive(&mut self, status: WcStatus, host: &mut Host<'_>) {
        if let Receiving::Send(wr, _) = std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            host.effects.received.push(self.ident.failed_receive(wr.wr_id, status));
        }
    }
}

impl Request<'_, '_> {
    /// All packets but the last of a message are full, and the last has something, unless it is the only one.
    fn check_length(&self, part: &Part) -> Result<(), Refusal> {
        let (len, mtu) = (self.packet.payload.len(), self.peer.path_mtu.bytes() as usize);
        let right = match (part.first, part.last) {
            (true, true) => len <= mtu,
            (false, true) => (1..=mtu).contains(&len),
            (_, false) => len == mtu,
        };
        if right {
            Ok(())
        } else {
            Err(INVALID)
        }
    }
}

fn event_of(nak: NakCode) -> QpEvent {
    match nak {
        NakCode::RemoteAccess => QpEvent::AccessErr,
        _ => QpEvent::ReqErr,
    }
}
