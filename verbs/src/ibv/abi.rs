//! The structs and constants of libibverbs that are used, as `infiniband/verbs.h` has them. They have been the same since version
//! 1.1 of the library. The test at the end has a C compiler compare all sizes, places and values with the header.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `struct ibv_device`: only its address is used.
#[repr(C)]
pub struct Device {
    _opaque: [u8; 0],
}

/// The functions of a driver: `struct ibv_context_ops`. Those that are not named here have another door by now.
#[repr(C)]
pub struct ContextOps {
    _before_poll: [*mut c_void; 11],
    pub poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int,
    pub req_notify_cq: unsafe extern "C" fn(*mut Cq, c_int) -> c_int,
    _before_post: [*mut c_void; 12],
    pub post_send: unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int,
    pub post_recv: unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int,
    _rest: [*mut c_void; 5],
}

/// The beginning of `struct ibv_context`.
#[repr(C)]
pub struct Context {
    pub device: *mut Device,
    pub ops: ContextOps,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
}

/// `struct ibv_pd`
#[repr(C)]
pub struct Pd {
    pub context: *mut Context,
    pub handle: u32,
}

/// `struct ibv_mr`
#[repr(C)]
pub struct Mr {
    pub context: *mut Context,
    pub pd: *mut Pd,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

/// `struct ibv_comp_channel`
#[repr(C)]
pub struct CompChannel {
    pub context: *mut Context,
    pub fd: c_int,
    pub refcnt: c_int,
}

/// The beginning of `struct ibv_cq`.
#[repr(C)]
pub struct Cq {
    pub context: *mut Context,
    pub channel: *mut CompChannel,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
}

/// The beginning of `struct ibv_qp`.
#[repr(C)]
pub struct Qp {
    pub context: *mut Context,
    pub qp_context: *mut c_void,
    pub pd: *mut Pd,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut c_void,
    pub handle: u32,
    pub qp_num: u32,
}

/// `struct ibv_device_attr`
#[repr(C)]
pub struct DeviceAttr {
    pub fw_ver: [c_char; 64],
    pub node_guid: u64,
    pub sys_image_guid: u64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: c_uint,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub max_ee_init_rd_atom: c_int,
    pub atomic_cap: c_int,
    _rest: [c_int; 14],
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

/// `struct ibv_port_attr`
#[repr(C)]
pub struct PortAttr {
    pub state: c_int,
    pub max_mtu: c_int,
    pub active_mtu: c_int,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    _counters: [u32; 2],
    _lids: [u16; 3],
    _bytes: [u8; 8],
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
}

/// `struct ibv_global_route`. The GID there is a union, which is aligned to 8 bytes.
#[repr(C, align(8))]
pub struct GlobalRoute {
    pub dgid: [u8; 16],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

/// `struct ibv_ah_attr`
#[repr(C)]
pub struct AhAttr {
    pub grh: GlobalRoute,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

/// `struct ibv_qp_cap`
#[repr(C)]
pub struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`
#[repr(C)]
pub struct QpInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut c_void,
    pub cap: QpCap,
    pub qp_type: c_int,
    pub sq_sig_all: c_int,
}

/// `struct ibv_qp_attr`
#[repr(C)]
pub struct QpAttr {
    pub qp_state: c_int,
    pub cur_qp_state: c_int,
    pub path_mtu: c_int,
    pub path_mig_state: c_int,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: QpCap,
    pub ah_attr: AhAttr,
    pub alt_ah_attr: AhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

/// `struct ibv_sge`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `wr.atomic` of a [`SendWr`]; `wr.rdma` has its address at the same place, and its key at that of `compare_add`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Atomic {
    pub remote_addr: u64,
    pub compare_add: u64,
    pub swap: u64,
    pub rkey: u32,
}

/// `wr.rdma` of a [`SendWr`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Rdma {
    pub remote_addr: u64,
    pub rkey: u32,
}

/// `wr` of a [`SendWr`].
#[repr(C)]
pub union Target {
    pub rdma: Rdma,
    pub atomic: Atomic,
}

/// `struct ibv_send_wr`; the unions behind `wr` are for requests that are not made here.
#[repr(C)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: c_int,
    pub send_flags: c_uint,
    /// In network byte order.
    pub imm_data: u32,
    pub wr: Target,
    pub _others: [u64; 7],
}

/// `struct ibv_recv_wr`
#[repr(C)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

/// `struct ibv_wc`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Wc {
    pub wr_id: u64,
    pub status: c_int,
    pub opcode: c_int,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// In network byte order.
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

/// `struct ibv_async_event`; of what it is about only the address, or the port, is told.
#[repr(C)]
pub struct AsyncEvent {
    pub element: *mut c_void,
    pub event_type: c_int,
}

macro_rules! constants {
    ($($type:ty: $($name:ident = $value:expr),*;)*) => {
        $($(#[allow(missing_docs, reason = "the names are those of the header")] pub const $name: $type = $value;)*)*
        /// All of them, for the comparison with the header.
        #[cfg(test)]
        const CONSTANTS: &[(&str, i64)] = &[$($((stringify!($name), $name as i64)),*),*];
    };
}

constants! {
    c_uint: IBV_ACCESS_LOCAL_WRITE = 1, IBV_ACCESS_REMOTE_WRITE = 2, IBV_ACCESS_REMOTE_READ = 4, IBV_ACCESS_REMOTE_ATOMIC = 8;
    c_int: IBV_WR_RDMA_WRITE = 0, IBV_WR_RDMA_WRITE_WITH_IMM = 1, IBV_WR_SEND = 2, IBV_WR_SEND_WITH_IMM = 3, IBV_WR_RDMA_READ = 4,
        IBV_WR_ATOMIC_CMP_AND_SWP = 5, IBV_WR_ATOMIC_FETCH_AND_ADD = 6;
    c_uint: IBV_SEND_FENCE = 1, IBV_SEND_SIGNALED = 2, IBV_SEND_SOLICITED = 4, IBV_SEND_INLINE = 8;
    c_int: IBV_QP_STATE = 1, IBV_QP_ACCESS_FLAGS = 1 << 3, IBV_QP_PKEY_INDEX = 1 << 4, IBV_QP_PORT = 1 << 5, IBV_QP_AV = 1 << 7,
        IBV_QP_PATH_MTU = 1 << 8, IBV_QP_TIMEOUT = 1 << 9, IBV_QP_RETRY_CNT = 1 << 10, IBV_QP_RNR_RETRY = 1 << 11,
        IBV_QP_RQ_PSN = 1 << 12, IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13, IBV_QP_MIN_RNR_TIMER = 1 << 15, IBV_QP_SQ_PSN = 1 << 16,
        IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17, IBV_QP_DEST_QPN = 1 << 20;
    c_int: IBV_QPS_RESET = 0, IBV_QPS_INIT = 1, IBV_QPS_RTR = 2, IBV_QPS_RTS = 3, IBV_QPS_SQD = 4, IBV_QPS_SQE = 5, IBV_QPS_ERR = 6;
    c_int: IBV_QPT_RC = 2, IBV_PORT_ACTIVE = 4, IBV_MTU_256 = 1, IBV_MTU_4096 = 5, IBV_LINK_LAYER_ETHERNET = 2;
    c_int: IBV_EVENT_CQ_ERR = 0, IBV_EVENT_DEVICE_FATAL = 8;
    c_uint: IBV_WC_WITH_IMM = 2;
    c_int: IBV_WC_SEND = 0, IBV_WC_RDMA_WRITE = 1, IBV_WC_RDMA_READ = 2, IBV_WC_COMP_SWAP = 3, IBV_WC_FETCH_ADD = 4,
        IBV_WC_RECV = 128, IBV_WC_RECV_RDMA_WITH_IMM = 129;
    c_int: IBV_WC_SUCCESS = 0, IBV_WC_LOC_LEN_ERR = 1, IBV_WC_LOC_QP_OP_ERR = 2, IBV_WC_LOC_PROT_ERR = 4, IBV_WC_WR_FLUSH_ERR = 5,
        IBV_WC_BAD_RESP_ERR = 7, IBV_WC_LOC_ACCESS_ERR = 8, IBV_WC_REM_INV_REQ_ERR = 9, IBV_WC_REM_ACCESS_ERR = 10,
        IBV_WC_REM_OP_ERR = 11, IBV_WC_RETRY_EXC_ERR = 12, IBV_WC_RNR_RETRY_EXC_ERR = 13, IBV_WC_FATAL_ERR = 19,
        IBV_WC_RESP_TIMEOUT_ERR = 20, IBV_WC_GENERAL_ERR = 21;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    /// Lines of C that fail to compile where a struct of the header is another one. `whole` structs have the same size, too.
    macro_rules! places {
        ($out:ident; $($rust:ident $c:literal $whole:ident: $($field:ident $(.$sub:ident)*),*;)*) => {
            $(
                let c = concat!("struct ", $c);
                if stringify!($whole) == "whole" {
                    writeln!($out, "_Static_assert(sizeof({c}) == {}, \"size of {c}\");", size_of::<$rust>()).unwrap();
                }
                $(
                    let name = concat!(stringify!($field) $(, ".", stringify!($sub))*);
                    let place = offset_of!($rust, $field $(.$sub)*);
                    writeln!($out, "_Static_assert(offsetof({c}, {name}) == {place}, \"{name} of {c}\");").unwrap();
                )*
            )*
        };
    }

    fn comparison() -> String {
        let mut out = String::from("#include <stddef.h>\n#include <infiniband/verbs.h>\n");
        places! { out;
            ContextOps "ibv_context_ops" whole: poll_cq, req_notify_cq, post_send, post_recv;
            Context "ibv_context" part: device, ops, cmd_fd, async_fd, num_comp_vectors;
            Pd "ibv_pd" whole: context, handle;
            Mr "ibv_mr" whole: context, pd, addr, length, handle, lkey, rkey;
            CompChannel "ibv_comp_channel" whole: context, fd, refcnt;
            Cq "ibv_cq" part: context, channel, cq_context, handle, cqe;
            Qp "ibv_qp" part: context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num;
            DeviceAttr "ibv_device_attr" whole: fw_ver, max_qp, max_qp_wr, max_sge, max_cqe, max_qp_rd_atom, max_qp_init_rd_atom,
                atomic_cap, max_pkeys, phys_port_cnt;
            PortAttr "ibv_port_attr" whole: state, max_mtu, active_mtu, gid_tbl_len, max_msg_sz, link_layer, flags, port_cap_flags2;
            GlobalRoute "ibv_global_route" whole: dgid, flow_label, sgid_index, hop_limit, traffic_class;
            AhAttr "ibv_ah_attr" whole: grh, dlid, sl, src_path_bits, static_rate, is_global, port_num;
            QpCap "ibv_qp_cap" whole: max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data;
            QpInitAttr "ibv_qp_init_attr" whole: qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all;
            QpAttr "ibv_qp_attr" whole: qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num,
                qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index, en_sqd_async_notify, sq_draining,
                max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry, alt_port_num,
                alt_timeout, rate_limit;
            Sge "ibv_sge" whole: addr, length, lkey;
            SendWr "ibv_send_wr" whole: wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data, wr.rdma.remote_addr,
                wr.rdma.rkey, wr.atomic.remote_addr, wr.atomic.compare_add, wr.atomic.swap, wr.atomic.rkey;
            RecvWr "ibv_recv_wr" whole: wr_id, next, sg_list, num_sge;
            Wc "ibv_wc" whole: wr_id, status, opcode, vendor_err, byte_len, imm_data, qp_num, src_qp, wc_flags, pkey_index, slid, sl,
                dlid_path_bits;
            AsyncEvent "ibv_async_event" whole: element, event_type;
        }
        for (name, value) in CONSTANTS {
            writeln!(out, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
        }
        out
    }

    #[test]
    fn the_header_says_the_same() {
        let text = comparison();
        let file = std::env::temp_dir().join(format!("gridnet-ibv-abi-{}.c", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        let compile = |args: &[&str]| Command::new("cc").args(args).arg(&file).output();
        // Not by a macro: what those print is kept back for tests that pass.
        let skip = |why: &str| {
            let what = "structs of libibverbs against its header";
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: {what}: {why}");
        };
        let preprocessed = compile(&["-E"]);
        match &preprocessed {
            Err(e) => skip(&format!("no C compiler: {e}")),
            Ok(done) if !done.status.success() => skip("no infiniband/verbs.h (libibverbs-dev)"),
            Ok(_) => {
                let done = compile(&["-std=gnu11", "-fsyntax-only"]).unwrap();
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            }
        }
        std::fs::remove_file(&file).unwrap();
    }
}
