//! What the tests of the fabric share: private run directories, parties that talk, time limits.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod dialogue;
pub mod onesided;
pub mod process;
pub mod scene;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet::config::Config;
use gridnet::core::completion::Completion;
use gridnet::core::endpoint::{CqId, SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::matching::{Pattern, Source};
use gridnet::core::mem::Iov;
use gridnet::core::rail::{PeerId, Refusal};
use gridnet::core::wire::Address;
use gridnet::{AnyRail, Shared, ThreadLevel};
use gridnet_shm::testing::Usage;

/// How long anything may take on a busy machine. Below the longest sleep of a wait, so that a lost wake-up shows.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// A directory that goes away with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gridnet-fabric-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fabric with one queue.
#[derive(Debug, Clone)]
pub struct Party {
    pub shared: Arc<Shared>,
    pub cq: CqId,
}

impl Party {
    pub fn open(dir: &Path, name: Option<&str>, level: ThreadLevel, options: &[(&str, &str)]) -> Party {
        Party::try_open(dir, name, level, options).expect("the fabric opens")
    }

    pub fn try_open(
        dir: &Path,
        name: Option<&str>,
        level: ThreadLevel,
        options: &[(&str, &str)],
    ) -> Result<Party, Refusal> {
        let dir = dir.to_str().expect("a plain path").to_owned();
        let mut settings = vec![
            ("GRIDNET_RUN_DIR".to_owned(), dir),
            ("GRIDNET_SHM_SEGMENT_SIZE".to_owned(), "64m".to_owned()),
        ];
        settings.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::from_sources(std::iter::empty(), &settings).expect("the options are valid");
        let shared = Shared::open(config, name, level)?;
        let cq = shared.enter().expect("the fabric is usable").engine.create_cq(1 << 16);
        Ok(Party { shared, cq })
    }

    /// The same fabric with a queue of its own.
    pub fn with_own_queue(&self) -> Party {
        let cq = self.enter().engine.create_cq(1 << 16);
        Party { shared: Arc::clone(&self.shared), cq }
    }

    pub fn enter(&self) -> gridnet::Guard<'_> {
        self.shared.enter().expect("the fabric is usable")
    }

    /// What of its memory is in use.
    pub fn usage(&self) -> Usage {
        let guard = self.enter();
        let shm = guard.engine.rails().iter().find_map(|rail| match rail {
            AnyRail::Shm(shm) => Some(shm.usage()),
            AnyRail::Tcp(_) | AnyRail::Verbs(_) | AnyRail::Own(_) => None,
        });
        shm.expect("it has the rail")
    }

    /// No peer is connected, and none has left anything.
    pub fn is_nothing_in_use(&self) -> bool {
        let Usage { arena, exposures, links, .. } = self.usage();
        (arena, exposures, links) == (0, 0, 0)
    }

    /// Waits until that is so, and no more comes: a connection of the dead that waits to be heard goes in a moment.
    pub fn settle(&self) {
        let start = Instant::now();
        while !self.is_nothing_in_use() {
            assert_eq!(self.wait(Duration::from_millis(1)).err(), Some(Error::Timeout));
            assert!(start.elapsed() < PATIENCE, "the dead hold memory: {:?}", self.usage());
        }
    }

    pub fn address(&self) -> Address {
        *self.enter().address()
    }

    pub fn connect(&self, address: &Address) -> PeerId {
        self.enter().engine.open(address).expect("the rail leads to its peer")
    }

    /// Sends memory that stays for ever; true when a completion follows.
    pub fn send(&self, to: PeerId, bytes: &'static [u8], tag: u64, sync: bool) -> Result<bool, Error> {
        // SAFETY: the bytes live for ever and nobody writes them; sends only read.
        let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
        self.send_iov(to, iov, tag, sync)
    }

    /// As [`Self::send`], from a buffer.
    pub fn send_buffer(&self, to: PeerId, buffer: Buffer, tag: u64) -> Result<bool, Error> {
        self.send_iov(to, buffer.iov(), tag, false)
    }

    fn send_iov(&self, to: PeerId, iov: Iov, tag: u64, sync: bool) -> Result<bool, Error> {
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: SEND,
            tag,
            immediate: None,
            sync,
            always_complete: false,
        };
        self.enter().engine.send_iov(to, &[iov], &args).map(|sent| matches!(sent, Sent::InProgress(_)))
    }

    /// Receives into memory that stays for ever.
    pub fn receive(&self, pattern: Pattern, buffer: Buffer) -> Result<u64, Error> {
        self.enter().engine.receive(self.cq, &pattern, buffer.iov(), RECEIVE)
    }

    /// Waits for one completion.
    pub fn wait(&self, timeout: Duration) -> Result<Completion, Error> {
        let mut taken = None;
        self.shared.wait(self.cq, Some(timeout), |completion| {
            taken = Some(completion);
            false
        })?;
        Ok(taken.expect("a wait that succeeds takes something"))
    }

    /// The same, past sends that end meanwhile.
    pub fn wait_past_sends(&self, timeout: Duration) -> Result<Completion, Error> {
        loop {
            let completion = self.wait(timeout)?;
            if completion.context != SEND {
                return Ok(completion);
            }
        }
    }

    /// Waits for the receive that is posted, past sends that end meanwhile.
    pub fn wait_received(&self) -> Completion {
        loop {
            let completion = self.wait(PATIENCE).expect("the message comes in time: no wake-up is lost");
            if completion.context == RECEIVE {
                assert_eq!(completion.status, 0);
                return completion;
            }
        }
    }
}

/// Sends so many messages back, and waits for the word that the other side has them.
pub fn echo(party: &Party, count: usize, largest: usize) {
    for _ in 0..count {
        let buffer = Buffer::new(largest);
        party.receive(from_any(1), buffer).unwrap();
        let received = party.wait_received();
        let back = buffer.first(received.length as usize);
        if party.send_buffer(PeerId::new(received.source), back, 2).unwrap() {
            party.wait(PATIENCE).unwrap();
        }
    }
    party.receive(from_any(3), Buffer::new(1)).unwrap();
    party.wait_received();
}

/// Context of sends.
pub const SEND: u64 = 1;
/// Context of receives.
pub const RECEIVE: u64 = 2;

/// Memory that stays for ever.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    base: *mut u8,
    len: usize,
}

// SAFETY: an address and a length; whoever uses the memory does so between operations.
unsafe impl Send for Buffer {}

impl Buffer {
    pub fn new(len: usize) -> Buffer {
        let bytes = Box::leak(vec![0u8; len].into_boxed_slice());
        Buffer { base: bytes.as_mut_ptr(), len }
    }

    /// Its first bytes.
    pub fn first(self, len: usize) -> Buffer {
        Buffer { len: len.min(self.len), ..self }
    }

    /// The bytes, when no operation uses them.
    pub fn to_vec(self) -> Vec<u8> {
        // SAFETY: leaked memory of this length, which no operation writes now.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }.to_vec()
    }

    /// Writes every byte, when no operation uses them.
    pub fn fill(self, byte: u8) {
        // SAFETY: leaked memory of this length, which no operation uses now.
        unsafe { std::ptr::write_bytes(self.base, byte, self.len) };
    }

    pub fn iov(self) -> Iov {
        // SAFETY: leaked memory; the tests look at it only after the operation.
        unsafe { Iov::new(self.base, self.len) }
    }
}

pub fn from_any(tag: u64) -> Pattern {
    Pattern { source: Source::Any, tag, ignore: 0 }
}

pub fn exactly(peer: PeerId, tag: u64) -> Pattern {
    Pattern { source: Source::Peer(peer), tag, ignore: 0 }
}

/// Runs `work` in a thread of its own, and fails when it takes longer than `limit`.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = channel();
    let thread = std::thread::spawn(move || {
        let result = work();
        let _ = done.send(());
        result
    });
    if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(limit) {
        panic!("not finished within {limit:?}");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
