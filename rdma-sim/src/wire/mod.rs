//! Packets of RoCEv2, the reliable connected service (RC) only: what they mean, as bytes and back. No I/O.
//!
//! A packet is the payload of a UDP datagram to port [`PORT`]: base transport header (BTH), extended headers as the opcode
//! says, payload, padding to four bytes, and the invariant CRC (ICRC) over all that no router changes. All numbers are
//! big-endian; the ICRC alone is not.
//!
//! | file | concept |
//! |---|---|
//! | `psn.rs` | packet sequence numbers, numbers of queue pairs |
//! | `header.rs` | opcodes with their extended headers |
//! | `syndrome.rs` | what an acknowledgement says: credits, RNR timers, NAK codes |
//! | `packet.rs` | BTH, and the packet as a whole |
//! | `icrc.rs`, `identification.rs` | the invariant CRC, also where the identification of IPv4 is not known |
//!
//! The specification is volume 1 of the InfiniBand architecture with annex A17, which was not at hand: layouts and values are
//! those of the headers and tables of Linux (`drivers/infiniband/sw/rxe`, `include/rdma/ib_pack.h`), checked against packets
//! that adapters have sent.

mod header;
mod icrc;
mod identification;
mod packet;
mod psn;
mod syndrome;

pub use header::{Aeth, AtomicEth, Header, Reserved, Reth};
pub use icrc::{Flow, Ipv4Fields, ICRC_BYTES};
pub use identification::Identifications;
pub use packet::{Bth, Malformed, Packet, BTH_BYTES, DEFAULT_PKEY, MAX_HEADER_BYTES};
pub use psn::{Psn, QpNum};
pub use syndrome::{Credits, NakCode, RnrTimer, Syndrome};

/// UDP port of RoCEv2, as IANA lists it.
pub const PORT: u16 = 4791;
