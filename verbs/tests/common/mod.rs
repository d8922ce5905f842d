//! What the tests of the rail share: fabrics in one process, each with a software device.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gridnet_core::testing::pair::{Cutting, Fixture};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_verbs::{Security, SoftDevice, VerbsConfig, VerbsRail};

/// What the packets of the devices go through.
#[derive(Clone)]
pub enum Wire {
    /// UDP sockets of the loopback interface.
    Udp,
    /// Shared memory.
    Shm,
    /// Whatever this opens.
    Other(Rc<dyn Fn() -> SoftDevice>),
    /// A network within the process, which time moves.
    Net(Net),
}

/// Rails on the loopback interface.
pub struct Verbs {
    pub start: Instant,
    pub wire: Wire,
    pub security: Security,
    pub retains: bool,
    /// Ports of a network within the process that were given out.
    pub opened: u16,
    pub ticks: u64,
}

impl Verbs {
    pub fn over(wire: Wire) -> Verbs {
        Verbs {
            start: Instant::now(),
            wire,
            security: Security::Insecure,
            retains: true,
            opened: 0,
            ticks: 0,
        }
    }

    pub fn udp() -> Verbs {
        Verbs::over(Wire::Udp)
    }

    pub fn shm() -> Verbs {
        Verbs::over(Wire::Shm)
    }

    /// A network within the process with these faults.
    pub fn net(faults: Faults) -> Verbs {
        Verbs::over(Wire::Net(Net::new(7, faults)))
    }

    /// The network within the process, if there is one.
    pub fn net_of(&self) -> Option<Net> {
        match &self.wire {
            Wire::Net(net) => Some(net.clone()),
            _ => None,
        }
    }

    pub fn device(&mut self) -> SoftDevice {
        let device = match &self.wire {
            Wire::Udp => SoftDevice::over_udp([127, 0, 0, 1].into(), None),
            Wire::Shm => SoftDevice::over_shm(),
            Wire::Other(open) => Ok(open()),
            Wire::Net(net) => {
                self.opened += 1;
                SoftDevice::over(net.port(SocketAddr::from(([127, 0, 0, 1], self.opened))), "net")
            }
        };
        device.expect("the device opens")
    }
}

impl Fixture for Verbs {
    type Rail = VerbsRail;

    fn rail(&mut self, address: &Address) -> VerbsRail {
        let config = VerbsConfig {
            local: *address,
            device: Box::new(self.device()),
            listen: [127, 0, 0, 1].into(),
            ports: None,
            security: self.security.clone(),
            keep_alive: Some(Duration::from_secs(1)),
            retains: self.retains,
        };
        VerbsRail::open(config).expect("the rail opens")
    }

    fn reached_at(&self, rail: &VerbsRail, address: Address) -> Address {
        Address { network: rail.listens_at(), ..address }
    }

    fn tick(&mut self) -> Time {
        // What the kernel does with packets may be waiting for the core. On a busy machine each time costs a slice of others.
        self.ticks += 1;
        if self.ticks.is_multiple_of(16) {
            std::thread::yield_now();
        }
        let now = self.start.elapsed();
        if let Wire::Net(net) = &self.wire {
            net.set_now(now);
        }
        Time(now.as_nanos() as u64)
    }

    fn quiet_steps(&self) -> usize {
        // Some ten milliseconds.
        4000
    }

    fn patience(&self) -> usize {
        // Ten seconds and more.
        4_000_000
    }

    fn times(&self, all: u64) -> u64 {
        if std::env::var_os("TEST_SOAK").is_some() {
            all
        } else {
            all / 8
        }
    }

    fn overshoot(&self) -> usize {
        // The credits of both directions.
        256
    }
}

impl Cutting for Verbs {
    fn is_exact(&self) -> bool {
        false
    }

    fn cut(&mut self, rails: [&mut VerbsRail; 2], between: [NodeId; 2], random: &mut Random) {
        let [a, b] = rails;
        let (rail, other) = if random.below(2) == 0 { (a, between[1]) } else { (b, between[0]) };
        match random.below(2) {
            0 => rail.break_pair(other),
            _ => rail.cut_wire(other),
        }
    }
}

/// Says what is left out. Not by a macro: what those print is kept back for tests that pass.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "\n{what}");
}
