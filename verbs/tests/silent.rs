//! Peers that do not answer.

mod common;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Verbs, Wire};
use gridnet_core::endpoint::{Limits, PeerState};
use gridnet_core::error::Error;
use gridnet_core::testing::node::anything;
use gridnet_core::testing::pair::{Fixture, Pair, Setup};
use gridnet_rdma_sim::{Port, Received, UdpPort};
use gridnet_verbs::SoftDevice;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not call: its software device answers nobody, its host does. The link breaks, and the conversation goes on with
/// it.
#[test]
fn a_process_that_does_not_call_is_waited_for() {
    let mut pair = Pair::new(Verbs::udp());
    let to_b = pair.to_b;
    let send = pair.a.send(to_b, &[7; 100_000], 1);
    let end = Instant::now() + PATIENCE;
    while pair.a.state(to_b) == PeerState::Up {
        assert!(Instant::now() < end, "the link does not break");
        let now = pair.fixture.tick();
        pair.a.drive(now);
    }
    assert_ne!(pair.a.engine().breaks(to_b).0, 0);
    let receive = pair.b.receive(anything(), 100_000);
    assert!(pair.finish_b(receive).bytes == [7; 100_000]);
    assert_eq!(pair.finish_a(send).status, Ok(()));
}

/// A port behind a firewall, through which packets pass up to so many bytes.
struct Walled {
    port: UdpPort,
    longest: Arc<AtomicUsize>,
}

impl Port for Walled {
    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn send(&mut self, to: SocketAddr, packet: &mut Vec<u8>) -> bool {
        packet.len() > self.longest.load(Ordering::Relaxed) || self.port.send(to, packet)
    }

    fn receive(&mut self, packet: &mut Vec<u8>) -> Received {
        self.port.receive(packet)
    }

    fn flush(&mut self) -> bool {
        self.port.flush()
    }
}

/// Rails behind such a wall, and its height.
fn walled(longest: usize) -> (Verbs, Arc<AtomicUsize>) {
    let wall = Arc::new(AtomicUsize::new(longest));
    let longest = wall.clone();
    let open = move || {
        let port = UdpPort::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        SoftDevice::over(Walled { port, longest: longest.clone() }, "walled").expect("a device")
    };
    (Verbs::over(Wire::Other(Rc::new(open))), wall)
}

/// How the only peer of the first fabric has come to its end, and how often its link has broken before.
fn end(pair: &mut Pair<Verbs>) -> (String, u64) {
    let to_b = pair.to_b;
    let (end, mut breaks) = (Instant::now() + PATIENCE, 0);
    loop {
        assert!(Instant::now() < end, "the peer is {:?}", pair.a.state(to_b));
        pair.step();
        if let PeerState::Gone(why) = pair.a.state(to_b) {
            return (why.reason, breaks);
        }
        breaks = pair.a.engine().breaks(to_b).0;
    }
}

/// TCP leads there, UDP does not, or not for whole packets: no link is up, and it is said why.
#[test]
fn where_packets_do_not_pass_no_link_is_made() {
    for longest in [0, 2000] {
        let mut pair = Pair::strangers(walled(longest).0, Setup::default());
        let address = *pair.b.address();
        pair.to_b = pair.a.engine().open(&address).expect("TCP leads there");
        let to_b = pair.to_b;
        let send = pair.a.send(to_b, b"!", 1);
        let (why, breaks) = end(&mut pair);
        assert!(why.contains("UDP") && breaks == 0, "{breaks} breaks, {why}");
        assert!(pair.finish_a(send).status.is_err());
    }
}

/// Links are not made on and on where packets do not pass any more.
#[test]
fn a_peer_whom_packets_do_not_reach_any_more_is_given_up() {
    let limits = Limits { peer_timeout_ns: 2_000_000_000, ..Limits::default() };
    let (verbs, wall) = walled(usize::MAX);
    let mut pair = Pair::with(verbs, Setup { limits, ..Setup::default() });
    wall.store(0, Ordering::Relaxed);
    let to_b = pair.to_b;
    let send = pair.a.send(to_b, &[7; 100_000], 1);
    let (why, breaks) = end(&mut pair);
    assert!(why.contains("UDP") && breaks == 1, "{breaks} breaks, {why}");
    assert_eq!(pair.finish_a(send).status, Err(Error::PeerGone));
}
