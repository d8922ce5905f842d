//! An adapter behind the seam.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::abi::{self, *};
use super::gid::Gid;
use super::objects::{no_attributes, Channel, Context, Cq, Mr, Op, Pd, Qp};
use crate::arena::Arena;
use crate::device::{
    Depth, Deregister, Device, Failure, Limits, QpNum, RecvWr, Region, Route, SendWr, Sge, Status, Wc,
};

/// UDP port of RoCE v2: adapters have no other one.
const ROCE_PORT: u16 = 4791;
/// Completions that are kept, where the adapter has as many: those of some hundred queue pairs.
const CQ_CAPACITY: u32 = 1 << 16;
/// Bytes that are wanted inline: what a small message of the rail has, with its header.
const INLINE_BYTES: u32 = 128;
/// 4.096 us x 2^14, or 67 ms,
const ACK_TIMEOUT: u8 = 14;
/// and so often: a peer whose adapter does not answer is given up after half a second.
const RETRY_COUNT: u8 = 7;
/// For ever: the rail has receives for all that a peer may send.
const RNR_RETRY: u8 = 7;
/// 10 us.
const MIN_RNR_TIMER: u8 = 1;
/// Packets may cross so many routers.
const HOP_LIMIT: u8 = 64;
/// Completions that are taken in one call of the driver.
const AT_ONCE: usize = 32;
/// Looks at the completion queue after which events are asked for that nobody waits for.
const LOOKS_PER_EVENT: u32 = 4096;

/// An RDMA adapter, or another device that libibverbs knows.
pub struct IbvDevice {
    gid: Gid,
    mtu: u16,
    max_inline: u32,
    max_cqe: u32,
    /// Completions that the queue pairs can have at a time.
    promised: u32,
    pairs: HashMap<QpNum, Pair>,
    /// What is registered, by its local key.
    regions: HashMap<u32, Registered>,
    cq: Arc<Cq>,
    channel: Arc<Channel>,
    /// Readable when the channel is, or the descriptor of asynchronous events.
    events: Epoll,
    /// The queue was armed, and nothing was told yet.
    armed: bool,
    looks: u32,
    /// Completions may be lost.
    lost: bool,
    pd: Arc<Pd>,
    context: Arc<Context>,
}

struct Pair {
    qp: Qp,
    promised: u32,
}

struct Registered {
    mr: Weak<Mr>,
    memory: Range<u64>,
}

impl fmt::Debug for IbvDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IbvDevice").field("gid", &self.gid).finish_non_exhaustive()
    }
}

impl IbvDevice {
    /// Opens the adapter that has this GID.
    ///
    /// # Errors
    /// Why the library cannot be had, and what the system says.
    pub fn open(gid: Gid) -> io::Result<IbvDevice> {
        let context = Context::open(&gid.device)?;
        let attr = context.query()?;
        let port = context.query_port(gid.port)?;
        let pd = Pd::alloc(&context)?;
        let channel = Channel::create(&context)?;
        let max_cqe = CQ_CAPACITY.min(u32::try_from(attr.max_cqe).unwrap_or(0));
        let cq = Cq::create(&context, max_cqe, Some(&channel))?;
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        watch(&events, channel.fd())?;
        watch(&events, context.async_fd())?;
        let mut device = IbvDevice {
            gid,
            mtu: bytes_of(port.active_mtu),
            max_inline: INLINE_BYTES,
            max_cqe,
            promised: 0,
            pairs: HashMap::new(),
            regions: HashMap::new(),
            cq,
            channel,
            events,
            armed: false,
            looks: 0,
            lost: false,
            pd,
            context,
        };
        device.max_inline = device.inline_of_pairs()?;
        Ok(device)
    }

    /// Bytes that may be inline: what a queue pair says that it has.
    fn inline_of_pairs(&mut self) -> io::Result<u32> {
        let depth = Depth { send: 1, receive: 1, reads: 0 };
        // Some adapters refuse what they cannot have, others give less.
        let qp = self.new_pair(depth).or_else(|_| {
            self.max_inline = 0;
            self.new_pair(depth)
        })?;
        Ok(qp.max_inline().min(INLINE_BYTES))
    }

    fn new_pair(&self, depth: Depth) -> io::Result<Qp> {
        let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        let cap = QpCap {
            max_send_wr: count(depth.send),
            max_recv_wr: count(depth.receive),
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: self.max_inline,
        };
        Qp::create(&self.pd, (&self.cq, &self.cq), cap)
    }

    fn pair(&self, qp: QpNum) -> Result<&Qp, Failure> {
        self.pairs.get(&qp).map(|pair| &pair.qp).ok_or(Failure::Invalid)
    }

    /// Whether the piece is memory that is registered, so that it can be read here.
    fn is_here(&self, sge: &Sge) -> bool {
        self.regions.get(&sge.lkey).is_some_and(|region| {
            let end = sge.address.checked_add(sge.length.into());
            region.mr.strong_count() > 0
                && sge.address >= region.memory.start
                && end.is_some_and(|end| end <= region.memory.end)
        })
    }

    #[expect(unsafe_code)] // Inline data is read here.
    fn send(&self, qp: &Qp, wr: &SendWr) -> Result<(), Failure> {
        let mut flags = if wr.signaled { IBV_SEND_SIGNALED } else { 0 };
        let mut piece = wr.sge.map(|sge| piece(&sge));
        if wr.sge.is_some_and(|sge| sge.length <= self.max_inline && self.is_here(&sge)) {
            flags |= IBV_SEND_INLINE;
        }
        // SAFETY: inline is only what lies within a region that is registered, whose memory therefore is there: see `Region`.
        let posted = unsafe { qp.post_send(wr.wr_id, Op::Send(Some(wr.imm)), piece.as_mut_slice(), flags) };
        posted.map_err(failure)
    }

    /// Takes the events that are there. None that is lost harms: they only say what looks and completions say, too, but for the two
    /// that end everything.
    fn take_events(&mut self) {
        while self.channel.take_event() {
            self.armed = false;
        }
        while let Some(event) = self.context.take_event() {
            let is_end = matches!(event, IBV_EVENT_CQ_ERR | IBV_EVENT_DEVICE_FATAL);
            tracing::debug!(device = self.gid.device, event, "event of the adapter");
            self.lost |= is_end;
        }
    }
}

impl Deregister for Arc<Mr> {
    fn deregister(self: Box<Self>) -> bool {
        // Nobody else holds it: the device only looks whether it is there.
        Arc::into_inner(*self).is_some_and(Mr::deregister)
    }
}

impl Device for IbvDevice {
    fn name(&self) -> String {
        let Gid { device, port, index, interface, .. } = &self.gid;
        format!("adapter {device}, port {port}, GID index {index}, interface {interface}")
    }

    fn gid(&self) -> SocketAddr {
        SocketAddr::new(self.gid.ip, ROCE_PORT)
    }

    fn limits(&self) -> Limits {
        Limits { max_mtu: self.mtu, max_inline: self.max_inline as usize, max_cqe: self.max_cqe as usize }
    }

    #[expect(unsafe_code)] // The promise is kept by `Region`.
    fn register(&mut self, arena: Arena) -> Result<Region, Failure> {
        let (base, len) = (arena.base(), arena.len());
        // SAFETY: the memory stays until the registration is dropped, as `Region` drops that first. Others reach it as verbs allow:
        // sends are filled before they are posted and not touched until their completion, receives are read after theirs.
        let mr = unsafe { Mr::register(&self.pd, base, len, IBV_ACCESS_LOCAL_WRITE) };
        let mr = Arc::new(mr.map_err(|e| {
            tracing::warn!(device = self.gid.device, bytes = len, error = %e, "memory cannot be registered (ulimit -l?)");
            Failure::NoMemory
        })?);
        let lkey = mr.lkey();
        self.regions.retain(|_, region| region.mr.strong_count() > 0);
        let memory = base as u64..base as u64 + len as u64;
        self.regions.insert(lkey, Registered { mr: Arc::downgrade(&mr), memory });
        Ok(Region::new(Box::new(mr), arena, lkey))
    }

    fn create_qp(&mut self, depth: Depth) -> Result<QpNum, Failure> {
        if depth.reads > 0 {
            return Err(Failure::Invalid);
        }
        let promised = u32::try_from(depth.send + depth.receive).map_err(|_| Failure::NoMemory)?;
        if self.promised.saturating_add(promised) > self.max_cqe {
            // More would overrun the completion queue, which ends all of them.
            return Err(Failure::NoMemory);
        }
        let refused = |e: io::Error| {
            tracing::warn!(device = self.gid.device, error = %e, "no queue pair");
            Failure::NoMemory
        };
        let qp = self.new_pair(depth).map_err(refused)?;
        let mut attr = no_attributes();
        attr.qp_state = IBV_QPS_INIT;
        attr.port_num = self.gid.port;
        let mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
        qp.modify(&mut attr, mask).map_err(refused)?;
        let num = QpNum(qp.num());
        self.promised += promised;
        self.pairs.insert(num, Pair { qp, promised });
        Ok(num)
    }

    fn connect_qp(&mut self, qp: QpNum, route: &Route) -> Result<(), Failure> {
        if route.remote.port() != ROCE_PORT {
            // A software device at another port, where no adapter sends to.
            return Err(Failure::Invalid);
        }
        let qp = self.pair(qp)?;
        let refused = |e: io::Error| {
            tracing::warn!(device = self.gid.device, remote = %route.remote, error = %e, "queue pair not connected");
            Failure::Invalid
        };
        qp.modify(&mut to_rtr(&self.gid, route), RTR_MASK).map_err(refused)?;
        qp.modify(&mut to_rts(route), RTS_MASK).map_err(refused)
    }

    fn fail_qp(&mut self, qp: QpNum) {
        // One that is there is not in RESET, so that the change is legal.
        let _ = self.pair(qp).map(Qp::fail);
    }

    fn destroy_qp(&mut self, qp: QpNum) {
        if let Some(pair) = self.pairs.remove(&qp) {
            self.promised -= pair.promised;
        }
    }

    fn post_send(&mut self, qp: QpNum, list: &[SendWr]) -> Result<(), (usize, Failure)> {
        let qp = self.pair(qp).map_err(|failure| (0, failure))?;
        list.iter()
            .enumerate()
            .try_for_each(|(taken, wr)| self.send(qp, wr).map_err(|failure| (taken, failure)))
    }

    fn post_recv(&mut self, qp: QpNum, list: &[RecvWr]) -> Result<(), (usize, Failure)> {
        let qp = self.pair(qp).map_err(|failure| (0, failure))?;
        for (taken, wr) in list.iter().enumerate() {
            qp.post_recv(wr.wr_id, &mut [piece(&wr.sge)]).map_err(|code| (taken, failure(code)))?;
        }
        Ok(())
    }

    fn poll_cq(&mut self, into: &mut Vec<Wc>) -> Result<(), Failure> {
        let mut found = [abi::Wc::default(); AT_ONCE];
        while !self.lost && into.len() < into.capacity() {
            let most = AT_ONCE.min(into.capacity() - into.len());
            let Ok(count) = self.cq.poll(&mut found[..most]) else {
                self.lost = true;
                break;
            };
            into.extend(found[..count].iter().map(completion));
            if count < most {
                break;
            }
        }
        if self.lost {
            return Err(Failure::Full);
        }
        Ok(())
    }

    fn arm(&mut self) -> bool {
        self.take_events();
        self.armed = self.cq.request_notify().is_ok();
        self.armed && !self.lost
    }

    fn is_armed(&self) -> bool {
        self.armed
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.events.0.as_raw_fd())
    }

    /// Takes events, of which a sleeper would be woken for ever otherwise.
    fn progress(&mut self) -> usize {
        self.looks = self.looks.wrapping_add(1);
        if self.armed || self.looks.is_multiple_of(LOOKS_PER_EVENT) {
            self.take_events();
        }
        0
    }
}

const RTR_MASK: c_int = IBV_QP_STATE
    | IBV_QP_AV
    | IBV_QP_PATH_MTU
    | IBV_QP_DEST_QPN
    | IBV_QP_RQ_PSN
    | IBV_QP_MAX_DEST_RD_ATOMIC
    | IBV_QP_MIN_RNR_TIMER;

const RTS_MASK: c_int = IBV_QP_STATE
    | IBV_QP_TIMEOUT
    | IBV_QP_RETRY_CNT
    | IBV_QP_RNR_RETRY
    | IBV_QP_SQ_PSN
    | IBV_QP_MAX_QP_RD_ATOMIC;

fn to_rtr(gid: &Gid, route: &Route) -> QpAttr {
    let dgid = match route.remote.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut attr = no_attributes();
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = mtu_of(route.mtu);
    attr.dest_qp_num = route.dest_qp.0;
    attr.rq_psn = route.rq_psn;
    attr.min_rnr_timer = MIN_RNR_TIMER;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.port_num = gid.port;
    attr.ah_attr.grh.dgid = dgid.octets();
    attr.ah_attr.grh.sgid_index = gid.index;
    attr.ah_attr.grh.hop_limit = HOP_LIMIT;
    attr
}

fn to_rts(route: &Route) -> QpAttr {
    let mut attr = no_attributes();
    attr.qp_state = IBV_QPS_RTS;
    attr.sq_psn = route.sq_psn;
    attr.timeout = ACK_TIMEOUT;
    attr.retry_cnt = RETRY_COUNT;
    attr.rnr_retry = RNR_RETRY;
    attr
}

fn piece(sge: &Sge) -> abi::Sge {
    abi::Sge { addr: sge.address, length: sge.length, lkey: sge.lkey }
}

fn completion(wc: &abi::Wc) -> Wc {
    let imm = (wc.wc_flags & IBV_WC_WITH_IMM != 0).then(|| u32::from_be(wc.imm_data));
    Wc { wr_id: wc.wr_id, status: status(wc.status), byte_len: wc.byte_len, imm, qp: QpNum(wc.qp_num) }
}

fn status(code: c_int) -> Status {
    match code {
        IBV_WC_SUCCESS => Status::Success,
        IBV_WC_WR_FLUSH_ERR => Status::Flushed,
        IBV_WC_RETRY_EXC_ERR | IBV_WC_RESP_TIMEOUT_ERR => Status::NoAnswer,
        IBV_WC_LOC_LEN_ERR => Status::Failed("a message was longer than its receive"),
        IBV_WC_LOC_PROT_ERR => Status::Failed("a local key does not open the memory"),
        IBV_WC_REM_INV_REQ_ERR => Status::Failed("the peer's device says that a request breaks a rule"),
        IBV_WC_REM_ACCESS_ERR => Status::Failed("the peer's device says that a key does not open the memory"),
        IBV_WC_REM_OP_ERR => Status::Failed("the peer's device could not do it"),
        IBV_WC_FATAL_ERR => Status::Failed("the adapter has failed"),
        _ => Status::Failed("the device says that it failed"),
    }
}

fn failure(code: c_int) -> Failure {
    match Errno::from_raw(code) {
        Errno::ENOMEM | Errno::ENOSPC | Errno::EAGAIN => Failure::Full,
        _ => Failure::Invalid,
    }
}

/// The largest path MTU that is not more than so many bytes, as verbs number it; 256 at least.
fn mtu_of(bytes: u16) -> c_int {
    let number = c_int::from(bytes.max(256).ilog2() as u8) - 7;
    number.clamp(IBV_MTU_256, IBV_MTU_4096)
}

fn bytes_of(mtu: c_int) -> u16 {
    128 << mtu.clamp(IBV_MTU_256, IBV_MTU_4096)
}

#[expect(unsafe_code)] // The library names its descriptors by their numbers.
fn watch(events: &Epoll, descriptor: RawFd) -> io::Result<()> {
    // SAFETY: it is open, as what it belongs to is borrowed by the caller, and stays until the device goes.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(events.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_mtus_have_numbers() {
        let bytes = [0, 256, 511, 512, 1023, 1024, 2048, 4095, 4096, 65_535];
        assert_eq!(bytes.map(mtu_of), [1, 1, 1, 2, 2, 3, 4, 4, 5, 5]);
        assert_eq!([1, 2, 3, 4, 5].map(bytes_of), [256, 512, 1024, 2048, 4096]);
        assert_eq!([-1, 0, 77].map(bytes_of), [256, 256, 4096]);
    }

    #[test]
    fn drivers_say_that_a_queue_is_full() {
        assert_eq!(failure(Errno::ENOMEM as i32), Failure::Full);
        assert_eq!(failure(Errno::EINVAL as i32), Failure::Invalid);
    }

    #[test]
    fn a_device_that_is_not_there_is_said_to_be_missing() {
        let gid = Gid {
            device: "nothing0".into(),
            port: 1,
            index: 0,
            ip: [192, 0, 2, 1].into(),
            kind: "RoCE v2".into(),
            interface: "nothing".into(),
            is_up: true,
        };
        let error = IbvDevice::open(gid).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(
            error.contains("nothing0") || error.contains("libibverbs") || error.contains("implemented"),
            "{error}"
        );
    }
}
