//! What a peer sends without end until it is killed: short and long messages in turn, each the right one wherever it is received.

use std::collections::HashMap;

use gridnet::core::completion::Completion;
use gridnet::core::rail::PeerId;

use crate::common::{exactly, Buffer, Party};
use crate::hosts::Noise;

/// Lengths, in turn: message `number` has the tag `FIRST_TAG` + `number` % 2.
const LENGTHS: &[usize] = &[8, 100_000];
const FIRST_TAG: u64 = 2;
/// Contexts of receives begin here: the message's number is added.
const CONTEXT: u64 = 1 << 32;
/// Receives that wait at a time.
const AT_ONCE: usize = 32;

pub fn noise() -> Noise {
    Noise::new(LENGTHS)
}

/// Sends the message of this number; true when a completion follows.
pub fn send(party: &Party, to: PeerId, noise: Noise, number: u64) -> bool {
    party.send(to, noise.message(number), FIRST_TAG + number % 2, false).unwrap_or(false)
}

/// Buffers, all of which have been written: what they take does not grow.
pub fn buffers() -> Vec<Buffer> {
    let new = |_| {
        let buffer = Buffer::new(LENGTHS[1]);
        buffer.fill(1);
        buffer
    };
    (0..AT_ONCE).map(new).collect()
}

/// Receives of what one peer sends.
pub struct Streamed<'a> {
    pub party: &'a Party,
    pub from: PeerId,
    noise: Noise,
    free: &'a mut Vec<Buffer>,
    posted: HashMap<u64, Buffer>,
    /// The next message of each tag.
    next: [u64; 2],
    /// Messages that have come, each as it was sent.
    pub came: u64,
}

impl<'a> Streamed<'a> {
    pub fn new(party: &'a Party, from: PeerId, noise: Noise, free: &'a mut Vec<Buffer>) -> Streamed<'a> {
        Streamed { party, from, noise, free, posted: HashMap::new(), next: [0, 1], came: 0 }
    }

    /// Receives the next short (0) or long (1) one; false when no buffer is free, or nothing of it can come any more.
    pub fn receive(&mut self, which: usize) -> bool {
        let Some(buffer) = self.free.pop() else { return false };
        let number = self.next[which];
        let pattern = exactly(self.from, FIRST_TAG + number % 2);
        let mut guard = self.party.enter();
        let cq = self.party.cq;
        if guard.engine.receive(cq, &pattern, buffer.iov(), CONTEXT + number).is_err() {
            self.free.push(buffer);
            return false;
        }
        self.next[which] += 2;
        self.posted.insert(number, buffer);
        true
    }

    /// Checks what has come, if this is the end of one of these receives.
    pub fn take(&mut self, completion: &Completion) {
        let Some(number) = completion.context.checked_sub(CONTEXT) else { return };
        let buffer = self.posted.remove(&number).expect("a receive ends once");
        if completion.status == 0 {
            let expected = self.noise.message(number);
            assert_eq!(completion.length, expected.len() as u64, "message {number}");
            assert!(buffer.first(expected.len()).to_vec() == expected, "message {number} differs");
            self.came += 1;
        }
        self.free.push(buffer);
    }
}
