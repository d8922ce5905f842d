//! Signals by which others ask for an end.

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// Becomes readable once a signal has come that would end this process; from now on it does not.
pub(crate) fn ending() -> io::Result<UnixStream> {
    let (signals, write) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(signals)
}

/// Tells of a child that has ended, and of signals that ask this process to end, which it outlives from now on.
pub(crate) struct Watch {
    any: UnixStream,
    /// Those that only this process was told.
    asked: UnixStream,
}

impl Watch {
    pub(crate) fn start() -> io::Result<Watch> {
        let (any, write_any) = UnixStream::pair()?;
        let (asked, write_asked) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, write_asked.try_clone()?)?;
        }
        // Behind the others: whoever hears of it finds what they have said.
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, write_any.try_clone()?)?;
        }
        asked.set_nonblocking(true)?;
        Ok(Watch { any, asked })
    }

    /// Waits for one of them; whether this process alone was asked to end.
    pub(crate) fn wait(&self) -> io::Result<bool> {
        let mut byte = [0];
        match (&self.any).read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => drop(other?),
        }
        match (&self.asked).read(&mut byte) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
