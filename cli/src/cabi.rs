//! The C interface as safe objects: one method per call, nothing added.
//!
//! `perf` measures what a C program gets, so the calls on the measured path go through pointers that the compiler
//! cannot see through: none is inlined, as none would be out of a shared library.
#![allow(unsafe_code)]

mod loan;
pub(crate) mod region;

pub(crate) use loan::{Loans, Received};

use gridnet_capi as c;
use memmap2::{Advice, MmapMut};
use std::ffi::{c_char, CStr, CString};
use std::fmt;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A call of the C interface that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The function, or what was under way.
    pub(crate) call: &'static str,
    /// What it returned.
    pub(crate) status: c::gridnet_status,
    /// What the library says about it.
    pub(crate) detail: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.call, status_name(self.status), self.detail)
    }
}

impl std::error::Error for CallError {}

/// Version of the library, as text.
pub(crate) fn version() -> String {
    text(c::gridnet_version_string())
}

/// The address of a fabric.
#[derive(Clone)]
pub(crate) struct Address(c::gridnet_address);

impl Address {
    /// From the bytes of [`Fabric::address`], perhaps of another process.
    pub(crate) fn from_bytes(bytes: [u8; 64]) -> Address {
        Address(c::gridnet_address { bytes })
    }
}

/// A `gridnet_fabric`, closed when the last object made from it is gone.
#[derive(Clone)]
pub(crate) struct Fabric(Rc<FabricHandle>);

impl Fabric {
    /// Opens a fabric that others find as `name`, with `options` of the form `NAME=value`.
    pub(crate) fn open(name: Option<&str>, options: &[String]) -> Result<Fabric, CallError> {
        let name = name.map(c_string).transpose()?;
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>, _>>()?;
        let mut option_list: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        option_list.push(ptr::null());
        let params = c::gridnet_fabric_params {
            size: size_of::<c::gridnet_fabric_params>(),
            name: name.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
            thread_level: c::GRIDNET_THREAD_SERIALIZED,
            flags: 0,
            options: option_list.as_ptr(),
        };
        let mut fabric = ptr::null_mut();
        // SAFETY: the strings and the list that `params` points to live until the call is over.
        check("gridnet_fabric_open", unsafe { c::gridnet_fabric_open(&params, &mut fabric) })?;
        Ok(Fabric(Rc::new(FabricHandle(fabric))))
    }

    /// The bytes by which other processes reach the fabric.
    pub(crate) fn address(&self) -> Result<[u8; 64], CallError> {
        let mut address = MaybeUninit::uninit();
        // SAFETY: the fabric is open, the output has the right type.
        let status = unsafe { c::gridnet_fabric_address(self.0 .0, address.as_mut_ptr()) };
        check("gridnet_fabric_address", status)?;
        // SAFETY: outputs are written on success.
        Ok(unsafe { address.assume_init() }.bytes)
    }

    /// Makes a completion queue of default capacity.
    pub(crate) fn cq(&self) -> Result<Cq, CallError> {
        let mut cq = ptr::null_mut();
        // SAFETY: the fabric is open, the output has the right type.
        check("gridnet_cq_create", unsafe { c::gridnet_cq_create(self.0 .0, 0, &mut cq) })?;
        Ok(Cq {
            handle: Rc::new(CqHandle { raw: cq, fabric: self.0.clone() }),
            poll: black_box(c::gridnet_cq_poll),
            wait: black_box(c::gridnet_cq_wait),
            recv: black_box(c::gridnet_tag_recv),
        })
    }
}

/// Handles that one thread at a time may use, whichever it is: those of a fabric at the level SERIALIZED.
///
/// # Safety
/// Whoever has a reference uses nothing but such handles, counts of references to them, and memory that is never freed.
pub(crate) unsafe trait Handles {}

// SAFETY: two handles, and buffers.
unsafe impl Handles for crate::perf::Link {}

/// Has another thread call, and waits for it.
pub(crate) fn in_another_thread<L: Handles, T: Send>(handles: &L, work: impl FnOnce(&L) -> T + Send) -> T {
    struct Lent<'a, L>(&'a L);
    // SAFETY: `Handles` may go from thread to thread; the one that has them here does nothing until the other has ended.
    unsafe impl<L: Handles> Send for Lent<'_, L> {}
    impl<L> Lent<'_, L> {
        fn get(&self) -> &L {
            self.0
        }
    }
    let lent = Lent(handles);
    std::thread::scope(|scope| scope.spawn(move || work(lent.get())).join())
        .expect("a thread that measures does not panic")
}

/// What a completion entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A send is over.
    Send,
    /// A message arrived.
    Recv,
}

/// A completion entry of an operation that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Which operation.
    pub(crate) kind: Kind,
    /// Who sent it.
    pub(crate) source: u32,
}

/// A `gridnet_cq`.
pub(crate) struct Cq {
    handle: Rc<CqHandle>,
    poll: unsafe extern "C" fn(*mut c::gridnet_cq, *mut c::gridnet_completion, usize) -> c::gridnet_status,
    wait:
        unsafe extern "C" fn(*mut c::gridnet_cq, *mut c::gridnet_completion, usize, i64) -> c::gridnet_status,
    recv: RecvCall,
}

type RecvCall = unsafe extern "C" fn(
    *mut c::gridnet_cq,
    *mut c::gridnet_endpoint,
    *mut std::ffi::c_void,
    usize,
    u64,
    u64,
    *mut std::ffi::c_void,
) -> c::gridnet_status;

impl Cq {
    /// One entry, if there is one.
    #[inline]
    pub(crate) fn poll(&self) -> Result<Option<Entry>, CallError> {
        let mut entry = MaybeUninit::uninit();
        // SAFETY: the queue is open, there is room for one entry.
        let status = unsafe { (self.poll)(self.handle.raw, entry.as_mut_ptr(), 1) };
        match status {
            0 => Ok(None),
            // SAFETY: the call says that it wrote one entry.
            1.. => read_entry(unsafe { entry.assume_init_ref() }).map(Some),
            _ => Err(failed("gridnet_cq_poll", status)),
        }
    }

    /// One entry, as soon as there is one.
    #[inline]
    pub(crate) fn wait(&self, timeout: Duration) -> Result<Entry, CallError> {
        let mut entry = MaybeUninit::uninit();
        // SAFETY: the queue is open, there is room for one entry.
        let status = unsafe { (self.wait)(self.handle.raw, entry.as_mut_ptr(), 1, ns(timeout)) };
        match status {
            // SAFETY: the call says that it wrote one entry.
            1.. => read_entry(unsafe { entry.assume_init_ref() }),
            _ => Err(failed("gridnet_cq_wait", status)),
        }
    }

    /// Waits for as long as nothing comes; whether that was all of `timeout`.
    pub(crate) fn wait_in_vain(&self, timeout: Duration) -> Result<bool, CallError> {
        match self.wait(timeout) {
            Ok(_) => Ok(false),
            Err(error) if error.status == c::GRIDNET_ERR_TIMEOUT => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Posts a receive of at most `len` bytes with `tag` from anyone.
    #[inline]
    pub(crate) fn recv(&self, buffer: Buffer, len: usize, tag: u64) -> Result<(), CallError> {
        // SAFETY: the queue is open; `memory` checks the length, and a buffer is never freed.
        let status = unsafe {
            (self.recv)(
                self.handle.raw,
                ptr::null_mut(),
                buffer.memory(len).cast(),
                len,
                tag,
                0,
                ptr::null_mut(),
            )
        };
        check("gridnet_tag_recv", status)
    }

    /// Moves everything on that can be moved.
    pub(crate) fn progress(&self) -> Result<(), CallError> {
        // SAFETY: the fabric is open.
        check("gridnet_fabric_progress", unsafe { c::gridnet_fabric_progress(self.handle.fabric.0) })
    }

    /// Opens an endpoint to `address`.
    pub(crate) fn connect(&self, address: &Address) -> Result<Endpoint, CallError> {
        let mut endpoint = ptr::null_mut();
        // SAFETY: the queue is open, the output has the right type.
        let status = unsafe { c::gridnet_endpoint_open(self.handle.raw, &address.0, &mut endpoint) };
        check("gridnet_endpoint_open", status)?;
        Ok(self.endpoint(endpoint))
    }

    /// Opens an endpoint to the sender of a message.
    pub(crate) fn answer(&self, source: u32) -> Result<Endpoint, CallError> {
        let mut endpoint = ptr::null_mut();
        // SAFETY: the queue is open, the output has the right type.
        let status = unsafe { c::gridnet_endpoint_open_source(self.handle.raw, source, &mut endpoint) };
        check("gridnet_endpoint_open_source", status)?;
        Ok(self.endpoint(endpoint))
    }

    fn endpoint(&self, raw: *mut c::gridnet_endpoint) -> Endpoint {
        Endpoint { raw, send: black_box(c::gridnet_tag_send), _cq: self.handle.clone() }
    }
}

/// How a send was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Done; no entry follows.
    Done,
    /// Under way; an entry follows.
    InFlight,
    /// Not taken: entries have to be polled first.
    Again,
}

/// A `gridnet_endpoint`.
pub(crate) struct Endpoint {
    raw: *mut c::gridnet_endpoint,
    send: SendCall,
    _cq: Rc<CqHandle>,
}

type SendCall = unsafe extern "C" fn(
    *mut c::gridnet_endpoint,
    *const std::ffi::c_void,
    usize,
    u64,
    *mut std::ffi::c_void,
) -> c::gridnet_status;

impl Endpoint {
    /// Sends the first `len` bytes of `buffer` with `tag`.
    #[inline]
    pub(crate) fn send(&self, buffer: Buffer, len: usize, tag: u64) -> Result<Sent, CallError> {
        // SAFETY: the endpoint is open; `memory` checks the length, and a buffer is never freed.
        let status = unsafe { (self.send)(self.raw, buffer.memory(len).cast(), len, tag, ptr::null_mut()) };
        match status {
            c::GRIDNET_OK => Ok(Sent::Done),
            c::GRIDNET_IN_PROGRESS => Ok(Sent::InFlight),
            c::GRIDNET_ERR_AGAIN => Ok(Sent::Again),
            _ => Err(failed("gridnet_tag_send", status)),
        }
    }

    /// Which rails lead to the peer, and why they were chosen.
    pub(crate) fn explain(&self) -> Result<String, CallError> {
        let mut bytes = vec![0u8; 4096];
        let ask = |bytes: &mut [u8]| {
            let mut needed = 0;
            let out = bytes.as_mut_ptr().cast();
            // SAFETY: the endpoint is open, the output has as many bytes as the call is told.
            let status = unsafe { c::gridnet_endpoint_explain(self.raw, out, bytes.len(), &mut needed) };
            (status, needed)
        };
        let (mut status, needed) = ask(&mut bytes);
        if status == c::GRIDNET_ERR_TRUNCATED {
            // Room for it to grow meanwhile.
            bytes.resize(2 * needed, 0);
            (status, _) = ask(&mut bytes);
        }
        check("gridnet_endpoint_explain", status)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SAFETY: open until here, and nobody else has it. A failure leaves it to the fabric, which closes it too.
        unsafe { c::gridnet_endpoint_close(self.raw) };
    }
}

/// Memory for messages. It is never freed: the library may use it as long as an operation is under way, and the
/// few buffers of a measurement serve until the process ends. Large ones lie on huge pages where the system has them, as
/// those of other libraries' benchmarks do.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    /// Bytes that the library writes while we hold references to them: hence atomic.
    bytes: &'static [AtomicU8],
}

impl Buffer {
    /// A buffer for messages of `len` bytes, filled with the pattern of `seed` (so that every page is there).
    pub(crate) fn new(len: usize, seed: u8) -> Buffer {
        let len = len.max(PAGE);
        let mut map = MmapMut::map_anon(len + HUGE_PAGE).expect("the system has memory for a buffer");
        if len >= HUGE_PAGE / 4 {
            // A wish; small pages serve as well.
            let _ = map.advise(Advice::HugePage);
        }
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        map.iter_mut().skip(start).take(len).enumerate().for_each(|(at, byte)| *byte = pattern(at, seed));
        let map: &'static mut MmapMut = Box::leak(Box::new(map));
        // SAFETY: `len` bytes from `start` on, which is below `HUGE_PAGE`, are inside the mapping, which is never unmapped;
        // from here on they are only accessed as atomics, and by the library.
        let bytes =
            unsafe { std::slice::from_raw_parts(map.as_mut_ptr().add(start).cast::<AtomicU8>(), len) };
        Buffer { bytes }
    }

    /// Wipes the edges of the first `len` bytes.
    pub(crate) fn wipe(&self, len: usize) {
        edges(len).for_each(|at| self.bytes[at].store(0xa5, Ordering::Relaxed));
    }

    /// Whether the edges of the first `len` bytes have the pattern of `seed`.
    pub(crate) fn holds(&self, len: usize, seed: u8) -> bool {
        edges(len).all(|at| self.bytes[at].load(Ordering::Relaxed) == pattern(at, seed))
    }

    /// Start of the memory, of which at least `len` bytes may be used.
    #[inline]
    fn memory(&self, len: usize) -> *mut u8 {
        assert!(len <= self.bytes.len(), "a message fits into its buffer");
        self.bytes.as_ptr().cast::<u8>().cast_mut()
    }
}

/// The first and the last bytes of a message: enough to see that it arrived, cheap whatever its size.
fn edges(len: usize) -> impl Iterator<Item = usize> {
    (0..len.min(PAGE)).chain(len.saturating_sub(PAGE).max(PAGE)..len)
}

fn pattern(at: usize, seed: u8) -> u8 {
    (at.wrapping_mul(7) as u8) ^ ((at >> 8) as u8) ^ seed
}

struct FabricHandle(*mut c::gridnet_fabric);

impl Drop for FabricHandle {
    fn drop(&mut self) {
        // SAFETY: open until here; everything made from it holds this handle alive, so nobody uses it any more.
        unsafe { c::gridnet_fabric_close(self.0) };
    }
}

struct CqHandle {
    raw: *mut c::gridnet_cq,
    fabric: Rc<FabricHandle>,
}

impl Drop for CqHandle {
    fn drop(&mut self) {
        // SAFETY: open until here, its endpoints are gone. Posted receives may keep it; then the fabric closes it.
        unsafe { c::gridnet_cq_destroy(self.raw) };
    }
}

#[inline]
fn read_entry(entry: &c::gridnet_completion) -> Result<Entry, CallError> {
    if entry.status < 0 {
        return Err(operation_failed(entry));
    }
    let kind = if entry.op_kind == c::GRIDNET_OP_RECV { Kind::Recv } else { Kind::Send };
    Ok(Entry { kind, source: entry.source })
}

#[cold]
fn operation_failed(entry: &c::gridnet_completion) -> CallError {
    let call = if entry.op_kind == c::GRIDNET_OP_RECV { "receive" } else { "send" };
    let detail = text(c::gridnet_status_text(entry.status));
    CallError { call, status: entry.status, detail }
}

#[inline]
fn check(call: &'static str, status: c::gridnet_status) -> Result<(), CallError> {
    if status < 0 {
        return Err(failed(call, status));
    }
    Ok(())
}

#[cold]
fn failed(call: &'static str, status: c::gridnet_status) -> CallError {
    // Valid until this thread's next call, and copied before.
    let detail = text(c::gridnet_last_error());
    CallError { call, status, detail }
}

fn status_name(status: c::gridnet_status) -> String {
    text(c::gridnet_status_name(status))
}

/// A copy of a string of the library.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the library's strings are terminated and live at least until the thread's next call.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

fn c_string(text: &str) -> Result<CString, CallError> {
    CString::new(text).map_err(|_| CallError {
        call: "argument",
        status: c::GRIDNET_ERR_INVALID,
        detail: format!("{text:?} contains a zero byte"),
    })
}

fn ns(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)
}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_shows_whether_its_message_arrived() {
        for len in [0, 1, 8, PAGE, PAGE + 1, 3 * PAGE] {
            let buffer = Buffer::new(len, 3);
            assert!(buffer.holds(len, 3), "{len}");
            assert!(len == 0 || !buffer.holds(len, 4), "{len}");
            buffer.wipe(len);
            assert!(len == 0 || !buffer.holds(len, 3), "{len}");
        }
    }

    #[test]
    fn edges_count_each_byte_once() {
        assert_eq!(edges(0).count(), 0);
        assert_eq!(edges(PAGE + 1).count(), PAGE + 1);
        assert_eq!(edges(10 * PAGE).collect::<std::collections::HashSet<_>>().len(), 2 * PAGE);
    }
}
