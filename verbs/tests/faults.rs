//! What goes wrong: packets that are lost, repeated, overtaken or spoiled, which the device gets over; queue pairs and connections
//! that break, which the conversation gets over.

mod common;

use common::{say, Verbs};
use gridnet_core::error::Error;
use gridnet_core::testing::conformance::{
    self, cancel, ends, faults, loans, matching, numbers, pressure, regions, reliability, transfer,
};
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::Pair;
use gridnet_core::{conformance_call_each, fault_call_each, fault_cases, fault_cut_cases, reliability_tests};
use gridnet_rdma_sim::testing::Faults;
use std::time::Duration;

reliability_tests!(cuts, Verbs::net(Faults::NONE));

#[test]
fn the_whole_suite_passes_a_bad_network() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return say("SKIPPED: the suite over a bad network: only with TEST_SOAK=1");
    }
    conformance::run_all(|| Verbs::net(BAD));
}

/// A bad network: 1 % of the packets is lost, as many are repeated, spoiled or overtaken.
const BAD: Faults = Faults {
    loss: 10_000,
    duplication: 10_000,
    reordering: 10_000,
    corruption: 10_000,
    refusal: 10_000,
    delay: Duration::from_micros(20),
};
/// One that loses 5 %.
const LOSSY: Faults = Faults { loss: 50_000, ..Faults::NONE };

#[test]
fn transfers_pass_a_bad_network() {
    let verbs = Verbs::net(BAD);
    let net = verbs.net_of().expect("it has a network");
    transfer::many_large_messages_share_the_link(verbs);
    let counts = net.counts();
    assert!(counts.lost > 0 && counts.repeated > 0 && counts.spoiled > 0, "{counts:?}: nothing went wrong");
    assert!(counts.overtaken > 0 && counts.refused > 0, "{counts:?}: nothing went wrong");
}

#[test]
fn the_order_passes_a_bad_network() {
    transfer::messages_of_one_sender_keep_their_order(Verbs::net(BAD));
}

#[test]
fn both_directions_pass_a_lossy_network() {
    transfer::both_directions_at_once(Verbs::net(LOSSY));
}

#[test]
fn floods_pass_a_lossy_network() {
    pressure::a_sender_that_never_polls_is_bounded(Verbs::net(LOSSY));
}

#[test]
fn cuts_on_a_lossy_network_are_survived() {
    reliability::a_cut_at_any_step_delays_a_transfer(Verbs::net(Faults { loss: 2_000, ..Faults::NONE }));
}

/// As on a rail that does not promise more: what is under way ends with the link.
#[test]
fn without_reliability_a_break_is_the_end() {
    for breaks_pair in [true, false] {
        let mut pair = Pair::new(Verbs { retains: false, ..Verbs::net(Faults::NONE) });
        let receive = pair.a.receive(exactly(pair.to_b, 1), 8);
        let node = pair.b.address().node;
        let rail = &mut pair.a.engine().rails_mut()[0];
        match breaks_pair {
            true => rail.break_pair(node),
            false => rail.cut_wire(node),
        }
        assert_eq!(pair.finish_a(receive).status, Err(Error::PeerGone));
    }
}

#[test]
fn what_a_rail_may_do_loses_nothing() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return say("SKIPPED: what a rail may do, on the rail verbs: only with TEST_SOAK=1");
    }
    faults::what_a_rail_may_do_loses_nothing(|| Verbs::net(Faults::NONE));
}

#[test]
fn faults_of_the_rail_deliver_nothing_wrong() {
    faults::everything_at_once_delivers_nothing_wrong(|| Verbs::net(Faults::NONE));
    faults::a_cut_link_ends_everything(|| Verbs::net(Faults::NONE));
}

/// The same over wires of the system, of which a few cases do, as the rail does not know which it has.
#[test]
fn breaks_over_each_wire_are_survived() {
    for wire in [Verbs::udp, Verbs::shm] {
        reliability::cuts_amid_the_repetition_are_survived(wire());
        faults::everything_at_once_delivers_nothing_wrong(wire);
        faults::a_cut_link_ends_everything(wire);
    }
}

#[test]
fn the_suites_of_faults_pass() {
    if std::env::var_os("TEST_SOAK").is_none() {
        return say("SKIPPED: most faults of the rail verbs itself: only with TEST_SOAK=1");
    }
    for wire in [|| Verbs::net(Faults::NONE), Verbs::udp, Verbs::shm] {
        fault_cases! { [conformance_call_each] [fault_call_each] wire() }
        fault_cut_cases! { [conformance_call_each] wire() }
        reliability::messages_survive_many_cuts(wire);
    }
}
