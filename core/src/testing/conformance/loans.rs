//! Loans: written by one, read by others where they lie; over rails that do not lend, copied.

use super::{assert_received, content};
use crate::endpoint::PeerState;
use crate::error::Error;
use crate::rail::PeerId;
use crate::testing::loans::read;
use crate::testing::node::{anything, exactly, from_any, Node, Outcome, SendOptions};
use crate::testing::pair::{Fixture, Pair, Setup};

const SIZES: [usize; 9] = [0, 1, 48, 64, 4096, 4097, 100_000, 1 << 20, (5 << 20) + 3];

/// Loans of all sizes arrive whole, received first and last, and their memory comes back.
pub fn loans_of_all_sizes_arrive<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for len in SIZES {
        for posted_first in [true, false] {
            let bytes = content(len, u64::from(posted_first));
            let posted = posted_first.then(|| pair.b.receive_loan(exactly(pair.to_a, 1)));
            let send = pair.a.send_as_loan(pair.to_b, &bytes, 1);
            if !posted_first {
                pair.run_until_quiet();
            }
            let receive = posted.unwrap_or_else(|| pair.b.receive_loan(exactly(pair.to_a, 1)));
            let outcome = pair.finish_b(receive);
            let loan = assert_lent(&outcome, 1, &bytes);
            assert_eq!(pair.finish_a(send).status, Ok(()));
            assert_eq!(pair.b.engine().give_back(loan), Ok(()));
            assert_all_back(&mut pair);
        }
    }
}

/// Over a rail that lends, a loan whose turn it is leaves within the call, however many went before.
pub fn loans_leave_at_once<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let lends = pair.lends();
    for i in 0..300u64 {
        let receive = pair.b.receive_loan(exactly(pair.to_a, i));
        let send = pair.a.send_as_loan(pair.to_b, &content(10_000, i), i);
        assert!(!lends || pair.a.is_finished(send), "loan {i} waits");
        let outcome = pair.finish_b(receive);
        let loan = assert_lent(&outcome, i, &content(10_000, i));
        pair.b.engine().give_back(loan).expect("it was received");
        assert_eq!(pair.finish_a(send).completion.is_some(), !lends);
    }
    assert_all_back(&mut pair);
}

/// A receive with a buffer takes a loan as any message, and gives it back by itself.
pub fn a_buffer_takes_a_loan<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for (len, room) in [(0, 0), (10, 10), (10, 100), (100_000, 100_000), (100_000, 7), (9, 0)] {
        for early in [false, true] {
            let bytes = content(len, 4);
            let posted = (!early).then(|| pair.b.receive_now(pair.to_a, 3, room));
            pair.a.send_as_loan(pair.to_b, &bytes, 3);
            if early {
                pair.run_until_quiet();
                let probe = pair.b.engine().probe(&from_any(3)).expect("the message is there");
                assert_eq!(probe.len, len as u64);
            }
            let receive = posted.unwrap_or_else(|| pair.b.receive(exactly(pair.to_a, 3), room));
            let outcome = pair.finish_b(receive);
            if len > room {
                assert_eq!(outcome.status, Err(Error::Truncated));
                assert!(outcome.bytes == bytes[..room], "{len} bytes into {room} differ");
            } else {
                assert_received(&outcome, 3, &bytes);
            }
            assert_all_back(&mut pair);
        }
    }
}

/// A receive of loans takes whatever was sent.
pub fn a_receive_of_loans_takes_any_message<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for len in [0, 8, 48, 49, 5000, 8192, 8193, 300_000] {
        for (early, sync) in [(false, false), (true, false), (false, true), (true, true)] {
            let bytes = content(len, 9);
            let posted = (!early).then(|| pair.b.receive_loan(exactly(pair.to_a, 2)));
            let options = SendOptions { sync, immediate: Some(77), always_complete: true };
            let send = pair.a.send_with(pair.to_b, &[&bytes], 2, options).expect("the send starts");
            if early {
                pair.run_until_quiet();
            }
            let receive = posted.unwrap_or_else(|| pair.b.receive_loan(exactly(pair.to_a, 2)));
            let outcome = pair.finish_b(receive);
            let loan = assert_lent(&outcome, 2, &bytes);
            assert_eq!(outcome.completion.map(|c| (c.immediate, c.flags)), Some((77, 1)));
            assert_eq!(pair.finish_a(send).status, Ok(()));
            assert_eq!(pair.b.engine().give_back(loan), Ok(()));
            assert_eq!(pair.b.engine().give_back(loan), Err(Error::Handle));
        }
    }
    assert_all_back(&mut pair);
}

/// Loans and other messages of one sender are matched in the order in which they were sent.
pub fn loans_keep_their_order<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    // The first of them wait for the link.
    let to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let len_of = |i: u64| [8usize, 20_000, 100, 5000][i as usize % 4];
    for i in 0..120 {
        let bytes = content(len_of(i), i);
        match i % 3 {
            0 => pair.a.send(to_b, &bytes, i),
            _ => pair.a.send_as_loan(to_b, &bytes, i),
        };
        if i > 60 {
            pair.step();
        }
    }
    for i in 0..120 {
        let bytes = content(len_of(i), i);
        if i % 5 == 0 {
            let receive = pair.b.receive(anything(), 20_000);
            let outcome = pair.finish_b(receive);
            assert_received(&outcome, i, &bytes);
        } else {
            let receive = pair.b.receive_loan(anything());
            let outcome = pair.finish_b(receive);
            let loan = assert_lent(&outcome, i, &bytes);
            pair.b.engine().give_back(loan).expect("it was received");
        }
    }
    assert_all_back(&mut pair);
    assert_eq!((pair.a.pending(), pair.b.pending()), (0, 0));
}

/// Immediate values travel with loans, and matched probes take them.
pub fn loans_are_probed_and_held<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(50_000, 1);
    for lent in [true, false] {
        let loan = pair.a.take_loan(&bytes).expect("there is memory for a loan");
        let options = SendOptions { immediate: Some(5), ..SendOptions::default() };
        let send =
            pair.a.send_loan_with(pair.to_b, loan, 50_000, 8, false, options).expect("the send starts");
        pair.run_until_quiet();
        let (probe, held) = pair.b.engine().matched_probe(&from_any(8)).expect("the message is there");
        assert_eq!((probe.len, probe.immediate), (50_000, Some(5)));
        let receive = if lent { pair.b.receive_held_loan(held) } else { pair.b.receive_held(held, 50_000) };
        let outcome = pair.finish_b(receive.expect("the message is held"));
        assert_eq!(outcome.completion.map(|c| (c.immediate, c.flags)), Some((5, 1)));
        if lent {
            let loan = assert_lent(&outcome, 8, &bytes);
            pair.b.engine().give_back(loan).expect("it was received");
        } else {
            assert_received(&outcome, 8, &bytes);
        }
        assert_eq!(pair.finish_a(send).status, Ok(()));
        assert_all_back(&mut pair);
    }
}

/// One loan is read by three peers at once, and comes back with the last.
pub fn one_loan_goes_to_several<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut others: Vec<Node<F::Rail>> = (0..2).map(|i| pair.stranger(30 + i, Setup::default())).collect();
    let addresses: Vec<_> = others.iter().map(|node| *node.address()).collect();
    let to: Vec<PeerId> =
        addresses.iter().map(|at| pair.a.engine().open(at).expect("the rail leads there")).collect();
    let bytes = content(200_000, 6);
    for round in 0..3 {
        let loan = pair.a.take_loan(&bytes).expect("there is memory for a loan");
        let at_b = pair.b.receive_loan(from_any(1));
        let at_others: Vec<_> = others.iter_mut().map(|node| node.receive_loan(from_any(1))).collect();
        for peer in [pair.to_b, to[0]] {
            pair.a.send_loan(peer, loan, bytes.len(), 1, true).expect("the loan is shared");
        }
        // The last send ends the program's hold; or it gives the loan back.
        pair.a.send_loan(to[1], loan, bytes.len(), 1, round == 0).expect("the loan is sent");
        assert_eq!(pair.a.engine().give_back(loan), if round == 0 { Ok(()) } else { Err(Error::Handle) });
        let outcome = pair.finish_b(at_b);
        let mut lent = vec![assert_lent(&outcome, 1, &bytes)];
        for (node, ticket) in others.iter_mut().zip(at_others) {
            drive_until(&mut pair, node, |node| node.is_finished(ticket));
            let outcome = node.take(ticket).expect("it has ended");
            lent.push(assert_lent(&outcome, 1, &bytes));
        }
        if pair.lends() {
            assert_eq!(pair.a.engine().loans(), 1, "three peers read it");
        }
        pair.b.engine().give_back(lent[0]).expect("it was received");
        for (node, loan) in others.iter_mut().zip(&lent[1..]) {
            pair.run_until_quiet();
            // Others still read: what is taken meanwhile is other memory.
            let other = pair.a.take_loan(&content(200_000, 99)).expect("there is memory for a loan");
            pair.a.engine().give_back(other).expect("it is ours");
            node.engine().give_back(*loan).expect("it was received");
            assert_eq!(node.engine().loans(), 0);
            // What it has to say leaves it.
            let quiet = pair.fixture.quiet_steps();
            let mut steps = 0;
            drive_until(&mut pair, node, |_| {
                steps += 1;
                steps > quiet
            });
        }
        assert_all_back(&mut pair);
    }
}

/// Handles that name nothing any more, or something else, are found out; nothing is lost by it.
pub fn wrong_handles_are_refused<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let bytes = content(5000, 1);
    let given_back = pair.a.take_loan(&bytes).expect("there is memory for a loan");
    assert_eq!(pair.b.engine().give_back(given_back), Err(Error::Invalid), "of another fabric");
    let to_a = pair.to_a;
    assert_eq!(pair.b.send_loan(to_a, given_back, 1, 1, false), Err(Error::Invalid));
    pair.a.engine().give_back(given_back).expect("it is ours");
    assert_eq!(pair.a.engine().give_back(given_back), Err(Error::Handle), "twice");
    assert_eq!(
        pair.a.send_loan(to_b, given_back, 1, 1, false),
        Err(Error::Handle),
        "after it was given back"
    );

    let sent = pair.a.take_loan(&bytes).expect("there is memory for a loan");
    assert_eq!(pair.a.send_loan(to_b, sent, 5001, 1, false), Err(Error::Invalid), "longer than it is");
    pair.a.send_loan(to_b, sent, 4000, 1, false).expect("the loan is sent");
    assert_eq!(pair.a.send_loan(to_b, sent, 1, 1, false), Err(Error::Handle), "a second time");
    assert_eq!(pair.a.engine().give_back(sent), Err(Error::Handle), "after it was sent");

    let receive = pair.b.receive_loan(from_any(1));
    let outcome = pair.finish_b(receive);
    let received = assert_lent(&outcome, 1, &bytes[..4000]);
    assert_eq!(pair.b.send_loan(to_a, received, 1, 1, false), Err(Error::Unsupported), "sent on");
    pair.b.engine().give_back(received).expect("it was received");
    for nonsense in [0, 1, u64::MAX, received, sent] {
        assert!(pair.a.engine().give_back(nonsense).is_err());
        assert!(pair.b.engine().give_back(nonsense).is_err());
    }
    assert_all_back(&mut pair);
    assert_eq!(pair.a.state(to_b), PeerState::Up);
}

/// What a peer has lent stays readable after its end, received or not.
pub fn loans_outlive_their_sender<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(300_000, 2);
    let small = content(2000, 3);
    let lends = pair.lends();
    let held = pair.a.receive_loan(exactly(pair.to_b, 1));
    let sends = [(1, &bytes), (2, &small), (3, &small), (4, &bytes)];
    for (tag, bytes) in sends {
        pair.b.send_as_loan(pair.to_a, bytes, tag);
    }
    let outcome = pair.finish_a(held);
    pair.run_until_quiet();
    let to_b = pair.to_b;
    pair.b.close();
    pair.run_until_quiet();
    assert!(matches!(pair.a.state(to_b), PeerState::Gone(_)));
    let first = assert_lent(&outcome, 1, &bytes);
    let second = pair.a.receive_loan(exactly(to_b, 2));
    let outcome = pair.finish_a(second);
    let second = assert_lent(&outcome, 2, &small);
    let copied = pair.a.receive(exactly(to_b, 3), small.len());
    let outcome = pair.finish_a(copied);
    assert_received(&outcome, 3, &small);
    let fourth = pair.a.receive_loan(exactly(to_b, 4));
    let outcome = pair.finish_a(fourth);
    if lends {
        let fourth = assert_lent(&outcome, 4, &bytes);
        pair.a.engine().give_back(fourth).expect("it was received");
    } else {
        assert_eq!(outcome.status, Err(Error::PeerGone), "it was only announced");
    }
    for loan in [first, second] {
        pair.a.engine().give_back(loan).expect("it was received");
        assert_eq!(pair.a.engine().give_back(loan), Err(Error::Handle));
    }
    assert_eq!(pair.a.engine().loans(), 0);
}

/// What a peer holds comes back with its end, whether it had received it or not.
pub fn loans_come_back_from_a_peer_that_closes<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    for number in 10..14 {
        let bytes = content(100_000, 2);
        let receive = pair.b.receive_loan(exactly(pair.to_a, 1));
        for tag in [1, 2, 3] {
            pair.a.send_as_loan(pair.to_b, &bytes, tag);
        }
        let kept = pair.a.take_loan(&bytes).expect("there is memory for a loan");
        pair.a.send_loan(pair.to_b, kept, 10, 4, true).expect("the loan is shared");
        pair.finish_b(receive);
        pair.run_until_quiet();
        if pair.lends() {
            assert_eq!(pair.a.engine().loans(), 4);
        }
        // One more that has not arrived.
        pair.a.send_as_loan(pair.to_b, &bytes, 5);
        pair.b.close();
        pair.run_until_quiet();
        pair.a.collect();
        assert_eq!(pair.a.engine().loans(), 1, "all but the one that the program kept");
        let to_b = pair.to_b;
        assert_eq!(pair.a.send_loan(to_b, kept, 10, 4, false), Err(Error::PeerGone));
        pair.a.engine().give_back(kept).expect("a send that fails leaves the loan");
        assert_eq!(pair.a.engine().loans(), 0);
        pair.b = pair.stranger(number, Setup::default());
        pair.meet();
    }
}

/// When all memory is lent, the next loan waits for one that comes back; of any size.
pub fn exhausted_loans_recover<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    if !pair.lends() {
        return;
    }
    assert_eq!(pair.a.engine().take_loan(usize::MAX).unwrap_err(), Error::Limit);
    assert_eq!(pair.a.engine().take_loan(1 << 40).unwrap_err(), Error::Limit);
    let bytes = content(3 << 20, 5);
    let mut taken = Vec::new();
    let full = loop {
        match pair.a.take_loan(&bytes) {
            Ok(loan) => taken.push(loan),
            Err(error) => break error,
        }
    };
    assert_eq!(full, Error::Again);
    assert!(taken.len() >= 2, "only {} loans", taken.len());
    // Messages still have room.
    let receive = pair.b.receive(from_any(9), 100_000);
    pair.a.send(pair.to_b, &content(100_000, 9), 9);
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 9, &content(100_000, 9));
    let mut lent = Vec::new();
    for loan in &taken {
        let receive = pair.b.receive_loan(from_any(1));
        pair.a.send_loan(pair.to_b, *loan, bytes.len(), 1, false).expect("the loan is sent");
        let outcome = pair.finish_b(receive);
        lent.push(assert_lent(&outcome, 1, &bytes));
    }
    assert_eq!(pair.a.take_loan(&bytes), Err(Error::Again), "peers have them all");
    pair.b.engine().give_back(lent.remove(0)).expect("it was received");
    // The next attempt hears of it by itself, or after a step on rails that take time.
    pair.run_until_quiet();
    let again = pair.a.take_loan(&bytes).expect("one has come back");
    assert_eq!(pair.a.take_loan(&bytes), Err(Error::Again));
    pair.a.engine().give_back(again).expect("it is ours");
    lent.drain(..).for_each(|loan| pair.b.engine().give_back(loan).expect("it was received"));
    assert_all_back(&mut pair);
    // What came back in one size serves another.
    let large = pair.a.take_loan(&content(6 << 20, 1)).expect("ranges are joined");
    let small = pair.a.take_loan(b"small").expect("and cut");
    for loan in [large, small] {
        pair.a.engine().give_back(loan).expect("it is ours");
    }
}

/// However many loans there are, each receive that was posted has a place for its own; the bound is told before, by name.
pub fn what_is_received_has_a_place<F: Fixture>(fixture: F) {
    const MOST: usize = 5;
    let mut pair = Pair::new(fixture);
    pair.b.engine().limit_loans(MOST);
    let large = content(300_000, 2);
    for round in 0..3 {
        // Small and large, as a loan and not: each takes its place in a way of its own.
        let posted: Vec<_> = (0..3).map(|tag| pair.b.receive_loan(exactly(pair.to_a, tag))).collect();
        let own: Vec<u64> =
            (0..2).map(|_| pair.b.take_loan(b"own").expect("there is room for both")).collect();
        assert_eq!(pair.b.take_loan(b"own"), Err(Error::Again), "three places are promised");
        assert_eq!(pair.b.try_receive_loan(from_any(9)).unwrap_err(), Error::Again);
        pair.a.send(pair.to_b, b"small", 0);
        pair.a.send(pair.to_b, &large, 1);
        pair.a.send_as_loan(pair.to_b, &large, 2);
        let bytes: [&[u8]; 3] = [b"small", &large, &large];
        let mut handles = own;
        for (tag, ticket) in posted.into_iter().enumerate() {
            let outcome = pair.finish_b(ticket);
            handles.push(assert_lent(&outcome, tag as u64, bytes[tag]));
        }
        assert_eq!((pair.b.engine().loans(), pair.b.engine().promised_loans()), (MOST, 0), "round {round}");
        assert_eq!(pair.b.take_loan(b"own"), Err(Error::Again));
        // An early message stays where it is until there is room.
        pair.a.send(pair.to_b, b"early", 4);
        pair.run_until_quiet();
        let (_, held) = pair.b.engine().matched_probe(&from_any(4)).expect("it is there");
        assert_eq!(pair.b.receive_held_loan(held).unwrap_err(), Error::Again);
        assert_eq!(handles.iter().collect::<std::collections::HashSet<_>>().len(), MOST, "handles collide");
        pair.b.engine().give_back(handles.remove(0)).expect("the handle names its loan");
        let ticket = pair.b.receive_held_loan(held).expect("there is room again");
        let outcome = pair.finish_b(ticket);
        handles.push(assert_lent(&outcome, 4, b"early"));
        for loan in handles {
            pair.b.engine().give_back(loan).expect("the handle names its loan");
        }
        assert_all_back(&mut pair);
    }
    // Who ends without a message leaves no place behind.
    let cancelled = pair.b.receive_loan(from_any(1));
    pair.b.cancel(cancelled).expect("it waits");
    let abandoned = pair.b.receive_loan(from_any(1));
    let send = pair.a.send(pair.to_b, &large, 1);
    pair.a.cancel(send).expect("the peer has not asked for it");
    pair.run_until_quiet();
    if !pair.b.is_finished(abandoned) {
        pair.b.cancel(abandoned).expect("it was not announced yet");
    }
    let outcome = pair.finish_b(abandoned);
    assert_eq!((outcome.status, pair.b.engine().promised_loans()), (Err(Error::Canceled), 0));
    for tag in 0..MOST as u64 {
        pair.b.receive_loan(exactly(pair.to_a, tag));
    }
    assert_eq!(pair.b.engine().promised_loans(), MOST);
    pair.a.close();
    pair.run_until_quiet();
    assert_eq!((pair.b.engine().promised_loans(), pair.b.engine().loans()), (0, 0));
}

/// Sends of loans that wait are cancelled, and the memory comes back.
pub fn waiting_loans_are_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    let to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let bytes = content(100_000, 1);
    let shared = pair.a.take_loan(&bytes).expect("there is memory for a loan");
    // Nothing is driven: the link is not up.
    let kept = pair.a.send_loan(to_b, shared, bytes.len(), 1, true).expect("the send waits");
    let sent = pair.a.send_as_loan(to_b, &bytes, 2);
    let stays = pair.a.send_as_loan(to_b, &bytes, 3);
    for ticket in [kept, sent] {
        pair.a.cancel(ticket).expect("it waits");
        pair.a.collect();
        assert_eq!(pair.a.take(ticket).map(|outcome| outcome.status), Some(Err(Error::Canceled)));
    }
    assert_eq!(pair.a.engine().loans(), 2, "the one that was kept, and the one that waits");
    pair.a.engine().give_back(shared).expect("it was kept");
    let receive = pair.b.receive_loan(anything());
    let outcome = pair.finish_b(receive);
    let loan = assert_lent(&outcome, 3, &bytes);
    assert_eq!(pair.finish_a(stays).status, Ok(()));
    pair.b.engine().give_back(loan).expect("it was received");
    assert_all_back(&mut pair);
}

/// A posted receive of loans is cancelled; one of a queue that is destroyed is not written any more.
pub fn receives_of_loans_are_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let receive = pair.b.try_receive_loan(from_any(1)).expect("the receive starts");
    pair.b.cancel(receive).expect("it waits");
    let outcome = pair.finish_b(receive);
    assert_eq!((outcome.status, outcome.lent.map(|lent| lent.loan)), (Err(Error::Canceled), Some(0)));
    let bytes = content(700_000, 1);
    let receive = pair.b.receive_loan(exactly(pair.to_a, 2));
    pair.a.send(pair.to_b, &bytes, 2);
    // Somewhere in the transfer, or after it on rails that are quick.
    pair.run_steps(2);
    if let Some(outcome) = pair.b.take(receive) {
        let loan = assert_lent(&outcome, 2, &bytes);
        pair.b.engine().give_back(loan).expect("it was received");
    }
    let cq = pair.b.cq();
    pair.b.engine().destroy_cq(cq);
    pair.run_until_quiet();
    assert_eq!((pair.b.engine().loans(), pair.b.engine().promised_loans()), (0, 0));
}

/// Checks a receive of loans that got a whole message; the loan.
fn assert_lent(outcome: &Outcome, tag: u64, sent: &[u8]) -> u64 {
    let completion = outcome.completion.expect("receives have completions");
    assert_eq!(outcome.status, Ok(()), "loan of {} bytes with tag {tag}", sent.len());
    assert_eq!((completion.tag, completion.length), (tag, sent.len() as u64));
    let lent = outcome.lent.expect("it is a receive of loans");
    assert!(read(&lent) == sent, "{} lent bytes with tag {tag} differ", sent.len());
    lent.loan
}

/// Neither side has a loan any more, once all was heard.
fn assert_all_back<F: Fixture>(pair: &mut Pair<F>) {
    pair.run_until_quiet();
    assert_eq!((pair.a.engine().loans(), pair.b.engine().loans()), (0, 0));
}

/// Drives a third node together with the pair.
fn drive_until<F: Fixture>(
    pair: &mut Pair<F>,
    node: &mut Node<F::Rail>,
    mut done: impl FnMut(&mut Node<F::Rail>) -> bool,
) {
    let (mut idle, most) = (0, pair.fixture.patience().max(10_000));
    while !done(node) {
        let now = pair.fixture.tick();
        idle = if pair.step() + node.drive(now) == 0 { idle + 1 } else { 0 };
        assert!(idle <= most, "what a third node waits for does not happen");
    }
}
