//! Packets of RoCEv2, for a software RDMA device.
//!
//! | file | concept |
//! |---|---|
//! | `wire/` | packets, and what they mean: no I/O |

#![forbid(unsafe_code)]

pub mod wire;
