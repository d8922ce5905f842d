//! Fabrics of several hosts, in the lab: messages while networks and processes do what they do.

#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod doors;
mod endpoints;
mod ends;
mod establish;
mod gaps;
mod groups;
mod hosts;
mod lines;
mod many;
mod members;
mod relayed;
mod sealed;
mod several;
mod shares;
mod slow;
mod stacks;
mod streamed;
mod users;
mod verbs;
