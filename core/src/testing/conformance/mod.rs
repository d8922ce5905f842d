//! The suite that every rail passes.
//!
//! Each case is a function of a fixture. [`crate::conformance_tests`] makes a test of each; [`run_all`] runs them one
//! after the other.
//!
//! What the suite asks for is what the protocol relies on: frames arrive whole, once and in order while the link is
//! up, and the end of a link is told after the last frame that came through it. A rail that loses, doubles or
//! reorders frames needs a layer above it that makes it reliable, and does not pass by itself.

pub mod cancel;
pub mod ends;
pub mod faults;
pub mod hostile;
pub mod loans;
pub mod matching;
pub mod numbers;
pub mod pressure;
pub mod regions;
pub mod reliability;
pub mod transfer;

use super::node::Outcome;
use super::pair::Fixture;
use super::random::Random;

/// Runs every case, each on a fixture of its own.
pub fn run_all<F: Fixture>(mut fixture: impl FnMut() -> F) {
    crate::conformance_cases! { [crate::conformance_call_each] fixture() }
}

/// Makes one test of each case of the suite, in a module: `conformance_tests!(module, expression that makes a
/// fixture)`.
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $fixture:expr) => {
        mod $suite {
            #[allow(unused_imports, reason = "the expression may name anything in scope outside")]
            use super::*;

            $crate::conformance_cases! { [$crate::conformance_test_each] $fixture }
        }
    };
}

/// As [`conformance_tests`](crate::conformance_tests), for the cases of links that break: the fixture is one of
/// [`Cutting`](super::pair::Cutting).
#[macro_export]
macro_rules! reliability_tests {
    ($suite:ident, $fixture:expr) => {
        mod $suite {
            #[allow(unused_imports, reason = "the expression may name anything in scope outside")]
            use super::*;

            $crate::conformance_test_each! { $fixture;
                reliability::a_cut_at_any_step_delays_a_transfer
                reliability::cuts_amid_the_repetition_are_survived
                reliability::two_that_call_each_other_again_have_one_link
                reliability::operations_on_regions_happen_once
                reliability::loans_survive_cuts
                reliability::stop_and_go_survive_cuts
                reliability::cancellation_under_cuts_ends_both_sides
            }

            #[test]
            fn messages_survive_many_cuts() {
                $crate::testing::conformance::reliability::messages_survive_many_cuts(|| $fixture);
            }
        }
    };
}

/// Makes tests over rails with faults ([`Faults`](super::fault::Faults)): `fault_tests!(module, expression)`, where the
/// expression makes the fixture whose rails get them. Which faults there are is up to the capabilities of the rail. Where these say
/// `retains`, and the fixture is one of [`Cutting`](super::pair::Cutting), `fault_tests!(module, expression, cuts)` has the cases of
/// links that break, too.
#[macro_export]
macro_rules! fault_tests {
    ($suite:ident, $fixture:expr) => {
        mod $suite {
            #[allow(unused_imports, reason = "the expression may name anything in scope outside")]
            use super::*;

            $crate::fault_cases! { [$crate::conformance_test_each] [$crate::fault_test_each] $fixture }
        }
    };
    ($suite:ident, $fixture:expr, cuts) => {
        mod $suite {
            #[allow(unused_imports, reason = "the expression may name anything in scope outside")]
            use super::*;

            $crate::fault_cases! { [$crate::conformance_test_each] [$crate::fault_test_each] $fixture }

            $crate::fault_cut_cases! { [$crate::conformance_test_each] $fixture }
        }
    };
}

/// Hands the cases of the suite that go over rails with faults to another macro: what shows each kind of operation. What sends forged
/// frames counts on there being room for them.
#[doc(hidden)]
#[macro_export]
macro_rules! fault_suite_cases {
    ([$($each:tt)*] $fixture:expr) => {
        $($each)*! { $fixture;
            transfer::immediates_arrive
            transfer::both_directions_at_once
            transfer::many_large_messages_share_the_link
            matching::any_source_takes_from_all
            matching::synchronous_sends_end_with_the_match
            matching::probes_look_and_matched_probes_take
            cancel::only_the_named_operation_is_cancelled
            pressure::other_peers_are_heard_during_a_flood
            regions::bytes_go_in_and_out_at_every_size
            regions::atomics_do_what_they_say
            regions::operations_take_effect_in_order
            numbers::elements_are_changed_once_under_a_number
            loans::loans_keep_their_order
            ends::operations_end_when_the_peer_closes
            ends::sends_before_the_link_is_up_arrive
        }
    };
}

/// Hands the lists of cases over rails with faults to two other macros: those of the suite, and those that are about faults.
#[doc(hidden)]
#[macro_export]
macro_rules! fault_cases {
    ([$($each:tt)*] [$($each_fault:tt)*] $fixture:expr) => {
        $crate::fault_suite_cases! {
            [$($each)*] $crate::testing::fault::Faults::new($fixture, $crate::testing::fault::FaultPlan::ALLOWED)
        }

        $($each_fault)*! { $fixture;
            what_a_rail_may_do_loses_nothing
            lost_frames_leave_operations_pending
            doubled_frames_deliver_nothing_wrong
            reordered_frames_deliver_nothing_wrong
            everything_at_once_delivers_nothing_wrong
            a_cut_link_ends_everything
        }
    };
}

/// The same of cases of links that break.
#[doc(hidden)]
#[macro_export]
macro_rules! fault_cut_cases {
    ([$($each:tt)*] $fixture:expr) => {
        $($each)*! {
            $crate::testing::fault::Faults::new($fixture, $crate::testing::fault::FaultPlan::ALLOWED);
            reliability::a_cut_at_any_step_delays_a_transfer
            reliability::cuts_amid_the_repetition_are_survived
            reliability::two_that_call_each_other_again_have_one_link
            reliability::operations_on_regions_happen_once
            reliability::loans_survive_cuts
            reliability::stop_and_go_survive_cuts
        }
    };
}

/// Hands the list of cases to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ([$($each:tt)*] $fixture:expr) => {
        $($each)*! { $fixture;
            transfer::every_small_size_arrives
            transfer::sizes_around_every_border_arrive
            transfer::megabytes_arrive
            transfer::zero_bytes_fit_into_nothing
            transfer::messages_of_one_sender_keep_their_order
            transfer::pieces_are_gathered_and_scattered
            transfer::too_many_pieces_are_refused
            transfer::immediates_arrive
            transfer::longer_messages_are_truncated
            transfer::both_directions_at_once
            transfer::many_large_messages_share_the_link
            matching::tags_and_ignored_bits_choose
            matching::any_source_takes_from_all
            matching::early_messages_wait_in_order
            matching::probes_look_and_matched_probes_take
            matching::synchronous_sends_end_with_the_match
            matching::many_thousands_of_receives_wait
            matching::a_node_talks_to_itself
            cancel::a_posted_receive_is_cancelled
            cancel::a_queued_send_is_cancelled
            cancel::an_announced_send_is_cancelled
            cancel::a_send_in_transfer_is_cancelled
            cancel::only_the_named_operation_is_cancelled
            pressure::a_flood_is_bounded_and_loses_nothing
            pressure::a_sender_that_never_polls_is_bounded
            pressure::a_flood_of_bytes_is_bounded
            pressure::other_peers_are_heard_during_a_flood
            pressure::transfers_the_other_way_pass_a_flood
            pressure::a_full_queue_refuses_and_loses_nothing
            pressure::a_destroyed_queue_takes_no_operations
            ends::two_that_call_each_other_have_one_link
            ends::operations_end_when_the_peer_closes
            ends::what_came_before_the_end_stays
            ends::a_peer_that_closes_in_transfer_is_gone
            ends::a_new_link_follows_an_old_one
            ends::sends_before_the_link_is_up_arrive
            regions::bytes_go_in_and_out_at_every_size
            numbers::elements_are_changed_once_under_a_number
            numbers::a_number_names_one_region_at_a_time
            numbers::a_number_that_has_moved_is_found_again
            numbers::places_may_be_addresses
            regions::atomics_do_what_they_say
            regions::counters_of_many_add_up
            regions::operations_take_effect_in_order
            regions::gets_see_nothing_that_comes_after_them
            regions::operations_are_counted
            regions::many_flushes_wait_for_one_operation
            regions::operations_before_the_link_is_up_are_done
            regions::what_a_key_does_not_allow_is_refused
            regions::keys_of_others_and_damaged_keys_are_refused
            regions::a_closed_region_is_out_of_reach
            regions::a_region_is_closed_under_operations
            regions::overlapping_regions_keep_their_own_bounds
            regions::operations_end_when_the_owner_goes
            regions::operations_are_cancelled
            regions::a_node_reaches_its_own_regions
            regions::forged_operations_harm_nobody
            loans::loans_of_all_sizes_arrive
            loans::loans_leave_at_once
            loans::a_buffer_takes_a_loan
            loans::a_receive_of_loans_takes_any_message
            loans::loans_keep_their_order
            loans::loans_are_probed_and_held
            loans::one_loan_goes_to_several
            loans::wrong_handles_are_refused
            loans::loans_outlive_their_sender
            loans::loans_come_back_from_a_peer_that_closes
            loans::exhausted_loans_recover
            loans::what_is_received_has_a_place
            loans::waiting_loans_are_cancelled
            loans::receives_of_loans_are_cancelled
            hostile::forged_frames_harm_nobody_else
            hostile::answers_nobody_asked_for_are_survived
            hostile::lengths_beyond_memory_are_survived
            hostile::lengths_beyond_memory_are_not_lent
            hostile::announced_lengths_share_a_bound
            hostile::loans_that_cannot_be_are_refused
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test_each {
    ($fixture:expr; $($module:ident::$case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::testing::conformance::$module::$case($fixture);
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! fault_test_each {
    ($fixture:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::testing::conformance::faults::$case(|| $fixture);
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_call_each {
    ($fixture:expr; $($module:ident::$case:ident)*) => {
        $( $module::$case($fixture); )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! fault_call_each {
    ($fixture:expr; $($case:ident)*) => {
        $( faults::$case(|| $fixture); )*
    };
}

/// Steps after which something happens: each of the first `all` in a long run, otherwise as many as the fixture has time for, spread evenly.
fn moments<F: Fixture>(fixture: &F, all: u8) -> impl Iterator<Item = u8> {
    let is_long = std::env::var_os("TEST_SOAK").is_some_and(|value| value == "1");
    let count = if is_long { all } else { fixture.times(u64::from(all)).clamp(4, u64::from(all)) as u8 };
    (0..count).map(move |i| (u16::from(i) * u16::from(all) / u16::from(count)) as u8)
}

/// Bytes that tell at each place whether they are the right ones.
fn content(len: usize, seed: u64) -> Vec<u8> {
    Random::new(seed ^ len as u64).bytes(len)
}

/// Checks a receive that got a whole message.
fn assert_received(outcome: &Outcome, tag: u64, sent: &[u8]) {
    let completion = outcome.completion.expect("receives have completions");
    assert_eq!(outcome.status, Ok(()), "receive of {} bytes with tag {tag}", sent.len());
    assert_eq!((completion.tag, completion.length), (tag, sent.len() as u64));
    assert!(outcome.bytes.get(..sent.len()) == Some(sent), "{} bytes with tag {tag} differ", sent.len());
}
