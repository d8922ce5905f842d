//! Endpoints by node id: the members agree on a stack, and the endpoint is opened over the rail of that.
//!
//! | file | concept |
//! |---|---|
//! | `desk.rs` | what the threads that agree, and the fabric, which one thread at a time uses, lay down for each other |
//! | `builder.rs` | what the fabric's rails do for assembly: the place is the fabric's address, for one rail |
//! | `worker.rs` | the threads that agree |
//! | `at_once.rs` | agreeing without them, within a host |
//! | `opening.rs` | the fabric's part: opens addresses, and completes |
//! | `edges.rs` | edges of groups of nodes, which are opened at their first use |
//! | `requirements.rs` | what an endpoint is for, and what it has to be |
//! | `gate.rs` | what may go over a link that stands: streams |
//! | `stories.rs` | how endpoints came about, for people |
//! | `pipes.rs` | connections through the bootstrap tree, where they were agreed on |
//! | `preface.rs` | what the fabrics say of themselves meanwhile |
//! | `permits.rs` | with which nodes that is, and with which plain connections are |
//! | `rules_file.rs` | the file of rules, which may change |
//! | `lookout.rs` | looks for better ways than that |

mod at_once;
mod builder;
mod desk;
mod edges;
mod gate;
mod lookout;
mod opening;
mod permits;
mod pipes;
mod preface;
mod requirements;
mod rules_file;
mod stories;
mod worker;

pub(crate) use at_once::AtOnce;
pub(crate) use builder::{offer, Here};
pub(crate) use desk::{Desk, Ended, Wish};
pub(crate) use edges::Edges;
pub(crate) use gate::StreamGate;
pub(crate) use lookout::Lookout;
pub(crate) use opening::{tend, Calling};
pub(crate) use permits::Direction;
pub(crate) use pipes::{take_pipes, Pipes};
pub use requirements::Requirements;
pub(crate) use rules_file::RulesFile;
pub(crate) use worker::Workers;

/// The service of a node by which others open endpoints to its fabric.
pub const SERVICE: &str = "gridnet";
/// The rail over TCP, sealed.
pub(crate) const TCP: &str = "tcp";
/// The rail over TCP whose frames are plain, between members with whom that was agreed on.
pub const PLAIN: &str = "tcp-plain";
/// The rail over pipes through leaders and the rendez-vous node.
pub const RELAY: &str = "relay";
