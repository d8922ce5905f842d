//! States of a queue pair, and the attributes that go with each change of state.

use std::net::SocketAddr;
use std::ops::BitOr;
use std::time::Duration;

use crate::wire::{Psn, QpNum, RnrTimer};

/// What may be done with memory, or through a queue pair. Values as in verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u32);

impl Access {
    /// Only reading, by this side: what every region allows.
    pub const LOCAL_READ: Access = Access(0);
    /// Writing, by this side: receives, and results of reads and atomic operations.
    pub const LOCAL_WRITE: Access = Access(1);
    /// RDMA WRITE by peers; takes [`LOCAL_WRITE`](Self::LOCAL_WRITE), too.
    pub const REMOTE_WRITE: Access = Access(2);
    /// RDMA READ by peers.
    pub const REMOTE_READ: Access = Access(4);
    /// Atomic operations by peers; takes [`LOCAL_WRITE`](Self::LOCAL_WRITE), too.
    pub const REMOTE_ATOMIC: Access = Access(8);

    /// Everything.
    pub const ALL: Access = Access(15);

    /// True when all of `other` is in it.
    pub const fn allows(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }

    /// Peers may write only what this side may.
    pub(crate) const fn is_legal(self) -> bool {
        self.0 & (Self::REMOTE_WRITE.0 | Self::REMOTE_ATOMIC.0) == 0 || self.allows(Self::LOCAL_WRITE)
    }
}

impl BitOr for Access {
    type Output = Access;

    fn bitor(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

/// States of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it was made: nothing can be posted.
    Reset,
    /// Receives can be posted.
    Init,
    /// Ready to receive: requests of the peer are answered.
    Rtr,
    /// Ready to send, too.
    Rts,
    /// Send queue drained: what was begun is finished, nothing else is.
    Sqd,
    /// Broken: work requests are flushed.
    Err,
}

/// A change of state, with what the new one needs. Legal are: RESET to INIT, INIT to RTR, RTR to RTS, RTS to SQD, SQD to RTS,
/// everything to RESET, everything but RESET to ERR; and INIT, RTS and SQD to themselves.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// To RESET: forgets everything, without completions.
    Reset,
    /// To INIT.
    Init(InitAttr),
    /// To RTR.
    Rtr(RtrAttr),
    /// From RTR to RTS.
    Rts(RtsAttr),
    /// From RTS to SQD; in SQD nothing happens.
    Sqd,
    /// From SQD back to RTS; in RTS nothing happens.
    Resume,
    /// To ERR: flushes.
    Err,
}

/// Attributes of INIT.
#[derive(Debug, Clone, Copy)]
pub struct InitAttr {
    /// What peers may do through this queue pair, if the memory allows it, too.
    pub access: Access,
}

/// Attributes of RTR: the peer.
#[derive(Debug, Clone, Copy)]
pub struct RtrAttr {
    /// Longest payload of a packet.
    pub path_mtu: Mtu,
    /// Address of the peer's device.
    pub remote: SocketAddr,
    /// Queue pair there.
    pub dest_qp: QpNum,
    /// First number that the peer sends with.
    pub rq_psn: Psn,
    /// Reads and atomic operations of the peer that may be under way, at most [`MAX_RD_ATOMIC`].
    pub max_dest_rd_atomic: u8,
    /// How long the peer is to wait when no receive was posted.
    pub min_rnr_timer: RnrTimer,
}

/// Attributes of RTS: how to send.
#[derive(Debug, Clone, Copy)]
pub struct RtsAttr {
    /// First number to send with.
    pub sq_psn: Psn,
    /// How long to wait for an acknowledgement.
    pub timeout: AckTimeout,
    /// How often to send again without any progress, 0 to 7.
    pub retry_cnt: u8,
    /// How often to send again when the peer has no receive, 0 to 6; 7 is for ever.
    pub rnr_retry: u8,
    /// Reads and atomic operations that may be under way, at most [`MAX_RD_ATOMIC`]; with 0 there can be none.
    pub max_rd_atomic: u8,
}

/// Most reads and atomic operations of one direction of a queue pair that can be under way.
pub const MAX_RD_ATOMIC: u8 = 16;

/// The value of `rnr_retry` that has no end.
pub const RNR_RETRY_FOREVER: u8 = 7;

/// Longest payload of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// 256 bytes.
    B256,
    /// 512 bytes.
    B512,
    /// 1024 bytes: what fits into Ethernet without jumbo frames.
    B1024,
    /// 2048 bytes.
    B2048,
    /// 4096 bytes.
    B4096,
}

impl Mtu {
    /// In bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Mtu::B256 => 256,
            Mtu::B512 => 512,
            Mtu::B1024 => 1024,
            Mtu::B2048 => 2048,
            Mtu::B4096 => 4096,
        }
    }

    /// Packets of a message of so many bytes: one when it is empty.
    pub const fn packets(self, bytes: u32) -> u32 {
        if bytes == 0 {
            1
        } else {
            bytes.div_ceil(self.bytes())
        }
    }
}

/// How long a requester waits for an acknowledgement: 4.096 us x 2^code; code 0 is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckTimeout(u8);

impl AckTimeout {
    /// The timeout with this code; only its low five bits count.
    pub const fn new(code: u8) -> AckTimeout {
        AckTimeout(code & 0x1f)
    }

    /// The time, or none for ever.
    pub const fn time(self) -> Option<Duration> {
        if self.0 == 0 {
            None
        } else {
            Some(Duration::from_nanos(4096 << self.0))
        }
    }
}
