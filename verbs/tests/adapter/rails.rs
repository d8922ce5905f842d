//! Rails over adapters, for the suite of rails.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gridnet_core::testing::pair::Fixture;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_verbs::{IbvDevice, Security, VerbsConfig, VerbsRail};

use crate::bed;

/// One after the other at each address.
pub struct Rails {
    addresses: Vec<IpAddr>,
    opened: usize,
    start: Instant,
}

impl Rails {
    pub fn open() -> Option<Rails> {
        crate::adapters().map(|addresses| Rails { addresses, opened: 0, start: Instant::now() })
    }
}

impl Fixture for Rails {
    type Rail = VerbsRail;

    fn rail(&mut self, address: &Address) -> VerbsRail {
        let listen = self.addresses[self.opened % self.addresses.len()];
        self.opened += 1;
        let config = VerbsConfig {
            local: *address,
            device: Box::new(IbvDevice::open(bed::at(listen)).expect("the adapter opens")),
            listen,
            ports: None,
            security: Security::Insecure,
            keep_alive: Some(Duration::from_secs(1)),
            retains: true,
        };
        VerbsRail::open(config).expect("the rail opens")
    }

    fn reached_at(&self, rail: &VerbsRail, address: Address) -> Address {
        Address { network: rail.listens_at(), ..address }
    }

    fn tick(&mut self) -> Time {
        // Soft-RoCE needs the core for its work.
        std::thread::yield_now();
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn quiet_steps(&self) -> usize {
        // Some milliseconds in an emulated guest.
        300
    }

    fn patience(&self) -> usize {
        300_000
    }

    fn times(&self, all: u64) -> u64 {
        (all / 64).max(1)
    }

    fn overshoot(&self) -> usize {
        // The credits of both directions.
        256
    }
}
