//! The single copy: straight from another process's memory (process_vm_readv(2)).

use gridnet_core::error::Error;
use gridnet_core::mem::Gather;

use crate::layout::Header;
use nix::errno::Errno;

/// Most pieces that one call takes.
const MAX_PIECES: usize = libc::UIO_MAXIOV as usize;

/// Copies as many bytes as `to` takes from `address` in the process `pid`, and looks, in the same address space, whether the
/// process has `header` where the header says: the answer is false when another has taken its number, or when it has
/// executed another program.
///
/// # Errors
/// [`Error::Permission`] when the system does not let this process read that one's memory, [`Error::Unsupported`] when not all
/// of the bytes are there, or they go into too many pieces. What was copied until then is arbitrary, as it is when the
/// answer is false.
pub fn read(pid: i32, header: &Header, address: u64, to: &Gather<'_>) -> Result<bool, Error> {
    let mut seen = Header::new(0, [0; 16], 0);
    let piece = |base: *mut u8, len: usize| libc::iovec { iov_base: base.cast(), iov_len: len };
    let header_len = size_of::<Header>();
    let remote =
        [piece(address as usize as *mut u8, to.len()), piece(header.address as usize as *mut u8, header_len)];
    let last = piece(std::ptr::from_mut(&mut seen).cast(), header_len);
    let mut pieces = to.pieces().map(|(base, len)| piece(base, len));
    let few;
    let many: Vec<libc::iovec>;
    let local = match (pieces.next(), pieces.next()) {
        (Some(first), None) => {
            few = [first, last];
            &few[..]
        }
        (first, second) => {
            many = first.into_iter().chain(second).chain(pieces).chain([last]).collect();
            &many
        }
    };
    if local.len() > MAX_PIECES {
        return Err(Error::Unsupported);
    }
    // SAFETY: `local` names memory that is writable by the promise of `Iov::new`, and `seen`, which any bytes may fill;
    // the other side is checked by the kernel.
    let copied =
        unsafe { libc::process_vm_readv(pid, local.as_ptr(), local.len() as _, remote.as_ptr(), 2, 0) };
    match usize::try_from(copied) {
        Ok(copied) if copied == to.len() + header_len => Ok(seen == *header),
        Err(_) if matches!(Errno::last(), Errno::EPERM | Errno::ENOSYS | Errno::EACCES) => {
            Err(Error::Permission)
        }
        _ => Err(Error::Unsupported),
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
    fn bytes_come_into_few_and_many_pieces() {
        let from: Vec<u8> = (0..200_000).map(|i| (i * 7 % 251) as u8).collect();
        for pieces in [1, 2, 8, 9, 50, 1023] {
            let mut to = vec![0u8; from.len()];
            let len = to.len().div_ceil(pieces);
            let iov: Vec<Iov> =
                // SAFETY: the chunks do not overlap, and `to` outlives the copy.
                to.chunks_mut(len).map(|c| unsafe { Iov::new(c.as_mut_ptr(), c.len()) }).collect();
            assert_eq!(read(own(), &header(), from.as_ptr() as u64, &Gather::all(&iov)), Ok(true));
            assert_eq!(to, from, "{pieces} pieces");
        }
    }

    #[test]
    fn memory_that_is_not_there_and_other_processes_are_found_out() {
        let mut to = [0u8; 100];
        // SAFETY: `to` outlives the calls.
        let iov = unsafe { Iov::new(to.as_mut_ptr(), to.len()) };
        let from = [0u8; 100];
        let all = Gather::one(&iov);
        let from_at = from.as_ptr() as u64;
        assert_eq!(read(own(), &header(), 8, &all), Err(Error::Unsupported));
        assert_eq!(read(i32::MAX, &header(), from_at, &all), Err(Error::Unsupported));
        let elsewhere = Header { address: 8, ..HEADER };
        assert_eq!(read(own(), &elsewhere, from_at, &all), Err(Error::Unsupported));
        assert_eq!(read(own(), &header(), 0, &Gather::EMPTY), Ok(true), "no bytes, but a look at the header");
        let own_header = header();
        let other = Header { incarnation: 5, ..*own_header };
        assert_eq!(read(own(), &other, from_at, &all), Ok(false), "another process");
    }
}
