//! Numbers of 24 bits: packet sequence numbers, which wrap, and numbers of queue pairs.

/// All bits of a number of 24 bits.
const MASK: u32 = (1 << 24) - 1;

/// A packet sequence number: 24 bits, the one after the last is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Psn(u32);

impl Psn {
    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> Psn {
        Psn(value & MASK)
    }

    /// The number, below 2^24.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The number `count` packets later.
    #[must_use]
    pub const fn plus(self, count: u32) -> Psn {
        Psn(self.0.wrapping_add(count) & MASK)
    }

    /// The number `count` packets earlier.
    #[must_use]
    pub const fn minus(self, count: u32) -> Psn {
        Psn(self.0.wrapping_sub(count) & MASK)
    }

    /// Packets from `earlier` to here, going forward: below 2^24.
    pub const fn since(self, earlier: Psn) -> u32 {
        self.0.wrapping_sub(earlier.0) & MASK
    }

    /// How far this number is ahead of `other`, negative when it is behind: the shorter way around, from -2^23 to 2^23 - 1.
    pub const fn ahead_of(self, other: Psn) -> i32 {
        // The sign bit of the 24 goes to the sign bit of the 32, and comes back with its copies.
        ((self.since(other) << 8) as i32) >> 8
    }
}

/// Number of a queue pair: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct QpNum(u32);

impl QpNum {
    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> QpNum {
        QpNum(value & MASK)
    }

    /// The number, below 2^24.
    pub const fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Psn;

    #[test]
    fn numbers_wrap() {
        let last = Psn::new(0xff_ffff);
        assert_eq!(last.plus(1), Psn::new(0));
        assert_eq!(Psn::new(0).minus(1), last);
        assert_eq!(Psn::new(2).since(last), 3);
        assert_eq!(Psn::new(0x0100_0005), Psn::new(5));
    }

    #[test]
    fn the_shorter_way_decides_who_is_ahead() {
        let zero = Psn::new(0);
        assert_eq!(zero.ahead_of(zero), 0);
        assert_eq!(zero.ahead_of(Psn::new(0xff_ffff)), 1);
        assert_eq!(Psn::new(0xff_ffff).ahead_of(zero), -1);
        assert_eq!(Psn::new(0x7f_ffff).ahead_of(zero), 0x7f_ffff);
        assert_eq!(Psn::new(0x80_0000).ahead_of(zero), -0x80_0000);
    }
}
