//! A bed over libibverbs: two queue pairs of one adapter, or of two that reach each other.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, State};
use gridnet_rdma_sim::wire::QpNum;
use gridnet_rdma_sim::wr::{Data, Lkey, RecvWr, Remote, Rkey, SendOp, SendWr, Sge, Wc, WcOpcode, WcStatus};
use gridnet_rdma_sim::{Error, QpShape};
use gridnet_verbs::ibv::abi::{self, *};
use gridnet_verbs::ibv::gid::{self, Gid, Verdict};
use gridnet_verbs::ibv::objects::{no_attributes, Channel, Context, Cq, Mr, Op, Pd, Qp};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::end::{Bed, End, Region};

/// First number of either direction, as for the software device.
const PSN: u32 = 0xff_fff0;

/// The adapter at an address.
pub fn at(address: IpAddr) -> Gid {
    let gids = gid::all(Path::new(gid::SYSFS));
    let verdicts = gid::judge(&gids, &[address], None);
    let taken = gids.iter().zip(verdicts).find(|(_, verdict)| *verdict == Verdict::Taken);
    taken.unwrap_or_else(|| panic!("no adapter at {address} among {gids:?}")).0.clone()
}

/// Memory that the adapter writes, too: reached by atomic bytes only.
struct Memory {
    mr: Option<Mr>,
    bytes: Box<[AtomicU8]>,
    keys: (u32, u32),
}

impl Memory {
    fn address(&self) -> u64 {
        self.bytes.as_ptr() as u64
    }
}

struct IbvEnd {
    gid: Gid,
    regions: Vec<Memory>,
    qp: Qp,
    cqs: (Arc<Cq>, Arc<Cq>),
    channel: Arc<Channel>,
    pd: Arc<Pd>,
}

impl IbvEnd {
    fn new(gid: &Gid) -> IbvEnd {
        let context = Context::open(&gid.device).expect("the adapter opens");
        let pd = Pd::alloc(&context).expect("a domain");
        let channel = Channel::create(&context).expect("a channel");
        let cq = || Cq::create(&context, 1024, Some(&channel)).expect("a queue");
        let cqs = (cq(), cq());
        let shape = QpShape::default();
        let cap = QpCap {
            max_send_wr: shape.max_send_wr as u32,
            max_recv_wr: shape.max_recv_wr as u32,
            max_send_sge: 4,
            max_recv_sge: 4,
            max_inline_data: 64,
        };
        let qp = Qp::create(&pd, (&cqs.0, &cqs.1), cap).expect("a queue pair");
        IbvEnd { gid: gid.clone(), regions: Vec::new(), qp, cqs, channel, pd }
    }

    fn connect(&self, peer: &IbvEnd) {
        let mut attr = no_attributes();
        attr.qp_state = IBV_QPS_INIT;
        attr.port_num = self.gid.port;
        attr.qp_access_flags = flags(Access::ALL);
        let mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
        self.qp.modify(&mut attr, mask).expect("INIT");

        let mut attr = no_attributes();
        attr.qp_state = IBV_QPS_RTR;
        attr.path_mtu = 3;
        attr.dest_qp_num = peer.qp.num();
        attr.rq_psn = PSN;
        attr.max_dest_rd_atomic = 4;
        attr.min_rnr_timer = 12;
        attr.ah_attr.is_global = 1;
        attr.ah_attr.port_num = self.gid.port;
        attr.ah_attr.grh.sgid_index = self.gid.index;
        attr.ah_attr.grh.hop_limit = 64;
        attr.ah_attr.grh.dgid = match peer.gid.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
        let mask = mask | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
        self.qp.modify(&mut attr, mask).expect("RTR");

        let mut attr = no_attributes();
        attr.qp_state = IBV_QPS_RTS;
        attr.sq_psn = PSN;
        attr.timeout = 14;
        attr.retry_cnt = 7;
        attr.rnr_retry = 7;
        attr.max_rd_atomic = 4;
        let mask = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN;
        self.qp.modify(&mut attr, mask | IBV_QP_MAX_QP_RD_ATOMIC).expect("RTS");
    }

    fn wait(&self) {
        for cq in [&self.cqs.0, &self.cqs.1] {
            cq.request_notify().expect("armed");
        }
        // SAFETY: the channel keeps it open.
        let fd = unsafe { BorrowedFd::borrow_raw(self.channel.fd()) };
        let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(1u8));
        while self.channel.take_event() {}
    }
}

impl End for IbvEnd {
    fn allocate(&mut self, len: usize, access: Access) -> Region {
        let bytes: Box<[AtomicU8]> = (0..len).map(|_| AtomicU8::new(0)).collect();
        let base = bytes.as_ptr() as *mut u8;
        // SAFETY: the bytes stay until the region is dropped, as `Memory` has it before them; here they are read as atomic ones.
        let mr = unsafe { Mr::register(&self.pd, base, len, flags(access)) }.expect("registered");
        let keys = (mr.lkey(), mr.rkey());
        self.regions.push(Memory { mr: Some(mr), bytes, keys });
        self.regions.len() - 1
    }

    fn fill(&mut self, region: Region, offset: usize, bytes: &[u8]) {
        let to = &self.regions[region].bytes[offset..offset + bytes.len()];
        to.iter().zip(bytes).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    }

    fn bytes(&self, region: Region, offset: usize, len: usize) -> Vec<u8> {
        let from = &self.regions[region].bytes[offset..offset + len];
        from.iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn sge(&self, region: Region, offset: u64, len: u32) -> Sge {
        let memory = &self.regions[region];
        Sge { address: memory.address().wrapping_add(offset), length: len, lkey: Lkey(memory.keys.0) }
    }

    fn remote(&self, region: Region, offset: u64) -> Remote {
        let memory = &self.regions[region];
        Remote { address: memory.address().wrapping_add(offset), rkey: Rkey(memory.keys.1) }
    }

    fn deregister(&mut self, region: Region) {
        self.regions[region].mr = None;
    }

    fn post_send(&mut self, wr: SendWr) -> Result<(), Error> {
        let mut flags = if wr.signaled { IBV_SEND_SIGNALED } else { 0 };
        flags |= if wr.fence { IBV_SEND_FENCE } else { 0 };
        let mut pieces = match &wr.data {
            Data::Sges(sges) => pieces(sges),
            Data::Inline(bytes) => {
                flags |= IBV_SEND_INLINE;
                vec![abi::Sge { addr: bytes.as_ptr() as u64, length: bytes.len() as u32, lkey: 0 }]
            }
        };
        // SAFETY: what is inline is a vector that lives until the end of the call.
        let posted = unsafe { self.qp.post_send(wr.wr_id, op(wr.op), &mut pieces, flags) };
        posted.map_err(|_| Error::Full)
    }

    fn post_recv(&mut self, wr: RecvWr) -> Result<(), Error> {
        self.qp.post_recv(wr.wr_id, &mut pieces(&wr.sges)).map_err(|_| Error::Full)
    }

    fn poll_send(&mut self) -> Option<Wc> {
        completion(&self.cqs.0)
    }

    fn poll_recv(&mut self) -> Option<Wc> {
        completion(&self.cqs.1)
    }

    fn state(&self) -> State {
        match self.qp.state().expect("a state") {
            IBV_QPS_RESET => State::Reset,
            IBV_QPS_INIT => State::Init,
            IBV_QPS_RTR => State::Rtr,
            IBV_QPS_RTS => State::Rts,
            IBV_QPS_SQD => State::Sqd,
            _ => State::Err,
        }
    }

    fn fail(&mut self) {
        self.qp.fail().expect("ERR");
    }
}

fn flags(access: Access) -> u32 {
    let all = [
        (Access::LOCAL_WRITE, IBV_ACCESS_LOCAL_WRITE),
        (Access::REMOTE_WRITE, IBV_ACCESS_REMOTE_WRITE),
        (Access::REMOTE_READ, IBV_ACCESS_REMOTE_READ),
        (Access::REMOTE_ATOMIC, IBV_ACCESS_REMOTE_ATOMIC),
    ];
    all.into_iter().filter(|(right, _)| access.allows(*right)).map(|(_, flag)| flag).sum()
}

fn pieces(sges: &[Sge]) -> Vec<abi::Sge> {
    sges.iter()
        .map(|sge| abi::Sge { addr: sge.address, length: sge.length, lkey: sge.lkey.0 })
        // A piece of no bytes means 2 GiB to some adapters, and nothing to others.
        .filter(|piece| piece.length > 0)
        .collect()
}

fn op(op: SendOp) -> Op {
    match op {
        SendOp::Send => Op::Send(None),
        SendOp::SendWithImm(imm) => Op::Send(Some(imm)),
        SendOp::RdmaWrite(to) => Op::Write(to.address, to.rkey.0, None),
        SendOp::RdmaWriteWithImm(to, imm) => Op::Write(to.address, to.rkey.0, Some(imm)),
        SendOp::RdmaRead(from) => Op::Read(from.address, from.rkey.0),
        SendOp::CompareSwap { remote, compare, swap } => {
            Op::CompareSwap(remote.address, remote.rkey.0, compare, swap)
        }
        SendOp::FetchAdd { remote, add } => Op::FetchAdd(remote.address, remote.rkey.0, add),
    }
}

fn completion(cq: &Cq) -> Option<Wc> {
    let mut found = [abi::Wc::default()];
    if cq.poll(&mut found).expect("no overrun") == 0 {
        return None;
    }
    let [wc] = found;
    let status = match wc.status {
        IBV_WC_SUCCESS => WcStatus::Success,
        IBV_WC_LOC_LEN_ERR => WcStatus::LocLenErr,
        IBV_WC_LOC_PROT_ERR => WcStatus::LocProtErr,
        IBV_WC_WR_FLUSH_ERR => WcStatus::WrFlushErr,
        IBV_WC_BAD_RESP_ERR => WcStatus::BadRespErr,
        IBV_WC_REM_INV_REQ_ERR => WcStatus::RemInvReqErr,
        IBV_WC_REM_ACCESS_ERR => WcStatus::RemAccessErr,
        IBV_WC_REM_OP_ERR => WcStatus::RemOpErr,
        IBV_WC_RETRY_EXC_ERR => WcStatus::RetryExcErr,
        IBV_WC_RNR_RETRY_EXC_ERR => WcStatus::RnrRetryExcErr,
        other => panic!("a status that the software device never has: {other}"),
    };
    let opcode = match wc.opcode {
        IBV_WC_RDMA_WRITE => WcOpcode::RdmaWrite,
        IBV_WC_RDMA_READ => WcOpcode::RdmaRead,
        IBV_WC_COMP_SWAP => WcOpcode::CompSwap,
        IBV_WC_FETCH_ADD => WcOpcode::FetchAdd,
        IBV_WC_RECV => WcOpcode::Recv,
        IBV_WC_RECV_RDMA_WITH_IMM => WcOpcode::RecvRdmaWithImm,
        _ => WcOpcode::Send,
    };
    let imm = (wc.wc_flags & IBV_WC_WITH_IMM != 0).then(|| u32::from_be(wc.imm_data));
    Some(Wc { wr_id: wc.wr_id, status, opcode, byte_len: wc.byte_len, imm, qp: QpNum::new(wc.qp_num) })
}

/// Two ends, on adapters at these addresses.
pub struct IbvBed {
    ends: (IbvEnd, IbvEnd),
    start: Instant,
}

impl IbvBed {
    pub fn open(addresses: &[IpAddr]) -> IbvBed {
        let end = |at: usize| IbvEnd::new(&self::at(addresses[at % addresses.len()]));
        let ends = (end(0), end(1));
        ends.0.connect(&ends.1);
        ends.1.connect(&ends.0);
        IbvBed { ends, start: Instant::now() }
    }
}

impl Bed for IbvBed {
    fn ends(&mut self) -> (&mut dyn End, &mut dyn End) {
        (&mut self.ends.0, &mut self.ends.1)
    }

    fn turn(&mut self) -> bool {
        self.ends.0.wait();
        self.ends.1.wait();
        self.start.elapsed() < Duration::from_secs(60)
    }
}
