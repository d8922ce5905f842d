//! Peers of other users. Needs root, which can start processes as anybody.

mod common;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::sync::Mutex;

use common::process::{descriptors, mappings};
use common::{exactly, from_any, Buffer, Party, Scratch, PATIENCE, RECEIVE, SEND};
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{RemoteArgs, SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::loan::{Lent, LentSlot};
use gridnet::core::matching::Key;
use gridnet::core::mem::{Iov, MEMORY_HOST, NUMA_UNKNOWN};
use gridnet::core::rail::PeerId;
use gridnet::core::region::{Access, Atomic, AtomicOp, Width};
use gridnet::core::testing::loans::read;
use gridnet::core::wire::{Address, ADDRESS_BYTES};
use gridnet::ThreadLevel;
use nix::unistd::geteuid;

/// Nobody, and a user without a name.
const USERS: [u32; 2] = [65534, 12345];
/// Around every border between the ways that messages take.
const SIZES: [usize; 14] = [0, 1, 47, 48, 49, 256, 1024, 1025, 4096, 8192, 8193, 65_537, 300_000, 3_000_000];
const LARGEST: usize = 3_000_000;
const SEGMENT: u64 = 64 << 20;
const HEAP: u64 = 48 << 20;
const REGION: usize = 200_000;
const VARIABLE: &str = "GRIDNET_SHM_ALLOW_UIDS";

const HELLO: u64 = 1;
const THERE: u64 = 2;
const BACK: u64 = 3;
const KEYS: u64 = 4;
const DONE: u64 = 5;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// True where these tests can run.
fn can_change_user() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        // The harness keeps what the macros print to itself.
        let why = "only root can start processes as another user";
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: peers of other users: {why}");
    }
    is_root
}

#[test]
#[ignore = "a role that the other tests start"]
fn child() {
    let Ok(role) = std::env::var("TEST_ROLE") else { return };
    let party = open(std::env::var("TEST_DIR").unwrap().as_ref(), &std::env::var("TEST_ALLOW").unwrap(), &[]);
    let peer = || std::env::var("TEST_PEER").unwrap();
    match role.as_str() {
        "answer" => answer(&party, &peer()),
        "stream" => stream(&party, &peer()),
        "call" => call(&party, &peer()),
        "listen" => {
            println!("ready {}", hex(&party.address()));
            while std::io::stdin().lines().next().is_some() {}
        }
        other => panic!("unknown role {other}"),
    }
}

#[test]
fn everything_goes_by_ways_that_share_nothing_else() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_change_user() {
        return;
    }
    for (user, mode) in USERS.into_iter().zip(["adaptive", "block"]) {
        let scratch = Scratch::new();
        let party = open(&scratch.0, &user.to_string(), &[("GRIDNET_WAIT_MODE", mode)]);
        party.receive(from_any(HELLO), Buffer::new(8)).unwrap();
        let child = Foreigner::start("answer", user, "0", Some(&party.address()));
        let peer = PeerId::new(party.wait_received().source);
        exchange_messages(&party, peer);
        exchange_loans(&party, peer);
        let allocated =
            party.enter().engine.allocate(REGION, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN).unwrap();
        offer_regions(&party, peer, allocated);
        check_separation(&child);
    }
}

#[test]
fn who_is_not_allowed_by_both_is_refused_by_name() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_change_user() {
        return;
    }
    let [user, other] = USERS;
    let scratch = Scratch::new();
    let (allows, allows_other) =
        (open(&scratch.0, &user.to_string(), &[]), open(&scratch.0, &other.to_string(), &[]));
    let allows_none = open(&scratch.0, "", &[]);
    let names_both = |reason: &str, user: u32| {
        let parts = [VARIABLE, "user 0", &format!("user {user}")];
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    };
    // The caller does not allow the called, whoever that allows.
    for party in [&allows, &allows_none] {
        let child = Foreigner::start("call", user, "", Some(&party.address()));
        let (status, reason) = child.outcome(party);
        assert_eq!(status, Error::Permission.code(), "{reason}");
        names_both(&reason, user);
    }
    // The called does not allow the caller.
    for party in [&allows_other, &allows_none] {
        let child = Foreigner::start("call", user, "0", Some(&party.address()));
        let (status, reason) = child.outcome(party);
        assert_eq!(status, Error::Permission.code(), "{reason}");
        names_both(&reason, user);
    }
    // The same from this side.
    for (allow, party, error) in [
        ("", &allows, Error::Permission),
        ("0", &allows_none, Error::Permission),
        ("0", &allows_other, Error::Permission),
    ] {
        let child = Foreigner::start("listen", user, allow, None);
        let refusal = party.enter().engine.open(&child.address()).unwrap_err();
        assert_eq!(refusal.error, error, "{refusal:?}");
        names_both(&refusal.reason, user);
    }
    // Nobody is mistaken for somebody who does not listen.
    let gone = Foreigner::start("listen", user, "0", None).address();
    assert_eq!(allows.enter().engine.open(&gone).unwrap_err().error, Error::Unreachable);
}

#[test]
fn a_survivor_of_a_killed_foreigner_keeps_nothing_of_it() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_change_user() {
        return;
    }
    let user = USERS[1];
    let scratch = Scratch::new();
    let party = open(&scratch.0, &user.to_string(), &[]);
    let baseline = (descriptors(), mappings());
    let large = Buffer::new(400_000);
    for round in 0..10 {
        party.receive(from_any(HELLO), Buffer::new(8)).unwrap();
        let mut child = Foreigner::start("stream", user, "0", Some(&party.address()));
        let peer = PeerId::new(party.wait_received().source);
        // One that ends with the peer only, and a stream that is cut somewhere.
        party.receive(exactly(peer, 99), Buffer::new(8)).unwrap();
        let mut pending = 1;
        for turn in 0.. {
            if turn == round * 3 {
                child.kill();
            }
            for result in [
                party.receive(exactly(peer, THERE), large).map(|_| true),
                party.send_buffer(peer, large, BACK),
            ] {
                match result {
                    Ok(under_way) => pending += u32::from(under_way),
                    Err(error) => assert_eq!(error, Error::PeerGone),
                }
            }
            if turn >= round * 3 || pending > 8 {
                let done = party.wait(PATIENCE).expect("operations with a killed peer end");
                pending -= 1;
                assert!(done.status == 0 || done.status == Error::PeerGone.code(), "{done:?}");
            }
            if pending == 0 {
                break;
            }
        }
        drop(child);
        assert_eq!((descriptors(), mappings()), baseline, "after round {round}");
    }
}

fn open(dir: &Path, allow: &str, more: &[(&str, &str)]) -> Party {
    let mut options = vec![(VARIABLE, allow), ("GRIDNET_SHM_HEAP_SIZE", "48m")];
    options.extend(more);
    Party::open(dir, None, ThreadLevel::Single, &options)
}

fn exchange_messages(party: &Party, peer: PeerId) {
    let (out, back) = (Buffer::new(LARGEST), Buffer::new(LARGEST));
    for (i, len) in SIZES.into_iter().enumerate() {
        out.fill(i as u8 + 1);
        back.fill(0);
        party.receive(exactly(peer, BACK), back.first(len)).unwrap();
        party.send_buffer(peer, out.first(len), THERE).unwrap();
        assert_eq!(party.wait_received().length, len as u64);
        assert!(back.first(len).to_vec().iter().all(|byte| *byte == i as u8 + 1), "{len} bytes");
    }
}

fn exchange_loans(party: &Party, peer: PeerId) {
    for (i, len) in SIZES.into_iter().enumerate() {
        send_loan(party, peer, len, i as u8 + 100, THERE);
        let lent = receive_loan(party, peer, BACK);
        assert_eq!(read(&lent), vec![i as u8 + 100; len]);
        party.enter().engine.give_back(lent.loan).unwrap();
    }
}

fn send_loan(party: &Party, peer: PeerId, len: usize, byte: u8, tag: u64) {
    let args = SendArgs {
        cq: party.cq,
        owner: 0,
        context: SEND,
        tag,
        immediate: None,
        sync: false,
        always_complete: false,
    };
    let mut guard = party.enter();
    let (loan, base) = guard.engine.take_loan(len).unwrap();
    // SAFETY: the loan has as many bytes, and is ours alone.
    unsafe { std::ptr::write_bytes(base.as_ptr(), byte, len) };
    guard.engine.send_loan(peer, loan, len, false, &args).unwrap();
}

fn receive_loan(party: &Party, peer: PeerId, tag: u64) -> Lent {
    let place = NonNull::from(Box::leak(Box::new(Lent::NONE)));
    // SAFETY: the place is never freed, and used by this receive alone.
    let slot = unsafe { LentSlot::new(place) };
    party.enter().engine.receive_loan(party.cq, &exactly(peer, tag), slot, RECEIVE).unwrap();
    party.wait_received();
    // SAFETY: as above, and the receive has completed.
    unsafe { place.read() }
}

/// Lets the peer work on an allocated region and a registered one, and looks at what it did.
fn offer_regions(party: &Party, peer: PeerId, (allocated, base): (Key, *mut u8)) {
    let own: &'static mut [u64] = Box::leak(vec![0u64; REGION / 8].into_boxed_slice());
    let own = own.as_mut_ptr().cast::<u8>();
    let registered = party.enter().engine.register(own, REGION, Access::ALL, MEMORY_HOST).unwrap();
    for (key, base) in [(allocated, base), (registered, own)] {
        let bytes: &'static [u8] = Box::leak(Box::new(party.enter().engine.region_key(key).unwrap()));
        party.receive(exactly(peer, DONE), Buffer::new(8)).unwrap();
        party.send(peer, bytes, KEYS, false).unwrap();
        party.wait_received();
        // SAFETY: as long as said; the peer has finished.
        let seen = unsafe { std::slice::from_raw_parts(base, REGION) };
        assert_eq!(seen[..8], 10u64.to_ne_bytes());
        assert!(seen[8..].iter().all(|byte| *byte == 77));
        party.enter().engine.close_region(key).unwrap();
    }
}

/// Neither process has descriptor or mapping of what the other shares with its own user, and they have each other's pair.
fn check_separation(child: &Foreigner) {
    let (ours, theirs) = (Memory::of(std::process::id()), Memory::of(child.child.id()));
    assert!(!ours.own.is_empty() && !theirs.own.is_empty(), "{ours:?} {theirs:?}");
    assert!(ours.own.is_disjoint(&theirs.all), "{ours:?} {theirs:?}");
    assert!(theirs.own.is_disjoint(&ours.all), "{ours:?} {theirs:?}");
    assert_eq!(ours.all.intersection(&theirs.all).count(), 2, "{ours:?} {theirs:?}");
}

/// Memory files of a process, by inode.
#[derive(Debug)]
struct Memory {
    /// Whatever is open or mapped,
    all: HashSet<u64>,
    /// and of that segments and heaps, which have their sizes.
    own: HashSet<u64>,
}

impl Memory {
    fn of(process: u32) -> Memory {
        let (mut all, mut own) = (HashSet::new(), HashSet::new());
        for entry in std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten() {
            let is_memory =
                std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("memfd:"));
            if let (true, Ok(file)) = (is_memory, std::fs::metadata(entry.path())) {
                all.insert(file.ino());
                if file.len() == SEGMENT || file.len() == HEAP {
                    own.insert(file.ino());
                }
            }
        }
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        for line in maps.lines().filter(|line| line.contains("memfd:")) {
            all.insert(line.split_whitespace().nth(4).unwrap().parse().unwrap());
        }
        Memory { all, own }
    }
}

/// A process of another user, which does not outlive its test.
struct Foreigner {
    child: Child,
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
    ready: String,
    _scratch: Scratch,
}

impl Foreigner {
    /// Starts this test binary again, as another user; returns when it says that it is ready.
    fn start(role: &str, user: u32, allow: &str, peer: Option<&Address>) -> Foreigner {
        let scratch = Scratch::new();
        std::fs::create_dir(&scratch.0).unwrap();
        // Where the binary is, others may not go.
        let binary = scratch.0.join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        let dir = scratch.0.join("run");
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(user), Some(user)).unwrap();
        let mut child = Command::new(binary)
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env("TEST_ROLE", role)
            .env("TEST_DIR", &dir)
            .env("TEST_ALLOW", allow)
            .env("TEST_PEER", peer.map(hex).unwrap_or_default())
            .current_dir("/")
            .uid(user)
            .gid(user)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("root starts processes as anybody");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).find(|line| line.contains("ready"));
        let ready = ready.unwrap_or_else(|| panic!("the child in the role {role} ended early"));
        Foreigner { child, lines: Some(lines), ready, _scratch: scratch }
    }

    fn address(&self) -> Address {
        unhex(self.ready.split_whitespace().last().unwrap())
    }

    /// What became of a call, which `party` hears meanwhile.
    fn outcome(mut self, party: &Party) -> (i32, String) {
        let lines = self.lines.take().unwrap();
        let reader = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .find_map(|line| line.split_once("outcome ").map(|(_, rest)| rest.to_owned()))
        });
        while !reader.is_finished() {
            party.enter().maintain();
        }
        let line = reader.join().unwrap().expect("the child says how it went");
        let (status, reason) = line.split_once(' ').unwrap();
        (status.parse().unwrap(), reason.to_owned())
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop(self.child.stdin.take());
    }
}

impl Drop for Foreigner {
    fn drop(&mut self) {
        // Fails when it was killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls, and says what it is answered.
fn call(party: &Party, peer: &str) {
    println!("ready");
    let opened = party.enter().engine.open(&unhex(peer));
    let (status, reason) = match opened {
        Err(refusal) => (refusal.error.code(), refusal.reason),
        Ok(peer) => {
            let sent = party.send(peer, b"sync", HELLO, true);
            let status = match sent {
                Ok(_) => party.wait(PATIENCE).expect("the answer comes").status,
                Err(error) => error.code(),
            };
            (status, format!("{:?}", party.enter().engine.peer(peer).unwrap().2))
        }
    };
    println!("outcome {status} {reason}");
    while std::io::stdin().lines().next().is_some() {}
}

/// Does its part of what the parent wants, until killed.
fn answer(party: &Party, peer: &str) {
    let peer = party.connect(&unhex(peer));
    println!("ready");
    party.send(peer, b"hello", HELLO, false).unwrap();
    let buffer = Buffer::new(LARGEST);
    for _ in SIZES {
        party.receive(exactly(peer, THERE), buffer).unwrap();
        let len = party.wait_received().length as usize;
        party.send_buffer(peer, buffer.first(len), BACK).unwrap();
    }
    for _ in SIZES {
        let lent = receive_loan(party, peer, THERE);
        let (len, byte) = (read(&lent).len(), read(&lent).first().copied().unwrap_or(0));
        party.enter().engine.give_back(lent.loan).unwrap();
        send_loan(party, peer, len, byte, BACK);
    }
    let heap = party.enter().engine.allocate(64, Access::ALL, MEMORY_HOST, NUMA_UNKNOWN).unwrap();
    for _ in 0..2 {
        work_on_region(party, peer);
    }
    // Until killed.
    while party.wait(PATIENCE).is_ok() {}
    party.enter().engine.close_region(heap.0).unwrap();
}

fn work_on_region(party: &Party, peer: PeerId) {
    let key = Buffer::new(128);
    party.receive(exactly(peer, KEYS), key).unwrap();
    let len = party.wait_received().length as usize;
    let rkey = party.enter().engine.import_key(peer, &key.first(len).to_vec()).unwrap();
    let args = RemoteArgs { cq: party.cq, owner: 0, context: RECEIVE };
    let finish = |sent: Result<Sent, Error>| match sent.unwrap() {
        Sent::Done => panic!("regions of other users are reached by messages only"),
        Sent::InProgress(_) => party.wait_received(),
    };
    let mut out = vec![77u8; REGION - 8];
    let mut back = vec![0u8; REGION - 8];
    // SAFETY: both vectors outlive the operations, which are waited for.
    let (from, to) =
        unsafe { (Iov::new(out.as_mut_ptr(), out.len()), Iov::new(back.as_mut_ptr(), back.len())) };
    let put = party.enter().engine.put(peer, rkey, 8, from, &args);
    finish(put);
    let get = party.enter().engine.get(peer, rkey, 8, to, &args);
    finish(get);
    assert_eq!(out, back);
    for _ in 0..10 {
        let atomic = Atomic { op: AtomicOp::Add, width: Width::Eight, operand: 1, compare: 0 };
        let added = party.enter().engine.atomic(peer, rkey, 0, &atomic, None, &args);
        finish(added);
    }
    let beyond = party.enter().engine.put(peer, rkey, 16, from, &args);
    assert_eq!(beyond, Err(Error::Bounds));
    party.send(peer, b"done", DONE, false).unwrap();
}

/// Sends and receives until killed.
fn stream(party: &Party, peer: &str) {
    let peer = party.connect(&unhex(peer));
    println!("ready");
    party.send(peer, b"hello", HELLO, false).unwrap();
    let buffer = Buffer::new(400_000);
    loop {
        let _ = party.receive(exactly(peer, BACK), buffer);
        let _ = party.send_buffer(peer, buffer, THERE);
        let Ok(Completion { status: 0, .. }) = party.wait(PATIENCE) else { return };
    }
}

fn hex(address: &Address) -> String {
    address.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Address {
    let byte = |i: usize| u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).unwrap();
    let bytes: [u8; ADDRESS_BYTES] = std::array::from_fn(byte);
    Address::parse(&bytes).unwrap()
}
