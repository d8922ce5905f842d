//! The rail of gridnet between hosts: TCP.
//!
//! A link is one connection. Busy sockets are read and written by plain calls that never block; those on which little happens
//! are watched by io_uring, or by epoll where that is not to be had.
//!
//! | file | concept |
//! |---|---|
//! | `rail.rs`, `link.rs` | the rail, and its links: polling, sleep, ends |
//! | `conn.rs` | one connection over which frames flow |
//! | `line.rs`, `courier.rs` | who sends what has waited when the program does not call again |
//! | `out.rs`, `frame_in.rs` | what goes out and is kept, what comes in |
//! | `shallow.rs`, `bell.rs` | how much of large messages is on its way while small ones come and go, and what wakes whoever waits for that |
//! | `call.rs`, `visitor.rs` | links that this side, or another, is making |
//! | `greet.rs`, `relisten.rs`, `review.rs` | who gets a link, also when descriptors have run out; and who keeps it |
//! | `way.rs` | connections that others make, to peers that no address leads to |
//! | `paths.rs`, `path.rs` | several paths of a link: which there are to be, and what one carries |
//! | `pulse.rs`, `stall.rs` | whether the way to a peer is still there, and whether the peer takes anything |
//! | `handshake.rs`, `auth.rs` | what is said before frames flow, and who may |
//! | `candidates.rs`, `own.rs`, `listener.rs` | addresses of this host and of peers |
//! | `watch.rs`, `ring.rs`, `epoll.rs` | sockets on which little happens; as an option, io_uring receives from all |
//! | `socket.rs`, `tls.rs` | sockets, and what seals what goes over them in a session |
//! | `config.rs` | what a rail is opened with |
//! | `testing.rs` | (feature `testing`) ears for the fuzzer |

mod auth;
mod bell;
mod call;
mod candidates;
mod config;
mod conn;
mod courier;
mod epoll;
mod frame_in;
mod greet;
mod handshake;
mod line;
mod link;
mod listener;
mod out;
mod own;
mod path;
mod paths;
mod pulse;
mod rail;
mod relisten;
mod review;
mod ring;
mod shallow;
mod socket;
mod stall;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod unheard;
mod visitor;
mod watch;
mod way;

/// Whether io_uring can be had, as one thread uses it.
///
/// # Errors
/// [`Error::Unsupported`](gridnet_core::error::Error::Unsupported), with the reason.
pub fn io_uring() -> Result<(), gridnet_core::rail::Refusal> {
    ring::Ring::new(ring::Task::Watch, true).map(drop)
}

/// Whether what watches sockets, or receives from them, can be had as one thread uses it.
///
/// # Errors
/// Why not.
pub fn engine(engine: Engine) -> Result<(), gridnet_core::rail::Refusal> {
    watch::Watcher::open(engine, true).map(drop)
}

pub use auth::{nonce, Key, Security, NONCE_BYTES, PROOF_BYTES};
pub use candidates::Interfaces;
pub use config::{Engine, Multirail, PortRange, TcpConfig, Tuning, Window, MAX_PATHS};
pub use rail::TcpRail;
pub use tls::Session;
pub use way::{Adopter, Way};
