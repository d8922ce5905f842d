//! Regions with a margin that belongs to nobody else.

use gridnet_core::matching::Key;
use gridnet_core::mem::MEMORY_HOST;
use gridnet_core::rail::Rail;
use gridnet_core::region::{Access, KEY_BYTES};
use gridnet_core::testing::node::Node;

/// Bytes before and behind a region.
const MARGIN: usize = 4096;
const MARGIN_BYTE: u8 = 0xc3;

/// Memory of a node that is a region in the middle.
pub struct Land {
    /// Words, so that it is aligned.
    memory: Vec<u64>,
    start: *mut u8,
    pub len: usize,
    key: Key,
    /// What is in it for good, where peers may not write.
    fixed: Option<u8>,
}

impl Land {
    pub fn of<R: Rail>(node: &mut Node<R>, len: usize, access: Access, content: u8) -> Land {
        let mut memory = vec![u64::from_ne_bytes([MARGIN_BYTE; 8]); (len + 2 * MARGIN).div_ceil(8)];
        let base: *mut u8 = memory.as_mut_ptr().cast();
        // SAFETY: the vector has that many bytes.
        let start = unsafe { base.add(MARGIN) };
        // SAFETY: as above; nobody else knows of the memory yet.
        unsafe { start.write_bytes(content, len) };
        let key = node.engine().register(start, len, access, MEMORY_HOST).expect("it is mapped");
        let is_fixed = !access.allows(Access::REMOTE_WRITE) && !access.allows(Access::REMOTE_ATOMIC);
        Land { memory, start, len, key, fixed: is_fixed.then_some(content) }
    }

    pub fn key<R: Rail>(&self, node: &mut Node<R>) -> [u8; KEY_BYTES] {
        node.engine().region_key(self.key).expect("the region is open")
    }

    /// Whether only that was written which peers may write.
    pub fn check(&self) {
        let bytes = |start: *const u8, len| {
            // SAFETY: inside of the vector; engines of this thread write, and none runs now.
            unsafe { std::slice::from_raw_parts(start, len) }
        };
        let base = self.memory.as_ptr().cast::<u8>();
        let behind = self.memory.len() * 8 - MARGIN - self.len;
        let margins = [bytes(base, MARGIN), bytes(self.start.wrapping_add(self.len), behind)];
        let is_clean = margins.iter().all(|margin| are_all(margin, MARGIN_BYTE));
        assert!(is_clean, "bytes beside a region were written");
        if let Some(content) = self.fixed {
            let is_same = are_all(bytes(self.start, self.len), content);
            assert!(is_same, "a region was written that peers may only read");
        }
    }
}

fn are_all(bytes: &[u8], byte: u8) -> bool {
    bytes.chunks(1024).all(|part| *part == [byte; 1024][..part.len()])
}
