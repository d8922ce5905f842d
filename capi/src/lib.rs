//! The C API of gridnet: `gridnet.h` and `libgridnet.so`.
//!
//! Nothing but the boundary: arguments are checked, handles resolved, panics stopped; everything else is done by the
//! crate `gridnet`. Conventions, the same for each function:
//!
//! * the result is a status: 0 done, positive in progress or a number of things, negative an error;
//! * outputs come last and are written on success only;
//! * a required pointer that is NULL is `GRIDNET_ERR_NULL`, a closed handle `GRIDNET_ERR_HANDLE`;
//! * `gridnet_last_error` has the details of the calling thread's last failure.
//!
//! | file | concept |
//! |---|---|
//! | `handle.rs` | objects behind pointers, and their end |
//! | `status.rs` | numbers and texts of errors |
//! | `boundary.rs` | what each function does at its beginning and end |
//! | `fabric.rs`, `cq.rs`, `endpoint.rs`, `group.rs` | one object each |
//! | `ranks.rs` | what a group keeps of its ranks |
//! | `node.rs`, `open_node.rs` | nodes of the session, endpoints to them |
//! | `location.rs` | what an address says |
//! | `tag.rs` | tagged messages |
//! | `probe.rs` | probes, and messages that they take |
//! | `iov.rs` | pieces of memory |
//! | `region.rs` | regions and keys |
//! | `onesided.rs` | put, get, atomic operations, flush |
//! | `loan.rs` | messages that are read where they were written |
//! | `listener.rs`, `stream.rs` | byte streams |
//! | `counters.rs` | counters and explanations |

#![allow(non_camel_case_types, reason = "the names are those of the C API")]

mod boundary;
pub mod counters;
pub mod cq;
pub mod endpoint;
pub mod fabric;
pub mod group;
mod grow;
mod handle;
pub mod iov;
pub mod listener;
pub mod loan;
pub mod location;
pub mod node;
pub mod onesided;
pub mod open_node;
pub mod probe;
mod ranks;
pub mod region;
pub mod status;
pub mod stream;
pub mod tag;

pub use counters::*;
pub use cq::*;
pub use endpoint::*;
pub use fabric::*;
pub use group::*;
pub use iov::*;
pub use listener::*;
pub use loan::*;
pub use location::*;
pub use node::*;
pub use onesided::*;
pub use open_node::*;
pub use probe::*;
pub use region::*;
pub use status::*;
pub use stream::*;
pub use tag::*;
