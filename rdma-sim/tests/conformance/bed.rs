//! Beds of the software device, one for each wire.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr, State};
use gridnet_rdma_sim::testing::{Faults, Net};
use gridnet_rdma_sim::wire::{Psn, RnrTimer};
use gridnet_rdma_sim::wr::{RecvWr, Remote, SendWr, Sge, Wc};
use gridnet_rdma_sim::{Cq, Device, Error, Mr, Pd, Port, Qp, QpShape, ShmPort, UdpPort, XdpPort};
use gridnet_testbed::{Lab, LinkSpec, Topology};

use crate::end::{Bed, End, Region};

/// An end of a software device.
struct Soft {
    device: Device,
    pd: Pd,
    send_cq: Cq,
    recv_cq: Cq,
    qp: Qp,
    regions: Vec<Option<Mr>>,
}

const MTU: Mtu = Mtu::B1024;
/// First number of either direction, the same in each run: it says which packets ask for acknowledgements. Wraps soon.
const PSN: Psn = Psn::new(0xff_fff0);

impl Soft {
    fn new(port: impl Port + 'static) -> Soft {
        let device = Device::open(port).expect("random numbers");
        let pd = device.alloc_pd();
        let send_cq = device.create_cq(1024, None).expect("a queue");
        let recv_cq = device.create_cq(1024, None).expect("a queue");
        let qp = pd.create_qp(&send_cq, &recv_cq, None, QpShape::default()).expect("a queue pair");
        Soft { device, pd, send_cq, recv_cq, qp, regions: Vec::new() }
    }

    fn connect(&self, peer: &Soft, timeout: u8) {
        let qp = &self.qp;
        qp.change(Change::Init(InitAttr { access: Access::ALL })).expect("INIT");
        qp.change(Change::Rtr(RtrAttr {
            path_mtu: MTU,
            remote: peer.device.address(),
            dest_qp: peer.qp.num(),
            rq_psn: PSN,
            max_dest_rd_atomic: 4,
            min_rnr_timer: RnrTimer::new(12),
        }))
        .expect("RTR");
        qp.change(Change::Rts(RtsAttr {
            sq_psn: PSN,
            timeout: AckTimeout::new(timeout),
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 4,
        }))
        .expect("RTS");
    }

    fn region(&self, region: Region) -> &Mr {
        self.regions[region].as_ref().expect("it is registered")
    }
}

impl End for Soft {
    fn allocate(&mut self, len: usize, access: Access) -> Region {
        self.regions.push(Some(self.pd.allocate(len, access).expect("memory")));
        self.regions.len() - 1
    }

    fn fill(&mut self, region: Region, offset: usize, bytes: &[u8]) {
        self.region(region).write(offset, bytes).expect("room");
    }

    fn bytes(&self, region: Region, offset: usize, len: usize) -> Vec<u8> {
        self.region(region).read(offset, len).expect("within")
    }

    fn sge(&self, region: Region, offset: u64, len: u32) -> Sge {
        self.region(region).sge(offset, len)
    }

    fn remote(&self, region: Region, offset: u64) -> Remote {
        self.region(region).remote(offset)
    }

    fn deregister(&mut self, region: Region) {
        self.regions[region] = None;
    }

    fn post_send(&mut self, wr: SendWr) -> Result<(), Error> {
        self.qp.post_send(wr)
    }

    fn post_recv(&mut self, wr: RecvWr) -> Result<(), Error> {
        self.qp.post_recv(wr)
    }

    fn poll_send(&mut self) -> Option<Wc> {
        self.send_cq.poll().expect("no overrun")
    }

    fn poll_recv(&mut self) -> Option<Wc> {
        self.recv_cq.poll().expect("no overrun")
    }

    fn state(&self) -> State {
        self.qp.state()
    }

    fn fail(&mut self) {
        self.qp.change(Change::Err).expect("ERR");
    }
}

/// Within the process, at virtual time.
pub struct NetBed {
    net: Net,
    ends: (Soft, Soft),
}

impl NetBed {
    pub fn open() -> Option<NetBed> {
        NetBed::with(Faults::NONE)
    }

    /// For cases in which nothing fails: what tells of a failure may be lost, too, and then it has another status.
    pub fn lossy() -> Option<NetBed> {
        NetBed::with(Faults { loss: 10_000, duplication: 10_000, reordering: 10_000, ..Faults::NONE })
    }

    fn with(faults: Faults) -> Option<NetBed> {
        let net = Net::new(3, faults);
        let soft = |last| Soft::new(net.port(SocketAddr::from(([10, 0, 0, last], 4791))));
        let ends = (soft(1), soft(2));
        ends.0.connect(&ends.1, 8);
        ends.1.connect(&ends.0, 8);
        Some(NetBed { net, ends })
    }
}

impl Bed for NetBed {
    fn ends(&mut self) -> (&mut dyn End, &mut dyn End) {
        (&mut self.ends.0, &mut self.ends.1)
    }

    fn turn(&mut self) -> bool {
        let now = self.net.now();
        let (a, b) = (&self.ends.0.device, &self.ends.1.device);
        if a.progress(now) + b.progress(now) == 0 {
            let moments = [self.net.next_arrival(), a.deadline(), b.deadline()];
            match moments.into_iter().flatten().min() {
                Some(next) => self.net.set_now(next),
                None => return false,
            }
        }
        now < Duration::from_secs(600)
    }
}

/// Two hosts with a cable.
pub fn lab() -> Lab {
    let topology = Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"));
    Lab::open(topology).expect("a lab")
}

/// Over the system, in real time.
pub struct RealBed {
    start: Instant,
    ends: (Soft, Soft),
}

impl RealBed {
    /// Over UDP sockets of this host.
    pub fn udp4() -> Option<RealBed> {
        RealBed::udp("127.0.0.1:0", |port| port)
    }

    pub fn udp4_segments() -> Option<RealBed> {
        RealBed::udp("127.0.0.1:0", UdpPort::send_segments)
    }

    pub fn udp6() -> Option<RealBed> {
        RealBed::udp("[::1]:0", |port| port)
    }

    /// Over shared memory.
    pub fn shm() -> Option<RealBed> {
        let port = || ShmPort::open().expect("shared memory");
        Some(RealBed::between(port(), port()))
    }

    /// Over sockets of AF_XDP of two hosts of a lab, on which there is one such bed at a time.
    pub fn xdp(lab: &Lab) -> std::io::Result<RealBed> {
        let port = |name: &str| {
            let host = lab.host(name).expect("a host");
            let address =
                SocketAddrV4::new(host.address().expect("an address"), gridnet_rdma_sim::wire::PORT);
            host.run(move || XdpPort::bind(address)).expect("the network of the host")
        };
        Ok(RealBed::between(port("a")?, port("b")?))
    }

    fn udp(address: &str, shape: fn(UdpPort) -> UdpPort) -> Option<RealBed> {
        let port = || UdpPort::bind(address.parse().expect("an address")).map(shape);
        let (a, b) = match (port(), port()) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => {
                println!("SKIPPED: RoCEv2 over {address}: {error}");
                return None;
            }
        };
        Some(RealBed::between(a, b))
    }

    fn between(a: impl Port + 'static, b: impl Port + 'static) -> RealBed {
        let ends = (Soft::new(a), Soft::new(b));
        // 67 ms: other work on this host may take the core for some time.
        ends.0.connect(&ends.1, 14);
        ends.1.connect(&ends.0, 14);
        RealBed { start: Instant::now(), ends }
    }
}

impl Bed for RealBed {
    fn ends(&mut self) -> (&mut dyn End, &mut dyn End) {
        (&mut self.ends.0, &mut self.ends.1)
    }

    fn turn(&mut self) -> bool {
        let now = self.start.elapsed();
        self.ends.0.device.progress(now);
        self.ends.1.device.progress(now);
        now < Duration::from_secs(60)
    }
}
