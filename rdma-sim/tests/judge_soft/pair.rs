//! Two queue pairs as the judge of `ci/roce-guest` has them, of two software devices; and what is printed of them.

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wire::{Psn, QpNum, RnrTimer};
use gridnet_rdma_sim::wr::{Data, Lkey, RecvWr, Remote, Rkey, SendOp, SendWr, Sge, Wc, WcOpcode, WcStatus};
use gridnet_rdma_sim::{Cq, Device, Error, Mr, Qp, QpShape, Srq};

/// How a pair is set up.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Bytes of each region; the judge has 2 MiB always.
    pub memory: usize,
    pub mtu: Mtu,
    pub b_mtu: Option<Mtu>,
    pub timeout: u8,
    pub retries: u8,
    pub rnr_retries: u8,
    pub rnr_timer: u8,
    pub depth: u8,
    pub b_depth: u8,
    pub region: Access,
    pub allowed: Access,
    pub psn: u32,
    pub b_expects: Option<u32>,
    pub qpn_off: u32,
    pub srq: bool,
    pub b_stays: bool,
}

pub const RULES: Rules = Rules {
    memory: 1 << 17,
    mtu: Mtu::B1024,
    b_mtu: None,
    timeout: 18,
    retries: 3,
    rnr_retries: 7,
    rnr_timer: 24,
    depth: 4,
    b_depth: 4,
    region: Access::ALL,
    allowed: Access::ALL,
    psn: 100,
    b_expects: None,
    qpn_off: 0,
    srq: false,
    b_stays: false,
};

pub struct Side {
    pub device: Device,
    pub cq: Cq,
    pub srq: Option<Srq>,
    pub qp: Qp,
    /// None once it was deregistered.
    pub mr: Option<Mr>,
    pub log: Vec<Wc>,
    first: Vec<u8>,
}

impl Side {
    fn new(net: &Net, last: u8, access: Access, srq: bool, first: Vec<u8>) -> Side {
        let device = Device::open(net.port(([10, 77, 0, last], 4791).into())).expect("random numbers");
        let pd = device.alloc_pd();
        let cq = device.create_cq(64, None).expect("a queue");
        let srq = srq.then(|| pd.create_srq(16).expect("a queue"));
        let shape =
            QpShape { max_send_wr: 16, max_recv_wr: 16, max_sge: 4, max_inline: 64, signal_all: false };
        let qp = pd.create_qp(&cq, &cq, srq.as_ref(), shape).expect("a queue pair");
        let mr = pd.allocate(first.len(), access).expect("memory");
        mr.write(0, &first).expect("room");
        Side { device, cq, srq, qp, mr: Some(mr), log: Vec::new(), first }
    }

    pub fn mr(&self) -> &Mr {
        self.mr.as_ref().expect("it is registered")
    }

    pub fn bytes(&self, at: u32, len: u32) -> Vec<u8> {
        self.mr().read(at as usize, len as usize).expect("within")
    }

    /// Pieces: offset, length, and what is added to the key.
    pub fn recv(&self, wr_id: u64, pieces: &[(u32, u32, u32)]) -> Result<(), Error> {
        let sges = pieces.iter().filter(|piece| piece.1 > 0).map(|piece| self.sge(*piece)).collect();
        match &self.srq {
            Some(srq) => srq.post_recv(RecvWr { wr_id, sges }),
            None => self.qp.post_recv(RecvWr { wr_id, sges }),
        }
    }

    fn sge(&self, (at, length, lkey_off): (u32, u32, u32)) -> Sge {
        let sge = self.mr().sge(u64::from(at), length);
        Sge { lkey: Lkey(sge.lkey.0.wrapping_add(lkey_off)), ..sge }
    }
}

/// What is posted: as in `pair.h`.
#[derive(Clone)]
pub struct Op {
    pub id: u64,
    pub make: fn(Remote, &Op) -> SendOp,
    pub from: Vec<(u32, u32, u32)>,
    /// Offset in the peer's region, may be outside.
    pub to: i64,
    pub rkey: Option<u32>,
    pub rkey_off: u32,
    pub imm: u32,
    pub compare_add: u64,
    pub swap: u64,
    pub quiet: bool,
    pub fence: bool,
    pub inline: bool,
}

pub struct Pair {
    pub net: Net,
    pub a: Side,
    pub b: Side,
    pub rules: Rules,
    pub data: Option<bool>,
    pub refused: Option<Error>,
}

pub fn numbers(factor: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(factor) >> 24) as u8).collect()
}

impl Pair {
    pub fn open(rules: Rules) -> Pair {
        let net = Net::new(1, Faults::NONE);
        let a = Side::new(&net, 1, Access::ALL, false, numbers(2_654_435_761, rules.memory));
        let b = Side::new(&net, 2, rules.region, rules.srq, vec![0; rules.memory]);
        let pair = Pair { net, a, b, rules, data: None, refused: None };
        let init = InitAttr { access: Access::ALL };
        for change in [Change::Init(init), Change::Rtr(pair.rtr_a()), Change::Rts(pair.rts(rules.psn))] {
            pair.a.qp.change(change).expect("the usual way");
        }
        if !rules.b_stays {
            let init = InitAttr { access: rules.allowed };
            for change in [Change::Init(init), Change::Rtr(pair.rtr_b()), Change::Rts(pair.rts(200))] {
                pair.b.qp.change(change).expect("the usual way");
            }
        }
        pair
    }

    fn rtr(&self, peer: &Side, dest_qp: QpNum, rq_psn: u32, mtu: Mtu, depth: u8) -> RtrAttr {
        RtrAttr {
            path_mtu: mtu,
            remote: peer.device.address(),
            dest_qp,
            rq_psn: Psn::new(rq_psn),
            max_dest_rd_atomic: depth,
            min_rnr_timer: RnrTimer::new(self.rules.rnr_timer),
        }
    }

    pub fn rtr_a(&self) -> RtrAttr {
        let dest = QpNum::new(self.b.qp.num().value() + self.rules.qpn_off);
        self.rtr(&self.b, dest, 200, self.rules.mtu, self.rules.depth)
    }

    fn rtr_b(&self) -> RtrAttr {
        let rules = &self.rules;
        let (psn, mtu) = (rules.b_expects.unwrap_or(rules.psn), rules.b_mtu.unwrap_or(rules.mtu));
        self.rtr(&self.a, self.a.qp.num(), psn, mtu, rules.b_depth)
    }

    pub fn rts(&self, psn: u32) -> RtsAttr {
        RtsAttr {
            sq_psn: Psn::new(psn),
            timeout: AckTimeout::new(self.rules.timeout),
            retry_cnt: self.rules.retries,
            rnr_retry: self.rules.rnr_retries,
            max_rd_atomic: self.rules.depth,
        }
    }

    /// Posts at one side for memory of the other.
    pub fn post(&self, from: &Side, to: &Side, op: Op) -> Result<(), Error> {
        let key = op.rkey.unwrap_or_else(|| to.mr().rkey().0).wrapping_add(op.rkey_off);
        let base = to.mr.as_ref().map_or(0, Mr::address);
        let remote = Remote { address: base.wrapping_add_signed(op.to), rkey: Rkey(key) };
        let pieces = op.from.iter().filter(|piece| piece.1 > 0);
        let data = if op.inline {
            Data::Inline(pieces.flat_map(|(at, len, _)| from.bytes(*at, *len)).collect())
        } else {
            Data::Sges(pieces.map(|piece| from.sge(*piece)).collect())
        };
        let mut wr = SendWr::new(op.id, (op.make)(remote, &op), data);
        (wr.signaled, wr.fence) = (!op.quiet, op.fence);
        from.qp.post_send(wr)
    }

    pub fn send(&self, op: Op) {
        self.post(&self.a, &self.b, op).expect("posted");
    }

    pub fn recv(&self, wr_id: u64, at: u32, length: u32) {
        self.b.recv(wr_id, &[(at, length, 0)]).expect("posted");
    }

    /// Goes on until nothing moves any more, or `until` in microseconds.
    pub fn run(&mut self, until_us: u128) {
        while self.net.now().as_micros() < until_us {
            let now = self.net.now();
            if self.a.device.progress(now) + self.b.device.progress(now) > 0 {
                continue;
            }
            let moments = [self.net.next_arrival(), self.a.device.deadline(), self.b.device.deadline()];
            let Some(next) = moments.into_iter().flatten().min() else { break };
            self.net.set_now(next);
        }
        for side in [&mut self.a, &mut self.b] {
            side.log.extend(std::iter::from_fn(|| side.cq.poll().expect("no overrun")));
        }
    }

    /// Until all is done.
    pub fn settle(&mut self) {
        self.run(1_000_000_000_000);
    }

    pub fn noted(&mut self, right: bool) {
        self.data = Some(self.data.unwrap_or(true) && right);
    }

    /// Notes whether these bytes of both are the same.
    pub fn same(&mut self, at_a: u32, at_b: u32, len: u32) {
        self.noted(self.a.bytes(at_a, len) == self.b.bytes(at_b, len));
    }

    pub fn untouched_b(&mut self) {
        // A region that was deregistered cannot be written, and is not there to be looked at.
        let right =
            self.b.mr.as_ref().is_none_or(|mr| mr.read(0, self.rules.memory).as_ref() == Ok(&self.b.first));
        self.noted(right);
    }

    pub fn untouched_a(&mut self) {
        self.noted(self.a.mr().read(0, self.rules.memory).as_ref() == Ok(&self.a.first));
    }

    /// What the judge prints.
    pub fn text(&self) -> String {
        let mut words = Vec::new();
        if let Some(error) = self.refused {
            words.push(format!("post={}", error_name(error)));
        }
        words.extend(self.a.log.iter().map(|wc| completion("a", wc)));
        words.extend(self.b.log.iter().map(|wc| completion("b", wc)));
        words.push(format!("a.qp={}", format!("{:?}", self.a.qp.state()).to_uppercase()));
        words.push(format!("b.qp={}", format!("{:?}", self.b.qp.state()).to_uppercase()));
        words.extend(self.data.map(|right| format!("data={}", if right { "right" } else { "wrong" })));
        words.join(" ")
    }
}

/// The error that libibverbs has for it.
pub fn error_name(error: Error) -> &'static str {
    match error {
        Error::Full => "ENOMEM",
        _ => "EINVAL",
    }
}

fn completion(side: &str, wc: &Wc) -> String {
    let mut text = format!("{side}{}={}", wc.wr_id, status_name(wc.status));
    if wc.status == WcStatus::Success {
        let opcode = match wc.opcode {
            WcOpcode::Send => "SEND",
            WcOpcode::RdmaWrite => "RDMA_WRITE",
            WcOpcode::RdmaRead => "RDMA_READ",
            WcOpcode::CompSwap => "COMP_SWAP",
            WcOpcode::FetchAdd => "FETCH_ADD",
            WcOpcode::Recv => "RECV",
            WcOpcode::RecvRdmaWithImm => "RECV_RDMA_WITH_IMM",
        };
        text += &format!("/{opcode}");
        if matches!(wc.opcode, WcOpcode::Recv | WcOpcode::RecvRdmaWithImm) {
            text += &format!("/{}", wc.byte_len);
        }
    }
    text + &wc.imm.map_or(String::new(), |imm| format!("/imm:{imm:08x}"))
}

fn status_name(status: WcStatus) -> &'static str {
    match status {
        WcStatus::Success => "SUCCESS",
        WcStatus::LocLenErr => "LOC_LEN_ERR",
        WcStatus::LocProtErr => "LOC_PROT_ERR",
        WcStatus::WrFlushErr => "WR_FLUSH_ERR",
        WcStatus::BadRespErr => "BAD_RESP_ERR",
        WcStatus::RemInvReqErr => "REM_INV_REQ_ERR",
        WcStatus::RemAccessErr => "REM_ACCESS_ERR",
        WcStatus::RemOpErr => "REM_OP_ERR",
        WcStatus::RetryExcErr => "RETRY_EXC_ERR",
        WcStatus::RnrRetryExcErr => "RNR_RETRY_EXC_ERR",
        other => panic!("{other:?} has no name"),
    }
}
