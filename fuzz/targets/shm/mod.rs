//! Small rails on shared memory, in a run directory of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use gridnet_core::testing::pair::Fixture;
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::Address;
use gridnet_shm::{ShmConfig, ShmRail, SingleCopy};

/// Smallest segment in which everything of a play has room.
pub const SEGMENT: usize = 4 << 20;

/// Where the rails of one play meet.
#[derive(Debug)]
pub struct Shm {
    dir: PathBuf,
    start: Instant,
    single_copy: SingleCopy,
}

impl Shm {
    /// A new directory, and a choice of how long messages travel.
    pub fn new(random: &mut Random) -> Shm {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gridnet-fuzz-{}-{number}", std::process::id()));
        let single_copy = random.pick(&[SingleCopy::Auto, SingleCopy::Always, SingleCopy::Never]);
        Shm { dir, start: Instant::now(), single_copy }
    }
}

impl Fixture for Shm {
    type Rail = ShmRail;

    fn rail(&mut self, address: &Address) -> ShmRail {
        ShmRail::open(ShmConfig {
            local: *address,
            name: None,
            run_dir: Some(self.dir.clone()),
            segment_size: SEGMENT,
            ring_slots: 64,
            link_window: 256 << 10,
            huge_pages: false,
            heap_size: 1 << 20,
            single_copy: self.single_copy,
            allow_uids: Vec::new(),
        })
        .expect("the rail opens")
    }

    fn tick(&mut self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
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
