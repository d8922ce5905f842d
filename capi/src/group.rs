//! Groups: ordered sets of peers, addressed by rank.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use gridnet::core::wire::KnownPeer;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq, CqObject};
use crate::endpoint::{close_endpoint, endpoint_of, gridnet_endpoint, new_endpoint};
use crate::fabric::{address_of, duration_of, gridnet_address, Child, Owner};
use crate::grow::{read_params, Growing};
use crate::handle::{object, Handle};
use crate::node::{gridnet_node, node_of, LONGEST};
use crate::ranks::{KnownNode, Nodes, Ranks};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS, GRIDNET_OK};

pub(crate) struct GroupObject {
    owner: Arc<Owner>,
    cq: CqObject,
    members: Mutex<Members>,
}

struct Members {
    ranks: Ranks,
    endpoints: Vec<(usize, *mut gridnet_endpoint)>,
}

// SAFETY: the addresses of handles are valid on any thread; the handles themselves check the thread level.
unsafe impl Send for Members {}
/// A group: an ordered set of peers. Ranks count from 0.
pub struct gridnet_group {
    _opaque: [u8; 0],
}

object!(GroupObject, b"GN-group", "group");

/// How the edges of a group of nodes are opened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_group_params {
    /// sizeof(gridnet_group_params).
    pub size: usize,
    /// How long agreeing on an edge may take, in ns: a minute at most, and when it is 0 or negative.
    pub timeout_ns: i64,
    /// Is in the completions that tell how it went.
    pub context: *mut c_void,
}

// SAFETY: of this form; numbers and a pointer.
unsafe impl Growing for gridnet_group_params {
    const NAME: &'static str = "gridnet_group_params";
    const FIRST: usize = 24;
}

/// # Safety
/// As `Handle::get`.
unsafe fn group_of<'a>(group: *const gridnet_group) -> Result<&'a GroupObject, Failure> {
    // SAFETY: the caller's promise.
    unsafe { Handle::get(group.cast()) }
}

impl GroupObject {
    fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a group of the fabrics at `count` addresses. Nothing is connected: each rank's endpoint is opened at its
/// first use, and reports to `cq`. A rank that is never used costs less than 128 bytes.
///
/// # Safety
/// `cq` is NULL or a completion queue; `addresses` points to `count` addresses; `group_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_create(
    cq: *mut gridnet_cq,
    addresses: *const gridnet_address,
    count: usize,
    group_out: *mut *mut gridnet_group,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let cq = unsafe { cq_of(cq)? };
        if addresses.is_null() {
            return Err(null("addresses"));
        }
        check(count, group_out)?;
        drop(cq.owner.shared.enter()?);
        let ranks: Result<Vec<KnownPeer>, Failure> = (0..count)
            .map(|rank| {
                Ok(KnownPeer {
                    // SAFETY: the caller's promise; `rank` is below `count`.
                    address: unsafe { address_of(addresses.add(rank))? },
                    endpoint: None,
                })
            })
            .collect();
        let group = new_group(cq, Ranks::Addresses(ranks?));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(group_out, group) };
        Ok(GRIDNET_OK)
    })
}

/// Makes a group of `count` nodes of the session that the fabric has joined. Nothing is connected: the endpoint of each rank is opened
/// at its first use by either side, over a stack that the rules of both allow, and reports to `cq`; see gridnet_group_endpoint.
/// `params` may be NULL.
///
/// Errors: GRIDNET_ERR_CONFIG when the fabric has joined no session, GRIDNET_ERR_INVALID for an id of zeroes or a count out of
/// range, GRIDNET_ERR_STRUCT_SIZE.
///
/// # Safety
/// `cq` is NULL or a completion queue; `nodes` points to `count` ids; `params` is NULL or valid; `group_out` is valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_create_nodes(
    cq: *mut gridnet_cq,
    nodes: *const gridnet_node,
    count: usize,
    params: *const gridnet_group_params,
    group_out: *mut *mut gridnet_group,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let cq = unsafe { cq_of(cq)? };
        if nodes.is_null() {
            return Err(null("nodes"));
        }
        check(count, group_out)?;
        // SAFETY: the caller's promise.
        let params = unsafe { read_params(params)? };
        let limit = params.filter(|params| params.timeout_ns > 0);
        let limit = limit.and_then(|params| duration_of(params.timeout_ns)).unwrap_or(LONGEST);
        let context = params.map_or(0, |params| params.context as usize as u64);
        cq.owner.shared.enter()?.nodes()?;
        let ranks: Result<Vec<KnownNode>, Failure> = (0..count)
            .map(|rank| {
                // SAFETY: the caller's promise; `rank` is below `count`.
                let node = unsafe { node_of(nodes.add(rank))? };
                Ok(KnownNode { node, endpoint: None })
            })
            .collect();
        let group = new_group(cq, Ranks::Nodes(Nodes { ranks: ranks?, limit, context }));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(group_out, group) };
        Ok(GRIDNET_OK)
    })
}

fn check(count: usize, group_out: *mut *mut gridnet_group) -> Result<(), Failure> {
    if group_out.is_null() {
        return Err(null("group_out"));
    }
    if count == 0 || count > u32::MAX as usize {
        return Err(invalid(format!("count is {count}; accepted: 1 to 4294967295")));
    }
    Ok(())
}

fn new_group(cq: &CqObject, ranks: Ranks) -> *mut gridnet_group {
    let (owner, cq) = (cq.owner.clone(), cq.clone());
    let members = Mutex::new(Members { ranks, endpoints: Vec::new() });
    let group: *mut gridnet_group = Handle::open(GroupObject { owner: owner.clone(), cq, members }).cast();
    owner.adopt(Child::Group(group));
    group
}

/// Ends a group, and closes the endpoints that it has opened.
///
/// # Safety
/// `group` is NULL or a group; no other call uses it or its endpoints.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_destroy(group: *mut gridnet_group) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { group_of(group)? };
        drop(object.owner.shared.enter()?);
        for (_, endpoint) in std::mem::take(&mut object.members().endpoints) {
            // One that the program has closed itself, against the rules, is closed.
            // SAFETY: the group's own endpoint, used by nobody by the caller's promise.
            let _ = unsafe { close_endpoint(endpoint) };
        }
        object.owner.disown(Child::Group(group));
        // SAFETY: the caller's promise.
        drop(unsafe { Handle::<GroupObject>::close(group.cast())? });
        Ok(GRIDNET_OK)
    })
}

/// Number of ranks.
///
/// # Safety
/// `group` is NULL or a group, `size_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_size(
    group: *mut gridnet_group,
    size_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { group_of(group)? };
        if size_out.is_null() {
            return Err(null("size_out"));
        }
        drop(object.owner.shared.enter()?);
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(size_out, object.members().ranks.len()) };
        Ok(GRIDNET_OK)
    })
}

/// The endpoint of a rank, opened at the first call. It belongs to the group: it is not to be closed by itself.
///
/// In a group of nodes, GRIDNET_IN_PROGRESS says that both sides agree on a stack, and nothing is written: the completion queue of the
/// group has one completion of kind GRIDNET_OP_OPEN for each time that this is begun, with the context of the group and the rank as
/// tag. With status GRIDNET_OK the next call has the endpoint; otherwise it begins anew. An edge that the other side has opened is there.
///
/// Errors: GRIDNET_ERR_INVALID for a rank that the group does not have; else as gridnet_endpoint_open or gridnet_endpoint_open_node.
///
/// # Safety
/// `group` is NULL or a group, `endpoint_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_endpoint(
    group: *mut gridnet_group,
    rank: usize,
    endpoint_out: *mut *mut gridnet_endpoint,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { group_of(group)? };
        if endpoint_out.is_null() {
            return Err(null("endpoint_out"));
        }
        let mut members = object.members();
        let Members { ranks, endpoints } = &mut *members;
        let count = ranks.len();
        let no_rank = || invalid(format!("rank is {rank}; accepted: 0 to {}", count - 1));
        let known = ranks.endpoint(rank).ok_or_else(no_rank)?.and_then(|at| endpoints.get(at as usize));
        let endpoint = match known {
            Some((_, endpoint)) => *endpoint,
            None => {
                let Some(peer) = ranks.open(rank, &object.cq)? else { return Ok(GRIDNET_IN_PROGRESS) };
                let endpoint = new_endpoint(&object.cq, peer);
                if let Some(number) = ranks.endpoint(rank) {
                    *number = u32::try_from(endpoints.len()).ok();
                }
                endpoints.push((rank, endpoint));
                endpoint
            }
        };
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(endpoint_out, endpoint) };
        Ok(GRIDNET_OK)
    })
}

/// The rank of the peer that completions and probes call `source`.
///
/// Errors: GRIDNET_ERR_NOT_FOUND when no rank has that peer.
///
/// # Safety
/// `group` is NULL or a group, `rank_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_group_rank(
    group: *mut gridnet_group,
    source: u32,
    rank_out: *mut usize,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let object = unsafe { group_of(group)? };
        if rank_out.is_null() {
            return Err(null("rank_out"));
        }
        let peer = gridnet::core::rail::PeerId::new(source);
        let node = object.owner.shared.enter()?.engine.peer(peer)?.0;
        let members = object.members();
        let by_endpoint = members.endpoints.iter().find(|(_, endpoint)| {
            // SAFETY: the group's own endpoints; a handle that the program closed by mistake tells so.
            unsafe { endpoint_of(*endpoint) }.is_ok_and(|e| e.peer == peer)
        });
        let rank = by_endpoint
            .map(|(rank, _)| *rank)
            .or_else(|| members.ranks.position(node))
            .ok_or(gridnet::core::error::Error::NotFound)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(rank_out, rank) };
        Ok(GRIDNET_OK)
    })
}
