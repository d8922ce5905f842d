//! For unit tests: small rails, and who accepts everybody.

use std::path::Path;

use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{LinkId, PeerId, Refusal, Sink};
use gridnet_core::wire::{Address, Incoming, NetAddresses, NodeId};

use crate::rail::{ShmConfig, ShmRail, SingleCopy};

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

/// Accepts everybody, counts the links that have come up, and keeps why some are over.
#[derive(Default)]
pub struct Open {
    pub up: usize,
    pub down: Vec<Error>,
}

impl Sink for Open {
    fn message(&mut self, _: PeerId, _: u64, _: PeerBytes<'_>) {}

    fn frame(&mut self, _: PeerId, _: Incoming<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn loan(&mut self, _: PeerId, _: u64, _: Option<u64>, _: u64, _: PeerBytes<'_>) -> bool {
        false
    }

    fn sent(&mut self, _: PeerId, _: u64) {}

    fn accept(&mut self, link: LinkId, _: NodeId, _: u64) -> Result<PeerId, Refusal> {
        Ok(PeerId::new(link.0))
    }

    fn up(&mut self, _: PeerId) {
        self.up += 1;
    }

    fn down(&mut self, _: PeerId, reason: Refusal) {
        self.down.push(reason.error);
    }
}
