//! Work requests, and what their completions say.

use std::ops::Deref;

use crate::wire::QpNum;

/// Key by which this side names a memory region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lkey(pub u32);

/// Key by which peers name a memory region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rkey(pub u32);

/// A piece of registered memory of this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sge {
    /// Where it starts.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// The key of its region.
    pub lkey: Lkey,
}

/// Pieces of registered memory, in order. A single one, which most work requests have, takes no memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sges(Pieces);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pieces {
    One(Sge),
    Any(Vec<Sge>),
}

impl Deref for Sges {
    type Target = [Sge];

    fn deref(&self) -> &[Sge] {
        match &self.0 {
            Pieces::One(sge) => std::slice::from_ref(sge),
            Pieces::Any(sges) => sges,
        }
    }
}

impl Default for Sges {
    /// None.
    fn default() -> Sges {
        Vec::new().into()
    }
}

impl From<Sge> for Sges {
    fn from(sge: Sge) -> Sges {
        Sges(Pieces::One(sge))
    }
}

impl From<Vec<Sge>> for Sges {
    fn from(sges: Vec<Sge>) -> Sges {
        Sges(Pieces::Any(sges))
    }
}

impl FromIterator<Sge> for Sges {
    fn from_iter<I: IntoIterator<Item = Sge>>(sges: I) -> Sges {
        Vec::from_iter(sges).into()
    }
}

/// Memory of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Where it starts.
    pub address: u64,
    /// The key of its region.
    pub rkey: Rkey,
}

/// What a send work request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOp {
    /// A message into a receive of the peer.
    Send,
    /// A message, and 32 bits for its completion there.
    SendWithImm(u32),
    /// Into memory of the peer, who does not notice.
    RdmaWrite(Remote),
    /// Into memory of the peer, and 32 bits into a receive there.
    RdmaWriteWithImm(Remote, u32),
    /// Out of memory of the peer.
    RdmaRead(Remote),
    /// 8 bytes of the peer become `swap` if they are `compare`; what they were comes back.
    CompareSwap {
        /// Which 8 bytes; aligned.
        remote: Remote,
        /// What must be there.
        compare: u64,
        /// What is put there.
        swap: u64,
    },
    /// Adds to 8 bytes of the peer; what they were comes back.
    FetchAdd {
        /// Which 8 bytes; aligned.
        remote: Remote,
        /// What is added; wraps.
        add: u64,
    },
}

impl SendOp {
    /// True when the peer answers with data, so that an acknowledgement is not enough.
    pub(crate) const fn needs_response(&self) -> bool {
        matches!(self, SendOp::RdmaRead(_) | SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. })
    }

    /// True for atomic operations.
    pub(crate) const fn is_atomic(&self) -> bool {
        matches!(self, SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. })
    }
}

/// Bytes of a send work request: where they come from, or go to for reads and atomic operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Registered memory, which nobody changes before the completion.
    Sges(Sges),
    /// Inline: bytes that were copied when the request was made.
    Inline(Vec<u8>),
}

/// A work request for the send queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// What to do.
    pub op: SendOp,
    /// With which bytes.
    pub data: Data,
    /// A completion is wanted, not only when it fails.
    pub signaled: bool,
    /// Does not start before all reads and atomic operations ahead of it are done.
    pub fence: bool,
    /// The completion at the peer is a solicited event.
    pub solicited: bool,
}

impl SendWr {
    /// A signaled request with nothing special.
    pub const fn new(wr_id: u64, op: SendOp, data: Data) -> SendWr {
        SendWr { wr_id, op, data, signaled: true, fence: false, solicited: false }
    }
}

/// A work request for a receive queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecvWr {
    /// Comes back in the completion.
    pub wr_id: u64,
    /// Where a message goes.
    pub sges: Sges,
}

/// How a work request ended. Numbers as in verbs; those that no reliable connection of this device has are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum WcStatus {
    /// Done.
    Success = 0,
    /// A message was longer than its receive.
    LocLenErr = 1,
    /// A local key does not open the memory.
    LocProtErr = 4,
    /// The queue pair was, or came, into ERR before it was done.
    WrFlushErr = 5,
    /// The peer's answer makes no sense.
    BadRespErr = 7,
    /// The peer says that the request breaks a rule.
    RemInvReqErr = 9,
    /// The peer says that the key does not open the memory. At the peer: the receive was in use when that happened.
    RemAccessErr = 10,
    /// The peer could not do it.
    RemOpErr = 11,
    /// No answer.
    RetryExcErr = 12,
    /// The peer had no receive.
    RnrRetryExcErr = 13,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WcOpcode {
    /// A send.
    Send,
    /// A write, with immediate data or without.
    RdmaWrite,
    /// A read.
    RdmaRead,
    /// A compare and swap.
    CompSwap,
    /// A fetch and add.
    FetchAdd,
    /// A message came.
    Recv,
    /// A write with immediate data came.
    RecvRdmaWithImm,
}

/// A work completion. Unless the status is success, only `wr_id`, `status` and `qp` mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wc {
    /// Of the work request.
    pub wr_id: u64,
    /// How it ended.
    pub status: WcStatus,
    /// What was done.
    pub opcode: WcOpcode,
    /// Bytes of a message that came, or that was sent, written or read.
    pub byte_len: u32,
    /// Immediate data, where some came.
    pub imm: Option<u32>,
    /// Queue pair of this side.
    pub qp: QpNum,
}
