//! Opcodes of the reliable connected service, each with the extended headers that it brings.

use super::syndrome::Syndrome;

/// RDMA extended transport header: which memory of the responder. 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reth {
    /// Virtual address at the responder.
    pub address: u64,
    /// Key of the memory region there.
    pub rkey: u32,
    /// Bytes of the whole operation, not of this packet.
    pub length: u32,
}

/// Extended header of atomic operations. 28 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtomicEth {
    /// Virtual address at the responder, of 8 bytes.
    pub address: u64,
    /// Key of the memory region there.
    pub rkey: u32,
    /// What is swapped in, or added.
    pub swap_or_add: u64,
    /// What must be there for a swap; without meaning when something is added.
    pub compare: u64,
}

/// Extended header of acknowledgements. 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aeth {
    /// Whether it went well.
    pub syndrome: Syndrome,
    /// Messages that the responder has finished: 24 bits, wraps.
    pub msn: u32,
}

/// An opcode of this service that nothing is defined for, or nothing that is known here (such as SEND with invalidate).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved(u8);

impl Reserved {
    /// The opcode.
    pub const fn opcode(self) -> u8 {
        self.0
    }
}

/// What a packet is: its opcode and extended headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The field's names say it.
pub enum Header {
    SendFirst,
    SendMiddle,
    SendLast,
    SendLastImm(u32),
    SendOnly,
    SendOnlyImm(u32),
    WriteFirst(Reth),
    WriteMiddle,
    WriteLast,
    WriteLastImm(u32),
    WriteOnly(Reth),
    WriteOnlyImm(Reth, u32),
    ReadRequest(Reth),
    ReadResponseFirst(Aeth),
    ReadResponseMiddle,
    ReadResponseLast(Aeth),
    ReadResponseOnly(Aeth),
    Acknowledge(Aeth),
    /// With what was in memory before.
    AtomicAcknowledge(Aeth, u64),
    CompareSwap(AtomicEth),
    FetchAdd(AtomicEth),
    /// Bytes after BTH are taken for payload.
    Reserved(Reserved),
}

/// Opcodes of other services have one of the upper three bits.
const SERVICE_MASK: u8 = 0xe0;

impl Header {
    /// The opcode, as BTH has it.
    pub const fn opcode(&self) -> u8 {
        match self {
            Header::SendFirst => 0x00,
            Header::SendMiddle => 0x01,
            Header::SendLast => 0x02,
            Header::SendLastImm(_) => 0x03,
            Header::SendOnly => 0x04,
            Header::SendOnlyImm(_) => 0x05,
            Header::WriteFirst(_) => 0x06,
            Header::WriteMiddle => 0x07,
            Header::WriteLast => 0x08,
            Header::WriteLastImm(_) => 0x09,
            Header::WriteOnly(_) => 0x0a,
            Header::WriteOnlyImm(..) => 0x0b,
            Header::ReadRequest(_) => 0x0c,
            Header::ReadResponseFirst(_) => 0x0d,
            Header::ReadResponseMiddle => 0x0e,
            Header::ReadResponseLast(_) => 0x0f,
            Header::ReadResponseOnly(_) => 0x10,
            Header::Acknowledge(_) => 0x11,
            Header::AtomicAcknowledge(..) => 0x12,
            Header::CompareSwap(_) => 0x13,
            Header::FetchAdd(_) => 0x14,
            Header::Reserved(Reserved(opcode)) => *opcode,
        }
    }

    /// True when a responder sends it.
    pub const fn is_response(&self) -> bool {
        matches!(self.opcode(), 0x0d..=0x12)
    }

    /// True when bytes of a message may follow.
    pub const fn has_payload(&self) -> bool {
        !matches!(self.opcode(), 0x0c | 0x11..=0x14)
    }

    /// Writes the extended headers.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Header::WriteFirst(reth) | Header::WriteOnly(reth) | Header::ReadRequest(reth) => reth.write(out),
            Header::WriteOnlyImm(reth, imm) => {
                reth.write(out);
                out.extend_from_slice(&imm.to_be_bytes());
            }
            Header::SendLastImm(imm) | Header::SendOnlyImm(imm) | Header::WriteLastImm(imm) => {
                out.extend_from_slice(&imm.to_be_bytes());
            }
            Header::ReadResponseFirst(aeth)
            | Header::ReadResponseLast(aeth)
            | Header::ReadResponseOnly(aeth)
            | Header::Acknowledge(aeth) => aeth.write(out),
            Header::AtomicAcknowledge(aeth, original) => {
                aeth.write(out);
                out.extend(original.to_be_bytes());
            }
            Header::CompareSwap(atomic) | Header::FetchAdd(atomic) => atomic.write(out),
            _ => {}
        }
    }

    /// Reads the extended headers that `opcode` brings, and returns what follows them; none for other services and when bytes
    /// are missing.
    pub(super) fn read(opcode: u8, bytes: &[u8]) -> Option<(Header, &[u8])> {
        if opcode & SERVICE_MASK != 0 {
            return None;
        }
        let mut rest = Rest(bytes);
        let header = match opcode {
            0x00 => Header::SendFirst,
            0x01 => Header::SendMiddle,
            0x02 => Header::SendLast,
            0x03 => Header::SendLastImm(rest.u32()?),
            0x04 => Header::SendOnly,
            0x05 => Header::SendOnlyImm(rest.u32()?),
            0x06 => Header::WriteFirst(rest.reth()?),
            0x07 => Header::WriteMiddle,
            0x08 => Header::WriteLast,
            0x09 => Header::WriteLastImm(rest.u32()?),
            0x0a => Header::WriteOnly(rest.reth()?),
            0x0b => Header::WriteOnlyImm(rest.reth()?, rest.u32()?),
            0x0c => Header::ReadRequest(rest.reth()?),
            0x0d => Header::ReadResponseFirst(rest.aeth()?),
            0x0e => Header::ReadResponseMiddle,
            0x0f => Header::ReadResponseLast(rest.aeth()?),
            0x10 => Header::ReadResponseOnly(rest.aeth()?),
            0x11 => Header::Acknowledge(rest.aeth()?),
            0x12 => Header::AtomicAcknowledge(rest.aeth()?, rest.u64()?),
            0x13 => Header::CompareSwap(rest.atomic()?),
            0x14 => Header::FetchAdd(rest.atomic()?),
            _ => Header::Reserved(Reserved(opcode)),
        };
        Some((header, rest.0))
    }
}

impl Reth {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.address.to_be_bytes());
        out.extend(self.rkey.to_be_bytes());
        out.extend(self.length.to_be_bytes());
    }
}

impl AtomicEth {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.address.to_be_bytes());
        out.extend(self.rkey.to_be_bytes());
        out.extend(self.swap_or_add.to_be_bytes());
        out.extend(self.compare.to_be_bytes());
    }
}

impl Aeth {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend((u32::from(self.syndrome.to_byte()) << 24 | self.msn & 0xff_ffff).to_be_bytes());
    }
}

/// Bytes that were not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn reth(&mut self) -> Option<Reth> {
        Some(Reth { address: self.u64()?, rkey: self.u32()?, length: self.u32()? })
    }

    fn aeth(&mut self) -> Option<Aeth> {
        let word = self.u32()?;
        Some(Aeth { syndrome: Syndrome::from_byte((word >> 24) as u8), msn: word & 0xff_ffff })
    }

    fn atomic(&mut self) -> Option<AtomicEth> {
        Some(AtomicEth {
            address: self.u64()?,
            rkey: self.u32()?,
            swap_or_add: self.u64()?,
            compare: self.u64()?,
        })
    }
}
