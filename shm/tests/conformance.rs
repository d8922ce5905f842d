//! The suite on the shared-memory rail: several fabrics in one process, with a run directory of their own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use gridnet_core::conformance_tests;
use gridnet_core::error::Error;
use gridnet_core::mem::PeerBytes;
use gridnet_core::rail::{LinkId, PeerId, Rail, Refusal, Sink};
use gridnet_core::reliability_tests;
use gridnet_core::testing::pair::{Cutting, Fixture};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, Incoming, NetAddresses, NodeId};
use gridnet_shm::testing::Shears;
use gridnet_shm::{ShmConfig, ShmRail, SingleCopy};

conformance_tests!(shipped, Shm::new(256, 1 << 20, SingleCopy::Auto));
conformance_tests!(smallest, Shm::new(64, 64 << 10, SingleCopy::Never));
conformance_tests!(single_copy, Shm::new(64, 64 << 10, SingleCopy::Always));
reliability_tests!(cuts, Shm::new(256, 1 << 20, SingleCopy::Auto).cutting());
reliability_tests!(cuts_of_the_smallest, Shm::new(64, 64 << 10, SingleCopy::Never).cutting());

#[test]
fn memory_is_fetched_by_a_single_copy_until_it_is_concealed() {
    use gridnet_core::mem::{Gather, Iov};
    use gridnet_core::rail::Posted;

    let mut shm = Shm::new(64, 64 << 10, SingleCopy::Always);
    let (mut caller, mut called) = Ends::connect(&mut shm);
    let mut from: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let mut to = vec![0u8; from.len()];
    // SAFETY: both vectors outlive the calls, and are touched between them only.
    let (source, target) =
        unsafe { (Iov::new(from.as_mut_ptr(), from.len()), Iov::new(to.as_mut_ptr(), to.len())) };
    let exposed = caller.rail.expose(caller.link, &Gather::one(&source)).unwrap();
    assert_eq!(called.rail.get(called.link, exposed, &Gather::one(&target)), Posted::Done);
    assert_eq!(to, from);
    caller.rail.conceal(caller.link, exposed);
    assert!(matches!(called.rail.get(called.link, exposed, &Gather::one(&target)), Posted::Failed(_)));
    // A key that was never given out.
    let forged = gridnet_core::rail::RemoteSource { rkey: u64::MAX, ..exposed };
    assert!(matches!(called.rail.get(called.link, forged, &Gather::one(&target)), Posted::Failed(_)));
    // The fabric's end withdraws what is left.
    let exposed = caller.rail.expose(caller.link, &Gather::one(&source)).unwrap();
    drop(caller);
    assert!(!matches!(called.rail.get(called.link, exposed, &Gather::one(&target)), Posted::Done));
}

/// One of two rails that are linked.
struct Ends {
    rail: ShmRail,
    link: LinkId,
}

impl Ends {
    fn connect(shm: &mut Shm) -> (Ends, Ends) {
        let address = |byte| Address {
            uid: nix::unistd::geteuid().as_raw(),
            host: 1,
            node: NodeId::new([byte; 16]).unwrap(),
            incarnation: 1,
            network: NetAddresses::NONE,
        };
        let (mut caller, mut called) = (shm.rail(&address(1)), shm.rail(&address(2)));
        let link = caller.connect(PeerId::new(0), &address(2)).unwrap();
        let (mut up, mut other) = (Up::default(), Up::default());
        while !(up.is_up && other.is_up) {
            called.maintain(Time(0), &mut other);
            caller.maintain(Time(0), &mut up);
        }
        (Ends { rail: caller, link }, Ends { rail: called, link: other.link.unwrap() })
    }
}

/// Learns the link, and that it is up.
#[derive(Default)]
struct Up {
    link: Option<LinkId>,
    is_up: bool,
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

    fn down(&mut self, _: PeerId, _: Refusal) {}
}

/// Time that passes in a step, where links are cut.
const STEP_NS: u64 = 1_000_000;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 300;

/// A private run directory.
struct Shm {
    dir: PathBuf,
    start: Instant,
    ring_slots: u32,
    link_window: usize,
    single_copy: SingleCopy,
    /// What breaks the links of each node.
    shears: HashMap<NodeId, Shears>,
    /// Links break, and time passes in steps: few of them until a peer is called again.
    is_cut: bool,
    steps: u64,
}

impl Shm {
    fn new(ring_slots: u32, link_window: usize, single_copy: SingleCopy) -> Shm {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gridnet-conformance-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let shears = HashMap::new();
        let start = Instant::now();
        Shm { dir, start, ring_slots, link_window, single_copy, shears, is_cut: false, steps: 0 }
    }

    fn cutting(mut self) -> Shm {
        self.is_cut = true;
        self
    }
}

impl Fixture for Shm {
    type Rail = ShmRail;

    fn rail(&mut self, address: &Address) -> ShmRail {
        let mut rail = ShmRail::open(ShmConfig {
            local: *address,
            name: None,
            run_dir: Some(self.dir.clone()),
            segment_size: 64 << 20,
            ring_slots: self.ring_slots,
            link_window: self.link_window,
            huge_pages: false,
            heap_size: 64 << 20,
            single_copy: self.single_copy,
            allow_uids: Vec::new(),
        })
        .expect("the rail opens");
        rail.obey(self.shears.entry(address.node).or_default());
        rail
    }

    fn tick(&mut self) -> Time {
        self.steps += 1;
        Time(if self.is_cut { self.steps * STEP_NS } else { self.start.elapsed().as_nanos() as u64 })
    }

    fn quiet_steps(&self) -> usize {
        if self.is_cut {
            CALL_STEPS
        } else {
            64
        }
    }

    fn overshoot(&self) -> usize {
        self.ring_slots as usize + 64
    }

    fn uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }
}

impl Cutting for Shm {
    /// One side breaks the link, or both at once.
    fn cut(&mut self, _: [&mut Self::Rail; 2], between: [NodeId; 2], random: &mut Random) {
        let first = random.below(3) as usize;
        for node in between.iter().cycle().skip(first).take(1 + first / 2) {
            self.shears.entry(*node).or_default().cut();
        }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
