//! Hosts, sites and bad links on one machine: for tests, and to try what happens when a path breaks.
//!
//! A [`Topology`] says what there is to be: hosts, links with delay, jitter, rate and loss, sites behind firewalls and
//! masquerading gateways. A [`Lab`] is that, brought up from network namespaces, virtual cables, `tbf`, `nft`, and a relay
//! in user space for what the kernel does not have everywhere. Before it is handed out it measures itself: a link that is
//! not what was asked for is an error.
//!
//! Nothing outside of its own namespaces is touched, and nothing is left behind, however the process ends: namespaces
//! are held by descriptors and have no names. It needs the rights of root in a user namespace, which an ordinary user
//! gets by [`sandbox::spawn`]; tests use [`lab_test!`].
//!
//! | file | has |
//! |---|---|
//! | `topology`, `impairment`, `file`, `units` | what is asked for, as data and as TOML |
//! | `plan` | addresses, routes and rules, worked out before anything is touched |
//! | `sandbox`, `namespace` | namespaces of the program, and of each host |
//! | `attach` | a way into a lab that another process holds |
//! | `lab`, `host`, `link`, `command` | what is up, and what can be done to it |
//! | `line`, `wire`, `relay` | a link through user space: the model, the sockets, the threads |
//! | `proxy` | the way out of sites that have no other |
//! | `check` | measures links and probes sites |
//! | `measure` | figures that can be compared, of programs that measure |

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "what runs between fork and exec")]
pub mod attach;
mod check;
#[expect(unsafe_code, reason = "pidfds")]
mod command;
mod error;
mod file;
mod host;
mod impairment;
mod lab;
mod line;
mod link;
pub mod measure;
#[expect(unsafe_code, reason = "what runs between fork and exec")]
mod namespace;
mod plan;
mod proxy;
mod relay;
#[expect(unsafe_code, reason = "what runs between fork and exec")]
pub mod sandbox;
pub mod testing;
mod tool;
mod topology;
mod units;
#[expect(unsafe_code, reason = "packet sockets")]
mod wire;

pub use check::{Finding, Report, Subject, Verdict};
pub use command::{Finished, HostCommand, Running};
pub use error::{Error, Result};
pub use host::Host;
pub use impairment::{Change, Impairment};
pub use lab::Lab;
pub use link::Link;
pub use proxy::{HTTP_PORT, SOCKS_PORT};
pub use relay::Counts;
pub use topology::{Action, Event, HostSpec, LinkSpec, Login, Run, Site, SiteKind, Topology};
pub use units::{Bytes, Loss, Rate, Span};
