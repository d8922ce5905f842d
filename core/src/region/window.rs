//! Windows: memory of a peer that this process reaches by itself.
//!
//! A region ends by the word of its owner, and afterwards nobody may write there: the owner may use the memory for
//! something else. But a peer's access is not one instruction. So each access is announced in a word that the owner can
//! read, and then looks whether the region lives; the owner ends the region, and then looks whether somebody is inside:
//!
//! * initiator: `announce; is the region alive?; access; announce nothing`
//! * owner: `the region is dead; is it announced?`, again until nobody is inside.
//!
//! Both are a store followed by a load of another location, as with the doorbell ([`crate::ring::bell`]), and the same two
//! ways close the gap: a fence of the initiator for each access ([`Order::Fence`]), or a process-wide barrier of the owner
//! after it has marked the region dead ([`Order::Barrier`]), so that the initiator pays two stores to a line of its own.
//! The announcement is taken back by a Release store, which the owner's Acquire load in [`Watch::is_inside`] pairs with:
//! when the owner reads it, the access is over and visible.

use std::any::Any;
use std::sync::Arc;

use super::{check_bounds, Access, Atomic};
use crate::error::Error;
use crate::ring::bell::Order;
use crate::sync::{compiler_fence, fence, AtomicU32, AtomicU64, Ordering};

/// Bytes of an access that is announced as one. Longer ones are announced in parts, so that the end of a region waits for
/// no more than one of them: less than a millisecond, against which the announcement costs nothing.
pub const PART: usize = 4 << 20;

/// The initiator's part of the agreement with one owner.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Number of the region, as the owner's record has it.
    number: u64,
    /// The owner's record: the number as long as the region lives.
    live: *const AtomicU64,
    /// The own word that the owner reads.
    announced: *const AtomicU64,
    order: Order,
    /// What the pointers point into.
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointers lead to atomics, which any thread may use; what they lie in is kept alive by `_keep`.
unsafe impl Send for Watch {}
// SAFETY: as above. That one thread at a time announces is the promise of `Watch::new`.
unsafe impl Sync for Watch {}

impl Watch {
    /// An agreement on the region `number`.
    ///
    /// # Safety
    /// Both words stay valid as long as `keep` does, or as long as the watch is used. Of all watches with the same word
    /// `announced`, one is used at a time.
    pub unsafe fn new(
        number: u64,
        live: *const AtomicU64,
        announced: *const AtomicU64,
        order: Order,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Watch {
        Watch { number, live, announced, order, _keep: keep }
    }

    /// Runs `access` while the owner knows of it.
    ///
    /// # Errors
    /// [`Error::Key`] when the region has ended; and what `access` says.
    #[inline(always)]
    pub fn during<T>(&self, access: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        // SAFETY: valid by the promise of `new`.
        let (live, announced) = unsafe { (&*self.live, &*self.announced) };
        announced.store(self.number, Ordering::Relaxed);
        match self.order {
            // The paragraph on top says what these are for.
            Order::Fence => fence(Ordering::SeqCst),
            Order::Barrier => compiler_fence(Ordering::SeqCst),
        }
        kill_point!("region.announced");
        // Acquire: the access comes after the look.
        let result = if live.load(Ordering::Acquire) == self.number { access() } else { Err(Error::Key) };
        kill_point!("region.accessed");
        // Release: the access comes before, for the owner's `is_inside`.
        announced.store(0, Ordering::Release);
        kill_point!("region.left");
        result
    }

    /// The owner's question: whether the peer that announces in `announced` is inside the region `number`. To be asked
    /// after the record was cleared and, for peers of [`Order::Barrier`], a process-wide barrier was run; for the others
    /// this runs a fence.
    pub fn is_inside(announced: &AtomicU64, number: u64) -> bool {
        fence(Ordering::SeqCst);
        announced.load(Ordering::Acquire) == number
    }
}

/// A region of a peer, mapped here.
#[derive(Debug, Clone)]
pub struct Window {
    base: *mut u8,
    len: u64,
    access: Access,
    watch: Watch,
    /// What the memory is mapped by.
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is shared with other processes anyway: it is accessed by atomics, or by copies of arbitrary bytes, and
// stays mapped as long as `_keep` lives.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// A window over `len` bytes at `base`.
    ///
    /// # Safety
    /// The memory is mapped readable and writable as long as `keep` lives, or as long as the window is used. Nobody
    /// borrows it.
    pub unsafe fn new(
        base: *mut u8,
        len: u64,
        access: Access,
        watch: Watch,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Window {
        Window { base, len, access, watch, _keep: keep }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True for no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `len` bytes from `from` to `offset`. Words of 4 and 8 bytes at aligned places are stored whole, with Release:
    /// who loads them with Acquire sees every earlier put of this initiator.
    ///
    /// # Errors
    /// [`Error::Access`], [`Error::Bounds`], [`Error::Key`].
    ///
    /// # Safety
    /// `from` is readable for `len` bytes.
    #[inline(always)]
    pub unsafe fn put(&self, offset: u64, from: *const u8, len: usize) -> Result<(), Error> {
        let to = self.place(offset, len, Access::REMOTE_WRITE)?;
        // SAFETY: in bounds of mapped memory (checked), which nobody borrows; `from` by the caller's promise.
        self.in_parts(len, |done, part| unsafe {
            store(to.wrapping_add(done), from.wrapping_add(done), part)
        })
    }

    /// Copies `len` bytes from `offset` to `to`. Words of 4 and 8 bytes at aligned places are loaded whole, with Acquire.
    ///
    /// # Errors
    /// As [`Self::put`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline(always)]
    pub unsafe fn get(&self, offset: u64, to: *mut u8, len: usize) -> Result<(), Error> {
        let from = self.place(offset, len, Access::REMOTE_READ)?;
        // SAFETY: as in `put`, the other way round.
        self.in_parts(len, |done, part| unsafe { load(from.wrapping_add(done), to.wrapping_add(done), part) })
    }

    /// Copies so many bytes, of which each part is announced by itself.
    #[inline(always)]
    fn in_parts(&self, len: usize, copy: impl Fn(usize, usize)) -> Result<(), Error> {
        let part = |done: usize, len: usize| {
            self.watch.during(|| {
                copy(done, len);
                Ok(())
            })
        };
        if len <= PART {
            return part(0, len);
        }
        each_part(len, part)
    }

    /// Runs an atomic operation; the word as it was before.
    ///
    /// # Errors
    /// As [`Self::put`], and [`Error::Misaligned`].
    #[inline(always)]
    pub fn atomic(&self, offset: u64, atomic: &Atomic) -> Result<u64, Error> {
        let at = self.place(offset, atomic.width.bytes(), Access::REMOTE_ATOMIC)?;
        atomic.check_place(at as usize as u64)?;
        // SAFETY: in bounds of mapped memory and aligned (checked); peers access it atomically, or by copies that may
        // see any value.
        self.watch.during(|| Ok(unsafe { atomic.run(at) }))
    }

    #[inline(always)]
    fn place(&self, offset: u64, len: usize, access: Access) -> Result<*mut u8, Error> {
        if !self.access.allows(access) {
            return Err(Error::Access);
        }
        check_bounds(offset, len, self.len)?;
        Ok(self.base.wrapping_add(offset as usize))
    }
}

/// Copies part by part what is long.
#[cold]
fn each_part(len: usize, copy: impl Fn(usize, usize) -> Result<(), Error>) -> Result<(), Error> {
    (0..len).step_by(PART).try_for_each(|done| copy(done, PART.min(len - done)))
}

/// Copies into memory that others read at the same time.
///
/// # Safety
/// Both are valid for `len` bytes.
#[inline(always)]
pub(crate) unsafe fn store(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: valid for `len` bytes by the caller's promise; aligned where a word is made of them (checked).
    unsafe {
        if len == 8 && to.cast::<u64>().is_aligned() {
            (*to.cast::<AtomicU64>()).store(from.cast::<u64>().read_unaligned(), Ordering::Release);
        } else if len == 4 && to.cast::<u32>().is_aligned() {
            (*to.cast::<AtomicU32>()).store(from.cast::<u32>().read_unaligned(), Ordering::Release);
        } else {
            // The two may overlap where an initiator reaches its own region.
            std::ptr::copy(from, to, len);
        }
    }
}

/// Copies out of memory that others write at the same time.
///
/// # Safety
/// Both are valid for `len` bytes.
#[inline(always)]
unsafe fn load(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as in `store`. What is copied is arbitrary bytes to everybody here.
    unsafe {
        if len == 8 && from.cast::<u64>().is_aligned() {
            to.cast::<u64>().write_unaligned((*from.cast::<AtomicU64>()).load(Ordering::Acquire));
        } else if len == 4 && from.cast::<u32>().is_aligned() {
            to.cast::<u32>().write_unaligned((*from.cast::<AtomicU32>()).load(Ordering::Acquire));
        } else {
            std::ptr::copy(from, to, len);
            // What is read after this get is read after its bytes.
            fence(Ordering::Acquire);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::region::{AtomicOp, Width};

    struct Scene {
        memory: Vec<u64>,
        live: Arc<AtomicU64>,
        announced: Arc<AtomicU64>,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { memory: vec![0; 4], live: Arc::new(AtomicU64::new(7)), announced: Arc::default() }
        }

        fn window(&mut self, access: Access) -> Window {
            let keep: Arc<dyn Any + Send + Sync> = Arc::new((self.live.clone(), self.announced.clone()));
            // SAFETY: the scene outlives its windows, and uses one at a time.
            unsafe {
                let watch = Watch::new(7, &*self.live, &*self.announced, Order::Barrier, keep.clone());
                Window::new(self.memory.as_mut_ptr().cast(), 32, access, watch, keep)
            }
        }
    }

    #[test]
    fn bytes_go_in_and_out_at_every_place() {
        let mut scene = Scene::new();
        let window = scene.window(Access::ALL);
        for len in 0..=32usize {
            for offset in 0..=32 - len {
                let bytes: Vec<u8> = (0..len as u8).map(|b| b ^ offset as u8 ^ 0x5a).collect();
                let mut back = vec![0; len];
                // SAFETY: both vectors are `len` long.
                unsafe {
                    window.put(offset as u64, bytes.as_ptr(), len).unwrap();
                    window.get(offset as u64, back.as_mut_ptr(), len).unwrap();
                }
                assert_eq!(bytes, back, "{len} bytes at {offset}");
            }
        }
        assert_eq!(scene.announced.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name_and_changes_nothing() {
        let mut scene = Scene::new();
        let bytes = [0xffu8; 64];
        let mut back = [0u8; 64];
        let add = Atomic { op: AtomicOp::Add, width: Width::Eight, operand: 1, compare: 0 };
        let reader = scene.window(Access::REMOTE_READ);
        let writer = scene.window(Access::REMOTE_WRITE);
        let all = scene.window(Access::ALL);
        // SAFETY: the arrays are longer than anything asked for.
        unsafe {
            assert_eq!(reader.put(0, bytes.as_ptr(), 1), Err(Error::Access));
            assert_eq!(writer.get(0, back.as_mut_ptr(), 1), Err(Error::Access));
            for (offset, len) in [(32, 1), (0, 33), (25, 8), (u64::MAX, 1), (u64::MAX - 7, 8)] {
                assert_eq!(all.put(offset, bytes.as_ptr(), len), Err(Error::Bounds));
                assert_eq!(all.get(offset, back.as_mut_ptr(), len), Err(Error::Bounds));
            }
        }
        assert_eq!(writer.atomic(0, &add), Err(Error::Access));
        assert_eq!(all.atomic(4, &add), Err(Error::Misaligned));
        assert_eq!(all.atomic(32, &add), Err(Error::Bounds));
        scene.live.store(9, Ordering::Relaxed);
        // SAFETY: as above.
        assert_eq!(unsafe { all.put(0, bytes.as_ptr(), 8) }, Err(Error::Key));
        assert_eq!(all.atomic(0, &add), Err(Error::Key));
        assert_eq!((scene.memory.as_slice(), back), (&[0; 4][..], [0; 64]));
        assert_eq!(scene.announced.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_accesses_are_announced_in_parts() {
        let mut scene = Scene::new();
        let len = 2 * PART + 8;
        scene.memory = vec![3; len / 8];
        let base: *mut u8 = scene.memory.as_mut_ptr().cast();
        let window = Window { base, len: len as u64, ..scene.window(Access::ALL) };
        let mut bytes = vec![9u8; len];
        // SAFETY: the vector is as long as what is asked for, as is the memory.
        unsafe {
            window.put(0, bytes.as_ptr(), len).unwrap();
            bytes.fill(0);
            window.get(0, bytes.as_mut_ptr(), len).unwrap();
        }
        assert!(bytes.iter().all(|byte| *byte == 9));
        // The first part ends the region, since the word that says that it lives is in the memory that is written.
        let number = u64::from_ne_bytes([9; 8]);
        let keep: Arc<dyn Any + Send + Sync> = Arc::new(scene.announced.clone());
        let ended = |live: *const AtomicU64| Window {
            // SAFETY: both words outlive the window, of which one is used at a time.
            watch: unsafe { Watch::new(number, live, &*scene.announced, Order::Barrier, keep.clone()) },
            ..window.clone()
        };
        let mut other = vec![9u64.wrapping_mul(0x0101_0101_0101_0101); len / 8];
        let zeros = vec![0u8; len];
        // SAFETY: as above.
        unsafe {
            let put = ended(base.cast()).put(0, zeros.as_ptr(), len);
            assert_eq!(
                (put, scene.memory[PART / 8 - 1], scene.memory[PART / 8]),
                (Err(Error::Key), 0, number)
            );
            let to: *mut u8 = other.as_mut_ptr().cast();
            let get = ended(to.cast()).get(0, to, len);
            assert_eq!((get, other[PART / 8 - 1], other[PART / 8]), (Err(Error::Key), 0, number));
        }
    }

    #[test]
    fn the_owner_sees_who_is_inside() {
        let mut scene = Scene::new();
        let window = scene.window(Access::ALL);
        let inside = window.watch.during(|| Ok(Watch::is_inside(&scene.announced, 7)));
        assert_eq!(inside, Ok(true));
        assert!(!Watch::is_inside(&scene.announced, 7));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::relax;
    use loom::sync::atomic::AtomicBool;

    /// After the owner has found nobody inside, no access happens.
    #[test]
    fn no_access_follows_the_end_of_a_region() {
        loom::model(|| {
            let live = Arc::new(AtomicU64::new(7));
            let announced = Arc::new(AtomicU64::new(0));
            let over = loom::sync::Arc::new(AtomicBool::new(false));
            let (l, a, o) = (live.clone(), announced.clone(), over.clone());
            let initiator = loom::thread::spawn(move || {
                let keep: Arc<dyn Any + Send + Sync> = Arc::new(());
                // SAFETY: both words are kept by this thread's references.
                let watch = unsafe { Watch::new(7, &*l, &*a, Order::Fence, keep) };
                let _ = watch.during(|| {
                    assert!(!o.load(Ordering::Relaxed), "an access after the end");
                    Ok(())
                });
            });
            live.store(0, Ordering::Relaxed);
            while Watch::is_inside(&announced, 7) {
                relax();
            }
            over.store(true, Ordering::Relaxed);
            initiator.join().unwrap();
        });
    }
}
