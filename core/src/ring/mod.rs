//! Lock-free pieces that live in shared memory. One algorithm a file.

pub mod bell;
pub mod lane;
pub mod slot;
