//! What an address says of where its fabric is.

use gridnet::core::wire::Address;

use crate::boundary::{guarded, null, write_out};
use crate::fabric::{address_of, fabric_of, gridnet_address, gridnet_fabric};
use crate::node::gridnet_node;
use crate::status::{gridnet_status, GRIDNET_OK};

/// gridnet_location.flags: on the host of the fabric that was asked.
pub const GRIDNET_LOCATION_HERE: u32 = 1;

/// Where the fabric of an address is. The struct keeps its size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gridnet_location {
    /// Which node it is. In a session that it has joined by a ticket this is its id there.
    pub node: gridnet_node,
    /// GRIDNET_LOCATION_HERE or 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

impl gridnet_location {
    fn new(of: &Address, own: &Address) -> gridnet_location {
        let flags = if of.host == own.host { GRIDNET_LOCATION_HERE } else { 0 };
        gridnet_location { node: gridnet_node { bytes: *of.node.bytes() }, flags, reserved: 0 }
    }
}

/// Where the fabric of an address is, as far as the address says it: nobody is asked, and it may have ended.
///
/// Errors: GRIDNET_ERR_INVALID for what is no address.
///
/// # Safety
/// `fabric` is NULL or a fabric, `address` NULL or valid, `location_out` valid for a write.
#[no_mangle]
pub unsafe extern "C" fn gridnet_fabric_locate(
    fabric: *mut gridnet_fabric,
    address: *const gridnet_address,
    location_out: *mut gridnet_location,
) -> gridnet_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (object, address) = unsafe { (fabric_of(fabric)?, address_of(address)?) };
        if location_out.is_null() {
            return Err(null("location_out"));
        }
        let location = gridnet_location::new(&address, object.owner.shared.enter()?.address());
        // SAFETY: checked for NULL, valid by the caller's promise.
        unsafe { write_out(location_out, location) };
        Ok(GRIDNET_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet::core::wire::{NetAddresses, NodeId};

    #[test]
    fn an_address_says_which_node_and_whether_it_is_of_this_host() {
        let of = |host, node| Address {
            uid: 1,
            host,
            node: NodeId::new([node; 16]).unwrap(),
            incarnation: 2,
            network: NetAddresses::NONE,
        };
        let near = gridnet_location::new(&of(5, 7), &of(5, 8));
        assert_eq!((near.node.bytes, near.flags), ([7; 16], GRIDNET_LOCATION_HERE));
        let far = gridnet_location::new(&of(6, 7), &of(5, 7));
        assert_eq!((far.node.bytes, far.flags), ([7; 16], 0));
    }
}
