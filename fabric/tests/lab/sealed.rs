//! Two hosts that know each other by a session: nobody on the way reads what they say, and nobody else gets in.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{channel, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gridnet::core::endpoint::PeerState;
use gridnet::core::error::Error;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::{Address, NodeId};
use gridnet::ThreadLevel;
use gridnet_meta::authority::Authority;
use gridnet_meta::clock::Moment;
use gridnet_meta::credentials::{keep_certified, keep_revoked};
use gridnet_testbed::{lab_test, Host, Running};
use nix::sys::socket::{recv, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::common::{from_any, Buffer, Party, Scratch};
use crate::cuts::Said;
use crate::hosts::{address_of, open, say_address, two, PATIENCE};

/// What nobody on the way may see.
pub const NONCE: &[u8] = b"nobody on the way reads this one";
/// The directory of a node, for the part that is to be that node.
const NODE: &str = "LAB_NODE";
const DAY: Duration = Duration::from_secs(86_400);
const HELLO: u64 = 1;
const LARGE: usize = 2_000_000;

/// A session without a rendez-vous node, whose nodes are certified at once.
struct Session {
    scratch: Scratch,
    authority: Authority,
}

impl Session {
    fn new() -> Session {
        // Sandboxes have process numbers of their own, and files in common.
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let scratch = Scratch(std::env::temp_dir().join(format!("gridnet-lab-sealed-{now}")));
        std::fs::create_dir_all(&scratch.0).unwrap();
        let session = NodeId::new([9; 16]).unwrap();
        Session { scratch, authority: Authority::create(session, Moment::now()).unwrap() }
    }

    fn dir(&self, name: &str) -> String {
        self.scratch.0.join(name).to_str().unwrap().to_owned()
    }

    fn join(&self, name: &str) -> NodeId {
        keep_certified(Path::new(&self.dir(name)), &self.authority, Moment::now(), DAY).unwrap()
    }

    fn party(&self, name: &str) -> Party {
        in_session(&self.scratch, &self.dir(name))
    }
}

fn in_session(scratch: &Scratch, dir: &str) -> Party {
    let options = [("GRIDNET_RAILS", "tcp"), ("GRIDNET_SESSION", dir), ("GRIDNET_PEER_TIMEOUT", "2s")];
    Party::open(&scratch.0.join("run"), None, ThreadLevel::Serialized, &options)
}

/// Everything that passes a host.
pub struct Capture {
    stop: Sender<()>,
    thread: JoinHandle<Vec<u8>>,
}

impl Capture {
    pub fn start(host: Host<'_>) -> Capture {
        let open =
            || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
        let socket = host.run(open).unwrap().unwrap();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut passed, mut frame) = (Vec::new(), vec![0; 70_000]);
            loop {
                // Once more after the end: what has passed by then is there.
                let is_last = stopped.try_recv() != Err(TryRecvError::Empty);
                while let Ok(len) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    passed.extend_from_slice(&frame[..len]);
                }
                if is_last {
                    return passed;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Capture { stop, thread }
    }

    pub fn stop(self) -> Vec<u8> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

pub fn shows(passed: &[u8], word: &[u8]) -> bool {
    passed.windows(word.len()).any(|at| at == word)
}

/// Says the nonce in a small message and all over a large one, and hears both back.
fn talk(party: &Party, to: PeerId) {
    for len in [NONCE.len(), LARGE] {
        let out: Vec<u8> = NONCE.iter().copied().cycle().take(len).collect();
        let (out, back) = (Vec::leak(out) as &[u8], Buffer::new(len));
        party.receive(from_any(HELLO + 1), back).unwrap();
        party.send(to, out, HELLO, false).unwrap();
        assert_eq!(party.wait_received().length, len as u64);
        assert!(back.to_vec() == out);
    }
}

/// What becomes of a call of this fabric.
fn call(party: &Party, address: &Address) -> Result<(), Refusal> {
    // It may be refused at once.
    let to = party.enter().engine.open(address)?;
    let sent = party.send(to, b"let me in", HELLO + 5, true);
    let done = sent.and_then(|_| party.wait(PATIENCE));
    match party.enter().engine.peer(to).unwrap().2.clone() {
        PeerState::Gone(why) => Err(why),
        state => panic!("{done:?} {state:?}"),
    }
}

#[test]
#[ignore = "a part that the tests start"]
fn echoes() {
    let Ok(dir) = std::env::var(NODE) else { return };
    let scratch = Scratch::new();
    let party = if dir.is_empty() { open(&scratch, &[]) } else { in_session(&scratch, &dir) };
    say_address(&party);
    for round in 0.. {
        let buffer = Buffer::new(LARGE);
        party.receive(from_any(HELLO), buffer).unwrap();
        let end = Instant::now() + PATIENCE;
        let received = loop {
            match party.wait(Duration::from_millis(50)) {
                Ok(done) if done.context == crate::common::RECEIVE => break done,
                other => assert!(Instant::now() < end, "{other:?}"),
            }
            println!("refused {} end", party.enter().refusals().unwrap_or(0));
        };
        let back = buffer.first(received.length as usize);
        party.send_buffer(PeerId::new(received.source), back, HELLO + 1).unwrap();
        println!("echoed {round} end");
    }
}

fn start(host: Host<'_>, dir: &str) -> Running {
    host.test("sealed::echoes").unwrap().env(NODE, dir).spawn().unwrap()
}

lab_test! {
    fn nobody_on_the_way_reads_what_members_say() {
        let Some(lab) = two(100) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let session = Session::new();
        for name in ["a", "b"] {
            session.join(name);
        }
        // With a session, and without any, so that it is seen that the tap works.
        for dir in [session.dir("b"), String::new()] {
            let echo = start(b, &dir);
            let capture = Capture::start(b);
            let address = address_of(&echo);
            a.run(|| {
                let _said = Said(&echo);
                let scratch = Scratch::new();
                let party = if dir.is_empty() { open(&scratch, &[]) } else { session.party("a") };
                let to = party.connect(&address);
                talk(&party, to);
                talk(&party, to);
                let why = party.enter().explain(to).unwrap();
                assert!(why.contains(if dir.is_empty() { ", plain, " } else { ", TLS 1.3, " }), "{why}");
            })
            .unwrap();
            let passed = capture.stop();
            assert!(passed.len() > LARGE / 10, "the tap has missed most: {}", passed.len());
            assert_eq!(shows(&passed, NONCE), dir.is_empty());
            // Nor who they are.
            assert_eq!(shows(&passed, address.node.bytes()), dir.is_empty());
        }
    }

    fn intruders_are_refused_and_noted() {
        let Some(lab) = two(100) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let (session, other) = (Session::new(), Session::new());
        let [_, _, revoked] = ["a", "b", "late"].map(|name| session.join(name));
        other.join("stranger");
        let until = Moment::now().after(DAY);
        keep_revoked(Path::new(&session.dir("b")), &BTreeMap::from([(revoked, until)])).unwrap();
        let echo = start(b, &session.dir("b"));
        let address = address_of(&echo);
        a.run(|| {
            let _said = Said(&echo);
            let party = session.party("a");
            let to = party.connect(&address);
            talk(&party, to);
            let plain = Scratch::new();
            for (who, party, says) in [
                ("of no session", open(&plain, &[("GRIDNET_PEER_TIMEOUT", "2s")]), "GRIDNET_SESSION"),
                // It finds out first that it is not where it belongs.
                ("of another session", other.party("stranger"), "invalid peer certificate"),
                ("revoked", session.party("late"), "CertificateRevoked"),
            ] {
                let why = call(&party, &address).unwrap_err();
                assert!(why.error == Error::Permission && why.reason.contains(says), "{who}: {why:?}");
            }
            talk(&party, to);
        })
        .unwrap();
        let end = Instant::now() + PATIENCE;
        let expected = ["gridnet::audit", "rail tcp refused ", "GRIDNET_SESSION", "Revoked"];
        let is_counted = |line: &str| line.starts_with("refused ") && line != "refused 0 end";
        loop {
            let [out, log] = echo.said();
            if expected.iter().all(|says| log.contains(says)) && out.lines().any(is_counted) {
                break;
            }
            assert!(Instant::now() < end, "{out} {log}");
            std::thread::yield_now();
        }
    }
}
