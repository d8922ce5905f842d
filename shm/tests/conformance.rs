//! The suite on the shared-memory rail: several fabrics in one process, with a run directory of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use gridnet_core::conformance_tests;
use gridnet_core::testing::pair::Fixture;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_shm::{ShmConfig, ShmRail};

conformance_tests!(shipped, Shm::new(256, 1 << 20));
conformance_tests!(smallest, Shm::new(64, 64 << 10));

/// A private run directory.
struct Shm {
    dir: PathBuf,
    start: Instant,
    ring_slots: u32,
    link_window: usize,
}

impl Shm {
    fn new(ring_slots: u32, link_window: usize) -> Shm {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gridnet-conformance-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Shm { dir, start: Instant::now(), ring_slots, link_window }
    }
}

impl Fixture for Shm {
    type Rail = ShmRail;

    fn rail(&mut self, address: &Address) -> ShmRail {
        ShmRail::open(ShmConfig {
            local: *address,
            name: None,
            run_dir: Some(self.dir.clone()),
            segment_size: 64 << 20,
            ring_slots: self.ring_slots,
            link_window: self.link_window,
            huge_pages: false,
        })
        .expect("the rail opens")
    }

    fn tick(&mut self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn overshoot(&self) -> usize {
        self.ring_slots as usize + 64
    }

    fn uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
