//! A process that executes another program keeps its number, and its memory is gone: nothing is fetched from the new one's.
//!
//! The test binary starts itself again. That process exposes memory, executes itself once more, and has other bytes at the
//! same place then. It takes a few milliseconds, less than a tick of the coarse clocks of many systems.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{address, config, open, Scratch, Up};
use gridnet_core::error::Error;
use gridnet_core::mem::{Gather, Iov};
use gridnet_core::rail::{PeerId, Posted, Rail, RemoteSource};
use nix::sys::mman::{mmap_anonymous, MapFlags, ProtFlags};

/// What a child does: the name of its role.
const ROLE: &str = "TEST_ROLE";
/// Where the fabrics meet.
const DIR: &str = "TEST_DIR";
/// Where both programs have their bytes: in the first 2 GiB, where nothing is mapped by itself and sanitizers leave room.
const PLACE: usize = 0x1000_0000;
const LEN: usize = 64 << 10;
/// So many that the exec falls into one tick in some of them.
const LIVES: usize = 20;
/// What the first program has there,
const BEFORE: u8 = 1;
/// and the second.
const AFTER: u8 = 2;

#[test]
#[ignore = "a role that the other test starts"]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    match role.as_str() {
        "before" => expose_and_execute(Path::new(&dir)),
        _ => {
            occupy(AFTER);
            println!("there");
            let _ = std::io::stdin().read(&mut [0]);
        }
    }
}

#[test]
fn nothing_is_fetched_from_the_program_that_took_the_place() {
    for life in 0..LIVES {
        let dir = Scratch::new();
        let mut peer = Peer::start(&dir.0);
        let mut rail = open(config(&dir.0, address(1)));
        let link = rail.connect(PeerId::new(0), &address(2)).expect("the peer listens");
        let mut sink = Up::default();
        sink.wait(&mut rail);
        let said = peer.wait_for("exposed");
        let mut words = said.split_whitespace().skip(1).map(|word| word.parse::<u64>().unwrap());
        let source = RemoteSource { rkey: words.next().unwrap(), address: words.next().unwrap() };
        let mut bytes = vec![0u8; LEN];
        // SAFETY: the vector outlives its use, and is not touched during a fetch.
        let to = unsafe { Iov::new(bytes.as_mut_ptr(), LEN) };
        if let Posted::Failed(Error::Permission) = rail.get(link, source, &Gather::one(&to)) {
            eprintln!("SKIPPED: this system does not let a process read another's memory");
            return;
        }
        assert!(bytes.iter().all(|byte| *byte == BEFORE), "life {life}");
        peer.tell("execute");
        peer.wait_for("there");
        let posted = rail.get(link, source, &Gather::one(&to));
        assert!(matches!(posted, Posted::Failed(_)), "life {life}: {posted:?}, byte {}", bytes[0]);
    }
}

/// The first program.
fn expose_and_execute(dir: &Path) {
    let memory = occupy(BEFORE);
    let mut rail = open(config(dir, address(2)));
    println!("listening");
    let mut sink = Up::default();
    sink.wait(&mut rail);
    let exposed = rail.expose(sink.link.unwrap(), &Gather::one(&memory)).expect("there is a word for it");
    println!("exposed {} {}", exposed.rkey, exposed.address);
    std::io::stdin().read_exact(&mut [0]).expect("the parent lives");
    let error = command("after", dir).exec();
    panic!("not executed: {error}");
}

/// Fills the place with a byte.
fn occupy(byte: u8) -> Iov {
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::new(LEN).unwrap();
    // SAFETY: memory that nobody has: the system refuses what is taken.
    let base = unsafe { mmap_anonymous(NonZeroUsize::new(PLACE), len, access, flags) }.expect("it is free");
    // SAFETY: just mapped, writable, and as long.
    unsafe { std::ptr::write_bytes(base.as_ptr().cast::<u8>(), byte, LEN) };
    // SAFETY: stays mapped until the program ends.
    unsafe { Iov::new(base.as_ptr().cast(), LEN) }
}

fn command(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test knows its file"));
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env(ROLE, role).env(DIR, dir);
    command
}

/// A child that does not outlive its test.
struct Peer(Child, BufReader<ChildStdout>);

impl Peer {
    /// Starts the first program; returns when it listens.
    fn start(dir: &Path) -> Peer {
        let mut command = command("before", dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut peer = Peer(child, output);
        peer.wait_for("listening");
        peer
    }

    /// The next line that has this word, from it on.
    fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.1.read_line(&mut line).expect("it is a pipe") > 0 {
            if let Some(at) = line.find(word) {
                return line.split_off(at);
            }
            line.clear();
        }
        panic!("the peer ended before it said {word}");
    }

    fn tell(&mut self, word: &str) {
        self.0.stdin.as_mut().expect("it is a pipe").write_all(word.as_bytes()).expect("the peer lives");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
