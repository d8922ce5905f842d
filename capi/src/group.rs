//! Groups: ordered sets of peers, addressed by rank.

use std::sync::{Arc, Mutex, PoisonError};

use gridnet::core::wire::KnownPeer;

use crate::boundary::{guarded, invalid, null, write_out, Failure};
use crate::cq::{cq_of, gridnet_cq, CqObject};
use crate::endpoint::{close_endpoint, endpoint_of, gridnet_endpoint, new_endpoint};
use crate::fabric::{address_of, gridnet_address, Child, Owner};
use crate::handle::{object, Handle};
use crate::status::{gridnet_status, GRIDNET_OK};

/// What is kept of a rank: its address, and once it was used, a number that leads to its endpoint.
pub(crate) struct GroupObject {
    owner: Arc<Owner>,
    cq: CqObject,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    ranks: Vec<KnownPeer>,
    endpoints: Vec<(usize, *mut gridnet_endpoint)>,
}

// SAFETY: the addresses of handles are valid on any thread; the handles themselves check the thread level.
unsafe impl Send for Members {}
/// A group: an ordered set of peers. Ranks count from 0.
pub struct gridnet_group {
    _opaque: [u8; 0],
}

object!(GroupObject, b"GN-group", "group");

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
        let cq = unsafe { cq_of(cq)? }.clone();
        let owner = cq.owner.clone();
        if addresses.is_null() {
            return Err(null("addresses"));
        }
        if group_out.is_null() {
            return Err(null("group_out"));
        }
        if count == 0 || count > u32::MAX as usize {
            return Err(invalid(format!("count is {count}; accepted: 1 to 4294967295")));
        }
        drop(owner.shared.enter()?);
        let ranks: Result<Vec<KnownPeer>, Failure> = (0..count)
            .map(|rank| {
                Ok(KnownPeer {
                    // SAFETY: the caller's promise; `rank` is below `count`.
                    address: unsafe { address_of(addresses.add(rank))? },
                    endpoint: None,
                })
            })
            .collect();
        let members = Mutex::new(Members { ranks: ranks?, endpoints: Vec::new() });
        let group: *mut gridnet_group =
            Handle::open(GroupObject { owner: owner.clone(), cq, members }).cast();
        owner.adopt(Child::Group(group));
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(group_out, group) };
        Ok(GRIDNET_OK)
    })
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
/// Errors: GRIDNET_ERR_INVALID for a rank that the group does not have; else as gridnet_endpoint_open.
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
        let member = ranks
            .get_mut(rank)
            .ok_or_else(|| invalid(format!("rank is {rank}; accepted: 0 to {}", count - 1)))?;
        let known = member.endpoint.and_then(|at| endpoints.get(at as usize));
        let endpoint = match known {
            Some((_, endpoint)) => *endpoint,
            None => {
                // A queue that was destroyed meanwhile is found out when the endpoint sends.
                let peer = object.owner.shared.enter()?.engine.open(&member.address)?;
                let endpoint = new_endpoint(&object.cq, peer);
                member.endpoint = u32::try_from(endpoints.len()).ok();
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
            .or_else(|| members.ranks.iter().position(|member| member.address.node == node))
            .ok_or(gridnet::core::error::Error::NotFound)?;
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(rank_out, rank) };
        Ok(GRIDNET_OK)
    })
}
