//! The tables of functions, called as libfabric calls them.

mod discovery;
mod ends;
mod messages;
mod notices;
mod opening;
mod party;
mod quick;
mod regions;
mod updates;
mod waits;
