//! `fid_av`.

use std::ffi::{c_char, c_void};

use gridnet::core::wire::{Address, ADDRESS_BYTES};

use crate::abi::errno;
use crate::abi::flag::{AV_TABLE, SYNC_ERR};
use crate::abi::object::{missing, AvAttr, AvOps, Fid, FidAv, FidDomain, FidOps, CLASS_AV};
use crate::abi::{FiAddr, ADDR_UNSPEC};
use crate::addresses::Addresses;
use crate::boundary::{guarded, guarded_int, write_text};
use crate::calls::domain;
use crate::object::{head, no_bind, no_control, Object};

static FID: FidOps = FidOps {
    size: size_of::<FidOps>(),
    close,
    bind: no_bind,
    control: no_control,
    ops_open: missing,
    tostr: missing,
    ops_set: missing,
};

static OPS: AvOps = AvOps {
    size: size_of::<AvOps>(),
    insert,
    insertsvc: missing,
    insertsym: missing,
    remove,
    lookup,
    straddr,
    av_set: missing,
    insert_auth_key: missing,
    lookup_auth_key: missing,
    set_user_id: missing,
};

pub(crate) unsafe extern "C" fn open(
    fid: *mut FidDomain,
    attr: *const AvAttr,
    av_out: *mut *mut FidAv,
    context: *mut c_void,
) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise.
        let (domain, attr) = unsafe { (domain::of(fid)?, attr.as_ref().ok_or(libc::EINVAL)?) };
        // Named vectors are shared between processes; flags ask for events or for what only providers of libfabric's own have.
        if attr.kind > AV_TABLE || !attr.name.is_null() || attr.flags != 0 || attr.rx_ctx_bits != 0 {
            return Err(errno::ENOSYS);
        }
        let key = domain.enter().vectors.insert(Addresses::default());
        let fid = FidAv { fid: head(CLASS_AV, context, &FID), ops: &OPS };
        // SAFETY: libfabric's promise.
        unsafe { av_out.write(Object::open(fid, domain.clone(), key)) };
        Ok(())
    })
}

unsafe extern "C" fn close(fid: *mut Fid) -> i32 {
    // SAFETY: libfabric's promise: an open address vector.
    unsafe { Object::<FidAv>::end(fid, |state| &mut state.vectors, |vector| vector.endpoints.is_empty()) }
}

unsafe extern "C" fn insert(
    av: *mut FidAv,
    addresses: *const c_void,
    count: usize,
    numbers_out: *mut FiAddr,
    flags: u64,
    context: *mut c_void,
) -> i32 {
    let inserted = guarded(|| {
        // SAFETY: libfabric's promise: an open address vector.
        let object = unsafe { Object::<FidAv>::of(av) }?;
        if addresses.is_null() && count > 0 || i32::try_from(count).is_err() {
            return Err(libc::EINVAL);
        }
        let mut state = object.domain.enter();
        let vector = state.vectors.get_mut(object.key).ok_or(libc::EINVAL)?;
        let mut inserted = 0;
        for index in 0..count {
            // SAFETY: libfabric's promise: `count` addresses of the provider's length.
            let bytes = unsafe { *addresses.cast::<[u8; ADDRESS_BYTES]>().add(index) };
            let number = vector.insert(&bytes);
            inserted += isize::from(number.is_some());
            // SAFETY: libfabric's promise: room for `count` of each.
            unsafe {
                if !numbers_out.is_null() {
                    numbers_out.add(index).write(number.unwrap_or(ADDR_UNSPEC));
                }
                if flags & SYNC_ERR != 0 && !context.is_null() {
                    let error = if number.is_some() { 0 } else { libc::EINVAL };
                    context.cast::<i32>().add(index).write(error);
                }
            }
        }
        Ok(inserted)
    });
    inserted as i32
}

unsafe extern "C" fn remove(av: *mut FidAv, numbers: *mut FiAddr, count: usize, _flags: u64) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open address vector.
        let object = unsafe { Object::<FidAv>::of(av) }?;
        let mut state = object.domain.enter();
        let vector = state.vectors.get_mut(object.key).ok_or(libc::EINVAL)?;
        let mut all = true;
        for index in 0..count {
            // SAFETY: libfabric's promise: `count` numbers.
            all &= vector.remove(unsafe { *numbers.add(index) });
        }
        if all {
            Ok(())
        } else {
            Err(libc::EINVAL)
        }
    })
}

unsafe extern "C" fn lookup(av: *mut FidAv, number: FiAddr, out: *mut c_void, len: *mut usize) -> i32 {
    guarded_int(|| {
        // SAFETY: libfabric's promise: an open address vector.
        let object = unsafe { Object::<FidAv>::of(av) }?;
        let state = object.domain.enter();
        let vector = state.vectors.get(object.key).ok_or(libc::EINVAL)?;
        let name = vector.name(number).ok_or(libc::EINVAL)?;
        // SAFETY: libfabric's promise: room for `len` bytes.
        unsafe { write_address(&name, out, len) };
        Ok(())
    })
}

/// Writes as much of an address as there is room for, and its whole length. Returns whether it fits.
///
/// # Safety
/// `len` is valid, and `out` for writes of as many bytes.
pub(crate) unsafe fn write_address(bytes: &[u8; ADDRESS_BYTES], out: *mut c_void, len: *mut usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let room = *len;
        if !out.is_null() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), room.min(ADDRESS_BYTES));
        }
        len.write(ADDRESS_BYTES);
        room >= ADDRESS_BYTES
    }
}

unsafe extern "C" fn straddr(
    _av: *mut FidAv,
    address: *const c_void,
    text_out: *mut c_char,
    len: *mut usize,
) -> *const c_char {
    guarded(|| {
        // SAFETY: libfabric's promise: an address of the provider's length.
        let bytes = unsafe { *address.cast::<[u8; ADDRESS_BYTES]>() };
        let text = match Address::parse(&crate::rank::split(&bytes).0) {
            Ok(address) => format!("fi_addr_gridnet://{}/{:?}", address.node, address.network),
            Err(_) => "fi_addr_gridnet://(no address)".to_owned(),
        };
        // SAFETY: libfabric's promise: room for `len` characters.
        unsafe {
            write_text(&text, text_out, *len);
            len.write(text.len() + 1);
        }
        Ok(0)
    });
    text_out
}
