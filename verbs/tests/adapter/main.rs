//! The suites on an adapter: what verbs promise (that of the software device, case by case), and the rail.
//!
//! `TEST_ADAPTER=ADDRESS[,ADDRESS]` names addresses of this host that adapters have; two of them reach each other. `ci/roce-guest.sh`
//! runs all of it on the kernel's Soft-RoCE. `TEST_ADAPTER_DIFFERS=CASE,...` are those of which it is known that the adapter does
//! something else.

mod bed;
#[path = "../../../rdma-sim/tests/conformance/cases.rs"]
mod cases;
#[path = "../../../rdma-sim/tests/conformance/end.rs"]
mod end;
#[path = "../../../rdma-sim/tests/conformance/list.rs"]
#[macro_use]
mod list;
mod rails;

use std::io::Write;
use std::net::IpAddr;
use std::sync::Once;

use gridnet_core::conformance_cases;

static SAID: Once = Once::new();

/// Addresses of adapters; none where the tests have to be left out, which is said once.
fn adapters() -> Option<Vec<IpAddr>> {
    match std::env::var("TEST_ADAPTER") {
        Ok(text) => Some(text.split(',').map(|ip| ip.parse().expect("an address")).collect()),
        Err(_) => {
            let why = "TEST_ADAPTER names no address of an adapter";
            // Not by a macro: what those print is kept back for tests that pass.
            let say =
                || _ = writeln!(std::io::stderr(), "\nSKIPPED: verbs and the rail on an adapter: {why}");
            SAID.call_once(say);
            None
        }
    }
}

mod verbs {
    #[test]
    fn all() {
        let Some(addresses) = crate::adapters() else { return };
        let known = std::env::var("TEST_ADAPTER_DIFFERS").unwrap_or_default();
        for (name, case) in crate::list::SUCCEEDING.into_iter().chain(crate::list::FAILING) {
            if known.split(',').any(|known| known == name) {
                eprintln!("{name}: left out, as it differs here");
                continue;
            }
            // Without a word at its end it is the one that has failed.
            eprintln!("{name}");
            case(&mut crate::bed::IbvBed::open(&addresses));
        }
    }
}

macro_rules! test_each {
    ($fixture:expr; $($module:ident::$case:ident)*) => {
        mod rail {
            $(
                #[test]
                fn $case() {
                    if let Some(fixture) = $fixture {
                        gridnet_core::testing::conformance::$module::$case(fixture);
                    }
                }
            )*
        }
    };
}

conformance_cases! { [test_each] crate::rails::Rails::open() }
