//! Sessions of gridnet: the nodes that trust and know each other.
//!
//! A session has an authority, held by its rendez-vous node, and tickets. Who has a ticket joins: it proves the ticket's secret
//! over TLS 1.3 to the rendez-vous node, which it recognises by the fingerprint in the ticket, and gets a node id and a
//! certificate for a fresh key. From then on it shows that certificate.
//!
//! | file | concept |
//! |---|---|
//! | `ticket.rs`, `secret.rs` | what one needs to join, and how it is proved |
//! | `authority.rs`, `identity.rs` | who certifies, and who is certified |
//! | `tls.rs`, `wire.rs` | connections, with both sides proved |
//! | `plain.rs` | the same where a session's configuration does without TLS |
//! | `kept.rs`, `credentials.rs` | a node's key and certificate in a directory, and what other programs prove by them |
//! | `message.rs`, `channel.rs`, `outbox.rs` | what is said over them |
//! | `record.rs` | how all of that stays open to what comes later |
//! | `directory.rs` | who is there, as the authority has signed it, and how those who follow keep up |
//! | `register.rs`, `rate.rs`, `audit.rs` | the rendez-vous node's judgement, without I/O, and what it has refused |
//! | `cluster.rs`, `pass.rs` | who leads which cluster, and who was sent to whom |
//! | `packet.rs`, `conversation.rs`, `office.rs` | what members say to one another through leaders and the rendez-vous node, sealed |
//! | `pipe.rs`, `freight.rs` | streams of bytes between members by the same way, and what is passed on of them |
//! | `through.rs` | newcomers that a leader passes on to the rendez-vous node |
//! | `door.rs`, `strangers.rs` | who has not said who it is, and what that may cost |
//! | `hub.rs`, `queue.rs` | a member at the end of a connection, as the rendez-vous node and leaders serve it, and what waits for it |
//! | `rendezvous.rs`, `store.rs` | the rendez-vous node, and what it keeps |
//! | `member.rs`, `driver.rs`, `handlers.rs` | all others, the threads they live in, and whose turn it is to be answered |
//! | `member/lines.rs` | ways of their own between two members, for requests |
//! | `member/assemble.rs` | how members agree on stacks, by `gridnet-assembly` |
//! | `member/admit.rs` | what may go over a path that stands |
//! | `private.rs`, `clock.rs`, `name.rs`, `hex.rs`, `random.rs` | files, time, names, digits, random numbers |
#![forbid(unsafe_code)]

mod audit;
pub mod authority;
mod channel;
pub mod clock;
pub mod cluster;
mod conversation;
pub mod credentials;
pub mod directory;
mod door;
pub mod driver;
pub mod error;
mod freight;
mod handlers;
mod hex;
mod hub;
pub mod identity;
mod kept;
pub mod member;
pub mod message;
#[cfg(test)]
mod mutated;
pub mod name;
mod office;
mod outbox;
pub mod packet;
pub mod pass;
mod pipe;
mod plain;
mod private;
mod queue;
mod random;
mod rate;
pub mod record;
mod register;
pub mod rendezvous;
pub mod secret;
pub mod store;
mod strangers;
#[cfg(test)]
mod testing;
mod through;
pub mod ticket;
mod tls;
mod wire;

pub use audit::Line as AuditLine;
pub use freight::Shares;
pub use register::Rules;
