//! The suite on the rail verbs, over the UDP wire of the software device. With faults and cuts: `faults.rs`.

mod common;

use common::Verbs;
use gridnet_core::conformance_tests;

conformance_tests!(udp, Verbs::udp());
