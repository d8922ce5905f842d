//! Rights on a region.

/// What peers may do with a region, as bits. The C ABI's `GRIDNET_ACCESS_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u32);

impl Access {
    /// Nothing by peers.
    pub const LOCAL: Access = Access(1);
    /// Peers get.
    pub const REMOTE_READ: Access = Access(2);
    /// Peers put.
    pub const REMOTE_WRITE: Access = Access(4);
    /// Peers run atomic operations.
    pub const REMOTE_ATOMIC: Access = Access(8);
    /// Everything.
    pub const ALL: Access = Access(15);

    /// The rights of these bits; none when a bit means nothing.
    pub const fn from_bits(bits: u32) -> Option<Access> {
        if bits & !Access::ALL.0 == 0 {
            Some(Access(bits | Access::LOCAL.0))
        } else {
            None
        }
    }

    /// As bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    /// True when these rights include `other`.
    #[inline(always)]
    pub const fn allows(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_what_was_given_and_no_more() {
        let both = Access::REMOTE_READ.and(Access::REMOTE_ATOMIC);
        assert!(both.allows(Access::REMOTE_READ) && both.allows(Access::REMOTE_ATOMIC));
        assert!(!both.allows(Access::REMOTE_WRITE));
        assert_eq!(Access::from_bits(both.bits()), Some(both.and(Access::LOCAL)));
        assert_eq!(Access::from_bits(16), None);
    }
}
