//! What libfabric's headers say, by hand: libfabric 1.17 to 2.5. Structures that grew are declared as they are in 2.5; what is
//! behind the end of 1.17's is only touched when the program asked for an API that has it.
//!
//! Nothing of libfabric is linked: a provider is loaded where its symbols cannot be found.

pub(crate) mod errno;
pub(crate) mod flag;
pub(crate) mod info;
pub(crate) mod message;
pub(crate) mod object;

/// `FI_VERSION`.
pub(crate) const fn version(major: u32, minor: u32) -> u32 {
    major << 16 | minor
}

/// An address in an address vector.
pub(crate) type FiAddr = u64;

/// `FI_ADDR_UNSPEC`, and `FI_ADDR_NOTAVAIL`.
pub(crate) const ADDR_UNSPEC: FiAddr = u64::MAX;
