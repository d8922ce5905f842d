//! A work request of the send queue as a row of packet sequence numbers.

use super::{length_of, Ident};
use crate::attr::{Access, Mtu};
use crate::mr::Regions;
use crate::wire::{AtomicEth, Header, Psn, Reth};
use crate::wr::{Data, Remote, SendOp, SendWr, Sge, WcOpcode};

/// Answers that one request to read asks for. A long read is a row of requests, so that the window holds for it, too, and the
/// loss of one answer costs no more than that of a packet. The responder sees reads that follow each other.
pub(super) const READ_CHUNK: u32 = 32;

/// A work request that was posted. Its numbers are known once it was started.
pub(super) struct Wqe {
    pub(super) wr: SendWr,
    /// Bytes of the message.
    pub(super) len: u32,
    /// Number of its first packet.
    pub(super) first: Psn,
    /// Numbers that it takes: its packets, or for reads those of the answers.
    pub(super) packets: u32,
    /// Numbers from the first on that were sent in this round; never less than `acked`.
    pub(super) sent: u32,
    /// Numbers from the first on that are done.
    pub(super) acked: u32,
}

impl Wqe {
    pub(super) fn new(wr: SendWr) -> Wqe {
        let len = length_of(&wr.data).unwrap_or(0);
        Wqe { wr, len, first: Psn::default(), packets: 0, sent: 0, acked: 0 }
    }

    pub(super) fn start(&mut self, first: Psn, mtu: Mtu) {
        self.first = first;
        self.packets = if self.wr.op.is_atomic() { 1 } else { mtu.packets(self.len) };
    }

    /// Reads and atomic operations that the peer has still to answer.
    pub(super) fn requests_under_way(&self) -> u32 {
        match self.wr.op {
            SendOp::RdmaRead(_) if self.sent > self.acked => {
                self.sent.div_ceil(READ_CHUNK) - self.acked / READ_CHUNK
            }
            _ if self.wr.op.is_atomic() => self.sent - self.acked,
            _ => 0,
        }
    }

    /// Whether the local memory is what the request needs.
    pub(super) fn reaches_memory(&self, ident: &Ident, regions: &Regions) -> bool {
        let access = if self.wr.op.needs_response() { Access::LOCAL_WRITE } else { Access::LOCAL_READ };
        match &self.wr.data {
            Data::Sges(sges) => regions.covers(ident.pd, sges, access),
            Data::Inline(_) => true,
        }
    }

    /// The local pieces; none for inline data.
    pub(super) fn sges(&self) -> &[Sge] {
        match &self.wr.data {
            Data::Sges(sges) => sges,
            Data::Inline(_) => &[],
        }
    }

    /// Numbers that the next packet takes: one, or for reads those to the end of the chunk.
    pub(super) fn next_step(&self) -> u32 {
        match self.wr.op {
            SendOp::RdmaRead(_) => {
                let end = (self.sent / READ_CHUNK + 1).saturating_mul(READ_CHUNK).min(self.packets);
                end - self.sent
            }
            _ => 1,
        }
    }

    /// True when the answer to read with this offset is the last of its request.
    pub(super) fn ends_chunk(&self, offset: u32) -> bool {
        offset + 1 == self.packets || (offset + 1).is_multiple_of(READ_CHUNK)
    }

    /// Bytes of the message before the packet with this offset, and within it.
    pub(super) fn part(&self, offset: u32, mtu: Mtu) -> (u32, u32) {
        let skip = (u64::from(offset) * u64::from(mtu.bytes())).min(u64::from(self.len)) as u32;
        (skip, (self.len - skip).min(mtu.bytes()))
    }

    /// The header of the packet that comes next.
    pub(super) fn next_header(&self, mtu: Mtu) -> Header {
        let (first, last) = (self.sent == 0, self.sent + 1 == self.packets);
        let reth = |remote: Remote| Reth { address: remote.address, rkey: remote.rkey.0, length: self.len };
        match (self.wr.op, first, last) {
            (SendOp::Send, true, true) => Header::SendOnly,
            (SendOp::SendWithImm(imm), true, true) => Header::SendOnlyImm(imm),
            (SendOp::Send | SendOp::SendWithImm(_), true, false) => Header::SendFirst,
            (SendOp::Send | SendOp::SendWithImm(_), false, false) => Header::SendMiddle,
            (SendOp::Send, false, true) => Header::SendLast,
            (SendOp::SendWithImm(imm), false, true) => Header::SendLastImm(imm),
            (SendOp::RdmaWrite(remote), true, true) => Header::WriteOnly(reth(remote)),
            (SendOp::RdmaWriteWithImm(remote, imm), true, true) => Header::WriteOnlyImm(reth(remote), imm),
            (SendOp::RdmaWrite(remote) | SendOp::RdmaWriteWithImm(remote, _), true, false) => {
                Header::WriteFirst(reth(remote))
            }
            (SendOp::RdmaWrite(_) | SendOp::RdmaWriteWithImm(..), false, false) => Header::WriteMiddle,
            (SendOp::RdmaWrite(_), false, true) => Header::WriteLast,
            (SendOp::RdmaWriteWithImm(_, imm), false, true) => Header::WriteLastImm(imm),
            (SendOp::RdmaRead(remote), ..) => {
                let (skip, _) = self.part(self.sent, mtu);
                let (end, _) = self.part(self.sent + self.next_step(), mtu);
                let address = remote.address.wrapping_add(u64::from(skip));
                Header::ReadRequest(Reth { address, rkey: remote.rkey.0, length: end - skip })
            }
            (SendOp::CompareSwap { remote, compare, swap }, ..) => Header::CompareSwap(AtomicEth {
                address: remote.address,
                rkey: remote.rkey.0,
                swap_or_add: swap,
                compare,
            }),
            (SendOp::FetchAdd { remote, add }, ..) => Header::FetchAdd(AtomicEth {
                address: remote.address,
                rkey: remote.rkey.0,
                swap_or_add: add,
                compare: 0,
            }),
        }
    }

    /// What the completion says was done.
    pub(super) fn opcode(&self) -> WcOpcode {
        match self.wr.op {
            SendOp::Send | SendOp::SendWithImm(_) => WcOpcode::Send,
            SendOp::RdmaWrite(_) | SendOp::RdmaWriteWithImm(..) => WcOpcode::RdmaWrite,
            SendOp::RdmaRead(_) => WcOpcode::RdmaRead,
            SendOp::CompareSwap { .. } => WcOpcode::CompSwap,
            SendOp::FetchAdd { .. } => WcOpcode::FetchAdd,
        }
    }
}
