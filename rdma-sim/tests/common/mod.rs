//! Two devices on a network within the process, with a clock that the test turns.

#![allow(dead_code)] // Each test uses a part.

use std::net::SocketAddr;
use std::time::Duration;

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wire::{Psn, RnrTimer};
use gridnet_rdma_sim::wr::{Data, RecvWr, SendOp, SendWr, Wc};
use gridnet_rdma_sim::{Cq, Device, Mr, Pd, Qp, QpShape};

/// Virtual time after which a test is stuck.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Attributes that tests change.
#[derive(Clone, Copy)]
pub struct Options {
    pub access: Access,
    pub mtu: Mtu,
    pub psn: u32,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub rd_atomic: u8,
    pub dest_rd_atomic: u8,
    pub shape: QpShape,
    pub memory: usize,
    pub cq: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            access: Access::ALL,
            mtu: Mtu::B1024,
            // Wraps soon.
            psn: 0xff_ffe0,
            timeout: 8, // 1 ms
            retry_cnt: 7,
            rnr_retry: 7,
            rd_atomic: 4,
            dest_rd_atomic: 4,
            shape: QpShape::default(),
            memory: 1 << 20,
            cq: 4096,
        }
    }
}

/// One side: a device with a queue pair and a region.
pub struct Side {
    pub device: Device,
    pub pd: Pd,
    pub mr: Mr,
    pub send_cq: Cq,
    pub recv_cq: Cq,
    pub qp: Qp,
}

impl Side {
    pub fn new(net: &Net, address: SocketAddr, options: &Options) -> Side {
        Side::on(Device::open(net.port(address)).expect("random numbers"), options)
    }

    pub fn on(device: Device, options: &Options) -> Side {
        let pd = device.alloc_pd();
        let mr = pd.allocate(options.memory, Access::ALL).expect("memory");
        let send_cq = device.create_cq(options.cq, None).expect("a queue");
        let recv_cq = device.create_cq(options.cq, None).expect("a queue");
        let qp = pd.create_qp(&send_cq, &recv_cq, None, options.shape).expect("a queue pair");
        Side { device, pd, mr, send_cq, recv_cq, qp }
    }

    /// Brings its queue pair to RTS, to one of the other side.
    pub fn connect(&self, peer: &Side, options: &Options) {
        connect(&self.qp, peer.device.address(), &peer.qp, options);
    }

    pub fn post(&self, wr_id: u64, op: SendOp, offset: u64, length: u32) {
        let data = Data::Sges(self.mr.sge(offset, length).into());
        self.qp.post_send(SendWr::new(wr_id, op, data)).expect("posted");
    }

    pub fn post_recv(&self, wr_id: u64, offset: u64, length: u32) {
        self.qp.post_recv(RecvWr { wr_id, sges: self.mr.sge(offset, length).into() }).expect("posted");
    }

    /// All completions that are there: of the send queue, of the receive queue.
    pub fn drain(&self) -> (Vec<Wc>, Vec<Wc>) {
        let all = |cq: &Cq| std::iter::from_fn(|| cq.poll().expect("no overrun")).collect();
        (all(&self.send_cq), all(&self.recv_cq))
    }
}

/// Brings a queue pair to RTS.
pub fn connect(qp: &Qp, remote: SocketAddr, peer: &Qp, options: &Options) {
    qp.change(Change::Init(InitAttr { access: options.access })).expect("INIT");
    qp.change(Change::Rtr(RtrAttr {
        path_mtu: options.mtu,
        remote,
        dest_qp: peer.num(),
        rq_psn: Psn::new(options.psn),
        max_dest_rd_atomic: options.dest_rd_atomic,
        min_rnr_timer: RnrTimer::new(12),
    }))
    .expect("RTR");
    qp.change(Change::Rts(RtsAttr {
        sq_psn: Psn::new(options.psn),
        timeout: AckTimeout::new(options.timeout),
        retry_cnt: options.retry_cnt,
        rnr_retry: options.rnr_retry,
        max_rd_atomic: options.rd_atomic,
    }))
    .expect("RTS");
}

/// Two sides that are connected.
pub struct Two {
    pub net: Net,
    pub a: Side,
    pub b: Side,
}

pub fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 4791).into()
}

impl Two {
    pub fn new(options: &Options) -> Two {
        Two::with(1, Faults::NONE, options)
    }

    pub fn with(seed: u64, faults: Faults, options: &Options) -> Two {
        let net = Net::new(seed, faults);
        let a = Side::new(&net, address(1), options);
        let b = Side::new(&net, address(2), options);
        a.connect(&b, options);
        b.connect(&a, options);
        Two { net, a, b }
    }

    /// Does one thing at the present moment, or goes on to the next moment at which something happens; false when there is none.
    pub fn step(&self) -> bool {
        let now = self.net.now();
        assert!(now < PATIENCE, "nothing comes to an end");
        if self.a.device.progress(now) + self.b.device.progress(now) > 0 {
            return true;
        }
        let moments = [self.net.next_arrival(), self.a.device.deadline(), self.b.device.deadline()];
        match moments.into_iter().flatten().min() {
            Some(next) => self.net.set_now(next),
            None => return false,
        }
        true
    }

    /// Goes on until nothing is under way and no timer runs.
    pub fn settle(&self) {
        while self.step() {}
    }
}
