//! A panic inside of a call stops at the C boundary, and with it the fabric; nothing else.
//!
//! What a program can make panic there is its own code: a subscriber of `tracing`.

use std::ffi::CString;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use gridnet_capi::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// At the first link that is over closes two more fabrics; panics at each later one.
struct Troubled {
    seen: Arc<AtomicUsize>,
    next: [usize; 2],
}

impl Subscriber for Troubled {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("gridnet_shm")
    }

    fn event(&self, event: &Event<'_>) {
        let mut is_end = IsEnd(false);
        event.record(&mut is_end);
        if !is_end.0 {
            return;
        }
        if self.seen.fetch_add(1, Ordering::Relaxed) > 0 {
            panic!("as the test wants it");
        }
        for fabric in self.next {
            // SAFETY: a fabric of the test, which does not use it meanwhile.
            assert_eq!(unsafe { gridnet_fabric_close(fabric as *mut gridnet_fabric) }, GRIDNET_OK);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whether an event tells of the end of a link.
struct IsEnd(bool);

impl Visit for IsEnd {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == "link is over";
    }
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fabric with a queue.
#[derive(Clone, Copy)]
struct Node {
    fabric: *mut gridnet_fabric,
    cq: *mut gridnet_cq,
}

impl Node {
    fn open(dir: &Scratch) -> Node {
        let options = [format!("GRIDNET_RUN_DIR={}", dir.0.display()), "GRIDNET_SHM_SEGMENT_SIZE=16m".into()];
        let options = options.map(|option| CString::new(option).unwrap());
        let list = [options[0].as_ptr(), options[1].as_ptr(), null()];
        let params = gridnet_fabric_params {
            size: size_of::<gridnet_fabric_params>(),
            name: null(),
            thread_level: GRIDNET_THREAD_SERIALIZED,
            flags: 0,
            options: list.as_ptr(),
        };
        let mut fabric = null_mut();
        // SAFETY: all that is pointed to outlives the call.
        assert_eq!(unsafe { gridnet_fabric_open(&params, &mut fabric) }, GRIDNET_OK);
        Node { fabric, cq: queue_of(fabric) }
    }

    fn connect(self, to: Node) -> *mut gridnet_endpoint {
        let (mut address, mut endpoint) = (gridnet_address { bytes: [0; 64] }, null_mut());
        // SAFETY: handles that are open, and places for a write.
        unsafe {
            assert_eq!(gridnet_fabric_address(to.fabric, &mut address), GRIDNET_OK);
            assert_eq!(gridnet_endpoint_open(self.cq, &address, &mut endpoint), GRIDNET_OK);
        }
        endpoint
    }

    fn progress(self) -> gridnet_status {
        // SAFETY: an open fabric.
        unsafe { gridnet_fabric_progress(self.fabric) }
    }
}

fn queue_of(fabric: *mut gridnet_fabric) -> *mut gridnet_cq {
    let mut cq = null_mut();
    // SAFETY: an open fabric, and a place for a write.
    assert_eq!(unsafe { gridnet_cq_create(fabric, 0, &mut cq) }, GRIDNET_OK);
    cq
}

/// Sends a message, so that the link is up on both sides.
fn meet(from: Node, to: Node) {
    let endpoint = from.connect(to);
    let byte = [1u8];
    let mut buffer = [0u8];
    let mut entry = empty_entry();
    // SAFETY: handles that are open; the memory outlives the operations, which end here.
    unsafe {
        let status = gridnet_tag_recv(to.cq, null_mut(), buffer.as_mut_ptr().cast(), 1, 1, 0, null_mut());
        assert_eq!(status, GRIDNET_IN_PROGRESS);
        let sent = gridnet_tag_send(endpoint, byte.as_ptr().cast(), 1, 1, null_mut());
        assert!(sent >= 0);
        while gridnet_cq_poll(to.cq, &mut entry, 1) == 0 {
            assert!(from.progress() >= 0);
        }
        while sent == GRIDNET_IN_PROGRESS && gridnet_cq_poll(from.cq, &mut entry, 1) == 0 {
            assert!(to.progress() >= 0);
        }
    }
}

fn empty_entry() -> gridnet_completion {
    // SAFETY: a plain struct of numbers and an address.
    unsafe { std::mem::zeroed() }
}

#[test]
fn after_a_panic_the_fabric_is_not_touched_again() {
    // What is asked of tests by such variables, a fabric would refuse. Nobody else is in this process.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GRIDNET_")) {
        std::env::remove_var(name);
    }
    let dir = Scratch(std::env::temp_dir().join(format!("gridnet-capi-panic-{}", std::process::id())));
    let node = Node::open(&dir);
    let peers = [(); 3].map(|()| Node::open(&dir));
    peers.iter().for_each(|peer| meet(*peer, node));
    // Nobody answers this call: while it waits, one wait looks at descriptors twice.
    let silent = Node::open(&dir);
    node.connect(silent);
    // Somebody would sleep on another queue: whoever leaves a call arms the rails for it, and so looks at descriptors.
    let (other, mut descriptor) = (queue_of(node.fabric), 0);
    let mut entry = empty_entry();
    let seen = Arc::new(AtomicUsize::new(0));
    let subscriber =
        Troubled { seen: seen.clone(), next: [peers[1].fabric as usize, peers[2].fabric as usize] };
    // SAFETY: handles that are open, and places for a write.
    unsafe {
        assert_eq!(gridnet_cq_fd(other, &mut descriptor), GRIDNET_OK);
        while gridnet_cq_arm(other) != GRIDNET_OK {
            assert!(node.progress() >= 0);
        }
        assert_eq!(gridnet_fabric_close(peers[0].fabric), GRIDNET_OK);
        tracing::subscriber::with_default(subscriber, || {
            let waited = gridnet_cq_wait(node.cq, &mut entry, 1, 60_000_000_000);
            assert_eq!(waited, GRIDNET_ERR_INTERNAL);
            // The third link ends as well, and nobody looks.
            assert_eq!(gridnet_cq_poll(node.cq, &mut entry, 1), GRIDNET_ERR_INTERNAL);
            assert_eq!(node.progress(), GRIDNET_ERR_INTERNAL);
        });
        assert_eq!(seen.load(Ordering::Relaxed), 2);
        assert_eq!(gridnet_fabric_close(node.fabric), GRIDNET_OK);
        // Other fabrics of the process are none the worse for it.
        let next = Node::open(&dir);
        meet(next, silent);
        assert_eq!(gridnet_fabric_close(next.fabric), GRIDNET_OK);
        assert_eq!(gridnet_fabric_close(silent.fabric), GRIDNET_OK);
    }
}
