//! For unit tests: small rails, and who accepts everybody.

use std::path::{Path, PathBuf};

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{LinkId, PeerId, Rail, Refusal, Sink};
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Incoming, NetAddresses, NodeId};

use crate::config::{ShmConfig, SingleCopy};
use crate::rail::ShmRail;

/// Bytes of a segment, and of all else that has a size.
pub const SEGMENT: usize = 1 << 20;

/// The address of node `number`.
pub fn address(number: u8) -> Address {
    let node = NodeId::new([number; 16]).unwrap();
    Address {
        uid: nix::unistd::geteuid().as_raw(),
        host: 1,
        node,
        incarnation: 1,
        network: NetAddresses::NONE,
    }
}

/// A rail for node `number` with its run directory at `dir`.
pub fn open_rail(dir: &Path, number: u8) -> ShmRail {
    ShmRail::open(ShmConfig {
        local: address(number),
        name: None,
        run_dir: Some(dir.to_owned()),
        segment_size: SEGMENT,
        ring_slots: 64,
        link_window: SEGMENT,
        huge_pages: false,
        heap_size: SEGMENT,
        single_copy: SingleCopy::Auto,
        allow_uids: Vec::new(),
    })
    .unwrap()
}

/// Connects one rail to another, which calls it what its link is called.
pub fn link_up(caller: &mut ShmRail, called: &mut ShmRail) {
    let address = called.config.local;
    caller.connect(PeerId::new(caller.links.len() as u32), &address).unwrap();
    let (mut a, mut b) = (Open::default(), Open::default());
    for _ in 0..1000 {
        called.maintain(Time(0), &mut b);
        caller.maintain(Time(0), &mut a);
    }
    assert_eq!((a.up, b.up), (1, 1));
}

/// A run directory that goes away with its test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("gridnet-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Accepts everybody, and notes what comes.
#[derive(Default)]
pub struct Open {
    /// Links that came up.
    pub up: usize,
    /// Word and first byte of each frame.
    pub frames: Vec<(u64, Option<u8>)>,
    /// Why links are over.
    pub down: Vec<Error>,
    /// Nobody is accepted after all.
    pub refuses: bool,
    /// Loans are kept, and all who call are one peer.
    pub keeps: bool,
}

impl Sink for Open {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}

    fn frame(&mut self, _: PeerId, frame: Incoming<'_>) -> Result<(), Error> {
        self.frames.push((frame.word, frame.payload.to_vec().first().copied()));
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        self.keeps
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        match self.refuses {
            true => Err(Refusal::new(Error::InUse, "this node is connected already")),
            false => Ok(PeerId::new(if self.keeps { 0 } else { link.0 })),
        }
    }

    fn up(&mut self, _: PeerId) {
        self.up += 1;
    }

    fn down(&mut self, _: PeerId, _: LinkId, reason: Refusal) {
        self.down.push(reason.error);
    }
}
