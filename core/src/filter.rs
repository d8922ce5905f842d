//! The seam for filters: what transforms bytes on their way (encryption, compression).
//!
//! Sans I/O: bytes go in, bytes come out, nobody blocks. A filter that needs room or more input says so. Stacks are
//! written outermost first (`zstd/tls/tcp`), and their filters are called in that order when sending.

use crate::error::Error;

/// How far a filter got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// Bytes of the output that were written.
    pub produced: usize,
}

/// One direction-aware transformation of a byte stream.
pub trait Filter: Send {
    /// Its name in stack strings.
    fn name(&self) -> &'static str;

    /// Transforms bytes of the application towards the network. `flush`: nothing may be held back.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] or [`Error::Internal`]; the stream is over then.
    fn seal(&mut self, input: &[u8], output: &mut [u8], flush: bool) -> Result<Progress, Error>;

    /// Transforms bytes of the network towards the application.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] when the bytes are not what the other side can have sent.
    fn open(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, Error>;

    /// True while the filter has bytes of its own to send (a handshake), whatever the application does.
    fn wants_write(&self) -> bool {
        false
    }

    /// Most bytes that sealing can add to `len`.
    fn overhead(&self, len: usize) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows that the trait can be implemented and boxed, and what `Progress` means.
    struct Mask(u8);

    impl Filter for Mask {
        fn name(&self) -> &'static str {
            "mask"
        }
        fn seal(&mut self, input: &[u8], output: &mut [u8], _flush: bool) -> Result<Progress, Error> {
            let len = input.len().min(output.len());
            output.iter_mut().zip(input).for_each(|(to, from)| *to = from ^ self.0);
            Ok(Progress { consumed: len, produced: len })
        }
        fn open(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, Error> {
            self.seal(input, output, false)
        }
        fn overhead(&self, _len: usize) -> usize {
            0
        }
    }

    #[test]
    fn a_filter_reports_partial_progress_when_room_runs_out() {
        let mut filter: Box<dyn Filter> = Box::new(Mask(0x55));
        let mut sealed = [0; 3];
        let progress = filter.seal(b"hello", &mut sealed, true).unwrap();
        assert_eq!(progress, Progress { consumed: 3, produced: 3 });
        let mut opened = [0; 3];
        filter.open(&sealed, &mut opened).unwrap();
        assert_eq!(&opened, b"hel");
    }
}
