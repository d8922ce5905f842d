//! How programs sleep until a completion queue has something: a descriptor.
//!
//! The descriptor is an epoll set of those of the endpoints' fabrics, and of a bell for what is reported without them. It tells
//! what comes after [`Sleep::arm`].

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The longest sleep in one go. Peers that have died without a word are found by time, of which no descriptor tells.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Sleep {
    set: OwnedFd,
    bell: OwnedFd,
    armed: bool,
}

/// A descriptor that a call has made, or why not.
fn made(result: i32) -> Result<OwnedFd, i32> {
    if result < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

impl Sleep {
    /// # Errors
    /// The system's, when it has no descriptors left.
    pub(crate) fn new() -> Result<Sleep, i32> {
        // SAFETY: calls without memory.
        let (set, bell) = unsafe {
            (
                libc::epoll_create1(libc::EPOLL_CLOEXEC),
                libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK),
            )
        };
        let sleep = Sleep { set: made(set)?, bell: made(bell)?, armed: false };
        sleep.watch(sleep.bell.as_raw_fd())?;
        Ok(sleep)
    }

    /// The descriptor.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.set.as_raw_fd()
    }

    /// Tells of this one, too, until it is closed.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn watch(&self, file: RawFd) -> Result<(), i32> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: `event` is valid during the call.
        let result = unsafe { libc::epoll_ctl(self.set.as_raw_fd(), libc::EPOLL_CTL_ADD, file, &mut event) };
        if result == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
        }
    }

    /// From now on what is reported rings.
    pub(crate) fn arm(&mut self) {
        let mut rings = 0u64;
        // SAFETY: room for the count. An error says that nothing has rung.
        unsafe { libc::read(self.bell.as_raw_fd(), (&raw mut rings).cast(), size_of::<u64>()) };
        self.armed = true;
    }

    /// Something was reported.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if std::mem::take(&mut self.armed) {
            let one = 1u64;
            // SAFETY: the count is readable. An error says that it is full of rings.
            unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }
}

/// Sleeps until the descriptor tells something, a signal comes, or the time is over.
pub(crate) fn sleep_on(descriptor: RawFd, longest: Duration) {
    let mut file = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // Rounded up, so that the last part of a wait is not spent awake.
    let ms = longest.min(LONGEST_SLEEP).as_micros().div_ceil(1000);
    // SAFETY: one descriptor. An error is a signal: whoever sleeps looks again.
    unsafe { libc::poll(&mut file, 1, ms as i32) };
}
