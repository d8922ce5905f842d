//! Two rails for one peer, in virtual time: the second goes on where the first breaks, and gives way when that is back.

use gridnet_core::endpoint::{Candidate, PeerState, ACCEPTED};
use gridnet_core::error::Error;
use gridnet_core::loopback::Cut;
use gridnet_core::mem::MEMORY_HOST;
use gridnet_core::rail::Rail;
use gridnet_core::region::Access;
use gridnet_core::reliability_tests;
use gridnet_core::testing::node::{anything, exactly, SendOptions};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::raw::RawPeer;
use gridnet_core::testing::two_rails::TwoRails;
use gridnet_core::wire::{Address, NodeId};

reliability_tests!(over_two, TwoRails::new());

const SECOND_NS: u64 = 1_000_000_000;
const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

/// Two nodes with two rails.
struct Lab(Pair<TwoRails>);

impl Lab {
    fn new() -> Lab {
        Lab(Pair::new(TwoRails::new()))
    }

    /// As [`Self::new`], where the near rail knows who its peers are.
    fn with_proof() -> Lab {
        Lab(Pair::new(TwoRails::with_proof()))
    }

    fn nodes(&self) -> [NodeId; 2] {
        [self.0.a.address().node, self.0.b.address().node]
    }

    fn part(&self, parted: bool) {
        self.0.fixture.part(self.nodes(), parted);
    }

    /// The rails that each side uses for the other.
    fn rails(&mut self) -> [Option<&'static str>; 2] {
        let Pair { a, b, to_a, to_b, .. } = &mut self.0;
        [a.engine().rail_name(*to_b), b.engine().rail_name(*to_a)]
    }

    fn is_up(&mut self) -> bool {
        let Pair { a, b, to_a, to_b, .. } = &mut self.0;
        a.state(*to_b) == PeerState::Up && b.state(*to_a) == PeerState::Up
    }

    /// Runs until both sides are up over the rail of that name; how long that took.
    fn time_until_over(&mut self, name: &'static str) -> u64 {
        let begin = self.0.fixture.now();
        while !(self.is_up() && self.rails() == [Some(name); 2]) {
            let taken = self.0.fixture.now().since(begin);
            assert!(taken < 100 * SECOND_NS, "{:?} instead of {name}", self.rails());
            self.0.step();
        }
        self.0.fixture.now().since(begin)
    }

    fn assert_talks(&mut self, tag: u64) {
        let Pair { a, to_b, .. } = &mut self.0;
        let send = a.send_with(*to_b, &[b"again"], tag, SYNC).expect("the peer lives");
        let receive = self.0.b.receive(anything(), 8);
        let outcome = self.0.finish_b(receive);
        assert_eq!(outcome.completion.map(|c| (c.tag, c.length)), Some((tag, 5)));
        assert_eq!(self.0.finish_a(send).status, Ok(()));
    }
}

#[test]
fn messages_go_on_over_the_second_rail_and_come_back() {
    let mut lab = Lab::new();
    assert_eq!(lab.rails(), [Some("near"); 2]);
    let mut tag = 0;
    for round in 0..5 {
        lab.part(true);
        let begin = lab.0.fixture.now();
        for len in [1, 8000, 200_000] {
            tag += 1;
            let bytes = vec![tag as u8; len];
            let send = lab.0.a.send(lab.0.to_b, &bytes, tag);
            let receive = lab.0.b.receive(exactly(lab.0.to_a, tag), len);
            assert_eq!(lab.0.finish_b(receive).bytes[..len], bytes);
            assert_eq!(lab.0.finish_a(send).status, Ok(()));
        }
        let took = lab.0.fixture.now().since(begin);
        assert!(took < SECOND_NS, "round {round}: {took} ns");
        assert_eq!(lab.rails(), [Some("far"); 2]);
        // It is tried meanwhile, and nothing comes of it.
        lab.0.run_steps(3000);
        assert_eq!((lab.rails(), lab.is_up()), ([Some("far"); 2], true));
        lab.part(false);
        let took = lab.time_until_over("near");
        assert!(took < 6 * SECOND_NS, "round {round}: {took} ns");
        tag += 1;
        lab.assert_talks(tag);
    }
    let breaks = lab.0.a.engine().breaks(lab.0.to_b).0;
    assert_eq!(breaks, 5, "to go back is no break");
    lab.0.run_until_quiet();
    assert_eq!(lab.0.a.engine().deadline(), None, "nothing has to be looked at any more");
}

/// Over the far rail somebody claims to be a peer, or the process that has come in its place.
#[test]
fn who_only_claims_to_be_a_peer_takes_nobodys_place() {
    for newer in [0, 1] {
        let mut lab = Lab::with_proof();
        let (claimed, called) = (*lab.0.a.address(), *lab.0.b.address());
        let claimed = Address { incarnation: claimed.incarnation + newer, ..claimed };
        let rail = lab.0.fixture.hub("far").rail(&claimed);
        let mut impostor = RawPeer::connect(rail, &called).expect("the rail leads there");
        for _ in 0..50 {
            let now = lab.0.fixture.tick();
            impostor.drive(now);
            lab.0.b.drive(now);
        }
        assert!(!impostor.is_up() && impostor.is_down(), "newer by {newer}");
        lab.0.run_steps(50);
        assert_eq!((lab.rails(), lab.is_up()), ([Some("near"); 2], true), "newer by {newer}");
        assert_eq!(lab.0.b.engine().moves(lab.0.to_a), 0);
        lab.assert_talks(1);
    }
}

/// A rail that knows its peers, and one that does not: the second carries the conversation all the same when the first is cut.
#[test]
fn a_link_that_only_one_side_misses_is_replaced_once_the_other_has_noticed() {
    let mut lab = Lab::with_proof();
    let [a, b] = lab.nodes();
    lab.0.fixture.hub("near").part(a, b, true);
    let cut = Cut { unnoticed_ns: [0, SECOND_NS], ..Cut::default() };
    assert!(lab.0.fixture.hub("near").cut(a, b, cut));
    let took = lab.time_until_over("far");
    assert!((SECOND_NS..2 * SECOND_NS).contains(&took), "{took} ns");
    lab.assert_talks(1);
}

/// The first rail was out of order for long, and was fine for long afterwards: its next break is dealt with as the first.
#[test]
fn the_pause_before_the_way_back_is_short_again_after_a_while() {
    let mut lab = Lab::new();
    lab.part(true);
    lab.time_until_over("far");
    lab.0.run_steps(3000);
    lab.part(false);
    lab.time_until_over("near");
    lab.0.run_steps(6000);
    lab.part(true);
    lab.time_until_over("far");
    lab.part(false);
    let took = lab.time_until_over("near");
    assert!(took < SECOND_NS / 5, "{took} ns");
}

/// What a program is told of the rails: which is used, and why the other is not.
#[test]
fn each_side_says_why_which_rail_is_used() {
    let mut lab = Lab::new();
    let verdicts = |lab: &mut Lab| {
        let Pair { a, b, to_a, to_b, .. } = &mut lab.0;
        [(a, *to_b), (b, *to_a)].map(|(node, peer)| {
            let (.., candidates) = node.engine().peer(peer).expect("there is the peer");
            let text = |c: &Candidate| (c.rail, c.verdict.clone().err().unwrap_or_default());
            candidates.iter().map(text).collect::<Vec<_>>()
        })
    };
    let not_needed = |rail| format!("not needed: rail {rail} leads there and is preferred");
    let chosen = (ACCEPTED, "the peer chose the rail".to_owned());
    let [of_a, of_b] = verdicts(&mut lab);
    assert_eq!(of_a, [("near", String::new()), ("far", not_needed("near"))]);
    assert_eq!(of_b, std::slice::from_ref(&chosen));
    for _ in 0..2 {
        lab.part(true);
        lab.time_until_over("far");
        let broke = ("near", "its link broke: the link was cut".to_owned());
        let [of_a, of_b] = verdicts(&mut lab);
        assert_eq!(of_a, [broke.clone(), ("far", String::new())]);
        assert_eq!(of_b, [chosen.clone(), broke]);
        lab.part(false);
        lab.time_until_over("near");
        let [of_a, of_b] = verdicts(&mut lab);
        assert_eq!(of_a, [("near", String::new()), ("far", not_needed("near"))]);
        assert_eq!(of_b, [chosen.clone(), ("far", not_needed("near"))]);
    }
    assert_eq!([lab.0.a.engine().moves(lab.0.to_b), lab.0.b.engine().moves(lab.0.to_a)], [2, 2]);
}

/// Everything under way in both directions while the conversation goes back and forth.
#[test]
fn nothing_is_lost_on_the_way_back() {
    for seed in 0..40u64 {
        let mut lab = Lab::new();
        lab.part(true);
        lab.time_until_over("far");
        let lens = [0, 40, 5000, 9000, 100_000, 1];
        let (to_a, to_b) = (lab.0.to_a, lab.0.to_b);
        let sends: Vec<_> = (0..60u64)
            .map(|i| {
                let bytes = vec![i as u8; lens[(i + seed) as usize % lens.len()]];
                (lab.0.a.send(to_b, &bytes, i), lab.0.b.send(to_a, &bytes, i), bytes)
            })
            .collect();
        lab.0.run_steps(seed as usize % 20);
        lab.part(false);
        for (i, (_, _, bytes)) in sends.iter().enumerate() {
            let receives =
                (lab.0.a.receive(anything(), bytes.len()), lab.0.b.receive(anything(), bytes.len()));
            for outcome in [lab.0.finish_a(receives.0), lab.0.finish_b(receives.1)] {
                assert_eq!(outcome.completion.map(|c| c.tag), Some(i as u64), "seed {seed}");
                assert!(outcome.bytes[..bytes.len()] == bytes[..], "seed {seed}: message {i}");
            }
        }
        for (of_a, of_b, _) in sends {
            assert_eq!((lab.0.finish_a(of_a).status, lab.0.finish_b(of_b).status), (Ok(()), Ok(())));
        }
        lab.time_until_over("near");
    }
}

/// A put and a get whose parts are longer than what the second rail carries in one.
#[test]
fn what_one_rail_retained_is_cut_for_the_other() {
    let mut lab = Lab::new();
    let Pair { a, b, to_b, .. } = &mut lab.0;
    let mut memory = vec![0u8; 100_000].into_boxed_slice();
    // Memory of the program: this rail reaches it by messages only.
    let region = b.engine().register(memory.as_mut_ptr(), memory.len(), Access::ALL, MEMORY_HOST);
    let key = b.engine().region_key(region.expect("there is room")).expect("the region is open");
    let rkey = a.engine().import_key(*to_b, &key).expect("the key is one of b");
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    for cut_after in 0..6 {
        let (a, to_b) = (&mut lab.0.a, lab.0.to_b);
        let put = a.put(to_b, rkey, 0, &bytes).expect("the put is allowed");
        let get = a.get(to_b, rkey, 0, bytes.len()).expect("the get is allowed");
        lab.0.run_steps(cut_after);
        lab.part(true);
        assert_eq!(lab.0.finish_a(put).status, Ok(()));
        let got = lab.0.finish_a(get);
        assert_eq!(got.status, Ok(()));
        assert!(got.bytes[..bytes.len()] == bytes[..], "after {cut_after} steps");
        lab.part(false);
        lab.time_until_over("near");
    }
    let (_, repeated) = lab.0.a.engine().breaks(lab.0.to_b);
    assert!(repeated > 0, "nothing was lost on the way");
    lab.0.b.close();
    drop(memory);
}

/// Both rails are gone: the time of the peer runs as with one.
#[test]
fn a_peer_that_no_rail_leads_to_is_gone_in_time() {
    let mut lab = Lab::new();
    let [a, b] = lab.nodes();
    let send = lab.0.a.send_with(lab.0.to_b, &[b"sync"], 1, SYNC).expect("the send starts");
    lab.part(true);
    lab.0.fixture.hub("far").part(a, b, true);
    let begin = lab.0.fixture.now();
    while !lab.0.a.is_finished(send) {
        lab.0.step();
    }
    let took = lab.0.fixture.now().since(begin);
    assert!((5 * SECOND_NS..6 * SECOND_NS).contains(&took), "after {took} ns");
    assert_eq!(lab.0.a.take(send).expect("it has ended").status, Err(Error::PeerGone));
}

/// Only one side has noticed that the first link is cut: the other follows when it is called over the second.
#[test]
fn who_is_called_over_another_rail_follows() {
    let mut lab = Lab::new();
    let [a, b] = lab.nodes();
    lab.0.fixture.hub("near").part(a, b, true);
    let cut = Cut { unnoticed_ns: [0, 1000 * SECOND_NS], ..Cut::default() };
    assert!(lab.0.fixture.hub("near").cut(a, b, cut));
    let took = lab.time_until_over("far");
    assert!(took < SECOND_NS, "{took} ns");
    lab.assert_talks(1);
    assert_eq!(lab.0.b.engine().breaks(lab.0.to_a).0, 0, "for that side it was a move");
}

/// A peer that closes while the first rail is out of order is gone, and so is its successor told apart.
#[test]
fn a_peer_that_closes_over_the_second_rail_is_gone() {
    let mut lab = Lab::new();
    lab.part(true);
    lab.time_until_over("far");
    let send = lab.0.a.send_with(lab.0.to_b, &[b"sync"], 1, SYNC).expect("the send starts");
    lab.0.b.close();
    assert_eq!(lab.0.finish_a(send).status, Err(Error::PeerGone));
    assert_eq!(lab.0.a.engine().counters().peers_gone, 1);
}

/// The order of preference is that of the rails, and a rail that never led to the peer is not tried.
#[test]
fn a_rail_that_never_led_there_is_not_sought() {
    let mut pair = Pair::strangers(TwoRails::new(), Setup::default());
    let nodes = [pair.a.address().node, pair.b.address().node];
    pair.fixture.part(nodes, true);
    pair.meet();
    assert_eq!(pair.a.engine().rail_name(pair.to_b), Some("far"));
    pair.fixture.part(nodes, false);
    pair.run_until_quiet();
    assert_eq!(pair.a.engine().rail_name(pair.to_b), Some("far"));
    assert_eq!(pair.a.engine().deadline(), None, "nobody is woken for it");
}

/// What goes whole over one rail has to go whole over the other when it is sent again.
#[test]
fn rails_that_retain_have_one_eager_limit() {
    let mut fixture = TwoRails::with_far_eager(1000);
    let rails = fixture.rails(&fixture.address(9));
    let limits: Vec<_> = rails.iter().map(|rail| rail.capabilities().max_eager).collect();
    assert_eq!(limits, [8192, 1000]);
    let mut pair = Pair::new(fixture);
    assert_eq!(pair.a.engine().rail_name(pair.to_b), Some("near"));
    for (len, by_rendezvous) in [(1000, 0), (1001, 1)] {
        let send = pair.a.send(pair.to_b, &vec![1; len], 1);
        let receive = pair.b.receive(anything(), len);
        assert_eq!((pair.finish_b(receive).status, pair.finish_a(send).status), (Ok(()), Ok(())));
        let counters = pair.a.engine().peer_counters(pair.to_b).expect("there is the peer");
        assert_eq!(counters.sends_rendezvous, by_rendezvous);
    }
}

/// Both sides open each other at the same time, and prefer different rails: one of the calls is the link, whatever comes first.
#[test]
fn first_calls_over_different_rails_that_cross_make_one_link() {
    for (number, is_proving) in [(1, false), (2, false), (1, true), (2, true)] {
        for first in [None, Some(true), Some(false)] {
            let rails = if is_proving { TwoRails::with_proof() } else { TwoRails::new() };
            let mut pair = Pair::strangers(rails.preferring_far(number), Setup::default());
            let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
            pair.to_b = pair.a.engine().open(&address_b).expect("a rail leads there");
            pair.to_a = pair.b.engine().open(&address_a).expect("a rail leads there");
            let now = pair.fixture.tick();
            match first {
                Some(true) => _ = pair.a.drive(now),
                Some(false) => _ = pair.b.drive(now),
                None => {}
            }
            let mut lab = Lab(pair);
            let begin = lab.0.fixture.now();
            lab.assert_talks(1);
            let what = format!("{number} prefers the far rail, {is_proving}, a first: {first:?}");
            let took = lab.0.fixture.now().since(begin);
            assert!(took < SECOND_NS / 10, "{what}: {took} ns");
            let Lab(Pair { a, b, to_a, to_b, .. }) = &mut lab;
            let from_b = b.send_with(*to_a, &[b"back!"], 2, SYNC).expect("the peer lives");
            let receive = a.receive(exactly(*to_b, 2), 8);
            assert_eq!(lab.0.finish_a(receive).status, Ok(()), "{what}");
            assert_eq!(lab.0.finish_b(from_b).status, Ok(()), "{what}");
            assert!(lab.is_up(), "{what}");
            let [used, same] = lab.rails();
            assert_eq!(used, same, "{what}");
            let smaller = if number == 1 { "far" } else { "near" };
            let expected = if is_proving { "near" } else { smaller };
            assert_eq!(used, Some(expected), "{what}");
            let breaks = [lab.0.a.engine().breaks(lab.0.to_b).0, lab.0.b.engine().breaks(lab.0.to_a).0];
            assert_eq!(breaks, [0, 0], "{what}");
        }
    }
}

/// The side that waits for the other's call calls itself when none comes.
#[test]
fn who_waits_for_a_call_that_does_not_come_calls_again() {
    let mut pair = Pair::strangers(TwoRails::new().preferring_far(2), Setup::default());
    let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
    let nodes = [address_a.node, address_b.node];
    pair.to_b = pair.a.engine().open(&address_b).expect("a rail leads there");
    pair.to_a = pair.b.engine().open(&address_a).expect("a rail leads there");
    // The call that counts is lost, after it was said that it does.
    let now = pair.fixture.tick();
    pair.a.drive(now);
    pair.fixture.part(nodes, true);
    let send = pair.b.send(pair.to_a, b"hello", 3);
    let receive = pair.a.receive(anything(), 8);
    assert_eq!(pair.finish_a(receive).status, Ok(()));
    assert_eq!(pair.finish_b(send).status, Ok(()));
}
