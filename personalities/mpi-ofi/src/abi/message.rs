//! Arguments of operations, and what completion queues hold.

use std::ffi::c_void;

use super::FiAddr;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct IoVec {
    pub(crate) base: *mut c_void,
    pub(crate) len: usize,
}

#[repr(C)]
pub(crate) struct Msg {
    pub(crate) iov: *const IoVec,
    pub(crate) desc: *mut *mut c_void,
    pub(crate) iov_count: usize,
    pub(crate) addr: FiAddr,
    pub(crate) context: *mut c_void,
    pub(crate) data: u64,
}

#[repr(C)]
pub(crate) struct MsgTagged {
    pub(crate) iov: *const IoVec,
    pub(crate) desc: *mut *mut c_void,
    pub(crate) iov_count: usize,
    pub(crate) addr: FiAddr,
    pub(crate) tag: u64,
    pub(crate) ignore: u64,
    pub(crate) context: *mut c_void,
    pub(crate) data: u64,
}

/// Memory of a peer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RmaIov {
    pub(crate) addr: u64,
    pub(crate) len: usize,
    pub(crate) key: u64,
}

/// Elements.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ioc {
    pub(crate) addr: *mut c_void,
    pub(crate) count: usize,
}

/// Elements of a peer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RmaIoc {
    pub(crate) addr: u64,
    pub(crate) count: usize,
    pub(crate) key: u64,
}

#[repr(C)]
pub(crate) struct MsgRma {
    pub(crate) iov: *const IoVec,
    pub(crate) desc: *mut *mut c_void,
    pub(crate) iov_count: usize,
    pub(crate) addr: FiAddr,
    pub(crate) rma_iov: *const RmaIov,
    pub(crate) rma_iov_count: usize,
    pub(crate) context: *mut c_void,
    pub(crate) data: u64,
}

#[repr(C)]
pub(crate) struct MsgAtomic {
    pub(crate) iov: *const Ioc,
    pub(crate) desc: *mut *mut c_void,
    pub(crate) iov_count: usize,
    pub(crate) addr: FiAddr,
    pub(crate) rma_iov: *const RmaIoc,
    pub(crate) rma_iov_count: usize,
    pub(crate) datatype: i32,
    pub(crate) op: i32,
    pub(crate) context: *mut c_void,
    pub(crate) data: u64,
}

/// The beginning that all versions have; what is behind it is about memory of devices.
#[repr(C)]
pub(crate) struct MrAttr {
    pub(crate) iov: *const IoVec,
    pub(crate) iov_count: usize,
    pub(crate) access: u64,
    pub(crate) offset: u64,
    pub(crate) requested_key: u64,
    pub(crate) context: *mut c_void,
}

/// The longest form of an entry; the shorter ones are its beginnings.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CqEntry {
    pub(crate) op_context: *mut c_void,
    pub(crate) flags: u64,
    pub(crate) len: usize,
    pub(crate) buf: *mut c_void,
    pub(crate) data: u64,
    pub(crate) tag: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CqErrEntry {
    pub(crate) op_context: *mut c_void,
    pub(crate) flags: u64,
    pub(crate) len: usize,
    pub(crate) buf: *mut c_void,
    pub(crate) data: u64,
    pub(crate) tag: u64,
    pub(crate) olen: usize,
    pub(crate) err: i32,
    pub(crate) prov_errno: i32,
    pub(crate) err_data: *mut c_void,
    // Since API 1.5.
    pub(crate) err_data_size: usize,
    // Since API 1.20.
    pub(crate) src_addr: FiAddr,
}

const _: () = {
    assert!(size_of::<IoVec>() == size_of::<libc::iovec>());
    assert!(size_of::<Msg>() == 48);
    assert!(size_of::<MsgTagged>() == 64);
    assert!(size_of::<RmaIov>() == 24 && size_of::<RmaIoc>() == 24 && size_of::<Ioc>() == 16);
    assert!(size_of::<MsgRma>() == 64 && size_of::<MsgAtomic>() == 72);
    assert!(size_of::<CqEntry>() == 48);
    assert!(std::mem::offset_of!(CqErrEntry, err_data_size) == 72);
    assert!(std::mem::offset_of!(CqErrEntry, src_addr) == 80);
    assert!(size_of::<CqErrEntry>() == 88);
};
