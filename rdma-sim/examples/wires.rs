//! How fast two devices are over each wire, beside what the machine does without them: `cargo run --release -p gridnet-rdma-sim
//! --example wires [ROUNDS [PART-OF-A-NAME]]`. Needs two cores, and for wires between hosts namespaces; for AF_XDP, root.

use std::net::{SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr};
use gridnet_rdma_sim::wire::{Psn, RnrTimer, PORT};
use gridnet_rdma_sim::wr::{Data, RecvWr, SendOp, SendWr};
use gridnet_rdma_sim::{Cq, Device, Mr, Port, Qp, QpShape, ShmPort, UdpPort, XdpPort};
use gridnet_testbed::measure::{self, beside, canary, in_turns, one_way, Subject};
use gridnet_testbed::{sandbox, Lab, LinkSpec, Topology};

/// Round trips of one measurement.
const TRIPS: u32 = 5000;
/// Writes of one measurement, and their bytes.
const WRITES: u32 = 60;
const LEN: u32 = 1 << 20;
/// Receives that are posted.
const DEPTH: u64 = 64;

fn main() {
    if !sandbox::is_inside() {
        // A network of its own, for the cable between two hosts.
        let again = || {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(std::env::args().skip(1));
            command
        };
        match sandbox::spawn(again) {
            Ok(mut child) => return drop(child.wait()),
            Err(error) => println!("SKIPPED: wires between hosts: {error}"),
        }
    }
    let subjects: [Subject; 13] = [
        ("canary: one line each way, ns", canary),
        ("raw UDP, busy, loopback, 8 B one way, ns", || raw_udp(Place::Loopback)),
        ("raw UDP, busy, cable, 8 B one way, ns", || raw_udp(Place::Cable)),
        ("udp, loopback: SEND 8 B one way, ns", || pingpong(udp(Place::Loopback), Mtu::B4096)),
        ("udp, cable: SEND 8 B one way, ns", || pingpong(udp(Place::Cable), Mtu::B4096)),
        ("AF_XDP, cable: SEND 8 B one way, ns", || pingpong(xdp(), Mtu::B1024)),
        ("shm: SEND 8 B one way, ns", || pingpong(shm(), Mtu::B4096)),
        ("udp, cable: WRITE 1 MiB, GB/s, MTU 1024", || write(udp(Place::Cable), Mtu::B1024)),
        ("udp, cable: WRITE 1 MiB, GB/s, MTU 4096", || write(udp(Place::Cable), Mtu::B4096)),
        ("udp segments, cable: WRITE 1 MiB, GB/s, MTU 4096", || write(segments(), Mtu::B4096)),
        ("AF_XDP, cable: WRITE 1 MiB, GB/s, MTU 2048", || write(xdp(), Mtu::B2048)),
        ("shm: WRITE 1 MiB, GB/s, MTU 4096", || write(shm(), Mtu::B4096)),
        ("canary again", canary),
    ];
    in_turns(&subjects, 15);
}

/// Where two ports are.
#[derive(Clone, Copy)]
enum Place {
    Loopback,
    /// A pair of virtual interfaces between two network namespaces.
    Cable,
}

/// Makes something for each of two ends, at an address of its own; none where there is no lab.
fn both<R: Send>(place: Place, make: impl Fn(SocketAddrV4) -> R + Sync) -> Option<(R, R)> {
    static LAB: OnceLock<Option<Lab>> = OnceLock::new();
    let lab = LAB.get_or_init(|| {
        let lab = Lab::open(Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"))).ok()?;
        for host in lab.hosts() {
            let wider =
                "ip -o -4 addr show scope global | while read n i r; do ip link set dev $i mtu 9000; done";
            host.shell(wider).output(Duration::from_secs(10)).ok()?;
        }
        Some(lab)
    });
    let at = |name: &str| {
        let host = lab.as_ref()?.host(name).ok()?;
        let address = match place {
            Place::Loopback => SocketAddrV4::new([127, 0, 0, 1].into(), 0),
            Place::Cable => SocketAddrV4::new(host.address().ok()?, PORT),
        };
        host.run(|| make(address)).ok()
    };
    let other = if matches!(place, Place::Loopback) { "a" } else { "b" };
    Some((at("a")?, at(other)?))
}

fn raw_udp(place: Place) -> f64 {
    let sockets = both(place, |at| UdpSocket::bind(at).expect("a socket"));
    sockets.map_or(f64::NAN, |(near, far)| measure::raw_udp(&near, &far, TRIPS))
}

type Ports = Option<(Box<dyn Port>, Box<dyn Port>)>;

fn udp(place: Place) -> Ports {
    both(place, |at| -> Box<dyn Port> { Box::new(UdpPort::bind(at.into()).expect("a port")) })
}

fn segments() -> Ports {
    both(Place::Cable, |at| -> Box<dyn Port> {
        Box::new(UdpPort::bind(at.into()).expect("a port").send_segments())
    })
}

fn xdp() -> Ports {
    let (a, b) = both(Place::Cable, |at| XdpPort::bind(at).ok())?;
    Some((Box::new(a?), Box::new(b?)))
}

fn shm() -> Ports {
    let port = || Box::new(ShmPort::open().expect("a port"));
    Some((port(), port()))
}

struct Side {
    device: Device,
    cq: Cq,
    recv_cq: Cq,
    qp: Qp,
    mr: Mr,
}

impl Side {
    fn new(port: Box<dyn Port>) -> Side {
        let start = Instant::now();
        let device = Device::open_with_clock(port, move || start.elapsed()).expect("random numbers");
        let pd = device.alloc_pd();
        let mr = pd.allocate(LEN as usize, Access::ALL).expect("memory");
        let cq = device.create_cq(256, None).expect("a queue");
        let recv_cq = device.create_cq(256, None).expect("a queue");
        let qp = pd.create_qp(&cq, &recv_cq, None, QpShape::default()).expect("a queue pair");
        Side { device, cq, recv_cq, qp, mr }
    }

    fn connect(&self, peer: &Side, path_mtu: Mtu) {
        let rtr = RtrAttr {
            path_mtu,
            remote: peer.device.address(),
            dest_qp: peer.qp.num(),
            rq_psn: Psn::new(0),
            max_dest_rd_atomic: 4,
            min_rnr_timer: RnrTimer::new(1),
        };
        let rts = RtsAttr {
            sq_psn: Psn::new(0),
            timeout: AckTimeout::new(12),
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 4,
        };
        for change in [Change::Init(InitAttr { access: Access::ALL }), Change::Rtr(rtr), Change::Rts(rts)] {
            self.qp.change(change).expect("the usual way");
        }
        (0..DEPTH).for_each(|_| self.post_recv());
    }

    fn post_recv(&self) {
        self.qp.post_recv(RecvWr { wr_id: 0, sges: self.mr.sge(0, 64).into() }).expect("posted");
    }

    /// Sends 8 bytes; each 16th has a completion.
    fn send(&self, number: u64) {
        let mut wr = SendWr::new(number, SendOp::Send, Data::Inline(number.to_ne_bytes().to_vec()));
        wr.signaled = number.is_multiple_of(16);
        self.qp.send_now(wr).expect("posted");
    }

    fn progress(&self) {
        self.device.work();
    }

    /// Whether a message has come; its receive is posted anew.
    fn came(&self) -> bool {
        self.progress();
        let came = self.recv_cq.poll().expect("no overrun").is_some();
        if came {
            while self.cq.poll().expect("no overrun").is_some() {}
            self.post_recv();
        }
        came
    }
}

fn two(ports: Ports, mtu: Mtu) -> Option<(Side, Side)> {
    let (a, b) = ports?;
    let (a, b) = (Side::new(a), Side::new(b));
    a.connect(&b, mtu);
    b.connect(&a, mtu);
    Some((a, b))
}

fn pingpong(ports: Ports, mtu: Mtu) -> f64 {
    let Some((a, b)) = two(ports, mtu) else { return f64::NAN };
    let answer = |stop: &AtomicBool| {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            if b.came() {
                count += 1;
                b.send(count);
            }
        }
    };
    let mut count = 0;
    beside(answer, || {
        one_way(TRIPS, || {
            count += 1;
            a.send(count);
            while !a.came() {}
        })
    })
}

fn write(ports: Ports, mtu: Mtu) -> f64 {
    let Some((a, b)) = two(ports, mtu) else { return f64::NAN };
    let remote = b.mr.remote(0);
    let answer = |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            b.progress();
        }
    };
    beside(answer, || {
        let mut start = Instant::now();
        for id in 0..WRITES + WRITES / 4 {
            // Those before warm up.
            if id == WRITES / 4 {
                start = Instant::now();
            }
            let data = Data::Sges(a.mr.sge(0, LEN).into());
            a.qp.post_send(SendWr::new(id.into(), SendOp::RdmaWrite(remote), data)).expect("posted");
            while a.cq.poll().expect("no overrun").is_none() {
                a.progress();
                assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
            }
        }
        f64::from(WRITES) * f64::from(LEN) / start.elapsed().as_nanos() as f64
    })
}
