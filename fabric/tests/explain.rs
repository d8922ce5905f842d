//! What is said of paths over tcp: by the fabric itself, and by its page to whoever looks.

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::{exactly, from_any, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::{LinkId, PeerId};
use gridnet::core::wire::{Address, NetAddresses};
use gridnet::page::{self, PageView, PeerView};
use gridnet::{AnyRail, ThreadLevel};

const TCP: [(&str, &str); 3] =
    [("GRIDNET_RAILS", "tcp"), ("GRIDNET_NET_INTERFACES", "127.0.0.1"), ("GRIDNET_NET_INSECURE", "1")];

/// A fabric calls another, which listens at the last of `hosts` only.
struct Ends {
    a: Party,
    b: Party,
    to: PeerId,
    scratch: Scratch,
}

impl Ends {
    fn connect(hosts: &[[u8; 4]]) -> Ends {
        let scratch = Scratch::new();
        let [a, b] =
            ["a", "b"].map(|name| Party::open(&scratch.0, Some(name), ThreadLevel::Serialized, &TCP));
        let address = b.address();
        let port = address.network.iter().next().expect("it listens").port();
        let network = NetAddresses::new(port, hosts.iter().map(|ip| Ipv4Addr::from(*ip).into()));
        let to = a.connect(&Address { network, ..address });
        Ends { a, b, to, scratch }
    }

    /// Lets both work until `is_done`.
    fn until(&self, what: &str, is_done: impl FnMut(&Ends) -> bool) {
        self.drive(&[&self.a, &self.b], what, is_done);
    }

    /// The same, while the side that was called does nothing.
    fn until_alone(&self, what: &str, is_done: impl FnMut(&Ends) -> bool) {
        self.drive(&[&self.a], what, is_done);
    }

    fn drive(&self, parties: &[&Party], what: &str, mut is_done: impl FnMut(&Ends) -> bool) {
        let start = Instant::now();
        while !is_done(self) {
            for party in parties {
                let mut fabric = party.enter();
                fabric.maintain();
                fabric.poll_round();
            }
            assert!(start.elapsed() < PATIENCE, "{what} does not happen: {:?}", self.seen());
        }
    }

    /// A message from `a` to `b`; what `b` calls `a`.
    fn exchange(&self) -> PeerId {
        let mut is_sent = !self.a.send(self.to, b"x", 1, false).unwrap();
        self.b.receive(from_any(1), Buffer::new(1)).unwrap();
        let mut came = None;
        self.until("a message", |ends| {
            ends.b.enter().take(ends.b.cq, |completion| {
                came = Some(PeerId::new(completion.source));
                true
            });
            is_sent |= ends.a.enter().take(ends.a.cq, |_| true) > 0;
            is_sent && came.is_some()
        });
        came.expect("it came")
    }

    /// The page of `a`.
    fn page(&self) -> PageView {
        page::of_name(Some(&self.scratch.0), "a").expect("it has a page").read().unwrap()
    }

    /// Its peer, as that shows it.
    fn seen(&self) -> PeerView {
        self.page().peers.remove(0)
    }

    fn said(&self) -> String {
        self.a.enter().explain(self.to).unwrap()
    }
}

#[test]
fn addresses_that_did_not_do_are_told_beside_the_one_that_does() {
    let ends = Ends::connect(&[[127, 0, 0, 2], [127, 0, 0, 1]]);
    ends.exchange();
    let peer = ends.seen();
    let [link] = &peer.links[..] else { panic!("{peer:?}") };
    assert!(link.rail == "tcp" && link.ends.iter().all(|end| end.starts_with("127.0.0.1:")), "{link:?}");
    assert!(link.round_trip_ns.is_some_and(|ns| ns > 0), "{link:?}");
    let [tried] = &link.tried[..] else { panic!("{link:?}") };
    assert!(tried.starts_with("127.0.0.2:") && tried.contains("refused"), "{tried}");
    assert_eq!((peer.state.as_str(), peer.breaks, &peer.last_call), ("up", 0, &None));
    let said = ends.said();
    for part in
        ["link tcp from 127.0.0.1:", "us there and back", "tried tcp 127.0.0.2:", "sent 1 messages (1 B"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn where_no_address_does_the_reason_of_each_is_told() {
    let ends = Ends::connect(&[[127, 0, 0, 1]]);
    let port = ends.b.address().network.iter().next().expect("it listens").port();
    let nobody = [[127, 0, 0, 2], [127, 0, 0, 3]].map(|ip| Ipv4Addr::from(ip).into());
    let node = gridnet::core::wire::NodeId::new([7; 16]).expect("not zero");
    let address = Address { node, network: NetAddresses::new(port, nobody), ..ends.b.address() };
    let refusal = ends.a.enter().engine.open(&address).map(drop).unwrap_err();
    assert_eq!(refusal.error, Error::PeerGone);
    for part in ["tcp: 127.0.0.2:", "127.0.0.3:", "refused"] {
        assert!(refusal.reason.contains(part), "{part}: {refusal:?}");
    }
}

#[test]
fn a_path_that_breaks_is_shown_to_be_sought_and_counted() {
    let ends = Ends::connect(&[[127, 0, 0, 1]]);
    ends.exchange();
    let before = ends.seen().links;
    for rail in ends.a.enter().engine.rails_mut() {
        if let AnyRail::Tcp(tcp) = rail {
            tcp.cut(LinkId(0));
        }
    }
    // The other side is not heard: it lets nobody in.
    ends.until_alone("the break", |ends| ends.seen().state == "broken");
    assert_eq!(ends.seen().breaks, 1);
    assert!(
        ends.said().contains("state broken: the connection") && ends.said().contains("path broken 1 times")
    );
    // Its system takes the call, and the process does not.
    ends.until_alone("a call that waits", |ends| ends.seen().state == "stalled");
    let said = ends.said();
    assert!(
        said.contains("state stalled: its host answers, the process does not; before that: the"),
        "{said}"
    );
    ends.until("another link", |ends| ends.seen().state == "up");
    let peer = ends.seen();
    assert_eq!((peer.breaks, peer.links.len()), (1, 1));
    assert_ne!(peer.links[0].ends[0], before[0].ends[0], "it is another connection");
    ends.exchange();
}

/// Who waits, and on whom: seen from outside while the call sleeps, and by the program when it is back.
#[test]
fn a_peer_that_takes_nothing_is_stalled_and_the_call_that_waits_for_it_is_shown() {
    const LONG: Duration = Duration::from_secs(100);
    let ends = Ends::connect(&[[127, 0, 0, 1]]);
    let from = ends.exchange();
    ends.a.receive(exactly(ends.to, 2), Buffer::new(1)).unwrap();
    ends.a.send(ends.to, b"x", 3, false).unwrap();
    let a = ends.a.clone();
    let waiter = std::thread::spawn(move || a.wait(LONG).map(|completion| completion.tag));
    let start = Instant::now();
    let page = loop {
        let page = ends.page();
        if page.peers[0].state == "stalled" && page.waits.iter().any(|wait| wait.asleep) {
            break page;
        }
        assert!(start.elapsed() < LONG / 2, "{page:?}");
        std::thread::yield_now();
    };
    assert_eq!((page.waits.len(), page.waits[0].call.as_str()), (1, "gridnet_cq_wait"));
    assert_eq!(page.peers[0].error, None, "nothing has failed");
    // It says something, and still takes nothing.
    ends.b.send(from, b"y", 2, false).unwrap();
    assert_eq!(waiter.join().unwrap(), Ok(2));
    assert!(
        ends.said().contains("\nstate stalled: its host answers, the process takes nothing\n"),
        "{}",
        ends.said()
    );
    ends.until("it takes the message", |ends| ends.seen().state == "up");
    assert!(ends.page().waits.is_empty() && ends.said().contains("\nstate up\n"));
}
