//! Reads and writes of peers' memory.

use std::ffi::c_void;

use gridnet::core::mem::Iov;

use crate::abi::flag::*;
use crate::abi::message::{IoVec, MsgRma, RmaIov};
use crate::abi::object::{FidEp, RmaOps};
use crate::abi::FiAddr;
use crate::boundary::guarded;
use crate::calls::{piece, with_pieces};
use crate::info::{INJECT_SIZE, IOV_LIMIT};
use crate::object::Object;
use crate::op::length;
use crate::remote::{Act, Order, Step};
use crate::state::State;

pub(crate) static OPS: RmaOps = RmaOps {
    size: size_of::<RmaOps>(),
    read,
    readv,
    readmsg,
    write,
    writev,
    writemsg,
    inject,
    writedata,
    injectdata,
};

/// Flags of writes; others are refused rather than ignored. All completions are of what has taken effect.
const WRITE_FLAGS: u64 =
    COMPLETION | INJECT | INJECT_COMPLETE | TRANSMIT_COMPLETE | DELIVERY_COMPLETE | REMOTE_CQ_DATA | MORE;
/// Flags of reads.
const READ_FLAGS: u64 = COMPLETION | TRANSMIT_COMPLETE | DELIVERY_COMPLETE | MORE;

/// What a call says besides memory.
pub(crate) struct Call {
    pub(crate) peer: FiAddr,
    pub(crate) context: *mut c_void,
    /// `None` for those of the endpoint.
    pub(crate) flags: Option<u64>,
    pub(crate) data: Option<u64>,
    pub(crate) silent: bool,
}

impl Call {
    pub(crate) fn new(peer: FiAddr, context: *mut c_void) -> Call {
        Call { peer, context, flags: None, data: None, silent: false }
    }

    pub(crate) fn inject(peer: FiAddr) -> Call {
        Call { flags: Some(INJECT), silent: true, ..Call::new(peer, std::ptr::null_mut()) }
    }

    /// What the endpoint is asked for. The default of an endpoint may be meant for other operations.
    pub(crate) fn order(&self, default: u64, known: u64, kind: u64, len: usize) -> Result<Order, i32> {
        let flags = self.flags.unwrap_or(default & known);
        if flags & !known != 0 {
            return Err(libc::EINVAL);
        }
        let Call { peer, data, silent, .. } = *self;
        Ok(Order { peer, context: self.context as usize, flags, kind, data, silent, len })
    }
}

/// Starts a read or a write between these memories.
///
/// # Safety
/// `ep` is an open endpoint; the memory of `iov` is valid until the operation ends.
unsafe fn start(ep: *mut FidEp, way: u64, iov: &[Iov], there: &[RmaIov], call: &Call) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidEp>::of(ep) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let endpoint = endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
    let len = length(iov);
    let wanted = there.iter().try_fold(0usize, |sum, piece| sum.checked_add(piece.len));
    if wanted != Some(len) || there.is_empty() {
        return Err(libc::EINVAL);
    }
    let known = if way == WRITE { WRITE_FLAGS } else { READ_FLAGS };
    let order = call.order(endpoint.tx.op_flags, known, RMA | way, len)?;
    let inject = order.flags & INJECT != 0;
    if inject && len > INJECT_SIZE {
        return Err(libc::EMSGSIZE);
    }
    let (copy, copied) = inject.then(|| endpoint.copy(iov)).unzip();
    let here = copied.as_ref().map_or(iov, std::slice::from_ref);
    let act = if way == WRITE { Act::Write } else { Act::Read };
    // Of no bytes there is a step, too: whether the key is right is to be told.
    let nothing = (len == 0).then_some((Iov::EMPTY, there[0].addr, there[0].key));
    let pieces = nothing.into_iter().chain(Pieces { here, there, done: (0, 0) });
    let mut steps = pieces.map(|(here, addr, key)| Step { act: act(here), addr, key });
    endpoint.start_errand(vectors, reports, order, &mut steps, copy).map(|()| 0)
}

/// Pieces of two memories of one length, cut where either of them is; none of them is empty.
struct Pieces<'a> {
    here: &'a [Iov],
    there: &'a [RmaIov],
    /// Bytes that are done of the first of each.
    done: (usize, usize),
}

impl Iterator for Pieces<'_> {
    type Item = (Iov, u64, u64);

    fn next(&mut self) -> Option<(Iov, u64, u64)> {
        loop {
            let (Some(here), Some(there)) = (self.here.first(), self.there.first()) else {
                return None;
            };
            let left = (here.len() - self.done.0, there.len - self.done.1);
            let len = left.0.min(left.1);
            let addr = there.addr.wrapping_add(self.done.1 as u64);
            // SAFETY: a part of the piece.
            let part = unsafe { Iov::new(here.base().wrapping_add(self.done.0), len) };
            self.done = (self.done.0 + len, self.done.1 + len);
            if left.0 == len {
                (self.here, self.done.0) = (&self.here[1..], 0);
            }
            if left.1 == len {
                (self.there, self.done.1) = (&self.there[1..], 0);
            }
            if len > 0 {
                return Some((part, addr, there.key));
            }
        }
    }
}

/// # Safety
/// `rma_iov` is valid for `count` entries.
pub(crate) unsafe fn there<'a, T>(rma_iov: *const T, count: usize) -> Result<&'a [T], i32> {
    if count > IOV_LIMIT || rma_iov.is_null() {
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(rma_iov, count) })
}

unsafe extern "C" fn read(
    ep: *mut FidEp,
    buf: *mut c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start(ep, READ, &[piece(buf, len)?], &[RmaIov { addr, len, key }], &Call::new(peer, context))
    })
}

unsafe extern "C" fn readv(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        with_pieces(iov, count, |iov| {
            let there = RmaIov { addr, len: length(iov), key };
            start(ep, READ, iov, &[there], &Call::new(peer, context))
        })
    })
}

/// # Safety
/// As the program promises of `msg`.
unsafe fn start_msg(ep: *mut FidEp, way: u64, msg: *const MsgRma, flags: u64) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        let there = there(msg.rma_iov, msg.rma_iov_count)?;
        let data = (flags & REMOTE_CQ_DATA != 0).then_some(msg.data);
        let call = Call { flags: Some(flags), data, ..Call::new(msg.addr, msg.context) };
        with_pieces(msg.iov, msg.iov_count, |iov| start(ep, way, iov, there, &call))
    }
}

unsafe extern "C" fn readmsg(ep: *mut FidEp, msg: *const MsgRma, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_msg(ep, READ, msg, flags) })
}

unsafe extern "C" fn write(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start(ep, WRITE, &[piece(buf, len)?], &[RmaIov { addr, len, key }], &Call::new(peer, context))
    })
}

unsafe extern "C" fn writev(
    ep: *mut FidEp,
    iov: *const IoVec,
    _desc: *mut *mut c_void,
    count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        with_pieces(iov, count, |iov| {
            let there = RmaIov { addr, len: length(iov), key };
            start(ep, WRITE, iov, &[there], &Call::new(peer, context))
        })
    })
}

unsafe extern "C" fn writemsg(ep: *mut FidEp, msg: *const MsgRma, flags: u64) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_msg(ep, WRITE, msg, flags) })
}

unsafe extern "C" fn inject(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
) -> isize {
    // SAFETY: libfabric's promise.
    guarded(|| unsafe {
        start(ep, WRITE, &[piece(buf, len)?], &[RmaIov { addr, len, key }], &Call::inject(peer))
    })
}

unsafe extern "C" fn writedata(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    _desc: *mut c_void,
    data: u64,
    peer: FiAddr,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    let call = Call { data: Some(data), ..Call::new(peer, context) };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, WRITE, &[piece(buf, len)?], &[RmaIov { addr, len, key }], &call) })
}

unsafe extern "C" fn injectdata(
    ep: *mut FidEp,
    buf: *const c_void,
    len: usize,
    data: u64,
    peer: FiAddr,
    addr: u64,
    key: u64,
) -> isize {
    let call = Call { data: Some(data), ..Call::inject(peer) };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, WRITE, &[piece(buf, len)?], &[RmaIov { addr, len, key }], &call) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_cut_where_either_is() {
        let base = std::ptr::dangling_mut::<u8>();
        // SAFETY: never used.
        let iov = |at: usize, len| unsafe { Iov::new(base.wrapping_add(at), len) };
        let cut = |here: &[Iov], there: &[(u64, usize)]| {
            let there: Vec<_> =
                there.iter().map(|(addr, len)| RmaIov { addr: *addr, len: *len, key: *addr }).collect();
            Pieces { here, there: &there, done: (0, 0) }
                .map(|(part, addr, key)| {
                    assert!(key <= addr);
                    (part.len(), part.base() as usize - base as usize, addr)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(&[iov(0, 8)], &[(100, 8)]), [(8, 0, 100)]);
        assert_eq!(cut(&[iov(0, 3), iov(10, 5)], &[(100, 8)]), [(3, 0, 100), (5, 10, 103)]);
        assert_eq!(cut(&[iov(0, 8)], &[(100, 3), (200, 5)]), [(3, 0, 100), (5, 3, 200)]);
        assert_eq!(
            cut(&[iov(0, 4), iov(9, 0), iov(10, 4)], &[(100, 2), (150, 0), (200, 6)]),
            [(2, 0, 100), (2, 2, 200), (4, 10, 202)]
        );
        assert_eq!(cut(&[Iov::EMPTY], &[(100, 0)]), []);
        assert_eq!(cut(&[iov(0, 0), iov(0, 4)], &[(100, 4), (200, 0)]), [(4, 0, 100)]);
    }
}
