//! `fid_domain`.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::matching::Key;

use crate::abi::flag::{MR_BASIC, MR_PROV_KEY, MR_VIRT_ADDR, PROGRESS_AUTO, THREAD_DOMAIN};
use crate::abi::info::Info;
use crate::abi::object::{missing, DomainOps, Fid, FidDomain, FidOps, CLASS_DOMAIN};
use crate::boundary::guarded_int;
use crate::calls::{atomic, av, cntr, cq, ep, mr};
use crate::object::{head, no_bind, no_control, Object};
use crate::state::{Domain, Wishes};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind: no_bind,
    control: no_control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: DomainOps = DomainOps {
    size: size_of::<DomainOps>(),
    av_open: av::open,
    cq_open: cq::open,
    endpoint: ep::open,
    scalable_ep: missing,
    cntr_open: cntr::open,
    poll_open: missing,
    stx_ctx: missing,
    srx_ctx: missing,
    query_atomic: atomic::query,
    query_collective: missing,
    endpoint2: missing,
};

/// Opens a domain for a program that asked for this API.
///
/// # Safety
/// The parts of `info` are as libfabric says.
pub(crate) unsafe fn open(api: u32, info: &Info, context: *mut c_void) -> Result<*mut FidDomain, i32> {
    let (progress, threading, mr_mode) = match info.domain_attr.is_null() {
        true => (0, 0, 0),
        // SAFETY: the caller's promise; of the attributes, what API 1.5 has.
        false => unsafe {
            let attr = info.domain_attr;
            ((*attr).data_progress, (*attr).threading, (*attr).mr_mode)
        },
    };
    let domain = Domain::new(Wishes {
        api,
        automatic: progress == PROGRESS_AUTO,
        chooses_keys: mr_mode & (MR_PROV_KEY | MR_BASIC) != 0,
        by_address: mr_mode & (MR_VIRT_ADDR | MR_BASIC) != 0,
        // Where operations go on without calls, those may overlap with that.
        serialized: threading == THREAD_DOMAIN && progress != PROGRESS_AUTO,
    });
    let fid = FidDomain { fid: head(CLASS_DOMAIN, context, &FID), ops: &OPS, mr: &mr::OPS };
    Ok(Object::open(fid, Arc::new(domain), Key::from_bits(0)))
}

/// The domain of an object.
///
/// # Safety
/// `fid` is an open domain.
pub(crate) unsafe fn of<'a>(fid: *mut FidDomain) -> Result<&'a Arc<Domain>, i32> {
    // SAFETY: the caller's promise.
    unsafe { Object::<FidDomain>::of(fid).map(|object| &object.domain) }
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open domain.
        let domain = unsafe { of(fid.cast()) }?;
        // Each object of a domain holds it.
        if Arc::strong_count(domain) > 1 {
            return Err(libc::EBUSY);
        }
        // SAFETY: as above; the program does not use it any more.
        unsafe { Object::<FidDomain>::close(fid) };
        Ok(())
    })
}
