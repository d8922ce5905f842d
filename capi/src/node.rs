//! Nodes of the session that a fabric has joined: who is there, who comes and goes, endpoints to them.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use gridnet::core::error::Error;
use gridnet::core::wire::NodeId;
use gridnet::{Departure, Entry, NodeEvent};

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq};
use crate::fabric::{duration_of, fabric_of, gridnet_fabric};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};

/// Bytes of a name of a node, or of a cluster, with the zero behind it; more than the longest has.
pub const GRIDNET_NODE_NAME_BYTES: usize = 72;

/// gridnet_node_info.flags: the node leads its cluster.
pub const GRIDNET_NODE_LEADS: u32 = 1;

/// gridnet_node_event.kind: a node came, or says something else of itself.
pub const GRIDNET_NODE_JOINED: u32 = 1;
/// gridnet_node_event.kind: a node left. Of it only the id is told, as of all that went.
pub const GRIDNET_NODE_LEFT: u32 = 2;
/// gridnet_node_event.kind: a node was not heard of any more.
pub const GRIDNET_NODE_LOST: u32 = 3;
/// gridnet_node_event.kind: a node was revoked.
pub const GRIDNET_NODE_REVOKED: u32 = 4;
/// gridnet_node_event.kind: a node went, for a reason that this version does not know.
pub const GRIDNET_NODE_GONE: u32 = 5;
/// gridnet_node_event.kind: events were dropped since nobody took them: gridnet_nodes says who is there now.
pub const GRIDNET_NODE_MISSED: u32 = 6;

/// Longest time that opening an endpoint to a node may take.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// The id of a node of a session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_node {
    /// Never all zero.
    pub bytes: [u8; 16],
}

/// What is known of a node. The struct keeps its size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_node_info {
    /// Who it is; only this is proved.
    pub node: gridnet_node,
    /// When it came, in seconds after 1970 began, by the clock of the rendez-vous node.
    pub since: i64,
    /// GRIDNET_NODE_LEADS or 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// What it says of itself, for people; ended by a zero.
    pub label: [c_char; GRIDNET_NODE_NAME_BYTES],
    /// The cluster that it says it belongs to; ended by a zero.
    pub cluster: [c_char; GRIDNET_NODE_NAME_BYTES],
}

/// What has happened to a node. The struct keeps its size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_node_event {
    /// GRIDNET_NODE_JOINED to GRIDNET_NODE_MISSED; kinds of later versions may be skipped.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// The node; all zero for GRIDNET_NODE_MISSED.
    pub info: gridnet_node_info,
}

impl gridnet_node_info {
    const NONE: gridnet_node_info = gridnet_node_info {
        node: gridnet_node { bytes: [0; 16] },
        since: 0,
        flags: 0,
        reserved: 0,
        label: [0; GRIDNET_NODE_NAME_BYTES],
        cluster: [0; GRIDNET_NODE_NAME_BYTES],
    };

    fn of_node(node: NodeId) -> gridnet_node_info {
        gridnet_node_info { node: gridnet_node { bytes: *node.bytes() }, ..gridnet_node_info::NONE }
    }
}

impl From<&Entry> for gridnet_node_info {
    fn from(entry: &Entry) -> gridnet_node_info {
        gridnet_node_info {
            since: entry.since,
            flags: if entry.leads { GRIDNET_NODE_LEADS } else { 0 },
            label: name(entry.label.as_str()),
            cluster: name(entry.cluster.as_str()),
            ..gridnet_node_info::of_node(entry.node)
        }
    }
}

impl From<&NodeEvent> for gridnet_node_event {
    fn from(event: &NodeEvent) -> gridnet_node_event {
        let (kind, info) = match event {
            NodeEvent::Joined(entry) => (GRIDNET_NODE_JOINED, entry.as_ref().into()),
            NodeEvent::Left(node, why) => (kind_of(*why), gridnet_node_info::of_node(*node)),
            NodeEvent::Missed => (GRIDNET_NODE_MISSED, gridnet_node_info::NONE),
        };
        gridnet_node_event { kind, reserved: 0, info }
    }
}

fn kind_of(why: Departure) -> u32 {
    match why {
        Departure::Left => GRIDNET_NODE_LEFT,
        Departure::Lost => GRIDNET_NODE_LOST,
        Departure::Revoked => GRIDNET_NODE_REVOKED,
        _ => GRIDNET_NODE_GONE,
    }
}

/// A name with zeroes behind it.
fn name(text: &str) -> [c_char; GRIDNET_NODE_NAME_BYTES] {
    let mut bytes = [0; GRIDNET_NODE_NAME_BYTES];
    // The last one stays zero, whatever the text.
    for (to, from) in bytes.iter_mut().take(GRIDNET_NODE_NAME_BYTES - 1).zip(text.bytes()) {
        *to = from as c_char;
    }
    bytes
}

/// # Safety
/// `node` is NULL or valid.
pub(crate) unsafe fn node_of(node: *const gridnet_node) -> Result<NodeId, Failure> {
    if node.is_null() {
        return Err(null("node"));
    }
    // SAFETY: not NULL, valid by the caller's promise.
    let bytes = unsafe { (*node).bytes };
    NodeId::new(bytes).ok_or_else(|| invalid("the id of a node is not all zero"))
}

/// Writes as many items as there is room for.
///
/// # Safety
/// `out` has room for `room` items.
unsafe fn write_all<T: Copy>(out: *mut T, room: usize, items: impl Iterator<Item = T>) {
    for (at, item) in items.take(room).enumerate() {
        // SAFETY: `at` is less than `room`.
        unsafe { write_out(out.add(at), item) };
    }
}

/// Who is in the session that the fabric has joined, the fabric among them, by node id: at most `room` of them are written, and
/// `count_out` (may be NULL) gets how many there are; when that is more, the result is GRIDNET_ERR_TRUNCATED. With `room` 0, `nodes_out`
/// may be NULL. From the first call on, gridnet_node_events tells what changes.
///
/// Errors: GRIDNET_ERR_CONFIG when it has joined none (GRIDNET_SESSION names no ticket).
///
/// # Safety
/// `fabric` is NULL or a fabric, `nodes_out` has room for `room` nodes, `count_out` is NULL or valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_nodes(
    fabric: *mut gridnet_fabric,
    nodes_out: *mut gridnet_node_info,
    room: usize,
    count_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        if nodes_out.is_null() && room > 0 {
            return Err(null("nodes_out"));
        }
        let nodes = object.owner.shared.enter()?.watch_nodes()?;
        if !count_out.is_null() {
            // SAFETY: checked for NULL, valid by the caller's promise.
            unsafe { write_out(count_out, nodes.len()) };
        }
        // SAFETY: the caller's promise.
        unsafe { write_all(nodes_out, room, nodes.iter().map(gridnet_node_info::from)) };
        match nodes.len() > room {
            true => Err(Error::Truncated.into()),
            false => Ok(GRIDNET_OK),
        }
    })
}

/// Takes what has happened to the nodes of the session since the first gridnet_nodes, oldest first: returns how many events were
/// written, 0 when nothing has happened. Never waits.
///
/// Errors: GRIDNET_ERR_INVALID for a `room` of 0 or more than 2147483647, GRIDNET_ERR_CONFIG as gridnet_nodes.
///
/// # Safety
/// `fabric` is NULL or a fabric, `events_out` has room for `room` events.
#[no_mangle]
pub unsafe extern "C" fn gridnet_node_events(
    fabric: *mut gridnet_fabric,
    events_out: *mut gridnet_node_event,
    room: usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { fabric_of(fabric)? };
        if events_out.is_null() {
            return Err(null("events_out"));
        }
        if room == 0 || i32::try_from(room).is_err() {
            return Err(invalid(format!("room is {room}; accepted: 1 to {}", i32::MAX)));
        }
        let events = object.owner.shared.enter()?.take_node_events(room)?;
        // SAFETY: the caller's promise.
        unsafe { write_all(events_out, room, events.iter().map(gridnet_node_event::from)) };
        Ok(i32::try_from(events.len()).unwrap_or(i32::MAX))
    })
}

/// Begins to open an endpoint to the fabric that is this node of the session, over the first stack that the rules of both sides
/// allow and that comes up. Returns GRIDNET_IN_PROGRESS; within `timeout_ns` (a minute at most, negative: a minute) `cq` has a completion
/// of kind GRIDNET_OP_OPEN with this context. When its status is GRIDNET_OK, gridnet_endpoint_open_source makes the endpoint of its
/// `source`; otherwise gridnet_node_explain has all reasons.
///
/// The status of the completion: GRIDNET_ERR_NOT_FOUND when there is no such node, GRIDNET_ERR_PERMISSION when the rules of either side
/// allow no stack, GRIDNET_ERR_UNREACHABLE when none came up, GRIDNET_ERR_TIMEOUT.
///
/// Errors: GRIDNET_ERR_CONFIG when the fabric has joined no session, GRIDNET_ERR_INVALID for an id of zeroes, GRIDNET_ERR_AGAIN when
/// the queue is full, GRIDNET_ERR_SYSTEM.
///
/// # Safety
/// `cq` is NULL or a completion queue, `node` NULL or valid.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_open_node(
    cq: *mut gridnet_cq,
    node: *const gridnet_node,
    timeout_ns: i64,
    context: *mut c_void,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, node) = unsafe { (cq_of(cq)?, node_of(node)?) };
        let limit = duration_of(timeout_ns).unwrap_or(LONGEST);
        cq.owner.shared.enter()?.open_node(cq.id, node, limit, context as usize as u64)?;
        Ok(GRIDNET_IN_PROGRESS)
    })
}

/// How the last endpoint to a node of the session came about: the stack, and what was tried before; or why there is none. Some lines of
/// text, ended by a zero. `needed_out` (may be NULL) gets the bytes that the whole text needs, zero included; when `size` is less,
/// the text is cut and the result is GRIDNET_ERR_TRUNCATED (with `size` 0, `text_out` may be NULL).
///
/// Errors: GRIDNET_ERR_NOT_FOUND when no endpoint to it was asked for, nor by it, GRIDNET_ERR_INVALID for an id of zeroes,
/// GRIDNET_ERR_CONFIG when the fabric has joined no session.
///
/// # Safety
/// `fabric` is NULL or a fabric, `node` NULL or valid, `text_out` has room for `size` bytes, `needed_out` is NULL or valid for a
/// write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_node_explain(
    fabric: *mut gridnet_fabric,
    node: *const gridnet_node,
    text_out: *mut c_char,
    size: usize,
    needed_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, node) = unsafe { (fabric_of(fabric)?, node_of(node)?) };
        if text_out.is_null() && size > 0 {
            return Err(null("text_out"));
        }
        let story = {
            let guard = object.owner.shared.enter()?;
            guard.nodes()?;
            guard.node_story(node).ok_or(Error::NotFound)?
        };
        let text: String = story.iter().map(|line| format!("{line}\n")).collect();
        // SAFETY: the caller's promise.
        unsafe { write_text(&text, text_out, size, needed_out) }
    })
}

/// Writes a text, cut to what there is room for, and a zero.
///
/// # Safety
/// `text_out` has room for `size` bytes, `needed_out` is NULL or valid for a write.
pub(crate) unsafe fn write_text(
    text: &str,
    text_out: *mut c_char,
    size: usize,
    needed_out: *mut usize,
) -> Result<gridnet_status, Failure> {
    if !needed_out.is_null() {
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(needed_out, text.len() + 1) };
    }
    if size == 0 {
        return Err(Error::Truncated.into());
    }
    let len = text.len().min(size - 1);
    // SAFETY: `size` bytes have room by the caller's promise, and len + 1 is at most that.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), text_out.cast(), len);
        text_out.add(len).write(0);
    }
    match len < text.len() {
        true => Err(Error::Truncated.into()),
        false => Ok(GRIDNET_OK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_with_a_zero_whatever_their_length() {
        for len in [0, 1, 64, 71, 72, 100] {
            let written = name(&"n".repeat(len));
            let end = written.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(end, len.min(GRIDNET_NODE_NAME_BYTES - 1));
        }
    }

    #[test]
    fn whoever_went_is_told_by_id_and_reason() {
        let node = NodeId::new([7; 16]).unwrap();
        for (why, kind) in [
            (Departure::Left, GRIDNET_NODE_LEFT),
            (Departure::Lost, GRIDNET_NODE_LOST),
            (Departure::Revoked, GRIDNET_NODE_REVOKED),
            (Departure::Gone, GRIDNET_NODE_GONE),
        ] {
            let event = gridnet_node_event::from(&NodeEvent::Left(node, why));
            assert_eq!((event.kind, event.info.node.bytes), (kind, [7; 16]));
        }
        assert_eq!(gridnet_node_event::from(&NodeEvent::Missed).info.node.bytes, [0; 16]);
    }
}
