//! How many packets may be under way: more while all goes well, half as many after a loss, as TCP does (RFC 5681, in packets).
//!
//! A loss makes the requester go back and send everything after it again. So the window is also what a loss costs, and a link
//! that loses one packet in a hundred is usable only with few packets under way.

/// Packets at the beginning: a round trip's worth on a network of a data center.
const FIRST: u32 = 32;
/// Fewest: with less, an acknowledgement that is lost stops everything until the timeout.
const FEWEST: u32 = 8;
/// Most: 1 MiB with packets of 4096 bytes.
const MOST: u32 = 256;

/// The congestion window of a requester, in packets.
pub(super) struct Window {
    size: u32,
    /// Below this the window doubles each round trip, above it grows by one packet.
    threshold: u32,
    /// Packets that were acknowledged since the window has grown last.
    acked: u32,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { size: FIRST, threshold: MOST, acked: 0 }
    }

    /// Packets that may be under way.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// So many packets arrived.
    pub(super) fn acknowledged(&mut self, packets: u32) {
        if self.size < self.threshold {
            self.size = (self.size + packets).min(MOST);
            return;
        }
        self.acked += packets;
        if self.acked >= self.size {
            self.acked -= self.size;
            self.size = (self.size + 1).min(MOST);
        }
    }

    /// A packet was lost.
    pub(super) fn lost(&mut self) {
        self.size = (self.size / 2).max(FEWEST);
        self.threshold = self.size;
        self.acked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_halves_within_its_limits() {
        let mut window = Window::new();
        for _ in 0..100 {
            window.acknowledged(window.size());
        }
        assert_eq!(window.size(), MOST);
        window.lost();
        assert_eq!(window.size(), MOST / 2);
        window.acknowledged(MOST / 2);
        assert_eq!(window.size(), MOST / 2 + 1, "after a loss it grows by one each round");
        for _ in 0..20 {
            window.lost();
        }
        assert_eq!(window.size(), FEWEST);
    }
}
