//! Fabrics: what a program opens first.

use std::ffi::{c_char, CStr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gridnet::config::Config;
use gridnet::core::error::Error;
use gridnet::core::rail::Refusal;
use gridnet::core::wire::Address;
use gridnet::{Shared, ThreadLevel};

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::gridnet_cq;
use crate::endpoint::gridnet_endpoint;
use crate::group::gridnet_group;
use crate::grow::{read_params, Growing};
use crate::handle::{object, Handle};
use crate::listener::gridnet_listener;
use crate::probe::gridnet_message;
use crate::region::{gridnet_region, gridnet_rkey};
use crate::status::{gridnet_status, GRIDNET_OK};
use crate::stream::gridnet_stream;

/// Only the thread that opened the fabric calls.
pub const GRIDNET_THREAD_SINGLE: u32 = 0;
/// Any thread calls, one at a time. The default.
pub const GRIDNET_THREAD_SERIALIZED: u32 = 1;
/// Any thread calls at any time.
pub const GRIDNET_THREAD_MULTIPLE: u32 = 2;

/// What a fabric is opened with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_fabric_params {
    /// sizeof(gridnet_fabric_params).
    pub size: usize,
    /// NULL, or the name by which other processes of this host find the fabric: 1 to 64 of A-Z a-z 0-9 . _ -, not
    /// beginning with a dot.
    pub name: *const c_char,
    /// GRIDNET_THREAD_*.
    pub thread_level: u32,
    /// 0.
    pub flags: u32,
    /// NULL, or "GRIDNET_X=value" strings up to a NULL; they beat the environment.
    pub options: *const *const c_char,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_fabric_params {
    const NAME: &'static str = "gridnet_fabric_params";
    const FIRST: usize = 32;
}

/// How a fabric is reached: opaque, the same for its whole life, to be handed to peers by any means.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_address {
    /// The bytes.
    pub bytes: [u8; 64],
}

/// Something that ends with its fabric.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Child {
    Cq(*mut gridnet_cq),
    Endpoint(*mut gridnet_endpoint),
    Group(*mut gridnet_group),
    Message(*mut gridnet_message),
    Region(*mut gridnet_region),
    Rkey(*mut gridnet_rkey),
    Listener(*mut gridnet_listener),
    Stream(*mut gridnet_stream),
}

// SAFETY: addresses of handles, which are valid on any thread.
unsafe impl Send for Child {}

/// What stands behind a fabric, and is shared by all that is made from it.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    children: Mutex<Vec<Child>>,
}

impl Owner {
    pub(crate) fn adopt(&self, child: Child) {
        self.children().push(child);
    }

    pub(crate) fn disown(&self, child: Child) {
        self.children().retain(|c| *c != child);
    }

    fn children(&self) -> std::sync::MutexGuard<'_, Vec<Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct FabricObject {
    pub(crate) owner: Arc<Owner>,
}

/// A fabric: this process as others see it, with all its rails.
pub struct gridnet_fabric {
    _opaque: [u8; 0],
}

object!(FabricObject, b"GN-fabrc", "fabric");

/// The object behind a fabric handle.
///
/// # Safety
/// As `Handle::get`.
#[inline(always)]
pub(crate) unsafe fn fabric_of<'a>(fabric: *const gridnet_fabric) -> Result<&'a FabricObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(fabric.cast()) }
}

/// Opens a fabric. `params` may be NULL: no name, level SERIALIZED, configuration from the environment alone.
///
/// Errors: GRIDNET_ERR_CONFIG (gridnet_last_error names the variable and the accepted form), GRIDNET_ERR_NAME_IN_USE,
/// GRIDNET_ERR_LIMIT, GRIDNET_ERR_NO_MEMORY, GRIDNET_ERR_PERMISSION, GRIDNET_ERR_SYSTEM.
///
/// # Safety
/// `params` is NULL or valid; `fabric_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_open(
    params: *const gridnet_fabric_params,
    fabric_out: *mut *mut gridnet_fabric,
) -> gridnet_status {
    guarded(|| {
        if fabric_out.is_null() {
            return Err(null("fabric_out"));
        }
        // SAFETY: the caller's promise.
        let params = unsafe { read_params(params)? };
        let (mut name, mut level, mut overrides) = (None, ThreadLevel::Serialized, Vec::new());
        if let Some(params) = params {
            level = level_of(params.thread_level)?;
            if params.flags != 0 {
                return Err(invalid(format!(
                    "gridnet_fabric_params: flags are {:#x}; accepted: 0",
                    params.flags
                )));
            }
            // SAFETY: the caller's promise extends to what the struct points to.
            (name, overrides) = unsafe { (text(params.name, "name")?, options(params.options)?) };
        }
        let config =
            Config::from_process(&overrides).map_err(|e| Refusal::new(Error::Config, e.to_string()))?;
        let shared = Shared::open(config, name.as_deref(), level)?;
        let owner = Arc::new(Owner { shared, children: Mutex::default() });
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(fabric_out, Handle::open(FabricObject { owner }).cast()) };
        Ok(GRIDNET_OK)
    })
}

fn level_of(level: u32) -> Result<ThreadLevel, Failure> {
    match level {
        GRIDNET_THREAD_SINGLE => Ok(ThreadLevel::Single),
        GRIDNET_THREAD_SERIALIZED => Ok(ThreadLevel::Serialized),
        GRIDNET_THREAD_MULTIPLE => Ok(ThreadLevel::Multiple),
        other => Err(invalid(format!(
            "thread_level is {other}; accepted: GRIDNET_THREAD_SINGLE, _SERIALIZED, _MULTIPLE"
        ))),
    }
}

/// # Safety
/// `pointer` is NULL or a C string.
pub(crate) unsafe fn text(pointer: *const c_char, what: &str) -> Result<Option<String>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(|t| Some(t.to_owned())).map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// # Safety
/// `pointer` is NULL or an array of C strings that ends with NULL.
unsafe fn options(mut pointer: *const *const c_char) -> Result<Vec<(String, String)>, Failure> {
    let mut options = Vec::new();
    if pointer.is_null() {
        return Ok(options);
    }
    // SAFETY: up to the NULL, every element is a C string.
    while let Some(option) = unsafe { text(*pointer, "option")? } {
        let (name, value) = option.split_once('=').ok_or_else(|| {
            Refusal::new(Error::Config, format!("option {option:?} has no '='; accepted: GRIDNET_NAME=value"))
        })?;
        options.push((name.to_owned(), value.to_owned()));
        // SAFETY: this was not the NULL, so there is a next element.
        pointer = unsafe { pointer.add(1) };
    }
    Ok(options)
}

/// Closes a fabric, and with it every queue, endpoint, group, message, region, key, listener and stream made from it. Operations that have not
/// completed are given up; what was sent before stays receivable by the peers.
///
/// # Safety
/// `fabric` is NULL or a fabric; no other call on it or on anything made from it is under way.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_close(fabric: *mut gridnet_fabric) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let owner = unsafe { fabric_of(fabric)? }.owner.clone();
        if !owner.shared.is_home() {
            return Err(Error::Forked.into());
        }
        owner.shared.stop_progress();
        for child in std::mem::take(&mut *owner.children()) {
            // A child that is closed already has said so to its owner; an error here cannot be.
            // SAFETY: handles made from this fabric, which nobody uses by the caller's promise.
            let _ = unsafe {
                match child {
                    Child::Cq(cq) => Handle::<crate::cq::CqObject>::close(cq.cast()).map(drop),
                    Child::Endpoint(e) => {
                        Handle::<crate::endpoint::EndpointObject>::close(e.cast()).map(drop)
                    }
                    Child::Group(g) => Handle::<crate::group::GroupObject>::close(g.cast()).map(drop),
                    Child::Message(m) => Handle::<crate::probe::MessageObject>::close(m.cast()).map(drop),
                    Child::Region(r) => Handle::<crate::region::RegionObject>::close(r.cast()).map(drop),
                    Child::Rkey(k) => Handle::<crate::region::RkeyObject>::close(k.cast()).map(drop),
                    Child::Listener(l) => {
                        Handle::<crate::listener::ListenerObject>::close(l.cast()).map(drop)
                    }
                    Child::Stream(s) => Handle::<crate::stream::StreamObject>::close(s.cast()).map(drop),
                }
            };
        }
        // SAFETY: as above.
        drop(unsafe { Handle::<FabricObject>::close(fabric.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// The fabric's own address, to be handed to peers.
///
/// # Safety
/// `fabric` is NULL or a fabric; `address_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_address(
    fabric: *mut gridnet_fabric,
    address_out: *mut gridnet_address,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        if address_out.is_null() {
            return Err(null("address_out"));
        }
        let bytes = object.owner.shared.enter()?.address().to_bytes();
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(address_out, gridnet_address { bytes }) };
        Ok(GRIDNET_OK)
    })
}

/// Finds the fabric of a name on this host; waits until there is one, at most `timeout_ns` nanoseconds (negative:
/// for ever). Progress goes on meanwhile.
///
/// Errors: GRIDNET_ERR_TIMEOUT, GRIDNET_ERR_INVALID for what no fabric can be named.
///
/// # Safety
/// `fabric` is NULL or a fabric, `name` NULL or a C string, `address_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_lookup(
    fabric: *mut gridnet_fabric,
    name: *const c_char,
    timeout_ns: i64,
    address_out: *mut gridnet_address,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, name) = unsafe { (fabric_of(fabric)?, text(name, "name")?) };
        let name = name.ok_or_else(|| null("name"))?;
        if address_out.is_null() {
            return Err(null("address_out"));
        }
        let bytes = object.owner.shared.lookup(&name, duration_of(timeout_ns))?.to_bytes();
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(address_out, gridnet_address { bytes }) };
        Ok(GRIDNET_OK)
    })
}

/// Moves everything on that can be moved: receives frames, sends what waits, accepts peers, notices their end. Returns
/// how much happened. Programs that poll or wait on completion queues need not call it.
///
/// # Safety
/// `fabric` is NULL or a fabric.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_progress(fabric: *mut gridnet_fabric) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut guard = unsafe { fabric_of(fabric)? }.owner.shared.enter()?;
        let happened = guard.poll_round() + guard.maintain();
        Ok(i32::try_from(happened).unwrap_or(i32::MAX))
    })
}

/// Negative: for ever.
pub(crate) fn duration_of(timeout_ns: i64) -> Option<Duration> {
    u64::try_from(timeout_ns).ok().map(Duration::from_nanos)
}

/// Reads an address that the program gave.
///
/// # Safety
/// `address` is NULL or valid.
pub(crate) unsafe fn address_of(address: *const gridnet_address) -> Result<Address, Failure> {
    if address.is_null() {
        return Err(null("address"));
    }
    // SAFETY: not NULL, valid by the caller's promise.
    let bytes = unsafe { (*address).bytes };
    Address::parse(&bytes).map_err(|e| invalid(format!("address: {e}")))
}
