//! What listens on the hosts of a session, and what a stranger gets there, also one that repeats what a member has said.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{channel, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gridnet::ThreadLevel;
use gridnet_testbed::{lab_test, Host, HostSpec, Impairment, Running, Site, SiteKind, Topology};
use nix::sys::socket::{recv, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::hosts::{open_lab, PATIENCE};
use crate::members::{echo, find, join_as, open, talk, Session, TICKET};

/// Who the part is; with another one, whom it talks to.
const LABEL: &str = "LAB_LABEL";
const PEER: &str = "LAB_PEER";
/// Types of records of TLS: change of cipher, alert, handshake, data.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Two bytes, the type and 16 bytes that prove them are data by their looks.
const SEALED_ALERT: (u8, usize) = (23, 19);
const RECORDS: std::ops::RangeInclusive<u8> = 20..=23;

#[test]
#[ignore = "a part that the tests start"]
fn member() {
    let (Ok(ticket), Ok(label)) = (std::env::var(TICKET), std::env::var(LABEL)) else { return };
    let run_dir = std::env::temp_dir().join(format!("gridnet-doors-{label}-{}", std::process::id()));
    let one = [("GRIDNET_SESSION_CLUSTER", "a")];
    let party = join_as(&ticket, &label, &run_dir, ThreadLevel::Serialized, &one);
    println!("\njoined");
    if let Ok(peer) = std::env::var(PEER) {
        let node = find(&party, &peer);
        let to = open(&party, node);
        talk(&party, to, 1);
        println!("talked end");
    }
    // It stays until it is killed, and looks after its rails.
    echo(&party);
}

/// A part of what was said: its number, and its bytes.
type Part = (u32, Vec<u8>);

/// What callers have said over TCP to others, whole connections, as it passed a host.
struct Heard {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Heard {
    fn start(host: Host<'_>) -> Heard {
        let open =
            || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
        let socket = host.run(open).unwrap().unwrap();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut frames, mut frame) = (Vec::new(), vec![0; 70_000]);
            loop {
                let is_last = stopped.try_recv() != Err(TryRecvError::Empty);
                while let Ok(len) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    frames.push(frame[..len].to_vec());
                }
                if is_last {
                    return frames;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Heard { stop, thread }
    }

    /// All that was said to this place, each connection by itself.
    fn said_to(frames: &[Vec<u8>], place: SocketAddrV4) -> Vec<Vec<u8>> {
        let mut flows: Vec<(SocketAddrV4, Vec<Part>)> = Vec::new();
        for (from, number, bytes) in frames.iter().filter_map(|frame| segment(frame, place)) {
            let known = flows.iter_mut().find(|(other, _)| *other == from);
            match known {
                Some((_, parts)) if parts.iter().any(|(other, _)| *other == number) => {}
                Some((_, parts)) => parts.push((number, bytes)),
                None => flows.push((from, vec![(number, bytes)])),
            }
        }
        let whole = |mut parts: Vec<Part>| {
            let first = parts[0].0;
            parts.sort_by_key(|(number, _)| number.wrapping_sub(first));
            parts.into_iter().flat_map(|(_, bytes)| bytes).collect()
        };
        flows.into_iter().map(|(_, parts)| whole(parts)).collect()
    }

    fn stop(self) -> Vec<Vec<u8>> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// The payload of a TCP segment over IPv4 and Ethernet to that place, if it has one: who sent it, its number, its bytes.
fn segment(frame: &[u8], place: SocketAddrV4) -> Option<(SocketAddrV4, u32, Vec<u8>)> {
    let packet = frame.get(14..).filter(|_| frame.get(12..14) == Some(&[8, 0]))?;
    let number = |at: &[u8]| at.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    let length = number(packet.get(2..4)?) as usize;
    let segment =
        packet.get(usize::from(packet[0] & 15) * 4..length).filter(|_| packet.get(9) == Some(&6))?;
    let address = |at: usize, port: usize| {
        let ip: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(ip), number(segment.get(port..port + 2)?) as u16))
    };
    let bytes = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    let is_it = address(16, 2)? == place && !bytes.is_empty();
    is_it.then_some((address(12, 0)?, number(segment.get(4..8)?), bytes.to_vec()))
}

/// Says that, and hears all there is to hear; whether it was cut off before its end.
fn probe(at: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be cut off meanwhile.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let (mut heard, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return (heard, false),
            Ok(len) => heard.extend_from_slice(&part[..len]),
            // Cut off before it had read everything: not late.
            Err(e) => {
                assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{at}");
                return (heard, true);
            }
        }
    }
}

/// The types of the records of TLS that these bytes are, and nothing else; alerts also where they are sealed.
fn records(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, 3, _, high, low, rest @ ..] = bytes {
        let len = usize::from(*high) << 8 | usize::from(*low);
        assert!(RECORDS.contains(kind) && len <= rest.len(), "no TLS: {bytes:?}");
        types.push(if (*kind, len) == SEALED_ALERT { ALERT } else { *kind });
        bytes = &rest[len..];
    }
    assert!(bytes.is_empty(), "no TLS: {bytes:?}");
    types
}

/// Where a host listens over TCP.
fn doors(host: Host<'_>) -> Vec<SocketAddr> {
    let said = host.command("ss").args(["-H", "-l", "-t", "-n"]).output(PATIENCE).unwrap().success().unwrap();
    let at = said.lines().map(|line| line.split_whitespace().nth(3).unwrap().parse::<SocketAddr>().unwrap());
    at.collect()
}

fn start(session: &Session, host: Host<'_>, label: &str, peer: Option<&str>) -> Running {
    let part = host.test("doors::member").unwrap().env(TICKET, session.ticket()).env(LABEL, label);
    let part = peer.into_iter().fold(part, |part, peer| part.env(PEER, peer));
    part.spawn().unwrap()
}

lab_test! {
    fn strangers_get_an_alert_at_each_door_and_so_do_those_who_repeat_a_member() {
        let public = |name: &str| HostSpec::new(name).public(Impairment::default());
        let site = Site::new("a", SiteKind::Open).hosts(2);
        let topology = Topology::new().host(public("p")).host(public("rogue")).site(site);
        let Some(lab) = open_lab(topology) else { return };
        let [p, rogue, a1, a2] = ["p", "rogue", "a1", "a2"].map(|name| lab.host(name).unwrap());
        let session = Session::new(p);
        let heard = Heard::start(a1);
        let serving = session.serve(p);
        let second = start(&session, a2, "a2", None);
        second.wait_for("joined", PATIENCE).unwrap();
        // It joins, agrees on a connection, and makes it.
        let first = start(&session, a1, "a1", Some("a2"));
        first.wait_for("talked end", PATIENCE).unwrap();
        let frames = heard.stop();
        let state = || {
            let status = serving.status();
            let nodes: BTreeSet<String> = status.nodes.iter().map(|node| node.node.to_string()).collect();
            let strangers = status.refused.iter().filter(|line| line.refusal == "stranger").count();
            (nodes, strangers, status.leaders.len())
        };
        until("one of the two leads", || state().2 == 1);
        let (before, ..) = state();
        assert_eq!(before.len(), 2);
        let all = [p, a1, a2].map(doors);
        assert_eq!((all[0].len(), all[1].len() + all[2].len()), (1, 5), "rendez-vous node; two fabrics with two addresses, and a leader: {all:?}");
        assert!(all.iter().flatten().all(|at| !at.ip().is_unspecified()), "{all:?}");
        let tried = rogue.run(|| knock(&frames, &all.concat())).unwrap();
        until("the rendez-vous node has noted its strangers", || state().1 >= tried);
        assert_eq!(state().0, before, "nobody came or went");
        for part in [&first, &second] {
            assert!(part.said()[1].contains("gridnet::audit"), "{:?}", part.said());
        }
    }
}

/// Tries each door by nonsense, and by all that was said there before; how often that of the rendez-vous node.
fn knock(frames: &[Vec<u8>], doors: &[SocketAddr]) -> usize {
    let (mut tried, mut repeated) = (0, BTreeSet::new());
    for at in doors {
        for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1], &[0; 100]] {
            let heard = records(&probe(*at, bytes).0);
            assert!(heard.iter().all(|kind| *kind == ALERT), "{at}: {heard:?}");
            tried += usize::from(*at == doors[0]);
        }
        let SocketAddr::V4(place) = *at else { continue };
        for said in Heard::said_to(frames, place) {
            let (heard, is_cut) = probe(*at, &said);
            let heard = records(&heard);
            assert!(heard.contains(&HANDSHAKE), "{at}: TLS is spoken, by another key: {heard:?}");
            assert!(is_cut || heard.last() == Some(&ALERT), "{at}: what was repeated is taken: {heard:?}");
            repeated.insert(*at);
            tried += usize::from(*at == doors[0]);
        }
    }
    assert!(repeated.len() >= 2 && repeated.contains(&doors[0]), "something was repeated: {repeated:?}");
    tried
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
