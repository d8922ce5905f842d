//! The rail of gridnet over verbs: reliable connected queue pairs, on whatever device there is.
//!
//! A link is a queue pair. Frames go as SEND into receives that the peer has posted before; the immediate data of each says how many
//! messages this side has taken, which is credit and acknowledgement at once. Numbers of queue pairs are exchanged over a TCP
//! connection that stays: its end is the end of the link.
//!
//! | file | concept |
//! |---|---|
//! | `device.rs` | the seam: what the rail needs of a device |
//! | `soft.rs` | the software device of `gridnet-rdma-sim` behind it |
//! | `ibv/` | RDMA adapters behind it, through libibverbs |
//! | `arena.rs` | memory that a device reads and writes |
//! | `fetch.rs` | memory of the program that a device reaches: large messages are fetched |
//! | `conn.rs`, `outbox.rs` | one connection over which frames flow; what its peer has not taken yet |
//! | `wire.rs`, `hello.rs` | the TCP connection beside it, and what is said there |
//! | `call.rs`, `visitor.rs` | links that this side, or another, is making |
//! | `watch.rs` | sockets on which little happens |
//! | `rail.rs`, `rail/` | the rail: who gets a link, polling, ends |
//! | `config.rs` | what a rail is opened with |

#![deny(unsafe_code)]

#[expect(unsafe_code)] // The one place that touches memory that a device reaches, too.
mod arena;
mod call;
mod config;
mod conn;
pub mod device;
#[expect(unsafe_code)] // Memory of the program is a promise of whoever has it sent, or received into.
mod fetch;
mod hello;
pub mod ibv;
mod outbox;
mod rail;
mod soft;
mod visitor;
mod watch;
mod wire;

pub use arena::Arena;
pub use config::{Ports, Secret, Security, VerbsConfig};
pub use ibv::IbvDevice;
pub use rail::VerbsRail;
pub use soft::SoftDevice;
