//! The software device behind the seam.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use gridnet_rdma_sim::attr::{
    Access, AckTimeout, Change, InitAttr, Mtu, RtrAttr, RtsAttr, RNR_RETRY_FOREVER,
};
use gridnet_rdma_sim::number::ByNumber;
use gridnet_rdma_sim::wire::{Psn, QpNum as SimQpNum, RnrTimer};
use gridnet_rdma_sim::wr::{
    Data, RecvWr as SimRecvWr, Remote, Rkey, SendOp, SendWr as SimSendWr, Sges, WcStatus,
};
use gridnet_rdma_sim::{Cq, Error, Mr, Pd, Port, Qp, QpShape, ShmPort, UdpPort, XdpPort};

use crate::arena::Arena;
use crate::config::Ports;
use crate::device::{
    Depth, Deregister, Device, Failure, Limits, QpNum, ReadWr, RecvWr, Region, Registration, Route, SendWr,
    Sge, Status, Wc,
};

/// Completions that are kept: those of a thousand queue pairs and more.
const CQ_CAPACITY: usize = 1 << 18;
/// 4.096 us x 2^14, or 67 ms: a process that does not call answers for nobody meanwhile,
const ACK_TIMEOUT: AckTimeout = AckTimeout::new(14);
/// and is given up after half a second.
const RETRY_COUNT: u8 = 7;
/// Bytes of headers around the payload of a packet: IPv6, UDP, BTH with the longest extension, ICRC.
const PACKET_OVERHEAD: u32 = 40 + 8 + 12 + 32 + 4;

/// Longest path MTU of which a packet fits into a frame of AF_XDP: longer ones would go through the system.
const XDP_MTU: u16 = 2048;

/// A software RDMA device.
pub struct SoftDevice {
    device: gridnet_rdma_sim::Device,
    domain: Pd,
    queue: Cq,
    pairs: ByNumber<QpNum, Pair>,
    /// What is readable when packets are there.
    waiter: Option<Box<dyn AsFd + Send>>,
    start: Instant,
    max_mtu: u16,
    wire: &'static str,
    reach: Reach,
    /// As [`Device::cost`] says.
    cost: (u32, u64),
}

/// A region of the software device.
struct Registered(Mr);

impl Deregister for Registered {
    fn deregister(self: Box<Self>) -> bool {
        // Within the process nothing can fail.
        drop(self.0);
        true
    }
}

/// A queue pair, and how many reads it takes.
struct Pair {
    qp: Qp,
    reads: u8,
}

/// What its GIDs mean.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// Addresses of hosts.
    Hosts,
    /// Numbers of processes of this host, of which none is a stranger's: the system asks for the same user.
    Processes,
    /// Whatever peers say.
    #[cfg(feature = "testing")]
    Anywhere,
}

impl fmt::Debug for SoftDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftDevice")
            .field("wire", &self.wire)
            .field("gid", &self.gid())
            .finish_non_exhaustive()
    }
}

impl SoftDevice {
    /// A device whose packets go through a UDP socket of this address, on one of these ports, or any.
    ///
    /// # Errors
    /// Those of sockets, and when the system gives no random numbers.
    pub fn over_udp(address: IpAddr, ports: Option<Ports>) -> io::Result<SoftDevice> {
        let port = first_free(ports, |port| UdpPort::bind(SocketAddr::new(address, port)))?;
        let waiter = port.waiter()?;
        let mut device = SoftDevice::over(port, "udp")?;
        device.waiter = Some(Box::new(waiter));
        device.max_mtu = mtu_of(address);
        Ok(device)
    }

    /// A device whose packets go past the network of the system, through a socket of AF_XDP at the first queue of the interface that
    /// has this address, on one of these ports, or any. One process of a host can have that.
    ///
    /// # Errors
    /// Those of [`XdpPort::bind`].
    pub fn over_xdp(address: Ipv4Addr, ports: Option<Ports>) -> io::Result<SoftDevice> {
        let port = first_free(ports, |port| XdpPort::bind(SocketAddrV4::new(address, port)))?;
        let waiter = port.waiter()?;
        let mut device = SoftDevice::over(port, "xdp")?;
        device.waiter = Some(Box::new(waiter));
        device.max_mtu = mtu_of(address.into()).min(XDP_MTU);
        device.cost = (4_000, 1_000_000_000);
        Ok(device)
    }

    /// A device whose packets go through memory that it shares with those of other processes of this host and user, in the same
    /// network namespace.
    ///
    /// # Errors
    /// Those of [`ShmPort::open`].
    pub fn over_shm() -> io::Result<SoftDevice> {
        let port = ShmPort::open()?;
        let waiter = port.waiter()?;
        let mut device = SoftDevice::over(port, "shm")?;
        device.waiter = Some(Box::new(waiter));
        device.reach = Reach::Processes;
        device.cost = (1_000, 4_000_000_000);
        Ok(device)
    }

    /// A device at any port; nothing wakes who waits for it.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn over(port: impl Port + 'static, wire: &'static str) -> io::Result<SoftDevice> {
        let refused = |_| io::Error::other("the software device cannot be opened");
        let start = Instant::now();
        let device =
            gridnet_rdma_sim::Device::open_with_clock(port, move || start.elapsed()).map_err(refused)?;
        let domain = device.alloc_pd();
        let queue = device.create_cq(CQ_CAPACITY, None).map_err(refused)?;
        Ok(SoftDevice {
            device,
            domain,
            queue,
            pairs: ByNumber::default(),
            waiter: None,
            start,
            max_mtu: 4096,
            wire,
            reach: Reach::Hosts,
            cost: (8_000, 1_000_000_000),
        })
    }

    /// Believes what peers say of their GID: they may be called at another address.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn leads_anywhere(mut self) -> SoftDevice {
        self.reach = Reach::Anywhere;
        self
    }

    fn pair(&self, qp: QpNum) -> Result<&Qp, Failure> {
        self.pairs.get(&qp).map(|pair| &pair.qp).ok_or(Failure::Invalid)
    }
}

impl Device for SoftDevice {
    fn name(&self) -> String {
        format!("software device, wire {}", self.wire)
    }

    fn gid(&self) -> SocketAddr {
        self.device.address()
    }

    fn leads_to(&self, gid: SocketAddr, host: IpAddr) -> bool {
        match self.reach {
            Reach::Hosts => gid.ip() == host,
            Reach::Processes => ShmPort::is_address(gid),
            #[cfg(feature = "testing")]
            Reach::Anywhere => true,
        }
    }

    fn cost(&self) -> (u32, u64) {
        self.cost
    }

    fn limits(&self) -> Limits {
        Limits { max_mtu: self.max_mtu, max_inline: QpShape::default().max_inline, max_cqe: CQ_CAPACITY }
    }

    #[expect(unsafe_code)] // The promise is kept by `Region`.
    fn register(&mut self, arena: Arena) -> Result<Region, Failure> {
        // SAFETY: the memory stays until the registration is dropped, as `Region` drops that first. Others reach it as verbs allow:
        // sends are filled before they are posted and not touched until their completion, receives are read after theirs.
        let registered = unsafe { self.domain.register(arena.base(), arena.len(), Access::LOCAL_WRITE) };
        let mr = registered.map_err(failure)?;
        let lkey = mr.lkey().0;
        Ok(Region::new(Box::new(Registered(mr)), arena, lkey))
    }

    fn can_read(&self) -> bool {
        true
    }

    #[expect(unsafe_code)] // The promise is that of the caller.
    unsafe fn register_memory(
        &mut self,
        base: *mut u8,
        len: usize,
        writes: bool,
    ) -> Result<Registration, Failure> {
        let access = if writes { Access::LOCAL_WRITE } else { Access::REMOTE_READ };
        // SAFETY: the caller's promise, but that memory for peers to read may be written: what does not have `LOCAL_WRITE` is not.
        let mr = unsafe { self.domain.register(base, len, access) }.map_err(failure)?;
        let (lkey, rkey) = (mr.lkey().0, mr.rkey().0);
        Ok(Registration::new(Box::new(mr), lkey, rkey))
    }

    fn post_read(&mut self, qp: QpNum, wr: &ReadWr) -> Result<(), Failure> {
        let remote = Remote { address: wr.remote, rkey: Rkey(wr.rkey) };
        let data = Data::Sges(sge(&wr.sge).into());
        self.pair(qp)?.send_now(SimSendWr::new(wr.wr_id, SendOp::RdmaRead(remote), data)).map_err(failure)
    }

    fn create_qp(&mut self, depth: Depth) -> Result<QpNum, Failure> {
        let shape = QpShape { max_send_wr: depth.send, max_recv_wr: depth.receive, ..QpShape::default() };
        let qp = self.domain.create_qp(&self.queue, &self.queue, None, shape).map_err(failure)?;
        // Whoever guesses the numbers of a queue pair for messages reads nothing through it.
        let access = if depth.reads > 0 { Access::REMOTE_READ } else { Access::LOCAL_READ };
        qp.change(Change::Init(InitAttr { access })).map_err(failure)?;
        let num = QpNum(qp.num().value());
        self.pairs.insert(num, Pair { qp, reads: depth.reads });
        Ok(num)
    }

    fn connect_qp(&mut self, qp: QpNum, route: &Route) -> Result<(), Failure> {
        let Pair { qp, reads } = self.pairs.get(&qp).ok_or(Failure::Invalid)?;
        let to_rtr = RtrAttr {
            path_mtu: mtu(route.mtu),
            remote: route.remote,
            dest_qp: SimQpNum::new(route.dest_qp.0),
            rq_psn: Psn::new(route.rq_psn),
            max_dest_rd_atomic: *reads,
            min_rnr_timer: RnrTimer::new(1),
        };
        qp.change(Change::Rtr(to_rtr)).map_err(failure)?;
        let to_rts = RtsAttr {
            sq_psn: Psn::new(route.sq_psn),
            timeout: ACK_TIMEOUT,
            retry_cnt: RETRY_COUNT,
            rnr_retry: RNR_RETRY_FOREVER,
            max_rd_atomic: *reads,
        };
        qp.change(Change::Rts(to_rts)).map_err(failure)
    }

    fn fail_qp(&mut self, qp: QpNum) {
        // One that is there is not in RESET, so that the change is legal.
        let _ = self.pair(qp).map(|qp| qp.change(Change::Err));
    }

    fn destroy_qp(&mut self, qp: QpNum) {
        self.pairs.remove(&qp);
    }

    fn post_send(&mut self, qp: QpNum, list: &[SendWr]) -> Result<(), (usize, Failure)> {
        let qp = self.pair(qp).map_err(|failure| (0, failure))?;
        for (taken, wr) in list.iter().enumerate() {
            let data = Data::Sges(wr.sge.as_ref().map_or_else(Sges::default, |piece| sge(piece).into()));
            let mut request = SimSendWr::new(wr.wr_id, SendOp::SendWithImm(wr.imm), data);
            request.signaled = wr.signaled;
            qp.send_now(request).map_err(|error| (taken, failure(error)))?;
        }
        Ok(())
    }

    fn post_recv(&mut self, qp: QpNum, list: &[RecvWr]) -> Result<(), (usize, Failure)> {
        let qp = self.pair(qp).map_err(|failure| (0, failure))?;
        for (taken, wr) in list.iter().enumerate() {
            let request = SimRecvWr { wr_id: wr.wr_id, sges: sge(&wr.sge).into() };
            qp.post_recv(request).map_err(|error| (taken, failure(error)))?;
        }
        Ok(())
    }

    fn poll_cq(&mut self, into: &mut Vec<Wc>) -> Result<(), Failure> {
        let polled = self.queue.poll_many(into.capacity() - into.len(), |wc| into.push(completion(&wc)));
        polled.map(drop).map_err(|_| Failure::Full)
    }

    fn progress_and_poll(&mut self, into: &mut Vec<Wc>) -> Result<(), Failure> {
        let room = into.capacity() - into.len();
        let polled = self.device.work_and_poll(&self.queue, room, |wc| into.push(completion(&wc)));
        polled.map(drop).map_err(|_| Failure::Full)
    }

    fn arm(&mut self) -> bool {
        self.device.arm()
    }

    fn is_armed(&self) -> bool {
        self.device.is_armed()
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.waiter.as_ref().map(|waiter| waiter.as_fd().as_raw_fd())
    }

    fn progress(&mut self) -> usize {
        self.device.work()
    }

    fn next_work(&self) -> Option<Duration> {
        self.device.deadline().map(|at| at.saturating_sub(self.start.elapsed()))
    }
}

fn completion(wc: &gridnet_rdma_sim::wr::Wc) -> Wc {
    let qp = QpNum(wc.qp.value());
    Wc { wr_id: wc.wr_id, status: status(wc.status), byte_len: wc.byte_len, imm: wc.imm, qp }
}

fn sge(sge: &Sge) -> gridnet_rdma_sim::wr::Sge {
    let Sge { address, length, lkey } = *sge;
    gridnet_rdma_sim::wr::Sge { address, length, lkey: gridnet_rdma_sim::wr::Lkey(lkey) }
}

fn status(status: WcStatus) -> Status {
    match status {
        WcStatus::Success => Status::Success,
        WcStatus::WrFlushErr => Status::Flushed,
        WcStatus::RetryExcErr => Status::NoAnswer,
        WcStatus::LocLenErr => Status::Failed("a message was longer than its receive"),
        WcStatus::LocProtErr => Status::Failed("a local key does not open the memory"),
        WcStatus::RemInvReqErr => Status::Failed("the peer's device says that a request breaks a rule"),
        WcStatus::RemAccessErr => {
            Status::Failed("the peer's device says that a key does not open the memory")
        }
        WcStatus::RemOpErr => Status::Failed("the peer's device could not do it"),
        _ => Status::Failed("the device says that it failed"),
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Full => Failure::Full,
        Error::System => Failure::NoMemory,
        _ => Failure::Invalid,
    }
}

/// What `bind` makes of the first port that nobody has.
fn first_free<T>(ports: Option<Ports>, mut bind: impl FnMut(u16) -> io::Result<T>) -> io::Result<T> {
    let mut why = io::ErrorKind::AddrInUse.into();
    for port in Ports::shuffled(ports) {
        match bind(port) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => why = e,
            other => return other,
        }
    }
    Err(why)
}

/// The largest path MTU that is not more than so many bytes; 256 at least.
fn mtu(bytes: u16) -> Mtu {
    match bytes {
        4096.. => Mtu::B4096,
        2048.. => Mtu::B2048,
        1024.. => Mtu::B1024,
        512.. => Mtu::B512,
        _ => Mtu::B256,
    }
}

/// Path MTU for the interface that has this address; that of Ethernet without jumbo frames where it is not known.
fn mtu_of(address: IpAddr) -> u16 {
    let bytes = interface_of(address)
        .and_then(|name| std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok())
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(1500);
    let payload = bytes.saturating_sub(PACKET_OVERHEAD).min(4096);
    mtu(payload as u16).bytes() as u16
}

fn interface_of(address: IpAddr) -> Option<String> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    all.into_iter().find_map(|interface| {
        let here = interface.address?;
        let ip = match (here.as_sockaddr_in(), here.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (_, Some(v6)) => IpAddr::from(v6.ip()),
            _ => return None,
        };
        (ip == address).then_some(interface.interface_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::READS;

    #[test]
    fn the_path_mtu_is_a_value_of_verbs() {
        let bytes = [0, 255, 256, 511, 512, 1023, 1024, 1404, 2048, 4095, 4096, u16::MAX];
        let found = bytes.map(|bytes| mtu(bytes).bytes());
        assert_eq!(found, [256, 256, 256, 256, 512, 512, 1024, 1024, 2048, 2048, 4096, 4096]);
    }

    /// How a read ends that goes through a queue pair which takes so many, from one device to another.
    fn read_through(reads: u8) -> Status {
        let net = gridnet_rdma_sim::testing::Net::new(7, gridnet_rdma_sim::testing::Faults::NONE);
        let open = |port| SoftDevice::over(net.port(([127, 0, 0, 1], port).into()), "net").unwrap();
        let (mut here, mut there) = (open(1), open(2));
        let depth = |reads| Depth { send: 1, receive: 1, reads };
        let reader = here.create_qp(depth(READS)).unwrap();
        let read = there.create_qp(depth(reads)).unwrap();
        let route = |remote, dest_qp| Route { remote, dest_qp, mtu: 1024, rq_psn: 0, sq_psn: 0 };
        here.connect_qp(reader, &route(there.gid(), read)).unwrap();
        there.connect_qp(read, &route(here.gid(), reader)).unwrap();
        let (mut from, mut to) = ([7_u8; 100], [0_u8; 100]);
        let (from_at, to_at) = (from.as_mut_ptr(), to.as_mut_ptr());
        #[expect(unsafe_code)]
        // SAFETY: both outlive their registrations, and nothing else is done with them until those are gone.
        let (theirs, ours) = unsafe {
            (
                there.register_memory(from_at, 100, false).unwrap(),
                here.register_memory(to_at, 100, true).unwrap(),
            )
        };
        let sge = Sge { address: to_at as u64, length: 100, lkey: ours.lkey };
        let wr = ReadWr { wr_id: 1, sge, remote: from_at as u64, rkey: theirs.rkey };
        here.post_read(reader, &wr).unwrap();
        let mut done = Vec::with_capacity(1);
        let start = Instant::now();
        while done.is_empty() && start.elapsed() < Duration::from_secs(60) {
            net.set_now(start.elapsed());
            here.progress();
            there.progress();
            here.poll_cq(&mut done).unwrap();
        }
        drop((theirs, ours));
        let status = done.first().expect("the read ends").status;
        assert_eq!(to == from, status == Status::Success);
        status
    }

    #[test]
    fn only_queue_pairs_for_reads_take_reads() {
        assert_eq!(read_through(READS), Status::Success);
        assert!(matches!(read_through(0), Status::Failed(_)));
    }

    #[test]
    fn loopback_carries_large_packets() {
        assert_eq!(mtu_of([127, 0, 0, 1].into()), 4096);
        assert_eq!(mtu_of([192, 0, 2, 1].into()), 1024);
    }
}
