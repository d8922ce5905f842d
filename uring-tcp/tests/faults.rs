//! Rails with faults over connections of every kind: sealed, over several paths, received by io_uring. Some cases of each; all
//! with TEST_SOAK=1.

mod common;

use std::time::Duration;

use common::{skip, tls, Tcp};
#[allow(clippy::wildcard_imports, reason = "the lists of cases name all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_core::testing::fault::{FaultPlan, Faults};
use gridnet_core::{conformance_call_each, fault_call_each, fault_cases, fault_cut_cases};
use gridnet_uring_tcp::{Engine, Multirail, Tuning};

fn sealed() -> Tcp {
    Tcp { security: tls(), ..Tcp::new(Engine::Auto) }
}

fn several(engine: Engine) -> Tcp {
    let tuning = Tuning { keep_alive: Some(Duration::from_secs(1)), ..Tuning::default() };
    Tcp { multirail: Multirail::Alike(3), tuning, ..Tcp::new(engine) }
}

fn received() -> Tcp {
    Tcp::new(Engine::IoUringRecv)
}

/// What may go wrong on any rail.
fn with_faults(fixture: Tcp) -> Faults<Tcp> {
    Faults::new(fixture, FaultPlan::ALLOWED)
}

#[test]
fn sealed_links_get_over_faults() {
    faults::what_a_rail_may_do_loses_nothing(sealed);
    transfer::many_large_messages_share_the_link(with_faults(sealed()));
}

#[test]
fn links_of_several_paths_get_over_faults() {
    transfer::many_large_messages_share_the_link(with_faults(several(Engine::Auto)));
    reliability::a_cut_at_any_step_delays_a_transfer(with_faults(several(Engine::Auto)));
}

#[test]
fn links_that_io_uring_receives_from_get_over_faults() {
    faults::what_a_rail_may_do_loses_nothing(received);
    reliability::a_cut_at_any_step_delays_a_transfer(with_faults(several(Engine::IoUringRecv)));
}

#[test]
fn all_cases_of_faults_pass_over_links_of_every_kind() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return skip("all cases of faults: they take minutes (TEST_SOAK=1)");
    }
    let kinds = [sealed, || several(Engine::Auto), received, || several(Engine::IoUringRecv)];
    for new in kinds {
        fault_cases! { [conformance_call_each] [fault_call_each] new() }
        fault_cut_cases! { [conformance_call_each] new() }
    }
}
