//! Endpoints to nodes of the session, with everything that can be said of them.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use gridnet::{Requirements, Security, SERVICE};

use crate::boundary::{guarded, invalid, null, Failure};
use crate::cq::{cq_of, gridnet_cq};
use crate::fabric::text;
use crate::grow::{read_params, Growing};
use crate::node::{gridnet_node, node_of, LONGEST};
use crate::status::{gridnet_status, GRIDNET_IN_PROGRESS};

/// gridnet_open_node_params.min_security: what the rules ask for.
pub const GRIDNET_SECURITY_PLAIN: u32 = 0;
/// gridnet_open_node_params.min_security: the peer is who it should be, and nobody changes what passes.
pub const GRIDNET_SECURITY_AUTHENTICATED: u32 = 1;
/// gridnet_open_node_params.min_security: nobody but the two reads or changes what passes.
pub const GRIDNET_SECURITY_ENCRYPTED: u32 = 2;

/// What an endpoint to a node is for, and what it has to be.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_open_node_params {
    /// sizeof(gridnet_open_node_params).
    pub size: usize,
    /// How long it may take in nanoseconds; 0, negative and more than that: a minute.
    pub timeout_ns: i64,
    /// The service of the node that the rules of both sides are asked for; NULL: that of all fabrics, "gridnet".
    pub service: *const c_char,
    /// GRIDNET_SECURITY_*: the least that does; the rules may ask for more.
    pub min_security: u32,
    /// 0.
    pub reserved: u32,
    /// Given back with the completion.
    pub context: *mut c_void,
}

// SAFETY: of this form; numbers and pointers.
unsafe impl Growing for gridnet_open_node_params {
    const NAME: &'static str = "gridnet_open_node_params";
    const FIRST: usize = 40;
}

/// Begins to open an endpoint to a node as gridnet_endpoint_open_node, for a service of it, and at least so safe: by the rules of both
/// sides for that service. It stays so: whatever becomes of its link, the conversation goes on only where that is met.
///
/// There is one conversation with a node. One that is there already, over less than is asked for here, is not used, and stays as it is: then
/// the status of the completion is GRIDNET_ERR_UNREACHABLE. It is GRIDNET_ERR_NOT_FOUND also when the node has no such service: it
/// has those for which it listens.
///
/// Errors: as gridnet_endpoint_open_node; GRIDNET_ERR_INVALID for a service that rules cannot name (1 to 64 letters, digits, '.',
/// '_' and '-', a letter, digit or '_' first), and for another level; GRIDNET_ERR_STRUCT_SIZE.
///
/// # Safety
/// `cq` is NULL or a completion queue, `node` and `params` NULL or valid, `service` in it NULL or a C string.
#[no_mangle]
pub unsafe extern "C" fn gridnet_endpoint_open_nodex(
    cq: *mut gridnet_cq,
    node: *const gridnet_node,
    params: *const gridnet_open_node_params,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (cq, node, params) = unsafe { (cq_of(cq)?, node_of(node)?, read_params(params)?) };
        // That the fabric cannot be used at all is said first.
        drop(cq.owner.shared.enter()?);
        let params = params.ok_or_else(|| null("params"))?;
        if params.reserved != 0 {
            return Err(invalid(format!("reserved is {}; accepted: 0", params.reserved)));
        }
        // SAFETY: the caller's promise.
        let service = unsafe { text(params.service, "service")? };
        let least = level(params.min_security)?;
        let requirements = Requirements::new(service.as_deref().unwrap_or(SERVICE), least)?;
        let limit = u64::try_from(params.timeout_ns).ok().filter(|ns| *ns > 0).map(Duration::from_nanos);
        let (limit, context) = (limit.unwrap_or(LONGEST), params.context as usize as u64);
        cq.owner.shared.enter()?.open_node_for(cq.id, node, &requirements, limit, context)?;
        Ok(GRIDNET_IN_PROGRESS)
    })
}

fn level(number: u32) -> Result<Security, Failure> {
    match number {
        GRIDNET_SECURITY_PLAIN => Ok(Security::Plain),
        GRIDNET_SECURITY_AUTHENTICATED => Ok(Security::Authenticated),
        GRIDNET_SECURITY_ENCRYPTED => Ok(Security::Encrypted),
        _ => Err(invalid(format!("min_security is {number}; accepted: 0 to {GRIDNET_SECURITY_ENCRYPTED}"))),
    }
}
