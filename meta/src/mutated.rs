//! Control messages of every kind, changed at random: what tests of several modules share. `TEST_SOAK=1` says all of a million.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::message::tests::some;
use crate::message::Message;

/// Bytes by which memory may grow while all are said.
const GROWTH_MAX: u64 = 64 << 20;

/// Messages over one connection at most.
const TOGETHER: usize = 64;

/// Numbers that are the same in each run (Knuth's generator, MMIX).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Makes messages that are almost right.
pub(crate) struct Mutator {
    pub(crate) numbers: Numbers,
    valid: Vec<Vec<u8>>,
}

impl Mutator {
    /// Of all kinds of messages, and of these.
    pub(crate) fn new(more: &[Message]) -> Mutator {
        let valid = some().iter().chain(more).map(|message| message.encode().unwrap()).collect();
        Mutator { numbers: Numbers(20_260_101), valid }
    }

    fn any(&mut self) -> Vec<u8> {
        let which = self.numbers.below(self.valid.len());
        self.valid[which].clone()
    }

    /// One, as it is sent.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.any();
        for _ in 0..self.numbers.below(4) {
            self.change(&mut bytes);
        }
        if self.numbers.below(4) != 0 {
            // A length that fits, so that the rest is looked at.
            bytes.resize(bytes.len().max(6), 0);
            let len = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.numbers.below(bytes.len());
        match self.numbers.below(6) {
            0 => bytes[at] ^= 1 << self.numbers.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.numbers.below(6)],
            2 => bytes.truncate(at),
            3 => {
                let some = vec![self.numbers.below(256) as u8; self.numbers.below(20)];
                bytes.splice(at..at, some);
            }
            4 => {
                // The end of another one.
                let other = self.any();
                let from = self.numbers.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // A large number.
            _ => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f])),
        }
    }
}

/// How many of `share` percent of all are said.
pub(crate) fn count(share: usize) -> usize {
    let all = if std::env::var_os("TEST_SOAK").is_some() { 1_000_000 } else { 30_000 };
    all * share / 100
}

/// Runs an ignored test in a process of its own: where that listens, and what memory it has, is its own.
pub(crate) fn alone(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--ignored", "--exact", "--nocapture", test]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.contains("RESULT")).for_each(|line| println!("{line}"));
}

/// What is to be the same after whatever is said.
pub(crate) struct Before {
    listens: BTreeSet<String>,
    memory: u64,
}

impl Before {
    pub(crate) fn now() -> Before {
        Before { listens: listens(), memory: memory() }
    }

    /// Nothing listens that did not, and no memory was kept.
    pub(crate) fn is_as_before(&self, what: &str, count: usize) {
        assert_eq!(listens(), self.listens);
        let growth = memory().saturating_sub(self.memory);
        assert!(growth < GROWTH_MAX, "{what}: {growth} bytes more");
        println!("RESULT mutated: {count} messages to {what}, {} KiB more memory", growth >> 10);
    }
}

/// Where this process listens.
pub(crate) fn listens() -> BTreeSet<String> {
    let sockets = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| {
        let to = std::fs::read_link(fd.unwrap().path()).ok()?;
        Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    });
    let ours: BTreeSet<String> = sockets.collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/self/net/{table}")));
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    let listening = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields.get(3) == Some(&"0A") && ours.contains(*fields.get(9)?);
        is_ours.then(|| fields[1].to_owned())
    });
    listening.collect()
}

/// Memory that this process has, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Says some messages over a connection, until whoever serves its other end has ended; how many were said.
pub(crate) async fn talk(
    theirs: DuplexStream,
    mutator: &mut Mutator,
    serves: impl Future<Output = ()>,
) -> usize {
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let (mut said, has_ended) = (0, &Cell::new(false));
    let serves = async {
        serves.await;
        has_ended.set(true);
    };
    let says = async {
        while said < TOGETHER && !has_ended.get() && writer.write_all(&mutator.next()).await.is_ok() {
            said += 1;
            // It is taken before the next one is said.
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let hears = async {
        let mut some = [0; 4096];
        while reader.read(&mut some).await.is_ok_and(|count| count > 0) {}
    };
    tokio::join!(serves, says, hears);
    said
}
