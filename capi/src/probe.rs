//! Probes, and messages that they take.

use std::ffi::c_void;
use std::sync::Arc;

use gridnet::core::endpoint::Probe;
use gridnet::core::error::Error;
use gridnet::core::matching::Key;

use crate::boundary::{guarded, invalid, null, write_out};
use crate::cq::{cq_of, gridnet_cq};
use crate::endpoint::gridnet_endpoint;
use crate::fabric::{fabric_of, gridnet_fabric, Child, Owner};
use crate::handle::{object, Handle};
use crate::iov::one_piece;
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};
use crate::tag::{optional, pattern_of};

/// gridnet_probe_info.flags: the field immediate is valid.
pub const GRIDNET_PROBE_IMMEDIATE: u32 = 1;

/// What a probe found.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_probe_info {
    /// Length of the message in bytes.
    pub length: u64,
    /// Its tag.
    pub tag: u64,
    /// Value that came with it, if GRIDNET_PROBE_IMMEDIATE is in flags.
    pub immediate: u64,
    /// Number of the sender.
    pub source: u32,
    /// GRIDNET_PROBE_*.
    pub flags: u32,
}

pub(crate) struct MessageObject {
    pub(crate) owner: Arc<Owner>,
    pub(crate) key: Key,
}

/// A message that gridnet_tag_mprobe has taken: nobody else receives it.
pub struct gridnet_message {
    _opaque: [u8; 0],
}

object!(MessageObject, b"GN-messg", "message");

/// Looks for a message that a receive with these arguments would take, without taking it.
///
/// Errors: GRIDNET_ERR_NO_MESSAGE; GRIDNET_ERR_PEER_GONE when `source` has gone and none of its messages is left.
///
/// # Safety
/// `fabric` is NULL or a fabric, `source` NULL or an endpoint of it, `info_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_tag_probe(
    fabric: *mut gridnet_fabric,
    source: *mut gridnet_endpoint,
    tag: u64,
    ignore: u64,
    info_out: *mut gridnet_probe_info,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, source) = unsafe { (fabric_of(fabric)?, optional(source)?) };
        if info_out.is_null() {
            return Err(null("info_out"));
        }
        let pattern = pattern_of(&object.owner, source, tag, ignore)?;
        let mut guard = object.owner.shared.enter()?;
        guard.poll_round();
        let nothing = guard.engine.source_error(&pattern).unwrap_or(Error::NoMessage);
        let probe = guard.engine.probe(&pattern).ok_or(nothing)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(info_out, probe.into()) };
        Ok(GRIDNET_OK)
    })
}

/// As gridnet_tag_probe, but takes the message: only gridnet_message_recv receives it.
///
/// # Safety
/// As gridnet_tag_probe; `message_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_tag_mprobe(
    fabric: *mut gridnet_fabric,
    source: *mut gridnet_endpoint,
    tag: u64,
    ignore: u64,
    info_out: *mut gridnet_probe_info,
    message_out: *mut *mut gridnet_message,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, source) = unsafe { (fabric_of(fabric)?, optional(source)?) };
        if info_out.is_null() {
            return Err(null("info_out"));
        }
        if message_out.is_null() {
            return Err(null("message_out"));
        }
        let pattern = pattern_of(&object.owner, source, tag, ignore)?;
        let (probe, key) = {
            let mut guard = object.owner.shared.enter()?;
            guard.poll_round();
            let nothing = guard.engine.source_error(&pattern).unwrap_or(Error::NoMessage);
            guard.engine.matched_probe(&pattern).ok_or(nothing)?
        };
        let message: *mut gridnet_message =
            Handle::open(MessageObject { owner: object.owner.clone(), key }).cast();
        object.owner.adopt(Child::Message(message));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe {
            write_out(info_out, probe.into());
            write_out(message_out, message);
        }
        Ok(GRIDNET_OK)
    })
}

/// Receives a message that gridnet_tag_mprobe took. On success the message handle is closed; a completion follows.
///
/// # Safety
/// `cq` is NULL or a completion queue, `message` NULL or a message of the same fabric; `buf` as for gridnet_tag_recv.
#[no_mangle]
pub unsafe extern "C" fn gridnet_message_recv(
    cq: *mut gridnet_cq,
    message: *mut gridnet_message,
    buf: *mut c_void,
    len: usize,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, held) = unsafe { (cq_of(cq)?, Handle::<MessageObject>::get(message.cast())?) };
        if !Arc::ptr_eq(&cq.owner, &held.owner) {
            return Err(invalid("message is of another fabric than cq"));
        }
        // SAFETY: the caller's promise.
        let iov = unsafe { one_piece(buf, len)? };
        cq.owner.shared.enter()?.engine.receive_held(cq.id, held.key, iov, context as usize as u64)?;
        cq.owner.disown(Child::Message(message));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<MessageObject>::close(message.cast())? });
        Ok(GRIDNET_IN_PROGRESS)
    })
}

impl From<Probe> for gridnet_probe_info {
    fn from(probe: Probe) -> gridnet_probe_info {
        gridnet_probe_info {
            length: probe.len,
            tag: probe.tag,
            immediate: probe.immediate.unwrap_or(0),
            source: probe.source.number(),
            flags: if probe.immediate.is_some() { GRIDNET_PROBE_IMMEDIATE } else { 0 },
        }
    }
}
