//! Maps by numbers that this side has given out: keys, queues, peers of one's own user. Nobody else chooses what is put in, so that no
//! number need be kept from meeting others on purpose, and looking one up costs little.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// See the file.
pub type ByNumber<N, T> = HashMap<N, T, BuildHasherDefault<Spread>>;

/// Spreads a number over all bits, by multiplication with an odd one (2^64 divided by the golden ratio).
#[derive(Debug, Default, Clone)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let spread = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits have seen all of the number, and maps look at the lower ones, too.
        self.0 = spread ^ (spread >> 32);
    }
}
