//! The suites on the rail verbs over AF_XDP: each fabric has the device of a host of a lab. What is said beside the queue pairs goes
//! over the loopback interface of this process.

mod common;

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Verbs, Wire};
use gridnet_core::conformance_call_each;
use gridnet_core::testing::conformance::{
    self, cancel, ends, faults, loans, matching, numbers, pressure, regions, reliability, transfer,
};
use gridnet_core::{fault_call_each, fault_cases, fault_cut_cases};
use gridnet_testbed::{lab_test, testing, Lab, Site, SiteKind, Topology};
use gridnet_verbs::SoftDevice;

/// No case has as many fabrics at a time.
const HOSTS: u8 = 6;
/// How long the system may take to give up a socket that was closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hosts on one network, and the loopback interface of this process.
fn lab() -> Lab {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("the command ip").success());
    Lab::open(Topology::new().site(Site::new("h", SiteKind::Open).hosts(HOSTS))).expect("a lab")
}

/// A device at the next host that has none.
fn open(lab: &Lab, next: &Cell<u8>) -> io::Result<SoftDevice> {
    let start = Instant::now();
    loop {
        let number = 1 + next.replace((next.get() + 1) % HOSTS);
        let host = lab.host(&format!("h{number}")).expect("a host");
        let address = host.address().expect("an address");
        let opened = host.run(move || SoftDevice::over_xdp(address, None)).expect("the network of the host");
        match opened {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && start.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
            Ok(device) => return Ok(device.leads_anywhere()),
        }
    }
}

/// What opens rails, each at a host of its own; none where AF_XDP cannot be had.
fn wire() -> Option<impl Fn() -> Verbs> {
    let (lab, next) = (Rc::new(lab()), Rc::new(Cell::new(0)));
    if let Err(error) = open(&lab, &next) {
        testing::skip("the rail verbs over AF_XDP", &error.to_string());
        return None;
    }
    Some(move || {
        let (lab, next) = (lab.clone(), next.clone());
        Verbs::over(Wire::Other(Rc::new(move || open(&lab, &next).expect("a device"))))
    })
}

lab_test! {
    fn a_part_of_the_suites_passes() {
        let Some(wire) = wire() else { return };
        transfer::sizes_around_every_border_arrive(wire());
        transfer::many_large_messages_share_the_link(wire());
        matching::any_source_takes_from_all(wire());
        pressure::a_flood_is_bounded_and_loses_nothing(wire());
        regions::bytes_go_in_and_out_at_every_size(wire());
        ends::operations_end_when_the_peer_closes(wire());
        ends::a_new_link_follows_an_old_one(wire());
        reliability::cuts_amid_the_repetition_are_survived(wire());
        faults::a_cut_link_ends_everything(wire);
    }

    fn the_suites_pass() {
        if std::env::var_os("TEST_SOAK").is_none() {
            return common::say("SKIPPED: most of the suites over AF_XDP: only with TEST_SOAK=1");
        }
        let Some(wire) = wire() else { return };
        conformance::run_all(&wire);
        fault_cases! { [conformance_call_each] [fault_call_each] wire() }
        fault_cut_cases! { [conformance_call_each] wire() }
        reliability::messages_survive_many_cuts(wire);
    }
}
