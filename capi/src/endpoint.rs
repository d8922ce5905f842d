//! Endpoints: the conversation with one peer.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use gridnet::core::endpoint::CqId;
use gridnet::core::rail::PeerId;
use gridnet::{Outlet, Shared};

use crate::boundary::{guarded, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq, CqObject};
use crate::fabric::{address_of, gridnet_address, Child, Owner};
use crate::handle::{object, Handle};
use crate::node::write_text;
use crate::status::{gridnet_status, GRIDNET_OK};

pub(crate) struct EndpointObject {
    pub(crate) owner: Arc<Owner>,
    /// `owner.shared`, one step nearer.
    pub(crate) shared: Arc<Shared>,
    /// The short way to the peer.
    pub(crate) outlet: Outlet,
    pub(crate) cq: CqId,
    pub(crate) peer: PeerId,
    /// Tells the sends of this handle from those of others to the same peer.
    pub(crate) number: u64,
}

/// An endpoint: the conversation with one peer, over whatever rails lead there.
pub struct gridnet_endpoint {
    _opaque: [u8; 0],
}

object!(EndpointObject, b"GN-endpt", "endpoint");

/// The object behind an endpoint handle.
///
/// # Safety
/// As `Handle::get`.
#[inline(always)]
pub(crate) unsafe fn endpoint_of<'a>(
    endpoint: *const gridnet_endpoint,
) -> Result<&'a EndpointObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(endpoint.cast()) }
}

/// Numbers of endpoint handles; 0 is never given.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Makes a handle for an open peer.
pub(crate) fn new_endpoint(cq: &CqObject, peer: PeerId) -> *mut gridnet_endpoint {
    let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
    let (shared, outlet) = (cq.shared.clone(), Outlet::new(cq.shared.clone(), peer));
    let object = EndpointObject { owner: cq.owner.clone(), shared, outlet, cq: cq.id, peer, number };
    let endpoint: *mut gridnet_endpoint = Handle::open(object).cast();
    cq.owner.adopt(Child::Endpoint(endpoint));
    endpoint
}

/// Opens an endpoint to the fabric at `address`; its sends report to `cq`. The connection is made in the background:
/// sends may start at once, and fail later if the peer refuses.
///
/// Errors: GRIDNET_ERR_INVALID for what is no address, GRIDNET_ERR_UNREACHABLE when no rail leads there
/// (gridnet_last_error has the reason of each), GRIDNET_ERR_PERMISSION for a peer of another user.
///
/// # Safety
/// `cq` is NULL or a completion queue, `address` NULL or valid, `endpoint_out` valid for a write.
#[no_mangle]
#[inline(never)]
pub unsafe extern "C" fn gridnet_endpoint_open(
    cq: *mut gridnet_cq,
    address: *const gridnet_address,
    endpoint_out: *mut *mut gridnet_endpoint,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, address) = unsafe { (cq_of(cq)?, address_of(address)?) };
        if endpoint_out.is_null() {
            return Err(null("endpoint_out"));
        }
        let peer = cq.owner.shared.enter()?.engine.open(&address)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(endpoint_out, new_endpoint(cq, peer)) };
        Ok(GRIDNET_OK)
    })
}

/// Opens an endpoint to whoever sent a message: `source` is the field of that name of a completion or probe.
///
/// Errors: GRIDNET_ERR_NOT_FOUND, GRIDNET_ERR_PEER_GONE.
///
/// # Safety
/// `cq` is NULL or a completion queue, `endpoint_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_open_source(
    cq: *mut gridnet_cq,
    source: u32,
    endpoint_out: *mut *mut gridnet_endpoint,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let cq = unsafe { cq_of(cq)? };
        if endpoint_out.is_null() {
            return Err(null("endpoint_out"));
        }
        let peer = cq.owner.shared.enter()?.engine.open_known(PeerId::new(source))?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(endpoint_out, new_endpoint(cq, peer)) };
        Ok(GRIDNET_OK)
    })
}

/// Closes an endpoint. Its sends that have not completed do so with GRIDNET_ERR_CANCELED. The connection stays for
/// other endpoints to the same peer, present and future, until either fabric closes.
///
/// # Safety
/// `endpoint` is NULL or an endpoint that no other call uses.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_close(endpoint: *mut gridnet_endpoint) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { close_endpoint(endpoint) }?;
        Ok(GRIDNET_OK)
    })
}

/// # Safety
/// As gridnet_endpoint_close.
pub(crate) unsafe fn close_endpoint(endpoint: *mut gridnet_endpoint) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let object = unsafe { endpoint_of(endpoint)? };
    {
        let mut guard = object.owner.shared.enter()?;
        guard.engine.cancel_sends_of(object.number);
        guard.engine.close(object.peer);
    }
    object.owner.disown(Child::Endpoint(endpoint));
    // SAFETY: the caller's promise.
    drop(unsafe { Handle::<EndpointObject>::close(endpoint.cast())? });
    Ok(())
}

/// The number by which completions and probes name this peer.
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `source_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_source(
    endpoint: *mut gridnet_endpoint,
    source_out: *mut u32,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        if source_out.is_null() {
            return Err(null("source_out"));
        }
        drop(object.owner.shared.enter()?);
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(source_out, object.peer.number()) };
        Ok(GRIDNET_OK)
    })
}

/// Says which rail carries the messages to a peer, and why each other does not: some lines of text, ended by a zero.
/// `needed_out` (may be NULL) gets the bytes that the whole text needs, zero included; when `size` is less, the text is
/// cut and the result is GRIDNET_ERR_TRUNCATED (with `size` 0, `text_out` may be NULL).
///
/// # Safety
/// `endpoint` is NULL or an endpoint, `text_out` has room for `size` bytes, `needed_out` is NULL or valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_explain(
    endpoint: *mut gridnet_endpoint,
    text_out: *mut c_char,
    size: usize,
    needed_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { endpoint_of(endpoint)? };
        if text_out.is_null() && size > 0 {
            return Err(null("text_out"));
        }
        let text = object.owner.shared.enter()?.explain(object.peer)?;
        // SAFETY: the caller's promise.
        unsafe { write_text(&text, text_out, size, needed_out) }
    })
}
