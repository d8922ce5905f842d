//! gridnet-core: the protocol of gridnet, without I/O.
/// Marks a named place of a protocol, at which tests of sudden death end the process (`testing/kill.rs`). Nothing at all
/// without the feature `testing`.
#[cfg(any(test, feature = "testing"))]
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {
        $crate::testing::kill::reached($name)
    };
}

#[cfg(not(any(test, feature = "testing")))]
#[macro_export]
#[doc(hidden)]
macro_rules! kill_point {
    ($name:literal) => {{}};
}

pub mod company;
pub mod completion;
mod copy;
pub mod endpoint;
pub mod error;
pub mod filter;
pub mod forward;
pub mod ledger;
pub mod loan;
pub mod loopback;
pub mod matching;
pub mod mem;
mod probes;
pub mod rail;
pub mod region;
pub mod ring;
pub mod stats;
pub mod stream;
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod wire;
