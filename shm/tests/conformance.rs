//! The suite on the shared-memory rail: several fabrics in one process, with a run directory of their own.

mod common;

use std::collections::HashMap;
use std::time::Instant;

use common::{address, config, open, Scratch, Up, LIMIT};
use gridnet_core::conformance_tests;
use gridnet_core::fault_tests;
use gridnet_core::rail::{LinkId, PeerId, Rail};
use gridnet_core::reliability_tests;
use gridnet_core::testing::pair::{Cutting, Fixture};
use gridnet_core::testing::random::Random;
use gridnet_core::time::Time;
use gridnet_core::wire::{Address, NodeId};
use gridnet_shm::testing::Shears;
use gridnet_shm::{ShmConfig, ShmRail, SingleCopy};

conformance_tests!(shipped, Shm::new(256, 1 << 20, SingleCopy::Auto));
conformance_tests!(smallest, Shm::new(64, 64 << 10, SingleCopy::Never));
conformance_tests!(single_copy, Shm::new(64, 64 << 10, SingleCopy::Always));
reliability_tests!(cuts, Shm::new(256, 1 << 20, SingleCopy::Auto).cutting());
fault_tests!(faults, Shm::new(256, 1 << 20, SingleCopy::Auto).cutting(), cuts);
fault_tests!(faults_and_single_copies, Shm::new(64, 64 << 10, SingleCopy::Always).cutting());
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
        let (mut caller, mut called) = (shm.rail(&address(1)), shm.rail(&address(2)));
        let link = caller.connect(PeerId::new(0), &address(2)).unwrap();
        let (mut up, mut other) = (Up::default(), Up::default());
        let start = Instant::now();
        while !(up.is_up && other.is_up) {
            called.maintain(Time(0), &mut other);
            caller.maintain(Time(0), &mut up);
            assert!(start.elapsed() < LIMIT, "the link does not come up");
        }
        (Ends { rail: caller, link }, Ends { rail: called, link: other.link.unwrap() })
    }
}

/// Time that passes in a step, where links are cut.
const STEP_NS: u64 = 1_000_000;
/// Steps after which a side that gives way has called again for sure.
const CALL_STEPS: usize = 300;

/// Rails that meet in a run directory of their own.
struct Shm {
    dir: Scratch,
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
        let (dir, start, shears) = (Scratch::new(), Instant::now(), HashMap::new());
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
        let mut rail = open(ShmConfig {
            segment_size: 64 << 20,
            ring_slots: self.ring_slots,
            link_window: self.link_window,
            heap_size: 64 << 20,
            single_copy: self.single_copy,
            ..config(&self.dir.0, *address)
        });
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

    fn patience(&self) -> usize {
        if self.is_cut {
            CALL_STEPS
        } else {
            1_000_000
        }
    }

    fn times(&self, all: u64) -> u64 {
        // The thread sanitizer makes each step some twenty times as long.
        let is_long = std::env::var_os("TEST_SANITIZED").is_some() && std::env::var_os("TEST_SOAK").is_none();
        if is_long {
            all / 4
        } else {
            all
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
