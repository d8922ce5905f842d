//! What the tests of the rail share: run directories, rails as they are opened, and a sink that learns of one link.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{LinkId, PeerId, Rail, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Incoming, NetAddresses, NodeId};
use gridnet_shm::{ShmConfig, ShmRail, SingleCopy};

/// How long a link may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A run directory that goes away with its test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gridnet-shm-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The address of a fabric of this user.
pub fn address(number: u8) -> Address {
    let node = NodeId::new([number; 16]).expect("not all zero");
    let uid = nix::unistd::geteuid().as_raw();
    Address { uid, host: 1, node, incarnation: 1, network: NetAddresses::NONE }
}

/// A small rail, which tests change as they need it.
pub fn config(dir: &Path, local: Address) -> ShmConfig {
    ShmConfig {
        local,
        name: None,
        run_dir: Some(dir.to_owned()),
        segment_size: 1 << 20,
        ring_slots: 64,
        link_window: 64 << 10,
        huge_pages: false,
        heap_size: 1 << 20,
        single_copy: SingleCopy::Always,
        allow_uids: Vec::new(),
    }
}

/// Opens a rail.
pub fn open(config: ShmConfig) -> ShmRail {
    ShmRail::open(config).expect("the rail opens")
}

/// Learns the link, and that it is up.
#[derive(Default)]
pub struct Up {
    pub link: Option<LinkId>,
    pub is_up: bool,
}

impl Up {
    /// Until the link is up.
    pub fn wait(&mut self, rail: &mut ShmRail) {
        let start = Instant::now();
        while !self.is_up {
            rail.maintain(Time(0), self);
            assert!(start.elapsed() < LIMIT, "the link does not come up");
        }
    }
}

impl Sink for Up {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}

    fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        self.link = Some(link);
        Ok(PeerId::new(0))
    }

    fn up(&mut self, _: PeerId) {
        self.is_up = true;
    }

    fn down(&mut self, _: PeerId, _: LinkId, _: Refusal) {}
}
