//! The send queue: work requests become packets, answers complete them, what is lost is sent again: `recovery.rs` has how.
//!
//! Invariants: the first `started` work requests have numbers, one after the other; only the first of them is done in part
//! (`acked`); of those after `cursor` nothing was sent in this round.

mod recovery;

use std::collections::VecDeque;
use std::time::Duration;

use self::recovery::{Probe, Recovery};
use super::window::Window;
use super::wqe::Wqe;
use super::{encode, length_of, Effects, Error, Host, Ident, QpEvent, Shape};
use crate::attr::{AckTimeout, Mtu, RtsAttr, RNR_RETRY_FOREVER};
use crate::wire::{Aeth, Bth, Header, NakCode, Packet, Psn, QpNum, RnrTimer, Syndrome};
use crate::wr::{Data, SendOp, SendWr, Wc, WcStatus};

/// At least each so many packets ask for an acknowledgement.
const ACK_EACH: u32 = 16;

/// The half of a queue pair that sends requests.
pub(super) struct Requester {
    ident: Ident,
    shape: Shape,
    attr: Timing,
    queue: VecDeque<Wqe>,
    /// Work requests at the head that have numbers.
    started: usize,
    /// The one whose packet is sent next; `started` when all of theirs were.
    cursor: usize,
    /// Number for the next work request that starts.
    next_psn: Psn,
    /// One beyond the last number that was ever sent.
    sent_psn: Psn,
    window: Window,
    /// One beyond the last number that was sent and will be answered if it arrives, as it asks for that or is read or atomic.
    asked_psn: Psn,
    /// When the oldest packet that was sent counts as lost; none while nothing is under way, and while the peer has asked for silence.
    ack_deadline: Option<Duration>,
    /// Until when the peer has asked for silence.
    rnr_until: Option<Duration>,
    /// Times that may still be sent again without progress.
    retries: u8,
    rnr_retries: u8,
    /// Everything was sent again because of an answer that was missing; further ones that are missing tell nothing new.
    recovering: bool,
    recovery: Recovery,
    probe: Probe,
    /// The memory of one that was sent before is gone, so that the last packet cannot ask any more: each one does.
    asks_always: bool,
    draining: bool,
}

/// What goes with RTS.
#[derive(Clone, Copy)]
struct Timing {
    mtu: Mtu,
    timeout: AckTimeout,
    retry_cnt: u8,
    rnr_retry: u8,
    max_rd_atomic: u8,
}

impl Requester {
    pub(super) fn new(ident: Ident, shape: Shape) -> Requester {
        let attr = Timing {
            mtu: Mtu::B1024,
            timeout: AckTimeout::new(0),
            retry_cnt: 0,
            rnr_retry: 0,
            max_rd_atomic: 0,
        };
        Requester {
            ident,
            shape,
            attr,
            queue: VecDeque::new(),
            started: 0,
            cursor: 0,
            next_psn: Psn::default(),
            sent_psn: Psn::default(),
            asked_psn: Psn::default(),
            window: Window::new(),
            ack_deadline: None,
            rnr_until: None,
            retries: 0,
            rnr_retries: 0,
            recovering: false,
            recovery: Recovery::default(),
            probe: Probe::default(),
            asks_always: false,
            draining: false,
        }
    }

    pub(super) fn start(&mut self, attr: &RtsAttr, mtu: Mtu) {
        self.attr = Timing {
            mtu,
            timeout: attr.timeout,
            retry_cnt: attr.retry_cnt,
            rnr_retry: attr.rnr_retry,
            max_rd_atomic: attr.max_rd_atomic,
        };
        self.next_psn = attr.sq_psn;
        self.sent_psn = attr.sq_psn;
        self.asked_psn = attr.sq_psn;
        self.retries = attr.retry_cnt;
        self.rnr_retries = attr.rnr_retry;
    }

    /// Whether a work request can be one of this queue pair.
    pub(super) fn check(&self, wr: &SendWr) -> Result<(), Error> {
        let len = length_of(&wr.data).ok_or(Error::Invalid)?;
        let fits = match &wr.data {
            Data::Sges(sges) => sges.len() <= self.shape.max_sge,
            // Reads and atomic operations need a place for what comes back.
            Data::Inline(bytes) => bytes.len() <= self.shape.max_inline && !wr.op.needs_response(),
        };
        let is_word = match wr.op {
            SendOp::CompareSwap { remote, .. } | SendOp::FetchAdd { remote, .. } => {
                len == 8 && remote.address.is_multiple_of(8)
            }
            _ => true,
        };
        if !fits || !is_word {
            return Err(Error::Invalid);
        }
        Ok(())
    }

    pub(super) fn post(&mut self, wr: SendWr) -> Result<(), Error> {
        if self.queue.len() >= self.shape.max_send_wr {
            return Err(Error::Full);
        }
        if wr.op.needs_response() && self.attr.max_rd_atomic == 0 {
            return Err(Error::Invalid);
        }
        self.queue.push_back(Wqe::new(wr));
        Ok(())
    }

    pub(super) fn drain(&mut self, effects: &mut Effects) {
        self.draining = true;
        if !self.is_asked() {
            self.ask();
        }
        self.tell_drained(effects);
    }

    pub(super) fn resume(&mut self) {
        self.draining = false;
    }

    fn tell_drained(&self, effects: &mut Effects) {
        if self.draining && self.started == 0 {
            effects.events.push(QpEvent::SqDrained);
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        // Who waits for an answer may ask before that.
        let answer = match (self.ack_deadline, self.probe.at.filter(|_| self.is_asked())) {
            (Some(answer), Some(probe)) => Some(answer.min(probe)),
            (answer, _) => answer,
        };
        match (answer, self.rnr_until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// # Errors
    /// How the work request at the head has failed.
    pub(super) fn timer(&mut self, host: &mut Host<'_>) -> Result<(), WcStatus> {
        if self.rnr_until.is_some_and(|until| until <= host.clock.now()) {
            self.rnr_until = None;
        }
        if self.ack_deadline.is_some_and(|deadline| deadline <= host.clock.now()) {
            self.ack_deadline = None;
            self.recovering = false;
            if !self.is_asked() {
                // Once: whether the question could leave or not, the next silence is a retry, and those are counted.
                self.ask();
                self.asked_psn = self.sent_psn;
                self.wait_for_answer(host.clock.now());
                return Ok(());
            }
            return self.retry();
        }
        // Where nothing was asked for, no answer is late.
        let is_waiting = self.ack_deadline.is_some() && self.is_asked();
        if is_waiting && self.probe.at.is_some_and(|at| at <= host.clock.now()) {
            self.probe(host.clock.now());
        }
        Ok(())
    }

    /// Whether the peer was asked to answer something of what is under way.
    fn is_asked(&self) -> bool {
        self.asked_psn.ahead_of(self.una()) > 0
    }

    /// Sends the last packet again, which then asks for an acknowledgement: of all that nobody waits for, and if one is missing the
    /// peer says so.
    fn ask(&mut self) {
        if self.cursor_psn() == self.una() {
            return;
        }
        if self.queue.get(self.cursor).is_none_or(|wqe| self.cursor == self.started || wqe.sent == 0) {
            self.cursor -= 1;
        }
        self.queue[self.cursor].sent -= 1;
    }

    /// Number of the oldest packet that is not done.
    fn una(&self) -> Psn {
        match self.queue.front() {
            Some(head) if self.started > 0 => head.first.plus(head.acked),
            _ => self.next_psn,
        }
    }

    /// Number of the packet that is sent next.
    fn cursor_psn(&self) -> Psn {
        match self.queue.get(self.cursor) {
            Some(wqe) if self.cursor < self.started => wqe.first.plus(wqe.sent),
            _ => self.next_psn,
        }
    }

    /// False when there is nothing to send, which is quicker to say than to find out.
    pub(super) fn may_send(&self) -> bool {
        self.cursor < self.started || self.started < self.queue.len() || self.recovery.wants()
    }

    /// Appends the next packet to `out`; false when none may go now.
    ///
    /// # Errors
    /// How the work request at the head has failed.
    pub(super) fn next_request(
        &mut self,
        dest_qp: QpNum,
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, WcStatus> {
        if self.rnr_until.is_some() {
            return Ok(false);
        }
        if self.next_repeated(dest_qp, host, out)? {
            return Ok(true);
        }
        let under_way = self.cursor_psn().since(self.una());
        if under_way >= self.window.size() {
            return Ok(false);
        }
        if self.cursor == self.started && !self.start_next(host)? {
            return Ok(false);
        }
        let wqe = &self.queue[self.cursor];
        if wqe.wr.op.needs_response() && self.reads_under_way() >= u32::from(self.attr.max_rd_atomic) {
            return Ok(false);
        }
        let step = wqe.next_step();
        let psn = wqe.first.plus(wqe.sent);
        let end = wqe.sent + step == wqe.packets;
        let mut bth = Bth::new(dest_qp, psn);
        bth.ack_request = (end && self.is_awaited(wqe))
            || self.asks_always
            || self.is_due(psn, step)
            || under_way + step >= self.window.size()
            // The last that was ever sent comes again: what is missing behind it would not be noticed.
            || self.sent_psn == psn.plus(step);
        let asks = bth.ack_request || wqe.wr.op.needs_response();
        bth.solicited = wqe.wr.solicited && end;
        if !self.encode_next(bth, host, out) {
            // The memory is gone. What was sent before is to be finished first, and then this is the head.
            if self.cursor == 0 {
                return Err(WcStatus::LocProtErr);
            }
            self.asks_always = true;
            return Ok(false);
        }
        let wqe = &mut self.queue[self.cursor];
        wqe.sent += step;
        self.cursor += usize::from(end);
        let next = psn.plus(step);
        if next.ahead_of(self.sent_psn) > 0 {
            self.sent_psn = next;
            if asks {
                self.probe.sent(next, host.clock.now());
            }
        }
        let is_first_question = asks && !self.is_asked();
        if asks && next.ahead_of(self.asked_psn) > 0 {
            self.asked_psn = next;
        }
        // The time before the first question was no time in which the peer had to answer.
        if self.ack_deadline.is_none() || is_first_question {
            self.wait_for_answer(host.clock.now());
        }
        Ok(true)
    }

    /// Whether so many packets went without a question that this one has to ask.
    fn is_due(&self, psn: Psn, step: u32) -> bool {
        if psn.ahead_of(self.sent_psn) < 0 {
            // It was asked about when it was sent first, and that may have been lost.
            return psn.value().is_multiple_of(ACK_EACH);
        }
        psn.plus(step).ahead_of(self.asked_psn) >= ACK_EACH as i32
    }

    /// Whether somebody waits for the end of a request: the program for its completion, a send queue that is half full for
    /// room. Without a timeout nobody would ask later.
    fn is_awaited(&self, wqe: &Wqe) -> bool {
        wqe.wr.signaled
            || self.shape.signal_all
            || self.draining
            || 2 * self.queue.len() >= self.shape.max_send_wr
            || self.attr.timeout.time().is_none()
    }

    /// Gives the next work request its numbers, if there is one that may begin.
    fn start_next(&mut self, host: &mut Host<'_>) -> Result<bool, WcStatus> {
        let Some(wqe) = self.queue.get(self.started) else { return Ok(false) };
        let mut ahead = self.queue.iter().take(self.started);
        if self.draining || (wqe.wr.fence && ahead.any(|wqe| wqe.wr.op.needs_response())) {
            return Ok(false);
        }
        let Some(wqe) = self.queue.get_mut(self.started) else { return Ok(false) };
        if !wqe.reaches_memory(&self.ident, host.regions) {
            return if self.started == 0 { Err(WcStatus::LocProtErr) } else { Ok(false) };
        }
        wqe.start(self.next_psn, self.attr.mtu);
        self.next_psn = self.next_psn.plus(wqe.packets);
        self.started += 1;
        Ok(true)
    }

    fn reads_under_way(&self) -> u32 {
        self.queue.iter().take(self.cursor + 1).map(Wqe::requests_under_way).sum()
    }

    /// False when the bytes cannot be read.
    fn encode_next(&self, bth: Bth, host: &Host<'_>, out: &mut Vec<u8>) -> bool {
        let wqe = &self.queue[self.cursor];
        let header = wqe.next_header(self.attr.mtu);
        if !header.has_payload() {
            encode(bth, header, &[], out);
            return true;
        }
        let (skip, len) = wqe.part(wqe.sent, self.attr.mtu);
        Packet::encode_head(&bth, &header, len as usize, out);
        let readable = match &wqe.wr.data {
            Data::Inline(bytes) => {
                out.extend_from_slice(bytes.get(skip as usize..(skip + len) as usize).unwrap_or_default());
                true
            }
            Data::Sges(sges) => host.regions.gather(self.ident.pd, sges, skip, len, out),
        };
        Packet::encode_padding(len as usize, out);
        readable
    }

    /// From now on an answer is waited for.
    fn wait_for_answer(&mut self, now: Duration) {
        self.ack_deadline = self.attr.timeout.time().map(|time| now + time);
        self.probe.wait(now);
    }

    /// An answer of the peer. What is not about a packet that is under way says nothing.
    ///
    /// # Errors
    /// How the work request at the head has failed.
    pub(super) fn response(&mut self, packet: &Packet<'_>, host: &mut Host<'_>) -> Result<(), WcStatus> {
        let psn = packet.bth.psn;
        if psn.since(self.una()) >= self.sent_psn.since(self.una()) {
            return Ok(());
        }
        match packet.header {
            Header::Acknowledge(aeth) => self.acknowledgement(psn, aeth, host),
            Header::ReadResponseFirst(_) | Header::ReadResponseMiddle => self.data(packet, false, host),
            Header::ReadResponseLast(_) | Header::ReadResponseOnly(_) => self.data(packet, true, host),
            Header::AtomicAcknowledge(_, original) => self.original(psn, original, host),
            _ => Ok(()),
        }
    }

    fn acknowledgement(&mut self, psn: Psn, aeth: Aeth, host: &mut Host<'_>) -> Result<(), WcStatus> {
        let una = self.una();
        match aeth.syndrome {
            Syndrome::Ack(_) => {
                if !self.advance(psn.plus(1), host) {
                    return self.answer_missing();
                }
                self.after_answer(una);
                Ok(())
            }
            _ if !self.advance(psn, host) => self.answer_missing(),
            // The network may have repeated it: it says nothing new.
            Syndrome::RnrNak(_) if self.rnr_until.is_some() && psn == una => Ok(()),
            Syndrome::RnrNak(timer) => self.not_ready(timer, host),
            Syndrome::Nak(NakCode::PsnSequence) => self.peer_misses(),
            Syndrome::Nak(NakCode::InvalidRequest | NakCode::InvalidRdRequest) => Err(WcStatus::RemInvReqErr),
            Syndrome::Nak(NakCode::RemoteAccess) => Err(WcStatus::RemAccessErr),
            Syndrome::Nak(NakCode::RemoteOperation) => Err(WcStatus::RemOpErr),
            Syndrome::Reserved(_) => Ok(()),
        }
    }

    /// An answer to a read.
    fn data(&mut self, packet: &Packet<'_>, last: bool, host: &mut Host<'_>) -> Result<(), WcStatus> {
        if !self.advance(packet.bth.psn, host) {
            return self.answer_missing();
        }
        let Some(head) = self.queue.front() else { return Ok(()) };
        let (skip, len) = head.part(head.acked, self.attr.mtu);
        let fits = packet.payload.len() == len as usize && head.ends_chunk(head.acked) == last;
        if !head.wr.op.needs_response() || head.wr.op.is_atomic() || !fits {
            return Err(WcStatus::BadRespErr);
        }
        if !host.regions.scatter(self.ident.pd, head.sges(), skip, packet.payload) {
            return Err(WcStatus::LocProtErr);
        }
        self.done(1, host);
        Ok(())
    }

    /// The answer to an atomic operation.
    fn original(&mut self, psn: Psn, original: u64, host: &mut Host<'_>) -> Result<(), WcStatus> {
        if !self.advance(psn, host) {
            return self.answer_missing();
        }
        let Some(head) = self.queue.front() else { return Ok(()) };
        if !head.wr.op.is_atomic() {
            return Err(WcStatus::BadRespErr);
        }
        if !host.regions.scatter(self.ident.pd, head.sges(), 0, &original.to_ne_bytes()) {
            return Err(WcStatus::LocProtErr);
        }
        self.done(1, host);
        Ok(())
    }

    /// Takes everything before `end` for done, up to a read or atomic operation whose answer is missing: then false.
    fn advance(&mut self, end: Psn, host: &mut Host<'_>) -> bool {
        let all = end.since(self.una());
        let mut left = all;
        let mut is_missing = false;
        while let Some(head) = self.queue.front().filter(|_| left > 0) {
            is_missing = head.wr.op.needs_response();
            if is_missing {
                break;
            }
            let step = left.min(head.packets - head.acked);
            left -= step;
            self.finish(step, host.effects);
        }
        if left < all {
            self.progressed(host);
        }
        !is_missing
    }

    /// So many more packets of the head are done, and nothing else for now.
    fn done(&mut self, packets: u32, host: &mut Host<'_>) {
        self.finish(packets, host.effects);
        self.progressed(host);
    }

    fn finish(&mut self, packets: u32, effects: &mut Effects) {
        self.window.acknowledged(packets);
        let Some(head) = self.queue.front_mut() else { return };
        head.acked += packets;
        head.sent = head.sent.max(head.acked);
        let complete = head.acked == head.packets;
        if head.sent == head.packets && self.cursor == 0 {
            self.cursor = 1;
        }
        if complete {
            self.complete_head(effects);
        }
    }

    /// What follows when anything is done.
    fn progressed(&mut self, host: &mut Host<'_>) {
        self.retries = self.attr.retry_cnt;
        self.rnr_retries = self.attr.rnr_retry;
        self.recovering = false;
        self.after_progress();
        // What is to be sent again, and was not yet, is not waited for.
        let is_under_way = self.cursor_psn() != self.una() && self.rnr_until.is_none();
        self.ack_deadline = None;
        self.probe.answered(self.una(), host.clock.now());
        if is_under_way {
            self.wait_for_answer(host.clock.now());
        }
    }

    fn complete_head(&mut self, effects: &mut Effects) {
        let Some(wqe) = self.queue.pop_front() else { return };
        self.started -= 1;
        self.cursor -= 1;
        if wqe.wr.signaled || self.shape.signal_all {
            effects.sent.push(Wc {
                wr_id: wqe.wr.wr_id,
                status: WcStatus::Success,
                opcode: wqe.opcode(),
                byte_len: wqe.len,
                imm: None,
                qp: self.ident.num,
            });
        }
        self.tell_drained(effects);
    }

    /// A later answer came first. Said once, until something comes; and not while everything is to
    /// be sent again anyway, when the silence ends that the peer has asked for.
    fn answer_missing(&mut self) -> Result<(), WcStatus> {
        if self.recovering || self.rnr_until.is_some() {
            return Ok(());
        }
        self.recovering = true;
        self.retry()
    }

    /// Sends everything again that is not done. The time to wait begins when the first of it is sent.
    fn retry(&mut self) -> Result<(), WcStatus> {
        if self.started == 0 {
            return Ok(());
        }
        self.retries = self.retries.checked_sub(1).ok_or(WcStatus::RetryExcErr)?;
        self.window.lost();
        self.go_back();
        self.end_recovery();
        self.ack_deadline = None;
        Ok(())
    }

    fn not_ready(&mut self, timer: RnrTimer, host: &mut Host<'_>) -> Result<(), WcStatus> {
        if self.attr.rnr_retry != RNR_RETRY_FOREVER {
            self.rnr_retries = self.rnr_retries.checked_sub(1).ok_or(WcStatus::RnrRetryExcErr)?;
        }
        self.go_back();
        self.end_recovery();
        self.ack_deadline = None;
        self.rnr_until = Some(host.clock.now() + timer.time());
        Ok(())
    }

    fn go_back(&mut self) {
        for wqe in self.queue.iter_mut().take(self.started) {
            wqe.sent = wqe.acked;
        }
        self.cursor = 0;
    }

    /// The work request at the head ends like this.
    pub(super) fn fail_head(&mut self, status: WcStatus, effects: &mut Effects) {
        if let Some(wqe) = self.queue.pop_front() {
            effects.sent.push(self.ident.failed(wqe.wr.wr_id, status, wqe.opcode()));
        }
    }

    /// All work requests end, undone.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        while !self.queue.is_empty() {
            self.fail_head(WcStatus::WrFlushErr, effects);
        }
        (self.started, self.cursor) = (0, 0);
        (self.ack_deadline, self.rnr_until) = (None, None);
    }

    /// A work request that is posted too late.
    pub(super) fn flush_one(&mut self, wr: &SendWr, effects: &mut Effects) {
        let opcode = Wqe::new(wr.clone()).opcode();
        effects.sent.push(self.ident.failed(wr.wr_id, WcStatus::WrFlushErr, opcode));
    }
}
