//! The books of one direction: what was sent, what the peer has taken, what the device is done with.
//!
//! Each message takes a receive that the peer has posted. The peer says with all that it sends how many it has taken: so many
//! receives were posted again, and so many frames have been delivered. Frames stay in their slots until then, and until the device
//! is done with them, too.

use std::collections::VecDeque;

/// Messages with a frame that may be on their way. Part of the version of the protocol, as are the next two.
pub(crate) const SLOTS: u32 = 64;
/// Further messages, that only say how many were taken: one for each quarter of the slots, as [`Outbox::may_tell`] is asked after
/// so many only, and some.
pub(crate) const RESERVE: u32 = 8;
/// Messages taken after which the peer is told, when nothing else is said to it.
pub(crate) const TELL_AFTER: u64 = SLOTS as u64 / 4;
/// Messages after which the device is asked for a completion.
const SIGNAL_AFTER: u64 = SLOTS as u64 / 4;

/// A frame in its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Number of its message.
    message: u64,
    pub(crate) len: u32,
    /// It is sent again over the next link if the peer has not got it.
    is_sequenced: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Messages sent.
    sent: u64,
    /// Of them: those that the peer has taken,
    taken: u64,
    /// and those that the device is done with.
    completed: u64,
    /// Those up to here will have been completed with the last one that asked for it.
    signaled: u64,
    /// Oldest first, in slots one after the other.
    kept: VecDeque<Kept>,
    /// Slot of the next frame.
    next_slot: u32,
    /// Sequenced frames that were sent,
    sequenced: u64,
    /// and those of them that are kept no more.
    released: u64,
}

impl Outbox {
    /// The slot for a frame, if one may go now.
    pub(crate) fn slot(&self) -> Option<u32> {
        let has_slot = self.kept.len() < SLOTS as usize;
        (has_slot && self.under_way() < u64::from(SLOTS)).then_some(self.next_slot)
    }

    /// Whether a message without a frame may go now.
    pub(crate) fn may_tell(&self) -> bool {
        let most = u64::from(SLOTS + RESERVE);
        self.under_way() < most && self.sent - self.completed < most
    }

    fn under_way(&self) -> u64 {
        self.sent - self.taken
    }

    /// Number of the next message, and whether its completion is to be asked for: so often that slots come back before all are in use,
    /// and no more, as each costs a packet.
    pub(crate) fn next(&self) -> (u64, bool) {
        (self.sent, self.sent + 1 - self.signaled >= SIGNAL_AFTER)
    }

    /// A frame goes from the slot of [`Self::slot`].
    pub(crate) fn note_frame(&mut self, len: u32, is_sequenced: bool, signaled: bool) {
        self.kept.push_back(Kept { message: self.sent, len, is_sequenced });
        self.next_slot = (self.next_slot + 1) % SLOTS;
        self.sequenced += u64::from(is_sequenced);
        self.note_empty(signaled);
    }

    /// A message without a frame goes.
    pub(crate) fn note_empty(&mut self, signaled: bool) {
        self.sent += 1;
        if signaled {
            self.signaled = self.sent;
        }
    }

    /// The peer says how many it has taken, modulo 2^32; false when that cannot be.
    #[must_use]
    pub(crate) fn hear_taken(&mut self, count: u32) -> bool {
        let more = u64::from(count.wrapping_sub(self.taken as u32));
        if more > self.under_way() {
            return false;
        }
        self.taken += more;
        self.release();
        true
    }

    /// The device is done with all messages up to this one.
    pub(crate) fn hear_completed(&mut self, message: u64) {
        self.completed = self.completed.max(message.saturating_add(1).min(self.sent));
        self.release();
    }

    fn release(&mut self) {
        let done = self.taken.min(self.completed);
        while let Some(first) = self.kept.pop_front_if(|first| first.message < done) {
            self.released += u64::from(first.is_sequenced);
        }
    }

    /// Messages sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the device has something to do yet, as far as is known.
    pub(crate) fn is_done(&self) -> bool {
        self.completed == self.sent
    }

    /// Whether a completion that was asked for is still to come.
    pub(crate) fn will_be_done(&self) -> bool {
        self.signaled == self.sent
    }

    /// The sequenced frames after the first `after` ones: slot and length of each; none when there cannot be as many.
    pub(crate) fn retained(&self, after: u64) -> Option<impl Iterator<Item = (u32, u32)> + '_> {
        let skip = after.checked_sub(self.released).filter(|_| after <= self.sequenced)? as usize;
        let first = (self.next_slot + SLOTS - self.kept.len() as u32) % SLOTS;
        let slots = (0..).map(move |at| (first + at) % SLOTS);
        let frames = slots.zip(&self.kept).filter(|(_, kept)| kept.is_sequenced).skip(skip);
        Some(frames.map(|(slot, kept)| (slot, kept.len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(outbox: &mut Outbox, count: u32) {
        for _ in 0..count {
            let slot = outbox.slot().expect("there is room");
            let (_, signaled) = outbox.next();
            outbox.note_frame(slot, true, signaled);
        }
    }

    #[test]
    fn frames_wait_for_both_the_peer_and_the_device() {
        let mut outbox = Outbox::default();
        send(&mut outbox, SLOTS);
        assert!(outbox.slot().is_none() && outbox.may_tell());
        assert!(outbox.hear_taken(10));
        assert!(outbox.slot().is_none(), "the device may send it once more");
        outbox.hear_completed(3);
        send(&mut outbox, 4);
        assert!(outbox.slot().is_none());
        outbox.hear_completed(u64::MAX);
        send(&mut outbox, 6);
        assert!(outbox.slot().is_none(), "the peer has no more receives");
    }

    #[test]
    fn what_the_peer_cannot_have_taken_is_refused() {
        let mut outbox = Outbox::default();
        send(&mut outbox, 5);
        assert!(!outbox.hear_taken(6) && outbox.hear_taken(4));
        assert!(!outbox.hear_taken(3) && outbox.hear_taken(5));
    }

    #[test]
    fn the_reserve_is_bounded() {
        let mut outbox = Outbox::default();
        let told = std::iter::repeat_with(|| {
            let may = outbox.may_tell();
            outbox.note_empty(false);
            may
        });
        assert_eq!(told.take_while(|may| *may).count(), (SLOTS + RESERVE) as usize);
    }

    #[test]
    fn a_completion_is_asked_for_now_and_then() {
        let mut outbox = Outbox::default();
        let asked: Vec<bool> = (0..40)
            .map(|_| {
                let (_, signaled) = outbox.next();
                outbox.note_frame(0, true, signaled);
                signaled
            })
            .collect();
        let places: Vec<usize> = (0..40).filter(|at| asked[*at]).collect();
        assert_eq!(places, [15, 31]);
        outbox.hear_completed(31);
        assert!(!outbox.next().1 && !outbox.will_be_done() && !outbox.is_done());
    }

    #[test]
    fn what_the_peer_has_not_got_is_handed_out_once_and_in_order() {
        let mut outbox = Outbox::default();
        for number in 0..100u32 {
            let slot = outbox.slot().expect("there is room");
            outbox.note_frame(number, number % 3 != 0, true);
            assert_eq!(slot, number % SLOTS);
            if number < 90 {
                outbox.hear_completed(number.into());
                assert!(outbox.hear_taken(number + 1));
            }
        }
        let kept: Vec<u32> = (90..100).filter(|number| number % 3 != 0).collect();
        let sent_before = (0..90).filter(|number| number % 3 != 0).count() as u64;
        for skip in 0..=kept.len() {
            let retained = outbox.retained(sent_before + skip as u64).expect("so many were sent");
            assert_eq!(retained.map(|(_, len)| len).collect::<Vec<_>>(), kept[skip..]);
        }
        assert!(outbox.retained(sent_before - 1).is_none());
        assert!(outbox.retained(sent_before + kept.len() as u64 + 1).is_none());
    }
}
