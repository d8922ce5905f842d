//! Memory of other processes: `process_vm_readv(2)`, `process_vm_writev(2)`.
//!
//! The number of a process says little: the process may have ended and its number be another's, or it may have executed
//! another program. What tells is the header of the peer's segment, at the address that the header says: children do
//! not inherit that mapping, and another program does not have it. A call of the kernel stays within one address space,
//! whatever the process does meanwhile, and goes through its pieces in order. So each access has the header as its
//! first piece:
//!
//! * what comes in, comes with the header as it is there;
//! * before bytes go out, a call of its own looks at the header. The call that writes them first writes the header, as it
//!   was found, over itself: when another program was executed in between, nothing is there, and the kernel stops before
//!   the bytes.

use gridnet_core::error::Error;
use gridnet_core::kill_point;
use gridnet_core::mem::Gather;
use nix::errno::Errno;

use crate::layout::Header;

/// Most pieces that one call takes.
const MAX_PIECES: usize = libc::UIO_MAXIOV as usize;
/// Most bytes of one call: the kernel takes less than 2 GiB.
const MOST: usize = 1 << 30;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From here to there.
    Out,
    /// From there to here.
    In,
}

/// Whether a peer's memory is within reach of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not tried yet.
    Unknown,
    /// Under this number of its process.
    Process(i32),
    /// The system does not allow it, or does not say which process it is, or another program is there.
    No,
}

/// The process that has a segment, as long as it does.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    pid: i32,
    header: &'a Header,
}

impl<'a> Process<'a> {
    /// The process of this number, if it has mapped the segment of this header where the header says.
    pub fn new(pid: i32, header: &'a Header) -> Process<'a> {
        Process { pid, header }
    }

    /// Looks whether it is there.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn look(&self) -> Result<(), Error> {
        self.read(0, &Gather::EMPTY)
    }

    /// Copies as many bytes as `to` takes from its address `from`.
    ///
    /// # Errors
    /// [`Error::PeerGone`] when there is no process of this number, [`Error::NotFound`] when it is another, or runs another
    /// program; [`Error::Permission`] when the kernel, or a filter, forbids it; [`Error::Fault`] when not all of the
    /// bytes are there, [`Error::Unsupported`] when there are too many, or they go into too many pieces. What was
    /// copied until then is arbitrary.
    pub fn read(&self, from: u64, to: &Gather<'_>) -> Result<(), Error> {
        let mut seen = Header::new(0, [0; 16], 0);
        let header = piece(std::ptr::from_mut(&mut seen).cast(), size_of::<Header>());
        // SAFETY: `seen` may be filled by any bytes, `to` is writable by the promise of `Iov::new`.
        let copied = unsafe { self.transfer(Way::In, header, to, from) }?;
        if seen != *self.header {
            return Err(Error::NotFound);
        }
        complete(copied, to.len())
    }

    /// Copies all of `from` to its address `to`.
    ///
    /// # Errors
    /// As [`Self::read`]; some of the bytes may have been copied.
    ///
    /// # Safety
    /// If the number is that of this process, nobody borrows what is at `to`.
    pub unsafe fn write(&self, from: &Gather<'_>, to: u64) -> Result<(), Error> {
        self.look()?;
        kill_point!("region.looked");
        let header = piece(std::ptr::from_ref(self.header).cast_mut().cast(), size_of::<Header>());
        // SAFETY: what goes out is only read; `from` is readable by the promise of `Iov::new`. If it is this process, its
        // header is overwritten by the same bytes, and the rest is as the caller promises.
        let copied = unsafe { self.transfer(Way::Out, header, from, to) }?;
        complete(copied, from.len())
    }

    /// One call: the header, then bytes at the address `there`. How many of the latter moved.
    ///
    /// # Safety
    /// What is here is valid for as many bytes as the pieces say, for writes when they come in. If the number is that of
    /// this process, the same holds for what is there.
    unsafe fn transfer(
        &self,
        way: Way,
        header: libc::iovec,
        here: &Gather<'_>,
        there: u64,
    ) -> Result<usize, Error> {
        if here.len() > MOST {
            return Err(Error::Unsupported);
        }
        let remote = [remote_piece(self.header.address, header.iov_len), remote_piece(there, here.len())];
        let mut pieces = here.pieces().map(|(base, len)| piece(base, len));
        let few;
        let many: Vec<libc::iovec>;
        let local = match (pieces.next(), pieces.next()) {
            (None, _) => &[header][..],
            (Some(first), None) => {
                few = [header, first];
                &few[..]
            }
            (first, second) => {
                many = std::iter::once(header).chain(first).chain(second).chain(pieces).collect();
                &many
            }
        };
        if local.len() > MAX_PIECES {
            return Err(Error::Unsupported);
        }
        // SAFETY: the caller's promise.
        match unsafe { call(self.pid, way, local, &remote) } {
            Ok(moved) => moved.checked_sub(header.iov_len).ok_or(Error::NotFound),
            // Nothing moved, so not even the header is there.
            Err(Errno::EFAULT) => Err(Error::NotFound),
            Err(errno) => Err(error_of(errno)),
        }
    }
}

/// Copies `len` bytes between two places of this process, of whose number `pid` is. `there` may be gone.
///
/// # Errors
/// [`Error::Fault`] when not all of the memory is there (some bytes may have been copied), [`Error::Permission`] when the
/// kernel, or a filter, forbids it.
///
/// # Safety
/// `here` is valid for `len` bytes, for writes if they come in. Nobody borrows what is at `there`.
pub unsafe fn copy_within(pid: i32, way: Way, here: *mut u8, there: u64, len: usize) -> Result<(), Error> {
    let mut done = 0;
    while done < len {
        let part = (len - done).min(MOST);
        let local = [piece(here.wrapping_add(done), part)];
        let remote = [remote_piece(there.wrapping_add(done as u64), part)];
        // SAFETY: the caller's promise.
        match unsafe { call(pid, way, &local, &remote) }.map_err(error_of)? {
            0 => return Err(Error::Fault),
            moved => done += moved,
        }
    }
    Ok(())
}

/// # Safety
/// The pieces of `local` are valid, for writes if they are to come in; those of `remote` too, if it is this process.
unsafe fn call(pid: i32, way: Way, local: &[libc::iovec], remote: &[libc::iovec]) -> Result<usize, Errno> {
    let (here, there) = ((local.as_ptr(), local.len() as _), (remote.as_ptr(), remote.len() as _));
    // SAFETY: `local` by the caller's promise; what is in another process the kernel checks.
    let moved = unsafe {
        match way {
            Way::Out => libc::process_vm_writev(pid, here.0, here.1, there.0, there.1, 0),
            Way::In => libc::process_vm_readv(pid, here.0, here.1, there.0, there.1, 0),
        }
    };
    usize::try_from(moved).map_err(|_| Errno::last())
}

fn piece(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast(), iov_len: len }
}

fn remote_piece(address: u64, len: usize) -> libc::iovec {
    piece(address as usize as *mut u8, len)
}

fn complete(copied: usize, wanted: usize) -> Result<(), Error> {
    if copied == wanted {
        Ok(())
    } else {
        Err(Error::Fault)
    }
}

fn error_of(errno: Errno) -> Error {
    match errno {
        Errno::EFAULT => Error::Fault,
        Errno::ESRCH => Error::PeerGone,
        Errno::ENOMEM => Error::NoMemory,
        Errno::EINVAL => Error::Unsupported,
        _ => Error::Permission,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridnet_core::mem::Iov;

    const HEADER: Header =
        Header { magic: 1, size: 2, node: [3; 16], incarnation: 4, address: 5, reserved: [0; 2] };

    fn own() -> i32 {
        std::process::id() as i32
    }

    /// A header that says truly where it is.
    fn header() -> Box<Header> {
        let mut header = Box::new(HEADER);
        header.address = std::ptr::from_ref(&*header) as u64;
        header
    }

    #[test]
    fn bytes_come_into_few_and_many_pieces_and_go_out_of_them() {
        let from: Vec<u8> = (0..200_000).map(|i| (i * 7 % 251) as u8).collect();
        let header = header();
        let process = Process::new(own(), &header);
        for pieces in [1, 2, 8, 9, 50, 1023] {
            let (mut to, mut back) = (vec![0u8; from.len()], vec![0u8; from.len()]);
            let len = to.len().div_ceil(pieces);
            let iov: Vec<Iov> =
                // SAFETY: the chunks do not overlap, and `to` outlives the copies.
                to.chunks_mut(len).map(|c| unsafe { Iov::new(c.as_mut_ptr(), c.len()) }).collect();
            assert_eq!(process.read(from.as_ptr() as u64, &Gather::all(&iov)), Ok(()));
            // SAFETY: `back` is not looked at meanwhile.
            assert_eq!(unsafe { process.write(&Gather::all(&iov), back.as_mut_ptr() as u64) }, Ok(()));
            assert!(to == from && back == from, "{pieces} pieces");
        }
    }

    #[test]
    fn memory_that_is_not_there_and_other_processes_are_found_out() {
        let mut bytes = [7u8; 100];
        // SAFETY: `bytes` outlives the calls.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), bytes.len()) };
        let all = Gather::one(&iov);
        let mut there = [0u8; 100];
        let at = there.as_mut_ptr() as u64;
        let own_header = header();
        let here = Process::new(own(), &own_header);
        let nobody = Process::new(i32::MAX, &own_header);
        let elsewhere = Header { address: 8, ..HEADER };
        let other = Header { incarnation: 5, ..*own_header };
        assert_eq!(here.look(), Ok(()));
        for (process, address, error) in [
            (here, 8, Error::Fault),
            (nobody, at, Error::PeerGone),
            (Process::new(own(), &elsewhere), at, Error::NotFound),
            (Process::new(own(), &other), at, Error::NotFound),
        ] {
            assert_eq!(process.read(address, &all), Err(error));
            // SAFETY: `there` is not borrowed, and nothing is at 8.
            assert_eq!(unsafe { process.write(&all, address) }, Err(error));
        }
        assert_eq!(there, [0; 100], "bytes went to a process that is not the peer");
    }

    #[test]
    fn a_program_that_was_executed_after_the_look_gets_no_bytes() {
        let mut bytes = [7u8; 8];
        // SAFETY: `bytes` outlives the call.
        let iov = unsafe { Iov::new(bytes.as_mut_ptr(), 8) };
        let there = [0u8; 8];
        let gone = Header { address: 8, ..HEADER };
        let first = piece(std::ptr::from_ref(&gone).cast_mut().cast(), size_of::<Header>());
        // SAFETY: as in `write`; nobody borrows `there`.
        let moved = unsafe {
            Process::new(own(), &gone).transfer(Way::Out, first, &Gather::one(&iov), there.as_ptr() as u64)
        };
        assert_eq!((moved, there), (Err(Error::NotFound), [0; 8]));
    }

    #[test]
    fn copies_within_a_process_that_is_not_there_are_named() {
        let mut byte = 0u8;
        // SAFETY: a private byte.
        let error = unsafe { copy_within(i32::MAX, Way::In, &mut byte, 4096, 1) };
        assert_eq!(error, Err(Error::PeerGone));
    }
}
