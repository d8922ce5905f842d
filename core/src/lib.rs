//! gridnet-core: the protocol of gridnet, without I/O.
pub mod completion;
pub mod endpoint;
pub mod error;
pub mod filter;
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
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod wire;
