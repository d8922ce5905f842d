//! Memory of the caller and memory of a peer, as the protocol sees them.
//!
//! [`Iov`] is a promise by the caller about private memory; [`Gather`] a window over some; [`PeerBytes`] are
//! bytes that a peer may change while they are read, so nobody borrows them: they are copied out, once.

use std::marker::PhantomData;

use crate::copy::copy;
use crate::sync::{AtomicU64, Ordering};

/// Host memory; the only kind that rails move today. Other kinds are refused by name.
pub const MEMORY_HOST: u32 = 0;
/// Memory of an accelerator; known to the ABI, moved by no rail yet.
pub const MEMORY_DEVICE: u32 = 1;
/// The NUMA node is not known.
pub const NUMA_UNKNOWN: u32 = u32::MAX;

/// One piece of the caller's memory. The C ABI's `gridnet_iov`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Iov {
    base: *mut u8,
    len: usize,
    memory_kind: u32,
    numa_node: u32,
}

// SAFETY: an `Iov` is an address and a promise about it (see `Iov::new`); the promise holds on any thread.
unsafe impl Send for Iov {}
// SAFETY: as above; it has no interior mutability of its own.
unsafe impl Sync for Iov {}

impl Iov {
    /// Names `len` bytes at `base`.
    ///
    /// # Safety
    /// Until the operation that takes it completes, the memory is valid for reads, and for writes when the
    /// operation receives; nothing else writes it, and nothing else reads it when the operation receives.
    #[inline]
    pub const unsafe fn new(base: *mut u8, len: usize) -> Iov {
        Iov { base, len, memory_kind: MEMORY_HOST, numa_node: NUMA_UNKNOWN }
    }

    /// No bytes.
    pub const EMPTY: Iov = Iov {
        base: std::ptr::NonNull::dangling().as_ptr(),
        len: 0,
        memory_kind: MEMORY_HOST,
        numa_node: NUMA_UNKNOWN,
    };

    /// Length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it starts.
    #[inline]
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    /// [`MEMORY_HOST`] or another kind.
    pub const fn memory_kind(&self) -> u32 {
        self.memory_kind
    }
}

/// A window over pieces of memory: `len` bytes after the first `skip`.
#[derive(Debug, Clone, Copy)]
pub struct Gather<'a> {
    iov: &'a [Iov],
    skip: usize,
    len: usize,
}

impl<'a> Gather<'a> {
    /// No bytes.
    pub const EMPTY: Gather<'static> = Gather { iov: &[], skip: 0, len: 0 };

    /// Everything that `iov` names.
    #[inline]
    pub fn all(iov: &'a [Iov]) -> Gather<'a> {
        Gather { iov, skip: 0, len: iov.iter().map(Iov::len).sum() }
    }

    /// One piece.
    #[inline(always)]
    pub fn one(iov: &'a Iov) -> Gather<'a> {
        Gather { iov: std::slice::from_ref(iov), skip: 0, len: iov.len }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The window from `from`, at most `len` bytes long; clipped to this one.
    pub fn window(&self, from: usize, len: usize) -> Gather<'a> {
        let from = from.min(self.len);
        Gather { iov: self.iov, skip: self.skip + from, len: len.min(self.len - from) }
    }

    /// Address and length of each piece.
    pub fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize)> + 'a {
        let (mut skip, mut left) = (self.skip, self.len);
        self.iov.iter().filter_map(move |piece| {
            let from = skip.min(piece.len);
            skip -= from;
            let len = (piece.len - from).min(left);
            left -= len;
            (len > 0).then(|| (piece.base.wrapping_add(from), len))
        })
    }

    /// Copies the bytes to consecutive memory.
    ///
    /// # Safety
    /// `to` is valid for writes of [`Self::len`] bytes that overlap none of the pieces.
    #[inline]
    pub unsafe fn copy_out(&self, mut to: *mut u8) {
        for (from, len) in self.pieces() {
            // SAFETY: the piece is readable by the promise of `Iov::new`; `to` by that of the caller.
            unsafe {
                copy(from, to, len);
                to = to.add(len);
            }
        }
    }

    /// Stores the bytes into words of a slot, which have room for them. Each word is loaded and stored whole: an array in
    /// between would be written in words and read in pairs, which the processor's store buffer cannot forward.
    #[inline(always)]
    pub fn store_words(&self, to: &[AtomicU64]) {
        debug_assert!(self.len <= to.len() * 8);
        if let ([piece], 0) = (self.iov, self.skip) {
            // SAFETY: the piece is readable for `len` bytes by the promise of `Iov::new`, and `len` is within it.
            unsafe { load_words(piece.base, self.len, to) };
        } else {
            self.store_gathered(to);
        }
    }

    #[cold]
    fn store_gathered(&self, to: &[AtomicU64]) {
        let mut bytes = [0u8; 64];
        if self.len > bytes.len() {
            return;
        }
        // SAFETY: the array has room for `len` bytes (checked); it is private, so it overlaps nothing.
        unsafe {
            self.copy_out(bytes.as_mut_ptr());
            load_words(bytes.as_ptr(), self.len, to);
        }
    }
}

/// # Safety
/// `from` is readable for `len` bytes.
#[inline(always)]
unsafe fn load_words(from: *const u8, len: usize, to: &[AtomicU64]) {
    for (i, word) in to.iter().enumerate() {
        let at = i * 8;
        if at + 8 <= len {
            // SAFETY: these eight bytes lie within `len`.
            word.store(unsafe { from.add(at).cast::<u64>().read_unaligned() }, Ordering::Relaxed);
        } else {
            if at < len {
                // SAFETY: the last len - at bytes lie within `len`.
                word.store(unsafe { load_partial(from.add(at), len - at) }, Ordering::Relaxed);
            }
            break;
        }
    }
}

/// The bytes as the first ones of a word, by two loads that may overlap instead of a call to memcpy.
///
/// # Safety
/// `from` is readable for `len` bytes, 1 to 7.
#[inline(always)]
unsafe fn load_partial(from: *const u8, len: usize) -> u64 {
    if cfg!(target_endian = "big") {
        let mut bytes = [0u8; 8];
        // SAFETY: `len` is at most 7.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        return u64::from_ne_bytes(bytes);
    }
    // SAFETY: each load ends at or before `len`.
    unsafe {
        if len >= 4 {
            let last = from.add(len - 4).cast::<u32>().read_unaligned();
            u64::from(from.cast::<u32>().read_unaligned()) | u64::from(last) << ((len - 4) * 8)
        } else if len >= 2 {
            let last = from.add(len - 2).cast::<u16>().read_unaligned();
            u64::from(from.cast::<u16>().read_unaligned()) | u64::from(last) << ((len - 2) * 8)
        } else {
            u64::from(from.read())
        }
    }
}

/// The first bytes of a word, by two stores that may overlap.
///
/// # Safety
/// `to` is writable for `len` bytes, 1 to 7.
#[inline(always)]
unsafe fn store_partial(word: u64, to: *mut u8, len: usize) {
    if cfg!(target_endian = "big") {
        // SAFETY: `len` is at most 7.
        unsafe { std::ptr::copy_nonoverlapping(word.to_ne_bytes().as_ptr(), to, len) };
        return;
    }
    // SAFETY: each store ends at or before `len`.
    unsafe {
        if len >= 4 {
            to.cast::<u32>().write_unaligned(word as u32);
            to.add(len - 4).cast::<u32>().write_unaligned((word >> ((len - 4) * 8)) as u32);
        } else if len >= 2 {
            to.cast::<u16>().write_unaligned(word as u16);
            to.add(len - 2).cast::<u16>().write_unaligned((word >> ((len - 2) * 8)) as u16);
        } else {
            to.write(word as u8);
        }
    }
}

/// Bytes that a peer may change at any time.
#[derive(Debug, Clone, Copy)]
pub enum PeerBytes<'a> {
    /// The first `len` bytes of some words of a slot.
    Words(&'a [AtomicU64], usize),
    /// Bytes of a mapped segment, or private bytes of a rail.
    Raw(RawBytes<'a>),
}

/// See [`PeerBytes::Raw`].
#[derive(Debug, Clone, Copy)]
pub struct RawBytes<'a> {
    base: *const u8,
    len: usize,
    alive: PhantomData<&'a ()>,
}

impl<'a> PeerBytes<'a> {
    /// No bytes.
    pub const EMPTY: PeerBytes<'static> = PeerBytes::Words(&[], 0);

    /// Names `len` bytes at `base`.
    ///
    /// # Safety
    /// The memory stays mapped readable for `'a`. Others may write it meanwhile: it is only ever read by copying, and
    /// what was copied is treated as arbitrary bytes.
    #[inline]
    pub unsafe fn raw(base: *const u8, len: usize) -> PeerBytes<'a> {
        PeerBytes::Raw(RawBytes { base, len, alive: PhantomData })
    }

    /// Private bytes that nobody changes.
    pub fn from_slice(bytes: &'a [u8]) -> PeerBytes<'a> {
        PeerBytes::Raw(RawBytes { base: bytes.as_ptr(), len: bytes.len(), alive: PhantomData })
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            PeerBytes::Words(_, len) => *len,
            PeerBytes::Raw(raw) => raw.len,
        }
    }

    /// True for no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where consecutive bytes begin; none for those of a slot.
    #[inline]
    pub fn address(&self) -> Option<*const u8> {
        match self {
            PeerBytes::Words(..) => None,
            PeerBytes::Raw(raw) => Some(raw.base),
        }
    }

    /// Copies as many bytes as both sides have; returns how many.
    #[inline(always)]
    pub fn copy_to(&self, to: &Gather<'_>) -> usize {
        let len = self.len().min(to.len());
        if let (PeerBytes::Words(words, _), [piece], 0) = (self, to.iov, to.skip) {
            // SAFETY: the piece is writable by the promise of `Iov::new`, and `len` is within it.
            unsafe { store_words(words, len, piece.base) };
        } else {
            self.scatter(to, len);
        }
        len
    }

    /// Where the bytes are, unless they are words of a slot. They may change at any time.
    pub fn as_raw(&self) -> Option<*const u8> {
        match self {
            PeerBytes::Words(..) => None,
            PeerBytes::Raw(raw) => Some(raw.base),
        }
    }

    /// Copies the bytes into a new vector.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.reserve_exact(self.len());
        self.append_to(&mut bytes);
        bytes
    }

    /// A copy behind what is in `bytes`.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.reserve(self.len());
        // SAFETY: the vector has room for as many bytes behind `start`, all of which are written before its length says so.
        unsafe {
            self.copy_range(0, self.len(), bytes.as_mut_ptr().add(start));
            bytes.set_len(start + self.len());
        }
    }

    fn scatter(&self, to: &Gather<'_>, len: usize) {
        let mut done = 0;
        for (piece, piece_len) in to.window(0, len).pieces() {
            // SAFETY: the window is `len` long, which both sides have; the piece is writable by the promise of `Iov::new`.
            unsafe { self.copy_range(done, piece_len, piece) };
            done += piece_len;
        }
    }

    /// # Safety
    /// `from + len` is at most the length; `to` is writable for `len` bytes and private.
    unsafe fn copy_range(&self, from: usize, len: usize, to: *mut u8) {
        match self {
            PeerBytes::Words(words, _) => {
                for i in 0..len {
                    let at = from + i;
                    let word = words.get(at / 8).map_or(0, |w| w.load(Ordering::Relaxed));
                    // SAFETY: i < len.
                    unsafe { to.add(i).write(word.to_ne_bytes()[at % 8]) };
                }
            }
            // SAFETY: in bounds by the contract. A peer that writes at the same time makes the copied bytes arbitrary,
            // which is all that is assumed of them.
            PeerBytes::Raw(raw) => unsafe { copy(raw.base.add(from), to, len) },
        }
    }
}

/// # Safety
/// `to` is writable for `len` bytes.
#[inline(always)]
unsafe fn store_words(words: &[AtomicU64], len: usize, to: *mut u8) {
    for (i, word) in words.iter().enumerate() {
        let at = i * 8;
        if at + 8 <= len {
            // SAFETY: these eight bytes lie within `len`.
            unsafe { to.add(at).cast::<u64>().write_unaligned(word.load(Ordering::Relaxed)) };
        } else {
            if at < len {
                // SAFETY: the last len - at bytes lie within `len`.
                unsafe { store_partial(word.load(Ordering::Relaxed), to.add(at), len - at) };
            }
            break;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn iov(bytes: &mut [u8]) -> Iov {
        // SAFETY: the tests keep the slice alive and touch it only between operations.
        unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) }
    }

    #[test]
    fn words_and_bytes_agree_at_every_length() {
        let mut source: Vec<u8> = (1..=48).collect();
        for len in 0..=48 {
            let piece = iov(&mut source[..len]);
            let slot: [AtomicU64; 6] = Default::default();
            Gather::one(&piece).store_words(&slot);
            let mut whole = vec![0xee; 50];
            let target = iov(&mut whole);
            assert_eq!(PeerBytes::Words(&slot, len).copy_to(&Gather::one(&target)), len);
            assert_eq!((&whole[..len], whole[len]), (&source[..len], 0xee));
            assert_eq!(PeerBytes::Words(&slot, len).to_vec(), &source[..len]);
        }
    }

    #[test]
    fn windows_over_pieces_gather_and_scatter() {
        let mut a = *b"abc";
        let mut b = *b"";
        let mut c = *b"defgh";
        let pieces = [iov(&mut a), iov(&mut b), iov(&mut c)];
        let all = Gather::all(&pieces);
        for from in 0..9 {
            for len in 0..9 {
                let window = all.window(from, len);
                let mut out = vec![0; window.len()];
                // SAFETY: `out` is as long as the window.
                unsafe { window.copy_out(out.as_mut_ptr()) };
                assert_eq!(out, &b"abcdefgh"[from.min(8)..(from + len).min(8)]);
                let word = AtomicU64::default();
                window.store_words(std::slice::from_ref(&word));
                assert_eq!(&word.into_inner().to_ne_bytes()[..out.len()], &out[..]);
            }
        }
        let (mut x, mut y) = ([0u8; 2], [0u8; 4]);
        let target = [iov(&mut x), iov(&mut y)];
        assert_eq!(PeerBytes::from_slice(b"12345").copy_to(&Gather::all(&target)), 5);
        assert_eq!((&x, &y), (b"12", b"345\0"));
        assert_eq!(PeerBytes::from_slice(b"987654321").copy_to(&Gather::all(&target)), 6);
        assert_eq!((&x, &y), (b"98", b"7654"));
    }
}
