//! How a peer that sleeps is woken.

use std::os::fd::OwnedFd;

use gridnet_core::kill_point;
use gridnet_core::ring::lane::Wake;

use crate::socket;

/// How a peer is woken.
#[derive(Debug)]
pub enum Doorbell {
    /// By its eventfd.
    Event(OwnedFd),
    /// By a packet on the link's socket, of which this is a copy: neither end can make the other block.
    Socket(OwnedFd),
}

impl Wake for Doorbell {
    fn wake(&self) {
        kill_point!("ring.wake");
        match self {
            // It cannot be full in the time of this universe.
            Doorbell::Event(file) => drop(nix::unistd::write(file, &1u64.to_ne_bytes())),
            Doorbell::Socket(stream) => socket::send_wake(stream),
        }
    }
}
