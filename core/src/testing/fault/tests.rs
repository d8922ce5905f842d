use super::*;
use crate::mem::PeerBytes;
use crate::testing::loopback::Loopback;
use crate::testing::node::anything;
use crate::testing::pair::{address_of, Fixture, Pair, Setup};
use crate::wire::Incoming;

struct Bad(Loopback, FaultPlan);

impl Fixture for Bad {
    type Rail = Faulty<<Loopback as Fixture>::Rail>;

    fn rail(&mut self, address: &Address) -> Self::Rail {
        Faulty::new(self.0.rail(address), self.1)
    }

    fn tick(&mut self) -> Time {
        self.0.tick()
    }
}

/// Tags in the order in which 100 messages arrive.
fn arrivals(plan: FaultPlan) -> (Vec<u64>, FaultCounters) {
    let mut pair =
        Pair::strangers(Bad(Loopback::new(0, false), FaultPlan { seed: 1, ..plan }), Setup::default());
    let address = *pair.b.address();
    let to_b = pair.a.engine().open(&address).unwrap();
    for tag in 0..100 {
        pair.a.send(to_b, &[0; 100], tag);
    }
    pair.run_until_quiet();
    let mut tags = Vec::new();
    while let Some(probe) = pair.b.engine().probe(&anything()) {
        tags.push(probe.tag);
        let receive = pair.b.receive(anything(), 100);
        pair.finish_b(receive);
    }
    let counters = pair.a.engine().rails()[0].counters();
    assert_eq!(counters.frames, 100);
    (tags, counters)
}

#[test]
fn faults_happen_as_planned_and_the_same_each_time() {
    let (tags, counters) = arrivals(FaultPlan { drop: 0.2, ..FaultPlan::default() });
    assert!(counters.dropped > 5 && tags.len() as u64 == 100 - counters.dropped);
    assert!(tags.is_sorted());
    let (tags, counters) = arrivals(FaultPlan { duplicate: 0.2, ..FaultPlan::default() });
    assert!(counters.duplicated > 5 && tags.len() as u64 == 100 + counters.duplicated);
    let (tags, counters) = arrivals(FaultPlan { reorder: 0.2, ..FaultPlan::default() });
    assert!(counters.reordered > 5 && tags.len() == 100 && !tags.is_sorted());
    let delay = FaultPlan { delay: 0.2, delay_polls: 10, ..FaultPlan::default() };
    let (tags, counters) = arrivals(delay);
    assert!(counters.delayed > 5);
    assert_eq!(tags, (0..100).collect::<Vec<u64>>());
    let all = FaultPlan { drop: 0.1, duplicate: 0.1, reorder: 0.1, ..delay };
    assert_eq!(arrivals(all), arrivals(all));
}

/// A rail without a peer: what it is told is written down, and links break when a test says so.
#[derive(Debug)]
struct Log {
    capabilities: Capabilities,
    posted: Vec<LinkId>,
    fetched: usize,
    maintained: usize,
    ended: Vec<LinkId>,
    /// Breaks at the next poll.
    breaks: Option<(PeerId, LinkId)>,
    links: u32,
}

impl Log {
    fn new() -> Log {
        let capabilities = Capabilities { retains: true, get: true, ..Capabilities::minimal() };
        let (posted, ended) = (Vec::new(), Vec::new());
        Log { capabilities, posted, fetched: 0, maintained: 0, ended, breaks: None, links: 0 }
    }
}

impl Rail for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn connect(&mut self, _: PeerId, _: &Address) -> Result<LinkId, Refusal> {
        self.links += 1;
        Ok(LinkId(self.links))
    }

    fn post(&mut self, link: LinkId, _: &Frame<'_>) -> Posted {
        self.posted.push(link);
        Posted::Done
    }

    fn poll<S: Sink>(&mut self, _: usize, sink: &mut S) -> usize {
        let broken = self.breaks.take();
        if let Some((peer, link)) = broken {
            sink.broken(peer, link, Refusal::new(Error::Unreachable, "so the test wants it"));
        }
        usize::from(broken.is_some())
    }

    fn maintain<S: Sink>(&mut self, _: Time, _: &mut S) -> usize {
        self.maintained += 1;
        0
    }

    fn get(&mut self, _: LinkId, _: RemoteSource, _: &Gather<'_>) -> Posted {
        self.fetched += 1;
        Posted::Done
    }

    fn arm(&mut self) -> Armed {
        Armed::Yes
    }

    fn disarm(&mut self) {}

    fn disconnect(&mut self, link: LinkId) {
        self.ended.push(link);
    }
}

/// Hears of ends.
#[derive(Debug, Default)]
struct Ends {
    down: Vec<LinkId>,
    broken: Vec<LinkId>,
}

impl Sink for Ends {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}

    fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, _: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        Err(Refusal::new(Error::Unsupported, "nobody calls"))
    }

    fn up(&mut self, _: PeerId) {}

    fn down(&mut self, _: PeerId, link: LinkId, _: Refusal) {
        self.down.push(link);
    }

    fn broken(&mut self, _: PeerId, link: LinkId, _: Refusal) {
        self.broken.push(link);
    }
}

/// Such a rail, with a link to so many peers.
fn logged(plan: FaultPlan, peers: u32) -> (Faulty<Log>, Vec<LinkId>) {
    let mut rail = Faulty::new(Log::new(), plan);
    let links = (0..peers).map(|number| {
        let address = address_of(number as u8 + 1, 0);
        rail.connect(PeerId::new(number), &address).expect("nothing is refused")
    });
    let links = links.collect();
    (rail, links)
}

fn plain() -> Frame<'static> {
    Frame::eager(1, Gather::EMPTY)
}

#[test]
fn what_is_held_is_let_go_in_the_order_of_the_links() {
    let plan = FaultPlan { delay: 1.0, delay_polls: 3, ..FaultPlan::NONE };
    let (mut rail, links) = logged(plan, 20);
    links.iter().rev().for_each(|link| assert_eq!(rail.post(*link, &plain()), Posted::Done));
    assert_eq!(rail.inner.posted, []);
    (0..3).for_each(|_| _ = rail.poll(64, &mut Ends::default()));
    assert_eq!(rail.inner.posted, links);
}

#[test]
fn nothing_is_heard_in_maintenance_while_it_is_deaf() {
    let (mut rail, _) = logged(FaultPlan { deaf: 1.0, deaf_polls: 3, ..FaultPlan::NONE }, 1);
    let mut sink = Ends::default();
    rail.maintain(Time(1), &mut sink);
    assert_eq!(rail.inner.maintained, 1, "it hears until it is polled");
    rail.poll(64, &mut sink);
    for _ in 0..2 {
        rail.maintain(Time(2), &mut sink);
        rail.poll(64, &mut sink);
    }
    assert_eq!(rail.inner.maintained, 1);
    rail.plan.deaf = 0.0;
    rail.poll(64, &mut sink);
    rail.maintain(Time(3), &mut sink);
    assert_eq!(rail.inner.maintained, 2);
}

#[test]
fn a_link_is_lost_before_a_segment() {
    let (mut rail, links) = logged(FaultPlan { lose: 1.0, ..FaultPlan::NONE }, 2);
    let path = PathId { link: links[1], number: 1 };
    let never = Posted::Failed(Error::PeerMisbehaved);
    assert_eq!(rail.post_segment(path, &plain()), never, "a link that is not up is not lost");
    let mut sink = Ends::default();
    rail.sink(&mut sink, &mut None).1.up(PeerId::new(1));
    assert_eq!(rail.post_segment(path, &plain()), Posted::Down);
    assert_eq!(rail.counters().lost, 1);
    rail.poll(64, &mut sink);
    assert_eq!((sink.down, sink.broken), (vec![], vec![links[1]]));
}

#[test]
fn nothing_is_fetched_over_a_link_that_was_cut() {
    let (mut rail, links) = logged(FaultPlan { disconnect_after: Some(1), ..FaultPlan::NONE }, 1);
    let from = RemoteSource { rkey: 1, address: 2 };
    assert_eq!(rail.post(links[0], &plain()), Posted::Done);
    assert_eq!(rail.get(links[0], from, &Gather::EMPTY), Posted::Done);
    assert_eq!(rail.post(links[0], &plain()), Posted::Down);
    assert_eq!(rail.get(links[0], from, &Gather::EMPTY), Posted::Down);
    assert_eq!(rail.inner.fetched, 1);
}

#[test]
fn a_link_that_breaks_where_nothing_is_retained_is_ended_below() {
    for (plan, retains) in [
        (FaultPlan { drop: 0.5, ..FaultPlan::NONE }, false),
        (FaultPlan { no_room: 0.5, ..FaultPlan::NONE }, true),
    ] {
        let (mut rail, links) = logged(plan, 2);
        assert_eq!(rail.capabilities().retains, retains);
        rail.inner.breaks = Some((PeerId::new(1), links[1]));
        let mut sink = Ends::default();
        rail.poll(64, &mut sink);
        let broken = vec![links[1]];
        let expected = if retains { (vec![], broken, vec![]) } else { (broken.clone(), vec![], broken) };
        assert_eq!((sink.down, sink.broken, rail.inner.ended), expected);
    }
}
