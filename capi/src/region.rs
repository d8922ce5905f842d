//! Regions: memory that peers reach by key.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::error::Error;
use gridnet::core::matching::Key;
use gridnet::core::rail::Refusal;
use gridnet::core::region::{Access, KEY_BYTES};
use gridnet::Shared;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::endpoint::{endpoint_of, gridnet_endpoint};
use crate::fabric::{fabric_of, gridnet_fabric, Child, Owner};
use crate::grow::{read_params, Growing};
use crate::handle::{object, Handle};
use crate::status::{gridnet_status, GRIDNET_OK};

/// gridnet_region_params.access: the owner's own use; always included.
pub const GRIDNET_ACCESS_LOCAL: u32 = 1;
/// gridnet_region_params.access: peers get.
pub const GRIDNET_ACCESS_REMOTE_READ: u32 = 2;
/// gridnet_region_params.access: peers put.
pub const GRIDNET_ACCESS_REMOTE_WRITE: u32 = 4;
/// gridnet_region_params.access: peers run atomic operations.
pub const GRIDNET_ACCESS_REMOTE_ATOMIC: u32 = 8;

/// What a region is made of.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_region_params {
    /// sizeof(gridnet_region_params).
    pub size: usize,
    /// gridnet_region_register: where the memory starts. gridnet_region_allocate: NULL.
    pub base: *mut c_void,
    /// Length in bytes.
    pub len: usize,
    /// GRIDNET_ACCESS_*, of which REMOTE ones are what peers may do.
    pub access: u32,
    /// GRIDNET_MEMORY_HOST.
    pub memory_kind: u32,
    /// NUMA node where the memory lies, or is to lie, or GRIDNET_NUMA_UNKNOWN.
    pub numa_node: u32,
    /// 0.
    pub flags: u32,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_region_params {
    const NAME: &'static str = "gridnet_region_params";
    const FIRST: usize = 40;
}

/// The key of a region, as plain bytes to be handed to peers by any means.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_key {
    /// The bytes.
    pub bytes: [u8; 64],
}

const _: () = assert!(size_of::<gridnet_key>() == KEY_BYTES);

pub(crate) struct RegionObject {
    owner: Arc<Owner>,
    key: Key,
}

pub(crate) struct RkeyObject {
    owner: Arc<Owner>,
    /// `owner.shared`, one step nearer.
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Key,
}

/// A region: memory of this process that peers reach by key.
pub struct gridnet_region {
    _opaque: [u8; 0],
}

/// The key of a peer's region, imported.
pub struct gridnet_rkey {
    _opaque: [u8; 0],
}

object!(RegionObject, b"GN-regin", "region");
object!(RkeyObject, b"GN-rkey0", "rkey");

/// Makes memory of the program a region. Peers reach it without this process where the system allows it (on one host, by
/// process_vm_writev), else by messages that this process answers inside its calls. Regions may overlap.
///
/// The memory has to stay mapped until the region is closed; when it does not, operations of peers end with
/// GRIDNET_ERR_FAULT.
///
/// Errors: GRIDNET_ERR_FAULT when not all of the memory is mapped, GRIDNET_ERR_INVALID, GRIDNET_ERR_UNSUPPORTED for
/// memory that is not of the host, GRIDNET_ERR_LIMIT.
///
/// # Safety
/// `fabric` is NULL or a fabric, `params` NULL or valid, `region_out` valid for a write. The memory may be read, and with
/// the rights to put or to run atomic operations written, by peers until the region is closed.
#[no_mangle]
pub unsafe extern "C" fn gridnet_region_register(
    fabric: *mut gridnet_fabric,
    params: *const gridnet_region_params,
    region_out: *mut *mut gridnet_region,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, params, access) = unsafe { arguments(fabric, params)? };
        if region_out.is_null() {
            return Err(null("region_out"));
        }
        if params.base.is_null() {
            return Err(null("base"));
        }
        let (base, len, kind) = (params.base.cast(), params.len, params.memory_kind);
        let key = object.shared.enter()?.engine.register(base, len, access, kind)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(region_out, new_region(object, key)) };
        Ok(GRIDNET_OK)
    })
}

/// Takes zeroed memory for a region that peers reach by themselves: on one host they map it. `pointer_out` gets its
/// start, aligned to 128 bytes at least. The memory goes with the region.
///
/// Errors: GRIDNET_ERR_LIMIT when GRIDNET_SHM_HEAP_SIZE is used up, GRIDNET_ERR_NO_MEMORY, GRIDNET_ERR_INVALID,
/// GRIDNET_ERR_UNSUPPORTED.
///
/// # Safety
/// `fabric` is NULL or a fabric, `params` NULL or valid, both outputs valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_region_allocate(
    fabric: *mut gridnet_fabric,
    params: *const gridnet_region_params,
    region_out: *mut *mut gridnet_region,
    pointer_out: *mut *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, params, access) = unsafe { arguments(fabric, params)? };
        if region_out.is_null() {
            return Err(null("region_out"));
        }
        if pointer_out.is_null() {
            return Err(null("pointer_out"));
        }
        if !params.base.is_null() {
            return Err(invalid(
                "gridnet_region_params: base is set; accepted: NULL, the memory is allocated",
            ));
        }
        let (len, kind, numa) = (params.len, params.memory_kind, params.numa_node);
        let (key, base) = object.shared.enter()?.engine.allocate(len, access, kind, numa)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe {
            write_out(region_out, new_region(object, key));
            write_out(pointer_out, base.cast());
        }
        Ok(GRIDNET_OK)
    })
}

/// Closes a region: keys of it are void, and operations of peers that have not taken effect end with GRIDNET_ERR_KEY. When
/// this returns GRIDNET_OK, no peer reads or writes the memory any more; it waits for that, a second at most, in which
/// other threads may use the fabric.
///
/// Errors: GRIDNET_ERR_IN_USE when a peer is in the middle of an access all that time (it was stopped, say): keys are
/// void, but the memory has to stay and the region to be closed again. A peer that nobody holds up, and that is inside for
/// ten seconds all the same, is cut off with GRIDNET_ERR_PEER_MISBEHAVED.
///
/// # Safety
/// `region` is NULL or a region that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_region_close(region: *mut gridnet_region) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { Handle::<RegionObject>::get(region.cast())? };
        object.owner.shared.close_region(object.key)?;
        object.owner.disown(Child::Region(region));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<RegionObject>::close(region.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// The key of a region. Whoever has the bytes may do what the region allows.
///
/// Errors: GRIDNET_ERR_KEY when the region is being closed.
///
/// # Safety
/// `region` is NULL or a region, `key_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_region_key(
    region: *mut gridnet_region,
    key_out: *mut gridnet_key,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { Handle::<RegionObject>::get(region.cast())? };
        if key_out.is_null() {
            return Err(null("key_out"));
        }
        let bytes = object.owner.shared.enter()?.engine.region_key(object.key)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(key_out, gridnet_key { bytes }) };
        Ok(GRIDNET_OK)
    })
}

/// Imports the key of a region of the endpoint's peer.
///
/// Errors: GRIDNET_ERR_KEY for bytes that are no key, or the key of another peer's region; GRIDNET_ERR_PEER_GONE. That the
/// region was closed shows when the key is used.
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `key` NULL or valid, `rkey_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_rkey_import(
    endpoint: *mut gridnet_endpoint,
    key: *const gridnet_key,
    rkey_out: *mut *mut gridnet_rkey,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        if key.is_null() {
            return Err(null("key"));
        }
        if rkey_out.is_null() {
            return Err(null("rkey_out"));
        }
        // SAFETY: checked for NULL, valid by the caller's promise.
        let bytes = unsafe { (*key).bytes };
        let key = object.shared.enter()?.engine.import_key(object.peer, &bytes)?;
        let (owner, shared) = (object.owner.clone(), object.shared.clone());
        let rkey: *mut gridnet_rkey = Handle::open(RkeyObject { owner, shared, key }).cast();
        object.owner.adopt(Child::Rkey(rkey));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(rkey_out, rkey) };
        Ok(GRIDNET_OK)
    })
}

/// Gives an imported key back. Operations under way go on.
///
/// # Safety
/// `rkey` is NULL or an imported key that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_rkey_close(rkey: *mut gridnet_rkey) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { Handle::<RkeyObject>::get(rkey.cast())? };
        object.shared.enter()?.engine.close_key(object.key);
        object.owner.disown(Child::Rkey(rkey));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<RkeyObject>::close(rkey.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// # Safety
/// `fabric` is NULL or a fabric, `params` NULL or valid.
unsafe fn arguments<'a>(
    fabric: *mut gridnet_fabric,
    params: *const gridnet_region_params,
) -> Result<(&'a Arc<Owner>, gridnet_region_params, Access), Failure> {
    // SAFETY: the caller's promise.
    let (object, params) = unsafe { (fabric_of(fabric)?, read_params(params)?) };
    let params = params.ok_or_else(|| null("params"))?;
    let access = Access::from_bits(params.access).ok_or_else(|| {
        let (bits, known) = (params.access, Access::ALL.bits());
        invalid(format!("gridnet_region_params: access is {bits:#x}; accepted: bits of {known:#x}"))
    })?;
    if params.flags != 0 {
        return Err(invalid(format!("gridnet_region_params: flags are {:#x}; accepted: 0", params.flags)));
    }
    Ok((&object.owner, params, access))
}

fn new_region(owner: &Arc<Owner>, key: Key) -> *mut gridnet_region {
    let region: *mut gridnet_region = Handle::open(RegionObject { owner: owner.clone(), key }).cast();
    owner.adopt(Child::Region(region));
    region
}

/// The key of an imported key's handle, if it was imported by the fabric of `shared`.
///
/// # Safety
/// `rkey` is NULL or an imported key.
pub(crate) unsafe fn rkey_of<'a>(
    rkey: *const gridnet_rkey,
    shared: &Arc<Shared>,
) -> Result<&'a RkeyObject, Failure> {
    // SAFETY: the caller's promise.
    let object = unsafe { Handle::<RkeyObject>::get(rkey.cast())? };
    if !Arc::ptr_eq(&object.shared, shared) {
        return Err(Refusal::new(Error::Key, "rkey was imported by another fabric than endpoint's").into());
    }
    Ok(object)
}
