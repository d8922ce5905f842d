//! Numbers that look random and follow from a seed, or from bytes that a fuzzer makes.

/// What each step of the sequence adds to the state.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    /// Decides first, from its end.
    script: Vec<u8>,
}

impl Random {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Random {
        Random { state: seed, script: Vec::new() }
    }

    /// Numbers that follow from two bytes each, so that a fuzzer changes one decision and keeps the others.
    pub fn scripted(script: &[u8]) -> Random {
        Random { state: 0, script: script.iter().rev().copied().collect() }
    }

    /// True when nothing of the script is left.
    pub fn is_out_of_script(&self) -> bool {
        self.script.is_empty()
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        match self.script.pop() {
            // The first values as they are: so small numbers and their order mean something to a fuzzer.
            Some(low) => match u16::from_le_bytes([low, self.script.pop().unwrap_or(0)]) {
                small @ 0..=255 => u64::from(small),
                large => mix(u64::from(large).wrapping_mul(STEP)),
            },
            None => {
                self.state = self.state.wrapping_add(STEP);
                mix(self.state)
            }
        }
    }

    /// A number below `end`, which is not 0. (The bias of the remainder is below one in 2^32 for what tests ask.)
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        // 53 bits: as many as the fraction of a double has.
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// One of some things.
    pub fn pick<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len() as u64) as usize]
    }

    /// That many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        if !self.script.is_empty() {
            return Random::new(self.next_u64()).bytes(len);
        }
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one_and_chances_come_true() {
        let mut random = Random::new(1234567);
        assert_eq!(random.next_u64(), 6457827717110365317);
        assert_eq!(random.next_u64(), 3203168211198807973);
        assert!(!random.chance(0.0) && random.chance(1.0));
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!((2200..2800).contains(&hits), "{hits}");
        assert_eq!(random.bytes(13).len(), 13);
    }

    #[test]
    fn a_script_decides_as_long_as_it_lasts() {
        let mut random = Random::scripted(&[7, 0, 9, 1, 200]);
        assert_eq!(random.next_u64(), 7);
        let mixed = random.next_u64();
        assert!(mixed > 1 << 32, "{mixed}");
        assert!(!random.is_out_of_script());
        assert_eq!(random.next_u64(), 200);
        assert!(random.is_out_of_script());
        assert_eq!(random.next_u64(), Random::new(0).next_u64());
    }
}
