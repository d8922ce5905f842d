//! Links that break: nothing is lost, nothing comes twice, the order stays, and every operation ends.

use super::regions::{add, Of, Shared};
use super::{assert_received, content};
use crate::endpoint::{Limits, PeerState};
use crate::error::Error;
use crate::rail::Rail;
use crate::region::Access;
use crate::testing::loans::read;
use crate::testing::node::{anything, exactly, Node, Outcome, SendOptions, Ticket};
use crate::testing::pair::{Cutting, Pair, Setup};
use crate::testing::random::Random;

const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

/// Sizes that go by every way.
const SIZES: [usize; 8] = [0, 8, 100, 3000, 8192, 8193, 70_000, 400_000];

/// The link is cut after each number of steps of a transfer, of every size, received first and last.
pub fn a_cut_at_any_step_delays_a_transfer<F: Cutting>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut random = Random::new(1);
    for len in SIZES {
        for steps in 0..12 {
            for posted_first in [true, false] {
                let bytes = content(len, steps);
                let posted = posted_first.then(|| pair.b.receive(exactly(pair.to_a, steps), len));
                let send = pair.a.send_with(pair.to_b, &[&bytes], steps, SYNC).expect("the send starts");
                pair.run_steps(steps as usize);
                pair.cut(&mut random);
                let receive = posted.unwrap_or_else(|| pair.b.receive(exactly(pair.to_a, steps), len));
                assert_received(&pair.finish_b(receive), steps, &bytes);
                assert_eq!(pair.finish_a(send).status, Ok(()));
            }
        }
    }
    assert_survived(&mut pair, 100);
}

/// Messages of all sizes in both directions under many cuts.
pub fn messages_survive_many_cuts<F: Cutting>(mut fixture: impl FnMut() -> F) {
    let times = fixture().times(60);
    let mut breaks = 0;
    for seed in 0..times {
        let mut pair = Pair::new(fixture());
        let mut cuts = Cuts::new(seed, 4);
        let mut lines = [Line::new(seed, 150), Line::new(!seed, 150)];
        let (to_a, to_b) = (pair.to_a, pair.to_b);
        while lines.iter().any(|line| line.has_more()) {
            lines[0].go_on(&mut pair.a, &mut pair.b, to_b, &mut cuts.random);
            lines[1].go_on(&mut pair.b, &mut pair.a, to_a, &mut cuts.random);
            cuts.step(&mut pair);
        }
        cuts.run(&mut pair, 20);
        assert!(pair.run_until(|pair| pair.a.pending() + pair.b.pending() == 0), "seed {seed}: no end");
        lines[0].check(&mut pair.a, &mut pair.b, seed);
        lines[1].check(&mut pair.b, &mut pair.a, seed);
        assert_survived(&mut pair, 3);
        breaks += pair.a.engine().breaks(to_b).0;
    }
    assert!(breaks > 10 * times || !fixture().is_exact(), "{breaks} breaks are too few to tell");
}

/// Each cut follows the one before at once: also what is repeated is cut.
pub fn cuts_amid_the_repetition_are_survived<F: Cutting>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut random = Random::new(3);
    for round in 0..150u64 {
        let sizes = [8, 3000, 70_000, 8];
        let tag_of = |i: usize| round * 10 + i as u64;
        let sends = sizes.map(|len| pair.a.send(pair.to_b, &content(len, round), tag_of(0) + len as u64));
        for _ in 0..random.below(6) {
            pair.cut(&mut random);
            pair.run_steps(random.below(4) as usize);
        }
        for len in sizes {
            let receive = pair.b.receive(anything(), len);
            assert_received(&pair.finish_b(receive), tag_of(0) + len as u64, &content(len, round));
        }
        sends.into_iter().for_each(|send| assert_eq!(pair.finish_a(send).status, Ok(())));
    }
    assert_survived(&mut pair, 100);
}

/// Both sides have called, and both call again.
pub fn two_that_call_each_other_again_have_one_link<F: Cutting>(fixture: F) {
    let mut pair = Pair::strangers(fixture, Setup::default());
    let (address_a, address_b) = (*pair.a.address(), *pair.b.address());
    pair.to_b = pair.a.engine().open(&address_b).expect("the rail leads to its peer");
    pair.to_a = pair.b.engine().open(&address_a).expect("the rail leads to its peer");
    let mut cuts = Cuts::new(4, 4);
    for i in 0..200u64 {
        let bytes = content(SIZES[i as usize % SIZES.len()], i);
        pair.a.send(pair.to_b, &bytes, i);
        pair.b.send(pair.to_a, &bytes, i);
        cuts.step(&mut pair);
        let receives = (pair.a.receive(anything(), bytes.len()), pair.b.receive(anything(), bytes.len()));
        assert_received(&pair.finish_a(receives.0), i, &bytes);
        assert_received(&pair.finish_b(receives.1), i, &bytes);
    }
    pair.run_until_quiet();
    for node in [&mut pair.a, &mut pair.b] {
        let counters = node.engine().counters();
        assert_eq!((counters.peers_now, counters.peers_gone, counters.unexpected_now), (1, 0, 0));
    }
    assert_survived(&mut pair, 10);
}

/// Puts, gets and atomic operations under cuts: each takes effect once, in order.
pub fn operations_on_regions_happen_once<F: Cutting>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let to_b = pair.to_b;
    let shared = Shared::new(&mut pair, Of::Program, 200_000, Access::ALL);
    let mut cuts = Cuts::new(5, 4);
    let mut counted = Vec::new();
    for round in 0..60u64 {
        let bytes = content(150_000, round);
        let small = round.to_ne_bytes();
        let under_way = [
            pair.a.put(to_b, shared.rkey, 1000, &bytes),
            pair.a.put(to_b, shared.rkey, 1000, &small),
            pair.a.get(to_b, shared.rkey, 1000, 150_000),
        ];
        counted.push(pair.a.atomic(to_b, shared.rkey, 0, &add(1)).expect("the counter is allowed"));
        let flush = pair.a.flush(to_b).expect("the peer lives");
        cuts.run(&mut pair, 12);
        assert_eq!(pair.finish_a(flush).status, Ok(()));
        let expected = [&small, &bytes[8..]].concat();
        let [put, over, get] = under_way.map(|ticket| pair.finish_a(ticket.expect("it is allowed")));
        assert_eq!((put.status, over.status, get.status), (Ok(()), Ok(()), Ok(())));
        assert!(get.bytes == expected, "round {round}: other bytes were got than were put");
        assert!(shared.bytes()[1000..151_000] == expected);
    }
    for (before, ticket) in counted.into_iter().enumerate() {
        let old = pair.finish_a(ticket).bytes;
        assert_eq!(old, (before as u64).to_ne_bytes(), "counted twice, or not at all");
    }
    assert_eq!(shared.word(0), 60);
    assert_survived(&mut pair, 10);
}

/// Loans under cuts arrive once, and all memory comes back.
pub fn loans_survive_cuts<F: Cutting>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut cuts = Cuts::new(6, 4);
    for i in 0..150u64 {
        let bytes = content(SIZES[i as usize % SIZES.len()], i);
        let posted = (i % 2 == 0).then(|| pair.b.receive_loan(anything()));
        let send = pair.a.send_as_loan(pair.to_b, &bytes, i);
        cuts.run(&mut pair, 4);
        let receive = posted.unwrap_or_else(|| pair.b.receive_loan(anything()));
        let outcome = pair.finish_b(receive);
        let lent = outcome.lent.expect("it is a receive of loans");
        assert_eq!((outcome.status, outcome.completion.map(|c| c.tag)), (Ok(()), Some(i)));
        assert!(read(&lent) == bytes, "loan {i} differs");
        pair.b.engine().give_back(lent.loan).expect("it was received");
        assert_eq!(pair.finish_a(send).status, Ok(()));
    }
    pair.run_until_quiet();
    assert_eq!((pair.a.engine().loans(), pair.b.engine().loans()), (0, 0));
    assert_survived(&mut pair, 10);
}

/// A full store stops the sender, whatever becomes of the words to stop and to go.
pub fn stop_and_go_survive_cuts<F: Cutting>(fixture: F) {
    let limits = Limits { unexpected_messages: 64, ..Limits::default() };
    let mut pair = Pair::with(fixture, Setup { limits, ..Setup::default() });
    let mut cuts = Cuts::new(7, 5);
    let total = 3000u64;
    let (mut sent, mut most) = (0, 0);
    for i in 0..total {
        while sent < total && sent < i + 700 {
            pair.a.send(pair.to_b, &sent.to_le_bytes(), sent);
            sent += 1;
        }
        cuts.step(&mut pair);
        most = most.max(pair.b.engine().counters().unexpected_now);
        let receive = pair.b.receive(anything(), 8);
        assert_received(&pair.finish_b(receive), i, &i.to_le_bytes());
    }
    assert!(most <= 16 + pair.fixture.overshoot() as u64, "{most} messages were stored");
    assert!(pair.b.engine().counters().peers.backpressure_stops > 0);
    assert_survived(&mut pair, 100);
}

/// Sends that are cancelled under cuts end, and their receivers do.
pub fn cancellation_under_cuts_ends_both_sides<F: Cutting>(fixture: F) {
    let mut pair = Pair::new(fixture);
    let mut cuts = Cuts::new(8, 3);
    for i in 0..pair.fixture.times(300) {
        let bytes = content(SIZES[i as usize % SIZES.len()], i);
        let receive = pair.b.receive(exactly(pair.to_a, i), bytes.len());
        let send = pair.a.send_with(pair.to_b, &[&bytes], i, SYNC).expect("the send starts");
        let steps = cuts.random.below(10) as usize;
        cuts.run(&mut pair, steps);
        let cancelled = pair.a.cancel(send);
        cuts.run(&mut pair, 3);
        let status = pair.finish_a(send).status;
        assert!(matches!((cancelled, status), (Ok(()), Err(Error::Canceled)) | (Err(_), Ok(()))));
        pair.run_until_quiet();
        // Its message went whole, or was given up, or was never announced.
        if pair.b.cancel(receive).is_ok() {
            assert_ne!(status, Ok(()), "message {i} is lost");
        }
        let outcome = pair.finish_b(receive);
        match outcome.status {
            Ok(()) => assert_received(&outcome, i, &bytes),
            Err(error) => assert_eq!((error, status), (Error::Canceled, Err(Error::Canceled)), "{i}"),
        }
    }
    assert_survived(&mut pair, 100);
}

/// A link breaks now and then.
struct Cuts {
    random: Random,
    /// One step in so many has a cut.
    every: u64,
}

impl Cuts {
    fn new(seed: u64, every: u64) -> Cuts {
        Cuts { random: Random::new(seed), every }
    }

    fn step<F: Cutting>(&mut self, pair: &mut Pair<F>) {
        if self.random.below(self.every) == 0 {
            pair.cut(&mut self.random);
        }
        pair.step();
    }

    fn run<F: Cutting>(&mut self, pair: &mut Pair<F>, steps: usize) {
        (0..steps).for_each(|_| self.step(pair));
    }
}

/// Messages of one direction, in order.
pub(super) struct Line {
    contents: Vec<Vec<u8>>,
    sends: Vec<Ticket>,
    receives: Vec<Ticket>,
}

impl Line {
    pub(super) fn new(seed: u64, count: usize) -> Line {
        let mut random = Random::new(seed);
        let contents = (0..count)
            .map(|_| {
                let len = random.pick(&[0, 8, 100, 3000, 8192, 8193, 70_000]);
                random.bytes(len)
            })
            .collect();
        Line { contents, sends: Vec::new(), receives: Vec::new() }
    }

    pub(super) fn has_more(&self) -> bool {
        self.sends.len().min(self.receives.len()) < self.contents.len()
    }

    /// Starts some sends and receives; either may run ahead.
    pub(super) fn go_on<R: Rail>(
        &mut self,
        from: &mut Node<R>,
        to: &mut Node<R>,
        peer: crate::rail::PeerId,
        random: &mut Random,
    ) {
        if random.chance(0.5) {
            if let Some(bytes) = self.contents.get(self.sends.len()) {
                let options = SendOptions { sync: random.chance(0.3), ..SendOptions::default() };
                let tag = self.sends.len() as u64;
                let send = from.send_with(peer, &[bytes], tag, options);
                self.sends.push(send.expect("the send starts"));
            }
        }
        if random.chance(0.5) {
            if let Some(bytes) = self.contents.get(self.receives.len()) {
                self.receives.push(to.receive(anything(), bytes.len()));
            }
        }
    }

    pub(super) fn check<R: Rail>(&self, from: &mut Node<R>, to: &mut Node<R>, seed: u64) {
        let end = |outcome: Option<Outcome>| outcome.unwrap_or_else(|| panic!("seed {seed}: no outcome"));
        for send in &self.sends {
            assert_eq!(end(from.take(*send)).status, Ok(()), "seed {seed}");
        }
        for (tag, (receive, bytes)) in (0..).zip(self.receives.iter().zip(&self.contents)) {
            assert_received(&end(to.take(*receive)), tag, bytes);
        }
    }
}

/// Both sides are up, nothing is left over, and the link did break as often as it should have.
fn assert_survived<F: Cutting>(pair: &mut Pair<F>, least: u64) {
    pair.run_until_quiet();
    let (to_a, to_b) = (pair.to_a, pair.to_b);
    assert_eq!((pair.a.state(to_b), pair.b.state(to_a)), (PeerState::Up, PeerState::Up));
    for node in [&mut pair.a, &mut pair.b] {
        let counters = node.engine().counters();
        assert_eq!((counters.pending_now, counters.unexpected_now), (0, 0));
    }
    // Where a kernel has its say, a busy machine has fewer.
    let is_exact = pair.fixture.is_exact();
    let least = if is_exact { least } else { 1 };
    let (breaks, at_a) = pair.a.engine().breaks(to_b);
    let repeated = at_a + pair.b.engine().breaks(to_a).1;
    assert!(
        breaks >= least && (repeated > 0 || !is_exact),
        "{breaks} breaks, {repeated} frames sent again: too few to tell"
    );
}
