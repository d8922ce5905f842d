//! Several paths of one link. On one host they lead from one address to the same other one, for want of a second interface;
//! `fabric/tests/lab` has paths over different ones.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::certificates::Authority;
use common::{key, tls, Members, Tcp};
use gridnet_core::endpoint::PeerState;
use gridnet_core::error::Error;
use gridnet_core::rail::{LinkId, PeerId};
use gridnet_core::reliability_tests;
use gridnet_core::testing::node::{anything, exactly, Outcome};
use gridnet_core::testing::pair::Pair;
use gridnet_core::testing::random::Random;
use gridnet_core::wire::{Address, Extension, Hello, NetAddresses, NodeId};
use gridnet_uring_tcp::{Engine, Multirail, Security, Tuning};

fn several(paths: u32) -> Tcp {
    let tuning = Tuning { keep_alive: Some(Duration::from_secs(1)), ..Tuning::default() };
    Tcp { multirail: Multirail::Alike(paths), tuning, ..Tcp::new(Engine::Auto) }
}

reliability_tests!(over_three, several(3));
reliability_tests!(over_three_sealed, Tcp { security: tls(), ..several(3) });

const MIB: usize = 1 << 20;

fn link_of(pair: &mut Pair<Tcp>) -> LinkId {
    let other = pair.b.address().node;
    pair.a.engine().rails()[0].link_with(other).expect("there is a link")
}

fn further(pair: &mut Pair<Tcp>) -> [usize; 2] {
    let of = |node: &mut gridnet_core::testing::node::Node<_>, other: NodeId| {
        let rail: &gridnet_uring_tcp::TcpRail = &node.engine().rails()[0];
        rail.link_with(other).map_or(0, |link| rail.further(link))
    };
    let nodes = [pair.a.address().node, pair.b.address().node];
    [of(&mut pair.a, nodes[1]), of(&mut pair.b, nodes[0])]
}

/// Two nodes whose link has so many paths.
fn wide(fixture: Tcp, paths: usize) -> Pair<Tcp> {
    let mut pair = Pair::new(fixture);
    assert!(pair.run_until(|pair| further(pair) == [paths - 1; 2]), "{:?} further paths", further(&mut pair));
    pair
}

/// Sends a message, and does something in the middle of it; false when it had come before there was anything to be seen of it.
fn transfer(pair: &mut Pair<Tcp>, tag: u64, len: usize, meanwhile: impl FnOnce(&mut Pair<Tcp>)) -> bool {
    let bytes = Random::new(tag).bytes(len);
    let receive = pair.b.receive(exactly(pair.to_a, tag), len);
    let send = pair.a.send(pair.to_b, &bytes, tag);
    let mut is_halfway = false;
    let has_come = pair.run_until(|pair| {
        let left = pair.b.engine().bytes_under_way();
        is_halfway = !pair.b.is_finished(receive) && left > 0 && left < len as u64 / 2;
        is_halfway || pair.b.is_finished(receive)
    });
    assert!(has_come, "message {tag} does not come");
    meanwhile(pair);
    assert!(pair.finish_b(receive).bytes == bytes, "message {tag} differs");
    pair.finish_a(send);
    is_halfway
}

fn moved(pair: &mut Pair<Tcp>) -> Vec<u64> {
    let to_b = pair.to_b;
    let paths = pair.a.engine().paths(to_b);
    paths.iter().map(|(_, path)| path.moved.expect("beside others it is counted")[0]).collect()
}

#[test]
fn each_path_carries_a_part() {
    for security in [Security::Insecure, key(1), tls()] {
        let mut pair = wide(Tcp { security, ..several(4) }, 4);
        let before = moved(&mut pair);
        assert_eq!(before.len(), 4);
        for tag in 0..4 {
            transfer(&mut pair, tag, 16 * MIB, |_| {});
        }
        let parts: Vec<u64> = moved(&mut pair).iter().zip(before).map(|(now, before)| now - before).collect();
        let all: u64 = parts.iter().sum();
        assert!((63 * MIB as u64..66 * MIB as u64).contains(&all), "{parts:?}");
        assert!(parts.iter().all(|part| *part > 2 * MIB as u64), "{parts:?}");
    }
}

#[test]
fn a_path_that_breaks_is_replaced_and_nothing_is_lost() {
    let mut pair = wide(several(3), 3);
    let mut halfway = 0;
    for tag in 0..10 {
        halfway += u32::from(transfer(&mut pair, tag, 8 * MIB, |pair| {
            let link = link_of(pair);
            pair.a.engine().rails_mut()[0].cut_path(link);
        }));
        assert_eq!(pair.a.engine().breaks(pair.to_b), (0, 0), "the link goes on");
        pair.fixture.skipped += Duration::from_secs(10);
        assert!(pair.run_until(|pair| further(pair) == [2, 2]), "{:?} further paths", further(&mut pair));
    }
    assert!(halfway > 5, "{halfway} of 10 messages were under way");
}

#[test]
fn with_the_link_all_paths_are_made_anew() {
    let mut pair = wide(several(3), 3);
    let mut halfway = 0;
    for tag in 0..5 {
        halfway += u32::from(transfer(&mut pair, tag, 8 * MIB, |pair| {
            let link = link_of(pair);
            pair.a.engine().rails_mut()[0].cut(link);
        }));
        assert_eq!(pair.a.engine().breaks(pair.to_b).0, tag + 1);
        assert!(pair.run_until(|pair| further(pair) == [2, 2]), "{:?} further paths", further(&mut pair));
    }
    assert!(halfway > 2, "{halfway} of 5 messages were cut");
}

#[test]
fn who_takes_one_path_only_has_one() {
    for mine in [true, false] {
        let mut pair = Pair::strangers(several(3), Default::default());
        pair.fixture.multirail = Multirail::Off;
        if mine {
            pair.a.close();
            pair.a = pair.stranger(1, Default::default());
        } else {
            pair.b.close();
            pair.b = pair.stranger(2, Default::default());
        }
        pair.meet();
        transfer(&mut pair, 1, MIB, |_| {});
        pair.fixture.skipped += Duration::from_secs(10);
        pair.run_until_quiet();
        assert_eq!(further(&mut pair), [0, 0]);
        transfer(&mut pair, 2, MIB, |_| {});
    }
}

#[test]
fn the_smaller_number_of_paths_counts() {
    for mine in [2, 4] {
        let mut pair = Pair::strangers(several(6 - mine), Default::default());
        pair.a.close();
        pair.fixture.multirail = Multirail::Alike(mine);
        pair.a = pair.stranger(1, Default::default());
        pair.meet();
        for _ in 0..3 {
            pair.fixture.skipped += Duration::from_secs(10);
            pair.run_until_quiet();
            assert_eq!(further(&mut pair), [1, 1], "{mine} and {}", 6 - mine);
        }
        transfer(&mut pair, 1, MIB, |_| {});
    }
}

/// Members who have agreed on so many connections, if they have, whatever rails are configured for.
fn agreed(streams: Option<u32>, configured: Multirail) -> Tcp {
    let mut members = Members::of(&Authority::new());
    members.streams = streams;
    Tcp { security: Security::Session(Arc::new(members)), multirail: configured, ..several(1) }
}

#[test]
fn a_session_says_over_how_many_connections_a_link_goes() {
    for (streams, configured, paths) in [
        (Some(3), Multirail::Auto, 3),
        (Some(2), Multirail::Off, 2),
        (Some(2), Multirail::Alike(4), 2),
        (Some(1), Multirail::Alike(4), 1),
        (None, Multirail::Alike(2), 2),
    ] {
        let mut pair = wide(agreed(streams, configured), paths);
        transfer(&mut pair, 1, 4 * MIB, |_| {});
        pair.fixture.skipped += Duration::from_secs(10);
        pair.run_until_quiet();
        assert_eq!(further(&mut pair), [paths - 1; 2], "{streams:?} {configured:?}");
        let link = link_of(&mut pair);
        pair.a.engine().rails_mut()[0].cut(link);
        transfer(&mut pair, 2, 4 * MIB, |_| {});
        assert!(pair.run_until(|pair| further(pair) == [paths - 1; 2]), "as before after a break");
    }
}

#[test]
fn on_one_host_there_is_one_path() {
    let mut pair = Pair::new(Tcp::new(Engine::Auto));
    pair.run_until_quiet();
    assert_eq!(further(&mut pair), [0, 0]);
}

/// What stands in the way of further paths: the first connection leads on to the peer, and all that is said towards it is heard.
struct Gateway {
    at: NetAddresses,
    /// Connections that were answered by somebody else.
    strangers: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Gateway {
    /// Before `to`. Of the other connections the first `refused` are answered with `says` by somebody else.
    fn new(to: SocketAddr, refused: usize, says: &[u8]) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let at = listener.local_addr().expect("it has one");
        let (strangers, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, ear, says) = (Arc::clone(&strangers), Arc::clone(&heard), says.to_vec());
        std::thread::spawn(move || {
            for (number, near) in listener.incoming().enumerate() {
                let mut near = near.expect("somebody calls");
                if (1..=refused).contains(&number) {
                    let _ = near.write_all(&says);
                    counted.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let far = TcpStream::connect(to).expect("it listens");
                lead_on(&near, &far, (number == 0).then(|| Arc::clone(&ear)));
                lead_on(&far, &near, None);
            }
        });
        Gateway { at: NetAddresses::new(at.port(), [at.ip()]), strangers, heard }
    }

    /// Has `a` call `b` through it.
    fn join(&self, pair: &mut Pair<Tcp>) {
        let address = *pair.b.address();
        pair.to_b = pair.a.engine().open(&Address { network: self.at, ..address }).expect("the call starts");
        let outcome = self.pass(pair, 1);
        pair.to_a = PeerId::new(outcome.completion.expect("it was received").source);
    }

    /// Sends a message; its threads have their time, however busy the machine is.
    fn pass(&self, pair: &mut Pair<Tcp>, tag: u64) -> Outcome {
        let send = pair.a.send(pair.to_b, b"", tag);
        let receive = pair.b.receive(anything(), 0);
        let start = Instant::now();
        while !pair.b.is_finished(receive) || !pair.a.is_finished(send) {
            assert!(start.elapsed() < Duration::from_secs(100), "message {tag} does not arrive");
            pair.step();
        }
        pair.a.take(send);
        pair.b.take(receive).expect("just seen")
    }

    fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }
}

fn lead_on(from: &TcpStream, to: &TcpStream, ear: Option<Arc<Mutex<Vec<u8>>>>) {
    let (mut from, mut to) = (from.try_clone().expect("it is open"), to.try_clone().expect("it is open"));
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            ear.iter().for_each(|ear| ear.lock().expect("nobody panics").extend_from_slice(&buffer[..len]));
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        // An error says that it has ended.
        let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
    });
}

const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n";

/// An address of the peer may be another host's in our network.
#[test]
fn a_link_does_not_suffer_from_who_else_has_an_address_of_the_peer() {
    for security in [Security::Insecure, key(1)] {
        let mut pair = Pair::strangers(Tcp { slowness: 1000, security, ..several(3) }, Default::default());
        let to = pair.b.address().network.iter().next().expect("it listens");
        let gateway = Gateway::new(to, usize::MAX, SSH);
        gateway.join(&mut pair);
        let start = Instant::now();
        while gateway.strangers() < 3 {
            assert!(start.elapsed() < Duration::from_secs(100), "no further path is called for");
            pair.fixture.skipped += Duration::from_millis(1);
            pair.step();
        }
        pair.fixture.skipped += Duration::from_secs(1);
        pair.run_steps(1000);
        // Behind whatever else was said.
        gateway.pass(&mut pair, 2);
        assert_eq!((pair.a.state(pair.to_b), pair.a.engine().breaks(pair.to_b)), (PeerState::Up, (0, 0)));
        let path_over = [0, 0, 0, 0, 242, 0, 0, 0];
        let heard = gateway.heard.lock().expect("nobody panics");
        let told = heard.windows(8).filter(|bytes| *bytes == path_over).count();
        assert_eq!(told, 0, "the peer is told of calls that never came to it");
    }
}

/// Somebody else answers at an address of the peer, in our words, that no path is wanted there: that is nobody's word.
#[test]
fn a_stranger_does_not_end_the_calls_for_further_paths() {
    let text = b"this side takes one path for each link";
    let mut says = vec![5 + text.len() as u8, 0, b'R'];
    says.extend_from_slice(&Error::Unsupported.code().to_le_bytes());
    says.extend_from_slice(text);
    for security in [Security::Insecure, key(1)] {
        let mut pair = Pair::strangers(Tcp { slowness: 1000, security, ..several(2) }, Default::default());
        let to = pair.b.address().network.iter().next().expect("it listens");
        let gateway = Gateway::new(to, 2, &says);
        gateway.join(&mut pair);
        let start = Instant::now();
        while further(&mut pair) != [1, 1] {
            // The peer itself would be called again after a minute.
            let is_in_time = pair.fixture.skipped < Duration::from_secs(30);
            assert!(
                is_in_time && start.elapsed() < Duration::from_secs(100),
                "no path is called for any more"
            );
            pair.fixture.skipped += Duration::from_micros(100);
            pair.step();
        }
        assert_eq!(gateway.strangers(), 2);
    }
}

/// What somebody says who claims to be node `a` and to have made its link, and asks `b` for a further path.
fn ask_for_path(pair: &Pair<Tcp>, generation: u32, number: u32, proof: [u8; 32]) -> Vec<u8> {
    let (a, b) = (*pair.a.address(), *pair.b.address());
    let mut hello = Hello::new(a.node, a.incarnation, generation);
    let mut offer = vec![0, 2, 0, 0];
    offer.extend_from_slice(&a.uid.to_le_bytes());
    offer.extend_from_slice(&[9; 32]);
    offer.extend_from_slice(b.node.bytes());
    offer.extend_from_slice(&b.incarnation.to_le_bytes());
    hello.extensions.push(Extension { kind: 0x8002, bytes: offer });
    hello.extensions.push(Extension { kind: 4, bytes: [&number.to_le_bytes()[..], &proof].concat() });
    let bytes = hello.encode();
    [&(bytes.len() as u16 + 1).to_le_bytes()[..], b"H", &bytes].concat()
}

#[test]
fn a_stranger_makes_no_path_of_a_link() {
    let mut pair = wide(several(2), 2);
    for (generation, number, says) in
        [(1, 50, "has not made it"), (7, 50, "not there any more"), (1, 0, "without an offer")]
    {
        let to = pair.b.address().network.iter().next().expect("it listens");
        let mut stranger = TcpStream::connect(to).expect("it accepts");
        stranger.write_all(&ask_for_path(&pair, generation, number, [3; 32])).expect("there is room");
        stranger.set_read_timeout(Some(Duration::from_millis(5))).expect("it can be set");
        let mut answer = Vec::new();
        let hung_up = pair.run_until(|_| {
            let mut buffer = [0; 2048];
            match stranger.read(&mut buffer) {
                Ok(0) => true,
                Ok(len) => {
                    answer.extend_from_slice(&buffer[..len]);
                    false
                }
                Err(_) => false,
            }
        });
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(hung_up && text.contains(says), "{text:?}");
        assert_eq!(further(&mut pair), [1, 1]);
    }
    assert_eq!(pair.b.state(pair.to_a), PeerState::Up);
    transfer(&mut pair, 1, MIB, |_| {});
}
