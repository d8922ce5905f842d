//! `fid_fabric`.

use std::ffi::c_void;

use crate::abi::info::{FabricAttr, Info};
use crate::abi::object::{
    missing, FabricOps, Fid, FidDomain, FidFabric, FidOps, CLASS_CNTR, CLASS_CQ, CLASS_FABRIC,
};
use crate::boundary::guarded_int;
use crate::calls::{cq, domain};
use crate::object::{head, no_bind, no_control};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind: no_bind,
    control: no_control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: FabricOps = FabricOps {
    size: size_of::<FabricOps>(),
    domain: open_domain,
    passive_ep: missing,
    eq_open: missing,
    wait_open: missing,
    trywait,
    domain2: missing,
};

pub(crate) unsafe extern "C" fn open(
    attr: *mut FabricAttr,
    fabric_out: *mut *mut FidFabric,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let attr = unsafe { attr.as_ref() }.ok_or(libc::EINVAL)?;
        let fid = head(CLASS_FABRIC, context, &FID);
        let fabric = Box::new(FidFabric { fid, ops: &OPS, api_version: attr.api_version });
        // SAFETY: libfabric's promise.
        unsafe { fabric_out.write(Box::into_raw(fabric)) };
        Ok(())
    })
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    guarded_int(|| {
        // SAFETY: made by `open`; the program closes it once, and last.
        drop(unsafe { Box::from_raw(fid.cast::<FidFabric>()) });
        Ok(())
    })
}

unsafe extern "C" fn open_domain(
    fabric: *mut FidFabric,
    info: *mut Info,
    domain_out: *mut *mut FidDomain,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (api, info) = unsafe { ((*fabric).api_version, info.as_ref().ok_or(libc::EINVAL)?) };
        // SAFETY: as above.
        let opened = unsafe { domain::open(api, info, context)? };
        // SAFETY: as above.
        unsafe { domain_out.write(opened) };
        Ok(())
    })
}

/// Whether a program may sleep on the descriptors of all these.
unsafe extern "C" fn trywait(_: *mut FidFabric, fids: *mut *mut Fid, count: i32) -> i32 {
    guarded_int(|| {
        let count = usize::try_from(count).map_err(|_| libc::EINVAL)?;
        for index in 0..count {
            // SAFETY: libfabric's promise: so many open objects.
            unsafe {
                let fid = *fids.add(index);
                match fid.as_ref().ok_or(libc::EINVAL)?.class {
                    CLASS_CQ => cq::try_wait(fid.cast())?,
                    // Counters have no descriptors.
                    CLASS_CNTR => {}
                    _ => return Err(libc::EINVAL),
                }
            }
        }
        Ok(())
    })
}
