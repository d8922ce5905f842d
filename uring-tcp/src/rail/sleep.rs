//! What has to be done before a process sleeps, and what keeps it awake.

use std::time::Duration;

use gridnet_core::rail::Armed;

use super::TcpRail;
use crate::conn::CALM_FRAMES;
use crate::watch::{Want, READING};

/// Rounds of polling, about a microsecond each where sleep is tried after each, in which nobody sleeps after a call was accepted, and
/// after a link was made of it: the greeting and the first message are on their way, and to be woken for each takes longer.
const AWAKE_ROUNDS: u32 = 96;

impl TcpRail {
    /// Keeps sleepers awake for a moment.
    pub(crate) fn stay_awake(&mut self) {
        self.awake_until = self.round.wrapping_add(AWAKE_ROUNDS);
    }

    /// Whatever comes from now on wakes the process; busy when something has come.
    pub(super) fn fall_asleep(&mut self) -> Armed {
        if (1..=AWAKE_ROUNDS).contains(&self.awake_until.wrapping_sub(self.round)) {
            return Armed::Busy;
        }
        self.watcher.arm();
        if !self.hot.is_empty() {
            self.stalls.want_look();
        }
        self.flush_dirty(true);
        self.acknowledge_all(false);
        for index in std::mem::take(&mut self.hot) {
            if let Some(conn) = self.conn(index) {
                conn.calm = CALM_FRAMES;
            }
            self.watch(index, READING);
        }
        // Those that the kernel has no room for wait for it, too.
        for at in 0..self.dirty.len() {
            self.watch(self.dirty[at], Want { reading: true, writing: true });
        }
        let is_set = self.alarm.set(self.round, &mut self.watcher) == Armed::Yes;
        self.is_armed = is_set && !self.has_news();
        if self.is_armed {
            Armed::Yes
        } else {
            Armed::Busy
        }
    }

    /// Segments are held back. False when nobody could be woken who sleeps already.
    pub(super) fn hold_back(&mut self, span: Duration) -> bool {
        self.alarm.note(self.round, span);
        if !self.is_armed {
            return true;
        }
        let is_set = self.alarm.set(self.round, &mut self.watcher) == Armed::Yes;
        self.watcher.submit();
        is_set
    }

    /// Whether something could be done at once.
    pub(super) fn has_news(&mut self) -> bool {
        self.watcher.submit();
        self.watcher.collect(&mut self.ready);
        !self.ready.is_empty() || !self.noted.is_empty() || !self.ended.is_empty()
    }
}
