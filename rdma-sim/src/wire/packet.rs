//! A packet: base transport header, extended headers, payload, padding. The ICRC behind it is in `icrc.rs`.

use super::header::Header;
use super::psn::{Psn, QpNum};

/// Bytes of the base transport header:
///
/// ```text
///  0        opcode
///  1        solicited event (1 bit), migration request (1), bytes of padding (2), version (4) = 0
///  2..4     partition key
///  4        FECN (1), BECN (1), reserved (6)
///  5..8     queue pair of the receiver
///  8        acknowledgement is asked for (1), reserved (7)
///  9..12    packet sequence number
/// ```
pub const BTH_BYTES: usize = 12;

/// Bytes of BTH with the largest extended header.
pub const MAX_HEADER_BYTES: usize = BTH_BYTES + 28;

/// The partition key that each port has.
pub const DEFAULT_PKEY: u16 = 0xffff;

const SOLICITED: u8 = 0x80;
const MIGRATION: u8 = 0x40;
const VERSION_MASK: u8 = 0x0f;
const FECN: u8 = 0x80;
const BECN: u8 = 0x40;
const ACK_REQUEST: u8 = 0x80;

/// What BTH says besides opcode and padding, which follow from the rest of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bth {
    /// The completion at the receiver is to wake who waits for solicited events.
    pub solicited: bool,
    /// The migration state; set where there is no automatic path migration.
    pub migration: bool,
    /// Partition key.
    pub pkey: u16,
    /// Forward congestion notification.
    pub fecn: bool,
    /// Backward congestion notification.
    pub becn: bool,
    /// Queue pair of the receiver.
    pub dest_qp: QpNum,
    /// The requester asks for an acknowledgement.
    pub ack_request: bool,
    /// Packet sequence number.
    pub psn: Psn,
}

impl Bth {
    /// A header for this queue pair with this number, and nothing special.
    pub const fn new(dest_qp: QpNum, psn: Psn) -> Bth {
        Bth {
            solicited: false,
            migration: true,
            pkey: DEFAULT_PKEY,
            fecn: false,
            becn: false,
            dest_qp,
            ack_request: false,
            psn,
        }
    }
}

/// A packet of the reliable connected service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Base transport header.
    pub bth: Bth,
    /// Opcode and extended headers.
    pub header: Header,
    /// Bytes of the message, without padding. Empty where [`Header::has_payload`] says no.
    pub payload: &'a [u8],
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Headers are cut off.
    Short,
    /// BTH has a version that nobody has defined.
    Version,
    /// An opcode of a service other than RC.
    Service,
    /// Payload where there is none, padding that is longer than it, or a length that is no multiple of four.
    Length,
}

impl<'a> Packet<'a> {
    /// Appends BTH, extended headers, payload and padding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Packet::encode_head(&self.bth, &self.header, self.payload.len(), out);
        out.extend_from_slice(self.payload);
        Packet::encode_padding(self.payload.len(), out);
    }

    /// Appends BTH and extended headers of a packet whose payload has `len` bytes, for who writes these in place.
    pub fn encode_head(bth: &Bth, header: &Header, len: usize, out: &mut Vec<u8>) {
        let bit = |on: bool, mask: u8| if on { mask } else { 0 };
        let congestion = bit(bth.fecn, FECN) | bit(bth.becn, BECN);
        let [_, q2, q1, q0] = bth.dest_qp.value().to_be_bytes();
        let [_, p2, p1, p0] = bth.psn.value().to_be_bytes();
        let [k1, k0] = bth.pkey.to_be_bytes();
        let flags = bit(bth.solicited, SOLICITED) | bit(bth.migration, MIGRATION) | (padding(len) as u8) << 4;
        let ack = bit(bth.ack_request, ACK_REQUEST);
        out.extend_from_slice(&[header.opcode(), flags, k1, k0, congestion, q2, q1, q0, ack, p2, p1, p0]);
        header.write(out);
    }

    /// Appends the padding of a payload of `len` bytes, which comes right behind it.
    pub fn encode_padding(len: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 3][..padding(len)]);
    }

    /// Reads what [`encode`](Self::encode) has written. Reserved bits are not looked at.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let (bth, rest) = bytes.split_first_chunk::<BTH_BYTES>().ok_or(Malformed::Short)?;
        let [opcode, flags, pkey @ .., congestion, q2, q1, q0, ack, p2, p1, p0] = *bth;
        if flags & VERSION_MASK != 0 {
            return Err(Malformed::Version);
        }
        if !is_reliable_connected(opcode) {
            return Err(Malformed::Service);
        }
        let (header, rest) = Header::read(opcode, rest).ok_or(Malformed::Short)?;
        let padding = usize::from(flags >> 4 & 3);
        let payload = rest.len().checked_sub(padding).map(|len| &rest[..len]).ok_or(Malformed::Length)?;
        if !rest.len().is_multiple_of(4) || (!header.has_payload() && !rest.is_empty()) {
            return Err(Malformed::Length);
        }
        let bth = Bth {
            solicited: flags & SOLICITED != 0,
            migration: flags & MIGRATION != 0,
            pkey: u16::from_be_bytes(pkey),
            fecn: congestion & FECN != 0,
            becn: congestion & BECN != 0,
            dest_qp: QpNum::new(u32::from_be_bytes([0, q2, q1, q0])),
            ack_request: ack & ACK_REQUEST != 0,
            psn: Psn::new(u32::from_be_bytes([0, p2, p1, p0])),
        };
        Ok(Packet { bth, header, payload })
    }
}

/// Bytes that bring a payload of `len` bytes to a multiple of four.
const fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// Whether an opcode is one of the service RC: the upper three bits say so.
const fn is_reliable_connected(opcode: u8) -> bool {
    opcode >> 5 == 0
}
