//! Rails whose sockets io_uring receives from: parts of the suites, one after the other, as a thread of the kernel polls for
//! each rail. All of them with TEST_SOAK=1.

mod common;

use std::time::Duration;

use common::{allowed, forbid, ipv6, key, tls, Tcp};
use gridnet_core::error::Error;
#[allow(clippy::wildcard_imports, reason = "the list of cases names all of them")]
use gridnet_core::testing::conformance::*;
use gridnet_core::testing::node::anything;
use gridnet_core::testing::pair::{Fixture, Pair};
use gridnet_core::{conformance_call_each, conformance_cases};
use gridnet_uring_tcp::{Engine, Multirail, TcpConfig, TcpRail, Tuning, Window};

const MODES: [Engine; 2] = [Engine::IoUringRecv, Engine::IoUringSqpoll];
const SMALLEST: Window = Window { bytes: 256 << 10, frames: 1024 };

/// Whether the long parts are to run.
fn is_long() -> bool {
    let is_long = std::env::var_os("TEST_SOAK").is_some();
    if !is_long {
        common::skip("the whole suites: they take minutes (TEST_SOAK=1)");
    }
    is_long
}

#[test]
fn short_suites_pass_where_io_uring_receives() {
    let new = || Tcp::new(Engine::IoUringRecv);
    conformance_call_each! { new();
        transfer::messages_of_one_sender_keep_their_order
        transfer::both_directions_at_once
        transfer::many_large_messages_share_the_link
        matching::early_messages_wait_in_order
        ends::operations_end_when_the_peer_closes
        ends::a_new_link_follows_an_old_one
        regions::bytes_go_in_and_out_at_every_size
        loans::what_is_received_has_a_place
    }
    let new = || Tcp { security: key(7), window: SMALLEST, interfaces: ipv6(), ..new() };
    conformance_call_each! { new();
        reliability::a_cut_at_any_step_delays_a_transfer
        reliability::two_that_call_each_other_again_have_one_link
        reliability::operations_on_regions_happen_once
    }
}

/// Further paths come and go, and others take their numbers.
#[test]
fn further_paths_survive_cuts_where_io_uring_receives() {
    let tuning = Tuning { keep_alive: Some(Duration::from_secs(1)), ..Tuning::default() };
    let new =
        || Tcp { multirail: Multirail::Alike(3), tuning: tuning.clone(), ..Tcp::new(Engine::IoUringRecv) };
    let mut pair = Pair::new(new());
    let node = pair.b.address().node;
    let is_wide = pair.run_until(|pair| {
        let rail = &pair.a.engine().rails()[0];
        rail.link_with(node).is_some_and(|link| rail.further(link) == 2)
    });
    assert!(is_wide, "no further paths");
    reliability::loans_survive_cuts(new());
    reliability::cuts_amid_the_repetition_are_survived(new());
    reliability::messages_survive_many_cuts(new);
}

#[test]
fn short_suites_pass_where_a_thread_of_the_kernel_receives() {
    let new = || Tcp { window: SMALLEST, ..Tcp::new(Engine::IoUringSqpoll) };
    conformance_call_each! { new();
        transfer::messages_of_one_sender_keep_their_order
        transfer::both_directions_at_once
        transfer::many_large_messages_share_the_link
        loans::what_is_received_has_a_place
        reliability::two_that_call_each_other_again_have_one_link
    }
}

#[test]
fn the_whole_suites_pass_in_each_mode() {
    for mode in MODES.into_iter().filter(|_| is_long()) {
        conformance_cases! { [gridnet_core::conformance_call_each] Tcp::new(mode) }
        let new = || Tcp { window: SMALLEST, ..Tcp::new(mode) };
        conformance_call_each! { new();
            reliability::cuts_amid_the_repetition_are_survived
            reliability::stop_and_go_survive_cuts
            reliability::cancellation_under_cuts_ends_both_sides
        }
        reliability::messages_survive_many_cuts(new);
    }
}

/// Small messages come by the ring, large ones straight to their place, and small ones by the ring again.
#[test]
fn large_messages_are_taken_from_the_ring() {
    for mode in MODES.into_iter().filter(|mode| allowed(*mode) == *mode) {
        let mut pair = Pair::new(Tcp::new(mode));
        for round in 0..3 {
            small(&mut pair);
            assert!(pair.run_until(is_received), "{mode:?}: not by the ring in round {round}");
            small(&mut pair);
            let large = vec![round; 8 << 20];
            let receive = pair.b.receive(anything(), large.len());
            pair.a.send(pair.to_b, &large, 2);
            assert!(
                pair.run_until(|pair| !is_received(pair)),
                "{mode:?}: still by the ring in round {round}"
            );
            assert!(pair.finish_b(receive).bytes == large);
        }
    }
}

/// What is sealed is read by plain calls.
#[test]
fn what_is_sealed_arrives_in_each_mode() {
    for mode in MODES {
        let mut pair = Pair::new(Tcp { security: tls(), ..Tcp::new(mode) });
        small(&mut pair);
        assert!(!is_received(&mut pair));
        transfer::many_large_messages_share_the_link(Tcp { security: tls(), ..Tcp::new(mode) });
    }
}

#[test]
fn what_the_system_refuses_is_refused_by_name() {
    for mode in MODES {
        for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register] {
            let refused = std::thread::spawn(move || {
                let fixture = Tcp { engine: mode, ..Tcp::new(Engine::Epoll) };
                let address = fixture.address(1);
                forbid(call);
                TcpRail::open(TcpConfig { engine: mode, ..fixture.config(&address) }).map(|_| ())
            });
            let refusal = refused.join().unwrap().unwrap_err();
            assert_eq!(refusal.error, Error::Unsupported);
            let name = if mode == Engine::IoUringRecv { "io_uring_recv" } else { "io_uring_sqpoll" };
            let name = format!("GRIDNET_NET_ENGINE={name}: ");
            assert!(refusal.reason.starts_with(&name), "{}", refusal.reason);
        }
    }
}

fn small(pair: &mut Pair<Tcp>) {
    let receive = pair.b.receive(anything(), 8);
    pair.a.send(pair.to_b, b"a word", 1);
    assert_eq!(pair.finish_b(receive).bytes[..6], *b"a word");
}

/// Whether the ring of the second node receives what the first sends.
fn is_received(pair: &mut Pair<Tcp>) -> bool {
    let node = pair.a.address().node;
    let rail = &mut pair.b.engine().rails_mut()[0];
    rail.link_with(node).is_some_and(|link| rail.is_received(link))
}
