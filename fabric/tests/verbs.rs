//! Fabrics whose only rail is verbs, with software devices on the loopback interface.

mod common;

use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use common::process::{command, descriptors, role, start_by, Peer};
use common::{echo, exactly, from_any, within, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::rail::PeerId;
use gridnet::ThreadLevel;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

const LO: (&str, &str) = ("GRIDNET_NET_INTERFACES", "127.0.0.1");
const INSECURE: (&str, &str) = ("GRIDNET_NET_INSECURE", "1");
const VERBS: (&str, &str) = ("GRIDNET_RAILS", "verbs,self");
const WIRE: &str = "GRIDNET_VERBS_WIRE";
/// Less than the slots of a connection take.
const CONNECTION_PAGES: usize = 512;
const ECHOES: usize = 20;
const LARGE: usize = 1_000_000;

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((role, dir)) = role() else { return };
    let wire = std::env::var(WIRE).unwrap_or_else(|_| "udp".into());
    let options = [VERBS, LO, INSECURE, (WIRE, wire.as_str())];
    let party = Party::open(&dir, Some("echo"), ThreadLevel::Serialized, &options);
    println!("ready {}", std::process::id());
    match role.as_str() {
        "echo" => echo(&party, ECHOES, LARGE),
        // Hears the first word, then is killed or stopped in this.
        _ => echo(&party, usize::MAX, LARGE),
    }
}

fn open(scratch: &Scratch, options: &[(&str, &str)]) -> Party {
    let all = [&[VERBS, LO, INSECURE], options].concat();
    Party::open(&scratch.0, None, ThreadLevel::Serialized, &all)
}

/// The child, once its fabric has a name.
fn find(party: &Party) -> PeerId {
    let address = party.shared.lookup("echo", Some(PATIENCE)).unwrap();
    party.connect(&address)
}

/// Sends bytes of this value and gets them back.
fn ask(party: &Party, to: PeerId, len: usize, byte: u8) {
    let (out, back) = (Buffer::new(len), Buffer::new(len));
    out.fill(byte);
    party.receive(exactly(to, 2), back).unwrap();
    party.send_buffer(to, out, 1).unwrap();
    assert_eq!(party.wait_received().length, len as u64);
    assert!(back.to_vec().iter().all(|found| *found == byte));
}

#[test]
fn two_processes_talk_and_find_each_other_by_name() {
    talk("udp", "link verbs from 127.0.0.1:");
}

#[test]
fn two_processes_talk_through_shared_memory() {
    talk("shm", "link verbs from [100::");
}

fn talk(wire: &'static str, way: &'static str) {
    within(4 * PATIENCE, move || {
        let scratch = Scratch::new();
        let _peer = start_over(wire, "echo", &scratch);
        let party = open(&scratch, &[(WIRE, wire)]);
        let to = find(&party);
        for i in 0..ECHOES {
            ask(&party, to, [0, 8, 5000, 100_000, LARGE][i % 5], i as u8);
        }
        let why = party.enter().explain(to).unwrap();
        assert!(why.contains("rail verbs in use"), "{why}");
        assert!(why.contains(way) && why.contains("neither sealed nor signed"), "{why}");
        party.send(to, b"!", 3, false).unwrap();
    });
}

/// Also one that says nothing: what is waited for ends, and nothing of it stays here.
#[test]
fn killed_processes_are_noticed_and_leave_nothing() {
    leave_nothing("udp");
}

#[test]
fn killed_processes_leave_nothing_in_shared_memory() {
    leave_nothing("shm");
}

fn leave_nothing(wire: &'static str) {
    within(8 * PATIENCE, move || {
        let mut before = None;
        let scratch = Scratch::new();
        let party = open(&scratch, &[(WIRE, wire)]);
        for _ in 0..4 {
            let mut peer = start_over(wire, "victim", &scratch);
            let to = find(&party);
            for len in [100, LARGE] {
                ask(&party, to, len, 7);
            }
            party.receive(exactly(to, 9), Buffer::new(8)).unwrap();
            peer.kill();
            assert_eq!(party.wait(PATIENCE).unwrap().status, Error::PeerGone.code());
            drop(peer);
            // The first one leaves what the process has opened for good.
            let found = (descriptors(), pages());
            let (files, most) = *before.get_or_insert((found.0, found.1 + CONNECTION_PAGES));
            assert!(found.0 <= files, "{} descriptors, {files} before", found.0);
            assert!(found.1 < most, "{} pages are mapped, {most} would be one connection more", found.1);
        }
    });
}

/// Pages that this process has mapped.
fn pages() -> usize {
    let said = std::fs::read_to_string("/proc/self/statm").expect("there is procfs");
    said.split(' ').next().and_then(|word| word.parse().ok()).expect("a number of pages")
}

/// Starts a child whose device has this wire.
fn start_over(wire: &str, role: &str, scratch: &Scratch) -> Peer {
    let mut command = command(role, &scratch.0);
    command.env(WIRE, wire);
    start_by(command)
}

/// Its device does not answer; when it goes on, so does the conversation.
#[test]
fn a_stopped_process_is_waited_for() {
    within(8 * PATIENCE, || {
        let scratch = Scratch::new();
        let (peer, pid) = start_known("victim", &scratch);
        let party = open(&scratch, &[("GRIDNET_PEER_TIMEOUT", "1s")]);
        let to = find(&party);
        ask(&party, to, 100, 7);
        stop(pid);
        let back = Buffer::new(LARGE);
        let out = Buffer::new(LARGE);
        out.fill(8);
        party.receive(exactly(to, 2), back).unwrap();
        party.send_buffer(to, out, 1).unwrap();
        let end = Instant::now() + PATIENCE;
        while party.enter().engine.breaks(to).0 == 0 && !party.enter().explain(to).unwrap().contains("broken")
        {
            assert!(Instant::now() < end, "the link does not break: {}", party.enter().explain(to).unwrap());
            assert_eq!(party.wait(Duration::from_millis(20)).unwrap_err(), Error::Timeout);
        }
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(party.wait_received().length, LARGE as u64);
        assert!(back.to_vec().iter().all(|found| *found == 8));
        assert!(party.enter().engine.breaks(to).0 > 0);
        drop(peer);
    });
}

/// Stops a process; returns when it has stopped, and answers nothing any more.
fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
            return;
        }
        assert!(Instant::now() < end, "it does not stop: {stat}");
        std::thread::yield_now();
    }
}

/// Starts a child; with its number.
fn start_known(role: &str, scratch: &Scratch) -> (Peer, Pid) {
    let peer = start_by(command(role, &scratch.0));
    let pid = Pid::from_raw(peer.pid() as i32);
    (peer, pid)
}

#[test]
fn it_has_to_be_allowed() {
    let scratch = Scratch::new();
    let try_open = |options: &[(&str, &str)]| {
        let opened = Party::try_open(&scratch.0, None, ThreadLevel::Serialized, options);
        opened.map(drop).map_err(|refusal| refusal.reason)
    };
    let why = try_open(&[VERBS, LO]).unwrap_err();
    assert!(why.contains("GRIDNET_NET_KEY_FILE"), "{why}");
    let why = try_open(&[("GRIDNET_RAILS", "verbs,tcp"), LO, INSECURE]).unwrap_err();
    assert!(why.contains("one of the two"), "{why}");
    assert_eq!(try_open(&[VERBS, LO, INSECURE]), Ok(()));
}

#[test]
fn who_has_another_key_gets_no_link() {
    within(4 * PATIENCE, || {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).unwrap();
        let key = |name: &str, byte: u8| {
            let path = scratch.0.join(name);
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, &[byte; 40]).unwrap();
            path.display().to_string()
        };
        let (one, other) = (key("one", 1), key("other", 2));
        let with = |key: &str| {
            let options = [VERBS, LO, ("GRIDNET_NET_KEY_FILE", key)];
            Party::open(&scratch.0, None, ThreadLevel::Serialized, &options)
        };
        let (a, same, stranger) = (with(&one), with(&one), with(&other));
        for (b, is_right) in [(same, true), (stranger, false)] {
            let address = b.address();
            let serving = std::thread::spawn(move || {
                b.receive(from_any(1), Buffer::new(8)).unwrap();
                b.wait(if is_right { PATIENCE } else { Duration::from_millis(300) })
                    .map(|completion| completion.status)
            });
            let to = a.connect(&address);
            assert_eq!(a.send(to, b"hello", 1, true), Ok(true));
            let expected = if is_right { 0 } else { Error::Permission.code() };
            assert_eq!(a.wait(PATIENCE).unwrap().status, expected);
            assert_eq!(serving.join().unwrap(), if is_right { Ok(0) } else { Err(Error::Timeout) });
        }
    });
}
