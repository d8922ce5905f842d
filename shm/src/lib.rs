//! gridnet-shm: the rail between processes of one host.
//!
//! Each fabric has one segment of memory, which it alone writes and its peers map read-only. In it lie, for each
//! peer, a ring of slots towards that peer and the count of what was consumed of the peer's ring; and buffers for
//! what does not fit into a slot. So no process can damage another's memory, and what a process reads of another's
//! is checked before use.
//!
//! | file | concept |
//! |---|---|
//! | `layout.rs` | what lies where in a segment |
//! | `segment.rs` | segments: the own, and peers' as mapped here |
//! | `sealed.rs` | making, sealing, checking and mapping memory files |
//! | `arena.rs` | who has which part of the own segment |
//! | `heap.rs` | memory for regions, and a peer's as mapped here |
//! | `remote.rs` | own regions shown to peers, and peers' regions reached |
//! | `process.rs` | memory of other processes |
//! | `self_guard.rs` | memory of this process that may be gone |
//! | `stopped.rs` | whether a process may be held up |
//! | `loans.rs` | who has which range of it for loans |
//! | `ranges.rs` | free ranges, for loans and the heap |
//! | `link.rs` | a live link: frames into slots |
//! | `take.rs` | frames out of slots |
//! | `staging.rs` | staging buffers that a peer has not given back |
//! | `doorbell.rs` | how a peer is woken |
//! | `link/retained.rs` | what a peer has not got when a link breaks |
//! | `leftovers.rs` | memory of links that were cut off, until their peers have heard |
//! | `exposure.rs` | memory that a peer may fetch by itself, and until when |
//! | `copy_choice.rs` | which way long messages take |
//! | `config.rs` | what a rail is opened with |
//! | `rail.rs` | all links of a fabric; `rail/polling.rs`, which are polled when; `rail/room.rs`, when the segment is full |
//! | `ends.rs` | how links end, and the rail |
//! | `handshake.rs`, `called.rs` | how links are made; how calls are answered |
//! | `early.rs` | connections to those that may be called soon |
//! | `users.rs` | which users' processes may be peers |
//! | `foreign.rs` | peers of other users: a segment for each pair |
//! | `socket.rs` | Unix sockets and process descriptors |
//! | `vigil.rs` | peers that have ended while their children keep their connections |
//! | `rundir.rs` | names and sockets in the file system |
//! | `poller.rs` | the descriptors that are watched |
//! | `barrier.rs` | process-wide memory barriers |
//! | `guarded.rs` | a peer's memory between guards (feature `testing`) |
//! | `open.rs` | small rails for unit tests |
//! | `closing.rs`, `interrupted.rs` | tests of ends, and of signals |
//! | `testing.rs` | what tests see and do that nobody else may (feature `testing`) |
//! | `cpu.rs` | on which core we are |

mod arena;
mod barrier;
mod called;
#[cfg(test)]
mod closing;
mod config;
mod copy_choice;
mod cpu;
mod doorbell;
mod early;
mod ends;
mod exposure;
mod foreign;
#[cfg(feature = "testing")]
mod guarded;
mod handshake;
mod heap;
#[cfg(test)]
mod interrupted;
mod layout;
mod leftovers;
mod link;
mod loans;
#[cfg(test)]
mod open;
mod poller;
mod process;
mod rail;
mod ranges;
mod remote;
mod repeat;
mod rundir;
mod sealed;
mod segment;
mod self_guard;
mod socket;
mod staging;
mod stopped;
mod take;
#[cfg(feature = "testing")]
pub mod testing;
mod users;
mod vigil;

pub use arena::MAX_STAGING;
pub use config::{ShmConfig, SingleCopy};
pub use rail::ShmRail;
pub use rundir::{is_valid_name, NameHolder, RunDir};
pub use self_guard::SelfGuard;
