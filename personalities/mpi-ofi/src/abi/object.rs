//! Objects, and the tables of their functions.

use std::ffi::{c_char, c_void};

use super::info::{FabricAttr, Info};
use super::message::{CqErrEntry, IoVec, Ioc, MrAttr, Msg, MsgAtomic, MsgRma, MsgTagged};
use super::FiAddr;

pub(crate) const CLASS_FABRIC: usize = 1;
pub(crate) const CLASS_DOMAIN: usize = 2;
pub(crate) const CLASS_EP: usize = 3;
pub(crate) const CLASS_AV: usize = 11;
pub(crate) const CLASS_MR: usize = 12;
pub(crate) const CLASS_CQ: usize = 14;
pub(crate) const CLASS_CNTR: usize = 15;

/// In place of a function that there is not, whatever its arguments: in the calling convention of System V it is the caller who
/// removes them, and what it answers is in the same register for `int` and `ssize_t`.
pub(crate) type Missing = unsafe extern "C" fn() -> isize;

/// `-FI_ENOSYS`.
pub(crate) unsafe extern "C" fn missing() -> isize {
    -(super::errno::ENOSYS as isize)
}

#[repr(C)]
pub(crate) struct Provider {
    pub(crate) version: u32,
    pub(crate) fi_version: u32,
    /// libfabric's own.
    pub(crate) context: [*mut c_void; 4],
    pub(crate) name: *const c_char,
    pub(crate) getinfo:
        unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const Info, *mut *mut Info) -> i32,
    pub(crate) fabric: unsafe extern "C" fn(*mut FabricAttr, *mut *mut FidFabric, *mut c_void) -> i32,
    pub(crate) cleanup: unsafe extern "C" fn(),
}

#[repr(C)]
pub(crate) struct Fid {
    pub(crate) class: usize,
    pub(crate) context: *mut c_void,
    pub(crate) ops: *const FidOps,
}

#[repr(C)]
pub(crate) struct FidOps {
    pub(crate) size: usize,
    pub(crate) close: unsafe extern "C" fn(*mut Fid) -> i32,
    pub(crate) bind: unsafe extern "C" fn(*mut Fid, *mut Fid, u64) -> i32,
    pub(crate) control: unsafe extern "C" fn(*mut Fid, i32, *mut c_void) -> i32,
    pub(crate) ops_open: Missing,
    pub(crate) tostr: Missing,
    pub(crate) ops_set: Missing,
}

#[repr(C)]
pub(crate) struct FidFabric {
    pub(crate) fid: Fid,
    pub(crate) ops: *const FabricOps,
    /// What the program asked for; libfabric writes it.
    pub(crate) api_version: u32,
}

#[repr(C)]
pub(crate) struct FabricOps {
    pub(crate) size: usize,
    pub(crate) domain:
        unsafe extern "C" fn(*mut FidFabric, *mut Info, *mut *mut FidDomain, *mut c_void) -> i32,
    pub(crate) passive_ep: Missing,
    pub(crate) eq_open: Missing,
    pub(crate) wait_open: Missing,
    pub(crate) trywait: unsafe extern "C" fn(*mut FidFabric, *mut *mut Fid, i32) -> i32,
    pub(crate) domain2: Missing,
}

#[repr(C)]
pub(crate) struct FidDomain {
    pub(crate) fid: Fid,
    pub(crate) ops: *const DomainOps,
    pub(crate) mr: *const MrOps,
}

#[repr(C)]
pub(crate) struct DomainOps {
    pub(crate) size: usize,
    pub(crate) av_open:
        unsafe extern "C" fn(*mut FidDomain, *const AvAttr, *mut *mut FidAv, *mut c_void) -> i32,
    pub(crate) cq_open:
        unsafe extern "C" fn(*mut FidDomain, *const CqAttr, *mut *mut FidCq, *mut c_void) -> i32,
    pub(crate) endpoint: unsafe extern "C" fn(*mut FidDomain, *mut Info, *mut *mut FidEp, *mut c_void) -> i32,
    pub(crate) scalable_ep: Missing,
    pub(crate) cntr_open:
        unsafe extern "C" fn(*mut FidDomain, *const CntrAttr, *mut *mut FidCntr, *mut c_void) -> i32,
    pub(crate) poll_open: Missing,
    pub(crate) stx_ctx: Missing,
    pub(crate) srx_ctx: Missing,
    pub(crate) query_atomic: unsafe extern "C" fn(*mut FidDomain, i32, i32, *mut AtomicAttr, u64) -> i32,
    pub(crate) query_collective: Missing,
    pub(crate) endpoint2: Missing,
}

#[repr(C)]
pub(crate) struct MrOps {
    pub(crate) size: usize,
    pub(crate) reg: unsafe extern "C" fn(
        *mut Fid,
        *const c_void,
        usize,
        u64,
        u64,
        u64,
        u64,
        *mut *mut FidMr,
        *mut c_void,
    ) -> i32,
    pub(crate) regv: unsafe extern "C" fn(
        *mut Fid,
        *const IoVec,
        usize,
        u64,
        u64,
        u64,
        u64,
        *mut *mut FidMr,
        *mut c_void,
    ) -> i32,
    pub(crate) regattr: unsafe extern "C" fn(*mut Fid, *const MrAttr, u64, *mut *mut FidMr) -> i32,
}

#[repr(C)]
pub(crate) struct FidMr {
    pub(crate) fid: Fid,
    pub(crate) desc: *mut c_void,
    pub(crate) key: u64,
}

/// How many elements an atomic operation may have, and how long one is.
#[repr(C)]
pub(crate) struct AtomicAttr {
    pub(crate) count: usize,
    pub(crate) size: usize,
}

#[repr(C)]
pub(crate) struct FidAv {
    pub(crate) fid: Fid,
    pub(crate) ops: *const AvOps,
}

#[repr(C)]
pub(crate) struct AvOps {
    pub(crate) size: usize,
    pub(crate) insert:
        unsafe extern "C" fn(*mut FidAv, *const c_void, usize, *mut FiAddr, u64, *mut c_void) -> i32,
    pub(crate) insertsvc: Missing,
    pub(crate) insertsym: Missing,
    pub(crate) remove: unsafe extern "C" fn(*mut FidAv, *mut FiAddr, usize, u64) -> i32,
    pub(crate) lookup: unsafe extern "C" fn(*mut FidAv, FiAddr, *mut c_void, *mut usize) -> i32,
    pub(crate) straddr:
        unsafe extern "C" fn(*mut FidAv, *const c_void, *mut c_char, *mut usize) -> *const c_char,
    pub(crate) av_set: Missing,
    // Since 1.20.
    pub(crate) insert_auth_key: Missing,
    pub(crate) lookup_auth_key: Missing,
    pub(crate) set_user_id: Missing,
}

#[repr(C)]
pub(crate) struct AvAttr {
    pub(crate) kind: u32,
    pub(crate) rx_ctx_bits: i32,
    pub(crate) count: usize,
    pub(crate) ep_per_node: usize,
    pub(crate) name: *const c_char,
    pub(crate) map_addr: *mut c_void,
    pub(crate) flags: u64,
}

#[repr(C)]
pub(crate) struct FidCq {
    pub(crate) fid: Fid,
    pub(crate) ops: *const CqOps,
}

#[repr(C)]
pub(crate) struct CqOps {
    pub(crate) size: usize,
    pub(crate) read: unsafe extern "C" fn(*mut FidCq, *mut c_void, usize) -> isize,
    pub(crate) readfrom: unsafe extern "C" fn(*mut FidCq, *mut c_void, usize, *mut FiAddr) -> isize,
    pub(crate) readerr: unsafe extern "C" fn(*mut FidCq, *mut CqErrEntry, u64) -> isize,
    pub(crate) sread: unsafe extern "C" fn(*mut FidCq, *mut c_void, usize, *const c_void, i32) -> isize,
    pub(crate) sreadfrom:
        unsafe extern "C" fn(*mut FidCq, *mut c_void, usize, *mut FiAddr, *const c_void, i32) -> isize,
    pub(crate) signal: Missing,
    pub(crate) strerror:
        unsafe extern "C" fn(*mut FidCq, i32, *const c_void, *mut c_char, usize) -> *const c_char,
}

#[repr(C)]
pub(crate) struct CqAttr {
    pub(crate) size: usize,
    pub(crate) flags: u64,
    pub(crate) format: u32,
    pub(crate) wait_obj: u32,
    pub(crate) signaling_vector: i32,
    pub(crate) wait_cond: u32,
    pub(crate) wait_set: *mut c_void,
}

#[repr(C)]
pub(crate) struct FidCntr {
    pub(crate) fid: Fid,
    pub(crate) ops: *const CntrOps,
}

#[repr(C)]
pub(crate) struct CntrOps {
    pub(crate) size: usize,
    pub(crate) read: unsafe extern "C" fn(*mut FidCntr) -> u64,
    pub(crate) readerr: unsafe extern "C" fn(*mut FidCntr) -> u64,
    pub(crate) add: unsafe extern "C" fn(*mut FidCntr, u64) -> i32,
    pub(crate) set: unsafe extern "C" fn(*mut FidCntr, u64) -> i32,
    pub(crate) wait: unsafe extern "C" fn(*mut FidCntr, u64, i32) -> i32,
    pub(crate) adderr: unsafe extern "C" fn(*mut FidCntr, u64) -> i32,
    pub(crate) seterr: unsafe extern "C" fn(*mut FidCntr, u64) -> i32,
}

#[repr(C)]
pub(crate) struct CntrAttr {
    pub(crate) events: u32,
    pub(crate) wait_obj: u32,
    pub(crate) wait_set: *mut c_void,
    pub(crate) flags: u64,
}

#[repr(C)]
pub(crate) struct FidEp {
    pub(crate) fid: Fid,
    pub(crate) ops: *const EpOps,
    pub(crate) cm: *const CmOps,
    pub(crate) msg: *const MsgOps,
    pub(crate) rma: *const RmaOps,
    pub(crate) tagged: *const TaggedOps,
    pub(crate) atomic: *const AtomicOps,
    pub(crate) collective: *const CollectiveOps,
}

#[repr(C)]
pub(crate) struct EpOps {
    pub(crate) size: usize,
    pub(crate) cancel: unsafe extern "C" fn(*mut Fid, *mut c_void) -> isize,
    pub(crate) getopt: unsafe extern "C" fn(*mut Fid, i32, i32, *mut c_void, *mut usize) -> i32,
    pub(crate) setopt: unsafe extern "C" fn(*mut Fid, i32, i32, *const c_void, usize) -> i32,
    pub(crate) tx_ctx: Missing,
    pub(crate) rx_ctx: Missing,
    pub(crate) rx_size_left: Missing,
    pub(crate) tx_size_left: Missing,
}

#[repr(C)]
pub(crate) struct CmOps {
    pub(crate) size: usize,
    pub(crate) setname: Missing,
    pub(crate) getname: unsafe extern "C" fn(*mut Fid, *mut c_void, *mut usize) -> i32,
    pub(crate) others: [Missing; 7],
}

#[repr(C)]
pub(crate) struct RmaOps {
    pub(crate) size: usize,
    pub(crate) read: unsafe extern "C" fn(Ep, Memory, usize, Memory, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) readv:
        unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) readmsg: unsafe extern "C" fn(Ep, *const MsgRma, u64) -> isize,
    pub(crate) write: unsafe extern "C" fn(Ep, Input, usize, Memory, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) writev:
        unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) writemsg: unsafe extern "C" fn(Ep, *const MsgRma, u64) -> isize,
    pub(crate) inject: unsafe extern "C" fn(Ep, Input, usize, FiAddr, u64, u64) -> isize,
    pub(crate) writedata:
        unsafe extern "C" fn(Ep, Input, usize, Memory, u64, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) injectdata: unsafe extern "C" fn(Ep, Input, usize, u64, FiAddr, u64, u64) -> isize,
}

#[repr(C)]
pub(crate) struct AtomicOps {
    pub(crate) size: usize,
    pub(crate) write:
        unsafe extern "C" fn(Ep, Input, usize, Memory, FiAddr, u64, u64, i32, i32, Memory) -> isize,
    pub(crate) writev:
        unsafe extern "C" fn(Ep, *const Ioc, *mut Memory, usize, FiAddr, u64, u64, i32, i32, Memory) -> isize,
    pub(crate) writemsg: unsafe extern "C" fn(Ep, *const MsgAtomic, u64) -> isize,
    pub(crate) inject: unsafe extern "C" fn(Ep, Input, usize, FiAddr, u64, u64, i32, i32) -> isize,
    pub(crate) readwrite: unsafe extern "C" fn(
        Ep,
        Input,
        usize,
        Memory,
        Memory,
        Memory,
        FiAddr,
        u64,
        u64,
        i32,
        i32,
        Memory,
    ) -> isize,
    pub(crate) readwritev: unsafe extern "C" fn(
        Ep,
        *const Ioc,
        *mut Memory,
        usize,
        *const Ioc,
        *mut Memory,
        usize,
        FiAddr,
        u64,
        u64,
        i32,
        i32,
        Memory,
    ) -> isize,
    pub(crate) readwritemsg:
        unsafe extern "C" fn(Ep, *const MsgAtomic, *const Ioc, *mut Memory, usize, u64) -> isize,
    pub(crate) compwrite: unsafe extern "C" fn(
        Ep,
        Input,
        usize,
        Memory,
        Input,
        Memory,
        Memory,
        Memory,
        FiAddr,
        u64,
        u64,
        i32,
        i32,
        Memory,
    ) -> isize,
    pub(crate) compwritev: unsafe extern "C" fn(
        Ep,
        *const Ioc,
        *mut Memory,
        usize,
        *const Ioc,
        *mut Memory,
        usize,
        *const Ioc,
        *mut Memory,
        usize,
        FiAddr,
        u64,
        u64,
        i32,
        i32,
        Memory,
    ) -> isize,
    pub(crate) compwritemsg: unsafe extern "C" fn(
        Ep,
        *const MsgAtomic,
        *const Ioc,
        *mut Memory,
        usize,
        *const Ioc,
        *mut Memory,
        usize,
        u64,
    ) -> isize,
    pub(crate) writevalid: unsafe extern "C" fn(Ep, i32, i32, *mut usize) -> i32,
    pub(crate) readwritevalid: unsafe extern "C" fn(Ep, i32, i32, *mut usize) -> i32,
    pub(crate) compwritevalid: unsafe extern "C" fn(Ep, i32, i32, *mut usize) -> i32,
}

#[repr(C)]
pub(crate) struct CollectiveOps {
    pub(crate) size: usize,
    pub(crate) all: [Missing; 11],
}

type Ep = *mut FidEp;
type Memory = *mut c_void;
type Input = *const c_void;

#[repr(C)]
pub(crate) struct MsgOps {
    pub(crate) size: usize,
    pub(crate) recv: unsafe extern "C" fn(Ep, Memory, usize, Memory, FiAddr, Memory) -> isize,
    pub(crate) recvv: unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, Memory) -> isize,
    pub(crate) recvmsg: unsafe extern "C" fn(Ep, *const Msg, u64) -> isize,
    pub(crate) send: unsafe extern "C" fn(Ep, Input, usize, Memory, FiAddr, Memory) -> isize,
    pub(crate) sendv: unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, Memory) -> isize,
    pub(crate) sendmsg: unsafe extern "C" fn(Ep, *const Msg, u64) -> isize,
    pub(crate) inject: unsafe extern "C" fn(Ep, Input, usize, FiAddr) -> isize,
    pub(crate) senddata: unsafe extern "C" fn(Ep, Input, usize, Memory, u64, FiAddr, Memory) -> isize,
    pub(crate) injectdata: unsafe extern "C" fn(Ep, Input, usize, u64, FiAddr) -> isize,
}

#[repr(C)]
pub(crate) struct TaggedOps {
    pub(crate) size: usize,
    pub(crate) recv: unsafe extern "C" fn(Ep, Memory, usize, Memory, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) recvv:
        unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, u64, u64, Memory) -> isize,
    pub(crate) recvmsg: unsafe extern "C" fn(Ep, *const MsgTagged, u64) -> isize,
    pub(crate) send: unsafe extern "C" fn(Ep, Input, usize, Memory, FiAddr, u64, Memory) -> isize,
    pub(crate) sendv:
        unsafe extern "C" fn(Ep, *const IoVec, *mut Memory, usize, FiAddr, u64, Memory) -> isize,
    pub(crate) sendmsg: unsafe extern "C" fn(Ep, *const MsgTagged, u64) -> isize,
    pub(crate) inject: unsafe extern "C" fn(Ep, Input, usize, FiAddr, u64) -> isize,
    pub(crate) senddata: unsafe extern "C" fn(Ep, Input, usize, Memory, u64, FiAddr, u64, Memory) -> isize,
    pub(crate) injectdata: unsafe extern "C" fn(Ep, Input, usize, u64, FiAddr, u64) -> isize,
}

const _: () = {
    assert!(size_of::<Provider>() == 72);
    assert!(size_of::<Fid>() == 24);
    assert!(size_of::<FidOps>() == 56);
    assert!(size_of::<FidFabric>() == 40 && size_of::<FidDomain>() == 40);
    assert!(size_of::<FidAv>() == 32 && size_of::<FidCq>() == 32 && size_of::<FidCntr>() == 32);
    assert!(size_of::<FidEp>() == 80);
    assert!(size_of::<FabricOps>() == 56);
    assert!(size_of::<DomainOps>() == 96);
    assert!(size_of::<MrOps>() == 32 && size_of::<FidMr>() == 40);
    assert!(size_of::<AvOps>() == 88);
    assert!(size_of::<CqOps>() == 64 && size_of::<CntrOps>() == 64 && size_of::<EpOps>() == 64);
    assert!(size_of::<CmOps>() == 80 && size_of::<MsgOps>() == 80 && size_of::<TaggedOps>() == 80);
    assert!(size_of::<RmaOps>() == 80);
    assert!(size_of::<AtomicOps>() == 112);
    assert!(size_of::<CollectiveOps>() == 96);
    assert!(size_of::<AvAttr>() == 48 && size_of::<CqAttr>() == 40 && size_of::<CntrAttr>() == 24);
};
