//! `fid_mr`: memory that peers may reach.

use std::ffi::c_void;

use gridnet::core::matching::Key;

use crate::abi::errno;
use crate::abi::flag::{READ, RECV, REMOTE_READ, REMOTE_WRITE, SEND, WRITE};
use crate::abi::message::{IoVec, MrAttr};
use crate::abi::object::{missing, Fid, FidDomain, FidMr, FidOps, MrOps, CLASS_EP, CLASS_MR};
use crate::boundary::guarded_int;
use crate::calls::domain;
use crate::memory::Memory;
use crate::object::{head, Object};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind,
    control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

pub(crate) static OPS: MrOps = MrOps { size: size_of::<MrOps>(), reg, regv, regattr };

/// Rights that a registration may ask for.
const RIGHTS: u64 = SEND | RECV | READ | WRITE | REMOTE_READ | REMOTE_WRITE;

/// What is asked for.
struct Wanted {
    base: *const c_void,
    len: usize,
    access: u64,
    offset: u64,
    key: u64,
    context: *mut c_void,
}

/// # Safety
/// `fid` is an open domain, `mr_out` valid for a write; the memory stays, and may be reached by peers, until the registration is
/// closed.
unsafe fn register(fid: *mut Fid, wanted: &Wanted, flags: u64, mr_out: *mut *mut FidMr) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    let domain = unsafe { domain::of(fid.cast::<FidDomain>()) }?;
    if flags != 0 || wanted.offset != 0 || wanted.access & !RIGHTS != 0 {
        return Err(libc::EINVAL);
    }
    if wanted.base.is_null() && wanted.len != 0 {
        return Err(libc::EFAULT);
    }
    let memory = Memory::new(wanted.base as usize, wanted.len, wanted.access, domain.wishes.by_address);
    let key = domain.register(memory, (!domain.wishes.chooses_keys).then_some(wanted.key))?;
    let fid = FidMr { fid: head(CLASS_MR, wanted.context, &FID), desc: std::ptr::null_mut(), key };
    // SAFETY: the caller's promise.
    unsafe { mr_out.write(Object::open(fid, domain.clone(), Key::from_bits(key))) };
    Ok(())
}

unsafe extern "C" fn reg(
    fid: *mut Fid,
    base: *const c_void,
    len: usize,
    access: u64,
    offset: u64,
    key: u64,
    flags: u64,
    mr_out: *mut *mut FidMr,
    context: *mut c_void,
) -> i32 {
    let wanted = Wanted { base, len, access, offset, key, context };
    // SAFETY: libfabric's promise.
    guarded_int(|| unsafe { register(fid, &wanted, flags, mr_out) })
}

unsafe extern "C" fn regv(
    fid: *mut Fid,
    iov: *const IoVec,
    count: usize,
    access: u64,
    offset: u64,
    key: u64,
    flags: u64,
    mr_out: *mut *mut FidMr,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (base, len) = unsafe { only_piece(iov, count) }?;
        let wanted = Wanted { base, len, access, offset, key, context };
        // SAFETY: as above.
        unsafe { register(fid, &wanted, flags, mr_out) }
    })
}

unsafe extern "C" fn regattr(fid: *mut Fid, attr: *const MrAttr, flags: u64, mr_out: *mut *mut FidMr) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let attr = unsafe { attr.as_ref() }.ok_or(libc::EINVAL)?;
        // SAFETY: as above.
        let (base, len) = unsafe { only_piece(attr.iov, attr.iov_count) }?;
        let MrAttr { access, offset, requested_key: key, context, .. } = *attr;
        let wanted = Wanted { base, len, access, offset, key, context };
        // SAFETY: as above.
        unsafe { register(fid, &wanted, flags, mr_out) }
    })
}

/// One piece of memory, as the domain says (`mr_iov_limit`).
///
/// # Safety
/// `iov` is valid for `count` entries.
unsafe fn only_piece(iov: *const IoVec, count: usize) -> Result<(*const c_void, usize), i32> {
    if count != 1 {
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller's promise.
    let piece = unsafe { iov.as_ref() }.ok_or(libc::EINVAL)?;
    Ok((piece.base, piece.len))
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open registration.
        let object = unsafe { Object::<FidMr>::of(fid) }?;
        object.domain.deregister(object.key.to_bits())?;
        // SAFETY: as above; the program does not use it any more.
        unsafe { Object::<FidMr>::close(fid) };
        Ok(())
    })
}

/// Every endpoint of the domain shows it: nothing is left to bind.
unsafe extern "C" fn bind(_: *mut Fid, other: *mut Fid, _: u64) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open object.
        match unsafe { other.as_ref() }.ok_or(libc::EINVAL)?.class {
            CLASS_EP => Ok(()),
            _ => Err(errno::ENOSYS),
        }
    })
}

unsafe extern "C" fn control(_: *mut Fid, command: i32, _: *mut c_void) -> i32 {
    match command {
        crate::abi::flag::ENABLE => 0,
        _ => -errno::ENOSYS,
    }
}
