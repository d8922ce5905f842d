//! Requests that came before one that is missing: kept, and done when that has come, as if they had come then.
//!
//! The peer cannot tell this from a network that has delivered them late. It saves it what it would send again; a peer of
//! another kind sends it again all the same, and then it is old.
//!
//! Of two with one number the first is kept. That the later one took its place would stop no forger: what is forged ahead of its turn
//! is done when the packet before it is, and the genuine one comes after that.

use std::collections::BTreeMap;

use crate::wire::{Bth, Header, Packet, Psn};

/// Packets that are kept: as many as a requester like this one has under way, or 1 MiB of them.
const MOST: usize = 256;
/// How far ahead they may be. A request to read takes as many numbers as it has answers.
const FARTHEST: i32 = 512;

/// A packet with bytes of its own.
pub(super) struct Kept {
    bth: Bth,
    header: Header,
    payload: Vec<u8>,
}

impl Kept {
    pub(super) fn packet(&self) -> Packet<'_> {
        Packet { bth: self.bth, header: self.header, payload: &self.payload }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Parked(BTreeMap<u32, Kept>);

impl Parked {
    /// Keeps a packet whose turn is later, if it is no longer than any is; false when one with its number is here.
    pub(super) fn keep(&mut self, packet: &Packet<'_>, expected: Psn, longest: u32) -> bool {
        let Packet { bth, header, payload } = *packet;
        let number = bth.psn.value();
        if self.0.contains_key(&number) {
            return false;
        }
        let is_near = bth.psn.ahead_of(expected) <= FARTHEST;
        if is_near && payload.len() <= longest as usize && self.0.len() < MOST {
            self.0.insert(number, Kept { bth, header, payload: payload.to_vec() });
        }
        true
    }

    /// The packet whose turn it is, if it is here. Those that will never have one go.
    pub(super) fn take(&mut self, expected: Psn) -> Option<Kept> {
        if self.0.is_empty() {
            return None;
        }
        let found = self.0.remove(&expected.value());
        if found.is_none() {
            self.0.retain(|psn, _| Psn::new(*psn).ahead_of(expected) > 0);
        }
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::QpNum;

    fn packet(psn: u32, payload: &[u8]) -> Packet<'_> {
        Packet { bth: Bth::new(QpNum::new(7), Psn::new(psn)), header: Header::SendMiddle, payload }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut parked, expected) = (Parked::default(), Psn::new(0xff_fff0));
        let far = expected.plus(FARTHEST as u32 + 1);
        parked.keep(&packet(far.value(), b""), expected, 4);
        parked.keep(&packet(expected.plus(1).value(), b"12345"), expected, 4);
        assert!(parked.is_empty(), "too far, and too long");
        for ahead in 1..=300 {
            parked.keep(&packet(expected.plus(ahead).value(), b"1234"), expected, 4);
        }
        assert_eq!(parked.0.len(), MOST);
    }

    #[test]
    fn each_has_its_turn_and_the_old_ones_go() {
        let (mut parked, expected) = (Parked::default(), Psn::new(0xff_fffe));
        assert!(parked.keep(&packet(0, b"first"), expected, 9));
        assert!(!parked.keep(&packet(0, b"second"), expected, 9));
        parked.keep(&packet(5, b"later"), expected, 9);
        assert!(parked.take(expected.plus(1)).is_none());
        assert_eq!(parked.take(expected.plus(2)).unwrap().packet().payload, b"first");
        assert!(parked.take(Psn::new(6)).is_none() && parked.is_empty());
    }
}
