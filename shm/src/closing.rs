//! The end of a fabric while a peer is inside of one of its regions.

use gridnet_core::error::Error;
use gridnet_core::mem::NUMA_UNKNOWN;
use gridnet_core::rail::{Offered, Rail};
use gridnet_core::region::{Access, RemoteKey};
use gridnet_core::sync::Ordering;

use crate::open::{link_up, open_rail, Scratch};

/// Enough that whatever order they end in, the one with the peer is hardly the last.
const REGIONS: u64 = 64;

#[test]
fn a_peer_inside_of_one_region_keeps_nobody_else_in_the_others() {
    let dir = Scratch::new("closing");
    let (mut initiator, mut owner) = (open_rail(&dir.0, 1), open_rail(&dir.0, 2));
    link_up(&mut initiator, &mut owner);
    let memory = owner.allocate_region(64, NUMA_UNKNOWN).unwrap();
    let mut offer = |number| {
        let access = Access::ALL;
        let (base, token) = (memory.base, Some(memory.token));
        let region = Offered { number, base, len: 64, access, token, may_fault: false };
        let hint = owner.offer(&region).unwrap();
        RemoteKey { node: owner.config.local.node, number, len: 64, access, align: 8, hint }
    };
    let keys: Vec<RemoteKey> = (1..=REGIONS).map(&mut offer).collect();
    let live = initiator.links[0].live.as_ref().unwrap();
    let words = |key: &RemoteKey| live.segment().words(key.hint).unwrap();
    let inside = &keys[REGIONS as usize / 2];
    let during = live.watch(inside.number, &words(inside)[0]).during(|| {
        // It waits, for a while, for this access to end.
        drop(owner);
        let open = keys.iter().filter(|key| words(key)[0].load(Ordering::Relaxed) != 0).count();
        assert_eq!(open, 0, "regions of a fabric that has closed are open");
        Ok(())
    });
    assert_eq!(during, Ok(()));
    for key in &keys {
        assert_eq!(live.watch(key.number, &words(key)[0]).during(|| Ok(())), Err(Error::Key));
    }
}
