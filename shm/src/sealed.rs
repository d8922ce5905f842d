//! Memory files whose size is fixed before a peer has them, and those of peers: no access behind a shrunk end can raise SIGBUS.

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
#[cfg(not(feature = "testing"))]
pub(crate) use memmap2::MmapRaw as PeerMap;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::unistd::{ftruncate, lseek, Whence};

#[cfg(feature = "testing")]
pub(crate) use crate::guarded::Guarded as PeerMap;

/// What a memory file of this fabric is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    /// Its name, as the system shows it.
    pub(crate) name: &'static CStr,
    /// How people call it.
    pub(crate) what: &'static str,
    /// The variable that says how large it is.
    pub(crate) variable: &'static str,
    /// Peers map it writable.
    pub(crate) shared: bool,
}

impl Sealed {
    /// Makes a file of `size` bytes, maps it and seals it; memory is taken as it is needed.
    ///
    /// # Errors
    /// [`Error::Limit`] when a limit on files or address space forbids it, [`Error::Unsupported`] when the kernel offers no
    /// sealed memfd.
    pub(crate) fn make(&self, size: usize, huge_pages: bool) -> Result<(OwnedFd, MmapRaw), Refusal> {
        let Sealed { name, what, variable, .. } = *self;
        check_file_limit(size, variable)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(name, flags).map_err(|e| failed(Error::Unsupported, "memfd_create", e))?;
        ftruncate(&file, size as i64).map_err(|e| failed(Error::Limit, &format!("sizing the {what}"), e))?;
        let map = MmapOptions::new().len(size).map_raw(&file).map_err(|e| {
            Refusal::new(Error::Limit, format!("mapping a {what} of {size} bytes: {e} ({variable})"))
        })?;
        self.seal(&file).map_err(|e| failed(Error::Unsupported, &format!("sealing the {what}"), e))?;
        if huge_pages {
            // Allowed only where the administrator says so for shared memory; without it, pages are small.
            let _ = map.advise(Advice::HugePage);
        }
        Ok((file, map))
    }

    /// Fixes the size; and of what peers only read forbids further writable mappings, where the kernel can (5.1).
    pub(crate) fn seal(&self, file: &OwnedFd) -> nix::Result<()> {
        const F_SEAL_FUTURE_WRITE: i32 = 0x10;
        let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        let read_only = size | SealFlag::from_bits_retain(F_SEAL_FUTURE_WRITE);
        let add = |seals: SealFlag| fcntl(file, FcntlArg::F_ADD_SEALS(seals)).map(drop);
        if self.shared {
            return add(size);
        }
        add(read_only).or_else(|_| add(size))
    }
}

/// Maps memory of a peer; in tests, between guards.
fn map_peer(file: &OwnedFd, len: usize, writable: bool) -> std::io::Result<PeerMap> {
    #[cfg(feature = "testing")]
    return PeerMap::map(file, len, writable);
    #[cfg(not(feature = "testing"))]
    match writable {
        true => MmapOptions::new().len(len).map_raw(file),
        false => MmapOptions::new().len(len).map_raw_read_only(file),
    }
}

/// Maps what a peer handed over as its `what`, after a look at its seals and size.
///
/// # Errors
/// [`Error::Segment`] when it is no sealed file of such a size, [`Error::Limit`] when it cannot be mapped.
pub(crate) fn map_sealed(
    file: &OwnedFd,
    what: &str,
    sizes: RangeInclusive<usize>,
    writable: bool,
) -> Result<PeerMap, Refusal> {
    let refuse = |why: &str| refused(what, why);
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| refuse("it is no memfd"))?;
    let required = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    if !SealFlag::from_bits_retain(seals).contains(required) {
        return Err(refuse("its size is not sealed"));
    }
    // A tenth of the time of fstat; nobody reads such a file by its offset.
    let size = lseek(file, 0, Whence::SeekEnd).map_err(|e| refuse(e.desc()))?;
    let size = usize::try_from(size).map_err(|_| refuse("its size is negative"))?;
    if !sizes.contains(&size) {
        return Err(refuse("it is too small or too large"));
    }
    let map = map_peer(file, size, writable)
        .map_err(|e| Refusal::new(Error::Limit, format!("mapping the peer's {what} of {size} bytes: {e}")))?;
    map.advise(Advice::DontFork).map_err(|e| Refusal::new(Error::System, format!("madvise: {e}")))?;
    Ok(map)
}

pub(crate) fn refused(what: &str, why: &str) -> Refusal {
    Refusal::new(Error::Segment, format!("the peer's {what} is refused: {why}"))
}

/// A file beyond RLIMIT_FSIZE would raise SIGXFSZ instead of an error.
fn check_file_limit(size: usize, variable: &str) -> Result<(), Refusal> {
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((limit, _)) if limit < size as u64 => Err(Refusal::new(
            Error::Limit,
            format!("the limit on file sizes (RLIMIT_FSIZE, {limit} bytes) is below {variable} ({size})"),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn failed(error: Error, what: &str, errno: nix::Error) -> Refusal {
    Refusal::new(error, format!("{what}: {}", errno.desc()))
}
