//! What is done about packets that the peer misses.
//!
//! A peer that keeps what comes behind a gap, as devices of this kind do, needs the missing packet only, and acknowledges then
//! what it has kept, too: up to the next gap, of which that tells (as NewReno does for TCP, RFC 6582). Others drop what is out of
//! order, so that everything has to be sent again. Which kind the peer is shows with the first packet that is sent again by itself.
//!
//! A packet that was sent again may be lost, too, and so may the last one, behind which nothing shows that it is missing. The timeout of
//! the queue pair is long, as a retry counts. So before that a single packet asks, after some round trips: that counts for nothing.
//! Only who has asked for an answer can miss it: what went without a question waits for the timeout, as else each pause after it
//! would cost a packet and an acknowledgement.

use std::time::Duration;

use super::Requester;
use crate::engine::Host;
use crate::wire::{Bth, Psn, QpNum};
use crate::wr::WcStatus;

/// Round trips without an answer after which a packet asks,
const PROBE_ROUNDS: u32 = 4;
/// and what it takes at least: a process that has the core for itself answers within that.
const PROBE_LEAST: Duration = Duration::from_millis(1);
/// Each further one waits twice as long, so often.
const PROBES: u32 = 6;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Recovery {
    /// Until everything before this number is done, what is missing was lost with the first; none while nothing is missing.
    until: Option<Psn>,
    /// The oldest packet is to be sent again by itself.
    repeat: bool,
    /// The last that was.
    repeated: Option<Psn>,
    /// The peer keeps what comes behind a gap.
    keeps: bool,
}

impl Recovery {
    /// Whether a packet is to be sent again by itself.
    pub(super) fn wants(&self) -> bool {
        self.repeat
    }
}

/// How long answers take, and when one is asked for.
#[derive(Default)]
pub(super) struct Probe {
    /// One beyond a packet that asks, and when it was sent.
    sample: Option<(Psn, Duration)>,
    /// The time of a round trip, smoothed; none while it is not known.
    round: Option<Duration>,
    /// How long the first wait is, which follows from that.
    first: Option<Duration>,
    /// Since the last answer.
    asked: u32,
    pub(super) at: Option<Duration>,
}

impl Probe {
    /// A packet that asks was sent for the first time.
    pub(super) fn sent(&mut self, next: Psn, now: Duration) {
        self.sample.get_or_insert((next, now));
    }

    /// Everything before `una` is done.
    pub(super) fn answered(&mut self, una: Psn, now: Duration) {
        self.asked = 0;
        let Some((_, sent)) = self.sample.filter(|(next, _)| una.ahead_of(*next) >= 0) else { return };
        self.sample = None;
        let took = now.saturating_sub(sent);
        let round = self.round.map_or(took, |round| (7 * round + took) / 8);
        self.round = Some(round);
        self.first = Some((PROBE_ROUNDS * round).max(PROBE_LEAST));
    }

    /// Something is sent again: what is answered now may be the one or the other.
    pub(super) fn forget(&mut self) {
        self.sample = None;
    }

    /// The wait begins anew.
    pub(super) fn wait(&mut self, now: Duration) {
        self.at = match (self.asked, self.first) {
            (0, Some(first)) => Some(now + first),
            (1..PROBES, Some(first)) => Some(now + first * (1 << self.asked)),
            _ => None,
        };
    }
}

impl Requester {
    /// The peer says that it misses the oldest packet. Said once, until something comes.
    pub(super) fn peer_misses(&mut self) -> Result<(), WcStatus> {
        if self.recovering || self.rnr_until.is_some() || self.started == 0 {
            return Ok(());
        }
        self.recovering = true;
        self.retries = self.retries.checked_sub(1).ok_or(WcStatus::RetryExcErr)?;
        self.probe.forget();
        if self.recovery.until.is_none_or(|until| self.una().ahead_of(until) >= 0) {
            self.window.lost();
            self.recovery.until = Some(self.sent_psn);
        }
        self.recovery.repeat = true;
        self.ack_deadline = None;
        Ok(())
    }

    /// More is done, by whatever answer: what was lost with the first may be there by now.
    pub(super) fn after_progress(&mut self) {
        if self.recovery.until.is_some_and(|until| self.una().ahead_of(until) >= 0) {
            self.recovery.until = None;
            self.recovery.repeat = false;
        }
    }

    /// An acknowledgement has come; `before` was the oldest packet then.
    pub(super) fn after_answer(&mut self, before: Psn) {
        let una = self.una();
        if self.recovery.until.is_none() || una == before || self.recovery.repeated != Some(before) {
            return;
        }
        self.recovering = true;
        if una == before.plus(1) && !self.recovery.keeps {
            self.go_back();
            return;
        }
        self.recovery.keeps = true;
        self.recovery.repeat = true;
    }

    /// Everything is sent again.
    pub(super) fn end_recovery(&mut self) {
        let keeps = self.recovery.keeps;
        self.recovery = Recovery { keeps, ..Recovery::default() };
        self.probe.forget();
    }

    /// No answer for some time: one packet asks.
    pub(super) fn probe(&mut self, now: Duration) {
        self.probe.asked += 1;
        self.probe.wait(now);
        if self.recovery.until.is_some() {
            self.recovery.repeat = true;
        } else {
            self.ask();
        }
    }

    /// Appends the oldest packet to `out`, if it is to be sent again by itself.
    ///
    /// # Errors
    /// The memory of the work request at the head is gone.
    pub(super) fn next_repeated(
        &mut self,
        dest_qp: QpNum,
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, WcStatus> {
        let una = self.una();
        if !std::mem::take(&mut self.recovery.repeat) || self.cursor_psn() == una {
            return Ok(false);
        }
        let Some(head) = self.queue.front_mut() else { return Ok(false) };
        let (cursor, sent) = (self.cursor, std::mem::replace(&mut head.sent, head.acked));
        let step = head.next_step();
        let mut bth = Bth::new(dest_qp, una);
        bth.ack_request = true;
        bth.solicited = head.wr.solicited && head.sent + step == head.packets;
        self.cursor = 0;
        let readable = self.encode_next(bth, host, out);
        self.cursor = cursor;
        if let Some(head) = self.queue.front_mut() {
            head.sent = sent;
        }
        if !readable {
            return Err(WcStatus::LocProtErr);
        }
        self.recovery.repeated = Some(una);
        let next = una.plus(step);
        if next.ahead_of(self.asked_psn) > 0 {
            self.asked_psn = next;
        }
        self.wait_for_answer(host.clock.now());
        Ok(true)
    }
}
