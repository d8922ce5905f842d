//! The objects of libibverbs, each of which holds what it was made from, and goes before that.

use std::ffi::{c_int, CStr};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use nix::libc;

use super::abi::{self, *};
use super::library::{library, Library};

/// An object, and how it is destroyed.
struct Object<T> {
    at: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T) -> c_int,
    what: &'static str,
    /// The process that made it.
    process: u32,
    /// It was destroyed, or that has failed.
    is_over: bool,
}

// SAFETY: the library is made for threads: its objects may be used and destroyed by any of them.
unsafe impl<T> Send for Object<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Object<T> {}

impl<T> Object<T> {
    /// What a function of the library has returned, whose reason is in errno.
    fn made(
        at: *mut T,
        destroy: unsafe extern "C" fn(*mut T) -> c_int,
        what: &'static str,
    ) -> io::Result<Object<T>> {
        let Some(at) = NonNull::new(at) else {
            let e = io::Error::last_os_error();
            return Err(io::Error::new(e.kind(), format!("{what}: {e}")));
        };
        Ok(Object { at, destroy, what, process: std::process::id(), is_over: false })
    }

    fn ptr(&self) -> *mut T {
        self.at.as_ptr()
    }

    /// Destroys it, if that was not tried before; false when the driver does not let go of it.
    fn destroy(&mut self) -> bool {
        // In a child that was forked: the object is its parent's, and the device knows no difference.
        if std::process::id() != self.process || std::mem::replace(&mut self.is_over, true) {
            return true;
        }
        // SAFETY: it was made by the library, is destroyed once, and what was made from it is gone, as that holds it.
        let code = unsafe { (self.destroy)(self.ptr()) };
        if code != 0 {
            tracing::warn!(object = self.what, code, "the adapter's driver does not let go of it");
        }
        code == 0
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// Names of the devices of this host.
///
/// # Errors
/// Why the library cannot be had, and what the system says.
pub fn device_names() -> io::Result<Vec<String>> {
    with_devices(|lib, devices| {
        devices
            .iter()
            .map(|device| {
                // SAFETY: the device is in the list; its name is a C string that lives as long.
                unsafe { CStr::from_ptr((lib.device_name)(*device)) }.to_string_lossy().into_owned()
            })
            .collect()
    })
}

fn with_devices<R>(look: impl FnOnce(&'static Library, &[*mut abi::Device]) -> R) -> io::Result<R> {
    let lib = library().map_err(io::Error::other)?;
    let mut count = 0;
    // SAFETY: the count is written.
    let list = unsafe { (lib.device_list)(&mut count) };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the list has so many devices, and lives until it is freed.
    let devices = unsafe { std::slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0)) };
    let result = look(lib, devices);
    // SAFETY: it is freed once; devices that were opened stay.
    unsafe { (lib.free_device_list)(list) };
    Ok(result)
}

/// An open device: `ibv_context`.
pub struct Context {
    object: Object<abi::Context>,
    lib: &'static Library,
}

impl Context {
    /// Opens the device of this name.
    ///
    /// # Errors
    /// When there is none, and what the system says.
    pub fn open(name: &str) -> io::Result<Arc<Context>> {
        with_devices(|lib, devices| {
            // SAFETY: as in `device_names`.
            let is_it = |device: &&*mut abi::Device| unsafe {
                CStr::from_ptr((lib.device_name)(**device)).to_bytes() == name.as_bytes()
            };
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no device {name}"));
            let device = devices.iter().find(is_it).ok_or_else(missing)?;
            // SAFETY: the device is in the list.
            let object = Object::made(unsafe { (lib.open_device)(*device) }, lib.close_device, "device")?;
            let context = Context { object, lib };
            set_nonblocking(context.async_fd())?;
            Ok(Arc::new(context))
        })?
    }

    /// What the device can do.
    ///
    /// # Errors
    /// What the system says.
    pub fn query(&self) -> io::Result<DeviceAttr> {
        // SAFETY: zeros are a value of all its fields.
        let mut attr: DeviceAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, the attributes are written.
        checked(unsafe { (self.lib.query_device)(self.object.ptr(), &mut attr) })?;
        Ok(attr)
    }

    /// The state of a port.
    ///
    /// # Errors
    /// What the system says.
    pub fn query_port(&self, port: u8) -> io::Result<PortAttr> {
        // SAFETY: zeros are a value of all its fields. The function writes those that the struct had in the first version, which
        // are its beginning.
        let mut attr: PortAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, the attributes are written.
        checked(unsafe { (self.lib.query_port)(self.object.ptr(), port, &mut attr) })?;
        Ok(attr)
    }

    /// The descriptor of asynchronous events.
    pub fn async_fd(&self) -> RawFd {
        // SAFETY: the context is open; the field does not change.
        unsafe { (*self.object.ptr()).async_fd }
    }

    /// The next asynchronous event, by its number.
    pub fn take_event(&self) -> Option<c_int> {
        let mut event = AsyncEvent { element: ptr::null_mut(), event_type: 0 };
        // SAFETY: the context is open, and its descriptor does not block; the event is written.
        if unsafe { (self.lib.get_async_event)(self.object.ptr(), &mut event) } != 0 {
            return None;
        }
        // SAFETY: it was taken just now, and what it is about is there: nothing is destroyed before its events are acknowledged.
        unsafe { (self.lib.ack_async_event)(&mut event) };
        Some(event.event_type)
    }
}

/// A protection domain.
pub struct Pd {
    object: Object<abi::Pd>,
    context: Arc<Context>,
}

impl Pd {
    /// One of this device.
    ///
    /// # Errors
    /// What the system says.
    pub fn alloc(context: &Arc<Context>) -> io::Result<Arc<Pd>> {
        let lib = context.lib;
        // SAFETY: the context is open.
        let made = unsafe { (lib.alloc_pd)(context.object.ptr()) };
        let object = Object::made(made, lib.dealloc_pd, "protection domain")?;
        Ok(Arc::new(Pd { object, context: context.clone() }))
    }
}

/// A memory region: registered until it is dropped.
pub struct Mr {
    object: Object<abi::Mr>,
    _pd: Arc<Pd>,
}

impl Mr {
    /// Registers memory; `access` is a set of `IBV_ACCESS_*`.
    ///
    /// # Safety
    /// The memory stays until the region is dropped, and whoever reaches it meanwhile knows that the device may, too.
    ///
    /// # Errors
    /// What the system says; "cannot allocate memory" is mostly the limit of locked memory (`ulimit -l`).
    pub unsafe fn register(pd: &Arc<Pd>, base: *mut u8, len: usize, access: u32) -> io::Result<Mr> {
        let lib = pd.context.lib;
        // SAFETY: the domain is there; of the memory the caller answers.
        let made = unsafe { (lib.reg_mr)(pd.object.ptr(), base.cast(), len, access as c_int) };
        let object = Object::made(made, lib.dereg_mr, "memory region")?;
        Ok(Mr { object, _pd: pd.clone() })
    }

    /// Deregisters it; false when the driver does not let go of the memory, which the device may then still reach.
    #[must_use]
    pub fn deregister(mut self) -> bool {
        self.object.destroy()
    }

    /// The key for work requests of this side.
    pub fn lkey(&self) -> u32 {
        // SAFETY: the region is there; the field does not change.
        unsafe { (*self.object.ptr()).lkey }
    }

    /// The key for those of peers.
    pub fn rkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.object.ptr()).rkey }
    }
}

/// A completion channel: a descriptor that is readable when a queue that was armed has a completion.
pub struct Channel {
    object: Object<CompChannel>,
    context: Arc<Context>,
}

impl Channel {
    /// One that does not block.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(context: &Arc<Context>) -> io::Result<Arc<Channel>> {
        let lib = context.lib;
        // SAFETY: the context is open.
        let made = unsafe { (lib.create_comp_channel)(context.object.ptr()) };
        let object = Object::made(made, lib.destroy_comp_channel, "completion channel")?;
        let channel = Channel { object, context: context.clone() };
        set_nonblocking(channel.fd())?;
        Ok(Arc::new(channel))
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        // SAFETY: the channel is there; the field does not change.
        unsafe { (*self.object.ptr()).fd }
    }

    /// Takes an event, if there is one, and acknowledges it.
    pub fn take_event(&self) -> bool {
        let (mut cq, mut of) = (ptr::null_mut(), ptr::null_mut());
        let lib = self.context.lib;
        // SAFETY: the channel is there, and its descriptor does not block; both are written.
        if unsafe { (lib.get_cq_event)(self.object.ptr(), &mut cq, &mut of) } != 0 {
            return false;
        }
        // SAFETY: the queue is there: it is not destroyed before its events are acknowledged.
        unsafe { (lib.ack_cq_events)(cq, 1) };
        true
    }
}

/// A completion queue.
pub struct Cq {
    object: Object<abi::Cq>,
    _channel: Option<Arc<Channel>>,
    _context: Arc<Context>,
}

impl Cq {
    /// One for so many completions at least, whose events go to the channel.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(
        context: &Arc<Context>,
        capacity: u32,
        channel: Option<&Arc<Channel>>,
    ) -> io::Result<Arc<Cq>> {
        let lib = context.lib;
        let to = channel.map_or(ptr::null_mut(), |channel| channel.object.ptr());
        let capacity = c_int::try_from(capacity).unwrap_or(c_int::MAX);
        // SAFETY: context and channel are there.
        let made = unsafe { (lib.create_cq)(context.object.ptr(), capacity, ptr::null_mut(), to, 0) };
        let object = Object::made(made, lib.destroy_cq, "completion queue")?;
        Ok(Arc::new(Cq { object, _channel: channel.cloned(), _context: context.clone() }))
    }

    /// Takes completions; how many.
    ///
    /// # Errors
    /// The queue has failed: completions may be lost.
    pub fn poll(&self, into: &mut [Wc]) -> io::Result<usize> {
        let most = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is there, so many completions may be written.
        let count = unsafe { (self.ops().poll_cq)(self.object.ptr(), most, into.as_mut_ptr()) };
        usize::try_from(count).map_err(|_| io::Error::other("the completion queue has failed"))
    }

    /// Has the next completion be told to the channel.
    ///
    /// # Errors
    /// What the driver says.
    pub fn request_notify(&self) -> io::Result<()> {
        // SAFETY: the queue is there.
        checked(unsafe { (self.ops().req_notify_cq)(self.object.ptr(), 0) })
    }

    fn ops(&self) -> &ContextOps {
        // SAFETY: the queue is there, and the context that it is of; its functions do not change.
        unsafe { &(*(*self.object.ptr()).context).ops }
    }
}

/// What a send does; addresses and keys are those of the peer.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// `IBV_WR_SEND`, or with immediate data `IBV_WR_SEND_WITH_IMM`.
    Send(Option<u32>),
    /// `IBV_WR_RDMA_WRITE`, or with immediate data `IBV_WR_RDMA_WRITE_WITH_IMM`.
    Write(u64, u32, Option<u32>),
    /// `IBV_WR_RDMA_READ`
    Read(u64, u32),
    /// `IBV_WR_ATOMIC_CMP_AND_SWP`: compare, swap.
    CompareSwap(u64, u32, u64, u64),
    /// `IBV_WR_ATOMIC_FETCH_AND_ADD`
    FetchAdd(u64, u32, u64),
}

impl Op {
    fn opcode(self) -> c_int {
        match self {
            Op::Send(None) => IBV_WR_SEND,
            Op::Send(Some(_)) => IBV_WR_SEND_WITH_IMM,
            Op::Write(.., None) => IBV_WR_RDMA_WRITE,
            Op::Write(.., Some(_)) => IBV_WR_RDMA_WRITE_WITH_IMM,
            Op::Read(..) => IBV_WR_RDMA_READ,
            Op::CompareSwap(..) => IBV_WR_ATOMIC_CMP_AND_SWP,
            Op::FetchAdd(..) => IBV_WR_ATOMIC_FETCH_AND_ADD,
        }
    }

    fn imm(self) -> u32 {
        match self {
            Op::Send(imm) | Op::Write(.., imm) => imm.unwrap_or(0).to_be(),
            _ => 0,
        }
    }

    fn target(self) -> Target {
        match self {
            Op::Send(_) => Target { atomic: Atomic::default() },
            Op::Write(remote_addr, rkey, _) | Op::Read(remote_addr, rkey) => {
                Target { rdma: Rdma { remote_addr, rkey } }
            }
            Op::CompareSwap(remote_addr, rkey, compare_add, swap) => {
                Target { atomic: Atomic { remote_addr, compare_add, swap, rkey } }
            }
            Op::FetchAdd(remote_addr, rkey, compare_add) => {
                Target { atomic: Atomic { remote_addr, compare_add, swap: 0, rkey } }
            }
        }
    }
}

/// A queue pair of the reliable connected service.
pub struct Qp {
    object: Object<abi::Qp>,
    lib: &'static Library,
    max_inline: u32,
    _queues: (Arc<Cq>, Arc<Cq>),
    _pd: Arc<Pd>,
}

impl Qp {
    /// One in RESET, which tells its completions to these queues, for sends and receives. `cap` is what it has at least.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(pd: &Arc<Pd>, queues: (&Arc<Cq>, &Arc<Cq>), cap: QpCap) -> io::Result<Qp> {
        let lib = pd.context.lib;
        let mut init = QpInitAttr {
            qp_context: ptr::null_mut(),
            send_cq: queues.0.object.ptr(),
            recv_cq: queues.1.object.ptr(),
            srq: ptr::null_mut(),
            cap,
            qp_type: IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: all that is named is there; what it has got is written.
        let made = unsafe { (lib.create_qp)(pd.object.ptr(), &mut init) };
        let object = Object::made(made, lib.destroy_qp, "queue pair")?;
        let queues = (queues.0.clone(), queues.1.clone());
        Ok(Qp { object, lib, max_inline: init.cap.max_inline_data, _queues: queues, _pd: pd.clone() })
    }

    /// Its number.
    pub fn num(&self) -> u32 {
        // SAFETY: the queue pair is there; the field does not change.
        unsafe { (*self.object.ptr()).qp_num }
    }

    /// Bytes of a work request that may be inline.
    pub fn max_inline(&self) -> u32 {
        self.max_inline
    }

    /// Changes attributes: `mask` is a set of `IBV_QP_*`.
    ///
    /// # Errors
    /// What the system says.
    pub fn modify(&self, attr: &mut QpAttr, mask: c_int) -> io::Result<()> {
        // SAFETY: the queue pair is there, the attributes are read.
        checked(unsafe { (self.lib.modify_qp)(self.object.ptr(), attr, mask) })
    }

    /// To ERR.
    ///
    /// # Errors
    /// What the system says.
    pub fn fail(&self) -> io::Result<()> {
        let mut attr = no_attributes();
        attr.qp_state = IBV_QPS_ERR;
        self.modify(&mut attr, IBV_QP_STATE)
    }

    /// Its state: one of `IBV_QPS_*`.
    ///
    /// # Errors
    /// What the system says.
    pub fn state(&self) -> io::Result<c_int> {
        let mut attr = no_attributes();
        // SAFETY: zeros are a value of all its fields.
        let mut init: QpInitAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the queue pair is there; both are written.
        checked(unsafe { (self.lib.query_qp)(self.object.ptr(), &mut attr, IBV_QP_STATE, &mut init) })?;
        Ok(attr.qp_state)
    }

    /// Posts a send of these pieces; `flags` is a set of `IBV_SEND_*`.
    ///
    /// # Safety
    /// With `IBV_SEND_INLINE` the pieces are memory that can be read. Other pieces are checked by the device.
    ///
    /// # Errors
    /// What the driver says, as an error number: `ENOMEM` when the queue is full.
    pub unsafe fn post_send(&self, wr_id: u64, op: Op, pieces: &mut [Sge], flags: u32) -> Result<(), c_int> {
        let mut wr = SendWr {
            wr_id,
            next: ptr::null_mut(),
            sg_list: pieces.as_mut_ptr(),
            num_sge: pieces.len() as c_int,
            opcode: op.opcode(),
            send_flags: flags,
            imm_data: op.imm(),
            wr: op.target(),
            _others: [0; 7],
        };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is there; the request and its list of pieces are read within the call. Of inline pieces the
        // caller answers.
        posted(unsafe { (self.ops().post_send)(self.object.ptr(), &mut wr, &mut bad) })
    }

    /// Posts a receive into these pieces.
    ///
    /// # Errors
    /// What the driver says, as an error number: `ENOMEM` when the queue is full.
    pub fn post_recv(&self, wr_id: u64, pieces: &mut [Sge]) -> Result<(), c_int> {
        let (sg_list, num_sge) = (pieces.as_mut_ptr(), pieces.len() as c_int);
        let mut wr = RecvWr { wr_id, next: ptr::null_mut(), sg_list, num_sge };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is there; the request and its list are read within the call.
        posted(unsafe { (self.ops().post_recv)(self.object.ptr(), &mut wr, &mut bad) })
    }

    fn ops(&self) -> &ContextOps {
        // SAFETY: the queue pair is there, and the context that it is of; its functions do not change.
        unsafe { &(*(*self.object.ptr()).context).ops }
    }
}

/// Attributes of a queue pair, all zero.
pub fn no_attributes() -> QpAttr {
    // SAFETY: zeros are a value of all its fields.
    unsafe { std::mem::zeroed() }
}

macro_rules! debug_by_name {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}

debug_by_name!(Context, Pd, Mr, Channel, Cq, Qp);

/// Functions of verbs return an errno; some drivers -1, and leave it there, or the negative of it.
fn checked(code: c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        code => Err(io::Error::from_raw_os_error(code.abs())),
    }
}

/// The errno of a driver: ENOMEM where a queue is full.
fn posted(code: c_int) -> Result<(), c_int> {
    match code {
        0 => Ok(()),
        -1 => Err(nix::errno::Errno::last_raw()),
        code => Err(code.abs()),
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; its flags are read and set.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 {
            flags
        } else {
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
        }
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
