//! Bytes of a stream that have come and were not read.

use crate::mem::{Gather, Iov, PeerBytes};

/// Memory of the first bytes: two pages, so that streams of short messages stay small.
const FIRST_BYTES: usize = 8 << 10;

/// A ring of bytes that grows to what was needed; its owner bounds what is put in.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// A power of two long, or empty.
    ring: Box<[u8]>,
    /// Where the first byte is; below the length of the ring.
    first: usize,
    len: usize,
}

impl Buffer {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds bytes that a peer has sent.
    pub(super) fn push(&mut self, bytes: &PeerBytes<'_>) {
        let len = bytes.len();
        if self.len + len > self.ring.len() {
            self.grow(self.len + len);
        }
        if self.len == 0 {
            self.first = 0;
        }
        let from = (self.first + self.len) & (self.ring.len() - 1);
        let ahead = len.min(self.ring.len() - from);
        let (wrapped, straight) = self.ring.split_at_mut(from);
        let place = |part: &mut [u8], len: usize| {
            // SAFETY: bytes of the ring, which is private and borrowed by this call; nothing else touches them until the
            // copy is over. `len` is within the part, as both parts together are free.
            unsafe { Iov::new(part.as_mut_ptr(), len.min(part.len())) }
        };
        let places = [place(straight, ahead), place(wrapped, len - ahead)];
        let copied = bytes.copy_to(&Gather::all(&places));
        debug_assert_eq!(copied, len);
        self.len += copied;
    }

    /// Takes as many bytes as there are, and as `to` has room for; returns how many.
    pub(super) fn pop(&mut self, to: &mut [u8]) -> usize {
        let len = self.len.min(to.len());
        let ahead = len.min(self.ring.len() - self.first);
        to[..ahead].copy_from_slice(&self.ring[self.first..self.first + ahead]);
        to[ahead..len].copy_from_slice(&self.ring[..len - ahead]);
        self.len -= len;
        self.first = if len == 0 { self.first } else { (self.first + len) & (self.ring.len() - 1) };
        len
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let mut longer = vec![0; needed.next_power_of_two().max(FIRST_BYTES)].into_boxed_slice();
        let len = self.pop(&mut longer);
        (self.ring, self.first, self.len) = (longer, 0, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random::Random;

    #[test]
    fn bytes_come_out_as_they_went_in_while_the_ring_wraps_and_grows() {
        let mut random = Random::new(7);
        let (mut buffer, mut put, mut got) = (Buffer::default(), 0u32, 0u32);
        let mut out = vec![0; 40_000];
        for round in 0..3000 {
            let most = if round < 1500 { 5_000 } else { 40_000 };
            let bytes: Vec<u8> = (0..random.below(most)).map(|i| (put + i as u32) as u8).collect();
            if buffer.len() + bytes.len() < 100_000 {
                buffer.push(&PeerBytes::from_slice(&bytes));
                put += bytes.len() as u32;
            }
            let room = random.below(most) as usize;
            let popped = buffer.pop(&mut out[..room]);
            assert_eq!(popped, room.min((put - got) as usize));
            assert!(out[..popped].iter().enumerate().all(|(i, byte)| *byte == (got + i as u32) as u8));
            got += popped as u32;
            assert_eq!(buffer.len() as u32, put - got);
        }
    }
}
