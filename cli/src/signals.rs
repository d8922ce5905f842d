//! Signals by which others ask for an end.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::os::unix::net::UnixStream;

/// Becomes readable once a signal has come that would end this process; from now on it does not.
pub(crate) fn ending() -> io::Result<UnixStream> {
    let (signals, write) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(signals)
}
