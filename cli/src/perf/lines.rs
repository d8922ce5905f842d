//! Lines that come over a pipe or a connection, each for a bounded time and of a bounded length.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// The receiving end.
pub(crate) struct Lines {
    from: File,
    unread: Vec<u8>,
    /// Bytes of the longest line that is taken.
    most: usize,
}

impl Lines {
    pub(crate) fn new(from: File, most: usize) -> Lines {
        Lines { from, unread: Vec::new(), most }
    }

    /// The same, which takes lines of up to `most` bytes from now on.
    pub(crate) fn up_to(self, most: usize) -> Lines {
        Lines { most, ..self }
    }

    /// The next line, without its end; `None` at the end of all. Without `timeout` it is waited for as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when it does not come in time, [`ErrorKind::InvalidData`] when it is too long.
    pub(crate) fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut seen = 0;
        loop {
            if let Some(end) = self.unread[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=seen + end).collect();
                line.pop();
                return Ok(Some(line));
            }
            seen = self.unread.len();
            if seen > self.most {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line is too long"));
            }
            if !self.is_readable(deadline)? {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut chunk = [0; 65536];
            match self.from.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(len) => self.unread.extend_from_slice(&chunk[..len]),
                // As good as its end: whoever was there has gone.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether nothing has come that was not taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.unread.is_empty()
    }

    fn is_readable(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.from, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pair(most: usize) -> (UnixStream, Lines) {
        let (write, read) = UnixStream::pair().unwrap();
        (write, Lines::new(File::from(OwnedFd::from(read)), most))
    }

    #[test]
    fn lines_come_one_by_one_however_they_are_cut() {
        let (mut write, mut lines) = pair(100);
        write.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.next(None).unwrap().as_deref(), Some(&b"one"[..]));
        assert!(!lines.is_drained());
        write.write_all(b"o\n\n").unwrap();
        assert_eq!(lines.next(None).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(lines.next(None).unwrap().as_deref(), Some(&b""[..]));
        assert!(lines.is_drained());
        write.write_all(b"half").unwrap();
        drop(write);
        assert_eq!(lines.next(None).unwrap(), None);
    }

    #[test]
    fn neither_silence_nor_endless_lines_are_borne_with() {
        let (mut write, mut lines) = pair(10);
        assert_eq!(lines.next(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::TimedOut);
        write.write_all(&[b'x'; 11]).unwrap();
        assert_eq!(lines.next(None).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
