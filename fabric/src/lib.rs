//! gridnet: the composition root.
//!
//! Opens the rails that a [`config::Config`] asks for, drives the protocol engine of `gridnet-core` over them, and
//! waits. Programs use it through the C library (`gridnet-capi`); this crate is what that, the command and the
//! personalities share.
//!
//! | file | concept |
//! |---|---|
//! | `config/` | every variable, its value and origin |
//! | `identity.rs` | node id, host number |
//! | `rails.rs`, `tcp.rs` | the rails as one type; how one of them is opened |
//! | `session.rs`, `member.rs` | how the rail tcp knows its peers by a session; the fabric as a member of one |
//! | `assembly/` | endpoints by node id, over the stack that both sides' rules allow |
//! | `nodes.rs` | who is in the session, and who comes and goes |
//! | `fabric.rs` | an engine with a clock and descriptors |
//! | `open.rs`, `take.rs`, `sleep.rs` | what it finds on its host; how completions are taken; how callers sleep |
//! | `explain.rs`, `words.rs` | what people are told of a path, and of what waits |
//! | `regions.rs` | ending regions |
//! | `shared.rs` | thread levels, waiting, the progress thread |
//! | `spin.rs`, `sentry.rs` | how callers poll before they sleep; who of those that sleep looks after the rails |
//! | `stream.rs`, `until.rs` | byte streams, and how their callers wait |
//! | `outlet.rs` | the short way out of an endpoint |
//! | `page/` | what `gridnet explain` and `gridnet top` see |
//! | `verdict.rs` | why a rail is used, or not |
//! | `fork.rs` | noticing a fork |
//! | `lock.rs` | the lock, as the thread sanitizer sees it |
//! | `logging.rs` | where log lines go |

mod adapter;
mod assembly;
pub mod config;
mod explain;
mod fabric;
mod fork;
mod identity;
mod lock;
mod logging;
mod member;
mod nodes;
mod open;
mod outlet;
pub mod page;
mod rails;
mod regions;
mod sentry;
mod session;
mod shared;
mod sleep;
mod spin;
mod stream;
mod take;
mod tcp;
mod until;
mod verbs;
mod verdict;
mod way;
pub mod words;

pub use assembly::{Requirements, SERVICE};
pub use fabric::{Fabric, WaitCounters};
pub use gridnet_assembly::stack::Security;
pub use gridnet_core as core;
pub use gridnet_shm::{is_valid_name, RunDir};
pub use nodes::{Departure, Entry, NodeEvent};
pub use outlet::Outlet;
pub use rails::{run_dir, AnyRail};
pub use shared::{Guard, PlainGuard, Shared, ThreadLevel};
pub use stream::{Listener, Stream};
pub use tcp::examine as examine_tcp;
pub use verbs::examine as examine_verbs;
pub use verdict::Verdict;

/// By which two sides show each other that they have the same key, for what is said beside the rails.
pub mod proof {
    pub use gridnet_uring_tcp::{nonce, Key, NONCE_BYTES, PROOF_BYTES};
}
