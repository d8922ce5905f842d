//! The program that gives packets of RoCEv2 to the socket and all others to the system: assembled here, loaded by `bpf(2)`, attached
//! by a link that ends with its descriptor, so that it goes when the process is killed, too.
//!
//! Numbers and layouts are those of `linux/bpf.h`.

#![expect(unsafe_code)] // bpf(2), for which no crate has a wrapper.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Ethernet, IPv4 without options, UDP.
pub(super) const HEADERS: usize = 14 + 20 + 8;

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const REDIRECT_MAP: i32 = 51;
const PSEUDO_MAP: u8 = 1;
const XDP_PASS: i32 = 2;

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// After the driver, on any interface.
    Generic = 1 << 1,
    /// In the driver.
    Native = 1 << 2,
}

/// The map from queues to sockets, and the program at the interface. Both end when this is dropped.
pub(super) struct Program {
    sockets: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Program {
    /// Loads and attaches the program. Packets for `own` of at most `longest` bytes with all headers go to the socket of their queue,
    /// once there is one.
    ///
    /// # Errors
    /// Those of `bpf(2)`: `PermissionDenied` without rights, `ResourceBusy` when the interface has a program.
    pub(super) fn attach(interface: u32, own: SocketAddrV4, longest: i32, mode: Mode) -> io::Result<Program> {
        let sockets = MapCreate { map_type: MAP_TYPE_XSKMAP, key: 4, value: 4, entries: QUEUES, flags: 0 };
        let sockets = owned(BPF_MAP_CREATE, &sockets)?;
        let code = assemble(own, longest, sockets.as_raw_fd());
        let license = c"Dual MIT/Apache-2.0";
        let load = ProgLoad {
            prog_type: PROG_TYPE_XDP,
            count: code.len() as u32,
            code: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            ..ProgLoad::default()
        };
        let program = owned(BPF_PROG_LOAD, &load)?;
        let link = LinkCreate {
            program: program.as_raw_fd() as u32,
            target: interface,
            attach: ATTACH_XDP,
            flags: mode as u32,
        };
        let link = owned(BPF_LINK_CREATE, &link)?;
        Ok(Program { sockets, _program: program, _link: link })
    }

    /// From here on packets of this queue go to this socket.
    pub(super) fn give(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        if queue >= QUEUES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (key, value) = (queue, socket.as_raw_fd() as u32);
        let update = MapUpdate {
            map: self.sockets.as_raw_fd() as u32,
            _pad: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &update).map(drop)
    }
}

/// Queues that an interface may have.
const QUEUES: u32 = 256;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn owned<T>(command: i64, attr: &T) -> io::Result<OwnedFd> {
    let file = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// `attr` is one of the structures above, as the command wants it.
fn bpf<T>(command: i64, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, all of `attr`; the addresses in it are of things that live until the call
    // is over, and none of these commands writes to them.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    match outcome {
        ..0 => Err(io::Error::last_os_error()),
        file => Ok(file as RawFd),
    }
}

/// One instruction: operation, registers (source in the upper half), offset, number.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    op: u8,
    registers: u8,
    offset: i16,
    imm: i32,
}

const fn instruction(op: u8, to: u8, from: u8, offset: i16, imm: i32) -> Instruction {
    Instruction { op, registers: from << 4 | to, offset, imm }
}

/// Loads of 1, 2 and 4 bytes from memory.
const LOAD: [u8; 3] = [0x71, 0x69, 0x61];
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMM: u8 = 0xb7;
const ADD_IMM: u8 = 0x07;
const AND_IMM: u8 = 0x57;
/// Jump if greater, unsigned; if a lower half is not this number; always.
const JUMP_GREATER: u8 = 0x2d;
const JUMP_OTHER: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

fn assemble(own: SocketAddrV4, longest: i32, sockets: RawFd) -> Vec<Instruction> {
    let address = i32::from_ne_bytes(own.ip().octets());
    let port = i32::from(u16::from_ne_bytes(own.port().to_be_bytes()));
    let number = |bytes: [u8; 2]| i32::from(u16::from_ne_bytes(bytes));
    // Where in the packet, how many bytes (as an index of LOAD), which of their bits, what they must be.
    let fields = [
        (12, 1, None, number([0x08, 0x00])),
        (14, 0, None, 0x45),
        // More fragments, or a later one: has no header of UDP, or is not all.
        (20, 1, Some(number([0x3f, 0xff])), 0),
        (23, 0, None, libc::IPPROTO_UDP),
        (30, 2, None, address),
        (36, 1, None, port),
    ];
    // r2 and r3 are the ends of the packet.
    let mut code = vec![
        instruction(LOAD[2], 2, 1, DATA, 0),
        instruction(LOAD[2], 3, 1, DATA_END, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMM, 4, 0, 0, HEADERS as i32),
        // Shorter than the headers; longer than a buffer.
        instruction(JUMP_GREATER, 4, 3, TO_PASS, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMM, 4, 0, 0, longest),
        instruction(JUMP_GREATER, 3, 4, TO_PASS, 0),
    ];
    for (at, size, mask, wanted) in fields {
        code.push(instruction(LOAD[size], 5, 2, at, 0));
        code.extend(mask.map(|mask| instruction(AND_IMM, 5, 0, 0, mask)));
        code.push(instruction(JUMP_OTHER, 5, 0, TO_PASS, wanted));
    }
    code.extend([
        instruction(LOAD[2], 2, 1, RX_QUEUE, 0),
        instruction(LOAD_MAP, 1, PSEUDO_MAP, 0, sockets),
        instruction(0, 0, 0, 0, 0),
        // When the queue has no socket.
        instruction(MOVE_IMM, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(MOVE_IMM, 0, 0, 0, XDP_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    let pass = code.len() - 2;
    for (at, step) in code.iter_mut().enumerate() {
        if step.offset == TO_PASS {
            step.offset = (pass - at - 1) as i16;
        }
    }
    code
}

/// Stands for the distance to the end, which is not known yet.
const TO_PASS: i16 = i16::MAX;
