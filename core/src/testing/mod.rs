//! For those who write rails, and for those who test programs over them.
//!
//! A new rail implements [`pair::Fixture`] and hands it to [`crate::conformance_tests`]: each case of the suite
//! becomes a test. [`fault::Faulty`] and [`trace::Traced`] wrap any rail, and one another.
//!
//! | file | concept |
//! |---|---|
//! | `random.rs` | numbers from a seed |
//! | `node.rs` | an engine that owns its buffers |
//! | `remote.rs` | its operations on regions |
//! | `pair.rs` | two nodes over two rails, driven step by step |
//! | `loopback.rs` | the fixture of the loopback rail, in virtual time |
//! | `two_rails.rs` | that of two of them between the same nodes |
//! | `wide.rs` | that of one whose links have several paths |
//! | `fault.rs` | a rail that drops, doubles, delays, reorders, disconnects |
//! | `trace.rs` | a rail that tells what passes |
//! | `kill.rs` | named places at which a test ends its process |
//! | `model.rs` | what random operations of a pair have to end with |
//! | `raw.rs` | a peer that sends whatever frames it is told to |
//! | `conformance/` | the suite |

pub mod conformance;
pub mod fault;
pub mod kill;
pub mod loans;
pub mod loopback;
pub mod model;
pub mod node;
pub mod pair;
pub mod random;
pub mod raw;
pub mod remote;
pub mod trace;
pub mod two_rails;
pub mod wide;
