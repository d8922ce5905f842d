//! Who goes on with operations on memory of peers while the program does something else (`FI_PROGRESS_AUTO`): an endpoint's thread.
//!
//! Messages go on by the fabric's own progress thread. An errand has steps that follow others: pieces that there was no room for, and
//! the notice after what was written. The thread takes them while an errand is under way, and is parked else.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gridnet::core::matching::Key;

use crate::state::{Domain, State};
use crate::wait::sleep_on;

/// The longest sleep while an errand is under way: who reads a queue at the same time may keep its descriptor from telling.
const LONGEST_REST: Duration = Duration::from_millis(10);
/// The same while steps wait for room, of which no descriptor tells.
const REST_FOR_ROOM: Duration = Duration::from_millis(1);

/// The thread of an endpoint.
pub(crate) struct Helper {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Helper {
    /// Starts the thread, for this endpoint of the domain.
    ///
    /// # Errors
    /// The system's, when it has no threads left.
    pub(crate) fn start(domain: &Arc<Domain>, endpoint: Key) -> Result<Helper, i32> {
        let stop = Arc::new(AtomicBool::new(false));
        let (domain, stopped) = (domain.clone(), stop.clone());
        let mut before = std::mem::MaybeUninit::uninit();
        // SAFETY: sets of signals, written before they are read. The thread begins with all of them blocked: they are the program's.
        unsafe {
            let mut all = std::mem::MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        }
        let thread = std::thread::Builder::new()
            .name("gridnet-errands".to_owned())
            .spawn(move || go_on(&domain, endpoint, &stopped));
        // SAFETY: written above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
        let thread = thread.map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
        Ok(Helper { thread, stop })
    }

    /// An errand is under way.
    pub(crate) fn wake(&self) {
        self.thread.thread().unpark();
    }

    /// Ends the thread. Nobody may be inside the domain on this thread.
    pub(crate) fn stop(self) {
        // Nothing but the flag is handed over.
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        // A thread that has panicked has left its fabric broken, which is what the program is told.
        let _ = self.thread.join();
    }
}

fn go_on(domain: &Domain, endpoint: Key, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match look(domain, endpoint) {
            Some((descriptor, rest)) => sleep_on(descriptor, rest),
            None => std::thread::park(),
        }
    }
}

/// Takes what has come; by which descriptor, and how long, to wait for more, if an errand is under way.
fn look(domain: &Domain, endpoint: Key) -> Option<(RawFd, Duration)> {
    let mut state = domain.enter();
    let State { endpoints, vectors, reports, .. } = &mut *state;
    let endpoint = endpoints.get_mut(endpoint)?;
    if endpoint.is_idle() {
        return None;
    }
    // What is broken, calls of the program say.
    endpoint.progress(vectors, reports).ok()?;
    if endpoint.is_idle() {
        return None;
    }
    let rest = match endpoint.arm().ok()? {
        false => Duration::ZERO,
        true if endpoint.has_stalled() => REST_FOR_ROOM,
        true => LONGEST_REST,
    };
    Some((endpoint.descriptor().ok()?, rest))
}
