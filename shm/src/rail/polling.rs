//! Which links are polled when: the few that spoke last (the hot set) in each round, and one of the others in turn, so that the
//! cost does not grow with the number of idle peers. A cold sender is noticed within four times as many rounds as there are
//! links.

use gridnet_core::rail::Sink;

use super::ShmRail;
use crate::link::Live;

/// While there are hot links, one of the others is polled in so many rounds: each look costs the hot ones a line of the
/// first-level cache.
pub(super) const ROUNDS_PER_SWEEP: u32 = 4;
/// Links that are polled each round.
pub(super) const HOT_LINKS: usize = 4;
impl ShmRail {
    /// Adds a live link to those that are polled.
    pub(crate) fn start_polling(&mut self, index: u32) {
        self.cool(index);
        self.heat(self.cold.len() - 1);
    }

    /// Takes a link out of those that are polled.
    pub(crate) fn stop_polling(&mut self, index: u32) {
        self.hot.retain(|i| *i != index);
        if let Some(at) = self.cold.iter().position(|i| *i == index) {
            self.cold.swap_remove(at);
            self.lookouts.swap_remove(at);
        }
    }

    /// Moves a cold link into the hot set; the one that has been there longest makes room.
    fn heat(&mut self, at: usize) {
        let index = self.cold.swap_remove(at);
        self.lookouts.swap_remove(at);
        if self.hot.len() < HOT_LINKS {
            self.hot.push(index);
            return;
        }
        let place = self.hot_next % HOT_LINKS;
        self.hot_next = self.hot_next.wrapping_add(1);
        let longest = std::mem::replace(&mut self.hot[place], index);
        self.cool(longest);
    }

    /// Hot links that were silent since the last look are cold: each would cost all rounds what one in turn costs.
    pub(super) fn cool_silent(&mut self) {
        if self.hot.len() < 2 {
            return;
        }
        for at in (0..self.hot.len()).rev() {
            let index = self.hot[at];
            let live = self.links.get_mut(index as usize).and_then(|link| link.live.as_mut());
            if live.is_some_and(Live::was_silent) {
                self.hot.swap_remove(at);
                self.cool(index);
            }
        }
    }

    /// Notes for the frames of a link on which core we are.
    pub(super) fn stamp(&mut self, index: u32) {
        if let Some(live) = self.links.get_mut(index as usize).and_then(|link| link.live.as_mut()) {
            live.stamp();
        }
    }

    /// The same, for all links in use.
    pub(super) fn stamp_hot(&mut self) {
        for at in 0..self.hot.len() {
            self.stamp(self.hot[at]);
        }
    }

    /// Adds a live link to the cold ones.
    fn cool(&mut self, index: u32) {
        let Some(live) = self.links.get_mut(index as usize).and_then(|link| link.live.as_mut()) else {
            return;
        };
        live.end_run();
        self.lookouts.push(live.lookout());
        self.cold.push(index);
    }

    #[inline(always)]
    pub(crate) fn deliver<S: Sink>(&mut self, index: u32, budget: usize, sink: &mut S) -> usize {
        let Some(link) = self.links.get_mut(index as usize) else {
            return 0;
        };
        let Some(live) = &mut link.live else { return 0 };
        match live.deliver(link.peer, budget, sink, &mut self.last_core) {
            Ok(taken) => taken,
            Err(refusal) => {
                self.broken.push((index, refusal));
                0
            }
        }
    }

    /// One of the idle links, in turn.
    #[inline]
    pub(super) fn sweep<S: Sink>(&mut self, budget: usize, sink: &mut S) -> usize {
        self.cold_next = if self.cold_next + 1 < self.cold.len() { self.cold_next + 1 } else { 0 };
        let at = self.cold_next;
        let Some(lookout) = self.lookouts.get(at) else { return 0 };
        // SAFETY: the links in `cold` are live, and so the rings of their peers are mapped: `release` takes them out.
        if !unsafe { lookout.may_be_ready() } {
            return 0;
        }
        let index = self.cold[at];
        let taken = self.deliver(index, budget, sink);
        if taken > 0 {
            self.heat(at);
        } else if let Some(live) = self.links.get(index as usize).and_then(|link| link.live.as_ref()) {
            // Somebody else has taken what was there.
            self.lookouts[at] = live.lookout();
        }
        taken
    }

    /// The links that are polled: all that are live.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Live> {
        let indices = self.hot.iter().chain(&self.cold);
        indices.filter_map(|index| self.links.get(*index as usize)?.live.as_ref())
    }
}
