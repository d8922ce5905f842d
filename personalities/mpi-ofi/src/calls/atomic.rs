//! Atomic operations on peers' memory.

use std::ffi::c_void;

use gridnet::core::mem::Iov;
use gridnet::core::region::{Element, ElementOp, ElementType};

use crate::abi::flag::*;
use crate::abi::message::{Ioc, MsgAtomic, RmaIoc};
use crate::abi::object::{AtomicAttr, AtomicOps, FidDomain, FidEp};
use crate::abi::FiAddr;
use crate::boundary::{guarded, guarded_int};
use crate::calls::rma::{there, Call};
use crate::info::IOV_LIMIT;
use crate::object::Object;
use crate::remote::{Act, Step};
use crate::state::State;

pub(crate) static OPS: AtomicOps = AtomicOps {
    size: size_of::<AtomicOps>(),
    write,
    writev,
    writemsg,
    inject,
    readwrite,
    readwritev,
    readwritemsg,
    compwrite,
    compwritev,
    compwritemsg,
    writevalid,
    readwritevalid,
    compwritevalid,
};

/// Most elements of one operation: each of them is a message and its answer.
const MOST_ELEMENTS: usize = 16;
/// Flags of atomic operations. What is to be written goes by value: all of them inject.
const FLAGS: u64 =
    COMPLETION | INJECT | INJECT_COMPLETE | TRANSMIT_COMPLETE | DELIVERY_COMPLETE | REMOTE_CQ_DATA | MORE;

/// Which of the three tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Write,
    Fetch,
    Compare,
}

/// The type of libfabric's number.
fn type_of(number: i32) -> Option<ElementType> {
    // Of one order, from 0 and from 1; complex and longer types are not among ours.
    ElementType::from_number(u64::try_from(number).ok()? + 1)
}

/// The operation of libfabric's number, of those of this form.
fn op_of(number: i32, form: Form) -> Option<ElementOp> {
    const PLAIN: [ElementOp; 10] = [
        ElementOp::Min,
        ElementOp::Max,
        ElementOp::Sum,
        ElementOp::Product,
        ElementOp::LogicalOr,
        ElementOp::LogicalAnd,
        ElementOp::Or,
        ElementOp::And,
        ElementOp::LogicalXor,
        ElementOp::Xor,
    ];
    const COMPARING: [ElementOp; 7] = [
        ElementOp::SwapIfEqual,
        ElementOp::SwapIfUnequal,
        ElementOp::SwapIfAtMost,
        ElementOp::SwapIfBelow,
        ElementOp::SwapIfAtLeast,
        ElementOp::SwapIfAbove,
        ElementOp::SwapBits,
    ];
    let number = usize::try_from(number).ok()?;
    match (number, form) {
        (0..=9, Form::Write | Form::Fetch) => PLAIN.get(number).copied(),
        (10, Form::Fetch) => Some(ElementOp::Read),
        (11, Form::Write | Form::Fetch) => Some(ElementOp::Write),
        (12.., Form::Compare) => COMPARING.get(number - 12).copied(),
        _ => None,
    }
}

/// The operation on such elements, if there is one.
fn known(datatype: i32, op: i32, form: Form) -> Result<(ElementType, ElementOp), i32> {
    let pair = type_of(datatype).zip(op_of(op, form));
    let exists = |(kind, op): &(ElementType, ElementOp)| Element::new(*kind, *op, 0, 0).is_some();
    pair.filter(exists).ok_or(libc::EOPNOTSUPP)
}

/// Where the elements of an operation are, each list as long as the others.
#[derive(Clone, Copy)]
struct Elements<'a> {
    operands: &'a [Ioc],
    compares: &'a [Ioc],
    results: &'a [Ioc],
    there: &'a [RmaIoc],
}

/// A memory of elements in pieces, or nothing, whose elements are all 0.
struct Walk<'a> {
    pieces: &'a [Ioc],
    done: usize,
    bytes: usize,
}

impl<'a> Walk<'a> {
    fn new(pieces: &'a [Ioc], bytes: usize) -> Walk<'a> {
        Walk { pieces, done: 0, bytes }
    }

    /// The next element.
    fn next(&mut self) -> Option<*mut u8> {
        loop {
            let piece = self.pieces.first()?;
            if self.done < piece.count {
                let at = piece.addr.cast::<u8>().wrapping_add(self.done * self.bytes);
                self.done += 1;
                return Some(at);
            }
            (self.pieces, self.done) = (&self.pieces[1..], 0);
        }
    }

    /// The value of the next element.
    ///
    /// # Safety
    /// The pieces are readable.
    unsafe fn value(&mut self) -> u64 {
        let mut value = [0; 8];
        if let Some(at) = self.next() {
            // SAFETY: the caller's promise; an element has at most 8 bytes.
            unsafe { std::ptr::copy_nonoverlapping(at, value.as_mut_ptr(), self.bytes) };
        }
        // Little-endian, as all machines are that libfabric's providers of today run on.
        u64::from_le_bytes(value)
    }
}

fn count<T>(pieces: &[T], of: impl Fn(&T) -> usize) -> usize {
    pieces.iter().fold(0, |sum, piece| sum.saturating_add(of(piece)))
}

/// Starts an atomic operation.
///
/// # Safety
/// `ep` is an open endpoint; what is read is readable now, what results go to is writable until the operation ends.
unsafe fn start(
    ep: *mut FidEp,
    form: Form,
    (datatype, op): (i32, i32),
    elements: &Elements<'_>,
    call: &Call,
) -> Result<isize, i32> {
    let (kind, op) = known(datatype, op, form)?;
    let Elements { operands, compares, results, there } = *elements;
    let total = count(there, |piece| piece.count);
    let fits = |pieces: &[Ioc], is_there: bool| {
        let has_memory = pieces.iter().all(|piece| piece.count == 0 || !piece.addr.is_null());
        !is_there || has_memory && count(pieces, |piece| piece.count) == total
    };
    let is_complete = fits(operands, op != ElementOp::Read)
        && fits(compares, form == Form::Compare)
        && fits(results, form != Form::Write);
    if !is_complete || total == 0 {
        return Err(libc::EINVAL);
    }
    if total > MOST_ELEMENTS {
        return Err(libc::EMSGSIZE);
    }
    // SAFETY: the caller's promise.
    let object = unsafe { Object::<FidEp>::of(ep) }?;
    let mut state = object.domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let endpoint = endpoints.get_mut(object.key).ok_or(libc::EINVAL)?;
    let way = if form == Form::Write { WRITE } else { READ };
    let bytes = kind.bytes();
    let order = call.order(endpoint.tx.op_flags, FLAGS, ATOMIC | way, total * bytes)?;
    let no_operands = op == ElementOp::Read;
    let mut operands = Walk::new(if no_operands { &[] } else { operands }, bytes);
    let (mut compares, mut results) = (Walk::new(compares, bytes), Walk::new(results, bytes));
    let places = there.iter().flat_map(|piece| {
        (0..piece.count as u64).map(|index| (piece.addr.wrapping_add(index * bytes as u64), piece.key))
    });
    let mut steps = places.filter_map(|(addr, key)| {
        // SAFETY: the caller's promise.
        let (operand, compare) = unsafe { (operands.value(), compares.value()) };
        // SAFETY: as above.
        let result = results.next().map(|at| unsafe { Iov::new(at, bytes) });
        let element = Element::new(kind, op, operand, compare)?;
        Some(Step { act: Act::Change(element, result), addr, key })
    });
    endpoint.start_errand(vectors, reports, order, &mut steps, None).map(|()| 0)
}

/// Pieces of a program's list.
///
/// # Safety
/// `pieces` is valid for `count` entries.
unsafe fn list<'a>(pieces: *const Ioc, count: usize) -> Result<&'a [Ioc], i32> {
    if count == 0 {
        return Ok(&[]);
    }
    if pieces.is_null() || count > IOV_LIMIT {
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pieces, count) })
}

/// Operands of an operation of this number, which none are read of when it only reads.
///
/// # Safety
/// As [`list`].
unsafe fn operands_of<'a>(op: i32, pieces: *const Ioc, count: usize) -> Result<&'a [Ioc], i32> {
    match op_of(op, Form::Fetch) {
        Some(ElementOp::Read) => Ok(&[]),
        // SAFETY: the caller's promise.
        _ => unsafe { list(pieces, count) },
    }
}

fn one(addr: *const c_void, count: usize) -> [Ioc; 1] {
    [Ioc { addr: addr.cast_mut(), count }]
}

unsafe extern "C" fn write(
    ep: *mut FidEp,
    buf: *const c_void,
    count: usize,
    _desc: *mut c_void,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    let elements = Elements {
        operands: &one(buf, count),
        compares: &[],
        results: &[],
        there: &[RmaIoc { addr, count, key }],
    };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, Form::Write, (datatype, op), &elements, &Call::new(peer, context)) })
}

unsafe extern "C" fn writev(
    ep: *mut FidEp,
    iov: *const Ioc,
    _desc: *mut *mut c_void,
    iov_count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    guarded(|| {
        // SAFETY: libfabric's promise.
        let operands = unsafe { list(iov, iov_count) }?;
        let there = [RmaIoc { addr, count: count(operands, |piece| piece.count), key }];
        let elements = Elements { operands, compares: &[], results: &[], there: &there };
        // SAFETY: as above.
        unsafe { start(ep, Form::Write, (datatype, op), &elements, &Call::new(peer, context)) }
    })
}

/// The lists that a call has besides its message.
struct More {
    compares: (*const Ioc, usize),
    results: (*const Ioc, usize),
}

const NO_LIST: (*const Ioc, usize) = (std::ptr::null(), 0);

/// # Safety
/// As the program promises of `msg` and the lists.
unsafe fn start_msg(
    ep: *mut FidEp,
    form: Form,
    msg: *const MsgAtomic,
    more: &More,
    flags: u64,
) -> Result<isize, i32> {
    // SAFETY: the caller's promise.
    unsafe {
        let msg = msg.as_ref().ok_or(libc::EINVAL)?;
        let elements = Elements {
            operands: operands_of(msg.op, msg.iov, msg.iov_count)?,
            compares: list(more.compares.0, more.compares.1)?,
            results: list(more.results.0, more.results.1)?,
            there: there(msg.rma_iov, msg.rma_iov_count)?,
        };
        let data = (flags & REMOTE_CQ_DATA != 0).then_some(msg.data);
        let call = Call { flags: Some(flags), data, ..Call::new(msg.addr, msg.context) };
        start(ep, form, (msg.datatype, msg.op), &elements, &call)
    }
}

unsafe extern "C" fn writemsg(ep: *mut FidEp, msg: *const MsgAtomic, flags: u64) -> isize {
    let more = More { compares: NO_LIST, results: NO_LIST };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_msg(ep, Form::Write, msg, &more, flags) })
}

unsafe extern "C" fn inject(
    ep: *mut FidEp,
    buf: *const c_void,
    count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
) -> isize {
    let elements = Elements {
        operands: &one(buf, count),
        compares: &[],
        results: &[],
        there: &[RmaIoc { addr, count, key }],
    };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, Form::Write, (datatype, op), &elements, &Call::inject(peer)) })
}

unsafe extern "C" fn readwrite(
    ep: *mut FidEp,
    buf: *const c_void,
    count: usize,
    _desc: *mut c_void,
    result: *mut c_void,
    _result_desc: *mut c_void,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    let elements = Elements {
        operands: &one(buf, count),
        compares: &[],
        results: &one(result, count),
        there: &[RmaIoc { addr, count, key }],
    };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, Form::Fetch, (datatype, op), &elements, &Call::new(peer, context)) })
}

unsafe extern "C" fn readwritev(
    ep: *mut FidEp,
    iov: *const Ioc,
    _desc: *mut *mut c_void,
    iov_count: usize,
    result: *const Ioc,
    _result_desc: *mut *mut c_void,
    result_count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    guarded(|| {
        // SAFETY: libfabric's promise.
        let (operands, results) = unsafe { (operands_of(op, iov, iov_count)?, list(result, result_count)?) };
        let there = [RmaIoc { addr, count: count(results, |piece| piece.count), key }];
        let elements = Elements { operands, compares: &[], results, there: &there };
        // SAFETY: as above.
        unsafe { start(ep, Form::Fetch, (datatype, op), &elements, &Call::new(peer, context)) }
    })
}

unsafe extern "C" fn readwritemsg(
    ep: *mut FidEp,
    msg: *const MsgAtomic,
    result: *const Ioc,
    _result_desc: *mut *mut c_void,
    result_count: usize,
    flags: u64,
) -> isize {
    let more = More { compares: NO_LIST, results: (result, result_count) };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_msg(ep, Form::Fetch, msg, &more, flags) })
}

unsafe extern "C" fn compwrite(
    ep: *mut FidEp,
    buf: *const c_void,
    count: usize,
    _desc: *mut c_void,
    compare: *const c_void,
    _compare_desc: *mut c_void,
    result: *mut c_void,
    _result_desc: *mut c_void,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    let elements = Elements {
        operands: &one(buf, count),
        compares: &one(compare, count),
        results: &one(result, count),
        there: &[RmaIoc { addr, count, key }],
    };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start(ep, Form::Compare, (datatype, op), &elements, &Call::new(peer, context)) })
}

unsafe extern "C" fn compwritev(
    ep: *mut FidEp,
    iov: *const Ioc,
    _desc: *mut *mut c_void,
    iov_count: usize,
    compare: *const Ioc,
    _compare_desc: *mut *mut c_void,
    compare_count: usize,
    result: *const Ioc,
    _result_desc: *mut *mut c_void,
    result_count: usize,
    peer: FiAddr,
    addr: u64,
    key: u64,
    datatype: i32,
    op: i32,
    context: *mut c_void,
) -> isize {
    guarded(|| {
        // SAFETY: libfabric's promise.
        let (operands, compares) = unsafe { (list(iov, iov_count)?, list(compare, compare_count)?) };
        // SAFETY: as above.
        let results = unsafe { list(result, result_count) }?;
        let there = [RmaIoc { addr, count: count(operands, |piece| piece.count), key }];
        let elements = Elements { operands, compares, results, there: &there };
        // SAFETY: as above.
        unsafe { start(ep, Form::Compare, (datatype, op), &elements, &Call::new(peer, context)) }
    })
}

unsafe extern "C" fn compwritemsg(
    ep: *mut FidEp,
    msg: *const MsgAtomic,
    compare: *const Ioc,
    _compare_desc: *mut *mut c_void,
    compare_count: usize,
    result: *const Ioc,
    _result_desc: *mut *mut c_void,
    result_count: usize,
    flags: u64,
) -> isize {
    let more = More { compares: (compare, compare_count), results: (result, result_count) };
    // SAFETY: libfabric's promise.
    guarded(|| unsafe { start_msg(ep, Form::Compare, msg, &more, flags) })
}

/// Says how many elements an operation may have.
///
/// # Safety
/// `count_out` is NULL or valid for a write.
unsafe fn answer(form: Form, datatype: i32, op: i32, count_out: *mut usize) -> i32 {
    guarded_int(|| {
        known(datatype, op, form)?;
        if !count_out.is_null() {
            // SAFETY: the caller's promise.
            unsafe { count_out.write(MOST_ELEMENTS) };
        }
        Ok(())
    })
}

unsafe extern "C" fn writevalid(_: *mut FidEp, datatype: i32, op: i32, count_out: *mut usize) -> i32 {
    // SAFETY: libfabric's promise.
    unsafe { answer(Form::Write, datatype, op, count_out) }
}

unsafe extern "C" fn readwritevalid(_: *mut FidEp, datatype: i32, op: i32, count_out: *mut usize) -> i32 {
    // SAFETY: libfabric's promise.
    unsafe { answer(Form::Fetch, datatype, op, count_out) }
}

unsafe extern "C" fn compwritevalid(_: *mut FidEp, datatype: i32, op: i32, count_out: *mut usize) -> i32 {
    // SAFETY: libfabric's promise.
    unsafe { answer(Form::Compare, datatype, op, count_out) }
}

/// `fi_query_atomic`.
pub(crate) unsafe extern "C" fn query(
    _: *mut FidDomain,
    datatype: i32,
    op: i32,
    attr_out: *mut AtomicAttr,
    flags: u64,
) -> i32 {
    guarded_int(|| {
        let form = match flags {
            0 => Form::Write,
            FETCH_ATOMIC => Form::Fetch,
            COMPARE_ATOMIC => Form::Compare,
            _ => return Err(libc::EOPNOTSUPP),
        };
        let (kind, _) = known(datatype, op, form)?;
        // SAFETY: libfabric's promise: NULL, or valid for a write.
        if let Some(attr) = unsafe { attr_out.as_mut() } {
            *attr = AtomicAttr { count: MOST_ELEMENTS, size: kind.bytes() };
        }
        Ok(())
    })
}
