//! Fabrics whose only rail is tcp, over the loopback interface.

mod common;

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::process::{command, role, start, start_by};
use common::{echo, exactly, from_any, within, Buffer, Party, Scratch, PATIENCE};
use gridnet::core::error::Error;
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::rail::PeerId;
use gridnet::core::testing::random::Random;
use gridnet::{AnyRail, ThreadLevel};

const LO: (&str, &str) = ("GRIDNET_NET_INTERFACES", "127.0.0.1");
const INSECURE: (&str, &str) = ("GRIDNET_NET_INSECURE", "1");
const TCP: (&str, &str) = ("GRIDNET_RAILS", "tcp");

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Some((role, dir)) = role() else { return };
    let level = if role == "alone" { ThreadLevel::Single } else { ThreadLevel::Serialized };
    let party = Party::open(&dir, Some("echo"), level, &[TCP, LO, INSECURE]);
    if role == "alone" {
        let engine = party.enter().engine.rails().iter().find_map(|rail| match rail {
            AnyRail::Tcp(tcp) => Some(tcp.engine()),
            _ => None,
        });
        assert_eq!(engine, Some("epoll"), "the filter has no effect");
    }
    println!("ready");
    echo(&party, ECHOES, LARGE);
}

const ECHOES: usize = 40;
const LARGE: usize = 3_000_000;

#[test]
fn two_processes_talk_and_find_each_other_by_name() {
    for level in [ThreadLevel::Single, ThreadLevel::Serialized, ThreadLevel::Multiple] {
        within(4 * PATIENCE, move || {
            let scratch = Scratch::new();
            let _peer = start("echo", &scratch.0);
            talk(&scratch, level);
        });
    }
}

/// Finds the child by its name, and hears from it what it has said.
fn talk(scratch: &Scratch, level: ThreadLevel) {
    let party = Party::open(&scratch.0, None, level, &[TCP, LO, INSECURE]);
    let address = party.shared.lookup("echo", Some(PATIENCE)).unwrap();
    assert_ne!(address.network.iter().count(), 0);
    let to = party.connect(&address);
    for i in 0..ECHOES {
        let (out, back) = (Buffer::new(LARGE), Buffer::new(LARGE));
        let len = [0, 8, 5000, 100_000, LARGE][i % 5];
        out.fill(i as u8);
        party.receive(exactly(to, 2), back).unwrap();
        party.send_buffer(to, out.first(len), 1).unwrap();
        assert_eq!(party.wait_received().length, len as u64);
        assert!(back.first(len).to_vec().iter().all(|byte| *byte == i as u8));
    }
    let why = party.enter().explain(to).unwrap();
    assert!(why.contains("rail tcp in use"), "{why}");
    party.send(to, b"!", 3, false).unwrap();
}

/// A container may have a system that does not know io_uring: a process in it says so in one line, and talks.
#[test]
fn a_process_without_io_uring_says_so_once_and_talks() {
    within(4 * PATIENCE, || {
        let scratch = Scratch::new();
        let mut command = command("alone", &scratch.0);
        command.stderr(Stdio::piped()).env("NO_COLOR", "1").env_remove("GRIDNET_LOG");
        // SAFETY: between fork and exec it makes system calls only.
        unsafe { command.pre_exec(|| answer(libc::SYS_io_uring_setup, libc::ENOSYS)) };
        let mut peer = start_by(command);
        talk(&scratch, ThreadLevel::Serialized);
        let said = peer.errors();
        let of_rail: Vec<&str> = said.lines().filter(|line| line.contains("io_uring")).collect();
        let [line] = of_rail[..] else { panic!("not one line: {said}") };
        assert!(
            line.contains("WARN") && line.contains("tcp uses epoll") && line.contains("os error 38"),
            "{line}"
        );
    });
}

/// Has the system answer a call of this thread, and of what it becomes, with an error from now on.
fn answer(call: libc::c_long, error: i32) -> std::io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(IS, 0, 1, call as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its steps live until the calls return; the kernel copies them.
    let status = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    if status == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Sizes of messages that leave at once.
const SHORT: [usize; 7] = [0, 8, 100, 3000, 8192, 1, 700];
const NOISE: usize = 1 << 20;

/// Opens two fabrics, of which the first knows the second, and noise to send.
fn meet(scratch: &Scratch) -> (Party, PeerId, Party, &'static [u8]) {
    let open = || Party::open(&scratch.0, None, ThreadLevel::Serialized, &[TCP, LO, INSECURE]);
    let (a, b) = (open(), open());
    let to_b = a.connect(&b.address());
    let listening = std::thread::spawn(move || {
        b.receive(from_any(0), Buffer::new(0)).unwrap();
        b.wait_received();
        b
    });
    a.send(to_b, b"", 0, true).unwrap();
    assert_eq!(a.wait(PATIENCE).unwrap().status, 0);
    let noise = Random::new(5).bytes(NOISE + SHORT[4]).leak();
    (a, to_b, listening.join().unwrap(), noise)
}

fn numbered(noise: &'static [u8], number: u64) -> &'static [u8] {
    &noise[number as usize * 4099 % NOISE..][..SHORT[number as usize % SHORT.len()]]
}

/// Takes so many messages in order, each of which has to be right.
fn take_numbered(party: &Party, noise: &'static [u8], count: u64) {
    let buffer = Buffer::new(SHORT[4]);
    for number in 1..=count {
        let anything = Pattern { source: Source::Any, tag: 0, ignore: u64::MAX };
        party.receive(anything, buffer).unwrap();
        let received =
            party.wait(PATIENCE).unwrap_or_else(|e| panic!("{number} of {count} does not come: {e:?}"));
        let expected = numbered(noise, number);
        assert_eq!((received.status, received.tag, received.length), (0, number, expected.len() as u64));
        assert!(buffer.first(expected.len()).to_vec() == expected, "message {number} differs");
    }
}

/// What was sent arrives, though the peer looks only when the sender has gone.
#[test]
fn what_was_sent_before_closing_arrives_afterwards() {
    within(4 * PATIENCE, || {
        let scratch = Scratch::new();
        let (a, to_b, b, noise) = meet(&scratch);
        // Less than the system of the peer takes for it.
        let count = 14;
        for number in 1..=count {
            assert!(!a.send(to_b, numbered(noise, number), number, false).unwrap(), "message {number} waits");
        }
        assert_eq!(b.enter().engine.counters().unexpected_now, 0, "nobody has looked");
        drop(a);
        take_numbered(&b, noise, count);
    });
}

/// As much as leaves at once, most of which is still here when the fabric closes; the peer takes it meanwhile.
#[test]
fn closing_waits_until_what_was_sent_has_gone() {
    within(8 * PATIENCE, || {
        let mut in_time = 0;
        for _ in 0..5 {
            let scratch = Scratch::new();
            let (a, to_b, b, noise) = meet(&scratch);
            let mut sent = 0;
            while !a.send(to_b, numbered(noise, sent + 1), sent + 1, false).unwrap() {
                sent += 1;
            }
            assert!(sent > 100, "{sent} messages");
            let (closing, closed) = channel();
            let taking = std::thread::spawn(move || {
                closed.recv().unwrap();
                take_numbered(&b, noise, sent);
            });
            closing.send(()).unwrap();
            let start = Instant::now();
            drop(a);
            // On a machine that is too busy the fabric has given up, as it may.
            let is_in_time = start.elapsed() < Duration::from_secs(1);
            let taken = taking.join();
            if is_in_time {
                assert!(taken.is_ok(), "not all of {sent} messages have come");
                in_time += 1;
            }
        }
        assert!(in_time > 0, "no fabric closes in time");
    });
}

#[test]
fn tcp_opens_with_a_key_or_on_demand_only() {
    let scratch = Scratch::new();
    let refused = |options: &[(&str, &str)]| {
        Party::try_open(&scratch.0, None, ThreadLevel::Single, options).map(drop).unwrap_err()
    };
    let without = refused(&[TCP, LO]);
    assert!(without.error == Error::Config && without.reason.contains("GRIDNET_NET_KEY_FILE"), "{without:?}");
    let (good, open_to_all) = (key_file(&scratch, "good", 0o600), key_file(&scratch, "open", 0o644));
    let key = |path: &PathBuf| ("GRIDNET_NET_KEY_FILE".to_owned(), path.to_str().unwrap().to_owned());
    let (name, value) = key(&open_to_all);
    assert_eq!(refused(&[TCP, LO, (&name, &value)]).error, Error::Permission);
    let (name, value) = key(&good);
    assert_eq!(refused(&[TCP, LO, INSECURE, (&name, &value)]).error, Error::Config);
    drop(Party::open(&scratch.0, None, ThreadLevel::Single, &[TCP, LO, (&name, &value)]));
    // Nobody has asked for it by name: the others do.
    let party = Party::open(&scratch.0, None, ThreadLevel::Single, &[]);
    assert!(party.address().network.is_empty());
    let own = party.address();
    let me = party.connect(&own);
    let why = party.enter().explain(me).unwrap();
    assert!(why.contains("rail tcp not used: it needs GRIDNET_SESSION, or GRIDNET_NET_KEY_FILE"), "{why}");
}

#[test]
fn nothing_listens_for_everybody() {
    let scratch = Scratch::new();
    let party = Party::open(&scratch.0, None, ThreadLevel::Single, &[TCP, LO, INSECURE]);
    let port = party.address().network.iter().next().expect("it listens").port();
    let mut found = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        // Local address and port in hexadecimal digits, the other side's, state: 0A is LISTEN.
        for line in text.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")) {
            let (ip, at) = line.split_whitespace().nth(1).and_then(|local| local.split_once(':')).unwrap();
            if u16::from_str_radix(at, 16) == Ok(port) {
                found += 1;
                assert!(ip.bytes().any(|digit| digit != b'0'), "a listener on every address: {line}");
            }
        }
    }
    assert_eq!(found, 1);
}

#[test]
fn ports_are_those_that_are_allowed() {
    let scratch = Scratch::new();
    // Two that are free at this moment, most probably in an hour, too; a test of one port would be a matter of luck.
    let options = |ports: &'static str| [TCP, LO, INSECURE, ("GRIDNET_NET_PORTS", ports)];
    let (a, b) = (
        Party::open(&scratch.0, None, ThreadLevel::Single, &options("27100-27899")),
        Party::open(&scratch.0, None, ThreadLevel::Single, &options("27100-27899")),
    );
    let ports = [&a, &b].map(|party| party.address().network.iter().next().unwrap().port());
    assert!(ports[0] != ports[1] && ports.iter().all(|port| (27100..=27899).contains(port)), "{ports:?}");
    let to_b = a.connect(&b.address());
    a.send(to_b, b"x", 1, false).unwrap();
    b.receive(from_any(1), Buffer::new(1)).unwrap();
    let start = std::time::Instant::now();
    while b.enter().take(b.cq, |_| true) == 0 {
        a.enter().maintain();
        a.enter().poll_round();
        b.enter().maintain();
        assert!(start.elapsed() < PATIENCE);
    }
    let callers = callers_of(ports[1]);
    assert!(!callers.is_empty(), "nobody has called");
    assert!(callers.iter().all(|port| (27100..=27899).contains(port)), "called from {callers:?}");
}

/// Ports of those whose connections lead to this port of the host.
fn callers_of(port: u16) -> Vec<u16> {
    let text = std::fs::read_to_string("/proc/self/net/tcp").expect("there is procfs");
    let number = |end: &str| u16::from_str_radix(end.split_once(':').unwrap().1, 16).unwrap();
    // Local address and port in hexadecimal digits, the other side's, state: 01 is ESTABLISHED.
    let fields = text.lines().map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>());
    let callers = fields.filter_map(|fields| match fields[..] {
        [local, remote, "01"] if number(local) == port => Some(number(remote)),
        _ => None,
    });
    callers.collect()
}

fn key_file(scratch: &Scratch, name: &str, mode: u32) -> PathBuf {
    std::fs::create_dir_all(&scratch.0).unwrap();
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = scratch.0.join(name);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &[9; 32]).unwrap();
    path
}
