//! Links that break, and peers that no path leads to any more, in virtual time.

use gridnet_core::endpoint::{Limits, PeerState};
use gridnet_core::error::Error;
use gridnet_core::loopback::{Cut, LoopbackRail};
use gridnet_core::mem::{Gather, MEMORY_HOST, NUMA_UNKNOWN};
use gridnet_core::rail::{PeerId, Refusal};
use gridnet_core::region::Access;
use gridnet_core::reliability_tests;
use gridnet_core::testing::loopback::Loopback;
use gridnet_core::testing::node::{anything, exactly, Node, SendOptions, Ticket};
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_core::testing::raw::{RawFrame, RawPeer};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Frame, Kind, Message};

reliability_tests!(cuts, Loopback::cutting(0));
reliability_tests!(cuts_with_latency, Loopback::cutting(2_500_000));
reliability_tests!(cuts_and_places, Loopback::cutting(1_000_000).placing());
reliability_tests!(cuts_and_late_fetches, Loopback::cutting(1_000_000).fetching_late());

const SECOND_NS: u64 = 1_000_000_000;
/// What the calls, and the steps between them, may add to a time.
const SLACK_NS: u64 = 300_000_000;
const SYNC: SendOptions = SendOptions { immediate: None, sync: true, always_complete: false };

struct Lab(Pair<Loopback>);

impl Lab {
    fn new() -> Lab {
        Lab(Pair::new(Loopback::cutting(0)))
    }

    /// Two nodes with a peer timeout each, in seconds.
    fn with_timeouts(of_a: u64, of_b: u64) -> Lab {
        let mut pair = Pair::strangers(Loopback::cutting(0), Setup::default());
        let setup = |seconds| Setup {
            limits: Limits { peer_timeout_ns: seconds * SECOND_NS, ..Limits::default() },
            ..Setup::default()
        };
        pair.a.close();
        pair.b.close();
        (pair.a, pair.b) = (pair.stranger(1, setup(of_a)), pair.stranger(2, setup(of_b)));
        pair.meet();
        Lab(pair)
    }

    fn cut(&self) {
        let hub = self.0.fixture.hub();
        assert!(hub.cut(self.0.a.address().node, self.0.b.address().node, Cut::default()), "there is a link");
    }

    fn part(&self, parted: bool) {
        self.0.fixture.hub().part(self.0.a.address().node, self.0.b.address().node, parted);
    }

    fn now(&self) -> u64 {
        self.0.fixture.hub().advance(0).0
    }

    fn run_for(&mut self, ns: u64) {
        let end = self.now() + ns;
        while self.now() < end {
            self.0.step();
        }
    }

    /// Runs until `done`; the time that this took.
    fn time(&mut self, mut done: impl FnMut(&mut Pair<Loopback>) -> bool) -> u64 {
        let begin = self.now();
        while !done(&mut self.0) {
            assert!(self.now() < begin + 100 * SECOND_NS, "no end");
            self.0.step();
        }
        self.now() - begin
    }

    /// Something of everything, of `a` with `b`.
    fn start_everything(&mut self) -> Vec<Ticket> {
        let Pair { a, b, to_b, .. } = &mut self.0;
        let to_b = *to_b;
        let (region, _) =
            b.engine().allocate(4096, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN).expect("there is memory");
        let key = b.engine().region_key(region).expect("the region is open");
        let rkey = a.engine().import_key(to_b, &key).expect("the key is one of b");
        vec![
            a.send_with(to_b, &[b"sync"], 1, SYNC).expect("the send starts"),
            a.send(to_b, &[7; 300_000], 2),
            a.put(to_b, rkey, 0, &[1; 4096]).expect("the put is allowed"),
            a.get(to_b, rkey, 0, 4096).expect("the get is allowed"),
            a.flush(to_b).expect("the peer lives"),
            a.send_as_loan(to_b, &[8; 100_000], 3),
            a.receive(exactly(to_b, 4), 8),
        ]
    }

    fn assert_talks(&mut self) {
        let Pair { a, to_b, .. } = &mut self.0;
        let send = a.send_with(*to_b, &[b"again"], 5, SYNC).expect("the peer lives");
        let receive = self.0.b.receive(anything(), 8);
        let outcome = self.0.finish_b(receive);
        assert_eq!(outcome.completion.map(|c| (c.tag, c.length)), Some((5, 5)));
        assert_eq!(self.0.finish_a(send).status, Ok(()));
    }
}

fn gone(node: &mut Node<LoopbackRail>, peer: PeerId) -> Refusal {
    match node.state(peer) {
        PeerState::Gone(why) => why,
        state => panic!("{state:?}"),
    }
}

/// All ends with the timeout, on both sides and not before, and the peer can be had again.
#[test]
fn a_peer_that_no_path_leads_to_is_gone_in_time() {
    let mut lab = Lab::new();
    for round in 0..3 {
        let pair = &mut lab.0;
        let at_b = [
            pair.b.receive(exactly(pair.to_a, 7), 8),
            pair.b.send_with(pair.to_a, &[b"sync"], 8, SYNC).expect("the send starts"),
        ];
        let under_way = lab.start_everything();
        lab.0.run_steps(round);
        lab.part(true);
        lab.cut();
        let mut after_the_cut = None;
        let took = lab.time(|pair| {
            after_the_cut.get_or_insert_with(|| pair.a.send(pair.to_b, b"waits", 6));
            pair.a.pending() + pair.b.pending() == 0
        });
        assert!((5 * SECOND_NS..5 * SECOND_NS + SLACK_NS).contains(&took), "after {took} ns");
        let (to_a, to_b) = (lab.0.to_a, lab.0.to_b);
        for ticket in under_way.into_iter().chain(after_the_cut) {
            let status = lab.0.a.take(ticket).expect("it has ended").status;
            assert!(matches!(status, Ok(()) | Err(Error::PeerGone)), "{ticket:?} {status:?}");
        }
        for ticket in at_b {
            assert_eq!(lab.0.b.take(ticket).expect("it has ended").status, Err(Error::PeerGone));
        }
        let (why, of_b) = (gone(&mut lab.0.a, to_b), gone(&mut lab.0.b, to_a));
        assert_eq!((why.error, of_b.error), (Error::PeerGone, Error::PeerGone));
        assert!(
            why.reason.contains("5000 ms") && why.reason.contains("no way leads there"),
            "{}",
            why.reason
        );
        assert_eq!((lab.0.a.engine().loans(), lab.0.a.engine().counters().pending_now), (0, 0));
        while lab.0.b.engine().probe(&anything()).is_some() {
            let receive = lab.0.b.receive(anything(), 300_000);
            lab.0.finish_b(receive);
        }
        lab.part(false);
        lab.0.meet();
        assert_ne!(lab.0.to_b, to_b);
    }
}

/// What is noticed late has begun before; but there is time to find another path.
#[test]
fn silence_before_a_break_counts() {
    for (unnoticed, end) in [(0, 5), (1, 5), (2, 5), (4, 6), (20, 22)] {
        let mut lab = Lab::new();
        let under_way = lab.start_everything();
        lab.part(true);
        let unnoticed_ns = [unnoticed * SECOND_NS; 2];
        let (a, b) = (lab.0.a.address().node, lab.0.b.address().node);
        assert!(lab.0.fixture.hub().cut(a, b, Cut { unnoticed_ns, ..Cut::default() }));
        let took = lab.time(|pair| pair.a.pending() == 0);
        assert!((end * SECOND_NS..end * SECOND_NS + SLACK_NS).contains(&took), "{unnoticed} s: {took} ns");
        for ticket in under_way {
            assert_eq!(lab.0.a.take(ticket).expect("it has ended").status, Err(Error::PeerGone));
        }
    }
}

/// The path comes back just in time, again and again: the time is that of one break.
#[test]
fn a_path_that_comes_back_in_time_costs_a_delay() {
    let mut lab = Lab::new();
    let under_way = lab.start_everything();
    for _ in 0..4 {
        lab.part(true);
        lab.cut();
        lab.0.a.engine().progress();
        assert_eq!(lab.0.a.engine().deadline(), Some(Time(0)), "a sleeper has to look at once");
        lab.run_for(5 * SECOND_NS - SLACK_NS);
        let to_b = lab.0.to_b;
        assert!(matches!(lab.0.a.state(to_b), PeerState::Broken(_)));
        assert!(lab.0.a.engine().deadline().is_some(), "a sleeper has to be woken to call again");
        lab.part(false);
        let took = lab.time(|pair| pair.a.state(to_b) == PeerState::Up);
        assert!(took < SLACK_NS, "{took} ns");
    }
    let pair = &mut lab.0;
    let receives = [4, 300_000, 100_000].map(|len| pair.b.receive(anything(), len));
    pair.b.send(pair.to_a, b"answer", 4);
    receives.into_iter().for_each(|receive| assert_eq!(pair.finish_b(receive).status, Ok(())));
    under_way.into_iter().for_each(|ticket| assert_eq!(pair.finish_a(ticket).status, Ok(())));
    pair.run_until_quiet();
    assert_eq!(pair.a.engine().deadline(), None, "nothing has to be looked at any more");
}

/// A process that is stopped, on a host that answers, is slow for as long as it likes.
#[test]
fn a_peer_that_is_silent_is_not_gone() {
    let mut lab = Lab::new();
    let send = lab.0.a.send(lab.0.to_b, &[3; 50_000], 1);
    lab.cut();
    let end = lab.now() + 30 * SECOND_NS;
    while lab.now() < end {
        let now = lab.0.fixture.tick();
        lab.0.a.drive(now);
    }
    let to_b = lab.0.to_b;
    assert!(matches!(lab.0.a.state(to_b), PeerState::Broken(_)));
    let receive = lab.0.b.receive(exactly(lab.0.to_a, 1), 50_000);
    assert_eq!((lab.0.finish_b(receive).status, lab.0.finish_a(send).status), (Ok(()), Ok(())));
}

/// The process ends while its link is broken: who calls hears it at once, who is called when the time is over.
#[test]
fn a_peer_that_closes_while_its_link_is_broken_is_gone() {
    let mut lab = Lab::new();
    let send = lab.0.a.send_with(lab.0.to_b, &[b"sync"], 1, SYNC).expect("the send starts");
    lab.cut();
    lab.0.b.close();
    let took = lab.time(|pair| pair.a.is_finished(send));
    assert_eq!(lab.0.a.take(send).expect("it has ended").status, Err(Error::PeerGone));
    assert!(took < SLACK_NS, "{took} ns");

    let mut lab = Lab::new();
    let send = lab.0.b.send_with(lab.0.to_a, &[b"sync"], 1, SYNC).expect("the send starts");
    lab.cut();
    lab.0.a.close();
    let took = lab.time(|pair| pair.b.is_finished(send));
    assert_eq!(lab.0.b.take(send).expect("it has ended").status, Err(Error::PeerGone));
    assert!((5 * SECOND_NS..5 * SECOND_NS + SLACK_NS).contains(&took), "after {took} ns");
}

/// Who was called and knows how to call does so, when the other does not.
#[test]
fn the_side_that_was_called_calls_when_the_other_does_not() {
    let mut lab = Lab::new();
    let address = *lab.0.a.address();
    assert_eq!(lab.0.b.engine().open(&address), Ok(lab.0.to_a));
    let (a, b) = (address.node, lab.0.b.address().node);
    // The other side only hears of it by being called.
    lab.0.fixture.hub().cut(a, b, Cut { unnoticed_ns: [100 * SECOND_NS, 0], ..Cut::default() });
    let silent = lab.now() + 2 * SECOND_NS;
    let to_a = lab.0.to_a;
    while lab.now() < silent {
        let now = lab.0.fixture.tick();
        lab.0.b.drive(now);
    }
    assert!(matches!(lab.0.b.state(to_a), PeerState::Broken(_)));
    lab.assert_talks();
    assert_eq!(lab.0.b.state(to_a), PeerState::Up);
}

/// Another process has come in the place of one that was called.
#[test]
fn a_new_incarnation_ends_the_old_one() {
    let mut lab = Lab::new();
    let send = lab.0.a.send_with(lab.0.to_b, &[b"sync"], 1, SYNC).expect("the send starts");
    lab.cut();
    lab.0.b = restarted(&mut lab.0.fixture, &mut lab.0.b);
    let took = lab.time(|pair| pair.a.is_finished(send));
    assert!(took < SLACK_NS, "{took} ns");
    assert_eq!(lab.0.a.take(send).expect("it has ended").status, Err(Error::PeerGone));
    let old = lab.0.to_b;
    assert!(gone(&mut lab.0.a, old).reason.contains("incarnation"));
    lab.0.meet();
    lab.assert_talks();
    assert_ne!(lab.0.to_b, old);

    // The program hears of it before the engine does.
    let mut lab = Lab::new();
    let old = lab.0.to_b;
    lab.part(true);
    lab.cut();
    lab.0.step();
    lab.part(false);
    lab.0.b = restarted(&mut lab.0.fixture, &mut lab.0.b);
    lab.0.meet();
    lab.assert_talks();
    assert_eq!(gone(&mut lab.0.a, old).error, Error::PeerGone);
}

/// The same for one that has called, while its old link is up, or broken.
#[test]
fn a_new_incarnation_that_calls_ends_the_old_one() {
    for is_noticed in [false, true] {
        let mut lab = Lab::new();
        let old = lab.0.to_a;
        let send = lab.0.b.send_with(old, &[b"sync"], 1, SYNC).expect("the send starts");
        let unnoticed_ns = if is_noticed { [0, 0] } else { [100 * SECOND_NS; 2] };
        let (a, b) = (lab.0.a.address().node, lab.0.b.address().node);
        lab.0.fixture.hub().cut(a, b, Cut { unnoticed_ns, ..Cut::default() });
        lab.0.step();
        lab.0.a = restarted(&mut lab.0.fixture, &mut lab.0.a);
        lab.0.meet();
        assert_eq!(lab.0.finish_b(send).status, Err(Error::PeerGone));
        assert_ne!(lab.0.to_a, old);
        lab.assert_talks();
        assert_eq!(gone(&mut lab.0.b, old).error, Error::PeerGone);
    }
}

/// The process ends, and another comes in its place.
fn restarted(fixture: &mut Loopback, node: &mut Node<LoopbackRail>) -> Node<LoopbackRail> {
    let address = Address { incarnation: 2, ..*node.address() };
    node.close();
    Node::new(address, fixture.rail(&address), Limits::default(), 1 << 16)
}

/// One side waits less long than the other: what it has given up is over for both, and a new conversation can begin.
#[test]
fn a_conversation_that_one_side_gave_up_is_over() {
    for (of_a, of_b) in [(5, 1), (1, 5)] {
        let mut lab = Lab::with_timeouts(of_a, of_b);
        let at_a = lab.0.a.send_with(lab.0.to_b, &[b"sync"], 1, SYNC).expect("the send starts");
        let at_b = lab.0.b.send_with(lab.0.to_a, &[b"sync"], 1, SYNC).expect("the send starts");
        lab.part(true);
        lab.cut();
        lab.run_for(2 * SECOND_NS);
        lab.part(false);
        if of_a < of_b {
            // The one that gave up calls, and the other learns by that.
            let address = *lab.0.b.address();
            lab.0.a.engine().open(&address).expect("a path leads there");
        }
        let took = lab.time(|pair| pair.a.is_finished(at_a) && pair.b.is_finished(at_b));
        assert!(took < SLACK_NS, "{took} ns");
        assert_eq!(lab.0.finish_a(at_a).status, Err(Error::PeerGone));
        assert_eq!(lab.0.finish_b(at_b).status, Err(Error::PeerGone));
        lab.0.run_until_quiet();
        lab.0.meet();
        lab.assert_talks();
    }
}

/// Without reliability a broken link is the end of the peer.
#[test]
fn without_reliability_a_cut_is_the_end() {
    let limits = Limits { reliability: false, ..Limits::default() };
    let mut lab = Lab(Pair::with(Loopback::cutting(0), Setup { limits, ..Setup::default() }));
    let under_way = lab.start_everything();
    lab.cut();
    let took = lab.time(|pair| pair.a.pending() == 0);
    assert!(took < SLACK_NS, "{took} ns");
    for ticket in under_way {
        let status = lab.0.a.take(ticket).expect("it has ended").status;
        assert!(matches!(status, Ok(()) | Err(Error::PeerGone)), "{status:?}");
    }
    let (to_a, to_b) = (lab.0.to_a, lab.0.to_b);
    assert_eq!(
        (gone(&mut lab.0.a, to_b).error, gone(&mut lab.0.b, to_a).error),
        (Error::PeerGone, Error::PeerGone)
    );
}

/// A node that talks to itself, over a link that breaks.
#[test]
fn a_node_talks_to_itself_over_broken_links() {
    let mut lab = Lab::new();
    let address = *lab.0.a.address();
    let own = lab.0.a.engine().open(&address).expect("the rail leads to itself");
    for i in 0..50 {
        let receive = lab.0.a.receive(exactly(own, i), 40_000);
        let send = lab.0.a.send(own, &[i as u8; 40_000], i);
        lab.0.run_steps(i as usize % 5);
        lab.0.fixture.hub().cut(address.node, address.node, Cut::default());
        assert_eq!(lab.0.finish_a(receive).bytes, [i as u8; 40_000]);
        assert_eq!(lab.0.finish_a(send).status, Ok(()));
    }
}

/// A peer without an engine, that counts as it likes.
struct Liar {
    lab: Lab,
    forger: RawPeer<LoopbackRail>,
    address: Address,
    peer: PeerId,
}

impl Liar {
    /// It has got four messages, if it is believed.
    fn new() -> Liar {
        let mut lab = Lab::new();
        let rail = lab.0.open_rail(9);
        let victim = *lab.0.a.address();
        let mut forger = RawPeer::connect(rail, &victim).expect("the rail leads there");
        forger.greets = false;
        let address = lab.0.fixture.address(9);
        let mut liar = Liar { lab, forger, address, peer: PeerId::new(0) };
        liar.settle();
        liar.peer = liar.lab.0.a.peer_of(address.node).expect("it was accepted");
        liar
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let now = self.lab.0.fixture.tick();
            self.lab.0.a.drive(now);
            self.forger.drive(now);
        }
    }

    fn resume(&mut self, delivered: u64, conversation: u64, yours: u64) {
        let message = Message::Resume { delivered, conversation, yours };
        let frame: Frame<'_> = message.frame(Gather::EMPTY);
        assert!(self.forger.post(&RawFrame::of(&frame)), "the link is up");
        self.settle();
    }

    /// Four messages to it, over a link that breaks then; it has got them all, and calls again.
    fn break_after_four(&mut self) -> Vec<RawFrame> {
        self.resume(0, 7, 0);
        for tag in 0..4 {
            self.lab.0.a.send(self.peer, b"hello", tag);
        }
        self.settle();
        self.call_again();
        std::mem::take(&mut self.forger.frames)
    }

    fn call_again(&mut self) {
        let victim = *self.lab.0.a.address();
        self.lab.0.fixture.hub().cut(victim.node, self.address.node, Cut::default());
        self.settle();
        self.forger.call_again(&victim).expect("the rail leads there");
        self.settle();
    }

    fn tags(&self) -> Vec<u64> {
        let eager = self.forger.frames.iter().filter(|frame| frame.kind == Kind::Eager as u8);
        eager.map(|frame| frame.word).collect()
    }

    fn error(&mut self) -> Option<Error> {
        match self.lab.0.a.state(self.peer) {
            PeerState::Gone(why) => Some(why.error),
            _ => None,
        }
    }
}

#[test]
fn who_says_so_gets_again_what_it_has_not_got() {
    // The rail of the forger has acknowledged all, but for those behind the cut.
    let mut liar = Liar::new();
    let first = liar.break_after_four();
    assert_eq!((first[0].kind, first[0].word), (Kind::Resume as u8, 0), "a link begins with a resume");
    assert_eq!(first.len(), 1 + 4 + 1, "two links, four messages");
    let second = first.last().expect("the second link begins with a resume as well");
    assert_eq!((second.kind, second.word), (Kind::Resume as u8, 0));
    let ours = second.extension[0];
    assert_eq!((ours, second.extension[1]), (first[0].extension[0], 7));
    liar.lab.0.a.send(liar.peer, b"waits", 4);
    liar.settle();
    assert_eq!(liar.tags(), [], "nothing goes before the peer has said how far it came");
    liar.resume(4, 7, ours);
    assert_eq!((liar.tags(), liar.error()), (vec![4], None));
    // Again, with one more: the count is that of the whole conversation.
    liar.call_again();
    liar.resume(5, 7, ours);
    liar.lab.0.a.send(liar.peer, b"last", 5);
    liar.settle();
    assert_eq!((liar.tags(), liar.error()), (vec![4, 5], None));
}

#[test]
fn counts_that_cannot_be_are_found_out() {
    for delivered in [5, 0, 3, u64::MAX, 1 << 63] {
        let mut liar = Liar::new();
        let ours = liar.break_after_four()[0].extension[0];
        liar.resume(delivered, 7, ours);
        assert_eq!(liar.error(), Some(Error::PeerMisbehaved), "{delivered} of 4");
        assert!(liar.tags().is_empty());
        liar.lab.assert_talks();
    }
}

#[test]
fn another_conversation_is_none_to_go_on_with() {
    for (delivered, conversation, yours) in [(4, 8, 0), (4, 8, 1), (4, 7, 1 << 40), (0, 8, 0)] {
        let mut liar = Liar::new();
        liar.break_after_four();
        liar.resume(delivered, conversation, yours);
        assert_eq!(liar.error(), Some(Error::PeerGone), "{delivered} {conversation} {yours}");
        liar.lab.assert_talks();
    }
    // On a first link there is nothing to go on with.
    for (delivered, yours) in [(1, 0), (0, 1 << 40)] {
        let mut liar = Liar::new();
        liar.resume(delivered, 7, yours);
        assert_eq!(liar.error(), Some(Error::PeerGone), "{delivered} {yours}");
        liar.lab.assert_talks();
    }
}

#[test]
fn a_link_is_resumed_once() {
    let mut liar = Liar::new();
    liar.resume(0, 7, 0);
    assert_eq!(liar.error(), None);
    liar.resume(0, 7, 0);
    assert_eq!(liar.error(), Some(Error::PeerMisbehaved));
    let mut liar = Liar::new();
    let ours = liar.break_after_four()[0].extension[0];
    liar.resume(4, 7, ours);
    assert_eq!(liar.error(), None);
    liar.resume(4, 7, ours);
    assert_eq!(liar.error(), Some(Error::PeerMisbehaved));
    liar.lab.assert_talks();
}

/// One that is stopped makes no links; one that makes them, and says nothing, is not waited for for ever.
#[test]
fn a_peer_that_makes_links_and_says_nothing_is_cut_off() {
    for links in [2, 10] {
        let mut liar = Liar::new();
        let ours = liar.break_after_four()[0].extension[0];
        let (begin, mut made) = (liar.lab.now(), 1);
        while liar.error().is_none() && liar.lab.now() < begin + 40 * SECOND_NS {
            liar.settle();
            if liar.forger.is_down() && made < links {
                let victim = *liar.lab.0.a.address();
                liar.forger.call_again(&victim).expect("the rail leads there");
                made += 1;
                liar.settle();
                if made == links && links == 2 {
                    liar.resume(4, 7, ours);
                    break;
                }
            }
        }
        let took = liar.lab.now() - begin;
        if links == 2 {
            assert_eq!(liar.error(), None, "it was slow, and no more");
            assert!(took >= 5 * SECOND_NS, "a link was broken off after {took} ns");
        } else {
            assert_eq!(liar.error(), Some(Error::PeerMisbehaved));
            assert!((3..=4).contains(&made), "{made} links");
            assert!((15 * SECOND_NS..17 * SECOND_NS).contains(&took), "after {took} ns");
        }
        liar.lab.assert_talks();
    }
}

#[test]
fn who_was_called_says_nothing_before_the_caller() {
    let mut liar = Liar::new();
    liar.lab.0.a.send(liar.peer, b"hello", 1);
    liar.settle();
    assert!(liar.forger.frames.is_empty(), "{:?}", liar.forger.frames);
    liar.resume(0, 7, 0);
    assert_eq!((liar.tags(), liar.error()), (vec![1], None));
    assert_eq!(liar.forger.frames[0].extension[1], 7, "it says with whom it speaks");
}

impl Lab {
    /// `a` has called `b`, which is up; `a` has not heard so.
    fn half_connected(setup: Setup) -> Lab {
        let mut pair = Pair::strangers(Loopback::cutting(0), Setup::default());
        pair.b.close();
        pair.b = pair.stranger(2, setup);
        let address = *pair.b.address();
        pair.to_b = pair.a.engine().open(&address).expect("the rail leads there");
        let now = pair.fixture.tick();
        pair.b.drive(now);
        pair.to_a = pair.b.peer_of(pair.a.address().node).expect("it was accepted");
        Lab(pair)
    }
}

/// The caller's first words arrive, and nothing comes back before the callee gives the conversation up: they are not repeated
/// to the callee's next one.
#[test]
fn first_words_are_not_said_twice() {
    for callee_calls in [false, true] {
        say_first_words(callee_calls);
    }
}

fn say_first_words(callee_calls: bool) {
    let limits = Limits { peer_timeout_ns: SECOND_NS, ..Limits::default() };
    let mut lab = Lab::half_connected(Setup { limits, ..Setup::default() });
    let (old, to_b) = (lab.0.to_a, lab.0.to_b);
    let sync = lab.0.a.send_with(to_b, &[b"once"], 1, SYNC).expect("the send starts");
    let now = lab.0.fixture.tick();
    lab.0.a.drive(now);
    lab.0.b.drive(now);
    lab.part(true);
    lab.cut();
    lab.run_for(2 * SECOND_NS);
    assert_eq!(gone(&mut lab.0.b, old).error, Error::PeerGone);
    assert!(matches!(lab.0.a.state(to_b), PeerState::Broken(_)));
    lab.part(false);
    if callee_calls {
        let address = *lab.0.a.address();
        lab.0.b.engine().open(&address).expect("the rail leads there");
    }
    assert_eq!(lab.0.finish_a(sync).status, Err(Error::PeerGone));
    lab.0.run_until_quiet();
    let first = lab.0.b.receive(anything(), 8);
    assert_eq!(lab.0.finish_b(first).completion.map(|c| c.source), Some(old.number()));
    assert_eq!(lab.0.b.engine().probe(&anything()), None, "it was said again");
    lab.0.meet();
    lab.assert_talks();
}

/// The caller's end of the first link is lost before it is up; it calls anew, and gets what waits for it.
#[test]
fn a_call_that_was_lost_half_way_is_made_anew() {
    let mut lab = Lab::half_connected(Setup::default());
    let waits = lab.0.b.send_with(lab.0.to_a, &[b"waits"], 1, SYNC).expect("the send starts");
    lab.cut();
    let lost = lab.0.to_b;
    lab.0.step();
    assert!(gone(&mut lab.0.a, lost).reason.contains("lost"));
    let address = *lab.0.b.address();
    lab.0.to_b = lab.0.a.engine().open(&address).expect("the rail leads there");
    let receive = lab.0.a.receive(exactly(lab.0.to_b, 1), 8);
    assert_eq!((lab.0.finish_a(receive).status, lab.0.finish_b(waits).status), (Ok(()), Ok(())));
    lab.assert_talks();
}

/// Neither has heard of the other when the link breaks, and the one that was called calls.
#[test]
fn a_callee_that_calls_first_speaks_first() {
    let mut lab = Lab::half_connected(Setup::default());
    let (address, b) = (*lab.0.a.address(), lab.0.b.address().node);
    assert_eq!(lab.0.b.engine().open(&address), Ok(lab.0.to_a));
    let now = lab.0.fixture.tick();
    lab.0.a.drive(now);
    lab.0.fixture.hub().cut(address.node, b, Cut { unnoticed_ns: [100 * SECOND_NS, 0], ..Cut::default() });
    lab.assert_talks();
    assert_eq!(lab.0.b.engine().counters().peers_gone, 0);
}

/// Who does not listen for a while finds three things at once: the last that came over a link, its end, and the next one.
#[test]
fn a_link_that_came_and_went_between_two_polls_loses_nothing() {
    let mut lab = Lab::new();
    let between = [lab.0.a.address().node, lab.0.b.address().node];
    let to_b = lab.0.to_b;
    lab.cut();
    for tag in 0..5u64 {
        lab.0.a.send(to_b, &tag.to_le_bytes(), tag);
    }
    let is_up = |pair: &mut Pair<Loopback>| pair.a.state(to_b) == PeerState::Up;
    while is_up(&mut lab.0) {
        let now = lab.0.fixture.tick();
        lab.0.a.drive(now);
    }
    while !is_up(&mut lab.0) {
        let now = lab.0.fixture.tick();
        // b answers the call, and does not hear what comes over it.
        let (a, b) = (&mut lab.0.a, &mut lab.0.b);
        b.drive(now);
        a.drive(now);
        a.drive(now);
    }
    let unnoticed_ns = [0, SECOND_NS];
    assert!(lab.0.fixture.hub().cut(between[0], between[1], Cut { arrives: [9, 9], unnoticed_ns }));
    let now = lab.0.fixture.tick();
    for _ in 0..4 {
        lab.0.a.drive(now);
    }
    assert!(!is_up(&mut lab.0), "a has not noticed");
    for tag in 5..10u64 {
        lab.0.a.send(to_b, &tag.to_le_bytes(), tag);
    }
    for tag in 0..10u64 {
        let receive = lab.0.b.receive(anything(), 8);
        let outcome = lab.0.finish_b(receive);
        assert_eq!(outcome.completion.map(|c| c.tag), Some(tag), "lost, or twice");
    }
    lab.0.run_until_quiet();
    assert_eq!(lab.0.b.engine().counters().unexpected_now, 0);
    lab.assert_talks();
}
