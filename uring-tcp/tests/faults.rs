//! Rails with faults over connections of every kind: sealed, over several paths, received by io_uring. Some cases of each; all
//! with TEST_SOAK=1.

mod common;

use std::time::Duration;

use common::{skip, tls, Tcp};
use gridnet_core::rail::Path;
#[allow(clippy::wildcard_imports, reason = "the lists of cases name all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_core::testing::fault::{FaultPlan, Faults};
use gridnet_core::testing::node::exactly;
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::random::Random;
use gridnet_core::{conformance_call_each, fault_call_each, fault_cases, fault_cut_cases};
use gridnet_uring_tcp::{Engine, Multirail, Tuning};

/// Far more than it takes until everything has happened.
const MOST_MESSAGES: u64 = 400;

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

/// Messages of two lengths, each over all paths and to the ring if it is to receive, until links were lost.
fn all_of_it_takes_part(fixture: Tcp) {
    let engine = fixture.engine;
    let further = if matches!(fixture.multirail, Multirail::Alike(_)) { 2 } else { 0 };
    let mut pair = Pair::new(with_faults(fixture));
    let (mut has_carried, mut lost) = (further == 0, 0);
    for tag in 0..MOST_MESSAGES {
        let is_there = pair.run_until(|pair| is_there(pair, further, engine == Engine::IoUringRecv));
        assert!(is_there, "{engine:?}: no {further} further paths, or not by the ring, before message {tag}");
        let bytes = Random::new(tag).bytes(if tag % 2 == 0 { 8 } else { 2 << 20 });
        let receive = pair.b.receive(exactly(pair.to_a, tag), bytes.len());
        let send = pair.a.send(pair.to_b, &bytes, tag);
        assert!(pair.finish_b(receive).bytes == bytes, "message {tag} differs");
        pair.finish_a(send);
        let paths = pair.a.engine().paths(pair.to_b);
        let moved = |path: &Path| path.moved.is_some_and(|[out, _]| out > 0);
        has_carried |= paths.iter().skip(1).filter(|(_, path)| moved(path)).count() >= further;
        lost = pair.a.engine().rails()[0].counters().lost;
        if has_carried && lost > 2 {
            return;
        }
    }
    panic!("{engine:?}: {lost} links were lost; all paths have carried something: {has_carried}");
}

/// Whether there are so many further paths, and the ring of the second node receives what comes over the first.
fn is_there(pair: &mut Pair<Faults<Tcp>>, further: usize, is_received: bool) -> bool {
    let nodes = [pair.b.address().node, pair.a.address().node];
    let sender = pair.a.engine().rails_mut()[0].inner_mut();
    let is_wide = sender.link_with(nodes[0]).is_some_and(|link| sender.further(link) == further);
    let receiver = pair.b.engine().rails_mut()[0].inner_mut();
    let link = receiver.link_with(nodes[1]);
    is_wide && link.is_some_and(|link| !is_received || receiver.is_received(link))
}

#[test]
fn sealed_links_get_over_faults() {
    faults::what_a_rail_may_do_loses_nothing(sealed);
    conformance_call_each! { with_faults(sealed());
        transfer::many_large_messages_share_the_link
        regions::operations_take_effect_in_order
        reliability::a_cut_at_any_step_delays_a_transfer
        reliability::operations_on_regions_happen_once
    }
    faults::everything_at_once_delivers_nothing_wrong(sealed);
}

#[test]
fn links_of_several_paths_get_over_faults() {
    all_of_it_takes_part(several(Engine::Auto));
    transfer::many_large_messages_share_the_link(with_faults(several(Engine::Auto)));
    reliability::a_cut_at_any_step_delays_a_transfer(with_faults(several(Engine::Auto)));
}

#[test]
fn links_that_io_uring_receives_from_get_over_faults() {
    all_of_it_takes_part(received());
    all_of_it_takes_part(several(Engine::IoUringRecv));
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
