//! A program of libfabric: one endpoint with what it needs.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::info::Info;
use crate::abi::message::{CqEntry, CqErrEntry, IoVec, Msg, MsgTagged};
use crate::abi::object::*;
use crate::abi::{version, FiAddr, ADDR_UNSPEC};

/// How long a test waits for what has to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The provider.
pub(super) fn provider() -> &'static Provider {
    // SAFETY: nobody writes it here: there is no libfabric.
    unsafe { &*crate::fi_prov_ini().cast::<Provider>() }
}

/// Asks for what there is.
pub(super) fn getinfo(api: u32, hints: *const Info) -> Result<*mut Info, i32> {
    let mut info = std::ptr::null_mut();
    let none = std::ptr::null();
    // SAFETY: hints are NULL or whole.
    match unsafe { (provider().getinfo)(api, none, none, 0, hints, &mut info) } {
        0 => Ok(info),
        error => Err(-error),
    }
}

/// How an endpoint is set up.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub(super) api: u32,
    pub(super) format: u32,
    pub(super) selective: bool,
    /// How its queue is waited in.
    pub(super) wait: u32,
    /// Modes of registration that the program can live with.
    pub(super) mr_mode: i32,
    /// Calls do not overlap, as those of MPIs.
    pub(super) serialized: bool,
    /// The program counts on progress without its calls.
    pub(super) automatic: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            api: version(2, 5),
            format: FORMAT_TAGGED,
            selective: false,
            wait: WAIT_NONE,
            mr_mode: 0,
            serialized: true,
            automatic: false,
        }
    }
}

/// See the [module](self).
pub(super) struct Party {
    info: *mut Info,
    pub(super) fabric: *mut FidFabric,
    pub(super) domain: *mut FidDomain,
    pub(super) av: *mut FidAv,
    pub(super) cq: *mut FidCq,
    pub(super) cntr: *mut FidCntr,
    pub(super) ep: *mut FidEp,
}

/// Calls a function of a table: `call!(object.table.function(arguments))`.
macro_rules! call {
    ($object:expr, $function:ident $(, $argument:expr)*) => {
        // SAFETY: an open object, and arguments as libfabric allows them.
        unsafe { ((*(*$object).ops).$function)($object $(, $argument)*) }
    };
}

/// Closes an object.
pub(super) fn close<F>(fid: *mut F) -> i32 {
    let fid: *mut Fid = fid.cast();
    // SAFETY: an open object.
    unsafe { ((*(*fid).ops).close)(fid) }
}

/// An address vector, a queue and a counter.
pub(super) fn open_others(
    domain: *mut FidDomain,
    format: u32,
    wait_obj: u32,
) -> (*mut FidAv, *mut FidCq, *mut FidCntr) {
    let none = std::ptr::null_mut();
    let (mut av, mut cq, mut cntr) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    let attr = AvAttr {
        kind: AV_TABLE,
        rx_ctx_bits: 0,
        count: 2,
        ep_per_node: 0,
        name: std::ptr::null(),
        map_addr: none,
        flags: 0,
    };
    assert_eq!(call!(domain, av_open, &attr, &mut av, none), 0);
    let attr =
        CqAttr { size: 0, flags: 0, format, wait_obj, signaling_vector: 0, wait_cond: 0, wait_set: none };
    assert_eq!(call!(domain, cq_open, &attr, &mut cq, none), 0);
    assert_eq!(call!(domain, cntr_open, std::ptr::null(), &mut cntr, none), 0);
    (av, cq, cntr)
}

impl Party {
    pub(super) fn new(setup: Setup) -> Party {
        let hints = getinfo(setup.api, std::ptr::null()).unwrap();
        // SAFETY: an answer of the provider's; not used any more when it is released.
        let info = unsafe {
            (*(*hints).domain_attr).mr_mode = setup.mr_mode;
            (*(*hints).domain_attr).data_progress =
                if setup.automatic { PROGRESS_AUTO } else { PROGRESS_MANUAL };
            (*(*hints).domain_attr).threading = if setup.serialized { THREAD_DOMAIN } else { THREAD_SAFE };
            let info = getinfo(setup.api, hints).unwrap();
            crate::info::release(hints);
            info
        };
        let none = std::ptr::null_mut();
        let (mut fabric, mut domain, mut ep) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `info` is an answer of the provider's.
        unsafe {
            assert_eq!((provider().fabric)((*info).fabric_attr, &mut fabric, none), 0);
            (*fabric).api_version = setup.api;
        }
        assert_eq!(call!(fabric, domain, info, &mut domain, none), 0);
        let (av, cq, cntr) = open_others(domain, setup.format, setup.wait);
        assert_eq!(call!(domain, endpoint, info, &mut ep, none), 0);
        let party = Party { info, fabric, domain, av, cq, cntr, ep };
        let selective = if setup.selective { SELECTIVE_COMPLETION } else { 0 };
        assert_eq!(party.bind(av, 0), 0);
        assert_eq!(party.enable(), -errno::ENOCQ);
        assert_eq!(party.bind(cq, SEND | RECV | selective), 0);
        assert_eq!(party.bind(cntr, SEND), 0);
        assert_eq!(party.enable(), 0);
        party
    }

    /// Two parties, each of which has number 0 of its own vector for the other.
    pub(super) fn pair(setup: Setup) -> (Party, Party) {
        let (a, b) = (Party::new(setup), Party::new(setup));
        assert_eq!(a.insert(&b.name()), (1, 0));
        assert_eq!(b.insert(&a.name()), (1, 0));
        (a, b)
    }

    pub(super) fn bind<F>(&self, other: *mut F, flags: u64) -> i32 {
        let fid: *mut Fid = self.ep.cast();
        // SAFETY: open objects.
        unsafe { ((*(*fid).ops).bind)(fid, other.cast(), flags) }
    }

    pub(super) fn enable(&self) -> i32 {
        let fid: *mut Fid = self.ep.cast();
        // SAFETY: an open endpoint.
        unsafe { ((*(*fid).ops).control)(fid, ENABLE, std::ptr::null_mut()) }
    }

    pub(super) fn name(&self) -> [u8; 64] {
        let (mut name, mut len) = ([0; 64], 64);
        // SAFETY: room for 64 bytes.
        let result = unsafe {
            ((*(*self.ep).cm).getname)(self.ep.cast(), name.as_mut_ptr().cast::<c_void>(), &mut len)
        };
        assert_eq!((result, len), (0, 64));
        name
    }

    /// Inserts one address; how many were taken, and its number.
    pub(super) fn insert(&self, name: &[u8; 64]) -> (i32, FiAddr) {
        let mut number = 99;
        let inserted = call!(self.av, insert, name.as_ptr().cast(), 1, &mut number, 0, std::ptr::null_mut());
        (inserted, number)
    }

    /// A tagged send; context is `context`.
    pub(super) fn send(&self, bytes: &[u8], tag: u64, context: usize) -> isize {
        let none = std::ptr::null_mut();
        // SAFETY: tests keep the bytes until the completion.
        unsafe {
            ((*(*self.ep).tagged).send)(
                self.ep,
                bytes.as_ptr().cast(),
                bytes.len(),
                none,
                0,
                tag,
                context as *mut c_void,
            )
        }
    }

    /// A tagged send of pieces with flags, and immediate data.
    pub(super) fn send_pieces(
        &self,
        pieces: &[&[u8]],
        tag: u64,
        data: u64,
        flags: u64,
        context: usize,
    ) -> isize {
        let iov: Vec<IoVec> = pieces
            .iter()
            .map(|piece| IoVec { base: piece.as_ptr().cast_mut().cast(), len: piece.len() })
            .collect();
        let msg = self.tagged(&iov, 0, tag, 0, data, context);
        // SAFETY: as above.
        unsafe { ((*(*self.ep).tagged).sendmsg)(self.ep, &msg, flags) }
    }

    fn tagged(
        &self,
        iov: &[IoVec],
        addr: FiAddr,
        tag: u64,
        ignore: u64,
        data: u64,
        context: usize,
    ) -> MsgTagged {
        let context = context as *mut c_void;
        let desc = std::ptr::null_mut();
        MsgTagged { iov: iov.as_ptr(), desc, iov_count: iov.len(), addr, tag, ignore, context, data }
    }

    /// A tagged receive with flags.
    pub(super) fn receive_flags(
        &self,
        to: &mut [u8],
        from: FiAddr,
        tag: (u64, u64),
        flags: u64,
        context: usize,
    ) -> isize {
        let iov = [IoVec { base: to.as_mut_ptr().cast(), len: to.len() }];
        let msg = self.tagged(&iov, from, tag.0, tag.1, 0, context);
        // SAFETY: as above.
        unsafe { ((*(*self.ep).tagged).recvmsg)(self.ep, &msg, flags) }
    }

    /// A tagged receive of any source.
    pub(super) fn receive(&self, to: &mut [u8], tag: u64, context: usize) -> isize {
        self.receive_flags(to, ADDR_UNSPEC, (tag, 0), COMPLETION, context)
    }

    /// A message without a tag.
    pub(super) fn send_msg(&self, bytes: &[u8], context: usize) -> isize {
        let (none, context) = (std::ptr::null_mut(), context as *mut c_void);
        // SAFETY: as above.
        unsafe { ((*(*self.ep).msg).send)(self.ep, bytes.as_ptr().cast(), bytes.len(), none, 0, context) }
    }

    /// A receive without a tag, with flags.
    pub(super) fn receive_msg(&self, to: &mut [u8], flags: u64, context: usize) -> isize {
        let iov = [IoVec { base: to.as_mut_ptr().cast(), len: to.len() }];
        let context = context as *mut c_void;
        let desc = std::ptr::null_mut();
        let msg = Msg { iov: iov.as_ptr(), desc, iov_count: 1, addr: ADDR_UNSPEC, context, data: 0 };
        // SAFETY: as above.
        unsafe { ((*(*self.ep).msg).recvmsg)(self.ep, &msg, flags) }
    }

    /// Registers memory with these rights, under this key.
    pub(super) fn register(&self, memory: &mut [u8], rights: u64, key: u64) -> Result<*mut FidMr, i32> {
        let mut mr = std::ptr::null_mut();
        let (base, none) = (memory.as_mut_ptr().cast(), std::ptr::null_mut());
        let domain: *mut Fid = self.domain.cast();
        // SAFETY: an open domain; tests keep the memory until they close the registration.
        let result = unsafe {
            ((*(*self.domain).mr).reg)(domain, base, memory.len(), rights, 0, key, 0, &mut mr, none)
        };
        if result == 0 {
            Ok(mr)
        } else {
            Err(-result)
        }
    }

    /// Reads at most one completion, and whom it is from.
    pub(super) fn poll(&self) -> Result<(CqEntry, FiAddr), i32> {
        let mut source = 99;
        let mut entry = std::mem::MaybeUninit::<CqEntry>::zeroed();
        match call!(self.cq, readfrom, entry.as_mut_ptr().cast(), 1, &mut source) {
            // SAFETY: all 0, or written.
            1 => Ok((unsafe { entry.assume_init() }, source)),
            error => Err(-error as i32),
        }
    }

    /// The next completion, while `other` makes progress too.
    pub(super) fn next(&self, other: &Party) -> (CqEntry, FiAddr) {
        self.until(other, |polled| polled.ok())
    }

    /// The next error, while `other` makes progress too.
    pub(super) fn next_error(&self, other: &Party) -> CqErrEntry {
        self.until(other, |polled| (polled.err()? == errno::EAVAIL).then_some(()));
        self.error().unwrap()
    }

    /// The error that waits.
    pub(super) fn error(&self) -> Result<CqErrEntry, i32> {
        let mut entry = std::mem::MaybeUninit::<CqErrEntry>::zeroed();
        match call!(self.cq, readerr, entry.as_mut_ptr(), 0) {
            // SAFETY: all 0, or written.
            1 => Ok(unsafe { entry.assume_init() }),
            error => Err(-error as i32),
        }
    }

    fn until<T>(&self, other: &Party, found: impl Fn(Result<(CqEntry, FiAddr), i32>) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let polled = self.poll();
            assert!(
                polled.is_ok() || polled.as_ref().err() != Some(&errno::EAVAIL) || found(polled).is_some(),
                "{:?}",
                self.error().map(|error| error.err)
            );
            if let Some(found) = found(polled) {
                return found;
            }
            other.drive();
            assert!(Instant::now() < end, "nothing came");
        }
    }

    /// Makes progress, taking nothing.
    pub(super) fn drive(&self) {
        call!(self.cq, read, std::ptr::null_mut(), 0);
    }

    /// Has another endpoint in the place of the first, to which nothing is bound.
    pub(super) fn replace_endpoint(&mut self) {
        self.close_endpoint();
        assert_eq!(call!(self.domain, endpoint, self.info, &mut self.ep, std::ptr::null_mut()), 0);
    }

    /// Opens one more endpoint, which is expected to fail.
    pub(super) fn open_another(&self) -> i32 {
        let mut ep = std::ptr::null_mut();
        call!(self.domain, endpoint, self.info, &mut ep, std::ptr::null_mut())
    }

    /// Ends the endpoint, and leaves the rest.
    pub(super) fn close_endpoint(&mut self) {
        if !self.ep.is_null() {
            assert_eq!(close(self.ep), 0);
            self.ep = std::ptr::null_mut();
        }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.close_endpoint();
        assert_eq!(close(self.domain), -libc::EBUSY, "a domain that is in use does not close");
        for result in
            [close(self.av), close(self.cq), close(self.cntr), close(self.domain), close(self.fabric)]
        {
            assert_eq!(result, 0);
        }
        // SAFETY: an answer of the provider's, not used any more.
        unsafe { crate::info::release(self.info) };
    }
}

pub(super) use call;
