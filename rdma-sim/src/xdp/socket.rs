//! A socket of AF_XDP: frames go to it and come from it without the network of the system in between.

#![expect(unsafe_code)] // Options and addresses that no crate has.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::ring::{Frames, Layout, Ring, FRAME};

/// Frames of either direction: 4 MiB for both, half of what a process may pin that has no right to more (`RLIMIT_MEMLOCK`).
const FRAMES: u32 = 512;
/// Completions that are collected when so few frames are left.
const FEW: u32 = FRAMES / 2;

/// See the file.
pub(super) struct Socket {
    file: OwnedFd,
    frames: Frames,
    fill: Ring<u64>,
    completed: Ring<u64>,
    incoming: Ring<libc::xdp_desc>,
    outgoing: Ring<libc::xdp_desc>,
    /// Frames that are with the kernel, to be sent.
    under_way: u32,
    /// The kernel was not told of the last ones.
    unsaid: bool,
    /// The last time it took none, as when the interface is down.
    refused: bool,
}

impl Socket {
    /// A socket at a queue of an interface. With `zero_copy`, only if the driver can do without copying.
    ///
    /// # Errors
    /// Those of the system: `PermissionDenied` without rights, `ResourceBusy` when the queue has one, `Unsupported` for what the
    /// driver cannot do.
    pub(super) fn open(interface: u32, queue: u32, zero_copy: bool) -> io::Result<Socket> {
        // SAFETY: plain numbers; the descriptor is new, and nobody else has it.
        let file = unsafe {
            let file = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(file)
        };
        let frames = Frames::new(2 * FRAMES as usize)?;
        let memory = libc::xdp_umem_reg {
            addr: frames.address(),
            len: frames.len() as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(&file, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)?;
        let rings =
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
        for ring in rings {
            set(&file, libc::SOL_XDP, ring, &FRAMES)?;
        }
        let offsets = offsets(&file)?;
        let layout = |page, offsets| Layout { page, offsets };
        // SAFETY: the rings were just made with so many entries, and have the places that the kernel says; each is mapped once. The
        // first two are of offsets, the others of descriptors (if_xdp.h).
        let (fill, completed, incoming, outgoing) = unsafe {
            (
                Ring::map(&file, FRAMES, &layout(libc::XDP_UMEM_PGOFF_FILL_RING, offsets.fr))?,
                Ring::map(&file, FRAMES, &layout(libc::XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr))?,
                Ring::map(&file, FRAMES, &layout(libc::XDP_PGOFF_RX_RING as u64, offsets.rx))?,
                Ring::map(&file, FRAMES, &layout(libc::XDP_PGOFF_TX_RING as u64, offsets.tx))?,
            )
        };
        poll_busily(&file);
        let mut socket = Socket {
            file,
            frames,
            fill,
            completed,
            incoming,
            outgoing,
            under_way: 0,
            unsaid: false,
            refused: false,
        };
        for _ in 0..FRAMES {
            let Some(frame) = socket.frames.take() else { break };
            socket.fill.put(frame);
        }
        socket.fill.publish();
        socket.bind(interface, queue, zero_copy)?;
        Ok(socket)
    }

    fn bind(&self, interface: u32, queue: u32, zero_copy: bool) -> io::Result<()> {
        let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: mode | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of `address`.
        let outcome = unsafe { libc::bind(self.file.as_raw_fd(), (&raw const address).cast(), len) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Takes the next frame: `read` sees it, and then it goes back to the kernel.
    pub(super) fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let Some(descriptor) = self.incoming.get() else {
            self.stir();
            return None;
        };
        let result = self.frames.bytes(descriptor.addr, descriptor.len as usize).map(|bytes| read(bytes));
        // The frames of the fill ring are as many as it has room for.
        self.fill.put(descriptor.addr - descriptor.addr % FRAME as u64);
        self.fill.publish();
        result
    }

    /// Drivers that work by themselves ask to be called when they have run out of frames.
    fn stir(&self) {
        if self.fill.wants_call() {
            let (none, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: no memory is given.
            unsafe { libc::recvfrom(self.file.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), len) };
        }
    }

    /// Whether a frame can be sent, or is lost.
    pub(super) fn has_room(&mut self) -> bool {
        self.has_frame() || self.refused
    }

    fn has_frame(&mut self) -> bool {
        if self.under_way >= FEW {
            self.collect();
        }
        self.under_way < FRAMES && self.outgoing.room() > 0
    }

    /// Sends a frame of `len` bytes, at most [`FRAME`], which `write` fills; false when there is no room. It leaves with
    /// [`flush`](Self::flush). While the kernel takes none and all frames wait, further ones are lost, as on a cable that was pulled.
    pub(super) fn send(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if !self.has_frame() {
            // The kernel is asked again, or it would never be known that it takes some.
            self.unsaid |= self.refused;
            return self.refused;
        }
        let Some(frame) = self.frames.take() else { return false };
        let Some(bytes) = self.frames.bytes(frame, len) else {
            self.frames.give(frame);
            return false;
        };
        write(bytes);
        self.outgoing.put(libc::xdp_desc { addr: frame, len: len as u32, options: 0 });
        self.outgoing.publish();
        self.under_way += 1;
        self.unsaid = true;
        true
    }

    /// Tells the kernel what is to be sent. It takes some at a time, and says when it wants to be called again.
    /// False when there is more to be said.
    pub(super) fn flush(&mut self) -> bool {
        if !self.unsaid || !self.outgoing.wants_call() {
            return true;
        }
        for _ in 0..FRAMES / 32 {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: no bytes and no address are given.
            let outcome = unsafe {
                libc::sendto(self.file.as_raw_fd(), std::ptr::null(), 0, flags, std::ptr::null(), 0)
            };
            let error = (outcome != 0).then(Errno::last);
            // There is no room behind it for now: tried again by the next call. Whatever else, as that the interface is down, may
            // last: what waits leaves after the next frame, and who misses it sends it again.
            self.unsaid = matches!(error, Some(Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS));
            self.refused = error.is_some() && !self.unsaid;
            // EAGAIN: it has sent as many as it does in one go.
            if error != Some(Errno::EAGAIN) {
                break;
            }
        }
        !self.unsaid
    }

    fn collect(&mut self) {
        while let Some(frame) = self.completed.get() {
            self.frames.give(frame);
            self.under_way -= 1;
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Lets a poll of this socket do the work of the driver, where the kernel has that: without it packets wait for an interrupt.
fn poll_busily(file: &OwnedFd) {
    const SO_PREFER_BUSY_POLL: libc::c_int = 69;
    const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
    // 20 us are asked for by the kernel's own example; where it is not to be had, packets come as those of others do.
    let _ = set(file, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32)
        .and_then(|()| set(file, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &20i32))
        .and_then(|()| set(file, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &64i32));
}

fn set<T>(file: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the option reads `len` bytes of `value`.
    let outcome =
        unsafe { libc::setsockopt(file.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Where the rings are.
fn offsets(file: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    let mut offsets = std::mem::MaybeUninit::<libc::xdp_mmap_offsets>::zeroed();
    let mut len = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: the option writes at most `len` bytes to `offsets`, which are as many as it has; it is plain numbers, for which zeros will
    // do, too.
    let (outcome, offsets) = unsafe {
        let outcome = libc::getsockopt(
            file.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut len,
        );
        (outcome, offsets.assume_init())
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<libc::xdp_mmap_offsets>() {
        // A kernel before 5.4, which has no flags in its rings.
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(offsets)
}
