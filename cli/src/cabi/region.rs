//! Regions of the C interface as safe objects.

use super::*;
use std::sync::atomic::AtomicU64;

/// Bytes of a packed key.
pub(crate) const KEY: usize = 64;

/// An allocated `gridnet_region`.
pub(crate) struct Region {
    raw: *mut c::gridnet_region,
    words: &'static [AtomicU64],
    _cq: Rc<CqHandle>,
}

impl Cq {
    /// Allocates a region of at least `len` bytes that peers may put to, get from and count in.
    pub(crate) fn allocate(&self, len: usize) -> Result<Region, CallError> {
        let len = len.next_multiple_of(8);
        let params = c::gridnet_region_params {
            size: size_of::<c::gridnet_region_params>(),
            base: ptr::null_mut(),
            len,
            access: c::GRIDNET_ACCESS_REMOTE_READ
                | c::GRIDNET_ACCESS_REMOTE_WRITE
                | c::GRIDNET_ACCESS_REMOTE_ATOMIC,
            memory_kind: c::GRIDNET_MEMORY_HOST,
            numa_node: c::GRIDNET_NUMA_UNKNOWN,
            flags: 0,
        };
        let (mut raw, mut pointer) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the fabric is open, the outputs have the right types.
        let status =
            unsafe { c::gridnet_region_allocate(self.handle.fabric.0, &params, &mut raw, &mut pointer) };
        check("gridnet_region_allocate", status)?;
        // SAFETY: the region is as long as was asked for, aligned to 128 bytes, zeroed, and accessed as atomics here. The slice
        // does not leave the object, which closes the region at its end.
        let words = unsafe { std::slice::from_raw_parts(pointer.cast::<AtomicU64>(), len / 8) };
        Ok(Region { raw, words, _cq: self.handle.clone() })
    }
}

impl Region {
    /// The key, to be sent to the other side in a buffer.
    pub(crate) fn key(&self) -> Result<[u8; KEY], CallError> {
        let mut key = MaybeUninit::<c::gridnet_key>::uninit();
        // SAFETY: the region is open, the output has the right type.
        check("gridnet_region_key", unsafe { c::gridnet_region_key(self.raw, key.as_mut_ptr()) })?;
        // SAFETY: outputs are written on success.
        Ok(unsafe { key.assume_init() }.bytes)
    }

    /// The word at `index`, which peers may write.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: open until here, and nobody else has it. A failure leaves it to the fabric, which closes it too.
        unsafe { c::gridnet_region_close(self.raw) };
    }
}

/// An imported `gridnet_rkey` with the calls that use it.
pub(crate) struct Remote<'a> {
    raw: *mut c::gridnet_rkey,
    endpoint: &'a Endpoint,
    put: unsafe extern "C" fn(
        *mut c::gridnet_endpoint,
        *const std::ffi::c_void,
        usize,
        *mut c::gridnet_rkey,
        u64,
        *mut std::ffi::c_void,
    ) -> c::gridnet_status,
    get: unsafe extern "C" fn(
        *mut c::gridnet_endpoint,
        *mut std::ffi::c_void,
        usize,
        *mut c::gridnet_rkey,
        u64,
        *mut std::ffi::c_void,
    ) -> c::gridnet_status,
    atomic: unsafe extern "C" fn(
        *mut c::gridnet_endpoint,
        *mut c::gridnet_rkey,
        *const c::gridnet_atomic_params,
    ) -> c::gridnet_status,
}

impl Endpoint {
    /// Imports the key of a region of the peer.
    pub(crate) fn import(&self, bytes: [u8; KEY]) -> Result<Remote<'_>, CallError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the endpoint is open, the key is as long as it has to be, the output has the right type.
        let status = unsafe { c::gridnet_rkey_import(self.raw, &c::gridnet_key { bytes }, &mut raw) };
        check("gridnet_rkey_import", status)?;
        Ok(Remote {
            raw,
            endpoint: self,
            put: black_box(c::gridnet_put),
            get: black_box(c::gridnet_get),
            atomic: black_box(c::gridnet_atomic),
        })
    }
}

impl Remote<'_> {
    /// Puts the first `len` bytes of `buffer` to `offset`.
    #[inline]
    pub(crate) fn put(&self, buffer: Buffer, len: usize, offset: u64) -> Result<Sent, CallError> {
        // SAFETY: endpoint and key are open; `memory` checks the length, and a buffer is never freed.
        let status = unsafe {
            let from = buffer.memory(len).cast();
            (self.put)(self.endpoint.raw, from, len, self.raw, offset, ptr::null_mut())
        };
        sent("gridnet_put", status)
    }

    /// Gets `len` bytes from `offset` into `buffer`.
    #[inline]
    pub(crate) fn get(&self, buffer: Buffer, len: usize, offset: u64) -> Result<Sent, CallError> {
        // SAFETY: as above.
        let status = unsafe {
            let to = buffer.memory(len).cast();
            (self.get)(self.endpoint.raw, to, len, self.raw, offset, ptr::null_mut())
        };
        sent("gridnet_get", status)
    }

    /// Adds to the word at `offset`, and fetches what was there into `buffer`.
    #[inline]
    pub(crate) fn fetch_add(&self, buffer: Buffer, offset: u64, operand: u64) -> Result<Sent, CallError> {
        let params = c::gridnet_atomic_params {
            size: size_of::<c::gridnet_atomic_params>(),
            op: c::GRIDNET_ATOMIC_ADD,
            width: 8,
            offset,
            operand,
            compare: 0,
            result: buffer.memory(8).cast(),
            flags: 0,
            reserved: 0,
            context: ptr::null_mut(),
        };
        // SAFETY: as above; the parameters are copied by the call.
        let status = unsafe { (self.atomic)(self.endpoint.raw, self.raw, &params) };
        sent("gridnet_atomic", status)
    }

    /// Waits for what was started before.
    pub(crate) fn flush(&self) -> Result<Sent, CallError> {
        // SAFETY: the endpoint is open.
        sent("gridnet_flush", unsafe { c::gridnet_flush(self.endpoint.raw, ptr::null_mut()) })
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        // SAFETY: open until here, and nobody else has it. A failure leaves it to the fabric, which closes it too.
        unsafe { c::gridnet_rkey_close(self.raw) };
    }
}

#[inline]
fn sent(call: &'static str, status: c::gridnet_status) -> Result<Sent, CallError> {
    match status {
        c::GRIDNET_OK => Ok(Sent::Done),
        c::GRIDNET_IN_PROGRESS => Ok(Sent::InFlight),
        c::GRIDNET_ERR_AGAIN => Ok(Sent::Again),
        _ => Err(failed(call, status)),
    }
}

impl Buffer {
    /// Writes `bytes` to the start.
    pub(crate) fn write(&self, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(at, byte)| self.bytes[at].store(*byte, Ordering::Relaxed));
    }

    /// Reads the start.
    pub(crate) fn read<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|at| self.bytes[at].load(Ordering::Relaxed))
    }

    /// Writes the word at the start.
    #[inline]
    pub(crate) fn write_word(&self, word: u64) {
        // SAFETY: a buffer has a page at least, which is aligned, and whose bytes are only accessed as atomics.
        let place = unsafe { &*self.memory(8).cast::<AtomicU64>() };
        place.store(word, Ordering::Relaxed);
    }
}
