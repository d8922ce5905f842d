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
    /// No right, but how places are named: peers give addresses of the owner's, not offsets. Of regions that are reached by number.
    pub const BY_ADDRESS: Access = Access(16);

    /// The rights of these bits; none when a bit means nothing.
    pub const fn from_bits(bits: u32) -> Option<Access> {
        if bits & !Access::ALL.0 == 0 {
            Some(Access(bits | Access::LOCAL.0))
        } else {
            None
        }
    }

    /// Reads what [`Self::bits`] has written for a peer, with how places are named.
    pub const fn parse(bits: u32) -> Option<Access> {
        match Access::from_bits(bits & !Access::BY_ADDRESS.0) {
            Some(access) => Some(access.and(Access(bits & Access::BY_ADDRESS.0))),
            None => None,
        }
    }

    /// The offset of a place that a peer has named, in a region at `base`: beyond all bounds for an address before it.
    #[inline(always)]
    pub const fn offset_of(self, place: u64, base: u64) -> u64 {
        if self.allows(Access::BY_ADDRESS) {
            place.wrapping_sub(base)
        } else {
            place
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
        let named = both.and(Access::BY_ADDRESS);
        assert_eq!(Access::parse(named.bits()), Some(named.and(Access::LOCAL)));
        assert_eq!(Access::parse(32), None);
        assert_eq!((named.offset_of(110, 100), both.offset_of(10, 100)), (10, 10));
        assert_eq!(named.offset_of(99, 100), u64::MAX);
    }
}
