//! What is said of paths over tcp: by the fabric itself, and by its page to whoever looks.

mod common;

use std::net::Ipv4Addr;
use std::time::Instant;

use common::{from_any, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::{LinkId, PeerId};
use gridnet::core::wire::{Address, NetAddresses};
use gridnet::page::{self, PeerView};
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
    fn until(&self, what: &str, mut is_done: impl FnMut(&Ends) -> bool) {
        let start = Instant::now();
        while !is_done(self) {
            for party in [&self.a, &self.b] {
                let mut fabric = party.enter();
                fabric.maintain();
                fabric.poll_round();
            }
            assert!(start.elapsed() < PATIENCE, "{what} does not happen: {:?}", self.seen());
        }
    }

    fn exchange(&self) {
        self.a.send(self.to, b"x", 1, false).unwrap();
        self.b.receive(from_any(1), Buffer::new(1)).unwrap();
        let mut came = 0;
        self.until("a message", |ends| {
            came += ends.b.enter().take(ends.b.cq, |_| true);
            came > 0
        });
    }

    /// Its peer, as the page of `a` shows it.
    fn seen(&self) -> PeerView {
        let page = page::of_name(Some(&self.scratch.0), "a").expect("it has a page");
        page.read().unwrap().peers.remove(0)
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
    let start = Instant::now();
    while ends.seen().state != "broken" {
        let mut fabric = ends.a.enter();
        fabric.maintain();
        fabric.poll_round();
        assert!(start.elapsed() < PATIENCE, "{:?}", ends.seen());
    }
    assert_eq!(ends.seen().breaks, 1);
    assert!(
        ends.said().contains("state broken: the connection") && ends.said().contains("path broken 1 times")
    );
    ends.until("another link", |ends| ends.seen().state == "up");
    let peer = ends.seen();
    assert_eq!((peer.breaks, peer.links.len()), (1, 1));
    assert_ne!(peer.links[0].ends[0], before[0].ends[0], "it is another connection");
    ends.exchange();
}
