//! Completion queues.

use std::ffi::c_int;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::Arc;

use gridnet::core::completion::Completion;
use gridnet::core::endpoint::CqId;
use gridnet::core::rail::Armed;
use gridnet::Shared;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::fabric::{duration_of, fabric_of, gridnet_fabric, Child, Owner};
use crate::handle::{object, Handle};
use crate::status::{gridnet_status, GRIDNET_BUSY, GRIDNET_OK};

/// gridnet_completion.op_kind: a send.
pub const GRIDNET_OP_SEND: u32 = 1;
/// gridnet_completion.op_kind: a receive.
pub const GRIDNET_OP_RECV: u32 = 2;
/// gridnet_completion.op_kind: a put.
pub const GRIDNET_OP_PUT: u32 = 8;
/// gridnet_completion.op_kind: a get.
pub const GRIDNET_OP_GET: u32 = 9;
/// gridnet_completion.op_kind: an atomic operation.
pub const GRIDNET_OP_ATOMIC: u32 = 10;
/// gridnet_completion.op_kind: a flush.
pub const GRIDNET_OP_FLUSH: u32 = 11;
/// gridnet_completion.op_kind: an endpoint that was opened by node id.
pub const GRIDNET_OP_OPEN: u32 = 12;
/// gridnet_completion.flags: the field immediate is valid.
pub const GRIDNET_COMPLETION_IMMEDIATE: u32 = 1;

/// Names an operation for gridnet_cancel; 0 is none.
pub type gridnet_op = u64;

/// The end of one operation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_completion {
    /// What was given with the operation.
    pub context: *mut std::ffi::c_void,
    /// Length of the message in bytes; of a truncated one, its whole length.
    pub length: u64,
    /// Tag of the message.
    pub tag: u64,
    /// Value that came with the message, if GRIDNET_COMPLETION_IMMEDIATE is in flags.
    pub immediate: u64,
    /// The operation.
    pub op: gridnet_op,
    /// GRIDNET_OK or an error.
    pub status: gridnet_status,
    /// Number of the peer, the same while the fabric is open.
    pub source: u32,
    /// GRIDNET_OP_*.
    pub op_kind: u32,
    /// GRIDNET_COMPLETION_*.
    pub flags: u32,
}

const _: () = assert!(size_of::<gridnet_completion>() == size_of::<Completion>());

/// Most entries that a call can take: their number is its status.
const MAX_COUNT: usize = i32::MAX as usize;

impl From<Completion> for gridnet_completion {
    #[inline(always)]
    fn from(c: Completion) -> gridnet_completion {
        gridnet_completion {
            context: c.context as usize as *mut std::ffi::c_void,
            length: c.length,
            tag: c.tag,
            immediate: c.immediate,
            op: c.op,
            status: c.status,
            source: c.source,
            op_kind: c.kind,
            flags: c.flags,
        }
    }
}

#[derive(Clone)]
pub(crate) struct CqObject {
    pub(crate) owner: Arc<Owner>,
    /// `owner.shared`, one step nearer.
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: CqId,
}

/// A completion queue: where operations report their end.
pub struct gridnet_cq {
    _opaque: [u8; 0],
}

object!(CqObject, b"GN-cqueu", "completion queue");

/// The object behind a queue handle.
///
/// # Safety
/// As `Handle::get`.
#[inline(always)]
pub(crate) unsafe fn cq_of<'a>(cq: *const gridnet_cq) -> Result<&'a CqObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(cq.cast()) }
}

/// Makes a completion queue for at most `capacity` operations under way or completed (0: GRIDNET_CQ_CAPACITY). An
/// operation for which it has no room is refused with GRIDNET_ERR_AGAIN: completions are never lost.
///
/// # Safety
/// `fabric` is NULL or a fabric; `cq_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_cq_create(
    fabric: *mut gridnet_fabric,
    capacity: usize,
    cq_out: *mut *mut gridnet_cq,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let owner = unsafe { fabric_of(fabric)? }.owner.clone();
        if cq_out.is_null() {
            return Err(null("cq_out"));
        }
        let id = {
            let mut guard = owner.shared.enter()?;
            let default = guard.config().cq_capacity;
            guard.engine.create_cq(if capacity == 0 { default } else { capacity })
        };
        let cq: *mut gridnet_cq =
            Handle::open(CqObject { owner: owner.clone(), shared: owner.shared.clone(), id }).cast();
        owner.adopt(Child::Cq(cq));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(cq_out, cq) };
        Ok(GRIDNET_OK)
    })
}

/// Ends a completion queue, and the operations that report to it: their memory is not touched any more, and nothing tells
/// of them. A send of which the peer knows may have been received.
///
/// # Safety
/// `cq` is NULL or a completion queue that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_cq_destroy(cq: *mut gridnet_cq) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { cq_of(cq)? };
        object.owner.shared.enter()?.close_cq(object.id);
        object.owner.disown(Child::Cq(cq));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<CqObject>::close(cq.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// Takes at most `count` completions, and returns how many; looks for new ones first if there are none. Never waits.
///
/// # Safety
/// `cq` is NULL or a completion queue; `entries_out` has room for `count` entries.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_cq_poll(
    cq: *mut gridnet_cq,
    entries_out: *mut gridnet_completion,
    count: usize,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    match unsafe { take_now(cq, entries_out, count, false) } {
        Some(taken) => taken,
        // SAFETY: the caller's promise.
        None => unsafe { poll_guarded(cq, entries_out, count) },
    }
}

/// Takes at most `count` completions, and returns how many; waits for the first at most `timeout_ns` nanoseconds
/// (negative: for ever), in the way that GRIDNET_WAIT_MODE says.
///
/// Errors: GRIDNET_ERR_TIMEOUT.
///
/// # Safety
/// As gridnet_cq_poll.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_cq_wait(
    cq: *mut gridnet_cq,
    entries_out: *mut gridnet_completion,
    count: usize,
    timeout_ns: i64,
) -> gridnet_status {
    // SAFETY: the caller's promise.
    match unsafe { take_now(cq, entries_out, count, timeout_ns != 0) } {
        Some(taken) if taken != 0 => taken,
        // SAFETY: the caller's promise.
        _ => unsafe { wait_guarded(cq, entries_out, count, timeout_ns) },
    }
}

/// A descriptor for poll, select and epoll: readable, after gridnet_cq_arm said GRIDNET_OK, once something has
/// happened. It belongs to the queue and is closed with it.
///
/// # Safety
/// `cq` is NULL or a completion queue; `fd_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_cq_fd(cq: *mut gridnet_cq, fd_out: *mut c_int) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { cq_of(cq)? };
        if fd_out.is_null() {
            return Err(null("fd_out"));
        }
        let fd = object.owner.shared.enter()?.cq_descriptor(object.id)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(fd_out, fd) };
        Ok(GRIDNET_OK)
    })
}

/// Prepares the descriptor for sleep. GRIDNET_OK: it becomes readable when something happens. GRIDNET_BUSY: something
/// has happened already; poll the queue, then arm again.
///
/// # Safety
/// `cq` is NULL or a completion queue.
#[no_mangle]
pub unsafe extern "C" fn gridnet_cq_arm(cq: *mut gridnet_cq) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { cq_of(cq)? };
        let armed = object.owner.shared.enter()?.arm_cq(object.id)?;
        Ok(if armed == Armed::Yes { GRIDNET_OK } else { GRIDNET_BUSY })
    })
}

/// Looks at the short way, before all else is looked at.
const LOOKS: u32 = 4;

/// Takes completions straight into the program's array, after a short look for the first; `patient` for as long as a
/// waiting call polls before it reads the clock. `None` when it cannot.
///
/// # Safety
/// As gridnet_cq_poll.
#[inline(always)]
unsafe fn take_now(
    cq: *mut gridnet_cq,
    entries: *mut gridnet_completion,
    count: usize,
    patient: bool,
) -> Option<gridnet_status> {
    // SAFETY: the caller's promise.
    let object = unsafe { Handle::<CqObject>::peek(cq.cast()) }?;
    let out = NonNull::new(entries.cast::<Completion>())?;
    if count == 0 || count > MAX_COUNT {
        return None;
    }
    let mut fabric = object.shared.enter_plain()?;
    // SAFETY: the caller's promise; the two structs are the same, field by field.
    let (ready, _) = unsafe { fabric.take_quick(object.id, out, count, LOOKS) };
    if ready > 0 {
        return Some(ready as gridnet_status);
    }
    let rounds = if patient { fabric.rounds_before_clock() } else { 1 };
    // What peers have sent is handled in here: a panic stays inside.
    let taken = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise; the two structs are the same, field by field.
        unsafe { fabric.take_into(object.id, out, count, rounds) }
    }));
    match taken {
        Ok(taken) => Some(taken as gridnet_status),
        Err(_) => {
            // Nothing of the fabric is touched any more, also not at the end of the guard.
            std::mem::forget(fabric);
            object.shared.mark_broken();
            None
        }
    }
}

/// The rest of gridnet_cq_wait: patience, and sleep.
///
/// # Safety
/// As gridnet_cq_poll.
#[inline(never)]
unsafe fn wait_guarded(
    cq: *mut gridnet_cq,
    entries_out: *mut gridnet_completion,
    count: usize,
    timeout_ns: i64,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { cq_of(cq)? };
        let mut writer = Writer::new(entries_out, count)?;
        object.shared.wait(object.id, duration_of(timeout_ns), |completion| writer.write(completion))?;
        Ok(writer.written())
    })
}

/// The rest of gridnet_cq_poll: looks for new completions.
///
/// # Safety
/// As gridnet_cq_poll.
#[inline(never)]
unsafe fn poll_guarded(
    cq: *mut gridnet_cq,
    entries_out: *mut gridnet_completion,
    count: usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { cq_of(cq)? };
        let mut writer = Writer::new(entries_out, count)?;
        object.shared.enter()?.take(object.id, |completion| writer.write(completion));
        Ok(writer.written())
    })
}

/// Writes completions into the program's array.
struct Writer {
    next: *mut gridnet_completion,
    left: usize,
    count: usize,
}

impl Writer {
    #[inline(always)]
    fn new(entries: *mut gridnet_completion, count: usize) -> Result<Writer, Failure> {
        if entries.is_null() {
            return Err(null("entries_out"));
        }
        if count == 0 || count > MAX_COUNT {
            return Err(invalid(format!("count is {count}; accepted: 1 to 2147483647")));
        }
        Ok(Writer { next: entries, left: count, count })
    }

    /// Writes one; false when that was the last that fits.
    #[inline(always)]
    fn write(&mut self, completion: Completion) -> bool {
        debug_assert!(self.left > 0);
        // SAFETY: `left` entries have room from `next` on, by the promise of the function's caller.
        unsafe {
            self.next.write(completion.into());
            self.next = self.next.add(1);
        }
        self.left -= 1;
        self.left > 0
    }

    #[inline(always)]
    fn written(&self) -> gridnet_status {
        (self.count - self.left) as gridnet_status
    }
}
