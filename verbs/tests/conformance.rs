//! The suite on the rail verbs, over wires of the software device that each host has. With faults and cuts: `faults.rs`; over AF_XDP:
//! `xdp.rs`.

mod common;

use common::{say, Verbs};
use gridnet_core::conformance_cases;

/// Cases that look at each step of a transfer, which take half of the time of all.
const LONG: [&str; 4] = [
    "a_peer_that_closes_in_transfer_is_gone",
    "a_send_in_transfer_is_cancelled",
    "answers_nobody_asked_for_are_survived",
    "operations_end_when_the_owner_goes",
];

macro_rules! test_each {
    ($fixture:expr; $($module:ident::$case:ident)*) => {
        $(
            #[test]
            fn $case() {
                if LONG.contains(&stringify!($case)) && std::env::var_os("TEST_SOAK").is_none() {
                    return say(concat!("SKIPPED: ", stringify!($case), " on the rail verbs: only with TEST_SOAK=1"));
                }
                gridnet_core::testing::conformance::$module::$case($fixture);
            }
        )*
    };
}

mod udp {
    use super::*;

    conformance_cases! { [test_each] Verbs::udp() }
}

mod shm {
    use super::*;

    conformance_cases! { [test_each] Verbs::shm() }
}
