//! A software RDMA device: the objects and rules of verbs, over packets of RoCEv2.
//!
//! A [`Device`] has one [`Port`] to a network. Programs make protection domains, memory regions, completion queues and queue pairs
//! of the reliable connected service (RC), and post work requests, as with libibverbs; `docs/rocev2.md` says what is there of the
//! specification. A device has no thread and no clock: [`Device::progress`] does all work.
//!
//! From above to below:
//!
//! | file | concept |
//! |---|---|
//! | `device/` | the objects that programs hold, and the work of a device |
//! | `attr.rs`, `wr.rs` | attributes of queue pairs; work requests and completions |
//! | `engine/` | one queue pair, without I/O and without a clock |
//! | `mr.rs`, `memory.rs` | memory regions and their keys; the one place that touches memory of the user |
//! | `number.rs` | maps by numbers that this side has given out |
//! | `port.rs` | the seam to a network |
//! | `udp/`, `xdp/`, `shm/` | ports: UDP sockets, sockets of AF_XDP, shared memory between processes of a host |
//! | `wire/` | packets, and what they mean: no I/O |
//! | `testing.rs` | (feature `testing`) a network within the process, with faults |

#![deny(unsafe_code)]

pub mod attr;
mod device;
mod engine;
#[expect(unsafe_code)] // The one place that touches memory of the user.
mod memory;
mod mr;
pub mod number;
mod port;
mod shm;
#[cfg(feature = "testing")]
pub mod testing;
mod udp;
pub mod wire;
pub mod wr;
mod xdp;

pub use device::{
    CompletionChannel, Counters, Cq, CqId, Device, Event, Mr, Overrun, Pd, Qp, QpShape, Srq, SrqId,
};
pub use engine::{Error, QpEvent};
pub use port::{Port, Received};
pub use shm::{ShmPort, ShmWaiter};
pub use udp::{UdpPort, UdpWaiter};
pub use xdp::{XdpCounts, XdpPort, XdpWaiter};
