//! Links begin and end.

use super::{assert_received, content, moments};
use crate::endpoint::PeerState;
use crate::error::Error;
use crate::testing::node::{anything, exactly, from_any, Outcome, SendOptions};
use crate::testing::pair::{Fixture, Pair, Setup};

const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

/// Both call at the same time: one link comes of it, and each message arrives once.
pub fn two_that_call_each_other_have_one_link<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
    pair.to_b = pair.a.engine().open(&address_b).expect("the rail leads to its peer");
    pair.to_a = pair.b.engine().open(&address_a).expect("the rail leads to its peer");
    for i in 0..50u64 {
        pair.a.send(pair.to_b, &i.to_le_bytes(), i);
        pair.b.send(pair.to_a, &i.to_le_bytes(), i);
    }
    for i in 0..50u64 {
        let (at_a, at_b) =
            (pair.a.receive(exactly(pair.to_b, i), 8), pair.b.receive(exactly(pair.to_a, i), 8));
        let (at_a, at_b) = (pair.finish_a(at_a), pair.finish_b(at_b));
        assert_received(&at_a, i, &i.to_le_bytes());
        assert_received(&at_b, i, &i.to_le_bytes());
    }
    pair.run_until_quiet();
    for node in [&mut pair.a, &mut pair.b] {
        let counters = node.engine().counters();
        assert_eq!((counters.peers_now, counters.peers_gone, counters.unexpected_now), (1, 0, 0));
    }
    assert_eq!((pair.state_of_b(), pair.state_of_a()), (PeerState::Up, PeerState::Up));
}

/// Every operation that concerns a peer ends when the peer does; those that accept any source go on.
pub fn operations_end_when_the_peer_closes<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let large = content(300_000, 0);
    let mut lost = vec![
        pair.a.send_with(pair.to_b, &[b"sync"], 1, SYNC).expect("the send starts"),
        pair.a.send_with(pair.to_b, &[&content(5000, 0)], 1, SYNC).expect("the send starts"),
        pair.a.send(pair.to_b, &large, 1),
    ];
    lost.extend((0..10).map(|tag| pair.a.receive(exactly(pair.to_b, tag), 8)));
    let any = pair.a.receive(from_any(1), 8);
    pair.run_until_quiet();
    // One more that is not yet announced when the peer goes.
    lost.push(pair.a.send(pair.to_b, &large, 1));
    pair.b.close();
    for ticket in lost {
        assert_eq!(pair.finish_a(ticket).status, Err(Error::PeerGone), "{ticket:?}");
    }
    assert!(!pair.a.is_finished(any), "a receive that accepts any source ended with one peer");
    pair.a.cancel(any).expect("it waits");
    assert_eq!(pair.finish_a(any).status, Err(Error::Canceled));
    let to_b = pair.to_b;
    assert!(matches!(pair.a.state(to_b), PeerState::Gone(why) if why.error == Error::PeerGone));
    assert_eq!(pair.a.send_with(to_b, &[b"late"], 1, SYNC), Err(Error::PeerGone));
    assert_eq!(pair.a.receive_with(exactly(to_b, 1), &[8]), Err(Error::PeerGone));
    assert_eq!(pair.a.engine().counters().pending_now, 0);
}

/// Whole messages of a peer that has closed stay receivable; announced ones tell of its end, held or not.
pub fn what_came_before_the_end_stays<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let large = content(200_000, 0);
    pair.b.send(pair.to_a, b"whole", 1);
    pair.b.send(pair.to_a, &content(3000, 1), 2);
    pair.b.send(pair.to_a, &large, 3);
    pair.b.send(pair.to_a, &large, 4);
    pair.b.send(pair.to_a, b"held", 5);
    pair.b.send_with(pair.to_a, &[b"sync"], 6, SYNC).expect("the send starts");
    pair.run_until_quiet();
    let mut hold = |tag| pair.a.engine().matched_probe(&from_any(tag)).expect("a message is there").1;
    let (held_large, held_small) = (hold(4), hold(5));
    // What was sent before the end, as far as the rail has said so, arrives, though nobody looked meanwhile.
    let last = pair.b.send(pair.to_a, b"last", 7);
    let last_was_sent = pair.b.is_finished(last);
    pair.b.close();
    pair.run_until_quiet();
    let to_b = pair.to_b;
    assert!(matches!(pair.a.state(to_b), PeerState::Gone(_)));
    for (tag, bytes) in
        [(1, b"whole".to_vec()), (2, content(3000, 1)), (6, b"sync".to_vec()), (7, b"last".to_vec())]
    {
        if tag == 7 && !last_was_sent {
            continue;
        }
        let receive = pair.a.receive(exactly(to_b, tag), bytes.len());
        let outcome = pair.finish_a(receive);
        assert_received(&outcome, tag, &bytes);
    }
    let announced = pair.a.receive(exactly(to_b, 3), large.len());
    let announced = pair.finish_a(announced);
    check_announced(&announced, 3, &large);
    let small = pair.a.receive_held(held_small, 4).expect("the message is held");
    let outcome = pair.finish_a(small);
    assert_received(&outcome, 5, b"held");
    let announced = pair.a.receive_held(held_large, large.len()).expect("the message is held");
    let announced = pair.finish_a(announced);
    check_announced(&announced, 4, &large);
    assert_eq!(pair.a.receive_with(exactly(to_b, 1), &[8]), Err(Error::PeerGone), "none is left");
}

/// A message that was announced by a peer that has gone: it is lost, unless all of it came ahead.
fn check_announced(outcome: &Outcome, tag: u64, bytes: &[u8]) {
    match outcome.status {
        Ok(()) => assert_received(outcome, tag, bytes),
        Err(error) => assert_eq!(error, Error::PeerGone),
    }
}

/// The peer closes at any step of transfers in both directions: each ends, and what ends well is whole.
pub fn a_peer_that_closes_in_transfer_is_gone<F: Fixture>(fixture: F) {
    let bytes = content(1 << 20, 3);
    let mut pair = Pair::new(fixture);
    for steps in moments(&pair.fixture, 25) {
        let receive = pair.a.receive(exactly(pair.to_b, 1), 1 << 20);
        pair.b.receive(exactly(pair.to_a, 1), 1 << 20);
        let send = pair.a.send(pair.to_b, &bytes, 1);
        pair.b.send(pair.to_a, &bytes, 1);
        pair.run_steps(steps.into());
        pair.b.close();
        let (sent, received) = (pair.finish_a(send), pair.finish_a(receive));
        assert!(matches!(sent.status, Ok(()) | Err(Error::PeerGone)), "{:?}", sent.status);
        match received.status {
            Ok(()) => assert_received(&received, 1, &bytes),
            Err(error) => assert_eq!(error, Error::PeerGone),
        }
        assert_eq!(pair.a.engine().counters().pending_now, 0);
        pair.b = pair.stranger(10 + steps, Setup::default());
        pair.meet();
    }
}

/// After its end a peer's place is taken by a new node, under a new number.
pub fn a_new_link_follows_an_old_one<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for number in 10..20 {
        let old = pair.to_b;
        pair.b.close();
        pair.run_until_quiet();
        let old_state = pair.a.state(old);
        assert!(matches!(old_state, PeerState::Gone(_)));
        pair.b = pair.stranger(number, Setup::default());
        pair.meet();
        assert_ne!(pair.to_b, old);
        let send = pair.a.send_with(pair.to_b, &[b"again"], 1, SYNC).expect("the send starts");
        let receive = pair.b.receive(anything(), 8);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 1, b"again");
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
    let counters = pair.a.engine().counters();
    assert_eq!((counters.peers_now, counters.peers_gone), (1, 10));
}

/// Sends start before the link is up, and go in order when it is.
pub fn sends_before_the_link_is_up_arrive<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    let to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let len_of = |i: u64| if i % 10 == 3 { 50_000 } else { i as usize };
    let sends: Vec<_> = (0..600).map(|i| pair.a.send(to_b, &content(len_of(i), i), i)).collect();
    for i in 0..600 {
        let receive = pair.b.receive(anything(), 50_000);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, i, &content(len_of(i), i));
    }
    for send in sends {
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
}

impl<F: Fixture> Pair<F> {
    fn state_of_b(&mut self) -> PeerState {
        self.a.state(self.to_b)
    }

    fn state_of_a(&mut self) -> PeerState {
        self.b.state(self.to_a)
    }
}
