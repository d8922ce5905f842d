//! How two nodes of gridnet agree on a stack: by which rules it is chosen, and what they say to each other about it.
//!
//! No socket, file, clock or thread: texts, messages and `now` come in, choices, messages and things to build come out. So a whole
//! conversation runs in one test, in virtual time. [`Builder`] is what the rails have to do; who carries the messages has to
//! prove from whom they are.
//!
//! | file | concept |
//! |---|---|
//! | `stack.rs` | methods under filters, their text, and how safe they are |
//! | `facts.rs` | what is known of a node |
//! | `rules.rs`, `rules/file.rs` | which stacks may be used, as a TOML file says it |
//! | `choice.rs` | the candidates of one connection, and why others are left out |
//! | `standing.rs` | whether something else may go over a path that stands |
//! | `message.rs` | request and answer |
//! | `call.rs`, `cache.rs` | the node that asks, and what it has agreed before |
//! | `called.rs`, `called/asker.rs` | the node that is asked, and what it remembers of each that asks |
//! | `audit.rs` | what was refused |
//! | `data.rs` | bytes that nothing prints |
//! | `builder.rs` | the seam to the rails |
//! | `name.rs`, `record.rs` | names, and how messages stay open to what comes later |
#![forbid(unsafe_code)]

pub mod audit;
pub mod builder;
pub mod cache;
pub mod call;
pub mod called;
pub mod choice;
pub mod data;
pub mod facts;
pub mod message;
pub mod name;
mod record;
pub mod rules;
pub mod stack;
pub mod standing;

pub use builder::Builder;
