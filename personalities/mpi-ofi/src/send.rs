//! How sends start.

use gridnet::core::endpoint::{SendArgs, Sent};
use gridnet::core::error::Error;
use gridnet::core::matching::Slab;
use gridnet::core::mem::Iov;
use gridnet::core::rail::PeerId;
use gridnet::core::ring::slot::BODY_BYTES;

use crate::abi::errno;
use crate::abi::flag::*;
use crate::abi::FiAddr;
use crate::addresses::Addresses;
use crate::endpoint::{Copied, Endpoint};
use crate::info::{INJECT_SIZE, MOST_OPERATIONS};
use crate::op::{event, is_misuse, length, Kind, Op, UNTAGGED};
use crate::queue::Failure;
use crate::state::Reports;

/// What a program sends.
pub(crate) struct Order<'a> {
    pub(crate) iov: &'a [Iov],
    pub(crate) peer: FiAddr,
    /// `None` for a message without one.
    pub(crate) tag: Option<u64>,
    pub(crate) data: Option<u64>,
    pub(crate) context: usize,
    pub(crate) flags: u64,
    /// Not even asked for can its success be reported (`fi_inject`).
    pub(crate) silent: bool,
}

fn engine_tag(tag: Option<u64>) -> Result<(u64, u64), i32> {
    match tag {
        None => Ok((UNTAGGED, MSG)),
        Some(tag) if tag & UNTAGGED == 0 => Ok((tag, TAGGED)),
        Some(_) => Err(libc::EINVAL),
    }
}

impl Endpoint {
    /// Starts a send.
    ///
    /// # Errors
    /// `EAGAIN`, when nothing has happened; what is wrong with the arguments. A peer that is not there is an event, unless the
    /// operation is silent.
    pub(crate) fn send(
        &mut self,
        vectors: &Slab<Addresses>,
        reports: &mut Reports,
        order: &Order<'_>,
    ) -> Result<(), i32> {
        self.check_enabled()?;
        let (tag, kind) = engine_tag(order.tag)?;
        let inject = order.flags & INJECT != 0;
        let len = length(order.iov);
        if inject && len > INJECT_SIZE {
            return Err(libc::EMSGSIZE);
        }
        let does_report = !order.silent && self.tx.reports(order.flags);
        if !reports.has_room(&self.tx) {
            return Err(errno::EAGAIN);
        }
        let done = event(order.context, SEND | kind, len);
        let sent = self.peer(vectors, order.peer).and_then(|peer| self.give(peer, tag, order, done.flags));
        match sent {
            Ok(Sent::Done) => reports.done(&self.tx, does_report.then_some(done)),
            Ok(Sent::InProgress(_)) => {}
            Err(Error::Again) => return Err(errno::EAGAIN),
            Err(error) if order.silent || is_misuse(error) => return Err(errno::of(error)),
            Err(error) => reports.failed(&self.tx, done, Failure::of(error)),
        }
        Ok(())
    }

    /// Gives a send to the engine.
    fn give(&mut self, peer: PeerId, tag: u64, order: &Order<'_>, flags: u64) -> Result<Sent, Error> {
        let sync = order.flags & (DELIVERY_COMPLETE | MATCH_COMPLETE) != 0;
        let mut guard = self.shared.enter()?;
        if length(order.iov) <= BODY_BYTES {
            // Why did it not go the short way? Perhaps there is a new one.
            self.peers.refresh(order.peer, &mut guard);
        }
        if let ([piece], None, false) = (order.iov, order.data, sync) {
            if guard.engine.send_now(peer, *piece, tag) {
                return Ok(Sent::Done);
            }
        }
        drop(guard);
        if self.sends >= MOST_OPERATIONS {
            return Err(Error::Again);
        }
        let copied = (order.flags & INJECT != 0).then(|| self.copy(order.iov));
        let reports = !order.silent && self.tx.reports(order.flags);
        let (copy, piece) = copied.unzip();
        let iov = piece.as_ref().map_or(order.iov, std::slice::from_ref);
        let kind = Kind::Send { copy };
        self.sends += 1;
        let key = self.ops.insert(Op { context: order.context, flags, reports, number: 0, kind });
        let args = SendArgs {
            cq: self.cq,
            owner: 0,
            context: key.to_bits(),
            tag,
            immediate: order.data,
            sync,
            always_complete: false,
        };
        let sent = self.shared.enter().and_then(|mut guard| guard.engine.send_iov(peer, iov, &args));
        match (sent, self.ops.get_mut(key)) {
            (Ok(Sent::InProgress(number)), Some(op)) => {
                op.number = number;
                self.transfer.begin(length(order.iov));
            }
            _ => self.drop_op(key),
        }
        sent
    }

    /// Copies a small message, and says where to.
    pub(super) fn copy(&mut self, iov: &[Iov]) -> (Copied, Iov) {
        let mut copy = self.take_spare();
        let mut len = 0;
        for piece in iov {
            let Some(to) = copy.get_mut(len..len + piece.len()) else { break };
            // SAFETY: the program's promise for the piece; `to` is as long.
            unsafe { std::ptr::copy_nonoverlapping(piece.base(), to.as_mut_ptr(), to.len()) };
            len += piece.len();
        }
        // SAFETY: the copy stays where it is, and is not touched, until the operation ends.
        let iov = unsafe { Iov::new(copy.as_mut_ptr(), len) };
        (copy, iov)
    }
}
