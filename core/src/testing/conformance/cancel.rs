//! Operations are cancelled, and both sides hear of it.

use super::{assert_received, content, moments};
use crate::error::Error;
use crate::rail::Rail;
use crate::testing::node::{anything, exactly, SendOptions};
use crate::testing::pair::{Fixture, Pair, Setup};

const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

/// A cancelled receive takes no message.
pub fn a_posted_receive_is_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let first = pair.b.receive(exactly(pair.to_a, 1), 8);
    let second = pair.b.receive(exactly(pair.to_a, 1), 8);
    pair.b.cancel(first).expect("it has not completed");
    assert_eq!(pair.finish_b(first).status, Err(Error::Canceled));
    assert_eq!(pair.b.cancel(first), Err(Error::NotFound));
    pair.a.send(pair.to_b, b"message", 1);
    let outcome = pair.finish_b(second);
    assert_received(&outcome, 1, b"message");
    assert_eq!(pair.b.cancel(second), Err(Error::NotFound));
}

/// A send that waits for the link is cancelled; those around it arrive.
pub fn a_queued_send_is_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let address = *pair.b.address();
    let to_b = pair.a.engine().open(&address).expect("the rail leads to its peer");
    let sends = [0, 1, 2].map(|tag: u64| pair.a.send(to_b, &tag.to_le_bytes(), tag));
    pair.a.cancel(sends[1]).expect("it has not completed");
    assert_eq!(pair.finish_a(sends[1]).status, Err(Error::Canceled));
    for tag in [0u64, 2] {
        let receive = pair.b.receive(anything(), 8);
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, tag, &tag.to_le_bytes());
        assert_eq!(pair.finish_a(sends[tag as usize]).status, Ok(()));
    }
}

/// An announced message that nobody received yet is cancelled: its receive hears of it, unless all of it has come ahead.
pub fn an_announced_send_is_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(100_000, 0);
    let send = pair.a.send(pair.to_b, &bytes, 1);
    pair.run_until_quiet();
    pair.a.cancel(send).expect("it has not completed");
    assert_eq!(pair.finish_a(send).status, Err(Error::Canceled));
    let receive = pair.b.receive(exactly(pair.to_a, 1), 100_000);
    let outcome = pair.finish_b(receive);
    match outcome.status {
        Ok(()) => assert_received(&outcome, 1, &bytes),
        Err(error) => assert_eq!(error, Error::Canceled),
    }
    // The link is as good as before.
    let receive = pair.b.receive(exactly(pair.to_a, 1), 100_000);
    pair.a.send(pair.to_b, &bytes, 1);
    let outcome = pair.finish_b(receive);
    assert_received(&outcome, 1, &bytes);
}

/// A large message is cancelled at any step of its transfer: it either arrives whole, or the receive hears of it.
pub fn a_send_in_transfer_is_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(1 << 20, 0);
    for steps in moments(&pair.fixture, 40) {
        let receive = pair.b.receive(exactly(pair.to_a, 1), 1 << 20);
        let send = pair.a.send(pair.to_b, &bytes, 1);
        pair.run_steps(steps.into());
        let cancelled = pair.a.cancel(send).is_ok();
        let sent = pair.finish_a(send).status;
        assert_eq!(sent, if cancelled { Err(Error::Canceled) } else { Ok(()) });
        pair.run_until_quiet();
        if cancelled && !pair.b.is_finished(receive) {
            pair.b.cancel(receive).expect("nothing was announced, and the receive waits");
        }
        let outcome = pair.finish_b(receive);
        match outcome.status {
            Ok(()) => assert_received(&outcome, 1, &bytes),
            Err(error) => assert_eq!((error, cancelled), (Error::Canceled, true)),
        }
    }
    pair.run_until_quiet();
    assert_eq!((pair.a.pending(), pair.b.pending()), (0, 0));
    assert!(
        pair.a.engine().rails()[0].capabilities().max_eager < 1 << 20,
        "the case is about announced messages"
    );
}

/// Numbers of operations do not name two of them: a receive in transfer and one that waits.
pub fn only_the_named_operation_is_cancelled<F: Fixture>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let bytes = content(300_000, 0);
    for _ in 0..4 {
        pair.a.send(pair.to_b, &bytes, 1);
    }
    pair.run_until_quiet();
    // These find announced messages, and are in transfer at once.
    let moving: Vec<_> = (0..4).map(|_| pair.b.receive(exactly(pair.to_a, 1), 300_000)).collect();
    let waiting: Vec<_> = (0..8).map(|_| pair.b.receive(exactly(pair.to_a, 2), 8)).collect();
    for receive in &moving {
        // What is in transfer, or has ended, is not cancelled.
        if let Ok(()) = pair.b.cancel(*receive) {
            panic!("a receive in transfer was cancelled, or another one in its place");
        }
    }
    for receive in moving {
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 1, &bytes);
    }
    assert!(waiting.iter().all(|receive| !pair.b.is_finished(*receive)));
    for receive in waiting {
        let send = pair.a.send_with(pair.to_b, &[b"message"], 2, SYNC).expect("the send starts");
        let outcome = pair.finish_b(receive);
        assert_received(&outcome, 2, b"message");
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
}
