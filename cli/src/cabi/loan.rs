//! Loans, as safe objects.

use super::{c, check, failed, CallError, Cq, Endpoint, Sent};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

/// The calls on loans between two processes.
pub(crate) struct Loans<'a> {
    cq: &'a Cq,
    endpoint: &'a Endpoint,
    /// Where a receive writes what it got. Never freed: the library may write it as long as the receive is under way.
    place: &'static UnsafeCell<c::gridnet_lent>,
    take: unsafe extern "C" fn(
        *mut c::gridnet_fabric,
        usize,
        *mut c::gridnet_loan,
        *mut *mut c_void,
    ) -> c::gridnet_status,
    send: unsafe extern "C" fn(
        *mut c::gridnet_endpoint,
        c::gridnet_loan,
        usize,
        u64,
        *mut c_void,
    ) -> c::gridnet_status,
    recv: unsafe extern "C" fn(
        *mut c::gridnet_cq,
        *mut c::gridnet_endpoint,
        *mut c::gridnet_lent,
        u64,
        u64,
        *mut c_void,
    ) -> c::gridnet_status,
    give_back: unsafe extern "C" fn(*mut c::gridnet_fabric, c::gridnet_loan) -> c::gridnet_status,
}

/// Memory to be written and sent.
pub(crate) struct Loan {
    handle: c::gridnet_loan,
    data: *mut u8,
    len: usize,
}

/// A message to be read and given back.
pub(crate) struct Received {
    handle: c::gridnet_loan,
    data: *const u8,
    len: usize,
}

impl<'a> Loans<'a> {
    /// Loans that go out through `endpoint` and come in by `cq`.
    pub(crate) fn new(cq: &'a Cq, endpoint: &'a Endpoint) -> Loans<'a> {
        let nothing = c::gridnet_lent { loan: 0, data: ptr::null(), len: 0 };
        Loans {
            cq,
            endpoint,
            place: Box::leak(Box::new(UnsafeCell::new(nothing))),
            take: black_box(c::gridnet_loan_take),
            send: black_box(c::gridnet_loan_send),
            recv: black_box(c::gridnet_loan_recv),
            give_back: black_box(c::gridnet_loan_give_back),
        }
    }

    /// A loan of `len` bytes; none when all are in use.
    #[inline]
    pub(crate) fn take(&self, len: usize) -> Result<Option<Loan>, CallError> {
        let (mut handle, mut data) = (0, ptr::null_mut());
        // SAFETY: the fabric is open as long as the queue, the outputs have the right types.
        let status = unsafe { (self.take)(self.cq.handle.fabric.0, len, &mut handle, &mut data) };
        match status {
            c::GRIDNET_OK => Ok(Some(Loan { handle, data: data.cast(), len })),
            c::GRIDNET_ERR_AGAIN => Ok(None),
            _ => Err(failed("gridnet_loan_take", status)),
        }
    }

    /// Sends a loan for good.
    #[inline]
    pub(crate) fn send(&self, loan: Loan, tag: u64) -> Result<Sent, CallError> {
        // SAFETY: the endpoint is open; whoever could write the memory has handed it over.
        let status = unsafe { (self.send)(self.endpoint.raw, loan.handle, loan.len, tag, ptr::null_mut()) };
        match status {
            c::GRIDNET_OK => Ok(Sent::Done),
            c::GRIDNET_IN_PROGRESS => Ok(Sent::InFlight),
            _ => Err(failed("gridnet_loan_send", status)),
        }
    }

    /// Posts a receive from anyone; one at a time, its message is had by [`Self::received`].
    #[inline]
    pub(crate) fn recv(&self, tag: u64) -> Result<(), CallError> {
        let place = self.place.get();
        // SAFETY: the queue is open; the place is never freed, and looked at between receives only.
        let status =
            unsafe { (self.recv)(self.cq.handle.raw, ptr::null_mut(), place, tag, 0, ptr::null_mut()) };
        check("gridnet_loan_recv", status)
    }

    /// The message of the receive that has completed last.
    #[inline]
    pub(crate) fn received(&self) -> Received {
        // SAFETY: the receive has completed, so that the library does not write the place.
        let lent = unsafe { self.place.get().read() };
        Received { handle: lent.loan, data: lent.data.cast(), len: lent.len }
    }

    /// Gives a message back.
    #[inline]
    pub(crate) fn give_back(&self, received: Received) -> Result<(), CallError> {
        // SAFETY: the fabric is open as long as the queue; whoever could read the memory has handed it over.
        check("gridnet_loan_give_back", unsafe { (self.give_back)(self.cq.handle.fabric.0, received.handle) })
    }
}

impl Loan {
    /// Writes `value` to its first and to its last line.
    #[inline]
    pub(crate) fn write_edges(&mut self, value: u64) {
        for at in edges(self.len).into_iter().flatten() {
            // SAFETY: `at` is inside the loan, which this process alone has; it may be unaligned.
            unsafe { ptr::write_volatile(self.data.add(at).cast::<[u8; WORD]>(), value.to_ne_bytes()) };
        }
    }
}

impl Received {
    /// Whether its first and its last line hold `value`.
    #[inline]
    pub(crate) fn has_edges(&self, value: u64) -> bool {
        edges(self.len).into_iter().flatten().all(|at| {
            // SAFETY: `at` is inside the message, which is readable until it is given back; it may be unaligned.
            let found = unsafe { ptr::read_volatile(self.data.add(at).cast::<[u8; WORD]>()) };
            u64::from_ne_bytes(found) == value
        })
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Where the words at the edges of `len` bytes are; none in what is shorter than a word.
#[inline]
fn edges(len: usize) -> [Option<usize>; 2] {
    let last = len.checked_sub(WORD);
    [last.map(|_| 0), last]
}

const WORD: usize = 8;

#[cfg(test)]
mod tests {
    use super::edges;

    #[test]
    fn edges_lie_inside() {
        assert_eq!(edges(7), [None, None]);
        assert_eq!(edges(8), [Some(0), Some(0)]);
        assert_eq!(edges(1 << 20), [Some(0), Some((1 << 20) - 8)]);
    }
}
